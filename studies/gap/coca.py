"""Fetch a CoCa, or train a small one on the built-in pictures.

Reads studies/gap/params.yaml (coca) and data/pictures/. Writes studies/gap/models/coca, coca-random (the same with
random weights: those that the training of the built-in one began with), and studies/gap/out/steps.npz: embeddings of
held-out pairs after 0, 1, 10, 30, 100, 300, ... steps, an array [2, pairs, E] each.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.backbones.small_clip import Picture, distinct_batches, groups_of, jittered
from pipeline.backbones.small_training import minimise, reproducible
from pipeline.device import choose_device
from pipeline.files.aside import aside
from pipeline.params import load_params
from stages import run
from studies.gap.coca_model import Coca, Words, config_of, fetch_coca, random_coca, save_coca
from studies.gap.pictures import read_pictures
from studies.gap.settings import COCA, RANDOM_COCA, SEGMENTS, STEPS, CocaParams, load_study


def main() -> None:
    params, options = load_params(), load_study().coca
    if options.source == "open_clip":
        fetch_coca(COCA, options.model, options.pretrained)
        torch.manual_seed(params.seed)
        fetch_coca(RANDOM_COCA, options.model, "")
        write_steps(STEPS, {})
        print(f"coca: {options.model} {options.pretrained} fetched")
        return
    device = choose_device(params.device)
    pictures = {split: read_pictures(split) for split in ("train", "val")}
    held_out = pictures["val"][: options.held_out]
    texts = [caption for picture in pictures["train"] for caption in picture.captions]
    texts += [
        c
        for captions in pq.read_table(SEGMENTS["videos"], columns=["captions"])["captions"].to_pylist()
        for c in captions
    ]
    words = Words.in_texts(texts)
    length = 2 + max(len(words.ids(text)) for text in set(texts))
    config = config_of(**{name: getattr(options, name) for name in (
        "image_px", "patch_px", "width", "vision_layers", "text_layers", "decoder_layers", "heads", "queries",
    )}, length=length, vocabulary=len(words))  # fmt: skip
    with reproducible(params.seed):
        coca = random_coca(config, words)
        save_coca(RANDOM_COCA, config, coca)
        coca.model.to(device)
        loss, steps = train(coca, pictures["train"], held_out, options, params.seed)
    save_coca(COCA, config, coca)
    write_steps(STEPS, steps)
    last = steps[options.steps]
    found = (last[0] @ last[1].T).argmax(1) == np.arange(len(held_out))
    print(
        f"coca: trained on {len(pictures['train'])} pictures, loss {loss:.3f}, "
        f"finds the own caption of {found.mean():.0%} of {len(held_out)} held-out ones"
    )


def checkpoints(steps: int) -> list[int]:
    """0, 1, 10, 30, 100, 300, ... and the last."""
    found = [0, 1]
    while found[-1] < steps:
        found.append(10 if found[-1] == 1 else found[-1] * 3 if str(found[-1])[0] == "1" else found[-1] // 3 * 10)
    return [*(step for step in found if step < steps), steps]


def train(
    coca: Coca, pictures: Sequence[Picture], held_out: Sequence[Picture], options: CocaParams, seed: int
) -> tuple[float, dict[int, np.ndarray]]:
    """Train in place: CLIP's loss and that of writing the caption. Returns the last loss, and embeddings by step."""
    import open_clip

    pixels = torch.stack([coca.preprocess.pixels(picture.jpeg) for picture in pictures])
    generator = torch.Generator().manual_seed(seed)
    batches = distinct_batches(groups_of([picture.captions for picture in pictures]), options.batch, generator)
    objective = open_clip.CoCaLoss(caption_loss_weight=options.caption_weight, clip_loss_weight=1.0)
    counts, kept = set(checkpoints(options.steps)), {}
    done = 0

    def keep() -> None:
        coca.model.eval()
        kept[done] = embed(coca, held_out)
        coca.model.train()

    def loss() -> Tensor:
        nonlocal done
        if done in counts:
            keep()
        done += 1
        rows = next(batches)
        chosen = [pictures[row].captions for row in rows]
        texts = [c[int(torch.randint(len(c), (), generator=generator))] for c in chosen]
        images = jittered(coca.preprocess.normalised(pixels[rows].to(coca.device)), generator)
        output = coca.model(images, coca.words.tokens(texts, coca.length).to(coca.device))
        return sum(objective(**output))

    final = minimise(coca.model, loss, options.steps, options.learning_rate, name="coca")
    coca.model.eval()
    keep()
    coca.model.eval()
    return final, kept


def embed(coca: Coca, pictures: Sequence[Picture]) -> np.ndarray:
    """[2, pictures, E] of pictures and their first captions, of unit length."""
    images, _ = coca.images([picture.jpeg for picture in pictures])
    texts = coca.texts([picture.captions[0] for picture in pictures])
    return torch.stack([F.normalize(rows.float(), dim=-1).cpu() for rows in (images, texts)]).numpy()


def write_steps(path: Path, steps: dict[int, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with aside(path) as written, written.open("wb") as file:
        np.savez(file, **{str(step): array for step, array in steps.items()})


if __name__ == "__main__":
    run(kept=None)
