"""The mapper: frame embeddings -> a prefix of token embeddings for the decoder (ClipCap, Mokady et al. 2021).

B sequences of a batch   T frames   R segments per sequence   E width of an embedding   D width of the mapper
C tokens an embedding becomes   P learned constants   N = C + P tokens per frame   H heads   d = D / H

A sequence is a segment or, with memory.scope: video, a video up to the end of its last segment. With a memory a segment
is captioned from its last frame; everything before that frame reaches it through the memory layers. Without one it is
captioned from the frames that its baseline chooses (pipeline/baselines.py).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pipeline.baselines import LAST, BaselineConfig
from pipeline.captioner.keyframes import keyframe_weights, soft_keyframes
from pipeline.captioner.memory import (
    AGE_BUCKETS,
    History,
    MemoryAttention,
    MemoryConfig,
    Moments,
    Remembered,
    age_bucket,
    novel,
)
from pipeline.captioner.retrieval import product_dtype, within

# Roughly how many numbers one layer holds for a block of query frames; bounds memory on long sequences (512 MiB).
BLOCK_NUMBERS = 2**27
# Size of the frames [B, T, N, D] that go through the layers at once when nothing is kept for backward. Fewer make the
# products small; with more, activations no longer fit into the processor's cache.
PIECE_CPU, PIECE_GPU = 2**22, 2**23

INITIAL_SCALE = 10.0  # initial scale of cosines, in every layer and head


@dataclass(frozen=True)
class MapperConfig:
    kind: Literal["transformer", "mlp"]
    layers: PositiveInt
    heads: PositiveInt
    width: PositiveInt  # D
    clip_tokens: PositiveInt  # C
    prefix_tokens: PositiveInt  # P
    embedding_width: PositiveInt  # E
    decoder_width: PositiveInt

    @property
    def tokens(self) -> int:
        """Tokens per frame, N."""
        return self.clip_tokens + self.prefix_tokens


class Attention(nn.Module):
    """Attention within a frame and, in a memory layer, to the nearest tokens of earlier frames.

    Queries and keys are L2-normalised in every layer, not only in memory layers, so a mapper pretrained without memory
    fits one with memory weight by weight.
    """

    def __init__(self, config: MapperConfig, memory: MemoryConfig | None) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.width, config.width, bias=False)
        self.key_value = nn.Linear(config.width, 2 * config.width, bias=False)
        self.out = nn.Linear(config.width, config.width)
        self.log_scale = nn.Parameter(torch.full((config.heads,), INITIAL_SCALE).log())
        self.memory = MemoryAttention(memory, config.heads, config.width // config.heads) if memory else None

    @torch.no_grad()
    def seek_likeness(self, scale: float) -> None:
        """Make the heads that look before the segment start by searching for similar frames: queries equal to keys.

        "Comes back" is a similarity across minutes. Queries and keys that were pretrained on single pictures know how
        tokens attend to each other within a frame. Across frames, their nearest match is no likelier to be the same
        thing than any other.
        """
        half = self.heads // 2
        rows = slice(half * (self.query.out_features // self.heads), self.query.out_features)
        self.query.weight[rows] = self.key_value.weight[rows]
        self.log_scale[half:] = math.log(scale)

    def store(self, x: Tensor) -> History:
        """Keys and values of frames x [B, T, N, D]."""
        keys, values = self.key_value(x).chunk(2, dim=-1)
        return History(F.normalize(self._split(keys), dim=-1), self._split(values))

    def queries(self, x: Tensor) -> Tensor:
        """Queries of frames x [B, Q, N, D]: [B, H, Q, N, d]."""
        return F.normalize(self._split(self.query(x)), dim=-1)

    def forward(
        self,
        x: Tensor,
        history: History | None,
        moments: Moments,
        *,
        own: History | None = None,
        attended: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """x [B, Q, N, D] -> [B, Q, N, D]; and, if wanted, MemoryAttention's [B, H, Q, T] of attention paid.

        Args:
            own: the result of `store(x)`, if known.
        """
        queries = self.queries(x)
        local = own or self.store(x)
        scale = self.log_scale.exp().view(-1, 1, 1, 1)
        logits = scale * (queries @ local.keys.transpose(-1, -2))  # [B, H, Q, N, N]
        paid = None
        if self.memory is None or history is None:
            out = logits.softmax(-1) @ local.values
        else:
            out, paid = self.memory(queries, logits, local.values, history, moments, scale, attended=attended)
        return self.out(out.permute(0, 2, 3, 1, 4).flatten(3)), paid

    def _split(self, x: Tensor) -> Tensor:
        # Contiguous: the products below are slower on strided tensors.
        return x.unflatten(-1, (self.heads, -1)).permute(0, 3, 1, 2, 4).contiguous()  # [B, T, N, D] -> [B, H, T, N, d]


class Layer(nn.Module):
    """Pre-norm transformer layer, feed-forward twice the width as in ClipCap."""

    def __init__(self, config: MapperConfig, memory: MemoryConfig | None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width)
        self.attention = Attention(config, memory)
        self.norm2 = nn.LayerNorm(config.width)
        self.feed_forward = nn.Sequential(
            nn.Linear(config.width, 2 * config.width), nn.ReLU(inplace=True), nn.Linear(2 * config.width, config.width)
        )

    def store(self, x: Tensor) -> History:
        return self.attention.store(self.norm1(x))

    def forward(
        self,
        x: Tensor,
        history: History | None,
        moments: Moments,
        *,
        own: History | None = None,
        attended: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As Attention's."""
        out, paid = self.attention(self.norm1(x), history, moments, own=own, attended=attended)
        x = x + out
        return x + self.feed_forward(self.norm2(x)), paid


