"""The linear student on rows with weights, per-row alphas, soft labels and several teachers."""

import math
import tracemalloc

import ml_dtypes
import numpy as np
import pytest

import kdloss
import tolerances
from kdloss import metrics
from kdloss.trainer import LinearStudent
from students import Recorder, close, make_task, same_bits, softmax


@pytest.fixture
def task():
    return make_task()


def fit(task, **options):
    settings = {"epochs": 3, "batch_size": 40}
    return LinearStudent(**settings).fit(task.X, task.y, task.T, **options)


def plain_sgd(task, targets, alpha, weight, *, tau=4.0, rate=0.1, batch_size=40, epochs=3):
    """W and b: each step follows the weighted mean of its rows' gradients."""
    X = np.hstack([task.X, np.ones((len(task.X), 1))])
    W = np.zeros((X.shape[1], task.T.shape[1]))
    for _ in range(epochs):
        for start in range(0, len(X), batch_size):
            rows = slice(start, start + batch_size)
            s, a = X[rows] @ W, alpha[rows, None]
            hard = softmax(s) - targets[rows]
            soft = tau * (softmax(s / tau) - softmax(task.T[rows] / tau))
            w = weight[rows, None] / weight[rows].sum()
            W = W - rate * X[rows].T @ (w * (a * hard + (1 - a) * soft))
    return W[:-1], W[-1]


# Weights


def test_weights_alphas_and_soft_labels_against_plain_sgd(task):
    rng = np.random.default_rng(2)
    weight, alpha = rng.gamma(1, size=150), rng.random(150)
    soft = rng.dirichlet(np.ones(4), 150)
    student = LinearStudent(epochs=3, batch_size=40, shuffle=False)
    with pytest.warns(UserWarning, match="its rows may be in another order"):  # random labels
        student.fit(task.X, soft, task.T, sample_weight=weight, alpha_per_row=alpha)
    weights, bias = plain_sgd(task, soft, alpha, weight)
    np.testing.assert_allclose(student.weights, weights, rtol=0, atol=tolerances.ROUNDING)
    np.testing.assert_allclose(student.bias, bias, rtol=0, atol=tolerances.ROUNDING)


def test_equal_weights_are_none(task):
    plain = fit(task)
    assert same_bits(fit(task, sample_weight=np.ones(150)), plain)
    assert close(fit(task, sample_weight=np.full(150, 7)), plain)


def test_a_row_of_weight_two_is_two_rows(task):
    weight = np.where(np.arange(150) < 30, 2, 1)
    one = LinearStudent(batch_size=1000, epochs=3).fit(*task, sample_weight=weight)
    twice = np.repeat(np.arange(150), weight)
    other = LinearStudent(batch_size=1000, epochs=3).fit(*(array[twice] for array in task))
    assert close(one, other)
    for name, value in one.history[-1].items():
        assert value == pytest.approx(other.history[-1][name], rel=tolerances.ROUNDING)


@pytest.mark.parametrize("shuffle", [False, True])
def test_rows_of_weight_zero_are_as_if_absent(task, shuffle):
    at = [0, 10, 10, 70, 150]
    X, T = (np.insert(array, at, np.nan, axis=0) for array in (task.X, task.T))
    y = np.insert(task.y, at, 999)
    weight, alpha = np.insert(np.ones(150), at, 0), np.insert(np.full(150, 0.3), at, np.nan)
    options = {"epochs": 3, "batch_size": 20, "shuffle": shuffle}
    student = LinearStudent(**options).fit(X, y, T, sample_weight=weight, alpha_per_row=alpha)
    plain = LinearStudent(**options, alpha=0.3).fit(*task)
    assert same_bits(student, plain)
    assert student.history == plain.history


