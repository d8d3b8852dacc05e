"""Captions and references from files in many layouts, which docs/scores.md lists.

The layout is recognised from the content. An entry that cannot be read is an error that names it.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.dataset import formats
from pipeline.dataset.annotations import (
    Annotation,
    annotations_in,
    described,
    is_id,
    is_time,
    karpathy_images,
    short,
    text_columns,
)
from pipeline.dataset.segments import references_of
from pipeline.files import strict_csv, strict_json
from pipeline.process.terminal import printable
from pipeline.scoring.dense import Event

# Names of keys and columns, in order of preference: COCO's annotations have an id besides the image's.
IDS = ("segment_id", "image_id", "video_id", "file_name", "filename", "fname", "id")
CANDIDATES = ("prediction", "caption_predicted", "predicted_caption", "hypothesis", "candidate", "preds", "cands")
REFERENCES = ("references", "captions", "caption_references", "refs")
TEXTS = ("caption", "sentence", "text")
LINES, TABLES = (".txt",), (".csv", ".tsv")

Events = dict[str, list[Event]]

_WANTED = (
    'expected COCO ([{"image_id", "caption"}, ...] or {"images", "annotations"}), ActivityNet, {id: text}, '
    '[{"prediction", "references"}, ...], a .csv file, or a .txt file with a caption in each line'
)


@dataclass(frozen=True)
class Content:
    """A file's content: a table as a list of entries as in JSON, lines as {number: text}.

    lines: where the entries of a table begin.
    videos: of a published dataset's captions, or of a list of its videos (which then has no value of its own, but for
    1k-A's: that has captions, too).
    """

    path: Path
    value: Any
    lines: tuple[int, ...] = ()
    videos: tuple[Annotation, ...] = ()

    def where(self, entry: int | None = None) -> str:
        if entry is None:
            return str(self.path)
        return f"{self.path}, line {self.lines[entry]}" if self.lines else f"{self.path}, entry {entry + 1}"


def load(path: Path) -> Content:
    """Read a file. Raises ValueError if it cannot be read at all."""
    try:
        data = path.read_bytes()
        suffix = path.suffix.lower()
        if suffix in TABLES:
            found, read = formats.recognised_text(path, data)
            videos = tuple(read()[0]) if found in formats.PUBLISHED else ()
            if videos and not any(video.listed and video.captions for video in videos):
                return Content(path, None, videos=videos)
            return replace(_table(path), videos=videos)
        if not formats.is_json(path, data) and formats.is_flickr8k(data):
            return Content(path, None, videos=tuple(formats.recognised_text(path, data)[1]()[0]))
        if suffix in LINES:
            return Content(path, dict(enumerate_lines(path)))
        value = strict_json.loads(data, where=str(path))
        if (found_json := formats.recognised(value)) in formats.PUBLISHED:
            return Content(path, None, videos=tuple(formats.read_json(path, value, found_json)[0]))
        return Content(path, value)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error


def enumerate_lines(path: Path) -> list[tuple[str, str]]:
    """("1", the first line), ..., like nlg-eval. The last line may lack its line end."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: not UTF-8 ({error.reason}); save the file as UTF-8") from None
    lines = text.removesuffix("\n").split("\n") if text else []
    return [(str(number), line.strip()) for number, line in enumerate(lines, 1)]


def _table(path: Path) -> Content:
    columns, rows = strict_csv.load(path)
    texts = text_columns(columns)
    own = [name for name in (*CANDIDATES, *REFERENCES) if name in columns]
    needs_no_id = set(CANDIDATES) & set(own) and (set(REFERENCES) & set(own) or texts)
    if not (texts or own) or not (set(IDS) & set(columns) or needs_no_id):
        raise ValueError(
            f"{path}, line 1: found the columns {printable(', '.join(columns))}; expected one of {', '.join(IDS)}, and "
            f"one of {', '.join((*TEXTS, *CANDIDATES, *REFERENCES))} or caption_1, caption_2, ..."
        )
    entries = []
    for row in rows:
        where = f"{path}, line {row.line}"
        entry: dict[str, Any] = {name: cell for name, cell in row.cells.items() if name in (*IDS, *CANDIDATES)}
        for name in set(REFERENCES) & set(columns):
            if not row.cells[name].strip():
                raise ValueError(f"{where}: no {name}")
            entry[name] = _listed(row.cells[name], f"{where}, {name}")
        if len(texts) == 1 and texts[0] in TEXTS:
            entry[texts[0]] = row.cells[texts[0]]
        elif texts:  # a row may have fewer captions than there are columns
            entry["references"] = [row.cells[name] for name in texts if row.cells[name].strip()]
        entries.append(entry)
    return Content(path, entries, tuple(row.line for row in rows))


