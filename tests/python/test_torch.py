"""kdloss.torch: the same bits as NumPy with autograd, tracing, transforms and training."""

import copy
import os
import re
from pathlib import Path
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import multiprocessing

import divergences
import golden
import kdloss
import kdloss.torch as kt
from errors import gradient_error, loss_error
from option_batches import ALL_INDICES, ALL_SOFT, COMBINATIONS, batch, name_of
from tolerances import PROMISE

README = Path(__file__).parents[2] / "README.md"
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def tensor(x):
    """An array as a tensor that shares its memory; anything else unchanged."""
    if not isinstance(x, np.ndarray):
        return x
    if x.dtype == BFLOAT16:
        return torch.from_numpy(x.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(x)


def array(x):
    """A tensor as an array."""
    x = x.detach()
    return x.view(torch.uint16).numpy().view(BFLOAT16) if x.dtype == torch.bfloat16 else x.numpy()


def loss_and_grad(student, teacher, labels, function=kt.kd_loss, **options):
    """The loss and the gradient of arrays, computed with tensors."""
    s = tensor(student).requires_grad_()
    options = {name: tensor(x) for name, x in options.items()}
    loss = function(s, tensor(teacher), tensor(labels), **options)
    (grad,) = torch.autograd.grad(loss, s, torch.ones_like(loss))
    return array(loss), array(grad)


def expected(student, teacher, labels, **options):
    """NumPy's loss and gradient, rounded like a tensor's."""
    result = kdloss.kd_loss_and_grad(student, teacher, labels, **options)
    dtype = np.float64 if student.dtype == np.float64 else np.float32
    return np.asarray(result.loss).astype(dtype), result.grad_logits


def assert_same(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    s, t = rng.normal(0, 2, (2, 6, 5)).astype(np.float32)
    return s, t, np.array([0, 4, -1, -100, 2, 1])


# ---- The golden cases and the options ------------------------------------------------------------


@pytest.mark.parametrize("case", golden.CASES, ids=lambda case: case.name)
def test_golden_cases(case):
    promise, dtype = PROMISE[case.student.dtype.name], case.student.dtype
    arguments = case.student, case.teacher, case.labels
    for alpha, exact, grad in ((1.0, case.hard, case.grad_hard), (0.0, case.soft, case.grad_soft)):
        found = loss_and_grad(*arguments, alpha=alpha, tau=case.tau, reduction="none")
        assert loss_error(found[0], exact, dtype) <= promise
        if grad is not None:
            assert gradient_error(found[1], grad, dtype) <= promise
        wanted = expected(*arguments, alpha=alpha, tau=case.tau, reduction="none")
        assert_same(found, wanted)


@pytest.mark.parametrize("half", [BFLOAT16, np.float16])
@pytest.mark.parametrize("case", golden.CASES, ids=lambda case: case.name)
def test_golden_cases_in_half_precision(case, half):
    largest = float(ml_dtypes.finfo(half).max)
    s, t = (np.clip(x, -largest, largest).astype(half) for x in (case.student, case.teacher))
    options = {"alpha": 0.3, "tau": case.tau, "reduction": "none"}
    found = loss_and_grad(s, t, case.labels, **options)
    assert_same(found, expected(s, t, case.labels, **options))


@pytest.mark.parametrize("divergence", divergences.KINDS)
def test_divergences(divergence, dtype):
    (s, t, y), options = batch((), 10, dtype)
    for beta in divergences.KINDS[divergence]:
        options |= {"divergence": divergence, "beta": beta}
        assert_same(loss_and_grad(s, t, y, **options), expected(s, t, y, **options))
        torch.compiler.reset()
        compiled = torch.compile(
            lambda *a, **o: kt.kd_loss(*a, **o), fullgraph=True, backend="aot_eager"
        )
        found = loss_and_grad(s, t, y, function=compiled, **options)
        assert_same(found, expected(s, t, y, **options))


@pytest.mark.parametrize("names", COMBINATIONS, ids=name_of)
def test_options(names, dtype):
    arguments, options = batch(names, 10, dtype)
    assert_same(loss_and_grad(*arguments, **options), expected(*arguments, **options))


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("names", [(), ALL_INDICES[:-1], ALL_SOFT[:-1]], ids=len)
def test_reductions(names, reduction, dtype):
    arguments, options = batch(names, 10, dtype)
    options["reduction"] = reduction
    assert_same(loss_and_grad(*arguments, **options), expected(*arguments, **options))


def test_bfloat16(layout):
    (s, t, y), options = batch(ALL_INDICES, 10, np.float32)
    s, t = layout(s.astype(BFLOAT16)), layout(t.astype(BFLOAT16))
    if min(s.strides + t.strides) > 0:  # tensors have no negative strides
        assert_same(loss_and_grad(s, t, y, **options), expected(s, t, y, **options))


@pytest.mark.parametrize("names", [(), ("sample-weight",), ("normalizer",), ALL_SOFT], ids=name_of)
def test_float16_keeps_a_gradient_that_will_be_scaled(names):
    (s, t, y), options = batch(names, 10, np.float32)
    s, t = s.astype(np.float16), t.astype(np.float16)
    student = tensor(s).requires_grad_()
    tensors = {name: tensor(x) for name, x in options.items()}
    loss, hard, soft = kt.kd_loss_parts(student, tensor(t), tensor(y), **tensors)
    assert loss.dtype == torch.float32
    with pytest.raises(ValueError, match=r"normalizer is 0\.0, expected a finite number > 0"):
        kt.kd_loss(student, tensor(t), tensor(y), normalizer=torch.tensor(0.0))
    wanted = kdloss.kd_loss_parts(s, t, y, **options)
    for a, b in zip((loss, hard, soft), wanted, strict=True):
        assert a.item() == pytest.approx(b, rel=PROMISE["float32"], abs=0)
    (2.0**-30 * loss).backward(torch.tensor(2.0**30))
    exact = kdloss.kd_loss_and_grad(s.astype(np.float32), t, y, **options).grad_logits
    unit = np.finfo(np.float16).eps * np.abs(exact) + np.finfo(np.float16).smallest_subnormal
    assert np.all(np.abs(student.grad.numpy() - exact) <= 2 * unit)


def test_layouts_are_read_in_place(rows, dtype, layout):
    s, t = (layout(x.astype(dtype)) for x in rows[:2])
    if min(s.strides + t.strides) > 0:
        assert_same(loss_and_grad(s, t, rows[2]), expected(s, t, rows[2]))


def test_parts_come_with_the_gradient(rows):
    s = tensor(rows[0]).requires_grad_()
    for reduction in ("mean", "sum", "none"):
        parts = kt.kd_loss_parts(s, tensor(rows[1]), tensor(rows[2]), reduction=reduction)
        wanted = kdloss.kd_loss_parts(*rows, reduction=reduction)
        for a, b in zip(parts, wanted, strict=True):
            np.testing.assert_array_equal(array(a), np.float32(b))
        assert [x.requires_grad for x in parts] == [True, False, False]
        (grad,) = torch.autograd.grad(parts.loss.sum(), s)
        wanted = kdloss.kd_loss_and_grad(*rows, reduction=reduction).grad_logits
        np.testing.assert_array_equal(array(grad), wanted)


@pytest.mark.parametrize("shape", [(2, 3), (1, 2, 3), ()])
def test_sequences(rows, shape):
    s, t, y = rows
    if not shape:
        s, t, y = s[:1], t[:1], y[:1]
    weight = np.arange(1.0, 1 + len(y))
    for reduction in ("mean", "none"):
        loss, grad = loss_and_grad(
            s.reshape(*shape, 5), t.reshape(*shape, 5), y.reshape(shape),
            sample_weight=weight.reshape(shape), reduction=reduction,
        )  # fmt: skip
        wanted = expected(s, t, y, sample_weight=weight, reduction=reduction)
        assert loss.shape == (shape if reduction == "none" else ())
        assert grad.shape == (*shape, 5)
        assert_same((loss.reshape(wanted[0].shape), grad.reshape(s.shape)), wanted)


# ---- Autograd ------------------------------------------------------------------------------------


def test_gradcheck():
    (s, t, y), options = batch(ALL_INDICES, 3, np.float64, rows=7)
    options = {name: tensor(x) for name, x in options.items()}
    t, y = tensor(t), tensor(y)
    for reduction in ("mean", "none"):
        if reduction == "none":
            del options["normalizer"]

        def loss(s, reduction=reduction):
            return kt.kd_loss(s, t, y, **options, reduction=reduction)

        assert torch.autograd.gradcheck(loss, tensor(s).requires_grad_())


def test_a_kept_graph_gives_the_same_gradient_again(rows):
    s, t, y = map(tensor, rows)
    s.requires_grad_()
    loss = kt.kd_loss(s, t, y)
    loss.backward(retain_graph=True)
    first = s.grad.clone()
    (3 * loss).backward(retain_graph=True)
    assert torch.equal(s.grad, first + 3 * first)
    s.grad = None
    loss.backward()
    assert torch.equal(s.grad, first)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_the_teacher_gets_no_gradient(rows):
    s, t, y = map(tensor, rows)
    s.requires_grad_()
    t.requires_grad_()
    kt.kd_loss(s, t, y).backward()
    assert t.grad is None
    assert not kt.kd_loss(s.detach(), t, y).requires_grad


def second_derivatives(s, t, y):
    """Ways to request a second derivative."""

    def loss(x):
        return kt.kd_loss(x, t, y)

    def penalty(x):
        x = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(loss(x), x, create_graph=True)
        return torch.autograd.grad(grad.square().sum() + loss(x), x)

    return {
        "penalty": lambda: penalty(s),
        "grad of grad": lambda: torch.func.grad(lambda x: torch.func.grad(loss)(x).sum())(s),
        "jacrev": lambda: torch.func.jacrev(torch.func.grad(loss))(s),
        "hessian": lambda: torch.autograd.functional.hessian(loss, s),
    }


@pytest.mark.parametrize("way", ["penalty", "grad of grad", "jacrev", "hessian"])
def test_second_derivatives_are_refused(rows, way):
    with pytest.raises(RuntimeError, match="no second derivatives"):
        second_derivatives(*map(tensor, rows))[way]()


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
def test_forward_mode_is_refused(rows):
    s, t, y = map(tensor, rows)
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.jvp(lambda x: kt.kd_loss(x, t, y), (s,), (s,))


# ---- Tracing and transforms ----------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
@pytest.mark.parametrize("names", [(), ALL_INDICES, ALL_SOFT], ids=name_of)
def test_compile(names):
    arguments, options = batch(names, 10, np.float32)

    def loss(*arguments, **options):
        return kt.kd_loss(*arguments, **options)

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = loss_and_grad(*arguments, function=compiled, **options)
    assert_same(found, expected(*arguments, **options))


@pytest.mark.parametrize("parts", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_opcheck(rows, reduction, parts):
    s, t, y = map(tensor, rows)
    s.requires_grad_()
    y[2] = 0  # the hard loss of an unlabelled row is NaN, which opcheck finds unequal to itself
    options = (
        torch.tensor(0.5),
        torch.tensor(4.0),
        reduction,
        -100,
        None,
        None,
        0.0,
        None,
        "kl",
        0.5,
    )
    arguments = (s, t, y, *options, None, parts, True)
    torch.library.opcheck(kt.kd_loss_operator, arguments)


def test_functional_gradients(rows):
    s, t, y = map(tensor, rows)
    wanted = expected(*rows)
    found = torch.func.grad_and_value(lambda x: kt.kd_loss(x, t, y))(s)
    assert_same(map(array, found[::-1]), wanted)
    each = torch.func.vmap(torch.func.grad(lambda s, t, y: kt.kd_loss(s, t, y)))
    wanted = kdloss.kd_loss_and_grad(*rows, reduction="none").grad_logits
    np.testing.assert_array_equal(array(each(s, t, y)), wanted)


def test_fake_tensors(rows):
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode() as mode:
        s, t, y = (mode.from_tensor(tensor(x)) for x in rows)
        assert kt.kd_loss(s, t, y).shape == ()
        assert kt.kd_loss(s, t, y, reduction="none").shape == (6,)


def test_autocast(rows):
    layer = torch.nn.Linear(5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        s = layer(tensor(rows[0]))
        loss = kt.kd_loss(s, tensor(rows[1]), tensor(rows[2]))
    loss.backward()
    assert (s.dtype, loss.dtype) == (torch.bfloat16, torch.float32)
    wanted = kdloss.kd_loss_batch(array(s), *rows[1:])
    assert loss.item() == np.float32(wanted)
    assert layer.weight.grad.abs().sum() > 0


# ---- The module ----------------------------------------------------------------------------------


def test_module(rows):
    s, t, y = map(tensor, rows)
    weight = torch.arange(1.0, 6.0)
    criterion = kt.KDLoss(alpha=0.3, class_weight=weight)
    wanted = kt.kd_loss(s, t, y, alpha=0.3, class_weight=weight)
    assert criterion(s, t, y) == wanted
    assert copy.deepcopy(criterion)(s, t, y) == wanted
    assert criterion(s, t, y, alpha=0.6) == kt.kd_loss(s, t, y, alpha=0.6, class_weight=weight)
    assert criterion.parts(s, t, y).loss == wanted
    other = kt.KDLoss(alpha=0.3, class_weight=torch.ones(5))
    other.load_state_dict(criterion.state_dict())
    assert other(s, t, y) == wanted
    assert not kt.KDLoss().state_dict()
    assert repr(criterion) == "KDLoss(alpha=0.3)"


# ---- Refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"s": [[1.0]]}, TypeError, "student_logits is of type list, expected a torch.Tensor"),
        ({"t": [[1.0]]}, TypeError, "teacher_logits is of type list, expected a torch.Tensor"),
        ({"s": torch.ones(6, 5, dtype=torch.int64)}, TypeError, "dtype torch.int64, expected"),
        (
            {"t": torch.ones(6, 5).long()},
            TypeError,
            "teacher_logits has dtype torch.int64, expected",
        ),
        ({"normalizer": torch.tensor(0)}, ValueError, "normalizer is 0"),
        ({"normalizer": torch.ones(1)}, ValueError, r"normalizer has shape \(1,\), expected \(\)"),
        ({"s": torch.ones(6, 5, device="meta")}, TypeError, "is a meta tensor, expected one"),
        ({"s": torch.ones(6, 5).to_sparse()}, TypeError, "layout torch.sparse_coo, expected"),
        ({"s": torch.tensor(1.0)}, ValueError, "student_logits has no axes"),
        ({"t": torch.ones(5, 6)}, ValueError, r"teacher_logits has shape \(5, 6\), expected \(6,"),
        ({"y": torch.zeros(6, 1).long()}, ValueError, r"labels has shape \(6, 1\), expected \(6,"),
        ({"y": torch.zeros(6)}, ValueError, r"labels\.long\(\)"),
        ({"y": torch.full((6,), 5)}, ValueError, r"labels\[0\] is 5, expected a class"),
        ({"tau": torch.tensor(2.0, requires_grad=True)}, TypeError, r"pass tau\.detach\(\)"),
        ({"sample_weight": torch.ones(5)}, ValueError, r"sample_weight has shape \(5,\)"),
        ({"class_weight": torch.ones(6)}, ValueError, r"expected \(5,\), one weight for each"),
        ({"temperature": 2.0}, TypeError, "unexpected keyword argument 'temperature'"),
        ({"reduction": "batchmean"}, ValueError, "reduction is 'batchmean'"),
    ],
)
def test_refusals(rows, change, error, message):
    given = {**dict(zip("sty", map(tensor, rows), strict=True)), **change}
    with pytest.raises(error, match=message):
        kt.kd_loss(given.pop("s"), given.pop("t"), given.pop("y"), **given)


def test_an_error_is_the_only_one(rows):
    s, t, _ = map(tensor, rows)
    with pytest.raises(ValueError, match="teacher_logits has shape") as error:
        kt.kd_loss(s, t[:3], None, alpha=0)
    assert error.value.__context__ is None


def test_another_device_is_refused():
    class Elsewhere(torch.Tensor):
        is_cpu, is_meta, device = False, False, "cuda:0"

    with pytest.raises(TypeError, match=r"on cuda:0, .*pass student_logits\.cpu\(\)"):
        kt.kd_loss(torch.ones(2, 3).as_subclass(Elsewhere), None, None, alpha=0)


@pytest.mark.parametrize("missing", ["torch", "ml_dtypes"])
def test_what_is_missing_is_named(child, missing):
    code = """
import json, sys
sys.modules[sys.argv[1]] = None
try:
    import torch
    import kdloss.torch
    x = torch.ones(2, 3, dtype=torch.bfloat16)
    kdloss.torch.kd_loss(x, x, None, alpha=0.0)
except ImportError as error:
    print(json.dumps(str(error)))
"""
    if missing == "torch":
        code = code.replace("    import torch\n", "")
    message = child(code, missing)
    assert missing in message
    assert message.endswith("pip install 'kdloss[torch]'")


# ---- Memory, threads, training -------------------------------------------------------------------

PEAK = """
import json, re, torch
import kdloss.torch

def size(field):
    return 1024 * int(re.search(rf"{field}:\\s+(\\d+) kB", open("/proc/self/status").read())[1])

rows, classes = 4096, 32000
s, t = torch.rand(rows, classes), torch.rand(rows, classes)
y = torch.randint(classes, (rows,))
kdloss.torch.kd_loss(s[:64].clone().requires_grad_(), t[:64], y[:64]).backward()
s.requires_grad_()
open("/proc/self/clear_refs", "w").write("5")  # resets the peak to the memory in use now
before = size("VmRSS")
(kdloss.torch.kd_loss(s, t, y) / 3).backward()
print(json.dumps([(size("VmHWM") - before) / s.nbytes, s.grad.nbytes / s.nbytes]))
"""


def test_memory_is_the_gradient_and_little_more(child):
    peak, gradient = child(PEAK)
    assert gradient == 1
    assert 0.99 < peak < 1.05


def test_threads_are_as_many_as_torchs(rows, monkeypatch):
    told = []

    def batch(student, teacher, labels, options):
        told.append(options[-1])
        return 0.0

    monkeypatch.setattr(kt._core, "kd_loss_batch", batch)
    before = torch.get_num_threads()
    large = torch.zeros(2**10, 2**5)
    for spinning in (False, True):
        monkeypatch.setattr(kt, "SPINNING", spinning)
        for threads, given in ((1, {}), (2, {}), (1, {"num_threads": 2})):
            torch.set_num_threads(threads)
            kt.kd_loss(*map(tensor, rows), **given)
            kt.kd_loss(large, large, None, alpha=0.0, **given)
    torch.set_num_threads(before)
    assert told == [1, 1, None, None, 2, 2, 1, 1, None, 2, 2, 2]


def sequences():
    """Logits of 4 sequences, unequally padded."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 6, 8, generator=generator, dtype=torch.float64)
    teacher = torch.randn(4, 6, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(5, (4, 6), generator=generator)
    for i, length in enumerate((6, 5, 1, 2)):
        labels[i, length:] = -100
    return x, teacher, labels


def model():
    torch.manual_seed(1)
    return torch.nn.Linear(8, 5).double()


def whole_gradient():
    x, teacher, labels = sequences()
    net = model()
    kt.kd_loss(net(x), teacher, labels).backward()
    return net.weight.grad


def _process(rank, file, queue):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{file}", rank=rank, world_size=2
    )
    x, teacher, labels = (z[2 * rank : 2 * rank + 2] for z in sequences())
    net = torch.nn.parallel.DistributedDataParallel(model())
    tokens = (labels != -100).sum()
    torch.distributed.all_reduce(tokens)
    kt.kd_loss(net(x), teacher, labels, normalizer=tokens.item() / 2).backward()
    if rank == 0:
        queue.put(net.module.weight.grad.numpy())
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_processes_are_one(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    processes = [
        context.Process(target=_process, args=(rank, tmp_path / "meet", queue)) for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    found = queue.get()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    np.testing.assert_allclose(found, whole_gradient().numpy(), rtol=PROMISE["float64"])


def test_accumulated_gradients_are_the_whole_batchs():
    x, teacher, labels = sequences()
    net, tokens = model(), (labels != -100).sum()
    for i in range(4):
        kt.kd_loss(net(x[i]), teacher[i], labels[i], normalizer=tokens).backward()
    torch.testing.assert_close(net.weight.grad, whole_gradient(), rtol=PROMISE["float64"], atol=0)


class _Losses(torch.utils.data.Dataset):
    """Rows whose loss is computed in a worker."""

    def __len__(self):
        return 4

    def __getitem__(self, i):
        x, teacher, labels = sequences()
        return kt.kd_loss(x[i, :, :5].contiguous(), teacher[i], labels[i]), os.getpid()


def test_workers_of_a_data_loader():
    alone = [_Losses()[i][0].item() for i in range(4)]
    loader = torch.utils.data.DataLoader(_Losses(), num_workers=2, multiprocessing_context="spawn")
    found = list(loader)
    assert [loss.item() for loss, _ in found] == alone
    assert os.getpid() not in {process.item() for _, process in found}


def compute_loss_of_the_readme():
    text = README.read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(def compute_loss.*?)^```", text, re.MULTILINE | re.DOTALL)
    names = {"torch": torch, "kdloss": kdloss}
    exec(compile(block, str(README), "exec"), names)
    return names["compute_loss"]


class CausalModel(torch.nn.Module):
    """Numbers for tokens, and a result with logits, as in Hugging Face's models."""

    def __init__(self):
        super().__init__()
        self.head = model()

    def forward(self, input_ids):
        return SimpleNamespace(logits=self.head(input_ids))


class Trainer:
    """The part of Hugging Face's Trainer that accumulates the gradients of micro-batches."""

    compute_loss = compute_loss_of_the_readme()

    def step(self, model, batches):
        items = sum((inputs["labels"][:, 1:] != -100).sum() for inputs in batches)
        for inputs in batches:
            self.compute_loss(model, inputs, num_items_in_batch=items).backward()


def test_compute_loss_of_a_trainer():
    x, teacher, labels = sequences()
    net = CausalModel()
    batches = [
        {
            "input_ids": x[i : i + 2],
            "labels": labels[i : i + 2],
            "teacher_logits": teacher[i : i + 2],
        }
        for i in (0, 2)
    ]
    Trainer().step(net, batches)
    whole = model()
    kt.kd_loss(whole(x[:, :-1]), teacher[:, :-1], labels[:, 1:]).backward()
    torch.testing.assert_close(
        net.head.weight.grad, whole.weight.grad, rtol=PROMISE["float64"], atol=0
    )
    loss, outputs = Trainer().compute_loss(net, batches[0], return_outputs=True)
    assert outputs.logits.shape == (2, 6, 5)
    alone = kt.kd_loss(outputs.logits[:, :-1], teacher[:2, :-1], labels[:2, 1:])
    torch.testing.assert_close(loss, alone, rtol=PROMISE["float64"], atol=0)
