"""Score captions from anywhere.

    python -m pipeline.score candidates.json references.json
    python -m pipeline.score data/captions.json data/activitynet/annotations/val_1.json --json
    python -m pipeline.score predictions.json val_1.json val_2.json     # events with times: dense captioning

Formats are told from the content: COCO (results; captions), ActivityNet (dense results; annotations), {id: text} and
{id: [texts]}, and CSV with a column of ids and one of texts. Several files of references are one set.
"""

import argparse
import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.annotations import read_annotations, segments_of
from pipeline.dense import MAX_PROPOSALS, Dense, Event, score_dense
from pipeline.diversity import diversity
from pipeline.java import evaluator
from pipeline.scores import METRICS, Coverage, Scorer, Scores

IDS = ("segment_id", "image_id", "video_id", "id")
TEXTS = ("caption", "sentence", "text")
SHOWN = 5  # missing ids in the table

Events = dict[str, list[Event]]


def read_candidates(path: Path) -> dict[str, str]:
    """One text by id. ValueError says what is wrong and where."""
    return _texts(_load(path), path)


def read_events(path: Path) -> Events:
    """Events by video, of ActivityNet's dense results or of its annotations, as they stand there."""
    return _events(_load(path), path)


def read_references(paths: Sequence[Path]) -> dict[str, list[str]]:
    """Texts by id, of all files together. The ids of ActivityNet's annotations are the pipeline's segment_ids."""
    references: dict[str, list[str]] = {}
    annotated: dict[str, list[Any]] = {}
    for path in paths:
        content = _load(path)
        if _has_times(content):
            for annotation in read_annotations(path, "activitynet")[0]:
                annotated.setdefault(annotation.video_id, []).append(annotation)
            continue
        for id, text in _reference_pairs(content, path):
            references.setdefault(id, []).append(text)
    for annotations in annotated.values():
        for segment in segments_of(annotations, "", None)[0]:
            references.setdefault(segment.segment_id, []).extend(segment.captions)
    return references


_WANTED = (
    'wanted COCO ([{"image_id", "caption"}, ...] or {"images", "annotations"}), ActivityNet, {id: text}, or a .csv file'
)


def _texts(content: Any, path: Path) -> dict[str, str]:
    if isinstance(content, list):
        pairs = [_id_and_text(entry, path) for entry in content]
    elif isinstance(content, dict):
        pairs = [(id, _one(text, path, id)) for id, text in content.items()]
    else:
        raise ValueError(f"{path}: found {_kind(content)}; {_WANTED}")
    counts = Counter(id for id, _ in pairs)
    if twice := [id for id, count in counts.items() if count > 1]:
        raise ValueError(f"{path}: {len(twice)} ids have several candidates, the first {twice[0]!r}; wanted one each")
    return dict(pairs)


def _events(content: Any, path: Path) -> Events:
    if not _has_times(content):
        raise ValueError(f"{path}: found no times in it; wanted ActivityNet's annotations or dense results")
    if "results" in content:
        return {video: [_event(event, path, video) for event in events] for video, events in content["results"].items()}
    events = {}
    for video, entry in content.items():
        try:
            timed = zip(entry["timestamps"], entry["sentences"], strict=True)
            events[video] = [_event({"timestamp": t, "sentence": s}, path, video) for t, s in timed]
        except (KeyError, TypeError):
            raise ValueError(f"{path}: {video!r} lacks timestamps or sentences") from None
    return events


