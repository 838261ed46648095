"""The linear student: the document's program, plain SGD, reading of data, scores, validation."""

import json
import math
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest

import kdloss
import tolerances
from kdloss import metrics
from kdloss.trainer import LinearStudent
from students import Recorder, close, make_task, overfitting, same_bits, softmax

DATA = Path(__file__).parents[1] / "data"
SCORES = ("loss", "hard", "soft", "accuracy", "nll", "brier", "ece")


@pytest.fixture
def task():
    return make_task()


def plain_sgd(X, y, T, rates, *, alpha, tau, batch_size, momentum=0.0, l2=0.0, bias=True):
    """W and b after one epoch per learning rate: rows in order, a column of ones for the bias."""
    features, classes = X.shape[1], T.shape[1]
    X = np.hstack([X, np.full((len(X), 1), float(bias))])
    W, v = np.zeros((2, features + 1, classes))
    decay = np.append(np.full(features, l2), 0.0)[:, None]
    for rate in rates:
        for start in range(0, len(X), batch_size):
            rows = slice(start, start + batch_size)
            s, a = X[rows] @ W, np.where(y[rows] < 0, 0.0, alpha)[:, None]
            hard = softmax(s) - np.eye(classes)[y[rows]]
            soft = tau * (softmax(s / tau) - softmax(T[rows] / tau))
            gradient = X[rows].T @ (a * hard + (1 - a) * soft) / len(s)
            v = momentum * v + gradient + decay * W
            W = W - rate * v
    return W[:-1], W[-1]


# Learning


def test_the_documents_program():
    found = np.load(DATA / "document_training.npz")
    X, y, T = found["X"], found["y"], found["X"] @ found["teacher_weights"]
    student = LinearStudent(
        alpha=0.5, tau=4, learning_rate=0.1, batch_size=20, shuffle=False, epochs=50, bias=False
    ).fit(X, y, T, initial_weights=found["student_weights_init"])
    losses = [record["loss"] for record in student.history]
    np.testing.assert_allclose(losses, found["epoch_loss"], rtol=tolerances.DOCUMENT_TRAINING)
    np.testing.assert_allclose(
        student.weights, found["student_weights_final"], rtol=0, atol=tolerances.DOCUMENT_TRAINING
    )
    assert 100 * metrics.accuracy(student.predict_proba(X), y) == found["accuracy_percent"] == 97.5
    assert student.bias.tolist() == [0, 0, 0]


@pytest.mark.parametrize("solver", ["sgd", "lbfgs"])
@pytest.mark.parametrize(
    "loss",
    [
        {"divergence": "reverse_kl"},
        {"divergence": "js", "beta": 0.2},
        {"divergence": "tv"},
        {"divergence": "mse"},
    ],
    ids=str,
)
def test_every_divergence_is_the_losss(task, loss, solver):
    X, y, T = task
    y[::3] = -1
    sgd = {"batch_size": len(X), "shuffle": False, "learning_rate": 0.5}
    options = loss | ({} if solver == "lbfgs" else sgd)
    start = np.random.default_rng(8).normal(0, 0.1, (X.shape[1], T.shape[1]))
    student = LinearStudent(**options, tau=2.0, epochs=1, solver=solver)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # lbfgs is far from its optimum
        student.fit(X, y, T, initial_weights=start)
    before, after = (
        kdloss.kd_loss_and_grad(X @ W + b, T, y, tau=2.0, **loss)
        for W, b in ((start, 0), (student.weights, student.bias))
    )
    at = before if solver == "sgd" else after
    assert student.history[0]["loss"] == pytest.approx(at.loss, rel=tolerances.ROUNDING)
    if solver == "sgd":
        step = start - 0.5 * X.T @ before.grad_logits
        np.testing.assert_allclose(student.weights, step, rtol=0, atol=tolerances.ROUNDING)
    else:
        assert after.loss < before.loss


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"momentum": 0.9},
        {"l2": 0.1},
        {"momentum": 0.5, "l2": 0.05, "alpha": 0.9, "tau": 1.5},
        {"alpha": 0.0},
        {"alpha": 1.0},
        {"batch_size": 1},
        {"batch_size": 10**12},
    ],
    ids=str,
)
def test_every_option_against_plain_sgd(task, options):
    X, y, T = task
    y[::3] = -1
    options = {"alpha": 0.5, "tau": 4.0, "batch_size": 40} | options
    student = LinearStudent(**options, epochs=3, shuffle=False).fit(X, y, T)
    weights, bias = plain_sgd(X, y, T, [0.1] * 3, **options)
    np.testing.assert_allclose(student.weights, weights, rtol=0, atol=tolerances.ROUNDING)
    np.testing.assert_allclose(student.bias, bias, rtol=0, atol=tolerances.ROUNDING)


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [1, 1, 1, 1]),
        ("cosine", [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]),
        ("step", [1, 1, 0.1, 0.01]),
    ],
)
def test_schedules(task, schedule, factors):
    X, y, T = task
    student = LinearStudent(epochs=4, learning_rate=0.2, schedule=schedule, shuffle=False)
    rates = [record["learning_rate"] for record in student.fit(X, y, T).history]
    np.testing.assert_allclose(rates, 0.2 * np.array(factors), rtol=tolerances.ROUNDING)
    weights, _ = plain_sgd(X, y, T, rates, alpha=0.5, tau=4.0, batch_size=128)
    np.testing.assert_allclose(student.weights, weights, rtol=0, atol=tolerances.ROUNDING)


