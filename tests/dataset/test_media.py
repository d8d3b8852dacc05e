import zipfile

import pytest

from pipeline.dataset import media


@pytest.mark.parametrize(
    ("names", "pictures", "expected"),
    [
        ({"x.jpg": 9, "x.mp4": 5}, False, "x.mp4"),  # a downloader's thumbnail
        ({"x.webp": 9, "x.video": 5}, False, "x.video"),
        ({"x.JPG": 9, "x.MOV": 5}, False, "x.MOV"),  # a photo that moves
        ({"x.JPG": 5, "x.MOV": 9}, True, "x.JPG"),
        ({"x.LRV": 9, "x.MP4": 5, "x.THM": 1}, False, "x.MP4"),  # a camera's small copy, and its thumbnail
        ({"x.LRV": 9, "x.jpg": 5}, False, "x.jpg"),
        ({"x.mkv": 5, "x.mp4": 9}, False, "x.mp4"),
        ({"x.mp4": 5, "x.mkv": 5}, False, "x.mkv"),
    ],
)
def test_of_files_that_share_a_stem_the_one_that_is_meant_is_chosen(tmp_path, names, pictures, expected):
    for name, size in names.items():
        (tmp_path / name).write_bytes(bytes(size))
    first, others = media.best((tmp_path / name for name in names), pictures=pictures)
    assert first.name == expected
    assert media.skipped_files(others, tmp_path) == f"skipped: {', '.join(sorted(names.keys() - {expected}))}"
    assert pictures or media.files(tmp_path) == {"x": first}


def test_a_file_that_is_alone_passes_over_none(tmp_path):
    assert media.best([tmp_path / "a.jpg"]) == (tmp_path / "a.jpg", []) and media.skipped_files([], tmp_path) is None


def test_in_a_zip_a_video_comes_before_a_picture_of_its_stem_and_else_the_first(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("one/x.mp4", "one/x.jpg", "two/x.jpg", "one/x.json", "two/y.gif", "two/z.json"):
            archive.writestr(name, name)
    assert media.files(tmp_path) == {"x": tmp_path / "a.zip/one/x.mp4", "y": tmp_path / "a.zip/two/y.gif"}
