"""The pair that everything else stands on: where an encoder and a decoder come from, and how they become files.

For real work they are fetched. The built-in pair is trained here, in about a minute, on pictures and captions alone,
the way the real ones were: a CLIP by contrast, a GPT-2 by the next token.

B batch   S side of a picture   E embedding width   L tokens
"""

import json
import pickle
import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import groupby, permutations
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from pipeline.decoder import read_pretrained, save_decoder
from pipeline.device import choose_dtype
from pipeline.encoder import CONFIG_FILE, WEIGHTS_FILE, Preprocess

REQUEST_FILE = "request.json"
END = "<|endoftext|>"
POSITIONS = 128  # of the built-in decoder: prefix and caption together
HEAD_WIDTH = 32
WARMUP = 0.1  # of the steps
ZOOM, SHIFT, LIGHT = 0.08, 0.04, 0.1  # at most: of the size, of the side, of the contrast
TEXT_LAYERS = 2
SWAPS = 3  # captions with a word exchanged, per picture and step
HARDNESS_DECAY = 0.9  # how slowly a swap's hardness follows what is seen of it
UNKNOWN_HARDNESS, LEAST_HARDNESS = 0.5, 0.01

T = TypeVar("T")


@dataclass(frozen=True)
class Picture:
    jpeg: bytes
    captions: tuple[str, ...]


def keep_or_make(folder: Path, request: Mapping[str, Any], make: Callable[[Path], str]) -> str:
    """What `make(an empty folder)` says of its work, or "kept" if `folder` is already what `request` asks for.

    The request lies in the folder, so that a fetched model needs the network once, whatever else changes. A
    folder gets its name only when it is whole.
    """
    wanted = json.dumps(request, indent=2, sort_keys=True) + "\n"
    note = folder / REQUEST_FILE
    if note.is_file() and note.read_text() == wanted:
        return "kept"
    aside = folder.with_name(folder.name + ".aside")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    said = make(aside)
    (aside / REQUEST_FILE).write_text(wanted)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    return said


# The encoder


def fetch_encoder(folder: Path, model: str, pretrained: str) -> None:
    """Write open_clip's `model` with `pretrained` weights (a tag of it, or a checkpoint file) into `folder`.

    ValueError for a name or a file that open_clip does not know. Checkpoints are read without unpickling objects.
    """
    import open_clip

    if model not in open_clip.list_models():
        near = ", ".join(_alike(model, open_clip.list_models()))
        raise ValueError(f"backbones.encoder.model: open_clip has no {model!r}; near it: {near}")
    tags = open_clip.list_pretrained_tags_by_model(model)
    if pretrained not in tags and not Path(pretrained).is_file():
        raise ValueError(
            f"backbones.encoder.pretrained: {pretrained!r} is neither a file nor a tag of {model}; "
            f"its tags: {', '.join(tags) or 'none'}"
        )
    tag = open_clip.get_pretrained_cfg(model, pretrained) or {}
    # A tag's own activation, where it is not the config's: openai's weights are wrong without QuickGELU.
    quick = {"force_quick_gelu": True} if tag.get("quick_gelu") else {}
    try:
        loaded = open_clip.create_model(model, pretrained, require_pretrained=True, weights_only=True, **quick)
    except (RuntimeError, OSError, ValueError, pickle.UnpicklingError) as error:
        raise ValueError(f"backbones.encoder: {model} with {pretrained} could not be loaded: {error}") from error
    config = open_clip.get_model_config(model)
    assert config is not None
    save_encoder(folder, config | ({"quick_gelu": True} if quick else {}), loaded)


