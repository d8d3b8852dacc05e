import errno
import struct
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.dataset import ledger, probe, verdict
from pipeline.dataset.ledger import Journal
from pipeline.dataset.verdict import Row
from tests.conftest import run_ffmpeg


def status(path: Path) -> tuple[str, str | None]:
    row = verdict.examine("v", path)
    assert row.bytes == path.stat().st_size and row.sha256 == verdict.sha256_of(path) and row.attempts == 1
    return row.status, row.reason


def test_a_video_is_ok_and_has_a_duration(make_video):
    row = verdict.examine("v", make_video("a.mp4"), attempts=3)
    assert (row.status, row.reason, row.attempts) == ("ok", None, 3)
    assert row.duration_s == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize("name", ["p.png", "p.jpg", "p.bmp"])
def test_a_picture_is_ok_and_has_no_duration(make_video, name):
    row = verdict.examine("v", make_video(name, "64x48", "10", 0.1))
    assert (row.status, row.duration_s) == ("ok", None)


def test_a_file_of_zero_bytes_is_corrupt(tmp_path):
    (tmp_path / "a.mp4").touch()
    assert status(tmp_path / "a.mp4") == ("corrupt", "zero bytes")


def test_sound_alone_is_no_video(make_video, tmp_path):
    sound, song, radio = tmp_path / "a.m4a", tmp_path / "song.m4a", tmp_path / "a.mp3"
    run_ffmpeg("-f", "lavfi", "-i", "sine=d=1", str(sound))
    run_ffmpeg("-f", "lavfi", "-i", "sine=d=1", str(radio))
    cover = str(make_video("p.png", "64x48", "10", 0.1))
    covered = ("-map", "0", "-map", "1", "-c:v", "copy", "-disposition:v", "attached_pic")
    run_ffmpeg("-f", "lavfi", "-i", "sine=d=1", "-i", cover, *covered, str(song))
    assert status(sound) == status(song) == status(radio) == ("corrupt", "sound only, no pictures")


def test_a_video_without_one_whole_picture_is_corrupt(make_video, tmp_path):
    cut = tmp_path / "a.mkv"
    cut.write_bytes(make_video("long.mkv").read_bytes()[:1000])
    assert verdict.examine("v", cut).status == "corrupt"


def test_noise_does_not_open(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"\0\1\2 noise" * 500)
    assert status(tmp_path / "a.mp4") == (
        "corrupt",
        "does not open or decode (Invalid data found when processing input)",
    )


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXTINF:2,\n{}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{}'\n",
        '<?xml version="1.0"?><MPD><BaseURL>{}</BaseURL></MPD>',
    ],
)
def test_a_playlist_posing_as_a_video_is_not_followed(make_video, tmp_path, text):
    posing = tmp_path / "a.mp4"
    posing.write_text(text.format(make_video("a.mp4")))
    assert status(posing) == ("corrupt", "a playlist or other text, not a video")
    posing.write_text("# a comment first\n" + text.format(make_video("a.mp4")))  # past the look at its first bytes
    assert status(posing)[0] == "corrupt"


def test_a_header_of_enormous_pictures_is_refused_before_any_is_decoded(tmp_path, monkeypatch):
    picture = tmp_path / "a.png"
    picture.write_bytes(png(10_001, 10_000))
    monkeypatch.setattr(probe, "_first", lambda *_: pytest.fail("it was decoded"))
    assert status(picture) == ("corrupt", "frames of 10001x10000 are too large")


def test_a_header_of_the_largest_pictures_that_are_taken_is_none_of_its_reasons(tmp_path):
    picture = tmp_path / "a.png"
    picture.write_bytes(png(10_000, 10_000))
    assert "too large" not in str(status(picture)[1])


