from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.features import shards
from pipeline.features.shards import VideoRows
from pipeline.files.aside import ASIDE

SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("frame_index", pa.int32()),
        ("jpeg", pa.binary()),
        ("embedding", pa.list_(pa.float16(), 3)),
    ]
)


def rows_of(video_id: str, version: int, rows: int) -> pa.Table:
    """Some rows that depend on the id and the version; a few pages of them when there are many."""
    random = np.random.default_rng([*video_id.encode(), version])
    embedding = pa.array(random.standard_normal(rows * 3).astype(np.float16))
    return pa.table(
        [
            pa.array([video_id] * rows, pa.string()),
            pa.array(range(rows), pa.int32()),
            pa.array([random.bytes(1 + version * 5000 % 9000) for _ in range(rows)], pa.binary()),
            pa.FixedSizeListArray.from_arrays(embedding, 3),
        ],
        schema=SCHEMA,
    )


class Killed(Exception):
    pass


def build(
    folder: Path, videos: dict[str, tuple[int, int]], count: int, kill_after: int | None = None, only=shards.WHOLE
):
    """videos: id -> (version, rows); rows 0: dropped. Returns what was computed and the Update."""
    computed: list[str] = []

    def compute(video_ids: list[str]) -> Iterator[VideoRows]:
        for number, video_id in enumerate(video_ids):
            if number == kill_after:
                raise Killed
            computed.append(video_id)
            version, rows = videos[video_id]
            if rows == 0:
                yield VideoRows(video_id, None, "no frame decodes")
            else:
                yield VideoRows(video_id, rows_of(video_id, version, rows), "cut short" if rows == 3 else None)

    fingerprints = {video_id: f"{version}:{rows}" for video_id, (version, rows) in videos.items()}
    done = shards.update(folder, schema=SCHEMA, shards=count, fingerprints=fingerprints, compute=compute, only=only)
    return computed, done


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


VIDEOS = st.dictionaries(
    st.sampled_from([f"v{i}" for i in range(9)]),
    st.tuples(st.integers(0, 2), st.sampled_from([0, 1, 3, 200, 300])),
    max_size=9,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    history=st.lists(
        st.tuples(VIDEOS, st.integers(1, 3), st.none() | st.integers(0, 8), st.booleans()), min_size=1, max_size=4
    ),
    last=VIDEOS,
    count=st.integers(1, 3),
)
def test_any_history_ends_as_a_clean_build(tmp_path_factory, history, last, count):
    folder, clean = tmp_path_factory.mktemp("history"), tmp_path_factory.mktemp("clean")
    for videos, earlier_count, kill_after, leave_rubbish in history:
        with suppress(Killed):
            build(folder, videos, earlier_count, kill_after)
        if leave_rubbish:  # what SIGKILL leaves, which an exception cannot: a half-written file
            (folder / f"shard-00000.parquet{ASIDE}").write_bytes(b"PAR1 half")
    build(folder, last, count)
    build(clean, last, count)
    assert contents(folder) == contents(clean)


def test_only_what_changed_is_computed(tmp_path):
    videos = {f"v{i}": (0, 5) for i in range(20)}
    build(tmp_path, videos, 4)
    before = contents(tmp_path)
    videos |= {"v3": (1, 5), "new": (0, 5)}
    del videos["v7"]
    computed, done = build(tmp_path, videos, 4)
    assert sorted(computed) == ["new", "v3"]
    assert (done.kept, done.made, done.removed, done.dropped, done.rows) == (18, 2, 1, 0, 100)
    changed = {shards.shard_of(i, 4) for i in ("v3", "v7", "new")}
    after = contents(tmp_path)
    assert all((before[name] == after[name]) == (n not in changed) for n, name in enumerate(sorted(before)))


def test_nothing_changed_touches_no_file(tmp_path):
    build(tmp_path, {"a": (0, 2), "b": (0, 0)}, 2)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    computed, done = build(tmp_path, {"a": (0, 2), "b": (0, 0)}, 2)
    assert computed == [] and done.kept == 2 and done.dropped == 1 and done.reasons == {"b": "no frame decodes"}
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


def test_a_killed_run_keeps_the_shards_it_finished(tmp_path):
    videos = {f"v{i}": (0, 5) for i in range(20)}
    with pytest.raises(Killed):
        build(tmp_path, videos, 4, kill_after=12)
    kept = list(shards.index(tmp_path))
    computed, _ = build(tmp_path, videos, 4)
    assert 0 < len(kept) <= 12 and set(computed) == videos.keys() - set(kept)


