"""The attention captioner: nets and windows, the model, explanations against a published package, and pointing."""

import copy
import csv
import io
import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline import score
from pipeline.dataset.formats import read_splits
from pipeline.dataset.segments import Segment, to_table
from pipeline.features import frames, shards
from pipeline.features.encoder import schema_of
from pipeline.features.frames import Sampled
from pipeline.features.shards import VideoRows
from pipeline.language.beam import search
from pipeline.params import load_params
from pipeline.scoring.segment_scores import read_scores
from studies.attend import cams, caption, cells, events, floors, learn, nets, pointing, table
from studies.attend.caption import Generated, pairs
from studies.attend.evaluate import averaged
from studies.attend.events import CLASSES, classes_at
from studies.attend.examples import plan_batches
from studies.attend.model import AttendingCaptioner, Batch, Config, Decoding
from studies.attend.nets import Letterbox, Net, SmallVideoNet, Windows, aligned, load_net, torchvision_net, video_cells
from studies.attend.settings import CELLS, FILE, KINDS, METRICS, NET, load_attend
from studies.attend.training import pad
from studies.attend.truth import Truth, about, class_of, truth_of
from studies.attend.vocabulary import BEGIN, END, PAD, UNKNOWN, Vocabulary
from tests.conftest import write_params
from tests.random_clip import READS, write_random_clip

MSRVTT = Path(__file__).parents[3] / "shared/data/msrvtt"
H, W, CHANNELS = 3, 2, 5


def captioner(kind="space-time", rnn="lstm", vocabulary=12, seed=0):
    torch.manual_seed(seed)
    config = Config(
        kind, rnn, places=H * W, channels=CHANNELS, width=16, heads=2, vocabulary=vocabulary, dropout=0.0, noise=0.0
    )
    return AttendingCaptioner(config).eval()


def batch(lengths=(4, 2), seed=1):
    draw = torch.Generator().manual_seed(seed)
    cells = torch.rand(len(lengths), max(lengths), H * W, CHANNELS, generator=draw)
    times = torch.arange(max(lengths)).float().expand(len(lengths), -1) * 0.4
    return Batch(cells, times, 2 - times, torch.tensor(lengths))


# Nets


def test_every_moment_of_a_video_has_one_cell_of_the_window_in_whose_middle_it_lies():
    for count in (1, 15, 16, 17, 40, 61):
        chosen, begins = Windows(count, window=16, stride=12).kept(8)
        assert begins == [2.0 * i for i in range(math.ceil(count / 2))], count
    chosen, _ = Windows(40, window=16, stride=12).kept(8)
    assert chosen[:9] == [(0, i) for i in range(7)] + [(1, 1), (1, 2)]  # not the cells at a window's edge


def test_a_cell_is_the_layers_output_for_the_frames_around_it():
    torch.manual_seed(0)
    module = SmallVideoNet(4, 3).eval()
    jpegs = [jpeg(value) for value in np.linspace(0, 255, 20)]
    net = Net(copy.deepcopy(module), "layer2", (0.4,) * 3, (0.2,) * 3)
    cells, begins = video_cells(net, jpegs, Windows(20, 16, 12), side=32, batch_size=1, device=torch.device("cpu"))
    assert cells.shape == (10, 4, 4, 10) and begins == [2.0 * i for i in range(10)]
    pixels = torch.stack([torch.from_numpy(nets.picture(one, 32)) for one in jpegs[:16]])[None]
    direct = module.layer2(module.layer1(module.stem(net.normalised(pixels))))[0].movedim(0, -1)
    torch.testing.assert_close(cells[:6], direct[:6])
    together, _ = video_cells(net, jpegs, Windows(20, 16, 12), side=32, batch_size=4, device=torch.device("cpu"))
    torch.testing.assert_close(together, cells)
    short, _ = video_cells(net, jpegs[:1], Windows(1, 16, 12), side=32, batch_size=4, device=torch.device("cpu"))
    assert len(short) == 1
    assert aligned(cells, [5, 2, None]).shape == (5, 2, 4, 10)
    torch.testing.assert_close(aligned(cells, [1, 1, 1])[0, 0, 0], cells.mean((0, 1, 2)))


def test_threads_that_share_a_net_get_their_own_cells():
    torch.manual_seed(0)
    net = Net(SmallVideoNet(4, 3).eval(), "layer2", (0.4,) * 3, (0.2,) * 3)
    pixels = [torch.full((1, 4, 32, 32, 3), 10 * i, dtype=torch.uint8) for i in range(20)]
    alone = [net.cells(one) for one in pixels]
    with ThreadPoolExecutor(4) as pool:
        for found, expected in zip(pool.map(net.cells, pixels), alone, strict=True):
            torch.testing.assert_close(found, expected)


