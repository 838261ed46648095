"""Special values: NaN, masks of -inf, infinities, overflow, and parts of weight 0."""

import numpy as np
import pytest

import kdloss
import reference
from errors import gradient_error, loss_error
from tolerances import PROMISE

INF, NAN = np.inf, np.nan
OPTIONS = {"alpha": 0.3, "tau": 3.0, "reduction": "none"}
ROWS, SPECIAL = 21, 4  # rows of a batch, and the one that holds the special values


@pytest.fixture
def batch(classes, dtype):
    """(student, teacher, labels) of ordinary rows; label 1 in the special one."""
    rng = np.random.default_rng(classes)
    student, teacher = (2 * rng.standard_normal((ROWS, classes)).astype(dtype) for _ in range(2))
    labels = rng.integers(0, classes, ROWS)
    labels[SPECIAL] = 1
    return student, teacher, labels


def others(array):
    return np.delete(array, SPECIAL, axis=0)


def assert_others_untouched(batch, found, **options):
    """All rows except the special one have the same bits as without it."""
    alone = kdloss.kd_loss_and_grad(*map(others, batch), **(OPTIONS | options))
    assert others(found.loss).tobytes() == alone.loss.tobytes()
    assert others(found.grad_logits).tobytes() == alone.grad_logits.tobytes()


def assert_as_reference(batch, **options):
    """Losses, parts and gradients of all rows agree with the slow reference."""
    options = OPTIONS | options
    plain = {name: value for name, value in options.items() if name != "reduction"}
    dtype = batch[0].dtype
    promise = PROMISE[dtype.name]
    exact = reference.kd_rows(*batch, **plain)
    found = kdloss.kd_loss_and_grad(*batch, **options)
    assert loss_error(found.loss, exact.loss, dtype) <= promise
    assert gradient_error(found.grad_logits, exact.grad, dtype, exact.scale) <= promise
    parts = kdloss.kd_loss_parts(*batch, **options)
    for values, expected in zip(parts, (exact.loss, exact.hard, exact.soft), strict=True):
        assert loss_error(values, expected, dtype) <= promise
    return found


# ---- NaN -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 1, 3, -1], ids=["first", "label", "inside", "last"])
@pytest.mark.parametrize("which", [0, 1], ids=["student", "teacher"])
@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_nan_makes_its_row_nan_and_no_other(batch, which, place, alpha):
    batch[which][SPECIAL, place] = NAN
    found = kdloss.kd_loss_and_grad(*batch, **(OPTIONS | {"alpha": alpha}))
    assert np.isnan(found.loss[SPECIAL])
    assert np.all(np.isnan(found.grad_logits[SPECIAL]))
    assert_others_untouched(batch, found, alpha=alpha)
    for reduction in ("sum", "mean"):
        options = {"alpha": alpha, "tau": 3.0, "reduction": reduction}
        loss, grad = kdloss.kd_loss_and_grad(*batch, **options)
        assert np.isnan(loss)
        assert np.isfinite(others(grad)).all()


@pytest.mark.parametrize("place", [0, 1, -1])
def test_nan_in_the_student_at_alpha_1(batch, place):
    batch[0][SPECIAL, place] = NAN
    found = kdloss.kd_loss_and_grad(*batch, **(OPTIONS | {"alpha": 1.0}))
    assert np.isnan(found.loss[SPECIAL])
    assert np.all(np.isnan(found.grad_logits[SPECIAL]))
    assert_others_untouched(batch, found, alpha=1.0)


def test_a_row_of_nan(batch):
    for array in batch[:2]:
        array[SPECIAL] = NAN
    found = assert_as_reference(batch)
    assert_others_untouched(batch, found)


@pytest.mark.parametrize("value", [NAN, INF, -INF], ids=str)
def test_nan_in_one_part_leaves_the_other(batch, value):
    """The hard part does not use the teacher."""
    batch[1][SPECIAL] = value
    parts = kdloss.kd_loss_parts(*batch, **OPTIONS)
    hard = kdloss.cross_entropy_hard(batch[0], batch[2], reduction="none")
    assert np.isnan(parts.soft[SPECIAL])
    assert np.isnan(parts.loss[SPECIAL])
    assert loss_error(parts.hard, hard, hard.dtype) <= PROMISE[hard.dtype.name]


@pytest.mark.parametrize("value", [NAN, INF], ids=str)
def test_softmax_functions_with_nan_and_inf(batch, value):
    logits = batch[0]
    logits[SPECIAL, -1] = value
    for function in (kdloss.softmax_temp, kdloss.log_softmax_temp):
        found = function(logits, 2.0)
        assert np.all(np.isnan(found[SPECIAL]))
        assert others(found).tobytes() == function(others(logits), 2.0).tobytes()
    sums = kdloss.log_sum_exp(logits, 2.0)
    assert np.array_equal(sums[SPECIAL], value, equal_nan=True)
    assert others(sums).tobytes() == kdloss.log_sum_exp(others(logits), 2.0).tobytes()


