"""Run one variant of the ablation: fine-tune, caption and evaluate as the main pipeline does, once for each seed.

Reads studies/ablation/params.yaml, what the stages finetune, caption and evaluate read of data/videos/ and params.yaml,
models/decoder/, models/encoder/ and of studies/ablation/models/ the seed's own mapper. Writes to
studies/ablation/out/VARIANT/seed-N/: captions.parquet (.csv, .json), segments.parquet (each segment's scores),
metrics.json and kinds.csv (the corpus's), coverage.json, cost.json (of a caption, and of the training), curves/ (of the
losses). Not the weights. Of a variant without memory also val/, the same of the validation split: the best of these is
chosen there, not on the test split.
"""

import json
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import stages
from pipeline.files.aside import write_text
from pipeline.params import Params
from studies.ablation.seeds import for_each_seed
from studies.ablation.settings import CHOICE, OUT, PRETRAINED, load_ablation, params_of

CAPTIONS = "captions.parquet"
COST = "cost.json"
TABLES = ("metrics.json", "coverage.json", "segments.parquet", "kinds.csv")  # in the order of `evaluate`


def main(variant: str) -> None:
    ablation = load_ablation()
    for name in ablation.variants:
        params_of(ablation, name, 0)  # a mistake in the last variant is reported now, not when its turn comes
    params = {seed: params_of(ablation, variant, seed) for seed in ablation.seeds_of(variant)}
    for_each_seed(variant, partial(run, variant, ablation.sparse(variant)), params)


def run(variant: str, sparse: int | None, params: Params, seed: int) -> str:
    """One seed's training, captions and scores; returns the closing line of `evaluate`.

    Args:
        sparse: of how many frames a memory may look at; None: of all.
    """
    from stages.caption import caption
    from stages.evaluate import evaluate
    from stages.finetune import finetune

    out = OUT / variant / f"seed-{seed}"
    with TemporaryDirectory() as weights:
        started = time.process_time()
        finetune(params, Path(weights), out / "curves", PRETRAINED / f"seed-{seed}", sparse)
        training_cpu_s = time.process_time() - started
        caption(params, Path(weights), out / CAPTIONS, sparse)
        costs = cost(params, Path(weights), sparse) | {"training_cpu_s": training_cpu_s}
        write_text(out / COST, json.dumps(costs) + "\n")
        if not params.memory.enabled:
            on_choice = params.on_split(CHOICE)
            caption(on_choice, Path(weights), out / CHOICE / CAPTIONS)
            evaluate(on_choice, *(out / CHOICE / name for name in (CAPTIONS, *TABLES)))
        return evaluate(params, *(out / name for name in (CAPTIONS, *TABLES)))


def cost(params: Params, weights: Path, sparse: int | None) -> dict[str, float]:
    """Of captioning some test videos (`pipeline.captioner.cost.Cost`)."""
    from pipeline.captioner.cost import costed, measure
    from stages.caption import prepare

    captioner, tokenizer, segments, examples = prepare(params, weights, sparse)
    chosen = costed(segment.video_id for segment in segments)
    some = [example for example in examples if example.targets[0].segment.video_id in chosen]
    found = asdict(measure(captioner, tokenizer, some, **params.caption.model_dump(exclude={"split", "precision"})))
    if sparse is not None:
        # Which frames are evenly spaced is known at a segment's end only: a stream has to hold the embeddings of all.
        whole = [target for example in prepare(params, weights)[3] for target in example.targets]
        frames = [target.end + 1 for target in whole if target.segment.video_id in chosen]
        found["remembered_bytes"] = 4 * captioner.config.mapper.embedding_width * sum(frames) / len(frames)
    return found


if __name__ == "__main__":
    stages.run(kept=stages.EPOCHS, takes="variant")
