"""One sentence for each segment or whole video, from what its frames' captions say; then its scores.

Reads studies/gap/out/described/, data/videos/segments.parquet, what `evaluate` reads, and studies/gap/params.yaml
(summarise). Writes studies/gap/out/captions.parquet (.csv, .json; in the project's schema), evidence.parquet (for each
sentence: which frames' captions were kept, tokens, seconds, attempts, error), and metrics/gap/captions.json,
coverage.json, segments.parquet, kinds.csv, as `evaluate` writes them; and cost.json: what a sentence cost, from frames
on (studies/gap/out/describing.jsonl), for pipeline.table.

A dataset has no reference for a whole video. So the sentence of a video is said of each of its segments and scored as
said of them, and the built-in T5 learns it from the references of all of them.

A row that was written is kept if the stage is stopped: the same run goes on behind it. With summarise.method: server a
chat model writes them (section server); its key comes from the environment variable VLM_API_KEY.
"""

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.chat.asking import ask_all
from pipeline.chat.request import Request
from pipeline.chat.settings import key
from pipeline.dataset.segments import Segment, frames_of_segment, from_table
from pipeline.device import choose_device
from pipeline.features import shards
from pipeline.features.embeddings import vectors
from pipeline.files.aside import aside, write_text
from pipeline.imports import code_fingerprint
from pipeline.params import Params, load_params
from pipeline.process import progress
from pipeline.scoring.caption_table import write_captions
from pipeline.scoring.captioners import COSTS
from stages import run
from stages.evaluate import evaluate
from studies.gap.keep import keep
from studies.gap.sentences import (
    SEPARATOR,
    SLOT,
    LanguageModel,
    Summariser,
    by_template,
    load_language_model,
    read_prompt,
    train_t5,
)
from studies.gap.settings import (
    CAPTIONS,
    COST,
    DESCRIBED,
    DESCRIBING,
    EVIDENCE,
    JOURNAL,
    METRICS,
    OUT,
    SEGMENTS,
    GapStudy,
    SummariseParams,
    load_study,
)

TABLES = ("captions.json", "coverage.json", "segments.parquet", "kinds.csv")  # in the order of `evaluate`


@dataclass(frozen=True)
class Written:
    """What is said of a segment or a video. As `caption_table.Generated`."""

    caption: str
    log_prob: None
    frames: list[int]  # whose captions were kept
    captions: list[str]
    tokens_in: int | None  # None: a server did not say
    tokens_out: int | None
    seconds: float  # of CPU; until a server's reply by the clock
    attempts: int
    error: str


@dataclass(frozen=True)
class Described:
    """What the frames of a segment say; or those of a video, which is then a segment of the video's name."""

    segment: Segment
    frames: list[int]
    captions: list[str]
    held: int  # bytes that a stream holds when the segment ends: what is kept is not known before

    @property
    def id(self) -> str:
        return self.segment.segment_id


def main() -> None:
    params, study = load_params(), load_study()
    options = study.summarise
    segments = from_table(pq.read_table(SEGMENTS["videos"]))
    described = {
        split: frames_say([s for s in segments if s.split == split], options) for split in ("train", options.split)
    }
    chosen = described[options.split]
    if options.method == "server":
        done, parameters = by_server(study, chosen, params.seed), None
    else:
        done, parameters = here(params, options, chosen, described["train"])
    write_captions(CAPTIONS, segments, said_of(segments, options, done))
    write_evidence(EVIDENCE, chosen, done)
    scored = params.on_split(options.split)
    cost = cost_of(chosen, done, read_describing(), parameters, by_clock=options.method == "server")
    write_text(COST, json.dumps(cost, indent=2) + "\n")
    line = evaluate(scored, CAPTIONS, *(METRICS / name for name in TABLES))
    journal_of(options, chosen).unlink(missing_ok=True)
    failed = [one.error for one in done.values() if not one.caption]
    reason = f" (the first: {failed[0]})" if failed else ""
    counted = f"{len(done) - len(failed)} of {len(chosen)} {options.per}s"
    print(f"summarise: {counted} by {options.method}, {len(failed)} without a sentence{reason}")
    print(line)


