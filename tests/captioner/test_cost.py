"""What a caption costs."""

import numpy as np
import pytest

from pipeline.baselines import BaselineConfig
from pipeline.captioner.cost import measure, remembered_bytes
from pipeline.captioner.mapper import MapperConfig
from pipeline.captioner.model import CaptionerConfig
from tests.colours import BEAM, examples_for, make
from tests.memory_config import memory_config


def test_a_stream_holds_the_frames_that_may_be_needed_when_the_segment_ends():
    mapper = MapperConfig("transformer", 2, 2, 8, 2, 2, embedding_width=6, decoder_width=16)
    embeddings = np.random.default_rng(0).normal(size=(120, 6)).astype(np.float16)

    def held(memory=None, baseline=None):
        return remembered_bytes(CaptionerConfig(mapper, memory, baseline), embeddings, 20)

    frame = 4 * 6
    assert held(baseline=BaselineConfig("mean", 1)) == frame
    assert held(baseline=BaselineConfig("segment", 8)) == 20 * frame
    assert held(baseline=BaselineConfig("both", 8)) == held(baseline=BaselineConfig("many", 64)) == 120 * frame
    of_keys = frame + 4 * 2 * 4 * 8  # keys and values of four tokens of width 8
    assert held(memory_config(max_entries=400)) == 100 * of_keys
    # Random frames are all new: those before the hundred most recent are kept for it.
    assert held(memory_config(max_entries=400, write_below=0.99)) == 120 * of_keys
    assert held(memory_config(max_entries=4000)) == 120 * of_keys


def test_arithmetic_and_bytes_are_means_over_captions(decoder, tokenizer):
    captioner = make(decoder).eval()
    examples = examples_for(captioner)[:6]
    once, twice = (measure(captioner, tokenizer, some, batch_size=1, **BEAM) for some in (examples, examples * 2))
    assert once.parameters == sum(weights.numel() for weights in captioner.parameters())
    assert twice.gflop == pytest.approx(once.gflop) and once.gflop > 0 and once.cpu_s > 0
    assert twice.remembered_bytes == once.remembered_bytes > 0


def test_a_memory_of_longer_videos_costs_more_than_the_last_frame(decoder, tokenizer):
    with_memory, last = (make(decoder, memory=memory).eval() for memory in (True, False))
    costs = [measure(one, tokenizer, examples_for(one)[:4], batch_size=4, **BEAM) for one in (with_memory, last)]
    assert costs[0].gflop > costs[1].gflop and costs[0].remembered_bytes > costs[1].remembered_bytes
