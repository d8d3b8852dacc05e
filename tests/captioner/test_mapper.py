import pytest
import torch

from pipeline.captioner import mapper as mapper_module
from pipeline.captioner.mapper import MapperConfig, TransformerMapper
from pipeline.captioner.memory import Moments
from tests.memory_config import memory_config


def kept_for_backward(frames: int, gradient: str) -> int:
    """Bytes that a forward pass over one segment of so many frames leaves for the backward pass."""
    torch.manual_seed(0)
    memory = memory_config(layers=(2, 3), scope="segment", gradient=gradient)
    mapper = TransformerMapper(MapperConfig("transformer", 4, 2, 16, 2, 2, 8, 16), memory)
    kept: dict[int, torch.Tensor] = {}  # by address, so that views of the same numbers count once

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        mapper(torch.randn(1, frames, 8), Moments(torch.tensor([[frames - 1]]), torch.tensor([[0]])))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("gradient", ["detached", "through"])
def test_a_segment_of_twice_the_frames_takes_twice_the_memory_not_four_times(gradient, monkeypatch):
    monkeypatch.setattr(mapper_module, "BLOCK_NUMBERS", 2**15)
    some, twice, four_times = (kept_for_backward(frames, gradient) for frames in (128, 256, 512))
    assert four_times - twice <= 2.1 * (twice - some)


def test_a_long_segment_keeps_less_of_each_frame_than_a_short_one_may(monkeypatch):
    at_once = kept_for_backward(128, "through")
    monkeypatch.setattr(mapper_module, "BLOCK_NUMBERS", 2**15)
    assert kept_for_backward(128, "through") < 0.5 * at_once


def test_a_long_segment_learns_in_blocks_what_it_would_at_once_also_in_bf16(monkeypatch):
    torch.manual_seed(0)
    memory = memory_config(layers=(2, 3), scope="segment")
    mapper = TransformerMapper(MapperConfig("transformer", 4, 2, 16, 2, 2, 8, 16), memory)
    mapper.project.requires_grad_(False)
    products = []
    mapper.layers[1].attention.query.register_forward_hook(lambda *call: products.append(call[-1].dtype))
    frames, moments = torch.randn(2, 40, 8), Moments(torch.tensor([[39], [20]]), torch.zeros(2, 1, dtype=torch.int64))

    def learned(dtype: torch.dtype) -> torch.Tensor:
        mapper.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            prefixes = mapper(frames, moments)
        prefixes.square().sum().backward()  # not in the context, as in training
        return torch.cat([p.grad.flatten() for p in mapper.parameters() if p.requires_grad])

    at_once = {dtype: learned(dtype) for dtype in (torch.float32, torch.bfloat16)}
    monkeypatch.setattr(mapper_module, "BLOCK_NUMBERS", 2**15)
    torch.testing.assert_close(learned(torch.float32), at_once[torch.float32], rtol=1e-4, atol=1e-4)
    products.clear()
    in_blocks = learned(torch.bfloat16)
    assert len(products) > 2 and set(products) == {torch.bfloat16}  # computed again as it was computed
    assert (in_blocks - at_once[torch.bfloat16]).norm() < 0.05 * in_blocks.norm()
