"""`kdloss predict`: the probabilities or the classes that a trained student predicts."""

import argparse
import os
from pathlib import Path
from typing import Any

from ..trainer import LinearStudent
from . import classes, console, errors, reading
from .checkpoints import BEST, STUDENT
from .output import naming_out, new_file, write_array

SUFFIXES = (".npy", ".csv", ".tsv", ".parquet")


def add_parser(commands: Any) -> None:
    """Describe the command's arguments."""
    parser = commands.add_parser(
        "predict",
        **console.help_page(
            "probabilities or classes from a trained student",
            "Write the probabilities (rows, classes) that a student predicts, or with --labels the "
            "most probable class of each row. Tables have a header with the classes' names, and "
            "the ids of --id-column; .npy files have only the numbers. With --true-labels, or "
            "--label-column in --features, also print the student's scores.",
            reading.FILE_HELP,
            example="kdloss predict --student run/ --features X.npy --out predictions.npy\n"
            "kdloss predict --student run/best.npz --features rows.csv --id-column id \\\n"
            "    --true-labels labels.csv --labels --out classes.csv",
        ),
    )
    group = parser.add_argument_group("files")
    group.add_argument(
        "--student",
        metavar="RUN",
        required=True,
        help=f"a student's file, such as a run's {BEST}; or a run's folder, for its {STUDENT}",
    )
    group.add_argument("--features", metavar="FILE", required=True, help="numbers (rows, features)")
    group.add_argument(
        "--true-labels", metavar="FILE", help="each row's label, to score the student"
    )
    group.add_argument(
        "--out",
        metavar="FILE",
        required=True,
        help=f"where to write: a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file",
    )
    group.add_argument(
        "--labels", action="store_true", help="write classes (rows,) instead of probabilities"
    )
    reading.add_flags(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Predict, write one array or table, and print scores where there are labels."""
    student = _load(args.student)
    reader = reading.Reader(args)
    where = f"--features {args.features}"
    features, labels = reader.features(
        args.features,
        labels_elsewhere=args.true_labels is not None,
        known=student.feature_names_in_,
    )
    if args.true_labels is not None:
        labels = reader.labels(args.true_labels, "--true-labels")
    reader.finish()
    if features.shape[1] != len(student.weights) and student.feature_names_in_ is None:
        raise ValueError(
            f"{where} has shape {features.shape}, expected (rows, {len(student.weights)}), as "
            f"--student {args.student} was trained on"
        )
    for flag, file in (("--features", args.features), ("--true-labels", args.true_labels)):
        if file is not None and os.path.realpath(args.out) == os.path.realpath(file):
            raise ValueError(f"--out {args.out} is the file of {flag}, expected another one")
    with new_file(args.out, SUFFIXES) as partial:
        with errors.naming(where):
            result = (student.predict if args.labels else student.predict_proba)(features)
        names = ["class"] if args.labels else [str(name) for name in student.classes_]
        with naming_out(args.out, size=result.nbytes):
            write_array(partial, result, names=names, ids=reader.ids, id_name=args.id_column)
        if labels is not None:
            with errors.naming(f"--true-labels {args.true_labels or args.features}"):
                scores = student.evaluate(features, labels)
                codes = classes.indices(labels, student.classes_, len(result))
    print(f"{args.out}: {'classes' if args.labels else 'probabilities'}, shape {result.shape}")
    if labels is not None:
        print("rows     ", classes.describe(codes, len(student.classes_)))
        for name, score in scores.items():
            print(f"{name:9} {score:.4g}")


def _load(file: str) -> LinearStudent:
    path = Path(file)
    if path.is_dir():
        path /= STUDENT
    if not path.is_file():
        raise ValueError(f"--student {file}: no such file: {path}")
    try:
        return LinearStudent.load(path)
    except Exception as error:  # NumPy raises nearly anything for a damaged file
        raise reading.unreadable(f"--student {file}", error) from error