def test_slices_touch_nothing_of_each_other_and_together_make_a_clean_build(tmp_path):
    videos = {f"v{i}": (0, 5) for i in range(20)}
    folder, clean = tmp_path / "folder", tmp_path / "clean"
    build(clean, videos, 4)
    build(folder, videos | {"v3": (1, 5), "old": (0, 5)}, 6)  # of a larger count, and with what goes and changes
    (folder / f"shard-00001.parquet.0123abcd{ASIDE}").write_bytes(b"PAR1 half")
    for part in (2, 3, 1):
        before = contents(folder)
        build(folder, videos, 4, only=shards.Slice(part, 3))
        after = contents(folder)
        touched = {name for name in before | after if before.get(name) != after.get(name)}
        assert touched and all(int(name[6:11]) % 3 == part - 1 for name in touched)
    assert contents(folder) == contents(clean)


@pytest.mark.parametrize("text", ["0/4", "5/4", "1/0", "3", "-1/4", "1/4/2", ""])
def test_a_slice_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match=f"--shards: found '{text}', expected I/N with I from 1 to N"):
        shards.Slice.parse(text)


def test_shards_are_in_order_of_their_numbers_however_many_there_are(tmp_path):
    names = [f"shard-{number:05d}.parquet" for number in (99998, 99999, 100000)]
    for name in reversed(names):
        (tmp_path / name).touch()
    assert [path.name for path in shards._shards(tmp_path)] == names


def test_a_result_that_is_not_final_is_tried_again(tmp_path):
    def compute(video_ids: list[str]) -> Iterator[VideoRows]:
        tried.extend(video_ids)
        yield VideoRows("a", None, "took longer than the limit", final=False)

    tried: list[str] = []
    for _ in range(2):
        shards.update(tmp_path, schema=SCHEMA, shards=1, fingerprints={"a": "1"}, compute=compute)
    assert tried == ["a", "a"]


def test_every_video_reads_back_alone_and_in_turn(tmp_path):
    rows = {"a": 1, "b": 0, "c": 255, "d": 1, "e": shards.LONGEST_GROUP_ROWS + 300, "f": 7, "g": 600}
    build(tmp_path, {video_id: (1, n) for video_id, n in rows.items()}, 2)
    assert {video_id: entry.rows for video_id, entry in shards.index(tmp_path).items()} == rows
    for video_id, n in rows.items():
        assert shards.read(tmp_path, video_id).equals(rows_of(video_id, 1, n))
    walked = list(shards.iterate(tmp_path))
    assert sorted(video_id for video_id, _ in walked) == ["a", "c", "d", "e", "f", "g"]
    assert all(table.equals(rows_of(video_id, 1, rows[video_id])) for video_id, table in walked)
    some = list(shards.iterate(tmp_path, ["g", "a"], columns=["frame_index"]))
    assert {video_id: table.column_names for video_id, table in some} == {"a": ["frame_index"], "g": ["frame_index"]}
    with pytest.raises(KeyError, match="has no video 'z'"):
        shards.read(tmp_path, "z")
    with pytest.raises(KeyError, match="has no video 'z'"):
        list(shards.iterate(tmp_path, ["z"]))


def test_row_groups_are_cut_at_videos(tmp_path):
    build(tmp_path, {"a": (0, 200), "b": (0, 3), "c": (0, 300), "d": (0, 1)}, 1)
    metadata = pq.read_metadata(tmp_path / "shard-00000.parquet")
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [503, 1]


def test_a_damaged_shard_is_made_again(tmp_path):
    build(tmp_path, {"a": (0, 2)}, 1)
    whole = contents(tmp_path)
    path = tmp_path / "shard-00000.parquet"
    content = path.read_bytes()
    for damaged in (b"", content[:-20], content[:-400] + b"x" * 392 + content[-8:]):
        path.write_bytes(damaged)
        computed, _ = build(tmp_path, {"a": (0, 2)}, 1)
        assert computed == ["a"] and contents(tmp_path) == whole


