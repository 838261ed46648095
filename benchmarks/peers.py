"""Every way to the same loss: a name, and a factory that imports what it needs and binds arrays.

A factory raises ``ImportError`` (or ``OSError``, where a compiler is missing) when its library is
not here. It returns ``bind(student, teacher, labels, alpha, tau, out)``, which does, once and
untimed, what the library needs to hold the arrays (B, C), (B, C), (B,), and returns two calls
without arguments: the mean loss, and the pair of mean loss and gradient (B, C). Peers that can
write into ``out`` do; the others make their own gradient, as they do for their users.
"""

import ctypes
import functools
import os
import subprocess
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .data import Array


class Bound(NamedTuple):
    """The two calls that are timed."""

    loss: Callable[[], Any]
    loss_and_grad: Callable[[], tuple[Any, Any]]


Bind = Callable[[Array, Array, Array, float, float, Array], Bound]


def kdloss_() -> Bind:
    """This package, told its threads: with a runtime that spins it would use one."""
    from kdloss import kd_loss_and_grad, kd_loss_batch

    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))

    def bind(
        student: Array, teacher: Array, labels: Array, alpha: float, tau: float, out: Array
    ) -> Bound:
        options: dict[str, Any] = {"alpha": alpha, "tau": tau, "num_threads": threads}
        return Bound(
            lambda: kd_loss_batch(student, teacher, labels, **options),
            lambda: kd_loss_and_grad(student, teacher, labels, **options, out=out),
        )

    return bind


def _array_formula(log_softmax: Callable[[Array], Array]) -> Bind:
    """Compose the loss from whole-array NumPy expressions around one ``log_softmax`` of rows."""

    def kd_loss(
        student: Array,
        teacher: Array,
        labels: Array,
        alpha: float,
        tau: float,
        grad: Array | None = None,
    ) -> float:
        rows = np.arange(len(labels))
        loss = 0.0
        if grad is not None:
            grad[...] = 0
        if alpha > 0:
            log_p1 = log_softmax(student)
            loss -= alpha * float(log_p1[rows, labels].mean())
            if grad is not None:
                np.exp(log_p1, out=grad)
                grad[rows, labels] -= 1
                grad *= alpha / len(labels)
        if alpha < 1:
            log_p = log_softmax(student / tau)
            log_q = log_softmax(teacher / tau)
            q = np.exp(log_q)
            kl = (q * (log_q - log_p)).sum(axis=1)
            loss += (1 - alpha) * tau**2 * float(kl.mean())
            if grad is not None:
                grad += ((1 - alpha) * tau / len(labels)) * (np.exp(log_p) - q)
        return loss

    def bind(
        student: Array, teacher: Array, labels: Array, alpha: float, tau: float, out: Array
    ) -> Bound:
        return Bound(
            lambda: kd_loss(student, teacher, labels, alpha, tau),
            lambda: (kd_loss(student, teacher, labels, alpha, tau, grad=out), out),
        )

    return bind


def numpy_() -> Bind:
    """NumPy, the textbook: subtract the largest logit, exponentiate, normalise."""

    def log_softmax(logits: Array) -> Array:
        shifted: Array = logits - logits.max(axis=1, keepdims=True)
        shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        return shifted

    return _array_formula(log_softmax)


def scipy_() -> Bind:
    """The same expressions around ``scipy.special.log_softmax``."""
    from scipy.special import log_softmax

    return _array_formula(functools.partial(log_softmax, axis=1))


def _torch_kd_loss(student: Any, teacher: Any, labels: Any, alpha: float, tau: float) -> Any:
    """Write the loss as PyTorch offers it: cross_entropy, and kl_div of log-probabilities."""
    from torch.nn import functional

    loss: Any = 0.0
    if alpha > 0:
        loss = alpha * functional.cross_entropy(student, labels)
    if alpha < 1:
        log_p = functional.log_softmax(student / tau, dim=1)
        log_q = functional.log_softmax(teacher / tau, dim=1)
        kl = functional.kl_div(log_p, log_q, reduction="batchmean", log_target=True)
        loss = loss + (1 - alpha) * tau**2 * kl
    return loss


