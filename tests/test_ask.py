"""Questions about one's own video: by the command, and from Python."""

import json
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import ask
from pipeline.answerer.answering import answer
from pipeline.answerer.examples import make_examples, read_texts
from pipeline.answerer.reader import OpenConfig
from pipeline.answerer.seeing import TrainedEncoder
from pipeline.dataset.questions.question import Question
from pipeline.features.embeddings import VideoEmbeddings
from pipeline.language.decoder import load_decoder
from pipeline.serving.video_answerer import VideoAnswerer
from tests.conftest import run_ffmpeg
from tests.own_models import PARAMS, write_answerer, write_models
from tests.tiny_bert import write_bert


@pytest.fixture(scope="module")
def shots(tmp_path_factory) -> Path:
    """4 s: red, then blue from 2 s on."""
    path = tmp_path_factory.mktemp("shots") / "two shots.mkv"
    inputs = [part for c in ("red", "blue") for part in ("-f", "lavfi", "-i", f"color=c={c}:s=64x48:r=10:d=2")]
    run_ffmpeg(*inputs, "-filter_complex", "concat=n=2,noise=alls=4:all_seed=1", str(path))
    return path


@pytest.fixture
def here(workspace) -> Path:
    folder = workspace(PARAMS)
    write_models()
    write_answerer()
    return folder


@pytest.fixture
def run(typed):
    return partial(typed, ask)


def test_a_video_is_decoded_and_embedded_once_for_all_questions(here, shots, monkeypatch):
    answerer, heard = VideoAnswerer.load(), []
    seen = answerer.look(shots, lambda doing, done, of: heard.append((doing, done)))
    assert [done for doing, done in heard if doing == "embedding"] == list(range(20))
    monkeypatch.setattr(type(answerer.encoder), "embed_videos", None)
    together = answerer.ask(seen, ["is it red?", "what is it?", "is it red?"])
    assert [one.question for one in together] == ["is it red?", "what is it?", "is it red?"]
    assert dict(together[0].first) == pytest.approx(dict(together[2].first))
    alone = answerer.ask(seen, ["what is it?"])[0]
    assert alone.answer == together[1].answer and alone.probability == pytest.approx(together[1].probability)


def test_the_answer_is_the_studys_for_the_same_embeddings(here, shots):
    answerer = VideoAnswerer.load()
    seen = answerer.look(shots)
    found = answerer.ask(seen, ["what is it?"], at_s=3.0)[0]
    question = Question("q", "v", "what is it?", end_s=3.0)
    video = VideoEmbeddings(np.arange(20) / 5, seen.embeddings)
    texts = read_texts([question.question], *load_decoder(Path("models/decoder")), answerer.text_tower)
    [row] = answer(
        answerer.reader,
        answerer.watching,
        make_examples([question], {"v": video}, texts, answerer.answers),
        answerer.answers,
        counts=[1],
        grid="ends",
        batch_size=8,
        encoder_gflop=1.0,
    )
    assert dict(found.first) == pytest.approx(dict(zip(row.first, np.exp(row.first_log_probs), strict=True)))
    assert len(found.first) == 5
    assert (found.answer, found.frames) == (row.prediction, 15)
    assert sum(one.share for one in found.moments) == pytest.approx(sum(row.attention), abs=0.02)
    assert all(one.start_s <= one.frame / 5 <= one.end_s < 3.0 for one in found.moments)


def test_what_comes_later_changes_no_answer(here, shots):
    answerer = VideoAnswerer.load()
    seen = answerer.look(shots)
    early = answerer.ask(seen, ["what is it?"], at_s=2.0)[0]
    seen.embeddings[10:] = -seen.embeddings[10:]
    assert answerer.ask(seen, ["what is it?"], at_s=2.0)[0] == early != answerer.ask(seen, ["what is it?"])[0]


def test_the_command_prints_answers_and_moments(here, shots, run):
    code, out, err = run(shots, "what is it?", "is it red?")
    assert code == 0 and "ask: it chooses from 7 answers: yes, no, red" in err
    first, second = out.strip().split("\n\n")
    lines = first.splitlines()
    assert lines[0] == "what is it?" and second.startswith("is it red?\n")
    assert sum(" %  " in line for line in lines[1:6]) == 5 and lines[6] == "it looked, of 20 frames, mostly at"
    code, out, _ = run(shots, "what is it?", "--json")
    [one] = json.loads(out)
    assert one["answer"] == one["first"][0]["answer"] == lines[1].split(" %  ")[1]
    assert one["moments"][0].keys() == {"start_s", "end_s", "frame", "share"}


