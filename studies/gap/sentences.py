"""From several captions to one sentence: by a template, by a small T5 trained here, by any model of Hugging Face."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from pipeline.backbones.small_gpt2 import train_tokenizer
from pipeline.backbones.small_training import minimise, reproducible
from pipeline.process.terminal import printable

SEPARATOR = " ; "
SLOT = "{captions}"
IGNORED = -100  # a label that counts for no loss


@dataclass(frozen=True)
class Sentence:
    """error: why there is no text, or "" """

    text: str
    tokens_in: int  # that were read; words, of a template
    tokens_out: int  # that were written
    error: str = ""


class Summariser(Protocol):
    def __call__(self, captions: Sequence[Sequence[str]]) -> list[Sentence]:
        """A sentence for each list of captions."""
        ...


def by_template(captions: Sequence[Sequence[str]]) -> list[Sentence]:
    """The captions as they are, one after the other."""
    texts = [", then ".join(one) for one in captions]
    return [
        Sentence(text, len(" ".join(one).split()), len(text.split()), "" if text else "no captions to sum up")
        for text, one in zip(texts, captions, strict=True)
    ]


@dataclass(frozen=True)
class LanguageModel:
    """A seq2seq or a causal language model of Hugging Face; prompt: with `SLOT` where the captions go."""

    model: Any
    tokenizer: Any
    prompt: str
    beams: int
    max_new_tokens: int

    @property
    def parameters(self) -> int:
        return sum(weights.numel() for weights in self.model.parameters())

    @torch.inference_mode()
    def __call__(self, captions: Sequence[Sequence[str]]) -> list[Sentence]:
        prompts = [self.prompt.replace(SLOT, SEPARATOR.join(one)) for one in captions]
        self.tokenizer.padding_side = "left"  # a causal model goes on from the right end
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        given = self.tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False).to(
            self.model.device
        )
        read, room = given["attention_mask"].sum(1).tolist(), _positions(self.model)
        fits = [room is None or count + self.max_new_tokens <= room for count in read]
        if not all(fits):
            fitting = [one for one, fit in zip(captions, fits, strict=True) if fit]
            others = iter(self(fitting) if fitting else [])
            reason = f"the prompt is longer than the {room} tokens that the model reads"
            return [next(others) if fit else Sentence("", 0, 0, reason) for fit in fits]
        rows = self.model.generate(
            **given,
            num_beams=self.beams,
            do_sample=False,
            max_new_tokens=self.max_new_tokens,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        if not self.model.config.is_encoder_decoder:
            rows = rows[:, given["input_ids"].shape[1] :]
        return [self._sentence(row, count, bool(one)) for row, count, one in zip(rows, read, captions, strict=True)]

    def _sentence(self, row: Tensor, read: int, complete: bool) -> Sentence:
        ended = self.tokenizer.eos_token_id in row[1:].tolist()
        text = self.tokenizer.decode(row, skip_special_tokens=True)
        first = next((line.strip() for line in text.splitlines() if line.strip()), "")
        words = int((row != self.tokenizer.pad_token_id).sum())
        if not complete:
            return Sentence("", 0, 0, "no captions to sum up")
        if not first:
            return Sentence("", read, words, "the model answered nothing")
        cut = not ended and len(text.strip().splitlines()) == 1
        return Sentence(first, read, words, f"cut after {self.max_new_tokens} tokens" if cut else "")


def _positions(model: Any) -> int | None:
    """Tokens that the model can read; None where positions are relative."""
    found = getattr(model.config, "max_position_embeddings", None)
    return found if isinstance(found, int) else None


def read_prompt(path: Path) -> str:
    """ValueError if the captions have no place in it."""
    text = path.read_text()
    if SLOT not in text:
        raise ValueError(f"{path}: expected {SLOT} where the frames' captions go")
    return text


def load_language_model(
    name: str, prompt: Path, *, beams: int, max_new_tokens: int, device: torch.device
) -> LanguageModel:
    """Of the hub or a folder. None of its code runs, and only safetensors are read. ValueError if it cannot be used."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    text = read_prompt(prompt)
    safe: dict[str, Any] = {"trust_remote_code": False, "local_files_only": Path(name).is_dir()}
    try:
        config: Any = AutoConfig.from_pretrained(name, **safe)
        kind: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        tokenizer = AutoTokenizer.from_pretrained(name, **safe)
        model = kind.from_pretrained(name, use_safetensors=True, **safe)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"summarise.name: {printable(name)!r} could not be loaded: {printable(str(error))}") from None
    return LanguageModel(model.eval().to(device), tokenizer, text, beams, max_new_tokens)


