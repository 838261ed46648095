"""One epoch of stochastic gradient descent: its steps, and the scores of the rows that pass."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from ._checks import Array
from ._settings import SCHEDULES, Settings
from ._training_rows import Batch, Rows
from .losses import kd_loss_and_grad, kd_loss_parts
from .metrics import MetricSums
from .softmax import softmax_temp

Record = dict[str, float]

BLOCK_ELEMENTS = 2**20  # rows are evaluated in blocks of about this many numbers: 8 MB in float64

DIVERGED = "the weights have diverged, most likely because learning_rate is too large"


@dataclasses.dataclass(frozen=True)
class State:
    """A student after a whole number of epochs: all that the next epoch depends on.

    The bias is the last row of the parameters (D + 1, C). The number of epochs, the best of them
    and the patience left follow from the history; the order of rows from the seed and the epoch.
    """

    parameters: Array
    velocity: Array
    best: Array
    history: list[Record]

    @property
    def epoch(self) -> int:
        return len(self.history)


class _Scores:
    """Weighted means of the loss, its parts and the metrics over the rows of an epoch."""

    def __init__(self, tau: float) -> None:
        self._tau = tau
        self._weight = self._labelled_weight = 0.0
        self._loss = self._hard = self._soft = 0.0
        self._metrics = MetricSums()
        self._waiting: list[tuple[Array, Array, Array | None]] = []
        self._waiting_elements = 0

    def add(self, logits: Array, batch: Batch) -> float:
        """Add a batch and return its loss.

        A loss that is not finite ends the training, so its batch has no scores.
        """
        parts = kd_loss_parts(
            logits,
            batch.teacher,
            batch.labels,
            alpha=batch.alpha,
            tau=self._tau,
            sample_weight=batch.weight,
        )
        if math.isfinite(parts.loss):
            total = _total(batch.weight, logits)
            self._weight += total
            self._loss += total * parts.loss
            self._soft += total * parts.soft
            labelled = batch.labelled
            if labelled.any():
                s, weight = logits[labelled], batch.weight
                if weight is not None:
                    weight = weight[labelled]
                total = _total(weight, s)
                self._labelled_weight += total
                self._hard += total * parts.hard
                # Small batches are scored together: one by one costs more than the step itself.
                self._waiting.append((s, batch.labels[labelled], weight))
                self._waiting_elements += s.size
                if self._waiting_elements >= BLOCK_ELEMENTS:
                    self._score()
        return float(parts.loss)

    def means(self) -> Record:
        """Return the scores of all rows so far."""
        if self._waiting:
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
        logits, labels = (np.concatenate([batch[i] for batch in self._waiting]) for i in (0, 1))
        weights = [weight for _, _, weight in self._waiting if weight is not None]
        self._waiting, self._waiting_elements = [], 0
        p = softmax_temp(logits, out=logits)
        self._metrics.add(p, labels, np.concatenate(weights) if weights else None)


def _total(weight: Array | None, rows: Array) -> float:
    return float(len(rows) if weight is None else weight.sum())


def train(state: State, settings: Settings, data: Rows, held_out: Rows | None) -> Iterator[State]:
    """Yield the state after each more epoch, until there are enough or patience is used up."""
    while state.epoch < settings.epochs and not _out_of_patience(state, settings):
        # Overflow is found by its infinite loss, and reported with its likely cause.
        with np.errstate(over="ignore", invalid="ignore"):
            state = _next_epoch(state, settings, data, held_out)
        yield state


def _next_epoch(state: State, settings: Settings, data: Rows, held_out: Rows | None) -> State:
    """The state after one more epoch; the given one is left untouched."""
    epoch = state.epoch + 1
    learning_rate = settings.learning_rate * SCHEDULES[settings.schedule](
        state.epoch / settings.epochs
    )
    parameters, velocity = state.parameters.copy(), state.velocity.copy()
    gradient = np.zeros_like(parameters)
    longest = min(settings.batch_size, len(data.rows))
    logits, grad_logits = np.empty((2, longest, data.classes), data.dtype)
    scores = _Scores(settings.tau)
    order = data.rows
    if settings.shuffle:
        # A generator per epoch: whoever resumes needs no generator state, only the epoch.
        order = np.random.default_rng((settings.seed, epoch)).permutation(order)

    for number, batch in enumerate(data.batches(order, settings.batch_size), start=1):
        s, grad = logits[: len(batch.rows)], grad_logits[: len(batch.rows)]
        compute_logits(batch.X, parameters, out=s)
        kd_loss_and_grad(
            s,
            batch.teacher,
            batch.labels,
            alpha=batch.alpha,
            tau=settings.tau,
            sample_weight=batch.weight,
            out=grad,
        )
        if not math.isfinite(scores.add(s, batch)):
            raise FloatingPointError(
                f"the loss is not finite in epoch {epoch}, batch {number}: "
                + _why_not_finite(batch)
            )
        np.matmul(batch.X.T, grad, out=gradient[:-1])
        if settings.bias:
            grad.sum(axis=0, out=gradient[-1])
        velocity *= settings.momentum
        velocity += gradient
        if settings.l2:
            np.multiply(parameters[:-1], settings.l2, out=gradient[:-1])
            velocity[:-1] += gradient[:-1]
        np.multiply(velocity, learning_rate, out=gradient)
        parameters -= gradient
    if not np.isfinite(parameters).all():
        raise FloatingPointError(f"the weights are not finite after epoch {epoch}: {DIVERGED}")

    record: Record = {"epoch": epoch, "learning_rate": learning_rate, **scores.means()}
    best = parameters
    if held_out is not None:
        record |= _validate(parameters, settings, held_out, epoch)
        record["best_epoch"] = _best_epoch([*state.history, record])
        if record["best_epoch"] != epoch:
            best = state.best
    return State(parameters, velocity, best, [*state.history, record])


def _validate(parameters: Array, settings: Settings, data: Rows, epoch: int) -> Record:
    """The scores of validation rows, named val_."""
    scores = _Scores(settings.tau)
    for batch in data.batches(data.rows, block_rows(parameters)):
        if not math.isfinite(scores.add(compute_logits(batch.X, parameters), batch)):
            raise FloatingPointError(
                f"the validation loss is not finite after epoch {epoch}: " + _why_not_finite(batch)
            )
    return {f"val_{name}": value for name, value in scores.means().items()}


def compute_logits(X: Array, parameters: Array, out: Array | None = None) -> Array:
    """X W + b (B, C), of parameters (D + 1, C)."""
    result: Array = np.matmul(X, parameters[:-1], out=out)
    result += parameters[-1]
    return result


def _best_epoch(history: list[Record]) -> int:
    losses = [record["val_loss"] for record in history]
    return losses.index(min(losses)) + 1


def _out_of_patience(state: State, settings: Settings) -> bool:
    if settings.patience is None or not state.history:
        return False
    return state.epoch - _best_epoch(state.history) >= settings.patience


def _why_not_finite(batch: Batch) -> str:
    """The likely cause of a loss that is not finite, from the batch that gave it."""
    finite = np.isfinite(batch.X).all(axis=1)
    if not finite.all():
        return f"row {batch.rows[finite.argmin()]} of its X is not finite"
    if batch.teacher is not None:
        # A teacher may mask classes with -inf, but not all; NaN and +inf are their row's largest.
        finite = np.isfinite(batch.teacher.max(axis=1))
        if not finite.all():
            row = batch.rows[finite.argmin()]
            return f"row {row} of its teacher_logits has NaN, +inf or only -inf"
    return DIVERGED


def block_rows(parameters: Array) -> int:
    """How many rows are evaluated together."""
    return max(1, BLOCK_ELEMENTS // int(max(parameters.shape)))
