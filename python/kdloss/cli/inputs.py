"""Reads the inputs other than features and labels: teachers, weights, alphas."""

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
        help=f"{teacher_help}. Column names are those of the classes. A single column is the logit "
        "of the second of two classes. With several files, the student learns from the mean of "
        "their softened outputs",
    )
    group.add_argument(
        "--teacher-probabilities",
        action="store_true",
        help=f"{teacher} holds probabilities; their logarithms are the logits (held in memory)",
    )
    group.add_argument(
        "--zeros",
        type=_share_or_mask,
        metavar="X|mask",
        help="what a probability of exactly 0 means. A number: it was rounded, so mix all "
        "probabilities with this share of the uniform distribution (default: 0.001, with a note). "
        "mask: the teacher rules the class out",
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
        help="each row's own alpha (rows,), instead of one for all rows",
    )


def refuse_two_alphas(args: argparse.Namespace, name: str, default: Any) -> None:
    """Refuse a value for all rows together with --alpha-column."""
    value = getattr(args, name)
    if args.alpha_column is not None and value != default:
        raise ValueError(
            f"--{name} is {value} and --alpha-column is given too, expected one of them"
        )


def read_teachers(
    reader: Reader, files: list[str], flag: str, args: argparse.Namespace
) -> list[Values]:
    """Read each teacher's logits, of one shape, and put their columns into one order."""
    if args.zeros is not None and not args.teacher_probabilities:
        raise ValueError(f"--zeros is {args.zeros}, expected it only with --teacher-probabilities")
    if args.zeros == "mask":  # the user's choice, so no warning
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
            console.note(f"{where} has one column: read as the logit of the second of two classes")
            teacher = np.column_stack([np.zeros_like(logit), logit])
        if teachers and teacher.shape != teachers[0].shape:
            raise ValueError(
                f"{where} has shape {teacher.shape}, expected {teachers[0].shape}, the shape of "
                f"{flag} {files[0]}"
            )
        if teachers:
            teacher = in_order_of(teacher, where, teachers[0], f"{flag} {files[0]}")
        teachers.append(teacher)
    return teachers


def _logits_of_probabilities(
    probabilities: NDArray[Any], where: str, zeros: float | str | None
) -> NDArray[Any]:
    """Return the logarithms; unless the user chose otherwise, zeros are smoothed, with a note."""
    count = int((probabilities == 0).sum())
    if zeros is None and count and probabilities.shape[1] > 1:
        console.note(
            f"{where} has {count:,} zeros, read as rounded: all its probabilities are mixed with "
            f"a share of {SHARE_FOR_ZEROS:g} of the uniform distribution. --zeros "
            f"{SHARE_FOR_ZEROS:g} confirms this; --zeros mask is for impossible classes"
        )
        zeros = SHARE_FOR_ZEROS
    return logits_from_probs(probabilities, zeros="mask" if zeros is None else zeros)


def in_order_of(values: Values, where: str, other: Values, other_where: str) -> Values:
    """Return the columns in the order of `other`'s names; unchanged if either has no names."""
    names, expected = names_of(values), names_of(other)
    if names is None or expected is None or names == expected:
        return values
    if not set(names) & set(expected):
        console.note(
            f"{where} and {other_where} share no column name: columns are matched by position"
        )
        return np.asarray(values)
    if set(names) != set(expected):
        missing = [name for name in expected if name not in names]
        raise ValueError(
            f"{where} has the columns {', '.join(map(repr, names[:10]))}, expected those of "
            f"{other_where}, of which it lacks {', '.join(map(repr, missing[:10]))}"
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
    """Read --sample-weight and --alpha-column; None for each that is not given."""
    weight, alpha = (
        None if file is None else reader.column(file, flag)
        for file, flag in (
            (args.sample_weight, "--sample-weight"),
            (args.alpha_column, "--alpha-column"),
        )
    )
    return weight, alpha


def numbers(text: str) -> list[float]:
    """Return the numbers in a text such as 1,2,4."""
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers such as 1,2,4, not {text!r}") from None


def _share_or_mask(text: str) -> float | str:
    try:
        return text if text == "mask" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number or mask, not {text!r}") from None


def _renamed(array: NDArray[Any], like: Values) -> Values:
    """The array with the column names of `like`, if it has as many columns."""
    names = names_of(like)
    if names is None or len(names) != array.shape[1]:
        return array
    import polars

    return polars.DataFrame(array, schema=list(names))
