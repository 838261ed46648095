"""Writes pytorch_options.npz: what PyTorch computes in float64 for the options that it has too.

All numbers are exact in single precision, so that either float type can be compared. The file has

    student, teacher     (rows, classes)
    indices              (rows,), of which some are ignore_index, -100
    probabilities        (rows, classes)
    class_weight         (classes,)
    tau, alpha, smoothing    numbers
    soft                 (rows,): tau^2 kl_div of the softened outputs
    cases                (cases,): names such as "indices weight smoothing"

and for each case, along the first axis

    hard                 (cases, rows): cross_entropy with reduction "none"
    sum, mean            (cases,): the same with "sum" and "mean"
    grad                 (cases, rows, classes): the gradient of the sum
    loss                 (cases,): sum of alpha hard + (1 - alpha) soft, but for ignored rows
    loss_grad            (cases, rows, classes): its gradient
    loss_hess            (cases, rows, classes): the diagonal of its Hessian

Run it in its folder, where PyTorch is installed: python make_pytorch_options.py
"""

from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

ROWS, CLASSES, TAU, ALPHA, SMOOTHING = 7, 5, 2.5, 0.25, 0.125


def main() -> None:
    rng = np.random.default_rng(0)

    def single(values: object) -> np.ndarray:
        return np.asarray(values, np.float32).astype(np.float64)

    found = {
        "student": single(3 * rng.standard_normal((ROWS, CLASSES))),
        "teacher": single(3 * rng.standard_normal((ROWS, CLASSES))),
        "indices": np.array([0, 4, -100, 2, 2, -100, 1]),
        "probabilities": single(rng.dirichlet(np.ones(CLASSES), ROWS)),
        "class_weight": single(rng.uniform(0.1, 3, CLASSES)),
        "tau": np.float64(TAU),
        "alpha": np.float64(ALPHA),
        "smoothing": np.float64(SMOOTHING),
    }
    tensors = {name: torch.from_numpy(np.asarray(values)) for name, values in found.items()}
    student, teacher = tensors["student"].requires_grad_(), tensors["teacher"]

    def kl(s: torch.Tensor) -> torch.Tensor:
        log_p, log_q = (functional.log_softmax(z / TAU, dim=1) for z in (s, teacher))
        terms = functional.kl_div(log_p, log_q, log_target=True, reduction="none")
        return TAU**2 * terms.sum(dim=1)

    found["soft"] = kl(student).detach().numpy()
    cases: dict[str, list[object]] = {}

    def tell(name: str, value: object) -> None:
        cases.setdefault(name, []).append(value)

    for target, weight, smoothing in product(("indices", "probabilities"), (0, 1), (0, 1)):
        tell("cases", target + weight * " weight" + smoothing * " smoothing")
        options = {
            "weight": tensors["class_weight"] if weight else None,
            "label_smoothing": SMOOTHING if smoothing else 0.0,
        }

        def hard(s: torch.Tensor, reduction: str = "none", y=tensors[target], o=options):
            return functional.cross_entropy(s, y, reduction=reduction, **o)

        counting = torch.from_numpy(
            found["indices"] != -100 if target == "indices" else np.ones(ROWS, bool)
        )

        def loss(s: torch.Tensor, hard=hard, counting=counting) -> torch.Tensor:
            return (ALPHA * hard(s) + (1 - ALPHA) * kl(s))[counting].sum()

        tell("hard", hard(student).detach().numpy())
        for reduction in ("sum", "mean"):
            tell(reduction, hard(student, reduction).item())
        tell("grad", torch.autograd.grad(hard(student, "sum"), student)[0].numpy())
        tell("loss", loss(student).item())
        tell("loss_grad", torch.autograd.grad(loss(student), student)[0].numpy())
        hessian = torch.autograd.functional.hessian(loss, student.detach()).numpy()
        diagonal = hessian.reshape(ROWS * CLASSES, -1).diagonal()
        tell("loss_hess", diagonal.reshape(ROWS, CLASSES))
    found |= {name: np.array(values) for name, values in cases.items()}
    np.savez_compressed(Path(__file__).parent / "pytorch_options.npz", **found)


if __name__ == "__main__":
    main()
