"""A scikit-learn classifier that learns from labels and from a teacher.

from kdloss.sklearn import DistilledClassifier

model = DistilledClassifier(XGBClassifier(), RandomForestClassifier(), cv=5)
model.fit(X, y).predict(X_new)
"""

from __future__ import annotations

import numbers
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from ._arrays import Array
from ._frames import column_names, is_frame
from .losses import Divergence
from .softmax import log_softmax_temp, softmax_temp

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, clone  # type: ignore[import-untyped]
    from sklearn.exceptions import NotFittedError  # type: ignore[import-untyped]
    from sklearn.model_selection import check_cv  # type: ignore[import-untyped]
    from sklearn.utils import Tags, _safe_indexing, get_tags  # type: ignore[import-untyped]
    from sklearn.utils.multiclass import check_classification_targets  # type: ignore[import-untyped]
    from sklearn.utils.validation import (  # type: ignore[import-untyped]
        _check_sample_weight,
        check_is_fitted,
        column_or_1d,
        has_fit_parameter,
        validate_data,
    )

    from ._students import Targets, adapter, log_probabilities
except ImportError as error:
    raise ImportError(
        f"kdloss.sklearn needs scikit-learn ({error}): pip install 'kdloss[sklearn]'"
    ) from error

__all__ = ["DistilledClassifier"]


class Rows(NamedTuple):
    """What `fit` was given: features, labels, weights; the rows with a label, and its names."""

    X: Any
    y: Array
    weight: Array | None
    used: Array
    names: Array

    def fit(self, teacher: Any, rows: Array) -> Any:
        """Return a copy of the teacher, fitted on some rows."""
        options = {}
        if self.weight is not None:
            if not has_fit_parameter(teacher, "sample_weight"):
                raise ValueError(
                    f"{type(teacher).__name__} takes no sample_weight: fit the teacher before"
                )
            options["sample_weight"] = self.weight[rows]
        return clone(teacher).fit(_safe_indexing(self.X, rows), self.y[rows], **options)


class DistilledClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    r"""A student classifier, trained on labels and on a teacher's outputs.

    Its loss is that of `kdloss.kd_loss_batch`, with student logits s and teacher logits t:

    .. math::
        \alpha \, (-\log \mathrm{softmax}(s)_y)
        + (1 - \alpha) \, \tau^2 \, D_{KL}(\mathrm{softmax}(t / \tau) \| \mathrm{softmax}(s / \tau))

    Parameters
    ----------
    student : estimator or LinearStudent, optional
        The student to train. It is copied, not changed.

        - None: a `LinearStudent` at its optimum, ``LinearStudent(solver="lbfgs", l2=1e-3)``, with
          ``standardize=True`` where X is not sparse.
        - a `LinearStudent`: one with its settings, but for the loss's.
        - an XGBClassifier or LGBMClassifier: boosted by `kdloss.xgboost` or `kdloss.lightgbm`, from
          the log of the mean target.
        - another classifier with ``predict_proba`` that takes ``sample_weight``: it is given each
          row once for each class, with the class's target
          ``alpha * onehot(y) + (1 - alpha) * softmax(t)`` as its weight. Where it minimises the log
          loss, as HistGradientBoostingClassifier and LogisticRegression do, that is this loss at
          tau 1, so any other tau is refused. What counts rows, such as ``min_samples_leaf``, counts
          each of these.
    teacher : classifier, optional
        A fitted one is used as it is, and stays so in `sklearn.base.clone`. One that is not fitted
        is copied and fitted on the labelled rows, with their weights and no other metadata:
        scikit-learn's routing ends at this estimator. Its classes are matched by name. Its logits
        are ``predict_log_proba``, ``predict_proba`` or ``decision_function``, the first that it
        has. Probabilities of exactly 0, as from forests, would forbid a class: if there are any,
        all are mixed with a share of 1e-3 of the uniform distribution. None if `fit` is given
        ``teacher_logits``, or if alpha is 1.
    alpha : float in [0, 1], default 0.5
        The weight of the labels; 1 - alpha is the teacher's.
    tau : float > 0, default 4
        Temperature, in units of the logits.
    divergence : {"kl", "reverse_kl", "js", "tv", "mse"}, default "kl"
        What the teacher's part measures, as in `kdloss.kd_loss_batch`.
    beta : float in [0, 1], default 0.5
        The teacher's share in "js".
    cv : int, splitter or iterable, optional
        With a teacher that is not fitted: labelled rows learn from teachers that have not seen them
        (cross-fitting), fitted on the other folds. Rows without a label learn from the one
        fitted on all labelled rows.
    unlabelled : label, optional
        The value of y that marks rows which only the teacher labels, such as -1. By default there
        is none: -1 is a class as any other.
    classes : array_like (classes,), optional
        With ``teacher_logits``: the names of its columns, in their order. By default the columns of
        a data frame, or the labels, sorted, where there are as many of them as columns.

    Attributes
    ----------
    classes_ : ndarray (classes,)
        The labels and, sorted among them, what else a fitted teacher knows.
    student_ : LinearStudent or estimator
        The trained student; its classes are the numbers 0 to C - 1.
    teacher_ : estimator or None
        The fitted teacher, where there is one.
    n_features_in_, feature_names_in_
        As everywhere in scikit-learn.

    References
    ----------
    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, arXiv:1503.02531 (2015).
    Dao, Kamath, Syrgkanis, Mackey: Knowledge Distillation as Semiparametric Inference,
    arXiv:2104.09732 (2021), on cross-fitting.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.naive_bayes import GaussianNB
    >>> from kdloss.sklearn import DistilledClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = DistilledClassifier(teacher=GaussianNB(), cv=5).fit(X, y)
    >>> bool(model.score(X, y) > 0.9)
    True
    """

    def __init__(
        self,
        student: Any = None,
        teacher: Any = None,
        *,
        alpha: float = 0.5,
        tau: float = 4.0,
        divergence: Divergence = "kl",
        beta: float = 0.5,
        cv: Any = None,
        unlabelled: Any = None,
        classes: npt.ArrayLike | None = None,
    ) -> None:
        self.student = student
        self.teacher = teacher
        self.alpha = alpha
        self.tau = tau
        self.divergence = divergence
        self.beta = beta
        self.cv = cv
        self.unlabelled = unlabelled
        self.classes = classes

    def fit(self, X: Any, y: Any, *, teacher_logits: Any = None, sample_weight: Any = None) -> Self:
        """Train the student.

        Parameters
        ----------
        X : array_like, data frame or sparse matrix (rows, features)
            Features, of the kinds that the student and the teacher take.
        y : array_like (rows,)
            Labels of any kind.
        teacher_logits : array_like or data frame (rows, classes), optional
            The outputs of a teacher that is not here: logits or log-probabilities.
        sample_weight : array_like (rows,), optional
            Each row's weight, for student and teacher. A row of weight 0 is left out.

        Returns
        -------
        DistilledClassifier
            The estimator itself.

        Raises
        ------
        ValueError, TypeError
            For arguments that do not fit, or where there is no teacher, or two.
        """
        learns = adapter(self.student)
        loss = {"tau": self.tau, "divergence": self.divergence, "beta": self.beta}
        learns.check(self.student, loss)
        data, y = self._validate(X, y, learns)
        y = column_or_1d(y, warn=True)
        counts = np.ones(len(y), bool)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, data, ensure_non_negative=True)
            counts = sample_weight > 0
        labelled = self._find_labelled(y)
        used = np.flatnonzero(counts & labelled)
        check_classification_targets(y[used])
        rows = Rows(X if is_frame(X) else data, y, sample_weight, used, np.unique(y[used]))
        logits = self._ask_teacher(rows, teacher_logits, alone=bool(labelled[counts].all()))
        if len(self.classes_) < 2:
            raise ValueError(f"y has only one class, {self.classes_}: there is nothing to learn")
        codes, order = np.full(len(y), -1), np.argsort(self.classes_)
        codes[used] = order[np.searchsorted(self.classes_[order], y[used])]
        targets = Targets(codes, logits, sample_weight, len(self.classes_), self.alpha, loss)
        if not counts.all():
            data = _safe_indexing(data, np.flatnonzero(counts))
            targets = targets.only(counts)
        self.student_ = learns.fit(self.student, data, targets)
        return self

    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithms of `predict_proba`."""
        return np.asarray(log_softmax_temp(self._logits(X)))

    def predict_proba(self, X: Any) -> Array:
        """Return the probabilities of the classes, in the order of ``classes_``.

        Parameters
        ----------
        X : array_like, data frame or sparse matrix (rows, features)
            Features, as in `fit`.

        Returns
        -------
        ndarray (rows, classes)
        """
        return np.asarray(softmax_temp(self._logits(X)))

    def predict(self, X: Any) -> Array:
        """Return the most probable class of each row.

        Parameters are those of `predict_proba`.

        Returns
        -------
        ndarray (rows,)
        """
        best = self._logits(X).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def _logits(self, X: Any) -> Array:
        check_is_fitted(self)
        learns = adapter(self.student)
        data = self._validate(X, None, learns, reset=False)
        return np.asarray(learns.logits(self.student_, data, len(self.classes_)))

    def _validate(self, X: Any, y: Any, learns: Any, reset: bool = True) -> Any:
        """X as the student takes it; and y, if it is given."""
        targets = {} if y is None and not reset else {"y": y}
        if is_frame(X) and learns.takes_frames:  # with their categories and missing values
            validate_data(self, X, reset=reset, skip_check_array=True)
            return (X, y) if targets else X
        return validate_data(
            self,
            X,
            reset=reset,
            accept_sparse="csr" if get_tags(self).input_tags.sparse else False,
            dtype=(np.float64, np.float32),
            ensure_all_finite="allow-nan" if get_tags(self).input_tags.allow_nan else True,
            **targets,
        )

    def _find_labelled(self, y: Array) -> Array:
        """Which rows have a label (N,)."""
        value = self.unlabelled
        if value is None:
            return np.ones(len(y), bool)
        if (y.dtype.kind in "US") != isinstance(value, str) and y.dtype.kind != "O":
            raise ValueError(
                f"unlabelled is {value!r}, but y is of dtype {y.dtype}, in which that cannot occur"
            )
        labelled = np.asarray(y == y) if value != value else np.asarray(y != value)
        if not labelled.any():
            raise ValueError(f"y has no label: all {len(y)} rows are {value!r}")
        return labelled

    def _ask_teacher(self, rows: Rows, teacher_logits: Any, *, alone: bool) -> Array | None:
        """The teacher's logits (N, C), or None to learn from the labels alone, if that may be.

        Sets classes_ and teacher_.
        """
        teacher, self.teacher_, self.classes_ = self.teacher, None, rows.names
        if teacher is not None and teacher_logits is not None:
            raise ValueError("both teacher and teacher_logits are given: leave one of them out")
        if self.cv is not None and (
            teacher_logits is not None or (teacher is not None and _is_fitted(teacher))
        ):
            raise ValueError("cv is for a teacher that is fitted here: leave it out")
        if teacher_logits is not None:
            logits = np.asarray(teacher_logits)
            if logits.shape[:1] != rows.y.shape or logits.ndim != 2:
                raise ValueError(
                    f"teacher_logits has shape {logits.shape}, expected ({len(rows.y)}, classes)"
                )
            self.classes_ = self._name_columns(rows.names, teacher_logits)
            return logits
        if teacher is None:
            if self.alpha == 1 and alone:
                return None
            raise ValueError(
                "there is no teacher: give teacher=, or fit(X, y, teacher_logits=...), "
                "or learn from labels alone with alpha=1"
            )
        if _is_fitted(teacher):
            self.teacher_ = teacher
            self.classes_ = np.union1d(rows.names, teacher.classes_)
        elif len(rows.names) > 1:
            self.teacher_ = rows.fit(teacher, rows.used)
        else:
            return None  # which is refused: a teacher cannot be fitted to one class
        logits = log_probabilities(self.teacher_, rows.X, self.classes_)
        return logits if self.cv is None else self._cross_fit(rows, logits)

    def _cross_fit(self, rows: Rows, logits: Array) -> Array:
        """The logits, those of labelled rows by teachers that have not seen them."""
        used = rows.used
        if isinstance(self.cv, numbers.Integral) or hasattr(self.cv, "split"):
            splits = check_cv(self.cv, rows.y[used], classifier=True)
            folds = splits.split(_safe_indexing(rows.X, used), rows.y[used])
            pairs = [(used[train], used[test]) for train, test in folds]
        else:  # row numbers
            pairs = [(np.intersect1d(a, used), np.intersect1d(b, used)) for a, b in self.cv]
        missed = np.setdiff1d(used, np.concatenate([test for _, test in pairs]))
        if len(missed):
            raise ValueError(f"row {missed[0]} has a label, but is in none of the folds of cv")
        for train, test in pairs:
            if len(test):
                one, own = rows.fit(self.teacher, train), _safe_indexing(rows.X, test)
                logits[test] = log_probabilities(one, own, rows.names)
        return logits

    def _name_columns(self, names: Array, teacher_logits: Any) -> Array:
        """The classes of the columns of the teacher's logits."""
        columns = column_names("teacher_logits", teacher_logits)
        found = self.classes if self.classes is not None else columns
        count = np.shape(teacher_logits)[1] if np.ndim(teacher_logits) == 2 else 0
        if found is None or (self.classes is None and names.dtype.kind not in "UO"):
            if count != len(names):
                raise ValueError(
                    f"teacher_logits has shape {np.shape(teacher_logits)}, but y has {len(names)} "
                    "classes: pass classes=, the names of its columns in their order"
                )
            return names
        classes = np.asarray(found)
        if classes.shape != (count,):
            raise ValueError(
                f"classes has shape {classes.shape}, expected ({count},), the names of the columns "
                "of teacher_logits"
            )
        unknown = np.setdiff1d(names, classes)
        if len(unknown):
            raise ValueError(f"y has classes that the teacher has not: {unknown.tolist()}")
        return classes

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = adapter(self.student).takes_frames
        for one in (self.student, self.teacher):
            if hasattr(one, "__sklearn_tags__"):
                its = get_tags(one).input_tags
                tags.input_tags.sparse &= its.sparse
                tags.input_tags.allow_nan &= its.allow_nan
        return tags

    def __sklearn_clone__(self) -> Self:
        copy: Self = super().__sklearn_clone__()
        if self.teacher is not None and _is_fitted(self.teacher):
            copy.teacher = self.teacher  # a copy would have forgotten what it knows
        return copy


def _is_fitted(teacher: Any) -> bool:
    if not hasattr(teacher, "fit"):
        return True
    try:
        check_is_fitted(teacher)
    except NotFittedError:
        return False
    return True
