import json

import pytest

from pipeline.process.terminal import message, printable, printable_json


def test_escape_sequences_and_line_breaks_are_shown_not_obeyed():
    assert printable("a\x1b]0;owned\x07b\r\nc\x9b2J") == r"a\x1b]0;owned\x07b\r\nc\x9b2J"
    assert printable("\u202egpj.exe") == r"\u202egpj.exe"
    assert printable("caf\udce9.mp4") == r"caf\udce9.mp4"  # a name on disk that is not UTF-8: print() cannot encode it


@pytest.mark.parametrize("text", ["Käse, 中文, ไทย", "👩\u200d🍳 cooks", "a\u3000b\u00a0c", r"C:\new", "a\u200cb"])
def test_what_people_write_in_any_script_stays_as_it_is(text):
    assert printable(text) == text


def test_text_is_cut_to_its_limit_after_it_was_escaped():
    assert printable("a" * 200) == "a" * 200
    assert printable("a" * 201) == "a" * 197 + "..."
    assert len(printable("\x1b" * 300, 40)) == 40


def test_an_error_keeps_its_own_lines_and_nothing_else():
    assert message(ValueError("params.yaml:\n  a\x1b[2Jb: unknown key")) == "params.yaml:\n  a\\x1b[2Jb: unknown key"
    long = message("x" * 10**7 + "\n" * 10**5)
    assert len(long) < 3000 and long.endswith("... and 99901 lines more")


def test_json_stays_json():
    content = {"caption": 'a "\x1b[31m\x9b2J\u202e 中'}
    shown = printable_json(json.dumps(content, ensure_ascii=False))
    assert json.loads(shown) == content
    assert shown == r'{"caption": "a \"\u001b[31m\u009b2J\u202e 中"}'
