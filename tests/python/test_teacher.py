"""Ensembles, probabilities as logits, agreement and entropy, compared with their definitions."""

import math
import tracemalloc

import ml_dtypes
import mpmath
import numpy as np
import pytest

import kdloss
import tolerances
from kdloss import ensemble_logits, entropy_temp, logits_from_probs, softmax_temp, teacher_agreement

INF, NAN = math.inf, math.nan
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@pytest.fixture
def teachers():
    """Three teachers that contradict each other, (20, 7) each."""
    rng = np.random.default_rng(0)
    return list(rng.normal(scale=(1, 5, 30), size=(20, 7, 3)).transpose(2, 0, 1).copy())


def mixture(teachers, weights, tau):
    """The weighted mean of softened probabilities by its definition, in long double."""
    total = np.zeros(teachers[0].shape, np.longdouble)
    for weight, logits in zip(weights, teachers, strict=True):
        z = np.asarray(logits, np.longdouble) / tau
        e = np.exp(z - z.max(axis=1, keepdims=True))
        total += np.longdouble(weight) * e / e.sum(axis=1, keepdims=True)
    return total / np.sum(weights)


# ensemble_logits


@pytest.mark.parametrize("tau", [0.5, 1, 4, 50])
@pytest.mark.parametrize(
    "weights", [None, [1, 1, 1], [2, 1, 0.5], [1e300, 1e300, 1e299], [0, 0, 3]]
)
def test_an_ensemble_is_the_mean_of_softened_probabilities(teachers, weights, tau):
    logits = ensemble_logits(teachers, weights, tau=tau)
    expected = mixture(teachers, np.ones(3) if weights is None else np.divide(weights, 1e300), tau)
    np.testing.assert_allclose(softmax_temp(logits, tau), expected, rtol=tolerances.ROUNDING)
    np.testing.assert_array_equal(logits.max(axis=1), 0)


def test_probabilities_that_no_type_holds_have_their_logarithms(teachers):
    far = [np.array([[0.0, -5000.0]]), np.array([[0.0, -6000.0]])]
    expected = -5000.0 + math.log(0.5)
    found = ensemble_logits(far, tau=1.0)[0, 1]
    assert found == pytest.approx(expected, rel=tolerances.ROUNDING)


def test_one_teacher_is_itself_but_for_a_number_per_row(teachers):
    shift = ensemble_logits(teachers[:1], tau=2.0) - teachers[0]
    np.testing.assert_allclose(shift, shift[:, :1] + 0 * shift, rtol=tolerances.ROUNDING)


@pytest.mark.parametrize("tau", [1e-3, 4.0, 1e6])
def test_one_teacher_keeps_its_digits_at_any_tau(teachers, tau):
    teacher = teachers[0].astype(np.float32)
    found = ensemble_logits([teacher], tau=tau)
    expected = teacher - teacher.max(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=tolerances.PROMISE["float32"])


def test_what_underflows_is_no_error(teachers):
    far = [np.array([[0.0, -1e5]]), np.array([[0.0, -1e6]])]
    with np.errstate(all="raise"):
        assert ensemble_logits(far, tau=1.0)[0, 0] == 0
        assert entropy_temp([[0.0, -800.0], [0.0, -740.0]], tau=1.0).max() < 1e-300


def test_the_mean_of_logits_is_the_geometric_mean(teachers):
    """The ensemble differs from the mean of the logits, as documented."""
    tau = 4.0
    probabilities = [softmax_temp(t, tau) for t in teachers]
    geometric = np.exp(np.mean(np.log(probabilities), axis=0))
    geometric /= geometric.sum(axis=1, keepdims=True)
    by_logits = softmax_temp(np.mean(teachers, axis=0), tau)
    np.testing.assert_allclose(by_logits, geometric, rtol=tolerances.ROUNDING)
    assert np.abs(by_logits - softmax_temp(ensemble_logits(teachers, tau=tau), tau)).max() > 0.1


def test_a_class_that_one_teacher_masks_has_the_others_share(teachers):
    teachers[0][:, 2] = -INF
    p = softmax_temp(ensemble_logits(teachers[:2], tau=3.0), 3.0)
    np.testing.assert_allclose(p[:, 2], softmax_temp(teachers[1], 3.0)[:, 2] / 2)
    teachers[1][:, 2] = -INF
    assert (ensemble_logits(teachers[:2])[:, 2] == -INF).all()


