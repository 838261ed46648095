"""Warns before training if a teacher does not agree with the labels better than by chance."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .._arrays import Array, warn
from .rows import take

ROWS = 4096  # at most this many labelled rows are compared, evenly spaced
BLOCK_ELEMENTS = 2**20  # logits in memory at once
ELEMENTS = 2**26  # at most this many logits are read


def warn_of_misfit(name: str, teacher: Any, known: Array, rows: Array) -> None:
    r"""Warn if this teacher's predictions do not match the labels, or match only when permuted.

    Of n labelled rows, a_c have the label c, and for b_c the teacher's most probable class is c. If
    the teacher's rows were shuffled, a row would agree with its label with the probability

    .. math:: p = \sum_c \frac{a_c}{n} \frac{b_c}{n}

    and the number of agreements K would be binomial, B(n, p). K is "no larger than by chance" if
    P(B(n, p) >= K) > 0.05. The teacher does not match the labels

    - if K is smaller than by chance: P(B(n, p) <= K) < 0.001;
    - if K is no larger than by chance although n is large enough: with a weak teacher, whose rows
      agree with the probability p + 0.3 (1 - p), K would be that small with a probability < 0.001
      (from 27 rows for ten balanced classes, 240 for two);
    - if K is no larger than by chance, and with the rows in reverse order the agreement would have
      a probability < 1e-6 by chance;
    - if a permutation of the columns agrees much better. The permutation maps each column to the
      most frequent label of the rows where that column is the largest. If G rows then agree that
      did not, and L no longer do, it must hold that P(B(G + L, 1/2) >= G) < 0.001 / C!, or, if K is
      no larger than by chance, that P(B(n, p) >= K + G - L) < 0.001 / C!.

    Nothing can be said if all labels are of one class, or the teacher predicts one class for all.
    With few labels, only the last two rules can apply.

    Parameters
    ----------
    name : str
        The name of the teacher in messages.
    teacher : (N, C) array
        Its logits, of which at most some thousands of rows are read.
    known : (N,) array of int
        The label of each row, < 0 if there is none.
    rows : (n,) array of int
        Sorted indices of the rows in use.
    """
    classes = int(teacher.shape[1])
    labelled = rows[known[rows] >= 0]
    limit = min(ROWS, max(64, ELEMENTS // classes))
    if len(labelled) > limit:
        labelled = labelled[np.linspace(0, len(labelled) - 1, limit).astype(np.intp)]
    predicted = _top_classes(teacher, labelled)
    labelled, predicted = labelled[predicted >= 0], predicted[predicted >= 0]
    labels, n = known[labelled], len(labelled)
    if n == 0 or (labels == labels[0]).all() or (predicted == predicted[0]).all():
        return
    agree = int((labels == predicted).sum())
    chance = _chance(labels, predicted)
    at_least, at_most = _tails(n, chance)
    by_chance = at_least[agree] > 0.05
    message = (
        f"{name} agrees with {agree:,} of {n:,} labels, where chance would give {chance * n:,.0f}"
    )
    order = _permutation(labels, predicted)
    if order is not None:
        moved = order[predicted]
        gained = int(((moved == labels) & (predicted != labels)).sum())
        lost = int(((moved != labels) & (predicted == labels)).sum())
        level = math.log(1e-3) - math.lgamma(classes + 1)
        clear = _log_tail(gained + lost, 0.5, gained) < level or (
            by_chance and _log_tail(n, chance, agree + gained - lost) < level
        )
        if clear:
            pairs = [f"{c} as {d}" for c, d in enumerate(order.tolist()) if c != d][:10]
            warn(
                f"{message}; with its columns permuted it would agree with "
                f"{agree + gained - lost:,}: reading column {', '.join(pairs)}. "
                "Put the teacher's columns into the order of the classes"
            )
            return
    if by_chance or at_most[agree] < 1e-3:
        reversed_rows = len(known) - 1 - labelled[::-1]
        other = _top_classes(teacher, reversed_rows)[::-1]
        in_reverse = int((labels == other).sum())
        if in_reverse > agree and _log_tail(n, _chance(labels, other), in_reverse) < math.log(1e-6):
            warn(
                f"{message}; with its rows in reverse order it would agree with {in_reverse:,}. "
                "Put the teacher's rows into the order of X"
            )
        elif at_most[agree] < 1e-3 or _is_enough(n, chance, at_least):
            warn(
                f"{message}: its rows may be in another order than those of X, or its columns in "
                "another order than the classes"
            )


def _chance(labels: Array, predicted: Array) -> float:
    """The expected share of agreements if the rows of one were shuffled."""
    count = int(max(labels.max(), predicted.max())) + 1
    a, b = (np.bincount(z[z >= 0], minlength=count) / len(z) for z in (labels, predicted))
    return min(1.0, float(a @ b))


def _permutation(labels: Array, predicted: Array) -> Array | None:
    """The most frequent label for each predicted class, if these labels differ, else None."""
    classes = np.union1d(labels, predicted)
    counts = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(counts, (np.searchsorted(classes, predicted), np.searchsorted(classes, labels)), 1)
    own, best = counts.diagonal(), counts.argmax(axis=1)
    best = np.where(counts.max(axis=1) > own, best, np.arange(len(classes)))
    occurs = counts.any(axis=1)
    if len(np.unique(best[occurs])) < occurs.sum() or (best == np.arange(len(classes))).all():
        return None
    order = np.arange(int(classes[-1]) + 1)
    order[classes[occurs]] = classes[best[occurs]]
    return order


def _top_classes(teacher: Any, rows: Array) -> Array:
    """The most probable class of each of these sorted rows, -1 for a row with NaN."""
    size = max(1, BLOCK_ELEMENTS // int(teacher.shape[1]))
    result = np.empty(len(rows), np.int64)
    for start in range(0, len(rows), size):
        block = take(teacher, rows[start : start + size], np.dtype(np.float64))
        top = block.argmax(axis=1)
        result[start : start + size] = np.where(np.isnan(block).any(axis=1), -1, top)
    return result


def _log_pmf(n: int, p: float) -> Array:
    """The logarithms of the binomial probabilities of 0 to n successes."""
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    k = np.arange(n + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        powers = np.where(k > 0, k * np.log(p), 0) + np.where(k < n, (n - k) * np.log1p(-p), 0)
    return np.asarray(logs[-1] - logs - logs[::-1] + powers)


def _tails(n: int, p: float) -> tuple[Array, Array]:
    """P(B(n, p) >= k) and P(B(n, p) <= k) for k from 0 to n."""
    pmf = np.exp(_log_pmf(n, p))
    return pmf[::-1].cumsum()[::-1], pmf.cumsum()


def _log_tail(n: int, p: float, k: int) -> float:
    """Log P(B(n, p) >= k)."""
    logs = _log_pmf(n, p)[k:]
    largest = float(logs.max())
    if largest == -math.inf:
        return largest
    return largest + math.log(float(np.exp(logs - largest).sum()))


def _is_enough(n: int, chance: float, at_least: Array) -> bool:
    """Whether n labels are enough to tell a weak teacher from chance."""
    needed = np.flatnonzero(at_least <= 0.05)  # agreements that are better than chance
    if not len(needed):
        return False
    _, at_most = _tails(n, chance + 0.3 * (1 - chance))
    return bool(at_most[needed[0] - 1] < 1e-3)
