import re
import shutil
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from pipeline.params import load_params, load_prediction_params, load_study_params
from studies.ablation.settings import Ablation
from studies.attend.settings import Attend
from studies.gap.settings import GapStudy
from studies.questions.settings import Study as Questions
from tests.conftest import write_params

PARAMS = Path("params.yaml")


def edited(tmp_path: Path, **changes) -> Path:
    """params.yaml with some keys changed, `section__key=value`; a value of ... removes the key."""
    path = tmp_path / "params.yaml"
    write_params(path, PARAMS, {name.replace("__", "."): value for name, value in changes.items()})
    return path


def problems(path: Path) -> list[str]:
    with pytest.raises(ValueError) as raised:
        load_params(path)
    return [line.strip() for line in str(raised.value).splitlines()[1:]]


@pytest.mark.parametrize("path", [PARAMS, *sorted(Path("profiles").glob("*.yaml"))], ids=str)
def test_every_params_file_here_is_complete_and_valid(path):
    load_params(path)


def test_the_small_profile_for_own_data_differs_from_the_built_in_setting_only_where_the_data_does():
    built_in, own = (load_params(Path(name)).model_dump() for name in ("params.yaml", "profiles/own.yaml"))
    for params in (built_in, own):
        del params["download"], params["frames"]["short_side_px"], params["caption"]["split"]
    assert own == built_in


def test_a_number_such_as_1e_3_is_a_number():
    assert load_params(PARAMS).finetune.learning_rate == pytest.approx(
        float(load_params(PARAMS).finetune.learning_rate)
    )
    assert isinstance(load_params(PARAMS).pretrain.learning_rate, float)


def test_all_problems_are_listed_at_once_naming_key_and_expectation(tmp_path):
    path = edited(
        tmp_path,
        frames__fps=...,
        frames__fsp=5,
        memory__k=0,
        memory__enabled="yes",
        mapper__kind="cnn",
        embed__batch_size=1.5,
        caption__split="dev",
        download__pictures__limit={"train": 10},
        extra={"a": 1},
    )
    found = problems(path)
    for line in (
        "frames.fps: missing; every key must be present",
        "frames.fsp: unknown key; remove it or correct its spelling",
        "memory.k: found 0; input should be greater than 0",
        "memory.enabled: found 'yes'; input should be a valid boolean",
        "mapper.kind: found 'cnn'; input should be 'transformer' or 'mlp'",
        "embed.batch_size: found 1.5; input should be a valid integer",
        "caption.split: found 'dev'; input should be 'train', 'val' or 'test'",
        "download.pictures: limit needs the keys train, val and test; missing: test, val",
        "extra: unknown section; remove it or correct its spelling",
    ):
        assert line in found
    assert len(found) == 9


def test_a_file_of_the_time_when_datasets_were_called_coco_and_activitynet_is_told_what_to_rename(tmp_path):
    old = PARAMS.read_text().replace("  pictures:", "  coco:").replace("  videos:", "  activitynet:")
    (tmp_path / "params.yaml").write_text(old)
    with pytest.raises(ValueError, match=r"rename download.coco to download.pictures, download.activitynet to downlo"):
        load_params(tmp_path / "params.yaml")


def test_a_file_that_still_has_one_baseline_frame_is_told_what_to_write_instead(tmp_path):
    old = PARAMS.read_text().replace("finetune:\n", "finetune:\n  baseline_frame: mean\n")
    (tmp_path / "params.yaml").write_text(old)
    with pytest.raises(ValueError, match=r"remove finetune.baseline_frame .*\n  baseline: \{frames: mean, count: 1\}"):
        load_params(tmp_path / "params.yaml")


