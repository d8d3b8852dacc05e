"""Caption files as four datasets publish them: MSR-VTT, MSVD, VATEX and Flickr8k, with their lists of videos.

Their captions are of whole videos: what MSR-VTT and VATEX cut out of a longer one is a file of its own.
Sources: MSR-VTT's videodatainfo.json (Xu et al. 2016), its 1k-A split (Yu et al. 2018) and lists of 7,010 and 9,000
training videos, MSVD's video corpus (Chen and Dolan 2011), VATEX (Wang et al. 2019), Flickr8k (Hodosh et al. 2013).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.dataset.annotations import (
    VIDEO_COLUMNS,
    Annotation,
    Caption,
    Split,
    WrongShape,
    described,
    encodable,
    short,
    text_columns,
)
from pipeline.files.strict_csv import Row

Read = tuple[list[Annotation], Counter[str]]  # the videos in the file's order, and what was dropped, by reason

# MSR-VTT's category.txt. A category becomes the segments' kind, which scores are also reported by.
CATEGORIES = (
    *("music", "people", "gaming", "sports/actions", "news/events/politics", "education", "tv shows", "movie/comedy"),
    *("animation", "vehicles/autos", "howto", "travel", "science/technology", "animals/pets", "kids/family"),
    *("documentary", "food/drink", "cooking", "beauty/fashion", "advertisement"),
)
_SPLITS: dict[str, Split] = {"train": "train", "validate": "val", "val": "val", "test": "test"}
MSVD_COLUMNS = ("VideoID", "Start", "End", "Language", "Description")
ONE_K_A_COLUMNS = ("key", "vid_key", "video_id", "sentence")
FLICKR8K_LINE = re.compile(r"(\S.*?)#\d+\t(.*)")

WANTED = {
    "msrvtt": 'MSR-VTT: {"videos": [{"video_id", "category", "split": train|validate|test}, ...], "sentences": '
    '[{"video_id", "caption"}, ...]}',
    "msvd": f"MSVD: the columns {', '.join(MSVD_COLUMNS)}",
    "vatex": 'VATEX: [{"videoID", "enCap": [text, ...]}, ...]',
    "flickr8k": "Flickr8k: a file's name, # and a number, a tab, and a caption in each line",
    "list": "a list: a video's id, or its file's name, in each line",
}


def is_msrvtt(value: Any) -> bool:
    return isinstance(value, dict) and "videos" in value and "sentences" in value


def is_vatex(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and "videoID" in value[0]


def is_msvd(columns: Sequence[str]) -> bool:
    return set(MSVD_COLUMNS) <= set(columns)


def is_list(columns: Sequence[str]) -> bool:
    """Is a table a list of videos? 1k-A's is one with a caption of each, which counts where no other file has any."""
    return set(ONE_K_A_COLUMNS) <= set(columns) or set(columns) <= {"key", "vid_key", *VIDEO_COLUMNS}


def read_msrvtt(value: Any) -> Read:
    """videodatainfo.json, with each video's own split. Raises WrongShape."""
    if not isinstance(value, dict):
        raise WrongShape(described(value))
    for key in ("videos", "sentences"):
        if not isinstance(value.get(key), list):
            raise WrongShape(f"no list {key!r} at the top")
    kinds: dict[str, str | None] = {}
    splits: dict[str, Split] = {}
    for number, entry in enumerate(value["videos"], 1):
        id = entry.get("video_id") if isinstance(entry, dict) else None
        if not isinstance(id, str) or not id:
            raise WrongShape(f"{short(entry)} as entry {number} of 'videos'")
        if id in splits:
            raise WrongShape(f"the video {short(id)} again as entry {number} of 'videos'")
        if entry.get("split") not in _SPLITS:
            raise WrongShape(f"the split {short(entry.get('split'))} in entry {number} of 'videos'")
        kinds[id], splits[id] = _kind(entry.get("category"), number), _SPLITS[entry["split"]]
    captions: defaultdict[str, list[Caption]] = defaultdict(list)
    orphans = 0
    for number, entry in enumerate(value["sentences"], 1):
        id, text = (entry.get("video_id"), entry.get("caption")) if isinstance(entry, dict) else (None, None)
        if not isinstance(id, str) or not isinstance(text, str):
            raise WrongShape(f"{short(entry)} as entry {number} of 'sentences'")
        if id in splits:
            captions[id].append(Caption(0.0, None, text, kinds[id]))
        else:
            orphans += 1
    videos = [Annotation(encodable(id), tuple(captions[id]), split=split) for id, split in splits.items()]
    return videos, Counter({"caption of an unlisted video dropped": orphans} if orphans else {})


