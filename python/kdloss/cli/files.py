"""The files of the command line: arrays in, and results out that are whole or absent."""

import json
import math
import os
import re
import shutil
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ARRAY_HELP = (
    "An array FILE is X.npy (memory-mapped, so never read whole), X.npz:key for one array of an "
    "archive, or X.csv (numbers between commas; a first line without any number is a header)."
)

PARTIAL = ".kdloss-partial-"  # what is being written, and is left only by a killed process
Named = tuple[str, NDArray[Any]]  # an array with what the user called it


def read_matrix(file: str, flag: str, like: Named | None = None) -> NDArray[Any]:
    """Read the array (rows, columns) that `flag` names, with as many rows as `like`."""
    array = _read_array(file, flag)
    if array.ndim != 2:
        raise ValueError(f"{flag} {file}: expected shape (rows, columns), found {array.shape}")
    if like is not None:
        _check_rows((f"{flag} {file}", array), like)
    return array


def read_labels(file: str, flag: str, like: Named) -> NDArray[Any]:
    """Read one integer for each row of `like`; or soft labels, several columns of floats.

    A single column, as CSV has it, holds integers.
    """
    array = _read_array(file, flag)
    if array.ndim == 2 and array.shape[1] > 1 and array.dtype.kind == "f":
        _check_rows((f"{flag} {file}", array), like)
        return array
    array = _one_column(array, file, flag, "label", like)
    if array.dtype.kind == "f":  # as CSV is read
        wrong = np.flatnonzero(~np.isfinite(array) | (array != np.rint(array)))
        if len(wrong):
            row = wrong[0]
            raise ValueError(f"{flag} {file}: row {row} holds {array[row]}, expected an integer")
        array = array.astype(np.int64)
    return array


def read_column(file: str, flag: str, like: Named) -> NDArray[Any]:
    """Read one number for each row of `like`; a single column, as CSV has it, will do."""
    return _one_column(_read_array(file, flag), file, flag, "number", like)


def _one_column(array: NDArray[Any], file: str, flag: str, what: str, like: Named) -> NDArray[Any]:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"{flag} {file}: expected one {what} per row, found shape {array.shape}")
    _check_rows((f"{flag} {file}", array), like)
    return array


def _check_rows(given: Named, like: Named) -> None:
    (name, array), (other_name, other) = given, like
    if len(array) != len(other):
        raise ValueError(
            f"{name} has shape {array.shape}, but {other_name} has shape {other.shape}: "
            "expected the same number of rows"
        )


def _read_array(file: str, flag: str) -> NDArray[Any]:
    path, key = _split_key(file)
    where = f"{flag} {file}"
    try:
        if not path.is_file():
            raise ValueError("it is a folder" if path.is_dir() else "no such file")
        if path.suffix == ".npy":
            array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
        elif path.suffix == ".npz":
            array = _read_npz(path, key)
        elif path.suffix == ".csv":
            array = _read_csv(path)
        else:
            raise ValueError("expected a name that ends in .npy, .npz:key or .csv")
    except Exception as error:  # a damaged file makes NumPy raise nearly anything
        raise unreadable(where, error) from error
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{where}: expected real numbers, found dtype {array.dtype}")
    return array


def unreadable(what: str, error: Exception) -> ValueError:
    """Return the error for `what` that could not be read."""
    reason = error.strerror if isinstance(error, OSError) else None
    return ValueError(f"{what}: cannot be read: {reason or error or type(error).__name__}")


def _split_key(file: str) -> tuple[Path, str | None]:
    if ".npz:" in file:
        name, key = file.rsplit(".npz:", 1)
        return Path(name + ".npz"), key
    return Path(file), None


def _read_npz(path: Path, key: str | None) -> NDArray[Any]:
    if not zipfile.is_zipfile(path):
        raise ValueError("it is not an .npz archive, or is cut short")
    with np.load(path, allow_pickle=False) as archive:
        if key not in archive.files:
            found = "no key was given" if key is None else f"it has no key {key!r}"
            keys = ", ".join(archive.files)
            raise ValueError(f"{found}, expected {path.name}:KEY with a KEY of: {keys}")
        array: NDArray[Any] = archive[key]
        return array


