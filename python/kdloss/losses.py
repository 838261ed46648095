"""The knowledge-distillation loss, its parts and its gradient."""

from __future__ import annotations

import operator
from typing import (
    Any,
    Generic,
    Literal,
    NamedTuple,
    TypeAlias,
    TypedDict,
    TypeVar,
    Unpack,
    overload,
)

from numpy.typing import ArrayLike, NDArray

from . import _core
from ._arrays import as_array

Reduction = Literal["mean", "sum", "none"]
OneNumber = Literal["mean", "sum"]
Divergence = Literal["kl", "reverse_kl", "js", "tv", "mse"]
Loss = TypeVar("Loss", float, NDArray[Any])
# The core takes the options as one tuple: alpha, tau, reduction, ignore_index, sample_weight,
# class_weight, label_smoothing, normalizer, divergence, beta, num_threads.
Options: TypeAlias = tuple[
    ArrayLike, ArrayLike, str, int, ArrayLike | None, ArrayLike | None, float, float | None,
    str, float, int | None,
]  # fmt: skip


class HardOptions(TypedDict, total=False):
    """The keywords of `cross_entropy_hard` other than ``reduction``, for type checkers."""

    ignore_index: int
    sample_weight: ArrayLike | None
    class_weight: ArrayLike | None
    label_smoothing: float
    normalizer: float | None
    num_threads: int | None


class LossOptions(HardOptions, total=False):
    """The keywords of `kd_loss_batch`."""

    alpha: ArrayLike
    tau: ArrayLike
    divergence: Divergence
    beta: float


class GradOptions(LossOptions, total=False):
    """The keywords of `kd_loss_and_grad`."""

    out: NDArray[Any] | None


class PartsOptions(LossOptions, total=False):
    """The keywords of `kd_loss_parts`."""

    grad_out: NDArray[Any] | None


class HessOptions(LossOptions, total=False):
    """The keywords of `kd_loss_grad_hess`."""

    hess: Literal["exact", "bound"]
    out: tuple[NDArray[Any] | None, NDArray[Any] | None] | None


class KDResult(NamedTuple, Generic[Loss]):
    """What `kd_loss_and_grad` returns."""

    loss: Loss
    """The loss: a float, or an array (rows,) where ``reduction="none"``."""
    grad_logits: NDArray[Any]
    """Its gradient with respect to the student's logits, (rows, classes)."""


class KDGradHess(NamedTuple, Generic[Loss]):
    """What `kd_loss_grad_hess` returns."""

    loss: Loss
    """The loss: a float, or an array (rows,) where ``reduction="none"``."""
    grad_logits: NDArray[Any]
    """Its gradient with respect to the student's logits, (rows, classes)."""
    hess_logits: NDArray[Any]
    """The diagonal of each row's Hessian, (rows, classes)."""


class KDParts(NamedTuple, Generic[Loss]):
    """What `kd_loss_parts` returns: floats, or arrays (rows,) where ``reduction="none"``."""

    loss: Loss
    """alpha * hard + (1 - alpha) * soft."""
    hard: Loss
    """The hard loss, -log softmax(s)[label]."""
    soft: Loss
    """The soft loss: by default tau^2 KL(softmax(t / tau) || softmax(s / tau))."""


