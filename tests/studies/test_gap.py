"""The study of the gap: its choices on small inputs, and that its params and pipeline are in order."""

import json
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pipeline.dataset.segments import Segment, from_table, to_table
from pipeline.features import shards
from pipeline.features.shards import VideoRows
from pipeline.params import load_params
from pipeline.scoring.caption_table import write_captions
from pipeline.scoring.gap import unit
from studies.gap import coca, describe, gap, sentences, show, summarise
from studies.gap.coca import checkpoints
from studies.gap.describe import choose
from studies.gap.keep import keep
from studies.gap.plots import PANEL, draw_umap, first_vectors
from studies.gap.sentences import Sentence, by_template, load_language_model, train_t5
from studies.gap.settings import CAPTIONS as CAPTIONS_FILE
from studies.gap.settings import (
    DESCRIBED,
    DESCRIBING,
    FILE,
    FRAMES,
    METRICS,
    PAIRS,
    SEGMENTS,
    DescribeParams,
    load_study,
)
from studies.gap.summarise import (
    Described,
    Written,
    by_server,
    cost_of,
    frames_say,
    held_bytes,
    journal_of,
    read_describing,
    read_journal,
    said_of,
    write,
)
from tests.conftest import Page
from tests.features.test_embed import contents
from tests.tiny import write_params

ROOT = Path.cwd()


def describing(**changes):
    values = {"frames": "every_s", "every_s": 1.0, "count": 60, "videos": {}, "beams": 2, "max_tokens": 8}
    return DescribeParams(**{**values, "length_penalty": 1.0, "batch_size": 4, "shards": 2, **changes})


def test_the_params_are_checked_and_a_wrong_one_is_named(tmp_path):
    assert load_study().coca.source == "builtin"
    (tmp_path / "params.yaml").write_text(FILE.read_text().replace("frames: every_s", "frames: some"))
    with pytest.raises(ValueError, match=r"describe\.frames: found 'some'"):
        load_study(tmp_path / "params.yaml")


def test_embeddings_are_kept_at_the_start_at_threes_and_tens_and_at_the_end():
    assert checkpoints(700) == [0, 1, 10, 30, 100, 300, 700]
    assert checkpoints(1000) == [0, 1, 10, 30, 100, 300, 1000]
    assert checkpoints(1) == [0, 1]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"frames": "every_s", "every_s": 1.0}, [0, 5, 10]),
        ({"frames": "every_s", "every_s": 0.01}, list(range(12))),
        ({"frames": "every_s", "every_s": 100.0}, [0]),
        ({"frames": "uniform", "count": 3}, [2, 6, 10]),
        ({"frames": "uniform", "count": 1}, [6]),
        ({"frames": "uniform", "count": 50}, list(range(12))),
    ],
)
def test_frames_are_chosen_by_time_or_evenly(options, expected):
    assert choose([i / 5 for i in range(12)], describing(**options), 5.0, None) == expected


def test_frames_between_cuts_are_the_middles_of_the_stretches(shots):
    jpegs, fps = shots
    chosen = choose([i / fps for i in range(len(jpegs))], describing(frames="cuts"), fps, pa.array(jpegs))
    assert len(chosen) == 2 and chosen[0] < 10 <= chosen[1]


