"""L-BFGS: all rows at each step, by SciPy, of losses and gradients that the engine computes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from .backup import BackupAndRestore
from .callbacks import ReduceLROnPlateau
from .epochs import look, tell
from .errors import DivergenceError
from .gradients import RULE, FlatObjective
from .layers import flatten
from .normalization import BatchNorm

if TYPE_CHECKING:
    from .optimizers import LBFGS

__all__ = ["RULE", "check", "minimise", "run_iterations"]


def minimise(
    objective: Callable[[np.ndarray], tuple[float, np.ndarray]],
    theta: np.ndarray,
    take: Callable[[np.ndarray, int], None],
    note: Callable[[int, float, np.ndarray], None],
    **options,
):
    """Let SciPy's L-BFGS-B minimise the objective, from theta on.

    Parameters
    ----------
    objective : function
        (loss, gradient) of a float64 vector.
    theta : ndarray (n,), float64
    take : function
        Called once with the best vector and the number of iterations, whatever ends them.
    note : function
        Called with the number of each iteration, its loss and the vector; StopIteration ends it.
    **options
        SciPy's.

    Returns
    -------
    OptimizeResult

    Raises
    ------
    DivergenceError
        The loss is not finite.
    """
    from scipy.optimize import minimize
    from threadpoolctl import threadpool_limits

    latest, n_iter = theta, 0

    def callback(intermediate_result):
        nonlocal latest, n_iter
        n_iter += 1
        if np.isfinite(intermediate_result.fun):
            latest = intermediate_result.x.copy()
        note(n_iter, float(intermediate_result.fun), latest)

    try:
        # SciPy's own steps are short vectors: with BLAS threads that wait for each other on a busy machine, a fit of 84
        # iterations took 0.4 to 1.7 s instead of 0.05
        with threadpool_limits(1, user_api="blas"):
            result = minimize(objective, theta, method="L-BFGS-B", jac=True, callback=callback, options=options)
        if np.isfinite(result.fun):  # a line search steps back from an overflow, unless it started in one
            latest = result.x
    finally:
        take(latest, n_iter)
    if not np.isfinite(result.fun):
        raise DivergenceError(
            f"lbfgs diverged in iteration {n_iter + 1}: the loss is no longer finite. The last finite parameters are "
            "kept. Try standardised inputs and targets.",
            n_iter + 1,
        )
    return result


def check(optimizer: LBFGS, layers, callbacks, backup, device: str) -> None:
    """ValueError for what does not go together with L-BFGS."""
    if device == "cuda":
        raise ValueError(f"device='cuda' is for optimisers that take batches, not for {optimizer!r}: use device='cpu'.")
    for layer in flatten(layers):
        for option, without in (("max_norm", None), ("learning_rate_multiplier", 1.0)):
            if getattr(layer, option, without) != without:
                raise ValueError(f"`{option}` must be {without!r} with {optimizer!r}; got {layer!r}.")
        if isinstance(layer, BatchNorm) and layer.trainable:  # trials of a line search would be in its averages
            raise ValueError(f"{optimizer!r} needs norms of rows, such as LayerNorm; got {layer!r}.")
    for callback in (backup, *callbacks):
        if isinstance(callback, (ReduceLROnPlateau, BackupAndRestore)):
            raise ValueError(f"`callbacks` cannot have {callback!r} with {optimizer!r}.")


def run_iterations(optimizer: LBFGS, training, history, epochs: int, callbacks, validation, backup=None) -> None:
    """Train by so many iterations at most, each recorded as an epoch: fewer where the loss falls no more.

    `training` has the rule `RULE`, and all rows in one batch.
    """
    if training.plan.random or any(group.mixing is not None for group in training.plan.groups):
        raise ValueError(
            f"{optimizer!r} needs a loss that depends on the parameters alone, but a layer of this network, such as a "
            "Dropout, draws numbers in each step."
        )
    objective, started = FlatObjective(training), time.perf_counter()

    def note(iteration, loss, theta):
        nonlocal started
        objective.take(theta)
        look(training, history, callbacks, validation, iteration, loss, started, rate=False)
        if training.stop:
            raise StopIteration
        started = time.perf_counter()

    options = {"maxiter": epochs, "maxfun": np.iinfo(np.int32).max, "maxcor": optimizer.maxcor}
    options |= {"gtol": optimizer.gtol, "ftol": optimizer.ftol}

    def run():
        if training.stop:
            return
        theta = objective.theta
        result = minimise(objective, theta, lambda latest, _: objective.take(latest), note, **options)
        if not len(history):  # it was at its minimum
            note(1, float(result.fun), theta)

    with suppress(StopIteration):
        tell(callbacks, training, history, run)
