"""Pretrain the mapper as the main pipeline does, once for each seed of the ablation.

Reads studies/ablation/params.yaml and what the stage pretrain reads of data/pictures/, models/decoder/ and params.yaml.
Writes studies/ablation/models/seed-N/, from which the variants' trainings with that seed begin.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.params import Params, load_params
from stages import EPOCHS, run
from studies.ablation.seeds import for_each_seed
from studies.ablation.settings import PRETRAINED, load_ablation, on_one_device


def main() -> None:
    seeds = load_ablation().seeds
    for_each_seed(
        "pretrained", pretrain_seed, {seed: on_one_device(load_params(changes={"seed": seed})) for seed in seeds}
    )


def pretrain_seed(params: Params, seed: int) -> str:
    """One seed's pretraining; returns its closing line."""
    from stages.pretrain import pretrain

    with TemporaryDirectory() as curves:
        return pretrain(params, PRETRAINED / f"seed-{seed}", Path(curves) / "curves")


if __name__ == "__main__":
    run(kept=EPOCHS)
