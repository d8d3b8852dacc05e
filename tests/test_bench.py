"""The benches run, at a size of seconds."""

import json

import pytest

from bench import caption, dataset, embed, finetune, flat, frames, gpu, memory

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
    monkeypatch.setattr(caption, "generate", lambda model, prefixes, **how: [[0] * 6] * len(prefixes))
    with pytest.raises(SystemExit, match="not the captions of: generate"):
        caption.main()


def figures_of(bench, options, monkeypatch, capsys) -> tuple[list[str], object]:
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


def test_the_bench_of_the_memory_finds_exact_search_exact_and_the_published_less_so(monkeypatch, capsys):
    table, figures = figures_of(memory, "--rows 2 --keys 400", monkeypatch, capsys)
    assert len(figures) == 1 and figures[0]["recall_approximate"] == 1.0  # so few keys are searched exactly
    assert 0 < figures[0]["recall_published"] <= 1
    assert table[-1].split()[:3] == ["random", "400", "2"]


def test_the_bench_of_a_gpu_runs_on_a_cpu_too(monkeypatch, capsys):
    options = f"--device cpu --pictures 3 --embed-batch 2 --side 128 {SMALL}"
    _, figures = figures_of(gpu, options, monkeypatch, capsys)
    assert [row["what"].split(":")[0] for row in figures["rows"]] == ["embed"] * 2 + ["fine-tune"] * 2 + ["caption"] * 2
    assert all(row["per_s"] > 0 and row["share"] > 0 for row in figures["rows"])


def test_the_bench_of_a_dataset_tells_how_much_a_process_grew_that_trained_on_it(tmp_path):
    figures = dataset.measure("dataset", 2 * dataset.VIDEO_FRAMES, str(tmp_path))  # in a process of its own, as always
    assert figures["frames"] == 1200 and figures["segments"] == 6
    assert figures["growth_mib"] > 0
    assert not list(tmp_path.iterdir())


def test_the_bench_of_frames_measures_the_stage_beside_decoding_alone(monkeypatch, capsys):
    table, figures = figures_of(frames, "--seconds 1 --rounds 1 --short-side 64", monkeypatch, capsys)
    assert [line.split()[0] for line in table[1:]] == ["decode", "scale", "plain", "frames"]
    assert figures["files"] == 4 and figures["packets_left_out"] > 0.2
    assert figures["times_decode"]["frames"] == pytest.approx(
        figures["cpu_s"]["frames"] / figures["cpu_s"]["decode"], abs=0.02
    )


def test_a_bench_of_frames_whose_pictures_differ_fails(make_video, monkeypatch):
    folder = make_video("a.mp4").parent / "alone"
    folder.mkdir()
    (folder / "a.mp4").symlink_to(make_video("a.mp4"))
    options = ["--seconds", "1", "--rounds", "1", "--short-side", "64", "--videos", str(folder)]
    monkeypatch.setattr("sys.argv", ["bench", *options])
    monkeypatch.setattr(frames, "plain", lambda *_: [])
    with pytest.raises(SystemExit, match="not the same pictures"):
        frames.main()


def test_the_bench_of_embedding_measures_it_beside_the_forward_alone(monkeypatch, capsys):
    options = "--encoder ViT-S-32-alt --frames 3 --batch 2 --rounds 1"
    _, figures = figures_of(embed, options, monkeypatch, capsys)
    rows = figures["rows"]
    assert list(rows) == ["fp32", "bf16", "autocast", "embed fp32", "embed bf16"]
    assert rows["embed fp32"]["cosine"] > 0.9999 and rows["embed bf16"]["cosine"] > 0.999
    assert all(row["frames_per_cpu_s"] > 0 for row in rows.values())


def test_the_bench_of_flat_memory_runs_a_stage_and_sees_what_it_takes(make_video, tmp_path):
    flat.prepare(tmp_path, [make_video("a.mp4")] * 3)
    mib, _ = flat.peak_of("frames", tmp_path)
    assert mib > 10 and list((tmp_path / "data/activitynet/frames").iterdir())
