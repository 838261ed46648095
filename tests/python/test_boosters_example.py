"""examples/boosters.py: a small run, the order of its students, and its refusals."""

import re
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "boosters.py"


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(EXAMPLE), *arguments], capture_output=True, text=True, timeout=300
    )


def test_a_small_run():
    result = run("--teacher-rounds", "12", "--rounds", "5")
    assert result.returncode == 0, result.stderr
    lines = re.findall(r"^(.+?) +([\d.]+)% +[\d.]+ +[\d.]+% +[\d.]+ +[\d.]+$", result.stdout, re.M)
    accuracy = {name: float(value) for name, value in lines}
    assert len(accuracy) == 9
    for kind in ("LightGBM", "XGBoost"):
        more = accuracy[f"{kind}, + teacher, 5,500 more rows"]
        # These differences are several times those between seeds.
        assert accuracy[f"{kind}, 500 labels"] + 5 < more < accuracy["the teacher itself"]


def test_a_number_of_labels_that_does_not_fit_is_refused():
    result = run("--labels", "9")
    assert result.returncode == 2
    assert result.stderr == "boosters.py: error: --labels must be in [26, 6000], not 9\n"
