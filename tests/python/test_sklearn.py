"""kdloss.sklearn: scikit-learn's own checks, students and teachers of each kind, refusals."""

import pickle
import re
import runpy
from pathlib import Path

import numpy as np
import pandas
import polars
import pytest
import scipy.sparse
import sklearn
from lightgbm import LGBMClassifier
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import load_iris
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import estimator_checks_generator
from xgboost import XGBClassifier

from kdloss import LinearStudent, kd_loss_batch, softmax_temp
from kdloss.sklearn import DistilledClassifier
from tolerances import BOOSTED, LBFGS, ROUNDING, STUDENT_PROBABILITY

LINEAR = {"solver": "lbfgs", "l2": 1e-3, "standardize": True}


def small_xgboost(**settings):
    return XGBClassifier(**{"n_estimators": 8, "n_jobs": 1, "min_child_weight": 0} | settings)


def small_lightgbm(**settings):
    defaults = {"n_estimators": 8, "n_jobs": 1, "verbose": -1}
    # LightGBM counts rows in a leaf, not their weights, unless one row is enough.
    return LGBMClassifier(**defaults | {"min_child_samples": 1, "min_child_weight": 0} | settings)


CHECKED = {
    "labels alone": DistilledClassifier(alpha=1),
    "teacher": DistilledClassifier(teacher=LogisticRegression()),
    "cross-fitted teacher": DistilledClassifier(teacher=LogisticRegression(), cv=3),
    "weights": DistilledClassifier(LogisticRegression(), LogisticRegression(), tau=1),
    "XGBoost": DistilledClassifier(small_xgboost(), LogisticRegression()),
    "LightGBM": DistilledClassifier(small_lightgbm(), LogisticRegression()),
}
LEFT_OUT = {
    # It skips itself unless SciPy is told to take arrays of other libraries.
    (None, "check_array_api_input"),
    # They require 1e-7, but XGBoost's scores are float32. A test below has a larger tolerance.
    ("XGBoost", "check_sample_weight_equivalence_on_dense_data"),
    ("XGBoost", "check_sample_weight_equivalence_on_sparse_data"),
}
CHECKS = {
    f"{name}: {check.func.__name__} {i}": (estimator, check)
    for name, model in CHECKED.items()
    for i, (estimator, check) in enumerate(estimator_checks_generator(model))
    if (name, check.func.__name__) not in LEFT_OUT and (None, check.func.__name__) not in LEFT_OUT
}


@pytest.mark.filterwarnings("ignore")  # the checks' data are odd: one row, noise, constant columns
@pytest.mark.parametrize(("estimator", "check"), CHECKS.values(), ids=CHECKS.keys())
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.fixture
def iris():
    X, y = load_iris(return_X_y=True)
    return X, np.array(["setosa", "versicolor", "virginica"])[y]


@pytest.fixture
def logits(iris):
    X, y = iris
    return GaussianNB(var_smoothing=0.1).fit(X, y).predict_log_proba(X)


def test_the_default_student_is_the_linear_one(iris, logits):
    X, y = iris
    model = DistilledClassifier(alpha=0.3, tau=2.0).fit(X, y, teacher_logits=logits)
    student = LinearStudent(alpha=0.3, tau=2.0, **LINEAR).fit(X, y, logits)
    np.testing.assert_array_equal(model.predict_proba(X), student.predict_proba(X))
    np.testing.assert_array_equal(model.predict(X), student.predict(X))
    np.testing.assert_allclose(
        np.exp(model.predict_log_proba(X)), model.predict_proba(X), rtol=ROUNDING
    )
    assert model.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    assert model.score(X, y) > 0.9


def test_a_linear_student_keeps_its_settings(iris, logits):
    X, y = iris
    own = LinearStudent(epochs=3, learning_rate=0.01, alpha=0.9)
    model = DistilledClassifier(own, alpha=0.3).fit(X, y, teacher_logits=logits)
    assert model.student_.settings.epochs == 3
    assert model.student_.settings.alpha == 0.3
    assert own.history == []


@pytest.mark.parametrize("divergence", ["reverse_kl", "js", "tv", "mse"])
def test_every_divergence_is_the_losss(iris, logits, divergence):
    X, y = iris
    loss = {"tau": 2.0, "divergence": divergence, "beta": 0.3}
    student = LinearStudent(epochs=3, learning_rate=1e-3)
    found = DistilledClassifier(student, alpha=0.2, **loss).fit(X, y, teacher_logits=logits)
    expected = LinearStudent(epochs=3, learning_rate=1e-3, alpha=0.2, **loss).fit(X, y, logits)
    np.testing.assert_array_equal(found.student_.weights, expected.weights)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("divergence", ["js", "mse"])
