"""`Sequential.train_on_batch`: steps one by one, with an optimiser that remembers."""

import copy
import gc
import os
import pickle
import re
import signal
import threading
import time
import weakref
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse
from tracing import untraced

from fastmlp import (
    SGD,
    Adam,
    AdaMax,
    AdamW,
    BackupAndRestore,
    BatchNorm,
    Callback,
    Constant,
    CosineDecay,
    Dense,
    DivergenceError,
    Dropout,
    GaussianNoise,
    MLPClassifier,
    PiecewiseConstantDecay,
    ReLU,
    Sequential,
    Softmax,
    StepDecay,
    Tanh,
    Warmup,
)
from fastmlp._turns import Turn
from fastmlp.training import Training

LOSS = "softmax_cross_entropy"


def data(n=96, columns=6, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, columns)).astype(dtype), rng.integers(0, 3, n)


def network(*between, dtype="float32"):
    return Sequential(Dense(10), Tanh(), *between, Dense(3), dtype=dtype)


def assert_same(one, other, **tolerance):
    for name, array in one.parameters.items():
        if tolerance:
            np.testing.assert_allclose(array, other.parameters[name], **tolerance)
        else:
            np.testing.assert_array_equal(array, other.parameters[name])


@pytest.mark.parametrize(
    "optimizer",
    [
        Adam(0.01),
        SGD(0.1, momentum=0.9),
        AdamW(StepDecay(0.01, 0.5, steps=3), clip_norm=0.5),
        Adam(0.01, ema_decay=0.9),
    ],
    ids=repr,
)
@pytest.mark.parametrize("between", [(), (BatchNorm(),)], ids=["plain", "BatchNorm"])
@pytest.mark.parametrize("weighted", [False, True])
def test_batches_one_by_one_are_the_bits_of_a_fit(optimizer, between, weighted):
    (X, y), size = data(), 24
    weights = np.arange(len(X)) % 3 * 1.0 if weighted else None  # of mean 1
    assert weights is None or weights.mean() == 1.0
    whole, single = network(*between), network(*between)
    history = whole.fit(X, y, loss=LOSS, optimizer=optimizer, batch_size=size, shuffle=False, sample_weight=weights)
    total, weight = 0.0, 0.0
    for start in range(0, len(X), size):
        rows = slice(start, start + size)
        own = None if weights is None else weights[rows]
        loss = single.train_on_batch(X[rows], y[rows], loss=LOSS, optimizer=optimizer, sample_weight=own)
        share = size if own is None else own.sum()
        total, weight = total + loss * share, weight + share
    assert_same(whole, single)
    np.testing.assert_allclose(total / weight, history["loss"][-1], rtol=1e-6)


def test_a_step_is_as_long_as_its_rows_weigh():
    """Of one row, too, and with classes' weights in a stream of an estimator's."""
    X, y, moved = np.array([[1.0]]), np.array([0]), []
    for weight in (1.0, 2.0, 4.0):
        model = Sequential(Dense(2), dtype="float64").build(1)
        before = model.parameters["dense_0.bias"]
        model.train_on_batch(X, y, loss=LOSS, optimizer=SGD(0.1), sample_weight=[weight])
        moved.append(model.parameters["dense_0.bias"] - before)
    np.testing.assert_allclose(moved, np.outer([1.0, 2.0, 4.0], moved[0]), rtol=1e-12)
    options, moved = {"solver": "sgd", "learning_rate_init": 0.1, "alpha": 0.0, "random_state": 0}, []
    for weight in (1e-30, 1.0, 4.0):
        classifier = MLPClassifier((), class_weight={0: weight}, **options).partial_fit(X, y, classes=[0, 1, 2])
        moved.append(classifier.intercepts_[0])
    np.testing.assert_allclose(moved[2] - moved[0], 4 * (moved[1] - moved[0]), rtol=1e-12)


def adam(p, g, m, v, t, rate=0.01):
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    return p - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8), m, v


def test_batches_of_any_size_and_kind_go_on_with_the_same_moments():
    """Against Adam by hand, on the gradients of the same batches."""
    model, judge = (network(dtype="float64").build(6) for _ in range(2))
    kinds = [
        lambda X: X,
        lambda X: X.astype(np.float32),
        scipy.sparse.csr_array,
        lambda X: X.tolist(),
        lambda X: np.repeat(X, 2, axis=1)[:, ::2],
    ]
    state = dict.fromkeys(judge.parameters, (0.0, 0.0))
    for t, n in enumerate([8, 3, 8, 20, 1, 20, 40, 7, 7, 41], start=1):
        X, y = data(n, seed=t, dtype=np.float32)
        X, weights = kinds[t % 5](X.astype(np.float64)), np.linspace(1, 2, n) if t % 3 else None
        weights = weights if weights is None else weights / weights.mean()
        expected, gradients = judge.gradients(X, y, LOSS, weights)
        new = {}
        for name, p in judge.parameters.items():
            new[name], *state[name] = adam(p, gradients[name], *state[name], t)
        judge.set_parameters(new)
        loss = model.train_on_batch(X, y, loss=LOSS, optimizer=Adam(0.01), sample_weight=weights)
        np.testing.assert_allclose(loss, expected, rtol=1e-9)
        assert_same(model, judge, rtol=1e-7, atol=1e-9)