@pytest.fixture(scope="module")
def shots():
    """Two shots of two seconds, at five pictures a second."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (48, 48, 3), dtype=np.uint8) for _ in range(2)]
    return [cv2.imencode(".jpg", pictures[i // 10])[1].tobytes() for i in range(20)], 5.0


CAPTIONS = ["a", "a", "b", "a", "c", "d"]
EMBEDDINGS = np.array([[1, 0], [1, 0], [0.9, 0.1], [1, 0], [0, 1], [-1, 0.1]])


@pytest.mark.parametrize(
    ("rule", "count", "expected"),
    [
        ("all", 10, [0, 1, 2, 3, 4, 5]),
        ("all", 2, [1, 4]),
        ("distinct", 10, [0, 2, 4, 5]),
        ("distinct", 2, [2, 5]),
        ("diverse", 2, [0, 5]),
        ("diverse", 3, [0, 4, 5]),
        ("diverse", 10, [0, 2, 4, 5]),
        ("clusters", 3, [0, 4, 5]),
    ],
)
def test_captions_are_kept_as_said(rule, count, expected):
    assert keep(rule, CAPTIONS, EMBEDDINGS, count) == expected


def test_farthest_points_are_those_of_a_slow_search():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(30, 4))
    chosen, unit = [0], rows / np.linalg.norm(rows, axis=1, keepdims=True)
    while len(chosen) < 6:
        chosen.append(max(set(range(30)) - set(chosen), key=lambda i: min(1 - unit[i] @ unit[j] for j in chosen)))
    assert keep("diverse", [str(i) for i in range(30)], rows, 6) == sorted(chosen)


def test_clusters_are_those_of_scipys_average_linkage_by_cosine():
    hierarchy = pytest.importorskip("scipy.cluster.hierarchy")
    rows = np.random.default_rng(2).normal(size=(25, 4))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    labels = hierarchy.fcluster(hierarchy.linkage(rows, "average", metric="cosine"), 6, "maxclust")
    nearest = []
    for label in set(labels):
        own = np.flatnonzero(labels == label)
        nearest.append(int(own[(unit[own] @ unit[own].sum(0)).argmax()]))
    assert keep("clusters", [str(i) for i in range(25)], rows, 6) == sorted(nearest)


def test_a_small_t5_learns_what_to_write_and_says_why_it_has_no_sentence():
    pairs = [([f"a {colour} star", "an empty stage"], [f"{colour} is seen"]) for colour in ("red", "blue", "green")]
    options = {"width": 32, "layers": 1, "heads": 2, "vocabulary": 300, "steps": 60, "batch": 8}
    model = train_t5(
        pairs, **options, learning_rate=1e-2, beams=2, max_new_tokens=10, seed=0, device=torch.device("cpu")
    )
    found = model([source for source, _ in pairs])
    assert [one.text for one in found] == [targets[0] for _, targets in pairs]
    assert not any(one.error for one in found) and found[0].tokens_out > 1
    assert model([[]])[0] == Sentence("", 0, 0, "no captions to sum up")


def causal(folder: Path):
    """A random GPT-2, which runs on: no prompt ends its sentence but by chance."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from pipeline.backbones.small_gpt2 import train_tokenizer

    tokenizer = train_tokenizer(["a red star rests at the top"], 300)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def test_a_language_model_of_a_folder_is_prompted_and_one_that_runs_on_or_has_no_room_is_said(tmp_path):
    causal(tmp_path / "model")
    (tmp_path / "prompt.txt").write_text("Frames: {captions}\nSentence:")
    options = {"beams": 1, "device": torch.device("cpu")}
    model = load_language_model(str(tmp_path / "model"), tmp_path / "prompt.txt", max_new_tokens=5, **options)
    together = model([["a red star"], ["a red star", "at the top"]])
    assert together == [model([one])[0] for one in (["a red star"], ["a red star", "at the top"])]
    assert all(one.tokens_in > 0 and one.tokens_out <= 5 for one in together)
    assert {one.error for one in together} <= {"", "cut after 5 tokens", "the model answered nothing"}
    long = load_language_model(str(tmp_path / "model"), tmp_path / "prompt.txt", max_new_tokens=60, **options)
    assert "longer than the 64 tokens" in long([["a red star"]])[0].error
    between = load_language_model(str(tmp_path / "model"), tmp_path / "prompt.txt", max_new_tokens=5, **options)
    short, too_long, last = between([["a red star"], ["a red star"] * 30, ["at the top"]])
    assert "longer than the 64 tokens" in too_long.error  # and the others of its batch are as they are alone
    assert [short, last] == [between([["a red star"]])[0], between([["at the top"]])[0]]


@pytest.mark.parametrize(("ends", "error"), [(True, "the model answered nothing"), (False, "cut after 5 tokens")])
def test_a_language_model_that_answers_nothing_or_never_ends_is_a_reason(ends, error, tmp_path):
    causal(tmp_path / "model")
    (tmp_path / "prompt.txt").write_text("{captions}")
    options = {"beams": 2, "max_new_tokens": 5, "device": torch.device("cpu")}
    model = load_language_model(str(tmp_path / "model"), tmp_path / "prompt.txt", **options)
    always = model.tokenizer.eos_token_id if ends else model.tokenizer("red")["input_ids"][0]
    with torch.no_grad():
        for weights in model.model.parameters():
            weights.zero_()
        model.model.transformer.ln_f.bias.fill_(1)
        model.model.transformer.wte.weight[always] = 1  # what it says next, whatever it reads
    [found] = model([["a star"]])
    assert found.error == error and bool(found.text) != ends


