"""The linear student: warnings, standardized features, teachers that give probabilities."""

import warnings

import numpy as np
import pytest

import kdloss
import tolerances
from kdloss import LinearStudent
from students import Recorder, close, make_task, same_bits


@pytest.fixture
def task():
    return make_task()


def heard(student, *arguments, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        student.fit(*arguments, **options)
    return [str(w.message) for w in caught]


def labelled_task(rows, classes, agreement, seed=0):
    """Labels, and a teacher that predicts the label in this share of the rows, else any class."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, rows)
    says = np.where(rng.random(rows) < agreement, y, rng.integers(0, classes, rows))
    T = rng.normal(size=(rows, classes)) + 8 * np.eye(classes)[says]
    return rng.normal(size=(rows, 3)), y, T


# Teachers that do not match the labels


@pytest.mark.parametrize("rows", [20, 100, 5000])
@pytest.mark.parametrize("classes", [3, 10])
def test_permuted_columns_are_told_which(rows, classes):
    X, y, T = labelled_task(rows, classes, 0.95)
    messages = heard(LinearStudent(epochs=1), X, y, np.roll(T, 1, axis=1))
    assert len(messages) == 1
    assert "with its columns permuted it would agree" in messages[0]
    assert "reading column 0 as 2" in messages[0] if classes == 3 else "0 as 9" in messages[0]


def test_two_columns_of_ten_exchanged_are_told():
    X, y, T = labelled_task(800, 10, 0.9)
    T[:, [3, 7]] = T[:, [7, 3]]
    messages = heard(LinearStudent(epochs=1), X, y, T)
    assert len(messages) == 1
    assert "reading column 3 as 7, 7 as 3." in messages[0]


@pytest.mark.parametrize("rows", [25, 300, 5000])
def test_reversed_rows_are_told(rows):
    X, y, T = labelled_task(rows, 5, 0.95)
    messages = heard(LinearStudent(epochs=1), X, y, T[::-1])
    assert len(messages) == 1
    assert "with its rows in reverse order it would agree" in messages[0]


@pytest.mark.parametrize("classes", [2, 10])
def test_shuffled_rows_are_told(classes):
    X, y, T = labelled_task(400, classes, 0.95)
    T = T[np.random.default_rng(3).permutation(400)]
    messages = heard(LinearStudent(epochs=1), X, y, T)
    assert len(messages) == 1
    assert "its rows may be in another order than those of X" in messages[0]


@pytest.mark.parametrize(
    ("rows", "classes", "agreement"),
    [(5000, 2, 0.1), (5000, 10, 0.1), (300, 2, 0.35), (100, 10, 0.35), (8, 4, 0.0), (12, 2, 0.0)],
)
@pytest.mark.parametrize("seed", range(10))
def test_weak_teachers_and_few_labels_are_left_in_peace(rows, classes, agreement, seed):
    X, y, T = labelled_task(rows, classes, agreement, seed)
    assert heard(LinearStudent(epochs=1), X, y, T) == []


def test_only_some_labelled_rows_of_the_teacher_are_read():
    X, y, T = labelled_task(9000, 3, 0.9)
    y[::2] = -1
    T[::2] = np.nan
    teacher = Recorder(T)
    with pytest.raises(FloatingPointError):
        LinearStudent(epochs=1).fit(X, y, teacher)
    read = np.concatenate(teacher.reads[:-1])[129:]  # after a slice and a first batch
    assert len(read) == 4096
    assert (y[read] >= 0).all()


def test_each_teacher_and_the_validation_are_checked(task):
    X, y, T = task
    messages = heard(LinearStudent(epochs=1), X, y, [T, T[::-1]], validation=(X, y, T[::-1]))
    assert [message.split(" agrees")[0] for message in messages] == [
        "validation teacher_logits",
        "teacher_logits[1]",
    ]


@pytest.mark.parametrize("shape", [(150,), (150, 1)])
def test_one_column_for_two_classes_is_refused(task, shape):
    y = (task.X[:, 0] > 0).astype(int)
    with pytest.raises(ValueError, match=r"numpy.column_stack\(\[0 \* z, z\]\), for its prob"):
        LinearStudent().fit(task.X, y, task.X[:, 0].reshape(shape))


# Training that fails


def test_a_loss_that_rises_is_told(task):
    X, y, T = task
    messages = heard(LinearStudent(epochs=3, learning_rate=5.0, momentum=0.9), 30 * X, y, T)
    assert "the loss ends at" in messages[0]
    assert "standardize=True" in messages[0]


def test_a_loss_above_that_of_the_frequencies_is_told(task):
    y = np.where(np.arange(150) % 10, 0, 1)
    options = {"alpha": 1, "epochs": 6, "learning_rate": 1e-6}
    messages = heard(LinearStudent(**options), task.X, y, None)
    assert "the hard loss ends at 0.6931, above the 0.3251" in messages[0]


def test_a_student_of_one_class_is_told(task):
    y = np.where(np.arange(150) % 10, 0, 1)
    student = LinearStudent(alpha=1, epochs=20)
    message = "predicts 'a' for all of 150 labelled training rows, whose labels have 2 classes"
    assert message in heard(student, 1e-3 * task.X, np.array(["a", "b"])[y], None)[-1]


def test_a_class_without_validation_rows_is_told(task):
    X, y, T = task
    keep = y != 2
    with pytest.warns(UserWarning, match="no validation row has a label of the classes 2, which"):
        LinearStudent(epochs=1).fit(X, y, T, validation=(X[keep], y[keep], T[keep]))


# Standardized features


def test_standardized_features_are_those_of_the_rows_that_count(task, tmp_path):
    X, y, T = task
    X = X * [1, 100, 1e-3, 1, 1] + [0, 5, 7, 0, 1e6]
    X[:, 3] = 0.1
    weight = np.ones(150)
    y[:10], weight[10:20] = -100, 0
    X[:20] = np.nan
    student = LinearStudent(epochs=4, standardize=True).fit(X, y, T, sample_weight=weight)
    mean, scale = X[20:].mean(axis=0), X[20:].std(axis=0)
    mean[3], scale[3] = 0.1, 1
    np.testing.assert_allclose(student.mean_, mean, rtol=tolerances.ROUNDING)
    np.testing.assert_allclose(student.scale_, scale, rtol=1e-9)
    Z = (X - student.mean_) / student.scale_
    plain = LinearStudent(epochs=4).fit(Z, y, T, sample_weight=weight)
    assert same_bits(student, plain)
    assert (student.logits(X[20:]) == plain.logits(Z[20:])).all()
    student.save(tmp_path / "s.npz")
    loaded = LinearStudent.load(tmp_path / "s.npz")
    assert (loaded.logits(X[20:]) == plain.logits(Z[20:])).all()
    loaded.resume(X, y, T, sample_weight=weight, epochs=6)
    assert same_bits(loaded, plain.resume(Z, y, T, sample_weight=weight, epochs=6))


def test_mean_and_scale_do_not_depend_on_blocks_or_held_out_rows(task, monkeypatch):
    X, y, T = task
    whole = LinearStudent(epochs=1, standardize=True).fit(X, y, T)
    monkeypatch.setattr("kdloss.trainer.columns.BLOCK_ELEMENTS", 5 * 7)
    blocks = LinearStudent(epochs=1, standardize=True).fit(X, y, T, validation=(X + 100, y, T))
    assert close(whole, blocks)
    with pytest.raises(ValueError, match="column 2 of X is too large to standardize"):
        LinearStudent(standardize=True).fit(X * [1, 1, 1e200, 1, 1], y, T)


# Probabilities


def test_zeros_are_masked_or_smoothed_by_choice():
    P = np.array([[0.75, 0.25, 0.0], [0.5, 0.25, 0.25]])
    with np.errstate(divide="ignore"):
        assert (kdloss.logits_from_probs(P) == np.log(P)).all()
    assert (kdloss.logits_from_probs(P, zeros="mask") == kdloss.logits_from_probs(P)).all()
    expected = np.log(0.999 * P + 0.001 / 3)
    found = kdloss.logits_from_probs(P, zeros=1e-3)
    np.testing.assert_allclose(found, expected, rtol=tolerances.ROUNDING)
    for zeros in ("smooth", 0, 1, -0.5):
        with pytest.raises(ValueError, match=r"zeros is .*, expected a share in \(0, 1\) or"):
            kdloss.logits_from_probs(P, zeros=zeros)


def test_a_teacher_of_probabilities_with_zeros_is_told(task):
    X, y, T = task
    P = kdloss.softmax_temp(T)
    P[P < 0.01] = 0
    P /= P.sum(axis=1, keepdims=True)
    y = np.full_like(y, -1)
    with pytest.warns(UserWarning, match=r"logarithms of probabilities, .* are 0.*zeros=1e-3"):
        LinearStudent(epochs=1).fit(X, y, kdloss.logits_from_probs(P))
    LinearStudent(epochs=1).fit(X, y, kdloss.logits_from_probs(P, zeros=1e-3))


def test_one_column_of_probabilities_becomes_two():
    found = kdloss.logits_from_probs(np.array([[0.25], [0.5]]))
    np.testing.assert_allclose(found, np.log([[0.75, 0.25], [0.5, 0.5]]))
    with pytest.raises(ValueError, match=r"probs\[1, 0\] is 1.5, expected a probability <= 1"):
        kdloss.logits_from_probs([[0.5], [1.5]])
    with pytest.raises(ValueError, match=r"probs\[1, 0\] is -1, expected a probability >= 0"):
        kdloss.logits_from_probs([[0.5], [-1]])
    with pytest.raises(ValueError, match=r"probs sums to 0.9, .* pass probs.reshape\(-1, 1\)"):
        kdloss.logits_from_probs([0.5, 0.4])
