"""Reads the files of a command, checks what they hold, and puts their rows into one order."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from . import console, rows, tables
from .arrays import read_npy, read_npz
from .tables import Table

if TYPE_CHECKING:
    import polars as pl

    Values = NDArray[Any] | pl.DataFrame  # a frame if the columns have names
    V = TypeVar("V", NDArray[Any], pl.DataFrame, Values)

FILE_HELP = (
    "FILE is a table, .csv, .tsv (both also as .gz) or .parquet; or an array, .npy (memory-mapped, "
    "so it may be larger than memory) or NAME.npz:KEY for one array of an archive; or - for "
    "standard input. Tables need the extra: pip install 'kdloss[tables]'."
)
FLAGS = ("header", "delimiter", "id_column", "label_column", "drop_columns", "index_is_feature")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how tables are read."""
    group = parser.add_argument_group("tables")
    group.add_argument(
        "--header",
        action=argparse.BooleanOptionalAction,
        help="whether the first line holds column names; by default it does if none of its cells "
        "is a number, and otherwise this flag is required",
    )
    group.add_argument(
        "--delimiter",
        metavar="X",
        help="the character between cells (default: a comma, or a tab in .tsv)",
    )
    group.add_argument(
        "--id-column",
        metavar="NAME",
        help="match the rows of all files by the ids in this column, which each file must have",
    )
    group.add_argument(
        "--label-column",
        metavar="NAME",
        help="the column with the labels, in the file of --labels if given, else in --features",
    )
    group.add_argument(
        "--drop-columns",
        metavar="NAME,...",
        type=lambda text: text.split(","),
        default=[],
        help="leave out these columns, in each table that has them",
    )
    group.add_argument(
        "--index-is-feature",
        action="store_true",
        help="keep a first column that has no name or counts the rows (otherwise refused)",
    )
    group.add_argument(
        "--stdin-format",
        choices=("csv", "tsv", "parquet", "npy"),
        help="the format of standard input, if FILE is -",
    )


def flags(args: argparse.Namespace) -> list[str]:
    """Return these flags as they were given."""
    words: list[str] = []
    for name in FLAGS:
        value, flag = getattr(args, name), console.flag(name)
        if value is True:
            words.append(flag)
        elif value is False and name == "header":
            words.append("--no-header")
        elif value:
            words += [flag, value if isinstance(value, str) else ",".join(value)]
    if "-" in vars(args).values():
        words += ["--stdin-format", args.stdin_format]
    return words


class _Found(NamedTuple):
    """The contents of a file without its ids, the ids, and the flag and name that the user gave."""

    where: str
    content: NDArray[Any] | Table
    ids: list[str] | None