def test_what_a_cell_sees_lies_around_its_own_place():
    torch.manual_seed(0)
    module = SmallVideoNet(4, 3).eval()
    pixels = torch.randn(1, 3, 2, 56, 56, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    module.layer2(module.layer1(module.stem(pixels)))[0, :, 0, 3, 3].sum().backward()
    seen = pixels.grad.abs().sum((0, 1, 2, 3)).nonzero().flatten()
    assert (int(seen[0]) + int(seen[-1])) / 2 == 8 * (3 + 0.5)


def jpeg(value, size=(32, 32)):
    import cv2

    return cv2.imencode(".jpg", np.full((*size, 3), value, np.uint8))[1].tobytes()


def test_a_picture_that_is_not_square_lies_whole_between_bars():
    found = nets.picture(jpeg(255, (20, 40)), 32)
    assert found[:8].max() < 200 < found[9:23].min() and found.shape == (32, 32, 3)
    assert Letterbox.of(40, 20, 32) == Letterbox(0.8, 0.0, 8.0)
    with pytest.raises(ValueError, match="7 bytes that are no JPEG"):
        nets.picture(b"no jpeg", 32)


def test_weights_of_another_net_are_refused_and_a_head_may_be_of_any_size(tmp_path):
    other = torchvision_net("mc3_18", None).state_dict()
    with pytest.raises(
        ValueError, match=r"net.weights: not those of r2plus1d_18: \d+ of its tensors are missing, .*first"
    ):
        torchvision_net("r2plus1d_18", other)
    with pytest.raises(
        ValueError, match=r"net.name: found 'resnet18'; expected one of torchvision's video nets: .*r3d_18"
    ):
        torchvision_net("resnet18", None)
    own = {**other, "fc.weight": torch.zeros(3, 512), "fc.bias": torch.zeros(3)}
    torch.save(own, tmp_path / "mc3.pth")
    nets.save_torchvision(tmp_path, "mc3_18", tmp_path / "mc3.pth")
    net = load_net(tmp_path, "layer1")
    assert torch.equal(net.module.get_parameter("stem.0.weight"), other["stem.0.weight"])
    net.module.layer2.register_forward_hook(lambda *_: pytest.fail("computed what comes after the layer"))
    assert net.cells(torch.zeros(1, 4, 32, 32, 3, dtype=torch.uint8)).shape == (1, 4, 16, 16, 64)
    with pytest.raises(ValueError, match="the net has no layer 'layer9'; it has stem, layer1"):
        load_net(tmp_path, "layer9")
    with pytest.raises(
        ValueError, match=r"layer 'avgpool' of .* gives|layer 'fc' of VideoResNet gives \[1, 400\]; expected"
    ):
        load_net(tmp_path, "fc").cells(torch.zeros(1, 4, 32, 32, 3, dtype=torch.uint8))
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match=r"net.weights: .*text.pth cannot be read as weights"):
        nets.read_weights(tmp_path / "text.pth")
    with pytest.raises(ValueError, match=r"net.weights: .*gone.pth: no such file"):
        nets.read_weights(tmp_path / "gone.pth")


