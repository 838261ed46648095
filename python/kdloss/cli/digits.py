"""The example of handwritten digits: scikit-learn's, with a neural network as the teacher."""

from __future__ import annotations

import pickle
import time

import numpy as np
from numpy.typing import NDArray

from ..comparison import Cost, Split

CLASSES, POOL_ROWS, TEST_ROWS = 10, 1297, 500
HELD_OUT = TEST_ROWS / (POOL_ROWS + TEST_ROWS)
LABELLED = 50
TEACHER = "a neural network (MLPClassifier) of the labels of all training rows"


class Digits:
    """The rows, and a teacher for each split of the rows.

    Attributes
    ----------
    X : (1797, 64) array
        Grey levels from 0 to 1.
    labels : (1797,) array
        The digits.
    """

    def __init__(self) -> None:
        import_all()
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]

        X, labels = load_digits(return_X_y=True)
        self.X: NDArray[np.float64] = X / 16
        self.labels: NDArray[np.int64] = labels
        self._costs: list[Cost] = []

    def teach(self, split: Split) -> NDArray[np.float64]:
        """Train a teacher on the labels of all training rows, and return its logits."""
        from sklearn.neural_network import MLPClassifier  # type: ignore[import-untyped]
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        with threadpool_limits(1):  # matrices this small are slower with several BLAS threads
            teacher = MLPClassifier(max_iter=500, random_state=split.seed)
            teacher.fit(self.X[split.pool], self.labels[split.pool])
            start = time.perf_counter()
            logits: NDArray[np.float64] = teacher.predict_log_proba(self.X)
            seconds = (time.perf_counter() - start) / len(logits)
        self._costs.append(Cost(seconds, len(pickle.dumps(teacher))))
        return logits

    def cost(self) -> Cost:
        """Return the shortest prediction time, and the size, of the teachers so far."""
        return Cost(min(cost.seconds or 0 for cost in self._costs), self._costs[0].size)


def import_all() -> None:
    """Import the packages that the example needs, or say which extra has them."""
    try:
        import matplotlib  # noqa: F401
        import rich  # noqa: F401
        import sklearn  # type: ignore[import-untyped]  # noqa: F401
    except ImportError as error:
        raise ImportError(f"demo needs {error.name}: pip install 'kdloss[demo]'") from error
