"""Untrusted JSON: read by RFC 8259, or refused with a one-line error that names the file and the line.

Python's own reader keeps the last of two equal keys, accepts NaN and Infinity as numbers (and 1e999 as infinity), and
fails with a traceback if brackets are nested too deeply or a number has too many digits.
"""

import json
import math
import re
from pathlib import Path
from typing import Any, NoReturn

from pipeline.safety import MAX_JSON_DEPTH, MAX_JSON_DIGITS

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]|[^\s,:\[\]{}"]+', re.DOTALL)
_COLON = re.compile(r"\s*:")
_SHOWN = 80  # characters of a key or number in a message


def load(path: Path) -> Any:
    """`loads` of a file's content. Also raises OSError."""
    return loads(path.read_bytes(), where=str(path))


def loads(text: str | bytes, *, where: str) -> Any:
    """The value of a JSON text (bytes: UTF-8, or UTF-16 or UTF-32; with or without a byte order mark).

    Args:
        where: the name in errors: a file's, or a file's and an entry's.

    Raises ValueError for invalid JSON, for repeated keys, NaN and Infinity, numbers too large for a float or of
    more than MAX_JSON_DIGITS characters, and brackets nested deeper than MAX_JSON_DEPTH.
    """
    if isinstance(text, bytes):
        text = _decoded(text, where)
    text = text.removeprefix("\ufeff")
    try:
        value = json.loads(
            text, object_pairs_hook=_unique, parse_int=_int, parse_float=_float, parse_constant=_constant
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}, line {error.lineno}: not JSON ({error.msg}, column {error.colno})") from None
    except (_Refused, RecursionError):
        _name_the_fault(text, where)
    if _too_deep(value):
        _name_the_fault(text, where)
    return value


class _Refused(Exception):
    """A fault that `_name_the_fault` locates: the reader's hooks do not know their position."""


def _decoded(text: bytes, where: str) -> str:
    encoding = json.detect_encoding(text)
    try:
        return text.decode(encoding)
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{where}, line {line}: not JSON (it is not {error.encoding.upper()}: {error.reason})"
        ) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Refused
    return found


def _int(digits: str) -> int:
    if len(digits) > MAX_JSON_DIGITS:
        raise _Refused
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if len(digits) > MAX_JSON_DIGITS or not math.isfinite(value):
        raise _Refused
    return value


def _constant(name: str) -> NoReturn:
    raise _Refused


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_JSON_DEPTH + 1):
        level = [one for one in level if isinstance(one, dict | list)]
        if not level:
            return False
        level = [child for one in level for child in (one.values() if isinstance(one, dict) else one)]
    return True


def _name_the_fault(text: str, where: str) -> NoReturn:
    """Go through the text again, token by token, up to what the reader refused."""
    keys: list[set[str]] = []  # keys of each open object; none for a list
    for found in _TOKEN.finditer(text):
        token, fault = found[0], None
        if token in "[{":
            keys.append(set())
            if len(keys) > MAX_JSON_DEPTH:
                fault = f"brackets are nested deeper than {MAX_JSON_DEPTH}"
        elif token in "]}":
            keys.pop()
        elif token[0] == '"':
            if _COLON.match(text, found.end()):
                key = json.loads(token)
                if key in keys[-1]:
                    fault = f"the key {_short(repr(key))} is repeated in one object"
                keys[-1].add(key)
        elif token.lstrip("-") in ("NaN", "Infinity"):
            fault = f"{token} is not a JSON number"
        elif len(token) > MAX_JSON_DIGITS:
            fault = f"the number {_short(token)} has more than {MAX_JSON_DIGITS} characters"
        elif token not in ("true", "false", "null") and not math.isfinite(float(token)):
            fault = f"the number {token} is too large"
        if fault:
            line = text.count("\n", 0, found.start()) + 1
            raise ValueError(f"{where}, line {line}: {fault}")
    raise AssertionError(f"{where}: refused for no reason")


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
