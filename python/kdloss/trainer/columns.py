"""The columns of a student: the features' names, mean and scale, and the names of the classes."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from .._arrays import Array, warn
from .._frames import Names, column_names, frame_array
from .rows import Rows, is_sparse, take

BLOCK_ELEMENTS = 2**20  # features are read in blocks of about this many numbers


class Columns(NamedTuple):
    """Names of features (D,) and classes (C,), and the mean and scale of standardized features."""

    features: Names | None
    classes: Array
    mean: Array | None = None
    scale: Array | None = None


def named_features(name: str, X: Any, names: Names | None) -> Any:
    """Features as an array; the columns of a data frame are put into the order of `names`.

    If there are no `names`, the columns keep their order, with a warning.
    """
    found = column_names(name, X)
    if found is not None and names is None and found != tuple(map(str, range(len(found)))):
        warn(
            f"{name} is a data frame, but the student was trained on features without names: "
            "its columns are matched by position"
        )
    return frame_array(name, X, names)


def check_finite(
    name: str, X: Any, rows: Array, dtype: np.dtype[Any], names: Names | None = None
) -> None:
    """Refuse NaN and infinity among these rows of the features, which are read in blocks."""
    if X.dtype.kind not in "iub":
        size = max(1, BLOCK_ELEMENTS // int(X.shape[1]))
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            refuse_not_finite(name, take(X, some, dtype), some, names)


def refuse_not_finite(name: str, block: Any, rows: Array, names: Names | None) -> None:
    """Refuse NaN and infinity in these rows (B, D) of the features."""
    if is_sparse(block):
        if np.isfinite(block.data).all():
            return
        block = block.toarray()
    finite = np.isfinite(block)
    if not finite.all():
        row, column = divmod(int(finite.argmin()), block.shape[1])
        called = "" if names is None else f" (column {names[column]!r})"
        raise ValueError(
            f"{name}[{rows[row]}, {column}]{called} is {block[row, column]:g}, expected a finite "
            "number; fill in missing values, or leave the row or the column out"
        )


def standardized(data: Rows) -> Rows:
    """The rows with the weighted mean and standard deviation of their features.

    A constant column has scale 1.
    """
    if is_sparse(data.X):
        raise ValueError(
            "standardize is True, expected False for a sparse X, whose zeros would not stay zeros; "
            "divide its columns by their scale beforehand"
        )
    count, low, high = 0.0, np.inf, -np.inf
    mean, squares = np.zeros((2, data.features))  # squares: summed deviations from the mean
    size = max(1, BLOCK_ELEMENTS // data.features)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for start in range(0, len(data.rows), size):
            rows = data.rows[start : start + size]
            block = take(data.X, rows, np.dtype(np.float64))
            weight = np.ones(len(rows)) if data.weight is None else data.weight[rows]
            here = float(weight.sum())
            center = weight @ block / here
            low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
            difference = center - mean
            total = count + here
            mean += difference * (here / total)
            block = block - center
            squares += np.einsum("n,nd,nd->d", weight, block, block)
            squares += difference**2 * (count * here / total)
            count = total
        mean = np.where(low == high, low, mean).astype(data.dtype)
        scale = np.where(low == high, 1.0, np.sqrt(squares / count)).astype(data.dtype)
    scale[scale == 0] = 1
    if not (np.isfinite(mean).all() and np.isfinite(scale).all()):
        column = int((np.isfinite(mean) & np.isfinite(scale)).argmin())
        raise ValueError(f"column {column} of X is too large to standardize in {data.dtype}")
    return dataclasses.replace(data, mean=mean, scale=scale)
