"""The losses over chunks of rows: sums of each chunk, combined to the mean over all rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Self, Unpack, cast

import numpy as np
import numpy.typing as npt

from .. import losses
from .._arrays import PADDING, Array
from ..losses import KDParts, KDResult, LossOptions, OneNumber, Reduction
from ..trainer.rows import are_labelled
from .chunks import (
    DaskArray,
    aligned,
    dask,
    is_chunked,
    matrix,
    number_or_rows,
    one_row,
    threads_of_task,
)


def kd_loss_batch(
    student_logits: DaskArray,
    teacher: DaskArray | npt.ArrayLike | None,
    labels: DaskArray | npt.ArrayLike | None,
    *,
    reduction: Reduction = "mean",
    **options: Unpack[LossOptions],
) -> DaskArray:
    r"""The loss of `kdloss.kd_loss_batch` on Dask arrays, not computed yet.

    .. math::
        L = \sum_i w_i L_i / \sum_i w_i

    over the rows of all chunks that count, whatever the sizes of the chunks.

    Parameters
    ----------
    student_logits : dask array (rows, classes) of float
        Chunked only by rows.
    teacher, labels : dask array or array_like, or None
        As in `kdloss.kd_loss_batch`. They are rechunked to the student's rows if necessary.
    reduction : {"mean", "sum", "none"}, default "mean"
        As in `kdloss.kd_loss_batch`, over all chunks.
    **options
        ``alpha``, ``tau``, ``ignore_index``, ``sample_weight``, ``class_weight``,
        ``label_smoothing``, ``normalizer``, ``divergence`` and ``beta``, as in
        `kdloss.kd_loss_batch`; those with a value for each row may be Dask arrays.
        ``num_threads``: by default the threads of the worker, divided by the number of tasks that
        it runs at the time.

    Returns
    -------
    dask array () of float64, or (rows,) of the student's type where ``reduction="none"``
        In float64, the relative difference to the loss of the whole arrays is at most 1e-13.

    Raises
    ------
    ValueError, TypeError
        At once for shapes, chunks and options that do not match; by ``compute`` for bad values.

    References
    ----------
    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, arXiv:1503.02531 (2015).

    Examples
    --------
    >>> import dask.array, kdloss.dask
    >>> S = dask.array.from_array([[2.0, 0.5, -1.0], [0.2, -0.1, 1.2]], chunks=(1, 3))
    >>> T = dask.array.from_array([[3.0, 1.0, -0.5], [-0.2, 0.3, 2.0]], chunks=(1, 3))
    >>> loss = kdloss.dask.kd_loss_batch(S, T, [0, 2], tau=3.0)
    >>> round(float(loss.compute(scheduler="sync")), 12)
    0.221605937332
    """
    call = _Call.of(student_logits, teacher, labels, **options)
    sample = call.sample(losses.kd_loss_batch, reduction)
    if reduction == "none":
        return call.per_chunk(_row_losses, "n", dtype=sample.dtype)
    loss, weight = call.sums(_loss_sums, 2)
    return call.mean(loss, weight, reduction)


def kd_loss_and_grad(
    student_logits: DaskArray,
    teacher: DaskArray | npt.ArrayLike | None,
    labels: DaskArray | npt.ArrayLike | None,
    *,
    reduction: Reduction = "mean",
    **options: Unpack[LossOptions],
) -> KDResult[DaskArray]:
    r"""The loss of `kd_loss_batch` and its gradient, not computed yet.

    .. math::
        \nabla_s L = \alpha \, (p^{(1)} - e_y) + (1 - \alpha) \, \tau \, (p - q)

    divided by the number, or the weight, of the rows of all chunks that count, where
    ``reduction="mean"``. That number is computed first, from ``labels`` and ``sample_weight``.

    Parameters
    ----------
    student_logits, teacher, labels, reduction, **options
        As in `kd_loss_batch`.

    Returns
    -------
    KDResult
        ``(loss, grad_logits)``: Dask arrays, the loss as in `kd_loss_batch`, the gradient with the
        shape, chunks and type of the student. The gradient has the same bits as that of the whole
        arrays, unless weights are summed for the divisor, which depends on the chunks in its last
        digits. Compute both in one ``dask.compute(loss, grad)``.

    Raises
    ------
    ValueError, TypeError
        As in `kd_loss_batch`.

    References
    ----------
    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, arXiv:1503.02531 (2015).

    Examples
    --------
    >>> import dask, dask.array, kdloss.dask
    >>> S = dask.array.from_array([[2.0, 0.5, -1.0], [0.2, -0.1, 1.2]], chunks=(1, 3))
    >>> result = kdloss.dask.kd_loss_and_grad(S, None, [0, -100], alpha=1.0)
    >>> loss, grad = dask.compute(*result, scheduler="sync")
    >>> grad.round(4).tolist()
    [[-0.2144, 0.1753, 0.0391], [0.0, 0.0, 0.0]]
    """
    call = _Call.of(student_logits, teacher, labels, **options)
    sample = call.sample(losses.kd_loss_and_grad, reduction)
    divisor = None
    if reduction == "mean" and call.options["normalizer"] is None:
        divisor = call.total_weight()
    pairs = call.per_chunk(_loss_and_grad, "n", divisor, dtype=object, reduction=reduction)
    grad = dask.array.blockwise(
        _grad, "nc", pairs, "n", new_axes={"c": call.student.shape[1]},
        dtype=sample.grad_logits.dtype, meta=sample.grad_logits[:0],
    )  # fmt: skip
    if reduction == "none":
        return KDResult(dask.array.blockwise(_loss, "n", pairs, "n", dtype=sample.loss.dtype), grad)
    loss = dask.array.blockwise(
        _loss, "n", pairs, "n", adjust_chunks={"n": 1}, dtype=np.float64, meta=np.empty(0)
    )
    return KDResult(loss.sum(), grad)


def kd_loss_parts(
    student_logits: DaskArray,
    teacher: DaskArray | npt.ArrayLike | None,
    labels: DaskArray | npt.ArrayLike | None,
    *,
    reduction: OneNumber = "mean",
    **options: Unpack[LossOptions],
) -> KDParts[DaskArray]:
    r"""The loss of `kd_loss_batch` and its hard and soft parts, not computed yet.

    .. math::
        L = \alpha \, \mathrm{hard} + (1 - \alpha) \, \mathrm{soft}

    in each row, and the means of all three over all chunks.

    Parameters
    ----------
    student_logits, teacher, labels, **options
        As in `kd_loss_batch`.
    reduction : {"mean", "sum"}, default "mean"
        As in `kdloss.kd_loss_parts`: the mean of the hard part is over the labelled rows.

    Returns
    -------
    KDParts
        ``(loss, hard, soft)``, Dask arrays () of float64.

    Raises
    ------
    ValueError, TypeError
        As in `kd_loss_batch`.

    References
    ----------
    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, arXiv:1503.02531 (2015).

    Examples
    --------
    >>> import dask, dask.array, kdloss.dask
    >>> S = dask.array.from_array([[2.0, 0.5, -1.0]], chunks=(1, 3))
    >>> parts = kdloss.dask.kd_loss_parts(S, [[3.0, 1.0, -0.5]], [0], tau=3.0)
    >>> [round(float(x), 6) for x in dask.compute(*parts, scheduler="sync")]
    [0.136202, 0.241311, 0.031092]
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is {reduction!r}, expected 'mean' or 'sum'")
    call = _Call.of(student_logits, teacher, labels, **options)
    call.sample(losses.kd_loss_parts, reduction)
    loss, hard, soft, weight, labelled = call.sums(_part_sums, 5)
    return KDParts(
        call.mean(loss, weight, reduction),
        dask.array.where(labelled > 0, call.mean(hard, labelled, reduction), math.nan),
        call.mean(soft, weight, reduction) if teacher is not None else soft * math.nan,
    )


