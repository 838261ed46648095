"""Trains a linear student by SGD, epoch by epoch; the state and the scores of an epoch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .._arrays import Array
from ..losses import kd_loss_parts
from ..metrics import MetricSums
from ..softmax import softmax_temp
from .rows import Batch, Rows, are_labelled, is_sparse
from .settings import SCHEDULES, Settings

Record = dict[str, float]

BLOCK_ELEMENTS = 2**20  # rows are evaluated in blocks of about this many numbers: 8 MB in float64
SCORED_ELEMENTS = 2**18  # logits are scored in blocks of about this many, which stay in a cache

DIVERGED = "the weights have diverged, most likely because learning_rate is too large"


@dataclasses.dataclass(frozen=True)
class State:
    """A student after a whole number of epochs; the next epoch depends on nothing else.

    The bias is the last row of the parameters (D + 1, C). The number of epochs, the best epoch and
    the remaining patience follow from the history, the order of rows from the seed and the epoch.
    """

    parameters: Array
    velocity: Array
    best: Array
    history: list[Record]

    @property
    def epoch(self) -> int:
        return len(self.history)


class Scores:
    """Weighted means of the loss, its parts and the metrics over the rows of an epoch.

    To score single batches would be slow. Their logits are collected in one block, which is scored
    when it is full.
    """

    def __init__(self, data: Rows, settings: Settings, longest: int) -> None:
        self._loss_options: dict[str, Any] = {
            name: getattr(settings, name) for name in ("tau", "divergence", "beta")
        }
        self._weight = self._labelled_weight = 0.0
        self._loss = self._hard = self._soft = 0.0
        self._metrics = MetricSums()
        rows = max(longest, SCORED_ELEMENTS // data.classes)
        self._block = np.empty((min(rows, len(data.rows)), data.classes), data.dtype)
        self._labels: list[Array] = []
        self._weights: list[Array] = []
        self._used = 0

    def place(self, rows: int) -> Array:
        """Return the array into which to write the logits of the next batch."""
        if self._used + rows > len(self._block):
            self._score()
        return self._block[self._used : self._used + rows]

    def add(self, logits: Array, batch: Batch, grad_out: Array | None = None) -> float:
        """Add a batch, whose logits are in the array of `place`; return its loss.

        The gradient is written to `grad_out`. If the loss is not finite, training ends, so the
        batch is not scored.
        """
        parts = kd_loss_parts(
            logits,
            batch.teacher,
            batch.labels,
            alpha=batch.alpha,
            sample_weight=batch.weight,
            grad_out=grad_out,
            **self._loss_options,
        )
        if not math.isfinite(parts.loss):
            return float(parts.loss)
        total, labelled = _totals(batch)
        self._weight += total
        self._loss += total * parts.loss
        self._soft += total * parts.soft
        if labelled:
            self._labelled_weight += labelled
            self._hard += labelled * parts.hard
            self._used += len(logits)
            self._labels.append(batch.labels)
            if batch.weight is not None:
                self._weights.append(batch.weight)
        return float(parts.loss)

    def means(self) -> Record:
        """Return the scores of all rows so far."""
        self._score()
        hard = self._hard / (self._labelled_weight or math.nan)
        return {
            "loss": self._loss / self._weight,
            "hard": hard,
            "soft": self._soft / self._weight,
            "nll": hard,
            **self._metrics.means(),
        }

    def _score(self) -> None:
        if not self._used:
            return
        logits, labels = self._block[: self._used], np.concatenate(self._labels)
        weights = np.concatenate(self._weights) if self._weights else None
        labelled = are_labelled(labels)
        if not labelled.all():
            logits, labels = logits[labelled], labels[labelled]
            weights = None if weights is None else weights[labelled]
        self._metrics.add(softmax_temp(logits, out=logits), labels, weights)
        self._used = 0
        self._labels.clear()
        self._weights.clear()


def _totals(batch: Batch) -> tuple[float, float]:
    """The weight of all rows, and of the labelled ones."""
    labelled = are_labelled(batch.labels)
    if batch.weight is None:
        return float(len(labelled)), float(np.count_nonzero(labelled))
    return float(batch.weight.sum()), float(batch.weight[labelled].sum())


def train(
    state: State,
    settings: Settings,
    data: Rows,
    held_out: Rows | None,
    after_epoch: Callable[[State], None],
) -> None:
    """Train until the limits in `settings`, calling `after_epoch` with the state of each epoch."""
    while state.epoch < settings.epochs and not out_of_patience(state, settings):
        # An overflow makes the loss infinite, which is reported with its likely cause.
        with np.errstate(over="ignore", invalid="ignore"):
            state = _next_epoch(state, settings, data, held_out)
        after_epoch(state)


def _next_epoch(state: State, settings: Settings, data: Rows, held_out: Rows | None) -> State:
    """The state after one more epoch; the given state is not changed."""
    epoch = state.epoch + 1
    learning_rate = settings.learning_rate * SCHEDULES[settings.schedule](
        state.epoch / settings.epochs
    )
    parameters, velocity = state.parameters.copy(), state.velocity.copy()
    step = np.zeros_like(parameters)
    gradient = step if settings.momentum else velocity  # without momentum they are the same
    gradient[-1] = 0
    longest = min(settings.batch_size, len(data.rows))
    grad_logits = np.empty((longest, data.classes), data.dtype)
    ones = np.ones(longest, data.dtype)
    scores = Scores(data, settings, longest)
    order = data.rows
    if settings.shuffle:
        # A generator per epoch, so that resuming needs no generator state.
        order = np.random.default_rng((settings.seed, epoch)).permutation(order)

    for number, batch in enumerate(data.batches(order, settings.batch_size), start=1):
        rows = len(batch.rows)
        s, grad = scores.place(rows), grad_logits[:rows]
        compute_logits(batch.X, parameters, out=s)
        if not math.isfinite(scores.add(s, batch, grad_out=grad)):
            raise FloatingPointError(
                f"the loss is not finite in epoch {epoch}, batch {number}: " + why_not_finite(batch)
            )
        if is_sparse(batch.X):
            gradient[:-1] = batch.X.T @ grad
        else:
            np.matmul(batch.X.T, grad, out=gradient[:-1])
        if settings.bias:
            np.dot(ones[:rows], grad, out=gradient[-1])  # faster than grad.sum if columns are few
        if settings.momentum:
            velocity *= settings.momentum
            velocity += gradient
        if settings.l2:
            velocity[:-1] += np.multiply(parameters[:-1], settings.l2, out=step[:-1])
        np.multiply(velocity, learning_rate, out=step)
        parameters -= step
    if not np.isfinite(parameters).all():
        raise FloatingPointError(f"the weights are not finite after epoch {epoch}: {DIVERGED}")

    record: Record = {"learning_rate": learning_rate, **scores.means()}
    return next_state(state, settings, parameters, velocity, record, held_out)


def next_state(
    state: State,
    settings: Settings,
    parameters: Array,
    velocity: Array,
    scores: Record,
    held_out: Rows | None,
) -> State:
    """The state after one more epoch with these parameters and training scores."""
    record: Record = {"epoch": state.epoch + 1, **scores}
    best = parameters
    if held_out is not None:
        record |= _validate(parameters, settings, held_out, state.epoch + 1)
        record["best_epoch"] = _best_epoch([*state.history, record])
        if record["best_epoch"] != record["epoch"]:
            best = state.best
    return State(parameters, velocity, best, [*state.history, record])


def _validate(parameters: Array, settings: Settings, data: Rows, epoch: int) -> Record:
    """The scores of the validation rows, with names that begin with val_."""
    longest = min(block_rows(parameters), len(data.rows))
    scores = Scores(data, settings, longest)
    for batch in data.batches(data.rows, longest):
        s = compute_logits(batch.X, parameters, out=scores.place(len(batch.rows)))
        if not math.isfinite(scores.add(s, batch)):
            raise FloatingPointError(
                f"the validation loss is not finite after epoch {epoch}: " + why_not_finite(batch)
            )
    return {f"val_{name}": value for name, value in scores.means().items()}


def compute_logits(X: Any, parameters: Array, out: Array | None = None) -> Array:
    """X W + b (B, C), of parameters (D + 1, C)."""
    if is_sparse(X):
        result: Array = X @ parameters[:-1]
        if out is not None:
            out[:] = result
            result = out
    else:
        result = np.matmul(X, parameters[:-1], out=out)
    result += parameters[-1]
    return result


def _best_epoch(history: list[Record]) -> int:
    losses = [record["val_loss"] for record in history]
    return losses.index(min(losses)) + 1


def out_of_patience(state: State, settings: Settings) -> bool:
    if settings.patience is None or not state.history:
        return False
    return state.epoch - _best_epoch(state.history) >= settings.patience


def why_not_finite(batch: Batch) -> str:
    """The likely cause of a loss that is not finite, from the batch that gave it."""
    X = batch.X.toarray() if is_sparse(batch.X) else batch.X
    finite = np.isfinite(X).all(axis=1)
    if not finite.all():
        return f"row {batch.rows[finite.argmin()]} of its X is not finite"
    if batch.teacher is not None:
        # A teacher may mask classes with -inf, but not all of a row. max() finds NaN and +inf too.
        finite = np.isfinite(batch.teacher.max(axis=1))
        if not finite.all():
            row = batch.rows[finite.argmin()]
            return f"row {row} of its teacher_logits has NaN, +inf or only -inf"
    return DIVERGED


def block_rows(parameters: Array) -> int:
    """How many rows are evaluated together."""
    return max(1, BLOCK_ELEMENTS // int(max(parameters.shape)))
