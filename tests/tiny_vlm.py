"""A vision-language model of a few thousand random weights, as a folder that transformers loads.

It writes lower-case letters, and ends at any of `ENDS`: a random model would hardly ever end by itself.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

SIDE, PATCH = 16, 8  # pixels: a picture is 4 tokens
ENDS = "etaoinsr"
SPECIAL = ("<pad>", "<s>", "</s>", "<image>")
# Words with their roles, pictures where they are.
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}\n{% endfor %}assistant:"
)


def write_vlm(folder: Path, *, positions: int = 2048) -> None:
    """positions: of its context window, in tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {token: id for id, token in enumerate([*SPECIAL, *letters])}
    bytes_level = Tokenizer(models.BPE(vocab=ids, merges=[]))
    bytes_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_level.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytes_level,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
    )
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
        image_token="<image>",
    )
    width = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(**width, image_size=SIDE, patch_size=PATCH, projection_dim=16),
            text_config=LlamaConfig(**width, vocab_size=len(ids), max_position_embeddings=positions),
            image_token_index=ids["<image>"],
            image_seq_length=(SIDE // PATCH) ** 2,
        )
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in ("v_proj.weight", "o_proj", "multi_modal")):
                parameter.mul_(3)  # as they are initialised, pictures hardly matter
    written = {ids[letter] for letter in "abcdefghijklmnopqrstuvwxyz"}
    model.generation_config.eos_token_id = [ids["</s>"], *(ids[letter] for letter in ENDS)]
    model.generation_config.pad_token_id = ids["<pad>"]
    model.generation_config.no_repeat_ngram_size = 2
    model.generation_config.suppress_tokens = sorted(set(ids.values()) - written)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
