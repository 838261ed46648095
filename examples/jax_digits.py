"""A small network distilled from a larger one on scikit-learn's digits, with JAX and optax.

    python examples/jax_digits.py [--seeds 3] [--epochs 60]

The networks and the rows are those of torch_digits.py. A step is one compiled call.
"""

import argparse
import functools
import statistics
from typing import Any

try:
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from sklearn.datasets import load_digits

    from kdloss.jax import kd_loss_parts
except ImportError as error:
    raise SystemExit(
        f"jax_digits.py: error: {error}; pip install 'kdloss[examples,jax]' optax"
    ) from None

LABELLED = 100
BATCH = 64
OPTIMIZER = optax.adam(3e-3)


def network(rng: np.random.Generator, width: int) -> dict[str, jax.Array]:
    """64 pixels, one hidden layer, ten classes."""
    return {
        "W1": jnp.asarray(rng.normal(0, 64**-0.5, (64, width)), jnp.float32),
        "b1": jnp.zeros(width),
        "W2": jnp.asarray(rng.normal(0, width**-0.5, (width, 10)), jnp.float32),
        "b2": jnp.zeros(10),
    }


def logits(net: dict[str, jax.Array], x: Any) -> jax.Array:
    return jax.nn.relu(x @ net["W1"] + net["b1"]) @ net["W2"] + net["b2"]


@functools.partial(jax.jit, static_argnames="alpha")
def step(net: Any, state: Any, x: Any, teacher: Any, labels: Any, alpha: float) -> Any:
    """One step of Adam, and the parts of the loss for the log."""

    def loss(net: Any) -> Any:
        parts = kd_loss_parts(logits(net, x), teacher, labels, alpha=alpha, tau=3.0)
        return parts.loss, parts

    (_, parts), grad = jax.value_and_grad(loss, has_aux=True)(net)
    updates, state = OPTIMIZER.update(grad, state)
    return optax.apply_updates(net, updates), state, parts


def train(
    net: Any, x: Any, labels: Any, teacher: Any, *, alpha: float, steps: int, rng: Any
) -> tuple[Any, Any]:
    """The network, and the parts of its last loss."""
    state, parts = OPTIMIZER.init(net), None
    for _ in range(steps):
        rows = rng.integers(len(x), size=BATCH)
        net, state, parts = step(net, state, x[rows], teacher[rows], labels[rows], alpha)
    return net, parts


def run(seed: int, epochs: int) -> tuple[dict[str, float], Any]:
    """Accuracy in percent on 500 held-out rows, and the parts of the student's last loss."""
    rng = np.random.default_rng(seed)
    digits = load_digits()
    order = rng.permutation(len(digits.target))
    x, y = np.float32(digits.data / 16)[order], digits.target[order]
    held_out, teachers, rows = slice(0, 500), slice(500, 1100), slice(1100, None)
    steps = epochs * len(x[rows]) // BATCH
    options = {"steps": steps, "rng": rng}
    none = np.zeros((len(x), 10), np.float32)  # with alpha 1 the teacher is not used

    def accuracy(net: Any) -> float:
        return 100 * float((logits(net, x[held_out]).argmax(1) == y[held_out]).mean())

    large, _ = train(network(rng, 128), x[teachers], y[teachers], none, alpha=1.0, **options)
    few = y[rows].copy()
    few[LABELLED:] = -1  # these rows learn from the teacher alone
    same = slice(0, LABELLED)
    alone, _ = train(network(rng, 12), x[rows][same], few[same], none, alpha=1.0, **options)
    teacher = np.asarray(logits(large, x[rows]))
    distilled, parts = train(network(rng, 12), x[rows], few, teacher, alpha=0.5, **options)
    accuracies = {
        f"{LABELLED} labels": accuracy(alone),
        f"+ teacher, {len(few) - LABELLED} more rows": accuracy(distilled),
        "the teacher itself": accuracy(large),
    }
    return accuracies, parts


def main() -> None:
    """Print the mean and standard deviation over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds (3)")
    parser.add_argument("--epochs", type=int, default=60, help="epochs of the student's rows (60)")
    options = parser.parse_args()
    runs = [run(seed, options.epochs) for seed in range(options.seeds)]
    print("accuracy on 500 held-out rows, %")
    for name in runs[0][0]:
        found = [accuracies[name] for accuracies, _ in runs]
        spread = statistics.stdev(found) if len(found) > 1 else 0.0
        print(f"{name:28} {statistics.mean(found):.1f} ± {spread:.1f}")
    parts = runs[-1][1]
    print(f"the last student's loss {parts.loss:.3f}, hard {parts.hard:.3f}, soft {parts.soft:.3f}")


if __name__ == "__main__":
    main()