def test_a_video_that_is_too_short_or_has_no_frames_says_so_and_missing_cells_are_named(workspace, capsys):
    with_study(workspace, {"cells.window": 16, "cells.stride": 12, "cells.size_px": 32})
    with pytest.raises(ValueError, match="studies/attend/cells holds no cells; make them with: python -m studies"):
        cells.shape_of(CELLS)
    config = {"width": 4, "classes": CLASSES, "mean": (0.4,) * 3, "std": (0.2,) * 3}
    NET.mkdir(parents=True)
    nets.save_builtin(NET, SmallVideoNet(4, len(CLASSES)), config)
    counts = {"v_dark": 0, "v_long": 40, "v_one": 1, "v_short": 15}

    def store(jpegs):
        def compute(ids):
            for id in ids:
                sampled = Sampled(id, jpegs[: counts[id]], None if counts[id] else "no frame decodes")
                rows = frames.to_table(sampled, fps=5) if counts[id] else None
                yield VideoRows(id, rows, sampled.reason)

        fingerprints = {id: str(jpegs) for id in counts}
        number = load_params().frames.shards
        shards.update(cells.FRAMES, schema=frames.SCHEMA, shards=number, fingerprints=fingerprints, compute=compute)

    store([jpeg(value) for value in range(40)])
    cells.main()
    assert "of 3 videos (4 computed, 0 kept, 0 removed, 1 without frames; 2 cut or padded)" in capsys.readouterr().out
    short = "frames, a window has 16: its last frame stands for the others"
    assert {id: (one.rows, one.reason) for id, one in shards.index(CELLS).items()} == {
        "v_dark": (0, "no frame decodes"),
        "v_long": (20, None),
        "v_one": (1, f"1 {short}"),
        "v_short": (8, f"15 {short}"),
    }
    assert set(learn.read_cells(["v_one", "v_dark"])) == {"v_one"}
    with pytest.raises(ValueError, match="cells has no video 'v_new': make its cells with: python -m studies"):
        learn.read_cells(["v_one", "v_new"])
    pq.write_table(to_table([Segment("v_dark#0", "v_dark", "test", 0.0, 1.0, ("a",), None)]), learn.SEGMENTS)
    with pytest.raises(ValueError, match="none of the 1 segments of split 'test' has cells"):
        caption.main("temporal")
    store([b"no picture"] * 40)
    with pytest.raises(ValueError, match=r"v_\w+: 10 bytes that are no JPEG"):
        cells.main()


SCENE = {
    "width_px": 40,
    "height_px": 40,
    "fps": 5.0,
    "frames": 20,
    "objects": [
        {
            "id": "o0",
            "shape": "ring",
            "shown": [{"from_s": 0.5, "to_s": 3.5, "rests": False, "colours": [[0.0, "white"], [2.0, "blue"]]}],
        }
    ],
    "segments": [
        {"start_s": 0, "end_s": 4, "events": [{"what": "flash blue", "object_id": "o0", "start_s": 2.0, "end_s": 3.0}]}
    ],
}


def test_the_built_in_net_learns_what_is_there_and_what_happens_at_each_time():
    rows = classes_at(SCENE, [0.0, 1.0, 2.5])
    found = [{CLASSES[i] for i in np.flatnonzero(row)} for row in rows]
    assert found == [set(), {"white", "ring", "white ring"}, {"blue", "ring", "blue ring", "flash"}]
    with pytest.raises(ValueError, match="Only the built-in dataset has it: for videos of your own"):
        events.load_scenes(FILE.with_name("none.json"))


# Words


def test_a_caption_reads_back_from_its_words(tmp_path):
    vocabulary = Vocabulary.of(["A red ring, then a star.", "a red star", "it's red"], min_count=1)
    ids = vocabulary.encode("a red ring, then a star.")
    assert vocabulary.decode(ids) == "a red ring, then a star." and ids[-1] == END
    assert vocabulary.words[4:6] == ("a", "red") and "it's" in vocabulary.words
    assert vocabulary.encode("a green star")[1] == UNKNOWN
    assert "then" not in Vocabulary.of(["a a then"], min_count=2).words
    vocabulary.save(tmp_path / "v.json")
    assert Vocabulary.load(tmp_path / "v.json") == vocabulary
    (tmp_path / "v.json").write_text("[]")
    with pytest.raises(ValueError, match=r"v\.json: found no vocabulary; expected"):
        Vocabulary.load(tmp_path / "v.json")


# The model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rnn", ["lstm", "gru"])
def test_a_segment_is_captioned_alike_alone_and_beside_longer_ones(kind, rnn):
    model, both = captioner(kind, rnn), batch((4, 2))
    alone = Batch(both.cells[1:, :2], both.since_s[1:, :2], both.until_s[1:, :2], both.lengths[1:])
    tokens = torch.tensor([[[4, 5, END]]])
    together, attention = model.log_probs(model.look(both), tokens.expand(2, -1, -1))
    single, own = model.log_probs(model.look(alone), tokens)
    torch.testing.assert_close(together[1:], single)
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, 1, 3))
    assert own.shape[-1] == {"none": 1, "temporal": 2, "spatial": H * W, "space-time": 2 * H * W}[kind]


