"""Optimisers as plain data: the rule of one step, and the numbers of each step that do not depend on a parameter.

The engine applies the rule to a tile of parameters right after its gradient was computed. Numbers that change from step
to step (learning rate, bias corrections) come from `scalars`, in float64, so a schedule is a column of that table:
of the learning rate, and of `momentum`, `beta_1`, `beta_2`, `weight_decay`, `clip_value` and `clip_norm`
as well.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import ClassVar

import numpy as np

from . import configs, schedules
from .errors import check_count, check_epsilon, check_flag, check_range, unknown_name
from .hints import Hinted
from .schedules import Schedule, check_rate


@dataclass(frozen=True)
class Optimizer(Hinted):
    """A rule p, slots = rule(p, g, slots, scalars); see `OPTIMIZERS`.

    Parameters
    ----------
    learning_rate : float or Schedule
        The rate lr, at least 0, or one for each step (`fastmlp.schedules`).
    clip_value : float or Schedule, optional
        c, above 0: each component of the gradient, penalties included, is set to min(max(g, -c), c) before the rule.
        An infinite component becomes c or -c, NaN stays NaN.
    clip_norm : float or Schedule, optional
        c, above 0: the gradient of all trainable parameters, penalties included, is multiplied by
        min(1, c / (|g| + 1e-6)), |g| its Euclidean norm (PyTorch's `clip_grad_norm_`; Pascanu et al., 2013). Not with
        `clip_value`.
    ema_decay : float, optional
        d, in [0, 1): the fit leaves the model with an exponential moving average of its parameters: those of a step
        count d times as much as those of the step after it, a += (1 - d) / (1 - d^t) (p - a) after step t. The division
        takes away the influence of the initial parameters, as Adam's correction does (after Polyak and Juditsky, 1992,
        whose average is uniform). The steps themselves do not see it; metrics of validation data do.
    """

    name: ClassVar[str] = ""
    rule: ClassVar[str] = ""  # the kernel; also the cache's name for it
    n_slots: ClassVar[int] = 0
    weight_decay = 0.0  # W *= 1 - lr weight_decay before each update, never biases; a field where it may be set
    learning_rate: float | Schedule = 0.001
    clip_value: float | Schedule | None = field(default=None, kw_only=True)
    clip_norm: float | Schedule | None = field(default=None, kw_only=True)
    ema_decay: float | None = field(default=None, kw_only=True)

    def __post_init__(self):
        configs.plain_numbers(self)
        check_rate("learning_rate", self.learning_rate)
        for name in ("clip_value", "clip_norm"):
            if getattr(self, name) is not None:
                _check_number(name, getattr(self, name), 0, np.inf, low_open=True)
        if self.clip_value is not None and self.clip_norm is not None:
            raise ValueError(
                f"`clip_value` and `clip_norm` exclude each other; got {self.clip_value!r} and {self.clip_norm!r}."
            )
        if self.ema_decay is not None:
            check_range("ema_decay", self.ema_decay, 0, 1)

    def at(self, step: np.ndarray, steps_per_epoch: int) -> Optimizer:
        """This optimiser with the values of all schedules but the learning rate's for these steps, counted from 0.

        Raises
        ------
        ValueError
            A schedule leaves the range of its number.
        """
        following = {n: v for n, v in vars(self).items() if isinstance(v, Schedule) and n != "learning_rate"}
        if not following:
            return self
        resolved = copy.copy(self)
        for name, schedule in following.items():
            values = schedules.rates(schedule, step, steps_per_epoch)
            for extreme in (values.min(), values.max()):
                replace(self, **{name: float(extreme)})  # raises where it is out of range
            constant = isinstance(schedule, schedules.Constant)  # the number itself
            object.__setattr__(resolved, name, float(values[0]) if constant else values)
        return resolved

    @property
    def structure(self) -> tuple:
        """What a plan has of it: all but numbers that may be others in each step."""
        return *self._kind, self.clip_value is None, self.clip_norm is None, self.weight_decay != 0

    @property
    def _kind(self) -> tuple:
        return type(self), self.rule, self.n_slots, self.ema_decay is None

    def goes_on_from(self, before: Optimizer) -> bool:
        """Whether its steps may follow those of the other one: by the same rule, without a schedule that begins now."""
        if self == before or self._kind != before._kind:
            return self == before
        changed = [f.name for f in fields(self) if getattr(self, f.name) != getattr(before, f.name)]
        return not any(isinstance(getattr(self, name), Schedule) for name in changed)

    @property
    def scheduled(self) -> bool:
        """Whether one of its numbers follows a schedule."""
        return any(isinstance(value, Schedule) for value in vars(self).values())

    def scalars(self, learning_rate: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Numbers for each step, float64 (n_steps, k) with k of 5 at most; `step` counts from 1 over the whole fit."""
        raise NotImplementedError


