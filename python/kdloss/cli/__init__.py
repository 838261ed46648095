"""The command line `kdloss`: one module per command. An error is one line, with exit status 2."""

import argparse
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from .. import __version__
from . import compare, demo, errors, loss, predict, train, tune

COMMANDS = (demo, compare, train, predict, tune, loss)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


class _Terminated(KeyboardInterrupt):
    """Raised by SIGTERM, which ends a command like Ctrl-C."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    The status is 0, or 2 after an error, 130 after Ctrl-C, 143 after SIGTERM.
    """
    parser = _Parser(
        prog="kdloss",
        description="Knowledge distillation: a small student learns from labels and a teacher.",
    )
    parser.add_argument("--version", action="version", version=f"kdloss {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    for subparser in commands.choices.values():
        subparser.set_defaults(parser=subparser)
    try:
        with warnings.catch_warnings(), _sigterm_like_ctrl_c():
            warnings.showwarning = _show_warning
            args, unknown = parser.parse_known_args(argv)
            if unknown:
                args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
            args.words = sys.argv[1:] if argv is None else list(argv)
            args.run(args)
            sys.stdout.flush()
        return 0
    except KeyboardInterrupt as stop:
        # A command that can be resumed says how in the exception's text.
        return _fail(str(stop) or "interrupted", 143 if isinstance(stop, _Terminated) else 130)
    except BrokenPipeError:
        # The reader, such as `head`, has exited. The flush at exit must not fail a second time.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError as error:
        return _fail(f"error: out of memory {error}", 2)
    except (ArithmeticError, ImportError, OSError, ValueError) as error:
        return _fail(f"error: {error}", 2)


@contextmanager
def _sigterm_like_ctrl_c() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only that one gets signals
        yield
        return

    def stop(*_: object) -> NoReturn:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail(message: str, status: int) -> int:
    print("kdloss:", " ".join(message.split()), file=sys.stderr)
    return status


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print("kdloss: warning:", " ".join(errors.in_flags(message).split()), file=sys.stderr)
