"""Captions of a trained captioner."""

from dataclasses import replace
from unittest import mock

import pytest
import torch

from pipeline.captioner.generation import caption_batch, recall
from pipeline.captioner.model import build_captioner
from pipeline.captioner.sequences import collate
from pipeline.captioner.streaming import stream_segments
from tests.colours import BEAM, examples_for, make

pytestmark = pytest.mark.usefixtures("one_thread")


def test_videos_that_outgrow_the_memory_are_streamed_and_captioned_as_they_would_be_whole(decoder, tokenizer):
    captioner = make(decoder)
    config = replace(captioner.config, memory=replace(captioner.config.memory, max_entries=9))  # 3 frames
    forgetful = build_captioner(config, decoder, captioner.mapper.state_dict())
    batch = collate(examples_for(forgetful)[:5])
    assert batch.embeddings.shape[1] > 3
    whole = forgetful.mapper.recalled(batch.embeddings, batch.moments)
    with mock.patch("pipeline.captioner.generation.stream_segments", side_effect=stream_segments) as streamed:
        prefixes, retrieved = recall(forgetful, batch)
        torch.testing.assert_close(prefixes, whole.prefixes[batch.real])
        assert streamed.call_count == 5
        assert caption_batch(forgetful, tokenizer, batch, **BEAM).keys() == {s.segment_id for s in batch.segments}
        streamed.reset_mock()
        recall(captioner, batch)
        assert not streamed.called  # it holds them all
    for seen, (b, r) in zip(retrieved, batch.real.nonzero().tolist(), strict=True):
        for one in seen:
            expected = whole.attended[one.layer][b, one.head - 1, r, one.frame_index - batch.begins[b]]
            assert one.weight == pytest.approx(float(expected), rel=1e-4) and one.weight > 0


def test_drawn_captions_are_a_function_of_the_seed_and_no_longer_than_asked(decoder, tokenizer):
    captioner = make(decoder).eval()
    batch = collate(examples_for(captioner))
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(caption_batch(captioner, tokenizer, batch, **{**BEAM, "method": "sample"}))
    assert drawn[0] == drawn[1] != drawn[2]
    assert max(len(made.caption.split()) for made in drawn[0].values()) == BEAM["max_tokens"]
