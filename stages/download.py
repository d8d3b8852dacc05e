"""Fetch a dataset's videos and annotations: `python -m stages.download pictures|videos`.

Reads the source that params.yaml names (the built-in shapes, a folder, YouTube, a Hugging Face repository, COCO as
published). Writes data/{dataset}/media/, annotations/ (the files as used), segments.parquet (of the available
videos) and ledger.parquet (every video that an annotation names and, if it is not available, why). Unchanged videos are
kept, videos that are gone for good are not requested again, and temporary failures are retried.
"""

import shutil
from contextlib import closing
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.dataset import formats
from pipeline.dataset.annotations import SPLITS
from pipeline.dataset.ledger import Journal
from pipeline.dataset.segments import to_table
from pipeline.dataset.sources import directory
from pipeline.dataset.sources.chosen import UNFINISHED, annotation_files, source_of
from pipeline.dataset.sources.subset import fetch_subset, refuse_empty_splits, refuse_failures, remove_abandoned
from pipeline.files.aside import aside
from pipeline.params import Dataset, load_params
from pipeline.process.terminal import message
from stages import run


def main(dataset: Dataset) -> None:
    params = load_params()
    own, out = params.download[dataset], Path("data") / dataset
    videos, rendered = out / "media", out / ".rendered"
    videos.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(rendered, ignore_errors=True)  # a killed run's
    try:
        files = annotation_files(own, params, out, rendered)
        by_video, splits, reasons = formats.read_splits(files, own.format)
        source = source_of(own, params, out, rendered, list(splits))
        with Journal(out / "ledger.parquet", source=source.identity) as journal, closing(source):
            fetched = fetch_subset(
                by_video,
                splits,
                {split: own.limit[split] for split in SPLITS},
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
    remove_abandoned(out / UNFINISHED, fetched.rows)
    refuse_failures(fetched, own.max_failed_fraction, dataset)
    refuse_empty_splits(
        {split: files.get(split) for split in SPLITS if own.limit[split] != 0}, fetched, splits, dataset
    )
    table = to_table(fetched.segments, expected={split: fetched.expected[split] for split in SPLITS})
    with aside(out / "segments.parquet") as written:
        pq.write_table(table, written)
    print(f"download {dataset}: {message(fetched.summary())}")


if __name__ == "__main__":
    run(kept="videos that are complete", per_dataset=True)