def _read_csv(path: Path) -> NDArray[Any]:
    with path.open(encoding="utf-8-sig") as lines:
        header = not any(map(_is_number, lines.readline().split(",")))
        lines.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of having no data, which is an error below
            try:
                array = np.loadtxt(_rows(lines, header), delimiter=",", comments=None, ndmin=2)
            except ValueError as error:
                raise ValueError(_by_line(str(error), first=1 + header)) from None
    if array.size == 0:
        raise ValueError("it holds no numbers")
    return array


def _rows(lines: Iterable[str], header: bool) -> Iterator[str]:
    """Yield all lines but a header and empty ones at the end."""
    empty = None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            empty = empty or number
        elif empty:
            raise ValueError(
                f"line {empty} is empty, expected a row (a row without a label has -1)"
            )
        elif number > 1 or not header:
            yield line


def _by_line(message: str, first: int) -> str:
    """Return NumPy's message with the file's line, of which the first row is `first`."""
    found = re.fullmatch(
        r"could not convert string (.*) to float64 at row (\d+), column (\d+).", message
    )
    if found is None:
        return message
    text, row, column = found[1], int(found[2]), found[3]
    return (
        f"line {row + first}, column {column} holds {text}, expected a number; "
        "numbers stand between commas, and columns of text are left out"
    )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def to_json(value: Any) -> str:
    """Return JSON text; NaN, which JSON lacks, becomes null, and infinity a string."""
    return json.dumps(_json_ready(value), indent=2, allow_nan=False) + "\n"


def _json_ready(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_ready(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return _json_ready(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


@contextmanager
def new_file(file: str, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """Yield a temporary path beside `file`, which takes that name if the block succeeds.

    Entered before the long work, so that a place that cannot be written is known at once.
    """
    target = Path(file)
    temporary = target.with_name(f"{PARTIAL}{os.getpid()}-{target.name}")
    with _naming_out(file):
        if target.suffix not in suffixes:
            raise ValueError(f"--out {file}: expected a name that ends in {' or '.join(suffixes)}")
        if target.is_dir():
            raise ValueError(f"--out {file}: is a folder, expected a file name")
        _check_parent(target, file)
    try:
        with _naming_out(file):
            temporary.touch()
        yield temporary
        with _naming_out(file):
            temporary.replace(target)
    finally:
        with suppress(OSError):  # it has moved, or was never made
            temporary.unlink()


@contextmanager
def new_folder(folder: str, names: tuple[str, ...]) -> Iterator[Path]:
    """Yield a temporary folder; the files `names` move from it to `folder` if the block succeeds.

    An existing folder is taken only if it is empty or holds nothing but `names`, an earlier run's.
    """
    target = Path(folder)
    temporary = target / f"{PARTIAL}{os.getpid()}"
    with _naming_out(folder):
        is_new = not target.exists()
        if not is_new and not target.is_dir():
            raise ValueError(f"--out {folder}: is a file, expected a folder")
        _check_parent(target, folder)
        found = [] if is_new else sorted(item.name for item in target.iterdir())
        others = [name for name in found if name not in names and not name.startswith(PARTIAL)]
        if others:
            raise ValueError(
                f"--out {folder}: holds other files ({others[0]}), expected a new or empty folder, "
                "or an earlier run's"
            )
    done = False
    try:
        with _naming_out(folder):
            temporary.mkdir(parents=True)
        yield temporary
        with _naming_out(folder):
            for name in names:
                if (temporary / name).exists():
                    (temporary / name).replace(target / name)
                else:  # an earlier run's file would pass for this run's
                    (target / name).unlink(missing_ok=True)
        done = True
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if is_new and not done:
            with suppress(OSError):  # someone else has put a file there
                target.rmdir()


def _check_parent(target: Path, given: str) -> None:
    if not target.absolute().parent.is_dir():
        raise ValueError(f"--out {given}: there is no folder {target.parent}")


@contextmanager
def _naming_out(given: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(f"--out {given}: cannot be written: {error.strerror}") from error


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write `array` as .npy, or as .csv with digits enough to read back the same numbers."""
    if path.suffix == ".csv":
        digits = {4: "%.9g", 8: "%.17g"}[array.dtype.itemsize]
        np.savetxt(path, array, fmt=digits, delimiter=",")
    else:
        np.save(path, array)
