"""The solvers of the estimators: epochs of "adam" and "sgd" with scikit-learn's rules for stopping, and L-BFGS.

They set the fitted attributes of the estimator they are given. What a later `partial_fit` or warm start needs stays in
`_training_state` (the optimiser's slots and counters: plain arrays) and `_learning_rate_factor`.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from .. import devices, optimizers
from .._arrays import check_fits
from ..errors import DivergenceError
from ..prediction import keep
from .validation import hold_out

if TYPE_CHECKING:
    from ..sequential import Sequential
    from ..training import Training

SOLVERS = ["lbfgs", "sgd", "adam"]
_SMALLEST_RATE = 1e-6  # "adaptive" stops here, as scikit-learn does


def forget(estimator) -> None:
    """Drop what belongs to an earlier fit, before a new network is trained."""
    for name in ("loss_curve_", "validation_scores_", "best_loss_", "best_validation_score_", "loss_"):
        estimator.__dict__.pop(name, None)
    estimator._training_state = None
    estimator._learning_rate_factor = 1.0
    estimator._no_improvement_count = 0


class _SetUp(NamedTuple):
    """What a `partial_fit` on one batch leaves for the next, which takes a third of its time to set up."""

    key: tuple  # what it was set up for
    state: dict  # `_training_state` after it: another one belongs to another fit
    network: Sequential
    training: Training


# By estimator, whose copies and files know nothing of it
_set_up: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def prepare_stochastic(estimator, X, targets, sample_weight, validation, incremental: bool) -> Callable[[], None]:
    """What trains with "adam" or "sgd": one epoch if `incremental`, else until convergence, patience or `max_iter`.

    Parameters
    ----------
    estimator : BaseMLP
        With `coefs_` and `intercepts_` to start from; both are replaced, also when training ends by an exception.
    X : ndarray or CSR of shape (n_samples, n_features)
    targets : ndarray of shape (n_samples,) or (n_samples, n_outputs)
    sample_weight : ndarray of shape (n_samples,) or None
    validation : tuple of X, targets, sample_weight, or None
        For `early_stopping`.
    incremental : bool
        A call of `partial_fit`.
    """
    from ..training import Training

    _begin(estimator, incremental)
    optimizer, loss = _optimizer(estimator), estimator._loss()
    n_samples = X.shape[0]
    batch_size = _batch_size(estimator, n_samples)
    epochs = 1 if incremental else estimator.max_iter
    layers, dtype = estimator._layers(), estimator._network_dtype()
    device = devices.choose(estimator.device, layers, X, batch_size, epochs, estimator.precision)
    kept = _set_up.pop(estimator, None)  # nobody else gets it meanwhile
    total_weight = n_samples if sample_weight is None else float(sample_weight.sum())
    weight_of_row = None  # scikit-learn's way, which has no classes' weights
    if getattr(estimator, "class_weight", None) is not None:
        weight_of_row = 1.0 if incremental else total_weight / n_samples
    key = None
    if incremental and batch_size == n_samples and device == "cpu":
        key = layers, dtype, optimizer, loss, estimator.alpha, estimator.n_threads, weight_of_row
    goes_on = key and kept and kept.key == key and kept.state is estimator._training_state
    network = estimator._network(kept.network if goes_on else None)
    if goes_on and kept.training.feed(X, targets, sample_weight):
        training = kept.training
        training.start_from_model()
    else:
        training = Training(
            network,
            X,
            targets,
            loss=loss,
            optimizer=optimizer,
            batch_size=batch_size,
            sample_weight=sample_weight,
            seed=estimator._seed,
            n_threads=estimator.n_threads,
            shuffle=estimator.shuffle and batch_size < n_samples,  # the order of rows within one batch changes nothing
            l2=estimator.alpha,
            state=_state(estimator, optimizer),
            device=device,
            precision=estimator.precision,
            weight_of_row=weight_of_row,
        )
    return lambda: _train(estimator, network, training, validation, epochs, incremental, total_weight, X, key)


def _train(
    estimator, network, training, validation, epochs: int, incremental: bool, total_weight: float, X, key
) -> None:
    try:
        with training:
            _train_within(estimator, training, validation, epochs, incremental, total_weight)
    except DivergenceError:
        check_fits(X, network.dtype)
        raise
    finally:
        estimator._keep(network)
        estimator._training_state = state = {"rule": training.optimizer.rule, **training.state}
    if key:
        training.let_go()
        keep(_set_up, estimator, _SetUp(key, state, network, training), lambda kept: kept.training.plan.n_bytes)


def _train_within(estimator, training, validation, epochs: int, incremental: bool, total_weight: float) -> None:
    n_samples, n_batches = training.n_samples, training.steps_per_epoch
    best = training.snapshot() if validation is not None else None
    squares = training.weight_squares()
    try:
        if validation is not None and estimator.t_:  # it goes on: other rows may have another record
            estimator.best_validation_score_ = _validation_score(estimator, training, validation)
        for _ in range(epochs):
            training.learning_rate = _learning_rate(estimator)
            squares = _count_epoch(estimator, training, squares, n_batches, total_weight)
            estimator.t_ += n_samples
            if validation is None:
                _watch_loss(estimator)
            elif _watch_validation(estimator, training, validation):
                best = training.snapshot()
            if estimator._no_improvement_count > estimator.n_iter_no_change and _patience_is_over(estimator):
                break
        else:
            if not incremental:
                warnings.warn(
                    f"Stochastic Optimizer: Maximum iterations ({estimator.max_iter}) reached and the optimization "
                    "hasn't converged yet.",
                    ConvergenceWarning,
                    stacklevel=6,
                )
        if validation is not None and estimator.best_validation_score_ == -np.inf:
            warnings.warn(
                "No validation score was a number, so the network is as it was before the fit: look at X_val and "
                "y_val, or at the learning rate.",
                ConvergenceWarning,
                stacklevel=6,
            )
    finally:
        if best is not None:
            training.restore(best)


def split(estimator, X, targets, sample_weight):
    """The rows of training and of validation: stratified by class, where a row has one class and that is possible."""
    fraction, strata = estimator.validation_fraction, targets if estimator._stratified() else None
    what = f"`early_stopping` cannot hold out validation_fraction={fraction:g}"
    train, held_out = hold_out(X.shape[0], fraction, estimator._seed, strata, what)
    if len(held_out) < 2:
        raise ValueError("The validation set is too small. Increase 'validation_fraction' or the size of your dataset.")
    return tuple(
        tuple(None if array is None else array[part] for array in (X, targets, sample_weight))
        for part in (train, held_out)
    )


def _begin(estimator, incremental: bool) -> None:
    """Curves and records: new ones, or those of the fit that goes on."""
    estimator.loss_curve_ = getattr(estimator, "loss_curve_", [])
    if estimator.early_stopping:
        estimator.validation_scores_ = getattr(estimator, "validation_scores_", None) or []
        best = getattr(estimator, "best_validation_score_", None)
        estimator.best_validation_score_ = -np.inf if best is None else best
        estimator.best_loss_ = None
    else:
        best = getattr(estimator, "best_loss_", None)
        estimator.best_loss_ = np.inf if best is None else best
        estimator.validation_scores_ = estimator.best_validation_score_ = None
    estimator.n_iter_ = 0
    if not incremental:
        estimator._no_improvement_count, estimator._learning_rate_factor = 0, 1.0


def _batch_size(estimator, n_samples: int) -> int:
    if estimator.batch_size == "auto":
        return min(200, n_samples)
    if estimator.batch_size > n_samples:
        warnings.warn(
            f"Got `batch_size`={estimator.batch_size} larger than the sample size {n_samples}. It is going to be "
            "clipped.",
            stacklevel=6,
        )
    return int(min(estimator.batch_size, n_samples))


class _Adam(optimizers.Adam):
    """scikit-learn's: epsilon joins the root of the second moment as it is, before the correction of its bias."""

    def scalars(self, learning_rate, step):
        table = super().scalars(learning_rate, step)
        table[:, 3] = self.epsilon
        return table