def test_beam_search_finds_the_likeliest_caption():
    model, own = captioner(vocabulary=7), batch((4,))
    seen = model.look(own)
    every = [
        [*words, END] for n in range(3) for words in np.ndindex(*([7] * n)) if not {PAD, BEGIN, END, UNKNOWN} & {*words}
    ]
    tokens = pad([every])
    values, _ = model.log_probs(seen, tokens)
    best = every[int(((values * (tokens != PAD)).sum(-1) / (tokens != PAD).sum(-1))[0].argmax())]
    (found,) = search(Decoding(model, own), end=END, beams=7, max_tokens=3, length_penalty=1.0)
    value = float(model.log_probs(seen, pad([[[*found, END]]]))[0].sum())
    if len(found) < 3:  # all of two words and fewer are in `every`
        assert [*found, END] == best
    assert math.isfinite(value)


def test_beams_are_those_of_a_search_segment_by_segment():
    model, both = captioner(vocabulary=30), batch((4, 2, 3))
    options = {"end": END, "beams": 3, "max_tokens": 8, "length_penalty": 0.5}
    together = search(Decoding(model, both), **options)
    for i, length in enumerate((4, 2, 3)):
        alone = Batch(
            both.cells[i : i + 1, :length],
            both.since_s[i : i + 1, :length],
            both.until_s[i : i + 1, :length],
            both.lengths[i : i + 1],
        )
        assert search(Decoding(model, alone), **options) == [together[i]]


def test_without_teacher_forcing_a_step_goes_on_from_the_likeliest_word():
    model, own = captioner(), batch((4,))
    tokens = torch.tensor([[[4, 5, 6, END]]])
    forced, _ = model.log_probs(model.look(own), tokens)
    free, _ = model.log_probs(model.look(own), tokens, teacher_forcing=0.0)
    torch.testing.assert_close(free[..., 0], forced[..., 0])
    assert not torch.allclose(free[..., 1:], forced[..., 1:])


def test_batches_of_an_epoch_have_each_example_once_and_of_like_lengths():
    class One:
        def __init__(self, length):
            self.rows = range(length)

    examples = [One(1 + i % 7) for i in range(100)]
    batches = plan_batches(examples, 8, (0, 1))
    assert sorted(i for one in batches for i in one) == list(range(100))
    assert batches == plan_batches(examples, 8, (0, 1)) != plan_batches(examples, 8, (0, 2))
    filled = sum(max(len(examples[i].rows) for i in one) * len(one) for one in batches)
    assert filled < 1.1 * sum(len(one.rows) for one in examples)


def test_the_origins_table_has_a_row_for_each_reference():
    segments = [
        Segment("a#0", "a", "test", 0, 1, ("one", "two, three"), None),
        Segment("b#0", "b", "test", 0, 1, ("x",), None),
    ]
    rows = list(csv.reader(io.StringIO(pairs(segments, {"a#0": Generated("said", -1.0, ())}))))
    assert rows == [["video_id", "prediction", "reference"], ["a", "said", "one"], ["a", "said", "two, three"]]


# Explanations


@pytest.mark.parametrize("kind", KINDS)
def test_maps_are_those_of_the_grad_cam_package_with_time_folded_into_height(kind):
    package = pytest.importorskip("pytorch_grad_cam")
    model, own, tokens = captioner(kind), batch((4,)), [4, 7, END]
    found = cams.explain(model, own, tokens, ["gradcam", "gradcam++", "hirescam"], h=H)

    class Folded(torch.nn.Module):
        def __init__(self, place):
            super().__init__()
            self.layer, self.place = torch.nn.Identity(), place
            self.captioner = model  # the package asks a model's parameters for their device

        def forward(self, pixels):  # [1, C, T * h, w]
            cells = self.layer(pixels)[0].movedim(0, -1).reshape(1, 4, H * W, CHANNELS)
            log_probs, _ = model.log_probs(model.look(own.with_cells(cells)), torch.tensor(tokens)[None, None])
            return log_probs[0, 0, self.place].reshape(1, 1)

    folded = own.cells[0].reshape(4 * H, W, CHANNELS).movedim(-1, 0)[None].requires_grad_(True)
    oracles = {"gradcam": package.GradCAM, "gradcam++": package.GradCAMPlusPlus, "hirescam": package.HiResCAM}
    for place in range(3):
        for name, oracle in oracles.items():
            folded_model = Folded(place)
            with oracle(model=folded_model, target_layers=[folded_model.layer]) as cam:
                expected = cam(input_tensor=folded, targets=[lambda output: output[0]])[0]
            own_map = found[name][place].reshape(4 * H, W).numpy()
            own_map = own_map - own_map.min()
            np.testing.assert_allclose(own_map / (1e-7 + own_map.max()), expected, atol=1e-4, err_msg=f"{name} {place}")


