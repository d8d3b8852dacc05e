"""Which of the project's own files a module needs, read from its import statements.

Two things hang on this: a stage's `deps` in dvc.yaml must name every one of them (tests/test_dag.py), and
a shard's fingerprint changes when one of them does (design: incremental stages).
"""

import ast
import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OWN = ("ablation", "pipeline", "stages")


def imported_files(path: Path, root: Path = ROOT) -> set[Path]:
    """The project's own files that `path` imports, directly or not, itself included, as absolute paths.

    Imports inside functions count: a stage that imports torch's half late still depends on it.
    """
    found: set[Path] = set()
    module = path.resolve().relative_to(root).with_suffix("")
    waiting = _files_of(".".join(module.parts), root)
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        for name in _imported_names(file):
            waiting.extend(_files_of(name, root))
    return found


def code_fingerprint(path: Path, root: Path = ROOT) -> str:
    """SHA-256 (hex) of the text of every file in `imported_files(path)`."""
    digest = hashlib.sha256()
    for file in sorted(imported_files(path, root)):
        digest.update(f"{file.relative_to(root)}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _imported_names(file: Path) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_bytes(), filename=str(file))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"{file}:{node.lineno}: relative import; write it in full, as everywhere else here")
            # `from pipeline import frames` names a module, `from pipeline.frames import f` does not: try both.
            names += [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.split(".")[0] in OWN]


def _files_of(name: str, root: Path) -> list[Path]:
    """The module or package of that name and the packages around it, which importing it runs too."""
    parts = name.split(".")
    files = [root.joinpath(*parts[: i + 1], "__init__.py") for i in range(len(parts))]
    files.append(root.joinpath(*parts).with_suffix(".py"))
    return [file for file in files if file.is_file()]
