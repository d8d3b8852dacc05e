"""The reader through every way of watching: what a question may see, and what it may not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from pipeline.answerer import reader as reader_module
from pipeline.answerer.alike import AlikeFrames
from pipeline.answerer.answering import answer, evidence_shares
from pipeline.answerer.examples import Text, asked, collate, make_examples, read_texts, text_width, word_looks
from pipeline.answerer.reader import (
    Layer,
    Reader,
    ReaderConfig,
    asking_flops,
    nearest,
    pairs_of_words,
    phases,
    spread,
    storing_flops,
    waves,
)
from pipeline.answerer.training import AnswerTraining, answer_loss, load_reader, save_reader, unfound
from pipeline.answerer.watching import Watching, fused, sampler, watch
from pipeline.dataset.questions.question import Question
from pipeline.dataset.segments import Segment
from pipeline.features.embeddings import VideoEmbeddings
from pipeline.features.lengthening import PutIn
from pipeline.language.decoder import load_decoder, refuse_unfit
from pipeline.language.text_reader import load_text_reader
from pipeline.training.loop import Optimization
from tests.random_clip import READS, write_random_clip
from tests.tiny_bert import write_bert

ANSWERS = ["red", "blue", "1", "2"]
WAYS = [
    Watching("blind", "mean", 2, 2),
    Watching("frame", "mean", 1, 2),
    Watching("sparse", "mean", 2, 2),
    Watching("sparse", "max", 2, 2),
    Watching("sparse", "lse", 2, 2),
    Watching("sparse", "joint", 2, 2),
    Watching("memory", "mean", 2, 2),
    Watching("memory", "mean", 2, 2, write_below=0.5),
]


def config(watching, k=None):
    return ReaderConfig(6, 5, 16, 2, 2, 1, k, watching.timed, 100.0, len(ANSWERS))


def reader_of(watching, k=None):
    torch.manual_seed(0)
    return Reader(config(watching, k)).eval()


def question_about(id, text, *, video="v", end_s=4.0, **more):
    more = {"answers": ("red",), "scores": (1.0,)} | more
    return Question(id, video, text, end_s=end_s, **more)


@pytest.fixture
def examples():
    rng = np.random.default_rng(0)
    videos = {
        name: VideoEmbeddings(np.arange(frames) / 5, rng.normal(size=(frames, 6)).astype(np.float16))
        for name, frames in (("v", 40), ("w", 12))
    }
    questions = [
        question_about("a", "what is it", evidence=((1.0, 2.0),)),
        question_about("b", "how many", answers=("2",), answer_type="count"),
        question_about("c", "which", options=("red", "green", "blue"), right_option=2, answers=("blue",)),
        question_about("d", "what is it then", video="w", end_s=1.0),
    ]
    texts = {}
    for question in questions:
        for text in [question.question, *(f"{question.question} {option}" for option in question.options or ())]:
            words = text.split()
            states = torch.stack([torch.full((5,), float(len(word))) for word in words])
            looks = torch.nn.functional.normalize(
                torch.tensor(rng.normal(size=(len(words), 6)), dtype=torch.float32), dim=-1
            )
            texts[text] = Text(torch.tensor([hash_of(word) for word in words]), states, looks)
    return make_examples(questions, videos, texts, ANSWERS)


def hash_of(word):
    return sum(map(ord, word))


def scores(reader, watching, examples, n=3, grid="ends"):
    batch = collate(examples)
    with torch.no_grad():
        seen = watch(reader, batch, watching, sampler(watching, n, grid))
        return fused(reader.list_head(seen.features), batch.lengths.shape[1], watching), seen


@pytest.mark.parametrize("watching", WAYS, ids=lambda one: f"{one.way}-{one.fusion}-{one.write_below}")
def test_a_question_is_answered_alike_alone_and_in_a_batch_and_sees_nothing_after_its_end(watching, examples):
    reader = reader_of(watching, k=4)
    together, _ = scores(reader, watching, examples)
    alone, _ = scores(reader, watching, examples[1:])
    assert torch.allclose(together[1, 0], alone[0, 0], atol=1e-5)
    [first, *_] = examples
    later = np.array(first.video.embeddings)
    later[20:] = 100.0  # after 4 s
    changed, _ = scores(reader, watching, [replace(first, video=VideoEmbeddings(first.video.timestamps, later))])
    assert torch.allclose(together[0, :2], changed[0, :2], atol=1e-5)


@pytest.mark.parametrize("watching", WAYS, ids=lambda one: f"{one.way}-{one.fusion}-{one.write_below}")
def test_a_question_sees_nothing_before_its_start(watching, examples):
    [of_video, *_] = examples
    texts = {
        text: one for target in of_video.targets for text, one in zip(asked(target.question), target.texts, strict=True)
    }
    questions = [replace(target.question, start_s=2.0) for target in of_video.targets]
    # One of them may see all: what it sees must not reach the others.
    questions[1] = replace(questions[1], start_s=0.0)
    reader, found = reader_of(watching), []
    for sign in (1, -1):
        own = np.array(of_video.video.embeddings)
        own[:10] *= sign  # before 2 s
        video = VideoEmbeddings(of_video.video.timestamps, own)
        examples = make_examples(questions, {"v": video}, texts, ANSWERS)
        assert [(one.first, len(one.targets)) for one in examples] == [(10, 2), (0, 1)]
        found.append(scores(reader, watching, examples))
    assert torch.allclose(found[0][0][0], found[1][0][0], atol=1e-5)
    seen = found[0][1]
    assert (seen.time_s[0, 0][seen.allowed[0, 0]] >= 2.0).all()


def test_a_question_between_two_frames_sees_the_one_that_is_on_the_screen(examples):
    [of_video, *_] = examples
    target = of_video.targets[0]
    question = replace(target.question, start_s=2.05, end_s=2.15)
    [example] = make_examples([question], {"v": of_video.video}, {question.question: target.texts[0]}, ANSWERS)
    assert (example.first, example.targets[0].frames) == (10, 1)


def test_blind_sees_nothing_frame_the_last_and_a_memory_everything(examples):
    def changes(watching, at, n=3):
        reader = reader_of(watching)
        [first, *_] = examples
        other = np.array(first.video.embeddings)
        other[at] = -other[at]
        before, _ = scores(reader, watching, [first], n)
        after, _ = scores(reader, watching, [replace(first, video=VideoEmbeddings(first.video.timestamps, other))], n)
        return not torch.allclose(before[0, 0], after[0, 0], atol=1e-6)

    blind, frame, sparse, *_, memory, _ = WAYS
    assert [changes(blind, at) for at in (0, 9, 19)] == [False, False, False]
    assert [changes(frame, at) for at in (0, 9, 19)] == [False, False, True]
    # Glimpses at both ends and in the middle: frames 0 and 2, 8 and 10 (or 9 and 11), 17 and 19.
    assert [changes(sparse, at) for at in (0, 5, 19)] == [True, False, True]
    assert all(changes(memory, at) for at in (0, 5, 9, 19))


def test_glimpses_that_answer_alone_cannot_know_their_order_and_joint_ones_do(examples):
    [first, *_] = examples
    turned = np.array(first.video.embeddings)
    turned[:20] = turned[:20][[*range(10, 20), *range(10)]]  # two halves exchanged
    other = replace(first, video=VideoEmbeddings(first.video.timestamps, turned))
    for watching in WAYS[2:6]:
        reader = reader_of(watching)
        # Two glimpses, one in each half, at the same places of their halves.
        one, _ = scores(reader, watching, [first], n=2, grid="clipbert")
        two, _ = scores(reader, watching, [other], n=2, grid="clipbert")
        assert torch.allclose(one[0, 0], two[0, 0], atol=1e-5) == (watching.fusion != "joint")


def test_a_memory_keeps_what_is_new_and_its_attention_is_told_by_frame(examples):
    watching = WAYS[-1]
    _, seen = scores(reader_of(watching), watching, examples)
    assert seen.allowed.any(-1)[0, :2].all()
    assert (seen.time_s[0, 0][seen.allowed[0, 0]] < 4.0).all()
    assert (seen.attended >= 0).all() and (seen.attended.sum(-1) <= 1 + 1e-5).all()
    assert (seen.attended[~seen.allowed] == 0).all()


def test_before_anything_is_learned_a_question_looks_at_the_frame_that_its_words_name(examples):
    watching = WAYS[-2]
    [first, *_] = examples
    named = np.eye(6)[3]
    shown = np.tile(np.eye(6)[0], (40, 1)) + 0.1 * np.array(first.video.embeddings)
    shown[7] = named
    texts = tuple(replace(text, looks=torch.eye(6)[[3] * len(text.words)]) for text in first.targets[0].texts)
    one = replace(
        first,
        video=VideoEmbeddings(first.video.timestamps, shown.astype(np.float16)),
        targets=(replace(first.targets[0], texts=texts),),
    )
    _, seen = scores(reader_of(watching), watching, [one])
    assert int(seen.attended[0, 0].argmax()) == 7
    blind = replace(one, targets=(replace(one.targets[0], texts=(replace(texts[0], looks=0 * texts[0].looks),)),))
    _, unseen = scores(reader_of(watching), watching, [blind])
    assert unseen.attended[0, 0, 7] < 0.5 * seen.attended[0, 0, 7]


def test_which_of_two_words_found_what_is_older_is_told_by_a_sign():
    # Two words, each of which attends to the other; the first found the frame of 5 s ago, the second that of 1 s ago.
    paid = torch.tensor([[0.0, 0.4], [0.2, 0.0]]).view(1, 1, 1, 2, 2)
    other = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).view(1, 1, 1, 2, 2)
    found = Layer._earlier(paid, torch.tensor([[[1.0, 5.0]]]), other)[0, 0, 0]
    assert found.tolist() == pytest.approx([-np.log1p(4.0), np.log1p(4.0)])


def test_frames_look_back_and_never_ahead(examples):
    watching = WAYS[-2]
    reader, embeddings = reader_of(watching), torch.randn(1, 9, 6, generator=torch.Generator().manual_seed(0))

    def stored(sign, at):
        changed = embeddings.clone()
        changed[0, at] *= sign
        with torch.no_grad():
            return reader.remember(changed, changed, torch.arange(9.0)[None]).values[0][0]  # [H, T, d]

    before, after = stored(1, 4), stored(-1, 4)
    same = torch.isclose(before, after, atol=1e-6).all(-1).all(0).tolist()
    assert same[:4] == [True] * 4 and not any(same[4:])


def test_an_hours_frames_look_back_in_chunks_as_they_would_at_once(monkeypatch):
    reader, generator = reader_of(WAYS[-2], k=4), torch.Generator().manual_seed(0)
    embeddings, times = torch.randn(2, 23, 6, generator=generator), torch.arange(23.0).expand(2, -1)
    with torch.no_grad():
        at_once = reader.remember(embeddings, embeddings, times)
        monkeypatch.setattr(reader_module, "CHUNK", 5)
        in_chunks = reader.remember(embeddings, embeddings, times)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(at_once.values, in_chunks.values, strict=True))


def test_attention_to_the_nearest_alone_is_that_to_all_frames_with_the_others_masked():
    logits = torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(0))
    found, at = nearest(logits, 4)
    paid = spread(found.softmax(-1), at, 9)
    least = logits.sort(dim=-1).values[..., 5:6]
    assert torch.allclose(paid, logits.masked_fill(logits < least, -torch.inf).softmax(-1))
    assert nearest(logits, 9)[1] is None and (spread(logits, None, 9) == logits).all()


def test_frames_that_were_put_in_are_read_in_their_place(examples):
    others = PutIn(5, [np.ones((3, 6), np.float16) * number for number in (1, 2, 3)])
    [target, *_] = examples[0].targets
    made = replace(examples[0], put_in=others, targets=(replace(target, frames=target.frames + 9),))
    rows, times = made.read()
    own = examples[0].video.embeddings[:]
    assert (rows == np.concatenate([own[:5], *others.parts, own[5:20]])).all()
    assert np.allclose(times, np.arange(29) / 5) and made.longest_s == pytest.approx(5.6)


def world_of_things(draw):
    """Segments about six things, each in ten videos, beneath something in every frame that is larger."""
    things, segments, videos = draw.normal(size=(6, 6)), [], {}
    names = [f"{colour} {shape}" for colour in ("red", "blue") for shape in ("star", "disc", "ring")]
    for v in range(60):
        rows = things[v % 6] + draw.normal(size=6) * np.array([0.1, 0.1, 0.1, 0.1, 3, 3])
        videos[f"{v}"] = VideoEmbeddings(np.arange(8) / 5, rows[None].repeat(8, axis=0).astype(np.float16))
        # Every tenth segment of a kind would not be rare: most are about nothing that is named.
        segments.append(Segment(f"{v}#0", f"{v}", "train", 0.0, 0.8, (f"a {names[v % 6]} {v}",), None))
        segments += [Segment(f"{v}#{n}", f"{v}", "train", 0.8, 1.6, (f"nothing {v} {n}",), None) for n in range(1, 4)]
    return segments, videos


def test_the_loss_on_the_keys_teaches_frames_of_different_videos_about_the_same_to_find_each_other():
    segments, videos = world_of_things(np.random.default_rng(1))
    alike = AlikeFrames(segments, videos, 2)
    reader = reader_of(WAYS[5])
    optimizer = torch.optim.Adam(reader.parameters(), lr=1e-2)
    losses = []
    for step in range(60):
        losses.append(alike.loss(reader, np.random.default_rng(step)))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 1.0
    assert alike.loss(reader, np.random.default_rng(0)) == alike.loss(reader, np.random.default_rng(0))


@pytest.mark.parametrize("watching", [*WAYS[1:6:2], WAYS[-1]], ids=lambda one: f"{one.way}-{one.fusion}")
def test_what_attention_misses_of_the_evidence_is_a_loss_that_turns_it_there(watching, examples):
    reader, batch = reader_of(watching), collate(examples)
    sample, questions = sampler(watching, 8, "ends"), batch.lengths.shape[1]
    optimizer = torch.optim.Adam(reader.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        seen = watch(reader, batch, watching, sample, evidence=True)
        assert seen.findable is not None and seen.found is not None
        assert (seen.found[~seen.findable] == 0).all()
        losses.append(unfound(seen, questions))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    of_last_frame = watching.way == "frame"  # which is not in the evidence
    assert seen.findable.any() != of_last_frame
    assert (losses[-1] < 0.7 * losses[0]) != of_last_frame


def test_a_masked_language_model_reads_both_ways_and_is_told_where_a_text_ends(tmp_path):
    write_bert(tmp_path / "bert")
    model, tokenizer = load_text_reader(tmp_path / "bert")
    assert text_width(model) == 32
    texts = read_texts(["what is it", "what is red", "red", "what \u200d is"], model, tokenizer, None, batch_size=4)
    alone = read_texts(["red"], model, tokenizer, None)["red"]  # padded before, not here
    assert texts["red"].states.shape == (1, 32) and torch.allclose(texts["red"].states, alone.states, atol=1e-5)
    one, other = texts["what is it"].states, texts["what is red"].states
    assert torch.allclose(one[:2, :16], other[:2, :16]) and not torch.allclose(one[:2, 16:], other[:2, 16:], atol=1e-4)
    ids = tokenizer("what is it", return_tensors="pt")  # with [CLS] and [SEP]
    with torch.no_grad():
        expected = model(**ids).last_hidden_state[0, 1:-1]
    assert torch.allclose(one[:, 16:], expected, atol=1e-5)
    assert texts["what \u200d is"].states.isfinite().all()
    with pytest.raises(ValueError, match=r"tokenizer has no end token|sees later words"):
        refuse_unfit(load_decoder(tmp_path / "bert")[0], "bert")


def test_an_encoder_that_cannot_read_leaves_questions_without_looks(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_random_clip(tmp_path / "reads", 8, text=READS)
    write_random_clip(tmp_path / "cannot", 8, text=READS | {"hf_tokenizer_name": "x"})
    looks = word_looks(tmp_path / "reads", "cpu")(["star", "red"])
    assert looks.shape == (2, 8) and np.allclose(np.linalg.norm(looks, axis=1), 1, atol=1e-5)
    assert not word_looks(tmp_path / "cannot", "cpu")(["star", "red"]).any()


def test_the_losses_of_two_processes_add_up_to_that_of_one(examples, tmp_path):
    def part(some):
        loss, right, count, lost = module._loss(collate(some), 1, "ends")
        return float(loss.detach()), float(right), count, float(lost.detach())

    watching = WAYS[-1]
    rate = Optimization(1, 2, "adamw", 1e-3, 0.0, 1.0, 1, 1, "32-true", 1, "cpu", 0)
    more = {"steps": 1, "glimpses": 1, "val_glimpses": 1, "grid": "ends", "evidence_loss": 0.3}
    module = AnswerTraining(reader_of(watching), watching, rate, params_file=tmp_path, **more)
    whole, first, second = part(examples), part(examples[:1]), part(examples[1:])
    assert whole == pytest.approx([a + b for a, b in zip(first, second, strict=True)], rel=1e-4)
    assert part([]) == (0.0, 0.0, 0, 0.0)


@pytest.mark.parametrize("watching", WAYS, ids=lambda one: f"{one.way}-{one.fusion}-{one.write_below}")
def test_answers_have_what_a_reader_of_them_wants_to_know(watching, examples):
    reader, settings = reader_of(watching), {"counts": [1, 4], "grid": "ends", "batch_size": 2, "encoder_gflop": 1.0}
    rows = list(answer(reader, watching, examples, ANSWERS, **settings))
    assert sorted((row.question_id, row.glimpses) for row in rows) == [(id, n) for id in "abcd" for n in (1, 4)]
    for row in rows:
        options = ("red", "green", "blue") if row.question_id == "c" else ANSWERS
        assert row.prediction == row.first[0] and set(row.first) == set(options)
        assert (row.log_prob or 0) < 0 and (row.number is not None) == (row.question_id == "b")
        seen = {"blind": 0, "frame": 1, "sparse": 2 * row.glimpses}.get(watching.way)
        assert row.frames == seen or seen is None
    asked_of_v = {row.question_id: row for row in rows if row.glimpses == 4}
    assert (asked_of_v["a"].evidence_time == pytest.approx(0.25)) or watching.way == "blind"
    encoded = {"blind": 0, "frame": 1, "sparse": 8, "memory": 20 / 3}[watching.way]
    assert asked_of_v["a"].gflop == pytest.approx(encoded, abs=0.01)
    for row in rows:  # of a memory, what is done once for all of a video's questions is told apart
        once = (5.0 if row.question_id == "d" else 20 / 3) if watching.way == "memory" else 0.0
        assert row.once_gflop == pytest.approx(once, abs=0.01) and 0 <= row.once_seconds <= row.seconds
        assert row.gflop > row.once_gflop and (row.once_seconds > 0) == (watching.way == "memory")


def test_a_question_costs_a_memory_only_the_frames_that_it_kept(examples):
    [keeps_all, keeps_new] = [replace(WAYS[-1], write_below=below) for below in (None, -0.99)]
    settings = {"counts": [1], "grid": "ends", "batch_size": 2, "encoder_gflop": 0.0}
    cost = {}
    for watching in (keeps_all, keeps_new):
        rows = {row.question_id: row for row in answer(reader_of(watching), watching, examples, ANSWERS, **settings)}
        cost[watching] = rows["a"].frames, rows["a"].gflop - rows["a"].once_gflop, rows["a"].once_gflop
    assert cost[keeps_all][0] == 20 and cost[keeps_new][0] == 1
    assert cost[keeps_all][1] > cost[keeps_new][1]
    assert cost[keeps_all][2] > 20 * cost[keeps_new][2] > 0  # more: each frame looks at those before it


def test_the_evidences_share_counts_overlaps_once(examples):
    target = examples[0].targets[0]
    many = replace(target, question=replace(target.question, evidence=((1.0, 2.0), (1.5, 3.0))))
    times, attention = np.array([0.0, 1.2, 2.5, 3.5]), np.array([0.1, 0.2, 0.3, 0.2])
    assert evidence_shares(many, times, attention) == (pytest.approx(0.5 / 0.8), pytest.approx(0.5))
    assert evidence_shares(many, times, 0 * attention) == (None, None)
    later = replace(many, question=replace(many.question, start_s=1.0))
    assert evidence_shares(later, times, attention)[1] == pytest.approx(2 / 3)


def test_ages_of_pairs_of_frames_are_those_of_each_pair_alone():
    torch.manual_seed(0)
    ages = reader_of(WAYS[5]).layers[0].ages.double()
    torch.nn.init.normal_(ages.bias.weight)
    time_s = (1000 * torch.rand(2, 9, dtype=torch.float64)).sort().values
    since_s = time_s[:, 4:, None] - time_s[:, None]
    there = (since_s >= 0)[:, None]  # later frames are not looked at
    since_s = since_s.clamp(min=0)
    paid = torch.rand(2, 2, 5, 9, dtype=torch.float64) * there
    oldest_s = 300.0
    assert (since_s > oldest_s).any() and (since_s < oldest_s).any()
    each = waves(since_s, oldest_s)  # [V, T', T, WAVES]
    pair = phases(time_s)[:, 4:], phases(time_s), since_s[:, None], oldest_s
    assert torch.allclose(ages.biases(*pair) * there, ages.bias(each).permute(0, 3, 1, 2) * there)
    assert torch.allclose(ages.means(paid, *pair), torch.einsum("vhij,vijw->vhiw", paid, each))


def test_what_words_name_together_is_compared_with_frames_as_their_sum_would_be():
    draw = torch.Generator().manual_seed(0)
    looks = F.normalize(torch.randn(2, 3, 5, 8, generator=draw, dtype=torch.float64), dim=-1)
    looks[0, 0, 1:] = 0.0  # words that look like nothing
    frames = F.normalize(torch.randn(2, 7, 8, generator=draw, dtype=torch.float64), dim=-1)
    mixed = torch.rand(2, 3, 4, 5, 5, generator=draw, dtype=torch.float64).softmax(-1)
    mixed[0, 0, 0, 1] = torch.tensor([0.0, 1, 0, 0, 0])  # that attends to such a word alone
    mixed.requires_grad_()
    summed = F.normalize(looks[:, :, None] + mixed @ looks[:, :, None], dim=-1)
    expected = summed @ frames[:, None, None].transpose(-1, -2)
    found = pairs_of_words(looks, mixed) @ looks[:, :, None] @ frames[:, None, None].transpose(-1, -2)
    assert torch.allclose(found, expected, atol=1e-12)
    weights = torch.randn(expected.shape, generator=draw, dtype=torch.float64)
    weights[0, 0, 0, 1] = 0.0  # a sum of length 0 has no direction to learn
    [slow], [fast] = (torch.autograd.grad((values * weights).sum(), mixed) for values in (expected, found))
    assert fast.isfinite().all() and torch.allclose(fast, slow, atol=1e-9)


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize(("frames", "chunk"), [(10, 256), (10, 4), (1, 256)])
def test_flops_are_those_that_torch_counts(monkeypatch, frames, chunk, timed):
    monkeypatch.setattr("pipeline.answerer.reader.CHUNK", chunk)
    reader = Reader(replace(reader_of(WAYS[5]).config, timed=timed))
    words = 7
    with torch.no_grad(), FlopCounterMode(display=False) as stored:
        memory = reader.remember(torch.zeros(1, frames, 6), torch.zeros(1, frames, 6), torch.zeros(1, frames))
    there = torch.ones(1, 1, words, dtype=torch.bool)
    allowed = torch.ones(1, 1, frames, dtype=torch.bool)
    ids = torch.zeros(1, 1, words, dtype=torch.int64)
    states, looks = torch.zeros(1, 1, words, 5), torch.zeros(1, 1, words, 6)
    with torch.no_grad(), FlopCounterMode(display=False) as asked:
        read = reader(ids, states, looks, there, memory, allowed, torch.zeros(1, 1, frames))
        reader.list_head(read.features)
    with torch.no_grad(), FlopCounterMode(display=False) as blind:
        reader.list_head(reader(ids, states, looks, there, None, None, None).features)
    assert storing_flops(reader.config, frames) == stored.get_total_flops()
    assert asking_flops(reader.config, words, frames) == asked.get_total_flops()
    assert asking_flops(reader.config, words, 0) == blind.get_total_flops()


def test_soft_labels_are_learned_by_binary_cross_entropy_and_others_by_cross_entropy():
    logits = torch.tensor([0.5, -1.0, 2.0])
    hard, soft = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.3, 0.0, 1.0])
    assert answer_loss(logits, hard) == pytest.approx(-float(logits.log_softmax(0)[2]))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, soft, reduction="sum")
    assert answer_loss(logits, soft) == expected
    assert answer_loss(logits, torch.zeros(3)) == 0.0
    every = torch.stack([hard, soft, torch.zeros(3)])
    each = torch.stack([answer_loss(logits, wanted) for wanted in every])
    assert torch.equal(answer_loss(logits.expand(3, -1), every), each)


def test_a_saved_reader_answers_as_before_and_what_is_none_is_refused(tmp_path, examples):
    watching = WAYS[5]
    reader = reader_of(watching)
    save_reader(tmp_path / "saved", reader, watching, ANSWERS)
    again, saved, answers = load_reader(tmp_path / "saved")
    assert (saved, answers) == (watching, ANSWERS)
    assert torch.equal(scores(reader, watching, examples)[0], scores(again, saved, examples)[0])
    with pytest.raises(ValueError, match="holds no reader that this revision can read"):
        load_reader(tmp_path)


def test_ages_beyond_those_in_training_count_as_the_oldest_there(examples):
    reader, [first, *_] = reader_of(WAYS[-2]), examples

    def stored_at(times):
        embeddings = torch.tensor(np.array(first.video.embeddings[:3], np.float32))[None]
        with torch.no_grad():
            return reader.remember(embeddings, embeddings, torch.tensor([times])).values[0]

    assert torch.equal(stored_at([0.0, 200.0, 500.0]), stored_at([0.0, 3000.0, 9000.0]))
    assert not torch.equal(stored_at([0.0, 2.0, 5.0]), stored_at([0.0, 30.0, 90.0]))
