"""Output to the terminal: help pages, progress (with rich if installed), notes, numbers."""

import argparse
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from rich.progress import Progress


def flag(name: str) -> str:
    """Return the flag of an argument, such as --alpha-column for alpha_column."""
    return "--" + name.replace("_", "-")


def help_page(summary: str, *paragraphs: str, example: str) -> dict[str, Any]:
    """Return the arguments of `add_parser` for a help page with an example to copy."""
    return {
        "help": summary,
        "description": "\n\n".join(textwrap.fill(text, 79) for text in paragraphs),
        "epilog": "example:\n" + textwrap.indent(example, "  "),
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


@contextmanager
def progress(description: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the number of steps just made, after the first `done`.

    On a terminal it draws a bar if rich is installed; otherwise it prints a line for each tenth.
    """
    bar = _bar() if sys.stderr.isatty() else None
    if bar is None:
        yield _plain(description, total, done)
        return
    with bar:
        task = bar.add_task(description, total=total, completed=done)
        yield lambda steps: bar.advance(task, steps)


def _bar() -> "Progress | None":
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
    except ImportError:
        return None
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _plain(description: str, total: int, done: int) -> Callable[[int], None]:
    def advance(steps: int) -> None:
        nonlocal done
        before, done = done, done + steps
        if done * 10 // total > before * 10 // total:
            print(f"{description} {done}/{total}", file=sys.stderr)

    return advance


def note(message: str) -> None:
    """Print a line that is not a result, to stderr."""
    print(f"kdloss: {message}", file=sys.stderr)


def spread(scores: NDArray[Any]) -> NDArray[np.float64]:
    """Return the standard deviation over the seeds, the last axis; NaN for one seed."""
    seeds = scores.shape[-1]
    return scores.std(axis=-1, ddof=1) if seeds > 1 else np.full(scores.shape[:-1], np.nan)


def plus_minus(mean: float, spread: float, digits: int) -> str:
    """Return a mean and its spread as text with this many digits; a spread of NaN is left out."""
    text = f"{mean:.{digits}f}"
    return text if np.isnan(spread) else f"{text} ± {spread:.{digits}f}"
