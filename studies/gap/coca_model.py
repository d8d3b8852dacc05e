"""A CoCa (Yu et al. 2022) of open_clip: embeddings of pictures and texts, and captions by the project's beam search.

open_clip 3.3's own `generate` does not run beside transformers 5, and computes picture and text anew for every word.
Here a picture is encoded once, its keys and values are computed once per layer, and those of the words are kept. Its
`generate` also has another rule: a beam's score is a sum of logits, not of log-probabilities, the start token counts as
a word of a caption's length, and padding is a word. With these as they are here the captions are the same
(bench/describe.py).

n pictures or texts   S of them searched at once   N beams of each   R rows (S * N)   E width   T picture tokens
H heads   L tokens of a text
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.features.encoder import CONFIG_FILE, WEIGHTS_FILE, Preprocess, save_encoder
from pipeline.files import strict_json
from pipeline.language.beam import RoomyLayer, search

WORDS_FILE = "words.json"
TEXTS_AT_ONCE = 256
PADDING = 0  # of a text; in a vocabulary of CLIP also a "!" within a word


class Words:
    """CLIP's tokenizer; for a small vocabulary, numbered by the tokens that are in use.

    used: ids of CLIP's tokenizer, ascending, 0 (the padding) among them; None: all. A token that is not in use is left
    out of a text: nothing was learned of it.
    """

    def __init__(self, used: Sequence[int] | None) -> None:
        from open_clip.tokenizer import SimpleTokenizer

        self.tokenizer, self.used = SimpleTokenizer(), None if used is None else sorted(used)
        self._number = {} if used is None else {token: i for i, token in enumerate(sorted(used))}
        self.start, self.end = (
            self._renumbered([token])[0] for token in (self.tokenizer.sot_token_id, self.tokenizer.eot_token_id)
        )
        self._known: dict[str, list[int]] = {}

    @classmethod
    def in_texts(cls, texts: Sequence[str]) -> "Words":
        every = cls(None)
        ids = {token for text in set(texts) for token in every.tokenizer.encode(text)}
        return cls(sorted({0, every.tokenizer.sot_token_id, every.tokenizer.eot_token_id, *ids}))

    def __len__(self) -> int:
        return int(self.tokenizer.vocab_size) if self.used is None else len(self.used)

    def _renumbered(self, ids: list[int]) -> list[int]:
        return ids if self.used is None else [self._number[id] for id in ids if id in self._number]

    def ids(self, text: str) -> list[int]:
        """Without start and end."""
        if text not in self._known:
            self._known[text] = self._renumbered(self.tokenizer.encode(text))
        return self._known[text]

    def tokens(self, texts: Sequence[str], length: int) -> Tensor:
        """int64 [n, length]: start, text, end, then 0; what is too long is cut before its end."""
        tokens = torch.zeros(len(texts), length, dtype=torch.int64)
        for row, text in zip(tokens, texts, strict=True):
            ids = [self.start, *self.ids(text)[: length - 2], self.end]
            row[: len(ids)] = torch.tensor(ids)
        return tokens

    def text(self, ids: Sequence[int]) -> str:
        ids = list(ids) if self.used is None else [self.used[id] for id in ids]
        return " ".join(self.tokenizer.decode(ids).split())


@dataclass(frozen=True)
class Caption:
    text: str
    log_prob: float  # of its words and its end, nats


@dataclass(frozen=True)
class Coca:
    model: Any
    words: Words
    preprocess: Preprocess

    @property
    def device(self) -> torch.device:
        return self.model.logit_scale.device

    @property
    def width(self) -> int:
        """E"""
        return int(self.model.text.text_projection.shape[1])

    @property
    def length(self) -> int:
        """Of its texts, padding included: released weights were trained on padded ones, and padding changes them."""
        return int(self.model.text.context_length)

    @torch.inference_mode()
    def images(self, jpegs: Sequence[bytes]) -> tuple[Tensor, Tensor]:
        """Embeddings [n, E], not normalised, and picture tokens [n, T, E]."""
        pixels = torch.stack([self.preprocess.pixels(jpeg) for jpeg in jpegs])
        inputs = self.preprocess.normalised(pixels.to(self.device))
        return self.model._encode_image(inputs, normalize=False)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """[n, E], not normalised."""
        rows = [
            self.model.encode_text(
                self.words.tokens(texts[at : at + TEXTS_AT_ONCE], self.length).to(self.device), normalize=False
            )
            for at in range(0, len(texts), TEXTS_AT_ONCE)
        ]
        return torch.cat(rows) if rows else torch.empty(0, self.width)

    @cached_property
    def to_words(self) -> Tensor | None:
        """The decoder's last projection [vocabulary, E], in the order in which few rows take half the time."""
        projection = self.model.text_decoder.text_projection
        return None if projection is None else projection.detach().t().contiguous()

    def captions(self, image_tokens: Tensor, *, beams: int, max_tokens: int, length_penalty: float) -> list[Caption]:
        """The best caption of each picture, of its tokens [n, T, E].

        max_tokens: of a caption, its end included.
        """
        longest = min(max_tokens, self.length - 1)
        decoder = CachedDecoder(self, image_tokens, longest)
        found = search(decoder, end=self.words.end, beams=beams, max_tokens=longest, length_penalty=length_penalty)
        log_probs = self.log_probs(image_tokens, [[*ids, self.words.end] for ids in found])
        return [Caption(self.words.text(ids), value) for ids, value in zip(found, log_probs, strict=True)]

    @torch.inference_mode()
    def log_probs(self, image_tokens: Tensor, captions: Sequence[Sequence[int]]) -> list[float]:
        """Of the token ids of a caption for each picture, in nats."""
        length = max(map(len, captions))
        tokens = torch.zeros(len(captions), length + 1, dtype=torch.int64)
        tokens[:, 0] = self.words.start
        for row, ids in zip(tokens, captions, strict=True):
            row[1 : len(ids) + 1] = torch.tensor(ids)
        tokens = tokens.to(self.device)
        _, read = self.model._encode_text(tokens[:, :-1])
        logits = self.model.text_decoder(image_tokens, read).float()  # [n, L, vocabulary]
        each = -F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
        real = torch.arange(length)[None] < torch.tensor([len(ids) for ids in captions])[:, None]
        return (each * real.to(self.device)).sum(1).tolist()


