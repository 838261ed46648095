"""What `train`, `tune` and `loss` read for each row beside labels: teachers, weights, alphas."""

import argparse
from typing import Any

from numpy.typing import NDArray

from .files import Named, read_column, read_matrix

SOFT_LABELS = "or probabilities (rows, classes), zeros for such a row"


def add_flags(group: Any, teacher: str, teacher_help: str, *, required: bool = False) -> None:
    """Add the flags of the teachers, of their weights, and of the rows' weights and alphas."""
    group.add_argument(
        teacher,
        metavar="FILE",
        nargs="+",
        action="extend",
        required=required,
        help=f"{teacher_help}. float16 is read as it is. Of several files, the student's teacher "
        "is the mean of their softened outputs",
    )
    group.add_argument(
        "--teacher-weights",
        type=numbers,
        metavar="X,X,...",
        help="a weight for each teacher (default: equal ones)",
    )
    group.add_argument(
        "--sample-weight",
        metavar="FILE",
        help="weights (rows,), >= 0; a row of weight 0 is left out",
    )
    group.add_argument(
        "--alpha-column",
        metavar="FILE",
        help="each row's own alpha (rows,), in place of one for all",
    )


def refuse_two_alphas(args: argparse.Namespace, name: str, default: Any) -> None:
    """Refuse a value for all rows beside one for each."""
    value = getattr(args, name)
    if args.alpha_column is not None and value != default:
        raise ValueError(
            f"--{name} is {value}, but --alpha-column gives each row's own: expected one of them"
        )


def read_teachers(files: list[str], flag: str, like: Named) -> list[NDArray[Any]]:
    """Read each teacher's logits, with as many rows as `like` and all of one shape."""
    teachers = [read_matrix(file, flag, like) for file in files]
    for file, teacher in zip(files, teachers, strict=True):
        if teacher.shape != teachers[0].shape:
            raise ValueError(
                f"{flag} {file} has shape {teacher.shape}, but {flag} {files[0]} has shape "
                f"{teachers[0].shape}: expected the same (rows, classes)"
            )
    return teachers


def read_weights_and_alphas(
    args: argparse.Namespace, like: Named
) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    """Read --sample-weight and --alpha-column, each None where it is not given."""
    weight, alpha = (
        None if file is None else read_column(file, flag, like)
        for file, flag in (
            (args.sample_weight, "--sample-weight"),
            (args.alpha_column, "--alpha-column"),
        )
    )
    return weight, alpha


def numbers(text: str) -> list[float]:
    """Return the numbers of a text such as 1,2,4."""
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers as in 1,2,4, not {text!r}") from None