# ---- Parts of weight 0 ---------------------------------------------------------------------------


@pytest.mark.parametrize("value", [NAN, INF, -INF, None], ids=str)
def test_at_alpha_1_a_labelled_row_does_not_use_its_teacher(batch, value):
    student, teacher, labels = batch
    options = OPTIONS | {"alpha": 1.0}
    alone = kdloss.kd_loss_and_grad(student, None, labels, **options)
    if value is None:
        student[SPECIAL, 2] = -INF  # the soft loss is infinite, and 0 times that is 0
        alone = kdloss.kd_loss_and_grad(student, None, labels, **options)
    else:
        teacher[:] = value
    found = kdloss.kd_loss_and_grad(student, teacher, labels, **options)
    assert found.loss.tobytes() == alone.loss.tobytes()
    assert found.grad_logits.tobytes() == alone.grad_logits.tobytes()
    assert np.isfinite(found.loss).all()
    parts = kdloss.kd_loss_parts(student, teacher, labels, **options)
    assert loss_error(parts.loss, alone.loss, student.dtype) <= PROMISE[student.dtype.name]
    assert not np.isfinite(parts.soft[SPECIAL])


def test_at_alpha_0_no_row_uses_its_label(batch):
    student, teacher, labels = batch
    student[SPECIAL, 1] = teacher[SPECIAL, 1] = -INF  # the hard loss is infinite
    options = OPTIONS | {"alpha": 0.0}
    unlabelled = kdloss.kd_loss_and_grad(student, teacher, None, **options)
    found = kdloss.kd_loss_and_grad(student, teacher, labels, **options)
    assert found.loss.tobytes() == unlabelled.loss.tobytes()
    assert found.grad_logits.tobytes() == unlabelled.grad_logits.tobytes()
    assert np.isfinite(found.loss).all()
    parts = kdloss.kd_loss_parts(student, teacher, labels, **options)
    assert np.isfinite(parts.loss).all()
    assert parts.hard[SPECIAL] == INF


# ---- Masks ---------------------------------------------------------------------------------------


def test_a_class_masked_by_both_is_skipped(batch):
    student, teacher, labels = batch
    student[:, 0] = teacher[:, 0] = -INF
    labels[:] = np.maximum(labels, 1)
    found = assert_as_reference(batch)
    assert np.all(found.grad_logits[:, 0] == 0)
    without = kdloss.kd_loss_and_grad(student[:, 1:], teacher[:, 1:], labels - 1, **OPTIONS)
    promise = PROMISE[student.dtype.name]
    assert loss_error(found.loss, without.loss, student.dtype) <= promise
    assert gradient_error(found.grad_logits[:, 1:], without.grad_logits, student.dtype) <= promise


def test_a_class_masked_by_the_teacher_has_its_student_probability_as_term(batch):
    student, teacher, _ = batch
    teacher[:, 2] = -INF
    found = assert_as_reference(batch)
    assert np.isfinite(found.loss).all()
    assert np.isfinite(found.grad_logits).all()
    tau = OPTIONS["tau"]
    soft = kdloss.kd_loss_and_grad(student, teacher, None, **(OPTIONS | {"alpha": 0.0}))
    p = tau * kdloss.softmax_temp(student, tau)[:, 2]
    assert loss_error(soft.grad_logits[:, 2], p, student.dtype) <= PROMISE[student.dtype.name]


@pytest.mark.parametrize("wanted", [0.0, -5.0, -1e6], ids=["likely", "unlikely", "underflows"])
def test_a_class_masked_by_the_student_and_wanted_by_the_teacher(batch, wanted):
    student, teacher, _ = batch
    student[SPECIAL, 3], teacher[SPECIAL, 3] = -INF, wanted
    found = assert_as_reference(batch)
    assert found.loss[SPECIAL] == INF
    assert np.isfinite(found.grad_logits).all()
    assert_others_untouched(batch, found)
    assert kdloss.kd_loss_batch(*batch) == INF


def test_a_label_on_a_class_that_the_student_masks(batch):
    student, teacher, labels = batch
    student[SPECIAL, 1] = teacher[SPECIAL, 1] = -INF
    found = assert_as_reference(batch)
    assert found.loss[SPECIAL] == INF
    assert np.isfinite(found.grad_logits).all()
    assert_others_untouched(batch, found)
    hard = kdloss.kd_loss_and_grad(student, None, labels, alpha=1.0, reduction="none")
    assert hard.loss[SPECIAL] == INF
    p1 = kdloss.softmax_temp(student[SPECIAL])
    p1[1] -= 1
    grad = hard.grad_logits[SPECIAL]
    assert gradient_error(grad[None], p1[None], p1.dtype) <= PROMISE[p1.dtype.name]
    assert kdloss.cross_entropy_hard(student, labels) == INF


