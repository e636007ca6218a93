"""Schedules of other numbers than the learning rate: momentum, weight decay, bounds of the gradient, dropout."""

import dataclasses
import json

import numpy as np
import pytest
import reference
from test_dropout import keys, twin_step
from test_layer_options import data, network, train

from fastmlp import (
    SGD,
    Adam,
    AdamW,
    Dense,
    Dropout,
    Lion,
    NAdam,
    RMSprop,
    Sequential,
    Tanh,
    load_model,
    optimizers,
    save_model,
)
from fastmlp.engine import jit
from fastmlp.layers import from_config, to_config
from fastmlp.schedules import Constant, CosineDecay, ExponentialDecay, Schedule, Warmup
from fastmlp.training import Training

SCHEDULED = [
    SGD(0.05, momentum=CosineDecay(0.9, 0.1, steps=6)),
    SGD(0.05, momentum=Warmup(0.9, steps=3), nesterov=True),
    SGD(CosineDecay(0.05, epochs=3), clip_value=ExponentialDecay(0.2, 0.5, epochs=1)),
    AdamW(0.01, epsilon=1e-3, weight_decay=CosineDecay(2.0, epochs=2), clip_norm=CosineDecay(0.5, 0.01, steps=9)),
    Adam(0.01, epsilon=1e-3, beta_1=CosineDecay(0.95, 0.85, steps=7), beta_2=Warmup(0.99, steps=5)),
    NAdam(0.01, epsilon=1e-3, beta_2=CosineDecay(0.99, 0.9, steps=7)),
    Lion(0.001, weight_decay=Warmup(5.0, steps=4)),
    Lion(0.001, beta_1=CosineDecay(0.9, 0.5, steps=7), beta_2=CosineDecay(0.99, 0.9, epochs=2)),
    RMSprop(0.01, epsilon=1e-3, momentum=CosineDecay(0.9, steps=9)),
]


def at(optimizer, t):
    """The optimiser with numbers, of step t; 3 steps make an epoch."""
    fields = {f.name: getattr(optimizer, f.name) for f in dataclasses.fields(optimizer)}
    step = np.array([float(t)])
    return dataclasses.replace(
        optimizer, **{name: v(step, 3)[0] for name, v in fields.items() if isinstance(v, Schedule)}
    )


@pytest.mark.parametrize("optimizer", SCHEDULED, ids=repr)
def test_against_the_twin_with_other_numbers_at_each_step(optimizer):
    model = network(None, "all", "slow")
    layers = [layer for layer in model.layers if not isinstance(layer, Dropout)]
    twin = reference.Twin(layers, model.parameters, "squared_error", optimizer)
    train(model, optimizer)
    X, y = data()
    for t in range(9):
        rows = reference.in_order(41, 16)[t % 3]
        twin.optimizer = at(optimizer, t)
        twin.step(X[rows], y[rows])
    for name, value in model.parameters.items():
        assert reference.relative_error(value, twin.parameters[name]) < 1e-11, name


@pytest.mark.parametrize("optimizer", SCHEDULED, ids=repr)
def test_constant_schedules_are_numbers_and_compile_nothing(optimizer):
    fields = {f.name: getattr(at(optimizer, 2), f.name) for f in dataclasses.fields(optimizer)}
    names = [f.name for f in dataclasses.fields(optimizer) if isinstance(getattr(optimizer, f.name), Schedule)]
    plain, constant = network(None, None, None), network(None, None, None)
    train(plain, dataclasses.replace(optimizer, **fields))
    before = set(jit._addresses)
    train(constant, dataclasses.replace(optimizer, **{**fields, **{n: Constant(fields[n]) for n in names}}))
    assert set(jit._addresses) == before
    assert all(np.array_equal(value, constant.parameters[name]) for name, value in plain.parameters.items())


@pytest.mark.parametrize("optimizer", SCHEDULED, ids=repr)
def test_threads_resuming_and_json(optimizer):
    assert optimizers.from_config(json.loads(json.dumps(optimizers.to_config(optimizer)))) == optimizer
    whole, threads, parts = (network("l1", None, None, "float32") for _ in range(3))
    train(whole, optimizer, 4)
    train(threads, optimizer, 4, n_threads=2)
    X, y = data("float32")
    options = {"loss": "squared_error", "optimizer": optimizer, "batch_size": 16, "shuffle": False}
    with Training(parts, X, y, **options) as training:
        training.run(1)
        state = training.state
    with Training(parts, X, y, **options, state=state) as training:
        training.run(3)
    for name, value in whole.parameters.items():
        assert np.array_equal(value, threads.parameters[name]) and np.array_equal(value, parts.parameters[name])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("first", [False, True])