@overload
def kd_loss_batch(
    student_logits: ArrayLike,
    teacher: ArrayLike | None,
    labels: ArrayLike | None,
    *,
    reduction: OneNumber = ...,
    **options: Unpack[LossOptions],
) -> float: ...
@overload
def kd_loss_batch(
    student_logits: ArrayLike,
    teacher: ArrayLike | None,
    labels: ArrayLike | None,
    *,
    reduction: Literal["none"],
    **options: Unpack[LossOptions],
) -> NDArray[Any]: ...
def kd_loss_batch(
    student_logits: ArrayLike,
    teacher: ArrayLike | None,
    labels: ArrayLike | None,
    *,
    alpha: ArrayLike = 0.5,
    tau: ArrayLike = 4.0,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    sample_weight: ArrayLike | None = None,
    class_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    normalizer: float | None = None,
    divergence: Divergence = "kl",
    beta: float = 0.5,
    num_threads: int | None = None,
) -> float | NDArray[Any]:
    r"""The knowledge-distillation loss of a batch.

    With student logits s, teacher logits t and label y, per row

    .. math::
        L = \alpha \, (-\log p^{(1)}_y) + (1 - \alpha) \, \tau^2 \, D_{KL}(q \,\|\, p)

    where p1 = softmax(s), p = softmax(s / tau), q = softmax(t / tau). The first part is the hard
    loss, the second the soft loss. With class weights w, smoothing eps and soft labels y (one-hot
    for a class) the hard loss is

    .. math::
        \sum_c g_c (-\log p^{(1)}_c), \quad g_c = w_c ((1 - \epsilon) \, y_c + \epsilon / C)

    Parameters
    ----------
    student_logits : array_like (rows, classes) of float
        float32, float64, float16 and ml_dtypes' bfloat16 are read in place, with any strides; the
        array may be read-only or memory-mapped. Half-precision rows are computed in float32.
        Integers and lists are converted to float64.
    teacher : array_like (rows, classes) of float, or None
        The teacher's logits, a constant. The same four types are read in place, and rounded to the
        type that the student is computed in; values beyond its range become infinite.
        Log-probabilities are valid logits. May be None only if ``alpha`` is 1.
    labels : array_like (rows,) of int, or (rows, classes) of float, or None
        A class in [0, classes); or -1, *unlabelled*: the row learns from the teacher alone, as if
        its alpha were 0; or ``ignore_index``, *padding*: loss 0, gradient 0, not counted. int64
        and int32 are read in place, other integers become int64. Booleans and floats (rows,) are
        refused, even if the floats are whole numbers. Or soft labels: rows of probabilities that
        sum to 1 within 1e-3. A row of zeros is unlabelled; a one-hot row gives the same bits as
        its class. May be None only if ``alpha`` is 0.
    alpha : float or array_like (rows,), default 0.5
        The weight of the hard loss, in [0, 1]. The inputs of a part with weight 0 are not used, so
        they may hold NaN.
    tau : float or array_like (rows,), default 4
        Temperature, in units of the logits, > 0.
    reduction : {"mean", "sum", "none"}, default "mean"
        "mean" divides by the number of rows that count (all but padding), or by the sum of their
        weights. If no row counts, the loss is 0, so that a batch of padding does not put NaN into
        a training run. "none" multiplies each row by its weight and does not divide.
    ignore_index : int, default -100
        The label of padding. If it is -1, then -1 means padding, not unlabelled. Soft labels have
        no padding label: with them, a value other than the default is refused; use a
        ``sample_weight`` of 0 for padding.
    sample_weight : array_like (rows,) of float, optional
        Each row's weight, finite and >= 0. A row of weight 0 is padding. The values of padding rows
        in the other arrays are ignored.
    class_weight : array_like (classes,) of float, optional
        The weight w of each class in the target, finite and >= 0, like PyTorch's ``weight`` with
        reduction "none" and "sum". It does not enter the divisor of the mean.
    label_smoothing : float, default 0
        The part eps of the target that is spread evenly over all classes, in [0, 1].
    normalizer : float, optional
        A divisor for the mean, > 0, in place of the number (or weight) of the rows. With the sum of
        weights of a whole batch, the losses and gradients of its micro-batches add up to those of
        the batch. Only for ``reduction="mean"``.
    divergence : {"kl", "reverse_kl", "js", "tv", "mse"}, default "kl"
        The divergence of the soft loss, with m = beta q + (1 - beta) p:

        - "kl": tau^2 KL(q || p), the teacher first. Its gradient is tau (p - q).
        - "reverse_kl": tau^2 KL(p || q), the student first. The student concentrates on the
          teacher's most probable classes (MiniLLM). Its gradient is tau p (u - sum p u) with
          u = log(p / q).
        - "js": tau^2 (beta KL(q || m) + (1 - beta) KL(p || m)), the generalised Jensen-Shannon
          divergence as GKD scales it: at beta = 1/2 it is at most tau^2 log 2. Towards beta 0 and
          1 it goes to 0; there the limits of js / beta and js / (1 - beta) replace it, which are
          "kl" and "reverse_kl". Its gradient is tau p (f - sum p f) with
          f = (1 - beta) log(p / m).
        - "tv": tau^2 sum abs(p - q) / 2, the total variation distance. Its gradient is
          tau p (f - sum p f) with f = sign(p - q) / 2.
        - "mse": sum (s - t)^2 / classes of the raw logits: not centred, without tau. Its gradient
          is 2 (s - t) / classes.

        A class that both mask (-inf) adds nothing. A class that only the student masks makes "kl"
        and "mse" infinite; one that only the teacher masks, "reverse_kl" and "mse". The gradient
        stays finite: that of "kl" has its usual formula, the others leave that class out.
    beta : float, default 0.5
        For "js": the teacher's weight, in [0, 1].
    num_threads : int, optional
        The largest number of threads to use. By default as many as OpenMP allows, or one if the
        work is too small to gain from several. The result does not depend on it.

    Returns
    -------
    float, or ndarray (rows,) of the student's type where ``reduction="none"``
        Never negative. Its relative error is at most 1e-5 (float32) or 1e-12 (float64) for
        1e-3 <= tau <= 1e6. It is +inf if the student masks, by a logit of -inf, a class to which
        the label or (with "kl") the teacher gives a positive probability; and NaN if a row that
        counts holds NaN, +inf, or only -inf.

    Raises
    ------
    ValueError
        For shapes that do not match, and for labels or options out of their range.
    TypeError
        For arguments of a wrong type. Every error is raised before anything is written.

    See Also
    --------
    kd_loss_and_grad : the loss with its gradient.
    kd_loss_grad_hess : with the diagonal of its Hessian too.
    kd_loss_parts : the loss with its two parts.

    References
    ----------
    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, arXiv:1503.02531 (2015).
    Gu, Dong, Wei, Huang: MiniLLM, arXiv:2306.08543 ("reverse_kl"). Agarwal et al.: On-Policy
    Distillation of Language Models, arXiv:2306.13649 ("js"). Wen, Li, Du, Mou: f-Divergence
    Minimization for Sequence-Level Knowledge Distillation, arXiv:2307.15190 ("tv"). Ba, Caruana: Do
    Deep Nets Really Need to be Deep?, arXiv:1312.6184 ("mse").

    Examples
    --------
    >>> import kdloss
    >>> student = [[2.0, 0.5, -1.0], [0.2, -0.1, 1.2]]
    >>> teacher = [[3.0, 1.0, -0.5], [-0.2, 0.3, 2.0]]
    >>> round(kdloss.kd_loss_batch(student, teacher, [0, 2], alpha=0.5, tau=3.0), 12)
    0.221605937332

    A row without a label; labels weighted by the probability that the teacher gives them; several
    teachers:

    >>> round(kdloss.kd_loss_batch(student, teacher, [0, -1], tau=3.0), 6)
    0.127638
    >>> belief = kdloss.softmax_temp(teacher)[[0, 1], [0, 2]]
    >>> round(kdloss.kd_loss_batch(student, teacher, [0, 2], alpha=0.5 * belief, tau=3.0), 6)
    0.192821
    >>> both = kdloss.ensemble_logits([teacher, [[2.0, 2.0, 0.0], [0.0, 1.0, 1.0]]], tau=3.0)
    >>> round(kdloss.kd_loss_batch(student, both, [0, 2], tau=3.0), 6)
    0.210994
    """
    return _core.kd_loss_batch(
        student_logits, teacher, labels,
        (alpha, tau, reduction, ignore_index, sample_weight, class_weight, label_smoothing,
         normalizer, divergence, beta, num_threads),
    )  # fmt: skip


