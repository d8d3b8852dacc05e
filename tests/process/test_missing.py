from pathlib import Path

import pytest

from pipeline.process.missing import maker
from pipeline.process.terminal import message


@pytest.mark.parametrize(
    ("path", "command"),
    [
        ("data/pictures/ledger.parquet", "dvc repro download@pictures"),
        ("data/videos/frames/shard-00000.parquet", "dvc repro frames@videos"),
        ("models/decoder", "dvc repro backbones"),
        ("models/finetuned/config.json", "dvc repro finetune"),
        ("metrics/segments.parquet", "dvc repro evaluate"),
        ("metrics/captions.json", "dvc repro evaluate"),
        ("studies/ablation/out/memory/seed-0/segments.parquet", "dvc repro studies/ablation/dvc.yaml:variant@memory"),
        ("studies/ablation/results.csv", "dvc repro studies/ablation/dvc.yaml:table"),
        ("models/decoders", None),
        ("data/own/pictures/train.json", None),
    ],
)
def test_what_a_stage_writes_is_made_by_that_stage(path, command):
    assert maker(path) == command


def test_an_error_about_a_missing_output_says_what_makes_it(tmp_path, monkeypatch):
    import pyarrow.parquet as pq

    monkeypatch.chdir(tmp_path)
    advice = "data/pictures/segments.parquet does not exist; to create it: dvc repro download@pictures"
    for read in (pq.read_table, lambda path: Path(path).read_bytes()):
        with pytest.raises(FileNotFoundError) as raised:
            read("data/pictures/segments.parquet")
        assert message(raised.value) == advice
    with pytest.raises(FileNotFoundError) as raised:
        Path("mine.json").read_bytes()
    assert message(raised.value) == "[Errno 2] No such file or directory: 'mine.json'"
