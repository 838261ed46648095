"""For each threshold of the kernels a float32 row that becomes inaccurate if it is moved.

The rows are the worst of some hundred thousand random ones, on x86-64-v4, with the threshold moved.
"""

import numpy as np

import kdloss
import reference
from errors import gradient_error, loss_error
from golden import DATA
from tolerances import PROMISE

# The factors by which tests/thresholds.py moves the thresholds, so that the rows fail.
FACTORS = {
    "kStudentDepth": 1.3,
    "kTeacherDepth": 2.2,
    "kHardDepth": 1.3,
    "kOffset": 16,
    "kTail": 0.1,
    "kBalance": 1000,
    "kHessianDepth": 1.2,
    "kFarKl": 0.001,
    "kFarRatio": 0.02,
    "kGrowth": 1.9999,
}


def errors(name):
    """The error of each part of a threshold's row."""
    with np.load(DATA / "threshold_rows.npz") as rows:
        s, t, tau = (rows[f"{field}_{name}"] for field in ("student", "teacher", "tau"))
    tau, label = float(tau), int(s.argmax())
    arguments, options = (s[None], t[None], [label]), {"tau": tau, "reduction": "none"}
    hard, soft = (kdloss.kd_loss_grad_hess(*arguments, alpha=a, **options) for a in (1.0, 0.0))
    exact_hard, exact_soft = reference.hard_part(s, label), reference.soft_part(s, t, tau)
    exact_hess = reference.hessian(s, tau)
    tiny = np.finfo(np.float32).tiny
    return {
        "hard": loss_error(hard.loss, [exact_hard.loss], "float32"),
        "soft": loss_error(soft.loss, [exact_soft.loss], "float32"),
        "hard gradient": gradient_error(hard.grad_logits, exact_hard.grad[None], "float32"),
        "soft gradient": gradient_error(soft.grad_logits, exact_soft.grad[None], "float32"),
        "hessian": float(
            (np.abs(soft.hess_logits[0] - exact_hess) / np.maximum(exact_hess, tiny)).max()
        ),
    }


def broken():
    """The thresholds whose rows are inaccurate."""
    found = {name: max(errors(name).values()) for name in FACTORS}
    return {name: error for name, error in found.items() if not error <= PROMISE["float32"]}