def _check_number(argument: str, value: float | Schedule, low: float, high: float, low_open: bool = False) -> None:
    """As `check_range`, of a number that may follow a schedule, whose values are checked when they are known."""
    if not isinstance(value, Schedule):
        check_range(argument, value, low, high, low_open=low_open)


@lru_cache(maxsize=64)
def _powers(base: float) -> np.ndarray:
    """base^0 to base^1024, each the product of the last one and base."""
    return np.multiply.accumulate(np.append(1.0, np.full(1024, base)))


def power(base: float | np.ndarray, step: np.ndarray) -> np.ndarray | np.float64:
    """base^step for ascending whole steps, a number for one step, by multiplications: a library's powers have other
    last bits on other machines. Of a schedule's numbers, an array, they are the library's.

    >>> power(0.5, np.array([1.0, 3.0])), float(power(0.5, np.array([2.0])))
    (array([0.5  , 0.125]), 0.25)
    """
    if isinstance(base, np.ndarray):
        return base**step
    n, last = int(step[0]) if len(step) == 1 else step.astype(np.int64), int(step[-1])
    table = _powers(base)
    result = table[n & 1023]
    while last > 1023:
        n, last, table = n >> 10, last >> 10, _powers(float(table[1024]))
        result = result * table[n & 1023]
    return result


def _table(step: np.ndarray, *columns: float | np.ndarray) -> np.ndarray:
    table = np.empty((len(step), len(columns)))
    for k, column in enumerate(columns):
        table[:, k] = column
    return table


@dataclass(frozen=True)
class SGD(Optimizer):
    """v = mu v - lr g; p += v. With `nesterov`: p += mu v - lr g (v is the new one). Without momentum: p -= lr g.

    When to use: with momentum and a schedule, where there is time to tune the rate; without, to study.

    Parameters
    ----------
    learning_rate : float or Schedule
        lr, at least 0, or a rate for each step (`fastmlp.schedules`).
    momentum : float or Schedule
        mu, in [0, 1).
    nesterov : bool
        Nesterov's accelerated gradient (Sutskever et al., 2013), written for the gradient at p (Bengio et al., 2013).
    clip_value, clip_norm, ema_decay : float, optional
        Bounds of the gradient, by component or by norm, and a moving average of the parameters: see `Optimizer`.

    Raises
    ------
    ValueError, TypeError
        A number out of its range.

    Examples
    --------
    >>> SGD(0.1, momentum=0.9, clip_value=1.0)
    SGD(learning_rate=0.1, clip_value=1.0, clip_norm=None, ema_decay=None, momentum=0.9, nesterov=False)
    """

    name: ClassVar[str] = "sgd"
    learning_rate: float | Schedule = 0.01
    momentum: float | Schedule = 0.0
    nesterov: bool = False

    def __post_init__(self):
        super().__post_init__()
        _check_number("momentum", self.momentum, 0, 1)
        check_flag("nesterov", self.nesterov)

    @property
    def rule(self) -> str:
        return "sgd" if self.momentum == 0 else "nesterov" if self.nesterov else "momentum"

    @property
    def n_slots(self) -> int:
        return 0 if self.momentum == 0 else 1

    def scalars(self, learning_rate, step):
        return _table(step, learning_rate, self.momentum)


