"""The loss for PyTorch on the CPU: a function and a module, with the gradient from the same pass.

Plain tensors go to the core through an autograd function, which is the fastest way. Calls that are
traced or transformed (torch.compile, torch.func, fake tensors) use the registered operator
kdloss::kd_loss.
"""

import inspect
import math
from typing import Any, NamedTuple, TypeAlias, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from . import _core, losses
from .losses import Divergence, Reduction

try:
    import torch
    from torch import Tensor
except ImportError as error:
    raise ImportError(f"{error}; pip install 'kdloss[torch]'") from error

__all__ = ["KDLoss", "KDParts", "Options", "kd_loss", "kd_loss_parts"]

# The dtype of the loss for each dtype of logits.
LOSS_TYPE = {
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
}
NO_SECOND = "kd_loss has no second derivatives: it computes its gradient once, with the loss"
PLAIN_TENSORS = (Tensor, torch.nn.Parameter)
SPINNING = _core.config()["wait_policy"] == "long"
GRAIN = 32768  # elements, from which PyTorch's own operations use several threads


class KDParts(NamedTuple):
    """What `kd_loss_parts` returns: tensors without axes, or (...) where ``reduction="none"``."""

    loss: Tensor
    """alpha * hard + (1 - alpha) * soft, which has a gradient."""
    hard: Tensor
    """The hard loss, for logs: it has no gradient."""
    soft: Tensor
    """The soft loss with its factor tau^2, for logs: it has no gradient."""


class Options(TypedDict, total=False):
    """The keywords of `kd_loss`, in the order in which the core takes them."""

    alpha: float | Tensor
    tau: float | Tensor
    reduction: Reduction
    ignore_index: int
    sample_weight: Tensor | None
    class_weight: Tensor | None
    label_smoothing: float
    normalizer: float | Tensor | None
    divergence: Divergence
    beta: float
    num_threads: int | None


Values: TypeAlias = tuple[Any, ...]  # the values of these keywords, in this order
NAMES = tuple(Options.__annotations__)
REDUCTION, IGNORE_INDEX, NORMALIZER = map(NAMES.index, ("reduction", "ignore_index", "normalizer"))
SAMPLE_WEIGHT = NAMES.index("sample_weight")
PLAIN = frozenset((float, int, str, type(None)))  # the types of options other than tensors


def kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor | None,
    labels: Tensor | None,
    *,
    alpha: float | Tensor = 0.5,
    tau: float | Tensor = 4.0,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    sample_weight: Tensor | None = None,
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    normalizer: float | Tensor | None = None,
    divergence: Divergence = "kl",
    beta: float = 0.5,
    num_threads: int | None = None,
) -> Tensor:
    r"""The knowledge-distillation loss of a batch of tensors, differentiable in the student.

    .. math::
        L = \alpha \, (-\log p^{(1)}_y) + (1 - \alpha) \, \tau^2 \, D_{KL}(q \,\|\, p)

    Values, formulas and rules are those of `kdloss.kd_loss_batch`, bit for bit. The soft loss
    includes the factor tau^2. Liger Kernel, TRL and torchtune leave it out: a weight w of the soft
    loss there is w / tau^2 here.

    Parameters
    ----------
    student_logits : Tensor (..., C)
        Logits: float32, float64, bfloat16 or float16, on the CPU. A tensor (rows, C) is read in
        place, with any strides. A tensor with more axes is read in place if it can be viewed as
        (rows, C). A slice ``logits[:, :-1]`` cannot, and is copied: shift the labels instead, and
        give the last position the label -100.
    teacher_logits : Tensor (..., C), or None
        Any of the four dtypes. A constant: it gets no gradient, even if it requires one. None only
        if ``alpha`` is 1.
    labels : Tensor (...) of integers, or (..., C) of floats, or None
        A class; -1, unlabelled; ``ignore_index``, padding; or soft labels, probabilities. None
        only if ``alpha`` is 0.
    alpha : float or Tensor (...), default 0.5
        The weight of the hard loss, in [0, 1].
    tau : float or Tensor (...), default 4
        Temperature, > 0.
    reduction : {"mean", "sum", "none"}, default "mean"
        "mean" divides by the number of rows that count, or by the sum of their weights.
    ignore_index : int, default -100
        The label of padding.
    sample_weight : Tensor (...), optional
        Each row's weight, >= 0.
    class_weight : Tensor (C,), optional
        The weight of each class in the target.
    label_smoothing : float, default 0
        The part of the target that is spread evenly over all classes.
    normalizer : float or Tensor (), optional
        A divisor for the mean, in place of the number of rows. With the number of rows (tokens)
        that count in the whole batch, the gradients of its micro-batches add up to the gradient of
        the batch. Hugging Face's Trainer calls it ``num_items_in_batch``. DistributedDataParallel
        averages the gradients of its processes: there, divide it by the number of processes.
    divergence : {"kl", "reverse_kl", "js", "tv", "mse"}, default "kl"
        The divergence of the soft loss, as in `kdloss.kd_loss_batch`.
    beta : float, default 0.5
        For "js": the teacher's weight, in [0, 1].
    num_threads : int, optional
        The largest number of threads to use. By default ``torch.get_num_threads()``, or one if the
        work is too small to gain from several.

    Returns
    -------
    Tensor without axes, or (...) where ``reduction="none"``
        float64 for a float64 student, otherwise float32. Second derivatives and
        ``backward(create_graph=True)`` are refused. ``torch.compile`` and ``torch.func`` work, but
        PyTorch cannot compile a ``torch.func`` transform of this function.

    Raises
    ------
    ValueError
        For shapes that do not fit, and as in `kdloss.kd_loss_batch`.
    TypeError
        For an argument that is not a tensor on the CPU, or has another type; for an option that
        requires a gradient.

    References
    ----------
    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, arXiv:1503.02531 (2015).

    Examples
    --------
    >>> import torch
    >>> import kdloss.torch
    >>> student = torch.tensor([[2.0, 0.5, -1.0]], requires_grad=True)
    >>> teacher = torch.tensor([[3.0, 1.0, -0.5]])
    >>> loss = kdloss.torch.kd_loss(student, teacher, torch.tensor([0]), tau=3.0)
    >>> loss.backward()
    >>> round(loss.item(), 6), [round(x, 4) for x in student.grad[0].tolist()]
    (0.136202, [-0.1695, 0.1264, 0.0431])
    """
    return _loss(
        student_logits, teacher_logits, labels,
        (alpha, tau, reduction, ignore_index, sample_weight, class_weight, label_smoothing,
         normalizer, divergence, beta, num_threads), False,
    )[0]  # fmt: skip


def kd_loss_parts(
    student_logits: Tensor,
    teacher_logits: Tensor | None,
    labels: Tensor | None,
    *,
    alpha: float | Tensor = 0.5,
    tau: float | Tensor = 4.0,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    sample_weight: Tensor | None = None,
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    normalizer: float | Tensor | None = None,
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
        ``(loss, hard, soft)``, as in `kdloss.kd_loss_parts`; only the loss has a gradient.

    Raises
    ------
    ValueError, TypeError
        As in `kd_loss`.

    References
    ----------
    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, arXiv:1503.02531 (2015).

    Examples
    --------
    >>> import torch
    >>> import kdloss.torch
    >>> student, teacher = torch.tensor([[[2.0, 0.5, -1.0]], [[3.0, 1.0, -0.5]]])
    >>> parts = kdloss.torch.kd_loss_parts(student, teacher, torch.tensor([0]), tau=3.0)
    >>> [round(x.item(), 6) for x in parts]
    [0.136202, 0.241311, 0.031092]
    """
    return KDParts(
        *_loss(
            student_logits, teacher_logits, labels,
            (alpha, tau, reduction, ignore_index, sample_weight, class_weight, label_smoothing,
             normalizer, divergence, beta, num_threads), True,
        )
    )  # fmt: skip


class KDLoss(torch.nn.Module):
    r"""`kd_loss` as a module that keeps the options.

    .. math::
        L = \alpha \, (-\log p^{(1)}_y) + (1 - \alpha) \, \tau^2 \, D_{KL}(q \,\|\, p)

    Parameters
    ----------
    **options
        As in `kd_loss`. ``class_weight`` becomes a buffer. Options given to the call replace the
        module's: use that for what belongs to one batch (``sample_weight``, ``normalizer``, an
        alpha or tau for each row).

    Raises
    ------
    TypeError
        For an option that `kd_loss` does not have.

    References
    ----------
    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, arXiv:1503.02531 (2015).

    Examples
    --------
    >>> import torch
    >>> import kdloss.torch
    >>> criterion = kdloss.torch.KDLoss(alpha=0.3, tau=2.0)
    >>> criterion
    KDLoss(alpha=0.3, tau=2.0)
    >>> student, teacher = torch.tensor([[[2.0, 0.5, -1.0]], [[3.0, 1.0, -0.5]]])
    >>> labels = torch.tensor([0])
    >>> round(criterion(student, teacher, labels).item(), 6)
    0.092788
    >>> round(criterion.parts(student, teacher, labels, tau=3.0).soft.item(), 6)
    0.031092
    """

    class_weight: Tensor | None

    def __init__(self, **options: Unpack[Options]) -> None:
        super().__init__()
        inspect.signature(kd_loss).bind(None, None, None, **options)
        self.register_buffer("class_weight", options.pop("class_weight", None))
        self.options = options

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor | None,
        labels: Tensor | None,
        **options: Unpack[Options],
    ) -> Tensor:
        """Return the loss; the options of the call replace the module's."""
        return kd_loss(student_logits, teacher_logits, labels, **self._merged(options))

    def parts(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor | None,
        labels: Tensor | None,
        **options: Unpack[Options],
    ) -> KDParts:
        """Return the loss with its two parts, as `kd_loss_parts` does."""
        return kd_loss_parts(student_logits, teacher_logits, labels, **self._merged(options))

    def _merged(self, options: Options) -> Options:
        return {"class_weight": self.class_weight, **self.options, **options}

    def extra_repr(self) -> str:
        """Return the options that were given."""
        return ", ".join(f"{name}={value}" for name, value in self.options.items())


