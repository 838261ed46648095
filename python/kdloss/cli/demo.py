"""`kdloss demo`: the comparison on handwritten digits, as a table and a picture."""

import argparse
from typing import Any

from .. import plots
from ..comparison import Linear, compare
from . import console
from .compare import print_table
from .digits import CLASSES, HELD_OUT, LABELLED, POOL_ROWS, TEST_ROWS, Digits, import_all
from .output import new_file

ALPHA, TAU = 0.5, 4.0  # the package's defaults


def add_parser(commands: Any) -> None:
    """Describe the command's arguments."""
    parser = commands.add_parser(
        "demo",
        **console.help_page(
            "see what a teacher is worth, on handwritten digits",
            "Train linear students on handwritten digits with few labels: on the labels alone, "
            "with a teacher (a neural network trained on all labels) on the same rows, and with "
            "the teacher on many more rows. For comparison, also train on all labels, and score "
            "the teacher itself. Prints scores on held-out rows and draws a picture. "
            "`kdloss compare` does the same for your files.",
            "Needs the extra: pip install 'kdloss[demo]'.",
            example="kdloss demo --labels 50 --seeds 5 --out demo.png",
        ),
    )
    parser.add_argument(
        "--labels",
        type=int,
        default=LABELLED,
        metavar="N",
        help="labelled rows (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=5,
        metavar="N",
        help="repetitions, each with its own rows and teacher (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        default="demo.png",
        metavar="FILE",
        help="the picture, a .png, .pdf or .svg file (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Repeat the comparison for each seed; draw the picture and print the table."""
    if not CLASSES <= args.labels <= POOL_ROWS - CLASSES:
        bounds = f"[{CLASSES}, {POOL_ROWS - CLASSES}]"
        raise ValueError(f"--labels is {args.labels}, expected a number in {bounds}")
    if args.seeds < 1:
        raise ValueError(f"--seeds is {args.seeds}, expected at least 1")
    with new_file(args.out, (".png", ".pdf", ".svg")) as partial:
        import_all()
        digits, student = Digits(), Linear()
        with console.progress("training", 4 * args.seeds * student.units) as advance:
            found = compare(
                digits.X,
                digits.labels,
                digits.teach,
                student=student,
                labelled=args.labels,
                held_out=HELD_OUT,
                seeds=args.seeds,
                alpha=ALPHA,
                tau=TAU,
                progress=lambda: advance(1),
            )
        title = (
            f"Handwritten digits, {TEST_ROWS} held-out rows: a linear student with {args.labels} "
            "labels, and what a teacher adds"
        )
        models = {found.names[way]: repetitions for way, repetitions in found.models.items()}
        plots.comparison(models, title).savefig(partial)

    print_table(found)
    print(
        f"Seeds: {args.seeds}; mean ± standard deviation, on {TEST_ROWS} held-out rows each.\n"
        f"Every student: {found.budget}.\n"
        f"With the teacher: alpha {ALPHA:g}, tau {TAU:g}; the rows beyond the {args.labels} "
        "labelled ones\nhave the teacher's logits alone.\n"
        f"{found.verdict().sentence}\n"
        f"Picture: {args.out}"
    )
