"""Losses of numbers: of their mean, their quantiles, their distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy import exp, log, maximum, where

from .. import configs
from ..activations import log1p_of_exp_minus_abs
from ..errors import check_range
from .base import Loss, sigmoid


def squared_term(z, y, a, b):
    return 0.5 * (z - y) * (z - y)


def squared_slope(z, y, a, b):
    return z - y


@dataclass(frozen=True)
class SquaredError(Loss):
    """l = 1/2 sum_k (z_k - y_k)^2; dl/dz = z - y. Output: z. (Keras's and PyTorch's "mse" is 2 / K times this.)

    When to use: numbers with noise of about the same size everywhere; estimates the mean.

    Examples
    --------
    >>> import numpy as np
    >>> SquaredError().value(np.array([[3.0], [1.0]]), np.array([1.0, 1.0]))
    1.0
    """

    name: ClassVar[str] = "squared_error"
    mixable: ClassVar[bool] = True
    targets: ClassVar[str] = "finite numbers of shape (n,) or (n, K)"
    term: ClassVar = staticmethod(squared_term)
    slope: ClassVar = staticmethod(squared_slope)


def absolute_term(z, y, a, b):
    return abs(z - y)


def absolute_slope(z, y, a, b):
    return where(z > y, 1.0, 0.0) - where(z < y, 1.0, 0.0)


@dataclass(frozen=True)
class AbsoluteError(Loss):
    """l = sum_k |z_k - y_k|; dl/dz = sign(z - y), 0 at 0. Output: z, an estimate of the median.

    When to use: numbers with outliers; estimates the median.

    Examples
    --------
    >>> import numpy as np
    >>> AbsoluteError().value(np.array([[3.0], [1.0]]), np.array([1.0, 1.0]))
    1.0
    """

    name: ClassVar[str] = "absolute_error"
    mixable: ClassVar[bool] = True
    targets: ClassVar[str] = "finite numbers of shape (n,) or (n, K)"
    term: ClassVar = staticmethod(absolute_term)
    slope: ClassVar = staticmethod(absolute_slope)


def huber_term(z, y, a, b):
    d = abs(z - y)
    return where(d > a, a * (d - 0.5 * a), 0.5 * d * d)


def huber_slope(z, y, a, b):
    d = z - y
    return where(d > a, a, where(d < -a, -a, d))


@dataclass(frozen=True)
class Huber(Loss):
    """l = sum_k d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2), with d = z_k - y_k.

    dl/dz = d, held to [-delta, delta]. Output: z. Huber, 1964.

    When to use: numbers with some outliers; the mean near the target, the median far from it.

    Parameters
    ----------
    delta : float
        The size of d up to which the loss is squared, above 0.

    Raises
    ------
    ValueError, TypeError
        `delta` is no finite number above 0.

    Examples
    --------
    >>> import numpy as np
    >>> Huber(delta=1.0).value(np.array([[3.0], [1.0]]), np.array([1.0, 1.0]))
    0.75
    """

    name: ClassVar[str] = "huber"
    mixable: ClassVar[bool] = True
    targets: ClassVar[str] = "finite numbers of shape (n,) or (n, K)"
    term: ClassVar = staticmethod(huber_term)
    slope: ClassVar = staticmethod(huber_slope)
    delta: float = 1.0

    def __post_init__(self):
        configs.plain_numbers(self)
        check_range("delta", self.delta, 0, np.inf, low_open=True)

    @property
    def numbers(self):
        return (self.delta,)


# Rates above exp(40) = 2e17 go on along the tangent: a step too far is a large loss, not an infinite one
def poisson_term(z, y, a, b):
    c = where(z < 40.0, z, 40.0)
    return exp(c) * (1.0 + (z - c)) - y * z + where(y > 0.0, y * log(where(y > 0.0, y, 1.0)) - y, 0.0)


def poisson_slope(z, y, a, b):
    return exp(where(z < 40.0, z, 40.0)) - y


@dataclass(frozen=True)
class Poisson(Loss):
    """l = sum_k exp(z_k) - y_k z_k + y_k log y_k - y_k, half the deviance; dl/dz = exp(z) - y. Output: the rate exp(z).

    When to use: counts and rates whose variance is about their mean.

    scikit-learn's "poisson"; PyTorch's poisson_nll_loss leaves out what does not depend on z. Above z = 40 rate and
    loss go on along the tangent, so that a step too far does not overflow. Nelder and Wedderburn, 1972.

    Examples
    --------
    >>> import numpy as np
    >>> Poisson().value(np.array([[0.0]]), np.array([1.0]))
    0.0
    """

    name: ClassVar[str] = "poisson"
    targets: ClassVar[str] = "numbers of at least 0 of shape (n,) or (n, K)"
    term: ClassVar = staticmethod(poisson_term)
    slope: ClassVar = staticmethod(poisson_slope)

    def bad_targets(self, y, n_outputs):
        return y < 0

    def output(self, logits):
        return _rate(logits)


def _rate(z):
    c = np.minimum(z, 40)
    return exp(c) * (1 + (z - c))


def negative_binomial_term(z, y, a, b):
    u = z + a
    return where(u > 0.0, b, -y) * u + (y + b) * log1p_of_exp_minus_abs(u)


def negative_binomial_slope(z, y, a, b):
    return (y + b) * sigmoid(z + a) - y


@dataclass(frozen=True)
class NegativeBinomial(Loss):
    """l = sum_k (y_k + 1/d) log(1 + d exp(z_k)) - y_k (z_k + log d), for counts of mean m = exp(z), variance m + d m^2.

    When to use: counts that scatter more than Poisson's.

    dl/dz = (m - y) / (1 + d m). What does not depend on z is left out. Output: the mean m (above z = 40 along the
    tangent). Hilbe, 2011.

    Parameters
    ----------
    dispersion : float
        d, above 0.

    Raises
    ------
    ValueError, TypeError
        `dispersion` is no finite number above 0.

    Examples
    --------
    >>> import numpy as np
    >>> NegativeBinomial(dispersion=1.0).gradient(np.array([[0.0]]), np.array([1.0])).item()
    0.0
    """

    name: ClassVar[str] = "negative_binomial"
    targets: ClassVar[str] = "numbers of at least 0 of shape (n,) or (n, K)"
    term: ClassVar = staticmethod(negative_binomial_term)
    slope: ClassVar = staticmethod(negative_binomial_slope)
    dispersion: float = 1.0

    def __post_init__(self):
        configs.plain_numbers(self)
        check_range("dispersion", self.dispersion, 0, np.inf, low_open=True)

    @property
    def numbers(self):
        return (float(np.log(self.dispersion)), 1 / self.dispersion)

    def bad_targets(self, y, n_outputs):
        return y < 0

    def output(self, logits):
        return _rate(logits)


def quantile_row(z, y, g, n, numbers):
    total = 0.0 * z[0]
    for k in range(n):
        q, d = numbers[k], y[0] - z[k]
        total = total + where(d > 0.0, q, q - 1.0) * d
        g[k] = where(d > 0.0, -q, where(d < 0.0, 1.0 - q, 0.0))
    return total


@dataclass(frozen=True)
class QuantileLoss(Loss):
    """l = sum_k max(q_k (y - z_k), (q_k - 1)(y - z_k)), one output for each quantile of one target. Koenker and
    Bassett, 1978.

    When to use: intervals instead of a number.

    dl/dz_k = 1 - q_k above the target, -q_k below, 0 at it. Output: the row's outputs in ascending order, so
    that quantiles do not cross; sorting never raises the loss (Chernozhukov et al., 2010).

    Parameters
    ----------
    quantiles : sequence of float
        Ascending, each in (0, 1); `Dense(len(quantiles))` is the last layer.

    Raises
    ------
    ValueError, TypeError
        `quantiles` are no ascending numbers in (0, 1); when a fit begins: the network has not one output for each.

    Examples
    --------
    >>> import numpy as np
    >>> QuantileLoss((0.1, 0.9)).output(np.array([[2.0, 1.0]])).tolist()
    [[1.0, 2.0]]
    """

    name: ClassVar[str] = "quantile"
    targets: ClassVar[str] = "finite numbers of shape (n,) or (n, 1)"
    row: ClassVar = staticmethod(quantile_row)
    quantiles: tuple[float, ...] = (0.1, 0.5, 0.9)

    def __post_init__(self):
        if isinstance(self.quantiles, str) or not hasattr(self.quantiles, "__iter__"):
            raise TypeError(f"`quantiles` must be numbers in (0, 1); got {self.quantiles!r}.")
        object.__setattr__(
            self, "quantiles", tuple(q.item() if isinstance(q, np.generic) else q for q in self.quantiles)
        )
        for q in self.quantiles:
            check_range("quantiles", q, 0, 1, low_open=True)
        if not self.quantiles or list(self.quantiles) != sorted(set(self.quantiles)):
            raise ValueError(f"`quantiles` must be at least one number, ascending; got {self.quantiles!r}.")

    @property
    def numbers(self):
        return self.quantiles

    def target_columns(self, n_outputs):
        if n_outputs != len(self.quantiles):
            need = f"Dense({len(self.quantiles)}), one output for each of {self.quantiles}"
            raise ValueError(f"`loss`={self.name!r} needs {need}, as the last layer; got {n_outputs} outputs.")
        return 1

    def output(self, logits):
        return np.sort(logits, axis=1)


def gaussian_row(z, y, g, n, numbers):
    total, m = 0.0 * z[0], n // 2
    for k in range(m):
        s, d = z[m + k], z[k] - y[k]
        v = maximum(s, 0.0) + log1p_of_exp_minus_abs(s) + numbers[0]
        total = total + 0.5 * (log(v) + d * d / v)
        g[k] = d / v
        g[m + k] = 0.5 * (1.0 - d * d / v) / v * sigmoid(s)
    return total


@dataclass(frozen=True)
class Gaussian(Loss):
    """l = 1/2 sum_k log v_k + (y_k - z_k)^2 / v_k with v_k = softplus(z_{m+k}) + min_variance, for m targets: a mean
    and a variance for each. Nix and Weigend, 1994.

    When to use: numbers whose noise differs from row to row.

    dl/dz_k = (z_k - y_k) / v_k; dl/dz_{m+k} = (1 - (y_k - z_k)^2 / v_k) / (2 v_k) sigmoid(z_{m+k}).
    The first m outputs are means, the other m give the variances: `Dense(2 m)`. PyTorch's GaussianNLLLoss. Output:
    (n, 2 m), means and then variances.

    Parameters
    ----------
    min_variance : float
        Least variance, above 0: it keeps the loss bounded below where a target is met exactly.

    Raises
    ------
    ValueError, TypeError
        `min_variance` is no finite number above 0; when a fit begins: the number of outputs is odd.

    Examples
    --------
    >>> import numpy as np
    >>> Gaussian().output(np.array([[3.0, 0.0]])).round(3).tolist()
    [[3.0, 0.693]]
    """

    name: ClassVar[str] = "gaussian"
    targets: ClassVar[str] = "finite numbers of shape (n,) or (n, K / 2)"
    row: ClassVar = staticmethod(gaussian_row)
    min_variance: float = 1e-6

    def __post_init__(self):
        configs.plain_numbers(self)
        check_range("min_variance", self.min_variance, 0, np.inf, low_open=True)

    @property
    def numbers(self):
        return (self.min_variance,)

    def target_columns(self, n_outputs):
        if n_outputs % 2:
            need = "Dense(2 m) as the last layer for m targets, a mean and a variance each"
            raise ValueError(f"`loss`={self.name!r} needs {need}; got {n_outputs} outputs.")
        return n_outputs // 2

    def output(self, logits):
        m = logits.shape[1] // 2
        s = logits[:, m:]
        return np.hstack([logits[:, :m], np.maximum(s, 0) + log1p_of_exp_minus_abs(s) + self.min_variance])
