"""Train one captioner to compare: `python -m studies.long.train NAME`.

Reads studies/long/params.yaml and what the stage finetune reads. Writes studies/long/models/NAME/, as finetune does.
"""

import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import stages
from pipeline.files.aside import write_text
from studies.long.settings import MODELS, TRAINING, load_long, params_of


def main(name: str) -> None:
    from stages.finetune import finetune

    long = load_long()
    params = params_of(long, name)
    started = time.process_time()
    with TemporaryDirectory() as curves:
        print(f"{name}: {finetune(params, MODELS / name, Path(curves) / 'curves')}")
    write_text(MODELS / name / TRAINING, json.dumps({"cpu_s": round(time.process_time() - started)}) + "\n")


if __name__ == "__main__":
    stages.run(kept=stages.EPOCHS, takes="captioner")
