"""The frame-parallel pass against a slow, obvious one: frame by frame, token by token, in Python loops."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.captioner import mapper as mapper_module
from pipeline.captioner.keyframes import soft_keyframes
from pipeline.captioner.mapper import Distractors, MapperConfig, TransformerMapper
from pipeline.captioner.memory import AGE_BUCKETS, Moments, age_bucket, novel
from pipeline.params import load_params
from tests.memory_config import memory_config


def slow_prefix(mapper: TransformerMapper, frames: torch.Tensor, end: int, start: int) -> torch.Tensor:
    """The prefix [P, D] of the segment [start, end] of one sequence, frames [T, E], computed frame by frame."""
    # layer -> [(frame, keys, values, whether it outlives its segment)]
    stored: dict[int, list] = {number: [] for number in mapper.memory.layers}
    for t, outlives in zip(range(end), slow_novel(frames, mapper.memory.write_below), strict=False):
        _slow_frame(mapper, frames[t], t, 0, stored, store=True, outlives=outlives)
    prefix = _slow_frame(mapper, frames[end], end, start, stored, store=False)
    if not mapper.memory.keyframes:
        return prefix
    nothing: dict[int, list[torch.Tensor]] = {number: [] for number in mapper.memory.layers}
    keyframes = _slow_keyframes(mapper, frames, end, start, stored)
    return torch.cat([*(_slow_frame(mapper, frame, 0, 0, nothing, store=False) for frame in keyframes), prefix])


def _slow_keyframes(mapper, frames, end, start, stored):
    """The soft keyframes [E] of a segment: its frames laid out as stretches of weight, cut into equal parts."""
    count, top = mapper.memory.keyframes, max(mapper.memory.layers)
    tokens = mapper.config.clip_tokens + mapper.config.prefix_tokens
    remembered = [entry for entry in stored[top][-(mapper.memory.max_entries // tokens) :] if entry[0] >= start]
    if not remembered:
        return [frames[end]] * count
    attended: dict[int, torch.Tensor] = {}
    _slow_frame(mapper, frames[end], end, start, stored, store=False, attended=attended)
    paid = torch.stack([attended[frame] for frame, *_ in remembered])
    weights = 0.5 * paid / paid.sum() + 0.5 / len(remembered)
    keyframes = [torch.zeros_like(frames[0]) for _ in range(count)]
    begin = torch.zeros((), dtype=weights.dtype)
    for (frame, *_), weight in zip(remembered, weights, strict=True):
        for part in range(count):
            low, high = torch.clamp(begin, min=part / count), torch.clamp(begin + weight, max=(part + 1) / count)
            if high > low:
                keyframes[part] = keyframes[part] + count * (high - low) * frames[frame]
        begin = begin + weight
    return keyframes


def _slow_frame(mapper, embedding, now, segment_start, stored, *, store, outlives=True, attended=None):
    """The prefix of one frame; `attended` takes what the top memory layer's attention pays to each earlier frame."""
    config = mapper.config
    x = torch.cat([mapper.project(embedding).view(config.clip_tokens, -1), mapper.constants])  # [N, D]
    for number, layer in enumerate(mapper.layers, start=1):
        attention = layer.attention
        y = layer.norm1(x)
        queries = attention.query(y).view(len(y), config.heads, -1)
        keys, values = attention.key_value(y).chunk(2, dim=-1)
        keys, values = keys.reshape(queries.shape), values.reshape(queries.shape)
        queries, keys = F.normalize(queries, dim=-1), F.normalize(keys, dim=-1)
        rows = []
        if attention.memory is not None and attended is not None:
            attended.clear()
            attended.update({frame: x.new_zeros(()) for frame, *_ in stored[number]})
        for n in range(len(y)):
            heads = []
            for h in range(config.heads):
                local = [
                    (keys[m, h] @ queries[n, h] * attention.log_scale[h].exp(), values[m, h]) for m in range(len(y))
                ]
                far, features_read = [], 0.0
                if attention.memory is not None:
                    far, features_read = _slow_retrieval(
                        attention, queries[n, h], h, now, segment_start, stored[number]
                    )
                out, paid = _slow_combine(attention.memory, h, local, far)
                heads.append(out + features_read)
                for (_, _, frame), weight in zip(far, paid, strict=True):
                    if attended is not None:
                        attended[frame] = attended[frame] + weight
            rows.append(torch.cat(heads))
        if attention.memory is not None and store:
            detach = mapper.memory.gradient == "detached"
            keys, values = (keys.detach(), values.detach()) if detach else (keys, values)
            stored[number].append((now, keys, values, outlives))
        x = x + attention.out(torch.stack(rows))
        x = x + layer.feed_forward(layer.norm2(x))
    return mapper.output(x[config.clip_tokens :])


