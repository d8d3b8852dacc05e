"""The mapper: frame embeddings -> a prefix of token embeddings for the decoder (ClipCap, Mokady et al. 2021).

B sequences of a batch   T frames   R segments per sequence   E width of an embedding   D width of the mapper
C tokens an embedding becomes   P learned constants   N = C + P tokens per frame   H heads   d = D / H

A sequence is a segment or, with memory.scope: video, a video up to the end of its last segment. A segment is
captioned from its last frame; everything before that frame reaches it through the memory layers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pipeline.keyframes import keyframe_weights, soft_keyframes
from pipeline.memory import History, MemoryAttention, MemoryConfig, Moments, Remembered
from pipeline.retrieval import product_dtype

# Numbers that one layer holds of one block of query frames, about: what bounds memory on long sequences (512 MiB).
BLOCK_NUMBERS = 2**27
# Numbers of the frames [B, T, N, D] that go through the layers at once when nothing is kept for backward. Fewer make
# small products; what lies between the layers of more no longer finds room in a processor's cache.
PIECE_CPU, PIECE_GPU = 2**22, 2**23

LIKENESS_SCALE = 30.0  # of a cosine: so sharp that a few good likenesses outweigh a hundred poor ones


@dataclass(frozen=True)
class MapperConfig:
    kind: str  # transformer | mlp
    layers: int
    heads: int
    width: int  # D
    clip_tokens: int  # C
    prefix_tokens: int  # P
    embedding_width: int  # E
    decoder_width: int

    @property
    def tokens(self) -> int:
        """Tokens per frame, N."""
        return self.clip_tokens + self.prefix_tokens


class Attention(nn.Module):
    """Attention within a frame and, in a memory layer, to the nearest tokens of earlier frames.

    Queries and keys are L2-normalised in every layer, not only where a memory is: so a mapper pretrained
    without memory fits the one with it weight by weight.
    """

    def __init__(self, config: MapperConfig, memory: MemoryConfig | None) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.width, config.width, bias=False)
        self.key_value = nn.Linear(config.width, 2 * config.width, bias=False)
        self.out = nn.Linear(config.width, config.width)
        self.log_scale = nn.Parameter(torch.full((config.heads,), 10.0).log())
        self.memory = MemoryAttention(memory, config.heads, config.width // config.heads) if memory else None

    @torch.no_grad()
    def seek_likeness(self) -> None:
        """Start the heads that look before the segment as seekers of what looks like now: queries equal to keys.

        "Comes back" is a likeness across minutes. Queries and keys that were pretrained on single pictures know who
        attends to whom within a frame; between frames, what they find nearest is no likelier to be the same thing.
        """
        half = self.heads // 2
        rows = slice(half * (self.query.out_features // self.heads), self.query.out_features)
        self.query.weight[rows] = self.key_value.weight[rows]
        self.log_scale[half:] = math.log(LIKENESS_SCALE)

    def store(self, x: Tensor) -> History:
        """Keys and values of frames x [B, T, N, D]."""
        keys, values = self.key_value(x).chunk(2, dim=-1)
        return History(F.normalize(self._split(keys), dim=-1), self._split(values))

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
            own: what `store` gave of x, if it is known.
        """
        queries = F.normalize(self._split(self.query(x)), dim=-1)  # [B, H, Q, N, d]
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
        # Contiguous: what follows takes longer of what is strewn over memory.
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
    """What a mapper makes of R segments: their prefixes, and where each memory layer's attention went for it."""

    prefixes: Tensor  # [B, R, P, decoder width]; with keyframes P tokens of each come before the last frame's
    attended: dict[int, Tensor]  # by number of the layer, [B, H, R, T]: the part paid to each earlier frame
    first: int = 0  # the frame of the sequence that T counts from


