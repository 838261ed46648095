"""kdloss.lightgbm: LightGBM's own trees at alpha 1, matching rows, metrics, starting scores."""

import copy
from functools import partial

import lightgbm
import numpy as np
import pytest
from sklearn.base import clone

import kdloss
from boosted import copies, data, two_logits
from kdloss.lightgbm import kd_init_score, kd_metric, kd_objective
from tolerances import BOOSTED_MARGIN, EXACT_SHARE, PROMISE, ROUNDING

# LightGBM counts rows in leaves and in bins, including those of weight 0.
BY_WEIGHT = {"min_data_in_leaf": 0, "min_data_in_bin": 1}


def parameters(classes, objective=None, **more):
    params = {"verbose": -1, "metric": "None", "num_threads": 2, "seed": 1} | more
    if classes > 2:
        params["num_class"] = classes
    own = "multiclass" if classes > 2 else "binary"
    return params | {"objective": own if objective is None else objective}


def dataset(X, y, **more):
    return lightgbm.Dataset(X, y, free_raw_data=False, **more)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "more",
    [{}, {"bagging_fraction": 0.5, "bagging_freq": 1}, {"boosting": "goss"}],
    ids=["trees", "bagging", "goss"],
)
def test_at_alpha_1_the_trees_are_lightgbms_own(classes, weighted, more, dtype):
    X, y, teacher, weights = data(classes, dtype=dtype)
    w = weights if weighted else None
    own = lightgbm.train(
        parameters(classes, boost_from_average=False, **more), dataset(X, y, weight=w), 12
    )
    mine = lightgbm.train(
        parameters(classes, kd_objective(teacher, alpha=1.0), **more), dataset(X, y, weight=w), 12
    )
    np.testing.assert_array_equal(mine.predict(X), own.predict(X, raw_score=True))


@pytest.mark.parametrize("classes", [2, 4])
def test_the_start_is_lightgbms_own(classes):
    X, y, teacher, weights = data(classes)
    own = lightgbm.train(parameters(classes), dataset(X, y, weight=weights), 5)
    start = kd_init_score(teacher, y, alpha=1.0, sample_weight=weights)
    init_score = np.tile(start, (len(X), 1)) if classes > 2 else np.full(len(X), start)
    train = dataset(X, y, weight=weights, init_score=init_score)
    mine = lightgbm.train(parameters(classes, kd_objective(None, alpha=1.0)), train, 5)
    margins = mine.predict(X) + start
    found = kdloss.softmax_temp(margins) if classes > 2 else 1 / (1 + np.exp(-margins))
    np.testing.assert_allclose(found, own.predict(X), rtol=0, atol=BOOSTED_MARGIN)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_scikit_learn_interface_trains_the_same_model(classes):
    X, y, teacher, weights = data(classes)
    objective = kd_objective(teacher)
    native = lightgbm.train(parameters(classes, objective), dataset(X, y, weight=weights), 5)
    model = lightgbm.LGBMClassifier(
        n_estimators=5, objective=objective, verbose=-1, n_jobs=2, random_state=1
    )
    model = clone(model).fit(X, y, sample_weight=weights)
    np.testing.assert_array_equal(model.predict(X, raw_score=True), native.predict(X))


