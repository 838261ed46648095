"""`kdloss loss`: the loss of a student against a teacher and labels, with its parts."""

import argparse
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..losses import kd_loss_parts
from ..metrics import PADDING, SUM_TOLERANCE, UNLABELLED
from . import console
from .files import ARRAY_HELP, read_labels, read_matrix, to_json


def add_parser(commands: Any) -> None:
    """Describe the command's arguments."""
    parser = commands.add_parser(
        "loss",
        **console.help_page(
            "the loss and its parts, from logits in files",
            "Print the loss, alpha * hard + (1 - alpha) * soft for each row, and its parts. hard "
            "is -log softmax(s)[y], averaged over labelled rows; soft is "
            "tau^2 * KL(softmax(t/tau) || softmax(s/tau)), averaged over all rows but padding; so "
            "is the loss, to which an unlabelled row adds its soft alone.",
            ARRAY_HELP,
            example="kdloss loss --student S.npy --teacher T.npy --labels y.npy --tau 2",
        ),
    )
    parser.add_argument(
        "--student", metavar="FILE", required=True, help="student logits (rows, classes)"
    )
    parser.add_argument(
        "--teacher", metavar="FILE", help="teacher logits (rows, classes); needed unless --alpha 1"
    )
    parser.add_argument(
        "--labels",
        metavar="FILE",
        help="a class per row, or -1 (unlabelled) or -100 (padding); needed unless --alpha 0",
    )
    parser.add_argument(
        "--alpha", type=float, default=0.5, metavar="X", help="weight of hard (default: 0.5)"
    )
    parser.add_argument(
        "--tau", type=float, default=4.0, metavar="X", help="temperature (default: 4.0)"
    )
    parser.add_argument(
        "--per-row", action="store_true", help="also print each row's loss, hard and soft"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help='print JSON; what is not defined (NaN) is null, an infinite loss is "Infinity"',
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print the mean loss, its parts, and on request those of each row."""
    student = read_matrix(args.student, "--student")
    teacher = labels = None
    if args.teacher is not None:
        teacher = read_matrix(args.teacher, "--teacher")
        if teacher.shape != student.shape:
            raise ValueError(
                f"--teacher {args.teacher} has shape {teacher.shape}, but --student {args.student} "
                f"has shape {student.shape}: expected the same (rows, classes)"
            )
        _warn_of_probabilities(teacher, args.teacher)
    elif args.alpha != 1:
        raise ValueError("--teacher is needed unless --alpha is 1")
    if args.labels is not None:
        labels = read_labels(args.labels, "--labels", (f"--student {args.student}", student))
    elif args.alpha != 0:
        raise ValueError("--labels is needed unless --alpha is 0")

    mean = kd_loss_parts(student, teacher, labels, alpha=args.alpha, tau=args.tau)
    result: dict[str, Any] = {**mean._asdict(), "rows": _count(labels, len(student))}
    per_row: dict[str, NDArray[Any]] = {}
    if args.per_row:
        each = kd_loss_parts(
            student, teacher, labels, alpha=args.alpha, tau=args.tau, reduction="none"
        )
        per_row = {name: np.asarray(values) for name, values in each._asdict().items()}

    if args.json:
        settings = {"alpha": args.alpha, "tau": args.tau}
        print(to_json(result | settings | ({"per_row": per_row} if per_row else {})), end="")
        return
    for name in ("loss", "hard", "soft"):
        print(f"{name}  {result[name]!r}")
    print("rows ", ", ".join(f"{count} {kind}" for kind, count in result["rows"].items()))
    if per_row:
        print("\nrow\t" + "\t".join(per_row))
        for row, values in enumerate(zip(*(v.tolist() for v in per_row.values()), strict=True)):
            print(row, *map(repr, values), sep="\t")


def _count(labels: NDArray[Any] | None, rows: int) -> dict[str, int]:
    if labels is None:
        return {"labelled": 0, "unlabelled": rows, "padding": 0}
    unlabelled, padding = (int(np.count_nonzero(labels == x)) for x in (UNLABELLED, PADDING))
    return {"labelled": rows - unlabelled - padding, "unlabelled": unlabelled, "padding": padding}


def _warn_of_probabilities(teacher: NDArray[Any], file: str) -> None:
    first = teacher[:128].astype(np.float64)
    sums_to_one = np.allclose(first.sum(axis=1), 1, rtol=0, atol=SUM_TOLERANCE)
    if first.shape[1] > 1 and ((first >= 0) & (first <= 1)).all() and sums_to_one:
        warnings.warn(
            f"--teacher {file} looks like probabilities; give logits, or their logarithm "
            "(log-probabilities are valid logits)",
            stacklevel=2,
        )