def png(width: int, height: int) -> bytes:
    """A header, and hardly any pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(99))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "video_id",
    ["v_-bC9d", "000000397133", "a.b", "_x", "A" * 200, "-rf", "a b (1) [x]", "50%d", "Käse", "日本", "$HOME", "a..b"],
)
def test_an_id_that_can_be_a_files_name_is_accepted(video_id):
    assert ledger.refusal(video_id) is None


@pytest.mark.parametrize(
    "video_id",
    ["", "../x", "a/b", "a\\b", ".", "..", ".hidden", "a\0b", "a\n", "a\x1b[2J", "\udce9", "A" * 201],
)
def test_an_id_that_must_not_become_a_file_name_is_refused(video_id):
    refusal = ledger.refusal(video_id)
    assert refusal and refusal.startswith("an id that cannot be a file's name: it")


def test_rows_survive_their_table_in_order_of_id(tmp_path):
    path, rows = tmp_path / "ledger.parquet", [Row("b", "missing", "no file"), Row("a", "ok", None, 1.5, 9, "00", 2)]
    ledger.write(path, rows)
    assert list(ledger.read(path).values()) == rows[::-1]
    first = path.read_bytes()
    ledger.write(path, rows[::-1])
    assert path.read_bytes() == first and list(tmp_path.iterdir()) == [path]


def test_a_flipped_bit_in_the_table_has_its_files_examined_again(tmp_path):
    path = tmp_path / "data" / "videos" / "ledger.parquet"
    path.parent.mkdir(parents=True)
    ledger.write(path, [Row("a", "ok", None, 1.5, 9, "00" * 32)], source="youtube")
    whole, rows = path.read_bytes(), ledger.read(path)
    columns = pq.read_metadata(path).row_group(0)
    column = next(one for i in range(9) if (one := columns.column(i)).path_in_schema == "sha256")
    begin = column.dictionary_page_offset or column.data_page_offset
    found = 0
    for at in range(begin, begin + column.total_compressed_size):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            assert ledger.read(path) == rows  # of a byte that says nothing of the rows
        except ValueError as error:
            assert str(error).endswith("dvc repro -f download@videos")
            found += 1
            with Journal(path, source="youtube") as journal:
                assert journal.known == {}
            (path.parent / ".ledger.jsonl").unlink()
    assert found > 10


def test_what_another_revision_said_of_a_file_does_not_count_and_what_the_source_said_does(tmp_path, monkeypatch):
    path = tmp_path / "ledger.parquet"
    rows_before = {"b": Row("b", "gone", "private", attempts=3), "c": Row("c", "unavailable", "HTTP 503", attempts=2)}
    judged = [Row("a", "ok", sha256="00"), Row("d", "corrupt", "zero bytes"), Row("e", "refused", "a link")]
    ledger.write(path, [*judged, *rows_before.values()], source="youtube")
    monkeypatch.setattr(verdict, "version", lambda: "other")
    with Journal(path, source="youtube") as journal:
        assert journal.known == rows_before
        journal.record(Row("a", "ok", sha256="01"))
    monkeypatch.undo()
    with Journal(path, source="youtube") as journal:  # as if that edit had never been
        assert journal.known == rows_before


def test_a_kept_file_is_examined_again_when_its_size_is_another(make_video, tmp_path):
    there = tmp_path / "v.mp4"
    there.write_bytes(make_video("a.mp4").read_bytes())
    row = verdict.examine("v", there, attempts=2)
    with Journal(tmp_path / "ledger.parquet", source="youtube") as journal:
        journal.record(row)
    with Journal(tmp_path / "ledger.parquet", source="youtube") as journal:
        assert journal.kept("v", there) == row
        there.write_bytes(make_video("b.mp4", "80x48").read_bytes())
        assert journal.kept("v", there) == verdict.examine("v", there, attempts=2) != row
        there.write_bytes(there.read_bytes()[:500])
        assert journal.kept("v", there) is None and not there.exists()


def test_a_journal_keeps_what_was_found_until_the_ledger_has_it(tmp_path):
    path = tmp_path / "ledger.parquet"
    ledger.write(path, [Row("a", "ok", sha256="old"), Row("b", "gone", "private")], source="youtube")
    with Journal(path, source="youtube") as journal:
        journal.record(Row("a", "ok", sha256="new"))
    with Journal(path, source="youtube") as journal:
        assert journal.known == {"a": Row("a", "ok", sha256="new"), "b": Row("b", "gone", "private")}
        journal.finish(journal.known.values())
    assert list(tmp_path.iterdir()) == [path] and ledger.read(path)["a"].sha256 == "new"


def test_a_journal_of_another_source_counts_for_nobody(tmp_path):
    path = tmp_path / "ledger.parquet"
    ledger.write(path, [Row("a", "ok", sha256="old")], source="youtube")
    with Journal(path, source="directory") as journal:
        assert journal.known == {}
        journal.record(Row("a", "ok", sha256="new"))  # its file is about to be another
    with Journal(path, source="youtube") as journal:
        assert journal.known == {}


def test_a_further_reason_is_added():
    assert ledger.with_reason(Row("a", "ok"), "x").reason == "x"
    assert ledger.with_reason(Row("a", "ok", "x"), "y").reason == "x; y"
    assert ledger.with_reason(Row("a", "ok"), None).reason is None


def test_a_ledger_of_another_revision_is_one_line_to_readers_and_made_again_by_the_download(tmp_path):
    path = tmp_path / "data" / "pictures" / "ledger.parquet"
    path.parent.mkdir(parents=True)
    old = pa.table({"video_id": ["a"], "status": ["ok"], "sha256": ["00"]})
    pq.write_table(old.replace_schema_metadata({"verdict": verdict.version(), "source": "youtube"}), path)
    expected = (
        r"ledger.parquet has the columns video_id, status, sha256, expected video_id, .*; make it again with: dvc repro"
    )
    with pytest.raises(ValueError, match=expected):
        ledger.read(path)
    with Journal(path, source="youtube") as journal:
        assert journal.known == {}
    path.write_bytes(b"not Parquet")
    with pytest.raises(ValueError, match=r"is damaged, or not a ledger .*: dvc repro -f download@pictures$"):
        ledger.read(path)


def test_what_of_a_file_does_not_decode_is_said_again_by_every_run(make_video, tmp_path):
    whole = make_video("long.mkv", "64x48", "10", 8.0, "noise=alls=20:allf=t", "-g", "10").read_bytes()
    (tmp_path / "v.mkv").write_bytes(whole[: len(whole) // 2])
    row = verdict.examine("v", tmp_path / "v.mkv")
    assert (row.status, row.kind) == ("ok", "video") and row.reason == row.damage
    assert row.reason and row.reason.startswith("pictures for ")
    assert ledger.with_reason(row, "empty caption dropped (1)").found_again() == row


def test_a_file_that_its_disk_does_not_give_is_tried_again(tmp_path, monkeypatch):
    def fails(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "v.mkv").touch()
    monkeypatch.setattr(verdict.probe, "check", fails)
    row = verdict.examine("v", tmp_path / "v.mkv")
    assert (row.status, row.reason) == ("unavailable", "its file cannot be read (Input/output error)")