def test_a_teacher_of_weight_zero_is_not_read(teachers):
    teachers[1][:] = NAN
    found = ensemble_logits(teachers, [1, 0, 2])
    np.testing.assert_array_equal(found, ensemble_logits([teachers[0], teachers[2]], [1, 2]))


@pytest.mark.parametrize("bad", [NAN, INF])
def test_what_is_no_distribution_makes_its_own_row_nan(teachers, bad):
    good = ensemble_logits(teachers)
    teachers[2][3, 1] = bad
    teachers[0][5] = -INF
    found = ensemble_logits(teachers)
    assert np.isnan(found[[3, 5]]).all()
    rest = np.delete(np.arange(20), [3, 5])
    np.testing.assert_array_equal(found[rest], good[rest])


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        (["float16"], "float32"),
        ([BFLOAT16, "float16"], "float32"),
        (["float32", "float16"], "float32"),
        (["float32", "float64"], "float64"),
        (["int8"], "float64"),
        ([">f4"], "float32"),
    ],
    ids=str,
)
def test_the_result_has_the_widest_float_type(teachers, types, expected):
    given = [t.round(1).astype(dtype) for t, dtype in zip(teachers, types, strict=False)]
    found = ensemble_logits(given)
    assert found.dtype == expected
    exact = mixture([t.astype(np.float64) for t in given], np.ones(len(given)), 4.0)
    np.testing.assert_allclose(softmax_temp(found, 4.0), exact, rtol=tolerances.PROMISE[expected])


def test_lists_arrays_in_an_array_and_any_layout(teachers):
    expected = ensemble_logits(teachers)
    for given in (
        [t.tolist() for t in teachers],
        tuple(np.asfortranarray(t) for t in teachers),
        np.array(teachers),
        [t[::-1].copy()[::-1] for t in teachers],
    ):
        np.testing.assert_array_equal(ensemble_logits(given), expected)


def test_memory_does_not_grow_with_the_teachers():
    one = np.zeros((100_000, 10), np.float16)
    tracemalloc.start()
    ensemble_logits([one] * 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.5 * one.size * 4  # the result in float32, and blocks


def test_blocks_leave_no_trace(teachers, monkeypatch):
    whole = ensemble_logits(teachers), logits_from_probs(softmax_temp(teachers[0]))
    monkeypatch.setattr("kdloss.teacher.BLOCK_ELEMENTS", 1)
    np.testing.assert_array_equal(ensemble_logits(teachers), whole[0])
    np.testing.assert_array_equal(logits_from_probs(softmax_temp(teachers[0])), whole[1])


def test_a_distilled_student_becomes_the_mixture(teachers):
    """The gradient of the soft loss vanishes where the student is the mean of the teachers."""
    student = ensemble_logits(teachers, tau=4.0)
    targets = np.mean([softmax_temp(t, 4.0) for t in teachers], axis=0)
    _, grad = kdloss.kd_loss_and_grad(student, np.log(targets) * 4, None, alpha=0, tau=4.0)
    assert np.abs(grad).max() < tolerances.ROUNDING


def test_no_rows():
    assert ensemble_logits([np.zeros((0, 3), np.float32)] * 2).shape == (0, 3)


TWO = [np.zeros((8, 10)), np.zeros((8, 10))]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([],), ValueError, "teachers is empty, expected the logits of at least one teacher"),
        (
            ([np.zeros((8, 10)), np.zeros((8, 5))],),
            ValueError,
            r"teachers\[1\] has shape \(8, 5\), expected that of teachers\[0\], \(8, 10\)",
        ),
        ((np.zeros((8, 10)),), ValueError, r"teachers has shape \(8, 10\), expected a list"),
        (([np.zeros(8)],), ValueError, r"teachers\[0\] has shape \(8,\), expected \(rows, class"),
        (([np.zeros((8, 0))],), ValueError, r"teachers\[0\] .* at least one class"),
        (([[["a"]]],), TypeError, r"teachers\[0\] has dtype <U1, expected floating"),
        ((TWO, [1, -1]), ValueError, r"weights\[1\] is -1, expected a finite number >= 0"),
        ((TWO, [NAN, 1]), ValueError, r"weights\[0\] is nan, expected a finite number >= 0"),
        ((TWO, [INF, 1]), ValueError, r"weights\[0\] is inf, expected a finite number >= 0"),
        ((TWO, [0, 0]), ValueError, "weights are all 0, expected at least one > 0"),
        (
            (TWO, [1, 2, 3]),
            ValueError,
            r"weights has shape \(3,\), expected \(2,\), one weight for each teacher",
        ),
        ((TWO, ["a", "b"]), TypeError, "weights has dtype <U1"),
    ],
)
def test_a_bad_ensemble_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        ensemble_logits(*arguments)


