"""What an answer is worth where ten people gave one: VQA's accuracy (Antol et al. 2015, Goyal et al. 2017).

An answer scores min(1, n / 3), n of the nine others having given it, averaged over the ten choices of nine. Answers are
compared after a normalisation of VQA's own: digits for number words, no articles, apostrophes put back, punctuation
removed in a way of its own. All as in the public evaluation code (github.com/GT-Vision-Lab/VQA, vqaEval.py), with
which tests/dataset/test_questions.py compares it.
"""

import re
from collections.abc import Sequence

ENOUGH = 3  # people who agree
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS = {"none": "0", **{word: str(number) for number, word in enumerate(NUMBERS)}}
ARTICLES = {"a", "an", "the"}
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
# The original gives re.UNICODE, which is 32, where re.sub takes how often to replace.
_PERIOD, _MAX_PERIODS = re.compile(r"(?!<=\d)(\.)(?!\d)"), 32
_THOUSANDS = re.compile(r"(\d)(,)(\d)")
# What people write with an apostrophe less. "its", "were", "well", "ill" and "shell" are words themselves.
_WITH_APOSTROPHES = [
    "ain't",
    "aren't",
    "can't",
    "could've",
    "couldn't",
    "couldn't've",
    "didn't",
    "doesn't",
    "don't",
    "hadn't",
    "hadn't've",
    "hasn't",
    "haven't",
    "he'd",
    "he'd've",
    "he's",
    "how'd",
    "how'll",
    "how's",
    "isn't",
    "it'd",
    "it'd've",
    "it'll",
    "ma'am",
    "mightn't",
    "mightn't've",
    "might've",
    "mustn't",
    "must've",
    "needn't",
    "not've",
    "o'clock",
    "oughtn't",
    "'ow's'at",
    "shan't",
    "she'd've",
    "should've",
    "shouldn't",
    "shouldn't've",
    "somebody'd've",
    "somebody'll",
    "somebody's",
    "someone'd",
    "someone'd've",
    "someone'll",
    "someone's",
    "something'd",
    "something'd've",
    "something'll",
    "that's",
    "there'd",
    "there'd've",
    "there're",
    "there's",
    "they'd",
    "they'd've",
    "they'll",
    "they're",
    "they've",
    "'twas",
    "wasn't",
    "we'd've",
    "we've",
    "weren't",
    "what'll",
    "what're",
    "what's",
    "what've",
    "when's",
    "where'd",
    "where's",
    "where've",
    "who'd",
    "who'd've",
    "who'll",
    "who's",
    "who've",
    "why'll",
    "why're",
    "why's",
    "won't",
    "would've",
    "wouldn't",
    "wouldn't've",
    "y'all",
    "y'all'll",
    "y'all'd've",
    "you'd",
    "you'd've",
    "you'll",
    "you're",
    "you've",
]
CONTRACTIONS = {
    word[:at] + word[at + 1 :]: word for word in _WITH_APOSTROPHES for at, letter in enumerate(word) if letter == "'"
} | {"somebody'd": "somebodyd"}


def normalised(answer: str) -> str:
    """As VQA compares answers."""
    return _words(_without_punctuation(plain(answer)))


def plain(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def _without_punctuation(text: str) -> str:
    thousands = _THOUSANDS.search(text) is not None
    found = text
    for mark in PUNCTUATION:
        apart = mark + " " in text or " " + mark in text
        found = found.replace(mark, "" if apart or thousands else " ")
    return _PERIOD.sub("", found, _MAX_PERIODS)


def _words(text: str) -> str:
    words = [DIGITS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def accuracy(answer: str, votes: Sequence[str]) -> float:
    """Of an answer, 0 to 1, by the answers that people gave."""
    given = [plain(vote) for vote in votes]
    found = plain(answer)
    if len(set(given)) > 1:  # where all say the same the original normalises neither side
        given, found = [normalised(vote) for vote in given], normalised(found)
    agree = [vote.lower() == found.lower() for vote in given]
    return sum(min(1.0, (sum(agree) - own) / ENOUGH) for own in agree) / len(agree)


def soft_scores(votes: Sequence[str]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """The different answers, normalised, that are worth something, and what: the best first."""
    given = [plain(vote) for vote in votes]
    different = dict.fromkeys(map(normalised, given) if len(set(given)) > 1 else given)
    worth = {answer: accuracy(answer, votes) for answer in different}
    ranked = sorted(((a, w) for a, w in worth.items() if w > 0), key=lambda one: -one[1])
    return tuple(answer for answer, _ in ranked), tuple(score for _, score in ranked)
