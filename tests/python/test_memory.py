"""Memory: arrays are read in place, and results are written in place."""

import tracemalloc

import numpy as np
import pytest

import kdloss

OPTIONS = {"alpha": 0.3, "tau": 3.0}


@pytest.fixture
def batch(classes, dtype):
    rng = np.random.default_rng(classes)
    student, teacher = (2 * rng.standard_normal((37, classes)).astype(dtype) for _ in range(2))
    labels = rng.integers(-1, classes, 37)
    labels[5] = -100
    return student, teacher, labels


def all_losses(student, teacher, labels):
    """The bytes of all results of the losses."""
    none = OPTIONS | {"reduction": "none"}
    hard = np.where(labels == -1, 0, labels)
    return {
        "batch": kdloss.kd_loss_batch(student, teacher, labels, **none).tobytes(),
        "mean": kdloss.kd_loss_batch(student, teacher, labels, **OPTIONS),
        "grad": kdloss.kd_loss_and_grad(student, teacher, labels, **OPTIONS).grad_logits.tobytes(),
        "parts": [x.tobytes() for x in kdloss.kd_loss_parts(student, teacher, labels, **none)],
        "hard": kdloss.cross_entropy_hard(student, hard, reduction="none").tobytes(),
        "softmax": kdloss.softmax_temp(student, 3.0).tobytes(),
        "log_softmax": kdloss.log_softmax_temp(student, 3.0).tobytes(),
        "log_sum_exp": kdloss.log_sum_exp(student, 3.0).tobytes(),
    }


# ---- Layouts -------------------------------------------------------------------------------------


def test_any_layout_gives_the_same_bits(batch, layout):
    student, teacher, labels = batch
    expected = all_losses(*batch)
    assert all_losses(layout(student), layout(teacher), labels) == expected
    assert all_losses(layout(student), teacher, labels) == expected
    assert all_losses(student, layout(teacher), labels) == expected


def test_out_of_any_layout(batch, layout):
    student = batch[0]
    expected = kdloss.kd_loss_and_grad(*batch, **OPTIONS)
    out = layout(np.full_like(student, 7))
    around = out.base.copy() if out.base is not None and out.base.dtype == out.dtype else None
    result = kdloss.kd_loss_and_grad(*batch, **OPTIONS, out=out)
    assert result.grad_logits is out
    assert result.loss == expected.loss
    assert np.array_equal(out, expected.grad_logits)
    if around is not None:  # the elements between those of out are unchanged
        assert np.count_nonzero(np.isnan(out.base)) == np.count_nonzero(np.isnan(around))
    assert kdloss.softmax_temp(student, out=out) is out
    assert np.array_equal(out, kdloss.softmax_temp(student))
    assert kdloss.log_softmax_temp(student, out=out) is out
    assert np.array_equal(out, kdloss.log_softmax_temp(student))


def test_the_students_array_as_out(batch, layout):
    student, teacher, labels = batch
    student[3, 1] = teacher[4, 2] = -np.inf  # rows that take another path in the kernels
    labels[3:5] = 0
    expected = kdloss.kd_loss_and_grad(student, teacher, labels, **OPTIONS)
    own = layout(student.copy())
    result = kdloss.kd_loss_and_grad(own, layout(teacher), labels, **OPTIONS, out=own)
    assert result.grad_logits is own
    assert result.loss == expected.loss
    assert np.array_equal(own, expected.grad_logits)
    for function in (kdloss.softmax_temp, kdloss.log_softmax_temp):
        own = layout(student.copy())
        function(own, 2.0, out=own)
        assert np.array_equal(own, function(student, 2.0), equal_nan=True)


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_fresh_gradient_has_the_students_layout(dtype, order):
    student = np.zeros((6, 5), dtype, order=order)
    grad = kdloss.kd_loss_and_grad(student, student.copy("C"), [0] * 6).grad_logits
    assert grad.strides == student.strides
    assert (grad.dtype, grad.flags.writeable, grad.flags.owndata) == (dtype, True, True)


def test_a_fresh_gradient_is_dense(dtype):
    """It has the student's order of axes, without its gaps."""
    spread = np.zeros((6, 10), dtype)[:, ::2]
    assert kdloss.kd_loss_and_grad(spread, spread, [0] * 6).grad_logits.flags.c_contiguous
    spread = np.zeros((12, 5), dtype, order="F")[::2]
    assert kdloss.kd_loss_and_grad(spread, spread, [0] * 6).grad_logits.flags.f_contiguous