def here(
    params: Params, options: SummariseParams, chosen: Sequence[Described], train: Sequence[Described]
) -> tuple[dict[str, Written], int]:
    """What a summariser on this machine writes, by id, and its parameters; what an earlier run wrote is read."""
    journal = journal_of(options, chosen)
    parameters, done = read_journal(journal)
    todo = [one for one in chosen if one.id not in done]
    if parameters is not None and not todo:
        return done, parameters
    summariser = make_summariser(params, options, train)
    parameters = summariser.parameters if isinstance(summariser, LanguageModel) else 0
    journal.parent.mkdir(parents=True, exist_ok=True)
    # Whole, without a line that was cut off.
    write_text(journal, "".join([head_line(parameters), *(journal_line(id, one) for id, one in done.items())]))
    with journal.open("a") as file, progress.bar(total=len(todo), desc="summarise", unit=options.per) as bar:
        for at in range(0, len(todo), options.batch_size):
            for id, one in write(summariser, todo[at : at + options.batch_size]).items():
                done[id] = one
                file.write(journal_line(id, one))
            file.flush()
            bar.update(len(todo[at : at + options.batch_size]))
    return done, parameters


def by_server(study: GapStudy, chosen: Sequence[Described], seed: int) -> dict[str, Written]:
    """What a chat model behind a server writes, by id; what it replied once is not asked again.

    Raises ValueError if the server refuses, or if too many requests failed for reasons that can pass.
    """
    try:
        from pipeline.chat.server import Server
    except ModuleNotFoundError as error:
        raise ValueError(f"no module {error.name}: pip install -r requirements-vlm.txt") from None
    options, own = study.summarise, study.server
    template = read_prompt(Path(options.prompt))
    speaking = {one.id: one for one in chosen if one.captions}
    model = Server(
        name=options.name,
        base_url=own.base_url,
        key=key(),
        temperature=0.0,
        seed=seed,
        timeout_s=own.timeout_s,
        max_reply_mb=own.max_reply_mb,
    )
    rows = ask_all(
        (
            Request(
                id,
                one.segment.video_id,
                "{prompt}",
                {"prompt": template.replace(SLOT, SEPARATOR.join(one.captions))},
                frames=(),
                times_s=(),
                jpegs=(),
                max_tokens=options.max_new_tokens,
            )
            for id, one in speaking.items()
        ),
        len(speaking),
        model,
        own,
        {"model": options.name, "source": "server", "seed": seed},
        workers=own.workers,
        journal=JOURNAL,
        name="summarise",
        see="summarise and server in studies/gap/params.yaml, and docs/vlm.md for how to start a server",
    )
    return without_sentence(chosen) | {
        id: Written(
            row.text or "",
            None,
            speaking[id].frames,
            speaking[id].captions,
            row.tokens_in,
            row.tokens_out,
            row.seconds,
            row.attempts,
            row.error or "",
        )
        for id, row in rows.items()
    }


def frames_say(segments: Sequence[Segment], options: SummariseParams) -> list[Described]:
    """The kept captions of each segment whose video was described, or of the video, in the order of time."""
    index = shards.index(DESCRIBED)
    of_video: dict[str, list[Segment]] = {}
    for segment in segments:
        if segment.video_id in index:
            of_video.setdefault(segment.video_id, []).append(segment)
    found = []
    there = sorted(id for id in of_video if index[id].rows)
    names = ["frame_index", "timestamp_s", "caption", "text_embedding"]
    tables = dict(shards.iterate(DESCRIBED, there, names)) if there else {}
    for video_id, own in sorted(of_video.items()):
        table = tables.get(video_id)
        for segment in own if options.per == "segment" else [whole(own)]:
            if table is None:
                found.append(Described(segment, [], [], 0))
                continue
            times = table["timestamp_s"].to_numpy()
            inside = frames_of_segment(segment.start_s, segment.end_s, times)
            rows = table.slice(inside.start, len(inside))
            captions = rows["caption"].to_pylist()
            kept = keep(options.keep, captions, vectors(rows, "text_embedding"), options.count) if captions else []
            frames = rows["frame_index"].to_pylist()
            held = held_bytes(options.keep, captions, table.schema.field("text_embedding").type.list_size)
            found.append(Described(segment, [frames[i] for i in kept], [captions[i] for i in kept], held))
    return found


