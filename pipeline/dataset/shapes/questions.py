"""Questions about the built-in videos, out of the ground truth that the dataset writes beside them.

Each is asked at the end of a segment, about anything so far: [0, end_s) may be seen. What it takes to answer:

    now      the last segment: the colour of what rests
    earlier  an event of any segment so far: what happened
    order    events in order: whether one colour or place came before another
    before   whether what comes in was on the stage in an earlier segment
    count    everything so far: how many shapes, how many of them at rest
    where    where something rested or went, in any segment so far

Nothing is told by the words. All answers of a kind are of one type, an answer that was asked for less often is
preferred, for each form of a question, and nothing is asked about a thing whose shape rules an answer out. So whoever
sees no video scores what the most frequent answer scores. Things are named by colour and shape, and only where that
names one of all that was seen so far.
"""

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.dataset.questions.question import COUNT, Question
from pipeline.dataset.shapes.grammar import COLOURS, PLACES, Facts, Thing, read_facts, round_shape
from pipeline.dataset.shapes.looks import looks_of

KINDS = ("now", "earlier", "order", "before", "count", "where")
MAX_COUNTED = 5  # larger numbers are too rare to be balanced
AROUND_S = 0.4  # before and after a change: two frames at 5 a second show what it was and what it became

# By form of question: its kind, the type of its answer, and its paraphrases.
FORMS = {
    "colour": ("now", "colour", ("what colour is the shape at rest?", "which colour has the shape on the stand?")),
    "what": ("earlier", "event", ("what happened to {thing}?", "what did {thing} do?")),
    "flashed": (
        "order",
        "yes/no",
        ("did {thing} flash {first} before {second}?", "was {thing} {first} first and {second} later?"),
    ),
    "visited": (
        "order",
        "yes/no",
        (
            "did {thing} visit the {first} before the {second}?",
            "was {thing} at the {first} first and at the {second} later?",
        ),
    ),
    "before": (
        "before",
        "yes/no",
        ("has {thing} been here before?", "was {thing} on the stage before?", "did {thing} come back?"),
    ),
    "shapes": ("count", COUNT, ("how many shapes have been here so far?", "how many different shapes were seen?")),
    "rested": ("count", COUNT, ("how many shapes have rested so far?", "how many shapes were on a stand?")),
    "rested where": ("where", "place", ("where did {thing} rest?", "at which place was {thing} at rest?")),
    "went": ("where", "place", ("where did {thing} go?", "to which place did {thing} move?")),
}
HAPPENED = {
    "turns": "it changed colour",
    "moves": "it moved",
    "leaves": "it left",
    "grows": "it grew",
    "shrinks": "it shrank",
    "spins": "it turned round",
}


@dataclass(frozen=True)
class _Candidate:
    form: str
    answer: str
    end_s: float
    evidence: tuple[tuple[float, float], ...]
    thing: str = ""
    first: str = ""
    second: str = ""


_ANSWERS = {
    "colour": COLOURS,
    "what": tuple(HAPPENED.values()),
    **dict.fromkeys(("flashed", "visited", "before"), ("yes", "no")),
    **dict.fromkeys(("shapes", "rested"), tuple(str(number) for number in range(1, MAX_COUNTED + 1))),
    **dict.fromkeys(("rested where", "went"), PLACES),
}


def video_questions(
    truths: Mapping[str, Mapping[str, Any]], *, per_video: Mapping[str, int], seed: int
) -> list[Question]:
    """Of all videos of scenes.json, in its order.

    Args:
        per_video: how many of each, by split, as far as it has them: of all kinds alike.
    """
    counts: Counter[tuple[str, str, str]] = Counter()  # by split, form and answer
    kinds: Counter[tuple[str, str]] = Counter()  # by split and kind
    questions: list[Question] = []
    for video_id, truth in truths.items():
        split = truth["split"]
        rng = random.Random(f"shapes questions {seed} {video_id}")
        candidates = list(_candidates(truth))
        rng.shuffle(candidates)
        for number in range(min(per_video[split], len(candidates))):
            # The kind, the form and the answer that were asked for least; of this video each kind in turn.
            own = Counter(question.kind for question in questions[len(questions) - number :])
            chosen = min(
                candidates,
                key=lambda one: (
                    own[_kind(one)],
                    kinds[split, _kind(one)],
                    sum(counts[split, one.form, answer] for answer in _ANSWERS[one.form]),
                    counts[split, one.form, one.answer],
                ),
            )
            candidates.remove(chosen)
            counts[split, chosen.form, chosen.answer] += 1
            kinds[split, _kind(chosen)] += 1
            questions.append(_question(f"{video_id}#{number}", video_id, split, chosen, rng))
    return questions


def _kind(candidate: _Candidate) -> str:
    return FORMS[candidate.form][0]


def _question(id: str, video_id: str, split: str, chosen: _Candidate, rng: random.Random) -> Question:
    kind, answer_type, templates = FORMS[chosen.form]
    return Question(
        id,
        video_id,
        rng.choice(templates).format(thing=chosen.thing, first=chosen.first, second=chosen.second),
        (chosen.answer,),
        (1.0,),
        answer_type=answer_type,
        kind=kind,
        split=split,
        end_s=chosen.end_s,
        evidence=chosen.evidence,
    )


