"""The study of a vision-language model with real models: behind `transformers serve`, and loaded here."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from studies.vlm import consult
from studies.vlm.settings import OUT, load_study
from tests.studies.test_vlm import VIDEOS, make_inputs, settings


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    from tests.tiny_vlm import write_vlm

    folder = tmp_path_factory.mktemp("models") / "tiny-vlm"
    write_vlm(folder)
    return folder


@pytest.fixture(scope="module")
def served(model, tmp_path_factory) -> Iterator[str]:
    """The address of the server, which has the model's folder as its current one."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log"
    command = [str(Path(sys.executable).with_name("transformers")), "serve", model.name, "--host", "127.0.0.1"]
    with log.open("w") as written:
        process = subprocess.Popen(
            [*command, "--port", str(port), "--device", "cpu"],
            cwd=model.parent,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            stdout=written,
            stderr=subprocess.STDOUT,
        )
    try:
        while True:
            assert process.poll() is None, log.read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=60)
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    make_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VLM_API_KEY", raising=False)
    return tmp_path


def rows_of(table: str) -> list[dict]:
    return sorted(pq.read_table(OUT / "captions" / table).to_pylist(), key=lambda row: str(row))


def test_a_real_server_captions_the_test_segments_and_what_it_said_is_not_asked_again(project, served, capsys):
    settings(project, {"model": {"name": "tiny-vlm", "base_url": served}, "captions": {"max_tokens": 12}})
    consult.main("captions")
    calls, captions = rows_of("calls.parquet"), rows_of("captions.parquet")
    assert {row["id"] for row in calls} == {
        f"{id}#{i}" for id, split in VIDEOS.items() if split == "test" for i in (0, 1)
    }
    usable = [row for row in calls if row["text"]]
    assert 0 < len(usable) < len(calls)  # a reply that is cut off is none
    assert {row["caption"] for row in captions} == {row["text"] for row in usable}
    assert len({row["text"] for row in usable}) > 1  # it sees the frames
    for row in calls:
        assert row["finish_reason"] in ("stop", "length")
        assert (row["finish_reason"] == "length") == (row["error"] == "the reply was cut off at max_tokens")
        assert row["tokens_in"] > 100
        assert 0 < row["tokens_out"] <= 12
        assert row["attempts"] == 1
        assert row["cost"] is None  # no prices are stated
    # All is in the journal: the same without a server.
    written = {
        name: (OUT / "captions" / name).read_bytes() for name in ("calls.parquet", "captions.parquet", "calls.json")
    }
    shutil.rmtree(OUT)
    settings(
        project, {"model": {"name": "tiny-vlm", "base_url": "http://127.0.0.1:9/v1"}, "captions": {"max_tokens": 12}}
    )
    consult.main("captions")
    assert {name: (OUT / "captions" / name).read_bytes() for name in written} == written


def test_a_model_that_the_server_does_not_have_is_a_reason_in_its_own_words(project, served):
    settings(project, {"model": {"name": "another", "base_url": served}})
    consult.main("captions")
    calls = rows_of("calls.parquet")
    assert {row["text"] for row in calls} == {None}
    assert all("pinned to 'tiny-vlm'; requested 'another'" in row["error"] for row in calls)


def test_a_model_loaded_here_is_shown_and_asked_what_the_server_is(project, served, model):
    settings(project, {"model": {"name": "tiny-vlm", "base_url": served}})
    consult.main("captions")
    of_server = {row["id"]: row for row in rows_of("calls.parquet")}
    settings(project, {"model": {"source": "local", "name": str(model)}})
    consult.main("captions")
    here = {row["id"]: row for row in rows_of("calls.parquet")}
    assert {id: row["tokens_in"] for id, row in here.items()} == {id: row["tokens_in"] for id, row in of_server.items()}
    # Not all: the server decodes JPEGs with another library, and a random model notices a pixel's last digit.
    same = sum(row["text"] == of_server[id]["text"] for id, row in here.items())
    assert same > len(here) / 2


def test_a_context_window_that_is_too_small_gets_fewer_frames_once(project, model, tmp_path):
    from tests.tiny_vlm import write_vlm

    settings(project, {"model": {"source": "local", "name": str(model)}})
    consult.main("captions")
    tokens = {row["tokens_in"] for row in rows_of("calls.parquet")}
    assert {len(row["frames"]) for row in rows_of("calls.parquet")} == {5}
    most = load_study().captions.max_tokens
    for positions, frames in ((max(tokens) + most, 5), (min(tokens) + most - 1, 2), (50, None)):
        folder = tmp_path / str(positions)
        write_vlm(folder, positions=positions)
        settings(project, {"model": {"source": "local", "name": str(folder)}})
        consult.main("captions")
        calls = rows_of("calls.parquet")
        if frames is None:
            assert all(row["error"].endswith("but the context window has 50") for row in calls)
        else:
            assert {len(row["frames"]) for row in calls} == {frames}
        assert {row["attempts"] for row in calls} == {1 if frames == 5 else 2}
