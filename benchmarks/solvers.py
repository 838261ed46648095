"""The linear student's two solvers beside scikit-learn's LogisticRegression: scores and time.

``python -m benchmarks.solvers`` from the root of the source tree; README.md tells more.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .threads import fix_threads

L2 = 1e-3
TAU = 4.0


class Task(NamedTuple):
    """Standardized rows to learn from, with a teacher's logits, and rows to measure on."""

    X: Any
    y: Any
    T: Any
    X_new: Any
    y_new: Any


def task(name: str) -> Task:
    """Digits (1,000 rows of 64 features), or 20,000 made rows of 50 features; ten classes."""
    import numpy as np
    from sklearn.datasets import load_digits, make_classification
    from sklearn.neural_network import MLPClassifier
    from sklearn.preprocessing import StandardScaler

    if name == "digits":
        (X, y), rows = load_digits(return_X_y=True), 1000
    else:
        rows = 20000
        X, y = make_classification(
            2 * rows, 50, n_informative=20, n_classes=10, class_sep=2, random_state=0
        )
    order = np.random.default_rng(0).permutation(len(X))
    X, y = X[order], y[order]
    X = StandardScaler().fit(X[:rows]).transform(X)
    teacher = MLPClassifier((200,), max_iter=30, random_state=0).fit(X[:rows], y[:rows])
    logits = teacher.predict_log_proba(X[:rows])
    return Task(X[:rows], y[:rows], logits, X[rows:], y[rows:])


def fits(data: Task, alpha: float) -> dict[str, Callable[[], Any]]:
    """Bind the trainings that are compared at this alpha; each returns weights and bias."""
    from sklearn.linear_model import LogisticRegression

    from kdloss import LinearStudent

    def student(**settings: Any) -> Callable[[], Any]:
        def fit() -> Any:
            its = LinearStudent(alpha=alpha, tau=TAU, **settings).fit(data.X, data.y, data.T)
            return its.weights, its.bias

        return fit

    def regression() -> Any:
        its = LogisticRegression(C=1 / (len(data.X) * L2), max_iter=1000).fit(data.X, data.y)
        return its.coef_.T, its.intercept_

    calls = {
        "sgd, its defaults": student(),
        "sgd, momentum 0.9, cosine": student(momentum=0.9, schedule="cosine"),
        "lbfgs": student(solver="lbfgs"),
        f"lbfgs, l2 {L2:g}": student(solver="lbfgs", l2=L2),
    }
    return calls | ({"LogisticRegression": regression} if alpha == 1 else {})


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table for each task."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.solvers", description=__doc__)
    parser.add_argument("--tasks", default="digits,made", help="digits, made or both")
    parser.add_argument("--rounds", type=int, default=5, help="times each training is timed (5)")
    parser.add_argument("--threads", type=int, default=2, help="threads (2)")
    options = parser.parse_args(arguments)
    fix_threads(options.threads)

    import kdloss

    warnings.simplefilter("ignore")  # the teacher stops early
    for name in options.tasks.split(","):
        data = task(name)
        print(f"\n| {name}: {len(data.X):,} x {data.X.shape[1]} | alpha | ms | loss | ", end="")
        print("accuracy, % | NLL |\n|---|---:|---:|---:|---:|---:|")
        for alpha in (1.0, 0.5):
            calls = fits(data, alpha)
            times: dict[str, list[float]] = {one: [] for one in calls}
            found = {}
            for _ in range(options.rounds):  # interleaved
                for one, fit in calls.items():
                    start = time.perf_counter()
                    found[one] = fit()
                    times[one].append(time.perf_counter() - start)
            for one, (W, b) in found.items():
                S, S_new = data.X @ W + b, data.X_new @ W + b
                loss = kdloss.kd_loss_batch(S, data.T, data.y, alpha=alpha, tau=TAU)
                nll = kdloss.kd_loss_batch(S_new, None, data.y_new, alpha=1.0)
                right = 100 * (S_new.argmax(axis=1) == data.y_new).mean()
                ms = 1e3 * statistics.median(times[one])
                print(f"| {one} | {alpha:g} | {ms:,.0f} | {loss:.4f} | {right:.1f} | {nll:.4f} |")


if __name__ == "__main__":
    main()
