"""The ablation: its settings, its report, and the whole through the real dvc command on made-up embeddings."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML

from pipeline.baselines import BASELINES
from pipeline.captioner.sequences import collate, make_examples
from pipeline.dataset.segments import Segment, to_table
from pipeline.features.embeddings import VideoEmbeddings
from pipeline.params import load_params
from pipeline.scoring.markdown import insert
from pipeline.scoring.paired import LENGTHS
from pipeline.scoring.plot import COLOURS, draw, ticks
from pipeline.scoring.variants import Curve, Difference
from studies.ablation import table
from studies.ablation.settings import CHOICE, FILE, load_ablation, on_one_device, params_of
from studies.ablation.table import BEGIN, END
from tests.conftest import write_params
from tests.random_clip import write_random_clip

SEVERAL = ("plain", "plain-16", "prior")  # these are more than one change away

TINY = """
seeds: [0, 1]
default: memory
variants:
  last: {memory.enabled: false, baseline.frames: last, baseline.count: 1}
  memory: {memory.enabled: true}
"""


def test_every_variant_is_valid_and_those_with_memory_are_one_change_away_from_the_default():
    ablation = load_ablation()
    default = params_of(ablation, ablation.default, 0).model_dump()
    for name in ablation.variants:
        params = params_of(ablation, name, 5)
        assert params.seed == 5
        if name in ablation.baselines or name == ablation.default:
            continue
        memory = params.memory.model_dump()
        changed = [key for key in memory if memory[key] != default["memory"][key]]
        assert [f"memory.{key}" for key in changed] == list(ablation.changes(name))[1:] or name in SEVERAL, name
        assert (len(changed) == 1) != (name in SEVERAL), name
        assert {**params.model_dump(), "memory": None, "seed": 0} == {**default, "memory": None}
    assert {params_of(ablation, name, 0).baseline.frames for name in ablation.baselines} == set(BASELINES)


@pytest.mark.parametrize(
    "changes, message",
    [
        ("{memory.enabled: true, memory.kk: 8}", r"variant odd, params\.yaml has no memory\.kk to change"),
        ("{memory.enabled: true, memory.k: 0}", r"variant odd, params\.yaml:\n  memory\.k: found 0"),
        ("{memory.enabled: true, memory.k.x: 1}", r"has no memory\.k\.x to change"),
        (
            "{memory.enabled: true, mapper.width: 8}",
            r"variants\.odd: mapper\.width changes nothing here; expected one of me",
        ),
        ("{memory.k: 8}", r"variants\.odd: memory\.enabled is missing"),
        ("{seeds: 3, memory.enabled: true}", r"variants\.odd\.seeds: found 3, expected 1 to 2, of seeds"),
        ("{sparse: 8, memory.enabled: true}", r"variants\.odd\.sparse: these videos are no distractors"),
        ("{sparse: 1, memory.enabled: true}", r"variants\.odd\.sparse: found 1, expected 2 or more"),
        ("{sparse: 8, memory.enabled: false}", r"variants\.odd\.sparse: found 8, expected .*memory\.enabled: true"),
        ("{seeds: 0, memory.enabled: true}", r"variants\.odd\.seeds: found 0"),
        ("{seeds: [0], memory.enabled: true}", r"variants\.odd\.seeds: found \[0\]"),
        ("{memory.enabled: false}", r"variants\.odd: baseline\.frames is missing"),
        ("8", r"studies/ablation/params\.yaml:\n  variants\.odd: found 8"),
    ],
)
def test_a_variant_that_cannot_be_is_refused_naming_the_key(tmp_path, changes, message):
    path = tmp_path / "studies/ablation/params.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(TINY + f"  odd: {changes}\n")
    with pytest.raises(ValueError, match=message):
        params_of(load_ablation(path), "odd", 0)


@pytest.mark.parametrize(
    "before, after, message",
    [
        ("default: memory", "default: mine", r"default: found 'mine', expected one of last, memory"),
        ("[0, 1]", "[0, 0]", r"seeds: found \[0, 0\], expected each once"),
        ("[0, 1]", "[]", r"seeds: found \[\]"),
        ("default:", "defualt:", r"defualt: unknown section; remove it or correct its spelling"),
        ("  last: {memory.enabled: false, baseline.frames: last, baseline.count: 1}\n", "", r"no baseline among them"),
        ("  last:", "  ../last:", r"variants\.\.\./last"),
    ],
)
def test_settings_that_make_no_ablation_are_refused(tmp_path, before, after, message):
    path = tmp_path / "params.yaml"
    path.write_text(TINY.replace(before, after))
    with pytest.raises(ValueError, match=message):
        load_ablation(path)


def test_a_sparse_memory_sees_evenly_spaced_frames_of_before_and_of_the_segment_and_its_last():
    frames = np.arange(60, dtype=np.float16)[:, None]
    videos = {"v": VideoEmbeddings(np.arange(60) / 5, frames)}
    segments = [
        Segment("v#0", "v", "test", start_s, end_s, ("a caption",), "now") for start_s, end_s in ((0, 0.3), (6, 11.9))
    ]
    first, second = make_examples(segments, videos, scope="video", sparse=8)
    assert first.read()[:, 0].tolist() == [0, 1] and second.read()[:, 0].tolist() == [0, 10, 19, 29, 30, 40, 49, 59]
    assert [(e.targets[0].start, e.targets[0].end) for e in (first, second)] == [(0, 1), (4, 7)]
    assert len(collate([first, second]).segments) == 2


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_several_devices_and_an_unknown_variant_are_refused(workspace, stage):
    folder = workspace({f"{stage}.devices": 2})
    (folder / "tiny.yaml").write_text(TINY)
    tiny = load_ablation(folder / "tiny.yaml")
    with pytest.raises(ValueError, match=rf"{stage}\.devices: found 2, the ablation expects 1"):
        params_of(tiny, "memory", 0)
    with pytest.raises(ValueError, match=rf"{stage}\.devices: found 2, the ablation expects 1"):
        on_one_device(load_params())  # what pretraining for all variants begins with
    with pytest.raises(ValueError, match=r"no variant 'mine'; it has last, memory"):
        params_of(tiny, "mine", 0)


def test_changes_reach_the_params_and_nothing_else(tmp_path):
    params = load_params(changes={"memory.k": 3, "download.pictures.segments": "initial"})
    assert (params.memory.k, params.download["pictures"].segments) == (3, "initial")
    assert load_params().memory.k != 3


WAITING = """
import multiprocessing, time
from concurrent.futures import ProcessPoolExecutor
from studies.ablation.seeds import end_with_parent

