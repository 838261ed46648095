"""examples/recipes.py: its rows, its noise, and a run with few seeds as a child process."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "recipes.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLE), *arguments], capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def recipes() -> ModuleType:
    spec = importlib.util.spec_from_file_location("recipes", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_row_has_two_parts(recipes):
    data, again, other = (recipes.digits(seed) for seed in (0, 0, 1))
    parts = np.concatenate([data.teachers, data.student, data.test])
    assert sorted(parts) == list(range(len(data.y)))
    assert [len(part) for part in data[2:5]] == [600, 697, 500]
    assert (again.student == data.student).all()
    assert set(other.test) != set(data.test)


def test_few_labels_are_few(recipes):
    data = recipes.digits(0)
    labels = data.few_labels()
    assert (labels[:50] == data.y[data.student[:50]]).all()
    assert (labels[50:] == -1).all()


def test_a_run_with_two_seeds():
    result = run("--seeds", "2")
    assert result.returncode == 0, result.stderr
    assert "500 held-out rows; mean ± standard deviation over 2 seeds" in result.stdout
    lines = re.findall(r"^(.+?) +([\d.]+) ± [\d.]+ +([\d.]+) ± [\d.]+$", result.stdout, re.M)
    accuracy = {name: float(value) for name, value, _ in lines}
    nll = {name: float(value) for name, _, value in lines}
    assert len(lines) == 16
    # With two seeds only differences of several standard deviations are certain.
    for worse, better in (
        ("50 labels", "+ teacher, same rows"),
        ("+ teacher, same rows", "+ teacher, 647 more rows"),
        ("noisy labels alone", "+ teacher, alpha 0.5 x its entropy"),
        ("student of one teacher", "student of the 3 as an ensemble"),
    ):
        assert accuracy[worse] < accuracy[better]
        assert nll[worse] > nll[better]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--seeds", "0"), "--seeds must be at least 1, not 0"),
        (("--seeds", "ten"), "argument --seeds: invalid int value: 'ten'"),
    ],
)
def test_a_bad_argument_is_one_line(recipes, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        recipes.main(arguments)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"recipes.py: error: {message}"
