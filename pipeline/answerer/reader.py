"""The reader: a question's words attend to each other and to stored frames, and what they then are is the answer.

One network for all ways of watching; they differ in the frames that a question may attend to (`allowed`): none, the
last, those of glimpses, or all so far, of which each head takes the k nearest (pipeline/captioner/memory.py does so for
captions). First each frame looks for itself among those before it: whether a thing is new or back, a question need not
find out. Keys and values of frames do not depend on questions: a video is remembered once, for all that is asked.

Two things need not be learned from answers. Which frames look like what a word names: the encoder's own text tower
knows it, so a head adds that cosine to its logits. And which of two moments was first: ages that two words found are
subtracted before a network sees them.

P periods   V videos, or questions that see frames of their own   R questions of each   L words   T frames   I intervals
E embedding width   D width   H heads   d = D / H   S states of the language model   K answers in the list
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INITIAL_SCALE = 10.0  # of cosines
LOOKS_SCALE = 20.0  # at first, of the cosines of words and frames, in heads that look for what words name
AGE_BIAS = 1.5  # of a logit, per unit of log(1 + age in seconds), in heads that begin by looking at some ages
NEVER = -1e4  # a logit that gets no weight
NOTHING = -30.0  # the logit of a best match where there is none
PERIODS_S = tuple(2.0**power for power in range(8))  # 1 s to 2 min: of the sine waves that an age is told by
WAVES = 2 * len(PERIODS_S) + 1
EVERY = 10**9  # k: all keys
MAX_WORDS = 64  # of a question; what is longer is cut
BUCKETS = 4096  # of words: each has a learned vector, which words with the same hash share
FRAME_HIDDEN = 4  # times the width: hidden units that see a frame
CHUNK = 64  # frames that look back at once: of an hour's thousands, so many fit into a CPU's caches


@dataclass(frozen=True)
class OpenConfig:
    """Of answers that a language model says (pipeline/answerer/saying.py)."""

    prefix: int  # P, vectors that tell it what was found
    decoder_width: int  # of each of them
    max_tokens: int  # of an answer, its end token included


@dataclass(frozen=True)
class ReaderConfig:
    embedding_width: int  # E
    text_width: int  # S, of the language model's states
    width: int  # D
    heads: int
    layers: int
    frame_layers: int  # in which each frame looks back
    k: int | None  # keys that a head attends to, per word or frame; None: all
    timed: bool  # whether it is known how long ago a frame was
    oldest_s: float  # age of a frame in training; what is older counts as that, of which attention knows what to make
    answers: int  # K
    open: OpenConfig | None = None  # None: an answer is chosen from the list


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
    found: Tensor | None  # [V, R, I], the most attention that a word's head in any layer gave to an interval's frames


def waves(age_s: Tensor, oldest_s: float) -> Tensor:
    """[...] -> [..., WAVES]."""
    age_s = age_s.clamp(max=oldest_s)
    angle = 2 * math.pi * age_s[..., None] / age_s.new_tensor(PERIODS_S)
    return torch.cat([angle.sin(), angle.cos(), age_s[..., None].clamp(min=0).log1p()], dim=-1)


def phases(time_s: Tensor) -> Tensor:
    """Cosines and sines of times in the periods of `waves`, [...] -> [..., 2P]."""
    periods_s = time_s.new_tensor(PERIODS_S)
    angle = 2 * math.pi * (time_s[..., None] % periods_s) / periods_s
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def split(x: Tensor, heads: int) -> Tensor:
    """[..., N, D] -> [..., H, N, d]."""
    return x.unflatten(-1, (heads, -1)).transpose(-2, -3)


def join(x: Tensor) -> Tensor:
    """[..., H, N, d] -> [..., N, D]."""
    return x.transpose(-2, -3).flatten(-2)


# Products with what several rows share. Broadcast, it would be copied for each of them.


def of_all_questions(x: Tensor, y: Tensor) -> Tensor:
    """x [V, R, H, L, M] times y [V, H, M, N], which a video's questions share: [V, R, H, L, N]."""
    return (x.transpose(1, 2).flatten(2, 3) @ y).unflatten(2, (x.shape[1], -1)).transpose(1, 2)


