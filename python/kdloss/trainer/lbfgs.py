"""Trains a linear student by L-BFGS: all rows in each step, no learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .._arrays import Array, warn
from .epochs import (
    Scores,
    State,
    compute_logits,
    next_state,
    out_of_patience,
    why_not_finite,
)
from .rows import Rows, is_sparse
from .settings import Settings

Objective = Callable[[Array], tuple[float, Array]]

# Rows are processed in blocks of about this many numbers, which stay in a cache from X W to X^T G.
# The blocks, and so the bits of the sums, depend on the data alone.
BLOCK_ELEMENTS = 2**16


def minimise(
    objective: Objective,
    start: Array,
    *,
    tolerance: float,
    iterations: int,
    after_iteration: Callable[[Array, Array], bool],
) -> float:
    """Minimise a smooth function of an array; return the largest entry of its last gradient.

    `objective` takes parameters and returns the value and the gradient, of the parameters' shape.
    `after_iteration` is called with the parameters and the gradient after each iteration, those of
    the last call of `objective`, and returns whether to continue. The search ends when no entry of
    the gradient is larger than `tolerance`, when the value can no longer be lowered in float64, or
    after `iterations` iterations.
    """
    try:
        from scipy.optimize import minimize  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError(
            f"solver='lbfgs' needs SciPy ({error}): pip install 'kdloss[lbfgs]'"
        ) from error
    gradient = np.zeros_like(start)

    def flat(parameters: Array) -> tuple[float, Array]:
        nonlocal gradient
        value, gradient = objective(parameters.reshape(start.shape))
        return value, gradient.ravel()

    def callback(parameters: Array) -> None:
        if not after_iteration(parameters.reshape(start.shape).copy(), gradient):
            raise StopIteration

    result = minimize(
        flat,
        start.ravel(),
        jac=True,
        method="L-BFGS-B",
        callback=callback,
        options={
            "gtol": tolerance,
            "ftol": 0.0,
            "maxiter": iterations,
            "maxfun": 100 * iterations,  # practically no limit: an iteration seldom takes two
        },
    )
    return float(np.abs(result.jac).max())


class RowsObjective:
    """The mean loss over rows plus l2/2 sum(W^2); it keeps the scores of its last evaluation."""

    def __init__(self, data: Rows, settings: Settings) -> None:
        self._data, self._settings = data, settings
        X, weight = data.X, data.weight
        self._total = float(len(data.rows) if weight is None else weight[data.rows].sum())
        width = -(-X.nnz // X.shape[0]) if is_sparse(X) else data.features
        self._block = max(1, BLOCK_ELEMENTS // max(width, data.classes))
        self._block = min(self._block, len(data.rows))
        self.scores = Scores(data, settings, self._block)

    def __call__(self, parameters: Array) -> tuple[float, Array]:
        """The value and the gradient (D + 1, C), the bias in its last row."""
        data, settings = self._data, self._settings
        self.scores = Scores(data, settings, self._block)
        loss, gradient = 0.0, np.zeros_like(parameters)
        grad_logits, ones = np.empty((self._block, data.classes)), np.ones(self._block)
        for batch in data.batches(data.rows, self._block):
            rows = len(batch.rows)
            logits, grad = self.scores.place(rows), grad_logits[:rows]
            compute_logits(batch.X, parameters, out=logits)
            part = self.scores.add(logits, batch, grad_out=grad)
            if not math.isfinite(part):
                raise FloatingPointError("the loss is not finite: " + why_not_finite(batch))
            share = (rows if batch.weight is None else float(batch.weight.sum())) / self._total
            loss += share * part
            grad *= share
            gradient[:-1] += batch.X.T @ grad
            gradient[-1] += ones[:rows] @ grad
        weights = parameters[:-1]
        gradient[:-1] += settings.l2 * weights
        if not settings.bias:
            gradient[-1] = 0
        return loss + settings.l2 / 2 * float(np.vdot(weights, weights)), gradient


def train(
    state: State,
    settings: Settings,
    data: Rows,
    held_out: Rows | None,
    after_epoch: Callable[[State], None],
) -> None:
    """Call `after_epoch` with the state after each iteration, until the optimum or the limits."""
    if state.epoch >= settings.epochs or out_of_patience(state, settings):
        return
    objective = RowsObjective(data, settings)

    def after_iteration(parameters: Array, gradient: Array) -> bool:
        nonlocal state
        scores = objective.scores.means() | {"gradient": float(np.abs(gradient).max())}
        velocity = np.zeros_like(parameters)
        state = next_state(state, settings, parameters, velocity, scores, held_out)
        after_epoch(state)
        return not out_of_patience(state, settings)

    start = state.parameters
    # An overflow makes the loss infinite, which is checked.
    with np.errstate(over="ignore", invalid="ignore"):
        largest = minimise(
            objective,
            start,
            tolerance=settings.tolerance,
            iterations=settings.epochs - state.epoch,
            after_iteration=after_iteration,
        )
    if not state.history:  # the start is the optimum, and its scores are the only ones
        after_iteration(start, np.array(largest))
    if largest > settings.tolerance and not out_of_patience(state, settings):
        short = state.epoch == settings.epochs
        warn(
            f"lbfgs ends with a gradient of {largest:.2g}, above its tolerance of "
            f"{settings.tolerance:g}, "
            + (
                f"after {settings.epochs} epochs: use standardize=True if the features have "
                "different scales, more epochs, or some l2"
                if short
                else "because the loss cannot be lowered further in float64: use a larger tolerance"
            )
        )
