"""Converts and checks the arrays that callers pass.

Every error names the argument, the first bad row and its value, and says what was expected.
"""

import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

UNLABELLED = -1
PADDING = -100
SUM_TOLERANCE = 1e-3  # how far the sum of a row of probabilities may be from 1


def warn(message: str) -> None:
    """Warn, and show the line of the caller's code that called into this package."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals["__name__"].split(".")[0] == "kdloss":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)


def shortened(values: Sequence[Any], text: Callable[[Any], str] = repr) -> str:
    """The first ten of these values for a message, and the number of the others."""
    shown = ", ".join(text(value) for value in values[:10])
    return shown if len(values) <= 10 else f"{shown} and {len(values) - 10:,} more"


def refuse_mask(value: Any, name: str) -> None:
    """Refuse a masked array, which would be read as if it had no mask."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array, expected one without a mask; mask a class with -inf, "
            "or a row with the label -100 or the weight 0"
        )


def as_array(value: Any, name: str) -> Array:
    """``value`` as a NumPy array: by ``numpy.asarray``, or through DLPack for arrays on the CPU."""
    refuse_mask(value, name)
    if value is None:
        raise TypeError(f"{name} is None, expected an array of numbers")
    if not isinstance(value, np.ndarray) and hasattr(value, "__dlpack_device__"):
        device, _ = value.__dlpack_device__()
        if device != 1:  # kDLCPU
            raise TypeError(
                f"{name} is a {type(value).__name__} on a device (DLPack type {int(device)}), "
                "expected an array in the memory of the CPU"
            )
        if hasattr(value, "resolve_neg"):
            value = value.resolve_neg()  # DLPack does not know a tensor's pending sign
        try:
            return np.from_dlpack(value)
        except (BufferError, RuntimeError, TypeError):
            pass  # a dtype that DLPack or NumPy lacks; np.asarray may still convert it
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} is not an array of numbers: {error}") from None
    except (RuntimeError, TypeError) as error:  # such as a tensor that requires a gradient
        hint = "; pass its .float()" if "BFloat16" in str(error) else ""
        raise TypeError(
            f"{name} is a {type(value).__name__} that NumPy cannot read: {error}{hint}"
        ) from None


def as_floats(value: Any, name: str, dtype: str = "", halves: bool = False) -> Array:
    """``value`` as an aligned array of native float32 or float64, or of ``dtype`` if it is given.

    Integers become float64. float16 and bfloat16 become float32, or stay if ``halves``.
    """
    array = as_array(value, name)
    half = array.dtype == np.float16 or array.dtype.name == "bfloat16"
    if not half and (array.dtype.kind not in "iuf" or array.dtype.itemsize > 8):
        raise TypeError(
            f"{name} has dtype {array.dtype}, "
            "expected floating-point numbers of 16, 32 or 64 bits, or integers"
        )
    if dtype:
        wanted = np.dtype(dtype)
    elif half and halves:
        wanted = array.dtype.newbyteorder("=")
    elif half or (array.dtype.kind == "f" and array.dtype.itemsize == 4):
        wanted = np.dtype(np.float32)
    else:
        wanted = np.dtype(np.float64)
    if array.dtype == wanted and array.dtype.isnative:
        return array.copy(order="K")  # only its alignment or its strides were wrong
    return array.astype(wanted, order="K")


def _shape_hint(labels: Array) -> str:
    if labels.ndim < 2:
        return ""
    one_hot = labels.ndim == 2 and labels.shape[1] > 1 and np.all(np.sum(labels != 0, axis=1) == 1)
    if one_hot:
        return "; soft labels, (rows, classes), are floats: labels.astype(float)"
    return "; reshape it, with labels.reshape(-1)"


def as_labels(value: Any) -> Array:
    """``value`` as class indices, 1-D int64 or int32, or as soft labels, 2-D floats."""
    array = as_array(value, "labels")
    if array.ndim == 2 and array.dtype.kind not in "iub":
        return as_floats(array, "labels")
    if array.dtype.kind == "f" and array.size == 0:
        array = array.astype(np.int64)  # an empty list
    if array.dtype.kind == "f" and array.ndim > 2:
        raise ValueError(
            f"labels has shape {array.shape}, expected soft labels of shape (rows, classes); "
            f"reshape it, with labels.reshape(-1, {array.shape[-1]})"
        )
    if array.dtype.kind not in "iu":
        hint = "; use labels.astype(numpy.int64)" if array.dtype.kind in "bf" else ""
        raise TypeError(f"labels has dtype {array.dtype}, expected integers{hint}")
    if array.ndim != 1:
        raise ValueError(
            f"labels has shape {array.shape}, expected one label for each row, shape (rows,)"
            + _shape_hint(array)
        )
    if array.dtype.kind == "u" and array.size and int(array.max()) > np.iinfo(np.int64).max:
        row = int(np.argmax(array > np.iinfo(np.int64).max))
        raise ValueError(f"labels[{row}] is {int(array[row])}, expected a class index")
    if array.dtype == np.int64 and array.dtype.isnative:
        return array.copy()
    return array.astype(np.int64)


