"""The golden cases with exact numbers, and the errors of this process's kernels on them."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

import kdloss
from errors import gradient_error, loss_error

DATA = Path(__file__).parents[1] / "data"
MIXTURES = (0.5, 0.1)


class Case(NamedTuple):
    """A batch with its exact row losses and gradients, in float64.

    The gentle cases give the gradient of one mixture, the hard ones that of each part.
    """

    name: str
    student: np.ndarray
    teacher: np.ndarray
    labels: np.ndarray
    tau: float
    hard: np.ndarray
    soft: np.ndarray
    alpha: float | None = None
    grad: np.ndarray | None = None
    grad_hard: np.ndarray | None = None
    grad_soft: np.ndarray | None = None


def read(file):
    """The cases of one file."""
    with np.load(DATA / file) as entries:
        return [
            Case(
                **{
                    field: entries[f"{field}_{i}"][()]
                    for field in Case._fields
                    if f"{field}_{i}" in entries
                }
            )
            for i in range(int(entries["count"]))
        ]


CASES = read("kd_cases.npz") + read("kd_hard_cases.npz")


def results(case, place=np.asarray):
    """(exact, ours, largest entry of each row) of all results of a case; losses lack the last."""
    s, t = place(case.student), place(case.teacher)
    options = {"tau": case.tau, "reduction": "none"}

    def run(alpha):
        return kdloss.kd_loss_and_grad(s, t, case.labels, alpha=alpha, **options)

    found = {}
    hard, soft = run(1.0), run(0.0)
    parts = kdloss.kd_loss_parts(s, t, case.labels, alpha=0.3, **options)
    found["hard"] = case.hard, hard.loss
    found["soft"] = case.soft, soft.loss
    found["hard, of parts"] = case.hard, parts.hard
    found["soft, of parts"] = case.soft, parts.soft
    found["loss, of parts"] = 0.3 * case.hard + 0.7 * case.soft, parts.loss
    found["hard, of cross_entropy_hard"] = (
        case.hard,
        kdloss.cross_entropy_hard(s, case.labels, reduction="none"),
    )
    if case.grad is not None:
        mixed = run(case.alpha)
        found["mixture"] = case.alpha * case.hard + (1 - case.alpha) * case.soft, mixed.loss
        found["mixture's gradient"] = (
            case.grad,
            mixed.grad_logits,
            np.abs(case.grad).max(axis=1),
        )
        return found
    largest = [np.abs(grad).max(axis=1) for grad in (case.grad_hard, case.grad_soft)]
    found["hard gradient"] = case.grad_hard, hard.grad_logits, largest[0]
    found["soft gradient"] = case.grad_soft, soft.grad_logits, largest[1]
    for alpha in MIXTURES:
        mixed = run(alpha)
        found[f"mixture {alpha}"] = alpha * case.hard + (1 - alpha) * case.soft, mixed.loss
        found[f"mixture {alpha}'s gradient"] = (
            alpha * case.grad_hard + (1 - alpha) * case.grad_soft,
            mixed.grad_logits,
            np.maximum(alpha * largest[0], (1 - alpha) * largest[1]),
        )
    return found


def errors(case, place=np.asarray):
    """The error of each result of a case; infinite for a negative loss."""
    dtype, found = case.student.dtype, {}
    for name, (exact, ours, *scale) in results(case, place).items():
        if scale:
            found[name] = gradient_error(ours, exact, dtype, *scale)
        else:
            found[name] = loss_error(ours, exact, dtype) if np.all(ours >= 0) else np.inf
    return found


def worst():
    """Return a child process's report: instruction set, largest error by type, digest of bits."""
    worst, digest = {}, hashlib.sha256()
    for case in CASES:
        name = case.student.dtype.name
        worst[name] = max(worst.get(name, 0.0), *errors(case).values())
        for _, ours, *_ in results(case).values():
            digest.update(np.ascontiguousarray(ours).tobytes())
    return {"isa": kdloss.show_config()["isa"], "worst": worst, "digest": digest.hexdigest()}