def train_t5(
    pairs: Sequence[tuple[Sequence[str], Sequence[str]]],
    *,
    width: int,
    layers: int,
    heads: int,
    vocabulary: int,
    steps: int,
    batch: int,
    learning_rate: float,
    beams: int,
    max_new_tokens: int,
    seed: int,
    device: torch.device,
) -> LanguageModel:
    """A small T5 (Raffel et al. 2020) that writes one of a segment's captions from its frames' captions.

    Args:
        pairs: (captions of the frames, captions of the segment), none of them empty.
    """
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = train_tokenizer(
        [text for source, targets in pairs for text in (*source, *targets, SEPARATOR)], vocabulary
    )
    end = tokenizer.eos_token_id
    tokenizer.pad_token = tokenizer.eos_token

    def ids(text: str) -> list[int]:
        return [*tokenizer(text)["input_ids"], end]

    sources = [ids(SEPARATOR.join(source)) for source, _ in pairs]
    answers = [[ids(target) for target in targets] for _, targets in pairs]
    with reproducible(seed):
        model: Any = T5ForConditionalGeneration(
            T5Config(
                vocab_size=len(tokenizer),
                d_model=width,
                d_kv=width // heads,
                d_ff=2 * width,
                num_layers=layers,
                num_heads=heads,
                dropout_rate=0.0,
                pad_token_id=end,
                eos_token_id=end,
            )
        )
        model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = end
        model.to(device)
        generator = torch.Generator().manual_seed(seed)

        def loss() -> Tensor:
            rows = torch.randint(len(pairs), (batch,), generator=generator).tolist()
            chosen = [answers[r][int(torch.randint(len(answers[r]), (), generator=generator))] for r in rows]
            given, real = _padded([sources[r] for r in rows], end)
            labels, _ = _padded(chosen, IGNORED)
            return model(input_ids=given.to(device), attention_mask=real.to(device), labels=labels.to(device)).loss

        minimise(model, loss, steps, learning_rate, name="t5")
    return LanguageModel(model.eval(), _Ending(tokenizer), SLOT, beams, max_new_tokens)


def _padded(rows: Sequence[list[int]], filling: int) -> tuple[Tensor, Tensor]:
    """int64 [rows, L] and which of it is real."""
    longest = max(map(len, rows))
    padded = torch.tensor([row + [filling] * (longest - len(row)) for row in rows])
    return padded, torch.tensor([[i < len(row) for i in range(longest)] for row in rows]).long()


class _Ending:
    """A tokenizer that ends what is read with its end token, as a T5's own does."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.padding_side, self.pad_token_id, self.eos_token_id = (
            "right",
            tokenizer.eos_token_id,
            tokenizer.eos_token_id,
        )

    def __call__(self, texts: Sequence[str], **_: object) -> Any:
        from transformers import BatchEncoding

        given, real = _padded(
            [[*self.tokenizer(text)["input_ids"], self.eos_token_id] for text in texts], self.pad_token_id
        )
        return BatchEncoding({"input_ids": given, "attention_mask": real})

    def decode(self, row: Tensor, **options: Any) -> str:
        return str(self.tokenizer.decode(row, **options))
