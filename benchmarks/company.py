"""Time a training step and an epoch: the loss among the matrix products that surround it.

``python -m benchmarks.company`` from the root of the source tree; README.md tells more.

A library's idle threads take the processors from whatever comes next, so each library runs in a
process of its own, as its users have it: with its own matrix product, its own number of threads and
its own way of waiting. The processes take turns.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, Self

import numpy as np

from .data import ALPHA, TAU, Array
from .timing import Call, rotations, seconds_per_call

STEPS = ((128, 64, 10), (256, 512, 100), (256, 256, 1000), (4096, 512, 1000), (256, 512, 32000))
EPOCHS = ((20_000, 512, 100, 256), (100_000, 50, 10, 128))  # rows, features, classes, batch size
RATE = 0.1
# Seconds. OpenBLAS's threads look for work for some 20 milliseconds after a product, so the
# processes pause between their turns. A scheduler may wake a process's threads on one processor,
# and takes a tenth of a second to part them: so long are untimed calls.
PAUSE = 0.05
WARM_UP = 0.15
VISIT = 0.03
ROUNDS = range(3, 51)


class Problem(NamedTuple):
    """Features X (B, D), weights W (D, C), teacher logits T (B, C), labels y (B,)."""

    X: Array
    W: Array
    T: Array
    y: Array


def problem(rows: int, features: int, classes: int) -> Problem:
    """Make the same float32 numbers in every process."""
    rng = np.random.default_rng((rows, features, classes))
    X, W, T = (
        rng.standard_normal(shape, dtype=np.float32)
        for shape in ((rows, features), (features, classes), (rows, classes))
    )
    W *= np.float32(3 / features**0.5)
    T *= np.float32(3)
    return Problem(X, W, T, T.argmax(axis=1))


# ---- What each process times ---------------------------------------------------------------------


def numpy_step(p: Problem, loss: Callable[[Array, Array], object]) -> Call:
    """X W, then what makes G of it, then X' G: all into arrays that are there."""
    logits, gradient = np.empty((2, len(p.X), p.W.shape[1]), p.X.dtype)
    gradient[...] = 1e-3 * p.T
    to = np.empty_like(p.W)

    def step() -> None:
        np.matmul(p.X, p.W, out=logits)
        loss(logits, gradient)
        np.matmul(p.X.T, gradient, out=to)

    return step


def products_step(p: Problem) -> Call:
    """The two matrix products alone."""
    return numpy_step(p, lambda logits, gradient: None)


def kdloss_step(p: Problem, num_threads: int | None = None) -> Call:
    """The step around kdloss."""
    from kdloss import kd_loss_and_grad

    options: dict[str, Any] = {"alpha": ALPHA, "tau": TAU, "num_threads": num_threads}
    return numpy_step(p, lambda s, g: kd_loss_and_grad(s, p.T, p.y, out=g, **options))


def kdloss_step_on_one_thread(p: Problem) -> Call:
    """The same with num_threads=1."""
    return kdloss_step(p, 1)


def kdloss_epoch(p: Problem, size: int) -> Call:
    """LinearStudent, with the scores that it keeps."""
    from kdloss import LinearStudent

    student = LinearStudent(alpha=ALPHA, tau=TAU, learning_rate=RATE, epochs=1, batch_size=size)
    return lambda: student.fit(p.X, p.y, p.T)


def torch_loss(logits: Any, teacher: Any, labels: Any) -> Any:
    """The loss as PyTorch offers it."""
    from torch.nn import functional

    log_p, log_q = (functional.log_softmax(x / TAU, dim=1) for x in (logits, teacher))
    soft = functional.kl_div(log_p, log_q, reduction="batchmean", log_target=True)
    return ALPHA * functional.cross_entropy(logits, labels) + (1 - ALPHA) * TAU**2 * soft


def torch_step(p: Problem) -> Call:
    """PyTorch: its product, its loss, autograd."""
    import torch

    X, W, T, y = map(torch.from_numpy, p)
    W.requires_grad_()
    return lambda: torch.autograd.grad(torch_loss(X @ W, T, y), W)


