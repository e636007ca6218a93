"""Layers as plain data: what a network is, with no arrays and no compiled code. `lowering.py` turns them into work."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from . import initializers
from .activations import ACTIVATIONS, GELU, Activation
from .errors import check_range, unknown_name
from .normalization import BatchNorm, GroupNorm, LayerNorm, RMSNorm


@dataclass(frozen=True)
class Dense:
    """A fully connected layer: z = x W + b, with W of shape (n_inputs, units) and b of shape (units,).

    Parameters
    ----------
    units : int
        Number of outputs, at least 1.
    use_bias : bool
        Without it b = 0 and is not a parameter.
    kernel_initializer : str
        A name of `fastmlp.initializers`; "auto" is "he_uniform" before a ReLU and "glorot_uniform" otherwise.
    bias_initializer : str
        As above, without "auto".

    Raises
    ------
    ValueError
        `units` below 1, or an unknown initialiser.

    Examples
    --------
    >>> Dense(128)
    Dense(units=128, use_bias=True, kernel_initializer='auto', bias_initializer='zeros')
    """

    units: int
    use_bias: bool = True
    kernel_initializer: str = "auto"
    bias_initializer: str = "zeros"
    prefix: ClassVar[str] = "dense"

    def __post_init__(self):
        if isinstance(self.units, bool) or not hasattr(self.units, "__index__"):
            raise TypeError(f"`units` must be an integer of at least 1; got {self.units!r}.")
        if self.units < 1:
            raise ValueError(f"`units` must be an integer of at least 1; got {self.units!r}.")
        object.__setattr__(self, "units", self.units.__index__())
        initializers.check(self.kernel_initializer, "kernel_initializer", auto=True)
        initializers.check(self.bias_initializer, "bias_initializer")

    def parameter_shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        """W and, where there is one, b, behind a value of so many columns."""
        shapes = {"weight": (width, self.units), "bias": (self.units,)}
        return shapes if self.use_bias else {"weight": shapes["weight"]}

    def forward(self, x, p: dict[str, np.ndarray]) -> np.ndarray:
        """x W + b in NumPy; x may be sparse."""
        z = np.asarray(x @ p["weight"], p["weight"].dtype)
        return z + p["bias"] if self.use_bias else z


@dataclass(frozen=True)
class Rescaling:
    """x * scale + offset, as the first layer: done while the rows of a batch are gathered, so uint8 images stay uint8.

    Examples
    --------
    >>> Rescaling(1 / 255)
    Rescaling(scale=0.00392156862745098, offset=0.0)
    """

    scale: float
    offset: float = 0.0

    def __post_init__(self):
        for name in ("scale", "offset"):
            try:
                value = float(getattr(self, name))
            except (TypeError, ValueError):
                raise TypeError(f"`{name}` must be a finite number; got {getattr(self, name)!r}.") from None
            if not abs(value) < float("inf"):
                raise ValueError(f"`{name}` must be a finite number; got {value!r}.")
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Dropout:
    """While training, a = 0 with probability `rate`, else a / (1 - rate); a prediction keeps all (Srivastava et al.,
    2014, in the inverted form). After any layer, or first: then it acts on the inputs.

    The elements come from the fit's seed, the epoch, the batch, the layer and the element's place: the same for any
    number of threads, and after a resume.

    Parameters
    ----------
    rate : float
        In [0, 1).

    Examples
    --------
    >>> Dropout(0.5)
    Dropout(rate=0.5)
    """

    rate: float

    def __post_init__(self):
        check_range("rate", self.rate, 0, 1)
        object.__setattr__(self, "rate", float(self.rate))


@dataclass(frozen=True, init=False, repr=False)
class Residual:
    """a = x + f(x), where f is a stack of layers as wide at its end as at its start (He et al., 2016).

    With a `drop_rate` (stochastic depth, Huang et al., 2016), training leaves the branch out row by row: f(x) counts as
    0 with that probability, else as f(x) / (1 - drop_rate); a prediction keeps all.

    Parameters
    ----------
    *layers : Layer
        May hold other residuals.
    drop_rate : float
        In [0, 1).

    Raises
    ------
    ValueError, TypeError
        No layers, or `drop_rate` out of its range; widths that differ, when the network is built.

    Examples
    --------
    >>> from fastmlp import Dense, ReLU, Sequential
    >>> model = Sequential(Dense(16), Residual(ReLU(), Dense(16), ReLU(), Dense(16)), Dense(3))
    """

    layers: tuple
    drop_rate: float

    def __init__(self, *layers: Layer, drop_rate: float = 0.0):
        if not layers:
            raise ValueError("a Residual needs at least one layer.")
        check_range("drop_rate", drop_rate, 0, 1)
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "drop_rate", float(drop_rate))

    def __repr__(self):
        rate = f", drop_rate={self.drop_rate}" if self.drop_rate else ""
        return f"Residual({', '.join(map(repr, self.layers))}{rate})"


def pre_norm_block(
    units: int,
    *,
    expansion: int = 4,
    activation: Activation | None = None,
    dropout: float = 0.0,
    drop_rate: float = 0.0,
) -> Residual:
    """The feed-forward block of transformers, norm first: x + Dense(act(Dense(LayerNorm(x)))) (Xiong et al., 2020).

    Parameters
    ----------
    units : int
        Width of the value that passes by.
    expansion : int
        The hidden layer has `expansion * units` units.
    activation : Activation, optional
        GELU() where not given.
    dropout : float
        Rate after the activation; none at 0.
    drop_rate : float
        Stochastic depth; see `Residual`.

    Returns
    -------
    Residual
        Its last layer starts at 0, so that the block starts as the identity (Zhang, Dauphin and Ma, 2019).

    Examples
    --------
    >>> from fastmlp import Dense, Sequential
    >>> model = Sequential(Dense(32), *[pre_norm_block(32, dropout=0.1) for _ in range(4)], Dense(10))
    """
    layers = [LayerNorm(), Dense(expansion * units), activation or GELU()]
    layers += [Dropout(dropout)] if dropout else []
    return Residual(*layers, Dense(units, kernel_initializer="zeros"), drop_rate=drop_rate)


LAYERS: dict[str, type] = {
    cls.__name__: cls
    for cls in (Dense, Dropout, Rescaling, BatchNorm, LayerNorm, RMSNorm, GroupNorm, Residual, *ACTIVATIONS.values())
}
Layer = Dense | Dropout | Rescaling | BatchNorm | LayerNorm | RMSNorm | GroupNorm | Residual | Activation


@dataclass(frozen=True)
class Fork:
    """Where a residual's branch leaves, in a list of flat layers."""