def test_scores_are_weighted(task):
    task.y[:20] = -1
    weight = np.random.default_rng(3).gamma(1, size=150)
    W = np.random.default_rng(1).normal(size=(5, 4))
    found = (
        LinearStudent(epochs=1, batch_size=150)
        .fit(*task, initial_weights=W, sample_weight=weight)
        .history[0]
    )
    logits = task.X @ W
    parts = kdloss.kd_loss_parts(logits, task.T, task.y, sample_weight=weight)
    options = {"sample_weight": weight}
    p = softmax(logits)
    expected = {
        **parts._asdict(),
        "nll": metrics.negative_log_likelihood(p, task.y, **options),
        "accuracy": metrics.accuracy(p, task.y, **options),
        "brier": metrics.brier_score(p, task.y, **options),
        "ece": metrics.expected_calibration_error(p, task.y, **options),
    }
    assert {name: found[name] for name in expected} == pytest.approx(
        expected, rel=tolerances.ROUNDING
    )
    small = LinearStudent(epochs=1, batch_size=7, learning_rate=1e-300)
    small.fit(*task, initial_weights=W, sample_weight=weight)
    assert small.history[0] | found == pytest.approx(found | {"learning_rate": 0.1})


# Alpha


def test_one_alpha_for_each_row(task):
    assert same_bits(fit(task, alpha_per_row=np.full(150, 0.5)), fit(task))
    alone = fit(task, alpha_per_row=np.where(np.arange(150) < 30, 0.5, 0))
    task.y[30:] = -1
    assert same_bits(alone, fit(task))


def test_alphas_decide_what_may_be_absent(task):
    X, y, T = task
    student = LinearStudent(epochs=2)
    one = student.fit(X, y, None, alpha_per_row=np.ones(150)).weights
    assert (one == LinearStudent(epochs=2, alpha=1).fit(X, y, None).weights).all()
    other = student.fit(X, None, T, alpha_per_row=np.zeros(150)).weights
    assert (other == LinearStudent(epochs=2, alpha=0).fit(X, None, T).weights).all()


# Soft labels


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16, "float32", "float64", ">f8"])
def test_one_hot_labels_are_their_classes(task, dtype):
    task.y[::7] = -1
    plain = fit(task)
    one_hot = np.where(task.y[:, None] == np.arange(4), 1, 0).astype(dtype)
    task.y = one_hot
    student = fit(task)
    assert same_bits(student, plain)
    assert student.history == plain.history


def test_soft_labels_tell_the_classes_without_a_teacher(task):
    soft = np.random.default_rng(0).dirichlet(np.ones(6), 150)
    student = LinearStudent(alpha=1, epochs=1).fit(task.X, soft, None)
    assert student.weights.shape == (5, 6)


def test_soft_labels_are_scored(task):
    soft = np.random.default_rng(0).dirichlet(np.ones(4), 150)
    soft[:20] = 0
    W = np.random.default_rng(1).normal(size=(5, 4))
    student = LinearStudent(epochs=1, batch_size=150)
    with pytest.warns(UserWarning, match="its rows may be in another order"):  # random labels
        found = student.fit(task.X, soft, task.T, initial_weights=W).history[0]
    p, labelled = softmax(task.X @ W), slice(20, None)
    assert found["nll"] == pytest.approx(-(soft * np.log(p))[labelled].sum(axis=1).mean())
    assert found["brier"] == pytest.approx(((p - soft) ** 2)[labelled].sum(axis=1).mean())
    assert found["accuracy"] == (p.argmax(axis=1) == soft.argmax(axis=1))[labelled].mean()


def test_soft_labels_are_read_in_batches(task, monkeypatch):
    monkeypatch.setattr("kdloss.trainer.checks.BLOCK_ELEMENTS", 4 * 60)
    labels = Recorder(np.eye(4)[task.y])
    LinearStudent(epochs=1, batch_size=50).fit(task.X, labels, task.T)
    assert [len(rows) for rows in labels.reads] == [1, 60, 60, 30, 50, 50, 50]


# Teachers


def ensemble(task):
    rng = np.random.default_rng(4)
    return [
        task.T,
        3 * task.T + rng.normal(size=task.T.shape),
        task.T + rng.normal(size=task.T.shape),
    ]


@pytest.mark.parametrize("weights", [None, [2, 1, 0], [0, 0, 5]])
def test_several_teachers_are_their_mixture(task, weights):
    teachers = ensemble(task)
    task.T = kdloss.ensemble_logits(teachers, weights, tau=4.0)
    mixed = fit(task)
    for given in (teachers, tuple(t.tolist() for t in teachers)):
        task.T = given
        assert close(fit(task, teacher_weights=weights), mixed)


