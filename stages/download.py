"""Fetch a dataset's videos and annotations: `python -m stages.download coco|activitynet`.

Reads the source that params.yaml names (the built-in shapes, a folder, YouTube). Writes data/{dataset}/videos/,
annotations/ (the files as used), segments.parquet (of the videos that are there) and ledger.parquet (every video
that an annotation names and, if it is not there, why). What is there and unchanged is kept.
"""

import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import cast

import pyarrow.parquet as pq

from pipeline import annotations, ledger
from pipeline.annotations import SPLITS, Annotation, Split
from pipeline.cores import cores
from pipeline.ledger import Row
from pipeline.params import Dataset, DownloadParams, Params, load_params
from pipeline.sources import builtin, directory, youtube
from pipeline.sources.subset import Fetch, fetch_subset
from stages import run

Files = Mapping[str, list[Path]]  # the annotation files of every split


def main(dataset: Dataset) -> None:
    params = load_params()
    own, out = params.download[dataset], Path("data") / dataset
    videos, rendered = out / "videos", out / ".rendered"
    videos.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(rendered, ignore_errors=True)  # a killed run's
    try:
        files = _annotation_files(own, params, rendered)
        by_video, splits, reasons = annotations.read_splits(files, own.format)
        fetched = fetch_subset(
            by_video,
            splits,
            {split: own.videos[split] for split in SPLITS},
            _youtube(params, out) if own.source == "youtube" else _directory(own, out, rendered),
            initial=own.segments == "initial",
            workers=cores(),
            title=f"download {dataset}",
        )
        fetched.reasons += reasons
        directory.remove_all_but(fetched.files, videos)
        beside = rendered.glob("annotations/*")  # the built-in videos' ground truth
        directory.put_all([*(path for paths in files.values() for path in paths), *beside], out / "annotations")
    finally:
        shutil.rmtree(rendered, ignore_errors=True)
    ledger.write(out / "ledger.parquet", fetched.rows)
    if not fetched.segments:
        raise ValueError(f"no video is usable: {fetched.failures()}; see {out / 'ledger.parquet'}")
    pq.write_table(annotations.to_table(fetched.segments), out / "segments.parquet.aside")
    (out / "segments.parquet.aside").replace(out / "segments.parquet")
    print(f"download {dataset}: {fetched.summary()}")


def _annotation_files(own: DownloadParams, params: Params, rendered: Path) -> Files:
    if own.source == "shapes":
        counts = {str(split): own.videos[split] or 0 for split in SPLITS}
        return builtin.render(rendered, own.format, counts=counts, seed=params.seed, **params.shapes.model_dump())
    return {split: [Path(own.folder) / name for name in own.annotations[split]] for split in SPLITS}


def _directory(own: DownloadParams, out: Path, rendered: Path) -> Fetch:
    builtin_source = own.source == "shapes"
    known = ledger.read_trusted(out / "ledger.parquet")
    files_of = cache(directory.files_by_stem)

    def fetch(video_id: str, split: str, annotation: Annotation) -> tuple[Row, Path | None]:
        media = rendered / builtin.MEDIA if builtin_source else Path(own.folder) / own.media[cast("Split", split)]
        source = directory.find(video_id, media, files_of(media), annotation.file_name)
        return directory.fetch(
            video_id,
            source,
            out / "videos",
            wanted_in=Path(builtin.MEDIA) if builtin_source else media,
            known=known.get(video_id),
            known_in=out / "ledger.parquet",
            move=builtin_source,
        )

    return fetch


def _youtube(params: Params, out: Path) -> Fetch:
    known = ledger.read_trusted(out / "ledger.parquet")
    there = directory.files_by_stem(out / "videos")

    def fetch(video_id: str, split: str, annotation: Annotation) -> tuple[Row, Path | None]:
        options = params.youtube.model_dump()
        return youtube.fetch(video_id, out / "videos", there=there.get(video_id), known=known.get(video_id), **options)

    return fetch


if __name__ == "__main__":
    run(main, per_dataset=True)
