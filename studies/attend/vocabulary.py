"""The words that the captioner knows, as JSON; and captions to token ids and back."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.files import strict_json
from pipeline.files.aside import write_text

PAD, BEGIN, END, UNKNOWN = range(4)
SPECIALS = ("<pad>", "<begin>", "<end>", "<unknown>")
_WORD = re.compile(r"\w+(?:['-]\w+)*|[^\w\s]")
_BEFORE_MARK = re.compile(r" (?=[,.;:!?])")


@dataclass(frozen=True)
class Vocabulary:
    """words: the specials first, then those of the training captions, the commonest first."""

    words: tuple[str, ...]

    @classmethod
    def of(cls, captions: Iterable[str], min_count: int) -> "Vocabulary":
        counts = Counter(word for caption in captions for word in split(caption))
        known = [word for word, count in counts.items() if count >= min_count]
        return cls((*SPECIALS, *sorted(known, key=lambda word: (-counts[word], word))))

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: id for id, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, caption: str) -> list[int]:
        """Token ids, the end's included. A word that is not in the vocabulary is UNKNOWN."""
        ids = self._ids
        return [*(ids.get(word, UNKNOWN) for word in split(caption)), END]

    def decode(self, ids: Sequence[int]) -> str:
        return _BEFORE_MARK.sub("", " ".join(self.words[id] for id in ids if id not in (PAD, BEGIN, END)))

    def save(self, path: Path) -> None:
        write_text(path, json.dumps({"specials": SPECIALS, "words": self.words[len(SPECIALS) :]}, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Raises ValueError for a file that is no vocabulary."""
        value = strict_json.load(path)
        if not isinstance(value, dict) or tuple(value.get("specials", ())) != SPECIALS or "words" not in value:
            raise ValueError(f'{path}: found no vocabulary; expected {{"specials": {list(SPECIALS)}, "words": [...]}}')
        return cls((*SPECIALS, *value["words"]))


def split(caption: str) -> list[str]:
    """Words and punctuation marks, in lower case."""
    return _WORD.findall(caption.lower())
