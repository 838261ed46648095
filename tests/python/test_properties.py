"""Properties of every row: signs, sums, symmetries, and the gradient as the derivative."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import kdloss
from errors import gradient_error, loss_error
from tolerances import FINITE_DIFFERENCE, PROMISE

TAUS = st.sampled_from([0.25, 0.7, 1.0, 2.0, 2.5, 4.0, 7.0, 8.0, 20.0])
ALPHAS = st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])
SHAPES = st.tuples(st.integers(1, 18), st.integers(1, 12))
COPIES = st.sampled_from([1, 1, 15])  # repeated classes, enough for the kernels of many classes


@st.composite
def batches(draw, dtypes=("float32", "float64"), step=2.0**-8):
    """(student, teacher, labels): logits are multiples of `step`, so that their sums are exact."""
    dtype, shape, copies = draw(st.sampled_from(dtypes)), draw(SHAPES), draw(COPIES)
    most = int(16 / step)
    wide = arrays(np.int64, shape, elements=st.integers(-most, most))
    narrow = arrays(np.int64, shape, elements=st.integers(-2, 2))
    teacher = draw(wide)
    student = teacher + draw(narrow) if draw(st.booleans()) else draw(wide)
    student, teacher = (np.tile(z * step, copies).astype(dtype) for z in (student, teacher))
    labels = draw(arrays(np.int64, shape[0], elements=st.integers(-1, shape[1] - 1)))
    return student, teacher, labels


def promise(array):
    return PROMISE[array.dtype.name]


@given(batches(), ALPHAS, TAUS)
def test_no_loss_is_negative(batch, alpha, tau):
    for values in kdloss.kd_loss_parts(*batch, alpha=alpha, tau=tau, reduction="none"):
        assert not np.any(values < 0)


@given(batches(), st.sampled_from([1.0, 2.5, 4.0, 20.0]))  # below 1, squares of tiny q underflow
def test_soft_loss_is_zero_iff_the_distributions_are_equal(batch, tau):
    student, teacher, _ = batch
    difference = student - teacher
    equal = np.ptp(difference, axis=1) == 0  # logits that differ by a constant
    soft = kdloss.kd_loss_batch(student, teacher, None, alpha=0, tau=tau, reduction="none")
    assert np.array_equal(soft == 0, equal)


@given(batches(), TAUS)
def test_divergence_of_probabilities_is_zero_iff_they_are_equal(batch, tau):
    q, p = (kdloss.softmax_temp(z, tau) for z in batch[:2])
    kl = kdloss.kl_divergence(q, p, reduction="none")
    assert np.array_equal(kl == 0, np.all(q == p, axis=1))
    assert not np.any(kl < 0)


@given(batches(), ALPHAS, TAUS)
def test_gradient_rows_sum_to_zero(batch, alpha, tau):
    grad = kdloss.kd_loss_and_grad(*batch, alpha=alpha, tau=tau, reduction="none").grad_logits
    grad = grad.astype(np.float64)
    largest = np.abs(grad).max(axis=1)  # errors of entries are relative to this
    assert np.all(np.abs(grad.sum(axis=1)) <= promise(batch[0]) * grad.shape[1] * largest)


@given(batches(), ALPHAS, TAUS, st.integers(-64, 64), st.integers(-64, 64))
def test_a_shift_of_all_logits_changes_nothing(batch, alpha, tau, one, other):
    student, teacher, labels = batch
    shifted = student + student.dtype.type(one), teacher + student.dtype.type(other)
    options = {"alpha": alpha, "tau": tau, "reduction": "none"}
    loss, grad = kdloss.kd_loss_and_grad(student, teacher, labels, **options)
    moved_loss, moved_grad = kdloss.kd_loss_and_grad(*shifted, labels, **options)
    assert loss_error(moved_loss, loss, loss.dtype) <= promise(student)
    assert gradient_error(moved_grad, grad, grad.dtype) <= promise(student)


@given(batches(), ALPHAS, TAUS)
def test_the_loss_is_linear_in_alpha(batch, alpha, tau):
    student, teacher, labels = batch
    labels = np.maximum(labels, 0)
    options = {"tau": tau, "reduction": "none"}
    hard = kdloss.kd_loss_and_grad(student, teacher, labels, alpha=1.0, **options)
    soft = kdloss.kd_loss_and_grad(student, teacher, labels, alpha=0.0, **options)
    mixed = kdloss.kd_loss_and_grad(student, teacher, labels, alpha=alpha, **options)
    parts = [
        (weight * loss.astype(np.float64), weight * grad.astype(np.float64))
        for weight, (loss, grad) in ((alpha, hard), (1 - alpha, soft))
    ]
    loss, grad = (a + b for a, b in zip(*parts, strict=True))
    scale = np.maximum(*(np.abs(g).max(axis=1) for _, g in parts))
    assert loss_error(mixed.loss, loss, student.dtype) <= promise(student)
    assert gradient_error(mixed.grad_logits, grad, student.dtype, scale) <= promise(student)


@settings(max_examples=50)
@given(batches(dtypes=["float64"]), ALPHAS, TAUS, st.sampled_from(["mean", "sum"]))
def test_the_gradient_is_the_slope_of_the_loss(batch, alpha, tau, reduction):
    student, teacher, labels = batch
    classes = min(student.shape[1], 10)
    options = {"alpha": alpha, "tau": tau, "reduction": reduction}
    grad = kdloss.kd_loss_and_grad(student, teacher, labels, **options).grad_logits
    step = 1e-4
    for c in range(classes):
        higher, lower = student.copy(), student.copy()
        higher[0, c] += step
        lower[0, c] -= step
        up, down = (kdloss.kd_loss_batch(x, teacher, labels, **options) for x in (higher, lower))
        slope = (up - down) / (2 * step)
        # Relative to gradients of order tau: a step changes a probability by no more than itself.
        assert abs(slope - grad[0, c]) <= FINITE_DIFFERENCE * max(1, tau) * max(1, 1 / tau) ** 2


@given(batches(), ALPHAS, TAUS, st.randoms(use_true_random=False))
def test_the_order_of_classes_does_not_matter(batch, alpha, tau, random):
    student, teacher, labels = batch
    order = np.array(random.sample(range(student.shape[1]), student.shape[1]))
    place = np.argsort(order)
    moved_labels = np.where(labels < 0, labels, place[labels])
    options = {"alpha": alpha, "tau": tau, "reduction": "none"}
    loss, grad = kdloss.kd_loss_and_grad(student, teacher, labels, **options)
    moved = kdloss.kd_loss_and_grad(student[:, order], teacher[:, order], moved_labels, **options)
    assert loss_error(moved.loss, loss, loss.dtype) <= promise(student)
    assert gradient_error(moved.grad_logits[:, place], grad, grad.dtype) <= promise(student)


@given(batches(), ALPHAS, TAUS, st.integers(0, 20))
def test_a_batch_in_two_pieces_has_the_same_bits(batch, alpha, tau, cut):
    options = {"alpha": alpha, "tau": tau, "reduction": "none"}
    whole = kdloss.kd_loss_and_grad(*batch, **options)
    pieces = [
        kdloss.kd_loss_and_grad(*(x[part] for x in batch), **options)
        for part in (slice(None, cut), slice(cut, None))
    ]
    for found, parts in zip(whole, zip(*pieces, strict=True), strict=True):
        assert found.tobytes() == np.concatenate(parts).tobytes()


@given(batches(), TAUS)
def test_softmax_is_a_distribution_and_log_softmax_its_logarithm(batch, tau):
    logits = batch[0]
    p = kdloss.softmax_temp(logits, tau).astype(np.float64)
    log_p = kdloss.log_softmax_temp(logits, tau).astype(np.float64)
    assert np.all(p >= 0)
    assert np.all(np.abs(p.sum(axis=1) - 1) <= promise(logits))
    assert np.all(log_p <= 0)
    normal = p >= np.finfo(logits.dtype).tiny
    error = np.abs(np.log(p, where=normal, out=log_p.copy()) - log_p)
    assert np.all(error <= promise(logits) * (1 + np.abs(log_p)))


@given(batches(), TAUS)
def test_log_sum_exp_lies_between_the_largest_and_that_plus_log_classes(batch, tau):
    logits = batch[0].astype(np.float64)
    found = kdloss.log_sum_exp(logits, tau)
    largest = logits.max(axis=1) / tau
    slack = PROMISE["float64"] * (1 + np.abs(largest))
    assert np.all(found >= largest - slack)
    assert np.all(found <= largest + np.log(logits.shape[1]) + slack)