def test_a_teacher_of_weight_zero_is_never_read(task):
    plain = fit(task)
    task.T = [np.full_like(task.T, np.nan), task.T]
    assert same_bits(fit(task, teacher_weights=[0, 1]), plain)


def test_one_teacher_may_be_a_list_of_rows_or_the_only_one_of_a_list(task):
    plain, T = fit(task), task.T
    for given in (T.tolist(), [T], [T.tolist()]):
        task.T = given
        assert same_bits(fit(task), plain)


def test_teachers_are_read_in_batches(task):
    teachers = [Recorder(t) for t in ensemble(task)]
    task.T = teachers
    fit(task)
    assert teachers[0].reads == teachers[1].reads == teachers[2].reads
    assert [len(rows) for rows in teachers[0].reads[-4:]] == [40, 40, 40, 30]


def test_a_large_ensemble_of_halves_is_never_held_in_memory():
    # Four teachers of 40 MB, one row repeated: only copies would take memory.
    rows, classes = 20_000, 1000
    T = np.broadcast_to(np.linspace(-1, 1, classes, dtype=np.float16), (rows, classes))
    X = np.broadcast_to(np.float32([1, -1]), (rows, 2))
    tracemalloc.start()
    LinearStudent(epochs=1, batch_size=500, alpha=0).fit(X, None, [T] * 4, validation=0.1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < T.nbytes


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16])
@pytest.mark.parametrize("features", ["float32", "float64"])
def test_a_teacher_of_halves_is_its_own_values(task, dtype, features):
    task.X = task.X.astype(features)
    halves = task.T.astype(dtype)
    task.T = halves
    student = fit(task)
    task.T = halves.astype(np.float64)
    assert same_bits(student, fit(task))


# Validation and resuming


def test_a_share_of_the_rows_keeps_its_weights_and_alphas(task):
    rng = np.random.default_rng(5)
    weight, alpha = rng.gamma(1, size=150), rng.random(150)
    X = Recorder(task.X)
    student = LinearStudent(epochs=1, batch_size=150).fit(
        X, task.y, task.T, sample_weight=weight, alpha_per_row=alpha, validation=0.2
    )
    training, held_out = X.reads[2:4]
    split = [(task.X[r], task.y[r], task.T[r], weight[r], alpha[r]) for r in (training, held_out)]
    other = LinearStudent(epochs=1, batch_size=150, shuffle=False).fit(
        *split[0][:3], sample_weight=split[0][3], alpha_per_row=split[0][4], validation=split[1]
    )
    assert close(other, student)
    assert other.history[0] == pytest.approx(student.history[0], rel=tolerances.ROUNDING)


def test_validation_may_have_several_teachers_or_one(task):
    teachers = ensemble(task)
    mixed = kdloss.ensemble_logits(teachers, [1, 2, 3], tau=4.0)
    records = [
        LinearStudent(epochs=1)
        .fit(task.X, task.y, teachers, teacher_weights=[1, 2, 3], validation=(task.X, task.y, held))
        .history[0]
        for held in (teachers, mixed)
    ]
    assert records[0] == pytest.approx(records[1], rel=tolerances.ROUNDING)


def test_a_resumed_training_has_the_bits_of_an_uninterrupted_one(task):
    options = {
        "sample_weight": np.random.default_rng(0).gamma(1, size=150),
        "alpha_per_row": np.random.default_rng(1).random(150),
        "teacher_weights": [3, 2, 1],
        "validation": 0.2,
    }
    task.T = ensemble(task)
    whole = LinearStudent(epochs=6, momentum=0.9).fit(*task, **options)
    parts = LinearStudent(epochs=2, momentum=0.9).fit(*task, **options)
    parts.resume(*task, **options, epochs=6)
    assert same_bits(parts, whole)
    assert parts.history == whole.history


