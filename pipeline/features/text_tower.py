"""The encoder's text tower: embeddings of texts, comparable with those of frames.

n texts   E embedding width
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.features.embeddings import unit
from pipeline.files import strict_json
from pipeline.process.terminal import printable

BATCH = 256


class NoTextTower(ValueError):
    """The encoder cannot read texts."""


class TextTower:
    """Of the encoder in a folder, loaded. Raises NoTextTower."""

    def __init__(self, encoder: Path, device: str) -> None:
        import open_clip  # here, because it takes seconds

        from pipeline.device import choose_device
        from pipeline.features.encoder import CONFIG_FILE

        name = f"local-dir:{encoder}"
        try:
            self._tokenizer = open_clip.get_tokenizer(name)
        except (OSError, ValueError) as error:
            # Transformers' own message suggests packages that do not have it.
            config = strict_json.load(encoder / CONFIG_FILE)
            name = config["model_cfg"].get("text_cfg", {}).get("hf_tokenizer_name")
            why = f"it is {printable(name)} on the Hugging Face hub, which did not provide it" if name else str(error)
            raise NoTextTower(f"the tokenizer of {encoder} is not in it ({why})") from error
        self._device = choose_device(device)
        self._model = open_clip.create_model(name, precision="fp32", device=self._device).eval()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[n, E], normalised, of at least one text. What is too long for the tower is cut."""
        import torch

        rows = []
        with torch.inference_mode():
            for start in range(0, len(texts), BATCH):
                tokens = self._tokenizer(list(texts[start : start + BATCH])).to(self._device)
                rows.append(self._model.encode_text(tokens).float().cpu().numpy())
        return unit(np.concatenate(rows))


def embed_texts(encoder: Path, texts: Sequence[str], device: str) -> NDArray[np.float32]:
    """Once, by the tower of the encoder in a folder: [n, E], normalised. Raises NoTextTower."""
    return TextTower(encoder, device).embed(texts)
