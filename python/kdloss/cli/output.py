"""Writes results atomically: arrays, tables, JSON, and folders with the files of a run."""

import csv
import errno
import json
import math
import os
import shutil
import socket
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .tables import need_polars

PARTIAL = ".kdloss-partial-"  # unfinished files; those of a killed process the next run removes
OURS = f"{PARTIAL}{socket.gethostname()}-{os.getpid()}"


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
    """Yield a temporary path next to `file`, renamed to `file` if the block succeeds.

    Enter it before the long work: it fails at once if the place cannot be written.
    """
    target = Path(file)
    temporary = target.with_name(f"{OURS}-{target.name}")
    with naming_out(file):
        if not target.name.endswith(suffixes):
            raise ValueError(f"--out {file}: expected a name that ends in {' or '.join(suffixes)}")
        if target.is_dir():
            raise ValueError(f"--out {file}: is a folder, expected a file name")
        _check_parent(target, file)
        _remove_leftovers(target.parent)
    try:
        with naming_out(file):
            temporary.touch()
        yield temporary
        with naming_out(file):
            temporary.replace(target)
    finally:
        with suppress(OSError):  # it was renamed, or never created
            temporary.unlink()


class Folder:
    """A folder of results; files are written in `partial` and moved to `target` when complete."""

    def __init__(self, target: Path, partial: Path, names: tuple[str, ...]) -> None:
        self.target, self.partial, self._names = target, partial, names
        self.published = False

    def publish(self, *, kept: Collection[str] = ()) -> None:
        """Move the files in `partial`; at first, remove an earlier run's files except `kept`."""
        with naming_out(str(self.target)):
            for name in self._names:
                if (self.partial / name).exists():
                    (self.partial / name).replace(self.target / name)
                elif not self.published and name not in kept:
                    # An earlier run's file would be mistaken for this run's.
                    (self.target / name).unlink(missing_ok=True)
        self.published = True


@contextmanager
def new_folder(folder: str, names: tuple[str, ...]) -> Iterator[Folder]:
    """Yield a folder whose files, `names`, are published at the end of the block, or before by it.

    An existing folder is accepted only if it holds nothing but `names`, from an earlier run.
    """
    target = Path(folder)
    result = Folder(target, target / OURS, names)
    with naming_out(folder):
        is_new = not target.exists()
        if not is_new and not target.is_dir():
            raise ValueError(f"--out {folder}: is a file, expected a folder")
        _check_parent(target, folder)
        if not is_new:
            _remove_leftovers(target)
        found = [] if is_new else sorted(item.name for item in target.iterdir())
        others = [name for name in found if name not in names and not name.startswith(PARTIAL)]
        if others:
            raise ValueError(
                f"--out {folder}: holds other files ({others[0]}), expected a new or empty folder, "
                "or that of an earlier run"
            )
    try:
        with naming_out(folder):
            result.partial.mkdir(parents=True)
        yield result
        result.publish()
    finally:
        shutil.rmtree(result.partial, ignore_errors=True)
        if is_new and not result.published:
            with suppress(OSError):  # not empty: another program has put a file there
                target.rmdir()


def _remove_leftovers(folder: Path) -> None:
    """Remove the unfinished files of processes of this machine that no longer run."""
    ours = f"{PARTIAL}{socket.gethostname()}-"
    for left in folder.glob(f"{PARTIAL}*"):
        number = left.name.removeprefix(ours).split("-")[0]
        if not left.name.startswith(ours) or not number.isdigit() or _runs(int(number)):
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            with suppress(OSError):
                left.unlink()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # such as another user's process
        return True
    return True


def _check_parent(target: Path, given: str) -> None:
    if not target.absolute().parent.is_dir():
        raise ValueError(f"--out {given}: there is no folder {target.parent}")


@contextmanager
def naming_out(given: str, name: str | None = None, size: int = 0) -> Iterator[None]:
    """Turn an OSError into an error that names --out, the file in it, and its size in bytes."""
    try:
        yield
    except OSError as error:
        what = f"--out {given}" if name is None else f"--out {given}: {name}"
        reason = error.strerror or "the disk is full"  # NumPy's error has no strerror
        needs = ""
        if size:
            place = Path(given) if Path(given).is_dir() else Path(given).absolute().parent
            free = shutil.disk_usage(place).free
            needs = f"; it needs about {size:,} bytes, and the disk has {free:,} free"
        raise ValueError(f"{what}: cannot be written: {reason}{needs}") from error


def write_array(
    path: Path,
    array: NDArray[Any],
    *,
    names: Sequence[str],
    ids: Sequence[str] | None = None,
    id_name: str = "id",
) -> None:
    """Write `array` (rows,) or (rows, names) as .npy, or as a table with column names and ids.

    Text has enough digits to read back the same numbers.
    """
    if path.suffix == ".npy":
        np.save(path, array)
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            size = file.tell() + array.nbytes
        if path.stat().st_size != size:  # on a full disk np.save may lose bytes without an error
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return
    columns = array.reshape(len(array), -1).T
    if path.suffix == ".parquet":
        need_polars()
        import polars

        table = {} if ids is None else {id_name: ids}
        table |= dict(zip(names, columns, strict=True))
        polars.DataFrame(table).write_parquet(path)
        return
    delimiter = "\t" if path.suffix == ".tsv" else ","
    form = {"f4": "%.9g", "f8": "%.17g"}.get(array.dtype.str[1:], "%s")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow([*([] if ids is None else [id_name]), *names])
        for row, values in enumerate(zip(*columns, strict=True)):
            cells = [form % value for value in values]
            writer.writerow(cells if ids is None else [ids[row], *cells])