def test_at_alpha_0_labels_are_ignored(task):
    X, y, T = task
    student = LinearStudent(alpha=0, epochs=3).fit(X, y, T)
    for labels in (np.full_like(y, -1), None):
        assert same_bits(LinearStudent(alpha=0, epochs=3).fit(X, labels, T), student)
    with pytest.warns(UserWarning, match="with its rows in reverse order it would agree"):
        assert same_bits(LinearStudent(alpha=0, epochs=3).fit(X, y[::-1], T), student)


def test_at_alpha_1_the_teacher_is_ignored(task):
    X, y, T = task
    student = LinearStudent(alpha=1, epochs=3).fit(X, y, T)
    for teacher in (T[::-1], np.full_like(T, np.nan), None):
        assert same_bits(LinearStudent(alpha=1, epochs=3).fit(X, y, teacher), student)


def test_unlabelled_rows_learn_as_at_alpha_0(task):
    X, y, T = task
    unlabelled = LinearStudent(alpha=0.9, epochs=3).fit(X, np.full_like(y, -1), T)
    assert same_bits(unlabelled, LinearStudent(alpha=0, epochs=3).fit(X, y, T))


@pytest.mark.parametrize("shuffle", [False, True])
def test_padding_rows_are_as_if_absent(task, shuffle):
    X, y, T = task
    at = [0, 10, 10, 70, 150]
    padded = LinearStudent(epochs=3, batch_size=20, shuffle=shuffle).fit(
        np.insert(X, at, np.nan, axis=0), np.insert(y, at, -100), np.insert(T, at, np.nan, axis=0)
    )
    plain = LinearStudent(epochs=3, batch_size=20, shuffle=shuffle).fit(X, y, T)
    assert same_bits(padded, plain)
    assert padded.history == plain.history


def test_an_optimum_is_found(task):
    # The teacher is linear, so the student can become equal to it.
    X, _, T = task
    student = LinearStudent(alpha=0, learning_rate=2.0, batch_size=150, epochs=400, momentum=0.9)
    student.fit(X, None, T)
    assert student.history[-1]["loss"] < student.history[0]["loss"] * tolerances.ROUNDING
    assert (student.predict(X) == T.argmax(axis=1)).all()


# Reading of data


def test_float32_features_stay_float32_and_all_else_becomes_float64(task):
    X, y, T = task
    for dtype in (np.float16, np.float32, np.float64, ">f4", np.longdouble, np.int8, np.bool_):
        student = LinearStudent(epochs=1).fit(X.astype(dtype), y, T)
        expected = np.float32 if dtype in (np.float32, ">f4") else np.float64
        found = {student.weights.dtype, student.bias.dtype, student.predict_proba(X).dtype}
        assert found == {np.dtype(expected)}


def test_float32_training_is_near_float64_training(task):
    X, y, T = task
    single = LinearStudent(epochs=20).fit(X.astype(np.float32), y, T.astype(np.float32))
    assert close(single, LinearStudent(epochs=20).fit(X, y, T), tolerances.FLOAT32_TRAINING)


def test_layout_and_container_do_not_matter(task, tmp_path):
    X, y, T = task
    student = LinearStudent(epochs=3, batch_size=20).fit(X, y, T)
    np.save(tmp_path / "X.npy", X)
    wide = np.zeros((300, 10))
    wide[::2, ::2] = X
    for given in (
        np.load(tmp_path / "X.npy", mmap_mode="r"),
        np.asfortranarray(X),
        wide[::2, ::2],
        X.astype(">f8"),
        X.tolist(),
    ):
        other = LinearStudent(epochs=3, batch_size=20).fit(given, y.tolist(), np.asfortranarray(T))
        assert close(other, student)
        np.testing.assert_allclose(
            other.logits(given), student.logits(X), rtol=0, atol=tolerances.ROUNDING
        )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int16])
