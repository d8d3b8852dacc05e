"""Ask a vision-language model: `python -m studies.vlm.consult captions|answers`.

Reads studies/vlm/params.yaml and the prompt that it names, data/videos/frames/, and data/videos/segments.parquet
(captions) or data/questions/questions.parquet (answers). Writes studies/vlm/out/TASK/: captions.parquet (.csv, .json;
as every captioner), or answers.parquet; calls.parquet (what came of each request) and calls.json (what it cost, and how
many replies could not be used). Each reply is first of all a line of studies/vlm/journal.jsonl: it is paid for once.

The key of a server comes from the environment variable VLM_API_KEY.
"""

import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.chat.asking import ask_all
from pipeline.chat.journal import Row
from pipeline.chat.model import Model, Reply
from pipeline.chat.request import Request, read_template, spread
from pipeline.chat.settings import Prices, key
from pipeline.dataset.questions.question import Question
from pipeline.dataset.questions.question import from_table as questions_of
from pipeline.dataset.segments import frames_of_segment
from pipeline.dataset.segments import from_table as segments_of
from pipeline.features import shards
from pipeline.files.aside import aside, write_text
from pipeline.params import load_params
from pipeline.scoring.answers import read_answer
from pipeline.scoring.caption_table import write_captions
from stages import run
from studies.vlm.settings import (
    FRAMES,
    JOURNAL,
    OUT,
    QUESTIONS,
    SEGMENTS,
    Study,
    Task,
    load_study,
    task_of,
)

CALLS = pa.schema(
    [
        ("id", pa.string()),  # of the segment or the question
        ("video_id", pa.string()),
        ("model", pa.string()),
        ("text", pa.string()),  # null: see error
        ("error", pa.string()),
        ("finish_reason", pa.string()),
        ("tokens_in", pa.int64()),  # null: the server did not say
        ("tokens_out", pa.int64()),
        ("seconds", pa.float64()),  # of the attempt that was answered
        ("attempts", pa.int32()),
        ("cost", pa.float64()),  # null: tokens or prices are not known
        ("frames", pa.list_(pa.int32())),  # numbers in the video of those shown
    ]
)
ANSWERS = pa.schema([("question_id", pa.string()), ("prediction", pa.string()), *list(CALLS)[1:]])


@dataclass(frozen=True)
class Item:
    """What one request is about: all of a video from start_s on (end_s None), or to end_s."""

    id: str
    video_id: str
    start_s: float
    end_s: float | None
    fields: Mapping[str, str]


@dataclass(frozen=True)
class Caption:
    """As `caption_table.Generated`."""

    caption: str
    log_prob: None = None


def main(name: str) -> None:
    task = task_of(name)
    study = load_study()
    template = read_template(Path(study.asked(task).prompt), ["question"] if task == "answers" else [])
    items, questions = items_of(study, task)
    there = shards.index(FRAMES)
    shown = [one for one in items if one.video_id in there and there[one.video_id].rows]
    rows = {one.id: without_frames(one, study) for one in items} | ask(study, task, template, shown)
    out = OUT / task
    if task == "captions":
        segments = [one for one in segments_of(pq.read_table(SEGMENTS)) if one.split == study.captions.split]
        usable = {id: Caption(row.text) for id, row in rows.items() if row.text}
        write_captions(out / "captions.parquet", segments, usable)
    else:
        rows = {one.question_id: readable(one, rows[one.question_id]) for one in questions}
    made = calls(items, rows, study.prices)
    if task == "answers":
        named = [{"question_id": row["id"], "prediction": row["text"], **row} for row in made]
        write_table(out / "answers.parquet", named, ANSWERS)
    write_table(out / "calls.parquet", made, CALLS)
    found = summary(study, rows)
    write_text(out / "calls.json", json.dumps(found, indent=2) + "\n")
    reasons = "".join(f"; {count} x {reason}" for reason, count in found["unusable"].items())
    print(f"consult {task}: {found['answered']} of {len(rows)} answered by {study.model.name}{reasons}")


def items_of(study: Study, task: Task) -> tuple[list[Item], list[Question]]:
    """By video and time. Raises ValueError if there are none."""
    split = study.asked(task).split
    if task == "captions":
        segments = [one for one in segments_of(pq.read_table(SEGMENTS)) if one.split == split]
        found, questions = [Item(one.segment_id, one.video_id, one.start_s, one.end_s, {}) for one in segments], []
        path = SEGMENTS
    else:
        questions, path = [one for one in questions_of(pq.read_table(QUESTIONS)) if one.split == split], QUESTIONS
        found = [Item(one.question_id, one.video_id, one.start_s, one.end_s, asked(one)) for one in questions]
    if not found:
        raise ValueError(f"{path} has nothing of split {split!r}; see {task}.split of studies/vlm/params.yaml")
    return found, questions


def asked(question: Question) -> dict[str, str]:
    options = question.options or ()
    letters = "\n".join(f"{chr(ord('A') + number)}. {option}" for number, option in enumerate(options))
    return {"question": question.question, "options": letters}


