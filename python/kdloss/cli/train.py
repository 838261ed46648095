"""`kdloss train`: a linear student from files."""

import argparse
import shlex
from typing import Any

from .. import plots
from . import console, per_row, training
from .files import ARRAY_HELP, new_folder, to_json

STUDENT, HISTORY, SETTINGS, PICTURE = "student.npz", "history.json", "settings.json", "training.png"
SHOWN = ("loss", "accuracy", "nll", "brier", "ece")


def add_parser(commands: Any) -> None:
    """Describe the command's arguments."""
    parser = commands.add_parser(
        "train",
        **console.help_page(
            "train a linear student on files of yours",
            "Train a linear student on labels and on a teacher's logits. Leaves "
            f"{STUDENT}, {HISTORY} (a record per epoch; null for NaN), {SETTINGS} and {PICTURE}.",
            ARRAY_HELP,
            example="kdloss train --features X.npy --labels y.npy --teacher-logits T.npy \\\n"
            "    --out run/\n"
            "kdloss train --features X.npy --labels P.npy --sample-weight w.npy \\\n"
            "    --teacher-logits T1.npy T2.npy --teacher-weights 2,1 --alpha-column a.npy \\\n"
            "    --out run/",
        ),
    )
    training.add_file_flags(parser, required=False)
    training.add_setting_flags(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Train, and leave the student and how it came about in a folder."""
    student = training.new_student(args)
    per_row.refuse_two_alphas(args, "alpha", training.FIELDS["alpha"])
    for name, alpha in (("labels", 0), ("teacher_logits", 1)):
        if getattr(args, name) is None and args.alpha_column is None and args.alpha != alpha:
            raise ValueError(f"--{name.replace('_', '-')} is needed unless --alpha is {alpha}")
    data = training.read_data(args)
    with new_folder(args.out, (STUDENT, HISTORY, SETTINGS, PICTURE)) as folder:
        with console.progress("epoch", args.epochs) as advance:
            training.fit(
                student,
                args,
                data,
                validation=args.validation or None,
                progress=lambda record: advance(1),
            )
        student.save(folder / STUDENT)
        (folder / HISTORY).write_text(to_json(student.history))
        (folder / SETTINGS).write_text(to_json(training.origin(args, data)))
        training.save_picture(folder / PICTURE, lambda: plots.training_curves(student.history))

    record = training.final_record(student)
    print(f"{args.out}: the student of epoch {record['epoch']}, out of {len(student.history)}")
    print("            " + "".join(f"{name:>11}" for name in SHOWN))
    for prefix, rows in (("", "training"), ("val_", "validation")):
        if prefix + SHOWN[0] in record:
            print(f"{rows:12}" + "".join(f"{record[prefix + name]:11.4g}" for name in SHOWN))
    predict = ["--student", args.out, "--features", args.features, "--out", "predictions.npy"]
    print("next: kdloss predict", shlex.join(predict))
