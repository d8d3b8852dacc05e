import copy
import json
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, BertConfig, MambaConfig, MptConfig, Qwen2Config, RwkvConfig

from pipeline.backbones import fetched, kept, small_clip, small_gpt2
from pipeline.backbones.kept import REQUEST_FILE, keep_or_make
from pipeline.backbones.small_clip import Picture, train_encoder
from pipeline.backbones.small_gpt2 import train_decoder
from pipeline.features import shards
from pipeline.features.encoder import load_encoder, save_encoder
from pipeline.features.shards import VideoRows
from pipeline.language.decoder import load_decoder, refuse_too_long, save_decoder
from pipeline.params import BUILTIN_POSITIONS, LoraParams
from stages import backbones as stage

CPU = torch.device("cpu")
COLOURS = {"red": (230, 40, 40), "green": (40, 180, 60), "blue": (40, 60, 240), "yellow": (250, 220, 40)}
PLACES = {"left": 12, "right": 40}
SMALLEST = "ViT-S-32-alt"  # of open_clip's own models that need nothing else
SMALL_ENCODER = {
    "image_px": 32,
    "embedding_width": 16,
    "vision_width": 8,
    "text_width": 32,
    "text_layers": 2,
    "swaps": 3,
    "steps": 60,
    "batch_size": 8,
    "learning_rate": 3e-3,
    "seed": 0,
    "device": CPU,
}
SMALL_DECODER = {
    "vocabulary": 300,
    "width": 32,
    "layers": 1,
    "heads": 2,
    "steps": 40,
    "batch_size": 4,
    "learning_rate": 1e-2,
    "seed": 0,
    "device": CPU,
}


def picture(colour, place, seed):
    pixels = np.random.default_rng(seed).integers(30, 60, (64, 64, 3), dtype=np.uint8)
    pixels[22:42, PLACES[place] - 8 : PLACES[place] + 12] = COLOURS[colour]
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return Picture(file.getvalue(), (f"a {colour} box on the {place}", f"on the {place} is a {colour} box"))


def pictures(copies, seed=0):
    return [picture(c, p, seed + i) for i in range(copies) for c in COLOURS for p in PLACES]


def same_files(a, b):
    return {p.name: p.read_bytes() for p in a.iterdir()} == {p.name: p.read_bytes() for p in b.iterdir()}


def test_the_built_in_encoder_learns_and_is_the_same_twice(tmp_path):
    train, held_out = pictures(6), pictures(2, seed=100)
    made = [train_encoder(train, held_out, **SMALL_ENCODER) for _ in range(2)]
    assert made[0].top1 > 0.7
    for i, one in enumerate(made):
        save_encoder(tmp_path / str(i), one.config, one.model)
    assert same_files(tmp_path / "0", tmp_path / "1")

    encoder = load_encoder(tmp_path / "0", device=CPU, dtype=torch.float32)
    assert encoder.embed([train[0].jpeg], batch_size=2).shape == (1, SMALL_ENCODER["embedding_width"])
    assert open_clip.get_tokenizer(f"local-dir:{tmp_path / '0'}")(["a red box"]).shape == (1, 9)


def test_another_seed_makes_another_encoder():
    train, held_out = pictures(2), pictures(1)
    few = SMALL_ENCODER | {"steps": 2}
    made = [train_encoder(train, held_out, **few | {"seed": seed}).model.visual.conv1.weight for seed in (0, 1)]
    assert not torch.equal(*made)


def test_pictures_that_share_a_caption_are_one_group():
    captions = [("a", "b"), ("c",), ("d", "b"), ("e", "c"), ("f",), ("d",)]
    groups = small_clip.groups_of(captions)
    assert groups[0] == groups[2] == groups[5]
    assert groups[1] == groups[3]
    assert len(set(groups)) == 3