class TransformerMapper(nn.Module):
    def __init__(self, config: MapperConfig, memory: MemoryConfig | None = None) -> None:
        super().__init__()
        self.config = config
        self.memory = memory
        self.project = nn.Linear(config.embedding_width, config.clip_tokens * config.width)
        self.constants = nn.Parameter(torch.randn(config.prefix_tokens, config.width) * config.width**-0.5)
        self.layers = nn.ModuleList(
            Layer(config, memory if memory and number in memory.layers else None)
            for number in range(1, config.layers + 1)
        )
        same = config.width == config.decoder_width
        self.output = nn.Identity() if same else nn.Linear(config.width, config.decoder_width)

    def begin_memory(self) -> None:
        """Make a mapper that was pretrained without memory ready to learn with one."""
        if self.memory and self.memory.scope == "video" and self.memory.time == "age":
            for number in self.memory.layers:
                self._layer(number).attention.seek_likeness()

    def forward(self, embeddings: Tensor, moments: Moments) -> Tensor:
        """Prefixes of segments.

        Args:
            embeddings: [B, T, E] frames of each sequence, padded at the end.
            moments: the last frame and the first of each segment, [B, R] each.

        Returns:
            Recalled.prefixes.
        """
        return self.recalled(embeddings, moments).prefixes

    def recalled(self, embeddings: Tensor, moments: Moments) -> Recalled:
        """As `forward`, with what the memory attended to."""
        now = _frames_at(embeddings, moments.frame)
        if self.memory is None:
            return self.recall(now, None, moments)
        # Nobody asks for a sequence's last frame or what follows it. (Of a video's first frame nobody asks anything.)
        lengths = moments.frame.amax(1).clamp(min=1)
        stored = embeddings.detach() if self.memory.gradient == "detached" else embeddings
        layers = self.remember(stored, lengths)
        held = next(iter(layers.values())).keys.shape[2]
        return self.recall(now, Remembered(layers, stored[:, :held]), moments)

    def remember(self, embeddings: Tensor, lengths: Tensor | None = None) -> dict[int, History]:
        """What each memory layer stores of frames: the frame-parallel pass.

        A layer's keys and values depend only on the layers below, so all frames go through a layer at once,
        and a block-causal rule on what a query may retrieve makes it the same as frame by frame. The top memory
        layer only stores: nobody but a segment's last frame asks it anything.

        Args:
            embeddings: [B, T, E].
            lengths: [B], how many frames of each sequence are wanted; all if None.

        Returns:
            Of each memory layer's number what it stores, T being the longest of the lengths; zeros behind the others.
        """
        if self.memory is None:
            return {}
        if torch.is_grad_enabled() and self.memory.gradient == "through":
            return self._remember(embeddings, embeddings.new_zeros(1, 1, dtype=torch.int64), lambda _, stored: stored)
        # Nothing is kept for backward, so some frames at a time can go through all layers.
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
        """`remember` frames that others were remembered before.

        Args:
            embeddings: [B, T, E].
            first: [B, 1] int64, how many frames of each sequence were remembered before these.
            keep: takes a layer's number and what it stores of these frames, and returns all that it has stored.
        """
        self._remember(embeddings, first, keep)

    def frames_at_once(self, device: torch.device) -> int:
        """Frames, of all sequences together, that go through the layers at once when no gradient is wanted."""
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
            x = x.to(product_dtype(x))  # half the bytes between the layers, too
        for number in range(1, top + 1):
            layer, own, history = self._layer(number), None, None
            if number in self.memory.layers:
                own = layer.store(x)
                history = histories[number] = keep(number, own)
            if number < top:
                x = self._blockwise(layer, x, own, history, moments)
        return histories

    def recall(self, embeddings: Tensor, remembered: Remembered | None, moments: Moments) -> Recalled:
        """What the last frames of segments, embeddings [B, R, E], make of what was stored before them."""
        x, attended = self._through(embeddings, remembered, moments)
        if self.memory is None or not self.memory.keyframes:
            return Recalled(self._prefix(x), attended)
        keyframes = self._keyframes(embeddings, attended, remembered, moments)  # [B, R, keyframes, E]
        earlier, _ = self._through(keyframes.flatten(1, 2), None, moments)
        earlier = self._prefix(earlier).unflatten(1, (-1, self.memory.keyframes))
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
        """Keyframes [B, R, keyframes, E] of segments; the last frame's where there is none before it."""
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
        """`layer` over blocks of query frames, each computed again when its gradient is wanted.

        So a long sequence costs what goes into a layer and what comes out of it, not what happens in between.

        Args:
            own: what the layer stores of x, if it is a memory layer.
        """
        frames = x.shape[1]
        if not frames:  # a stream has none to remember before a segment that begins with it
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
        numbers = 16 * width  # of a token, counting what backward needs: norms, queries, keys, values, feed-forward
        if history is not None:
            assert self.memory is not None
            _, heads, frames, _, head_width = history.keys.shape
            # A score for every key or, if that is less, the neighbours' keys and values; and a weight for every frame.
            # Without gradients the neighbours' scores and places.
            neighbours = self.memory.k * (2 * head_width if torch.is_grad_enabled() else 8)
            numbers += heads * (2 * min(frames * tokens, neighbours) + frames)
        return max(1, BLOCK_NUMBERS // (batch * tokens * numbers))


class _InBlocks(torch.autograd.Function):
    """What `run` makes of blocks of x [B, T, N, D], each computed again when its gradient is wanted.

    As torch.utils.checkpoint of each block, but gradients are summed in place: autograd would make one as large as x,
    and one as large as all keys, for each block, and leave the process's memory in pieces that no other tensor fits.
    """

    @staticmethod
    def forward(
        ctx: Any, run: Callable[..., Tensor], blocks: list[slice], x: Tensor, shared: int, *others: Tensor
    ) -> Tensor:
        """
        Args:
            run: called with a block, x of that block, and the shared tensors.
            others: the `shared` tensors that every block sees, then the parameters that `run` uses.
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


class MlpMapper(nn.Module):
    """ClipCap's other mapper: one hidden layer, no attention, so no memory either."""

    def __init__(self, config: MapperConfig) -> None:
        super().__init__()
        self.config = config
        wide = config.decoder_width * config.prefix_tokens
        self.layers = nn.Sequential(nn.Linear(config.embedding_width, wide // 2), nn.Tanh(), nn.Linear(wide // 2, wide))

    def forward(self, embeddings: Tensor, moments: Moments) -> Tensor:
        """[B, T, E] -> [B, R, P, decoder width], from the last frame of each segment."""
        prefix = self.layers(_frames_at(embeddings, moments.frame))
        return prefix.unflatten(-1, (self.config.prefix_tokens, -1))


Mapper = TransformerMapper | MlpMapper


def build_mapper(config: MapperConfig, memory: MemoryConfig | None) -> Mapper:
    if config.kind == "mlp":
        if memory:
            raise ValueError("the mlp mapper has no layers for a memory; set mapper.kind: transformer")
        return MlpMapper(config)
    return TransformerMapper(config, memory)


def _frames_at(embeddings: Tensor, frame: Tensor) -> Tensor:
    """embeddings [B, T, E], frame [B, R] -> [B, R, E]."""
    return embeddings.gather(1, frame[:, :, None].expand(-1, -1, embeddings.shape[-1]))
