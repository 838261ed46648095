"""Labels and weights, checked: each message names the argument, the first bad row and its value."""

import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ._convert import as_array, as_vector

Array = npt.NDArray[Any]

UNLABELLED = -1
PADDING = -100
SUM_TOLERANCE = 1e-3  # a row whose sum is further than this from 1 is not a row of probabilities


def warn(message: str) -> None:
    """Warn the caller of this package: the line shown is the one outside of it."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals["__name__"].split(".")[0] == "kdloss":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)


def shortened(values: Sequence[Any], text: Callable[[Any], str] = repr) -> str:
    """The first ten of these values for a message, and how many there are beyond."""
    shown = ", ".join(text(value) for value in values[:10])
    return shown if len(values) <= 10 else f"{shown} and {len(values) - 10:,} more"


def look_like_probabilities(logits: Array) -> bool:
    """Whether all rows (B, C) are probabilities, which a file may have rounded to few decimals."""
    if logits.shape[1] == 1 or not ((logits >= 0) & (logits <= 1)).all():
        return False
    return bool((np.abs(logits.sum(axis=1) - 1) <= 2e-2).all())


def check_labels(
    labels: npt.ArrayLike,
    rows: int,
    classes: int | None,
    name: str = "labels",
    *,
    unused: Array | None = None,
) -> Array:
    """Return `labels` as int64 (rows,), refusing what is no class in [0, classes), no -1, no -100.

    Without a number of classes every label from 0 on is a class. Where `unused` (rows,) is true,
    whatever is there becomes -100. Messages call the labels `name`.
    """
    array = as_array(labels, name)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, not {array.dtype}")
    if array.shape != (rows,):
        raise ValueError(f"{name} must have shape ({rows},), one per row, not {array.shape}")
    # Compared as they are: a huge unsigned label would turn negative as an int64.
    largest = np.iinfo(np.int64).max if classes is None else classes - 1
    bad = (array > largest) | ((array < 0) & (array != UNLABELLED) & (array != PADDING))
    if unused is not None:
        bad &= ~unused
    if bad.any():
        row = int(bad.argmax())
        expected = ">= 0" if classes is None else f"in [0, {classes})"
        raise ValueError(
            f"{name} must be {expected}, -1 (unlabelled) or -100 (padding), "
            f"but row {row} has label {array[row]}"
        )
    result = array.astype(np.int64, copy=unused is not None)
    if unused is not None:
        result[unused] = PADDING
    return result


def check_soft_labels(labels: Array, rows: Array, name: str = "labels") -> Array:
    """Return which of these soft labels (B, C) are labelled rather than all zeros, as bool (B,).

    Refuses what is negative or sums to no 1. Messages call the labels `name`, row i `rows[i]`.
    """
    negative = labels < 0
    if negative.any():
        row, column = divmod(int(negative.argmax()), labels.shape[1])
        value = labels[row, column]
        raise ValueError(f"{name}[{rows[row]}, {column}] is {value:g}, expected a probability >= 0")
    sums = labels.sum(axis=1, dtype=np.float64)
    labelled = np.asarray(sums != 0)
    good = (np.abs(sums - 1) <= SUM_TOLERANCE) | ~labelled  # NaN is not good
    if not good.all():
        row = int(good.argmin())
        raise ValueError(
            f"{name}[{rows[row]}] sums to {sums[row]:g}, expected probabilities that sum to 1 "
            f"within {SUM_TOLERANCE:g} (or all zeros: unlabelled)"
        )
    return labelled


def check_weights(
    weights: npt.ArrayLike, count: int, name: str = "sample_weight", each: str = "row"
) -> Array:
    """Return `weights` as float64 (count,), refusing what is not finite and >= 0."""
    array = as_vector(weights, name, count, "", f"one weight for each {each}")
    good = (array >= 0) & np.isfinite(array)
    if not good.all():
        bad = int(good.argmin())
        raise ValueError(f"{name}[{bad}] is {array[bad]:g}, expected a finite number >= 0")
    return array
