"""One module per DVC stage: `python -m stages.NAME`. A stage owns its paths; how things are done is in pipeline/."""

import multiprocessing
import sys
from importlib import import_module

from pipeline.process.command import end_at_once_when_stopped, guarded, leave_ctrl_c_to_the_parent, parser

DATASETS = ("pictures", "videos")
EPOCHS = "all complete epochs so far"  # what a stopped training keeps

if sys.argv[0] == "-m":  # Python is about to run a module
    end_at_once_when_stopped()
elif multiprocessing.current_process().name != "MainProcess":  # `parent_process()` is not set yet in a spawned worker
    leave_ctrl_c_to_the_parent()


def run(*, kept: str | None, per_dataset: bool = False, in_parts: bool = False, takes: str | None = None) -> None:
    """Run the `main` of the module that `python -m` started. Errors a user can cause are printed as one line.

    Args:
        kept: what a stopped run keeps; None: nothing.
        per_dataset: the stage takes the name of a dataset.
        in_parts: it also takes --shards I/N, to make only a part of the shards.
        takes: the name of another argument.
    """
    module = sys.modules["__main__"]
    spec = module.__spec__
    assert spec, "start it with python -m"
    typed = parser(spec.name, module.__doc__)
    if per_dataset:
        typed.add_argument("dataset", choices=DATASETS)
    if in_parts:
        typed.add_argument("--shards", metavar="I/N", help="only every N-th shard from the I-th on")
    if takes:
        typed.add_argument(takes)
    arguments = [value for value in vars(typed.parse_args()).values() if value is not None]
    with guarded(" ".join([spec.name.split(".")[-1], *arguments]), kept=kept):
        # Imported under its own name: a worker on another machine cannot find what `__main__` defines.
        import_module(spec.name).main(*arguments)
