"""Random batches that use any of the options of the losses."""

from itertools import combinations

import numpy as np

# Numbers of classes below and above the kernels' limits; rows for full vectors and a remainder.
ROWS = {1: 18, 3: 35, 10: 21, 200: 19, 700: 9, 3000: 6}
CLASSES = [3, 10, 200, 3000]


def labels_of_every_kind(rng, rows, classes, dtype):
    """Classes, -1 and -100."""
    labels = rng.integers(0, classes, rows)
    labels[2::7], labels[4::9] = -1, -100
    return labels


def soft_labels(rng, rows, classes, dtype):
    """Probabilities, some of them 0, one-hot rows and rows of zeros."""
    y = rng.dirichlet(np.full(classes, 0.5), rows)
    y[:, 0] = 0
    y /= y.sum(axis=1, keepdims=True)
    y[1::4] = 0
    y[1::4, rng.integers(0, classes)] = 1
    y[2::7] = 0
    return y.astype(dtype)


def alphas(rng, rows, classes, dtype):
    values = rng.random(rows)
    values[::5], values[3::5] = 0, 1
    return values


def taus(rng, rows, classes, dtype):
    """Powers of two, other integers, fractions."""
    return np.where(rng.random(rows) < 0.5, rng.integers(1, 9, rows), rng.uniform(0.5, 20, rows))


def sample_weight(rng, rows, classes, dtype):
    values = 10 ** rng.uniform(-3, 3, rows)
    values[5::6] = 0
    return values


def class_weight(rng, rows, classes, dtype):
    values = 10 ** rng.uniform(-2, 2, classes)
    values[1] = 0
    return values


# name: (the argument, its values)
OPTIONS = {
    "labels": ("labels", labels_of_every_kind),
    "soft-labels": ("labels", soft_labels),
    "alphas": ("alpha", alphas),
    "taus": ("tau", taus),
    "sample-weight": ("sample_weight", sample_weight),
    "class-weight": ("class_weight", class_weight),
    "smoothing": ("label_smoothing", lambda *_: 0.1),
    "normalizer": ("normalizer", lambda *_: 7.3),
}
ALL_SOFT = tuple(name for name in OPTIONS if name != "labels")
ALL_INDICES = tuple(name for name in OPTIONS if name != "soft-labels")
COMBINATIONS = [
    (),
    *((name,) for name in OPTIONS),
    *(two for two in combinations(OPTIONS, 2) if two != ("labels", "soft-labels")),
    ALL_SOFT,
    ALL_INDICES,
]


def name_of(names):
    """The name of a combination in a test's id."""
    return {(): "none", ALL_SOFT: "all-soft", ALL_INDICES: "all"}.get(names, "+".join(names))


def batch(names, classes, dtype, rows=None):
    """([student, teacher, labels], options), with random values for each of the named options."""
    rows = ROWS[classes] if rows is None else rows
    rng = np.random.default_rng([rows, classes])
    student, teacher = (3 * rng.standard_normal((rows, classes)).astype(dtype) for _ in range(2))
    found = {"labels": rng.integers(0, classes, rows), "alpha": 0.3, "tau": 3.0}
    for i, (name, (argument, values)) in enumerate(OPTIONS.items()):
        if name in names:
            found[argument] = values(np.random.default_rng([i, rows]), rows, classes, dtype)
    return [student, teacher, found.pop("labels")], found


def without(options, *names):
    """The options except some."""
    return {name: value for name, value in options.items() if name not in names}
