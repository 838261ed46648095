"""Converts data frames (pandas, polars, Arrow) to arrays of numbers, matching columns by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ._arrays import Array, shortened

Names = tuple[str, ...]


def is_frame(value: Any) -> bool:
    """Whether this is a table with named columns, of any library."""
    return hasattr(value, "columns") and hasattr(value, "shape")


def column_names(name: str, value: Any) -> Names | None:
    """The names of a frame's columns, as text; None if this is not a frame."""
    if not is_frame(value):
        return None
    names = tuple(str(label) for label in _labels(value))
    if not names:
        raise ValueError(f"{name} is a data frame without columns, expected at least one")
    double = [one for one in dict.fromkeys(names) if names.count(one) > 1]
    if double:
        raise ValueError(
            f"{name} has several columns with the name {shortened(double)}, expected each name once"
        )
    return names


def frame_array(name: str, value: Any, expected: Sequence[str] | None = None) -> Any:
    """A frame as an array (rows, columns), its columns in the order `expected` if that is given.

    Values that are not frames are returned unchanged. Errors name the columns that are missing,
    unexpected or not numbers.
    """
    names = column_names(name, value)
    if names is None:
        return value
    if expected is not None:
        _check_names(name, names, expected)
    by_name = dict(zip(names, _labels(value), strict=True))
    columns = [_column_array(value[by_name[one]]) for one in expected or names]
    text = [
        f"{one!r} ({value[by_name[one]].dtype if hasattr(value, 'dtypes') else column.dtype})"
        for one, column in zip(expected or names, columns, strict=True)
        if column.dtype.kind not in "fiub"
    ]
    if text:
        raise TypeError(
            f"{name} has the columns {shortened(text, str)}, expected numbers; "
            "leave them out, or encode them as numbers"
        )
    return np.column_stack(columns)


def series_array(value: Any) -> Any:
    """A pandas or polars series as an array, its missing values NaN; anything else unchanged."""
    is_series = hasattr(value, "to_numpy") and not is_frame(value)
    return _column_array(value) if is_series else value


def _labels(frame: Any) -> list[Any]:
    # An Arrow table's `columns` are the columns themselves.
    return list(getattr(frame, "column_names", frame.columns))


def _column_array(column: Any) -> Array:
    array = np.asarray(column.to_numpy())
    if array.dtype.kind == "O" and getattr(column.dtype, "kind", "O") in "fiub":
        return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))  # pandas' Int64
    return array


def _check_names(name: str, found: Sequence[str], expected: Sequence[str]) -> None:
    missing = [one for one in expected if one not in set(found)]
    extra = [one for one in found if one not in set(expected)]
    if missing or extra:
        problems = [f"lacks {shortened(missing)}"] if missing else []
        problems += [f"has the unknown {shortened(extra)}"] if extra else []
        raise ValueError(
            f"{name} {' and '.join(problems)}, expected the columns {shortened(expected)}; "
            "to match columns by position, pass an array (.to_numpy())"
        )
