"""Run one variant of the ablation: fine-tune, caption and evaluate as the main pipeline does, once for each seed.

Reads studies/ablation/params.yaml, what the stages finetune, caption and evaluate read of data/videos/ and params.yaml,
models/decoder/, models/encoder/ and of studies/ablation/models/ the seed's own mapper. Writes to
studies/ablation/out/VARIANT/seed-N/: captions.parquet (.csv, .json), segments.parquet (each segment's scores),
metrics.json and kinds.csv (the corpus's), coverage.json, curves/ (of the losses). Not the weights. Of a variant without
memory also val/, the same of the validation split: the best of these is chosen there, not on the test split.
"""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import stages
from pipeline.params import Params
from studies.ablation.seeds import for_each_seed
from studies.ablation.settings import CHOICE, OUT, PRETRAINED, load_ablation, params_of

CAPTIONS = "captions.parquet"
TABLES = ("metrics.json", "coverage.json", "segments.parquet", "kinds.csv")  # as `evaluate` wants them


def main(variant: str) -> None:
    ablation = load_ablation()
    for name in ablation.variants:
        params_of(ablation, name, 0)  # a mistake in the last variant is reported now, not when its turn comes
    params = {seed: params_of(ablation, variant, seed) for seed in ablation.seeds}
    for_each_seed(variant, partial(run, variant), params)


def run(variant: str, params: Params, seed: int) -> str:
    """One seed's training, captions and scores; returns the closing line of `evaluate`."""
    from stages.caption import caption
    from stages.evaluate import evaluate
    from stages.finetune import finetune

    out = OUT / variant / f"seed-{seed}"
    with TemporaryDirectory() as weights:
        finetune(params, Path(weights), out / "curves", PRETRAINED / f"seed-{seed}")
        caption(params, Path(weights), out / CAPTIONS)
        if not params.memory.enabled:
            on_choice = params.on_split(CHOICE)
            caption(on_choice, Path(weights), out / CHOICE / CAPTIONS)
            evaluate(on_choice, *(out / CHOICE / name for name in (CAPTIONS, *TABLES)))
        return evaluate(params, *(out / name for name in (CAPTIONS, *TABLES)))


if __name__ == "__main__":
    stages.run(kept=stages.EPOCHS, takes="variant")
