"""What happens in a video or a picture: a pure function of (seed, split, index), so asking for more never changes
the ones before.

Positions are fractions of the picture's width and height, sizes fractions of its short side, times seconds.

The purpose of the data decides what may be random here. The last frame of an event's segment must not reveal the
event's history, so a floating thing always ends at medium size, upright, at a uniformly drawn place and with a
uniformly drawn colour, whatever happened to it. Only resting things have a stand, so that one frame shows the kind
`now`. And `comes_back` must differ from `comes_in` only in whether the same thing was seen in an earlier segment: one
coin flip chooses, and everything else that could tell them apart (the entrance, its timing, its place) is the same.
"""

import itertools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Literal

from pipeline.dataset.shapes.grammar import CENTRE, COLOURS, PLACES, SHAPES, WHITE, Facts, Thing, round_shape

KINDS = ("now", "earlier", "order", "before")
KIND_WEIGHTS = {"now": 30, "earlier": 30, "order": 18}  # `before` is drawn first; these share the rest
BEFORE_SHARE = 0.4  # share of segments that follow another one; with 3-5 segments per video, 30 % of all

SMALL, MEDIUM, LARGE = 0.105, 0.17, 0.25
RADIUS = {"": MEDIUM, "small": SMALL, "large": LARGE, "tilted": MEDIUM}
AT = {"left": (0.26, 0.5), "right": (0.74, 0.5), "top": (0.5, 0.26), "bottom": (0.5, 0.73), CENTRE: (0.5, 0.5)}
SYMMETRY_DEG = {"square": 90.0, "triangle": 120.0, "star": 72.0, "heart": 360.0}  # after this turn it looks the same

SETTLED_S = 0.6  # how long before its segment's end an event is over: three samples at 5 fps show its result
FADE_S = 0.3  # things appear and leave in the gaps, so every segment starts with an empty stage
SEGMENT_S = {3: (5.0, 8.0), 4: (4.5, 7.0), 5: (4.5, 6.8)}  # by number of segments
ORDER_MIN_S = 5.5
GAP_S = (0.65, 1.3)
VIDEO_S = (20.0, 40.0)
EVIDENCE_S = 2.5  # of a long video: length of the segment in which a thing is seen for a second
MAX_TIMES = 3  # that something was seen before it comes back in a long video of kind `times`

# (width, height) over the usual side, and frame rate, of the unusual videos. The short side keeps 3/4.
ODD_SIZES = ((1.25, 1.0), (1.0, 1.375), (1.02, 0.77), (0.8, 1.0), (1.5, 1.0))
ODD_RATES = (Fraction(25, 2), Fraction(15), Fraction(24000, 1001), Fraction(25))

Keys = tuple[tuple[float, float], ...]  # (time_s, value): eased in between, constant outside


@dataclass(frozen=True)
class State:
    """A thing at one moment."""

    x: float
    y: float
    radius: float
    turn_deg: float
    colour: str
    alpha: float


@dataclass(frozen=True)
class Track:
    """One thing while it is on the stage."""

    object_id: str
    shape: str
    colours: tuple[tuple[float, str], ...]  # (time_s, colour from then on)
    x: Keys
    y: Keys
    radius: Keys = ((0.0, MEDIUM),)
    turn_deg: Keys = ((0.0, 0.0),)
    alpha: Keys = ((0.0, 1.0),)
    rests: bool = False  # on a stand; else it floats

    def at(self, time_s: float) -> State | None:
        """The thing at this time, or None when it is not there."""
        alpha = _eased(self.alpha, time_s)
        if alpha <= 0:
            return None
        x, y = _eased(self.x, time_s), _eased(self.y, time_s)
        if not self.rests:
            y += 0.009 * math.sin(time_s * math.tau / 2.4)  # floating things bob
        colour = self.colours[0][1]
        for from_s, name in self.colours[1:]:
            if from_s <= time_s:
                colour = name
        return State(x, y, _eased(self.radius, time_s), _eased(self.turn_deg, time_s), colour, alpha)