# Refusals


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"sample_weight": np.ones(149)},
            ValueError,
            r"sample_weight has shape \(149,\), expected",
        ),
        (
            {"sample_weight": np.full(150, -1)},
            ValueError,
            r"sample_weight\[0\] is -1, expected a f",
        ),
        ({"sample_weight": np.full(150, np.nan)}, ValueError, r"sample_weight\[0\] is nan"),
        ({"sample_weight": ["a"] * 150}, TypeError, "sample_weight has dtype <U1"),
        (
            {"sample_weight": np.zeros(150)},
            ValueError,
            "X has 150 rows, expected .* a weight > 0",
        ),
        ({"alpha_per_row": np.full(150, 1.5)}, ValueError, r"alpha_per_row\[0\] is 1.5, expected"),
        ({"alpha_per_row": np.full(150, np.nan)}, ValueError, r"alpha_per_row\[0\] is nan"),
        ({"alpha_per_row": 0.5}, ValueError, r"alpha_per_row has shape \(\), expected \(150,\)"),
        (
            {"alpha_per_row": np.full(150, 0.25), "teacher_logits": None},
            ValueError,
            "teacher_logits is None, expected .*; alpha is 0.25",
        ),
        (
            {"alpha_per_row": np.full(150, 0.25), "labels": None},
            ValueError,
            "labels is None, expected .*; alpha is 0.25",
        ),
        ({"labels": np.full((150, 4), 0.2)}, ValueError, r"labels\[0\] sums to 0.8, expected prob"),
        ({"labels": np.eye(4)[[0] * 150] * -1}, ValueError, r"labels\[0, 0\] is -1, expected a pr"),
        ({"labels": np.full((150, 4), np.nan)}, ValueError, r"labels\[0\] sums to nan"),
        (
            {"labels": np.eye(3)[[0] * 150]},
            ValueError,
            r"labels has shape \(150, 3\), expected \(150, 4",
        ),
        (
            {"labels": np.zeros((150, 4), int)},
            ValueError,
            r"labels has shape .*, expected \(150,\), one per",
        ),
        (
            {"teacher_logits": []},
            ValueError,
            "teacher_logits is an empty list, expected the logits",
        ),
        (
            {"teacher_logits": [np.zeros((150, 4)), np.zeros((150, 3))]},
            ValueError,
            r"teacher_logits\[1\] has shape \(150, 3\), expected \(150, 4\)",
        ),
        (
            {"teacher_weights": [1, 2]},
            ValueError,
            r"teacher_weights has shape \(2,\), expected \(1,\)",
        ),
        ({"teacher_weights": [-1]}, ValueError, r"teacher_weights\[0\] is -1, expected a finite"),
        ({"teacher_weights": [0]}, ValueError, "teacher_weights are all 0"),
        ({"validation": (1, 2, 3, 4, 5, 6)}, ValueError, "validation has 6 values"),
        (
            {"validation": (np.zeros((2, 5)), [0, 1], np.zeros((2, 4)), [1, -1])},
            ValueError,
            r"validation sample_weight\[1\] is -1",
        ),
    ],
)
def test_bad_rows_are_named_and_change_nothing(task, change, error, message):
    student = LinearStudent(epochs=1).fit(*task)
    weights = student.weights.copy()
    arguments = {"X": task.X, "labels": task.y, "teacher_logits": task.T} | change
    with pytest.raises(error, match=message):
        student.fit(**arguments)
    assert (student.weights == weights).all()


def test_a_bad_row_is_found_in_any_block(task, monkeypatch):
    monkeypatch.setattr("kdloss.trainer.checks.BLOCK_ELEMENTS", 4 * 60)
    labels = np.eye(4)[task.y]
    labels[77] /= 2
    labels[33] = math.nan
    weight = np.ones(150)
    weight[33] = 0
    with pytest.raises(ValueError, match=r"labels\[77\] sums to 0.5"):
        LinearStudent().fit(task.X, labels, task.T, sample_weight=weight)


def test_an_unlabelled_soft_row_needs_a_teacher(task):
    labels = np.eye(4)[task.y]
    labels[3] = 0
    with pytest.raises(ValueError, match=r"teacher_logits is None, .*labels\[3\] is all zeros"):
        LinearStudent(alpha=1).fit(task.X, labels, None)


def test_any_teacher_that_looks_like_probabilities_is_warned_of(task):
    task.T = [task.T, softmax(task.T).round(2)]  # rounded, as a file may hold them
    with pytest.warns(UserWarning, match="look like probabilities.*logits_from_probs"):
        fit(task)
