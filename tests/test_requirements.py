"""The lock files, against what README.md promises: the same packages on every Python."""

from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# What may have a version of its own on some Python, and why: {"package": "reason"}. Another version is another program,
# which is tested nowhere but on the Python of whoever runs the tests.
EXCEPTIONS: dict[str, str] = {}

LOCKS = sorted(path for path in Path().glob("requirements*.txt") if path.name != "requirements-overrides.txt")


def pins(path: Path) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return [Requirement(line) for line in lines if line]


@pytest.mark.parametrize("path", LOCKS, ids=str)
def test_no_package_has_two_versions(path):
    versions: dict[str, set[str]] = {}
    for pin in pins(path):
        versions.setdefault(canonicalize_name(pin.name), set()).add(str(pin.specifier))
    assert {name: found for name, found in versions.items() if len(found) > 1 and name not in EXCEPTIONS} == {}


def test_files_that_are_installed_together_agree():
    versions: dict[str, set[str]] = {}
    for path in LOCKS:
        for pin in pins(path):
            versions.setdefault(canonicalize_name(pin.name), set()).add(str(pin.specifier))
    assert {name: found for name, found in versions.items() if len(found) > 1 and name not in EXCEPTIONS} == {}


def test_every_exception_is_still_one_and_has_its_reason():
    for name, reason in EXCEPTIONS.items():
        assert reason
        assert any(sum(canonicalize_name(pin.name) == name for pin in pins(path)) > 1 for path in LOCKS), name


@pytest.mark.parametrize("python", PYTHONS)
def test_what_is_asked_for_directly_is_there_on_every_python(python):
    there = {
        canonicalize_name(pin.name)
        for path in LOCKS
        for pin in pins(path)
        if not pin.marker
        or pin.marker.evaluate(
            {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
        )
    }
    for path in Path().glob("requirements*.in"):
        required = {canonicalize_name(pin.name) for pin in pins_asked(path)}
        assert required <= there, path


def pins_asked(path: Path) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-")]