def whole(segments: Sequence[Segment]) -> Segment:
    """A video as one segment, named as the video; its references are those of all its segments."""
    references = tuple(caption for segment in segments for caption in segment.captions)
    return Segment(segments[0].video_id, segments[0].video_id, segments[0].split, 0.0, math.inf, references, None)


def said_of(segments: Sequence[Segment], options: SummariseParams, done: Mapping[str, Written]) -> dict[str, Written]:
    """By segment_id what is said of it: its own sentence, or its video's."""
    of_split = {
        s.segment_id: s.segment_id if options.per == "segment" else s.video_id
        for s in segments
        if s.split == options.split
    }
    return {id: done[own] for id, own in of_split.items() if own in done and done[own].caption}


def held_bytes(rule: str, captions: Sequence[str], width: int) -> int:
    """Of texts, and of their embeddings [width] where the rule compares those."""
    texts = captions if rule == "all" else set(captions)
    of_embedding = 4 * width if rule in ("diverse", "clusters") else 0
    return sum(len(text.encode()) + of_embedding for text in texts)


def make_summariser(params: Params, options: SummariseParams, train: Sequence[Described]) -> Summariser:
    device = choose_device(params.device)
    if options.method == "template":
        return by_template
    if options.method == "huggingface":
        beam_search: dict[str, Any] = {
            "beams": options.beams,
            "max_new_tokens": options.max_new_tokens,
            "device": device,
        }
        return load_language_model(options.name, Path(options.prompt), **beam_search)
    pairs = [(one.captions, one.segment.captions) for one in train if one.captions and one.segment.captions]
    if not pairs:
        raise ValueError(
            "studies/gap/params.yaml: describe.videos.train: no training segment has captions of frames, which the "
            "built-in T5 learns from; describe some, or set summarise.method: template"
        )
    names = ("width", "layers", "heads", "vocabulary", "steps", "batch", "learning_rate", "beams", "max_new_tokens")
    return train_t5(pairs, **{name: getattr(options, name) for name in names}, seed=params.seed, device=device)


def write(summariser: Summariser, chosen: Sequence[Described]) -> dict[str, Written]:
    """Those whose frames say nothing get a row without a sentence; what fails for a batch is tried one by one."""
    speaking = [one for one in chosen if one.captions]
    started, attempts = time.process_time(), 1
    try:
        sentences = summariser([one.captions for one in speaking]) if speaking else []
    except RuntimeError:  # of memory, or of a row that is too long for the model
        sentences, attempts = [summariser([one.captions])[0] for one in speaking], 2
    seconds = (time.process_time() - started) / max(len(speaking), 1)
    return without_sentence(chosen) | {
        one.id: Written(
            sentence.text,
            None,
            one.frames,
            one.captions,
            sentence.tokens_in,
            sentence.tokens_out,
            round(seconds, 6),
            attempts,
            sentence.error,
        )
        for one, sentence in zip(speaking, sentences, strict=True)
    }


def without_sentence(chosen: Sequence[Described]) -> dict[str, Written]:
    """The rows of those whose frames say nothing."""
    nothing = Written("", None, [], [], 0, 0, 0.0, 0, "no frame of it was described")
    return {one.id: nothing for one in chosen}