def test_a_flipped_bit_anywhere_is_found_and_mended_and_nothing_else_is_computed(tmp_path):
    videos = {f"v{i}": (1, 3) for i in range(6)}
    build(tmp_path, videos, 2)
    whole = contents(tmp_path)
    path = tmp_path / "shard-00001.parquet"
    content = path.read_bytes()
    in_it = [video_id for video_id in videos if shards.shard_of(video_id, 2) == 1]
    for at in (*range(2, len(content), len(content) // 40), len(content) - 3):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        computed, _ = build(tmp_path, videos, 2)
        assert computed == in_it, f"byte {at}"
        assert contents(tmp_path) == whole


def test_a_reader_says_which_shard_is_damaged_and_leaves_no_video_out(tmp_path):
    build(tmp_path, {f"v{i}": (1, 3) for i in range(6)}, 2)
    path = tmp_path / "shard-00001.parquet"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1  # of a picture
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"shard-00001.parquet is damaged \(.*CRC.*\); make it again with: dvc repro"):
        list(shards.iterate(tmp_path))
    path.write_bytes(b"no shard at all")
    for reads in (lambda: shards.index(tmp_path), lambda: list(shards.iterate(tmp_path))):
        with pytest.raises(ValueError, match=r"shard-00001.parquet is damaged, or not one of this project's shards"):
            reads()


def test_rows_of_another_schema_are_computed_again(tmp_path):
    build(tmp_path, {"a": (0, 2), "b": (0, 0)}, 1)
    wider = SCHEMA.set(SCHEMA.get_field_index("frame_index"), pa.field("frame_index", pa.int64()))
    computed: list[str] = []

    def compute(video_ids: list[str]) -> Iterator[VideoRows]:
        computed.extend(video_ids)
        yield VideoRows("a", rows_of("a", 0, 2).cast(wider))
        yield VideoRows("b", None, "no frame decodes")

    shards.update(tmp_path, schema=wider, shards=1, fingerprints={"a": "0:2", "b": "0:0"}, compute=compute)
    assert computed == ["a", "b"]
    assert shards.read(tmp_path, "a").schema.equals(wider)


@pytest.mark.parametrize("change", ["Parquet's writer", "this module", "the number of shards"])
def test_shards_of_another_layout_are_written_again_from_the_rows_that_are_there(tmp_path, monkeypatch, change):
    videos = {"a": (0, 2), "b": (0, 0)}
    build(tmp_path, videos, 1)
    name = "shard-00000.parquet"
    before = contents(tmp_path)[name]
    count = 1
    if change == "Parquet's writer":
        monkeypatch.setattr(shards.pa, "__version__", "0.1")
    elif change == "this module":
        monkeypatch.setattr(shards, "file_fingerprint", lambda path: f"other {path.name}")
    else:
        # Of so many that both videos stay in the first.
        count = next(n for n in range(2, 99) if {shards.shard_of(video_id, n) for video_id in videos} == {0})
    computed, done = build(tmp_path, videos, count)
    assert (computed, done.kept, done.made) == ([], 2, 0)
    after = contents(tmp_path)[name]
    assert after != before
    assert build(tmp_path, videos, count)[0] == [] and contents(tmp_path)[name] == after


def test_a_full_disk_leaves_the_old_shard_and_says_what_to_do(tmp_path, monkeypatch):
    build(tmp_path, {"a": (0, 2)}, 1)
    whole, full = contents(tmp_path), Path("/dev/full")
    # The kernel's own ENOSPC, met while writing a row group and (buffered) only at the end.
    for buffering in (0, 1 << 24):
        monkeypatch.setattr(shards, "_open", lambda _, size=buffering: full.open("wb", buffering=size))
        with pytest.raises(shards.DiskFull, match=r"no space left on the disk for .*shard-00000.parquet .*is intact"):
            build(tmp_path, {"a": (0, 2), "b": (2, 300)}, 1)
        assert contents(tmp_path) == whole
    monkeypatch.undo()
    computed, _ = build(tmp_path, {"a": (0, 2), "b": (2, 300)}, 1)
    assert computed == ["b"] and list(contents(tmp_path)) == ["shard-00000.parquet"]


def test_a_folder_without_shards_names_the_command(tmp_path):
    with pytest.raises(ValueError, match="holds no shards; make them with: dvc repro"):
        shards.index(tmp_path)


def test_a_long_video_can_be_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "LONGEST_GROUP_ROWS", 300)
    build(tmp_path, {"long": (0, 700), "short": (0, 5), "none": (0, 0)}, 1)
    parts = list(shards.iterate(tmp_path, columns=["frame_index"], whole=False))
    assert [(name, part.num_rows) for name, part in parts] == [
        ("long", 300),
        ("long", 300),
        ("long", 100),
        ("short", 5),
    ]
    assert pa.concat_tables(part for name, part in parts if name == "long")["frame_index"].to_pylist() == list(
        range(700)
    )