# ---- Checks, and reshaping (..., C) to rows ------------------------------------------------------


def _loss(
    student: Tensor, teacher: Tensor | None, labels: Tensor | None, options: Values, parts: bool
) -> tuple[Tensor, ...]:
    """Return (loss,), or (loss, hard, soft) if `parts`."""
    direct = type(student) in PLAIN_TENSORS and not _is_traced()
    if direct and student.ndim == 2:
        try:
            return _rows_loss(student, teacher, labels, options, parts, direct)
        except Exception as error:
            found = error
        _check(student, teacher, labels, options)  # its messages are clearer
        raise found
    _check(student, teacher, labels, options)
    shape = student.shape
    if len(shape) == 2:
        return _rows_loss(student, teacher, labels, options, parts, direct)
    results = _rows_loss(*_as_rows(student, teacher, labels, options), parts, direct)
    return tuple(x.reshape(shape[:-1]) if x.ndim else x for x in results)


def _check(student: Tensor, teacher: Tensor | None, labels: Tensor | None, options: Values) -> None:
    _check_logits(student, "student_logits")
    shape = student.shape
    if teacher is not None:
        _check_logits(teacher, "teacher_logits")
        if teacher.shape != shape:
            _refuse_shape(teacher, "teacher_logits", shape, "that of the student's logits")
    if labels is not None:
        _check_labels(labels, shape)
    for name, value in zip(NAMES, options, strict=True):
        if isinstance(value, Tensor):
            _check_option(value, name, shape)


def _check_logits(logits: Tensor, name: str) -> None:
    _check_memory(logits, name)
    if logits.dtype not in LOSS_TYPE:
        raise TypeError(
            f"{name} has dtype {logits.dtype}, expected torch.float32, float64, bfloat16 or float16"
        )
    if not logits.ndim:
        raise ValueError(f"{name} has no axes, expected logits (..., classes)")


def _check_labels(labels: Tensor, logits: torch.Size) -> None:
    _check_memory(labels, "labels")
    if labels.is_floating_point():
        _check_constant(labels, "labels")
        if labels.shape != logits:
            hint = "that of the student's logits (floats are soft labels; classes: labels.long())"
            _refuse_shape(labels, "labels", logits, hint)
    elif labels.shape != logits[:-1]:
        _refuse_shape(labels, "labels", logits[:-1], "one label for each row of logits")


def _check_option(option: Tensor, name: str, logits: torch.Size) -> None:
    _check_memory(option, name)
    _check_constant(option, name)
    if name == "class_weight":
        expected, each = logits[-1:], "one weight for each class"
    elif _is_per_row(option, name):
        expected, each = logits[:-1], "one number for each row of logits"
    else:
        expected, each = torch.Size(), "that of a number"
    if option.shape != expected:
        _refuse_shape(option, name, expected, each)