@overload
def kd_loss_and_grad(
    student_logits: ArrayLike,
    teacher: ArrayLike | None,
    labels: ArrayLike | None,
    *,
    reduction: OneNumber = ...,
    **options: Unpack[GradOptions],
) -> KDResult[float]: ...
@overload
def kd_loss_and_grad(
    student_logits: ArrayLike,
    teacher: ArrayLike | None,
    labels: ArrayLike | None,
    *,
    reduction: Literal["none"],
    **options: Unpack[GradOptions],
) -> KDResult[NDArray[Any]]: ...
def kd_loss_and_grad(
    student_logits: ArrayLike,
    teacher: ArrayLike | None,
    labels: ArrayLike | None,
    *,
    alpha: ArrayLike = 0.5,
    tau: ArrayLike = 4.0,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    sample_weight: ArrayLike | None = None,
    class_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    normalizer: float | None = None,
    divergence: Divergence = "kl",
    beta: float = 0.5,
    num_threads: int | None = None,
    out: NDArray[Any] | None = None,
) -> KDResult[Any]:
    r"""The loss of `kd_loss_batch` and its gradient with respect to the student's logits.

    .. math::
        \nabla_s L = \alpha \, (p^{(1)} - e_y) + (1 - \alpha) \, \tau \, (p - q)

    with ``divergence="kl"``; for ``reduction="mean"`` it is divided by the number of rows that
    count.

    Parameters
    ----------
    student_logits, teacher, labels, alpha, tau, reduction, ignore_index, sample_weight
        As in `kd_loss_batch`. With ``reduction="none"`` each row's gradient is that of its own
        loss.
    class_weight, label_smoothing, normalizer, divergence, beta, num_threads
        As in `kd_loss_batch`.
    out : ndarray (rows, classes), optional
        Where to write the gradient: an array of the student's shape and dtype, with any strides.
        Its elements must not overlap each other or an input, except that it may be the student's
        own array. By default a new array with the student's memory layout.

    Returns
    -------
    KDResult
        ``(loss, grad_logits)``. The error of each part of the gradient is at most 1e-5 (float32) or
        1e-12 (float64), relative to the largest entry of that part in its row. With soft labels or
        smoothing, the hard part W p1 - g can vanish; its error is then relative to the largest
        entry of W p1 and g. The gradient is finite even if the loss is infinite. For a
        half-precision student it has the student's dtype and is rounded once.

    Raises
    ------
    ValueError, TypeError
        As in `kd_loss_batch`, and for an ``out`` that does not fit.

    References
    ----------
    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, arXiv:1503.02531 (2015).

    Examples
    --------
    >>> import kdloss
    >>> loss, grad = kdloss.kd_loss_and_grad([[2.0, 0.5, -1.0]], [[3.0, 1.0, -0.5]], [0], tau=3.0)
    >>> round(loss, 6)
    0.136202
    >>> grad.round(4).tolist()
    [[-0.1695, 0.1264, 0.0431]]
    """
    return _core.kd_loss_and_grad(
        student_logits, teacher, labels,
        (alpha, tau, reduction, ignore_index, sample_weight, class_weight, label_smoothing,
         normalizer, divergence, beta, num_threads), out,
    )  # fmt: skip