def test_no_batch_holds_two_pictures_of_a_group():
    groups = [0, 1, 0, 2, 3, 1, 4, 0]
    batches = small_clip.distinct_batches(groups, 3, torch.Generator().manual_seed(0))
    seen = set()
    for _ in range(40):
        batch = next(batches)
        assert len({groups[row] for row in batch}) == len(batch) == 3
        seen.update(batch)
    assert seen == set(range(len(groups)))


def test_a_batch_larger_than_the_groups_takes_one_of_each():
    batch = next(small_clip.distinct_batches([0, 1, 0], 100, torch.Generator().manual_seed(0)))
    assert sorted([0, 1, 0][row] for row in batch) == [0, 1]


def test_words_are_interchangeable_between_pictures_and_not_within_one():
    captions = [("a red star", "one red star"), ("a red ring",), ("a blue ring", "a small blue ring"), ("nothing",)]
    others = small_clip._interchangeable(captions)
    assert others == {"star": ["ring"], "ring": ["star"], "red": ["blue"], "blue": ["red"]}


def test_a_swap_exchanges_one_word():
    swaps = small_clip._HardSwaps({"star": ["ring"], "ring": ["star"], "red": ["blue"], "blue": ["red"]}, seed=0)
    assert {swaps.draw("a red star").caption for _ in range(30)} == {"a blue star", "a red ring"}
    assert swaps.draw("nothing") is None


def test_swaps_that_were_hard_to_notice_are_drawn_more_often():
    swaps = small_clip._HardSwaps({"star": ["ring"], "red": ["blue"]}, seed=0)
    for _ in range(400):
        drawn = swaps.draw("a red star")
        swaps.learn([drawn, None], [0.9 if drawn.pair == ("star", "ring") else 0.0, 0.0])
    later = [swaps.draw("a red star").caption for _ in range(200)]
    assert later.count("a red ring") > 180
    assert "a blue star" in later  # what was easy is not forgotten


def test_the_built_in_decoder_learns_and_is_the_same_twice(tmp_path):
    train, held_out = [one.captions for one in pictures(6)], [one.captions for one in pictures(1)]
    made = [train_decoder(train, held_out, **SMALL_DECODER) for _ in range(2)]
    assert made[0].perplexity < 4
    for i, one in enumerate(made):
        save_decoder(tmp_path / str(i), one.model, one.tokenizer)
    assert same_files(tmp_path / "0", tmp_path / "1")

    model, tokenizer = load_decoder(tmp_path / "0")
    assert model.config.n_positions == BUILTIN_POSITIONS
    assert tokenizer.decode(tokenizer("a red box on the left")["input_ids"]).strip() == "a red box on the left"
    assert tokenizer.decode(tokenizer("naïve 日本")["input_ids"]).strip() == "naïve 日本"  # bytes: nothing is unknown


@pytest.fixture(scope="module")
def checkpoint():
    """Random weights of a small model that open_clip knows by name."""
    torch.manual_seed(0)
    return open_clip.create_model(SMALLEST)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_checkpoint_file_becomes_an_encoder_offline(tmp_path, checkpoint, suffix):
    file = tmp_path / f"weights{suffix}"
    weights = checkpoint.state_dict()
    torch.save(weights, file) if suffix == ".pt" else save_file(weights, file)
    fetched.fetch_encoder(tmp_path / "encoder", SMALLEST, str(file), "auto")
    encoder = load_encoder(tmp_path / "encoder", device=CPU, dtype=torch.float32)
    assert encoder.width == open_clip.get_model_config(SMALLEST)["embed_dim"]
    assert torch.equal(next(encoder.visual.parameters()), next(checkpoint.visual.parameters()))


def test_an_unknown_model_tag_or_file_is_explained(tmp_path):
    with pytest.raises(ValueError, match=r"encoder.model: open_clip has no 'ViT-B32'; similar names: .*ViT-B-32"):
        fetched.fetch_encoder(tmp_path, "ViT-B32", "openai", "auto")
    with pytest.raises(ValueError, match=r"'opnai' is neither a file nor a tag of ViT-B-32; its tags: .*openai"):
        fetched.fetch_encoder(tmp_path, "ViT-B-32", "opnai", "auto")


