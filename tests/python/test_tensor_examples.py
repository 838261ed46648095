"""The examples that use kdloss.torch and kdloss.jax, small, as child processes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tolerances import FLOAT32_TRAINING

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(example, *arguments, **environment):
    return subprocess.run(
        [sys.executable, str(EXAMPLES / example), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


def numbers(result):
    """The first number after each name of a table."""
    assert result.returncode == 0, result.stderr
    return {
        name.strip(): float(x) for name, x in re.findall(r"^(.+?) +([\d.]+) ±", result.stdout, re.M)
    }


def test_torch_digits():
    found = numbers(run("torch_digits.py", "--seeds", "1", "--epochs", "30"))
    assert len(found) == 6
    more, teacher = found["+ teacher, 597 more rows"], found["the teacher itself"]
    assert found["100 labels"] < more < teacher + 2


def test_jax_digits():
    result = run("jax_digits.py", "--seeds", "1", "--epochs", "30")
    alone, more, teacher = numbers(result).values()
    assert alone < more < teacher + 2
    assert re.search(r"hard \d.*soft \d", result.stdout)


def test_torch_characters():
    alone, distilled, teacher = numbers(
        run("torch_characters.py", "--seeds", "1", "--epochs", "25")
    ).values()
    assert teacher < min(alone, distilled)
    assert max(alone, distilled) < 6.5  # bits per character of random guesses


def test_two_processes_train_as_one():
    result = run("torch_ddp.py", "--steps", "4")
    assert result.returncode == 0, result.stderr
    apart = float(re.search(r"one process and two: (\S+)", result.stdout)[1])
    assert apart < FLOAT32_TRAINING


@pytest.mark.parametrize("package", ["torch", "jax"])
def test_a_missing_package_is_one_line_that_names_the_extra(tmp_path, package):
    (tmp_path / f"{package}.py").write_text(f"raise ImportError(\"No module named '{package}'\")")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    result = run(f"{package}_digits.py", PYTHONPATH=path)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"{package}_digits.py: error: No module named '{package}'; pip install")
    assert f"kdloss[examples,{package}]" in line
