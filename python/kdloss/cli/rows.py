"""Matches the rows of several files: by their ids if given, otherwise by position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import polars as pl


class Rows(NamedTuple):
    """A file as the user named it, its shape, and the ids of its rows, if any."""

    where: str
    shape: tuple[int, ...]
    ids: Sequence[str] | None = None


def checked_ids(column: pl.Series, where: str) -> list[str]:
    """Return the ids of a column as text, checked to be present and different in all rows."""
    import polars

    ids: list[str] = []
    seen: set[str] = set()
    for row, name in enumerate(column.cast(polars.String)):
        if name in (None, ""):
            raise ValueError(f"{where}: column {column.name!r} has no id in row {row} (from 0)")
        if name in seen:
            raise ValueError(f"{where}: id {name!r} occurs twice, again in row {row} (from 0)")
        ids.append(name)
        seen.add(name)
    return ids


def order(given: Rows, like: Rows) -> NDArray[np.int64] | None:
    """Return the order that matches the rows of `given` to those of `like`; None if they match."""
    if given.ids is None or like.ids is None:
        if given.shape[0] != like.shape[0]:
            raise ValueError(
                f"{given.where} has shape {given.shape}, expected {like.shape[0]} rows, as "
                f"{like.where} has"
            )
        return None
    at = {name: row for row, name in enumerate(given.ids)}
    _refuse_missing(given.where, like.where, [name for name in like.ids if name not in at])
    known = set(like.ids)
    _refuse_missing(like.where, given.where, [name for name in given.ids if name not in known])
    found = np.array([at[name] for name in like.ids], np.int64)
    return None if np.array_equal(found, np.arange(len(found))) else found


def _refuse_missing(where: str, other: str, missing: list[str]) -> None:
    if missing:
        shown = ", ".join(map(repr, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise ValueError(
            f"{where} lacks {len(missing)} of the ids of {other}, expected the same ids in both: "
            f"{shown}"
        )
