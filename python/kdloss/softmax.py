"""Softmax, log-softmax and log-sum-exp at a temperature."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _core
from ._arrays import as_floats


def softmax_temp(
    logits: ArrayLike,
    tau: float = 1.0,
    *,
    axis: int = -1,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    r"""Softened probabilities, the softmax of ``logits / tau``.

    .. math:: p_c = \frac{\exp(z_c / \tau)}{\sum_j \exp(z_j / \tau)}

    Parameters
    ----------
    logits : array_like of float, any shape with at least one axis
        float32 and float64 are read in place, with any strides. float16 is converted to float32,
        integers to float64.
    tau : float, default 1
        Temperature, in units of the logits, > 0. A larger one gives a flatter distribution.
    axis : int, default -1
        The axis of the classes.
    out : ndarray, optional
        Where to write the result, with the result's shape and dtype. May be ``logits`` itself.

    Returns
    -------
    ndarray
        Probabilities, of the logits' shape and type; each row sums to 1. A logit of -inf has
        probability 0. A row that holds NaN, +inf, or only -inf is NaN. The relative error is at
        most 1e-5 (float32) or 1e-12 (float64); below the type's smallest normal number, the error
        is relative to that number.

    Raises
    ------
    ValueError
        If ``tau`` is not finite or not > 0, if ``logits`` is a single number or has no classes, or
        if ``out`` does not fit.
    TypeError
        If ``logits`` are not numbers.

    See Also
    --------
    log_softmax_temp : the logarithm, more accurate than ``log(softmax_temp(...))``.

    References
    ----------
    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, arXiv:1503.02531 (2015).

    Examples
    --------
    >>> import kdloss
    >>> kdloss.softmax_temp([2.0, 0.5, -1.0], tau=3.0).round(4).tolist()
    [0.5065, 0.3072, 0.1863]
    """
    return _along(_core.softmax_temp, logits, tau, axis, out)


def log_softmax_temp(
    logits: ArrayLike,
    tau: float = 1.0,
    *,
    axis: int = -1,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    r"""Logarithms of the softened probabilities, accurate even if one class has almost all.

    .. math:: \log p_c = z_c / \tau - \log \sum_j \exp(z_j / \tau)

    Parameters
    ----------
    logits, tau, axis, out
        As in `softmax_temp`.

    Returns
    -------
    ndarray
        Log-probabilities, of the logits' shape and type; -inf for a logit of -inf. The accuracy is
        that of `softmax_temp`.

    Raises
    ------
    ValueError, TypeError
        As in `softmax_temp`.

    References
    ----------
    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, arXiv:1503.02531 (2015).

    Examples
    --------
    >>> import kdloss
    >>> kdloss.log_softmax_temp([0.0, -40.0]).tolist()  # log(softmax) would give 0.0 for the first
    [-4.248354255291591e-18, -40.0]
    """
    return _along(_core.log_softmax_temp, logits, tau, axis, out)


def log_sum_exp(logits: ArrayLike, tau: float = 1.0, *, axis: int = -1) -> Any:
    r"""The logarithm of a sum of exponentials, accurate even if one term is almost the whole sum.

    .. math:: \log \sum_c \exp(z_c / \tau)

    Parameters
    ----------
    logits, tau, axis
        As in `softmax_temp`.

    Returns
    -------
    ndarray or scalar
        The logits' shape without ``axis``, and their type. A row of -inf gives -inf; a row with
        +inf gives +inf. The result is m + d, where m = max / tau and d = log sum exp(z / tau - m).
        The two can cancel, so the error bound of `softmax_temp` is relative to the larger of
        abs(m) and d.

    Raises
    ------
    ValueError, TypeError
        As in `softmax_temp`.

    References
    ----------
    "Log-sum-exp trick" in the knowledge-distillation document (docs/document.md), whose formula
    gives 0 for the second example.

    Examples
    --------
    >>> import kdloss
    >>> float(kdloss.log_sum_exp([1000.0, 1000.0]))
    1000.6931471805599
    >>> print(f"{kdloss.log_sum_exp([0.0, -40.0]):.12g}")
    4.24835425529e-18
    """
    rows, shape, _ = _rows_along(logits, axis)
    values = _core.log_sum_exp(rows, tau)
    return values.reshape(shape[:-1])[()]


def _rows_along(logits: ArrayLike, axis: int) -> tuple[NDArray[Any], tuple[int, ...], int]:
    """The logits as (rows, classes), their shape with the classes last, and the axis as an int."""
    array = logits if isinstance(logits, np.ndarray) else as_floats(logits, "logits")
    if array.ndim == 0:
        raise ValueError("logits is a single number, expected at least one axis, of classes")
    try:
        axis = operator.index(axis)
    except TypeError:
        raise TypeError(f"axis is {axis!r}, expected a whole number") from None
    if not -array.ndim <= axis < array.ndim:
        raise ValueError(
            f"axis is {axis}, expected an axis of logits, which has shape {array.shape}"
        )
    moved = np.moveaxis(array, axis, -1)
    classes = moved.shape[-1]
    if classes == 0:
        along = "" if axis % array.ndim == array.ndim - 1 else f" along axis {axis}"
        raise ValueError(f"logits has shape {array.shape}, expected at least one class{along}")
    rows = moved.reshape(moved.size // classes, classes)  # -1 fails for an empty array
    return rows, moved.shape, axis


def _along(
    function: Callable[[NDArray[Any], float, NDArray[Any] | None], NDArray[Any]],
    logits: ArrayLike,
    tau: float,
    axis: int,
    out: NDArray[Any] | None,
) -> NDArray[Any]:
    if isinstance(logits, np.ndarray) and logits.ndim == 2 and axis in (-1, 1):
        return function(logits, tau, out)
    rows, shape, axis = _rows_along(logits, axis)
    if out is not None:
        dtype = as_floats(rows[:0], "logits").dtype
        _check_out(out, np.moveaxis(np.broadcast_to(dtype.type(), shape), -1, axis))
    result = np.moveaxis(function(rows, tau, None).reshape(shape), -1, axis)
    if out is None:
        return result
    out[...] = result
    return out


def _check_out(out: Any, like: NDArray[Any]) -> None:
    """Refuse an ``out`` that has not the shape and dtype of ``like``, or cannot be written."""
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"out is of type {type(out).__name__}, expected a NumPy array")
    if out.shape != like.shape or out.dtype != like.dtype:
        raise ValueError(
            f"out has shape {out.shape} and dtype {out.dtype}, "
            f"expected {like.shape} and {like.dtype}"
        )
    if not out.flags.writeable:
        raise ValueError("out is read-only, expected a writeable array")
    if any(stride == 0 for stride, size in zip(out.strides, out.shape, strict=True) if size > 1):
        raise ValueError(
            f"out has strides {out.strides}, at which elements overlap, "
            "expected an array with an address for each element"
        )
