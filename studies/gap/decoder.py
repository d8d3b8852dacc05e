"""What the gap costs: a decoder trained on embeddings of texts alone, used on those of pictures.

Reads data/pictures/, models/encoder, models/decoder and studies/gap/params.yaml (decoder). Writes
metrics/gap/decoder.json: `facts` and CIDEr on held-out pictures, of prefixes made of the text's own embedding, of the
picture's, and of the picture's after the shift and after standardisation, both fitted on training pictures.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.backbones.small_training import minimise, reproducible
from pipeline.dataset.shapes.grammar import facts_right
from pipeline.device import choose_device
from pipeline.features.encoder import load_encoder
from pipeline.features.text_tower import embed_texts
from pipeline.language.beam import beam_search
from pipeline.language.decoder import load_decoder, tokenize
from pipeline.params import load_params
from pipeline.scoring.gap import unit
from pipeline.scoring.scorer import Scorer
from pipeline.scoring.table import write_json
from stages import run
from studies.gap.pictures import read_pictures
from studies.gap.settings import ENCODER, METRICS, DecoderParams, load_study

DECODER = Path("models/decoder")
IGNORED = -100
BATCH = 64


class Prefixed(nn.Module):
    """A linear layer from an embedding [B, E] to P tokens before a causal language model."""

    def __init__(self, decoder: Any, width: int, tokens: int) -> None:
        super().__init__()
        self.decoder, self.tokens = decoder, tokens
        self.linear = nn.Linear(width, tokens * decoder.get_input_embeddings().embedding_dim)

    def prefixes(self, embeddings: Tensor) -> Tensor:
        """[B, P, D]"""
        return self.linear(embeddings).unflatten(1, (self.tokens, -1))

    def loss(self, embeddings: Tensor, captions: Sequence[list[int]]) -> Tensor:
        longest = max(map(len, captions))
        tokens = torch.tensor([[*row, *[0] * (longest - len(row))] for row in captions], device=embeddings.device)
        labels = torch.tensor([[*row, *[IGNORED] * (longest - len(row))] for row in captions], device=embeddings.device)
        before = torch.cat([self.prefixes(embeddings), self.decoder.get_input_embeddings()(tokens[:, :-1])], dim=1)
        logits = self.decoder(inputs_embeds=before, use_cache=False).logits[:, self.tokens - 1 :]
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


def main() -> None:
    params, options = load_params(), load_study().decoder
    device = choose_device(params.device)
    train, held_out = read_pictures("train"), read_pictures("val")
    encoder = load_encoder(ENCODER, device=device, dtype=torch.float32)
    images = {
        split: unit(encoder.embed([p.jpeg for p in some], batch_size=BATCH).astype(np.float64))
        for split, some in {"train": train, "val": held_out}.items()
    }
    captions = [(i, caption) for i, picture in enumerate(train) for caption in picture.captions]
    texts = unit(embed_texts(ENCODER, [caption for _, caption in captions], params.device).astype(np.float64))
    own = unit(embed_texts(ENCODER, [picture.captions[0] for picture in held_out], params.device).astype(np.float64))
    model, tokenizer, loss = fit(texts, [caption for _, caption in captions], options, params.seed, device)

    x, y = images["train"], texts
    deviations = y.std(0) / np.maximum(x.std(0), 1e-9)
    given = {
        "texts": own,
        "pictures": images["val"],
        "pictures, shifted": unit(images["val"] - x.mean(0) + y.mean(0)),
        "pictures, standardised": unit((images["val"] - x.mean(0)) * deviations + y.mean(0)),
    }
    references = {str(i): list(picture.captions) for i, picture in enumerate(held_out)}
    results: dict[str, Any] = {}
    with Scorer(tokenizer=params.evaluate.tokenizer) as scorer:
        for name, rows in given.items():
            written = write(model, tokenizer, rows, options, device)
            right = [facts_right(text, references[id]) for id, text in written.items()]
            judged = [one for one in right if one is not None]
            scores = scorer.score(written, references).corpus
            results[name] = {"CIDEr": round(scores["CIDEr"], 4), "examples": dict(list(written.items())[:5])}
            if judged:
                results[name]["facts"] = round(100 * sum(judged) / len(judged), 4)
            shown = "  ".join(f"{key} {value:.1f}" for key, value in results[name].items() if key != "examples")
            print(f"decoder: trained on texts, given {name:<23} {shown}", flush=True)
    write_json(METRICS / "decoder.json", {"loss": round(loss, 4), "pictures": len(held_out), "given": results})


def fit(
    texts: NDArray[np.float64], captions: Sequence[str], options: DecoderParams, seed: int, device: torch.device
) -> tuple[Prefixed, Any, float]:
    """Decoder and layer, trained to give back the caption whose embedding they see."""
    decoder, tokenizer = load_decoder(DECODER)
    rows, ids = torch.tensor(texts, dtype=torch.float32), tokenize(tokenizer, captions, options.max_tokens)
    with reproducible(seed):
        model = Prefixed(decoder, rows.shape[1], options.prefix_tokens).to(device)
        generator = torch.Generator().manual_seed(seed)

        def loss() -> Tensor:
            chosen = torch.randint(len(ids), (options.batch,), generator=generator)
            return model.loss(rows[chosen].to(device), [ids[i] for i in chosen.tolist()])

        final = minimise(model, loss, options.steps, options.learning_rate, name="decoder")
    return model.eval(), tokenizer, final


@torch.inference_mode()
def write(
    model: Prefixed, tokenizer: Any, rows: NDArray[np.float64], options: DecoderParams, device: torch.device
) -> dict[str, str]:
    """A caption for each embedding [n, E], by its number."""
    texts: list[str] = []
    for at in range(0, len(rows), BATCH):
        prefixes = model.prefixes(torch.tensor(rows[at : at + BATCH], dtype=torch.float32, device=device))
        search = {"beams": options.beams, "max_tokens": options.max_tokens, "length_penalty": 1.0}
        found = beam_search(model.decoder, prefixes, end=tokenizer.eos_token_id, **search)  # type: ignore[arg-type]
        texts += [" ".join(tokenizer.decode(ids).split()) for ids in found]
    return {str(i): text for i, text in enumerate(texts)}


if __name__ == "__main__":
    run(kept=None)