def slow_novel(frames, below):
    """Whether each of frames [T, E] outlives its segment: the first, and what is unlike the last that did."""
    kept: list[int] = []
    for t, frame in enumerate(frames):
        if below is None or not kept or F.cosine_similarity(frame, frames[kept[-1]], dim=0) < below:
            kept.append(t)
    return [t in kept for t in range(len(frames))]


def _slow_retrieval(attention, query, h, now, segment_start, stored):
    """The neighbours [(logit, value, frame)], and what is added to the values for how good those from before are."""
    memory, config = attention.memory, attention.memory.config
    tokens = len(stored[0][1]) if stored else 1
    capacity = config.max_entries // tokens
    recent = stored[-capacity:]
    outlived = recent if config.write_below is None else [entry for entry in stored if entry[3]][-capacity:]

    def candidates(entries):
        keys_of = [(frame, keys[m, h], values[m, h]) for frame, keys, values, _ in entries for m in range(len(keys))]
        return sorted(keys_of, key=lambda candidate: -(candidate[1] @ query).item())

    within = candidates([entry for entry in recent if entry[0] >= segment_start])
    before = candidates([entry for entry in outlived if entry[0] < segment_start])
    excess = max(0.0, math.log(len(before) / config.usual_keys)) if before and config.usual_keys else 0.0
    features_read = 0.0
    if config.match_features:
        cosines = [key @ query for _, key, _ in before[: config.k]]
        best = cosines[0] if cosines else query.new_zeros(())
        sixteenth = cosines[15] if len(cosines) > 15 else query.new_zeros(())
        features = [query.new_tensor(bool(cosines)), best, sixteenth, query.new_tensor(excess / config.excess_unit)]
        features_read = torch.stack(features) @ memory.match_value[h]
    found = []
    for frame, key, value in within[: config.k] + before[: config.k]:
        logit = key @ query
        if config.time != "none":
            table, row = int(frame < segment_start), int(age_bucket(torch.tensor(now - frame)))
            if config.time == "segment" and table:
                row = 0
            logit = logit + memory.age_key[h, table, row] @ query + memory.age_bias[h, table, row]
            value = value + memory.age_value[h, table, row]
        lowered = excess if frame < segment_start else 0.0
        found.append((logit * attention.log_scale[h].exp() - lowered, value, frame))
    return found, features_read


def _slow_combine(memory, h, local, far):
    """A head's output and the weight of each of `far`."""

    def mix(entries):
        weights = torch.stack([entry[0] for entry in entries]).softmax(0)
        return weights @ torch.stack([entry[1] for entry in entries]), weights

    if not far:
        return mix(local)[0], []
    if memory.config.gate == "joint":
        out, weights = mix(local + far)
        return out, weights[len(local) :]
    gate = memory.gate_logit[h].sigmoid()
    remembered, weights = mix(far)
    return gate * remembered + (1 - gate) * mix(local)[0], gate * weights


