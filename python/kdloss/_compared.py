"""The students that a comparison can train: linear, LightGBM and XGBoost, with their settings."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from ._checks import Array
from ._epochs import Record
from .softmax import softmax_temp
from .trainer import LinearStudent


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
    labels: Array
    """(n,) classes, -1 for a row that only the teacher labels."""
    teacher: Array | None
    """(n, C) logits; None for a student of labels alone."""
    alpha: float
    tau: float
    classes: int
    rows: int
    """Rows of an epoch: these ones, repeated. So every student of an epoch takes as many steps."""
    held_out: tuple[Array, Array, Array | None]
    """Features, labels, and logits where there is a teacher."""
    scale: tuple[Array, Array]
    """Mean and standard deviation of the features (D,) over all training rows, for every student:
    a difference between students is then none of scale."""
    seed: int


class Student(Protocol):
    """A kind of student with its settings."""

    @property
    def units(self) -> int:
        """Epochs or rounds of one training."""

    def budget(self, rows: int) -> str:
        """Say how long each training is, with `rows` rows in an epoch."""

    def train(self, lesson: Lesson, advance: Callable[[], object]) -> Trained:
        """Train, calling `advance` after each unit."""


@dataclasses.dataclass(frozen=True)
class Linear:
    """`LinearStudent`, on features that are standardized where `standardize` is true.

    Its l2 is for the student of a few labels, which without it is far too sure of itself: a teacher
    would seem to help by being unsure alone.
    """

    epochs: int = 50
    batch_size: int = 32
    learning_rate: float = 0.01
    momentum: float = 0.9
    l2: float = 0.003
    standardize: bool = True

    def __post_init__(self) -> None:
        LinearStudent(**dataclasses.asdict(self))  # refuses a bad value before any work

    @property
    def units(self) -> int:
        """The epochs."""
        return self.epochs

    def budget(self, rows: int) -> str:
        """Say how many steps each training has."""
        steps = self.epochs * -(-rows // self.batch_size)
        return (
            f"{steps:,} steps of {self.batch_size} rows, learning rate {self.learning_rate:g}, "
            f"momentum {self.momentum:g}"
        )

    def train(self, lesson: Lesson, advance: Callable[[], object]) -> Trained:
        """Train by mini-batch SGD; the held-out rows are scored after each epoch."""
        chosen = np.resize(np.arange(len(lesson.X)), lesson.rows)
        settings = dataclasses.asdict(self) | {"standardize": False}
        student = LinearStudent(alpha=lesson.alpha, tau=lesson.tau, seed=lesson.seed, **settings)

        def scaled(rows: Array) -> Array:
            mean, deviation = lesson.scale
            return np.asarray((rows - mean) / deviation) if self.standardize else rows

        X, labels, teacher = lesson.held_out
        student.fit(
            scaled(lesson.X[chosen]),
            lesson.labels[chosen],
            None if lesson.teacher is None else lesson.teacher[chosen],
            n_classes=lesson.classes,
            validation=(scaled(X), labels, teacher),
            progress=lambda _: advance(),
        )
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "student.npz")
            student.save(file)
            size = file.stat().st_size
        return Trained(lambda rows: student.predict_proba(scaled(rows)), size, student.history)


@dataclasses.dataclass(frozen=True)
class LightGBM:
    """Gradient-boosted trees by LightGBM, with kdloss's objective."""

    rounds: int = 25
    leaves: int = 15
    learning_rate: float = 0.2
    rows_in_leaf: int = 5

    def __post_init__(self) -> None:
        _check_booster(self)
        from . import lightgbm  # noqa: F401  # its ImportError names the extra

    @property
    def units(self) -> int:
        """The rounds."""
        return self.rounds

    def budget(self, rows: int) -> str:
        """Say how many rounds each training has."""
        return (
            f"{self.rounds} rounds of trees with {self.leaves} leaves, learning rate "
            f"{self.learning_rate:g}"
        )

    def train(self, lesson: Lesson, advance: Callable[[], object]) -> Trained:
        """Train from `kd_init_score`, which is added to what the trees predict."""
        import lightgbm

        from .lightgbm import kd_init_score, kd_objective

        X, labels, teacher, alpha = lesson.X, lesson.labels, lesson.teacher, lesson.alpha
        start = kd_init_score(teacher, _targets(lesson), alpha=alpha)
        data = lightgbm.Dataset(
            X,
            np.zeros(len(X)),  # the objective has the labels
            init_score=np.tile(start, (len(X), 1)) if len(start) > 1 else np.full(len(X), start[0]),
        )
        params: dict[str, Any] = {
            "objective": kd_objective(teacher, labels, alpha=alpha, tau=lesson.tau),
            "num_leaves": self.leaves,
            "learning_rate": self.learning_rate,
            "min_data_in_leaf": self.rows_in_leaf,
            "seed": lesson.seed,
            "deterministic": True,
            "metric": "None",
            "verbose": -1,
        }
        if lesson.classes > 2:
            params["num_class"] = lesson.classes
        booster = lightgbm.train(params, data, self.rounds, callbacks=[lambda _: advance()])

        def predict(rows: Array) -> Array:
            margins = np.asarray(booster.predict(rows, raw_score=True)) + start
            return softmax_temp(_two_logits(margins))

        return Trained(predict, len(booster.model_to_string()), [])


