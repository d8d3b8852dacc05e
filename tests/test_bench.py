"""The benches run, at a size of seconds."""

import json
import subprocess
from typing import Any

import numpy as np
import pytest

from bench import (
    caption,
    dataset,
    demo,
    embed,
    evaluate,
    finetune,
    flat,
    frames,
    gpu,
    incremental,
    long_memory,
    memory,
    noop,
    questions,
    scale,
)
from pipeline.captioner.mapper import MapperConfig
from pipeline.captioner.model import CaptionerConfig, build_captioner, save_captioner
from tests.colours import make_decoder
from tests.memory_config import memory_config

SIZES = {"segments": 3, "beams": 3, "tokens": 6, "prefix": 2, "layers": 1, "width": 32, "vocabulary": 300, "rounds": 2}
TINY = [f"--{name}={value}" for name, value in SIZES.items()]


def test_the_three_beam_searches_agree_and_the_last_line_says_how_fast_they_were(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench.caption", *TINY])
    caption.main()
    *table, last = capsys.readouterr().out.splitlines()
    figures = json.loads(last)
    assert [line.split()[0] for line in table[1:]] == ["published", "generate", "ours", "ours_bf16"]
    assert figures["captions"] == {"published": 2, "generate": 3, "ours": 3, "ours_bf16": 3}
    assert figures["same_captions"]["published"] == 2 and figures["same_captions"]["generate"] == 3
    assert figures["times_published"]["published"] == 1


def test_a_search_that_finds_other_captions_fails_the_bench(monkeypatch):
    monkeypatch.setattr("sys.argv", ["bench.caption", *TINY])
    monkeypatch.setattr(caption, "generate", lambda model, prefixes, **_: [[0] * 6] * len(prefixes))
    with pytest.raises(SystemExit, match="not the captions of: generate"):
        caption.main()


def figures_of(bench, options, monkeypatch, capsys) -> tuple[list[str], Any]:
    """The lines of a bench's table and what its last line says."""
    monkeypatch.setattr("sys.argv", ["bench", *options.split()])
    bench.main()
    *table, last = capsys.readouterr().out.splitlines()
    return table, json.loads(last)


SMALL = "--segments 2 --at-once 2 --frames 6 9 --layers 4 --width 32 --decoder-layers 1 --steps 1"


def test_the_bench_of_training_measures_us_beside_the_published(monkeypatch, capsys):
    _, figures = figures_of(finetune, SMALL, monkeypatch, capsys)
    for part, peer in (("finetune", "published"), ("pretrain", "ClipCap's")):
        peers = figures[part]
        for row in peers.values():
            assert row["ratio"] == pytest.approx(row["segments_per_s"] / peers[peer]["segments_per_s"])


def test_the_bench_of_the_memory_says_how_much_the_published_one_finds(monkeypatch, capsys, tmp_path):
    # Of a trained model, where there is one, other keys would be measured, too.
    options = f"--rows 2 --keys 400 --models {tmp_path} --embeddings {tmp_path}/none"
    table, figures = figures_of(memory, options, monkeypatch, capsys)
    assert len(figures) == 1
    assert 0 < figures[0]["recall_published"] <= 1
    assert table[-1].split()[:3] == ["random", "400", "2"]


def test_the_bench_of_a_gpu_runs_on_a_cpu_too(monkeypatch, capsys):
    options = f"--device cpu --pictures 3 --embed-batch 2 --side 128 {SMALL}"
    _, figures = figures_of(gpu, options, monkeypatch, capsys)
    assert [row["what"].split(":")[0] for row in figures["rows"]] == ["embed"] * 2 + ["fine-tune"] * 2 + ["caption"] * 2
    assert all(row["per_s"] > 0 and row["share"] > 0 for row in figures["rows"])


def test_the_bench_of_added_videos_counts_what_they_cost(monkeypatch, capsys):
    _, figures = figures_of(incremental, "--videos 4 --added 1 2 --shards 3", monkeypatch, capsys)
    assert [(row["added"], row["to"], row["decoded"], row["embedded"]) for row in figures] == [
        (4, 0, 4, 4),
        (1, 4, 1, 1),
        (2, 5, 2, 2),
    ]
    assert [row["shards_written"] for row in figures[:2]] == [6, 2]  # of frames and of embeddings
    assert figures[1]["written_kib"] < figures[1]["of_kib"]


def test_the_bench_of_dvcs_own_cost_finds_nothing_to_do_and_what_a_change_leaves_on_the_disk(
    monkeypatch, capsys, tmp_path
):
    _, figures = figures_of(noop, "noop --videos 20 --shards 2 --layouts ours --rounds 1", monkeypatch, capsys)
    assert figures["noop"][0]["repro_cpu_s"] > 0
    changed = noop.measure_change(tmp_path, "hardlink", "commit", [1, 1])
    assert changed["out_mib"] == 2 and changed["on_disk_mib"] == 3  # the replaced one stays in the cache


def test_the_bench_of_a_dataset_tells_how_much_a_process_grew_that_trained_on_it(tmp_path):
    figures = dataset.measure("dataset", 2 * dataset.VIDEO_FRAMES, str(tmp_path))  # in a process of its own, as always
    assert figures["frames"] == 1200 and figures["segments"] == 6
    assert figures["growth_mib"] > 0
    assert not list(tmp_path.iterdir())


def test_the_bench_of_scale_multiplies_what_it_has_measured(monkeypatch, capsys):
    options = "--encoder RN50 --batch 1 --books 50 --rounds 1 --workers 3 --deaths 0 --slow 0"
    table, figures = figures_of(scale, options, monkeypatch, capsys)
    rates, rows = figures["rates"], figures["table"]
    assert all(rate > 0 for rate in rates.values())
    assert [row["videos"] for row in rows] == list(scale.SIZES)
    for row in rows:
        assert row["frames"] == row["videos"] * 117 * 5
        assert row["frames, core-hours"] == pytest.approx(row["frames"] * rates["frames_cpu_s"] / 3600)
        assert row["frames, TB"] == pytest.approx(row["frames"] * rates["frames_bytes"] / 1e12)
    assert all(1 <= row["queue"] == row["queue_deaths"] and row["slices"] >= 1 for row in figures["schedule"])
    assert table[-1].split()[0] == str(scale.SHARDS_PER_WORKER[-1])


def test_a_schedule_loses_what_deaths_undo_and_nothing_else():
    random = np.random.default_rng(0)
    work, speeds = np.full(40, 10.0), np.array([1.0, 2.0])
    assert scale.makespan(work, speeds[:1], random, 0, 0) == (400, 0)
    ends, lost = scale.makespan(work, speeds, random, 0, 0)
    assert lost == 0 and 400 / 3 <= ends <= 400 / 3 + 10
    ends, lost = scale.makespan(work, speeds[:1], random, 1 / 50, 7)
    deaths = round((ends - 400 - lost) / 7)
    assert deaths > 0 and ends == pytest.approx(400 + lost + 7 * deaths) and 0 < lost < 10 * deaths


def test_the_bench_of_scoring_finds_the_same_digits_whoever_scores(monkeypatch, capsys):
    table, figures = figures_of(evaluate, "--segments 20 --references 2 --rounds 1", monkeypatch, capsys)
    assert figures["same_digits"] and figures["times_as_fast"] > 0
    assert [line.split("  ")[0] for line in table[-2:]] == ["in turn", "ours"]


def test_the_bench_of_frames_measures_the_stage_beside_decoding_alone(monkeypatch, capsys):
    table, figures = figures_of(frames, "--seconds 1 --rounds 1 --short-side 64", monkeypatch, capsys)
    assert [line.split()[0] for line in table[1:]] == ["decode", "scale", "frames", "BT.709"]
    assert figures["files"] == 4
    assert figures["times_decode"]["frames"] == pytest.approx(
        figures["cpu_s"]["frames"] / figures["cpu_s"]["decode"], abs=0.02
    )


def test_the_bench_of_embedding_measures_it_beside_the_forward_alone(monkeypatch, capsys):
    options = "--encoder ViT-S-32-alt --frames 3 --batch 2 --rounds 1"
    _, figures = figures_of(embed, options, monkeypatch, capsys)
    rows = figures["rows"]
    assert list(rows) == ["fp32", "bf16", "autocast", "embed fp32", "embed bf16"]
    assert rows["embed fp32"]["cosine"] > 0.9999 and rows["embed bf16"]["cosine"] > 0.999
    assert all(row["frames_per_cpu_s"] > 0 for row in rows.values())


def test_the_bench_of_questions_computes_a_video_once_for_all_and_answers_the_same(monkeypatch, capsys):
    _, figures = figures_of(questions, "--videos 1 --questions 2 --glimpses 2 --rounds 1", monkeypatch, capsys)
    assert figures["answers"]["same"] and figures["answers"]["times_once"].keys() == {
        "memory, once a video", "memory, per question", "glimpses, per question"
    }  # fmt: skip
    times = figures["glimpses"]["times_shards"]
    assert {"mp4, seeks", "mp4, once"} <= times.keys() and times["shards"] == times["shards, once"] == 1
    assert [row["glimpses"] for row in figures["steps"]] == [1, 2, 4, 8, 16, 1]


def test_the_bench_of_flat_memory_runs_a_stage_and_sees_what_it_takes(make_video, tmp_path):
    flat.prepare(tmp_path, [make_video("a.mp4")] * 3)
    mib, _ = flat.peak_of("frames", tmp_path)
    assert mib > 10 and list((tmp_path / "data/videos/frames").iterdir())


def test_the_bench_of_the_demo_tells_what_each_stage_takes_and_how_much_of_it_is_imports(tmp_path):
    project = tmp_path / "project"
    (project / "stages").mkdir(parents=True)
    (project / "stages/__init__.py").touch()
    start = "import os, sys, time\nif '--help' in sys.argv: sys.exit()\n"
    # Each waits for the other: `rest` ends after `burn` has begun, and `burn` after `rest` has been measured.
    burn = """
from pathlib import Path
Path("begun").touch()
while time.process_time() < 1: pass
while not any("stages.rest" in one.read_text() for one in Path(os.environ["MEASURED"]).iterdir()): time.sleep(0.1)
"""
    (project / "stages/burn.py").write_text(start + burn)
    (project / "stages/rest.py").write_text(f"{start}while not os.path.exists('begun'): time.sleep(0.1)\n")
    (project / "dvc.yaml").write_text("stages: {burn: {cmd: python -m stages.burn coco}}\n")
    (project / "Makefile").write_text(
        "export PATH := $(CURDIR)/.venv/bin:$(PATH)\n"
        "demo:\n\t$(MAKE) -j2 one other\none:\n\tdvc repro\nother:\n\tpython -m stages.rest\n"
    )
    subprocess.run(["git", "init", "-q", str(project)], check=True)
    (project / ".dvc").mkdir()
    *rows, whole = demo.measure(project, tmp_path / "measured")
    of = {row["run"]: row for row in rows}
    stage, own, rest = of["burn coco"], of["dvc repro"], of["rest"]
    assert [row["from_s"] for row in rows] == sorted(row["from_s"] for row in rows)
    assert 0.9 <= stage["cpu_s"] <= stage["wall_s"]
    assert stage["imports_cpu_s"] < 0.5 < stage["work_cpu_s"]
    assert whole["cpu_s"] == pytest.approx(stage["cpu_s"] + own["cpu_s"] + rest["cpu_s"], abs=0.2)
    # Side by side: the whole takes less time than its parts together.
    assert own["from_s"] < rest["from_s"] + rest["wall_s"] < stage["from_s"] + stage["wall_s"] <= whole["wall_s"]
    assert whole["wall_s"] < own["wall_s"] + stage["wall_s"] + rest["wall_s"]


def test_the_bench_of_long_memory_takes_memories_of_several_sizes(tmp_path):
    mapper = MapperConfig("transformer", 2, 2, 8, 2, 2, embedding_width=6, decoder_width=16)
    config = CaptionerConfig(mapper, memory_config(max_entries=400), None)
    assert long_memory.with_entries(config, 40).memory == memory_config(max_entries=40)
    assert long_memory.with_entries(config, None) == config
    save_captioner(tmp_path, build_captioner(config, make_decoder()), None)
    named = [("memory", str(tmp_path))]
    assert list(long_memory.captioners(named, [8, 40])) == [
        ("memory, 8", str(tmp_path), 8),
        ("memory, 40", str(tmp_path), 40),
    ]
    assert list(long_memory.captioners(named, None)) == [("memory", str(tmp_path), None)]