@dataclass(frozen=True)
class Adam(Optimizer):
    """m += (1-b1)(g-m); v += (1-b2)(g^2-v); p -= lr/(1-b1^t) m / (sqrt(v/(1-b2^t)) + eps). Kingma and Ba, 2015.

    When to use: the default: forgives badly scaled gradients and a rate that is not tuned.

    Epsilon is added outside the root to the corrected v, as PyTorch does.

    Parameters
    ----------
    learning_rate : float or Schedule
        lr, at least 0, or a rate for each step (`fastmlp.schedules`).
    beta_1, beta_2 : float or Schedule
        b1 and b2, in [0, 1). The corrections 1 - b1^t of step t take the b1 of that step, as PyTorch's do.
    epsilon : float
        eps, at least 1e-30.
    clip_value, clip_norm, ema_decay : float, optional
        Bounds of the gradient, by component or by norm, and a moving average of the parameters: see `Optimizer`.

    Raises
    ------
    ValueError, TypeError
        A number out of its range.

    Examples
    --------
    >>> from fastmlp.schedules import CosineDecay
    >>> Adam(CosineDecay(1e-3, epochs=20)).learning_rate.epochs
    20
    """

    name: ClassVar[str] = "adam"
    rule: ClassVar[str] = "adam"
    n_slots: ClassVar[int] = 2
    learning_rate: float | Schedule = 0.001
    beta_1: float | Schedule = 0.9
    beta_2: float | Schedule = 0.999
    epsilon: float = 1e-8

    def __post_init__(self):
        super().__post_init__()
        _check_number("beta_1", self.beta_1, 0, 1)
        _check_number("beta_2", self.beta_2, 0, 1)
        check_epsilon(self.epsilon)

    def scalars(self, learning_rate, step):
        # p -= a m / (sqrt(v) + e) with a = lr sqrt(c) / (1-b1^t), e = eps sqrt(c), c = 1-b2^t: one multiplication fewer
        root = np.sqrt(1 - power(self.beta_2, step))
        rate = learning_rate * root / (1 - power(self.beta_1, step))
        return _table(step, rate, 1 - self.beta_1, 1 - self.beta_2, self.epsilon * root)


@dataclass(frozen=True)
class AdamW(Adam):
    """W *= 1 - lr wd; then Adam's step, whose moments never see the decay. Biases do not decay.

    When to use: Adam with a penalty of the weights that acts as meant; larger networks and longer fits.

    Epsilon as in `Adam`. What decays is the `weight` of each `Dense`, and of an `Embedding` all of its table. PyTorch
    decays every parameter that it is given, so biases belong to a group with `weight_decay=0` there.

    Parameters
    ----------
    learning_rate : float or Schedule
        lr, at least 0, or a rate for each step (`fastmlp.schedules`).
    beta_1, beta_2 : float or Schedule
        b1 and b2 of Adam, in [0, 1).
    epsilon : float
        eps of Adam, at least 1e-30.
    weight_decay : float or Schedule
        wd, at least 0.
    clip_value, clip_norm, ema_decay : float, optional
        Bounds of the gradient, by component or by norm, and a moving average of the parameters: see `Optimizer`.

    Raises
    ------
    ValueError, TypeError
        A number out of its range.

    References
    ----------
    Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019.

    Examples
    --------
    >>> AdamW(3e-4, weight_decay=0.1).weight_decay
    0.1
    """

    name: ClassVar[str] = "adamw"
    weight_decay: float | Schedule = 0.01

    def __post_init__(self):
        super().__post_init__()
        _check_number("weight_decay", self.weight_decay, 0, np.inf)


