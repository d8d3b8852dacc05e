"""Which folder of pipeline/ may import which: so that each can be read, and a system added, without the others."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pipeline.imports import ROOT, named_modules

# A room may import those before it. No room imports a system but a later one that is made of it.
ROOMS = (
    "process",
    "files",
    "dataset",
    "features",
    "language",
    "backbones",
    "scoring",
    "chat",
    "training",
    "captioner",
    "answerer",
    "serving",
)
# Of the files at the top of pipeline/: these all may import. The others are what people type, and no room imports them.
SHARED = {"imports", "safety", "params", "device", "baselines"}
MODULES = sorted(path for folder in ("pipeline", "stages", "studies") for path in (ROOT / folder).rglob("*.py"))


def room_of(path: Path) -> str:
    """A room, `stages`, or a file at the top of pipeline/."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] != "pipeline" else parts[1]


def circle(imports: Mapping[str, set[str]]) -> list[str]:
    """Modules each of which imports the next, the last being the first again; none if there is no such circle."""
    done: set[str] = set()

    def search(way: list[str]) -> list[str]:
        for name in sorted(imports.get(way[-1], ())):
            if name in way:
                return [*way[way.index(name) :], name]
            if name not in done and (found := search([*way, name])):
                return found
        done.add(way[-1])
        return []

    return next((found for name in sorted(imports) if name not in done and (found := search([name]))), [])


def test_no_modules_import_each_other_in_a_circle():
    # Imports inside functions count: they only put off the error.
    def name(path: Path) -> str:
        return path.relative_to(ROOT).as_posix()

    imports = {name(path): {name(other) for other in named_modules(path)} for path in MODULES}
    assert sum(map(len, imports.values())) > 200
    assert circle(imports) == []


@pytest.mark.parametrize(
    ("imports", "found"),
    [
        ({"a": {"b", "c"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": {"b"}}, ["b", "c", "d", "b"]),
        ({"a": set(), "z": {"z"}}, ["z", "z"]),
    ],
)
def test_a_circle_is_found(imports, found):
    assert circle(imports) == found


def imports_between() -> Iterator[tuple[str, str, str]]:
    """(module, its room, another room that it imports)."""
    for path in MODULES:
        for other in named_modules(path):
            if other.parent != ROOT / "pipeline" or other.name != "__init__.py":
                yield path.relative_to(ROOT).as_posix(), room_of(path), room_of(other)


def test_a_room_imports_only_rooms_before_it_and_what_all_share():
    wrong = [
        f"{module} imports {other}"
        for module, room, other in imports_between()
        if room in ROOMS and other != room and other not in {*SHARED, *ROOMS[: ROOMS.index(room)]}
    ]
    assert wrong == []


def test_what_all_share_imports_of_the_rooms_only_the_first():
    wrong = [
        f"{module} imports {other}"
        for module, room, other in imports_between()
        if room in SHARED and other not in {*SHARED, ROOMS[0]}
    ]
    assert wrong == []


def test_every_folder_of_the_library_has_its_place_in_the_order():
    assert {path.parent.name for path in (ROOT / "pipeline").glob("*/__init__.py")} == set(ROOMS)


def test_only_who_keeps_books_of_videos_imports_the_ledger():
    # To find out what a file is there is pipeline/dataset/probe.py.
    ledger = ROOT / "pipeline/dataset/ledger.py"
    importers = {path.relative_to(ROOT).as_posix() for path in MODULES if ledger in named_modules(path)}
    others = {name for name in importers if not name.startswith("pipeline/dataset/sources/")}
    assert others <= {"stages/download.py", "stages/frames.py", "pipeline/plan.py", "pipeline/serving/report/page.py"}
