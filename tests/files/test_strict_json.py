import json

import pytest

from pipeline.files import strict_json


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1,\n "b": 2,\n "a": 3}', "line 3: the key 'a' is repeated in one object"),
        ('[{"a": {"k": 0}},\n {"a": {"\\u006b": 0, "k": 1}}]', "line 2: the key 'k' is repeated"),
        ("[1,\n NaN]", "line 2: NaN is not a JSON number"),
        ('{"a": -Infinity}', "line 1: -Infinity is not a JSON number"),
        ("[1e999]", "line 1: the number 1e999 is too large"),
        ("[\n" + "7" * 6000 + "]", "line 2: the number 777"),
        ("[0." + "7" * 6000 + "]", "line 1: the number 0.777"),
        ("\n" + "[" * 100_000 + "]" * 100_000, "line 2: brackets are nested deeper than 100"),
        ('{"a":' * 100_000 + "0" + "}" * 100_000, "line 1: brackets are nested deeper than 100"),
        ("[" * 101 + "]" * 101, "line 1: brackets are nested deeper than 100"),
        ("[1,\n2", "line 2: not JSON (Expecting ',' delimiter, column 2)"),
        ("", "line 1: not JSON (Expecting value, column 1)"),
        (b'["a",\n"\xff"]', "line 2: not JSON (it is not UTF-8: invalid start byte)"),
    ],
)
def test_what_another_reader_might_take_for_something_else_is_refused_with_its_line(text, message):
    with pytest.raises(ValueError) as refused:
        strict_json.loads(text, where="a.json")
    assert str(refused.value).startswith(f"a.json, {message}")
    assert len(str(refused.value)) < 300 and "\n" not in str(refused.value)


def test_what_is_json_is_read_with_a_byte_order_mark_or_without(tmp_path):
    value = {"é": [1, -2.5, 1e300, "NaN", "[[[", {"a": {"a": "a"}}, True, None]}
    text = json.dumps(value, ensure_ascii=False)
    for encoded in (text, "\ufeff" + text, text.encode(), text.encode("utf-8-sig"), text.encode("utf-16")):
        assert strict_json.loads(encoded, where="a.json") == value
    deep = "[" * 100 + "]" * 100
    assert strict_json.loads(deep, where="a.json") == json.loads(deep)
    (tmp_path / "a.json").write_text(text, encoding="utf-8-sig")
    assert strict_json.load(tmp_path / "a.json") == value


def test_an_error_shows_neither_control_characters_nor_all_of_a_long_key(tmp_path):
    key = "\x1b[31m" + "k" * 10_000
    (tmp_path / "a.json").write_text(f"{{{json.dumps(key)}: 1, {json.dumps(key)}: 2}}")
    with pytest.raises(ValueError, match=r"a\.json, line 1: the key '\\x1b\[31mkkk") as refused:
        strict_json.load(tmp_path / "a.json")
    assert len(str(refused.value)) < 200 + len(str(tmp_path))
