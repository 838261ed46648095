"""The linear student: names of features and classes, data frames, labels of any type."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

from kdloss import LinearStudent
from kdloss.trainer.class_names import count_rows
from students import make_task, same_bits

FEATURES = ["age", "size", "mass", "hue", "cost"]
CLASSES = np.array(["bird", "cat", "dog", "eel"])


@pytest.fixture
def task():
    return make_task()


@pytest.fixture(params=["pandas", "polars"])
def frame(request):
    """A function that makes a data frame from an array and its columns' names."""
    if request.param == "pandas":
        return lambda X, columns: pd.DataFrame(X, columns=columns)
    return lambda X, columns: pl.DataFrame(X, schema=columns)


# Features


def test_a_frame_is_its_array_and_its_names_are_kept(task, frame, tmp_path):
    held_out = (frame(task.X, FEATURES), task.y, task.T)
    student = LinearStudent(epochs=3).fit(*held_out, validation=held_out)
    plain = LinearStudent(epochs=3).fit(*task)
    assert same_bits(student, plain)
    with pytest.raises(ValueError, match="validation is given, expected None"):
        plain.resume(*task, validation=0.2)
    assert student.feature_names_in_ == tuple(FEATURES)
    assert plain.feature_names_in_ is None
    student.save(tmp_path / "s.npz")
    student = LinearStudent.load(tmp_path / "s.npz")
    assert student.feature_names_in_ == tuple(FEATURES)
    other = frame(task.X[:, ::-1].copy(), FEATURES[::-1])
    expected = plain.logits(task.X)
    for X in (other, task.X):
        assert (student.logits(X) == expected).all()
        assert (student.predict(X) == plain.predict(task.X)).all()
        assert student.evaluate(X, task.y) == plain.evaluate(task.X, task.y)
    student.resume(other, task.y, task.T, epochs=5, validation=(other, task.y, task.T))
    whole = LinearStudent(epochs=5).fit(*task, validation=tuple(task))
    assert same_bits(student, whole)
    assert student.history == whole.history


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([*FEATURES[:4], "price"], "lacks 'cost' and has the unknown 'price', expected"),
        ([*FEATURES, "price"], "has the unknown 'price', expected"),
        (FEATURES[:4], "lacks 'cost', expected the columns 'age', 'size'"),
    ],
)
def test_other_names_are_refused(task, frame, columns, message):
    student = LinearStudent(epochs=1).fit(frame(task.X, FEATURES), task.y, task.T)
    X = frame(np.zeros((150, len(columns))), columns)
    for use in (student.predict, lambda X: student.resume(X, task.y, task.T, epochs=2)):
        with pytest.raises(ValueError, match=f"^X {message}"):
            use(X)


def test_columns_that_are_not_numbers_are_named(task, frame):
    X = {name: task.X[:, i] for i, name in enumerate(FEATURES)} | {"city": ["Rome"] * 150}
    X = pd.DataFrame(X) if isinstance(frame(task.X, FEATURES), pd.DataFrame) else pl.DataFrame(X)
    with pytest.raises(TypeError, match=r"X has the columns 'city' \(.*expected numbers"):
        LinearStudent().fit(X, task.y, task.T)
    with pytest.raises(ValueError, match="several columns with the name 'a'"):
        LinearStudent().fit(pd.DataFrame(task.X, columns=list("aabcd")), task.y, task.T)


def test_a_frame_for_a_student_without_names_is_told(task, frame):
    student = LinearStudent(epochs=1).fit(*task)
    with pytest.warns(UserWarning, match="its columns are matched by position"):
        student.predict(frame(task.X, FEATURES))
    student.predict(pd.DataFrame(task.X))


def test_a_missing_value_is_named_by_row_and_column(task, frame):
    X = task.X.copy()
    student = LinearStudent(epochs=1).fit(frame(X, FEATURES), task.y, task.T)
    X[31, 2] = np.nan
    named = r"X\[31, 2\] \(column 'mass'\) is nan"
    with pytest.raises(ValueError, match=named):
        LinearStudent().fit(frame(X, FEATURES), task.y, task.T)
    with pytest.raises(ValueError, match=named):
        student.predict(frame(X, FEATURES))
    with pytest.raises(ValueError, match=named):
        student.logits(X)
    task.y[31] = -100
    LinearStudent(epochs=1).fit(frame(X, FEATURES), task.y, task.T)


def test_series_are_read_as_arrays(task):
    weight = np.random.default_rng(0).gamma(1, size=150)
    plain = LinearStudent(epochs=2).fit(*task, sample_weight=weight, alpha_per_row=weight / 99)
    for series in (pd.Series, pl.Series):
        other = LinearStudent(epochs=2).fit(
            task.X,
            series(task.y),
            task.T,
            sample_weight=series(weight),
            alpha_per_row=series(weight / 99),
        )
        assert same_bits(other, plain)


# Teachers' columns