def test_a_prompt_without_a_place_for_captions_and_a_model_that_is_not_there_are_refused(tmp_path):
    (tmp_path / "prompt.txt").write_text("Say something.")
    options = {"beams": 1, "max_new_tokens": 5, "device": torch.device("cpu")}
    with pytest.raises(ValueError, match=r"expected \{captions\} where"):
        load_language_model("none", tmp_path / "prompt.txt", **options)
    (tmp_path / "prompt.txt").write_text("{captions}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"summarise.name: .* could not be loaded"):
        load_language_model(str(tmp_path / "empty"), tmp_path / "prompt.txt", **options)


TINY_COCA = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 32,
        "layers": 1,
        "width": 16,
        "head_width": 8,
        "patch_size": 16,
        "attentional_pool": True,
        "attn_pooler_queries": 4,
        "attn_pooler_heads": 2,
        "output_tokens": True,
    },
    "text_cfg": {
        "context_length": 16,
        "vocab_size": 49408,
        "width": 16,
        "heads": 2,
        "layers": 1,
        "embed_cls": True,
        "output_tokens": True,
    },
    "multimodal_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    "custom_text": True,
}


@pytest.fixture
def here(workspace, tmp_path, monkeypatch):
    """A folder with the params of gap_activitynet.yaml at a tiny size: a CoCa of random weights, any language model."""
    import open_clip

    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/coca_tiny.json").write_text(json.dumps(TINY_COCA))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", list(open_clip.factory._MODEL_CONFIG_PATHS))
    open_clip.add_model_config(tmp_path / "configs")
    profile = Path("studies/gap/gap_activitynet.yaml").resolve()
    folder = workspace({"device": "cpu", "frames.shards": 2})
    FILE.parent.mkdir(parents=True)
    changes = {"coca.model": "coca_tiny", "coca.pretrained": "", "describe.count": 3, "describe.beams": 2}
    write_params(FILE, profile, {**changes, "describe.max_tokens": 6, "describe.shards": 2})
    return folder


def write_videos(frames):
    """frames: {video: how many}; 0: it was dropped."""
    picture = [np.random.default_rng(i).integers(0, 255, (40, 40, 3), dtype=np.uint8) for i in range(9)]
    jpegs = [cv2.imencode(".jpg", one)[1].tobytes() for one in picture]
    schema = pa.schema(
        [("video_id", pa.string()), ("frame_index", pa.int32()), ("timestamp_s", pa.float64()), ("jpeg", pa.binary())]
    )

    def compute(video_ids):
        for id in video_ids:
            rows = {"video_id": [id] * frames[id], "frame_index": range(frames[id])}
            rows |= {"timestamp_s": [i / 5 for i in range(frames[id])], "jpeg": jpegs[: frames[id]]}
            yield VideoRows(id, pa.table(rows, schema) if frames[id] else None, None if frames[id] else "no picture")

    shards.update(FRAMES, schema=schema, shards=2, fingerprints={id: str(frames[id]) for id in frames}, compute=compute)
    segments = [Segment(f"{id}#0", id, "test", 0.0, 2.0, ("a caption",), None) for id in frames]
    pq.write_table(to_table(segments), SEGMENTS["videos"])


def test_the_origins_setting_runs_at_a_tiny_size_and_only_what_changed_is_described_again(here, capsys, tmp_path):
    write_videos({"v_a": 9, "v_b": 2, "v_none": 0})
    coca.main()
    describe.main()
    assert "5 frames of 2 videos captioned (3 videos described, 0 kept, 0 removed, 1 without" in capsys.readouterr().out
    first = {path.name: path.read_bytes() for path in DESCRIBED.iterdir()}
    took = read_describing()
    assert set(took) == {"v_a", "v_b"} and took["v_a"]["cpu_s"] > 0 and took["v_a"]["parameters"] > 10_000
    describe.main()
    assert read_describing() == took
    assert "(0 videos described, 3 kept" in capsys.readouterr().out
    write_videos({"v_a": 9, "v_b": 2, "v_none": 0, "v_new": 4})
    describe.main()
    assert "(1 videos described, 3 kept" in capsys.readouterr().out
    assert read_describing() == took | {"v_new": read_describing()["v_new"]}
    shutil.rmtree(DESCRIBED)
    describe.main()  # a clean run gives the same bytes
    write_videos({"v_a": 9, "v_b": 2, "v_none": 0})
    describe.main()
    assert {path.name: path.read_bytes() for path in DESCRIBED.iterdir()} == first

    options = load_study().summarise.model_copy(update={"per": "segment"})
    kept = {one.segment.video_id: one for one in frames_say(from_table(pq.read_table(SEGMENTS["videos"])), options)}
    assert kept["v_none"].captions == [] and 1 <= len(kept["v_a"].captions) <= 3
    causal(tmp_path / "model")
    (tmp_path / "prompt.txt").write_text("{captions}:")
    settings = {"beams": 2, "max_new_tokens": 4, "device": torch.device("cpu")}
    model = load_language_model(str(tmp_path / "model"), tmp_path / "prompt.txt", **settings)
    written = write(model, [kept["v_none"], kept["v_b"]])
    assert written["v_none#0"].error == "no frame of it was described"
    assert written["v_b#0"].frames and (written["v_b#0"].caption or written["v_b#0"].error)


