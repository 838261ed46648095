"""Reads arrays: .npy files, memory-mapped, and single arrays of .npz archives."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def read_npy(source: Path | bytes) -> NDArray[Any]:
    """Memory-map a file, or read the bytes of one."""
    if isinstance(source, bytes):
        array: NDArray[Any] = np.load(io.BytesIO(source), allow_pickle=False)
        return array
    return np.lib.format.open_memmap(source, mode="r")


def read_npz(path: Path, key: str | None) -> NDArray[Any]:
    """Read the array `key` of an archive."""
    if not zipfile.is_zipfile(path):
        raise ValueError("it is not an .npz archive, or is incomplete")
    with np.load(path, allow_pickle=False) as archive:
        if key not in archive.files:
            found = "no key was given" if key is None else f"it has no key {key!r}"
            keys = ", ".join(archive.files)
            raise ValueError(f"{found}, expected {path.name}:KEY with a KEY of: {keys}")
        array: NDArray[Any] = archive[key]
        return array