def test_a_map_of_every_word_and_of_the_caption_and_attention_sums_to_one():
    found = cams.explain(captioner(), batch((4,)), [4, 5, END], ["gradcam", "attention"], h=H)
    assert {name: tuple(maps.shape) for name, maps in found.items()} == dict.fromkeys(found, (4, 4, H, W))
    torch.testing.assert_close(found["attention"].sum((1, 2, 3)), torch.ones(4))


TIMES = np.arange(10) * 0.4 + 0.2
SEGMENT = Segment("v#0", "v", "test", 0.0, 4.0, ("a blue ring",), None)


def truth(scene=SCENE):
    boxes = pd.DataFrame(
        [
            {"object_id": "o0", "frame_index": i, "x0": 0, "y0": 0, "x1": 10, "y1": 20, "visible": 1.0}
            for i in range(3, 18)
        ]
    )
    return truth_of(SEGMENT, scene, boxes, TIMES, (4, 4), 56, 0.5)


def found(word: str, own: Truth) -> tuple[Any, Any]:
    cells = about(word, own)
    assert cells is not None
    return cells


def test_a_word_is_about_the_cells_of_its_things_at_the_times_at_which_it_is_true():
    own = truth()
    assert own.inside["o0"].sum((1, 2)).tolist() == [0, *[2] * 8, 0]  # the left column's upper two, while it is there
    ring, _ = found("ring", own)
    blue, when = found("blue", own)
    assert ring.sum() == 16 and blue.any((1, 2)).tolist() == when.tolist() == [t > 2 and t < 3.6 for t in TIMES]
    assert about("red", own) is None and about("star", own) is None
    _, happens = found("flashes", own)
    assert happens.tolist() == [1.7 <= t <= 3.3 for t in TIMES]
    left, _ = found("left", own)
    assert left.sum() == 16 and about("right", own) is None
    assert [class_of(w) for w in ("blue", "ring", "left", "flashes", "then", ",")] == [
        *("colour", "shape", "place", "verb", "function"),
        None,
    ]


def test_a_map_that_points_at_the_thing_while_it_is_blue_scores_one_and_chance_is_the_boxs_share():
    right, wrong = np.zeros((2, 10, 4, 4), np.float32)
    right[6, 0, 0], wrong[2, 0, 0] = 1, 1  # both inside the box; at the second it is white
    rows = pointing.score({"right": right[None], "wrong": wrong[None]}, ["blue"], truth(), np.random.default_rng(0))
    found = {row.method: row for row in rows}
    assert (found["right"].hit, found["right"].in_time) == (1, 1) and found["right"].lift == pytest.approx(160 / 8)
    assert (found["wrong"].hit, found["wrong"].in_time, found["wrong"].lift) == (0, 0, 0)
    assert found["chance"].hit == pytest.approx(8 / 160) and found["chance"].in_time == pytest.approx(0.4)
    assert found["centre"].hit == 0
    table = pointing.summary(rows)
    assert set(table[table["method"] == "right"]["kind"]) == {"colour", pointing.EVERY}


def with_study(workspace, values):
    study = FILE.resolve()
    folder = workspace({"device": "cpu"})
    (folder / FILE).parent.mkdir(parents=True)
    write_params(folder / FILE, study, values)
    return folder


def write_segments_with_embeddings(folder, segments):
    """What the stage evaluate reads beside captions, with one frame a video, by an encoder of random weights."""
    write_random_clip(folder / "models/encoder", 24, text=READS)
    (folder / "data/videos").mkdir(parents=True)
    pq.write_table(to_table(segments), folder / "data/videos/segments.parquet")
    schema, videos = schema_of(24), sorted({one.video_id for one in segments})

    def compute(ids):
        for id in ids:
            rows = pa.table({"video_id": [id], "frame_index": [0], "timestamp_s": [0.0], "embedding": [[0.5] * 24]})
            yield VideoRows(id, rows.cast(schema))

    where = folder / "data/videos/embeddings"
    shards.update(where, schema=schema, shards=1, fingerprints=dict.fromkeys(videos, "1"), compute=compute)


