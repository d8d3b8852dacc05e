"""One module per DVC stage: `python -m stages.NAME`. A stage owns its paths; how things are done is in pipeline/."""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

DATASETS = ("coco", "activitynet")


def run(main: Callable[..., None], *, per_dataset: bool = False, in_parts: bool = False) -> None:
    """Run a stage's main. What a user can cause comes out as its message alone, without a traceback.

    Args:
        per_dataset: the stage takes the name of a dataset.
        in_parts: and then, if it is to make a part of the shards only, --shards I/N.
    """
    name = Path(sys.argv[0]).stem
    arguments = sys.argv[1:]
    if in_parts and arguments[1:2] == ["--shards"]:
        del arguments[1]
    if (arguments and arguments[0] not in DATASETS) or not per_dataset <= len(arguments) <= per_dataset + in_parts:
        takes = f" {'|'.join(DATASETS)}" * per_dataset + " [--shards I/N]" * in_parts
        sys.exit(f"usage: python -m stages.{name}{takes}")
    # Under its own name, not `__main__`, other processes find what the module defines, too.
    spec = sys.modules["__main__"].__spec__
    if spec:
        main = import_module(spec.name).main
    try:
        main(*arguments)
    except (ValueError, OSError) as error:
        sys.exit(f"{' '.join([name, *arguments])}: {error}")
