"""CLIPScore against open_clip's own towers, on a small CLIP of random weights."""

import numpy as np
import open_clip
import pyarrow as pa
import pytest
import torch

from pipeline.dataset.segments import Segment
from pipeline.features import shards
from pipeline.features.encoder import CONFIG_FILE
from pipeline.features.text_tower import NoTextTower, embed_texts
from pipeline.scoring.clipscore import clip_scores
from tests.random_clip import write_random_clip

WIDTH = 16
TEXT = {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 1}
SCHEMA = pa.schema(
    [("video_id", pa.string()), ("timestamp_s", pa.float64()), ("embedding", pa.list_(pa.float16(), WIDTH))]
)
CAPTIONS = {"v#0": "a red star", "v#1": "a blue ring rests", "w#0": "a dog", "gone#0": "a cat"}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    return folder, write_random_clip(folder, WIDTH, text=TEXT).eval()


def text_tower(model, text):
    with torch.inference_mode():
        return model.encode_text(open_clip.SimpleTokenizer(context_length=8)([text]))[0].numpy()


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_a_segments_score_is_the_average_over_its_frames_and_never_below_zero(tmp_path, encoder):
    folder, model = encoder
    own = text_tower(model, CAPTIONS["w#0"])
    frames = {"v": np.random.default_rng(0).normal(size=(6, WIDTH)), "w": np.stack([-own, 3 * own])}
    frames = {video: rows.astype(np.float16) for video, rows in frames.items()}

    def compute(video_ids):
        for video in video_ids:
            rows = frames[video]
            values = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), WIDTH)
            table = pa.table([[video] * len(rows), np.arange(len(rows)) / 2.0, values], schema=SCHEMA)
            yield shards.VideoRows(video, table)

    shards.update(tmp_path, schema=SCHEMA, shards=2, fingerprints={"v": "1", "w": "1"}, compute=compute)
    times = {"v#0": (0.0, 1.0), "v#1": (1.0, 3.0), "w#0": (0.0, 1.0), "gone#0": (0.0, 1.0)}
    segments = {id: Segment(id, id.split("#")[0], "test", *time, ("",), None) for id, time in times.items()}
    found = clip_scores(CAPTIONS, segments, tmp_path, folder, "cpu")
    assert list(found) == ["v#0", "v#1", "w#0"]  # the video without frames has no score
    for id, seen in (("v#0", frames["v"][0:2]), ("v#1", frames["v"][2:6])):
        each = [max(0.0, cosine(text_tower(model, CAPTIONS[id]), row.astype(np.float32))) for row in seen]
        assert found[id] == pytest.approx(250 * np.mean(each), abs=1e-3)
    assert found["w#0"] == pytest.approx(125, abs=0.1)  # one frame is the caption, the other its opposite
    assert clip_scores({"gone#0": "a cat"}, segments, tmp_path, folder, "cpu") == {}


def test_a_caption_too_long_for_the_tower_is_cut(encoder):
    long, longer = "star " * 6, "star " * 60
    one, other = embed_texts(encoder[0], [long, longer], "cpu")
    assert np.allclose(one, other, atol=1e-6) and np.linalg.norm(one) == pytest.approx(1)


def test_an_encoder_whose_tokenizer_is_not_in_it_cannot_read(tmp_path, encoder, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = (
        (encoder[0] / CONFIG_FILE).read_text().replace('"context_length"', '"hf_tokenizer_name": "x", "context_length"')
    )
    (tmp_path / CONFIG_FILE).write_text(config)
    with pytest.raises(NoTextTower, match=r"^the tokenizer of .* is not in it \(it is x on the Hugging Fac"):
        embed_texts(tmp_path, ["a dog"], "cpu")