def test_everything_sees_the_last_step():
    X, y = data()
    model, other, losses = network(), network(), []
    for _ in range(3):
        losses.append(model.train_on_batch(X, y, loss=LOSS, optimizer="adam"))
        other.train_on_batch(X, y, loss=LOSS, optimizer="adam")
        p = model.parameters
        expected = np.tanh(X @ p["dense_0.weight"] + p["dense_0.bias"]) @ p["dense_1.weight"] + p["dense_1.bias"]
        np.testing.assert_allclose(other.logits(X), expected, rtol=1e-4, atol=1e-5)
        twins = copy.copy(other), copy.deepcopy(other), pickle.loads(pickle.dumps(other)), other[:]
        for twin in twins:
            assert_same(model, twin)
            twin.train_on_batch(-X, y, loss=LOSS, optimizer=SGD(1.0))
        assert_same(model, other)
    assert model.loss.name == LOSS
    assert model.evaluate(X, y)["loss"] < losses[2] < losses[1] < losses[0]


def test_parameters_may_be_set_in_between():
    X, y = data()
    model, other = network().build(6), network().build(6)
    for k in range(3):
        for one in (model, other):
            one.train_on_batch(X, y, loss=LOSS, optimizer=SGD(0.1))
        bias = [0.1 * k, 0.2, 0.3]
        model.set_parameters({"dense_1.bias": bias})
        other.set_parameters({**other.parameters, "dense_1.bias": np.array(bias)})
        assert_same(model, other)


def test_loss_and_optimiser_are_those_of_the_last_call():
    X, y = data()
    one, other = network(), network()
    for k in range(4):
        one.train_on_batch(X, y, loss=LOSS, optimizer=Adam(0.02), seed=3)
        other.train_on_batch(X, y, **({} if k else {"loss": LOSS, "optimizer": Adam(0.02), "seed": 3}))
    assert_same(one, other)


@pytest.mark.parametrize("what", ["optimizer", "schedule", "fit", "build", "reset"])
def test_what_begins_anew(what):
    """Adam's first step moves every number that has a gradient by the rate, whatever the gradient."""
    (X, y), model, options = data(), network(dtype="float64"), {"loss": LOSS, "optimizer": Adam(0.01)}
    for _ in range(20):
        model.train_on_batch(X, y, **options)
    before = model.parameters
    model.train_on_batch(X[:5], y[:5], **options)
    assert not np.allclose(abs(model.parameters["dense_1.bias"] - before["dense_1.bias"]), 0.01, rtol=1e-3)
    if what == "optimizer":
        options["optimizer"] = AdaMax(0.02)
    elif what == "schedule":
        options["optimizer"] = Adam(0.01, beta_1=Constant(0.9))
    elif what == "reset":
        model.reset_optimizer()
    elif what == "fit":
        model.fit(X, y, loss=LOSS, optimizer=SGD(1e-9), verbose=0)
    else:
        model.build(6, seed=4)
    before = model.parameters
    model.train_on_batch(X[:5], y[:5], **options)
    moved = abs(model.parameters["dense_1.bias"] - before["dense_1.bias"])
    np.testing.assert_allclose(moved, options["optimizer"].learning_rate, rtol=1e-4)


def test_the_moments_stay_whatever_the_numbers_the_loss_and_the_way(torch):
    """As PyTorch's do, whose optimiser knows nothing of losses, and whose rate may be set at any time."""
    X, y = data(dtype=np.float64)
    model, t = Sequential(Dense(3), dtype="float64").build(6), torch.tensor
    w, b = (t(value, requires_grad=True) for value in model.parameters.values())
    peer, one_hot = torch.optim.Adam([w, b], 1e-2), np.eye(3)[y]
    for k in range(30):
        rate, rows = (1e-2, 3e-3, 3e-3)[k % 3], slice(3 * k % 20, 3 * k % 20 + 5 + k)
        optimizer = Adam(rate, clip_norm=1.0 if k > 20 else None)
        peer.param_groups[0]["lr"] = rate
        peer.zero_grad()
        z = t(X[rows]) @ w + b
        if k % 5 < 2:
            value = torch.nn.functional.cross_entropy(z, t(y[rows]))
            model.train_on_batch(X[rows], y[rows], loss=LOSS, optimizer=optimizer, seed=k)
        else:
            value = 0.5 * ((z - t(one_hot[rows])) ** 2).sum(1).mean()
            if k % 5 == 2:
                model.train_on_batch(X[rows], one_hot[rows], loss="squared_error", optimizer=optimizer)
            else:
                _, gradients = model.gradients(X[rows], one_hot[rows], "squared_error")
                model.apply_gradients(gradients, optimizer=optimizer)
        value.backward()
        if k > 20:
            torch.nn.utils.clip_grad_norm_([w, b], 1.0)
        peer.step()
        if k % 7 == 0:
            model = (copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)))[k % 3](model)
    for value, mine in zip((w, b), model.parameters.values(), strict=True):
        np.testing.assert_allclose(mine, value.detach().numpy(), rtol=1e-9, atol=1e-12)


def test_what_goes_on_from_what():
    for before, after, expected in (
        (Adam(0.1), Adam(0.2, beta_1=0.5), True),
        (Adam(CosineDecay(0.1, epochs=3)), Adam(0.1), True),  # a number begins nothing
        (Adam(0.1), Adam(CosineDecay(0.1, epochs=3)), False),
        (Adam(CosineDecay(0.1, epochs=3)), Adam(CosineDecay(0.1, epochs=3), beta_1=0.5), True),
        (AdamW(0.1, weight_decay=0.0), AdamW(0.1, weight_decay=0.5), True),
        (Adam(0.1), AdamW(0.1), False),
        (SGD(0.1), SGD(0.1, momentum=0.9), False),
        (Adam(0.1), Adam(0.1, ema_decay=0.9), False),
    ):
        assert after.goes_on_from(before) == expected, (before, after)
    (X, y), models = data(), [network().build(6) for _ in range(2)]
    models[0].train_on_batch(X, y, loss=LOSS, optimizer=AdamW(1e-3, weight_decay=0.0))
    for model in models:  # the decay begins with the call that asks for it
        model.train_on_batch(X, y, loss=LOSS, optimizer=AdamW(1e-3, weight_decay=500.0))
        assert abs(model.parameters["dense_0.weight"]).max() < 0.6


