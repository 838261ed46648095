"""Trains each kind of student (linear, booster, weighted classifier); logits of fitted teachers."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, NoReturn

import numpy as np

from ._arrays import Array
from .softmax import softmax_temp
from .teacher import SHARE_FOR_ZEROS
from .trainer import LinearStudent
from .trainer.rows import is_sparse


class Targets(NamedTuple):
    """The targets of a student: labels, the teacher, and the settings of the loss."""

    labels: Array
    """(N,) from 0 to C - 1, or -1 for no label."""
    teacher: Array | None
    """Logits (N, C)."""
    weight: Array | None
    """(N,)"""
    classes: int
    """C"""
    alpha: float
    loss: dict[str, Any]
    """The other settings of the loss: tau, divergence, beta."""

    def only(self, rows: Array) -> Targets:
        """Return the targets of some of the rows."""
        return self._replace(
            labels=self.labels[rows],
            teacher=None if self.teacher is None else self.teacher[rows],
            weight=None if self.weight is None else self.weight[rows],
        )

    def objective(self, make: Any) -> Any:
        """Return a booster's objective; `make` is its library's `kd_objective`."""
        teacher = self.teacher
        if self.loss["divergence"] == "mse" and self.classes == 2 and teacher is not None:
            teacher = teacher[:, 1] - teacher[:, 0]  # a booster has one margin, not two logits
        return make(teacher, self.labels, alpha=self.alpha, **self.loss)

    def start(self, make: Any) -> Any:
        """Return a booster's starting scores; `make` is `kd_base_score` or `kd_init_score`."""
        # Without a teacher, soft labels tell the number of classes: some may not occur.
        labels = self.labels if self.teacher is not None else np.eye(self.classes)[self.labels]
        return make(self.teacher, labels, alpha=self.alpha, sample_weight=self.weight)


class Linear:
    """A `LinearStudent`."""

    takes_frames = False
    default: ClassVar[dict[str, Any]] = {"solver": "lbfgs", "l2": 1e-3}

    @staticmethod
    def check(student: Any, loss: dict[str, Any]) -> None:
        """Refuse settings of the loss that the student has and that differ from these."""
        for name, value in loss.items() if student is not None else ():
            own = getattr(student.settings, name)
            if own not in (value, getattr(type(student.settings), name)):
                raise ValueError(
                    f"the student's {name} is {own!r}, expected that of DistilledClassifier, "
                    f"{value!r}: set it there alone"
                )

    @classmethod
    def fit(cls, student: Any, X: Any, targets: Targets) -> LinearStudent:
        if student is None:
            settings = cls.default | {"standardize": not is_sparse(X)}
        else:
            settings = dataclasses.asdict(student.settings)
        return LinearStudent(**settings | {"alpha": targets.alpha} | targets.loss).fit(
            X,
            targets.labels,
            targets.teacher,
            sample_weight=targets.weight,
            n_classes=targets.classes,
        )

    @staticmethod
    def logits(student: LinearStudent, X: Any, classes: int) -> Array:
        return student.logits(X)


class _Booster:
    """A classifier of a boosting library, trained with kdloss's objective."""

    takes_frames = True
    ignored: ClassVar[tuple[str, ...]]
    own: ClassVar[tuple[str | None, ...]]

    @classmethod
    def check(cls, student: Any, loss: dict[str, Any]) -> None:
        parameters = student.get_params()
        for name in cls.ignored:
            if parameters.get(name) is not None:
                raise ValueError(
                    f"the student's {name} is {parameters[name]!r}, expected None: the "
                    "distillation loss does not use it; weight rows by sample_weight"
                )
        if parameters.get("objective") not in cls.own:
            raise ValueError(
                f"the student's objective is {parameters['objective']!r}, expected None: "
                "distillation has its own"
            )

    @staticmethod
    def shown(targets: Targets) -> Array:
        """Made-up labels (N,) in which every class occurs, because the library counts the classes.

        The objective has the true labels.
        """
        return np.arange(len(targets.labels)) % targets.classes


class XGBoost(_Booster):
    """An XGBClassifier."""

    ignored = ("scale_pos_weight", "early_stopping_rounds")
    own = (None, "binary:logistic", "multi:softprob", "multi:softmax")

    @classmethod
    def fit(
        cls, student: Any, X: Any, targets: Targets, after_round: Callable[[], object] | None = None
    ) -> Any:
        from sklearn.base import clone  # type: ignore[import-untyped]
        from xgboost.callback import TrainingCallback

        from .xgboost import kd_base_score, kd_objective

        class AfterRound(TrainingCallback):
            def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
                if after_round is not None:
                    after_round()
                return False  # do not stop

        callbacks = student.get_params()["callbacks"]
        fitted = clone(student).set_params(
            objective=targets.objective(kd_objective),
            base_score=targets.start(kd_base_score),
            callbacks=[*(callbacks or []), AfterRound()],
        )
        fitted.fit(X, cls.shown(targets), sample_weight=targets.weight)
        # The objective holds the teacher's logits, which prediction does not need.
        return fitted.set_params(
            objective="binary:logistic" if targets.classes == 2 else "multi:softprob",
            callbacks=callbacks,
        )

    @staticmethod
    def logits(student: Any, X: Any, classes: int) -> Array:
        return _two_columns(student.predict(X, output_margin=True))

    @staticmethod
    def size(student: Any) -> int:
        """Bytes of its file."""
        return len(student.get_booster().save_raw())


