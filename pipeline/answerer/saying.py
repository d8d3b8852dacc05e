"""Answers in a language model's own words: it reads the question, then what the reader found, and goes on.

As in the captioner (ClipCap, Mokady et al. 2021), what was found is a prefix of vectors in the place of words, right
before the words to be said. The reader learns to write prefixes after which the language model says the answer. So an
answer need not be one of a list, nor one of the training questions'. A language model that knows the words of answers
can stay as it is; one that has read nothing but captions has to learn them.

M questions   n glimpses that answer alone, else 1   P prefix vectors   D width of the language model   L answer tokens
V vocabulary
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from pipeline.answerer.reader import OpenConfig
from pipeline.answerer.watching import Watching, fused
from pipeline.captioner.sequences import pad_tokens
from pipeline.language.beam import CausalLanguageModel, WordByWord, search_best
from pipeline.language.decoder import refuse_unfit, tokenize

Answers = list[tuple[str, float]]  # of one question with their log-probabilities, the likeliest first


class Speaker(nn.Module):
    """A causal language model that says answers. A row of it is a question, a prefix, and an answer."""

    def __init__(
        self,
        decoder: Any,
        tokenizer: Any,
        config: OpenConfig,
        watching: Watching,
        *,
        where: str,
        learns: bool = False,
    ) -> None:
        """
        Args:
            learns: whether the language model is trained with the reader.
            where: names the language model in errors.

        Raises ValueError if it cannot go on from a prefix (a masked one cannot), has another width than the config
        says, or too few places.
        """
        super().__init__()
        refuse_unfit(decoder, where)
        if (width := decoder.get_input_embeddings().weight.shape[1]) != config.decoder_width:
            raise ValueError(
                f"{where} has {width} numbers a word, the open head was trained for {config.decoder_width}"
            )
        self.learns, self.decoder = learns, decoder.requires_grad_(learns)
        self.tokenizer, self.config, self.watching = tokenizer, config, watching
        places = getattr(decoder.config, "max_position_embeddings", None)
        self.most = None if places is None else places - config.prefix - config.max_tokens  # tokens of a question
        if self.most is not None and self.most < 1:
            raise ValueError(
                f"{where} reads {places} tokens: a prefix of {config.prefix} and an answer of {config.max_tokens} "
                "leave no place for a question; lower them"
            )

    def said(self, prefixes: Tensor, questions: Sequence[str], answers: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Of each question an answer's log-probability [M], with its end; and whether greedy search would say it [M].

        Args:
            prefixes: [M, n, P, D].
        """
        n, length = prefixes.shape[1:3]
        asked, told = self._tokens(questions), tokenize(self.tokenizer, _spaced(answers), self.config.max_tokens)
        tokens, lengths = (x.to(prefixes.device) for x in pad_tokens(told))  # [M, L], [M]
        first = torch.tensor([len(question) + length - 1 for question in asked])  # whose output is the first token
        rows = []
        for question, own, answer in zip(asked, prefixes, told, strict=True):
            before, after = (
                self._embed(torch.tensor(ids, dtype=torch.int64, device=prefixes.device))
                for ids in (question, answer[:-1])
            )
            rows += [torch.cat([before, prefix.to(before.dtype), after]) for prefix in own]
        inputs = pad_sequence(rows, batch_first=True)  # on the right, which a causal model never looks at
        keep = inputs.shape[1] - int(first.min())  # logits at answers only: they are the largest tensor of the step
        logits = self.decoder(inputs_embeds=inputs, use_cache=False, logits_to_keep=keep).logits  # [M * n, keep, V]
        at = (first - int(first.min()))[:, None] + torch.arange(tokens.shape[1])  # [M, L]
        at = at.clamp(max=keep - 1).to(logits.device).repeat_interleave(n, dim=0)
        logits = logits.gather(1, at[..., None].expand(-1, -1, logits.shape[-1]))  # [M * n, L, V]
        log_probs = _fused(logits.transpose(0, 1), len(asked), self.watching).transpose(0, 1)  # [M, L, V]
        there = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        of_tokens = log_probs.gather(-1, tokens[..., None])[..., 0].masked_fill(~there, 0.0)
        return of_tokens.sum(1), ((log_probs.argmax(-1) == tokens) | ~there).all(1)

    @torch.no_grad()
    def answers(self, prefixes: Tensor, questions: Sequence[str], *, beams: int) -> list[Answers]:
        """The likeliest answers to each question, by beam search, as many as beams at most.

        Args:
            prefixes: [M, n, P, D].
        """
        n = prefixes.shape[1]
        asked = self._tokens(questions)
        by_length: defaultdict[int, list[int]] = defaultdict(list)  # so that a batch needs no padding
        for number, ids in enumerate(asked):
            by_length[len(ids)].append(number)
        found: dict[int, Answers] = {}
        for some in by_length.values():
            words = self._embed(torch.tensor([asked[number] for number in some], device=prefixes.device))
            start = torch.cat([words.repeat_interleave(n, 0), prefixes[some].to(words.dtype).flatten(0, 1)], dim=1)
            model = CausalLanguageModel(self.decoder, start, self.config.max_tokens)
            # Without a length penalty a value is a log-probability: short answers are likelier, as they should be.
            best = search_best(
                _Together(model, n, self.watching),
                end=self.tokenizer.eos_token_id,
                beams=beams,
                max_tokens=self.config.max_tokens,
                length_penalty=0.0,
            )
            for number, own in zip(some, best, strict=True):
                texts = [" ".join(self.tokenizer.decode(one.tokens).split()) for one in own]
                likeliest: dict[str, float] = {}
                for text, one in zip(texts, own, strict=True):  # the same text may be said in different tokens
                    likeliest.setdefault(text, one.value)
                found[number] = list(likeliest.items())
        return [found[number] for number in range(len(questions))]

    def gflop(self, question: str, answer: str, *, rows: int, beams: int) -> float:
        """About what saying an answer costs: each weight multiplied and added once a token, of every beam.

        rows: glimpses that answer alone, else 1.
        """
        own = sum(weight.numel() for weight in self.decoder.parameters()) - self._embed.weight.numel()
        own += self.decoder.get_output_embeddings().weight.numel()
        [asked], [told] = self._tokens([question]), tokenize(self.tokenizer, _spaced([answer]), self.config.max_tokens)
        return 2e-9 * own * rows * (self.config.prefix + len(asked) + beams * (len(told) - 1))

    @property
    def _embed(self) -> Any:
        return self.decoder.get_input_embeddings()

    def _tokens(self, questions: Sequence[str]) -> list[list[int]]:
        ids = self.tokenizer(_spaced(questions), add_special_tokens=False)["input_ids"]
        return [row[: self.most] for row in ids]


class _Together:
    """`WordByWord` of glimpses that say one answer: n rows of the model for each row of the search."""

    def __init__(self, model: WordByWord, n: int, watching: Watching) -> None:
        self.model, self.n, self.watching = model, n, watching

    def advance(self, tokens: Tensor | None) -> Tensor:
        logits = self.model.advance(None if tokens is None else tokens.repeat_interleave(self.n))
        return _fused(logits[None], len(logits) // self.n, self.watching)[0]

    def reorder(self, rows: Tensor) -> None:
        own = torch.arange(self.n, device=rows.device)
        self.model.reorder((rows[:, None] * self.n + own).flatten())


def _fused(logits: Tensor, questions: int, watching: Watching) -> Tensor:
    """Logits of glimpses [L, M * n, V] -> log-probabilities of their questions [L, M, V].

    With `lse` these are the mean of the glimpses' distributions, with `mean` their geometric mean.
    """
    return fused(logits.float().log_softmax(-1), questions, watching).log_softmax(-1)


def _spaced(texts: Sequence[str]) -> list[str]:
    """As they stand within a sentence: tokenizers of causal models write the space before a word into its token."""
    return [f" {text}" for text in texts]