@dataclass(frozen=True)
class AMSGrad(Adam):
    """As Adam, with the largest v of all steps so far in place of v.

    When to use: where Adam's steps grow again late in a fit. Its rate for a parameter never grows.

    Epsilon and the correction of v as in PyTorch's `Adam(amsgrad=True)`: the largest v is found before the correction.

    Parameters
    ----------
    learning_rate : float or Schedule
        lr, at least 0, or a rate for each step (`fastmlp.schedules`).
    beta_1, beta_2 : float or Schedule
        b1 and b2 of Adam, in [0, 1).
    epsilon : float
        eps of Adam, at least 1e-30.
    clip_value, clip_norm, ema_decay : float, optional
        Bounds of the gradient, by component or by norm, and a moving average of the parameters: see `Optimizer`.

    Raises
    ------
    ValueError, TypeError
        A number out of its range.

    References
    ----------
    Reddi, Kale and Kumar, On the Convergence of Adam and Beyond, 2018.

    Examples
    --------
    >>> AMSGrad(1e-3).n_slots
    3
    """

    name: ClassVar[str] = "amsgrad"
    rule: ClassVar[str] = "amsgrad"
    n_slots: ClassVar[int] = 3


@dataclass(frozen=True)
class AdaMax(Adam):
    """m = b1 m + (1-b1) g; u = max(b2 u, |g| + eps); p -= lr m / ((1-b1^t) u).

    When to use: gradients that are mostly small or 0 and now and then large; Adam with the largest gradient, slowly
    forgotten, in place of their mean square.

    Epsilon is added to |g|, as PyTorch does; Keras adds it to u.

    Parameters
    ----------
    learning_rate : float or Schedule
        lr, at least 0, or a rate for each step (`fastmlp.schedules`).
    beta_1, beta_2 : float or Schedule
        b1 and b2, in [0, 1).
    epsilon : float
        eps, at least 1e-30.
    clip_value, clip_norm, ema_decay : float, optional
        Bounds of the gradient, by component or by norm, and a moving average of the parameters: see `Optimizer`.

    Raises
    ------
    ValueError, TypeError
        A number out of its range.

    References
    ----------
    Kingma and Ba, Adam: A Method for Stochastic Optimization, 2015, algorithm 2.

    Examples
    --------
    >>> AdaMax(0.01).beta_2
    0.999
    """

    name: ClassVar[str] = "adamax"
    rule: ClassVar[str] = "adamax"
    learning_rate: float | Schedule = 0.002

    def scalars(self, learning_rate, step):
        return _table(step, learning_rate / (1 - power(self.beta_1, step)), 1 - self.beta_1, self.beta_2, self.epsilon)