@pytest.mark.parametrize("how", [copy.copy, lambda model: pickle.loads(pickle.dumps(model)), lambda model: model])
@pytest.mark.parametrize("optimizer", [Adam(0.01), SGD(1e-9, ema_decay=0.9)], ids=repr)
def test_parameters_that_are_set_in_a_copy_or_between_fits_are_those_that_go_on(how, optimizer):
    X, y = data()
    for fit in (False, True):
        model, options = network(dtype="float64").build(6), {"loss": LOSS, "optimizer": optimizer}
        for _ in range(2):
            if fit:
                model.fit(X, y, verbose=0, keep_optimizer=True, **options)
            else:
                model.train_on_batch(X, y, **options)
            model = how(model)
            model.set_parameters({"dense_1.bias": [7.0, 8.0, 9.0]})
        model.train_on_batch(X, y, **options)
        np.testing.assert_allclose(model.parameters["dense_1.bias"], [7.0, 8.0, 9.0], atol=0.1)
        assert how(model)._loop._last[1] == 0
        model.train_on_batch(X, y, seed=5, **options)
        assert how(model)._loop._last[1] == 5


def test_moments_that_overflowed_are_handed_to_nobody():
    """In a large network nobody looks after each step; before others go on from them somebody does."""
    rng = np.random.default_rng(0)
    X, y = 5 * rng.normal(size=(4, 300)).astype(np.float32), np.ones((4, 1), np.float32)
    options = {"loss": "squared_error", "optimizer": Adam(1e-3)}
    ways = {
        "loss": lambda model: model.train_on_batch(X, y, **options | {"loss": "absolute_error"}),
        "set": lambda model: (
            model.set_parameters({"dense_1.bias": [0.0]}),
            model.train_on_batch(X, y, **options),
        ),
        "fit": lambda model: model.fit(X, y, keep_optimizer=True, verbose=0, **options),
    }
    for way in ways.values():
        model = Sequential(Dense(300), ReLU(), Dense(1)).build(300)
        model.train_on_batch(X, y, **options)
        model.train_on_batch(X, y * 1.2e19, **options)  # squares are infinite, parameters are not
        assert copy.copy(model)._loop.kept is None  # a copy begins anew
        with pytest.raises(DivergenceError, match="step 2 diverged: a gradient .* as they were 1 step before it"):
            way(model)
        for _ in range(3):
            way(model)
        assert np.isfinite(model.predict(X)).all()


def test_a_fit_that_diverges_keeps_no_moments():
    X, y = data(dtype=np.float64)
    model, options = network(dtype="float64").build(6), {"keep_optimizer": True, "verbose": 0, "optimizer": Adam(0.01)}
    model.fit(X, np.eye(3)[y], loss="squared_error", epochs=50, **options)
    with pytest.raises(DivergenceError):
        model.fit(X, np.eye(3)[y] * 1e300, loss="squared_error", **options)
    before = model.parameters["dense_1.bias"]
    model.fit(X[:10], np.eye(3)[y[:10]], loss="squared_error", batch_size=10, **options)
    np.testing.assert_allclose(abs(model.parameters["dense_1.bias"] - before), 0.01, rtol=1e-3)  # Adam's first step


def test_a_schedule_of_epochs_needs_epochs_of_as_many_steps():
    X, y = data()
    options = {"loss": LOSS, "optimizer": Adam(CosineDecay(0.1, epochs=4)), "keep_optimizer": True, "verbose": 0}
    model, twin = network().build(6), network().build(6)
    for _ in range(3):
        model.fit(X, y, batch_size=24, shuffle=False, **options)
    twin.fit(X, y, batch_size=24, shuffle=False, epochs=3, **options)
    assert_same(model, twin)
    for step in (lambda: model.fit(X, y, batch_size=96, **options), lambda: model.train_on_batch(X, y)):
        with pytest.raises(ValueError, match="follows a schedule of epochs, which had 4 steps and would have 1 now"):
            step()
        assert_same(model, twin)
    model.fit(X, y, batch_size=96, **options | {"optimizer": Adam(0.01)})
    model.reset_optimizer()
    model.fit(X, y, batch_size=96, **options)


def test_another_rate_in_each_step_plans_nothing_anew():
    (X, y), model = data(), network()
    model.train_on_batch(X, y, loss=LOSS, optimizer=Adam(0.1))
    before = model._loop.trainer
    for k in range(3):
        model.train_on_batch(X, y, optimizer=Adam(0.1 / (k + 2), clip_value=None), seed=k)
        assert model._loop.trainer is before
    model.train_on_batch(X, y, optimizer=Adam(0.1, clip_value=1.0))
    assert model._loop.trainer is not before


