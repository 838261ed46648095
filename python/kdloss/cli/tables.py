"""Reads tables with polars: .csv and .tsv, also gzipped, and .parquet."""

from __future__ import annotations

import csv
import gzip
import io
import warnings
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import polars as pl

DELIMITERS = {".csv": ",", ".tsv": "\t", ".csv.gz": ",", ".tsv.gz": "\t"}
SUFFIXES = (*DELIMITERS, ".parquet")
INDEX_NAMES = ("", "Unnamed: 0", "__index_level_0__")  # pandas' names for an unnamed index
BOTH_WAYS = "--header if they are names, --no-header if they are the first row of data"


class Table(NamedTuple):
    """Columns, and whether their names come from the file; otherwise they are "0", "1", ..."""

    frame: pl.DataFrame
    named: bool

    def without(self, *names: str) -> Table:
        """Return the table without these columns."""
        return Table(self.frame.drop(names), self.named)


def suffix_of(name: str) -> str | None:
    """Return the one of `SUFFIXES` in which a file's name ends, or None."""
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def read_table(
    source: Path | bytes,
    suffix: str,
    *,
    header: bool | None,
    delimiter: str | None,
    text: Iterable[str] | None,
    where: str,
) -> Table:
    """Read a table. The columns in `text` stay text, or all if it is None; others get their type.

    If `header` is None, the first line holds names if none of its cells is a number; otherwise an
    error asks for --header or --no-header.
    """
    need_polars()
    import polars

    if suffix == ".parquet":
        frame = polars.read_parquet(io.BytesIO(source) if isinstance(source, bytes) else source)
        return Table(frame, named=True)
    delimiter = delimiter or DELIMITERS[suffix]
    first, second = _first_lines(source, delimiter)
    named = _is_header(first) if header is None else header
    rows = [second] if named else [first]
    if rows == [None]:
        raise ValueError("it has column names but no rows")
    names = first if named else [str(i) for i in range(len(first))]
    _check_names(names, len(rows[0] or []))
    try:
        frame = polars.read_csv(
            io.BytesIO(source) if isinstance(source, bytes) else source,
            has_header=False,
            skip_rows=int(named),
            new_columns=names,
            separator=delimiter,
            infer_schema=text is not None,
            infer_schema_length=None,
            schema_overrides={name: polars.String for name in text or () if name in names},
        )
    except (polars.exceptions.PolarsError, ValueError) as error:
        if "more fields" in str(error) or "new_columns" in str(error):
            raise ValueError(
                f"a line has more cells than the first line, expected {len(names)}"
            ) from None
        raise ValueError(str(error).split("\n\n")[0]) from None
    return Table(_without_empty_rows(frame, where), named)


def numbers(table: Table) -> pl.DataFrame:
    """Return the columns as float32 if all are, otherwise float64; missing values become NaN."""
    import polars

    frame, named = table
    all_single = all(dtype == polars.Float32 for dtype in frame.dtypes)
    columns = []
    for column in frame:
        if column.dtype.is_numeric() or column.dtype in (polars.Boolean, polars.Null):
            floats = column.cast(polars.Float64)
        elif column.dtype == polars.String:
            floats = _parse(column, named=named, alone=frame.width == 1)
        else:
            raise ValueError(
                f"{describe(column.name, named)} has type {column.dtype}, expected numbers; "
                + _leave_out(column.name)
            )
        columns.append(floats.fill_null(float("nan")))
    result = polars.DataFrame(columns)
    return result.cast(polars.Float32) if all_single else result


def refuse_an_index(table: Table) -> None:
    """Refuse a first column that looks like row numbers, which should not be a feature."""
    frame = table.frame
    if frame.width < 2:
        return
    name = frame.columns[0]
    if table.named and name in INDEX_NAMES:
        found = f"its first column has {'no name' if not name else f'the name {name!r}'}"
    elif _counts(frame[name]):
        found = f"{describe(name, table.named)}, the first, counts its rows"
    else:
        return
    raise ValueError(
        f"{found}, like the index of a data frame: give --drop-columns {name!r} to leave it out, "
        f"--id-column {name!r} to match the files' rows by it, or --index-is-feature"
    )


