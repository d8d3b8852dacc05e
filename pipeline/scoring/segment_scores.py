"""Tables of per-segment scores: read from a run or a file, and aligned with each other."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.files.revision import at_revision
from pipeline.process.terminal import printable
from pipeline.scoring.registry import SCORES, of_corpus

FILE = Path("metrics/segments.parquet")
_WRITES = "`python -m pipeline.score ... --per-segment FILE.parquet` writes one"


def read_scores(name: str) -> pd.DataFrame:
    """Per-segment scores of a git revision, an experiment, the `workspace`, or a file (a name that ends in .parquet).

    Raises ValueError if there are none.
    """
    if name.endswith(".parquet"):
        if not Path(name).is_file():
            raise ValueError(f"{name}: no such file; {_WRITES}")
        try:
            scores = pd.read_parquet(name)
        except (OSError, ValueError) as error:
            raise ValueError(f"{name}: not a table of scores ({printable(str(error))}); {_WRITES}") from error
    else:
        with at_revision(None if name == "workspace" else name, FILE.as_posix()) as root:
            try:
                scores = pd.read_parquet(root / FILE)
            except (OSError, ValueError) as error:
                raise ValueError(f"{name}: no {FILE} found ({error}); run it: dvc repro") from error
    if missing := [column for column in ("segment_id", "references") if column not in scores]:
        raise ValueError(f"{name}: not a table of scores (it has no column {missing[0]}); {_WRITES}")
    if repeated := scores["segment_id"][scores["segment_id"].duplicated()].to_list():
        raise ValueError(f"{name}: {len(repeated)} segments occur twice, the first {repeated[0]!r}")
    if scores.empty:
        raise ValueError(f"{name}: no segments, nothing to compare")
    return scores


def incomplete(scores: Mapping[str, pd.DataFrame]) -> list[str]:
    """A line for each metric and run in which some segments have no number: which is then left out."""
    lines = []
    for name, table in scores.items():
        for score in SCORES.values():
            if score.name in table and (missing := int((~np.isfinite(score.values(table))).sum())):
                lines.append(f"{score.name} is left out where {name} has none: {missing} of {len(table)} segments")
    return lines


def by_segment(first: pd.DataFrame, second: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables with the same segments in the same order. Raises ValueError like `compare`."""
    one, two = (table.set_index("segment_id").sort_index() for table in (first, second))
    if one.empty and two.empty:
        raise ValueError("no segments in either run: nothing to compare")
    if alone := one.index.symmetric_difference(two.index).tolist():
        raise ValueError(
            f"{len(one)} and {len(two)} segments, {len(alone)} of them in only one run ({', '.join(alone[:3])}, ...): "
            "not comparable; --common compares the segments that both have"
        )
    used = [table.attrs.get("tokenizer", "ptb") for table in (first, second)]
    if used[0] != used[1]:
        raise ValueError(f"one run is scored with the tokenizer {used[0]}, the other with {used[1]}: not comparable")
    if (one["references"].map(sorted) != two["references"].map(sorted)).any():
        raise ValueError("the references differ between the runs: not comparable")
    return one, two


def common(first: pd.DataFrame, second: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables restricted to their common segments, in the first's order.

    A segment's CIDEr depends on the other segments scored with it, so it is computed again over the common ones.
    Raises ValueError if there are none, or if their references differ.
    """
    both = set(first["segment_id"]) & set(second["segment_id"])
    if not both:
        raise ValueError("the runs have no segment in common")
    if len(both) == len(first) == len(second):
        return first, second
    one, two = (table[table["segment_id"].isin(both)].reset_index(drop=True) for table in (first, second))
    by_segment(one, two)
    if "caption" not in one or "caption" not in two:
        which = "the first run" if "caption" not in one else "the second run"
        raise ValueError(f"{which} has no captions to score again (no column caption)")
    return rescored(one), rescored(two)


def rescored(scores: pd.DataFrame) -> pd.DataFrame:
    """The table with the scores of its captions and references, scored together."""
    from pipeline.scoring.scorer import Scorer  # comparing whole runs should not start Java

    with Scorer(tokenizer=scores.attrs.get("tokenizer", "ptb")) as scorer:
        candidates = dict(zip(scores["segment_id"], scores["caption"], strict=True))
        references = {id: list(texts) for id, texts in zip(scores["segment_id"], scores["references"], strict=True)}
        each = scorer.score(candidates, references).segments
    assert list(each["segment_id"]) == list(scores["segment_id"])
    return scores.assign(**{name: each[name].to_numpy() for name in of_corpus()})
