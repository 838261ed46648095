"""`kdloss tune`: alpha and tau chosen together, on validation rows."""

import argparse
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import plots
from ..trainer.settings import SOLVERS
from . import baseline, console, errors, inputs, reading, training
from .output import naming_out, new_folder, to_json

RESULTS, PICTURE = "results.json", "tune.png"
METRICS = {  # name for people, and whether lower is better
    "nll": ("NLL (nats)", True),
    "brier": ("Brier score", True),
    "accuracy": ("accuracy", False),
}
L2 = 1e-3
ALPHAS = "0.1,0.3,0.5,0.7,0.9"
FEW = 50  # with fewer labelled validation rows, the standard error of an accuracy is several %


def add_parser(commands: Any) -> None:
    """Describe the command's arguments."""
    parser = commands.add_parser(
        "tune",
        **console.help_page(
            "choose alpha and tau together, on validation rows",
            "Train a student for each pair of --alphas and --taus and for each seed, and compare "
            "the pairs by --metric on the labelled validation rows. (Not by the loss, whose scale "
            "changes with alpha and tau.) The best pair is compared with a baseline: a student of "
            f"the labels alone, without the teacher. Writes {RESULTS} and {PICTURE}, and prints "
            "the best pair as a command to run. With --alpha-column, which gives each row its own "
            "alpha, only tau is chosen.",
            reading.FILE_HELP,
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
        "--metric",
        choices=tuple(METRICS),
        default="nll",
        help="the validation score that decides (default: %(default)s)",
    )
    grid.add_argument(
        "--seeds",
        type=int,
        default=3,
        metavar="N",
        help="trainings per pair, each with its own split; their seeds begin with --seed "
        "(default: %(default)s)",
    )
    training.add_setting_flags(
        parser,
        without=("alpha", "tau"),
        chosen={
            "solver": "lbfgs, but sgd if --epochs or a setting of sgd is given",
            "l2": f"{L2:g} with lbfgs, 0 with sgd",
        },
    )
    parser.set_defaults(run=run)


def choose_solver(args: argparse.Namespace) -> None:
    """Set the solver and l2; with lbfgs l2 is > 0, so that separable rows have an optimum."""
    if args.solver is None:
        names = ("epochs", *SOLVERS["sgd"].own)
        given = any(getattr(args, name) != training.FIELDS[name] for name in names)
        args.solver = "sgd" if given or not _has_scipy() else "lbfgs"
    if args.l2 is None:
        args.l2 = L2 if args.solver == "lbfgs" else 0.0


def _has_scipy() -> bool:
    try:
        import scipy.optimize  # type: ignore[import-untyped]  # noqa: F401
    except ImportError:
        console.note(
            "SciPy is not installed, so the students are trained by sgd; for lbfgs, which needs no "
            "learning rate: pip install 'kdloss[lbfgs]'"
        )
        return False
    return True


def run(args: argparse.Namespace) -> None:
    """Train over the grid, write the scores and a picture, and print the best pair's command."""
    choose_solver(args)
    if args.seeds < 1:
        raise ValueError(f"--seeds is {args.seeds}, expected at least 1")
    if args.labels is None and args.label_column is None:
        raise ValueError("--labels is missing, expected it or --label-column in --features")
    inputs.refuse_two_alphas(args, "alphas", _numbers(ALPHAS))
    # Where each row has its own alpha, the setting is not used.
    alphas = [training.FIELDS["alpha"]]
    if args.alpha_column is None:
        alphas = [alpha for alpha in args.alphas if alpha != 1]  # 1 is the baseline
    if not alphas:
        raise ValueError("--alphas is 1, the baseline, expected others to compare with it")
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
        scores, alone = _scores(args, grid, data)
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
        # The gains are paired: a seed has the same validation rows with and without the teacher.
        gain = (alone - scores[i, j]) * (1 if less_is_better else -1)
        results = {
            "metric": args.metric,
            "best": best,
            "seeds": args.seeds,
            "cells": cells,
            "baseline": {"mean": alone.mean(), "spread": console.spread(alone), "scores": alone},
            "gain": {"mean": gain.mean(), "spread": console.spread(gain)},
        }
        text = to_json(results | training.origin(args, data))
        with naming_out(args.out, RESULTS, len(text)):
            (folder.partial / RESULTS).write_text(text)
        training.save_picture(
            folder.partial / PICTURE,
            lambda: plots.heat_map(names, args.taus, mean, spread, best=(i, j), title=title),
        )

    print(title)
    print(f"{'alpha':>7}" + "".join(f"{f'tau {tau:g}':>18}" for tau in args.taus))
    for a, alpha in enumerate(names):
        row = [console.plus_minus(m, s, 4) for m, s in zip(mean[a], spread[a], strict=True)]
        print(f"{alpha:>7}" + "".join(f"{text:>18}" for text in row))
    text = console.plus_minus(alone.mean(), float(console.spread(alone)), 4)
    print(f"{'1':>7}{text:>18}  the labels alone, without the teacher, at any tau")
    if np.isnan(mean).any():
        print("nan: the training diverged")
    print("best:", ", ".join(f"{name} {value:g}" for name, value in best.items()))
    print(baseline.verdict(gain, name))
    print("next:", training.command(args, out="run/", **best))
    for axis, values, at in (("alpha", alphas, i), ("tau", args.taus, j)):
        if args.alpha_column is None or axis == "tau":
            _note_edge(axis, values, at)
    labelled = round(args.validation * int((training.row_classes(args, data) >= 0).sum()))
    if labelled < FEW:
        console.note(
            f"about {labelled} labelled validation rows per seed are too few to compare settings "
            "reliably; a larger --validation or more --seeds help"
        )


def _note_edge(axis: str, values: list[float], at: int) -> None:
    """Print a note if the best value is the smallest or the largest of several."""
    value = values[at]
    if len(values) == 1 or 0 < at < len(values) - 1 or (axis == "alpha" and value == 0):
        return
    side = "smallest" if at == 0 else "largest"
    if axis == "tau":
        more = [value / 4, value / 2] if at == 0 else [2 * value, 4 * value]
    else:
        more = [0, value / 2] if at == 0 else [(1 + value) / 2]
    console.note(
        f"the best {axis}, {value:g}, is the {side} of --{axis}s: a better one may lie outside; "
        f"add {' and '.join(f'{x:g}' for x in more)}"
    )


def _scores(
    args: argparse.Namespace,
    grid: dict[tuple[int, int, int], dict[str, Any]],
    data: training.Data,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The metric for each alpha, tau and seed, and for the baseline; NaN after a divergence."""
    shape = tuple(1 + max(axis) for axis in zip(*grid, strict=True))
    scores, alone = np.full(shape, np.nan), np.full(args.seeds, np.nan)
    score, named = f"val_{args.metric}", training.class_options(args, data)
    reason = "no validation row has a label"
    with (
        errors.each_kind_of_warning_once(),
        console.progress("training", len(grid) + args.seeds) as advance,
    ):
        for cell, settings in grid.items():
            student = training.new_student(args, **settings)
            try:
                training.train(student.fit, args, data, validation=args.validation, **named)
                scores[cell] = training.final_record(student)[score]
            except FloatingPointError as error:
                reason = str(error)
            advance(1)
        for k in range(args.seeds):
            labels_alone = baseline.train(args, data, seed=args.seed + k)
            if labels_alone is not None:
                alone[k] = training.final_record(labels_alone)[score]
            advance(1)
    if np.isnan(scores).any(axis=2).all():
        raise ValueError(f"no pair of alpha and tau has a score: {reason}")
    return scores, alone


def _numbers(text: str) -> list[float]:
    return sorted(set(inputs.numbers(text)))
