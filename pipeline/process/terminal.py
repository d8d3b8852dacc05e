"""Untrusted text on a terminal: file names, captions, a server's answers, ffmpeg's messages, other people's params.

A terminal obeys escape sequences: in a file's name they can set its title, overwrite earlier lines, or write to the
clipboard. So text that is not ours is printed with control characters made visible.
"""

import re

from pipeline.process.missing import maker

_LONGEST_LINE = 2000  # most lines of an error: a params file of 0.5 kB can cause one of megabytes
_MAX_LINES = 100
# They reorder the characters of a line, so that it seems to say something else (CVE-2021-42574).
_REORDERING = "\u202a-\u202e\u2066-\u2069"
_ESCAPED = re.compile(f"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff{_REORDERING}]")


def printable(text: str, limit: int = 200) -> str:
    r"""One line of at most `limit` characters, with control characters as \n, \x1b, \u202e; cut text ends in `...`."""
    # Cut first: the rest may be very long, and need not be escaped.
    shown = _ESCAPED.sub(lambda found: found[0].encode("unicode_escape").decode(), text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def message(error: BaseException | str) -> str:
    """An error as a command prints it: its line breaks stay, other control characters are made visible.

    If a stage's output is missing, it says which command makes it.
    """
    if isinstance(error, FileNotFoundError):
        path = error.filename or str(error)  # pyarrow's message is only the path
        if command := maker(path):
            return f"{printable(str(path))} does not exist; to create it: {command}"
    lines = str(error).split("\n")
    shown = [printable(line, _LONGEST_LINE) for line in lines[:_MAX_LINES]]
    return "\n".join(shown + [f"... and {len(lines) - _MAX_LINES} lines more"] * (len(lines) > _MAX_LINES))


def printable_json(text: str) -> str:
    r"""JSON with letters unescaped, but control characters as \u009b."""
    return re.sub(f"[\x7f-\x9f{_REORDERING}]", lambda found: f"\\u{ord(found[0]):04x}", text)