def torch_eager() -> Bind:
    """PyTorch with its eager operators; the gradient by autograd."""
    import torch

    def bind(
        student: Array, teacher: Array, labels: Array, alpha: float, tau: float, out: Array
    ) -> Bound:
        s, t, y = (torch.from_numpy(array) for array in (student, teacher, labels))
        leaf = s.detach().requires_grad_()

        def loss_and_grad() -> tuple[Any, Any]:
            loss = _torch_kd_loss(leaf, t, y, alpha, tau)
            return loss.detach(), torch.autograd.grad(loss, leaf)[0]

        return Bound(lambda: _torch_kd_loss(s, t, y, alpha, tau), loss_and_grad)

    return bind


def torch_compiled() -> Bind:
    """The same function through ``torch.compile``, loss and gradient in one graph.

    Compiling the loss alone and calling autograd on it was slower: 3 times at 128 x 10, 2 times
    at 128 x 100, the same within noise from 256 x 1000 on (PyTorch 2.13, two cores with AVX2).
    """
    import torch

    # Forget earlier shapes: a second shape would make the compiler generalise, and go slower.
    torch._dynamo.reset()
    # Past this limit a call would raise (fullgraph) or quietly run eagerly (without it).
    torch._dynamo.config.recompile_limit = 1000
    compiled = functools.partial(torch.compile, fullgraph=True)
    kd_loss = compiled(_torch_kd_loss)
    grad_and_loss = compiled(torch.func.grad_and_value(_torch_kd_loss))

    def bind(
        student: Array, teacher: Array, labels: Array, alpha: float, tau: float, out: Array
    ) -> Bound:
        s, t, y = (torch.from_numpy(array) for array in (student, teacher, labels))

        def loss_and_grad() -> tuple[Any, Any]:
            grad, loss = grad_and_loss(s, t, y, alpha, tau)
            return loss, grad

        return Bound(lambda: kd_loss(s, t, y, alpha, tau), loss_and_grad)

    return bind


def jax_() -> Bind:
    """JAX with optax's losses, jitted; alpha and tau are constants of the compiled function."""
    import jax
    import jax.numpy as jnp
    import optax

    jax.config.update("jax_enable_x64", True)  # float64 arrays stay float64; float32 ones float32

    def kd_loss(student: Any, teacher: Any, labels: Any, alpha: float, tau: float) -> Any:
        loss: Any = 0.0
        if alpha > 0:
            hard = optax.losses.softmax_cross_entropy_with_integer_labels(student, labels)
            loss += alpha * hard.mean()
        if alpha < 1:
            log_p = jax.nn.log_softmax(student / tau)
            log_q = jax.nn.log_softmax(teacher / tau)
            soft = optax.losses.kl_divergence_with_log_targets(log_p, log_q)
            loss += (1 - alpha) * tau**2 * soft.mean()
        return loss

    loss_of = jax.jit(kd_loss, static_argnums=(3, 4))
    loss_and_grad_of = jax.jit(jax.value_and_grad(kd_loss), static_argnums=(3, 4))

    def bind(
        student: Array, teacher: Array, labels: Array, alpha: float, tau: float, out: Array
    ) -> Bound:
        arrays = tuple(jnp.asarray(array) for array in (student, teacher, labels))
        return Bound(
            lambda: loss_of(*arrays, alpha, tau).block_until_ready(),
            lambda: jax.block_until_ready(loss_and_grad_of(*arrays, alpha, tau)),
        )

    return bind


