"""`kdloss compare`: whether distilling helps on the user's files, in a table and an HTML page."""

import argparse
import dataclasses
import re
import shlex
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _comparison_page as page
from .._frames import column_names, frame_array
from ..comparison import (
    HELD_OUT,
    LABELLED,
    STUDENTS,
    Comparison,
    Cost,
    LightGBM,
    Linear,
    Split,
    XGBoost,
    compare,
    draw_split,
    trainings,
)
from ..teacher import ensemble_logits
from ..trainer.class_names import matching_columns
from ..trainer.columns import named_features, refuse_not_finite
from ..trainer.teacher_check import warn_of_misfit
from . import classes, console, digits, errors, reading, training
from .loss import warn_of_probabilities
from .output import naming_out, new_folder, to_json

PAGE, RESULTS = "report.html", "results.json"
EXAMPLES = ("digits",)
LOSS = ("alpha", "tau", "divergence", "beta", "seed")  # settings of every student
KINDS = {  # of flags, by the name of a student's setting
    "rounds": (int, "N", "rounds of boosting: trees for each class"),
    "leaves": (int, "N", "leaves of a tree, at most"),
    "depth": (int, "N", "depth of a tree, at most"),
    "rows_in_leaf": (int, "N", "rows in a leaf, at least"),
    "epochs": (int, "N", "epochs; every training has the steps of this many over all rows"),
    "batch_size": (int, "N", training.HELP["batch_size"]),
    "learning_rate": (float, "X", training.HELP["learning_rate"]),
    "momentum": (float, "X", training.HELP["momentum"]),
    "l2": (float, "X", training.HELP["l2"]),
    "standardize": (bool, "", training.HELP["standardize"]),
}
NOTES = (
    "All students have the same settings and the same length of training. They are not tuned: "
    "kdloss tune chooses alpha and tau for a linear student.",
    "A teacher's outputs for rows that it was trained on contain the labels of these rows. Use "
    "out-of-fold outputs: they show what the teacher adds on new rows. The teacher's own scores "
    "are valid only if it has not seen the held-out rows.",
    "The test is the corrected paired t-test over the seeds (Nadeau and Bengio 2003): the seeds "
    "share rows, so the plain test would find effects that are not there. The teacher helped if "
    "p < 0.05, the gain in negative log-likelihood (NLL) is larger than its standard deviation, "
    "and the accuracy is no lower.",
)


class _Task(NamedTuple):
    X: NDArray[Any]
    labels: NDArray[np.int64]
    teacher: NDArray[Any] | Callable[[Split], NDArray[Any]]
    classes: list[str]
    cost: Callable[[], Cost]
    labelled: float | None
    held_out: float
    title: str
    origin: dict[str, Any]


