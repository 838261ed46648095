"""Errors of results, measured as in the package's accuracy promise."""

import numpy as np


def loss_error(values, exact, dtype):
    """The largest relative error of losses; below dtype's smallest normal number, relative to that.

    NaN and infinities must be where the exact ones are, once these are rounded to dtype.
    """
    values, exact = np.asarray(values, np.longdouble), np.asarray(exact, np.longdouble)
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(values - exact) / np.maximum(np.abs(exact), np.finfo(dtype).tiny)
        rounded = exact.astype(dtype)
    same = (values == rounded) | (np.isnan(values) & np.isnan(rounded))
    return _largest(np.where(same, 0, error))


def gradient_error(values, exact, dtype, scale=None):
    """The largest error of gradients (rows, classes), relative to each row's `scale` (rows,).

    That is by default the row's largest entry.
    """
    values, exact = np.asarray(values, np.longdouble), np.asarray(exact, np.longdouble)
    if scale is None:
        scale = np.abs(exact).max(axis=1, initial=0)
    unit = np.maximum(np.asarray(scale, np.longdouble), np.finfo(dtype).tiny)[:, None]
    with np.errstate(invalid="ignore"):
        error = np.abs(values - exact) / unit
    return _largest(np.where(np.isnan(values) & np.isnan(exact), 0, error))


def _largest(error):
    return float(np.where(np.isnan(error), np.inf, error).max(initial=0))
