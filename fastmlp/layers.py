"""Layers as plain data: what a network is, with no arrays and no compiled code. `lowering` turns them into work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, get_args

import numpy as np

from . import configs, initializers, schedules, user_functions
from .activations import ACTIVATIONS, GELU, Activation, CustomActivation, Logistic, SiLU
from .augmentation import CutMix, GaussianNoise, MixUp, RandomAffine
from .embedding import Embedding
from .errors import check_count, check_flag, check_range
from .hints import Hinted, hint
from .initializers import Initializer
from .normalization import BatchNorm, GroupNorm, LayerNorm, Normalization, RMSNorm
from .schedules import Schedule


@dataclass(frozen=True)
class Dense(Hinted):
    """A fully connected layer: z = x W + b, with W of shape (n_inputs, units) and b of shape (units,).

    When to use: in every network; the other layers stand between Dense layers.

    Parameters
    ----------
    units : int
        Number of outputs, at least 1.
    use_bias : bool
        Without it b = 0 and is not a parameter.
    kernel_initializer : str or Initializer
        A name or an object of `fastmlp.initializers`; "auto" is that of the activation which follows, past norms and
        dropout (docs/activations.md): "he_uniform" before ReLU and its kin, "glorot_uniform" where none follows.
    bias_initializer : str or Initializer
        A name or an object, as above, without "auto".
    l1, l2 : float
        The loss has l1 sum |W| + l2 sum W^2 besides (Keras's `L1L2`), at least 0; what a fit and `evaluate` report
        includes it. Biases have no penalty. The slope of |w| is taken as 0 at 0 and 1 elsewhere, so l1 makes weights
        small, not 0: count those below 1e-4, say.
    max_norm : float, optional
        Bound of the norms of W's columns, above 0: after each update, columns (the incoming weights of a unit) that
        are longer are scaled to it (Srivastava et al., 2014; Keras's `MaxNorm`).
    learning_rate_multiplier : float
        Factor of this layer's learning rate, at least 0; decoupled weight decay goes with it, as in a group of
        PyTorch's.
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
    prefix: ClassVar[str] = "dense"

    def __post_init__(self):
        configs.plain_numbers(self)
        object.__setattr__(self, "units", check_count(self.units, "units"))
        initializers.check("kernel_initializer", self.kernel_initializer, auto=True)
        initializers.check("bias_initializer", self.bias_initializer)
        for name in ("l1", "l2", "learning_rate_multiplier"):
            check_range(name, getattr(self, name), 0, float("inf"))
        if self.max_norm is not None:
            check_range("max_norm", self.max_norm, 0, float("inf"), low_open=True)
        if isinstance(self.use_bias, str):
            raise TypeError(
                f"`use_bias` must be True or False; got {self.use_bias!r}: {hint(['Dense'], 'activation')}."
            )
        for name in ("use_bias", "trainable"):
            check_flag(name, getattr(self, name))

    def penalty(self, weight: np.ndarray) -> float:
        """l1 sum |W| + l2 sum W^2, summed in float64."""
        value = 0.0
        with np.errstate(over="ignore"):
            if self.l1:
                value += self.l1 * float(np.abs(weight).sum(dtype=np.float64))
            if self.l2:
                value += self.l2 * float(np.square(weight, dtype=np.float64).sum())
        return value

    def output_width(self, width: int | None) -> int:
        """How many values a row has behind it, of however many columns."""
        return self.units

    def parameter_shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        """W and, where there is one, b, behind a value of so many columns."""
        shapes = {"weight": (width, self.units), "bias": (self.units,)}
        return shapes if self.use_bias else {"weight": shapes["weight"]}


@dataclass(frozen=True)
class Rescaling:
    """x * scale + offset, as the first layer: done while the rows of a batch are gathered, so uint8 images stay uint8.

    When to use: images as uint8: `Rescaling(1 / 255)`.

    Parameters
    ----------
    scale, offset : float
        Any finite numbers.

    Raises
    ------
    ValueError, TypeError
        A number is not finite, or none; the layer is not the first, when a `Sequential` is made of it.

    Examples
    --------
    >>> Rescaling(1 / 255)
    Rescaling(scale=0.00392156862745098, offset=0.0)
    """

    scale: float
    offset: float = 0.0

    def __post_init__(self):
        for name in ("scale", "offset"):
            check_range(name, getattr(self, name), float("-inf"), float("inf"), low_open=True)
            object.__setattr__(self, name, float(getattr(self, name)))


@dataclass(frozen=True)
class Dropout(Hinted):
    """While training, a = 0 with probability `rate`, else a / (1 - rate); a prediction keeps all (Srivastava et al.,
    2014, in the inverted form). After any layer, or first: then it acts on the inputs.

    When to use: where training is far better than validation: 0.1 to 0.2 on inputs, 0.2 to 0.5 behind hidden layers.

    The elements come from the fit's seed, the epoch, the batch, the layer and the element's place: the same for any
    number of threads, and after a resume.

    Parameters
    ----------
    rate : float or Schedule
        Probability of a 0, in [0, 1); a schedule (`fastmlp.schedules`) has one for each step.

    Raises
    ------
    ValueError, TypeError
        `rate` is no number in [0, 1); when a fit begins: the schedule leaves [0, 1).

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


@dataclass(frozen=True)
class AlphaDropout(Dropout):
    """While training, a = s z + t, but with probability `rate` s a' + t, where a' = SELU(-inf) = -1.7581; a prediction
    keeps z (Klambauer et al., 2017, "Self-normalizing neural networks").

    s = ((1 - rate) (1 + rate a'^2))^(-1/2) and t = -s rate a': what has mean 0 and variance 1 keeps them, as `Dropout`
    would not. dL/dz = s dL/da where z was kept, else 0.

    When to use: behind `SELU`, 0.05 to 0.1 (with "lecun_normal" weights, which "auto" takes there, and standardised
    inputs).

    Parameters
    ----------
    rate : float or Schedule
        Probability of a', in [0, 1); as for `Dropout`.

    Raises
    ------
    ValueError, TypeError
        As for `Dropout`.

    Examples
    --------
    >>> AlphaDropout(0.1)
    AlphaDropout(rate=0.1)
    """


@dataclass(frozen=True)
class Softmax:
    """a_k = exp(z_k) / sum_j exp(z_j) over a row: shares that sum to 1 (Bridle, 1990).

    dL/dz_k = a_k (dL/da_k - sum_j a_j dL/da_j). Not in front of "softmax_cross_entropy", which takes logits and has a
    softmax of its own.

    When to use: attention over the units of a layer, mixtures.

    Examples
    --------
    >>> import numpy as np
    >>> Softmax()(np.array([[0.0, 0.0], [100.0, 0.0]])).round(3).tolist()
    [[0.5, 0.5], [1.0, 0.0]]
    """

    def __call__(self, z: np.ndarray) -> np.ndarray:
        """The softmax of each row, in NumPy."""
        z = np.asarray(z)
        if z.shape[1] >= 64:
            e = z - z.max(axis=1, keepdims=True)
            e = np.exp(e, out=e)
            e /= e.sum(axis=1, keepdims=True)
            return e
        e = np.ascontiguousarray(z.T)  # sums over few outputs of many rows: a sixth of the time
        e = np.exp(e - e.max(axis=0))
        e /= e.sum(axis=0)
        return np.ascontiguousarray(e.T)


@dataclass(frozen=True)
class ActivityRegularization:
    """a = z, and the loss of each row grows by l1 sum_k |a_k| + l2 sum_k a_k^2.

    dL/dz_k = dL/da_k + l1 sign(a_k) + 2 l2 a_k, and 0 for the sign at 0. It is part of all losses that are reported,
    those of validation and `evaluate` too; `input_gradients` leaves it out.

    When to use: behind an activation whose values should be small, or with l1 mostly 0: sparse autoencoders (Olshausen
    and Field, 1996).

    Parameters
    ----------
    l1, l2 : float
        Factors of the sums, at least 0.

    Raises
    ------
    ValueError, TypeError
        A factor out of its range; nothing to train before it, or a loss across the rows of a batch, when it is trained.

    Examples
    --------
    >>> from fastmlp import Dense, Sequential
    >>> model = Sequential(Dense(1), ActivityRegularization(l1=0.5, l2=0.25), dtype="float64").build(1)
    >>> model.set_parameters({"dense_0.weight": [[2.0]]})
    >>> model.gradients([[1.0]], [2.0], "squared_error")[0]  # nothing but 0.5 |2| + 0.25 2^2
    2.0
    """

    l1: float = 0.0
    l2: float = 0.0

    def __post_init__(self):
        configs.plain_numbers(self)
        for name in ("l1", "l2"):
            check_range(name, getattr(self, name), 0, float("inf"))

    def penalty(self, a: np.ndarray) -> np.ndarray:
        """Of each row, float64."""
        a = np.asarray(a, np.float64)
        return self.l1 * np.abs(a).sum(axis=1) + self.l2 * (a * a).sum(axis=1)


@dataclass(frozen=True, init=False, repr=False)
class Residual:
    """a = x + f(x), where f is a stack of layers as wide at its end as at its start (He et al., 2016).

    With a `drop_rate` (stochastic depth, after Huang et al., 2016, who leave it out for whole batches), training
    leaves the branch out row by row: f(x) counts as 0 with that probability, else as f(x) / (1 - drop_rate); a
    prediction keeps all.

    When to use: more than a few hidden layers; see `pre_norm_block`.

    Parameters
    ----------
    *layers : Layer
        The stack f, which may hold other residuals.
    drop_rate : float
        Probability that a row goes without the branch, in [0, 1).

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


def _check_as_dense(layer) -> None:
    """Check the fields that a layer of dense layers has as a Dense does."""
    dense = Dense(layer.units, layer.use_bias, trainable=layer.trainable)
    for name in ("units", "use_bias", "trainable"):
        object.__setattr__(layer, name, getattr(dense, name))


@dataclass(frozen=True)
class _Gated:
    """Two dense layers side by side, one of which opens and closes the other."""

    units: int
    use_bias: bool = True
    trainable: bool = field(default=True, kw_only=True)
    gate: ClassVar[Activation]

    def __post_init__(self):
        _check_as_dense(self)

    @property
    def branches(self) -> tuple[tuple[Layer, ...], tuple[Layer, ...]]:
        """The layers of the gate and of the value."""
        gate, value = (Dense(self.units, self.use_bias, trainable=self.trainable) for _ in range(2))
        return (gate, self.gate), (value,)


@dataclass(frozen=True)
class GLU(_Gated):
    """Gated linear unit: a = logistic(x W + b) * (x V + c) (Dauphin et al., 2017).

    W and b are the parameters of one dense layer (the gate), V and c those of the next: "dense_0", "dense_1".

    When to use: in place of a Dense and its activation, two thirds as wide for as many parameters.

    Parameters
    ----------
    units : int
        Number of outputs, at least 1.
    use_bias : bool
        Without it b = c = 0.
    trainable : bool
        False: the parameters stay as they are.

    Raises
    ------
    ValueError, TypeError
        `units` is no integer of at least 1, or `use_bias` or `trainable` not True or False.

    Examples
    --------
    >>> from fastmlp import Dense, Sequential
    >>> model = Sequential(GLU(4), Dense(1)).build(2)
    >>> [name for name in model.parameters if name.endswith("weight")]
    ['dense_0.weight', 'dense_1.weight', 'dense_2.weight']
    """

    gate: ClassVar[Activation] = Logistic()


@dataclass(frozen=True)
class GEGLU(_Gated):
    """a = GELU(x W + b) * (x V + c) (Shazeer, 2020); parameters and errors as in `GLU`.

    When to use: as `GLU`, in networks that otherwise use GELU.

    Examples
    --------
    >>> GEGLU(8)
    GEGLU(units=8, use_bias=True, trainable=True)
    """

    gate: ClassVar[Activation] = GELU()


@dataclass(frozen=True)
class SwiGLU(_Gated):
    """a = SiLU(x W + b) * (x V + c) (Shazeer, 2020); parameters and errors as in `GLU`.

    When to use: as `GLU`; the usual one in language models.

    Examples
    --------
    >>> SwiGLU(8, use_bias=False)
    SwiGLU(units=8, use_bias=False, trainable=True)
    """

    gate: ClassVar[Activation] = SiLU()


@dataclass(frozen=True)
class Maxout:
    """a = max_k (x W_k + b_k), unit by unit: a learned activation, of straight pieces (Goodfellow et al., 2013).

    Each piece has the parameters of a dense layer: "dense_0", "dense_1"... The gradient goes to the piece that is the
    largest, of equal ones to the first.

    When to use: with Dropout, for which it was made; it has `pieces` times the parameters of a
    Dense and its activation.

    Parameters
    ----------
    units : int
        Number of outputs, at least 1.
    pieces : int
        Dense layers, at least 2.
    use_bias : bool
        Without it every b_k = 0.
    trainable : bool
        False: the parameters stay as they are.

    Raises
    ------
    ValueError, TypeError
        `units` or `pieces` is no integer of that size, or `use_bias` or `trainable` not True or False.

    Examples
    --------
    >>> from fastmlp import Dense, Sequential
    >>> model = Sequential(Maxout(4, pieces=3), Dense(1)).build(2)
    >>> model.parameters["dense_2.weight"].shape
    (2, 4)
    """

    units: int
    pieces: int = 2
    use_bias: bool = True
    trainable: bool = field(default=True, kw_only=True)

    def __post_init__(self):
        _check_as_dense(self)
        object.__setattr__(self, "pieces", check_count(self.pieces, "pieces", least=2))

    @property
    def dense(self) -> Dense:
        """A piece. Its values keep their size without a gain for ReLU: a maximum of two has the mean square of each."""
        return Dense(self.units, self.use_bias, "glorot_uniform", trainable=self.trainable)


@dataclass(frozen=True)
class PReLU:
    """a = z where z > 0, else weight z, with a learned slope for each unit (He et al., 2015).

    When to use: where ReLU leaves many units dead, with data enough for the extra parameters.

    Parameters
    ----------
    initial : float
        The slopes' first value.
    trainable : bool
        False: the slopes stay as they are.

    Raises
    ------
    ValueError, TypeError
        `initial` is not a finite number, or `trainable` not True or False.

    Examples
    --------
    >>> import numpy as np
    >>> PReLU().forward(np.array([[-2.0, 2.0]]), {"weight": np.array([0.25, 0.25])}).tolist()
    [[-0.5, 2.0]]
    """

    initial: float = 0.25
    trainable: bool = field(default=True, kw_only=True)
    prefix: ClassVar[str] = "prelu"
    default_initializer: ClassVar[str] = "he_uniform"

    def __post_init__(self):
        check_range("initial", self.initial, float("-inf"), float("inf"), low_open=True)
        object.__setattr__(self, "initial", float(self.initial))
        check_flag("trainable", self.trainable)

    def parameter_shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        """The slopes, (width,)."""
        return {"weight": (width,)}

    def forward(self, z: np.ndarray, p: dict[str, np.ndarray]) -> np.ndarray:
        """a, of the same shape as z."""
        return np.where(z > 0, z, p["weight"] * z)

    def backward(self, z: np.ndarray, p: dict[str, np.ndarray], g: np.ndarray) -> np.ndarray:
        """dL/dz, from g = dL/da."""
        return np.where(z > 0, g, p["weight"] * g)


def pre_norm_block(
    units: int,
    *,
    expansion: int = 4,
    activation: Activation | None = None,
    dropout: float = 0.0,
    drop_rate: float = 0.0,
    last_initializer: str | Initializer = "zeros",
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
    last_initializer : str or Initializer
        Initialiser of the last layer. From zeros the block starts as the identity (Zhang, Dauphin and Ma, 2019);
        with `Scaled("glorot_uniform", 1 / math.sqrt(depth))`, `depth` blocks add up to the size of one (Radford et al.,
        2019).

    Returns
    -------
    Residual

    Raises
    ------
    ValueError, TypeError
        A number out of its range, or an unknown initialiser.

    Examples
    --------
    >>> from fastmlp import Dense, Sequential
    >>> model = Sequential(Dense(32), *[pre_norm_block(32, dropout=0.1) for _ in range(4)], Dense(10))
    """
    layers = [LayerNorm(), Dense(expansion * units), activation or GELU()]
    layers += [Dropout(dropout)] if dropout else []
    return Residual(*layers, Dense(units, kernel_initializer=last_initializer), drop_rate=drop_rate)


Layer = (
    Dense
    | (Dropout | AlphaDropout | Rescaling | Embedding)
    | (GaussianNoise | RandomAffine | MixUp | CutMix)
    | (Normalization | BatchNorm | LayerNorm | RMSNorm | GroupNorm)
    | (Residual | GLU | GEGLU | SwiGLU | Maxout)
    | (PReLU | Softmax | ActivityRegularization | Activation)
)
LAYERS: dict[str, type] = {cls.__name__: cls for cls in (*get_args(Layer)[:-1], *ACTIVATIONS.values())}


@dataclass(frozen=True)
class Fork:
    """Where a branch leaves, in a list of flat layers."""

    name: str


@dataclass(frozen=True)
class Join:
    """Where a residual's branch comes back: with `drop_rate`, for some rows only."""

    drop_rate: float


@dataclass(frozen=True)
class Switch:
    """The end of the first branch and the start of the second, from the same fork."""


@dataclass(frozen=True)
class Multiply:
    """Where two branches come together in their product."""


@dataclass(frozen=True)
class Maximum:
    """Where two branches come together in the larger value of each unit."""


Mark = Fork | Join | Switch | Multiply | Maximum


def flatten(layers: Sequence[Layer]) -> Iterator[Layer | Mark]:
    """The layers in the order of computation, branches between marks.

    >>> list(flatten([Dense(2, False), Residual(Dropout(0.5))]))[1:]
    [Fork(name='Residual'), Dropout(rate=0.5), Join(drop_rate=0.0)]
    """
    for layer in layers:
        if isinstance(layer, Residual):
            yield Fork("Residual")
            yield from flatten(layer.layers)
            yield Join(layer.drop_rate)
        elif isinstance(layer, _Gated):
            yield Fork(type(layer).__name__)
            yield from layer.branches[0]
            yield Switch()
            yield from layer.branches[1]
            yield Multiply()
        elif isinstance(layer, Maxout):
            yield from (Fork("Maxout") for _ in range(layer.pieces - 1))
            yield layer.dense
            for _ in range(layer.pieces - 1):
                yield Switch()
                yield layer.dense
                yield Maximum()
        else:
            yield layer


def width_behind(layer: Layer | Mark, width: int | None) -> int | None:
    """How many values a row of so many columns (None: not known) has behind a flat layer.

    >>> width_behind(Dense(2), None), width_behind(GELU(), 3)
    (2, 3)
    """
    return layer.output_width(width) if hasattr(layer, "output_width") else width


def n_outputs(layers: Sequence[Layer]) -> int:
    """Number of logits: the units of the last Dense.

    >>> n_outputs([Dense(2), GELU()])
    2
    """
    return [layer.units for layer in flatten(layers) if isinstance(layer, Dense)][-1]


def named(layers: Sequence[Layer]) -> Iterator[tuple[str, Layer | Mark]]:
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


_PARTS = {Initializer: initializers.to_config, Schedule: schedules.to_config}


def to_config(layer: Layer) -> dict:
    """The layer as a dictionary that JSON can hold.

    >>> to_config(Dense(2))["units"]
    2
    """
    if isinstance(layer, CustomActivation):
        return user_functions.describe(layer, layer.samples)
    config = configs.describe(layer, LAYERS, "layer", _PARTS)
    if isinstance(layer, Residual):
        config["layers"] = [to_config(inner) for inner in layer.layers]
    return config


def from_config(config: dict, custom_objects: dict | None = None) -> Layer:
    """The layer that `to_config` described; ValueError for an unknown type or unknown fields, or where a
    `CustomActivation` is not among `custom_objects`.
    """
    if config.get("type") == CustomActivation.__name__:
        return user_functions.recall(config, custom_objects, CustomActivation)
    cls, fields = configs.checked(config, LAYERS)
    if cls is Residual:
        layers = [from_config(inner, custom_objects) for inner in fields.pop("layers", ())]
        return Residual(*layers, **fields)
    return configs.build(config, LAYERS, (schedules if issubclass(cls, Dropout) else initializers).from_config)
