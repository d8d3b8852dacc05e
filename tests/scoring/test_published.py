"""Our memory layer against the published one: memorizing-transformers-pytorch (lucidrains), whose class others inherit.

Agreement is asked for while the published memory is right: nothing has wrapped around, every row is written each
time, and its index is made an exact one. It has one key head for all query heads; it attends causally within what it is
given at once, which we call a frame, so outputs are compared at each frame's last token, which sees them all.
"""

import faiss
import pytest
import torch
from memorizing_transformers_pytorch import KNNAttention
from memorizing_transformers_pytorch.knn_memory import KNNMemory

from pipeline.captioner.mapper import Attention, MapperConfig
from pipeline.captioner.memory import History, Moments
from tests.memory_config import memory_config

ROWS, FRAMES, TOKENS, WIDTH, HEADS = 3, 9, 4, 24, 3
HEAD_WIDTH = WIDTH // HEADS


def both_layers(k: int) -> tuple[KNNAttention, Attention]:
    torch.manual_seed(k)
    theirs = KNNAttention(dim=WIDTH, heads=HEADS, dim_head=HEAD_WIDTH, num_retrieved_memories=k)
    config = MapperConfig("transformer", 1, HEADS, WIDTH, TOKENS, 0, embedding_width=5, decoder_width=6)
    memory = memory_config(layers=(1,), k=k, max_entries=10**6, time="none", scope="segment", gradient="detached")
    ours = Attention(config, memory)
    keys, values = theirs.to_kv.weight.chunk(2)
    with torch.no_grad():
        ours.query.weight.copy_(theirs.to_q.weight)
        ours.key_value.weight.copy_(torch.cat([keys.repeat(HEADS, 1), values.repeat(HEADS, 1)]))
        ours.out.weight.copy_(theirs.to_out.weight)
        ours.out.bias.zero_()
        ours.log_scale.copy_(theirs.scale.flatten())
    return theirs, ours


def published_outputs(theirs: KNNAttention, x: torch.Tensor, folder) -> torch.Tensor:
    memory = KNNMemory(HEAD_WIDTH, num_indices=ROWS, memmap_filename=str(folder / "memory"), multiprocessing=False)
    for knn in memory.knns:
        knn.index = faiss.IndexFlatIP(HEAD_WIDTH)
    return torch.stack([theirs(x[:, t], knn_memory=memory)[0][:, -1] for t in range(FRAMES)], dim=1)


# 100 is more than is ever stored.
@pytest.mark.parametrize("k", [1, 5, 16, 100])
def test_a_memory_layer_gives_what_the_published_one_gives_values_and_gradients(k, tmp_path):
    theirs, ours = both_layers(k)
    x = torch.randn(ROWS, FRAMES, TOKENS, WIDTH)
    published = published_outputs(theirs, x, tmp_path)

    with torch.no_grad():
        stored = ours.store(x)
    frame = torch.arange(FRAMES).expand(ROWS, -1)
    out, _ = ours(x, History(stored.keys, stored.values), Moments(frame, torch.zeros_like(frame)))
    out = out[:, :, -1]
    torch.testing.assert_close(out, published, rtol=1e-4, atol=1e-5)

    expected = torch.randn_like(out)
    (published * expected).sum().backward()
    (out * expected).sum().backward()
    torch.testing.assert_close(ours.query.weight.grad, theirs.to_q.weight.grad, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ours.out.weight.grad, theirs.to_out.weight.grad, rtol=1e-3, atol=1e-4)
    of_heads = ours.key_value.weight.grad.view(2, HEADS, HEAD_WIDTH, WIDTH).sum(1).flatten(0, 1)
    torch.testing.assert_close(of_heads, theirs.to_kv.weight.grad, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ours.log_scale.grad, theirs.scale.grad.flatten(), rtol=1e-3, atol=1e-4)
