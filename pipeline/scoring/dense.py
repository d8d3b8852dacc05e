"""Dense captioning as ActivityNet Captions scores it: densevid_eval (Krishna et al. 2017), SODA_c (Fujita et al. 2020).

Both follow their published code, even where the papers differ; docs/scores.md has the list.

V videos   P predicted events of a video   R reference events of a video
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from pycocoevalcap.bleu.bleu import Bleu

from pipeline.scoring.cider import cider
from pipeline.scoring.scorer import Coverage, Scorer, by_name, cut_note, rouges, split_sha256

TIOUS = (0.3, 0.5, 0.7, 0.9)
MAX_PROPOSALS = 1000
# The reference for a prediction that overlaps nothing. Since 2021 it is a random word, here always this one: no score
# depends on the letters. Before, it was three tokens, which lower METEOR's recall and so METEOR.
GARBAGE = {"2021": "qxzvkjwqxzvkj", "2018": "abc123!@#"}

SODA = ("precision", "recall", "f1")

Pair = tuple[str, str]  # a reference's tokens, a prediction's


@dataclass(frozen=True)
class Event:
    start_s: float
    end_s: float
    sentence: str


Videos = Mapping[str, Sequence[Event]]


@dataclass(frozen=True)
class Dense:
    """Scores times 100. Lists are by tIoU; papers report their average."""

    tious: list[float]
    captions: dict[str, dict[str, list[float]]]  # by protocol (a key of GARBAGE) and name of the score
    proposals: dict[str, list[float]]  # precision, recall
    soda_c: dict[str, dict[str, float]]  # by treatment of several reference files: see `soda_c`
    coverage: Coverage  # number of videos
    unknown: int  # videos with predictions that no reference file has: not counted
    notes: list[str]  # remarks for readers of the scores


def score_dense(
    predictions: Videos,
    references: Sequence[Videos],
    scorer: Scorer,
    *,
    tious: Sequence[float] = TIOUS,
    max_proposals: int = MAX_PROPOSALS,
) -> Dense:
    """Predicted events against one or several files of reference events.

    A video without predictions counts as zero. Only the first `max_proposals` predictions of a video count.

    Raises ValueError for a reference video without events, and if no reference video has predictions; JavaError.
    """
    bare = [video for file in references for video in file if not file[video]]
    if bare:
        raise ValueError(f"{len(bare)} reference videos have no events, the first {bare[0]!r}")
    videos = list(dict.fromkeys(video for file in references for video in file))
    kept = {video: predictions[video][:max_proposals] for video in videos if video in predictions}
    if not kept:
        raise ValueError(f"nothing to score: none of {len(videos)} reference videos has predictions")
    known = {video: [json.dumps([asdict(e) for e in file.get(video, ())]) for file in references] for video in videos}
    missing = [video for video in videos if video not in kept]
    files = (kept, *references)
    notes = scorer.notes([event.sentence for file in files for events in file.values() for event in events])
    return Dense(
        list(tious),
        densevid(kept, references, scorer, tious, notes),
        proposals(kept, references, tious),
        soda_c(kept, references, scorer, notes),
        Coverage(len(videos), len(kept), missing, split_sha256(known)),
        len(predictions.keys() - set(videos)),
        list(dict.fromkeys(notes)),
    )


def tiou(reference: Event, predicted: Event) -> float:
    """Intersection over union in time. (For intervals that do not meet, the union is their lengths.)"""
    shared = max(0.0, min(reference.end_s, predicted.end_s) - max(reference.start_s, predicted.start_s))
    hull = max(reference.end_s, predicted.end_s) - min(reference.start_s, predicted.start_s)
    lengths = reference.end_s - reference.start_s + predicted.end_s - predicted.start_s
    return shared / (min(hull, lengths) + 1e-8)


# densevid_eval


def densevid(
    predictions: Videos,
    references: Sequence[Videos],
    scorer: Scorer,
    tious: Sequence[float],
    notes: list[str] | None = None,
) -> dict[str, dict[str, list[float]]]:
    """Scores of the captions (times 100) by protocol and name, a number for each tIoU. Remarks go into `notes`.

    Every prediction is paired with each reference event that it overlaps by at least tIoU, or else with garbage. A
    video's score is that of its pairs as a corpus; the result is the average over videos.
    """
    videos = list(dict.fromkeys(video for file in references for video in file))
    garbage = dict(GARBAGE)  # letters that no caption should match
    if scorer.tokenizer == "ptb":
        garbage = dict(zip(GARBAGE, *scorer.tokenize(list(GARBAGE.values())), strict=True))
    pairs: dict[tuple[str, float], list[list[Pair]]] = {}  # by protocol and tIoU, of each video
    for least in tious:
        matched = [_matches(predictions.get(video, ()), video, references, least) for video in videos]
        flat = [pair for of_one in matched for pair in of_one]
        # In the published order, because the tokenizer looks across lines.
        captions, others = scorer.tokenize(
            [_read(caption, scorer) for _, caption in flat],
            [GARBAGE["2021"] if reference is None else _read(reference, scorer) for reference, _ in flat],
        )
        for protocol, word in garbage.items():
            against = (word if pair[0] is None else tokens for pair, tokens in zip(flat, others, strict=True))
            rest = zip(against, captions, strict=True)
            pairs[protocol, least] = [list(islice(rest, len(of_one))) for of_one in matched]
    return _densevid_scores(pairs, scorer, [] if notes is None else notes)


def _matches(
    predicted: Sequence[Event], video: str, references: Sequence[Videos], least: float
) -> list[tuple[str | None, str]]:
    """(reference or None for garbage, prediction) of a video's pairs."""
    pairs: list[tuple[str | None, str]] = []
    for event in predicted:
        others = (other for file in references for other in file.get(video, ()))
        near: list[str | None] = [other.sentence for other in others if tiou(other, event) >= least]
        pairs += [(sentence, event.sentence) for sentence in near or [None]]
    return pairs


