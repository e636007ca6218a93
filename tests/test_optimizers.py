"""Optimisers in whole fits: PyTorch step by step, decay of weights only, clipping, divergence, no compiling.

The rules alone are tested in `test_declarations.py`, over all variants.
"""

import dataclasses
import json
from fractions import Fraction

import numpy as np
import pytest
import reference
from cases import Case, as_targets, float64_by_default, torch_optimizer, train
from hypothesis import given, settings, strategies as st

from fastmlp import BatchNorm, Dense, DivergenceError, ReLU, Sequential, load_model, optimizers, records, save_model
from fastmlp.engine import jit
from fastmlp.optimizers import (
    OPTIMIZERS,
    SGD,
    AdaDelta,
    AdaGrad,
    Adam,
    AdaMax,
    AdamW,
    AMSGrad,
    Lion,
    NAdam,
    RMSprop,
    Rprop,
    power,
)
from fastmlp.schedules import CosineDecay, Warmup
from fastmlp.serialization import load_model_with_extra
from fastmlp.training import Training

# Every path through the kernels, with the usual small epsilons: float64 only
VARIANTS = [
    SGD(0.05, momentum=0.9, clip_value=0.01),
    Adam(0.01, clip_value=0.02),
    AdamW(0.01),
    AdamW(0.01, weight_decay=1.0, clip_value=0.02),
    SGD(0.05, momentum=0.9, clip_norm=0.1),
    AdamW(0.01, clip_norm=0.3),
    NAdam(0.01),
    NAdam(0.01, beta_1=0.7, momentum_decay=0.1),
    AdaGrad(0.05),
    AMSGrad(0.01, beta_2=0.5),
    AdaMax(0.01, beta_2=0.5),
    AdaDelta(0.5),
    RMSprop(0.01),
    RMSprop(0.01, momentum=0.9),
    RMSprop(0.01, centered=True, epsilon=1e-4),
    RMSprop(0.01, momentum=0.9, centered=True, epsilon=1e-4),
    Rprop(0.01),
    Rprop(0.02, eta_minus=0.3, eta_plus=1.5, min_step=0.01, max_step=0.03),
]
LIONS = [Lion(0.001), Lion(0.001, weight_decay=2.0, clip_value=0.1), Lion(0.001, clip_norm=0.1)]


def test_powers_are_exact_but_for_rounding_and_do_not_depend_on_their_neighbours():
    steps = np.array([1.0, 2, 3, 100, 1023, 1024, 1025, 5000, 2**20, 3_000_000])
    for base in (0.0, 0.5, 0.9, 0.999, 1 - 1e-7):
        powers = power(base, steps)
        exact = [float(Fraction(base) ** int(n)) if n <= 5000 else base**n for n in steps]
        np.testing.assert_allclose(powers, exact, rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(powers[:3], exact[:3], rtol=4e-16)
        assert powers.tolist() == [float(power(base, steps[k : k + 1])) for k in range(len(steps))]
    assert power(np.full(2, 0.5), steps[:2]).tolist() == [0.5, 0.25]


def network(optimizer, dtype="float64", **options):
    case = Case(24, 7, (19, 3), ("tanh", "identity"), "squared_error", optimizer, 24, "float64", dtype)
    return dataclasses.replace(case, **options)


@pytest.mark.torch
@pytest.mark.parametrize("optimizer", VARIANTS, ids=repr)
def test_twenty_steps_against_torch(torch, optimizer):
    case = network(optimizer)
    parameters = {name: torch.tensor(p, requires_grad=True) for name, p in case.model().parameters.items()}
    weights, biases = ([p for name, p in parameters.items() if name.endswith(end)] for end in (".weight", ".bias"))
    theirs = torch_optimizer(torch, optimizer, weights, biases)
    X, y = (torch.tensor(a, dtype=torch.float64) for a in case.data()[:2])
    w0, b0, w1, b1 = (parameters[f"dense_{k}.{kind}"] for k in (0, 1) for kind in ("weight", "bias"))
    for _ in range(20):
        theirs.zero_grad()
        z = torch.tanh(X @ w0 + b0) @ w1 + b1
        (0.5 * ((z - y) ** 2).sum(1).mean()).backward()
        if optimizer.clip_value is not None:
            torch.nn.utils.clip_grad_value_(parameters.values(), optimizer.clip_value)
        if optimizer.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters.values(), optimizer.clip_norm)
        with float64_by_default(torch):
            theirs.step()
    ours, _ = train(case, epochs=20)
    for name, p in parameters.items():
        assert reference.relative_error(ours[name], p.detach().numpy()) < 1e-10, name


