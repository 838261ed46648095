"""Writes the files of a training run during training, so that a stopped run can be resumed."""

import argparse
import copy
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..trainer import LinearStudent, Record
from .output import Folder, naming_out, to_json
from .reading import unreadable

STUDENT, BEST, PICTURE = "student.npz", "best.npz", "training.png"
HISTORY, SETTINGS = "history.json", "settings.json"
FILES = (SETTINGS, HISTORY, BEST, PICTURE, STUDENT)  # the student last: it completes a checkpoint
SECONDS = 3.0  # the shortest time between two checkpoints


class Checkpoints:
    """Writes a student that is in training, and that of its best epoch, to a folder."""

    def __init__(
        self, folder: Folder, student: LinearStudent, origin: dict[str, Any], *, resumed: bool
    ) -> None:
        self._folder, self._student, self._origin = folder, student, origin
        self._kept = (BEST,) if resumed and student.settings.patience is None else ()
        self._best: LinearStudent | None = None
        self._time = time.monotonic()

    def add(self, record: Record) -> None:
        """Record a finished epoch, and write a checkpoint if the last one is old enough."""
        if record.get("best_epoch") == record["epoch"] and self._student.settings.patience is None:
            self._best = copy.copy(self._student)  # shallow: a state is replaced, never modified
        if time.monotonic() - self._time > SECONDS:
            self.write()

    def write(self) -> None:
        """Write the student as it is now, with its history and settings."""
        partial, out = self._folder.partial, str(self._folder.target)
        for name, text in (
            (SETTINGS, to_json(self._origin)),
            (HISTORY, to_json(self._student.history)),
        ):
            with naming_out(out, name, len(text)):
                (partial / name).write_text(text)
        for name, student in ((BEST, self._best), (STUDENT, self._student)):
            if student is not None:
                # Its file holds the weights, the last epoch's parameters and their velocity.
                with naming_out(out, name, 3 * (student.weights.nbytes + student.bias.nbytes)):
                    student.save(partial / name)
        self._best = None
        self._folder.publish(kept=self._kept)
        self._time = time.monotonic()

    @contextmanager
    def kept_after_a_stop(self, epochs: int) -> Iterator[None]:
        """If training in the block is interrupted or diverges, write the last finished epoch."""
        before = len(self._student.history)
        try:
            yield
        except (KeyboardInterrupt, FloatingPointError) as stop:
            done = len(self._student.history)
            if done == before:
                raise
            self.write()
            place = self._folder.target / STUDENT
            kept = f"{place} is the student after epoch {done} of {epochs}"
            if isinstance(stop, KeyboardInterrupt):
                raise type(stop)(
                    f"interrupted: {kept}; the same command with --resume continues"
                ) from None
            raise FloatingPointError(f"{stop}; {kept}") from None


def earlier_run(args: argparse.Namespace, origin: dict[str, Any]) -> LinearStudent:
    """Return the student in --out, to be trained further; refuse different settings or files."""
    where = f"--resume: --out {args.out}"
    try:
        found = json.loads(Path(args.out, SETTINGS).read_text())
        student = LinearStudent.load(Path(args.out, STUDENT))
    except (OSError, ValueError) as error:
        raise unreadable(f"{where}: no run to continue", error) from error
    now = json.loads(to_json(origin))
    for group in ("settings", "files", "shapes"):
        for name in found.get(group, {}) | now[group]:
            old, new = found.get(group, {}).get(name), now[group].get(name)
            if old != new and name != "epochs":
                raise ValueError(
                    f"{where} was made with {name} {old} ({group}), not {new}; expected the same "
                    "(only --epochs may be larger)"
                )
    done = len(student.history)
    if done >= args.epochs:
        raise ValueError(
            f"{where} has finished {done} epochs, and --epochs is {args.epochs}; "
            "expected a larger --epochs to continue"
        )
    return student
