"""Measure whether distillation helps on your data: compare students with and without a teacher.

For each of several seeds, a part of the labelled rows is held out, and a few others keep their
label. The same student is then trained four times with the same budget: on the few labels; on the
few labels and the teacher's outputs for the same rows; on these and the teacher's outputs for all
other training rows; and, as an upper bound, on all labels. All are scored on the held-out rows.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ._arrays import Array
from ._comparison_students import STUDENTS as STUDENTS
from ._comparison_students import Lesson, LightGBM, Linear, Student, Trained, XGBoost
from ._students import Targets
from .losses import Divergence
from .metrics import SCORES, UNLABELLED
from .plots import Model
from .softmax import softmax_temp

__all__ = [
    "SCORES",
    "Comparison",
    "Cost",
    "LightGBM",
    "Linear",
    "Split",
    "Verdict",
    "XGBoost",
    "compare",
    "draw_split",
    "judge",
]

HELD_OUT = 0.25
LABELLED = 0.1
LEVEL = 0.05  # a gain with a smaller p value counts
CHANCE_LEVEL = 0.01  # with a larger p value, a teacher may agree with the labels by chance
ALONE, SAME, MORE, ALL, TEACHER = "labels", "same_rows", "more_rows", "all_labels", "teacher"


class Split(NamedTuple):
    """The rows of one seed, as arrays of row indices.

    Attributes
    ----------
    seed : int
        The seed that they were drawn with.
    few : array of int
        Training rows that keep their label.
    pool : array of int
        All training rows, with and without a label.
    held_out : array of int
        Labelled rows on which the students are scored.
    """

    seed: int
    few: Array
    pool: Array
    held_out: Array


class Cost(NamedTuple):
    """The cost of a model; None means unknown.

    Attributes
    ----------
    seconds : float or None
        Prediction time per row, when all held-out rows are predicted at once.
    size : float or None
        Size of its file in bytes.
    """

    seconds: float | None
    size: float | None


class Verdict(NamedTuple):
    """Whether the teacher helped.

    Attributes
    ----------
    outcome : {"helped", "did not help", "cannot tell"}
        The verdict.
    sentence : str
        The verdict with the metric, the difference, its spread and p.
    gain, spread : float
        By how much the teacher lowers the NLL: mean and standard deviation over the seeds.
    p : float
        The p value of the gain; NaN for one seed.
    """

    outcome: str
    sentence: str
    gain: float
    spread: float
    p: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The result of `compare`.

    Attributes
    ----------
    names : dict of str
        A description of each way to train. The keys are "labels", "same_rows", "more_rows",
        "all_labels" (unless that is the same as "labels") and "teacher", the teacher itself.
    models : dict of list of `kdloss.plots.Model`
        The predictions of each way for the held-out rows, one for each seed.
    costs : dict of Cost
        Prediction time and size of each way, means over the seeds.
    splits : list of Split
        The rows of each seed.
    budget : str
        A description of the length of each training.
    """

    names: dict[str, str]
    models: dict[str, list[Model]]
    costs: dict[str, Cost]
    splits: list[Split]
    budget: str

    def scores(self, name: str) -> dict[str, Array]:
        """Return a score of `SCORES` for each way, as an array (seeds,)."""
        return {
            way: np.array([SCORES[name](m.probabilities, m.labels) for m in models])
            for way, models in self.models.items()
        }

    def verdict(self) -> Verdict:
        """Return whether the teacher on all rows helped the students of a few labels.

        The rules are those of `judge`, with one exception. A teacher that agrees with the held-out
        labels no better than by chance (p > 0.01), and whose student is not clearly more accurate,
        did not help: at most, it made its student less confident.
        """
        nll, accuracy = self.scores("nll"), self.scores("accuracy")
        ratio = len(self.splits[0].held_out) / len(self.splits[0].pool)
        more_right = accuracy[MORE] - accuracy[ALONE]
        found = judge(nll[ALONE] - nll[MORE], more_right, ratio, self.names[ALONE])
        labels = np.concatenate([model.labels for model in self.models[TEACHER]])
        predicted = np.concatenate([m.probabilities.argmax(axis=1) for m in self.models[TEACHER]])
        agrees_by_chance = _agrees_by_chance(labels, predicted, len(self.splits))
        if agrees_by_chance and not _is_clear(*_test(more_right, ratio)):
            share = float((labels == predicted).mean())
            sentence = (
                f"Distilling did not help: the teacher is right in {share:.1%} of the held-out "
                f"rows, no better than by chance. Its student's NLL is {_difference(found)}."
            )
            return found._replace(outcome="did not help", sentence=sentence)
        return found