def test_the_activation_of_openais_own_file_is_known_and_that_of_others_can_be_said(tmp_path, checkpoint):
    class Bare(torch.nn.Module):
        """The weights of a model without its code, as a module that can be traced."""

        def __init__(self, model):
            super().__init__()
            for name, parameter in model._parameters.items():
                self.register_parameter(name, parameter)
            for name, child in model.named_children():
                self.add_module(name, Bare(child))

        def forward(self, x):
            return x

    archive = Bare(copy.deepcopy(checkpoint).half())
    for name in fetched.OPENAI_SIZES:
        archive.register_buffer(name, torch.tensor(32))
    torch.jit.trace(archive, torch.zeros(1)).save(tmp_path / "openai.pt")
    save_file(checkpoint.state_dict(), tmp_path / "other.safetensors")
    embedded = {}
    for file, activation, expected in (
        ("openai.pt", "auto", True),
        ("openai.pt", "gelu", False),
        ("other.safetensors", "auto", False),
        ("other.safetensors", "quick_gelu", True),
    ):
        folder = tmp_path / f"{file} {activation}"
        result = fetched.fetch_encoder(folder, SMALLEST, str(tmp_path / file), activation)
        assert result == ("quick_gelu" if expected else "gelu")
        assert {path.name for path in folder.iterdir()} == {"open_clip_config.json", "open_clip_model.safetensors"}
        assert json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]["quick_gelu"] is expected
        encoder = load_encoder(folder, device=CPU, dtype=torch.float32)
        embedded[file, expected] = encoder.embed([pictures(1)[0].jpeg], batch_size=1).astype(np.float64)
    quick, plain = embedded["other.safetensors", True], embedded["other.safetensors", False]
    distance = np.linalg.norm(quick - plain)
    assert np.linalg.norm(embedded["openai.pt", True] - quick) < 0.1 * distance  # its weights are in half precision


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("the code was run",))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match=rf"{SMALLEST} with .*evil.pt could not be loaded"):
        fetched.fetch_encoder(tmp_path / "encoder", SMALLEST, str(tmp_path / "evil.pt"), "auto")


def test_a_folder_becomes_a_decoder_offline(tmp_path):
    made = train_decoder([("a red box",)], [], **SMALL_DECODER | {"steps": 1})
    save_decoder(tmp_path / "own", made.model, made.tokenizer)
    fetched.fetch_decoder(tmp_path / "decoder", str(tmp_path / "own"))
    model, tokenizer = load_decoder(tmp_path / "decoder")
    assert torch.equal(model.transformer.wte.weight, made.model.transformer.wte.weight)
    assert len(tokenizer) == len(made.tokenizer)


SIZES = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
POSITIONS = {"max_position_embeddings": 64, "intermediate_size": 32}
MPT = {"vocab_size": 300, "d_model": 16, "n_layers": 1, "n_heads": 2, "expansion_ratio": 2}


