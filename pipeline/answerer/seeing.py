"""An encoder that learns with the reader: it sees the stored pictures of glimpses instead of stored embeddings.

V videos   Q questions of each   n glimpses   f frames of each   U different frames   E embedding width
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.answerer.examples import Batch
from pipeline.features.encoder import TOWER, WEIGHTS_FILE, Encoder
from pipeline.files import weights

Stored = Callable[[str, Sequence[int]], list[bytes]]  # a video's id, numbers of its frames -> their JPEGs
AT_ONCE = 256  # pictures through the tower where no gradient is needed


class TrainedEncoder(nn.Module):
    """An image tower. It stays in eval mode: batch norms keep the statistics of what they were pretrained on."""

    def __init__(self, encoder: Encoder, stored: Stored) -> None:
        super().__init__()
        self.visual = encoder.visual.requires_grad_(True)
        self.preprocess, self.stored = encoder.preprocess, stored

    def forward(self, batch: Batch, index: Tensor) -> Tensor:
        """Embeddings [V, Q, n, f, E] of the frames [V, Q, n, f] of a batch; each different one is decoded once."""
        pictures, places, count = [], [], 0
        for (video_id, first), own in zip(batch.videos, index.cpu(), strict=True):
            frames, place = own.unique(return_inverse=True)
            jpegs = self.stored(video_id, (first + frames).tolist())
            pictures += [self.preprocess.pixels(jpeg) for jpeg in jpegs]
            places.append(place + count)
            count += len(jpegs)
        parts = torch.stack(pictures).split(count if torch.is_grad_enabled() else AT_ONCE)
        made = torch.cat([self._embed(part.to(index.device)) for part in parts])  # [U, E]
        return made[torch.stack(places).to(index.device)]

    def save(self, folder: Path, original: Path) -> None:
        """Write the encoder of the folder `original` with this image tower into a new folder."""
        shutil.copytree(original, folder, ignore=shutil.ignore_patterns(WEIGHTS_FILE, "request.json"))
        tower = {TOWER + name: tensor.detach().cpu().contiguous() for name, tensor in self.visual.state_dict().items()}
        save_file(weights.read(original / WEIGHTS_FILE) | tower, folder / WEIGHTS_FILE)

    def _embed(self, pixels: Tensor) -> Tensor:
        inputs = self.preprocess.normalised(pixels).contiguous(memory_format=torch.channels_last)
        made = self.visual(inputs)
        return (made[0] if isinstance(made, tuple) else made).float()  # CoCa's tower returns its tokens, too