@pytest.mark.slow
def test_captions_made_on_a_local_ray_have_the_bytes_of_those_made_here(here):
    pytest.importorskip("ray")
    if " " in sys.executable:
        pytest.skip("Ray cannot start workers with a Python whose path contains a space")
    write_videos({f"v_{i}": i for i in range(5)})
    coca.main()
    describe.main()
    made_here, took = contents(DESCRIBED), read_describing()
    assert len(made_here) == 2 and set(took) == {"v_1", "v_2", "v_3", "v_4"}
    shutil.rmtree(DESCRIBED)
    DESCRIBING.unlink()
    write_params(Path("params.yaml"), Path("params.yaml"), {"engine.kind": "ray", "engine.address": None})
    describe.main()
    assert contents(DESCRIBED) == made_here
    on_ray = read_describing()  # the workers note what it took, in the folder of the run
    assert {id: one["parameters"] for id, one in on_ray.items()} == {id: one["parameters"] for id, one in took.items()}


def test_each_video_has_the_rows_of_its_own_frames_whatever_the_number_of_shards(here):
    frames = {f"v_{i}": 1 + i for i in range(7)}
    write_videos(frames)
    write_params(FILE, FILE, {"describe.shards": 5, "describe.count": 9})
    coca.main()
    describe.main()
    described = shards.iterate(DESCRIBED, list(frames), ["frame_index"])
    assert {id: rows["frame_index"].to_pylist() for id, rows in described} == {
        id: list(range(count)) for id, count in frames.items()
    }
    write_params(Path("params.yaml"), Path("params.yaml"), {"embed.every": 3})
    describe.main()  # only what is embedded, so that its embeddings can be looked up
    described = shards.iterate(DESCRIBED, list(frames), ["frame_index"])
    assert {id: rows["frame_index"].to_pylist() for id, rows in described} == {
        id: list(range(0, count, 3)) for id, count in frames.items()
    }


def test_a_sentence_whose_batch_fails_is_tried_alone_and_a_journal_is_read_up_to_a_kill(tmp_path):
    def fails_together(captions):
        if len(captions) > 1:
            raise RuntimeError("out of memory")
        return by_template(captions)

    segments = [Segment(f"v#{i}", "v", "test", 0.0, 1.0, (), None) for i in range(2)]
    written = write(fails_together, [Described(segment, [0], ["a star"], 6) for segment in segments])
    assert {id: (one.caption, one.attempts) for id, one in written.items()} == {
        "v#0": ("a star", 2),
        "v#1": ("a star", 2),
    }
    lines = [json.dumps({"id": id, **asdict(one)}) for id, one in written.items()]
    (tmp_path / "journal").write_text(f"{lines[0]}\n{lines[1][:20]}")
    assert read_journal(tmp_path / "journal") == (None, {"v#0": written["v#0"]})


