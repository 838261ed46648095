"""Trains a linear student on Dask arrays by L-BFGS: each step is a sum over the chunks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .._arrays import PADDING, UNLABELLED, Array, warn
from ..trainer import LinearStudent
from ..trainer.checks import Given, prepare
from ..trainer.columns import Columns
from ..trainer.epochs import Record, State
from ..trainer.lbfgs import RowsObjective, minimise
from ..trainer.rows import Rows, are_labelled
from ..trainer.settings import Settings
from .chunks import DaskArray, aligned, dask, matrix, parts
from .losses import weights

SAMPLE = 4096  # rows that are checked before training, evenly spaced
ADDED = 8  # the sums of this many chunks are added at a time


def fit(
    student: LinearStudent,
    X: DaskArray,
    labels: DaskArray | npt.ArrayLike | None,
    teacher_logits: DaskArray | npt.ArrayLike | None,
    *,
    sample_weight: DaskArray | npt.ArrayLike | None = None,
    alpha_per_row: DaskArray | npt.ArrayLike | None = None,
    n_classes: int | None = None,
    progress: Callable[[Record], object] | None = None,
) -> LinearStudent:
    r"""Train a linear student by L-BFGS on Dask arrays; each step is a sum over the chunks.

    .. math::
        \min_{W, b} \; \sum_i w_i L(x_i W + b, t_i, y_i) / \sum_i w_i
        + \tfrac{l2}{2} \sum W^2

    The workers compute the loss and gradient of each chunk; L-BFGS runs in the calling process.
    Dask recomputes the chunks of a lost worker; the student is then the same up to rounding.

    Parameters
    ----------
    student : LinearStudent
        With ``solver="lbfgs"``, without ``standardize`` and ``patience``. It is trained from the
        start.
    X : dask array (rows, features) of float
        Finite, chunked only by rows. It is read once for each step: ``persist`` it, and the
        teacher's logits, if they fit into the workers' memory.
    labels : dask array or array_like (rows,) of int, or (rows, classes) of float, or None
        Classes >= 0, -1 for a row that only the teacher labels, -100 for a row to leave out; or
        soft labels. None only if alpha is 0.
    teacher_logits : dask array or array_like (rows, classes) of float, or None
        None only if alpha is 1 and no row is labelled -1.
    sample_weight, alpha_per_row : dask array or array_like (rows,), optional
        As in `LinearStudent.fit`.
    n_classes : int, optional
        The number of classes, required if there is neither a teacher nor soft labels.
    progress : callable, optional
        Called with the record of each step.

    Returns
    -------
    LinearStudent
        The student itself. The records of its history have ``epoch``, ``loss``, ``hard``, ``soft``
        and ``gradient``.

    Raises
    ------
    ValueError, TypeError
        For settings, shapes and chunks that do not match, before anything is computed; for labels
        and options out of range.
    FloatingPointError
        If the loss is not finite.

    Warns
    -----
    UserWarning
        As `LinearStudent.fit` before training, but from at most 4,096 evenly spaced rows; and if
        the gradient is above the tolerance at the end.

    References
    ----------
    Liu, Nocedal: On the limited memory BFGS method, Mathematical Programming 45 (1989).

    Examples
    --------
    >>> import dask, dask.array, numpy as np, kdloss, kdloss.dask
    >>> X, T = dask.array.eye(3, chunks=1).rechunk((1, 3)), 5 * np.eye(3)
    >>> student = kdloss.LinearStudent(solver="lbfgs", l2=0.01)
    >>> with dask.config.set(scheduler="sync"):
    ...     student = kdloss.dask.fit(student, X, [0, 1, -1], T)
    >>> student.predict(np.eye(3))
    array([0, 1, 2])
    """
    settings = student.settings
    if settings.solver != "lbfgs":
        raise ValueError(f"solver is {settings.solver!r}, expected LinearStudent(solver='lbfgs')")
    if settings.standardize:
        raise ValueError(
            "standardize is True, expected False; pass (X - X.mean(axis=0)) / X.std(axis=0) as X"
        )
    if settings.patience is not None:
        raise ValueError(
            f"patience is {settings.patience}, expected None: kdloss.dask.fit has no validation"
        )
    X = matrix("X", X, "LinearStudent.fit")
    given = Chunked(
        X,
        aligned("labels", labels, X, 1, 2),
        aligned("teacher_logits", teacher_logits, X, 2),
        aligned("sample_weight", sample_weight, X, 1),
        aligned("alpha_per_row", alpha_per_row, X, 1),
    )
    _train(student, given, n_classes, progress)
    return student


class Chunked(NamedTuple):
    """The arrays of `fit`, in the same chunks of rows; or, in a worker, one chunk of each."""

    X: Any
    labels: Any
    teacher: Any
    weight: Any
    alpha: Any


class Sums(NamedTuple):
    """Sums over rows: weights, weights of labelled rows, the loss, its parts and its gradient."""

    weight: float
    labelled: float
    loss: float
    hard: float
    soft: float
    gradient: Any  # (D + 1, C), or 0 if no row counts


def _train(
    student: LinearStudent,
    given: Chunked,
    n_classes: int | None,
    progress: Callable[[Record], object] | None,
) -> None:
    settings = student.settings
    classes = _count_classes(given, n_classes)
    _check_sample(given, settings, classes)
    columns = Columns(None, np.arange(classes))
    objective = _Objective(given, settings, classes)
    start = np.zeros((given.X.shape[1] + 1, classes))
    history: list[Record] = []

    def after_iteration(parameters: Array, gradient: Array) -> bool:
        record: Record = {"epoch": len(history) + 1, **objective.scores}
        history.append(record | {"gradient": float(np.abs(gradient).max())})
        velocity = np.zeros_like(parameters)
        student._state = State(parameters, velocity, parameters, history.copy())
        student._columns = columns
        if progress is not None:
            progress(dict(history[-1]))
        return True

    largest = minimise(
        objective,
        start,
        tolerance=settings.tolerance,
        iterations=settings.epochs,
        after_iteration=after_iteration,
    )
    if not history:  # the start is the optimum
        after_iteration(start, np.array(largest))
    if largest > settings.tolerance:
        warn(
            f"lbfgs ends with a gradient of {largest:.2g}, above its tolerance of "
            f"{settings.tolerance:g}, after {len(history)} epochs: scale features that have "
            "different scales, or use more epochs, some l2, or a larger tolerance"
        )


class _Objective:
    """The mean loss of all chunks plus l2/2 sum(W^2); keeps the scores of its last evaluation."""

    def __init__(self, given: Chunked, settings: Settings, classes: int) -> None:
        self._settings, self._classes = settings, classes
        count = given.X.numblocks[0]
        self._chunks = [
            Chunked(*chunk) for chunk in zip(*(parts(a, count) for a in given), strict=True)
        ]
        self.scores: Record = {}

    def __call__(self, parameters: Array) -> tuple[float, Array]:
        """The value and the gradient (D + 1, C), the bias in its last row."""
        settings = self._settings
        shared = dask.delayed(parameters)
        sums = [
            dask.delayed(_chunk_sums)(number, chunk, shared, settings, self._classes)
            for number, chunk in enumerate(self._chunks)
        ]
        while len(sums) > 1:  # in a fixed order, whichever worker finishes first
            sums = [dask.delayed(_add)(sums[k : k + ADDED]) for k in range(0, len(sums), ADDED)]
        (total,) = dask.compute(*sums)
        if not total.weight:
            raise ValueError(
                "X has no row that counts, expected at least one that is not labelled -100 and has "
                "a weight > 0"
            )
        self.scores = {
            "loss": total.loss / total.weight,
            "hard": total.hard / total.labelled if total.labelled else float("nan"),
            "soft": total.soft / total.weight,
        }
        gradient = total.gradient / total.weight
        W = parameters[:-1]
        gradient[:-1] += settings.l2 * W
        if not settings.bias:
            gradient[-1] = 0
        return self.scores["loss"] + settings.l2 / 2 * float(np.vdot(W, W)), gradient


def _count_classes(given: Chunked, n_classes: int | None) -> int:
    soft = None if given.labels is None or given.labels.ndim == 1 else given.labels
    found = {
        name: array.shape[1]
        for name, array in (("teacher_logits", given.teacher), ("labels", soft))
        if array is not None
    } | ({} if n_classes is None else {"n_classes": n_classes})
    if not found:
        raise ValueError(
            "n_classes is None, expected the number of classes where there is neither a teacher "
            "nor soft labels"
        )
    if len(set(found.values())) > 1:
        raise ValueError(f"the numbers of classes are {found}, expected the same in all")
    return int(next(iter(found.values())))


def _check_sample(given: Chunked, settings: Settings, classes: int) -> None:
    """Check evenly spaced rows like `LinearStudent.fit`, with its errors and warnings."""
    step = max(1, -(-given.X.shape[0] // SAMPLE))
    some = Chunked(*dask.compute(*(None if a is None else a[::step] for a in given)))
    if _used(some).any():
        prepare(Given(*some), None, settings, n_classes=classes)


def _used(chunk: Chunked) -> Array:
    """Whether each row counts (N,)."""
    used = np.ones(len(chunk.X), bool) if chunk.weight is None else chunk.weight != 0
    if chunk.labels is not None and chunk.labels.ndim == 1:
        used = used & (chunk.labels != PADDING)
    return np.asarray(used)


# The functions below run in workers.


def _chunk_sums(
    number: int, chunk: Chunked, parameters: Array, settings: Settings, classes: int
) -> Sums:
    used = _used(chunk)
    if not used.any():
        return Sums(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    labels = np.full(len(used), UNLABELLED) if chunk.labels is None else chunk.labels
    weight = None if chunk.weight is None else np.asarray(chunk.weight, np.float64)
    data = Rows(
        X=chunk.X,
        labels=labels,
        teachers=[] if chunk.teacher is None else [chunk.teacher],
        shares=np.ones(int(chunk.teacher is not None)),
        alpha=settings.alpha if chunk.alpha is None else chunk.alpha,
        weight=weight,
        tau=settings.tau,
        rows=np.flatnonzero(used),
        classes=classes,
        dtype=np.dtype(np.float64),
        known=np.where(are_labelled(labels), 0, UNLABELLED),
    )
    objective = RowsObjective(data, dataclasses.replace(settings, l2=0.0))
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            loss, gradient = objective(parameters)
    except (FloatingPointError, TypeError, ValueError) as error:
        raise type(error)(f"chunk {number} of the rows: {error}") from error
    scores = objective.scores.means()
    total, labelled = weights(len(used), labels, weight)
    hard = labelled * scores["hard"] if labelled else 0.0
    return Sums(total, labelled, total * loss, hard, total * scores["soft"], total * gradient)


def _add(sums: list[Sums]) -> Sums:
    return Sums(*(sum(values) for values in zip(*sums, strict=True)))
