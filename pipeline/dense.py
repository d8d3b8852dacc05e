"""Dense captioning as ActivityNet Captions scores it: densevid_eval (Krishna et al. 2017), SODA_c (Fujita et al. 2020).

Both are followed in what their published code does, also where papers say it otherwise; docs/scores.md has the list.

V videos   P predicted events of a video   R reference events of a video
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from pycocoevalcap.bleu.bleu import Bleu

from pipeline.cider import cider
from pipeline.scores import METRICS, Coverage, Scorer, rouges, split_sha256

TIOUS = (0.3, 0.5, 0.7, 0.9)
MAX_PROPOSALS = 1000
# What a prediction that overlaps nothing is compared with. Since 2021 it is a random word, here always this one: no
# score depends on the letters. Before, it was three tokens, which lower METEOR's recall and so METEOR.
GARBAGE = {"2021": "qxzvkjwqxzvkj", "2018": "abc123!@#"}

Pair = tuple[str, str]  # a reference's tokens, a prediction's


@dataclass(frozen=True)
class Event:
    start_s: float
    end_s: float
    sentence: str


Videos = Mapping[str, Sequence[Event]]


@dataclass(frozen=True)
class Dense:
    """Times 100. The lists are by tIoU; their average is what papers print."""

    tious: list[float]
    captions: dict[str, dict[str, list[float]]]  # by protocol (of GARBAGE): METRICS
    proposals: dict[str, list[float]]  # precision, recall
    soda_c: dict[str, dict[str, float]]  # by what is done with several reference files: see `soda_c`
    coverage: Coverage  # of videos
    unknown: int  # videos with predictions that no reference file has: not counted


def score_dense(
    predictions: Videos,
    references: Sequence[Videos],
    scorer: Scorer,
    *,
    tious: Sequence[float] = TIOUS,
    max_proposals: int = MAX_PROPOSALS,
) -> Dense:
    """Predicted events against one or several files of reference events.

    A video without predictions counts as zero. Of a video the first `max_proposals` predictions count.

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
    return Dense(
        list(tious),
        densevid(kept, references, scorer, tious),
        proposals(kept, references, tious),
        soda_c(kept, references, scorer),
        Coverage(len(videos), len(kept), missing, split_sha256(known)),
        len(predictions.keys() - set(videos)),
    )


def tiou(reference: Event, predicted: Event) -> float:
    """Intersection over union in time. (For intervals that do not meet, the union is their lengths.)"""
    shared = max(0.0, min(reference.end_s, predicted.end_s) - max(reference.start_s, predicted.start_s))
    hull = max(reference.end_s, predicted.end_s) - min(reference.start_s, predicted.start_s)
    lengths = reference.end_s - reference.start_s + predicted.end_s - predicted.start_s
    return shared / (min(hull, lengths) + 1e-8)


# densevid_eval


def densevid(
    predictions: Videos, references: Sequence[Videos], scorer: Scorer, tious: Sequence[float]
) -> dict[str, dict[str, list[float]]]:
    """METRICS (times 100) by protocol, a number for each tIoU.

    Every prediction makes a pair with each reference event that it overlaps by at least tIoU, or one with garbage; a
    video's score is that of its pairs as a corpus; the score is the average over videos.
    """
    videos = list(dict.fromkeys(video for file in references for video in file))
    garbage = dict(zip(GARBAGE, *scorer.tokenize(list(GARBAGE.values())), strict=True))
    pairs: dict[tuple[str, float], list[list[Pair]]] = {}  # by protocol and tIoU, of each video
    for least in tious:
        matched = [_matches(predictions.get(video, ()), video, references, least) for video in videos]
        flat = [pair for of_one in matched for pair in of_one]
        # In the published order, because the tokenizer looks across lines.
        said, meant = scorer.tokenize(
            [_ascii(caption) for _, caption in flat],
            [GARBAGE["2021"] if reference is None else _ascii(reference) for reference, _ in flat],
        )
        for protocol, word in garbage.items():
            against = (word if pair[0] is None else tokens for pair, tokens in zip(flat, meant, strict=True))
            rest = zip(against, said, strict=True)
            pairs[protocol, least] = [list(islice(rest, len(of_one))) for of_one in matched]
    return _densevid_scores(pairs, scorer)


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
    pairs: Mapping[tuple[str, float], Sequence[Sequence[Pair]]], scorer: Scorer
) -> dict[str, dict[str, list[float]]]:
    every = list(dict.fromkeys(pair for of_videos in pairs.values() for of_one in of_videos for pair in of_one))
    scores: dict[str, dict[str, list[float]]] = {protocol: {name: [] for name in METRICS} for protocol, _ in pairs}
    with scorer.meteor(text for pair in every for text in pair) as meteor:
        meteor.send(([meant] for meant, _ in every), [said for _, said in every])
        known: dict[tuple[Pair, ...], list[float]] = {}  # the same pairs come again at another tIoU
        for of_videos in pairs.values():
            for of_one in map(tuple, of_videos):
                if of_one not in known:
                    known[of_one] = _without_meteor(of_one)
        stats = dict(zip(every, meteor.receive_stats(len(every)), strict=True))
        corpora = [of_one for of_one in known if of_one]
        meteors = meteor.evaluate_all([[stats[pair] for pair in of_one] for of_one in corpora])
    for of_one, (total, _) in zip(corpora, meteors, strict=True):
        known[of_one][METRICS.index("METEOR")] = total
    for (protocol, _), of_videos in pairs.items():
        means = 100 * np.mean([known[tuple(of_one)] for of_one in of_videos], axis=0)
        for name, value in zip(METRICS, means, strict=True):
            scores[protocol][name].append(float(value))
    return scores


