import itertools
import math
from collections import Counter, defaultdict
from typing import Any

import pytest

from pipeline.dataset.shapes.grammar import COLOURS, PLACES, WHITE, possible
from pipeline.dataset.shapes.scenes import (
    AT,
    FADE_S,
    KINDS,
    LARGE,
    MEDIUM,
    SMALL,
    long_video_scene,
    picture_scene,
    several_moments_scene,
    video_scene,
)

SAMPLE_S = 0.2  # the pipeline's sampling interval
SCENES = 3000

Counts = Counter[Any]


@pytest.fixture(scope="module")
def scenes():
    return [video_scene(0, "train", index) for index in range(SCENES)]


@pytest.fixture(scope="module")
def segments(scenes):
    """(scene, position in its video, segment, signature of its last frame)"""
    return [(sc, i, seg, last_frame(sc, seg)) for sc in scenes for i, seg in enumerate(sc.segments)]


def last_frame(scene, segment):
    """All that the last sampled picture of a segment shows, as the best eye would tell it."""
    time_s = (math.ceil(segment.end_s / SAMPLE_S - 1e-6) - 1) * SAMPLE_S
    shown = []
    for track in scene.tracks:
        if state := track.at(time_s):
            place = min(PLACES, key=lambda p: math.dist(AT[p], (state.x, state.y)))
            size = min((SMALL, MEDIUM, LARGE), key=lambda r: abs(r - state.radius))
            tilted = round(state.turn_deg) % 360 != 0
            shown.append((state.colour, track.shape, place, size, tilted, track.rests))
    return tuple(sorted(shown))


def chi_square(counts, expected=None):
    """(statistic, bound): beyond the bound by chance once in about a million, were all equally likely."""
    expected = expected or [sum(counts) / len(counts)] * len(counts)
    degrees = len(counts) - 1
    return sum((c - e) ** 2 / e for c, e in zip(counts, expected, strict=True)), degrees + 6 * math.sqrt(2 * degrees)


def assert_uniform(counter, values):
    statistic, bound = chi_square([counter[value] for value in values])
    assert statistic < bound, counter


def assert_alike(first, second):
    """Two samples of one distribution."""
    values = sorted(set(first) | set(second), key=str)
    share = sum(first.values()) / (sum(first.values()) + sum(second.values()))
    counts = [c[v] for v in values for c in (first, second)]
    expected = [(first[v] + second[v]) * part for v in values for part in (share, 1 - share)]
    degrees = len(values) - 1
    statistic, _ = chi_square(counts, expected)
    assert statistic < degrees + 6 * math.sqrt(2 * degrees), (first, second)


def test_the_balance_tests_can_fail():
    with pytest.raises(AssertionError):
        assert_uniform(Counter(a=400, b=520), "ab")
    with pytest.raises(AssertionError):
        assert_alike(Counter(a=400, b=520), Counter(a=520, b=400))


def test_a_scene_is_a_function_of_seed_split_and_index():
    assert video_scene(1, "val", 7) == video_scene(1, "val", 7)
    assert picture_scene(1, "val", 7) == picture_scene(1, "val", 7)
    assert video_scene(1, "val", 7) != video_scene(2, "val", 7)
    assert video_scene(1, "val", 7) != video_scene(1, "test", 7)
    assert video_scene(1, "val", 7) != video_scene(1, "val", 8)


def test_videos_are_as_long_as_promised_and_their_segments_apart(scenes):
    for scene in scenes:
        assert 20 <= scene.duration_s <= 40
        assert 3 <= len(scene.segments) <= 5
        ends = [0.0, *(s.end_s for s in scene.segments)]
        starts = [*(s.start_s for s in scene.segments), scene.duration_s]
        assert all(0.4 <= start - end <= 1.5 for end, start in zip(ends, starts, strict=True))
        assert all(4.49 < s.end_s - s.start_s < 8.01 for s in scene.segments)


def test_all_facts_are_possible_and_kinds_have_their_shares(segments):
    assert all(possible(segment.facts) for _, _, segment, _ in segments)
    shares = Counter(segment.kind for _, _, segment, _ in segments)
    expected = {"now": 0.27, "earlier": 0.27, "order": 0.17, "before": 0.29}
    assert set(shares) == set(KINDS)
    for kind, share in expected.items():
        assert shares[kind] / len(segments) == pytest.approx(share, abs=0.02)


