from pathlib import Path

import pytest
from conftest import write_params

from pipeline.params import load_params

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
        download__coco__videos={"train": 10},
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
        "download.coco: videos needs the keys train, val and test; missing: test, val",
        "extra: unknown section; remove it or correct its spelling",
    ):
        assert line in found
    assert len(found) == 9


def test_sections_that_do_not_fit_each_other_are_refused(tmp_path):
    assert problems(edited(tmp_path, memory__layers=[3, 9])) == [
        "memory.layers: found [9], but the mapper has layers 1 to 4"
    ]
    assert problems(edited(tmp_path, memory__layers=[4, 3])) == [
        "memory.layers: found [4, 3], wanted ascending and each once"
    ]
    assert problems(edited(tmp_path, mapper__kind="mlp")) == [
        "memory.enabled: memory lives in attention layers, so it needs mapper.kind: transformer"
    ]
    assert problems(edited(tmp_path, memory__max_entries=5)) == [
        "memory.max_entries: 5 holds not even one frame of 8 tokens"
    ]
    assert problems(edited(tmp_path, download__coco__videos__train=None)) == [
        "download.coco: videos: source shapes renders a number of videos per split, not null"
    ]
    assert problems(edited(tmp_path, download__activitynet__source="coco")) == [
        "download.activitynet: format: source coco has captions in format 'coco', found 'activitynet'"
    ]
    assert problems(edited(tmp_path, mapper__width=97)) == ["mapper: width 97 is not a multiple of heads 4"]


def test_a_baseline_may_use_the_mlp_mapper(tmp_path):
    load_params(edited(tmp_path, mapper__kind="mlp", memory__enabled=False))


def test_a_file_that_is_not_there_or_not_yaml_is_said_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="no such file; run from the repository's root"):
        load_params(tmp_path / "params.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("frames: [1,\nmemory: 2")
    with pytest.raises(ValueError, match="line 2: not YAML"):
        load_params(broken)
    broken.write_text("just text")
    with pytest.raises(ValueError, match=r"wanted sections such as `frames:`, found str"):
        load_params(broken)
