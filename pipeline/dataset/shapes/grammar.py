"""Facts and the captions that state them.

Every caption of the built-in dataset is a template filled with the facts of a scene, and reads back to exactly those
facts: so a model's caption can be judged right or wrong whatever paraphrase it chose (`facts_right`), which no
n-gram metric does. A caption that no template can make states no facts.
"""

import itertools
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

SHAPES = ("circle", "square", "triangle", "star", "ring", "heart")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
WHITE = "white"  # in videos, the colour before and after flashing, and of nothing else
LOOKS = ("", "small", "large", "tilted")  # "": medium size and upright, which captions do not mention
CENTRE = "centre"
PLACES = ("left", "right", "top", "bottom", CENTRE)

_AT = {
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
    CENTRE: "in the centre",
}


@dataclass(frozen=True, order=True)
class Thing:
    """A shape as captions name it."""

    colour: str
    shape: str
    look: str = ""


@dataclass(frozen=True)
class Facts:
    """What a caption states. Things that have no order (side by side) are sorted."""

    event: str  # a key of EVENTS
    things: tuple[Thing, ...] = ()
    places: tuple[str, ...] = ()  # in the order of the event
    colours: tuple[str, ...] = ()  # the colours it turns, in the order of the event


@dataclass(frozen=True)
class Event:
    """An event: how many things, places and colours it has, and its paraphrases.

    Slots: {a} {a2} {a3} "a red star", {the} "the red star", {at} "on the left", {p} {p2} {p3} "left",
    {c} {c2} {c3} a colour.
    """

    templates: tuple[str, ...]
    things: int = 1
    places: int = 0
    colours: int = 0
    ordered: bool = False  # whether its things come in the order of the event; else they are sorted


EVENTS = {
    # Visible in one picture. Only resting things have a stand and a shadow. Places are named in both ways, "at the top"
    # and "the top": a decoder that learned them only after "at" or "on" cannot say "from the top to the left".
    "empty": Event(
        (
            "there is nothing on the stage",
            "the whole stage is empty",
            "this is an empty stage",
            "no shape is on the stage",
            "an empty stage without any shape",
        ),
        things=0,
    ),
    "rests": Event(
        (
            "{a} rests {at}",
            "there is {a} resting {at}",
            "{at} rests {a}",
            "{a} sits on a stand {at}",
            "{a} lies still on the {p} of the stage",
            "the {p} of the stage has {a} on a stand",
        ),
        places=1,
    ),
    "rests_beside": Event(
        (
            "{a} rests beside {a2}",
            "{a} and {a2} rest side by side",
            "there is {a} resting next to {a2}",
            "two stands hold {a} and {a2}",
            "beside {a} rests {a2}",
            "{a} sits on a stand near {a2}",
        ),
        things=2,
    ),
    "floats": Event(
        (
            "{a} floats {at}",
            "there is {a} floating {at}",
            "{at} floats {a}",
            "{a} hovers in the air {at}",
            "{a} hangs over the {p} of the stage",
            "the {p} of the stage has {a} in the air",
        ),
        places=1,
    ),
    "floats_between": Event(
        (
            "{a} floats between the places",
            "there is {a} floating between the places",
            "between the places floats {a}",
            "{a} hovers in the air between the places",
            "between the places, {a} hangs in the air",
        ),
    ),
    "float_two": Event(
        (
            "{a} and {a2} float together",
            "{a} floats together with {a2}",
            "there are {a} and {a2} floating",
            "{a} and {a2} hover in the air",
            "in the air hang {a} and {a2}",
        ),
        things=2,
    ),
    "float_three": Event(
        (
            "{a}, {a2} and {a3} float together",
            "{a} floats together with {a2} and {a3}",
            "there are {a}, {a2} and {a3} floating",
            "{a}, {a2} and {a3} hover in the air",
            "in the air hang {a}, {a2} and {a3}",
        ),
        things=3,
    ),
    # Needs earlier frames.
    "turns": Event(
        (
            "{a} turns {c}",
            "{a} changes its colour to {c}",
            "{a} becomes {c}",
            "the colour of {a} changes to {c}",
            "{c} is what {a} becomes",
            "first {a}, it is now {c}",
        ),
        colours=1,
    ),
    "moves": Event(
        (
            "{a} moves from the {p} to the {p2}",
            "{a} goes from the {p} to the {p2}",
            "from the {p} to the {p2} moves {a}",
            "{a} leaves the {p} for the {p2}",
            "{a} travels to the {p2} from the {p}",
            "starting {at}, {a} travels to the {p2}",
        ),
        places=2,
    ),
    "leaves": Event(
        (
            "{a} appears and leaves",
            "{a} shows up and goes away",
            "after appearing, {a} leaves the stage",
            "{a} appears, then the stage is empty",
            "{a} is shown and then goes away",
        ),
    ),
    "grows": Event(
        (
            "{a} grows in size",
            "{a} gets bigger and bigger",
            "{a} was small and becomes bigger",
            "the size of {a} goes up",
            "growing in size is {a}",
        ),
    ),
    "shrinks": Event(
        (
            "{a} shrinks in size",
            "{a} gets smaller and smaller",
            "{a} was large and becomes smaller",
            "the size of {a} goes down",
            "shrinking in size is {a}",
        ),
    ),
    "spins": Event(
        (
            "{a} spins around itself",
            "{a} rotates on the spot",
            "{a} spins like a wheel",
            "there is {a} rotating",
            "like a wheel rotates {a}",
        ),
    ),
    # Needs earlier frames in order.
    "flashes": Event(
        (
            "{a} flashes {c}, then {c2}, then {c3}",
            "{a} blinks {c}, {c2} and at last {c3}",
            "{a} lights up in {c}, next {c2}, next {c3}",
            "first {c}, then {c2}, then {c3} flashes {a}",
            "{a} shines {c} before {c2} and {c2} before {c3}",
        ),
        colours=3,
    ),
    "visits": Event(
        (
            "{a} visits the {p}, then the {p2}, then the {p3}",
            "{a} goes to the {p}, the {p2} and at last the {p3}",
            "{a} calls at the {p}, next the {p2}, next the {p3}",
            "first the {p}, then the {p2}, then the {p3} sees {a}",
            "{a} tours the {p}, the {p2} and then the {p3}",
        ),
        places=3,
    ),
    # Needs an earlier segment. Pairs have equal length, so that a decoder cannot tell them apart by length.
    "comes_in": Event(
        (
            "{a} comes in",
            "a new {thing} enters the stage",
            "in comes {a}",
            "{a} arrives, unseen before",
            "we meet {a}, a newcomer",
        ),
    ),
    "comes_back": Event(
        (
            "{the} comes back",
            "the same {thing} enters the stage",
            "back comes {the}",
            "{the} arrives once again",
            "we meet {the} once again",
        ),
    ),
}

