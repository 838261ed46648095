"""The metrics compared with scikit-learn and with brute force, and their edge cases."""

import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss

import tolerances
from kdloss.metrics import (
    MetricSums,
    accuracy,
    brier_score,
    expected_calibration_error,
    negative_log_likelihood,
    reliability_bins,
)

METRICS = [accuracy, negative_log_likelihood, brier_score, expected_calibration_error]


@pytest.fixture(params=[(1, 2), (50, 3), (400, 10)], ids=["one-row", "few", "many"])
def predictions(request):
    rows, classes = request.param
    rng = np.random.default_rng(rows)
    return rng.dirichlet(np.full(classes, 0.5), rows), rng.integers(0, classes, rows)


def close(value, expected):
    return value == pytest.approx(expected, rel=tolerances.ROUNDING, abs=tolerances.ROUNDING)


def brute_force_bins(p, y, bins):
    """Rows, mean confidence and accuracy of the bins (m/M, (m+1)/M], one row at a time."""
    members = [[] for _ in range(bins)]
    for row, label in zip(p, y, strict=True):
        confidence = max(row)
        m = next(m for m in range(bins) if confidence <= (m + 1) / bins or m == bins - 1)
        members[m].append((confidence, list(row).index(confidence) == label))
    return [(len(b), *(np.mean(b, axis=0) if b else (math.nan, math.nan))) for b in members]


def test_accuracy_and_likelihood_are_scikit_learns(predictions):
    p, y = predictions
    assert close(accuracy(p, y), accuracy_score(y, p.argmax(axis=1)))
    assert close(negative_log_likelihood(p, y), log_loss(y, p, labels=range(p.shape[1])))


def test_brier_score_is_the_squared_distance_to_the_one_hot_label(predictions):
    p, y = predictions
    expected = np.mean(
        [np.sum((row - np.eye(len(row))[c]) ** 2) for row, c in zip(p, y, strict=True)]
    )
    assert close(brier_score(p, y), expected)


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_bins_and_calibration_error_by_brute_force(predictions, bins):
    p, y = predictions
    expected = brute_force_bins(p, y, bins)
    found = reliability_bins(p, y, bins=bins)
    assert found.count.tolist() == [count for count, _, _ in expected]
    for got, want in ((found.confidence, 1), (found.accuracy, 2)):
        np.testing.assert_allclose(got, [e[want] for e in expected], rtol=tolerances.ROUNDING)
    error = sum(n / len(y) * abs(acc - conf) for n, conf, acc in expected if n)
    assert close(expected_calibration_error(p, y, bins=bins), error)


def test_there_are_fifteen_bins_closed_above():
    assert len(reliability_bins([[0.5, 0.5]], [0]).count) == 15
    edges = reliability_bins([[0.5, 0.5], [0.75, 0.25], [1.0, 0.0]], [0, 0, 0], bins=4)
    assert edges.count.tolist() == [0, 1, 1, 1]


def test_ranges():
    certain, wrong = [[1.0, 0.0], [0.0, 1.0]], [1, 0]
    assert brier_score(certain, wrong) == 2
    assert expected_calibration_error(certain, wrong) == 1
    assert negative_log_likelihood(certain, wrong) == math.inf
    assert accuracy(certain, wrong) == 0
    assert [metric(certain, [0, 1]) for metric in METRICS] == [1, 0, 0, 0]


@pytest.mark.parametrize("metric", METRICS)
def test_rows_without_a_label_do_not_count(metric, predictions):
    p, y = predictions
    garbage = np.full((2, p.shape[1]), np.nan)
    more_p, more_y = np.vstack([garbage[:1], p, garbage[1:]]), np.concatenate([[-1], y, [-100]])
    assert metric(more_p, more_y) == metric(p, y)
    assert math.isnan(metric(garbage, [-1, -100]))
    assert math.isnan(metric(p[:0], y[:0]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 7, 400])