def torch_epoch(p: Problem, size: int) -> Call:
    """A plain loop over a shuffled index, a linear layer and torch.optim.SGD; no scores."""
    import torch

    X, _, T, y = map(torch.from_numpy, p)
    layer = torch.nn.Linear(*p.W.shape)
    optimizer = torch.optim.SGD(layer.parameters(), lr=RATE)

    def epoch() -> None:
        for rows in torch.randperm(len(X)).split(size):
            optimizer.zero_grad()
            torch_loss(layer(X[rows]), T[rows], y[rows]).backward()
            optimizer.step()

    return epoch


def _jax_gradient() -> Any:
    import jax
    import jax.numpy as jnp
    import optax

    def loss(W: Any, X: Any, T: Any, y: Any) -> Any:
        logits = X @ W
        log_p, log_q = (jax.nn.log_softmax(x / TAU) for x in (logits, T))
        hard = optax.losses.softmax_cross_entropy_with_integer_labels(logits, y)
        soft = optax.losses.kl_divergence_with_log_targets(log_p, log_q)
        return jnp.mean(ALPHA * hard + (1 - ALPHA) * TAU**2 * soft)

    return jax.value_and_grad(loss)


def jax_step(p: Problem) -> Call:
    """JAX with optax's losses: the whole step is one compiled function."""
    import jax

    X, W, T, y = map(jax.numpy.asarray, p)
    step = jax.jit(_jax_gradient())
    return lambda: jax.block_until_ready(step(W, X, T, y))


def jax_epoch(p: Problem, size: int) -> Call:
    """One compiled step a batch, its gather within; no bias, no scores, no last batch."""
    import jax

    X, W, T, y = map(jax.numpy.asarray, p)
    gradient = _jax_gradient()

    @jax.jit
    def step(W: Any, rows: Any) -> Any:
        return W - RATE * gradient(W, X[rows], T[rows], y[rows])[1]

    rng = np.random.default_rng(0)

    def epoch() -> None:
        weights, order = W, rng.permutation(len(p.X))
        for start in range(0, len(order) - size + 1, size):
            weights = step(weights, order[start : start + size])
        jax.block_until_ready(weights)

    return epoch


def sgd_epoch(p: Problem, size: int) -> Call:
    """scikit-learn's SGDClassifier: labels alone, a row a step, a model for each class."""
    from sklearn.linear_model import SGDClassifier

    model = SGDClassifier(loss="log_loss", max_iter=1, tol=None)
    return lambda: model.fit(p.X, p.y)


def lbfgs_iteration(p: Problem, size: int) -> Call:
    """scikit-learn's LogisticRegression: labels alone, one iteration of L-BFGS over all rows."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    warnings.simplefilter("ignore", ConvergenceWarning)
    model = LogisticRegression(max_iter=1)
    return lambda: model.fit(p.X, p.y)


class Peer(NamedTuple):
    """A process: what it imports first, and what it times."""

    imports: tuple[str, ...] = ()
    step: Callable[[Problem], Call] | None = None
    epoch: Callable[[Problem, int], Call] | None = None


EVERYTHING = ("torch", "jax", "sklearn.linear_model", "numba", "kdloss")
PEERS = {
    "products alone": Peer(step=products_step),
    "kdloss on 1 thread": Peer(("kdloss",), kdloss_step_on_one_thread),
    "kdloss": Peer(("kdloss",), kdloss_step, kdloss_epoch),
    "kdloss after torch": Peer(EVERYTHING, kdloss_step, kdloss_epoch),
    "torch": Peer(("torch",), torch_step, torch_epoch),
    "jax": Peer(("jax",), jax_step, jax_epoch),
    "SGDClassifier": Peer(epoch=sgd_epoch),
    "LogisticRegression": Peer(epoch=lbfgs_iteration),
}


# ---- Processes that take turns -------------------------------------------------------------------


def serve(peer: Peer, shape: tuple[int, ...]) -> None:
    """Answer each line of the input by the seconds that a call takes."""
    for name in peer.imports:
        __import__(name)
    call = timed(peer, shape)
    call()
    for _ in sys.stdin:
        count, end = 0, time.perf_counter() + WARM_UP
        while time.perf_counter() < end:
            call()
            count += 1
        print(seconds_per_call(call, max(1, round(count * VISIT / WARM_UP))), flush=True)


def timed(peer: Peer, shape: tuple[int, ...]) -> Call:
    """The call for a step (B, D, C), or an epoch (N, D, C, B)."""
    if len(shape) == 3:
        assert peer.step is not None
        return peer.step(problem(*shape))
    assert peer.epoch is not None
    return peer.epoch(problem(*shape[:3]), shape[3])


class Process:
    """A peer in a process of its own, on the first ``threads`` processors."""

    def __init__(self, name: str, shape: tuple[int, ...], threads: int) -> None:
        processors = sorted(os.sched_getaffinity(0))[:threads]
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.company", "--serve", name, *map(str, shape)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, processors),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate()  # closes its input, which ends it

    def visit(self) -> float:
        """Seconds a call, after a warm-up."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process of {self.name!r} has ended: its error is above")
        return float(answer)


