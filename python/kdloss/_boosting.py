"""Shared by the objectives and metrics of all boosters: keeps the teacher in step with the rows."""

from __future__ import annotations

import sys
import threading
from collections.abc import Hashable, Mapping
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np
import numpy.typing as npt

from . import metrics
from ._arrays import as_array, look_like_probabilities
from .losses import Divergence, kd_loss_and_grad, kd_loss_grad_hess, kd_loss_parts
from .softmax import softmax_temp

Array = npt.NDArray[Any]
Curvature = Literal["library", "exact", "bound"]
MetricName = Literal["loss", "hard", "soft", "accuracy", "nll", "brier", "ece"]

SCORES = {
    "accuracy": metrics.accuracy,
    "nll": metrics.negative_log_likelihood,
    "brier": metrics.brier_score,
    "ece": metrics.expected_calibration_error,
}
# XGBoost maximises a metric whose name begins with "pre", and minimises one that begins with "kd".
REPORTED = {name: f"kd_{name}" for name in get_args(MetricName)} | {
    "accuracy": "prediction_accuracy"
}
RAREST = 1e-15  # the share of a class that no row has, as in LightGBM: its start is finite


class Rows(NamedTuple):
    """The data that a booster passes in one round."""

    margins: Array
    """(N, K) scores; (N,) or (N, 1) is the one margin of two classes."""
    labels: Array | None
    """The dataset's labels: (N,) classes as floats, or (N, K) soft labels."""
    weights: Array | None
    """(N,), or None or empty: no weights."""
    total: int
    """Rows of the whole dataset, which the teacher must have too."""
    numbers: Array | None = None
    """(N,) the place of each row in the whole dataset; None where the dataset is whole."""
    hint: str = ""
    """The advice for an error about rows that are only a part of the teacher's."""


class Inputs(NamedTuple):
    """Arguments of the losses."""

    logits: Array
    teacher: Array | None
    labels: Array | None
    options: dict[str, Any]


class Buffers:
    """Arrays that are used again once nobody else holds them.

    New ones of some megabytes cost several times the arithmetic: the system clears their pages.
    """

    _lock = threading.Lock()

    def __init__(self) -> None:
        self._arrays: list[Array] = []

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        """Leave the arrays behind in a pickle."""
        return type(self), ()

    def take(self, shape: tuple[int, ...], dtype: npt.DTypeLike, order: Literal["C", "F"]) -> Array:
        """Return an array of any values that is the caller's as long as it, or a view, lives."""
        with self._lock:
            counts = _reference_counts(self._arrays)
            for array, count in zip(self._arrays, counts, strict=True):
                in_order = array.flags.c_contiguous if order == "C" else array.flags.f_contiguous
                fits = array.shape == shape and array.dtype == dtype and in_order
                if fits and count == UNSHARED:
                    return array
            # A round needs four; the oldest are of an earlier training, or the caller holds them.
            self._arrays = [*self._arrays[-5:], np.empty(shape, dtype, order)]
            return self._arrays[-1]


def _reference_counts(arrays: list[Array]) -> list[int]:
    return [sys.getrefcount(array) for array in arrays]


UNSHARED = _reference_counts([np.empty(0)])[0]  # of an array that only its list holds


