"""Every divergence: exact values, special values and options, on every instruction set."""

import re

import numpy as np
import pytest

import kdloss
from tolerances import FINITE_DIFFERENCE, NEAR_KL, PROMISE

DIVERGENCES = ("kl", "reverse_kl", "js", "tv", "mse")
each = pytest.mark.parametrize("divergence", DIVERGENCES)


def batch(dtype, rows=37, classes=6, seed=0):
    rng = np.random.default_rng(seed)
    s, t = (rng.normal(0, 3, (rows, classes)).astype(dtype) for _ in range(2))
    return s, t, rng.integers(0, classes, rows)


@pytest.mark.parametrize("isa", kdloss.show_config()["available_isas"])
def test_promise(isa, child):
    code = "import divergences, json; print(json.dumps(divergences.worst()))"
    told = child(code, KDLOSS_ISA=isa)
    assert told["isa"] == isa
    broken = [x for dtype, found in told["errors"].items() for x in found if x[-1] > PROMISE[dtype]]
    assert not broken


@each
def test_equal_rows_have_no_loss_and_no_gradient(divergence, dtype, classes):
    s, _, _ = batch(dtype, classes=classes)
    s[3] = s[3, 0]
    s[4, 1:] = -np.inf
    options = {"alpha": 0.0, "divergence": divergence, "reduction": "none"}
    found = kdloss.kd_loss_and_grad(s, s, None, **options)
    assert (found.loss == 0).all()
    assert (found.grad_logits == 0).all()


@each
def test_finite_differences(divergence):
    s, t, _ = batch("float64", rows=4)
    options = {"alpha": 0.0, "tau": 2.5, "divergence": divergence, "beta": 0.3}
    grad = kdloss.kd_loss_and_grad(s, t, None, reduction="sum", **options).grad_logits
    step = 1e-4
    for c in range(s.shape[1]):
        move = np.zeros_like(s)
        move[:, c] = step
        up, down = (
            kdloss.kd_loss_batch(s + x, t, None, reduction="none", **options) for x in (move, -move)
        )
        scale = np.abs(grad).max(axis=1)
        assert (np.abs((up - down) / (2 * step) - grad[:, c]) <= FINITE_DIFFERENCE * scale).all()


@each
@pytest.mark.parametrize("classes", [6, 300])
def test_options(divergence, classes, dtype, layout):
    """With weights, alphas, taus, padding and unlabelled rows, each row is as if it were alone."""
    s, t, y = batch(dtype, classes=classes)
    y[::5], y[1::7] = -1, -100
    rng = np.random.default_rng(1)
    alpha, tau, weight = rng.uniform(0, 1, 37), rng.uniform(1, 5, 37), rng.uniform(0, 2, 37)
    weight[9] = 0
    options = {"divergence": divergence, "class_weight": rng.uniform(0.5, 2, classes)}
    found = kdloss.kd_loss_and_grad(
        layout(s), layout(t), y, alpha=alpha, tau=tau, sample_weight=weight, reduction="none",
        label_smoothing=0.1, **options,
    )  # fmt: skip
    for i in range(37):
        if y[i] == -100 or weight[i] == 0:
            assert found.loss[i] == 0
            assert (found.grad_logits[i] == 0).all()
            continue
        a = alpha[i] if y[i] >= 0 else 0.0
        soft = kdloss.kd_loss_and_grad(
            s[i : i + 1], t[i : i + 1], None, alpha=0.0, tau=tau[i], divergence=divergence
        )
        hard = kdloss.kd_loss_and_grad(
            s[i : i + 1], None, [max(y[i], 0)], alpha=1.0, label_smoothing=0.1,
            class_weight=options["class_weight"],
        )  # fmt: skip
        w = weight[i] * np.array([a, 1 - a])
        assert found.loss[i] == pytest.approx(w @ [hard.loss, soft.loss], rel=PROMISE[dtype.name])
        parts = [w[0] * hard.grad_logits[0], w[1] * soft.grad_logits[0]]
        largest = np.abs(parts).max() + w[0] * hard.loss
        error = np.abs(found.grad_logits[i] - sum(parts)).max()
        assert error <= PROMISE[dtype.name] * largest


@each
def test_halves_are_their_floats(divergence):
    s, t, y = batch("float16")
    wide = kdloss.kd_loss_and_grad(s.astype("f4"), t.astype("f4"), y, divergence=divergence)
    half = kdloss.kd_loss_and_grad(s, t, y, divergence=divergence)
    assert half.loss == wide.loss
    assert (half.grad_logits == wide.grad_logits.astype("f2")).all()


MASKS = {  # whether student and teacher mask the second class; the losses that are then infinite
    "student": (-np.inf, 1.0, {"kl", "mse"}),
    "teacher": (1.0, -np.inf, {"reverse_kl", "mse"}),
    "both": (-np.inf, -np.inf, set()),
}


