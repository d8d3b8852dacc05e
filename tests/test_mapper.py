import pytest
import torch

from pipeline import mapper as mapper_module
from pipeline.mapper import MapperConfig, TransformerMapper
from pipeline.memory import MemoryConfig, Moments


def kept_for_backward(frames: int, gradient: str) -> int:
    """Bytes that a forward pass over one segment of so many frames leaves for the backward pass."""
    torch.manual_seed(0)
    memory = MemoryConfig((2, 3), 4, 64000, "joint", "age", "segment", gradient, 0)
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
