"""COCO as published, from a site on the loopback address."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import stages.download
import stages.frames
from pipeline.dataset import ledger, media, verdict
from pipeline.dataset.segments import from_table
from pipeline.dataset.sources.coco import Coco, karpathy_split
from pipeline.dataset.sources.http import fetch_file
from pipeline.features import shards
from tests.conftest import Page

OPTIONS = {"retries": 2, "timeout_s": 0.5, "backoff_s": 0.01, "max_file_gb": 1, "md5_in": "coco.md5.x"}


def zipped(*members: tuple[str, bytes | str]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def picture(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), (number * 20, 99, 0)).save(file, "JPEG")
    return file.getvalue()


def captions(*names: str) -> str:
    return json.dumps(
        {
            "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
            "annotations": [{"image_id": number, "caption": f"picture {number}"} for number in range(len(names))],
        }
    )


KARPATHY = {
    "images": [
        {
            "filepath": f"{folder}2014",
            "filename": f"COCO_{folder}2014_{number:012}.jpg",
            "split": split,
            "cocoid": number,
            "sentences": [{"raw": f"a thing {number}", "tokens": []}, {"raw": "a thing", "tokens": []}],
        }
        for number, (folder, split) in enumerate(
            [("train", "train"), ("val", "restval"), ("val", "val"), ("val", "test"), ("val", "test")]
        )
    ]
}


@pytest.fixture
def published(site) -> dict[str, bytes]:
    """The site has COCO, of six pictures a year; and its files by name."""
    name = "COCO_{}2014_{:012}.jpg"
    files = {
        "zips/train2017.zip": zipped(*((f"train2017/{i:012}.jpg", picture(i)) for i in range(3))),
        "zips/val2017.zip": zipped(
            ("val2017/", ""), *((f"val2017/{i:012}.jpg", picture(i)) for i in range(3, 5)), ("val2017/x.jpg", b"noise")
        ),
        "zips/train2014.zip": zipped((f"train2014/{name.format('train', 0)}", picture(0))),
        "zips/val2014.zip": zipped(*((f"val2014/{name.format('val', i)}", picture(i)) for i in range(1, 4))),
        "annotations/annotations_trainval2017.zip": zipped(
            ("annotations/captions_train2017.json", captions(*(f"{i:012}.jpg" for i in range(3)))),
            (
                "annotations/captions_val2017.json",
                captions("000000000003.jpg", "000000000004.jpg", "x.jpg", "no.jpg"),
            ),
        ),
        "karpathy/caption_datasets.zip": zipped(("dataset_coco.json", json.dumps(KARPATHY)), ("other.json", "")),
    }
    site.pages = {f"/{path}": Page(content, kind="application/zip") for path, content in files.items()}
    return {Path(path).name: content for path, content in files.items()}


@pytest.fixture
def params(site, published, workspace):
    def values(own_coco: dict[str, object] | None = None, /, **own: object) -> Path:
        splits = ("train", "val", "test")
        own = {
            "source": "coco",
            "limit": dict.fromkeys(splits),
            "max_failed_fraction": 0.5,
            "media": {"train": "train2017", "val": "val2017", "test": "val2017"},
            "annotations": {"train": ["captions_train2017.json"], "val": ["captions_val2017.json"], "test": []},
        } | own
        md5 = {name: hashlib.md5(content).hexdigest() for name, content in published.items()}
        coco = {"pictures": f"{site.url}/zips", "annotations": f"{site.url}/annotations", "md5": md5, "retries": 2}
        coco |= {"karpathy": f"{site.url}/karpathy", "timeout_s": 0.5, "backoff_s": 0.01} | (own_coco or {})
        params = {f"download.pictures.{key}": value for key, value in own.items()}
        return workspace(params | {f"coco.{key}": value for key, value in coco.items()}) / "data" / "pictures"

    return values


def test_pictures_go_from_the_zip_to_the_frames_without_being_unpacked(params, site, published, capsys):
    data = params()
    stages.download.main("pictures")
    assert "videos: 5 ok, 1 corrupt, 1 missing; 5 segments of 7 expected, 5 captions" in capsys.readouterr().out
    rows = ledger.read(data / "ledger.parquet")
    assert rows["no"].reason == "no picture of that name in train2017.zip, val2017.zip"
    assert rows["000000000001"].sha256 == hashlib.sha256(picture(1)).hexdigest()
    assert sorted(path.name for path in (data / "media").iterdir()) == ["train2017.zip", "val2017.zip"]
    assert (data / "annotations" / "captions_val2017.json").is_file()
    assert not list(data.rglob("*.jpg"))
    stages.frames.main("pictures")
    found = shards.read(data / "frames", "000000000004")
    assert found.num_rows == 1
    with Image.open(io.BytesIO(found["jpeg"][0].as_py())) as shown:
        assert shown.size == (64, 48) and int(np.asarray(shown)[9, 9, 0]) == pytest.approx(80, abs=9)
    site.requests.clear()
    before = (data / "ledger.parquet").read_bytes()
    stages.download.main("pictures")
    assert not site.requests and (data / "ledger.parquet").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ([], r"^caption_datasets.zip: found a list of 0; expected Karpathy's \{\"images\": \[...\]\}$"),
        (
            {"images": [{"split": "test"}]},
            r"image 1 is \{'split': 'test'\}; expected \{\"filename\", \"split\", \"sentences\"",
        ),
        (
            {"images": [{"split": "test", "filename": "a.jpg", "sentences": []}]},
            r"zip: the image \{.*\} has no cocoid$",
        ),
    ],
)
def test_a_split_of_another_shape_is_refused(content, error):
    with pytest.raises(ValueError, match=error):
        karpathy_split(content, "test")


def test_karpathys_split_takes_pictures_from_both_zips(params, capsys):
    splits = ("train", "val", "test")
    data = params(
        media={"train": "train2014", "val": "val2014", "test": "val2014"},
        annotations={split: [f"karpathy_{split}.json"] for split in splits},
    )
    stages.download.main("pictures")
    assert "videos: 4 ok, 1 missing; 4 segments of 5 expected, 8 captions" in capsys.readouterr().out
    segments = from_table(pq.read_table(data / "segments.parquet"))
    assert [(one.video_id[-1], one.split) for one in sorted(segments, key=lambda one: one.video_id[-1])] == [
        ("0", "train"), ("1", "train"), ("2", "val"), ("3", "test")
    ]  # fmt: skip
    assert sorted(path.name for path in (data / "annotations").iterdir()) == [
        *(f"karpathy_{split}.json" for split in sorted(splits))
    ]
    assert len(karpathy_split(KARPATHY, "test")["annotations"]) == 4


def test_a_file_of_other_bytes_than_published_is_refused(params, site, published):
    data = params()
    site.pages["/zips/val2017.zip"] = Page(published["val2017.zip"][:-1] + b"x", kind="application/zip")
    with pytest.raises(ValueError, match=r"val2017.zip: its MD5 is [0-9a-f]{32}, coco.md5.val2017.zip in params.ya"):
        stages.download.main("pictures")
    assert not [path for path in (data / "archives").iterdir() if "val2017" in path.name and "annot" not in path.name]


def test_unknown_captions_and_archives_are_said(params):
    params(annotations={"train": ["captions.json"], "val": [], "test": []})
    with pytest.raises(ValueError, match=r"source coco has no captions 'captions.json'; it has captions_train201"):
        stages.download.main("pictures")


def test_a_zip_that_was_changed_is_not_taken_for_the_old_one(params, site, published, workspace):
    data = params()
    stages.download.main("pictures")
    other = zipped(*((f"train2017/{i:012}.jpg", picture(i + 3)) for i in range(3)))
    site.pages["/zips/train2017.zip"] = Page(other, kind="application/zip")
    published["train2017.zip"] = other
    params()
    stages.download.main("pictures")
    rows = ledger.read(data / "ledger.parquet")
    assert rows["000000000000"].sha256 == hashlib.sha256(picture(3)).hexdigest()


def test_a_zip_without_an_md5_is_fetched_again_from_another_address(tmp_path, monkeypatch):
    fetched = []
    monkeypatch.setattr("pipeline.dataset.sources.coco.fetch_file", lambda url, path, **_: fetched.append(path))
    options = {"annotations": "", "karpathy": "", "md5": {"val2017.zip": None}, "retries": 0, "timeout_s": 1.0}
    options |= {"backoff_s": 0.0, "max_file_gb": 1.0, "max_captions_gb": 1.0}
    for address in ("http://here", "http://here", "http://there"):
        Coco(tmp_path, pictures=address, **options).pictures("val2017")
    assert fetched[0] == fetched[1] != fetched[2]


@pytest.fixture
def large() -> bytes:
    return bytes(range(256)) * 20_000


@pytest.mark.parametrize(
    "pages",
    [
        [{"cut": 1_000_000}, {"cut": 2_000_000}, {}],  # breaks off twice
        [{"status": 503}, {"status": 429}, {}],
        [{"stall_s": 2.0}, {}],
        [{"cut": 1_000_000}, {"ranges": False}],  # cannot go on: sends all of it
        [{"claims": 6_000_000}, {}],  # says it is longer than it is: there is no more to ask for
        [{"cut": 900_000}, {"cut": 900_000}, {"cut": 900_000}, {"cut": 900_000}, {"cut": 900_000}, {}],
    ],
    ids=str,
)
def test_a_file_arrives_whole_however_its_site_behaves(site, tmp_path, large, pages):
    site.pages["/x.zip"] = [Page(large, **page) for page in pages]
    target = tmp_path / "x.zip"
    fetch_file(f"{site.url}/x.zip", target, md5=hashlib.md5(large).hexdigest(), **OPTIONS)
    assert target.read_bytes() == large and list(tmp_path.iterdir()) == [target]
    before = len(site.requests)
    fetch_file(f"{site.url}/x.zip", target, md5=None, **OPTIONS)
    assert len(site.requests) == before


def test_a_file_that_was_killed_goes_on_where_it_was(site, tmp_path, large):
    site.pages["/x.zip"] = Page(large, stall_s=60)
    target = tmp_path / "x.zip"
    code = (
        "from pathlib import Path\nfrom pipeline.dataset.sources.http import fetch_file\n"
        f"how = {{**{OPTIONS!r}, 'timeout_s': 60}}\n"
        f"fetch_file({site.url + '/x.zip'!r}, Path({str(target)!r}), md5=None, **how)"
    )
    killed = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, start_new_session=True)
    partial, until = tmp_path / "x.zip.part", time.monotonic() + 300
    while not (partial.exists() and partial.stat().st_size) and time.monotonic() < until:
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    had = partial.stat().st_size
    site.pages["/x.zip"] = Page(large)
    fetch_file(f"{site.url}/x.zip", target, md5=hashlib.md5(large).hexdigest(), **OPTIONS)
    assert site.requests[-1] == ("GET", "/x.zip", f"bytes={had}-") and 0 < had < len(large)


def test_a_site_that_will_not_give_a_file_is_said(site, tmp_path, large):
    with pytest.raises(ValueError, match=r"/none.zip: HTTP 404$"):
        fetch_file(f"{site.url}/none.zip", tmp_path / "x.zip", md5=None, **OPTIONS)
    site.pages["/busy.zip"] = Page(b"busy", 503)
    with pytest.raises(ValueError, match=r"/busy.zip: HTTP 503; the part so far is kept, run the stage again"):
        fetch_file(f"{site.url}/busy.zip", tmp_path / "x.zip", md5=None, **OPTIONS)
    assert len(site.requests) == 1 + 3
    site.pages["/cut.zip"] = [Page(large, cut=1_000_000), Page(b"busy", 503)]
    with pytest.raises(ValueError, match=r"/cut.zip: HTTP 503"):
        fetch_file(f"{site.url}/cut.zip", tmp_path / "y.zip", md5=None, **OPTIONS)
    assert (tmp_path / "y.zip.part").stat().st_size == 1_000_000


def test_a_member_of_a_zip_is_a_file_for_as_long_as_it_is_needed(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(zipped(("deep/one.jpg", picture(1)), ("../evil.jpg", b""), ("/etc/evil.jpg", b"")))
    found = media.files(tmp_path)
    assert found == {"one": path / "deep" / "one.jpg"}  # not those whose paths lead out of it
    with media.local(found["one"]) as file:
        assert file.read_bytes() == picture(1) and file.name == "one.jpg"
    assert not file.exists() and media.size_of(found["one"]) == len(picture(1))
    with pytest.raises(media.BadMember, match=r"a.zip has no member none.jpg"), media.local(path / "none.jpg"):
        pass


def test_a_member_that_is_damaged_or_a_bomb_is_corrupt(tmp_path):
    path = tmp_path / "a.zip"
    content = bytearray(zipped(("one.jpg", picture(1))))
    content[60] ^= 1
    path.write_bytes(content)
    row = verdict.examine("one", path / "one.jpg")
    assert (row.status, row.reason) == ("corrupt", "cannot be unpacked (Bad CRC-32 for file 'one.jpg')")
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.jpg", bytes(40_000_000))
    row = verdict.examine("bomb", tmp_path / "b.zip" / "bomb.jpg")
    assert row.status == "corrupt" and row.reason.endswith("that unpack to 40,000,000: a decompression bomb")


def test_nothing_that_is_sent_as_a_video_becomes_a_zip():
    assert media.name_for("v_a", ".mp4") == "v_a.mp4"
    assert media.name_for("v_a", ".zip") == media.name_for("v_a", "./x") == media.name_for("v_a", "") == "v_a.video"


def test_a_file_is_read_only_as_far_as_the_params_allow(site, tmp_path):
    for page in (Page(bytes(2**16), endless=True), Page(bytes(99), claims=2**40), Page(bytes(2**22))):
        site.pages["/x.zip"] = page
        with pytest.raises(ValueError, match=r"/x.zip: larger than coco.max_file_gb in params.yaml allows"):
            fetch_file(f"{site.url}/x.zip", tmp_path / "x.zip", md5=None, **OPTIONS | {"max_file_gb": 2**-9})
    assert not (tmp_path / "x.zip").exists() and (tmp_path / "x.zip.part").stat().st_size <= 2**21


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (Page(b"x", claims="abc"), r"/x.zip: found 'abc' as its Content-Length, expected a number of bytes"),
        (
            Page(b"x", headers=(("Content-Encoding", "gzip"),)),
            r"/x.zip: sent with Content-Encoding gzip, which was not",
        ),
        (
            Page(b"", 302, headers=(("Location", "ftp://h/\x1b[2J"),)),
            r"/x.zip: redirects to ftp://h/.*neither http n",
        ),
        (
            Page(b"", 302, headers=(("Location", "file:///etc/passwd"),)),
            r"/x.zip: HTTP 302$",
        ),
    ],
)
def test_an_answer_that_makes_no_sense_is_said_with_its_address(site, tmp_path, page, message):
    site.pages["/x.zip"] = page
    with pytest.raises(ValueError, match=message) as raised:
        fetch_file(f"{site.url}/x.zip", tmp_path / "x.zip", md5=None, **OPTIONS)
    assert "\x1b" not in str(raised.value) and len(site.requests) == 1


def test_captions_that_would_fill_the_memory_are_not_unpacked(params, site, published):
    params({"max_captions_gb": 1e-7})
    with pytest.raises(
        ValueError, match=r"zip: annotations/captions_train2017.json unpacks to [\d,]+ bytes, more than coco"
    ):
        stages.download.main("pictures")