def _without_meteor(pairs: Sequence[Pair]) -> list[float]:
    """METRICS of the pairs as a corpus, 0 in METEOR's place; zeros if there are none."""
    if not pairs:
        return [0.0] * len(METRICS)
    gts = {str(i): [meant] for i, (meant, _) in enumerate(pairs)}
    res = {str(i): [said] for i, (_, said) in enumerate(pairs)}
    bleu, _ = Bleu(4).compute_score(gts, res, verbose=0)
    return [*bleu, 0.0, float(np.mean(rouges(gts, res))), cider(gts, res)[0]]


def proposals(predictions: Videos, references: Sequence[Videos], tious: Sequence[float]) -> dict[str, list[float]]:
    """Precision and recall (times 100) of the predicted intervals, a number for each tIoU.

    Of a video, the best over the reference files, of either by itself; then the average over videos.
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


def soda_c(predictions: Videos, references: Sequence[Videos], scorer: Scorer) -> dict[str, dict[str, float]]:
    """SODA_c (times 100): events matched in order, so that the sum of tIoU x METEOR is largest.

    precision and recall divide the sum by P and R, f1 is their harmonic mean; of a video, then averaged. With several
    reference files: `mean` scores against each and averages (as papers do), `best` takes each video's file of highest
    f1 (SODA's --multi_reference), `merged` puts all files' events in one (SODA's default). `f1 of predicted` leaves
    out videos without predictions, as SODA does, which otherwise count as zero.
    """
    videos = list(dict.fromkeys(video for file in references for video in file))
    predicted = {v: sorted(predictions[v], key=lambda event: event.start_s) for v in videos if v in predictions}
    weights = _soda_weights(predicted, references, scorer)
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
    predicted: Videos, references: Sequence[Videos], scorer: Scorer
) -> list[dict[str, NDArray[np.float64]]]:
    """tIoU x METEOR [R, P] of the events of every video, for each reference file."""
    shared = [{video: file[video] for video in predicted if video in file} for file in references]
    texts = [[_ascii(event.sentence) for events in of.values() for event in events] for of in (predicted, *shared)]
    own, *meant = map(_by_video, scorer.tokenize(*texts), (predicted, *shared))
    overlaps = [
        {
            video: np.array([[tiou(r, p) for p in predicted[video]] for r in events]).reshape(len(events), -1)
            for video, events in file.items()
        }
        for file in shared
    ]
    # SODA hands METEOR the prediction as the reference, and the reference as what is to be scored.
    pairs = dict.fromkeys(
        (own[video][j], meant[i][video][r])
        for i, file in enumerate(overlaps)
        for video, overlap in file.items()
        for r, j in zip(*map(np.ndarray.tolist, np.nonzero(overlap)), strict=True)
    )
    with scorer.meteor(text for pair in pairs for text in pair) as meteor:
        meteor.send(([reference] for reference, _ in pairs), [candidate for _, candidate in pairs])
        stats = meteor.receive_stats(len(pairs))
        score = dict(zip(pairs, [total for total, _ in meteor.evaluate_all([[one] for one in stats])], strict=True))
    return [
        {
            video: overlap
            * np.array([[score.get((p, r), 0.0) for p in own[video]] for r in texts[video]]).reshape(overlap.shape)
            for video, overlap in file.items()
        }
        for file, texts in zip(overlaps, meant, strict=True)
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
    predicted = [table[~np.isnan(table[:, 2]), 2] for table in tables]
    averages = np.mean([np.nan_to_num(table).mean(axis=0) for table in tables], axis=0)
    of_predicted = np.mean([f1.mean() if len(f1) else 0.0 for f1 in predicted])
    names = ("precision", "recall", "f1", "f1 of predicted")
    return {name: float(100 * value) for name, value in zip(names, (*averages, of_predicted), strict=True)}


def _by_video(tokens: Sequence[str], videos: Videos) -> dict[str, list[str]]:
    rest = iter(tokens)
    return {video: [next(rest) for _ in events] for video, events in videos.items()}


def _ascii(text: str) -> str:
    """Either of the published programs puts a space for every character beyond ASCII."""
    return "".join(character if ord(character) < 128 else " " for character in text)
