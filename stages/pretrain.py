"""Pretrain the mapper on pictures.

Reads data/pictures/segments.parquet, data/pictures/embeddings/, models/decoder/ and the sections mapper, lora, pretrain
and seed of params.yaml. Writes models/pretrained/ and the curves in metrics/pretrain/.
"""

from pathlib import Path

import pyarrow.parquet as pq
import torch

from pipeline.baselines import LAST
from pipeline.captioner.mapper import MapperConfig
from pipeline.captioner.model import CaptionerConfig, build_captioner
from pipeline.captioner.sequences import make_examples
from pipeline.captioner.training import train_and_save
from pipeline.dataset.segments import from_table
from pipeline.device import choose_device, choose_dtype, keep_freed_memory
from pipeline.features.embeddings import embedding_width, read_embeddings
from pipeline.language.decoder import load_decoder, refuse_too_long
from pipeline.params import Params, load_params
from pipeline.training.loop import unfinished
from stages import EPOCHS, run

SEGMENTS = Path("data/pictures/segments.parquet")
EMBEDDINGS = Path("data/pictures/embeddings")
DECODER = Path("models/decoder")
OUT = Path("models/pretrained")
CURVES = Path("metrics/pretrain")


def main() -> None:
    keep_freed_memory()
    print(pretrain(load_params(), OUT, CURVES))


def pretrain(params: Params, out: Path, curves: Path) -> str:
    """Pretrain and write the captioner and its curves; returns the stage's closing line."""
    segments = from_table(pq.read_table(SEGMENTS))
    refuse_too_long(DECODER, *params.longest_row())
    inputs = [SEGMENTS, EMBEDDINGS, DECODER]
    settings = (params.mapper, params.lora, params.pretrain, params.seed)
    with unfinished("pretrain", Path(__file__), settings, inputs) as work:
        videos = read_embeddings(EMBEDDINGS, (segment.video_id for segment in segments), work / "embeddings")
        dtype = choose_dtype(params.pretrain.precision, choose_device(params.device))
        decoder, tokenizer = load_decoder(DECODER, dtype=dtype)

        config = CaptionerConfig(
            mapper=MapperConfig(
                **params.mapper.model_dump(),
                embedding_width=embedding_width(videos),
                decoder_width=decoder.get_input_embeddings().embedding_dim,
            ),
            memory=None,
            baseline=LAST,  # pictures have one frame
        )
        torch.manual_seed(params.seed)
        captioner = build_captioner(config, decoder)

        examples = make_examples(segments, videos, scope=config.scope)
        return train_and_save(
            captioner,
            tokenizer,
            examples,
            params,
            "pretrain",
            work=work,
            folder=out,
            curves=curves,
        )


if __name__ == "__main__":
    run(kept=EPOCHS)