def compare(
    X: npt.ArrayLike,
    labels: npt.ArrayLike,
    teacher_logits: npt.ArrayLike | Callable[[Split], npt.ArrayLike],
    *,
    student: Student | None = None,
    labelled: float | None = None,
    held_out: float = HELD_OUT,
    seeds: int = 5,
    seed: int = 0,
    alpha: float = 0.5,
    tau: float = 4.0,
    divergence: Divergence = "kl",
    beta: float = 0.5,
    teacher_cost: Callable[[], Cost] | None = None,
    progress: Callable[[], object] | None = None,
) -> Comparison:
    """Train students with and without the teacher, and score them on held-out rows.

    Parameters
    ----------
    X : (N, D) array of numbers
        Features.
    labels : (N,) array of integers
        Classes in [0, C); -1 for a row without a label, which only the teacher labels; -100 for a
        row to leave out.
    teacher_logits : (N, C) array of floats, or callable
        The teacher's logits for all rows; or a function that gets a seed's `Split`, trains a
        teacher on it and returns them.
    student : Linear, LightGBM or XGBoost, optional
        The student to train; by default ``Linear()``.
    labelled : int or float, optional
        How many training rows keep their label: a number, or a share below 1. By default a tenth;
        all if more rows of `labels` are unlabelled than labelled.
    held_out : float
        The share of the labelled rows that is held out.
    seeds, seed : int
        The number of repetitions, and the seed of the first. Each draws the held-out and the
        labelled rows anew, with the classes in proportion.
    alpha, tau, divergence, beta
        The loss of the students with a teacher, as in `kdloss.kd_loss_batch`.
    teacher_cost : callable, optional
        Called at the end; returns the `Cost` of the teacher.
    progress : callable, optional
        Called after each epoch, or round, of each training: four times ``units`` for each seed.

    Returns
    -------
    Comparison
        Predictions, scores and the verdict.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range, or if there are too few rows.
    FloatingPointError
        If a training diverges.

    Examples
    --------
    >>> import numpy as np
    >>> from kdloss.comparison import Linear, compare
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(600, 8))
    >>> T = 2 * X @ rng.normal(size=(8, 3))
    >>> y = np.array([rng.choice(3, p=p) for p in np.exp(T) / np.exp(T).sum(axis=1)[:, None]])
    >>> found = compare(X, y, T, student=Linear(epochs=10), labelled=30)
    >>> found.names["more_rows"], found.verdict().outcome
    ('+ teacher, 420 more rows', 'helped')
    """
    student = Linear() if student is None else student
    X, labels = np.asarray(X), np.asarray(labels)
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}, expected at least 1")
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels is {labels.dtype} of shape {labels.shape}, expected integers of shape (rows,)"
        )
    if X.ndim != 2 or len(X) != len(labels):
        raise ValueError(f"X has shape {X.shape}, expected ({len(labels)}, features)")
    splits = [
        draw_split(labels, labelled=labelled, held_out=held_out, seed=seed + k)
        for k in range(seeds)
    ]
    loss = {"tau": tau, "divergence": divergence, "beta": beta}
    models: dict[str, list[Model]] = {}
    costs: dict[str, list[Cost]] = {}
    for split in splits:
        found = teacher_logits(split) if callable(teacher_logits) else teacher_logits
        teacher = np.asarray(found)
        if teacher.ndim != 2 or len(teacher) != len(labels):
            raise ValueError(
                f"teacher_logits has shape {teacher.shape}, expected ({len(labels)}, classes)"
            )
        rows = X[split.held_out], labels[split.held_out]
        for way, lesson in _lessons(split, X, labels, teacher, alpha, loss).items():
            trained = student.train(lesson, progress or (lambda: None))
            probabilities, seconds = _timed(trained, rows[0])
            models.setdefault(way, []).append(Model(trained.history, probabilities, rows[1]))
            costs.setdefault(way, []).append(Cost(seconds, trained.size))
        probabilities = softmax_temp(teacher[split.held_out].astype(np.float64))
        models.setdefault(TEACHER, []).append(Model([], probabilities, rows[1]))
    mean = {
        way: Cost(*(float(np.mean(values)) for values in zip(*given, strict=True)))
        for way, given in costs.items()
    }
    mean[TEACHER] = Cost(None, None) if teacher_cost is None else teacher_cost()
    first = splits[0]
    names = _names(labels, first)
    return Comparison(
        {way: names[way] for way in models}, models, mean, splits, student.budget(len(first.pool))
    )