@pytest.mark.parametrize("rows", [0, 3])
@pytest.mark.parametrize("tau", [0, -1, NAN, INF])
def test_a_bad_temperature_is_named(rows, tau):
    for function in (lambda z: ensemble_logits([z], tau=tau), lambda z: entropy_temp(z, tau)):
        with pytest.raises(ValueError, match=r"tau is .*, expected a finite number > 0"):
            function(np.zeros((rows, 2)))


# logits_from_probs


@pytest.mark.parametrize("shape", [(30, 5), (5,)])
def test_logits_of_probabilities_give_them_back(shape):
    p = np.random.default_rng(1).dirichlet(np.full(5, 0.3), shape[:-1])
    logits = logits_from_probs(p)
    np.testing.assert_array_equal(logits, np.log(p))
    np.testing.assert_allclose(softmax_temp(logits), p, rtol=tolerances.ROUNDING)


def test_a_zero_is_a_masked_class_whose_loss_is_finite():
    student = np.array([[0.3, -0.2, 0.5]])
    teacher = logits_from_probs([[0.75, 0.25, 0.0]], zeros="mask")
    assert teacher[0, 2] == -INF
    loss, grad = kdloss.kd_loss_and_grad(student, teacher, None, alpha=0, tau=2.0)
    p, q = softmax_temp(student, 2.0)[0], softmax_temp(teacher, 2.0)[0]
    terms = [q[c] * math.log(q[c] / p[c]) - q[c] + p[c] for c in (0, 1)]
    assert loss == pytest.approx(4 * (sum(terms) + p[2]), rel=tolerances.ROUNDING)
    assert grad[0, 2] == pytest.approx(2 * p[2], rel=tolerances.ROUNDING)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("float16", "float32"),
        (BFLOAT16, "float32"),
        ("float32", "float32"),
        ("float64", "float64"),
        ("int64", "float64"),
    ],
    ids=str,
)
def test_logits_of_probabilities_are_of_a_type_that_the_loss_reads(dtype, expected):
    found = logits_from_probs(np.eye(3).astype(dtype), zeros="mask")
    assert found.dtype == expected
    np.testing.assert_array_equal(found, np.where(np.eye(3, dtype=bool), 0, -INF))


def test_a_nan_among_probabilities_is_the_business_of_its_row():
    found = logits_from_probs([[NAN, 0.5], [0.5, 0.5]])
    np.testing.assert_array_equal(np.isnan(found), [[True, False], [False, False]])


@pytest.mark.parametrize(
    ("probs", "error", "message"),
    [
        ([[0.5, 0.5], [1.1, -0.1]], ValueError, r"probs\[1, 1\] is -0.1, expected a probability >"),
        ([1.1, -0.1], ValueError, r"probs\[1\] is -0.1, expected a probability >= 0"),
        ([[0.5, 0.5], [0.5, 0.4]], ValueError, r"probs\[1\] sums to 0.9, expected .* within 0.001"),
        ([0.5, 0.4], ValueError, "probs sums to 0.9, expected probabilities that sum to 1 within"),
        ([[2.0, 0.3, -1.0]], ValueError, r"probs\[0, 2\] is -1, expected a probability >= 0"),
        (0.5, ValueError, r"probs has shape \(\), expected \(rows, classes\) or \(classes,\)"),
        (np.ones((2, 2, 1)), ValueError, r"probs has shape \(2, 2, 1\), expected"),
        ([["a"]], TypeError, "probs has dtype <U1"),
    ],
)
def test_what_is_no_probability_is_named(probs, error, message):
    with pytest.raises(error, match=message):
        logits_from_probs(probs)


# teacher_agreement