def test_the_rate_of_dropout_follows_a_schedule(first, dtype, rng):
    schedule = Warmup(CosineDecay(0.6, 0.1, steps=5), steps=2)
    layers = [Dense(33), Tanh(), Dropout(schedule), Dense(3)]
    layers = [Dropout(Constant(0.25)), *layers] if first else layers
    X, y = rng.normal(size=(50, 21)), rng.normal(size=(50, 3))
    model = Sequential(*layers, dtype=dtype).build(21, seed=3)
    p = {name: value.astype(np.float64) for name, value in model.parameters.items()}
    options = {"loss": "squared_error", "optimizer": SGD(0.05), "batch_size": 20, "shuffle": False, "seed": 9}
    with Training(model, X.astype(dtype), y.astype(dtype), **options) as training:
        training.run(2)
        assert "mask / (1 - rate)" in str(training.plan)
    for epoch in range(2):
        for k, (rows, key) in enumerate(zip(reference.in_order(50, 20), keys(9, epoch, 3), strict=True)):
            rate = schedule(np.array([3.0 * epoch + k]), 3)[0]
            now = [Dropout(rate) if layer == Dropout(schedule) else layer for layer in layers]
            now = [Dropout(0.25), *now[1:]] if first else now
            _, p = twin_step(now, p, X[rows], y[rows], 0.05, key)
    for name, value in model.parameters.items():
        assert reference.relative_error(value, p[name]) < (1e-11 if dtype == "float64" else 1e-4), name


def test_a_scheduled_dropout_is_saved(tmp_path):
    model = Sequential(Dense(3), Dropout(CosineDecay(0.5, epochs=2)), Dense(1)).build(2)
    save_model(tmp_path / "model", model)
    assert load_model(tmp_path / "model").layers == model.layers
    layer = Dropout(Constant(0.5))
    assert from_config(json.loads(json.dumps(to_config(layer)))) == layer


@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        (SGD(momentum=Constant(1.0)), r"`momentum` must be in \[0, 1\); got 1.0"),
        (Adam(beta_2=Constant(1.0)), r"`beta_2` must be in \[0, 1\); got 1.0"),
        (SGD(clip_value=CosineDecay(1.0, steps=2)), r"`clip_value` must be in \(0, inf\); got 0.0"),
        (AdamW(clip_norm=Constant(0.0)), r"`clip_norm` must be in \(0, inf\); got 0.0"),
    ],
)
def test_values_out_of_range_are_refused(optimizer, words):
    with pytest.raises(ValueError, match=words):
        train(network(None, None, None), optimizer)


def test_betas_that_follow_a_schedule_against_pytorch(rng):
    """PyTorch's users set `betas` of the group before a step; so does its OneCycleLR."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    beta_1, beta_2 = CosineDecay(0.95, 0.8, steps=7), CosineDecay(0.99, 0.9, steps=7)
    X, y = rng.normal(size=(48, 5)), rng.normal(size=(48, 2))
    model = Sequential(Dense(7), Tanh(), Dense(2), dtype="float64").build(5, seed=1)
    twin = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 2)).double()
    with torch.no_grad():
        for k, linear in enumerate(twin[::2]):
            linear.weight[:] = torch.tensor(model.parameters[f"dense_{k}.weight"].T.copy())
            linear.bias[:] = torch.tensor(model.parameters[f"dense_{k}.bias"])
    optimizer = Adam(0.01, epsilon=1e-3, beta_1=beta_1, beta_2=beta_2)
    options = {"loss": "squared_error", "optimizer": optimizer, "batch_size": 16, "shuffle": False}
    with Training(model, X, y, **options) as training:
        training.run(3)
    peer = torch.optim.Adam(twin.parameters(), lr=0.01, eps=1e-3)
    for t in range(9):
        step, rows = np.array([float(t)]), slice(16 * (t % 3), 16 * (t % 3) + 16)
        peer.param_groups[0]["betas"] = (beta_1(step, 3)[0], beta_2(step, 3)[0])
        peer.zero_grad()
        (0.5 * ((twin(torch.tensor(X[rows])) - torch.tensor(y[rows])) ** 2).sum(1).mean()).backward()
        peer.step()
    for k, linear in enumerate(twin[::2]):
        assert np.allclose(model.parameters[f"dense_{k}.weight"], linear.weight.detach().numpy().T, rtol=1e-10)


def test_the_beta_1_of_nadam_is_a_number():
    with pytest.raises(TypeError, match="`beta_1`"):
        NAdam(beta_1=Constant(0.9))


def test_a_rate_of_dropout_out_of_range_is_refused():
    model = Sequential(Dropout(Constant(1.0)), Dense(3), dtype="float64").build(7)
    with pytest.raises(ValueError, match=r"`rate` must be in \[0, 1\); got 1.0"):
        train(model, SGD(0.1))
