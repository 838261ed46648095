"""The rows that a student learns from, read in batches, since they may not fit into memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .._arrays import Array
from ..teacher import ensemble_logits


class Batch(NamedTuple):
    """A batch: features (B, D), labels (B,) or (B, C), teacher's logits (B, C), row indices (B,).

    `alpha` is a number or (B,), `weight` is None or (B,).
    """

    X: Any  # an array or a sparse matrix
    labels: Array
    teacher: Array | None
    alpha: Any
    weight: Array | None
    rows: Array


@dataclasses.dataclass(frozen=True)
class Rows:
    """Features (N, D), labels (N,) or (N, C), each teacher's logits (N, C), indices of used rows.

    `alpha` is a number or (N,), `weight` is None or (N,), `shares` the teachers' weights (K,).
    `known` (N,) is the class of each row, for soft labels the most probable, < 0 if there is none.
    Features are shifted by `mean` and divided by `scale` (D,) if these are given.
    """

    X: Any
    labels: Any
    teachers: list[Any]
    shares: Array
    alpha: Any
    weight: Array | None
    tau: float
    rows: Array
    classes: int
    dtype: np.dtype[Any]
    known: Array
    mean: Array | None = None
    scale: Array | None = None

    @property
    def features(self) -> int:
        return int(self.X.shape[1])

    def batches(self, order: Array, size: int) -> Iterator[Batch]:
        """Yield the rows in this order, `size` at a time."""
        # Each batch is sorted, so that files are read front to back, which is fast, and which HDF5
        # requires. Within a batch the order only affects the rounding of sums.
        order, whole = order.copy(), len(order) // size * size
        order[:whole].reshape(-1, size).sort(axis=1)
        order[whole:].sort()
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            yield Batch(
                standardize(take(self.X, rows, self.dtype), self.mean, self.scale),
                self.labels[rows]
                if len(self.labels.shape) == 1
                else self._numbers(self.labels, rows),
                self._teacher(rows),
                self.alpha if isinstance(self.alpha, float) else self.alpha[rows],
                None if self.weight is None else self.weight[rows],
                rows,
            )

    def _teacher(self, rows: Array) -> Array | None:
        """The logits of the teacher, or of the mixture of several."""
        logits = [self._numbers(teacher, rows) for teacher in self.teachers]
        if len(logits) < 2:
            return logits[0] if logits else None
        return ensemble_logits(logits, self.shares, tau=self.tau)

    def _numbers(self, source: Any, rows: Array) -> Array:
        """Sorted `rows` of logits or soft labels, converted if the loss cannot read their dtype."""
        array = np.asarray(_slice(source, rows))
        return array if _is_read_in_place(array.dtype) else array.astype(self.dtype)


def are_labelled(labels: Array) -> Array:
    """Whether each row has a label (B,), for labels (B,) or (B, C)."""
    return np.asarray(labels >= 0 if labels.ndim == 1 else labels.any(axis=1))


def is_sparse(value: Any) -> bool:
    """Whether this is a sparse matrix or array of SciPy's; SciPy is not imported."""
    return hasattr(value, "tocsr")


def take(source: Any, rows: Array, dtype: np.dtype[Any]) -> Any:
    """Sorted `rows` of an array as `dtype`, a view if possible; sparse rows stay sparse."""
    some = _slice(source, rows)
    return some.astype(dtype, copy=False) if is_sparse(some) else np.asarray(some, dtype)


def standardize(X: Array, mean: Array | None, scale: Array | None) -> Array:
    """Return (X - mean) / scale, or X itself without a mean."""
    return X if mean is None or scale is None else np.asarray((X - mean) / scale)


def _is_read_in_place(dtype: np.dtype[Any]) -> bool:
    """Whether the loss reads this type: float16, bfloat16, float32 and float64."""
    if dtype.kind == "f":
        return dtype.isnative and dtype.itemsize <= 8
    return dtype.name == "bfloat16"


def _slice(source: Any, rows: Array) -> Any:
    if rows[-1] - rows[0] == len(rows) - 1:
        return source[int(rows[0]) : int(rows[-1]) + 1]
    if isinstance(source, np.ndarray) and source.flags.c_contiguous:
        return source.take(rows, axis=0, mode="clip")  # faster; the rows exist, so none is clipped
    return source[rows]