@dataclass(frozen=True)
class Join:
    """Where a residual's branch comes back: with `drop_rate`, for some rows only."""

    drop_rate: float


def flatten(layers: Sequence[Layer]) -> Iterator[Layer | Fork | Join]:
    """The layers in the order of computation, each residual between its `Fork` and its `Join`.

    >>> list(flatten([Dense(2, False), Residual(Dropout(0.5))]))[1:]
    [Fork(), Dropout(rate=0.5), Join(drop_rate=0.0)]
    """
    for layer in layers:
        if isinstance(layer, Residual):
            yield Fork()
            yield from flatten(layer.layers)
            yield Join(layer.drop_rate)
        else:
            yield layer


def named(layers: Sequence[Layer]) -> Iterator[tuple[str, Layer]]:
    """(name, layer) of all flat layers; those with parameters are numbered by kind, the others' name is their repr.

    >>> [name for name, layer in named([Dense(2), GELU(), BatchNorm(), Dense(1)])]
    ['dense_0', 'GELU()', 'batch_norm_0', 'dense_1']
    """
    count: dict[str, int] = {}
    for layer in flatten(layers):
        prefix = getattr(layer, "prefix", None)
        if prefix is None:
            yield repr(layer), layer
        else:
            count[prefix] = count.get(prefix, -1) + 1
            yield f"{prefix}_{count[prefix]}", layer


def to_config(layer: Layer) -> dict:
    """The layer as a dictionary that JSON can hold.

    >>> to_config(Dense(2))["units"]
    2
    """
    config = {"type": type(layer).__name__, **{f.name: getattr(layer, f.name) for f in dataclasses.fields(layer)}}
    return {**config, "layers": [to_config(inner) for inner in layer.layers]} if "layers" in config else config


def from_config(config: dict) -> Layer:
    """The layer that `to_config` described; ValueError for an unknown type or unknown fields."""
    fields = dict(config)
    kind = fields.pop("type", None)
    if kind not in LAYERS:
        raise unknown_name("type", kind, LAYERS)
    known = [f.name for f in dataclasses.fields(LAYERS[kind])]
    for name in fields:
        if name not in known:
            raise unknown_name(f"{kind} field", name, known)
    if kind == "Residual":
        return Residual(*map(from_config, fields.pop("layers", ())), **fields)
    return LAYERS[kind](**fields)
