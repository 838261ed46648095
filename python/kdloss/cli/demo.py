"""`kdloss demo`: a linear student with few labels, alone and with a teacher, on real digits."""

import argparse
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import metrics, plots
from ..trainer import LinearStudent
from . import console
from .output import new_file

CLASSES, POOL_ROWS, TEST_ROWS = 10, 1297, 500  # of scikit-learn's digits
# The same for every way; alpha and tau are the package's defaults.
ALPHA, TAU = 0.5, 4.0
BUDGET: dict[str, Any] = {"epochs": 50, "batch_size": 32, "learning_rate": 0.1, "momentum": 0.9}
SCORES = {  # by heading: the score, the factor to its unit, the digits to show
    "accuracy, %": (metrics.accuracy, 100, 1),
    "NLL, nats": (metrics.negative_log_likelihood, 1, 3),
    "Brier score": (metrics.brier_score, 1, 3),
    "calibration\nerror, %": (metrics.expected_calibration_error, 100, 1),
}


def add_parser(commands: Any) -> None:
    """Describe the command's arguments."""
    parser = commands.add_parser(
        "demo",
        **console.help_page(
            "see what a teacher is worth, on real digits",
            "Train linear students on handwritten digits with few labels: from the labels alone, "
            "with a teacher (a neural network trained on all labels) on the same rows, and with "
            "the teacher on many rows more; beside them, as the ceiling, all labels and the "
            "teacher itself. Prints scores on held-out rows and draws a picture.",
            "Needs the extra: pip install 'kdloss[demo]'.",
            example="kdloss demo --labels 50 --seeds 5 --out demo.png",
        ),
    )
    parser.add_argument(
        "--labels", type=int, default=50, metavar="N", help="labelled rows (default: %(default)s)"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=5,
        metavar="N",
        help="repetitions, each with its own rows and teacher (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        default="demo.png",
        metavar="FILE",
        help="the picture, a name in .png, .pdf or .svg (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Repeat the comparison for each seed; draw the picture and print the table."""
    if not CLASSES <= args.labels <= POOL_ROWS - CLASSES:
        bounds = f"[{CLASSES}, {POOL_ROWS - CLASSES}]"
        raise ValueError(f"--labels must be in {bounds}, not {args.labels}")
    if args.seeds < 1:
        raise ValueError(f"--seeds must be at least 1, not {args.seeds}")
    with new_file(args.out, (".png", ".pdf", ".svg")) as partial:
        try:
            import matplotlib  # noqa: F401
            import rich  # noqa: F401
            import sklearn  # type: ignore[import-untyped]  # noqa: F401
        except ImportError as error:
            raise ImportError(f"demo needs {error.name}: pip install 'kdloss[demo]'") from error
        models: dict[str, list[plots.Model]] = {}
        with console.progress("training", 5 * args.seeds) as advance:
            for seed in range(args.seeds):
                for way, model in _compare(args.labels, seed):
                    models.setdefault(way, []).append(model)
                    advance(1)
        title = (
            f"Handwritten digits, {TEST_ROWS} held-out rows: a linear student with {args.labels} "
            "labels, and what a teacher adds"
        )
        plots.comparison(models, title).savefig(partial)

    _print_table(models)
    steps = BUDGET["epochs"] * math.ceil(POOL_ROWS / BUDGET["batch_size"])
    print(
        f"Seeds: {args.seeds}; mean ± standard deviation, on {TEST_ROWS} held-out rows each.\n"
        f"Every student: {steps:,} steps of {BUDGET['batch_size']} rows, learning rate "
        f"{BUDGET['learning_rate']}, momentum {BUDGET['momentum']}.\n"
        f"With the teacher: alpha {ALPHA:g}, tau {TAU:g}; the rows beyond the {args.labels} "
        "labelled ones\nhave the teacher's logits alone.\n"
        f"Picture: {args.out}"
    )


def _compare(n_labels: int, seed: int) -> Iterator[tuple[str, plots.Model]]:
    """Yield a student of each way and the teacher, on rows and with weights drawn with the seed."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]
    from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]
    from sklearn.neural_network import MLPClassifier  # type: ignore[import-untyped]
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    X, y = load_digits(return_X_y=True)  # (N, D) grey levels 0 to 16, (N,) classes
    X /= 16
    pool, test = train_test_split(
        np.arange(len(y)), test_size=TEST_ROWS, stratify=y, random_state=seed
    )
    few, _ = train_test_split(pool, train_size=n_labels, stratify=y[pool], random_state=seed)
    with threadpool_limits(1):  # BLAS threads cost such small matrices more than they give
        teacher = MLPClassifier(max_iter=500, random_state=seed).fit(X[pool], y[pool])
    teacher_logits = teacher.predict_log_proba(X)  # log-probabilities are logits

    some_labels = np.full_like(y, metrics.UNLABELLED)
    some_labels[few] = y[few]
    # Repeated up to the pool's size: an epoch then has the same number of steps in every way.
    repeated = np.resize(few, len(pool))
    ways = {
        f"{n_labels} labels": (repeated, y, 1.0),
        "+ teacher, same rows": (repeated, y, ALPHA),
        f"+ teacher, {len(pool) - n_labels:,} more rows": (pool, some_labels, ALPHA),
        f"all {len(pool):,} labels": (pool, y, 1.0),
    }
    for way, (rows, labels, alpha) in ways.items():
        student = LinearStudent(alpha=alpha, tau=TAU, seed=seed, **BUDGET)
        student.fit(
            X[rows],
            labels[rows],
            teacher_logits[rows],
            validation=(X[test], y[test], teacher_logits[test]),
        )
        yield way, plots.Model(student.history, student.predict_proba(X[test]), y[test])
    yield "the teacher", plots.Model([], np.exp(teacher_logits[test]), y[test])


def _print_table(models: dict[str, list[plots.Model]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("trained on", no_wrap=True)
    for heading in SCORES:
        table.add_column(heading, justify="right", no_wrap=True)
    for way, repetitions in models.items():
        cells = []
        for score, factor, digits in SCORES.values():
            values = factor * np.array([score(m.probabilities, m.labels) for m in repetitions])
            cells.append(console.plus_minus(values.mean(), float(console.spread(values)), digits))
        table.add_row(way, *cells)
    Console().print(table)
