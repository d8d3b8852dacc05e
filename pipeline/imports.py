"""Which of the project's own files a module needs, read from its import statements, and a fingerprint of their code.

Two things depend on this: a stage's `deps` in dvc.yaml must name every such file (tests/test_dag.py), and a shard is
made again when the code that made it changes. Sampling 20,000 videos takes days, so a fingerprint leaves out what
cannot change a result: comments, docstrings, formatting, a module's folder, and the Python version.
"""

import ast
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OWN = ("pipeline", "stages", "studies")


def imported_files(path: Path, root: Path = ROOT) -> set[Path]:
    """The project's own files that `path` imports, directly or not, itself included, as absolute paths.

    Imports inside functions count: a stage that imports a module late still depends on it.
    """
    found: set[Path] = set()
    module = path.resolve().relative_to(root).with_suffix("")
    waiting = _files_of(".".join(module.parts), root)
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        for one in _read(file).imports:
            for name in one.names:
                waiting.extend(_files_of(name, root))
    return found


def named_modules(path: Path, root: Path = ROOT) -> set[Path]:
    """The project's modules and packages that this file's own import statements name, as absolute paths."""
    return {file for one in _read(path).imports if (file := _module_of(one, root))} - {path}


def code_fingerprint(path: Path, root: Path = ROOT) -> str:
    """SHA-256 (hex) of the code of every file in `imported_files(path)`.

    An import is represented by the code of the imported module, not by its name: a moved file is the same file, and
    another module with a function of the same name is a different one.
    """

    def content(one: "_Import") -> str:
        file = _module_of(one, root)
        return file_fingerprint(file) if file else ""

    # A set: files with equal code, such as empty __init__.py, count once.
    codes = {_sha256(_read(file).text(content)) for file in imported_files(path, root)}
    return _sha256(" ".join(sorted(codes)))


def file_fingerprint(path: Path) -> str:
    """SHA-256 (hex) of the code of this file alone; imports count by name."""
    return _sha256(_read(path).text(lambda _: ""))


def versions(*packages: str) -> str:
    """Of installed packages that a result depends on too. Which build it is, for which hardware, is left out."""
    return " ".join(f"{package} {_version(package)}" for package in packages)


def _version(package: str) -> str:
    try:
        return version(package).split("+")[0]
    except PackageNotFoundError:
        return "none"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class _Import:
    """An import from one of the project's modules. names: of modules that it may need, the likeliest last."""

    names: tuple[str, ...]
    name: str
    alias: str | None


@dataclass(frozen=True)
class _Code:
    """The code of a file. parts: text, and in between groups of adjacent imports."""

    parts: tuple[str | tuple[_Import, ...], ...]

    @property
    def imports(self) -> Iterator[_Import]:
        return (one for part in self.parts if not isinstance(part, str) for one in part)

    def text(self, content: Callable[[_Import], str]) -> str:
        """The code with each import replaced by `content` of its module; sorted by name, so order does not count."""
        return "".join(
            part
            if isinstance(part, str)
            else "".join(sorted(f"<import {content(one)} {one.name} {one.alias}>" for one in part))
            for part in self.parts
        )


def _read(file: Path) -> _Code:
    try:
        return _parsed(file.read_bytes())
    except SyntaxError as error:
        raise SyntaxError(f"{file}:{error.lineno}: {error.msg}") from None
    except _RelativeImport as error:
        raise ValueError(f"{file}:{error}: relative import; write the full name, as everywhere else here") from None


class _RelativeImport(Exception):
    pass


@lru_cache(maxsize=1024)
def _parsed(source: bytes) -> _Code:
    parts: list[str | tuple[_Import, ...]] = []
    _add(ast.parse(source), parts)
    return _Code(tuple(parts))


def _add(value: object, parts: list[str | tuple[_Import, ...]]) -> None:
    """Append a part of a syntax tree as text.

    Empty fields are left out, because each Python version adds some. `ast.dump` would write them, and is slower.
    """
    if isinstance(value, ast.Constant):
        parts.append(f"{value.value!a},")  # not `repr`: which characters are printable depends on the Python version
    elif isinstance(value, ast.AST):
        parts.append(f"{type(value).__name__}(")
        for name in value._fields:
            field = getattr(value, name, None)
            if field is None or field == [] or name in ("ctx", "type_comment"):
                continue
            parts.append(f"{name}=")
            if isinstance(value, ast.JoinedStr):
                field = _joined(field)
            _add(field, parts)
        parts.append(")")
    elif isinstance(value, list):
        parts.append("[")
        if value and isinstance(value[0], ast.stmt):
            value = _add_imports(value, parts)
        for one in value:
            _add(one, parts)
        parts.append("]")
    else:
        parts.append(f"{value!a},")


def _add_imports(body: Sequence[ast.stmt], parts: list[str | tuple[_Import, ...]]) -> list[ast.stmt]:
    """Append the imports of the project's modules among these statements; returns the other statements with effects."""
    found: list[_Import] = []
    others: list[ast.stmt] = []
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.level:
            raise _RelativeImport(node.lineno)
        if isinstance(node, ast.ImportFrom) and _is_own(node.module):
            for alias in node.names:
                found.append(_Import((f"{node.module}", f"{node.module}.{alias.name}"), alias.name, alias.asname))
        elif isinstance(node, ast.Import) and any(_is_own(alias.name) for alias in node.names):
            for alias in node.names:
                found.append(_Import((alias.name,), "", alias.asname))
        elif not (isinstance(node, ast.Pass) or _is_text(node)):
            others.append(node)
    if found:
        parts.append(tuple(found))
    return others


def _is_own(module: str | None) -> bool:
    return module is not None and module.split(".")[0] in OWN


def _is_text(node: ast.stmt) -> bool:
    """Whether it is a docstring, or another string without effect."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _joined(values: Sequence[ast.expr]) -> list[ast.expr]:
    """An f-string's parts, merged: Python versions differ in how they split the text between two values."""
    joined: list[ast.expr] = []
    for value in values:
        last = joined[-1] if joined else None
        if not isinstance(value, ast.Constant):
            joined.append(value)
        elif isinstance(last, ast.Constant):
            joined[-1] = ast.Constant(str(last.value) + str(value.value))
        elif value.value:
            joined.append(value)
    return joined


def _module_of(one: _Import, root: Path) -> Path | None:
    # `from pipeline import frames` names a module, `from pipeline.features.frames import f` does not.
    return next((file for name in reversed(one.names) if (file := _module_file(name, root))), None)


def _module_file(name: str, root: Path) -> Path | None:
    files = (root.joinpath(*name.split(".")).with_suffix(".py"), root.joinpath(*name.split("."), "__init__.py"))
    return next((file for file in files if file.is_file()), None)


def _files_of(name: str, root: Path) -> list[Path]:
    """The module or package of that name and its parent packages, which importing it also runs."""
    parts = name.split(".")
    files = [root.joinpath(*parts[: i + 1], "__init__.py") for i in range(len(parts))]
    files.append(root.joinpath(*parts).with_suffix(".py"))
    return [file for file in files if file.is_file()]