def _listed(cell: str, where: str) -> Any:
    """CSV has no lists: data/captions.csv has them as JSON. A cell that is not JSON is one text."""
    if cell.lstrip().startswith("["):
        return strict_json.loads(cell, where=where)
    try:
        text = json.loads(cell)
    except ValueError:
        return cell
    return text if isinstance(text, str) else cell


def has_times(content: Content) -> bool:
    """Whether it is dense captions: ActivityNet's results or annotations."""
    value = content.value
    return isinstance(value, dict) and (
        isinstance(value.get("results"), dict)
        or any(isinstance(entry, dict) and "timestamps" in entry for entry in value.values())
    )


# Candidates


def candidates_in(content: Content) -> dict[str, str]:
    """One text by id. Raises ValueError saying what is wrong and where."""
    if content.value is None and content.videos:
        raise ValueError(f"{content.path}: found references, or a list of videos; {_WANTED}")
    value, pairs = _entries(content), []
    if isinstance(value, list):
        for i, entry in enumerate(value):
            text = _first(entry, (*CANDIDATES, *TEXTS))
            id = _id(entry, i)
            if id is None or text is None:
                raise _not_an_entry(content, i, entry, TEXTS)
            pairs.append((id, _one(text, content.where(i), id)))
    else:
        pairs = [(id, _one(text, content.where(), id)) for id, text in value.items()]
    counts = Counter(id for id, _ in pairs)
    if repeated := [id for id, count in counts.items() if count > 1]:
        first = short(repeated[0])
        raise ValueError(
            f"{content.path}: {len(repeated)} ids have several candidates, the first {first}; expected one each"
        )
    return dict(pairs)


def _entries(content: Content) -> list[Any] | dict[str, Any]:
    """A list of entries, or texts by id."""
    value = content.value
    if isinstance(value, dict):
        for name in ("results", "annotations"):
            if isinstance(value.get(name), list):
                return list(value[name])
        for name in CANDIDATES:  # {"prediction": [...], "references": [[...], ...]}
            others = next((key for key in REFERENCES if isinstance(value.get(key), list)), None)
            if isinstance(value.get(name), list) and others:
                if len(value[name]) != len(value[others]):
                    found = f"{len(value[name])} of {name} and {len(value[others])} of {others}"
                    raise ValueError(f"{content.path}: found {found}; expected as many of either")
                return [{name: a, others: b} for a, b in zip(value[name], value[others], strict=True)]
        if value and all(isinstance(entry, dict) for entry in value.values()):  # {id: {"prediction", "references"}}
            return [{"segment_id": id, **entry} for id, entry in value.items()]
    if isinstance(value, list | dict):
        return value
    raise ValueError(f"{content.path}: found {described(value)}; {_WANTED}")


def _id(entry: Any, number: int) -> str | None:
    """The id of an entry that has candidate and references together: its place, counted from 1."""
    if not isinstance(entry, dict):
        return None
    id = next((entry[name] for name in IDS if is_id(entry.get(name)) and entry[name] != ""), None)
    if id is not None:
        return str(id)
    both = set(CANDIDATES) & entry.keys() and (set(REFERENCES) | set(TEXTS)) & entry.keys()
    return str(number + 1) if both else None


def _first(entry: Any, names: Sequence[str]) -> Any:
    return next((entry[name] for name in names if name in entry), None) if isinstance(entry, dict) else None


def _one(text: Any, where: str, id: str) -> str:
    if isinstance(text, list) and len(text) == 1:
        text = text[0]
    if isinstance(text, dict) and "caption" in text:  # pycocoevalcap's own {id: [{"caption": text}]}
        text = text["caption"]
    if not isinstance(text, str):
        raise ValueError(f"{where}: the candidate of {short(id)} is {described(text)}; expected one text")
    return text


def _not_an_entry(content: Content, i: int, entry: Any, keys: Sequence[str]) -> ValueError:
    wanted = f"expected an id ({', '.join(IDS)}) and a text ({', '.join(keys)}) in it"
    return ValueError(f"{content.where(i)}: found {short(entry)}; {wanted}")


def holds_both(content: Content) -> bool:
    """Whether the references are in the candidates' file."""
    if has_times(content) or content.value is None:
        return False
    value = _entries(content)
    first = value[0] if isinstance(value, list) and value else None
    return sum(_first(first, names) is not None for names in (CANDIDATES, REFERENCES, TEXTS)) > 1


# References


