"""The options of the losses against the slow reference: each alone, every two, all together."""

import numpy as np
import pytest

import golden
import kdloss
import reference
from errors import gradient_error, loss_error
from option_batches import (
    ALL_INDICES,
    ALL_SOFT,
    CLASSES,
    COMBINATIONS,
    ROWS,
    batch,
    name_of,
    without,
)
from tolerances import PROMISE

INF, NAN = np.inf, np.nan
REDUCTIONS = ("none", "mean", "sum")


def assert_as_reference(arguments, options):
    """Losses, parts, gradients and Hessians agree with the slow reference for each reduction."""
    dtype, promise = arguments[0].dtype, PROMISE[arguments[0].dtype.name]
    normalizer = options.get("normalizer")
    options = without(options, "normalizer")
    rows = reference.kd_rows(*arguments, **options)
    for reduction in REDUCTIONS:
        given = options | {"reduction": reduction}
        if reduction == "mean":
            given["normalizer"] = normalizer
        exact = reference.reduced(rows, reduction, normalizer)
        found = kdloss.kd_loss_and_grad(*arguments, **given)
        assert loss_error(found.loss, exact.loss, dtype) <= promise
        assert gradient_error(found.grad_logits, exact.grad, dtype, exact.scale) <= promise
        assert loss_error(kdloss.kd_loss_batch(*arguments, **given), exact.loss, dtype) <= promise
        found = kdloss.kd_loss_grad_hess(*arguments, **given)
        assert loss_error(found.loss, exact.loss, dtype) <= promise
        assert gradient_error(found.grad_logits, exact.grad, dtype, exact.scale) <= promise
        assert loss_error(found.hess_logits, exact.hess, dtype) <= promise
        parts = kdloss.kd_loss_parts(*arguments, **given)
        for values, expected in zip(parts, (exact.loss, exact.hard, exact.soft), strict=True):
            assert loss_error(values, expected, dtype) <= promise


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("names", COMBINATIONS, ids=name_of)
def test_combinations(names, classes, dtype):
    assert_as_reference(*batch(names, classes, dtype))


@pytest.mark.parametrize("names", [ALL_INDICES, ALL_SOFT], ids=name_of)
@pytest.mark.parametrize("classes", [2, 7, 8, 9, 15, 16, 17, 33, 144, 256, 257, 1025])
def test_classes(names, classes, dtype):
    assert_as_reference(*batch(names, classes, dtype, rows=19))


@pytest.mark.parametrize("smoothing", [0.0, 0.3, 1.0])
def test_one_class(smoothing, dtype):
    """If no row counts, every loss is 0."""
    (student, teacher, _), options = batch(("sample-weight", "taus"), 1, dtype)
    labels = np.zeros(len(student), np.int64)
    for y in (labels, np.ones((len(student), 1), dtype)):
        given = options | {"label_smoothing": smoothing, "class_weight": [2.0]}
        assert_as_reference([student, teacher, y], given)
        assert kdloss.kd_loss_batch(student, teacher, y, **given) == 0


@pytest.mark.parametrize("smoothing", [1e-6, 0.5, 1.0])
@pytest.mark.parametrize("names", [("class-weight",), ("soft-labels",)], ids=name_of)
def test_any_smoothing(names, smoothing, classes, dtype):
    arguments, options = batch(names, classes, dtype, rows=7)
    assert_as_reference(arguments, options | {"label_smoothing": smoothing})


@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("names", [ALL_INDICES, ALL_SOFT], ids=name_of)
def test_one_part(names, alpha, classes, dtype):
    arguments, options = batch(names, classes, dtype, rows=19)
    assert_as_reference(arguments, options | {"alpha": alpha})


def test_a_target_that_the_student_has_reached(classes, dtype):
    """W p1 - g vanishes: its error is relative to W p1 and g."""
    (student, teacher, _), options = batch((), classes, dtype, rows=7)
    reached = np.stack([reference.softmax(row) for row in student]).astype(dtype)
    assert_as_reference([student, teacher, reached], options | {"alpha": 1.0})