def make_mapper(seed: int, **memory) -> TransformerMapper:
    torch.manual_seed(seed)
    config = MapperConfig("transformer", 4, 2, 8, 2, 1, embedding_width=5, decoder_width=6)
    usual = {"layers": (2, 3), "k": 3, "max_entries": 64}
    mapper = TransformerMapper(config, memory_config(**{**usual, **memory})).double()
    # Nothing at its initial zero, so that nothing is tested at zero; and no two heads alike: of two equal gates a
    # keyframe's cut falls exactly between two frames, where the gradient is anybody's.
    for parameter in mapper.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.5)
        else:
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    return mapper


DISTANT = {
    "write_below": 0.5,
    "usual_keys": 4,
    "match_features": True,
    "excess_unit": 3.0,
}  # of frames of random numbers most are novel


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    # Not layer 1: there the learned constants of all frames have the same key, and among ties any k will do.
    layers=st.sampled_from([(2,), (3,), (2, 3), (2, 4), (2, 3, 4)]),
    k=st.integers(1, 20),
    max_entries=st.integers(3, 40),
    gate=st.sampled_from(["joint", "sigmoid"]),
    time=st.sampled_from(["segment", "age", "none"]),
    gradient=st.sampled_from(["through", "detached"]),
    keyframes=st.integers(0, 3),
    distant=st.sampled_from([{}, {"write_below": 0.5}, {"usual_keys": 4}, {"match_features": True}, DISTANT]),
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    one_frame_blocks=st.booleans(),
)
def test_the_frame_parallel_pass_equals_frame_by_frame(
    seed, layers, k, max_entries, gate, time, gradient, keyframes, distant, lengths, one_frame_blocks
):
    memory = {"gate": gate, "time": time, "gradient": gradient, "keyframes": keyframes, **distant}
    mapper = make_mapper(seed, layers=layers, k=k, max_entries=max_entries, **memory)
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(len(lengths), max(lengths), 5, generator=generator, dtype=torch.float64)
    end = torch.stack([torch.randint(0, n, (2,), generator=generator) for n in lengths])
    start = (end - torch.randint(0, 3, end.shape, generator=generator)).clamp(min=0)
    wanted_gradient = torch.randn(len(lengths), 2, 1 + keyframes, 6, generator=generator, dtype=torch.float64)

    slow = torch.stack(
        [
            torch.stack([slow_prefix(mapper, row, int(e), int(s)) for e, s in zip(ends, starts, strict=True)])
            for row, ends, starts in zip(embeddings, end, start, strict=True)
        ]
    )
    slow_gradients = torch.autograd.grad((slow * wanted_gradient).sum(), list(mapper.parameters()), allow_unused=True)
    with pytest.MonkeyPatch.context() as patch:
        if one_frame_blocks:
            patch.setattr(mapper_module, "BLOCK_NUMBERS", 1)
            patch.setattr(mapper_module, "PIECE_CPU", 1)
        fast = mapper(embeddings, Moments(end, start))
        fast_gradients = torch.autograd.grad(
            (fast * wanted_gradient).sum(), list(mapper.parameters()), allow_unused=True
        )

    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-9)
    for (name, parameter), a, b in zip(mapper.named_parameters(), fast_gradients, slow_gradients, strict=True):
        zero = torch.zeros_like(parameter)
        torch.testing.assert_close(zero if a is None else a, zero if b is None else b, rtol=1e-7, atol=1e-9, msg=name)


@pytest.mark.parametrize("time", ["age", "none"])
def test_what_is_remembered_in_bf16_is_nearly_what_float32_remembers(time):
    mapper = make_mapper(0, gradient="detached", time=time, k=40).float()
    embeddings, moments = torch.randn(3, 20, 5), Moments(torch.full((3, 1), 19), torch.zeros(3, 1, dtype=torch.int64))
    exact = mapper.remember(embeddings)
    with torch.autocast("cpu", torch.bfloat16):
        near = mapper.remember(embeddings)
        # In one context with it, because weights that autocast has cast are kept: with no way back to gradients?
        mapper(embeddings, moments).sum().backward()
    layers: Any = mapper.layers
    assert all(layer.attention.query.weight.grad.any() for layer in layers)
    for layer, history in exact.items():
        for expected, found in ((history.keys, near[layer].keys), (history.values, near[layer].values)):
            assert found.dtype == torch.bfloat16
            error = (found.float() - expected).norm() / expected.norm()
            assert 0 < error < 0.06