@dataclass(frozen=True)
class Happening:
    """One event with its exact time."""

    what: str
    object_id: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Segment:
    start_s: float
    end_s: float
    kind: str
    facts: Facts
    happenings: tuple[Happening, ...] = ()


@dataclass(frozen=True)
class Scene:
    """A video, or (`duration_s` 0) a picture, which has one segment."""

    duration_s: float
    segments: tuple[Segment, ...]
    tracks: tuple[Track, ...]
    backdrop: int  # which of the renderer's colour pairs, modulo their number
    light_deg: int  # where the backdrop's light comes from
    width: float = 1.0  # relative to the dataset's usual side
    height: float = 1.0
    rate: Fraction | None = None  # frames per second, if not the dataset's usual rate
    tone_hz: float | None = None  # of its sound, if it has any

    def between(self, begin_s: float, end_s: float) -> "Scene":
        """The same scene without the things that are not on the stage at these times: a long video has many."""
        tracks = [
            track
            for track in self.tracks
            if (track.alpha[0][1] > 0 or track.alpha[0][0] <= end_s)
            and (track.alpha[-1][1] > 0 or track.alpha[-1][0] >= begin_s)
        ]
        return replace(self, tracks=tuple(tracks))


def video_scene(seed: int, split: str, index: int) -> Scene:
    """The script of a built-in video."""
    rng = random.Random(f"shapes video {seed} {split} {index}")
    backdrop, light_deg = rng.randrange(1000), rng.randrange(0, 360, 15)
    width, height = rng.choice(ODD_SIZES) if rng.random() < 0.06 else (1.0, 1.0)
    rate = rng.choice(ODD_RATES) if rng.random() < 0.06 else None
    tone_hz = rng.choice([220.0, 261.6, 329.6, 392.0, 440.0]) if rng.random() < 0.08 else None

    cast = _Cast()
    count = rng.choice([3, 4, 5])
    kinds = [_draw_kind(rng, first=i == 0) for i in range(count)]
    intervals, duration_s = _draw_intervals(rng, kinds)
    segments, tracks = [], []
    for kind, (start_s, end_s) in zip(kinds, intervals, strict=True):
        if kind == "before" and not cast.known:  # nothing has been seen that could come back
            kind = "earlier"
        play = rng.choice(_PLAYS[kind])
        facts, new_tracks, happenings = play(rng, cast, start_s, end_s)
        segments.append(Segment(start_s, end_s, kind, facts, tuple(happenings)))
        tracks += new_tracks
    return Scene(
        duration_s, tuple(segments), tuple(tracks), backdrop, light_deg, width, height, rate=rate, tone_hz=tone_hz
    )


def long_video_scene(seed: int, split: str, index: int, *, minutes: float, age_s: float) -> Scene:
    """The script of a video that ends with something that comes back, or comes in: a coin flip chooses.

    Some thing is seen for a second, `age_s` before the last segment begins; that segment shows whether it comes back.
    Before and in between are segments of the other kinds, in which neither it nor the thing that comes in is ever seen,
    not even for the length of a flash. (The other things are seen repeatedly, since there are only so many, and no
    caption says so.)

    Raises ValueError if the video is too short for evidence of that age.
    """
    rng = random.Random(f"shapes long video {seed} {split} {index} {minutes} {age_s}")
    backdrop, light_deg = rng.randrange(1000), rng.randrange(0, 360, 15)
    shown, newcomer = (Thing(*look) for look in rng.sample([(c, s) for c in COLOURS for s in SHAPES], 2))
    least_s, most_s = SEGMENT_S[4]
    last_s = round(60 * minutes - rng.uniform(*GAP_S), 2)  # the end of the last segment
    first_s = round(last_s - rng.uniform(least_s, most_s), 2)
    seen_s = round(first_s - age_s, 2)  # the end of the evidence
    if seen_s - EVIDENCE_S < 0:
        raise ValueError(f"a video of {minutes:g} minutes cannot have evidence of {age_s:g} s before its last segment")

    evidence = _show(rng, shown, seen_s)
    segments, tracks = [evidence[0]], [evidence[1]]
    for begin_s, end_s in ((0.0, round(seen_s - EVIDENCE_S, 2)), (seen_s, first_s)):
        for segment, of_segment in _pass_time(rng, begin_s, end_s, {(t.colour, t.shape) for t in (shown, newcomer)}):
            segments.append(segment)
            tracks += of_segment
    back = rng.random() < 0.5
    thing, object_id = (shown, evidence[1].object_id) if back else (newcomer, "newcomer")
    facts, last, happenings = _enter(rng, "comes_back" if back else "comes_in", thing, object_id, first_s, last_s)
    segments.append(Segment(first_s, last_s, "before", facts, tuple(happenings)))
    segments.sort(key=lambda segment: segment.start_s)
    return Scene(60.0 * minutes, tuple(segments), (*tracks, *last), backdrop, light_deg)


