"""The diagonal of the Hessian: golden numbers, near probabilities of 0 and 1, its bound, out=."""

import numpy as np
import pytest

import golden
import kdloss
import reference
from errors import gradient_error, loss_error
from option_batches import ALL_INDICES, ALL_SOFT, CLASSES, COMBINATIONS, batch, name_of, without
from tolerances import EXACT, FINITE_DIFFERENCE, PROMISE

INF, NAN = np.inf, np.nan
STEP = np.longdouble(1e-4)
KINDS = pytest.mark.parametrize("names", [ALL_INDICES, ALL_SOFT], ids=name_of)

GENTLE = [case for case in golden.CASES if case.grad is not None]
with np.load(golden.DATA / "kd_cases.npz") as entries:
    EXACT_HESSIANS = [entries[f"hess_{i}"] for i in range(len(GENTLE))]


# ---- The reference itself ------------------------------------------------------------------------


@pytest.mark.parametrize("names", COMBINATIONS, ids=name_of)
def test_reference_by_finite_differences(names):
    """Its gradient is the derivative of its loss, its Hessian that of its gradient."""
    (student, teacher, labels), options = batch(names, 3, np.longdouble, rows=9)
    options = without(options, "normalizer")
    rows = reference.kd_rows(student, teacher, labels, **options)
    for c in range(3):
        ahead, behind = (
            reference.kd_rows(student + sign * STEP * np.eye(3)[c], teacher, labels, **options)
            for sign in (1, -1)
        )
        slope = (ahead.loss - behind.loss) / (2 * STEP)
        curvature = (ahead.grad[:, c] - behind.grad[:, c]) / (2 * STEP)
        size = np.maximum(rows.scale, np.abs(rows.hess).max(axis=1))
        assert np.all(np.abs(slope - rows.grad[:, c]) <= FINITE_DIFFERENCE * size)
        assert np.all(np.abs(curvature - rows.hess[:, c]) <= FINITE_DIFFERENCE * size)


@pytest.mark.parametrize("i", range(len(GENTLE)), ids=[case.name for case in GENTLE])
def test_golden_cases(i):
    case, exact = GENTLE[i], EXACT_HESSIANS[i]
    options = {"alpha": float(case.alpha), "tau": float(case.tau)}
    rows = reference.kd_rows(case.student, case.teacher, case.labels, **options)
    # The golden numbers are 0 where p is 1 to all the digits with which they were computed.
    exact = np.where(exact == 0, rows.hess, exact)
    assert loss_error(rows.hess, exact, np.float64) <= EXACT
    for place in (np.ascontiguousarray, np.asfortranarray):
        found = kdloss.kd_loss_grad_hess(
            place(case.student), place(case.teacher), case.labels, **options, reduction="none"
        )
        promise = PROMISE[case.student.dtype.name]
        assert loss_error(found.hess_logits, exact, case.student.dtype) <= promise
        largest = np.abs(case.grad).max(axis=1)
        error = gradient_error(found.grad_logits, case.grad, case.student.dtype, largest)
        assert error <= promise


# ---- Probabilities near 0 and 1 ------------------------------------------------------------------


@pytest.mark.parametrize(
    "case",
    [case for case in golden.CASES if case.grad_hard is not None and case.student.size < 20_000],
    ids=lambda case: case.name,
)
def test_hard_cases(case):
    for alpha in (0.0, 0.3, 1.0):
        exact = alpha * np.stack([reference.hessian(s) for s in case.student])
        exact += (1 - alpha) * np.stack([reference.hessian(s, case.tau) for s in case.student])
        found = kdloss.kd_loss_grad_hess(
            case.student, case.teacher, case.labels, alpha=alpha, tau=case.tau, reduction="none"
        )
        promise = PROMISE[case.student.dtype.name]
        assert loss_error(found.hess_logits, exact, case.student.dtype) <= promise


