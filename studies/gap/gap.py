"""Measure the modality gap of two encoders, trained and random, at three levels; and along training and depth.

Reads studies/gap/out/ (described, captions.parquet, steps.npz), studies/gap/models/, models/encoder, data/pictures/,
data/videos/ (frames, embeddings, segments.parquet) and studies/gap/params.yaml (gap).
Writes metrics/gap/gap.json (flat), metrics/gap/gaps.json (every figure and interval), studies/gap/out/pairs/ (arrays
[2, pairs, E] for `python -m pipeline.gap`), studies/gap/models/encoder-random, and for DVC to plot metrics/gap/plots/:
shift.csv, training.csv, depth.csv, svd.png, cones.png.

Levels: frame and the caption the CoCa wrote of it; segment (the mean of its frames' unit embeddings) and its first
reference; video (the same of all its frames) and its sentence (summarise.per: video), or the mean of its segments'.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from pipeline.dataset.segments import Segment, frames_of_segment, from_table
from pipeline.dataset.shapes.grammar import read_facts
from pipeline.device import choose_device
from pipeline.features import shards
from pipeline.features.embeddings import vectors
from pipeline.features.encoder import CONFIG_FILE, Encoder, load_encoder, save_encoder
from pipeline.features.text_tower import embed_texts
from pipeline.files import strict_json
from pipeline.files.aside import aside, write_text
from pipeline.params import Params, load_params
from pipeline.scoring.gap import Gap, cone, measure_gap, measures, unit, unit_pairs
from pipeline.scoring.table import write_json
from stages import run
from studies.gap.coca_model import Coca, load_coca
from studies.gap.pictures import read_pictures
from studies.gap.plots import draw_cones, draw_pairs
from studies.gap.settings import (
    CAPTIONS,
    COCA,
    DESCRIBED,
    EMBEDDINGS,
    ENCODER,
    FRAMES,
    METRICS,
    PAIRS,
    RANDOM_COCA,
    RANDOM_ENCODER,
    SEGMENTS,
    STEPS,
    Level,
    load_study,
)

Array = NDArray[np.float64]
PLOTS = METRICS / "plots"
SHOWN = ("distance.centroids", "cone.image.mean", "cone.text.mean", "cosine.match", "rmg", "R@1.i2t", "R@1.t2i")
JPEGS_AT_ONCE = 64
DECIMALS = 4


class Embeds(Protocol):
    """Both towers of an encoder. Rows [n, E], not normalised."""

    def frames(self, video_id: str, frame_indices: Sequence[int]) -> NDArray[Any]: ...

    def texts(self, texts: Sequence[str]) -> NDArray[Any]: ...


@dataclass(frozen=True)
class CocaEmbeds:
    coca: Coca

    def frames(self, video_id: str, frame_indices: Sequence[int]) -> NDArray[Any]:
        return np.concatenate(
            [self.coca.images(jpegs)[0].float().cpu().numpy() for jpegs in jpegs_of(video_id, frame_indices)]
        )

    def texts(self, texts: Sequence[str]) -> NDArray[Any]:
        return self.coca.texts(texts).float().cpu().numpy()


@dataclass(frozen=True)
class EncoderEmbeds:
    """stored: the shards of its embeddings; None: frames are embedded anew."""

    folder: Path
    stored: Path | None
    device: str

    @cached_property
    def encoder(self) -> Encoder:
        return load_encoder(self.folder, device=choose_device(self.device), dtype=torch.float32)

    def frames(self, video_id: str, frame_indices: Sequence[int]) -> NDArray[Any]:
        if self.stored:
            table = shards.read(self.stored, video_id, ["frame_index", "embedding"])
            return vectors(table)[np.searchsorted(table["frame_index"].to_numpy(), frame_indices)]
        jpegs = [jpeg for some in jpegs_of(video_id, frame_indices) for jpeg in some]
        return self.encoder.embed(jpegs, batch_size=JPEGS_AT_ONCE)

    def texts(self, texts: Sequence[str]) -> NDArray[Any]:
        return embed_texts(self.folder, texts, self.device)


@dataclass(frozen=True)
class Pairs:
    images: Array  # [n, E], of unit length
    texts: Array
    videos: list[str]  # of each pair
    facts: list[object]  # what each text states; of another dataset, the text


def main() -> None:
    params, options = load_params(), load_study().gap
    found: list[dict[str, Any]] = []
    curves, drawn = [], {}
    for encoder, weights, embeds in encoders(params):
        for level in options.levels:
            sets = {split: pairs_of(level, embeds, split) for split in ("test", "train")}
            test, train = sets["test"], sets["train"]
            if test is None:
                continue
            fit = None if train is None else (train.images, train.texts)
            gap = measure_gap(
                test.images, test.texts, train=fit, groups=test.videos, facts=test.facts, draws=options.draws,
                loss_pairs=options.loss_pairs, seed=params.seed,
            )  # fmt: skip
            found.append({"encoder": encoder, "weights": weights, "level": level, **asdict(gap)})
            curves += [{"set": f"{encoder} {weights} {level}", **row} for row in gap.curve]
            save(PAIRS / f"{encoder}-{weights}-{level}.npy", np.stack([test.images, test.texts]).astype(np.float32))
            if level == options.levels[0]:
                drawn[f"{encoder}, {weights}"] = (test.images, test.texts)
            print(f"gap: {line(encoder, weights, level, gap)}", flush=True)
    if not found:
        raise ValueError(f"{DESCRIBED} has no frames of the split test; see describe.videos in studies/gap/params.yaml")
    write_json(METRICS / "gaps.json", found)
    write_json(METRICS / "gap.json", flat(found))
    write_csv(PLOTS / "shift.csv", curves)
    write_csv(PLOTS / "training.csv", along_training())
    write_csv(PLOTS / "depth.csv", along_depth(params))
    draw_pairs(PLOTS / "svd.png", drawn)
    draw_cones(PLOTS / "cones.png", drawn)
    print(
        f"gap: {len(found)} sets of pairs measured; every figure in {METRICS}/gaps.json; "
        f"one of them: python -m pipeline.gap {PAIRS}/coca-trained-frame.npy"
    )


def encoders(params: Params) -> Iterator[tuple[str, str, Embeds]]:
    device = choose_device(params.device)
    for weights, folder in (("trained", COCA), ("random", RANDOM_COCA)):
        yield "coca", weights, CocaEmbeds(load_coca(folder, device=device))
    yield "encoder", "trained", EncoderEmbeds(ENCODER, EMBEDDINGS, params.device)
    make_random_encoder(params.seed)
    yield "encoder", "random", EncoderEmbeds(RANDOM_ENCODER, None, params.device)


def make_random_encoder(seed: int) -> None:
    """The main encoder's config with fresh weights, as a folder of its own."""
    import open_clip

    config = strict_json.load(ENCODER / CONFIG_FILE)
    torch.manual_seed(seed)
    model = open_clip.create_model(f"local-dir:{ENCODER}", load_weights=False)
    save_encoder(RANDOM_ENCODER, config["model_cfg"], model)


