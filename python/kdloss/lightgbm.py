"""LightGBM students: objective, metric for early stopping, and starting scores.

    import lightgbm
    from kdloss.lightgbm import kd_objective

    params = {"objective": kd_objective(T, alpha=0.5, tau=4), "num_class": K, "metric": "None"}
    booster = lightgbm.train(params, lightgbm.Dataset(X, y))
    probabilities = kdloss.softmax_temp(booster.predict(X_new))

For two classes leave out ``num_class``: the booster has one margin per row, and the probability of
class 1 is 1 / (1 + exp(-margin)). With a custom objective LightGBM predicts margins, and its own
metrics mistake them for probabilities: set ``"metric": "None"`` and use `kd_metric`.
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
    import lightgbm
except ImportError as error:
    raise ImportError("kdloss.lightgbm needs lightgbm: pip install 'kdloss[lightgbm]'") from error

BLOCK = 2**15  # numbers that stay in a cache while they are multiplied and rounded

__all__ = ["kd_init_score", "kd_metric", "kd_objective"]


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
    r"""An objective for ``params["objective"]`` of `lightgbm.train` and ``cv``, or LGBMClassifier.

    .. math::
        g = w \, (\alpha \, (p^{(1)} - e_y) + (1 - \alpha) \, \tau \, (p - q)), \quad
        h = \tfrac{K}{K - 1} w \,
            (\alpha \, p^{(1)} (1 - p^{(1)}) + (1 - \alpha) \, p (1 - p))

    for the divergence "kl", with p1 = softmax(margins), p and q the softened outputs of student and
    teacher, K classes, and the dataset's weights w. With alpha 1 the trees are those of
    ``multiclass`` and ``binary`` with ``boost_from_average=False``, bit for bit.

    Parameters
    ----------
    teacher_logits : array_like (rows, classes) of float, or (rows,), or None
        The teacher's logits for the rows of the training set, in its order; not copied. With two
        classes the booster has one margin z, which stands for the logits (0, z); the teacher may
        be given as a margin too. None only if ``alpha`` is 1. Subsets of a Dataset, such as the
        folds of `lightgbm.cv`, get their rows of the teacher.
    labels : array_like (rows,) of int, or (rows, classes) of float, optional
        Labels in place of the dataset's: -1 marks a row that only the teacher labels, -100 one that
        does not count; or soft labels. The dataset's own may contain -1 and -100 too. (For
        LGBMClassifier -1 is a class, so pass ``labels``.)
    alpha, tau, class_weight, label_smoothing, divergence, beta, num_threads
        As in `kdloss.kd_loss_batch`. ``divergence="mse"`` with one margin needs the teacher's
        margin.
    hess : {"library", "exact", "bound"}, default "library"
        The curvature. "library": LightGBM's own, K / (K - 1) times the diagonal of the Hessian, or
        the diagonal itself with one margin. "exact": the diagonal. "bound": twice the diagonal.
        The diagonals of "reverse_kl", "js" and "tv" can be negative: these divergences use the
        curvature "library" of "kl", and refuse the other two.

    Returns
    -------
    KDObjective
        Can be pickled. ``copy.deepcopy`` returns the object itself: LightGBM copies parameters.

    Raises
    ------
    ValueError
        At once or in the first round, for shapes that do not match. An objective is for one
        training set, and refuses a second one whose labels differ.

    Notes
    -----
    ``num_class`` must be in the parameters: LightGBM does not take it from an objective. Custom
    objectives start from 0: `kd_init_score` gives a better start.

    References
    ----------
    Ke et al.: LightGBM: A Highly Efficient Gradient Boosting Decision Tree, NIPS (2017).

    Examples
    --------
    >>> import numpy as np, lightgbm
    >>> from kdloss.lightgbm import kd_objective
    >>> X, y = np.arange(6.0).reshape(6, 1), np.array([0, 0, 1, 1, 2, 2])
    >>> T = 3 * np.eye(3)[y]
    >>> params = {"objective": kd_objective(T), "num_class": 3, "verbose": -1, "metric": "None"}
    >>> params |= {"min_data_in_leaf": 1, "min_data_in_bin": 1, "min_sum_hessian_in_leaf": 0}
    >>> booster = lightgbm.train(params, lightgbm.Dataset(X, y), 5)
    >>> booster.predict(X).argmax(axis=1)
    array([0, 0, 1, 1, 2, 2])
    """
    return KDObjective(
        teacher_logits, labels, alpha=alpha, tau=tau, class_weight=class_weight,
        label_smoothing=label_smoothing, divergence=divergence, beta=beta, hess=hess,
        num_threads=num_threads,
    )  # fmt: skip


def kd_metric(
    teacher_logits: npt.ArrayLike | Mapping[lightgbm.Dataset, npt.ArrayLike] | None,
    labels: npt.ArrayLike | Mapping[lightgbm.Dataset, npt.ArrayLike] | None = None,
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
    """A metric for ``feval=`` of `lightgbm.train` and ``cv``, or ``eval_metric=`` of a classifier.

    It is the weighted mean over the evaluation set of the quantity ``name``.

    Parameters
    ----------
    teacher_logits : array_like, or {Dataset: array_like}, or None
        The teacher's logits for the rows of the evaluation set, as in `kd_objective`; for several
        evaluation sets, those of each. None if ``name`` needs no teacher.
    labels : array_like, or {Dataset: array_like}, optional
        Labels in place of the evaluation set's.
    name : {"loss", "hard", "soft", "accuracy", "nll", "brier", "ece"}
        The loss, one of its parts, or a score of `kdloss.metrics`. It is reported as
        ``kd_<name>``, accuracy as ``prediction_accuracy``. Early stopping maximises accuracy, and
        minimises the others.
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
    >>> import numpy as np, lightgbm
    >>> from kdloss.lightgbm import kd_metric, kd_objective
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(160, 2)), rng.integers(0, 3, 160)
    >>> T = 2 * np.eye(3)[y]
    >>> train = lightgbm.Dataset(X[:100], y[:100])
    >>> valid = lightgbm.Dataset(X[100:], y[100:], reference=train)
    >>> params = {"objective": kd_objective(T[:100]), "num_class": 3, "metric": "None"}
    >>> params |= {"verbose": -1, "early_stopping_round": 2}
    >>> booster = lightgbm.train(params, train, 9, [valid], feval=kd_metric(T[100:]))
    >>> list(booster.best_score["valid_0"])
    ['kd_loss']
    """
    return KDMetric(
        cast(Any, teacher_logits), cast(Any, labels), name=name, alpha=alpha, tau=tau,
        class_weight=class_weight, label_smoothing=label_smoothing, divergence=divergence,
        beta=beta, num_threads=num_threads,
    )  # fmt: skip


def kd_init_score(
    teacher_logits: npt.ArrayLike | None,
    labels: npt.ArrayLike | None,
    *,
    alpha: npt.ArrayLike = 0.5,
    sample_weight: npt.ArrayLike | None = None,
    class_weight: npt.ArrayLike | None = None,
    label_smoothing: float = 0.0,
) -> Array:
    r"""The starting scores, which LightGBM's own objectives find with ``boost_from_average``.

    .. math::
        b = \log m - \overline{\log m}, \quad
        m = \operatorname{mean} (\alpha \, g + (1 - \alpha) \, \mathrm{softmax}(t))

    with the targets g of `kdloss.kd_loss_batch`. Pass them to every Dataset, and add them to the
    booster's predictions, since LightGBM does not store them in the model::

        train = lightgbm.Dataset(X, y, init_score=np.tile(scores, (len(X), 1)))
        margins = booster.predict(X_new) + scores

    Parameters
    ----------
    teacher_logits, labels, alpha, class_weight, label_smoothing
        As in `kd_objective`; the target of an unlabelled row is the teacher's.
    sample_weight : array_like (rows,) of float, optional
        The weights of the dataset.

    Returns
    -------
    ndarray (classes,) of float64
        With two classes (1,), the margin log(m[1] / m[0]): ``init_score=np.full(len(X), scores)``.

    Raises
    ------
    ValueError, TypeError
        As in `kdloss.kd_loss_batch`.

    Examples
    --------
    >>> from kdloss.lightgbm import kd_init_score
    >>> kd_init_score([[0.0, 0.0], [0.0, 0.0]], [1, -1], alpha=0.5).round(4)
    array([0.5108])
    >>> kd_init_score(None, [0, 1, 1, 2], alpha=1.0).round(4)
    array([-0.231 ,  0.4621, -0.231 ])
    """
    return _boosting.starting_scores(
        _boosting.mean_target(
            teacher_logits, labels, alpha=alpha, sample_weight=sample_weight,
            class_weight=class_weight, label_smoothing=label_smoothing,
        )
    )  # fmt: skip


class KDObjective(_boosting.Objective):
    """What `kd_objective` returns."""

    def __call__(
        self, first: Any, second: Any, sample_weight: Array | None = None
    ) -> tuple[Array, Array]:
        """Gradient and curvature for (margins, Dataset), or for (labels, margins, weights)."""
        _, rows = _rows(first, second, sample_weight)
        classes = rows.margins.size // max(len(rows.margins), 1)
        grad, hess = self.gradients(rows, "bound" if self.hess == "bound" else "exact")
        factor = classes / (classes - 1) if self.hess == "library" and classes > 1 else 1.0
        # Like LightGBM: computed in double, rounded to float, in F-order. The predictions are a
        # view of memory that LightGBM reuses, so nothing here keeps a reference to them.
        return self._rounded(grad), self._rounded(hess, factor)

    def _rounded(self, values: Array, factor: float = 1.0) -> Array:
        """Multiply the values by `factor`, in place, and return them in float32."""
        out = self.buffers.take(values.shape, np.float32, "F")
        flat, rounded = values.ravel("F"), out.ravel("F")
        for first in range(0, flat.size, BLOCK):
            block = flat[first : first + BLOCK]
            if factor != 1:
                block *= factor
            rounded[first : first + BLOCK] = block
        return out


class KDMetric(_boosting.Metric):
    """What `kd_metric` returns."""

    def __call__(
        self, first: Any, second: Any, sample_weight: Array | None = None
    ) -> tuple[str, float, bool]:
        """Name, value, and whether larger is better, for the arguments of an objective."""
        dataset, rows = _rows(first, second, sample_weight)
        value = self.value(cast(Hashable, dataset), rows)
        return self.__name__, value, self.name == "accuracy"


def _rows(
    first: Any, second: Any, sample_weight: Array | None
) -> tuple[lightgbm.Dataset | None, Rows]:
    """Return the whole dataset, and the rows of it in this call; no dataset from scikit-learn."""
    if not isinstance(second, lightgbm.Dataset):  # the scikit-learn interface
        return None, Rows(second, first, sample_weight, len(second))
    labels = cast("Array | None", second.get_label())
    weights = cast("Array | None", second.get_weight())
    whole, numbers = second, None
    while whole.used_indices is not None:
        own = np.asarray(whole.used_indices)
        numbers = own if numbers is None else own[numbers]
        whole = cast("lightgbm.Dataset", whole.reference)
    return whole, Rows(first, labels, weights, whole.num_data(), numbers)
