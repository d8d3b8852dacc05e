"""A model of the Hugging Face hub, or of a folder, loaded here."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from pipeline.chat.model import Reply, TooLong
from pipeline.device import choose_device, choose_dtype
from pipeline.params import Precision
from pipeline.process import progress


class Local:
    def __init__(
        self, *, name: str, revision: str | None, precision: Precision, device: str, temperature: float, seed: int
    ) -> None:
        """Raises ValueError if there is no such model, or if it is of another kind."""
        if not Path(name).is_dir():
            progress.begin_hub_download(name)
        on = choose_device(device)
        try:
            processor = AutoProcessor.from_pretrained(name, revision=revision)
            model: Any = AutoModelForImageTextToText.from_pretrained(
                name, revision=revision, dtype=choose_dtype(precision, on)
            )
        except (OSError, ValueError) as error:
            raise ValueError(f"model.name {name}: no vision-language model can be loaded from it ({error})") from None
        self._processor: Any = processor
        self._model: Any = model.to(on).eval()
        self._temperature, self._seed = temperature, seed

    def ask(self, prompt: str, jpegs: Sequence[bytes], max_tokens: int) -> Reply:
        pictures = [{"type": "image", "image": Image.open(BytesIO(jpeg)).convert("RGB")} for jpeg in jpegs]
        messages = [{"role": "user", "content": [*pictures, {"type": "text", "text": prompt}]}]
        inputs = self._processor.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
        ).to(self._model.device, self._model.dtype)
        asked = inputs["input_ids"].shape[1]
        most = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        if most is not None and asked + max_tokens > most:
            raise TooLong(f"{asked} tokens, and {max_tokens} of a reply, but the context window has {most}", final=True)
        sampling: dict[str, Any] = {"do_sample": False}
        if self._temperature > 0:
            torch.manual_seed(self._seed)  # of each request: whatever was asked before it
            sampling = {"do_sample": True, "temperature": self._temperature}
        with torch.inference_mode():
            found = self._model.generate(**inputs, max_new_tokens=max_tokens, **sampling)[0, asked:].tolist()
        ends = self._model.generation_config.eos_token_id
        stopped = bool(found) and found[-1] in (ends if isinstance(ends, list) else [ends])
        text = self._processor.decode(found, skip_special_tokens=True)
        return Reply(text, "stop" if stopped else "length", asked, len(found))

    def close(self) -> None:
        pass
