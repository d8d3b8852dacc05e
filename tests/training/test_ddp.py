"""Training on two processes against training on one. Run as a script, this file is the training."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.captioner.sequences import make_examples, plan_batches
from pipeline.captioner.training import train_and_save
from pipeline.language.decoder import save_decoder
from pipeline.params import load_params
from pipeline.training.batches import PerRankSampler
from tests.colours import COLOURS, make, make_decoder, make_tokenizer, world

EPOCHS = 5
BATCH = 5  # of 16 segments: batches of 5, 5, 5 and 1, so the second process has 2, 2, 2 and none
LAUNCHERS = {
    "Lightning": [sys.executable],  # which starts the second process itself
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"],
}


def main(decoder_folder: Path, folder: Path, devices: int) -> None:
    torch.set_num_threads(1)
    # Dropout is drawn separately in every process.
    dropout = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
    captioner = make(AutoModelForCausalLM.from_pretrained(decoder_folder, **dropout).eval())
    segments, embeddings = world(22)
    # Captions of one word to seven: a process's mean over its tokens is not the mean over all of them.
    random = np.random.default_rng(1)
    more_captions = [" then ".join(random.choice(COLOURS, 1 + i % 4)) for i in range(len(segments))]
    segments = [replace(s, captions=(*s.captions, more)) for s, more in zip(segments, more_captions, strict=True)]
    # Muon works in bfloat16 and makes more of the difference between two orders of adding.
    rate = {"optimizer": "adamw", "learning_rate": 1e-2, "warmup_steps": 2}
    changes = {"epochs": EPOCHS, "batch_size": BATCH, "captions_drawn": None, "decoder": "full", "devices": devices}
    params = load_params()
    finetune = params.finetune.model_copy(update={**changes, **rate})
    print(
        train_and_save(
            captioner,
            AutoTokenizer.from_pretrained(decoder_folder),
            make_examples(segments, embeddings, scope="segment"),
            params.model_copy(update={"finetune": finetune, "seed": 0, "device": "cpu"}),
            "finetune",
            work=folder / "work",
            folder=folder / "captioner",
            curves=folder / "curves",
        )
    )


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    """What one process leaves, and the decoder for two."""
    folder = tmp_path_factory.mktemp("one")
    save_decoder(folder / "decoder", make_decoder(), make_tokenizer())
    threads = torch.get_num_threads()
    main(folder / "decoder", folder, devices=1)
    torch.set_num_threads(threads)
    return folder


@pytest.fixture(scope="module", params=LAUNCHERS)
def two(request, one, tmp_path_factory) -> tuple[Path, str]:
    """What two processes leave, and their standard output."""
    folder = tmp_path_factory.mktemp("two")
    command = [*LAUNCHERS[request.param], __file__, str(one / "decoder"), str(folder), "2"]
    environment = {**os.environ, "PYTHONPATH": ".", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def curve(folder: Path, split: str) -> list[float]:
    rows = (folder / f"curves/plots/metrics/{split}/loss.tsv").read_text().splitlines()[1:]
    return [float(row.split("\t")[1]) for row in rows]


def test_two_processes_have_the_loss_curves_of_one_and_write_them_once(one, two):
    for split in ("train", "val"):
        expected, found = curve(one, split), curve(two[0], split)
        assert len(expected) == len(found) == EPOCHS
        assert found == pytest.approx(expected, rel=1e-4)
    assert curve(one, "train")[-1] < 0.9 * curve(one, "train")[0]


def test_two_processes_end_with_the_weights_of_one(one, two):
    found = load_file(two[0] / "captioner/mapper.safetensors")
    for name, value in load_file(one / "captioner/mapper.safetensors").items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-3)


def test_what_follows_the_training_is_done_once(two):
    folder, output = two
    assert output.count("best epoch") == 1
    assert not (folder / "work").exists()


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_processes_share_the_batches_that_one_would_take(world_size):
    examples = make_examples(*world(22), scope="segment")

    def plan(epoch):
        return plan_batches(examples, BATCH, seed=epoch)

    shares = [list(PerRankSampler(plan, 0, rank, world_size)) for rank in range(world_size)]
    whole = list(PerRankSampler(plan, 0, 0, 1))
    assert all(len(share) == len(whole) for share in shares)
    for step, batch in enumerate(whole):
        assert sorted(i for share in shares for i in share[step]) == sorted(batch)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
