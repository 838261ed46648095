"""The package's errors and warnings, told in the command line's terms."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

FLAGS = {  # by what a message says of arguments and functions
    "n_classes=": "--n-classes N",
    " classes=": "--classes=NAME,...",
    "logits_from_probs": "--teacher-probabilities",
    "zeros=": "--zeros X",
    "standardize=": "--standardize",
}


@contextmanager
def naming(where: str, of: str = "") -> Iterator[None]:
    """Put the user's name of what is wrong before the message of an error that begins with `of`."""
    try:
        yield
    except (TypeError, ValueError) as error:
        prefix = f"{where}: " if str(error).startswith(of) else ""
        raise ValueError(prefix + in_flags(error)) from error


def in_flags(message: object) -> str:
    """Return a message with the flags that stand here for the package's arguments."""
    text = re.sub(r"^X\[(\d+), (\d+)\]", r"row \1, column \2 (from 0)", str(message))
    flags = [flag for argument, flag in FLAGS.items() if argument in text]
    return f"{text} (here: {', '.join(flags)})" if flags else text


@contextmanager
def each_kind_of_warning_once() -> Iterator[None]:
    """Show one of the warnings that differ in their numbers alone: many trainings give many."""
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
