"""Normalisation layers: h to zero mean and unit variance, then a learned scale and shift of every unit.

Plain data like all layers; `forward` is the NumPy form that predicts a few rows, and `backward` its way back;
`engine/norm_kernels.py` has the compiled ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from . import configs
from .errors import check_count, check_epsilon, check_flag, check_range
from .hints import Hinted


@dataclass(frozen=True)
class BatchNorm(Hinted):
    """a = weight (z - mean) / sqrt(variance + epsilon) + bias, with the mean and the variance of each unit over the
    batch (Ioffe and Szegedy, 2015).

    Training also follows running_mean and running_var: running = momentum running + (1 - momentum) of the batch, as in
    Keras (PyTorch's momentum is 1 minus this one), with the variance divided by the number of rows. Predictions and
    validation use them. `Sequential.gradients` uses the batch's.

    When to use: deep networks and high learning rates, with batches of 32 rows and more; between a Dense and its
    activation, or first, in place of scaling the inputs.

    Parameters
    ----------
    momentum : float
        In [0, 1): the share of the running average that a step keeps.
    epsilon : float
        In [1e-30, 1).
    trainable : bool
        False freezes it: nothing of it changes in training, which goes by the running averages then, as predictions
        do: for layers taken over from another network.

    Raises
    ------
    ValueError, TypeError
        A parameter out of its range.

    Examples
    --------
    >>> BatchNorm()
    BatchNorm(momentum=0.9, epsilon=1e-05, trainable=True)
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    trainable: bool = field(default=True, kw_only=True)
    prefix: ClassVar[str] = "batch_norm"

    def __post_init__(self):
        configs.plain_numbers(self)
        check_range("momentum", self.momentum, 0, 1)
        check_epsilon(self.epsilon, 1)
        check_flag("trainable", self.trainable)

    def parameter_shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        """Scale, shift and running averages, (width,) each."""
        return dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (width,))

    def forward(self, z: np.ndarray, p: dict[str, np.ndarray]) -> np.ndarray:
        """The prediction, by the running averages."""
        return (z - p["running_mean"]) * self._scale(z, p) + p["bias"]

    def backward(self, z: np.ndarray, p: dict[str, np.ndarray], g: np.ndarray) -> np.ndarray:
        """dL/dz of the prediction, from g = dL/da."""
        return g * self._scale(z, p)

    def backward_of_batch(self, z: np.ndarray, weight: np.ndarray, g: np.ndarray) -> np.ndarray:
        """dL/dz where mean and variance were those of the rows of z."""
        size = np.sqrt(z.var(axis=0) + z.dtype.type(self.epsilon))
        normed = (z - z.mean(axis=0)) / size
        return weight / size * (g - g.mean(axis=0) - normed * (g * normed).mean(axis=0))

    def _scale(self, z, p):
        return p["weight"] / np.sqrt(p["running_var"] + z.dtype.type(self.epsilon))


@dataclass(frozen=True)
class Normalization(BatchNorm):
    """a = (x - mean) / deviation of each column of X, as the first layer: the network takes rows as they are, and what
    standardises them is saved with it.

    Mean and standard deviation are those of the rows that the first fit trains on, by their weights, or of those that
    `Sequential.adapt` was given; no training changes them. They are parameters, "running_mean" and, as 1 / deviation,
    "weight"; the others of a `BatchNorm` stay 1 and 0. A column with the same number in all rows becomes 0.

    X is rounded to the model's dtype first: columns far from 0 beside their deviation, such as times in seconds, want
    float64, or a number subtracted before.

    When to use: numbers of different sizes and units, in place of a StandardScaler before the network.

    Raises
    ------
    ValueError
        The layer is not the first, when a `Sequential` is made of it; there is no mean yet, when that predicts.

    Examples
    --------
    >>> from fastmlp import Dense, Sequential
    >>> model = Sequential(Normalization(), Dense(1)).build(2).adapt([[1.0, 200.0], [3.0, 600.0]])
    >>> model.activations([[2.0, 600.0]], layer=0).tolist()
    [[0.0, 1.0]]
    """

    momentum: ClassVar[float] = 0.0
    epsilon: ClassVar[float] = 1e-30  # nothing beside a variance of 1
    trainable: ClassVar[bool] = False
    prefix: ClassVar[str] = "normalization"
    initial: ClassVar[float] = 0.0  # there is no deviation yet

    def __post_init__(self):
        pass

    def __getattr__(self, name):
        known = ": mean and deviation are the model's, which `fit` sets, or model.adapt(X)" if name == "adapt" else ""
        raise AttributeError(f"Normalization has no attribute {name!r}{known}.")