class Reader:
    """Reads one command's files. All must have the rows of the first one."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._like: rows.Rows | None = None
        self._not_dropped = set(args.drop_columns)
        self._stdin_was_read = False
        if args.delimiter is not None and (len(args.delimiter) != 1 or args.delimiter == '"'):
            raise ValueError(f"--delimiter is {args.delimiter!r}, expected one character")

    def features(
        self,
        file: str,
        *,
        labels_elsewhere: bool,
        known: tuple[str, ...] | None = None,
    ) -> tuple[Values, Values | None]:
        """Read --features, and the labels if they are a column of the same table.

        A label column is not a feature, even if the labels are read from another file. A first
        column whose name is in `known`, the features of a student, is not refused as an index.
        """
        found = self._open(file, "--features")
        name, table = self._args.label_column, found.content
        labels: Values | None = None
        if name is not None and isinstance(table, Table):
            if not labels_elsewhere:
                labels = label_values(
                    _column(table, name, "--label-column", found.where), found.where
                )
            if name in table.frame.columns:
                found = found._replace(content=table.without(name))
        elif name is not None and not labels_elsewhere:
            raise ValueError(f"{found.where} is an array, expected a table for --label-column")
        return self._side_by_side(found, self._matrix(found, known)), labels

    def matrix(self, file: str, flag: str) -> Values:
        """Read numbers (rows, columns)."""
        found = self._open(file, flag)
        return self._side_by_side(found, self._matrix(found))

    def column(self, file: str, flag: str) -> NDArray[Any]:
        """Read one number per row: a table of one column, or an array (rows,) or (rows, 1)."""
        found = self._open(file, flag)
        array = found.content
        if isinstance(array, Table):
            array = np.asarray(self._matrix(found))
        _check_numeric(array, found.where)
        return self._side_by_side(found, _one_column(array, found.where, "number"))

    def labels(self, file: str, flag: str) -> Values:
        """Read one label per row, a class's number or name; or soft labels, in several columns."""
        found = self._open(file, flag, all_text=True)
        array = found.content
        if isinstance(array, Table):
            return self._side_by_side(found, self._labels_of_table(array, found))
        if array.ndim == 2 and array.shape[1] > 1 and array.dtype.kind == "f":
            return self._side_by_side(found, array)
        if array.dtype.kind not in "iufUb":
            raise ValueError(f"{found.where}: expected numbers or names, found {array.dtype}")
        labels = _one_column(array, found.where, "label")
        if labels.dtype.kind == "f":
            labels = _whole_numbers(labels, found.where)
        return self._side_by_side(found, labels)

    def finish(self) -> None:
        """Refuse columns of --drop-columns that none of the files has."""
        if self._not_dropped:
            names = ", ".join(map(repr, sorted(self._not_dropped)))
            raise ValueError(f"--drop-columns is {names}, expected columns of a table that is read")

    @property
    def ids(self) -> Sequence[str] | None:
        """The ids of the first file's rows, or None."""
        return None if self._like is None else self._like.ids

    def _labels_of_table(self, table: Table, found: _Found) -> Values:
        name = self._args.label_column
        if name is not None:
            return label_values(_column(table, name, "--label-column", found.where), found.where)
        if table.frame.width == 1:
            return label_values(table.frame.to_series(), found.where)
        try:
            return self._matrix(found)
        except ValueError as error:
            raise ValueError(
                f"{error}; expected soft labels, all numbers, or --label-column with the name of "
                "the labels' column"
            ) from None

    def _matrix(self, found: _Found, known: tuple[str, ...] | None = None) -> Values:
        """The numbers of a file; refuses a first column that looks like an index."""
        table = found.content
        if not isinstance(table, Table):
            _check_numeric(table, found.where)
            if table.ndim != 2:
                raise ValueError(
                    f"{found.where}: expected shape (rows, columns), found {table.shape}"
                )
            return table
        if table.frame.width == 0:
            raise ValueError(f"{found.where}: no column is left, expected at least one")
        try:
            if not self._args.index_is_feature and table.frame.columns[0] not in (known or ()):
                tables.refuse_an_index(table)
            values = tables.numbers(table)
        except ValueError as error:
            raise ValueError(f"{found.where}: {error}") from None
        return values if table.named else values.to_numpy()

    def _side_by_side(self, found: _Found, values: V) -> V:
        """The rows in the order of the first file."""
        given = rows.Rows(found.where, tuple(values.shape), found.ids)
        if self._like is None:
            self._like = given
            return values
        order = rows.order(given, self._like)
        if order is None:
            return values
        ordered: V = values[order]
        return ordered

    def _open(self, file: str, flag: str, *, all_text: bool = False) -> _Found:
        where = f"{flag} {file}"
        try:
            content = self._read(file, where, all_text)
        except ImportError:
            raise
        except Exception as error:  # a damaged file makes NumPy and polars raise nearly anything
            raise unreadable(where, error) from error
        name = self._args.id_column
        if not isinstance(content, Table):
            if name is not None:
                raise ValueError(f"{where} is an array, expected a table for --id-column")
            return _Found(where, content, None)
        ids = None
        if name is not None:
            ids = rows.checked_ids(_column(content, name, "--id-column", where), where)
            content = content.without(name)
        dropped = [name for name in self._args.drop_columns if name in content.frame.columns]
        self._not_dropped -= set(dropped)
        return _Found(where, content.without(*dropped), ids)

    def _read(self, file: str, where: str, all_text: bool) -> NDArray[Any] | Table:
        source, suffix, key = self._find(file)
        if suffix == ".npy":
            return read_npy(source)
        if isinstance(source, Path) and suffix == ".npz":
            return read_npz(source, key)
        text = (self._args.id_column, self._args.label_column)
        return tables.read_table(
            source,
            suffix,
            header=self._args.header,
            delimiter=self._args.delimiter,
            text=None if all_text else [name for name in text if name is not None],
            where=where,
        )

    def _find(self, file: str) -> tuple[Path | bytes, str, str | None]:
        """A file's path or content, its suffix, and the key of an archive's array."""
        if file == "-":
            if self._args.stdin_format is None:
                raise ValueError("standard input needs a format, such as --stdin-format csv")
            if self._stdin_was_read:
                raise ValueError("standard input was already read for another FILE")
            self._stdin_was_read = True
            return sys.stdin.buffer.read(), "." + self._args.stdin_format, None
        archive, colon, key = file.rpartition(".npz:")
        path = Path(archive + ".npz") if colon else Path(file)
        if not path.is_file():
            raise ValueError("it is a folder" if path.is_dir() else "no such file")
        suffix = path.suffix if path.suffix in (".npy", ".npz") else tables.suffix_of(path.name)
        if suffix is None:
            expected = ", ".join((".npy", ".npz:key", *tables.SUFFIXES))
            raise ValueError(f"expected a name that ends in one of {expected}")
        return path, suffix, key if colon else None