@pytest.mark.parametrize(
    ("config", "lora", "message"),
    [
        (BertConfig(**SIZES, **POSITIONS), False, "this bert sees later words"),
        (BertConfig(**SIZES, **POSITIONS, is_decoder=True), False, None),
        (
            RwkvConfig(vocab_size=300, hidden_size=16, num_hidden_layers=2),
            False,
            "a rwkv cannot continue from cached keys",
        ),
        (
            MambaConfig(vocab_size=300, hidden_size=16, num_hidden_layers=2),
            False,
            "a mamba cannot continue from cached keys",
        ),
        (MptConfig(**MPT), False, None),
        (MptConfig(**MPT), True, r"lora cannot be used with this decoder \(mpt\)"),
        (Qwen2Config(**SIZES, **POSITIONS, num_key_value_heads=1), True, None),
    ],
)
def test_a_decoder_that_cannot_caption_is_refused_when_it_is_fetched(config, lora, message, tmp_path):
    torch.manual_seed(0)
    tokenizer = small_gpt2.train_tokenizer(["a red box"], 300)
    save_decoder(tmp_path / "own", AutoModelForCausalLM.from_config(config).to(torch.bfloat16), tokenizer)
    adapters = LoraParams(rank=2, alpha=4, dropout=0.0) if lora else None
    fetch = partial(fetched.fetch_decoder, tmp_path / "decoder", str(tmp_path / "own"), adapters)
    if message is None:
        fetch()
        load_decoder(tmp_path / "decoder")
    else:
        with pytest.raises(ValueError, match=f"^[^\n]*{message}[^\n]*$"):
            fetch()


def test_a_prefix_and_caption_that_the_decoder_cannot_read_are_refused(tmp_path):
    made = train_decoder([("a red box",)], [], **SMALL_DECODER | {"steps": 1})
    save_decoder(tmp_path, made.model, made.tokenizer)
    refuse_too_long(tmp_path, 128, "these")
    with pytest.raises(ValueError, match=r"these, and the decoder in .* reads 128: lower some of these"):
        refuse_too_long(tmp_path, 129, "these")


def test_a_decoder_that_cannot_be_had_is_explained(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"backbones.decoder.name: '.*empty' could not be loaded"):
        fetched.fetch_decoder(tmp_path / "decoder", str(tmp_path / "empty"))


def test_a_folder_is_made_again_only_for_another_request(tmp_path):
    made = []

    def make(folder):
        made.append(folder)
        (folder / "weights").write_text(str(len(made)))
        return "made"

    folder = tmp_path / "encoder"
    assert keep_or_make(folder, {"model": "a"}, make) == "made"
    assert keep_or_make(folder, {"model": "a"}, make) == "kept"
    assert (folder / "weights").read_text() == "1"
    assert keep_or_make(folder, {"model": "b"}, make) == "made"
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]


def test_what_changed_in_a_kept_folder_is_made_again_and_named(tmp_path):
    def make(folder):
        (folder / "inner").mkdir()
        (folder / "inner/weights").write_text("weights")
        (folder / "tokenizer.json").write_text("{}")
        return "made"

    folder = tmp_path / "decoder"
    keep_or_make(folder, {"model": "a"}, make)
    whole = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    damages = {
        "inner/weights": lambda path: path.write_text("weight"),
        "tokenizer.json": Path.unlink,
        "stranger": Path.touch,
        REQUEST_FILE: lambda path: path.write_text("{"),
    }
    for name, damage in damages.items():
        damage(folder / name)
        result = keep_or_make(folder, {"model": "a"}, make)
        assert result.startswith("made") and (name == REQUEST_FILE or f"({name} of the previous one" in result)
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == whole
        assert keep_or_make(folder, {"model": "a"}, make) == "kept"


def test_a_failed_make_leaves_the_old_folder(tmp_path):
    def fail(folder):
        (folder / "half").touch()
        raise ValueError("no network")

    folder = tmp_path / "encoder"
    keep_or_make(folder, {"model": "a"}, lambda made: f"made {(made / 'weights').write_text('')}")
    with pytest.raises(ValueError, match="no network"):
        keep_or_make(folder, {"model": "b"}, fail)
    assert (folder / "weights").exists()
    assert keep_or_make(folder, {"model": "a"}, fail) == "kept"


@pytest.fixture
def here(workspace):
    tiny = {"image_px": 32, "embedding_width": 16, "vision_width": 8, "text_width": 32, "encoder_steps": 2}
    tiny |= {"vocabulary": 300, "decoder_width": 16, "decoder_layers": 1, "decoder_heads": 2, "decoder_steps": 2}
    folder = workspace({f"backbones.builtin.{key}": value for key, value in tiny.items()} | {"device": "cpu"})
    train, val = pictures(3), pictures(1, seed=50)
    write_data(folder / "data/pictures", {"train": train, "val": val}, with_frames=True)
    write_data(folder / "data/videos", {"train": train[:5]}, with_frames=False)
    return folder