def test_sums_over_batches_are_the_metrics_of_all_rows(predictions, size, dtype):
    p, y = predictions[0].astype(dtype), predictions[1]
    sums = MetricSums()
    for start in range(0, len(y), size):
        sums.add(p[start : start + size], y[start : start + size])
    means = sums.means()
    assert sums.weight == len(y)
    assert close(means["accuracy"], accuracy(p, y))
    assert close(means["brier"], brier_score(p, y))
    assert close(means["ece"], expected_calibration_error(p, y))
    assert all(math.isnan(value) for value in MetricSums().means().values())


@pytest.mark.parametrize("metric", METRICS)
def test_weights_are_repetitions(metric, predictions):
    p, y = predictions
    times = np.random.default_rng(0).integers(0, 4, len(y))
    times[0] = 2
    repeated = metric(np.repeat(p, times, axis=0), np.repeat(y, times))
    garbage = np.where(times == 0, 999, y)
    assert close(metric(p, garbage, sample_weight=times), repeated)
    assert metric(p, y, sample_weight=np.ones(len(y))) == pytest.approx(metric(p, y))
    assert math.isnan(metric(p, y, sample_weight=np.zeros(len(y))))


@pytest.mark.parametrize("metric", METRICS)
def test_one_hot_labels_are_their_classes(metric, predictions):
    p, y = predictions
    one_hot = np.vstack([np.eye(p.shape[1])[y], np.zeros(p.shape[1])])  # the last is unlabelled
    p = np.vstack([p, np.full(p.shape[1], np.nan)])
    assert close(metric(p, one_hot), metric(p[:-1], y))


def test_soft_labels():
    p, soft = [[0.5, 0.25, 0.25], [0.0, 0.5, 0.5]], [[0.75, 0.25, 0.0], [0.0, 0.0, 1.0]]
    assert accuracy(p, soft) == 0.5
    expected = (-0.75 * math.log(0.5) - 0.25 * math.log(0.25) - math.log(0.5)) / 2
    assert close(negative_log_likelihood(p, soft), expected)
    assert close(brier_score(p, soft), (0.0625 + 0.0625 + 0.25 + 0.25) / 2)
    assert negative_log_likelihood(p, [[0.5, 0.5, 0], [0.5, 0.5, 0]]) == math.inf
    assert reliability_bins(p, soft, bins=1).accuracy.tolist() == [0.5]


@pytest.mark.parametrize("size", [1, 7, 400])
def test_weighted_sums_over_batches_are_the_weighted_metrics(predictions, size):
    p, y = predictions
    soft = np.random.default_rng(1).dirichlet(np.ones(p.shape[1]), len(y))
    w = np.random.default_rng(2).gamma(1, size=len(y))
    sums = MetricSums()
    for start in range(0, len(y), size):
        batch = slice(start, start + size)
        sums.add(p[batch], soft[batch], w[batch])
    means = sums.means()
    assert close(sums.weight, w.sum())
    assert close(means["accuracy"], accuracy(p, soft, sample_weight=w))
    assert close(means["brier"], brier_score(p, soft, sample_weight=w))
    assert close(means["ece"], expected_calibration_error(p, soft, sample_weight=w))


def test_a_confidence_rounded_above_one_is_in_the_last_bin():
    above = np.array([[np.nextafter(1, 2), 0.0]])
    assert reliability_bins(above, [0]).count.tolist() == [0] * 14 + [1]


