"""Tokens for languages without spaces between words: Chinese, Japanese, Thai and others."""

import unicodedata


def characters(caption: str) -> str:
    """Tokens of a caption, joined by spaces: each letter or digit with its combining marks, in lower case.

    Spaces, punctuation and symbols are not tokens.
    """
    tokens: list[str] = []
    for character in unicodedata.normalize("NFC", caption).lower():
        kind = unicodedata.category(character)[0]
        if kind == "M" and tokens:
            tokens[-1] += character
        elif kind in "LN":
            tokens.append(character)
    return " ".join(tokens)