def test_the_stage_is_clear_between_segments_and_events_are_over_in_time(scenes):
    for scene in scenes[:300]:
        for segment in scene.segments:
            for clear_s in (segment.start_s - FADE_S - 0.01, segment.end_s + FADE_S + 0.01):
                assert not any(track.at(clear_s) for track in scene.tracks)
            assert all(h.start_s > segment.start_s and h.end_s <= segment.end_s - 0.5 for h in segment.happenings)
            looks = [
                [(s.colour, s.radius, s.turn_deg, s.x) for t in scene.tracks if (s := t.at(time_s))]
                for time_s in (segment.end_s - 0.5, segment.end_s - 0.01)
            ]
            assert looks[0] == looks[1]


def test_the_last_frame_of_kind_now_shows_every_fact(segments):
    for _, _, segment, shown in segments:
        assert any(rests for *_, rests in shown) == (segment.kind == "now")
        if segment.kind == "now":
            assert {(t.colour, t.shape) for t in segment.facts.things} == {(c, s) for c, s, *_ in shown}
        if segment.facts.event == "rests":
            assert segment.facts.places == (shown[0][2],)


def test_what_floats_ends_alike_whatever_it_went_through(segments):
    for _, _, segment, shown in segments:
        if segment.facts.event == "leaves":
            assert shown == ()
        elif segment.kind != "now":
            ((colour, _, place, size, tilted, rests),) = shown
            assert (size, tilted, rests) == (MEDIUM, False, False)
            assert (colour == WHITE) == (segment.facts.event == "flashes")
            assert segment.facts.event != "visits" or place == "centre"


def test_the_last_frame_does_not_tell_what_was_before_a_change(segments):
    colours: Counts = Counter()
    places: Counts = Counter()
    sizes: dict[str, Counts] = defaultdict(Counter)
    for _, _, segment, shown in segments:
        facts = segment.facts
        if facts.event == "turns":
            assert shown[0][0] == facts.colours[0]
            colours[facts.things[0].colour, shown[0][0]] += 1
        elif facts.event == "moves":
            assert shown[0][2] == facts.places[1]
            places[facts.places[0], shown[0][2]] += 1
        elif facts.event in ("grows", "shrinks"):
            sizes[facts.event][shown[0][:3]] += 1
    assert_uniform(colours, [(a, b) for a in COLOURS for b in COLOURS if a != b])
    assert_uniform(places, [(a, b) for a in PLACES for b in PLACES if a != b])
    assert_uniform(Counter({event: seen.total() for event, seen in sizes.items()}), ["grows", "shrinks"])
    for part in range(3):
        grown, shrunk = (Counter(key[part] for key in sizes[event].elements()) for event in ("grows", "shrinks"))
        assert_alike(grown, shrunk)


def test_all_orders_are_equally_likely(segments):
    ranks: Counts = Counter()
    visits: Counts = Counter()
    for _, _, segment, _ in segments:
        if segment.facts.event == "flashes":
            ranks[tuple(sorted(range(3), key=segment.facts.colours.__getitem__))] += 1
        elif segment.facts.event == "visits":
            visits[segment.facts.places] += 1
    assert len(ranks) == 6 and len(visits) == 24
    assert_uniform(ranks, list(ranks))
    assert_uniform(visits, list(visits))


def test_nothing_in_its_own_segment_tells_coming_back_from_coming_in(segments):
    """Nor the number of segments before it, nor where it comes from, nor when."""
    features: dict[Any, dict[Any, Counts]] = defaultdict(lambda: defaultdict(Counter))
    for scene, position, segment, shown in segments:
        if segment.kind != "before":
            continue
        assert position > 0
        (happening,) = segment.happenings
        (track,) = [t for t in scene.tracks if t.at(segment.end_s) and t.object_id == happening.object_id]
        colour, shape, place, *_ = shown[0]
        event = segment.facts.event
        for name, value in {
            "any": "",
            "colour": colour,
            "shape": shape,
            "place": place,
            "position": position,
            "segments": len(scene.segments),
            "from": (round(track.x[0][1]), round(track.y[0][1]), track.x[0][1] < 0, track.y[0][1] < 0),
            "begins": int(2 * (happening.start_s - segment.start_s)),
            "takes": int(10 * (happening.end_s - happening.start_s)),
            "lasts": int(2 * (segment.end_s - segment.start_s)),
        }.items():
            features[name][event][value] += 1
    total = {event: features["any"][event].total() for event in ("comes_back", "comes_in")}
    assert_uniform(Counter(total), list(total))
    for seen in (features[name] for name in features if name != "any"):
        assert_alike(seen["comes_back"], seen["comes_in"])


