"""Shared by the objectives and metrics of all boosters: matches the teacher to the rows."""

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


# XGBoost maximises a metric whose name begins with "pre", and minimises one that begins with "kd".
REPORTED = {name: f"kd_{name}" for name in get_args(MetricName)} | {
    "accuracy": "prediction_accuracy"
}
RAREST = 1e-15  # smallest share of a class, as in LightGBM: starting scores stay finite


class Rows(NamedTuple):
    """The data that a booster passes in one round."""

    margins: Array
    """(N, K) scores; (N,) or (N, 1) is the one margin of two classes."""
    labels: Array | None
    """The dataset's labels: (N,) classes as floats, or (N, K) soft labels."""
    weights: Array | None
    """(N,); None or empty if there are no weights."""
    total: int
    """The number of rows of the whole dataset, and so of the teacher."""
    numbers: Array | None = None
    """(N,) the index of each row in the whole dataset; None if these are all its rows."""
    hint: str = ""
    """Advice for the error about a number of rows that is not the teacher's."""


class Inputs(NamedTuple):
    """Arguments of the losses."""

    logits: Array
    teacher: Array | None
    labels: Array | None
    options: dict[str, Any]


class Buffers:
    """Arrays that are reused once nobody else holds them.

    A new array of some megabytes costs several times the arithmetic: the system clears its pages.
    """

    _lock = threading.Lock()

    def __init__(self) -> None:
        self._arrays: list[Array] = []

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        """Leave the arrays behind in a pickle."""
        return type(self), ()

    def take(self, shape: tuple[int, ...], dtype: npt.DTypeLike, order: Literal["C", "F"]) -> Array:
        """Return an uninitialised array that nobody else gets while it, or a view of it, lives."""
        with self._lock:
            counts = _reference_counts(self._arrays)
            for array, count in zip(self._arrays, counts, strict=True):
                in_order = array.flags.c_contiguous if order == "C" else array.flags.f_contiguous
                fits = array.shape == shape and array.dtype == dtype and in_order
                if fits and count == UNSHARED:
                    return array
            # A round needs four arrays. Older ones belong to an earlier training, or are held.
            self._arrays = [*self._arrays[-5:], np.empty(shape, dtype, order)]
            return self._arrays[-1]


def _reference_counts(arrays: list[Array]) -> list[int]:
    return [sys.getrefcount(array) for array in arrays]