def test_a_stopped_run_goes_on_behind_what_it_wrote_and_what_that_cost_counts(workspace):
    workspace({})
    study = load_study(ROOT / FILE)
    options = study.summarise.model_copy(update={"method": "template", "batch_size": 1})
    chosen = described(["a star", "a ring"], [], ["a star"])
    journal = journal_of(options, chosen)
    done, _ = summarise.here(load_params(), options, chosen, [])
    head, *lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert head == {"parameters": 0} and [line["id"] for line in lines] == ["v#0", "v#1", "v#2"]
    journal.write_text(json.dumps(lines[0] | {"seconds": 7.0}) + "\n" + json.dumps(lines[1])[:30])
    again, parameters = summarise.here(load_params(), options, chosen, [])
    assert again["v#0"].seconds == 7.0 and again["v#1"] == done["v#1"] and parameters == 0
    took = {"v": {"cpu_s": 3.0, "parameters": 100}}
    cost = cost_of(chosen, again, took, parameters, by_clock=False)
    captions = 2  # a row without a sentence is none
    assert cost["cpu_s"] == pytest.approx((3.0 + 7.0 + again["v#2"].seconds) / captions)
    assert (cost["parameters"], cost["tokens_in"], cost["tokens_out"]) == (100, (4 + 2) / 2, (5 + 2) / 2)


def test_a_run_with_nothing_left_to_do_knows_the_t5s_parameters_without_training_it_again(workspace, monkeypatch):
    workspace({"device": "cpu"})
    tiny = {"method": "t5", "width": 16, "layers": 1, "heads": 2, "vocabulary": 300, "steps": 2, "max_new_tokens": 3}
    options = load_study(ROOT / FILE).summarise.model_copy(update=tiny)
    chosen = described(["a star"], ["a ring"])
    train = [replace(one, segment=replace(one.segment, captions=("it rests",))) for one in chosen]
    done, parameters = summarise.here(load_params(), options, chosen, train)
    assert parameters > 1000
    monkeypatch.setattr(summarise, "make_summariser", None)
    assert summarise.here(load_params(), options, chosen, train) == (done, parameters)


def test_a_whole_video_has_one_sentence_of_all_its_frames_which_is_said_of_each_of_its_segments(workspace):
    workspace({})
    rows = pa.table(
        {
            "frame_index": pa.array(range(4), pa.int32()),
            "timestamp_s": [0.0, 1.0, 2.0, 3.0],
            "caption": ["a star", "a ring", "a moon", "a star"],  # the moon is seen between the segments
            "text_embedding": pa.array([[0.0, 1.0]] * 4, pa.list_(pa.float16(), 2)),
        }
    )
    shards.update(
        DESCRIBED,
        schema=rows.schema,
        shards=1,
        fingerprints={"v": "1"},
        compute=lambda ids: iter([VideoRows(id, rows, None) for id in ids]),
    )
    segments = [
        Segment("v#0", "v", "test", 0.0, 2.0, ("a star and a ring",), None),
        Segment("v#1", "v", "test", 3.0, 4.0, ("a star comes back",), None),
        Segment("other#0", "other", "test", 0.0, 4.0, ("of no described video",), None),
    ]
    options = load_study(ROOT / FILE).summarise.model_copy(update={"method": "template", "per": "video"})
    [video] = frames_say(segments, options)
    assert (video.id, video.frames, video.captions) == ("v", [0, 1, 2], ["a star", "a ring", "a moon"])
    assert video.segment.captions == ("a star and a ring", "a star comes back")  # what a T5 learns from
    done, _ = summarise.here(load_params(), options, [video], [])
    assert read_journal(journal_of(options, [video]))[1] == done
    said = said_of(segments, options, done)
    assert {id: one.caption for id, one in said.items()} == dict.fromkeys(
        ["v#0", "v#1"], "a star, then a ring, then a moon"
    )
    summarise.write_evidence(Path("evidence.parquet"), [video], done)
    [row] = pq.read_table("evidence.parquet").to_pylist()
    assert (row["video_id"], row["segment_id"], row["frames"], row["attempts"]) == ("v", None, [0, 1, 2], 1)

    per_segment = options.model_copy(update={"per": "segment"})
    assert [one.captions for one in frames_say(segments, per_segment)] == [["a star", "a ring"], ["a star"]]
    assert journal_of(per_segment, [video]) != journal_of(options, [video])


class Letters:
    """Both towers of an encoder that counts letters; a frame is all of them."""

    def frames(self, video_id, frame_indices):
        return np.ones((len(frame_indices), 26))

    def texts(self, texts):
        return np.array([[text.count(chr(97 + i)) for i in range(26)] for text in texts], float)


