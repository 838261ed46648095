"""float16 and bfloat16: read in place without rounding; results are rounded once."""

import ml_dtypes
import numpy as np
import pytest

import kdloss
import reference
from errors import gradient_error, loss_error
from option_batches import ALL_INDICES, ALL_SOFT, batch, name_of, without
from tolerances import PROMISE

HALVES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
KINDS = pytest.mark.parametrize("names", [(), ALL_INDICES, ALL_SOFT], ids=name_of)
ROWS = 19


@pytest.fixture(params=list(HALVES.values()), ids=list(HALVES))
def half(request):
    """float16 or bfloat16."""
    return request.param


def rounded(values, dtype):
    """Single-precision results converted to another type; too large values become infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(dtype)


def same(found, expected):
    """Whether results have the same bits, or are both NaN."""
    return all(
        np.asarray(a).dtype == np.asarray(b).dtype
        and np.array_equal(np.asarray(a, np.float64), np.asarray(b, np.float64), equal_nan=True)
        for a, b in zip(found, expected, strict=True)
    )


def every_value(dtype):
    """All 16-bit numbers, 64 per row: normal, subnormal, infinite and NaN."""
    return np.arange(2**16, dtype=np.uint16).view(dtype).reshape(-1, 64)


# ---- Teachers and soft labels --------------------------------------------------------------------


@KINDS
def test_teachers(names, half, layout, dtype):
    """The result has the bits of that with the teacher converted to the student's type."""
    (student, teacher, labels), options = batch(names, 200, dtype, rows=ROWS)
    teacher = teacher.astype(half)
    found = kdloss.kd_loss_grad_hess(student, layout(teacher), labels, **options)
    expected = kdloss.kd_loss_grad_hess(student, teacher.astype(dtype), labels, **options)
    assert same(found, expected)
    parts = kdloss.kd_loss_parts(student, layout(teacher), labels, **options)
    assert same(parts, kdloss.kd_loss_parts(student, teacher.astype(dtype), labels, **options))


@pytest.mark.parametrize("teacher_type", ["float32", "float64"])
def test_teachers_of_the_other_float_type(teacher_type, classes, dtype):
    (student, teacher, labels), options = batch((), classes, dtype, rows=ROWS)
    teacher = teacher.astype(np.float64) + 2.0**-40
    teacher = teacher.astype(teacher_type)
    found = kdloss.kd_loss_and_grad(student, teacher, labels, **options)
    expected = kdloss.kd_loss_and_grad(student, teacher.astype(dtype), labels, **options)
    assert same(found, expected)


def test_a_teacher_of_every_value(half, dtype):
    teacher = every_value(half)
    student = np.zeros(teacher.shape, dtype)
    options = {"alpha": 0, "tau": 2.0, "reduction": "none"}
    found = kdloss.kd_loss_and_grad(student, teacher, None, **options)
    with np.errstate(invalid="ignore"):  # converting a signalling NaN warns
        teacher = teacher.astype(dtype)
    expected = kdloss.kd_loss_and_grad(student, teacher, None, **options)
    assert same(found, expected)
    assert np.isfinite(found.grad_logits).any()
    assert np.isnan(found.grad_logits).any()


def test_soft_labels(half, layout, dtype):
    (student, teacher, labels), options = batch(ALL_SOFT, 3, dtype, rows=ROWS)
    labels = labels.astype(half)
    labels[labels.sum(axis=1) > 0] = np.array([0.25, 0.625, 0.125], half)  # sums to 1 in any type
    found = kdloss.kd_loss_grad_hess(student, teacher, layout(labels), **options)
    expected = kdloss.kd_loss_grad_hess(student, teacher, labels.astype(dtype), **options)
    assert same(found, expected)


def test_bad_soft_labels_are_named_as_they_are(half):
    logits = np.zeros((8, 3), np.float32)
    labels = np.full((8, 3), 0.25, half)
    labels[:, 2] = 0.5
    labels[3, 2] = 0.25
    with pytest.raises(ValueError, match=r"^labels\[3\] sums to 0\.75, expected probabilities"):
        kdloss.kd_loss_batch(logits, logits, labels)
    labels[3, 2] = -0.125
    with pytest.raises(ValueError, match=r"^labels\[3, 2\] is -0\.125, expected a probability"):
        kdloss.kd_loss_batch(logits, logits, labels)


