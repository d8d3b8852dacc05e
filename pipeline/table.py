"""One table of all captioners: what they score, and what a caption costs.

    python -m pipeline.table                            # those of studies/captioners.yaml that have scores
    python -m pipeline.table mine.yaml --json mine.json # others, on any data
    python -m pipeline.table --missing                  # the targets of make that make what is missing (make table)

Scores are those of each captioner's segments, averaged over its trainings, with intervals over videos. What a caption
of the main pipeline costs is measured here, on 20 of its videos; of others it is what their runs recorded. An empty
cell: not recorded. Writes metrics/captioners.json and .md, which pipeline.report shows.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.files.aside import check_writable, write_text
from pipeline.files.revision import at_revision
from pipeline.params import Section
from pipeline.process.command import guarded, parser
from pipeline.process.terminal import printable
from pipeline.scoring.captioners import NOTE, Line, as_json, cells, line, read_costs
from pipeline.scoring.markdown import aligned, insert, table
from pipeline.scoring.segment_scores import read_scores

CAPTIONERS = Path("studies/captioners.yaml")
OUT = Path("metrics/captioners.json")
REPORT = Path("docs/results.md")
BEGIN, END = "<!-- pipeline/table.py writes from here -->", "<!-- pipeline/table.py writes to here -->"
SEGMENTS, EMBEDDINGS = Path("data/videos/segments.parquet"), Path("data/videos/embeddings")


class Entry(Section):
    """A captioner, as the params file names it."""

    scores: Annotated[list[str], Field(min_length=1)]
    costs: list[str] | Literal["measured"] | None
    make: str | None


def _options() -> argparse.Namespace:
    typed = parser("pipeline.table", __doc__)
    typed.add_argument("captioners", nargs="?", type=Path, default=CAPTIONERS, help=f"a params file ({CAPTIONERS})")
    typed.add_argument("--json", type=Path, default=OUT, metavar="FILE", help=f"where to write it, and a .md ({OUT})")
    typed.add_argument("--insert", action="store_true", help=f"also put it between its marks in {REPORT}")
    typed.add_argument("--missing", action="store_true", help="only name the targets of make for what is missing")
    return typed.parse_args()


def main() -> None:
    options = _options()
    with guarded("table", kept=None):
        entries = read_entries(options.captioners)
        if options.missing:
            print(*missing(entries))
            return
        check_writable(options.json)  # before the work
        lines = read_lines(entries)
        rows = cells(lines)
        text = f"{table(*_split(rows))}\n\n{NOTE}"
        write_text(options.json, json.dumps(as_json(lines), indent=1) + "\n")
        write_text(options.json.with_suffix(".md"), f"{text}\n")
        if options.insert:
            insert(REPORT, text, BEGIN, END)
        print(aligned(rows), "", NOTE, "", f"Written: {options.json}, {options.json.with_suffix('.md')}", sep="\n")


def _split(rows: Sequence[Sequence[str]]) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    return rows[0], rows[1:]


def read_entries(path: Path) -> dict[str, Entry]:
    """Raises ValueError that names the key and what is wrong with it."""
    try:
        entries = TypeAdapter(dict[str, Entry]).validate_python(YAML(typ="safe").load(path.read_text("utf-8")))
    except ValidationError as error:
        problems = [
            f"  {printable('.'.join(map(str, p['loc'])))}: found {printable(repr(p['input']))}; {p['msg']}"
            for p in error.errors()
        ]
        raise ValueError("\n".join([f"{path}:", *problems])) from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML ({error})") from None
    if not entries:
        raise ValueError(f"{path}: it names no captioner")
    return entries


def read_lines(entries: Mapping[str, Entry]) -> list[Line]:
    """Of those that have scores; says on stderr which have none, and how to make them. ValueError if none has."""
    lines = []
    for name, entry in entries.items():
        runs, absent = read_runs(entry)
        if absent:
            hint = f": make {entry.make}" if entry.make else ""
            print(f"table: {printable(name)} is left out, no {absent}{hint}", file=sys.stderr, flush=True)
            continue
        lines.append(line(name, runs, costs_of(name, entry, runs)))
    if not lines:
        raise ValueError("no captioner has scores yet; make demo gives two of them")
    return lines


def read_runs(entry: Entry) -> tuple[list[pd.DataFrame], str | None]:
    """Each training's scores, and what is not there."""
    runs = []
    for name in entry.scores:
        files = [str(path) for path in sorted(Path().glob(name))] if name.endswith(".parquet") else [name]
        if not files:
            return [], name
        try:
            runs += [read_scores(file) for file in files]
        except ValueError:
            if name.endswith(".parquet"):  # it is there, but it is no table of scores
                raise
            return [], f"experiment {name}"
    return runs, None


def missing(entries: Mapping[str, Entry]) -> list[str]:
    """Targets of make, each once."""
    return list(dict.fromkeys(one.make for one in entries.values() if one.make and read_runs(one)[1]))


def costs_of(name: str, entry: Entry, runs: Sequence[pd.DataFrame]) -> list[dict[str, Any]]:
    """Of each training; none where they are not known."""
    if entry.costs is None:
        return []
    if entry.costs == "measured":
        return [measured(revision, run) for revision, run in zip(entry.scores, runs, strict=True)]
    files = [path for pattern in entry.costs for path in sorted(Path().glob(pattern))]
    if not files:
        print(f"table: what {printable(name)} costs was not recorded", file=sys.stderr, flush=True)
    return [read_costs(path) for path in files]


def measured(revision: str, scores: pd.DataFrame) -> dict[str, Any]:
    """What a caption costs by a captioner of the main pipeline, on some of the videos that it captioned."""
    # Here, because --missing and other captioners' tables need none of it.
    import pyarrow.parquet as pq

    from pipeline.captioner.cost import costed, measure
    from pipeline.captioner.model import load_captioner
    from pipeline.captioner.sequences import make_examples
    from pipeline.dataset.segments import from_table
    from pipeline.device import choose_device, choose_dtype
    from pipeline.features.embeddings import read_embeddings
    from pipeline.params import load_prediction_params

    names = ("params.yaml", "models/decoder", "models/finetuned")
    with at_revision(None if revision == "workspace" else revision, *names) as root:
        params = load_prediction_params(root / "params.yaml")
        options, device = params.caption, choose_device(params.device)
        captioner, tokenizer = load_captioner(
            root / "models/finetuned", root / "models/decoder", dtype=choose_dtype(options.precision, device)
        )
        captioner.to(device)
        captioned = set(scores["segment_id"])
        segments = [one for one in from_table(pq.read_table(SEGMENTS)) if one.segment_id in captioned]
        chosen = costed(one.video_id for one in segments)
        some = [one for one in segments if one.video_id in chosen]
        examples = make_examples(some, read_embeddings(EMBEDDINGS, chosen), scope=captioner.config.scope)
        return asdict(measure(captioner, tokenizer, examples, **options.model_dump(exclude={"precision"})))


if __name__ == "__main__":
    main()