def test_the_text_of_a_video_is_its_own_sentence_or_the_mean_of_its_segments(here):
    write_videos({"v_a": 3, "v_b": 3})
    coca.main()
    describe.main()
    segments = [
        Segment(f"{id}#{i}", id, "test", float(i), i + 1.0, ("a caption",), None)
        for id, count in (("v_a", 2), ("v_b", 1))
        for i in range(count)
    ]
    pq.write_table(to_table(segments), SEGMENTS["videos"])
    said = Written("a star", None, [0], ["a star"], 1, 1, 0.0, 1, "")
    same = {one.segment_id: said for one in segments}

    def pairs(captions):
        write_captions(CAPTIONS_FILE, segments, captions)
        return gap.pairs_of("video", Letters(), "test")

    of_videos = pairs(same)  # as summarise.per: video writes them
    assert of_videos.videos == ["v_a", "v_b"] and of_videos.facts == [("a star",), ("a star",)]
    np.testing.assert_allclose(of_videos.texts, unit(Letters().texts(["a star", "a star"])))
    of_segments = pairs(same | {"v_a#1": replace(said, caption="a ring")})
    mean = unit(Letters().texts(["a star", "a ring"])).mean(0)
    np.testing.assert_allclose(of_segments.texts[0], mean / np.linalg.norm(mean))
    assert of_segments.facts == [("a star", "a ring"), ("a star",)]


def test_what_a_caption_cost_is_unknown_where_a_part_of_it_was_not_recorded():
    chosen = described(["a star"], ["a ring"])
    done = write(by_template, chosen)
    took = {"v": {"cpu_s": 4.0, "parameters": 100}}
    by_server = cost_of(chosen, done, took, None, by_clock=True)
    assert by_server["parameters"] is None and by_server["cpu_s"] is None and by_server["seconds"] >= 2.0
    unknown = cost_of(chosen, done, {}, 10, by_clock=False)
    assert unknown["cpu_s"] is None and unknown["parameters"] is None and unknown["tokens_out"] == 2
    silent = {id: replace(one, tokens_in=None) for id, one in done.items()}
    assert cost_of(chosen, silent, took, 10, by_clock=False)["tokens_in"] is None
    assert set(cost_of(chosen, {}, took, 10, by_clock=False).values()) == {None}


def test_a_stream_holds_each_text_once_and_an_embedding_where_those_are_compared():
    captions = ["a star", "a star", "a ring"]
    assert held_bytes("all", captions, 96) == 18
    assert held_bytes("distinct", captions, 96) == 12
    assert held_bytes("diverse", captions, 96) == held_bytes("clusters", captions, 96) == 12 + 2 * 4 * 96


@pytest.fixture
def server(site, workspace, monkeypatch):
    """A loopback server that answers with what it was asked; the folder's study asks it."""
    folder = workspace({})
    (folder / FILE).parent.mkdir(parents=True)
    write_params(folder / FILE, ROOT / FILE, {"summarise.method": "server", "server.base_url": f"{site.url}/v1"})
    write_params(folder / FILE, folder / FILE, {"server.attempts": 2, "server.backoff_s": 0.01, "summarise.name": "m"})
    shutil.copy(ROOT / "studies/gap/prompt.txt", folder / "studies/gap/prompt.txt")
    monkeypatch.delenv("VLM_API_KEY", raising=False)
    site.asked = []

    def answer(body: str) -> Page:
        asked = json.loads(body)
        site.asked.append(asked["messages"][0]["content"][0]["text"])
        last = asked["messages"][0]["content"][0]["text"].split("Frames: ")[-1].split("\n")[0]
        finish = "length" if "ring" in last else "stop"
        choice = {"index": 0, "message": {"content": f"{last},\n in short"}, "finish_reason": finish}
        return Page(
            json.dumps({"choices": [choice], "usage": {"completion_tokens": 10}}).encode(), 200, "application/json"
        )

    site.pages["/v1/chat/completions"] = answer
    return site


def described(*captions: list[str]) -> list[Described]:
    segments = [Segment(f"v#{i}", "v", "test", 0.0, 1.0, (), None) for i in range(len(captions))]
    return [Described(one, list(range(len(own))), own, 0) for one, own in zip(segments, captions, strict=True)]


