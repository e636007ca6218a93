"""A `Sequential` of one's own as an estimator: what scikit-learn searches, crosses and pipes may have any layers."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted

from .. import losses, optimizers
from ..errors import check_count, check_range
from ..hints import Hinted
from ..losses.base import log_softmax
from ..sequential import Sequential
from .base import present, unless_it_fails
from .validation import check_features, check_targets, check_weights, hold_out

_Fitted = TypeVar("_Fitted", bound="_Wrapper")

# The dictionaries of parameters. Those of `Sequential.fit` that searches vary have names also where they are not given:
# scikit-learn's halving wants `fit_kwargs__epochs` to be one.
_DICTIONARIES: dict[str, dict[str, Any]] = {
    "model_kwargs": {},
    "fit_kwargs": {
        name: inspect.signature(Sequential.fit).parameters[name].default
        for name in ("optimizer", "epochs", "batch_size")
    },
}
# What `partial_fit` takes of `fit_kwargs`, and what means nothing to it
_OF_STEPS = {"loss", "optimizer", "batch_size", "shuffle", "seed", "n_threads"}
_OF_EPOCHS = {"epochs", "verbose"}
_NAMED = {
    "fit_kwargs__optimizer": optimizers.OPTIMIZERS | optimizers.OF_ALL_ROWS,
    "fit_kwargs__loss": losses.LOSSES,
}


def _declared(name: str, value):
    """The declaration (an optimiser, a loss, a layer...) that a parameter is, or that it names; or None."""
    if isinstance(value, str):
        known = _NAMED.get(name, {})
        return known[value]() if value in known else None
    return value if is_dataclass(value) and not isinstance(value, type) else None


def _fields(declaration) -> dict[str, Any]:
    return {} if declaration is None else {f.name: getattr(declaration, f.name) for f in fields(declaration) if f.init}


def _listed(name: str, values: Mapping) -> dict[str, Any]:
    """What a dictionary holds and what the declarations in it hold, by nested names."""
    listed = {}
    for key, value in values.items():
        nested = f"{name}__{key}"
        listed |= {nested: value, **_listed(nested, _fields(_declared(nested, value)))}
    return listed


def _changes(name: str, values: Mapping, given: Mapping[str, Any]) -> dict[str, Any]:
    """New values, by nested names, as new values of a dictionary or of a declaration, of which nothing is changed.

    What is so already is left out: `set_params(**get_params())` does not make an Adam() of "adam".
    """
    changed: dict[str, Any] = {}
    of_parts: dict[str, dict[str, Any]] = {}
    for key, value in given.items():
        own, deeper, part = key.partition("__")
        if deeper and key not in values:
            of_parts.setdefault(own, {})[part] = value
        elif key not in values or values[key] is not value:
            changed[key] = value
    for own, parts in of_parts.items():
        nested, value = f"{name}__{own}", changed.get(own, values.get(own))
        declaration = _declared(nested, value)
        known = _fields(declaration)
        for part in parts:
            if part.partition("__")[0] not in known:
                raise ValueError(
                    f"Invalid parameter {part!r} for {nested}={value!r}. Valid parameters are: {[*known]}."
                )
        if of_it := _changes(nested, known, parts):
            changed[own] = replace(declaration, **of_it)
    return changed


class _Wrapper(Hinted, BaseEstimator):
    """What both share: making the network, and the order of a fit."""

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        own = inspect.signature(cls.__init__)  # Python 3.10 would show that of `Hinted.__new__`
        cls.__signature__ = own.replace(parameters=[*own.parameters.values()][1:])

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

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters, as `set_params` takes them.

        Parameters
        ----------
        deep : bool, default=True
            Whether to list what is in the dictionaries, too: `fit_kwargs__epochs`, `model_kwargs__rate`, and
            `fit_kwargs__optimizer__learning_rate`, of an optimiser.

        Returns
        -------
        params : dict
        """
        params = super().get_params(deep)
        if deep:
            for name, defaults in _DICTIONARIES.items():
                held = getattr(self, name)
                params |= _listed(name, {**defaults, **(held if isinstance(held, Mapping) else {})})
        return params

    def set_params(self: _Fitted, **params: Any) -> _Fitted:
        """Set parameters, also single ones of the dictionaries and of what is in them.

        Parameters
        ----------
        **params : dict
            Such as `fit_kwargs__epochs=20`, `model_kwargs__rate=0.1`, `fit_kwargs__optimizer__learning_rate=0.01`. The
            dictionary, or the optimiser, is a new one; "adam" becomes an Adam.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError, TypeError
            There is no such parameter, or it does not take that value.

        Examples
        --------
        >>> from fastmlp import Dense, Sequential, SKLearnRegressor
        >>> regressor = SKLearnRegressor(Sequential(Dense(1)), fit_kwargs={"optimizer": "sgd"})
        >>> regressor = regressor.set_params(fit_kwargs__optimizer__momentum=0.9, fit_kwargs__epochs=20)
        >>> regressor.fit_kwargs["epochs"], regressor.fit_kwargs["optimizer"].momentum
        (20, 0.9)
        """
        of_dictionaries: dict[str, dict[str, Any]] = {name: {} for name in _DICTIONARIES}
        for key in list(params):
            name, parts, own = key.partition("__")
            if parts and name in of_dictionaries:
                of_dictionaries[name][own] = params.pop(key)
            elif parts and name == "model" and not hasattr(params.get("model", self.model), "set_params"):
                raise ValueError(f"Invalid parameter {key!r}: an argument of the function is `model_kwargs__{own}`.")
            elif name in _OF_STEPS | _OF_EPOCHS:
                raise ValueError(f"Invalid parameter {key!r}: an argument of `Sequential.fit` is `fit_kwargs__{key}`.")
        super().set_params(**params)
        for name, given in of_dictionaries.items():
            if given and (changed := _changes(name, {**_DICTIONARIES[name], **self._options(name)}, given)):
                setattr(self, name, {**self._options(name), **changed})
        return self

    def fit(self: _Fitted, X: Any, y: Any, sample_weight: Any = None) -> _Fitted:
        """Fit a new network to X and y.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, not negative. A row of weight 0 is as good as absent, but for the function that makes
            the network, which sees all rows.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError, TypeError
            Bad data, a bad parameter, or a network that does not fit y: named, with what is accepted.
        DivergenceError
            The loss or the weights became infinite or NaN; the last finite weights are kept.
        KeyboardInterrupt
            Ctrl-C: raised with the network of the last whole step in place.
        """
        failure = None
        with unless_it_fails(self):
            X = check_features(self, X, reset=True, finite=False)  # the network looks
            y = check_targets(y, X, self, numeric=self._numeric_targets)
            sample_weight = check_weights(sample_weight, X)
            y = self._encode(y)
            network, options = self._make(X, y), self._options("fit_kwargs")
            options["loss"] = loss = self._checked_loss(network, options)
            options.setdefault("verbose", 0)
            options["seed"] = self._seed = self._seed_of(options)
            self._translate(options)
            X, y, sample_weight = present(X, y, sample_weight)
            (X, y, sample_weight), validation = self._held_out(X, y, sample_weight, options)
            if validation is not None:
                X_val, y_val, *weights = validation
                options["validation_data"] = X_val, self._targets(y_val, network, loss), *weights
            y = self._targets(y, network, loss)
            before = network.history
            try:
                network.fit(X, y, sample_weight=sample_weight, **options)
            except BaseException as error:  # also Ctrl-C
                if network.history is before:  # it came before the first step
                    raise
                failure = error
            self.model_, self.history_ = network, network.history
        if failure is not None:
            raise failure
        return self

    def _partial_fit(self, X, y, sample_weight, classes=None):
        first = not hasattr(self, "model_")
        with unless_it_fails(self):
            options = {**_DICTIONARIES["fit_kwargs"], **self._options("fit_kwargs")}
            if refused := sorted(set(options) - _OF_STEPS - _OF_EPOCHS):
                raise ValueError(
                    f"partial_fit does not support {', '.join(refused)}, which `fit_kwargs` has for `fit`."
                )
            X = check_features(self, X, reset=first)
            y = check_targets(y, X, self, numeric=self._numeric_targets)
            sample_weight = check_weights(sample_weight, X)
            y = self._encode_part(y, first, classes)
            network = self._make(X, y) if first else self.model_
            loss = self._checked_loss(network, options)
            if first:
                self._seed = self._seed_of(options)
            batch_size = check_count(options["batch_size"], "batch_size")
            X, y, sample_weight = present(X, y, sample_weight)
            if first and network._normalizes:  # by all rows that are there so far
                if not network.built:
                    network.build(X.shape[1], self._seed)
                if not network._adapted:
                    network.adapt(X, sample_weight)
            y = self._targets(y, network, loss)

            def step(rows):
                network.train_on_batch(
                    X[rows],
                    y[rows],
                    loss=loss,
                    optimizer=options["optimizer"],
                    sample_weight=None if sample_weight is None else sample_weight[rows],
                    seed=self._seed,
                    n_threads=options.get("n_threads"),
                )

            order, n_batches = np.arange(len(y)), -(-len(y) // batch_size)
            if n_batches > 1 and options.get("shuffle", True):
                order = np.random.default_rng((self._seed, network._epochs)).permutation(order)
            batch, *others = np.array_split(order, n_batches)  # a last batch of one row would not do for BatchNorm
            step(batch)
            self.model_ = network
        for batch in others:
            step(batch)
        return self

    def _encode_part(self, y, first: bool, classes) -> np.ndarray:
        """As `_encode`, of some of the rows."""
        return self._encode(y) if first else self._encode_more(y, "y")

    def _checked_loss(self, network, options: dict):
        loss = losses.get(options.get("loss", self._loss_of(network)))
        self._check_network(network, loss)
        return loss

    def _seed_of(self, options: dict) -> int:
        drawn = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        return check_count(options.get("seed", drawn), "seed", least=0)

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
        check_range("validation_split", share, 0, 1, low_open=True)
        if given is not None:
            raise ValueError("`fit_kwargs` must have `validation_data` or `validation_split`, not both.")
        what = f"`validation_split` cannot hold out {share!r}"
        rows, of_validation = hold_out(len(y), share, options["seed"], self._strata(y), what)
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
        try:
            inspect.signature(self.model).bind(X, y, **options)
        except TypeError as error:
            raise TypeError(
                f"`model` must be a function (X, y, **model_kwargs); {self.model!r} cannot be called with (X, y"
                f"{''.join(f', {name}=...' for name in options)}): {error}."
            ) from None
        except ValueError:  # of a callable that does not tell
            pass
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


def _has_decisions(estimator) -> bool:
    loss = getattr(getattr(estimator, "model_", None), "loss", None)
    if isinstance(loss, losses.Ordinal):  # its logits are of steps from a class to the next one
        raise AttributeError(f"loss={loss.name!r} has no value for each class but its probability.")
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
        Further arguments of the function: what a search varies, as `model_kwargs__rate`, or as a list of dictionaries.
    fit_kwargs : dict, default=None
        Arguments of `Sequential.fit`: `optimizer`, `epochs`, `batch_size`, `callbacks`... `loss` is
        "softmax_cross_entropy" where not given; "binary_cross_entropy" with one unit, or for several labels. With a
        loss of numbers the targets are 0 and 1. `validation_data` and `class_weight` have y's labels.
        `validation_split`, a share in (0, 1), holds out rows of each fit for validation: as large a share of each
        class, where each has rows enough. Searches vary single ones, as `fit_kwargs__epochs` and
        `fit_kwargs__optimizer__learning_rate`.
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
    >>> grid = {"model_kwargs__rate": [0.1, 0.9], "fit_kwargs__optimizer__learning_rate": [0.01]}
    >>> X, y = load_iris(return_X_y=True)
    >>> GridSearchCV(classifier, grid, cv=3).fit(X, y).best_params_
    {'fit_kwargs__optimizer__learning_rate': 0.01, 'model_kwargs__rate': 0.1}
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
            of = "`classes`" if name == "y" else "y"
            raise ValueError(f"`{name}` must have labels of {of}, {_some(list(codes))}; got {unknown[0]!r}.")
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
        codes = self._codes(self._rows_logits(X))
        return codes if self._multilabel else self.classes_[codes]

    def _codes(self, logits):
        """The likeliest class of each row as its number, (n,); each label as 0 or 1, (n, n_labels)."""
        if self._multilabel or logits.shape[1] == 1:
            codes = (self._above(logits) > 0).astype(np.int64)
            return codes if self._multilabel else codes[:, 0]
        return self.model_.loss.best_class(logits)

    def _above(self, logits):
        """How far logits are above what parts the two classes of each."""
        loss = self.model_.loss
        return logits if loss.classification else loss.output(logits) - 0.5  # between the targets 0 and 1

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> SKLearnClassifier:
        """Train one epoch on X and y, from where the last call, or a fit, stopped.

        The first call makes the network: a function gets the rows of that. The optimiser's state is kept from call to
        call, but not in copies and not from a fit: the steps are those of `Sequential.train_on_batch`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, not negative, as they are: of another mean than 1, they make steps longer or shorter.
        classes : array-like of shape (n_classes,), default=None
            All labels that will ever come; needed by the first call. An indicator matrix needs none.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            No `classes` in the first call, other ones later, or labels in y that are not among them; the errors of
            `fit`; `fit_kwargs` that are for `fit` alone, such as `callbacks`.

        Examples
        --------
        >>> from fastmlp import Dense, Sequential, SKLearnClassifier
        >>> classifier = SKLearnClassifier(Sequential(Dense(3)), random_state=0)
        >>> for X, y in [([[0.0], [2.0]], ["low", "high"]), ([[1.0], [2.0]], ["middle", "high"])]:
        ...     classifier = classifier.partial_fit(X, y, classes=["low", "middle", "high"])
        >>> classifier.classes_.tolist()
        ['high', 'low', 'middle']
        """
        return self._partial_fit(X, y, sample_weight, classes)

    def _encode_part(self, y, first, classes):
        if not first:
            if classes is not None and not np.array_equal(np.unique(classes), self.classes_):
                raise ValueError(
                    f"`classes={classes}` is not the same as on last call to partial_fit, was: {self.classes_}"
                )
        elif y.ndim == 2:
            return self._encode(y)
        elif classes is None:
            raise ValueError("classes must be passed on the first call to partial_fit.")
        else:
            self._encode(np.asarray(classes))
        return self._encode_more(y, "y")

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
        return self._by_class(self.model_.predict(X))

    def _by_class(self, probabilities):
        """Of the loss's outputs, a column for each class or label."""
        if self._multilabel or probabilities.shape[1] > 1:
            return probabilities
        return np.hstack([1 - probabilities, probabilities])

    @available_if(_has_probabilities)
    def predict_log_proba(self, X: Any) -> np.ndarray:
        """The logarithm of `predict_proba`, exact also where that is 0 by rounding, but for `loss="ordinal"`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        log_p : ndarray of shape (n_samples, n_classes)
        """
        z = self._rows_logits(X)
        loss = self.model_.loss
        if isinstance(loss, losses.Ordinal):
            with np.errstate(divide="ignore"):
                return np.log(loss.output(z))
        if self._multilabel or z.shape[1] == 1:
            ones = -np.logaddexp(0, -z)
            return ones if self._multilabel else np.hstack([-np.logaddexp(0, z), ones])
        return log_softmax(z).astype(z.dtype)

    @available_if(_has_decisions)
    def decision_function(self, X: Any) -> np.ndarray:
        """What decides between the classes: the logits; of one output of a loss of numbers, what it predicts, less 0.5.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        d : ndarray of shape (n_samples,), (n_samples, n_classes) or (n_samples, n_labels)
            Of two classes one number, above 0 for `classes_[1]`; else the largest is that of the likeliest class, and
            those above 0 are of the labels that a row has.
        """
        z = self._rows_logits(X)
        if self._multilabel:
            return self._above(z)
        if z.shape[1] == 1:
            return self._above(z)[:, 0]
        return z[:, 1] - z[:, 0] if len(self.classes_) == 2 else z

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
        Further arguments of the function: what a search varies, as `model_kwargs__rate`, or as a list of dictionaries.
    fit_kwargs : dict, default=None
        Arguments of `Sequential.fit`; `loss` is "squared_error" where not given. `validation_split`, a share in (0, 1),
        holds out rows of each fit for validation. Searches vary single ones, as `fit_kwargs__epochs` and
        `fit_kwargs__optimizer__learning_rate`.
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

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> SKLearnRegressor:
        """Train one epoch on X and y, from where the last call, or a fit, stopped.

        The first call makes the network: a function gets the rows of that. The optimiser's state is kept from call to
        call, but not in copies and not from a fit: the steps are those of `Sequential.train_on_batch`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, not negative, as they are: of another mean than 1, they make steps longer or shorter.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            X or y has other columns than in the first call; the errors of `fit`; `fit_kwargs` that are for `fit` alone,
            such as `callbacks`.

        Examples
        --------
        >>> from fastmlp import SGD, Dense, Sequential, SKLearnRegressor
        >>> regressor = SKLearnRegressor(Sequential(Dense(1)), fit_kwargs={"optimizer": SGD(0.2)}, random_state=0)
        >>> for step in range(200):
        ...     regressor = regressor.partial_fit([[0.0], [1.0], [2.0]], [1.0, 3.0, 5.0])
        >>> regressor.predict([[3.0]]).round(2).tolist()
        [7.0]
        """
        return self._partial_fit(X, y, sample_weight)

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """What the loss means for each row: values, rates, quantiles... The mean, of a mean and a variance.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        return_std : bool, default=False
            Whether to return standard deviations as well, which `loss="gaussian"` has.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            A column for each quantile, where there are several.
        std : ndarray of the shape of y
            Only with `return_std`.

        Raises
        ------
        ValueError
            `return_std` of another loss.

        Examples
        --------
        >>> import numpy as np
        >>> from fastmlp import Adam, Dense, Sequential, SKLearnRegressor
        >>> X = np.linspace(-1, 1, 200).reshape(-1, 1)
        >>> fit = {"loss": "gaussian", "epochs": 200, "optimizer": Adam(0.01)}
        >>> regressor = SKLearnRegressor(Sequential(Dense(2)), fit_kwargs=fit, random_state=0).fit(X, X[:, 0])
        >>> mean, std = regressor.predict([[0.0]], return_std=True)
        >>> mean.shape, std.shape
        ((1,), (1,))
        """
        X = self._rows(X)
        output, loss = self.model_.predict(X), self.model_.loss
        if not return_std:
            return self._values(output)
        if not isinstance(loss, losses.Gaussian):
            raise ValueError(f"`return_std` is for loss='gaussian', which predicts a variance; got {loss.name!r}.")
        return self._values(output), np.sqrt(self._as_y(output[:, output.shape[1] // 2 :]))

    def _values(self, output):
        """Of the loss's outputs, what `predict` returns."""
        is_mean = isinstance(self.model_.loss, losses.Gaussian)
        return self._as_y(output[:, : output.shape[1] // 2] if is_mean else output)

    def _as_y(self, columns):
        return columns[:, 0] if self._flat and columns.shape[1] == 1 else columns

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R^2 of the predictions; of the median where the loss predicts quantiles.

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
        if isinstance(loss, losses.QuantileLoss) and values.ndim == 2:
            if 0.5 not in loss.quantiles:
                raise ValueError(f"`score` needs a prediction of the median: 0.5 among the quantiles of {loss!r}.")
            values = values[:, loss.quantiles.index(0.5)]
        return r2_score(y, values, sample_weight=sample_weight)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
