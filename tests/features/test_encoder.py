import json
from io import BytesIO
from itertools import pairwise

import numpy as np
import open_clip
import pyarrow as pa
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pipeline.device import choose_device, choose_dtype
from pipeline.features.encoder import CONFIG_FILE, WEIGHTS_FILE, Preprocess, digest, embedding_width, load_encoder

CPU = torch.device("cpu")
TEXT = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
TOWERS = {
    "resnet": ({"layers": [1, 1, 1, 1], "width": 8, "head_width": 32, "image_size": 64}, 40),
    "transformer": ({"layers": 2, "width": 64, "head_width": 32, "patch_size": 16, "image_size": 80}, 24),
}


@pytest.fixture(scope="module", params=TOWERS)
def folder(request, tmp_path_factory):
    vision, width = TOWERS[request.param]
    return random_encoder(tmp_path_factory.mktemp(request.param), vision, width)


def random_encoder(folder, vision, width, **preprocess):
    torch.manual_seed(0)
    config = {"embed_dim": width, "vision_cfg": vision, "text_cfg": TEXT}
    model = open_clip.model.CLIP(**config)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # zero at the start, which would hide whole blocks
            torch.nn.init.normal_(module.weight, 1.0, 0.2)
            torch.nn.init.normal_(module.running_mean, 0.0, 0.2)
    (folder / CONFIG_FILE).write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    save_file(model.state_dict(), folder / WEIGHTS_FILE)
    return folder


def jpeg(size, seed=0, mode="RGB"):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode).save(file, "JPEG", quality=90)
    return file.getvalue()