# What takes more than one moment from before the segment: of long videos only (long_video_scene).
LONG_EVENTS = {
    **{
        f"returns_{number}": Event(
            (
                "{the} comes back for the " + nth + " time",
                "for the " + nth + " time {the} comes back",
                "{the} enters the stage, " + often + " seen before",
                "we meet {the}, " + often + " met before",
                "back comes {the}, which was here " + often + " before",
            )
        )
        for number, nth, often in ((1, "first", "once"), (2, "second", "twice"), (3, "third", "three times"))
    },
    "came_first": Event(
        (
            "{the} was here before {the2}",
            "{the2} was here after {the}",
            "of the two {the} came first and {the2} later",
            "{the2} came later than {the}",
            "both are back, first seen {the} and later seen {the2}",
        ),
        things=2,
        ordered=True,
    ),
}
_ALL_EVENTS = EVENTS | LONG_EVENTS


def possible(facts: Facts) -> bool:
    """Whether the dataset can hold these facts: the right number of each, and none that contradict each other."""
    event = _ALL_EVENTS.get(facts.event)
    if event is None or (len(facts.things), len(facts.places), len(facts.colours)) != (
        event.things,
        event.places,
        event.colours,
    ):
        return False
    colours, shapes = [t.colour for t in facts.things], [t.shape for t in facts.things]
    if len(set(colours)) < event.things or len(set(shapes)) < event.things:
        return False
    if len(set(facts.places)) < event.places or len(set(facts.colours)) < event.colours:
        return False
    if not event.ordered and tuple(sorted(facts.things)) != facts.things:
        return False
    looks = {t.look for t in facts.things}
    match facts.event:
        case "rests":
            return looks <= {"", "small", "large"}
        case "floats":
            return all(not (t.look == "tilted" and round_shape(t.shape)) for t in facts.things)
        case _ if looks - {""}:
            return False
        case "rests_beside" | "float_two" | "float_three" | "floats_between" | "empty":
            return True
        case "flashes":
            return colours == [WHITE] and WHITE not in facts.colours
        case "spins":
            return WHITE not in colours and not round_shape(shapes[0])
        case "visits":
            return WHITE not in colours and CENTRE not in facts.places
        case _:
            return WHITE not in (*colours, *facts.colours) and not set(colours) & set(facts.colours)


def round_shape(shape: str) -> bool:
    """Whether turning it changes nothing visible."""
    return shape in ("circle", "ring")


def all_facts() -> Iterator[Facts]:
    """Every possible fact of a video of ordinary length, and of pictures."""
    looked = [Thing(c, s, look) for c in (*COLOURS, WHITE) for s in SHAPES for look in LOOKS]
    plain = sorted(t for t in looked if not t.look)
    for name, event in EVENTS.items():
        things = looked if name in ("rests", "floats") else plain
        for chosen in itertools.combinations(things, event.things):
            for places in itertools.permutations(PLACES, event.places):
                for colours in itertools.permutations(COLOURS, event.colours):
                    facts = Facts(name, chosen, places, colours)
                    if possible(facts):
                        yield facts


