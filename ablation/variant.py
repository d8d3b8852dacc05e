"""Run one variant of the ablation: fine-tune, caption and evaluate as the main pipeline does, once for each seed.

Reads ablation/params.yaml, what the stages finetune, caption and evaluate read of data/activitynet/ and params.yaml,
models/pretrained/, models/decoder/ and models/encoder/. Writes to ablation/out/VARIANT/seed-N/: captions.parquet (.csv,
.json), segments.parquet (each segment's scores), metrics.json and kinds.csv (the corpus's), coverage.json, curves/ (of
the losses). Not the weights.

The seeds run side by side on one thread each. That makes better use of cores than more threads do, and figures do not
depend on how many cores there are.
"""

import io
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

from ablation.settings import OUT, load_ablation, params_of
from pipeline.cores import cores
from pipeline.params import Params


def main(variant: str) -> None:
    ablation = load_ablation()
    for name in ablation.variants:
        params_of(ablation, name, 0)  # a mistake in the last variant is told now, not when its turn comes
    runs = {seed: params_of(ablation, variant, seed) for seed in ablation.seeds}
    os.environ["OMP_NUM_THREADS"] = "1"  # the processes' numpy too, from their first import on
    # Started anew and not forked: torch's threads and CUDA do not survive a fork.
    context = multiprocessing.get_context("spawn")
    started = time.monotonic()
    with ProcessPoolExecutor(min(cores(), len(runs)), mp_context=context, initializer=end_with_parent) as pool:
        seeds = {pool.submit(run, params, OUT / variant / f"seed-{seed}"): seed for seed, params in runs.items()}
        for done in as_completed(seeds):
            said = done.result()
            print(f"{variant}, seed {seeds[done]}, after {time.monotonic() - started:.0f} s: {said}", flush=True)


def end_with_parent() -> None:
    """End this process as soon as the one that started it is gone, however that ended: nobody waits for the result."""
    parent = multiprocessing.parent_process()
    assert parent, "of a process that multiprocessing started"

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def run(params: Params, out: Path) -> str:
    """One seed's training, captions and scores; returns the closing line of `evaluate`."""
    # Here, because the process that only waits for this one needs no torch.
    import torch

    from stages.caption import caption
    from stages.evaluate import evaluate
    from stages.finetune import finetune

    torch.set_num_threads(1)
    captions = out / "captions.parquet"
    # Progress bars of several processes would overwrite one another.
    with redirect_stderr(io.StringIO()), TemporaryDirectory() as weights:
        finetune(params, Path(weights), out / "curves")
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
