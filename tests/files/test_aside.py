import os
import resource

import pytest
import safetensors.torch
import torch

from pipeline.files.aside import ASIDE, aside, check_writable, sweep, write_bytes, write_text


def test_a_hard_link_of_what_was_there_keeps_its_content(tmp_path):
    path, twin = tmp_path / "captions.csv", tmp_path / "cached"
    write_text(path, "old\r\n")
    os.link(path, twin)
    write_text(path, "new ä\r\n")
    assert (path.read_bytes(), twin.read_bytes()) == ("new ä\r\n".encode(), b"old\r\n")


def test_what_fails_leaves_what_was_there_and_nothing_else(tmp_path):
    path = tmp_path / "a" / "weights"
    write_bytes(path, b"old")
    with pytest.raises(OSError, match="no space"), aside(path) as written:
        written.write_bytes(b"half")
        raise OSError("no space")
    assert [(one.name, one.read_bytes()) for one in path.parent.iterdir()] == [("weights", b"old")]
    with pytest.raises(ZeroDivisionError), aside(tmp_path / "never"):
        raise ZeroDivisionError
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("save", [safetensors.torch.save_file, torch.save])
def test_a_full_disk_is_the_systems_error_whichever_library_meets_it(tmp_path, save):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # a write past it fails, as on a full disk
    try:
        message = r"(File too large|No space left on device): .*weights'"
        with pytest.raises(OSError, match=message), aside(tmp_path / "weights") as written:
            save({"a": torch.zeros(10**6)}, written)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("before", ["folder", "file", "link", "nothing"])
def test_a_folder_takes_the_place_of_what_was_there(tmp_path, before):
    path, elsewhere = tmp_path / "model", tmp_path / "elsewhere"
    elsewhere.mkdir()
    if before == "folder":
        (path / "inner").mkdir(parents=True)
        (path / "inner/old").touch()
    elif before == "file":
        path.touch()
    elif before == "link":
        path.symlink_to(elsewhere)
    with aside(path) as written:
        (written / "inner").mkdir(parents=True)
        (written / "inner/new").touch()
    assert [one.relative_to(path).as_posix() for one in sorted(path.rglob("*"))] == ["inner", "inner/new"]
    assert {one.name for one in tmp_path.iterdir()} == {"model", "elsewhere"} and not list(elsewhere.iterdir())


def test_a_file_has_the_permissions_that_any_new_file_has(tmp_path):
    (tmp_path / "plain").touch()
    write_text(tmp_path / "made", "")
    assert (tmp_path / "made").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_killed_runs_left_is_swept_and_no_other_file(tmp_path):
    for name in ("copy", f"copy.0123abcd{ASIDE}", f"other.0123abcd{ASIDE}"):
        (tmp_path / name).touch()
    sweep(tmp_path / "copy")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["copy", f"other.0123abcd{ASIDE}"]


def test_whether_a_file_can_be_written_is_told_without_writing_it(tmp_path):
    kept = tmp_path / "kept.srt"
    kept.write_text("mine")
    check_writable(kept)
    check_writable(tmp_path / "new" / "a.srt")
    assert kept.read_text() == "mine" and {one.name for one in tmp_path.rglob("*")} == {"kept.srt", "new"}
    for bad, why in (
        (tmp_path / "new", "Is a directory"),
        (kept / "a.srt", "File exists"),
        (kept / "deeper" / "a.srt", "Not a directory"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        with pytest.raises(ValueError, match=f"cannot be written: {why}"):
            check_writable(bad)
