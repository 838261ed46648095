"""Random rows that break cheaper formulas; each kind says what it breaks."""

import numpy as np

import kdloss
from errors import gradient_error, loss_error
from reference import ExactRow, exact_row, hard_part, soft_part

TAUS = (1.0, 2.0, 4.0, 7.0)


def ordinary_over_flat(rng):
    """An ordinary student and an almost flat teacher: log(Zs / Zt) - sum q v cancels."""
    tau = rng.choice(TAUS)
    classes = rng.integers(90, 145)
    return tau * rng.normal(0, 0.35, classes), tau * rng.normal(0, 0.01, classes), tau


def one_class_moved(rng):
    """A student equal to its teacher except in one class, the largest, which shifts all others."""
    tau = rng.choice(TAUS)
    t = rng.normal(0, 0.3, rng.integers(90, 145))
    s = t.copy()
    s[rng.integers(len(t))] += tau * rng.uniform(2, 5)
    return s, t, tau


def tiny_probabilities(rng):
    """Exponents near -80, where the rounding of the exponent and of log2(e) / tau counts most."""
    taus = rng.uniform(0.1, 20, 100)
    factors = np.log2(np.e) / taus
    tau = taus[np.abs(factors.astype(np.float32) / factors - 1).argmax()]
    s, t = -tau * rng.uniform(70, 80, (2, rng.integers(2, 5)))
    if rng.random() < 0.5:
        s = t + tau * rng.uniform(-2, 2, len(t))
    s[0] = t[0] = 0
    return s + rng.uniform(-50, 50), t + rng.uniform(-50, 50), tau


def underflow_of_the_divergence(rng):
    """KL underflows in float32; tau^2 KL does not."""
    tau = 10 ** rng.uniform(1, 6)
    t = 10 ** rng.uniform(-17, -14) * rng.normal(size=rng.integers(2, 6))
    return t * rng.normal(1, 0.1, len(t)), t, tau


def underflow_of_probabilities(rng):
    """tau q is a normal number, q is not."""
    tau = 10 ** rng.uniform(3, 6)
    t = -tau * rng.uniform(80, 90, rng.integers(2, 4))
    s = t + tau * rng.normal(0, 0.1, len(t))
    s[0] = t[0] = 0
    return s, t, tau


def sure_and_right(rng):
    """The hard loss is one tiny term; a power of the softened term has tau times its error."""
    tau = rng.integers(1, 9)
    s, t = rng.uniform(-85, -30, 3), rng.uniform(-64, 0, 3)
    s[0] = 0
    return s, t, tau


def near_and_far_from_zero(rng):
    """A student near its teacher, both with a large offset."""
    t = rng.normal(0, 3, rng.integers(2, 20))
    return t + rng.normal(0, 1e-3, len(t)) + rng.uniform(-500, 500), t, rng.choice(TAUS)


def ulps_apart(rng):
    """Logits that are neighbouring floats."""
    t = rng.normal(0, 3, rng.integers(2, 20)).astype(np.float32)
    s = np.where(rng.random(len(t)) < 0.5, np.nextafter(t, np.float32(9)), t)
    return s, t, rng.choice(TAUS)


# Each kind with the seeds of its worst rows, as found in some thousands.
KINDS = {
    ordinary_over_flat: (394, 588, 1930, 2466),
    one_class_moved: (442, 504, 1956, 2047),
    tiny_probabilities: (169, 993, 1705, 2093),
    underflow_of_the_divergence: (4, 9, 10),
    underflow_of_probabilities: (526, 811, 1574),
    sure_and_right: (),
    near_and_far_from_zero: (),
    ulps_apart: (),
}


def errors(kind, dtype, rows=50):
    """The largest error of each part over some rows, with the seed of its row."""
    worst = {}
    for seed in (*range(rows), *KINDS[kind]):
        student, teacher, tau = kind(np.random.default_rng(seed))
        s, t = (np.asarray(z, dtype)[None, :] for z in (student, teacher))
        label = int(s[0].argmax())
        exact = _exact(s[0], t[0], label, tau)
        options = {"tau": tau, "reduction": "none"}
        hard, soft, mixed = (
            kdloss.kd_loss_and_grad(s, t, [label], alpha=alpha, **options) for alpha in (1, 0, 0.5)
        )
        parts = kdloss.kd_loss_parts(s, t, [label], **options)
        grads = np.stack([exact.grad_hard, exact.grad_soft])
        scale = [0.5 * np.abs(grads).max()]
        found = {
            "hard": loss_error(hard.loss, exact.hard, dtype),
            "soft": loss_error(soft.loss, exact.soft, dtype),
            "hard, of parts": loss_error(parts.hard, exact.hard, dtype),
            "soft, of parts": loss_error(parts.soft, exact.soft, dtype),
            "hard gradient": gradient_error(hard.grad_logits, grads[:1], dtype),
            "soft gradient": gradient_error(soft.grad_logits, grads[1:], dtype),
            "mixture": loss_error(mixed.loss, 0.5 * exact.hard + 0.5 * exact.soft, dtype),
            "mixture's gradient": gradient_error(
                mixed.grad_logits, 0.5 * grads.sum(axis=0, keepdims=True), dtype, scale
            ),
        }
        for part, error in found.items():
            worst[part] = max(worst.get(part, (0.0, -1)), (error, seed))
    return worst


def _exact(s, t, label, tau):
    """Computed with hundreds of digits; rows of many classes (never near) in long double."""
    if len(s) < 50:
        return exact_row(s, t, label, tau)
    (hard, grad_hard), (soft, grad_soft) = hard_part(s, label), soft_part(s, t, tau)
    return ExactRow(hard, soft, grad_hard, grad_soft)


def worst():
    """Return a child process's report: instruction set, largest error by kind and type."""
    return {
        "isa": kdloss.show_config()["isa"],
        "worst": [
            (kind.__name__, dtype, max(errors(kind, dtype, rows=0).values(), default=(0.0, -1)))
            for kind in KINDS
            for dtype in ("float32", "float64")
        ],
    }