def captions(facts: Facts, count: int, rng: random.Random) -> list[str]:
    """`count` captions that state the facts: different templates as long as there are any, then repeated ones."""
    event = _ALL_EVENTS[facts.event]
    templates = event.templates
    chosen: list[str] = []
    while len(chosen) < count:
        chosen += rng.sample(templates, min(len(templates), count - len(chosen)))
    if event.ordered:
        return [_fill(template, facts, facts.things) for template in chosen]
    return [_fill(template, facts, tuple(rng.sample(facts.things, len(facts.things)))) for template in chosen]


def all_captions(facts: Facts) -> list[str]:
    """Every caption that states the facts."""
    event = _ALL_EVENTS[facts.event]
    orders = [facts.things] if event.ordered else itertools.permutations(facts.things)
    return [_fill(t, facts, order) for order in orders for t in event.templates]


def read_facts(caption: str) -> Facts | None:
    """The facts a caption states, or None if no template makes it. Case, punctuation and spacing do not matter."""
    words = _normalise(caption)
    spoken = set(words.split())
    for event, template, literal, pattern in _patterns():
        if literal <= spoken and (match := pattern.fullmatch(words)):
            found = match.groupdict()
            things = tuple(
                Thing(found[f"colour{i}"], found[f"shape{i}"], found[f"look{i}"] or "")
                for i in range(_ALL_EVENTS[event].things)
            )
            facts = Facts(
                event,
                things if _ALL_EVENTS[event].ordered else tuple(sorted(things)),
                tuple(found[f"place{i}"] for i in range(_ALL_EVENTS[event].places)),
                tuple(found[f"flash{i}"] for i in range(_ALL_EVENTS[event].colours)),
            )
            # Writing it again checks "a" or "an", and "at" or "on".
            if possible(facts) and _normalise(_fill(template, facts, things)) == words:
                return facts
    return None


def facts_right(candidate: str, references: list[str]) -> bool | None:
    """Whether a caption states the facts of its references; None where those state none (another dataset's)."""
    expected = {read_facts(reference) for reference in references}
    if not expected or None in expected:
        return None
    return read_facts(candidate) in expected


def _fill(template: str, facts: Facts, things: tuple[Thing, ...]) -> str:
    slots = {}
    for i, thing in enumerate(things):
        number = _number(i)
        name = " ".join(filter(None, (thing.look, thing.colour, thing.shape)))
        slots["a" + number] = ("an " if name[0] in "aeiou" else "a ") + name
        slots["the" + number] = "the " + name
        slots["thing" + number] = name
    slots |= {"p" + _number(i): place for i, place in enumerate(facts.places)}
    slots |= {"c" + _number(i): colour for i, colour in enumerate(facts.colours)}
    if facts.places:
        slots["at"] = _AT[facts.places[0]]
    return template.format(**slots)


@cache
def _patterns() -> list[tuple[str, str, frozenset[str], re.Pattern[str]]]:
    """Every event and template with its fixed words (a quick test) and its regular expression (an exact one).

    Both apply to normalised captions.
    """
    colours = "|".join((*COLOURS, WHITE))
    patterns = []
    for event, spec in _ALL_EVENTS.items():
        slots: dict[str, str] = {}
        for i in range(spec.things):
            thing = (
                f"(?:(?P<look{i}>{'|'.join(filter(None, LOOKS))}) )?(?P<colour{i}>{colours}) "
                f"(?P<shape{i}>{'|'.join(SHAPES)})"
            )
            slots |= {"a" + _number(i): f"an? {thing}", "the" + _number(i): f"the {thing}", "thing" + _number(i): thing}
        places = "|".join(PLACES)
        slots |= {"p" + _number(i): f"(?P<place{i}>{places})" for i in range(spec.places)}
        slots |= {"c" + _number(i): f"(?P<flash{i}>{colours})" for i in range(spec.colours)}
        slots["at"] = f"(?:on|at|in) the (?P<place0>{places})"
        for template in spec.templates:
            plain = re.sub(r"[^a-z0-9{} ]", "", template)
            seen: set[str] = set()
            pattern = re.compile(re.sub(r"{(\w+)}", _once(slots, seen), plain))
            patterns.append((event, template, frozenset(re.sub(r"{\w+}", "", plain).split()), pattern))
    return patterns


def _once(slots: dict[str, str], seen: set[str]) -> Callable[[re.Match[str]], str]:
    """A slot that a template repeats is a group at first, then a backreference."""

    def replace(match: re.Match[str]) -> str:
        slot = match[1]
        if slot in seen:
            group = re.search(r"P<(\w+)>", slots[slot])
            assert group, slot
            return f"(?P={group[1]})"
        seen.add(slot)
        return slots[slot]

    return replace


def _number(i: int) -> str:
    return "" if i == 0 else str(i + 1)


def _normalise(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))
