"""Losses of classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy import exp, log, maximum, where

from .. import configs
from ..activations import Logistic, log1p_of_exp_minus_abs
from ..errors import check_range
from ..layers import Softmax
from .base import Loss, log_softmax, max_of, sigmoid, sum_of


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Loss):
    """l = -sum_k y_k log p_k with p = softmax(z); dl/dz = p sum_k y_k - y. Output: the probabilities p.

    When to use: one class of several.

    Parameters
    ----------
    label_smoothing : float
        s in [0, 1]: y becomes (1 - s) y + s / K sum_k y_k (Szegedy et al., 2016).

    Raises
    ------
    ValueError, TypeError
        `label_smoothing` is no number in [0, 1].

    Examples
    --------
    >>> import numpy as np
    >>> round(SoftmaxCrossEntropy().value(np.array([[0.0, 0.0]]), np.array([1])), 4)
    0.6931
    """

    name: ClassVar[str] = "softmax_cross_entropy"
    codes: ClassVar[bool] = True
    mixable: ClassVar[bool] = True
    own_layer: ClassVar = Softmax()
    targets: ClassVar[str] = "integer codes (n,) in [0, K), or one-hot rows or probabilities (n, K)"
    classification: ClassVar[bool] = True
    label_smoothing: float = 0.0

    def __post_init__(self):
        configs.plain_numbers(self)
        check_range("label_smoothing", self.label_smoothing, 0, 1, high_closed=True)

    @property
    def numbers(self):
        return (self.label_smoothing,)

    def _one_hot(self, logits, targets):
        targets, (n, k) = np.asarray(targets), np.shape(logits)
        if targets.ndim == 2 and targets.shape == np.shape(logits) and k > 1:
            y = targets.astype(np.float64)
        else:
            y = np.zeros((n, k))
            y[np.arange(n), targets.reshape(-1).astype(np.intp)] = 1.0
        s = self.label_smoothing
        return (1 - s) * y + s / k * y.sum(axis=1, keepdims=True) if s else y

    def rows(self, logits, targets):
        return -(self._one_hot(logits, targets) * log_softmax(logits)).sum(axis=1)

    def gradient(self, logits, targets):
        y = self._one_hot(logits, targets)
        return np.exp(log_softmax(logits)) * y.sum(axis=1, keepdims=True) - y

    def output(self, logits):
        return Softmax()(logits)


def cross_entropy_term(z, y, a, b):
    y = y * (1.0 - a) + 0.5 * a
    return where(z > 0.0, 1.0 - y, -b * y) * z + (1.0 + (b - 1.0) * y) * log1p_of_exp_minus_abs(z)


def cross_entropy_slope(z, y, a, b):
    e = exp(-abs(z))  # which the term has as well: the kernel takes it once
    y = y * (1.0 - a) + 0.5 * a
    return (1.0 + (b - 1.0) * y) * (where(z > 0.0, 1.0, e) / (1.0 + e)) - b * y


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """l = sum_k softplus(z_k) - y_k z_k; dl/dz = sigmoid(z) - y. Output: the probabilities sigmoid(z). Multi-label
    too.

    With `pos_weight`, w: l = sum_k w y_k softplus(-z_k) + (1 - y_k) softplus(z_k).

    When to use: yes or no, one or several labels at once.

    Parameters
    ----------
    label_smoothing : float
        s in [0, 1]: y becomes (1 - s) y + s / 2.
    pos_weight : float
        w, above 0: what a yes counts, where a no counts 1; of labels that are rare. (`class_weight` of a fit is for
        targets of one column.)

    Raises
    ------
    ValueError, TypeError
        `label_smoothing` is no number in [0, 1], or `pos_weight` no finite number above 0.

    Examples
    --------
    >>> import numpy as np
    >>> round(BinaryCrossEntropy().value(np.array([[0.0]]), np.array([1.0])), 4)
    0.6931
    """

    name: ClassVar[str] = "binary_cross_entropy"
    mixable: ClassVar[bool] = True
    own_layer: ClassVar = Logistic()
    targets: ClassVar[str] = "numbers in [0, 1] of shape (n,) or (n, K)"
    classification: ClassVar[bool] = True
    term: ClassVar = staticmethod(cross_entropy_term)
    slope: ClassVar = staticmethod(cross_entropy_slope)
    label_smoothing: float = 0.0
    pos_weight: float = 1.0

    def __post_init__(self):
        configs.plain_numbers(self)
        check_range("label_smoothing", self.label_smoothing, 0, 1, high_closed=True)
        check_range("pos_weight", self.pos_weight, 0, np.inf, low_open=True)

    @property
    def numbers(self):
        return (self.label_smoothing, self.pos_weight)

    def output(self, logits):
        return sigmoid(logits)


def focal_term(z, y, a, b):
    tail = log1p_of_exp_minus_abs(z)
    plus, minus = maximum(z, 0.0) + tail, maximum(-z, 0.0) + tail  # softplus(z), softplus(-z)
    yes, no = where(b < 0.0, 1.0, b) * y, where(b < 0.0, 1.0, 1.0 - b) * (1.0 - y)
    return yes * minus * exp(-a * plus) + no * plus * exp(-a * minus)


def focal_slope(z, y, a, b):
    tail = log1p_of_exp_minus_abs(z)
    plus, minus = maximum(z, 0.0) + tail, maximum(-z, 0.0) + tail
    p, q = sigmoid(z), sigmoid(-z)
    yes, no = where(b < 0.0, 1.0, b) * y, where(b < 0.0, 1.0, 1.0 - b) * (1.0 - y)
    return no * exp(-a * minus) * (p + a * q * plus) - yes * exp(-a * plus) * (q + a * p * minus)


@dataclass(frozen=True)
class Focal(Loss):
    """l = sum_k -y_k (1 - p_k)^gamma log p_k - (1 - y_k) p_k^gamma log(1 - p_k), p = sigmoid(z): the binary form.

    When to use: rare positives among many easy negatives.

    dl/dz = (1 - y) p^gamma (p - gamma (1 - p) log(1 - p)) - y (1 - p)^gamma (1 - p - gamma p log p). Output: p.
    gamma = 0 is binary cross-entropy. `SoftmaxFocal` is for classes. Lin et al., 2017.

    Parameters
    ----------
    gamma : float
        Exponent of the factor by which easy rows count less, at least 0.
    alpha : float, optional
        In [0, 1]: a yes counts alpha and a no 1 - alpha, where both count 1 without. They take 0.25 beside gamma = 2.

    Raises
    ------
    ValueError, TypeError
        `gamma` is no finite number of at least 0, or `alpha` none in [0, 1].

    Examples
    --------
    >>> import numpy as np
    >>> round(Focal(gamma=0.0).value(np.array([[0.0]]), np.array([1.0])), 4)
    0.6931
    """

    name: ClassVar[str] = "focal"
    own_layer: ClassVar = Logistic()
    targets: ClassVar[str] = "numbers in [0, 1] of shape (n,) or (n, K)"
    classification: ClassVar[bool] = True
    term: ClassVar = staticmethod(focal_term)
    slope: ClassVar = staticmethod(focal_slope)
    gamma: float = 2.0
    alpha: float | None = None

    def __post_init__(self):
        configs.plain_numbers(self)
        check_range("gamma", self.gamma, 0, np.inf)
        if self.alpha is not None:
            check_range("alpha", self.alpha, 0, 1, high_closed=True)

    @property
    def numbers(self):
        return (self.gamma, -1.0 if self.alpha is None else self.alpha)

    def output(self, logits):
        return sigmoid(logits)


def softmax_focal_row(z, y, g, n, numbers):
    for k in range(n):
        g[k] = where(y[0] == k, z[k], 0.0)
    own = sum_of(g, n)
    for k in range(n):
        g[k] = where(y[0] == k, -3e38, z[k])
    top = max_of(g, n)
    for k in range(n):
        mine = y[0] == k
        g[k] = where(mine, 0.0, exp(where(mine, 0.0, z[k] - top)))
    total = sum_of(g, n)
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
        Exponent of the factor by which easy rows count less, at least 0.

    Raises
    ------
    ValueError, TypeError
        `gamma` is no finite number of at least 0; when a fit begins: the network has one output only.

    Examples
    --------
    >>> import numpy as np
    >>> round(SoftmaxFocal(gamma=2.0).value(np.array([[0.0, 0.0]]), np.array([1])), 4)
    0.1733
    """

    name: ClassVar[str] = "softmax_focal"
    own_layer: ClassVar = Softmax()
    targets: ClassVar[str] = "integer codes (n,) in [0, K)"
    classification: ClassVar[bool] = True
    row: ClassVar = staticmethod(softmax_focal_row)
    gamma: float = 2.0

    def __post_init__(self):
        configs.plain_numbers(self)
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
        return Softmax()(logits)


