"""kdloss.torch and kdloss.jax beside their frameworks, forward and backward, in one process.

``python -m benchmarks.tensors`` from the root of the source tree.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from .data import ALPHA, TAU, batches
from .threads import fix_threads
from .timing import Call, interleave

PEERS = (
    "kdloss, NumPy",
    "kdloss.torch",
    "kdloss.torch, without gradient",
    "PyTorch, an empty autograd function",
    "PyTorch, eager",
    "torch.compile, autograd",
    "torch.compile, one graph",
    "kdloss.jax, jit",
    "JAX, jit",
)


def calls(shape: tuple[int, int], threads: int, peers: Sequence[str]) -> dict[str, Call]:
    """Bind the peers' loss and gradient to one batch of float32."""
    import jax
    import torch

    import kdloss.jax
    import kdloss.torch

    from .peers import _torch_kd_loss, jax_, torch_compiled

    student, teacher, labels, out = batches(shape, "float32")["ordinary"]
    arguments = student, teacher, labels, ALPHA, TAU, out
    s, t, y = (torch.from_numpy(x) for x in (student, teacher, labels))
    leaf = s.detach().requires_grad_()
    options: Any = {"alpha": ALPHA, "tau": TAU}

    class Empty(torch.autograd.Function):
        """What PyTorch itself takes for a function of one tensor and its gradient."""

        @staticmethod
        def forward(ctx: Any, logits: Any) -> Any:
            return torch.scalar_tensor(0.0)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return s

    def autograd(loss: Callable[..., Any], *more: Any) -> Call:
        return lambda: torch.autograd.grad(loss(leaf, *more), leaf)

    def jitted() -> Call:
        run = jax.jit(
            jax.value_and_grad(lambda *a: kdloss.jax.kd_loss(*a, **options, num_threads=threads))
        )
        arrays = [jax.numpy.asarray(x) for x in (student, teacher, labels)]
        return lambda: jax.block_until_ready(run(*arrays))

    def kd_loss(*a: Any) -> Any:
        return kdloss.torch.kd_loss(*a, **options)

    # One graph comes before autograd: its factory forgets what was compiled before.
    makers: dict[str, Callable[[], Call]] = {
        "torch.compile, one graph": lambda: torch_compiled()(*arguments).loss_and_grad,
        "torch.compile, autograd": lambda: autograd(
            torch.compile(_torch_kd_loss, fullgraph=True), t, y, ALPHA, TAU
        ),
        "PyTorch, eager": lambda: autograd(_torch_kd_loss, t, y, ALPHA, TAU),
        "PyTorch, an empty autograd function": lambda: autograd(Empty.apply),
        "kdloss.torch": lambda: autograd(kd_loss, t, y),
        "kdloss.torch, without gradient": lambda: lambda: kd_loss(s, t, y),
        "kdloss, NumPy": lambda: (
            lambda: kdloss.kd_loss_and_grad(
                student, teacher, labels, **options, num_threads=threads
            )
        ),
        "kdloss.jax, jit": jitted,
        "JAX, jit": lambda: jax_()(*arguments).loss_and_grad,
    }
    return {name: make() for name, make in makers.items() if name in peers}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table: microseconds a call, by shape."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tensors", description=__doc__)
    parser.add_argument("--shapes", nargs="+", default=["128x10", "4096x1000"])
    parser.add_argument("--peers", nargs="+", default=PEERS, choices=PEERS)
    parser.add_argument("--threads", type=int, default=2, help="threads (2)")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds for each shape (20)")
    options = parser.parse_args(arguments)
    fix_threads(options.threads)
    columns = []
    for text in options.shapes:
        rows, classes = map(int, text.split("x"))
        bound = calls((rows, classes), options.threads, options.peers)
        columns.append(interleave(bound, options.budget))
    print("| microseconds | " + " | ".join(options.shapes) + " |")
    print("|---|" + "---:|" * len(columns))
    for name in options.peers:
        times = (f"{column[name].median * 1e6:,.1f}" for column in columns)
        print(f"| {name} | {' | '.join(times)} |")


if __name__ == "__main__":
    main()