@each
@pytest.mark.parametrize("mask", list(MASKS))
@pytest.mark.parametrize("classes", [5, 300])
def test_masked_classes(divergence, mask, classes, dtype):
    s, t, _ = batch(dtype, rows=3, classes=classes)
    s[1, 1], t[1, 1], infinite = MASKS[mask]
    options = {"alpha": 0.0, "divergence": divergence, "reduction": "none"}
    found = kdloss.kd_loss_and_grad(s, t, None, **options)
    assert (found.loss[1] == np.inf) == (divergence in infinite)
    assert np.isfinite(found.grad_logits).all()
    alone = kdloss.kd_loss_and_grad(s[::2], t[::2], None, **options)
    assert (found.loss[::2] == alone.loss).all()


@each
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_nan_stays_in_its_row(divergence, bad, side, dtype):
    s, t, _ = batch(dtype)
    clean = kdloss.kd_loss_and_grad(s, t, None, alpha=0.0, divergence=divergence, reduction="none")
    (s, t)[side][5, 2] = bad
    found = kdloss.kd_loss_and_grad(s, t, None, alpha=0.0, divergence=divergence, reduction="none")
    assert np.isnan(found.loss[5])
    assert np.isnan(found.grad_logits[5]).all()
    others = np.arange(37) != 5
    assert (found.loss == clean.loss)[others].all()
    assert (found.grad_logits == clean.grad_logits)[others].all()


@each
def test_all_masked_is_nan(divergence, dtype):
    s, t, _ = batch(dtype)
    s[2] = -np.inf
    found = kdloss.kd_loss_batch(s, t, None, alpha=0.0, divergence=divergence, reduction="none")
    assert np.isnan(found[2])


def test_the_ends_of_jensen_shannon(dtype):
    s, t, y = batch(dtype)
    for beta, end in ((0.0, "kl"), (1.0, "reverse_kl")):
        assert kdloss.kd_loss_batch(s, t, y, divergence="js", beta=beta) == kdloss.kd_loss_batch(
            s, t, y, divergence=end
        )
    near = kdloss.kd_loss_batch(s, t, None, alpha=0.0, divergence="js", beta=1e-6) / 1e-6
    assert near == pytest.approx(kdloss.kd_loss_batch(s, t, None, alpha=0.0), rel=NEAR_KL)


def test_logits_far_apart_in_double():
    s, t = np.array([[1e200, 0.0]]), np.array([[0.0, 0.0]])
    assert kdloss.kd_loss_batch(s / 1e50, t, None, alpha=0.0, divergence="mse") == pytest.approx(
        5e299, rel=PROMISE["float64"]
    )
    assert kdloss.kd_loss_batch(s, t, None, alpha=0.0, divergence="mse") == np.inf


@pytest.mark.parametrize("classes", [5, 300])
def test_hessian_of_mse(classes, dtype):
    s, t, y = batch(dtype, classes=classes)
    options = {"alpha": 0.25, "reduction": "sum"}
    hard = kdloss.kd_loss_grad_hess(s, None, y, alpha=1.0, reduction="sum").hess_logits
    found = kdloss.kd_loss_grad_hess(s, t, y, divergence="mse", **options).hess_logits
    assert found == pytest.approx(0.25 * hard + 0.75 * 2 / classes, rel=PROMISE[dtype.name])


def test_single_and_parts():
    s, t, y = batch("float64")
    for divergence in DIVERGENCES:
        rows = kdloss.kd_loss_parts(s, t, y, divergence=divergence, reduction="none")
        one = kdloss.kd_loss_single(s[3], t[3], y[3], divergence=divergence)
        assert one == pytest.approx(rows.loss[3], rel=PROMISE["float64"])
        assert rows.loss == pytest.approx(0.5 * rows.hard + 0.5 * rows.soft, rel=PROMISE["float64"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"divergence": "euclid"},
            "divergence is 'euclid', expected 'kl', 'reverse_kl', 'js', 'tv' or 'mse'",
        ),
        ({"divergence": "js", "beta": 1.5}, "beta is 1.5, expected a number in [0, 1]"),
        ({"beta": np.nan}, "beta is nan, expected a number in [0, 1]"),
    ],
)
def test_refusals(options, message):
    s, t, y = batch("float64")
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        kdloss.kd_loss_batch(s, t, y, **options)


@pytest.mark.parametrize("divergence", ["reverse_kl", "js", "tv"])
def test_hessians_that_are_refused(divergence):
    s, t, y = batch("float64")
    grad = np.full_like(s, 7)
    with pytest.raises(ValueError, match="may have a negative diagonal, expected the divergence"):
        kdloss.kd_loss_grad_hess(s, t, y, divergence=divergence, out=(grad, None))
    assert (grad == 7).all()


def test_a_divergence_is_a_string():
    s, t, y = batch("float64")
    with pytest.raises(TypeError, match="divergence is of type int, expected 'kl', 'reverse_kl'"):
        kdloss.kd_loss_batch(s, t, y, divergence=1)