@overload
def kd_loss_grad_hess(
    student_logits: ArrayLike,
    teacher: ArrayLike | None,
    labels: ArrayLike | None,
    *,
    reduction: OneNumber = ...,
    **options: Unpack[HessOptions],
) -> KDGradHess[float]: ...
@overload
def kd_loss_grad_hess(
    student_logits: ArrayLike,
    teacher: ArrayLike | None,
    labels: ArrayLike | None,
    *,
    reduction: Literal["none"],
    **options: Unpack[HessOptions],
) -> KDGradHess[NDArray[Any]]: ...
def kd_loss_grad_hess(
    student_logits: ArrayLike,
    teacher: ArrayLike | None,
    labels: ArrayLike | None,
    *,
    alpha: ArrayLike = 0.5,
    tau: ArrayLike = 4.0,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    sample_weight: ArrayLike | None = None,
    class_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    normalizer: float | None = None,
    divergence: Divergence = "kl",
    beta: float = 0.5,
    num_threads: int | None = None,
    hess: Literal["exact", "bound"] = "exact",
    out: tuple[NDArray[Any] | None, NDArray[Any] | None] | None = None,
) -> KDGradHess[Any]:
    r"""The loss of `kd_loss_batch`, its gradient, and the diagonal of its Hessian, in one pass.

    Gradient boosting needs all three.

    .. math::
        \mathrm{diag} \nabla^2_s L =
            \alpha \, W \, p^{(1)} (1 - p^{(1)}) + (1 - \alpha) \, p \, (1 - p)

    with W the sum of the target, which is 1 without class weights. It is weighted and divided like
    the gradient.

    Parameters
    ----------
    student_logits, teacher, labels, alpha, tau, reduction, ignore_index, sample_weight
        As in `kd_loss_batch`. For gradient boosting use ``reduction="sum"``: the Hessians of a mean
        are so small that XGBoost's ``min_child_weight`` allows no split.
    class_weight, label_smoothing, normalizer, beta, num_threads
        As in `kd_loss_batch`.
    hess : {"exact", "bound"}, default "exact"
        "bound" is twice the diagonal, which by Gershgorin's theorem is an upper bound of the whole
        Hessian. XGBoost's own softmax objective used it before its pull request 12537.
    out : tuple of two ndarrays (rows, classes) or None, optional
        Where to write the gradient and the Hessian, as ``out`` in `kd_loss_and_grad`. The array
        for the Hessian must not be the student's own.
    divergence : {"kl", "mse"}
        As in `kd_loss_batch`. The Hessian's diagonal for "mse" is 2 / classes. The other
        divergences are refused: their diagonals can be negative.

    Returns
    -------
    KDGradHess
        ``(loss, grad_logits, hess_logits)``. Each entry of the Hessian is within 1e-5 (float32) or
        1e-12 (float64) of its own true value, also where a probability is close to 0 or 1.

    Raises
    ------
    ValueError, TypeError
        As in `kd_loss_and_grad`.

    References
    ----------
    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, arXiv:1503.02531 (2015).

    Examples
    --------
    >>> import kdloss
    >>> result = kdloss.kd_loss_grad_hess([[2.0, 0.5, -1.0]], [[3.0, 1.0, -0.5]], [0], tau=3.0)
    >>> result.hess_logits.round(4).tolist()
    [[0.2092, 0.1787, 0.0946]]

    An objective for XGBoost's or LightGBM's native interface. `teacher` holds the logits of the
    training rows, and the parameters need ``num_class``. Neither library applies the row weights
    to a custom objective: pass them on. They are None (LightGBM) or empty (XGBoost) if unset.
    ``hess="bound"`` gives XGBoost's own curvature; LightGBM's own is K / (K - 1) times "exact".

    >>> def objective(margins, data):
    ...     labels, weight = data.get_label().astype(int), data.get_weight()
    ...     weight = None if weight is None or len(weight) == 0 else weight
    ...     result = kdloss.kd_loss_grad_hess(
    ...         margins, teacher, labels, reduction="sum", sample_weight=weight, hess="bound"
    ...     )
    ...     return result.grad_logits, result.hess_logits
    """
    if hess not in ("exact", "bound"):
        raise ValueError(f"hess is {hess!r}, expected 'exact' or 'bound'")
    if out is None:
        out = (None, None)
    elif not isinstance(out, tuple) or len(out) != 2:
        raise TypeError(f"out is of type {type(out).__name__}, expected a tuple (grad, hess)")
    return _core.kd_loss_grad_hess(
        student_logits, teacher, labels,
        (alpha, tau, reduction, ignore_index, sample_weight, class_weight, label_smoothing,
         normalizer, divergence, beta, num_threads), hess == "bound", out[0], out[1],
    )  # fmt: skip


