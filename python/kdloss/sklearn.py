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
    """The arguments of `fit`, the indices of the labelled rows, and the names of their classes."""

    X: Any
    y: Array
    weight: Array | None
    used: Array
    names: Array

    def fit(self, teacher: Any, rows: Array) -> Any:
        """Return a copy of the teacher, fitted on these rows."""
        options = {}
        if self.weight is not None:
            if not has_fit_parameter(teacher, "sample_weight"):
                raise ValueError(
                    f"{type(teacher).__name__} takes no sample_weight, expected a teacher that "
                    "does, or one that is already fitted"
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

        - None: ``LinearStudent(solver="lbfgs", l2=1e-3)``, with ``standardize=True`` if X is not
          sparse.
        - a `LinearStudent`: one with its settings, and the loss of this estimator.
        - an XGBClassifier or LGBMClassifier: boosted with the objective of `kdloss.xgboost` or
          `kdloss.lightgbm`, starting from the logarithm of the mean target.
        - another classifier with ``predict_proba`` that takes ``sample_weight``: it gets a copy of
          each row for each class, with the class's target
          ``alpha * onehot(y) + (1 - alpha) * softmax(t)`` as the weight. If it minimises the log
          loss, as HistGradientBoostingClassifier and LogisticRegression do, that is this loss at
          tau 1; any other tau is refused. Settings that count rows, such as ``min_samples_leaf``,
          count the copies.
    teacher : classifier, optional
        A fitted teacher is used as it is, and `sklearn.base.clone` keeps it. One that is not fitted
        is copied and fitted on the labelled rows, with their weights but no other metadata:
        scikit-learn's routing ends at this estimator. Its classes are matched by name. Its logits
        are ``predict_log_proba``, ``predict_proba`` or ``decision_function``, the first that it
        has. Probabilities of exactly 0, which forests give, would forbid a class: if there are
        any, all are mixed with a share of 1e-3 of the uniform distribution. None if `fit` is given
        ``teacher_logits``, or if alpha is 1.
    alpha : float in [0, 1], default 0.5
        The weight of the labels; the teacher's is 1 - alpha.
    tau : float > 0, default 4
        Temperature, in units of the logits.
    divergence : {"kl", "reverse_kl", "js", "tv", "mse"}, default "kl"
        What the teacher's part measures, as in `kdloss.kd_loss_batch`.
    beta : float in [0, 1], default 0.5
        The teacher's share in "js".
    cv : int, splitter or iterable, optional
        For a teacher that is not fitted: each labelled row learns from a teacher that was fitted on
        the other folds and has not seen it (cross-fitting). Rows without a label learn from a
        teacher fitted on all labelled rows.
    unlabelled : label, optional
        The value of y that marks rows which only the teacher labels, such as -1. By default there
        is none, and -1 is a class like any other.
    classes : array_like (classes,), optional
        With ``teacher_logits``: the names of its columns, in their order. By default the column
        names of a data frame, or else the sorted labels, if there are as many as columns.

    Attributes
    ----------
    classes_ : ndarray (classes,)
        The classes, sorted: those of the labels and of a fitted teacher. With ``teacher_logits``,
        in the order of its columns.
    student_ : LinearStudent or estimator
        The trained student; its classes are the numbers 0 to C - 1.
    teacher_ : estimator or None
        The fitted teacher, if there is one.
    n_features_in_, feature_names_in_
        As in all scikit-learn estimators.

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
            Features, of a type that the student and the teacher take.
        y : array_like (rows,)
            Labels of any type.
        teacher_logits : array_like or data frame (rows, classes), optional
            Logits or log-probabilities of an external teacher, in place of ``teacher``.
        sample_weight : array_like (rows,), optional
            Each row's weight, for student and teacher. A row of weight 0 is left out.

        Returns
        -------
        DistilledClassifier
            The estimator itself.

        Raises
        ------
        ValueError, TypeError
            For arguments that do not match, and if there is no teacher, or two.
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
        """Return X as the student takes it, and y if it is given."""
        targets = {} if y is None and not reset else {"y": y}
        if is_frame(X) and learns.takes_frames:  # it keeps its categories and missing values
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
                f"unlabelled is {value!r}, expected a value that y, of dtype {y.dtype}, can contain"
            )
        labelled = np.asarray(y == y) if value != value else np.asarray(y != value)
        if not labelled.any():
            raise ValueError(f"y is {value!r} (unlabelled) in all {len(y)} rows, expected a label")
        return labelled

    def _ask_teacher(self, rows: Rows, teacher_logits: Any, *, alone: bool) -> Array | None:
        """The teacher's logits (N, C); None to learn from the labels `alone`, if that is possible.

        Sets classes_ and teacher_.
        """
        teacher, self.teacher_, self.classes_ = self.teacher, None, rows.names
        if teacher is not None and teacher_logits is not None:
            raise ValueError("teacher and teacher_logits are both given, expected one of them")
        if self.cv is not None and (
            teacher_logits is not None or (teacher is not None and _is_fitted(teacher))
        ):
            raise ValueError(f"cv is {self.cv!r}, expected None: no teacher is fitted here")
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
                "there is no teacher, expected teacher= or fit(X, y, teacher_logits=...), "
                "or alpha=1 to learn from the labels alone"
            )
        if _is_fitted(teacher):
            self.teacher_ = teacher
            self.classes_ = np.union1d(rows.names, teacher.classes_)
        elif len(rows.names) > 1:
            self.teacher_ = rows.fit(teacher, rows.used)
        else:
            return None  # a teacher cannot be fitted to one class; `fit` refuses this below
        logits = log_probabilities(self.teacher_, rows.X, self.classes_)
        return logits if self.cv is None else self._cross_fit(rows, logits)

    def _cross_fit(self, rows: Rows, logits: Array) -> Array:
        """The logits, with those of labelled rows from teachers that have not seen the row."""
        used = rows.used
        if isinstance(self.cv, numbers.Integral) or hasattr(self.cv, "split"):
            splits = check_cv(self.cv, rows.y[used], classifier=True)
            folds = splits.split(_safe_indexing(rows.X, used), rows.y[used])
            pairs = [(used[train], used[test]) for train, test in folds]
        else:  # an iterable of (train, test) indices
            pairs = [(np.intersect1d(a, used), np.intersect1d(b, used)) for a, b in self.cv]
        missed = np.setdiff1d(used, np.concatenate([test for _, test in pairs]))
        if len(missed):
            raise ValueError(
                f"row {missed[0]} has a label but is in no test fold of cv, expected it in one"
            )
        for train, test in pairs:
            if len(test):
                one, own = rows.fit(self.teacher, train), _safe_indexing(rows.X, test)
                logits[test] = log_probabilities(one, own, rows.names)
        return logits

    def _name_columns(self, names: Array, teacher_logits: Any) -> Array:
        """The names of the classes, in the order of the columns of `teacher_logits`."""
        columns = column_names("teacher_logits", teacher_logits)
        found = self.classes if self.classes is not None else columns
        count = np.shape(teacher_logits)[1] if np.ndim(teacher_logits) == 2 else 0
        if found is None or (self.classes is None and names.dtype.kind not in "UO"):
            if count != len(names):
                raise ValueError(
                    f"teacher_logits has shape {np.shape(teacher_logits)}, expected {len(names)} "
                    "columns, one for each class of y; or pass classes=, the names of its columns"
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
            raise ValueError(f"y has classes that the teacher lacks: {unknown.tolist()}")
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
            copy.teacher = self.teacher  # scikit-learn's clone would not be fitted
        return copy


def _is_fitted(teacher: Any) -> bool:
    if not hasattr(teacher, "fit"):
        return True
    try:
        check_is_fitted(teacher)
    except NotFittedError:
        return False
    return True