def ask(study: Study, task: Task, template: str, items: Sequence[Item]) -> dict[str, Row]:
    """A row for each item. Raises ValueError if the server refuses, or if too many failed for reasons that can pass."""
    options = {
        "model": study.model.name,
        "source": study.model.source,
        "revision": study.model.revision,
        "temperature": study.temperature,
        "seed": study.seed,
    }
    return ask_all(
        requests(study, task, template, items),
        len(items),
        Lazy(study),
        study.asking,
        options,
        workers=study.asking.workers if study.model.source == "server" else 1,
        journal=JOURNAL,
        name=f"consult {task}",
        see="model in studies/vlm/params.yaml, and docs/vlm.md for how to start a server",
    )


class Lazy:
    """The model, loaded when something is asked: what is in the journal needs neither a server nor weights."""

    def __init__(self, study: Study) -> None:
        self._study, self._lock = study, threading.Lock()
        self._model: Model | None = None

    def ask(self, prompt: str, jpegs: Sequence[bytes], max_tokens: int) -> Reply:
        with self._lock:
            if self._model is None:
                self._model = load_model(self._study)
        return self._model.ask(prompt, jpegs, max_tokens)

    def close(self) -> None:
        if self._model is not None:
            self._model.close()


def load_model(study: Study) -> Model:
    own = study.model
    if own.source == "local":
        from pipeline.chat.local import Local  # loads torch and transformers, of which a server's client needs nothing

        return Local(
            name=own.name,
            revision=own.revision,
            precision=own.precision,
            device=load_params().device,
            temperature=study.temperature,
            seed=study.seed,
        )
    try:
        from pipeline.chat.server import Server
    except ModuleNotFoundError as error:
        raise ValueError(f"no module {error.name}: pip install -r requirements-vlm.txt") from None
    return Server(
        name=own.name,
        base_url=own.base_url,
        key=key(),
        temperature=study.temperature,
        seed=study.seed,
        timeout_s=study.asking.timeout_s,
        max_reply_mb=study.asking.max_reply_mb,
    )


def requests(study: Study, task: Task, template: str, items: Sequence[Item]) -> Iterator[Request]:
    """Video by video, as the shards have them: one video's pictures are in memory at a time."""
    of_video: dict[str, list[Item]] = {}
    for one in items:
        of_video.setdefault(one.video_id, []).append(one)
    columns = ["frame_index", "timestamp_s", "jpeg"]
    for video_id, table in shards.iterate(FRAMES, sorted(of_video), columns) if items else ():
        times = table["timestamp_s"].to_pylist()
        for one in of_video[video_id]:
            start_s = 0.0 if task == "captions" and study.shown.scope == "video" else one.start_s
            end_s = times[-1] + 1 if one.end_s is None else one.end_s
            seen = frames_of_segment(start_s, end_s, times)
            chosen = [seen[i] for i in spread(len(seen), study.shown.count)]
            fields = {**one.fields, "start_s": f"{one.start_s:.1f}", "end_s": f"{min(end_s, times[-1]):.1f}"}
            yield Request(
                one.id,
                video_id,
                template,
                {"question": "", "options": ""} | fields,
                tuple(table["frame_index"][i].as_py() for i in chosen),
                tuple(times[i] for i in chosen),
                tuple(table["jpeg"][i].as_py() for i in chosen),
                study.asked(task).max_tokens,
            )


def without_frames(item: Item, study: Study) -> Row:
    error = "its video has no frames"
    return Row("", item.id, study.model.name, None, error, None, None, None, 0.0, 0, ())


def readable(question: Question, row: Row) -> Row:
    """As it is, or without a text if that names no option or no number: never a guess."""
    if row.text is not None and read_answer(question, row.text, None) is None:
        what = "names no option" if question.task == "choice" else "is no number"
        return replace(row, text=None, error=f"the reply {what}")
    return row


def calls(items: Sequence[Item], rows: Mapping[str, Row], prices: Prices) -> list[dict[str, Any]]:
    videos = {one.id: one.video_id for one in items}
    return [
        {**asdict(row), "video_id": videos[id], "cost": prices.cost(row.tokens_in, row.tokens_out)}
        for id, row in rows.items()
    ]


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
    chosen = [{name: row[name] for name in schema.names} for row in rows]
    with aside(path) as written:
        pq.write_table(pa.Table.from_pylist(chosen, schema), written)


def summary(study: Study, rows: Mapping[str, Row]) -> dict[str, Any]:
    """Sums are None where one request's value is not known; requests that were never sent cost nothing."""
    sent = [row for row in rows.values() if row.attempts]

    def total(values: list[Any]) -> Any:
        return None if None in values else sum(values)

    unusable = Counter(row.error for row in rows.values() if row.error)
    cost = total([study.prices.cost(row.tokens_in, row.tokens_out) for row in sent])
    return {
        "model": study.model.name,
        "asked": len(rows),
        "sent": len(sent),
        "answered": sum(row.text is not None for row in rows.values()),
        "unusable": dict(sorted(unusable.items(), key=lambda one: (-one[1], one[0]))),
        "tokens_in": total([row.tokens_in for row in sent]),
        "tokens_out": total([row.tokens_out for row in sent]),
        "seconds": round(sum(row.seconds for row in sent), 3),
        "cost": cost if cost is None else round(cost, 6),
        "currency": study.prices.currency,
    }


if __name__ == "__main__":
    run(kept="the replies so far", takes="task")