UNSHARED = _reference_counts([np.empty(0)])[0]  # the count of an array that only its list holds


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
        self.count: int | None = None  # the number of rows of these arrays
        # Two logits (s, t) are equivalent to (0, t - s), except for the mean squared error.
        self._is_shifted = divergence == "mse" and bool(
            self.teacher is not None and self.teacher.shape[1] == 2 and self.teacher[:, 0].any()
        )
        self._first_labels: Array | None = None
        self._last: tuple[Array, Array] | None = None  # labels as floats, and as integers
        for name in ("teacher", "labels", "alpha", "tau"):
            array = getattr(self, name)
            if array is None or array.ndim == 0:
                continue
            if self.count is None:
                self.count, first = len(array), name
            elif len(array) != self.count:
                raise ValueError(
                    f"{name} has {len(array)} rows, expected {self.count}, as {first} has"
                )

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
            labels = self._integer_labels(rows.labels)
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
                f"teacher_logits (or labels, alpha, tau) has {self.count} rows, expected "
                f"{rows.total}, as the dataset has; give the teacher of the dataset's own rows, in "
                f"its order{rows.hint}"
            )
        if rows.numbers is not None or rows.labels is None:
            return
        # Two datasets with the same number of rows are told apart by their labels.
        if self._first_labels is None:
            self._first_labels = rows.labels.copy()
        elif not np.array_equal(self._first_labels, rows.labels):
            raise ValueError(
                f"one teacher is used for two datasets of {rows.total} rows, whose labels differ; "
                "make an objective or a metric for each, or give a metric "
                "{dataset: teacher_logits}"
            )

    def _integer_labels(self, labels: Array) -> Array:
        """Return a dataset's labels as integers, converted once: every round has the same ones."""
        if self._last is None or not np.array_equal(self._last[0], labels):
            own = labels.copy()  # these may be a view of the dataset's memory
            self._last = own, _as_integers(own)
        return self._last[1]

    def _check_classes(self, margins: Array) -> None:
        if self.teacher is None:
            return
        given, classes = self.teacher.shape[1], _classes(margins)
        if given != classes:
            one = margins.ndim == 1
            raise ValueError(
                f"teacher_logits has {given} classes, the booster "
                + (f"one margin per row; set num_class={given}" if one else f"has {classes}")
                + ("" if one else "; if -1 was counted as a class, pass the labels as labels=")
            )
        if self._is_shifted and margins.size == len(margins):
            raise ValueError(
                "divergence='mse' compares the logits themselves, and those of a booster for two "
                "classes are (0, margin): give the teacher's margin, "
                "teacher_logits[:, 1] - teacher_logits[:, 0]"
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
                f"hess is {hess!r}, expected 'library', the curvature of 'kl': the Hessian of "
                f"divergence={divergence!r} can have a negative diagonal"
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
    """A metric of an evaluation set, with the teacher of that set."""

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
        self.__name__ = REPORTED[name]  # what XGBoost's scikit-learn interface reports
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
        """Return the metric of the rows, which belong to `dataset` if that is known."""
        logits, teacher, labels, options = self._of(dataset).inputs(rows)
        # With two classes, ordinary margins may sum to 1 as well.
        if rows.margins.ndim == 2 and logits.shape[1] > 2 and look_like_probabilities(logits):
            raise ValueError(
                "the predictions are probabilities, expected margins, which boosters pass to a "
                "metric only with a custom objective such as kd_objective"
            )
        if self.name in ("loss", "hard", "soft"):
            parts = kd_loss_parts(logits, teacher, labels, **options)
            return float(getattr(parts, self.name))
        if labels is None:
            raise ValueError(f"the metric {self.name!r} needs labels, and the dataset has none")
        probabilities = softmax_temp(logits.astype(np.float64))
        score = metrics.SCORES[self.name]
        return score(probabilities, labels, sample_weight=options["sample_weight"])

    def _of(self, dataset: Hashable | None) -> Distillation:
        if self._sets is None:
            return self._only
        if dataset is None:
            raise ValueError(
                "teacher_logits is {dataset: teacher_logits}, expected the teacher of one "
                "evaluation set: scikit-learn interfaces do not say which dataset they evaluate"
            )
        if dataset not in self._sets:
            raise ValueError(
                f"an evaluation set is not one of the {len(self._sets)} datasets in teacher_logits"
            )
        return self._sets[dataset]


def mean_target(
    teacher_logits: npt.ArrayLike | None, labels: npt.ArrayLike | None, **options: Any
) -> Array:
    """Return the mean over the rows of alpha g + (1 - alpha) softmax(t), divided by its sum (K,).

    It is read off the loss at equal scores, where p = 1 / K: at temperature 1, a row whose target
    sums to M has the gradient M / K - target and the curvature M (1 / K) (1 - 1 / K).
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
    """Return scores of mean 0 whose softmax is `shares` (K,); for two classes one margin (1,)."""
    scores = np.log(shares)
    if len(scores) == 2:
        return np.asarray(scores[1:] - scores[:1])
    return np.asarray(scores - scores.mean())


def _teacher(teacher_logits: npt.ArrayLike) -> Array:
    teacher = as_array(teacher_logits, "teacher_logits")
    if teacher.ndim not in (1, 2):
        raise ValueError(
            f"teacher_logits has shape {teacher.shape}, expected (rows, classes), or (rows,), the "
            "margin of two classes"
        )
    return _logits(teacher)


def _classes(margins: Array) -> int:
    return 2 if margins.ndim == 1 else max(2, margins.shape[1])


def _logits(margins: Array) -> Array:
    """Return margins as logits (N, K); a single margin z becomes (0, z)."""
    if margins.ndim == 2 and margins.shape[1] != 1:
        return margins
    logits = np.zeros((len(margins), 2), margins.dtype, order="F")
    logits[:, 1] = margins.reshape(-1)
    return logits


def _as_integers(labels: Array) -> Array:
    """Return a dataset's labels as integers; soft labels (N, K) are returned as they are."""
    if labels.ndim == 2 and labels.shape[1] > 1:
        return labels
    labels = labels.reshape(-1)
    with np.errstate(invalid="ignore"):  # NaN and infinity are refused below
        integers = labels.astype(np.int64)
    if not np.array_equal(integers, labels):
        row = int((integers != labels).argmax())
        raise ValueError(f"the dataset's label of row {row} is {labels[row]}, expected a class")
    return integers