def column_statistics(X, sample_weight: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the columns of X, dense or CSR, in float64; where that is 0, it is 1."""
    from sklearn.preprocessing import StandardScaler

    if sample_weight is not None:  # as if they were numbers of rows
        sample_weight = sample_weight * (np.count_nonzero(sample_weight) / sample_weight.sum())
    scaler = StandardScaler(with_mean=isinstance(X, np.ndarray))
    for start in range(0, X.shape[0], 2**16):  # of a memory map, no more than this at a time in float64
        rows, weights = np.arange(start, min(start + 2**16, X.shape[0])), None
        if sample_weight is not None:
            rows = rows[sample_weight[rows] > 0]
            weights = sample_weight[rows]
        if len(rows):
            with np.errstate(invalid="ignore"):  # a variance of 0 may come out below it
                scaler.partial_fit(X[rows].astype(np.float64), sample_weight=weights)
    return scaler.mean_, np.where(scaler.scale_ > 0, scaler.scale_, 1.0)


@dataclass(frozen=True)
class _RowNorm(Hinted):
    """What LayerNorm, RMSNorm and GroupNorm share: statistics of each row alone, over groups of its units."""

    trainable: bool = field(default=True, kw_only=True)
    centered: ClassVar[bool] = True

    def __post_init__(self):
        configs.plain_numbers(self)
        check_epsilon(self.epsilon, 1)
        check_flag("trainable", self.trainable)

    @property
    def n_groups(self) -> int:
        """How many groups of neighbouring units have statistics of their own."""
        return 1

    def parameter_shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        """Scale and, where centred, shift, (width,) each."""
        return dict.fromkeys(("weight", "bias") if self.centered else ("weight",), (width,))

    def forward(self, z: np.ndarray, p: dict[str, np.ndarray]) -> np.ndarray:
        """a, of the same shape as z."""
        normed, _ = self._normed(z)
        return normed.reshape(z.shape) * p["weight"] + p.get("bias", z.dtype.type(0))

    def backward(self, z: np.ndarray, p: dict[str, np.ndarray], g: np.ndarray) -> np.ndarray:
        """dL/dz, from g = dL/da."""
        normed, size = self._normed(z)
        g = (g * p["weight"]).reshape(normed.shape)
        if self.centered:
            g = g - g.mean(axis=2, keepdims=True)
        return ((g - normed * (g * normed).mean(axis=2, keepdims=True)) / size).reshape(z.shape)

    def _normed(self, z):
        """The normalised groups of each row, (n, groups, units of a group), and what they were divided by."""
        h = z.reshape(len(z), self.n_groups, -1)
        if self.centered:
            h = h - h.mean(axis=2, keepdims=True)
        size = np.sqrt((h * h).mean(axis=2, keepdims=True) + z.dtype.type(self.epsilon))
        return h / size, size


@dataclass(frozen=True)
class LayerNorm(_RowNorm):
    """a = weight (z - mean) / sqrt(variance + epsilon) + bias, with the mean and the variance of each row over its
    units (Ba, Kiros and Hinton, 2016). Training and prediction are the same.

    When to use: in residual blocks, and where batches are small.

    Parameters
    ----------
    epsilon : float
        In [1e-30, 1).
    trainable : bool
        False: scale and shift stay as they are.

    Raises
    ------
    ValueError, TypeError
        `epsilon` out of its range.

    Examples
    --------
    >>> import numpy as np
    >>> LayerNorm().forward(np.array([[1.0, 3.0]]), {"weight": np.ones(2), "bias": np.zeros(2)}).round(3).tolist()
    [[-1.0, 1.0]]
    """

    epsilon: float = 1e-5
    prefix: ClassVar[str] = "layer_norm"


@dataclass(frozen=True)
class RMSNorm(_RowNorm):
    """a = weight z / sqrt(mean of z^2 + epsilon), over the units of each row (Zhang and Sennrich, 2019): LayerNorm
    without the mean and the shift.

    When to use: in place of LayerNorm, a little cheaper.

    Parameters
    ----------
    epsilon : float
        In [1e-30, 1).
    trainable : bool
        False: the scale stays as it is.

    Raises
    ------
    ValueError, TypeError
        `epsilon` out of its range.

    Examples
    --------
    >>> import numpy as np
    >>> RMSNorm().forward(np.array([[3.0, 3.0]]), {"weight": np.ones(2)}).round(3).tolist()
    [[1.0, 1.0]]
    """

    epsilon: float = 1e-5
    prefix: ClassVar[str] = "rms_norm"
    centered: ClassVar[bool] = False


@dataclass(frozen=True)
class GroupNorm(_RowNorm):
    """LayerNorm of each group of neighbouring units by itself (Wu and He, 2018).

    When to use: where neighbouring units belong together.

    Parameters
    ----------
    groups : int
        Divides the number of units.
    epsilon : float
        In [1e-30, 1).
    trainable : bool
        False: scale and shift stay as they are.

    Raises
    ------
    ValueError, TypeError
        A parameter out of its range; `groups` that do not divide the units, when the network is built.

    Examples
    --------
    >>> import numpy as np
    >>> p = {"weight": np.ones(4), "bias": np.zeros(4)}
    >>> GroupNorm(2).forward(np.array([[1.0, 3.0, 10.0, 30.0]]), p).round(3).tolist()
    [[-1.0, 1.0, -1.0, 1.0]]
    """

    groups: int
    epsilon: float = 1e-5
    prefix: ClassVar[str] = "group_norm"

    def __post_init__(self):
        object.__setattr__(self, "groups", check_count(self.groups, "groups"))
        super().__post_init__()

    @property
    def n_groups(self) -> int:
        """`groups`."""
        return self.groups

    def parameter_shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        """Scale and shift, (width,) each; ValueError where `groups` do not divide the width."""
        if width % self.groups:
            raise ValueError(f"`groups` must divide the {width} units before GroupNorm; got {self.groups}.")
        return super().parameter_shapes(width)


Norm = BatchNorm | _RowNorm
