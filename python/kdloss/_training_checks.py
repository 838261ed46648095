"""Checks what `LinearStudent.fit` is given, and holds rows out for validation."""

from __future__ import annotations

import dataclasses
import numbers
import warnings
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ._checks import (
    PADDING,
    UNLABELLED,
    Array,
    check_labels,
    check_soft_labels,
    check_weights,
    look_like_probabilities,
)
from ._convert import as_vector, refuse_mask
from ._settings import Settings
from ._training_rows import Rows, take
from .teacher import check_teacher_weights

BLOCK_ELEMENTS = 2**20  # soft labels are checked in blocks of about this many numbers


class Given(NamedTuple):
    """The arrays as `LinearStudent.fit` is given them, described there."""

    X: Any
    labels: Any
    teacher_logits: Any
    sample_weight: npt.ArrayLike | None = None
    alpha_per_row: npt.ArrayLike | None = None
    teacher_weights: npt.ArrayLike | None = None


def prepare(
    given: Given,
    validation: float | tuple[Any, ...] | None,
    settings: Settings,
    *,
    dtype: np.dtype[Any] | None = None,
    features: int | None = None,
    classes: int | None = None,
) -> tuple[Rows, Rows | None]:
    """Training and validation rows; `dtype`, `features` and `classes` are a trained student's."""
    data = _check_data(given, settings, features=features, classes=classes)
    _warn_of_probabilities(data, settings.batch_size)
    if dtype is not None:
        data = dataclasses.replace(data, dtype=dtype)
    if validation is None:
        return data, None
    if isinstance(validation, tuple):
        if not 3 <= len(validation) <= 5:
            raise ValueError(
                "validation must be (X, labels, teacher_logits), with sample_weight and "
                f"alpha_per_row after these where there are any, not {len(validation)} values"
            )
        other = Given(*validation)
        if _is_ensemble(other.teacher_logits):
            other = other._replace(teacher_weights=given.teacher_weights)
        held_out = _check_data(
            other, settings, features=data.features, classes=data.classes, prefix="validation "
        )
        return data, dataclasses.replace(held_out, dtype=data.dtype)
    if not isinstance(validation, numbers.Real) or isinstance(validation, bool):
        raise TypeError(
            "validation must be a share of the rows or (X, labels, teacher_logits), "
            f"not {type(validation).__name__}"
        )
    count = round(len(data.rows) * float(validation)) if 0 < validation < 1 else 0
    if not 0 < count < len(data.rows):
        raise ValueError(
            "validation must be in (0, 1) and leave rows on both sides, "
            f"not {validation} of {len(data.rows)} rows"
        )
    # Epochs count from 1, which leaves the generator (seed, 0) for this.
    order = np.random.default_rng((settings.seed, 0)).permutation(data.rows)
    held_out_rows, training_rows = np.sort(order[:count]), np.sort(order[count:])
    return (
        dataclasses.replace(data, rows=training_rows),
        dataclasses.replace(data, rows=held_out_rows),
    )


def _warn_of_probabilities(data: Rows, size: int) -> None:
    """Warn, once, if a teacher's first rows look like probabilities."""
    for teacher in data.teachers:
        first = take(teacher, data.rows[:size], np.dtype(np.float64))
        if look_like_probabilities(first):
            warnings.warn(
                "teacher_logits look like probabilities; pass logits, or their logarithm, which "
                "kdloss.logits_from_probs gives (log-probabilities are valid logits)",
                UserWarning,
                stacklevel=4,  # the caller of fit or resume
            )
            return


def _is_ensemble(teacher_logits: Any) -> bool:
    """Whether this is a list of teachers, not one teacher's logits as nested lists."""
    if not isinstance(teacher_logits, list | tuple):
        return False
    if not teacher_logits:
        return True
    first = teacher_logits[0]
    return len(first.shape if _is_array(first) else np.shape(first)) == 2


