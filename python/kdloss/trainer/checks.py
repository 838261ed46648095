"""Checks the arguments of `LinearStudent.fit`, and splits off the validation rows."""

from __future__ import annotations

import dataclasses
import numbers
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .._arrays import (
    PADDING,
    UNLABELLED,
    Array,
    as_vector,
    check_soft_labels,
    check_weights,
    look_like_probabilities,
    refuse_mask,
    shortened,
    warn,
)
from .._frames import Names, column_names, frame_array, series_array
from ..teacher import check_teacher_weights
from .class_names import (
    check_classes,
    encode,
    find_names,
    matching_columns,
    read_labels,
)
from .columns import Columns, check_finite, named_features, standardized
from .rows import Rows, is_sparse, take
from .settings import Settings, whole
from .teacher_check import warn_of_misfit

BLOCK_ELEMENTS = 2**20  # soft labels are checked in blocks of about this many numbers


class Given(NamedTuple):
    """The array arguments of `LinearStudent.fit`, not yet checked."""

    X: Any
    labels: Any
    teacher_logits: Any
    sample_weight: npt.ArrayLike | None = None
    alpha_per_row: npt.ArrayLike | None = None
    teacher_weights: npt.ArrayLike | None = None


class Expected(NamedTuple):
    """The expected columns and classes; None for what is not known yet."""

    features: int | None = None
    classes: int | None = None
    feature_names: Names | None = None
    class_names: Array | None = None
    teacher_columns: Names | None = None


def prepare(
    given: Given,
    validation: float | tuple[Any, ...] | None,
    settings: Settings,
    *,
    n_classes: Any = None,
    classes: npt.ArrayLike | None = None,
) -> tuple[Rows, Rows | None, Columns]:
    """The training rows, the validation rows, and the columns of a new student."""
    if n_classes is not None:
        n_classes = whole("n_classes", n_classes, 1)
    names = None if classes is None else check_classes(classes)
    if names is not None and n_classes not in (None, len(names)):
        raise ValueError(
            f"n_classes is {n_classes}, expected {len(names)}, the number of names in classes"
        )
    expected = Expected(
        None, n_classes if names is None else len(names), column_names("X", given.X), names
    )
    data, held_out, expected = _check_all(given, validation, settings, expected)
    if settings.standardize:
        data = standardized(data)
    names = np.arange(data.classes) if expected.class_names is None else expected.class_names
    columns = Columns(expected.feature_names, names, data.mean, data.scale)
    return data, _scaled(held_out, columns), columns


def prepare_again(
    given: Given,
    validation: float | tuple[Any, ...] | None,
    settings: Settings,
    columns: Columns,
    *,
    features: int,
    dtype: np.dtype[Any],
) -> tuple[Rows, Rows | None]:
    """The training and validation rows to resume a student."""
    expected = Expected(features, len(columns.classes), columns.features, columns.classes)
    data, held_out, _ = _check_all(given, validation, settings, expected, dtype)
    data = dataclasses.replace(data, mean=columns.mean, scale=columns.scale)
    return data, _scaled(held_out, columns)


def _scaled(held_out: Rows | None, columns: Columns) -> Rows | None:
    if held_out is None:
        return None
    return dataclasses.replace(held_out, mean=columns.mean, scale=columns.scale)


def _check_all(
    given: Given,
    validation: float | tuple[Any, ...] | None,
    settings: Settings,
    expected: Expected,
    dtype: np.dtype[Any] | None = None,
) -> tuple[Rows, Rows | None, Expected]:
    """Check everything, and warn; return training rows, validation rows and the known columns."""
    data, expected = _check_data(given, settings, expected)
    data = data if dtype is None else dataclasses.replace(data, dtype=dtype)
    training, held_out = data, None
    if isinstance(validation, tuple):
        held_out = _check_other(given, validation, settings, expected, data)
    elif validation is not None:
        training, held_out = _split(data, validation, settings.seed)
    check_finite("X", data.X, data.rows, data.dtype, expected.feature_names)
    if held_out is not None and isinstance(validation, tuple):
        check_finite("validation X", held_out.X, held_out.rows, data.dtype, expected.feature_names)
        _warn_of_teachers(held_out, settings.batch_size, "validation ")
    _warn_of_teachers(data, settings.batch_size)
    if held_out is not None:
        _warn_of_missing_classes(training, held_out, expected.class_names)
    return training, held_out, expected


