"""Numbers that change from step to step, learning rates first: schedules as plain data, functions of the step's number.

An optimiser takes one where it takes a learning rate: `Adam(CosineDecay(1e-3, epochs=20))`; so do `momentum`,
`weight_decay`, `clip_value`, `clip_norm` and the rate of a `Dropout`, and "learning_rate" means that number then. A
length is given in `steps` or in `epochs`, never in both; an epoch has ceil(n_samples / batch_size) steps. Steps are
counted from 0 over a fit; a fit that goes on from a `Training.state` counts on. Where a callback sets
`training.learning_rate` to a number, the schedule of the rate ends and the number holds from the next step on.

The rates are computed in float64 before the steps run, as a column of the table that kernels read, so a schedule costs
the steps nothing and compiles nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from . import configs
from .errors import check_count, check_range
from .hints import Hinted


@dataclass(frozen=True, eq=False)  # one of your own that is no dataclass is equal to itself only
class Schedule(Hinted):
    """Override `__call__`: it gives the number of each step, as an array.

    `step` is an array, float64 (n,), of numbers of steps, counted from 0 over the whole fit; `step // steps_per_epoch`
    are their epochs, counted from 0. The result, (n,) as well, has finite numbers of at least 0. NumPy computes all of
    them at once: `np.where(step < 10, a, b)` instead of `a if step < 10 else b`, `np.minimum` instead of `min`, and
    `np.full(len(step), a)` for a number that stays.

    Let it depend on nothing but its arguments and its fields, for it is asked more than once for a step, the first time
    when an optimiser takes it. A frozen dataclass prints, compares and pickles as what it is. A file holds no code: a
    `Dropout` whose rate follows a schedule of your own cannot be saved.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> import numpy as np
    >>> from fastmlp import SGD
    >>> from fastmlp.schedules import Schedule
    >>> @dataclass(frozen=True)
    ... class DecayFromEpoch(Schedule):
    ...     learning_rate: float
    ...     first: int
    ...
    ...     def __call__(self, step, steps_per_epoch):
    ...         epoch = step // steps_per_epoch
    ...         return np.where(epoch < self.first, 1.0, np.exp(-0.1 * (epoch - self.first))) * self.learning_rate
    >>> DecayFromEpoch(0.1, first=2)(np.arange(4.0), 1).round(4).tolist()
    [0.1, 0.1, 0.1, 0.0905]
    >>> optimizer = SGD(DecayFromEpoch(0.1, first=10), momentum=0.9)
    """

    def __call__(self, step: np.ndarray, steps_per_epoch: int) -> np.ndarray:
        """Rates of the steps with these numbers.

        Parameters
        ----------
        step : ndarray (n,), float64
            Counted from 0 over the whole fit.
        steps_per_epoch : int

        Returns
        -------
        rates : ndarray (n,), float64
            Finite, at least 0.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no __call__")


@dataclass(frozen=True)
class Constant(Schedule):
    """rate(t) = learning_rate, as if it were the number itself.

    When to use: short fits, Adam, and to compare with.

    Raises
    ------
    ValueError, TypeError
        `learning_rate` below 0, not finite, or no number.

    Examples
    --------
    >>> Constant(0.1)(np.arange(3.0), 1)
    array([0.1, 0.1, 0.1])
    """

    learning_rate: float

    def __post_init__(self):
        configs.plain_numbers(self)
        check_range("learning_rate", self.learning_rate, 0, np.inf)

    def __call__(self, step, steps_per_epoch):
        return np.full(len(step), float(self.learning_rate))


@dataclass(frozen=True)
class _Timed(Schedule):
    """A schedule that has a length L, in steps: `steps`, or `epochs` times the steps of an epoch."""

    steps: int | None = field(default=None, kw_only=True)
    epochs: float | None = field(default=None, kw_only=True)

    def __post_init__(self):
        configs.plain_numbers(self)
        if (self.steps is None) == (self.epochs is None):
            given = "neither" if self.steps is None else f"steps={self.steps!r}, epochs={self.epochs!r}"
            raise ValueError(f"{type(self).__name__} needs a length, `steps` or `epochs`, one of them; got {given}.")
        if self.epochs is not None:
            check_range("epochs", self.epochs, 0, np.inf, low_open=True)
        else:
            check_count(self.steps, "steps")

    def length(self, steps_per_epoch: int) -> float:
        """L in steps; a fraction of an epoch need not be a whole number of them."""
        return float(self.steps) if self.epochs is None else float(self.epochs) * steps_per_epoch


