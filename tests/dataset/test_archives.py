"""Archives read by ranges, from memory and from a hub on the loopback address through the real client."""

import gzip
import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Literal

import huggingface_hub
import pytest

import stages.download
from pipeline.dataset import ledger, media, verdict
from pipeline.dataset.sources import archives
from pipeline.dataset.sources.archives import Archive, Part
from tests.conftest import Page


def tar(*members: tuple[str, bytes | tarfile.TarInfo], kind: Literal["w", "w:gz", "w:xz", "w:bz2"] = "w") -> bytes:
    """A tar of these files; a TarInfo is taken as it is, without content."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=kind) as archive:
        for name, content in members:
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.name = name
            if isinstance(content, bytes):
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return file.getvalue()


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def special(kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


def opened(name: str, content: bytes, folder: Path, *, cuts=(), expected=None, read=None) -> Archive:
    """The archive in parts, cut at these bytes."""
    ends = [0, *cuts, len(content)]
    pieces = [content[start:end] for start, end in pairwise(ends)]

    def reader(part: bytes):
        return lambda start, end: (read and read(start, end), part[start:end])[1]

    parts = [Part(len(piece), reader(piece)) for piece in pieces]
    return Archive(name, parts, index=folder / "index" / "0.jsonl", wanted=expected or {}, max_file_bytes=1e9)


VIDEOS = (("videos/v_a.mp4", b"a" * 3000), ("videos/v_b.mp4", b"b" * 512), ("./v_c.mkv", b"c" * 70_000))
KINDS = {"x.tar": tar(*VIDEOS), "x.tar.gz": tar(*VIDEOS, kind="w:gz"), "x.zip": zipped(*VIDEOS)}


@pytest.mark.parametrize("name", KINDS)
def test_any_member_can_be_read_wherever_the_parts_are_cut(tmp_path, name):
    content = KINDS[name]
    for step in (len(content), 700, 37 if len(content) < 2000 else 5000):
        folder = tmp_path / str(step)
        expected = {"v_a": folder / "v_a" / "video", "v_c": folder / "v_c" / "video"}
        archive = opened(name, content, folder, cuts=range(step, len(content), step), expected=expected)
        members = {member.stem: member for member in archive.members()}
        assert [(one.name, one.size, one.problem) for one in members.values()] == [
            (name, len(data), None) for name, data in VIDEOS
        ]
        for stem, data in (("v_a", b"a" * 3000), ("v_c", b"c" * 70_000)):
            if not expected[stem].exists():
                archive.read(members[stem], expected[stem])
            assert expected[stem].read_bytes() == data
        assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == (
            ["video", "video"] if name == "x.zip" else ["0.jsonl", "video", "video"]
        )


def test_a_walk_that_was_killed_goes_on_at_the_header_where_it_was(tmp_path):
    content = tar(*((f"v_{i}.mp4", bytes([i]) * 200_000) for i in range(20)))
    whole = opened("x.tar", content, tmp_path / "whole").members()
    starts = []

    def breaks(start, end):
        starts.append(start)
        if len(starts) == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened("x.tar", content, tmp_path, read=breaks).members()
    with (tmp_path / "index" / "0.jsonl").open("a") as index:
        index.write('{"name": "v_')  # the kill cut a line
    again = []
    assert opened("x.tar", content, tmp_path, read=lambda start, _: again.append(start)).members() == whole
    assert min(again) > 1_500_000 and len(whole) == 20
    last = []
    assert opened("x.tar", content, tmp_path, read=lambda start, _: last.append(start)).members() == whole
    assert last == []  # the index is whole
    lines = (tmp_path / "index" / "0.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "index" / "0.jsonl").write_bytes(b"".join([*lines[:9], b"\xff" + lines[9][1:], *lines[10:]]))
    assert opened("x.tar", content, tmp_path, read=lambda start, _: last.append(start)).members() == whole
    assert min(last) > 1_500_000  # from the damaged line on


def test_what_is_thought_of_a_member_is_not_kept(tmp_path, monkeypatch):
    assert all(member.problem is None for member in opened("x.tar", KINDS["x.tar"], tmp_path).members())
    monkeypatch.setattr(archives.media, "unsafe", lambda name, mode=0: "an edit since")
    assert all(member.problem == "an edit since" for member in opened("x.tar", KINDS["x.tar"], tmp_path).members())


def test_a_member_whose_reading_was_killed_is_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_CHUNK_BYTES", 1000)
    archive = opened("x.tar", KINDS["x.tar"], tmp_path)
    member = archive.members()[2]
    file = tmp_path / "v_c" / "video"
    file.parent.mkdir()
    archives.part_of(file).write_bytes(b"c" * 60_000)
    reads = []
    opened("x.tar", KINDS["x.tar"], tmp_path, read=lambda *ends: reads.append(ends)).read(member, file)
    assert file.read_bytes() == b"c" * 70_000 and reads[0][0] == member.offset + 60_000 and len(reads) == 10


ATTACKS = {
    "traversal": ("../../v_evil.mp4", b"evil", "its path leads out of the archive"),
    "absolute": ("/tmp/v_evil.mp4", b"evil", "its path leads out of the archive"),
    "symbolic link": ("v_evil.mp4", special(tarfile.SYMTYPE, "/etc/passwd"), "a link or a device, not a file"),
    "hard link": ("v_evil.mp4", special(tarfile.LNKTYPE, "../../secret"), "a link or a device, not a file"),
    "device": ("v_evil.mp4", special(tarfile.CHRTYPE), "a link or a device, not a file"),
    "pipe": ("v_evil.mp4", special(tarfile.FIFOTYPE), "a link or a device, not a file"),
}


@pytest.mark.parametrize("kind", ["x.tar", "x.tar.gz"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_member_of_a_tar_that_is_no_plain_file_below_it_is_not_read(tmp_path, kind, attack):
    name, content, problem = ATTACKS[attack]
    packed = tar((name, content), ("v_good.mp4", b"good"), kind="w:gz" if kind.endswith("gz") else "w")
    expected = {stem: tmp_path / "partial" / stem / "video" for stem in ("v_evil", "v_good")}
    evil, good = opened(kind, packed, tmp_path / "deep", expected=expected).members()
    assert (evil.stem, evil.problem) == ("v_evil", problem) and good.problem is None
    assert not expected["v_evil"].exists()
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} <= {"0.jsonl", "video"}


def test_a_member_of_a_zip_that_is_no_plain_file_below_it_is_not_read(tmp_path):
    link = zipfile.ZipInfo("v_link.mp4")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    packed = zipped(("../../v_evil.mp4", b"evil"), (link, b"/etc/passwd"), ("v_bomb.mp4", b"\0" * 40_000_000))
    problems = {member.stem: member.problem for member in opened("x.zip", packed, tmp_path).members()}
    assert problems["v_evil"] == "its path leads out of the archive"
    assert problems["v_link"] == "a link or a device, not a file"
    assert problems["v_bomb"].endswith("that unpack to 40,000,000: a decompression bomb")


def test_a_gzip_that_unpacks_to_far_more_than_it_is_is_left_before_the_end(tmp_path):
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb") as file:
        info = tarfile.TarInfo("v_a.mp4")
        info.size = 120 * 2**20
        file.write(info.tobuf())
        for _ in range(120):
            file.write(bytes(2**20))
    expected = {"v_a": tmp_path / "v_a" / "video"}
    for what in (expected, {}):  # also where it is only skipped
        with pytest.raises(ValueError, match=r"x.tgz: [\d,]+ bytes unpack to 10\d,\d+,\d+: a decompression bomb"):
            opened("x.tgz", packed.getvalue(), tmp_path, expected=what).members()
    assert not expected["v_a"].exists()


def test_a_header_that_would_fill_the_memory_is_not_read(tmp_path):
    header = tarfile.TarInfo("v_a.mp4")
    header.type, header.size = tarfile.XHDTYPE, 8 * 2**30
    with pytest.raises(ValueError, match=r"a header of 8,589,934,592 bytes: an attack, or damaged"):
        opened("x.tar", header.tobuf(tarfile.GNU_FORMAT) + bytes(10_240), tmp_path).members()


def test_a_member_that_is_larger_than_any_video_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(media, "MAX_FILE_BYTES", 50_000)
    *_, large = opened("x.tar", KINDS["x.tar"], tmp_path).members()
    assert large.problem == "larger than any video: 70,000 bytes"


@pytest.mark.parametrize("name", KINDS)
def test_an_archive_without_its_last_part_is_said_to_be_damaged(tmp_path, name):
    with pytest.raises(ValueError, match=r"x\.\w+(\.\w+)?.*(damaged|not a zip)"):
        opened(name, KINDS[name][: len(KINDS[name]) // 2], tmp_path).members()


@pytest.fixture
def hub(site, monkeypatch):
    """hub(files, repo): a dataset repository with these files, as the hub shows it."""
    for name, value in (  # what HF_ENDPOINT sets before the client is imported
        ("ENDPOINT", site.url),
        ("HUGGINGFACE_CO_URL_TEMPLATE", f"{site.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"),
    ):
        monkeypatch.setattr(huggingface_hub.constants, name, value)

    def publish(files: dict[str, bytes], repo="someone/videos", commit="c" * 40) -> None:
        tree = [
            {"type": "file", "path": path, "size": len(content), "oid": str(hash(content))}
            for path, content in files.items()
        ]
        site.pages |= {
            f"/api/datasets/{repo}/revision/main": Page(
                json.dumps({"id": repo, "sha": commit, "_id": "0"}).encode(), kind="application/json"
            ),
            f"/api/datasets/{repo}/tree/{commit}": Page(json.dumps(tree).encode(), kind="application/json"),
            **{f"/datasets/{repo}/resolve/{commit}/{path}": Page(content) for path, content in files.items()},
        }

    return publish


@pytest.fixture
def ask(workspace, tmp_path):
    """ask(ids, videos): the stage on these ids; returns the ledger's rows."""

    def run(
        *ids: str, videos: int | None = None, archives: str = "*.tar.part-*", **more: object
    ) -> dict[str, verdict.Row]:
        entry = {"duration": 2.0, "timestamps": [[0, 1]], "sentences": ["a dog runs"]}
        (tmp_path / "train.json").write_text(json.dumps(dict.fromkeys(ids, entry)))
        names = ("train", "val", "test")
        own = {
            "source": "huggingface",
            "folder": str(tmp_path),
            "annotations": {split: ["train.json"] if split == "train" else [] for split in names},
            "limit": dict.fromkeys(names, videos),
            "max_failed_fraction": 0.9,
        }
        values = {f"download.videos.{key}": value for key, value in own.items()}
        values |= {"huggingface.repo": "someone/videos", "huggingface.archives": [archives], **more}
        workspace(values)
        stages.download.main("videos")
        return ledger.read(tmp_path / "data" / "videos" / "ledger.parquet")

    return run


