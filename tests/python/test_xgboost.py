"""kdloss.xgboost: XGBoost's own trees at alpha 1, matching rows, metrics, starting scores."""

import json

import numpy as np
import pytest
import xgboost
from sklearn.base import clone

import kdloss
from boosted import copies, data, two_logits
from kdloss.xgboost import kd_base_score, kd_metric, kd_objective, number_rows
from tolerances import BOOSTED_MARGIN, EXACT_SHARE, PROMISE

QUIET = {"disable_default_eval_metric": 1, "nthread": 2}


def parameters(classes, **more):
    if classes == 2:
        return {"objective": "binary:logistic"} | QUIET | more
    return {"objective": "multi:softprob", "num_class": classes} | QUIET | more


def margins(booster, X):
    return booster.predict(xgboost.DMatrix(X), output_margin=True)


def splits(booster):
    trees = booster.trees_to_dataframe()
    return trees["Feature"].tolist(), trees["Split"].dropna().tolist()


def base_score(booster):
    config = json.loads(booster.save_config())["learner"]["learner_model_param"]
    return np.array(json.loads(config["base_score"]))


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "more",
    [{}, {"booster": "dart", "rate_drop": 0.3, "seed": 1}, {"multi_strategy": "multi_output_tree"}],
    ids=["trees", "dart", "vectors"],
)
def test_at_alpha_1_the_trees_are_xgboosts_own(classes, weighted, more, dtype):
    X, y, teacher, weights = data(classes, dtype=dtype)
    train = xgboost.DMatrix(X, y, weight=weights if weighted else None)
    params = parameters(classes, base_score=0.5, **more)
    own = xgboost.train(params, train, 12)
    mine = xgboost.train(params, train, 12, obj=kd_objective(teacher, alpha=1.0))
    if "multi_strategy" not in more:
        assert splits(mine) == splits(own)
    np.testing.assert_allclose(margins(mine, X), margins(own, X), rtol=0, atol=BOOSTED_MARGIN)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("classes", [2, 4, 10])
def test_a_hundred_rounds_at_alpha_1_have_xgboosts_own_splits(classes, seed):
    X, y, teacher, weights = data(classes, seed=seed)
    train = xgboost.DMatrix(X, y, weight=weights)
    params = parameters(classes, base_score=0.5)
    own = xgboost.train(params, train, 100)
    mine = xgboost.train(params, train, 100, obj=kd_objective(teacher, alpha=1.0))
    assert splits(mine) == splits(own)
    expected = margins(own, X)
    largest = np.abs(expected).max()
    np.testing.assert_allclose(margins(mine, X), expected, rtol=0, atol=BOOSTED_MARGIN * largest)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_start_is_xgboosts_own(classes):
    X, y, teacher, weights = data(classes)
    train = xgboost.DMatrix(X, y, weight=weights)
    own = xgboost.train(parameters(classes), train, 5)
    start = kd_base_score(teacher, y, alpha=1.0, sample_weight=weights)
    np.testing.assert_allclose(start, base_score(own).squeeze(), rtol=0, atol=BOOSTED_MARGIN)
    mine = xgboost.train(
        parameters(classes, base_score=start), train, 5, obj=kd_objective(None, alpha=1.0)
    )
    assert splits(mine) == splits(own)
    np.testing.assert_allclose(margins(mine, X), margins(own, X), rtol=0, atol=BOOSTED_MARGIN)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_scikit_learn_interface_trains_the_same_model(classes):
    X, y, teacher, weights = data(classes)
    objective = kd_objective(teacher)
    native = xgboost.train(
        parameters(classes), xgboost.QuantileDMatrix(X, y, weight=weights), 5, obj=objective
    )
    wrapped = xgboost.XGBClassifier(n_estimators=5, objective=objective, n_jobs=2)
    wrapped = clone(wrapped).fit(X, y, sample_weight=weights)
    np.testing.assert_array_equal(wrapped.predict(X, output_margin=True), margins(native, X))
    expected = native.predict(xgboost.DMatrix(X))
    found = wrapped.predict_proba(X)
    np.testing.assert_array_equal(found[:, 1] if classes == 2 else found, expected)