@pytest.mark.parametrize("optimizer", [Adam(0.01), SGD(0.1, momentum=0.9), Adam(0.01, ema_decay=0.5)], ids=repr)
def test_a_fit_in_parts_that_keeps_its_optimiser_is_one_fit(optimizer):
    X, y = data()
    options = {"loss": LOSS, "optimizer": optimizer, "batch_size": 24, "shuffle": False, "verbose": 0}
    whole, parts = network().build(6), network().build(6)
    expected = list(whole.fit(X, y, epochs=6, **options)["loss"])
    losses = []
    for epochs in (1, 3):
        losses += list(parts.fit(X, y, epochs=epochs, keep_optimizer=True, **options)["loss"])
    parts = pickle.loads(pickle.dumps(parts))
    for start in range(0, 96, 24):
        parts.train_on_batch(X[start : start + 24], y[start : start + 24])
    losses += list(parts.fit(X, y, keep_optimizer=True, **options)["loss"])
    assert losses == expected[:4] + expected[5:]
    assert_same(whole, parts)
    parts.fit(X, y, **options)  # anew, and nothing is kept
    before = parts.parameters["dense_1.bias"]
    parts.train_on_batch(X, y, optimizer=Adam(0.01))
    np.testing.assert_allclose(abs(parts.parameters["dense_1.bias"] - before), 0.01, rtol=1e-2)
    for other in ({"optimizer": "lbfgs"}, {"callbacks": [BackupAndRestore("nowhere")]}):
        with pytest.raises(ValueError, match="`keep_optimizer` must be False with"):
            parts.fit(X, y, keep_optimizer=True, **options | other)


def test_a_fit_that_fails_before_its_first_step_leaves_the_optimiser_and_the_history():
    class Failing(Callback):
        def on_fit_begin(self, training):
            raise RuntimeError("not now")

    X, y = data()
    options = {"optimizer": SGD(0.1, momentum=0.9), "keep_optimizer": True, "verbose": 0}
    model, twin = network().build(6), network().build(6)
    for one in (model, twin):
        one.fit(X, y, loss=LOSS, epochs=3, **options)
    with pytest.raises(RuntimeError, match="not now"):
        model.fit(X, np.eye(3)[y], loss="squared_error", callbacks=[Failing()], **options)
    with pytest.raises(ValueError, match="is infinite in float32|beyond|finite in float32"):
        model.fit(X, np.eye(3)[y] * 1e300, loss="squared_error", **options)
    assert model.loss.name == LOSS and len(model.history) == 3
    trainer = twin.train_on_batch(X, y), model.train_on_batch(X, y), model._loop.trainer
    with pytest.raises(RuntimeError, match="not now"):
        model.fit(X, y, callbacks=[Failing()], **options)
    assert model._loop.trainer is trainer[2]
    for one in (model, twin):
        one.train_on_batch(X, y, optimizer=options["optimizer"])
    assert_same(model, twin)


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_masks_and_noise_are_new_in_every_call_and_equal_for_a_seed(n_threads):
    X, y = data()
    layers = GaussianNoise(0.1), Dense(10), ReLU(), Dropout(0.5), Dense(3)
    still = {"loss": LOSS, "optimizer": SGD(0.0), "seed": 1}
    one, other = (Sequential(*layers) for _ in range(2))
    losses = [one.train_on_batch(X, y, **still) for _ in range(4)]
    assert len(set(losses)) == 4
    assert losses == [other.train_on_batch(X, y, n_threads=n_threads, **still) for _ in range(4)]
    assert other.train_on_batch(X, y, **(still | {"seed": 2})) not in losses


def test_a_schedule_counts_the_calls():
    X, y = data()
    model = Sequential(Dense(3), dtype="float64").build(6)
    rate = CosineDecay(0.5, steps=4)
    for k in range(6):
        before, (_, gradients) = model.parameters, model.gradients(X, y, LOSS)
        model.train_on_batch(X, y, loss=LOSS, optimizer=SGD(rate, momentum=0.0))
        step = rate(np.array([float(k)]), 1)[0]
        expected = before["dense_0.bias"] - step * gradients["dense_0.bias"]
        np.testing.assert_allclose(model.parameters["dense_0.bias"], expected, rtol=1e-9, atol=1e-15)


def test_a_schedule_of_epochs_is_warned_of_once():
    X, y = data()
    model = network().build(6)
    decay = CosineDecay(0.5, epochs=4)
    for rate in (decay, Warmup(decay, steps=3), PiecewiseConstantDecay((0.5, 0.1), epochs=(4,))):
        with pytest.warns(UserWarning, match="the learning_rate of .* changes by epochs, .* length in `steps`") as w:
            for _ in range(2):
                model.train_on_batch(X, y, loss=LOSS, optimizer=SGD(rate))
        assert len(w) == 1 and w[0].filename == __file__
        model.reset_optimizer()
    _, gradients = model.gradients(X, y, LOSS)
    with pytest.warns(UserWarning, match="the momentum of .* changes by epochs") as w:
        model.apply_gradients(gradients, optimizer=SGD(0.1, momentum=CosineDecay(0.5, epochs=4)))
    assert w[0].filename == __file__
    model.fit(X, y, loss=LOSS, optimizer=SGD(CosineDecay(0.5, epochs=4)), epochs=1, verbose=0)  # no warning
    with pytest.warns(UserWarning, match=r"Dropout\(rate=CosineDecay.* changes by epochs"):
        Sequential(Dropout(decay), Dense(3)).train_on_batch(X, y, loss=LOSS)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_that_all_weigh_nothing(dtype):
    """A masked batch: the gradient is 0, and so is the loss, but for penalties."""
    X, y = data()
    model = Sequential(Dense(8, l2=0.1), ReLU(), Dense(3), dtype=dtype).build(6)
    penalty = 0.1 * np.sum(model.parameters["dense_0.weight"].astype(float) ** 2)
    loss, gradients = model.gradients(X, y, LOSS, sample_weight=np.zeros(len(X)))
    assert loss == pytest.approx(penalty, rel=1e-6)
    assert not gradients["dense_1.weight"].any() and not gradients["dense_0.bias"].any()
    before = model.parameters
    loss = model.train_on_batch(X, y, loss=LOSS, optimizer=SGD(0.1), sample_weight=np.zeros(len(X)))
    assert loss == pytest.approx(penalty, rel=1e-6)
    after = model.parameters
    assert np.array_equal(after["dense_1.weight"], before["dense_1.weight"])
    np.testing.assert_allclose(after["dense_0.weight"], 0.98 * before["dense_0.weight"], rtol=1e-6)


