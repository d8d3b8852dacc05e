"""The same work once for each seed, side by side.

One thread each: that makes better use of cores than more threads do, and figures do not depend on how many cores there
are. A process each, started anew and not forked: torch's threads and CUDA do not survive a fork.
"""

import io
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr
from multiprocessing.connection import wait
from threading import Thread

from pipeline.params import Params
from pipeline.process.cores import cores

# Of a seed, with the params as it has them; returns what to say when it is done. A function of a module, or a partial.
Work = Callable[[Params, int], str]


def for_each_seed(name: str, work: Work, params: Mapping[int, Params]) -> None:
    """`work(params[seed], seed)` for every seed, printing what each returns as it ends."""
    os.environ["OMP_NUM_THREADS"] = "1"  # the processes' numpy too, from their first import on
    context = multiprocessing.get_context("spawn")
    started = time.monotonic()
    with ProcessPoolExecutor(min(cores(), len(params)), mp_context=context, initializer=end_with_parent) as pool:
        seeds = {pool.submit(alone, work, own, seed): seed for seed, own in params.items()}
        for done in as_completed(seeds):
            after_s = time.monotonic() - started
            print(f"{name}, seed {seeds[done]}, after {after_s:.0f} s: {done.result()}", flush=True)


def alone(work: Work, params: Params, seed: int) -> str:
    # Here, because the process that only waits for this one needs no torch.
    import torch

    torch.set_num_threads(1)
    with redirect_stderr(io.StringIO()):  # progress bars of several processes would overwrite one another
        return work(params, seed)


def end_with_parent() -> None:
    """End this process as soon as the one that started it is gone, however that ended: nobody waits for the result."""
    parent = multiprocessing.parent_process()
    assert parent, "of a process that multiprocessing started"

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    Thread(target=watch, daemon=True).start()