def _optimizer(estimator) -> optimizers.Optimizer:
    if estimator.solver == "adam":
        return _Adam(
            estimator.learning_rate_init, beta_1=estimator.beta_1, beta_2=estimator.beta_2, epsilon=estimator.epsilon
        )
    return optimizers.SGD(
        estimator.learning_rate_init, momentum=estimator.momentum, nesterov=estimator.nesterovs_momentum
    )


def _state(estimator, optimizer) -> dict | None:
    """The optimiser's state of the last fit, if the same rule goes on with it."""
    state = dict(estimator._training_state or {})
    return state if state.pop("rule", None) == optimizer.rule else None


def _learning_rate(estimator) -> float:
    if estimator.solver == "sgd" and estimator.learning_rate == "invscaling":
        return estimator.learning_rate_init / (estimator.t_ + 1) ** estimator.power_t
    return estimator.learning_rate_init * estimator._learning_rate_factor


def _count_epoch(estimator, training, squares, n_batches, total_weight) -> float:
    """Train one epoch and record its loss with the L2 penalty in it, as scikit-learn's; returns the new ||W||^2.

    The penalty is the mean over the epoch's batches of alpha / 2 ||W||^2 / (the batch's weight): of the weights before
    the step if there is one step, else taken halfway between those before and after the epoch.
    """
    loss = float(training.run(1)[0])
    after = training.weight_squares()
    middle = squares if n_batches == 1 else (squares + after) / 2
    estimator.loss_ = estimator._reported(loss) + 0.5 * estimator.alpha * middle * n_batches / total_weight
    estimator.n_iter_ += 1
    estimator.loss_curve_.append(estimator.loss_)
    if estimator.verbose:
        print(f"Iteration {estimator.n_iter_}, loss = {estimator.loss_:.8f}")
    return after