@pytest.mark.parametrize(
    "optimizer",
    [Adam(CosineDecay(0.02, steps=30)), SGD(0.05, momentum=0.9, ema_decay=0.8), AdaMax(0.01, clip_norm=0.1)],
    ids=["schedule", "average", "clip_norm"],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_steps_of_several_kinds_in_turn_have_the_bits_of_steps_that_are_set_up_anew(dtype, optimizer):
    """Other losses, dtypes and weights, gradients, rows, and parameters that are set, copied or fitted in between."""
    rng = np.random.default_rng(0)
    layers = Dense(12, l2=1e-3), BatchNorm(), ReLU(), Dropout(0.2), Dense(3)
    kept, anew = (Sequential(*layers, dtype=dtype).build(6) for _ in range(2))
    others = 0
    for k in range(90):
        n, kind = int(rng.integers(2, 20) if k % 3 else 20), int(rng.integers(0, 8))
        X, y = rng.normal(size=(n, 6)).astype("float32"), rng.integers(0, 3, n)
        weights, targets = rng.uniform(0, 2, n), rng.normal(size=(n, 3))
        before, results = [*kept._loop.others], []
        for model in (kept, anew):
            rate = optimizer.learning_rate if optimizer.scheduled else 0.01 * (1 + k % 3)
            options = {"optimizer": replace(optimizer, learning_rate=rate), "seed": k // 9, "n_threads": 1}
            if kind in (0, 1):
                results.append(model.train_on_batch(X, y, loss=LOSS, **options))
            elif kind == 2:
                results.append(model.train_on_batch(X.astype(float), y, loss=LOSS, **options))
            elif kind == 3:
                results.append(model.train_on_batch(X, y, loss=LOSS, sample_weight=weights, **options))
            elif kind == 4:
                results.append(model.train_on_batch(X, targets, loss="squared_error", **options))
            elif kind == 5:
                loss, gradients = model.gradients(X, y, LOSS)
                model.apply_gradients(gradients, optimizer=options["optimizer"], n_threads=1)
                results.append(loss)
            elif kind == 6:
                model.set_parameters({"dense_0.bias": np.full(12, 0.01 * k)})
                results.append(0.0)
            else:
                results.append(float(model.logits(X).sum()))
        assert results[0] == results[1], k
        others += kept._loop.trainer in before
        anew._loop.others.clear()
        if k % 45 == 44:
            kept, anew = copy.deepcopy(kept), copy.deepcopy(anew)
    assert others > 10
    for name, array in anew.parameters.items():
        np.testing.assert_array_equal(kept.parameters[name], array, err_msg=name)


def test_a_refused_or_diverged_step_of_another_kind_leaves_all_as_it_was():
    X, y = data()
    model, twin = (Sequential(Dense(3), dtype="float64").build(6) for _ in range(2))
    _, gradients = model.gradients(X, y, LOSS)
    for one in (model, twin):
        one.apply_gradients(gradients, optimizer=SGD(0.1, momentum=0.9))
        one.train_on_batch(X, y, loss=LOSS, optimizer=SGD(0.2, momentum=0.9))
    with pytest.raises(ValueError, match="must have one for each parameter"):
        model.apply_gradients({}, optimizer=SGD(0.5, momentum=0.9))
    with pytest.raises(DivergenceError, match="as they were before it"):
        model.train_on_batch(X, np.full((len(X), 3), 1e308), loss="squared_error", optimizer=SGD(0.2, momentum=0.9))
    for one in (model, twin):
        one.train_on_batch(X, y, loss=LOSS)
        one.apply_gradients(gradients)
    for name, array in twin.parameters.items():
        np.testing.assert_array_equal(model.parameters[name], array)


def test_a_divergence_after_another_kind_of_step_goes_back_to_the_last_one():
    """Not to where that kind was when it was last used."""
    X, y = data(dtype=np.float64)
    model = Sequential(Dense(3), dtype="float64").build(6)
    targets, optimizer = np.zeros((len(X), 3)), SGD(0.1, momentum=0.9)
    for _ in range(3):
        model.train_on_batch(X, targets, loss="squared_error", optimizer=optimizer)
        model.train_on_batch(X, y, loss=LOSS, optimizer=optimizer)
    before = model.parameters
    with pytest.raises(DivergenceError):
        model.train_on_batch(X, targets + 1e308, loss="squared_error", optimizer=optimizer)
    for name, array in before.items():
        np.testing.assert_array_equal(model.parameters[name], array)


def test_moments_that_are_not_finite_are_noticed_by_another_kind_of_step():
    """In a large network, at whose moments a step does not always look."""
    X, y = np.random.default_rng(0).normal(size=(4, 1000)), np.array([0, 1, 2, 0])
    model = Sequential(Dense(40), ReLU(), Dense(3), dtype="float64").build(1000)
    before = model.parameters
    for _ in range(2):
        model.train_on_batch(X, y, loss=LOSS, optimizer=Adam(1e-3))
    gradients = {name: np.full(array.shape, 1e200) for name, array in before.items()}
    model.apply_gradients(gradients, optimizer=Adam(1e-3))  # their squares are infinite, but no parameter is
    with pytest.raises(DivergenceError, match="a gradient is no longer finite"):
        model.train_on_batch(X, y, loss=LOSS, optimizer=Adam(1e-3))
    assert all(np.isfinite(array).all() for array in model.parameters.values())


def test_rows_of_other_kinds_are_not_kept_alive():
    X, y = data()
    model, alive, loop = network(), [], None
    for n in (2, 4, 8, len(X)):  # each time there is no room for so many
        for loss, kind in (("hinge", "float32"), (LOSS, "float64"), (LOSS, "float32"), (LOSS, "uint8")):
            rows = X[:n].astype(kind)
            model.train_on_batch(rows, y[:n], loss=loss)
            alive.append(weakref.ref(rows))
            del rows
            loop = model._loop
            kept = [loop.trainer, *loop.others]
            assert len({(one.loss, one.stored_as) for one in kept}) == len(kept) <= 3
    gc.collect()
    assert not any(ref() is not None for ref in alive) and len(loop.others) == 2


def test_what_is_set_up_anew_in_each_step_is_not_kept():
    X, y = scipy.sparse.random(32, 300, density=0.02, format="csr", random_state=0), np.arange(32) % 3
    model = Sequential(Dense(3))
    for loss in (LOSS, "hinge", LOSS):
        model.train_on_batch(X, y, loss=loss)
    assert model._loop.trainer.plan.entries and not model._loop.others
    model = Sequential(Dense(8000), Dense(3))
    for loss in (LOSS, "hinge", LOSS):
        model.train_on_batch(X.toarray(), y, loss=loss)
    assert model._loop.trainer.plan.n_bytes > 2**24 and not model._loop.others


def test_gradients_that_were_given_say_nothing_of_what_comes_out():
    X, y = data()
    model = network()
    model.fit(X, y, loss=LOSS, epochs=1, verbose=0)
    model.train_on_batch(X, np.ones((len(X), 3)), loss="given_gradient")
    assert model.loss.name == LOSS and np.allclose(model.predict(X).sum(axis=1), 1)
    fresh = network()
    fresh.train_on_batch(X, np.ones((len(X), 3)), loss="given_gradient")
    assert fresh.loss.name == "given_gradient"


def test_rows_are_not_kept_alive():
    X, y = data()
    model = network()
    model.train_on_batch(X, y, loss=LOSS)
    alive = weakref.ref(X)
    del X
    gc.collect()
    assert alive() is None


def test_divergence_leaves_finite_parameters_and_may_be_followed_by_more():
    X, y = data()
    model = Sequential(Dense(10), ReLU(), Dense(3))
    options = {"loss": "squared_error", "optimizer": SGD(1e6)}
    with pytest.raises(DivergenceError, match="is no longer finite"):
        for _ in range(100):
            model.train_on_batch(X, np.eye(3)[y], **options)
    assert all(np.isfinite(array).all() for array in model.parameters.values())
    model.build(6)
    assert np.isfinite(model.train_on_batch(X, np.eye(3)[y], loss="squared_error", optimizer=SGD(0.01)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("optimizer", "by_hand"),
    [(Adam(0.01), False), (SGD(0.01, momentum=0.9, clip_norm=1e30), False), (SGD(0.1), False), (Adam(0.01), True)],
    ids=lambda value: None if isinstance(value, bool) else type(value).__name__,
)
def test_a_bad_batch_is_as_if_it_had_not_been(optimizer, by_hand, dtype):
    (X, y), huge = data(dtype=dtype), {"float32": 3e38, "float64": 1.7e308}[dtype]
    y = np.eye(3, dtype=dtype)[y]
    model, twin = (Sequential(Dense(10), Tanh(), Dense(3), dtype=dtype).build(6) for _ in range(2))

    def step(model, targets):
        if by_hand:
            _, gradients = model.gradients(X, y, "squared_error")
            gradients["dense_0.bias"] = gradients["dense_0.bias"] + targets[0, 0]
            model.apply_gradients(gradients, optimizer=optimizer)
        else:
            model.train_on_batch(X, targets, loss="squared_error", optimizer=optimizer)

    bad = y.copy()
    bad[0] = huge
    for k in range(12):
        if k % 4 == 3:
            with pytest.raises(DivergenceError, match=f"step {k + 1} diverged: .* are as they were before it"):
                step(model, bad)
            assert_same(model, twin)
        step(model, y)
        step(twin, y)
        assert_same(model, twin)


def test_a_large_network_goes_back_some_steps_and_says_how_many():
    X, y = np.random.default_rng(0).normal(size=(4, 300)), np.ones((4, 1))
    model = Sequential(Dense(300), Tanh(), Dense(1)).build(300)
    options, seen = {"loss": "squared_error", "optimizer": Adam(1e-3)}, []
    for k in range(50):
        seen.append(model.parameters["dense_0.weight"])
        try:
            model.train_on_batch(X, y if k < 43 else y * 1e38, **options)
        except DivergenceError as error:
            failed = error
            break
    words = re.search(r"step 44 diverged: .* as they were (\d+) steps before it", str(failed))
    assert 1 < int(words[1]) < 20
    assert np.array_equal(model.parameters["dense_0.weight"], seen[43 - int(words[1])])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"X": np.full((4, 6), np.nan)}, "`X` must be finite; got NaN in row 0, column 0"),
        ({"X": np.ones((4, 5))}, "`X` must have n_features=6 columns; got 5"),
        ({"y": np.arange(3)}, "`y` must be .*, for 4 rows and K=3 outputs; got shape"),
        ({"loss": "hinge_"}, "`loss` must be one of .*got 'hinge_'"),
        ({"optimizer": "rmsprob"}, "Did you mean 'rmsprop'"),
        ({"seed": -1}, "`seed` must be"),
        ({"n_threads": 0}, "`n_threads` must be"),
        ({"sample_weight": [1.0, -1.0, 1.0, 1.0]}, "`sample_weight` must"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_bad_input_changes_nothing(change, words):
    X, y = data(4)
    model = network()
    model.train_on_batch(X, y, loss=LOSS, optimizer="adam")
    twin = network()
    twin.train_on_batch(X, y, loss=LOSS, optimizer="adam")
    arguments = {"X": X, "y": y} | change
    with pytest.raises(ValueError, match=words):
        model.train_on_batch(arguments.pop("X"), arguments.pop("y"), **arguments)
    for one in (model, twin):
        one.train_on_batch(X, y)
    assert_same(model, twin)


def test_a_batch_that_is_refused_later_changes_nothing_either():
    X, y = data()
    model = Sequential(Dense(1))
    with pytest.raises(ValueError, match="holds numbers beyond float32"):
        model.train_on_batch(X, np.full((len(X), 1), 1e300), loss="squared_error")
    assert not model.built and model.loss is None and model.n_features is None
    model = network()
    model.train_on_batch(X, y, loss=LOSS)
    alive = weakref.ref(X)
    with pytest.raises(ValueError, match="holds numbers beyond float32"):
        model.train_on_batch(X, np.full((len(X), 3), 1e300), loss="squared_error")
    assert model.loss.name == LOSS
    del X
    gc.collect()
    assert alive() is None


def test_one_thread_at_a_time():
    """The others are refused, and see parameters of a whole step."""
    X, y = data(2000, 40)
    model = network()
    model.train_on_batch(X, y, loss=LOSS, optimizer=SGD(0.5))
    seen, refused, stop = [], [], threading.Event()

    def intrude():
        while not stop.is_set():
            seen.append(model.parameters)
            try:
                model.train_on_batch(-X, y)
            except RuntimeError as error:
                refused.append(str(error))

    thread = threading.Thread(target=intrude)
    thread.start()
    for _ in range(200):
        try:
            model.train_on_batch(X, y)
        except RuntimeError as error:
            refused.append(str(error))
    stop.set()
    thread.join()
    assert set(refused) <= {"another thread is in the middle of a step of this model."}
    assert all(np.isfinite(array).all() for parameters in seen for array in parameters.values())
    assert not model._loop.turns


def test_a_step_waits_for_those_who_read_and_they_for_each_other(monkeypatch):
    X, y = data()
    model, twin = network(), network()
    for one in (model, twin):
        one.train_on_batch(X, y, loss=LOSS)
    reads, goes_on, save, results = threading.Event(), threading.Event(), model._loop.trainer.save_parameters, {}

    def slowly():
        results["reads"] = results.get("reads", 0) + 1
        reads.set()
        assert goes_on.wait(60)
        save()

    monkeypatch.setattr(model._loop.trainer, "save_parameters", slowly)
    threads = [threading.Thread(target=lambda: results.update(first=model.parameters))]
    threads[0].start()
    assert reads.wait(60)
    threads.append(threading.Thread(target=lambda: results.update(second=model.parameters)))
    threads.append(threading.Thread(target=lambda: results.update(loss=model.train_on_batch(X, y))))
    for come, thread in enumerate(threads[1:], 2):
        thread.start()
        until = time.monotonic() + 60
        while len(model._loop.turns) < come and time.monotonic() < until:
            time.sleep(0.001)
    assert len(model._loop.turns) == 3 and results == {"reads": 1}
    goes_on.set()
    for thread in threads:
        thread.join(60)
    assert results["loss"] == twin.train_on_batch(X, y)
    assert results["reads"] == 1  # the second reader found what the first had read
    first = results["first"]
    assert all((array == results["second"][name]).all() for name, array in first.items())
    assert any((array != model.parameters[name]).any() for name, array in first.items())


def test_a_reader_that_was_left_behind_by_a_fork_is_not_waited_for():
    X, y = data()
    model = network()
    model.train_on_batch(X, y, loss=LOSS)
    left = Turn(steps=False)
    left._process = left._thread = -1
    model._loop.turns[left] = None
    assert np.isfinite(model.train_on_batch(X, y)) and model.parameters and not model._loop.behind


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a fork")
def test_a_child_that_was_forked_off_in_the_middle_of_a_step_goes_on_from_an_earlier_one():
    X, y = data()
    model = network().build(6)
    model.train_on_batch(X, y, loss=LOSS, optimizer="adam")
    before = model.parameters
    turn = Turn(steps=True)
    turn._process += 1  # another process's, which this one is a copy of
    model._loop.turns[turn], model._loop.behind = None, True
    assert all(np.array_equal(value, before[name]) for name, value in model.parameters.items())
    model.train_on_batch(X, y, optimizer=Adam(0.01))
    moved = abs(model.parameters["dense_1.bias"] - before["dense_1.bias"])
    np.testing.assert_allclose(moved, 0.01, rtol=1e-3)  # Adam's first step
    assert not model._loop.turns


def test_a_copy_made_while_another_thread_steps_leaves_the_newer_parameters(monkeypatch):
    X, y = data()
    model = network()
    model.train_on_batch(X, y, loss=LOSS)
    step = Turn(steps=True)
    model._loop.turns[step] = None  # of another thread
    before = model._stored
    assert pickle.loads(pickle.dumps(model))._stored.keys() == before.keys()
    assert model._loop.behind and model._stored is before
    del model._loop.turns[step]
    assert any((array != before[name]).any() for name, array in model.parameters.items())


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="timers are POSIX's")
def test_a_step_from_a_signal_handler_within_a_read_is_refused(monkeypatch):
    """It would wait for itself; what only reads does not."""
    X, y = data()
    model = network()
    model.train_on_batch(X, y, loss=LOSS)
    save, refused = model._loop.trainer.save_parameters, []

    def handle(*_):
        monkeypatch.setattr(model._loop.trainer, "save_parameters", save)
        with pytest.raises(RuntimeError, match="in the middle of") as refusal:
            model.train_on_batch(X, y)
        assert model._loop.behind and model.parameters and not model._loop.behind
        refused.append(refusal)

    monkeypatch.setattr(model._loop.trainer, "save_parameters", lambda: signal.raise_signal(signal.SIGALRM))
    before = signal.signal(signal.SIGALRM, handle)
    try:
        assert model.parameters and refused
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not model._loop.turns


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="timers are POSIX's")
@untraced()
def test_ctrl_c_at_any_time_leaves_nothing_taken():
    """`acquire` and then `try` left a lock taken after one in fifty of them, and `with` does since Python 3.14."""
    X, y = data()
    model, rng, hits = network(), np.random.default_rng(0), 0
    model.train_on_batch(X, y, loss=LOSS)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        while hits < 1000:
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(20e-6, 300e-6))
                while True:
                    model.train_on_batch(X, y)
            except KeyboardInterrupt:
                hits += 1
                assert not model._loop.turns
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert np.isfinite(model.train_on_batch(X, y))


