"""examples/compare.py: a small run as a child process."""

import json
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "compare.py"
SMALL = ("--rows", "1000", "--labelled", "200", "--teacher-rounds", "10", "--seeds", "2")


def test_a_small_run(tmp_path):
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), *SMALL, "--out", "letters"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("kdloss compare --features letters/letters.csv ")
    results = json.loads((tmp_path / "letters/compare/results.json").read_text())
    assert results["rows"] == {"labelled": 200, "training": 750, "held_out": 250}
    assert results["settings"]["student"] == "lightgbm"
    accuracy = {way: sum(found["scores"]["accuracy"]) for way, found in results["ways"].items()}
    assert accuracy["labels"] < accuracy["more_rows"]
    assert "<td>" in (tmp_path / "letters/compare/report.html").read_text()
