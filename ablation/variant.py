"""Run one variant of the ablation: fine-tune, caption and evaluate as the main pipeline does, once for each seed.

Reads ablation/params.yaml, what the stages finetune, caption and evaluate read of data/activitynet/ and params.yaml,
models/decoder/, models/encoder/ and of ablation/models/ the seed's own mapper. Writes to ablation/out/VARIANT/seed-N/:
captions.parquet (.csv, .json), segments.parquet (each segment's scores), metrics.json and kinds.csv (the corpus's),
coverage.json, curves/ (of the losses). Not the weights.
"""

import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from ablation.seeds import for_each_seed
from ablation.settings import OUT, PRETRAINED, load_ablation, params_of
from pipeline.params import Params


def main(variant: str) -> None:
    ablation = load_ablation()
    for name in ablation.variants:
        params_of(ablation, name, 0)  # a mistake in the last variant is told now, not when its turn comes
    params = {seed: params_of(ablation, variant, seed) for seed in ablation.seeds}
    for_each_seed(variant, partial(run, variant), params)


def run(variant: str, params: Params, seed: int) -> str:
    """One seed's training, captions and scores; returns the closing line of `evaluate`."""
    from stages.caption import caption
    from stages.evaluate import evaluate
    from stages.finetune import finetune

    out = OUT / variant / f"seed-{seed}"
    captions = out / "captions.parquet"
    with TemporaryDirectory() as weights:
        finetune(params, Path(weights), out / "curves", PRETRAINED / f"seed-{seed}")
        caption(params, Path(weights), captions)
        tables = (out / name for name in ("metrics.json", "coverage.json", "segments.parquet", "kinds.csv"))
        return evaluate(params, captions, *tables)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m ablation.variant NAME")
    try:
        main(sys.argv[1])
    except (ValueError, OSError) as error:
        sys.exit(f"{sys.argv[1]}: {error}")