@dataclass(frozen=True)
class NAdam(Adam):
    """Adam with Nesterov's momentum: p -= lr (mu' m / (1 - M mu') + (1 - mu) g / (1 - M)) / (sqrt(v/(1-b2^t)) + eps).

    When to use: in place of Adam; often a little faster at first.

    mu = b1 (1 - 0.96^(t psi) / 2) is the momentum of step t, mu' that of step t + 1, M the product of mu over the steps
    up to t; m and v are Adam's. PyTorch's formulas; epsilon as in `Adam`.

    Parameters
    ----------
    learning_rate : float or Schedule
        lr, at least 0, or a rate for each step (`fastmlp.schedules`).
    beta_1, beta_2 : float
        b1 and b2, in [0, 1); beta_2 may follow a schedule (M has no closed form with another b1 at each step).
    epsilon : float
        eps, at least 1e-30.
    momentum_decay : float
        psi, at least 0.
    clip_value, clip_norm, ema_decay : float, optional
        Bounds of the gradient, by component or by norm, and a moving average of the parameters: see `Optimizer`.

    Raises
    ------
    ValueError, TypeError
        A number out of its range.

    References
    ----------
    Dozat, Incorporating Nesterov Momentum into Adam, 2016.

    Examples
    --------
    >>> NAdam(1e-3).momentum_decay
    0.004
    """

    name: ClassVar[str] = "nadam"
    rule: ClassVar[str] = "nadam"
    learning_rate: float | Schedule = 0.002
    momentum_decay: float = 0.004

    def __post_init__(self):
        super().__post_init__()
        check_range("beta_1", self.beta_1, 0, 1)
        check_range("momentum_decay", self.momentum_decay, 0, np.inf)

    def scalars(self, learning_rate, step):
        step = np.asarray(step, np.float64)
        rate = self.momentum_decay * np.log(0.96)
        mu, following = (self.beta_1 * (1 - 0.5 * np.exp(rate * t)) for t in (step, step + 1))
        product = self._product(step, rate)
        root = np.sqrt(1 - power(self.beta_2, step))
        of_gradient = learning_rate * root * (1 - mu) / (1 - product)
        of_moment = learning_rate * root * following / (1 - product * following)
        return _table(step, of_gradient, 1 - self.beta_1, 1 - self.beta_2, self.epsilon * root, of_moment)

    def _product(self, step: np.ndarray, rate: float) -> np.ndarray:
        """b1^t times the product of 1 - exp(rate i) / 2 for i = 1 .. t, in closed form, so that a fit may go on at any
        step: log(1 - x) = -(x + x^2 / 2 + ...), and each power is a geometric series in i."""
        logarithm = np.zeros_like(step)
        for k in range(60, 0, -1):  # 2^-60 / 60 is below the last bit
            series = step if rate == 0 else np.exp(k * rate) * np.expm1(k * rate * step) / np.expm1(k * rate)
            logarithm -= 0.5**k / k * series
        return power(self.beta_1, step) * np.exp(logarithm)


@dataclass(frozen=True)
class AdaGrad(Optimizer):
    """v += g^2; p -= lr g / (sqrt(v) + eps).

    When to use: sparse features; its rate only ever falls.

    Epsilon is added outside the root, as PyTorch does.

    Parameters
    ----------
    learning_rate : float or Schedule
        lr, at least 0, or a rate for each step (`fastmlp.schedules`).
    epsilon : float
        eps, at least 1e-30.
    clip_value, clip_norm, ema_decay : float, optional
        Bounds of the gradient, by component or by norm, and a moving average of the parameters: see `Optimizer`.

    Raises
    ------
    ValueError, TypeError
        A number out of its range.

    References
    ----------
    Duchi, Hazan and Singer, Adaptive Subgradient Methods for Online Learning and Stochastic Optimization, 2011.

    Examples
    --------
    >>> AdaGrad(0.1)
    AdaGrad(learning_rate=0.1, clip_value=None, clip_norm=None, ema_decay=None, epsilon=1e-10)
    """

    name: ClassVar[str] = "adagrad"
    rule: ClassVar[str] = "adagrad"
    n_slots: ClassVar[int] = 1
    learning_rate: float | Schedule = 0.01
    epsilon: float = 1e-10

    def __post_init__(self):
        super().__post_init__()
        check_epsilon(self.epsilon)

    def scalars(self, learning_rate, step):
        return _table(step, learning_rate, self.epsilon)