# ---- Conversions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "teacher", "result"),
    [
        ("float32", "float64", "float32"),
        ("float64", "float32", "float64"),
        ("int8", "float32", "float64"),
        ("int64", "int64", "float64"),
        ("uint8", "float16", "float64"),
        (">f4", "<f4", "float32"),
        ("<f8", ">f8", "float64"),
    ],
)
def test_other_types_are_converted(student, teacher, result):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 9, (2, 4, 5))
    s, t = values[0].astype(student), values[1].astype(teacher)
    before = s.tobytes(), t.tobytes()
    found = kdloss.kd_loss_and_grad(s, t, [0, 1, 2, 3], reduction="none")
    expected = kdloss.kd_loss_and_grad(
        s.astype(result), t.astype(result), [0, 1, 2, 3], reduction="none"
    )
    assert found.loss.dtype == found.grad_logits.dtype == np.dtype(result)
    assert found.loss.tobytes() == expected.loss.tobytes()
    assert found.grad_logits.tobytes() == expected.grad_logits.tobytes()
    assert (s.tobytes(), t.tobytes()) == before


def test_lists_and_unaligned_arrays(dtype):
    values = np.arange(12.0).reshape(3, 4) % 5
    expected = kdloss.kd_loss_and_grad(values.astype(dtype), values.T.reshape(3, 4), [0, 1, 2])
    unaligned = np.frombuffer(b"\0" + values.astype(dtype).tobytes(), np.uint8)[1:]
    unaligned = unaligned.view(dtype).reshape(3, 4)
    assert not unaligned.flags.aligned
    found = kdloss.kd_loss_and_grad(unaligned, values.T.reshape(3, 4), [0, 1, 2])
    assert found.loss == expected.loss
    assert found.grad_logits.tobytes() == expected.grad_logits.tobytes()
    lists = kdloss.kd_loss_and_grad(values.tolist(), values.T.reshape(3, 4).tolist(), [0, 1, 2])
    assert lists.grad_logits.dtype == np.float64


class OnCpu:
    """A foreign array in CPU memory, which counts how often it is read."""

    def __init__(self, array):
        self.array, self.reads = array, 0

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __dlpack__(self, **options):
        self.reads += 1
        return self.array.__dlpack__(**options)


def test_foreign_arrays_on_the_cpu_are_read_in_place(batch):
    student, teacher, labels = (OnCpu(array) for array in batch)
    found = kdloss.kd_loss_and_grad(student, teacher, labels, **OPTIONS)
    expected = kdloss.kd_loss_and_grad(*batch, **OPTIONS)
    assert type(found.grad_logits) is np.ndarray
    assert found.grad_logits.tobytes() == expected.grad_logits.tobytes()
    assert (student.reads, teacher.reads, labels.reads) == (1, 1, 1)


class Tensor(OnCpu):
    """Behaves like a PyTorch tensor with a pending sign, which DLPack ignores."""

    def resolve_neg(self):
        return OnCpu(-self.array)


def test_a_pending_sign_is_read(batch):
    student, teacher, labels = batch
    found = kdloss.kd_loss_batch(Tensor(-student), Tensor(-teacher), labels, **OPTIONS)
    assert found == kdloss.kd_loss_batch(student, teacher, labels, **OPTIONS)


class Unreadable:
    """Behaves like a PyTorch tensor that requires a gradient, or whose dtype NumPy lacks."""

    def __init__(self, error):
        self.error = error

    def __dlpack_device__(self):
        return 1, 0

    def __dlpack__(self, **options):
        raise BufferError

    def __array__(self, *args, **options):
        raise self.error


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (RuntimeError("it requires grad"), "it requires grad$"),
        (TypeError("ScalarType BFloat16"), r"ScalarType BFloat16; pass its \.float\(\)$"),
    ],
    ids=["gradient", "bfloat16"],
)
def test_what_numpy_cannot_read_is_named(error, hint):
    with pytest.raises(TypeError, match=f"teacher is a Unreadable that NumPy cannot read: {hint}"):
        kdloss.kd_loss_batch(np.zeros((1, 3)), Unreadable(error), [0])


