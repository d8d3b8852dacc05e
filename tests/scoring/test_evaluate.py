"""The stage on a small table of captions, METEOR and all."""

import json
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

import stages.evaluate
from pipeline.dataset.segments import Segment, from_table, to_table
from pipeline.dataset.shapes.grammar import facts_right
from pipeline.features.text_tower import NoTextTower
from pipeline.scoring.caption_table import write_captions
from pipeline.scoring.registry import of_corpus
from pipeline.scoring.scorer import Scorer

CAPTION = {"now": "a red star rests on the left", "order": "a green circle turns blue", None: "a dog runs"}


class Generated:
    log_prob = -2.0

    def __init__(self, caption):
        self.caption = caption


@pytest.fixture(scope="module")
def scorer():
    with Scorer() as made:
        yield made


@pytest.fixture
def workspace(tmp_path, monkeypatch, scorer):
    """A folder with the project's params.yaml, in which stages run. Frames and an encoder there are none:
    tests/scoring/test_clipscore.py has the score that is made up here."""
    monkeypatch.setattr(stages.evaluate, "Scorer", lambda tokenizer: nullcontext(scorer))
    monkeypatch.setattr("pipeline.scoring.registry.clip_scores", lambda captions, *_: dict.fromkeys(captions, 50.0))
    (tmp_path / "params.yaml").write_text(Path("params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(kinds, captions, references=lambda kind: (CAPTION[kind],), split="test"):
    segments = [Segment(f"v_{i}#0", f"v_{i}", split, 0.0, 4.0, references(kind), kind) for i, kind in enumerate(kinds)]
    segments.append(Segment("v_train#0", "v_train", "train", 0.0, 4.0, ("a dog",), "now"))
    stages.evaluate.SEGMENTS.parent.mkdir(parents=True)
    pq.write_table(to_table(segments), stages.evaluate.SEGMENTS)
    write_captions(stages.evaluate.CAPTIONS, segments, {id: Generated(text) for id, text in captions.items()})


def test_scores_are_reported_by_kind_with_their_coverage(workspace, capsys):
    captions = {"v_0#0": CAPTION["now"], "v_1#0": CAPTION["now"], "v_2#0": "", "v_3#0": CAPTION["order"]}
    write(["now", "now", "order", "order", "order"], captions)
    stages.evaluate.main()

    metrics = json.loads(stages.evaluate.CORPUS.read_text())
    assert metrics["segments"] == 4
    assert metrics["segments.asked"] == 5
    assert (metrics["segments.now"], metrics["segments.order"]) == (2, 2)
    assert (metrics["METEOR.now"], metrics["ROUGE-L.now"], metrics["ROUGE-L.order"]) == (100, 100, 50)
    assert metrics["ROUGE-L"] == 75
    coverage = json.loads(stages.evaluate.COVERAGE.read_text())
    assert coverage["split_sha256"] == metrics.pop("segments.sha256")
    assert (coverage["asked"], coverage["scored"], coverage["missing"]) == (5, 4, ["v_4#0"])
    assert (coverage["split"], coverage["evaluator"]) == ("test", "pycocoevalcap")
    assert all(isinstance(value, int | float) for value in metrics.values())  # flat
    assert all(value == round(value, 4) for value in metrics.values())

    each = pd.read_parquet(stages.evaluate.EACH)
    assert list(each["segment_id"]) == list(captions)
    assert list(each["kind"]) == ["now", "now", "order", "order"]
    assert list(each["caption"]) == list(captions.values())
    assert list(each["METEOR"]) == [100, 100, 0, 100]
    # Averages of the segments' own, and not the corpus's: an empty caption costs METEOR's pooled counts less than 25.
    assert metrics["mean.METEOR"] == 75 < metrics["METEOR"]
    assert all(metrics[f"mean.{name}"] == round(each[name].mean(), 4) for name in of_corpus())
    assert metrics["diversity.vocabulary"] == len(set(f"{CAPTION['now']} {CAPTION['order']}".split()))
    assert metrics["CLIPScore"] == metrics["CLIPScore.now"] == 50

    plot = pd.read_csv(stages.evaluate.PLOT)
    assert set(plot["kind"]) == {"all", "now", "order"}
    [score] = plot.query("kind == 'order' and metric == 'ROUGE-L'")["score"]
    assert score == 50
    assert "evaluate: 4 of 5 segments of split test scored: CIDEr" in capsys.readouterr().out


def test_segments_whose_video_could_not_be_had_are_asked_for_too(workspace, capsys):
    write(["now"], {"v_0#0": CAPTION["now"]})
    table = pq.read_table(stages.evaluate.SEGMENTS)
    pq.write_table(to_table(from_table(table), expected={"train": 9, "val": 0, "test": 3}), stages.evaluate.SEGMENTS)
    stages.evaluate.main()
    metrics = json.loads(stages.evaluate.CORPUS.read_text())
    assert (metrics["segments"], metrics["segments.asked"]) == (1, 3)
    assert "evaluate: 1 of 3 segments of split test scored" in capsys.readouterr().out


def test_facts_are_the_share_of_captions_that_state_them(workspace):
    right, wrong = "a red star rests on the left", "a red star rests on the right"
    if facts_right(right, [right]) is None:
        pytest.fail("the grammar cannot read the example of its own documentation")
    write(["now"] * 4, {"v_0#0": right, "v_1#0": wrong, "v_2#0": right, "v_3#0": right})
    stages.evaluate.main()
    assert json.loads(stages.evaluate.CORPUS.read_text())["facts"] == 75
    assert list(pd.read_parquet(stages.evaluate.EACH)["facts"]) == [True, False, True, True]


def test_another_dataset_has_neither_facts_nor_kinds(workspace):
    write([None, None], {"v_0#0": "a dog runs", "v_1#0": "a cat"})
    stages.evaluate.main()
    metrics = json.loads(stages.evaluate.CORPUS.read_text())
    families = ("mean.", "diversity.", "segments.")
    assert [name for name in metrics if "." in name and not name.startswith(families)] == []
    assert "facts" not in metrics
    each = pd.read_parquet(stages.evaluate.EACH)
    assert each["kind"].isna().all()
    assert "facts" not in each
    assert set(pd.read_csv(stages.evaluate.PLOT)["kind"]) == {"all"}


def test_captions_of_a_language_without_spaces_are_scored_by_characters_where_params_say_so(
    workspace, monkeypatch, capsys
):
    candidate = "一只棕色的狗在公园里跑"
    write([None], {"v_0#0": candidate}, references=lambda kind: (candidate,))
    stages.evaluate.main()
    assert "; 2 of 2 captions and references are written without spaces between words" in capsys.readouterr().out
    assert json.loads(stages.evaluate.CORPUS.read_text())["BLEU-4"] < 1
    assert pd.read_parquet(stages.evaluate.EACH).attrs == {"tokenizer": "ptb"}
    monkeypatch.setattr(stages.evaluate, "Scorer", Scorer)
    (workspace / "params.yaml").write_text(
        (workspace / "params.yaml").read_text().replace("tokenizer: ptb", "tokenizer: characters")
    )
    stages.evaluate.main()
    metrics = json.loads(stages.evaluate.CORPUS.read_text())
    assert (metrics["BLEU-4"], metrics["METEOR"], metrics["ROUGE-L"]) == (100, 100, 100)
    assert metrics["diversity.vocabulary"] == len(set(candidate))
    assert json.loads(stages.evaluate.COVERAGE.read_text())["tokenizer"] == "characters"
    assert pd.read_parquet(stages.evaluate.EACH).attrs == {"tokenizer": "characters"}


def test_captions_of_another_split_are_refused(workspace):
    write(["now"], {"v_0#0": "a dog"}, split="val")
    with pytest.raises(ValueError, match=r"captions\.parquet has captions of split 'val', caption\.split is 'test'"):
        stages.evaluate.main()


def test_an_encoder_that_cannot_read_leaves_out_its_score_and_says_so(workspace, monkeypatch, capsys):
    def cannot(*_):
        raise NoTextTower("the tokenizer of models/encoder is not in it")

    monkeypatch.setattr("pipeline.scoring.registry.clip_scores", cannot)
    write(["now"], {"v_0#0": "a dog"})
    stages.evaluate.main()
    assert capsys.readouterr().out.endswith("; no CLIPScore: the tokenizer of models/encoder is not in it\n")
    assert "CLIPScore" not in json.loads(stages.evaluate.CORPUS.read_text())


def test_no_captions_are_refused(workspace):
    with pytest.raises(ValueError, match=r"^no captions at data/captions\.parquet: `dvc repro caption` writes"):
        stages.evaluate.main()
    write(["now"], {})
    with pytest.raises(ValueError, match=r"^nothing to score: none of 1 segments with references has a caption"):
        stages.evaluate.main()


def test_evaluating_again_writes_the_same_bytes(workspace):
    write(["now", "order", None], {"v_0#0": "a red star", "v_1#0": "a circle turns blue", "v_2#0": "a cat runs"})
    paths = [stages.evaluate.CORPUS, stages.evaluate.COVERAGE, stages.evaluate.EACH, stages.evaluate.PLOT]
    stages.evaluate.main()
    once = [path.read_bytes() for path in paths]
    stages.evaluate.main()
    assert [path.read_bytes() for path in paths] == once