def test_random_masks(batch):
    rng = np.random.default_rng(7)
    for array in batch[:2]:
        array[rng.random(array.shape) < 0.2] = -INF
        array[:, -1] = 0
    found = assert_as_reference(batch)
    assert np.isfinite(found.grad_logits).all()


def test_only_one_class_left(batch):
    for array in batch[:2]:
        array[SPECIAL] = -INF
        array[SPECIAL, 1] = 3
    found = assert_as_reference(batch)
    assert found.loss[SPECIAL] == 0
    assert np.all(found.grad_logits[SPECIAL] == 0)
    assert_others_untouched(batch, found)


@pytest.mark.parametrize("which", [0, 1], ids=["student", "teacher"])
@pytest.mark.parametrize("value", ["all -inf", "+inf", "+inf and -inf"])
def test_rows_without_a_softmax_are_nan(batch, which, value):
    row = batch[which][SPECIAL]
    if value == "all -inf":
        row[:] = -INF
    else:
        row[0] = INF
        row[2] = -INF if "and" in value else row[2]
    found = kdloss.kd_loss_and_grad(*batch, **OPTIONS)
    assert np.isnan(found.loss[SPECIAL])
    assert np.all(np.isnan(found.grad_logits[SPECIAL]))
    assert_others_untouched(batch, found)
    if which == 0:
        hard = kdloss.kd_loss_and_grad(batch[0], None, batch[2], alpha=1.0, reduction="none")
        assert np.isnan(hard.loss[SPECIAL])
        assert np.all(np.isnan(hard.grad_logits[SPECIAL]))


def test_softmax_functions_with_masks(batch):
    logits = batch[0]
    logits[:, 2] = -INF
    logits[SPECIAL] = -INF
    p, log_p, sums = (
        function(logits, 2.0)
        for function in (kdloss.softmax_temp, kdloss.log_softmax_temp, kdloss.log_sum_exp)
    )
    assert np.all(np.isnan(p[SPECIAL]))
    assert np.all(np.isnan(log_p[SPECIAL]))
    assert sums[SPECIAL] == -INF
    assert np.all(others(p)[:, 2] == 0)
    assert np.all(others(log_p)[:, 2] == -INF)
    exact = np.array([reference.log_softmax(row / np.longdouble(2)) for row in others(logits)])
    promise = PROMISE[logits.dtype.name]
    assert loss_error(others(log_p), exact, logits.dtype) <= promise
    assert loss_error(others(p), np.exp(exact), logits.dtype) <= promise


# ---- Finite logits never give NaN ----------------------------------------------------------------


def test_the_lowest_finite_number_as_a_mask(batch):
    """The student, the teacher, or both mask a class, in different rows."""
    student, teacher, labels = batch
    lowest = np.finfo(student.dtype).min
    student[0::4, 2] = teacher[1::4, 2] = lowest
    student[2::4, 2] = teacher[2::4, 2] = lowest
    labels[:] = 1
    assert_as_reference(batch)


@pytest.mark.parametrize("tau", [1e-3, 0.3, 1.0, 2.0, 100.0, 1e6])
def test_differences_that_overflow(classes, dtype, tau):
    """All pairs of the largest, the lowest and ordinary numbers."""
    highest = float(np.finfo(dtype).max)
    values = [0.0, highest, -highest, highest / 2]
    pairs = [(a, b, c, d) for a in values for b in values for c in values for d in values]
    student, teacher = np.zeros((2, len(pairs), classes), dtype)
    student[:, 0], student[:, 3], teacher[:, 0], teacher[:, 3] = np.transpose(pairs)
    labels = np.arange(len(pairs)) % 4
    loss, grad = kdloss.kd_loss_and_grad(
        student, teacher, labels, alpha=0.3, tau=tau, reduction="none"
    )
    assert not np.isnan(loss).any()
    assert np.all(loss >= 0)
    assert np.isfinite(grad).all()
    for function in (kdloss.softmax_temp, kdloss.log_softmax_temp, kdloss.log_sum_exp):
        assert not np.isnan(function(student, tau)).any()