def test_the_gradient_is_the_losss(dtype):
    X, y, teacher, weights = data()
    scores = np.random.default_rng(1).normal(size=teacher.shape).astype(np.float32)
    objective = kd_objective(teacher.astype(dtype), alpha=0.3, tau=2.5, label_smoothing=0.1)
    grad, hess = objective(scores, xgboost.DMatrix(X, y, weight=weights))
    expected = kdloss.kd_loss_grad_hess(
        scores, teacher.astype(dtype), y, alpha=0.3, tau=2.5, label_smoothing=0.1,
        sample_weight=weights.astype(np.float32), reduction="sum", hess="bound",
    )  # fmt: skip
    np.testing.assert_array_equal(grad, expected.grad_logits)
    np.testing.assert_array_equal(hess, expected.hess_logits)
    assert grad.dtype == hess.dtype == np.float32


@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize(
    ("divergence", "beta"),
    [("kl", 0.5), ("mse", 0.5), ("reverse_kl", 0.5), ("js", 0.2), ("tv", 0.5)],
)
def test_every_divergence_has_its_gradient_and_a_positive_curvature(divergence, beta, alpha):
    X, y, teacher, _ = data()
    teacher = teacher.astype(np.float32)
    scores = np.random.default_rng(1).normal(size=teacher.shape).astype(np.float32)
    train = xgboost.DMatrix(X, y)
    options = {"alpha": alpha, "tau": 2.0, "beta": beta}
    rows = (scores, teacher, y)
    expected = kdloss.kd_loss_and_grad(*rows, reduction="sum", divergence=divergence, **options)
    has_hessian = divergence in ("kl", "mse")
    of = divergence if has_hessian else "kl"
    for name in ("library", "exact", "bound"):
        if name != "library" and not has_hessian:
            with pytest.raises(ValueError, match=f"hess is '{name}'.*'{divergence}' can have a"):
                kd_objective(teacher, divergence=divergence, hess=name, **options)
            continue
        objective = kd_objective(teacher, divergence=divergence, hess=name, **options)
        grad, hess = objective(scores, train)
        curvature = kdloss.kd_loss_grad_hess(
            *rows, reduction="sum", divergence=of, hess="exact" if name == "exact" else "bound",
            **options,
        ).hess_logits  # fmt: skip
        np.testing.assert_array_equal(grad, expected.grad_logits)
        np.testing.assert_array_equal(hess, curvature)
        assert (hess > 0).all()


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("divergence", ["kl", "mse", "reverse_kl", "js", "tv"])
def test_boosting_lowers_the_loss_of_every_divergence(divergence, classes):
    X, y, teacher, _ = data(classes)
    if classes == 2:
        teacher = teacher[:, 1] - teacher[:, 0]
    options = {"alpha": 0.0, "tau": 2.0, "divergence": divergence, "beta": 0.3}
    log = {}
    train = xgboost.DMatrix(X, y)
    booster = xgboost.train(
        parameters(classes), train, 20, obj=kd_objective(teacher, **options), evals_result=log,
        evals=[(train, "train")], custom_metric=kd_metric(teacher, **options), verbose_eval=False,
    )  # fmt: skip
    values = log["train"]["kd_loss"]
    assert values[-1] < 0.7 * values[0]
    found = two_logits(margins(booster, X))
    expected = kdloss.kd_loss_batch(found, two_logits(teacher).astype(found.dtype), y, **options)
    assert values[-1] == pytest.approx(expected, abs=1e-6)  # XGBoost prints six decimals


def test_mse_of_one_margin_needs_the_teachers_margin():
    X, y, teacher, _ = data(2)
    train = xgboost.DMatrix(X, y)
    scores = np.zeros(len(y), np.float32)
    margin = teacher[:, 1] - teacher[:, 0]
    with pytest.raises(ValueError, match=r"compares the logits themselves.*teacher_logits\[:, 1\]"):
        kd_objective(teacher, divergence="mse")(scores, train)
    with pytest.raises(ValueError, match="compares the logits themselves"):
        kd_metric(teacher, divergence="mse")(scores, train)
    grad, hess = kd_objective(margin, alpha=0.0, divergence="mse", hess="exact")(scores, train)
    np.testing.assert_allclose(grad, -margin, rtol=PROMISE["float32"])
    assert (hess == 1).all()