def cost_of(
    chosen: Sequence[Described],
    done: Mapping[str, Written],
    describing: Mapping[str, Mapping[str, Any]],
    parameters: int | None,
    *,
    by_clock: bool,
) -> dict[str, Any]:
    """What a sentence cost from frames on, whichever run made it; None for what is not known.

    Describing is counted by whole videos, so frames between segments are a part of it; so are sentences that came to
    nothing.

    Args:
        describing: by video, as `read_describing` has it.
        parameters: of the summariser; None: it is not known, as a server's.
        by_clock: its seconds are a server's.
    """
    captions = sum(bool(one.caption) for one in done.values())
    videos = {one.segment.video_id for one in chosen if one.captions}
    if not captions:
        return dict.fromkeys(COSTS)

    def each(values: Sequence[float | None]) -> float | None:
        return None if None in values else sum(value for value in values if value is not None) / captions

    own = [describing.get(video_id) for video_id in sorted(videos)]
    of_frames = each([one["cpu_s"] if one else None for one in own])
    of_sentences = sum(one.seconds for one in done.values()) / captions
    seconds = None if of_frames is None else of_frames + of_sentences
    coca = {one["parameters"] for one in own if one}
    return {
        "parameters": parameters + coca.pop() if parameters is not None and len(coca) == 1 else None,
        "cpu_s": None if by_clock else seconds,
        "seconds": seconds if by_clock else None,
        "remembered_bytes": each([one.held for one in chosen if done[one.id].caption]),
        "tokens_in": each([one.tokens_in for one in done.values()]),
        "tokens_out": each([one.tokens_out for one in done.values()]),
    }


def read_describing() -> dict[str, dict[str, Any]]:
    """`cpu_s` and `parameters` by video, of the last time that it was described; a line that was cut off is skipped."""
    found = {}
    for line in DESCRIBING.read_text().splitlines() if DESCRIBING.is_file() else ():
        with suppress(ValueError):
            one = json.loads(line)
            found[one["video_id"]] = one
    return found


def write_evidence(path: Path, chosen: Sequence[Described], done: Mapping[str, Written]) -> None:
    rows: list[dict[str, Any]] = []
    for one in sorted(chosen, key=lambda one: one.id):
        segment_id = None if one.id == one.segment.video_id else one.id
        rows.append({"video_id": one.segment.video_id, "segment_id": segment_id, **asdict(done[one.id])})
    schema = pa.schema(
        [
            ("video_id", pa.string()),
            ("segment_id", pa.string()),
            ("caption", pa.string()),
            ("frames", pa.list_(pa.int32())),
            ("captions", pa.list_(pa.string())),
            ("tokens_in", pa.int32()),
            ("tokens_out", pa.int32()),
            ("seconds", pa.float64()),
            ("attempts", pa.int32()),
            ("error", pa.string()),
        ]
    )
    with aside(path) as unfinished:
        pq.write_table(pa.Table.from_pylist([{k: row[k] for k in schema.names} for row in rows], schema), unfinished)


def read_journal(path: Path) -> tuple[int | None, dict[str, Written]]:
    """The summariser's parameters and what it wrote, by id, in an earlier run, as far as its lines are whole."""
    found: dict[str, Written] = {}
    parameters = None
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            break  # the kill came in the middle of it
        if "parameters" in row:
            parameters = row["parameters"]
        else:
            id = row.pop("id")
            found[id] = Written(**row)
    return parameters, found


def head_line(parameters: int) -> str:
    """Kept, so that a run with nothing left to do need not make the summariser again."""
    return json.dumps({"parameters": parameters}) + "\n"


def journal_line(id: str, one: Written) -> str:
    return json.dumps({"id": id, **asdict(one)}) + "\n"


def journal_of(options: SummariseParams, chosen: Sequence[Described]) -> Path:
    """Of what a run wrote that was stopped; another for other settings, code or captions."""
    parts = [
        options.model_dump_json(),
        code_fingerprint(Path(__file__)),
        *(f"{one.id} {one.captions}" for one in chosen),
    ]
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return OUT / f"unfinished-{name}.jsonl"


if __name__ == "__main__":
    run(kept="the sentences that are written")
