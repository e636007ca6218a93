"""A `Sequential` of one's own as an estimator: what scikit-learn searches, crosses and pipes may have any layers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted

from .. import losses
from ..errors import check_range
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
        """Class numbers, or numbers; sets what describes y."""

    @abstractmethod
    def _encode_more(self, y, name: str) -> np.ndarray:
        """The same of other rows."""

    @abstractmethod
    def _loss_of(self, network: Sequential):
        """The loss where `fit_kwargs` name none."""

    def set_params(self: _Fitted, **params: Any) -> _Fitted:
        """Set parameters, also single ones of the dictionaries: `fit_kwargs__epochs=20`, `model_kwargs__rate=0.1`.

        Parameters
        ----------
        **params : dict

        Returns
        -------
        self : object
        """
        of_dictionaries = {name: {} for name in ("model_kwargs", "fit_kwargs")}
        for key in list(params):
            name, parts, own = key.partition("__")
            if parts and name in of_dictionaries:
                of_dictionaries[name][own] = params.pop(key)
        super().set_params(**params)
        for name, changed in of_dictionaries.items():
            if changed:
                setattr(self, name, {**self._options(name), **changed})
        return self

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
            options["loss"] = loss = losses.get(options.get("loss", self._loss_of(network)))
            self._check_network(network, loss)
            options.setdefault("verbose", 0)
            options.setdefault("seed", int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max)))
            self._translate(options)
            (X, y, sample_weight), validation = self._held_out(X, y, sample_weight, options)
            if validation is not None:
                X_val, y_val, *weights = validation
                options["validation_data"] = X_val, self._targets(y_val, network, loss), *weights
            y = self._targets(y, network, loss)
            self.history_ = network.fit(X, y, sample_weight=sample_weight, **options)
            self.model_ = network
        return self

    def _held_out(self, X, y, sample_weight, options: dict) -> tuple[tuple, tuple | None]:
        """The rows to train on, and those to validate on: others, or a share of these."""
        share, given = options.pop("validation_split", None), options.pop("validation_data", None)
        if share is None:
            if isinstance(given, (tuple, list)) and len(given) in (2, 3):  # else `Sequential.fit` says what it must be
                X_val, y_val, *weights = given
                X_val = check_features(self, X_val, reset=False, finite=False, name="validation_data")
                y_val = check_targets(y_val, X_val, self, numeric=self._numeric_targets, name="validation_data")
                return (X, y, sample_weight), (X_val, self._encode_more(y_val, "validation_data"), *weights)
            if given is not None:
                options["validation_data"] = given
            return (X, y, sample_weight), None
        from sklearn.model_selection import train_test_split  # takes a while to import

        check_range("validation_split", share, 0, 1, low_open=True)
        if given is not None:
            raise ValueError("`fit_kwargs` must have `validation_data` or `validation_split`, not both.")
        rows, of_validation = train_test_split(
            np.arange(len(y)), test_size=share, random_state=options["seed"], stratify=self._strata(y)
        )
        weights = (None, ()) if sample_weight is None else (sample_weight[rows], (sample_weight[of_validation],))
        return (X[rows], y[rows], weights[0]), (X[of_validation], y[of_validation], *weights[1])

    def _strata(self, y):
        """Classes that a split keeps the shares of."""

    def _translate(self, options: dict) -> None:
        """Let options that name labels name the network's class numbers."""

    def _targets(self, y, network: Sequential, loss) -> np.ndarray:
        """What `_encode` gave, as the loss takes it."""
        return y

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

    def _check_network(self, network: Sequential, loss) -> None:
        """Raise where it, or the loss, does not fit y."""

    def _rows(self, X):
        check_is_fitted(self, "model_")
        return check_features(self, X, reset=False, finite=False)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _some(labels: list) -> str:
    return ", ".join(map(repr, labels[:10])) + (", ..." if len(labels) > 10 else "")


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
        or with one for two classes; for `loss="ordinal"` with one unit less.
    model_kwargs : dict, default=None
        Further arguments of the function: what a search varies, as a list of dictionaries.
    fit_kwargs : dict, default=None
        Arguments of `Sequential.fit`: `optimizer`, `epochs`, `batch_size`, `callbacks`... `loss` is
        "softmax_cross_entropy" where not given; "binary_cross_entropy" with one unit, or for several labels. With a
        loss of numbers the targets are 0 and 1. `validation_data` and `class_weight` have y's labels.
        `validation_split`, a share in (0, 1), holds out rows of each fit for validation: as large a share of each
        class.
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

    def _encode_more(self, y, name):
        if self._multilabel:
            return y.astype(np.float64)
        if y.ndim != 1:
            raise ValueError(f"`{name}` must have a label for each row, as y has; got shape {y.shape}.")
        return np.array(self._codes_of(y.tolist(), name), np.int64)

    def _codes_of(self, labels: Iterable, name: str) -> list[int]:
        """Their places in `classes_`."""
        codes = {label: code for code, label in enumerate(self.classes_.tolist())}
        if unknown := [label for label in labels if label not in codes]:
            raise ValueError(f"`{name}` must have labels of y, {_some(list(codes))}; got {unknown[0]!r}.")
        return [codes[label] for label in labels]

    def _strata(self, y):
        return None if self._multilabel else y

    def _translate(self, options):
        weights = options.get("class_weight")
        if isinstance(weights, Mapping) and not self._multilabel:
            options["class_weight"] = dict(zip(self._codes_of(weights, "class_weight"), weights.values(), strict=True))

    def _targets(self, y, network, loss):
        several = not loss.classification and not self._multilabel and network.n_outputs > 1
        return np.eye(network.n_outputs)[y] if several else y

    def _check_network(self, network, loss):
        n_classes, units = len(self.classes_), network.n_outputs
        if loss.across or not (loss.classification or loss.target_columns(units) == units):
            raise ValueError(f"`loss`={loss.name!r} does not learn classes; a classifier needs a loss that does.")
        of_output = loss.output(np.zeros((1, units))).shape[1]
        if of_output != n_classes and not (of_output == 1 and n_classes == 2 and not self._multilabel):
            ordinal = of_output == units + 1
            raise ValueError(
                f"`model` must end with {'one unit less than' if ordinal else 'as many units as'} y has classes, "
                f"{n_classes}{', or one' if n_classes == 2 and not ordinal else ''}; it has {units}."
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
        logits, loss = self._rows_logits(X), self.model_.loss
        output = loss.output(logits)
        if self._multilabel or output.shape[1] == 1:
            right = logits > 0 if loss.classification else output > 0.5  # between the targets 0 and 1
            return right.astype(int) if self._multilabel else self.classes_[right[:, 0].astype(int)]
        return self.classes_[loss.best_class(logits)]

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
        X = self._rows(X)
        p = self.model_.predict(X)
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
        Arguments of `Sequential.fit`; `loss` is "squared_error" where not given. `validation_split`, a share in (0, 1),
        holds out rows of each fit for validation.
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

    def _encode_more(self, y, name):
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

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R^2 of the predictions: of the mean where the loss predicts a mean and a variance, of the median where it
        predicts quantiles.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        score : float

        Raises
        ------
        ValueError
            Quantiles without the median, 0.5.
        """
        from sklearn.metrics import r2_score  # takes a while to import

        values, loss = self.predict(X), self.model_.loss
        if isinstance(loss, losses.Gaussian):
            values = values[:, : values.shape[1] // 2]
        elif isinstance(loss, losses.QuantileLoss) and values.ndim == 2:
            if 0.5 not in loss.quantiles:
                raise ValueError(f"`score` needs a prediction of the median: 0.5 among the quantiles of {loss!r}.")
            values = values[:, loss.quantiles.index(0.5)]
        return r2_score(y, values, sample_weight=sample_weight)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
