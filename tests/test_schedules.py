"""Schedules against naive loops and PyTorch's, in fits and over resumes; the callbacks that set rates or end fits."""

import dataclasses
import doctest
import json
import math
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import reference
from cases import Case
from hypothesis import given, settings, strategies as st

from fastmlp import SGD, Adam, Callback, Dense, ReduceLROnPlateau, ReLU, Sequential, TimeBudget, schedules
from fastmlp.schedules import (
    SCHEDULES,
    Constant,
    CosineDecay,
    CosineRestarts,
    Cyclic,
    ExponentialDecay,
    InverseScaling,
    OneCycle,
    PiecewiseConstantDecay,
    PolynomialDecay,
    Schedule,
    StepDecay,
    Warmup,
)
from fastmlp.training import Training

EXAMPLES = [
    Constant(0.05),
    StepDecay(0.1, 0.5, steps=3),
    PiecewiseConstantDecay((0.1, 0.05, 0.0), epochs=(1, 2.5)),
    PiecewiseConstantDecay([0.1, 0.2], steps=[9]),
    ExponentialDecay(0.1, 0.5, epochs=1.5),
    InverseScaling(0.1, steps=4),
    PolynomialDecay(0.1, 0.01, 2.5, epochs=2),
    PolynomialDecay(0.1, steps=40),
    CosineDecay(0.1, 0.01, epochs=2),
    CosineRestarts(0.1, 0.01, growth=2, steps=3),
    CosineRestarts(0.1, steps=5),
    Cyclic(0.1, 0.01, 0.5, epochs=1.5),
    Cyclic(0.1, steps=5),
    OneCycle(0.1, steps=12),
    Warmup(CosineDecay(0.1, epochs=2), epochs=0.5),
    Warmup(0.1, steps=4),
    Warmup(Warmup(StepDecay(0.1, steps=2), steps=2), steps=3),
]