def test_no_query_sees_its_own_frame_or_a_later_one():
    mapper = make_mapper(0)
    embeddings = torch.randn(1, 6, 5, dtype=torch.float64)
    moments = Moments(torch.tensor([[2]]), torch.tensor([[0]]))
    before = mapper(embeddings, moments)
    embeddings[:, 3:] = torch.randn(1, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(mapper(embeddings, moments), before, rtol=0, atol=0)


def test_a_frame_older_than_max_entries_is_forgotten():
    frames = torch.randn(1, 9, 5, dtype=torch.float64)
    changed = frames.clone()
    changed[:, 3] += 1
    moments = Moments(torch.tensor([[8]]), torch.tensor([[0]]))
    # One memory layer: with more, what was forgotten lives on in what was stored while it was remembered.
    forgetful = make_mapper(1, layers=(3,), k=50, max_entries=4 * 3)  # frames 4 to 7
    torch.testing.assert_close(forgetful(changed, moments), forgetful(frames, moments), rtol=0, atol=0)
    retentive = make_mapper(1, layers=(3,), k=50, max_entries=5 * 3)
    assert not torch.equal(retentive(changed, moments), retentive(frames, moments))


def test_without_time_the_order_of_earlier_frames_is_invisible_and_with_age_it_is_not():
    frames = torch.randn(1, 5, 5, dtype=torch.float64)
    backwards = frames[:, [3, 2, 1, 0, 4]]
    moments = Moments(torch.tensor([[4]]), torch.tensor([[0]]))
    blind = make_mapper(2, layers=(3,), k=50, time="none")
    torch.testing.assert_close(blind(frames, moments), blind(backwards, moments))
    aware = make_mapper(2, layers=(3,), k=50, time="age")
    assert (aware(frames, moments) - aware(backwards, moments)).abs().max() > 1e-3


def test_detached_memory_sends_no_gradient_to_earlier_frames_and_through_does():
    for gradient in ("detached", "through"):
        mapper = make_mapper(3, gradient=gradient)
        embeddings = torch.randn(1, 4, 5, dtype=torch.float64, requires_grad=True)
        mapper(embeddings, Moments(torch.tensor([[3]]), torch.tensor([[0]]))).sum().backward()
        assert embeddings.grad is not None
        reached = embeddings.grad[0, :3].abs().sum() > 0
        assert reached == (gradient == "through")
        assert embeddings.grad[0, 3].abs().sum() > 0


def test_a_memory_begins_with_heads_that_seek_likeness_before_the_segment():
    torch.manual_seed(0)
    config = MapperConfig("transformer", 2, 4, 32, 2, 2, embedding_width=8, decoder_width=6)
    mapper = TransformerMapper(config, memory_config(layers=(2,)))
    mapper.begin_memory()
    layers: Any = mapper.layers
    x, _ = layers[0](mapper._tokens(torch.randn(1, 30, 8)), None, None)  # [1, T, N, D]
    attention, x = layers[1].attention, layers[1].norm1(x)
    queries = F.normalize(attention.query(x).unflatten(-1, (4, 8)), dim=-1)[0]  # [T, N, H, d]
    keys = F.normalize(attention.key_value(x)[..., :32].unflatten(-1, (4, 8)), dim=-1)[0]
    nearest_frame = torch.einsum("tnhd,snhd->nhts", queries, keys).argmax(-1)  # among tokens of the same place
    itself = (nearest_frame == torch.arange(30)).float().mean((0, 2))  # [H]
    assert (itself[2:] == 1).all() and (itself[:2] < 0.5).all()
    bias = attention.memory.age_bias.mean(-1)  # [H, table]
    assert (bias[:2, 0] > bias[:2, 1]).all() and (bias[2:, 0] < bias[2:, 1]).all()


def new_mapper(**memory) -> TransformerMapper:
    """As training begins with it, of four heads so wide that the lengths of random vectors hardly differ."""
    torch.manual_seed(0)
    config = MapperConfig("transformer", 3, 4, 4 * 256, 2, 2, embedding_width=8, decoder_width=6)
    mapper = TransformerMapper(config, memory_config(**memory))
    mapper.begin_memory()
    return mapper


def test_training_begins_with_the_scales_biases_and_marks_that_the_params_say():
    mapper = new_mapper(other_side_bias=-0.25, likeness_scale=17.0, side_mark_length=3.0)
    layers: Any = mapper.layers
    scales = torch.stack([layer.attention.log_scale.exp() for layer in layers])
    torch.testing.assert_close(scales, torch.tensor([[10.0] * 4, [10, 10, 17, 17], [10] * 4]))
    memory = layers[1].attention.memory
    expected = torch.zeros(4, 2, AGE_BUCKETS)  # [H, side, bucket]: of the segment, then from before it
    expected[:2, 1] = expected[2:, 0] = -0.25
    assert torch.equal(memory.age_bias, expected)
    # Values: what all ages of a side share is of length 3, and each head and side has a vector of its own.
    marks = memory.age_value.mean(2).flatten(0, 1)
    torch.testing.assert_close(marks.norm(dim=-1), torch.full((8,), 3.0), rtol=0.15, atol=0)
    assert (F.normalize(marks, dim=-1) @ F.normalize(marks, dim=-1).T - torch.eye(8)).abs().max() < 0.3
    # Besides, ages differ in keys and values by vectors of half a key's length.
    for table in (memory.age_key, memory.age_value - memory.age_value.mean(2, keepdim=True)):
        torch.testing.assert_close(table.norm(dim=-1).mean(), torch.tensor(0.5), rtol=0.1, atol=0)
    assert memory.age_key.mean(2).norm(dim=-1).max() < 0.2


def test_the_built_in_setting_begins_with_the_constants_that_were_found_to_work():
    memory = load_params(Path("params.yaml")).memory
    assert (memory.other_side_bias, memory.likeness_scale, memory.side_mark_length) == (-0.5, 30, 6)


@pytest.mark.parametrize("memory", [{"scope": "segment"}, {"time": "none"}])
def test_heads_begin_alike_where_nothing_tells_the_segment_from_what_was_before_it(memory):
    attention: Any = new_mapper(**memory).layers[1].attention
    torch.testing.assert_close(attention.log_scale.exp(), torch.full((4,), 10.0))
    if memory == {"scope": "segment"}:
        assert not attention.memory.age_bias.any()
        assert attention.memory.age_value.mean(2).norm(dim=-1).max() < 0.2


@pytest.mark.parametrize("gate", ["joint", "sigmoid"])
def test_the_attention_paid_to_a_frame_is_the_mean_over_the_tokens_that_pay_it(gate):
    mapper = make_mapper(8, layers=(3,), gate=gate)
    frames = torch.randn(1, 6, 5, dtype=torch.float64)
    paid = mapper.recalled(frames, Moments(torch.tensor([[5]]), torch.tensor([[3]]))).attended[3]  # [1, H, 1, T]
    stored: dict[int, list] = {3: []}
    for t in range(5):
        _slow_frame(mapper, frames[0, t], t, 0, stored, store=True)
    summed: dict[int, torch.Tensor] = {}  # over heads and tokens
    _slow_frame(mapper, frames[0, 5], 5, 3, stored, store=False, attended=summed)
    expected = torch.stack([summed[t] for t in range(5)]) / (2 * mapper.config.tokens)
    torch.testing.assert_close(paid[0, :, 0, :5].mean(0), expected)
    assert 0 < paid.sum() < 2  # two heads, each of which pays something to itself


def test_keyframes_are_means_of_parts_of_equal_weight_in_the_order_of_time():
    frames = torch.tensor([[[10.0], [20.0], [30.0], [40.0]]])
    even = torch.full((1, 1, 4), 0.25)
    assert soft_keyframes(even, frames, 2).flatten().tolist() == [15, 35]
    assert soft_keyframes(even, frames, 1).flatten().tolist() == [25]
    assert soft_keyframes(even, frames, 8).flatten().tolist() == [10, 10, 20, 20, 30, 30, 40, 40]
    uneven = torch.tensor([[[0.0, 0.5, 0.0, 0.5]]])
    assert soft_keyframes(uneven, frames, 2).flatten().tolist() == [20, 40]


def test_keyframes_tell_a_segment_from_its_reverse_whatever_the_ages_say():
    mapper = make_mapper(6, layers=(3,), k=50, time="none", keyframes=2)
    frames = torch.randn(1, 5, 5, dtype=torch.float64)
    moments = Moments(torch.tensor([[4]]), torch.tensor([[0]]))
    there, back = mapper(frames, moments)[0, 0], mapper(frames[:, [3, 2, 1, 0, 4]], moments)[0, 0]
    assert (there - back).abs().max() > 1e-3
    torch.testing.assert_close(there, back[[1, 0, 2]])


def test_a_segment_of_one_frame_has_it_for_every_keyframe():
    mapper = make_mapper(7, layers=(3,), keyframes=2)
    frames = torch.randn(1, 3, 5, dtype=torch.float64)
    prefix = mapper(frames, Moments(torch.tensor([[2, 0]]), torch.tensor([[2, 0]])))[0]  # [R, 3, D]
    torch.testing.assert_close(prefix[:, 0], prefix[:, 1])
    torch.testing.assert_close(prefix[1, 0], prefix[1, 2])  # nothing came before it, so nothing else is to be said
    frames[:, :2] += 1
    changed = mapper(frames, Moments(torch.tensor([[2]]), torch.tensor([[2]])))[0]
    torch.testing.assert_close(changed[:, :2], prefix[:1, :2])


def test_look_alikes_from_before_the_segment_do_not_crowd_out_the_segment():
    mapper = make_mapper(4, layers=(3,), k=3)
    frames = torch.randn(1, 12, 5, dtype=torch.float64)
    frames[:, :8] = frames[:, 11:]  # all that came before looks like now
    changed = frames.clone()
    changed[:, 9] += 1
    moments = Moments(torch.tensor([[11]]), torch.tensor([[8]]))
    assert not torch.equal(mapper(changed, moments), mapper(frames, moments))


def test_ages_fall_into_half_octaves():
    buckets = age_bucket(torch.arange(1, 5000))
    assert buckets[:5].tolist() == [0, 1, 2, 3, 3]
    assert (buckets.diff() >= 0).all() and (buckets.diff() <= 1).all()
    assert age_bucket(torch.tensor(10**9)) == AGE_BUCKETS - 1
    for age in (8, 100, 1000):  # twice the age is two buckets on, give or take rounding
        assert math.isclose(int(age_bucket(torch.tensor(2 * age))) - int(age_bucket(torch.tensor(age))), 2, abs_tol=1)


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    below=st.sampled_from([-0.5, 0.3, 0.9, 1.0]),
    pieces=st.lists(st.integers(0, 90), min_size=1, max_size=4),
)
def test_a_frame_is_novel_that_is_unlike_the_last_one_that_was_in_whatever_pieces_they_come(seed, below, pieces):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(sum(pieces), 3, generator=generator).cumsum(0)  # neighbours are alike
    found, last = [], None
    for piece in frames.split(pieces):
        found.append(novel(piece, below, last))
        if found[-1].any():
            last = piece[found[-1]][-1]
    assert torch.cat(found).tolist() == slow_novel(frames, below)


