"""A masked language model of random weights that reads a few words."""

from pathlib import Path

import torch
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "is", "it", "red", "green", "blue", "a", "then"]


def write_bert(folder: Path) -> None:
    """As `save_pretrained` writes it: with the head of a masked model, and without the pooler."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertForMaskedLM(BertConfig(vocab_size=len(WORDS), initializer_range=0.3, **sizes))
    model.save_pretrained(folder)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(WORDS) + "\n")
    BertTokenizer(vocab={word: n for n, word in enumerate(WORDS)}).save_pretrained(folder)
