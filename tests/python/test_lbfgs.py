"""LinearStudent(solver="lbfgs"): the optimum, its history, its limits, sparse features."""

import dataclasses
import json

import numpy as np
import pytest
import scipy.sparse
from sklearn.linear_model import LogisticRegression

import kdloss
from kdloss import LinearStudent
from kdloss.trainer.lbfgs import minimise
from students import Recorder, close, make_task, overfitting, same_bits
from tolerances import FLOAT32_FEATURES, LBFGS, ROUNDING

TOLERANCE = 1e-7


@pytest.fixture
def task():
    return make_task()


def lbfgs(**settings):
    return LinearStudent(solver="lbfgs", **{"tolerance": TOLERANCE} | settings)


def after(epochs, *rows, alpha=0.5, **options):
    """A student after this many iterations."""
    with pytest.warns(UserWarning, match="lbfgs ends with a gradient"):
        return lbfgs(epochs=epochs, alpha=alpha).fit(*rows, **options)


def gradient(student, X, labels, teacher, **options):
    """The gradient of the whole objective at the student's weights, on float64 arrays."""
    its = student.settings
    options = {"alpha": its.alpha, "tau": its.tau} | options
    _, G = kdloss.kd_loss_and_grad(X @ student.weights + student.bias, teacher, labels, **options)
    return X.T @ G + its.l2 * student.weights, G.sum(axis=0)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("l2", [0.0, 0.01])
def test_the_gradient_vanishes(task, alpha, l2):
    student = lbfgs(alpha=alpha, l2=l2).fit(*task)
    for part in gradient(student, *task):
        assert np.abs(part).max() <= TOLERANCE * (1 + LBFGS)


def test_every_kind_of_row_enters_the_objective(task):
    rng = np.random.default_rng(2)
    weight, alpha = rng.uniform(0, 2, 150), rng.uniform(0, 1, 150)
    soft = np.eye(4)[task.y] * 0.7 + 0.3 / 4
    soft[::5] = 0  # unlabelled
    teachers, shares = [task.T, task.T + rng.normal(size=task.T.shape)], [2.0, 1.0]
    student = lbfgs(l2=1e-3).fit(
        task.X, soft, teachers, sample_weight=weight, alpha_per_row=alpha, teacher_weights=shares
    )
    mixture = kdloss.ensemble_logits(teachers, shares, tau=4.0)
    for part in gradient(student, task.X, soft, mixture, alpha=alpha, sample_weight=weight):
        assert np.abs(part).max() <= TOLERANCE * (1 + LBFGS)


@pytest.mark.parametrize("weighted", [False, True])
def test_at_alpha_1_it_is_logistic_regression(task, weighted):
    weight = np.random.default_rng(3).uniform(0.5, 2, 150) if weighted else np.ones(150)
    l2 = 0.01
    student = lbfgs(alpha=1, l2=l2).fit(task.X, task.y, None, sample_weight=weight)
    other = LogisticRegression(C=1 / (l2 * weight.sum()), tol=TOLERANCE, max_iter=1000)
    other.fit(task.X, task.y, sample_weight=weight)
    np.testing.assert_allclose(student.weights.T, other.coef_, rtol=0, atol=LBFGS)
    np.testing.assert_allclose(student.bias, other.intercept_, rtol=0, atol=LBFGS)


def test_its_loss_is_below_that_of_gradient_descent(task):
    descent = LinearStudent(epochs=200).fit(*task)
    assert lbfgs().fit(*task).history[-1]["loss"] < descent.history[-1]["loss"]


def test_weights_are_repetitions(task):
    times = np.random.default_rng(4).integers(0, 4, 150)
    weighted = lbfgs(l2=1e-3).fit(*task, sample_weight=times)
    repeated = lbfgs(l2=1e-3).fit(*(np.repeat(part, times, axis=0) for part in task))
    assert close(weighted, repeated, LBFGS)


def test_padding_is_absent(task):
    labels = np.where(np.arange(150) < 50, -100, task.y)
    padded = lbfgs().fit(np.where(np.arange(150) < 50, 9.0, task.X.T).T, labels, task.T)
    assert close(padded, lbfgs().fit(task.X[50:], task.y[50:], task.T[50:]), LBFGS)


def test_no_bias(task):
    student = lbfgs(bias=False).fit(*task)
    assert student.bias.tolist() == [0, 0, 0, 0]
    assert np.abs(gradient(student, *task)[0]).max() <= TOLERANCE * (1 + LBFGS)


def test_float32_features_are_computed_in_float64(task):
    student = lbfgs().fit(task.X.astype(np.float32), task.y, task.T.astype(np.float32))
    assert student.weights.dtype == np.float64
    assert close(student, lbfgs().fit(*task), FLOAT32_FEATURES)


