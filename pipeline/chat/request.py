"""Requests: which frames of a video are shown, and what is asked about them."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

FIELDS = ("count", "times", "start_s", "end_s", "question", "options")
_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Request:
    """id: of a segment or a question. jpegs, times_s: of the frames, in order. fields: what else the prompt names."""

    id: str
    video_id: str
    template: str
    fields: Mapping[str, str]
    frames: tuple[int, ...]  # their numbers in the video
    times_s: tuple[float, ...]
    jpegs: tuple[bytes, ...]
    max_tokens: int

    @property
    def prompt(self) -> str:
        times = ", ".join(f"{time_s:.1f}" for time_s in self.times_s)
        fields = {**self.fields, "count": str(len(self.frames)), "times": times}
        # In one pass: a question may have braces.
        return _FIELD.sub(lambda found: fields[found[1]], self.template).strip()

    def key(self, options: Mapping[str, object]) -> str:
        """Of everything that a reply depends on. options: the model and its settings."""
        pictures = [hashlib.sha256(jpeg).hexdigest() for jpeg in self.jpegs]
        parts = json.dumps([options, self.max_tokens, self.prompt, pictures], sort_keys=True)
        return hashlib.sha256(parts.encode()).hexdigest()

    def with_fewer(self) -> "Request | None":
        """With half of the frames, again evenly spaced; None if there is only one."""
        if len(self.frames) < 2:
            return None
        kept = spread(len(self.frames), len(self.frames) // 2)
        return replace(
            self,
            frames=tuple(self.frames[i] for i in kept),
            times_s=tuple(self.times_s[i] for i in kept),
            jpegs=tuple(self.jpegs[i] for i in kept),
        )


def spread(frames: int, count: int) -> list[int]:
    """`count` of so many frames, evenly spaced, the first and the last included, in order; of one, the last.

    All of them if there are not more. Never one twice.
    """
    if count >= frames:
        return list(range(frames))
    if count == 1:
        return [frames - 1]
    return [(frames - 1) * i // (count - 1) for i in range(count)]


def read_template(path: Path, needed: Sequence[str]) -> str:
    """A prompt's text. Raises ValueError if it names something unknown, or does not name what is `needed`."""
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text in UTF-8") from None
    named = set(_FIELD.findall(text))
    if unknown := sorted(named - set(FIELDS)):
        raise ValueError(
            f"{path} has {{{unknown[0]}}}; a prompt may have {', '.join(f'{{{name}}}' for name in FIELDS)}"
        )
    if missing := [name for name in needed if name not in named]:
        raise ValueError(f"{path} lacks {{{missing[0]}}}, so the model would not know what is asked")
    return text
