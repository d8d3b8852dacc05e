"""dvc.yaml and studies/*/dvc.yaml against the code: DVC says "up to date" about whatever their deps do not name."""

from pathlib import Path

import pytest
from dvc.repo import Repo

from pipeline.deps import FILES, with_code
from pipeline.imports import imported_files
from pipeline.params import load_params
from stages import DATASETS
from studies.ablation.settings import READ, SWITCH, load_ablation

ROOT = Path.cwd()


@pytest.fixture(scope="module")
def all_stages():
    """Of the main pipeline and of every study."""
    with Repo(".") as repo:
        return {stage.addressing: stage for stage in repo.index.stages}


@pytest.fixture(scope="module")
def stages(all_stages):
    """Of the main pipeline."""
    return {name: stage for name, stage in all_stages.items() if Path(stage.path) == ROOT / "dvc.yaml"}


@pytest.fixture(scope="module")
def ablation(all_stages):
    stages = {
        name: stage for name, stage in all_stages.items() if Path(stage.path) == ROOT / "studies/ablation/dvc.yaml"
    }
    return {name.removeprefix("studies/ablation/dvc.yaml:"): stage for name, stage in stages.items()}


def modules_named(stage) -> set[Path]:
    """The project's Python files that the stage's deps name, a folder standing for all in it."""
    files: set[Path] = set()
    for dep in stage.deps:
        path = Path(dep.fs_path)
        files |= set(path.rglob("*.py")) if path.is_dir() else {path} if path.suffix == ".py" else set()
    return files


def module_of(stage) -> Path:
    return ROOT / (stage.cmd.split()[2].replace(".", "/") + ".py")


def params_named(stage) -> dict[str, set[str]]:
    """Keys by the params file that they are of."""
    return {
        Path(dep.fs_path).relative_to(ROOT).as_posix(): set(dep.params)
        for dep in stage.deps
        if getattr(dep, "params", None)
    }


def test_every_stage_names_exactly_the_modules_it_imports(all_stages):
    for name, stage in all_stages.items():
        assert modules_named(stage) == imported_files(module_of(stage)), f"deps of {name}"


@pytest.mark.parametrize("file", FILES)
def test_the_deps_are_those_that_make_deps_writes(file):
    text = (ROOT / file).read_text()
    assert with_code(text) == text, "run: make deps"


def test_make_deps_adds_what_is_imported_removes_what_is_not_and_leaves_the_rest(small_project):
    before = """stages:
  go:  # a comment
    cmd: python -m stages.go ${key}
    deps:
      - data/a.parquet
      - pipeline/gone.py
      - pipeline/unused.py
      - pipeline/out
    params: [a]
"""
    code = [f"      - {name}\n" for name in ("pipeline/__init__.py", "pipeline/a.py", "pipeline/b.py")]
    code += [f"      - {name}\n" for name in ("pipeline/deep/__init__.py", "pipeline/deep/c.py")]
    code += [f"      - {name}\n" for name in ("stages/__init__.py", "stages/go.py")]
    gone = "      - pipeline/gone.py\n      - pipeline/unused.py\n"
    after = before.replace(gone, "").replace("    params", "".join(code) + "    params")
    assert with_code(before, small_project) == after
    assert with_code(after, small_project) == after


def test_changing_the_memory_reaches_finetune_caption_and_evaluate_only(stages):
    readers = {
        name
        for name, stage in stages.items()
        if any(key.split(".")[0] == "memory" for key in params_named(stage).get("params.yaml", ()))
    }
    assert readers == {"finetune"}
    assert downstream(stages, "finetune") == {"finetune", "caption", "evaluate"}


def test_changing_how_captions_are_generated_reaches_caption_and_evaluate_only(stages):
    named = {name: params_named(stage).get("params.yaml", set()) for name, stage in stages.items()}
    assert {name for name, keys in named.items() if keys & {"caption", "caption.method"}} == {"caption"}
    assert downstream(stages, "caption") == {"caption", "evaluate"}