@dataclass(frozen=True)
class StepDecay(_Timed):
    """rate(t) = learning_rate factor^floor(t / L): a drop after every L steps.

    When to use: where it is known when the loss stalls.

    Parameters
    ----------
    learning_rate : float
        Of the first steps, at least 0.
    factor : float
        In (0, 1].
    steps, epochs : int, float
        L; one of them.

    Raises
    ------
    ValueError, TypeError
        A number out of its range, or not exactly one of `steps` and `epochs`.

    Examples
    --------
    >>> StepDecay(0.1, factor=0.5, steps=2)(np.arange(5.0), 100)
    array([0.1  , 0.1  , 0.05 , 0.05 , 0.025])
    """

    learning_rate: float
    factor: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        check_range("learning_rate", self.learning_rate, 0, np.inf)
        check_range("factor", self.factor, 0, 1, low_open=True, high_closed=True)

    def __call__(self, step, steps_per_epoch):
        return self.learning_rate * np.power(self.factor, np.floor(step / self.length(steps_per_epoch)))


@dataclass(frozen=True)
class PiecewiseConstantDecay(Schedule):
    """rate(t) = values[k], where k of the boundaries are at most t: another number from each boundary on.

    When to use: a recipe that names its epochs, such as 0.1, and a tenth of it after 30 and after 60.

    Parameters
    ----------
    values : sequence of float
        The rates, each at least 0: one more than there are boundaries.
    steps, epochs : sequence of int, of float
        The boundaries, growing, above 0; one of them.

    Raises
    ------
    ValueError, TypeError
        A number out of its range, boundaries that do not grow, another number of them, or not exactly one of `steps`
        and `epochs`.

    Examples
    --------
    >>> PiecewiseConstantDecay((0.1, 0.01, 0.001), epochs=(1, 2))(np.arange(5.0), 2)
    array([0.1  , 0.1  , 0.01 , 0.01 , 0.001])
    """

    values: tuple[float, ...]
    steps: tuple[int, ...] | None = field(default=None, kw_only=True)
    epochs: tuple[float, ...] | None = field(default=None, kw_only=True)

    def __post_init__(self):
        if (self.steps is None) == (self.epochs is None):
            given = "neither" if self.steps is None else f"steps={self.steps!r}, epochs={self.epochs!r}"
            raise ValueError(f"PiecewiseConstantDecay needs boundaries, `steps` or `epochs`, one of them; got {given}.")
        name = "steps" if self.epochs is None else "epochs"
        for argument in ("values", name):
            given = getattr(self, argument)
            if isinstance(given, str) or not np.iterable(given):
                raise TypeError(f"`{argument}` must be a sequence of numbers; got {given!r}.")
            object.__setattr__(self, argument, tuple(configs.plain_number(number) for number in given))
        boundaries = getattr(self, name)
        for k, value in enumerate(self.values):
            check_range(f"values[{k}]", value, 0, np.inf)
        for k, boundary in enumerate(boundaries):
            if name == "steps":
                check_count(boundary, f"steps[{k}]")
            else:
                check_range(f"epochs[{k}]", boundary, 0, np.inf, low_open=True)
        if len(self.values) != len(boundaries) + 1 or list(boundaries) != sorted(set(boundaries)):
            raise ValueError(
                f"`{name}` must be growing boundaries, one fewer than `values`; got {name}={boundaries!r} and values="
                f"{self.values!r}."
            )

    def __call__(self, step, steps_per_epoch):
        boundaries = self.steps if self.epochs is None else np.multiply(self.epochs, steps_per_epoch)
        return np.array(self.values, np.float64)[np.searchsorted(boundaries, step, side="right")]


