"""The reader: a question's words attend to each other and to stored frames, and what they then are is the answer.

One network for all ways of watching; they differ in the frames that a question may attend to (`allowed`): none, the
last, those of glimpses, or all so far, of which each head takes the k nearest (pipeline/captioner/memory.py does so for
captions). Keys and values of frames do not depend on questions: a video is remembered once, for all that is asked.

Two things need not be learned from answers. Which frames look like what a word names: the encoder's own text tower
knows it, so a head adds that cosine to its logits. And which of two moments was first: ages that two words found are
subtracted before a network sees them.

V videos, or questions that see frames of their own   R questions of each   L words   T frames
E embedding width   D width   H heads   d = D / H   S states of the language model   K answers in the list
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INITIAL_SCALE = 10.0  # of cosines
LOOKS_SCALE = 20.0  # at first, of the cosines of words and frames, in heads that look for what words name
AGE_BIAS = 1.5  # of a logit, per unit of log(1 + age in seconds), in heads that begin by looking at some ages
NEVER = -1e4  # a logit that gets no weight
PERIODS_S = tuple(2.0**power for power in range(8))  # 1 s to 2 min: of the sine waves that an age is told by
WAVES = 2 * len(PERIODS_S) + 1
EVERY = 10**9  # k: all keys
MAX_WORDS = 64  # of a question; what is longer is cut
BUCKETS = 4096  # of words: each has a learned vector, which words with the same hash share


@dataclass(frozen=True)
class ReaderConfig:
    embedding_width: int  # E
    text_width: int  # S, of the language model's states
    width: int  # D
    heads: int
    layers: int
    k: int | None  # keys that a head attends to, per word; None: all
    timed: bool  # whether it is known how long ago a frame was
    answers: int  # K


@dataclass(frozen=True)
class Memory:
    """What is stored of frames: of every layer keys and values [V, H, T, d]; and embeddings of length 1 [V, T, E]."""

    embeddings: Tensor
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def frames(self) -> int:
        return self.embeddings.shape[1]


@dataclass(frozen=True)
class Read:
    features: Tensor  # [V, R, D]
    attended: Tensor  # [V, R, T], the part of all attention that each frame got; sums to 1 at most


def waves(age_s: Tensor) -> Tensor:
    """[...] -> [..., WAVES]."""
    angle = 2 * math.pi * age_s[..., None] / age_s.new_tensor(PERIODS_S)
    return torch.cat([angle.sin(), angle.cos(), age_s[..., None].clamp(min=0).log1p()], dim=-1)


class Frames(nn.Module):
    """A frame, and the one before it: what changed, a single frame does not show."""

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.own = nn.Linear(config.embedding_width, config.width)
        self.before = nn.Linear(config.embedding_width, config.width, bias=False)
        self.out = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width)

    def forward(self, embeddings: Tensor, before: Tensor) -> Tensor:
        """Both [V, T, E] -> [V, T, D]. A frame with none before it has itself there."""
        scale = embeddings.shape[-1] ** 0.5
        own, other = (scale * F.normalize(x, dim=-1) for x in (embeddings, before))
        return self.norm(self.out(F.gelu(self.own(own) + self.before(own - other))))


class Layer(nn.Module):
    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.heads, self.k = config.heads, config.k or EVERY
        width = config.width
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.ask = nn.Linear(width, width), nn.Linear(width, width)  # of words, and of frames
        self.key, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.frame_key, self.frame_value = nn.Linear(width, width), nn.Linear(width, width)
        # How long ago a frame was: what makes a head look there, and what it then knows of it.
        self.age_bias = nn.Linear(WAVES, config.heads, bias=False)
        self.age_value = nn.Linear(config.heads * WAVES, width, bias=False)
        # Training begins with heads that look at what is recent, at any time, and long ago.
        nn.init.zeros_(self.age_bias.weight)
        with torch.no_grad():
            self.age_bias.weight[:, -1] = AGE_BIAS * torch.tensor([-1.0, 0.0, 1.0, 0.0])[torch.arange(config.heads) % 4]
        self.log_scale = nn.Parameter(torch.full((2, config.heads), INITIAL_SCALE).log())
        self.bias = nn.Parameter(torch.zeros(config.heads))
        # Training begins with heads that look for what a word names, at any time and long ago, and with others.
        at_first = torch.tensor([1.0, LOOKS_SCALE, LOOKS_SCALE, 1.0])
        self.log_looks_scale = nn.Parameter(at_first[torch.arange(config.heads) % 4].log())
        self.earlier = nn.Linear(config.heads, width, bias=False)
        # How many frames match, and how well the best one does: a softmax alone tells neither.
        self.match = nn.Linear(2 * config.heads, width)
        self.out = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def store(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [V, H, T, d] of frames [V, T, D]."""
        return F.normalize(self._split(self.frame_key(frames)), dim=-1), self._split(self.frame_value(frames))

    def forward(
        self,
        x: Tensor,
        there: Tensor,
        looks: Tensor,
        stored: tuple[Tensor, Tensor, Tensor] | None,
        allowed: Tensor | None,
        age_s: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """x [V, R, L, D], there [V, R, L] bool, looks [V, R, L, E], allowed [V, R, T] bool, age_s [V, R, T].

        Args:
            stored: of frames keys and values [V, H, T, d] and embeddings [V, T, E].

        Returns x, and the attention that each frame got [V, R, H, L, T].
        """
        normed = self.norm1(x)
        scale = self.log_scale.exp()[..., None, None]  # [2, H, 1, 1]
        own_query = F.normalize(self._split(self.query(normed)), dim=-1)  # [V, R, H, L, d]
        own_key = F.normalize(self._split(self.key(normed)), dim=-1)
        logits = scale[0] * (own_query @ own_key.transpose(-1, -2))  # [V, R, H, L, L]
        logits = logits.masked_fill(~there[:, :, None, None], NEVER)
        tokens = logits.shape[-1]
        mixed = logits.softmax(-1)
        if stored is None or allowed is None:
            return self._after(x, self._join(mixed @ self._split(self.value(normed)))), None
        keys, values, embeddings = stored
        asked = F.normalize(self._split(self.ask(normed)), dim=-1)
        found = scale[1] * (asked @ keys[:, None].transpose(-1, -2)) + self.bias[:, None, None]  # [V, R, H, L, T]
        # A word looks for what it names, and for what the words that it attends to name: "the blue star" is one thing.
        named = F.normalize((looks[:, :, None] + mixed @ looks[:, :, None]), dim=-1)  # [V, R, H, L, E]
        found = found + self.log_looks_scale.exp()[:, None, None] * (
            named @ embeddings[:, None, None].transpose(-1, -2)
        )
        age = waves(age_s) if age_s is not None else None
        if age is not None:
            found = found + self.age_bias(age).permute(0, 1, 3, 2)[:, :, :, None]
        found = found.masked_fill(~allowed[:, :, None, None], NEVER)
        if self.k < found.shape[-1]:
            least = found.topk(self.k, dim=-1).values[..., -1:]
            found = found.masked_fill(found < least, NEVER)
        weights = torch.cat([logits, found], dim=-1).softmax(-1)
        own, paid = weights[..., :tokens], weights[..., tokens:]
        out = own @ self._split(self.value(normed)) + paid @ values[:, None]
        seen = allowed.any(-1)[:, :, None, None]  # [V, R, 1, 1]
        matches = torch.stack([found.logsumexp(-1), found.amax(-1)], dim=-1) / INITIAL_SCALE  # [V, R, H, L, 2]
        matches = matches.permute(0, 1, 3, 2, 4).flatten(3) * seen  # [V, R, L, 2H]
        read = self._join(out) + self.match(matches)
        if age is not None and age_s is not None:
            read = read + self.age_value((paid @ age[:, :, None]).transpose(2, 3).flatten(3))
            read = read + self.earlier(self._earlier(paid, age_s, mixed).transpose(2, 3))
        return self._after(x, read), paid

    @staticmethod
    def _earlier(paid: Tensor, age_s: Tensor, mixed: Tensor) -> Tensor:
        """How much older what the words found is that a word attends to than what it found itself, [V, R, H, L].

        Of each pair the logarithm of 1 + seconds, with the sign of the difference.
        """
        found_s = (paid @ age_s[:, :, None, :, None])[..., 0] / paid.sum(-1).clamp(min=1e-6)
        older_s = found_s[..., None, :] - found_s[..., None]  # [V, R, H, L, L]
        return (mixed * older_s.sign() * older_s.abs().log1p()).sum(-1)

    def _after(self, x: Tensor, read: Tensor) -> Tensor:
        x = x + self.out(read)
        return x + self.feed_forward(self.norm2(x))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(-2, -3)  # [..., N, D] -> [..., H, N, d]

    @staticmethod
    def _join(x: Tensor) -> Tensor:
        return x.transpose(-2, -3).flatten(-2)


class Reader(nn.Module):
    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.config = config
        self.text = nn.Linear(config.text_width, config.width)
        self.words = nn.Embedding(BUCKETS, config.width)
        self.places = nn.Embedding(MAX_WORDS, config.width)
        nn.init.normal_(self.words.weight, std=0.5)
        nn.init.normal_(self.places.weight, std=0.1)
        self.frames = Frames(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(2 * config.width)
        self.list_head = nn.Linear(2 * config.width, config.answers)
        self.option_head = nn.Linear(2 * config.width, 1)
        self.count_head = nn.Linear(2 * config.width, 1)

    def remember(self, embeddings: Tensor, before: Tensor) -> Memory:
        """Keys and values of frames: embeddings and those of the frames before them, [V, T, E] each."""
        frames = self.frames(embeddings, before)
        stored = [layer.store(frames) for layer in self._layers()]
        return Memory(
            F.normalize(embeddings, dim=-1), tuple(keys for keys, _ in stored), tuple(values for _, values in stored)
        )

    def forward(
        self,
        words: Tensor,
        states: Tensor,
        looks: Tensor,
        there: Tensor,
        memory: Memory | None,
        allowed: Tensor | None,
        age_s: Tensor | None,
    ) -> Read:
        """
        Args:
            words: buckets of the questions' words [V, R, L], padded.
            states: what the language model made of them [V, R, L, S].
            looks: what the encoder's text tower makes of each word alone [V, R, L, E], of length 1; or zeros.
            there: which of them are a question's [V, R, L] bool.
            memory: of V videos, or None.
            allowed: which frames each question may attend to [V, R, T] bool.
            age_s: how long ago each of them was [V, R, T]; it counts where the config says timed.
        """
        place = torch.arange(words.shape[-1], device=words.device)
        x = self.text(states) + self.words(words) + self.places(place)
        age_s = age_s if self.config.timed else None
        attended = x.new_zeros(*x.shape[:2], memory.frames if memory else 0)
        for number, layer in enumerate(self._layers()):
            stored = (memory.keys[number], memory.values[number], memory.embeddings) if memory else None
            x, paid = layer(x, there, looks, stored, allowed, age_s)
            if paid is not None:
                of_rows = (paid * there[:, :, None, :, None]).sum((2, 3)) / (there.sum(-1)[..., None] * paid.shape[2])
                attended = attended + of_rows / self.config.layers
        mean = (x * there[..., None]).sum(2) / there.sum(-1, keepdim=True).clamp(min=1)
        return Read(self.norm(torch.cat([mean, x[:, :, 0]], dim=-1)), attended)

    def _layers(self) -> list[Layer]:
        return list(self.layers)  # type: ignore[arg-type]


def flops(config: ReaderConfig, words: int, frames: int, stored: float) -> float:
    """Multiplications and additions of one row of questions, its words attending to so many frames.

    stored: frames whose keys and values are made for it: its share, where several questions use them.
    """
    width = config.width
    per_word = 2 * width * width * 10 * config.layers + 2 * config.text_width * width
    attention = (4 * width + 2 * config.heads * config.embedding_width) * words * (words + frames) * config.layers
    of_frame = 2 * width * (2 * config.embedding_width + width + 2 * width * config.layers)
    return words * per_word + attention + 4 * width * config.answers + stored * of_frame