def _check_memory(tensor: Tensor, name: str) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is of type {type(tensor).__name__}, expected a torch.Tensor")
    if not tensor.is_cpu:
        if tensor.is_meta:
            raise TypeError(f"{name} is a meta tensor, expected one that holds numbers")
        raise TypeError(
            f"{name} is on {tensor.device}, expected a tensor on the CPU; "
            f"kdloss has no kernels for other devices: pass {name}.cpu()"
        )
    if tensor.layout is not torch.strided:
        raise TypeError(f"{name} has layout {tensor.layout}, expected torch.strided")


def _check_constant(tensor: Tensor, name: str) -> None:
    if tensor.requires_grad:
        raise TypeError(f"{name} requires a gradient, expected a constant; pass {name}.detach()")


def _refuse_shape(tensor: Tensor, name: str, expected: torch.Size, what: str) -> None:
    raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(expected)}, {what}")


def _is_per_row(option: Tensor, name: str) -> bool:
    return name == "sample_weight" or (name in ("alpha", "tau") and option.ndim > 0)


def _as_rows(
    student: Tensor, teacher: Tensor | None, labels: Tensor | None, options: Values
) -> tuple[Tensor, Tensor | None, Tensor | None, Values]:
    """The same arguments, with one axis of rows."""
    classes = student.shape[-1]
    rows = math.prod(student.shape[:-1])
    if teacher is not None:
        teacher = teacher.reshape(rows, classes)
    if labels is not None:
        soft = labels.is_floating_point()
        labels = labels.reshape(rows, classes) if soft else labels.reshape(rows)
    options = tuple(
        x.reshape(rows) if isinstance(x, Tensor) and _is_per_row(x, name) else x
        for name, x in zip(NAMES, options, strict=True)
    )
    return student.reshape(rows, classes), teacher, labels, options


def _mean_of_float16(
    student: Tensor,
    teacher: Tensor | None,
    labels: Tensor | None,
    options: Values,
    parts: bool,
    direct: bool,
) -> tuple[Tensor, ...]:
    """The mean of float16 rows: their sum, divided afterwards.

    The smallest float16 is 6e-8: the gradient of a mean would underflow before a GradScaler's
    factor reaches it. The gradient of a sum does not; it is divided and scaled in one step.
    """
    normalizer = options[NORMALIZER]
    if direct and isinstance(normalizer, Tensor):
        normalizer = normalizer.item()
    if isinstance(normalizer, float | int) and not 0 < normalizer < math.inf:
        raise ValueError(f"normalizer is {normalizer}, expected a finite number > 0")
    weight = options[SAMPLE_WEIGHT]
    weight = torch.ones(len(student)) if weight is None else weight
    labelled = torch.ones(len(student), dtype=torch.bool)
    if labels is not None and labels.is_floating_point():
        labelled = labels.any(dim=1)
    elif labels is not None:
        weight = torch.where(labels != options[IGNORE_INDEX], weight, 0)
        labelled = labels >= 0
    changed = list(options)
    changed[NORMALIZER], changed[REDUCTION] = None, "sum"
    results = _rows_loss(student, teacher, labels, tuple(changed), parts, direct)
    if normalizer is not None:
        return tuple((x / normalizer).float() for x in results)
    total = weight.double().sum()
    total = torch.where(total > 0, total, 1)
    if not parts:
        return ((results[0] / total).float(),)
    hard = torch.where(labelled, weight, 0).double().sum()
    loss, hard, soft = results[0] / total, results[1] / hard, results[2] / total
    return loss.float(), hard.float(), soft.float()


# ---- The loss of rows, (rows, C), with its gradient ----------------------------------------------


def _rows_loss(
    student: Tensor,
    teacher: Tensor | None,
    labels: Tensor | None,
    options: Values,
    parts: bool,
    direct: bool,
) -> tuple[Tensor, ...]:
    """Return (loss,) or (loss, hard, soft), computed directly or through the operator."""
    if student.dtype is torch.float16 and options[REDUCTION] == "mean":
        return _mean_of_float16(student, teacher, labels, options, parts, direct)
    if not direct:
        return _through_operator(student, teacher, labels, options, parts)
    if student.requires_grad and torch.is_grad_enabled():
        given = teacher, labels, options, parts
        return _Function.apply(student, given)  # type: ignore[no-any-return, no-untyped-call]
    return _compute(student, teacher, labels, options, parts, gradient=False)[0]


