"""Caption with the captioners of one kind of attention: `python -m studies.attend.caption none|temporal|...`.

Reads data/videos/segments.parquet, studies/attend/cells/, studies/attend/models/KIND/ and the section caption of
studies/attend/params.yaml. Writes studies/attend/out/KIND/, in it for each seed seed-N.parquet, .csv and .json as every
run's captions, seed-N.pairs.csv: video_id, prediction, reference, and seed-N.cost.json: what a caption cost from stored
cells on, as pipeline.captioner.cost has it.
"""

import csv
import io
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow.parquet as pq
import torch

import stages
from pipeline.dataset.segments import Segment, from_table
from pipeline.device import keep_freed_memory
from pipeline.files.aside import aside, write_text
from pipeline.language.beam import search
from pipeline.params import load_params
from pipeline.process import progress
from pipeline.scoring.caption_table import write_captions
from studies.attend.cells import shape_of
from studies.attend.examples import Example, make_examples, to_batch
from studies.attend.learn import MODELS, SEGMENTS, load, read_cells
from studies.attend.model import AttendingCaptioner, Decoding
from studies.attend.settings import CELLS, OUT, CaptionParams, load_attend
from studies.attend.training import pad
from studies.attend.vocabulary import END, PAD, Vocabulary


@dataclass(frozen=True)
class Generated:
    caption: str
    log_prob: float
    tokens: tuple[int, ...]  # without the end


def main(kind: str) -> None:
    keep_freed_memory()
    own, params = load_attend().caption, load_params()
    segments = [one for one in from_table(pq.read_table(SEGMENTS)) if one.split == own.split]
    if not segments:
        raise ValueError(f"{SEGMENTS} has no segments of split {own.split!r}; see caption.split of the study's params")
    examples = make_examples(segments, read_cells(one.video_id for one in segments))
    if not examples:
        raise ValueError(
            f"none of the {len(segments)} segments of split {own.split!r} has cells: its videos have no frames"
        )
    h, w, _ = shape_of(CELLS)
    folders = sorted((MODELS / kind).glob("seed-*"))
    with aside(OUT / kind) as out:
        out.mkdir(parents=True)
        for folder in folders:
            captioner, vocabulary = load(folder, params.device)
            with progress.bar(total=len(examples), desc=f"attend caption {kind}", unit="segment") as bar:
                by_id, started = {}, time.process_time()
                for one, caption in captions(captioner, vocabulary, examples, own, places=h * w):
                    by_id[one.segment_id] = caption
                    bar.update()
            cpu_s = time.process_time() - started
            write_captions(out / f"{folder.name}.parquet", segments, by_id)
            write_text(out / f"{folder.name}.pairs.csv", pairs(segments, by_id))
            held = sum(4 * len(one.rows) * one.video.embeddings.shape[1] for one in examples)  # each word looks at all
            cost = {
                "parameters": sum(weights.numel() for weights in captioner.parameters()),
                "cpu_s": cpu_s / len(by_id),
                "remembered_bytes": held / len(by_id),
            }
            write_text(out / f"{folder.name}.cost.json", json.dumps(cost, indent=2) + "\n")
    print(f"caption {kind}: {len(examples)} of {len(segments)} segments of split {own.split}, {len(folders)} seeds")


def captions(
    captioner: AttendingCaptioner,
    vocabulary: Vocabulary,
    examples: Sequence[Example],
    own: CaptionParams,
    *,
    places: int,
) -> Iterator[tuple[Segment, Generated]]:
    """Each segment's caption by beam search, and its log-probability; segments of like lengths together."""
    device = captioner.words.weight.device
    order = sorted(examples, key=lambda one: len(one.rows))
    for at in range(0, len(order), own.batch_size):
        some = order[at : at + own.batch_size]
        batch = to_batch(some, places).to(device)
        with torch.inference_mode():
            found = search(
                Decoding(captioner, batch),
                end=END,
                beams=own.beams,
                max_tokens=own.max_tokens,
                length_penalty=own.length_penalty,
            )
            tokens = pad([[[*ids, END]] for ids in found]).to(device)
            log_probs, _ = captioner.log_probs(captioner.look(batch), tokens)
            values = (log_probs * (tokens != PAD)).sum((1, 2)).tolist()
        for one, ids, value in zip(some, found, values, strict=True):
            yield one.segment, Generated(vocabulary.decode(ids), value, tuple(ids))


def pairs(segments: Sequence[Segment], by_id: dict[str, Generated]) -> str:
    """The table that yiskw713/VideoCaptioning writes: a row for each reference of a video's segment."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["video_id", "prediction", "reference"])
    for one in segments:
        if one.segment_id in by_id:
            rows.writerows([one.video_id, by_id[one.segment_id].caption, reference] for reference in one.captions)
    return text.getvalue()


if __name__ == "__main__":
    stages.run(kept=None, takes="attention")
