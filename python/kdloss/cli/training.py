"""Shared by `train`, `tune` and `compare`: flags for data and settings, training, pictures."""

import argparse
import dataclasses
import platform
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import numpy as np
import numpy.random  # imported here because its late import by NumPy can swallow a Ctrl-C
from numpy.typing import NDArray

from .. import __version__
from ..losses import Divergence
from ..trainer import LinearStudent, Record
from ..trainer.settings import SCHEDULES, SOLVERS, Settings
from . import classes, console, errors, inputs, reading

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VALIDATION = 0.2
CHOICES = {
    "schedule": tuple(SCHEDULES),
    "solver": tuple(SOLVERS),
    "divergence": get_args(Divergence),
}
# The trainer's settings with their defaults on the command line.
FIELDS: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Settings)}
FIELDS["standardize"] = True
HELP = {
    "alpha": "weight of the hard loss, from the labels, in [0, 1]; that of the soft loss, from "
    "the teacher, is 1 - alpha",
    "tau": "temperature of the soft loss, > 0",
    "learning_rate": "initial learning rate",
    "epochs": f"number of epochs, or the largest number of iterations of lbfgs (default: "
    f"{SOLVERS['sgd'].epochs}; with lbfgs {SOLVERS['lbfgs'].epochs})",
    "batch_size": "rows per step",
    "schedule": "how the learning rate changes from epoch to epoch",
    "momentum": "momentum of SGD, in [0, 1)",
    "l2": "L2 regularisation of the weights, not of the bias",
    "bias": "learn a bias",
    "shuffle": "visit the rows in a new order in every epoch",
    "seed": "seed of the order of rows and of the validation split",
    "patience": "stop after this many epochs without a lower validation loss, and keep the best",
    "standardize": "shift and scale each feature by its mean and standard deviation over the "
    "training rows",
    "solver": "sgd, with a learning rate, or lbfgs, which needs none and finds the optimum",
    "divergence": "what the soft loss measures: KL(teacher || student); KL(student || teacher); "
    "Jensen-Shannon divergence; total variation distance; mean squared difference of the logits",
    "beta": "the teacher's weight in js, in [0, 1]",
    "tolerance": "lbfgs stops when no entry of the gradient is larger",
}
FLAGS = {  # the trainer's arguments, and their flags
    "X": "features",
    "labels": "labels",
    "teacher_logits": "teacher_logits",
    "sample_weight": "sample_weight",
    "alpha_per_row": "alpha_column",
}


class Data(NamedTuple):
    """The data: features (N, D), labels (N,) or (N, C), each teacher's logits (N, C).

    Weights (N,) and alphas (N,) are optional. Inputs whose columns have names are data frames.
    """

    features: Any
    labels: Any
    teacher_logits: list[Any] | None
    sample_weight: NDArray[Any] | None
    alpha_column: NDArray[Any] | None


def add_file_flags(
    parser: argparse.ArgumentParser, *, required: bool, parsed: bool = True, rows: bool = True
) -> None:
    """Add flags for the files to read and the folder to write.

    Labels and teacher are `required` or not. If `parsed` is false, the parser requires no file, and
    the command checks them itself. If `rows` is false, there are no weights and alphas of rows.
    """
    group = parser.add_argument_group("files")
    group.add_argument(
        "--features", metavar="FILE", required=parsed, help="numbers (rows, features)"
    )
    group.add_argument(
        "--labels",
        metavar="FILE",
        help="one label per row: a class's name, or its number from 0 on; -1 (or an empty name): "
        "unlabelled, the row learns from the teacher alone; -100: padding, the row is left out. "
        "Or soft labels: probabilities (rows, classes), zeros for an unlabelled row"
        + ("" if required else "; needed unless --alpha 0"),
    )
    group.add_argument(
        "--out",
        metavar="FOLDER",
        required=parsed,
        help="where to write: a new or an empty folder; an earlier run's files are overwritten",
    )
    inputs.add_flags(
        parser,
        "--teacher-logits",
        "the teacher's logits (rows, classes); log-probabilities are logits"
        + ("" if required else "; needed unless --alpha 1"),
        required=required and parsed,
    )
    if rows:
        inputs.add_row_flags(parser)
    else:
        parser.set_defaults(sample_weight=None, alpha_column=None)
    classes.add_flags(parser)
    reading.add_flags(parser)


def add_setting_flags(
    parser: argparse.ArgumentParser,
    *,
    without: tuple[str, ...] = (),
    chosen: dict[str, str] | None = None,
) -> Any:
    """Add a flag for each of the trainer's settings; return their group.

    The settings in `chosen` get their defaults later; the texts describe them.
    """
    group = parser.add_argument_group("training")
    group.add_argument(
        "--validation",
        type=float,
        default=VALIDATION,
        metavar="X",
        help="share of the rows that is held out for validation, drawn with the seed "
        "(default: %(default)s; with train, 0 means none)",
    )
    add_fields(group, {name: FIELDS[name] for name in FIELDS if name not in without}, chosen or {})
    return group