def test_only_what_is_novel_outlives_its_segment_and_of_the_segment_every_frame_is_seen():
    still, other, now = torch.randn(3, 1, 5, dtype=torch.float64)
    mapper = make_mapper(8, layers=(3,), k=50, time="segment", write_below=0.99)
    video = torch.cat([still, other, still, now])[None]
    waiting = torch.cat([still, still, still, other, other, still, now])[None]

    def prefix(frames, start):
        return mapper(frames, Moments(torch.tensor([[frames.shape[1] - 1]]), torch.tensor([[start]])))

    torch.testing.assert_close(prefix(waiting, 6), prefix(video, 3))
    assert (prefix(waiting, 0) - prefix(video, 0)).abs().max() > 1e-6


def test_logits_are_lowered_by_the_log_of_how_many_keys_there_are_beyond_the_usual():
    frames, moments = torch.randn(1, 9, 5, dtype=torch.float64), Moments(torch.tensor([[8]]), torch.tensor([[6]]))
    usual = 6 * 3  # keys of the frames from before the segment
    plain = make_mapper(9, layers=(3,), k=50)(frames, moments)
    for many in (usual, usual + 1, 10**6):
        torch.testing.assert_close(make_mapper(9, layers=(3,), k=50, usual_keys=many)(frames, moments), plain)
    # Twenty times the same frames, and as much less for each: nothing changes.
    mapper = make_mapper(9, layers=(3,), k=10**4, max_entries=10**4, time="segment", usual_keys=usual)
    often = torch.cat([frames[:, :6]] * 20 + [frames[:, 6:]], dim=1)
    torch.testing.assert_close(
        mapper(often, Moments(torch.tensor([[8 + 6 * 19]]), torch.tensor([[6 * 20]]))), mapper(frames, moments)
    )