class _Call(NamedTuple):
    """The arguments of a loss: arrays with the same chunks of rows, and the other options."""

    student: DaskArray
    teacher: DaskArray | None
    labels: DaskArray | None
    weight: DaskArray | None
    alpha: Any  # a Dask array (rows,) or a number, as tau is
    tau: Any
    options: dict[str, Any]

    @classmethod
    def of(cls, student_logits: Any, teacher: Any, labels: Any, **options: Any) -> Self:
        """Check the chunks, and align the other arrays with the student's."""
        student = matrix("student_logits", student_logits, "kdloss.kd_loss_batch")
        weight = options.pop("sample_weight", None)
        alpha, tau = options.pop("alpha", 0.5), options.pop("tau", 4.0)
        given = {"ignore_index": PADDING, "normalizer": None, "num_threads": None} | options
        return cls(
            student,
            aligned("teacher", teacher, student, 2),
            aligned("labels", labels, student, 1, 2),
            aligned("sample_weight", weight, student, 1),
            number_or_rows("alpha", alpha, student),
            number_or_rows("tau", tau, student),
            given,
        )

    def sample(self, function: Callable[..., Any], reduction: Reduction) -> Any:
        """Return the loss of one row of zeros, which raises at once for bad options."""
        row = one_row(self.teacher, self.labels, self.alpha, self.tau)
        student = np.zeros((1, self.student.shape[1]), self.student.dtype)
        return function(
            student, row.teacher, row.labels, alpha=row.alpha, tau=row.tau, reduction=reduction,
            **self.options,
        )  # fmt: skip

    def per_chunk(self, function: Callable[..., Any], index: str, *more: Any, **how: Any) -> Any:
        """Apply the function to the arrays of each chunk, to `more` and to the options."""
        how.setdefault("meta", np.empty((0,) * len(index), how["dtype"]))
        return dask.array.blockwise(
            function, index, *_indexed(*self[:-1], *more), concatenate=True, options=self.options,
            **how,
        )  # fmt: skip

    def sums(self, function: Callable[..., Any], count: int) -> DaskArray:
        """Return `count` sums over the rows of all chunks, which the function gives per chunk."""
        return self.per_chunk(
            function, "nk", new_axes={"k": count}, adjust_chunks={"n": 1}, dtype=np.float64
        ).sum(axis=0)

    def total_weight(self) -> DaskArray | float:
        """The weight of all rows that count; the logits, which may be costly, are not computed."""
        labels = None if self.labels is None or self.labels.ndim == 2 else self.labels
        if labels is None and self.weight is None:
            return float(self.student.shape[0])
        return dask.array.blockwise(
            _total_weight, "n", *_indexed(labels, self.weight), adjust_chunks={"n": 1},
            concatenate=True, dtype=np.float64, meta=np.empty(0), options=self.options,
        ).sum()  # fmt: skip

    def mean(self, total: DaskArray, weight: DaskArray, reduction: OneNumber) -> DaskArray:
        """Divide a sum according to ``reduction`` and ``normalizer``; the mean of no rows is 0."""
        if reduction == "sum":
            return total
        if self.options["normalizer"] is not None:
            return total / self.options["normalizer"]
        return total / dask.array.where(weight > 0, weight, 1.0)