class CachedDecoder:
    """`pipeline.language.beam.WordByWord` of a CoCa, one row a picture at its start."""

    def __init__(self, coca: Coca, image_tokens: Tensor, max_tokens: int) -> None:
        self.text, self.decoder, self.start = coca.model.text, coca.model.text_decoder, coca.words.start
        self.to_words = coca.to_words
        self.own = [*self.text.transformer.resblocks, *self.decoder.resblocks]  # blocks that look at the words so far
        self.caches = [RoomyLayer(max_tokens, shared=0) for _ in self.own]
        self.cross = [_pictures_keys(block, image_tokens) for block in self.decoder.cross_attn]  # [S, H, T, E / H]
        self.rows, self.pictures, self.at = len(image_tokens), len(image_tokens), 0

    def advance(self, tokens: Tensor | None) -> Tensor:
        if tokens is None:
            tokens = torch.full((self.rows,), self.start, device=self.text.positional_embedding.device)
        x = self.text.token_embedding(tokens)[:, None] + self.text.positional_embedding[self.at]  # [R, 1, E]
        self.at += 1
        layers = len(self.text.transformer.resblocks)
        for block, cache in zip(self.own[:layers], self.caches, strict=False):
            x = _own_words(block, x, cache)
        if self.text.cls_emb is None:  # with one, only what it gathers is normalised
            x = self.text.ln_final(x)
        for block, cache, across, pictures in zip(
            self.own[layers:], self.caches[layers:], self.decoder.cross_attn, self.cross, strict=True
        ):
            x = _own_words(block, x, cache)
            x = _look_at_picture(across, x, *pictures)
        logits = self.decoder.ln_final(x)
        if self.to_words is not None:
            logits = _few_rows(logits, self.to_words, None)
        logits[..., PADDING] = -torch.inf  # no word: read back, open_clip would hide what stands behind it
        return logits[:, 0]

    def reorder(self, rows: Tensor) -> None:
        # `rows` are of the old rows, which had so many to a segment; a segment's new ones have all the same parent.
        parents = rows // (self.rows // self.pictures)
        firsts = torch.ones_like(parents, dtype=torch.bool)
        firsts[1:] = parents[1:] != parents[:-1]
        if int(firsts.sum()) < self.pictures:
            self.cross = [(keys[parents[firsts]], values[parents[firsts]]) for keys, values in self.cross]
        self.rows, self.pictures = len(rows), int(firsts.sum())
        for cache in self.caches:
            cache.reorder_cache(rows)