@dataclass(frozen=True)
class Recalled:
    """A mapper's output for R segments: their prefixes, and where each memory layer's attention went."""

    prefixes: Tensor  # [B, R, P, decoder width]; P for each frame if there are several (keyframes, a baseline's)
    attended: dict[int, Tensor]  # by number of the layer, [B, H, R, T]: the share paid to each earlier frame
    frames: Tensor | None = None  # [T] int64, which frames of the sequence these are; None: all, from the first on


@dataclass(frozen=True)
class Distractors:
    """Frames of other videos that sequences remember as if they had come before their own."""

    embeddings: Tensor  # [D, E]
    seen: Tensor  # [B, D] bool, which sequence sees them


class Mapper(nn.Module):
    """The base of all mappers: prefixes of segments from the frames that a baseline chooses."""

    memory: MemoryConfig | None = None

    def __init__(self, config: MapperConfig, baseline: BaselineConfig) -> None:
        super().__init__()
        self.config = config
        self.baseline = baseline
        # Added to a frame's prefix, by side (in the segment or before it) and age. Zero at first, so training begins
        # with the pretrained prefix of each frame.
        rows = torch.zeros(2 * AGE_BUCKETS, config.decoder_width) if baseline.kind.several else None
        self.marks = nn.Parameter(rows) if rows is not None else None

    @property
    def with_memory(self) -> "TransformerMapper | None":
        """This mapper, if it has a memory."""
        return None

    def begin_memory(self) -> None:
        """Prepare a mapper that was pretrained without memory for training with one."""

    def of_frames(self, embeddings: Tensor) -> Tensor:
        """The prefix of each frame by itself, [B, Q, E] -> [B, Q, P, decoder width]."""
        raise NotImplementedError

    def forward(self, embeddings: Tensor, moments: Moments) -> Tensor:
        """Prefixes of segments.

        Args:
            embeddings: [B, T, E] frames of each sequence, padded at the end.
            moments: the last frame and the first of each segment, [B, R] each.

        Returns:
            Recalled.prefixes.
        """
        return self.recalled(embeddings, moments).prefixes

    def recalled(self, embeddings: Tensor, moments: Moments, distractors: Distractors | None = None) -> Recalled:
        """As `forward`, with what the memory attended to.

        Args:
            distractors: D frames that precede each sequence's own frames in the memory.
        """
        windows = self.baseline.kind.windows(moments.segment_start, moments.frame, self.baseline.count)
        first, stop = (torch.stack(edges, dim=2) for edges in zip(*windows, strict=True))  # [B, R, F] of F frames
        inside = within(embeddings.shape[1], first.flatten(1), stop.flatten(1)).to(embeddings.dtype)  # [B, R * F, T]
        means = inside @ embeddings / (stop - first).flatten(1)[..., None]
        of_frames = self.of_frames(means)[:, :, : self.baseline.kind.tokens]
        prefixes = of_frames.unflatten(1, first.shape[1:])  # [B, R, F, P, decoder width]
        if self.marks is not None:
            age = moments.frame[..., None] - (stop - 1)
            row = age_bucket(age + 1) + AGE_BUCKETS * (first < moments.segment_start[..., None])
            prefixes = prefixes + F.embedding(row, self.marks)[:, :, :, None]
        return Recalled(prefixes.flatten(2, 3), {})


