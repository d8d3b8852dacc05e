"""Which parameters each optimizer gets, and at what rate."""

import pytest
import torch

from pipeline.captioner.training import set_trainable
from pipeline.training.optimizers import make_optimizer, warmup_then_linear
from tests.colours import make

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_learning_rate_warms_up_and_falls_to_zero():
    rate = warmup_then_linear(4, 20)
    assert [rate(0), rate(3), rate(12), rate(20)] == [0.25, 1.0, 0.5, 0.0]
    assert warmup_then_linear(100, 10)(4) == 1.0  # a short run still reaches its rate


def test_muon_moves_the_maps_and_adamw_the_tables(decoder):
    set_trainable(captioner := make(decoder), "full")
    muon, adamw = make_optimizer("muon", captioner, learning_rate=1e-3, weight_decay=0.01).parts  # type: ignore[attr-defined]
    parts = [{id(p) for group in part.param_groups for p in group["params"]} for part in (muon, adamw)]
    assert parts[0] | parts[1] == {id(p) for p in captioner.parameters()} and not parts[0] & parts[1]
    memory = captioner.mapper.layers[0].attention.memory
    tables = [decoder.transformer.wte.weight, decoder.transformer.wpe.weight]
    assert {id(table) for table in (*tables, captioner.mapper.constants, memory.age_bias)} <= parts[1]
    assert id(captioner.mapper.project.weight) in parts[0]


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_where_ages_send_a_head_is_learned_more_slowly_than_all_else(decoder, name):
    captioner = make(decoder)
    optimizer = make_optimizer(
        name, captioner, learning_rate=1e-3, weight_decay=0.01, rate_factors={"age_key": 0.1, "age_bias": 0.1}
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert schedule.get_last_lr() == [group["lr"] for group in optimizer.param_groups]
    slow = {key for key, rate in rates.items() if rate == pytest.approx(0.5e-4)}
    memories = [layer.attention.memory for layer in captioner.mapper.layers]
    assert slow == {id(table) for memory in memories for table in (memory.age_key, memory.age_bias)}
    assert {rate for key, rate in rates.items() if key not in slow} == {0.5e-3}
