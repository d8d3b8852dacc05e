"""Attention that learns where things are: what it is told, its loss, and trainings with and without it."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.dataset.segments import Segment, to_table
from pipeline.features import shards
from pipeline.features.embeddings import VideoEmbeddings
from pipeline.features.shards import VideoRows
from studies.attend import cells, learn
from studies.attend.examples import Example
from studies.attend.grounding import LEAST_PAID, chosen_from, grounds_of, unlooked
from studies.attend.settings import CELLS, KINDS, load_attend
from studies.attend.truth import BOXES, SCENES, World
from studies.attend.vocabulary import END, Vocabulary
from tests.studies.test_attend import SCENE, SEGMENT, TIMES, with_study

CAPTIONS = ("a blue ring flashes on the left", "the ring turns blue", "a red star")
KNOWN = pd.DataFrame(
    {
        "object_id": "o0",
        "frame_index": range(3, 18),
        **{"x0": 0.0, "y0": 0.0, "x1": 10.0, "y1": 20.0},
        "visible": 1.0,
    }
)
T, H, W = 10, 4, 4


def grounds(kind="space-time", scene=SCENE):
    segment = Segment("v#0", "v", "train", 0.0, 4.0, CAPTIONS, None)
    example = Example(segment, VideoEmbeddings(TIMES - 0.2, np.zeros((T, H * W), np.float16)), range(T))
    vocabulary = Vocabulary.of(CAPTIONS, 1)
    world = World({"v": scene}, {"v": KNOWN})
    found = grounds_of([example], vocabulary, world, kind=kind, shape=(H, W), side=56, visible=0.5)
    return {vocabulary.words[id]: where for id, where in found[SEGMENT.segment_id].items()}


def test_attention_is_told_of_each_word_about_things_that_is_true_of_the_segment():
    found = {word: where.reshape(T, H, W) for word, where in grounds().items()}
    assert set(found) == {"blue", "ring", "flashes", "turns", "left"}  # no red, no star; "on" is about nothing
    there = np.zeros((T, H, W), bool)
    there[1:9, :2, 0] = True  # the left column's upper two, while the ring is there
    assert np.array_equal(found["ring"], there) and np.array_equal(found["left"], there)
    blue = (TIMES > 2) & (TIMES < 3.6)
    assert np.array_equal(found["blue"], there & blue[:, None, None])
    happens = (TIMES >= 1.7) & (TIMES <= 3.3)
    assert np.array_equal(found["flashes"], there & happens[:, None, None])  # not the thing before it flashes
    assert grounds(scene={**SCENE, "objects": []}) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_chosen_cannot_be_missed(kind):
    draw = np.random.default_rng(0)
    where = draw.random((5, 3, 2)) < 0.1
    shape = {"none": (1, 1), "temporal": (5, 1), "spatial": (1, 6), "space-time": (5, 6)}[kind]
    expected = np.zeros(shape, bool)
    for t, y, x in zip(*np.nonzero(where), strict=True):
        expected[min(t, shape[0] - 1), min(2 * y + x, shape[1] - 1)] = True
    assert np.array_equal(chosen_from(kind, where), expected.ravel())


def test_the_loss_is_that_of_a_loop_over_words_and_a_shorter_segment_fills_up_with_nothing():
    draw = torch.Generator().manual_seed(0)
    attention = torch.rand(2, 2, 3, 12, generator=draw).softmax(-1).requires_grad_(True)
    ids = [[[4, 5, END], [5, END]], [[4, 4, END], [6, 7, END]]]
    told = [{4: np.arange(12) % 3 == 0, 5: np.arange(12) < 2}, {4: np.arange(6) == 5}]
    total, words = unlooked(attention, ids, told)
    expected, count = 0.0, 0
    for b, captions in enumerate(ids):
        for r, caption in enumerate(captions):
            for place, id in enumerate(caption):
                if id in told[b]:
                    paid = sum(attention[b, r, place, n].item() for n in np.flatnonzero(told[b][id]))
                    expected, count = expected - math.log(paid + LEAST_PAID), count + 1
    assert (words, count) == (5, 5) and float(total.detach()) == pytest.approx(expected, rel=1e-5)
    total.backward()
    assert attention.grad is not None
    taught = {(b, r, place) for b, r, place, _ in attention.grad.nonzero().tolist()}
    assert taught == {(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 0, 1)}
    nothing, none = unlooked(attention, ids, [{}, {}])
    assert (float(nothing), none) == (0.0, 0)


# Trainings


@pytest.fixture
def dataset(workspace, one_thread) -> Path:
    """A folder, the current one, with cells of twelve videos of one blue ring, and what there is to know of them."""
    folder = with_study(
        workspace,
        {
            **{"learn.width": 16, "learn.batch_size": 4, "learn.epochs": 3, "learn.warmup_steps": 1},
            **{"learn.min_count": 1, "learn.patience": 99, "learn.learning_rate": 2e-2, "cells.size_px": 56},
        },
    )
    splits = ["train"] * 8 + ["val"] * 2 + ["test"] * 2
    videos = {f"v{i:02}": split for i, split in enumerate(splits)}
    SCENES.parent.mkdir(parents=True)
    segments = [Segment(f"{id}#0", id, split, 0.0, 4.0, CAPTIONS[:2], None) for id, split in videos.items()]
    pq.write_table(to_table(segments), learn.SEGMENTS)
    SCENES.write_text(json.dumps(dict.fromkeys(videos, SCENE)))
    pd.concat([KNOWN.assign(video_id=id) for id in videos]).to_parquet(BOXES)

    def compute(ids):
        for id in ids:
            values = np.random.default_rng(int(id[1:])).random((T, H, W, 5)).astype(np.float16)
            values[1:9, :2, 0, 0] += 4  # the ring
            values[5:9, :2, 0, 1] += 4  # is blue
            yield VideoRows(id, cells.to_table(id, values.reshape(T, -1), list(0.4 * np.arange(T + 1))))

    schema = cells.schema_of(H * W * 5, {"shape": json.dumps((H, W, 5))})
    shards.update(CELLS, schema=schema, shards=1, fingerprints=dict.fromkeys(videos, "1"), compute=compute)
    return folder


def trained(kind: str, grounding: float, epochs: int = 3, out: Path = Path("out")) -> tuple[bytes, list[float]]:
    """The weights as they are saved, and the mean loss of grounding in each epoch."""
    attend = load_attend()
    own = attend.learn.model_copy(update={"grounding": grounding, "epochs": epochs})
    learn.learn(kind, attend.model_copy(update={"learn": own}), 0, out)
    curve = next((out / "curves").rglob("train/grounding.tsv"), None)
    missed = [] if curve is None else [float(row.split("\t")[1]) for row in curve.read_text().splitlines()[1:]]
    return (out / learn.WEIGHTS).read_bytes(), missed


@pytest.mark.parametrize("kind", KINDS[1:])
def test_attention_learns_to_look_where_things_are(dataset, kind):
    _, missed = trained(kind, 3.0, epochs=10)
    assert len(missed) == 10 and missed[-1] < 0.8 * missed[0], missed


def test_off_it_reads_no_ground_truth_and_trains_as_without(dataset, capsys):
    off, missed = trained("space-time", 0.0)
    on, _ = trained("space-time", 1.0)
    assert off != on and not missed
    nothing, missed = trained("none", 1.0)  # has nothing to choose
    assert nothing == trained("none", 0.0)[0] and not missed
    SCENES.write_text("no JSON")
    assert trained("space-time", 0.0)[0] == off
    assert "teaches nothing" not in capsys.readouterr().out


@pytest.mark.parametrize("gone", [SCENES, BOXES])
def test_a_dataset_that_does_not_say_where_things_are_is_trained_on_without_and_says_so(dataset, gone, capsys):
    off, _ = trained("space-time", 0.0)
    gone.unlink()
    assert trained("space-time", 1.0) == (off, [])
    said = capsys.readouterr().out
    assert (
        said.count("learn space-time: learn.grounding 1 teaches nothing, for data/videos/annotations/boxes.parquet")
        == 1
    )
    assert "only the built-in dataset says where things are" in said


def test_a_run_that_was_killed_ends_with_the_weights_it_would_have_had(dataset):
    project = Path(__file__).parents[2]
    whole, missed = trained("space-time", 1.0, out=Path("whole"))
    killed = (  # in the middle of its third epoch
        "import os, signal, torch; from tests.studies.test_attend_grounding import *; torch.set_num_threads(1);"
        "begin = learn.AttendTraining.on_train_batch_start; learn.AttendTraining.on_train_batch_start = "
        "lambda self, *step: os.kill(os.getpid(), signal.SIGKILL) if (self.current_epoch, step[1]) == (2, 1) "
        "else begin(self, *step);"
        "trained('space-time', 1.0, out=Path('resumed'))"
    )
    environment = {**os.environ, "PYTHONPATH": str(project)}
    done = subprocess.run([sys.executable, "-c", killed], env=environment, capture_output=True)
    assert done.returncode == -signal.SIGKILL and not Path("resumed").exists(), done.stderr
    (work,) = Path("models/unfinished").iterdir()
    assert (work / "last.ckpt").exists()
    assert trained("space-time", 1.0, out=Path("resumed")) == (whole, missed)
