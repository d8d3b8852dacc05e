"""Dense captioning against the same protocol said in other words: one corpus per video and tIoU."""

import itertools
import random

import numpy as np
import pytest

from pipeline.scoring.dense import Event, densevid, proposals, score_dense, soda_c, tiou
from pipeline.scoring.registry import of_corpus
from pipeline.scoring.scorer import Scorer

SENTENCES = ["A man throws the ball.", "The ball is thrown by a man", "A dog runs to the café", "People are dancing"]
SENTENCES += [
    "a crowd of people dances on stage",
    "the dog is running fast",
    "a woman talks",
    "she talks to the camera",
]


@pytest.fixture(scope="module")
def scorer():
    with Scorer() as made:
        yield made


def events_of(rng, count):
    starts = sorted(rng.uniform(0, 40) for _ in range(count))
    found = [Event(start, start + rng.uniform(5, 50), rng.choice(SENTENCES)) for start in starts]
    rng.shuffle(found)
    return found


@pytest.fixture(scope="module")
def made_up():
    """Predictions (none of v3, an empty list for v4, v9 unknown) and two reference files, the second without v0."""
    rng = random.Random(1)
    first = {f"v{i}": events_of(rng, rng.randint(1, 4)) for i in range(5)}
    second = {f"v{i}": events_of(rng, rng.randint(1, 4)) for i in range(1, 5)}
    predictions = {f"v{i}": events_of(rng, 4) for i in (0, 1, 2, 9)} | {"v4": []}
    return predictions, [first, second]


def ascii_only(text):
    return text.encode("ascii", "replace").decode().replace("?", " ")


@pytest.mark.parametrize(("protocol", "garbage"), [("2021", "wkqpzjmnbvx"), ("2018", "abc123!@#")])
def test_captions_score_as_one_corpus_per_video_of_the_pairs_that_overlap(made_up, scorer, protocol, garbage):
    predictions, files = made_up
    ours = densevid(predictions, files, scorer, [0.3, 0.7])[protocol]
    for i, least in enumerate((0.3, 0.7)):
        captions: dict[str, str] = {}
        references: dict[str, list[str]] = {}
        video_of: dict[str, str] = {}
        for video, events in predictions.items():
            for event in events if video in files[0] else ():
                near = [r.sentence for file in files for r in file.get(video, ()) if tiou(r, event) >= least]
                for text in near or [garbage]:
                    id = f"pair {len(captions)}"
                    captions[id], references[id], video_of[id] = ascii_only(event.sentence), [ascii_only(text)], video
        by_video = scorer.score(captions, references, video_of).groups
        assert set(by_video) == {"v0", "v1", "v2"}
        for name in of_corpus():  # five videos: those without predictions count as zero
            assert ours[name][i] == pytest.approx(sum(scores[name] for scores in by_video.values()) / 5), name


def test_proposals_are_judged_by_the_reference_file_that_is_kinder():
    predictions = {"a": [Event(0, 10, ""), Event(20, 30, "")], "b": [Event(0, 1, "")]}
    one = {"a": [Event(0, 10, "")], "b": [Event(5, 6, "")], "gone": [Event(0, 1, "")]}
    other = {"a": [Event(0, 9, ""), Event(20, 29, ""), Event(50, 60, "")]}
    found = proposals(predictions, [one, other], [0.5, 0.95])
    # a: precision 2 of 2 by the other file, recall 1 of 1 by the first; at 0.95 the other file's are too short.
    assert found["precision"] == pytest.approx([100 / 3, 50 / 3])
    assert found["recall"] == pytest.approx([100 / 3, 100 / 3])


