"""The trained captioner as one folder that loads in one call: `python -m pipeline.export DIR`.

The folder is laid out as on the Hugging Face Hub: a model card (README.md) filled with what it was trained on, its
params and its scores, config.json, weights as safetensors, the decoder with its tokenizer, the encoder in open_clip's
format. `Predictor.from_pretrained` loads it, from a disk or from the Hub.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from ruamel.yaml import YAML

from pipeline.captioner import DECODER_FOLDER
from pipeline.params import Params, load_params
from pipeline.revision import at_revision

SCORES = {"CIDEr": "cider", "METEOR": "meteor", "ROUGE-L": "rouge", "BLEU-4": "bleu"}  # and the Hub's name for each


def export(folder: Path, variant: str | None = None) -> None:
    """Write the captioner of models/, or that of a git revision or an experiment, to an empty or new `folder`.

    Raises ValueError if there is none, or the folder has something in it.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; name a new folder, or empty that one")
    with at_revision(variant, "params.yaml", "models", "metrics/captions.json") as root:
        if not (root / "models/finetuned").is_dir():
            raise ValueError("models/finetuned is not there; make it with: dvc repro")
        shutil.copytree(root / "models/finetuned", folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
        if not (folder / DECODER_FOLDER).exists():  # it was frozen
            shutil.copytree(root / "models/decoder", folder / DECODER_FOLDER, copy_function=shutil.copyfile)
        shutil.copytree(root / "models/encoder", folder / "encoder", copy_function=shutil.copyfile)
        shutil.copyfile(root / "params.yaml", folder / "params.yaml")
        params = load_params(root / "params.yaml")
        metrics = json.loads((root / "metrics/captions.json").read_text())
    _card(folder.name, params, metrics, YAML(typ="safe").load(folder / "params.yaml")).save(folder / "README.md")


def _card(name: str, params: Params, metrics: dict[str, float], values: dict[str, Any]) -> ModelCard:
    data, memory = params.download["activitynet"], params.memory
    dataset = {"shapes": "the built-in shapes"}.get(data.source, f"{data.format} annotations ({data.source})")
    results = [
        EvalResult(
            task_type="video-text-to-text",
            dataset_type=data.source,
            dataset_name=dataset,
            dataset_split=params.caption.split,
            metric_type=kind,
            metric_name=metric,
            metric_value=metrics[metric],
        )
        for metric, kind in SCORES.items()
        if metric in metrics
    ]
    head = ModelCardData(
        model_name=name,
        tags=["video-captioning", "memory", "clip"],
        pipeline_tag="video-text-to-text",
        eval_results=results,
    )
    remembers = f"no memory; it sees a segment's {params.finetune.baseline_frame} frame"
    if memory.enabled:
        remembers = (
            f"a kNN memory (section `memory` below) in layers {', '.join(map(str, memory.layers))} of its mapper"
        )
    scored = f"{metrics['segments']} of {metrics['segments.asked']} segments of split `{params.caption.split}`"
    whole = {metric: score for metric, score in metrics.items() if "." not in metric}
    rows = "\n".join(f"| {metric} | {score:g} |" for metric, score in whole.items() if metric != "segments")
    sections = {key: values[key] for key in ("mapper", "memory", "finetune", "caption", "frames", "embed")}
    settings = "\n".join(f"- `{key}`: {json.dumps(value)}" for key, value in sections.items())
    splits = ", ".join(f"{split} {'all' if count is None else count}" for split, count in data.videos.items())
    return ModelCard(f"""---
{head.to_yaml()}
---

# {name}

Captions segments of videos. It has {remembers}.

```python
from pathlib import Path
from pipeline.predictor import Predictor

predictor = Predictor.from_pretrained("{name}")
for found in predictor.caption(Path("holiday.mp4")):
    print(found.start_s, found.end_s, found.caption)
```

## Trained on

{dataset[0].upper() + dataset[1:]}, videos: {splits}. Frames: {params.frames.fps:g} per second.

## Scores

{scored}, in percent, of the whole corpus:

| metric | score |
|---|---|
{rows}

## Settings

{settings}

`params.yaml` beside this file has all of them.
""")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.export", description="The captioner as one folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--variant", help="an experiment or a git revision; default: what is in models/")
    asked = parser.parse_args()
    try:
        export(asked.folder, asked.variant)
    except (ValueError, OSError) as error:
        sys.exit(f"export: {error}")
    print(f"export: {asked.folder}; load it with Predictor.from_pretrained({str(asked.folder)!r})")


if __name__ == "__main__":
    main()