def add_parser(commands: Any) -> None:
    """Describe the command's arguments."""
    parser = commands.add_parser(
        "compare",
        **console.help_page(
            "see whether distilling helps on your files",
            "Train the same student four times with the same budget: on a few labels; on these and "
            "the teacher's outputs for the same rows; on these and the teacher's outputs for all "
            "rows; and on all labels. Score all on held-out rows. Each of the --seeds draws the "
            "held-out rows and those that keep their label anew. Rows without a label (-1) have "
            "the teacher alone. Says whether the teacher helped by more than the seeds "
            f"differ, prints a table, and writes to --out: {PAGE}, one page that opens offline, "
            f"and {RESULTS}.",
            reading.FILE_HELP,
            "Needs the extra: pip install 'kdloss[compare]'; boosters also need 'sklearn' and "
            "'lightgbm' or 'xgboost'.",
            example="kdloss compare --features X.npy --labels y.npy --teacher-logits T.npy\n"
            "kdloss compare --features rows.csv --label-column species --id-column id \\\n"
            "    --teacher-logits teacher.parquet --teacher-probabilities \\\n"
            "    --student lightgbm --labelled 500 --out boosters/\n"
            "kdloss compare --example digits",
        ),
    )
    training.add_file_flags(parser, required=True, parsed=False, rows=False)
    parser.set_defaults(out="compare/", validation=training.VALIDATION)
    group = parser.add_argument_group("comparison")
    group.add_argument(
        "--example",
        choices=EXAMPLES,
        help="instead of files: handwritten digits, with a neural network as the teacher "
        "(needs the extra 'demo')",
    )
    group.add_argument(
        "--student",
        choices=tuple(STUDENTS),
        default="linear",
        help="the kind of student (default: %(default)s)",
    )
    group.add_argument(
        "--labelled",
        type=float,
        metavar="N|X",
        help="training rows that keep their label: a number, or a share below 1 (default: "
        f"{LABELLED}; all if more rows have no label than have one; {digits.LABELLED} digits)",
    )
    group.add_argument(
        "--held-out",
        type=float,
        metavar="X",
        help=f"share of the labelled rows on which students are scored (default: {HELD_OUT})",
    )
    group.add_argument(
        "--seeds",
        type=int,
        default=5,
        metavar="N",
        help="repetitions, each with its own rows; their seeds begin with --seed (default: "
        "%(default)s)",
    )
    group.add_argument(
        "--teacher-file",
        metavar="FILE",
        help="the file of the teacher itself, to compare its size with the students'; not read",
    )
    group.add_argument(
        "--teacher-microseconds",
        type=float,
        metavar="X",
        help="the teacher's prediction time per row, to compare with the students'",
    )
    group = parser.add_argument_group("training")
    training.add_fields(group, {name: training.FIELDS[name] for name in LOSS})
    for name, (kind, metavar, text) in KINDS.items():
        defaults = [
            f"{student} {getattr(settings, name)}"
            for student, settings in STUDENTS.items()
            if hasattr(settings, name)
        ]
        options: dict[str, Any] = {"type": kind, "metavar": metavar}
        if kind is bool:
            options = {"action": argparse.BooleanOptionalAction}
        group.add_argument(
            console.flag(name), help=f"{text} (default: {', '.join(defaults)})", **options
        )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Compare; print the table and the verdict, and write the page."""
    if args.seeds < 1:
        raise ValueError(f"--seeds is {args.seeds}, expected at least 1")
    student = _student(args)
    # Refuses bad settings before the files are read.
    training.new_student(argparse.Namespace(**(training.FIELDS | _common(args))))
    _need_packages()
    task = _example(args) if args.example else _files(args)
    with new_folder(args.out, (PAGE, RESULTS)) as folder, _in_flags():
        # Drawing the rows before the long work shows at once if there are too few.
        options: dict[str, Any] = {"labelled": task.labelled, "held_out": task.held_out}
        split = draw_split(task.labels, seed=args.seed, **options)
        total = trainings(task.labels, split) * args.seeds * student.units
        with (
            errors.each_kind_of_warning_once(),
            console.progress("training", total) as advance,
        ):
            warnings.filterwarnings("ignore", "teacher_logits ")  # the file was warned of before
            found = compare(
                task.X,
                task.labels,
                task.teacher,
                student=student,
                seeds=args.seeds,
                **_common(args),
                teacher_cost=task.cost,
                progress=lambda: advance(1),
                **options,
            )
        results = page.as_json(found) | task.origin
        results["settings"] |= {"student": args.student} | dataclasses.asdict(student)
        text = page.page(
            found,
            task.classes,
            title=task.title,
            facts=_facts(args, found, task),
            notes=NOTES,
            command=shlex.join(["kdloss", *args.words]),
        )
        for name, content in ((RESULTS, to_json(results)), (PAGE, text)):
            with naming_out(args.out, name, len(content)):
                (folder.partial / name).write_text(content, encoding="utf-8")
    print_table(found)
    print(f"Seeds: {args.seeds}; mean ± standard deviation. Every student: {found.budget}.")
    print(found.verdict().sentence)
    print(f"page: {Path(args.out, PAGE)}")
    if found.verdict().outcome == "helped" and args.student == "linear" and not args.example:
        print("next:", _train_command(args, student))


def print_table(found: Comparison) -> None:
    """Print the scores of each way to train, with their spreads."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("trained on", no_wrap=True)
    for heading in page.COLUMNS:
        table.add_column(heading.replace("calibration error", "ECE"), justify="right", no_wrap=True)
    for row in page.score_rows(found):
        table.add_row(*row)
    Console().print(table)


def _common(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in LOSS}


def _student(args: argparse.Namespace) -> Linear | LightGBM | XGBoost:
    """The student with the settings of the flags; refuses flags that belong to another kind."""
    kind = STUDENTS[args.student]
    own = [field.name for field in dataclasses.fields(kind)]
    given = {name: value for name in KINDS if (value := getattr(args, name)) is not None}
    for name in given:
        if name not in own:
            flags = ", ".join(map(console.flag, own))
            raise ValueError(
                f"{console.flag(name)} is not a setting of --student {args.student}, "
                f"expected one of {flags}"
            )
    return kind(**given)


def _need_packages() -> None:
    for name in ("matplotlib", "rich", "scipy"):
        try:
            __import__(name)
        except ImportError as error:
            raise ImportError(f"compare needs {name}: pip install 'kdloss[compare]'") from error


def _example(args: argparse.Namespace) -> _Task:
    files = ("features", "labels", "teacher_logits", "label_column", "teacher_file")
    for name in (*files, "teacher_microseconds"):
        if getattr(args, name) is not None:
            raise ValueError(
                f"{console.flag(name)} and --example {args.example} are both given, "
                "expected one of them"
            )
    example = digits.Digits()
    return _Task(
        example.X,
        example.labels,
        example.teach,
        [str(digit) for digit in range(digits.CLASSES)],
        example.cost,
        digits.LABELLED if args.labelled is None else args.labelled,
        digits.HELD_OUT if args.held_out is None else args.held_out,
        "Does distilling help? Handwritten digits",
        {"settings": _common(args) | {"example": args.example}},
    )


