"""Reads and writes a student's file: one .npz of plain arrays, replaced atomically."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from .._arrays import Array
from .class_names import check_classes
from .columns import Columns
from .epochs import State
from .settings import Settings

FORMAT = 2  # format 1 had no names, mean and scale


def write(
    path: str | os.PathLike[str], settings: Settings, state: State, served: Array, columns: Columns
) -> None:
    """Write a student; `served` (D + 1, C) are the weights and bias that it predicts with."""
    optional = {"features": columns.features, "mean": columns.mean, "scale": columns.scale}
    entries: dict[str, Any] = {
        name: np.asarray(value) for name, value in optional.items() if value is not None
    }
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        with open(unfinished, "wb") as file:
            np.savez(
                file,
                kdloss_student=FORMAT,
                settings=json.dumps(dataclasses.asdict(settings)),
                history=json.dumps(state.history),
                weights=served[:-1],
                bias=served[-1],
                parameters=state.parameters,
                velocity=state.velocity,
                classes=columns.classes,
                **entries,
            )
            file.flush()
            os.fsync(file.fileno())  # otherwise a crash could leave an empty file
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def read(path: str | os.PathLike[str]) -> tuple[Settings, State, Columns]:
    """Return what `write` wrote; nothing in the file is executed."""
    problem = f"{os.fspath(path)} is not a student written by LinearStudent.save: "
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as entries:
            arrays = dict(entries)
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(problem + "it is not an .npz file of plain arrays") from error
    found = arrays["kdloss_student"].tolist() if "kdloss_student" in arrays else "missing"
    if found not in (1, FORMAT):
        raise ValueError(problem + f"its format is {found}, expected 1 to {FORMAT}")
    try:
        settings = Settings(**json.loads(str(arrays["settings"])))
        history = json.loads(str(arrays["history"]))
        if not isinstance(history, list):
            raise ValueError(f"its history is {history!r}, expected a list")
        weights, bias = arrays["weights"], arrays["bias"]
        parameters, velocity = arrays["parameters"], arrays["velocity"]
        classes = np.arange(bias.size) if found == 1 else check_classes(arrays["classes"])
        features = tuple(arrays["features"].tolist()) if "features" in arrays else None
        mean, scale = arrays.get("mean"), arrays.get("scale")
    except KeyError as error:
        raise ValueError(problem + f"it has no entry {error}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(problem + str(error)) from error
    if weights.ndim != 2 or not (
        weights.shape[1:] == bias.shape
        and parameters.shape == velocity.shape == (len(weights) + 1, *bias.shape)
        and weights.dtype == bias.dtype == parameters.dtype == velocity.dtype
        and weights.dtype in (np.float32, np.float64)
        and classes.shape == bias.shape
        and (features is None or len(features) == len(weights))
        and settings.standardize == (mean is not None) == (scale is not None)
        and all(
            one is None or (one.shape == weights.shape[:1] and one.dtype == weights.dtype)
            for one in (mean, scale)
        )
    ):
        raise ValueError(problem + "its arrays do not fit together")
    state = State(parameters, velocity, np.vstack([weights, bias]), history)
    return settings, state, Columns(features, classes, mean, scale)
