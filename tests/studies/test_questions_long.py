"""Questions of videos that are made long: what may be put in, and the stage from trained models to its tables."""

import itertools
import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.answerer.examples import Text, make_examples, plan_batches
from pipeline.answerer.reader import Reader, ReaderConfig
from pipeline.answerer.training import save_reader
from pipeline.dataset.questions.question import to_table
from pipeline.dataset.segments import frames_of_segment
from pipeline.dataset.shapes.dataset import _ground_truth, video_id
from pipeline.dataset.shapes.looks import looks_of
from pipeline.dataset.shapes.questions import KINDS, video_questions
from pipeline.dataset.shapes.scenes import video_scene
from pipeline.features import shards
from pipeline.features.embeddings import VideoEmbeddings
from pipeline.features.encoder import schema_of
from pipeline.features.encoder import to_table as embeddings_table
from pipeline.features.lengthening import put_into
from pipeline.language.decoder import save_decoder
from studies.questions import answer, long
from studies.questions.learn import with_longer
from studies.questions.lengthening import Others, lengthened_example
from studies.questions.lengths import by_length, length_figures, length_report
from studies.questions.settings import FILE, LONG, MODELS, OUT, QUESTIONS, SCENES, Longer, load_study
from tests.colours import make_decoder, make_tokenizer
from tests.random_clip import READS, write_random_clip
from tests.studies.test_questions import settings

COUNT, WIDTH = 40, 8
TINY: dict[str, Any] = {
    "models": ["frame", "joint", "memory"],
    "minutes": [0, 1, 3],
    "glimpses": [1, 4],
    "per_kind": 3,
    "seed": 0,
}


@pytest.fixture(scope="module")
def scenes():
    return {
        video_id("test", index): _ground_truth(video_scene(0, "test", index), "test", 128, 5.0)
        for index in range(COUNT)
    }


@pytest.fixture(scope="module")
def questions(scenes):
    return video_questions(scenes, per_video={"train": 0, "val": 0, "test": 7}, seed=0)


@pytest.fixture(scope="module")
def numbered(scenes):
    """Videos whose embeddings are the video's number and the frame's."""
    found = {}
    for number, (id, truth) in enumerate(scenes.items()):
        rows = np.stack([np.full(truth["frames"], number), np.arange(truth["frames"])], axis=1)
        found[id] = VideoEmbeddings(np.arange(truth["frames"]) / 5, rows.astype(np.float16))
    return found


def put_in(asked, numbered, scenes, seconds):
    """(the video's ground truth, time) of every frame that is not of the question's own video."""
    _, video = long.lengthened(asked, numbered[asked.question.video_id], seconds, 0)
    ids = list(scenes)
    rows = video.embeddings[:].astype(int).tolist()
    return [(scenes[ids[of]], frame / 5) for of, frame in rows if ids[of] != asked.question.video_id]


def shown_at(truth, time_s):
    """All looks of the things that are there at that time."""
    there = [
        thing for thing in truth["objects"] if any(one["from_s"] <= time_s <= one["to_s"] for one in thing["shown"])
    ]
    return {look for thing in there for look in looks_of(thing)}


def test_the_frames_put_in_never_show_what_is_asked(scenes, questions, numbered):
    chosen = long.chosen(questions, scenes, numbered, 10, 0)
    assert {one.question.kind for one in chosen} == set(KINDS)
    for asked in chosen:
        others = put_in(asked, numbered, scenes, 60)
        assert len(others) == 300
        own, text = scenes[asked.question.video_id], asked.question.question
        for truth, time_s in others:
            seen = shown_at(truth, time_s)
            if asked.question.kind == "count":
                assert not seen
            elif asked.question.kind != "now":
                assert not any(f"{colour} {shape}" in text for colour, shape in seen)
                end_s = asked.question.end_s
                [named] = [one for one in own["objects"] if any(f"{c} {s}" in text for c, s in looks_of(one, end_s))]
                assert seen.isdisjoint(looks_of(named, end_s))  # nor in a colour that it turns or flashes to


def test_the_evidence_is_the_same_frames_and_what_is_put_in_lies_behind_some_of_it(scenes, questions, numbered):
    def frames(question, video):
        found = []
        for from_s, to_s in question.evidence:
            seen = frames_of_segment(from_s, to_s, video.timestamps[:].tolist())
            found.append(video.embeddings[:][seen.start : seen.stop].tolist())
        return found

    for asked in long.chosen(questions, scenes, numbered, 10, 0):
        own = numbered[asked.question.video_id]
        question, video = long.lengthened(asked, own, 60, 0)
        before, after = frames(asked.question, own), frames(question, video)
        # A count's interval may be longer than what it begins with and end behind the cut: then it is widened.
        if all(len(one) == len(other) for one, other in zip(before, after, strict=True)):
            assert before == after
        else:
            assert asked.question.kind == "count"
        last = frames_of_segment(0.0, question.end_s, video.timestamps[:].tolist())
        assert len(last) == len(frames_of_segment(0.0, asked.question.end_s, own.timestamps[:].tolist())) + 300
        ages = [(question.end_s or 0.0) - to_s for _, to_s in question.evidence]
        never_seen = asked.question.kind == "before" and asked.question.answer == "no"
        assert max(ages) > 60 or asked.question.kind == "now" or never_seen


