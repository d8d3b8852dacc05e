"""Captions with times as subtitles: SubRip and WebVTT."""

from collections.abc import Iterable
from html import escape
from typing import Protocol


class Timed(Protocol):
    @property
    def start_s(self) -> float: ...

    @property
    def end_s(self) -> float: ...

    @property
    def caption(self) -> str: ...


def srt(captions: Iterable[Timed]) -> str:
    return "".join(
        f"{number}\n{_time(one.start_s, ',')} --> {_time(one.end_s, ',')}\n{_line(one.caption)}\n\n"
        for number, one in enumerate(captions, start=1)
    )


def vtt(captions: Iterable[Timed]) -> str:
    cues = (
        f"{_time(one.start_s, '.')} --> {_time(one.end_s, '.')}\n{escape(_line(one.caption), quote=False)}\n\n"
        for one in captions
    )
    return "WEBVTT\n\n" + "".join(cues)


def _line(caption: str) -> str:
    """One line without arrows: a blank line would end the cue, and an arrow start another."""
    return " ".join(caption.split()).replace("-->", "->") or "-"


def _time(seconds: float, point: str) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{point}{ms % 1000:03}"