@pytest.mark.parametrize("classes", [2, 4])
def test_the_gradient_is_the_losss_in_f_order(classes):
    _, y, teacher, weights = data(classes)
    rng = np.random.default_rng(1)
    logits = np.asfortranarray(rng.normal(size=teacher.shape))
    logits[:, 0] *= classes > 2
    scores = logits if classes > 2 else logits[:, 1]
    scores.setflags(write=False)
    weights = weights.astype(np.float32)
    expected = kdloss.kd_loss_grad_hess(
        logits, teacher, y, alpha=0.3, tau=2.5, sample_weight=weights, reduction="sum"
    )
    options = {"alpha": 0.3, "tau": 2.5}
    factor = {"library": classes / (classes - 1) if classes > 2 else 1, "exact": 1, "bound": 2}
    for name, times in factor.items():
        objective = kd_objective(teacher, hess=name, **options)
        grad, hess = objective(y.astype(np.float32), scores, weights)
        for found, wanted in ((grad, expected.grad_logits), (hess, times * expected.hess_logits)):
            wanted = wanted if classes > 2 else wanted[:, 1]
            np.testing.assert_allclose(found, wanted, rtol=PROMISE["float32"])
            assert found.dtype == np.float32
            assert found.flags.f_contiguous
            assert not np.shares_memory(found, scores)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize(
    ("divergence", "beta"),
    [("kl", 0.5), ("mse", 0.5), ("reverse_kl", 0.5), ("js", 0.2), ("tv", 0.5)],
)
def test_every_divergence_has_its_gradient_and_a_positive_curvature(divergence, beta, alpha):
    _, y, teacher, _ = data()
    scores = np.asfortranarray(np.random.default_rng(1).normal(size=teacher.shape))
    options = {"alpha": alpha, "tau": 2.0, "beta": beta}
    rows = (scores, teacher, y)
    expected = kdloss.kd_loss_and_grad(*rows, reduction="sum", divergence=divergence, **options)
    of = divergence if divergence in ("kl", "mse") else "kl"
    curvature = kdloss.kd_loss_grad_hess(*rows, reduction="sum", divergence=of, **options)
    for name, times in {"library": 4 / 3, "exact": 1, "bound": 2}.items():
        if name != "library" and of != divergence:
            with pytest.raises(ValueError, match=f"hess is '{name}'.*'{divergence}' can have a"):
                kd_objective(teacher, divergence=divergence, hess=name, **options)
            continue
        objective = kd_objective(teacher, divergence=divergence, hess=name, **options)
        grad, hess = objective(y.astype(np.float32), scores)
        np.testing.assert_array_equal(grad, expected.grad_logits.astype(np.float32))
        np.testing.assert_array_equal(hess, (times * curvature.hess_logits).astype(np.float32))
        assert (hess > 0).all()


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("divergence", ["kl", "mse", "reverse_kl", "js", "tv"])
def test_boosting_lowers_the_loss_of_every_divergence(divergence, classes):
    X, y, teacher, _ = data(classes)
    if classes == 2:
        teacher = teacher[:, 1] - teacher[:, 0]
    options = {"alpha": 0.0, "tau": 2.0, "divergence": divergence, "beta": 0.3}
    log, train = {}, dataset(X, y)
    booster = lightgbm.train(
        parameters(classes, kd_objective(teacher, **options)), train, 20, [train],
        feval=kd_metric(teacher, **options), callbacks=[lightgbm.record_evaluation(log)],
    )  # fmt: skip
    values = log["training"]["kd_loss"]
    assert values[-1] < 0.7 * values[0]
    found = two_logits(booster.predict(X))
    expected = kdloss.kd_loss_batch(found, two_logits(teacher), y, **options)
    assert values[-1] == pytest.approx(expected, rel=ROUNDING)


@pytest.mark.parametrize("classes", [2, 4])
def test_results_that_are_held_do_not_change(classes):
    _, y, teacher, _ = data(classes)
    objective = kd_objective(teacher)
    rounds = []
    for seed in range(4):
        z = np.random.default_rng(seed).normal(size=(len(y), classes))
        z = np.asfortranarray(z) if classes > 2 else z[:, 1]
        grad, hess = objective(y.astype(np.float32), z)
        rounds.append((grad[3:], hess, grad[3:].copy(), hess.copy()))
        del grad, hess
    for grad, hess, expected_grad, expected_hess in rounds:
        np.testing.assert_array_equal(grad, expected_grad)
        np.testing.assert_array_equal(hess, expected_hess)
    rounds.clear()
    places = []
    for _ in range(9):
        grad, hess = objective(y.astype(np.float32), z)
        places.append({grad.ctypes.data, hess.ctypes.data})
        del grad, hess
    assert places[-1] == places[-2] == places[-3]


@pytest.mark.parametrize("classes", [2, 4])
def test_repeated_rows_move_the_trees_as_lightgbms_own_objective_does(classes):
    """LightGBM counts rows in leaves and bins regardless of their weights, for any objective."""
    X, y, *_ = data(classes)
    weights = np.random.default_rng(2).choice([0.0, 1.0, 3.0], len(y))
    again = np.repeat(np.arange(len(y)), weights.astype(int))
    own, mine = [], []
    for train in (partial(dataset, X, y, weight=weights), partial(dataset, X[again], y[again])):
        params = parameters(classes, boost_from_average=False)
        own.append(lightgbm.train(params, train(), 5).predict(X, raw_score=True))
        params = parameters(classes, kd_objective(None, alpha=1.0))
        mine.append(lightgbm.train(params, train(), 5).predict(X))
    assert np.abs(own[1] - own[0]).max() > 0.1
    np.testing.assert_array_equal(mine, own)