def test_changing_the_frame_rate_reaches_frames_and_all_that_follows(stages):
    assert downstream(stages, "frames@videos") == {
        "frames@videos",
        "embed@videos",
        "finetune",
        "caption",
        "evaluate",
    }


def downstream(stages, name: str) -> set[str]:
    reached = {name}
    while True:
        outs = {out.fs_path for stage in reached for out in stages[stage].outs}
        more = {other for other, stage in stages.items() if any(dep.fs_path in outs for dep in stage.deps)}
        if more <= reached:
            return reached
        reached |= more


def test_the_ablation_has_a_stage_for_each_variant_one_for_what_they_begin_with_and_one_for_their_table(ablation):
    assert set(ablation) == {"pretrained", "table", *(f"variant@{name}" for name in load_ablation().variants)}


def test_an_ablation_that_was_never_run_is_nothing_that_checkout_or_exp_apply_would_miss(ablation):
    # DVC checks out what lies in its cache of all pipelines, and fails where something is not there.
    assert not any(out.use_cache for stage in ablation.values() for out in stage.outs)


def test_a_variant_reads_its_own_settings_and_all_else_that_its_stages_read(ablation):
    def expanded(keys: set[str]) -> set[str]:
        """With the keys of a section in place of its name."""
        sections = load_params().model_dump()
        return {f"{key}.{inner}" for key in keys for inner in sections.get(key, ())} | (keys - sections.keys())

    for name in load_ablation().variants:
        named = params_named(ablation[f"variant@{name}"])
        assert expanded(named["params.yaml"]) == expanded(set(READ) - {"baseline"}) - {SWITCH}
        assert named["studies/ablation/params.yaml"] == {"seeds", f"variants.{name}"}


def test_a_variant_reads_the_files_and_sections_that_the_main_pipelines_stages_read(stages, ablation):
    shared = [stages[name] for name in ("finetune", "caption", "evaluate")]
    made = {out.fs_path for stage in shared for out in stage.outs}
    expected = set().union(*map(files_read, shared)) - made
    # But that each seed's trainings begin with a mapper of that seed.
    expected = expected - {str(ROOT / "models/pretrained")} | {str(ROOT / "studies/ablation/models")}
    assert files_read(ablation["variant@memory"]) == expected
    sections = {key.split(".")[0] for stage in shared for key in params_named(stage)["params.yaml"]}
    assert sections == {*READ, "seed"}  # the seed is each run's own


def test_the_ablations_pretraining_reads_what_the_main_pipelines_reads(stages, ablation):
    own, main = ablation["pretrained"], stages["pretrain"]
    assert files_read(own) == files_read(main)
    assert params_named(own)["params.yaml"] == params_named(main)["params.yaml"] - {"seed"}
    assert params_named(own)["studies/ablation/params.yaml"] == {"seeds"}


def files_read(stage) -> set[str]:
    """The stage's deps that are neither its code nor its params."""
    code_and_params = {*imported_files(module_of(stage)), ROOT / "params.yaml", ROOT / "studies/ablation/params.yaml"}
    return {dep.fs_path for dep in stage.deps} - {str(path) for path in code_and_params}


def test_videos_are_neither_outs_nor_deps(stages):
    # DVC would hash, cache and push every one of them; the ledger has their sha256.
    named = {Path(one.fs_path) for stage in stages.values() for one in (*stage.outs, *stage.deps)}
    assert not [path for path in named if path.match("data/*/media")]
    for dataset in DATASETS:
        files = {Path(dep.fs_path).name for dep in stages[f"frames@{dataset}"].deps}
        assert {"ledger.parquet", "segments.parquet"} <= files


def test_no_two_stages_write_the_same_place(all_stages):
    outs = [out.fs_path for stage in all_stages.values() for out in stage.outs]
    assert len(outs) == len(set(outs))