def test_what_the_last_segment_shows_is_not_cut_in_two(scenes, questions, numbered):
    for asked in long.chosen(questions, scenes, numbered, 10, 0):
        shown = [one for thing in scenes[asked.question.video_id]["objects"] for one in thing["shown"]]
        assert not any(one["from_s"] < asked.cut_s < one["to_s"] for one in shown)


@pytest.fixture(scope="module")
def examples(questions, numbered):
    answers = sorted({one.answer for one in questions})
    text = Text(torch.zeros(1, dtype=torch.int64), torch.zeros(1, 2), torch.zeros(1, 2))
    return make_examples(questions, numbered, {one.question: text for one in questions}, answers)


@pytest.fixture(scope="module")
def lengthened(examples, scenes, numbered):
    """(as it was, made long) of every video that can be: every other one by empty stages alone."""
    others = Others(numbered, scenes)
    found = []
    for number, example in enumerate(examples):
        made = lengthened_example(example, others, (10.0, 60.0), float(number % 2), random.Random(number))
        if made:
            found.append((example, made))
    assert len(found) > COUNT / 2
    return found


def whole(made):
    return put_into(made.video, made.put_in.at, made.put_in.parts)


def test_training_examples_that_are_made_long_keep_their_answers(lengthened, scenes):
    ids, kinds = list(scenes), set()
    for example, made in lengthened:
        own = {target.question.question_id: target for target in example.targets}
        rows = whole(made).embeddings[:].astype(int)
        strange = [(scenes[ids[of]], frame / 5) for of, frame in rows.tolist() if ids[of] != example.video_id]
        seen = {look for truth, time_s in strange for look in shown_at(truth, time_s)}
        assert 50 <= len(strange) <= 300 and len(rows) == len(example.video.timestamps) + len(strange)
        for target in made.targets:
            was, question = own[target.question.question_id], target.question
            kinds.add((question.kind, bool(seen)))
            assert target.frames == was.frames + len(strange) and (target.scores == was.scores).all()
            assert question.end_s == pytest.approx(was.question.end_s + len(strange) / 5)
            asked = frames_of_segment(0.0, question.end_s, whole(made).timestamps[:].tolist())
            assert len(asked) == target.frames
            if question.kind != "now":
                assert not any(f"{colour} {shape}" in question.question for colour, shape in seen)
            assert question.kind != "count" or not seen
    assert kinds >= {(kind, True) for kind in set(KINDS) - {"count"}} | {("count", False)}


