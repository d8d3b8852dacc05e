"""Progress on stderr: a bar that moves on a terminal, a plain line every few seconds in a pipe or a file."""

import sys
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

LINE_EVERY_S = 10.0
_LINE = "{desc}: {n_fmt} of {total_fmt} {unit} in {elapsed}, {remaining} to go{postfix}"
_LINE_WITHOUT_TOTAL = "{desc}: {n_fmt} {unit} in {elapsed}{postfix}"


def bar(items: Any = None, **options: Any) -> "tqdm[Any]":
    """tqdm's bar, with tqdm's options: a bar on a terminal, lines in a log."""
    if sys.stderr.isatty():
        return tqdm(items, **options)
    return Lines(items, **options)


def begin_hub_download(what: str) -> None:
    """Announce a download by Hugging Face's client: its bars are for terminals, a log gets one line instead."""
    if not sys.stderr.isatty():
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
        print(f"{what}: downloading, unless already cached", file=sys.stderr, flush=True)


class Lines(tqdm):
    """tqdm's counting without its drawing: in a log, a bar that overwrites itself becomes one endless line."""

    _printed_s = float("-inf")  # time of the last line, by the monotonic clock
    _printed_n: float | None = None

    def __init__(self, items: Any = None, **options: Any) -> None:
        super().__init__(items, **{**options, "mininterval": LINE_EVERY_S})

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Ignored between lines: tqdm draws the bar every time its text is set."""
        if time.monotonic() >= self._printed_s + LINE_EVERY_S:
            self._printed_s, self._printed_n = time.monotonic(), self.n
            super().display(msg, pos)

    @staticmethod
    def status_printer(file: Any) -> Callable[[str], None]:
        def print_line(text: str) -> None:
            file.write(f"{text}\n")
            file.flush()

        return print_line

    def moveto(self, n: int) -> None:
        """Nothing: only a bar on a terminal has a position."""

    @property
    def format_dict(self) -> dict[str, Any]:
        unit = self.unit if self.unit == "B" else f"{self.unit}s"
        return {**super().format_dict, "bar_format": _LINE if self.total else _LINE_WITHOUT_TOTAL, "unit": unit}

    def close(self) -> None:
        if not self.disable:
            if self.leave and self.n != self._printed_n:
                self._printed_s = float("-inf")
                self.refresh()
            self.sp = None  # so that tqdm treats it like a bar in a GUI and does not end its line on the terminal
        super().close()