@functools.cache
def _numba_kernels(parallel: bool) -> tuple[Any, Any]:
    """Compile the fused loop over rows, without and with the gradient."""
    from numba import njit, prange

    jit = njit(parallel=parallel, fastmath=True)

    # Scalars come in the arrays' type: with Python's float and int, float32 rows would be
    # computed in float64.
    @jit
    def kd_loss(s, t, y, alpha, beta, tau):  # type: ignore[no-untyped-def]
        B, C = s.shape
        total = 0.0
        for b in prange(B):
            ms, mt = s[b].max(), t[b].max()
            z1 = zs = zt = cross = s.dtype.type(0)
            for c in range(C):
                u = s[b, c] - ms
                v = t[b, c] - mt
                et = np.exp(v / tau)
                z1 += np.exp(u)
                zs += np.exp(u / tau)
                zt += et
                cross += et * (v - u)
            if alpha > 0:
                total += alpha * (np.log(z1) + ms - s[b, y[b]])
            if beta > 0:
                total += beta * tau * (cross / zt + tau * np.log(zs / zt))
        return total / B

    @jit
    def kd_loss_and_grad(s, t, y, alpha, beta, tau, grad):  # type: ignore[no-untyped-def]
        B, C = s.shape
        total = 0.0
        for b in prange(B):
            ms, mt = s[b].max(), t[b].max()
            z1 = zs = zt = cross = s.dtype.type(0)
            for c in range(C):
                u = s[b, c] - ms
                v = t[b, c] - mt
                et = np.exp(v / tau)
                z1 += np.exp(u)
                zs += np.exp(u / tau)
                zt += et
                cross += et * (v - u)
            if alpha > 0:
                total += alpha * (np.log(z1) + ms - s[b, y[b]])
            if beta > 0:
                total += beta * tau * (cross / zt + tau * np.log(zs / zt))
            n = s.dtype.type(B)
            k1, kp, kq = alpha / (n * z1), beta * tau / (n * zs), beta * tau / (n * zt)
            for c in range(C):
                u = s[b, c] - ms
                v = t[b, c] - mt
                grad[b, c] = k1 * np.exp(u) + kp * np.exp(u / tau) - kq * np.exp(v / tau)
            grad[b, y[b]] -= alpha / n
        return total / B

    return kd_loss, kd_loss_and_grad


def _numba_bind(parallel: bool) -> Bind:
    kd_loss, kd_loss_and_grad = _numba_kernels(parallel)

    def bind(
        student: Array, teacher: Array, labels: Array, alpha: float, tau: float, out: Array
    ) -> Bound:
        scalar = student.dtype.type
        arguments = (student, teacher, labels, scalar(alpha), scalar(1 - alpha), scalar(tau))
        return Bound(
            lambda: kd_loss(*arguments),
            lambda: (kd_loss_and_grad(*arguments, out), out),
        )

    return bind


def numba_() -> Bind:
    """numba: one fused loop over the rows, in parallel, with fastmath."""
    return _numba_bind(parallel=True)


def numba_serial() -> Bind:
    """The same loop on the calling thread, which is what tiny batches want."""
    return _numba_bind(parallel=False)


def sklearn_() -> Bind:
    """scikit-learn's HalfMultinomialLoss: the hard loss alone, whatever alpha is."""
    from sklearn._loss import HalfMultinomialLoss

    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))

    def bind(
        student: Array, teacher: Array, labels: Array, alpha: float, tau: float, out: Array
    ) -> Bound:
        hard = HalfMultinomialLoss(n_classes=student.shape[1])
        arrays = {
            "y_true": labels.astype(student.dtype),
            "raw_prediction": student,
            "sample_weight": np.full(len(labels), 1 / len(labels), student.dtype),
            "loss_out": np.empty(len(labels), student.dtype),
        }

        def loss() -> float:
            return float(hard.loss(**arrays, n_threads=threads).sum())

        def loss_and_grad() -> tuple[float, Array]:
            losses, grad = hard.loss_gradient(**arrays, gradient_out=out, n_threads=threads)
            return float(losses.sum()), grad

        return Bound(loss, loss_and_grad)

    return bind


