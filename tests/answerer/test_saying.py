"""Answers that a language model says: their probabilities, and what can be said at all."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertLMHeadModel

from pipeline.answerer.answering import answer
from pipeline.answerer.examples import collate, make_examples, read_texts
from pipeline.answerer.reader import OpenConfig, Reader, ReaderConfig
from pipeline.answerer.saying import Speaker
from pipeline.answerer.training import AnswerTraining, load_reader, save_reader, train_reader
from pipeline.answerer.watching import Watching
from pipeline.dataset.questions.question import Question
from pipeline.features.embeddings import VideoEmbeddings
from tests.colours import COLOURS, OPTIMIZATION, make_decoder, make_tokenizer

LAST = Watching("frame", "mean", 1, 1)
JOINT, MEAN, MAX, LSE = (Watching("sparse", fusion, 1, 1) for fusion in ("joint", "mean", "max", "lse"))
OPEN = OpenConfig(prefix=2, decoder_width=16, max_tokens=5)
ASKED: dict[str, list[tuple[str, ...]]] = {
    "a then": [(c,) for c in COLOURS],
    "then": [(c, "then", c) for c in COLOURS],
}  # and what may be said
LISTED = ["red", "green"]  # blue is not


def speaker_of(watching, config=OPEN, decoder=None):
    return Speaker(decoder or make_decoder(), make_tokenizer(), config, watching, where="models/decoder")


@pytest.fixture(scope="module")
def repeater():
    """A language model that has read texts which repeat a word: one of random weights says nothing."""
    torch.manual_seed(0)  # or whether it learns depends on the tests before
    decoder, tokenizer = make_decoder(), make_tokenizer()
    rows, wanted = torch.zeros(6, 7, dtype=torch.int64), torch.full((6, 7), -100)
    for row, (text, said) in enumerate((text, said) for text, says in ASKED.items() for said in says):
        first, last = (
            tokenizer(one)["input_ids"] for one in (f"{text} {said[0]} {said[0]}", f"{' '.join(said)} <end>")
        )
        rows[row, : len(first + last)] = torch.tensor(first + last)
        wanted[row, len(first) : len(first + last)] = torch.tensor(last)
    optimizer = torch.optim.Adam(decoder.parameters(), 1e-2)
    for _ in range(150):
        logits = decoder(input_ids=rows).logits[:, :-1]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted[:, 1:].flatten()).backward()
        optimizer.step()
    return decoder


def reader_of(watching):
    torch.manual_seed(0)
    return Reader(ReaderConfig(6, 32, 16, 2, 1, 1, None, watching.timed, 40.0, len(LISTED), OPEN))


def examples_of(count, **more):
    """Videos of 3 frames, the last of which has a colour; questions which, of one the answer is two words."""
    rng = np.random.default_rng(0)
    questions, videos = [], {}
    for v in range(count):
        own = 0.1 * rng.normal(size=(3, 6))
        colour = int(rng.integers(3))
        own[2, colour] += 3.0
        videos[f"v{v}"] = VideoEmbeddings(np.arange(3) / 5, own.astype(np.float16))
        named = COLOURS[colour]
        asked = {"a then": named, "then": f"{named} then {named}"}
        questions += [
            Question(f"{v} {text}", f"v{v}", text, answers=(said,), scores=(1.0,), **more)
            for text, said in asked.items()
        ]
    texts = read_texts([one.question for one in questions], make_decoder(), make_tokenizer(), None)
    texts = {text: replace(one, looks=torch.zeros(len(one.words), 6)) for text, one in texts.items()}
    return make_examples(questions, videos, texts, LISTED)


@pytest.mark.parametrize(("watching", "n"), [(JOINT, 1), (MEAN, 3), (MAX, 3), (LSE, 3)])
def test_an_answers_probability_is_the_product_of_its_words_in_the_fused_distributions_of_the_glimpses(watching, n):
    speaker = speaker_of(watching)
    torch.manual_seed(1)
    prefixes = torch.randn(2, n, 2, 16)
    questions, answers = ["a then", "a"], ["red then blue", "green"]
    log_probs, greedy = speaker.said(prefixes, questions, answers)
    embed, tokenizer = speaker.decoder.get_input_embeddings(), speaker.tokenizer
    for m, (question, said) in enumerate(zip(questions, answers, strict=True)):
        asked, total, likeliest = embed(torch.tensor(tokenizer(question)["input_ids"])), 0.0, True
        before: list[int] = []
        for token in [*tokenizer(said)["input_ids"], tokenizer.eos_token_id]:
            so_far = embed(torch.tensor(before, dtype=torch.int64)).expand(n, -1, -1)
            rows = torch.cat([asked.expand(n, -1, -1), prefixes[m], so_far], dim=1)
            own = speaker.decoder(inputs_embeds=rows).logits[:, -1].softmax(-1)
            match watching.fusion:
                case "max":
                    both = own.amax(0) / own.amax(0).sum()
                case "mean":
                    both = own.log().mean(0).softmax(-1)
                case _:
                    both = own.mean(0)
            total, likeliest = total + float(both.log()[token]), likeliest and int(both.argmax()) == token
            before = [*before, token]
        assert float(log_probs[m]) == pytest.approx(total, abs=1e-4) and bool(greedy[m]) == likeliest


@pytest.mark.parametrize(("watching", "n"), [(JOINT, 1), (MEAN, 3), (LSE, 3)])
def test_the_first_answers_are_the_likeliest_with_the_probabilities_that_training_gives_them(watching, n):
    speaker = speaker_of(watching)
    torch.manual_seed(2)
    prefixes = 3 * torch.randn(4, n, 2, 16)
    questions = ["a then", "a", "then a", "a then red"]
    found = speaker.answers(prefixes, questions, beams=5)
    for m, own in enumerate(found):
        assert 1 <= len(own) <= 5 and [value for _, value in own] == sorted((value for _, value in own), reverse=True)
        [alone] = speaker.answers(prefixes[m : m + 1], [questions[m]], beams=5)
        assert [text for text, _ in alone] == [text for text, _ in own]
        short = [(text, value) for text, value in own if len(text.split()) < OPEN.max_tokens - 1]
        for text, value in short:
            again, _ = speaker.said(prefixes[m : m + 1], [questions[m]], [text])
            assert float(again) == pytest.approx(value, abs=1e-4)


def learn(reader, speaker, train, val, folder):
    rate = replace(OPTIMIZATION, epochs=12, learning_rate=1e-2, batch_size=8)
    settings = {"glimpses": 1, "val_glimpses": 1, "grid": "ends", "evidence_loss": 0.0}
    files = {"name": "test", "work": folder / "work", "params_file": folder}
    return train_reader(reader, LAST, train, val, rate, speaker=speaker, **settings, **files)


def test_an_open_head_learns_to_say_what_is_not_in_the_list(tmp_path, repeater):
    train, val = examples_of(96)[:80], examples_of(96)[80:]
    reader, speaker = reader_of(LAST), speaker_of(LAST, decoder=repeater)
    before = [weight.clone() for weight in speaker.parameters()]
    learn(reader, speaker, train, val, tmp_path)
    assert all(torch.equal(old, new) for old, new in zip(before, speaker.parameters(), strict=True))
    save_reader(tmp_path / "saved", reader, LAST, LISTED)
    assert load_reader(tmp_path / "saved")[0].config == reader.config
    again, watching, answers = load_reader(tmp_path / "saved")
    settings = {"counts": [1], "grid": "ends", "batch_size": 4, "encoder_gflop": 1.0}
    rows = list(answer(again, watching, val, answers, speaker=speaker, **settings))
    wanted = {target.question.question_id: target.question.answer for one in val for target in one.targets}
    said = {row.question_id: row.prediction for row in rows}
    assert said.keys() == wanted.keys()
    assert sum(said[id] == wanted[id] for id in wanted) > 0.9 * len(wanted)
    assert "blue" in said.values() and "blue then blue" in said.values() and "blue" not in answers
    assert all((row.log_prob or 0) < 0 and row.first[0] == row.prediction and 1 < len(row.first) <= 5 for row in rows)
    assert all(row.gflop > 1.0 for row in rows)


def test_a_language_model_that_knows_no_answers_can_learn_with_the_reader(tmp_path):
    train, val = examples_of(96)[:80], examples_of(96)[80:]
    reader = reader_of(LAST)
    speaker = Speaker(make_decoder(), make_tokenizer(), OPEN, LAST, where="models/decoder", learns=True)
    before = [weight.clone() for weight in speaker.parameters()]
    outcome = learn(reader, speaker, train, val, tmp_path)
    assert not any(torch.equal(old, new) for old, new in zip(before, speaker.parameters(), strict=True))
    assert outcome.best_loss < 0.5


def test_options_are_ranked_and_counts_measured_beside_an_open_head():
    [first, *_] = examples_of(2)
    targets = (
        first.targets[0],
        replace(
            first.targets[0],
            question=replace(first.targets[0].question, question_id="c", options=("red", "blue", "a"), right_option=1),
            texts=first.targets[0].texts * 3,
            scores=torch.tensor([0.0, 1.0, 0.0]),
        ),
        replace(
            first.targets[1],
            question=replace(first.targets[1].question, question_id="n", answers=("2",), answer_type="count"),
            number=2.0,
        ),
    )
    example = replace(first, targets=targets)
    reader, speaker = reader_of(LSE), speaker_of(LSE)
    settings = {"counts": [2], "grid": "ends", "batch_size": 1, "encoder_gflop": 0.0}
    rows = {row.question_id: row for row in answer(reader, LSE, [example], LISTED, speaker=speaker, **settings)}
    assert set(rows["c"].first) == {"red", "blue", "a"} and np.exp(rows["c"].first_log_probs).sum() == pytest.approx(1)
    assert rows["n"].number is not None and rows[first.targets[0].question.question_id].number is None
    rate = replace(OPTIMIZATION, epochs=1)
    more = {"steps": 1, "glimpses": 1, "val_glimpses": 1, "grid": "ends", "params_file": "x", "evidence_loss": 0.0}
    module = AnswerTraining(reader, LSE, rate, speaker=speaker, **more)
    loss, _, count, _ = module._loss(collate([example]), 2, "ends")
    loss.backward()
    heads = (reader.open_head, reader.option_head, reader.count_head)
    assert count == 3 and all(head.weight.grad.any() for head in heads)
    assert all(weight.grad is None for weight in speaker.parameters())
    empty, _, none, _ = module._loss(collate([]), 2, "ends")
    assert float(empty.detach()) == 0.0 and none == 0


def test_what_several_right_answers_are_worth_weighs_their_losses():
    [example, *_] = examples_of(1)
    reader, speaker = reader_of(LAST), speaker_of(LAST)
    more = {"steps": 1, "glimpses": 1, "val_glimpses": 1, "grid": "ends", "params_file": "x", "evidence_loss": 0.0}
    module = AnswerTraining(reader, LAST, OPTIMIZATION, speaker=speaker, **more)

    def loss(answers, scores):
        target = example.targets[0]
        one = replace(target, question=replace(target.question, answers=answers, scores=scores))
        return float(module._loss(collate([replace(example, targets=(one,))]), 1, "ends")[0].detach())

    both = loss(("red", "blue"), (0.9, 0.3))
    assert both == pytest.approx(0.75 * loss(("red",), (1.0,)) + 0.25 * loss(("blue",), (0.3,)), rel=1e-4)
    assert loss((), ()) == 0.0


def test_a_language_model_that_cannot_go_on_or_does_not_fit_is_refused_in_a_line():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    masked = BertLMHeadModel(BertConfig(vocab_size=12, **sizes)).eval()
    with pytest.raises(ValueError, match="models/decoder: this bert sees later words, so it cannot generate them"):
        Speaker(masked, make_tokenizer(), OPEN, LAST, where="models/decoder")
    with pytest.raises(ValueError, match="has 16 numbers a word, the open head was trained for 8"):
        speaker_of(LAST, replace(OPEN, decoder_width=8))
    with pytest.raises(ValueError, match="reads 32 tokens: a prefix of 2 and an answer of 30 leave no place"):
        speaker_of(LAST, replace(OPEN, max_tokens=30))
    speaker = speaker_of(LAST)  # a question that is too long is cut
    assert len(speaker.answers(torch.zeros(1, 1, 2, 16), ["a then " * 40], beams=2)[0]) > 0