def describe(name: str, named: bool) -> str:
    """Return "column" with its name, or with its number, counted from 0."""
    return f"column {name!r}" if named else f"column {name}"


def need_polars() -> None:
    """Refuse to go on without polars, naming the extra that has it."""
    try:
        import polars  # noqa: F401
    except ImportError as error:
        raise ImportError("tables need polars: pip install 'kdloss[tables]'") from error


def is_number(cell: str) -> bool:
    """Whether Python reads the text as a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _first_lines(source: Path | bytes, delimiter: str) -> tuple[list[str], list[str] | None]:
    """The cells of the first two lines."""
    raw = source if isinstance(source, bytes) else None
    opened = io.BytesIO(raw) if raw is not None else open(source, "rb")  # noqa: SIM115
    with opened as file:
        zipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        binary = gzip.GzipFile(fileobj=file) if zipped else file
        lines = io.TextIOWrapper(binary, encoding="utf-8-sig", newline="")
        found = list(islice(csv.reader(lines, delimiter=delimiter), 2))
    if not found:
        raise ValueError("it is empty")
    if not found[0]:
        raise ValueError("its first line is empty")
    first = [cell.strip() for cell in found[0]]
    first[0] = first[0].removeprefix("#").strip()  # numpy.savetxt begins a header with "#"
    return first, found[1] if len(found) > 1 else None


def _is_header(first: list[str]) -> bool:
    count = sum(map(is_number, first))
    if count == 0:
        return True
    cells = ", ".join(first[:5]) + (", ..." if len(first) > 5 else "")
    which = "only" if count == len(first) else "also"
    raise ValueError(f"its first line holds {which} numbers ({cells}): give {BOTH_WAYS}")


def _check_names(names: list[str], cells: int) -> None:
    if len(names) != cells:
        raise ValueError(f"it has {len(names)} column names, but its first row has {cells} cells")
    for i, name in enumerate(names):
        if name in names[:i]:
            raise ValueError(
                f"two of its columns have the name {name!r}, expected each name once"
                if name
                else "two of its columns have no name, expected one at most"
            )


def _without_empty_rows(frame: pl.DataFrame, where: str) -> pl.DataFrame:
    import polars

    empty = frame.select(polars.all_horizontal(polars.all().is_null())).to_series().to_numpy()
    rows = np.flatnonzero(~empty)
    length = int(rows[-1]) + 1 if len(rows) else 0
    if not empty[:length].any() and length == len(empty):
        return frame
    if length == 0:
        raise ValueError("it holds no values")
    if empty[:length].any():
        row = int(empty.argmax())
        raise ValueError(f"row {row} (from 0) is empty, expected values (a missing label is -1)")
    extra = len(empty) - length
    warnings.warn(f"{where}: {extra} empty lines at the end are left out", stacklevel=2)
    return frame.head(length)


def _parse(column: pl.Series, *, named: bool, alone: bool) -> pl.Series:
    import polars

    floats = column.str.strip_chars().cast(polars.Float64, strict=False)
    wrong = (floats.is_null() & column.is_not_null() & (column != "")).to_numpy()
    if not wrong.any():
        return floats
    row = int(wrong.argmax())
    value = column[row]
    hint = _leave_out(column.name)
    if alone and any(mark in value for mark in ";,\t|"):
        hint = "if another character separates the cells, give it as --delimiter"
    raise ValueError(
        f"{describe(column.name, named)} holds {value!r} in row {row} (from 0), expected numbers; "
        + hint
    )


def _leave_out(name: str) -> str:
    return (
        f"encode it as numbers, leave it out with --drop-columns {name!r}, or say that it holds "
        "the ids (--id-column) or the labels (--label-column)"
    )


def _counts(column: pl.Series) -> bool:
    """Whether a column of at least three rows counts them, from 0 or from 1."""
    import polars

    if column.dtype == polars.String:
        column = column.cast(polars.Float64, strict=False)
    if len(column) < 3 or not column.dtype.is_numeric() or column.null_count():
        return False
    values = column.to_numpy()
    first = values[0]
    return bool(first in (0, 1) and np.array_equal(values, np.arange(len(values)) + first))
