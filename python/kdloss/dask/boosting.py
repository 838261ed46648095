"""Objectives and a metric for boosters on Dask: each worker fetches the teacher of its own rows."""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any, Literal, Self, cast, get_args

import numpy as np
import numpy.typing as npt

from .._arrays import Array
from .._boosting import REPORTED
from .chunks import (
    Block,
    DaskArray,
    aligned,
    chunked,
    dask,
    distributed,
    number_or_rows,
    one_row,
    parts,
    threads_of_task,
)
from .losses import weights

MeanName = Literal["loss", "hard", "soft", "accuracy", "nll", "brier"]
Library = Literal["xgboost", "lightgbm"]

MOST = 2**24  # float32 represents integers exactly up to here
FETCH_SECONDS = 300.0


def xgboost_objective(
    teacher_logits: DaskArray | None,
    labels: DaskArray | npt.ArrayLike | None,
    *,
    alpha: DaskArray | npt.ArrayLike = 0.5,
    tau: DaskArray | npt.ArrayLike = 4.0,
    num_threads: int | None = None,
    **options: Any,
) -> DaskObjective:
    """An objective for ``obj=`` of `xgboost.dask.train`, whose teacher is a Dask array.

    The formula is that of `kdloss.xgboost.kd_objective`. XGBoost does not tell a worker which rows
    it has. So pass ``objective.rows`` as the labels of the DaskDMatrix; with them each worker
    fetches the teacher and the labels of its rows, once::

        objective = xgboost_objective(T, y)
        params = {"objective": "multi:softprob", "num_class": K, "disable_default_eval_metric": 1}
        train = xgboost.dask.DaskDMatrix(client, X, objective.rows)
        result = xgboost.dask.train(client, params, train, obj=objective)

    Parameters
    ----------
    teacher_logits : dask array (rows, classes) of float, or None
        In the chunks of the features, which are chunked only by rows. With two classes it may be a
        margin, (rows, 1). None only if ``alpha`` is 1.
    labels : dask array or array_like, or None
        As in `kd_loss_batch`, with -100 for padding. None only if ``alpha`` is 0. It must be a Dask
        array if there is no teacher.
    alpha, tau : float, or dask array or array_like (rows,)
        As in `kdloss.kd_loss_batch`.
    num_threads : int, optional
        By default the threads of the worker.
    **options
        ``class_weight``, ``label_smoothing``, ``hess`` and the other keywords of
        `kdloss.xgboost.kd_objective`.

    Returns
    -------
    DaskObjective
        With the attribute ``rows``, a Dask array (rows,) of float32. As long as it lives, the
        teacher and the labels stay in the workers' memory.

    Raises
    ------
    ValueError, TypeError
        For shapes, chunks and options that do not match, and for more than 2**24 chunks or rows in
        a chunk. ValueError also if there is no Dask client.

    References
    ----------
    Chen, Guestrin: XGBoost, arXiv:1603.02754 (2016).

    Examples
    --------
    >>> import dask.array, numpy as np, xgboost.dask
    >>> from distributed import Client
    >>> from kdloss.dask import xgboost_objective
    >>> X = dask.array.arange(6.0, chunks=3).reshape(6, 1)
    >>> T = dask.array.from_array(3 * np.eye(3)[[0, 0, 1, 1, 2, 2]], chunks=(3, 3))
    >>> params = {"objective": "multi:softprob", "num_class": 3, "min_child_weight": 0}
    >>> with Client(processes=False, n_workers=1, dashboard_address="127.0.0.1:0") as client:
    ...     objective = xgboost_objective(T, [0, 0, 1, 1, 2, 2])
    ...     train = xgboost.dask.DaskDMatrix(client, X, objective.rows)
    ...     result = xgboost.dask.train(client, params, train, 5, obj=objective)
    >>> result["booster"].inplace_predict(np.arange(6.0).reshape(6, 1)).argmax(axis=1)
    array([0, 0, 1, 1, 2, 2])
    """
    return DaskObjective(
        "xgboost", teacher_logits, labels, alpha, tau, num_threads=num_threads, **options
    )