def _check_other(
    given: Given,
    validation: tuple[Any, ...],
    settings: Settings,
    expected: Expected,
    data: Rows,
) -> Rows:
    """The validation rows that are given as arrays, (X, labels, teacher_logits, ...)."""
    if not 3 <= len(validation) <= 5:
        raise ValueError(
            f"validation has {len(validation)} values, expected (X, labels, teacher_logits), which "
            "sample_weight and alpha_per_row may follow"
        )
    other = Given(*validation)
    if _is_ensemble(other.teacher_logits):
        other = other._replace(teacher_weights=given.teacher_weights)
    names = np.arange(data.classes) if expected.class_names is None else expected.class_names
    expected = expected._replace(features=data.features, classes=data.classes, class_names=names)
    held_out, _ = _check_data(other, settings, expected, prefix="validation ")
    return dataclasses.replace(held_out, dtype=data.dtype)


def _split(data: Rows, validation: Any, seed: int) -> tuple[Rows, Rows]:
    """Training rows, and the share of the rows that is held out."""
    if not isinstance(validation, numbers.Real) or isinstance(validation, bool):
        raise TypeError(
            f"validation is a {type(validation).__name__}, expected a share of the rows or "
            "(X, labels, teacher_logits)"
        )
    share = float(validation)
    count = round(len(data.rows) * share) if 0 < share < 1 else 0
    if not 0 < count < len(data.rows):
        raise ValueError(
            f"validation is {validation} of {len(data.rows)} rows, expected a share in (0, 1) that "
            "leaves rows on both sides"
        )
    # Epoch n uses the generator (seed, n), n >= 1, so (seed, 0) is free.
    order = np.random.default_rng((seed, 0)).permutation(data.rows)
    held_out_rows, training_rows = np.sort(order[:count]), np.sort(order[count:])
    return (
        dataclasses.replace(data, rows=training_rows),
        dataclasses.replace(data, rows=held_out_rows),
    )


def _warn_of_teachers(data: Rows, size: int, prefix: str = "") -> None:
    """Warn if a teacher's first rows look like probabilities, or if it does not fit the labels."""
    if _is_labels_alone(data):
        return
    for k, teacher in enumerate(data.teachers):
        name = f"{prefix}teacher_logits" + (f"[{k}]" if len(data.teachers) > 1 else "")
        first = take(teacher, data.rows[:size], np.dtype(np.float64))
        if look_like_probabilities(first):
            warn(
                f"{name} look like probabilities; pass logits, or the logarithms of the "
                "probabilities, which kdloss.logits_from_probs gives"
            )
        masked = np.isneginf(first)
        if (masked != masked[0]).any() and look_like_probabilities(np.exp(first)):
            warn(
                f"{name} are logarithms of probabilities, of which {masked.sum():,} of the first "
                f"{masked.size:,} are 0. If these zeros are rounding, smooth them: "
                "kdloss.logits_from_probs(probabilities, zeros=1e-3)"
            )
        warn_of_misfit(name, teacher, data.known, data.rows)


def _is_labels_alone(data: Rows) -> bool:
    """Whether no row learns from a teacher."""
    alpha = data.alpha if isinstance(data.alpha, float) else data.alpha[data.rows].min()
    return bool(alpha == 1) and bool((data.known[data.rows] >= 0).all())


def _warn_of_missing_classes(data: Rows, held_out: Rows, names: Array | None) -> None:
    """Warn if a class that occurs in training has no label among labelled validation rows."""
    found, here = (np.unique(d.known[d.rows][d.known[d.rows] >= 0]) for d in (held_out, data))
    missing = np.setdiff1d(here, found)
    if len(missing):
        shown = missing if names is None else names[missing]
        warn(
            f"no validation row has a label of the classes {shortened(shown.tolist())}, which "
            "occur in training: the validation scores do not cover them; hold out more rows, or "
            "choose them by class"
        )


def _is_ensemble(teacher_logits: Any) -> bool:
    """Whether this is a list of teachers, not one teacher's logits as nested lists."""
    if not isinstance(teacher_logits, list | tuple):
        return False
    if not teacher_logits:
        return True
    first = teacher_logits[0]
    return len(first.shape if _is_array(first) else np.shape(first)) == 2


