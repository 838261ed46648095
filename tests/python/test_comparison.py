"""kdloss.comparison: the rows of each seed, what each student learns from, and the verdict."""

import math
import re
from contextlib import nullcontext

import numpy as np
import pytest
from scipy import stats

from kdloss._comparison_students import Lesson, Trained
from kdloss.comparison import LightGBM, Linear, XGBoost, compare, draw_split, judge
from tolerances import PRINTED, SUM_OF_FLOATS

STUDENTS = [Linear(epochs=10), LightGBM(rounds=8), XGBoost(rounds=8)]


def task(rows=500, features=6, classes=3):
    """Features, labels drawn from a teacher's probabilities, and its logits."""
    rng = np.random.default_rng(5)
    X = rng.normal(size=(rows, features))
    T = 1.5 * X @ rng.normal(size=(features, classes))
    P = np.exp(T) / np.exp(T).sum(axis=1, keepdims=True)
    return X, (P.cumsum(axis=1) < rng.random((rows, 1))).sum(axis=1), T


@pytest.mark.parametrize("seed", [0, 1])
def test_split(seed):
    rng = np.random.default_rng(3)
    y = rng.choice([0, 1, 2, -1, -100], p=[0.5, 0.3, 0.02, 0.1, 0.08], size=1000)
    split = draw_split(y, labelled=60, held_out=0.2, seed=seed)
    assert len(split.few) == 60
    assert len(split.held_out) == round(0.2 * (y >= 0).sum())
    assert set(split.few) < set(split.pool)
    assert not set(split.pool) & set(split.held_out)
    # Each row except padding is used once; rows without a label are training rows.
    both = np.sort(np.concatenate([split.pool, split.held_out]))
    np.testing.assert_array_equal(both, np.flatnonzero(y != -100))
    assert (y[split.few] >= 0).all()
    assert (y[split.held_out] >= 0).all()
    for rows in (split.few, split.held_out):
        expected = np.bincount(y[y >= 0]) * len(rows) / (y >= 0).sum()
        assert (np.abs(np.bincount(y[rows]) - expected) <= 2).all()
        assert (np.bincount(y[rows]) >= 1).all()


def test_seeds_draw_all_rows_anew_and_again():
    y = np.arange(400) % 4
    a, b, again = (draw_split(y, seed=seed) for seed in (0, 1, 0))
    assert set(a.held_out) != set(b.held_out)
    assert set(a.few) != set(b.few)
    for one, other in zip(a, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_default_of_labelled():
    y = np.arange(400) % 4
    assert len(draw_split(y).few) == 30  # a tenth of 300
    y[:250] = -1
    split = draw_split(y)
    assert len(split.few) == (y[split.pool] >= 0).sum()


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (np.zeros(50, int), {}, "labels have 1 classes, expected at least 2"),
        (np.arange(50) % 5, {"labelled": 4}, "labelled=4 means 4 of 38 .*from 5.* to 37, so that"),
        (np.arange(50) % 5, {"labelled": 38}, "labelled=38 means 38 of 38"),
        (np.arange(50) % 5, {"held_out": 1.0}, r"held_out is 1.0, expected a share in \(0, 1\)"),
        (np.arange(50) % 5, {"held_out": 0.02}, "held_out=0.02 of 50 .* gives 1 held-out and"),
    ],
)
def test_split_refuses(labels, options, message):
    with pytest.raises(ValueError, match=message):
        draw_split(labels, **options)


class Recorder:
    """A student that records its lessons, and predicts the same for all rows."""

    units = 1

    def __init__(self):
        self.lessons: list[Lesson] = []

    def budget(self, rows):
        return f"{rows} rows"

    def train(self, lesson, advance):
        self.lessons.append(lesson)
        advance()
        return Trained(
            lambda X: np.full((len(X), lesson.targets.classes), 1 / lesson.targets.classes), 7, []
        )


def test_what_each_student_learns_from():
    _, y, T = task()
    X = np.arange(len(y), dtype=float)[:, None]  # the feature is the row's index
    y[400:] = -1
    student, calls = Recorder(), []
    found = compare(
        X, y, T, student=student, labelled=30, seeds=2, tau=2.0, progress=lambda: calls.append(1)
    )
    assert len(calls) == len(student.lessons) == 8
    for split, lessons in zip(
        found.splits, (student.lessons[:4], student.lessons[4:]), strict=True
    ):
        alone, same, more, every = lessons
        for lesson in lessons:
            rows = lesson.X[:, 0].astype(int)
            assert not set(rows) & set(split.held_out)
            assert lesson.rows == len(split.pool)  # the same budget
            assert lesson.seed == split.seed
            np.testing.assert_array_equal(lesson.held_out[0], X[split.held_out])
            if lesson.targets.teacher is not None:
                np.testing.assert_array_equal(lesson.targets.teacher, T[rows])
                assert (lesson.targets.alpha, lesson.targets.loss["tau"]) == (0.5, 2.0)
            known = lesson.targets.labels >= 0
            np.testing.assert_array_equal(lesson.targets.labels[known], y[rows[known]])
        assert alone.targets.teacher is None is every.targets.teacher
        assert alone.targets.alpha == every.targets.alpha == 1
        assert set(alone.X[:, 0]) == set(same.X[:, 0]) == set(split.few)
        assert set(more.X[:, 0]) == set(split.pool)
        assert set(more.X[more.targets.labels >= 0, 0]) == set(split.few)
        assert set(every.X[:, 0]) == set(split.pool[y[split.pool] >= 0])
        assert (every.targets.labels >= 0).all()
    assert found.scores("nll")["labels"] == pytest.approx(math.log(3), rel=PRINTED)
    assert found.costs["labels"].size == 7
    assert found.costs["teacher"] == (None, None)