def test_an_encoder_that_was_trained_with_an_answerer_is_its_own(here, shots):
    shared = VideoAnswerer.load()
    write_answerer(Path("own"))
    with torch.no_grad():
        for weight in (changed := deepcopy(shared.encoder.visual)).parameters():
            weight.add_(0.1)
    TrainedEncoder(replace(shared.encoder, visual=changed), None).save(
        Path("own/seed-0/encoder"), Path("models/encoder")
    )
    own = VideoAnswerer.load(Path("own"), shared.encoder)
    assert not np.allclose(own.look(shots).embeddings, shared.look(shots).embeddings, atol=1e-2)
    assert np.allclose(own.text_tower(["red"]), shared.text_tower(["red"]))


def test_the_language_model_that_read_in_training_reads_what_is_asked(here, shots):
    write_answerer(Path("own"))
    write_bert(Path("own/seed-0/language_model"))  # of 16 numbers a word, too
    own, other = VideoAnswerer.load(Path("own")), VideoAnswerer.load()
    seen = own.look(shots)
    assert own.language_model.config.model_type == "bert" and other.language_model.config.model_type == "gpt2"
    first, second = (one.ask(seen, ["what is red"])[0] for one in (own, other))
    assert dict(first.first) != pytest.approx(dict(second.first), abs=1e-6)


def test_an_open_answerer_says_its_answers_in_words_of_its_own(here, shots, run):
    write_answerer(Path("said"), open=OpenConfig(prefix=2, decoder_width=16, max_tokens=4))
    code, out, err = run(shots, "what is it?", "--answerer", "said", "--json")
    assert code == 0 and "ask: it says answers of up to 4 tokens in words of its own" in err
    [one] = json.loads(out)
    said = {answer["answer"] for answer in one["first"]}
    assert said - {"yes", "no", "red", "green", "blue", "1", "2"} and len(said) == len(one["first"]) > 1
    assert one["answer"] == one["first"][0]["answer"] and one["moments"]


def test_an_answerer_of_glimpses_takes_any_number_of_them(here, shots, run):
    write_answerer(Path("other"), "sparse")
    code, out, _ = run(shots, "what is it?", "--answerer", "other", "--glimpses", 3)
    assert code == 0 and "it looked, of 6 frames, mostly at" in out
    write_answerer(Path("blind"), "blind")
    code, out, _ = run(shots, "what is it?", "--answerer", "blind")
    assert code == 0 and out.endswith("it looked at no frame\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone.mp4", "what?"], "ask: gone.mp4: no such file"),
        (["VIDEO", ""], "ask: the question is empty; expected some words"),
        (["VIDEO", "a " * 5000], "ask: the question has 10,000 characters; expected 4,000 at most"),
        (["VIDEO", "what?", "--at", "60"], "ask: 60 s is not in the video, which lasts 4 s; expected more than 0"),
        (["VIDEO", "what?", "--at", "nan"], "ask: nan s is not in the video, which lasts 4 s; expected more than 0"),
        (["VIDEO", "what?", "--glimpses", "0"], "ask: 0 glimpses; expected 1 to 1000"),
        (["VIDEO", "what?", "--answerer", "gone"], "ask: gone: no such folder"),
        (["VIDEO", "what?", "--answerer", "models"], "ask: models holds no reader that this revision can read"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(here, shots, run, arguments, message):
    code, out, err = run(*[str(shots) if one == "VIDEO" else one for one in arguments])
    assert (code, out) == (1, "") and err.startswith(message) and "\n" not in err


def test_without_an_answerer_the_command_that_trains_one_is_named(workspace, shots, run):
    workspace(PARAMS)
    assert run(shots, "what?")[2].endswith("holds no answerer yet; train one with: make questions, or name another's")


def test_a_question_longer_than_is_read_is_answered_with_a_warning(here, shots, run):
    code, _, err = run(shots, "is it red or " * 30)
    assert code == 0 and "ask: warning: only the first 32 of the question's 120 words are read" in err  # its decoder's
