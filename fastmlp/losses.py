"""Losses from logits: each declared once, with its formula, its slope, its natural output and the targets it takes.

`term` and `slope` (one logit, one target) or `row` (the logits of a row together) are plain functions written with
NumPy's names: called on arrays they are the NumPy implementation, and the engine compiles the same code, with those
names bound to polynomials that vectorise. A loss's own numbers (`numbers`) are arguments: another one compiles nothing.

All are means over rows, weighted: L = sum_i w_i l_i / sum_i w_i, where l_i sums over the outputs of row i. The
gradients below are those of l_i. Logits Z have shape (n, K). Computation is in float64 here: this is the reference.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import InitVar, dataclass
from typing import ClassVar

import numpy as np
from numpy import exp, log, maximum, where

from . import user_functions
from .activations import log1p_of_exp_minus_abs
from .errors import check_range, unknown_name


def sigmoid(z):
    """1 / (1 + exp(-z)); never overflows."""
    e = exp(-abs(z))
    return where(z >= 0, 1, e) / (1 + e)


@dataclass(frozen=True)
class Loss:
    """A loss of the last layer's logits; see `LOSSES`."""

    term: ClassVar = None  # l_k(z_k, y_k, a, b) of a sum over outputs, and its slope; a and b are `numbers`
    slope: ClassVar = None
    name: ClassVar[str] = ""
    targets: ClassVar[str] = ""  # what y may be, in words
    classification: ClassVar[bool] = False

    across: ClassVar[tuple[str, ...]] = ()  # or kernels that see all rows of a batch, a barrier after each
    row: ClassVar = None  # or l(z, y, g, n, numbers) of whole rows: indexed by column; writes dl/dz into g

    @property
    def kernel(self) -> str:
        """What the names of its kernels begin with."""
        return self.name

    @property
    def numbers(self) -> tuple[float, ...]:
        """What the formulas' numbers are now, as `term`, `slope` and `row` take them."""
        return ()

    def target_columns(self, n_outputs: int) -> int:
        """How many columns the targets of so many outputs have; ValueError where `Dense(units)` does not fit."""
        return n_outputs

    def bad_targets(self, y: np.ndarray, n_outputs: int) -> np.ndarray:
        """Where finite targets are outside what the loss takes."""
        return (y < 0) | (y > 1) if self.classification else np.zeros(y.shape, bool)

    def best_class(self, logits: np.ndarray) -> np.ndarray:
        """The likeliest class of each row, (n,), where the targets are codes."""
        return logits.argmax(axis=1)

    def rows(self, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """l_i for every row, float64, shape (n,)."""
        if self.row is not None:
            return self._by_rows(logits, targets)[0]
        z = np.asarray(logits, np.float64)
        return self.term(z, _dense_targets(targets, z.shape), *(*self.numbers, 0.0, 0.0)[:2]).sum(axis=1)

    def gradient(self, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """dl_i / dz_i, float64, shape (n, K)."""
        if self.row is not None:
            return self._by_rows(logits, targets)[1]
        z = np.asarray(logits, np.float64)
        return self.slope(z, _dense_targets(targets, z.shape), *(*self.numbers, 0.0, 0.0)[:2])

    def _by_rows(self, logits, targets):
        z = np.asarray(logits, np.float64)
        y = _dense_targets(targets, (len(z), self.target_columns(z.shape[1])))
        g = np.zeros(z.T.shape)
        return self.row(z.T, y.T, g, z.shape[1], self.numbers), g.T

    def output(self, logits: np.ndarray) -> np.ndarray:
        """What `predict` returns for these logits, in their dtype, shape (n, K)."""
        raise NotImplementedError

    def value(self, logits: np.ndarray, targets: np.ndarray, sample_weight: np.ndarray | None = None) -> float:
        """The weighted mean of the rows' losses.

        >>> round(SquaredError().value(np.array([[3.0], [1.0]]), np.array([1.0, 1.0])), 3)
        1.0
        """
        return float(np.average(self.rows(logits, targets), weights=sample_weight))


def _dense_targets(targets: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return np.asarray(targets, np.float64).reshape(shape)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    z = np.asarray(logits, np.float64)
    z = z - z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Loss):
    """l = -sum_k y_k log p_k with p = softmax(z); dl/dz = p sum_k y_k - y. Output: the probabilities p.

    When to use: one class of several.

    Parameters
    ----------
    label_smoothing : float
        s in [0, 1]: y becomes (1 - s) y + s / K sum_k y_k (Szegedy et al., 2016).
    """

    name: ClassVar[str] = "softmax_cross_entropy"
    targets: ClassVar[str] = "integer codes (n,) in [0, K), or one-hot rows or probabilities (n, K)"
    classification: ClassVar[bool] = True
    label_smoothing: float = 0.0

    def __post_init__(self):
        check_range("label_smoothing", self.label_smoothing, 0, 1, high_closed=True)

    @property
    def numbers(self):
        return (self.label_smoothing,)

    def _one_hot(self, logits, targets):
        targets, k = np.asarray(targets), np.shape(logits)[1]
        if targets.ndim == 2 and targets.shape == np.shape(logits) and k > 1:
            y = targets.astype(np.float64)
        else:
            y = np.eye(k)[targets.reshape(-1).astype(np.intp)]
        s = self.label_smoothing
        return (1 - s) * y + s / k * y.sum(axis=1, keepdims=True) if s else y

    def rows(self, logits, targets):
        return -(self._one_hot(logits, targets) * _log_softmax(logits)).sum(axis=1)

    def gradient(self, logits, targets):
        y = self._one_hot(logits, targets)
        return np.exp(_log_softmax(logits)) * y.sum(axis=1, keepdims=True) - y

    def output(self, logits):
        e = np.exp(logits - logits.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)


def cross_entropy_term(z, y, a, b):
    y = y * (1.0 - a) + 0.5 * a
    return where(z > 0.0, 1.0 - y, -y) * z + log1p_of_exp_minus_abs(z)


def cross_entropy_slope(z, y, a, b):
    return sigmoid(z) - (y * (1.0 - a) + 0.5 * a)


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """l = sum_k softplus(z_k) - y_k z_k; dl/dz = sigmoid(z) - y. Output: the probabilities sigmoid(z). Multi-label
    too.

    When to use: yes or no, one or several labels at once.

    Parameters
    ----------
    label_smoothing : float
        s in [0, 1]: y becomes (1 - s) y + s / 2.
    """

    name: ClassVar[str] = "binary_cross_entropy"
    targets: ClassVar[str] = "numbers in [0, 1] of shape (n,) or (n, K)"
    classification: ClassVar[bool] = True
    term: ClassVar = staticmethod(cross_entropy_term)
    slope: ClassVar = staticmethod(cross_entropy_slope)
    label_smoothing: float = 0.0

    def __post_init__(self):
        check_range("label_smoothing", self.label_smoothing, 0, 1, high_closed=True)

    @property
    def numbers(self):
        return (self.label_smoothing,)

    def output(self, logits):
        return sigmoid(logits)


def squared_term(z, y, a, b):
    return 0.5 * (z - y) * (z - y)


def squared_slope(z, y, a, b):
    return z - y


@dataclass(frozen=True)
class SquaredError(Loss):
    """l = 1/2 sum_k (z_k - y_k)^2; dl/dz = z - y. Output: z. (Keras's and PyTorch's "mse" is 2 / K times this.)

    When to use: numbers with noise of about the same size everywhere; estimates the mean.
    """

    name: ClassVar[str] = "squared_error"
    targets: ClassVar[str] = "finite numbers of shape (n,) or (n, K)"
    term: ClassVar = staticmethod(squared_term)
    slope: ClassVar = staticmethod(squared_slope)

    def output(self, logits):
        return logits


def absolute_term(z, y, a, b):
    return abs(z - y)


def absolute_slope(z, y, a, b):
    return where(z > y, 1.0, 0.0) - where(z < y, 1.0, 0.0)


@dataclass(frozen=True)
class AbsoluteError(Loss):
    """l = sum_k |z_k - y_k|; dl/dz = sign(z - y), 0 at 0. Output: z, an estimate of the median.

    When to use: numbers with outliers; estimates the median.

    >>> AbsoluteError().value(np.array([[3.0], [1.0]]), np.array([1.0, 1.0]))
    1.0
    """

    name: ClassVar[str] = "absolute_error"
    targets: ClassVar[str] = "finite numbers of shape (n,) or (n, K)"
    term: ClassVar = staticmethod(absolute_term)
    slope: ClassVar = staticmethod(absolute_slope)

    def output(self, logits):
        return logits


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
        Above 0.

    Examples
    --------
    >>> Huber(delta=1.0).value(np.array([[3.0], [1.0]]), np.array([1.0, 1.0]))
    0.75
    """

    name: ClassVar[str] = "huber"
    targets: ClassVar[str] = "finite numbers of shape (n,) or (n, K)"
    term: ClassVar = staticmethod(huber_term)
    slope: ClassVar = staticmethod(huber_slope)
    delta: float = 1.0

    def __post_init__(self):
        check_range("delta", self.delta, 0, np.inf, low_open=True)

    @property
    def numbers(self):
        return (self.delta,)

    def output(self, logits):
        return logits


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

    Examples
    --------
    >>> NegativeBinomial(dispersion=1.0).gradient(np.array([[0.0]]), np.array([1.0])).item()
    0.0
    """

    name: ClassVar[str] = "negative_binomial"
    targets: ClassVar[str] = "numbers of at least 0 of shape (n,) or (n, K)"
    term: ClassVar = staticmethod(negative_binomial_term)
    slope: ClassVar = staticmethod(negative_binomial_slope)
    dispersion: float = 1.0

    def __post_init__(self):
        check_range("dispersion", self.dispersion, 0, np.inf, low_open=True)

    @property
    def numbers(self):
        return (float(np.log(self.dispersion)), 1 / self.dispersion)

    def bad_targets(self, y, n_outputs):
        return y < 0

    def output(self, logits):
        return _rate(logits)


def focal_term(z, y, a, b):
    tail = log1p_of_exp_minus_abs(z)
    plus, minus = maximum(z, 0.0) + tail, maximum(-z, 0.0) + tail  # softplus(z), softplus(-z)
    return y * minus * exp(-a * plus) + (1.0 - y) * plus * exp(-a * minus)


def focal_slope(z, y, a, b):
    tail = log1p_of_exp_minus_abs(z)
    plus, minus = maximum(z, 0.0) + tail, maximum(-z, 0.0) + tail
    p, q = sigmoid(z), sigmoid(-z)
    return (1.0 - y) * exp(-a * minus) * (p + a * q * plus) - y * exp(-a * plus) * (q + a * p * minus)


@dataclass(frozen=True)
class Focal(Loss):
    """l = sum_k -y_k (1 - p_k)^gamma log p_k - (1 - y_k) p_k^gamma log(1 - p_k), p = sigmoid(z): the binary form.

    When to use: rare positives among many easy negatives.

    dl/dz = (1 - y) p^gamma (p - gamma (1 - p) log(1 - p)) - y (1 - p)^gamma (1 - p - gamma p log p). Output: p.
    gamma = 0 is binary cross-entropy. `SoftmaxFocal` is for classes. Lin et al., 2017, without their alpha.

    Parameters
    ----------
    gamma : float
        At least 0.

    Examples
    --------
    >>> round(Focal(gamma=0.0).value(np.array([[0.0]]), np.array([1.0])), 4)
    0.6931
    """

    name: ClassVar[str] = "focal"
    targets: ClassVar[str] = "numbers in [0, 1] of shape (n,) or (n, K)"
    classification: ClassVar[bool] = True
    term: ClassVar = staticmethod(focal_term)
    slope: ClassVar = staticmethod(focal_slope)
    gamma: float = 2.0

    def __post_init__(self):
        check_range("gamma", self.gamma, 0, np.inf)

    @property
    def numbers(self):
        return (self.gamma,)

    def output(self, logits):
        return sigmoid(logits)


def softmax_focal_row(z, y, g, n, numbers):
    own, top, total = 0.0 * z[0], 0.0 * z[0] - 3e38, 0.0 * z[0]
    for k in range(n):
        mine = y[0] == k
        own, other = where(mine, z[k], own), where(mine, top, z[k])
        top = where(other > top, other, top)
    for k in range(n):
        mine = y[0] == k
        g[k] = where(mine, 0.0, exp(where(mine, 0.0, z[k] - top)))
        total = total + g[k]
    m = own - top - log(total)
    tail = log1p_of_exp_minus_abs(m)
    plus, minus = maximum(m, 0.0) + tail, maximum(-m, 0.0) + tail  # softplus(m), softplus(-m)
    focus = exp(-numbers[0] * plus)
    slope = -focus * (sigmoid(-m) + numbers[0] * sigmoid(m) * minus)
    for k in range(n):
        g[k] = where(y[0] == k, slope, -slope * (g[k] / total))
    return minus * focus


@dataclass(frozen=True)
class SoftmaxFocal(Loss):
    """l = -(1 - p_y)^gamma log p_y, p = softmax(z), y the class: the form for K classes. Output: p.

    With m = z_y - log sum_{k != y} exp(z_k) it is p_y = sigmoid(m), the binary form; dl/dz_y = dl/dm and
    dl/dz_k = -dl/dm p_k / (1 - p_y). gamma = 0 is softmax cross-entropy. Lin et al., 2017, without their alpha: pass
    `class_weight` to `fit`.

    When to use: many easy rows drown the hard ones.

    Parameters
    ----------
    gamma : float
        At least 0.

    Examples
    --------
    >>> round(SoftmaxFocal(gamma=2.0).value(np.array([[0.0, 0.0]]), np.array([1])), 4)
    0.1733
    """

    name: ClassVar[str] = "softmax_focal"
    targets: ClassVar[str] = "integer codes (n,) in [0, K)"
    classification: ClassVar[bool] = True
    row: ClassVar = staticmethod(softmax_focal_row)
    gamma: float = 2.0

    def __post_init__(self):
        check_range("gamma", self.gamma, 0, np.inf)

    @property
    def numbers(self):
        return (self.gamma,)

    def target_columns(self, n_outputs):
        if n_outputs < 2:
            raise ValueError(f"`loss`={self.name!r} needs Dense(K), K >= 2, as the last layer; got {n_outputs} output.")
        return 1

    def bad_targets(self, y, n_outputs):
        return _no_codes(y, n_outputs)

    def output(self, logits):
        return SoftmaxCrossEntropy().output(logits)


def ordinal_row(z, y, g, n, numbers):
    total = 0.0 * z[0]
    for k in range(n):
        asked, above = where(y[0] >= k, 1.0, 0.0), where(y[0] > k, 1.0, 0.0)
        total = total + asked * (maximum(where(above > 0.0, -z[k], z[k]), 0.0) + log1p_of_exp_minus_abs(z[k]))
        g[k] = asked * (sigmoid(z[k]) - above)
    return total


@dataclass(frozen=True)
class Ordinal(Loss):
    """l = -log P(y) for K + 1 ordered classes from K logits, where sigmoid(z_k) = P(y > k | y >= k).

    dl/dz_k = sigmoid(z_k) - [y > k] for k <= y, else 0. The cumulative P(y > k) = prod_{j <= k} sigmoid(z_j) fall with
    k whatever the logits are. Output: the probabilities (n, K + 1). Fienberg, 1980 (continuation ratios); Shi, Cao and
    Raschka, 2023 (CORN).

    When to use: classes in an order: grades, stages, stars.

    >>> Ordinal().output(np.array([[0.0, 0.0]])).tolist()
    [[0.5, 0.25, 0.25]]
    """

    name: ClassVar[str] = "ordinal"
    targets: ClassVar[str] = "integer codes (n,) in [0, K], in the order of the classes"
    classification: ClassVar[bool] = True
    row: ClassVar = staticmethod(ordinal_row)

    def target_columns(self, n_outputs):
        return 1

    def bad_targets(self, y, n_outputs):
        return _no_codes(y, n_outputs + 1)

    def best_class(self, logits):
        return self.output(logits).argmax(axis=1)

    def output(self, logits):
        above = np.cumprod(sigmoid(logits), axis=1)
        reached = np.hstack([np.ones_like(above[:, :1]), above[:, :-1]])
        return np.hstack([reached * sigmoid(-logits), above[:, -1:]])


def _no_codes(y, n_classes: int):
    """Where y is none of 0 to n_classes - 1."""
    return (y < 0) | (y >= n_classes) | (y != np.floor(y))


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

    Examples
    --------
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
        object.__setattr__(self, "quantiles", tuple(self.quantiles))
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
        Above 0: keeps the loss bounded below where a target is met exactly.

    Examples
    --------
    >>> Gaussian().output(np.array([[3.0, 0.0]])).round(3).tolist()
    [[3.0, 0.693]]
    """

    name: ClassVar[str] = "gaussian"
    targets: ClassVar[str] = "finite numbers of shape (n,) or (n, K / 2)"
    row: ClassVar = staticmethod(gaussian_row)
    min_variance: float = 1e-6

    def __post_init__(self):
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
        z = np.array(logits)
        s = z[:, z.shape[1] // 2 :]
        z[:, z.shape[1] // 2 :] = np.maximum(s, 0) + log1p_of_exp_minus_abs(s) + self.min_variance
        return z


def hinge_row(z, y, g, n, numbers):
    if n == 1:
        t = where(y[0] > 0.0, 1.0, -1.0)
        total = maximum(1.0 - t * z[0], 0.0)
        g[0] = where(total > 0.0, -t, 0.0)
        return total
    own, best, rival = 0.0 * z[0], 0.0 * z[0] - 3e38, 0.0 * z[0]
    for k in range(n):
        mine = y[0] == k
        own = where(mine, z[k], own)
        better = where(mine, best, z[k]) > best
        best, rival = where(better, z[k], best), where(better, 1.0 * k, rival)
    total = maximum(1.0 + best - own, 0.0)
    for k in range(n):
        g[k] = where(total > 0.0, where(rival == k, 1.0, 0.0) - where(y[0] == k, 1.0, 0.0), 0.0)
    return total


@dataclass(frozen=True)
class Hinge(Loss):
    """l = max(0, 1 - t z), t = 1 or -1, with one output; l = max(0, 1 + max_{k != y} z_k - z_y) with several.

    When to use: classes where only the decision matters, not its probability.

    dl/dz: 1 at the best rival and -1 at the class where l > 0 (-t with one output). Output: z, the decision values.
    Cortes and Vapnik, 1995; Crammer and Singer, 2001.

    >>> Hinge().value(np.array([[2.0, 1.5, 0.0]]), np.array([0]))
    0.5
    """

    name: ClassVar[str] = "hinge"
    targets: ClassVar[str] = "0 and 1, or -1 and 1, for one output; integer codes (n,) in [0, K) for several"
    classification: ClassVar[bool] = True
    row: ClassVar = staticmethod(hinge_row)

    def target_columns(self, n_outputs):
        return 1

    def bad_targets(self, y, n_outputs):
        if n_outputs == 1:
            return (abs(y) != 1) & (y != 0)
        return _no_codes(y, n_outputs)

    def output(self, logits):
        return logits


BLOCK = 1024  # rows that an evaluation takes for a batch


class _AcrossRows(Loss):
    """A loss of every row with all the others of its batch. `rows` and `gradient` take what they get for one batch, and
    the gradient is that of the sum of its rows' losses; `value` takes blocks of 1024 rows, in order.
    """

    targets: ClassVar[str] = "integer labels (n,)"

    def target_columns(self, n_outputs):
        return 1

    def bad_targets(self, y, n_outputs):
        return y != np.floor(y)

    def output(self, logits):
        return logits

    def value(self, logits, targets, sample_weight=None):
        starts = range(0, len(logits), BLOCK)
        rows = [self.rows(logits[i : i + BLOCK], np.asarray(targets)[i : i + BLOCK]) for i in starts]
        return float(np.average(np.concatenate(rows), weights=sample_weight))

    def rows(self, logits, targets):
        return self._rows_and_gradient(logits, targets)[0]

    def gradient(self, logits, targets):
        return self._rows_and_gradient(logits, targets)[1]

    @property
    def numbers(self):
        return (self.margin,)

    def __post_init__(self):
        check_range("margin", self.margin, 0, np.inf, low_open=True)


def _over(a, b):
    """a / b, and 0 where b is."""
    return np.divide(a, b, out=np.zeros_like(b), where=b > 0)


@dataclass(frozen=True)
class Contrastive(_AcrossRows):
    """l_i = mean over the batch's other rows j of d^2 / 2 for the same label, else max(0, margin - d)^2 / 2, with the
    Euclidean distance d = |z_i - z_j|. Output: z, the embedding. Hadsell, Chopra and LeCun, 2006.

    Of a pair, dl/dz_i = z_i - z_j for the same label, else -max(0, margin - d) / d (z_i - z_j), and 0 at d = 0. A batch
    of n rows costs n^2 distances. An evaluation takes blocks of 1024 rows, in order, for batches.

    When to use: embeddings whose distances themselves matter: same or not the same.

    Parameters
    ----------
    margin : float
        Above 0: the distance at which rows of different labels no longer matter.

    Examples
    --------
    >>> Contrastive(margin=3.0).value(np.array([[0.0], [1.0], [2.0]]), np.array([0, 0, 1]))
    1.0
    """

    name: ClassVar[str] = "contrastive"
    across: ClassVar = ("contrastive",)
    margin: float = 1.0

    def _rows_and_gradient(self, logits, targets):
        z, y = np.asarray(logits, np.float64), np.asarray(targets).reshape(-1)
        rows, gradient, pairs = np.zeros(len(z)), np.zeros(z.shape), max(len(z) - 1, 1)
        for i in range(len(z)):
            away, alike = z[i] - z, y == y[i]
            distance = np.sqrt((away**2).sum(axis=1))
            near = np.maximum(self.margin - distance, 0)
            rows[i] = np.where(alike, distance**2, near**2).sum() / 2 / pairs
            gradient[i] = 2 * np.where(alike, 1, -_over(near, distance)) @ away / pairs
        return rows, gradient


@dataclass(frozen=True)
class Triplet(_AcrossRows):
    """l_i = max(0, margin + max_p |z_i - z_p| - min_n |z_i - z_n|): p is the farthest row of the same label in the
    batch, n the nearest of another (batch-hard). Output: z, the embedding. Hermans et al., 2017.

    0 for a row without a p or an n in its batch: batches should hold several rows of each of several labels. A loss
    that stays at the margin says that all rows fell into one point: try a smaller learning rate. Where l_i is above 0,
    dl_i/dz_i = (z_i - z_p) / |z_i - z_p| - (z_i - z_n) / |z_i - z_n|, and 0 for a distance of 0. A batch of n rows
    costs n^2 distances. An evaluation takes blocks of 1024 rows, in order, for batches.

    When to use: embeddings whose distances are compared: search, few-shot classes; the usual one.

    Parameters
    ----------
    margin : float
        Above 0.

    Examples
    --------
    >>> Triplet(margin=1.0).rows(np.array([[0.0], [1.0], [3.0]]), np.array([0, 0, 1])).tolist()
    [0.0, 0.0, 0.0]
    """

    name: ClassVar[str] = "triplet"
    across: ClassVar = ("triplet.choose", "triplet.gradient")
    margin: float = 1.0

    def _rows_and_gradient(self, logits, targets):
        z, y = np.asarray(logits, np.float64), np.asarray(targets).reshape(-1)
        rows, gradient = np.zeros(len(z)), np.zeros(z.shape)
        for i in range(len(z)):
            distance, alike = np.sqrt(((z[i] - z) ** 2).sum(axis=1)), y == y[i]
            other, alike[i] = ~alike, False
            if not (alike.any() and other.any()):
                continue
            p, n = np.where(alike, distance, -1).argmax(), np.where(other, distance, np.inf).argmin()
            rows[i] = max(self.margin + distance[p] - distance[n], 0)
            for j, sign in ((p, 1.0), (n, -1.0)) if rows[i] > 0 else ():
                push = sign * (z[i] - z[j]) / (distance[j] or np.inf)
                gradient[i] += push
                gradient[j] -= push
        return rows, gradient


LOSSES: dict[str, type[Loss]] = {
    cls.name: cls
    for cls in (
        SoftmaxCrossEntropy,
        BinaryCrossEntropy,
        SquaredError,
        AbsoluteError,
        Huber,
        QuantileLoss,
        Poisson,
        NegativeBinomial,
        Hinge,
        Focal,
        SoftmaxFocal,
        Ordinal,
        Contrastive,
        Triplet,
        Gaussian,
    )
}


def _as_they_are(logits):
    return logits


_Z, _Y = (grid.ravel() for grid in np.meshgrid(user_functions.POINTS, [0.25, 1.0]))


@dataclass(frozen=True)
class CustomLoss(Loss):
    """Your own l = sum_k term(z_k, y_k), with its slope dl/dz_k: plain functions of NumPy arrays, which the engine
    compiles as it does its own. See `CustomActivation` for how to write them.

    Parameters
    ----------
    term, slope : callable
        Of a logit and its target, elementwise.
    name : str
        For messages and files.
    output : callable
        What `predict` makes of the logits (n, K), in NumPy; by default they are returned as they are.
    check_derivative : bool
        Compare the slope with differences of the term now, for z in [-3, 3] and y = 1/4 and 1.

    Raises
    ------
    TypeError, ValueError
        No such functions, or the slope is another function's; when a fit compiles them: Numba cannot.

    Examples
    --------
    >>> log_cosh = CustomLoss(lambda z, y: np.log(np.cosh(z - y)), lambda z, y: np.tanh(z - y), "log_cosh")
    >>> round(log_cosh.value(np.array([[3.0], [1.0]]), np.array([1.0, 1.0])), 4)
    0.6625
    """

    targets: ClassVar[str] = "finite numbers of shape (n,) or (n, K)"
    term: Callable
    slope: Callable
    name: str = "custom"
    output: Callable = _as_they_are
    check_derivative: InitVar[bool] = True

    def __post_init__(self, check_derivative):
        user_functions.check_name(self, LOSSES)
        user_functions.check_function(self, "term", _Z, _Y)
        slope = user_functions.check_function(self, "slope", _Z, _Y)
        if check_derivative:
            user_functions.check_derivative(self, "term", "slope", slope, _Z, _Y)
        self.kernel  # noqa: B018  what it refers to can be told apart

    @property
    def kernel(self):
        return user_functions.kernel_family(self, self.term, self.slope)

    @property
    def samples(self):
        """Values by which a model file knows it again."""
        return self.term(_Z, _Y)

    def rows(self, logits, targets):
        z = np.asarray(logits, np.float64)
        return np.broadcast_to(self.term(z, _dense_targets(targets, z.shape)), z.shape).sum(axis=1)

    def gradient(self, logits, targets):
        z = np.asarray(logits, np.float64)
        return self.slope(z, _dense_targets(targets, z.shape)) + np.zeros(z.shape)


def get(loss: str | Loss, argument: str = "loss") -> Loss:
    """The loss of that name, or the object itself."""
    if type(loss) in (*LOSSES.values(), CustomLoss):
        return loss
    if isinstance(loss, Loss):
        raise TypeError(f"`{argument}` must be a CustomLoss, or one of {', '.join(map(repr, LOSSES))}; got {loss!r}.")
    if not isinstance(loss, str) or loss not in LOSSES:
        raise unknown_name(argument, loss, LOSSES)
    return LOSSES[loss]()


def to_config(loss: Loss) -> dict:
    """The loss as a dictionary that JSON can hold.

    >>> to_config(Huber(2.0))
    {'name': 'huber', 'delta': 2.0}
    """
    if isinstance(loss, CustomLoss):
        return user_functions.describe(loss, loss.samples)
    return {"name": loss.name, **dataclasses.asdict(loss)}


def from_config(config: dict, custom_objects: dict | None = None) -> Loss:
    """The loss that `to_config` described; ValueError where a `CustomLoss` is not among `custom_objects`."""
    if config.get("type") == CustomLoss.__name__:
        return user_functions.recall(config, custom_objects, CustomLoss)
    fields = dict(config)
    return dataclasses.replace(get(fields.pop("name")), **fields)
