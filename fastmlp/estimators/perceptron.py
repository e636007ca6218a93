"""`Perceptron`: one layer of threshold units and Rosenblatt's rule, in plain NumPy: for study, without the engine."""

from __future__ import annotations

import warnings
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from .._arrays import refuse_dates
from ..prediction import QUIET
from .base import unless_it_fails
from .validation import check_finite, check_targets


class Perceptron(ClassifierMixin, BaseEstimator):
    """Rosenblatt's perceptron: w += eta0 t x and b += eta0 t for each row x that it gets wrong, t (w x + b) <= 0.

    t is 1 for the unit's class and -1 for any other. Two classes have one unit; more have one each, and the largest
    w x + b decides. Weights start at 0, so `eta0` is only their scale. Where a hyperplane separates the classes, the
    rule finds one after finitely many mistakes (Novikoff, 1962); where none does, as with XOR, it never ends, and
    `max_iter` stops it.

    Parameters
    ----------
    fit_intercept : bool, default=True
        Without it b = 0.
    max_iter : int, default=1000
        Epochs at most; an epoch without a mistake is the last.
    shuffle : bool, default=True
        Whether each epoch has its own order of rows.
    eta0 : float, default=1.0
        The learning rate, above 0.
    random_state : int, RandomState instance or None, default=0
        Seed or generator of the order of rows.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels.
    coef_ : ndarray of shape (n_units, n_features)
        Weights, float64: of one unit for two classes, of `n_classes` for more.
    intercept_ : ndarray of shape (n_units,)
        Biases.
    mistakes_ : list of int
        The mistakes of each epoch, summed over units; a 0 at the end says that it converged.
    n_iter_ : int
        Epochs done.
    n_features_in_ : int
        Columns of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, where X had names.

    See Also
    --------
    MLPClassifier : With hidden layers it learns XOR, too.

    References
    ----------
    Rosenblatt, The Perceptron: A Probabilistic Model for Information Storage and Organization in the Brain, 1958.

    Examples
    --------
    >>> from fastmlp import Perceptron
    >>> X = [[0, 0], [0, 1], [1, 0], [1, 1]]
    >>> Perceptron().fit(X, [0, 0, 0, 1]).predict(X).tolist()
    [0, 0, 0, 1]
    """

    _parameter_constraints: dict = {
        "fit_intercept": ["boolean"],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "eta0": [Interval(Real, 0, None, closed="neither")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        *,
        fit_intercept: bool = True,
        max_iter: int = 1000,
        shuffle: bool = True,
        eta0: float = 1.0,
        random_state: Any = 0,
    ):
        self.fit_intercept = fit_intercept
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.eta0 = eta0
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Perceptron:
        """Learn from zero weights until an epoch passes without a mistake.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Finite numbers.
        y : array-like of shape (n_samples,)
            Labels of at least two classes.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            Bad parameters or data, or a single class.

        Warns
        -----
        ConvergenceWarning
            The last of `max_iter` epochs still had mistakes.

        Examples
        --------
        >>> from fastmlp import Perceptron
        >>> perceptron = Perceptron(shuffle=False).fit([[0, 0], [0, 1], [1, 0], [1, 1]], [0, 0, 0, 1])
        >>> perceptron.mistakes_
        [2, 3, 3, 2, 2, 3, 2, 1, 0]
        >>> perceptron.coef_.tolist(), perceptron.intercept_.tolist()
        ([[3.0, 2.0]], [-4.0])
        """
        with unless_it_fails(self):
            X, y = self._rows(X, y, reset=True)
            self._begin(np.unique(y), X.shape[1])
        T = self._targets(y)
        rng, order = check_random_state(self.random_state), np.arange(len(X))
        while len(self.mistakes_) < self.max_iter and self.mistakes_[-1:] != [0]:
            if self.shuffle:
                rng.shuffle(order)
            self._epoch(X[order], T[order])
        if self.mistakes_[-1]:
            warnings.warn(
                f"Perceptron still made {self.mistakes_[-1]} mistakes in the last of max_iter={self.max_iter} epochs: "
                "more may help, unless no hyperplane separates the classes (then MLPClassifier may).",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> Perceptron:
        """One epoch over these rows in their order, from the present weights: row by row, to see the line move.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Finite numbers.
        y : array-like of shape (n_samples,)
            Labels.
        classes : array-like of shape (n_classes,), optional
            All labels that will come: of the first call, without a fit before.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            Bad parameters or data, no or other `classes`, or a label that is none of them.

        Examples
        --------
        >>> from fastmlp import Perceptron
        >>> perceptron = Perceptron()
        >>> for x, t in zip([[0, 0], [1, 1], [0, 1]], [0, 1, 0]):
        ...     print(perceptron.partial_fit([x], [t], classes=[0, 1]).coef_.tolist(), perceptron.mistakes_[-1])
        [[0.0, 0.0]] 1
        [[1.0, 1.0]] 1
        [[1.0, 0.0]] 1
        """
        first = not hasattr(self, "coef_")
        with unless_it_fails(self):
            X, y = self._rows(X, y, reset=first)
            if first:
                if classes is None or len(np.unique(classes)) < 2:
                    raise ValueError(f"`classes` must be two or more, all labels that will come; got {classes!r}.")
                self._begin(np.unique(classes), X.shape[1])
            elif classes is not None and not np.array_equal(np.unique(classes), self.classes_):
                raise ValueError(
                    f"`classes` must be those of the first call, {self.classes_.tolist()}; got {classes!r}."
                )
            if (unknown := np.setdiff1d(y, self.classes_)).size:
                raise ValueError(
                    f"y must have labels among `classes`, {self.classes_.tolist()}; got {unknown.tolist()[0]!r}."
                )
        self._epoch(X, self._targets(y))
        return self

    def _rows(self, X, y, *, reset: bool) -> tuple[np.ndarray, np.ndarray]:
        self._validate_params()
        X = self._features(X, reset=reset)
        y = check_targets(y, X, self, numeric=False)
        check_classification_targets(y)
        if y.ndim != 1:
            raise ValueError(f"y must have one column; got shape {y.shape}.")
        return X, y

    def _begin(self, classes: np.ndarray, n_features: int) -> None:
        """Weights of 0 for each unit."""
        if len(classes) < 2:
            raise ValueError(f"y must have at least two classes; got 1 class: {classes[0]!r}.")
        units = 1 if len(classes) == 2 else len(classes)
        self.classes_, self.mistakes_, self.n_iter_ = classes, [], 0
        self.coef_, self.intercept_ = np.zeros((units, n_features)), np.zeros(units)

    def _targets(self, y: np.ndarray) -> np.ndarray:
        """t of each row and unit."""
        own = self.classes_[1:] if len(self.classes_) == 2 else self.classes_
        return np.where(y[:, None] == own, 1.0, -1.0)

    def _epoch(self, X: np.ndarray, T: np.ndarray) -> None:
        mistakes, W, b = 0, self.coef_.copy(), self.intercept_.copy()
        for x, t in zip(X, T, strict=True):
            wrong = t * (W @ x + b) <= 0
            if wrong.any():
                step = self.eta0 * t * wrong
                W += np.outer(step, x)
                b += step * self.fit_intercept
                mistakes += int(wrong.sum())
        self.coef_, self.intercept_, self.mistakes_ = W, b, [*self.mistakes_, mistakes]
        self.n_iter_ += 1

    def decision_function(self, X: Any) -> np.ndarray:
        """w x + b of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows with the columns of the fitted data.

        Returns
        -------
        scores : ndarray of shape (n_samples,) or (n_samples, n_classes)
            float64: one for two classes, positive for the second; one for each of more.

        Raises
        ------
        NotFittedError
            There is no network yet.
        ValueError, TypeError
            X has other columns than the fitted data, or is not finite numbers.

        Examples
        --------
        >>> from fastmlp import Perceptron
        >>> perceptron = Perceptron(shuffle=False).fit([[0, 0], [0, 1], [1, 0], [1, 1]], [0, 0, 0, 1])
        >>> perceptron.decision_function([[1, 1], [0, 0]]).tolist()
        [1.0, -4.0]
        """
        check_is_fitted(self, "coef_")
        with np.errstate(**QUIET):
            scores = self._features(X, reset=False) @ self.coef_.T + self.intercept_
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: Any) -> np.ndarray:
        """The class of each row, (n_samples,); parameters and errors are those of `decision_function`.

        Examples
        --------
        >>> from fastmlp import Perceptron
        >>> Perceptron().fit([[-1.0], [1.0]], ["no", "yes"]).predict([[3.0], [-2.0]]).tolist()
        ['yes', 'no']
        """
        scores = self.decision_function(X)
        return self.classes_[(scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)]

    def _features(self, X, *, reset: bool) -> np.ndarray:
        refuse_dates(X, "X")
        X = validate_data(self, X, reset=reset, dtype=np.float64, ensure_all_finite=False)
        check_finite(X, "X", self)
        return X
