"""Warns after training if it does not seem to have worked."""

from __future__ import annotations

import numpy as np

from .._arrays import Array, warn
from .epochs import Record, compute_logits
from .rows import Rows, standardize, take

ROWS = 4096  # at most this many labelled rows are predicted, evenly spaced
EPOCHS = 5  # after fewer epochs a student is not expected to have learnt the labels
SLACK = 1.01  # a loss counts as larger if it is by this factor: SGD is noisy


def warn_of_outcome(history: list[Record], parameters: Array, data: Rows, names: Array) -> None:
    """Warn if the scores of the epochs show that the student has not learnt.

    - The loss of the last epoch is larger than that of the first.
    - The student learns from labels alone (alpha is 1 and every row labelled), and the hard loss of
      the last epoch is larger than the entropy -sum_c f_c log f_c of the frequencies f of the
      classes, which is the loss of always predicting f.
    - All labelled rows get the same class, although their labels have several. This is checked, by
      predicting rows, only if the accuracy is no larger than the share of the most frequent class.

    The last two need at least five epochs.
    """
    first, last = history[0], history[-1]
    if last["loss"] > SLACK * first["loss"]:
        warn(
            f"the loss ends at {last['loss']:.4g}, above the {first['loss']:.4g} of the first "
            "epoch: training has not worked. Use a smaller learning_rate, or standardize=True if "
            "the features have large or different scales"
        )
    labelled = data.rows[data.known[data.rows] >= 0]
    if not len(labelled) or len(history) < EPOCHS:
        return
    weight = None if data.weight is None else data.weight[labelled]
    share = np.bincount(data.known[labelled], weights=weight, minlength=data.classes)
    share = share / share.sum()
    if _learns_from_labels_alone(data, labelled):
        entropy = float(-(share[share > 0] * np.log(share[share > 0])).sum())
        if last["hard"] > SLACK * entropy and (share > 0).sum() > 1:
            warn(
                f"the hard loss ends at {last['hard']:.4g}, above the {entropy:.4g} of always "
                "predicting the frequencies of the classes in the labels. Train for more epochs, "
                "change learning_rate, or use standardize=True"
            )
    if (share > 0).sum() > 1 and last["accuracy"] <= share.max() + 1e-9:
        _warn_of_one_class(parameters, data, labelled, names)


def _warn_of_one_class(parameters: Array, data: Rows, labelled: Array, names: Array) -> None:
    if len(labelled) > ROWS:
        labelled = labelled[np.linspace(0, len(labelled) - 1, ROWS).astype(np.intp)]
    size = max(1, 2**20 // data.features)
    predicted = np.concatenate(
        [
            compute_logits(
                standardize(take(data.X, rows, data.dtype), data.mean, data.scale), parameters
            ).argmax(axis=1)
            for rows in np.split(labelled, range(size, len(labelled), size))
        ]
    )
    labels = np.unique(data.known[labelled])
    if (predicted == predicted[0]).all() and len(labels) > 1:
        warn(
            f"the student predicts {names[predicted[0]].item()!r} for all of {len(labelled):,} "
            f"labelled training rows, whose labels have {len(labels)} classes. Train for more "
            "epochs, use standardize=True, or give rare classes more sample_weight"
        )


def _learns_from_labels_alone(data: Rows, labelled: Array) -> bool:
    alpha = data.alpha if isinstance(data.alpha, float) else float(data.alpha[data.rows].min())
    return alpha == 1 and len(labelled) == len(data.rows)