def _densevid_scores(
    pairs: Mapping[tuple[str, float], Sequence[Sequence[Pair]]], scorer: Scorer, notes: list[str]
) -> dict[str, dict[str, list[float]]]:
    every = list(dict.fromkeys(pair for of_videos in pairs.values() for of_one in of_videos for pair in of_one))
    scores: dict[str, dict[str, list[float]]] = {protocol: {} for protocol, _ in pairs}
    with scorer.meteor(text for pair in every for text in pair) as meteor:
        meteor.send(([reference] for reference, _ in every), [caption for _, caption in every])
        known: dict[tuple[Pair, ...], dict[str, float]] = {}  # the same pairs recur at other tIoUs
        for of_videos in pairs.values():
            for of_one in map(tuple, of_videos):
                if of_one not in known:
                    known[of_one] = _without_meteor(of_one)
        stats = dict(zip(every, meteor.receive_stats(len(every)), strict=True))
        notes += cut_note(meteor, [caption for _, caption in every])
        corpora = [of_one for of_one in known if of_one]
        meteors = meteor.evaluate_all([[stats[pair] for pair in of_one] for of_one in corpora])
    for of_one, (total, _) in zip(corpora, meteors, strict=True):
        known[of_one]["METEOR"] = total
    for (protocol, _), of_videos in pairs.items():
        of_each = [known[tuple(of_one)] for of_one in of_videos]
        for name in of_each[0]:
            scores[protocol].setdefault(name, []).append(float(100 * np.mean([one[name] for one in of_each])))
    return scores


def _without_meteor(pairs: Sequence[Pair]) -> dict[str, float]:
    """Scores of the pairs as a corpus, by name, with 0 for METEOR; zeros if there are none."""
    if not pairs:
        return by_name([0.0] * 4, 0.0, 0.0, 0.0)
    gts = {str(i): [reference] for i, (reference, _) in enumerate(pairs)}
    res = {str(i): [caption] for i, (_, caption) in enumerate(pairs)}
    bleu, _ = Bleu(4).compute_score(gts, res, verbose=0)
    return by_name(bleu, 0.0, float(np.mean(rouges(gts, res))), cider(gts, res)[0])


def proposals(predictions: Videos, references: Sequence[Videos], tious: Sequence[float]) -> dict[str, list[float]]:
    """Precision and recall (times 100) of the predicted intervals, a number for each tIoU.

    For each video the best over the reference files, separately for both; then the average over videos.
    """
    found: dict[str, list[float]] = {"precision": [], "recall": []}
    videos = list(dict.fromkeys(video for file in references for video in file))
    for least in tious:
        best = np.zeros((len(videos), 2))
        for row, video in zip(best, videos, strict=True):
            for file in references:
                if video in file and predictions.get(video):
                    near = np.array([[tiou(r, p) > least for p in predictions[video]] for r in file[video]])  # [R, P]
                    row[:] = np.maximum(row, [near.any(axis=0).mean(), near.any(axis=1).mean()])
        for name, value in zip(found, 100 * best.mean(axis=0), strict=True):
            found[name].append(float(value))
    return found


# SODA


