"""One module per DVC stage: `python -m stages.NAME`. A stage owns its paths; how things are done is in pipeline/."""

import sys
from importlib import import_module
from pathlib import Path

DATASETS = ("coco", "activitynet")


def run(*, per_dataset: bool = False, in_parts: bool = False) -> None:
    """Run the `main` of the module that `python -m` started. What a user can cause comes out as its message alone.

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
    # Imported under its own name: what is defined in `__main__`, a worker on another machine cannot find.
    spec = sys.modules["__main__"].__spec__
    assert spec, "start it with python -m"
    try:
        import_module(spec.name).main(*arguments)
    except (ValueError, OSError) as error:
        sys.exit(f"{' '.join([name, *arguments])}: {error}")