@pytest.mark.parametrize("metric", [*METRICS, reliability_bins])
@pytest.mark.parametrize(
    ("probabilities", "labels", "error", "message"),
    [
        ([[0.5, 0.5]], [2], ValueError, r"labels\[0\] is 2, expected a class in \[0, 2\)"),
        ([[0.5, 0.5]] * 2, [0, -2], ValueError, r"labels\[1\] is -2, expected"),
        ([[0.5, 0.5]], [0, 1], ValueError, r"labels has shape \(2,\), expected \(1,\)"),
        ([[0.5, 0.5]], [0.0], TypeError, "labels has dtype float64, expected integers"),
        ([0.5, 0.5], [0], ValueError, r"probabilities has shape \(2,\), expected \(N, C\)"),
        ([["a", "b"]], [0], TypeError, "probabilities has dtype <U1, expected real numbers"),
        (np.ma.ones((1, 1)), [0], TypeError, "probabilities is a masked array"),
        ([[0.5, 0.5]], np.ma.zeros(1, int), TypeError, "labels is a masked array"),
        ([[0.5, 0.5]], np.ma.array([[1.0, 0.0]]), TypeError, "labels is a masked array"),
        (
            [[0.5, 0.5], [2.0, -1.0]],
            [0, 1],
            ValueError,
            r"probabilities\[1\] has the smallest entry -1 and the sum 1",
        ),
        (
            [[3.0, 1.0]],
            [0],
            ValueError,
            r"probabilities\[0\] has the smallest entry 1 and the sum 4",
        ),
        (
            [[0.5, 0.5], [0.5, 0.5], [np.nan, 1]],
            [-1, 0, 0],
            ValueError,
            r"probabilities\[2\] .* nan",
        ),
    ],
)
def test_bad_input_is_named(metric, probabilities, labels, error, message):
    with pytest.raises(error, match=message):
        metric(probabilities, labels)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("labels", "weight", "message"),
    [
        ([[0.5, 0.4]], None, r"labels\[0\] sums to 0.9, expected probabilities that sum to 1"),
        ([[1.5, -0.5]], None, r"labels\[0, 1\] is -0.5, expected a probability >= 0"),
        ([[1.0, 0.0, 0.0]], None, r"labels has shape \(1, 3\), expected \(1, 2\)"),
        ([0], [-1.0], r"sample_weight\[0\] is -1, expected a finite number >= 0"),
        (
            [0],
            [1.0, 2.0],
            r"sample_weight has shape \(2,\), expected \(1,\), one weight for each row",
        ),
    ],
)
def test_bad_soft_labels_and_weights_are_named(metric, labels, weight, message):
    with pytest.raises(ValueError, match=message):
        metric([[0.5, 0.5]], labels, sample_weight=weight)


def test_huge_unsigned_labels_do_not_wrap_to_unlabelled():
    with pytest.raises(ValueError, match=rf"labels\[0\] is {2**64 - 1}, expected"):
        accuracy([[0.5, 0.5]], np.array([2**64 - 1], np.uint64))


@pytest.mark.parametrize("metric", [expected_calibration_error, reliability_bins])
def test_there_is_at_least_one_bin(metric):
    with pytest.raises(ValueError, match="bins is 0, expected at least 1"):
        metric([[0.5, 0.5]], [0], bins=0)


@pytest.mark.parametrize("bins", [15, 25, 49])
def test_a_confidence_on_an_edge_belongs_to_the_bin_below_it(bins):
    for m in range(bins // 2 + 1, bins + 1):
        count = reliability_bins([[m / bins, 1 - m / bins]], [0], bins=bins).count
        assert count.nonzero()[0].tolist() == [m - 1]


@pytest.mark.parametrize("labels", [[0], [[1.0, 0.0]]], ids=["class", "soft"])
def test_the_tolerance_of_sums_makes_no_negative_likelihood(labels):
    assert negative_log_likelihood([[1.0005, 0.0]], labels) == 0


@pytest.mark.parametrize("metric", METRICS)
def test_weights_whose_sum_overflows(metric):
    p, y = [[0.75, 0.25], [0.25, 0.75], [0.5, 0.5]], [0, 0, 1]
    huge = metric(p, y, sample_weight=np.array([1.0, 1.0, 0.5]) * 1.7e308)
    assert close(huge, metric(p, y, sample_weight=[1.0, 1.0, 0.5]))