@overload
def kd_loss_parts(
    student_logits: ArrayLike,
    teacher: ArrayLike | None,
    labels: ArrayLike | None,
    *,
    reduction: OneNumber = ...,
    **options: Unpack[PartsOptions],
) -> KDParts[float]: ...
@overload
def kd_loss_parts(
    student_logits: ArrayLike,
    teacher: ArrayLike | None,
    labels: ArrayLike | None,
    *,
    reduction: Literal["none"],
    **options: Unpack[PartsOptions],
) -> KDParts[NDArray[Any]]: ...
def kd_loss_parts(
    student_logits: ArrayLike,
    teacher: ArrayLike | None,
    labels: ArrayLike | None,
    *,
    alpha: ArrayLike = 0.5,
    tau: ArrayLike = 4.0,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    sample_weight: ArrayLike | None = None,
    class_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    normalizer: float | None = None,
    divergence: Divergence = "kl",
    beta: float = 0.5,
    num_threads: int | None = None,
    grad_out: NDArray[Any] | None = None,
) -> KDParts[Any]:
    r"""The loss of `kd_loss_batch` and its two parts, in one pass, for logs.

    A part is computed if its inputs are given, whatever ``alpha`` is. With ``grad_out`` a training
    loop that logs the parts gets its gradient in the same pass.

    Parameters
    ----------
    student_logits, teacher, labels, alpha, tau, reduction, ignore_index, sample_weight
        As in `kd_loss_batch`.
    class_weight, label_smoothing, normalizer, divergence, beta, num_threads
        As in `kd_loss_batch`.
    grad_out : ndarray (rows, classes), optional
        Where to write the gradient of the loss, as ``out`` in `kd_loss_and_grad`; by default it is
        not computed.

    Returns
    -------
    KDParts
        ``(loss, hard, soft)``. With "mean", hard is the weighted mean over the labelled rows; soft,
        which includes the factor tau^2, is the weighted mean over all rows that count. So if some
        rows are unlabelled, the loss is not alpha * hard + (1 - alpha) * soft. If no row counts,
        the loss and soft are 0. hard is NaN if no row is labelled, and soft is NaN without a
        teacher. A ``normalizer`` divides all three. With "none", hard is NaN in unlabelled rows,
        all three are 0 in padding, and only the loss is multiplied by the row's weight.

    Raises
    ------
    ValueError, TypeError
        As in `kd_loss_batch`, and for a ``grad_out`` that does not fit.

    References
    ----------
    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, arXiv:1503.02531 (2015).

    Examples
    --------
    >>> import kdloss
    >>> import numpy as np
    >>> parts = kdloss.kd_loss_parts([[2.0, 0.5, -1.0]], [[3.0, 1.0, -0.5]], [0], tau=3.0)
    >>> [round(x, 6) for x in parts]
    [0.136202, 0.241311, 0.031092]
    >>> grad = np.empty((1, 3))
    >>> parts = kdloss.kd_loss_parts(
    ...     [[2.0, 0.5, -1.0]], [[3.0, 1.0, -0.5]], [0], tau=3.0, grad_out=grad
    ... )
    >>> grad.round(4).tolist()
    [[-0.1695, 0.1264, 0.0431]]
    """
    return _core.kd_loss_parts(
        student_logits, teacher, labels,
        (alpha, tau, reduction, ignore_index, sample_weight, class_weight, label_smoothing,
         normalizer, divergence, beta, num_threads), grad_out,
    )  # fmt: skip


