import os
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import imageio_ffmpeg
import pytest
from ruamel.yaml import YAML


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real videos, pictures and annotations that the project does not contain; see their README."""
    folder = Path(os.environ.get("REAL_DATA", "../shared/data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set REAL_DATA)")
    return folder


@pytest.fixture(scope="session")
def make_video(tmp_path_factory) -> Callable[..., Path]:
    """make_video(name, size, rate, seconds, filters, *options): a video whose n-th picture is plain grey number n.

    The real ffmpeg writes it; the name's suffix chooses the container. One of each kind is made per session.
    """
    folder = tmp_path_factory.mktemp("videos")

    @cache
    def make(name: str, size="64x48", rate="10", seconds=2.0, filters="", *options: str) -> Path:
        source = f"color=black:s={size}:r={rate}:d={seconds},geq=lum='16+mod(N*4,200)':cb=128:cr=128"
        path = folder / name
        run_ffmpeg("-f", "lavfi", "-i", ",".join(part for part in (source, filters) if part), *options, str(path))
        return path

    return make


def run_ffmpeg(*arguments: str) -> None:
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-y", *arguments], check=True)


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Callable[..., Path]:
    """workspace(values): an empty folder, made the current one, with the project's params.yaml and these in it.

    values: {"frames.fps": 2, ...}.
    """
    original = Path("params.yaml").resolve()

    def make(values: dict[str, object]) -> Path:
        write_params(tmp_path / "params.yaml", original, values)
        monkeypatch.chdir(tmp_path)
        return tmp_path

    return make


def write_params(path: Path, original: Path, values: dict[str, object]) -> None:
    """Write the params file `original` with some values changed ({"frames.fps": 2, ...}); `...` takes a key out."""
    yaml = YAML()
    params = yaml.load(original.read_text())
    for key, value in values.items():
        *sections, last = key.split(".")
        inner = params
        for section in sections:
            inner = inner[section]
        if value is ...:
            del inner[last]
        else:
            inner[last] = value
    with path.open("w") as file:
        yaml.dump(params, file)
