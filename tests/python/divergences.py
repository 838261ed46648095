"""Errors of every divergence, on rows that are hard to compute."""

import numpy as np

import golden
import hard_rows
import kdloss
import reference
from errors import gradient_error, loss_error

KINDS = {"kl": [0.5], "reverse_kl": [0.5], "js": [0.5, 0.1, 0.999], "tv": [0.5], "mse": [0.5]}
MOST_CLASSES = 24  # exact numbers of more classes would take too long


def rows(dtype):
    """Yield (name, student, teacher, tau) of the golden hard batches and of the hard rows."""
    for case in golden.read("kd_hard_cases.npz"):
        if case.student.dtype == dtype and case.student.shape[1] <= MOST_CLASSES:
            yield f"golden {case.name}", case.student[0], case.teacher[0], float(case.tau)
    for kind in hard_rows.KINDS:
        for seed in range(3):
            s, t, tau = kind(np.random.default_rng(seed))
            s, t = (np.asarray(z[:MOST_CLASSES], dtype) for z in (s, t))
            yield f"{kind.__name__} {seed}", s, t, float(tau)
    rng = np.random.default_rng(0)
    for distance in (1e-7, 1e-3, 1.0, 30.0, 300.0):
        t = rng.normal(0, 3, 12)
        s = t + distance * rng.normal(0, 1, 12)
        yield f"apart by {distance}", s.astype(dtype), t.astype(dtype), 2.0


def errors(dtype):
    """Yield (row, divergence, beta, part, error) for all rows and divergences."""
    dtype = np.dtype(dtype)
    for name, s, t, tau in rows(dtype):
        for divergence, betas in KINDS.items():
            for beta in betas:
                exact = reference.exact_divergence(s, t, tau, divergence, beta)
                found = kdloss.kd_loss_and_grad(
                    s[None], t[None], None, alpha=0.0, tau=tau, divergence=divergence, beta=beta,
                    reduction="none",
                )  # fmt: skip
                at = name, divergence, beta
                loss = loss_error(found.loss, [exact.loss], dtype) if found.loss >= 0 else np.inf
                yield *at, "loss", loss
                # Where p and q agree to the last digit, the sign of p - q is not determined.
                if divergence != "tv" or not is_undecided(s, t, tau, dtype):
                    yield *at, "grad", gradient_error(found.grad_logits, exact.grad[None], dtype)


def is_undecided(s, t, tau, dtype):
    """Whether p and q of some class are nearly equal."""
    p, q = (reference.softmax(np.asarray(z, np.longdouble) / tau) for z in (s, t))
    return bool((np.abs(p - q) <= 64 * np.finfo(np.float64).eps * q).any())


def worst():
    """Return the report of a child process."""
    return {
        "isa": kdloss.show_config()["isa"],
        "errors": {
            dtype: sorted(errors(dtype), key=lambda x: -x[-1])[:10]
            for dtype in ("float32", "float64")
        },
    }
