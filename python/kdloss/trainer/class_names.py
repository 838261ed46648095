"""Converts labels (numbers, text or booleans) to class indices, and finds the classes' names."""

from __future__ import annotations

import numbers
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .._arrays import (
    PADDING,
    UNLABELLED,
    Array,
    as_array,
    check_labels,
    check_soft_labels,
    check_weights,
    refuse_mask,
    shortened,
    warn,
)
from .._frames import Names, column_names, frame_array, is_frame, series_array


class RowCounts(NamedTuple):
    """The numbers of rows with a label, without one, and not used; and the classes that occur."""

    labelled: int
    unlabelled: int
    padding: int
    occurring: tuple[Any, ...]
    classes: int

    def __str__(self) -> str:
        """Return a line of text."""
        return (
            f"{self.labelled:,} rows with a label, {self.unlabelled:,} without, "
            f"{self.padding:,} not used; {len(self.occurring)} of {self.classes} classes occur"
        )


def count_rows(
    labels: Any, classes: npt.ArrayLike | int, *, sample_weight: npt.ArrayLike | None = None
) -> RowCounts:
    """Count the rows by their labels, for a message.

    Parameters
    ----------
    labels : (N,) or (N, C) array_like
        As in `LinearStudent.fit`.
    classes : int or (C,) array_like
        The number of classes, or their names (``student.classes_``).
    sample_weight : (N,) array_like, optional
        A row of weight 0 is not used.

    Examples
    --------
    >>> print(count_rows(["cat", "dog", None, "cat"], ["bird", "cat", "dog"]))
    3 rows with a label, 1 without, 0 not used; 2 of 3 classes occur
    """
    names = np.arange(classes) if isinstance(classes, int) else check_classes(classes)
    codes = class_indices(labels, names, sample_weight=sample_weight)
    occurring = np.unique(codes[codes >= 0])
    return RowCounts(
        int((codes >= 0).sum()),
        int((codes == UNLABELLED).sum()),
        int((codes == PADDING).sum()),
        tuple(names[occurring].tolist()),
        len(names),
    )


def class_indices(
    labels: Any, names: Array, *, sample_weight: npt.ArrayLike | None = None
) -> Array:
    """The class of each row (N,) as an index into `names`, or -1 or -100.

    A soft label counts as its most probable class. A row of weight 0 is -100.
    """
    labels = read_labels("labels", labels, matching_columns(column_names("labels", labels), names))
    unused = None
    if sample_weight is not None:
        unused = check_weights(series_array(sample_weight), len(labels)) == 0
    if labels.ndim == 2 and labels.dtype.kind == "f":
        if labels.shape[1] != len(names):
            raise ValueError(
                f"labels have {labels.shape[1]} columns, expected {len(names)}, one for each class"
            )
        rows = np.arange(len(labels)) if unused is None else np.flatnonzero(~unused)
        codes = np.full(len(labels), PADDING)
        labelled = check_soft_labels(labels[rows], rows)
        codes[rows] = np.where(labelled, labels[rows].argmax(axis=1), UNLABELLED)
        return codes
    return encode("labels", labels, len(labels), len(names), names, unused=unused)


def check_classes(classes: npt.ArrayLike) -> Array:
    """Return `classes` as an array of names, checked to be one-dimensional and distinct."""
    names, missing = _plain("classes", classes)
    if names.ndim != 1 or not len(names) or missing.any():
        raise ValueError(
            f"classes is {shortened(names.ravel().tolist())}, expected a list of at least one "
            "name, none of them missing"
        )
    if len(np.unique(names)) < len(names):
        raise ValueError(f"classes is {shortened(names.tolist())}, expected each name once")
    return names


def are_plain(names: Array) -> bool:
    """Whether these names are the numbers 0, 1, ..., C - 1 in this order."""
    return names.dtype.kind in "iu" and np.array_equal(names, np.arange(len(names)))


def names_as_text(names: Array) -> Names:
    """The names as text, like the column names of a data frame."""
    return tuple(str(name) for name in names.tolist())


def matching_columns(columns: Names | None, names: Array | None) -> Names | None:
    """The order into which data frames with a column per class are put.

    It is the order of the classes' names; or, if the column names are whole numbers, the order of
    the numbers; or else that of `columns`, so that several frames agree.
    """
    if names is not None and not are_plain(names):
        return names_as_text(names)
    if _numbers_of(columns) is not None:
        count = len(columns or ()) if names is None else len(names)
        return names_as_text(np.arange(count))
    return columns