def test_a_teachers_columns_are_matched_to_names(task, frame):
    order = [2, 0, 3, 1]
    named = frame(task.T[:, order], CLASSES[order].tolist())
    plain = LinearStudent(epochs=3).fit(*task)
    student = LinearStudent(epochs=3).fit(task.X, CLASSES[task.y], named, classes=CLASSES)
    assert same_bits(student, plain)
    assert (student.predict(task.X) == CLASSES[plain.predict(task.X)]).all()
    alone = LinearStudent(epochs=3).fit(task.X, CLASSES[task.y], named)
    assert alone.classes_.tolist() == CLASSES[order].tolist()
    assert (alone.predict(task.X) == student.predict(task.X)).all()
    ensemble = [named, frame(task.T, CLASSES.tolist())]
    LinearStudent(epochs=1).fit(task.X, task.y, ensemble[1:])
    both = LinearStudent(epochs=3).fit(task.X, CLASSES[task.y], ensemble, classes=CLASSES)
    assert (both.predict(task.X) == student.predict(task.X)).all()
    with pytest.raises(ValueError, match=r"teacher_logits lacks 'bird'"):
        LinearStudent().fit(task.X, CLASSES[task.y], frame(task.T, list("abcd")), classes=CLASSES)


def test_numbered_columns_are_matched_as_numbers(task, frame):
    order = [2, 0, 3, 1]
    plain = LinearStudent(epochs=3).fit(*task)
    named = frame(task.T[:, order], [str(c) for c in order])
    assert same_bits(LinearStudent(epochs=3).fit(task.X, task.y, named), plain)
    from_one = frame(task.T, ["1", "2", "3", "4"])
    student = LinearStudent(epochs=3).fit(task.X, task.y + 1, from_one)
    assert same_bits(student, plain)
    assert (student.predict(task.X) == plain.predict(task.X) + 1).all()
    with pytest.raises(ValueError, match=r"labels\[\d+\] is 0, expected one of the classes 1, 2"):
        LinearStudent().fit(task.X, task.y, from_one)


# Labels


def kinds(y):
    text = CLASSES[y].tolist()
    return {
        "array": np.array(text),
        "objects": np.array(text, dtype=object),
        "list": text,
        "pandas": pd.Series(text),
        "categorical": pd.Series(text, dtype="category"),
        "polars": pl.Series(text),
        "polars categorical": pl.Series(text, dtype=pl.Categorical),
    }


@pytest.mark.parametrize("kind", kinds(np.arange(4)))
def test_names_of_classes(task, tmp_path, kind):
    plain = LinearStudent(epochs=3).fit(*task)
    student = LinearStudent(epochs=3).fit(task.X, kinds(task.y)[kind], task.T)
    assert same_bits(student, plain)
    student.save(tmp_path / "s.npz")
    student = LinearStudent.load(tmp_path / "s.npz")
    assert student.classes_.tolist() == CLASSES.tolist()
    assert (student.predict(task.X) == CLASSES[plain.predict(task.X)]).all()
    found = student.evaluate(task.X, kinds(task.y)[kind])
    assert found == plain.evaluate(task.X, task.y)
    student.resume(task.X, kinds(task.y)[kind], task.T, epochs=5)
    assert same_bits(student, plain.resume(*task, epochs=5))
    with pytest.raises(ValueError, match=r"labels\[0\] is 'cow', expected one of the classes"):
        student.evaluate(task.X, ["cow"] * 150)


@pytest.mark.parametrize("missing", [None, float("nan"), ""], ids=str)
@pytest.mark.parametrize("series", [list, pd.Series, pl.Series])
def test_missing_names_are_unlabelled(task, missing, series):
    text = [missing if i % 3 else name for i, name in enumerate(CLASSES[task.y].tolist())]
    if series is pl.Series:
        text = [None if one != one else one for one in text]
    task.y[np.arange(150) % 3 > 0] = -1
    student = LinearStudent(epochs=2).fit(task.X, series(text), task.T)
    assert same_bits(student, LinearStudent(epochs=2).fit(*task))


def test_booleans_and_whole_floats(task):
    y = task.X[:, 0] > 0
    T = np.stack([-task.X[:, 0], task.X[:, 0]], axis=1)
    plain = LinearStudent(epochs=2).fit(task.X, y.astype(int), T)
    floats = LinearStudent(epochs=2).fit(task.X, y.astype(float), T)
    named = LinearStudent(epochs=2).fit(task.X, y, T)
    minus = LinearStudent(epochs=2).fit(task.X, np.where(y, 1, -1), T, classes=[-1, 1])
    assert same_bits(plain, floats)
    assert same_bits(plain, named)
    assert same_bits(plain, minus)
    assert named.predict(task.X).dtype == bool
    assert set(minus.predict(task.X).tolist()) == {-1, 1}
    some = np.where(np.arange(150) % 2, y, np.nan)
    unlabelled = LinearStudent(epochs=2).fit(task.X, np.where(np.arange(150) % 2, y, -1), T)
    assert same_bits(LinearStudent(epochs=2).fit(task.X, some, T), unlabelled)


