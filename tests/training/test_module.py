"""What modules of the training loop share."""

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from torch import nn

from pipeline.training.module import Training
from tests.colours import OPTIMIZATION


def at(epoch: int, **changes) -> Training:
    module = Training(replace(OPTIMIZATION, **changes), steps=10, params_file=Path("studies/x/params.yaml"))
    module.trainer = SimpleNamespace(world_size=1, current_epoch=epoch, global_step=6)  # type: ignore[assignment]
    return module


def test_draws_depend_on_seed_epoch_and_name_alone():
    values = tuple(range(100))
    drawn = at(0).drawn("a", values, 5)
    assert drawn == at(0).drawn("a", values, 5) and len(set(drawn)) == 5
    others = [
        at(1).drawn("a", values, 5),
        at(0).drawn("b", values, 5),
        at(0, seed=OPTIMIZATION.seed + 1).drawn("a", values, 5),
    ]
    assert drawn not in others
    assert at(0).drawn("a", values, None) == at(0).drawn("a", values, 100) == values


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_loss_that_is_no_number_names_the_step_and_the_file_to_change(value):
    module = at(1)
    module.refuse_infinite(torch.tensor(3.0), "the loss")
    with pytest.raises(
        ValueError, match=r"^the loss became (nan|inf) in epoch 2, step 7 of 10; .* in studies/x/params"
    ):
        module.refuse_infinite(torch.tensor(value), "the loss")


def test_sums_of_one_process_are_its_own_and_those_of_several_are_added():
    module, total = at(0), torch.tensor(3.0, requires_grad=True)
    alone, units = module.of_all_processes(total, 4)
    assert (float(alone), units, alone.requires_grad) == (3, 4, False)

    def reduce(sums, reduce_op):
        assert reduce_op == "sum"
        sums.mul_(2)  # another process with the same

    module.trainer = SimpleNamespace(world_size=2, strategy=SimpleNamespace(reduce=reduce))  # type: ignore[assignment]
    both, units = module.of_all_processes(total, 4)
    assert (float(both), units) == (6, 8)


def test_what_a_step_draws_depends_on_seed_epoch_step_and_process_alone():
    def drawn(seed, epoch, step, rank):
        module = at(epoch, seed=seed)
        with mock.patch.object(Training, "global_rank", rank):
            module.on_train_batch_start(None, step)
        return float(torch.rand(()))

    every = list(itertools.product(range(2), repeat=4))
    once = [drawn(*of) for of in every]
    assert len(set(once)) == 16 and [drawn(*of) for of in reversed(every)] == once[::-1]


def test_the_schedule_warms_up_and_falls_to_nothing_over_all_steps():
    module = at(0, warmup_steps=2, learning_rate=1.0, optimizer="adamw")
    found = module.scheduled(nn.Linear(2, 2))
    optimizer, schedule = found["optimizer"], found["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([1 / 2, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