@pytest.mark.skipif(not MSRVTT.is_dir(), reason="needs ../shared/data/msrvtt")
def test_the_floors_of_msrvtt_are_those_of_the_command_that_scores_its_file(workspace, monkeypatch, capsys):
    folder = with_study(workspace, {"floors.constant": "a man is talking"})
    file = MSRVTT / "test_videodatainfo_first40.json"
    by_video, splits, _ = read_splits({"test": [file]}, "msrvtt")
    assert set(splits.values()) == {"test"}
    segments = [
        Segment(f"{id}#0", id, "test", 0.0, 9.0, tuple(one.text for one in own.captions), own.captions[0].kind)
        for id, (own,) in by_video.items()
    ]
    write_segments_with_embeddings(folder, segments)
    floors.main()
    found = json.loads((METRICS / "floors.json").read_text())
    rows, note = table.of_floors(found)
    assert [row[0] for row in rows] == ['"a man is talking"', "a person"] and not note
    for name, typed in (("constant", ("--constant", "a man is talking")), ("human", ("--human",))):
        capsys.readouterr()
        monkeypatch.setattr("sys.argv", ["score", *typed, str(file), "--json"])
        score.main()
        corpus = json.loads(capsys.readouterr().out)["corpus"]
        assert {metric: found[name][metric] for metric in corpus} == pytest.approx(corpus, abs=1e-4)
        each = read_scores(str(floors.FLOORS / name / "segments.parquet"))
        assert len(each) == 40 and each["kind"].notna().all()


def test_a_floor_that_needs_a_second_reference_is_empty_where_there_is_none(workspace, capsys):
    folder = with_study(workspace, {})
    said = {"train": ("a dog runs away", "a cat"), "test": ("a dog runs away",)}
    segments = [
        Segment(f"{split}{i}#0", f"{split}{i}", split, 0.0, 1.0, said[split], None) for split in said for i in (0, 1)
    ]
    segments[1] = replace(segments[1], captions=("a dog runs away",))
    write_segments_with_embeddings(folder, segments)
    floors.main()
    assert "human: nothing to score in test" in capsys.readouterr().out
    found = json.loads((METRICS / "floors.json").read_text())
    assert found["caption"] == "a dog runs away"  # of two training segments, the other of one
    (constant, human), (note,) = table.of_floors(found)
    assert constant[1] == "100.0" and set(human[1:]) == {""} and "no segment has a second reference" in note


def test_one_reference_leaves_a_segment_out_of_what_a_person_scores():
    segments = [Segment(f"v{i}#0", f"v{i}", "test", 0.0, 1.0, tuple("abc"[: i + 1]), None) for i in range(3)]
    training = Segment("t#0", "t", "train", 0.0, 1.0, ("a",), None)
    left, first = floors.first_against_others([training, *segments], "test")
    assert first == {"v1#0": "a", "v2#0": "a"}
    assert [one.captions for one in left] == [("a",), ("b",), ("b", "c")]
    _, note = table.of_floors({"caption": "a", "constant": {"segments": 3}, "human": {"segments": 2}})
    assert note == ["a person: without 1 segments that have one reference; CIDEr is not comparable"]


def test_params_that_cannot_be_are_named(tmp_path):
    own = load_attend()
    assert own.explain.attention in KINDS
    path = tmp_path / "params.yaml"
    path.write_text(FILE.read_text().replace("stride: 28", "stride: 40"))
    with pytest.raises(ValueError, match=r"params.yaml:\n  cells: .*stride 40 is longer than window 32"):
        load_attend(path)
    path.write_text(FILE.read_text().replace("rnn: lstm", "rnn: rwkv"))
    with pytest.raises(ValueError, match=r"learn.rnn: found 'rwkv'"):
        load_attend(path)
    assert json.dumps(own.model_dump())


def test_the_table_has_the_scores_of_each_kind_of_segment_and_the_explanations_by_class_of_word():
    seeds = [
        {"CIDEr": 100.0, "facts.now": 40, "segments.sha256": "ab"},
        {"CIDEr": 200.0, "facts.now": 60, "segments.sha256": "ab"},
    ]
    assert averaged(seeds) == {"CIDEr": 150.0, "facts.now": 50.0, "segments.sha256": "ab"}
    assert table.row_of("x", averaged(seeds), "2", "9") == ["x", "", "", "", "150.0", "", "50.0", "", "", "", "2", "9"]
    rows = pointing.score({"gradcam": np.ones((1, 10, 4, 4), np.float32)}, ["blue"], truth(), np.random.default_rng(0))
    head, *found = table.explanations(pointing.summary(rows))
    assert head[:4] == ("explanation", "points", "lift", "in time") and next(row[0] for row in found) == "chance"
    assert next(row for row in found if row[0] == "gradcam")[2] == "1.00"  # energy everywhere: the box's share of it
    lines = table.aligned([head, *found]).splitlines()
    assert len({len(line) for line in lines}) == 1 and lines[1].startswith("chance ")
