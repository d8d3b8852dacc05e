from pathlib import Path

import pytest
from conftest import run_ffmpeg

from pipeline import ledger
from pipeline.ledger import Journal, Row


def status(path: Path) -> tuple[str, str | None]:
    row = ledger.examine("v", path)
    assert row.bytes == path.stat().st_size and row.sha256 == ledger.sha256_of(path) and row.attempts == 1
    return row.status, row.reason


def test_a_video_is_ok_and_has_a_duration(make_video):
    row = ledger.examine("v", make_video("a.mp4"), attempts=3)
    assert (row.status, row.reason, row.attempts) == ("ok", None, 3)
    assert row.duration_s == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize("name", ["p.png", "p.jpg", "p.bmp"])
def test_a_picture_is_ok_and_has_no_duration(make_video, name):
    row = ledger.examine("v", make_video(name, "64x48", "10", 0.1))
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
    assert status(sound) == status(song) == ("corrupt", "no video stream")
    assert status(radio) == ("corrupt", "not a container of videos or pictures")


def test_a_video_without_one_whole_picture_is_corrupt(make_video, tmp_path):
    cut = tmp_path / "a.mkv"
    cut.write_bytes(make_video("long.mkv").read_bytes()[:1000])
    assert ledger.examine("v", cut).status == "corrupt"


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


def test_a_header_of_enormous_pictures_is_refused(make_video, tmp_path):
    bomb = tmp_path / "a.png"
    content = bytearray(make_video("p.png", "64x48", "10", 0.1).read_bytes())
    content[16:24] = (30_000).to_bytes(4, "big") * 2  # IHDR's width and height
    bomb.write_bytes(content)
    found, reason = status(bomb)
    assert found == "corrupt" and reason


@pytest.mark.parametrize("video_id", ["v_-bC9d", "000000397133", "a.b", "_x", "A" * 128])
def test_an_id_of_plain_characters_is_accepted(video_id):
    assert ledger.refusal(video_id) is None


@pytest.mark.parametrize(
    "video_id", ["", "../x", "a/b", "a\\b", "-rf", ".hidden", "a..b", "a\0b", "a b", "a\n", "ä", "A" * 129]
)
def test_an_id_that_must_not_become_a_file_name_is_refused(video_id):
    refusal = ledger.refusal(video_id)
    assert refusal and refusal.startswith(f"id {video_id[:40]!r} is not 1 to 128 of A-Z a-z 0-9")


def test_rows_survive_their_table_in_order_of_id(tmp_path):
    path, rows = tmp_path / "ledger.parquet", [Row("b", "missing", "no file"), Row("a", "ok", None, 1.5, 9, "00", 2)]
    ledger.write(path, rows)
    assert list(ledger.read(path).values()) == rows[::-1]
    first = path.read_bytes()
    ledger.write(path, rows[::-1])
    assert path.read_bytes() == first and list(tmp_path.iterdir()) == [path]


def test_what_another_probe_said_of_a_file_does_not_count_and_what_is_gone_stays_gone(tmp_path, monkeypatch):
    path, gone = tmp_path / "ledger.parquet", Row("b", "gone", "private", attempts=3)
    ledger.write(path, [Row("a", "ok", sha256="00"), gone], source="youtube")
    monkeypatch.setattr(ledger, "_probe_version", lambda: "other")
    with Journal(path, source="youtube") as journal:
        assert journal.known == {"b": gone}
        journal.record(Row("a", "ok", sha256="01"))
    monkeypatch.undo()
    with Journal(path, source="youtube") as journal:  # as if that edit had never been
        assert journal.known == {"b": gone}


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