def test_a_server_sums_up_each_segment_once_and_what_it_cuts_off_is_no_sentence(server):
    chosen = described(["a {star}", "a star"], ["a ring"], [])
    written = by_server(load_study(), chosen, seed=0)
    assert [written[f"v#{i}"].caption for i in range(3)] == ["a {star} ; a star, in short", "", ""]
    assert [written[f"v#{i}"].error for i in range(3)] == [
        "",
        "the reply was cut off at max_tokens",
        "no frame of it was described",
    ]
    assert (written["v#0"].frames, written["v#0"].tokens_out, written["v#0"].attempts) == ([0, 1], 10, 1)
    assert written["v#0"].tokens_in is None  # the server did not say
    prompt = Path("studies/gap/prompt.txt").read_text()
    assert sorted(server.asked) == sorted(
        prompt.replace("{captions}", one).strip() for one in ("a {star} ; a star", "a ring")
    )
    assert by_server(load_study(), chosen, seed=0) == written and len(server.asked) == 2  # from the journal


def test_a_server_that_fails_for_good_ends_the_run_and_what_it_replied_is_kept(server):
    kept = by_server(load_study(), described(["a star"]), seed=0)
    server.pages["/v1/chat/completions"] = Page(b'{"error": "broken"}', 500, "application/json")
    with pytest.raises(ValueError, match=r"1 of 2 requests failed for reasons that can pass, .*status 500: broken"):
        by_server(load_study(), described(["a star"], ["a moon"]), seed=0)
    assert by_server(load_study(), described(["a star"]), seed=0) == kept


@pytest.mark.parametrize(
    "url", ["http://example.org/v1", "https://me:secret@example.org/v1", "https://me:se/secret@example.org/v1"]
)
def test_an_address_that_would_give_something_away_is_refused(workspace, url):
    folder = workspace({})
    (folder / FILE).parent.mkdir(parents=True)
    write_params(folder / FILE, ROOT / FILE, {"server.base_url": url})
    with pytest.raises(ValueError, match=r"server: base_url: ") as raised:
        load_study()
    assert "secret" not in str(raised.value)


def test_the_template_says_one_caption_after_the_other():
    assert by_template([["a star", "a ring"], []]) == [
        Sentence("a star, then a ring", 4, 5),
        Sentence("", 0, 0, "no captions to sum up"),
    ]
    assert sentences.SLOT in Path(load_study().summarise.prompt).read_text()


def test_umap_draws_the_same_picture_of_the_same_pairs(tmp_path):
    pytest.importorskip("umap")
    rows = np.random.default_rng(0).normal(size=(2, 12, 6))
    for name in ("one", "two"):
        draw_umap(tmp_path / f"{name}.png", {"coca": (rows[0], rows[1] + 3), "encoder": (rows[0], rows[1])}, seed=0)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


@pytest.fixture
def shown(workspace):
    """A folder with pairs of two encoders at one level, pairs of another level, and a picture of earlier ones."""
    folder = workspace({})
    FILE.parent.mkdir(parents=True)
    shutil.copy(ROOT / FILE, FILE)
    PAIRS.mkdir(parents=True)
    rows = np.random.default_rng(0).normal(size=(3, 2, 12, 6)).astype(np.float32)
    for name, own in zip(("coca-trained-frame", "encoder-trained-frame", "coca-trained-video"), rows, strict=True):
        np.save(PAIRS / f"{name}.npy", own)
    picture = folder / METRICS / "plots/umap.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"of earlier pairs")
    return picture


def test_the_end_of_the_study_draws_the_pairs_of_its_first_level_by_umap_always_alike(shown):
    pytest.importorskip("umap")
    found = []
    for _ in range(2):
        show.draw_with_umap()
        found.append(shown.read_bytes())
    assert found[0] == found[1]
    assert Image.open(shown).width == 2 * PANEL  # a panel for each encoder
    pairs = np.load(PAIRS / "coca-trained-frame.npy")
    np.save(PAIRS / "coca-trained-frame.npy", pairs[:, ::-1] + 1)
    show.draw_with_umap()
    assert shown.read_bytes() != found[0]


def test_without_umap_no_picture_of_earlier_pairs_stays(shown, monkeypatch):
    monkeypatch.setattr(show, "find_spec", lambda name: None)
    show.draw_with_umap()
    assert not shown.exists()


def test_singular_vectors_are_numpys_with_the_largest_coordinate_positive():
    rows = np.random.default_rng(0).normal(size=(50, 6))
    found, expected = first_vectors(rows), np.linalg.svd(rows)[2][:2]
    np.testing.assert_allclose(np.abs((found * expected).sum(1)), 1)
    assert (found[np.arange(2), np.abs(found).argmax(1)] > 0).all()