@pytest.mark.parametrize(
    "names", [(), ("class-weight",), ("sample-weight", "smoothing")], ids=name_of
)
def test_confident_students(names, dtype):
    """Gaps of up to 60 between the largest logit and the others, right or wrong."""
    (student, teacher, labels), options = batch(names, 10, dtype)
    student *= 10
    labels[::2] = student[::2].argmax(axis=1)
    one_hot = np.eye(10, dtype=dtype)[labels]
    for y in (labels, one_hot):
        assert_as_reference([student, None, y], options | {"alpha": 1.0})
        assert_as_reference([student, teacher, y], options)


# ---- The hard loss alone -------------------------------------------------------------------------


HARD = [
    names
    for names in COMBINATIONS
    if not {"alphas", "taus"} & set(names) and names not in (ALL_SOFT, ALL_INDICES)
]


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("names", HARD, ids=name_of)
def test_cross_entropy_hard(names, classes, dtype):
    (logits, _, labels), options = batch(names, classes, dtype)
    if labels.ndim == 1:
        labels[labels == -1] = 2
    else:
        labels[~labels.any(axis=1), 1] = 1
    normalizer = options.get("normalizer")
    options = without(options, "alpha", "tau", "normalizer")
    rows = reference.kd_rows(logits, None, labels, alpha=1.0, **options)
    for reduction in REDUCTIONS:
        given = options | {"reduction": reduction}
        if reduction == "mean":
            given["normalizer"] = normalizer
        exact = reference.reduced(rows, reduction, normalizer).loss
        found = kdloss.cross_entropy_hard(logits, labels, **given)
        assert loss_error(found, exact, logits.dtype) <= PROMISE[dtype.name]


# ---- Special values ------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [ALL_INDICES, ALL_SOFT], ids=name_of)
@pytest.mark.parametrize("value", [NAN, INF], ids=str)
@pytest.mark.parametrize("which", [0, 1], ids=["student", "teacher"])
def test_nan_makes_its_row_nan_and_no_other(names, which, value, classes, dtype):
    arguments, options = batch(names, classes, dtype, rows=9)
    options = without(options, "normalizer") | {"alpha": 0.3, "reduction": "none"}
    expected = kdloss.kd_loss_and_grad(*arguments, **options)
    arguments[which][1, 2] = value
    found = kdloss.kd_loss_and_grad(*arguments, **options)
    for values, ordinary in zip(found, expected, strict=True):
        assert np.all(np.isnan(values[1]))
        assert np.delete(values, 1, axis=0).tobytes() == np.delete(ordinary, 1, axis=0).tobytes()


def masked_by_the_student(classes, dtype):
    """One class masked in every other row; the teacher masks it too."""
    (student, teacher, labels), options = batch((), classes, dtype, rows=8)
    labels[:] = 1
    student[::2, 2] = teacher[::2, 2] = -INF
    return student, teacher, labels, options | {"reduction": "none"}


def all_but(c, classes):
    """Class weights of which one is 0."""
    return (np.arange(classes) != c).astype(float)


@pytest.mark.parametrize("soft", [False, True], ids=["label", "soft-label"])
def test_smoothing_wants_what_the_student_masks(soft, classes, dtype):
    *arguments, options = masked_by_the_student(classes, dtype)
    options["label_smoothing"] = 0.1
    if soft:
        arguments[2] = np.eye(classes, dtype=dtype)[arguments[2]]
    assert_as_reference(arguments, without(options, "reduction"))
    found = kdloss.kd_loss_and_grad(*arguments, **options)
    assert np.all(found.loss[::2] == INF)
    assert np.isfinite(found.loss[1::2]).all()
    assert np.isfinite(found.grad_logits).all()


@pytest.mark.parametrize("how", ["class weight 0", "soft label 0"])
def test_a_masked_class_that_is_not_wanted(how, classes, dtype):
    *arguments, options = masked_by_the_student(classes, dtype)
    if how == "class weight 0":
        options |= {"label_smoothing": 0.1, "class_weight": all_but(2, classes)}
    else:
        arguments[2] = np.zeros((8, classes), dtype)
        arguments[2][:, [0, 1]] = 0.25, 0.75
    assert_as_reference(arguments, without(options, "reduction"))
    assert np.isfinite(kdloss.kd_loss_batch(*arguments, **options)).all()