def test_the_teacher_may_have_another_type(task, dtype):
    X, y, T = task
    T = T.astype(dtype)
    for other in (T, T.astype(">f8")):
        student = LinearStudent(epochs=3).fit(X, y, other)
        assert same_bits(student, LinearStudent(epochs=3).fit(X, y, T.astype(float)))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64])
def test_labels_may_be_any_integers(task, dtype):
    X, y, T = task
    student = LinearStudent(epochs=3).fit(X, y.astype(dtype), T)
    assert same_bits(student, LinearStudent(epochs=3).fit(X, y, T))


def test_arrays_are_read_in_batches_each_row_once_per_epoch(task):
    X, T = Recorder(task.X), Recorder(task.T)
    task.y[7] = -100
    LinearStudent(epochs=2, batch_size=40, seed=3).fit(X, task.y, T)
    checks, batches = X.reads[:-8], X.reads[-8:]
    assert [len(rows) for rows in checks] == [1, 149]  # a slice, and the values of all
    assert [len(rows) for rows in batches] == [40, 40, 40, 29] * 2
    assert batches == T.reads[-8:]
    epochs = [np.concatenate(batches[:4]).tolist(), np.concatenate(batches[4:]).tolist()]
    assert epochs[0] != epochs[1]
    for rows in epochs:
        assert sorted(rows) == [row for row in range(150) if row != 7]


def test_without_shuffling_rows_come_in_order(task):
    X = Recorder(task.X)
    LinearStudent(epochs=1, batch_size=40, shuffle=False).fit(X, task.y, task.T)
    assert np.concatenate(X.reads[2:]).tolist() == list(range(150))


def test_large_features_are_never_held_in_memory():
    # 800 MB of features and of teacher logits, one row repeated: only copies would take memory.
    rows, features = 200_000, 1000
    X = np.broadcast_to(np.linspace(-1, 1, features, dtype=np.float32), (rows, features))
    T = np.broadcast_to(np.float32([1, -1]), (rows, 2))
    y = np.arange(rows) % 2
    tracemalloc.start()
    student = LinearStudent(epochs=1, batch_size=1000).fit(X, y, T, validation=0.5)
    student.predict(X)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < X.nbytes / 20


def test_equal_seeds_give_equal_students(task):
    one, same, other = (LinearStudent(seed=s, epochs=2).fit(*task) for s in (5, 5, 6))
    assert same_bits(one, same)
    assert one.history == same.history
    assert not same_bits(one, other)


def test_without_a_teacher_the_labels_tell_the_classes(task):
    X, y, _ = task
    assert LinearStudent(alpha=1, epochs=1).fit(X, y, None).weights.shape == (5, 4)
    wider = LinearStudent(alpha=1, epochs=1).fit(X, y, None, n_classes=6)
    assert wider.predict_proba(X).shape == (150, 6)
    assert math.isnan(wider.history[0]["soft"])


# Scores


def test_an_epoch_is_scored_as_its_batches_came(task):
    X, y, T = task
    y[:30], y[30:40] = -1, -100
    W = np.random.default_rng(1).normal(size=(5, 4))
    student = LinearStudent(epochs=1, batch_size=150).fit(X, y, T, initial_weights=W)
    check_scores(student.history[0], X @ W, y, T)


@pytest.mark.parametrize("block", [1, 100, 10**9])
@pytest.mark.parametrize("batch_size", [7, 150])
def test_validation_is_scored_after_the_epoch(task, batch_size, block, monkeypatch):
    monkeypatch.setattr("kdloss.trainer.epochs.BLOCK_ELEMENTS", block)
    X, y, T = task
    y[:30], y[30:40] = -1, -100
    student = LinearStudent(epochs=3, batch_size=batch_size).fit(X, y, T, validation=(X, y, T))
    record = student.history[-1]
    check_scores({name: record[f"val_{name}"] for name in SCORES}, student.logits(X), y, T)


def test_logits_that_wait_for_their_scores_are_bounded(task, monkeypatch):
    sizes = []
    monkeypatch.setattr("kdloss.trainer.epochs.SCORED_ELEMENTS", 100)
    monkeypatch.setattr(metrics.MetricSums, "add", lambda _, p, y, w: sizes.append(p.shape))
    LinearStudent(epochs=1, batch_size=10).fit(*task)
    assert sizes == [(20, 4)] * 7 + [(10, 4)]


