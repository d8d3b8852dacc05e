"""Caption the segments of all splits with the main pipeline's captioner, for models that read captions.

Reads what the stage caption reads. Writes studies/questions/captions/SPLIT/: what that stage writes. A model that
trains on captions of training videos sees better ones than it will: the captioner has seen these videos too.
"""

from pathlib import Path

from pipeline.device import keep_freed_memory
from pipeline.files.aside import aside
from pipeline.params import load_params
from stages import caption, run
from studies.questions.settings import CAPTIONS

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


if __name__ == "__main__":
    run(kept=None)
