"""Each divergence beside the default, PyTorch and JAX: loss and gradient, interleaved in a process.

``python -m benchmarks.divergences`` from the root of the source tree.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any, get_args

from .data import ALPHA, TAU, batches
from .threads import fix_threads
from .timing import Call, interleave

BETA = 0.5
DEFAULT = "kl, the default"
PEERS = ("PyTorch, eager", "torch.compile", "JAX, jit")


def torch_loss(divergence: str) -> Callable[..., Any]:
    """The loss as users write it, with logarithms of probabilities."""
    import torch
    from torch.nn import functional

    def kl(log_p: Any, log_q: Any) -> Any:  # KL(q || p)
        return functional.kl_div(log_p, log_q, reduction="batchmean", log_target=True)

    def soft(s: Any, t: Any) -> Any:
        if divergence == "mse":
            return functional.mse_loss(s, t)
        log_p, log_q = torch.log_softmax(s / TAU, 1), torch.log_softmax(t / TAU, 1)
        if divergence == "reverse_kl":
            value = kl(log_q, log_p)
        elif divergence == "tv":
            value = (log_p.exp() - log_q.exp()).abs().sum(1).mean() / 2
        elif divergence == "js":
            log_m = torch.logaddexp(log_q + math.log(BETA), log_p + math.log(1 - BETA))
            value = BETA * kl(log_m, log_q) + (1 - BETA) * kl(log_m, log_p)
        else:
            raise ValueError(f"divergence is {divergence!r}, expected one that has a peer here")
        return TAU**2 * value

    def loss(s: Any, t: Any, y: Any) -> Any:
        return ALPHA * functional.cross_entropy(s, y) + (1 - ALPHA) * soft(s, t)

    return loss


def jax_loss(divergence: str) -> Callable[..., Any]:
    """The same with JAX."""
    import jax
    import jax.numpy as jnp

    def kl(log_p: Any, log_q: Any) -> Any:
        return (jnp.exp(log_q) * (log_q - log_p)).sum(1).mean()

    def soft(s: Any, t: Any) -> Any:
        if divergence == "mse":
            return ((s - t) ** 2).mean()
        log_p, log_q = jax.nn.log_softmax(s / TAU), jax.nn.log_softmax(t / TAU)
        if divergence == "reverse_kl":
            value = kl(log_q, log_p)
        elif divergence == "tv":
            value = jnp.abs(jnp.exp(log_p) - jnp.exp(log_q)).sum(1).mean() / 2
        elif divergence == "js":
            log_m = jnp.logaddexp(log_q + math.log(BETA), log_p + math.log(1 - BETA))
            value = BETA * kl(log_m, log_q) + (1 - BETA) * kl(log_m, log_p)
        else:
            raise ValueError(f"divergence is {divergence!r}, expected one that has a peer here")
        return TAU**2 * value

    def loss(s: Any, t: Any, y: Any) -> Any:
        log_p1 = jax.nn.log_softmax(s)
        hard = -jnp.take_along_axis(log_p1, y[:, None], axis=1).mean()
        return ALPHA * hard + (1 - ALPHA) * soft(s, t)

    return loss


def calls(divergence: str, shape: tuple[int, int], threads: int) -> dict[str, Call]:
    """Bind everyone's loss and gradient to one batch of float32; they agree on its loss."""
    import jax
    import numpy as np
    import torch

    import kdloss

    student, teacher, labels, out = batches(shape, "float32")["ordinary"]

    def ours(name: str) -> Call:
        return lambda: kdloss.kd_loss_and_grad(
            student, teacher, labels, alpha=ALPHA, tau=TAU, divergence=name, beta=BETA,
            num_threads=threads, out=out,
        )  # fmt: skip

    s, t, y = (torch.from_numpy(x) for x in (student, teacher, labels))
    leaf = s.detach().requires_grad_()
    eager = torch_loss(divergence)
    torch.compiler.reset()
    compiled = torch.compile(eager, fullgraph=True)
    jitted = jax.jit(jax.value_and_grad(jax_loss(divergence)))
    arrays = [jax.numpy.asarray(x) for x in (student, teacher, labels)]
    losses = [float(f(leaf, t, y).detach()) for f in (eager, compiled)]
    losses.append(float(jitted(*arrays)[0]))
    np.testing.assert_allclose(losses, ours(divergence)().loss, rtol=1e-4)
    return {
        DEFAULT: ours("kl"),
        "kdloss": ours(divergence),
        "PyTorch, eager": lambda: torch.autograd.grad(eager(leaf, t, y), leaf),
        "torch.compile": lambda: torch.autograd.grad(compiled(leaf, t, y), leaf),
        "JAX, jit": lambda: jax.block_until_ready(jitted(*arrays)),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table: times, shares of the default's speed, and multiples of the fastest peer."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.divergences", description=__doc__)
    parser.add_argument("--shape", default="4096x1000", help="rows x classes (4096x1000)")
    parser.add_argument("--threads", type=int, default=2, help="threads (2)")
    parser.add_argument("--budget", type=float, default=10.0, help="seconds for each (10)")
    options = parser.parse_args(arguments)
    fix_threads(options.threads)
    from kdloss.losses import Divergence

    rows, classes = map(int, options.shape.split("x"))
    print(f"| {options.shape} | kdloss, ms | share of the default's speed | fastest peer | times |")
    print("|---|---:|---:|---|---:|")
    for divergence in get_args(Divergence)[1:]:
        bound = calls(divergence, (rows, classes), options.threads)
        times = {name: x.median for name, x in interleave(bound, options.budget).items()}
        own, default = times["kdloss"], times[DEFAULT]
        peer = min(PEERS, key=times.__getitem__)
        print(
            f"| {divergence} | {1e3 * own:.2f} | {default / own:.2f} | "
            f"{peer}, {1e3 * times[peer]:.1f} ms | {times[peer] / own:.1f} |"
        )


if __name__ == "__main__":
    main()