def of_all_heads(x: Tensor, y: Tensor) -> Tensor:
    """x [V, R, H, L, M] times y [V, R, M, N], which heads share: [V, R, H, L, N]."""
    return (x.flatten(2, 3) @ y).unflatten(2, (x.shape[2], -1))


def pairs_of_words(looks: Tensor, mixed: Tensor) -> Tensor:
    """Weights of words, by which each names one thing with the words that it attends to: "the blue star".

    What it names is looks + mixed @ looks, scaled to length 1. It equals these weights @ looks and is never made.

    Args:
        looks: each of length 1 or 0 [V, R, L, E].
        mixed: attention of each word to the words of its question [V, R, H, L, L].

    Returns [V, R, H, L, L].
    """
    dots = looks @ looks.transpose(-1, -2)  # [V, R, L, L]
    with_others = of_all_heads(mixed, dots)  # [V, R, H, L, L]
    own, other = dots.diagonal(dim1=-2, dim2=-1)[:, :, None], with_others.diagonal(dim1=-2, dim2=-1)
    length = (own + 2 * other + (with_others * mixed).sum(-1)).clamp(min=1e-12).sqrt()  # [V, R, H, L]
    return (mixed + torch.eye(mixed.shape[-1], device=mixed.device)) / length[..., None]


def nearest(logits: Tensor, k: int) -> tuple[Tensor, Tensor | None]:
    """The k largest of each row [..., T], [..., k], and where they are; None: all are there, in their places."""
    if k >= logits.shape[-1]:
        return logits, None
    return logits.topk(k, dim=-1, sorted=False)


def spread(weights: Tensor, at: Tensor | None, frames: int) -> Tensor:
    """Weights of the nearest as weights of all frames, [..., k] -> [..., T]."""
    if at is None:
        return weights
    return weights.new_zeros(*weights.shape[:-1], frames).scatter(-1, at, weights)


def matches(logits: Tensor) -> Tensor:
    """How many frames match, and how well the best one does, [..., T] -> [..., 2]: a softmax alone tells neither."""
    return torch.stack([logits.logsumexp(-1), logits.amax(-1)], dim=-1).clamp(min=NOTHING) / INITIAL_SCALE


def looks_at_first(heads: int) -> Tensor:
    """Training begins with heads that look for what looks alike, at any time and long ago, and with others: [H]."""
    return torch.tensor([1.0, LOOKS_SCALE, LOOKS_SCALE, 1.0])[torch.arange(heads) % 4]


