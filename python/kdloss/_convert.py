"""Turns what cannot be read in place into arrays that can, or says what it was given."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def refuse_mask(value: Any, name: str) -> None:
    """Refuse a masked array, which would be read as if it had no mask."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array, whose mask would be ignored; mask a class with -inf, "
            "or a row with the label -100 or the weight 0"
        )


def as_array(value: Any, name: str) -> NDArray[Any]:
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
            pass  # a type that DLPack or NumPy does not know; its own conversion may
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} is no array of numbers: {error}") from None
    except (RuntimeError, TypeError) as error:  # a tensor that requires gradients, for one
        hint = "; pass its .float()" if "BFloat16" in str(error) else ""
        raise TypeError(
            f"{name} is a {type(value).__name__} that NumPy cannot read: {error}{hint}"
        ) from None


def as_floats(value: Any, name: str, dtype: str = "", halves: bool = False) -> NDArray[Any]:
    """``value`` as aligned, native float32 or float64; ``dtype`` names the one that is wanted.

    Integers and float64 become float64. float16 and bfloat16 become float32, or stay if ``halves``.
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
        return array.copy(order="K")  # right as it is, but for its alignment or its strides
    return array.astype(wanted, order="K")


def _shape_hint(labels: NDArray[Any]) -> str:
    if labels.ndim < 2:
        return ""
    one_hot = labels.ndim == 2 and labels.shape[1] > 1 and np.all(np.sum(labels != 0, axis=1) == 1)
    if one_hot:
        return "; soft labels, (rows, classes), are floats: labels.astype(float)"
    return "; reshape it, with labels.reshape(-1)"


def as_labels(value: Any) -> NDArray[Any]:
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


def as_vector(value: Any, name: str, count: int, number: str, each: str) -> NDArray[np.float64]:
    """``value`` as contiguous float64 (count,); ``number`` and ``each`` are words for messages."""
    array = as_array(value, name)
    if array.dtype.kind not in "iuf" and array.dtype.name != "bfloat16":
        raise TypeError(f"{name} has dtype {array.dtype}, expected {number or 'numbers, '}{each}")
    if array.shape != (count,):
        raise ValueError(f"{name} has shape {array.shape}, expected {number}({count},), {each}")
    return np.require(array, np.float64, ["C_CONTIGUOUS", "ALIGNED"])
