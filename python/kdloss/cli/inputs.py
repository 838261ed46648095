"""The inputs of `train`, `tune` and `loss` other than labels: teachers, weights, alphas."""

from __future__ import annotations

import argparse
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..teacher import SHARE_FOR_ZEROS, logits_from_probs
from . import console, errors
from .reading import Reader

if TYPE_CHECKING:
    from .reading import Values


def add_flags(
    parser: argparse.ArgumentParser, teacher: str, teacher_help: str, *, required: bool = False
) -> None:
    """Add the flags of the teachers and of their weights."""
    group = parser.add_argument_group("teacher")
    group.add_argument(
        teacher,
        metavar="FILE",
        nargs="+",
        action="extend",
        required=required,
        help=f"{teacher_help}. Column names are the classes'. float16 is read as it is. One "
        "column is the logit of the second of two classes. With several files, the student's "
        "teacher is the mean of their softened outputs",
    )
    group.add_argument(
        "--teacher-probabilities",
        action="store_true",
        help=f"{teacher} holds probabilities, of which the logarithms are taken (in memory)",
    )
    group.add_argument(
        "--zeros",
        type=_share_or_mask,
        metavar="X|mask",
        help="what a teacher's probabilities of exactly 0 are: rounding, so that all are mixed "
        "with this uniform share (default: 0.001, with a note); or classes that the teacher "
        "rules out (mask)",
    )
    group.add_argument(
        "--teacher-weights",
        type=numbers,
        metavar="X,X,...",
        help="a weight for each teacher (default: equal ones)",
    )


def add_row_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the rows' weights and alphas."""
    group = parser.add_argument_group("rows")
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


def read_teachers(
    reader: Reader, files: list[str], flag: str, args: argparse.Namespace
) -> list[Values]:
    """Read each teacher's logits, all of one shape, and with columns in one order."""
    if args.zeros is not None and not args.teacher_probabilities:
        raise ValueError("--zeros is for --teacher-probabilities")
    if args.zeros == "mask":  # a choice: no warning
        warnings.filterwarnings("ignore", ".* are logarithms of probabilities, of which")
    teachers: list[Values] = []
    for file in files:
        where = f"{flag} {file}"
        teacher = reader.matrix(file, flag)
        if args.teacher_probabilities:
            with errors.naming(where):
                logits = _logits_of_probabilities(np.asarray(teacher), where, args.zeros)
            teacher = _renamed(logits, teacher)
        elif teacher.shape[1] == 1:
            logit = np.asarray(teacher)[:, 0]
            console.note(f"{where} has one column: taken as the logit of the second of two classes")
            teacher = np.column_stack([np.zeros_like(logit), logit])
        if teachers and teacher.shape != teachers[0].shape:
            raise ValueError(
                f"{where} has shape {teacher.shape}, but {flag} {files[0]} has shape "
                f"{teachers[0].shape}: expected the same (rows, classes)"
            )
        if teachers:
            teacher = in_order_of(teacher, where, teachers[0], f"{flag} {files[0]}")
        teachers.append(teacher)
    return teachers


def _logits_of_probabilities(
    probabilities: NDArray[Any], where: str, zeros: float | str | None
) -> NDArray[Any]:
    """Return the logarithms; zeros are smoothed, and this is told, unless the user chose."""
    count = int((probabilities == 0).sum())
    if zeros is None and count and probabilities.shape[1] > 1:
        console.note(
            f"{where} has {count:,} zeros, taken as rounding: all its probabilities are mixed with "
            f"a uniform share of {SHARE_FOR_ZEROS:g}; --zeros {SHARE_FOR_ZEROS:g} confirms this, "
            "--zeros mask is for classes that are impossible"
        )
        zeros = SHARE_FOR_ZEROS
    return logits_from_probs(probabilities, zeros="mask" if zeros is None else zeros)


def in_order_of(values: Values, where: str, other: Values, other_where: str) -> Values:
    """Return the columns in the order of the other's names; as they are if either has no names."""
    names, expected = names_of(values), names_of(other)
    if names is None or expected is None or names == expected:
        return values
    if not set(names) & set(expected):
        console.note(f"{where} and {other_where} share no column name: taken by position")
        return np.asarray(values)
    if set(names) != set(expected):
        missing = [name for name in expected if name not in names]
        raise ValueError(
            f"{where} has columns {', '.join(map(repr, names[:10]))}, of which {other_where} has "
            f"others: {', '.join(map(repr, missing[:10]))} are missing; expected the same names, "
            "the classes'"
        )
    ordered: Values = values[list(expected)]
    return ordered


def names_of(values: Values | None) -> tuple[str, ...] | None:
    """Return the columns' names, or None for an array."""
    names = getattr(values, "columns", None)
    return None if names is None else tuple(names)


def read_weights_and_alphas(
    args: argparse.Namespace, reader: Reader
) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    """Read --sample-weight and --alpha-column, each None where it is not given."""
    weight, alpha = (
        None if file is None else reader.column(file, flag)
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


def _share_or_mask(text: str) -> float | str:
    try:
        return text if text == "mask" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a share or mask, not {text!r}") from None


def _renamed(array: NDArray[Any], like: Values) -> Values:
    """The array with the other's column names, where it has as many columns."""
    names = names_of(like)
    if names is None or len(names) != array.shape[1]:
        return array
    import polars

    return polars.DataFrame(array, schema=list(names))