@pytest.mark.parametrize(("classes", "values", "least"), [(2, 4, 1e-3), (4, 2, 5)])
def test_a_row_of_weight_3_is_the_row_three_times_and_of_weight_0_is_none(classes, values, least):
    X, y, teacher, _ = data(classes)
    X = np.rint(values * X)  # few values, so that each has its own bin for any rows
    weights = np.random.default_rng(2).choice([0.0, 1.0, 3.0], len(y))
    again = np.repeat(np.arange(len(y)), weights.astype(int))
    more = BY_WEIGHT | {"min_sum_hessian_in_leaf": least}
    params = parameters(classes, kd_objective(teacher), **more)
    one = lightgbm.train(params, dataset(X, y, weight=weights), 5)
    params = parameters(classes, kd_objective(teacher[again]), **more)
    other = lightgbm.train(params, dataset(X[again], y[again]), 5)
    some = X[weights > 0]
    np.testing.assert_allclose(one.predict(some), other.predict(some), rtol=0, atol=BOOSTED_MARGIN)


def test_dart_learns():
    """With a custom objective, LightGBM drops other trees in every run."""
    X, y, teacher, _ = data()
    params = parameters(4, kd_objective(teacher), boosting="dart")
    booster = lightgbm.train(params, dataset(X, y), 30)
    start, end = (
        kdloss.kd_loss_batch(booster.predict(X, num_iteration=n), teacher, y) for n in (1, 30)
    )
    assert end < start / 2


def test_rows_that_are_as_many_as_classes():
    X, y, teacher, _ = data(4, rows=4)
    few = BY_WEIGHT | {"min_sum_hessian_in_leaf": 0}
    own = lightgbm.train(parameters(4, boost_from_average=False, **few), dataset(X, y), 3).predict(
        X, raw_score=True
    )
    mine = lightgbm.train(parameters(4, kd_objective(teacher, alpha=1.0), **few), dataset(X, y), 3)
    assert np.ptp(own) > 0
    np.testing.assert_array_equal(mine.predict(X), own)


def test_categorical_features():
    X, y, teacher, _ = data()
    X[:, 0] = np.arange(len(y)) % 7
    more = {"categorical_feature": [0]}
    own = lightgbm.train(parameters(4, boost_from_average=False), dataset(X, y, **more), 5)
    mine = lightgbm.train(parameters(4, kd_objective(teacher, alpha=1.0)), dataset(X, y, **more), 5)
    np.testing.assert_array_equal(mine.predict(X), own.predict(X, raw_score=True))


def test_subsets_keep_the_teacher_in_step():
    X, y, teacher, weights = data()
    alpha = np.linspace(0, 1, len(y))
    few = np.where(np.arange(len(y)) % 3 == 0, y, -1)
    first, second = np.arange(1, 400, 2), np.arange(5, 190)
    whole = dataset(X, y, weight=weights)
    part = whole.subset(list(first)).subset(list(second)).construct()
    rows = first[second]
    scores = np.asfortranarray(np.random.default_rng(1).normal(size=(len(rows), 4)))
    found = kd_objective(teacher, few, alpha=alpha, tau=1 + alpha)(scores, part)
    own = dataset(X[rows], y[rows], weight=weights[rows]).construct()
    expected = kd_objective(teacher[rows], few[rows], alpha=alpha[rows], tau=1 + alpha[rows])
    np.testing.assert_array_equal(found, expected(scores, own))


def test_cross_validation_is_that_of_each_fold():
    X, y, teacher, _ = data()
    folds = [(np.arange(100, 400), np.arange(100)), (np.arange(300), np.arange(300, 400))]
    scores = lightgbm.cv(
        parameters(4, kd_objective(teacher)), dataset(X, y), 4, folds=folds,
        feval=kd_metric(teacher), return_cvbooster=True,
    )  # fmt: skip
    losses = [
        kdloss.kd_loss_batch(booster.predict(X[test]), teacher[test], y[test])
        for booster, (_, test) in zip(scores["cvbooster"].boosters, folds, strict=True)
    ]
    assert scores["valid kd_loss-mean"][-1] == pytest.approx(np.mean(losses), rel=1e-12)
    whole = dataset(X, y)
    whole.construct()
    part = whole.subset(list(folds[1][0]))
    alone = lightgbm.train(parameters(4, kd_objective(teacher)), part, 4)
    np.testing.assert_array_equal(alone.predict(X), scores["cvbooster"].boosters[1].predict(X))


def test_rows_that_only_the_teacher_labels():
    X, y, teacher, _ = data()
    few = np.where(np.arange(len(y)) % 3 == 0, y, -1)
    given = lightgbm.train(parameters(4, kd_objective(teacher, few)), dataset(X, y), 4)
    own = lightgbm.train(parameters(4, kd_objective(teacher)), dataset(X, few), 4)
    all_labels = lightgbm.train(parameters(4, kd_objective(teacher)), dataset(X, y), 4)
    np.testing.assert_array_equal(own.predict(X), given.predict(X))
    assert not np.array_equal(all_labels.predict(X), given.predict(X))