def naive(s, t, per_epoch):
    """The rate of one step, from the formulas."""
    kind = type(s).__name__
    if kind == "Constant":
        return s.learning_rate
    if kind == "PiecewiseConstantDecay":
        boundaries = s.steps if s.epochs is None else [epochs * per_epoch for epochs in s.epochs]
        return s.values[sum(boundary <= t for boundary in boundaries)]
    length = s.steps if s.epochs is None else s.epochs * per_epoch
    if kind == "Warmup":
        n = math.ceil(length)
        return naive(s.schedule, 0, per_epoch) * (t + 1) / (n + 1) if t < n else naive(s.schedule, t - n, per_epoch)
    rate = s.learning_rate
    if kind == "StepDecay":
        return rate * s.factor ** (t // length)
    if kind == "ExponentialDecay":
        return rate * s.factor ** (t / length)
    if kind == "InverseScaling":
        return rate * (1 + t / length) ** -s.power
    if kind == "PolynomialDecay":
        return s.final + (rate - s.final) * (1 - min(t / length, 1)) ** s.power
    if kind == "Cyclic":
        cycle, done = math.floor(t / length), t % length
        part = done / (length / 2) if done < length / 2 else (length - done) / (length / 2)
        return s.base + (rate - s.base) * s.factor**cycle * part
    if kind == "CosineDecay":
        return s.final + (rate - s.final) * (1 + math.cos(math.pi * min(t / length, 1))) / 2
    if kind == "CosineRestarts":
        while t >= length:
            t, length = t - length, length * s.growth
        return s.final + (rate - s.final) * (1 + math.cos(math.pi * t / length)) / 2
    assert kind == "OneCycle"
    first, top = rate / s.divide, s.warm * length - 1
    if t < top:
        return first + (rate - first) * (1 - math.cos(math.pi * t / top)) / 2
    last, top = first / s.final_divide, max(top, 0)
    way = min((t - top) / (length - 1 - top), 1) if length - 1 > top else 1
    return last + (rate - last) * (1 + math.cos(math.pi * way)) / 2


def test_every_schedule_has_an_example():
    assert {type(s) for s in EXAMPLES} == set(SCHEDULES.values())


@pytest.mark.parametrize("schedule", EXAMPLES, ids=repr)
def test_against_the_formula(schedule):
    rates = schedule(np.arange(60.0), 7)
    assert rates.dtype == np.float64
    np.testing.assert_allclose(rates, [naive(schedule, t, 7) for t in range(60)], rtol=1e-12, atol=1e-18)


rate = st.floats(0, 10)
length = st.one_of(
    st.fixed_dictionaries({"steps": st.integers(1, 50)}), st.fixed_dictionaries({"epochs": st.floats(0.1, 9)})
)
whole = st.fixed_dictionaries({"steps": st.integers(1, 50)})  # restarts at whole steps: no rounding decides which cycle
drawn = st.one_of(
    st.builds(lambda r, f, n: StepDecay(r, f, **n), rate, st.floats(0.1, 1), whole),
    st.builds(lambda r, f, n: ExponentialDecay(r, f, **n), rate, st.floats(0.1, 1), length),
    st.builds(lambda r, p, n: InverseScaling(r, p, **n), rate, st.floats(0, 3), length),
    st.builds(lambda r, f, p, n: PolynomialDecay(r, f, p, **n), rate, rate, st.floats(0.1, 3), length),
    st.builds(lambda r, b, f, n: Cyclic(r, b, f, steps=n), rate, rate, st.floats(0.1, 1), st.integers(2, 50)),
    st.builds(lambda r, f, n: CosineDecay(r, f, **n), rate, rate, length),
    st.builds(lambda r, f, g, n: CosineRestarts(r, f, g, **n), rate, rate, st.integers(1, 3), whole),
    st.builds(lambda r, w, n: OneCycle(r, w, **n), rate, st.floats(0, 0.99), length),
)


@given(st.one_of(drawn, st.builds(lambda s, n: Warmup(s, **n), drawn, whole)), st.integers(1, 20), st.integers(0, 200))
def test_any_schedule_in_any_slices(schedule, per_epoch, at):
    step = np.arange(200.0)
    rates = schedules.rates(schedule, step, per_epoch)  # checks that they are rates
    np.testing.assert_allclose(rates, [naive(schedule, t, per_epoch) for t in range(200)], rtol=1e-9, atol=1e-12)
    parts = np.concatenate([schedule(step[:at], per_epoch), schedule(step[at:], per_epoch)])
    assert np.array_equal(rates, parts)


@settings(max_examples=20)
@given(st.floats(1, 4), st.floats(1e-9, 3))
def test_restarts_with_any_growth_stay_between_their_ends(growth, epochs):
    rates = CosineRestarts(1.0, 0.25, growth, epochs=epochs)(np.arange(3000.0), 10)
    assert (rates >= 0.25).all() and (rates <= 1).all()


@pytest.mark.parametrize(
    ("schedule", "theirs"),
    [
        (StepDecay(0.1, 0.5, steps=7), lambda o, s: s.StepLR(o, 7, 0.5)),
        (PiecewiseConstantDecay((0.1, 0.02, 0.004), steps=(5, 20)), lambda o, s: s.MultiStepLR(o, [5, 20], 0.2)),
        (ExponentialDecay(0.1, 0.9, steps=1), lambda o, s: s.ExponentialLR(o, 0.9)),
        (CosineDecay(0.1, 0.01, steps=40), lambda o, s: s.CosineAnnealingLR(o, 40, 0.01)),
        (CosineRestarts(0.1, 0.01, 3, steps=4), lambda o, s: s.CosineAnnealingWarmRestarts(o, 4, 3, 0.01)),
        (CosineRestarts(0.1, steps=6), lambda o, s: s.CosineAnnealingWarmRestarts(o, 6)),
        (PolynomialDecay(0.1, steps=30), lambda o, s: s.LinearLR(o, 1.0, 0.0, 30)),
        (PolynomialDecay(0.1, power=2, steps=30), lambda o, s: s.PolynomialLR(o, 30, 2)),
        (Cyclic(0.1, 0.01, steps=14), lambda o, s: s.CyclicLR(o, 0.01, 0.1, 7, cycle_momentum=False)),
        (
            Cyclic(0.1, 0.01, 0.5, steps=8),
            lambda o, s: s.CyclicLR(o, 0.01, 0.1, 4, mode="triangular2", cycle_momentum=False),
        ),
        (OneCycle(0.1, steps=40), lambda o, s: s.OneCycleLR(o, 0.1, 40)),
        (
            OneCycle(0.1, 0.45, 10, 50, steps=41),
            lambda o, s: s.OneCycleLR(o, 0.1, 41, pct_start=0.45, div_factor=10, final_div_factor=50),
        ),
    ],
    ids=lambda value: repr(value) if isinstance(value, Schedule) else None,
)
def test_against_torch(torch, schedule, theirs):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)
    scheduler, expected = theirs(optimizer, torch.optim.lr_scheduler), []
    for _ in range(40):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(schedule(np.arange(40.0), 1), expected, rtol=1e-11, atol=1e-16)