@dataclass(frozen=True)
class AdaDelta(Optimizer):
    """v = rho v + (1-rho) g^2; c = g sqrt((d + eps) / (v + eps)); d = rho d + (1-rho) c^2; p -= lr c.

    When to use: to study what a rate in the parameters' own units does. None has to be chosen; it is slow at first, as
    d begins at 0.

    Parameters
    ----------
    learning_rate : float or Schedule
        lr, at least 0, or a rate for each step (`fastmlp.schedules`); the paper has none, which is 1.
    rho : float
        Decay of v and d, in [0, 1).
    epsilon : float
        eps, at least 1e-30.
    clip_value, clip_norm, ema_decay : float, optional
        Bounds of the gradient, by component or by norm, and a moving average of the parameters: see `Optimizer`.

    Raises
    ------
    ValueError, TypeError
        A number out of its range.

    References
    ----------
    Zeiler, ADADELTA: An Adaptive Learning Rate Method, 2012. The defaults are PyTorch's.

    Examples
    --------
    >>> AdaDelta(rho=0.95).learning_rate
    1.0
    """

    name: ClassVar[str] = "adadelta"
    rule: ClassVar[str] = "adadelta"
    n_slots: ClassVar[int] = 2
    learning_rate: float | Schedule = 1.0
    rho: float = 0.9
    epsilon: float = 1e-6

    def __post_init__(self):
        super().__post_init__()
        check_range("rho", self.rho, 0, 1)
        check_epsilon(self.epsilon)

    def scalars(self, learning_rate, step):
        return _table(step, learning_rate, 1 - self.rho, self.epsilon)


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """v += (1-rho)(g^2-v); b = mu b + g / (sqrt(v) + eps); p -= lr b.

    When to use: noisy or changing objectives; Adam without momentum.

    With `centered`, c += (1-rho)(g-c) and sqrt(v - c^2) takes the place of sqrt(v). Epsilon is added outside the root,
    as PyTorch does.

    Parameters
    ----------
    learning_rate : float or Schedule
        lr, at least 0, or a rate for each step (`fastmlp.schedules`).
    rho : float
        Decay of v, and of c, in [0, 1).
    momentum : float or Schedule
        mu, in [0, 1).
    epsilon : float
        eps, at least 1e-30.
    centered : bool
        Whether the root is that of v - c^2, the variance of the gradient.
    clip_value, clip_norm, ema_decay : float, optional
        Bounds of the gradient, by component or by norm, and a moving average of the parameters: see `Optimizer`.

    Raises
    ------
    ValueError, TypeError
        A number out of its range.

    References
    ----------
    Tieleman and Hinton, Lecture 6.5 of Neural Networks for Machine Learning, 2012; Graves, Generating Sequences With
    Recurrent Neural Networks, 2013 (centered).

    Examples
    --------
    >>> RMSprop(1e-3, momentum=0.9).n_slots
    2
    """

    name: ClassVar[str] = "rmsprop"
    learning_rate: float | Schedule = 0.001
    rho: float = 0.99
    momentum: float | Schedule = 0.0
    epsilon: float = 1e-8
    centered: bool = False

    def __post_init__(self):
        super().__post_init__()
        check_range("rho", self.rho, 0, 1)
        _check_number("momentum", self.momentum, 0, 1)
        check_epsilon(self.epsilon)
        check_flag("centered", self.centered)

    @property
    def rule(self) -> str:
        return "rmsprop" + ".momentum" * bool(self.momentum != 0) + ".centered" * bool(self.centered)

    @property
    def n_slots(self) -> int:
        return 1 + bool(self.momentum != 0) + bool(self.centered)

    def scalars(self, learning_rate, step):
        return _table(step, learning_rate, 1 - self.rho, self.epsilon, self.momentum)