def ordinal_row(z, y, g, n, numbers):
    for k in range(n):
        asked, above = where(y[0] >= k, 1.0, 0.0), where(y[0] > k, 1.0, 0.0)
        g[k] = asked * (maximum(where(above > 0.0, -z[k], z[k]), 0.0) + log1p_of_exp_minus_abs(z[k]))
    total = sum_of(g, n)
    for k in range(n):
        asked, above = where(y[0] >= k, 1.0, 0.0), where(y[0] > k, 1.0, 0.0)
        g[k] = asked * (sigmoid(z[k]) - above)
    return total


@dataclass(frozen=True)
class Ordinal(Loss):
    """l = -log P(y) for K + 1 ordered classes from K logits, where sigmoid(z_k) = P(y > k | y >= k).

    dl/dz_k = sigmoid(z_k) - [y > k] for k <= y, else 0. The cumulative P(y > k) = prod_{j <= k} sigmoid(z_j) fall with
    k whatever the logits are. Output: the probabilities (n, K + 1). Fienberg, 1980 (continuation ratios); Shi, Cao and
    Raschka, 2023 (CORN).

    When to use: classes in an order: grades, stages, stars.

    Examples
    --------
    >>> import numpy as np
    >>> Ordinal().output(np.array([[0.0, 0.0]])).tolist()
    [[0.5, 0.25, 0.25]]
    """

    name: ClassVar[str] = "ordinal"
    targets: ClassVar[str] = "integer codes (n,) in [0, K], in the order of the K + 1 classes"
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


def hinge_row(z, y, g, n, numbers):
    if n == 1:
        t = where(y[0] > 0.0, 1.0, -1.0)
        total = maximum(1.0 - t * z[0], 0.0)
        g[0] = where(total > 0.0, -t, 0.0)
        return total
    for k in range(n):
        g[k] = where(y[0] == k, z[k], 0.0)
    own = sum_of(g, n)
    for k in range(n):
        g[k] = where(y[0] == k, -3e38, z[k])
    best = max_of(g, n)
    for k in range(n):
        g[k] = where(g[k] == best, -1.0 * k, -1.0 * n)
    rival = -max_of(g, n)  # the first, where several are best
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

    Examples
    --------
    >>> import numpy as np
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
