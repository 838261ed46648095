"""What `kdloss.sklearn` can train, each by the library that knows how, and teachers' logits."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any, ClassVar, NamedTuple, NoReturn

import numpy as np
from sklearn.base import clone  # type: ignore[import-untyped]
from sklearn.utils import _safe_indexing  # type: ignore[import-untyped]
from sklearn.utils.validation import has_fit_parameter  # type: ignore[import-untyped]

from ._checks import Array
from ._training_rows import is_sparse
from .softmax import softmax_temp
from .teacher import SHARE_FOR_ZEROS
from .trainer import LinearStudent


class Task(NamedTuple):
    """Labels (N,) from 0 to C - 1 or -1, the teacher's logits (N, C), weights (N,), the loss."""

    codes: Array
    logits: Array | None
    weight: Array | None
    alpha: float
    tau: float
    classes: int

    @property
    def options(self) -> dict[str, Any]:
        """The loss's settings."""
        return {"alpha": self.alpha, "tau": self.tau}

    def only(self, rows: Array) -> Task:
        """Return some of the rows."""
        return self._replace(
            codes=self.codes[rows],
            logits=None if self.logits is None else self.logits[rows],
            weight=None if self.weight is None else self.weight[rows],
        )


class Linear:
    """A `LinearStudent`."""

    takes_frames = False
    default: ClassVar[dict[str, Any]] = {"solver": "lbfgs", "l2": 1e-3}

    @staticmethod
    def check(student: Any, tau: float) -> None:
        """All settings are checked by the student."""

    @classmethod
    def fit(cls, student: Any, X: Any, task: Task) -> LinearStudent:
        if student is None:
            settings = cls.default | {"standardize": not is_sparse(X)}
        else:
            settings = dataclasses.asdict(student.settings)
        return LinearStudent(**settings | task.options).fit(
            X, task.codes, task.logits, sample_weight=task.weight, n_classes=task.classes
        )

    @staticmethod
    def logits(student: LinearStudent, X: Any, classes: int) -> Array:
        return student.logits(X)


class _Booster:
    """A classifier of a boosting library, whose objective is replaced."""

    takes_frames = True
    ignored: ClassVar[tuple[str, ...]]
    own: ClassVar[tuple[str | None, ...]]

    @classmethod
    def check(cls, student: Any, tau: float) -> None:
        parameters = student.get_params()
        for name in cls.ignored:
            if parameters.get(name) is not None:
                raise ValueError(
                    f"the student's {name} does not enter the distillation loss: leave it out, and "
                    "weight rows by sample_weight"
                )
        if parameters.get("objective") not in cls.own:
            raise ValueError(
                f"the student's objective is {parameters['objective']!r}, which distilling would "
                "replace: leave it out"
            )

    @staticmethod
    def shown(task: Task) -> Array:
        """Labels (N,) in which every class occurs, for a library that counts the classes.

        The objective has the true ones.
        """
        return np.arange(len(task.codes)) % task.classes


class XGBoost(_Booster):
    """An XGBClassifier."""

    ignored = ("scale_pos_weight", "early_stopping_rounds")
    own = (None, "binary:logistic", "multi:softprob", "multi:softmax")

    @classmethod
    def fit(cls, student: Any, X: Any, task: Task) -> Any:
        from .xgboost import kd_base_score, kd_objective

        start = kd_base_score(task.logits, task.codes, alpha=task.alpha, sample_weight=task.weight)
        fitted = clone(student).set_params(
            objective=kd_objective(task.logits, task.codes, **task.options), base_score=start
        )
        fitted.fit(X, cls.shown(task), sample_weight=task.weight)
        # The objective holds the teacher's logits, which prediction does not need.
        return fitted.set_params(
            objective="binary:logistic" if task.classes == 2 else "multi:softprob"
        )

    @staticmethod
    def logits(student: Any, X: Any, classes: int) -> Array:
        return _two_columns(student.predict(X, output_margin=True))