def read_labels(name: str, labels: Any, columns: Names | None = None) -> Any:
    """Labels as an array that `encode` reads (rows,), or soft labels (rows, classes).

    The columns of a data frame of soft labels are put into the order `columns`.
    """
    refuse_mask(labels, name)
    found = column_names(name, labels)
    if found is not None:
        if len(found) == 1:
            raise ValueError(
                f"{name} is a data frame of one column, expected the column itself: "
                f"{name}[{found[0]!r}]"
            )
        return np.asarray(frame_array(name, labels, columns), np.float64)
    if hasattr(labels, "isna") and not _is_plain_series(labels):
        values = np.array(labels, dtype=object)
        values[np.asarray(labels.isna())] = None
        return values
    if isinstance(labels, list | tuple):
        array = as_array(labels, name)
        # A NumPy array of text would have turned numbers and missing values into text.
        return np.asarray(labels, dtype=object) if array.dtype.kind in "US" else array
    is_array = hasattr(labels, "shape") and isinstance(getattr(labels, "dtype", None), np.dtype)
    return labels if is_array else as_array(labels, name)


def encode(
    name: str,
    labels: Array,
    rows: int,
    count: int | None,
    names: Array | None,
    *,
    unused: Array | None = None,
) -> Array:
    """Labels (rows,) as class indices, -1 (no label) or -100 (padding) in int64.

    Without `names` the labels themselves are the indices, of `count` classes if that is known.
    Where `unused` (rows,) is true, the row becomes padding, whatever its label.
    """
    values, missing = _plain(name, labels, unused)
    if values.shape != (rows,):
        raise ValueError(f"{name} has shape {values.shape}, expected ({rows},), one per row")
    if names is None or are_plain(names):
        if values.dtype.kind not in "iu":
            kind = "text" if values.dtype.kind == "U" else "booleans"
            raise TypeError(
                f"{name} are {kind}, expected the classes' numbers, 0 to "
                f"{(len(names) if names is not None else count or 0) - 1}"
            )
        values = np.where(missing, UNLABELLED, values) if missing.any() else values
        count = count if names is None else len(names)
        try:
            return check_labels(values, rows, count, name, unused=unused)
        except ValueError as error:
            raise ValueError(f"{error}{_names_hint(values, count)}") from None
    codes = np.full(rows, -1)
    if (values.dtype.kind == "U") == (names.dtype.kind == "U"):
        order = np.argsort(names)
        place = np.searchsorted(names[order], values).clip(max=len(names) - 1)
        codes = np.where(names[order][place] == values, order[place], -1)
    bad = (codes < 0) & ~missing
    if values.dtype.kind in "iu":
        codes[(codes < 0) & (values == PADDING)] = PADDING
        bad &= (values != UNLABELLED) & (values != PADDING)
    codes[missing] = UNLABELLED
    if unused is not None:
        bad &= ~unused
        codes[unused] = PADDING
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(
            f"{name}[{row}] is {values[row].item()!r}, expected one of the classes "
            f"{shortened(names.tolist())}"
        )
    return codes


def find_names(
    name: str,
    labels: Any,
    count: int | None,
    columns: Names | None,
    *,
    stated: bool,
    unused: Array | None = None,
) -> Array | None:
    """The names of the classes, if the labels or the teacher's columns have names, else None.

    `count` is the number of classes if it is known, and `columns` the names of the teacher's
    columns. `stated` means that the caller gave the number of classes: -1 is then not a class.

    Raises
    ------
    ValueError
        If it is ambiguous whether -1 is a class, or if the labels have more or fewer names than
        there are classes.

    Warns
    -----
    UserWarning
        If labels seem to count from 1.
    """
    numbered = _numbers_of(columns)
    if is_frame(labels) and columns is not None and numbered is None:
        return np.array(columns)
    if is_frame(labels) or len(labels.shape) != 1:
        return _unless_plain(numbered)
    values, missing = _plain(name, labels, unused)
    used = ~missing if unused is None else ~missing & ~unused
    distinct = np.unique(values[used])
    if values.dtype.kind == "b":
        return _check_count(name, np.array([False, True]), count)
    if values.dtype.kind == "U":
        if columns is not None:
            return np.array(columns)
        return _check_count(name, distinct, count) if len(distinct) else None
    if numbered is not None:
        return _unless_plain(numbered)
    if not stated:
        labelled = int((used & (values >= 0)).sum())
        _ask_about(name, distinct[distinct != PADDING], count, labelled)
    return None


