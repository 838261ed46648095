"""Teachers: ensembles, probabilities as logits, agreement with a student, and entropy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._arrays import SUM_TOLERANCE, as_array, as_floats, check_weights
from .softmax import log_softmax_temp

SHARE_FOR_ZEROS = 1e-3  # share of the uniform distribution: what rounding to 3 decimals can hide
BLOCK_ELEMENTS = 2**16  # rows are read in blocks of about this many numbers: 512 KB in float64


def ensemble_logits(
    teachers: Sequence[ArrayLike], weights: ArrayLike | None = None, *, tau: float = 4.0
) -> NDArray[Any]:
    r"""Logits of the mixture of several teachers: the weighted mean of their softened outputs.

    .. math::
        L_c = \tau \log \sum_k w_k \, \mathrm{softmax}(T_k / \tau)_c
        \quad\text{so that}\quad
        \mathrm{softmax}(L / \tau) = \sum_k w_k \, \mathrm{softmax}(T_k / \tau)

    where the weights are divided by their sum. This is not the mean of the *logits*, whose softmax
    is the normalised geometric mean of the distributions: in that mean, a class that one teacher
    rules out is ruled out, however probable the others find it. In the mixture it keeps the
    probability that the others give it.

    Parameters
    ----------
    teachers : sequence of array_like (rows, classes) of float
        Each teacher's logits, all of one shape. float16, bfloat16, float32 and float64 are read in
        place, memory-mapped too; integers and lists become float64. -inf masks a class.
    weights : array_like (teachers,) of float, optional
        Each teacher's weight, finite and >= 0, at least one > 0; equal by default. A teacher of
        weight 0 is not read.
    tau : float, default 4
        The temperature at which the student will learn from the result, in units of the logits,
        > 0. The mixture depends on it.

    Returns
    -------
    ndarray (rows, classes)
        The mixture's logits: tau times its log-probabilities, minus the largest of each row. The
        dtype is the widest of the teachers that are read; half precision counts as float32. -inf
        where every teacher masks the class. A row is NaN if a teacher's row has NaN, +inf, or only
        -inf. It is computed in float64, in blocks of rows, so extra memory does not grow with the
        number of rows.

    Raises
    ------
    ValueError
        For no teachers, shapes that differ, weights that are negative, all 0 or not one for each
        teacher, or a tau that is not > 0.
    TypeError
        For arguments that are not numbers.

    See Also
    --------
    logits_from_probs : for teachers that give probabilities.

    References
    ----------
    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, arXiv:1503.02531 (2015),
    who distil an ensemble with either mean.

    Examples
    --------
    >>> import kdloss
    >>> one, other = [[4.0, 0.0, -1000.0]], [[0.0, 4.0, 2.0]]  # one finds class 2 impossible
    >>> kdloss.softmax_temp(kdloss.ensemble_logits([one, other], tau=1.0)).round(4).tolist()
    [[0.4989, 0.4424, 0.0587]]
    >>> kdloss.softmax_temp([[2.0, 2.0, -499.0]]).round(4).tolist()  # the mean of their logits
    [[0.5, 0.5, 0.0]]
    """
    arrays = _matrices(teachers)
    shares = check_teacher_weights(weights, len(arrays))
    shares = shares / shares.max()  # so that their sum can neither overflow nor vanish
    with np.errstate(divide="ignore"):
        logs = np.log(shares) - np.log(shares.sum())
    used = [(log, array) for log, array in zip(logs, arrays, strict=True) if log > -math.inf]
    types = [as_floats(array[:0], "teachers").dtype for _, array in used]
    result = np.empty(arrays[0].shape, np.result_type(*types))
    for rows in _blocks(result, len(used)):
        logs_of_shares = [log_softmax_temp(t[rows].astype(np.float64), tau) + w for w, t in used]
        shares = np.stack(logs_of_shares)  # (teachers, rows, classes)
        # A NaN stays in its own row; log 0 = -inf is right for a class that every teacher masks.
        with np.errstate(invalid="ignore", divide="ignore", under="ignore"):
            largest = shares.max(axis=0)
            largest[largest == -np.inf] = 0
            shares -= largest
            total = np.exp(shares, out=shares).sum(axis=0)
            logs = np.log(total, out=total) + largest
            result[rows] = tau * (logs - logs.max(axis=1, keepdims=True))
    return result


def logits_from_probs(probs: ArrayLike, *, zeros: float | str = "mask") -> NDArray[Any]:
    r"""Logits for a teacher that gives probabilities: their logarithms.

    .. math:: t_c = \log P_c
        \quad\text{or, smoothed by e,}\quad
        t_c = \log\left((1 - e) P_c + e / C\right)

    The loss takes logits, and log-probabilities are valid logits at any temperature: they differ
    from the teacher's own logits by a constant per row, to which softmax is invariant. (If rounding
    has changed the sums of the rows, divide first: ``probs / probs.sum(axis=1, keepdims=True)``.)

    **A probability that is exactly 0** becomes -inf by default: the teacher masks that class. The
    loss is then finite, and pulls the student's probability of the class towards 0 at any
    temperature. That is right if 0 means impossible. But often a 0 comes from rounding: three
    decimals in a file, an underflow, the votes of a few trees. Then smooth the probabilities with
    ``zeros=e``, which mixes them with the uniform distribution, of share e. A 0 then gets a logit
    near log(e / classes), which temperature softens like the others. Choose e near the rounding
    error: 1e-3 for three decimals. `LinearStudent.fit` warns if a teacher masks different classes
    in different rows, which is a sign of rounding.

    Parameters
    ----------
    probs : array_like (rows, classes) or (classes,) of float
        Probabilities >= 0, each row summing to 1 within 1e-3. One column, (rows, 1), is the
        probability of class 1 of two; the result then has two columns.
    zeros : "mask" or float in (0, 1), default "mask"
        What to do about probabilities that are 0: mask the class, or mix all rows (also those
        without a 0) with this share of the uniform distribution.

    Returns
    -------
    ndarray
        Their logarithms, with the same shape; float32 for float32 and half precision, otherwise
        float64. A row with NaN becomes NaN.

    Raises
    ------
    ValueError
        For a negative entry, a row that does not sum to 1, or a ``probs`` or ``zeros`` of another
        form.
    TypeError
        If ``probs`` are not numbers.

    See Also
    --------
    ensemble_logits : several teachers as one.

    References
    ----------
    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, arXiv:1503.02531 (2015).

    Examples
    --------
    >>> import kdloss
    >>> kdloss.logits_from_probs([0.75, 0.25, 0.0]).round(4).tolist()
    [-0.2877, -1.3863, -inf]
    >>> kdloss.logits_from_probs([0.75, 0.25, 0.0], zeros=0.03).round(4).tolist()
    [-0.3045, -1.3763, -4.6052]
    >>> kdloss.softmax_temp(kdloss.logits_from_probs([[0.25], [0.5]])).round(12).tolist()
    [[0.75, 0.25], [0.5, 0.5]]
    """
    array = as_array(probs, "probs")
    dtype = as_floats(array[:0] if array.ndim else array, "probs").dtype
    if array.ndim not in (1, 2):
        raise ValueError(f"probs has shape {array.shape}, expected (rows, classes) or (classes,)")
    matrix = array[None, :] if array.ndim == 1 else array
    share = _share_for_zeros(zeros)
    one_column = array.ndim == 2 and array.shape[1] == 1
    result = np.empty((len(matrix), 2) if one_column else matrix.shape, dtype)
    for rows in _blocks(matrix):
        block = _probabilities(matrix, rows, one_column=one_column, one_row=array.ndim == 1)
        if share:
            block = (1 - share) * block + share / block.shape[1]
        with np.errstate(divide="ignore"):  # log 0 = -inf is meant
            result[rows] = np.log(block, out=block)
    return result if one_column else result.reshape(array.shape)


def _probabilities(
    matrix: NDArray[Any], rows: slice, *, one_column: bool, one_row: bool
) -> NDArray[np.float64]:
    """These rows in float64, checked; one column, class 1 of two, becomes two."""
    block = matrix[rows].astype(np.float64)
    if one_column:
        if (block > 1).any():
            row = int((block > 1).argmax())
            raise ValueError(
                f"probs[{rows.start + row}, 0] is {block[row, 0]:g}, expected a probability <= 1"
            )
        _refuse_negative(block, rows.start, one_row=False)
        return np.hstack([1 - block, block])
    _refuse_bad_probabilities(block, rows.start, one_row=one_row)
    return block


def _share_for_zeros(zeros: float | str) -> float:
    if zeros == "mask":
        return 0.0
    if isinstance(zeros, str) or not 0 < float(zeros) < 1:
        raise ValueError(f'zeros is {zeros!r}, expected a share in (0, 1) or "mask"')
    return float(zeros)


def teacher_agreement(
    student_logits: ArrayLike, teacher: ArrayLike, *, sample_weight: ArrayLike | None = None
) -> float:
    r"""The share of rows in which student and teacher have the same most likely class.

    .. math:: \frac{\sum_i w_i \, [\arg\max_c s_{ic} = \arg\max_c t_{ic}]}{\sum_i w_i}

    Of equally probable classes the first one counts, as in `numpy.argmax`. Temperature does not
    change the order of the classes, so there is none here.

    Parameters
    ----------
    student_logits, teacher : array_like (rows, classes) of float
        Logits or probabilities, both of the same shape.
    sample_weight : array_like (rows,) of float, optional
        Each row's weight w, finite and >= 0. A row of weight 0 does not count, and may hold NaN.

    Returns
    -------
    float
        Between 0 and 1; NaN if no row counts.

    Raises
    ------
    ValueError
        For shapes that differ, or weights out of their range.
    TypeError
        For arguments that are not numbers.

    References
    ----------
    Stanton, Izmailov, Kirichenko, Alemi, Wilson: Does Knowledge Distillation Really Work?,
    arXiv:2106.05945 (2021), who measure a student's fidelity by it.

    Examples
    --------
    >>> import kdloss
    >>> student, teacher = [[2.0, 1.0], [0.0, 1.0]], [[5.0, 0.0], [3.0, 0.0]]
    >>> kdloss.teacher_agreement(student, teacher)
    0.5
    >>> kdloss.teacher_agreement(student, teacher, sample_weight=[3.0, 1.0])
    0.75
    """
    s, t = _matrix(student_logits, "student_logits"), _matrix(teacher, "teacher")
    if t.shape != s.shape:
        raise ValueError(f"teacher has shape {t.shape}, expected that of student_logits, {s.shape}")
    agree = s.argmax(axis=1) == t.argmax(axis=1)
    if sample_weight is None:
        return float(agree.mean()) if len(agree) else math.nan
    weight = check_weights(sample_weight, len(s))
    total = float(weight.sum())
    return float(weight[agree].sum()) / total if total else math.nan


def entropy_temp(logits: ArrayLike, tau: float = 1.0) -> NDArray[Any]:
    r"""The entropy of each row's softened probabilities, in nats: a teacher's uncertainty.

    .. math:: H = -\sum_c p_c \log p_c, \qquad p = \mathrm{softmax}(z / \tau)

    It is 0 if one class has all the probability, and log(classes) if all classes have the same. A
    masked class adds nothing.

    Parameters
    ----------
    logits : array_like (rows, classes) of float
        float16, bfloat16, float32 and float64 are read in place, integers and lists as float64.
    tau : float, default 1
        Temperature, in units of the logits, > 0.

    Returns
    -------
    ndarray (rows,)
        float32 for float32 and half precision, otherwise float64. Every term is >= 0 and computed
        in float64, so the entropy is accurate even if one class has almost all of the probability.
        NaN for a row with NaN, +inf, or only -inf.

    Raises
    ------
    ValueError
        If ``tau`` is not finite or not > 0, or ``logits`` has another number of axes or no classes.
    TypeError
        If ``logits`` are not numbers.

    See Also
    --------
    log_softmax_temp : the logarithms of the probabilities.

    References
    ----------
    Shannon: A Mathematical Theory of Communication, Bell System Technical Journal 27 (1948).

    Examples
    --------
    >>> import kdloss
    >>> kdloss.entropy_temp([[0.0, 0.0], [0.0, -40.0]]).tolist()
    [0.6931471805599453, 1.7418252446695514e-16]
    """
    array = _matrix(logits, "logits")
    result = np.empty(len(array), as_floats(array[:0], "logits").dtype)
    for rows in _blocks(array):
        log_p = log_softmax_temp(array[rows].astype(np.float64), tau)
        with np.errstate(invalid="ignore", under="ignore"):  # 0 * -inf, for a masked class
            p = np.exp(log_p)
            terms = np.multiply(p, -log_p)
        terms[p == 0] = 0
        result[rows] = terms.sum(axis=1)
    return result


def _blocks(array: NDArray[Any], copies: int = 1) -> Iterator[slice]:
    """Slices of rows, for blocks of which `copies` are in memory at once.

    There is at least one slice, so that a bad option is refused even if there are no rows.
    """
    size = max(1, BLOCK_ELEMENTS // max(1, copies * array.shape[1]))
    for start in range(0, max(1, len(array)), size):
        yield slice(start, start + size)


def _matrix(value: ArrayLike, name: str) -> NDArray[Any]:
    """``value`` as an array (rows, classes) of its own dtype, checked to be numbers."""
    array = as_array(value, name)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(
            f"{name} has shape {array.shape}, expected (rows, classes), at least one class"
        )
    as_floats(array[:0], name)  # refuses a dtype that is not numeric
    return array


def _matrices(teachers: Sequence[ArrayLike]) -> list[NDArray[Any]]:
    if isinstance(teachers, np.ndarray) and teachers.ndim != 3:
        raise ValueError(
            f"teachers has shape {teachers.shape}, expected a list of arrays (rows, classes)"
        )
    arrays = [_matrix(value, f"teachers[{k}]") for k, value in enumerate(teachers)]
    if not arrays:
        raise ValueError("teachers is empty, expected the logits of at least one teacher")
    for k, array in enumerate(arrays):
        if array.shape != arrays[0].shape:
            raise ValueError(
                f"teachers[{k}] has shape {array.shape}, "
                f"expected that of teachers[0], {arrays[0].shape}"
            )
    return arrays


def check_teacher_weights(
    weights: ArrayLike | None, count: int, name: str = "weights"
) -> NDArray[np.float64]:
    """Return the teachers' weights as float64 (count,), at least one > 0; equal ones for None."""
    if weights is None:
        return np.ones(count)
    array = check_weights(weights, count, name, "teacher")
    if not array.any():
        raise ValueError(f"{name} are all 0, expected at least one > 0")
    return array


def _refuse_negative(block: NDArray[np.float64], first: int, *, one_row: bool) -> None:
    negative = block < 0
    if negative.any():
        row, column = divmod(int(negative.argmax()), block.shape[1])
        value = block[row, column]
        at = f"probs[{column}]" if one_row else f"probs[{first + row}, {column}]"
        raise ValueError(f"{at} is {value:g}, expected a probability >= 0")


def _refuse_bad_probabilities(block: NDArray[np.float64], first: int, *, one_row: bool) -> None:
    _refuse_negative(block, first, one_row=one_row)
    sums = block.sum(axis=1)
    wrong = np.abs(sums - 1) > SUM_TOLERANCE  # False for NaN, whose row becomes NaN
    if wrong.any():
        row = int(wrong.argmax())
        where = "probs" if one_row else f"probs[{first + row}]"
        hint = ""
        if one_row and (block <= 1).all():
            hint = "; if these are rows, each with the probability of class 1 of two, pass "
            hint += "probs.reshape(-1, 1)"
        raise ValueError(
            f"{where} sums to {sums[row]:g}, "
            f"expected probabilities that sum to 1 within {SUM_TOLERANCE:g}{hint}"
        )