def test_frames_without_memory_that_the_decoder_cannot_read_are_refused(tmp_path):
    changes = {"memory__enabled": False, "baseline__frames": "segment"}
    load_params(edited(tmp_path, **changes, baseline__count=22))
    (problem,) = problems(edited(tmp_path, **changes, baseline__count=23))
    assert "mapper.prefix_tokens 4 for each of 23 frames (baseline.count) and a caption of 40 tokens" in problem
    assert "are 132 tokens, and the built-in decoder reads 128" in problem
    load_params(edited(tmp_path, memory__enabled=True, baseline__count=23))  # nobody sees them
    load_params(edited(tmp_path, memory__enabled=False, baseline__frames="last", baseline__count=23))


def test_sections_that_do_not_fit_each_other_are_refused(tmp_path):
    assert problems(edited(tmp_path, memory__layers=[3, 9])) == [
        "memory.layers: found [9], but the mapper has layers 1 to 4"
    ]
    assert problems(edited(tmp_path, memory__layers=[4, 3])) == [
        "memory.layers: found [4, 3], expected ascending and each once"
    ]
    assert problems(edited(tmp_path, mapper__kind="mlp")) == [
        "memory.enabled: memory lives in attention layers, so it needs mapper.kind: transformer"
    ]
    assert problems(edited(tmp_path, memory__time="age")) == [
        "memory.write_below: where frames are left out, a stream does not know the ages of the others; set "
        "memory.time: segment or none"
    ]
    load_params(edited(tmp_path, memory__time="age", memory__write_below=None))
    assert problems(edited(tmp_path, memory__max_entries=5)) == [
        "memory.max_entries: 5 holds not even one frame of 8 tokens"
    ]
    assert problems(edited(tmp_path, download__pictures__limit__train=None)) == [
        "download.pictures: limit: source shapes renders a number per split, not null"
    ]
    assert problems(edited(tmp_path, download__videos__source="coco")) == [
        "download.videos: format: source coco has captions in format 'coco', found 'activitynet'"
    ]
    assert problems(edited(tmp_path, mapper__width=97)) == ["mapper: width 97 is not a multiple of heads 4"]


def test_a_baseline_may_use_the_mlp_mapper(tmp_path):
    load_params(edited(tmp_path, mapper__kind="mlp", memory__enabled=False))


