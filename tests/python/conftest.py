"""Fixtures for all tests: float types, memory layouts, child processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import hypothesis
import numpy as np
import pytest

import kdloss

# The same examples in every run; nothing is stored on disk.
hypothesis.settings.register_profile(
    "kdloss", max_examples=60, derandomize=True, database=None, deadline=None
)
hypothesis.settings.load_profile("kdloss")


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """float32 or float64."""
    return np.dtype(request.param)


@pytest.fixture(params=[5, 200, 3000], ids=["few", "many", "thousands"])
def classes(request):
    """Numbers of classes below and above those where the kernels change their method."""
    return request.param


def _rows_apart(array):
    spread = np.full((3 * len(array), array.shape[1]), np.nan, array.dtype)
    spread[1::3] = array
    return spread[1::3]


def _columns_apart(array):
    spread = np.full((len(array), 2 * array.shape[1]), np.nan, array.dtype)
    spread[:, 1::2] = array
    return spread[:, 1::2]


def _inner_block(array):
    rows, classes = array.shape
    frame = np.full((rows + 3, classes + 5), np.nan, array.dtype)
    frame[2:-1, 3:-2] = array
    return frame[2:-1, 3:-2]


LAYOUTS = {
    "C-order": np.ascontiguousarray,
    "F-order": np.asfortranarray,
    "rows-apart": _rows_apart,
    "columns-apart": _columns_apart,
    "F-order-rows-apart": lambda array: _columns_apart(array.T.copy()).T,
    "inner-block": _inner_block,
    "rows-reversed": lambda array: array[::-1].copy()[::-1],
    "columns-reversed": lambda array: array[:, ::-1].copy()[:, ::-1],
    "F-order-reversed": lambda array: array[::-1, ::-1].copy(order="F")[::-1, ::-1],
}


@pytest.fixture(params=list(LAYOUTS.values()), ids=list(LAYOUTS))
def layout(request):
    """A function that copies a 2-D array into another memory layout."""
    return request.param


@pytest.fixture(scope="session")
def child():
    """A function that runs code in a new process and returns the JSON that it prints."""

    def run(code, *arguments, check=True, **environment):
        path = [str(Path(kdloss.__file__).parents[1]), str(Path(__file__).parent)]
        finished = subprocess.run(
            [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path)} | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        if not check:
            return finished
        assert finished.returncode == 0, finished.stderr
        return json.loads(finished.stdout)

    return run