def pairs_of(level: Level, embeds: Embeds, split: str) -> Pairs | None:
    """Of the described videos of a split. None where there are none, or (video) no sentences."""
    segments = [s for s in from_table(pq.read_table(SEGMENTS["videos"])) if s.split == split]
    of_video: dict[str, list[Segment]] = {}
    for segment in segments:
        of_video.setdefault(segment.video_id, []).append(segment)
    there = sorted(id for id, entry in shards.index(DESCRIBED).items() if entry.rows and id in of_video)
    names = ["frame_index", "timestamp_s", "caption"]
    tables = dict(shards.iterate(DESCRIBED, there, names)) if there else {}
    summaries = sentences() if level == "video" else {}
    images: list[Array] = []
    texts: list[list[str]] = []  # of each pair; the mean of several is its text
    videos: list[str] = []
    for video_id in there:
        table = tables[video_id]
        rows = unit(embeds.frames(video_id, table["frame_index"].to_pylist()).astype(np.float64))
        if level == "frame":
            images += list(rows)
            own = [[caption] for caption in table["caption"].to_pylist()]
        elif level == "segment":
            times = table["timestamp_s"].to_numpy()
            inside = {s: frames_of_segment(s.start_s, s.end_s, times) for s in of_video[video_id]}
            with_frames = [s for s, frames in inside.items() if len(frames) and s.captions]
            images += [rows[inside[s].start : inside[s].stop].mean(0) for s in with_frames]
            own = [[s.captions[0]] for s in with_frames]
        else:
            sentence = [summaries[s.segment_id] for s in of_video[video_id] if s.segment_id in summaries]
            if len(set(sentence)) == 1:
                sentence = sentence[:1]  # of the whole video: it states what it states however many segments there are
            images += [rows.mean(0)] if sentence else []
            own = [sentence] if sentence else []
        texts += own
        videos += [video_id] * len(own)
    if len(texts) < 2:
        return None
    different = sorted({text for some in texts for text in some})
    embedded = dict(zip(different, unit(embeds.texts(different).astype(np.float64)), strict=True))
    of_pairs = [np.mean([embedded[text] for text in some], axis=0) for some in texts]
    x, y = unit_pairs(np.stack(images), np.stack(of_pairs))
    return Pairs(x, y, videos, [tuple(read_facts(text) or text for text in some) for some in texts])


def sentences() -> dict[str, str]:
    table = pq.read_table(CAPTIONS, columns=["segment_id", "caption"])
    return dict(zip(table["segment_id"].to_pylist(), table["caption"].to_pylist(), strict=True))