def train():
    print("training", flush=True)
    time.sleep(600)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context, initializer=end_with_parent) as pool:
        [future.result() for future in [pool.submit(train) for _ in range(2)]]
"""


def test_trainings_end_with_the_variant_that_is_killed(tmp_path):
    (tmp_path / "waiting.py").write_text(WAITING)
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, str(tmp_path / "waiting.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as variant:
        for _ in range(2):
            assert variant.stdout.readline() == "training\n"
        variant.kill()
        assert variant.communicate(timeout=300)[0] == ""  # known when the last one that could write to it has ended


def test_the_prose_around_the_tables_is_kept(tmp_path):
    path = tmp_path / "results.md"
    path.write_text(f"Above.\n{BEGIN}\n{END}Below.\n")
    insert(path, "first", BEGIN, END)
    insert(path, "second", BEGIN, END)
    text = path.read_text()
    assert text.startswith("Above.") and text.endswith("Below.\n") and "first" not in text
    assert f"{BEGIN}\n\nsecond\n\n{END}" in text


@pytest.mark.parametrize(
    "text", ["", f"{BEGIN}\n", f"{END}\n{BEGIN}\n", f"{BEGIN}\n{BEGIN}\n{END}\n", f"{BEGIN}{END}{END}"]
)
def test_a_report_without_its_markers_is_left_alone(tmp_path, text):
    path = tmp_path / "results.md"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"results\.md: expected one line '<!-- studies/ablation"):
        insert(path, "tables", BEGIN, END)
    assert path.read_text() == text


def test_ticks_are_round_and_enclose_the_values():
    assert ticks(251, 397) == [250, 300, 350, 400]
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert ticks(4.9, 8.8) == [4, 5, 6, 7, 8, 9]


def test_the_plot_shows_each_curve_in_its_colour_where_it_lies(tmp_path):
    lengths = np.linspace(1, 3, 20)
    curves = {
        name: Curve(lengths, np.full(20, height), np.full(20, height - 5.0), np.full(20, height + 5.0))
        for name, height in (("high", 80.0), ("low", 20.0))
    }
    draw(curves, tmp_path / "plot.png", title="title", x_label="seconds")
    picture = np.asarray(Image.open(tmp_path / "plot.png"))
    middle = picture[:, picture.shape[1] // 2]
    expected = [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in COLOURS[:2]]
    distances = [np.abs(middle.astype(int) - colour).sum(axis=1) for colour in expected]
    assert max(distance.min() for distance in distances) < 30
    heights = [distance.argmin() for distance in distances]
    assert heights[0] < heights[1]  # counted from the top
    draw(curves, tmp_path / "again.png", title="title", x_label="seconds")
    assert (tmp_path / "plot.png").read_bytes() == (tmp_path / "again.png").read_bytes()


def write_scores(cider, folder: str = ".", n: int = 40) -> None:
    """A table of each variant and seed: `cider` of a variant's name and place, give or take one."""
    rng = np.random.default_rng(0)
    for at, name in enumerate(load_ablation().variants):
        for seed in load_ablation().seeds_of(name):
            of_run = table.OUT / name / f"seed-{seed}" / folder
            of_run.mkdir(parents=True)
            scores = pd.DataFrame({"segment_id": [f"v{i}#0" for i in range(n)]})
            scores["video_id"] = [f"v{i // 2}" for i in range(n)]
            scores = scores.assign(kind=["now", "order"] * (n // 2), start_s=0.0, end_s=np.arange(n) + 1.0)
            scores["references"] = [["a"]] * n
            scores["CIDEr"] = cider(name, at) + rng.normal(0, 1, size=n)
            scores.to_parquet(of_run / "segments.parquet")


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """A folder with the ablation's params and, of each variant, scores ten above the one before it."""
    original = FILE.resolve()
    monkeypatch.chdir(tmp_path)
    FILE.parent.mkdir(parents=True)
    shutil.copy(original, FILE)
    Path("docs").mkdir()
    write_scores(lambda name, at: 10.0 * at)


def test_the_report_has_every_variant_and_its_intervals(scored):
    write_scores(lambda name, at: 10.0 if name == "mean" else 0.0, CHOICE)
    places = list(load_ablation().variants)
    mean, memory, k_8 = (10 * places.index(name) for name in ("mean", "memory", "k-8"))
    table.main()
    text = table.REPORT.read_text()
    assert "40 segments of 20 videos, training seeds 0, 1, 2 (fewer, the first so many: `first` 1, `middle` 1," in text
    assert "whole videos are drawn" in text and "corrected for all variants and groups" in text
    assert "The best baseline is `mean`: by CIDEr, over the seeds, on the val split." in text
    [shown] = re.findall(r"\| `k-8` \| `memory.enabled: true`, `memory.k: 8` \| ([\d.]+) \|", text)  # of one seed
    assert float(shown) == pytest.approx(k_8, abs=1)
    [shown] = re.findall(r"\| `mean` \| ([\d.]+) ± 0\.\d \| [\d.]+ ± 0\.\d \|", text)  # no interval over itself
    assert float(shown) == pytest.approx(mean, abs=1)
    assert re.search(r"\| `k-32` \| \+\d+\.\d \(\+\d+\.\d to \+\d+\.\d\)\* \|", text)
    assert "facts" not in text  # these segments have none
    results = pd.read_csv(table.RESULTS)
    assert set(results.variant) == set(load_ablation().variants)
    row = results.query("variant == 'memory' and group == 'all' and metric == 'CIDEr'").iloc[0]
    assert row.over_mean == pytest.approx(memory - mean, abs=1)
    assert row.over_mean_low < row.over_mean < row.over_mean_high
    assert row.over_mean_p <= row.over_mean_p_holm < 0.05


def test_the_report_has_the_costs_of_variants_that_were_measured(scored):
    write_scores(lambda name, at: 10.0 * at, CHOICE)
    for seed, gflop in enumerate((0.1, 0.2, 0.3)):
        costs = {"parameters": 2_500_000, "gflop": gflop, "cpu_s": 0.05, "remembered_bytes": 2048}
        (table.OUT / f"memory/seed-{seed}/cost.json").write_text(json.dumps(costs | {"training_cpu_s": 449.4}))
    (table.OUT / "mean/seed-0/cost.json").write_text("{}")  # of one seed only
    table.main()
    [row] = re.findall(r"^\| `memory` \| 2\.50 M.*", table.REPORT.read_text(), re.MULTILINE)
    assert row == "| `memory` | 2.50 M | 0.200 | 50 | 2.0 KiB | 449 |"
    assert "| `mean` | 2.50" not in table.REPORT.read_text()


def test_each_variant_has_its_figures_as_json_and_none_that_is_gone(scored):
    table.METRICS.mkdir(parents=True)
    (table.METRICS / "gone.json").write_text("{}")
    write_scores(lambda name, at: 0.0, CHOICE)
    table.main()
    assert {path.stem for path in table.METRICS.iterdir()} == set(load_ablation().variants)
    results = pd.read_csv(table.RESULTS).query("variant == 'k-8' and metric == 'CIDEr'").set_index("group")
    values = json.loads((table.METRICS / "k-8.json").read_text())
    assert values["mean.CIDEr"] == results.loc["all", "mean"]  # as metrics/captions.json names such an average
    kinds = set(results.index) - {"all", *LENGTHS}
    assert kinds and all(values[f"mean.CIDEr.{kind}"] == results.loc[kind, "mean"] for kind in kinds)
    assert not any(name.endswith(tuple(LENGTHS)) for name in values)


def test_the_best_baseline_is_chosen_on_validation_and_not_on_test(scored):
    write_scores(lambda name, at: 50.0 if name == "first" else 0.0, CHOICE)
    table.main()
    assert "The best baseline is `first`" in table.REPORT.read_text()
    assert "over_first" in pd.read_csv(table.RESULTS)


def test_what_no_variant_has_scored_on_validation_is_told(scored):
    with pytest.raises(ValueError, match=r"^no studies/ablation/out/last/seed-0/val/segments\.parquet: make ablation$"):
        table.main()


def test_a_star_marks_what_holds_when_corrected_and_a_single_video_has_no_interval():
    def difference(p_holm: float) -> Difference:
        return Difference(2.0, 1.0, 3.0, 0.001, p_holm)

    assert table.interval(difference(0.049)) == "(+1.0 to +3.0)*"
    assert table.interval(difference(0.05)) == "(+1.0 to +3.0)"
    assert table.interval(Difference(2.0, None, None, None, None)) == "(-)"


TINY_PARAMS = {
    **{f"mapper.{name}": value for name, value in {"layers": 2, "heads": 2, "width": 16, "clip_tokens": 1}.items()},
    **{"mapper.prefix_tokens": 2, "pretrain.epochs": 1, "finetune.epochs": 1, "caption.max_tokens": 4},
}


class Project:
    """The ablation alone: what it reads of the main pipeline lies there as files that no stage makes."""

    def __init__(self, folder: Path, python: Path) -> None:
        """python: the folder of a `python` that runs stages without importing everything again (tests/forking.py)."""
        self.folder, self.python = folder, python
        for name in ("pipeline", "stages", "studies"):
            shutil.copytree(name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "out", "dvc.lock"))
        (folder / "docs").mkdir()
        write_params(folder / "params.yaml", Path("params.yaml"), TINY_PARAMS)
        (folder / "studies/ablation/params.yaml").write_text(TINY)
        make_inputs(folder)
        (folder / ".gitignore").write_text("__pycache__/\n/ablation/out/\n/ablation/models/\n/models/unfinished/\n")
        commit = ["-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", "state"]
        for command in (["init", "-q"], ["add", "-A"], commit):  # DVCLive wants a commit
            subprocess.run(["git", *command], cwd=folder, check=True)
        self.dvc("init", "-q")

    def dvc(self, *arguments: str, forked: bool = False) -> str:
        python = self.python if forked else Path(sys.executable).parent
        path = f"{python}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": path},
        )
        assert done.returncode == 0, f"dvc {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def would_run(self) -> list[str]:
        return ran(self.dvc("repro", "--dry", "studies/ablation/dvc.yaml"))

    def change(self, path: str, key: list[str], value: object) -> None:
        yaml = YAML()
        values = yaml.load((self.folder / path).read_text())
        inner = values
        for name in key[:-1]:
            inner = inner[name]
        inner[key[-1]] = value
        with (self.folder / path).open("w") as file:
            yaml.dump(values, file)