class LightGBM(_Booster):
    """An LGBMClassifier."""

    ignored = ("class_weight", "is_unbalance", "scale_pos_weight", "early_stopping_round")
    own = (None, "binary", "multiclass", "softmax")

    @classmethod
    def fit(cls, student: Any, X: Any, task: Task) -> Any:
        from .lightgbm import kd_init_score, kd_objective

        start = kd_init_score(task.logits, task.codes, alpha=task.alpha, sample_weight=task.weight)
        rows = len(task.codes)
        fitted = clone(student).set_params(
            objective=kd_objective(task.logits, task.codes, **task.options)
        )
        fitted.fit(
            X,
            cls.shown(task),
            sample_weight=task.weight,
            init_score=np.tile(start, (rows, 1)) if len(start) > 1 else np.full(rows, start[0]),
        )
        fitted.starting_scores_ = start
        # The objective holds the teacher's logits. Any in its place keeps LightGBM's warning that
        # the margins of `student_` are no probabilities.
        return fitted.set_params(objective=only_for_prediction)

    @staticmethod
    def logits(student: Any, X: Any, classes: int) -> Array:
        return _two_columns(student.predict(X, raw_score=True) + student.starting_scores_)


class Weighted:
    """Any classifier that takes weights: each row once for each class, by the class's target."""

    takes_frames = True

    @staticmethod
    def check(student: Any, tau: float) -> None:
        name = type(student).__name__
        if not (hasattr(student, "predict_proba") and has_fit_parameter(student, "sample_weight")):
            raise TypeError(
                f"{name} cannot be a student: it needs predict_proba, and sample_weight in fit"
            )
        if tau != 1:
            raise ValueError(
                f"{name} learns from the teacher's probabilities as weights, which is the loss at "
                f"tau=1 alone, not {tau}; XGBClassifier, LGBMClassifier and the linear student "
                "take any tau"
            )

    @staticmethod
    def fit(student: Any, X: Any, task: Task) -> Any:
        target = np.zeros((len(task.codes), task.classes))
        labelled = task.codes >= 0
        target[labelled, task.codes[labelled]] = 1
        if task.logits is not None:
            share = np.where(labelled, task.alpha, 0.0)[:, None]
            target = share * target + (1 - share) * softmax_temp(task.logits)
        if task.weight is not None:
            target *= task.weight[:, None]
        rows, classes = np.nonzero(target)
        copies = _safe_indexing(X, rows)
        return clone(student).fit(copies, classes, sample_weight=target[rows, classes])

    @staticmethod
    def logits(student: Any, X: Any, classes: int) -> Array:
        return log_probabilities(student, X, np.arange(classes), share=0.0)


def adapter(student: Any) -> Any:
    """Return the class above that trains this student, without importing its library."""
    if student is None or isinstance(student, LinearStudent):
        return Linear
    for library, name, kind in (
        ("xgboost", "XGBClassifier", XGBoost),
        ("lightgbm", "LGBMClassifier", LightGBM),
    ):
        if library in sys.modules and isinstance(student, getattr(sys.modules[library], name)):
            return kind
    return Weighted


def log_probabilities(
    teacher: Any, X: Any, classes: Array, share: float = SHARE_FOR_ZEROS
) -> Array:
    """The logits of a fitted classifier (N, C), in the order of `classes`.

    Where a probability is 0, or of a class that the classifier does not know, all are mixed with
    this share of the uniform distribution.
    """
    known = np.asarray(teacher.classes_)
    places = np.searchsorted(classes, known)
    for method in ("predict_log_proba", "predict_proba", "decision_function"):
        if hasattr(teacher, method):
            break
    else:
        raise TypeError(
            f"{type(teacher).__name__} cannot be a teacher: it has neither predict_log_proba, "
            "predict_proba nor decision_function"
        )
    with np.errstate(divide="ignore"):  # log 0 is -inf
        found = np.asarray(getattr(teacher, method)(X), np.float64)
        if method == "decision_function":
            if len(known) < len(classes):
                missing = np.setdiff1d(classes, known)
                raise ValueError(
                    f"{type(teacher).__name__} does not know the classes {missing.tolist()}, and "
                    "has no predict_proba that could be 0 for them"
                )
            found = _two_columns(found)
        elif method == "predict_proba":
            found = np.log(found)
        logits = np.full((len(found), len(classes)), -np.inf)
        logits[:, places] = found
        if share and np.isneginf(logits).any():
            logits = np.log((1 - share) * softmax_temp(logits) + share / len(classes))
    return logits


def only_for_prediction(*_: Any) -> NoReturn:
    """Stand in for the objective of a booster that is trained."""
    raise TypeError("the student of a DistilledClassifier is trained by its fit alone")


def _two_columns(margins: Array) -> Array:
    """Logits (N, C), of two classes from their one margin."""
    margins = np.asarray(margins)
    if margins.ndim == 2 and margins.shape[1] > 1:
        return margins
    margins = margins.reshape(-1)
    return np.stack([np.zeros_like(margins), margins], axis=1)
