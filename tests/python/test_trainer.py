"""The linear student: the document's program, plain SGD, what is read, resuming, bad input."""

import dataclasses
import inspect
import io
import json
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

import tolerances
from kdloss import metrics, trainer
from kdloss.trainer import LinearStudent, Settings

DATA = Path(__file__).parents[1] / "data"
SCORES = ("loss", "hard", "soft", "accuracy", "nll", "brier", "ece")


@dataclasses.dataclass
class Task:
    """Features, labels and teacher logits of a linear rule, with noisy labels."""

    X: np.ndarray
    y: np.ndarray
    T: np.ndarray

    def __iter__(self):
        return iter((self.X, self.y, self.T))


@pytest.fixture
def task():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(150, 5))
    T = 2 * X @ rng.normal(size=(5, 4))
    y = (T + rng.gumbel(size=T.shape)).argmax(axis=1)
    return Task(X, y, T)


class Recorder:
    """An array read in slices and increasing row numbers only, as from HDF5, and its log."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.reads = array, array.shape, array.dtype, []

    def __getitem__(self, rows):
        taken = np.arange(len(self.array))[rows]
        assert np.all(np.diff(taken) > 0)
        self.reads.append(taken.tolist())
        return self.array[rows]


def same_bits(one, other):
    return one.weights.tobytes() == other.weights.tobytes() and (
        one.bias.tobytes() == other.bias.tobytes()
    )


def close(one, other, tolerance=tolerances.ROUNDING):
    return np.allclose(one.weights, other.weights, rtol=0, atol=tolerance) and np.allclose(
        one.bias, other.bias, rtol=0, atol=tolerance
    )


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


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


# What is learnt


def test_the_documents_program():
    seed = np.load(DATA / "seed_training.npz")
    X, y, T = seed["X"], seed["y"], seed["X"] @ seed["teacher_weights"]
    student = LinearStudent(
        alpha=0.5, tau=4, learning_rate=0.1, batch_size=20, shuffle=False, epochs=50, bias=False
    ).fit(X, y, T, initial_weights=seed["student_weights_init"])
    losses = [record["loss"] for record in student.history]
    np.testing.assert_allclose(losses, seed["epoch_loss"], rtol=tolerances.SEED_TRAINING)
    np.testing.assert_allclose(
        student.weights, seed["student_weights_final"], rtol=0, atol=tolerances.SEED_TRAINING
    )
    assert 100 * metrics.accuracy(student.predict_proba(X), y) == seed["accuracy_percent"] == 97.5
    assert student.bias.tolist() == [0, 0, 0]


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
    for labels in (y[::-1], np.full_like(y, -1), None):
        assert same_bits(LinearStudent(alpha=0, epochs=3).fit(X, labels, T), student)


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
    # A linear teacher on its own rows: the student can become its teacher.
    X, _, T = task
    student = LinearStudent(alpha=0, learning_rate=2.0, batch_size=150, epochs=400, momentum=0.9)
    student.fit(X, None, T)
    assert student.history[-1]["loss"] < student.history[0]["loss"] * tolerances.ROUNDING
    assert (student.predict(X) == T.argmax(axis=1)).all()


# What is read, and how


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
    assert [len(rows) for rows in checks] == [1]
    assert [len(rows) for rows in batches] == [40, 40, 40, 29] * 2
    assert batches == T.reads[-8:]
    epochs = [np.concatenate(batches[:4]).tolist(), np.concatenate(batches[4:]).tolist()]
    assert epochs[0] != epochs[1]
    for rows in epochs:
        assert sorted(rows) == [row for row in range(150) if row != 7]


def test_without_shuffling_rows_come_in_order(task):
    X = Recorder(task.X)
    LinearStudent(epochs=1, batch_size=40, shuffle=False).fit(X, task.y, task.T)
    assert np.concatenate(X.reads[1:]).tolist() == list(range(150))


def test_large_features_are_never_held_in_memory():
    # 800 MB of features and of teacher logits, all of them one row: only copies would take memory.
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


# What is reported


def test_an_epoch_is_scored_as_its_batches_came(task):
    X, y, T = task
    y[:30], y[30:40] = -1, -100
    W = np.random.default_rng(1).normal(size=(5, 4))
    student = LinearStudent(epochs=1, batch_size=150).fit(X, y, T, initial_weights=W)
    check_scores(student.history[0], X @ W, y, T)


@pytest.mark.parametrize("block", [1, 100, 10**9])
@pytest.mark.parametrize("batch_size", [7, 150])
def test_validation_is_scored_after_the_epoch(task, batch_size, block, monkeypatch):
    monkeypatch.setattr(trainer, "BLOCK_ELEMENTS", block)
    X, y, T = task
    y[:30], y[30:40] = -1, -100
    student = LinearStudent(epochs=3, batch_size=batch_size).fit(X, y, T, validation=(X, y, T))
    record = student.history[-1]
    check_scores({name: record[f"val_{name}"] for name in SCORES}, student.logits(X), y, T)


def test_logits_that_wait_for_their_scores_are_bounded(task, monkeypatch):
    sizes = []
    monkeypatch.setattr(trainer, "BLOCK_ELEMENTS", 100)
    monkeypatch.setattr(metrics.MetricSums, "add", lambda _, p, y: sizes.append(p.shape))
    LinearStudent(epochs=1, batch_size=10).fit(*task)
    assert sizes == [(30, 4)] * 5


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
    # Tiny steps leave the model as it is, so that epochs of any batches have the same scores.
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
    student = LinearStudent(epochs=2, batch_size=150, seed=1).fit(X, task.y, task.T, validation=0.2)
    training, held_out = X.reads[1:3]
    assert len(held_out) == 30
    assert sorted(training + held_out) == list(range(150))
    assert X.reads[3:] == [training, held_out]
    X, y, T = (a[training] for a in task)
    alone = LinearStudent(epochs=2, batch_size=150, shuffle=False).fit(X, y, T)
    assert close(alone, student)


def overfitting():
    """Few noisy rows, many features: the validation loss soon rises."""
    rng = np.random.default_rng(1)
    X, W = rng.normal(size=(60, 20)), rng.normal(size=(20, 3))
    y = (X @ W + 5 * rng.gumbel(size=(60, 3))).argmax(axis=1)
    return X, y, None


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


# Saving and resuming


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9, "l2": 0.01},
        {"schedule": "cosine", "shuffle": False},
        {"schedule": "step", "momentum": 0.5, "bias": False},
        {"patience": 5, "learning_rate": 2.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_resumed_training_has_the_bits_of_an_uninterrupted_one(task, tmp_path, options, dtype):
    X, y, T = task.X.astype(dtype), task.y, task.T
    options = {"epochs": 12, "batch_size": 16, "seed": 4} | options
    whole = LinearStudent(**options).fit(X, y, T, validation=0.2)

    interrupted = LinearStudent(**options)

    def save_and_stop(record):
        if record["epoch"] == 5:
            interrupted.save(tmp_path / "student.npz")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted.fit(X, y, T, validation=0.2, progress=save_and_stop)
    loaded = LinearStudent.load(tmp_path / "student.npz")
    for student in (interrupted, loaded):
        assert len(student.history) == 5
        student.resume(X, y, T, validation=0.2)
        assert same_bits(student, whole)
        assert student.history == whole.history


def test_resuming_to_a_larger_total(task):
    student = LinearStudent(epochs=2, momentum=0.9).fit(*task).resume(*task, epochs=6)
    assert student.settings.epochs == 6
    assert same_bits(student, LinearStudent(epochs=6, momentum=0.9).fit(*task))
    before = student.weights.copy()
    assert (student.resume(*task).weights == before).all()
    with pytest.raises(ValueError, match="at least 6, which are done, not 4"):
        student.resume(*task, epochs=4)
    assert student.settings.epochs == 6


def test_fitting_again_starts_again(task):
    student = LinearStudent(epochs=2).fit(*task)
    again = LinearStudent(epochs=2).fit(task.X + 1, task.y, task.T).fit(*task)
    assert same_bits(again, student)
    assert again.history == student.history


@pytest.mark.parametrize("patience", [None, 3])
def test_a_loaded_student_is_the_saved_one(tmp_path, patience):
    X, y, _ = overfitting()
    student = LinearStudent(alpha=1, epochs=30, tau=2, patience=patience)
    student.fit(X, y, None, validation=0.3).save(tmp_path / "named as given")
    loaded = LinearStudent.load(tmp_path / "named as given")
    assert same_bits(loaded, student)
    assert loaded.settings == student.settings
    np.testing.assert_equal(loaded.history, student.history)
    assert (loaded.predict_proba(X) == student.predict_proba(X)).all()
    with np.load(tmp_path / "named as given", allow_pickle=False) as file:
        assert (file["weights"] == student.weights).all()
        assert (file["bias"] == student.bias).all()


def test_nan_scores_survive_the_file(task, tmp_path):
    LinearStudent(alpha=0, epochs=1).fit(task.X, None, task.T).save(tmp_path / "s.npz")
    assert math.isnan(LinearStudent.load(tmp_path / "s.npz").history[0]["accuracy"])


@pytest.mark.parametrize("broken", ["savez", "fsync", "replace"])
def test_a_failed_save_leaves_the_old_file(task, tmp_path, monkeypatch, broken):
    path = tmp_path / "student.npz"
    student = LinearStudent(epochs=1).fit(*task)
    student.save(path)
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(f"kdloss.trainer.{'np' if broken == 'savez' else 'os'}.{broken}", fail)
    with pytest.raises(OSError, match="disk full"):
        student.resume(*task, epochs=2).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def npy_bytes():
    buffer = io.BytesIO()
    np.save(buffer, np.eye(2))
    return buffer.getvalue()


def file_of(path, dtype=None, **changes):
    """A student's file with entries changed, or left out where None, or of another type."""
    LinearStudent(epochs=1).fit(np.eye(3), [0, 1, 2], 5 * np.eye(3)).save(path)
    with np.load(path) as file:
        entries = dict(file) | changes
    if dtype is not None:
        entries = {k: v.astype(dtype) if v.dtype.kind == "f" else v for k, v in entries.items()}
    np.savez(path, **{name: value for name, value in entries.items() if value is not None})


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b""), "no .npz file of plain arrays"),
        (lambda path: path.write_text("text"), "no .npz file of plain arrays"),
        (lambda path: path.write_bytes(b"PK\x03\x04 cut"), "no .npz file of plain arrays"),
        (lambda path: path.write_bytes(npy_bytes()), "no .npz file of plain arrays"),
        (lambda path: np.savez(path, a=np.array([{}])), "no .npz file of plain arrays"),
        (lambda path: np.savez(path, a=np.eye(2)), "its format is missing"),
        (lambda path: file_of(path, kdloss_student=2), "its format is 2, and this version reads 1"),
        (lambda path: file_of(path, velocity=None), "it has no entry 'velocity'"),
        (lambda path: file_of(path, settings="{"), "Expecting property name"),
        (lambda path: file_of(path, settings='{"alpha": 2}'), "alpha must be in"),
        (lambda path: file_of(path, settings='{"beta": 2}'), "beta"),
        (lambda path: file_of(path, history="3"), "its history"),
        (lambda path: file_of(path, bias=np.zeros(2)), "its arrays do not fit together"),
        (lambda path: file_of(path, weights=np.zeros(3)), "its arrays do not fit together"),
        (lambda path: file_of(path, velocity=np.zeros((4, 3), int)), "do not fit together"),
        (lambda path: file_of(path, dtype=np.float16), "its arrays do not fit together"),
    ],
)
def test_a_file_that_is_no_student_is_refused(tmp_path, write, message):
    path = tmp_path / "student.npz"
    write(path)
    with pytest.raises(ValueError, match=r"student\.npz is not a student.*" + message):
        LinearStudent.load(path)


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        LinearStudent.load(tmp_path / "student.npz")