def reference(folder, jpegs):
    """open_clip's own preprocess and encode_image, one picture at a time."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model.eval()
    with torch.inference_mode():
        return torch.cat([model.encode_image(preprocess(Image.open(BytesIO(one)))[None]) for one in jpegs]).numpy()


def cosines(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


PICTURES = {
    "square": jpeg((128, 128)),
    "wide": jpeg((227, 128), 1),
    "tall": jpeg((90, 161), 2),
    "small": jpeg((40, 33), 3),
    "of the input's size": jpeg((64, 64), 4),
    "grey": jpeg((128, 100), 5, "L"),
    "cmyk": jpeg((96, 96), 6, "CMYK"),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_embeddings_are_those_of_open_clip(folder, dtype):
    embeddings = load_encoder(folder, device=CPU, dtype=dtype).embed(list(PICTURES.values()), batch_size=4)
    expected = reference(folder, PICTURES.values())
    assert embeddings.dtype == np.float16
    assert embeddings.shape == (len(PICTURES), embedding_width(folder))
    assert dict(zip(PICTURES, cosines(embeddings, expected) > 0.999, strict=True)) == dict.fromkeys(PICTURES, True)
    lengths = np.linalg.norm(embeddings.astype(np.float64), axis=1) / np.linalg.norm(expected, axis=1)
    assert np.allclose(lengths, 1, atol=0.02)  # not normalised


@pytest.mark.parametrize("preprocess", [{"resize_mode": "squash"}, {"resize_mode": "longest"}])
def test_an_encoder_with_another_way_to_resize_goes_through_pillow(tmp_path, preprocess):
    folder = random_encoder(tmp_path, *TOWERS["resnet"], **preprocess)
    jpegs = [PICTURES["wide"], PICTURES["grey"]]
    embeddings = load_encoder(folder, device=CPU, dtype=torch.float32).embed(jpegs, batch_size=2)
    assert (cosines(embeddings, reference(folder, jpegs)) > 0.999).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_embedding_does_not_depend_on_the_pictures_beside_it(folder, dtype):
    encoder = load_encoder(folder, device=CPU, dtype=dtype)
    jpegs = [jpeg((128, 128), seed) for seed in range(21)]
    together = encoder.embed(jpegs, batch_size=8)
    for order in (list(range(20, -1, -1)), [20], [3, 17, 5]):
        assert (encoder.embed([jpegs[i] for i in order], batch_size=8) == together[order]).all()


def test_videos_come_back_in_order_whatever_the_batches(folder):
    encoder = load_encoder(folder, device=CPU, dtype=torch.float32)
    frames = {"one": 1, "none": 0, "long": 19, "even": 8, "last": 3}
    videos = {name: [jpeg((64, 64), seed * 31 + i) for i in range(n)] for seed, (name, n) in enumerate(frames.items())}
    embedded = dict(encoder.embed_videos(videos.items(), batch_size=8, workers=3))
    assert {name: len(rows) for name, rows in embedded.items()} == frames
    assert list(embedded) == list(frames)
    for name, jpegs in videos.items():
        assert (embedded[name] == encoder.embed(jpegs, batch_size=8)).all()


def test_a_video_in_parts_is_the_video(folder):
    encoder = load_encoder(folder, device=CPU, dtype=torch.float32)
    videos = {
        name: [jpeg((64, 64), seed) for seed in range(start, start + 11)] for name, start in (("a", 0), ("b", 50))
    }
    cuts = (0, 3, 8, 11)
    parts = [(name, pa.chunked_array([jpegs[i:j]])) for name, jpegs in videos.items() for i, j in pairwise(cuts)]
    embedded = list(encoder.embed_videos(parts, batch_size=4))
    assert [name for name, _ in embedded] == ["a", "b"]
    assert all((rows == encoder.embed(videos[name], batch_size=4)).all() for name, rows in embedded)


def test_a_picture_that_stays_is_embedded_once(folder, monkeypatch):
    encoder = load_encoder(folder, device=CPU, dtype=torch.float32)
    pictures = [jpeg((64, 64), seed) for seed in range(6)]
    shown = [0] * 5 + [1] + [2] * 9 + [0, 0] + [3, 4, 5, 5]
    expected = encoder.embed(pictures, batch_size=4)[shown]
    decoded, pixels = [], Preprocess.pixels

    def noted(self, one):
        decoded.append(one)
        return pixels(self, one)

    monkeypatch.setattr(Preprocess, "pixels", noted)
    videos = [("a", [pictures[i] for i in shown]), ("b", [pictures[5]] * 3), ("c", []), ("d", [pictures[5]])]
    parts = [(name, pa.chunked_array([part])) for name, own in videos for part in (own[:7], own[7:]) if part or not own]
    found = dict(encoder.embed_videos(parts, batch_size=4))
    assert (found["a"] == expected).all() and len(found["b"]) == 3 and found["c"].shape == (0, encoder.width)
    assert (found["b"] == expected[-1]).all() and (found["d"] == expected[-1]).all()
    assert len(decoded) == 7 + 1 + 1  # of "a", "b" and "d"


@pytest.mark.parametrize("size", [(20_000, 16), (16, 20_000), (1000, 125), (1001, 125)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_of_a_long_picture_the_middle_is_scaled_and_no_more(size, interpolation):
    preprocess = Preprocess({"size": 64, "interpolation": interpolation, "resize_mode": "shortest"})
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    picture = Image.fromarray(noise).resize((max(1, size[0] // 4), max(1, size[1] // 4))).resize(size)
    file = BytesIO()
    picture.save(file, "JPEG", quality=95)
    found = preprocess.pixels(file.getvalue()).numpy().astype(float)
    expected = Image.open(file)
    for step in preprocess._reference:
        expected = step(expected)
    assert np.abs(found.transpose(1, 2, 0) - np.asarray(expected, float)).mean() < 12  # half a pixel aside, at most


def test_videos_are_read_no_further_than_the_batches_in_work(folder):
    encoder = load_encoder(folder, device=CPU, dtype=torch.float32)
    read = []

    def videos():
        for name in range(100):
            read.append(name)
            yield name, [jpeg((64, 64), seed) for seed in range(4)]

    next(encoder.embed_videos(videos(), batch_size=4, workers=2))
    assert len(read) < 10


def test_embedding_leaves_the_number_of_threads_alone(folder):
    before = torch.get_num_threads()
    load_encoder(folder, device=CPU, dtype=torch.float32).embed([PICTURES["square"]], batch_size=2)
    assert torch.get_num_threads() == before


def test_a_frame_that_is_no_jpeg_is_named(folder):
    encoder = load_encoder(folder, device=CPU, dtype=torch.float32)
    videos = [("v_good", [PICTURES["square"]] * 3), ("v_bad", [PICTURES["square"], b"not a picture"])]
    with pytest.raises(ValueError, match=r"v_bad, frame 1: 13 bytes that are not a JPEG"):
        list(encoder.embed_videos(videos, batch_size=4))


VIT = {"layers": 1, "width": 64, "head_width": 32, "patch_size": 32, "image_size": 64}


@pytest.mark.parametrize(
    ("kind", "vision"),
    [
        ("coca", {**VIT, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}),
        ("custom", {**VIT, "no_ln_pre": True, "pool_type": "avg"}),
        ("custom", {"timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": None, "image_size": 160}),
        ("custom", {"timm_model_name": "test_convnext", "timm_proj": "linear", "image_size": 64}),
    ],
)
def test_models_of_open_clips_other_families_embed_as_theirs_do(kind, vision, tmp_path):
    torch.manual_seed(0)
    width = 64
    config = {"embed_dim": width, "vision_cfg": vision, "text_cfg": TEXT, "custom_text": True}
    if kind == "coca":
        text = {**TEXT, "embed_cls": True, "output_tokens": True}
        config |= {"text_cfg": text, "multimodal_cfg": {**TEXT, "attn_pooler_heads": 2}}
    (tmp_path / CONFIG_FILE).write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    model = open_clip.create_model(f"local-dir:{tmp_path}", load_weights=False)
    save_file({name: value.clone() for name, value in model.state_dict().items()}, tmp_path / WEIGHTS_FILE)
    made = load_encoder(tmp_path, device=CPU, dtype=torch.float32).embed([jpeg((200, 160))], batch_size=2)
    assert made.shape == (1, width)
    assert cosines(made, reference(tmp_path, [jpeg((200, 160))])) > 0.999


def test_a_missing_or_foreign_encoder_is_explained(tmp_path):
    with pytest.raises(ValueError, match=r"open_clip_config.json is missing; make it with: dvc repro backbones"):
        load_encoder(tmp_path, device=CPU, dtype=torch.float32)
    (tmp_path / CONFIG_FILE).write_text("{}")
    with pytest.raises(ValueError, match=r"is not open_clip's config: it has no model_cfg"):
        load_encoder(tmp_path, device=CPU, dtype=torch.float32)
    (tmp_path / CONFIG_FILE).write_text('{"model_cfg": {"embed_dim": 4}}')
    with pytest.raises(ValueError, match=r"has no open_clip_model.safetensors; make it with"):
        load_encoder(tmp_path, device=CPU, dtype=torch.float32)


def test_the_digest_changes_with_the_weights(tmp_path):
    folder = random_encoder(tmp_path, *TOWERS["resnet"])
    before = digest(folder)
    weights = bytearray((folder / WEIGHTS_FILE).read_bytes())
    weights[-1] ^= 1
    (folder / WEIGHTS_FILE).write_bytes(weights)
    assert digest(folder) != before


def test_a_device_that_is_not_here_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == CPU
    with pytest.raises(ValueError, match=r"device is cuda, but this machine has only: cpu; set device: auto"):
        choose_device("cuda")
    with pytest.raises(ValueError, match=r"device is 'tpu'; expected auto, cuda, mps, cpu"):
        choose_device("tpu")


def test_auto_finds_the_accelerator_before_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto").type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto").type == "cuda"


@pytest.mark.parametrize(
    ("has", "used", "dtype"),
    [
        ({"avx512_bf16": True}, True, torch.bfloat16),
        ({"avx512_bf16": True}, False, torch.float32),
        ({"avx512_f": True}, True, torch.float32),  # emulated
        ({"avx2": True}, False, torch.float32),
    ],
)
def test_auto_precision_is_bf16_where_the_cpu_multiplies_it(monkeypatch, has, used, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: used)
    assert choose_dtype("auto", CPU) == dtype
    assert choose_dtype("fp32", CPU) == torch.float32
    assert choose_dtype("bf16", CPU) == torch.bfloat16
