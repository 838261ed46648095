"""The slow reference: every formula as it is written, one row at a time, in NumPy's long double.

The divergence loses digits where a student is close to its teacher. For such rows `exact_row`
evaluates the same formulas with hundreds of digits. With student logits s, teacher logits t, label
y, temperature tau:

    p1 = softmax(s)    p = softmax(s / tau)    q = softmax(t / tau)
    hard = -log p1[y]                      its gradient  p1 - onehot(y)
    soft = tau^2 KL(q || p)                its gradient  tau (p - q)
    loss = alpha hard + (1 - alpha) soft
"""

from typing import NamedTuple

import mpmath
import numpy as np

UNLABELLED = -1
PADDING = -100
INF = np.inf


def log_sum_exp(z):
    """log sum exp(z), (classes,) -> number: -inf for a row of -inf, +inf for one with +inf."""
    z = np.asarray(z, np.longdouble)
    return z.max() - log_softmax(z).max() if np.isfinite(z.max()) else z.max()


def log_softmax(z):
    """log softmax(z), (classes,): NaN where there is no softmax."""
    z = np.asarray(z, np.longdouble)
    if not np.isfinite(z.max()):
        return np.full_like(z, np.nan)
    below = z - z.max()
    others = np.exp(below)
    others[below.argmax()] = 0  # which is the 1 of log1p: a sum close to 1 keeps its digits
    return below - np.log1p(others.sum())


def softmax(z):
    """softmax(z), (classes,)."""
    return np.exp(log_softmax(z))


def kl_divergence(log_q, log_p):
    """KL(q || p) = sum q log(q / p) - q + p, where 0 log 0 = 0, from logarithms."""
    q, p = np.exp(log_q), np.exp(log_p)
    with np.errstate(invalid="ignore"):
        terms = np.where(log_q == -INF, p, q * (log_q - log_p) - q + p)
    terms[(log_p == -INF) & (log_q > -INF)] = INF  # even where q itself underflows
    return terms.sum()


class Part(NamedTuple):
    """A part of one row's loss and that part's gradient, (classes,)."""

    loss: np.longdouble
    grad: np.ndarray


def hard_part(s, y):
    """-log softmax(s)[y]."""
    log_p1 = log_softmax(s)
    grad = np.exp(log_p1)
    grad[y] = np.expm1(log_p1[y])  # p1[y] - 1
    return Part(-log_p1[y], grad)


def soft_part(s, t, tau):
    """tau^2 KL(softmax(t / tau) || softmax(s / tau)): the teacher first."""
    tau = np.longdouble(tau)
    log_p, log_q = (log_softmax(np.asarray(z, np.longdouble) / tau) for z in (s, t))
    return Part(tau**2 * kl_divergence(log_q, log_p), tau * (np.exp(log_p) - np.exp(log_q)))


class Batch(NamedTuple):
    """Row losses (rows,) and gradients (rows, classes), each of its own row's loss.

    `scale` (rows,) is the larger part's largest entry, to which the gradient's errors are relative.
    """

    loss: np.ndarray
    hard: np.ndarray
    soft: np.ndarray
    grad: np.ndarray
    scale: np.ndarray
    counts: np.ndarray


def kd_rows(student, teacher, labels, *, alpha=0.5, tau=4.0, ignore_index=PADDING):
    """Every row of a batch; a part of weight 0 is in `hard` and `soft`, and not in the others."""
    shape = rows, classes = student.shape
    loss, hard, soft, scale = np.zeros((4, rows), np.longdouble)
    grad, counts = np.zeros(shape, np.longdouble), np.ones(rows, bool)
    for i in range(rows):
        y = UNLABELLED if labels is None else int(labels[i])
        if labels is not None and y == ignore_index:
            counts[i] = False
            continue
        weight = 0 if y == UNLABELLED else alpha
        nothing = Part(np.longdouble("nan"), np.full(classes, np.nan))
        parts = (
            nothing if y == UNLABELLED else hard_part(student[i], y),
            nothing if teacher is None else soft_part(student[i], teacher[i], tau),
        )
        hard[i], soft[i] = parts[0].loss, parts[1].loss
        for w, part in zip((weight, 1 - weight), parts, strict=True):
            if w > 0:
                loss[i] += w * part.loss
                grad[i] += w * part.grad
                scale[i] = max(scale[i], w * np.abs(part.grad).max())
    return Batch(loss, hard, soft, grad, scale, counts)


class ExactRow(NamedTuple):
    """Both parts of one row, correctly rounded to float64."""

    hard: float
    soft: float
    grad_hard: np.ndarray
    grad_soft: np.ndarray


def exact_row(student, teacher, label, tau):
    """One row of finite logits."""
    # A hundred digits for what cancels, and those that tell 1 + exp(-spread) from 1.
    spread = max(np.ptp(np.asarray(z, np.longdouble)) for z in (student, teacher))
    with mpmath.workdps(100 + int(min(spread * max(1, 1 / tau) / np.log(10), 325))):
        s, t = ([mpmath.mpf(float(x)) for x in logits] for logits in (student, teacher))
        tau = mpmath.mpf(float(tau))

        def log_softmax(z):
            m = max(z)
            log_sum = m + mpmath.log(mpmath.fsum(mpmath.exp(x - m) for x in z))
            return [x - log_sum for x in z]

        log_p1 = log_softmax(s)
        log_p, log_q = (log_softmax([x / tau for x in z]) for z in (s, t))
        p, q = ([mpmath.exp(x) for x in logs] for logs in (log_p, log_q))
        kl = mpmath.fsum(a * (x - y) for a, x, y in zip(q, log_q, log_p, strict=True))
        one_hot = [int(c == label) for c in range(len(s))]
        return ExactRow(
            float(-log_p1[label]),
            float(tau**2 * kl),
            np.array([float(mpmath.exp(x) - e) for x, e in zip(log_p1, one_hot, strict=True)]),
            np.array([float(tau * (a - b)) for a, b in zip(p, q, strict=True)]),
        )
