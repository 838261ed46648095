"""The loss for JAX on the CPU, as a custom call of XLA that works with jit, grad, vmap, shard_map.

Its compiled part, kdloss._jax, needs the headers that come with jaxlib, so it is built only on
request: ``pip install jax scikit-build-core pybind11 ninja cmake``, then
``pip install --no-build-isolation -C cmake.define.KDLOSS_JAX=ON '.[jax]'`` in the source tree.
"""

import functools
import math
from typing import Any, NamedTuple, get_args

import numpy as np

from .losses import Divergence, Reduction

try:
    import jax
    import jax.numpy as jnp
except ImportError as error:
    raise ImportError(f"{error}; pip install 'kdloss[jax]'") from error
try:
    from . import _jax
except ImportError as error:
    raise ImportError(
        f"{error}: kdloss was built without its extension for JAX; in the source tree, pip install "
        "--no-build-isolation -C cmake.define.KDLOSS_JAX=ON '.[jax]'"
    ) from error

__all__ = ["KDParts", "kd_loss", "kd_loss_parts"]

FLOATS = ("float32", "float64", "bfloat16", "float16")
ABSENT = np.zeros((0, 0, 0), np.float32)
jax.ffi.register_ffi_target("kdloss_kd_loss", _jax.kd_loss(), platform="cpu")


class KDParts(NamedTuple):
    """What `kd_loss_parts` returns: numbers, or arrays (...) where ``reduction="none"``."""

    loss: jax.Array
    """alpha * hard + (1 - alpha) * soft, which has a gradient."""
    hard: jax.Array
    """The hard loss, for logs: its gradient is 0."""
    soft: jax.Array
    """The soft loss with its factor tau^2, for logs: its gradient is 0."""


ARRAYS = ("alpha", "tau", "sample_weight", "class_weight", "normalizer")


def kd_loss(
    student_logits: jax.Array,
    teacher_logits: jax.Array | None,
    labels: jax.Array | None,
    *,
    alpha: float | jax.Array = 0.5,
    tau: float | jax.Array = 4.0,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    sample_weight: jax.Array | None = None,
    class_weight: jax.Array | None = None,
    label_smoothing: float = 0.0,
    normalizer: float | jax.Array | None = None,
    divergence: Divergence = "kl",
    beta: float = 0.5,
    num_threads: int | None = None,
) -> jax.Array:
    r"""The knowledge-distillation loss of a batch, differentiable once in the student's logits.

    .. math::
        L = \alpha \, (-\log p^{(1)}_y) + (1 - \alpha) \, \tau^2 \, D_{KL}(q \,\|\, p)

    Values, formulas and rules are those of `kdloss.kd_loss_batch`, bit for bit. The soft loss
    includes the factor tau^2.

    Parameters
    ----------
    student_logits : Array (..., C)
        float32, float64, bfloat16 or float16.
    teacher_logits : Array (..., C), or None
        Any of the four dtypes. A constant: its gradient is 0. None only if ``alpha`` is 1.
    labels : Array (...) of integers, or (..., C) of floats, or None
        A class; -1, unlabelled; ``ignore_index``, padding; or soft labels, probabilities. None
        only if ``alpha`` is 0.
    alpha, tau, reduction, ignore_index, sample_weight, class_weight, label_smoothing
        As in `kdloss.kd_loss_batch`; options with a value per row have the shape (...).
    normalizer, divergence, beta, num_threads
        As in `kdloss.kd_loss_batch`. ``alpha``, ``tau`` and ``normalizer`` may be arrays, also
        under ``jax.jit``; as Python numbers they are static, and keep their 64 bits. reduction,
        ignore_index, label_smoothing, divergence, beta and num_threads are always static.

    Returns
    -------
    Array () or, where ``reduction="none"``, (...)
        float64 for a float64 student, otherwise float32. Under ``vmap`` each element has its own
        mean. XLA may flush subnormal entries of the gradient to 0.

    Raises
    ------
    ValueError
        For shapes that do not fit. Errors that depend on the values (a label out of range) are
        raised as ``jax.errors.JaxRuntimeError`` when the call runs.
    TypeError
        For another dtype, and if the gradient of an option is requested.

    References
    ----------
    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, arXiv:1503.02531 (2015).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> import kdloss.jax
    >>> student, teacher = jnp.array([[[2.0, 0.5, -1.0]], [[3.0, 1.0, -0.5]]])
    >>> loss = lambda s: kdloss.jax.kd_loss(s, teacher, jnp.array([0]), tau=3.0)
    >>> value, grad = jax.jit(jax.value_and_grad(loss))(student)
    >>> round(float(value), 6), grad.round(4)[0, 0].item() < 0
    (0.136202, True)
    """
    return _loss(
        student_logits, teacher_logits, labels,
        {"alpha": alpha, "tau": tau, "reduction": reduction, "ignore_index": ignore_index,
         "sample_weight": sample_weight, "class_weight": class_weight,
         "label_smoothing": label_smoothing, "normalizer": normalizer, "divergence": divergence,
         "beta": beta, "num_threads": num_threads},
        parts=False,
    )[0]  # fmt: skip


