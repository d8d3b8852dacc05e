"""Captions of pictures by the study's CoCa beside open_clip's own `generate`: `python -m bench.describe`.

    python -m bench.describe --open-clip /path/to/python     # of an environment with open_clip_torch and transformers 4

The same weights, the same pictures, the same number of beams: one picture at a time, and all as one batch. CPU seconds
on one thread, from pixels to words. open_clip 3.3's `generate` does not run beside transformers 5 (nor 4.5x), so it has
an environment of its own; without one only this project's figures are printed. The CoCa is the one that --model names,
or studies/gap/models/coca (make gap) or, where there is none, a small one of random weights.
"""

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.table import show
from pipeline.params import load_params
from studies.gap.coca_model import Coca, Words, config_of, fetch_coca, load_coca, random_coca, save_coca
from studies.gap.pictures import read_pictures
from studies.gap.settings import COCA, load_study

THEIRS = """
import json, sys, time
import numpy as np, open_clip, torch
torch.set_num_threads(1)
folder, pixels, options, out = sys.argv[1:]
options = json.loads(options)
model = open_clip.create_model("local-dir:" + folder, precision="fp32").eval()
pixels = torch.from_numpy(np.load(pixels))

def generate(some):
    with torch.no_grad():
        return model.generate(some, generation_type="beam_search", **options).tolist()

def timed(run):
    began = time.process_time()
    found = run()
    return found, time.process_time() - began

class LogProbabilities:  # are what a beam adds up by the rule; `generate` adds logits, and may write the padding
    def __call__(self, ids, logits, **_):
        logits[:, 0] = -torch.inf
        return logits.float().log_softmax(-1)

class WithoutStart(open_clip.coca_model.BeamSearchScorer):  # the start token is no part of a caption's length
    def process(self, *given, **named):
        return super().process(*given, **named, decoder_prompt_len=1)

    def finalize(self, *given, **named):
        return super().finalize(*given, **named, decoder_prompt_len=1)

generate(pixels[:1])
one, one_s = timed(lambda: [row for i in range(len(pixels)) for row in generate(pixels[i : i + 1])])
all_, all_s = timed(lambda: generate(pixels))
open_clip.coca_model.BeamSearchScorer = WithoutStart
open_clip.coca_model.LogitsProcessorList = lambda processors: LogProbabilities()
corrected = generate(pixels)
with open(out, "w") as file:
    json.dump({"one_s": one_s, "all_s": all_s, "one": one, "all": all_, "corrected": corrected}, file)
"""


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    study = load_study()
    with tempfile.TemporaryDirectory() as temporary:
        folder, pixels = captioner(options.model, Path(temporary), options.pictures)
        coca = load_coca(folder, device=torch.device("cpu"))
        search: dict[str, Any] = {
            "beams": options.beams,
            "max_tokens": study.describe.max_tokens,
            "length_penalty": 1.0,
        }
        ours = measured(coca, pixels, search)
        theirs = (
            of_open_clip(options.open_clip, folder, pixels, coca, search, Path(temporary)) if options.open_clip else {}
        )
    rows = []
    for what, name in (("one", "one at a time"), ("all", "as one batch")):
        own = 1000 * ours[f"{what}_s"] / len(pixels)
        row: dict[str, Any] = {"pictures": name, "ms": round(own, 2)}
        if theirs:
            other = 1000 * theirs[f"{what}_s"] / len(pixels)
            same = np.mean([a == b for a, b in zip(ours[what], theirs[what], strict=True)])
            row |= {"open_clip, ms": round(other, 2), "times as fast": round(other / own, 2)}
            row["same captions"] = round(float(same), 3)
            same = np.mean([a == b for a, b in zip(ours[what], theirs["corrected"], strict=True)])
            row["same by its corrected rule"] = round(float(same), 3)
        rows.append(row)
    show(rows)
    print(json.dumps({"count": len(pixels), "beams": options.beams, "rows": rows}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.describe", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--open-clip", metavar="PYTHON", help="of an environment with open_clip_torch and transformers 4"
    )
    parser.add_argument("--model", metavar="NAME", help="a CoCa of open_clip, with random weights: coca_ViT-B-32")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--beams", type=int, default=3)
    return parser.parse_args()


def captioner(name: str | None, temporary: Path, count: int) -> tuple[Path, Tensor]:
    """The folder of a CoCa, and inputs of its picture tower [count, 3, side, side]."""
    if name:
        torch.manual_seed(load_params().seed)
        fetch_coca(temporary / "coca", name, "")
        size = load_coca(temporary / "coca", device=torch.device("cpu")).model.visual.image_size
        return temporary / "coca", torch.randn(count, 3, *(size if isinstance(size, tuple) else (size, size)))
    if COCA.is_dir():
        coca = load_coca(COCA, device=torch.device("cpu"))
        jpegs = [picture.jpeg for picture in read_pictures("val")[:count]]
        pixels = torch.stack([coca.preprocess.pixels(jpeg) for jpeg in jpegs])
        return COCA, coca.preprocess.normalised(pixels)
    torch.manual_seed(load_params().seed)
    own = load_study().coca
    words = Words.in_texts(["a small red star rests on the left of the stage", "two stands hold a blue ring"])
    sizes = own.model_dump(
        include={"image_px", "patch_px", "width", "vision_layers", "text_layers", "decoder_layers", "heads", "queries"}
    )
    config = config_of(**sizes, length=30, vocabulary=len(words))
    save_coca(temporary / "coca", config, random_coca(config, words))
    return temporary / "coca", torch.randn(count, 3, own.image_px, own.image_px)


def measured(coca: Coca, pixels: Tensor, search: dict[str, Any]) -> dict[str, Any]:
    def caption(some: Tensor) -> list[str]:
        with torch.inference_mode():
            _, tokens = coca.model._encode_image(some, normalize=False)
            return [one.text for one in coca.captions(tokens, **search)]

    caption(pixels[:1])
    one, one_s = timed(lambda: [text for row in pixels for text in caption(row[None])])
    every, all_s = timed(lambda: caption(pixels))
    return {"one": one, "one_s": one_s, "all": every, "all_s": all_s}


def timed(run: Callable[[], list[str]]) -> tuple[list[str], float]:
    began = time.process_time()
    found = run()
    return found, time.process_time() - began


def of_open_clip(
    python: str, folder: Path, pixels: Tensor, coca: Coca, search: dict[str, Any], temporary: Path
) -> dict[str, Any]:
    """What its `generate` finds and takes; one group of beams, as ours are, and no least length."""
    np.save(temporary / "pixels.npy", pixels.numpy())
    options = {
        "num_beams": search["beams"],
        "num_beam_groups": 1,
        "seq_len": search["max_tokens"] + 1,
        "min_seq_len": 1,
        "sot_token_id": coca.words.start,
        "eos_token_id": coca.words.end,
        "pad_token_id": 0,
    }
    files = [str(folder.resolve()), str(temporary / "pixels.npy"), json.dumps(options), str(temporary / "theirs.json")]
    subprocess.run([python, "-c", THEIRS, *files], check=True)
    found = json.loads((temporary / "theirs.json").read_text())
    for what in ("one", "all", "corrected"):
        found[what] = [coca.words.text(row[1 : [*row, coca.words.end].index(coca.words.end)]) for row in found[what]]
    return found


if __name__ == "__main__":
    main()