def test_labels_that_change_are_read_again():
    _, y, teacher, _ = data()
    margins = np.zeros(teacher.shape, np.float32)
    objective = kd_objective(None, alpha=1.0)
    labels = y.astype(np.float32)
    first = objective(labels, margins)[0].copy()
    labels[:] = y[::-1]
    np.testing.assert_array_equal(objective(labels, margins)[0], first[::-1])
    soft = np.eye(4, dtype=np.float32)[y]
    np.testing.assert_array_equal(objective(soft, margins)[0], first)
    soft[:] = soft[::-1].copy()
    np.testing.assert_array_equal(objective(soft, margins)[0], first[::-1])


def test_one_margin_is_two_logits():
    _, y, teacher, weights = data(2)
    z = np.random.default_rng(1).normal(size=len(y)).astype(np.float32)
    both = np.stack([np.zeros_like(z), z], axis=1)
    expected = kdloss.kd_loss_grad_hess(both, teacher, y, reduction="sum", sample_weight=weights)
    margin = teacher[:, 1] - teacher[:, 0]
    for given in (teacher, margin, margin[:, None]):
        grad, hess = kd_objective(given)(y.astype(np.float32), z, sample_weight=weights)
        for found, wanted in ((grad, expected.grad_logits), (hess, expected.hess_logits)):
            np.testing.assert_allclose(found, wanted[:, 1], rtol=PROMISE["float32"])


def test_the_floor_is_xgboosts():
    sure = np.array([[60.0, 0.0, 0.0]], np.float32)
    _, hess = kd_objective(None, alpha=1.0)(np.zeros(1), sure)
    assert (hess == np.float32(1e-16)).all()
    _, hess = kd_objective(None, alpha=1.0, hess="exact")(np.zeros(1), sure)
    assert (hess < 1e-20).all()
    _, hess = kd_objective(None, alpha=1.0)(
        np.zeros(2), np.array([60.0, 60.0], "f4"), np.array([0, 3.0])
    )
    assert hess.tolist() == [0, np.float32(1e-16) * 3.0]


@pytest.mark.parametrize("classes", [2, 4])
def test_a_row_of_weight_3_is_the_row_three_times_and_of_weight_0_is_none(classes):
    X, y, teacher, _ = data(classes)
    weights = np.random.default_rng(2).choice([0.0, 1.0, 3.0], len(y))
    again = np.repeat(np.arange(len(y)), weights.astype(int))
    # Cuts are quantiles, which repeated rows would move: tree_method "exact" tries all cuts.
    params = parameters(classes, tree_method="exact", base_score=0.5)
    one = xgboost.train(params, xgboost.DMatrix(X, y, weight=weights), 5, obj=kd_objective(teacher))
    other = xgboost.train(
        params, xgboost.DMatrix(X[again], y[again]), 5, obj=kd_objective(teacher[again])
    )
    some = X[weights > 0]
    np.testing.assert_allclose(
        margins(one, some), margins(other, some), rtol=0, atol=BOOSTED_MARGIN
    )


def test_labels_are_given_or_the_datasets_and_are_not_written():
    X, y, teacher, _ = data()
    few = np.where(np.arange(len(y)) % 3 == 0, y, -1)
    scores = np.random.default_rng(1).normal(size=teacher.shape).astype(np.float32)
    train = xgboost.DMatrix(X, few)
    before = train.get_label().copy()
    from_dataset = kd_objective(teacher)(scores, train)
    given = kd_objective(teacher, few)(scores, xgboost.DMatrix(X, y))
    np.testing.assert_array_equal(from_dataset, given)
    assert not np.array_equal(from_dataset, kd_objective(teacher)(scores, xgboost.DMatrix(X, y)))
    np.testing.assert_array_equal(train.get_label(), before)
    soft = np.eye(4)[y]
    soft[few < 0] = 0
    np.testing.assert_array_equal(kd_objective(teacher, soft)(scores, train), given)
    np.testing.assert_array_equal(kd_objective(teacher)(scores, xgboost.DMatrix(X, soft)), given)