def in_parts(content: bytes, size: int, name: str) -> dict[str, bytes]:
    return {f"{name}.part-{i:03}": content[i * size : (i + 1) * size] for i in range(-(-len(content) // size))}


def test_wanted_videos_come_out_of_a_repositorys_parts_and_nothing_else(hub, ask, site, make_video, tmp_path):
    good = make_video("a.mp4").read_bytes()
    content = tar(
        ("Activity_Videos/v_a.mp4", good),
        ("Activity_Videos/v_a.json", b"{}"),
        ("Activity_Videos/v_unwanted.mp4", b"u" * 500_000),
        ("b.MKV", make_video("d.mkv").read_bytes()),
        ("v_noise.mp4", b"noise" * 999),
        ("../../v_evil.mp4", good),
        ("v_link.mp4", special(tarfile.SYMTYPE, "/etc/passwd")),
    )
    hub({**in_parts(content, 100_000, "Activity.tar"), "README.md": b"# Videos"})
    rows = ask("v_a", "v_b", "v_noise", "v_evil", "v_link", "v_gone")
    assert {video_id: (row.status, row.reason) for video_id, row in rows.items()} == {
        "v_a": ("ok", None),
        "v_b": ("ok", None),
        "v_noise": ("corrupt", "text, not a video"),
        "v_evil": ("refused", "its path leads out of the archive"),
        "v_link": ("refused", "a link or a device, not a file"),
        "v_gone": ("missing", "no member of that name in the archives of someone/videos"),
    }
    data = tmp_path / "data" / "videos"
    assert sorted(path.name for path in (data / "media").iterdir()) == ["v_a.mp4", "v_b.mkv"]
    assert (data / "media" / "v_a.mp4").read_bytes() == good
    assert sum(path.stat().st_size for path in data.rglob("*") if path.is_file()) < len(content) / 4  # no second copy

    site.requests.clear()
    hub({**in_parts(content, 100_000, "Activity.tar"), "README.md": b"# Edited"}, commit="d" * 40)
    assert ask("v_a", "v_b", "v_noise", "v_evil", "v_link", "v_gone") == rows
    assert not any("resolve" in path for path in site.paths())  # a new commit, the same archives


def test_a_run_that_was_killed_asks_only_for_what_is_missing(hub, ask, site, make_video, tmp_path):
    good = make_video("a.mp4").read_bytes() + bytes(300_000)
    content = tar(*((f"v_{i}.mp4", good) for i in range(6)))
    hub(in_parts(content, 1_000_000, "x.tar"))
    with pytest.raises(ValueError, match="no video is usable"):
        ask("v_none")  # writes the params
    shutil.rmtree(tmp_path / "data")
    entry = {"duration": 2.0, "timestamps": [[0, 1]], "sentences": ["a dog runs"]}
    (tmp_path / "train.json").write_text(json.dumps({f"v_{i}": entry for i in range(6)}))
    last = "/datasets/someone/videos/resolve/" + "c" * 40 + "/x.tar.part-001"
    site.pages[last] = [site.pages[last]] * 3 + [Page(site.pages[last].body, stall_s=60)]
    killed = subprocess.Popen(
        [sys.executable, "-m", "stages.download", "videos"],
        env={**os.environ, "HF_ENDPOINT": site.url, "PYTHONPATH": str(Path(stages.download.__file__).parent.parent)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    videos, until = tmp_path / "data" / "videos" / "media", time.monotonic() + 300
    while not len(list(videos.glob("*.mp4"))) >= 2 and time.monotonic() < until:
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    there = {path.stem for path in videos.glob("*.mp4")}
    assert 0 < len(there) < 6
    hub(in_parts(content, 1_000_000, "x.tar"))
    site.requests.clear()
    rows = ask(*(f"v_{i}" for i in range(6)))
    assert {row.status for row in rows.values()} == {"ok"}
    ranges = [part.removeprefix("bytes=").split("-") for _, path, part in site.requests if part]
    expected = (6 - len(there)) * len(good)
    assert sum(int(end) + 1 - int(start) for start, end in ranges) <= expected


def test_a_subset_of_an_archive_costs_a_subset_of_its_bytes(hub, ask, site, make_video):
    good = make_video("a.mp4").read_bytes() + bytes(2_000_000)
    content = tar(*((f"v_{i}.mp4", good) for i in range(12)))
    hub(in_parts(content, 5_000_000, "x.tar"))
    rows = ask(*(f"v_{i}" for i in range(12)), videos=2)
    assert sorted(row.status for row in rows.values()) == ["ok"] * 2 + ["skipped"] * 10
    ranges = [part.removeprefix("bytes=").split("-") for _, path, part in site.requests if part]
    assert sum(int(end) - int(start) for start, end in ranges) < len(content) / 3


def test_a_hub_that_breaks_off_is_asked_again_and_if_it_stays_so_that_is_the_reason(
    hub, ask, site, make_video, monkeypatch
):
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client's back-off
    good = make_video("a.mp4").read_bytes()
    hub({"x.tar": tar(("v_a.mp4", good)), "y.tar": tar(("v_b.mp4", b"b" * 200_000))})
    address = "/datasets/someone/videos/resolve/" + "c" * 40
    page = site.pages[f"{address}/x.tar"]
    site.pages[f"{address}/x.tar"] = [Page(b"busy", 503), Page(page.body, cut=100), page]
    site.pages[f"{address}/y.tar"] = [site.pages[f"{address}/y.tar"]] * 2 + [Page(b"busy", 503)]
    rows = ask("v_a", "v_b", archives="*.tar")
    assert rows["v_a"].status == "ok"
    assert (rows["v_b"].status, rows["v_b"].reason) == ("unavailable", "HTTP 503")


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz"])
def test_zips_and_compressed_tars_are_read_too(hub, ask, make_video, tmp_path, name):
    good = make_video("a.mp4").read_bytes()
    members = (("videos/v_a.mp4", good), ("videos/v_b.mp4", b"noise" * 99), ("v_c.mp4", good))
    hub({name: zipped(*members) if name == "x.zip" else tar(*members, kind="w:gz")})
    rows = ask("v_a", "v_b", archives="x.*")
    assert {i: row.status for i, row in rows.items()} == {"v_a": "ok", "v_b": "corrupt"}
    assert ask("v_a", "v_b", "v_c", archives="x.*")["v_c"].status == "ok"  # asked for later
    assert sorted(path.name for path in (tmp_path / "data/videos/media").iterdir()) == ["v_a.mp4", "v_c.mp4"]
    assert not list((tmp_path / "data/videos/.partial").iterdir())


def test_a_repository_that_cannot_be_used_is_said_in_a_line(hub, ask, site):
    with pytest.raises(ValueError, match=r"huggingface.repo someone/videos at main cannot be listed: HTTP 404"):
        ask("v_a")
    hub({"README.md": b"", "x.rar.part-1": b""})
    with pytest.raises(ValueError, match=r"huggingface.archives: someone/videos at main has no file like \*.tar.part"):
        ask("v_a")
    with pytest.raises(ValueError, match=r"huggingface.archives: x.rar.part-1 is no .tar, .tar.gz or .zip, nor a part"):
        ask("v_a", archives="x.*")


def test_what_the_hub_sends_beyond_what_was_asked_for_is_not_read(hub, ask, site, make_video, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client's back-off
    good = make_video("a.mp4").read_bytes()
    hub({"x.tar": tar(("v_a.mp4", good)), "y.tar": tar(("v_b.mp4", b"b" * 200_000)), "z.tar": tar(("v_c.mp4", good))})
    address = "/datasets/someone/videos/resolve/" + "c" * 40
    index = site.pages[f"{address}/y.tar"]
    site.pages[f"{address}/y.tar"] = [index] * 2 + [Page(bytes(2**16), status=206, endless=True)]
    packed = Page(gzip.compress(bytes(2**20)), status=206, headers=(("Content-Encoding", "gzip"),))
    site.pages[f"{address}/z.tar"] = [site.pages[f"{address}/z.tar"], packed]
    rows = ask("v_a", "v_b", "v_c", archives="*.tar")
    assert {video_id: (row.status, row.reason) for video_id, row in rows.items()} == {
        "v_a": ("ok", None),
        "v_b": ("unavailable", "HTTPError: it sent more than was requested"),
        "v_c": ("unavailable", "HTTPError: it sent gzip, which was not requested"),
    }


def test_a_members_and_a_lists_size_are_held_to_the_params(hub, ask, site, make_video):
    good = make_video("a.mp4").read_bytes()
    for name in ("x.tar", "x.tar.gz"):
        hub({name: tar(("v_a.mp4", good), ("v_b.mp4", bytes(len(good) + 1)), kind="w:gz" if name[-1] == "z" else "w")})
        rows = ask("v_a", "v_b", archives="x.*", **{"huggingface.max_file_gb": len(good) / 2**30})
        assert rows["v_a"].status == "ok"
        assert (rows["v_b"].status, rows["v_b"].reason) == ("refused", "larger than huggingface.max_file_gb")
        assert ask("v_a", "v_b", archives="x.*", **{"huggingface.max_file_gb": len(good) / 2**30}) == rows
        assert ask("v_a", "v_b", archives="x.*")["v_b"].status == "corrupt"  # a higher limit: it is read now
    site.pages["/api/datasets/someone/videos/tree/" + "c" * 40] = Page(b" " * 2**16, endless=True)
    with pytest.raises(ValueError, match=r"cannot be listed: HTTPError: it sent more than huggingface.max_page_mb"):
        ask("v_a", archives="x.*")