@dataclass(frozen=True)
class Lion(Optimizer):
    """W *= 1 - lr wd; p -= lr sign(b1 m + (1-b1) g); m = b2 m + (1-b2) g. Biases do not decay.

    When to use: large batches and little memory: one slot. It needs a smaller rate and a larger decay than AdamW.

    There is no epsilon: each parameter moves by lr in every step, or not at all where the sign is that of 0.

    Parameters
    ----------
    learning_rate : float or Schedule
        lr, at least 0, or a rate for each step (`fastmlp.schedules`); a third to a tenth of Adam's.
    beta_1, beta_2 : float or Schedule
        b1 and b2, in [0, 1).
    weight_decay : float or Schedule
        wd, at least 0.
    clip_value, clip_norm, ema_decay : float, optional
        Bounds of the gradient, by component or by norm, and a moving average of the parameters: see `Optimizer`.

    Raises
    ------
    ValueError, TypeError
        A number out of its range.

    References
    ----------
    Chen et al., Symbolic Discovery of Optimization Algorithms, 2023.

    Examples
    --------
    >>> Lion(1e-4).n_slots
    1
    """

    name: ClassVar[str] = "lion"
    rule: ClassVar[str] = "lion"
    n_slots: ClassVar[int] = 1
    learning_rate: float | Schedule = 0.0001
    beta_1: float | Schedule = 0.9
    beta_2: float | Schedule = 0.99
    weight_decay: float | Schedule = 0.0

    def __post_init__(self):
        super().__post_init__()
        _check_number("beta_1", self.beta_1, 0, 1)
        _check_number("beta_2", self.beta_2, 0, 1)
        _check_number("weight_decay", self.weight_decay, 0, np.inf)

    def scalars(self, learning_rate, step):
        return _table(step, learning_rate, 1 - self.beta_1, 1 - self.beta_2)


@dataclass(frozen=True)
class Rprop(Optimizer):
    """s *= eta_plus where g has the sign it had, eta_minus where it has not, and g = 0 there; p -= sign(g) s.

    When to use: batches of all rows, where a gradient's sign is no accident; needs no tuned rate. RMSprop is what came
    of it for small batches.

    Parameters
    ----------
    learning_rate : float or Schedule
        s in the first step, at least 0; of a schedule, that step's. Later ones count only where they are 0: nothing
        moves then.
    eta_minus, eta_plus : float
        Factors of s: in (0, 1) and above 1.
    min_step, max_step : float
        Bounds of s, above 0.
    clip_value, clip_norm, ema_decay : float, optional
        Bounds of the gradient, by component or by norm, and a moving average of the parameters: see `Optimizer`.

    Raises
    ------
    ValueError, TypeError
        A number out of its range, or `min_step` above `max_step`.

    References
    ----------
    Riedmiller and Braun, A direct adaptive method for faster backpropagation learning: the RPROP algorithm, 1993; the
    gradient is forgotten where its sign has changed as in iRprop-, Igel and Huesken, Improving the Rprop learning
    algorithm, 2000. The defaults are PyTorch's.

    Examples
    --------
    >>> Rprop(0.1).eta_plus
    1.2
    """

    name: ClassVar[str] = "rprop"
    rule: ClassVar[str] = "rprop"
    n_slots: ClassVar[int] = 2
    learning_rate: float | Schedule = 0.01
    eta_minus: float = 0.5
    eta_plus: float = 1.2
    min_step: float = 1e-6
    max_step: float = 50.0

    def __post_init__(self):
        super().__post_init__()
        check_range("eta_minus", self.eta_minus, 0, 1, low_open=True)
        check_range("eta_plus", self.eta_plus, 1, np.inf, low_open=True)
        check_range("max_step", self.max_step, 0, np.inf, low_open=True)
        check_range("min_step", self.min_step, 0, self.max_step, low_open=True, high_closed=True)

    def scalars(self, learning_rate, step):
        moves = np.asarray(learning_rate) > 0
        first = np.where(step == 1, learning_rate, 0.0)
        return _table(step, first, self.eta_plus, self.eta_minus, moves * self.min_step, moves * self.max_step)


OPTIMIZERS: dict[str, type[Optimizer]] = {
    cls.name: cls for cls in (SGD, Adam, AdamW, AMSGrad, AdaMax, NAdam, AdaGrad, AdaDelta, RMSprop, Rprop, Lion)
}


