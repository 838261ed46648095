"""`kdloss loss`: the loss of a student against a teacher and labels, with its parts."""

import argparse
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._arrays import PADDING, look_like_probabilities
from .._frames import frame_array
from ..losses import kd_loss_parts
from ..teacher import ensemble_logits
from ..trainer.class_names import matching_columns
from ..trainer.class_names import read_labels as as_labels
from ..trainer.teacher_check import warn_of_misfit
from . import classes, console, errors, inputs, reading, training
from .output import to_json

ALPHA = 0.5


def add_parser(commands: Any) -> None:
    """Describe the command's arguments."""
    parser = commands.add_parser(
        "loss",
        **console.help_page(
            "the loss and its parts, from logits in files",
            "Print the mean loss and its parts. hard is -log softmax(s)[y], averaged over the "
            "labelled rows. soft is tau^2 * KL(softmax(t/tau) || softmax(s/tau)), or another "
            "--divergence, averaged over all rows except padding. The loss of a row is "
            "alpha * hard + (1 - alpha) * soft, for an unlabelled row soft alone; it is averaged "
            "over all rows except padding.",
            reading.FILE_HELP,
            example="kdloss loss --student S.npy --teacher T.npy --labels y.npy --tau 2\n"
            "kdloss loss --student S.npy --teacher T1.npy T2.npy --teacher-weights 2,1 \\\n"
            "    --labels P.npy --sample-weight w.npy --alpha-column a.npy",
        ),
    )
    group = parser.add_argument_group("files")
    group.add_argument(
        "--student", metavar="FILE", required=True, help="the student's logits (rows, classes)"
    )
    group.add_argument(
        "--labels",
        metavar="FILE",
        help="one label per row: a class's name, or its number from 0 on; -1 (or an empty name): "
        "unlabelled; -100: padding. Or soft labels (rows, classes), zeros for an unlabelled row; "
        "needed unless --alpha 0",
    )
    inputs.add_flags(
        parser, "--teacher", "the teacher's logits (rows, classes); needed unless --alpha 1"
    )
    inputs.add_row_flags(parser)
    classes.add_flags(parser)
    reading.add_flags(parser)
    group = parser.add_argument_group("loss")
    group.add_argument(
        "--alpha",
        type=float,
        default=ALPHA,
        metavar="X",
        help="weight of hard, in [0, 1] (default: %(default)s)",
    )
    group.add_argument(
        "--tau", type=float, default=4.0, metavar="X", help="temperature, > 0 (default: 4.0)"
    )
    fields = {name: training.FIELDS[name] for name in ("divergence", "beta")}
    training.add_fields(group, fields)
    group = parser.add_argument_group("output")
    group.add_argument(
        "--per-row", action="store_true", help="also print each row's loss, hard and soft"
    )
    group.add_argument(
        "--json",
        action="store_true",
        help='print JSON, in which NaN is null and an infinite loss is "Infinity"',
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print the mean loss, its parts, and on request those of each row."""
    reader = reading.Reader(args)
    where = f"--student {args.student}"
    student_table = reader.matrix(args.student, "--student")
    inputs.refuse_two_alphas(args, "alpha", ALPHA)
    weight, alphas = inputs.read_weights_and_alphas(args, reader)
    alpha = args.alpha if alphas is None else alphas
    if args.teacher is None and alphas is None and alpha != 1:
        raise ValueError("--teacher is missing, expected it unless --alpha is 1")
    if args.labels is None and alphas is None and alpha != 0:
        raise ValueError("--labels is missing, expected it unless --alpha is 0")
    teachers = _teachers(args, reader, student_table) if args.teacher else []
    given = reader.labels(args.labels, "--labels") if args.labels else None
    reader.finish()

    names = classes.find_classes(args, given, [student_table, *teachers])
    student, *arrays = (
        frame_array(place, table, matching_columns(inputs.names_of(table), names))
        for place, table in zip(
            [where, *(f"--teacher {file}" for file in args.teacher or ())],
            [student_table, *teachers],
            strict=True,
        )
    )
    warn_of_probabilities(student, where)
    with errors.naming(classes.where(args), "labels"):
        codes = classes.indices(given, names, len(student), weight)
    labels = None if given is None else codes
    if given is not None and len(given.shape) == 2:
        labels = as_labels("labels", given, matching_columns(inputs.names_of(given), names))
    teacher = None
    for file, array in zip(args.teacher or (), arrays, strict=True):
        warn_of_probabilities(array, f"--teacher {file}")
        warn_of_misfit(f"--teacher {file}", array, codes, np.flatnonzero(codes != PADDING))
    if arrays:
        teacher = arrays[0]
        if len(arrays) > 1 or args.teacher_weights is not None:
            teacher = ensemble_logits(arrays, args.teacher_weights, tau=args.tau)

    loss = {"tau": args.tau, "divergence": args.divergence, "beta": args.beta}
    options: dict[str, Any] = {"alpha": alpha, "sample_weight": weight, **loss}
    mean = kd_loss_parts(student, teacher, labels, **options)
    result: dict[str, Any] = {**mean._asdict(), "rows": classes.count(codes)}
    each_row: dict[str, NDArray[Any]] = {}
    if args.per_row:
        each = kd_loss_parts(student, teacher, labels, **options, reduction="none")
        each_row = {name: np.asarray(values) for name, values in each._asdict().items()}

    if args.json:
        settings = {"alpha": args.alpha if alphas is None else args.alpha_column, **loss}
        print(to_json(result | settings | ({"per_row": each_row} if each_row else {})), end="")
        return
    for name in ("loss", "hard", "soft"):
        print(f"{name}  {result[name]!r}")
    print("rows ", classes.describe(codes, student.shape[1]))
    if each_row:
        ids = reader.ids or range(len(student))
        print(f"\n{args.id_column or 'row'}\t" + "\t".join(each_row))
        columns = [values.tolist() for values in each_row.values()]
        for row, values in zip(ids, zip(*columns, strict=True), strict=True):
            print(row, *map(repr, values), sep="\t")


def _teachers(args: argparse.Namespace, reader: reading.Reader, student: Any) -> list[Any]:
    """The teachers' logits, with the student's shape and its order of columns."""
    where = f"--student {args.student}"
    teachers = inputs.read_teachers(reader, args.teacher, "--teacher", args)
    for file, teacher in zip(args.teacher, teachers, strict=True):
        if teacher.shape != student.shape:
            raise ValueError(
                f"--teacher {file} has shape {teacher.shape}, expected {student.shape}, the shape "
                f"of {where}"
            )
    return [
        inputs.in_order_of(teacher, f"--teacher {file}", student, where)
        for file, teacher in zip(args.teacher, teachers, strict=True)
    ]


def warn_of_probabilities(logits: NDArray[Any], name: str) -> None:
    """Warn if logits look like probabilities."""
    if look_like_probabilities(logits[:128].astype(np.float64)):
        warnings.warn(
            f"{name} looks like probabilities; give logits, or the logarithms of the "
            "probabilities, which kdloss.logits_from_probs gives",
            stacklevel=2,
        )