def soda_c(
    predictions: Videos, references: Sequence[Videos], scorer: Scorer, notes: list[str] | None = None
) -> dict[str, dict[str, float]]:
    """SODA_c (times 100): events matched in order, so that the sum of tIoU x METEOR is largest.

    precision and recall divide the sum by P and R, f1 is their harmonic mean; per video, then averaged. With several
    reference files: `mean` scores against each and averages (as papers do), `best` takes the file with the highest f1
    for each video (SODA's --multi_reference), `merged` puts all files' events in one (SODA's default). Scores "of
    predicted" leave out videos without predictions, as SODA does; otherwise they count as zero. Remarks go into
    `notes`.
    """
    videos = list(dict.fromkeys(video for file in references for video in file))
    predicted = {v: sorted(predictions[v], key=lambda event: event.start_s) for v in videos if v in predictions}
    weights = _soda_weights(predicted, references, scorer, [] if notes is None else notes)
    merged: list[NDArray[np.float64]] = []
    by_file: list[list[NDArray[np.float64]]] = [[] for _ in references]
    best: list[NDArray[np.float64]] = []
    for video in videos:
        here = [i for i, file in enumerate(references) if video in file]
        if video not in predicted:
            nothing = np.full(3, np.nan)
            for i in here:
                by_file[i].append(nothing)
            best.append(nothing)
            merged.append(nothing)
            continue
        for i in here:
            by_file[i].append(_soda_scores(_by_start(weights[i][video], references[i][video])))
        # --multi_reference keeps the events in the file's order.
        best.append(max((_soda_scores(weights[i][video]) for i in here), key=lambda scores: scores[2]))
        events = [event for i in here for event in references[i][video]]
        merged.append(_soda_scores(_by_start(np.concatenate([weights[i][video] for i in here]), events)))
    return {
        "mean": _soda_average(by_file),
        "best": _soda_average([best]),
        "merged": _soda_average([merged]),
    }


def _soda_weights(
    predicted: Videos, references: Sequence[Videos], scorer: Scorer, notes: list[str]
) -> list[dict[str, NDArray[np.float64]]]:
    """tIoU x METEOR [R, P] of the events of every video, for each reference file."""
    shared = [{video: file[video] for video in predicted if video in file} for file in references]
    texts = [
        [_read(event.sentence, scorer) for events in of.values() for event in events] for of in (predicted, *shared)
    ]
    own, *others = map(_by_video, scorer.tokenize(*texts), (predicted, *shared))
    overlaps = [
        {
            video: np.array([[tiou(r, p) for p in predicted[video]] for r in events]).reshape(len(events), -1)
            for video, events in file.items()
        }
        for file in shared
    ]
    # SODA gives METEOR the prediction as the reference, and the reference as the candidate.
    pairs = dict.fromkeys(
        (own[video][j], others[i][video][r])
        for i, file in enumerate(overlaps)
        for video, overlap in file.items()
        for r, j in zip(*map(np.ndarray.tolist, np.nonzero(overlap)), strict=True)
    )
    with scorer.meteor(text for pair in pairs for text in pair) as meteor:
        meteor.send(([reference] for reference, _ in pairs), [candidate for _, candidate in pairs])
        stats = meteor.receive_stats(len(pairs))
        notes += cut_note(meteor, [candidate for _, candidate in pairs])
        score = dict(zip(pairs, [total for total, _ in meteor.evaluate_all([[one] for one in stats])], strict=True))
    return [
        {
            video: overlap
            * np.array([[score.get((p, r), 0.0) for p in own[video]] for r in texts[video]]).reshape(overlap.shape)
            for video, overlap in file.items()
        }
        for file, texts in zip(overlaps, others, strict=True)
    ]


def _by_start(weights: NDArray[np.float64], events: Sequence[Event]) -> NDArray[np.float64]:
    return weights[np.argsort([event.start_s for event in events], kind="stable")]


def _soda_scores(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """precision, recall and f1 of a video's weights [R, P]."""
    if not weights.size:
        return np.zeros(3)
    best = np.zeros((weights.shape[0] + 1, weights.shape[1] + 1))
    for r, row in enumerate(weights.tolist()):
        for p, weight in enumerate(row):
            best[r + 1, p + 1] = max(best[r, p + 1], best[r + 1, p], best[r, p] + weight)
    precision, recall = best[-1, -1] / weights.shape[1], best[-1, -1] / weights.shape[0]
    f1 = 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
    return np.array([precision, recall, f1])


def _soda_average(files: Iterable[Sequence[NDArray[np.float64]]]) -> dict[str, float]:
    """Over the videos of each file ([3] each, NaN where nothing was predicted), then over files."""
    tables = [np.array(file) for file in files]
    predicted = [table[~np.isnan(table[:, 2])] for table in tables]
    averages = np.mean([np.nan_to_num(table).mean(axis=0) for table in tables], axis=0)
    of_predicted = np.mean([table.mean(axis=0) if len(table) else np.zeros(3) for table in predicted], axis=0)
    names = (*SODA, *(f"{name} of predicted" for name in SODA))
    return {name: float(100 * value) for name, value in zip(names, (*averages, *of_predicted), strict=True)}


def _by_video(tokens: Sequence[str], videos: Videos) -> dict[str, list[str]]:
    rest = iter(tokens)
    return {video: [next(rest) for _ in events] for video, events in videos.items()}


def _read(text: str, scorer: Scorer) -> str:
    """Like the published programs: a space for every character beyond ASCII. This can only score English."""
    if scorer.tokenizer != "ptb":
        return text
    return "".join(character if ord(character) < 128 else " " for character in text)
