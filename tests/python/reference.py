"""The slow reference: every formula written out, one row at a time, in NumPy's long double.

The divergence loses digits where a student is close to its teacher. For such rows `exact_row`
evaluates the same formulas with hundreds of digits. With student logits s, teacher logits t, target
y over the classes (one-hot for a label), smoothing eps, class weights w, temperature tau:

    p1 = softmax(s)    p = softmax(s / tau)    q = softmax(t / tau)
    g = w ((1 - eps) y + eps / classes)    W = sum g
    hard = sum g (-log p1)                 its gradient  W p1 - g       Hessian  W p1 (1 - p1)
    soft = tau^2 KL(q || p)                its gradient  tau (p - q)    Hessian  p (1 - p)
    loss = alpha hard + (1 - alpha) soft   times the row's weight; Hessians are their diagonals
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
    """log softmax(z), (classes,): NaN if softmax is not defined."""
    z = np.asarray(z, np.longdouble)
    if not np.isfinite(z.max()):
        return np.full_like(z, np.nan)
    below = z - z.max()
    others = np.exp(below)
    others[below.argmax()] = 0  # the largest term is the 1 in log1p, so that no digits are lost
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


def variance(log_p):
    """p (1 - p) from log p, (classes,), accurate for p close to 1."""
    return np.exp(log_p) * -np.expm1(log_p)


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


class Target(NamedTuple):
    """The target of a row's hard part: g (classes,), and the class if it is one class."""

    g: np.ndarray
    label: int | None


def target(label, classes, class_weight=None, label_smoothing=0.0):
    """g = w ((1 - eps) y + eps / classes), or None for a row without a label.

    `label` is a class or -1, or the probabilities of all classes or zeros.
    """
    y = np.asarray(label, np.longdouble)
    if y.ndim == 0:
        y = (np.arange(classes) == label).astype(np.longdouble)
    if not y.any():
        return None
    eps = np.longdouble(label_smoothing)
    g = (1 - eps) * y + eps / classes
    one = eps == 0 and np.count_nonzero(y) == 1
    return Target(g if class_weight is None else class_weight * g, y.argmax() if one else None)


def target_part(s, target):
    """sum g (-log softmax(s)), where 0 log 0 = 0."""
    g, total = target.g, target.g.sum()
    if target.label is not None and total > 0:
        return Part(*(total * x for x in hard_part(s, target.label)))
    log_p1, wanted = log_softmax(s), g > 0
    return Part((g[wanted] * -log_p1[wanted]).sum(), total * np.exp(log_p1) - g)


def largest_term(s, target):
    """The scale of errors of the hard gradient: W p1 - g can vanish if g is not one class."""
    if target.label is not None:
        return np.abs(target_part(s, target).grad).max()
    return max((target.g.sum() * softmax(s)).max(), target.g.max())


def soft_part(s, t, tau):
    """tau^2 KL(softmax(t / tau) || softmax(s / tau)): the teacher first."""
    tau = np.longdouble(tau)
    log_p, log_q = (log_softmax(np.asarray(z, np.longdouble) / tau) for z in (s, t))
    return Part(tau**2 * kl_divergence(log_q, log_p), tau * (np.exp(log_p) - np.exp(log_q)))


def hessian(s, tau=1):
    """The diagonal p (1 - p) of a part's Hessian, (classes,); it does not depend on the target."""
    log_p = log_softmax(np.asarray(s, np.longdouble) / np.longdouble(tau))
    return np.exp(log_p) * -np.expm1(log_p)  # expm1: accurate for p close to 1


class Batch(NamedTuple):
    """Row losses (rows,), gradients and Hessian diagonals (rows, classes), each of its own row's.

    These three have the row's `weight`, `hard` and `soft` have not. `scale` (rows,) is the larger
    part's largest entry, to which the gradient's errors are relative. `counts` are all rows but
    padding, `labelled` those with a hard part. `reduced` gives the same fields.
    """

    loss: np.ndarray
    hard: np.ndarray
    soft: np.ndarray
    grad: np.ndarray
    scale: np.ndarray
    counts: np.ndarray
    hess: np.ndarray
    weight: np.ndarray
    labelled: np.ndarray


def kd_rows(
    student,
    teacher,
    labels,
    *,
    alpha=0.5,
    tau=4.0,
    ignore_index=PADDING,
    sample_weight=None,
    class_weight=None,
    label_smoothing=0.0,
):
    """Every row of a batch; a part of weight 0 is in `hard` and `soft`, and not in the others.

    alpha and tau are numbers or (rows,); labels are (rows,) or, of probabilities, (rows, classes).
    """
    shape = rows, classes = student.shape
    loss, hard, soft, scale = np.zeros((4, rows), np.longdouble)
    grad, hess = np.zeros((2, *shape), np.longdouble)
    counts, labelled = np.zeros((2, rows), bool)
    weight = np.ones(rows) if sample_weight is None else np.array(sample_weight, float)
    alphas, taus = np.broadcast_to(alpha, rows), np.broadcast_to(tau, rows)
    for i in range(rows):
        s, label = student[i], UNLABELLED if labels is None else labels[i]
        padding = labels is not None and np.ndim(label) == 0 and label == ignore_index
        if padding or weight[i] == 0:
            weight[i] = 0
            continue
        wanted = target(label, classes, class_weight, label_smoothing)
        counts[i], labelled[i] = True, wanted is not None
        hard[i] = soft[i] = np.nan
        a = np.longdouble(alphas[i] if labelled[i] else 0)
        terms = []  # of the loss: weight, part, largest entry of its gradient, Hessian
        if labelled[i]:
            part = target_part(s, wanted)
            terms.append((a, part, largest_term(s, wanted), wanted.g.sum() * hessian(s)))
            hard[i] = part.loss
        if teacher is not None:
            part = soft_part(s, teacher[i], taus[i])
            terms.append((1 - a, part, np.abs(part.grad).max(), hessian(s, taus[i])))
            soft[i] = part.loss
        for share, part, largest, diagonal in terms:
            w = weight[i] * share
            if w > 0:
                loss[i] += w * part.loss
                grad[i] += w * part.grad
                hess[i] += w * diagonal
                scale[i] = max(scale[i], w * largest)
    return Batch(loss, hard, soft, grad, scale, counts, hess, weight, labelled)


