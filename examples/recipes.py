"""Three recipes for distilling on scikit-learn's digits, each with what it brings and what not.

1. Few labels and many rows without one: the teacher labels them softly.
2. Noisy labels: each row's alpha says how far to trust its label, by how sure the teacher is.
3. Several teachers, each of which has seen other rows: one student of their mixture.

    python examples/recipes.py

Of 1,797 rows 600 belong to the teachers, 697 to the student, and 500 are held out: no teacher has
seen a row that a student learns from. Students are linear and take the same number of steps.
Settings were fixed beforehand: the package's alpha and tau, the steps of `kdloss demo`.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from kdloss import LinearStudent, ensemble_logits, entropy_temp, metrics, softmax_temp

try:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from sklearn.neural_network import MLPClassifier
    from threadpoolctl import threadpool_limits
except ImportError as error:
    print(f"recipes.py: error: {error}; pip install 'kdloss[examples]'", file=sys.stderr)
    raise SystemExit(2) from None

Array = npt.NDArray[Any]

CLASSES = 10
TEACHER_ROWS, STUDENT_ROWS, TEST_ROWS = 600, 697, 500
ALPHA, TAU = 0.5, 4.0
STEPS: dict[str, Any] = {"epochs": 50, "batch_size": 32, "learning_rate": 0.1, "momentum": 0.9}
FEW = 50  # labels, of the first and the third recipe
NOISE = 0.4  # share of the labels of the second recipe that are wrong
WEAK = 100  # rows that the second recipe's teacher has seen, so that it needs the labels' help
TEACHERS = 3  # of the third recipe: each has seen a third of the teachers' rows


class Digits(NamedTuple):
    """Rows in the order of one seed: those of the teachers, of the student, and held out."""

    X: Array
    y: Array
    teachers: Array
    student: Array
    test: Array
    seed: int

    def teacher(self, rows: Array) -> Array:
        """Logits (N, C), of all rows, of a neural network that has seen these `rows`."""
        network = MLPClassifier(max_iter=500, random_state=self.seed)
        network.fit(self.X[rows], self.y[rows])
        return np.asarray(network.predict_log_proba(self.X))  # log-probabilities are logits

    def learn(self, labels: Array, teacher: Any = None, **options: Any) -> Array:
        """Probabilities of the held-out rows, by a student of its rows' labels and a teacher."""
        alpha = 1.0 if teacher is None else ALPHA
        student = LinearStudent(alpha=alpha, tau=TAU, seed=self.seed, **STEPS)
        if teacher is not None:
            several = isinstance(teacher, list)
            teacher = [t[self.student] for t in teacher] if several else teacher[self.student]
        student.fit(self.X[self.student], labels, teacher, n_classes=CLASSES, **options)
        return student.predict_proba(self.X[self.test])

    def few_labels(self) -> Array:
        """Labels of the student's rows, all but the first FEW of them -1."""
        labels = self.y[self.student].copy()
        labels[FEW:] = -1
        return labels


Result = tuple[str, Array]  # what was learnt from, and probabilities of the held-out rows


def digits(seed: int) -> Digits:
    """Split the rows by class and seed; each part is in random order."""
    X, y = load_digits(return_X_y=True)  # (N, D) grey levels 0 to 16, (N,) classes
    pool, test = train_test_split(
        np.arange(len(y)), test_size=TEST_ROWS, stratify=y, random_state=seed
    )
    teachers, student = train_test_split(
        pool, train_size=TEACHER_ROWS, stratify=y[pool], random_state=seed
    )
    return Digits(X / 16, y, teachers, student, test, seed)


def few_labels(data: Digits) -> Iterator[Result]:
    """Few labels: alone, with a teacher on these rows, and with the teacher on all rows."""
    teacher = data.teacher(data.teachers)
    labels = data.few_labels()
    # Repeated up to the number of all rows: an epoch then has as many steps in every way.
    repeated = data._replace(student=np.resize(data.student[:FEW], STUDENT_ROWS))
    own = data.y[repeated.student]
    yield f"{FEW} labels", repeated.learn(own)
    yield "+ teacher, same rows", repeated.learn(own, teacher)
    yield f"+ teacher, {STUDENT_ROWS - FEW} more rows", data.learn(labels, teacher)
    yield f"all {STUDENT_ROWS} labels", data.learn(data.y[data.student])
    yield "the teacher itself", np.exp(teacher[data.test])