def label_values(column: pl.Series, where: str) -> NDArray[Any]:
    """Return a column's labels: integers if all are whole numbers, otherwise names.

    If labels are names, an empty cell marks a row that only the teacher labels.
    """
    import polars

    text = column.cast(polars.String).str.strip_chars().fill_null("")
    cells = text.to_list()
    given = [cell for cell in cells if cell]
    are_codes = any(re.fullmatch(r"0\d+", cell) for cell in given)  # 007 is a name
    if not given or are_codes or not all(map(tables.is_number, given)):
        return np.array(cells)
    if len(given) < len(cells):
        row = cells.index("")
        raise ValueError(
            f"{where}: row {row} (from 0) has no label, expected a class, or -1 for unlabelled"
        )
    if all(re.fullmatch(r"[+-]?\d+", cell) for cell in given):
        return np.array(cells, np.int64)
    return _whole_numbers(np.array(cells, np.float64), where)


def unreadable(what: str, error: Exception) -> ValueError:
    """Return the error that says that `what` cannot be read."""
    reason = error.strerror if isinstance(error, OSError) else None
    return ValueError(f"{what}: cannot be read: {reason or error or type(error).__name__}")


def _column(table: Table, name: str, flag: str, where: str) -> pl.Series:
    if name in table.frame.columns:
        return table.frame[name]
    found = ", ".join(map(repr, table.frame.columns[:10]))
    more = ", ..." if table.frame.width > 10 else ""
    raise ValueError(f"{where}: {flag} is {name!r}, expected one of its columns: {found}{more}")


def _whole_numbers(array: NDArray[Any], where: str) -> NDArray[Any]:
    wrong = np.flatnonzero(~np.isfinite(array) | (array != np.rint(array)))
    if len(wrong):
        row = wrong[0]
        raise ValueError(f"{where}: row {row} holds {array[row]}, expected an integer")
    return array.astype(np.int64)


def _one_column(array: NDArray[Any], where: str, what: str) -> NDArray[Any]:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"{where}: expected one {what} per row, found shape {array.shape}")
    return array


def _check_numeric(array: NDArray[Any], where: str) -> None:
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{where}: expected real numbers, found dtype {array.dtype}")
