"""An objective's time for boosters, beside a careful NumPy objective's and beside a boosting round.

``python -m benchmarks.boosting`` from the root of the source tree. All calls are interleaved in one
process; the share of a round is measured inside a training of ten rounds on 28 features. A second
table has rounds of almost nothing but an objective: stumps on one feature, by the library's own
objective, by kdloss, and by constant gradients.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from .data import ALPHA, TAU
from .threads import fix_threads
from .timing import interleave

FEATURES = 28


def careful_numpy(teacher: Any, factor: float) -> Callable[..., Any]:
    """What an expert writes: shifted logits, and the teacher's softmax once for all rounds."""
    import numpy as np

    def softmax(z: Any) -> Any:
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        return p

    q = softmax(teacher / TAU)

    def objective(labels: Any, margins: Any) -> tuple[Any, Any]:
        p1, p = softmax(margins), softmax(margins / TAU)
        hess = factor * (ALPHA * p1 * (1 - p1) + (1 - ALPHA) * p * (1 - p))
        p1[np.arange(len(labels)), labels.astype(np.int64)] -= 1
        grad = ALPHA * p1 + (1 - ALPHA) * TAU * (p - q)
        return grad, hess

    return objective


def rows_of(shape: tuple[int, int], threads: int, budget: float) -> list[str]:
    """Measure one shape; return the lines of the table."""
    import lightgbm
    import numpy as np
    import xgboost

    import kdloss.lightgbm
    import kdloss.xgboost

    rows, classes = shape
    rng = np.random.default_rng(shape)
    X = rng.normal(size=(rows, FEATURES)).astype(np.float32)
    teacher = rng.normal(size=(rows, classes)) * 3
    y = teacher.argmax(axis=1).astype(np.float32)
    margins = rng.normal(size=shape)
    own = {
        "XGBoost": (margins.astype(np.float32), 2.0, kdloss.xgboost.kd_objective),
        "LightGBM": (
            np.asfortranarray(margins),
            classes / (classes - 1),
            kdloss.lightgbm.kd_objective,
        ),
    }
    calls: dict[str, Callable[[], Any]] = {}
    for name, (z, factor, make) in own.items():
        t = teacher.astype(z.dtype, order="A")
        ours = make(t, alpha=ALPHA, tau=TAU, num_threads=threads)
        theirs = careful_numpy(np.asarray(t, order="F" if name == "LightGBM" else "C"), factor)
        for found, expected in zip(ours(y, z), theirs(y, z), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
        calls[name] = lambda f=ours, z=z: f(y, z)
        calls[f"{name}, NumPy"] = lambda f=theirs, z=z: f(y, z)
    times = {name: call.median for name, call in interleave(calls, budget).items()}
    shares = {
        "XGBoost": share_of_training(
            own["XGBoost"][2](
                teacher.astype(np.float32), alpha=ALPHA, tau=TAU, num_threads=threads
            ),
            lambda objective, rounds: xgboost.train(
                {"num_class": classes, "nthread": threads}, xgboost.DMatrix(X, y), rounds,
                obj=objective,
            ),
        ),
        "LightGBM": share_of_training(
            own["LightGBM"][2](teacher, alpha=ALPHA, tau=TAU, num_threads=threads),
            lambda objective, rounds: lightgbm.train(
                {"objective": objective, "num_class": classes, "num_threads": threads}
                | {"metric": "None", "verbose": -1},
                lightgbm.Dataset(X, y),
                rounds,
            ),
        ),
    }  # fmt: skip
    return [
        f"| {name}, {rows} x {classes} | {times[name] * 1e3:.2f} | "
        f"{times[f'{name}, NumPy'] * 1e3:.1f} | {times[name] / times[f'{name}, NumPy']:.3f} | "
        f"{1e3 * whole:.0f} | {100 * inside / whole:.2f} % |"
        for name, (inside, whole) in shares.items()
    ]


def stumps_of(shape: tuple[int, int], threads: int) -> list[str]:
    """Measure rounds of stumps; return the lines of the second table."""
    import lightgbm
    import numpy as np
    import xgboost

    import kdloss.lightgbm
    import kdloss.xgboost

    rows, classes = shape
    rng = np.random.default_rng(shape)
    X = rng.integers(0, 4, size=(rows, 1)).astype(np.float32)
    teacher = rng.normal(size=(rows, classes)) * 3
    y = teacher.argmax(axis=1).astype(np.float32)
    of_xgboost = {"objective": "multi:softprob", "num_class": classes, "nthread": threads}
    of_xgboost |= {"max_depth": 1, "base_score": 0.5, "disable_default_eval_metric": 1}
    of_lightgbm = {"num_class": classes, "num_threads": threads, "num_leaves": 2}
    of_lightgbm |= {"metric": "None", "verbose": -1}

    def constant(order: Any) -> Callable[..., Any]:
        grad, hess = np.full(shape, 0.1, np.float32, order), np.ones(shape, np.float32, order)
        return lambda margins, data: (grad, hess)

    def xgboost_round(objective: Any) -> float:
        class Clock(xgboost.callback.TrainingCallback):
            def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
                times.append(time.perf_counter())
                return False

        times: list[float] = []
        data = xgboost.DMatrix(X, y)
        xgboost.train(of_xgboost, data, 15, obj=objective, callbacks=[Clock()])
        return statistics.median(np.diff(times)[2:])

    def lightgbm_round(objective: Any) -> float:
        times: list[float] = []
        lightgbm.train(
            of_lightgbm | {"objective": objective}, lightgbm.Dataset(X, y), 15,
            callbacks=[lambda environment: times.append(time.perf_counter())],
        )  # fmt: skip
        return statistics.median(np.diff(times)[2:])

    options = {"alpha": ALPHA, "tau": TAU, "num_threads": threads}
    xgboost_objectives = (
        None, kdloss.xgboost.kd_objective(teacher.astype(np.float32), **options), constant("C"),
    )  # fmt: skip
    lightgbm_objectives = (
        "multiclass", kdloss.lightgbm.kd_objective(teacher, **options), constant("F"),
    )  # fmt: skip
    lines = []
    for name, round_of, objectives in (
        ("XGBoost", xgboost_round, xgboost_objectives),
        ("LightGBM", lightgbm_round, lightgbm_objectives),
    ):
        trials = [[round_of(objective) for objective in objectives] for _ in range(3)]
        own, ours, none = (1e3 * statistics.median(times) for times in zip(*trials, strict=True))
        lines.append(f"| {name}, {rows} x {classes} | {own:.1f} | {ours:.1f} | {none:.1f} |")
    return lines


def share_of_training(
    objective: Callable[..., Any], train: Callable[[Callable[..., Any], int], Any]
) -> tuple[float, float]:
    """Seconds of the objective in a round, and of the round: medians, without the first rounds."""
    starts, inside = [], []

    def timed(margins: Any, data: Any) -> Any:
        starts.append(time.perf_counter())
        result = objective(margins, data)
        inside.append(time.perf_counter() - starts[-1])
        return result

    train(timed, 10)
    rounds = [later - start for start, later in itertools.pairwise(starts)]
    return statistics.median(inside[2:]), statistics.median(rounds[2:])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table of medians and ratios."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.boosting", description=__doc__)
    parser.add_argument("--shapes", default="100000x10,20000x100", help="(100000x10,20000x100)")
    parser.add_argument("--threads", type=int, default=2, help="threads (2)")
    parser.add_argument("--budget", type=float, default=8.0, help="seconds for each shape (8)")
    options = parser.parse_args(arguments)
    fix_threads(options.threads)
    print("| objective | kdloss, ms | NumPy, ms | ratio | round, ms | share of a round |")
    print("|---|---:|---:|---:|---:|---:|")
    shapes = [tuple(map(int, shape.split("x"))) for shape in options.shapes.split(",")]
    for rows, classes in shapes:
        for line in rows_of((rows, classes), options.threads, options.budget):
            print(line)
    print("\n| a round of stumps, ms | own objective | kdloss | constant gradients |")
    print("|---|---:|---:|---:|")
    for rows, classes in shapes:
        for line in stumps_of((rows, classes), options.threads):
            print(line)


if __name__ == "__main__":
    main()
