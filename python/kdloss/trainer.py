"""A linear student trained by mini-batch SGD on the knowledge-distillation loss.

One step, with a batch X (B, D) of features, teacher logits T (B, C) and labels y (B,):

    logits = X W + b                                       (B, C)
    loss, G = kd_loss_and_grad(logits, T, y, alpha, tau)   G (B, C), of the batch's mean loss
    v = momentum v + X^T G + l2 W                          (D, C)
    W = W - learning_rate v
"""

from __future__ import annotations

import dataclasses
import json
import math
import numbers
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .losses import kd_loss_and_grad, kd_loss_parts
from .metrics import PADDING, SUM_TOLERANCE, UNLABELLED, Array, MetricSums, check_labels
from .softmax import softmax_temp

Record = dict[str, float]

FORMAT = 1  # of the files that `save` writes
BLOCK_ELEMENTS = 2**20  # rows are evaluated in blocks of about this many numbers: 8 MB in float64

DIVERGED = "the weights have diverged, most likely because learning_rate is too large"

SCHEDULES: dict[str, Callable[[float], float]] = {
    # The factor on learning_rate, after the share t of all epochs, 0 <= t < 1.
    "constant": lambda t: 1.0,
    "cosine": lambda t: (1 + math.cos(math.pi * t)) / 2,
    "step": lambda t: 1.0 if t < 0.5 else 0.1 if t < 0.75 else 0.01,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How a `LinearStudent` is trained; each field is described there."""

    alpha: float = 0.5
    tau: float = 4.0
    learning_rate: float = 0.1
    epochs: int = 50
    batch_size: int = 128
    schedule: str = "constant"
    momentum: float = 0.0
    l2: float = 0.0
    bias: bool = True
    shuffle: bool = True
    seed: int = 0
    patience: int | None = None

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            "alpha": _number("alpha", self.alpha, lambda x: 0 <= x <= 1, "in [0, 1]"),
            "tau": _number("tau", self.tau, lambda x: 0 < x < math.inf, "finite and > 0"),
            "learning_rate": _number(
                "learning_rate", self.learning_rate, lambda x: 0 < x < math.inf, "finite and > 0"
            ),
            "momentum": _number("momentum", self.momentum, lambda x: 0 <= x < 1, "in [0, 1)"),
            "l2": _number("l2", self.l2, lambda x: 0 <= x < math.inf, "finite and >= 0"),
            "epochs": _whole("epochs", self.epochs, 1),
            "batch_size": _whole("batch_size", self.batch_size, 1),
            "seed": _whole("seed", self.seed, 0),
            "bias": _truth("bias", self.bias),
            "shuffle": _truth("shuffle", self.shuffle),
        }
        if self.patience is not None:
            checked["patience"] = _whole("patience", self.patience, 1)
        if self.schedule not in SCHEDULES:
            raise ValueError(
                f"schedule must be one of {', '.join(SCHEDULES)}, not {self.schedule!r}"
            )
        for name, value in checked.items():
            # Plain Python values, whatever kind was given: they are written as JSON.
            object.__setattr__(self, name, value)


def _number(name: str, value: Any, valid: Callable[[float], bool], expected: str) -> float:
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not valid(float(value)):
        raise ValueError(f"{name} must be {expected}, not {value}")
    return float(value)


def _whole(name: str, value: Any, smallest: int) -> int:
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if value < smallest:
        raise ValueError(f"{name} must be at least {smallest}, not {value}")
    return int(value)


def _truth(name: str, value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return bool(value)


@dataclasses.dataclass(frozen=True)
class _Data:
    """Features (N, D), labels (N,), teacher logits (N, C) or None, and the rows of them in use."""

    X: Any
    labels: Array
    teacher: Any
    rows: Array
    classes: int
    dtype: np.dtype[Any]

    @property
    def features(self) -> int:
        return int(self.X.shape[1])

    def batches(
        self, order: Array, size: int
    ) -> Iterator[tuple[Array, Array, Array | None, Array]]:
        """Yield features, labels, teacher logits and row numbers, `size` rows at a time."""
        for start in range(0, len(order), size):
            # Sorted rows are read front to back, which disks like and HDF5 demands. Within a batch
            # the order has no meaning: it only changes the order of summation.
            rows = np.sort(order[start : start + size])
            teacher = None if self.teacher is None else _take(self.teacher, rows, self.dtype)
            yield _take(self.X, rows, self.dtype), self.labels[rows], teacher, rows


@dataclasses.dataclass(frozen=True)
class _State:
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


class LinearStudent:
    """Linear classifier ``softmax(x W + b)`` that learns from labels and from a fixed teacher.

    Trained by stochastic gradient descent on the knowledge-distillation loss, averaged over each
    mini-batch:

        alpha * -log softmax(s)[y] + (1 - alpha) * tau^2 * KL(softmax(t/tau) || softmax(s/tau))

    with student logits s = x W + b and teacher logits t. A row labelled -1 (unlabelled) learns from
    the teacher alone. A row labelled -100 (padding) is never read.

    Parameters
    ----------
    alpha : float in [0, 1]
        Weight of the labels; 1 - alpha is the teacher's.
    tau : float > 0
        Temperature.
    learning_rate : float > 0
        Length of the first step.
    epochs : int
        Passes over the rows.
    batch_size : int
        Rows per step; the last batch of an epoch may have fewer.
    schedule : {"constant", "cosine", "step"}
        How the learning rate changes from epoch to epoch: not at all; along half a cosine that
        would reach 0 after the last epoch; or divided by 10 at one half and again at three quarters
        of the epochs.
    momentum : float in [0, 1)
        m in ``v = m v + g, W = W - learning_rate v``, as in PyTorch's SGD.
    l2 : float >= 0
        ``l2 * W`` is added to the gradient, that is ``l2/2 * sum(W^2)`` to the objective. The bias
        is left free, and the reported loss is without this term.
    bias : bool
        Whether to learn b; it stays 0 otherwise.
    shuffle : bool
        Whether each epoch visits the rows in a new order, or always as they are.
    seed : int
        Decides the order of rows and the validation split. Equal seeds give equal students.
    patience : int, optional
        Stop after this many epochs without a new lowest validation loss. The student is then that
        of its best epoch, also where all epochs were used.

    Attributes
    ----------
    settings : Settings
        The parameters above.
    weights : (D, C) array
        W, of the features' type if that is float32, else float64.
    bias : (C,) array
        b, or zeros.
    history : list of dict
        One record per epoch: ``epoch`` (from 1), ``learning_rate``, ``loss``, ``hard``, ``soft``,
        ``accuracy``, ``nll``, ``brier``, ``ece``, and with validation the last seven again as
        ``val_loss`` and so on, and ``best_epoch``, the one of the lowest ``val_loss`` so far.
        See `fit`.

    Examples
    --------
    >>> import numpy as np
    >>> from kdloss import LinearStudent
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(300, 4))
    >>> teacher_logits = X @ rng.normal(size=(4, 3))
    >>> labels = teacher_logits.argmax(axis=1)
    >>> labels[20:] = -1                                   # only the teacher has seen these
    >>> student = LinearStudent(epochs=20).fit(X, labels, teacher_logits)
    >>> bool((student.predict(X) == teacher_logits.argmax(axis=1)).mean() > 0.95)
    True

    References
    ----------
    Hinton, Vinyals, Dean 2015, Distilling the knowledge in a neural network, arXiv:1503.02531.
    """

    def __init__(
        self,
        *,
        alpha: float = 0.5,
        tau: float = 4.0,
        learning_rate: float = 0.1,
        epochs: int = 50,
        batch_size: int = 128,
        schedule: str = "constant",
        momentum: float = 0.0,
        l2: float = 0.0,
        bias: bool = True,
        shuffle: bool = True,
        seed: int = 0,
        patience: int | None = None,
    ) -> None:
        self.settings = Settings(
            alpha=alpha,
            tau=tau,
            learning_rate=learning_rate,
            epochs=epochs,
            batch_size=batch_size,
            schedule=schedule,
            momentum=momentum,
            l2=l2,
            bias=bias,
            shuffle=shuffle,
            seed=seed,
            patience=patience,
        )
        self._state: _State | None = None

    @property
    def weights(self) -> Array:
        """W (D, C)."""
        weights: Array = self._served[:-1]
        return weights

    @property
    def bias(self) -> Array:
        """The bias b (C,), zeros where none is learnt."""
        bias: Array = self._served[-1]
        return bias

    @property
    def history(self) -> list[Record]:
        """One record per epoch, oldest first; empty before training."""
        return [] if self._state is None else self._state.history

    def fit(
        self,
        X: Any,
        labels: npt.ArrayLike | None,
        teacher_logits: Any,
        *,
        validation: float | tuple[Any, Any, Any] | None = None,
        n_classes: int | None = None,
        initial_weights: npt.ArrayLike | None = None,
        progress: Callable[[Record], object] | None = None,
    ) -> LinearStudent:
        """Train from the start, forgetting any earlier training.

        The scores of an epoch in `history` cost little because they are taken from the batches as
        these pass: each batch is scored by the model as it was when the batch came, just before it
        learnt from it. Validation rows are scored after the epoch. ``loss`` and ``soft`` are means
        over rows; ``hard``, ``accuracy``, ``nll`` (the same as ``hard``, under its metric's name),
        ``brier`` and ``ece`` are over labelled rows, and NaN if there are none; ``soft`` is NaN
        without a teacher.

        Parameters
        ----------
        X : (N, D) array of numbers
            Features. Anything with ``shape``, ``dtype`` and slicing by rows will do, and is read
            one batch at a time: a memory-mapped file, for one.
        labels : (N,) array of integers, or None
            A class in [0, C), -1 for a row that only the teacher has seen, -100 for a row to leave
            out. None only if alpha is 0.
        teacher_logits : (N, C) array of numbers, or None
            Logits, not probabilities; log-probabilities are logits. Read in batches as X is. None
            only if alpha is 1 and no row is labelled -1.
        validation : float in (0, 1), or tuple of arrays, optional
            A share of the rows, labelled or not, drawn with the seed and kept from training; or
            ``(X, labels, teacher_logits)``.
        n_classes : int, optional
            C, where there is no teacher to tell it; otherwise the largest label + 1.
        initial_weights : (D, C) array, optional
            W before the first step, instead of zeros. The bias starts at 0.
        progress : callable, optional
            Called with the record of every finished epoch. It may call `save`, and may stop the
            training by raising an exception.

        Returns
        -------
        LinearStudent
            The student itself.

        Raises
        ------
        TypeError, ValueError
            If an argument is not of that kind, shape or range; nothing has changed then.
        FloatingPointError
            If the loss stops being finite. The student is as it was after its last whole epoch.

        Warns
        -----
        UserWarning
            If the teacher's logits look like probabilities.

        Examples
        --------
        >>> import numpy as np
        >>> from kdloss import LinearStudent
        >>> X, teacher_logits = np.eye(3), 5 * np.eye(3)
        >>> student = LinearStudent(epochs=30, learning_rate=1.0)
        >>> student.fit(X, [0, 1, -1], teacher_logits).predict(X)
        array([0, 1, 2])
        """
        if n_classes is not None:
            n_classes = _whole("n_classes", n_classes, 1)
        data = _check_data(X, labels, teacher_logits, self.settings.alpha, classes=n_classes)
        parameters = np.zeros((data.features + 1, data.classes), data.dtype)
        if initial_weights is not None:
            parameters[:-1] = _check_weights(initial_weights, parameters[:-1].shape)
        start = _State(parameters, np.zeros_like(parameters), parameters, [])
        self._train(self.settings, start, data, validation, progress)
        return self

    def resume(
        self,
        X: Any,
        labels: npt.ArrayLike | None,
        teacher_logits: Any,
        *,
        epochs: int | None = None,
        validation: float | tuple[Any, Any, Any] | None = None,
        progress: Callable[[Record], object] | None = None,
    ) -> LinearStudent:
        """Continue training, up to `epochs` epochs in all.

        Given the same data, a training that was interrupted and is resumed, also by another process
        after `save` and `load`, ends with the same bits as one that was not (on the same machine: a
        matrix product may be summed in another order elsewhere). After an interruption the student
        is as it was after its last whole epoch; `progress` is the place to save it from.

        Parameters
        ----------
        X, labels, teacher_logits, validation, progress
            As in `fit`; give the same again.
        epochs : int, optional
            The total, which counts the epochs behind; by default the one in the settings, else it
            replaces that one. The schedules "cosine" and "step" span the total, so with a new one
            the epochs ahead follow the stretched schedule, while those behind followed the old one:
            only "constant" then equals one training of that length.

        Returns
        -------
        LinearStudent
            The student itself. One that has run out of patience stays as it is.

        Raises
        ------
        TypeError, ValueError, FloatingPointError
            As in `fit`; ValueError also if features or classes are not those of the student, or if
            more epochs are done already.
        RuntimeError
            If the student was never trained.

        Examples
        --------
        >>> import numpy as np
        >>> from kdloss import LinearStudent
        >>> X, teacher_logits = np.eye(3), 5 * np.eye(3)
        >>> short = LinearStudent(epochs=2).fit(X, [0, 1, 2], teacher_logits)
        >>> short = short.resume(X, [0, 1, 2], teacher_logits, epochs=5)
        >>> long = LinearStudent(epochs=5).fit(X, [0, 1, 2], teacher_logits)
        >>> short.history == long.history
        True
        """
        state = self._trained
        settings = self.settings
        if epochs is not None:
            settings = dataclasses.replace(settings, epochs=epochs)
        if settings.epochs < state.epoch:
            raise ValueError(
                f"epochs counts from the start: at least {state.epoch}, which are done, "
                f"not {settings.epochs}"
            )
        features, classes = self.weights.shape
        data = _check_data(
            X, labels, teacher_logits, settings.alpha, features=features, classes=classes
        )
        data = dataclasses.replace(data, dtype=state.parameters.dtype)
        self._train(settings, state, data, validation, progress)
        return self

    def logits(self, X: Any) -> Array:
        """Return the logits x W + b.

        Parameters
        ----------
        X : (N, D) array of numbers
            Features, read in blocks of rows.

        Returns
        -------
        (N, C) array
            Of the type of the weights.

        Raises
        ------
        TypeError, ValueError
            If X is not of that kind or shape.
        RuntimeError
            If the student was never trained.
        """
        parameters = self._served
        X = _check_rows("X", X, columns=len(parameters) - 1)
        result = np.empty((X.shape[0], parameters.shape[1]), parameters.dtype)
        size = _block_rows(parameters)
        for start in range(0, len(result), size):
            block = np.asarray(X[start : start + size], parameters.dtype)
            _logits(block, parameters, out=result[start : start + size])
        return result

    def predict_proba(self, X: Any) -> Array:
        """Return the probabilities softmax(x W + b), at temperature 1.

        Parameters and errors are those of `logits`.

        Returns
        -------
        (N, C) array
            Of the type of the weights; each row sums to 1.
        """
        logits = self.logits(X)
        return np.asarray(softmax_temp(logits, out=logits))

    def predict(self, X: Any) -> Array:
        """Return the most probable class of each row, the first one of equals.

        Parameters and errors are those of `logits`.

        Returns
        -------
        (N,) array of integers
        """
        return np.asarray(self.logits(X).argmax(axis=1))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the student to one .npz file, with all that `resume` needs.

        The file appears whole or not at all, and an older one stays until then. It holds plain
        arrays that NumPy reads without pickle: ``weights`` and ``bias``; ``parameters`` and
        ``velocity`` (D + 1, C) of the last epoch, the bias in their last row; ``settings`` and
        ``history`` as JSON text.

        Parameters
        ----------
        path : path
            Where to write; used as it is, without adding a suffix.

        Raises
        ------
        OSError
            If the file cannot be written.
        RuntimeError
            If the student was never trained.
        """
        state = self._trained
        path = Path(path)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
        try:
            with open(unfinished, "wb") as file:
                np.savez(
                    file,
                    kdloss_student=FORMAT,
                    settings=json.dumps(dataclasses.asdict(self.settings)),
                    history=json.dumps(state.history),
                    weights=self.weights,
                    bias=self.bias,
                    parameters=state.parameters,
                    velocity=state.velocity,
                )
                file.flush()
                os.fsync(file.fileno())  # or a crash could leave the new name without its content
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LinearStudent:
        """Read a student that `save` wrote; nothing in the file is executed.

        Parameters
        ----------
        path : path
            The file.

        Returns
        -------
        LinearStudent
            As it was when it was saved, ready to predict or to `resume`.

        Raises
        ------
        OSError
            If there is no such file or it cannot be read.
        ValueError
            If it is not a student, or one in a format that this version does not know.
        """
        problem = f"{os.fspath(path)} is not a student written by LinearStudent.save: "
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as entries:
                arrays = dict(entries)
        except (ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(problem + "it is no .npz file of plain arrays") from error
        found = arrays["kdloss_student"].tolist() if "kdloss_student" in arrays else "missing"
        if found != FORMAT:
            raise ValueError(problem + f"its format is {found}, and this version reads {FORMAT}")
        try:
            student = cls(**json.loads(str(arrays["settings"])))
            history = json.loads(str(arrays["history"]))
            if not isinstance(history, list):
                raise ValueError(f"its history is {history!r}, not a list")
            weights, bias = arrays["weights"], arrays["bias"]
            parameters, velocity = arrays["parameters"], arrays["velocity"]
        except KeyError as error:
            raise ValueError(problem + f"it has no entry {error}") from error
        except (TypeError, ValueError) as error:
            raise ValueError(problem + str(error)) from error
        if weights.ndim != 2 or not (
            weights.shape[1:] == bias.shape
            and parameters.shape == velocity.shape == (len(weights) + 1, *bias.shape)
            and weights.dtype == bias.dtype == parameters.dtype == velocity.dtype
            and weights.dtype in (np.float32, np.float64)
        ):
            raise ValueError(problem + "its arrays do not fit together")
        student._state = _State(parameters, velocity, np.vstack([weights, bias]), history)
        return student

    @property
    def _trained(self) -> _State:
        if self._state is None:
            raise RuntimeError("this LinearStudent is not trained yet: call fit or load first")
        return self._state

    @property
    def _served(self) -> Array:
        state = self._trained
        return state.parameters if self.settings.patience is None else state.best

    def _train(
        self,
        settings: Settings,
        state: _State,
        data: _Data,
        validation: float | tuple[Any, Any, Any] | None,
        progress: Callable[[Record], object] | None,
    ) -> None:
        data, held_out = _split(data, validation, settings)
        if settings.patience is not None and held_out is None:
            raise ValueError("patience needs validation: a share of the rows, or arrays")
        _warn_of_probabilities(data, settings.batch_size)
        self.settings = settings
        while state.epoch < settings.epochs and not _out_of_patience(state, settings):
            # Overflow is found by its infinite loss, and reported with its likely cause.
            with np.errstate(over="ignore", invalid="ignore"):
                state = _next_epoch(state, settings, data, held_out)
            self._state = state
            if progress is not None:
                progress(dict(state.history[-1]))


class _Scores:
    """Means of the loss, its parts and the metrics over the rows of an epoch."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._rows = self._labelled = self._waiting_elements = 0
        self._loss = self._hard = self._soft = 0.0
        self._metrics = MetricSums()
        self._waiting: list[tuple[Array, Array]] = []

    def add(self, logits: Array, teacher: Array | None, labels: Array) -> float:
        """Add a batch and return its loss.

        A loss that is not finite ends the training, so its batch has no scores.
        """
        parts = kd_loss_parts(
            logits, teacher, labels, alpha=self._settings.alpha, tau=self._settings.tau
        )
        if math.isfinite(parts.loss):
            self._rows += len(labels)
            self._loss += len(labels) * parts.loss
            self._soft += len(labels) * parts.soft
            labelled = labels >= 0
            if labelled.any():
                count = int(np.count_nonzero(labelled))
                self._labelled += count
                self._hard += count * parts.hard
                # Small batches are scored together: one by one costs more than the step itself.
                self._waiting.append((logits[labelled], labels[labelled]))
                self._waiting_elements += count * logits.shape[1]
                if self._waiting_elements >= BLOCK_ELEMENTS:
                    self._score()
        return float(parts.loss)

    def means(self) -> Record:
        """Return the scores of all rows so far."""
        if self._waiting:
            self._score()
        hard = self._hard / (self._labelled or math.nan)
        return {
            "loss": self._loss / self._rows,
            "hard": hard,
            "soft": self._soft / self._rows,
            "nll": hard,
            **self._metrics.means(),
        }

    def _score(self) -> None:
        logits, labels = map(np.concatenate, zip(*self._waiting, strict=True))
        self._waiting, self._waiting_elements = [], 0
        self._metrics.add(softmax_temp(logits, out=logits), labels)


def _next_epoch(state: _State, settings: Settings, data: _Data, held_out: _Data | None) -> _State:
    """The state after one more epoch; the given one is left untouched."""
    epoch = state.epoch + 1
    learning_rate = settings.learning_rate * SCHEDULES[settings.schedule](
        state.epoch / settings.epochs
    )
    parameters, velocity = state.parameters.copy(), state.velocity.copy()
    gradient = np.zeros_like(parameters)
    longest = min(settings.batch_size, len(data.rows))
    logits, grad_logits = np.empty((2, longest, data.classes), data.dtype)
    scores = _Scores(settings)
    order = data.rows
    if settings.shuffle:
        # A generator per epoch: whoever resumes needs no generator state, only the epoch.
        order = np.random.default_rng((settings.seed, epoch)).permutation(order)

    for batch, (X, labels, teacher, rows) in enumerate(data.batches(order, settings.batch_size)):
        s, grad = logits[: len(rows)], grad_logits[: len(rows)]
        _logits(X, parameters, out=s)
        kd_loss_and_grad(s, teacher, labels, alpha=settings.alpha, tau=settings.tau, out=grad)
        if not math.isfinite(scores.add(s, teacher, labels)):
            raise FloatingPointError(
                f"the loss is not finite in epoch {epoch}, batch {batch + 1}: "
                + _why_not_finite(X, teacher, rows)
            )
        np.matmul(X.T, grad, out=gradient[:-1])
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
    return _State(parameters, velocity, best, [*state.history, record])


def _validate(parameters: Array, settings: Settings, data: _Data, epoch: int) -> Record:
    """The scores of validation rows, named val_."""
    scores = _Scores(settings)
    for X, labels, teacher, rows in data.batches(data.rows, _block_rows(parameters)):
        if not math.isfinite(scores.add(_logits(X, parameters), teacher, labels)):
            raise FloatingPointError(
                f"the validation loss is not finite after epoch {epoch}: "
                + _why_not_finite(X, teacher, rows)
            )
    return {f"val_{name}": value for name, value in scores.means().items()}


def _logits(X: Array, parameters: Array, out: Array | None = None) -> Array:
    result: Array = np.matmul(X, parameters[:-1], out=out)
    result += parameters[-1]
    return result


def _best_epoch(history: list[Record]) -> int:
    losses = [record["val_loss"] for record in history]
    return losses.index(min(losses)) + 1


def _out_of_patience(state: _State, settings: Settings) -> bool:
    if settings.patience is None or not state.history:
        return False
    return state.epoch - _best_epoch(state.history) >= settings.patience


def _why_not_finite(X: Array, teacher: Array | None, rows: Array) -> str:
    """The likely cause of a loss that is not finite, from the batch that gave it."""
    finite = np.isfinite(X).all(axis=1)
    if not finite.all():
        return f"row {rows[finite.argmin()]} of its X is not finite"
    if teacher is not None:
        # A teacher may mask classes with -inf, but not all; NaN and +inf are their row's largest.
        finite = np.isfinite(teacher.max(axis=1))
        if not finite.all():
            return f"row {rows[finite.argmin()]} of its teacher_logits has NaN, +inf or only -inf"
    return DIVERGED


def _split(
    data: _Data, validation: float | tuple[Any, Any, Any] | None, settings: Settings
) -> tuple[_Data, _Data | None]:
    """Training and validation data."""
    if validation is None:
        return data, None
    if isinstance(validation, tuple):
        if len(validation) != 3:
            raise ValueError(
                f"validation must be (X, labels, teacher_logits), not {len(validation)} values"
            )
        held_out = _check_data(
            *validation,
            settings.alpha,
            features=data.features,
            classes=data.classes,
            prefix="validation ",
        )
        return data, dataclasses.replace(held_out, dtype=data.dtype)
    if not isinstance(validation, numbers.Real) or isinstance(validation, bool):
        raise TypeError(
            "validation must be a share of the rows or (X, labels, teacher_logits), "
            f"not {type(validation).__name__}"
        )
    count = round(len(data.rows) * float(validation)) if 0 < validation < 1 else 0
    if not 0 < count < len(data.rows):
        raise ValueError(
            "validation must be in (0, 1) and leave rows on both sides, "
            f"not {validation} of {len(data.rows)} rows"
        )
    # Epochs count from 1, which leaves the generator (seed, 0) for this.
    order = np.random.default_rng((settings.seed, 0)).permutation(data.rows)
    held_out_rows, training_rows = np.sort(order[:count]), np.sort(order[count:])
    return (
        dataclasses.replace(data, rows=training_rows),
        dataclasses.replace(data, rows=held_out_rows),
    )


def _warn_of_probabilities(data: _Data, size: int) -> None:
    if data.teacher is None or data.classes == 1:
        return
    first = _take(data.teacher, data.rows[:size], np.dtype(np.float64))
    if not ((first >= 0) & (first <= 1)).all():
        return
    if (np.abs(first.sum(axis=1) - 1) <= SUM_TOLERANCE).all():
        warnings.warn(
            "teacher_logits look like probabilities; pass logits, or their logarithm "
            "(log-probabilities are valid logits)",
            UserWarning,
            stacklevel=4,  # the caller of fit or resume
        )


def _check_data(
    X: Any,
    labels: npt.ArrayLike | None,
    teacher_logits: Any,
    alpha: float,
    *,
    features: int | None = None,
    classes: int | None = None,
    prefix: str = "",
) -> _Data:
    """Training or validation data; `features` and `classes` are those expected, where known."""
    X = _check_rows(f"{prefix}X", X, columns=features)
    rows = int(X.shape[0])

    name = f"{prefix}teacher_logits"
    if teacher_logits is not None:
        teacher_logits = _check_rows(name, teacher_logits, rows=rows, columns=classes)
        classes = int(teacher_logits.shape[1])
    elif alpha != 1:
        raise ValueError(f"{name} may be None only if alpha is 1, not {alpha}")

    name = f"{prefix}labels"
    if labels is None:
        if alpha != 0:
            raise ValueError(f"{name} may be None only if alpha is 0, not {alpha}")
        labels = np.full(rows, UNLABELLED)
    labels = check_labels(labels, rows, classes, name)
    if classes is None:
        classes = int(labels.max(initial=0)) + 1
    unlabelled = labels == UNLABELLED
    if teacher_logits is None and unlabelled.any():
        raise ValueError(
            f"{prefix}teacher_logits is None, but {name} row {int(unlabelled.argmax())} is -1, "
            "which learns from the teacher alone"
        )

    used = np.flatnonzero(labels != PADDING)
    if len(used) == 0:
        raise ValueError(f"{prefix}X has no row to use: it has {rows}, labelled -100 if any")
    is_float32 = X.dtype.newbyteorder("=") == np.float32
    dtype = np.dtype(np.float32 if is_float32 else np.float64)
    return _Data(X, labels, teacher_logits, used, classes, dtype)


def _check_rows(
    name: str, value: Any, *, rows: int | None = None, columns: int | None = None
) -> Any:
    """Return `value` (rows, columns) as it is if it can be read in slices, else as an array."""
    if not (hasattr(value, "shape") and isinstance(getattr(value, "dtype", None), np.dtype)):
        value = np.asarray(value)
    if value.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be real numbers, not {value.dtype}")
    shape = tuple(value.shape)
    fits = len(shape) == 2 and shape[1] > 0
    if not (fits and rows in (None, shape[0]) and columns in (None, shape[1])):
        expected = f"({'N' if rows is None else rows}, {'> 0' if columns is None else columns})"
        raise ValueError(f"{name} must have shape {expected}, not {shape}")
    if np.asarray(value[:1]).shape[1:] != shape[1:]:  # a sparse matrix, for one
        raise TypeError(
            f"{name} must give arrays when sliced, which {type(value).__name__} does not"
        )
    return value


def _check_weights(value: npt.ArrayLike, shape: tuple[int, int]) -> Array:
    weights = np.asarray(value)
    if weights.dtype.kind not in "fiu":
        raise TypeError(f"initial_weights must be real numbers, not {weights.dtype}")
    if weights.shape != shape:
        raise ValueError(
            f"initial_weights must have shape (features, classes) = {shape}, not {weights.shape}"
        )
    if not np.isfinite(weights).all():
        raise ValueError("initial_weights must be finite")
    return weights


def _take(source: Any, rows: Array, dtype: np.dtype[Any]) -> Array:
    """Sorted `rows` of an array, as `dtype`; a run of them is a slice, which copies nothing."""
    if rows[-1] - rows[0] == len(rows) - 1:
        return np.asarray(source[int(rows[0]) : int(rows[-1]) + 1], dtype)
    return np.asarray(source[rows], dtype)


def _block_rows(parameters: Array) -> int:
    return max(1, BLOCK_ELEMENTS // int(max(parameters.shape)))
