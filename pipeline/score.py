"""Score captions from anywhere, or answers to questions.

    python -m pipeline.score candidates.json references.json
    python -m pipeline.score data/captions.json data/videos/annotations/val_1.json --json
    python -m pipeline.score pairs.csv                                  # candidates and references in one file
    python -m pipeline.score captions.txt references-1.txt references-2.txt  # a line for each caption
    python -m pipeline.score predictions.json val_1.json val_2.json     # events with times: dense captioning
    python -m pipeline.score candidates.json references.json --per-segment scores.parquet   # for pipeline.compare
    python -m pipeline.score --constant "a man is talking" test_videodatainfo.json    # for every segment
    python -m pipeline.score --human test_videodatainfo.json      # each first reference against the others
    python -m pipeline.score --answers predictions.json questions.json answers.json         # questions about videos
    python -m pipeline.score --answers results.json test.jsonl --list ans2label.json --train train.jsonl

Layouts are recognised from the content; docs/scores.md lists them. Several reference files are combined.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from pipeline.dataset.questions.formats import read_questions
from pipeline.files.aside import aside, check_writable
from pipeline.process.terminal import message, printable
from pipeline.scoring.answer_files import read_answer_list, read_answers
from pipeline.scoring.answer_table import answer_figures, answer_table
from pipeline.scoring.answers import score_answers
from pipeline.scoring.caption_files import candidates_in, events_in, has_times, holds_both, load, references_in
from pipeline.scoring.dense import MAX_PROPOSALS, SODA, Dense, score_dense
from pipeline.scoring.diversity import WORDS, diversity
from pipeline.scoring.java import evaluator
from pipeline.scoring.scorer import TOKENIZERS, Coverage, Scorer, Scores

MAX_MISSING = 5  # most ids of missing segments that the table shows


def table(scores: Scores, figures: Mapping[str, float], tokenizer: str) -> str:
    lines = [
        *_head(scores.coverage, "segments", tokenizer, scores.notes),
        "",
        f"{'':<12}{'corpus':>10}{'mean of segments':>20}",
    ]
    lines += [f"{name:<12}{scores.corpus[name]:>10.2f}{scores.mean[name]:>20.2f}" for name in scores.corpus]
    lines += ["", *(f"{f'METEOR {name}':<30}{value:>10.2f}" for name, value in scores.meteor_columns.items())]
    return "\n".join([*lines, "", *(f"{name:<30}{value:>10.2f}" for name, value in figures.items())])


def dense_table(dense: Dense, tokenizer: str) -> str:
    lines = _head(dense.coverage, "videos", tokenizer, dense.notes)
    if dense.unknown:
        lines.append(f"{dense.unknown} videos with predictions are in no reference file: not counted")
    lines += ["", f"{'tIoU':<20}" + "".join(f"{tiou:>10g}" for tiou in dense.tious) + f"{'average':>10}"]

    def line(name: str, values: Sequence[float]) -> str:
        return f"{name:<20}" + "".join(f"{value:>10.2f}" for value in [*values, sum(values) / len(values)])

    newest, *older = dense.captions
    lines += [line(name, values) for name, values in dense.captions[newest].items()]
    for protocol in older:
        lines += [line(f"{name}, as in {protocol}", values) for name, values in dense.captions[protocol].items()]
    lines += [line(name, values) for name, values in dense.proposals.items()]
    lines += ["", f"{'SODA_c, references':<20}" + "".join(f"{name:>10}" for name in SODA)]
    for files, row in dense.soda_c.items():
        for of in ("", " of predicted"):
            lines.append(f"{files + of:<20}" + "".join(f"{row[name + of]:>10.2f}" for name in SODA))
    return "\n".join(lines)


def averages(dense: Dense) -> dict[str, dict[str, float]]:
    """Over tIoUs, by protocol."""
    rows = {protocol: {**metrics, **dense.proposals} for protocol, metrics in dense.captions.items()}
    return {p: {name: sum(values) / len(values) for name, values in row.items()} for p, row in rows.items()}


def _head(coverage: Coverage, what: str, tokenizer: str, notes: Sequence[str]) -> list[str]:
    names = evaluator()
    with_what = f"METEOR {names['meteor']}, Java {names['java']}, tokenizer {tokenizer}"
    lines = [f"{names['evaluator']} {names['version']}, {with_what}; all times 100"]
    lines.append(f"{coverage.scored} of {coverage.asked} {what}, split {coverage.split_sha256[:16]}")
    if coverage.missing:
        rest = len(coverage.missing) - MAX_MISSING
        shown = ", ".join(map(printable, coverage.missing[:MAX_MISSING])) + (f" and {rest} more" if rest > 0 else "")
        lines.append(f"missing: {shown}")
    return lines + [f"note: {note}" for note in notes]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.score", description="Score captions from anywhere.")
    parser.add_argument("candidates", type=Path, help="with --constant or --human: the first file of references")
    parser.add_argument("references", type=Path, nargs="*", help="none: the candidates' file has them")
    floor = parser.add_mutually_exclusive_group()
    floor.add_argument("--constant", metavar="TEXT", help="no candidates: score this caption for every segment")
    floor.add_argument("--human", action="store_true", help="no candidates: the first reference against the others")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--split", help="of a file of references that has several (Karpathy's, MSR-VTT's)")
    parser.add_argument(
        "--tokenizer", choices=TOKENIZERS, default="ptb", help="characters: for Chinese, Japanese, Thai, ..."
    )
    parser.add_argument("--per-segment", type=Path, metavar="FILE.parquet", help="write each segment's scores")
    parser.add_argument("--dense", action="store_true", help="events with times (usually recognised without this)")
    parser.add_argument(
        "--max-proposals",
        type=_positive,
        default=MAX_PROPOSALS,
        help="how many predictions of a video count, from the first on",
    )
    parser.add_argument(
        "--answers", action="store_true", help="score answers to questions: a file of them, then files of the questions"
    )
    parser.add_argument(
        "--list", type=Path, metavar="ans2label.json", help="of --answers: the list they were chosen from"
    )
    parser.add_argument(
        "--train",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="of --answers: training questions, in which the most frequent answers are counted",
    )
    options = parser.parse_args()
    try:
        print(_run_answers(options) if options.answers else _run(options))
    except (ValueError, OSError) as error:
        sys.exit(f"score: {message(error)}")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"found {value}, expected 1 or more")
    return value


def _run(options: argparse.Namespace) -> str:
    """The text to print."""
    names = {**evaluator(), "tokenizer": options.tokenizer}
    if options.per_segment and options.per_segment.suffix != ".parquet":
        raise ValueError(f"--per-segment {options.per_segment}: expected a name that ends in .parquet")
    if options.per_segment:
        check_writable(options.per_segment)
    with Scorer(tokenizer=options.tokenizer) as scorer:  # first: Java starts while we read
        content = load(options.candidates)
        if options.constant is not None or options.human:
            references = references_in([content, *map(load, options.references)], split=options.split)
            candidates = first_of_each(references) if options.human else dict.fromkeys(references, options.constant)
            return _scored(options, scorer, candidates, references)
        others = [load(path) for path in options.references]
        if not others:
            if not holds_both(content):
                raise ValueError(
                    f"{options.candidates} holds no references beside the candidates; name a file that does"
                )
            others = [content]
        if options.dense or has_times(content):
            if options.per_segment:
                raise ValueError("--per-segment is for captions of segments; events with times have no common segments")
            events = events_in(content)
            dense = score_dense(events, list(map(events_in, others)), scorer, max_proposals=options.max_proposals)
            found = {**asdict(dense), "average": averages(dense)}
            return json.dumps({**names, **found}, indent=2) if options.json else dense_table(dense, options.tokenizer)
        candidates = candidates_in(content)
        references = references_in(others, candidates, options.split)
        return _scored(options, scorer, candidates, references)


def first_of_each(references: dict[str, list[str]]) -> dict[str, str]:
    """Takes each segment's first reference out of `references`, as its candidate.

    Segments with only one reference are taken out whole. Raises ValueError if none has several.
    """
    for id in [id for id, texts in references.items() if len(texts) < 2]:
        del references[id]
    if not references:
        raise ValueError("--human: no segment has more than one reference")
    return {id: texts.pop(0) for id, texts in references.items()}


def _scored(
    options: argparse.Namespace, scorer: Scorer, candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]
) -> str:
    scores = scorer.score(candidates, references)
    if options.per_segment:
        write_segments(options.per_segment, scores, candidates, references, options.tokenizer)
    figures = diversity(candidates, split=WORDS[options.tokenizer])
    if not options.json:
        return table(scores, figures, options.tokenizer)
    found = {name: getattr(scores, name) for name in ("corpus", "mean", "meteor_columns", "notes")}
    names = {**evaluator(), "tokenizer": options.tokenizer}
    return json.dumps({**names, "coverage": asdict(scores.coverage), **found, "diversity": figures}, indent=2)


def _run_answers(options: argparse.Namespace) -> str:
    """The text to print."""
    if not options.references:
        raise ValueError(f"name the files of the questions that {options.candidates} answers, behind it")
    questions = read_questions(options.references)
    if options.split:
        questions = [question for question in questions if question.split == options.split]
    result = score_answers(
        questions,
        read_answers(options.candidates, questions),
        train=read_questions(options.train) if options.train else (),
        answer_list=read_answer_list(options.list) if options.list else None,
    )
    return json.dumps(answer_figures(result), indent=2) if options.json else answer_table(result)


def write_segments(
    path: Path,
    scores: Scores,
    candidates: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    tokenizer: str,
) -> None:
    """Each segment's scores, caption and references, as `python -m pipeline.compare` reads them."""
    ids = scores.segments["segment_id"]
    each = scores.segments.assign(caption=ids.map(candidates), references=ids.map(references))
    each.attrs["tokenizer"] = tokenizer
    with aside(path) as unfinished:
        each.to_parquet(unfinished, index=False)


if __name__ == "__main__":
    main()
