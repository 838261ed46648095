"""Time every peer on one batch, after checking that it computes the same thing."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .data import ALPHA, TAU, Array, Batch, batches
from .peers import HARD_LOSS_ALONE, Bind, Bound, numpy_
from .timing import Call, Times, interleave

MODES = ("loss", "loss and gradient")

# A peer whose loss or gradient is further off than this computes something else. The least
# accurate on ordinary rows, long float32 sums, are within 1e-4.
AGREEMENT = 1e-3

# Names that are no peers. kdloss on other rows than the peers' ordinary ones:
KDLOSS_ROWS = {"kdloss near the teacher": "near", "kdloss far from it": "far"}
# ... and the pace of the memory itself, reading two arrays and writing one:
PACE = ("numpy.add", "torch.add")


class Result(NamedTuple):
    """One line of the outcome: who, on what, how long."""

    shape: tuple[int, int]
    dtype: str
    mode: str
    name: str
    times: Times

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**self._asdict(), "times": self.times._asdict()}


def measure(
    shape: tuple[int, int], dtype: str, peers: Mapping[str, Bind], budget: float
) -> tuple[list[Result], dict[str, str]]:
    """Time all peers at one shape and type; return the results, and who is left out and why."""
    by_rows = batches(shape, dtype)
    ordinary = by_rows["ordinary"]
    exact = {True: _reference(ordinary, 1.0), False: _reference(ordinary, ALPHA)}
    bound: dict[str, Bound] = {}
    left_out: dict[str, str] = {}
    for name, bind in peers.items():
        try:
            candidate = _bind(bind, ordinary, ALPHA)
            _check(candidate, *exact[name in HARD_LOSS_ALONE])
        # Whatever a peer stumbles over at this shape is reported; the others go on.
        except Exception as error:
            left_out[name] = f"{type(error).__name__}: {error}".splitlines()[0]
        else:
            bound[name] = candidate
    del exact
    if "kdloss" in bound:
        for name, kind in KDLOSS_ROWS.items():
            bound[name] = _bind(peers["kdloss"], by_rows[kind], ALPHA)
    pace = _pace(ordinary, with_torch="torch" in bound)

    results = []
    for mode in MODES:
        calls: dict[str, Call] = {
            name: one.loss if mode == "loss" else one.loss_and_grad for name, one in bound.items()
        }
        times = interleave(calls | pace, budget)
        results += [Result(shape, dtype, mode, name, time) for name, time in times.items()]
    return results, left_out


def small_call(kdloss: Bind, budget: float) -> dict[str, float]:
    """Compare kdloss's call at (1, 10), float32, with numpy.add of the same arrays.

    Both are less the time of an empty call, which is what the timing itself costs.
    """
    batch = batches((1, 10), "float32")["ordinary"]
    calls: dict[str, Call] = {
        "kdloss": _bind(kdloss, batch, ALPHA).loss_and_grad,
        "numpy.add": _pace(batch, with_torch=False)["numpy.add"],
        "empty": lambda: None,
    }
    medians = {name: times.median for name, times in interleave(calls, budget).items()}
    own, add = (medians[name] - medians["empty"] for name in ("kdloss", "numpy.add"))
    return {"kdloss": own, "numpy.add": add, "ratio": own / add}


def _bind(bind: Bind, batch: Batch, alpha: float) -> Bound:
    return bind(batch.student, batch.teacher, batch.labels, alpha, TAU, batch.out)


def _reference(batch: Batch, alpha: float) -> tuple[float, Array]:
    """The textbook in float64, accurate enough on ordinary rows."""
    student, teacher = batch.student.astype(float), batch.teacher.astype(float)
    out = np.empty_like(student)
    loss, grad = numpy_()(student, teacher, batch.labels, alpha, TAU, out).loss_and_grad()
    return float(loss), np.asarray(grad)


def _check(candidate: Bound, loss: float, grad: Array) -> None:
    got_loss, got_grad = candidate.loss_and_grad()
    errors = {
        "loss": abs(float(candidate.loss()) / loss - 1),
        "loss with gradient": abs(float(got_loss) / loss - 1),
        "gradient": float(np.abs(np.asarray(got_grad) - grad).max() / np.abs(grad).max()),
    }
    for what, error in errors.items():
        if not error < AGREEMENT:
            raise ArithmeticError(f"its {what} is off by {error:.1e}")


def _pace(batch: Batch, with_torch: bool) -> dict[str, Call]:
    student, teacher, _, out = batch
    pace: dict[str, Call] = {"numpy.add": lambda: np.add(student, teacher, out=out)}
    if with_torch:
        import torch

        s, t, o = (torch.from_numpy(array) for array in (student, teacher, out))
        pace["torch.add"] = lambda: torch.add(s, t, out=o)
    return pace
