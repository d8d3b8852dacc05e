"""Untrusted CSV: rows with exactly the header's columns, or a one-line error that names file and line.

An unquoted comma in a caption makes a row longer, and a missing quotation mark swallows the rows after it. Python's
DictReader reports neither.
"""

import csv
import io
import sys
from dataclasses import dataclass
from pathlib import Path

from pipeline.process.terminal import printable


@dataclass(frozen=True)
class Row:
    """cells: by column. line: where the row begins, counted from 1."""

    line: int
    cells: dict[str, str]


def load(path: Path) -> tuple[list[str], list[Row]]:
    """Columns, and rows. Separated by commas, or by tabs (in a .tsv file, and where the first line has tabs and no
    commas, as TGIF-QA's .csv files); UTF-8, with or without a byte order mark.

    Raises OSError, and ValueError for the faults above, for repeated column names, and for a file without a header.
    """
    text = decoded(path.read_bytes(), path)
    csv.field_size_limit(sys.maxsize)
    first = text.split("\n", 1)[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" or ("\t" in first and "," not in first) else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: list[str] = []
    rows: list[Row] = []
    begins = 1
    try:
        for cells in reader:
            line, begins = begins, reader.line_num + 1
            if not cells:  # an empty line
                continue
            if not columns:
                columns = [name.strip() for name in cells]
                if repeated := next((name for name in columns if columns.count(name) > 1), None):
                    raise ValueError(f"{path}, line {line}: two columns are called {printable(repeated)!r}")
                continue
            if len(cells) != len(columns):
                raise ValueError(
                    f"{path}, line {line}: found {len(cells)} cells, expected {len(columns)} "
                    f"({printable(', '.join(columns))}); a cell with a comma in it needs quotation marks around it"
                )
            rows.append(Row(line, dict(zip(columns, cells, strict=True))))
    except csv.Error as error:
        raise ValueError(f"{path}, line {begins}: not CSV ({error})") from None
    if not columns:
        raise ValueError(f"{path}: no header; expected a first line with the columns' names")
    return columns, rows


def decoded(data: bytes, path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark. Raises ValueError."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: not UTF-8 ({error.reason}); save the file as UTF-8") from None
