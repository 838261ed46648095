"""The arrays that everyone is timed on."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SHAPES = (
    (1, 10),
    (20, 3),
    (128, 10),
    (32768, 10),
    (128, 100),
    (256, 1000),
    (4096, 1000),
    (1024, 32000),
    (128, 128256),
)
ALPHA = 0.5
TAU = 4.0


class Batch(NamedTuple):
    """One batch: logits (B, C), labels (B,) and the buffer (B, C) for those who take ``out=``."""

    student: Array
    teacher: Array
    labels: Array
    out: Array


def batches(shape: tuple[int, int], dtype: str) -> dict[str, Batch]:
    """Make an ordinary batch, and students near to the same teacher and far from it.

    Ordinary logits have a standard deviation of 3, near ones differ from the teacher's by 0.001,
    far ones have a standard deviation of 30. A kernel may treat the three differently.
    """
    rng = np.random.default_rng(shape)
    draw = np.dtype(dtype).type
    teacher = draw(3) * rng.standard_normal(shape, dtype=draw)
    ordinary = draw(3) * rng.standard_normal(shape, dtype=draw)
    near = teacher + draw(1e-3) * rng.standard_normal(shape, dtype=draw)
    labels = rng.integers(shape[1], size=shape[0])
    out = np.empty(shape, dtype)
    return {
        "ordinary": Batch(ordinary, teacher, labels, out),
        "near": Batch(near, teacher, labels, out),
        "far": Batch(draw(10) * ordinary, teacher, labels, out),
    }