class LightGBM(_Booster):
    """An LGBMClassifier."""

    ignored = ("class_weight", "is_unbalance", "scale_pos_weight", "early_stopping_round")
    own = (None, "binary", "multiclass", "softmax")

    @classmethod
    def fit(
        cls, student: Any, X: Any, targets: Targets, after_round: Callable[[], object] | None = None
    ) -> Any:
        from sklearn.base import clone

        from .lightgbm import kd_init_score, kd_objective

        start = targets.start(kd_init_score)
        rows = len(targets.labels)
        fitted = clone(student).set_params(objective=targets.objective(kd_objective))
        fitted.fit(
            X,
            cls.shown(targets),
            sample_weight=targets.weight,
            init_score=np.tile(start, (rows, 1)) if len(start) > 1 else np.full(rows, start[0]),
            callbacks=None if after_round is None else [lambda _: after_round()],
        )
        fitted.starting_scores_ = start
        # The objective holds the teacher's logits, which prediction does not need. With another
        # custom one LightGBM still warns that it predicts margins, not probabilities.
        return fitted.set_params(objective=only_for_prediction)

    @staticmethod
    def logits(student: Any, X: Any, classes: int) -> Array:
        return _two_columns(student.predict(X, raw_score=True) + student.starting_scores_)

    @staticmethod
    def size(student: Any) -> int:
        """Bytes of its file."""
        return len(student.booster_.model_to_string())


class Weighted:
    """Any classifier that takes weights: a copy of each row per class, weighted by the target."""

    takes_frames = True

    @staticmethod
    def check(student: Any, loss: dict[str, Any]) -> None:
        from sklearn.utils.validation import has_fit_parameter  # type: ignore[import-untyped]

        name = type(student).__name__
        if not (hasattr(student, "predict_proba") and has_fit_parameter(student, "sample_weight")):
            raise TypeError(
                f"{name} cannot be a student, expected one with predict_proba and a sample_weight "
                "in fit"
            )
        if loss["tau"] != 1 or loss["divergence"] != "kl":
            raise ValueError(
                f"the loss is {loss['divergence']!r} at tau={loss['tau']}, expected 'kl' at tau=1: "
                f"{name} learns from the teacher's probabilities as weights; XGBClassifier, "
                "LGBMClassifier and the linear student take any loss"
            )

    @staticmethod
    def fit(student: Any, X: Any, targets: Targets) -> Any:
        from sklearn.base import clone
        from sklearn.utils import _safe_indexing  # type: ignore[import-untyped]

        labelled = targets.labels >= 0
        shares = np.zeros((len(labelled), targets.classes))
        shares[labelled, targets.labels[labelled]] = 1
        if targets.teacher is not None:
            alpha = np.where(labelled, targets.alpha, 0.0)[:, None]
            shares = alpha * shares + (1 - alpha) * softmax_temp(targets.teacher)
        if targets.weight is not None:
            shares *= targets.weight[:, None]
        rows, classes = np.nonzero(shares)
        copies = _safe_indexing(X, rows)
        return clone(student).fit(copies, classes, sample_weight=shares[rows, classes])

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

    A class that the classifier does not know has probability 0. If there are such classes, or other
    probabilities of 0, all rows are mixed with this share of the uniform distribution.
    """
    known = np.asarray(teacher.classes_)
    places = np.searchsorted(classes, known)
    for method in ("predict_log_proba", "predict_proba", "decision_function"):
        if hasattr(teacher, method):
            break
    else:
        raise TypeError(
            f"{type(teacher).__name__} cannot be a teacher, expected one with predict_log_proba, "
            "predict_proba or decision_function"
        )
    with np.errstate(divide="ignore"):  # log 0 is -inf
        found = np.asarray(getattr(teacher, method)(X), np.float64)
        if method == "decision_function":
            if len(known) < len(classes):
                missing = np.setdiff1d(classes, known)
                raise ValueError(
                    f"{type(teacher).__name__} does not know the classes {missing.tolist()}, "
                    "expected a teacher that does, or one with predict_proba"
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
    """Stand in for the objective of a booster after training."""
    raise TypeError("the student_ of a DistilledClassifier cannot be trained again by itself")


def _two_columns(margins: Array) -> Array:
    """Margins as logits (N, C); a single margin z, of two classes, becomes (0, z)."""
    margins = np.asarray(margins)
    if margins.ndim == 2 and margins.shape[1] > 1:
        return margins
    margins = margins.reshape(-1)
    return np.stack([np.zeros_like(margins), margins], axis=1)
