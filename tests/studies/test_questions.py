"""The study of questions: its settings, and from questions to the table on made-up embeddings."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from ruamel.yaml import YAML

from pipeline.dataset.questions.formats import read_questions
from pipeline.scoring.answer_files import read_answers
from pipeline.scoring.answers import score_answers
from studies.questions.settings import FILE, load_study
from tests.dataset.test_questions import write

COLOURS = ("red", "green", "blue")
TINY: dict[str, Any] = {
    "ask": {"source": "files"},
    "learn": {"width": 16, "heads": 2, "layers": 1, "epochs": 1, "batch_size": 4, "warmup_steps": 2, "step": 1},
    "answer": {"glimpses": [1, 4], "main": 4},
    "models": {
        "blind": {"way": "blind", "fusion": "mean", "glimpses": 1, "epochs": None},
        "frame": {"way": "frame", "fusion": "mean", "glimpses": 1, "epochs": None},
        "lse": {"way": "sparse", "fusion": "lse", "glimpses": 2, "epochs": None},
        "memory": {"way": "memory", "fusion": "mean", "glimpses": 1, "epochs": 20},
    },
}


def settings(path: Path, changes: dict) -> Path:
    values = YAML(typ="safe").load(FILE.read_text())
    for section, own in changes.items():
        values[section] = own if section == "models" else values[section] | own
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        YAML().dump(values, file)
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": {"main": 3}}, "answer: .*main: found 3; wanted one of glimpses"),
        ({"learn": {"width": 30}}, "learn: .*width 30 is not a multiple of heads 4"),
        ({"learn": {"grid": "middle"}}, "learn.grid: found 'middle'"),
        ({"ask": {"source": "files"}}, "ask: .*files.train: source files needs a file of training questions"),
    ],
)
def test_settings_that_cannot_be_are_refused_naming_the_key(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        load_study(settings(tmp_path / "params.yaml", changes))


def test_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match=r"has no model 'film'; it has blind, frame, sparse, "):
        load_study().model("film")


def make_inputs(folder: Path) -> None:
    """Videos of 10 frames, one of which has a colour; questions which colour it was; and what is not there."""
    from pipeline.features import shards
    from pipeline.features.encoder import schema_of
    from pipeline.features.encoder import to_table as embeddings_table
    from pipeline.language.decoder import save_decoder
    from tests.colours import make_decoder, make_tokenizer
    from tests.random_clip import write_random_clip

    random = np.random.default_rng(0)
    splits = {f"v{number}": split for number, split in enumerate(["train"] * 60 + ["val"] * 6 + ["test"] * 9)}
    shown = {id: random.integers(3) for id in splits}

    def made(ids):
        for id in ids:
            rows = pa.table(
                {
                    "video_id": [id] * 10,
                    "frame_index": pa.array(range(10), pa.int32()),
                    "timestamp_s": np.arange(10) / 5,
                }
            )
            embeddings = 0.1 * random.normal(size=(10, 8))
            embeddings[:, 7] = 1.0  # an empty stage
            embeddings[3, shown[id]] = 5.0
            yield shards.VideoRows(id, embeddings_table(rows, embeddings.astype(np.float16), schema_of(8)))

    (folder / "data/videos").mkdir(parents=True)
    fingerprints = dict.fromkeys(splits, "1")
    shards.update(
        folder / "data/videos/embeddings", schema=schema_of(8), shards=1, fingerprints=fingerprints, compute=made
    )
    save_decoder(folder / "models/decoder", make_decoder(), make_tokenizer())
    write_random_clip(folder / "models/encoder", 8)
    files = {}
    for split in ("train", "val", "test"):
        rows = [
            {"question": f"a then {word}", "answer": COLOURS[shown[id]], "video_id": id, "answer_type": "what"}
            for id, own in splits.items()
            if own == split
            for word in ("red", "green")
        ]
        rows.append({"question": "a", "answer": "red", "video_id": "gone", "answer_type": "what"})
        files[split] = [str(write(folder / f"{split}.jsonl", rows))]
    files["test"] = [str(write(folder / "test.jsonl", [*rows, rows[0] | {"answer": "a dog"}]))]
    settings(folder / FILE, TINY | {"ask": {"source": "files", "files": files}})
    shutil.copy("params.yaml", folder)
    (folder / "docs").mkdir()
    (folder / "docs/results.md").write_text(
        "# Results\n\n<!-- studies/questions/table.py writes from here -->\n<!-- and to here -->\n"
    )


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A folder in which all stages have run; and what they said."""
    from contextlib import redirect_stdout
    from io import StringIO

    from studies.questions import answer, ask, learn, table

    folder = tmp_path_factory.mktemp("questions")
    make_inputs(folder)
    threads, said = torch.get_num_threads(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
        patch.chdir(folder)
        torch.set_num_threads(1)
        ask.main()
        for name in TINY["models"]:
            learn.main(name)
            answer.main(name)
        table.main()
        torch.set_num_threads(threads)
    return folder, said.getvalue()


def test_what_cannot_be_asked_is_dropped_and_counted(studied):
    folder, said = studied
    kept = read_questions([folder / "data/questions/questions.parquet"])
    assert len(kept) == 2 * (60 + 6 + 9) + 1 and len({one.question_id for one in kept}) == len(kept)
    dropped = json.loads((folder / "data/questions/dropped.json").read_text())
    assert dropped["dropped"] == {"the video is not there": 3}
    assert "ask: 1 of 31 open questions of val and test have no right answer in the list" in said
    assert json.loads((folder / "data/questions/ans2label.json").read_text()).keys() == set(COLOURS)


def test_a_memory_finds_the_one_frame_that_answers_and_the_last_frame_does_not(studied):
    folder, _ = studied
    found = {
        name: json.loads((folder / f"metrics/questions/{name}.json").read_text())
        for name in ("blind", "frame", "memory")
    }
    assert found["memory"]["accuracy"] > 80 > found["frame"]["accuracy"]
    assert found["memory"]["ceiling"] == pytest.approx(100 * 18 / 19)
    beside = found["memory"]["groups"]["all"]["beside"]
    assert (beside["blind"], beside["frame"]) == (found["blind"]["accuracy"], found["frame"]["accuracy"])
    assert {"most frequent", "most frequent per question word"} <= beside.keys()


def test_answers_are_written_as_others_read_them(studied):
    folder, _ = studied
    out = folder / "studies/questions/out/lse/seed-0"
    rows = pd.read_parquet(out / "answers.parquet")
    assert set(rows["glimpses"]) == {1, 4} and len(rows) == 2 * 19
    questions = [one for one in read_questions([folder / "data/questions/questions.parquet"]) if one.split == "test"]
    given = read_answers(out / "results.jsonl", questions)
    assert given == dict(rows[rows["glimpses"] == 4][["question_id", "prediction"]].itertuples(index=False))
    figures = json.loads((folder / "metrics/questions/lse.json").read_text())
    assert score_answers(questions, given).group("all").accuracy == pytest.approx(figures["accuracy"])
    assert figures["glimpses"].keys() == {"1", "4"}


def test_the_table_is_printed_and_stands_in_the_report(studied):
    folder, said = studied
    report = (folder / "docs/results.md").read_text()
    assert "19 questions about 9 videos" in report and "| `memory` |" in report and "| `memory` |" in said
    assert "Where to look: docs/results.md" in said
    assert (folder / "docs/questions.png").read_bytes().startswith(b"\x89PNG")


def test_another_number_of_glimpses_needs_no_training(studied, monkeypatch):
    from studies.questions import answer

    folder, _ = studied
    monkeypatch.chdir(folder)
    kept = Path("studies/questions/out/lse/seed-0/answers.parquet").read_bytes()
    answer.main("lse", 7)
    rows = pq.read_table("studies/questions/out/lse/seed-0/answers.parquet").to_pandas()
    assert set(rows["glimpses"]) == {7} and set(rows["frames"]) == {14}
    Path("studies/questions/out/lse/seed-0/answers.parquet").write_bytes(kept)


def test_a_number_of_glimpses_that_is_none_is_refused_in_a_line(monkeypatch):
    import runpy

    monkeypatch.setattr(sys, "argv", ["answer", "lse", "--glimpses", "0"])
    with pytest.raises(SystemExit, match="answer: --glimpses 0; wanted 1 to 1000"):
        runpy.run_module("studies.questions.answer", run_name="__main__")