# What is refused


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"X": np.zeros(150)}, ValueError, r"X must have shape \(N, > 0\), not \(150,\)"),
        ({"X": np.zeros((150, 0))}, ValueError, r"X must have shape \(N, > 0\), not \(150, 0\)"),
        ({"X": np.zeros((150, 5), complex)}, TypeError, "X must be real numbers, not complex128"),
        ({"X": [["a"]] * 150}, TypeError, "X must be real numbers, not <U1"),
        ({"labels": np.zeros(149, int)}, ValueError, r"labels .* \(150,\), .* not \(149,\)"),
        ({"labels": np.zeros(150)}, TypeError, "labels must be integers, not float64"),
        ({"labels": np.arange(150)}, ValueError, r"\[0, 4\), .* row 4 has label 4"),
        ({"labels": np.full(150, -7)}, ValueError, "row 0 has label -7"),
        ({"labels": np.full(150, -100)}, ValueError, "X has no row to use: it has 150"),
        ({"labels": None}, ValueError, "labels may be None only if alpha is 0, not 0.5"),
        ({"teacher_logits": None}, ValueError, "teacher_logits may be None only if alpha is 1"),
        (
            {"teacher_logits": np.zeros((149, 4))},
            ValueError,
            r"teacher_logits must have shape \(150, > 0\), not \(149, 4\)",
        ),
        (
            {"teacher_logits": np.zeros((10, 15, 4))},
            ValueError,
            r"teacher_logits must have shape \(150, > 0\), not \(10, 15, 4\)",
        ),
        ({"n_classes": 5}, ValueError, r"teacher_logits .* \(150, 5\), not \(150, 4\)"),
        ({"n_classes": 0}, ValueError, "n_classes must be at least 1, not 0"),
        ({"n_classes": 4.0}, TypeError, "n_classes must be an integer, not 4.0"),
        (
            {"initial_weights": np.zeros((4, 5))},
            ValueError,
            r"initial_weights must have shape .* = \(5, 4\), not \(4, 5\)",
        ),
        (
            {"initial_weights": np.full((5, 4), np.nan)},
            ValueError,
            "initial_weights must be finite",
        ),
        ({"initial_weights": [["a"]]}, TypeError, "initial_weights must be real numbers, not <U1"),
        ({"validation": 1.0}, ValueError, r"validation must be in \(0, 1\).* not 1.0 of 150"),
        ({"validation": 0.001}, ValueError, "leave rows on both sides, not 0.001 of 150 rows"),
        ({"validation": True}, TypeError, "validation must be a share .* not bool"),
        ({"validation": (1, 2)}, ValueError, r"validation must be \(X, labels, .* not 2 values"),
        (
            {"validation": (np.zeros((9, 6)), [0] * 9, np.zeros((9, 4)))},
            ValueError,
            r"validation X must have shape \(N, 5\), not \(9, 6\)",
        ),
        (
            {"validation": (np.zeros((9, 5)), [0] * 9, np.zeros((9, 3)))},
            ValueError,
            r"validation teacher_logits must have shape \(9, 4\), not \(9, 3\)",
        ),
        (
            {"validation": (np.zeros((2, 5)), [0, 4], np.zeros((2, 4)))},
            ValueError,
            r"validation labels must be in \[0, 4\), .* row 1 has label 4",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_bad_data_is_named_and_changes_nothing(task, change, error, message):
    student = LinearStudent(epochs=1).fit(*task)
    weights, history = student.weights.copy(), list(student.history)
    arguments = {"X": task.X, "labels": task.y, "teacher_logits": task.T} | change
    with pytest.raises(error, match=message):
        student.fit(**arguments)
    assert (student.weights == weights).all()
    assert student.history == history


def test_a_sparse_matrix_is_refused(task):
    with pytest.raises(TypeError, match="X must give arrays when sliced, which csr_array does not"):
        LinearStudent().fit(csr_array(task.X), task.y, task.T)


def test_an_unlabelled_row_needs_a_teacher(task):
    task.y[3] = -1
    with pytest.raises(ValueError, match="teacher_logits is None, but labels row 3 is -1"):
        LinearStudent(alpha=1).fit(task.X, task.y, None)


def test_patience_needs_validation(task):
    with pytest.raises(ValueError, match="patience needs validation"):
        LinearStudent(patience=3).fit(*task)


def test_resuming_needs_the_same_features_and_classes(task):
    student = LinearStudent(epochs=1).fit(*task)
    with pytest.raises(ValueError, match=r"X must have shape \(N, 5\), not \(150, 3\)"):
        student.resume(task.X[:, :3], task.y, task.T, epochs=2)
    with pytest.raises(ValueError, match=r"teacher_logits .* \(150, 4\), not \(150, 5\)"):
        student.resume(task.X, task.y, np.zeros((150, 5)), epochs=2)


@pytest.mark.parametrize("use", ["logits", "predict", "predict_proba"])
def test_prediction_checks_its_features(task, use):
    student = LinearStudent(epochs=1)
    with pytest.raises(RuntimeError, match="not trained yet"):
        getattr(student, use)(task.X)
    student.fit(*task)
    with pytest.raises(ValueError, match=r"X must have shape \(N, 5\), not \(150, 4\)"):
        getattr(student, use)(task.X[:, :4])


def test_an_untrained_student_has_nothing_to_save(tmp_path):
    assert LinearStudent().history == []
    with pytest.raises(RuntimeError, match="not trained yet"):
        LinearStudent().save(tmp_path / "student.npz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "value", "error", "message"),
    [
        ("alpha", 1.5, ValueError, r"alpha must be in \[0, 1\], not 1.5"),
        ("alpha", math.nan, ValueError, r"alpha must be in \[0, 1\], not nan"),
        ("alpha", "1", TypeError, "alpha must be a number, not '1'"),
        ("tau", 0, ValueError, "tau must be finite and > 0, not 0"),
        ("tau", math.inf, ValueError, "tau must be finite and > 0, not inf"),
        ("learning_rate", -0.1, ValueError, "learning_rate must be finite and > 0, not -0.1"),
        ("epochs", 0, ValueError, "epochs must be at least 1, not 0"),
        ("epochs", 2.5, TypeError, "epochs must be an integer, not 2.5"),
        ("batch_size", 0, ValueError, "batch_size must be at least 1, not 0"),
        ("schedule", "linear", ValueError, "one of constant, cosine, step, not 'linear'"),
        ("momentum", 1, ValueError, r"momentum must be in \[0, 1\), not 1"),
        ("l2", -1, ValueError, "l2 must be finite and >= 0, not -1"),
        ("bias", 1, TypeError, "bias must be True or False, not 1"),
        ("shuffle", None, TypeError, "shuffle must be True or False, not None"),
        ("seed", -1, ValueError, "seed must be at least 0, not -1"),
        ("seed", True, TypeError, "seed must be an integer, not True"),
        ("patience", 0, ValueError, "patience must be at least 1, not 0"),
    ],
)
def test_bad_settings_are_named(setting, value, error, message):
    with pytest.raises(error, match=message):
        LinearStudent(**{setting: value})


def test_settings_and_constructor_agree():
    signature = inspect.signature(LinearStudent).parameters.values()
    fields = dataclasses.fields(Settings)
    assert {p.name: p.default for p in signature} == {f.name: f.default for f in fields}
    assert LinearStudent().settings == Settings()


def test_settings_become_plain_values():
    student = LinearStudent(alpha=np.float32(0.5), epochs=np.int8(3), bias=np.bool_(False), tau=2)
    assert [type(v) for v in dataclasses.asdict(student.settings).values()] == [
        *(float, float, float, int, int, str, float, float, bool, bool, int, type(None))
    ]


# What goes wrong on the way


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ({"X": (77, np.nan)}, "row 77 of its X is not finite"),
        ({"X": (77, -np.inf)}, "row 77 of its X is not finite"),
        ({"T": (77, np.nan)}, "row 77 of its teacher_logits has NaN"),
        ({"T": (77, np.inf)}, "row 77 of its teacher_logits has NaN"),
        ({"T": (77, -np.inf)}, "row 77 of its teacher_logits has NaN"),
        ({}, "learning_rate is too large"),
        ({"T": ((slice(None), 0), -np.inf)}, "learning_rate is too large"),
    ],
    ids=[
        "X-nan",
        "X-inf",
        "teacher-nan",
        "teacher-inf",
        "teacher-all-masked",
        "diverged",
        "masked",
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_loss_that_is_not_finite_stops(task, spoil, message, dtype, monkeypatch):
    # Features so large that one step of this rate makes logits beyond the type.
    task.X *= math.sqrt(np.finfo(dtype).max)
    for name, (row, value) in spoil.items():
        getattr(task, name)[row] = value
    # Batches without a finite loss have no scores: binning NaN differs between processors.
    monkeypatch.setattr(trainer, "BLOCK_ELEMENTS", 1)
    monkeypatch.setattr(metrics.MetricSums, "add", lambda _, p, y: np.isfinite(p).all() or 1 / 0)
    student = LinearStudent(batch_size=50, shuffle=False, learning_rate=1e8)
    with pytest.raises(FloatingPointError, match=f"in epoch 1, batch [12]: .*{message}"):
        student.fit(task.X.astype(dtype), task.y, task.T)
    with pytest.raises(RuntimeError, match="not trained yet"):
        student.predict(task.X)


def test_after_a_failure_the_student_is_that_of_the_last_whole_epoch(task):
    student = LinearStudent(epochs=2).fit(*task)
    weights = student.weights.copy()
    task.X[77, 2] = np.nan
    with pytest.raises(FloatingPointError, match=r"in epoch 3, batch [12]: row 77"):
        student.resume(*task, epochs=9)
    assert (student.weights == weights).all()
    assert len(student.history) == 2


def test_a_last_step_beyond_all_numbers_is_noticed(task):
    student = LinearStudent(epochs=1, batch_size=150, learning_rate=1e300)
    with pytest.raises(FloatingPointError, match="weights are not finite after epoch 1"):
        student.fit(1e30 * task.X, task.y, task.T)


def test_a_validation_loss_that_is_not_finite_is_noticed(task):
    X = task.X.copy()
    X[5] = np.nan
    with pytest.raises(
        FloatingPointError, match=r"validation loss .* after epoch 1: row 5 of its X"
    ):
        LinearStudent(epochs=1).fit(*task, validation=(X, task.y, task.T))


def test_a_teacher_may_mask_classes(task):
    task.T[::2, 1] = -np.inf
    task.y[:] = 0
    student = LinearStudent(epochs=2).fit(*task)
    assert math.isfinite(student.history[-1]["loss"])


def test_probabilities_as_logits_are_warned_of_once(task, recwarn):
    X, y, T = task
    P = softmax(T).astype(np.float32)
    with pytest.warns(UserWarning, match="teacher_logits look like probabilities") as caught:
        LinearStudent(epochs=2, batch_size=10).fit(X, y, P)
    assert [Path(w.filename).name for w in caught] == ["test_trainer.py"]
    for logits in (T, np.log(P), np.zeros_like(T), 2 * P, T - T.mean(axis=1)[:, None] + 1 / 4):
        LinearStudent(epochs=1).fit(X, y, logits)
    assert not recwarn.list
