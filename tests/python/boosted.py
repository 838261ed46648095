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
    y[:classes] = range(classes)  # every class is there
    return Data(X, y, teacher, rng.uniform(0.2, 3, rows))


def two_logits(margins):
    """The logits (0, z) of the margins z (N,); what has a column for each class stays."""
    return margins if margins.ndim == 2 else np.stack([0 * margins, margins], axis=1)


def copies(tmp_path, original):
    """The object after pickle and joblib, and what deepcopy and scikit-learn's clone give."""
    joblib.dump(original, tmp_path / "object")
    yield pickle.loads(pickle.dumps(original))
    yield joblib.load(tmp_path / "object")
    same = copy.deepcopy(original)
    assert same is original
    yield same
