import math
from collections import Counter, defaultdict

import pytest

from pipeline.shapes.grammar import COLOURS, PLACES, WHITE, possible
from pipeline.shapes.scenes import (
    AT,
    FADE_S,
    KINDS,
    LARGE,
    MEDIUM,
    SMALL,
    picture_scene,
    video_scene,
)

SAMPLE_S = 0.2  # the pipeline's sampling interval
SCENES = 3000


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
    wanted = {"now": 0.27, "earlier": 0.27, "order": 0.17, "before": 0.29}
    assert set(shares) == set(KINDS)
    for kind, share in wanted.items():
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
    colours, places, sizes = Counter(), Counter(), defaultdict(Counter)
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
    ranks, visits = Counter(), Counter()
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
    features = defaultdict(lambda: defaultdict(Counter))
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
    decoys = Counter()
    for scene in scenes[:150]:
        seen = Counter()  # (colour, shape) -> tenths of a second in full view
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
    learnt = defaultdict(Counter)
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