def _check_data(
    given: Given, settings: Settings, expected: Expected, *, prefix: str = ""
) -> tuple[Rows, Expected]:
    """Training or validation rows, and their columns and classes, now known."""
    X = named_features(f"{prefix}X", given.X, expected.feature_names)
    X = check_features(f"{prefix}X", X, columns=expected.features)
    rows = int(X.shape[0])
    weight = unused = None
    if given.sample_weight is not None:
        weights = series_array(given.sample_weight)
        weight = check_weights(weights, rows, f"{prefix}sample_weight")
        unused = weight == 0

    name = f"{prefix}labels"
    labels, expected = _name_classes(name, given, expected, rows, unused, prefix)
    count = expected.classes
    teachers = _check_teachers(
        f"{prefix}teacher_logits", given.teacher_logits, rows, count, expected.teacher_columns
    )
    shares = check_teacher_weights(given.teacher_weights, len(teachers), f"{prefix}teacher_weights")
    if teachers:
        count = int(teachers[0].shape[1])
        # A teacher of weight 0 is not read.
        teachers = [one for one, share in zip(teachers, shares, strict=True) if share > 0]
        shares = shares[shares > 0]

    known = np.full(rows, PADDING)
    if len(labels.shape) == 2 and _is_float(labels.dtype):
        labels = check_rows(name, labels, rows=rows, columns=count)
        count = int(labels.shape[1])
        used = np.arange(rows) if weight is None else np.flatnonzero(weight)
        known[used] = _check_soft_rows(name, labels, used)
    else:
        known = labels = encode(name, labels, rows, count, expected.class_names, unused=unused)
        if count is None:
            count = int(labels.max(initial=0)) + 1
        used = np.flatnonzero(labels != PADDING)
    labelled = known[used] >= 0
    if len(used) == 0:
        raise ValueError(
            f"{prefix}X has {rows} rows, expected at least one that is not labelled -100 and has "
            "a weight > 0"
        )

    alpha: Any = settings.alpha
    if given.alpha_per_row is not None:
        alphas = series_array(given.alpha_per_row)
        alpha = _check_alpha(f"{prefix}alpha_per_row", alphas, rows, used)
    in_use = np.array([alpha]) if given.alpha_per_row is None else alpha[used]
    if not teachers and in_use.min() != 1:
        raise ValueError(
            f"{prefix}teacher_logits is None, expected logits where alpha is not 1; alpha is "
            f"{in_use.min()}"
        )
    if given.labels is None and in_use.max() != 0:
        raise ValueError(
            f"{name} is None, expected labels where alpha is not 0; alpha is {in_use.max()}"
        )
    if not teachers and not labelled.all():
        found = "-1" if labels.ndim == 1 else "all zeros"
        raise ValueError(
            f"{prefix}teacher_logits is None, expected logits: {name}[{used[labelled.argmin()]}] "
            f"is {found}, so the row learns from the teacher alone"
        )
    keeps_float32 = settings.solver == "sgd" and X.dtype.newbyteorder("=") == np.float32
    dtype = np.dtype(np.float32 if keeps_float32 else np.float64)
    data = Rows(X, labels, teachers, shares, alpha, weight, settings.tau, used, count, dtype, known)
    return data, expected


def _name_classes(
    name: str, given: Given, expected: Expected, rows: int, unused: Array | None, prefix: str
) -> tuple[Any, Expected]:
    """The labels as arrays, and the classes as the labels and the teacher's columns name them."""
    first = given.teacher_logits
    if _is_ensemble(first) and first:
        first = first[0]
    count = expected.classes
    if count is None and first is not None:
        shape = first.shape if hasattr(first, "shape") else np.shape(first)
        count = int(shape[1]) if len(shape) == 2 else None
    labels = np.full(rows, UNLABELLED) if given.labels is None else given.labels
    soft_columns = column_names(name, labels)
    columns = column_names(f"{prefix}teacher_logits", first) or soft_columns
    names = expected.class_names
    if soft_columns is None:
        labels = read_labels(name, labels)
    if names is None:
        stated = expected.classes is not None
        names = find_names(name, labels, count, columns, stated=stated, unused=unused)
    matched = expected.teacher_columns or matching_columns(columns, names)
    if soft_columns is not None:
        labels = read_labels(name, labels, matched)
    return labels, expected._replace(
        classes=expected.classes if names is None else len(names),
        class_names=names,
        teacher_columns=matched,
    )