def _indexed(*values: Any) -> list[Any]:
    """The arguments of blockwise, each followed by its index, or by None if it has no chunks."""
    pairs: list[Any] = []
    for value in values:
        pairs += [value, ("", "n", "nc")[value.ndim] if is_chunked(value) else None]
    return pairs


# The functions below run in workers, each on one chunk.


def _row_losses(*arrays: Any, options: dict[str, Any]) -> Array:
    result: Array = _loss_of(losses.kd_loss_batch, arrays, options, reduction="none")
    return result


def _loss_and_grad(*arrays: Any, options: dict[str, Any], reduction: Reduction) -> KDResult[Any]:
    *rows, divisor = arrays
    if divisor is not None:  # 0 if no row counts: all gradients are 0 with any divisor
        options = options | {"normalizer": float(divisor) or 1.0}
    pair: KDResult[Any] = _loss_of(losses.kd_loss_and_grad, rows, options, reduction=reduction)
    return pair


def _loss(pair: KDResult[Any]) -> Array:
    return np.atleast_1d(pair.loss)


def _grad(pair: KDResult[Any]) -> Array:
    return pair.grad_logits


def _loss_sums(*arrays: Any, options: dict[str, Any]) -> Array:
    loss = _loss_of(losses.kd_loss_batch, arrays, options | {"normalizer": None}, reduction="sum")
    student, _, labels, weight, *_ = arrays
    total, _ = weights(len(student), labels, weight, options["ignore_index"])
    return np.array([[loss, total]])


def _part_sums(*arrays: Any, options: dict[str, Any]) -> Array:
    parts = _loss_of(losses.kd_loss_parts, arrays, options | {"normalizer": None}, reduction="sum")
    student, teacher, labels, weight, *_ = arrays
    total, labelled = weights(len(student), labels, weight, options["ignore_index"])
    # parts.hard and parts.soft are NaN if no row has that part.
    hard = parts.hard if labelled else 0.0
    soft = 0.0 if teacher is None else parts.soft
    return np.array([[parts.loss, hard, soft, total, labelled]])


def _loss_of(
    function: Callable[..., Any], arrays: Any, options: dict[str, Any], *, reduction: Reduction
) -> Any:
    student, teacher, labels, weight, alpha, tau = arrays
    if options["num_threads"] is None:
        options = options | {"num_threads": threads_of_task()}
    return function(
        student, teacher, labels, alpha=alpha, tau=tau, sample_weight=weight, reduction=reduction,
        **options,
    )  # fmt: skip


def _total_weight(labels: Array | None, weight: Array | None, options: dict[str, Any]) -> Array:
    rows = len(cast(Array, weight if labels is None else labels))
    return np.array([weights(rows, labels, weight, options["ignore_index"])[0]])


def weights(
    rows: int, labels: Array | None, weight: Array | None, ignore_index: int = PADDING
) -> tuple[float, float]:
    """The weight of the rows that count, and of the labelled ones among them."""
    counts = np.ones(rows) if weight is None else np.array(weight, np.float64)
    if labels is None:
        return float(counts.sum()), 0.0
    if labels.ndim == 1:
        counts[labels == ignore_index] = 0
    return float(counts.sum()), float(counts[are_labelled(labels)].sum())