def test_blocks_do_not_change_the_sum(task, monkeypatch):
    whole = lbfgs().fit(*task)
    monkeypatch.setattr("kdloss.trainer.lbfgs.BLOCK_ELEMENTS", 6 * 7)  # seven rows at a time
    assert close(whole, lbfgs().fit(*task), LBFGS)


def test_rows_are_read_in_slices(task, monkeypatch):
    monkeypatch.setattr("kdloss.trainer.lbfgs.BLOCK_ELEMENTS", 5 * 50)
    X, T = Recorder(task.X), Recorder(task.T)
    assert same_bits(lbfgs().fit(X, task.y, T), lbfgs().fit(*task))
    assert [len(read) for read in X.reads[-3:]] == [50, 50, 50]


THREADS = """
import json, numpy as np
from kdloss import LinearStudent
from students import make_task
X, y, T = (np.tile(part, (40, 1) if part.ndim == 2 else 40) for part in make_task())
student = LinearStudent(solver="lbfgs", epochs=8, tolerance=1e-2).fit(X, y, T)
print(json.dumps(student.weights.tobytes().hex()))
"""


def test_threads_do_not_change_the_bits(child):
    one, two = (child(THREADS, OMP_NUM_THREADS=str(n), OPENBLAS_NUM_THREADS=str(n)) for n in (1, 2))
    assert one == two


def test_history_has_the_scores_of_each_iteration(task):
    seen, students = [], []
    student = lbfgs(l2=0.01)

    def progress(record):
        seen.append(record)
        students.append(student.weights.copy())

    student.fit(*task, validation=(task.X, task.y, task.T), progress=progress)
    descent = LinearStudent(epochs=1).fit(*task, validation=(task.X, task.y, task.T))
    assert seen == student.history
    assert [record["epoch"] for record in seen] == list(range(1, len(seen) + 1))
    names = set(descent.history[0]) - {"learning_rate"} | {"gradient"}
    assert all(set(record) == names for record in seen)
    assert seen[-1]["gradient"] <= TOLERANCE < seen[-2]["gradient"]
    for record in (seen[0], seen[-1]):
        for name in ("loss", "hard", "soft", "accuracy", "nll", "brier", "ece"):
            # Training and validation rows are the same here, and so is the model that is scored.
            assert record[name] == pytest.approx(record[f"val_{name}"], rel=ROUNDING)
    assert not np.array_equal(students[0], students[-1])


def test_a_progress_that_raises_keeps_the_last_iteration(task):
    student = lbfgs()

    def progress(record):
        if record["epoch"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        student.fit(*task, progress=progress)
    assert len(student.history) == 3
    assert same_bits(student, after(3, *task))


def test_resume_goes_on_to_the_same_optimum(task, tmp_path):
    short = after(4, *task)
    short.save(tmp_path / "student.npz")
    later = LinearStudent.load(tmp_path / "student.npz").resume(*task, epochs=500)
    assert [record["epoch"] for record in later.history] == list(range(1, len(later.history) + 1))
    assert later.history[:4] == short.history
    assert close(later, lbfgs().fit(*task), LBFGS)
    records = len(later.history)
    assert len(later.resume(*task).history) == records  # it is at the optimum


def test_files_keep_the_bits(task, tmp_path):
    student = lbfgs().fit(*task)
    student.save(tmp_path / "student.npz")
    again = LinearStudent.load(tmp_path / "student.npz")
    assert same_bits(student, again)
    assert again.settings == student.settings
    assert again.history == student.history


def test_patience_stops_and_keeps_the_best():
    X, y, _ = overfitting()
    student = lbfgs(alpha=1, patience=3, epochs=100).fit(X, y, None, validation=0.5)
    losses = [record["val_loss"] for record in student.history]
    best = int(np.argmin(losses))
    assert len(losses) == best + 1 + 3
    assert same_bits(student, after(best + 1, X, y, None, alpha=1, validation=0.5))


def test_a_start_at_the_optimum_has_one_record():
    X, T = np.ones((4, 1)), np.zeros((4, 2))
    student = lbfgs(alpha=0).fit(X, None, T)
    assert [record["epoch"] for record in student.history] == [1]
    assert student.weights.tolist() == [[0, 0]]


def test_too_few_epochs_are_told(task):
    with pytest.warns(
        UserWarning,
        match=r"^lbfgs ends with a gradient of 0\.\d+, above its tolerance of 1e-07, after 2 "
        r"epochs: use standardize=True if the features have different scales, more epochs, or some "
        r"l2$",
    ) as warned:
        lbfgs(epochs=2).fit(*task)
    assert warned[0].filename == __file__


@pytest.mark.parametrize(
    ("solver", "setting", "value", "owner"),
    [
        ("lbfgs", "learning_rate", 0.2, "sgd"),
        ("lbfgs", "batch_size", 32, "sgd"),
        ("lbfgs", "schedule", "cosine", "sgd"),
        ("lbfgs", "momentum", 0.9, "sgd"),
        ("lbfgs", "shuffle", False, "sgd"),
        ("sgd", "tolerance", 1e-3, "lbfgs"),
    ],
)
def test_a_setting_of_the_other_solver_is_refused(solver, setting, value, owner):
    with pytest.raises(ValueError, match=f"^{setting} is given .* only with solver='{owner}'"):
        LinearStudent(solver=solver, **{setting: value})


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="solver is 'newton', expected one of sgd, lbfgs"):
        LinearStudent(solver="newton")
    with pytest.raises(ValueError, match="tolerance is 0, expected a number > 0 and finite"):
        LinearStudent(solver="lbfgs", tolerance=0)