@pytest.mark.parametrize("write_below", [None, 0.99])
def test_distractors_are_frames_that_came_before_a_sequence_for_those_who_see_them(write_below):
    distant = {"write_below": write_below, "usual_keys": 4, "match_features": True}
    mapper = make_mapper(10, layers=(3,), k=7, time="segment", **distant)
    own, others = torch.randn(2, 6, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    moments = Moments(torch.tensor([[5, 3], [4, 0]]), torch.tensor([[3, 2], [4, 0]]))
    seen = torch.tensor([[True] * 4, [False, True, False, True]])
    found = mapper.recalled(own, moments, Distractors(others, seen)).prefixes
    for b in range(2):
        whole = torch.cat([others[seen[b]], own[b]])[None]
        count = int(seen[b].sum())
        moved = Moments(moments.frame[b : b + 1] + count, moments.segment_start[b : b + 1] + count)
        torch.testing.assert_close(found[b : b + 1], mapper(whole, moved))
    reached = torch.autograd.grad(found[1].sum(), others)[0].abs().sum(1) > 0
    assert reached.tolist() == [False, True, False, True]


def test_all_that_is_from_before_the_segment_has_one_age():
    frames = torch.randn(1, 9, 5, dtype=torch.float64)
    elsewhere = frames[:, [4, 0, 3, 1, 2, 5, 6, 7, 8]]
    moments = Moments(torch.tensor([[8]]), torch.tensor([[5]]))
    mapper = make_mapper(11, layers=(3,), k=50, time="segment")
    torch.testing.assert_close(mapper(elsewhere, moments), mapper(frames, moments))
    within = frames[:, [0, 1, 2, 3, 4, 7, 6, 5, 8]]
    assert (mapper(within, moments) - mapper(frames, moments)).abs().max() > 1e-3