def lightgbm_objective(
    teacher_logits: DaskArray | None,
    labels: DaskArray | npt.ArrayLike | None,
    *,
    alpha: DaskArray | npt.ArrayLike = 0.5,
    tau: DaskArray | npt.ArrayLike = 4.0,
    num_threads: int | None = None,
    **options: Any,
) -> DaskObjective:
    """An objective for `lightgbm.DaskLGBMRegressor`, whose teacher is a Dask array.

    The formula is that of `kdloss.lightgbm.kd_objective`. As with `xgboost_objective`, pass
    ``objective.rows`` as the labels::

        objective = lightgbm_objective(T, y)
        model = lightgbm.DaskLGBMRegressor(objective=objective, num_class=K, metric="None")
        model.fit(X, objective.rows)
        probabilities = kdloss.softmax_temp(model.to_local().predict(X_new))

    Use the regressor: the classifier would read each row's number as a class. It predicts logits.

    Parameters
    ----------
    teacher_logits, labels, alpha, tau, num_threads
        As in `xgboost_objective`.
    **options
        The other keywords of `kdloss.lightgbm.kd_objective`.

    Returns
    -------
    DaskObjective
        As in `xgboost_objective`.

    Raises
    ------
    ValueError, TypeError
        As in `xgboost_objective`, and for a chunk without rows.

    References
    ----------
    Ke et al.: LightGBM: A Highly Efficient Gradient Boosting Decision Tree, NIPS (2017).

    Examples
    --------
    >>> import warnings, dask.array, lightgbm, numpy as np
    >>> from distributed import Client
    >>> from kdloss.dask import lightgbm_objective
    >>> X = dask.array.arange(60.0, chunks=60).reshape(60, 1)
    >>> T = dask.array.from_array(3 * np.eye(3)[np.arange(60) // 20], chunks=(60, 3))
    >>> with warnings.catch_warnings(action="ignore"), Client(
    ...     processes=False, n_workers=1, dashboard_address="127.0.0.1:0"
    ... ) as client:  # LightGBM warns that it takes the workers' threads, not n_jobs
    ...     objective = lightgbm_objective(T, None, alpha=0)
    ...     model = lightgbm.DaskLGBMRegressor(
    ...         objective=objective, num_class=3, metric="None", n_estimators=5,
    ...         min_child_samples=5, verbose=-1,
    ...     ).fit(X, objective.rows).to_local()
    Finding random open ports for workers
    >>> model.predict([[0.0], [30.0], [50.0]]).argmax(axis=1)
    array([0, 1, 2])
    """
    return DaskObjective(
        "lightgbm", teacher_logits, labels, alpha, tau, num_threads=num_threads, **options
    )


def xgboost_metric(
    teacher_logits: DaskArray | None,
    labels: DaskArray | npt.ArrayLike | None,
    *,
    name: MeanName = "loss",
    alpha: DaskArray | npt.ArrayLike = 0.5,
    tau: DaskArray | npt.ArrayLike = 4.0,
    num_threads: int | None = None,
    **options: Any,
) -> DaskMetric:
    """A metric for ``custom_metric=`` of `xgboost.dask.train`, for one evaluation set.

    It is the weighted mean of the quantity ``name`` over the rows of all workers. Pass
    ``metric.rows`` as the labels of the evaluation set::

        metric = xgboost_metric(T_valid, y_valid)
        valid = xgboost.dask.DaskDMatrix(client, X_valid, metric.rows)
        result = xgboost.dask.train(
            client, params, train, 500, obj=objective, evals=[(valid, "valid")],
            custom_metric=metric, early_stopping_rounds=10,
        )

    Parameters
    ----------
    teacher_logits, labels, alpha, tau, num_threads
        As in `xgboost_objective`, for the rows of the evaluation set.
    name : {"loss", "hard", "soft", "accuracy", "nll", "brier"}
        As in `kdloss.xgboost.kd_metric`, without "ece", which is not a mean over rows.
    **options
        The other keywords of `kdloss.xgboost.kd_metric`.

    Returns
    -------
    DaskMetric
        With the attribute ``rows``, as in `xgboost_objective`.

    Raises
    ------
    ValueError, TypeError
        As in `xgboost_objective`, and for another ``name``.

    References
    ----------
    Chen, Guestrin: XGBoost, arXiv:1603.02754 (2016).

    Examples
    --------
    >>> import dask.array, numpy as np, xgboost.dask
    >>> from distributed import Client
    >>> from kdloss.dask import xgboost_metric, xgboost_objective
    >>> X = dask.array.arange(6.0, chunks=3).reshape(6, 1)
    >>> T = dask.array.from_array(3 * np.eye(3)[[0, 0, 1, 1, 2, 2]], chunks=(3, 3))
    >>> params = {"num_class": 3, "min_child_weight": 0, "disable_default_eval_metric": 1}
    >>> with Client(processes=False, n_workers=1, dashboard_address="127.0.0.1:0") as client:
    ...     objective = xgboost_objective(T, [0, 0, 1, 1, 2, 2])
    ...     metric = xgboost_metric(T, [0, 0, 1, 1, 2, 2], name="accuracy")
    ...     train, valid = (
    ...         xgboost.dask.DaskDMatrix(client, X, each.rows) for each in (objective, metric)
    ...     )
    ...     result = xgboost.dask.train(
    ...         client, params, train, 3, obj=objective, evals=[(valid, "valid")],
    ...         custom_metric=metric,
    ...     )
    >>> result["history"]["valid"]["prediction_accuracy"]
    [1.0, 1.0, 1.0]
    """
    return DaskMetric(name, teacher_logits, labels, alpha, tau, num_threads=num_threads, **options)