def _files(args: argparse.Namespace) -> _Task:
    for name in ("features", "teacher_logits"):
        if getattr(args, name) is None:
            raise ValueError(f"{console.flag(name)} is missing, expected it or --example digits")
    if args.labels is None and args.label_column is None:
        raise ValueError("--labels is missing, expected it or --label-column in --features")
    cost = _teacher_cost(args)
    data = training.read_data(args)
    names = training.find_classes(args, data)
    codes = training.row_classes(args, data)
    if np.ndim(data.labels) == 2:
        raise ValueError(
            f"{classes.where(args)} holds soft labels of shape {data.labels.shape}, expected one "
            "class for each row, to score held-out rows"
        )
    X = _features(args, data.features)
    return _Task(
        X,
        codes,
        _teacher(args, data.teacher_logits or [], names, codes),
        [str(name) for name in names.tolist()],
        lambda: cost,
        args.labelled,
        HELD_OUT if args.held_out is None else args.held_out,
        f"Does distilling help? {Path(args.features).name}",
        training.origin(args, data),
    )


def _features(args: argparse.Namespace, features: Any) -> NDArray[Any]:
    """The features as floats; a linear student needs all of them to be finite."""
    where = f"--features {args.features}"
    columns = column_names(where, features)
    with errors.naming(where):
        X = np.asarray(named_features("X", features, None if columns is None else columns))
        if X.dtype.kind not in "fiub":
            raise ValueError(f"X has dtype {X.dtype}, expected numbers")
        X = X.astype(np.float32 if X.dtype.itemsize <= 2 or X.dtype == "f4" else np.float64)
        if args.student == "linear":
            refuse_not_finite("X", X, np.arange(len(X)), columns)
    return X


def _teacher(
    args: argparse.Namespace, given: list[Any], names: NDArray[Any], codes: NDArray[np.int64]
) -> NDArray[Any]:
    """The logits of the teacher or the ensemble; warns if a teacher does not match the labels."""
    teachers = []
    for file, teacher in zip(args.teacher_logits, given, strict=True):
        where = f"--teacher-logits {file}"
        columns = matching_columns(column_names(where, teacher), names)
        logits = np.asarray(frame_array(where, teacher, columns))
        row = int(np.isnan(logits).any(axis=1).argmax())
        if np.isnan(logits[row]).any():
            raise ValueError(f"{where}: row {row} (from 0) is nan, expected logits")
        warn_of_probabilities(logits, where)
        warn_of_misfit(where, logits, codes, np.flatnonzero(codes >= -1))
        teachers.append(logits)
    if len(teachers) == 1 and args.teacher_weights is None:
        return teachers[0]
    with errors.naming("--teacher-weights"):
        return np.asarray(ensemble_logits(teachers, args.teacher_weights, tau=args.tau))


def _teacher_cost(args: argparse.Namespace) -> Cost:
    seconds, size = args.teacher_microseconds, None
    if args.teacher_file is not None:
        try:
            size = Path(args.teacher_file).stat().st_size
        except OSError as error:
            raise ValueError(f"--teacher-file {args.teacher_file}: {error.strerror}") from error
    return Cost(None if seconds is None else seconds / 1e6, size)


@contextmanager
def _in_flags() -> Iterator[None]:
    """Replace the names of arguments of `compare` in errors by the flags."""
    try:
        yield
    except ValueError as error:
        raise ValueError(re.sub(r"\b(labelled|held_out)\b(=| is)", _flag, str(error))) from error


def _flag(match: re.Match[str]) -> str:
    return console.flag(match[1]) + match[2].replace("=", " ")


def _facts(args: argparse.Namespace, found: Comparison, task: _Task) -> list[tuple[str, str]]:
    split = found.splits[0]
    teacher = f"{digits.TEACHER}" if args.example else ", ".join(args.teacher_logits)
    files = "scikit-learn's handwritten digits" if args.example else args.features
    return [
        ("rows and features", f"{files}: {task.X.shape[0]:,} × {task.X.shape[1]:,}"),
        ("classes", f"{len(task.classes):,}"),
        ("teacher", teacher),
        ("held-out rows", f"{len(split.held_out):,} for each seed"),
        ("training rows", f"{len(split.pool):,}, of which {len(split.few):,} keep their label"),
        ("seeds", f"{args.seeds}, from {args.seed}; held-out and labelled rows are drawn anew"),
        ("student", args.student),
        ("each training", found.budget),
        ("with the teacher", f"alpha {args.alpha:g}, tau {args.tau:g}, {args.divergence}"),
    ]


def _train_command(args: argparse.Namespace, student: Linear | LightGBM | XGBoost) -> str:
    """The `kdloss train` command for these files with the settings of this comparison."""
    kept = {name: value for name, value in vars(args).items() if name not in training.FIELDS}
    settings = dataclasses.asdict(student) | _common(args)
    for name in ("standardize", "divergence", "beta"):
        if settings[name] == training.FIELDS[name]:
            del settings[name]
    return training.command(argparse.Namespace(**kept), "run/", **settings)
