"""`kdloss train`: a linear student from files."""

import argparse
import shlex
from pathlib import Path
from typing import Any

from .. import plots
from ..trainer import LinearStudent, Record
from . import console, inputs, reading, training
from .checkpoints import BEST, FILES, HISTORY, PICTURE, SETTINGS, STUDENT, Checkpoints, earlier_run
from .output import new_folder

SHOWN = ("loss", "accuracy", "nll", "brier", "ece")


def add_parser(commands: Any) -> None:
    """Describe the command's arguments."""
    parser = commands.add_parser(
        "train",
        **console.help_page(
            "train a linear student on your files",
            "Train a linear student on labels and on a teacher's logits. Writes to --out: "
            f"{STUDENT} (the student of the last epoch, or of the best with --patience), {BEST} "
            "(the student of the epoch with the lowest validation loss; without --patience), "
            f"{HISTORY} (the scores of each epoch; null for NaN), {SETTINGS} and {PICTURE}.",
            "All except the picture are rewritten every few seconds during training. After Ctrl-C "
            "they hold the last finished epoch, and the same command with --resume continues from "
            "there.",
            reading.FILE_HELP,
            example="kdloss train --features X.npy --labels y.npy --teacher-logits T.npy \\\n"
            "    --out run/\n"
            "kdloss train --features rows.csv --label-column species --id-column id \\\n"
            "    --teacher-logits teacher.parquet --teacher-probabilities --out run/\n"
            "kdloss train --features X.npy --labels P.npy --sample-weight w.npy \\\n"
            "    --teacher-logits T1.npy T2.npy --teacher-weights 2,1 --alpha-column a.npy \\\n"
            "    --out run/",
        ),
    )
    training.add_file_flags(parser, required=False)
    training.add_setting_flags(parser).add_argument(
        "--resume",
        action="store_true",
        help="continue the run in --out, with the same files and settings; --epochs, which counts "
        "from the start, may be larger",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Train, and write the student, its history and its settings to a folder."""
    student = training.new_student(args)
    args.epochs = student.settings.epochs
    inputs.refuse_two_alphas(args, "alpha", training.FIELDS["alpha"])
    given = {
        "labels": args.labels is not None or args.label_column is not None,
        "teacher_logits": args.teacher_logits is not None,
    }
    for name, alpha in (("labels", 0), ("teacher_logits", 1)):
        if not given[name] and args.alpha_column is None and args.alpha != alpha:
            flag = console.flag(name)
            raise ValueError(f"{flag} is missing, expected it unless --alpha is {alpha}")
    data = training.read_data(args)
    origin = training.origin(args, data)
    if args.resume:
        student = earlier_run(args, origin)
    with new_folder(args.out, FILES) as folder:
        checkpoints = Checkpoints(folder, student, origin, resumed=args.resume)
        options: dict[str, Any] = {"validation": args.validation or None}
        if args.resume:
            options["epochs"] = args.epochs
        else:
            options |= training.class_options(args, data)
        with (
            checkpoints.kept_after_a_stop(args.epochs),
            console.progress("epoch", args.epochs, done=len(student.history)) as advance,
        ):

            def progress(record: Record) -> None:
                advance(1)
                checkpoints.add(record)

            method = student.resume if args.resume else student.fit
            training.train(method, args, data, progress=progress, **options)
            checkpoints.write()
        training.save_picture(
            folder.partial / PICTURE, lambda: plots.training_curves(student.history)
        )
    _report(args, student)


def _report(args: argparse.Namespace, student: LinearStudent) -> None:
    record = training.final_record(student)
    print(f"{args.out}: the student of epoch {record['epoch']}, out of {len(student.history)}")
    print("            " + "".join(f"{name:>11}" for name in SHOWN))
    for prefix, rows in (("", "training"), ("val_", "validation")):
        if prefix + SHOWN[0] in record:
            print(f"{rows:12}" + "".join(f"{record[prefix + name]:11.4g}" for name in SHOWN))
    best = Path(args.out, BEST)
    if best.exists() and record["best_epoch"] != record["epoch"]:
        loss = student.history[int(record["best_epoch"]) - 1]["val_loss"]
        print(
            f"{best}: the student of epoch {record['best_epoch']}, which has the lowest validation "
            f"loss, {loss:.4g}"
        )
    words = ["--student", args.out, "--features", args.features, *reading.flags(args)]
    print("next: kdloss predict", shlex.join([*words, "--out", "predictions.npy"]))