def trainings(labels: Array, split: Split) -> int:
    """Return how many students each seed trains: four, or three if all labelled rows are `few`."""
    return 3 if len(split.few) == int((labels[split.pool] >= 0).sum()) else 4


def draw_split(
    labels: Array, *, labelled: float | None = None, held_out: float = HELD_OUT, seed: int = 0
) -> Split:
    """Draw held-out rows and rows that keep their label, with the classes in proportion.

    Parameters, errors and defaults are those of `compare`. Each class that occurs has at least one
    row in both; the other rows are drawn in proportion to the classes' frequencies.

    Examples
    --------
    >>> import numpy as np
    >>> from kdloss.comparison import draw_split
    >>> split = draw_split(np.arange(100) % 2, labelled=10, seed=0)
    >>> len(split.few), len(split.pool), len(split.held_out)
    (10, 75, 25)
    """
    rng = np.random.default_rng(seed)
    known, unknown = np.flatnonzero(labels >= 0), np.flatnonzero(labels == UNLABELLED)
    classes = len(np.unique(labels[known]))
    if not 0 < held_out < 1:
        raise ValueError(f"held_out is {held_out}, expected a share in (0, 1)")
    if classes < 2:
        raise ValueError(f"labels have {classes} classes, expected at least 2")
    count = round(held_out * len(known))
    if not classes <= count <= len(known) - classes:
        raise ValueError(
            f"held_out={held_out:g} of {len(known)} rows with a label gives {count} held-out "
            f"and {len(known) - count} training rows, expected at least {classes} of both, one for "
            "each class that occurs"
        )
    test = _in_proportion(known, labels, count, rng)
    rest = np.setdiff1d(known, test)
    if labelled is None:
        labelled = len(rest) if len(unknown) > len(known) else max(LABELLED * len(rest), classes)
    count = round(labelled * len(rest)) if labelled < 1 else round(labelled)
    most = len(rest) if len(unknown) else len(rest) - 1
    if not classes <= count <= most:
        raise ValueError(
            f"labelled={labelled:g} means {count} of {len(rest)} training rows with a label, "
            f"expected from {classes}, one for each class that occurs, to {most}"
            + ("" if len(unknown) else ", so that the teacher has more rows to add")
        )
    few = _in_proportion(rest, labels, count, rng)
    return Split(seed, few, np.sort(np.concatenate([rest, unknown])), test)