@pytest.mark.parametrize("optimizer", LIONS, ids=repr)
def test_lion_against_the_twin(optimizer):
    case = network(optimizer, batch_size=10, l2=0.1)
    model = case.model()
    X, y, _ = case.data()
    twin = case.twin(model)
    for _ in range(10):
        twin.epoch(X, y, reference.in_order(24, 10))
    ours, _ = train(case, epochs=10)
    for name, value in twin.parameters.items():
        assert reference.relative_error(ours[name], value) < 1e-11, name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", [*VARIANTS, *LIONS], ids=repr)
def test_the_same_bits_for_any_number_of_threads(optimizer, dtype):
    case = network(optimizer, dtype, units=(70, 33), batch_size=7)
    expected, _ = train(case, epochs=3, n_threads=1)
    parameters, _ = train(case, epochs=3, n_threads=2)
    for name, value in expected.items():
        assert np.array_equal(value, parameters[name]), name


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_by_name_and_by_object(name):
    X = np.random.default_rng(0).normal(size=(40, 3))
    results = []
    for optimizer in (name, OPTIMIZERS[name]()):
        model = Sequential(Dense(5), ReLU(), Dense(1), dtype="float64")
        history = model.fit(X, X[:, 0], loss="squared_error", optimizer=optimizer, epochs=5, batch_size=8, verbose=0)
        assert history["loss"][-1] < history["loss"][0]
        results.append(model.parameters)
    assert all(np.array_equal(results[0][key], results[1][key]) for key in results[0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", [AdamW(0.5, weight_decay=0.5), Lion(0.5, weight_decay=0.5)], ids=repr)
def test_weights_decay_and_biases_do_not(optimizer, dtype):
    """Where the gradient is 0, only the decay is left: W (1 - 1/4)^t."""
    model = Sequential(Dense(40, bias_initializer="normal"), dtype=dtype).build(33)
    before = model.parameters
    X, y = np.zeros((8, 33), dtype), np.tile(before["dense_0.bias"], (8, 1))
    model.fit(X, y, loss="squared_error", optimizer=optimizer, epochs=3, batch_size=8, verbose=0)
    np.testing.assert_allclose(model.parameters["dense_0.weight"], before["dense_0.weight"] * 0.75**3, rtol=1e-6)
    assert np.array_equal(model.parameters["dense_0.bias"], before["dense_0.bias"])


def test_products_of_nadams_momenta_from_any_step_on():
    for optimizer in (NAdam(), NAdam(beta_1=0.99, momentum_decay=1.0), NAdam(momentum_decay=0.0), NAdam(beta_1=0.0)):
        step = np.arange(1.0, 2001)
        mu = optimizer.beta_1 * (1 - 0.5 * 0.96 ** (step * optimizer.momentum_decay))
        product = optimizer._product(step, optimizer.momentum_decay * np.log(0.96))
        np.testing.assert_allclose(product, np.cumprod(mu), rtol=1e-11, atol=1e-300)
        table = optimizer.scalars(np.full(2000, 0.1), step)
        assert np.isfinite(table).all()
        for start in (1, 7, 1000):
            assert np.array_equal(table[start:], optimizer.scalars(np.full(2000 - start, 0.1), step[start:]))


# Clipping


@settings(max_examples=20)
@given(
    st.floats(1e-6, 10),
    st.sampled_from([0.0, 0.5]),
    st.sampled_from([SGD(0.1), SGD(0.1, momentum=0.9, nesterov=True), Adam(0.01, epsilon=1e-3)]),
    st.integers(1, 40),
)
def test_clipping_against_the_twin(bound, l2, optimizer, width):
    case = network(dataclasses.replace(optimizer, clip_value=bound), units=(width, 3), batch_size=9, l2=l2)
    model = case.model()
    X, y, _ = case.data()
    twin = case.twin(model)
    for _ in range(2):
        twin.epoch(X, as_targets(case, y), reference.in_order(24, 9))
    ours, _ = train(case, epochs=2)
    for name, value in twin.parameters.items():
        assert reference.relative_error(ours[name], value) < 1e-11, name


def test_an_infinite_bound_is_refused_and_a_huge_one_changes_nothing():
    with pytest.raises(ValueError, match="clip_value"):
        SGD(clip_value=np.inf)
    plain, _ = train(network(Adam(0.01)))
    clipped, _ = train(network(Adam(0.01, clip_value=1e300)))
    assert all(np.array_equal(plain[name], clipped[name]) for name in plain)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_clipping_does_not_hide_nan(dtype):
    g = np.array([np.nan, np.inf, -np.inf, 3.0, -3.0, 0.5, -0.0, np.nan] * 5, dtype)
    scalars, worker = np.full(records.N_SCALARS, 2.0), np.zeros(records.WORKER, np.int64)
    worker[records.SCALARS] = scalars.ctypes.data
    jit.function("clip", dtype)(g.ctypes.data, 0, len(g), worker.ctypes.data)
    np.testing.assert_array_equal(g, np.array([np.nan, 2, -2, 2, -2, 0.5, -0.0, np.nan] * 5, dtype))


def test_an_infinite_gradient_is_clipped_like_any_other():
    X = np.float32([[1e30, 0.0], [-1e30, 1.0]])
    model = Sequential(Dense(1), dtype="float32").build(2)
    model.set_parameters({"dense_0.weight": np.zeros((2, 1))})
    options = {"loss": "squared_error", "batch_size": 2, "verbose": 0}
    model.fit(X, [1e12, 0.0], optimizer=SGD(1e-35, clip_value=1.0), **options)  # 1e42 is infinite in float32
    np.testing.assert_allclose(model.parameters["dense_0.weight"][0, 0], 1e-35, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_stops_at_divergence(name, dtype):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(64, 6))
    model = Sequential(Dense(9), ReLU(), Dense(1), dtype=dtype)
    rate = 1e30 if dtype == "float32" else 1e200
    optimizer = OPTIMIZERS[name](rate, **({"max_step": rate} if name == "rprop" else {}))
    with pytest.raises(DivergenceError, match="learning_rate"):
        model.fit(X, X[:, 0], loss="squared_error", optimizer=optimizer, epochs=50, batch_size=8, verbose=0)
    assert all(np.isfinite(value).all() for value in model.parameters.values())


@settings(max_examples=20)
@given(
    st.floats(1e-3, 10),
    st.sampled_from([0.0, 0.5]),
    st.sampled_from([SGD(0.1), SGD(0.1, momentum=0.9, nesterov=True), Adam(0.01, epsilon=1e-3)]),
    st.sampled_from([1, 5, 32, 40, 70]),
    st.booleans(),
)
def test_clipping_by_the_norm_against_the_twin(bound, l2, optimizer, width, use_bias):
    optimizer = dataclasses.replace(optimizer, clip_norm=bound)
    case = network(optimizer, units=(width, 3), batch_size=9, l2=l2, use_bias=use_bias)
    model = case.model()
    X, y, _ = case.data()
    twin = case.twin(model)
    for _ in range(2):
        twin.epoch(X, as_targets(case, y), reference.in_order(24, 9))
    ours, _ = train(case, epochs=2)
    for name, value in twin.parameters.items():
        assert reference.relative_error(ours[name], value) < 1e-11, name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_step_is_no_longer_than_the_norm_and_a_huge_norm_changes_nothing(dtype):
    model = network(SGD(1.0), dtype).model()
    before = model.parameters
    after, _ = train(network(SGD(1.0, clip_norm=0.01), dtype), epochs=1)
    length = np.sqrt(sum(((after[name] - value) ** 2).sum() for name, value in before.items()))
    assert length == pytest.approx(0.01, rel=1e-4)
    plain, _ = train(network(Adam(0.01), dtype))
    clipped, _ = train(network(Adam(0.01, clip_norm=1e30), dtype))
    assert all(np.array_equal(plain[name], clipped[name]) for name in plain)


def test_a_norm_beyond_float32_is_a_number():
    """Squares are summed in float64: 1e25 is a gradient like any other."""
    model = Sequential(Dense(1, use_bias=False), dtype="float32").build(2)
    model.set_parameters({"dense_0.weight": np.zeros((2, 1))})
    X = np.float32([[3e12, 4e12]])
    model.fit(X, [1e13], loss="squared_error", optimizer=SGD(1.0, clip_norm=1.0), batch_size=1, verbose=0)
    np.testing.assert_allclose(model.parameters["dense_0.weight"], [[0.6], [0.8]], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("gradient", ["infinite", "nan"])
def test_clipping_by_the_norm_does_not_hide_what_is_not_finite(dtype, gradient):
    huge = 1e38 if dtype == "float32" else 1e308
    X = np.array([[huge, 0.0], [huge, 1.0]], dtype)
    model = Sequential(Dense(1), dtype=dtype).build(2)
    model.set_parameters({"dense_0.weight": np.zeros((2, 1))})
    y = [3.0, -3.0 if gradient == "nan" else 3.0]
    y = np.array(y) * 10
    with pytest.raises(DivergenceError):
        optimizer = SGD(1e-3, clip_norm=1.0)
        model.fit(X, y, loss="squared_error", optimizer=optimizer, batch_size=2, epochs=3, verbose=0)
    assert all(np.isfinite(value).all() for value in model.parameters.values())


def test_two_ways_of_clipping_exclude_each_other():
    with pytest.raises(ValueError, match="`clip_value` and `clip_norm` exclude each other; got 1.0 and 2.0"):
        Adam(clip_value=1.0, clip_norm=2.0)
    for optimizer in OPTIMIZERS.values():
        with pytest.raises(ValueError, match=r"`clip_norm` must be in \(0, inf\); got 0"):
            optimizer(clip_norm=0)
        with pytest.raises(ValueError, match=r"`ema_decay` must be in \[0, 1\); got 1"):
            optimizer(ema_decay=1)


# The moving average


@pytest.mark.torch
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("optimizer", [SGD(0.05, momentum=0.9), AdamW(0.01, clip_norm=0.3)], ids=repr)
def test_the_average_against_torch(torch, optimizer, decay):
    case = network(optimizer)
    parameters = {name: torch.tensor(p, requires_grad=True) for name, p in case.model().parameters.items()}
    ends = (".weight", ".bias")
    weights, biases = ([p for name, p in parameters.items() if name.endswith(end)] for end in ends)
    theirs = torch_optimizer(torch, optimizer, weights, biases)
    holder = torch.nn.ParameterList(parameters.values())
    averaged = torch.optim.swa_utils.AveragedModel(
        holder, avg_fn=lambda a, p, n: a + (1 - decay) / (1 - decay ** (int(n) + 1)) * (p - a)
    )
    X, y = (torch.tensor(a, dtype=torch.float64) for a in case.data()[:2])
    w0, b0, w1, b1 = (parameters[f"dense_{k}.{kind}"] for k in (0, 1) for kind in ("weight", "bias"))
    for _ in range(20):
        theirs.zero_grad()
        (0.5 * ((torch.tanh(X @ w0 + b0) @ w1 + b1 - y) ** 2).sum(1).mean()).backward()
        if optimizer.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters.values(), optimizer.clip_norm)
        theirs.step()
        averaged.update_parameters(holder)
    ours, _ = train(network(dataclasses.replace(optimizer, ema_decay=decay)), epochs=20)
    for name, p in zip(parameters, averaged.module, strict=True):
        assert reference.relative_error(ours[name], p.detach().numpy()) < 1e-10, name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_model_gets_the_average_and_the_steps_do_not_see_it(dtype):
    plain, averaged = network(Adam(0.02), dtype, batch_size=5), network(Adam(0.02, ema_decay=0.8), dtype, batch_size=5)
    X, y, _ = averaged.data()
    X, y = X.astype(dtype), y.astype(dtype)
    model = averaged.model()
    options = {"loss": "squared_error", "batch_size": 5, "shuffle": False}
    with Training(model, X, y, optimizer=averaged.optimizer, **options) as training:
        losses = training.run(4)
        raw = training.state["parameters"]
        of_training = training.loss_of(X, y), training.logits(X)
    expected, plain_losses = train(plain, epochs=4)
    assert np.array_equal(losses, plain_losses)
    assert all(np.array_equal(raw[name], value) for name, value in expected.items())
    assert not any(np.array_equal(model.parameters[name], value) for name, value in expected.items())
    model.loss = "squared_error"
    np.testing.assert_allclose(of_training[1], model.logits(X), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(of_training[0], 0.5 * ((model.logits(X) - y) ** 2).sum(1).mean(), rtol=1e-5)


def test_the_best_average_is_restored_and_divergence_keeps_the_last():
    from fastmlp import EarlyStopping

    case = network(Adam(0.05, ema_decay=0.5), batch_size=8)
    X, y, _ = case.data()
    model = case.model()
    options = {"loss": "squared_error", "optimizer": case.optimizer, "batch_size": 8, "verbose": 0}
    validation = (X + 1, y)  # gets worse in the end
    stopping = EarlyStopping(patience=2)
    history = model.fit(X, y, epochs=50, validation_data=validation, callbacks=[stopping], **options)
    assert model.evaluate(*validation)["loss"] == pytest.approx(min(history["val_loss"]), rel=1e-12)
    before = model.parameters
    options["optimizer"] = SGD(1e200, ema_decay=0.5)
    with pytest.raises(DivergenceError):
        model.fit(X, y, epochs=5, **options)
    assert all(np.array_equal(before[name], value) for name, value in model.parameters.items())


def test_a_state_without_an_average_is_refused():
    case = network(SGD(0.1, momentum=0.9))
    X, y, _ = case.data()
    options = {"loss": "squared_error", "batch_size": 8}
    with Training(case.model(), X, y, optimizer=case.optimizer, **options) as training:
        state = training.state
    with pytest.raises(ValueError, match="`state` has 1 optimiser slots, but .* needs 2"):
        Training(case.model(), X, y, optimizer=SGD(0.1, momentum=0.9, ema_decay=0.9), state=state, **options)


def test_other_numbers_compile_nothing():
    def fit(*given):
        for optimizer in given:
            train(network(optimizer, "float32"))

    fit(
        AdamW(0.01, clip_value=1.0),
        Adam(clip_norm=1.0, ema_decay=0.5),
        NAdam(),
        AdaGrad(),
        AMSGrad(),
        AdaMax(),
        AdaDelta(),
        RMSprop(),
        RMSprop(momentum=0.5),
        Rprop(),
        Lion(),
    )
    before = set(jit._addresses)
    fit(
        AdamW(CosineDecay(0.02, steps=3), beta_1=0.5, weight_decay=0.3, clip_value=0.1),
        Adam(clip_norm=0.3, ema_decay=0.9),
        NAdam(0.5, momentum_decay=0.1),
        AdaGrad(0.3, epsilon=1e-3),
        AMSGrad(0.3, beta_2=0.9),
        AdaMax(0.3, beta_1=CosineDecay(0.9, steps=3)),
        AdaDelta(0.3, rho=0.8),
        RMSprop(0.2, rho=0.5),
        RMSprop(0.2, momentum=0.7),
        Rprop(0.2, eta_plus=1.5),
        Lion(0.3, weight_decay=0.1),
    )
    assert set(jit._addresses) == before


def test_a_plan_tells_clipping_and_decay():
    case = network(AdamW(clip_value=1.0))
    X, y, _ = case.data()
    with Training(case.model(), X, y, loss=case.loss, optimizer=case.optimizer, batch_size=24) as training:
        text = str(training.plan)
    assert "dense_0.weight (7, 19): gradient, clip, decay, adam" in text
    assert "dense_0.bias (19,): gradient, clip, adam" in text


def test_a_plan_tells_the_norm_and_the_average():
    case = network(AdamW(clip_norm=1.0, ema_decay=0.9))
    X, y, _ = case.data()
    with Training(case.model(), X, y, loss=case.loss, optimizer=case.optimizer, batch_size=24) as training:
        text = str(training.plan)
    assert text.count("barrier") == 5
    assert "dense_1.weight (19, 3): gradient  " in text and "dense_1.weight: squares" in text
    assert "min(1, clip_norm / (norm of the gradient + 1e-6))" in text
    assert "dense_1.weight: decay, adam, average, W^T" in text and "dense_1.bias: adam, average" in text


# As plain data


@pytest.mark.parametrize(
    "optimizer", [*VARIANTS, *LIONS, Adam(Warmup(CosineDecay(0.1, epochs=2.5), steps=3))], ids=repr
)
def test_through_json_and_a_model_file(optimizer, tmp_path):
    config = optimizers.to_config(optimizer)
    assert optimizers.from_config(json.loads(json.dumps(config))) == optimizer
    path = tmp_path / "model.safetensors"
    save_model(path, Sequential(Dense(1)).build(2), extra={"optimizer": config})
    assert optimizers.from_config(load_model_with_extra(path)[1]["optimizer"]) == optimizer


def test_numpys_numbers_become_pythons():
    """As a sweep over `np.logspace` gives them; a backup compares what is printed."""
    pairs = [
        (
            AdamW(CosineDecay(np.float64(0.1), epochs=np.int64(2)), beta_1=np.float32(0.5), clip_norm=np.int64(1)),
            AdamW(CosineDecay(0.1, epochs=2), beta_1=0.5, clip_norm=1),
        ),
        (SGD(np.array(0.5), momentum=np.longdouble(0.25), nesterov=np.True_), SGD(0.5, momentum=0.25, nesterov=True)),
    ]
    for optimizer, meant in pairs:
        assert repr(optimizer) == repr(meant) and hash(optimizer) == hash(meant)
        assert optimizers.from_config(json.loads(json.dumps(optimizers.to_config(optimizer)))) == meant


@pytest.mark.parametrize("rate", [np.array([0.01]), np.array([0.01, 0.1]), np.True_])
def test_arrays_and_flags_are_no_rates(rate):
    with pytest.raises((TypeError, ValueError), match="`learning_rate` must be a number"):
        Adam(rate)


@pytest.mark.parametrize(
    "make, name",
    [
        (lambda: SGD(0.1, momentum=0.9, nesterov="no"), "nesterov"),
        (lambda: RMSprop(centered="no"), "centered"),
    ],
)
def test_words_are_no_flags(make, name):
    with pytest.raises(TypeError, match=f"`{name}` must be True or False; got 'no'"):
        make()
    with pytest.raises(TypeError, match="`clip_norm` must be a number; got True"):
        Adam(clip_norm=True)


def test_layers_with_numpys_numbers_are_saved(tmp_path):
    layers = [Dense(np.int64(3), l2=np.float32(0.5)), BatchNorm(momentum=np.float32(0.75)), Dense(1)]
    model = Sequential(*layers).build(2)
    save_model(tmp_path / "model.safetensors", model)
    assert [repr(layer) for layer in load_model(tmp_path / "model.safetensors").layers] == [
        repr(layer) for layer in (Dense(3, l2=0.5), BatchNorm(momentum=0.75), Dense(1))
    ]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"type": "RMSprob"}, "Did you mean 'RMSprop'"),
        ({"type": 3}, "`type` must be one of"),
        ({}, "`type` must be one of"),
        ({"type": "Adam", "beta1": 0.9}, "Did you mean 'beta_1'"),
        ({"type": "Adam", "beta_1": 2}, r"`beta_1` must be in \[0, 1\); got 2"),
        ({"type": "Adam", "learning_rate": {"type": "Cosine"}}, "Did you mean 'CosineDecay'"),
        ({"type": "Adam", "learning_rate": {"type": "CosineDecay", "learning_rate": 0.1}}, "`steps` or `epochs`"),
        ({"type": "Adam", "learning_rate": "fast"}, "`learning_rate` must be a number"),
    ],
)
def test_nonsense_is_no_optimizer(config, message):
    with pytest.raises((ValueError, TypeError), match=message):
        optimizers.from_config(config)


