"""COCO as published: zips of pictures, which stay zips (pipeline/dataset/media.py), and captions in other zips.

There are two ways to split it: the caption files' own, and Karpathy's of the pictures of 2014, which most papers use.
"""

import hashlib
import json
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.dataset import media, verdict
from pipeline.dataset.annotations import Annotation, karpathy_images, short
from pipeline.dataset.ledger import Journal
from pipeline.dataset.sources.http import fetch_file
from pipeline.dataset.verdict import Row
from pipeline.files import strict_json
from pipeline.process.cores import cores

_KARPATHY = "caption_datasets.zip"


class Coco:
    """The published files, and the folder that stores them; arguments as in params.yaml."""

    def __init__(
        self,
        archives: Path,
        *,
        pictures: str,
        annotations: str,
        karpathy: str,
        md5: Mapping[str, str | None],
        retries: int,
        timeout_s: float,
        backoff_s: float,
        max_file_gb: float,
        max_captions_gb: float,
    ) -> None:
        self._archives, self._md5 = archives, md5
        self._max_captions_bytes = max_captions_gb * 2**30
        self._pictures, self._annotations, self._karpathy = pictures, annotations, karpathy
        self._options = {"retries": retries, "timeout_s": timeout_s, "backoff_s": backoff_s, "max_file_gb": max_file_gb}

    def captions(self, names: Iterable[str], folder: Path) -> list[Path]:
        """COCO caption files of these names in `folder`: captions_train2017.json and its like, karpathy_test.json.

        Raises ValueError for another name.
        """
        folder.mkdir(parents=True, exist_ok=True)
        limit = self._max_captions_bytes
        made = []
        for name in names:
            made.append(folder / name)
            if found := re.fullmatch(r"captions_(?:train|val)(\d{4})\.json", name):
                archive = f"annotations_trainval{found[1]}.zip"
                made[-1].write_bytes(
                    _member(self._get(archive, f"{self._annotations}/{archive}"), f"annotations/{name}", limit)
                )
            elif found := re.fullmatch(r"karpathy_(train|val|test)\.json", name):
                published = _member(self._get(_KARPATHY, f"{self._karpathy}/{_KARPATHY}"), "dataset_coco.json", limit)
                content = strict_json.loads(published, where=f"{_KARPATHY}, dataset_coco.json")
                made[-1].write_text(json.dumps(karpathy_split(content, found[1])))
            else:
                raise ValueError(
                    f"source coco has no captions {name!r}; it has captions_train2014.json, captions_val2014.json, the "
                    "same of 2017, and karpathy_train.json, karpathy_val.json, karpathy_test.json"
                )
        return made

    def pictures(self, name: str) -> Path:
        """A zip of pictures, as "val2017"."""
        return self._get(f"{name}.zip", f"{self._pictures}/{name}.zip")

    def _get(self, name: str, url: str) -> Path:
        """The archive, under a name that says which bytes it is to have, or at least from where."""
        if name not in self._md5:
            raise ValueError(f"coco.md5 in params.yaml has no {name}; give its MD5, or null to skip the check")
        md5 = self._md5[name]
        told_by = md5 or f"from-{hashlib.sha256(url.encode()).hexdigest()}"
        path = self._archives / f"{Path(name).stem}.{told_by[: 8 if md5 else 13]}.zip"
        self._archives.mkdir(parents=True, exist_ok=True)
        fetch_file(url, path, md5=md5, md5_in=f"coco.md5.{name}", **self._options)  # type: ignore[arg-type]
        return path


class Pictures:
    """Zips of pictures as a source."""

    def __init__(self, coco: Coco, names: Iterable[str], videos: Path) -> None:
        """names: of the zips, such as "val2017". videos: the folder for links to them."""
        self._names = sorted(set(names))
        self._pictures: dict[str, tuple[Path, Path]] = {}  # by stem: the link, and the path through it
        archives = []
        for name in self._names:
            archives.append(coco.pictures(name))
            link = videos / f"{name}.zip"
            media.link(archives[-1], link, archives[-1].stat())
            for stem, path in media.members(link).items():
                self._pictures.setdefault(stem, (link, path))
        self.identity = f"coco {' '.join(f'{path.name} {path.stat().st_size}' for path in archives)}"
        self.workers = cores()

    def fetch(self, journal: Journal, video_id: str, split: str, annotation: Annotation) -> tuple[Row, Path | None]:
        if video_id not in self._pictures:
            zips = ", ".join(f"{name}.zip" for name in self._names)
            return Row(video_id, "missing", f"no picture of that name in {zips}", attempts=1), None
        link, picture = self._pictures[video_id]
        known = journal.known.get(video_id)
        if known and known.sha256 and known.bytes == media.size_of(picture):
            return known.found_again(), link
        row = verdict.examine(video_id, picture)
        journal.record(row)
        return row, link

    def close(self) -> None: ...


def karpathy_split(content: Any, split: str) -> dict[str, list[dict[str, Any]]]:
    """COCO captions of a split of dataset_coco.json; `train` as in `karpathy_images`."""
    images = karpathy_images(content, split, _KARPATHY)
    if without := next((image for image in images if "cocoid" not in image), None):
        raise ValueError(f"{_KARPATHY}: the image {short(without)} has no cocoid")
    return {
        "images": [{"id": image["cocoid"], "file_name": image["filename"]} for image in images],
        "annotations": [
            {"image_id": image["cocoid"], "caption": sentence["raw"]}
            for image in images
            for sentence in image["sentences"]
        ],
    }


def _member(archive: Path, name: str, max_bytes: float) -> bytes:
    """An archive's caption file. Raises ValueError if it is damaged or larger than that."""
    try:
        with zipfile.ZipFile(archive) as file:
            if (size := file.getinfo(name).file_size) > max_bytes:
                raise ValueError(
                    f"{archive}: {name} unpacks to {size:,} bytes, more than coco.max_captions_gb in params.yaml allows"
                )
            return file.read(name)  # zipfile reads no more than the declared size
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{archive}: {error}; delete it, and run the stage again") from None
