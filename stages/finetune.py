"""Fine-tune the pretrained captioner on videos, with a memory of earlier frames or without.

Reads data/videos/segments.parquet, data/videos/embeddings/, models/decoder/, models/pretrained/ and the sections
memory, baseline, lora, finetune and seed of params.yaml. Writes models/finetuned/, including statistics of its training
videos (pipeline/captioner/familiarity.py), and the curves in metrics/finetune/.
"""

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import torch

from pipeline.baselines import BaselineConfig
from pipeline.captioner import familiarity
from pipeline.captioner.distant import DistantTraining
from pipeline.captioner.memory import MemoryConfig
from pipeline.captioner.model import load_captioner, load_config
from pipeline.captioner.sequences import make_examples
from pipeline.captioner.training import train_and_save
from pipeline.dataset.segments import from_table
from pipeline.device import choose_device, choose_dtype, keep_freed_memory
from pipeline.features.embeddings import read_embeddings
from pipeline.language.decoder import refuse_too_long
from pipeline.params import Params, load_params
from pipeline.training.loop import unfinished
from stages import EPOCHS, run

SEGMENTS = Path("data/videos/segments.parquet")
EMBEDDINGS = Path("data/videos/embeddings")
DECODER = Path("models/decoder")
PRETRAINED = Path("models/pretrained")
OUT = Path("models/finetuned")
CURVES = Path("metrics/finetune")


def main() -> None:
    keep_freed_memory()
    print(finetune(load_params(), OUT, CURVES))


def finetune(params: Params, out: Path, curves: Path, pretrained: Path = PRETRAINED, sparse: int | None = None) -> str:
    """Fine-tune and write the captioner and its curves; returns the stage's closing line.

    Args:
        pretrained: the folder of the captioner to start from.
        sparse: of an ablation: a memory that may look at so many evenly spaced frames only (`make_examples`).
    """
    segments = from_table(pq.read_table(SEGMENTS))
    refuse_too_long(DECODER, *params.longest_row())
    inputs = [SEGMENTS, EMBEDDINGS, DECODER, pretrained]
    settings = (params.memory, params.baseline, params.lora, params.finetune, params.seed, sparse)
    with unfinished("finetune", Path(__file__), settings, inputs) as work:
        videos = read_embeddings(EMBEDDINGS, (segment.video_id for segment in segments), work / "embeddings")

        memory = MemoryConfig.of(params.memory)
        baseline = None if memory else BaselineConfig(**params.baseline.model_dump())
        config = replace(load_config(pretrained), memory=memory, baseline=baseline)
        dtype = choose_dtype(params.finetune.precision, choose_device(params.device))
        torch.manual_seed(params.seed)
        captioner, tokenizer = load_captioner(pretrained, DECODER, config, dtype=dtype)

        examples = make_examples(segments, videos, scope=config.scope, sparse=sparse)
        line = train_and_save(
            captioner,
            tokenizer,
            examples,
            params,
            "finetune",
            work=work,
            folder=out,
            curves=curves,
            distant=DistantTraining.of(params.memory),
        )
        familiarity.save(out / familiarity.FILE, familiarity.of_segments(segments, videos))
        return line


if __name__ == "__main__":
    run(kept=EPOCHS)
