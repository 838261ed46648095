"""Tasks for the linear student, and how tests compare students."""

import dataclasses

import numpy as np

import tolerances


@dataclasses.dataclass
class Task:
    """Features, labels and teacher logits of a linear rule, with noisy labels."""

    X: np.ndarray
    y: np.ndarray
    T: np.ndarray

    def __iter__(self):
        return iter((self.X, self.y, self.T))


def make_task():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(150, 5))
    T = 2 * X @ rng.normal(size=(5, 4))
    y = (T + rng.gumbel(size=T.shape)).argmax(axis=1)
    return Task(X, y, T)


class Recorder:
    """An array that allows only slices and increasing row numbers, like HDF5, and logs them."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.reads = array, array.shape, array.dtype, []

    def __getitem__(self, rows):
        taken = np.arange(len(self.array))[rows]
        assert np.all(np.diff(taken) > 0)
        self.reads.append(taken.tolist())
        return self.array[rows]


def same_bits(one, other):
    return one.weights.tobytes() == other.weights.tobytes() and (
        one.bias.tobytes() == other.bias.tobytes()
    )


def close(one, other, tolerance=tolerances.ROUNDING):
    return np.allclose(one.weights, other.weights, rtol=0, atol=tolerance) and np.allclose(
        one.bias, other.bias, rtol=0, atol=tolerance
    )


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def overfitting():
    """Few noisy rows with many features, so that the validation loss soon rises."""
    rng = np.random.default_rng(1)
    X, W = rng.normal(size=(60, 20)), rng.normal(size=(20, 3))
    y = (X @ W + 5 * rng.gumbel(size=(60, 3))).argmax(axis=1)
    return X, y, None