class Scalar:
    """Behaves like a tensor without axes: it has `__len__`, which raises."""

    def __len__(self):
        raise TypeError("len() of a 0-d tensor")

    def __float__(self):
        return 3.0


def test_a_tensor_without_axes_is_a_number(batch):
    found = kdloss.kd_loss_batch(*batch, alpha=0.3, tau=Scalar())
    assert found == kdloss.kd_loss_batch(*batch, **OPTIONS)


# ---- No copies -----------------------------------------------------------------------------------

FUNCTIONS = {
    "kd_loss_batch": lambda s, t, y, out: kdloss.kd_loss_batch(s, t, y),
    "kd_loss_and_grad": lambda s, t, y, out: kdloss.kd_loss_and_grad(s, t, y, out=out),
    "kd_loss_parts": lambda s, t, y, out: kdloss.kd_loss_parts(s, t, y),
    "cross_entropy_hard": lambda s, t, y, out: kdloss.cross_entropy_hard(s, y),
    "softmax_temp": lambda s, t, y, out: kdloss.softmax_temp(s, out=out),
    "log_softmax_temp": lambda s, t, y, out: kdloss.log_softmax_temp(s, out=out),
    "log_sum_exp": lambda s, t, y, out: kdloss.log_sum_exp(s),
    "kl_divergence": lambda s, t, y, out: kdloss.kl_divergence(s, s),
}


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_numpy_makes_no_copy_of_any_layout(name, layout, dtype):
    rows, classes = 60, 500
    student = layout(np.full((rows, classes), 1 / classes, dtype))
    teacher, labels = layout(np.zeros((rows, classes), dtype)), np.zeros(rows, np.int64)
    for array in (student, teacher, labels):
        array.flags.writeable = False
    out = layout(np.zeros((rows, classes), dtype))
    tracemalloc.start()
    try:
        FUNCTIONS[name](student, teacher, labels, out)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < student.nbytes / 10


# The child process may allocate little more than it already has, and some memory for threads. Its
# arrays are far larger; reading a mapped file does not count.
NO_MORE_MEMORY = """
import json, re, resource, sys
from pathlib import Path

import kdloss
import numpy as np
from test_memory import FUNCTIONS

source, name, file = sys.argv[1:]
classes, megabytes = 500, {"kd_loss_batch": 2000}.get(name, 150)
shape = (megabytes << 20) // (4 * classes), classes
row = np.linspace(-3, 3, classes, dtype=np.float32)
if name == "kl_divergence":
    row = np.full(classes, 1 / classes, np.float32)
if source == "mapped":
    shape = min(shape[0], 75_000), classes  # reading a larger file would take long
    with open(file, "wb") as sparse:
        sparse.truncate(4 * shape[0] * shape[1])
    student = teacher = np.memmap(file, np.float32, "r", shape=shape)
    if name == "kl_divergence":  # zeros are not probabilities
        np.memmap(file, np.float32, "r+", shape=shape)[:] = row
else:
    spread = np.repeat(row, 3)[::3] if source == "columns" else row
    student, teacher = (np.broadcast_to(x, shape) for x in (spread, spread[::-1]))
labels = np.broadcast_to(np.int64(1), shape[0])
out = None
if name in ("kd_loss_and_grad", "softmax_temp", "log_softmax_temp"):
    out = np.zeros(shape, np.float32)

used = int(re.search(r"VmData:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) << 10
room = 64 << 20
resource.setrlimit(resource.RLIMIT_DATA, (used + room, resource.RLIM_INFINITY))
try:
    student + 0
    raise AssertionError("the limit does not hold")
except MemoryError:
    pass
result = FUNCTIONS[name](student, teacher, labels, out)
result = result[0] if isinstance(result, tuple) else result
print(json.dumps({"bytes": student.nbytes, "result": float(np.ravel(result)[0])}))
"""


@pytest.mark.parametrize("name", list(FUNCTIONS))
@pytest.mark.parametrize("source", ["rows", "columns", "mapped"])
def test_large_arrays_go_through_in_no_new_memory(source, name, child, tmp_path):
    """Broadcast rows, whole or with gaps between their classes; a file that is mapped read-only."""
    told = child(NO_MORE_MEMORY, source, name, tmp_path / "sparse")
    assert told["bytes"] >= 1.5e8
    assert np.isfinite(told["result"])