def test_what_comes_back_was_clearly_seen_and_what_comes_in_never(scenes):
    decoys: Counts = Counter()
    for scene in scenes[:150]:
        seen: Counts = Counter()  # (colour, shape) -> tenths of a second in full view
        glimpsed = set()
        times = [(i / 10, segment) for segment in scene.segments for i in range(int(segment.start_s * 10) - 4, 400)]
        for segment in scene.segments:
            if segment.kind == "before":
                look = segment.facts.things[0].colour, segment.facts.things[0].shape
                if segment.facts.event == "comes_back":
                    assert seen[look] >= 10
                else:
                    assert look not in glimpsed
                    decoys[any(look[0] == c for c, _ in seen), any(look[1] == s for _, s in seen)] += 1
            for time_s, own in times:
                if own is segment and time_s < segment.end_s + FADE_S:
                    for track in scene.tracks:
                        if state := track.at(time_s):
                            glimpsed.add((state.colour, track.shape))
                            seen[state.colour, track.shape] += state.alpha == 1 and 0.1 < state.x < 0.9
    assert decoys[True, True] > 0.2 * decoys.total() and len(decoys) == 4


def test_an_oracle_of_the_last_frame_knows_kind_now_and_only_guesses_the_others(segments):
    """It is even told the kind, and learns from half of all videos what follows from what it sees."""
    half = len(segments) // 2
    learnt: dict[Any, Counts] = defaultdict(Counter)
    for _, _, segment, shown in segments[:half]:
        learnt[segment.kind, blind(shown)][name_apart(segment, shown)] += 1
    right = defaultdict(list)
    for _, _, segment, shown in segments[half:]:
        guess = learnt[segment.kind, blind(shown)].most_common(1)
        right[segment.kind].append(bool(guess) and guess[0][0] == name_apart(segment, shown))
    share = {kind: sum(values) / len(values) for kind, values in right.items()}
    assert share["now"] == 1.0
    assert share["before"] == pytest.approx(0.5, abs=0.06)
    assert share["earlier"] < 0.3
    assert share["order"] < 0.05


def blind(shown):
    """The signature without colour and shape, which are uniform: those the oracle copies from what it sees."""
    return tuple((WHITE if colour == WHITE else "", "", *rest) for colour, _, *rest in shown)


def name_apart(segment, shown):
    """The facts, with the colours and shapes that the last frame shows replaced by references to it."""
    colours = {colour: f"colour {i}" for i, (colour, *_) in enumerate(shown)}
    shapes = {shape: f"shape {i}" for i, (_, shape, *_) in enumerate(shown)}
    facts = segment.facts
    return (
        facts.event,
        tuple((colours.get(t.colour, t.colour), shapes.get(t.shape, t.shape)) for t in facts.things),
        facts.places,
        tuple(colours.get(c, c) for c in facts.colours),
    )


def test_pictures_show_everything_that_frames_do():
    pictures = [picture_scene(0, "train", index) for index in range(2000)]
    facts = [p.segments[0].facts for p in pictures]
    assert all(possible(f) for f in facts)
    assert {f.event for f in facts} == {
        "empty", "rests", "rests_beside", "floats", "floats_between", "float_two", "float_three",
    }  # fmt: skip
    assert {len(p.tracks) for p in pictures} == {0, 1, 2, 3}
    looks = {(f.event, t.colour, t.shape) for f in facts for t in f.things if f.event in ("rests", "floats")}
    assert len(looks) > 0.95 * 2 * 9 * 6
    assert {t.look for f in facts for t in f.things} == {"", "small", "large", "tilted"}


@pytest.mark.parametrize(("minutes", "age_s"), [(2.0, 10.0), (4.0, 150.0), (60.0, 3500.0)])
def test_in_a_long_video_what_comes_back_was_seen_at_its_distance_and_never_else(minutes, age_s):
    for index in range(3):
        scene = long_video_scene(0, "test", index, minutes=minutes, age_s=age_s)
        assert scene.duration_s == 60 * minutes
        ends = [(segment.start_s, segment.end_s) for segment in scene.segments]
        assert all(end < start for (_, end), (start, _) in itertools.pairwise(ends))
        assert ends[0][0] >= 0 and ends[-1][1] < scene.duration_s
        gaps = [start - end for (_, end), (start, _) in itertools.pairwise(ends)]
        assert max(gaps) < 10  # time passes with one segment after the other
        last = scene.segments[-1]
        (named,) = last.facts.things
        (shown,) = [track for track in scene.tracks if track.object_id == "shown"][:1]
        evidence = {shown.colours[0][1], shown.shape}
        assert (evidence == {named.colour, named.shape}) == (last.facts.event == "comes_back")
        assert abs(last.start_s - age_s - shown.alpha[-1][0]) < 1
        full = [t / 10 for t in range(int(10 * scene.duration_s)) if (s := shown.at(t / 10)) and s.alpha == 1]
        assert 1.0 <= len([t for t in full if t < shown.y[0][0]]) / 10 <= 1.2
        for track in scene.tracks:
            for _, colour in track.colours:
                if (colour, track.shape) in ((named.colour, named.shape), (shown.colours[0][1], shown.shape)):
                    assert track is shown or track.alpha[0][0] > last.start_s


