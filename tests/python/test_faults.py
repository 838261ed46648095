"""Inputs that once gave wrong results or crashes, on every instruction set of this machine."""

import threading

import numpy as np
import pytest

import kdloss
from tolerances import PROMISE

ISAS = kdloss.show_config()["available_isas"]


@pytest.mark.parametrize("isa", ISAS)
def test_promise(isa, child):
    told = child("import faults, json; print(json.dumps(faults.worst()))", KDLOSS_ISA=isa)
    assert told["isa"] == isa
    broken = [
        (name, dtype, part, error)
        for name, dtype, parts in told["errors"]
        for part, error in parts.items()
        if not error <= PROMISE[dtype]
    ]
    assert not broken


SOFTMAX_CODE = """
import json, numpy as np, kdloss, reference
worst = 0.0
for seed in (*range(40), 1092, 1254, 1583, 1894, 3302):  # the last ones were the worst of thousands
    rng = np.random.default_rng(seed)
    taus = rng.uniform(0.3, 9, 100)
    factors = np.log2(np.e) / taus
    tau = taus[np.abs(factors.astype(np.float32) / factors - 1).argmax()]
    x = (tau * rng.uniform(-87, -64, (4, 8))).astype(np.float32)
    x[:, 0] = tau * rng.uniform(-0.9, 0.9)
    found = kdloss.softmax_temp(x, tau).astype(np.longdouble)
    exact = np.exp(x.astype(np.longdouble) / np.longdouble(tau))
    exact /= exact.sum(axis=1, keepdims=True)
    error = np.abs(found - exact) / np.maximum(exact, np.finfo(np.float32).tiny)
    worst = max(worst, float(error.max()))
print(json.dumps({"worst": worst}))
"""


@pytest.mark.parametrize("isa", ISAS)
def test_softmax_of_small_probabilities(isa, child):
    assert child(SOFTMAX_CODE, KDLOSS_ISA=isa)["worst"] <= PROMISE["float32"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("classes", [3, 300])
@pytest.mark.parametrize("labels", ["class", "soft"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("exponent", [-150, -50, 50, 150])
def test_class_weights_beyond_the_range_of_the_type(dtype, classes, labels, smoothing, exponent):
    # Class weights times 2^n and row weights times 2^-n give the same loss.
    rng = np.random.default_rng(0)
    s = rng.normal(0, 3, (20, classes)).astype(dtype)
    y = rng.integers(0, classes, 20)
    if labels == "soft":
        y = rng.dirichlet(np.ones(classes), 20)
    weights = rng.uniform(0.5, 2, classes)
    options = {"alpha": 1.0, "label_smoothing": smoothing}

    def run(power):
        factor = np.ldexp(1.0, power)
        return kdloss.kd_loss_and_grad(
            s, None, y, class_weight=weights * factor, sample_weight=np.full(20, 1 / factor),
            normalizer=20.0, **options,
        )  # fmt: skip

    found, expected = run(exponent * 3), run(0)
    assert found.loss == pytest.approx(expected.loss, rel=PROMISE[dtype])
    largest = np.abs(expected.grad_logits).max()
    assert np.abs(found.grad_logits - expected.grad_logits).max() <= PROMISE[dtype] * largest


@pytest.mark.parametrize("classes", [2**60 - 1, 2**55])
def test_more_elements_than_memory(classes):
    x = np.broadcast_to(0.0, (1, classes))
    with pytest.raises(MemoryError):
        kdloss.log_sum_exp(x)
    with pytest.raises(MemoryError):
        kdloss.kd_loss_batch(x, x, [0])


@pytest.mark.parametrize("classes", [10, 300, 5000])
@pytest.mark.parametrize("weighted", [False, True])
def test_labels_that_change_during_the_call(classes, weighted):
    """Labels are read once and checked where they are used: any result will do, but no crash."""
    rows = 64
    s = np.random.default_rng(0).normal(0, 40, (rows, classes)).astype(np.float32)
    s[::3] = 0
    s[::3, 0] = 200  # rows with a tiny hard loss take another path
    labels, done = np.zeros(rows, np.int64), threading.Event()

    def change():
        while not done.is_set():
            labels[:] = 2**40
            labels[:] = -(2**40)
            labels[:] = 0

    thread = threading.Thread(target=change)
    thread.start()
    options = {"class_weight": np.ones(classes)} if weighted else {}
    try:
        for _ in range(200):
            try:
                loss = kdloss.kd_loss_batch(s, s, labels, reduction="none", **options)
            except ValueError:
                continue
            assert loss.shape == (rows,)
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("neighbours", [1, 17])
@pytest.mark.parametrize("classes", [4, 300])
def test_a_part_of_weight_0_leaves_no_negative_zero(classes, neighbours):
    rng = np.random.default_rng(0)
    s = rng.normal(0, 1, (neighbours, classes)).astype(np.float32)
    labels, class_weight = np.full(neighbours, 1), np.ones(classes)
    labels[0], class_weight[2] = 2, 0
    for options in ({"class_weight": class_weight}, {"sample_weight": labels % 2.0}):
        grad = kdloss.kd_loss_and_grad(s, None, labels, alpha=1.0, **options).grad_logits
        assert not np.signbit(grad[0]).any()
        alphas = np.where(labels == 2, 0.0, 1.0)
        options |= {"alpha": alphas}
        both = kdloss.kd_loss_and_grad(s, s, labels, **options).grad_logits
        assert not np.signbit(both[0]).any()