def ran(output: str) -> list[str]:
    return re.findall(r"^Running stage 'studies/ablation/dvc.yaml:(.*)':", output, flags=re.MULTILINE)


CAPTIONS = {"now": "a red star rests on the left", "earlier": "a green circle turns blue"}


def make_inputs(folder: Path, captions_by_kind: Mapping[str, str] = CAPTIONS) -> None:
    """Embeddings, an encoder and a decoder, all of the smallest size. Each video has a segment of both kinds."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    from pipeline.features import shards
    from pipeline.features.encoder import schema_of
    from pipeline.features.encoder import to_table as embeddings_table
    from pipeline.language.decoder import save_decoder

    kinds, captions = tuple(captions_by_kind), tuple(captions_by_kind.values())
    segments = [
        Segment(f"v{v}#{s}", f"v{v}", split, 2.0 * s, 2.0 * s + 1 + v / 4, (captions[s],), kinds[s])
        for v, split in enumerate(["train"] * 4 + ["val"] * 2 + ["test"] * 3)
        for s in range(2)
    ]
    pictures = [
        Segment(f"p{p}", f"p{p}", split, 0.0, 0.2, (captions[p % 2],), None)
        for p, split in enumerate(["train"] * 4 + ["val"] * 2)
    ]
    random = np.random.default_rng(0)

    def write(name, segments, frames):
        def made(ids):
            for id in ids:
                rows = pa.table(
                    {
                        "video_id": [id] * frames,
                        "frame_index": pa.array(range(frames), pa.int32()),
                        "timestamp_s": np.arange(frames) / 5,
                    }
                )
                embeddings = random.normal(size=(frames, 8)).astype(np.float16)
                yield shards.VideoRows(id, embeddings_table(rows, embeddings, schema_of(8)))

        data = folder / "data" / name
        data.mkdir(parents=True)
        pq.write_table(to_table(segments), data / "segments.parquet")
        ids = {segment.video_id: "1" for segment in segments}
        shards.update(data / "embeddings", schema=schema_of(8), shards=1, fingerprints=ids, compute=made)

    write("videos", segments, 25)
    write("pictures", pictures, 1)

    words = ["<end>", *sorted({word for caption in captions for word in caption.split()})]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<end>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>")
    torch.manual_seed(0)
    sizes = {"n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 2}
    decoder = GPT2LMHeadModel(GPT2Config(vocab_size=len(words), bos_token_id=0, eos_token_id=0, **sizes)).eval()
    save_decoder(folder / "models/decoder", decoder, tokenizer)
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 1}
    write_random_clip(folder / "models/encoder", 8, text=text)


@pytest.fixture(scope="module")
def project(tmp_path_factory, forking) -> Project:
    project = Project(tmp_path_factory.mktemp("ablation"), forking.path)
    output = project.dvc("repro", "studies/ablation/dvc.yaml", forked=True)
    assert sorted(ran(output)) == ["pretrained", "table", "variant@last", "variant@memory"]
    return project


def test_a_repro_ends_with_scores_of_every_seed_and_a_report(project):
    scores = {}
    for variant in ("last", "memory"):
        for seed in (0, 1):
            folder = project.folder / f"studies/ablation/out/{variant}/seed-{seed}"
            scores[variant, seed] = pd.read_parquet(folder / "segments.parquet")
            assert len(scores[variant, seed]) == 6
            assert not list(folder.rglob("*.safetensors"))
    log_probs = {tuple(of_run.log_prob) for of_run in scores.values()}
    assert len(log_probs) == 4  # four different models
    report = (project.folder / "docs/results.md").read_text()
    assert "6 segments of 3 videos, training seeds 0, 1." in report and "facts" in report
    assert re.search(r"\| `memory` \| \d\.\d\d M \| \d\.\d{3} \|", report) and "training, CPU s" in report
    assert (project.folder / "docs/cider_by_length.png").is_file()
    shown = json.loads(project.dvc("metrics", "show", "--json"))[""]["data"]
    mean = np.mean([scores["memory", seed].facts.mean() for seed in (0, 1)])
    assert shown["metrics/ablation/memory.json"]["data"]["facts"] == pytest.approx(100 * mean)
    assert not list((project.folder / "models/unfinished").iterdir())


def test_a_run_is_what_the_main_pipelines_stages_make_with_the_same_params(project, monkeypatch):
    from stages.caption import caption
    from stages.finetune import finetune
    from stages.pretrain import pretrain

    monkeypatch.chdir(project.folder)
    params = load_params(changes={"seed": 1, "memory.enabled": True})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pretrain(params, Path("own/begun"), Path("own/begun/curves"))
    finetune(params, Path("own"), Path("own/curves"), Path("own/begun"))
    caption(params, Path("own"), Path("own/captions.parquet"))
    torch.set_num_threads(threads)
    theirs = project.folder / "studies/ablation/out/memory/seed-1/captions.parquet"
    assert Path("own/captions.parquet").read_bytes() == theirs.read_bytes()


def test_only_what_a_change_concerns_runs_again(project):
    assert project.would_run() == []
    project.change("studies/ablation/params.yaml", ["variants", "memory", "memory.k"], 8)
    assert sorted(project.would_run()) == ["table", "variant@memory"]
    project.change("studies/ablation/params.yaml", ["variants", "memory"], {"memory.enabled": True})
    # The switch of the main pipeline's own variant is nothing to the ablation.
    project.change("params.yaml", ["memory", "enabled"], False)
    project.change("params.yaml", ["baseline", "frames"], "mean")
    assert project.would_run() == []
    project.change("params.yaml", ["finetune", "epochs"], 2)
    # And so would the table, once their outputs are others: a dry run makes none.
    assert sorted(project.would_run()) == ["variant@last", "variant@memory"]