def several_moments_scene(
    seed: int, split: str, index: int, *, minutes: float, age_s: float, kind: Literal["times", "first"]
) -> Scene:
    """The script of a video whose last segment takes several old moments to caption, the latest `age_s` before it.

    times: something comes back for the first, second or third time: it was seen for a second so many times.
    first: two things that were seen for a second, one after the other, are back side by side; which came first?

    As in long_video_scene, nothing else tells, and the time between is full of segments of other things.

    Raises ValueError if the video is too short for evidence of that age and, before it, of the other moments.
    """
    rng = random.Random(f"shapes long video {seed} {split} {index} {minutes} {age_s} {kind}")
    backdrop, light_deg = rng.randrange(1000), rng.randrange(0, 360, 15)
    least_s, most_s = SEGMENT_S[4]
    last_s = round(60 * minutes - rng.uniform(*GAP_S), 2)
    first_s = round(last_s - rng.uniform(least_s, most_s), 2)
    latest_s = round(first_s - age_s, 2)
    # The moments are as far apart whatever their number, so that the first one's age does not tell it.
    apart_s = round(rng.uniform(0.6, 1.0) * (latest_s - EVIDENCE_S) / (MAX_TIMES - 1), 2)
    if apart_s < 2 * EVIDENCE_S:
        raise ValueError(
            f"a video of {minutes:g} minutes is too short for several moments, the latest {age_s:g} s before its last"
            " segment"
        )

    (colour, other_colour), (shape, other_shape) = rng.sample(COLOURS, 2), rng.sample(SHAPES, 2)
    things = (Thing(colour, shape), Thing(other_colour, other_shape))
    if kind == "times":
        shown = [things[0]] * rng.randint(1, MAX_TIMES)
        names = ["shown"] * len(shown)
    else:
        shown, names = list(things), ["shown 1", "shown 2"]
    ends = [round(latest_s - apart_s * ago, 2) for ago in reversed(range(len(shown)))]
    segments: list[Segment] = []
    tracks: list[Track] = []
    begin_s = 0.0
    never = {(thing.colour, thing.shape) for thing in things}
    for thing, name, end_s in zip(shown, names, ends, strict=True):
        evidence = _show(rng, thing, end_s, name)
        for segment, of_segment in _pass_time(rng, begin_s, evidence[0].start_s, never):
            segments.append(segment)
            tracks += of_segment
        segments.append(evidence[0])
        tracks.append(evidence[1])
        begin_s = end_s
    for segment, of_segment in _pass_time(rng, begin_s, first_s, never):
        segments.append(segment)
        tracks += of_segment
    happenings: list[Happening] = []
    if kind == "times":
        facts = Facts(f"returns_{len(shown)}", (things[0],))
        _, last, happenings = _enter(rng, facts.event, things[0], "shown", first_s, last_s)
    else:
        facts = Facts("came_first", things)
        last = [
            _floating(name, thing, x, y, first_s, last_s)
            for name, thing, (x, y) in zip(names, things, _apart(rng, 2), strict=True)
        ]
    segments.append(Segment(first_s, last_s, kind, facts, tuple(happenings)))
    return Scene(60.0 * minutes, tuple(segments), (*tracks, *last), backdrop, light_deg)