class Distillation:
    """A teacher and, if given, labels of its rows, with the options of the loss."""

    def __init__(
        self,
        teacher_logits: npt.ArrayLike | None,
        labels: npt.ArrayLike | None,
        *,
        alpha: npt.ArrayLike,
        tau: npt.ArrayLike,
        class_weight: npt.ArrayLike | None,
        label_smoothing: float,
        divergence: Divergence,
        beta: float,
        num_threads: int | None,
    ) -> None:
        if divergence not in get_args(Divergence):
            expected = ", ".join(get_args(Divergence))
            raise ValueError(f"divergence is {divergence!r}, expected one of {expected}")
        self.teacher = None if teacher_logits is None else _teacher(teacher_logits)
        self.labels = None if labels is None else as_array(labels, "labels")
        self.alpha, self.tau = as_array(alpha, "alpha"), as_array(tau, "tau")
        self.options: dict[str, Any] = {
            "class_weight": class_weight,
            "label_smoothing": label_smoothing,
            "divergence": divergence,
            "beta": beta,
            "num_threads": num_threads,
        }
        self.count: int | None = None  # rows of the arrays below, which are as many
        # Logits (s, t) mean what (0, t - s) do, but for the mean squared error.
        self._is_shifted = divergence == "mse" and bool(
            self.teacher is not None and self.teacher.shape[1] == 2 and self.teacher[:, 0].any()
        )
        self._first_labels: Array | None = None
        self._last: tuple[Array, Array] | None = None  # labels, and as whole numbers
        for name in ("teacher", "labels", "alpha", "tau"):
            array = getattr(self, name)
            if array is None or array.ndim == 0:
                continue
            if self.count is None:
                self.count, first = len(array), name
            elif len(array) != self.count:
                raise ValueError(f"{name} has {len(array)} rows, {first} has {self.count}")

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return the object itself: LightGBM copies its parameters, and nothing here changes."""
        return self

    def inputs(self, rows: Rows) -> Inputs:
        """Return the arguments of the losses for the rows of one round."""
        self._check(rows)
        numbers = rows.numbers
        labels = self.labels
        if labels is not None:
            labels = labels if numbers is None else labels[numbers]
        elif rows.labels is not None:
            labels = self._whole(rows.labels)
        weights = rows.weights
        options = self.options | {
            "alpha": self.alpha if numbers is None or self.alpha.ndim == 0 else self.alpha[numbers],
            "tau": self.tau if numbers is None or self.tau.ndim == 0 else self.tau[numbers],
            "sample_weight": None if weights is None or not weights.size else weights,
        }
        teacher = self.teacher
        if teacher is not None and numbers is not None:
            teacher = teacher[numbers]
        return Inputs(_logits(rows.margins), teacher, labels, options)

    def _check(self, rows: Rows) -> None:
        self._check_classes(rows.margins)
        if self.count is None:
            return
        if self.count != rows.total:
            raise ValueError(
                f"teacher_logits (or labels, alpha, tau) has {self.count} rows, the dataset has "
                f"{rows.total}; give the teacher of the dataset's own rows, in its order{rows.hint}"
            )
        if rows.numbers is not None or rows.labels is None:
            return
        # Two datasets of as many rows, for training and evaluation say, differ in their labels.
        if self._first_labels is None:
            self._first_labels = rows.labels.copy()
        elif not np.array_equal(self._first_labels, rows.labels):
            raise ValueError(
                f"one teacher for two datasets: both have {rows.total} rows, but their labels "
                "differ; make an objective or a metric for each, or give a metric "
                "{dataset: teacher_logits}"
            )

    def _whole(self, labels: Array) -> Array:
        """Return a dataset's labels as whole numbers, which are the same in every round."""
        if self._last is None or not np.array_equal(self._last[0], labels):
            own = labels.copy()  # the dataset's may be a view of its memory
            self._last = own, _whole(own)
        return self._last[1]

    def _check_classes(self, margins: Array) -> None:
        if self.teacher is None:
            return
        given, classes = self.teacher.shape[1], _classes(margins)
        if given != classes:
            one = margins.ndim == 1
            raise ValueError(
                f"teacher_logits has {given} classes, the booster "
                + (f"one margin a row; set num_class={given}" if one else f"has {classes}")
                + ("" if one else "; where labels of -1 count as a class, give labels= instead")
            )
        if self._is_shifted and margins.size == len(margins):
            raise ValueError(
                "divergence='mse' compares logits as they are, and the booster's are (0, margin): "
                "give the teacher's margin, teacher_logits[:, 1] - teacher_logits[:, 0]"
            )


class Objective(Distillation):
    """Gradients and curvatures of the summed loss."""

    def __init__(self, *arguments: Any, hess: Curvature, **options: Any) -> None:
        if hess not in get_args(Curvature):
            raise ValueError(f"hess is {hess!r}, expected 'library', 'exact' or 'bound'")
        super().__init__(*arguments, **options)
        self.hess, divergence = hess, self.options["divergence"]
        self.has_hessian = divergence in ("kl", "mse")
        if hess != "library" and not self.has_hessian:
            raise ValueError(
                f"hess is {hess!r}, but the Hessian of divergence={divergence!r} can have a "
                "negative diagonal: leave hess out, for the curvature of 'kl'"
            )
        self.buffers = Buffers()

    def gradients(self, rows: Rows, hess: Literal["exact", "bound"]) -> tuple[Array, Array]:
        """Return gradient and curvature, of the margins' shape, type and order."""
        logits, teacher, labels, options = self.inputs(rows)
        order: Literal["C", "F"] = "C" if logits.flags.c_contiguous else "F"
        grad, curvature = out = (
            self.buffers.take(logits.shape, logits.dtype, order),
            self.buffers.take(logits.shape, logits.dtype, order),
        )
        options["reduction"] = "sum"
        of = {} if self.has_hessian else {"divergence": "kl"}
        kd_loss_grad_hess(logits, teacher, labels, hess=hess, out=out, **options | of)
        if not self.has_hessian:
            kd_loss_and_grad(logits, teacher, labels, out=grad, **options)
        if logits.shape == rows.margins.shape:
            return grad, curvature
        shape = rows.margins.shape
        return grad[:, 1].reshape(shape), curvature[:, 1].reshape(shape)


