"""Data frames (pandas, polars, Arrow) as arrays of numbers, their columns matched by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ._arrays import Array, shortened

Names = tuple[str, ...]


def is_frame(value: Any) -> bool:
    """Whether this is a table with named columns, of whatever library."""
    return hasattr(value, "columns") and hasattr(value, "shape")


def column_names(name: str, value: Any) -> Names | None:
    """The names of a frame's columns, as text; None for what is no frame."""
    if not is_frame(value):
        return None
    names = tuple(str(label) for label in _labels(value))
    if not names:
        raise ValueError(f"{name} is a data frame without columns")
    double = [one for one in dict.fromkeys(names) if names.count(one) > 1]
    if double:
        raise ValueError(f"{name} has several columns with the same name: {shortened(double)}")
    return names


def frame_array(name: str, value: Any, expected: Sequence[str] | None = None) -> Any:
    """The columns of a frame as an array (rows, columns), in the order `expected` if it is given.

    Other values are returned unchanged. Columns that are missing, unexpected or not numbers are
    refused by name.
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
            f"{name} has columns that are not numbers: {shortened(text, str)}; "
            "leave them out, or encode them as numbers"
        )
    return np.column_stack(columns)


def series_array(value: Any) -> Any:
    """A pandas or polars series of numbers as an array, None as it is; missing values are NaN."""
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
        problems += [f"has {shortened(extra)}, which was not expected"] if extra else []
        raise ValueError(
            f"the columns of {name} are not the expected ones: it {' and '.join(problems)} "
            f"(expected: {shortened(expected)}); an array, .to_numpy(), is taken by position"
        )