@dataclass(frozen=True)
class ExponentialDecay(_Timed):
    """rate(t) = learning_rate factor^(t / L): smaller by `factor` with every L steps, a little at each.

    When to use: a smooth fall without an end.

    Parameters
    ----------
    learning_rate : float
        Of the first step, at least 0.
    factor : float
        In (0, 1].
    steps, epochs : int, float
        L; one of them.

    Raises
    ------
    ValueError, TypeError
        A number out of its range, or not exactly one of `steps` and `epochs`.

    Examples
    --------
    >>> ExponentialDecay(0.1, factor=0.25, epochs=1)(np.arange(3.0), 2)
    array([0.1  , 0.05 , 0.025])
    """

    learning_rate: float
    factor: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        check_range("learning_rate", self.learning_rate, 0, np.inf)
        check_range("factor", self.factor, 0, 1, low_open=True, high_closed=True)

    def __call__(self, step, steps_per_epoch):
        return self.learning_rate * np.power(self.factor, step / self.length(steps_per_epoch))


@dataclass(frozen=True)
class InverseScaling(_Timed):
    """rate(t) = learning_rate / (1 + t / L)^power.

    When to use: streams, where the number of steps is not known.

    Parameters
    ----------
    learning_rate : float
        Of the first step, at least 0.
    power : float
        At least 0; 1/2 suits convex problems (Zinkevich, 2003), between 1/2 and 1 the steps become small enough to
        settle (Robbins and Monro, 1951).
    steps, epochs : int, float
        L; one of them.

    Raises
    ------
    ValueError, TypeError
        A number out of its range, or not exactly one of `steps` and `epochs`.

    Examples
    --------
    >>> InverseScaling(0.1, power=1.0, steps=1)(np.arange(3.0), 100).round(4)
    array([0.1   , 0.05  , 0.0333])
    """

    learning_rate: float
    power: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        check_range("learning_rate", self.learning_rate, 0, np.inf)
        check_range("power", self.power, 0, np.inf)

    def __call__(self, step, steps_per_epoch):
        return self.learning_rate / np.power(1 + step / self.length(steps_per_epoch), self.power)


@dataclass(frozen=True)
class PolynomialDecay(_Timed):
    """rate(t) = final + (learning_rate - final) (1 - min(t / L, 1))^power, a straight line where power = 1.

    When to use: a linear decay to 0, often behind a `Warmup`, for a known number of epochs.

    Parameters
    ----------
    learning_rate : float
        Of the first step, at least 0.
    final : float
        Of the steps from L on, at least 0.
    power : float
        Above 0.
    steps, epochs : int, float
        L; one of them.

    Raises
    ------
    ValueError, TypeError
        A number out of its range, or not exactly one of `steps` and `epochs`.

    Examples
    --------
    >>> PolynomialDecay(0.1, steps=4)(np.arange(6.0), 100).round(3)
    array([0.1  , 0.075, 0.05 , 0.025, 0.   , 0.   ])
    """

    learning_rate: float
    final: float = 0.0
    power: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        check_range("learning_rate", self.learning_rate, 0, np.inf)
        check_range("final", self.final, 0, np.inf)
        check_range("power", self.power, 0, np.inf, low_open=True)

    def __call__(self, step, steps_per_epoch):
        left = 1 - np.minimum(step / self.length(steps_per_epoch), 1.0)
        return self.final + (self.learning_rate - self.final) * np.power(left, self.power)


@dataclass(frozen=True)
class CosineDecay(_Timed):
    """rate(t) = final + (learning_rate - final) (1 + cos(pi min(t / L, 1))) / 2; after L steps it stays at `final`.

    When to use: the default for a known number of epochs.

    Parameters
    ----------
    learning_rate : float
        Of the first step, at least 0.
    final : float
        Of the steps from L on, at least 0.
    steps, epochs : int, float
        L; one of them.

    Raises
    ------
    ValueError, TypeError
        A number out of its range, or not exactly one of `steps` and `epochs`.

    References
    ----------
    Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017.

    Examples
    --------
    >>> CosineDecay(0.1, steps=2)(np.arange(4.0), 100).round(3)
    array([0.1 , 0.05, 0.  , 0.  ])
    """

    learning_rate: float
    final: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        check_range("learning_rate", self.learning_rate, 0, np.inf)
        check_range("final", self.final, 0, np.inf)

    def __call__(self, step, steps_per_epoch):
        return _cosine(self.learning_rate, self.final, np.minimum(step / self.length(steps_per_epoch), 1.0))