class TransformerMapper(Mapper):
    def __init__(
        self, config: MapperConfig, memory: MemoryConfig | None = None, baseline: BaselineConfig | None = None
    ) -> None:
        super().__init__(config, baseline or LAST)
        self.memory = memory
        self.project = nn.Linear(config.embedding_width, config.clip_tokens * config.width)
        self.constants = nn.Parameter(torch.randn(config.prefix_tokens, config.width) * config.width**-0.5)
        self.layers = nn.ModuleList(
            Layer(config, memory if memory and number in memory.layers else None)
            for number in range(1, config.layers + 1)
        )
        same = config.width == config.decoder_width
        self.output = nn.Identity() if same else nn.Linear(config.width, config.decoder_width)

    @property
    def with_memory(self) -> "TransformerMapper | None":
        return self if self.memory else None

    def begin_memory(self) -> None:
        if self.memory and self.memory.scope == "video" and self.memory.time != "none":
            for number in self.memory.layers:
                self._layer(number).attention.seek_likeness(self.memory.likeness_scale)

    def of_frames(self, embeddings: Tensor) -> Tensor:
        nothing = embeddings.new_zeros(embeddings.shape[:2], dtype=torch.int64)
        x, _ = self._through(embeddings, None, Moments(nothing, nothing))
        return self._prefix(x)

    def recalled(self, embeddings: Tensor, moments: Moments, distractors: Distractors | None = None) -> Recalled:
        if self.memory is None:
            return super().recalled(embeddings, moments)
        now = _frames_at(embeddings, moments.frame)
        # A sequence's last frame and what follows it are never retrieved. (A video's first frame retrieves nothing.)
        lengths = moments.frame.amax(1).clamp(min=1)
        stored = embeddings.detach() if self.memory.gradient == "detached" else embeddings
        layers = self.remember(stored, lengths)
        held = next(iter(layers.values())).keys.shape[2]
        written = None
        if self.memory.write_below is not None:
            written = torch.stack([novel(frames, self.memory.write_below) for frames in stored[:, :held]])
            layers = {number: replace(history, written=written) for number, history in layers.items()}
        remembered = Remembered(layers, stored[:, :held])
        if distractors is not None:
            remembered, moments = self._with(distractors, remembered, written, moments)
        return self.recall(now, remembered, moments)

    def _with(
        self, distractors: Distractors, own: Remembered, written: Tensor | None, moments: Moments
    ) -> tuple[Remembered, Moments]:
        """What is remembered, with distractors before it."""
        batch, held, _ = own.embeddings.shape
        if written is None:
            written = torch.ones(batch, held, dtype=torch.bool, device=own.embeddings.device)
        written = torch.cat([distractors.seen, written], dim=1)
        # Once for all sequences: what is stored does not depend on what comes after it.
        layers = {
            number: History(
                torch.cat([other.keys.expand(batch, -1, -1, -1, -1), own.layers[number].keys], dim=2),
                torch.cat([other.values.expand(batch, -1, -1, -1, -1), own.layers[number].values], dim=2),
                written=written,
            )
            for number, other in self.remember(distractors.embeddings[None]).items()
        }
        count = len(distractors.embeddings)
        embeddings = torch.cat([distractors.embeddings.expand(batch, -1, -1), own.embeddings], dim=1)
        return Remembered(layers, embeddings), Moments(moments.frame + count, moments.segment_start + count)

    def alone(self, embeddings: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Queries, times their heads' scale, and keys of frames in a layer, each as if nothing had come before it.

        Args:
            embeddings: [F, E].
            number: of the layer.

        Returns:
            [H, F, N, d] each.
        """
        x = self._tokens(embeddings[None])
        moments = Moments(embeddings.new_zeros(1, 1, dtype=torch.int64), embeddings.new_zeros(1, 1, dtype=torch.int64))
        for below in range(1, number):
            x, _ = self._layer(below)(x, None, moments)
        layer = self._layer(number)
        x = layer.norm1(x)
        scale = layer.attention.log_scale.exp().view(-1, 1, 1, 1)
        return scale * layer.attention.queries(x)[0], layer.attention.store(x).keys[0]

    def remember(self, embeddings: Tensor, lengths: Tensor | None = None) -> dict[int, History]:
        """What each memory layer stores of frames: the frame-parallel pass.

        A layer's keys and values depend only on the layers below, so all frames go through a layer at once. A
        block-causal rule on what a query may retrieve makes the result the same as frame by frame. The top memory
        layer only stores: only a segment's last frame queries it.

        Args:
            embeddings: [B, T, E].
            lengths: [B], how many frames of each sequence to store; all if None.

        Returns:
            By number of the memory layer, what it stores, T being the longest of the lengths; shorter ones are padded
            with zeros.
        """
        if self.memory is None:
            return {}
        if torch.is_grad_enabled() and self.memory.gradient == "through":
            return self._remember(embeddings, embeddings.new_zeros(1, 1, dtype=torch.int64), lambda _, stored: stored)
        # Nothing is kept for backward, so a few frames at a time can go through all layers.
        batch, frames, _ = embeddings.shape
        wanted = [frames] * batch if lengths is None else lengths.tolist()
        size = self.frames_at_once(embeddings.device)
        together = max(1, size // max(1, *wanted))  # sequences
        histories: dict[int, History] = {}
        for rows in (slice(row, row + together) for row in range(0, batch, together)):
            longest = max(wanted[rows])
            for start in range(0, longest, size):
                part = slice(start, min(start + size, longest))

                def keep(number: int, stored: History, rows: slice = rows, part: slice = part) -> History:
                    if number not in histories:
                        _, heads, _, tokens, width = stored.keys.shape
                        room = stored.keys.new_zeros(2, batch, heads, max(wanted), tokens, width)
                        histories[number] = History(*room)
                    keys, values = histories[number].keys[rows], histories[number].values[rows]
                    keys[:, :, part], values[:, :, part] = stored.keys, stored.values
                    return History(keys[:, :, : part.stop], values[:, :, : part.stop])

                self.remember_more(embeddings[rows, part], embeddings.new_full((1, 1), start, dtype=torch.int64), keep)
        return histories

    @torch.no_grad()
    def remember_more(self, embeddings: Tensor, first: Tensor, keep: Callable[[int, History], History]) -> None:
        """`remember` frames that follow others.

        Args:
            embeddings: [B, T, E].
            first: [B, 1] int64, how many frames of each sequence came before these.
            keep: given a layer's number and what it stores of these frames, returns everything stored in that layer.
        """
        self._remember(embeddings, first, keep)

    def frames_at_once(self, device: torch.device) -> int:
        """How many frames, over all sequences, go through the layers at once when no gradient is needed."""
        numbers = PIECE_CPU if device.type == "cpu" else PIECE_GPU
        return max(1, numbers // (self.config.tokens * self.config.width))

    def _remember(
        self, embeddings: Tensor, first: Tensor, keep: Callable[[int, History], History]
    ) -> dict[int, History]:
        assert self.memory is not None
        batch, frames, _ = embeddings.shape
        every = first + torch.arange(frames, device=embeddings.device).expand(batch, -1)
        moments = Moments(every, torch.zeros_like(every))
        top = max(self.memory.layers)
        histories = {}
        x = self._tokens(embeddings)  # [B, T, N, D]
        if not torch.is_grad_enabled():
            x = x.to(product_dtype(x))  # also halves the activations' bytes
        for number in range(1, top + 1):
            layer, own, history = self._layer(number), None, None
            if number in self.memory.layers:
                own = layer.store(x)
                history = histories[number] = keep(number, own)
            if number < top:
                x = self._blockwise(layer, x, own, history, moments)
        return histories

    def recall(self, embeddings: Tensor, remembered: Remembered | None, moments: Moments) -> Recalled:
        """Prefixes of segments from their last frames, embeddings [B, R, E], and what was stored before them."""
        x, attended = self._through(embeddings, remembered, moments)
        if self.memory is None or not self.memory.keyframes:
            return Recalled(self._prefix(x), attended)
        keyframes = self._keyframes(embeddings, attended, remembered, moments)  # [B, R, keyframes, E]
        earlier = self.of_frames(keyframes.flatten(1, 2)).unflatten(1, (-1, self.memory.keyframes))
        return Recalled(torch.cat([earlier.flatten(2, 3), self._prefix(x)], dim=2), attended)

    def _through(
        self, embeddings: Tensor, remembered: Remembered | None, moments: Moments
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """[B, Q, E] -> [B, Q, N, D], and what each memory layer attended to, as Recalled's."""
        x, attended = self._tokens(embeddings), {}
        for number, layer in enumerate(self.layers, start=1):
            x, paid = layer(x, remembered.layers.get(number) if remembered else None, moments, attended=True)
            if paid is not None:
                attended[number] = paid
        return x, attended

    def _keyframes(
        self, embeddings: Tensor, attended: dict[int, Tensor], remembered: Remembered | None, moments: Moments
    ) -> Tensor:
        """Keyframes [B, R, keyframes, E] of segments; the last frame if there is none before it."""
        assert self.memory is not None
        alone = embeddings[:, :, None].expand(-1, -1, self.memory.keyframes, -1)
        if not attended or remembered is None:
            return alone
        since = self.memory.oldest(moments, self.config.tokens).maximum(moments.segment_start)
        weights = keyframe_weights(attended[max(attended)].mean(1), since, moments.frame)
        means = soft_keyframes(weights, remembered.embeddings, self.memory.keyframes)
        return torch.where((since < moments.frame)[:, :, None, None], means, alone)

    def _layer(self, number: int) -> Layer:
        layer = self.layers[number - 1]
        assert isinstance(layer, Layer)
        return layer

    def _prefix(self, x: Tensor) -> Tensor:
        return self.output(x[:, :, self.config.clip_tokens :])

    def _tokens(self, embeddings: Tensor) -> Tensor:
        clip = self.project(embeddings).unflatten(-1, (self.config.clip_tokens, -1))  # [B, T, C, D]
        return torch.cat([clip, self.constants.expand(*clip.shape[:2], -1, -1)], dim=2)  # [B, T, N, D]

    def _blockwise(
        self, layer: nn.Module, x: Tensor, own: History | None, history: History | None, moments: Moments
    ) -> Tensor:
        """`layer` over blocks of query frames, each recomputed for its gradient.

        So a long sequence costs the memory of a layer's inputs and outputs, not of what is in between.

        Args:
            own: what the layer stores of x, if it is a memory layer.
        """
        frames = x.shape[1]
        if not frames:  # a stream may have no frames before a segment that starts it
            return x
        size = self._frames_at_once(x, history)
        blocks = [slice(start, min(start + size, frames)) for start in range(0, frames, size)]

        def of(block: slice) -> Moments:
            return Moments(moments.frame[:, block], moments.segment_start[:, block])

        if torch.is_grad_enabled() and len(blocks) > 1:

            def run(block: slice, x: Tensor, *history: Tensor) -> Tensor:
                return layer(x, History(history[0], history[1]) if history else None, of(block))[0]

            shared = (history.keys, history.values) if history else ()
            parameters = [parameter for parameter in layer.parameters() if parameter.requires_grad]
            return _InBlocks.apply(run, blocks, x, len(shared), *shared, *parameters)
        out = []
        for block in blocks:
            seen, of_block = history, own
            if history and own:
                until = history.keys.shape[2] - frames + block.stop
                seen = replace(history, keys=history.keys[:, :, :until], values=history.values[:, :, :until])
                of_block = History(own.keys[:, :, block], own.values[:, :, block])
            out.append(layer(x[:, block], seen, of(block), own=of_block)[0])
        return torch.cat(out, dim=1)

    def _frames_at_once(self, x: Tensor, history: History | None) -> int:
        """Frames in a block of x [B, T, N, D]."""
        batch, _, tokens, width = x.shape
        numbers = 16 * width  # per token, counting what backward needs: norms, queries, keys, values, feed-forward
        if history is not None:
            assert self.memory is not None
            _, heads, frames, _, head_width = history.keys.shape
            # A score for every key or, if that is less, the neighbours' keys and values; and a weight for every frame.
            # Without gradients: the neighbours' scores and indices.
            neighbours = self.memory.k * (2 * head_width if torch.is_grad_enabled() else 8)
            numbers += heads * (2 * min(frames * tokens, neighbours) + frames)
        return max(1, BLOCK_NUMBERS // (batch * tokens * numbers))


class _InBlocks(torch.autograd.Function):
    """`run` over blocks of x [B, T, N, D], each recomputed for its gradient.

    Like torch.utils.checkpoint of each block, but gradients are summed in place: autograd would allocate a gradient as
    large as x, and one as large as all keys, for each block, and fragment the process's memory.
    """

    @staticmethod
    def forward(
        ctx: Any, run: Callable[..., Tensor], blocks: list[slice], x: Tensor, shared: int, *others: Tensor
    ) -> Tensor:
        """
        Args:
            run: called with a block, x of that block, and the shared tensors.
            others: the `shared` tensors that every block reads, then the parameters that `run` uses.
        """
        kind = x.device.type
        ctx.autocast = kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        ctx.run, ctx.blocks, ctx.shared = run, blocks, shared
        ctx.save_for_backward(x, *others)
        out = torch.empty_like(x)
        for block in blocks:
            out[:, block] = run(block, x[:, block], *others[:shared])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor | None, ...]:
        x, *others = ctx.saved_tensors
        shared = [tensor.detach().requires_grad_() for tensor in others[: ctx.shared]]
        of_x, *of_others = (torch.zeros_like(tensor) for tensor in (x, *others))
        for block in ctx.blocks:
            with torch.enable_grad(), torch.autocast(*ctx.autocast):
                of_block = x[:, block].detach().requires_grad_()
                out = ctx.run(block, of_block, *shared)
            inputs = [of_block, *shared, *others[ctx.shared :]]
            sums = [of_x[:, block], *of_others]
            for total, part in zip(sums, torch.autograd.grad(out, inputs, of_out[:, block]), strict=True):
                total += part
        return None, None, of_x, None, *of_others


class MlpMapper(Mapper):
    """ClipCap's other mapper: one hidden layer, no attention, so no memory either."""

    def __init__(self, config: MapperConfig, baseline: BaselineConfig) -> None:
        super().__init__(config, baseline)
        wide = config.decoder_width * config.prefix_tokens
        self.layers = nn.Sequential(nn.Linear(config.embedding_width, wide // 2), nn.Tanh(), nn.Linear(wide // 2, wide))

    def of_frames(self, embeddings: Tensor) -> Tensor:
        return self.layers(embeddings).unflatten(-1, (self.config.prefix_tokens, -1))


def build_mapper(config: MapperConfig, memory: MemoryConfig | None, baseline: BaselineConfig | None) -> Mapper:
    """baseline: the frames that a mapper without memory sees; None: the last frame."""
    if config.kind == "mlp":
        if memory:
            raise ValueError("the mlp mapper has no layers for a memory; set mapper.kind: transformer")
        return MlpMapper(config, baseline or LAST)
    return TransformerMapper(config, memory, None if memory else baseline)


def _frames_at(embeddings: Tensor, frame: Tensor) -> Tensor:
    """embeddings [B, T, E], frame [B, R] -> [B, R, E]."""
    return embeddings.gather(1, frame[:, :, None].expand(-1, -1, embeddings.shape[-1]))
