"""Rows that once broke the promise, and others of their kinds, with exact numbers."""

import json
from typing import NamedTuple

import numpy as np

import kdloss
import reference
from errors import gradient_error, loss_error
from golden import DATA


class Fault(NamedTuple):
    """One row in its type, and its exact soft loss, soft gradient and Hessian (or None)."""

    name: str
    student: np.ndarray
    teacher: np.ndarray
    tau: float
    soft: float
    grad: np.ndarray
    hess: np.ndarray | None = None


def found():
    """The rows of tests/data/faults.json."""
    for x in json.loads((DATA / "faults.json").read_text()):
        s, t = (np.array(x[side], x["dtype"]) for side in ("student", "teacher"))
        yield Fault(x["name"], s, t, x["tau"], x["soft"], np.array(x["grad"]), np.array(x["hess"]))


def shared_class(dtype, classes, seed, depth=22.0, tau=1.0):
    """One class with nearly all probability, equal in both models; the other classes differ."""
    rng = np.random.default_rng(seed)
    t = rng.normal(-depth * tau, 0.5 * tau, classes)
    s = t + rng.normal(0, 0.5 * tau, classes)
    s[0] = t[0] = 0
    s[0] += tau * (np.log(np.exp(s[1:] / tau).sum()) - np.log(np.exp(t[1:] / tau).sum()))
    return _balanced(f"shared class of {classes}", s.astype(dtype), t.astype(dtype), tau)


def shared_class_alike(dtype, classes, tau=1.0):
    """The same with two kinds of other classes, so that rounding errors do not cancel."""
    s = np.full(classes, tau * np.log(2 - np.exp(-1)))
    s[1 : 1 + (classes - 1) // 2] = -tau
    t = np.zeros(classes)
    s[0] = t[0] = 20 * tau
    return _balanced(f"shared class of {classes} alike", s.astype(dtype), t.astype(dtype), tau)


def _balanced(name, s, t, tau):
    """Exact values in long double: the first class's entry is minus the sum of the others."""
    part = reference.soft_part(s, t, tau)
    wide, tau = np.longdouble(tau) ** -1, np.longdouble(tau)
    a, b = ((np.asarray(z, np.longdouble)[1:] - np.longdouble(z[0])) * wide for z in (s, t))
    of_s, of_t = np.exp(a).sum(), np.exp(b).sum()
    part.grad[0] = tau * -(np.exp(b) * np.expm1(a - b)).sum() / ((1 + of_s) * (1 + of_t))
    return Fault(name, s, t, float(tau), None, part.grad)


def all_faults():
    """All rows, small ones first."""
    yield from found()
    for dtype in ("float32", "float64"):
        for classes in (5, 9, 30, 150, 256, 257, 1000, 5000, 20_000):
            yield shared_class(dtype, classes, classes)
            yield shared_class(dtype, classes, classes, depth=15.0, tau=1.3)
            yield shared_class_alike(dtype, classes, 1.0)
            yield shared_class_alike(dtype, classes, 3.0)
    yield shared_class("float32", 128_256, 1)
    yield shared_class("float32", 100_000, 2)


def errors(fault):
    """The error of each part of one row, infinite for a loss below zero."""
    s, t, dtype = fault.student[None, :], fault.teacher[None, :], fault.student.dtype
    result = kdloss.kd_loss_grad_hess(s, t, None, alpha=0.0, tau=fault.tau)
    row = kdloss.kd_loss_batch(s, t, None, alpha=0.0, tau=fault.tau, reduction="none")
    worst = {"grad": gradient_error(result.grad_logits, fault.grad[None, :], dtype)}
    if fault.soft is not None:
        worst["soft"] = loss_error(row, [fault.soft], dtype) if row[0] >= 0 else np.inf
    if fault.hess is not None:
        tiny = np.finfo(dtype).tiny
        error = np.abs(result.hess_logits[0] - fault.hess) / np.maximum(fault.hess, tiny)
        worst["hess"] = float(error.max())
    return worst


def worst():
    """Return the report of a child process: the instruction set, and every row's errors."""
    return {
        "isa": kdloss.show_config()["isa"],
        "errors": [(x.name, x.student.dtype.name, errors(x)) for x in all_faults()],
    }
