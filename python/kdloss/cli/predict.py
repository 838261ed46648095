"""`kdloss predict`: the probabilities, or the classes, that a trained student gives to rows."""

import argparse
import os
from pathlib import Path
from typing import Any

from ..trainer import LinearStudent
from . import console
from .files import ARRAY_HELP, new_file, read_matrix, unreadable, write_array
from .train import STUDENT


def add_parser(commands: Any) -> None:
    """Describe the command's arguments."""
    parser = commands.add_parser(
        "predict",
        **console.help_page(
            "probabilities or classes from a trained student",
            "Write the probabilities (rows, classes) that a student gives, or with --labels the "
            "most probable class of each row.",
            ARRAY_HELP,
            example="kdloss predict --student run/ --features X.npy --out predictions.npy",
        ),
    )
    parser.add_argument(
        "--student", metavar="RUN", required=True, help=f"the folder of a run, or its {STUDENT}"
    )
    parser.add_argument(
        "--features", metavar="FILE", required=True, help="numbers (rows, features)"
    )
    parser.add_argument(
        "--labels", action="store_true", help="write classes (rows,) instead of probabilities"
    )
    parser.add_argument(
        "--out", metavar="FILE", required=True, help="where to write, a name in .npy or .csv"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Predict, and write one array."""
    path = Path(args.student)
    if path.is_dir():
        path /= STUDENT
    if not path.is_file():
        raise ValueError(f"--student {args.student}: there is no file {path}")
    try:
        student = LinearStudent.load(path)
    except Exception as error:  # as for arrays
        raise unreadable(f"--student {args.student}", error) from error
    features = read_matrix(args.features, "--features")
    if features.shape[1] != len(student.weights):
        raise ValueError(
            f"--features {args.features} has shape {features.shape}, but --student {args.student} "
            f"was trained on (rows, {len(student.weights)})"
        )
    if os.path.realpath(args.out) == os.path.realpath(args.features):
        raise ValueError(f"--out {args.out}: is the file of --features")
    with new_file(args.out, (".npy", ".csv")) as partial:
        result = student.predict(features) if args.labels else student.predict_proba(features)
        write_array(partial, result)
    print(f"{args.out}: {'classes' if args.labels else 'probabilities'}, shape {result.shape}")