def test_rows_that_are_as_many_as_classes():
    X, y, teacher, _ = data(4, rows=4)
    params, train = parameters(4, min_child_weight=0, base_score=0.5), xgboost.DMatrix(X, y)
    own = xgboost.train(params, train, 3)
    mine = xgboost.train(params, train, 3, obj=kd_objective(teacher, alpha=1.0))
    assert np.ptp(margins(own, X)) > 0
    np.testing.assert_allclose(margins(mine, X), margins(own, X), rtol=0, atol=BOOSTED_MARGIN)


def test_categorical_features():
    X, y, teacher, _ = data()
    X[:, 0] = np.arange(len(y)) % 7
    train = xgboost.DMatrix(X, y, feature_types=["c"] + 5 * ["q"], enable_categorical=True)
    params = parameters(4, base_score=0.5)
    own = xgboost.train(params, train, 5)
    mine = xgboost.train(params, train, 5, obj=kd_objective(teacher, alpha=1.0))
    np.testing.assert_allclose(
        mine.predict(train, output_margin=True),
        own.predict(train, output_margin=True),
        rtol=0,
        atol=BOOSTED_MARGIN,
    )


def test_numbered_rows_keep_the_teacher_in_step():
    X, y, teacher, weights = data()
    alpha = np.linspace(0, 1, len(y))
    rows = np.random.default_rng(3).permutation(len(y))[:150]
    scores = np.random.default_rng(1).normal(size=(150, 4)).astype(np.float32)
    part = number_rows(xgboost.DMatrix(X, y, weight=weights)).slice(rows)
    found = kd_objective(teacher, alpha=alpha, tau=1 + alpha)(scores, part)
    own = xgboost.DMatrix(X[rows], y[rows], weight=weights[rows])
    expected = kd_objective(teacher[rows], alpha=alpha[rows], tau=1 + alpha[rows])(scores, own)
    np.testing.assert_array_equal(found, expected)
    few = np.where(y == 0, -1, y)
    np.testing.assert_array_equal(
        kd_objective(teacher, few)(scores, part),
        kd_objective(teacher[rows], few[rows])(scores, own),
    )


def test_cross_validation_is_that_of_each_fold():
    X, y, teacher, _ = data()
    folds = [(np.arange(100, 400), np.arange(100)), (np.arange(300), np.arange(300, 400))]
    scores = xgboost.cv(
        parameters(4), number_rows(xgboost.DMatrix(X, y)), 4, folds=folds,
        obj=kd_objective(teacher), custom_metric=kd_metric(teacher), as_pandas=False,
    )  # fmt: skip
    last = []
    for train, test in folds:
        booster = xgboost.train(
            parameters(4), xgboost.DMatrix(X[train], y[train]), 4, obj=kd_objective(teacher[train])
        )
        last.append(kdloss.kd_loss_batch(margins(booster, X[test]), teacher[test], y[test]))
    # XGBoost reports metrics with six decimals.
    assert scores["test-kd_loss-mean"][-1] == pytest.approx(np.mean(last), abs=1e-6)


def test_cross_validation_without_numbers_is_refused():
    X, y, teacher, _ = data()
    with pytest.raises(ValueError, match=r"has 400 rows, expected 2\d\d, .*number_rows"):
        xgboost.cv(parameters(4), xgboost.DMatrix(X, y), 2, obj=kd_objective(teacher))


def test_number_rows_refuses_survival_data():
    X, y, *_ = data()
    train = xgboost.DMatrix(X)
    train.set_float_info("label_lower_bound", y + 1.5)
    train.set_float_info("label_upper_bound", y + 2.5)
    with pytest.raises(ValueError, match="label bounds of survival data"):
        number_rows(train)
    assert number_rows(number_rows(xgboost.DMatrix(X))).num_row() == 400