def _is_traced() -> bool:
    """Whether the call is traced or transformed; PyTorch has a public test only for the former."""
    return bool(
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
    )


class _Function(torch.autograd.Function):
    """The loss of plain tensors. Its gradient is stored, and scaled in place at its last use."""

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, given: tuple[Tensor | None, Tensor | None, Values, bool]
    ) -> tuple[Tensor, ...]:
        results, gradient = _compute(student, *given, gradient=True)
        ctx.save_for_backward(gradient)
        if len(results) > 1:
            ctx.set_materialize_grads(False)
            ctx.mark_non_differentiable(*results[1:])
        return results

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, *_: Any) -> tuple[Tensor | None, None]:
        if grad_loss is None:
            return None, None
        if torch.is_grad_enabled():
            raise RuntimeError(f"{NO_SECOND}; it cannot take part in backward(create_graph=True)")
        (gradient,) = ctx.saved_tensors
        if torch._C._autograd._get_current_graph_task_keep_graph():
            gradient = _scaled(gradient, grad_loss)
        elif grad_loss.ndim:
            gradient.mul_(grad_loss[:, None])
        elif (factor := grad_loss.item()) != 1:
            gradient.mul_(factor)
        return gradient, None


def _scaled(gradient: Tensor, grad_loss: Tensor) -> Tensor:
    return (gradient * (grad_loss[:, None] if grad_loss.ndim else grad_loss)).to(gradient.dtype)


def _compute(
    student: Tensor,
    teacher: Tensor | None,
    labels: Tensor | None,
    options: Values,
    parts: bool,
    gradient: bool,
) -> tuple[tuple[Tensor, ...], Any]:
    """Return (loss,) or (loss, hard, soft), and the gradient or None."""
    if not PLAIN.issuperset(map(type, options)):
        options = tuple(_array(x) if isinstance(x, Tensor) else x for x in options)
    if options[-1] is None and (threads := _threads(student)):
        options = (*options[:-1], threads)
    s = _array(student.detach())
    t = None if teacher is None else _teacher_array(teacher)
    y = None if labels is None else _array(labels)
    keywords = dict(zip(NAMES, options, strict=True))
    grad: NDArray[Any] | None = None
    if parts:
        grad = np.empty_like(s, subok=False) if gradient else None
        results: tuple[Any, ...] = losses.kd_loss_parts(s, t, y, grad_out=grad, **keywords)
    elif gradient:
        loss, grad = losses.kd_loss_and_grad(s, t, y, **keywords)
        results = (loss,)
    else:
        results = (losses.kd_loss_batch(s, t, y, **keywords),)
    if options[REDUCTION] == "none":
        tensors = tuple([torch.from_numpy(x) for x in results])
    else:
        dtype = LOSS_TYPE[student.dtype]
        tensors = tuple([torch.scalar_tensor(x, dtype=dtype) for x in results])
    return tensors, None if grad is None else _tensor(grad, student.dtype)


def _threads(student: Tensor) -> int | None:
    """How many threads to ask for; None leaves it to the core.

    If OpenMP's idle threads spin, the core alone would use few, so as not to slow down a BLAS that
    has threads of its own. PyTorch's BLAS runs on OpenMP's threads, so here all can be used.
    """
    threads = torch.get_num_threads()
    return threads if threads == 1 or (SPINNING and student.numel() >= GRAIN) else None


def _array(tensor: Tensor) -> NDArray[Any]:
    if tensor.dtype is not torch.bfloat16:
        array: NDArray[Any] = tensor.numpy()
        return array
    return tensor.view(torch.uint16).numpy().view(_bfloat16())


def _teacher_array(teacher: Tensor) -> NDArray[Any]:
    if teacher.dtype not in LOSS_TYPE:
        _check_logits(teacher, "teacher_logits")
    return _array(teacher.detach() if teacher.requires_grad else teacher)


def _tensor(array: NDArray[Any], dtype: torch.dtype) -> Tensor:
    if dtype != torch.bfloat16:
        return torch.from_numpy(array)
    return torch.from_numpy(array.view(np.uint16)).view(dtype)