@pytest.mark.parametrize("small", [small_xgboost, small_lightgbm])
def test_boosters_take_every_divergence(iris, logits, small, divergence, classes):
    X, y = iris[0][: 50 * classes], iris[1][: 50 * classes]
    T = logits[: 50 * classes, :classes]
    model = DistilledClassifier(small(n_estimators=40), alpha=0.2, tau=2.0, divergence=divergence)
    model.fit(X, y, teacher_logits=T)
    loss = {"alpha": 0.2, "tau": 2.0, "divergence": divergence}
    codes = np.searchsorted(model.classes_, y)
    if divergence == "mse" and classes == 2:
        T = np.stack([0 * T[:, 0], T[:, 1] - T[:, 0]], axis=1)  # as margins
    z = model._logits(X)
    assert kd_loss_batch(z, T, codes, **loss) < 0.5 * kd_loss_batch(0 * z, T, codes, **loss)


def test_sparse_features_are_those_numbers(iris, logits):
    X, y = iris
    student = LinearStudent(solver="lbfgs", l2=1e-3, tolerance=1e-7)
    dense = DistilledClassifier(student).fit(X, y, teacher_logits=logits)
    sparse = clone(dense).fit(scipy.sparse.csr_array(X), y, teacher_logits=logits)
    np.testing.assert_allclose(sparse.predict_proba(X), dense.predict_proba(X), atol=LBFGS)
    default = DistilledClassifier().fit(scipy.sparse.csr_array(X), y, teacher_logits=logits)
    assert not default.student_.settings.standardize
    assert default.score(X, y) > 0.9


def test_a_fitted_teacher_is_asked_and_stays_fitted(iris, logits):
    X, y = iris
    teacher = GaussianNB(var_smoothing=0.1).fit(X, y)
    model = DistilledClassifier(teacher=teacher)
    for one in (model.fit(X, y), clone(model).fit(X[::2], y[::2])):
        assert one.teacher_ is teacher
    given = DistilledClassifier().fit(X, y, teacher_logits=logits)
    np.testing.assert_array_equal(model.predict_proba(X), given.predict_proba(X))


def test_a_teachers_classes_are_matched_by_name(iris):
    X, y = iris
    other = np.char.replace(y, "setosa", "zetosa")  # sorted last
    teacher = GaussianNB(var_smoothing=0.1).fit(X, other)
    few = np.where(y == "setosa", "zetosa", y)
    few = few[few != "versicolor"]
    model = DistilledClassifier(teacher=teacher, alpha=0.1).fit(X[y != "versicolor"], few)
    assert model.classes_.tolist() == ["versicolor", "virginica", "zetosa"]
    assert (model.predict(X[:50]) == "zetosa").all()
    # The labels know a class that the teacher does not.
    teacher = GaussianNB(var_smoothing=0.1).fit(X[y != "versicolor"], y[y != "versicolor"])
    model = DistilledClassifier(teacher=teacher, alpha=0.9).fit(X, y)
    assert model.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    assert model.score(X, y) > 0.8


def test_zeros_of_a_forest_are_mixed_with_the_uniform_distribution(iris):
    X, y = iris
    forest = RandomForestClassifier(5, random_state=0).fit(X, y)
    p = forest.predict_proba(X)
    assert (p == 0).any()
    mixed = np.log(0.999 * p + 0.001 / 3)
    given = DistilledClassifier().fit(X, y, teacher_logits=mixed)
    model = DistilledClassifier(teacher=forest).fit(X, y)
    np.testing.assert_allclose(model.predict_proba(X), given.predict_proba(X), atol=LBFGS)


def test_a_decision_function_of_two_classes_is_one_margin(iris):
    X, y = iris[0][50:], iris[1][50:]
    machine = LinearSVC(C=0.1).fit(X, y)
    margins = machine.decision_function(X)
    both = np.stack([np.zeros(len(X)), margins], axis=1)
    model = DistilledClassifier(teacher=machine).fit(X, y)
    given = DistilledClassifier().fit(X, y, teacher_logits=both)
    np.testing.assert_array_equal(model.predict_proba(X), given.predict_proba(X))


