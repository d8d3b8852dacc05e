import ast
import time
from pathlib import Path

import pytest

from pipeline.imports import ROOT, code_fingerprint, file_fingerprint, imported_files

CODE = '''"""What it is."""

from math import pi

LIMIT = 3  # of them
NAMES = ("a", "b")


class Kind:
    """One of them."""

    wide: bool = True

    def size(self, step: float = 0.5) -> float:
        """In metres."""
        if self.wide and step > LIMIT:
            return pi * step + 1
        return -1.0
'''
# Written otherwise, and the same code.
EQUAL = {
    "a comment": CODE.replace("# of them", "# of those, at most"),
    "no comment": CODE.replace("  # of them", ""),
    "another docstring": CODE.replace("In metres.", "In metres, of the whole."),
    "no docstrings": CODE.replace('"""What it is."""\n', "")
    .replace('    """One of them."""\n', "")
    .replace('        """In metres."""\n', ""),
    "a text below a name": CODE.replace("LIMIT = 3", 'LIMIT = 3\n"""Of them."""'),
    "empty lines": CODE.replace("\n", "\n\n"),
    "no empty lines": CODE.replace("\n\n\n", "\n"),
    "another indent": CODE.replace("    ", "  "),
    "other quotes": CODE.replace('"a", "b"', "'a', 'b'"),
    "brackets": CODE.replace("pi * step + 1", "((pi * step) + 1)"),
    "a line cut in two": CODE.replace("self.wide and step > LIMIT", "(\n            self.wide\n  and step > LIMIT)"),
    "a comma at the end": CODE.replace('"a", "b"', '"a", "b",'),
    "a text in two parts": CODE.replace('"a", "b"', '"a", "" "b"'),
}
# Nearly the same, and other code.
OTHER = {
    "a constant": CODE.replace("LIMIT = 3", "LIMIT = 1"),
    "a whole number for a float": CODE.replace("-1.0", "-1"),
    "a truth value for a number": CODE.replace("wide: bool = True", "wide: bool = 1"),
    "a text": CODE.replace('"b")', '"c")'),
    "bytes for a text": CODE.replace('"b")', 'b"b")'),
    "a text that is a name's": CODE.replace('"b")', "b)"),
    "a space in a text": CODE.replace('"b")', '"b ")'),
    "a name": CODE.replace("LIMIT", "LIMITS"),
    "an argument's name": CODE.replace("step: float", "stride: float"),
    "a default": CODE.replace("0.5", "0.25"),
    "an annotation": CODE.replace("step: float", "step: int"),
    "an operator": CODE.replace("pi * step + 1", "pi * step - 1"),
    "another order of operations": CODE.replace("pi * step + 1", "pi * (step + 1)"),
    "a comparison": CODE.replace("step > LIMIT", "step >= LIMIT"),
    "or for and": CODE.replace("self.wide and", "self.wide or"),
    "not": CODE.replace("if self", "if not self"),
    "an import's name": CODE.replace("import pi", "import tau as pi"),
    "an import's module": CODE.replace("from math", "from cmath"),
    "the order of lines": CODE.replace(
        'LIMIT = 3  # of them\nNAMES = ("a", "b")', 'NAMES = ("a", "b")\nLIMIT = 3  # of them'
    ),
    "the indent of the last line": CODE.replace("        return -1.0", "            return -1.0"),
    "a decorator": CODE.replace("    def size", "    @property\n    def size"),
    "a base class": CODE.replace("class Kind:", "class Kind(str):"),
}
# Things that Pythons have written differently into their syntax trees.
ALL_VERSIONS = """
import a.b as c, d
from e import f as g, h
@deco(1, k="v")
async def fun(p, /, q: int = 0, *r, s=None, **t) -> "u":
    global w
    async with a as b, c: await d
    async for i in x: yield i
    else: pass
    return [*r, {1: 2, **t}, {3}, (4j,), ..., b"\\x00\\xff", "caf\\u00e9 \\U0001fae8 \\ud800",
        u"old", 1e400, -0.0, 10**30]
class C(B, metaclass=M):
    x: "int" = lambda *a, k=1: (yield)
    del y, z[0], z[1:2, ::3]
def plain():
    try:
        assert not a is b, f"{a!r:>{w}} and " "more" f"{b=}" f"" f"{c:%Y-%m}{{}}"
    except (A, B) as error: raise C from error
    except D: ...
    else: rest = [i for i in x if i if not i in y]
    finally:
        while a < b <= c: a += 1; continue
    match v:
        case {"k": None, **rest} | [1, *_] if rest: pass
        case C(x=1) as y: other = (z := 3)
        case _: return x if y else {k: v for k, v in z}
    with (open(a) as f, open(b) as g): return f @ g // 1 >> 2
"""


def fingerprint_of(text: str, folder: Path) -> str:
    (folder / "module.py").write_text(text, encoding="utf-8")
    return file_fingerprint(folder / "module.py")


@pytest.mark.parametrize("change", EQUAL)
def test_a_fingerprint_leaves_out_what_changes_no_result(tmp_path, change):
    assert EQUAL[change] != CODE
    assert fingerprint_of(EQUAL[change], tmp_path) == fingerprint_of(CODE, tmp_path)


@pytest.mark.parametrize("change", OTHER)
def test_a_fingerprint_changes_with_whatever_may_change_a_result(tmp_path, change):
    assert OTHER[change] != CODE
    assert fingerprint_of(OTHER[change], tmp_path) != fingerprint_of(CODE, tmp_path)