def _show(rng: random.Random, thing: Thing, end_s: float, object_id: str = "shown") -> tuple[Segment, Track]:
    """A thing that is in full view for a second and leaves."""
    x, y = _near(rng, rng.choice(PLACES))
    far_x, far_y = _outside(rng, x, y)
    start_s = round(end_s - EVIDENCE_S, 2)
    leave_s = start_s + 2 * FADE_S + 1.0
    over_s = leave_s + 0.4
    alpha = ((start_s + FADE_S, 0.0), (start_s + 2 * FADE_S, 1.0), (over_s, 1.0), (over_s + 0.01, 0.0))
    keys_x, keys_y = ((leave_s, x), (over_s, far_x)), ((leave_s, y), (over_s, far_y))
    track = _floating(object_id, thing, keys_x, keys_y, start_s, end_s, alpha=alpha)
    happening = Happening("leaves", object_id, leave_s, over_s)
    return Segment(start_s, end_s, "earlier", Facts("leaves", (thing,)), (happening,)), track


def _pass_time(
    rng: random.Random, begin_s: float, end_s: float, never: set[tuple[str, str]]
) -> Iterator[tuple[Segment, list[Track]]]:
    """Segments without the things in `never`, until the time is over."""
    now_s, number, cast = begin_s, 0, _Cast(set(never))
    while True:
        kind = rng.choices(list(KIND_WEIGHTS), list(KIND_WEIGHTS.values()))[0]
        least_s, most_s = SEGMENT_S[4]
        start_s = round(now_s + rng.uniform(*GAP_S), 2)
        now_s = round(start_s + rng.uniform(max(least_s, ORDER_MIN_S if kind == "order" else 0.0), most_s), 2)
        if now_s + GAP_S[0] > end_s:
            return
        if number % 4 == 0:  # a cast of all things would soon be too large
            cast = _Cast(set(never))
        play = rng.choice(_PLAYS[kind])
        while True:
            facts, tracks, happenings = play(rng, cast, start_s, now_s)
            if never.isdisjoint((colour, track.shape) for track in tracks for _, colour in track.colours):
                break  # a flashing thing may have any colours
        prefix = f"{begin_s:g}-{number // 4}-"
        tracks = [replace(track, object_id=prefix + track.object_id) for track in tracks]
        happenings = [replace(one, object_id=prefix + one.object_id) for one in happenings]
        yield Segment(start_s, now_s, kind, facts, tuple(happenings)), tracks
        number += 1


def picture_scene(seed: int, split: str, index: int) -> Scene:
    """A still picture: everything that a video frame can show, with places and sizes in between as well."""
    rng = random.Random(f"shapes picture {seed} {split} {index}")
    backdrop, light_deg = rng.randrange(1000), rng.randrange(0, 360, 15)
    shares = {
        "rests": 25,
        "floats": 33,
        "rests_beside": 17,
        "floats_between": 12,
        "float_two": 6,
        "float_three": 4,
        "empty": 3,
    }
    event = rng.choices(list(shares), list(shares.values()))[0]
    count = {"rests_beside": 2, "float_two": 2, "float_three": 3, "empty": 0}.get(event, 1)
    colours = rng.sample((*COLOURS, WHITE), count)
    shapes = rng.sample(SHAPES, count)
    looks = [_draw_look(rng, event, shape) for shape in shapes]
    things = [Thing(c, s, k) for c, s, k in zip(colours, shapes, looks, strict=True)]
    places: tuple[str, ...] = ()
    if event in ("rests", "floats"):
        places = (rng.choice(PLACES),)
        x, y = AT[places[0]]
        spots = [(x + rng.uniform(-0.06, 0.06), y + rng.uniform(-0.06, 0.06))]
    elif event == "rests_beside":
        spots = _beside(rng)
    elif event == "floats_between":
        spots = [_between(rng)]
    else:
        spots = _apart(rng, count)
    tracks = [
        Track(
            f"o{i}",
            thing.shape,
            ((0.0, thing.colour),),
            ((0.0, spot[0]),),
            ((0.0, spot[1]),),
            radius=((0.0, RADIUS[thing.look] * rng.uniform(0.92, 1.08)),),
            turn_deg=((0.0, _draw_turn(rng, thing)),),
            rests=event.startswith("rests"),
        )
        for i, (thing, spot) in enumerate(zip(things, spots, strict=True))
    ]
    facts = Facts(event, tuple(sorted(things)), places)
    return Scene(0.0, (Segment(0.0, 0.0, "now", facts),), tuple(tracks), backdrop, light_deg)


