"""A row's result must not depend on the other rows of its tile, or on the blocks of its sums."""

import numpy as np
import pytest

import kdloss
import reference
from errors import gradient_error, loss_error
from tolerances import PROMISE

NAN, INF = np.nan, np.inf


def _company(rng, rows, classes, dtype):
    """Rows of every kind, shuffled, with NaN and infinities where a row does not use them."""
    student, teacher = (rng.normal(0, 3, (2, rows, classes))).astype(dtype)
    labels = rng.integers(0, classes, rows)
    kinds = rng.integers(0, 7, rows)
    labels[kinds == 0] = -1
    labels[kinds == 1] = -100
    student[kinds == 1] = rng.choice([NAN, INF, -INF, 1e30])
    teacher[kinds == 1] = NAN
    near = kinds == 2
    teacher[near] = student[near] + (1e-3 * rng.normal(size=(near.sum(), classes))).astype(dtype)
    teacher[kinds == 3, 0] = -100  # beyond the reach of powers
    student[kinds == 4, -1] = -INF
    labels[kinds == 4] = 0
    teacher[kinds == 5] = student[kinds == 5]
    return student, teacher, labels


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("classes", [2, 10, 33, 144, 256, 257, 300])
def test_a_row_alone_and_in_company(classes, alpha, dtype):
    rng = np.random.default_rng(classes)
    student, teacher, labels = _company(rng, 75, classes, dtype)
    if alpha == 1:  # labelled rows do not use their teacher
        teacher[rng.random(75) < 0.3] = NAN
        labels[labels == -1] = 0
    options = {"alpha": alpha, "tau": 4.0, "reduction": "none"}
    together = kdloss.kd_loss_and_grad(student, teacher, labels, **options)
    loss_only = kdloss.kd_loss_batch(student, teacher, labels, **options)
    for i in range(len(labels)):
        row = slice(i, i + 1)
        alone = kdloss.kd_loss_and_grad(student[row], teacher[row], labels[row], **options)
        assert np.array_equal(alone.loss, together.loss[row], equal_nan=True), i
        assert np.array_equal(alone.loss, loss_only[row], equal_nan=True), i
        assert np.array_equal(alone.grad_logits, together.grad_logits[row], equal_nan=True), i


# How a block of columns can differ from the rest of its row, as (student, teacher) to add.
BLOCKS = {
    "shifted alike": lambda rng, n: (rng.normal() * 30,) * 2,
    "far below": lambda rng, n: (-200 * rng.integers(0, 2),) * 2,
    "outlier of the student": lambda rng, n: (np.where(rng.permutation(n) == 0, 8, 0), 0),
    "outlier of the teacher": lambda rng, n: (0, np.where(rng.permutation(n) == 0, 8, 0)),
    "student elsewhere": lambda rng, n: (rng.normal() * 10, rng.normal() * 10),
    "plain": lambda rng, n: (0, 0),
}


def _blocks(kind, rows, classes, distance, dtype):
    rng = np.random.default_rng(classes)
    teacher = rng.normal(0, 2, (rows, classes))
    student = teacher + distance * rng.normal(size=(rows, classes))
    for row in range(rows):
        for begin in range(0, classes, 1024):
            block = slice(begin, begin + 1024)
            s, t = BLOCKS[kind](rng, teacher[row, block].size)
            student[row, block] += s
            teacher[row, block] += t
    labels = np.array([0, classes - 1, *rng.integers(0, classes, rows - 2)])
    return student.astype(dtype), teacher.astype(dtype), labels


@pytest.mark.parametrize(
    ("dtype", "distance"),
    # For closer students the reference is not exact enough for float64.
    [(np.float32, d) for d in (3.0, 0.3, 1e-3, 1e-6)] + [(np.float64, d) for d in (3.0, 0.3)],
)
@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("classes", [2048, 2049, 3071, 5000, 20_000])
def test_blocks_that_disagree(classes, kind, dtype, distance):
    dtype = np.dtype(dtype)
    student, teacher, labels = _blocks(kind, 6, classes, distance, dtype)
    promise = PROMISE[dtype.name]
    for tau in (1.0, 2.5, 4.0):
        exact = reference.kd_rows(student, teacher, labels, alpha=0.5, tau=tau)
        rows = {"tau": tau, "reduction": "none"}
        for alpha, part in ((1.0, exact.hard), (0.0, exact.soft)):
            found = kdloss.kd_loss_batch(student, teacher, labels, alpha=alpha, **rows)
            assert loss_error(found, part, dtype) <= promise
        found = kdloss.kd_loss_and_grad(student, teacher, labels, alpha=0.5, **rows)
        assert loss_error(found.loss, exact.loss, dtype) <= promise
        assert gradient_error(found.grad_logits, exact.grad, dtype, exact.scale) <= promise


@pytest.mark.parametrize("distance", [1e-3, 1e-6])
@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks_that_disagree_a_little(kind, distance, dtype):
    student, teacher, labels = _blocks(kind, 2, 2049, distance, dtype)
    found = kdloss.kd_loss_and_grad(student, teacher, None, alpha=0, tau=2.5, reduction="none")
    for i in range(2):
        exact = reference.exact_row(student[i], teacher[i], labels[i], 2.5)
        assert loss_error(found.loss[i], exact.soft, dtype) <= PROMISE[dtype.name]
        grad = gradient_error(found.grad_logits[i : i + 1], exact.grad_soft[None], dtype)
        assert grad <= PROMISE[dtype.name]
