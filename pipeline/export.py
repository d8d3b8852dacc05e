"""The trained captioner as one folder that loads in one call: `python -m pipeline.export DIR`.

The folder is laid out as on the Hugging Face Hub: a model card (README.md) with what it was trained on, its
params and its scores, config.json, weights as safetensors, the decoder with its tokenizer, the encoder in open_clip's
format. `VideoCaptioner.from_pretrained` loads it, from a disk or from the Hub.
"""

import argparse
import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from ruamel.yaml import YAML

from pipeline.baselines import LAST
from pipeline.captioner import familiarity
from pipeline.captioner.familiarity import Familiarity
from pipeline.captioner.model import DECODER_FOLDER, CaptionerConfig, load_config
from pipeline.files.aside import aside
from pipeline.files.revision import at_revision
from pipeline.params import load_prediction_params
from pipeline.process.terminal import message

SCORES = {"CIDEr": "cider", "METEOR": "meteor", "ROUGE-L": "rouge", "BLEU-4": "bleu"}  # and the Hub's name for each


def export(folder: Path, variant: str | None = None) -> None:
    """Write the captioner in models/, or that of a git revision or an experiment, to an empty or new `folder`.

    Raises ValueError if there is none, or the folder is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not an empty folder; choose a new one, or empty it")
    with aside(folder) as written, at_revision(variant, "params.yaml", "models", "metrics/captions.json") as root:
        for needed in ("models/finetuned", "models/decoder", "models/encoder", "metrics/captions.json"):
            if not (root / needed).exists():
                raise ValueError(f"{needed} does not exist; make it with: dvc repro")
        load_prediction_params(root / "params.yaml")
        config = load_config(root / "models/finetuned")
        known = familiarity.load(root / "models/finetuned", config.mapper.embedding_width)
        shutil.copytree(root / "models/finetuned", written, copy_function=shutil.copyfile)
        if not (written / DECODER_FOLDER).exists():  # it was frozen
            shutil.copytree(root / "models/decoder", written / DECODER_FOLDER, copy_function=shutil.copyfile)
        shutil.copytree(root / "models/encoder", written / "encoder", copy_function=shutil.copyfile)
        shutil.copyfile(root / "params.yaml", written / "params.yaml")
        metrics = json.loads((root / "metrics/captions.json").read_text())
        values = YAML(typ="safe").load(root / "params.yaml")
        _card(folder.name, config, known, metrics, values).save(written / "README.md")


def _card(
    name: str,
    config: CaptionerConfig,
    known: Familiarity | None,
    metrics: dict[str, float],
    values: dict[str, Any],
) -> ModelCard:
    """values: of params.yaml, from whichever revision; what it states is shown."""
    datasets, split = values.get("download", {}), values.get("caption", {}).get("split", "test")
    download = datasets.get("videos", datasets.get("activitynet", {}))  # its name in earlier revisions...
    limit = download.get("limit", download.get("videos", {}))  # ...and this one's
    source = download.get("source", "unknown")
    dataset = {"shapes": "the built-in shapes"}.get(source, f"{download.get('format')} annotations ({source})")
    results = [
        EvalResult(
            task_type="video-text-to-text",
            dataset_type=source,
            dataset_name=dataset,
            dataset_split=split,
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
    if config.memory:
        layers = ", ".join(map(str, config.memory.layers))
        remembers = f"a kNN memory (section `memory` below) in layers {layers} of its mapper"
    else:
        remembers = f"no memory; it sees {(config.baseline or LAST).about}"
    scored = f"{metrics.get('segments')} of {metrics.get('segments.asked')} segments of split `{split}`"
    whole = {metric: score for metric, score in metrics.items() if "." not in metric}
    rows = "\n".join(f"| {metric} | {score:g} |" for metric, score in whole.items() if metric != "segments")
    shown = ("mapper", "memory", "baseline", "finetune", "caption", "frames", "embed")
    sections = {key: values[key] for key in shown if key in values}
    fps = values["frames"]["fps"] / values["embed"].get("every", 1)
    settings = "\n".join(f"- `{key}`: {json.dumps(value)}" for key, value in sections.items())
    splits = ", ".join(f"{split} {'all' if count is None else count}" for split, count in limit.items())
    unlike = "It has an answer to anything, even to videos unlike those."
    if known and len(known.held_out):
        count, least, most = len(known.held_out), known.held_out[0], known.held_out[-1]
        unlike = (
            f"It was {known.trained_on}. It has an answer to anything, even to videos unlike those. So what "
            "`captioner.caption` returns says how far a video's frames are from those of the training videos "
            f"(`unlikeness.distance`; of {count} held-out videos {least:.2f} to {most:.2f}), and warns where that is "
            "further than all of them."
        )
    return ModelCard(f"""---
{head.to_yaml()}
---

# {name}

Captions segments of videos. It has {remembers}.

Install the project that trained it: `pip install .` in its folder. Then, in the folder that holds this one:

```sh
video-captions predict holiday.mp4 --model {shlex.quote(name)}
```

Or in Python:

```python
from pathlib import Path
from pipeline.serving.video_captioner import VideoCaptioner

captioner = VideoCaptioner.from_pretrained({json.dumps(name)})
for found in captioner.caption(Path("holiday.mp4")):
    print(found.start_s, found.end_s, found.caption)
```

## Trained on

{dataset[0].upper() + dataset[1:]}, videos: {splits}. Frames: {fps:g} per second.

{unlike}

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
    options = parser.parse_args()
    try:
        export(options.folder, options.variant)
    except (ValueError, OSError) as error:
        sys.exit(f"export: {message(error)}")
    exported = shlex.quote(str(options.folder))
    print(f"export: {options.folder}; try it: python -m pipeline.predict holiday.mp4 --model {exported}")


if __name__ == "__main__":
    main()
