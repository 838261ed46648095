"""Shapes against the slow reference: classes and rows around all limits of the kernels."""

import numpy as np
import pytest

import kdloss
import reference
from errors import gradient_error, loss_error
from tolerances import PROMISE

# Around the vector widths (8 and 16), the limit between the layouts, and the ends of blocks.
CLASSES = [*range(1, 41), *range(127, 201), 255, 256, 257, *range(1016, 1033), *range(2040, 2057)]
CHUNKS = [8191, 8192, 8193, 16383, 16384, 16385, 24575, 33000, 65537]
ALPHA, TAU = 0.3, 3.0


def batch(rows, classes, dtype):
    """Logits whose long-double reference keeps its digits, and labels of every kind."""
    rng = np.random.default_rng([rows, classes])
    student, teacher = (3 * rng.standard_normal((rows, classes)).astype(dtype) for _ in range(2))
    labels = rng.integers(0, classes, rows)
    labels[3::7] = -1
    labels[5::11] = -100
    return student, teacher, labels


def assert_right(student, teacher, labels):
    dtype, promise = student.dtype, PROMISE[student.dtype.name]
    options = {"alpha": ALPHA, "tau": TAU}
    exact = reference.kd_rows(student, teacher, labels, **options)
    found = kdloss.kd_loss_and_grad(student, teacher, labels, reduction="none", **options)
    assert loss_error(found.loss, exact.loss, dtype) <= promise
    assert gradient_error(found.grad_logits, exact.grad, dtype, exact.scale) <= promise

    parts = kdloss.kd_loss_parts(student, teacher, labels, reduction="none", **options)
    for values, expected in zip(parts, (exact.loss, exact.hard, exact.soft), strict=True):
        assert loss_error(values, expected, dtype) <= promise

    mean = kdloss.kd_loss_and_grad(student, teacher, labels, **options)
    counting = max(1, int(exact.counts.sum()))
    assert loss_error(mean.loss, exact.loss.sum() / counting, dtype) <= promise
    assert gradient_error(mean.grad_logits * counting, exact.grad, dtype, exact.scale) <= promise
    return found


@pytest.mark.parametrize("classes", CLASSES)
def test_classes(classes, dtype):
    assert_right(*batch(19 if classes > 40 else 35, classes, dtype))


@pytest.mark.parametrize("classes", CHUNKS)
def test_many_classes(classes, dtype):
    assert_right(*batch(2, classes, dtype))


@pytest.mark.parametrize("classes", [1, 3, 16, 17, 144, 256, 257, 160])
def test_rows(classes, dtype):
    """Any number of rows gives the same bits as the first rows of a batch that was compared."""
    student, teacher, labels = batch(35, classes, dtype)
    loss, grad = assert_right(student, teacher, labels)
    options = {"alpha": ALPHA, "tau": TAU, "reduction": "none"}
    for rows in range(36):
        some = kdloss.kd_loss_and_grad(student[:rows], teacher[:rows], labels[:rows], **options)
        assert some.loss.shape == (rows,)
        assert some.grad_logits.shape == (rows, classes)
        assert some.loss.tobytes() == loss[:rows].tobytes()
        assert some.grad_logits.tobytes() == grad[:rows].tobytes()


def test_a_million_classes(dtype):
    assert_right(*batch(1, 1_000_000, dtype))


@pytest.mark.parametrize(
    "classes", [1, 2, 7, 8, 9, 15, 16, 17, 33, 144, 200, 256, 257, 1025, 2049, 9000]
)
def test_softmax_functions(classes, dtype):
    logits = batch(18, classes, dtype)[0] * 4
    promise = PROMISE[dtype.name]
    for tau in (1.0, 0.3, 5.0):
        scaled = [np.asarray(row, np.longdouble) / np.longdouble(tau) for row in logits]
        exact_logs = np.array([reference.log_softmax(row) for row in scaled])
        exact_sums = np.array([reference.log_sum_exp(row) for row in scaled])
        p, log_p = kdloss.softmax_temp(logits, tau), kdloss.log_softmax_temp(logits, tau)
        assert p.dtype == log_p.dtype == dtype
        assert loss_error(p, np.exp(exact_logs), dtype) <= promise
        assert loss_error(log_p, exact_logs, dtype) <= promise
        sums = kdloss.log_sum_exp(logits, tau)
        assert sums.dtype == dtype
        # The rounding of the logits changes the sum by as much.
        unit = np.abs(scaled).max(axis=1) + 1
        assert np.all(np.abs(sums - exact_sums) <= promise * unit)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
@pytest.mark.parametrize("function", [kdloss.softmax_temp, kdloss.log_softmax_temp])
def test_softmax_along_any_axis(function, axis, dtype):
    logits = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(dtype)
    rows = np.moveaxis(logits, axis, -1)
    expected = np.moveaxis(
        function(np.ascontiguousarray(rows).reshape(-1, rows.shape[-1]), 2.0).reshape(rows.shape),
        -1,
        axis,
    )
    found = function(logits, 2.0, axis=axis)
    assert found.shape == logits.shape
    assert np.array_equal(found, expected)
    out = np.empty_like(logits)
    assert function(logits, 2.0, axis=axis, out=out) is out
    assert np.array_equal(out, expected)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_log_sum_exp_along_any_axis(axis, dtype):
    logits = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(dtype)
    found = kdloss.log_sum_exp(logits, 2.0, axis=axis)
    rows = np.ascontiguousarray(np.moveaxis(logits, axis, -1))
    expected = kdloss.log_sum_exp(rows.reshape(-1, rows.shape[-1]), 2.0).reshape(rows.shape[:-1])
    assert np.array_equal(found, expected)


def test_softmax_functions_of_one_row_and_of_no_rows(dtype):
    row = np.array([1.0, 2.0, -1.0], dtype)
    assert kdloss.softmax_temp(row).shape == (3,)
    assert np.ndim(kdloss.log_sum_exp(row)) == 0
    nothing = np.empty((2, 0, 3), dtype)
    assert kdloss.softmax_temp(nothing).shape == (2, 0, 3)
    assert kdloss.log_sum_exp(nothing).shape == (2, 0)


@pytest.mark.parametrize("classes", [1, 2, 17, 300])
def test_divergence(classes, dtype):
    student, teacher, _ = batch(9, classes, dtype)
    q, p = (kdloss.softmax_temp(x) for x in (teacher, student))
    exact = [
        reference.kl_divergence(*(np.log(np.asarray(x[i], np.longdouble)) for x in (q, p)))
        for i in range(len(q))
    ]
    kl = kdloss.kl_divergence(q, p, reduction="none")
    assert kl.dtype == dtype
    assert loss_error(kl, exact, dtype) <= PROMISE[dtype.name]
    assert kdloss.kl_divergence(q, p) == pytest.approx(np.mean(exact), rel=PROMISE["float32"])
    assert kdloss.kl_divergence(q[0], p[0]) == kdloss.kl_divergence(q[:1], p[:1], reduction="sum")