@dataclass
class _Cast:
    """The things that have been on the stage. No two of a video look the same, not even for the length of a flash."""

    seen: set[tuple[str, str]] = field(default_factory=set)  # (colour, shape), however briefly
    known: dict[tuple[str, str], str] = field(default_factory=dict)  # those that could come back -> object_id
    objects: int = 0

    def new(self, thing: Thing, *, returns: bool = True) -> str:
        """The object_id of a thing that enters; with `returns` it may come back unchanged in a later segment."""
        object_id = f"o{self.objects}"
        self.objects += 1
        self.seen.add((thing.colour, thing.shape))
        if returns:
            self.known[thing.colour, thing.shape] = object_id
        return object_id

    def unseen(self) -> list[tuple[str, str]]:
        return [(c, s) for c in COLOURS for s in SHAPES if (c, s) not in self.seen]


Play = Callable[[random.Random, _Cast, float, float], tuple[Facts, list[Track], list[Happening]]]


def _rest(rng: random.Random, cast: _Cast, start_s: float, end_s: float) -> tuple[Facts, list[Track], list[Happening]]:
    thing, place = _draw_thing(rng, cast), rng.choice(PLACES)
    x, y = _near(rng, place)
    object_id = cast.new(thing)
    return Facts("rests", (thing,), (place,)), [_resting(rng, object_id, thing, x, y, start_s, end_s)], []


def _rest_beside(
    rng: random.Random, cast: _Cast, start_s: float, end_s: float
) -> tuple[Facts, list[Track], list[Happening]]:
    first = _draw_thing(rng, cast)
    pool = [(c, s) for c, s in cast.unseen() if c != first.colour and s != first.shape]
    things = [first, Thing(*rng.choice(pool))]
    tracks = [
        _resting(rng, cast.new(thing), thing, x, y, start_s, end_s)
        for thing, (x, y) in zip(things, _beside(rng), strict=True)
    ]
    return Facts("rests_beside", tuple(sorted(things))), tracks, []