def test_what_does_not_fit_is_refused():
    X, y, teacher, _ = data()
    train = xgboost.DMatrix(X, y)
    with pytest.raises(ValueError, match="labels has 399 rows, expected 400, as teacher has"):
        kd_objective(teacher, y[1:])
    with pytest.raises(ValueError, match="hess is 'upper', expected 'library', 'exact' or 'bound'"):
        kd_objective(teacher, hess="upper")
    for make in (kd_objective, kd_metric):
        with pytest.raises(ValueError, match="divergence is 'hellinger', expected one of kl, rev"):
            make(teacher, divergence="hellinger")
    with pytest.raises(ValueError, match=r"has shape \(2, 2, 2\)"):
        kd_objective(np.zeros((2, 2, 2)))
    with pytest.raises(
        ValueError, match="4 classes, the booster one margin per row; set num_class=4"
    ):
        xgboost.train(QUIET, train, 1, obj=kd_objective(teacher))
    with pytest.raises(ValueError, match="3 classes, the booster has 4"):
        xgboost.train(parameters(4), train, 1, obj=kd_objective(teacher[:, :3]))
    with pytest.raises(ValueError, match="has 399 rows, expected 400"):
        xgboost.train(parameters(4), train, 1, obj=kd_objective(teacher[1:]))
    with pytest.raises(ValueError, match=r"label of row 2 is 0\.5, expected a class"):
        kd_objective(teacher)(
            np.zeros((400, 4), "f4"),
            xgboost.DMatrix(X, np.where(np.arange(400) == 2, 0.5, y)),
        )
    objective = kd_objective(teacher)
    xgboost.train(parameters(4), train, 1, obj=objective)
    with pytest.raises(ValueError, match="one teacher is used for two datasets of 400 rows"):
        xgboost.train(parameters(4), xgboost.DMatrix(X, y[::-1]), 1, obj=objective)


def test_copies_keep_the_gradients_bits(tmp_path):
    X, y, teacher, weights = data()
    scores = np.random.default_rng(1).normal(size=teacher.shape).astype(np.float32)
    train = xgboost.DMatrix(X, y, weight=weights)
    objective, metric = kd_objective(teacher, alpha=0.2), kd_metric(teacher)
    for copy in copies(tmp_path, objective):
        np.testing.assert_array_equal(copy(scores, train), objective(scores, train))
    for copy in copies(tmp_path, metric):
        assert copy(scores, train) == metric(scores, train)


@pytest.mark.parametrize("name", ["loss", "hard", "soft", "accuracy", "nll", "brier", "ece"])
def test_metrics_are_those_of_the_package(name):
    X, y, teacher, weights = data()
    y = np.where(np.arange(400) % 5 == 0, -1, y)
    scores = np.random.default_rng(1).normal(size=teacher.shape).astype(np.float32)
    weights = weights.astype(np.float32)
    reported, value = kd_metric(teacher, name=name)(scores, xgboost.DMatrix(X, y, weight=weights))
    parts = kdloss.kd_loss_parts(scores, teacher, y, sample_weight=weights)._asdict()
    score = {
        "accuracy": kdloss.metrics.accuracy,
        "nll": kdloss.metrics.negative_log_likelihood,
        "brier": kdloss.metrics.brier_score,
        "ece": kdloss.metrics.expected_calibration_error,
    }
    if name in score:
        p = kdloss.softmax_temp(scores.astype(float))
        parts[name] = score[name](p, y, sample_weight=weights)
    assert value == parts[name]
    assert reported == ("prediction_accuracy" if name == "accuracy" else f"kd_{name}")
    wrapped = kd_metric(teacher, name=name)(y.astype("f4"), scores, sample_weight=weights)
    assert wrapped == value


