"""One module per DVC stage: `python -m stages.NAME`. A stage owns its paths; how things are done is in pipeline/."""

import sys
from collections.abc import Callable
from pathlib import Path

DATASETS = ("coco", "activitynet")


def run(main: Callable[..., None], *, per_dataset: bool = False) -> None:
    """Run a stage's main. What a user can cause comes out as its message alone, without a traceback.

    Args:
        per_dataset: the stage takes the name of a dataset.
    """
    name = Path(sys.argv[0]).stem
    arguments = sys.argv[1:]
    if (arguments and arguments[0] not in DATASETS) or len(arguments) != per_dataset:
        sys.exit(f"usage: python -m stages.{name}" + f" {'|'.join(DATASETS)}" * per_dataset)
    try:
        main(*arguments)
    except (ValueError, OSError) as error:
        sys.exit(f"{' '.join([name, *arguments])}: {error}")