def add_fields(
    group: Any, fields: dict[str, Any], chosen: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Add a flag for each of these settings of the trainer, given by their defaults."""
    for name, default in fields.items():
        kind: dict[str, Any]
        if isinstance(default, bool):
            kind = {"action": argparse.BooleanOptionalAction}
        elif name in CHOICES:
            kind = {"choices": CHOICES[name]}
        elif isinstance(default, float):
            kind = {"type": float, "metavar": "X"}
        else:
            kind = {"type": int, "metavar": "N"}
        told = chosen.get(name, "" if default is None else "%(default)s")
        text = HELP[name] + (f" (default: {told})" if told else "")
        default = None if name in chosen else default
        group.add_argument(console.flag(name), default=default, help=text, **kind)


def read_data(args: argparse.Namespace) -> Data:
    """Read the files, match their rows, and print how many rows are labelled."""
    reader = reading.Reader(args)
    features, labels = reader.features(args.features, labels_elsewhere=args.labels is not None)
    teachers = None
    if args.labels is not None:
        labels = reader.labels(args.labels, "--labels")
    if args.teacher_logits is not None:
        teachers = inputs.read_teachers(reader, args.teacher_logits, "--teacher-logits", args)
    data = Data(features, labels, teachers, *inputs.read_weights_and_alphas(args, reader))
    reader.finish()
    console.note(describe_rows(args, data))
    return data


def class_options(args: argparse.Namespace, data: Data) -> dict[str, Any]:
    """Return the arguments of `fit` for the flags about classes."""
    if args.classes is None and args.n_classes is None:
        return {}
    return classes.options(find_classes(args, data))


def find_classes(args: argparse.Namespace, data: Data) -> NDArray[Any]:
    """Return the names of the classes."""
    return classes.find_classes(args, data.labels, data.teacher_logits or ())


def row_classes(args: argparse.Namespace, data: Data) -> NDArray[np.int64]:
    """Return each row's class as an index, -1 (unlabelled) or -100 (padding)."""
    names = find_classes(args, data)
    with errors.naming(classes.where(args), "labels"):
        return classes.indices(data.labels, names, data.features.shape[0], data.sample_weight)


def describe_rows(args: argparse.Namespace, data: Data) -> str:
    """Return a line with the number of labelled rows and of the classes that occur."""
    return "rows: " + classes.describe(row_classes(args, data), len(find_classes(args, data)))


def train(method: Any, args: argparse.Namespace, data: Data, **options: Any) -> None:
    """Call a student's `fit` or `resume` with the data; errors name the flags and files."""
    try:
        method(
            data.features,
            data.labels,
            data.teacher_logits,
            sample_weight=data.sample_weight,
            alpha_per_row=data.alpha_column,
            teacher_weights=args.teacher_weights,
            **options,
        )
    except (TypeError, ValueError) as error:
        found = re.match("|".join(FLAGS), str(error).removeprefix("validation "))
        file = found and getattr(args, FLAGS[found[0]])
        if not found or not file:
            raise ValueError(errors.in_flags(error)) from error
        where = " ".join(
            [console.flag(FLAGS[found[0]]), *([file] if isinstance(file, str) else file)]
        )
        raise ValueError(f"{where}: {errors.in_flags(error)}") from error


def new_student(args: argparse.Namespace, **settings: Any) -> LinearStudent:
    """Return an untrained student with the settings of the flags, overridden by `settings`."""
    return LinearStudent(
        **{name: getattr(args, name) for name in FIELDS.keys() - settings.keys()} | settings
    )


def final_record(student: LinearStudent) -> Record:
    """Return the record of the epoch whose weights the student has."""
    last = student.history[-1]
    early = student.settings.patience is not None
    return student.history[int(last["best_epoch"]) - 1] if early else last


def origin(args: argparse.Namespace, data: Data) -> dict[str, Any]:
    """Return the settings, files and versions with which a result was made."""
    names = [name for name in (*FIELDS, "validation") if hasattr(args, name)]
    if args.alpha_column is not None:
        names = [name for name in names if name != "alpha"]
    settings = {name: getattr(args, name) for name in names}
    names = ["teacher_probabilities", "zeros", "classes", "n_classes", *reading.FLAGS]
    settings |= {name: getattr(args, name) for name in names if getattr(args, name)}
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
    """The entry of a list of one; anything else unchanged."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def command(args: argparse.Namespace, out: str, **settings: Any) -> str:
    """Return the `kdloss train` command for these files and settings, for a shell."""
    words = ["kdloss", "train"]
    for name in Data._fields:
        files = getattr(args, name)
        if files is not None:
            words += [console.flag(name), *([files] if isinstance(files, str) else files)]
    words += reading.flags(args)
    if args.teacher_probabilities:
        words += ["--teacher-probabilities", *(["--zeros", str(args.zeros)] if args.zeros else [])]
    if args.classes is not None:
        words.append(f"--classes={','.join(args.classes)}")  # which may begin with -1
    if args.n_classes is not None:
        words += ["--n-classes", str(args.n_classes)]
    if args.teacher_weights is not None:
        words += ["--teacher-weights", ",".join(f"{x!r}" for x in args.teacher_weights)]
    if args.validation != VALIDATION:
        words += ["--validation", str(args.validation)]
    for name, value in (vars(args) | settings).items():
        if name in settings or (name in FIELDS and value != FIELDS[name]):
            # Settings that can be False are True by default.
            words += [f"--no-{name}"] if value is False else [console.flag(name), str(value)]
    return shlex.join([*words, "--out", out])


def save_picture(path: Path, draw: Callable[[], "Figure"]) -> None:
    """Write the picture; if matplotlib is missing, say how to get it, and keep the results."""
    try:
        figure = draw()
    except ImportError as error:
        console.note(f"no {path.name}: {error}")
    else:
        figure.savefig(path)