def kd_loss_parts(
    student_logits: jax.Array,
    teacher_logits: jax.Array | None,
    labels: jax.Array | None,
    *,
    alpha: float | jax.Array = 0.5,
    tau: float | jax.Array = 4.0,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    sample_weight: jax.Array | None = None,
    class_weight: jax.Array | None = None,
    label_smoothing: float = 0.0,
    normalizer: float | jax.Array | None = None,
    divergence: Divergence = "kl",
    beta: float = 0.5,
    num_threads: int | None = None,
) -> KDParts:
    r"""The loss of `kd_loss` and its two parts, for logs, in one pass with the gradient.

    .. math::
        L = \alpha \, \mathrm{hard} + (1 - \alpha) \, \mathrm{soft}

    Parameters
    ----------
    student_logits, teacher_logits, labels, alpha, tau, reduction, ignore_index, sample_weight
        As in `kd_loss`.
    class_weight, label_smoothing, normalizer, divergence, beta, num_threads
        As in `kd_loss`.

    Returns
    -------
    KDParts
        ``(loss, hard, soft)``, as in `kdloss.kd_loss_parts`; only the loss has a gradient. For
        ``jax.value_and_grad(..., has_aux=True)`` return ``parts.loss, parts``.

    Raises
    ------
    ValueError, TypeError
        As in `kd_loss`.

    References
    ----------
    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, arXiv:1503.02531 (2015).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import kdloss.jax
    >>> student, teacher = jnp.array([[[2.0, 0.5, -1.0]], [[3.0, 1.0, -0.5]]])
    >>> parts = kdloss.jax.kd_loss_parts(student, teacher, jnp.array([0]), tau=3.0)
    >>> [round(float(x), 6) for x in parts]
    [0.136202, 0.241311, 0.031092]
    """
    return KDParts(*_loss(
        student_logits, teacher_logits, labels,
        {"alpha": alpha, "tau": tau, "reduction": reduction, "ignore_index": ignore_index,
         "sample_weight": sample_weight, "class_weight": class_weight,
         "label_smoothing": label_smoothing, "normalizer": normalizer, "divergence": divergence,
         "beta": beta, "num_threads": num_threads},
        parts=True,
    ))  # fmt: skip


class _Static(NamedTuple):
    """What is fixed when the call is compiled."""

    parts: bool
    by_row: bool
    attributes: tuple[tuple[str, np.generic], ...]
    """The attributes of the custom call, by name."""


def _loss(
    student: Any, teacher: Any, labels: Any, options: dict[str, Any], *, parts: bool
) -> tuple[jax.Array, ...]:
    """Return (loss,), or (loss, hard, soft) if `parts`."""
    student = _floats(student, "student_logits")
    if student.ndim == 0:
        raise ValueError("student_logits has no axes, expected logits (..., classes)")
    shape = student.shape
    rows = math.prod(shape[:-1])
    arrays: dict[str, Any] = {"teacher_logits": ABSENT, "labels": ABSENT}
    if teacher is not None:
        teacher = _floats(jax.lax.stop_gradient(teacher), "teacher_logits")
        arrays["teacher_logits"] = _shaped(teacher, "teacher_logits", shape, (rows, shape[-1]))
    if labels is not None:
        arrays["labels"] = _labels(jnp.asarray(labels), shape)
    for name in ARRAYS:
        arrays[name] = _array_option(options[name], name, shape)
    static = _Static(parts, options["reduction"] == "none", _attributes(options))
    results: tuple[jax.Array, ...] = _differentiable(
        static, student.reshape(rows, shape[-1]), arrays
    )
    results = results if parts else results[:1]
    return tuple(x.reshape(shape[:-1]) for x in results) if static.by_row else results


def _attributes(options: dict[str, Any]) -> tuple[tuple[str, np.generic], ...]:
    """The options that are not arrays; 0 for one that is absent, or given as an array."""
    normalizer, threads = options["normalizer"], options["num_threads"]
    if _is_number(normalizer) and not normalizer > 0:
        raise ValueError(f"normalizer is {normalizer}, expected a finite number > 0")
    if normalizer is not None and options["reduction"] != "mean":
        raise ValueError(
            f"normalizer is given with reduction {options['reduction']!r}, "
            "expected it with 'mean' alone"
        )
    if threads is not None and threads < 1:
        raise ValueError(f"num_threads is {threads}, expected at least 1, or None")
    return (
        ("reduction", _index(options["reduction"], "reduction", Reduction)),
        ("ignore_index", np.int64(options["ignore_index"])),
        ("label_smoothing", np.float64(options["label_smoothing"])),
        ("num_threads", np.int64(threads or 0)),
        ("alpha", _number(options["alpha"])),
        ("tau", _number(options["tau"])),
        ("normalizer", _number(normalizer)),
        ("divergence", _index(options["divergence"], "divergence", Divergence)),
        ("beta", np.float64(options["beta"])),
    )