def test_a_fingerprint_is_the_same_under_every_python(tmp_path):
    # If this fails under a new Python only: all frames, embeddings and backbones would be made again on its machines.
    assert fingerprint_of(CODE, tmp_path) == "9994d50997d43e71121748a455d165b4e16510e8b681fc7800bf9d4572ca9a99"
    assert fingerprint_of(ALL_VERSIONS, tmp_path) == "50fc3d5b9c2406fdd2907b80bbd365224028e54f7259f01eb1ef003a7c0d1399"


def test_each_number_and_each_attribute_of_a_module_counts(tmp_path):
    source = (ROOT / "pipeline/files/aside.py").read_text()
    seen, count = {fingerprint_of(source, tmp_path)}, 0
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            value, node.value = node.value, node.value + 41
            seen.add(fingerprint_of(ast.unparse(tree), tmp_path))
            node.value = value
        elif isinstance(node, ast.Attribute):
            name, node.attr = node.attr, f"{node.attr}_"
            seen.add(fingerprint_of(ast.unparse(tree), tmp_path))
            node.attr = name
        else:
            continue
        count += 1
    assert count > 40 and len(seen) == count + 1


def move(project: Path, old: str, new: str) -> None:
    """As `git mv` and an editor do."""
    target = project / new
    target.parent.mkdir(exist_ok=True)
    (target.parent / "__init__.py").touch()
    (project / old).rename(target)
    names = [name.removesuffix(".py").replace("/", ".") for name in (old, new)]
    for file in project.rglob("*.py"):
        text = file.read_text().replace(*names)
        for name, other in [[one.rpartition(".") for one in names]]:
            text = text.replace(f"from {name[0]} import {name[2]}\n", f"from {other[0]} import {other[2]}\n")
        file.write_text(text)


def test_imports_are_followed_through_modules_packages_and_functions(small_project):
    found = {
        str(path.relative_to(small_project)) for path in imported_files(small_project / "stages/go.py", small_project)
    }
    assert found == {
        "stages/__init__.py",
        "stages/go.py",
        "pipeline/__init__.py",
        "pipeline/a.py",
        "pipeline/b.py",
        "pipeline/deep/__init__.py",
        "pipeline/deep/c.py",
    }


def test_the_code_fingerprint_changes_with_an_imported_file_and_with_no_other(small_project):
    before = code_fingerprint(small_project / "stages/go.py", small_project)
    (small_project / "pipeline/unused.py").write_text("x = 1\n")
    assert code_fingerprint(small_project / "stages/go.py", small_project) == before
    (small_project / "pipeline/deep/c.py").write_text("# nothing yet\n")
    assert code_fingerprint(small_project / "stages/go.py", small_project) == before
    (small_project / "pipeline/deep/c.py").write_text("x = 1\n")
    assert code_fingerprint(small_project / "stages/go.py", small_project) != before


def test_moving_modules_to_other_folders_keeps_the_code_fingerprint(small_project):
    (small_project / "pipeline/deep/c.py").write_text("x = 1\n")
    (small_project / "stages/go.py").write_text(
        "from pipeline.a import f\nfrom pipeline.deep.c import x\n\nprint(f(), x)\n"
    )
    before = code_fingerprint(small_project / "stages/go.py", small_project)
    move(small_project, "pipeline/deep/c.py", "pipeline/c.py")
    move(small_project, "pipeline/b.py", "pipeline/room/b.py")
    move(small_project, "pipeline/a.py", "pipeline/room/a.py")
    assert "from pipeline.room.b import f" in (small_project / "pipeline/room/a.py").read_text()
    assert "    from pipeline import c\n" in (small_project / "pipeline/room/b.py").read_text()
    # The sorted order of the imports is another one now.
    (small_project / "stages/go.py").write_text(
        "from pipeline.c import x\nfrom pipeline.room.a import f\n\nprint(f(), x)\n"
    )
    assert len(imported_files(small_project / "stages/go.py", small_project)) == 7
    assert code_fingerprint(small_project / "stages/go.py", small_project) == before


def test_the_same_name_from_another_module_changes_the_code_fingerprint(small_project):
    (small_project / "pipeline/deep/c.py").write_text("def f():\n    return 1\n")
    go = small_project / "stages/go.py"
    go.write_text("import pipeline.a\nimport pipeline.deep.c\nfrom pipeline.b import f\n")
    files, before = imported_files(go, small_project), code_fingerprint(go, small_project)
    go.write_text("import pipeline.a\nimport pipeline.b\nfrom pipeline.deep.c import f\n")
    assert imported_files(go, small_project) == files
    assert code_fingerprint(go, small_project) != before


def test_which_of_two_branches_imports_what_is_part_of_the_code_fingerprint(small_project):
    (small_project / "pipeline/deep/c.py").write_text("def f():\n    return 1\n")
    go = small_project / "stages/go.py"
    text = "import sys\n\nif sys.argv:\n    from pipeline.b import f\nelse:\n    from pipeline.deep.c import f\n"
    go.write_text(text)
    before = code_fingerprint(go, small_project)
    go.write_text(
        text.replace("pipeline.b", "-").replace("pipeline.deep.c", "pipeline.b").replace("-", "pipeline.deep.c")
    )
    assert code_fingerprint(go, small_project) != before


def test_the_fingerprint_of_all_that_the_largest_stage_imports_takes_a_fraction_of_its_start():
    began = time.process_time()
    code_fingerprint(ROOT / "stages/finetune.py")
    assert time.process_time() - began < 1  # 0.1 s here; to start a stage takes 1 s and more


def test_a_relative_import_is_refused(small_project):
    (small_project / "pipeline/b.py").write_text("from .deep import c\n")
    with pytest.raises(ValueError, match=r"b\.py:1: relative import"):
        imported_files(small_project / "stages/go.py", small_project)
