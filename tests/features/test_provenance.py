"""What a video's rows were computed with: another of any of it, and they are stale."""

from pathlib import Path

import pytest

from pipeline import device
from pipeline.features import encoder, provenance
from pipeline.features.shards import Entry
from pipeline.imports import code_fingerprint, file_fingerprint

FRAMES = {"a": Entry("one", 3, 0, 0, None), "b": Entry("two", 3, 0, 0, None)}
CODE = Path(encoder.__file__)


@pytest.fixture
def computed_with():
    """Fingerprints by what they are made of, with one thing changed by each test."""

    def of(frames=FRAMES, settings="digest size=8", code=CODE, files=()):
        return provenance.fingerprints(frames, settings, code, files)

    return of


def test_rows_are_stale_when_their_frames_change_and_no_others(computed_with):
    before, after = computed_with(), computed_with({**FRAMES, "b": Entry("three", 3, 0, 0, None)})
    assert before["a"] == after["a"] and before["b"] != after["b"] and before["a"] != before["b"]


def test_rows_are_stale_when_settings_code_device_or_packages_change(computed_with, monkeypatch):
    made = [computed_with()["a"], computed_with(settings="digest size=9")["a"]]
    made += [computed_with(code=Path(provenance.__file__))["a"], computed_with(files=[Path(__file__)])["a"]]
    with monkeypatch.context() as patch:
        patch.setattr(provenance, "versions", lambda *packages: f"{packages} of another version")
        made.append(computed_with()["a"])
    with monkeypatch.context() as patch:
        patch.setattr(
            provenance,
            "file_fingerprint",
            lambda path: "other" if path == Path(device.__file__) else file_fingerprint(path),
        )
        made.append(computed_with()["a"])
    with monkeypatch.context() as patch:
        patch.setattr(provenance, "code_fingerprint", lambda path: code_fingerprint(path) + "!")
        made.append(computed_with()["a"])
    assert len(set(made)) == len(made)
    assert made[0] == computed_with()["a"]
