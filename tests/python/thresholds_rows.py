"""For each limit of the plain path (thresholds.hpp) a row that breaks the promise if it is moved.

Most rows have few kinds of classes: where many are alike their rounding errors are too, and add up.
Their numbers are the worst of some thousand random ones, with the limit moved.
"""

from typing import NamedTuple

import numpy as np

import kdloss
import reference
from errors import gradient_error, loss_error
from tolerances import LIMITED


class Guard(NamedTuple):
    """A row, and the factor that its limit must be moved by for the row to break the promise.

    `classes` are (how many, student's logit, teacher's logit).
    """

    threshold: str
    factor: float
    dtype: str
    tau: float
    classes: list[tuple[int, float, float]]
    options: dict | None = None


F32, F64 = "float32", "float64"
GUARDS = (
    # An exponential that is no number.
    Guard("kStudentDepth", 1.2, F32, 1, [(1, 0, 0), (1, -95, -5)]),
    Guard("kStudentDepth", 1.06, F64, 1, [(1, 0, 0), (1, -740, -5)]),
    Guard("kTeacherDepth", 2.15, F32, 1, [(1, 0, 0), (1, -55, -96)]),
    Guard("kTeacherDepth", 1.06, F64, 1, [(1, 0, 0), (1, -500, -738)]),
    Guard("kHardDepth", 1.3, F32, 2.5, [(1, 0, 1), (1, -3, 2), (1, -88, 2)]),
    Guard("kHardDepth", 1.2, F64, 2.5, [(1, 0, 1), (1, -3, 2), (1, -740, 2)]),
    # The teacher alone is sure of the last class: the student's others come from gaps of 150.
    Guard(
        "kPowerDepth", 5, F32, 4,
        [(1, 0.0183688, -154.568), (2, -23.9002, -157.321), (1, -59.9816, 0.0455839)],
    ),
    Guard(
        "kPowerDepth", 2.8, F64, 4,
        [(1, 0.0205409, -2725.51), (2, -11.5199, -2379.73), (1, -59.9795, 0.0460759)],
    ),
    # Gaps rounded to the digits that logits far from each other leave.
    Guard(
        "kOffset", 16, F32, 1,
        [(1, 244.139, -0.533722), (150, 238.823, -18.8275), (150, 233.582, 0.530206)],
    ),
    Guard(
        "kOffset", 64, F64, 1,
        [(1, 16280.1, 9.24384), (300, 16274.6, 1.17291), (300, 16270.0, 15.9793)],
    ),
    # KL is a sum of tails, whose errors differ: two classes are far beyond the depths.
    Guard(
        "kTail", 1e-4, F32, 1.05533,
        [(1, -0.484064, 0.449522), (2, -34.4941, -34.6293), (1, -1000, -1000)],
    ),
    # The hard loss is exp(-680).
    Guard("kTail", 1e-30, F64, 1, [(1, 0, 0), (1, -680, -1)]),
    # Both models are sure of the first class, and others give and take the same.
    Guard(
        "kBalance", 300, F32, 1,
        [(1, 16.1371, 16.1371), (600, 0.2928, 0), (600, -0.41578, 0)],
    ),
    Guard(
        "kBalance", 1000, F64, 1,
        [(1, 23.1102, 23.1102), (50_000, 0.504956, 0), (50_000, -1.06977, 0)],
    ),
    # Each model is sure of what the other is not: all distances are long.
    Guard("kHessianDepth", 2, F32, 3.40607, [(1, -0.0647199, -142.281), (5, -266.944, -0.147688)]),
    # log(Zs / Zt) - sum q v cancels.
    Guard(
        "kFarKl", 0.001, F32, 1,
        [(150, -0.956756, -0.962597), (150, -0.94986, -0.938459), (150, -0.562566, -0.559603)],
    ),
    Guard(
        "kFarRatio", 0.02, F32, 1,
        [(1, 0, 6.15491), (42_000, 0.10548, 0), (8000, -0.0708387, 0)],
    ),
    # One class moves the frame of all others, which differ by far less than that.
    Guard(
        "kNearRatio", 0.001, F32, 1,
        [(1, 1.01718, 0), (50_000, 0.00371498, 0), (49_999, -0.00371498, 0)],
    ),
    Guard(
        "kNearShare", 0.01, F32, 1,
        [(1, 1.03296, 0), (150, 0.00378385, 0), (150, -0.00378385, 0)],
        {"divergence": "tv"},
    ),
    # p and q agree in the second class to their last digits.
    Guard(
        "kSign", 0.1, F32, 1,
        [(1, -2.11802, -0.432864), (1, 0.792674, 1.18647), (1, -0.358196, -0.569331)],
        {"divergence": "tv"},
    ),
    # A peaked student under a flat teacher.
    Guard("kGrowth", 1.9999, F32, 1, [(1, 12.1074, 0), (20_000, 0, -0.172174)]),
    # es is thousands of times et.
    Guard(
        "kShrinkage", 20, F32, 1,
        [(1, 0, 8.37862), (12_000, 1.04158, 0), (38_000, -0.673553, 0)],
    ),
    # Sums of denormal numbers, in a loss or a gradient that is none.
    Guard(
        "kLeastTerm", 1e-15, F32, 1, [(1, 1e-21, 0), (1, 0, 0)],
        {"divergence": "mse", "sample_weight": 1e30},
    ),
    Guard(
        "kLeastTerm", 1e-15, F32, 1, [(1, 0, 0), (1, -79, 0)],
        {"divergence": "js", "beta": 1 - 1e-10, "sample_weight": 1e25},
    ),
    Guard(
        "kLeastTerm", 1e-30, F64, 1e20, [(1, 0, 0), (1, -699e20, 0)],
        {"divergence": "js", "beta": 1 - 1e-13},
    ),
    # tau^2 KL is denormal.
    Guard("kLeastTau", 1e-10, F32, 1e-21, [(1, 0, 0), (1, -1e-21, 1e-21)], {"sample_weight": 1e40}),
    # The square of tau u overflows, and KL does not.
    Guard("kMostTau", 1e10, F32, 4e21, [(1, 0, 0), (1, -2.72e22, -2.76e22)]),
    Guard("kMostTau", 1e140, F64, 1e157, [(1, 0, 0), (1, -1.2e158, -1.21e158)]),
)  # fmt: skip


