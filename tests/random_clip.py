"""A CLIP of random weights, as small as one likes, for benches and tests of what is done with an encoder."""

from pathlib import Path
from typing import Any

import torch

from pipeline.features.encoder import save_encoder

VISION = {"layers": [1, 1, 1, 1], "width": 8, "head_width": 32, "image_size": 32}
TEXT = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
READS = TEXT | {"vocab_size": 49408}  # with an entry for every token of CLIP's tokenizer, so it can read


def write_random_clip(
    folder: Path, width: int, *, vision: dict[str, Any] = VISION, text: dict[str, Any] = TEXT, seed: int = 0
) -> Any:
    """Write one with embeddings of `width` to `folder`, in the pipeline's format; returns the open_clip model.

    Args:
        vision, text: open_clip's vision_cfg and text_cfg.
    """
    import open_clip
    from open_clip.transform import PreprocessCfg

    torch.manual_seed(seed)
    config = {"embed_dim": width, "vision_cfg": vision, "text_cfg": text}
    model = open_clip.model.CLIP(**config)
    open_clip.model.set_model_preprocess_cfg(model, vars(PreprocessCfg(size=vision["image_size"])))
    save_encoder(folder, config, model)
    return model
