"""kdloss.jax: the same bits as NumPy, with jit, grad, vmap and two devices."""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

import divergences
import golden
import kdloss
import kdloss.jax as kj
from errors import gradient_error, loss_error
from option_batches import ALL_INDICES, ALL_SOFT, COMBINATIONS, batch, name_of
from tolerances import PROMISE


@pytest.fixture(autouse=True)
def numbers_of_64_bits():
    """Enable float64, which JAX disables by default."""
    with jax.enable_x64(True):
        yield


def loss_and_grad(student, teacher, labels, **options):
    """Call it compiled."""
    static = {name: x for name, x in options.items() if not isinstance(x, np.ndarray)}
    arrays = {name: x for name, x in options.items() if isinstance(x, np.ndarray)}

    @jax.jit
    def run(s, t, y, arrays):
        def total(s):
            loss = kj.kd_loss(s, t, y, **arrays, **static)
            return loss.sum(), loss

        (_, loss), grad = jax.value_and_grad(total, has_aux=True)(s)
        return loss, grad

    return run(student, teacher, labels, arrays)


def assert_same_as_numpy(*arguments, **options):
    loss, grad = loss_and_grad(*arguments, **options)
    wanted = kdloss.kd_loss_and_grad(*arguments, **options)
    dtype = np.float64 if arguments[0].dtype == np.float64 else np.float32
    assert (loss.dtype, grad.dtype) == (dtype, arguments[0].dtype)
    assert np.asarray(loss).tobytes() == np.asarray(wanted.loss).astype(dtype).tobytes()
    # XLA multiplies the gradient by the incoming one, and flushes subnormal numbers to 0.
    subnormal = np.abs(wanted.grad_logits) < ml_dtypes.finfo(grad.dtype).smallest_normal
    grad, wanted = (np.where(subnormal, 0, x) for x in (grad, wanted.grad_logits))
    assert np.array_equal(grad, wanted)


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    s, t = rng.normal(0, 2, (2, 6, 5)).astype(np.float32)
    return s, t, np.array([0, 4, -1, -100, 2, 1])


@pytest.mark.parametrize("case", golden.CASES, ids=lambda case: case.name)
def test_golden_cases(case):
    promise, dtype = PROMISE[case.student.dtype.name], case.student.dtype
    arguments = case.student, case.teacher, case.labels
    tau = float(case.tau)
    for alpha, exact, grad in ((1.0, case.hard, case.grad_hard), (0.0, case.soft, case.grad_soft)):
        found = loss_and_grad(*arguments, alpha=alpha, tau=tau, reduction="none")
        assert loss_error(found[0], exact, dtype) <= promise
        if grad is not None:
            assert gradient_error(found[1], grad, dtype) <= promise
        assert_same_as_numpy(*arguments, alpha=alpha, tau=tau, reduction="none")


@pytest.mark.parametrize("half", [ml_dtypes.bfloat16, np.float16])
@pytest.mark.parametrize("case", golden.CASES, ids=lambda case: case.name)
def test_golden_cases_in_half_precision(case, half):
    largest = float(ml_dtypes.finfo(half).max)
    s, t = (np.clip(x, -largest, largest).astype(half) for x in (case.student, case.teacher))
    options = {"alpha": 0.3, "tau": float(case.tau), "reduction": "none"}
    assert_same_as_numpy(s, t, case.labels, **options)


@pytest.mark.parametrize("divergence", divergences.KINDS)
def test_divergences(divergence, dtype):
    arguments, options = batch((), 10, dtype)
    for beta in divergences.KINDS[divergence]:
        assert_same_as_numpy(*arguments, **options, divergence=divergence, beta=beta)


@pytest.mark.parametrize("names", COMBINATIONS, ids=name_of)
def test_options(names, dtype):
    arguments, options = batch(names, 10, dtype)
    assert_same_as_numpy(*arguments, **options)


@pytest.mark.parametrize("half", [ml_dtypes.bfloat16, np.float16])
@pytest.mark.parametrize("names", [(), ALL_INDICES, ALL_SOFT], ids=name_of)
def test_halves(names, half):
    (s, t, y), options = batch(names, 10, np.float32)
    assert_same_as_numpy(s.astype(half), t.astype(half), y, **options)


def test_parts_and_sequences(rows):
    s, t, y = (x.reshape(2, 3, *x.shape[1:]) for x in rows)
    for reduction in ("mean", "none"):
        parts = kj.kd_loss_parts(s, t, y, reduction=reduction)
        for a, b in zip(parts, kdloss.kd_loss_parts(*rows, reduction=reduction), strict=True):
            assert a.shape == (y.shape if reduction == "none" else ())
            np.testing.assert_array_equal(np.ravel(a), np.float32(np.ravel(b)))
    (_, aux), grad = jax.value_and_grad(
        lambda s: (lambda p: (p.loss, p))(kj.kd_loss_parts(s, t, y)), has_aux=True
    )(s)
    wanted = kdloss.kd_loss_and_grad(*rows).grad_logits
    assert aux.soft > 0
    np.testing.assert_array_equal(grad.reshape(6, 5), wanted)