def _heads(block: Any, x: Tensor) -> Tensor:
    """[rows, L, E] -> [rows, H, L, E / H]"""
    return x.unflatten(-1, (block.attn.num_heads, -1)).transpose(1, 2)


def _closing(block: Any, x: Tensor, attended: Tensor) -> Tensor:
    """A block of the transformer from its attention [rows, H, L, E / H] on."""
    own, mlp = block.attn.out_proj, block.mlp
    x = x + block.ls_1(_few_rows(attended.transpose(1, 2).flatten(2), own.weight, own.bias))
    hidden = mlp.gelu(_few_rows(block.ln_2(x), mlp.c_fc.weight, mlp.c_fc.bias))
    return x + block.ls_2(mlp.c_proj(hidden))  # already reads its weights as fast as it can


def _few_rows(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear` of [R, 1, in], with the weight as the left factor: 3 rows take less than half the time on a CPU."""
    columns = x[:, 0].t()
    product = weight @ columns if bias is None else torch.addmm(bias[:, None], weight, columns)
    return product.t().contiguous()[:, None]


def _own_words(block: Any, x: Tensor, cache: RoomyLayer) -> Tensor:
    projected = _few_rows(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias)  # [R, 1, 3E]
    query, key, value = (_heads(block, part) for part in projected.chunk(3, dim=-1))
    keys, values = cache.update(key, value)
    return _closing(block, x, F.scaled_dot_product_attention(query, keys, values))


def _pictures_keys(block: Any, image_tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of pictures [S, T, E]: [S, H, T, E / H] each."""
    width = block.attn.embed_dim
    weight, bias = block.attn.in_proj_weight[width:], block.attn.in_proj_bias[width:]
    with torch.inference_mode():
        keys, values = F.linear(block.ln_1_kv(image_tokens), weight, bias).chunk(2, dim=-1)
        return _heads(block, keys), _heads(block, values)


def _look_at_picture(block: Any, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The beams of a picture are queries to the same keys, which need no copies then."""
    width = block.attn.embed_dim
    query = _few_rows(block.ln_1(x), block.attn.in_proj_weight[:width], block.attn.in_proj_bias[:width])  # [R, 1, E]
    together = _heads(block, query.reshape(len(keys), -1, width))  # [S, H, N, E / H]
    attended = F.scaled_dot_product_attention(together, keys, values)
    apart = attended.transpose(1, 2).reshape(len(x), block.attn.num_heads, 1, -1)  # [R, H, 1, E / H]
    return _closing(block, x, apart)


def random_coca(config: dict[str, Any], words: Words) -> Coca:
    """With open_clip's initialisation, drawn from torch's generator.

    open_clip leaves the last projection of a CoCa's decoder, to words, as it finds the memory: here it is normal, as
    CLIP's projections are. (Its blocks have PyTorch's own initialisation.)
    """
    import open_clip

    model: Any = open_clip.coca_model.CoCa(**{key: value for key, value in config.items() if key != "custom_text"})
    projection = model.text_decoder.text_projection
    torch.nn.init.normal_(projection, std=projection.shape[0] ** -0.5)
    size = model.visual.image_size
    preprocess = {
        "size": size[0] if isinstance(size, tuple) else size,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    open_clip.model.set_model_preprocess_cfg(model, vars(open_clip.transform.PreprocessCfg(**preprocess)))
    return Coca(model.eval(), words, Preprocess(preprocess))


def config_of(*, image_px: int, patch_px: int, width: int, vision_layers: int, text_layers: int, decoder_layers: int,
              heads: int, queries: int, length: int, vocabulary: int) -> dict[str, Any]:  # fmt: skip
    """open_clip's model_cfg of a small CoCa: all towers of one width."""
    text = {"context_length": length, "vocab_size": vocabulary, "width": width, "heads": heads}
    return {
        "embed_dim": width,
        "custom_text": True,  # by which open_clip knows that it is none of its CLIPs
        "vision_cfg": {
            "image_size": image_px,
            "layers": vision_layers,
            "width": width,
            "head_width": width // heads,
            "patch_size": patch_px,
            "attentional_pool": True,
            "attn_pooler_queries": queries,
            "attn_pooler_heads": heads,
            "output_tokens": True,
        },
        "text_cfg": {**text, "layers": text_layers, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**text, "layers": decoder_layers, "attn_pooler_heads": heads},
    }


def save_coca(folder: Path, config: dict[str, Any], coca: Coca) -> None:
    """In open_clip's local format; beside it which tokens are in use, where not all are."""
    save_encoder(folder, config, coca.model)
    if coca.words.used is not None:
        (folder / WORDS_FILE).write_text(json.dumps(coca.words.used) + "\n")


def load_coca(folder: Path, *, device: torch.device) -> Coca:
    """In eval mode. ValueError if the folder holds none, or one whose texts go through a model of Hugging Face."""
    import open_clip

    if not (folder / CONFIG_FILE).is_file():
        raise ValueError(f"{folder} holds no CoCa; make it with: dvc repro studies/gap/dvc.yaml")
    config = strict_json.load(folder / CONFIG_FILE)
    refuse_others(config["model_cfg"], str(folder))
    used = strict_json.load(folder / WORDS_FILE) if (folder / WORDS_FILE).is_file() else None
    model = open_clip.create_model(f"local-dir:{folder}", precision="fp32", device=device).eval().requires_grad_(False)
    return Coca(model, Words(used), Preprocess(config["preprocess_cfg"]))


def refuse_others(config: dict[str, Any], name: str) -> None:
    """Raises ValueError unless an open_clip model_cfg is of a CoCa that can be searched here."""
    if "multimodal_cfg" not in config:
        raise ValueError(f"{name} is no CoCa: its config has no multimodal_cfg; `coca_ViT-B-32` is one")
    if "hf_model_name" in config["text_cfg"]:
        raise ValueError(
            f"{name}: its texts go through {config['text_cfg']['hf_model_name']}, expected open_clip's own tower"
        )


def fetch_coca(folder: Path, name: str, pretrained: str) -> None:
    """Write open_clip's CoCa `name`, with the weights of a tag or a file, into `folder`. ValueError if there is none.

    pretrained: "" for random weights.
    """
    import open_clip

    config = open_clip.get_model_config(name)
    if config is None:
        near = [one for one in open_clip.list_models() if one.startswith("coca")]
        raise ValueError(f"coca.model: open_clip has no {name!r}; its CoCas: {', '.join(near)}")
    refuse_others(config, name)
    if not pretrained:
        coca = random_coca(config, Words(None))
    else:
        tags = open_clip.list_pretrained_tags_by_model(name)
        if pretrained not in tags and not Path(pretrained).is_file():
            raise ValueError(
                f"coca.pretrained: {pretrained!r} is neither a file nor a tag of {name}; its tags: {', '.join(tags)}"
            )
        model: Any = open_clip.create_model(name, pretrained, require_pretrained=True, weights_only=True)
        coca = Coca(model.eval(), Words(None), Preprocess(model.visual.preprocess_cfg))
    save_coca(folder, config, coca)


def digest(folder: Path) -> str:
    """SHA-256 (hex) of the CoCa: config, weights and words."""
    total = hashlib.sha256()
    for name in (CONFIG_FILE, WEIGHTS_FILE, WORDS_FILE):
        if (folder / name).is_file():
            with (folder / name).open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
