"""Scores of predicted probabilities against labels: accuracy, likelihood, Brier score, calibration.

Every function takes probabilities (N, C) and labels: classes (N,), or soft labels (N, C). Rows
labelled -1 (unlabelled) or -100 (padding) do not count, nor do rows of zeros in soft labels. Rows
may have weights. If no row counts, a score is NaN.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from ._arrays import PADDING as PADDING
from ._arrays import SUM_TOLERANCE, as_array, check_labels, check_soft_labels, check_weights
from ._arrays import UNLABELLED as UNLABELLED

Array = npt.NDArray[Any]

FEW_CLASSES = 32  # with at most this many, finding each row's maximum is faster by columns
BINS = 15  # as in Guo et al. 2017, so that calibration errors compare with published ones


@dataclasses.dataclass(frozen=True, eq=False)
class ReliabilityBins:
    """The data of a reliability diagram: one entry for each bin (0, 1/M], ..., ((M-1)/M, 1].

    Attributes
    ----------
    count : (M,) int64 array
        Labelled rows whose confidence lies in the bin.
    confidence, accuracy : (M,) float64 arrays
        Mean confidence and share of correct predictions of those rows; NaN in an empty bin.
    """

    count: Array
    confidence: Array
    accuracy: Array


def accuracy(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    sample_weight: npt.ArrayLike | None = None,
) -> float:
    """Share of labelled rows whose most probable class is their label.

    Formula: ``mean(argmax_c p[c] == y)``; of equally probable classes the first one is predicted.

    Parameters
    ----------
    probabilities : (N, C) array of floats
        One probability per class; each row sums to 1.
    labels : (N,) array of integers, or (N, C) array of floats
        A class in [0, C), or -1 or -100 for a row that does not count; or soft labels, of which
        the most probable class counts, the first one of equals.
    sample_weight : (N,) array of numbers >= 0, optional
        Each row's weight; one of weight 0 does not count.

    Returns
    -------
    float
        Between 0 and 1; NaN if no row is labelled.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range.

    Examples
    --------
    >>> from kdloss.metrics import accuracy
    >>> accuracy([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]], [0, 1, -1])
    0.5
    """
    p, y, w = _labelled_rows(probabilities, labels, sample_weight)
    return _mean(p.argmax(axis=1) == _classes(y), w)


def negative_log_likelihood(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    sample_weight: npt.ArrayLike | None = None,
) -> float:
    """Mean over labelled rows of -log of the probability given to the label, in nats.

    Formula: ``mean(-log p[y])``, for soft labels ``mean(sum_c -y[c] log p[c])``. A label of
    probability 0 makes it inf. A probability above 1, which the tolerance of a row's sum allows,
    counts as 1.

    Parameters
    ----------
    probabilities : (N, C) array of floats
        One probability per class; each row sums to 1.
    labels : (N,) array of integers, or (N, C) array of floats
        A class in [0, C), or -1 or -100 for a row that does not count; or soft labels, of which
        every class counts by its probability.
    sample_weight : (N,) array of numbers >= 0, optional
        Each row's weight; one of weight 0 does not count.

    Returns
    -------
    float
        Between 0 and inf; NaN if no row is labelled.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range.

    Examples
    --------
    >>> from kdloss.metrics import negative_log_likelihood
    >>> round(negative_log_likelihood([[0.75, 0.25], [0.5, 0.5]], [0, 1]), 6)
    0.490415
    >>> negative_log_likelihood([[1.0, 0.0]], [1])
    inf
    """
    p, y, w = _labelled_rows(probabilities, labels, sample_weight)
    with np.errstate(divide="ignore", invalid="ignore"):  # log 0 = -inf, and 0 * -inf, which is 0
        if y.ndim == 1:
            return _mean(-np.log(_at_most_1(p[np.arange(len(y)), y])), w)
        return _mean(np.where(y > 0, -y * np.log(_at_most_1(p)), 0).sum(axis=1), w)


def brier_score(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    sample_weight: npt.ArrayLike | None = None,
) -> float:
    """Mean over labelled rows of the squared distance between prediction and one-hot label.

    Formula: ``mean(sum_c (p[c] - [c == y])^2)``, with a soft label in place of ``[c == y]``. The
    sum is over all classes, as Brier defined it, so the score lies between 0 and 2. (A common form
    for two classes counts only one of them, and gives half of this.)

    Parameters
    ----------
    probabilities : (N, C) array of floats
        One probability per class; each row sums to 1.
    labels : (N,) array of integers, or (N, C) array of floats
        A class in [0, C), or -1 or -100 for a row that does not count; or soft labels, of which
        the difference counts class by class.
    sample_weight : (N,) array of numbers >= 0, optional
        Each row's weight; one of weight 0 does not count.

    Returns
    -------
    float
        Between 0 and 2; NaN if no row is labelled.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range.

    References
    ----------
    Brier 1950, Verification of forecasts expressed in terms of probability.

    Examples
    --------
    >>> from kdloss.metrics import brier_score
    >>> brier_score([[0.75, 0.25], [0.5, 0.5]], [0, 1])
    0.3125
    """
    p, y, w = _labelled_rows(probabilities, labels, sample_weight)
    return _mean(_squared_distance(p, y), w)


def reliability_bins(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, *, bins: int = BINS
) -> ReliabilityBins:
    """Confidence and accuracy of labelled rows, grouped by confidence: a reliability diagram.

    A row's confidence is its largest probability. Bin m of M holds ``m/M < confidence <= (m+1)/M``.

    Parameters
    ----------
    probabilities : (N, C) array of floats
        One probability per class; each row sums to 1.
    labels : (N,) array of integers, or (N, C) array of floats
        A class in [0, C), or -1 or -100 for a row that does not count; or soft labels, of which
        the most probable class counts, the first one of equals.
    bins : int
        Number M of bins of equal width.

    Returns
    -------
    ReliabilityBins
        ``count``, ``confidence`` and ``accuracy``, each (bins,).

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range.

    Examples
    --------
    >>> from kdloss.metrics import reliability_bins
    >>> found = reliability_bins([[0.75, 0.25], [0.875, 0.125], [0.5, 0.5]], [0, 1, 0], bins=2)
    >>> found.count, found.confidence, found.accuracy
    (array([1, 2]), array([0.5   , 0.8125]), array([1. , 0.5]))
    """
    p, y, _ = _labelled_rows(probabilities, labels)
    count, confidence, correct = _bin_sums(p, y, bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 in an empty bin: NaN, as promised
        return ReliabilityBins(count.astype(np.int64), confidence / count, correct / count)


def expected_calibration_error(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    bins: int = BINS,
    sample_weight: npt.ArrayLike | None = None,
) -> float:
    """Mean gap between confidence and accuracy, over bins of equal width (15, as in Guo et al.).

    Formula: ``sum_m count[m] / N * |accuracy[m] - confidence[m]|`` over the bins of
    `reliability_bins`. Only the most probable class counts.

    Parameters
    ----------
    probabilities : (N, C) array of floats
        One probability per class; each row sums to 1.
    labels : (N,) array of integers, or (N, C) array of floats
        A class in [0, C), or -1 or -100 for a row that does not count; or soft labels, of which
        the most probable class counts, the first one of equals.
    sample_weight : (N,) array of numbers >= 0, optional
        Each row's weight; one of weight 0 does not count.
    bins : int
        Number of bins of equal width.

    Returns
    -------
    float
        Between 0 and 1; NaN if no row is labelled.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range.

    References
    ----------
    Guo, Pleiss, Sun, Weinberger 2017, On calibration of modern neural networks, arXiv:1706.04599.

    Examples
    --------
    >>> from kdloss.metrics import expected_calibration_error
    >>> expected_calibration_error([[0.75, 0.25], [0.75, 0.25]], [0, 1])
    0.25
    """
    p, y, w = _labelled_rows(probabilities, labels, sample_weight)
    return _calibration_error(_bin_sums(p, y, bins, w))


SCORES = {  # by their short names
    "accuracy": accuracy,
    "nll": negative_log_likelihood,
    "brier": brier_score,
    "ece": expected_calibration_error,
}


class MetricSums:
    """Accuracy, Brier score and calibration error of labelled rows, added batch by batch.

    It keeps sums, not rows, and gives the same as the functions of this module for all rows at
    once. The values of the probabilities are not checked, and every row must have a label.

    Examples
    --------
    >>> import numpy as np
    >>> from kdloss.metrics import MetricSums
    >>> sums = MetricSums()
    >>> sums.add(np.array([[0.75, 0.25]]), np.array([0]))
    >>> sums.add(np.array([[0.5, 0.5]]), np.array([1]))
    >>> sums.means()
    {'accuracy': 0.5, 'brier': 0.3125, 'ece': 0.375}
    """

    def __init__(self) -> None:
        self._squared_distance = 0.0
        self._bins = np.zeros((3, BINS))

    @property
    def weight(self) -> float:
        """The sum of the weights so far, without weights the number of rows."""
        return float(self._bins[0].sum())

    def add(self, probabilities: Array, labels: Array, weights: Array | None = None) -> None:
        """Add a batch: probabilities (B, C), labels (B,) in [0, C) or (B, C), weights (B,)."""
        distance = _squared_distance(probabilities, labels)
        self._squared_distance += float((distance if weights is None else distance * weights).sum())
        self._bins += _bin_sums(probabilities, labels, BINS, weights)

    def means(self) -> dict[str, float]:
        """Return accuracy, brier and ece over the rows so far; NaN if there were none."""
        weight = self.weight or float("nan")
        return {
            "accuracy": float(self._bins[2].sum()) / weight,
            "brier": self._squared_distance / weight,
            "ece": _calibration_error(self._bins),
        }


# Below, p is probabilities (N, C), y is labels (N,) or (N, C), and w is weights (N,) or None, of
# labelled rows only.


def _classes(y: Array) -> Array:
    return y if y.ndim == 1 else np.asarray(y.argmax(axis=1))


def _at_most_1(p: Array) -> Array:
    # The tolerance of sums allows probabilities above 1, of which -log is negative.
    return np.minimum(p, 1.0)


def _squared_distance(p: Array, y: Array) -> Array:
    difference = p.astype(np.float64)  # a copy
    if y.ndim == 1:
        difference[np.arange(len(y)), y] -= 1.0
    else:
        difference -= y
    return np.asarray(np.einsum("nc,nc->n", difference, difference))


def _bin_sums(p: Array, y: Array, bins: int, w: Array | None = None) -> Array:
    """Weighted sums per bin (3, bins): of rows, of confidences, of correct predictions."""
    if bins < 1:
        raise ValueError(f"bins is {bins}, expected at least 1")
    confidence, correct = _confidence(p, _classes(y))
    # The first bin whose upper edge is at least the confidence. (confidence * bins could be rounded
    # to the wrong side of an edge.) A confidence above 1, which the tolerance of sums allows,
    # belongs to the last bin.
    edges = np.arange(1, bins) / bins
    index = np.searchsorted(edges, confidence, side="left")
    if w is not None:
        confidence, correct = confidence * w, correct * w
    return np.array(
        [
            np.bincount(index, weights=w, minlength=bins),
            np.bincount(index, weights=confidence, minlength=bins),
            np.bincount(index, weights=correct, minlength=bins),
        ]
    )


def _confidence(p: Array, y: Array) -> tuple[Array, Array]:
    """Each row's largest probability, as float64, and whether its first class is the label."""
    rows = np.arange(len(p))
    if p.shape[1] <= FEW_CLASSES:
        columns = np.ascontiguousarray(p.T)
        largest = columns.max(axis=0)
        if np.count_nonzero(columns == largest) == len(p):  # no ties
            return largest.astype(np.float64), p[rows, y] == largest
    predicted = p.argmax(axis=1)
    return p[rows, predicted].astype(np.float64), predicted == y