@pytest.mark.parametrize("schedule", EXAMPLES, ids=repr)
def test_plain_data(schedule):
    assert schedules.from_config(json.loads(json.dumps(schedules.to_config(schedule)))) == schedule
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert eval(repr(schedule), dict(SCHEDULES)) == schedule
    assert hash(schedule) == hash(pickle.loads(pickle.dumps(schedule)))
    assert type(schedule).__doc__


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CosineDecay(0.1), "CosineDecay needs a length, `steps` or `epochs`, one of them; got neither"),
        (lambda: CosineDecay(0.1, steps=3, epochs=2), "one of them; got steps=3, epochs=2"),
        (lambda: CosineDecay(0.1, steps=0), "`steps` must be an integer of at least 1; got 0"),
        (lambda: CosineDecay(0.1, steps=2.5), "`steps` must be an integer of at least 1; got 2.5"),
        (lambda: CosineDecay(0.1, steps=True), "`steps`.*got True"),
        (lambda: CosineDecay(0.1, epochs=0), r"`epochs` must be in \(0, inf\); got 0"),
        (lambda: CosineDecay(0.1, epochs=math.nan), "`epochs`.*got nan"),
        (lambda: CosineDecay(-1, steps=3), r"`learning_rate` must be in \[0, inf\); got -1"),
        (lambda: CosineDecay(0.1, -1, steps=3), "`final`.*got -1"),
        (lambda: CosineDecay("0.1", steps=3), "`learning_rate` must be a number; got '0.1'"),
        (lambda: Constant(math.inf), "`learning_rate`.*got inf"),
        (lambda: PiecewiseConstantDecay((0.1, 0.2)), "needs boundaries, `steps` or `epochs`, one of them; got neither"),
        (lambda: PiecewiseConstantDecay((0.1,), steps=3), "`steps` must be a sequence of numbers; got 3"),
        (lambda: PiecewiseConstantDecay(0.1, steps=(3,)), "`values` must be a sequence of numbers; got 0.1"),
        (lambda: PiecewiseConstantDecay((0.1, -0.2), steps=(3,)), r"`values\[1\]` must be in \[0, inf\); got -0.2"),
        (lambda: PiecewiseConstantDecay((0.1, 0.2), steps=(0,)), r"`steps\[0\]`.*got 0"),
        (lambda: PiecewiseConstantDecay((0.1, 0.2), epochs=(0.0,)), r"`epochs\[0\]`.*got 0.0"),
        (
            lambda: PiecewiseConstantDecay((0.1, 0.2), steps=(3, 4)),
            "`steps` must be growing boundaries, one fewer than",
        ),
        (lambda: PiecewiseConstantDecay((1, 2, 3), steps=(4, 4)), r"one fewer than `values`; got steps=\(4, 4\)"),
        (lambda: StepDecay(0.1, 0, steps=3), r"`factor` must be in \(0, 1\]; got 0"),
        (lambda: ExponentialDecay(0.1, 1.5, steps=3), r"`factor` must be in \(0, 1\]; got 1.5"),
        (lambda: InverseScaling(0.1, -1, steps=3), "`power`.*got -1"),
        (lambda: PolynomialDecay(0.1, power=0, steps=3), r"`power` must be in \(0, inf\); got 0"),
        (lambda: PolynomialDecay(0.1, -1, steps=3), "`final`.*got -1"),
        (lambda: PolynomialDecay(-0.1, steps=3), "`learning_rate`.*got -0.1"),
        (lambda: Cyclic(math.nan, steps=3), "`learning_rate`.*got nan"),
        (lambda: Cyclic(0.1, epochs=0.5)(np.zeros(1), 3), "needs cycles of 2 steps at least; they have 1.5"),
        (lambda: Cyclic(0.1, steps=1)(np.zeros(1), 3), "they have 1"),
        (lambda: Cyclic(0.1, base=-1, steps=3), r"`base` must be in \[0, inf\); got -1"),
        (lambda: Cyclic(0.1, factor=2, steps=3), r"`factor` must be in \(0, 1\]; got 2"),
        (lambda: CosineRestarts(0.1, growth=0.5, steps=3), r"`growth` must be in \[1, inf\); got 0.5"),
        (lambda: OneCycle(0.1, warm=1, steps=3), r"`warm` must be in \[0, 1\); got 1"),
        (lambda: OneCycle(0.1, divide=0.5, steps=3), "`divide`.*got 0.5"),
        (lambda: Warmup("fast", steps=3), "`schedule` must be a number in .* or a schedule; got 'fast'"),
        (lambda: Warmup(-0.1, steps=3), "`schedule`.*got -0.1"),
        (lambda: Warmup(0.1), "Warmup needs a length"),
        (lambda: Adam(lambda t: 0.1), "`learning_rate` must be a number in .* or a schedule"),
        (lambda: schedules.from_config({"type": "Cosine"}), "Did you mean 'CosineDecay'"),
        (lambda: schedules.from_config({"type": "CosineDecay", "step": 3}), "Did you mean 'steps'"),
        (lambda: schedules.to_config(0.1), "`schedule` must be one of"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build()


# In fits


def problem():
    case = Case(45, 6, (9, 3), ("tanh", "identity"), "squared_error", SGD(0.1), 8)  # six steps an epoch
    X, y, _ = case.data()
    return case, X, y


def open_training(model, optimizer, **options):
    _, X, y = problem()
    return Training(model, X, y, loss="squared_error", optimizer=optimizer, batch_size=8, seed=3, **options)


@pytest.mark.parametrize("schedule", EXAMPLES, ids=repr)
def test_a_fit_against_the_twin(schedule):
    case, X, y = problem()
    model = case.model()
    twin, t = case.twin(model), 0
    twin.optimizer = SGD(1.0, momentum=0.9)
    with open_training(model, SGD(schedule, momentum=0.9), shuffle=False) as training:
        training.run(epochs=4)
    for _ in range(4):
        for rows in reference.in_order(45, 8):
            twin.step(X[rows], y[rows], learning_rate=naive(schedule, t, 6))
            t += 1
    for name, value in model.parameters.items():
        assert reference.relative_error(value, twin.parameters[name]) < 1e-11, name


@pytest.mark.parametrize("optimizer", [Adam, SGD])
@pytest.mark.parametrize("schedule", EXAMPLES, ids=repr)
def test_a_fit_in_two_calls_has_the_bits_of_one(schedule, optimizer):
    case, _, _ = problem()
    whole, parts = case.model(), case.model()
    with open_training(whole, optimizer(schedule)) as training:
        training.run(epochs=5)
    with open_training(parts, optimizer(schedule)) as training:
        training.run(epochs=1)
        training.run(epochs=1)
        state = training.state
        assert state["learning_rate"] is None
    with open_training(parts, optimizer(schedule), state=state) as training:
        assert training.learning_rate == pytest.approx(naive(schedule, 11, 6))
        training.run(epochs=3)
        assert training.learning_rate == pytest.approx(naive(schedule, 29, 6))
    for name, value in whole.parameters.items():
        assert np.array_equal(value, parts.parameters[name]), name


def fit(model=None, **options):
    _, X, y = problem()
    model = model or Sequential(Dense(9), ReLU(), Dense(3), dtype="float64").build(6, seed=1)
    options = {"loss": "squared_error", "epochs": 6, "batch_size": 8, "verbose": 0} | options
    return model.fit(X, y, **options), model


def test_a_constant_schedule_is_a_number():
    number, constant = (fit(optimizer=Adam(given))[1].parameters for given in (0.01, Constant(0.01)))
    assert all(np.array_equal(number[name], constant[name]) for name in number)


@pytest.mark.parametrize("callbacks", [[], [Callback()]], ids=["plainly", "with callbacks"])
def test_history_has_the_rate_of_each_epochs_last_step(callbacks):
    schedule = CosineDecay(0.1, epochs=6)
    history, _ = fit(optimizer=Adam(schedule), callbacks=callbacks)
    np.testing.assert_allclose(history["learning_rate"], [naive(schedule, 6 * k + 5, 6) for k in range(6)], rtol=1e-12)
    history, _ = fit(optimizer=Adam(0.02), callbacks=callbacks)
    assert history["learning_rate"] == [0.02] * 6


class SetRate(Callback):
    """Sets the rate after the second epoch."""

    def __init__(self, rate):
        self.rate = rate

    def on_epoch_end(self, training, epoch, logs):
        if epoch == 2:
            training.learning_rate = self.rate


def test_a_number_ends_a_schedule_and_a_schedule_may_be_set():
    history, _ = fit(optimizer=SGD(StepDecay(0.1, 0.5, epochs=1)), callbacks=[SetRate(0.03)])
    assert history["learning_rate"] == [0.1, 0.05, 0.03, 0.03, 0.03, 0.03]
    history, _ = fit(optimizer=SGD(0.1), callbacks=[SetRate(StepDecay(0.1, 0.5, epochs=1))])
    assert history["learning_rate"] == [0.1, 0.1, 0.025, 0.0125, 0.00625, 0.003125]


def test_a_number_set_over_a_schedule_survives_a_resume():
    case, _, _ = problem()
    optimizer = SGD(StepDecay(0.1, 0.5, epochs=1))
    with open_training(case.model(), optimizer) as training:
        training.run(1)
        training.learning_rate *= 0.1
        assert training.schedule is None
        state = training.state
    with open_training(case.model(), optimizer, state=state) as training:
        assert training.schedule is None and training.learning_rate == pytest.approx(0.01)


@pytest.mark.parametrize("bad", [-1, math.nan, math.inf, "0.1", None, True, np.array([0.1, 0.2])], ids=repr)
def test_a_rate_that_is_none_is_refused_when_set(bad):
    with pytest.raises((ValueError, TypeError), match="`training.learning_rate` must be a number in"):
        fit(callbacks=[SetRate(bad)])


class Broken(Schedule):
    """Rates that are none, or of the wrong shape."""

    def __init__(self, values):
        object.__setattr__(self, "values", values)

    def __call__(self, step, steps_per_epoch):
        return self.values(step)

    def __repr__(self):
        return "Broken()"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (lambda step: 0.1 - step, r"must return rates in \[0, inf\); got -0.9 for step 1"),
        (lambda step: step * np.nan, "got nan for step 0"),
        (lambda step: 1 / step, "got inf for step 0"),
        (lambda step: 0.1, r"of shape \({n},\), one for each .*; got 0.1; `np.full\(len\(step\), a\)` is `a` for all"),
        (lambda step: None, "; got None;"),
        (lambda step: step[1:], r"; got shape \({less},\)\."),
        (lambda step: np.array(["fast"] * len(step)), "an array of numbers; got one of <U4"),
        (lambda step: 0.1 if step < 10 else 0.01, "`np.where.*` instead of .*; it raised ValueError: The truth value"),
        (lambda step: step["rate"], "`def __call__\\(self, step, steps_per_epoch\\)`.*; it raised IndexError: "),
    ],
)
def test_a_schedule_of_ones_own_is_checked(values, message):
    """When an optimiser takes it as its rate, on two steps; other numbers, and later steps, when they are needed."""
    for build, n, name in (
        (lambda: SGD(Broken(values)), 2, "`learning_rate`: "),
        (lambda: Warmup(Broken(values), steps=3), 2, "`schedule`: "),
        (lambda: fit(optimizer=SGD(0.1, momentum=Broken(values)), epochs=1), 6, ""),
        (lambda: fit(optimizer=SGD(0.1, momentum=Warmup(Broken(values), steps=1)), epochs=1), 2, "`schedule`: "),
    ):
        expected = message.replace("{n}", str(n)).replace("{less}", str(n - 1))
        with pytest.raises(
            (ValueError, TypeError), match=rf"^{name}Broken\(\) must .*{expected.removeprefix('must ')}"
        ):
            build()


