"""Initialisers of weight matrices as plain data: each draws an array (fan_in, fan_out) in float64.

| name | object | distribution | source |
|---|---|---|---|
| zeros, ones | `Constant(0.0)`, `Constant(1.0)` | the number; zeros last in a residual branch: it starts as 0 | |
| uniform | `Uniform(0.05)` | U(-0.05, 0.05) | Keras's default range |
| normal | `Normal(0.05)` | N(0, 0.05^2) | Keras's default scale |
| truncated_normal | `TruncatedNormal(0.05)` | the same, drawn again beyond two deviations | Keras's default |
| lecun_uniform, lecun_normal | `VarianceScaling(1.0, "fan_in")` | variance 1 / fan_in | LeCun et al., 1998 |
| glorot_uniform, glorot_normal | `VarianceScaling(1.0, "fan_avg")` | 2 / (fan_in + fan_out) | Glorot and Bengio, 2010 |
| he_uniform, he_normal | `VarianceScaling(2.0, "fan_in")` | variance 2 / fan_in | He et al., 2015 |
| orthogonal | `Orthogonal(1.0)` | uniform over orthogonal matrices | Saxe et al., 2014 |

`Scaled` multiplies any of them: `Scaled("he_normal", 1 / math.sqrt(depth))` keeps a residual sum of `depth` branches
from growing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import configs
from .errors import check_range, unknown_name


@dataclass(frozen=True)
class Initializer:
    """Draws weights; override `__call__` in a frozen dataclass for one of your own."""

    def __call__(self, rng: np.random.Generator, fan_in: int, fan_out: int) -> np.ndarray:
        """An array (fan_in, fan_out), float64."""
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Initializer):
    """w = value.

    Raises
    ------
    ValueError, TypeError
        `value` is not a finite number.

    Examples
    --------
    >>> Constant(0.5)(np.random.default_rng(0), 1, 2)
    array([[0.5, 0.5]])
    """

    value: float

    def __post_init__(self):
        configs.plain_numbers(self)
        check_range("value", self.value, -np.inf, np.inf, low_open=True)

    def __call__(self, rng, fan_in, fan_out):
        return np.full((fan_in, fan_out), float(self.value))


@dataclass(frozen=True)
class Uniform(Initializer):
    """w ~ U(-limit, limit).

    Raises
    ------
    ValueError, TypeError
        `limit` below 0 or not finite.

    Examples
    --------
    >>> bool(abs(Uniform(0.1)(np.random.default_rng(0), 3, 2)).max() < 0.1)
    True
    """

    limit: float = 0.05

    def __post_init__(self):
        configs.plain_numbers(self)
        check_range("limit", self.limit, 0, np.inf)

    def __call__(self, rng, fan_in, fan_out):
        return rng.uniform(-self.limit, self.limit, (fan_in, fan_out))


@dataclass(frozen=True)
class Normal(Initializer):
    """w ~ N(0, deviation^2).

    Raises
    ------
    ValueError, TypeError
        `deviation` below 0 or not finite.

    Examples
    --------
    >>> Normal(0.1)(np.random.default_rng(0), 3, 2).shape
    (3, 2)
    """

    deviation: float = 0.05

    def __post_init__(self):
        configs.plain_numbers(self)
        check_range("deviation", self.deviation, 0, np.inf)

    def __call__(self, rng, fan_in, fan_out):
        return rng.normal(0.0, self.deviation, (fan_in, fan_out))


@dataclass(frozen=True)
class TruncatedNormal(Initializer):
    """w ~ N(0, deviation^2), drawn again where |w| > 2 deviation: the variance is 0.774 deviation^2.

    Raises
    ------
    ValueError, TypeError
        `deviation` below 0 or not finite.

    Examples
    --------
    >>> bool(abs(TruncatedNormal(1.0)(np.random.default_rng(0), 30, 20)).max() <= 2)
    True
    """

    deviation: float = 0.05

    def __post_init__(self):
        configs.plain_numbers(self)
        check_range("deviation", self.deviation, 0, np.inf)

    def __call__(self, rng, fan_in, fan_out):
        w = rng.normal(size=(fan_in, fan_out))
        while (far := np.abs(w) > 2).any():
            w[far] = rng.normal(size=int(far.sum()))
        return self.deviation * w


@dataclass(frozen=True)
class VarianceScaling(Initializer):
    """w of mean 0 and variance scale / n, n = fan_in, fan_out or their mean: values keep their size through a layer.

    Parameters
    ----------
    scale : float
        At least 0.
    mode : {"fan_in", "fan_out", "fan_avg"}
        n.
    distribution : {"uniform", "normal"}
        U(-sqrt(3 scale / n), sqrt(3 scale / n)) or N(0, scale / n), not truncated (as PyTorch's).

    Raises
    ------
    ValueError, TypeError
        A number out of its range, or an unknown word.

    References
    ----------
    LeCun et al., Efficient BackProp, 1998 (scale 1, fan_in); Glorot and Bengio, Understanding the difficulty of
    training deep feedforward neural networks, 2010 (scale 1, fan_avg); He et al., Delving deep into rectifiers, 2015
    (scale 2, fan_in).

    Examples
    --------
    >>> bool(VarianceScaling(2.0, "fan_in", "normal") == INITIALIZERS["he_normal"])
    True
    """

    scale: float = 1.0
    mode: str = "fan_in"
    distribution: str = "normal"

    def __post_init__(self):
        configs.plain_numbers(self)
        check_range("scale", self.scale, 0, np.inf)
        for name, accepted in (("mode", ("fan_in", "fan_out", "fan_avg")), ("distribution", ("uniform", "normal"))):
            if getattr(self, name) not in accepted:
                raise unknown_name(name, getattr(self, name), accepted)

    def __call__(self, rng, fan_in, fan_out):
        n = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        deviation = float(np.sqrt(self.scale / n))
        if self.distribution == "uniform":
            return rng.uniform(-deviation * np.sqrt(3), deviation * np.sqrt(3), (fan_in, fan_out))
        return rng.normal(0.0, deviation, (fan_in, fan_out))


@dataclass(frozen=True)
class Orthogonal(Initializer):
    """w = gain Q, with the shorter of rows and columns of Q orthonormal: a deep linear network keeps norms.

    Q comes from LAPACK's QR decomposition of normal numbers, so its last bits may differ between machines.

    Raises
    ------
    ValueError, TypeError
        `gain` below 0 or not finite.

    References
    ----------
    Saxe, McClelland and Ganguli, Exact solutions to the nonlinear dynamics of learning in deep linear neural networks,
    2014. Signs as in Mezzadri, How to generate random matrices from the classical compact groups, 2007.

    Examples
    --------
    >>> w = Orthogonal(2.0)(np.random.default_rng(0), 2, 3)
    >>> bool(np.allclose(w @ w.T, 4 * np.eye(2)))
    True
    """

    gain: float = 1.0

    def __post_init__(self):
        configs.plain_numbers(self)
        check_range("gain", self.gain, 0, np.inf)

    def __call__(self, rng, fan_in, fan_out):
        q, r = np.linalg.qr(rng.normal(size=(max(fan_in, fan_out), min(fan_in, fan_out))))
        q *= np.where(np.diag(r) < 0, -1.0, 1.0)  # QR alone would prefer some matrices
        return self.gain * (q if fan_in >= fan_out else q.T)


@dataclass(frozen=True)
class Scaled(Initializer):
    """w = factor times what another initialiser draws; with 1 / sqrt(depth), for the last layer of residual branches.

    Parameters
    ----------
    initializer : str or Initializer
    factor : float
        Any finite number.

    Raises
    ------
    ValueError, TypeError
        An unknown name, or a number out of its range.

    References
    ----------
    Radford et al., Language Models are Unsupervised Multitask Learners, 2019 (1 / sqrt(number of residual layers)).

    Examples
    --------
    >>> Scaled("ones", 0.25)(np.random.default_rng(0), 1, 2)
    array([[0.25, 0.25]])
    """

    initializer: str | Initializer
    factor: float

    def __post_init__(self):
        configs.plain_numbers(self)
        check("initializer", self.initializer)
        check_range("factor", self.factor, -np.inf, np.inf, low_open=True)

    def __call__(self, rng, fan_in, fan_out):
        return self.factor * initialize(self.initializer, rng, fan_in, fan_out)


INITIALIZERS: dict[str, Initializer] = {
    "zeros": Constant(0.0),
    "ones": Constant(1.0),
    "uniform": Uniform(),
    "normal": Normal(),
    "truncated_normal": TruncatedNormal(),
    "lecun_uniform": VarianceScaling(1.0, "fan_in", "uniform"),
    "lecun_normal": VarianceScaling(1.0, "fan_in", "normal"),
    "glorot_uniform": VarianceScaling(1.0, "fan_avg", "uniform"),
    "glorot_normal": VarianceScaling(1.0, "fan_avg", "normal"),
    "he_uniform": VarianceScaling(2.0, "fan_in", "uniform"),
    "he_normal": VarianceScaling(2.0, "fan_in", "normal"),
    "orthogonal": Orthogonal(),
}
CLASSES: dict[str, type[Initializer]] = {
    cls.__name__: cls for cls in (Constant, Uniform, Normal, TruncatedNormal, VarianceScaling, Orthogonal, Scaled)
}


def check(argument: str, initializer: str | Initializer, *, auto: bool = False) -> None:
    """Raise ValueError unless it is an initialiser or the name of one ("auto" too where it is allowed)."""
    accepted = [*(["auto"] if auto else []), *INITIALIZERS]
    if not isinstance(initializer, Initializer) and not (isinstance(initializer, str) and initializer in accepted):
        raise unknown_name(argument, initializer, accepted)


def initialize(initializer: str | Initializer, rng: np.random.Generator, fan_in: int, fan_out: int) -> np.ndarray:
    """Draw a (fan_in, fan_out) float64 array.

    Raises
    ------
    ValueError
        An unknown name, or an own initialiser that draws another shape or numbers that are not finite.

    Examples
    --------
    >>> initialize("zeros", np.random.default_rng(0), 2, 1)
    array([[0.],
           [0.]])
    """
    check("initializer", initializer)
    draw = INITIALIZERS[initializer] if isinstance(initializer, str) else initializer
    w = np.asarray(draw(rng, fan_in, fan_out), np.float64)
    if w.shape != (fan_in, fan_out) or not np.isfinite(w).all():
        raise ValueError(f"{draw!r} must return finite numbers of shape {(fan_in, fan_out)}; got shape {w.shape}.")
    return w


def to_config(initializer: Initializer) -> dict:
    """The initialiser as a dictionary that JSON can hold.

    >>> to_config(Scaled("he_normal", 0.5))
    {'type': 'Scaled', 'initializer': 'he_normal', 'factor': 0.5}
    """
    return configs.describe(initializer, CLASSES, "initializer", _to_config)


def from_config(config: dict) -> Initializer:
    """The initialiser that `to_config` described; ValueError or TypeError for anything else."""
    cls, fields = configs.checked(config, CLASSES)
    return cls(**{name: from_config(v) if isinstance(v, dict) else v for name, v in fields.items()})


def _to_config(value):
    return to_config(value) if isinstance(value, Initializer) else value