@pytest.mark.parametrize("name", ["loss", "accuracy", "ece"])
def test_early_stopping_keeps_the_best_round(name):
    X, y, teacher, _ = data(rows=900)
    train, valid = xgboost.DMatrix(X[:200], y[:200]), xgboost.DMatrix(X[200:], y[200:])
    log = {}
    booster = xgboost.train(
        parameters(4, learning_rate=0.5), train, 60, obj=kd_objective(teacher[:200]),
        evals=[(train, "train"), (valid, "valid")], early_stopping_rounds=60, evals_result=log,
        custom_metric=kd_metric({valid: teacher[200:], train: teacher[:200]}, name=name),
        verbose_eval=False,
    )  # fmt: skip
    (values,) = log["valid"].values()
    best = np.argmax(values) if name == "accuracy" else np.argmin(values)
    assert 0 < best == booster.best_iteration
    assert log["train"] != log["valid"]


def test_the_scikit_learn_interface_stops_early():
    X, y, teacher, _ = data(rows=900)
    model = xgboost.XGBClassifier(
        n_estimators=60, objective=kd_objective(teacher[:200]), early_stopping_rounds=60,
        learning_rate=0.5, eval_metric=kd_metric(teacher[200:], name="accuracy"),
        disable_default_eval_metric=1,
    )  # fmt: skip
    model.fit(X[:200], y[:200], eval_set=[(X[200:], y[200:])], verbose=False)
    values = model.evals_result()["validation_0"]["prediction_accuracy"]
    assert model.best_iteration == np.argmax(values)


def test_evaluation_sets_without_their_teacher_are_refused():
    X, y, teacher, _ = data()
    one, two = xgboost.DMatrix(X[:200], y[:200]), xgboost.DMatrix(X[200:], y[200:])
    scores = np.zeros((200, 4), np.float32)
    metric = kd_metric(teacher[:200])
    metric(scores, one)
    with pytest.raises(ValueError, match="one teacher is used for two datasets of 200 rows"):
        metric(scores, two)
    with pytest.raises(ValueError, match="not one of the 1 datasets"):
        kd_metric({one: teacher[:200]})(scores, two)
    with pytest.raises(ValueError, match="do not say which dataset"):
        kd_metric({one: teacher[:200]})(y[:200], scores)
    with pytest.raises(ValueError, match="has 400 rows, expected 200"):
        kd_metric(teacher)(scores, one)
    with pytest.raises(ValueError, match="name is 'auc', expected one of loss"):
        kd_metric(teacher, name="auc")
    with pytest.raises(TypeError, match=r"labels is an array, expected \{dataset"):
        kd_metric({one: teacher[:200]}, y)
    with pytest.raises(TypeError, match="labels is a mapping, expected an array"):
        kd_metric(teacher, {one: y})
    with pytest.raises(ValueError, match="'brier' needs labels"):
        kd_metric(teacher[:200], name="brier")(scores, xgboost.DMatrix(X[:200]))


def test_probabilities_are_refused():
    X, y, teacher, _ = data()
    train = xgboost.DMatrix(X, y)
    with pytest.raises(ValueError, match="the predictions are probabilities, expected margins"):
        xgboost.train(
            parameters(4), train, 2, evals=[(train, "train")], custom_metric=kd_metric(teacher)
        )


def test_the_start_mixes_labels_and_teacher():
    _, y, teacher, weights = data()
    y = np.where(np.arange(400) % 5 == 0, -1, y)
    q = kdloss.softmax_temp(teacher)
    target = np.where((y < 0)[:, None], q, 0.3 * np.eye(4)[y] + 0.7 * q)
    scores = np.log(np.average(target, axis=0, weights=weights) + 1e-6)
    found = kd_base_score(teacher, y, alpha=0.3, sample_weight=weights)
    np.testing.assert_allclose(found, scores - scores.mean(), rtol=0, atol=EXACT_SHARE)
    assert kd_base_score(teacher, np.full(400, -100)) == [0.0] * 4
    assert kd_base_score(None, np.eye(2), alpha=1.0) == 0.5
    with pytest.raises(ValueError, match="teacher_logits and labels are None"):
        kd_base_score(None, None)


def test_a_missing_package_is_named(child, tmp_path):
    (tmp_path / "xgboost.py").write_text("raise ImportError('blocked')")
    code = "import sys; sys.path.insert(0, sys.argv[1]); import kdloss.xgboost"
    assert "pip install 'kdloss[xgboost]'" in child(code, tmp_path, check=False).stderr
