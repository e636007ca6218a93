"""Layers as plain data: what a network is, with no arrays and no compiled code. `lowering.py` turns them into work."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np

from . import initializers, schedules
from .activations import ACTIVATIONS, Activation
from .errors import check_range, unknown_name
from .initializers import Initializer
from .schedules import Schedule


@dataclass(frozen=True)
class Dense:
    """A fully connected layer: z = x W + b, with W of shape (n_inputs, units) and b of shape (units,).

    Parameters
    ----------
    units : int
        Number of outputs, at least 1.
    use_bias : bool
        Without it b = 0 and is not a parameter.
    kernel_initializer : str or Initializer
        A name or an object of `fastmlp.initializers`; "auto" is "he_uniform" before a ReLU and "glorot_uniform"
        otherwise.
    bias_initializer : str or Initializer
        As above, without "auto".
    l1, l2 : float
        The loss has l1 sum |W| + l2 sum W^2 besides (Keras's `L1L2`), at least 0; what a fit and `evaluate` report
        includes it. Biases have no penalty.
    max_norm : float, optional
        Above 0: after each update, columns of W (the incoming weights of a unit) that are longer are scaled to this
        norm (Srivastava et al., 2014; Keras's `MaxNorm`).
    learning_rate_multiplier : float
        Of this layer's learning rate, at least 0; decoupled weight decay goes with it, as in a group of PyTorch's.
    trainable : bool
        False freezes the layer: W and b stay as they are, to the bit, and their gradients are not computed.

    Raises
    ------
    ValueError, TypeError
        A number out of its range, or an unknown initialiser.

    Examples
    --------
    >>> Dense(128, l2=1e-4).l2
    0.0001
    """

    units: int
    use_bias: bool = True
    kernel_initializer: str | Initializer = "auto"
    bias_initializer: str | Initializer = "zeros"
    l1: float = field(default=0.0, kw_only=True)
    l2: float = field(default=0.0, kw_only=True)
    max_norm: float | None = field(default=None, kw_only=True)
    learning_rate_multiplier: float = field(default=1.0, kw_only=True)
    trainable: bool = field(default=True, kw_only=True)

    def __post_init__(self):
        if isinstance(self.units, bool) or not hasattr(self.units, "__index__"):
            raise TypeError(f"`units` must be an integer of at least 1; got {self.units!r}.")
        if self.units < 1:
            raise ValueError(f"`units` must be an integer of at least 1; got {self.units!r}.")
        object.__setattr__(self, "units", self.units.__index__())
        initializers.check("kernel_initializer", self.kernel_initializer, auto=True)
        initializers.check("bias_initializer", self.bias_initializer)
        for name in ("l1", "l2", "learning_rate_multiplier"):
            check_range(name, getattr(self, name), 0, float("inf"))
        if self.max_norm is not None:
            check_range("max_norm", self.max_norm, 0, float("inf"), low_open=True)
        if not isinstance(self.trainable, bool):
            raise TypeError(f"`trainable` must be True or False; got {self.trainable!r}.")

    def penalty(self, weight: np.ndarray) -> float:
        """l1 sum |W| + l2 sum W^2, summed in float64."""
        value = 0.0
        with np.errstate(over="ignore"):
            if self.l1:
                value += self.l1 * float(np.abs(weight).sum(dtype=np.float64))
            if self.l2:
                value += self.l2 * float(np.square(weight, dtype=np.float64).sum())
        return value


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
    rate : float or Schedule
        In [0, 1).

    Examples
    --------
    >>> Dropout(0.5)
    Dropout(rate=0.5)
    """

    rate: float | Schedule

    def __post_init__(self):
        if not isinstance(self.rate, Schedule):
            check_range("rate", self.rate, 0, 1)
            object.__setattr__(self, "rate", float(self.rate))


LAYERS: dict[str, type] = {cls.__name__: cls for cls in (Dense, Dropout, Rescaling, *ACTIVATIONS.values())}
Layer = Dense | Dropout | Rescaling | Activation


def to_config(layer: Layer) -> dict:
    """The layer as a dictionary that JSON can hold.

    >>> to_config(Dense(2))["units"]
    2
    """
    values = {f.name: getattr(layer, f.name) for f in dataclasses.fields(layer)}
    for name, value in values.items():
        if isinstance(value, (Initializer, Schedule)):
            module = initializers if isinstance(value, Initializer) else schedules
            values[name] = module.to_config(value)
    return {"type": type(layer).__name__, **values}


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
    module = schedules if kind == "Dropout" else initializers
    values = {name: module.from_config(v) if isinstance(v, dict) else v for name, v in fields.items()}
    return LAYERS[kind](**values)
