"""The project's files as they are, or as they were in a git revision or an experiment."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def at_revision(revision: str | None, *names: str, optional: Sequence[str] = ()) -> Iterator[Path]:
    """A folder with the files and folders `names` of the revision, and those of `optional` that exist.

    The workspace itself for None.

    Files that DVC tracks come from its cache or remote. Raises ValueError if it is not available.
    """
    if revision is None:
        yield Path()
        return
    from dvc.api import DVCFileSystem  # takes a second, and the workspace does not need it

    with tempfile.TemporaryDirectory() as folder:
        try:
            files = DVCFileSystem(".", rev=revision)
            for name in (*names, *filter(files.exists, optional)):
                files.get(name, str(Path(folder, name)), recursive=True)
        except Exception as error:  # errors of DVC, git and the file system, of a dozen kinds
            raise ValueError(
                f"{revision}: {', '.join(names)} not found ({error}); run it with the changes to params.yaml that "
                f"it stands for: dvc exp run -n {revision} -S ..."
            ) from error
        yield Path(folder)