def _calibration_error(bin_sums: Array) -> float:
    # count / N * |correct / count - confidence / count|: the counts cancel, empty bins add 0.
    count, confidence, correct = bin_sums
    rows = count.sum()
    return float(np.abs(correct - confidence).sum() / rows) if rows else float("nan")


def _mean(values: Array, w: Array | None) -> float:
    if not len(values):
        return float("nan")
    return float(values.mean() if w is None else np.average(values, weights=w))


def _labelled_rows(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> tuple[Array, Array, Array | None]:
    p = as_array(probabilities, "probabilities")
    if p.dtype.kind not in "fiu":
        raise TypeError(f"probabilities has dtype {p.dtype}, expected real numbers")
    if p.ndim != 2 or p.shape[1] == 0:
        raise ValueError(f"probabilities has shape {p.shape}, expected (N, C) with C >= 1")
    y = as_array(labels, "labels")
    w = None if weights is None else check_weights(weights, len(p))
    rows = np.arange(len(p)) if w is None else np.flatnonzero(w)
    if y.dtype.kind == "f" and y.ndim == 2:
        if y.shape != p.shape:
            raise ValueError(
                f"labels has shape {y.shape}, expected {p.shape}, that of the probabilities, or "
                f"({len(p)},)"
            )
        rows = rows[check_soft_labels(y[rows], rows)]
    else:
        y = check_labels(y, *p.shape, unused=None if w is None else w == 0)
        rows = np.flatnonzero(y >= 0)
    p = p[rows].astype(np.float64)
    # Not `p < 0` and `> SUM_TOLERANCE`, which NaN would pass.
    good = (p >= 0).all(axis=1) & (np.abs(p.sum(axis=1) - 1) <= SUM_TOLERANCE)
    if not good.all():
        bad = int(good.argmin())
        raise ValueError(
            f"probabilities[{rows[bad]}] has the smallest entry {p[bad].min():g} and the sum "
            f"{p[bad].sum():g}, expected numbers >= 0 that sum to 1"
        )
    return p, y[rows], None if w is None else _with_finite_sum(w[rows])


def _with_finite_sum(w: Array) -> Array:
    """The weights, scaled if their sum overflows: the scores are ratios of such sums."""
    with np.errstate(over="ignore"):
        return w if np.isfinite(w.sum()) else np.asarray(w / w.max())
