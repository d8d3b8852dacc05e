"""Tables in Markdown and in plain text, and their place in a document whose prose is somebody's."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.files.aside import write_text


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The first cell of each row is a name."""
    lines = [head, ["---"] * len(head), *([f"`{name}`", *cells] for name, *cells in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def aligned(rows: Sequence[Sequence[str]], names: int = 1) -> str:
    """Columns in plain text, the first row their heads; the first `names` columns are names, the others figures."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        cells = enumerate(zip(row, widths, strict=True))
        return "  ".join(cell.ljust(width) if i < names else cell.rjust(width) for i, (cell, width) in cells)

    return "\n".join(map(line, rows))


def insert(path: Path, text: str, begin: str, end: str) -> None:
    """Put `text` between the two markers of the file. ValueError unless both are there once, and in order."""
    before, found, rest = path.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed) or begin in rest or end in before + after:
        raise ValueError(f"{path}: expected one line {begin!r} and one {end!r} below it; the tables go between them")
    write_text(path, f"{before}{begin}\n\n{text}\n\n{end}{after}")