def save_encoder(folder: Path, model_config: dict[str, Any], model: Any) -> None:
    """Write a CLIP as open_clip reads it back from `local-dir:folder`, text tower included."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": model_config, "preprocess_cfg": model.visual.preprocess_cfg}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / WEIGHTS_FILE)


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
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    device: torch.device,
) -> TrainedEncoder:
    """A small CLIP (Radford et al. 2021): open_clip's own ResNet, text transformer, tokenizer and loss."""
    import open_clip
    from open_clip.tokenizer import SimpleTokenizer
    from open_clip.transform import PreprocessCfg

    tokenizer = SimpleTokenizer()
    word_tokens = cache(tokenizer.encode)  # its cleaning of a text takes longer than the text tower

    def tokenize(texts: Sequence[str], length: int) -> Tensor:
        """int64 [n, length]: what the tokenizer gives, word by word."""
        tokens = torch.zeros(len(texts), length, dtype=torch.int64)
        for row, text in zip(tokens, texts, strict=True):
            ids = [token for word in text.split() for token in word_tokens(word)][: length - 2]
            row[: len(ids) + 2] = torch.tensor([tokenizer.sot_token_id, *ids, tokenizer.eot_token_id])
        return tokens

    every = sorted({caption for picture in (*train, *held_out) for caption in picture.captions})
    tokens = tokenize(every, open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH)
    context_length = int((tokens != 0).sum(1).max())  # as long as the longest caption

    config = {
        "embed_dim": embedding_width,
        "vision_cfg": {
            "layers": [1, 1, 1, 1],
            "width": vision_width,
            "head_width": HEAD_WIDTH,
            "image_size": image_px,
        },
        "text_cfg": {
            "context_length": context_length,
            "vocab_size": tokenizer.vocab_size,
            "width": text_width,
            "heads": max(text_width // HEAD_WIDTH, 1),
            "layers": TEXT_LAYERS,
        },
    }
    preprocess_config = {"size": image_px, "interpolation": "bicubic", "resize_mode": "shortest"}
    preprocess = Preprocess(preprocess_config)
    pixels = torch.stack([preprocess.pixels(picture.jpeg) for picture in (*train, *held_out)])  # uint8 [n, 3, S, S]

    bf16 = choose_dtype("auto", device) == torch.bfloat16
    with _reproducible(seed):
        model = open_clip.model.CLIP(**config).to(device, memory_format=torch.channels_last)
        open_clip.model.set_model_preprocess_cfg(model, vars(PreprocessCfg(**preprocess_config)))
        generator = torch.Generator().manual_seed(seed)
        batches = _distinct_batches(_groups([picture.captions for picture in train]), batch_size, generator)
        swaps = _HardSwaps(_interchangeable([picture.captions for picture in train]), seed)
        clip_loss = open_clip.ClipLoss()

        def image_features(rows: Sequence[int]) -> Tensor:
            images = preprocess.normalised(pixels[list(rows)].to(device))  # [B, 3, S, S]
            if model.training:
                images = _jittered(images, generator)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                features = model.encode_image(images.contiguous(memory_format=torch.channels_last))
            return F.normalize(features.float(), dim=-1)  # [B, E]

        with _words_in_use(model, tokens) as used:

            def text_features(texts: Sequence[str]) -> Tensor:
                numbered = torch.searchsorted(used, tokenize(texts, context_length)).to(device)  # [B, L]
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    features = model.encode_text(numbered)
                return F.normalize(features.float(), dim=-1)  # [B, E]

            def loss() -> Tensor:
                rows = next(batches)
                right = [_one_of(train[row].captions, generator) for row in rows]
                wrong = [swaps.draw(caption) for caption in right for _ in range(SWAPS)]
                images = image_features(rows)
                texts = text_features(
                    [*right, *(swap.caption if swap else "" for swap in wrong)]
                )  # [B * (1 + SWAPS), E]
                scale = model.logit_scale.clamp(max=np.log(100)).exp()
                contrast = clip_loss(images, texts[: len(rows)], scale)
                # Among strangers a colour and a place tell pictures apart, and a CLIP learns no more than it has
                # to. One word exchanged makes every word count (NegCLIP: Yuksekgonul et al. 2023).
                beside = texts[len(rows) :].view(len(rows), SWAPS, -1)  # [B, SWAPS, E]
                choices = torch.cat([texts[: len(rows), None], beside], dim=1)  # [B, 1 + SWAPS, E]
                logits = scale * (choices @ images[:, :, None])[..., 0]  # [B, 1 + SWAPS]
                none = torch.tensor([swap is None for swap in wrong], device=device).view(-1, SWAPS)
                logits = torch.cat([logits[:, :1], logits[:, 1:].masked_fill(none, -torch.inf)], dim=1)
                swaps.learn(wrong, (logits[:, 1:] - logits[:, :1]).detach().sigmoid().flatten().tolist())
                return contrast + F.cross_entropy(logits, torch.zeros(len(rows), dtype=torch.int64, device=device))

            final = _optimise(model, loss, steps, learning_rate, name="encoder")
            model.eval()
            with torch.inference_mode():
                images = image_features(range(len(train), len(pixels)))
                texts = text_features([picture.captions[0] for picture in held_out])
            top1 = _retrieval(images, texts, _groups([picture.captions for picture in held_out]))
    return TrainedEncoder(config, model, final, top1)


def _jittered(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture [B, 3, S, S] moved, grown and lit a little differently: so little that its captions stay true."""
    count = len(images)
    draws = (2 * torch.rand(count, 4, generator=generator) - 1).to(images.device)  # [B, 4], -1..1
    grid = torch.zeros(count, 2, 3, device=images.device)
    grid[:, 0, 0] = grid[:, 1, 1] = 1 + ZOOM * draws[:, 0]
    grid[:, :, 2] = 2 * SHIFT * draws[:, 1:3]  # a side is 2 long here
    sampled = F.grid_sample(
        images,
        F.affine_grid(grid, list(images.shape), align_corners=False),
        padding_mode="border",
        align_corners=False,
    )
    return sampled * (1 + LIGHT * draws[:, 3, None, None, None])


def _groups(captions: Sequence[Sequence[str]]) -> list[int]:
    """A number per picture; pictures that share a caption, directly or through others, share it too."""
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


def _distinct_batches(groups: Sequence[int], batch_size: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Endless batches of rows, no two of a group: to tell a picture from its equal is not to be learned."""
    batch_size = min(batch_size, len(set(groups)))
    batch: dict[int, int] = {}
    while True:
        for row in torch.randperm(len(groups), generator=generator).tolist():
            batch.setdefault(groups[row], row)
            if len(batch) == batch_size:
                yield list(batch.values())
                batch = {}


def _interchangeable(captions: Iterable[Sequence[str]]) -> dict[str, list[str]]:
    """For a word, those that stand in its place in captions that are otherwise the same, but never of one picture.

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
    pair: tuple[str, str]  # the word and what stands in its place


class _HardSwaps:
    """Captions with one word exchanged, drawn the more often the harder the exchange was to notice so far.

    A colour is told from another within a few steps; a circle from a square takes most of the training, and gets it.
    """

    def __init__(self, others: Mapping[str, Sequence[str]], seed: int) -> None:
        self._others = others
        self._hardness = {(word, other): UNKNOWN_HARDNESS for word in others for other in others[word]}
        self._random = random.Random(seed)

    def draw(self, caption: str) -> _Swap | None:
        """A swap, or None where nothing can be exchanged."""
        words = caption.split()
        choices = [(i, other) for i, word in enumerate(words) for other in self._others.get(word, ())]
        if not choices:
            return None
        weights = [self._hardness[words[i], other] for i, other in choices]
        i, other = self._random.choices(choices, weights)[0]
        return _Swap(" ".join([*words[:i], other, *words[i + 1 :]]), (words[i], other))

    def learn(self, swaps: Sequence[_Swap | None], mistaken: Sequence[float]) -> None:
        """Take note of how far (0 to 1) the model took each of the swaps for the true caption."""
        for swap, share in zip(swaps, mistaken, strict=True):
            if swap:
                hardness = HARDNESS_DECAY * self._hardness[swap.pair] + (1 - HARDNESS_DECAY) * share
                self._hardness[swap.pair] = max(hardness, LEAST_HARDNESS)


@contextmanager
def _words_in_use(model: Any, tokens: Tensor) -> Iterator[Tensor]:
    """Train the embeddings of the words in `tokens`; yields these words: their positions are their numbers meanwhile.

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
    """The share of pictures whose nearest caption is of their own group; [n, E] both, normalised."""
    nearest = (images @ texts.T).argmax(1).tolist()
    return sum(groups[i] == groups[j] for i, j in enumerate(nearest)) / max(len(nearest), 1)


# The decoder


def fetch_decoder(folder: Path, name: str) -> None:
    """Write the causal language model `name` (of the Hugging Face hub, or a folder) and its tokenizer into `folder`.

    Safetensors only, and none of the repository's code is run. ValueError if it cannot be had that way.
    """
    try:
        model, tokenizer = read_pretrained(name, local_files_only=Path(name).is_dir())
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"backbones.decoder.name: {name!r} could not be loaded: {error}") from error
    save_decoder(folder, model, tokenizer)


@dataclass(frozen=True)
class TrainedDecoder:
    model: Any
    tokenizer: Any
    loss: float  # of the last steps, nats per token
    perplexity: float  # of held-out captions, per token


def train_decoder(
    train: Sequence[tuple[str, ...]],
    held_out: Sequence[tuple[str, ...]],
    *,
    vocabulary: int,
    width: int,
    layers: int,
    heads: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    device: torch.device,
) -> TrainedDecoder:
    """A small GPT-2 (Radford et al. 2019) with its own byte-level BPE.

    Args:
        train: captions, grouped by what they describe. A group stands together in a row of tokens: what stands
            before then bears on what follows, as in any real text, and a prefix can steer the decoder.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = _train_tokenizer([caption for group in train for caption in group], vocabulary)
    ids = [[tokenizer(caption)["input_ids"] for caption in group] for group in train]
    end = tokenizer.eos_token_id
    bf16 = choose_dtype("auto", device) == torch.bfloat16
    with _reproducible(seed):
        config = GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=POSITIONS,
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=end,
            eos_token_id=end,
        )
        model: Any = GPT2LMHeadModel(config)
        model.to(device)
        generator = torch.Generator().manual_seed(seed)
        rows = _rows(ids, end, generator)

        def loss() -> Tensor:
            tokens = torch.tensor([next(rows) for _ in range(batch_size)], device=device)  # [B, L]
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                logits = model(tokens[:, :-1], use_cache=False).logits  # [B, L-1, vocabulary]
            return F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())

        final = _optimise(model, loss, steps, learning_rate, name="decoder")
        model.eval()
        perplexity = _perplexity(
            model, [tokenizer(caption)["input_ids"] for group in held_out for caption in group], end
        )
    return TrainedDecoder(model.cpu(), tokenizer, final, perplexity)


def _train_tokenizer(captions: Sequence[str], vocabulary: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    # A word is the same token at a caption's start as within it.
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(captions, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=END, eos_token=END, model_max_length=POSITIONS)


def _rows(groups: Sequence[Sequence[list[int]]], end: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Endless rows of POSITIONS tokens, cut from the groups in random order."""
    stream = [end]
    while True:
        for group in torch.randperm(len(groups), generator=generator).tolist():
            for caption in torch.randperm(len(groups[group]), generator=generator).tolist():
                stream += [*groups[group][caption], end]
            while len(stream) >= POSITIONS:
                yield stream[:POSITIONS]
                stream = stream[POSITIONS:]


@torch.inference_mode()
def _perplexity(model: Any, captions: Sequence[list[int]], end: int) -> float:
    """Per token, the end included; every caption on its own, as the captioner will write it."""
    total, count = 0.0, 0
    for start in range(0, len(captions), 256):
        batch = [[end, *ids[: POSITIONS - 2], end] for ids in captions[start : start + 256]]
        longest = max(map(len, batch))
        tokens = torch.tensor([row + [end] * (longest - len(row)) for row in batch], device=model.device)  # [B, L]
        real = torch.tensor([[i < len(row) for i in range(1, longest)] for row in batch], device=model.device)
        logits = model(tokens[:, :-1], use_cache=False).logits
        losses = F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")  # [B, L-1]
        total += losses[real].double().sum().item()
        count += int(real.sum())
    return float(np.exp(total / max(count, 1)))


# Both


def _optimise(model: nn.Module, loss: Callable[[], Tensor], steps: int, learning_rate: float, *, name: str) -> float:
    """AdamW, warm-up then cosine. Returns the mean loss of the last tenth."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]  # biases, gains and the temperature do not decay
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), fused=True)
    warmup = max(round(steps * WARMUP), 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, 0.5 + 0.5 * np.cos(np.pi * max(step - warmup, 0) / (steps - warmup + 1))),
    )
    losses: list[float] = []
    model.train()
    with tqdm(range(steps), desc=name, unit="step", mininterval=0.5) as bar:
        for _ in bar:
            value = loss()
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(value.item())
            bar.set_postfix(loss=f"{np.mean(losses[-20:]):.3f}", refresh=False)
    return float(np.mean(losses[-max(steps // 10, 1) :]))


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """The same weights, bit for bit, from the same seed: on one core, so that sums have one order.

    (Two cores gain little on tensors this small, and lose much when one of them is busy.)
    """
    before, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    with torch.random.fork_rng():
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True, warn_only=True)
        # A debugging aid that comes with it and fills every new tensor.
        setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010
        try:
            # On a CPU the fused attention takes three times as long backwards, on rows as short as captions.
            with sdpa_kernel(SDPBackend.MATH):
                yield
        finally:
            torch.use_deterministic_algorithms(before)
            torch.set_num_threads(threads)


def _one_of(choices: Sequence[T], generator: torch.Generator) -> T:
    return choices[int(torch.randint(len(choices), (), generator=generator))]


def _alike(name: str, names: Sequence[str]) -> list[str]:
    from difflib import get_close_matches

    return get_close_matches(name, names, n=5, cutoff=0.3)
