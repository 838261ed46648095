"""Shared by `train` and `tune`: flags for the data and the trainer's settings, scores, pictures."""

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
import numpy.random  # now: imported by NumPy in the midst of the work, it swallows a Ctrl-C
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
# The trainer's settings with their defaults here.
FIELDS: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Settings)}
FIELDS["standardize"] = True
HELP = {
    "alpha": "weight of the labels' part of the loss, in [0, 1]; the teacher's is 1 - alpha",
    "tau": "temperature of the teacher's part, > 0",
    "learning_rate": "initial learning rate",
    "epochs": f"number of epochs, or the most iterations of lbfgs (default: "
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
    "divergence": "what the teacher's part measures: KL(teacher || student); KL(student || "
    "teacher); Jensen-Shannon; total variation; the mean square of the logits' differences",
    "beta": "the teacher's share in js, in [0, 1]",
    "tolerance": "lbfgs stops where no entry of the gradient is larger",
}
FLAGS = {  # what the trainer calls its arguments, and the flags here
    "X": "features",
    "labels": "labels",
    "teacher_logits": "teacher_logits",
    "sample_weight": "sample_weight",
    "alpha_per_row": "alpha_column",
}


class Data(NamedTuple):
    """The data: features (N, D), labels (N,) or (N, C), teachers' logits (N, C) each.

    Where given, weights (N,) and alphas (N,). Where columns have names, a frame.
    """

    features: Any
    labels: Any
    teacher_logits: list[Any] | None
    sample_weight: NDArray[Any] | None
    alpha_column: NDArray[Any] | None


def add_file_flags(
    parser: argparse.ArgumentParser, *, required: bool, parsed: bool = True, rows: bool = True
) -> None:
    """Add the files to read, of which two may be `required` or not, and the folder to write.

    Without `parsed` no file is required in parsing, and the command checks which are; without
    `rows` rows have no weights and alphas.
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

    The defaults of the `chosen` ones are chosen later, as the texts there say.
    """
    group = parser.add_argument_group("training")
    group.add_argument(
        "--validation",
        type=float,
        default=VALIDATION,
        metavar="X",
        help="share of the rows that is held out for validation, drawn with the seed "
        "(default: %(default)s; 0 for none, with train)",
    )
    add_fields(group, {name: FIELDS[name] for name in FIELDS if name not in without}, chosen or {})
    return group


def add_fields(
    group: Any, fields: dict[str, Any], chosen: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Add a flag for each of these settings of the trainer, by their defaults."""
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
        group.add_argument(_flag(name), default=default, help=text, **kind)


def read_data(args: argparse.Namespace) -> Data:
    """Read the files, side by side, and say how many rows are labelled."""
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
    """Return what the flags say of the classes, as arguments of a student's `fit`."""
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
    """Say how many rows are labelled, and how many classes occur."""
    return "rows: " + classes.describe(row_classes(args, data), len(find_classes(args, data)))


def train(method: Any, args: argparse.Namespace, data: Data, **options: Any) -> None:
    """Call a student's `fit` or `resume` with what was read; its errors name the files."""
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
        where = " ".join([_flag(FLAGS[found[0]]), *([file] if isinstance(file, str) else file)])
        raise ValueError(f"{where}: {errors.in_flags(error)}") from error


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
    """The only entry of a list, or what is given."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def command(args: argparse.Namespace, out: str, **settings: Any) -> str:
    """Return the `kdloss train` of these files and settings, as typed in a shell."""
    words = ["kdloss", "train"]
    for name in Data._fields:
        files = getattr(args, name)
        if files is not None:
            words += [_flag(name), *([files] if isinstance(files, str) else files)]
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