def _check_data(
    given: Given,
    settings: Settings,
    *,
    features: int | None = None,
    classes: int | None = None,
    prefix: str = "",
) -> Rows:
    """Training or validation rows; `features` and `classes` are those expected, where known."""
    X = check_rows(f"{prefix}X", given.X, columns=features)
    rows = int(X.shape[0])
    weight = unused = None
    if given.sample_weight is not None:
        weight = check_weights(given.sample_weight, rows, f"{prefix}sample_weight")
        unused = weight == 0

    teachers = _check_teachers(f"{prefix}teacher_logits", given.teacher_logits, rows, classes)
    shares = check_teacher_weights(given.teacher_weights, len(teachers), f"{prefix}teacher_weights")
    if teachers:
        classes = int(teachers[0].shape[1])
        # A teacher of weight 0 is not read.
        teachers = [one for one, share in zip(teachers, shares, strict=True) if share > 0]
        shares = shares[shares > 0]

    name = f"{prefix}labels"
    labels = np.full(rows, UNLABELLED) if given.labels is None else given.labels
    refuse_mask(labels, name)
    if not _is_array(labels):
        labels = np.asarray(labels)
    if len(labels.shape) == 2 and _is_float(labels.dtype):
        labels = check_rows(name, labels, rows=rows, columns=classes)
        classes = int(labels.shape[1])
        used = np.arange(rows) if weight is None else np.flatnonzero(weight)
        labelled = _check_soft_rows(name, labels, used)
    else:
        labels = check_labels(labels, rows, classes, name, unused=unused)
        if classes is None:
            classes = int(labels.max(initial=0)) + 1
        used = np.flatnonzero(labels != PADDING)
        labelled = labels[used] != UNLABELLED
    if len(used) == 0:
        raise ValueError(
            f"{prefix}X has no row to use: it has {rows}, labelled -100 or of weight 0 if any"
        )

    alpha: Any = settings.alpha
    if given.alpha_per_row is not None:
        alpha = _check_alpha(f"{prefix}alpha_per_row", given.alpha_per_row, rows, used)
    in_use = np.array([alpha]) if given.alpha_per_row is None else alpha[used]
    if not teachers and in_use.min() != 1:
        raise ValueError(
            f"{prefix}teacher_logits may be None only if alpha is 1, not {in_use.min()}"
        )
    if given.labels is None and in_use.max() != 0:
        raise ValueError(f"{name} may be None only if alpha is 0, not {in_use.max()}")
    if not teachers and not labelled.all():
        found = "-1" if labels.ndim == 1 else "all zeros"
        raise ValueError(
            f"{prefix}teacher_logits is None, but {name} row {used[labelled.argmin()]} is {found}, "
            "which learns from the teacher alone"
        )
    is_float32 = X.dtype.newbyteorder("=") == np.float32
    dtype = np.dtype(np.float32 if is_float32 else np.float64)
    return Rows(X, labels, teachers, shares, alpha, weight, settings.tau, used, classes, dtype)


def check_rows(
    name: str, value: Any, *, rows: int | None = None, columns: int | None = None
) -> Any:
    """Return `value` (rows, columns) as it is if it can be read in slices, else as an array."""
    refuse_mask(value, name)
    if not _is_array(value):
        value = np.asarray(value)
    if value.dtype.kind not in "fiub" and not _is_float(value.dtype):
        raise TypeError(f"{name} must be real numbers, not {value.dtype}")
    shape = tuple(value.shape)
    fits = len(shape) == 2 and shape[1] > 0
    if not (fits and rows in (None, shape[0]) and columns in (None, shape[1])):
        expected = f"({'N' if rows is None else rows}, {'> 0' if columns is None else columns})"
        raise ValueError(f"{name} must have shape {expected}, not {shape}")
    if np.asarray(value[:1]).shape[1:] != shape[1:]:  # a sparse matrix, for one
        raise TypeError(
            f"{name} must give arrays when sliced, which {type(value).__name__} does not"
        )
    return value


def check_initial_weights(value: npt.ArrayLike, shape: tuple[int, int]) -> Array:
    """Return `initial_weights` as an array of finite numbers of this shape."""
    weights = np.asarray(value)
    if weights.dtype.kind not in "fiu":
        raise TypeError(f"initial_weights must be real numbers, not {weights.dtype}")
    if weights.shape != shape:
        raise ValueError(
            f"initial_weights must have shape (features, classes) = {shape}, not {weights.shape}"
        )
    if not np.isfinite(weights).all():
        raise ValueError("initial_weights must be finite")
    return weights


def _check_teachers(name: str, value: Any, rows: int, classes: int | None) -> list[Any]:
    """None, one teacher's logits, or those of several, as a list of what can be sliced."""
    if value is None:
        return []
    if not _is_ensemble(value):
        return [check_rows(name, value, rows=rows, columns=classes)]
    if not value:
        raise ValueError(f"{name} is an empty list, expected the logits of at least one teacher")
    teachers: list[Any] = []
    for k, one in enumerate(value):
        teachers.append(check_rows(f"{name}[{k}]", one, rows=rows, columns=classes))
        classes = int(teachers[0].shape[1])
    return teachers


def _check_soft_rows(name: str, labels: Any, used: Array) -> Array:
    """Which of the `used` rows of soft labels (N, C) have a label, once all of them are checked."""
    labelled = np.empty(len(used), bool)
    size = max(1, BLOCK_ELEMENTS // int(labels.shape[1]))
    for start in range(0, len(used), size):
        rows = used[start : start + size]
        block = take(labels, rows, np.dtype(np.float64))
        labelled[start : start + size] = check_soft_labels(block, rows, name)
    return labelled


def _check_alpha(name: str, value: npt.ArrayLike, rows: int, used: Array) -> Array:
    alpha = as_vector(value, name, rows, "", "one number for each row")
    good = (alpha[used] >= 0) & (alpha[used] <= 1)
    if not good.all():
        row = used[good.argmin()]
        raise ValueError(f"{name}[{row}] is {alpha[row]:g}, expected a number in [0, 1]")
    return alpha


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and isinstance(getattr(value, "dtype", None), np.dtype)


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype.name == "bfloat16"
