"""Write the code that each stage imports into its `deps`: `make deps`, or `python -m pipeline.deps`.

DVC says "up to date" about whatever `deps` do not name. So `deps` must list every module that a stage imports, directly
or not. They come from the import statements (pipeline/imports.py). Data, models and params are written by hand.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.imports import OWN, ROOT, imported_files
from pipeline.process import command

FILES = ("dvc.yaml", *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("studies/*/dvc.yaml")))
_COMMAND = re.compile(r"\s*cmd: python -m ([\w.]+)")
_CODE = re.compile(rf"\s*- ({'|'.join(OWN)})/(\S+\.py|[a-z_]+)$")  # a module or a package, not data


def with_code(text: str, root: Path = ROOT) -> str:
    """The same pipeline file, with every stage's `deps` ending in the modules that its command imports."""
    return "\n".join(_lines(text.split("\n"), root))


def _lines(lines: list[str], root: Path) -> Iterator[str]:
    module, indent = "", None  # indent: that of `deps:` while its entries are read
    for line in lines:
        if found := _COMMAND.match(line):
            module = found[1]
        is_entry = indent is not None and line.startswith((f"{indent}  ", f"{indent}- "))
        if indent is not None and not is_entry:
            yield from _entries(f"{indent}  ", module, root)
            indent = None
        if line.strip() == "deps:":
            indent = line[: line.index("deps:")]
        if not (is_entry and _is_code(line, root)):
            yield line


def _is_code(line: str, root: Path) -> bool:
    found = _CODE.match(line)
    if not found:
        return False
    path = root / line.strip().removeprefix("- ")
    return path.suffix == ".py" or (path / "__init__.py").is_file()


def _entries(indent: str, module: str, root: Path) -> Iterator[str]:
    files = imported_files(root / (module.replace(".", "/") + ".py"), root)
    for name in sorted(file.relative_to(root).as_posix() for file in files):
        yield f"{indent}- {name}"


def main() -> None:
    for name in FILES:
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        if (wanted := with_code(text)) != text:
            path.write_text(wanted, encoding="utf-8")
            print(f"{name}: deps brought up to date")


if __name__ == "__main__":
    command.run("pipeline.deps", __doc__, main)