def feed_forward(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


class Frames(nn.Module):
    """A frame, and the one before it: what changed, a single frame does not show."""

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        hidden = FRAME_HIDDEN * config.width  # of one frame there are many questions: this is no part of the cost
        self.own = nn.Linear(config.embedding_width, hidden)
        self.before = nn.Linear(config.embedding_width, hidden, bias=False)
        self.out = nn.Linear(hidden, config.width)
        self.norm = nn.LayerNorm(config.width)

    def forward(self, embeddings: Tensor, before: Tensor) -> Tensor:
        """Both [V, T, E] -> [V, T, D]. A frame with none before it has itself there."""
        scale = embeddings.shape[-1] ** 0.5
        own, other = (scale * F.normalize(x, dim=-1) for x in (embeddings, before))
        return self.norm(self.out(F.gelu(self.own(own) + self.before(own - other))))


class LookingBack(nn.Module):
    """What each frame finds among those before it, of which each head takes the k nearest."""

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.heads, self.k, self.timed, self.oldest_s = config.heads, config.k or EVERY, config.timed, config.oldest_s
        width = config.width
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.log_scale = nn.Parameter(torch.full((config.heads,), INITIAL_SCALE).log())
        self.log_looks_scale = nn.Parameter(looks_at_first(config.heads).log())
        self.bias = nn.Parameter(torch.zeros(config.heads))
        self.ages = Ages(config)
        self.match = nn.Linear(2 * config.heads, width)
        self.out = nn.Linear(width, width)
        self.feed_forward = feed_forward(width)

    def forward(self, x: Tensor, looks: Tensor, time_s: Tensor) -> Tensor:
        """x [V, T, D], looks [V, T, E] of length 1, time_s [V, T], in the order of time -> [V, T, D]."""
        normed = self.norm1(x)
        query, key = self._sought(normed)
        value = split(self.value(normed), self.heads)  # [V, H, T, d]
        times = phases(time_s)
        read = []
        for start in range(0, x.shape[1], CHUNK):
            end = min(start + CHUNK, x.shape[1])  # later frames are not looked at
            found = self._logits(query[:, :, start:end], key[:, :, :end], looks[:, start:end], looks[:, :end])
            since_s = (time_s[:, start:end, None] - time_s[:, None, :end]).clamp(min=0)[:, None]  # [V, 1, T', T]
            pair = times[:, start:end], times[:, :end], since_s, self.oldest_s
            found = found + self.bias[:, None, None]
            if self.timed:
                found = found + self.ages.biases(*pair)
            number = torch.arange(end, device=x.device)
            earlier = number < number[start:, None]  # [T', T]
            found, at = nearest(found.masked_fill(~earlier, NEVER), self.k)
            # A frame may find nothing: the first one does.
            paid = torch.cat([found, found.new_zeros(*found.shape[:-1], 1)], dim=-1).softmax(-1)[..., :-1]
            paid = spread(paid, at, end)
            own = join(paid @ value[:, :, :end]) + self.match(matches(found).transpose(1, 2).flatten(2))
            if self.timed:
                own = own + self.ages.value(self.ages.means(paid, *pair).transpose(1, 2).flatten(2))
            read.append(own)
        x = x + self.out(torch.cat(read, dim=1))
        return x + self.feed_forward(self.norm2(x))

    def likeness(self, x: Tensor, looks: Tensor, asking: int) -> Tensor:
        """Logits of the first of frames [F, D] and [F, E] among all, in heads that begin with looks, [h, asking, F]."""
        query, key = self._sought(self.norm1(x))
        return self._logits(query[:, :asking], key, looks[:asking], looks)[looks_at_first(self.heads) > 1]

    def _sought(self, normed: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys [..., H, T, d] of frames [..., T, D]."""
        query, key = (F.normalize(split(of(normed), self.heads), dim=-1) for of in (self.query, self.key))
        return query, key

    def _logits(self, query: Tensor, key: Tensor, own: Tensor, other: Tensor) -> Tensor:
        """Of how alike frames are, [..., H, T', T]: by queries and keys [..., H, ., d], and looks [..., ., E]."""
        found = self.log_scale.exp()[:, None, None] * (query @ key.transpose(-1, -2))
        alike = (own @ other.transpose(-1, -2))[..., None, :, :]
        return found + self.log_looks_scale.exp()[:, None, None] * alike


class Ages(nn.Module):
    """How long ago a frame was: what makes a head look there, and what it then knows of it."""

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.bias = nn.Linear(WAVES, config.heads, bias=False)
        self.value = nn.Linear(config.heads * WAVES, config.width, bias=False)
        # Training begins with heads that look at what is recent, at any time, and long ago.
        nn.init.zeros_(self.bias.weight)
        with torch.no_grad():
            self.bias.weight[:, -1] = AGE_BIAS * torch.tensor([-1.0, 0.0, 1.0, 0.0])[torch.arange(config.heads) % 4]

    # Of pairs of frames there are too many to make the waves of each: sin(a - b) and cos(a - b) are products of what is
    # made of a and of b. Both ways below equal those of `waves`.

    def biases(self, own: Tensor, other: Tensor, since_s: Tensor, oldest_s: float) -> Tensor:
        """Of the logits of frames that look at others, [V, H, T', T].

        Args:
            own, other: `phases` of the times of frames [V, T', 2P] and of those that they look at [V, T, 2P].
            since_s: [V, 1, T', T].
        """
        of_sin, of_cos, of_log = self.bias.weight[:, None].split([len(PERIODS_S), len(PERIODS_S), 1], dim=-1)
        cos, sin = own[:, None].chunk(2, dim=-1)  # [V, 1, T', P]
        turned = torch.cat([of_sin * sin + of_cos * cos, of_cos * sin - of_sin * cos], dim=-1)  # [V, H, T', 2P]
        bias = turned @ other[:, None].transpose(-1, -2) + of_log * since_s.log1p()
        oldest = self.bias(waves(since_s.new_tensor(oldest_s), oldest_s))
        return torch.where(since_s < oldest_s, bias, oldest[:, None, None])

    @staticmethod
    def means(paid: Tensor, own: Tensor, other: Tensor, since_s: Tensor, oldest_s: float) -> Tensor:
        """The waves of the ages, weighted by the attention `paid` [V, H, T', T]: [V, H, T', WAVES]."""
        recent = paid * (since_s < oldest_s)
        cos, sin = own[:, None].chunk(2, dim=-1)
        of_cos, of_sin = (recent @ other[:, None]).chunk(2, dim=-1)  # [V, H, T', P]
        logs = (recent * since_s.log1p()).sum(-1, keepdim=True)
        mean = torch.cat([sin * of_cos - cos * of_sin, cos * of_cos + sin * of_sin, logs], dim=-1)
        old = paid.sum(-1, keepdim=True) - recent.sum(-1, keepdim=True)
        return mean + old * waves(since_s.new_tensor(oldest_s), oldest_s)


class Layer(nn.Module):
    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.heads, self.k, self.oldest_s = config.heads, config.k or EVERY, config.oldest_s
        width = config.width
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.ask = nn.Linear(width, width), nn.Linear(width, width)  # of words, and of frames
        self.key, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.frame_key, self.frame_value = nn.Linear(width, width), nn.Linear(width, width)
        self.ages = Ages(config)
        self.log_scale = nn.Parameter(torch.full((2, config.heads), INITIAL_SCALE).log())
        self.bias = nn.Parameter(torch.zeros(config.heads))
        self.log_looks_scale = nn.Parameter(looks_at_first(config.heads).log())
        self.earlier = nn.Linear(config.heads, width, bias=False)
        self.match = nn.Linear(2 * config.heads, width)
        self.out = nn.Linear(width, width)
        self.feed_forward = feed_forward(width)

    def store(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [V, H, T, d] of frames [V, T, D]."""
        return F.normalize(split(self.frame_key(frames), self.heads), dim=-1), split(
            self.frame_value(frames), self.heads
        )

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
            stored: of frames keys and values [V, H, T, d], and the cosine of what each word names to each [V, R, L, T].

        Returns x, and the attention that each frame got [V, R, H, L, T].
        """
        normed = self.norm1(x)
        scale = self.log_scale.exp()[..., None, None]  # [2, H, 1, 1]
        own_query = F.normalize(split(self.query(normed), self.heads), dim=-1)  # [V, R, H, L, d]
        own_key = F.normalize(split(self.key(normed), self.heads), dim=-1)
        logits = scale[0] * (own_query @ own_key.transpose(-1, -2))  # [V, R, H, L, L]
        logits = logits.masked_fill(~there[:, :, None, None], NEVER)
        tokens = logits.shape[-1]
        mixed = logits.softmax(-1)
        if stored is None or allowed is None:
            return self._after(x, join(mixed @ split(self.value(normed), self.heads))), None
        keys, values, alike = stored
        asked = scale[1] * F.normalize(split(self.ask(normed), self.heads), dim=-1)
        named = self.log_looks_scale.exp()[:, None, None] * pairs_of_words(looks, mixed)
        # [V, R, H, 1, T]: what is the same for all words.
        bias = self.bias[:, None, None]
        age = waves(age_s, self.oldest_s) if age_s is not None else None
        if age is not None:
            bias = bias + self.ages.bias(age).permute(0, 1, 3, 2)[:, :, :, None]
        bias = torch.where(allowed[:, :, None, None], bias, NEVER)
        # Scales are in the small factors: of all words and frames there are many pairs.
        found = of_all_questions(asked, keys.transpose(-1, -2)) + of_all_heads(named, alike) + bias
        found, at = nearest(found, self.k)
        weights = torch.cat([logits, found], dim=-1).softmax(-1)
        own, paid = weights[..., :tokens], spread(weights[..., tokens:], at, keys.shape[2])
        out = own @ split(self.value(normed), self.heads) + of_all_questions(paid, values)
        seen = allowed.any(-1)[:, :, None, None]  # [V, R, 1, 1]
        read = join(out) + self.match(matches(found).transpose(2, 3).flatten(3) * seen)
        if age is not None and age_s is not None:
            read = read + self.ages.value(of_all_heads(paid, age).transpose(2, 3).flatten(3))
            read = read + self.earlier(self._earlier(paid, age_s, mixed).transpose(2, 3))
        return self._after(x, read), paid

    @staticmethod
    def _earlier(paid: Tensor, age_s: Tensor, mixed: Tensor) -> Tensor:
        """How much older what the words found is that a word attends to than what it found itself, [V, R, H, L].

        Of each pair the logarithm of 1 + seconds, with the sign of the difference.
        """
        found_s = of_all_heads(paid, age_s[..., None])[..., 0] / paid.sum(-1).clamp(min=1e-6)
        older_s = found_s[..., None, :] - found_s[..., None]  # [V, R, H, L, L]
        return (mixed * older_s.sign() * older_s.abs().log1p()).sum(-1)

    def _after(self, x: Tensor, read: Tensor) -> Tensor:
        x = x + self.out(read)
        return x + self.feed_forward(self.norm2(x))


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
        self.looking_back = nn.ModuleList(LookingBack(config) for _ in range(config.frame_layers))
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(2 * config.width)
        if config.open:
            self.open_head = nn.Linear(2 * config.width, config.open.prefix * config.open.decoder_width)
        else:
            self.list_head = nn.Linear(2 * config.width, config.answers)
        self.option_head = nn.Linear(2 * config.width, 1)
        self.count_head = nn.Linear(2 * config.width, 1)

    def prefixes(self, features: Tensor, questions: int, places: Sequence[tuple[int, int]]) -> Tensor:
        """What a language model is told before it says the answers to M questions: [M, n, P, its width].

        Args:
            features: [V, R, 2D], of n rows for each of the `questions` of a video.
            places: the video and the question in it of each of the M.
        """
        assert self.config.open
        by_question = (
            self.open_head(features).unflatten(-1, (self.config.open.prefix, -1)).unflatten(1, (questions, -1))
        )
        at_v, at_q = zip(*places, strict=True)
        return by_question[list(at_v), list(at_q)]

    def remember(self, embeddings: Tensor, before: Tensor, time_s: Tensor, learn_from: Tensor | None = None) -> Memory:
        """Keys and values of frames in the order of time.

        Args:
            embeddings, before: theirs, and those of the frames before them, [V, T, E] each.
            time_s: theirs [V, T]; it counts where the config says timed.
            learn_from: as LookingBack's.
        """
        frames, looks = self.frames(embeddings, before), F.normalize(embeddings, dim=-1)
        for layer in self.looking_back:
            frames = layer(frames, looks, time_s)
        stored = [layer.store(frames) for layer in self._layers()]
        return Memory(looks, tuple(keys for keys, _ in stored), tuple(values for _, values in stored))

    def likeness(self, embeddings: Tensor, before: Tensor, asking: int) -> Tensor:
        """How alike the first frames are to all, as the heads of the first layer find that look for what looks alike
        when frames look back, logits [heads, asking, F].

        Args:
            embeddings, before: of frames of any videos, and of the frames before them [F, E] each.
        """
        [layer, *_] = self.looking_back
        assert isinstance(layer, LookingBack)
        return layer.likeness(self.frames(embeddings, before), F.normalize(embeddings, dim=-1), asking)

    def forward(
        self,
        words: Tensor,
        states: Tensor,
        looks: Tensor,
        there: Tensor,
        memory: Memory | None,
        allowed: Tensor | None,
        age_s: Tensor | None,
        evidence: Tensor | None = None,
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
            evidence: which frames are in each interval [V, R, I, T] bool; None: `found` is not asked for.
        """
        place = torch.arange(words.shape[-1], device=words.device)
        x = self.text(states) + self.words(words) + self.places(place)
        age_s = age_s if self.config.timed else None
        attended = x.new_zeros(*x.shape[:2], memory.frames if memory else 0)
        found = x.new_zeros(evidence.shape[:3]) if evidence is not None else None
        alike = None
        if memory:
            alike = (looks.flatten(1, 2) @ memory.embeddings.transpose(-1, -2)).unflatten(1, looks.shape[1:3])
        for number, layer in enumerate(self._layers()):
            stored = None
            if memory and alike is not None:
                stored = memory.keys[number], memory.values[number], alike
            x, paid = layer(x, there, looks, stored, allowed, age_s)
            if paid is not None:
                of_rows = (paid * there[:, :, None, :, None]).sum((2, 3)) / (there.sum(-1)[..., None] * paid.shape[2])
                attended = attended + of_rows / self.config.layers
                if found is not None and evidence is not None:
                    of_words = paid.masked_fill(~there[:, :, None, :, None], 0.0).flatten(2, 3)  # [V, R, H * L, T]
                    found = torch.maximum(found, (of_words @ evidence.to(x.dtype).transpose(-1, -2)).amax(2))
        mean = (x * there[..., None]).sum(2) / there.sum(-1, keepdim=True).clamp(min=1)
        return Read(self.norm(torch.cat([mean, x[:, :, 0]], dim=-1)), attended, found)

    def _layers(self) -> list[Layer]:
        return list(self.layers)  # type: ignore[arg-type]


def asking_flops(config: ReaderConfig, words: int, frames: int) -> float:
    """Multiplications and additions of one question, whose words attend to so many stored frames."""
    width, heads, embedding = config.width, config.heads, config.embedding_width
    of_pair = 4 * width  # of two words, or of a word and a frame
    total = float(words * (16 * width * width + words * of_pair))
    if frames:
        of_looks = 2 * words * embedding + 2 * (words + frames) * heads * words
        total += words * (2 * width * width + 4 * heads * width + frames * of_pair + of_looks)
        if config.timed:
            total += 2 * heads * (frames * WAVES + words * (frames * (WAVES + 1) + (WAVES + 1) * width))
    once = 2 * config.text_width * width * words + 2 * words * frames * embedding + 4 * width * config.answers
    return config.layers * total + once


def storing_flops(config: ReaderConfig, frames: int) -> float:
    """Multiplications and additions of `Reader.remember`, for so many frames of a video."""
    width, heads, embedding = config.width, config.heads, config.embedding_width
    of_frame = 2 * FRAME_HIDDEN * width * (2 * embedding + width) + 4 * width * width * config.layers
    of_frame += config.frame_layers * (16 * width * width + 4 * heads * width)
    of_pair = 4 * width + 2 * embedding  # of a frame and one that it may look back at
    ends = [min(start + CHUNK, frames) for start in range(0, frames, CHUNK)]
    of_chunk = 0
    if config.timed:
        of_frame += config.frame_layers * 2 * heads * WAVES * width
        of_pair += 4 * heads * (WAVES - 1)
        of_chunk = 2 * heads * WAVES
    pairs = sum((end - start) * end for start, end in zip([0, *ends], ends, strict=False))
    return float(frames * of_frame + config.frame_layers * (pairs * of_pair + len(ends) * of_chunk))