def _index(value: str, name: str, names: Any) -> np.int64:
    """The position of a name, which is its value in the C++ enumeration."""
    names = get_args(names)
    if value not in names:
        *most, last = map(repr, names)
        raise ValueError(f"{name} is {value!r}, expected {', '.join(most)} or {last}")
    return np.int64(names.index(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _number(value: Any) -> np.float64:
    return np.float64(value if _is_number(value) else 0)


def _array_option(value: Any, name: str, logits: tuple[int, ...]) -> Any:
    """An option as an array (rows,), (classes,) or (); `ABSENT` if it is passed as an attribute."""
    if value is None or _is_number(value):
        return ABSENT
    value = jnp.asarray(value).astype(jax.dtypes.canonicalize_dtype(np.float64))
    if name == "class_weight":
        return _shaped(value, name, logits[-1:], logits[-1:])
    if name == "normalizer":
        return _shaped(value, name, (), ())
    if value.ndim == 0 and name != "sample_weight":
        return value
    return _shaped(value, name, logits[:-1], (math.prod(logits[:-1]),))


def _floats(value: Any, name: str) -> Any:
    value = jnp.asarray(value)
    if value.dtype.name not in FLOATS:
        raise TypeError(f"{name} has dtype {value.dtype}, expected one of {', '.join(FLOATS)}")
    return value


def _labels(labels: Any, logits: tuple[int, ...]) -> Any:
    rows = math.prod(logits[:-1])
    if jnp.issubdtype(labels.dtype, jnp.floating):
        dtype = labels.dtype if labels.dtype.name == "float64" else jnp.float32
        return _shaped(labels.astype(dtype), "labels", logits, (rows, logits[-1]))
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels has dtype {labels.dtype}, expected integers")
    if labels.dtype.name not in ("int32", "int64"):
        labels = labels.astype(jnp.int32)
    return _shaped(labels, "labels", logits[:-1], (rows,))


def _shaped(value: Any, name: str, expected: tuple[int, ...], to: tuple[int, ...]) -> Any:
    if value.shape != expected:
        raise ValueError(f"{name} has shape {value.shape}, expected {expected}")
    return value.reshape(to)


def _call(static: _Static, student: Any, arrays: dict[str, Any], gradient: bool) -> Any:
    """Return (loss, hard, soft, gradient) of rows; what is not asked for has no elements."""
    dtype = jnp.float64 if student.dtype.name == "float64" else jnp.float32
    of_rows = student.shape[:1] if static.by_row else ()
    # Under shard_map, the results differ between devices if the student's logits do.
    manual = jax.typeof(student).manual_axis_type
    for name, x in arrays.items():
        if not jax.typeof(x).manual_axis_type.varying <= manual.varying:
            raise ValueError(
                f"{name} varies over devices, expected student_logits that vary over them too"
            )
    array: Any = jax.ShapeDtypeStruct
    if manual.varying:
        mesh = jax.typeof(student).sharding.mesh
        everywhere: Any = jax.sharding.PartitionSpec()  # type: ignore[no-untyped-call]
        sharding = jax.sharding.NamedSharding(mesh, everywhere)
        array = functools.partial(array, sharding=sharding, manual_axis_type=manual)
    absent = array(ABSENT.shape, dtype)
    part = array(of_rows, dtype)
    results = (
        part,
        part if static.parts else absent,
        part if static.parts else absent,
        array(student.shape, student.dtype) if gradient else absent,
    )
    call = jax.ffi.ffi_call("kdloss_kd_loss", results, vmap_method="sequential")
    inputs = [arrays[name] for name in ("teacher_logits", "labels", *ARRAYS)]
    return call(student, *inputs, **dict(static.attributes))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _differentiable(static: _Static, student: Any, arrays: dict[str, Any]) -> Any:
    return tuple(_call(static, student, arrays, gradient=False)[:3])


def _forward(static: _Static, student: Any, arrays: dict[str, Any]) -> Any:
    for name, x in arrays.items():
        if x.perturbed and name != "labels":
            raise TypeError(
                f"{name} requires a gradient, expected a constant; "
                f"pass jax.lax.stop_gradient({name})"
            )
    values = {name: x.value for name, x in arrays.items()}
    *results, gradient = _call(static, student.value, values, gradient=True)
    return tuple(results), gradient


def _backward(static: _Static, gradient: Any, cotangents: Any) -> Any:
    of_loss = cotangents[0]
    if isinstance(of_loss, jax.custom_derivatives.SymbolicZero):
        return jnp.zeros_like(gradient), None
    scale = of_loss[:, None] if of_loss.ndim else of_loss
    return (gradient * scale).astype(gradient.dtype), None


_differentiable.defvjp(_forward, _backward, symbolic_zeros=True)
