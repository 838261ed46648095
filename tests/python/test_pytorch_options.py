"""Agreement with PyTorch, in what both have: cross_entropy's weight, smoothing, targets, padding.

data/make_pytorch_options.py wrote its numbers.
"""

import numpy as np
import pytest

import golden
import kdloss
import reference
from errors import gradient_error, loss_error
from tolerances import PROMISE

with np.load(golden.DATA / "pytorch_options.npz") as entries:
    TOLD = {name: entries[name] for name in entries.files}
CASES = [str(name) for name in TOLD["cases"]]


def told(name, case):
    """PyTorch's results for a case."""
    return TOLD[name][CASES.index(case)]


@pytest.fixture(params=CASES, ids=lambda name: name.replace(" ", "-"))
def case(request):
    """The name of a case."""
    return request.param


def arguments(case, dtype):
    """Student, teacher and labels of a case."""
    labels = TOLD[case.split()[0]]
    labels = labels if labels.ndim == 1 else labels.astype(dtype)
    return TOLD["student"].astype(dtype), TOLD["teacher"].astype(dtype), labels


def options(case):
    """A case's weight and smoothing, as keywords of kdloss."""
    return {
        "class_weight": TOLD["class_weight"] if "weight" in case else None,
        "label_smoothing": float(TOLD["smoothing"]) if "smoothing" in case else 0.0,
    }


def test_rows_and_sums(case, dtype):
    student, _, labels = arguments(case, dtype)
    promise = PROMISE[dtype.name]
    for reduction, name in (("none", "hard"), ("sum", "sum")):
        found = kdloss.cross_entropy_hard(student, labels, reduction=reduction, **options(case))
        assert loss_error(found, told(name, case), dtype) <= promise
    found = kdloss.kd_loss_and_grad(
        student, None, labels, alpha=1, reduction="sum", **options(case)
    )
    assert loss_error(found.loss, told("sum", case), dtype) <= promise
    exact = reference.kd_rows(student, None, labels, alpha=1, **options(case))
    error = gradient_error(found.grad_logits, told("grad", case), dtype, exact.scale)
    assert error <= promise


def test_means(case, dtype):
    """PyTorch divides its mean over class indices by their weights; normalizer does the same."""
    student, _, labels = arguments(case, dtype)
    divisor = None
    if "weight" in case and labels.ndim == 1:
        divisor = TOLD["class_weight"][labels[labels != -100]].sum()
    found = kdloss.cross_entropy_hard(student, labels, normalizer=divisor, **options(case))
    assert loss_error(found, told("mean", case), dtype) <= PROMISE[dtype.name]


def test_distillation(case, dtype):
    """alpha cross_entropy + (1 - alpha) tau^2 kl_div, its gradient and its Hessian's diagonal."""
    promise = PROMISE[dtype.name]
    mixture = {"alpha": float(TOLD["alpha"]), "tau": float(TOLD["tau"])} | options(case)
    found = kdloss.kd_loss_grad_hess(*arguments(case, dtype), reduction="sum", **mixture)
    exact = reference.kd_rows(*arguments(case, dtype), **mixture)
    assert loss_error(found.loss, told("loss", case), dtype) <= promise
    grad = told("loss_grad", case)
    assert gradient_error(found.grad_logits, grad, dtype, exact.scale) <= promise
    assert loss_error(found.hess_logits, told("loss_hess", case), dtype) <= promise


def test_soft(dtype):
    student, teacher, _ = arguments("indices", dtype)
    found = kdloss.kd_loss_batch(
        student, teacher, None, alpha=0, tau=float(TOLD["tau"]), reduction="none"
    )
    assert loss_error(found, TOLD["soft"], dtype) <= PROMISE[dtype.name]


def test_the_reference(case):
    """The slow reference agrees with PyTorch to the rounding of float64."""
    student, teacher, labels = arguments(case, np.float64)
    rows = reference.kd_rows(student, teacher, labels, tau=TOLD["tau"], **options(case))
    promise = PROMISE["float64"]
    assert loss_error(rows.hard, told("hard", case), np.float64) <= promise
    assert loss_error(rows.soft[rows.counts], TOLD["soft"][rows.counts], np.float64) <= promise
