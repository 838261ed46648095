"""The baseline of `tune`: a student of the labels alone, scored on the same validation rows."""

import argparse

import numpy as np
from numpy.typing import NDArray

from .._arrays import PADDING
from ..trainer import LinearStudent
from . import classes, training


def train(args: argparse.Namespace, data: training.Data, *, seed: int) -> LinearStudent | None:
    """Return a student of the labelled rows; None if there are none, or if it diverges.

    Unlabelled rows are left out, because they would learn from the teacher at any alpha. The
    validation rows are those that `LinearStudent.fit` draws from all rows with the same seed.
    """
    codes = training.row_classes(args, data)
    labelled, used = codes >= 0, codes != PADDING
    order = np.random.default_rng((seed, 0)).permutation(np.flatnonzero(used))
    held_out = np.zeros(len(used), bool)
    held_out[order[: round(len(order) * args.validation)]] = True
    weight = np.ones(len(used)) if data.sample_weight is None else data.sample_weight
    training_weight, validation_weight = (
        np.where(labelled & rows, weight, 0) for rows in (~held_out, held_out)
    )
    if not (training_weight.any() and validation_weight.any()):
        return None
    student = training.new_student(args, alpha=1.0, tau=1.0, seed=seed)
    try:
        student.fit(
            data.features,
            data.labels,
            None,
            sample_weight=training_weight,
            validation=(data.features, data.labels, None, validation_weight),
            **classes.options(training.find_classes(args, data)),
        )
    except FloatingPointError:
        return None
    return student


def verdict(gain: NDArray[np.float64], name: str) -> str:
    """Say whether the best pair beats the labels alone, from its gain (seeds,) in a metric."""
    mean = float(gain.mean())
    if np.isnan(mean):
        return "baseline: none, a student of the labels alone could not be trained"
    if len(gain) == 1:
        return f"against the labels alone: {mean:+.4f} in {name}; one seed shows no spread"
    spread = float(gain.std(ddof=1))
    by = f"by {abs(mean):.4f} ± {spread:.4f} in {name}"
    if mean > spread:
        return f"the best pair beats the labels alone {by}, more than the seeds differ"
    if mean > 0:
        return f"the best pair beats the labels alone {by}, no more than the seeds differ"
    return f"the best pair does not beat the labels alone, which are better {by}"
