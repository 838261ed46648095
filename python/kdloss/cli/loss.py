"""`kdloss loss`: the loss of a student against a teacher and labels, with its parts."""

import argparse
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._checks import PADDING, UNLABELLED, look_like_probabilities
from ..losses import kd_loss_parts
from ..teacher import ensemble_logits
from . import console, per_row
from .files import ARRAY_HELP, Named, read_labels, read_matrix, to_json

ALPHA = 0.5


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
            example="kdloss loss --student S.npy --teacher T.npy --labels y.npy --tau 2\n"
            "kdloss loss --student S.npy --teacher T1.npy T2.npy --teacher-weights 2,1 \\\n"
            "    --labels P.npy --sample-weight w.npy --alpha-column a.npy",
        ),
    )
    parser.add_argument(
        "--student", metavar="FILE", required=True, help="student logits (rows, classes)"
    )
    per_row.add_flags(
        parser, "--teacher", "teacher logits (rows, classes); needed unless --alpha 1"
    )
    parser.add_argument(
        "--labels",
        metavar="FILE",
        help="a class per row, or -1 (unlabelled) or -100 (padding); or soft labels "
        "(rows, classes), zeros for an unlabelled row; needed unless --alpha 0",
    )
    parser.add_argument(
        "--alpha",
        type=float,
        default=ALPHA,
        metavar="X",
        help="weight of hard (default: %(default)s)",
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
    like = (f"--student {args.student}", student)
    _warn_of_probabilities(student, like[0])
    per_row.refuse_two_alphas(args, "alpha", ALPHA)
    weight, alphas = per_row.read_weights_and_alphas(args, like)
    alpha = args.alpha if alphas is None else alphas
    teacher = labels = None
    if args.teacher is not None:
        teacher = _teacher(args, like)
    elif alphas is None and alpha != 1:
        raise ValueError("--teacher is needed unless --alpha is 1")
    if args.labels is not None:
        labels = read_labels(args.labels, "--labels", like)
    elif alphas is None and alpha != 0:
        raise ValueError("--labels is needed unless --alpha is 0")

    options: dict[str, Any] = {"alpha": alpha, "tau": args.tau, "sample_weight": weight}
    mean = kd_loss_parts(student, teacher, labels, **options)
    result: dict[str, Any] = {**mean._asdict(), "rows": _count(labels, weight, len(student))}
    each_row: dict[str, NDArray[Any]] = {}
    if args.per_row:
        each = kd_loss_parts(student, teacher, labels, **options, reduction="none")
        each_row = {name: np.asarray(values) for name, values in each._asdict().items()}

    if args.json:
        settings = {"alpha": args.alpha if alphas is None else args.alpha_column, "tau": args.tau}
        print(to_json(result | settings | ({"per_row": each_row} if each_row else {})), end="")
        return
    for name in ("loss", "hard", "soft"):
        print(f"{name}  {result[name]!r}")
    print("rows ", ", ".join(f"{count} {kind}" for kind, count in result["rows"].items()))
    if each_row:
        print("\nrow\t" + "\t".join(each_row))
        for row, values in enumerate(zip(*(v.tolist() for v in each_row.values()), strict=True)):
            print(row, *map(repr, values), sep="\t")


def _teacher(args: argparse.Namespace, like: Named) -> NDArray[Any]:
    """The one teacher's logits, or those of the mixture of several."""
    name, student = like
    teachers = per_row.read_teachers(args.teacher, "--teacher", like)
    for file, teacher in zip(args.teacher, teachers, strict=True):
        if teacher.shape != student.shape:
            raise ValueError(
                f"--teacher {file} has shape {teacher.shape}, but {name} has shape "
                f"{student.shape}: expected the same (rows, classes)"
            )
    for file, teacher in zip(args.teacher, teachers, strict=True):
        _warn_of_probabilities(teacher, f"--teacher {file}")
    if len(teachers) == 1 and args.teacher_weights is None:
        return teachers[0]
    return ensemble_logits(teachers, args.teacher_weights, tau=args.tau)


def _count(labels: NDArray[Any] | None, weight: NDArray[Any] | None, rows: int) -> dict[str, int]:
    used: NDArray[Any] = np.ones(rows, bool) if weight is None else weight > 0
    labelled: NDArray[Any] = np.zeros(rows, bool)
    if labels is not None and labels.ndim == 1:
        used = used & (labels != PADDING)
        labelled = labels != UNLABELLED
    elif labels is not None:
        labelled = np.asarray(labels.any(axis=1))
    counts = {
        "labelled": labelled & used,
        "unlabelled": ~labelled & used,
        "padding": ~used,
    }
    return {kind: int(np.count_nonzero(which)) for kind, which in counts.items()}


def _warn_of_probabilities(logits: NDArray[Any], name: str) -> None:
    if look_like_probabilities(logits[:128].astype(np.float64)):
        warnings.warn(
            f"{name} looks like probabilities; give logits, or their logarithm, "
            "which kdloss.logits_from_probs gives (log-probabilities are valid logits)",
            stacklevel=2,
        )