def test_a_later_step_of_ones_own_schedule_is_checked():
    with pytest.raises(ValueError, match=r"^Broken\(\) must return rates in \[0, inf\); got -1.0 for step 5"):
        fit(optimizer=SGD(Broken(lambda step: 4.0 - step)), epochs=1)


def test_a_schedule_that_is_called_otherwise_is_refused_at_once():
    class OfSteps(Schedule):  # the form of others
        def __call__(self, step):
            return 0.1

    class Nothing(Schedule):
        pass

    for cls, why in (
        (OfSteps, "takes 2 positional arguments but 3 were given"),
        (Nothing, "Nothing defines no __call__"),
    ):
        with pytest.raises(
            TypeError, match=rf"`learning_rate`: .*`def __call__\(self, step, steps_per_epoch\)`.*{why}"
        ):
            SGD(cls())


@pytest.mark.parametrize("given", [lambda epoch: 0.1, CosineDecay, math.sqrt], ids=["function", "class", "builtin"])
def test_what_is_called_but_is_no_schedule_is_refused_with_how_to_write_one(given):
    words = (
        r"`learning_rate` must be .*; got <.*derived from `fastmlp.schedules.Schedule`, with `def __call__\(self, step,"
    )
    for build in (lambda: SGD(given), lambda: Warmup(given, steps=3)):
        with pytest.raises(TypeError, match=words.replace("learning_rate", "(learning_rate|schedule)")):
            build()