def _bfloat16() -> np.dtype[Any]:
    try:
        import ml_dtypes
    except ImportError as error:
        raise ImportError(f"{error}; pip install 'kdloss[torch]'") from error
    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


# ---- The operator, for traced and transformed calls ----------------------------------------------


def _through_operator(
    student: Tensor, teacher: Tensor | None, labels: Tensor | None, options: Values, parts: bool
) -> tuple[Tensor, ...]:
    values = list(options)
    for name in ("alpha", "tau", "normalizer"):
        i = NAMES.index(name)
        if values[i] is not None and not isinstance(values[i], Tensor):
            values[i] = torch.full((), values[i], dtype=torch.float64)
    transformed = torch._C._are_functorch_transforms_active()
    operator: Any = _Transformed.apply if transformed else kd_loss_operator
    loss, hard, soft, _ = operator(
        student, teacher, labels, *values, parts, torch.is_grad_enabled()
    )
    return (loss, hard.detach(), soft.detach()) if parts else (loss,)


@torch.library.custom_op("kdloss::kd_loss", mutates_args=(), device_types="cpu")
def kd_loss_operator(
    student_logits: Tensor,
    teacher_logits: Tensor | None,
    labels: Tensor | None,
    alpha: Tensor,
    tau: Tensor,
    reduction: str,
    ignore_index: int,
    sample_weight: Tensor | None,
    class_weight: Tensor | None,
    label_smoothing: float,
    normalizer: Tensor | None,
    divergence: str,
    beta: float,
    num_threads: int | None,
    parts: bool,
    gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (loss, hard, soft, gradient) of rows; what is not asked for has no elements."""
    options = (
        alpha, tau, reduction, ignore_index, sample_weight, class_weight, label_smoothing,
        normalizer, divergence, beta, num_threads,
    )  # fmt: skip
    results, grad = _compute(student_logits, teacher_logits, labels, options, parts, gradient)
    grad = student_logits.new_empty(0) if grad is None else grad
    if parts:
        loss, hard, soft = results
        return loss, hard, soft, grad
    (loss,) = results
    return loss, loss.new_empty(0), loss.new_empty(0), grad


@kd_loss_operator.register_fake
def _(
    student: Tensor, teacher: Any, labels: Any, *options: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *values, parts, gradient = options
    dtype = LOSS_TYPE[student.dtype]
    shape = student.shape[:1] if values[REDUCTION] == "none" else ()

    def part() -> Tensor:
        return student.new_empty(shape if parts else (0,), dtype=dtype)

    if not gradient:
        grad = student.new_empty(0)
    elif student.shape[0] > 1 and abs(student.stride(0)) < abs(student.stride(1)):
        grad = student.new_empty(student.shape[::-1]).t()
    else:
        grad = student.new_empty(student.shape)
    return student.new_empty(shape, dtype=dtype), part(), part(), grad


def _keep_gradient(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    loss, hard, soft, gradient = output
    ctx.mark_non_differentiable(hard, soft, gradient)
    ctx.save_for_backward(gradient, loss)


def _backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    gradient, loss = ctx.saved_tensors
    scaled: Tensor = _Scaled.apply(gradient, grad_loss, loss)  # type: ignore[no-untyped-call]
    return scaled, *[None] * 15


kd_loss_operator.register_autograd(_backward, setup_context=_keep_gradient)


@kd_loss_operator.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
    """Call the operator for each element of the vmapped axis: each has its own mean."""
    results = [
        kd_loss_operator(
            *(
                value if dim is None else value.select(dim, i)
                for value, dim in zip(arguments, in_dims, strict=True)
            )
        )
        for i in range(info.batch_size)
    ]
    return tuple(map(torch.stack, zip(*results, strict=True))), (0, 0, 0, 0)


class _Transformed(torch.autograd.Function):
    """The operator for torch.func, which needs an autograd function with setup_context."""

    generate_vmap_rule = True
    setup_context = staticmethod(_keep_gradient)
    backward = staticmethod(_backward)

    @staticmethod
    def forward(*arguments: Any) -> Any:
        return kd_loss_operator(*arguments)


class _Scaled(torch.autograd.Function):
    """The stored gradient times the one that arrives at the loss.

    The loss is an argument so that a second derivative reaches `backward` here, which refuses it.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor, grad_loss: Tensor, loss: Tensor) -> Tensor:
        return _scaled(gradient, grad_loss)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError(NO_SECOND)