class _Blocks:
    """A block of teacher and labels for each chunk, in the workers' memory, found by row labels.

    The label of a row is its index in its chunk, except that the first row of a chunk has the label
    -1 minus the chunk's number. Trainers keep the rows of a chunk together, so the labels tell
    which rows a worker has. Each object numbers its chunks from where the previous object ended, so
    that the rows of another object are recognised and refused.
    """

    def __init__(self, teacher_logits: DaskArray | None, labels: Any, alpha: Any, tau: Any) -> None:
        if teacher_logits is None:
            like = chunked("labels", labels)
        else:
            like = chunked("teacher_logits", teacher_logits)
        sizes = like.chunks[0]
        if max(len(sizes), *sizes) > MOST:
            raise ValueError(
                f"{len(sizes)} chunks of up to {max(sizes)} rows, expected at most {MOST} chunks "
                "of as many rows"
            )
        self.given = Block(
            aligned("teacher_logits", teacher_logits, like, 2),
            aligned("labels", labels, like, 1, 2),
            number_or_rows("alpha", alpha, like),
            number_or_rows("tau", tau, like),
        )
        self.sizes, self._first = sizes, _numbers_for(len(sizes))
        self.rows = dask.array.map_blocks(
            _number, first=self._first, chunks=(sizes,), dtype=np.float32,
            meta=np.empty(0, np.float32),
        )  # fmt: skip
        client = distributed.get_client()
        chunks = zip(*(parts(value, len(sizes)) for value in self.given), strict=True)
        self._futures = client.compute([dask.delayed(Block)(*chunk) for chunk in chunks])
        self._keys = [future.key for future in self._futures]
        # Wait for all chunks: training occupies a thread of each worker, so that with one thread
        # none could be computed during training.
        counts = client.map(_count_classes, self._futures, pure=False)
        self.classes: int = max(client.gather(counts))

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what only the client needs."""
        return self.__dict__ | {"given": None, "rows": None, "_futures": None}

    def fetch(self, numbers: Array) -> Block:
        """The block of a worker's rows, which have the labels `numbers`."""
        client = distributed.get_client()
        fetched = []
        for chunk in self._chunks_of(numbers):
            future = distributed.Future(self._keys[chunk], client, state="memory")
            try:
                fetched.append(future.result(timeout=FETCH_SECONDS))
            except (TimeoutError, distributed.TimeoutError) as error:
                raise RuntimeError(
                    f"no worker has chunk {chunk} of the teacher's rows any more: make the "
                    "objective or metric again"
                ) from error
        return Block(*(_joined(values) for values in zip(*fetched, strict=True)))

    def _chunks_of(self, numbers: Array) -> list[int]:
        """The chunks of the rows with these labels, in order; refuses incomplete chunks."""
        starts = np.flatnonzero(numbers < 0)
        chunks = []
        for run in np.split(numbers, starts[1:]):
            chunk = int(-1 - run[0]) - self._first
            known = 0 <= chunk < len(self.sizes) and len(run) == self.sizes[chunk]
            if not known or (run[1:] != np.arange(1, len(run))).any():
                raise ValueError(
                    "the labels of a worker's rows are not the .rows of this objective or metric, "
                    "expected these as the labels, and X in the same chunks of rows"
                )
            chunks.append(chunk)
        return chunks