def test_a_file_that_is_not_there_or_not_yaml_is_said_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="no such file; run this in the repository"):
        load_params(tmp_path / "params.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("frames: [1,\nmemory: 2")
    with pytest.raises(ValueError, match="line 2: not YAML"):
        load_params(broken)
    broken.write_text("just text")
    with pytest.raises(ValueError, match=r"expected sections such as `frames:`, found str"):
        load_params(broken)


def test_what_a_stranger_wrote_is_named_without_its_escape_sequences_and_in_one_short_line(tmp_path):
    bomb = "device: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    path = tmp_path / "params.yaml"
    path.write_text(bomb + 'seed: *a11\n"\\e]0;owned\\a": 1\n')
    with pytest.raises(ValueError) as raised:
        load_params(path)
    message = str(raised.value)
    assert r"\x1b]0;owned\x07: unknown section" in message and "\x1b" not in message
    assert "seed: found [[[...]" in message
    assert max(map(len, message.split("\n"))) < 300


def numbers(section: dict[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a params file with its key."""
    for name, value in section.items():
        key = f"{before}{name}"
        if isinstance(value, dict):
            yield from numbers(value, f"{key}__")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield key, value


@pytest.mark.parametrize("bad", [float("inf"), float("nan"), 10**30, -1e20])
def test_no_number_may_be_infinite_or_absurd(tmp_path, bad):
    keys = dict(numbers(load_params(PARAMS).model_dump()))
    assert len(keys) > 70
    found = {line.split(": ")[0] for line in problems(edited(tmp_path, **dict.fromkeys(keys, bad)))}
    assert {key.replace("__", ".") for key in keys} <= found


def test_an_infinite_rate_is_told_by_its_key(tmp_path):
    assert problems(edited(tmp_path, frames__fps=float("inf"))) == [
        "frames.fps: found inf; input should be a finite number"
    ]
    assert problems(edited(tmp_path, frames__fps=0)) == [
        "frames.fps: found 0; input should be greater than or equal to 0.001"
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mapper__prefix_tokens": 40}, "for each of 5 frames (memory.keyframes, the last) and a caption of 40 tokens"),
        ({"memory__keyframes": 30}, "are 164 tokens, and the built-in decoder reads 128: lower some of these"),
        (
            {"caption__max_tokens": 120},
            "(the most of max_caption_tokens and max_tokens) are 140 tokens",
        ),
        ({"frames__fps": 0.5, "embed__every": 1000}, "embed.every: 1000 leaves 0.0005 of frames.fps 0.5 a second"),
        ({"backbones__builtin__text_width": 100}, "text_width 100 is not a multiple of 3, the number of its heads"),
    ],
)
def test_numbers_that_cannot_go_together_are_refused_before_anything_runs(tmp_path, changes, message):
    (problem,) = problems(edited(tmp_path, **changes))
    assert message in problem


def test_prediction_reads_params_of_other_revisions(tmp_path):
    written = edited(
        tmp_path, caption__index="exact", mapper__tokens=3, memory__enabled=..., youtube=..., shapes__new={"a": 1}
    )
    write_params(written, written, {"predict": ..., "embed.every": ...})  # as before there were any
    params = load_prediction_params(written)
    assert params.embed.every == 1
    assert params.predict == load_params(PARAMS).predict
    assert params.frames.fps == load_params(PARAMS).frames.fps
    edited(tmp_path, caption__beams=..., frames__fps="many", youtube=...)
    with pytest.raises(ValueError) as raised:
        load_prediction_params(written)
    assert [line.strip() for line in str(raised.value).splitlines()[1:]] == [
        "frames.fps: found 'many'; input should be a valid number",
        "caption.beams: missing; every key must be present",
    ]


@pytest.mark.parametrize(
    ("path", "key"),
    [(path, "memory.k") for path in (PARAMS, *sorted(Path("profiles").glob("*.yaml")))]
    + [(Path("studies/ablation/params.yaml"), "default"), (Path("studies/long/params.yaml"), "measuring.seed")],
    ids=str,
)
def test_an_experiment_that_changes_a_value_changes_one_line_of_the_file(tmp_path, path, key):
    from dvc.utils.hydra import apply_overrides  # what `dvc exp run -S` calls

    copy = tmp_path / path.name
    shutil.copy(path, copy)
    apply_overrides(copy, [f"{key}=77"])
    lines = zip_longest(path.read_text().splitlines(), copy.read_text().splitlines())
    changed = [(before, after) for before, after in lines if before != after]
    # An empty value is null, and lists stand in lines of their own: as DVC writes them.
    assert [after.split("#")[0].split() for _, after in changed] == [[f"{key.split('.')[-1]}:", "77"]], changed


@pytest.mark.parametrize(
    ("study", "section"),
    [("ablation", Ablation), ("attend", Attend), ("gap", GapStudy), ("questions", Questions)],
)
def test_a_studys_params_file_is_read_as_strictly_and_refused_in_the_same_words(study, section, tmp_path):
    own = Path(f"studies/{study}/params.yaml")
    first = next(iter(section.model_fields))
    assert load_study_params(own, section)
    for text, expected in {
        f"{own.read_text()}\nextra: 1\n": "extra: unknown section; remove it or correct its spelling",
        "{}": f"{first}: missing; every key must be present",
        "a: [": "line 1: not YAML: ",
        "- a": "expected sections such as `frames:`, found list",
    }.items():
        path = tmp_path / "params.yaml"
        path.write_text(text)
        with pytest.raises(ValueError, match=re.escape(expected)) as raised:
            load_study_params(path, section)
        assert str(raised.value).startswith(str(path))
    with pytest.raises(ValueError, match=r"none.yaml: no such file"):
        load_study_params(tmp_path / "none.yaml", section)