def interleave(
    names: Sequence[str], shape: tuple[int, ...], threads: int, budget: float
) -> dict[str, float]:
    """The medians of all peers at one shape, in rounds of rotating order."""
    samples: dict[str, list[float]] = {name: [] for name in names}
    with ExitStack() as stack:
        processes = {name: stack.enter_context(Process(name, shape, threads)) for name in names}
        for process in processes.values():
            process.visit()  # it has imported, compiled and warmed up by then
        start = time.perf_counter()
        for done, order in enumerate(rotations(list(names))):
            late = time.perf_counter() - start > budget
            if done == ROUNDS.stop or (late and done >= ROUNDS.start):
                break
            for name in order:
                time.sleep(PAUSE)
                samples[name].append(processes[name].visit())
    return {name: statistics.median(times) for name, times in samples.items()}


# ---- The tables ----------------------------------------------------------------------------------


def table(
    shapes: Sequence[tuple[int, ...]], medians: dict[tuple[int, ...], dict[str, float]], to: str
) -> Iterator[str]:
    """Milliseconds, and in brackets the multiple of the column `to`."""
    names = list(medians[shapes[0]])
    sizes = "B x D x C" if len(shapes[0]) == 3 else "rows x D x C, batches of B"
    yield f"| {sizes} | " + " | ".join(names) + " |"
    yield "|---|" + "---:|" * len(names)
    for shape in shapes:
        of = medians[shape]
        cells = [f"{of[name] * 1e3:.3g} ({of[name] / of[to]:.2f})" for name in names]
        label = " x ".join(map(str, shape[:3])) + "".join(f", {size}" for size in shape[3:])
        yield f"| {label} | " + " | ".join(cells) + " |"


def parse_shapes(text: str) -> list[tuple[int, ...]]:
    """Read ``256x512x100`` (steps) and ``20000x512x100x256`` (epochs), with commas between them."""
    shapes = [tuple(map(int, shape.split("x"))) for shape in text.split(",")]
    if any(len(shape) not in (3, 4) or min(shape) < 1 for shape in shapes):
        raise argparse.ArgumentTypeError(f"{text!r}, expected BxDxC or NxDxCxB")
    return shapes


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table of steps and one of epochs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.company", description=__doc__)
    parser.add_argument(
        "--shapes",
        type=parse_shapes,
        default=[*STEPS, *EPOCHS],
        help="steps like 256x512x100 (B, D, C), epochs like 20000x512x100x256 (rows, D, C, B)",
    )
    parser.add_argument("--peers", default=",".join(PEERS), help="names, with commas between them")
    parser.add_argument("--threads", type=int, default=2, help="processors for everyone (2)")
    parser.add_argument("--budget", type=float, default=10.0, help="seconds for each shape (10)")
    parser.add_argument("--serve", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        name, *shape = options.serve
        serve(PEERS[name], tuple(map(int, shape)))
        return
    if len(os.sched_getaffinity(0)) < options.threads:
        parser.error(f"--threads is {options.threads}, more than the processors that are here")
    peers = options.peers.split(",")
    if unknown := [name for name in peers if name not in PEERS]:
        parser.error(f"--peers has {', '.join(unknown)}, expected some of: {', '.join(PEERS)}")
    for what in ("step", "epoch"):
        names = [name for name in peers if getattr(PEERS[name], what) is not None]
        shapes = [s for s in options.shapes if len(s) == (3 if what == "step" else 4)]
        if not names or not shapes:
            continue
        medians = {s: interleave(names, s, options.threads, options.budget) for s in shapes}
        to = "kdloss on 1 thread" if "kdloss on 1 thread" in names else names[0]
        print(f"{what.capitalize()}: milliseconds, and as a multiple of {to}\n")
        print("\n".join(table(shapes, medians, to)), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
