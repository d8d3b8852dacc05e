"""The documentation against what it speaks of: links, commands, params and messages that exist."""

import ast
import importlib.util
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from pipeline.params import Params

ROOT = Path.cwd()
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
MODULE = re.compile(r"\bpython -m ([A-Za-z_][\w.]*)")
KEY = re.compile(r"`([a-z_]+(?:\.[\w{},*-]+)+)(?=[`:=])")  # `memory.k`, `memory.gate: joint`; not `memory.py`, below
CODE = re.compile(r"`([\w./-]+\.(?:py|js))`")
FILES = {".py", ".md", ".yaml", ".json", ".csv", ".parquet", ".safetensors", ".sbatch"}
BLOCK = re.compile(r"^```([\w.]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
VARIES = re.compile(r"<[^<>]*>|\.\.\.")

each = pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))


@each
def test_every_link_and_picture_leads_somewhere(path):
    wrong = []
    for link in LINK.findall(without_code(path.read_text())):
        target, _, anchor = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        if re.match(r"[a-z]+:", link):
            continue
        if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
            wrong.append(link)
    assert not wrong


@each
def test_every_module_that_a_command_runs_exists(path):
    names = {name.rstrip(".") for name in MODULE.findall(path.read_text())}
    assert [name for name in sorted(names) if name == name.lower() and not is_runnable(name)] == []


@each
def test_every_file_of_the_code_that_is_named_exists(path):
    assert [name for name in sorted(set(CODE.findall(path.read_text()))) if not is_file_of_ours(name)] == []


@each
def test_every_key_of_the_params_exists(path):
    keys = [key for key in KEY.findall(path.read_text()) if Path(key).suffix not in FILES]
    ours = {key for key in keys if key.split(".")[0] in Params.model_fields}
    assert [key for key in sorted(ours) if not has(Params, key.split("."))] == []


def test_every_message_of_the_faq_is_one_of_the_code():
    """A block is a message, wrapped: ```text one of ours, else the named module's; what varies is in <brackets>."""
    blocks, wrong = BLOCK.findall((ROOT / "docs/faq.md").read_text()), []
    for owner, message in blocks:
        fixed = [squeezed(part) for part in VARIES.split(message) if re.search(r"\w", part)]
        assert max(len(part.split()) for part in fixed) > 1, f"nothing to look for in {message!r}"
        if not any(all(part in text for part in fixed) for text in said_by(owner)):
            wrong.append(message)
    assert blocks
    assert not wrong


def test_what_is_wrong_is_found():
    assert LINK.findall("![a picture](b.png) and [a `link`](c.md#d)") == ["b.png", "c.md#d"]
    assert anchors("## The `scores`, two\n```\n# no heading\n```\n") == {"the-scores-two"}
    assert KEY.findall("`memory.kk`, `memory.k: 3`, `download.*.limit`, memory.k") == [
        "memory.kk",
        "memory.k",
        "download.*.limit",
    ]
    assert has(Params, ["download", "*", "limit"]) and has(Params, ["memory", "*"])
    for key in ("memory.kk", "memory.k.k", "download.imagenet.videos", "download.videos.video"):
        assert not has(Params, key.split("."))
    assert is_runnable("pipeline.report") and is_runnable("stages.frames")
    assert not is_runnable("pipeline.reports") and not is_runnable("pipeline.serving.web")
    assert CODE.findall("`pipeline/compare.py` and `retrieved.js`, not params.py or `params.yaml`") == [
        "pipeline/compare.py",
        "retrieved.js",
    ]
    assert is_file_of_ours("pipeline/compare.py") and is_file_of_ours("retrieved.js")
    assert not is_file_of_ours("dataset/compare.py") and not is_file_of_ours("ilm.js")
    assert not any("no such words in the code" in text for text in said_by("text"))


def without_code(markdown: str) -> str:
    return BLOCK.sub("", markdown)


def anchors(markdown: str) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.*?)\s*$", without_code(markdown), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_runnable(module: str) -> bool:
    """Ours by their files, which need not be imported for it; anybody else's if it is installed."""
    path = ROOT / module.replace(".", "/")
    if (ROOT / module.split(".")[0]).is_dir():
        return path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
    return importlib.util.find_spec(module.split(".")[0]) is not None


def is_file_of_ours(name: str) -> bool:
    """By its whole path, or by the end of it: pages name the folder once and then its files alone."""
    folders = ("bench", "docs", "pipeline", "stages", "studies", "tests")
    return any(f"/{file}".endswith(f"/{name}") for file in _code(folders))


@cache
def _code(folders: Sequence[str]) -> list[str]:
    files = [file for folder in folders for file in (ROOT / folder).rglob("*") if file.suffix in (".py", ".js")]
    return [file.relative_to(ROOT).as_posix() for file in files]


def has(kind: Any, key: Sequence[str]) -> bool:
    """Whether a key leads somewhere in a params section; `*`, and `{a,b}`, stand for any."""
    if not key:
        return True
    name, *rest = key
    anyone = name == "*" or name.startswith("{")
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        fields = {field: info.annotation for field, info in kind.model_fields.items()}
        return any(has(inner, rest) for field, inner in fields.items() if anyone or field == name)
    if get_origin(kind) is dict:
        names, values = get_args(kind)
        return (anyone or names is str or name in get_args(names)) and has(values, rest)
    return False


def squeezed(text: str) -> str:
    return " ".join(text.split())


@cache
def said_by(owner: str) -> list[str]:
    """All that the strings of a function say, one text for each, and one for what stands outside of functions."""
    if owner != "text":
        package, *inner = owner.split(".")
        spec = importlib.util.find_spec(package)
        assert spec and spec.submodule_search_locations
        [folder] = spec.submodule_search_locations
        return strings_of(Path(folder, *inner).with_suffix(".py"))
    files = [file for name in ("pipeline", "stages", "studies") for file in sorted((ROOT / name).rglob("*.py"))]
    return [text for file in files for text in strings_of(file)] + [squeezed((ROOT / "Makefile").read_text())]


def strings_of(file: Path) -> list[str]:
    texts: list[str] = []

    def pieces(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef):
                texts.append(squeezed("".join(pieces(child))))
            elif isinstance(child, ast.FormattedValue):
                yield "\0"  # what varies
            elif isinstance(child, ast.Constant) and isinstance(child.value, str):
                yield "" if isinstance(node, ast.Expr) else child.value  # a docstring is no message
            else:
                yield from pieces(child)

    texts.append(squeezed("".join(pieces(ast.parse(file.read_text())))))
    return texts