def reduced(batch, reduction="mean", normalizer=None):
    """Reduce a batch's fields: loss, hard and soft become numbers, except for "none".

    hard is over the labelled rows, NaN without any; the others over all rows that count.
    """
    if reduction == "none":
        return batch
    counted, labelled = (
        np.longdouble(batch.weight[x].sum()) for x in (batch.counts, batch.labelled)
    )
    divisors = 1, 1
    if reduction == "mean":
        divisors = (counted, labelled) if normalizer is None else (normalizer, normalizer)
    divisor, hard_divisor = (np.longdouble(x) if x > 0 else 1 for x in divisors)

    def total(values, rows):
        return (batch.weight[rows] * values[rows]).sum()

    return batch._replace(
        loss=batch.loss.sum() / divisor,
        hard=total(batch.hard, batch.labelled) / hard_divisor if labelled > 0 else np.nan,
        soft=total(batch.soft, batch.counts) / divisor,
        grad=batch.grad / divisor,
        hess=batch.hess / divisor,
        scale=batch.scale / divisor,
    )


class ExactRow(NamedTuple):
    """Both parts of one row, correctly rounded to float64."""

    hard: float
    soft: float
    grad_hard: np.ndarray
    grad_soft: np.ndarray


def exact_row(student, teacher, label, tau):
    """One row of finite logits."""
    # A hundred digits for cancellation, plus the digits that 1 + exp(-spread) needs.
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


class ExactSoft(NamedTuple):
    """The soft part of one row, rounded to float64."""

    loss: float
    grad: np.ndarray


def exact_divergence(student, teacher, tau, divergence, beta=0.5, counts=None):
    """Any divergence of one row of finite logits, and its gradient, by the plain formulas.

    `counts` says how many classes each logit stands for, one if not given.
    """
    spread = max(np.ptp(np.asarray(z, np.longdouble)) for z in (student, teacher))
    with mpmath.workdps(100 + int(min(2 * spread * max(1, 1 / tau) / np.log(10), 700))):
        s, t = ([mpmath.mpf(float(x)) for x in logits] for logits in (student, teacher))
        tau, beta = mpmath.mpf(float(tau)), mpmath.mpf(float(beta))
        counts = [1] * len(s) if counts is None else [int(n) for n in counts]

        def total(terms):
            return mpmath.fsum(n * x for n, x in zip(counts, terms, strict=True))

        if divergence == "mse":
            gaps, classes = [a - b for a, b in zip(s, t, strict=True)], sum(counts)
            loss = total(x * x for x in gaps) / classes
            return ExactSoft(float(loss), np.array([float(2 * x / classes) for x in gaps]))

        def log_softmax(z):
            m = max(z)
            log_sum = m + mpmath.log(total(mpmath.exp(x - m) for x in z))
            return [x - log_sum for x in z]

        log_p, log_q = (log_softmax([x / tau for x in z]) for z in (s, t))
        p, q = ([mpmath.exp(x) for x in logs] for logs in (log_p, log_q))
        m = [beta * b + (1 - beta) * a for a, b in zip(p, q, strict=True)]
        log_m = [mpmath.log(x) for x in m]

        def kl(a, log_a, log_b):
            return total(x * (u - v) for x, u, v in zip(a, log_a, log_b, strict=True))

        if divergence == "kl":
            loss = kl(q, log_q, log_p)
            slope = [0 for _ in p]
        elif divergence == "reverse_kl":
            loss = kl(p, log_p, log_q)
            slope = [a - b for a, b in zip(log_p, log_q, strict=True)]
        elif divergence == "js":
            loss = beta * kl(q, log_q, log_m) + (1 - beta) * kl(p, log_p, log_m)
            slope = [(1 - beta) * (a - b) for a, b in zip(log_p, log_m, strict=True)]
        elif divergence == "tv":
            loss = total(abs(a - b) for a, b in zip(p, q, strict=True)) / 2
            slope = [mpmath.sign(a - b) / 2 for a, b in zip(p, q, strict=True)]
        else:
            raise ValueError(f"divergence is {divergence!r}, which has no reference")
        mean = total(a * f for a, f in zip(p, slope, strict=True))
        if divergence == "kl":
            slope, mean = [1 - b / a for a, b in zip(p, q, strict=True)], 0
        grad = [tau * a * (f - mean) for a, f in zip(p, slope, strict=True)]
        return ExactSoft(float(tau**2 * loss), np.array([float(x) for x in grad]))
