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

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from . import configs
from .errors import check_range, unknown_name


@dataclass(frozen=True, eq=False)  # one of your own that is no dataclass is equal to itself only
class Initializer:
    """Override `__call__`: it draws an array (fan_in, fan_out) of finite numbers.

    A layer computes `x @ W + b` with W of this shape; b takes the first row of what its initialiser gives. Draw from
    `rng`, a `numpy.random.Generator`, so that the seed of `build` or `fit` decides.

    A frozen dataclass prints, compares and pickles as what it is. A file holds no code: to save the network, build one
    without your initialiser, `plain.set_parameters(model.parameters)`, and save that.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> import numpy as np
    >>> from fastmlp import Dense, ReLU, Sequential
    >>> from fastmlp.initializers import Initializer
    >>> @dataclass(frozen=True)
    ... class NearIdentity(Initializer):
    ...     deviation: float = 0.01
    ...
    ...     def __call__(self, rng, fan_in, fan_out):
    ...         return np.eye(fan_in, fan_out) + rng.normal(0.0, self.deviation, (fan_in, fan_out))
    >>> model = Sequential(Dense(3, kernel_initializer=NearIdentity()), ReLU(), Dense(1)).build(3, seed=1)
    >>> model.parameters["dense_0.weight"].diagonal().round(1).tolist()
    [1.0, 1.0, 1.0]
    """

    def __call__(self, rng: np.random.Generator, fan_in: int, fan_out: int) -> np.ndarray:
        """An array (fan_in, fan_out), float64."""
        raise NotImplementedError(f"{type(self).__name__} defines no __call__")


@dataclass(frozen=True)
class Constant(Initializer):
    """w = value, one number for all weights, or one for each output: for biases that are known.

    With the logarithms of the classes' frequencies as its last biases, a classifier begins near these frequencies, and
    its first steps are not spent on learning them. A whole matrix is set when the network is built:
    `model.build(n_features).set_parameters({"dense_0.weight": W})`.

    Parameters
    ----------
    value : float, or sequence of fan_out floats

    Raises
    ------
    ValueError, TypeError
        `value` is not a finite number or a sequence of some; when a network is built: the layer has another number of
        outputs.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import Dense, ReLU, Sequential
    >>> from fastmlp.initializers import Constant
    >>> counts = np.array([900, 80, 20])
    >>> bias = Constant(np.log(counts / counts.sum()))
    >>> model = Sequential(Dense(64), ReLU(), Dense(3, bias_initializer=bias)).build(2)
    >>> np.exp(model.parameters["dense_1.bias"]).round(2)
    array([0.9 , 0.08, 0.02], dtype=float32)
    """

    value: float | Sequence[float]

    def __post_init__(self):
        configs.plain_numbers(self)
        if isinstance(self.value, str) or not np.iterable(self.value):
            check_range("value", self.value, -np.inf, np.inf, low_open=True)
            return
        object.__setattr__(self, "value", tuple(configs.plain_number(number) for number in self.value))
        if not self.value:
            raise ValueError("`value` must be a number, or one for each output; got none.")
        for k, number in enumerate(self.value):
            check_range(f"value[{k}]", number, -np.inf, np.inf, low_open=True)

    def __call__(self, rng, fan_in, fan_out):
        if isinstance(self.value, tuple) and len(self.value) != fan_out:
            raise ValueError(
                f"`value` must be a number, or one for each of {fan_out} outputs; got {len(self.value)}: {self.value}."
            )
        return np.full((fan_in, fan_out), self.value, np.float64)


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


SIGNATURE = "`def __call__(self, rng, fan_in, fan_out)`, which gives an array (fan_in, fan_out) of finite numbers"


def check(argument: str, initializer: str | Initializer, *, auto: bool = False) -> None:
    """Raise ValueError or TypeError unless it is an initialiser or the name of one ("auto" too where it is allowed)."""
    accepted = [*(["auto"] if auto else []), *INITIALIZERS]
    if isinstance(initializer, Initializer):
        try:
            inspect.signature(initializer).bind(None, 1, 1)
        except TypeError as error:
            raise TypeError(f"`{argument}`: {initializer!r} must have {SIGNATURE}; {error}.") from None
    elif isinstance(initializer, str):
        if initializer not in accepted:
            raise unknown_name(argument, initializer, accepted)
    else:
        raise TypeError(
            f"`{argument}` must be one of {', '.join(map(repr, accepted))} or an object of `fastmlp.initializers`, "
            f"`Constant(...)` for given numbers; got {initializer!r}. One of your own is an object of a class derived "
            f"from `{__name__}.Initializer`, with {SIGNATURE}."
        )


def initialize(initializer: str | Initializer, rng: np.random.Generator, fan_in: int, fan_out: int) -> np.ndarray:
    """Draw a (fan_in, fan_out) float64 array.

    Raises
    ------
    ValueError, TypeError
        An unknown name, or an own initialiser that fails, or draws another shape or what are no finite numbers.

    Examples
    --------
    >>> initialize("zeros", np.random.default_rng(0), 2, 1)
    array([[0.],
           [0.]])
    """
    check("initializer", initializer)
    draw = INITIALIZERS[initializer] if isinstance(initializer, str) else initializer
    try:
        w = np.asarray(draw(rng, fan_in, fan_out))
    except Exception as error:
        if type(draw) in CLASSES.values():
            raise
        raise TypeError(f"{draw!r} must have {SIGNATURE}; it raised {type(error).__name__}: {error}") from error
    if w.shape != (fan_in, fan_out):
        raise ValueError(
            f"{draw!r} must return finite numbers of shape {(fan_in, fan_out)}; got shape {w.shape}. A bias, too, "
            "takes the first row of such an array."
        )
    if w.dtype.kind not in "biuf" or not np.isfinite(w).all():
        got = "some that are not finite" if w.dtype.kind == "f" else f"an array of {w.dtype}"
        raise ValueError(f"{draw!r} must return finite numbers of shape {(fan_in, fan_out)}; got {got}.")
    return w.astype(np.float64, copy=False)


def to_config(initializer: Initializer) -> dict:
    """The initialiser as a dictionary that JSON can hold.

    >>> to_config(Scaled("he_normal", 0.5))
    {'type': 'Scaled', 'initializer': 'he_normal', 'factor': 0.5}
    """
    if type(initializer) not in CLASSES.values():
        raise TypeError(
            f"`initializer` must be one of {', '.join(CLASSES)}, for a file holds no code; got {initializer!r}. Save a "
            "network without it, after its `set_parameters(model.parameters)`."
        )
    return configs.describe(initializer, CLASSES, "initializer", {Initializer: to_config})


def from_config(config: dict) -> Initializer:
    """The initialiser that `to_config` described; ValueError or TypeError for anything else."""
    return configs.build(config, CLASSES, from_config)