def test_a_soft_label_on_a_masked_class(classes, dtype):
    *arguments, options = masked_by_the_student(classes, dtype)
    arguments[2] = np.zeros((8, classes), dtype)
    arguments[2][:, [1, 2]] = 0.25, 0.75
    assert_as_reference(arguments, without(options, "reduction"))
    assert np.all(kdloss.kd_loss_batch(*arguments, **options)[::2] == INF)


def test_a_masked_label_of_class_weight_0(classes, dtype):
    """A part of weight 0 adds 0, even if it is infinite."""
    *arguments, options = masked_by_the_student(classes, dtype)
    arguments[2][:] = 2
    options["class_weight"] = all_but(2, classes)
    assert_as_reference(arguments, without(options, "reduction"))
    found = kdloss.kd_loss_and_grad(*arguments, **(options | {"alpha": 1.0}))
    assert not found.loss.any()
    assert not found.grad_logits.any()


def test_weights_that_are_all_0(classes, dtype):
    """Like a batch of padding: loss 0, with a zero gradient and Hessian."""
    arguments, options = batch((), classes, dtype, rows=7)
    for reduction in REDUCTIONS:
        for result in kdloss.kd_loss_grad_hess(
            *arguments, **options, reduction=reduction, sample_weight=np.zeros(7)
        ):
            assert not np.any(result)


# ---- The golden hard cases -----------------------------------------------------------------------

HARD_CASES = [case for case in golden.CASES if case.grad_hard is not None]
ALIKE = {}
for case in HARD_CASES:
    if case.student.shape[1] < 5000:
        ALIKE.setdefault((case.student.dtype.name, case.student.shape[1]), []).append(case)


def golden_errors(arguments, exact, **options):
    """Errors of loss and gradient, given (hard, soft, grad_hard, grad_soft) of each row."""
    rows, dtype = len(arguments[0]), arguments[0].dtype
    alpha, weight = (np.broadcast_to(options.get(x, 1), rows) for x in ("alpha", "sample_weight"))
    a, b = weight * alpha, weight * (1 - alpha)
    hard, soft, grad_hard, grad_soft = exact
    largest = [w * np.abs(grad).max(axis=1) for w, grad in ((a, grad_hard), (b, grad_soft))]
    grad = a[:, None] * grad_hard + b[:, None] * grad_soft
    found = kdloss.kd_loss_and_grad(*arguments, **options, reduction="none")
    return (
        loss_error(found.loss, a * hard + b * soft, dtype),
        gradient_error(found.grad_logits, grad, dtype, np.maximum(*largest)),
    )


@pytest.mark.parametrize("cases", ALIKE.values(), ids=["-".join(map(str, key)) for key in ALIKE])
def test_golden_rows_with_their_own_alpha_tau_and_weight(cases):
    """The rows of all cases with the same number of classes, in one batch."""
    names = ("student", "teacher", "labels", "hard", "soft", "grad_hard", "grad_soft")
    student, teacher, labels, *exact = (
        np.concatenate([getattr(case, name) for case in cases]) for name in names
    )
    rng = np.random.default_rng(len(labels))
    options = {
        "tau": np.concatenate([np.full(len(case.labels), case.tau) for case in cases]),
        "alpha": rng.choice([0, 0.1, 0.5, 1], len(labels)),
        "sample_weight": 10 ** rng.uniform(-2, 2, len(labels)),
    }
    one_hot = np.eye(student.shape[1], dtype=student.dtype)[labels]
    for y in (labels, one_hot):
        errors = golden_errors([student, teacher, y], exact, **options)
        assert max(errors) <= PROMISE[student.dtype.name]


def test_rows_of_the_batches():
    """A batch has rows of every kind that its options allow."""
    for classes in CLASSES:
        (_, _, labels), options = batch(ALL_INDICES, classes, np.float32)
        assert {-1, -100} <= set(labels)
        assert (labels >= 0).sum() * 2 > ROWS[classes]
        assert not options["sample_weight"].all()