def judge(
    gain: npt.ArrayLike, accuracy_gain: npt.ArrayLike, ratio: float, than: str = "the labels"
) -> Verdict:
    r"""Judge gains over seeds by the corrected paired t-test.

    .. math:: t = \bar d \, \bigg/ \sqrt{\left(\frac1J + r\right) s^2}

    with the mean and the variance s^2 of the J seeds' differences d in NLL, J - 1 degrees of
    freedom, and r the number of held-out rows divided by that of training rows. (The seeds' rows
    overlap, so the plain test, with r = 0, finds effects that are not there.) A difference is
    clear if p < 0.05 and its mean is larger than its standard deviation. The teacher helped if the
    NLL is clearly lower and the mean accuracy is no lower. It did not help if the NLL is clearly
    higher, or the NLL clearly lower but the accuracy clearly lower too. Otherwise the seeds cannot
    tell.

    Parameters
    ----------
    gain : (J,) array
        How much lower each seed's NLL is with the teacher.
    accuracy_gain : (J,) array
        How much higher each seed's accuracy is.
    ratio : float
        The number of held-out rows divided by that of training rows.
    than : str
        The name of the baseline.

    References
    ----------
    Nadeau, Bengio 2003, Inference for the generalization error, Machine Learning 52.

    Examples
    --------
    >>> from kdloss.comparison import judge
    >>> found = judge([0.4, 0.5, 0.45, 0.35, 0.5], [0.1] * 5, 1 / 3)
    >>> found.outcome, round(found.p, 4)
    ('helped', 0.0008)
    """
    gain, accuracy_gain = np.asarray(gain, np.float64), np.asarray(accuracy_gain, np.float64)
    mean, spread, p = _test(gain, ratio)
    lower = f"accuracy is {100 * abs(accuracy_gain.mean()):.1f} points lower"
    verdict = Verdict("cannot tell", "", mean, spread, p)
    seeds = f"{len(gain)} seeds" if len(gain) > 1 else "one seed"
    numbers = (
        f"with the teacher on all rows the held-out NLL is {_difference(verdict)} than with "
        f"{than} alone (mean ± standard deviation of {seeds}; p = {p:.2g}, corrected paired t-test)"
    )
    if len(gain) == 1 or not np.isfinite(gain).all():
        why = (
            "one seed shows no spread; give more" if len(gain) == 1 else "a likelihood is infinite"
        )
        sentence = f"Cannot tell whether distilling helped: {why}."
        return verdict._replace(sentence=sentence)
    clear = _is_clear(mean, spread, p) or _is_clear(-mean, spread, p)
    if clear and mean > 0 and accuracy_gain.mean() >= 0:
        return verdict._replace(outcome="helped", sentence=f"Distilling helped: {numbers}.")
    if clear and mean < 0:
        return verdict._replace(
            outcome="did not help", sentence=f"Distilling did not help: {numbers}."
        )
    if clear:
        loss, loss_spread, loss_p = _test(-accuracy_gain, ratio)
        if _is_clear(loss, loss_spread, loss_p):
            sentence = f"Distilling did not help: {numbers}, but the {lower} (p = {loss_p:.2g})."
            return verdict._replace(outcome="did not help", sentence=sentence)
        numbers += f", but the {lower}"
    else:
        reason = "no more than the seeds differ" if abs(mean) <= spread else "too few seeds"
        numbers += f": {reason}"
    return verdict._replace(sentence=f"Cannot tell whether distilling helped: {numbers}.")


def _test(gain: Array, ratio: float) -> tuple[float, float, float]:
    """Return the mean, the standard deviation, and the p of the two-sided corrected t-test."""
    if len(gain) == 1:
        return float(gain[0]), math.nan, math.nan
    try:
        from scipy.stats import t as student_t  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError("a comparison needs scipy: pip install 'kdloss[compare]'") from error
    with np.errstate(invalid="ignore", divide="ignore"):  # for infinite NLLs, and no spread
        mean, spread = gain.mean(), gain.std(ddof=1)
        t = np.abs(mean) / (spread * np.sqrt(1 / len(gain) + ratio)) if mean else 0.0
    return float(mean), float(spread), float(2 * student_t.sf(t, len(gain) - 1))


