"""The attention captioner beside the plain ways to do the same: `python -m bench.attend`.

On made-up pictures and cells, in CPU seconds on one thread (ratios of the two sides, measured in turn):
features against the bare forward pass of the same net, a training step against the same captions one at a time, beam
search of a batch against one segment at a time and against one beam of one segment at a time (in both, each caption's
arithmetic is the same, and half of the batch's time is the attention's), and maps of a segment against one
backward pass for each cell in time.
"""

import argparse
import copy
import time
from collections.abc import Callable

import cv2
import numpy as np
import torch

from bench.table import show
from pipeline.device import keep_freed_memory
from pipeline.language.beam import search
from studies.attend import cams
from studies.attend.model import AttendingCaptioner, Batch, Config, Decoding
from studies.attend.nets import KINETICS_MEAN, KINETICS_STD, Net, SmallVideoNet, Windows, video_cells
from studies.attend.training import pad
from studies.attend.vocabulary import BEGIN, END

PLACES, CHANNELS, TIMES, WORDS, VOCABULARY = 49, 40, 15, 12, 140
SIDE, WINDOW = 56, 32


def cpu_s(run: Callable[[], object], rounds: int) -> float:
    """The least of some rounds: what else the machine does only adds."""
    found = []
    for _ in range(rounds):
        started = time.process_time()
        run()
        found.append(time.process_time() - started)
    return min(found)


def one_of(batch: Batch, i: int) -> Batch:
    return Batch(batch.cells[i : i + 1], batch.since_s[i : i + 1], batch.until_s[i : i + 1], batch.lengths[i : i + 1])


def features(rounds: int) -> tuple[float, float]:
    """CPU seconds of the bare forward passes of a video, and of all that makes its cells but decoding its JPEGs."""
    draw = np.random.default_rng(0)
    frames = [draw.integers(0, 255, (128, 128, 3), np.uint8) for _ in range(160)]
    jpegs = [cv2.imencode(".jpg", frame)[1].tobytes() for frame in frames]
    module = SmallVideoNet(16, 79).eval().requires_grad_(False).to(memory_format=torch.channels_last_3d)
    net = Net(copy.deepcopy(module), "layer2", KINETICS_MEAN, KINETICS_STD)  # one of its own: it ends at that layer
    pixels = torch.zeros(4, WINDOW, SIDE, SIDE, 3, dtype=torch.uint8)
    inputs = net.normalised(pixels)
    windows, device = Windows(len(jpegs), WINDOW, WINDOW), torch.device("cpu")

    def bare() -> None:
        with torch.inference_mode():
            for at in range(0, len(windows.starts), 4):
                module(inputs[: len(windows.starts[at : at + 4])])

    from studies.attend import nets

    decoded = {jpeg: nets.picture(jpeg, SIDE) for jpeg in jpegs}
    whole = nets.picture
    try:
        nets.picture = lambda jpeg, side: decoded[jpeg]
        made = cpu_s(lambda: video_cells(net, jpegs, windows, side=SIDE, batch_size=4, device=device), rounds)
    finally:
        nets.picture = whole
    return cpu_s(bare, rounds), made


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.attend", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--segments", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as the stages do
    torch.manual_seed(0)
    config = Config("space-time", "lstm", PLACES, CHANNELS, 128, 4, VOCABULARY, dropout=0.1, noise=0.0)
    model = AttendingCaptioner(config)
    count = options.segments
    times = torch.arange(TIMES).float().expand(count, -1) * 0.4
    cells = torch.rand(count, TIMES, PLACES, CHANNELS)
    batch = Batch(cells, times, 6 - times, torch.full((count,), TIMES))
    captions = [[[*torch.randint(4, VOCABULARY, (WORDS,)).tolist(), END] for _ in range(3)] for _ in range(count)]

    def step(some: Batch, own: list[list[list[int]]]) -> None:
        model.zero_grad()
        log_probs, _ = model.log_probs(model.look(some), pad(own))
        (-log_probs.sum()).backward()

    def one_caption_at_a_time() -> None:
        for i, own in enumerate(captions):
            for caption in own:
                step(one_of(batch, i), [[caption]])

    rows = []

    def add(what: str, ours: float, plain: float) -> None:
        rows.append({"": what, "CPU s": f"{ours:.3f}", "plain CPU s": f"{plain:.3f}", "ratio": f"{plain / ours:.2f}"})

    bare, made = features(options.rounds)
    add("cells / forward", made, bare)
    model.train()
    add("training step", cpu_s(lambda: step(batch, captions), options.rounds), cpu_s(one_caption_at_a_time, 1))
    model.eval()
    settings = {"end": END, "beams": 4, "max_tokens": WORDS, "length_penalty": 1.0}

    def beams(some: Batch) -> None:
        with torch.inference_mode():
            search(Decoding(model, some), **settings)  # type: ignore[arg-type]

    def one_segment_at_a_time() -> None:
        for i in range(count):
            beams(one_of(batch, i))

    add(
        "beam search",
        cpu_s(lambda: beams(batch), options.rounds),
        cpu_s(one_segment_at_a_time, 1),
    )

    @torch.inference_mode()
    def one_beam_at_a_time() -> None:
        """As published captioners of this kind search: a list of beams, each continued by itself."""
        for i in range(count):
            seen = model.look(one_of(batch, i))
            going = [(0.0, [BEGIN], model.begin(seen, 1))]
            for _ in range(WORDS):
                grown = []
                for value, words, state in going:
                    logits, after, _ = model.step(seen, state, torch.tensor([[words[-1]]]))
                    likeliest = logits[0, 0].log_softmax(-1).topk(4)
                    grown += [
                        (value + more, [*words, word], after)
                        for more, word in zip(likeliest.values.tolist(), likeliest.indices.tolist(), strict=True)
                    ]
                going = sorted(grown, key=lambda beam: -beam[0])[:4]

    add(
        "beam by beam",
        cpu_s(lambda: beams(batch), options.rounds),
        cpu_s(one_beam_at_a_time, 1),
    )
    tokens, own = captions[0][0], one_of(batch, 0)

    def frame_by_frame() -> None:
        """As tools for pictures do it: a forward and a backward pass for each moment and each word."""
        for moment in range(TIMES):
            for place in range(len(tokens)):
                grown = own.cells.clone()
                part = grown[:, moment : moment + 1].clone().requires_grad_(True)
                mixed = torch.cat([grown[:, :moment], part, grown[:, moment + 1 :]], dim=1)
                log_probs, _ = model.log_probs(model.look(own.with_cells(mixed)), torch.tensor(tokens)[None, None])
                torch.autograd.grad(log_probs[0, 0, place], part)

    add(
        "maps",
        cpu_s(lambda: cams.explain(model, own, tokens, ["gradcam"], h=7), options.rounds),
        cpu_s(frame_by_frame, 1),
    )
    show(rows)


if __name__ == "__main__":
    main()