@dataclasses.dataclass(frozen=True)
class XGBoost:
    """Gradient-boosted trees by XGBoost, with kdloss's objective."""

    rounds: int = 25
    depth: int = 4
    learning_rate: float = 0.3

    def __post_init__(self) -> None:
        _check_booster(self)
        from . import xgboost  # noqa: F401  # its ImportError names the extra

    @property
    def units(self) -> int:
        """The rounds."""
        return self.rounds

    def budget(self, rows: int) -> str:
        """Say how many rounds each training has."""
        return (
            f"{self.rounds} rounds of trees of depth {self.depth}, learning rate "
            f"{self.learning_rate:g}"
        )

    def train(self, lesson: Lesson, advance: Callable[[], object]) -> Trained:
        """Train from `kd_base_score`."""
        import xgboost

        from .xgboost import kd_base_score, kd_objective

        X, labels, teacher, alpha = lesson.X, lesson.labels, lesson.teacher, lesson.alpha
        params: dict[str, Any] = {
            "objective": "binary:logistic",
            "base_score": kd_base_score(teacher, _targets(lesson), alpha=alpha),
            "max_depth": self.depth,
            "learning_rate": self.learning_rate,
            "seed": lesson.seed,
        }
        if lesson.classes > 2:
            params |= {"objective": "multi:softprob", "num_class": lesson.classes}

        class Advance(xgboost.callback.TrainingCallback):
            def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
                advance()
                return False

        booster = xgboost.train(
            params,
            xgboost.DMatrix(X, np.zeros(len(X))),  # the objective has the labels
            self.rounds,
            obj=kd_objective(teacher, labels, alpha=alpha, tau=lesson.tau),
            callbacks=[Advance()],
        )

        def predict(rows: Array) -> Array:
            result = np.asarray(booster.inplace_predict(rows), np.float64)
            return result if result.ndim == 2 else np.column_stack([1 - result, result])

        return Trained(predict, len(booster.save_raw()), [])


STUDENTS: dict[str, type[Linear | LightGBM | XGBoost]] = {
    "linear": Linear,
    "lightgbm": LightGBM,
    "xgboost": XGBoost,
}


def _targets(lesson: Lesson) -> Array:
    """The labels, for a start that has all classes: where no teacher has them, one-hot."""
    if lesson.teacher is not None:
        return lesson.labels
    return np.asarray(np.eye(lesson.classes)[lesson.labels])


def _two_logits(margins: Array) -> Array:
    """The one margin of two classes as their two logits; others as they are."""
    return margins if margins.ndim == 2 else np.column_stack([np.zeros_like(margins), margins])


def _check_booster(student: LightGBM | XGBoost) -> None:
    for name, value in dataclasses.asdict(student).items():
        if not value > 0:
            raise ValueError(f"{name} must be larger than 0, not {value}")