def _watch_loss(estimator) -> None:
    """Count the epochs that did not lower the loss by `tol`."""
    improved = estimator.loss_ <= estimator.best_loss_ - estimator.tol
    estimator._no_improvement_count = 0 if improved else estimator._no_improvement_count + 1
    estimator.best_loss_ = min(estimator.best_loss_, estimator.loss_)


def _watch_validation(estimator, training, validation) -> bool:
    """Count the epochs that did not raise the validation score by `tol`; True if it is the best so far."""
    score = _validation_score(estimator, training, validation)
    estimator.validation_scores_.append(score)
    if estimator.verbose:
        print(f"Validation score: {score:f}")
    improved = score >= estimator.best_validation_score_ + estimator.tol
    estimator._no_improvement_count = 0 if improved else estimator._no_improvement_count + 1
    if score > estimator.best_validation_score_:
        estimator.best_validation_score_ = score
        return True
    return False


def _validation_score(estimator, training, validation) -> float:
    X, targets, sample_weight = validation
    return float(estimator._score_logits(training.logits(X), targets, sample_weight))


def _patience_is_over(estimator) -> bool:
    """Whether to stop; "adaptive" divides the learning rate by 5 instead while it is above 1e-6."""
    message = (
        f"{'Validation score' if estimator.early_stopping else 'Training loss'} did not improve more than "
        f"tol={estimator.tol:f} for {estimator.n_iter_no_change} consecutive epochs."
    )
    adaptive = estimator.solver == "sgd" and estimator.learning_rate == "adaptive"
    lower = adaptive and _learning_rate(estimator) > _SMALLEST_RATE
    if lower:
        estimator._learning_rate_factor /= 5
        estimator._no_improvement_count = 0
        message += f" Setting learning rate to {_learning_rate(estimator):f}"
    else:
        message += " Learning rate too small. Stopping." if adaptive else " Stopping."
    if estimator.verbose:
        print(message)
    return not lower


def prepare_lbfgs(estimator, X, targets, sample_weight) -> Callable[[], None]:
    """What minimises the loss of all rows with SciPy's L-BFGS-B; arguments as for `prepare_stochastic`."""
    from ..gradients import RULE
    from ..training import Training

    training = Training(
        estimator._network(),
        X,
        targets,
        loss=estimator._loss(),
        optimizer=RULE,
        batch_size=X.shape[0],
        sample_weight=sample_weight,
        n_threads=estimator.n_threads,
        shuffle=False,
        l2=estimator.alpha,
    )
    return lambda: _minimise(estimator, training)


def _minimise(estimator, training) -> None:
    from sklearn.utils.optimize import _check_optimize_result

    from ..gradients import FlatObjective
    from ..lbfgs import minimise

    objective = FlatObjective(training)

    def note(iteration, loss, theta):
        if estimator.verbose:
            print(f"Iteration {iteration}, loss = {loss:.8f}")

    def take(theta, n_iter):
        objective.take(theta)
        training.close()
        estimator._keep(training.model)
        estimator.n_iter_ = n_iter

    options = {"maxfun": estimator.max_fun, "maxiter": estimator.max_iter, "gtol": estimator.tol}
    result = minimise(objective, objective.theta, take, note, **options)
    estimator.n_iter_ = _check_optimize_result("lbfgs", result, estimator.max_iter)
    squares = sum(float(np.vdot(coef, coef)) for coef in estimator.coefs_)
    penalty = 0.5 * estimator.alpha * squares / training.total_weight
    estimator.loss_ = estimator._reported(float(result.fun) - penalty) + penalty
