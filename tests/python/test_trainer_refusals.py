"""The linear student: refused arguments, and errors during training."""

import dataclasses
import inspect
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from kdloss import metrics
from kdloss.trainer import LinearStudent, Settings
from students import make_task, softmax


@pytest.fixture
def task():
    return make_task()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"X": np.zeros(150)}, ValueError, r"X has shape \(150,\), expected \(N, > 0\)"),
        ({"X": np.zeros((150, 0))}, ValueError, r"X has shape \(150, 0\), expected \(N, > 0\)"),
        ({"X": np.zeros((150, 5), complex)}, TypeError, "X has dtype complex128, expected"),
        ({"X": [["a"]] * 150}, TypeError, "X has dtype <U1, expected real numbers"),
        ({"X": np.ma.zeros((150, 5))}, TypeError, "X is a masked array"),
        ({"labels": np.ma.zeros(150, int)}, TypeError, "labels is a masked array"),
        ({"labels": np.ma.ones((150, 3))}, TypeError, "labels is a masked array"),
        ({"teacher_logits": np.ma.zeros((150, 3))}, TypeError, "teacher_logits is a masked array"),
        (
            {"labels": np.zeros(149, int)},
            ValueError,
            r"labels has shape \(149,\), expected \(150,\)",
        ),
        ({"labels": np.full(150, 0.5)}, ValueError, r"labels\[0\] is 0.5, expected a class"),
        ({"labels": np.zeros(150, complex)}, TypeError, "labels has dtype complex128, exp"),
        ({"labels": np.arange(150)}, ValueError, r"labels\[4\] is 4, expected a class in \[0, 4\)"),
        ({"labels": np.full(150, -7)}, ValueError, r"labels\[0\] is -7, expected"),
        ({"labels": np.full(150, -100)}, ValueError, "X has 150 rows, expected at least one"),
        ({"labels": None}, ValueError, "labels is None, expected .*; alpha is 0.5"),
        ({"teacher_logits": None}, ValueError, "teacher_logits is None, expected logits"),
        (
            {"teacher_logits": np.zeros((149, 4))},
            ValueError,
            r"teacher_logits has shape \(149, 4\), expected \(150, > 0\)",
        ),
        (
            {"teacher_logits": np.zeros((10, 15, 4))},
            ValueError,
            r"teacher_logits has shape \(10, 15, 4\), expected \(150, > 0\)",
        ),
        ({"n_classes": 5}, ValueError, r"teacher_logits has shape \(150, 4\), expected \(150, 5\)"),
        ({"n_classes": 0}, ValueError, "n_classes is 0, expected at least 1"),
        ({"n_classes": 4.0}, TypeError, "n_classes is 4.0, expected an integer"),
        (
            {"initial_weights": np.zeros((4, 5))},
            ValueError,
            r"initial_weights has shape \(4, 5\), expected .* = \(5, 4\)",
        ),
        (
            {"initial_weights": np.full((5, 4), np.nan)},
            ValueError,
            "initial_weights has NaN or infinity, expected finite",
        ),
        ({"initial_weights": [["a"]]}, TypeError, "initial_weights has dtype <U1, expected"),
        ({"validation": 1.0}, ValueError, "validation is 1.0 of 150 rows, expected"),
        (
            {"validation": 0.001},
            ValueError,
            "validation is 0.001 of 150 rows, .* leaves rows on both sides",
        ),
        ({"validation": True}, TypeError, "validation is a bool, expected a share"),
        ({"validation": (1, 2)}, ValueError, r"validation has 2 values, expected \(X, labels"),
        (
            {"validation": (np.zeros((9, 6)), [0] * 9, np.zeros((9, 4)))},
            ValueError,
            r"validation X has shape \(9, 6\), expected \(N, 5\)",
        ),
        (
            {"validation": (np.zeros((9, 5)), [0] * 9, np.zeros((9, 3)))},
            ValueError,
            r"validation teacher_logits has shape \(9, 3\), expected \(9, 4\)",
        ),
        (
            {"validation": (np.zeros((2, 5)), [0, 4], np.zeros((2, 4)))},
            ValueError,
            r"validation labels\[1\] is 4, expected a class in \[0, 4\)",
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


def test_a_masked_array_is_not_predicted_for(task):
    student = LinearStudent(epochs=1).fit(*task)
    for method in (student.logits, student.predict, student.predict_proba):
        with pytest.raises(TypeError, match="X is a masked array"):
            method(np.ma.array(task.X))


def test_sparse_matrices_are_refused_but_for_features(task):
    message = "teacher_logits is a csr_array, expected slices of it to be arrays"
    with pytest.raises(TypeError, match=message):
        LinearStudent().fit(task.X, task.y, csr_array(task.T))
    with pytest.raises(ValueError, match=r"standardize is True, .* for a sparse X"):
        LinearStudent(standardize=True).fit(csr_array(task.X), task.y, task.T)


def test_an_unlabelled_row_needs_a_teacher(task):
    task.y[3] = -1
    with pytest.raises(ValueError, match=r"teacher_logits is None, .*labels\[3\] is -1"):
        LinearStudent(alpha=1).fit(task.X, task.y, None)


def test_patience_needs_validation(task):
    with pytest.raises(ValueError, match="patience is 3, expected validation"):
        LinearStudent(patience=3).fit(*task)


def test_resuming_needs_the_same_features_and_classes(task):
    student = LinearStudent(epochs=1).fit(*task)
    with pytest.raises(ValueError, match=r"X has shape \(150, 3\), expected \(N, 5\)"):
        student.resume(task.X[:, :3], task.y, task.T, epochs=2)
    with pytest.raises(
        ValueError, match=r"teacher_logits has shape \(150, 5\), expected \(150, 4\)"
    ):
        student.resume(task.X, task.y, np.zeros((150, 5)), epochs=2)


@pytest.mark.parametrize("use", ["logits", "predict", "predict_proba"])
def test_prediction_checks_its_features(task, use):
    student = LinearStudent(epochs=1)
    with pytest.raises(RuntimeError, match="not trained yet"):
        getattr(student, use)(task.X)
    student.fit(*task)
    with pytest.raises(ValueError, match=r"X has shape \(150, 4\), expected \(N, 5\)"):
        getattr(student, use)(task.X[:, :4])


def test_an_untrained_student_has_nothing_to_save(tmp_path):
    assert LinearStudent().history == []
    with pytest.raises(RuntimeError, match="not trained yet"):
        LinearStudent().save(tmp_path / "student.npz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "value", "error", "message"),
    [
        ("alpha", 1.5, ValueError, r"alpha is 1.5, expected a number in \[0, 1\]"),
        ("alpha", math.nan, ValueError, r"alpha is nan, expected a number in \[0, 1\]"),
        ("alpha", "1", TypeError, "alpha is '1', expected a number"),
        ("tau", 0, ValueError, "tau is 0, expected a number > 0 and finite"),
        ("tau", math.inf, ValueError, "tau is inf, expected a number > 0 and finite"),
        ("learning_rate", -0.1, ValueError, "learning_rate is -0.1, expected a number > 0"),
        ("epochs", 0, ValueError, "epochs is 0, expected at least 1"),
        ("epochs", 2.5, TypeError, "epochs is 2.5, expected an integer"),
        ("batch_size", 0, ValueError, "batch_size is 0, expected at least 1"),
        ("schedule", "linear", ValueError, "'linear', expected one of constant, cosine, step"),
        ("momentum", 1, ValueError, r"momentum is 1, expected a number in \[0, 1\)"),
        ("l2", -1, ValueError, "l2 is -1, expected a number >= 0 and finite"),
        ("bias", 1, TypeError, "bias is 1, expected True or False"),
        ("shuffle", None, TypeError, "shuffle is None, expected True or False"),
        ("seed", -1, ValueError, "seed is -1, expected at least 0"),
        ("seed", True, TypeError, "seed is True, expected an integer"),
        ("patience", 0, ValueError, "patience is 0, expected at least 1"),
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
        *(float, float, float, int, int, str, float, float, bool, bool, int, type(None), bool),
        *(str, float, str, float),
    ]


# Errors during training


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ({"T": (77, np.nan)}, "row 77 of its teacher_logits has NaN"),
        ({"T": (77, np.inf)}, "row 77 of its teacher_logits has NaN"),
        ({"T": (77, -np.inf)}, "row 77 of its teacher_logits has NaN"),
        ({}, "learning_rate is too large"),
        ({"T": ((slice(None), 0), -np.inf)}, "learning_rate is too large"),
    ],
    ids=[
        "teacher-nan",
        "teacher-inf",
        "teacher-all-masked",
        "diverged",
        "masked",
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_loss_that_is_not_finite_stops(task, spoil, message, dtype, monkeypatch):
    # Features so large that the logits overflow after one step.
    task.X *= math.sqrt(np.finfo(dtype).max)
    for name, (row, value) in spoil.items():
        getattr(task, name)[row] = value
    # Batches without a finite loss have no scores: binning NaN differs between processors.
    monkeypatch.setattr("kdloss.trainer.epochs.BLOCK_ELEMENTS", 1)
    monkeypatch.setattr(metrics.MetricSums, "add", lambda _, p, y, w: np.isfinite(p).all() or 1 / 0)
    student = LinearStudent(batch_size=50, shuffle=False, learning_rate=1e8)
    with pytest.raises(FloatingPointError, match=f"in epoch 1, batch [12]: .*{message}"):
        student.fit(task.X.astype(dtype), task.y, task.T)
    with pytest.raises(RuntimeError, match="not trained yet"):
        student.predict(task.X)


def test_after_a_failure_the_student_is_that_of_the_last_whole_epoch(task):
    student = LinearStudent(epochs=2).fit(*task)
    weights = student.weights.copy()
    task.X[77, 2] = np.nan
    with pytest.raises(ValueError, match=r"X\[77, 2\] is nan, expected a finite number"):
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
    with pytest.raises(ValueError, match=r"validation X\[5, 0\] is nan"):
        LinearStudent(epochs=1).fit(*task, validation=(X, task.y, task.T))
    T = task.T.copy()
    T[5] = np.nan
    with pytest.raises(
        FloatingPointError, match=r"validation loss .* after epoch 1: row 5 of its teacher_logits"
    ):
        LinearStudent(epochs=1).fit(*task, validation=(task.X, task.y, T))


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
    assert [Path(w.filename).name for w in caught] == [Path(__file__).name]
    for logits in (T, np.log(P), np.zeros_like(T), 2 * P, T - T.mean(axis=1)[:, None] + 1 / 4):
        LinearStudent(epochs=1).fit(X, y, logits)
    assert not recwarn.list