def error(guard):
    """The largest error of any part of a guard's row."""
    counts, s, t = (np.array(x) for x in zip(*guard.classes, strict=True))
    s, t = s.astype(guard.dtype), t.astype(guard.dtype)
    divergence = {"divergence": "kl", "beta": 0.5} | (guard.options or {})
    weight = divergence.pop("sample_weight", 1.0)
    exact = reference.exact_divergence(s, t, guard.tau, **divergence, counts=counts)
    soft_grad = np.repeat(exact.grad, counts)
    s, t = np.repeat(s, counts), np.repeat(t, counts)
    label = int(s.argmax())
    hard = reference.hard_part(s, label)

    options = {"tau": guard.tau, "reduction": "none"} | divergence
    hard_alone = kdloss.kd_loss_and_grad(s[None], None, [label], alpha=1.0, reduction="none")
    soft_alone = kdloss.kd_loss_and_grad(
        s[None], t[None], None, alpha=0.0, sample_weight=[weight], **options
    )
    parts = kdloss.kd_loss_parts(s[None], t[None], [label], **options)
    errors = [
        loss_error(hard_alone.loss, [hard.loss], guard.dtype),
        gradient_error(hard_alone.grad_logits, hard.grad[None], guard.dtype),
        loss_error(soft_alone.loss, [weight * exact.loss], guard.dtype),
        gradient_error(soft_alone.grad_logits, weight * soft_grad[None], guard.dtype),
        loss_error(parts.hard, [hard.loss], guard.dtype),
        loss_error(parts.soft, [exact.loss], guard.dtype),
    ]
    if divergence["divergence"] == "kl":
        hessians = reference.hessian(s, guard.tau), reference.hessian(s)
        for alpha in (0.0, 0.5, 1.0):
            found = kdloss.kd_loss_grad_hess(s[None], t[None], [label], alpha=alpha, **options)
            diagonal = (1 - alpha) * hessians[0] + alpha * hessians[1]
            scale = np.maximum(diagonal, np.finfo(guard.dtype).tiny)
            errors.append(float((np.abs(found.hess_logits[0] - diagonal) / scale).max()))
    return max(errors)


def broken():
    """The guards whose rows break the promise, with their errors."""
    errors = [(guard, error(guard)) for guard in GUARDS]
    return [
        (guard.threshold, guard.dtype, worst)
        for guard, worst in errors
        if not worst <= LIMITED[guard.dtype]
    ]
