"""The command line `kdloss`: a module per command; each error is one line and exit status 2."""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from .. import __version__
from . import demo, loss, predict, train, tune

COMMANDS = (demo, train, predict, tune, loss)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 2 after an error, 130 after Ctrl-C."""
    parser = _Parser(
        prog="kdloss",
        description="Knowledge distillation: a small student learns from labels and a teacher.",
    )
    parser.add_argument("--version", action="version", version=f"kdloss {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            args = parser.parse_args(argv)
            args.run(args)
            sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        # The reader, such as `head`, has enough: the flush at exit must not fail a second time.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError as error:
        return _fail(f"error: out of memory {error}", 2)
    except (ArithmeticError, ImportError, OSError, ValueError) as error:
        return _fail(f"error: {error}", 2)


def _fail(message: str, status: int) -> int:
    print("kdloss:", " ".join(message.split()), file=sys.stderr)
    return status


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print("kdloss: warning:", " ".join(str(message).split()), file=sys.stderr)