class Metric:
    """A value over one evaluation set, by the teacher of that set."""

    def __init__(
        self,
        teacher_logits: npt.ArrayLike | Mapping[Hashable, npt.ArrayLike] | None,
        labels: npt.ArrayLike | Mapping[Hashable, npt.ArrayLike] | None,
        *,
        name: MetricName,
        **options: Any,
    ) -> None:
        if name not in REPORTED:
            raise ValueError(f"name is {name!r}, expected one of {', '.join(REPORTED)}")
        self.name = name
        self.__name__ = REPORTED[name]  # the scikit-learn interface of XGBoost reports this one
        self._sets: dict[Hashable, Distillation] | None = None
        if isinstance(teacher_logits, Mapping):
            if labels is None or isinstance(labels, Mapping):
                own = labels or {}
                self._sets = {
                    dataset: Distillation(teacher, own.get(dataset), **options)
                    for dataset, teacher in teacher_logits.items()
                }
                return
            raise TypeError("labels is an array, expected {dataset: labels} as teacher_logits is")
        if isinstance(labels, Mapping):
            raise TypeError("labels is a mapping, expected an array as teacher_logits is")
        self._only = Distillation(teacher_logits, labels, **options)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return the object itself, as an objective does."""
        return self

    def value(self, dataset: Hashable | None, rows: Rows) -> float:
        """Return the metric of the rows, which are those of `dataset` if that is known."""
        logits, teacher, labels, options = self._of(dataset).inputs(rows)
        # Of two classes with equal and opposite scores around 1/2 the margins sum to 1 too.
        if rows.margins.ndim == 2 and logits.shape[1] > 2 and look_like_probabilities(logits):
            raise ValueError(
                "the predictions are probabilities, expected margins, which boosters give to a "
                "metric only beside a custom objective such as kd_objective"
            )
        if self.name in ("loss", "hard", "soft"):
            parts = kd_loss_parts(logits, teacher, labels, **options)
            return float(getattr(parts, self.name))
        if labels is None:
            raise ValueError(f"the metric {self.name!r} needs labels, and the dataset has none")
        probabilities = softmax_temp(logits.astype(np.float64))
        return SCORES[self.name](probabilities, labels, sample_weight=options["sample_weight"])

    def _of(self, dataset: Hashable | None) -> Distillation:
        if self._sets is None:
            return self._only
        if dataset is None:
            raise ValueError(
                "scikit-learn interfaces do not tell a metric which dataset it evaluates: give "
                "the teacher of one evaluation set, not {dataset: teacher_logits}"
            )
        if dataset not in self._sets:
            raise ValueError(
                f"an evaluation set is none of the {len(self._sets)} datasets in teacher_logits"
            )
        return self._sets[dataset]


def mean_target(
    teacher_logits: npt.ArrayLike | None, labels: npt.ArrayLike | None, **options: Any
) -> Array:
    """Return the mean over the rows of alpha g + (1 - alpha) softmax(t), as shares (K,) of 1.

    At equal scores p = 1 / K, so that by the loss's own formulas, at temperature 1, a row with the
    target mass M has the gradient M / K - target and the curvature M (1 / K) (1 - 1 / K).
    """
    teacher = None if teacher_logits is None else _teacher(teacher_logits)
    given = None if labels is None else as_array(labels, "labels")
    if teacher is not None:
        shape = teacher.shape
    elif given is None:
        raise ValueError("teacher_logits and labels are None, expected one of them")
    elif given.ndim == 2:
        shape = given.shape
    else:
        shape = (len(given), max(2, int(given.max(initial=1)) + 1))
    equal = np.zeros(shape)
    result = kd_loss_grad_hess(equal, teacher, given, tau=1.0, reduction="sum", **options)
    share = 1 / shape[1]
    mass = float(result.hess_logits[:, 0].sum()) / (share * (1 - share)) if share < 1 else 0.0
    if mass == 0:
        return np.full(shape[1], share)
    shares = np.maximum(share - result.grad_logits.sum(axis=0) / mass, RAREST)
    return np.asarray(shares / shares.sum())


def starting_scores(shares: Array) -> Array:
    """Return the scores whose softmax are the `shares` (K,), with mean 0; of two classes, (1,)."""
    scores = np.log(shares)
    if len(scores) == 2:
        return np.asarray(scores[1:] - scores[:1])
    return np.asarray(scores - scores.mean())


def _teacher(teacher_logits: npt.ArrayLike) -> Array:
    teacher = as_array(teacher_logits, "teacher_logits")
    if teacher.ndim not in (1, 2):
        raise ValueError(
            f"teacher_logits has shape {teacher.shape}, expected (rows, classes), or (rows,): the "
            "margin of two classes"
        )
    return _logits(teacher)


def _classes(margins: Array) -> int:
    return 2 if margins.ndim == 1 else max(2, margins.shape[1])


def _logits(margins: Array) -> Array:
    """Return margins as (N, K); one margin z is the logits (0, z)."""
    if margins.ndim == 2 and margins.shape[1] != 1:
        return margins
    logits = np.zeros((len(margins), 2), margins.dtype, order="F")
    logits[:, 1] = margins.reshape(-1)
    return logits


def _whole(labels: Array) -> Array:
    """Return a dataset's labels as whole numbers; those of two dimensions are soft labels."""
    if labels.ndim == 2 and labels.shape[1] > 1:
        return labels
    labels = labels.reshape(-1)
    with np.errstate(invalid="ignore"):  # NaN and infinity are no whole numbers
        whole = labels.astype(np.int64)
    if not np.array_equal(whole, labels):
        row = int((whole != labels).argmax())
        raise ValueError(f"the dataset's label of row {row} is {labels[row]}, expected a class")
    return whole
