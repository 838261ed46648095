"""alpha and tau chosen by scikit-learn's GridSearchCV, with a teacher's logits for all rows.

A neural network has learnt digits from rows of its own. A linear student gets its outputs
for 600 other rows, of which 60 have a label:

    python examples/grid_search.py
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import sklearn
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neural_network import MLPClassifier

from kdloss.metrics import expected_calibration_error, negative_log_likelihood
from kdloss.sklearn import DistilledClassifier

ROWS = 600  # for the teacher, and as many for the student; the rest is held out
LABELS = 60
UNLABELLED = -1
GRID = {"alpha": [0.2, 0.5, 0.8], "tau": [1.0, 2.0, 4.0, 8.0]}


def labelled_nll(model: DistilledClassifier, X: np.ndarray, y: np.ndarray) -> float:
    """Minus the negative log-likelihood of the rows that have a label."""
    known = y != UNLABELLED
    return -negative_log_likelihood(model.predict_proba(X[known]), y[known])


def run(seed: int) -> list[tuple[str, float, float, float]]:
    """Return a line for each model: its name, accuracy, NLL and calibration error."""
    X, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))
    X, y = X[order] / 16, y[order]
    teacher = MLPClassifier((100,), max_iter=1000, random_state=seed).fit(X[:ROWS], y[:ROWS])
    rows, new = slice(ROWS, 2 * ROWS), slice(2 * ROWS, None)
    logits = teacher.predict_log_proba(X[rows])
    few = y[rows].copy()
    few[LABELS:] = UNLABELLED

    with sklearn.config_context(enable_metadata_routing=True):
        student = DistilledClassifier(unlabelled=UNLABELLED, classes=range(10))
        search = GridSearchCV(
            student.set_fit_request(teacher_logits=True),
            GRID,
            scoring=labelled_nll,
            cv=KFold(3, shuffle=True, random_state=seed),
        )
        search.fit(X[rows], few, teacher_logits=logits)
    print(f"chosen: {search.best_params_}")
    models = {
        f"{LABELS} labels": DistilledClassifier(alpha=1).fit(X[rows][:LABELS], few[:LABELS]),
        f"{LABELS} labels, teacher, defaults": student.fit(X[rows], few, teacher_logits=logits),
        f"{LABELS} labels, teacher, searched": search.best_estimator_,
        f"all {ROWS} labels": DistilledClassifier(alpha=1).fit(X[rows], y[rows]),
    }
    lines = []
    for name, model in models.items():
        p = model.predict_proba(X[new])
        scores = negative_log_likelihood(p, y[new]), expected_calibration_error(p, y[new])
        lines.append((name, model.score(X[new], y[new]), *scores))
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table: the mean over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="runs, each with its own rows (3)")
    options = parser.parse_args(arguments)
    runs = [run(seed) for seed in range(options.seeds)]
    print("| trained on | accuracy, % | NLL | calibration error, % |\n|---|---|---|---|")
    for lines in zip(*runs, strict=True):
        accuracy, nll, ece = np.mean([line[1:] for line in lines], axis=0)
        print(f"| {lines[0][0]} | {100 * accuracy:.1f} | {nll:.3f} | {100 * ece:.1f} |")


if __name__ == "__main__":
    main()