def write_data(folder, splits, *, with_frames):
    rows, jpegs = [], {}
    for split, members in splits.items():
        for i, one in enumerate(members):
            rows.append({"video_id": f"{split}{i}", "split": split, "captions": list(one.captions)})
            jpegs[f"{split}{i}"] = one.jpeg
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "segments.parquet")
    if with_frames:
        schema = pa.schema([("video_id", pa.string()), ("jpeg", pa.binary())])

        def compute(video_ids):
            for video_id in video_ids:
                yield VideoRows(video_id, pa.table({"video_id": [video_id], "jpeg": [jpegs[video_id]]}, schema=schema))

        fingerprints = dict.fromkeys(jpegs, "")
        shards.update(folder / "frames", schema=schema, shards=2, fingerprints=fingerprints, compute=compute)


def made(params):
    return stage.make_encoder(params), stage.make_decoder(params)


def test_the_stage_makes_both_and_then_keeps_both(here, capfd):
    stage.main()
    out = capfd.readouterr().out
    assert "encoder trained on 24 pictures, loss" in out
    assert "decoder trained on 58 captions, loss" in out
    assert "on 16 held-out ones" in out
    assert made(stage.load_params()) == ("kept", "kept")


def test_new_video_captions_train_the_decoder_alone(here):
    made(stage.load_params())
    extra = replace(pictures(1)[0], captions=("a red box comes back",))
    write_data(here / "data/videos", {"train": [extra]}, with_frames=False)
    encoder, decoder = made(stage.load_params())
    assert encoder == "kept"
    assert decoder.startswith("trained on 49 captions")


def test_a_fetched_pair_is_kept_when_the_data_changes(here, checkpoint):
    save_file(checkpoint.state_dict(), "weights.safetensors")
    own = train_decoder([("a red box",)], [], **SMALL_DECODER | {"steps": 1})
    save_decoder(here / "own", own.model, own.tokenizer)
    builtin = stage.load_params().backbones.builtin.model_dump()
    encoder = {"source": "open_clip", "model": SMALLEST, "pretrained": "weights.safetensors", "activation": "auto"}
    decoder = {"source": "huggingface", "name": "own"}
    params = stage.load_params()
    section = type(params.backbones)(encoder=encoder, decoder=decoder, builtin=builtin)
    params = params.model_copy(update={"backbones": section})
    assert made(params) == (f"{SMALLEST} weights.safetensors fetched (activation: gelu)", "own fetched")
    write_data(here / "data/pictures", {"train": pictures(1)}, with_frames=False)
    assert made(params) == ("kept", "kept")
    save_file(checkpoint.state_dict() | {"logit_scale": torch.tensor(3.0)}, "weights.safetensors")
    assert made(params) == (f"{SMALLEST} weights.safetensors fetched (activation: gelu)", "kept")
    other = train_decoder([("a blue box",)], [], **SMALL_DECODER | {"steps": 2})
    save_decoder(here / "own", other.model, other.tokenizer)
    assert made(params) == ("kept", "own fetched")


def test_a_pair_that_other_packages_made_is_made_again(here, monkeypatch):
    made(stage.load_params())
    monkeypatch.setattr(kept, "versions", lambda *packages: f"{packages} of tomorrow")
    assert all(one.startswith("trained on") for one in made(stage.load_params()))


def test_no_training_pictures_are_explained(here):
    write_data(here / "data/pictures", {"val": pictures(1)}, with_frames=False)
    with pytest.raises(ValueError, match="data/pictures has no training pictures with captions"):
        stage.make_encoder(stage.load_params())
