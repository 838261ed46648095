"""XGBoost students: objective, metric for early stopping, and starting score.

    import xgboost
    from kdloss.xgboost import kd_base_score, kd_objective

    params = {"objective": "multi:softprob", "num_class": K, "base_score": kd_base_score(T, y)}
    booster = xgboost.train(params, xgboost.DMatrix(X, y), obj=kd_objective(T, alpha=0.5, tau=4))
    probabilities = booster.predict(xgboost.DMatrix(X_new))

For two classes use ``"objective": "binary:logistic"`` and leave out ``num_class``: the booster has
one margin per row. XGBoost trains with ``obj``; the objective in the parameters only decides what
it predicts.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from . import _boosting
from ._boosting import Array, Curvature, MetricName, Rows
from .losses import Divergence

try:
    import xgboost
except ImportError as error:
    raise ImportError("kdloss.xgboost needs xgboost: pip install 'kdloss[xgboost]'") from error

__all__ = ["kd_base_score", "kd_metric", "kd_objective", "number_rows"]

FLOOR = np.float32(1e-16)  # the smallest curvature of XGBoost's own objectives
SHARE_ADDED = 1e-6  # XGBoost adds this to each class's share before the logarithm
HINT = ", or slice the DMatrix (as xgboost.cv does) from one that number_rows has numbered"
MOST_ROWS = 2**24  # float32 represents integers exactly up to here


def kd_objective(
    teacher_logits: npt.ArrayLike | None,
    labels: npt.ArrayLike | None = None,
    *,
    alpha: npt.ArrayLike = 0.5,
    tau: npt.ArrayLike = 4.0,
    class_weight: npt.ArrayLike | None = None,
    label_smoothing: float = 0.0,
    divergence: Divergence = "kl",
    beta: float = 0.5,
    hess: Curvature = "library",
    num_threads: int | None = None,
) -> KDObjective:
    r"""An objective for ``obj=`` of `xgboost.train` and ``cv``, or ``objective=`` of XGBClassifier.

    .. math::
        g = w \, (\alpha \, (p^{(1)} - e_y) + (1 - \alpha) \, \tau \, (p - q)), \quad
        h = 2 w \, (\alpha \, p^{(1)} (1 - p^{(1)}) + (1 - \alpha) \, p (1 - p))

    for the divergence "kl", with p1 = softmax(margins), p and q the softened outputs of student and
    teacher, and the dataset's weights w. With alpha 1 the trees are those of ``multi:softprob`` and
    ``binary:logistic`` at the same ``base_score``, except where two splits have the same gain in
    float32, as is common with ``lambda=0``.

    Parameters
    ----------
    teacher_logits : array_like (rows, classes) of float, or (rows,), or None
        The teacher's logits for the rows of the training set, in its order; not copied. With two
        classes the booster has one margin z, which stands for the logits (0, z); the teacher may
        be given as a margin too. None only if ``alpha`` is 1.
    labels : array_like (rows,) of int, or (rows, classes) of float, optional
        Labels in place of the dataset's: -1 marks a row that only the teacher labels, -100 one that
        does not count; or soft labels. The labels of a DMatrix may contain all of these too.
        (XGBClassifier takes only classes, so pass ``labels``.)
    alpha, tau, class_weight, label_smoothing, divergence, beta, num_threads
        As in `kdloss.kd_loss_batch`. ``divergence="mse"`` with one margin needs the teacher's
        margin.
    hess : {"library", "exact", "bound"}, default "library"
        The curvature. "library": XGBoost's own, twice the diagonal of the Hessian (with one margin
        the diagonal itself), and at least 1e-16. "exact": the diagonal. "bound": twice the
        diagonal. The diagonals of "reverse_kl", "js" and "tv" can be negative: these divergences
        use the curvature "library" of "kl", and refuse the other two.

    Returns
    -------
    KDObjective
        Can be pickled. ``copy.deepcopy`` returns the object itself.

    Raises
    ------
    ValueError
        At once or in the first round, for shapes that do not match. A DMatrix that holds a part of
        the teacher's rows, such as a fold of `xgboost.cv`, must be sliced from one that
        `number_rows` has numbered. An objective is for one training set, and refuses a second one
        whose labels differ.

    Notes
    -----
    Custom objectives start from a margin of 1/2 for every class, not from the frequencies:
    `kd_base_score` gives a better start. Add ``"disable_default_eval_metric": 1`` to the parameters
    to see only `kd_metric`; XGBoost's default metric cannot read labels of -1.

    References
    ----------
    Chen, Guestrin: XGBoost, arXiv:1603.02754 (2016).

    Examples
    --------
    >>> import numpy as np, xgboost
    >>> from kdloss.xgboost import kd_objective
    >>> X, y = np.arange(6.0).reshape(6, 1), np.array([0, 0, 1, 1, 2, 2])
    >>> T = 3 * np.eye(3)[y]
    >>> params = {"objective": "multi:softprob", "num_class": 3, "min_child_weight": 0}
    >>> booster = xgboost.train(params, xgboost.DMatrix(X, y), 5, obj=kd_objective(T))
    >>> booster.predict(xgboost.DMatrix(X)).argmax(axis=1)
    array([0, 0, 1, 1, 2, 2])
    """
    return KDObjective(
        teacher_logits, labels, alpha=alpha, tau=tau, class_weight=class_weight,
        label_smoothing=label_smoothing, divergence=divergence, beta=beta, hess=hess,
        num_threads=num_threads,
    )  # fmt: skip


def kd_metric(
    teacher_logits: npt.ArrayLike | Mapping[xgboost.DMatrix, npt.ArrayLike] | None,
    labels: npt.ArrayLike | Mapping[xgboost.DMatrix, npt.ArrayLike] | None = None,
    *,
    name: MetricName = "loss",
    alpha: npt.ArrayLike = 0.5,
    tau: npt.ArrayLike = 4.0,
    class_weight: npt.ArrayLike | None = None,
    label_smoothing: float = 0.0,
    divergence: Divergence = "kl",
    beta: float = 0.5,
    num_threads: int | None = None,
) -> KDMetric:
    """A metric for ``custom_metric=`` of `xgboost.train` and ``cv``, or ``eval_metric=``.

    It is the weighted mean over the evaluation set of the quantity ``name``.

    Parameters
    ----------
    teacher_logits : array_like, or {DMatrix: array_like}, or None
        The teacher's logits for the rows of the evaluation set, as in `kd_objective`; for several
        evaluation sets, those of each. None if ``name`` needs no teacher.
    labels : array_like, or {DMatrix: array_like}, optional
        Labels in place of the evaluation set's.
    name : {"loss", "hard", "soft", "accuracy", "nll", "brier", "ece"}
        The loss, one of its parts, or a score of `kdloss.metrics`. It is reported as
        ``kd_<name>``, accuracy as ``prediction_accuracy``: XGBoost's early stopping maximises
        names that begin with "pre", and minimises the others.
    alpha, tau, class_weight, label_smoothing, divergence, beta, num_threads
        As in `kd_objective`; the scores do not depend on them.

    Returns
    -------
    KDMetric
        Can be pickled, unless it holds datasets.

    Raises
    ------
    ValueError
        At once or in the first round, for shapes that do not match, an evaluation set without a
        teacher, or one teacher for two evaluation sets. Also for predictions that are
        probabilities: boosters pass margins only with a custom objective.

    Examples
    --------
    >>> import numpy as np, xgboost
    >>> from kdloss.xgboost import kd_metric, kd_objective
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(60, 2)), rng.integers(0, 3, 60)
    >>> T = 2 * np.eye(3)[y]
    >>> train, valid = xgboost.DMatrix(X[:40], y[:40]), xgboost.DMatrix(X[40:], y[40:])
    >>> log = {}
    >>> booster = xgboost.train(
    ...     {"num_class": 3, "disable_default_eval_metric": 1}, train, 9,
    ...     obj=kd_objective(T[:40]), evals=[(valid, "valid")], custom_metric=kd_metric(T[40:]),
    ...     early_stopping_rounds=2, evals_result=log, verbose_eval=False,
    ... )
    >>> list(log["valid"])
    ['kd_loss']
    """
    return KDMetric(
        cast(Any, teacher_logits), cast(Any, labels), name=name, alpha=alpha, tau=tau,
        class_weight=class_weight, label_smoothing=label_smoothing, divergence=divergence,
        beta=beta, num_threads=num_threads,
    )  # fmt: skip


def kd_base_score(
    teacher_logits: npt.ArrayLike | None,
    labels: npt.ArrayLike | None,
    *,
    alpha: npt.ArrayLike = 0.5,
    sample_weight: npt.ArrayLike | None = None,
    class_weight: npt.ArrayLike | None = None,
    label_smoothing: float = 0.0,
) -> list[float] | float:
    r"""The starting scores for ``params["base_score"]``, which XGBoost stores in the model.

    .. math::
        b = \log m - \overline{\log m}, \quad
        m = \operatorname{mean} (\alpha \, g + (1 - \alpha) \, \mathrm{softmax}(t))

    with the targets g of `kdloss.kd_loss_batch`. XGBoost itself estimates them only for its own
    objectives, and from the labels alone.

    Parameters
    ----------
    teacher_logits, labels, alpha, class_weight, label_smoothing
        As in `kd_objective`; the target of an unlabelled row is the teacher's.
    sample_weight : array_like (rows,) of float, optional
        The weights of the dataset.

    Returns
    -------
    list of float, or float
        (classes,) scores, for ``"objective": "multi:softprob"``; with two classes the probability
        of the second, for ``"objective": "binary:logistic"``.

    Raises
    ------
    ValueError, TypeError
        As in `kdloss.kd_loss_batch`.

    Examples
    --------
    >>> from kdloss.xgboost import kd_base_score
    >>> kd_base_score([[0.0, 0.0], [0.0, 0.0]], [1, -1], alpha=0.5)
    0.625
    >>> [round(b, 4) for b in kd_base_score(None, [0, 1, 1, 2], alpha=1.0)]
    [-0.231, 0.4621, -0.231]
    """
    shares = _boosting.mean_target(
        teacher_logits, labels, alpha=alpha, sample_weight=sample_weight,
        class_weight=class_weight, label_smoothing=label_smoothing,
    )  # fmt: skip
    if len(shares) == 2:
        return float(shares[1])
    return [float(score) for score in _boosting.starting_scores(shares + SHARE_ADDED)]


def number_rows(dmatrix: xgboost.DMatrix) -> xgboost.DMatrix:
    """Number the rows of a DMatrix, so that slices of it, as in `xgboost.cv`, find their teacher.

    XGBoost's folds do not say which rows they hold. The numbers are stored in the field
    ``label_lower_bound`` and their count in ``label_upper_bound``: XGBoost slices these with the
    rows, and otherwise uses them only for survival data.

    Parameters
    ----------
    dmatrix : xgboost.DMatrix
        The whole dataset, whose rows are the teacher's. The two fields are set.

    Returns
    -------
    xgboost.DMatrix
        The same object.

    Raises
    ------
    ValueError
        For more than 2**24 rows, which float32 cannot number, and for survival data.

    Examples
    --------
    >>> import numpy as np, xgboost
    >>> from kdloss.xgboost import kd_metric, kd_objective, number_rows
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(60, 2)), rng.integers(0, 3, 60)
    >>> T = 2 * np.eye(3)[y]
    >>> scores = xgboost.cv(
    ...     {"num_class": 3, "disable_default_eval_metric": 1}, number_rows(xgboost.DMatrix(X, y)),
    ...     5, nfold=3, obj=kd_objective(T), custom_metric=kd_metric(T), as_pandas=False,
    ... )
    >>> len(scores["test-kd_loss-mean"])
    5
    """
    rows = dmatrix.num_row()
    if rows > MOST_ROWS:
        raise ValueError(f"the DMatrix has {rows} rows, expected at most {MOST_ROWS}")
    if dmatrix.get_float_info("label_lower_bound").size and _numbers(dmatrix) is None:
        raise ValueError("the DMatrix has label bounds of survival data, expected none")
    dmatrix.set_float_info("label_lower_bound", np.arange(rows, dtype=np.float32))
    dmatrix.set_float_info("label_upper_bound", np.full(rows, rows, np.float32))
    return dmatrix


class KDObjective(_boosting.Objective):
    """What `kd_objective` returns."""

    def __call__(
        self, first: Any, second: Any, sample_weight: Array | None = None
    ) -> tuple[Array, Array]:
        """Gradient and curvature for (margins, DMatrix), or for (labels, margins, weights)."""
        _, rows = _rows(first, second, sample_weight)
        if self.hess != "library":
            return self.gradients(rows, self.hess)
        one_margin = rows.margins.size == len(rows.margins)
        grad, hess = self.gradients(rows, "exact" if one_margin else "bound")
        if one_margin and rows.weights is not None and rows.weights.size:
            np.maximum(hess, (FLOOR * rows.weights).reshape(hess.shape), out=hess)
        elif hess.min(initial=np.inf) < FLOOR:  # checking is faster than writing
            np.maximum(hess, FLOOR, out=hess)
        return grad, hess


class KDMetric(_boosting.Metric):
    """What `kd_metric` returns."""

    def __call__(
        self, first: Any, second: Any, sample_weight: Array | None = None
    ) -> tuple[str, float] | float:
        """Name and value for (margins, DMatrix); the value for (labels, margins, weights)."""
        dataset, rows = _rows(first, second, sample_weight)
        value = self.value(cast(Hashable, dataset), rows)
        return value if dataset is None else (self.__name__, value)


def _rows(
    first: Any, second: Any, sample_weight: Array | None
) -> tuple[xgboost.DMatrix | None, Rows]:
    if not isinstance(second, xgboost.DMatrix):  # the scikit-learn interface
        return None, Rows(second, first, sample_weight, len(second))
    labels, weights = second.get_label(), second.get_weight()
    numbers, total = _numbers(second) or (None, second.num_row())
    return second, Rows(first, labels if labels.size else None, weights, total, numbers, HINT)


def _numbers(dmatrix: xgboost.DMatrix) -> tuple[Array, int] | None:
    """Return the numbers that `number_rows` stored, and their count; None if there are none."""
    lower = dmatrix.get_float_info("label_lower_bound")
    upper = dmatrix.get_float_info("label_upper_bound")
    if not lower.size or lower.size != upper.size or (upper != upper[0]).any():
        return None
    total = float(upper[0])
    if not (lower == np.floor(lower)).all() or lower.min() < 0 or not lower.max() < total:
        return None
    return lower.astype(np.int64), int(total)