@pytest.mark.parametrize(
    "tau", [5e-324, 1e-300, 1e-60, 1e-40, 1e-30, 1e-10, 1e10, 1e25, 1e50, 1e300]
)
def test_any_temperature_gives_numbers(batch, tau):
    """Outside of the promised range of tau, results are still not NaN and not negative."""
    student, teacher, labels = batch
    student[0, :] = teacher[0, :]
    loss, grad = kdloss.kd_loss_and_grad(
        student, teacher, labels, alpha=0.3, tau=tau, reduction="none"
    )
    assert not np.isnan(loss).any()
    assert np.all(loss >= 0)
    assert not np.isnan(grad).any()


@pytest.mark.parametrize("tau", [1e-300, 1e-40, 1e-10, 1e10, 1e50, 1e300])
def test_any_temperature_gives_a_softmax(batch, tau):
    p = kdloss.softmax_temp(batch[0], tau)
    assert np.all(np.abs(p.sum(axis=1) - 1) <= PROMISE["float32"])
    assert not np.isnan(kdloss.log_softmax_temp(batch[0], tau)).any()
    assert not np.isnan(kdloss.log_sum_exp(batch[0], tau)).any()


def test_masks_at_any_temperature(batch):
    student, teacher, _ = batch
    for array in (student, teacher):
        array[:, 2] = -INF
    for tau in (1e-3, 1.0, 1e6):
        loss, grad = kdloss.kd_loss_and_grad(
            student, teacher, None, alpha=0, tau=tau, reduction="none"
        )
        assert np.isfinite(loss).all()
        assert np.isfinite(grad).all()
        assert np.all(kdloss.softmax_temp(student, tau)[:, 2] == 0)


def test_denormal_logits(classes, dtype):
    tiny = float(np.finfo(dtype).smallest_subnormal)
    rng = np.random.default_rng(0)
    student, teacher = (
        (rng.integers(-99, 100, (5, classes)) * tiny).astype(dtype) for _ in range(2)
    )
    loss, grad = kdloss.kd_loss_and_grad(student, teacher, np.zeros(5, int), reduction="none")
    assert loss == pytest.approx(0.5 * np.log(classes), rel=PROMISE[dtype.name])
    assert np.isfinite(grad).all()


# ---- Means over nothing --------------------------------------------------------------------------


def test_a_mean_over_no_rows_is_0(dtype):
    nothing = np.empty((0, 4), dtype)
    labels = np.empty(0, np.int64)
    loss, grad = kdloss.kd_loss_and_grad(nothing, nothing, labels)
    assert (loss, grad.shape, grad.dtype) == (0.0, (0, 4), dtype)
    assert kdloss.kd_loss_batch(nothing, nothing, labels, reduction="sum") == 0
    assert kdloss.kd_loss_batch(nothing, nothing, labels, reduction="none").shape == (0,)
    assert kdloss.cross_entropy_hard(nothing, labels) == 0
    parts = kdloss.kd_loss_parts(nothing, nothing, labels)
    assert parts.loss == 0
    assert np.isnan(parts.hard)


def test_probabilities_of_0(dtype):
    q = np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]], dtype)
    p = np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.0, 0.5, 0.5]], dtype)
    kl = kdloss.kl_divergence(q, p, reduction="none")
    expected = [0.5 * np.log(2), np.log(4), INF]
    assert loss_error(kl, expected, dtype) <= PROMISE[dtype.name]


def test_probabilities_with_nan(dtype):
    q = np.array([[0.5, 0.5], [NAN, 0.5]], dtype)
    kl = kdloss.kl_divergence(q, np.full((2, 2), 0.5, dtype), reduction="none")
    assert kl[0] == 0
    assert np.isnan(kl[1])


def test_the_smallest_probability_is_not_0(dtype):
    """log(q / p) is right even if q / p overflows."""
    tiny = np.finfo(dtype).smallest_subnormal
    q, p = np.array([0.5, 0.5], dtype), np.array([1.0, tiny], dtype)
    exact = 0.5 * np.log(0.5) + 0.5 * (np.log(0.5) - np.log(np.longdouble(tiny)))
    assert loss_error(kdloss.kl_divergence(q, p), exact, dtype) <= PROMISE[dtype.name]


@pytest.mark.parametrize("ratio", [0.7, 1.3, 3.0, 1e6])
def test_a_tiny_difference_of_tiny_probabilities(dtype, ratio):
    """log(q / p) keeps digits that log q - log p would lose."""
    tiny = np.geomspace(*{"float32": (1e-30, 1e-20), "float64": (1e-300, 1e-200)}[dtype.name], 99)
    q, p = (np.stack([np.ones_like(x), x], axis=1).astype(dtype) for x in (tiny, ratio * tiny))
    a, b = q[:, 1].astype(np.longdouble), p[:, 1].astype(np.longdouble)
    exact = a * np.log(a / b) - a + b
    kl = kdloss.kl_divergence(q, p, reduction="none")
    assert loss_error(kl, exact, dtype) <= PROMISE[dtype.name]
