"""What captioners without memory see, and what they make of it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.baselines import BASELINES, Baseline, BaselineConfig, spread
from pipeline.captioner.mapper import Mapper, MapperConfig, build_mapper
from pipeline.captioner.memory import AGE_BUCKETS, Moments, age_bucket
from pipeline.captioner.sequences import collate, make_examples
from pipeline.params import load_params
from tests.captioner.test_sequences import SEGMENTS, video
from tests.conftest import write_params

CONFIG = MapperConfig("transformer", 2, 2, 8, 2, 2, embedding_width=5, decoder_width=6)
NARROW = replace(CONFIG, embedding_width=2)  # as the videos of test_sequences


def windows(name: str, first: int, last: int, count: int) -> list[tuple[int, int]]:
    """The windows [first, stop) of one segment."""
    found = BASELINES[name].windows(torch.tensor([[first]]), torch.tensor([[last]]), count)
    return [(int(begin), int(stop)) for begin, stop in found]


def frames(name: str, first: int, last: int, count: int) -> list[int]:
    found = windows(name, first, last, count)
    assert all(stop == begin + 1 for begin, stop in found)
    return [begin for begin, _ in found]


def new_mapper(name: str, count: int, config: MapperConfig = CONFIG, seed: int = 0) -> Mapper:
    torch.manual_seed(seed)
    mapper = build_mapper(config, None, BaselineConfig(name, count)).double()
    if mapper.marks is not None:
        torch.nn.init.normal_(mapper.marks)
    return mapper


def test_several_frames_are_evenly_spaced_in_the_order_of_time_and_end_with_the_last():
    assert frames("segment", 10, 19, 4) == [10, 13, 16, 19]
    assert frames("segment", 10, 19, 1) == [19]
    assert frames("video", 10, 20, 3) == [0, 10, 20]
    assert frames("both", 10, 19, 4) == [0, 9, 10, 19]
    assert frames("both", 10, 20, 5) == [0, 9, 10, 15, 20]  # of an odd number the segment has more
    assert frames("both", 0, 9, 4) == [0, 0, 0, 9]  # nothing was before it
    assert windows("many", 10, 19, 4) == windows("both", 10, 19, 4)
    assert windows("parts", 10, 19, 4) == [(10, 13), (13, 16), (16, 19), (19, 20)]


def test_where_there_are_fewer_frames_some_stand_there_more_than_once():
    assert frames("segment", 3, 4, 5) == [3, 4, 4, 4, 4]
    assert frames("segment", 3, 3, 3) == [3, 3, 3]
    assert windows("parts", 3, 3, 3) == [(3, 4), (3, 4), (3, 4)]
    assert windows("parts", 3, 4, 3) == [(3, 4), (3, 4), (4, 5)]


@pytest.mark.parametrize("name", BASELINES)
@settings(max_examples=30, deadline=None)
@given(start=st.integers(0, 30), length=st.integers(1, 40), count=st.integers(1, 20))
def test_no_baseline_sees_what_comes_after_the_segment_and_each_sees_the_count_it_says(name, start, length, count):
    found, last = windows(name, start, start + length - 1, count), start + length - 1
    kind = BASELINES[name]
    assert len(found) == BaselineConfig(name, count).prefixes == (count if kind.several else 1)
    assert all(begin < stop <= last + 1 for begin, stop in found)
    assert all(begin >= (start if kind.scope == "segment" else 0) for begin, _ in found)
    assert found == sorted(found)
    if kind.several:
        assert found[-1] == (last, last + 1)


@settings(max_examples=20, deadline=None)
@given(
    name=st.sampled_from(["segment", "video", "both", "many"]),
    kind=st.sampled_from(["transformer", "mlp"]),
    count=st.integers(1, 9),
    seed=st.integers(0, 1000),
)
def test_the_prefix_of_several_frames_is_that_of_each_by_itself_and_a_mark_of_its_age_and_side(name, kind, count, seed):
    mapper = new_mapper(name, count, replace(CONFIG, kind=kind), seed)
    alone = build_mapper(mapper.config, None, BaselineConfig("last", 1)).double()
    alone.load_state_dict({key: value for key, value in mapper.state_dict().items() if key != "marks"})
    embeddings = torch.randn(2, 15, 5, dtype=torch.float64)
    moments = Moments(torch.tensor([[14, 5], [3, 0]]), torch.tensor([[6, 5], [0, 0]]))
    found = mapper(embeddings, moments)
    each = 1 if name == "many" else 2
    assert found.shape == (2, 2, each * count, 6) and each * count == mapper.baseline.length(2)
    for b, r in torch.cartesian_prod(torch.arange(2), torch.arange(2)).tolist():
        first, last = int(moments.segment_start[b, r]), int(moments.frame[b, r])
        expected = []
        for frame in frames(name, first, last, count):
            here = torch.tensor([[frame]])
            side = AGE_BUCKETS if frame < first else 0
            assert mapper.marks is not None
            mark = mapper.marks[side + int(age_bucket(torch.tensor(last - frame + 1)))]
            expected.append(alone(embeddings[b : b + 1], Moments(here, here))[0, 0, :each] + mark)
        torch.testing.assert_close(found[b, r], torch.cat(expected))


@pytest.mark.parametrize("name", ["segment", "both", "parts"])
def test_training_begins_without_marks(name):
    mapper = build_mapper(CONFIG, None, BaselineConfig(name, 4))
    assert mapper.marks is not None and not mapper.marks.any()


@pytest.mark.parametrize("name", BASELINES)
def test_later_frames_change_nothing_and_one_that_is_seen_does(name):
    mapper, moments = new_mapper(name, 4), Moments(torch.tensor([[9]]), torch.tensor([[4]]))
    embeddings = torch.randn(1, 14, 5, dtype=torch.float64)
    before = mapper(embeddings, moments)
    embeddings[:, 10:] = torch.randn(1, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(mapper(embeddings, moments), before, rtol=0, atol=0)
    seen = {"first": 4, "middle": 7}.get(name, 9)
    embeddings[:, seen] += 1
    assert not torch.allclose(mapper(embeddings, moments), before)


@pytest.mark.parametrize(("name", "value"), [("last", 9), ("first", 5), ("middle", 7), ("mean", 7)])
def test_a_one_frame_baseline_sees_that_frame_of_the_segment(name, value):
    config = BaselineConfig(name, 16)  # the count is not its own
    batch = collate(make_examples([SEGMENTS[1]], {"v": video(30)}, scope=config.kind.scope))
    mapper = build_mapper(NARROW, None, config)
    assert mapper.marks is None
    found = mapper(batch.embeddings, batch.moments)
    torch.testing.assert_close(found[0], mapper.of_frames(torch.full((1, 1, 2), float(value)))[0])


@pytest.mark.parametrize("name", ["segment", "video", "both", "parts"])
def test_a_segment_alone_has_the_prefix_that_it_has_among_the_others_of_its_video(name):
    mapper = new_mapper(name, 6, NARROW).float()

    def prefixes(segments, scope) -> dict:
        batch = collate(make_examples(segments, {"v": video(30)}, scope=scope))
        of_batch = mapper(batch.embeddings, batch.moments)[batch.real]
        return dict(zip([segment.segment_id for segment in batch.segments], of_batch, strict=True))

    together = prefixes(SEGMENTS, "video")
    for segment in SEGMENTS:
        found = prefixes([segment], BASELINES[name].scope)[segment.segment_id]
        torch.testing.assert_close(found, together[segment.segment_id])


def test_a_baseline_that_is_added_is_known_to_params_and_to_the_mapper(monkeypatch, tmp_path):
    changes = {"baseline.frames": "until", "baseline.count": 3, "memory.enabled": False}
    write_params(tmp_path / "params.yaml", Path("params.yaml"), changes)
    with pytest.raises(ValueError, match=r"baseline.frames: found 'until', expected one of last, first, middle, mean"):
        load_params(tmp_path / "params.yaml")
    until = Baseline(
        "{count} frames of a segment but the last",
        lambda first, last, count: spread(first, (last - 1).maximum(first), count),
        several=True,
    )
    monkeypatch.setitem(BASELINES, "until", until)
    config = BaselineConfig(**load_params(tmp_path / "params.yaml").baseline.model_dump())
    assert config.about == "3 frames of a segment but the last" and config.prefixes == 3
    prefix = build_mapper(CONFIG, None, config)(torch.randn(1, 9, 5), Moments(torch.tensor([[8]]), torch.tensor([[0]])))
    assert prefix.shape == (1, 1, 3 * 2, 6)


@pytest.mark.parametrize("path", ["params.yaml", "profiles/own.yaml"])
def test_params_files_name_every_baseline_beside_the_key(path):
    section = Path(path).read_text().partition("\nbaseline:")[2].partition("\nmemory:")[0]
    assert all(name in section for name in BASELINES)