def test_other_objects_are_no_configuration():
    class Mine(SGD):
        pass

    with pytest.raises(TypeError, match="`optimizer` must be one of"):
        optimizers.to_config(Mine())


@pytest.mark.parametrize("optimizer", [AdamW(0.01), Lion(0.001), RMSprop(0.01, momentum=0.5, centered=True)], ids=repr)
def test_a_model_so_trained_is_saved_to_the_bit(optimizer, tmp_path):
    X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    model = Sequential(Dense(5), ReLU(), Dense(1))
    model.fit(X, X[:, 0], loss="squared_error", optimizer=optimizer, epochs=2, verbose=0)
    model.save(tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors").parameters
    assert all(np.array_equal(value, again[name]) for name, value in model.parameters.items())


@pytest.mark.parametrize("optimizer", [Adam, AdamW, AMSGrad, AdaMax, NAdam, AdaGrad, AdaDelta, RMSprop])
def test_the_least_epsilon_still_divides_in_float32(optimizer, rng):
    X, y = np.c_[rng.normal(size=40), np.zeros(40)], rng.normal(size=40)
    model = Sequential(Dense(1))
    model.fit(X, y, loss="squared_error", optimizer=optimizer(epsilon=1e-30), epochs=3, verbose=0)
    assert all(np.isfinite(value).all() for value in model.parameters.values())
    with pytest.raises(ValueError, match=r"`epsilon` must be in \[1e-30, inf\); got 1e-38"):
        optimizer(epsilon=1e-38)


def test_rprop_moves_nothing_at_a_rate_of_0():
    X = np.random.default_rng(0).normal(size=(40, 3))
    model = Sequential(Dense(5, learning_rate_multiplier=0), ReLU(), Dense(1)).build(3)
    before = model.parameters
    model.fit(X, X[:, 0], loss="squared_error", optimizer=Rprop(0.01), epochs=5, batch_size=40, verbose=0)
    moved = {name for name, value in model.parameters.items() if (value != before[name]).any()}
    assert moved == {"dense_1.weight", "dense_1.bias"}


def test_rprop_finds_its_steps():
    """From rates four powers of ten apart to the same least squares, in batches of all rows."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(60, 4)) * [1, 10, 100, 0.1]
    y = X @ [1, -2, 0.3, 4] + rng.normal(size=60)
    best = np.linalg.lstsq(np.c_[X, np.ones(60)], y, rcond=None)[0]
    for rate in (1e-4, 1.0):
        model = Sequential(Dense(1), dtype="float64")
        options = {"loss": "squared_error", "batch_size": 60, "epochs": 500, "verbose": 0}
        model.fit(X, y, optimizer=Rprop(rate, min_step=1e-9), **options)
        np.testing.assert_allclose(model.parameters["dense_0.weight"][:, 0], best[:4], atol=1e-6)