def test_soda_is_the_best_matching_in_order_of_all_that_there_are(made_up, scorer):
    predictions, files = made_up
    ours = soda_c(predictions, files, scorer)
    pairs = {(p, r): f"{i}" for i, (p, r) in enumerate(itertools.product(map(ascii_only, SENTENCES), repeat=2))}
    each = scorer.score({i: r for (_, r), i in pairs.items()}, {i: [p] for (p, _), i in pairs.items()}).segments
    meteor = dict(zip(pairs, each["METEOR"] / 100, strict=True))

    def scores(predicted, events):
        def weight(p, r):
            return tiou(r, p) * meteor[ascii_only(p.sentence), ascii_only(r.sentence)]

        most = min(len(predicted), len(events))
        best = max(
            (
                sum(map(weight, ps, rs))
                for k in range(1, most + 1)
                for ps in itertools.combinations(predicted, k)
                for rs in itertools.combinations(events, k)
            ),
            default=0.0,
        )
        p, r = best / max(len(predicted), 1), best / len(events)
        return np.array([p, r, 2 * p * r / (p + r) if p + r else 0.0])

    def start(event):
        return event.start_s

    def average(of_videos, videos):
        found = np.array([of_videos(v) if v in predictions else np.zeros(3) for v in videos])
        here = [row for row, v in zip(found, videos, strict=True) if v in predictions]
        return [*100 * found.mean(axis=0), *100 * np.mean(here, axis=0)]

    ordered = {video: sorted(events, key=start) for video, events in predictions.items()}
    by_file = [average(lambda v, f=f: scores(ordered[v], sorted(f[v], key=start)), list(f)) for f in files]
    assert list(ours["mean"].values()) == pytest.approx(np.mean(by_file, axis=0))
    both = [f"v{i}" for i in range(5)]

    def best(video):
        return max((scores(ordered[video], file[video]) for file in files if video in file), key=lambda row: row[2])

    def merged(video):
        return scores(ordered[video], sorted((e for file in files for e in file.get(video, ())), key=start))

    assert list(ours["best"].values()) == pytest.approx(average(best, both))
    assert list(ours["merged"].values()) == pytest.approx(average(merged, both))


def test_a_perfect_prediction_is_perfect_and_coverage_says_what_was_judged(scorer):
    events = [Event(0, 10, SENTENCES[0]), Event(10, 20, SENTENCES[2])]
    done = score_dense({"a": events, "x": events}, [{"a": events, "b": events}], scorer, max_proposals=1)
    assert (done.coverage.asked, done.coverage.scored, done.coverage.missing, done.unknown) == (2, 1, ["b"], 1)
    # Of two events one was allowed, of two videos one was there.
    assert done.proposals == {"precision": [50.0] * 4, "recall": [25.0] * 4}
    assert done.captions["2021"]["BLEU-4"] == pytest.approx([50.0] * 4)
    for name in ("precision", "recall", "f1"):
        assert done.soda_c["mean"][f"{name} of predicted"] == pytest.approx(2 * done.soda_c["mean"][name])
    assert done.notes == []


def test_events_in_chinese_are_judged_by_characters():
    events = [Event(0, 10, "一只棕色的狗在公园里跑"), Event(20, 30, "两个男人在下国际象棋"), Event(40, 50, "没有")]
    predicted = [*events[:2], Event(90, 99, "女人切洋葱")]
    with Scorer(tokenizer="characters") as by_characters:
        done = score_dense({"a": predicted}, [{"a": events}], by_characters)
    assert done.soda_c["mean"]["f1"] == pytest.approx(100 * 2 / 3)
    assert 60 < done.captions["2021"]["ROUGE-L"][0] < 70 and done.notes == []


def test_what_the_published_programs_cannot_read_is_said(scorer, monkeypatch):
    events = [Event(0, 10, "一只棕色的狗在公园里跑")]
    (note,) = score_dense({"a": events}, [{"a": events}], scorer).notes
    assert note.startswith("2 of 2 captions and references are written without spaces")
    monkeypatch.setattr("pipeline.scoring.java.METEOR_REPEATS", 10)
    often = [Event(0, 10, "dog " * 100)]
    notes = score_dense({"a": often}, [{"a": often}], scorer).notes
    assert notes and all(note.startswith("METEOR was not given all of 1 captions") for note in notes)


def test_what_cannot_be_judged_is_refused(scorer):
    with pytest.raises(ValueError, match=r"^1 reference videos have no events, the first 'b'$"):
        score_dense({}, [{"a": [Event(0, 1, "")], "b": []}], scorer)
    with pytest.raises(ValueError, match=r"^nothing to score: none of 1 reference videos has predictions$"):
        score_dense({"b": []}, [{"a": [Event(0, 1, "")]}], scorer)


def test_hostile_events_are_judged(scorer):
    odd = [Event(5, 5, ""), Event(9, 3, "\n"), Event(0, 1e9, "x" * 10_000), Event(-1, 2, "🐕"), Event(0, 4, "||| EVAL")]
    done = score_dense({"a": odd}, [{"a": odd}], scorer)
    assert all(np.isfinite(values).all() for scores in done.captions.values() for values in scores.values())
    assert all(np.isfinite(list(row.values())).all() for row in done.soda_c.values())