def _candidates(truth: Mapping[str, Any]) -> Iterator[_Candidate]:
    """Everything that can be asked at the end of any segment."""
    for at, last in enumerate(truth["segments"]):
        end_s = last["end_s"]
        seen = [one for one in truth["objects"] if one["shown"][0]["from_s"] < end_s]
        names = Counter(name for one in seen for name in looks_of(one, end_s))
        for number, segment in enumerate(truth["segments"][: at + 1]):
            for one in _of_segment(truth, segment, names, now=number == at):
                yield replace(one, end_s=end_s)
        yield from _counts(seen, end_s)


def _of_segment(
    truth: Mapping[str, Any], segment: Mapping[str, Any], names: Counter[tuple[str, str]], *, now: bool
) -> Iterator[_Candidate]:
    facts, events = segment["facts"], segment["events"]
    whole = ((segment["start_s"], segment["end_s"]),)
    thing = f"the {facts['things'][0]['colour']} {facts['things'][0]['shape']}"
    named = names[facts["things"][0]["colour"], facts["things"][0]["shape"]] == 1
    match facts["event"]:
        case "rests":
            if now:
                yield _Candidate("colour", facts["things"][0]["colour"], 0.0, whole)
            elif named:
                yield _Candidate("rested where", facts["places"][0], 0.0, whole, thing)
        case "turns" | "moves" | "leaves" | "grows" | "shrinks" | "spins" as event if named:
            around = _around(events)
            if not round_shape(facts["things"][0]["shape"]):  # those never spin
                yield _Candidate("what", HAPPENED[event], 0.0, around, thing)
            if event == "moves":
                yield _Candidate("went", facts["places"][1], 0.0, around[1:], thing)
        case "flashes" | "visits" as event if named:
            found = tuple((one["start_s"], one["end_s"]) for one in events)
            form, order = ("flashed", facts["colours"]) if event == "flashes" else ("visited", facts["places"])
            for first, second in itertools.permutations(range(3), 2):
                answer = "yes" if first < second else "no"
                pair = tuple(sorted((found[first], found[second])))
                yield _Candidate(form, answer, 0.0, pair, thing, order[first], order[second])
        case "comes_in" | "comes_back" as event if now:
            [entrance] = events
            own = next(one for one in truth["objects"] if one["id"] == entrance["object_id"])
            end_s, name = segment["end_s"], (facts["things"][0]["colour"], facts["things"][0]["shape"])
            others = [one for one in truth["objects"] if one is not own and one["shown"][0]["from_s"] < end_s]
            if any(name in looks_of(other, end_s) for other in others):
                return
            earlier = [(one["from_s"], one["to_s"]) for one in own["shown"] if one["to_s"] < entrance["start_s"]]
            evidence = (*earlier[-1:], (entrance["start_s"], end_s))
            yield _Candidate("before", "yes" if event == "comes_back" else "no", 0.0, evidence, thing)


def _around(events: list[dict[str, Any]]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Just before an event and just after it: what it changed."""
    return (
        (max(0.0, events[0]["start_s"] - AROUND_S), events[0]["start_s"] + 1e-3),
        (events[-1]["end_s"], events[-1]["end_s"] + AROUND_S),
    )


def _counts(seen: list[Mapping[str, Any]], end_s: float) -> Iterator[_Candidate]:
    """What is shown again counts once."""
    for form, resting in ("shapes", False), ("rested", True):
        first = [
            next(((one["from_s"], one["to_s"]) for one in thing["shown"] if one["rests"] or not resting), None)
            for thing in seen
        ]
        intervals = tuple(sorted((from_s, min(to_s, end_s)) for from_s, to_s in filter(None, first) if from_s < end_s))
        if 1 <= len(intervals) <= MAX_COUNTED:
            yield _Candidate(form, str(len(intervals)), end_s, intervals)


def picture_questions(captions: Mapping[str, tuple[str, list[str]]], *, seed: int) -> list[Question]:
    """Of pictures, by id their split and captions: each caption states all that is to be asked. Two of each at most.

    A picture is a video of one frame, so all its questions are of kind `now`.
    """
    counts: Counter[tuple[str, str, str]] = Counter()
    questions = []
    for video_id, (split, texts) in captions.items():
        facts = next((found for text in texts if (found := read_facts(text))), None)
        if facts is None or facts.event not in ("rests", "floats"):
            continue
        rng = random.Random(f"shapes picture questions {seed} {video_id}")
        candidates = list(_of_picture(facts, facts.things[0]))
        rng.shuffle(candidates)
        candidates.sort(key=lambda one: counts[split, one[0], one[2]])
        for number, (answer_type, text, answer) in enumerate(candidates[:2]):
            counts[split, answer_type, answer] += 1
            questions.append(
                Question(
                    f"{video_id}#{number}",
                    video_id,
                    text,
                    (answer,),
                    (1.0,),
                    answer_type=answer_type,
                    kind="now",
                    split=split,
                )
            )
    return questions


def _of_picture(facts: Facts, thing: Thing) -> Iterator[tuple[str, str, str]]:
    """(type of the answer, question, answer)."""
    yield "colour", f"what colour is the {thing.shape}?", thing.colour
    yield "shape", "what shape is there?", thing.shape
    yield "place", f"where is the {thing.shape}?", facts.places[0]