def test_what_numpy_computes_in_vain_does_not_warn():
    schedule = Broken(lambda step: np.where(step > 0, 0.1 / step, 0.1))
    history, _ = fit(optimizer=SGD(schedule), epochs=2)
    assert history["learning_rate"] == [0.1 / 5, 0.1 / 11]


def test_numbers_of_other_types_become_float64():
    schedule = Broken(lambda step: [0, 1])
    rates = schedules.rates(schedule, np.arange(2.0), 1)
    assert rates.dtype == np.float64 and rates.tolist() == [0.0, 1.0]


def test_the_example_of_the_page_runs():
    (test,) = doctest.DocTestFinder(recurse=False).find(Schedule)
    assert doctest.DocTestRunner().run(test).failed == 0
    page = (Path(__file__).parent.parent / "docs" / "schedules.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(code, "schedules.md", "exec"), found := {"__name__": __name__})
    schedule = dataclasses.replace(found["optimizer"].learning_rate, first=1)
    history, _ = fit(optimizer=SGD(schedule, momentum=0.9), epochs=3)
    assert history["learning_rate"] == [0.1, 0.1, 0.1 * np.exp(-0.1)]


# Callbacks


class FakeTraining:
    """What ReduceLROnPlateau needs of a training."""

    schedule = None

    def __init__(self, learning_rate=1.0):
        self.learning_rate = learning_rate


def plateau(callback, values, monitor="val_loss"):
    training, rates = FakeTraining(), []
    callback.on_fit_begin(training)
    for epoch, value in enumerate(values, 1):
        rates.append(training.learning_rate)
        callback.on_epoch_end(training, epoch, {monitor: value})
    return [*rates, training.learning_rate]


@pytest.mark.parametrize(
    ("values", "options", "rates"),
    [
        ([3, 2, 1], {"patience": 1}, [1, 1, 1, 1]),
        ([1, 1, 1, 1], {"patience": 1}, [1, 1, 0.5, 0.25, 0.125]),
        ([1, 2, 2, 2, 2], {"patience": 2}, [1, 1, 1, 0.5, 0.5, 0.25]),
        ([1, 2, 0, 2, 2], {"patience": 2}, [1, 1, 1, 1, 1, 0.5]),
        ([1, math.nan, 2], {"patience": 1}, [1, 1, 0.5, 0.25]),
        ([1, 1, 1, 1], {"patience": 1, "min_lr": 0.4}, [1, 1, 0.5, 0.4, 0.4]),
        ([1, 0.9, 0.8], {"patience": 1, "min_delta": 0.5}, [1, 1, 0.5, 0.25]),
        ([1, 2, 3], {"patience": 1, "mode": "max"}, [1, 1, 1, 1]),
        ([1, 1], {"patience": 1, "min_lr": 2.0}, [1, 1, 1]),  # never raised
    ],
)
def test_reduce_on_plateau(values, options, rates):
    callback = ReduceLROnPlateau(factor=0.5, **options)
    assert plateau(callback, values) == rates
    assert plateau(callback, values) == rates  # a second fit starts afresh
    assert callback.reduced_epochs_ == [k for k in range(1, len(rates)) if rates[k] < rates[k - 1]]


def test_reduce_on_plateau_in_a_fit():
    callback = ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=1e9)
    history, _ = fit(optimizer=SGD(0.1), callbacks=[callback], epochs=4)
    assert history["learning_rate"] == [0.1, 0.1, 0.05, 0.025] and callback.reduced_epochs_ == [2, 3, 4]
    with pytest.raises(ValueError, match="ReduceLROnPlateau needs.*a number; got StepDecay"):
        fit(optimizer=SGD(StepDecay(0.1, steps=3)), callbacks=[callback])
    with pytest.raises(ValueError, match="`monitor`.*validation_data"):
        fit(callbacks=[ReduceLROnPlateau()])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ReduceLROnPlateau(factor=1), r"`factor` must be in \(0, 1\); got 1"),
        (lambda: ReduceLROnPlateau(factor=0), "`factor`.*got 0"),
        (lambda: ReduceLROnPlateau(min_lr=-1), "`min_lr`.*got -1"),
        (lambda: ReduceLROnPlateau(patience=0), "`patience` must be an integer of at least 1; got 0"),
        (lambda: ReduceLROnPlateau(mode="mni"), "Did you mean 'min'"),
        (lambda: TimeBudget(0), r"`seconds` must be in \(0, inf\); got 0"),
        (lambda: TimeBudget(math.nan), "`seconds`.*got nan"),
        (lambda: TimeBudget("1"), "`seconds` must be a number; got '1'"),
    ],
)
def test_bad_callbacks(build, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build()


def test_a_time_budget_ends_a_fit():
    for seconds, epochs in ((1e-9, 1), (1e6, 6)):
        budget = TimeBudget(seconds)
        history, _ = fit(callbacks=[budget])
        assert len(history) == epochs and budget.stopped_epoch_ == (1 if epochs == 1 else None)
        assert eval(repr(budget)).seconds == seconds


def test_a_time_budget_counts_from_the_beginning(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("fastmlp.callbacks.time.monotonic", lambda: now[0])

    class Tick(Callback):
        def on_epoch_end(self, training, epoch, logs):
            now[0] += 1

    budget = TimeBudget(2.5)
    for _ in range(2):
        assert len(fit(callbacks=[Tick(), budget])[0]) == 3
        assert budget.stopped_epoch_ == 3


def test_schedules_of_ones_own_that_are_no_dataclass_are_equal_to_themselves_only():
    class Mine(Schedule):
        def __init__(self, value):
            object.__setattr__(self, "value", value)

        def __call__(self, step, steps_per_epoch):
            return np.full(len(step), self.value)

    one = Mine(0.1)
    assert one == one and one != Mine(0.9)
