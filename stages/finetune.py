"""Fine-tune the pretrained captioner on videos, with a memory of earlier frames or without.

Reads data/activitynet/segments.parquet, data/activitynet/embeddings/, models/decoder/, models/pretrained/ and the
sections memory, lora, finetune and seed of params.yaml. Writes models/finetuned/ and the curves in metrics/finetune/.
"""

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import torch

from pipeline.annotations import from_table
from pipeline.captioner import load_captioner, load_config
from pipeline.device import keep_freed_memory
from pipeline.embeddings import read_embeddings
from pipeline.memory import MemoryConfig
from pipeline.params import Params, load_params
from pipeline.sequences import make_examples
from pipeline.training import train_and_save, unfinished
from stages import run

SEGMENTS = Path("data/activitynet/segments.parquet")
EMBEDDINGS = Path("data/activitynet/embeddings")
DECODER = Path("models/decoder")
PRETRAINED = Path("models/pretrained")
OUT = Path("models/finetuned")
CURVES = Path("metrics/finetune")


def main() -> None:
    keep_freed_memory()
    print(finetune(load_params(), OUT, CURVES))


def finetune(params: Params, out: Path, curves: Path, pretrained: Path = PRETRAINED) -> str:
    """Fine-tune as `params` say and write the captioner and its curves; returns the stage's closing line.

    Args:
        pretrained: the folder of the captioner to begin with.
    """
    segments = from_table(pq.read_table(SEGMENTS))
    inputs = [SEGMENTS, EMBEDDINGS, DECODER, pretrained]
    work = unfinished("finetune", Path(__file__), (params.memory, params.lora, params.finetune, params.seed), inputs)
    videos = read_embeddings(EMBEDDINGS, (segment.video_id for segment in segments), work / "embeddings")

    memory = MemoryConfig(**params.memory.model_dump(exclude={"enabled"})) if params.memory.enabled else None
    baseline_frame = None if memory else params.finetune.baseline_frame
    config = replace(load_config(pretrained), memory=memory, baseline_frame=baseline_frame)
    torch.manual_seed(params.seed)
    captioner, tokenizer = load_captioner(pretrained, DECODER, config)

    examples = make_examples(segments, videos, scope=memory.scope if memory else None, baseline_frame=baseline_frame)
    return train_and_save(
        captioner,
        tokenizer,
        examples,
        params.finetune,
        params.lora,
        seed=params.seed,
        device=params.device,
        name="finetune",
        work=work,
        folder=out,
        curves=curves,
    )


if __name__ == "__main__":
    run()