def test_minus_one_is_asked_about(task):
    y = np.where(task.X[:, 0] > 0, 1, -1)
    T = np.stack([-task.X[:, 0], task.X[:, 0]], axis=1)
    for student, teacher in ((LinearStudent(), T), (LinearStudent(alpha=1), None)):
        with pytest.raises(ValueError, match=r"If -1 is a class, pass classes=\[-1, 1\]; if it is"):
            student.fit(task.X, y, teacher)
    answered = LinearStudent(epochs=2).fit(task.X, y, T, n_classes=2)
    assert answered.classes_.tolist() == [0, 1]
    LinearStudent(epochs=2).fit(task.X, np.where(task.y == 3, 3, -1), task.T)


def test_labels_that_count_from_one(task):
    with pytest.warns(UserWarning, match="labels count from 1 to 4: class 0 never occurs"):
        LinearStudent(alpha=1, epochs=1).fit(task.X, task.y + 1, None)
    with pytest.raises(ValueError, match=r"labels\[.*\] is 4, .* if the labels are names of the 4"):
        LinearStudent().fit(task.X, task.y + 1, task.T)
    student = LinearStudent(epochs=1).fit(task.X, task.y + 1, task.T, classes=range(1, 5))
    assert same_bits(student, LinearStudent(epochs=1).fit(*task))


@pytest.mark.parametrize(
    ("labels", "options", "error", "message"),
    [
        (["a", 1] * 75, {}, TypeError, "labels has values of the types int, str"),
        (["a", "b"] * 75, {}, ValueError, "labels have 2 different names, 'a', 'b', expected 4"),
        (["a"] * 150, {"classes": list("aacd")}, ValueError, "expected each name once"),
        (["e"] * 150, {"classes": list("abcd")}, ValueError, r"labels\[0\] is 'e', expected one"),
        (["a"] * 150, {"classes": "abc"}, ValueError, "classes is 'abc', expected a list of"),
        ([0] * 150, {"classes": [0, 1], "n_classes": 3}, ValueError, "n_classes is 3, expected 2"),
        ([1] * 150, {"classes": list("abcd")}, ValueError, r"labels\[0\] is 1, expected one of"),
        (pd.DataFrame({"y": [0] * 150}), {}, ValueError, r"one column, expected .*: labels\['y'\]"),
    ],
)
def test_labels_that_do_not_fit_are_refused(task, labels, options, error, message):
    with pytest.raises(error, match=message):
        LinearStudent().fit(task.X, labels, task.T, **options)


def test_a_student_of_numbers_is_not_given_names(task):
    student = LinearStudent(epochs=1).fit(*task)
    with pytest.raises(TypeError, match="labels are text, expected the classes' numbers, 0 to 3"):
        student.evaluate(task.X, CLASSES[task.y])


def test_rows_are_counted():
    counts = count_rows(["cat", "", "dog", "cat"], CLASSES, sample_weight=[1, 1, 0, 2])
    assert counts == (2, 1, 1, ("cat",), 4)
    assert count_rows([0, -1, -100, 2], 4) == (2, 1, 1, (0, 2), 4)
    assert count_rows(np.array([[0.5, 0.5], [0, 0], [0, 1]]), 2) == (2, 1, 0, (0, 1), 2)
    assert str(counts) == ("2 rows with a label, 1 without, 1 not used; 1 of 4 classes occur")


def test_a_file_of_the_first_format_still_loads(task, tmp_path):
    student = LinearStudent(epochs=2).fit(*task)
    student.save(tmp_path / "new.npz")
    with np.load(tmp_path / "new.npz") as file:
        old = {name: file[name] for name in file if name != "classes"} | {"kdloss_student": 1}
    np.savez(tmp_path / "old.npz", **old)
    loaded = LinearStudent.load(tmp_path / "old.npz")
    assert same_bits(loaded, student)
    assert loaded.classes_.tolist() == [0, 1, 2, 3]


def test_scores_are_those_of_training(task):
    weight = np.random.default_rng(0).gamma(1, size=150)
    task.y[::5] = -1
    student = LinearStudent(epochs=2).fit(*task, validation=(*task, weight))
    found = student.evaluate(task.X, task.y, sample_weight=weight)
    last = student.history[-1]
    assert found == pytest.approx({name: last[f"val_{name}"] for name in found})
    assert list(found) == ["accuracy", "nll", "brier", "ece"]
    soft = np.where(task.y[:, None] == np.arange(4), 1.0, 0.0)
    assert student.evaluate(task.X, soft, sample_weight=weight) == pytest.approx(found)


# Settings


def test_settings_are_read_but_not_changed(task):
    student = LinearStudent(alpha=0.25, epochs=1)
    assert (student.alpha, student.patience, student.standardize) == (0.25, None, False)
    for name in ("alpha", "bias", "standardize"):
        with pytest.raises(AttributeError, match=rf"a new student, LinearStudent\({name}=...\)"):
            setattr(student, name, 1)
    with pytest.raises(AttributeError, match="no attribute 'alhpa' to set"):
        student.alhpa = 1
    with pytest.raises(AttributeError, match="no attribute 'alhpa'"):
        _ = student.alhpa
    assert student.fit(*task).bias.shape == (4,)