def test_ctrl_c_right_after_a_step_leaves_the_step_in_the_model(monkeypatch):
    X, y = data()
    model, twin = network(), network()
    for one in (model, twin):
        one.train_on_batch(X, y, loss=LOSS, optimizer="adam")
    twin.train_on_batch(X, y)
    assert not model._loop.behind or model.parameters  # it has the first step
    run = Training.run

    def interrupted(self, *args, **options):
        run(self, *args, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Training, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.train_on_batch(X, y)
    assert_same(model, twin)
    for one in (model, twin):
        one.train_on_batch(X, y)
    assert_same(model, twin)


def test_a_copy_right_after_a_step_has_it():
    X, y = data()
    model = network()
    model.train_on_batch(X, y, loss=LOSS)
    before = model.build(6).parameters
    model.train_on_batch(X, y, loss=LOSS)
    twin = copy.copy(model)
    assert not np.array_equal(twin.parameters["dense_0.weight"], before["dense_0.weight"])
    assert_same(twin, model)


def test_masks_do_not_depend_on_earlier_sizes_and_epochs_are_counted():
    X, y = data()
    layers, still = (Dropout(0.5), Dense(3)), {"loss": LOSS, "optimizer": SGD(0.0)}
    one, other = (Sequential(*layers) for _ in range(2))
    for model, sizes in ((one, (10, 50, 20)), (other, (50, 10, 20))):
        losses = [model.train_on_batch(X[:n], y[:n], **still) for n in sizes]
        assert model._epochs == 3
        model.last = losses[-1]
    assert one.last == other.last


def test_sparse_rows_have_the_same_bits_whatever_came_before():
    rng = np.random.default_rng(0)
    thin, thick = (scipy.sparse.random(60, 300, share, "csr", random_state=rng) for share in (0.005, 0.08))
    y = np.arange(60) % 3
    one, other = network(dtype="float64"), network(dtype="float64")
    options = {"loss": LOSS, "optimizer": SGD(0.0, momentum=0.0)}
    one.train_on_batch(thick, y, **options)
    for model in (one, other):
        model.train_on_batch(thin, y, **options)
        model.train_on_batch(thin, y, loss=LOSS, optimizer=SGD(0.1, momentum=0.0))
        model.train_on_batch(thick, y, loss=LOSS, optimizer=SGD(0.1, momentum=0.0))
    assert_same(one, other)


def test_another_number_of_threads_is_another_training():
    (X, y), model = data(), network(Dropout(0.5))
    model.train_on_batch(X, y, loss=LOSS, seed=1, n_threads=1)
    before = model._loop.trainer
    model.train_on_batch(X, y)
    assert (model._loop.trainer is before) == (model._loop.trainer.n_threads == 1)
    kept = model._loop.trainer
    model.train_on_batch(X, y, n_threads=kept.n_threads)
    assert model._loop.trainer is kept and kept.seed == 1


def test_what_it_needs_first():
    X, y = data()
    with pytest.raises(ValueError, match="`loss` must be one of .*; got None"):
        network().train_on_batch(X, y)
    with pytest.raises(ValueError, match="at least 2, with as many rows, for BatchNorm; got 1"):
        network(BatchNorm()).train_on_batch(X[:1], y[:1], loss=LOSS)


def test_a_last_layer_that_the_loss_has_itself_is_warned_of_as_in_a_fit():
    X, y = data()
    model = Sequential(Dense(3), Softmax())
    with pytest.warns(UserWarning, match="takes logits and has its own Softmax.*leave out the last layer") as caught:
        model.train_on_batch(X, y, loss=LOSS)
    assert caught[0].filename == __file__
    model.train_on_batch(X, y)  # once is enough


def test_queries_and_losses_across_rows():
    X, relevance = data(30)[0], np.arange(30) % 4
    model = Sequential(Dense(1))
    for groups in (np.arange(30) // 10, np.arange(30) // 5):
        first = model.train_on_batch(X, relevance, loss="listnet", optimizer=Adam(0.05), groups=groups)
        for _ in range(20):
            last = model.train_on_batch(X, relevance, groups=groups)
        assert last < first
    embedding = Sequential(Dense(2))
    first = embedding.train_on_batch(X, relevance, loss="contrastive", optimizer=Adam(0.05))
    for n in (30, 17, 30, 29) * 5:
        last = embedding.train_on_batch(X[:n], relevance[:n])
    assert last < first