def _load(path: Path) -> Any:
    """JSON, or of a .csv file a list of {"id", "caption"}."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error})") from None
    if path.suffix.lower() == ".csv":
        return _rows(path, text)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            raise ValueError(f"{path}: {next(k for k in keys if keys.count(k) > 1)!r} stands there more than once")
        return found

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None


def _rows(path: Path, text: str) -> list[dict[str, Any]]:
    csv.field_size_limit(sys.maxsize)
    reader = csv.DictReader(io.StringIO(text, newline=""))
    columns = reader.fieldnames or []
    id = next((name for name in IDS if name in columns), None)
    texts = next((name for name in TEXTS if name in columns), None)
    if id is None or texts is None:
        found = ", ".join(columns) or "none"
        raise ValueError(f"{path}: found the columns {found}; wanted one of {', '.join(IDS)} and of {', '.join(TEXTS)}")
    rows: list[dict[str, Any]] = []
    for row in reader:
        rows.append({"id": row[id], "caption": row[texts]})
        if row.get("references"):  # data/captions.csv has them as JSON
            rows[-1]["references"] = json.loads(row["references"])
    return rows


def _reference_pairs(content: Any, path: Path) -> Iterable[tuple[str, str]]:
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        pairs = [_id_and_text(entry, path) for entry in content["annotations"]]
        # By image, in their order, as COCO's own tools have them: the tokenizer looks across lines.
        order = {str(image["id"]): i for i, image in enumerate(content.get("images", ()))}
        return sorted(pairs, key=lambda pair: order.get(pair[0], len(order)))
    if isinstance(content, list):
        return [
            pair
            for entry in content
            for pair in (
                [(str(entry["id"]), text) for text in entry["references"]]
                if isinstance(entry, dict) and "references" in entry
                else [_id_and_text(entry, path)]
            )
        ]
    if isinstance(content, dict):
        several = {id: [texts] if isinstance(texts, str) else texts for id, texts in content.items()}
        for id, texts in several.items():
            if not (isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)):
                raise ValueError(
                    f"{path}: the references of {id!r} are {_kind(texts)}; wanted a text or a list of texts"
                )
        return [(id, text) for id, texts in several.items() for text in texts]
    raise ValueError(f"{path}: found {_kind(content)}; {_WANTED}")


def _id_and_text(entry: Any, path: Path) -> tuple[str, str]:
    if isinstance(entry, dict):
        id = next((entry[name] for name in IDS if isinstance(entry.get(name), int | str)), None)
        # COCO annotations have an id of their own beside the image's: IDS is in order of preference.
        text = next((entry[name] for name in TEXTS if isinstance(entry.get(name), str)), None)
        if id is not None and text is not None:
            return str(id), text
    raise ValueError(f"{path}: found the entry {_short(entry)}; wanted an id ({', '.join(IDS)}) and a text in it")


def _one(text: Any, path: Path, id: str) -> str:
    if isinstance(text, list) and len(text) == 1:
        text = text[0]
    if not isinstance(text, str):
        raise ValueError(f"{path}: the candidate of {id!r} is {_kind(text)}; wanted one text")
    return text


def _event(entry: Any, path: Path, video: str) -> Event:
    try:
        start_s, end_s = map(float, entry["timestamp"])
        if isinstance(entry["sentence"], str):
            return Event(start_s, end_s, entry["sentence"])
    except (KeyError, TypeError, ValueError):
        pass
    wanted = '{"timestamp": [start, end], "sentence": text}'
    raise ValueError(f"{path}: found the event {_short(entry)} of {video!r}; wanted {wanted}")


def _has_times(content: Any) -> bool:
    if not isinstance(content, dict):
        return False
    return isinstance(content.get("results"), dict) or any(
        isinstance(entry, dict) and "timestamps" in entry for entry in content.values()
    )


def _kind(value: Any) -> str:
    if isinstance(value, list | dict):
        return f"a {'list' if isinstance(value, list) else 'mapping'} of {len(value)}"
    return _short(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def table(scores: Scores, figures: Mapping[str, float]) -> str:
    lines = [*_head(scores.coverage, "segments"), "", f"{'':<12}{'corpus':>10}{'mean of segments':>20}"]
    lines += [f"{name:<12}{scores.corpus[name]:>10.2f}{scores.mean[name]:>20.2f}" for name in METRICS]
    return "\n".join([*lines, "", *(f"{name:<12}{value:>10.2f}" for name, value in figures.items())])


def dense_table(dense: Dense) -> str:
    lines = _head(dense.coverage, "videos")
    if dense.unknown:
        lines.append(f"{dense.unknown} videos with predictions are in no reference file: not counted")
    lines += ["", f"{'tIoU':<20}" + "".join(f"{tiou:>10g}" for tiou in dense.tious) + f"{'average':>10}"]

    def line(name: str, values: Sequence[float]) -> str:
        return f"{name:<20}" + "".join(f"{value:>10.2f}" for value in [*values, sum(values) / len(values)])

    newest, *older = dense.captions
    lines += [line(name, values) for name, values in dense.captions[newest].items()]
    lines += [line(f"METEOR, as in {protocol}", dense.captions[protocol]["METEOR"]) for protocol in older]
    lines += [line(name, values) for name, values in dense.proposals.items()]
    columns = next(iter(dense.soda_c.values()))
    lines += ["", f"{'SODA_c, references':<20}" + "".join(f"{name:>17}" for name in columns)]
    lines += [f"{how:<20}" + "".join(f"{x:>17.2f}" for x in row.values()) for how, row in dense.soda_c.items()]
    return "\n".join(lines)


def averages(dense: Dense) -> dict[str, dict[str, float]]:
    """Over tIoUs, by protocol."""
    rows = {protocol: {**metrics, **dense.proposals} for protocol, metrics in dense.captions.items()}
    return {p: {name: sum(values) / len(values) for name, values in row.items()} for p, row in rows.items()}


def _head(coverage: Coverage, what: str) -> list[str]:
    names = evaluator()
    lines = [f"{names['evaluator']} {names['version']}, METEOR {names['meteor']}, Java {names['java']}; all times 100"]
    lines.append(f"{coverage.scored} of {coverage.asked} {what}, split {coverage.split_sha256[:16]}")
    if coverage.missing:
        rest = len(coverage.missing) - SHOWN
        shown = ", ".join(coverage.missing[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
        lines.append(f"missing: {shown}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.score", description="Score captions from anywhere.")
    parser.add_argument("candidates", type=Path)
    parser.add_argument("references", type=Path, nargs="+")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--dense", action="store_true", help="events with times (found out where not said)")
    parser.add_argument("--max-proposals", type=int, default=MAX_PROPOSALS, help="of a video, the first so many count")
    asked = parser.parse_args()
    try:
        with Scorer() as scorer:  # first: Java starts while we read
            content = _load(asked.candidates)
            if asked.dense or _has_times(content):
                events, others = _events(content, asked.candidates), list(map(read_events, asked.references))
                dense = score_dense(events, others, scorer, max_proposals=asked.max_proposals)
                found = {**asdict(dense), "average": averages(dense)}
                shown = dense_table(dense)
            else:
                candidates = _texts(content, asked.candidates)
                scores = scorer.score(candidates, read_references(asked.references))
                figures = diversity(candidates)
                found = {"coverage": asdict(scores.coverage), "corpus": scores.corpus, "mean": scores.mean}
                found["diversity"] = figures
                shown = table(scores, figures)
    except (ValueError, OSError) as error:
        sys.exit(f"score: {error}")
    print(json.dumps({**evaluator(), **found}, indent=2) if asked.json else shown)


if __name__ == "__main__":
    main()
