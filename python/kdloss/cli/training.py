"""What `train` and `tune` share: the data and the trainer's settings as flags, scores, pictures."""

import argparse
import dataclasses
import platform
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.random  # now: imported by NumPy in the midst of the work, it swallows a Ctrl-C
from numpy.typing import NDArray

from .. import __version__
from ..trainer import SCHEDULES, LinearStudent, Record, Settings
from . import console, per_row
from .files import read_labels, read_matrix

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VALIDATION = 0.2
FIELDS = {field.name: field.default for field in dataclasses.fields(Settings)}
HELP = {
    "alpha": "weight of the labels, in [0, 1]; the teacher's is 1 - alpha",
    "tau": "temperature, > 0",
    "learning_rate": "length of the first step",
    "epochs": "passes over the rows",
    "batch_size": "rows per step",
    "schedule": "how the learning rate changes from epoch to epoch",
    "momentum": "share of the last step that is kept, in [0, 1)",
    "l2": "weight of the L2 term, which leaves the bias free",
    "bias": "learn a bias",
    "shuffle": "visit the rows in a new order in every epoch",
    "seed": "decides the order of the rows and the validation split",
    "standardize": "shift and scale features by their mean and standard deviation",
    "patience": "stop after this many epochs without a lower validation loss, keep the best",
}


class Data(NamedTuple):
    """What was read: features (N, D), labels (N,) or (N, C), teachers' logits (N, C) each.

    Where given, weights (N,) and alphas (N,).
    """

    features: NDArray[Any]
    labels: NDArray[Any] | None
    teacher_logits: list[NDArray[Any]] | None
    sample_weight: NDArray[Any] | None
    alpha_column: NDArray[Any] | None


def add_file_flags(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Add the files to read, of which two may be `required` or not, and the folder to write."""
    group = parser.add_argument_group("files")
    group.add_argument("--features", metavar="FILE", required=True, help="numbers (rows, features)")
    group.add_argument(
        "--labels",
        metavar="FILE",
        required=required,
        help="integers (rows,): a class from 0 on, -1 for a row that only the teacher labels, "
        "-100 for a row to leave out; or soft labels, numbers (rows, classes): probabilities, "
        "zeros for a row that only the teacher labels"
        + ("" if required else "; needed unless --alpha 0"),
    )
    per_row.add_flags(
        group,
        "--teacher-logits",
        "numbers (rows, classes): logits, not probabilities; log-probabilities are logits"
        + ("" if required else "; needed unless --alpha 1"),
        required=required,
    )
    group.add_argument(
        "--out",
        metavar="FOLDER",
        required=True,
        help="a folder that is new, empty, or an earlier result's, which is replaced",
    )


def add_setting_flags(parser: argparse.ArgumentParser, *, without: tuple[str, ...] = ()) -> None:
    """Add a flag for each of the trainer's settings, with its name and default."""
    group = parser.add_argument_group("settings")
    group.add_argument(
        "--validation",
        type=float,
        default=VALIDATION,
        metavar="X",
        help="share of the rows, drawn with the seed, that is kept from training "
        "(default: %(default)s; train takes 0 for none)",
    )
    for name, default in FIELDS.items():
        if name in without:
            continue
        kind: dict[str, Any]
        if isinstance(default, bool):
            kind = {"action": argparse.BooleanOptionalAction}
        elif name == "schedule":
            kind = {"choices": tuple(SCHEDULES)}
        elif isinstance(default, float):
            kind = {"type": float, "metavar": "X"}
        else:
            kind = {"type": int, "metavar": "N"}
        text = HELP[name] + (" (default: %(default)s)" if default is not None else "")
        group.add_argument(_flag(name), default=default, help=text, **kind)


def read_data(args: argparse.Namespace) -> Data:
    """Read the files, and compare their numbers of rows."""
    features = read_matrix(args.features, "--features")
    like = (f"--features {args.features}", features)
    labels = teachers = None
    if args.labels is not None:
        labels = read_labels(args.labels, "--labels", like)
    if args.teacher_logits is not None:
        teachers = per_row.read_teachers(args.teacher_logits, "--teacher-logits", like)
    return Data(features, labels, teachers, *per_row.read_weights_and_alphas(args, like))


def fit(student: LinearStudent, args: argparse.Namespace, data: Data, **options: Any) -> None:
    """Train the student on what was read."""
    student.fit(
        data.features,
        data.labels,
        data.teacher_logits,
        sample_weight=data.sample_weight,
        alpha_per_row=data.alpha_column,
        teacher_weights=args.teacher_weights,
        **options,
    )


def new_student(args: argparse.Namespace, **settings: Any) -> LinearStudent:
    """Return an untrained student with the settings of the flags, and those given here."""
    return LinearStudent(
        **{name: getattr(args, name) for name in FIELDS.keys() - settings.keys()} | settings
    )


def final_record(student: LinearStudent) -> Record:
    """Return the record of the epoch whose weights the student has."""
    last = student.history[-1]
    early = student.settings.patience is not None
    return student.history[int(last["best_epoch"]) - 1] if early else last


def origin(args: argparse.Namespace, data: Data) -> dict[str, Any]:
    """Say from which settings and files, and with which versions, a result was made."""
    names = [name for name in (*FIELDS, "validation") if hasattr(args, name)]
    if args.alpha_column is not None:
        names = [name for name in names if name != "alpha"]
    settings = {name: getattr(args, name) for name in names}
    if args.teacher_weights is not None:
        settings["teacher_weights"] = args.teacher_weights
    always = ("features", "labels", "teacher_logits")
    arrays = {k: v for k, v in data._asdict().items() if k in always or v is not None}
    return {
        "settings": settings,
        "files": {name: _one_or_all(getattr(args, name)) for name in arrays},
        "shapes": {name: _one_or_all(_shapes(value)) for name, value in arrays.items()},
        "versions": {
            "kdloss": __version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def _shapes(value: Any) -> Any:
    if isinstance(value, list):
        return [one.shape for one in value]
    return None if value is None else value.shape


def _one_or_all(value: Any) -> Any:
    """The only entry of a list, or what is given."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def command(args: argparse.Namespace, out: str, **settings: Any) -> str:
    """Return the `kdloss train` of these files and settings, as typed in a shell."""
    words = ["kdloss", "train"]
    for name in Data._fields:
        files = getattr(args, name)
        if files is not None:
            words += [_flag(name), *([files] if isinstance(files, str) else files)]
    if args.teacher_weights is not None:
        words += ["--teacher-weights", ",".join(f"{x!r}" for x in args.teacher_weights)]
    if args.validation != VALIDATION:
        words += ["--validation", str(args.validation)]
    for name, value in (vars(args) | settings).items():
        if name in settings or (name in FIELDS and value != FIELDS[name]):
            # The settings that can be False are True by default.
            words += [f"--no-{name}"] if value is False else [_flag(name), str(value)]
    return shlex.join([*words, "--out", out])


def save_picture(path: Path, draw: Callable[[], "Figure"]) -> None:
    """Write the picture, or say how to get it: a result without one is worth keeping."""
    try:
        figure = draw()
    except ImportError as error:
        console.note(f"no {path.name}: {error}")
    else:
        figure.savefig(path)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
