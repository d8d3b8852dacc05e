"""What scores are to be had on the built-in dataset: those of captions that state every fact rightly.

    python -m bench.ceiling [--split test] [--draws 5]      # after `make demo`

    paraphrase    the right facts in a paraphrase drawn at random, as the references are: what an annotator would get
    one wording   the right facts in one paraphrase per event, always the same (the grammar's first)
    model         data/captions.parquet, if they are of that split

CIDEr compares words, of which the facts fix only some; so its ceiling is far below that of a copied reference, and a
factor between two models may be out of any model's reach. Prints a table and, as its last line, JSON.
"""

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from bench.table import show
from pipeline.annotations import from_table
from pipeline.scores import Scorer
from pipeline.shapes.grammar import Facts, all_captions, captions, facts_right, read_facts

SEGMENTS = Path("data/activitynet/segments.parquet")
CAPTIONS = Path("data/captions.parquet")
SHOWN = ("CIDEr", "METEOR", "ROUGE-L", "BLEU-4")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.ceiling")
    parser.add_argument("--split", default="test")
    parser.add_argument("--draws", type=int, default=5)
    asked = parser.parse_args()
    segments = [s for s in from_table(pq.read_table(SEGMENTS)) if s.split == asked.split]
    references = {s.segment_id: list(s.captions) for s in segments}
    facts = {id: facts_of(texts) for id, texts in references.items()}
    rng = random.Random(0)

    def said(word: Callable[[Facts], str]) -> dict[str, str]:
        return {id: word(stated) for id, stated in facts.items()}

    candidates = {f"paraphrase {i + 1}": said(lambda f: captions(f, 1, rng)[0]) for i in range(asked.draws)}
    candidates["one wording"] = said(lambda f: all_captions(f)[0])
    if CAPTIONS.exists():
        table = pd.read_parquet(CAPTIONS)
        if set(table["segment_id"]) == set(references):
            candidates["model"] = dict(zip(table["segment_id"], table["caption"], strict=True))

    rows = []
    with Scorer() as scorer:
        for name, texts in candidates.items():
            corpus = scorer.score(texts, references).corpus
            right = sum(facts_right(texts[id], references[id]) is True for id in references)
            scores = {metric: round(corpus[metric], 1) for metric in SHOWN}
            rows.append({"captions": name, **scores, "facts": round(100 * right / len(references), 1)})
    show(rows)
    print(json.dumps(rows))


def facts_of(captions: list[str]) -> Facts:
    """What a segment's captions state. ValueError if they are not of the built-in dataset."""
    facts = read_facts(captions[0])
    if facts is None:
        raise ValueError(f"{captions[0]!r} states no facts: only the built-in dataset's captions do")
    return facts


if __name__ == "__main__":
    main()
