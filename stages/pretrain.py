"""Pretrain the mapper on pictures.

Reads data/coco/segments.parquet, data/coco/embeddings/, models/decoder/ and the sections mapper, lora, pretrain
and seed of params.yaml. Writes models/pretrained/ and the curves in metrics/pretrain/.
"""

from pathlib import Path

import pyarrow.parquet as pq
import torch

from pipeline.annotations import from_table
from pipeline.captioner import CaptionerConfig, build_captioner
from pipeline.decoder import load_decoder
from pipeline.device import keep_freed_memory
from pipeline.embeddings import embedding_width, read_embeddings
from pipeline.mapper import MapperConfig
from pipeline.params import Params, load_params
from pipeline.sequences import make_examples
from pipeline.training import train_and_save, unfinished
from stages import run

SEGMENTS = Path("data/coco/segments.parquet")
EMBEDDINGS = Path("data/coco/embeddings")
DECODER = Path("models/decoder")
OUT = Path("models/pretrained")
CURVES = Path("metrics/pretrain")


def main() -> None:
    keep_freed_memory()
    print(pretrain(load_params(), OUT, CURVES))


def pretrain(params: Params, out: Path, curves: Path) -> str:
    """Pretrain as `params` say and write the captioner and its curves; returns the stage's closing line."""
    segments = from_table(pq.read_table(SEGMENTS))
    inputs = [SEGMENTS, EMBEDDINGS, DECODER]
    work = unfinished("pretrain", Path(__file__), (params.mapper, params.lora, params.pretrain, params.seed), inputs)
    videos = read_embeddings(EMBEDDINGS, (segment.video_id for segment in segments), work / "embeddings")
    decoder, tokenizer = load_decoder(DECODER)

    config = CaptionerConfig(
        mapper=MapperConfig(
            **params.mapper.model_dump(),
            embedding_width=embedding_width(videos),
            decoder_width=decoder.get_input_embeddings().embedding_dim,
        ),
        memory=None,
        baseline_frame="last",  # pictures have one
    )
    torch.manual_seed(params.seed)
    captioner = build_captioner(config, decoder)

    examples = make_examples(segments, videos, scope=None, baseline_frame=config.baseline_frame)
    return train_and_save(
        captioner,
        tokenizer,
        examples,
        params.pretrain,
        params.lora,
        seed=params.seed,
        device=params.device,
        name="pretrain",
        work=work,
        folder=out,
        curves=curves,
    )


if __name__ == "__main__":
    run()