def test_without_hidden_labels_there_is_no_ceiling():
    _, y, T = task()
    y[100:] = -1
    student = Recorder()
    found = compare(np.zeros((500, 1)), y, T, student=student, seeds=1)
    assert list(found.names) == ["labels", "same_rows", "more_rows", "teacher"]
    assert len(student.lessons) == 3


@pytest.mark.parametrize("student", STUDENTS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("classes", [2, 3])
def test_a_teacher_that_knows_helps_and_noise_does_not(student, classes):
    X, y, T = task(features=12, classes=classes)
    helped = compare(X, y, T, student=student, labelled=12, seeds=10)
    assert helped.verdict().outcome == "helped"
    assert helped.scores("accuracy")["all_labels"].mean() > 0.6
    noise = np.random.default_rng(1).normal(size=T.shape)
    with (
        pytest.warns(UserWarning, match="agrees with")
        if isinstance(student, Linear)
        else nullcontext()
    ):
        found = compare(X, y, noise, student=student, labelled=12, seeds=5)
    assert found.verdict().outcome == "did not help"
    assert "no better than by chance" in found.verdict().sentence


@pytest.mark.parametrize("student", STUDENTS[1:], ids=lambda s: type(s).__name__)
def test_a_booster_of_labels_knows_the_teachers_classes(student):
    """Classes without a label keep a small probability; boosting starts from the frequencies."""
    X, y, T = task()
    T = np.column_stack([T, np.full(len(T), -3.0)])  # a fourth class that never occurs
    found = compare(X, y, T, student=student, labelled=20, seeds=1)
    for models in found.models.values():
        assert models[0].probabilities.shape == (125, 4)
        np.testing.assert_allclose(models[0].probabilities.sum(axis=1), 1, rtol=SUM_OF_FLOATS)
    assert found.models["labels"][0].probabilities[:, 3].max() < 0.01


def test_equal_seeds_give_equal_numbers():
    X, y, T = task()
    a, b = (compare(X, y, T, student=Linear(epochs=2), seeds=2).scores("nll") for _ in range(2))
    for way, values in a.items():
        np.testing.assert_array_equal(values, b[way])


def test_the_test_over_seeds():
    gain = np.array([0.3, 0.5, 0.1, 0.4])
    found = judge(gain, np.ones(4), 0.0)
    assert found.p == pytest.approx(stats.ttest_1samp(gain, 0).pvalue, rel=PRINTED)
    t = gain.mean() / (gain.std(ddof=1) * math.sqrt(1 / 4 + 1 / 3))
    corrected = judge(gain, np.ones(4), 1 / 3)
    assert corrected.p == pytest.approx(2 * stats.t.sf(t, 3), rel=PRINTED)
    assert corrected.p > found.p


CLEAR = [0.40, 0.50, 0.45, 0.35]


@pytest.mark.parametrize(
    ("gain", "accuracy", "outcome", "sentence"),
    [
        (CLEAR, [0.1] * 4, "helped", r"helped: .* NLL is 0\.425 ± 0\.065 nats lower than with the"),
        (CLEAR, [0.1, -0.1, 0.1, 0], "helped", r"p = 0\.\d+, corrected paired t-test"),
        (np.negative(CLEAR), [0] * 4, "did not help", "0.425 ± 0.065 nats higher"),
        (CLEAR, [-0.1] * 4, "did not help", r"but the accuracy is 10\.0 points lower"),
        (CLEAR, [-0.1, 0.08, 0, 0], "cannot tell", r"but the accuracy is 0\.5 points lower"),
        ([0.4, -0.5, 0.45, 0.1], [0] * 4, "cannot tell", "no more than the seeds differ"),
        ([0.4, 0.5], [0.1] * 2, "cannot tell", "too few seeds"),
        ([0.4], [0.1], "cannot tell", "one seed shows no spread"),
        ([math.inf, 0.4], [0.1] * 2, "cannot tell", "a likelihood is infinite"),
        ([0, 0], [0, 0], "cannot tell", "no more than the seeds differ"),
    ],
)
def test_judge(gain, accuracy, outcome, sentence):
    found = judge(np.array(gain), np.array(accuracy), 1 / 3)
    assert found.outcome == outcome
    assert re.search(sentence, found.sentence), found.sentence


def test_an_effect_counts_only_beyond_the_spread():
    """With many seeds a tiny effect has a small p."""
    gain = np.random.default_rng(0).normal(0.3, 1.0, size=400)
    found = judge(gain, np.ones(400), 0.0)
    assert found.p < 1e-4
    assert found.outcome == "cannot tell"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": np.zeros((4, 2))}, r"X has shape \(4, 2\), expected \(500, features\)"),
        ({"labels": np.zeros(500)}, r"labels is float64 of shape \(500,\), expected integers"),
        ({"teacher_logits": np.zeros((4, 3))}, r"teacher_logits has shape \(4, 3\), expected"),
        ({"seeds": 0}, "seeds is 0, expected at least 1"),
    ],
)
def test_compare_refuses(change, message):
    X, y, T = task()
    with pytest.raises(ValueError, match=message):
        compare(**({"X": X, "labels": y, "teacher_logits": T} | change))


@pytest.mark.parametrize("student", [LightGBM, XGBoost])
def test_a_booster_refuses_no_rounds(student):
    with pytest.raises(ValueError, match="rounds is 0, expected a number > 0"):
        student(rounds=0)
