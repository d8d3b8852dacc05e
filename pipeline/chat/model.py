"""What a vision-language model is asked, and what it answers, wherever it runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Reply:
    """finish_reason: stop, length (cut off), or another that the server gives. Tokens: None where it does not say."""

    text: str
    finish_reason: str | None
    tokens_in: int | None
    tokens_out: int | None


class Failed(Exception):
    """No reply that can be used, and why. final: asking again would change nothing."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.final = reason, final


class Busy(Failed):
    """The server asks everybody to wait; wait_s: how long, if it says so."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class Unreachable(Failed):
    """There is no server."""


class TooLong(Failed):
    """Prompt and frames are more than the model can read."""


class Refused(Failed):
    """The server would refuse anything: a wrong key, an unknown model, no money left. The run ends.

    this_one: unless it has answered others.
    """

    def __init__(self, reason: str, *, this_one: bool = False) -> None:
        super().__init__(reason)
        self.this_one = this_one


class Model(Protocol):
    def ask(self, prompt: str, jpegs: Sequence[bytes], max_tokens: int) -> Reply:
        """Show frames, in order, and ask. Raises Failed."""
        ...

    def close(self) -> None: ...