def _is_clear(gain: float, spread: float, p: float) -> bool:
    return p < LEVEL and gain > spread


def _difference(verdict: Verdict) -> str:
    spread = "" if math.isnan(verdict.spread) else f" ± {verdict.spread:.3f}"
    way = "lower" if verdict.gain > 0 else "higher"
    return f"{abs(verdict.gain):.3f}{spread} nats {way}"


def _agrees_by_chance(labels: Array, predicted: Array, seeds: int) -> bool:
    """Whether a teacher agrees with the labels no more often than if its rows were shuffled.

    The number of agreements is then binomial, with the probability sum_c a_c b_c, where a_c and b_c
    are the shares of class c among the labels and among the predictions. The seeds may hold out
    the same rows, so n is the number of rows of one seed. A teacher that predicts one class for all
    rows cannot be judged.
    """
    from scipy.stats import binom

    if len(np.unique(predicted)) == 1:
        return False
    n, classes = len(labels) // seeds, int(max(labels.max(), predicted.max())) + 1
    a, b = (np.bincount(z, minlength=classes) / len(z) for z in (labels, predicted))
    chance = float(a @ b)
    agree = round(float((labels == predicted).mean()) * n)
    return bool(binom.sf(agree - 1, n, chance) > CHANCE_LEVEL)


def _in_proportion(rows: Array, labels: Array, count: int, rng: np.random.Generator) -> Array:
    """Draw rows with the classes in proportion, beginning with one of each."""
    rows = rng.permutation(rows)
    rows = rows[np.argsort(labels[rows], kind="stable")]
    _, start, size = np.unique(labels[rows], return_index=True, return_counts=True)
    rank = np.arange(len(rows)) - np.repeat(start, size)
    # Row k of a class of n rows gets a random place in (k/n, (k+1)/n); the first places are drawn.
    place = (rank + rng.random(len(rows))) / np.repeat(size, size)
    place[rank == 0] -= 1
    return np.asarray(rows[np.argsort(place)[:count]])


def _lessons(
    split: Split, X: Array, labels: Array, teacher: Array, alpha: float, loss: dict[str, Any]
) -> dict[str, Lesson]:
    """The training data of each way to train."""
    _, few, pool, test = split
    known = pool[labels[pool] >= 0]
    deviation = X[pool].std(axis=0)
    scale = X[pool].mean(axis=0), np.where(deviation > 0, deviation, 1)
    few_labels = np.full_like(labels, UNLABELLED)
    few_labels[few] = labels[few]

    def lesson(rows: Array, visible: Array, *, taught: bool) -> Lesson:
        return Lesson(
            X[rows],
            Targets(
                visible[rows],
                teacher[rows] if taught else None,
                None,
                teacher.shape[1],
                alpha if taught else 1.0,
                loss,
            ),
            len(pool),
            (X[test], labels[test], teacher[test] if taught else None),
            scale,
            split.seed,
        )

    lessons = {
        ALONE: lesson(few, labels, taught=False),
        SAME: lesson(few, labels, taught=True),
        MORE: lesson(pool, few_labels, taught=True),
    }
    if len(known) > len(few):
        lessons[ALL] = lesson(known, labels, taught=False)
    return lessons


def _names(labels: Array, split: Split) -> dict[str, str]:
    few, pool = len(split.few), len(split.pool)
    return {
        ALONE: f"{few:,} labels",
        SAME: "+ teacher, same rows",
        MORE: f"+ teacher, {pool - few:,} more rows",
        ALL: f"all {int((labels[split.pool] >= 0).sum()):,} labels",
        TEACHER: "the teacher itself",
    }


def _timed(trained: Trained, X: Array) -> tuple[Array, float]:
    """Return the probabilities, and the seconds per row, the shortest of three runs."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        probabilities = trained.predict(X)
        seconds.append(time.perf_counter() - start)
    return probabilities.astype(np.float64), min(seconds) / len(X)