def kd_loss_single(
    student: ArrayLike,
    teacher: ArrayLike | None,
    label: int | None,
    *,
    alpha: float = 0.5,
    tau: float = 4.0,
    divergence: Divergence = "kl",
    beta: float = 0.5,
) -> float:
    r"""The knowledge-distillation loss of one row; the formula is that of `kd_loss_batch`.

    Parameters
    ----------
    student, teacher : array_like (classes,) of float
        The row's logits.
    label : int or None
        Its class, or -1 for a row that learns from the teacher alone, or -100 for padding, whose
        loss is 0. May be None only if ``alpha`` is 0.
    alpha : float, default 0.5
        The weight of the hard loss, in [0, 1].
    tau : float, default 4
        Temperature, in units of the logits, > 0.
    divergence, beta
        As in `kd_loss_batch`.

    Returns
    -------
    float
        The loss, >= 0.

    Raises
    ------
    ValueError, TypeError
        As in `kd_loss_batch`.

    References
    ----------
    ``kd_loss_single`` of the knowledge-distillation document (docs/document.md), whose first
    example is this one.

    Examples
    --------
    >>> import kdloss
    >>> round(kdloss.kd_loss_single([2.0, 0.5, -1.0], [3.0, 1.0, -0.5], 0, alpha=0.5, tau=3.0), 12)
    0.13620160016
    """
    s = _one_row(student, "student")
    t = None if teacher is None else _one_row(teacher, "teacher")
    if t is not None and t.shape != s.shape:
        raise ValueError(f"teacher has shape {t.shape}, expected the shape of student, {s.shape}")
    if label is not None:
        label = _as_label(label, s.size)
    return _core.kd_loss_single(s, t, label, alpha, tau, divergence, beta)