def _happen(
    rng: random.Random, cast: _Cast, start_s: float, end_s: float
) -> tuple[Facts, list[Track], list[Happening]]:
    """An event of the kind `earlier`. The thing is drawn first, then an event that can happen to it, uniformly."""
    thing = _draw_thing(rng, cast)
    before = [c for c, s in cast.unseen() if s == thing.shape and c != thing.colour]  # colours it may have had
    events = ["moves", "leaves", "grows", "shrinks", *(["turns"] * bool(before))]
    event = rng.choice(events if round_shape(thing.shape) else [*events, "spins"])
    place = rng.choice(PLACES)  # where it ends
    x, y = _near(rng, place)
    takes_s = {"turns": 0.0, "moves": 1.5, "leaves": 0.8}.get(event, rng.uniform(1.6, 2.2))
    begin_s = rng.uniform(start_s + (2.6 if event == "leaves" else 1.0), end_s - SETTLED_S - takes_s)
    over_s = begin_s + takes_s
    if event == "turns":
        # Drawn backwards: the colour of the last frame is uniform, the one before is any other.
        was = Thing(rng.choice(before), thing.shape)
        cast.seen.add((was.colour, was.shape))
        object_id = cast.new(thing)
        facts = Facts("turns", (was,), colours=(thing.colour,))
        track = _floating(object_id, was, x, y, start_s, end_s, turns=((begin_s, thing.colour),))
    elif event == "moves":
        object_id = cast.new(thing)
        source = rng.choice([p for p in PLACES if p != place])
        facts = Facts("moves", (thing,), (source, place))
        from_x, from_y = _near(rng, source)
        keys_x, keys_y = ((begin_s, from_x), (over_s, x)), ((begin_s, from_y), (over_s, y))
        track = _floating(object_id, thing, keys_x, keys_y, start_s, end_s)
    elif event == "leaves":
        object_id = cast.new(thing)
        facts = Facts("leaves", (thing,))
        far_x, far_y = _outside(rng, x, y)
        keys_x, keys_y = ((begin_s, x), (over_s, far_x)), ((begin_s, y), (over_s, far_y))
        appear_s = rng.uniform(start_s + 0.2, start_s + 0.7)
        alpha = ((appear_s, 0.0), (appear_s + FADE_S, 1.0), (over_s, 1.0), (over_s + 0.01, 0.0))
        track = _floating(object_id, thing, keys_x, keys_y, start_s, end_s, alpha=alpha)
    else:
        object_id = cast.new(thing)
        facts = Facts(event, (thing,))
        radius: Keys = ((0.0, MEDIUM),)
        turn_deg: Keys = ((0.0, 0.0),)
        if event == "spins":
            turn_deg = ((begin_s, 0.0), (over_s, rng.choice([-1, 1]) * 360.0))
        else:
            radius = ((begin_s, SMALL if event == "grows" else LARGE), (over_s, MEDIUM))
        track = _floating(object_id, thing, x, y, start_s, end_s, radius=radius, turn_deg=turn_deg)
    return facts, [track], [Happening(event, object_id, begin_s, over_s)]


def _flash(rng: random.Random, cast: _Cast, start_s: float, end_s: float) -> tuple[Facts, list[Track], list[Happening]]:
    thing = Thing(WHITE, rng.choice([s for s in SHAPES if (WHITE, s) not in cast.seen]))
    object_id = cast.new(thing, returns=False)
    colours = rng.sample(COLOURS, 3)
    cast.seen |= {(colour, thing.shape) for colour in colours}
    flash_s, pause_s = rng.uniform(0.85, 1.0), rng.uniform(0.4, 0.5)
    takes_s = 3 * flash_s + 2 * pause_s
    begin_s = rng.uniform(start_s + 0.5, end_s - SETTLED_S - takes_s)
    starts = [begin_s + i * (flash_s + pause_s) for i in range(3)]
    turns = tuple(key for s, colour in zip(starts, colours, strict=True) for key in ((s, colour), (s + flash_s, WHITE)))
    x, y = _near(rng, rng.choice(PLACES))
    track = _floating(object_id, thing, x, y, start_s, end_s, turns=turns)
    happenings = [Happening(f"flash {c}", object_id, s, s + flash_s) for c, s in zip(colours, starts, strict=True)]
    return Facts("flashes", (thing,), colours=tuple(colours)), [track], happenings


def _visit(rng: random.Random, cast: _Cast, start_s: float, end_s: float) -> tuple[Facts, list[Track], list[Happening]]:
    thing = _draw_thing(rng, cast)
    object_id = cast.new(thing)
    places = rng.sample([p for p in PLACES if p != CENTRE], 3)
    move_s, stay_s = rng.uniform(0.45, 0.55), rng.uniform(0.6, 0.7)
    takes_s = 4 * move_s + 3 * stay_s
    begin_s = rng.uniform(start_s + 0.4, end_s - SETTLED_S - takes_s)
    home, spots = _near(rng, CENTRE), [_near(rng, place) for place in places]
    keys, happenings, now_s = [(begin_s, home)], [], begin_s
    for place, spot in zip(places, spots, strict=True):
        happenings.append(Happening(f"visit {place}", object_id, now_s + move_s, now_s + move_s + stay_s))
        keys += [(now_s + move_s, spot), (now_s + move_s + stay_s, spot)]
        now_s += move_s + stay_s
    keys.append((now_s + move_s, home))
    keys_x, keys_y = tuple((s, spot[0]) for s, spot in keys), tuple((s, spot[1]) for s, spot in keys)
    return (
        Facts("visits", (thing,), tuple(places)),
        [_floating(object_id, thing, keys_x, keys_y, start_s, end_s)],
        happenings,
    )