def check_features(
    name: str, value: Any, *, rows: int | None = None, columns: int | None = None
) -> Any:
    """Return features, checked by `check_rows`; sparse ones as a CSR matrix."""
    if not is_sparse(value):
        return check_rows(name, value, rows=rows, columns=columns)
    value = value.tocsr()
    check_rows(name, np.broadcast_to(value.dtype.type(0), value.shape), rows=rows, columns=columns)
    return value


def check_rows(
    name: str, value: Any, *, rows: int | None = None, columns: int | None = None
) -> Any:
    """Return `value` (rows, columns), checked; unchanged if it is array-like, else as an array."""
    refuse_mask(value, name)
    if not _is_array(value):
        value = np.asarray(value)
    if value.dtype.kind not in "fiub" and not _is_float(value.dtype):
        raise TypeError(f"{name} has dtype {value.dtype}, expected real numbers")
    shape = tuple(value.shape)
    fits = len(shape) == 2 and shape[1] > 0
    if not (fits and rows in (None, shape[0]) and columns in (None, shape[1])):
        expected = f"({'N' if rows is None else rows}, {'> 0' if columns is None else columns})"
        raise ValueError(f"{name} has shape {shape}, expected {expected}")
    if np.asarray(value[:1]).shape[1:] != shape[1:]:  # such as a sparse matrix
        raise TypeError(f"{name} is a {type(value).__name__}, expected slices of it to be arrays")
    return value


def check_initial_weights(value: npt.ArrayLike, shape: tuple[int, int]) -> Array:
    """Return `initial_weights` as an array of finite numbers of this shape."""
    weights = np.asarray(value)
    if weights.dtype.kind not in "fiu":
        raise TypeError(f"initial_weights has dtype {weights.dtype}, expected real numbers")
    if weights.shape != shape:
        raise ValueError(
            f"initial_weights has shape {weights.shape}, expected (features, classes) = {shape}"
        )
    if not np.isfinite(weights).all():
        raise ValueError("initial_weights has NaN or infinity, expected finite numbers")
    return weights


def _check_teachers(
    name: str, value: Any, rows: int, classes: int | None, columns: Names | None
) -> list[Any]:
    """The teachers' logits as a checked list; columns of data frames in the order `columns`."""
    if value is None:
        return []
    if not _is_ensemble(value):
        return [_check_teacher(name, value, rows, classes, columns)]
    if not value:
        raise ValueError(f"{name} is an empty list, expected the logits of at least one teacher")
    teachers: list[Any] = []
    for k, one in enumerate(value):
        teachers.append(_check_teacher(f"{name}[{k}]", one, rows, classes, columns))
        classes = int(teachers[0].shape[1])
    return teachers


def _check_teacher(
    name: str, value: Any, rows: int, classes: int | None, columns: Names | None
) -> Any:
    value = frame_array(name, value, columns)
    refuse_mask(value, name)
    shape = tuple(value.shape) if _is_array(value) else np.shape(value)
    if shape in ((rows,), (rows, 1)):
        raise ValueError(
            f"{name} has one column, expected one for each class: for logits z of class 1 of two "
            "pass numpy.column_stack([0 * z, z]), for its probabilities p "
            "kdloss.logits_from_probs(p.reshape(-1, 1))"
        )
    return check_rows(name, value, rows=rows, columns=classes)


def _check_soft_rows(name: str, labels: Any, used: Array) -> Array:
    """Check the `used` rows of soft labels (N, C); return their most probable classes, or -1."""
    top = np.empty(len(used), np.int64)
    size = max(1, BLOCK_ELEMENTS // int(labels.shape[1]))
    for start in range(0, len(used), size):
        rows = used[start : start + size]
        block = take(labels, rows, np.dtype(np.float64))
        labelled = check_soft_labels(block, rows, name)
        top[start : start + size] = np.where(labelled, block.argmax(axis=1), UNLABELLED)
    return top


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
