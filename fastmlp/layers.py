"""Layers as plain data: what a network is, with no arrays and no compiled code. `lowering.py` turns them into work."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from . import initializers, user_functions
from .activations import ACTIVATIONS, Activation, CustomActivation
from .errors import check_range, unknown_name


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

    def __post_init__(self):
        if isinstance(self.units, bool) or not hasattr(self.units, "__index__"):
            raise TypeError(f"`units` must be an integer of at least 1; got {self.units!r}.")
        if self.units < 1:
            raise ValueError(f"`units` must be an integer of at least 1; got {self.units!r}.")
        object.__setattr__(self, "units", self.units.__index__())
        initializers.check(self.kernel_initializer, "kernel_initializer", auto=True)
        initializers.check(self.bias_initializer, "bias_initializer")


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


@dataclass(frozen=True)
class Softmax:
    """a_k = exp(z_k) / sum_j exp(z_j) over a row: shares that sum to 1 (Bridle, 1990).

    dL/dz_k = a_k (dL/da_k - sum_j a_j dL/da_j). Not in front of "softmax_cross_entropy", which takes logits and has a
    softmax of its own.

    Examples
    --------
    >>> import numpy as np
    >>> Softmax()(np.array([[0.0, 0.0], [100.0, 0.0]])).round(3).tolist()
    [[0.5, 0.5], [1.0, 0.0]]
    """

    def __call__(self, z):
        """The softmax of each row, in NumPy."""
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)


LAYERS: dict[str, type] = {cls.__name__: cls for cls in (Dense, Dropout, Rescaling, Softmax, *ACTIVATIONS.values())}
Layer = Dense | Dropout | Rescaling | Softmax | Activation


def to_config(layer: Layer) -> dict:
    """The layer as a dictionary that JSON can hold.

    >>> to_config(Dense(2))["units"]
    2
    """
    if isinstance(layer, CustomActivation):
        return user_functions.describe(layer, layer.samples)
    return {"type": type(layer).__name__, **dataclasses.asdict(layer)}


def from_config(config: dict, custom_objects: dict | None = None) -> Layer:
    """The layer that `to_config` described; ValueError for an unknown type or unknown fields, or where a
    `CustomActivation` is not among `custom_objects`.
    """
    if config.get("type") == CustomActivation.__name__:
        return user_functions.recall(config, custom_objects, CustomActivation)
    fields = dict(config)
    kind = fields.pop("type", None)
    if kind not in LAYERS:
        raise unknown_name("type", kind, LAYERS)
    known = [f.name for f in dataclasses.fields(LAYERS[kind])]
    for name in fields:
        if name not in known:
            raise unknown_name(f"{kind} field", name, known)
    return LAYERS[kind](**fields)
