"""`python -m pipeline.gap` on files of all kinds."""

import json
import sys

import numpy as np
import pytest
import torch

from pipeline import gap


def run(capsys, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["gap", *map(str, arguments)])
    gap.main()
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    common = rng.normal(size=(40, 8))
    return np.stack([common + 1, common + rng.normal(size=(40, 8)) / 2]).astype(np.float32)


def test_all_kinds_of_file_give_the_same(pairs, tmp_path, capsys, monkeypatch):
    images, texts = pairs
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "texts.npy", texts)
    np.save(tmp_path / "both.npy", pairs)
    np.savez(tmp_path / "named.npz", texts=texts, images=images, ids=np.arange(40))
    np.savez(tmp_path / "two.npz", a=images, b=texts)
    torch.save({"image_features": torch.tensor(images), "text_features": torch.tensor(texts)}, tmp_path / "named.pt")
    torch.save(torch.tensor(pairs).bfloat16().float(), tmp_path / "both.pt")
    names = ["both.npy", "named.npz", "two.npz", "named.pt"]
    message = [run(capsys, monkeypatch, tmp_path / name, "--draws", 5) for name in names]
    message.append(run(capsys, monkeypatch, tmp_path / "images.npy", tmp_path / "texts.npy", "--draws", 5))
    assert len(set(message)) == 1
    assert "distance of the centroids" in message[0] and "40 pairs, 8 wide" in message[0]
    assert "relative modality gap" in run(capsys, monkeypatch, tmp_path / "both.pt", "--draws", 0)


def test_json_holds_every_figure_and_what_it_was_fitted_on(pairs, tmp_path, capsys, monkeypatch):
    np.save(tmp_path / "both.npy", pairs)
    np.save(tmp_path / "train.npy", pairs[:, :30])
    (tmp_path / "ids.txt").write_text("".join(f"v{i // 4}\n" for i in range(40)))
    options = ["--train", tmp_path / "train.npy", "--videos", tmp_path / "ids.txt", "--facts", tmp_path / "ids.txt"]
    found = json.loads(run(capsys, monkeypatch, tmp_path / "both.npy", "--json", *options))
    assert (found["pairs"], found["groups"], found["fitted_on"]) == (40, 10, 30)
    for column in ("plain", "shifted", "standardised"):
        assert {"rmg", "facts.R@1.i2t", "separability.all"} <= found[column]["values"].keys()
        low, high = found[column]["intervals"]["rmg"]
        assert low < found[column]["values"]["rmg"] < high
    assert len(found["curve"]) == 21


def test_what_is_no_number_is_null_in_json(tmp_path, capsys, monkeypatch):
    np.save(tmp_path / "both.npy", np.ones((2, 4, 3)))
    found = json.loads(run(capsys, monkeypatch, tmp_path / "both.npy", "--json"))
    assert found["plain"]["values"]["effective_rank.image"] is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((3, 4, 5)), "found 1 arrays ([3, 4, 5]), expected images and texts"),
        (np.array([{"a": 1}], dtype=object), "not a .npy file of plain arrays"),
        (b"nothing", "not a .npy file of plain arrays"),
        (np.zeros((2, 1, 5)), "found 1 pair, expected at least 2"),
    ],
)
def test_a_file_of_something_else_is_refused_in_one_line(content, message, tmp_path, capsys, monkeypatch):
    path = tmp_path / "a.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(SystemExit) as ended:
        run(capsys, monkeypatch, path)
    assert message in str(ended.value) and "\n" not in str(ended.value)


@pytest.mark.parametrize("name", ["gone.npy", "texts.csv"])
def test_a_file_that_is_not_there_or_not_of_a_kind_is_named(name, tmp_path, capsys, monkeypatch):
    with pytest.raises(SystemExit) as ended:
        run(capsys, monkeypatch, tmp_path / name)
    assert name in str(ended.value)