def _come(rng: random.Random, cast: _Cast, start_s: float, end_s: float) -> tuple[Facts, list[Track], list[Happening]]:
    if rng.random() < 0.5:
        event = "comes_back"
        thing = Thing(*rng.choice(list(cast.known)))
        object_id = cast.known[thing.colour, thing.shape]
    else:
        event = "comes_in"
        thing = _draw_newcomer(rng, cast)
        object_id = cast.new(thing)
    return _enter(rng, event, thing, object_id, start_s, end_s)


def _enter(
    rng: random.Random, event: str, thing: Thing, object_id: str, start_s: float, end_s: float
) -> tuple[Facts, list[Track], list[Happening]]:
    x, y = _near(rng, rng.choice(PLACES))
    takes_s = rng.uniform(0.8, 1.2)
    begin_s = rng.uniform(start_s + 0.3, end_s - SETTLED_S - 0.9 - takes_s)
    far_x, far_y = _outside(rng, x, y)
    keys_x, keys_y = ((begin_s, far_x), (begin_s + takes_s, x)), ((begin_s, far_y), (begin_s + takes_s, y))
    alpha = ((begin_s - 0.01, 0.0), (begin_s, 1.0), (end_s, 1.0), (end_s + FADE_S, 0.0))
    track = _floating(object_id, thing, keys_x, keys_y, start_s, end_s, alpha=alpha)
    return Facts(event, (thing,)), [track], [Happening(event, object_id, begin_s, begin_s + takes_s)]


_PLAYS: dict[str, list[Play]] = {
    "now": [_rest, _rest, _rest_beside],
    "earlier": [_happen],
    "order": [_flash, _visit],
    "before": [_come],
}


def _draw_kind(rng: random.Random, *, first: bool) -> str:
    if not first and rng.random() < BEFORE_SHARE:
        return "before"
    return rng.choices(list(KIND_WEIGHTS), list(KIND_WEIGHTS.values()))[0]


def _draw_intervals(rng: random.Random, kinds: list[str]) -> tuple[list[tuple[float, float]], float]:
    """Times rounded to hundredths of a second, as in annotations."""
    least_s, most_s = SEGMENT_S[len(kinds)]
    while True:
        intervals, now_s = [], 0.0
        for kind in kinds:
            start_s = round(now_s + rng.uniform(*GAP_S), 2)
            now_s = round(start_s + rng.uniform(max(least_s, ORDER_MIN_S if kind == "order" else 0.0), most_s), 2)
            intervals.append((start_s, now_s))
        duration_s = round(now_s + rng.uniform(*GAP_S), 2)
        if VIDEO_S[0] <= duration_s <= VIDEO_S[1]:
            return intervals, duration_s


def _draw_thing(rng: random.Random, cast: _Cast) -> Thing:
    return Thing(*rng.choice(cast.unseen()))


def _draw_newcomer(rng: random.Random, cast: _Cast) -> Thing:
    """Never seen, but often with a colour or shape that was: remembering only one of them must not be enough."""
    colours, shapes = {c for c, _ in cast.seen}, {s for _, s in cast.seen}
    pools: dict[tuple[bool, bool], list[tuple[str, str]]] = {}
    for colour, shape in cast.unseen():
        pools.setdefault((colour in colours, shape in shapes), []).append((colour, shape))
    weights = {(True, True): 3, (True, False): 2, (False, True): 3, (False, False): 2}
    alike = rng.choices(list(pools), [weights[key] for key in pools])[0]
    return Thing(*rng.choice(pools[alike]))