class Memory(ClassifierMixin, BaseEstimator):
    """Is certain of the rows that it was fitted on, and gives equal probabilities for others."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.known_ = dict(zip(map(tuple, X), y, strict=True))
        return self

    def predict_proba(self, X):
        labels = [self.known_.get(tuple(row)) for row in X]
        P = np.array([[label == c for c in self.classes_] for label in labels], float)
        P[P.sum(axis=1) == 0] = 1 / len(self.classes_)
        return P


@pytest.mark.parametrize("cv", [5, KFold(3, shuffle=True, random_state=0), "rows"])
def test_cross_fitting_asks_teachers_that_have_not_seen_the_row(iris, cv):
    X, y = np.arange(150.0).reshape(-1, 1), iris[1]
    if cv == "rows":
        even, odd = np.arange(0, 150, 2), np.arange(1, 150, 2)
        cv = [(even, odd), (odd, even)]
    model = DistilledClassifier(teacher=Memory(), alpha=0, cv=cv)
    p = model.fit(X, y).predict_proba(X)
    np.testing.assert_allclose(p, 1 / 3, atol=LBFGS)  # no teacher had seen its rows
    assert model.teacher_.predict_proba(X).max() == 1
    seen = DistilledClassifier(teacher=Memory(), alpha=0).fit(X, y).predict_proba(X)
    assert seen.max() > 0.5


def test_rows_without_a_label_learn_from_the_teacher(iris):
    X, y = iris
    few = np.where(np.arange(150) % 10 == 0, y, "?")
    teacher = GaussianNB(var_smoothing=0.1)
    model = DistilledClassifier(teacher=teacher, unlabelled="?", cv=3).fit(X, few)
    assert model.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    own = clone(teacher).fit(X[few != "?"], few[few != "?"])
    np.testing.assert_array_equal(model.teacher_.theta_, own.theta_)
    without = DistilledClassifier(teacher=teacher, cv=3).fit(X[few != "?"], few[few != "?"])
    assert model.score(X, y) >= without.score(X, y) - 0.02
    assert not np.array_equal(model.predict_proba(X), without.predict_proba(X))
    assert -1 in DistilledClassifier(alpha=1).fit(X, np.where(y == "setosa", -1, 1)).classes_


def test_columns_of_teacher_logits_have_names(iris, logits):
    X, y = iris
    backwards = logits[:, ::-1]
    expected = DistilledClassifier().fit(X, y, teacher_logits=logits).predict(X)
    names = ["virginica", "versicolor", "setosa"]
    model = DistilledClassifier(classes=names).fit(X, y, teacher_logits=backwards)
    assert (model.predict(X) == expected).all()
    frame = pandas.DataFrame(backwards, columns=names)
    assert (DistilledClassifier().fit(X, y, teacher_logits=frame).predict(X) == expected).all()


@pytest.mark.parametrize("small", [small_xgboost, small_lightgbm])
@pytest.mark.parametrize("classes", [2, 3])
def test_boosters_at_alpha_1_are_the_libraries_own(iris, small, classes):
    X, y = iris[0][: 50 * classes], iris[1][: 50 * classes]
    weight = np.random.default_rng(0).uniform(0.5, 2, len(y))
    codes = np.unique(y, return_inverse=True)[1]
    student = small().set_params(min_child_weight=0.5)
    if isinstance(student, LGBMClassifier):
        student.set_params(min_child_samples=5)
    own = clone(student).fit(X, codes, sample_weight=weight).predict_proba(X)
    model = DistilledClassifier(student, alpha=1).fit(X, y, sample_weight=weight)
    np.testing.assert_allclose(model.predict_proba(X), own, atol=BOOSTED)


@pytest.mark.parametrize("small", [small_xgboost, small_lightgbm])
@pytest.mark.parametrize("classes", [2, 3])
def test_boosters_follow_a_teacher_and_keep_none_of_it(iris, small, classes):
    X, y = iris[0][: 50 * classes], iris[1][: 50 * classes]
    T = 3 * np.eye(classes)[np.unique(y, return_inverse=True)[1]] + np.arange(classes)
    few = np.where(np.arange(len(y)) < 140, y, "?")
    few[: 50 * classes : 3] = "?"
    student = small(n_estimators=60)
    model = DistilledClassifier(student, alpha=0.1, unlabelled="?").fit(X, few, teacher_logits=T)
    assert np.abs(model.predict_proba(X) - softmax_temp(T)).max() < STUDENT_PROBABILITY
    assert not hasattr(student, "classes_")
    stored = pickle.dumps(model)
    assert b"KDObjective" not in stored
    np.testing.assert_array_equal(pickle.loads(stored).predict_proba(X), model.predict_proba(X))


def test_weights_are_repetitions_for_xgboost(iris, logits):
    X, y = iris
    times = np.random.default_rng(1).integers(0, 4, 150)
    model = DistilledClassifier(small_xgboost())
    p = model.fit(X, y, teacher_logits=logits, sample_weight=times).predict_proba(X)
    X3, y3, T3 = (np.repeat(part, times, axis=0) for part in (X, y, logits))
    expected = clone(model).fit(X3, y3, teacher_logits=T3).predict_proba(X)
    np.testing.assert_allclose(p, expected, atol=BOOSTED)


def test_a_lightgbm_student_does_not_pass_margins_for_probabilities(iris, logits):
    X, y = iris
    model = DistilledClassifier(small_lightgbm()).fit(X, y, teacher_logits=logits)
    with pytest.warns(UserWarning, match="raw scores"):
        model.student_.predict_proba(X)


def test_missing_values_and_categories_reach_a_booster(iris, logits):
    X, y = iris
    frame = pandas.DataFrame(X, columns=list("abcd"))
    frame["kind"] = pandas.Categorical(np.where(X[:, 0] > 5.5, "long", "short"))
    frame.loc[::7, "a"] = np.nan
    for student in (small_lightgbm(), small_xgboost(enable_categorical=True)):
        model = DistilledClassifier(student).fit(frame, y, teacher_logits=logits)
        assert model.score(frame, y) > 0.9
        assert model.feature_names_in_.tolist() == [*"abcd", "kind"]


@pytest.mark.parametrize("l2", [0.01, 0.1])
def test_rows_as_weights_are_the_loss_at_tau_1(iris, logits, l2):
    X, y = iris
    options = {"tau": 1.0, "unlabelled": "?"}
    few = np.where(np.arange(150) % 3 == 0, y, "?")
    other = LogisticRegression(C=1 / (l2 * 150), tol=1e-8, max_iter=5000)
    model = DistilledClassifier(other, **options).fit(X, few, teacher_logits=logits)
    own = LinearStudent(solver="lbfgs", l2=l2, tolerance=1e-7)
    expected = DistilledClassifier(own, **options).fit(X, few, teacher_logits=logits)
    np.testing.assert_allclose(model.predict_proba(X), expected.predict_proba(X), atol=LBFGS)
    boosted = DistilledClassifier(HistGradientBoostingClassifier(max_iter=20), **options)
    assert boosted.fit(X, few, teacher_logits=logits).score(X, y) > 0.9


@pytest.mark.filterwarnings("ignore:teacher_logits")  # they do not match the labels
def test_teacher_logits_stay_in_step_in_a_search():
    """The features are noise and only the teacher predicts the labels: rows must stay matched."""
    rng = np.random.default_rng(0)
    X = rng.permutation(np.eye(12).repeat(10, axis=0))
    truth = X.argmax(axis=1) % 3
    y = rng.integers(0, 3, 120)
    y[:3] = 0, 1, 2
    with sklearn.config_context(enable_metadata_routing=True):
        model = DistilledClassifier(alpha=0.0).set_fit_request(teacher_logits=True)
        search = GridSearchCV(
            make_pipeline(StandardScaler(), model),
            {"distilledclassifier__tau": [1.0, 4.0]},
            cv=3,
            scoring=lambda one, X, y: (one.predict(X) == X.argmax(axis=1) % 3).mean(),
        )
        search.fit(X, y, teacher_logits=4 * np.eye(3)[truth])
    assert search.best_score_ == 1


def test_a_search_over_alpha_and_tau(iris):
    X, y = iris
    model = DistilledClassifier(teacher=GaussianNB(), cv=3)
    search = GridSearchCV(model, {"alpha": [0.2, 0.8], "tau": [1.0, 4.0]}, scoring="neg_log_loss")
    assert set(search.fit(X, y).best_params_) == {"alpha", "tau"}
    scores = cross_val_score(DistilledClassifier(teacher=GaussianNB()), X, y, n_jobs=2)
    assert scores.min() > 0.8


def test_pandas_and_polars_frames(iris, logits):
    X, y = iris
    names = ["a", "b", "c", "d"]
    expected = DistilledClassifier().fit(X, y, teacher_logits=logits).predict_proba(X)
    for frame in (pandas.DataFrame(X, columns=names), polars.DataFrame(X, schema=names)):
        model = DistilledClassifier().fit(frame, y, teacher_logits=logits)
        assert model.feature_names_in_.tolist() == names
        np.testing.assert_allclose(model.predict_proba(frame), expected, atol=LBFGS)
        with pytest.raises(ValueError, match="feature names should match"):
            model.predict(frame[names[::-1]])
    scaled = make_pipeline(StandardScaler().set_output(transform="pandas"), DistilledClassifier())
    scaled.fit(X, y, distilledclassifier__teacher_logits=logits)
    assert scaled[-1].feature_names_in_.tolist() == ["x0", "x1", "x2", "x3"]


FITTED = GaussianNB().fit([[0.0], [1.0]], ["a", "b"])
X2, Y2 = np.arange(6.0).reshape(-1, 1), np.array(list("aabbab"))
T2 = np.zeros((6, 2))


@pytest.mark.parametrize(
    ("settings", "y", "options", "message"),
    [
        ({}, Y2, {}, "there is no teacher, expected teacher="),
        ({"alpha": 1, "unlabelled": "a"}, Y2, {}, "there is no teacher"),
        ({"teacher": FITTED}, Y2, {"teacher_logits": T2}, "teacher and teacher_logits are both"),
        ({"teacher": FITTED, "cv": 3}, Y2, {}, "cv is 3, expected None"),
        ({"cv": 3}, Y2, {"teacher_logits": T2}, "cv is 3, expected None"),
        (
            {"teacher": GaussianNB(), "cv": [([0, 2], [1, 3])]},
            Y2,
            {},
            "row 0 has a label but is in no test fold of cv",
        ),
        ({}, Y2, {"teacher_logits": T2[:5]}, r"shape \(5, 2\), expected \(6, classes\)"),
        ({}, Y2, {"teacher_logits": np.zeros((6, 3))}, "has shape .6, 3., expected 2 columns"),
        ({"classes": ["a", "c"]}, Y2, {"teacher_logits": T2}, r"teacher lacks: \['b'\]"),
        ({"classes": ["a"]}, Y2, {"teacher_logits": T2}, r"shape \(1,\), expected \(2,\)"),
        ({"unlabelled": -1}, Y2, {"teacher_logits": T2}, "unlabelled is -1, expected a value"),
        ({"unlabelled": "a"}, np.full(6, "a"), {}, "y is 'a' .unlabelled. in all 6 rows"),
        (
            {"student": LogisticRegression()},
            Y2,
            {"teacher_logits": T2},
            "the loss is 'kl' at tau=4.0, expected 'kl' at tau=1",
        ),
        (
            {"student": LogisticRegression(), "tau": 1, "divergence": "tv"},
            Y2,
            {"teacher_logits": T2},
            "the loss is 'tv' at tau=1, expected 'kl'",
        ),
        (
            {"student": LinearStudent(divergence="js")},
            Y2,
            {"teacher_logits": T2},
            "the student's divergence is 'js', expected that of .* 'kl'",
        ),
        (
            {"student": LGBMClassifier(class_weight="balanced")},
            Y2,
            {"teacher_logits": T2},
            "class_weight is 'balanced', expected None",
        ),
        (
            {"student": XGBClassifier(objective="rank:pairwise")},
            Y2,
            {"teacher_logits": T2},
            "the student's objective is 'rank:pairwise'",
        ),
        (
            {"teacher": KNeighborsClassifier(2)},
            Y2,
            {"sample_weight": np.ones(6)},
            "KNeighborsClassifier takes no sample_weight, expected a teacher",
        ),
    ],
)
def test_refusals(settings, y, options, message):
    with pytest.raises(ValueError, match=message):
        DistilledClassifier(**settings).fit(X2, y, **options)


def test_what_can_be_neither_student_nor_teacher():
    with pytest.raises(TypeError, match="KNeighborsClassifier cannot be a student"):
        DistilledClassifier(KNeighborsClassifier(), tau=1).fit(X2, Y2, teacher_logits=T2)

    class Mute(DummyClassifier):
        predict_proba = predict_log_proba = property(lambda self: self.nothing)

    with pytest.raises(TypeError, match="Mute cannot be a teacher"):
        DistilledClassifier(teacher=Mute()).fit(X2, Y2)


def test_the_example_of_a_search(capsys):
    path = Path(__file__).parents[2] / "examples" / "grid_search.py"
    runpy.run_path(str(path))["main"](["--seeds", "1"])
    alone, _, searched, ceiling = re.findall(r"\| (\d+\.\d) \| 0", capsys.readouterr().out)
    assert float(alone) + 5 < float(searched) <= float(ceiling) + 5


MISSING = """
import sys, json
sys.modules["sklearn"] = None
try:
    import kdloss.sklearn
except ImportError as error:
    print(json.dumps(str(error)))
"""


def test_without_scikit_learn_the_extra_is_named(child):
    message = child(MISSING)
    assert message.startswith("kdloss.sklearn needs scikit-learn (")
    assert message.endswith("): pip install 'kdloss[sklearn]'")
