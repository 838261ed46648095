"""Finds the classes and each row's class index, and counts rows by kind for messages."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._arrays import PADDING, UNLABELLED
from ..trainer.class_names import are_plain, check_classes, class_indices, find_names
from ..trainer.class_names import read_labels as as_labels
from . import errors
from .inputs import names_of

if TYPE_CHECKING:
    from .reading import Values


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that define the classes."""
    group = parser.add_argument_group("classes")
    group.add_argument(
        "--classes",
        metavar="NAME,...",
        type=lambda text: text.split(","),
        help="the names of the classes, in the order of the teacher's columns, if these have no "
        "names; --classes=-1,1 if -1 is a class",
    )
    group.add_argument(
        "--n-classes",
        metavar="N",
        type=int,
        help="the number of classes 0, 1, ..., if neither a teacher nor the labels show it",
    )


def find_classes(
    args: argparse.Namespace, labels: Values | None, logits: Sequence[Values]
) -> NDArray[Any]:
    """Return the classes' names, found as in `LinearStudent.fit`; their numbers if there are none.

    `logits` are the inputs with a column for each class: a student, the teachers.
    """
    count = logits[0].shape[1] if logits else args.n_classes
    if args.classes is not None:
        if args.n_classes is not None:
            raise ValueError("--classes and --n-classes are both given, expected one of them")
        whole = all(re.fullmatch(r"-?\d+", name) for name in args.classes)
        names = check_classes([int(name) for name in args.classes] if whole else args.classes)
        if count not in (None, len(names)):
            raise ValueError(
                f"--classes has {len(names)} names, expected {count}, one for each column of logits"
            )
        return names
    columns = next((found for one in logits if (found := names_of(one)) is not None), None)
    if labels is None:
        return np.arange(count or 0) if columns is None else np.array(columns)
    columns = columns or names_of(labels)
    found = as_labels("labels", labels)
    stated = args.n_classes is not None
    with errors.naming(where(args)):
        known = find_names("labels", found, count, columns, stated=stated)
    if known is not None:
        return known
    if count is None:
        count = found.shape[1] if found.ndim == 2 else int(found.max(initial=0)) + 1
    return np.arange(count)


def where(args: argparse.Namespace) -> str:
    """Return the flag that gives the labels, as the user typed it."""
    return f"--labels {args.labels}" if args.labels else f"--label-column {args.label_column}"


def options(names: NDArray[Any]) -> dict[str, Any]:
    """Return the arguments of `LinearStudent.fit` for these classes."""
    return {"n_classes": len(names)} if are_plain(names) else {"classes": names}


def indices(
    labels: Values | None,
    names: NDArray[Any],
    rows: int,
    sample_weight: NDArray[Any] | None = None,
) -> NDArray[np.int64]:
    """Return each row's class as an index, -1 (unlabelled) or -100 (padding)."""
    if labels is not None:
        return class_indices(labels, names, sample_weight=sample_weight)
    codes = np.full(rows, UNLABELLED)
    if sample_weight is not None:
        codes[sample_weight == 0] = PADDING
    return codes


def count(codes: NDArray[np.int64]) -> dict[str, int]:
    """Count the rows of each kind, and the classes that occur."""
    return {
        "labelled": int((codes >= 0).sum()),
        "unlabelled": int((codes == UNLABELLED).sum()),
        "padding": int((codes == PADDING).sum()),
        "classes": len(np.unique(codes[codes >= 0])),
    }


def describe(codes: NDArray[np.int64], classes: int) -> str:
    """Return a line with the number of rows of each kind, and of the classes that occur."""
    found = count(codes)
    return (
        f"{found['labelled']:,} labelled, {found['unlabelled']:,} unlabelled, "
        f"{found['padding']:,} padding; {found['classes']} of {classes} classes occur"
    )
