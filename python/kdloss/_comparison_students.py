"""The settings of the students that a comparison can train: linear, LightGBM and XGBoost."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from ._arrays import Array
from ._students import Targets, adapter
from .softmax import softmax_temp
from .trainer import LinearStudent
from .trainer.epochs import Record


class Trained(NamedTuple):
    """A trained student."""

    predict: Callable[[Array], Array]
    """Features (N, D) to probabilities (N, C)."""
    size: int
    """Bytes of its file."""
    history: list[Record]
    """The records of `LinearStudent.history`; empty for a booster."""


class Lesson(NamedTuple):
    """The training and validation data of a student."""

    X: Array
    """(n, D) features."""
    targets: Targets
    rows: int
    """Rows of an epoch: the rows above, repeated, so that all students take the same steps."""
    held_out: tuple[Array, Array, Array | None]
    """Features, labels, and the teacher's logits if there is one."""
    scale: tuple[Array, Array]
    """Mean and standard deviation of the features (D,) over all training rows. All students use
    the same, so that they do not differ by their scaling."""
    seed: int


class Student(Protocol):
    """A kind of student with its settings."""

    @property
    def units(self) -> int:
        """Epochs or rounds of one training."""

    def budget(self, rows: int) -> str:
        """Describe the length of a training with `rows` rows in an epoch."""

    def train(self, lesson: Lesson, advance: Callable[[], object]) -> Trained:
        """Train, calling `advance` after each unit."""


@dataclasses.dataclass(frozen=True)
class Linear:
    """`LinearStudent`, with features standardized if `standardize` is true.

    The default l2 keeps a student of few labels from being overconfident. Without it, a teacher
    would seem to help merely by lowering the student's confidence.
    """

    epochs: int = 50
    batch_size: int = 32
    learning_rate: float = 0.01
    momentum: float = 0.9
    l2: float = 0.003
    standardize: bool = True

    def __post_init__(self) -> None:
        LinearStudent(**dataclasses.asdict(self))  # refuses bad values at once

    @property
    def units(self) -> int:
        """The number of epochs."""
        return self.epochs

    def budget(self, rows: int) -> str:
        """Describe the steps of each training."""
        steps = self.epochs * -(-rows // self.batch_size)
        return (
            f"{steps:,} steps of {self.batch_size} rows, learning rate {self.learning_rate:g}, "
            f"momentum {self.momentum:g}"
        )

    def train(self, lesson: Lesson, advance: Callable[[], object]) -> Trained:
        """Train by mini-batch SGD; the held-out rows are scored after each epoch."""
        chosen = np.resize(np.arange(len(lesson.X)), lesson.rows)
        settings = dataclasses.asdict(self) | {"standardize": False}
        targets = lesson.targets.only(chosen)
        settings |= {"alpha": targets.alpha, "seed": lesson.seed}
        student = LinearStudent(**settings, **targets.loss)

        def scaled(rows: Array) -> Array:
            mean, deviation = lesson.scale
            return np.asarray((rows - mean) / deviation) if self.standardize else rows

        X, labels, teacher = lesson.held_out
        student.fit(
            scaled(lesson.X[chosen]),
            targets.labels,
            targets.teacher,
            n_classes=targets.classes,
            validation=(scaled(X), labels, teacher),
            progress=lambda _: advance(),
        )
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "student.npz")
            student.save(file)
            size = file.stat().st_size
        return Trained(lambda rows: student.predict_proba(scaled(rows)), size, student.history)


@dataclasses.dataclass(frozen=True)
class _Booster:
    """Gradient-boosted trees with kdloss's objective."""

    rounds: int = 25

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not value > 0:
                raise ValueError(f"{name} is {value}, expected a number > 0")
        try:
            import sklearn  # type: ignore[import-untyped]  # noqa: F401
        except ImportError as error:
            raise ImportError(
                f"comparing boosters needs scikit-learn ({error}): pip install 'kdloss[sklearn]'"
            ) from error

    @property
    def units(self) -> int:
        """The number of rounds."""
        return self.rounds

    def train_estimator(
        self, estimator: Any, lesson: Lesson, advance: Callable[[], object]
    ) -> Trained:
        """Train the library's own classifier as `kdloss.sklearn.DistilledClassifier` does."""
        learns, classes = adapter(estimator), lesson.targets.classes
        fitted = learns.fit(estimator, lesson.X, lesson.targets, after_round=advance)
        return Trained(
            lambda rows: softmax_temp(learns.logits(fitted, rows, classes)), learns.size(fitted), []
        )


@dataclasses.dataclass(frozen=True)
class LightGBM(_Booster):
    """`kdloss.lightgbm`."""

    leaves: int = 15
    learning_rate: float = 0.2
    rows_in_leaf: int = 5

    def __post_init__(self) -> None:
        from . import lightgbm  # noqa: F401  # its ImportError names the extra

        super().__post_init__()

    def budget(self, rows: int) -> str:
        """Say how many rounds each training has."""
        return (
            f"{self.rounds} rounds of trees with {self.leaves} leaves, learning rate "
            f"{self.learning_rate:g}"
        )

    def train(self, lesson: Lesson, advance: Callable[[], object]) -> Trained:
        """Train an LGBMClassifier."""
        from lightgbm import LGBMClassifier

        estimator = LGBMClassifier(
            n_estimators=self.rounds,
            num_leaves=self.leaves,
            learning_rate=self.learning_rate,
            min_child_samples=self.rows_in_leaf,
            random_state=lesson.seed,
            deterministic=True,
            verbose=-1,
        )
        return self.train_estimator(estimator, lesson, advance)


@dataclasses.dataclass(frozen=True)
class XGBoost(_Booster):
    """`kdloss.xgboost`."""

    depth: int = 4
    learning_rate: float = 0.3

    def __post_init__(self) -> None:
        from . import xgboost  # noqa: F401  # its ImportError names the extra

        super().__post_init__()

    def budget(self, rows: int) -> str:
        """Say how many rounds each training has."""
        return (
            f"{self.rounds} rounds of trees of depth {self.depth}, learning rate "
            f"{self.learning_rate:g}"
        )

    def train(self, lesson: Lesson, advance: Callable[[], object]) -> Trained:
        """Train an XGBClassifier."""
        from xgboost import XGBClassifier

        estimator = XGBClassifier(
            n_estimators=self.rounds,
            max_depth=self.depth,
            learning_rate=self.learning_rate,
            random_state=lesson.seed,
        )
        return self.train_estimator(estimator, lesson, advance)


STUDENTS: dict[str, type[Linear | LightGBM | XGBoost]] = {
    "linear": Linear,
    "lightgbm": LightGBM,
    "xgboost": XGBoost,
}
