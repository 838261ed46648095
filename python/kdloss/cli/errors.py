"""Translates the package's errors and warnings into the terms of the command line."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

FLAGS = {  # by the names of arguments and functions in messages
    "n_classes=": "--n-classes N",
    " classes=": "--classes=NAME,...",
    "logits_from_probs": "--teacher-probabilities",
    "zeros=": "--zeros X",
    "standardize=": "--standardize",
}


@contextmanager
def naming(where: str, of: str = "") -> Iterator[None]:
    """Prefix an error with `where`, the user's name of its input, if it begins with `of`."""
    try:
        yield
    except (TypeError, ValueError) as error:
        prefix = f"{where}: " if str(error).startswith(of) else ""
        raise ValueError(prefix + in_flags(error)) from error


def in_flags(message: object) -> str:
    """Return a message with the flags of the arguments that it names."""
    text = re.sub(r"^X\[(\d+), (\d+)\]", r"row \1, column \2 (from 0)", str(message))
    flags = [flag for argument, flag in FLAGS.items() if argument in text]
    return f"{text} (here: {', '.join(flags)})" if flags else text


@contextmanager
def each_kind_of_warning_once() -> Iterator[None]:
    """Show only the first of the warnings that differ only in numbers, as many trainings give."""
    shown: set[str] = set()
    show = warnings.showwarning

    def show_first(message: Warning | str, *rest: Any, **options: Any) -> None:
        kind = re.sub(r"[\d.,e+-]+", "#", str(message))
        if kind not in shown:
            shown.add(kind)
            show(message, *rest, **options)

    with warnings.catch_warnings():
        warnings.showwarning = show_first
        yield
