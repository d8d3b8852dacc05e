"""The project's files as they are, or as they were in a git revision or an experiment."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def at_revision(revision: str | None, *names: str) -> Iterator[Path]:
    """A folder that holds the files and folders `names` of the revision: the workspace itself for None.

    What DVC keeps of them comes out of its cache, or its remote. Raises ValueError if it cannot be had.
    """
    if revision is None:
        yield Path()
        return
    from dvc.api import DVCFileSystem  # takes a second, and the workspace needs none of it

    with tempfile.TemporaryDirectory() as folder:
        try:
            files = DVCFileSystem(".", rev=revision)
            for name in names:
                files.get(name, str(Path(folder, name)), recursive=True)
        except Exception as error:  # DVC's, git's and the file system's, of a dozen kinds
            raise ValueError(
                f"{revision}: {', '.join(names)} not to be had ({error}); run it, with the changes to params.yaml that "
                f"it stands for: dvc exp run -n {revision} -S ..."
            ) from error
        yield Path(folder)
