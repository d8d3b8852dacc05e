"""The built-in encoder: a small CLIP, trained on pictures and their captions.

B pictures of a batch   S side of a picture   E embedding width   L tokens
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import groupby, permutations
from operator import itemgetter
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.backbones.small_training import minimise, reproducible
from pipeline.backbones.training_data import Picture
from pipeline.device import choose_dtype
from pipeline.features.encoder import Preprocess
from pipeline.params import ENCODER_HEAD_WIDTH

ZOOM, SHIFT, LIGHT = 0.08, 0.04, 0.1  # largest change: of the size, of the side, of the contrast
HARDNESS_DECAY = 0.9  # decay of the average of how often a swap was mistaken for the true caption
UNKNOWN_HARDNESS, MIN_HARDNESS = 0.5, 0.01

T = TypeVar("T")


@dataclass(frozen=True)
class TrainedEncoder:
    config: dict[str, Any]  # open_clip's model_cfg
    model: nn.Module
    loss: float  # of the last steps
    top1: float  # share of held-out pictures whose own caption is the nearest of all


def train_encoder(
    train: Sequence[Picture],
    held_out: Sequence[Picture],
    *,
    image_px: int,
    embedding_width: int,
    vision_width: int,
    text_width: int,
    text_layers: int,
    swaps: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    device: torch.device,
) -> TrainedEncoder:
    """A small CLIP (Radford et al. 2021): open_clip's own ResNet, text transformer, tokenizer and loss.

    Args:
        swaps: number of captions with one word exchanged that are added to those each picture is compared with.
    """
    words = _Words()
    tokens = words.tokens(sorted({caption for picture in (*train, *held_out) for caption in picture.captions}))
    context_length = int((tokens != 0).sum(1).max())  # as long as the longest caption
    config = _model_config(
        image_px, embedding_width, vision_width, text_width, text_layers, context_length, words.vocabulary
    )
    preprocess_config = {"size": image_px, "interpolation": "bicubic", "resize_mode": "shortest"}
    preprocess = Preprocess(preprocess_config)
    pixels = torch.stack([preprocess.pixels(picture.jpeg) for picture in (*train, *held_out)])  # uint8 [n, 3, S, S]

    with reproducible(seed):
        model = _random_clip(config, preprocess_config).to(device, memory_format=torch.channels_last)
        generator = torch.Generator().manual_seed(seed)
        with _words_in_use(model, tokens) as used:
            towers = _Towers(model, preprocess, pixels, words, used, context_length, generator)
            loss = _contrastive_loss(towers, train, batch_size, swaps, seed)
            final = minimise(model, loss, steps, learning_rate, name="encoder")
            model.eval()
            with torch.inference_mode():
                images = towers.images(range(len(train), len(pixels)))
                texts = towers.texts([picture.captions[0] for picture in held_out])
            top1 = _retrieval(images, texts, groups_of([picture.captions for picture in held_out]))
    return TrainedEncoder(config, model, final, top1)


def _model_config(
    image_px: int,
    embedding_width: int,
    vision_width: int,
    text_width: int,
    text_layers: int,
    context_length: int,
    vocabulary: int,
) -> dict[str, Any]:
    """open_clip's model_cfg: a ResNet of one block a stage, and a text transformer."""
    return {
        "embed_dim": embedding_width,
        "vision_cfg": {
            "layers": [1, 1, 1, 1],
            "width": vision_width,
            "head_width": ENCODER_HEAD_WIDTH,
            "image_size": image_px,
        },
        "text_cfg": {
            "context_length": context_length,
            "vocab_size": vocabulary,
            "width": text_width,
            "heads": max(text_width // ENCODER_HEAD_WIDTH, 1),
            "layers": text_layers,
        },
    }


def _random_clip(config: Mapping[str, Any], preprocess_config: Mapping[str, Any]) -> Any:
    import open_clip
    from open_clip.transform import PreprocessCfg

    model = open_clip.model.CLIP(**config)
    open_clip.model.set_model_preprocess_cfg(model, vars(PreprocessCfg(**preprocess_config)))
    return model


class _Words:
    """open_clip's tokenizer, word by word: cleaning a whole text with it takes longer than the text tower."""

    def __init__(self) -> None:
        from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, SimpleTokenizer

        tokenizer = SimpleTokenizer()
        self.vocabulary, self.longest = tokenizer.vocab_size, DEFAULT_CONTEXT_LENGTH
        self._encode = cache(tokenizer.encode)
        self._start, self._end = tokenizer.sot_token_id, tokenizer.eot_token_id

    def tokens(self, texts: Sequence[str], length: int | None = None) -> Tensor:
        """int64 [n, length], the tokenizer's ids; 0 after a text's end."""
        length = length or self.longest
        tokens = torch.zeros(len(texts), length, dtype=torch.int64)
        for row, text in zip(tokens, texts, strict=True):
            ids = [token for word in text.split() for token in self._encode(word)][: length - 2]
            row[: len(ids) + 2] = torch.tensor([self._start, *ids, self._end])
        return tokens


class _Towers:
    """Normalised features of pictures and of texts, [n, E] both."""

    def __init__(
        self,
        model: Any,
        preprocess: Preprocess,
        pixels: Tensor,
        words: _Words,
        used: Tensor,
        context_length: int,
        generator: torch.Generator,
    ) -> None:
        self.model, self.preprocess, self.pixels = model, preprocess, pixels
        self.words, self.used, self.context_length, self.generator = words, used, context_length, generator
        self.device = model.logit_scale.device
        bf16 = choose_dtype("auto", self.device) == torch.bfloat16
        self.autocast = lambda: torch.autocast(self.device.type, torch.bfloat16, enabled=bf16)

    def images(self, rows: Sequence[int]) -> Tensor:
        """Features of these pictures; jittered while the model trains."""
        images = self.preprocess.normalised(self.pixels[list(rows)].to(self.device))  # [B, 3, S, S]
        if self.model.training:
            images = jittered(images, self.generator)
        with self.autocast():
            features = self.model.encode_image(images.contiguous(memory_format=torch.channels_last))
        return F.normalize(features.float(), dim=-1)

    def texts(self, texts: Sequence[str]) -> Tensor:
        numbered = torch.searchsorted(self.used, self.words.tokens(texts, self.context_length))  # [B, L]
        with self.autocast():
            features = self.model.encode_text(numbered.to(self.device))
        return F.normalize(features.float(), dim=-1)


def _contrastive_loss(
    towers: _Towers, train: Sequence[Picture], batch_size: int, swaps_each: int, seed: int
) -> Callable[[], Tensor]:
    """The loss of the next batch: CLIP's, plus one for telling a caption from a copy with one word exchanged.

    In a random batch a colour and a place are enough to tell pictures apart, and a CLIP learns no more than it has to.
    With one word exchanged, every word counts (NegCLIP: Yuksekgonul et al. 2023).
    """
    import open_clip

    captions = [picture.captions for picture in train]
    batches = distinct_batches(groups_of(captions), batch_size, towers.generator)
    swaps = _HardSwaps(_interchangeable(captions), seed)
    clip_loss, device = open_clip.ClipLoss(), towers.device

    def loss() -> Tensor:
        rows = next(batches)
        right = [_one_of(train[row].captions, towers.generator) for row in rows]
        wrong = [swaps.draw(caption) for caption in right for _ in range(swaps_each)]
        images = towers.images(rows)
        texts = towers.texts([*right, *(swap.caption if swap else "" for swap in wrong)])  # [B * (1 + swaps), E]
        scale = towers.model.logit_scale.clamp(max=np.log(100)).exp()
        contrast = clip_loss(images, texts[: len(rows)], scale)
        beside = texts[len(rows) :].view(len(rows), swaps_each, -1)  # [B, swaps, E]
        choices = torch.cat([texts[: len(rows), None], beside], dim=1)  # [B, 1 + swaps, E]
        logits = scale * (choices @ images[:, :, None])[..., 0]  # [B, 1 + swaps]
        none = torch.tensor([swap is None for swap in wrong], device=device).view(-1, swaps_each)
        logits = torch.cat([logits[:, :1], logits[:, 1:].masked_fill(none, -torch.inf)], dim=1)
        swaps.learn(wrong, (logits[:, 1:] - logits[:, :1]).detach().sigmoid().flatten().tolist())
        return contrast + F.cross_entropy(logits, torch.zeros(len(rows), dtype=torch.int64, device=device))

    return loss


def jittered(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture [B, 3, S, S] shifted, scaled and relit a little, but not enough to make its captions wrong."""
    count = len(images)
    draws = (2 * torch.rand(count, 4, generator=generator) - 1).to(images.device)  # [B, 4], -1..1
    grid = torch.zeros(count, 2, 3, device=images.device)
    grid[:, 0, 0] = grid[:, 1, 1] = 1 + ZOOM * draws[:, 0]
    grid[:, :, 2] = 2 * SHIFT * draws[:, 1:3]  # in these coordinates a side has length 2
    sampled = F.grid_sample(
        images,
        F.affine_grid(grid, list(images.shape), align_corners=False),
        padding_mode="border",
        align_corners=False,
    )
    return sampled * (1 + LIGHT * draws[:, 3, None, None, None])


def groups_of(captions: Sequence[Sequence[str]]) -> list[int]:
    """A group number per picture; pictures that share a caption, directly or through others, are in one group."""
    leader: dict[str, str] = {}

    def led(caption: str) -> str:
        while leader.setdefault(caption, caption) != caption:
            caption = leader[caption]
        return caption

    for first, *others in captions:
        for caption in others:
            leader[led(caption)] = led(first)
    names = {led(first): i for i, (first, *_) in enumerate(captions)}
    return [names[led(first)] for first, *_ in captions]


def distinct_batches(groups: Sequence[int], batch_size: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Endless batches of rows, no two from the same group: equivalent pictures must not be told apart."""
    batch_size = min(batch_size, len(set(groups)))
    batch: dict[int, int] = {}
    while True:
        for row in torch.randperm(len(groups), generator=generator).tolist():
            batch.setdefault(groups[row], row)
            if len(batch) == batch_size:
                yield list(batch.values())
                batch = {}


def _interchangeable(captions: Iterable[Sequence[str]]) -> dict[str, list[str]]:
    """For each word, the words that replace it in otherwise equal captions, but never for the same picture.

    "a red star" and "a red ring", of two pictures, make star and ring interchangeable; "a red star" and
    "one red star", of the same picture, show that a and one mean the same.
    """
    anywhere: dict[tuple[str, ...], set[str]] = {}
    synonyms: set[tuple[str, str]] = set()
    for of_one in captions:
        here: dict[tuple[str, ...], set[str]] = {}
        for caption in of_one:
            words = caption.split()
            for i, word in enumerate(words):
                frame = (*words[:i], "", *words[i + 1 :])
                anywhere.setdefault(frame, set()).add(word)
                here.setdefault(frame, set()).add(word)
        synonyms.update(pair for together in here.values() for pair in permutations(together, 2))
    pairs = {pair for together in anywhere.values() for pair in permutations(together, 2)} - synonyms
    return {word: [other for _, other in of_one] for word, of_one in groupby(sorted(pairs), key=itemgetter(0))}


@dataclass(frozen=True)
class _Swap:
    caption: str
    pair: tuple[str, str]  # the word and its replacement


class _HardSwaps:
    """Captions with one word exchanged. The harder an exchange was to notice so far, the more often it is drawn.

    Colours are told apart within a few steps; circles and squares take most of the training, and get it.
    """

    def __init__(self, others: Mapping[str, Sequence[str]], seed: int) -> None:
        self._others = others
        self._hardness = {(word, other): UNKNOWN_HARDNESS for word in others for other in others[word]}
        self._random = random.Random(seed)

    def draw(self, caption: str) -> _Swap | None:
        """A swap, or None if no word can be exchanged."""
        words = caption.split()
        choices = [(i, other) for i, word in enumerate(words) for other in self._others.get(word, ())]
        if not choices:
            return None
        weights = [self._hardness[words[i], other] for i, other in choices]
        i, other = self._random.choices(choices, weights)[0]
        return _Swap(" ".join([*words[:i], other, *words[i + 1 :]]), (words[i], other))

    def learn(self, swaps: Sequence[_Swap | None], mistaken: Sequence[float]) -> None:
        """Record how strongly (0 to 1) the model mistook each of the swaps for the true caption."""
        for swap, share in zip(swaps, mistaken, strict=True):
            if swap:
                hardness = HARDNESS_DECAY * self._hardness[swap.pair] + (1 - HARDNESS_DECAY) * share
                self._hardness[swap.pair] = max(hardness, MIN_HARDNESS)


@contextmanager
def _words_in_use(model: Any, tokens: Tensor) -> Iterator[Tensor]:
    """Train only the embeddings of the words in `tokens`. Yields these words; meanwhile a word's id is its position.

    open_clip's vocabulary is CLIP's, 49,408 words, of which a small dataset has a hundred: updating the rest
    would take longer than the text tower. The order stays, so the end token is still the largest.
    """
    used = tokens.unique()
    whole = model.token_embedding
    model.token_embedding = nn.Embedding.from_pretrained(
        whole.weight.detach()[used.to(whole.weight.device)], freeze=False
    )
    yield used
    with torch.no_grad():
        whole.weight[used.to(whole.weight.device)] = model.token_embedding.weight
    model.token_embedding = whole


def _retrieval(images: Tensor, texts: Tensor, groups: Sequence[int]) -> float:
    """The share of pictures whose nearest caption belongs to their own group; [n, E] both, normalised."""
    nearest = (images @ texts.T).argmax(1).tolist()
    return sum(groups[i] == groups[j] for i, j in enumerate(nearest)) / max(len(nearest), 1)


def _one_of(choices: Sequence[T], generator: torch.Generator) -> T:
    return choices[int(torch.randint(len(choices), (), generator=generator))]