def test_each_solver_has_its_own_number_of_epochs():
    assert [LinearStudent(solver=name).settings.epochs for name in ("sgd", "lbfgs")] == [50, 1000]


MISSING = """
import sys, json
sys.modules["scipy"] = None
import numpy as np
from kdloss import LinearStudent
try:
    LinearStudent(solver="lbfgs").fit(np.eye(3), [0, 1, 2], np.eye(3) * 9)
except ImportError as error:
    print(json.dumps(str(error)))
"""


def test_without_scipy_the_extra_is_named(child):
    message = child(MISSING)
    assert message.startswith("solver='lbfgs' needs SciPy (")
    assert message.endswith("): pip install 'kdloss[lbfgs]'")


def test_minimise_takes_any_sum_over_chunks(task):
    """`minimise` works with an objective that adds up chunks of rows."""
    chunks = [slice(0, 40), slice(40, 150)]
    settings = dict(alpha=0.5, tau=4.0, normalizer=150)

    def objective(W):
        value, total = 0.0, np.zeros_like(W)
        for rows in chunks:
            X, y, T = (part[rows] for part in task)
            loss, G = kdloss.kd_loss_and_grad(X @ W, T, y, **settings)
            value, total = value + loss, total + X.T @ G
        return value, total

    found = []
    largest = minimise(
        objective,
        np.zeros((5, 4)),
        tolerance=TOLERANCE,
        iterations=500,
        after_iteration=lambda parameters, gradient: found.append(parameters) or True,
    )
    assert largest <= TOLERANCE
    expected = lbfgs(bias=False).fit(*task).weights
    np.testing.assert_allclose(found[-1], expected, rtol=0, atol=LBFGS)


@pytest.fixture
def counts():
    """Word counts: mostly zeros, one column that is always zero."""
    rng = np.random.default_rng(5)
    X = rng.poisson(0.3, size=(200, 12)).astype(float)
    X[:, 7] = 0
    T = X @ rng.normal(size=(12, 3))
    T -= T.mean(axis=0)  # all classes occur
    return X, (T + rng.gumbel(size=T.shape)).argmax(axis=1), T


@pytest.mark.parametrize("form", ["csr_matrix", "csr_array", "csc_matrix", "coo_array"])
@pytest.mark.parametrize("settings", [{"epochs": 3}, {"solver": "lbfgs", "tolerance": TOLERANCE}])
def test_sparse_features_are_those_numbers(counts, form, settings):
    X, y, T = counts
    sparse = getattr(scipy.sparse, form)(X)
    options = {"sample_weight": np.arange(200) % 3, "validation": 0.2}
    dense = LinearStudent(**settings).fit(X, y, T, **options)
    student = LinearStudent(**settings).fit(sparse, y, T, **options)
    assert close(student, dense, LBFGS)
    np.testing.assert_allclose(student.predict_proba(sparse), dense.predict_proba(X), atol=LBFGS)
    assert (student.predict(sparse) == dense.predict(X)).all()


def test_sparse_features_of_another_width_or_kind_are_refused(counts):
    X, y, T = counts
    student = LinearStudent(epochs=1).fit(scipy.sparse.csr_array(X), y, T)
    with pytest.raises(ValueError, match=r"X has shape \(200, 5\), expected \(N, 12\)"):
        student.predict(scipy.sparse.csr_array(X[:, :5]))
    with pytest.raises(TypeError, match="X has dtype complex128, expected real numbers"):
        student.fit(scipy.sparse.csr_array(X * 1j), y, T)


def test_settings_are_written_as_they_are():
    settings = LinearStudent(solver="lbfgs", tolerance=1e-6).settings
    assert json.loads(json.dumps(dataclasses.asdict(settings)))["solver"] == "lbfgs"