def as_vector(value: Any, name: str, count: int, number: str, each: str) -> npt.NDArray[np.float64]:
    """``value`` as contiguous float64 (count,); messages contain ``number`` and ``each``."""
    array = as_array(value, name)
    if array.dtype.kind not in "iuf" and array.dtype.name != "bfloat16":
        raise TypeError(f"{name} has dtype {array.dtype}, expected {number or 'numbers, '}{each}")
    if array.shape != (count,):
        raise ValueError(f"{name} has shape {array.shape}, expected {number}({count},), {each}")
    return np.require(array, np.float64, ["C_CONTIGUOUS", "ALIGNED"])


def look_like_probabilities(logits: Array) -> bool:
    """Whether all rows (B, C) look like probabilities, perhaps rounded to two decimals."""
    if logits.shape[1] == 1 or not ((logits >= 0) & (logits <= 1)).all():
        return False
    return bool((np.abs(logits.sum(axis=1) - 1) <= 2e-2).all())


def check_labels(
    labels: npt.ArrayLike,
    rows: int,
    classes: int | None,
    name: str = "labels",
    *,
    unused: Array | None = None,
) -> Array:
    """Return `labels` as int64 (rows,), checked to be classes in [0, classes), -1 or -100.

    If `classes` is None, every label >= 0 is a class. Where `unused` (rows,) is true, the label is
    not checked and becomes -100. Messages call the labels `name`.
    """
    array = as_array(labels, name)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {array.dtype}, expected integers")
    if array.shape != (rows,):
        raise ValueError(f"{name} has shape {array.shape}, expected ({rows},), one per row")
    # Compared before the conversion: a huge unsigned label would become negative in int64.
    largest = np.iinfo(np.int64).max if classes is None else classes - 1
    bad = (array > largest) | ((array < 0) & (array != UNLABELLED) & (array != PADDING))
    if unused is not None:
        bad &= ~unused
    if bad.any():
        row = int(bad.argmax())
        expected = ">= 0" if classes is None else f"in [0, {classes})"
        raise ValueError(
            f"{name}[{row}] is {array[row]}, expected a class {expected}, -1 (unlabelled) or -100 "
            "(padding)"
        )
    result = array.astype(np.int64, copy=unused is not None)
    if unused is not None:
        result[unused] = PADDING
    return result


def check_soft_labels(labels: Array, rows: Array, name: str = "labels") -> Array:
    """Return which rows of soft labels (B, C) are labelled, that is not all zeros, as bool (B,).

    Refuses negative entries and rows that do not sum to 1. Messages call the labels `name`, and
    row i `rows[i]`.
    """
    negative = labels < 0
    if negative.any():
        row, column = divmod(int(negative.argmax()), labels.shape[1])
        value = labels[row, column]
        raise ValueError(f"{name}[{rows[row]}, {column}] is {value:g}, expected a probability >= 0")
    sums = labels.sum(axis=1, dtype=np.float64)
    labelled = np.asarray(sums != 0)
    good = (np.abs(sums - 1) <= SUM_TOLERANCE) | ~labelled  # False for NaN
    if not good.all():
        row = int(good.argmin())
        raise ValueError(
            f"{name}[{rows[row]}] sums to {sums[row]:g}, expected probabilities that sum to 1 "
            f"within {SUM_TOLERANCE:g} (or all zeros: unlabelled)"
        )
    return labelled


def check_weights(
    weights: npt.ArrayLike, count: int, name: str = "sample_weight", each: str = "row"
) -> Array:
    """Return `weights` as float64 (count,), checked to be finite and >= 0."""
    array = as_vector(weights, name, count, "", f"one weight for each {each}")
    good = (array >= 0) & np.isfinite(array)
    if not good.all():
        bad = int(good.argmin())
        raise ValueError(f"{name}[{bad}] is {array[bad]:g}, expected a finite number >= 0")
    return array
