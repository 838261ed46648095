"""The settings of `LinearStudent`, checked, as plain values that can be written to files."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import numpy as np

from ..losses import Divergence

SCHEDULES: dict[str, Callable[[float], float]] = {
    # The factor of learning_rate after the fraction t of all epochs, 0 <= t < 1.
    "constant": lambda t: 1.0,
    "cosine": lambda t: (1 + math.cos(math.pi * t)) / 2,
    "step": lambda t: 1.0 if t < 0.5 else 0.1 if t < 0.75 else 0.01,
}


class Solver(NamedTuple):
    """A solver's default number of epochs, and the settings that only it has."""

    epochs: int
    own: tuple[str, ...]


SOLVERS = {
    "sgd": Solver(50, ("learning_rate", "batch_size", "schedule", "momentum", "shuffle")),
    "lbfgs": Solver(1000, ("tolerance",)),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How a `LinearStudent` is trained; each field is described there."""

    alpha: float = 0.5
    tau: float = 4.0
    learning_rate: float = 0.1
    epochs: int = None  # type: ignore[assignment]  # replaced by the solver's default
    batch_size: int = 128
    schedule: str = "constant"
    momentum: float = 0.0
    l2: float = 0.0
    bias: bool = True
    shuffle: bool = True
    seed: int = 0
    patience: int | None = None
    standardize: bool = False
    solver: str = "sgd"
    tolerance: float = 1e-4
    divergence: Divergence = "kl"
    beta: float = 0.5

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise ValueError(f"solver is {self.solver!r}, expected one of {', '.join(SOLVERS)}")
        if self.epochs is None:
            object.__setattr__(self, "epochs", SOLVERS[self.solver].epochs)
        checked: dict[str, Any] = {
            "alpha": _number("alpha", self.alpha, lambda x: 0 <= x <= 1, "in [0, 1]"),
            "tau": _number("tau", self.tau, lambda x: 0 < x < math.inf, "> 0 and finite"),
            "learning_rate": _number(
                "learning_rate", self.learning_rate, lambda x: 0 < x < math.inf, "> 0 and finite"
            ),
            "momentum": _number("momentum", self.momentum, lambda x: 0 <= x < 1, "in [0, 1)"),
            "tolerance": _number(
                "tolerance", self.tolerance, lambda x: 0 < x < math.inf, "> 0 and finite"
            ),
            "beta": _number("beta", self.beta, lambda x: 0 <= x <= 1, "in [0, 1]"),
            "l2": _number("l2", self.l2, lambda x: 0 <= x < math.inf, ">= 0 and finite"),
            "epochs": whole("epochs", self.epochs, 1),
            "batch_size": whole("batch_size", self.batch_size, 1),
            "seed": whole("seed", self.seed, 0),
            "bias": _truth("bias", self.bias),
            "shuffle": _truth("shuffle", self.shuffle),
            "standardize": _truth("standardize", self.standardize),
        }
        if self.patience is not None:
            checked["patience"] = whole("patience", self.patience, 1)
        if self.divergence not in get_args(Divergence):
            raise ValueError(
                f"divergence is {self.divergence!r}, expected one of "
                f"{', '.join(get_args(Divergence))}"
            )
        if self.schedule not in SCHEDULES:
            raise ValueError(
                f"schedule is {self.schedule!r}, expected one of {', '.join(SCHEDULES)}"
            )
        for name, value in checked.items():
            # As plain Python values, which can be written as JSON.
            object.__setattr__(self, name, value)
        for solver, its in SOLVERS.items():
            for name in its.own if solver != self.solver else ():
                if getattr(self, name) != getattr(Settings, name):
                    raise ValueError(
                        f"{name} is given with solver={self.solver!r}, expected only with "
                        f"solver={solver!r}"
                    )


def _number(name: str, value: Any, valid: Callable[[float], bool], expected: str) -> float:
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}, expected a number")
    if not valid(float(value)):
        raise ValueError(f"{name} is {value}, expected a number {expected}")
    return float(value)


def whole(name: str, value: Any, smallest: int) -> int:
    """Return `value` as an int of at least `smallest`; messages call it `name`."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}, expected an integer")
    if value < smallest:
        raise ValueError(f"{name} is {value}, expected at least {smallest}")
    return int(value)


def _truth(name: str, value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} is {value!r}, expected True or False")
    return bool(value)
