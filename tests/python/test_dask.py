"""kdloss.dask: losses, students and boosters on three processes give what one process gives."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import dask
import dask.array
import distributed
import lightgbm
import lightgbm.dask
import numpy as np
import pytest
import xgboost
import xgboost.dask

import kdloss
import kdloss.dask
import kdloss.lightgbm
import kdloss.xgboost
from boosted import data
from kdloss.dask.chunks import threads_of_task
from tolerances import BOOSTED_CHUNKS, CHUNKS, LBFGS

ROWS = (70, 130, 0, 90, 110)  # of the chunks


@pytest.fixture(scope="module")
def client():
    """Three processes of one thread each on this machine."""
    cluster = distributed.LocalCluster(
        n_workers=3,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        memory_limit=0,
        silence_logs=50,
    )
    with cluster, distributed.Client(cluster) as client:
        yield client


def chunk(array, rows=ROWS):
    return dask.array.from_array(array, chunks=(rows, *array.shape[1:]))


def batch(labels="classes", seed=0, dtype=np.float64, classes=5):
    rng = np.random.default_rng(seed)
    n = sum(ROWS)
    S, T = 3 * rng.normal(size=(2, n, classes)).astype(dtype)
    y = rng.integers(-1, classes, n)
    y[rng.random(n) < 0.2] = -100
    y[: ROWS[0]] = -100  # a chunk of padding
    if labels == "soft":
        y = rng.dirichlet(np.ones(classes), n)
        y[::7] = 0
    return S, T, y, rng


OPTIONS = [
    {},
    {"reduction": "sum"},
    {"normalizer": 7.5},
    {"weighted": True, "label_smoothing": 0.1, "class_weight": np.linspace(0.5, 2, 5)},
    {"per_row": True, "weighted": True},
    {"divergence": "js", "beta": 0.3, "weighted": True},
    {"divergence": "reverse_kl", "reduction": "sum"},
]


def options_of(case, rng):
    case, n = dict(case), sum(ROWS)
    if case.pop("weighted", False):
        weights = rng.uniform(0, 2, n)
        weights[::5] = 0
        case["sample_weight"] = weights
    if case.pop("per_row", False):
        case |= {"alpha": rng.uniform(0, 1, n), "tau": rng.uniform(1, 5, n)}
    return case


def chunked_options(case):
    return {k: chunk(v) if np.ndim(v) and len(v) == sum(ROWS) else v for k, v in case.items()}


@pytest.mark.parametrize("labels", ["classes", "soft"])
@pytest.mark.parametrize("case", OPTIONS, ids=str)
def test_losses_over_chunks_are_those_of_the_whole(case, labels):
    S, T, y, rng = batch(labels)
    own = options_of(case, rng)
    args, lazy = (S, T, y), tuple(map(chunk, (S, T, y)))
    more = chunked_options(own)
    results = (
        kdloss.dask.kd_loss_batch(*lazy, **more),
        *kdloss.dask.kd_loss_and_grad(*lazy, **more),
        *kdloss.dask.kd_loss_parts(*lazy, **more),
    )
    assert results[2].chunks[0] == ROWS
    loss, same, grad, *parts = dask.compute(*results, scheduler="sync")
    expected = kdloss.kd_loss_and_grad(*args, **own)
    np.testing.assert_allclose([loss, same], expected.loss, rtol=CHUNKS)
    np.testing.assert_allclose(parts, kdloss.kd_loss_parts(*args, **own), rtol=CHUNKS)
    if "sample_weight" in own:  # the divisor, a sum of weights, depends on the chunks
        largest = np.abs(expected.grad_logits).max(axis=1, keepdims=True)
        assert (np.abs(grad - expected.grad_logits) <= CHUNKS * largest).all()
    else:
        np.testing.assert_array_equal(grad, expected.grad_logits)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_losses_of_rows(dtype):
    S, T, y, _ = batch(dtype=dtype)
    loss = kdloss.dask.kd_loss_batch(chunk(S), chunk(T), y, reduction="none")
    both = kdloss.dask.kd_loss_and_grad(chunk(S), chunk(T), y, reduction="none")
    expected = kdloss.kd_loss_and_grad(S, T, y, reduction="none")
    for lazy, own in zip((loss, *both), (expected.loss, *expected), strict=True):
        assert lazy.dtype == own.dtype
        computed = lazy.compute(scheduler="sync")
        assert computed.dtype == own.dtype
        np.testing.assert_array_equal(computed, own)


def test_without_a_row_that_counts_the_loss_is_0():
    S, T, y, _ = batch()
    y[:] = -100
    lazy = kdloss.dask.kd_loss_and_grad(chunk(S), chunk(T), y)
    parts = kdloss.dask.kd_loss_parts(chunk(S), chunk(T), y)
    loss, grad, total, hard, soft = dask.compute(*lazy, *parts, scheduler="sync")
    assert loss == total == soft == 0
    assert np.isnan(hard)
    assert not grad.any()


def test_a_teacher_or_labels_alone():
    S, T, y, _ = batch()
    for teacher, labels, alpha in ((T, None, 0.0), (None, np.abs(y) % 5, 1.0)):
        expected = kdloss.kd_loss_parts(S, teacher, labels, alpha=alpha)
        lazy = kdloss.dask.kd_loss_parts(chunk(S), teacher, labels, alpha=alpha)
        np.testing.assert_allclose(dask.compute(*lazy), expected, rtol=CHUNKS)
        loss, grad = dask.compute(
            *kdloss.dask.kd_loss_and_grad(chunk(S), teacher, labels, alpha=alpha)
        )
        np.testing.assert_allclose(loss, expected.loss, rtol=CHUNKS)
        own = kdloss.kd_loss_and_grad(S, teacher, labels, alpha=alpha)
        np.testing.assert_array_equal(grad, own.grad_logits)


def test_rows_of_other_chunks_are_aligned():
    S, T, y, _ = batch()
    loss = kdloss.dask.kd_loss_batch(chunk(S), chunk(T, (200, 200)), chunk(y, (50,) * 8))
    np.testing.assert_allclose(loss.compute(), kdloss.kd_loss_batch(S, T, y), rtol=CHUNKS)


S, T, Y, _ = batch()
SPLIT = dask.array.from_array(S, chunks=(100, 3))
UNKNOWN = chunk(S)[chunk(S)[:, 0] > 0]
REFUSED = [
    (S, T, Y, {}, TypeError, "student_logits is of type ndarray, expected a Dask array"),
    (SPLIT, T, Y, {}, ValueError, r"student_logits is chunked .* student_logits.rechunk\({1: -1}"),
    (chunk(S), SPLIT, Y, {}, ValueError, r"teacher is chunked .* use teacher.rechunk\({1: -1}\)"),
    (UNKNOWN, T, Y, {}, ValueError, r"call student_logits.compute_chunk_sizes\(\)"),
    (chunk(S), T[1:], Y, {}, ValueError, "teacher has 399 rows, expected 400"),
    (chunk(S), T[:, 1:], Y, {}, ValueError, "classes|shape"),
    (chunk(S), T, Y[None], {}, ValueError, "labels has 1 rows, expected 400"),
    (chunk(S), T, Y, {"alpha": 2}, ValueError, "alpha"),
    (chunk(S), T, Y, {"reduction": "max"}, ValueError, "reduction"),
    (chunk(S), T, Y, {"divergence": "hellinger"}, ValueError, "divergence"),
    (chunk(S), T, Y, {"temperature": 2}, TypeError, "temperature"),
    (chunk(S), T, Y / 1.0, {}, TypeError, "labels"),
    (chunk(S), None, Y, {}, ValueError, "teacher"),
]


@pytest.mark.parametrize(("s", "t", "y", "options", "kind", "message"), REFUSED)
def test_what_is_refused_before_anything_is_computed(s, t, y, options, kind, message):
    for loss in (
        kdloss.dask.kd_loss_batch,
        kdloss.dask.kd_loss_and_grad,
        kdloss.dask.kd_loss_parts,
    ):
        with pytest.raises(kind, match=message):
            loss(s, t, y, **options)


def test_losses_on_three_processes(client):
    S, T, y, _ = batch()
    loss, grad = dask.compute(*kdloss.dask.kd_loss_and_grad(chunk(S), chunk(T), chunk(y)))
    expected = kdloss.kd_loss_and_grad(S, T, y)
    np.testing.assert_allclose(loss, expected.loss, rtol=CHUNKS)
    np.testing.assert_array_equal(grad, expected.grad_logits)


def test_a_kernel_has_the_threads_of_its_worker():
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=3, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert client.submit(threads_of_task).result() == 3
    assert threads_of_task() == 1


def student_data(seed=0):
    rng = np.random.default_rng(seed)
    n = sum(ROWS)
    X = rng.normal(size=(n, 6))
    T = 2 * X @ rng.normal(size=(6, 4)) + rng.normal(size=(n, 4))
    y = (T + rng.gumbel(size=T.shape)).argmax(axis=1)
    y[::3], y[: ROWS[0]] = -1, -100
    return X, T, y, rng.uniform(0, 2, n), rng.uniform(0, 1, n)


def new_student(**more):
    return kdloss.LinearStudent(solver="lbfgs", l2=1e-3, tolerance=1e-7, **more)


@pytest.mark.parametrize(
    ("loss", "weighted"), [({}, False), ({}, True), ({"divergence": "mse"}, False)], ids=str
)
def test_a_student_of_three_processes_is_that_of_one(client, loss, weighted):
    X, T, y, w, a = student_data()
    more = {"sample_weight": w, "alpha_per_row": a} if weighted else {}
    own = new_student(**loss).fit(X, y, T, **more)
    records = []
    student = kdloss.dask.fit(
        new_student(**loss), chunk(X), chunk(y), chunk(T), progress=records.append, **more
    )
    np.testing.assert_allclose(student.weights, own.weights, rtol=0, atol=LBFGS)
    np.testing.assert_allclose(student.bias, own.bias, rtol=0, atol=LBFGS)
    assert records == student.history
    for name in ("loss", "hard", "soft"):
        assert student.history[-1][name] == pytest.approx(own.history[-1][name], rel=LBFGS)


def test_a_worker_that_is_killed_in_the_middle_changes_nothing(client):
    X, T, y, *_ = student_data()
    lazy = [chunk(a).persist() for a in (X, y, T)]
    own = kdloss.dask.fit(new_student(), *lazy)
    before = set(client.run(os.getpid).values())

    def kill(record):
        if record["epoch"] == 3:
            os.kill(min(before), signal.SIGKILL)

    student = kdloss.dask.fit(new_student(), *lazy, progress=kill)
    np.testing.assert_allclose(student.weights, own.weights, rtol=0, atol=LBFGS)
    np.testing.assert_allclose(student.bias, own.bias, rtol=0, atol=LBFGS)
    client.wait_for_workers(3, timeout=60)
    assert set(client.run(os.getpid).values()) != before


def test_labels_alone_and_soft_labels():
    X, T, y, *_ = student_data()
    y = np.abs(y) % 4
    soft = kdloss.softmax_temp(T)
    for labels, more in ((y, {"n_classes": 4}), (soft, {})):
        own = new_student(alpha=1).fit(X, labels, None)
        student = kdloss.dask.fit(new_student(alpha=1), chunk(X), labels, None, **more)
        np.testing.assert_allclose(student.weights, own.weights, rtol=0, atol=LBFGS)
        assert np.isnan(student.history[-1]["soft"])


def test_what_a_student_refuses():
    X, T, y, *_ = student_data()
    for settings, message in (
        ({"solver": "sgd"}, r"solver is 'sgd', expected LinearStudent\(solver='lbfgs'\)"),
        ({"solver": "lbfgs", "standardize": True}, r"standardize is True, .*\(X - X.mean"),
        ({"solver": "lbfgs", "patience": 3}, "patience is 3, expected None"),
    ):
        with pytest.raises(ValueError, match=message):
            kdloss.dask.fit(kdloss.LinearStudent(**settings), chunk(X), y, T)
    with pytest.raises(ValueError, match="n_classes is None, expected the number"):
        kdloss.dask.fit(new_student(alpha=1), chunk(X), np.abs(y) % 4, None)
    with pytest.raises(ValueError, match=r"numbers of classes are .*, expected the same"):
        kdloss.dask.fit(new_student(), chunk(X), y, T, n_classes=5)
    with pytest.raises(ValueError, match="no row that counts"):
        kdloss.dask.fit(new_student(), chunk(X), np.full(len(X), -100), T)
    bad = X.copy()
    bad[333, 2] = np.nan
    with pytest.raises(ValueError, match=r"X\[333, 2\] is nan"):
        kdloss.dask.fit(new_student(), chunk(bad), y, T)


def test_a_bad_row_beyond_the_sample_is_named_by_its_chunk(monkeypatch):
    X, T, y, *_ = student_data()
    monkeypatch.setattr(kdloss.dask.student, "SAMPLE", 10)  # rows 0, 40, 80, ...
    for name, message in (
        ("X", "chunk 3 of the rows: the loss is not finite: row 1 of its X is not finite"),
        ("labels", r"chunk 3 of the rows: labels\[1\] is 7"),
    ):
        bad = {"X": X.copy(), "labels": y.copy()}
        bad[name][201] = 7 if name == "labels" else np.nan
        with pytest.raises((ValueError, FloatingPointError), match=message):
            kdloss.dask.fit(new_student(), chunk(bad["X"]), bad["labels"], T)


def test_a_student_warns_of_probabilities_and_of_a_search_that_is_cut_short():
    X, T, y, *_ = student_data()
    with pytest.warns(UserWarning, match="teacher_logits look like probabilities"):
        kdloss.dask.fit(new_student(), chunk(X), y, kdloss.softmax_temp(T))
    with pytest.warns(UserWarning, match="lbfgs ends with a gradient of .*, after 2 epochs"):
        kdloss.dask.fit(new_student(epochs=2), chunk(X), y, T)


def booster_data(classes, rows=400):
    X, y, teacher, weights = data(classes, rows=rows)
    y = y.copy()
    y[::4] = -1
    return X, y, teacher, weights


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("weighted", [False, True])
def test_xgboost_on_three_processes(client, classes, weighted):
    X, y, teacher, w = booster_data(classes)
    loss = {"alpha": np.linspace(0, 1, len(y)), "divergence": "js" if weighted else "kl"}
    params = {"objective": "multi:softprob", "num_class": classes}
    if classes == 2:
        params = {"objective": "binary:logistic"}
    params |= {"disable_default_eval_metric": 1, "tree_method": "hist", "max_depth": 3}
    own = xgboost.train(
        params,
        xgboost.DMatrix(X, weight=w if weighted else None),
        8,
        obj=kdloss.xgboost.kd_objective(teacher, y, **loss),
    )
    if classes == 2 and weighted:
        teacher = teacher[:, 1:] - teacher[:, :1]  # as a margin
    objective = kdloss.dask.xgboost_objective(chunk(teacher), chunk(y), **loss)
    train = xgboost.dask.DaskDMatrix(
        client, chunk(X), objective.rows, weight=chunk(w) if weighted else None
    )
    booster = xgboost.dask.train(client, params, train, 8, obj=objective)["booster"]
    np.testing.assert_allclose(
        booster.predict(xgboost.DMatrix(X)), own.predict(xgboost.DMatrix(X)), atol=BOOSTED_CHUNKS
    )


@pytest.mark.parametrize("order", [[2, 0], [3, 1, 2], [1], [3, 2, 1, 0]], ids=str)
def test_a_worker_has_the_teacher_of_its_own_rows(client, order):
    _, y, T, w = booster_data(4)
    alpha, sizes = np.linspace(0, 1, len(y)), (70, 130, 90, 110)
    margins = np.random.default_rng(3).normal(size=T.shape)
    expected = kdloss.lightgbm.kd_objective(T, y, alpha=alpha)(y.astype(float), margins, w)
    objective = kdloss.dask.lightgbm_objective(chunk(T, sizes), chunk(y, sizes), alpha=alpha)
    parts = np.split(np.arange(len(y)), np.cumsum(sizes)[:-1])
    rows = np.concatenate([parts[k] for k in order])
    numbers = objective.rows.compute()[rows]
    found = client.submit(_call, objective, numbers, margins[rows], w[rows], pure=False).result()
    np.testing.assert_array_equal(found[0], expected[0][rows])
    np.testing.assert_array_equal(found[1], expected[1][rows])
    with pytest.raises(ValueError, match=r"are not the \.rows of this objective"):
        client.submit(_call, objective, numbers[1:], margins[rows][1:], None, pure=False).result()


def _call(objective, *arguments):
    return objective(*arguments)


SIZES = (70, 130, 90, 110)  # LightGBM refuses empty chunks
LIGHTGBM = {"n_estimators": 8, "num_leaves": 7, "metric": "None", "verbose": -1}
# LightGBM warns for every Dask model that it uses the worker's threads.
no_warning_of_threads = pytest.mark.filterwarnings("ignore:Parameter n_jobs will be ignored")


@pytest.fixture
def ports(monkeypatch):
    """Ports for LightGBM's workers.

    LightGBM holds each port with a socket, in a task that Dask may move to another worker, which
    cannot unpickle it: training then never begins.
    """

    def assign(*, client, workers):
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.create_server(("", 0))) for _ in workers]
            return {}, {w: s.getsockname()[1] for w, s in zip(workers, sockets, strict=True)}

    monkeypatch.setattr(lightgbm.dask, "_assign_open_ports_to_workers", assign)


@no_warning_of_threads
def test_at_alpha_1_lightgbm_grows_its_own_trees_on_three_processes(client, ports):
    """Equal, bit for bit, to its own objective on three processes.

    LightGBM finds bins from the rows of each worker, so that its trees depend on which worker has
    which rows. Features of three values have the same bins everywhere.
    """
    X, y, T, _ = data(4)
    X, more = chunk(np.clip(np.round(X), -1, 1), SIZES), LIGHTGBM | {"min_data_in_bin": 1}
    own = lightgbm.DaskLGBMClassifier(client=client, boost_from_average=False, **more)
    own = own.fit(X, chunk(y, SIZES)).to_local().predict(X.compute(), raw_score=True)
    objective = kdloss.dask.lightgbm_objective(chunk(T, SIZES), y, alpha=1.0)
    model = lightgbm.DaskLGBMRegressor(client=client, objective=objective, num_class=4, **more)
    found = model.fit(X, objective.rows).to_local().predict(X.compute())
    np.testing.assert_array_equal(found, own)


@no_warning_of_threads
@pytest.mark.parametrize("classes", [2, 4])
def test_lightgbm_on_three_processes_is_that_of_one(client, ports, classes):
    """If all workers find the same bins, and no leaf is refused for its number of rows.

    In one process LightGBM counts the rows of a leaf, in several it estimates their number from the
    curvature.
    """
    X, y, T, w = booster_data(classes)
    X = np.clip(np.round(X), -1, 1)
    more = LIGHTGBM | {"min_data_in_bin": 1, "min_child_samples": 0}
    more |= {} if classes == 2 else {"num_class": classes}
    own = lightgbm.LGBMRegressor(objective=kdloss.lightgbm.kd_objective(T, y), **more)
    own = own.fit(X, np.zeros(len(y)), sample_weight=w).predict(X)
    objective = kdloss.dask.lightgbm_objective(chunk(T, SIZES), y)
    model = lightgbm.DaskLGBMRegressor(client=client, objective=objective, **more)
    model.fit(chunk(X, SIZES), objective.rows, sample_weight=chunk(w, SIZES))
    np.testing.assert_allclose(model.to_local().predict(X), own, rtol=0, atol=BOOSTED_CHUNKS)


METRICS = ["loss", "hard", "soft", "accuracy", "nll", "brier"]


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_the_mean_over_the_rows_of_all_workers(client, name):
    X, y, T, w = booster_data(4, rows=800)
    y[::5] = -100
    train, valid = slice(400), slice(400, 800)
    params = {"num_class": 4, "disable_default_eval_metric": 1, "tree_method": "hist"}
    own = {}
    xgboost.train(
        params,
        xgboost.DMatrix(X[train]),
        5,
        obj=kdloss.xgboost.kd_objective(T[train], y[train]),
        evals=[(xgboost.DMatrix(X[valid], weight=w[valid]), "valid")],
        custom_metric=kdloss.xgboost.kd_metric(T[valid], y[valid], name=name),
        evals_result=own,
        verbose_eval=False,
    )
    objective = kdloss.dask.xgboost_objective(chunk(T[train]), y[train])
    metric = kdloss.dask.xgboost_metric(chunk(T[valid], (399, 1)), y[valid], name=name)
    found = xgboost.dask.train(
        client,
        params,
        xgboost.dask.DaskDMatrix(client, chunk(X[train]), objective.rows),
        5,
        obj=objective,
        evals=[
            (
                xgboost.dask.DaskDMatrix(
                    client,
                    chunk(X[valid], (399, 1)),
                    metric.rows,
                    weight=chunk(w[valid], (399, 1)),
                ),
                "valid",
            )
        ],
        custom_metric=metric,
        verbose_eval=False,
    )["history"]
    assert found["valid"].keys() == own["valid"].keys()
    for key, values in own["valid"].items():
        np.testing.assert_allclose(found["valid"][key], values, rtol=BOOSTED_CHUNKS)


def test_a_metric_stops_early(client):
    X, _, T, _ = data(4)
    params = {"num_class": 4, "disable_default_eval_metric": 1}
    objective = kdloss.dask.xgboost_objective(chunk(T), None, alpha=0)
    metric = kdloss.dask.xgboost_metric(chunk(T[::-1]), None, alpha=0)  # it gets worse each round
    train, valid = (
        xgboost.dask.DaskDMatrix(client, chunk(X), each.rows) for each in (objective, metric)
    )
    result = xgboost.dask.train(
        client,
        params,
        train,
        50,
        obj=objective,
        evals=[(valid, "valid")],
        custom_metric=metric,
        early_stopping_rounds=3,
        verbose_eval=False,
    )
    losses = result["history"]["valid"]["kd_loss"]
    assert len(losses) == result["booster"].best_iteration + 1 + 3


def test_boosters_refuse(client):
    _, y, T, _ = data(4)
    for s, labels, options, kind, message in (
        (T, y, {}, TypeError, "teacher_logits is of type ndarray, expected a Dask array"),
        (None, y, {"alpha": 1}, TypeError, "labels is of type ndarray, expected a Dask array"),
        (chunk(T), y[1:], {}, ValueError, "labels has 399 rows, expected 400"),
        (chunk(T), y, {"alpha": 2}, ValueError, "alpha"),
        (chunk(T), y, {"class_weight": [1, 2]}, ValueError, "class_weight"),
        (chunk(T), y, {"temperature": 2}, TypeError, "temperature"),
        (chunk(T), None, {}, ValueError, "labels"),
    ):
        for make in (kdloss.dask.xgboost_objective, kdloss.dask.xgboost_metric):
            with pytest.raises(kind, match=message):
                make(s, labels, **options)
    with pytest.raises(ValueError, match="hess is 'full'"):
        kdloss.dask.xgboost_objective(chunk(T), y, hess="full")
    with pytest.raises(ValueError, match="name is 'ece', expected one of loss, hard"):
        kdloss.dask.xgboost_metric(chunk(T), y, name="ece")
    with pytest.raises(ValueError, match="chunk 2 has no rows, expected at least one"):
        kdloss.dask.lightgbm_objective(chunk(T), chunk(y))


def test_rows_of_another_objective_are_refused(client):
    X, y, T, _ = data(4)
    first, second = (kdloss.dask.xgboost_objective(chunk(t), y) for t in (T, T[::-1]))
    train = xgboost.dask.DaskDMatrix(client, chunk(X), first.rows)
    with pytest.raises(ValueError, match=r"are not the \.rows of this objective"):
        xgboost.dask.train(client, {"num_class": 4}, train, 1, obj=second)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("teacher", [True, False])
def test_xgboost_workers_without_rows(client, classes, teacher):
    X, y, T, _ = data(classes)
    params = {"objective": "multi:softprob", "num_class": classes}
    if classes == 2:
        params = {"objective": "binary:logistic"}
    params |= {"disable_default_eval_metric": 1, "tree_method": "hist"}
    alpha, rows = (0.5 if teacher else 1.0), (0, 400, 0)
    own = xgboost.train(
        params,
        xgboost.DMatrix(X),
        3,
        obj=kdloss.xgboost.kd_objective(T if teacher else None, y, alpha=alpha),
    )
    lazy_teacher = chunk(T, rows) if teacher else None
    objective = kdloss.dask.xgboost_objective(lazy_teacher, chunk(y, rows), alpha=alpha)
    train = xgboost.dask.DaskDMatrix(client, chunk(X, rows), objective.rows)
    booster = xgboost.dask.train(client, params, train, 3, obj=objective)["booster"]
    np.testing.assert_allclose(
        booster.predict(xgboost.DMatrix(X)), own.predict(xgboost.DMatrix(X)), atol=BOOSTED_CHUNKS
    )


def wait_for_another(client, lost):
    """Wait until a worker has replaced the lost process."""
    deadline = time.monotonic() + 60
    while lost in client.run(os.getpid, on_error="ignore").values() or len(client.nthreads()) < 3:
        assert time.monotonic() < deadline, "the worker did not come back"
        time.sleep(0.2)


class KillOneWorker(xgboost.callback.TrainingCallback):
    """Kill a worker during training."""

    def after_iteration(self, model, epoch, evals_log):
        if epoch == 2 and xgboost.collective.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return False


@pytest.mark.parametrize("when", ["before", "during"])
def test_xgboost_when_a_worker_is_lost(client, when):
    """Before training, a lost worker changes nothing; during training it is an error, and the next
    training works."""
    X, y, T, _ = data(4)
    params = {"objective": "multi:softprob", "num_class": 4, "disable_default_eval_metric": 1}
    own = xgboost.train(params, xgboost.DMatrix(X), 3, obj=kdloss.xgboost.kd_objective(T, y))
    objective = kdloss.dask.xgboost_objective(chunk(T), chunk(y))
    before = set(client.run(os.getpid).values())
    if when == "before":
        lost = min(before)
        os.kill(lost, signal.SIGKILL)
    else:
        train = xgboost.dask.DaskDMatrix(client, chunk(X), objective.rows)
        # XGBoost's own: of a surviving worker, or of the one that takes its place.
        errors = xgboost.core.XGBoostError, ValueError
        with pytest.raises(errors, match=r"[Ff]ailed|one of the workers died"):
            xgboost.dask.train(client, params, train, 9, obj=objective, callbacks=[KillOneWorker()])
        (lost,) = before - set(client.run(os.getpid, on_error="ignore").values())
    wait_for_another(client, lost)
    train = xgboost.dask.DaskDMatrix(client, chunk(X), objective.rows)
    booster = xgboost.dask.train(client, params, train, 3, obj=objective)["booster"]
    found, expected = (b.predict(xgboost.DMatrix(X)) for b in (booster, own))
    np.testing.assert_allclose(found, expected, rtol=0, atol=BOOSTED_CHUNKS)


def test_without_dask_the_message_names_the_extra(child):
    code = """
import json, sys
sys.modules["dask"] = None
try:
    import kdloss.dask
except ImportError as error:
    print(json.dumps(str(error)))
"""
    assert re.fullmatch(
        r"kdloss\.dask needs Dask \(.*dask.*\): pip install 'kdloss\[dask\]'", child(code)
    )


def test_the_example():
    path = Path(__file__).parents[2] / "examples" / "dask_cluster.py"
    result = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    agreement = dict(re.findall(r"^(\w+) +([\d.]+)%$", result.stdout, re.M))
    assert float(agreement["linear"]) > 95
    assert float(agreement["XGBoost"]) > 80
