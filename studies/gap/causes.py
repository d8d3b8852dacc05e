"""Why there is a gap: small CLIPs trained with one thing changed at a time, measured before and after.

Reads data/pictures/ and studies/gap/params.yaml (causes). Writes metrics/gap/causes.json and, for DVC to plot,
metrics/gap/plots/: seeds.csv (initialisations), temperatures.csv (fixed ones), facts.csv (how many of colour, shape,
place and size a caption names: the pictures are the same).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.backbones.small_clip import Picture
from pipeline.backbones.small_training import minimise, reproducible
from pipeline.dataset.shapes.grammar import read_facts
from pipeline.device import choose_device
from pipeline.features.encoder import Preprocess
from pipeline.params import load_params
from pipeline.scoring.gap import applied, centring, measures, unit_pairs
from pipeline.scoring.table import write_json
from stages import run
from studies.gap.coca_model import Words
from studies.gap.gap import PLOTS, SHOWN, write_csv
from studies.gap.pictures import read_pictures
from studies.gap.settings import METRICS, CausesParams, load_study

SIDE = 32  # pixels: trainings are of seconds
PREPROCESS = {"size": SIDE, "interpolation": "bicubic", "resize_mode": "shortest"}
WIDTH = 64
FACTS = 4
KEPT = (*SHOWN, "facts.R@1.i2t", "facts.R@1.t2i")


@dataclass(frozen=True)
class Shown:
    """A picture of one thing, and what can be said of it."""

    jpeg: bytes
    colour: str
    shape: str
    place: str
    size: str

    def caption(self, facts: int) -> str:
        """That many of colour, shape, place and size, in this order."""
        return " ".join((self.colour, self.shape, self.place, self.size)[:facts])


def main() -> None:
    params, options = load_params(), load_study().causes
    shown = pictures_of_one_thing([*read_pictures("train"), *read_pictures("val")])
    if len(shown) <= 2 * options.held_out:
        raise ValueError(
            f"found {len(shown)} pictures of one thing in a place, expected more than {2 * options.held_out}: "
            "this stage knows what the built-in pictures show, and no others"
        )
    device, preprocess = choose_device(params.device), Preprocess(PREPROCESS)
    pixels = torch.stack([preprocess.pixels(one.jpeg) for one in shown])
    rows: dict[str, list[dict[str, Any]]] = {"seeds": [], "temperatures": [], "facts": []}

    def trained(name: str, key: str, value: float, *, seed: int, temperature: float | None, facts: int) -> None:
        for found in train(shown, pixels, options, seed, temperature, facts, device):
            rows[name].append({key: value, **found})
            figures = (f"{label} {found[label]:.3f}" for label in KEPT)
            print(f"causes: {key} {value:<6}{found['when']:<8}{'  '.join(figures)}", flush=True)

    first = options.seeds[0]
    for seed in options.seeds:
        trained("seeds", "seed", seed, seed=seed, temperature=None, facts=FACTS)
    for facts in options.facts:
        trained("facts", "facts", facts, seed=first, temperature=None, facts=facts)
    for temperature in options.temperatures:
        trained("temperatures", "temperature", temperature, seed=first, temperature=temperature, facts=FACTS)
    for name, some in rows.items():
        write_csv(PLOTS / f"{name}.csv", some if name == "seeds" else [row for row in some if row["when"] == "after"])
    write_json(METRICS / "causes.json", rows)


def pictures_of_one_thing(pictures: Sequence[Picture]) -> list[Shown]:
    found = []
    for picture in pictures:
        facts = read_facts(picture.captions[0])
        if facts and len(facts.things) == len(facts.places) == 1:
            thing = facts.things[0]
            size = thing.look if thing.look in ("small", "large") else "medium"
            found.append(Shown(picture.jpeg, thing.colour, thing.shape, facts.places[0], size))
    return found


def train(
    shown: Sequence[Shown],
    pixels: Tensor,
    options: CausesParams,
    seed: int,
    temperature: float | None,
    facts: int,
    device: torch.device,
) -> list[dict[str, Any]]:
    """What is measured of held-out pairs before and after training a small CLIP on the others.

    pixels: of what is shown, uint8 [n, 3, SIDE, SIDE]. temperature: fixed; None: learned, from CLIP's 0.07 on.
    """
    import open_clip

    captions = [one.caption(facts) for one in shown]
    words = Words.in_texts([one.caption(FACTS) for one in shown])
    preprocess = Preprocess(PREPROCESS)
    tokens = words.tokens(captions, FACTS + 2)
    known = len(shown) - 2 * options.held_out  # then those that fit the shift, then those that are measured
    with reproducible(seed):
        model = open_clip.model.CLIP(
            embed_dim=WIDTH,
            vision_cfg={"layers": [1, 1, 1, 1], "width": 16, "head_width": 32, "image_size": SIDE},
            text_cfg={"context_length": FACTS + 2, "vocab_size": len(words), "width": WIDTH, "heads": 2, "layers": 2},
        ).to(device)
        if temperature is not None:
            model.logit_scale.requires_grad_(False).fill_(float(np.log(1 / temperature)))
        generator, objective = torch.Generator().manual_seed(seed), open_clip.ClipLoss()

        def pair(rows: Tensor) -> tuple[Tensor, Tensor]:
            images = model.encode_image(preprocess.normalised(pixels[rows].to(device)))
            return F.normalize(images, dim=-1), F.normalize(model.encode_text(tokens[rows].to(device)), dim=-1)

        def measured() -> dict[str, Any]:
            model.eval()
            with torch.inference_mode():
                some = [one.float().cpu().numpy() for one in pair(torch.arange(known, len(shown)))]
            fit, test = (
                [one[part] for one in some] for part in (slice(options.held_out), slice(options.held_out, None))
            )
            x, y = unit_pairs(test[0], test[1])
            _, kinds = np.unique(captions[known + options.held_out :], return_inverse=True)
            values, _ = measures(x, y, kinds)
            moved, _ = measures(*applied(centring(*unit_pairs(fit[0], fit[1])), x, y), kinds)
            shifted = {f"shifted.{key}": moved[key] for key in KEPT if "R@1" in key}
            scale = float(model.logit_scale.detach().exp())
            return {"temperature now": 1 / scale, **{key: values[key] for key in KEPT}, **shifted}

        before = measured()

        def loss() -> Tensor:
            images, texts = pair(torch.randint(known, (options.batch,), generator=generator))
            return objective(images, texts, model.logit_scale.clamp(max=np.log(100)).exp())

        final = minimise(model, loss, options.steps, options.learning_rate, name="clip")
        return [{"when": "before", **before}, {"when": "after", **measured(), "loss": final}]


if __name__ == "__main__":
    run(kept=None)