@overload
def cross_entropy_hard(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    reduction: OneNumber = ...,
    **options: Unpack[HardOptions],
) -> float: ...
@overload
def cross_entropy_hard(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    reduction: Literal["none"],
    **options: Unpack[HardOptions],
) -> NDArray[Any]: ...
def cross_entropy_hard(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    sample_weight: ArrayLike | None = None,
    class_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    normalizer: float | None = None,
    num_threads: int | None = None,
) -> float | NDArray[Any]:
    r"""The hard loss alone: the cross-entropy of the labels at temperature 1.

    .. math:: L_{hard} = -\log \mathrm{softmax}(z)_y

    Parameters
    ----------
    logits : array_like (rows, classes) of float
        As ``student_logits`` in `kd_loss_batch`.
    labels : array_like (rows,) of int, or (rows, classes) of float
        Classes in [0, classes), or ``ignore_index`` for padding; or soft labels (rows, classes).
        -1 (unlabelled) is refused, because there is no teacher to learn from.
    reduction, ignore_index, sample_weight, class_weight, label_smoothing, normalizer, num_threads
        As in `kd_loss_batch`.

    Returns
    -------
    float, or ndarray (rows,) where ``reduction="none"``
        The loss, >= 0. It is accurate even if the label has almost all of the probability.

    Raises
    ------
    ValueError, TypeError
        As in `kd_loss_batch`.

    References
    ----------
    ``cross_entropy_hard`` of the knowledge-distillation document (docs/document.md).

    Examples
    --------
    >>> import kdloss
    >>> print(f"{kdloss.cross_entropy_hard([[0.0, -40.0]], [0]):.12g}")
    4.24835425529e-18
    """
    return _core.cross_entropy_hard(
        logits, labels,
        (1.0, 1.0, reduction, ignore_index, sample_weight, class_weight, label_smoothing,
         normalizer, "kl", 0.5, num_threads),
    )  # fmt: skip


@overload
def kl_divergence(q: ArrayLike, p: ArrayLike, *, reduction: OneNumber = ...) -> float: ...
@overload
def kl_divergence(q: ArrayLike, p: ArrayLike, *, reduction: Literal["none"]) -> NDArray[Any]: ...
def kl_divergence(
    q: ArrayLike, p: ArrayLike, *, reduction: Reduction = "mean"
) -> float | NDArray[Any]:
    r"""The KL divergence KL(q || p) of probabilities.

    .. math:: D_{KL}(q \,\|\, p) = \sum_c q_c \log \frac{q_c}{p_c} - q_c + p_c

    Over the classes, - q + p adds up to 0; it makes every term >= 0. 0 log 0 is 0. For
    distillation, q is the teacher's distribution.

    Parameters
    ----------
    q, p : array_like (rows, classes) or (classes,) of float
        Probabilities, both of the same shape. `softmax_temp` makes them from logits.
    reduction : {"mean", "sum", "none"}, default "mean"
        Over the rows.

    Returns
    -------
    float, or ndarray (rows,) where ``reduction="none"``
        The divergence, >= 0; +inf where q is positive and p is 0.

    Raises
    ------
    ValueError
        For a negative entry, a row whose sum is further than 1e-3 from 1, or shapes that differ.
    TypeError
        For arguments that are not numbers.

    References
    ----------
    Kullback, Leibler: On Information and Sufficiency, Ann. Math. Statist. 22 (1951).

    Examples
    --------
    >>> import kdloss
    >>> round(kdloss.kl_divergence([0.5, 0.5], [0.25, 0.75]), 12)
    0.143841036226
    """
    q, p = as_array(q, "q"), as_array(p, "p")
    if p.shape != q.shape:
        raise ValueError(f"p has shape {p.shape}, expected that of q, {q.shape}")
    if q.ndim not in (1, 2):
        advice = f"; reshape q and p, with .reshape(-1, {q.shape[-1]})" if q.ndim else ""
        raise ValueError(
            f"q has shape {q.shape}, expected probabilities of shape (rows, classes) or (classes,)"
            + advice
        )
    return _core.kl_divergence(q, p, reduction)


def _one_row(values: ArrayLike, name: str) -> NDArray[Any]:
    array = as_array(values, name)
    if array.ndim != 1:
        raise ValueError(
            f"{name} has shape {array.shape}, expected the logits of one row, shape (classes,)"
        )
    return array


def _as_label(label: int, classes: int) -> int:
    """Return the label as an int of 64 bits. As in arrays of labels, booleans are refused."""
    try:
        index = operator.index(label)
    except TypeError:
        index = None
    if index is None or isinstance(label, bool):
        raise TypeError(f"label is {label!r}, expected an integer")
    if not -(2**63) <= index < 2**63:
        raise ValueError(f"label is {index}, expected a class in [0, {classes})")
    return index