@dataclass(frozen=True)
class LBFGS(Hinted):
    """Limited-memory BFGS over all rows: each epoch is an iteration, a step along -H g, with H an approximate inverse
    of the Hessian from the last gradients, and its length from a line search.

    When to use: up to some ten thousand rows, a smooth network and loss, and where the last digits of the loss count:
    curves, physics, small tables. No rate has to be chosen. Of large data, batches learn more in the same time.

    For `Sequential.fit`: `epochs` are the iterations at most, and a fit ends earlier where the loss falls no more, as
    far as `gtol`, `ftol` and a line search can tell;
    `batch_size` and `shuffle` mean nothing. The loss of an epoch is that after its iteration. SciPy's L-BFGS-B does the
    work, in float64, with the losses and gradients of the model's dtype: Sequential(..., dtype="float64") comes closer
    to the minimum. Layers that draw numbers in each step (dropout, noise, augmentation), a `BatchNorm` that is not
    frozen, `max_norm`, `learning_rate_multiplier`, `BackupAndRestore` and device="cuda" do not go with it. Parameters
    that a callback sets are not gone on with.

    Parameters
    ----------
    maxcor : int
        Gradients that H is made of, at least 1.
    gtol : float
        The fit ends where no component of the gradient is larger; at least 0.
    ftol : float
        It ends where an iteration lowers the loss by less than this share of it (of 1, where the loss is smaller); at
        least 0.

    Raises
    ------
    ValueError, TypeError
        A number out of its range.

    References
    ----------
    Byrd, Lu, Nocedal and Zhu, A limited memory algorithm for bound constrained optimization, 1995. The defaults are
    SciPy's.

    Examples
    --------
    >>> LBFGS(gtol=1e-8)
    LBFGS(maxcor=10, gtol=1e-08, ftol=2.220446049250313e-09)
    """

    name: ClassVar[str] = "lbfgs"
    maxcor: int = 10
    gtol: float = 1e-5
    ftol: float = 1e7 * 2.0**-52

    def __post_init__(self):
        configs.plain_numbers(self)
        check_count(self.maxcor, "maxcor")
        check_range("gtol", self.gtol, 0, np.inf)
        check_range("ftol", self.ftol, 0, np.inf)


OF_ALL_ROWS: dict[str, type[LBFGS]] = {LBFGS.name: LBFGS}


def get(optimizer: str | Optimizer, argument: str = "optimizer") -> Optimizer:
    """The optimiser of that name with its defaults, or the object itself."""
    return _get(optimizer, argument, OPTIMIZERS)


def get_any(optimizer: str | Optimizer | LBFGS, argument: str = "optimizer") -> Optimizer | LBFGS:
    """As `get`, or one of all rows."""
    return _get(optimizer, argument, OPTIMIZERS | OF_ALL_ROWS)


def _get(optimizer, argument: str, known: dict):
    if isinstance(optimizer, tuple(known.values())):
        return optimizer
    if not isinstance(optimizer, str):
        raise ValueError(
            f"`{argument}` must be one of {', '.join(map(repr, known))}, or an optimiser such as Adam(); got "
            f"{optimizer!r}{', the class: did you forget ()?' if isinstance(optimizer, type) else '.'}"
        )
    if optimizer not in known:
        raise unknown_name(argument, optimizer, known)
    return _by_default(optimizer)


@lru_cache
def _by_default(name: str) -> Optimizer | LBFGS:
    return (OPTIMIZERS | OF_ALL_ROWS)[name]()


def to_config(optimizer: Optimizer) -> dict:
    """The optimiser as a dictionary that JSON can hold, its schedule too.

    >>> to_config(AdaGrad(0.1))["learning_rate"]
    0.1
    """
    return configs.describe(optimizer, _CLASSES, "optimizer", {Schedule: schedules.to_config})


def from_config(config: dict) -> Optimizer:
    """The optimiser that `to_config` described; ValueError or TypeError for anything else."""
    return configs.build(config, _CLASSES, schedules.from_config)


_CLASSES = {cls.__name__: cls for cls in OPTIMIZERS.values()}
