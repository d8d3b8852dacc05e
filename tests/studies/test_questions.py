"""The study of questions: its settings, and from questions to the table on made-up embeddings."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file

from pipeline.dataset.questions.formats import read_questions
from pipeline.dataset.questions.question import Question
from pipeline.params import load_params
from pipeline.scoring.answer_files import read_answers
from pipeline.scoring.answers import score_answers
from studies.questions.scored import scored
from studies.questions.settings import FILE, MODELS, OUT, load_study
from studies.questions.together import SUMMED, together
from tests.dataset.test_questions import write
from tests.tiny_bert import write_bert

COLOURS = ("red", "green", "blue")
OF_FRAMES = {"fusion": "mean", "glimpses": 1, "epochs": None, "head": "list", "encoder": "frozen", "longer": False}
OF_GLIMPSES = OF_FRAMES | {"way": "sparse", "fusion": "lse", "glimpses": 2}
OF_CAPTIONS = OF_FRAMES | {"way": "captions", "epochs": 10}
TINY: dict[str, Any] = {
    "ask": {"source": "files"},
    "learn": {"width": 16, "heads": 2, "layers": 1, "epochs": 1, "batch_size": 4, "warmup_steps": 2, "step": 1},
    "answer": {"glimpses": [1, 4], "main": 4},
    "models": {
        "blind": OF_FRAMES | {"way": "blind"},
        "frame": OF_FRAMES | {"way": "frame"},
        "lse": OF_GLIMPSES,
        "memory": OF_FRAMES | {"way": "memory", "epochs": 20},
        "trained": OF_GLIMPSES | {"fusion": "joint", "encoder": "trained"},
        "open": OF_GLIMPSES | {"head": "open"},
    },
    "caption_models": {"captions": OF_CAPTIONS},
    "together": {"both": ["memory", "captions"]},
    "long": {"models": []},
}


MSRVTT = Path("studies/questions/msrvtt_qa.yaml").resolve()


def settings(path: Path, changes: dict, original: Path = FILE) -> Path:
    values = YAML(typ="safe").load(original.read_text())
    for section, own in changes.items():
        values[section] = own if section.endswith("models") or section == "together" else values[section] | own
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        YAML().dump(values, file)
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": {"main": 3}}, "answer: .*main: found 3; expected one of glimpses"),
        ({"caption_models": {"memory": OF_CAPTIONS}}, "models and caption_models both have memory"),
        (
            {"caption_models": {"m": OF_CAPTIONS | {"way": "memory"}}},
            "caption_models.m: way captions belongs in caption_models",
        ),
        ({"learn": {"width": 30}}, "learn: .*width 30 is not a multiple of heads 4"),
        (
            {"caption_models": {"m": OF_CAPTIONS | {"encoder": "trained"}}},
            "caption_models.m.*encoder: found trained with way captions; expected frozen: an encoder is trained on",
        ),
        ({"learn": {"grid": "middle"}}, "learn.grid: found 'middle'"),
        (
            {"models": TINY["models"], "long": {"models": ["trained"]}},
            "long.models: trained has head list and encoder trained; expected list and frozen",
        ),
        (
            {"caption_models": {"m": OF_CAPTIONS | {"longer": True}}},
            "caption_models.m.*longer: found true with way captions and encoder frozen; expected false",
        ),
        (
            {"ask": {"source": "files", "files": {"train": ["a"], "val": [], "test": []}}, "long": {"models": []}},
            "models.memory.longer: only the built-in videos .* can be made long; set false",
        ),
        ({"learn": {"longer": {"seconds": [9, 3], "empty": 0}}}, "seconds: found .9, 3.; expected the least first"),
        ({"together": {"both": ["memory", "film"]}}, "together.both: found 'film', which is none of the models"),
        ({"together": {"joint": ["memory", "lse"]}}, "together.joint: there is a model of that name"),
        ({"long": {"models": ["film"]}}, "long.models: found 'film'; expected some of models, blind"),
        (
            {"ask": {"source": "files", "files": {"train": ["a"], "val": [], "test": []}}},
            "long.models: only the built-in videos .* can be made long; set \\[\\]",
        ),
        ({"ask": {"source": "files"}}, "ask: .*files.train: source files needs a file of training questions"),
    ],
)
def test_settings_that_cannot_be_are_refused_naming_the_key(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        load_study(settings(tmp_path / "params.yaml", changes))


def test_a_language_model_that_cannot_be_loaded_is_named_with_its_key(tmp_path, monkeypatch):
    from studies.questions.learn import read_language_model

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"params.yaml: learn.language_model: 'no-one/none' could not be loaded: "):
        read_language_model("no-one/none")
    with pytest.raises(ValueError, match=r"holds no config.json with \*.safetensors"):
        read_language_model(str(tmp_path))


def test_a_question_without_an_answer_is_one_that_was_not_answered(tmp_path):
    asked = [Question(f"q{n}", "v", "what?", ("red",), (1.0,)) for n in range(2)]
    pd.DataFrame({"question_id": ["q0", "q1"], "prediction": ["red", None]}).to_parquet(tmp_path / "rows.parquet")
    [result] = scored([pd.read_parquet(tmp_path / "rows.parquet")], asked).results
    assert result.group("all").accuracy == 50.0 and result.group("all").answered == 1


def test_models_together_say_what_the_product_of_all_their_probabilities_is_largest_for():
    draw = np.random.default_rng(0)
    names = [f"answer {number}" for number in range(7)]
    full = [draw.dirichlet(np.ones(7), size=50) for _ in range(2)]
    for of in full:  # what is not among the first five shares what is left
        rest = np.argsort(of, axis=1)[:, :2]
        np.put_along_axis(of, rest, np.take_along_axis(of, rest, 1).mean(1, keepdims=True), 1)

    def rows(of):
        first = np.argsort(-of, axis=1)[:, :5]
        costs = dict.fromkeys(SUMMED, 2.0)
        return pd.DataFrame(
            {
                "question_id": f"q{number}",
                "prediction": names[best[0]],
                "first": [names[label] for label in best],
                "first_log_probs": np.log(of[number][best]),
                **costs,
            }
            for number, best in enumerate(first)
        )

    one, two = map(rows, full)
    two.loc[3, "prediction"] = None  # a video without frames
    found = together([one, two.sample(frac=1, random_state=0)], 7)
    expected = [names[label] for label in (full[0] * full[1]).argmax(1)]
    product = np.log(full[0] * full[1]).max(1)
    given = [number for number in range(50) if number != 3]
    assert found["prediction"][given].tolist() == [expected[number] for number in given]
    assert np.allclose(found["log_prob"][given].astype(float), product[given])
    assert pd.isna(found["prediction"][3]) and (found[list(SUMMED)] == 4.0).all(axis=None)
    assert (found["prediction"] != one["prediction"]).any()


def test_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match=r"has no model 'film'; it has blind, frame, sparse, "):
        load_study().model("film")


def make_inputs(folder: Path) -> None:
    """Videos of 10 frames, one of which has a colour; questions which colour it was; and what is not there."""
    from pipeline.features import shards
    from pipeline.features.encoder import schema_of
    from pipeline.features.encoder import to_table as embeddings_table
    from pipeline.features.frames import SCHEMA as FRAMES_SCHEMA
    from pipeline.language.decoder import save_decoder
    from tests.colours import make_decoder, make_tokenizer
    from tests.random_clip import READS, write_random_clip

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

    def pictures(ids):
        for id in ids:
            jpegs = []
            for frame in range(10):
                picture = np.full((32, 32, 3), 40, np.uint8)
                picture[..., 2 - shown[id]] += 150 * (frame == 3)  # OpenCV's order
                jpegs.append(cv2.imencode(".jpg", picture)[1].tobytes())
            rows = {"video_id": [id] * 10, "frame_index": range(10), "timestamp_s": np.arange(10) / 5, "jpeg": jpegs}
            yield shards.VideoRows(id, pa.table(rows).cast(FRAMES_SCHEMA))

    shards.update(
        folder / "data/videos/frames", schema=FRAMES_SCHEMA, shards=1, fingerprints=fingerprints, compute=pictures
    )
    save_decoder(folder / "models/decoder", make_decoder(), make_tokenizer())
    write_random_clip(folder / "models/encoder", 8, text=READS)
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
    for split in ("train", "val", "test"):  # captions that name the colour, made of words of the decoder's
        of = [id for id, own in splits.items() if own == split]
        (folder / f"studies/questions/captions/{split}").mkdir(parents=True)
        columns = {"video_id": of, "end_s": [2.0] * len(of), "caption": [f"a {COLOURS[shown[id]]}" for id in of]}
        pq.write_table(pa.table(columns), folder / f"studies/questions/captions/{split}/captions.parquet")
    (folder / "studies/questions/captions/cost.json").write_text('{"gflop": 7.0}')
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

    from studies.questions import answer, ask, learn, long, table

    folder = tmp_path_factory.mktemp("questions")
    make_inputs(folder)
    threads, output = torch.get_num_threads(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output):
        patch.chdir(folder)
        torch.set_num_threads(1)
        ask.main()
        for name in [*TINY["models"], "captions"]:
            learn.main(name)
            answer.main(name)
        long.main()
        table.main()
        torch.set_num_threads(threads)
    return folder, output.getvalue()


@pytest.mark.parametrize("model", ["blind", "open"])
def test_two_processes_train_a_model_that_does_not_use_every_weight(studied, tmp_path, model):
    folder = Path(shutil.copytree(studied[0], tmp_path / "two"))
    shutil.rmtree(folder / "studies/questions/models")
    settings(folder / FILE, {"learn": {"devices": 2}}, original=folder / FILE)
    command, here = [sys.executable, "-m", "studies.questions.learn", model], str(Path.cwd())
    run = subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": here}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.count(f"learn {model}, seed 0: 1 epochs") == 1
    assert (folder / f"studies/questions/models/{model}/seed-0/reader.safetensors").is_file()


def test_what_cannot_be_asked_is_dropped_and_counted(studied):
    folder, output = studied
    kept = read_questions([folder / "data/questions/questions.parquet"])
    assert len(kept) == 2 * (60 + 6 + 9) + 1 and len({one.question_id for one in kept}) == len(kept)
    dropped = json.loads((folder / "data/questions/dropped.json").read_text())
    assert dropped["dropped"] == {"the video is not there": 3}
    assert "dropped: 3 (the video is not there; the first is 'train_120' about 'gone')" in output
    assert "ask: 1 of 31 open questions of val and test have no right answer in the list" in output
    assert json.loads((folder / "data/questions/ans2label.json").read_text()).keys() == set(COLOURS)


def asking(folder: Path, tmp_path: Path, monkeypatch, questions: list[dict], **changes: object) -> None:
    """The stage `ask` on the same videos, with other questions of the test split."""
    from studies.questions import ask

    for name in ("data/videos", "models"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(folder / name)
    files = {
        "train": [str(folder / "train.jsonl")],
        "val": [],
        "test": [str(write(tmp_path / "asked.jsonl", questions))],
    }
    own = {"source": "files", "files": files} | changes
    settings(tmp_path / FILE, TINY | {"ask": own})
    monkeypatch.chdir(tmp_path)
    ask.main()


def test_what_is_asked_past_a_videos_end_is_said_in_a_line_each(studied, tmp_path, monkeypatch, capsys):
    good = {"question_id": "a", "video_id": "v70", "question": "a then red", "answer": "red"}
    late = [good | {"question_id": "b", "end_s": 60}, good | {"question_id": "c", "start_s": 50, "end_s": 60}]
    asking(studied[0], tmp_path, monkeypatch, [good, *late, good | {"question_id": "d", "end_s": 2.0}])
    output = capsys.readouterr().out.splitlines()
    assert (
        output[0] == "ask: 1 questions end after their video, the first 'b' at 60 s; they are asked at the video's end"
    )
    assert output[-1].endswith(
        "dropped: 1 (begins past the video's end; the first is 'c' about 'v70'), "
        "1 (the video is not there; the first is '120' about 'gone')"
    )
    assert len(read_questions([tmp_path / "data/questions/questions.parquet"])) == 120 + 3


def test_options_of_which_two_are_the_same_are_said_and_kept(studied, tmp_path, monkeypatch, capsys):
    choice = {"question_id": "a", "video_id": "v70", "question": "which", "options": ["red", "Red"], "answer": 1}
    asking(studied[0], tmp_path, monkeypatch, [choice])
    assert capsys.readouterr().out.startswith("ask: 1 questions have equal options, the first 'a'; they are kept\n")


def test_a_list_that_has_none_of_the_answers_asked_for_is_refused(studied, tmp_path, monkeypatch):
    other = write(tmp_path / "ans2label.json", {"a dog": 0, "a cat": 1})
    good = {"question_id": "a", "video_id": "v70", "question": "a then red", "answer": "red"}
    with pytest.raises(ValueError) as error:
        asking(studied[0], tmp_path, monkeypatch, [good], list_file=str(other))
    assert str(error.value) == (
        f"none of 1 open questions of val and test has a right answer in the list of 2 ({other}), which begins with "
        "'a dog', 'a cat'; the first of them wants 'red': ask.list_file seems to be another dataset's"
    )
    assert not (tmp_path / "data/questions").exists()


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        ("", r"asked.jsonl: the file is empty"),
        (
            [{"video_id": "v70", "question": "why " * 2500, "answer": "a"}] * 2,
            r"asked.jsonl, line 1: question has 10,000",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_its_line(studied, tmp_path, monkeypatch, questions, message):
    with pytest.raises(ValueError, match=message):
        asking(studied[0], tmp_path, monkeypatch, questions)


def test_a_memory_finds_the_one_frame_that_answers_and_the_last_frame_does_not(studied):
    folder, _ = studied
    found = {
        name: json.loads((folder / f"metrics/questions/{name}.json").read_text())
        for name in ("blind", "frame", "memory", "captions")
    }
    assert found["captions"]["accuracy"] > 80 and found["captions"]["cost"]["frames"] == 3  # "a", a colour, nothing
    assert found["memory"]["accuracy"] > 80 > found["frame"]["accuracy"]
    assert found["memory"]["ceiling"] == pytest.approx(100 * 18 / 19)
    beside = found["memory"]["groups"]["all"]["beside"]
    assert (beside["blind"], beside["frame"]) == (found["blind"]["accuracy"], found["frame"]["accuracy"])
    assert {"most frequent", "most frequent per question word"} <= beside.keys()


def test_what_captioning_costs_is_shared_by_a_videos_questions(studied, monkeypatch):
    from studies.questions.answer import encoder_gflop

    monkeypatch.chdir(studied[0])
    answered = pq.read_table("studies/questions/out/captions/seed-0/answers.parquet").to_pandas()
    questions = answered.groupby("video_id")["question_id"].transform("count")
    captioned_and_encoded = (7.0 + 10 * encoder_gflop(Path("models/encoder"))) / questions
    assert np.allclose(answered["once_gflop"], captioned_and_encoded, atol=0.01) and questions.nunique() == 2
    assert (answered["gflop"] > answered["once_gflop"]).all()


def test_a_model_of_captions_knows_nothing_before_the_first_of_them(studied, monkeypatch):
    from pipeline.language.decoder import load_decoder
    from studies.questions.videos import read_captions

    folder, _ = studied
    monkeypatch.chdir(folder)
    decoder = load_decoder(Path("models/decoder"))
    video = read_captions(["v70"], *decoder)["v70"]
    assert video.timestamps[:].tolist() == [0.0, 1.999, 1.999] and not video.embeddings[:1].any()
    assert video.embeddings[1:].any(axis=1).all() and video.embeddings.shape == (3, 32)
    with pytest.raises(ValueError, match="has no captions of 1 videos that are asked about, as 'gone'"):
        read_captions(["v70", "gone"], *decoder)


def test_pictures_are_videos_of_one_frame(studied, tmp_path, monkeypatch):
    from pipeline.features import shards
    from pipeline.features.encoder import schema_of
    from pipeline.features.encoder import to_table as embeddings_table
    from studies.questions.learn import read_examples, read_language_model

    rows = pa.table({"video_id": ["p0"], "frame_index": pa.array([0], pa.int32()), "timestamp_s": [0.0]})
    table = embeddings_table(rows, np.full((1, 8), 3, np.float16), schema_of(8))
    folder, made = tmp_path / "data/pictures/embeddings", [shards.VideoRows("p0", table)]
    folder.parent.mkdir(parents=True)
    shards.update(folder, schema=schema_of(8), shards=1, fingerprints={"p0": "1"}, compute=lambda ids: iter(made))
    good = {"question": "a then red", "answer": "red"}
    questions = [good | {"question_id": "a", "video_id": "p0"}, good | {"question_id": "b", "video_id": "v70"}]
    asking(studied[0], tmp_path, monkeypatch, questions)
    examples = {one.video_id: one for one in read_examples(["test"], list(COLOURS), read_language_model(None))["test"]}
    assert examples.keys() == {"p0", "v70"} and examples["p0"].video.embeddings[:].tolist() == [[3.0] * 8]
    assert [one.frames for one in examples["p0"].targets] == [1]


def test_the_profile_for_msrvtt_qa_is_complete_and_its_path_runs_with_random_weights(studied, tmp_path, monkeypatch):
    from studies.questions import answer, ask, learn, table

    study = load_study(MSRVTT)
    assert (study.model("msrvtt").fusion, study.main_count("msrvtt"), study.learn.frames) == ("lse", 8, 2)
    assert load_params(MSRVTT.parents[2] / "profiles/msrvtt.yaml").backbones.encoder.model == "ViT-B-32"
    for name in ("data/videos", "models/decoder", "models/encoder"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(studied[0] / name)
    for path in ("params.yaml", "docs"):
        (shutil.copytree if (studied[0] / path).is_dir() else shutil.copy)(studied[0] / path, tmp_path / path)
    videos = {"train": range(60), "val": range(60, 66), "test": range(66, 75)}  # v0 to v74; the files say 0 to 74
    for split, numbers in videos.items():
        rows = [
            {"answer": COLOURS[n % 3], "category_id": 1, "id": n, "question": "what is red", "video_id": n}
            for n in numbers
        ]
        (tmp_path / "data/own/videos").mkdir(parents=True, exist_ok=True)
        write(tmp_path / f"data/own/videos/{split}_qa.json", rows)
    assert study.learn.language_model == "bert-base-uncased"
    write_bert(tmp_path / "bert")
    tiny = {"width": 16, "heads": 2, "layers": 1, "epochs": 1, "warmup_steps": 2, "precision": "fp32"}
    tiny["language_model"] = str(tmp_path / "bert")
    models = {name: study.models[name].model_dump() for name in ("blind", "msrvtt")}
    settings(tmp_path / FILE, {"learn": tiny, "models": models, "answer": {"glimpses": [1, 8]}}, MSRVTT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ask, "PREFIXES", ("v",))  # the made-up videos' ids; MSR-VTT's are video0 to video9999
    ask.main()
    for name in models:
        learn.main(name)
        answer.main(name)
    table.main()
    answered = pd.read_parquet("studies/questions/out/msrvtt/seed-0/answers.parquet")
    assert set(answered[answered["glimpses"] == 8]["frames"]) == {16}
    assert len(answered) == 2 * 9 and answered["error"].isna().all()
    assert json.loads(Path("metrics/questions/msrvtt.json").read_text())["asked"] == 9
    beside = Path("studies/questions/models/msrvtt/seed-0")
    assert json.loads((beside / "language_model/config.json").read_text())["model_type"] == "bert"
    assert json.loads((beside / "config.json").read_text())["reader"]["text_width"] == 2 * 16


def test_without_ground_truth_no_video_is_made_long(studied):
    folder, output = studied
    assert "long: 0 answers" in output and not (folder / "metrics/questions/long.json").exists()
    assert "Videos made long" not in (folder / "docs/results.md").read_text()


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
    folder, output = studied
    report = (folder / "docs/results.md").read_text()
    assert "19 questions about 9 videos" in report and "| `memory` |" in report and "| `memory` |" in output
    assert "Where to look: docs/results.md" in output
    assert (folder / "docs/questions.png").read_bytes().startswith(b"\x89PNG")


def test_an_encoder_that_was_trained_lies_beside_its_reader_and_answers_alike_each_time(studied, monkeypatch):
    from studies.questions import answer

    folder, _ = studied
    monkeypatch.chdir(folder)
    name = "open_clip_model.safetensors"
    before, after = (load_file(f"{at}/{name}") for at in ("models/encoder", f"{MODELS}/trained/seed-0/encoder"))
    assert before.keys() == after.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed and all(key.startswith("visual.") for key in changed)
    assert not Path(f"{MODELS}/memory/seed-0/encoder").exists()
    path = f"{OUT}/trained/seed-0/answers.parquet"
    first = pd.read_parquet(path)
    assert len(first) == 2 * 19 and first["error"].isna().all()
    answer.main("trained")
    assert pd.read_parquet(path)["log_prob"].tolist() == pytest.approx(first["log_prob"].tolist(), abs=1e-6)
    Path("data/videos/frames").rename("data/videos/gone")
    with pytest.raises(ValueError, match="data/videos/frames holds no shards; make them with: dvc repro"):
        answer.main("trained")
    Path("data/videos/gone").rename("data/videos/frames")


def test_an_open_head_says_answers_that_are_not_in_the_list(studied):
    folder, _ = studied
    rows = pd.read_parquet(folder / "studies/questions/out/open/seed-0/answers.parquet")
    said = {text for first in rows["first"] for text in first}
    assert len(rows) == 2 * 19 and rows["error"].isna().all() and said - set(COLOURS)
    assert (folder / MODELS / "open/seed-0/speaker/model.safetensors").is_file()  # it learned, as params.yaml says
    assert (rows["log_prob"] < 0).all() and (rows["first"].map(len) > 1).all()
    cost = {
        name: json.loads((folder / f"metrics/questions/{name}.json").read_text())["cost"] for name in ("open", "lse")
    }
    assert cost["open"]["gflop"] > cost["lse"]["gflop"]


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
    with pytest.raises(SystemExit, match="answer: --glimpses 0; expected 1 to 1000"):
        runpy.run_module("studies.questions.answer", run_name="__main__")