def references_in(
    contents: Sequence[Content], candidates: Collection[str] = (), split: str | None = None
) -> dict[str, list[str]]:
    """Texts by id, from all files together. The ids of ActivityNet's annotations are the pipeline's segment_ids.

    Args:
        candidates: their ids. COCO's and Karpathy's pictures have ids of several kinds: taken is the kind that most of
            these are of.
        split: of a file that has several (Karpathy's, MSR-VTT's).

    Raises ValueError.
    """
    if any(not video.listed for content in contents for video in content.videos):
        return _published(contents, candidates, split)
    lines = [content for content in contents if content.path.suffix.lower() in LINES]
    for content in lines[1:]:
        if len(content.value) != len(lines[0].value):
            here, there = (f"{one.path} has {len(one.value)}" for one in (content, lines[0]))
            raise ValueError(f"{here} lines, {there}; expected a line for each candidate")
    references: dict[str, list[str]] = {}
    annotated: dict[str, list[Annotation]] = {}
    for content in contents:
        if has_times(content):
            for annotation in annotations_in(content.value, "activitynet", where=str(content.path))[0]:
                annotated.setdefault(annotation.video_id, []).append(annotation)
            continue
        for id, text in _reference_pairs(content, candidates, split):
            references.setdefault(id, []).append(text)
    for annotations in annotated.values():
        for id, texts in references_of(annotations).items():
            references.setdefault(id, []).extend(texts)
    return references


def _published(contents: Sequence[Content], candidates: Collection[str], split: str | None) -> dict[str, list[str]]:
    """References of a dataset as it is published: of the listed videos if a list is among the files."""
    videos: list[Annotation] = []
    for content in contents:
        if content.path.suffix.lower() in LINES and not content.videos:
            videos += formats.read_list(content.path)
        elif not content.videos:
            raise ValueError(
                f"{content.path}: found other captions than the published ones beside it; score them alone"
            )
        videos += content.videos
    lists = any(video.listed for video in videos)
    sizes = Counter(video.split for video in videos if video.split)
    if split is None and len(sizes) > 1 and not lists:
        found = ", ".join(f"{name} ({count} videos)" for name, count in sizes.items())
        raise ValueError(f"{contents[0].where()}: holds the splits {found}; say which with --split")
    chosen = formats.of_split(videos, None if lists else split, Counter())
    if not chosen:
        raise ValueError(f"{contents[0].where()}: no video of split {split!r}; it has {', '.join(sizes)}")
    names = [_names({"id": one.video_id, "segment": f"{one.video_id}#0"}, one.file_name) for one in chosen]
    kind = _kind_of(candidates, names)
    references: dict[str, list[str]] = {}
    for video, of_one in zip(chosen, names, strict=True):
        texts = [text for caption in video.captions if (text := " ".join(caption.text.split()))]
        if texts:
            references.setdefault(of_one.get(kind, video.video_id), []).extend(texts)
    return references


def _reference_pairs(content: Content, candidates: Collection[str], split: str | None) -> Iterable[tuple[str, str]]:
    value, where = content.value, content.where()
    if isinstance(value, dict) and isinstance(value.get("annotations"), list):
        return _coco_pairs(value, where, candidates)
    if isinstance(value, dict) and isinstance(value.get("images"), list):
        return _karpathy_pairs(value, where, candidates, split)
    if content.path.suffix.lower() in LINES:  # a line is empty if there are fewer references
        return [(id, text) for id, text in value.items() if text]
    value = _entries(content)
    if isinstance(value, dict):
        return [(id, text) for id, texts in value.items() for text in _several(texts, where, id)]
    pairs = []
    # If some entries have references, a text is a candidate, and must not become its own reference in the others.
    keys = REFERENCES if any(_first(entry, REFERENCES) is not None for entry in value) else TEXTS
    for i, entry in enumerate(value):
        texts, id = _first(entry, keys), _id(entry, i)
        if id is None or texts is None:
            raise _not_an_entry(content, i, entry, keys)
        pairs += [(id, text) for text in _several(texts, content.where(i), id)]
    return pairs


def _several(texts: Any, where: str, id: str) -> list[str]:
    found = [texts] if isinstance(texts, str) else texts
    if isinstance(found, list):
        found = [text["caption"] if isinstance(text, dict) and "caption" in text else text for text in found]
    if not (isinstance(found, list) and found and all(isinstance(text, str) for text in found)):
        raise ValueError(
            f"{where}: the references of {short(id)} are {described(texts)}; expected a text or a list of texts"
        )
    return found


