"""`MLPRegressor`: one number or several for each row."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if

from .. import losses
from .base import BaseMLP, has_epochs

LOSSES = ["squared_error", "poisson"]


class MLPRegressor(RegressorMixin, BaseMLP):
    """A multilayer perceptron that predicts numbers: scikit-learn's estimator, trained by fastmlp.

    It minimises half the squared error, summed over the outputs. Parameters, defaults and fitted attributes are those
    of scikit-learn's `MLPRegressor`; `n_threads`, `device` and `precision` are added.

    Parameters
    ----------
    loss : {'squared_error', 'poisson'}, default='squared_error'
        'poisson' is half the Poisson deviance of y, at least 0, under a rate that is exp of the output.
    hidden_layer_sizes : int or array-like of int, default=(100,)
        Units of each hidden layer; () is linear regression.
    activation : {'identity', 'logistic', 'tanh', 'relu'}, default='relu'
        Activation of the hidden layers; any name that `fastmlp.activations` declares.
    solver : {'lbfgs', 'sgd', 'adam'}, default='adam'
        'adam' and 'sgd' take one step a batch; 'lbfgs' uses all rows and suits small data.
    alpha : float, default=0.0001
        Strength of the L2 penalty: alpha / 2 ||W||^2 / (rows of the batch, or their weight) is added to the loss.
    batch_size : int, default='auto'
        'auto' is min(200, n_samples).
    learning_rate : {'constant', 'invscaling', 'adaptive'}, default='constant'
        Rate of 'sgd': constant; learning_rate_init / (rows seen + 1)^power_t after each epoch; or divided by 5 each
        time that `n_iter_no_change` epochs did not improve by `tol`.
    learning_rate_init : float, default=0.001
        The (first) learning rate of 'sgd' and 'adam'.
    power_t : float, default=0.5
        The exponent of 'invscaling', at least 0.
    max_iter : int, default=200
        Epochs at most; iterations for 'lbfgs'.
    shuffle : bool, default=True
        Whether each epoch has its own order of rows.
    random_state : int, RandomState instance or None, default=None
        Seed or generator of the first weights, the order of rows and the validation split. With an integer, results
        repeat bit by bit, for any `n_threads`.
    tol : float, default=1e-4
        An epoch that does not improve the loss (or the validation score) by this much counts as no improvement.
    verbose : bool or int, default=False
        Print the loss of each iteration.
    warm_start : bool, default=False
        Whether `fit` goes on from the last fit: from its weights, its optimiser's state and its order of rows.
    momentum : float, default=0.9
        Momentum of 'sgd', in [0, 1).
    nesterovs_momentum : bool, default=True
        Whether the momentum of 'sgd' is Nesterov's.
    early_stopping : bool, default=False
        Stop when the score on validation data stops improving, and keep the best network. The data are
        `validation_fraction` of the rows, or `X_val` and `y_val` of `fit`. Not for 'lbfgs'.
    validation_fraction : float, default=0.1
        Share of the rows that `early_stopping` takes for validation, in (0, 1).
    beta_1, beta_2 : float, default=0.9 and 0.999
        Decay of Adam's moments, in [0, 1).
    epsilon : float, default=1e-8
        Adam's, at least 1e-30: added to the root of the second moment before the correction of its bias.
    n_iter_no_change : int, default=10
        Training stops after one more epoch than this without improvement, as scikit-learn's; np.inf never stops.
    max_fun : int, default=15000
        Loss evaluations of 'lbfgs' at most.
    n_threads : int or None, default=None
        None measures which number of threads is fastest; the result does not depend on it.
    device : {'cpu', 'cuda', 'auto'}, default='cpu'
        Where 'adam' and 'sgd' train: 'cuda' is an NVIDIA GPU (docs/cuda.md), 'auto' one where there is one and a step
        is large. Prediction is on the CPU.
    precision : {'tf32x3', 'tf32', 'bf16'} or None, default=None
        Precision of products in training by a GPU's tensor cores, for wide networks of float32, which X is to be:
        'tf32' and 'bf16' round their factors to 10 or 7 mantissa bits, 'tf32x3' takes three products for about
        float32's precision. None: no tensor cores. Needs compute capability 8.0: with less, 'auto' is the CPU.

    Attributes
    ----------
    coefs_, intercepts_ : list of ndarray
        Weights (n_inputs, n_units) and biases (n_units,) of each layer. Prediction and further training use them as
        they are, so they may be changed.
    loss_, best_loss_ : float
        The last and the smallest loss: half the squared error, the mean over rows and outputs as scikit-learn reports
        it (the Poisson loss: the mean over rows of the sum over outputs), plus the L2 penalty. `best_loss_` is None
        with `early_stopping`. 'lbfgs' leaves `loss_` only.
    loss_curve_ : list of float
        The loss of each epoch.
    validation_scores_ : list of float or None
        R^2 on validation data after each epoch, with `early_stopping`.
    best_validation_score_ : float or None
        Their maximum.
    n_iter_, t_ : int
        Epochs of the last fit, and rows seen since the weights were drawn.
    n_layers_, n_outputs_ : int
        Layers, the input's among them, and units of the last.
    out_activation_ : str
        'identity', or 'exp' with `loss='poisson'`.
    n_features_in_ : int
        Columns of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, where X had names.

    See Also
    --------
    MLPClassifier : The same for labels, with notes on differences from scikit-learn.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLPRegressor
    >>> X = np.linspace(-1, 1, 50).reshape(-1, 1)
    >>> regressor = MLPRegressor(solver="lbfgs", random_state=0).fit(X, X.ravel() ** 2)
    >>> round(regressor.score(X, X.ravel() ** 2), 2) > 0.95
    True
    """

    _least_validation = 2  # R^2 of one row is not defined
    _parameter_constraints: dict = {**BaseMLP._parameter_constraints, "loss": [StrOptions(set(LOSSES))]}
    _names: dict = {**BaseMLP._names, "loss": LOSSES}
    _numeric_targets = True

    def __init__(
        self,
        loss: str = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        n_threads: int | None = None,
        device: str = "cpu",
        precision: str | None = None,
    ):
        self.loss = loss
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.n_threads = n_threads
        self.device = device
        self.precision = precision

    @available_if(has_epochs)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> MLPRegressor:
        """Train one epoch on X and y, from where the last call stopped.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows, as `fit` takes them.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Numbers; of at least 0 for `loss='poisson'`.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, not negative.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            X or y has other columns than in the first call; the errors of `fit`; `early_stopping=True`.
        AttributeError
            The solver is 'lbfgs', which has no epochs: then there is no such method.

        Examples
        --------
        >>> from fastmlp import MLPRegressor
        >>> regressor = MLPRegressor(random_state=0)
        >>> for X, y in [([[0.0], [1.0]], [1.0, 3.0]), ([[2.0], [3.0]], [5.0, 7.0])]:
        ...     regressor = regressor.partial_fit(X, y)
        >>> len(regressor.loss_curve_), regressor.t_
        (2, 4)
        """
        return self._fit(X, y, sample_weight, incremental=True)

    def _encode(self, y, *, fresh, incremental, name="y", classes=None):
        n_outputs, output = y.shape[1] if y.ndim == 2 else 1, "exp" if self.loss == "poisson" else "identity"
        if not fresh and output != self.out_activation_:
            raise ValueError(
                f"`loss`={self.loss!r} cannot go on with the fitted network, whose out_activation_ is "
                f"{self.out_activation_!r}; fit a new one."
            )
        if self.loss == "poisson" and (y < 0).any():
            where = tuple(np.argwhere(y < 0)[0])
            raise ValueError(f"`{name}` must be at least 0 for `loss`='poisson'; row {where[0]} holds {y[where]:g}.")
        if fresh:
            self.n_outputs_, self.out_activation_ = n_outputs, output
        elif n_outputs != self.n_outputs_:
            raise ValueError(f"{name} has {n_outputs} outputs, but the fitted network has {self.n_outputs_}.")
        return np.ascontiguousarray(y, dtype=np.float64)

    def _loss(self):
        return losses.Poisson() if self.out_activation_ == "exp" else losses.SquaredError()

    def _stratified(self) -> bool:
        return False

    def _reported(self, loss: float) -> float:
        if self.out_activation_ == "exp":
            return loss
        return loss / self.n_outputs_  # scikit-learn reports the mean over outputs, though it descends on their sum

    def _score_logits(self, logits, targets, sample_weight):
        from sklearn.metrics import r2_score

        values = self._loss().output(logits)
        return r2_score(targets, values, sample_weight=sample_weight) if np.isfinite(values).all() else np.nan

    def predict(self, X: Any) -> np.ndarray:
        """The numbers that the network gives for each row.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows with the columns of the fitted data.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            In the dtype of `coefs_`.

        Raises
        ------
        NotFittedError
            There is no network yet.
        ValueError, TypeError
            X has other columns than the fitted data, or is not finite numbers.

        Examples
        --------
        >>> from fastmlp import MLPRegressor
        >>> regressor = MLPRegressor(hidden_layer_sizes=(), solver="lbfgs", alpha=0.0, random_state=0)
        >>> regressor.fit([[0.0], [1.0], [2.0]], [1.0, 3.0, 5.0]).predict([[3.0]]).round(2).tolist()
        [7.0]
        """
        outputs = self._logits(X)
        outputs = self._loss().output(outputs)
        return outputs[:, 0] if self.n_outputs_ == 1 else outputs

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.target_tags.positive_only = self.loss == "poisson"
        return tags
