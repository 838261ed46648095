"""A small network distilled from one ten times its size, on scikit-learn's digits, with PyTorch.

    python examples/torch_digits.py [--seeds 5] [--epochs 60]

The small network learns from few labels, from these and the large network's outputs on the same
rows or on more rows, and from all labels. All take the same number of steps.
"""

import argparse
import statistics

try:
    import torch
    from sklearn.datasets import load_digits
    from torch import Tensor

    from kdloss.torch import kd_loss
except ImportError as error:
    raise SystemExit(
        f"torch_digits.py: error: {error}; pip install 'kdloss[examples,torch]'"
    ) from None

LABELLED = 100  # of the student's 697 rows
BATCH = 64


def network(width: int) -> torch.nn.Module:
    """64 pixels, one hidden layer, ten classes."""
    return torch.nn.Sequential(
        torch.nn.Linear(64, width), torch.nn.ReLU(), torch.nn.Linear(width, 10)
    )


def train(
    net: torch.nn.Module, x: Tensor, labels: Tensor, teacher: Tensor | None, steps: int
) -> torch.nn.Module:
    """Adam on the loss; without a teacher, on the labels alone."""
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(steps):
        rows = torch.randint(len(x), (BATCH,))
        if teacher is None:
            loss = kd_loss(net(x[rows]), None, labels[rows], alpha=1.0)
        else:
            loss = kd_loss(net(x[rows]), teacher[rows], labels[rows], alpha=0.5, tau=3.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


def run(seed: int, epochs: int) -> dict[str, float]:
    """Accuracy in percent on 500 held-out rows."""
    torch.manual_seed(seed)
    digits = load_digits()
    order = torch.randperm(len(digits.target))
    x = torch.tensor(digits.data / 16, dtype=torch.float32)[order]
    y = torch.tensor(digits.target)[order]
    held_out, teachers, rows = slice(0, 500), slice(500, 1100), slice(1100, None)
    steps = epochs * len(x[rows]) // BATCH

    @torch.no_grad()
    def accuracy(net: torch.nn.Module) -> float:
        return 100 * (net(x[held_out]).argmax(1) == y[held_out]).float().mean().item()

    large = train(network(128), x[teachers], y[teachers], None, steps)
    with torch.no_grad():
        logits = large(x[rows])
    few = y[rows].clone()
    few[LABELLED:] = -1  # these rows learn from the teacher alone
    same = slice(0, LABELLED)
    students = {
        f"{LABELLED} labels": (x[rows][same], few[same], None),
        "+ teacher, same rows": (x[rows][same], few[same], logits[same]),
        f"+ teacher, {len(few) - LABELLED} more rows": (x[rows], few, logits),
        f"all {len(few)} labels": (x[rows], y[rows], None),
        "all labels and the teacher": (x[rows], y[rows], logits),
    }
    found = {
        name: accuracy(train(network(12), *data, steps=steps)) for name, data in students.items()
    }
    return found | {"the teacher itself": accuracy(large)}


def main() -> None:
    """Print the mean and standard deviation over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds (5)")
    parser.add_argument("--epochs", type=int, default=60, help="epochs of the student's rows (60)")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the networks are too small for more
    sizes = [sum(p.numel() for p in network(width).parameters()) for width in (12, 128)]
    print(f"student {sizes[0]:,} parameters, teacher {sizes[1]:,}; accuracy on 500 held-out rows")
    runs = [run(seed, options.epochs) for seed in range(options.seeds)]
    for name in runs[0]:
        found = [accuracies[name] for accuracies in runs]
        spread = statistics.stdev(found) if len(found) > 1 else 0.0
        print(f"{name:28} {statistics.mean(found):.1f} ± {spread:.1f} %")


if __name__ == "__main__":
    main()