def jpegs_of(video_id: str, frame_indices: Sequence[int]) -> Iterator[list[bytes]]:
    """A few at a time."""
    table = shards.read(FRAMES, video_id, ["frame_index", "jpeg"])
    places = np.searchsorted(table["frame_index"].to_numpy(), frame_indices)
    for at in range(0, len(places), JPEGS_AT_ONCE):
        yield table["jpeg"].take(places[at : at + JPEGS_AT_ONCE]).to_pylist()


def along_training() -> list[dict[str, float]]:
    """A row for each step whose embeddings were kept."""
    rows = []
    with np.load(STEPS) as steps:
        for step in steps.files:
            values, _ = measures(*unit_pairs(*steps[step]), None)
            rows.append({"step": int(step), **{name: values[name] for name in SHOWN}})
    return rows


def along_depth(params: Params) -> list[dict[str, Any]]:
    """Of the CoCa's blocks, counted from 1 (0: what the first one reads): cones, and the distance of the centroids.

    A picture or text is the mean of what a block gives of its tokens, padding left out.
    """
    pictures = read_pictures("val")
    jpegs, captions = [picture.jpeg for picture in pictures], [picture.captions[0] for picture in pictures]
    rows = []
    for weights, folder in (("trained", COCA), ("random", RANDOM_COCA)):
        coca = load_coca(folder, device=choose_device(params.device))
        tokens = coca.words.tokens(captions, coca.length)
        real = (tokens != 0)[..., None].numpy()
        kept: dict[tuple[str, int], Array] = {}

        def keep(of: tuple[str, int], _: Any, given: Any, gives: Any, *, kept: Any = kept, real: Any = real) -> None:
            rows = gives.float().cpu().numpy().astype(np.float64)
            if of[0] == "text":
                rows = rows[:, : real.shape[1]]  # without the class token at the end
                kept[of] = (rows * real).sum(1) / real.sum(1)
            else:
                kept[of] = rows.mean(1)

        towers = {"image": coca.model.visual.transformer, "text": coca.model.text.transformer}
        hooks = []
        for name, tower in towers.items():
            first = tower.resblocks[0]
            hooks.append(
                first.register_forward_pre_hook(
                    lambda m, given, name=name, keep=keep: keep((name, 0), m, None, given[0])
                )
            )
            hooks += [b.register_forward_hook(partial(keep, (name, i))) for i, b in enumerate(tower.resblocks, start=1)]
        coca.images(jpegs)
        with torch.inference_mode():
            coca.model.encode_text(tokens.to(coca.device))
        for hook in hooks:
            hook.remove()
        for depth in sorted({depth for _, depth in kept}):
            row: dict[str, Any] = {"weights": weights, "block": depth}
            own = {name: unit(kept[name, depth]) for name in towers if (name, depth) in kept}
            row |= {f"cone.{name}": cone(one)["mean"] for name, one in own.items()}
            if len(own) == 2 and own["image"].shape[1] == own["text"].shape[1]:
                row["distance"] = float(np.linalg.norm(own["image"].mean(0) - own["text"].mean(0)))
            rows.append(row)
    return rows


def flat(found: Sequence[dict[str, Any]]) -> dict[str, float]:
    """For `dvc metrics diff`: coca.trained.frame.rmg, and after the mean shift coca.trained.frame.shifted.R@1.i2t."""
    values: dict[str, float] = {}
    for one in found:
        name = f"{one['encoder']}.{one['weights']}.{one['level']}"
        values |= {f"{name}.{key}": round(one["plain"]["values"][key], DECIMALS) for key in SHOWN}
        values |= {f"{name}.shifted.{key}": round(one["shifted"]["values"][key], DECIMALS) for key in SHOWN[-2:]}
    return values


def line(encoder: str, weights: str, level: str, gap: Gap) -> str:
    plain, shifted = gap.plain.values, gap.shifted.values
    return (
        f"{encoder:<8}{weights:<8}{level:<8}{gap.pairs:>5} pairs  distance {plain['distance.centroids']:.3f}  "
        f"cones {plain['cone.image.mean']:.2f} {plain['cone.text.mean']:.2f}  RMG {plain['rmg']:.3f}  "
        f"R@1 {plain['facts.R@1.i2t']:.2f} {plain['facts.R@1.t2i']:.2f}, "
        f"shifted {shifted['facts.R@1.i2t']:.2f} {shifted['facts.R@1.t2i']:.2f}"
    )


def save(path: Path, array: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with aside(path) as written, written.open("wb") as file:
        np.save(file, array)


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_text(path, pd.DataFrame(rows).round(DECIMALS).to_csv(index=False, lineterminator="\n"))


if __name__ == "__main__":
    run(kept=None)
