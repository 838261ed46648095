"""What each option of the loss costs: its time beside the plain call's, interleaved in one process.

``python -m benchmarks.options`` from the root of the source tree; README.md tells more.
"""

import argparse
import os
from collections.abc import Sequence

from .data import ALPHA, TAU, batches
from .threads import fix_threads
from .timing import Call, interleave


def calls(shape: tuple[int, int], dtype: str) -> dict[str, Call]:
    """Bind the plain call first, then one with each option, all to the same batch."""
    import ml_dtypes
    import numpy as np

    import kdloss

    # Told, since with a runtime that spins kdloss would use one.
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    rows, classes = shape
    rng = np.random.default_rng(shape)
    student, teacher, labels, out = batches(shape, dtype)["ordinary"]
    grad, hess = out, np.empty_like(out)
    columns = {name: np.asfortranarray(x) for name, x in (("s", student), ("t", teacher))}
    columns_out = np.empty_like(columns["s"])
    masked_student, masked_teacher = student.copy(), teacher.copy()
    masked_student[:, ::7] = masked_teacher[:, ::7] = -np.inf
    told = {"alpha": ALPHA, "tau": TAU, "num_threads": threads}
    plain = told | {"out": out}

    def loss_and_grad(t=teacher, y=labels, s=student, **options):
        options = plain | options
        return lambda: kdloss.kd_loss_and_grad(s, t, y, **options)

    return {
        "plain": loss_and_grad(),
        "sample_weight": loss_and_grad(sample_weight=rng.uniform(0.5, 2, rows)),
        "alpha of each row": loss_and_grad(alpha=rng.uniform(0.1, 0.9, rows)),
        "tau of each row, whole": loss_and_grad(tau=rng.choice([2.0, 4.0], rows)),
        "tau of each row, any": loss_and_grad(tau=rng.uniform(2, 6, rows)),
        "tau 4.5": loss_and_grad(tau=4.5),
        "class_weight": loss_and_grad(class_weight=rng.uniform(0.5, 2, classes)),
        "label_smoothing": loss_and_grad(label_smoothing=0.1),
        "int32 labels": loss_and_grad(y=labels.astype(np.int32)),
        "masked classes (-inf)": loss_and_grad(
            s=masked_student, t=masked_teacher, y=np.where(labels % 7 == 0, 1, labels)
        ),
        "a student equal to its teacher": loss_and_grad(s=teacher),
        "both models times 3": loss_and_grad(s=3 * student, t=3 * teacher),
        "a student times 30": loss_and_grad(s=30 * student),
        "no labels": loss_and_grad(y=None, alpha=0.0),
        "a tenth unlabelled": loss_and_grad(y=np.where(rng.random(rows) < 0.1, -1, labels)),
        "float16 teacher": loss_and_grad(t=teacher.astype(np.float16)),
        "bfloat16 teacher": loss_and_grad(t=teacher.astype(ml_dtypes.bfloat16)),
        "soft labels": loss_and_grad(y=kdloss.softmax_temp(teacher)),
        "Hessian": lambda: kdloss.kd_loss_grad_hess(
            student, teacher, labels, **told, out=(grad, hess)
        ),
        "parts": lambda: kdloss.kd_loss_parts(student, teacher, labels, **told),
        "F-order": lambda: kdloss.kd_loss_and_grad(
            columns["s"], columns["t"], labels, **told, out=columns_out
        ),
        "F-order, but for the teacher": lambda: kdloss.kd_loss_and_grad(
            columns["s"], teacher, labels, **told, out=columns_out
        ),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table: each option's time, and the plain call's speed that it keeps."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.options", description=__doc__)
    parser.add_argument("--shape", default="4096x1000", help="like 128x10 (4096x1000)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    parser.add_argument("--threads", type=int, default=2, help="threads (2)")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds in all (20)")
    options = parser.parse_args(arguments)
    fix_threads(options.threads)
    rows, classes = map(int, options.shape.split("x"))
    times = interleave(calls((rows, classes), options.dtype), options.budget)
    plain = times["plain"].median
    print(f"| {options.dtype}, {rows} x {classes} | ms | share of the plain call's speed |")
    print("|---|---:|---:|")
    for name, time in times.items():
        print(f"| {name} | {time.median * 1e3:.3f} | {plain / time.median:.2f} |")


if __name__ == "__main__":
    main()
