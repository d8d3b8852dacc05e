"""The README's figures are those of the files that they are of."""

import json
import subprocess
from io import StringIO

import pandas as pd
import pytest

from docs.figures import BEGIN, CORPUS, END, README, figures
from pipeline.scoring.markdown import insert
from studies.ablation.settings import load_ablation
from studies.ablation.table import RESULTS


def committed(path) -> str:
    """As the last commit has it: whoever ran the pipeline again may have other scores beside the same README."""
    found = subprocess.run(["git", "show", f"HEAD:{path}"], capture_output=True, text=True)
    if found.returncode:
        pytest.skip(f"no {path} in git's last commit")
    return found.stdout


def test_the_readme_has_the_figures_of_the_committed_scores(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(committed(README))
    scores = pd.read_csv(StringIO(committed(RESULTS)))
    insert(readme, figures(scores, json.loads(committed(CORPUS)), load_ablation()), BEGIN, END)
    assert readme.read_text() == committed(README)