@dataclass(frozen=True)
class CosineRestarts(_Timed):
    """Cosine decay again and again: cycle k = 0, 1, ... takes L growth^k steps, from learning_rate to `final`.

    When to use: several good networks from one fit, or a fit that may stop after any cycle.

    With s steps done of a cycle of T: rate = final + (learning_rate - final) (1 + cos(pi s / T)) / 2.

    Parameters
    ----------
    learning_rate : float
        Of each cycle's first step, at least 0.
    final : float
        What a cycle falls to, at least 0.
    growth : float
        How much longer each cycle is than the one before, at least 1.
    steps, epochs : int, float
        L, of the first cycle; one of them.

    Raises
    ------
    ValueError, TypeError
        A number out of its range, or not exactly one of `steps` and `epochs`.

    References
    ----------
    Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017.

    Examples
    --------
    >>> CosineRestarts(0.1, growth=2, steps=1)(np.arange(4.0), 100).round(3)
    array([0.1 , 0.1 , 0.05, 0.1 ])
    """

    learning_rate: float
    final: float = 0.0
    growth: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        check_range("learning_rate", self.learning_rate, 0, np.inf)
        check_range("final", self.final, 0, np.inf)
        check_range("growth", self.growth, 1, np.inf)

    def __call__(self, step, steps_per_epoch):
        length, growth = self.length(steps_per_epoch), self.growth
        if growth == 1:
            return _cosine(self.learning_rate, self.final, np.mod(step, length) / length)

        def begin(k):
            return length * (np.power(growth, k) - 1) / (growth - 1)

        k = np.floor(np.log1p((growth - 1) * step / length) / np.log(growth))
        k += begin(k + 1) <= step  # where the logarithm was rounded down
        k -= begin(k) > step
        way = np.clip((step - begin(k)) / (length * np.power(growth, k)), 0.0, 1.0)
        return _cosine(self.learning_rate, self.final, way)


@dataclass(frozen=True)
class Cyclic(_Timed):
    """From `base` up to learning_rate and down again, in straight lines, in each cycle k = 0, 1, ... of L steps.

    With s steps done of a cycle: rate = base + (learning_rate - base) factor^k (1 - |2 s / L - 1|).

    When to use: a fit of unknown length, with rates between those that `find_learning_rate` shows to be of use.

    Parameters
    ----------
    learning_rate : float
        The top, in the middle of the first cycle, at least 0.
    base : float
        Of each cycle's first step, at least 0. Above `learning_rate`, a cycle goes down first: for a `momentum`.
    factor : float
        By how much each cycle is lower than the one before, in (0, 1]; 1/2 is "triangular2".
    steps, epochs : int, float
        L, of a whole cycle, twice PyTorch's `step_size_up`; one of them. At least 2 steps.

    Raises
    ------
    ValueError, TypeError
        A number out of its range, or not exactly one of `steps` and `epochs`; when a fit begins, so many epochs are
        less than 2 steps.

    References
    ----------
    Smith, Cyclical Learning Rates for Training Neural Networks, 2017.

    Examples
    --------
    >>> Cyclic(0.1, factor=0.5, steps=4)(np.arange(8.0), 100)
    array([0.   , 0.05 , 0.1  , 0.05 , 0.   , 0.025, 0.05 , 0.025])
    """

    learning_rate: float
    base: float = 0.0
    factor: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        check_range("learning_rate", self.learning_rate, 0, np.inf)
        check_range("base", self.base, 0, np.inf)
        check_range("factor", self.factor, 0, 1, low_open=True, high_closed=True)

    def __call__(self, step, steps_per_epoch):
        length = self.length(steps_per_epoch)
        if length < 2:  # of which all would be at the base
            raise ValueError(f"{self!r} needs cycles of 2 steps at least; they have {length:g}.")
        cycle, way = np.divmod(step / length, 1.0)
        height = (self.learning_rate - self.base) * np.power(self.factor, cycle)
        return self.base + height * (1 - np.abs(2 * way - 1))


