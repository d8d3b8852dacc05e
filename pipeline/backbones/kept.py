"""Model folders that are kept until the request for them changes."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.files.aside import aside, sweep
from pipeline.imports import code_fingerprint, versions

REQUEST_FILE = "request.json"


def request(
    maker: ModuleType,
    settings: Mapping[str, Any],
    *,
    data: str | None = None,
    file: str | None = None,
    packages: Sequence[str] = (),
) -> dict[str, Any]:
    """What a model is made from; when this changes, the model is made again.

    Args:
        maker: the module that makes it.
        data: a digest of what it learns from.
        file: the file or folder of its weights; a name that is neither counts by its settings alone.
        packages: those whose versions it depends on.
    """
    assert maker.__file__
    code = code_fingerprint(Path(maker.__file__))
    if file is not None and Path(file).is_file():
        with Path(file).open("rb") as opened:
            data = hashlib.file_digest(opened, "sha256").hexdigest()
    elif file is not None and Path(file).is_dir():
        data = hashlib.sha256(json.dumps(digests(Path(file))).encode()).hexdigest()
    made = {"packages": versions(*packages)} if packages else {}
    return {"settings": dict(settings), "code": code, "data": data, **made}


def keep_or_make(folder: Path, request: Mapping[str, Any], make: Callable[[Path], str]) -> str:
    """Make a model folder, or keep the existing one. Returns what `make(an empty folder)` returned, or "kept".

    The request is stored in the folder, so a fetched model needs the network only once. So is the SHA-256 of each file:
    if a file is damaged or missing, the folder is made again. A folder gets its name only when it is complete.
    """
    note, reason = folder / REQUEST_FILE, ""
    if note.is_file() and (noted := _parsed(note)).get("request") == request:
        files = noted.get("files")
        if not (changed := _changed(files if isinstance(files, dict) else {}, digests(folder))):
            return "kept"
        reason = f" ({', '.join(changed)} of the previous one had changed)"
    sweep(folder)
    with aside(folder) as written:
        written.mkdir()
        line = make(written)
        content = {"request": request, "files": digests(written)}
        (written / REQUEST_FILE).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    return line + reason


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 (hex) of every file of a folder except the request, by name."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / REQUEST_FILE):
        with path.open("rb") as file:
            found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def _parsed(note: Path) -> dict[str, Any]:
    """An empty dict if the note cannot be read."""
    try:
        content = json.loads(note.read_text())
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
