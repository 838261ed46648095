"""The benchmarks run on tiny batches, without the peers that are slow to import."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kdloss

ROOT = Path(__file__).parents[2]
CONFIG = kdloss.show_config()
AVX2 = "x86-64-v3"


def run(folder: Path, module: str, *arguments: str) -> tuple[str, Any]:
    """Run a benchmark in a process in which numba cannot be imported; return its text and JSON."""
    blocked = folder / "blocked"
    blocked.mkdir()
    (blocked / "numba.py").write_text("raise ImportError('numba is blocked')")
    path = os.pathsep.join([str(blocked), *filter(None, [os.environ.get("PYTHONPATH")])])
    out = folder / "out"
    done = subprocess.run(
        [sys.executable, "-m", module, "--threads", "1", "--out", str(out), *arguments],
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (record,) = out.glob("*.json")
    return done.stdout, json.loads(record.read_text())


def test_speed(tmp_path: Path) -> None:
    text, record = run(
        tmp_path,
        "benchmarks",
        *("--peers", "kdloss,numpy,numba", "--shapes", "2x3,5x4", "--budget", "0.01"),
    )
    assert record["missing"] == {"numba": "ImportError: numba is blocked"}
    assert "Missing: numba (ImportError: numba is blocked)" in text
    assert record["left out"] == {}
    measured = {(tuple(r["shape"]), r["dtype"], r["mode"], r["name"]) for r in record["results"]}
    names = {
        "kdloss",
        "kdloss near the teacher",
        "kdloss far from it",
        "numpy",
        "numpy.add",
    }
    assert measured == {
        (shape, dtype, mode, name)
        for shape in ((2, 3), (5, 4))
        for dtype in ("float32", "float64")
        for mode in ("loss", "loss and gradient")
        for name in names
    }
    assert all(r["times"]["median"] > 0 and r["times"]["rounds"] >= 3 for r in record["results"])
    assert record["small call"]["ratio"] > 0
    assert (tmp_path / "out" / "speed.png").stat().st_size > 0
    assert (tmp_path / "out" / "speed.md").read_text().strip() == text.strip()


@pytest.mark.parametrize("arguments", [(), ("--avx2",)][: 1 + (AVX2 in CONFIG["available_isas"])])
def test_speed_says_which_instruction_set_ran(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    isa = AVX2 if arguments else CONFIG["isa"]
    text, record = run(
        tmp_path,
        "benchmarks",
        *("--peers", "kdloss", "--shapes", "2x3", "--dtypes", "float32", "--budget", "0.01"),
        *arguments,
    )
    assert record["machine"]["kdloss.show_config()"]["isa"] == isa
    assert record["AVX2 only"] == ("AVX2 only" in text) == bool(arguments)


def test_a_peer_that_computes_something_else_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.peers import numpy_
    from benchmarks.speed import measure

    def at_another_tau(student: Any, teacher: Any, labels: Any, alpha: float, tau: float, out: Any):
        return numpy_()(student, teacher, labels, alpha, tau + 1, out)

    results, left_out = measure((4, 5), "float32", {"wrong": at_another_tau, "numpy": numpy_()}, 0)
    assert left_out.keys() == {"wrong"}
    assert left_out["wrong"].startswith("ArithmeticError: its loss is off by")
    assert {result.name for result in results} == {"numpy", "numpy.add"}


def test_orders_change_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.timing import rotations

    orders = [order for order, _ in zip(rotations(["a", "b", "c"]), range(3), strict=False)]
    assert orders == [["a", "b", "c"], ["a", "c", "b"], ["c", "a", "b"]]


def test_exactness(tmp_path: Path) -> None:
    text, record = run(tmp_path, "benchmarks.exactness", "--peers", "kdloss,numpy,numba")
    assert record["missing"] == {"numba": "ImportError: numba is blocked"}
    assert "| float32 | hard loss | soft loss | hard gradient | soft gradient |" in text
    hard = next(errors for title, errors in record["errors"].items() if "kd_hard_cases" in title)
    assert len(hard["kdloss"]) == 84 * 4
    for dtype in ("float32", "float64"):
        worst, negative = {}, {}
        for name, errors in hard.items():
            mine = [error for error in errors if error["dtype"] == dtype]
            worst[name] = max(error["worst"] for error in mine if error["part"] == "soft")
            negative[name] = sum(error["negative"] for error in mine)
        assert worst["kdloss"] < 1 < worst["numpy"]
        assert negative["kdloss"] == 0 < negative["numpy"]


def test_relative_errors_below_the_smallest_normal_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.exactness import relative_errors

    losses = relative_errors(np.array([3.0, 0.5]), np.array([2.0, 0.0]), 0.25)
    assert losses.tolist() == [0.5, 2.0]
    gradients = relative_errors(np.array([[3.0, -8.0]]), np.array([[1.0, -8.0]]), 0.25)
    assert gradients.tolist() == [0.25]


def test_options() -> None:
    arguments = ["--threads", "1", "--shape", "20x3", "--budget", "0.01"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.options", *arguments],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1:4] for line in done.stdout.splitlines()[2:]]
    assert {"plain", "sample_weight", "soft labels", "Hessian"} <= {
        name.strip() for name, *_ in rows
    }
    assert all(float(time) > 0 and float(share) > 0 for _, time, share in rows)


def test_company() -> None:
    arguments = ["--threads", "1", "--shapes", "32x8x3,64x8x3x32", "--budget", "0.2"]
    command = [sys.executable, "-m", "benchmarks.company", *arguments, "--peers"]
    done = subprocess.run(
        [*command, "products alone,kdloss"], check=False, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "| B x D x C | products alone | kdloss |" in done.stdout
    assert "| rows x D x C, batches of B | kdloss |" in done.stdout
    assert "| 64 x 8 x 3, 32 |" in done.stdout
    done = subprocess.run(
        [*command, "pencil"], check=False, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "--peers has pencil, expected some of: products alone, kdloss" in done.stderr


def test_boosting() -> None:
    arguments = ["--threads", "1", "--shapes", "50x3", "--budget", "0.01"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.boosting", *arguments],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for table in done.stdout.split("\n\n"):
        names = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
        assert names == ["XGBoost, 50 x 3", "LightGBM, 50 x 3"]
    assert "constant gradients" in table


def test_divergences() -> None:
    arguments = ["--threads", "1", "--shape", "5x3", "--budget", "0.01"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.divergences", *arguments],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1].strip() for line in done.stdout.splitlines()[2:]]
    assert rows == ["reverse_kl", "js", "tv", "mse"]


def test_tensors() -> None:
    peers = ["kdloss, NumPy", "kdloss.torch", "PyTorch, eager", "kdloss.jax, jit"]
    arguments = ["--threads", "1", "--shapes", "5x3", "--budget", "0.01", "--peers", *peers]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.tensors", *arguments],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1:3] for line in done.stdout.splitlines()[2:]]
    assert [name.strip() for name, _ in rows] == peers
    assert all(float(time) > 0 for _, time in rows)


def test_solvers() -> None:
    arguments = ["--threads", "1", "--tasks", "digits", "--rounds", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.solvers", *arguments],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines()[3:]]
    scores = {(name.strip(), alpha.strip()): scores for name, alpha, _, *scores in rows}
    # The same optimum: loss, accuracy and NLL as they are printed.
    assert scores["lbfgs, l2 0.001", "1"] == scores["LogisticRegression", "1"]
