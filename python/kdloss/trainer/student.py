"""A linear student, trained on the knowledge-distillation loss by mini-batch SGD or by L-BFGS.

One step of SGD, with a batch X (B, D) of features, teacher logits T (B, C) and labels y (B,):

    logits = X W + b                                       (B, C)
    loss, G = kd_loss_and_grad(logits, T, y, alpha, tau)   G (B, C), of the batch's mean loss
    v = momentum v + X^T G + l2 W                          (D, C)
    W = W - learning_rate v

L-BFGS minimises the mean loss of all rows.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from .._arrays import Array, check_weights
from .._frames import column_names, series_array
from ..losses import Divergence, kd_loss_parts
from ..metrics import MetricSums
from ..softmax import softmax_temp
from . import file, lbfgs
from .checks import Given, check_features, check_initial_weights, prepare, prepare_again
from .class_names import class_indices, matching_columns, read_labels
from .columns import Columns, named_features, refuse_not_finite
from .epochs import Record, State, block_rows, compute_logits, train
from .outcome import warn_of_outcome
from .rows import Rows, standardize, take
from .settings import Settings


class LinearStudent:
    """Linear classifier ``softmax(x W + b)`` that learns from labels and from a fixed teacher.

    It minimises the mean of the knowledge-distillation loss

        alpha * -log softmax(s)[y] + (1 - alpha) * tau^2 * KL(softmax(t/tau) || softmax(s/tau))

    with student logits s = x W + b and teacher logits t. A row labelled -1 (unlabelled) learns from
    the teacher alone. A row labelled -100 (padding) is never read. Labels may be soft, there may be
    several teachers, and each row may have a weight and its own alpha: see `fit`.

    Parameters
    ----------
    alpha : float in [0, 1]
        Weight of the labels; the teacher's is 1 - alpha.
    tau : float > 0
        Temperature.
    learning_rate : float > 0
        Initial learning rate.
    epochs : int, optional
        Passes over the rows, by default 50. With "lbfgs" the largest number of iterations, by
        default 1000; an iteration takes one pass, seldom more.
    batch_size : int
        Rows per step; the last batch of an epoch may have fewer.
    schedule : {"constant", "cosine", "step"}
        How the learning rate changes from epoch to epoch: not at all; along half a cosine that
        would reach 0 after the last epoch; or divided by 10 at one half and again at three quarters
        of the epochs.
    momentum : float in [0, 1)
        m in ``v = m v + g, W = W - learning_rate v``, as in PyTorch's SGD.
    l2 : float >= 0
        ``l2/2 * sum(W^2)`` is added to the objective, and so ``l2 * W`` to the gradient. It does
        not apply to the bias, and the reported loss does not include it.
    bias : bool
        Whether to learn b; otherwise it stays 0.
    shuffle : bool
        Whether each epoch visits the rows in a new random order, or always in the given order.
    seed : int
        Decides the order of rows and the validation split. Equal seeds give equal students.
    patience : int, optional
        Stop after this many epochs without a new lowest validation loss. The student is then that
        of its best epoch, even if training was not stopped early.
    standardize : bool
        Whether to shift and scale each feature by its mean and standard deviation over the training
        rows. Predictions do the same.
    solver : {"sgd", "lbfgs"}
        How the loss is minimised: by stochastic gradient descent; or by L-BFGS on all rows at once,
        without a learning rate, which needs SciPy: ``pip install 'kdloss[lbfgs]'``. learning_rate,
        batch_size, schedule, momentum and shuffle are settings of "sgd".
    tolerance : float > 0
        "lbfgs" stops when no entry of the gradient of the objective (mean loss and l2 term) is
        larger than this.
    divergence : {"kl", "reverse_kl", "js", "tv", "mse"}
        The divergence of the soft loss: see `kdloss.kd_loss_batch`. With "kl" and "mse" the loss is
        convex in W and b, and "lbfgs" finds its optimum. With the others it finds a local optimum.
    beta : float in [0, 1]
        The teacher's weight in "js".

    Attributes
    ----------
    settings : Settings
        The parameters above.
    weights : (D, C) array
        W; float32 if the features are float32 and the solver is "sgd", otherwise float64.
    bias : (C,) array
        b, or zeros.
    history : list of dict
        One record per epoch: ``epoch`` (from 1), ``learning_rate``, ``loss``, ``hard``, ``soft``,
        ``accuracy``, ``nll``, ``brier`` and ``ece``. With validation also the last seven for the
        validation rows, as ``val_loss`` and so on, and ``best_epoch``, the epoch with the lowest
        ``val_loss`` so far. See `fit`. With "lbfgs" there is ``gradient``, the largest entry of the
        gradient, in place of ``learning_rate``, and all scores are those of the student after the
        epoch.

    Examples
    --------
    >>> import numpy as np
    >>> from kdloss import LinearStudent
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(300, 4))
    >>> teacher_logits = X @ rng.normal(size=(4, 3))
    >>> labels = teacher_logits.argmax(axis=1)
    >>> labels[20:] = -1                                   # only the teacher labels these
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
        epochs: int | None = None,
        batch_size: int = 128,
        schedule: str = "constant",
        momentum: float = 0.0,
        l2: float = 0.0,
        bias: bool = True,
        shuffle: bool = True,
        seed: int = 0,
        patience: int | None = None,
        standardize: bool = False,
        solver: str = "sgd",
        tolerance: float = 1e-4,
        divergence: Divergence = "kl",
        beta: float = 0.5,
    ) -> None:
        self.settings = Settings(
            alpha=alpha,
            tau=tau,
            learning_rate=learning_rate,
            epochs=epochs,  # type: ignore[arg-type]
            batch_size=batch_size,
            schedule=schedule,
            momentum=momentum,
            l2=l2,
            bias=bias,
            shuffle=shuffle,
            seed=seed,
            patience=patience,
            standardize=standardize,
            solver=solver,
            tolerance=tolerance,
            divergence=divergence,
            beta=beta,
        )
        self._state: State | None = None
        self._columns: Columns | None = None

    def __getattr__(self, name: str) -> Any:
        """Read a setting by its name."""
        if name in Settings.__dataclass_fields__ and "settings" in self.__dict__:
            return getattr(self.settings, name)
        raise AttributeError(f"LinearStudent has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in Settings.__dataclass_fields__:
            raise AttributeError(
                f"the setting {name!r} of a LinearStudent cannot be changed; make a new student, "
                f"LinearStudent({name}=...)"
            )
        if name not in ("settings", "_state", "_columns"):
            raise AttributeError(
                f"LinearStudent has no attribute {name!r} to set; its settings are arguments of "
                "LinearStudent(...)"
            )
        super().__setattr__(name, value)

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

    @property
    def classes_(self) -> Array:
        """The names of the classes (C,)."""
        return self._named.classes

    @property
    def feature_names_in_(self) -> tuple[str, ...] | None:
        """The names of the features (D,), or None if they have no names."""
        return self._named.features

    @property
    def mean_(self) -> Array | None:
        """The mean of each feature (D,), or None if features are not standardized."""
        return self._named.mean

    @property
    def scale_(self) -> Array | None:
        """The standard deviation of each feature (D,), or None if they are not standardized."""
        return self._named.scale

    def fit(
        self,
        X: Any,
        labels: Any,
        teacher_logits: Any,
        *,
        sample_weight: npt.ArrayLike | None = None,
        alpha_per_row: npt.ArrayLike | None = None,
        teacher_weights: npt.ArrayLike | None = None,
        validation: float | tuple[Any, ...] | None = None,
        n_classes: int | None = None,
        classes: npt.ArrayLike | None = None,
        initial_weights: npt.ArrayLike | None = None,
        progress: Callable[[Record], object] | None = None,
    ) -> LinearStudent:
        """Train from the start, discarding any earlier training.

        The training scores in `history` are computed from each batch just before the step on it, so
        they need no extra pass. Validation rows are scored after the epoch. ``loss`` and ``soft``
        are means over all rows; ``soft`` is NaN without a teacher. ``hard``, ``accuracy``, ``nll``
        (equal to ``hard``), ``brier`` and ``ece`` are means over labelled rows, and NaN if there
        are none. With ``sample_weight`` these means and the loss of each step are weighted.

        Parameters
        ----------
        X : (N, D) array of numbers, or data frame
            Finite features. Any array-like with ``shape``, ``dtype`` and slicing by rows, such as a
            memory-mapped file, is read one batch at a time, after one pass that checks it. A sparse
            matrix or array of SciPy's is read as CSR. The column names of a data frame (pandas,
            polars, Arrow) are stored, and matched in prediction.
        labels : (N,) array of integers, text or booleans, or (N, C) array of floats, or None
            One of

            - classes in [0, C), -1 for a row that only the teacher labels, -100 for a row to leave
              out. Floats that are whole numbers are read as integers, NaN as -1.
            - names of classes, text or booleans; None, NaN and "" mark rows that only the teacher
              labels. The order of the names is that of `classes`, or else that of the teacher's
              columns if it is a data frame, or else they are sorted.
            - soft labels: rows of probabilities, with zeros for a row that only the teacher labels.
              They are read in batches like X.

            None only if alpha is 0.
        teacher_logits : (N, C) array of numbers, or data frame, or list of such arrays, or None
            Logits, not probabilities; log-probabilities are logits. They are read in batches like
            X; float16, bfloat16, float32 and float64 in place. The columns of a data frame are
            matched to the classes by name if the labels are names or the column names are whole
            numbers, otherwise by position. From several teachers the student learns the mean of
            their softened outputs, see `ensemble_logits`. None only if alpha is 1 and no row is
            labelled -1.
        sample_weight : (N,) array of numbers >= 0, optional
            Each row's weight. A row of weight 0 is never read.
        alpha_per_row : (N,) array of numbers in [0, 1], optional
            Each row's own alpha, in place of the setting.
        teacher_weights : (K,) array of numbers >= 0, optional
            The weights of the K teachers in their mean; equal by default.
        validation : float in (0, 1), or tuple of arrays, optional
            A share of the rows, labelled or not, drawn with the seed and held out; or ``(X, labels,
            teacher_logits)``, which ``sample_weight`` and ``alpha_per_row`` may follow.
        n_classes : int, optional
            C; by default that of the teacher, or without one the largest label + 1. It also states
            that -1 is not a class.
        classes : (C,) array of integers, text or booleans, optional
            The names of the classes, in the order of the teacher's columns, such as ``[-1, 1]``.
            Required if the labels are text with fewer names than the teacher has columns.
        initial_weights : (D, C) array, optional
            W before the first step, instead of zeros. The bias starts at 0.
        progress : callable, optional
            Called with the record of each finished epoch. It may call `save`, and may stop the
            training by raising an exception.

        Returns
        -------
        LinearStudent
            The student itself.

        Raises
        ------
        TypeError, ValueError
            If an argument has another type, shape or range, or if it is ambiguous whether -1 is a
            class. The student is unchanged.
        FloatingPointError
            If the loss is no longer finite. The student is as it was after its last whole epoch.

        Warns
        -----
        UserWarning
            Before training: if the teacher's logits look like probabilities; if the teacher agrees
            with the labels no better than by chance, or would agree with its columns permuted or
            its rows reversed; if labels seem to count from 1; if a class has no label in
            validation. After training: if the loss is higher than in the first epoch; if a student
            of labels alone is worse than predicting the frequencies of the classes; if the student
            predicts one class for all rows.

        Examples
        --------
        >>> import numpy as np
        >>> from kdloss import LinearStudent
        >>> X, teacher_logits = np.eye(3), 5 * np.eye(3)
        >>> student = LinearStudent(epochs=30, learning_rate=1.0)
        >>> student.fit(X, [0, 1, -1], teacher_logits).predict(X)
        array([0, 1, 2])
        """
        given = Given(X, labels, teacher_logits, sample_weight, alpha_per_row, teacher_weights)
        data, held_out, columns = prepare(
            given, validation, self.settings, n_classes=n_classes, classes=classes
        )
        parameters = np.zeros((data.features + 1, data.classes), data.dtype)
        if initial_weights is not None:
            parameters[:-1] = check_initial_weights(initial_weights, parameters[:-1].shape)
        start = State(parameters, np.zeros_like(parameters), parameters, [])
        self._train(self.settings, start, data, held_out, columns, progress)
        return self

    def resume(
        self,
        X: Any,
        labels: Any,
        teacher_logits: Any,
        *,
        sample_weight: npt.ArrayLike | None = None,
        alpha_per_row: npt.ArrayLike | None = None,
        teacher_weights: npt.ArrayLike | None = None,
        epochs: int | None = None,
        validation: float | tuple[Any, ...] | None = None,
        progress: Callable[[Record], object] | None = None,
    ) -> LinearStudent:
        """Continue training, up to `epochs` epochs in total.

        With the same data and on the same machine, a training by SGD that was interrupted and
        resumed, also by another process after `save` and `load`, gives the same bits as one without
        an interruption. After an interruption the student is as it was after its last whole epoch;
        `progress` can save it.

        Parameters
        ----------
        X, labels, teacher_logits, sample_weight, alpha_per_row, teacher_weights
            As in `fit`; pass the same again.
        validation, progress
            As in `fit`.
        epochs : int, optional
            The total number of epochs, including those already done; by default that of the
            settings. Another number replaces it there. The schedules "cosine" and "step" span the
            total, so with a new total only "constant" gives the same as one training of that
            length. "lbfgs" continues to the same optimum with other bits, because its estimate of
            the curvature is not stored.

        Returns
        -------
        LinearStudent
            The student itself; unchanged if it has run out of patience.

        Raises
        ------
        TypeError, ValueError, FloatingPointError
            As in `fit`; ValueError also if features or classes are not those of the student, if
            more epochs are already done, or if validation is given but the earlier epochs had none.
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
                f"epochs is {settings.epochs}, expected at least {state.epoch}, those already done"
            )
        if validation is not None and "val_loss" not in state.history[-1]:
            raise ValueError("validation is given, expected None, as in the earlier epochs")
        given = Given(X, labels, teacher_logits, sample_weight, alpha_per_row, teacher_weights)
        data, held_out = prepare_again(
            given,
            validation,
            settings,
            self._named,
            features=len(self.weights),
            dtype=state.parameters.dtype,
        )
        self._train(settings, state, data, held_out, self._named, progress)
        return self

    def logits(self, X: Any) -> Array:
        """Return the logits x W + b.

        Parameters
        ----------
        X : (N, D) array of numbers, or data frame
            Finite features, read in blocks of rows. The columns of a data frame are matched to
            those of training by name; those of an array by position.

        Returns
        -------
        (N, C) array
            Of the type of the weights.

        Raises
        ------
        TypeError, ValueError
            If X has another type or shape, is not finite, or has other column names.
        RuntimeError
            If the student was never trained.

        Warns
        -----
        UserWarning
            If X is a data frame, but the student was trained on features without names.
        """
        X = self._check_features(X)
        result = np.empty((X.shape[0], self._served.shape[1]), self._served.dtype)
        self._compute_logits(X, np.arange(len(result)), out=result)
        return result

    def predict_proba(self, X: Any) -> Array:
        """Return the probabilities softmax(x W + b), at temperature 1.

        Parameters, errors and warnings are those of `logits`.

        Returns
        -------
        (N, C) array
            Of the type of the weights; each row sums to 1.
        """
        logits = self.logits(X)
        return np.asarray(softmax_temp(logits, out=logits))

    def predict(self, X: Any) -> Array:
        """Return the name of the most probable class of each row, the first one in a tie.

        Parameters, errors and warnings are those of `logits`.

        Returns
        -------
        (N,) array
            Entries of `classes_`: integers, unless the labels were names.
        """
        return np.asarray(self.classes_[self.logits(X).argmax(axis=1)])

    def evaluate(
        self, X: Any, labels: Any, *, sample_weight: npt.ArrayLike | None = None
    ) -> Record:
        """Return the scores of the predictions for labelled rows.

        Parameters
        ----------
        X : (N, D) array of numbers, or data frame
            As in `logits`; rows that do not count are not read.
        labels : (N,) or (N, C) array
            As in `fit`, with the names in `classes_`.
        sample_weight : (N,) array of numbers >= 0, optional
            Each row's weight; a row of weight 0 does not count.

        Returns
        -------
        dict of str to float
            ``accuracy``, ``nll``, ``brier`` and ``ece``, as in `kdloss.metrics` and in `history`;
            NaN if no row is labelled.

        Raises
        ------
        TypeError, ValueError
            If an argument has another type, shape or range, or a label is not one of the classes.
        RuntimeError
            If the student was never trained.

        Examples
        --------
        >>> import numpy as np
        >>> from kdloss import LinearStudent
        >>> X, labels = np.eye(2), ["cat", "dog"]
        >>> student = LinearStudent(alpha=1, epochs=20, learning_rate=1.0).fit(X, labels, None)
        >>> student.predict(X).tolist(), student.evaluate(X, labels)["accuracy"]
        (['cat', 'dog'], 1.0)
        """
        X = self._check_features(X)
        names = self.classes_
        weight = None
        if sample_weight is not None:
            weight = check_weights(series_array(sample_weight), int(X.shape[0]))
        known = class_indices(labels, names, sample_weight=weight)
        check_features("X", X, rows=len(known))
        rows = np.flatnonzero(known >= 0)
        targets: Any = known
        if np.ndim(labels) == 2:
            columns = matching_columns(column_names("labels", labels), names)
            targets = read_labels("labels", labels, columns)
        sums, hard, total = MetricSums(), 0.0, 0.0
        size = block_rows(self._served)
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            logits = self._compute_logits(X, some)
            w = None if weight is None else weight[some]
            share = float(len(some) if w is None else w.sum())
            parts = kd_loss_parts(logits, None, targets[some], alpha=1.0, sample_weight=w)
            hard, total = hard + share * parts.hard, total + share
            sums.add(softmax_temp(logits), targets[some], w)
        means = sums.means()
        nll = hard / total if total else float("nan")
        return {"accuracy": means["accuracy"], "nll": nll, **means}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the student to one .npz file, with all that `resume` needs.

        The file is replaced atomically. It holds plain arrays that NumPy reads without pickle:
        ``weights`` and ``bias``; ``parameters`` and ``velocity`` (D + 1, C) of the last epoch, with
        the bias in the last row; ``classes``; if there are any, ``features`` (their names),
        ``mean`` and ``scale``; ``settings`` and ``history`` as JSON text.

        Parameters
        ----------
        path : path
            Where to write; no suffix is added.

        Raises
        ------
        OSError
            If the file cannot be written.
        RuntimeError
            If the student was never trained.
        """
        file.write(path, self.settings, self._trained, self._served, self._named)

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
            If the file does not exist or cannot be read.
        ValueError
            If it is not a student, or has a format that this version does not know.
        """
        settings, state, columns = file.read(path)
        student = cls(**dataclasses.asdict(settings))
        student._state, student._columns = state, columns
        return student

    @property
    def _trained(self) -> State:
        if self._state is None:
            raise RuntimeError("this LinearStudent is not trained yet: call fit or load first")
        return self._state

    @property
    def _served(self) -> Array:
        state = self._trained
        return state.parameters if self.settings.patience is None else state.best

    @property
    def _named(self) -> Columns:
        if self._columns is None:
            raise RuntimeError("this LinearStudent is not trained yet: call fit or load first")
        return self._columns

    def _check_features(self, X: Any) -> Any:
        """Features as an array, in the order of training."""
        X = named_features("X", X, self._named.features)
        return check_features("X", X, columns=len(self._served) - 1)

    def _compute_logits(self, X: Any, rows: Array, out: Array | None = None) -> Array:
        """The logits of these rows, in blocks."""
        parameters, columns = self._served, self._named
        if out is None:
            out = np.empty((len(rows), parameters.shape[1]), parameters.dtype)
        size = block_rows(parameters)
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            block = take(X, some, parameters.dtype)
            refuse_not_finite("X", block, some, columns.features)
            block = standardize(block, columns.mean, columns.scale)
            compute_logits(block, parameters, out=out[start : start + size])
        return out

    def _train(
        self,
        settings: Settings,
        state: State,
        data: Rows,
        held_out: Rows | None,
        columns: Columns,
        progress: Callable[[Record], object] | None,
    ) -> None:
        if settings.patience is not None and held_out is None:
            raise ValueError(
                f"patience is {settings.patience}, expected validation with it: a share of the "
                "rows, or arrays"
            )
        self.settings = settings
        solve = lbfgs.train if settings.solver == "lbfgs" else train

        def after_epoch(later: State) -> None:
            self._state, self._columns = later, columns
            if progress is not None:
                progress(dict(later.history[-1]))

        solve(state, settings, data, held_out, after_epoch)
        if len(self.history) > state.epoch:
            warn_of_outcome(self.history, self._served, data, columns.classes)