def test_one_coin_says_what_comes_back_in_a_long_video_and_nothing_else_tells():
    scenes = [long_video_scene(0, "test", index, minutes=0.5, age_s=10.0) for index in range(600)]
    features: dict[Any, dict[Any, Counts]] = defaultdict(lambda: defaultdict(Counter))
    for scene in scenes:
        facts = scene.segments[-1].facts
        seen = {(colour, track.shape) for track in scene.tracks[:-1] for _, colour in track.colours}
        features["any"][facts.event][""] += 1
        features["colour"][facts.event][facts.things[0].colour] += 1
        features["shape"][facts.event][facts.things[0].shape] += 1
        features["segments"][facts.event][len(scene.segments)] += 1
        assert (facts.event == "comes_back") == ((facts.things[0].colour, facts.things[0].shape) in seen)
    total = {event: features["any"][event].total() for event in ("comes_back", "comes_in")}
    assert_uniform(Counter(total), list(total))
    for name in ("colour", "shape", "segments"):
        assert_alike(features[name]["comes_back"], features[name]["comes_in"])


def test_a_video_too_short_for_the_evidences_age_is_refused():
    with pytest.raises(ValueError, match="2 minutes cannot have evidence of 118 s"):
        long_video_scene(0, "test", 0, minutes=2, age_s=118)


def test_a_scene_for_some_times_shows_what_the_whole_one_does():
    scene = long_video_scene(3, "test", 0, minutes=2, age_s=60)
    for begin in range(0, 120, 10):
        then = scene.between(begin, begin + 10)
        assert len(then.tracks) < 8
        for time_s in (begin, begin + 3.3, begin + 10):
            some, every = (
                [(track.object_id, state) for track in tracks if (state := track.at(time_s))]
                for tracks in (then.tracks, scene.tracks)
            )
            assert some == every


@pytest.mark.parametrize("age_s", [5.0, 40.0])
def test_what_takes_several_old_moments_was_seen_at_each_of_them_and_never_else(age_s):
    for kind, index in itertools.product(("times", "first"), range(3)):
        scene = several_moments_scene(0, "test", index, minutes=2, age_s=age_s, kind=kind)
        ends = [(segment.start_s, segment.end_s) for segment in scene.segments]
        assert all(end < start for (_, end), (start, _) in itertools.pairwise(ends))
        last = scene.segments[-1]
        looks = {(thing.colour, thing.shape) for thing in last.facts.things}
        tracks = [t for t in scene.tracks if {(colour, t.shape) for _, colour in t.colours} & looks]
        old = [track for track in tracks if track.alpha[0][0] < last.start_s - 1]
        assert len(tracks) - len(old) == len(looks)  # and in the last segment
        if kind == "times":
            assert last.facts.event == f"returns_{len(old)}"
        else:
            in_order = sorted(old, key=lambda track: track.alpha[0][0])
            assert [(t.colours[0][1], t.shape) for t in in_order] == [(t.colour, t.shape) for t in last.facts.things]
        assert abs(last.start_s - age_s - max(track.alpha[-1][0] for track in old)) < 1
    with pytest.raises(ValueError, match="2 minutes is too short for several moments, the latest 110 s"):
        several_moments_scene(0, "test", 0, minutes=2, age_s=110, kind="times")


def test_chance_says_how_often_it_came_and_which_came_first_and_nothing_else_tells():
    by_times: dict[Any, Counts] = defaultdict(Counter)
    colours_first: Counts = Counter()
    sides: Counts = Counter()
    for index in range(600):
        scene = several_moments_scene(0, "test", index, minutes=1, age_s=5, kind="times")
        by_times[scene.segments[-1].facts.event][scene.segments[-1].facts.things[0].colour] += 1
        scene = several_moments_scene(0, "test", index, minutes=1, age_s=5, kind="first")
        first, second = (t for t in scene.tracks if t.alpha[0][0] > scene.segments[-1].start_s - 1)
        assert (first.colours[0][1], first.shape) == (lambda t: (t.colour, t.shape))(scene.segments[-1].facts.things[0])
        colours_first[first.colours[0][1]] += 1
        sides[first.x[0][1] < second.x[0][1]] += 1
    assert_uniform(Counter({event: counts.total() for event, counts in by_times.items()}), list(by_times))
    assert len(by_times) == 3
    assert_uniform(colours_first, COLOURS)
    assert_uniform(sides, [True, False])
    assert_alike(by_times["returns_1"], by_times["returns_3"])
