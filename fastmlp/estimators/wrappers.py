"""A `Sequential` of one's own as an estimator: what scikit-learn searches, crosses and pipes may have any layers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted

from ..sequential import Sequential
from .base import unless_it_fails
from .validation import check_features, check_targets, check_weights

_Fitted = TypeVar("_Fitted", bound="_Wrapper")


class _Wrapper(BaseEstimator):
    """What both share: making the network, and the order of a fit."""

    def __init__(
        self,
        model: Sequential | Callable[..., Sequential],
        *,
        model_kwargs: dict[str, Any] | None = None,
        fit_kwargs: dict[str, Any] | None = None,
        random_state: Any = None,
    ):
        self.model = model
        self.model_kwargs = model_kwargs
        self.fit_kwargs = fit_kwargs
        self.random_state = random_state

    @abstractmethod
    def _encode(self, y) -> np.ndarray:
        """Targets as the loss takes them; sets what describes y."""

    @abstractmethod
    def _loss_of(self, network: Sequential):
        """The loss where `fit_kwargs` name none."""

    def fit(self: _Fitted, X: Any, y: Any, sample_weight: Any = None) -> _Fitted:
        """Fit a new network to X and y.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, not negative.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError, TypeError
            Bad data, a bad parameter, or a network that does not fit y: named, with what is accepted.
        DivergenceError
            The loss or the weights became infinite or NaN.
        """
        with unless_it_fails(self):
            X = check_features(self, X, reset=True, finite=False)  # the network looks
            y = check_targets(y, X, self, numeric=self._numeric_targets)
            sample_weight = check_weights(sample_weight, X)
            y = self._encode(y)
            network, options = self._make(X, y), self._options("fit_kwargs")
            self._check_network(network)
            options.setdefault("loss", self._loss_of(network))
            options.setdefault("verbose", 0)
            options.setdefault("seed", int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max)))
            self.history_ = network.fit(X, y, sample_weight=sample_weight, **options)
            self.model_ = network
        return self

    def _make(self, X, y) -> Sequential:
        options = self._options("model_kwargs")
        if isinstance(self.model, Sequential):
            if options:
                raise ValueError(f"`model_kwargs` are for a `model` that is a function; got {options!r}.")
            return Sequential(*self.model.layers, dtype=self.model.dtype.name)
        if not callable(self.model):
            raise TypeError(
                f"`model` must be a Sequential, or a function (X, y, ...) that makes one; got {self.model!r}."
            )
        network = self.model(X, y, **options)
        if not isinstance(network, Sequential):
            raise TypeError(f"`model` must return a Sequential; {self.model!r} returned {network!r}.")
        return network

    def _options(self, name: str) -> dict:
        given = getattr(self, name)
        if given is not None and not isinstance(given, Mapping):
            raise TypeError(f"`{name}` must be a dictionary; got {given!r}.")
        return dict(given or {})

    def _check_network(self, network: Sequential) -> None:
        """Raise where it does not fit y."""

    def _rows(self, X):
        check_is_fitted(self, "model_")
        return check_features(self, X, reset=False, finite=False)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _has_probabilities(estimator) -> bool:
    loss = getattr(getattr(estimator, "model_", None), "loss", None)
    if loss is not None and (loss.name == "hinge" or not loss.classification):
        raise AttributeError(f"loss={loss.name!r} has no probabilities.")
    return True


class SKLearnClassifier(ClassifierMixin, _Wrapper):
    """A `Sequential` that classifies, in scikit-learn's manners (as Keras's wrapper of this name).

    For what `MLPClassifier` has not: dropout, norms, residuals, other losses and optimisers, callbacks.

    Parameters
    ----------
    model : Sequential or callable
        A network, whose layers are taken, never its parameters; or a function (X, y, **model_kwargs) -> Sequential,
        called in every fit with the checked X and the class numbers. It ends with as many units as there are classes,
        or with one for two classes.
    model_kwargs : dict, default=None
        Further arguments of the function: what a search varies, as a list of dictionaries.
    fit_kwargs : dict, default=None
        Arguments of `Sequential.fit`: `optimizer`, `epochs`, `batch_size`, `validation_data`, `callbacks`... `loss` is
        "softmax_cross_entropy" where not given; "binary_cross_entropy" with one unit, or for several labels.
    random_state : int, RandomState instance or None, default=None
        Of the first parameters, the order of rows and dropout.

    Attributes
    ----------
    model_ : Sequential
        The fitted network.
    history_ : History
        Its loss by epoch.
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.
    n_features_in_ : int
        Columns of X.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import GridSearchCV
    >>> from fastmlp import Dense, Dropout, ReLU, Sequential, SKLearnClassifier
    >>> def network(X, y, rate):
    ...     return Sequential(Dense(32), ReLU(), Dropout(rate), Dense(3))
    >>> classifier = SKLearnClassifier(network, fit_kwargs={"epochs": 60}, random_state=0)
    >>> search = GridSearchCV(classifier, {"model_kwargs": [{"rate": 0.1}, {"rate": 0.9}]}, cv=3)
    >>> X, y = load_iris(return_X_y=True)
    >>> search.fit(X, y).best_params_
    {'model_kwargs': {'rate': 0.1}}
    """

    _numeric_targets = False

    def _encode(self, y):
        check_classification_targets(y)
        self._multilabel = y.ndim == 2
        if self._multilabel:
            if type_of_target(y) != "multilabel-indicator":
                raise ValueError("`y` with several columns must hold 0 and 1 only: a column for each label.")
            self.classes_ = np.arange(y.shape[1])
            return y.astype(np.float64)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"Classifier can't train when only one class is present: {self.classes_[0]!r}.")
        return codes

    def _check_network(self, network):
        n_classes, units = len(self.classes_), network.n_outputs
        if units != n_classes and not (units == 1 and n_classes == 2 and not self._multilabel):
            raise ValueError(
                f"`model` must end with as many units as y has classes, {n_classes}"
                f"{', or one' if n_classes == 2 else ''}; it has {units}."
            )

    def _loss_of(self, network):
        one_each = self._multilabel or network.n_outputs == 1
        return "binary_cross_entropy" if one_each else "softmax_cross_entropy"

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest class of each row, or the indicators (n_samples, n_labels) of several labels.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_labels)
        """
        logits = self._rows_logits(X)
        if self._multilabel:
            return (logits > 0).astype(int)
        codes = (logits[:, 0] > 0).astype(int) if logits.shape[1] == 1 else self.model_.loss.best_class(logits)
        return self.classes_[codes]

    @available_if(_has_probabilities)
    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes, in the order of `classes_`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        p : ndarray of shape (n_samples, n_classes)
        """
        logits = self._rows_logits(X)
        p = self.model_.loss.output(logits)
        return p if p.shape[1] > 1 or self._multilabel else np.hstack([1 - p, p])

    def _rows_logits(self, X):
        X = self._rows(X)
        return self.model_.logits(X)


class SKLearnRegressor(RegressorMixin, _Wrapper):
    """A `Sequential` that predicts numbers, in scikit-learn's manners (as Keras's wrapper of this name).

    For what `MLPRegressor` has not: dropout, norms, residuals, other losses and optimisers, callbacks.

    Parameters
    ----------
    model : Sequential or callable
        A network, whose layers are taken, never its parameters; or a function (X, y, **model_kwargs) -> Sequential,
        called in every fit with the checked X and y. It ends with as many units as the loss wants for y's columns.
    model_kwargs : dict, default=None
        Further arguments of the function: what a search varies, as a list of dictionaries.
    fit_kwargs : dict, default=None
        Arguments of `Sequential.fit`; `loss` is "squared_error" where not given.
    random_state : int, RandomState instance or None, default=None
        Of the first parameters, the order of rows and dropout.

    Attributes
    ----------
    model_ : Sequential
        The fitted network.
    history_ : History
        Its loss by epoch.
    n_features_in_ : int
        Columns of X.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import Adam, Dense, Sequential, SKLearnRegressor, Tanh
    >>> X = np.linspace(-1, 1, 200).reshape(-1, 1)
    >>> network = Sequential(Dense(16), Tanh(), Dense(1))
    >>> fit = {"epochs": 200, "optimizer": Adam(0.01)}
    >>> SKLearnRegressor(network, fit_kwargs=fit, random_state=0).fit(X, X.ravel() ** 2).score(X, X.ravel() ** 2) > 0.99
    True
    """

    _numeric_targets = True

    def _encode(self, y):
        self._flat = y.ndim == 1
        return y

    def _loss_of(self, network):
        return "squared_error"

    def predict(self, X: Any) -> np.ndarray:
        """What the loss means for each row: values, rates, quantiles...

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        """
        X = self._rows(X)
        values = self.model_.predict(X)
        return values[:, 0] if self._flat and values.shape[1] == 1 else values

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