@pytest.mark.parametrize("gap", [0.0, 1.0, 10.0, 30.0, 69.0, 80.0, 87.0, 95.0])
@pytest.mark.parametrize("at", [0, 2, -1], ids=["first", "inside", "last"])
def test_sure_students(gap, at, classes, dtype):
    """One class has nearly all probability, or two classes share it; the others have little."""
    rng = np.random.default_rng(classes)
    student = -gap * rng.uniform(0.9, 1, (8, classes)).astype(dtype)
    student[:, at] = 0
    student[3, 1] = 0
    student[4, 1] = -(2.0**-12)
    teacher = student[::-1].copy()
    labels = rng.integers(0, classes, 8)
    for alpha, tau in ((1.0, 1.0), (0.5, 1.0), (0.0, 1.0), (0.3, 1.25)):
        exact = reference.kd_rows(student, teacher, labels, alpha=alpha, tau=tau).hess
        found = kdloss.kd_loss_grad_hess(
            student, teacher, labels, alpha=alpha, tau=tau, reduction="none"
        )
        assert loss_error(found.hess_logits, exact, dtype) <= PROMISE[dtype.name]
        assert np.all(found.hess_logits >= 0)


def test_masks(classes, dtype):
    """A masked class has 0; with an infinite loss the Hessian is that of the student."""
    (student, teacher, labels), options = batch((), classes, dtype, rows=6)
    labels[:] = 1
    student[::2, 1] = -INF
    student[1::2, 2] = teacher[1::2, 2] = -INF
    exact = reference.kd_rows(student, teacher, labels, **options)
    found = kdloss.kd_loss_grad_hess(student, teacher, labels, **options, reduction="none")
    assert np.all(found.loss[::2] == INF)
    assert loss_error(found.hess_logits, exact.hess, dtype) <= PROMISE[dtype.name]
    assert np.all(found.hess_logits[np.isinf(student)] == 0)


def test_nan_makes_its_row_nan_and_no_other(classes, dtype):
    arguments, options = batch((), classes, dtype, rows=6)
    expected = kdloss.kd_loss_grad_hess(*arguments, **options, reduction="none").hess_logits
    arguments[0][2, 1] = NAN
    found = kdloss.kd_loss_grad_hess(*arguments, **options, reduction="none").hess_logits
    assert np.all(np.isnan(found[2]))
    assert np.delete(found, 2, axis=0).tobytes() == np.delete(expected, 2, axis=0).tobytes()


# ---- The bound -----------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", CLASSES)
@KINDS
def test_the_bound_is_twice_the_diagonal(names, classes, dtype):
    arguments, options = batch(names, classes, dtype)
    exact = kdloss.kd_loss_grad_hess(*arguments, **options)
    assert type(exact).__name__ == "KDGradHess"
    bound = kdloss.kd_loss_grad_hess(*arguments, **options, hess="bound")
    assert np.array_equal(bound.hess_logits, 2 * exact.hess_logits)
    assert bound.grad_logits.tobytes() == exact.grad_logits.tobytes()
    assert bound.loss == exact.loss
    named = kdloss.kd_loss_grad_hess(*arguments, **options, hess="exact")
    assert named.hess_logits.tobytes() == exact.hess_logits.tobytes()


# ---- out -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [(0,), (1,), (0, 1), ()], ids=str)
def test_out(given, classes, dtype):
    """out has either array, both, or none."""
    arguments, options = batch(("labels",), classes, dtype, rows=9)
    expected = kdloss.kd_loss_grad_hess(*arguments, **options)
    arrays = [np.full((9, classes), NAN, dtype) if i in given else None for i in range(2)]
    found = kdloss.kd_loss_grad_hess(*arguments, **options, out=tuple(arrays))
    for i in range(2):
        assert found[i + 1].tobytes() == expected[i + 1].tobytes()
        if i in given:
            assert found[i + 1] is arrays[i]


@KINDS
def test_the_gradient_may_take_the_students_place(names, classes, dtype):
    arguments, options = batch(names, classes, dtype, rows=9)
    expected = kdloss.kd_loss_grad_hess(*arguments, **options)
    student = arguments[0]
    found = kdloss.kd_loss_grad_hess(*arguments, **options, out=(student, None))
    assert found.grad_logits is student
    for values, same in zip(found, expected, strict=True):
        assert np.asarray(values).tobytes() == np.asarray(same).tobytes()


def test_no_rows(dtype):
    nothing = np.empty((0, 4), dtype)
    found = kdloss.kd_loss_grad_hess(nothing, nothing, np.empty(0, np.int64))
    assert found.loss == 0
    assert found.grad_logits.shape == found.hess_logits.shape == (0, 4)
    assert found.hess_logits.dtype == dtype
