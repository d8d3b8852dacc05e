"""The frame-parallel pass against a slow, obvious one: frame by frame, token by token, in Python loops."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import mapper as mapper_module
from pipeline.keyframes import soft_keyframes
from pipeline.mapper import MapperConfig, TransformerMapper
from pipeline.memory import AGE_BUCKETS, MemoryConfig, Moments, age_bucket


def slow_prefix(mapper: TransformerMapper, frames: torch.Tensor, end: int, start: int) -> torch.Tensor:
    """The prefix [P, D] of the segment [start, end] of one sequence, frames [T, E], computed frame by frame."""
    stored: dict[int, list] = {number: [] for number in mapper.memory.layers}  # layer -> [(frame, keys, values)]
    for t in range(end):
        _slow_frame(mapper, frames[t], t, 0, stored, store=True)
    prefix = _slow_frame(mapper, frames[end], end, start, stored, store=False)
    if not mapper.memory.keyframes:
        return prefix
    nothing = {number: [] for number in mapper.memory.layers}
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
    paid = torch.stack([attended[frame] for frame, _, _ in remembered])
    weights = 0.5 * paid / paid.sum() + 0.5 / len(remembered)
    keyframes = [torch.zeros_like(frames[0]) for _ in range(count)]
    begin = torch.zeros((), dtype=weights.dtype)
    for (frame, _, _), weight in zip(remembered, weights, strict=True):
        for part in range(count):
            low, high = torch.clamp(begin, min=part / count), torch.clamp(begin + weight, max=(part + 1) / count)
            if high > low:
                keyframes[part] = keyframes[part] + count * (high - low) * frames[frame]
        begin = begin + weight
    return keyframes


def _slow_frame(mapper, embedding, now, segment_start, stored, *, store, attended=None):
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
            attended.update({frame: x.new_zeros(()) for frame, _, _ in stored[number]})
        for n in range(len(y)):
            heads = []
            for h in range(config.heads):
                local = [
                    (keys[m, h] @ queries[n, h] * attention.log_scale[h].exp(), values[m, h]) for m in range(len(y))
                ]
                far = []
                if attention.memory is not None:
                    far = _slow_retrieval(attention, queries[n, h], h, now, segment_start, stored[number])
                out, paid = _slow_combine(attention.memory, h, local, far)
                heads.append(out)
                for (_, _, frame), weight in zip(far, paid, strict=True):
                    if attended is not None:
                        attended[frame] = attended[frame] + weight
            rows.append(torch.cat(heads))
        if attention.memory is not None and store:
            detach = mapper.memory.gradient == "detached"
            stored[number].append((now, keys.detach() if detach else keys, values.detach() if detach else values))
        x = x + attention.out(torch.stack(rows))
        x = x + layer.feed_forward(layer.norm2(x))
    return mapper.output(x[config.clip_tokens :])


def _slow_retrieval(attention, query, h, now, segment_start, stored):
    memory, config = attention.memory, attention.memory.config
    tokens = len(stored[0][1]) if stored else 1
    candidates = []
    for frame, keys, values in stored[-(config.max_entries // tokens) :]:
        candidates += [((keys[m, h] @ query).item(), frame, keys[m, h], values[m, h]) for m in range(len(keys))]
    candidates.sort(key=lambda candidate: -candidate[0])
    within = [candidate for candidate in candidates if candidate[1] >= segment_start]
    before = [candidate for candidate in candidates if candidate[1] < segment_start]
    found = []
    for _, frame, key, value in within[: config.k] + before[: config.k]:
        logit = key @ query
        if config.time == "age":
            table, row = int(frame < segment_start), int(age_bucket(torch.tensor(now - frame)))
            logit = logit + memory.age_key[h, table, row] @ query + memory.age_bias[h, table, row]
            value = value + memory.age_value[h, table, row]
        found.append((logit * attention.log_scale[h].exp(), value, frame))
    return found


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
    usual = MemoryConfig(
        (2, 3), k=3, max_entries=64, gate="joint", time="age", scope="video", gradient="through", keyframes=0
    )
    mapper = TransformerMapper(config, replace(usual, **memory)).double()
    # Nothing at its initial zero, so that nothing is tested at zero; and no two heads alike: of two equal gates a
    # keyframe's cut falls exactly between two frames, where the gradient is anybody's.
    for parameter in mapper.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.5)
        else:
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    return mapper


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    # Not layer 1: there the learned constants of all frames have the same key, and among ties any k will do.
    layers=st.sampled_from([(2,), (3,), (2, 3), (2, 4), (2, 3, 4)]),
    k=st.integers(1, 20),
    max_entries=st.integers(3, 40),
    gate=st.sampled_from(["joint", "sigmoid"]),
    time=st.sampled_from(["age", "none"]),
    gradient=st.sampled_from(["through", "detached"]),
    keyframes=st.integers(0, 3),
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    one_frame_blocks=st.booleans(),
)
def test_the_frame_parallel_pass_equals_frame_by_frame(
    seed, layers, k, max_entries, gate, time, gradient, keyframes, lengths, one_frame_blocks
):
    memory = {"gate": gate, "time": time, "gradient": gradient, "keyframes": keyframes}
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
    assert all(layer.attention.query.weight.grad.any() for layer in mapper.layers)
    for layer, history in exact.items():
        for wanted, found in ((history.keys, near[layer].keys), (history.values, near[layer].values)):
            assert found.dtype == torch.bfloat16
            error = (found.float() - wanted).norm() / wanted.norm()
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
        reached = embeddings.grad[0, :3].abs().sum() > 0
        assert reached == (gradient == "through")
        assert embeddings.grad[0, 3].abs().sum() > 0


def test_a_memory_begins_with_heads_that_seek_likeness_before_the_segment():
    torch.manual_seed(0)
    config = MapperConfig("transformer", 2, 4, 32, 2, 2, embedding_width=8, decoder_width=6)
    memory = MemoryConfig(
        (2,), k=4, max_entries=999, gate="joint", time="age", scope="video", gradient="through", keyframes=0
    )
    mapper = TransformerMapper(config, memory)
    mapper.begin_memory()
    x, _ = mapper.layers[0](mapper._tokens(torch.randn(1, 30, 8)), None, None)  # [1, T, N, D]
    attention, x = mapper.layers[1].attention, mapper.layers[1].norm1(x)
    queries = F.normalize(attention.query(x).unflatten(-1, (4, 8)), dim=-1)[0]  # [T, N, H, d]
    keys = F.normalize(attention.key_value(x)[..., :32].unflatten(-1, (4, 8)), dim=-1)[0]
    nearest_frame = torch.einsum("tnhd,snhd->nhts", queries, keys).argmax(-1)  # among tokens of the same place
    itself = (nearest_frame == torch.arange(30)).float().mean((0, 2))  # [H]
    assert (itself[2:] == 1).all() and (itself[:2] < 0.5).all()
    bias = attention.memory.age_bias.mean(-1)  # [H, table]
    assert (bias[:2, 0] > bias[:2, 1]).all() and (bias[2:, 0] < bias[2:, 1]).all()


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