def _draw_look(rng: random.Random, event: str, shape: str) -> str:
    if event == "rests":
        return rng.choice(["", "", "small", "large"])
    if event == "floats":
        return rng.choice(["", "", "small", "large", "" if round_shape(shape) else "tilted"])
    return ""


def _draw_turn(rng: random.Random, thing: Thing) -> float:
    if thing.look != "tilted":
        return rng.uniform(-4, 4)
    symmetry_deg = SYMMETRY_DEG[thing.shape]
    return symmetry_deg * rng.uniform(0.25, 0.75) if symmetry_deg < 360 else rng.uniform(40, 320)


def _resting(
    rng: random.Random, object_id: str, thing: Thing, x: float, y: float, start_s: float, end_s: float
) -> Track:
    """On its stand; half of the time it is lowered onto it first, so that not every segment of the kind is still."""
    down_s = start_s + rng.uniform(0.6, 1.4)
    above = rng.choice([0.0, 0.12])
    return Track(
        object_id,
        thing.shape,
        ((0.0, thing.colour),),
        ((0.0, x),),
        ((down_s, y - above), (down_s + 0.6, y)),
        alpha=_faded(start_s, end_s),
        rests=True,
    )


def _floating(
    object_id: str,
    thing: Thing,
    x: float | Keys,
    y: float | Keys,
    start_s: float,
    end_s: float,
    *,
    turns: tuple[tuple[float, str], ...] = (),
    radius: Keys = ((0.0, MEDIUM),),
    turn_deg: Keys = ((0.0, 0.0),),
    alpha: Keys | None = None,
) -> Track:
    return Track(
        object_id,
        thing.shape,
        ((0.0, thing.colour), *turns),
        ((0.0, x),) if isinstance(x, float) else x,
        ((0.0, y),) if isinstance(y, float) else y,
        radius,
        turn_deg,
        alpha or _faded(start_s, end_s),
    )


def _faded(start_s: float, end_s: float) -> Keys:
    return (start_s - FADE_S, 0.0), (start_s, 1.0), (end_s, 1.0), (end_s + FADE_S, 0.0)


def _near(rng: random.Random, place: str) -> tuple[float, float]:
    x, y = AT[place]
    return x + rng.uniform(-0.02, 0.02), y + rng.uniform(-0.02, 0.02)


def _outside(rng: random.Random, x: float, y: float) -> tuple[float, float]:
    """A point beyond one of the picture's sides, straight across from (x, y)."""
    return rng.choice([(-0.3, y), (1.3, y), (x, -0.3), (x, 1.3)])


def _beside(rng: random.Random) -> list[tuple[float, float]]:
    y = rng.uniform(0.38, 0.66)
    return rng.sample([(0.29 + rng.uniform(-0.02, 0.02), y), (0.71 + rng.uniform(-0.02, 0.02), y)], 2)


def _between(rng: random.Random) -> tuple[float, float]:
    """Anywhere except at the places, even half out of the picture, like things on their way."""
    while True:
        x, y = rng.uniform(0.0, 1.0), rng.uniform(0.0, 1.0)
        if all(math.hypot(x - px, y - py) > 0.11 for px, py in AT.values()):
            return x, y


def _apart(rng: random.Random, count: int) -> list[tuple[float, float]]:
    while True:
        spots = [(rng.uniform(0.17, 0.83), rng.uniform(0.17, 0.83)) for _ in range(count)]
        if all(math.dist(a, b) > 2.3 * MEDIUM for i, a in enumerate(spots) for b in spots[:i]):
            return spots


def _eased(keys: Keys, time_s: float) -> float:
    """Smoothstep between the keys around this time."""
    if time_s <= keys[0][0]:
        return keys[0][1]
    for (before_s, before), (after_s, after) in itertools.pairwise(keys):
        if time_s < after_s:
            share = (time_s - before_s) / (after_s - before_s)
            return before + (after - before) * share * share * (3 - 2 * share)
    return keys[-1][1]