@pytest.mark.parametrize("dtype", ["float16", BFLOAT16, "float32", "float64"], ids=str)
def test_agreement_is_the_share_of_equal_argmaxes(teachers, dtype):
    s, t = (z.astype(dtype) for z in teachers[:2])
    same = s.argmax(axis=1) == t.argmax(axis=1)
    assert 0 < same.sum() < len(same)
    assert teacher_agreement(s, t) == same.mean()
    weight = np.arange(20.0)
    assert teacher_agreement(s, t, sample_weight=weight) == pytest.approx(
        np.average(same, weights=weight), rel=tolerances.ROUNDING
    )


def test_of_equally_likely_classes_the_first_one_counts():
    assert teacher_agreement([[1, 1, 0]], [[2, 0, 0]]) == 1
    assert teacher_agreement([[1, 1, 0]], [[0, 2, 0]]) == 0


def test_rows_of_weight_zero_do_not_count():
    s, t = [[0.0, 1.0], [NAN, NAN]], [[0.0, 1.0], [5.0, 4.0]]
    assert teacher_agreement(s, t, sample_weight=[2, 0]) == 1
    assert math.isnan(teacher_agreement(s, t, sample_weight=[0, 0]))
    assert math.isnan(teacher_agreement(np.zeros((0, 2)), np.zeros((0, 2))))


@pytest.mark.parametrize(
    ("arguments", "weight", "message"),
    [
        ((np.zeros((8, 10)), np.zeros((8, 5))), None, r"teacher has shape \(8, 5\), expected that"),
        ((np.zeros(8), np.zeros(8)), None, r"student_logits has shape \(8,\), expected \(rows, "),
        ((np.zeros((2, 3)),) * 2, [1, -1], r"sample_weight\[1\] is -1, expected a finite number >"),
        ((np.zeros((2, 3)),) * 2, [1], r"sample_weight has shape \(1,\), expected \(2,\), one wei"),
    ],
)
def test_a_bad_agreement_is_named(arguments, weight, message):
    with pytest.raises(ValueError, match=message):
        teacher_agreement(*arguments, sample_weight=weight)


# entropy_temp


def exact_entropy(row, tau):
    # Enough digits to distinguish 1 + exp(-spread / tau) from 1, down to the smallest doubles.
    with mpmath.workdps(600):
        z = [mpmath.mpf(float(x)) / tau for x in row if x > -INF]
        log_sum = mpmath.log(mpmath.fsum(mpmath.exp(x) for x in z))
        return float(mpmath.fsum(mpmath.exp(x - log_sum) * (log_sum - x) for x in z))


@pytest.mark.parametrize("tau", [0.01, 1, 7, 1e5])
def test_entropy_against_six_hundred_digits(teachers, tau, dtype):
    rows = np.vstack([*teachers, [[40.0, 0, 0, 0, 0, 0, -INF]], [[0.0, -90, -95, 3, 3, 3, 3]]])
    rows = rows.astype(dtype)
    found = entropy_temp(rows, tau)
    assert found.dtype == dtype
    exact = np.array([exact_entropy(row, tau) for row in rows])
    tiny = float(np.finfo(dtype).tiny)
    np.testing.assert_allclose(
        found, exact, rtol=tolerances.PROMISE[dtype.name], atol=tiny * tolerances.PROMISE["float32"]
    )


def test_entropy_at_its_ends():
    assert entropy_temp([[5.0, -INF, -INF]]).tolist() == [0]
    assert entropy_temp(np.zeros((2, 8)), 3.0) == pytest.approx(math.log(8))
    assert entropy_temp([[0.0, -800.0]]).tolist() == [0]
    assert np.isnan(entropy_temp([[NAN, 0], [INF, 0], [-INF, -INF]])).all()
    assert entropy_temp(np.zeros((0, 3))).shape == (0,)


@pytest.mark.parametrize("dtype", ["float16", BFLOAT16], ids=str)
def test_entropy_of_halves_is_that_of_their_values(teachers, dtype):
    halves = teachers[1].astype(dtype)
    found = entropy_temp(halves, 2.0)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, entropy_temp(halves.astype(np.float32), 2.0))


@pytest.mark.parametrize("logits", [[1.0, 2.0], np.zeros((2, 0)), np.zeros((2, 2, 2))])
def test_entropy_names_a_bad_shape(logits):
    with pytest.raises(ValueError, match=r"logits has shape .*, expected \(rows, classes\)"):
        entropy_temp(logits)