class _InWorkers:
    """Makes the objective or metric of kdloss.xgboost or .lightgbm for a worker's rows, once."""

    def __init__(
        self, function: Callable[..., Any], blocks: _Blocks, options: dict[str, Any]
    ) -> None:
        self._function, self._blocks, self._options = function, blocks, options
        self.rows = blocks.rows
        self._local: tuple[Array, Any] | None = None
        # A call with one row raises bad options at once.
        margins = np.zeros(1) if blocks.classes == 2 else np.zeros((1, blocks.classes))
        self._make(one_row(*blocks.given))(None, margins, None)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return the object itself: LightGBM copies its parameters."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what only the client, or only one worker, needs."""
        return self.__dict__ | {"rows": None, "_local": None}

    def of_worker(self, numbers: Array) -> tuple[Block, Any]:
        """The block of this worker's rows, and the objective or metric that was made for it."""
        if self._local is None or not np.array_equal(self._local[0], numbers):
            block = self._blocks.fetch(numbers)
            self._local = numbers.copy(), (block, self._make(block))
        return cast(tuple[Block, Any], self._local[1])

    def _make(self, block: Block) -> Callable[..., Any]:
        options = self._options
        if options["num_threads"] is None:
            options = options | {"num_threads": threads_of_task()}
        made: Callable[..., Any] = self._function(
            block.teacher, block.labels, alpha=block.alpha, tau=block.tau, **options
        )
        return made


class DaskObjective(_InWorkers):
    """What `xgboost_objective` and `lightgbm_objective` return."""

    def __init__(
        self, library: Library, teacher: Any, labels: Any, alpha: Any, tau: Any, **options: Any
    ) -> None:
        blocks = _Blocks(teacher, labels, alpha, tau)
        if library == "lightgbm" and 0 in blocks.sizes:
            raise ValueError(
                f"chunk {blocks.sizes.index(0)} has no rows, expected at least one, which LightGBM "
                "needs: rechunk"
            )
        self._library = library
        super().__init__(import_module(f"kdloss.{library}").kd_objective, blocks, options)

    def __call__(
        self, first: Any, second: Any, sample_weight: Array | None = None
    ) -> tuple[Array, Array]:
        """Gradient and curvature.

        XGBoost calls with (margins, DMatrix), LightGBM with (labels, margins, weights).
        """
        if self._library == "xgboost":
            numbers, margins, sample_weight = second.get_label(), first, second.get_weight()
        else:
            numbers, margins = first, second
        if len(margins) == 0:
            # XGBoost passes 1-D margins to a worker without rows, but expects a column per class.
            classes = self._blocks.classes
            nothing = np.zeros((0, 1 if classes == 2 else classes), np.float32)
            return nothing, nothing
        _, objective = self.of_worker(numbers)
        result: tuple[Array, Array] = objective(None, margins, sample_weight)
        return result


class DaskMetric(_InWorkers):
    """What `xgboost_metric` returns."""

    def __init__(
        self, name: MeanName, teacher: Any, labels: Any, alpha: Any, tau: Any, **options: Any
    ) -> None:
        if name not in get_args(MeanName):
            raise ValueError(f"name is {name!r}, expected one of {', '.join(get_args(MeanName))}")
        self._name = name
        blocks = _Blocks(teacher, labels, alpha, tau)
        function = import_module("kdloss.xgboost").kd_metric
        super().__init__(function, blocks, options | {"name": name})

    def __call__(self, margins: Array, dmatrix: Any) -> tuple[str, float]:
        """Name and value; the value is the same in all workers."""
        from xgboost import collective

        total = value = 0.0
        if len(margins):
            weight = dmatrix.get_weight() if dmatrix.get_weight().size else None
            block, metric = self.of_worker(dmatrix.get_label())
            every, labelled = weights(len(margins), block.labels, weight)
            total = every if self._name in ("loss", "soft") else labelled
            if total:
                value = total * metric(None, margins, weight)
        # XGBoost averages the workers' values without weights, so each returns the overall mean.
        value, total = collective.allreduce(np.array([value, total]), collective.Op.SUM)
        return REPORTED[self._name], float(value / total) if total else float("nan")


_numbered = 0
_numbering = threading.Lock()


def _numbers_for(count: int) -> int:
    """The first of `count` consecutive chunk numbers that no recent object of this process has."""
    global _numbered
    with _numbering:
        first = _numbered if _numbered + count <= MOST else 0
        _numbered = first + count
        return first


def _number(first: int, block_info: Any = None) -> Array:
    where = block_info[None]
    numbers = np.arange(*where["chunk-shape"], dtype=np.float32)
    numbers[:1] = -1 - first - where["chunk-location"][0]
    return numbers


def _count_classes(block: Block) -> int:
    for array in (block.teacher, block.labels):
        if array is not None and array.ndim == 2:
            return max(2, int(array.shape[1]))
    return max(2, int(block.labels.max(initial=1)) + 1)


def _joined(values: tuple[Any, ...]) -> Any:
    """Arrays of several blocks, concatenated; or the number or None that all blocks share."""
    return np.concatenate(values) if np.ndim(values[0]) else values[0]
