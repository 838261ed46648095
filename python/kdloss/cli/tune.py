"""`kdloss tune`: alpha and tau chosen together, on validation rows."""

import argparse
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import plots
from . import console, per_row, training
from .files import ARRAY_HELP, new_folder, to_json

RESULTS, PICTURE = "results.json", "tune.png"
METRICS = {  # what it is called, and whether less of it is better
    "nll": ("NLL (nats)", True),
    "brier": ("Brier score", True),
    "accuracy": ("accuracy", False),
}
ALPHAS = "0.1,0.3,0.5,0.7,0.9"
FEW = 50  # labelled validation rows, below which the standard error of an accuracy is several %


def add_parser(commands: Any) -> None:
    """Describe the command's arguments."""
    parser = commands.add_parser(
        "tune",
        **console.help_page(
            "choose alpha and tau together, on validation rows",
            "Train a student for each pair of --alphas and --taus and for each seed, and compare "
            "the pairs by --metric on the labelled validation rows; never by the loss, whose "
            f"scale changes with alpha and tau. Leaves {RESULTS} and {PICTURE}, and prints the "
            "best pair as a command to run. With --alpha-column, which gives each row its own "
            "alpha, tau is chosen alone.",
            ARRAY_HELP,
            example="kdloss tune --features X.npy --labels y.npy --teacher-logits T.npy \\\n"
            "    --alphas 0.1,0.5,0.9 --taus 1,2,4,8 --out tune/\n"
            "kdloss tune --features X.npy --labels y.npy --teacher-logits T1.npy T2.npy \\\n"
            "    --sample-weight w.npy --alpha-column a.npy --out tune/",
        ),
    )
    training.add_file_flags(parser, required=True)
    grid = parser.add_argument_group("grid")
    for name, default in (("alpha", ALPHAS), ("tau", "1,2,4,8")):
        grid.add_argument(
            f"--{name}s",
            type=_numbers,
            default=default,
            metavar="X,X,...",
            help=f"values of {name} (default: %(default)s)",
        )
    grid.add_argument(
        "--metric", choices=tuple(METRICS), default="nll", help="(default: %(default)s)"
    )
    grid.add_argument(
        "--seeds",
        type=int,
        default=3,
        metavar="N",
        help="trainings per pair, from --seed on, each with its own split (default: %(default)s)",
    )
    training.add_setting_flags(parser, without=("alpha", "tau"))
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Train over the grid; leave each score and a picture, and print the best pair's command."""
    if args.seeds < 1:
        raise ValueError(f"--seeds must be at least 1, not {args.seeds}")
    per_row.refuse_two_alphas(args, "alphas", _numbers(ALPHAS))
    # Where each row has its own alpha, the setting is not used.
    alphas = args.alphas if args.alpha_column is None else [training.FIELDS["alpha"]]
    grid: dict[tuple[int, int, int], dict[str, Any]] = {
        (i, j, k): {"alpha": alpha, "tau": tau, "seed": args.seed + k}
        for i, alpha in enumerate(alphas)
        for j, tau in enumerate(args.taus)
        for k in range(args.seeds)
    }
    for settings in grid.values():
        training.new_student(args, **settings)  # refuses a bad value before the files are read
    data = training.read_data(args)

    with new_folder(args.out, (RESULTS, PICTURE)) as folder:
        scores = _scores(args, grid, data)
        mean, spread = scores.mean(axis=2), console.spread(scores)
        name, less_is_better = METRICS[args.metric]
        better = "lower" if less_is_better else "higher"
        over = f"mean of {args.seeds} seeds ± standard deviation" if args.seeds > 1 else "one seed"
        title = f"validation {name}, {better} is better; {over}"
        i, j = map(int, divmod(np.nanargmin(mean if less_is_better else -mean), len(args.taus)))
        best = {"alpha": alphas[i], "tau": args.taus[j]}
        names = [f"{alpha:g}" for alpha in alphas]
        if args.alpha_column is not None:
            best, names = {"tau": best["tau"]}, ["column"]
        cells = [
            {
                **({} if args.alpha_column is not None else {"alpha": alphas[a]}),
                "tau": args.taus[t],
                "mean": mean[a, t],
                "spread": spread[a, t],
                "scores": scores[a, t],
            }
            for a, t in np.ndindex(mean.shape)
        ]
        results = {"metric": args.metric, "best": best, "seeds": args.seeds, "cells": cells}
        (folder / RESULTS).write_text(to_json(results | training.origin(args, data)))
        training.save_picture(
            folder / PICTURE,
            lambda: plots.heat_map(names, args.taus, mean, spread, best=(i, j), title=title),
        )

    print(title)
    print(f"{'alpha':>7}" + "".join(f"{f'tau {tau:g}':>18}" for tau in args.taus))
    for a, alpha in enumerate(names):
        row = [console.plus_minus(m, s, 4) for m, s in zip(mean[a], spread[a], strict=True)]
        print(f"{alpha:>7}" + "".join(f"{text:>18}" for text in row))
    if np.isnan(mean).any():
        print("nan: the training diverged")
    print("best:", ", ".join(f"{name} {value:g}" for name, value in best.items()))
    print("next:", training.command(args, out="run/", **best))
    labelled = round(args.validation * _count_labelled(data))
    if labelled < FEW:
        console.note(
            f"about {labelled} labelled validation rows per seed tell settings apart poorly; "
            "a larger --validation or more --seeds help"
        )


def _scores(
    args: argparse.Namespace,
    grid: dict[tuple[int, int, int], dict[str, Any]],
    data: training.Data,
) -> NDArray[np.float64]:
    """The metric for each alpha, tau and seed; NaN where the training diverged."""
    shape = tuple(1 + max(axis) for axis in zip(*grid, strict=True))
    scores = np.full(shape, np.nan)
    reason = "no validation row has a label"
    with console.progress("training", len(grid)) as advance:
        for cell, settings in grid.items():
            student = training.new_student(args, **settings)
            try:
                training.fit(student, args, data, validation=args.validation)
                scores[cell] = training.final_record(student)[f"val_{args.metric}"]
            except FloatingPointError as error:
                reason = str(error)
            advance(1)
    if np.isnan(scores).any(axis=2).all():
        raise ValueError(f"there is nothing to compare: {reason}")
    return scores


def _count_labelled(data: training.Data) -> int:
    labels = np.asarray(data.labels)
    labelled = labels >= 0 if labels.ndim == 1 else labels.any(axis=1)
    if data.sample_weight is not None:
        labelled = labelled & (data.sample_weight > 0)
    return int(np.count_nonzero(labelled))


def _numbers(text: str) -> list[float]:
    return sorted(set(per_row.numbers(text)))