@functools.cache
def _document_library() -> ctypes.CDLL:
    """Compile document.cpp with ``$CXX -O3`` (g++ where it is unset) and load it."""
    source = Path(__file__).with_name("document.cpp")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "document.so"
        compiler = os.environ.get("CXX", "g++")
        command = [compiler, "-std=c++17", "-O3", "-shared", "-fPIC", str(source), "-o"]
        subprocess.run([*command, str(target)], check=True, capture_output=True)
        library = ctypes.CDLL(str(target))
    pointer, size, real = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_double
    signatures: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "document_batch_float32": (pointer, (pointer, pointer, pointer, size, size)),
        "document_batch_float64": (pointer, (pointer, pointer, pointer, size, size)),
        "document_loss": (real, (pointer, real, real)),
        "document_loss_and_grad": (real, (pointer, real, real)),
        "document_copy_grad": (None, (pointer, pointer)),
        "document_free": (None, (pointer,)),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class _DocumentBatch:
    """The document's vectors; as an array, the gradient of the latest call."""

    def __init__(self, student: Array, teacher: Array, labels: Array) -> None:
        self._library = _document_library()
        self._shape = student.shape
        make = getattr(self._library, f"document_batch_{student.dtype}")
        pointers = (array.ctypes.data for array in (student, teacher, labels))
        self._batch = make(*pointers, *student.shape)
        weakref.finalize(self, self._library.document_free, self._batch)

    def loss(self, alpha: float, tau: float) -> float:
        return float(self._library.document_loss(self._batch, alpha, tau))

    def loss_and_grad(self, alpha: float, tau: float) -> tuple[float, "_DocumentBatch"]:
        return self._library.document_loss_and_grad(self._batch, alpha, tau), self

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        grad = np.empty(self._shape)
        self._library.document_copy_grad(self._batch, grad.ctypes.data)
        return grad.astype(dtype or grad.dtype, copy=False)


def document() -> Bind:
    """The knowledge-distillation document's C++: rows as vectors of double, one thread.

    It computes in double whatever it is given, so its float32 results are those of double.
    """
    _document_library()

    def bind(
        student: Array, teacher: Array, labels: Array, alpha: float, tau: float, out: Array
    ) -> Bound:
        batch = _DocumentBatch(student, teacher, labels)
        return Bound(
            lambda: batch.loss(alpha, tau),
            lambda: batch.loss_and_grad(alpha, tau),
        )

    return bind


PEERS: dict[str, Callable[[], Bind]] = {
    "kdloss": kdloss_,
    "numpy": numpy_,
    "scipy": scipy_,
    "torch": torch_eager,
    "torch.compile": torch_compiled,
    "jax": jax_,
    "numba": numba_,
    "numba-serial": numba_serial,
    "sklearn": sklearn_,
    "document": document,
}

HARD_LOSS_ALONE = frozenset({"sklearn"})


def title(name: str) -> str:
    """Name a peer in a table, with what it leaves out."""
    return f"{name} (hard loss alone)" if name in HARD_LOSS_ALONE else name


def available(names: str | None) -> tuple[dict[str, Callable[[], Bind]], dict[str, str]]:
    """Split the peers called by ``names`` (with commas; None: all) into usable and missing.

    The missing ones come with the reason, to be reported: none is dropped in silence.
    """
    wanted = names.split(",") if names else list(PEERS)
    for name in wanted:
        if name not in PEERS:
            raise SystemExit(f"--peers has {name!r}, expected some of {','.join(PEERS)}")
    usable, missing = {}, {}
    for name in wanted:
        try:
            PEERS[name]()
        except (ImportError, OSError, subprocess.CalledProcessError) as error:
            missing[name] = f"{type(error).__name__}: {error}".splitlines()[0]
        else:
            usable[name] = PEERS[name]
    return usable, missing