def noisy_labels(data: Digits) -> Iterator[Result]:
    """Labels of which many are wrong: a row's alpha is smaller where the teacher is sure."""
    teacher = data.teacher(data.teachers[:WEAK])
    rng = np.random.default_rng(data.seed)
    wrong = rng.random(STUDENT_ROWS) < NOISE
    shift = np.where(wrong, rng.integers(1, CLASSES, STUDENT_ROWS), 0)
    labels = (data.y[data.student] + shift) % CLASSES

    own = teacher[data.student]
    unsure = entropy_temp(own) / math.log(CLASSES)  # 0 where the teacher is sure, 1 at most
    belief = softmax_temp(own)[np.arange(STUDENT_ROWS), labels]  # the teacher's, in the label
    yield "noisy labels alone", data.learn(labels)
    yield f"+ teacher, alpha {ALPHA:g} in all rows", data.learn(labels, teacher)
    yield (
        f"+ teacher, alpha {ALPHA:g} x its entropy",
        data.learn(labels, teacher, alpha_per_row=ALPHA * unsure),
    )
    yield (
        f"+ teacher, alpha {ALPHA:g} x its belief",
        data.learn(labels, teacher, alpha_per_row=ALPHA * belief),
    )
    yield "teacher alone, alpha 0", data.learn(np.full(STUDENT_ROWS, -1), teacher)
    yield "the teacher itself", np.exp(teacher[data.test])


def several_teachers(data: Digits) -> Iterator[Result]:
    """Teachers that have seen different rows: a student of one, of their mean logits, of all."""
    teachers = [data.teacher(rows) for rows in np.array_split(data.teachers, TEACHERS)]
    labels = data.few_labels()
    yield "student of one teacher", data.learn(labels, teachers[0])
    yield "student of the mean logits", data.learn(labels, np.mean(teachers, axis=0))
    yield f"student of the {TEACHERS} as an ensemble", data.learn(labels, teachers)
    yield "one teacher itself", np.exp(teachers[0][data.test])
    yield (
        "the ensemble itself",
        softmax_temp(ensemble_logits([t[data.test] for t in teachers], tau=1)),
    )


RECIPES: dict[str, Callable[[Digits], Iterator[Result]]] = {
    f"1. {FEW} labels, {STUDENT_ROWS - FEW} rows without": few_labels,
    f"2. {STUDENT_ROWS} labels, {NOISE:.0%} of them wrong; a teacher of {WEAK} rows": noisy_labels,
    f"3. {TEACHERS} teachers, {TEACHER_ROWS // TEACHERS} rows each; {FEW} labels": several_teachers,
}


def mean_and_spread(scores: np.ndarray, digits: int) -> str:
    """Write the mean ± the standard deviation over the seeds, which one seed does not have."""
    mean = f"{scores.mean():.{digits}f}"
    return mean if len(scores) == 1 else f"{mean} ± {scores.std(ddof=1):.{digits}f}"


def print_table(title: str, scores: dict[str, list[tuple[float, float]]]) -> None:
    """Print mean ± standard deviation over the seeds, of accuracies and of likelihoods."""
    print(f"\n{title}\n{'student':36}{'accuracy, %':>14}{'NLL, nats':>16}")
    for name, pairs in scores.items():
        accuracy, nll = np.array(pairs).T
        print(
            f"{name:36}"
            + mean_and_spread(100 * accuracy, 1).rjust(14)
            + mean_and_spread(nll, 3).rjust(16)
        )


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the recipes and print a table for each."""
    parser = Parser(
        prog="recipes.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=5,
        metavar="N",
        help="repetitions, each with its own split, teachers and noise (default: 5)",
    )
    args = parser.parse_args(arguments)
    if args.seeds < 1:
        parser.error(f"--seeds must be at least 1, not {args.seeds}")
    print(f"{TEST_ROWS} held-out rows; mean ± standard deviation over {args.seeds} seeds")
    # Threads cost matrices of this size more than they give.
    with threadpool_limits(1, user_api="blas"):
        for title, recipe in RECIPES.items():
            scores: dict[str, list[tuple[float, float]]] = {}
            for seed in range(args.seeds):
                data = digits(seed)
                labels = data.y[data.test]
                for name, p in recipe(data):
                    pair = metrics.accuracy(p, labels), metrics.negative_log_likelihood(p, labels)
                    scores.setdefault(name, []).append(pair)
            print_table(title, scores)


if __name__ == "__main__":
    main()