@dataclass(frozen=True)
class OneCycle(_Timed):
    """Up from learning_rate / divide to learning_rate, then down to learning_rate / (divide final_divide), by cosines.

    When to use: few epochs, at large rates.

    The top is at step warm L - 1, the bottom at step L - 1 (PyTorch's OneCycleLR); from then on the rate stays there.

    Parameters
    ----------
    learning_rate : float
        The largest, at least 0.
    warm : float
        Share of the steps on the way up, in [0, 1).
    divide, final_divide : float
        At least 1.
    steps, epochs : int, float
        L; one of them.

    Raises
    ------
    ValueError, TypeError
        A number out of its range, or not exactly one of `steps` and `epochs`.

    References
    ----------
    Smith and Topin, Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates, 2018.

    Examples
    --------
    >>> OneCycle(0.1, warm=0.5, divide=10, final_divide=10, steps=6)(np.arange(7.0), 100).round(4)
    array([0.01  , 0.055 , 0.1   , 0.0753, 0.0258, 0.001 , 0.001 ])
    """

    learning_rate: float
    warm: float = 0.3
    divide: float = 25.0
    final_divide: float = 1e4

    def __post_init__(self):
        super().__post_init__()
        check_range("learning_rate", self.learning_rate, 0, np.inf)
        check_range("warm", self.warm, 0, 1)
        check_range("divide", self.divide, 1, np.inf)
        check_range("final_divide", self.final_divide, 1, np.inf)

    def __call__(self, step, steps_per_epoch):
        length = self.length(steps_per_epoch)
        first = self.learning_rate / self.divide
        top = max(self.warm * length - 1, 0.0)
        bottom = max(length - 1, top)
        up = _cosine(first, self.learning_rate, np.minimum(step / top, 1.0)) if top > 0 else 0.0 * step
        way = np.clip((step - top) / (bottom - top), 0.0, 1.0) if bottom > top else np.ones_like(step)
        down = _cosine(self.learning_rate, first / self.final_divide, way)
        return np.where(step < top, up, down)


@dataclass(frozen=True)
class Warmup(_Timed):
    """rate(t) = (t + 1) / (N + 1) schedule(0) for t < N, then schedule(t - N): a ramp in front of any schedule.

    When to use: Adam on deep networks, or large batches, whose first steps are too bold.

    Parameters
    ----------
    schedule : Schedule or float
        What follows; its own steps are counted from the end of the ramp.
    steps, epochs : int, float
        N; one of them. A fraction of a step is rounded up.

    Raises
    ------
    ValueError, TypeError
        `schedule` is neither a schedule nor a number of at least 0, or not exactly one of `steps` and `epochs`.

    References
    ----------
    Goyal et al., Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour, 2017.

    Examples
    --------
    >>> Warmup(StepDecay(0.4, factor=0.5, steps=2), steps=3)(np.arange(7.0), 100)
    array([0.1, 0.2, 0.3, 0.4, 0.4, 0.2, 0.2])
    """

    schedule: Schedule | float

    def __post_init__(self):
        super().__post_init__()
        check_rate("schedule", self.schedule)
        if not isinstance(self.schedule, Schedule):
            object.__setattr__(self, "schedule", Constant(self.schedule))

    def __call__(self, step, steps_per_epoch):
        n = math.ceil(self.length(steps_per_epoch))
        after = rates(self.schedule, np.maximum(step - n, 0.0), steps_per_epoch)
        return np.where(step < n, (step + 1) / (n + 1) * after, after)