# ---- Students ------------------------------------------------------------------------------------


@pytest.mark.parametrize("teacher_type", ["float32", "float64", "half"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@KINDS
def test_students(names, reduction, teacher_type, half, classes):
    """The bits of a float32 student, with gradients and Hessians rounded at the end."""
    (student, teacher, labels), options = batch(names, classes, np.float32, rows=ROWS)
    if reduction != "mean":
        options = without(options, "normalizer")
    options["reduction"] = reduction
    student = student.astype(half)
    teacher = teacher.astype(half if teacher_type == "half" else teacher_type)
    found = kdloss.kd_loss_grad_hess(student, teacher, labels, **options)
    loss, *exact = kdloss.kd_loss_grad_hess(student.astype(np.float32), teacher, labels, **options)
    expected = loss, *(rounded(x, half) for x in exact)
    assert same(found, expected)
    if reduction == "none":
        assert found.loss.dtype == np.float32
    given = kdloss.kd_loss_and_grad(student, teacher, labels, **options)
    single = kdloss.kd_loss_and_grad(student.astype(np.float32), teacher, labels, **options)
    assert same(given, (single.loss, rounded(single.grad_logits, half)))
    for function in (kdloss.kd_loss_batch, kdloss.kd_loss_parts):
        ours = function(student, teacher, labels, **options)
        theirs = function(student.astype(np.float32), teacher, labels, **options)
        assert same(np.atleast_1d(ours), np.atleast_1d(theirs))


@pytest.mark.parametrize("names", [ALL_INDICES, ALL_SOFT], ids=name_of)
def test_students_against_the_reference(names, half, classes):
    """Losses are as accurate as in float32; gradients are rounded to half a unit."""
    (student, teacher, labels), options = batch(names, classes, np.float32, rows=ROWS)
    options = without(options, "normalizer")
    student, teacher = (x.astype(half) for x in (student, teacher))
    exact = reference.kd_rows(
        *(x.astype(np.float32) for x in (student, teacher)), labels, **options
    )
    found = kdloss.kd_loss_and_grad(student, teacher, labels, **options, reduction="none")
    assert loss_error(found.loss, exact.loss, np.float32) <= PROMISE["float32"]
    grad = found.grad_logits.astype(np.float32)
    limits = ml_dtypes.finfo(half)
    unit = np.maximum(np.abs(exact.grad), float(limits.smallest_normal)) * float(limits.eps)
    kept = np.abs(grad - exact.grad) - unit / 2  # the error beyond the last rounding
    error = gradient_error(np.maximum(kept, 0), np.zeros_like(kept), np.float32, exact.scale)
    assert error <= PROMISE["float32"]


def test_a_student_of_every_value(half):
    student = every_value(half)
    teacher = np.zeros(student.shape, np.float32)
    labels = np.arange(len(student)) % student.shape[1]
    options = {"alpha": 0.3, "tau": 2.0, "reduction": "none"}
    found = kdloss.kd_loss_and_grad(student, teacher, labels, **options)
    single = kdloss.kd_loss_and_grad(student.astype(np.float32), teacher, labels, **options)
    assert same(found, (single.loss, rounded(single.grad_logits, half)))
    assert np.isfinite(found.loss).any()
    assert np.isnan(found.loss).any()


@pytest.mark.parametrize("scale", [1e-40, 1e-9, 1e-7, 1e-6, 1e-5, 1e5, 1e30, 1e38])
def test_gradients_beyond_the_range_of_halves(scale, half):
    """They are rounded to the nearest subnormal number, 0 or infinity."""
    (student, teacher, labels), options = batch((), 10, np.float32, rows=ROWS)
    options |= {"sample_weight": np.full(ROWS, scale), "reduction": "none"}
    student = student.astype(half)
    found = kdloss.kd_loss_and_grad(student, teacher, labels, **options)
    single = kdloss.kd_loss_and_grad(student.astype(np.float32), teacher, labels, **options)
    assert same(found, (single.loss, rounded(single.grad_logits, half)))


def test_student_layouts(half, layout):
    arguments, options = batch(ALL_SOFT, 200, np.float32, rows=ROWS)
    (student, teacher), labels = (x.astype(half) for x in arguments[:2]), arguments[2]
    expected = kdloss.kd_loss_grad_hess(student, teacher, labels, **options)
    found = kdloss.kd_loss_grad_hess(layout(student), layout(teacher), labels, **options)
    assert same(found, expected)
    out = layout(np.zeros_like(student)), layout(np.zeros_like(student))
    found = kdloss.kd_loss_grad_hess(layout(student), teacher, labels, **options, out=out)
    assert found.grad_logits is out[0]
    assert found.hess_logits is out[1]
    assert same(found, expected)


def test_the_gradient_may_take_the_students_place(half, classes):
    (student, teacher, labels), options = batch((), classes, np.float32, rows=ROWS)
    student = student.astype(half)
    expected = kdloss.kd_loss_and_grad(student, teacher, labels, **options)
    found = kdloss.kd_loss_and_grad(student, teacher, labels, **options, out=student)
    assert found.grad_logits is student
    assert same(found, expected)


def test_out_is_of_the_students_type(half):
    student = np.zeros((8, 3), half)
    other = next(x for x in HALVES.values() if x != half)
    for kind in (np.dtype(np.float32), other):
        out = np.full((8, 3), 7, kind)
        with pytest.raises(ValueError, match=rf"^out has dtype {kind}, expected {half}, "):
            kdloss.kd_loss_and_grad(student, student, np.zeros(8, int), out=out)
        assert np.all(out.astype(float) == 7)


@pytest.mark.parametrize("shape", [(4001, 10), (301, 1000), (3, 70_001)], ids=str)
def test_the_number_of_threads(shape, half):
    rows, classes = shape
    (student, teacher, labels), options = batch(ALL_INDICES, classes, np.float32, rows=rows)
    arguments = student.astype(half), teacher.astype(half), labels
    found = [
        kdloss.kd_loss_grad_hess(*arguments, **options, num_threads=threads)
        for threads in (1, 2, 3, 7)
    ]
    assert all(same(x, found[0]) for x in found)


# ---- Arrays that are converted -------------------------------------------------------------------


def test_halves_that_cannot_be_read_in_place(classes, dtype):
    """Another byte order, or an unaligned address."""
    (student, teacher, labels), options = batch((), classes, dtype, rows=ROWS)
    teacher = teacher.astype(np.float16)
    expected = kdloss.kd_loss_and_grad(student, teacher, labels, **options)
    swapped = teacher.astype(np.dtype("f2").newbyteorder())
    between = np.frombuffer(b"\0" + teacher.tobytes(), np.uint8)[1:].view(np.float16)
    for other in (swapped, between.reshape(teacher.shape), teacher.tolist()):
        found = kdloss.kd_loss_and_grad(student, other, labels, **options)
        assert same(found, expected)


def test_cross_entropy_hard(half, classes):
    (logits, _, labels), _ = batch((), classes, np.float32, rows=ROWS)
    logits = logits.astype(half)
    for reduction in ("none", "mean"):
        found = kdloss.cross_entropy_hard(logits, labels, reduction=reduction)
        single = kdloss.cross_entropy_hard(logits.astype(np.float32), labels, reduction=reduction)
        assert same(np.atleast_1d(found), np.atleast_1d(single))


@pytest.mark.parametrize("shape", [(4,), (2, 4), (3, 2, 4)], ids=str)
@pytest.mark.parametrize("function", [kdloss.softmax_temp, kdloss.log_softmax_temp])
def test_softmax_of_halves_is_written_to_floats(half, shape, function):
    logits = np.arange(np.prod(shape)).reshape(shape).astype(half)
    out = np.empty(shape, np.float32)
    assert function(logits, out=out) is out
    np.testing.assert_array_equal(out, function(logits.astype(np.float32)))
