"""`find_learning_rate`: the learning rates that suit a network, from one short fit in which the rate grows.

L. N. Smith, "Cyclical learning rates for training neural networks", 2017, section 3.3: the range test.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from . import losses, optimizers, sequential
from ._arrays import check_columns
from .callbacks import Callback
from .errors import DivergenceError, check_count, check_range
from .history import axes
from .schedules import Schedule


@dataclass(frozen=True)
class _Rising(Schedule):
    """rate(t) = low (high / low)^(t / (steps - 1))."""

    low: float
    high: float
    steps: int

    def __call__(self, step, steps_per_epoch):
        return self.low * np.power(self.high / self.low, np.minimum(step / (self.steps - 1), 1.0))


class _StepLosses(Callback):
    """The loss of every step, up to the one at which a fit diverged."""

    def __init__(self):
        self.losses: list[float] = []

    def on_epoch_end(self, training, epoch, logs):
        self.losses += training.step_losses.tolist()

    def on_fit_end(self, training, history):
        if training.step > len(self.losses):  # the last epoch was not done
            self.losses += training.step_losses.tolist()


@dataclass(frozen=True, eq=False, repr=False)
class RateTest:
    """What `find_learning_rate` found.

    Attributes
    ----------
    rates, losses : ndarray (steps,), float64
        The rate of each step, and the mean loss of its batch before the update; fewer where the loss became infinite.

    Examples
    --------
    >>> test = RateTest(np.array([0.001, 0.01, 0.1]), np.array([1.0, 0.5, 2.0]))
    >>> round(test.suggestion, 6)
    0.001
    """

    rates: np.ndarray
    losses: np.ndarray

    @property
    def smoothed(self) -> np.ndarray:
        """The losses, averaged over neighbouring steps: a batch says little about all rows."""
        from scipy.ndimage import gaussian_filter1d

        return gaussian_filter1d(self.losses, len(self.losses) / 50, truncate=2, mode="nearest")

    @property
    def suggestion(self) -> float:
        """A tenth of the rate at which the smoothed loss is least: there it still falls, and with a margin."""
        return float(self.rates[np.argmin(self.smoothed)] / 10)

    def __repr__(self) -> str:
        ends = f"{self.rates[0]:.3g} to {self.rates[-1]:.3g}"
        best, n = int(np.argmin(self.smoothed)), len(self.rates)
        end = ", but the loss is least at an end: try other rates" if best in (0, n - 1) else ""
        return f"RateTest: {n} steps at rates from {ends}; suggestion {self.suggestion:.2g}{end}"

    def plot(self, ax: Any = None) -> Any:
        """Draw the losses over the rates, with the suggestion.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; a new figure's where not given.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ImportError
            matplotlib is not installed.

        Examples
        --------
        >>> test.plot()  # doctest: +SKIP
        """
        ax, smoothed = axes(ax, "RateTest"), self.smoothed
        ax.plot(self.rates, self.losses, alpha=0.3, label="loss of a batch")
        ax.plot(self.rates, smoothed, label="smoothed")
        ax.axvline(self.suggestion, linestyle="--", color="black", label=f"suggestion {self.suggestion:.2g}")
        low, high = smoothed.min(), max(smoothed[0], float(np.median(smoothed)))
        span = high - low or 1.0
        ax.set(xscale="log", xlabel="learning rate", ylabel="loss", ylim=(low - 0.1 * span, high + span))
        ax.legend()
        return ax


def find_learning_rate(
    model: sequential.Sequential,
    X: Any,
    y: Any,
    *,
    loss: str | losses.Loss | None = None,
    optimizer: str | optimizers.Optimizer = "adam",
    batch_size: int = 32,
    low: float = 1e-6,
    high: float = 1.0,
    steps: int = 200,
    sample_weight: Any = None,
    groups: Any = None,
    seed: int = 0,
    n_threads: int | None = None,
) -> RateTest:
    """Train a copy of the model for a few steps while the learning rate grows from `low` to `high`, evenly in its
    logarithm, and see where the loss falls and where it rises; the model stays as it is.

    Parameters
    ----------
    model : Sequential
        Trained or not.
    X, y, loss, sample_weight, groups, n_threads
        As for `Sequential.fit`. Of more rows, or queries, than the steps take, some are drawn.
    optimizer : str or Optimizer
        With the settings of the fit to come; its rate does not count.
    batch_size : int
        Of the fit to come: larger batches go with larger rates.
    low, high : float
        The first and the last rate, at least 1e-30, and up to 1e30; low < high.
    steps : int
        At least 20.
    seed : int
        Of fresh parameters, of the rows that are drawn, and of their order.

    Returns
    -------
    RateTest
        `suggestion` is a rate to begin with, `plot()` shows the curve, from which one may read another.

    Raises
    ------
    ValueError, TypeError
        Bad input, named, with what is accepted.
    DivergenceError
        The loss is not finite from the first steps on.

    Examples
    --------
    >>> from fastmlp import Dense, ReLU, Sequential, SGD, find_learning_rate
    >>> from fastmlp.datasets import load_digits
    >>> (X, y), _ = load_digits()
    >>> model = Sequential(Dense(32), ReLU(), Dense(10))
    >>> test = find_learning_rate(model, X, y, loss="softmax_cross_entropy", optimizer=SGD(momentum=0.9))
    >>> 0.001 < test.suggestion < 0.1
    True
    """
    if not isinstance(model, sequential.Sequential):
        raise TypeError(f"`model` must be a Sequential; got {type(model).__name__}.")
    check_range("low", low, 1e-30, 1e30)
    check_range("high", high, float(low), 1e30, low_open=True, high_closed=True)
    steps, batch_size = check_count(steps, "steps", least=20), check_count(batch_size, "batch_size")
    seed = check_count(seed, "seed", least=0)
    optimizer = replace(optimizers.get(optimizer), learning_rate=_Rising(float(low), float(high), steps))
    loss = losses.get(model.loss if loss is None else loss)
    check_columns(X, model._columns)
    X, y, sample_weight, groups = model._checked(X, y, loss, sample_weight, groups)
    # rows, or whole queries, that the steps take; what weighs nothing teaches nothing
    of_row = np.arange(X.shape[0]) if groups is None else groups
    kept = np.unique(of_row if sample_weight is None else of_row[sample_weight > 0])
    if len(kept) > steps * batch_size:
        kept = np.random.default_rng(seed).choice(kept, steps * batch_size, replace=False)
    n_batches = -(-len(kept) // batch_size)
    if len(kept) < of_row.max() + 1:
        rows = np.flatnonzero(np.isin(of_row, kept))
        X, y = X[rows], y[rows]
        sample_weight, groups = (a if a is None else a[rows] for a in (sample_weight, groups))
    trial, seen = model[:], _StepLosses()
    options = {"sample_weight": sample_weight, "groups": groups, "seed": seed, "n_threads": n_threads, "verbose": 0}
    options |= {"optimizer": optimizer, "batch_size": batch_size, "epochs": -(-steps // n_batches), "callbacks": [seen]}
    try:
        trial.fit(X, y, loss=loss, **options)
    except DivergenceError:
        if not seen.losses:
            raise
    found = np.array(seen.losses[:steps])
    return RateTest(optimizer.learning_rate(np.arange(len(found)), 1), found)