def test_what_does_not_fit_is_refused():
    X, y, teacher, _ = data()
    with pytest.raises(
        ValueError, match="4 classes, the booster one margin per row; set num_class=4"
    ):
        lightgbm.train(parameters(2, kd_objective(teacher)), dataset(X, y), 1)
    with pytest.raises(ValueError, match=r"has 399 rows, expected 400, .* has; give the"):
        lightgbm.train(parameters(4, kd_objective(teacher[1:])), dataset(X, y), 1)
    model = lightgbm.LGBMClassifier(n_estimators=1, objective=kd_objective(teacher), verbose=-1)
    with pytest.raises(ValueError, match="has 4 classes, the booster has 5; if -1"):
        model.fit(X, np.where(np.arange(400) % 2, -1, y))
    model.fit(X, y)
    with pytest.raises(ValueError, match="one teacher is used for two datasets of 400 rows"):
        model.fit(X, y[::-1])


def test_copies_keep_the_gradients_bits_and_share_the_teacher(tmp_path):
    X, y, teacher, weights = data()
    scores = np.asfortranarray(np.random.default_rng(1).normal(size=teacher.shape))
    train = dataset(X, y, weight=weights).construct()
    objective, metric = kd_objective(teacher, alpha=0.2), kd_metric(teacher)
    for other in copies(tmp_path, objective):
        np.testing.assert_array_equal(other(scores, train), objective(scores, train))
    for other in copies(tmp_path, metric):
        assert other(scores, train) == metric(scores, train)
    assert copy.deepcopy({"objective": objective})["objective"].teacher is teacher


@pytest.mark.parametrize("name", ["loss", "accuracy", "brier"])
def test_early_stopping_keeps_the_best_round(name):
    X, y, teacher, _ = data(rows=900)
    train = dataset(X[:200], y[:200])
    valid = dataset(X[200:], y[200:], reference=train)
    log = {}
    booster = lightgbm.train(
        parameters(4, kd_objective(teacher[:200]), learning_rate=0.5), train, 60, [valid, train],
        ["valid", "train"], kd_metric({valid: teacher[200:], train: teacher[:200]}, name=name),
        callbacks=[lightgbm.early_stopping(59, verbose=False), lightgbm.record_evaluation(log)],
    )  # fmt: skip
    (values,) = log["valid"].values()
    best = np.argmax(values) if name == "accuracy" else np.argmin(values)
    assert 0 < best == booster.best_iteration - 1
    assert log["train"] != log["valid"]


def test_the_scikit_learn_interface_evaluates():
    X, y, teacher, weights = data(rows=500)
    model = lightgbm.LGBMClassifier(
        n_estimators=4, objective=kd_objective(teacher[:300]), verbose=-1, metric="None"
    )
    model.fit(
        X[:300], y[:300], eval_X=X[300:], eval_y=y[300:], eval_sample_weight=[weights[300:]],
        eval_metric=kd_metric(teacher[300:]),
    )  # fmt: skip
    found = model.evals_result_["valid_0"]["kd_loss"][-1]
    expected = kdloss.kd_loss_batch(
        model.predict(X[300:], raw_score=True), teacher[300:], y[300:],
        sample_weight=weights[300:].astype(np.float32),
    )  # fmt: skip
    assert found == pytest.approx(expected, rel=1e-12)


def test_one_teacher_for_two_evaluation_sets_is_refused():
    X, y, teacher, _ = data()
    train = dataset(X[:200], y[:200])
    valid = dataset(X[200:], y[200:], reference=train)
    with pytest.raises(ValueError, match="one teacher is used for two datasets of 200 rows"):
        lightgbm.train(
            parameters(4, kd_objective(teacher[:200])), train, 2, [train, valid],
            feval=kd_metric(teacher[:200]),
        )  # fmt: skip


def test_the_start_mixes_labels_and_teacher():
    _, y, teacher, _ = data()
    y = np.where(np.arange(400) % 5 == 0, -1, y)
    q = kdloss.softmax_temp(teacher)
    target = np.where((y < 0)[:, None], q, 0.3 * np.eye(4)[y] + 0.7 * q)
    scores = np.log(target.mean(axis=0))
    found = kd_init_score(teacher, y, alpha=0.3)
    np.testing.assert_allclose(found, scores - scores.mean(), rtol=0, atol=EXACT_SHARE)
    assert np.isfinite(kd_init_score(None, [0, 2], alpha=1.0)).all()


def test_a_missing_package_is_named(child, tmp_path):
    (tmp_path / "lightgbm.py").write_text("raise ImportError('blocked')")
    code = "import sys; sys.path.insert(0, sys.argv[1]); import kdloss.lightgbm"
    assert "pip install 'kdloss[lightgbm]'" in child(code, tmp_path, check=False).stderr
