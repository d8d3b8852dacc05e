"""An encoder that is trained with the reader, on the stored pictures of glimpses."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from pipeline.answerer.answering import answer
from pipeline.answerer.examples import collate, make_examples, read_texts
from pipeline.answerer.reader import Reader, ReaderConfig
from pipeline.answerer.seeing import TrainedEncoder
from pipeline.answerer.training import AnswerTraining, train_reader
from pipeline.answerer.watching import Watching, sampler, watch
from pipeline.dataset.questions.question import Question
from pipeline.features.embeddings import VideoEmbeddings
from pipeline.features.encoder import load_encoder
from tests.colours import COLOURS, OPTIMIZATION, make_decoder, make_tokenizer
from tests.random_clip import write_random_clip

JOINT, FRAME = Watching("sparse", "joint", 2, 1), Watching("frame", "mean", 1, 1)
FRAMES = 6


class Stored:
    """Pictures of one colour, other in each frame; it counts what it is asked for."""

    def __init__(self, fails_after=None):
        self.asked, self.fails_after = [], fails_after

    def __call__(self, video_id, numbers):
        self.asked.append((video_id, list(numbers)))
        if self.fails_after is not None and len(self.asked) > self.fails_after:
            raise OSError("the disk is gone")
        return [self.jpeg(video_id, number) for number in numbers]

    @staticmethod
    def jpeg(video_id, number):
        picture = np.full((32, 32, 3), 20, np.uint8)
        picture[..., 2 - colour_of(video_id)] = 120 + 20 * number
        return cv2.imencode(".jpg", picture)[1].tobytes()


def colour_of(video_id):
    return int(np.random.default_rng(int(video_id)).integers(3))


@pytest.fixture
def encoder_folder(tmp_path):
    write_random_clip(tmp_path / "encoder", 8)
    return tmp_path / "encoder"


def encoder_of(folder, stored=None):
    return TrainedEncoder(load_encoder(folder, device=torch.device("cpu"), dtype=torch.float32), stored or Stored())


def reader_of(watching):
    torch.manual_seed(0)
    return Reader(ReaderConfig(8, 32, 16, 2, 1, 1, None, watching.timed, 40.0, len(COLOURS)))


def examples_of(videos, start_s=0.0):
    """Each with two questions; the stored embeddings, which must not be looked at, are not numbers."""
    questions = [
        Question(f"{v} {text}", f"{v}", text, answers=(COLOURS[colour_of(v)],), scores=(1.0,), start_s=start_s)
        for v in videos
        for text in ("a", "a then")
    ]
    known = {f"{v}": VideoEmbeddings(np.arange(FRAMES) / 5, np.full((FRAMES, 8), np.nan, np.float16)) for v in videos}
    texts = read_texts(["a", "a then"], make_decoder(), make_tokenizer(), None)
    texts = {text: replace(one, looks=torch.zeros(len(one.words), 8)) for text, one in texts.items()}
    return make_examples(questions, known, texts, COLOURS)


def test_frames_are_the_encoders_embeddings_and_each_is_decoded_once_for_all_questions(encoder_folder):
    stored = Stored()
    encoder, batch = encoder_of(encoder_folder, stored), collate(examples_of(range(2), start_s=0.4))
    index = torch.tensor([[[[0, 3], [3, 1]], [[1, 1], [0, 3]]], [[[2, 2], [2, 2]], [[2, 2], [2, 2]]]])  # [2, 2, 2, 2]
    with torch.no_grad():
        found = encoder(batch, index)
    assert stored.asked == [("0", [2, 3, 5]), ("1", [4])]  # a question from 0.4 s on begins at frame 2
    frozen = load_encoder(encoder_folder, device=torch.device("cpu"), dtype=torch.float32)
    expected = frozen.embed([Stored.jpeg("0", n) for n in range(2, 6)], batch_size=4)
    assert found.shape == (2, 2, 2, 2, 8)
    assert np.allclose(found[0, 0, 1, 0], expected[3], atol=1e-2) and np.allclose(
        found[0, 1, 0, 1], expected[1], atol=1e-2
    )


@pytest.mark.parametrize("watching", [JOINT, FRAME, Watching("sparse", "lse", 2, 1)], ids=lambda one: one.fusion)
def test_gradients_reach_the_encoder_which_alone_is_looked_at(encoder_folder, watching):
    encoder, reader = encoder_of(encoder_folder), reader_of(watching)
    seen = watch(reader, collate(examples_of(range(2))), watching, sampler(watching, 2, "ends"), encoder=encoder)
    assert seen.features.isfinite().all()
    reader.list_head(seen.features).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in encoder.visual.conv1.parameters())


def fit(folder, work, stored=None, epochs=4):
    encoder, reader = encoder_of(folder, stored), reader_of(JOINT)
    rate = replace(OPTIMIZATION, epochs=epochs, batch_size=8, learning_rate=1e-2, optimizer="muon")
    more = {"glimpses": 1, "val_glimpses": 2, "grid": "ends", "name": "test", "params_file": work, "evidence_loss": 0.0}
    train, val = examples_of(range(16)), examples_of(range(16, 20))
    outcome = train_reader(reader, JOINT, train, val, rate, work=work, encoder=encoder, encoder_rate=0.1, **more)
    return reader, encoder, outcome


def test_training_changes_the_encoder_and_what_was_saved_answers_the_same(encoder_folder, tmp_path):
    before = {name: value.clone() for name, value in encoder_of(encoder_folder).state_dict().items()}
    reader, encoder, _ = fit(encoder_folder, tmp_path / "work")
    changed = {name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])}
    assert {"visual.conv1.weight", "visual.attnpool.positional_embedding"} <= changed or len(changed) > 10
    encoder.save(tmp_path / "saved", encoder_folder)
    again = encoder_of(tmp_path / "saved")
    settings = {"counts": [3], "grid": "ends", "batch_size": 2, "encoder_gflop": 1.0}
    examples = examples_of(range(16, 20))
    one, two = (list(answer(reader, JOINT, examples, COLOURS, encoder=own, **settings)) for own in (encoder, again))
    assert [row.first_log_probs for row in one] == [row.first_log_probs for row in two] and len(one) == 8


def test_a_killed_training_of_an_encoder_ends_with_the_weights_it_would_have_had(encoder_folder, tmp_path):
    stored = Stored()
    reader, encoder, _ = fit(encoder_folder, tmp_path / "whole", stored)
    with pytest.raises(OSError, match="the disk is gone"):
        fit(encoder_folder, tmp_path / "killed", Stored(fails_after=len(stored.asked) - 8))  # in the last epoch
    rest = Stored()
    reader_again, encoder_again, _ = fit(encoder_folder, tmp_path / "killed", rest)
    assert len(rest.asked) < len(stored.asked)
    for one, two in ((reader, reader_again), (encoder, encoder_again)):
        assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())


def test_the_encoder_learns_at_its_own_rate(encoder_folder, tmp_path):
    encoder, reader = encoder_of(encoder_folder), reader_of(JOINT)
    more = {"steps": 1, "glimpses": 1, "val_glimpses": 1, "grid": "ends", "params_file": tmp_path, "evidence_loss": 0.0}
    module = AnswerTraining(reader, JOINT, OPTIMIZATION, encoder=encoder, encoder_rate=0.1, **more)
    groups = module.configure_optimizers()["optimizer"].param_groups
    rates = {id(weight): group["initial_lr"] for group in groups for weight in group["params"]}
    assert {rates[id(weight)] for weight in encoder.parameters()} == {0.1 * OPTIMIZATION.learning_rate}
    assert {rates[id(weight)] for weight in reader.parameters()} == {OPTIMIZATION.learning_rate}
