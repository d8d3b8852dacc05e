"""Real pictures and videos from download to evaluate, by a params file alone."""

import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from pipeline.dataset.segments import expected_segments
from tests.conftest import write_params

STAGES = [
    "download pictures",
    "download videos",
    "frames pictures",
    "frames videos",
    "backbones",
    "embed pictures",
    "embed videos",
    "pretrain",
    "finetune",
    "caption",
    "evaluate",
]


def test_real_pictures_and_videos_go_all_the_way(real_data, forking, tmp_path):
    values = {
        "download.pictures.folder": str(real_data / "coco_mini"),
        "download.pictures.max_failed_fraction": 0.4,
        "download.videos.max_failed_fraction": 0.4,
        "download.videos.folder": str(real_data / "real_videos"),
        "download.videos.media": dict.fromkeys(("train", "val", "test"), "videos"),
        "backbones.builtin.encoder_steps": 4,
        "backbones.builtin.encoder_batch": 16,
        "backbones.builtin.decoder_steps": 8,
        "pretrain.epochs": 1,
        "finetune.epochs": 1,
    }
    write_params(tmp_path / "params.yaml", Path("profiles/own.yaml"), values)
    for stage in STAGES:
        running = forking.start(Path.cwd(), tmp_path, [stage.split()])
        assert running.wait().status == 0, f"{stage}\n{running.output}"

    ledger = pd.read_parquet(tmp_path / "data/videos/ledger.parquet").set_index("video_id")
    assert ledger.status["v_broken"] == "corrupt" and ledger.status["v_gone"] == "missing"
    assert (ledger.status == "ok").sum() == 10
    assert (pd.read_parquet(tmp_path / "data/pictures/ledger.parquet").status == "missing").sum() == 37

    segments = pd.read_parquet(tmp_path / "data/videos/segments.parquet")
    captions = pd.read_parquet(tmp_path / "data/captions.parquet")
    assert len(segments) == 30
    assert set(captions.segment_id) == set(segments[segments.split == "val"].segment_id)
    metrics = json.loads((tmp_path / "metrics/captions.json").read_text())
    assert metrics["segments"] == metrics["segments.asked"] == len(captions)
    table = pq.read_table(tmp_path / "data/videos/segments.parquet")
    lost = {
        split: (expected_segments(table, split) or 0) - (segments.split == split).sum() for split in ("train", "val")
    }
    assert lost == {"train": 2, "val": 0}  # v_gone's and v_broken's
    assert "facts" not in metrics  # nobody can read these references' facts
