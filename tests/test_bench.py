"""The benches run, at a size of seconds."""

import json

import pytest

from bench import caption

SIZES = {"segments": 3, "beams": 3, "tokens": 6, "prefix": 2, "layers": 1, "width": 32, "vocabulary": 300, "rounds": 2}
TINY = [f"--{name}={value}" for name, value in SIZES.items()]


def test_the_three_beam_searches_agree_and_the_last_line_says_how_fast_they_were(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench.caption", *TINY])
    caption.main()
    *table, last = capsys.readouterr().out.splitlines()
    figures = json.loads(last)
    assert [line.split()[0] for line in table[1:]] == ["published", "generate", "ours", "ours_bf16"]
    assert figures["captions"] == {"published": 2, "generate": 3, "ours": 3, "ours_bf16": 3}
    assert figures["same_captions"]["published"] == 2 and figures["same_captions"]["generate"] == 3
    assert figures["times_published"]["published"] == 1


def test_a_search_that_finds_other_captions_fails_the_bench(monkeypatch):
    monkeypatch.setattr("sys.argv", ["bench.caption", *TINY])
    monkeypatch.setattr(caption, "generate", lambda model, prefixes, **how: [[0] * 6] * len(prefixes))
    with pytest.raises(SystemExit, match="not the captions of: generate"):
        caption.main()