def _kind(category: Any, number: int) -> str | None:
    """Its test file of 2016 has none."""
    if category is None:
        return None
    if not isinstance(category, int) or isinstance(category, bool) or not 0 <= category < len(CATEGORIES):
        wanted = f"not one of its {len(CATEGORIES)}, from 0"
        raise WrongShape(f"the category {short(category)} in entry {number} of 'videos', {wanted},")
    return CATEGORIES[category]


def read_vatex(value: Any) -> Read:
    """The English captions of each video, the Chinese ones where it has no English. Raises WrongShape."""
    if not isinstance(value, list):
        raise WrongShape(described(value))
    videos: dict[str, Annotation] = {}
    for number, entry in enumerate(value, 1):
        id = entry.get("videoID") if isinstance(entry, dict) else None
        if not isinstance(id, str) or not id:
            raise WrongShape(f"{short(entry)} as entry {number}")
        if id in videos:
            raise WrongShape(f"the video {short(id)} again as entry {number}")
        texts = entry.get("enCap", entry.get("chCap", []))  # the test videos have none
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise WrongShape(f"the captions {short(texts)} in entry {number}")
        videos[id] = Annotation(encodable(id), tuple(Caption(0.0, None, text) for text in texts))
    return list(videos.values()), Counter()


def read_msvd(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> Read:
    """The English descriptions. An id is VideoID_Start_End, as its clips are named. Raises ValueError."""
    if not is_msvd(columns):
        raise ValueError(f"{path}, line 1: found the columns {', '.join(columns)}; expected {WANTED['msvd']}")
    captions: defaultdict[str, list[Caption]] = defaultdict(list)
    foreign = 0
    for row in rows:
        name, start, end = (row.cells[column].strip() for column in MSVD_COLUMNS[:3])
        if not (name and start.isdigit() and end.isdigit()):
            found = ", ".join(map(short, (name, start, end)))
            raise ValueError(f"{path}, line {row.line}: found {found}; expected VideoID, and Start and End in seconds")
        texts = captions[encodable(f"{name}_{start}_{end}")]
        if row.cells["Language"].strip() == "English":
            texts.append(Caption(0.0, None, row.cells["Description"]))
        else:
            foreign += 1
    reasons = Counter({"description in another language than English dropped": foreign} if foreign else {})
    return [Annotation(id, tuple(texts)) for id, texts in captions.items()], reasons


def read_flickr8k(path: Path, text: str) -> Read:
    """Flickr8k.token.txt and its like (Flickr30k's). Raises ValueError."""
    captions: defaultdict[str, list[Caption]] = defaultdict(list)
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        if (found := FLICKR8K_LINE.fullmatch(line)) is None:
            raise ValueError(f"{path}, line {number}: found {short(line)}; expected {WANTED['flickr8k']}")
        captions[found[1]].append(Caption(0.0, None, found[2]))
    return [_picture(name, tuple(own)) for name, own in captions.items()], Counter()


def read_list(path: Path, text: str) -> Read:
    """A line for each video. Raises ValueError."""
    names: dict[str, None] = {}
    for number, line in enumerate(text.splitlines(), 1):
        name = line.strip()
        if "\t" in name or "," in name or name in names:
            again = " again" if name in names else ""
            raise ValueError(f"{path}, line {number}: found {short(name)}{again}; expected {WANTED['list']}")
        if name:
            names[name] = None
    return [_listed(name) for name in names], Counter()


def read_table_as_list(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> Read:
    """MSR-VTT's lists of training videos (a column `video_id`) and its 1k-A test split. Raises ValueError."""
    id = next(name for name in (*VIDEO_COLUMNS, *columns) if name in columns)
    texts = text_columns(columns)
    videos: dict[str, Annotation] = {}
    for row in rows:
        name = row.cells[id].strip()
        if not name or name in videos:
            found = f"{short(name)} again" if name else f"no {id}"
            raise ValueError(f"{path}, line {row.line}: found {found}; expected {WANTED['list']}")
        videos[name] = _listed(name, tuple(Caption(0.0, None, row.cells[column]) for column in texts))
    return list(videos.values()), Counter()


def _picture(name: str, captions: tuple[Caption, ...]) -> Annotation:
    return Annotation(encodable(Path(name).stem), captions, file_name=encodable(name))


def _listed(name: str, captions: tuple[Caption, ...] = ()) -> Annotation:
    """Named by its id or by its file; an id may have a dot in it, so both are kept."""
    return Annotation(encodable(name), captions, listed=True)