def test_validation_rows_are_read_in_the_type_of_training(task):
    X = task.X.astype(np.float32)
    one, other = (
        LinearStudent(epochs=1).fit(X, task.y, task.T, validation=(held_out, task.y, task.T))
        for held_out in (X, X.astype(np.float64))
    )
    assert one.history == other.history


def check_scores(record, logits, y, T, alpha=0.5, tau=4.0):
    """A record's scores against textbook formulas over all rows at once."""
    p1, p, q = softmax(logits), softmax(logits / tau), softmax(T / tau)
    labelled, used = y >= 0, y != -100
    hard = np.where(labelled, -np.log(p1[np.arange(len(y)), y.clip(0)]), 0)
    soft = tau**2 * np.sum(q * np.log(q / p), axis=1)
    a = np.where(labelled, alpha, 0)
    expected = {
        "loss": (a * hard + (1 - a) * soft)[used].mean(),
        "hard": hard[labelled].mean(),
        "soft": soft[used].mean(),
        "accuracy": metrics.accuracy(p1, y),
        "nll": metrics.negative_log_likelihood(p1, y),
        "brier": metrics.brier_score(p1, y),
        "ece": metrics.expected_calibration_error(p1, y),
    }
    found = {name: record[name] for name in SCORES}
    assert found == pytest.approx(expected, rel=tolerances.ROUNDING)


def test_batches_weigh_as_many_rows_as_they_have(task):
    # Tiny steps hardly change the model, so that epochs with any batch size have the same scores.
    whole, *parts = (
        LinearStudent(epochs=1, learning_rate=1e-300, batch_size=size).fit(*task).history[0]
        for size in (150, 40, 1)
    )
    for record in parts:
        assert record == pytest.approx(whole, rel=tolerances.ROUNDING)


def test_records_are_plain_and_complete(task):
    student = LinearStudent(epochs=2).fit(*task, validation=0.2)
    names = ("epoch", "learning_rate", *SCORES, *(f"val_{name}" for name in SCORES), "best_epoch")
    for number, record in enumerate(student.history, start=1):
        assert sorted(record) == sorted(names)
        assert record["epoch"] == number
    assert json.loads(json.dumps(student.history)) == student.history


def test_without_labels_the_metrics_are_nan(task):
    X, _, T = task
    record = LinearStudent(alpha=0, epochs=1).fit(X, None, T).history[0]
    assert [name for name in SCORES if math.isnan(record[name])] == [
        *("hard", "accuracy", "nll", "brier", "ece")
    ]


def test_progress_gets_a_copy_of_every_record(task):
    student = LinearStudent(epochs=3).fit(*task, progress=dict.clear)
    assert [record["epoch"] for record in student.history] == [1, 2, 3]


# Validation and early stopping


def test_a_share_is_held_out_and_never_learnt_from(task):
    X = Recorder(task.X)
    student = LinearStudent(epochs=2, batch_size=150, seed=1)
    with pytest.warns(UserWarning, match="no validation row has a label of the classes 0, which"):
        student.fit(X, task.y, task.T, validation=0.2)
    training, held_out = X.reads[2:4]
    assert len(held_out) == 30
    assert sorted(training + held_out) == list(range(150))
    assert X.reads[4:] == [training, held_out]
    X, y, T = (a[training] for a in task)
    alone = LinearStudent(epochs=2, batch_size=150, shuffle=False).fit(X, y, T)
    assert close(alone, student)


def test_patience_stops_and_returns_to_the_best_epoch():
    options = {"alpha": 1, "learning_rate": 0.03, "batch_size": 10}
    student = LinearStudent(**options, epochs=100, patience=3)
    student.fit(*overfitting(), validation=0.3)
    losses = [record["val_loss"] for record in student.history]
    best = losses.index(min(losses)) + 1
    assert 1 < best == len(losses) - 3 < 97
    assert student.history[-1]["best_epoch"] == best
    until_best = LinearStudent(**options, epochs=best).fit(*overfitting(), validation=0.3)
    assert same_bits(student, until_best)
    stopped = student.resume(*overfitting(), validation=0.3, epochs=200)
    assert len(stopped.history) == len(losses)


def test_patience_returns_to_the_best_epoch_without_having_stopped():
    options = {"alpha": 1, "learning_rate": 0.03, "batch_size": 10}
    student = LinearStudent(**options, epochs=30, patience=30)
    student.fit(*overfitting(), validation=0.3)
    best = student.history[-1]["best_epoch"]
    assert len(student.history) == 30 > best
    assert same_bits(
        student, LinearStudent(**options, epochs=best).fit(*overfitting(), validation=0.3)
    )