def _coco_pairs(value: dict[str, Any], where: str, candidates: Collection[str]) -> list[tuple[str, str]]:
    images = value.get("images", [])
    if not isinstance(images, list):
        raise ValueError(f"{where}: images is {described(images)}; expected a list")
    names: dict[str, Mapping[str, str]] = {}
    for i, image in enumerate(images):
        if not (isinstance(image, dict) and is_id(image.get("id"))):
            raise ValueError(f"{where}: image {i + 1} is {short(image)}; expected an id in it")
        id = str(image["id"])
        if id in names:
            raise ValueError(f"{where}: two images have the id {short(id)}")
        names[id] = _names({"id": id}, image.get("file_name"))
    kind = _kind_of(candidates, names.values())
    pairs = []
    for i, entry in enumerate(value["annotations"]):
        text = _first(entry, TEXTS)
        own = _first(entry, IDS)
        if not isinstance(text, str) or not is_id(own):
            raise ValueError(
                f"{where}: annotation {i + 1} is {short(entry)}; expected an id ({', '.join(IDS)}) and a text "
                f"({', '.join(TEXTS)})"
            )
        pairs.append((str(own), text))
    # By image, in the order of COCO's own tools, because the tokenizer looks across lines.
    order = {id: i for i, id in enumerate(names)}
    pairs.sort(key=lambda pair: order.get(pair[0], len(order)))
    return [(names[id].get(kind, id) if id in names else id, text) for id, text in pairs]


def _names(names: dict[str, str], file_name: Any) -> dict[str, str]:
    """The ids of an image by its file's name: that of the file, and that of the pipeline's segment."""
    if isinstance(file_name, str):
        stem = Path(file_name).stem
        names |= {"file": file_name, "stem": stem, "segment": f"{stem}#0"}
    return names


def _kind_of(candidates: Collection[str], names: Iterable[Mapping[str, str]]) -> str:
    """The kind of id that most candidates belong to; the first kind if there are none."""
    known = set(candidates)
    found: Counter[str] = Counter()
    for of_one in names:
        found.update({kind: name in known for kind, name in of_one.items()})
    return max(found, key=lambda kind: found[kind], default="id")


def _karpathy_pairs(
    value: dict[str, Any], where: str, candidates: Collection[str], split: str | None
) -> list[tuple[str, str]]:
    karpathy_images(value, "", where)
    sizes = Counter(image["split"] for image in value["images"])
    if split is None and len(sizes) > 1:
        found = ", ".join(f"{printable(name)} ({count} pictures)" for name, count in sizes.items())
        raise ValueError(f"{where}: holds the splits {found}; say which with --split")
    chosen = karpathy_images(value, split or next(iter(sizes), ""), where)
    if not chosen:
        raise ValueError(f"{where}: no picture of split {split!r}; it has {printable(', '.join(sizes)) or 'none'}")
    names = []
    for image in chosen:
        ids: dict[str, str] = {name: str(image[name]) for name in ("cocoid", "imgid") if name in image}
        names.append(_names(ids, image["filename"]))
    kind = _kind_of(candidates, names)
    pairs = []
    for image, of_one in zip(chosen, names, strict=True):
        pairs += [(of_one.get(kind, image["filename"]), sentence["raw"]) for sentence in image["sentences"]]
    return pairs


# Events with times


def events_in(content: Content) -> Events:
    """Events by video, from ActivityNet's dense results or annotations, unchanged. Raises ValueError."""
    where = content.where()
    if not has_times(content):
        raise ValueError(f"{where}: found no times in it; expected ActivityNet's annotations or dense results")
    if isinstance(content.value.get("results"), dict):
        return {video: _events(events, where, video) for video, events in content.value["results"].items()}
    annotations, _ = annotations_in(content.value, "activitynet", where=where)
    events: Events = {}
    for one in annotations:
        events[one.video_id] = []
        for caption in one.captions:
            assert caption.end_s is not None  # ActivityNet's all have both times
            events[one.video_id].append(Event(caption.start_s, caption.end_s, caption.text))
    return events


def _events(events: Any, where: str, video: str) -> list[Event]:
    if not isinstance(events, list):
        raise ValueError(f"{where}: the events of {short(video)} are {described(events)}; expected a list")
    found = []
    for event in events:
        times = event.get("timestamp") if isinstance(event, dict) else None
        if not (
            isinstance(times, list)
            and len(times) == 2
            and all(map(is_time, times))
            and isinstance(event.get("sentence"), str)
        ):
            wanted = '{"timestamp": [start, end], "sentence": text}, times being finite numbers'
            raise ValueError(f"{where}: found the event {short(event)} of {short(video)}; expected {wanted}")
        found.append(Event(float(times[0]), float(times[1]), event["sentence"]))
    return found
