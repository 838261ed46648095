"""Worst relative errors of every peer against exact numbers, as Markdown tables.

``python -m benchmarks.exactness`` from the root of the source tree; README.md tells more.
"""

import argparse
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .data import Array
from .threads import fix_threads

DATA = Path(__file__).parent.parent / "tests" / "data"

# The cases of kd_cases.npz that are not of a kind that kd_hard_cases.npz has too.
ORDINARY = frozenset(
    {
        "alpha-one",
        "alpha-zero",
        "hundred-tau20",
        "odd-classes",
        "small",
        "tau-below-one",
        "tau-one",
        "ten",
        "thousand",
    }
)

# The columns: each part, and the alpha at which a call gives its loss or gradient alone.
# None stands for the case's own alpha: kd_cases.npz has the gradient of the mixture.
ALPHA: dict[str, float | None] = {
    "hard": 1.0,
    "soft": 0.0,
    "grad_hard": 1.0,
    "grad_soft": 0.0,
    "grad": None,
}
TITLES = {
    "hard": "hard loss",
    "soft": "soft loss",
    "grad_hard": "hard gradient",
    "grad_soft": "soft gradient",
    "grad": "gradient",
}


class Case(NamedTuple):
    """Logits (B, C), labels (B,), and exact row losses (B,) and gradients (B, C) by part."""

    name: str
    student: Array
    teacher: Array
    labels: Array
    tau: float
    alpha: float
    exact: dict[str, Array]

    @property
    def kind(self) -> str:
        """The name up to the dtype: ``near-float32-2`` is of the kind ``near``."""
        return self.name.split(f"-{self.student.dtype}")[0]


class Errors(NamedTuple):
    """What one peer's rows of one case and part came to."""

    case: str
    dtype: str
    part: str
    worst: float  # over the finite rows
    negative: int
    not_finite: int


def read_cases(path: Path) -> Iterator[Case]:
    """Read the cases of one file of exact numbers."""
    with np.load(path) as file:
        for i in range(int(file["count"])):
            yield Case(
                name=str(file[f"name_{i}"]),
                student=file[f"student_{i}"],
                teacher=file[f"teacher_{i}"],
                labels=file[f"labels_{i}"],
                tau=float(file[f"tau_{i}"]),
                alpha=float(file.get(f"alpha_{i}", 0.5)),
                exact={part: file[f"{part}_{i}"] for part in ALPHA if f"{part}_{i}" in file},
            )


def rows(name: str, bind: Any, case: Case, alpha: float) -> tuple[Array, Array]:
    """Return the loss (B,) and the gradient (B, C) of each row on its own.

    kdloss gives them in one call; the peers, whose losses are means, are called row by row.
    """
    if name == "kdloss":
        from kdloss import kd_loss_and_grad

        result = kd_loss_and_grad(
            case.student, case.teacher, case.labels, alpha=alpha, tau=case.tau, reduction="none"
        )
        return np.asarray(result.loss), result.grad_logits
    losses, grads = np.empty(len(case.labels)), np.empty(case.student.shape)
    for b in range(len(case.labels)):
        s, t, y = (array[b : b + 1] for array in (case.student, case.teacher, case.labels))
        loss, grad = bind(s, t, y, alpha, case.tau, np.empty_like(s)).loss_and_grad()
        losses[b], grads[b] = float(loss), np.asarray(grad)[0]
    return losses, grads


def relative_errors(got: Array, exact: Array, smallest_normal: float) -> Array:
    """Return each row's error: of a loss (B,), or of a gradient (B, C) by its largest entry.

    Where the exact value is below the type's smallest normal number, relative to that number.
    """
    got, exact = got.reshape(len(got), -1), exact.reshape(len(exact), -1)
    scale = np.maximum(np.abs(exact).max(axis=1), smallest_normal)
    errors: Array = np.abs(got - exact).max(axis=1) / scale
    return errors


def measure(name: str, bind: Any, cases: Sequence[Case], parts: Sequence[str]) -> list[Errors]:
    """Compare one peer's parts with the exact ones, case by case."""
    found = []
    for case in cases:
        smallest_normal = float(np.finfo(case.student.dtype).smallest_normal)
        alphas: dict[str, float] = {}
        for part in parts:
            alone = ALPHA[part]
            alphas[part] = case.alpha if alone is None else alone
        computed = {alpha: rows(name, bind, case, alpha) for alpha in set(alphas.values())}
        for part, alpha in alphas.items():
            loss, grad = computed[alpha]
            got = grad if part.startswith("grad") else loss
            error = relative_errors(got, case.exact[part], smallest_normal)
            finite = np.isfinite(error)
            found.append(
                Errors(
                    case=case.name,
                    dtype=str(case.student.dtype),
                    part=part,
                    worst=float(error[finite].max(initial=0)),
                    negative=0 if part.startswith("grad") else int((got < 0).sum()),
                    not_finite=int((~finite).sum()),
                )
            )
    return found


def table(results: dict[str, list[Errors]], parts: Sequence[str], dtype: str) -> str:
    """Lay out one Markdown table: a line for each peer, a column for each part."""
    heads = [dtype, *(TITLES[part] for part in parts), "negative losses", "not finite"]
    from .peers import title

    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    for name, errors in results.items():
        mine = [error for error in errors if error.dtype == dtype]
        cells = []
        for part in parts:
            worst = [error.worst for error in mine if error.part == part]
            cells.append(f"{max(worst):.1e}" if worst else "—")
        cells.append(str(sum(error.negative for error in mine)))
        cells.append(str(sum(error.not_finite for error in mine)))
        lines.append(f"| {title(name)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the peers that are here and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exactness", description=__doc__)
    parser.add_argument("--peers", help="names, with commas between them; all by default")
    parser.add_argument("--out", type=Path, help="a folder for exactness.json, every case's errors")
    parser.add_argument("--threads", type=int, default=2, help="threads for everyone (2)")
    options = parser.parse_args(arguments)
    fix_threads(options.threads)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)

    from .peers import HARD_LOSS_ALONE, available

    # Overflow, 0 * inf and the like are what is measured here; torch.compile tells of its limits.
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    peers, missing = available(options.peers)
    files = {
        "The hard cases, `tests/data/kd_hard_cases.npz`": (
            list(read_cases(DATA / "kd_hard_cases.npz")),
            ("hard", "soft", "grad_hard", "grad_soft"),
        ),
        "Ordinary rows, `tests/data/kd_cases.npz`": (
            [case for case in read_cases(DATA / "kd_cases.npz") if case.kind in ORDINARY],
            ("hard", "soft", "grad"),
        ),
    }
    written = {}
    for title, (cases, parts) in files.items():
        results = {}
        for name, factory in peers.items():
            own = [p for p in parts if name not in HARD_LOSS_ALONE or ALPHA[p] == 1.0]
            results[name] = measure(name, factory(), cases, own)
        written[title] = {
            name: [error._asdict() for error in errors] for name, errors in results.items()
        }
        count = sum(len(case.labels) for case in cases)
        print(f"{title}: {len(cases)} batches, {count} rows; worst relative errors\n")
        for dtype in ("float32", "float64"):
            print(table(results, parts, dtype), end="\n\n")
    for name, reason in missing.items():
        print(f"Missing: {name} ({reason})")
    if options.out:
        target = options.out / "exactness.json"
        target.write_text(json.dumps({"missing": missing, "errors": written}, indent=1))


if __name__ == "__main__":
    main()
