"""Rows for the tests of boosters: features without ties, labels, a teacher, weights."""

import copy
import pickle
from typing import NamedTuple

import joblib
import numpy as np


class Data(NamedTuple):
    """Features (N, D), labels (N,), teacher logits (N, K), weights (N,)."""

    X: np.ndarray
    y: np.ndarray
    teacher: np.ndarray
    weights: np.ndarray

    @property
    def classes(self):
        return self.teacher.shape[1]


def data(classes=4, rows=400, seed=0, dtype=np.float64):
    rng = np.random.default_rng((classes, rows, seed))
    X = rng.normal(size=(rows, 6)).astype(dtype)
    teacher = 2 * X @ rng.normal(size=(6, classes)) + rng.normal(size=(rows, classes))
    y = (teacher + 2 * rng.gumbel(size=teacher.shape)).argmax(axis=1)
    y[:classes] = range(classes)  # every class occurs
    return Data(X, y, teacher, rng.uniform(0.2, 3, rows))


def two_logits(margins):
    """Margins z (N,) as logits (0, z); an array with a column for each class unchanged."""
    return margins if margins.ndim == 2 else np.stack([0 * margins, margins], axis=1)


def copies(tmp_path, original):
    """Copies of the object by pickle, joblib, deepcopy and scikit-learn's clone."""
    joblib.dump(original, tmp_path / "object")
    yield pickle.loads(pickle.dumps(original))
    yield joblib.load(tmp_path / "object")
    same = copy.deepcopy(original)
    assert same is original
    yield same
