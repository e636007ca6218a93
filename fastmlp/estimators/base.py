"""What the two estimators share: parameters and their checks, the order of a fit, the fitted network, prediction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from functools import lru_cache, partial
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import check_is_fitted

from .. import activations, devices
from .._arrays import check_came_of, check_fits
from ..errors import unknown_name
from ..layers import Dense
from ..lowering import parameter_shapes
from ..prediction import QUIET, is_few
from ..sequential import Sequential
from . import solvers
from .validation import DTYPES, check_features, check_finite, check_targets, check_weights

_Estimator = TypeVar("_Estimator", bound="BaseMLP")
ACTIVATIONS = [*activations.ACTIVATIONS, *activations.ALIASES]
LEARNING_RATES = ["constant", "invscaling", "adaptive"]


@contextmanager
def unless_it_fails(estimator):
    """What is set in the estimator within it stays set, unless there is an exception: then it is as it was."""
    before = estimator.__dict__.copy()
    try:
        yield
    except BaseException:
        estimator.__dict__.clear()
        estimator.__dict__.update(before)
        raise


class BaseMLP(BaseEstimator, ABC):
    """Parameters, fit and prediction of `MLPClassifier` and `MLPRegressor`; those say what y means.

    The parameters of the network are `coefs_` and `intercepts_` and nothing else: every fit and every prediction
    starts from them, so they may be changed, and a pickle is plain arrays.
    """

    _parameter_constraints: dict = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "solver": [StrOptions(set(solvers.SOLVERS))],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions(set(LEARNING_RATES))],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "n_threads": [None, Interval(Integral, 1, None, closed="left")],
        "device": [StrOptions(set(devices.DEVICES))],
        "precision": [None, StrOptions(set(devices.PRECISIONS))],
    }
    _names: dict = {
        "activation": ACTIVATIONS,
        "solver": solvers.SOLVERS,
        "learning_rate": LEARNING_RATES,
        "device": devices.DEVICES,
        "precision": (None, *devices.PRECISIONS),
    }

    _least_validation = 1  # rows that a validation score needs

    @abstractmethod
    def _encode(self, y, *, fresh: bool, incremental: bool, name: str = "y", classes=None) -> np.ndarray:
        """Targets as the loss takes them; sets what describes y (`classes_`, `n_outputs_`, `out_activation_`)."""

    @abstractmethod
    def _loss(self):
        """The loss object that `out_activation_` belongs to."""

    @abstractmethod
    def _reported(self, loss: float) -> float:
        """`loss_` as scikit-learn scales it."""

    @abstractmethod
    def _stratified(self) -> bool:
        """Whether a validation split keeps the shares of the targets' values."""

    @abstractmethod
    def _score_logits(self, logits, targets, sample_weight) -> float:
        """What `early_stopping` watches: higher is better."""

    def _class_weighted(self, targets, sample_weight):
        return sample_weight

    def fit(
        self: _Estimator,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> _Estimator:
        """Fit the network to X and y.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            float32, float64 and uint8 are taken as they are, CSR too; C order saves a copy. The network is of float32
            for X of float32 and uint8, else of float64, which takes twice the time.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Labels, or an indicator matrix of labels (classifier); numbers (regressor).
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, not negative. A row of weight 0 is as good as absent.
        X_val, y_val : array-likes, default=None
            Validation data for `early_stopping`, instead of `validation_fraction` of X and y.
        sample_weight_val : array-like, default=None
            Weights of the validation rows.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            Bad parameters or data; the message names the argument, and for NaN and infinity the row and the column.
        TypeError
            X or y is no array of numbers or labels, or y mixes texts with others.
        MemoryError
            The network would not fit into memory.
        ImportError, RuntimeError
            `device='cuda'` without the package numba-cuda, without a GPU, with one that is too old for `precision`, or
            (NotImplementedError) for a sparse X.
        DivergenceError
            The loss or the weights became infinite or NaN; the last finite weights are kept.
        KeyboardInterrupt
            Ctrl-C: raised after the network was left as it was after the last whole step.

        Warns
        -----
        ConvergenceWarning
            `max_iter` or `max_fun` came before convergence.

        Examples
        --------
        >>> import numpy as np
        >>> from fastmlp import MLPRegressor
        >>> X, X_val = np.linspace(-1, 1, 64).reshape(-1, 1), np.linspace(-0.9, 0.9, 16).reshape(-1, 1)
        >>> regressor = MLPRegressor(early_stopping=True, learning_rate_init=0.01, random_state=0)
        >>> regressor = regressor.fit(X, X.ravel() ** 2, X_val=X_val, y_val=X_val.ravel() ** 2)
        >>> regressor.best_validation_score_ > 0.95
        True
        """
        return self._fit(X, y, sample_weight, validation=(X_val, y_val, sample_weight_val))

    def _fit(self, X, y, sample_weight, *, validation=(None, None, None), incremental=False, classes=None):
        with unless_it_fails(self):
            train = self._prepared(X, y, sample_weight, validation, incremental, classes)
        train()
        return self

    def _prepared(self, X, y, sample_weight, validation, incremental: bool, classes):
        """What trains, when all is checked and there is a network to begin with."""
        self._check_parameters(incremental)
        self._check_validation_arguments(*validation)
        fresh = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
        X = check_features(self, X, reset=fresh, dtypes=self._dtypes(fresh))
        y = check_targets(y, X, self, numeric=self._numeric_targets)
        sample_weight = check_weights(sample_weight, X)
        dtype = self._dtype(X, fresh)
        devices.check_ready(self.device, X, self.precision, dtype)
        targets = self._encode(y, fresh=fresh, incremental=incremental, classes=classes)
        validation = self._check_validation(*validation, dtype)
        X, targets, sample_weight = present(X, targets, sample_weight)

        units = [X.shape[1], *self._hidden_units(), self.n_outputs_]
        if fresh:
            self._initialize(units, dtype)
        elif units != self._units():
            raise ValueError(
                f"`hidden_layer_sizes`, X and y ask for layers of {units} units, but the fitted network that "
                f"{'partial_fit' if incremental else 'warm_start=True'} goes on with has {self._units()}."
            )
        if self.early_stopping and self.solver != "lbfgs" and validation is None:
            (X, targets, sample_weight), validation = solvers.split(self, X, targets, sample_weight)
        X, targets, sample_weight = present(X, targets, self._class_weighted(targets, sample_weight))
        if self.solver == "lbfgs":
            return solvers.prepare_lbfgs(self, X, targets, sample_weight)
        return solvers.prepare_stochastic(self, X, targets, sample_weight, validation, incremental)

    def _check_parameters(self, incremental: bool) -> None:
        for argument, accepted in self._names.items():
            value = getattr(self, argument)
            if isinstance(value, str) and value not in accepted:
                raise unknown_name(argument, value, accepted)
        self._validate_params()
        if self.solver == "lbfgs" and self.device == "cuda":
            raise ValueError("device='cuda' is for solver 'adam' or 'sgd'; 'lbfgs' runs on the CPU: use device='cpu'.")
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")

    def _hidden_units(self) -> list[int]:
        """`hidden_layer_sizes` as a list of positive integers."""
        sizes = self.hidden_layer_sizes
        sizes = list(sizes) if np.iterable(sizes) else [sizes]
        if not all(isinstance(size, Integral) and size > 0 for size in sizes):
            raise ValueError(f"hidden_layer_sizes must be > 0 and integers, got {sizes}.")
        return [int(size) for size in sizes]

    def _units(self) -> list[int]:
        return [self.coefs_[0].shape[0], *(coef.shape[1] for coef in self.coefs_)]

    def _dtypes(self, fresh: bool) -> tuple:
        """The dtypes of X that need no conversion: those of the fitted network, or any for a new one."""
        if fresh:
            return DTYPES
        return (self.coefs_[0].dtype, np.dtype(np.uint8))

    def _dtype(self, X, fresh: bool):
        """Of the network that is fitted to X."""
        if fresh:
            return np.dtype(np.float32) if X.dtype == np.uint8 else X.dtype
        return self.coefs_[0].dtype

    def _check_validation_arguments(self, X_val, y_val, sample_weight_val) -> None:
        """Raise where the arguments of the explicit validation set do not go together."""
        if X_val is None and y_val is None:
            if sample_weight_val is not None:
                raise ValueError("sample_weight_val is provided, but X_val and y_val were not provided.")
            return
        if y_val is None:
            raise ValueError("X_val is provided, but y_val was not provided.")
        if X_val is None:
            raise ValueError("y_val is provided, but X_val was not provided.")
        if not self.early_stopping or self.solver == "lbfgs":
            raise ValueError(
                "X_val and y_val serve early_stopping=True with solver 'adam' or 'sgd'; got early_stopping="
                f"{self.early_stopping!r} with solver={self.solver!r}."
            )

    def _check_validation(self, X_val, y_val, sample_weight_val, dtype):
        """(X, targets, weights) of the explicit validation set, or None."""
        if X_val is None:
            return None
        X_val = check_features(self, X_val, reset=False, name="X_val")
        y_val = check_targets(y_val, X_val, self, numeric=self._numeric_targets, name="y_val")
        check_fits(X_val, dtype, "X_val")
        targets = self._encode(y_val, fresh=False, incremental=True, name="y_val")
        X_val, targets, weights = present(X_val, targets, check_weights(sample_weight_val, X_val, "sample_weight_val"))
        if len(targets) < self._least_validation:
            raise ValueError(
                f"`X_val` and `y_val` must have at least {self._least_validation} rows whose weight is not 0; got "
                f"{len(targets)}."
            )
        return X_val, targets, weights

    def _initialize(self, units: list[int], dtype) -> None:
        """Draw weights and biases as scikit-learn does: for one `random_state` both begin with the same network.

        Glorot and Bengio's uniform distribution within sqrt(6 / (fan_in + fan_out)), for the logistic function within
        sqrt(2 / (fan_in + fan_out)).
        """
        _check_memory(units)
        rng = check_random_state(self.random_state)
        factor = 2.0 if activations.get(self.activation) == activations.Logistic() else 6.0
        self.coefs_, self.intercepts_ = [], []
        for fan_in, fan_out in zip(units, units[1:], strict=False):
            bound = np.sqrt(factor / (fan_in + fan_out))
            self.coefs_.append(rng.uniform(-bound, bound, (fan_in, fan_out)).astype(dtype, copy=False))
            self.intercepts_.append(rng.uniform(-bound, bound, fan_out).astype(dtype, copy=False))
        self._seed = int(rng.randint(np.iinfo(np.int32).max))  # of the order of rows: the same one for warm starts
        self.n_layers_ = len(units)
        self.n_iter_ = self.t_ = 0
        solvers.forget(self)

    def _network(self, network: Sequential | None = None) -> Sequential:
        """`coefs_` and `intercepts_` as a `Sequential`, a new one or this, which does not copy them: a fit gives it
        others.
        """
        network = network or Sequential(*self._layers(), dtype=self._network_dtype())
        n_features, parameters = self.coefs_[0].shape[0], self._named_parameters()
        for name, shape in parameter_shapes(network.layers, n_features).items():
            value = parameters[name] = np.asarray(parameters[name], network.dtype)
            if value.shape != shape:
                raise ValueError(f"`{name}` must have shape {shape}; got {value.shape}.")
            if not np.isfinite(value).all():
                raise ValueError(f"`{name}` must be finite; it holds NaN or infinity.")
        return network._adopt(n_features, parameters)

    def _layers(self) -> tuple:
        return _layers(tuple(self._units()[1:]), activations.get(self.activation))

    def _network_dtype(self):
        return np.result_type(self.coefs_[0].dtype, np.float32)

    def _named_parameters(self) -> dict[str, np.ndarray]:
        """`coefs_` and `intercepts_` under the network's names."""
        parameters = {}
        for i, (coef, intercept) in enumerate(zip(self.coefs_, self.intercepts_, strict=True)):
            parameters |= {f"dense_{i}.weight": coef, f"dense_{i}.bias": intercept}
        return parameters

    def _keep(self, network) -> None:
        """Take the parameters of the trained network, which nobody else has."""
        parameters = network._arrays
        self.coefs_ = [parameters[f"dense_{i}.weight"] for i in range(self.n_layers_ - 1)]
        self.intercepts_ = [parameters[f"dense_{i}.bias"] for i in range(self.n_layers_ - 1)]

    def _logits(self, X, loss=None) -> np.ndarray:
        """The last layer's outputs, before `out_activation_`, or what `loss` makes of them, for X as a user passes it:
        (n_samples, n_outputs)."""
        check_is_fitted(self, "coefs_")
        X = check_features(self, X, reset=False, finite=False)
        n_weights = sum(coef.size for coef in self.coefs_)
        if is_few(X, n_weights, self.coefs_[0].shape[1], packed=False):  # anyone may have changed them
            check_finite(X, "X", self)
            logits = self._few_logits(X)
            check_came_of(X, logits)
            return logits if loss is None else loss.output(logits)
        return self._many_predictions(X, loss)

    def _few_logits(self, X) -> np.ndarray:
        """By NumPy, in the dtype of the weights."""
        function = activations.get(self.activation)
        with np.errstate(**QUIET):  # the logistic function of -1000 is 0, by way of exp(1000)
            values = X.astype(self._network_dtype(), copy=False)
            for i, (coef, intercept) in enumerate(zip(self.coefs_, self.intercepts_, strict=True)):
                values = (function(values) if i else values) @ coef + intercept
        return values

    def _many_predictions(self, X, loss) -> np.ndarray:
        """By the engine, which finds what in X is not finite."""
        from ..evaluation import predictions

        layers, n_features, parameters = self._layers(), self.coefs_[0].shape[0], self._named_parameters()
        shapes = parameter_shapes(layers, n_features)
        if any(parameters[name].shape != shape for name, shape in shapes.items()):
            self._network()  # says which does not fit
        refuse = partial(check_finite, name="X", estimator=self)
        options = {"n_threads": self.n_threads, "refuse": refuse, "owner": self}
        return predictions(layers, n_features, parameters, X, self._network_dtype(), loss, **options)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "coefs_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


@lru_cache(maxsize=32)
def _layers(units: tuple[int, ...], activation) -> tuple:
    """Of a network with so many units in its layers, the last of which are the outputs."""
    return tuple([layer for width in units for layer in (Dense(width), activation)][:-1])


def present(X, targets, sample_weight):
    """Without rows of weight 0: they are removed rows also in the order and the sizes of batches."""
    if sample_weight is None or sample_weight.all():
        return X, targets, sample_weight
    kept = sample_weight > 0
    return X[kept], targets[kept], sample_weight[kept]


def _check_memory(units: list[int]) -> None:
    from ..engine.executor import physical_memory

    n_parameters = sum((fan_in + 1) * fan_out for fan_in, fan_out in zip(units, units[1:], strict=False))
    if 8 * n_parameters > physical_memory():  # in float64, as they are drawn; the optimiser's state comes on top
        raise MemoryError(
            f"`hidden_layer_sizes` with layers of {units} units asks for {n_parameters:,} parameters, "
            f"{8 * n_parameters / 2**30:,.1f} GiB, more than there is; try narrower layers."
        )


def has_epochs(estimator: BaseMLP) -> bool:
    """Whether the solver knows `partial_fit`."""
    if estimator.solver == "lbfgs":
        raise AttributeError(f"partial_fit is only available for stochastic optimizers. {estimator.solver} is not.")
    return True