def test_vmap(rows):
    each = jax.vmap(jax.grad(lambda s, t, y: kj.kd_loss(s, t, y)))
    wanted = kdloss.kd_loss_and_grad(*rows, reduction="none").grad_logits
    np.testing.assert_array_equal(each(*rows), wanted)


def test_arrays_for_numbers(rows):
    """A number that changes from step to step can be an array; then nothing is compiled again."""
    calls = 0

    @jax.jit
    def loss(alpha, tau, normalizer):
        nonlocal calls
        calls += 1
        return kj.kd_loss(*rows, alpha=alpha, tau=tau, normalizer=normalizer)

    for numbers in ((0.1, 3.0, 7.0), (0.7, 1.5, 11.0)):
        options = dict(zip(("alpha", "tau", "normalizer"), numbers, strict=True))
        wanted = kdloss.kd_loss_batch(*rows, **options)
        assert loss(*map(jnp.float64, numbers)) == np.float32(wanted)
    assert calls == 1


def test_gradients_that_do_not_exist(rows):
    s, t, y = rows
    assert not jax.grad(lambda t: kj.kd_loss(s, t, y))(t).any()
    with pytest.raises(TypeError, match="tau requires a gradient, expected a constant"):
        jax.grad(lambda tau: kj.kd_loss(s, t, y, tau=tau))(2.0)
    with pytest.raises(ValueError, match="cannot be differentiated"):
        jax.hessian(lambda s: kj.kd_loss(s, t, y))(s)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"s": np.ones((6, 5), int)}, TypeError, "student_logits has dtype int64, expected one of"),
        ({"s": np.float32(1)}, ValueError, "student_logits has no axes"),
        ({"t": np.ones((5, 6))}, ValueError, r"teacher_logits has shape \(5, 6\), expected \(6,"),
        ({"y": np.zeros(5, int)}, ValueError, r"labels has shape \(5,\), expected \(6,\)"),
        ({"y": np.full(6, 5)}, ValueError, r"labels\[0\] is 5, expected a class"),
        ({"reduction": "batchmean"}, ValueError, "reduction is 'batchmean'"),
        ({"divergence": "jsd"}, ValueError, "divergence is 'jsd', expected 'kl', .* or 'mse'"),
        ({"normalizer": -1.0}, ValueError, "normalizer is -1.0"),
        ({"num_threads": 0}, ValueError, "num_threads is 0"),
        ({"temperature": 1.0}, TypeError, "unexpected keyword argument 'temperature'"),
    ],
)
def test_refusals(rows, change, error, message):
    given = {**dict(zip("sty", rows, strict=True)), **change}
    with pytest.raises(error, match=message):
        kj.kd_loss(given.pop("s"), given.pop("t"), given.pop("y"), **given)


def test_optax(rows):
    s, t, y = rows
    optimizer = optax.adam(0.3)

    @jax.jit
    def step(s, state):
        loss, grad = jax.value_and_grad(functools.partial(kj.kd_loss, tau=2.0))(s, t, y)
        updates, state = optimizer.update(grad, state)
        return optax.apply_updates(s, updates), state, loss

    state, losses = optimizer.init(s), []
    for _ in range(30):
        s, state, loss = step(s, state)
        losses.append(loss)
    assert losses[-1] < losses[0] / 3


TWO_DEVICES = """
import json
import jax, numpy as np
from jax.sharding import Mesh, PartitionSpec as P
import kdloss, kdloss.jax
rng = np.random.default_rng(0)
s, t = rng.normal(size=(2, 8, 5)).astype(np.float32)
y = np.array([0, 1, 2, 3, -100, -100, -100, 4])

def local(s, t, y):
    loss = lambda s: kdloss.jax.kd_loss(s, t, y, normalizer=5.0)
    value, grad = jax.value_and_grad(loss)(s)
    return jax.lax.psum(value, "rows"), grad

mesh = Mesh(np.array(jax.devices()), ("rows",))
run = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=P("rows"), out_specs=(P(), P("rows"))))
loss, grad = run(s, t, y)
wanted = kdloss.kd_loss_and_grad(s, t, y)
print(json.dumps([len(jax.devices()), float(loss), wanted.loss,
                  bool(np.array_equal(grad, wanted.grad_logits))]))
"""


def test_two_devices_with_unequal_padding(child):
    devices, loss, wanted, same = child(
        TWO_DEVICES, XLA_FLAGS="--xla_force_host_platform_device_count=2"
    )
    assert devices == 2
    assert same
    assert loss == pytest.approx(wanted, rel=PROMISE["float32"], abs=0)


@pytest.mark.parametrize(
    ("missing", "message"),
    [("jax", "pip install 'kdloss[jax]'"), ("kdloss._jax", "KDLOSS_JAX=ON '.[jax]'")],
)
def test_what_is_missing_is_named(child, missing, message):
    code = """
import json, sys
sys.modules[sys.argv[1]] = None
try:
    import kdloss.jax
except ImportError as error:
    print(json.dumps(str(error)))
"""
    assert child(code, missing).endswith(message)
