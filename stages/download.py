"""Fetch a dataset's videos and annotations: `python -m stages.download coco|activitynet`.

Reads the source that params.yaml names (the built-in shapes, a folder, YouTube, a Hugging Face repository, COCO as
published). Writes data/{dataset}/videos/, annotations/ (the files as used), segments.parquet (of the videos that are
there) and ledger.parquet (every video that an annotation names and, if it is not there, why). What is there and did not
change is kept, what is gone for good is not asked for again, what failed for a reason that can pass is.
"""

import shutil
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq

from pipeline import annotations
from pipeline.annotations import SPLITS
from pipeline.ledger import Journal
from pipeline.params import Dataset, DownloadParams, Params, load_params
from pipeline.sources import builtin, directory
from pipeline.sources.coco import Coco, Pictures
from pipeline.sources.directory import Directory
from pipeline.sources.huggingface import Huggingface, Repository
from pipeline.sources.subset import Fetched, Source, fetch_subset
from pipeline.sources.youtube import Youtube
from stages import run

Files = Mapping[str, list[Path]]  # the annotation files of every split


def main(dataset: Dataset) -> None:
    params = load_params()
    own, out = params.download[dataset], Path("data") / dataset
    videos, rendered, unfinished = out / "videos", out / ".rendered", out / ".partial"
    videos.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(rendered, ignore_errors=True)  # a killed run's
    try:
        files = _annotation_files(own, params, out, rendered)
        by_video, splits, reasons = annotations.read_splits(files, own.format)
        source = _source(own, params, out, rendered, list(splits))
        with Journal(out / "ledger.parquet", source=source.identity) as journal, closing(source):
            fetched = fetch_subset(
                by_video,
                splits,
                {split: own.videos[split] for split in SPLITS},
                partial(source.fetch, journal),
                initial=own.segments == "initial",
                workers=source.workers,
                title=f"download {dataset}",
            )
        fetched.reasons += reasons
        directory.remove_all_but(fetched.files, videos)
        beside = rendered.glob("annotations/*")  # the built-in videos' ground truth
        directory.put_all([*(path for paths in files.values() for path in paths), *beside], out / "annotations")
        journal.finish(fetched.rows)
    finally:
        shutil.rmtree(rendered, ignore_errors=True)
    if unfinished.exists():
        still = (unfinished / row.video_id for row in fetched.rows if row.status == "unavailable")
        directory.remove_all_but(still, unfinished)
    _check(fetched, own.max_failed_fraction, dataset)
    table = annotations.to_table(fetched.segments, asked={split: fetched.asked[split] for split in SPLITS})
    pq.write_table(table, out / "segments.parquet.aside")
    (out / "segments.parquet.aside").replace(out / "segments.parquet")
    print(f"download {dataset}: {fetched.summary()}")


def _annotation_files(own: DownloadParams, params: Params, out: Path, rendered: Path) -> Files:
    if own.source == "shapes":
        counts = {str(split): own.videos[split] or 0 for split in SPLITS}
        return builtin.render(rendered, own.format, counts=counts, seed=params.seed, **params.shapes.model_dump())
    if own.source == "coco":
        coco = Coco(out / "archives", **params.coco.model_dump())
        return {split: coco.captions(own.annotations[split], rendered / "captions") for split in SPLITS}
    return {split: [Path(own.folder) / name for name in own.annotations[split]] for split in SPLITS}


def _source(own: DownloadParams, params: Params, out: Path, rendered: Path, video_ids: list[str]) -> Source:
    videos, unfinished = out / "videos", out / ".partial"
    match own.source:
        case "shapes":
            return Directory(videos, dict.fromkeys(SPLITS, rendered / builtin.MEDIA), move=True, name="shapes")
        case "directory":
            return Directory(videos, {split: Path(own.folder) / own.media[split] for split in SPLITS})
        case "youtube":
            return Youtube(videos, unfinished, **params.youtube.model_dump())
        case "huggingface":
            repository = Repository(**params.huggingface.model_dump())
            return Huggingface(repository, videos, unfinished, out / ".members", video_ids=video_ids)
        case "coco":
            names = [own.media[split] for split in SPLITS if own.videos[split] != 0]
            return Pictures(Coco(out / "archives", **params.coco.model_dump()), names, videos)


def _check(fetched: Fetched, max_failed_fraction: float, dataset: str) -> None:
    """Raises ValueError if more failed than may, or all."""
    failed, asked = fetched.failed(), [row for row in fetched.rows if row.status != "skipped"]
    where = f"data/{dataset}/ledger.parquet has every video's reason"
    if not fetched.segments:
        why = fetched.reasons_of(asked) or "the annotations name none"
        raise ValueError(f"no video is usable: {why}; {where}")
    if len(failed) > max_failed_fraction * len(asked):
        again = sum(row.status == "unavailable" for row in failed)
        raise ValueError(
            f"{len(failed)} of {len(asked)} videos failed, {len(failed) / len(asked):.1%}; "
            f"download.{dataset}.max_failed_fraction in params.yaml allows {max_failed_fraction:.1%}: "
            f"{fetched.reasons_of(failed)}; {where}."
            + (f" {again} of them can pass: try again with `make retry`." if again else "")
            + " To go on without them, raise max_failed_fraction."
        )


if __name__ == "__main__":
    run(per_dataset=True)
