"""Caption the segments of all splits with the main pipeline's captioner, for models that read captions.

Reads what the stage caption reads. Writes studies/questions/captions/: SPLIT/, what that stage writes, and cost.json,
what a caption costs. A model that trains on captions of training videos sees better ones than it will: the captioner
has seen these videos too.
"""

import json
from pathlib import Path

from pipeline.captioner.cost import costed, measure
from pipeline.device import keep_freed_memory
from pipeline.files.aside import aside, write_text
from pipeline.params import Params, load_params
from stages import caption, run
from studies.questions.settings import CAPTION_COST, CAPTIONS

SPLITS = ("train", "val", "test")


def main() -> None:
    keep_freed_memory()
    params = load_params()
    with aside(CAPTIONS) as written:
        for split in SPLITS:
            own = params.model_copy(update={"caption": params.caption.model_copy(update={"split": split})})
            folder = Path(written, split)
            folder.mkdir(parents=True)
            print(caption.caption(own, caption.FINETUNED, folder / "captions.parquet"), flush=True)
        write_text(written / CAPTION_COST.name, json.dumps({"gflop": gflop(own)}) + "\n")


def gflop(params: Params) -> float:
    """Of a caption of the split that the params name, from stored embeddings on."""
    captioner, tokenizer, segments, examples = caption.prepare(params, caption.FINETUNED)
    chosen = costed(one.video_id for one in segments)
    some = [one for one in examples if one.targets[0].segment.video_id in chosen]
    return measure(captioner, tokenizer, some, **params.caption.model_dump(exclude={"split", "precision"})).gflop


if __name__ == "__main__":
    run(kept=None)
