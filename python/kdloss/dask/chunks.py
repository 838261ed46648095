"""Checks that Dask arrays have the same chunks of rows; the threads of a worker's task."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from .._arrays import as_array

try:
    # Imported as Any: most of Dask has no types.
    dask: Any = import_module("dask")
    distributed: Any = import_module("distributed")
    import_module("dask.array")
except ImportError as error:
    raise ImportError(f"kdloss.dask needs Dask ({error}): pip install 'kdloss[dask]'") from error

DaskArray = Any  # dask.array.Array


def is_chunked(value: Any) -> bool:
    return isinstance(value, dask.array.Array)


def chunked(name: str, value: Any, instead: str = "") -> DaskArray:
    """Check that this is a Dask array of known sizes, chunked only by rows."""
    if not is_chunked(value):
        raise TypeError(f"{name} is of type {type(value).__name__}, expected a Dask array{instead}")
    if any(math.isnan(size) for size in value.shape):
        raise ValueError(
            f"{name} has chunks of unknown sizes, expected known ones: call "
            f"{name}.compute_chunk_sizes()"
        )
    if value.ndim == 2 and value.numblocks[1] > 1:
        raise ValueError(
            f"{name} is chunked along its second axis, {value.chunks[1]}, expected each row in one "
            f"chunk: use {name}.rechunk({{1: -1}})"
        )
    return value


def matrix(name: str, value: Any, without_dask: str) -> DaskArray:
    """Check that this is a Dask array (rows, columns), chunked only by rows."""
    value = chunked(name, value, f"; for other arrays use {without_dask}")
    if value.ndim != 2:
        raise ValueError(f"{name} has shape {value.shape}, expected two dimensions")
    return value


def aligned(name: str, value: Any, like: DaskArray, *dimensions: int) -> DaskArray | None:
    """`value` as a Dask array with as many rows as `like`, in the same chunks of rows."""
    if value is None:
        return None
    if not is_chunked(value):
        value = dask.array.from_array(as_array(value, name), chunks=-1)
    if value.ndim not in dimensions:
        expected = " or ".join(map(str, dimensions))
        raise ValueError(f"{name} has {value.ndim} dimensions, expected {expected}")
    value = chunked(name, value)
    if value.shape[0] != like.shape[0]:
        raise ValueError(f"{name} has {value.shape[0]} rows, expected {like.shape[0]}")
    return value.rechunk({0: like.chunks[0]})


def number_or_rows(name: str, value: Any, like: DaskArray) -> Any:
    """A number unchanged, or an array of one number per row, `aligned`."""
    return aligned(name, value, like, 1) if np.ndim(value) else value


def parts(value: Any, count: int) -> list[Any]:
    """The chunks of an array as delayed objects; anything else repeated `count` times."""
    return list(value.to_delayed().reshape(-1)) if is_chunked(value) else [value] * count


class Block(NamedTuple):
    """The teacher, the labels, alpha and tau of some rows."""

    teacher: Any
    labels: Any
    alpha: Any
    tau: Any


def one_row(teacher: DaskArray | None, labels: DaskArray | None, alpha: Any, tau: Any) -> Block:
    """A row of zeros, labelled 0, with which to find out at once what a loss refuses or returns.

    Its alpha and tau are the given ones if these are numbers.
    """
    label = None
    if labels is not None:
        label = np.zeros((1, *labels.shape[1:]), labels.dtype)
        if label.ndim == 2:
            label[:, :1] = 1
    possible = 0.5 if teacher is not None and label is not None else float(label is not None)
    return Block(
        None if teacher is None else np.zeros((1, teacher.shape[1])),
        label,
        possible if np.ndim(alpha) else alpha,
        1.0 if np.ndim(tau) else tau,
    )


def threads_of_task() -> int:
    """The number of threads for one of this worker's tasks; 1 if there is no worker.

    Dask sets OMP_NUM_THREADS=1 in its workers, so the number has to be passed to the kernels.
    """
    try:
        state = distributed.get_worker().state
    except ValueError:
        return 1
    return max(1, int(state.nthreads) // max(1, int(state.executing_count)))