def counts_epochs(number: Schedule | float | None) -> bool:
    """Whether it is a schedule with a length in epochs.

    >>> counts_epochs(Warmup(CosineDecay(0.1, epochs=9), steps=3))
    True
    """
    own = isinstance(number, Schedule) and getattr(number, "epochs", None) is not None
    return own or (isinstance(number, Warmup) and counts_epochs(number.schedule))


def _cosine(first: float, last: float, way: np.ndarray) -> np.ndarray:
    """From `first` to `last` by half a cosine's wave, `way` from 0 to 1."""
    return last + (first - last) * (0.5 * (1 + np.cos(np.pi * way)))


SCHEDULES: dict[str, type[Schedule]] = {
    cls.__name__: cls
    for cls in (
        Constant,
        StepDecay,
        PiecewiseConstantDecay,
        ExponentialDecay,
        InverseScaling,
        PolynomialDecay,
        CosineDecay,
        CosineRestarts,
        Cyclic,
        OneCycle,
        Warmup,
    )
}


SIGNATURE = "`def __call__(self, step, steps_per_epoch)`, which gives a number for each element of the array `step`"


def check_rate(argument: str, value: object) -> None:
    """Raise unless it is a schedule or a finite number of at least 0; one of a user's own is tried on two steps."""
    if isinstance(value, Schedule):
        if type(value) not in SCHEDULES.values():
            rates(value, np.arange(2.0), 100, argument)
        return
    message = f"`{argument}` must be a number in [0, inf) or a schedule; got {value!r}."
    try:
        if np.ndim(value):
            raise TypeError
        inside = 0 <= value < np.inf and not isinstance(value, bool)
    except (TypeError, ValueError):
        if callable(value):
            message += f" One of your own is an object of a class derived from `{__name__}.Schedule`, with {SIGNATURE}."
        raise TypeError(message) from None
    if not inside:
        raise ValueError(message)


def rates(
    learning_rate: float | Schedule, step: np.ndarray, steps_per_epoch: int, argument: str | None = None
) -> np.ndarray:
    """The rate of each step, float64, of a number or a schedule.

    Raises
    ------
    ValueError, TypeError
        A user's own schedule fails, or its numbers are no rates; `argument` is who asks, for the message.
    """
    if not isinstance(learning_rate, Schedule):
        return np.full(len(step), float(learning_rate))
    what = f"{'' if argument is None else f'`{argument}`: '}{learning_rate!r}"
    try:
        with np.errstate(all="ignore"):  # in what `np.where` does not take
            values = np.asarray(learning_rate(step, steps_per_epoch))
    except Exception as error:
        if type(learning_rate) in SCHEDULES.values():
            raise
        raise TypeError(
            f"{what} must have {SIGNATURE}, with `np.where(step < 10, a, b)` instead of `a if step < 10 else b`; it "
            f"raised {type(error).__name__}: {error}"
        ) from error
    if values.shape != step.shape:
        got = f"shape {values.shape}" if values.ndim else f"{values.item()!r}; `np.full(len(step), a)` is `a` for all"
        raise ValueError(f"{what} must return rates of shape {step.shape}, one for each element of `step`; got {got}.")
    if values.dtype.kind not in "biuf":
        raise TypeError(f"{what} must return an array of numbers; got one of {values.dtype}.")
    wrong = ~((values >= 0) & (values < np.inf))
    if wrong.any():
        k = int(wrong.argmax())
        raise ValueError(f"{what} must return rates in [0, inf); got {values[k]} for step {int(step[k])}.")
    return values.astype(np.float64, copy=False)


def to_config(schedule: Schedule) -> dict:
    """The schedule as a dictionary that JSON can hold.

    >>> to_config(Warmup(0.1, steps=3))
    {'type': 'Warmup', 'steps': 3, 'epochs': None, 'schedule': {'type': 'Constant', 'learning_rate': 0.1}}
    """
    return configs.describe(schedule, SCHEDULES, "schedule", {Schedule: to_config})


def from_config(config: dict) -> Schedule:
    """The schedule that `to_config` described; ValueError or TypeError for anything else."""
    return configs.build(config, SCHEDULES, from_config)