def test_training_examples_are_made_long_beside_those_as_they_are_by_videos_of_their_split(
    examples, scenes, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    SCENES.parent.mkdir(parents=True)
    SCENES.write_text(json.dumps(scenes))
    ids = list(scenes)
    splits = {"train": examples[:25], "val": [*examples[25:], replace(examples[0], video_id="a picture")]}
    found = with_longer(splits, Longer(seconds=[10, 40], empty=0.5), 2, 0)
    for split, own in splits.items():
        assert found[split][: len(own)] == own
        made = found[split][len(own) :]
        assert len(made) > 5
        there = {ids[number] for one in made for number in whole(one).embeddings[:][:, 0].astype(int)}
        assert there <= {one.video_id for one in own}
    assert {one.epoch for one in found["val"]} == {None}


def test_every_epoch_has_others_put_in(examples, scenes, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    SCENES.parent.mkdir(parents=True)
    SCENES.write_text(json.dumps(scenes))
    found = with_longer({"train": examples}, Longer(seconds=[10, 40], empty=0.5), 4, 0)["train"]
    by_epoch = [[one for one in found if one.epoch == epoch] for epoch in range(4)]
    assert len({len(made) for made in by_epoch}) == 1 and len(by_epoch[0]) > COUNT / 2
    assert len(found) == len(examples) + 4 * len(by_epoch[0])
    put_in = [{(one.video_id, one.put_in.at, sum(map(len, one.put_in.parts))) for one in made} for made in by_epoch]
    assert all(len(one & other) < COUNT / 4 for one, other in itertools.combinations(put_in, 2))
    batches = plan_batches(found, 8, (0, 2))
    used = [found[number] for batch in batches for number in batch]
    assert len(used) == len(examples) + len(by_epoch[2]) and {one.epoch for one in used} == {None, 2}


def test_training_examples_are_made_long_alike_by_equal_draws(lengthened, scenes, numbered):
    others = Others(numbered, scenes)
    for example, _ in lengthened[:5]:
        one, two = (lengthened_example(example, others, (10.0, 60.0), 0.5, random.Random(1)) for _ in range(2))
        assert (one is None) == (two is None)
        if one and two:
            assert (whole(one).embeddings[:] == whole(two).embeddings[:]).all()
            assert [target.question for target in one.targets] == [target.question for target in two.targets]


@pytest.fixture(scope="module")
def asked_long(tmp_path_factory, scenes, questions):
    """A folder in which `answer` and `long` have run with models of random weights."""
    folder = tmp_path_factory.mktemp("long")
    settings(folder / FILE, {"long": TINY})
    draw = np.random.default_rng(0)

    def made(ids):
        for id in ids:
            count = scenes[id]["frames"]
            times = {"frame_index": pa.array(range(count), pa.int32()), "timestamp_s": np.arange(count) / 5}
            rows = pa.table({"video_id": [id] * count} | times)
            embeddings = draw.normal(size=(count, WIDTH)).astype(np.float16)
            yield shards.VideoRows(id, embeddings_table(rows, embeddings, schema_of(WIDTH)))

    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for path in (SCENES, QUESTIONS):
            path.parent.mkdir(parents=True, exist_ok=True)
        SCENES.write_text(json.dumps(scenes))
        pq.write_table(to_table(questions), QUESTIONS)
        answers = sorted({one.answer for one in questions})
        (QUESTIONS.parent / "ans2label.json").write_text(json.dumps({one: n for n, one in enumerate(answers)}))
        fingerprints = dict.fromkeys(scenes, "1")
        shards.update(
            Path("data/videos/embeddings"), schema=schema_of(WIDTH), shards=1, fingerprints=fingerprints, compute=made
        )
        save_decoder(Path("models/decoder"), make_decoder(), make_tokenizer())
        write_random_clip(Path("models/encoder"), WIDTH, text=READS)
        study = load_study()
        for name in TINY["models"]:
            torch.manual_seed(0)
            k = 4 if name == "memory" else None
            reader = Reader(ReaderConfig(WIDTH, 32, 16, 2, 1, 1, k, study.watching(name).timed, 40.0, len(answers)))
            save_reader(MODELS / name / "seed-0", reader, study.watching(name), answers)
            answer.main(name)
        long.main()
        torch.set_num_threads(threads)
        yield folder, pd.read_parquet(LONG)


def test_every_model_is_asked_the_same_questions_at_every_length(asked_long, questions):
    _, rows = asked_long
    asked = {key: frozenset(own["question_id"]) for key, own in rows.groupby(["model", "glimpses", "minutes"])}
    models = [("frame", 1), ("joint", 1), ("joint", 4), ("memory", 1)]
    assert asked.keys() == {(*model, minutes) for model in models for minutes in TINY["minutes"]}
    assert len(set(asked.values())) == 1 and not rows.duplicated(["question_id", "model", "glimpses", "minutes"]).any()
    kinds = {one.question_id: one.kind for one in questions}
    assert rows.drop_duplicates("question_id")["question_id"].map(kinds).value_counts().to_dict() == dict.fromkeys(
        KINDS, 3
    )


def test_with_nothing_put_in_answers_are_those_that_the_stage_answer_gives(asked_long):
    folder, rows = asked_long
    for name in TINY["models"]:
        given = pd.read_parquet(folder / OUT / name / "seed-0/answers.parquet")
        both = rows[(rows["model"] == name) & (rows["minutes"] == 0)].merge(given, on=["question_id", "glimpses"])
        assert len(both) == 18 * (2 if name == "joint" else 1)
        assert (both["prediction_x"] == both["prediction_y"]).all()
        assert np.allclose(both["log_prob_x"], both["log_prob_y"], atol=1e-5)
        assert (both["frames_x"] == both["frames_y"]).all()


def test_a_memory_holds_more_of_a_longer_video_and_glimpses_look_at_as_many_frames(asked_long):
    _, rows = asked_long
    frames = rows.groupby(["model", "glimpses", "minutes"])["frames"].mean()
    assert frames["joint", 4, 0] == frames["joint", 4, 3] == 8 and frames["frame", 1, 3] == 1
    assert frames["memory", 1, 3] - frames["memory", 1, 0] > 800  # random frames are all new
    memory = rows[rows["model"] == "memory"]
    assert (memory["once_gflop"] > 0).all() and (memory["once_gflop"] < memory["gflop"]).all()
    assert (rows[rows["model"] != "memory"]["once_gflop"] == 0).all()


def test_the_tables_have_every_kind_at_every_length(asked_long, questions):
    _, rows = asked_long
    found = by_length(rows, questions, ["joint"])
    figures = length_figures(found)
    assert figures.keys() == {"frame", "joint, n = 1", "joint, n = 4", "memory"}
    assert figures["memory"].keys() == {"0", "1", "3"}
    group = figures["memory"]["3"]["groups"]["kind count"]
    right = {one.question_id: one.answer for one in questions if one.kind == "count"}
    own = rows[(rows["model"] == "memory") & (rows["minutes"] == 3) & rows["question_id"].isin(list(right))]
    assert group["questions"] == 3
    assert group["accuracy"] == pytest.approx(100 * (own["prediction"] == own["question_id"].map(right)).mean())
    text = length_report(found)
    assert "| model: kind | 0 min | 1 min | 3 min |" in text and "18 of these questions" in text
    assert re.search(r"^\| `memory: GFLOP once a video` \| \d+\.\d+ \|", text, re.MULTILINE)
    assert "`joint, n = 4: GFLOP once a video`" not in text
