"""The linear student: saving, loading, resuming."""

import io
import math

import numpy as np
import pytest

from kdloss.trainer import LinearStudent
from students import make_task, overfitting, same_bits


@pytest.fixture
def task():
    return make_task()


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
    with pytest.raises(ValueError, match="epochs is 4, expected at least 6"):
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

    monkeypatch.setattr(f"kdloss.trainer.file.{'np' if broken == 'savez' else 'os'}.{broken}", fail)
    with pytest.raises(OSError, match="disk full"):
        student.resume(*task, epochs=2).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def npy_bytes():
    buffer = io.BytesIO()
    np.save(buffer, np.eye(2))
    return buffer.getvalue()


def file_of(path, dtype=None, **changes):
    """A student's file with some entries changed, or left out if None, or of another type."""
    LinearStudent(epochs=1).fit(np.eye(3), [0, 1, 2], 5 * np.eye(3)).save(path)
    with np.load(path) as file:
        entries = dict(file) | changes
    if dtype is not None:
        entries = {k: v.astype(dtype) if v.dtype.kind == "f" else v for k, v in entries.items()}
    np.savez(path, **{name: value for name, value in entries.items() if value is not None})


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b""), "not an .npz file of plain arrays"),
        (lambda path: path.write_text("text"), "not an .npz file of plain arrays"),
        (lambda path: path.write_bytes(b"PK\x03\x04 cut"), "not an .npz file of plain arrays"),
        (lambda path: path.write_bytes(npy_bytes()), "not an .npz file of plain arrays"),
        (lambda path: np.savez(path, a=np.array([{}])), "not an .npz file of plain arrays"),
        (lambda path: np.savez(path, a=np.eye(2)), "its format is missing"),
        (
            lambda path: file_of(path, kdloss_student=3),
            "its format is 3, expected 1 to 2",
        ),
        (lambda path: file_of(path, classes=np.arange(2)), "its arrays do not fit together"),
        (lambda path: file_of(path, features=np.array(["a"])), "its arrays do not fit together"),
        (lambda path: file_of(path, mean=np.zeros(3)), "its arrays do not fit together"),
        (lambda path: file_of(path, velocity=None), "it has no entry 'velocity'"),
        (lambda path: file_of(path, settings="{"), "Expecting property name"),
        (lambda path: file_of(path, settings='{"alpha": 2}'), "alpha is 2, expected"),
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