def _ask_about(name: str, distinct: Array, count: int | None, labelled: int) -> None:
    """Refuse -1 if it may be a class; warn if class 0 is the only one that never occurs.

    With few labels a class may be absent by chance: if `count` classes are equally frequent, class
    0 has none of the labels with probability (1 - 1/count)^labelled. Warn if that is < 0.001.
    """
    found = distinct.tolist()
    classes = [value for value in found if value != UNLABELLED]
    if len(classes) < len(found) and classes and 0 not in classes and count in (None, len(found)):
        raise ValueError(
            f"{name} are {shortened(found)}. If -1 is a class, pass "
            f"classes={found if len(found) <= 10 else '[-1, ...]'}; if it is a row without a "
            f"label, pass n_classes={count or max(classes) + 1}"
        )
    by_chance = count is not None and (1 - 1 / count) ** labelled >= 1e-3
    if classes and not by_chance and classes == list(range(1, count or classes[-1] + 1)):
        warn(
            f"{name} count from 1 to {classes[-1]}: class 0 never occurs. If they are the names of "
            f"{len(classes)} classes, pass classes=range(1, {len(classes) + 1}), in the order of "
            "the teacher's columns; if class 0 exists, pass n_classes"
        )


def _names_hint(values: Array, count: int | None) -> str:
    names = np.unique(values[(values != UNLABELLED) & (values != PADDING)])
    if count is None or len(names) > count or 0 in names:
        return ""
    return (
        f"; if the labels are names of the {count} classes, pass classes=, the names in the order "
        "of the teacher's columns"
    )


def _check_count(name: str, names: Array, count: int | None) -> Array:
    if count is not None and count != len(names):
        raise ValueError(
            f"{name} have {len(names)} different names, {shortened(names.tolist())}, expected "
            f"{count}; pass classes=, all classes' names in the order of the teacher's columns"
        )
    return names


def _numbers_of(columns: Sequence[str] | None) -> Array | None:
    """The names of columns as numbers, if all of them are whole numbers."""
    if columns is None or not all(re.fullmatch(r"-?\d{1,18}", one) for one in columns):
        return None
    return np.array([int(one) for one in columns])


def _unless_plain(names: Array | None) -> Array | None:
    """The names; None if they are the numbers 0 to C - 1 in any order, which need no names."""
    return None if names is None or are_plain(np.sort(names)) else names


def _is_plain_series(series: Any) -> bool:
    return isinstance(series.dtype, np.dtype) and series.dtype.kind != "O"


def _plain(name: str, labels: Any, unused: Array | None = None) -> tuple[Array, Array]:
    """Labels as integers, text or booleans (rows,), and which of them are missing."""
    values = as_array(read_labels(name, labels), name)
    missing = np.zeros(values.shape, bool)
    if values.dtype.kind == "O":
        values, missing = _from_objects(name, values)
    if values.dtype.kind == "S":
        values = values.astype(str)
    if values.dtype.kind == "U":
        missing |= values == ""
    if values.dtype.kind == "f":
        missing |= np.isnan(values)
        skipped = missing if unused is None or values.shape != unused.shape else missing | unused
        bad = ~skipped & ~(np.abs(values) < 2**53) | (~skipped & (values != np.trunc(values)))
        if bad.any():
            row = int(bad.argmax())
            raise ValueError(
                f"{name}[{row}] is {values.flat[row]:g}, expected a class, a whole number "
                "(soft labels have one column for each class)"
            )
        values = np.where(skipped, UNLABELLED, values).astype(np.int64)
    if values.dtype.kind not in "iuUb":
        raise TypeError(f"{name} has dtype {values.dtype}, expected integers, text or booleans")
    return values, missing


def _from_objects(name: str, values: Array) -> tuple[Array, Array]:
    """An array of Python objects as an array of their common type, and which are missing."""
    if values.ndim != 1:
        raise ValueError(f"{name} has shape {values.shape}, expected (rows,), one label for each")
    missing = np.array([one is None or _is_nan(one) for one in values], bool)
    present = values[~missing]
    kinds: tuple[tuple[Any, Any], ...] = (
        (numbers.Integral, np.int64),
        (str, str),
        (np.bool_, bool),
        (numbers.Real, np.float64),
    )
    if any(isinstance(one, bool) for one in present):
        present = np.array(
            [np.bool_(one) if isinstance(one, bool) else one for one in present], dtype=object
        )
    for kind, dtype in kinds:
        if all(isinstance(one, kind) for one in present):
            result = np.full(values.shape, "" if dtype is str else UNLABELLED, dtype=object)
            result[~missing] = present
            return result.astype(dtype), missing
    found = sorted({type(one).__name__ for one in present})
    raise TypeError(
        f"{name} has values of the types {shortened(found, str)}, expected one type: "
        "numbers, text or booleans"
    )


def _is_nan(one: Any) -> bool:
    return isinstance(one, float | np.floating) and bool(one != one)
