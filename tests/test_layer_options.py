"""What a layer may have for itself: penalties, a limit of norms, a rate of its own, frozen or not.

Whole fits against the float64 twin, PyTorch with groups of parameters, and to the bit over threads.
"""

import dataclasses

import numpy as np
import pytest
import reference
from cases import examples
from hypothesis import given, strategies as st
from test_memory import padding_is_zero, poison, scratch_tails

from fastmlp import GLU, SGD, AdamW, Dense, Dropout, Lion, NAdam, ReLU, Sequential, Tanh, load_model, save_model
from fastmlp.engine import jit
from fastmlp.plan import Group
from fastmlp.training import Training

OPTIONS = {
    "l1": {"l1": 0.01},
    "l2": {"l2": 0.03},
    "both": {"l1": 0.01, "l2": 0.03},
    "limited": {"max_norm": 0.5},
    "slow": {"learning_rate_multiplier": 0.1},
    "still": {"learning_rate_multiplier": 0.0},
    "frozen": {"trainable": False},
    "all": {"l1": 1e-3, "l2": 0.1, "max_norm": 0.6, "learning_rate_multiplier": 3.0},
}
OPTIMIZERS = [
    SGD(0.05, momentum=0.9, clip_value=0.1),
    AdamW(0.01, weight_decay=0.5, epsilon=1e-3),
    AdamW(0.01, weight_decay=0.5, epsilon=1e-3, clip_norm=0.5, ema_decay=0.7),
    NAdam(0.01, epsilon=1e-3, clip_norm=0.05),
    Lion(0.001, ema_decay=0.9, weight_decay=0.1),
]


def network(first, second, third, dtype="float64", widths=(37, 18, 3)):
    a, b, c = (Dense(n, **OPTIONS.get(o, {})) for n, o in zip(widths, (first, second, third), strict=True))
    return Sequential(a, Tanh(), b, Dropout(0.0), ReLU(), c, dtype=dtype).build(7, seed=2)


def data(dtype="float64", n=41):
    rng = np.random.default_rng(5)
    return rng.normal(size=(n, 7)).astype(dtype), rng.normal(size=(n, 3)).astype(dtype)


def train(model, optimizer, epochs=3, n_threads=1, **options):
    X, y = data(model.dtype.name)
    options = {"batch_size": 16, "shuffle": False, "n_threads": n_threads} | options
    with Training(model, X, y, loss="squared_error", optimizer=optimizer, **options) as training:
        return training.run(epochs)


def without_dropout(layers):
    return [layer for layer in layers if not isinstance(layer, Dropout)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("option", OPTIONS)
def test_against_the_twin(option, place, optimizer):
    model = network(*[option if k == place else None for k in range(3)])
    twin = reference.Twin(without_dropout(model.layers), model.parameters, "squared_error", optimizer)
    train(model, optimizer)
    for _ in range(3):
        twin.epoch(*data(), reference.in_order(41, 16))
    expected = twin.parameters if optimizer.ema_decay is None else twin.average()
    for name, value in model.parameters.items():
        assert reference.relative_error(value, expected[name]) < 1e-11, name


@examples(30)
@given(
    st.tuples(*[st.sampled_from([None, *OPTIONS])] * 2, st.sampled_from([None, "l1", "limited", "slow", "all"])),
    st.tuples(*[st.sampled_from([1, 4, 15, 33, 64, 70])] * 2, st.just(3)),
    st.sampled_from(OPTIMIZERS),
    st.sampled_from(["float32", "float64"]),
    st.sampled_from([2, 3]),
)
def test_the_same_bits_for_any_number_of_threads(options, widths, optimizer, dtype, n_threads):
    models = [network(*options, dtype, widths) for _ in range(2)]
    losses = [train(model, optimizer, n_threads=n) for model, n in zip(models, (1, n_threads), strict=True)]
    assert np.array_equal(*losses)
    for name, value in models[0].parameters.items():
        assert np.array_equal(value, models[1].parameters[name]), name


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize("place", range(3))
def test_frozen_layers_keep_their_bits(place, optimizer):
    options = ["frozen" if k <= place else "all" for k in range(3)]
    if place == 2:
        options = ["all", "frozen", "frozen"]
    model = network(*options, "float32")
    before = model.parameters
    X, y = data("float32")
    with Training(model, X, y, loss="squared_error", optimizer=optimizer, batch_size=16) as training:
        training.run(3)
        slots = [training.executor.unpack(slot) for slot in training.executor.slots]
        text = str(training.plan)
    for k, option in enumerate(options):
        for kind in ("weight", "bias"):
            name = f"dense_{k}.{kind}"
            assert np.array_equal(model.parameters[name], before[name]) == (option == "frozen"), name
            if option == "frozen":
                average = [before[name]] if optimizer.ema_decay is not None else []
                expected = [np.zeros_like(before[name])] * (len(slots) - len(average)) + average
                assert all(np.array_equal(slot[name], e) for slot, e in zip(slots, expected, strict=True))
                assert f"{name} (" not in text
    # of the layers below the lowest one that learns, no gradient is computed
    assert text.count("dz = (dz") == 2 - options.index("all")


def test_a_network_with_nothing_to_train_is_refused():
    model = Sequential(Dense(2, trainable=False), ReLU(), Dense(1, trainable=False)).build(7)
    with pytest.raises(ValueError, match="nothing to train: all layers have trainable=False"):
        model.fit(data()[0], np.zeros(41), loss="squared_error", verbose=0)
    loss, gradients = model.gradients(data()[0], np.ones(41), "squared_error")  # a look is allowed
    assert loss > 0 and any(g.any() for g in gradients.values())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_columns_stay_within_their_norm(dtype):
    model = network("limited", None, "limited", dtype)
    train(model, SGD(0.5, momentum=0.5), 5)
    for name in ("dense_0.weight", "dense_2.weight"):
        norms = np.linalg.norm(model.parameters[name].astype("d"), axis=0)
        assert norms.max() <= 0.5 * (1 + 1e-6)
        assert (np.abs(norms - 0.5) < 1e-6).sum() >= 2  # and it was needed
    assert np.linalg.norm(model.parameters["dense_1.weight"], axis=0).max() > 0.6


@pytest.mark.torch
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_against_groups_of_torch(torch, optimizer):
    """Rates by group, penalties in the loss, a frozen layer, and renorm after each step."""
    ours = AdamW(0.01, weight_decay=0.2) if optimizer == "adamw" else SGD(0.1, momentum=0.9)
    options = {"l1": 0.01, "l2": 0.02, "max_norm": 0.8, "learning_rate_multiplier": 0.5}
    model = Sequential(Dense(5, trainable=False), Tanh(), Dense(9, **options), Tanh(), Dense(3), dtype="float64")
    model.build(7)
    p = {name: torch.tensor(value, requires_grad=True) for name, value in model.parameters.items()}
    p["dense_0.weight"].requires_grad_(False)
    p["dense_0.bias"].requires_grad_(False)
    rate, decay = ours.learning_rate, ours.weight_decay
    groups = [
        {"params": [p["dense_1.weight"]], "lr": rate / 2, "weight_decay": decay},
        {"params": [p["dense_1.bias"]], "lr": rate / 2, "weight_decay": 0.0},
        {"params": [p["dense_2.weight"]], "weight_decay": decay},
        {"params": [p["dense_2.bias"]], "weight_decay": 0.0},
    ]
    kind = torch.optim.AdamW if optimizer == "adamw" else torch.optim.SGD
    theirs = kind(groups, rate, **({} if optimizer == "adamw" else {"momentum": 0.9}))
    X, y = (torch.tensor(a) for a in data(n=16))
    losses = []
    for _ in range(20):
        theirs.zero_grad()
        z = torch.tanh(X @ p["dense_0.weight"] + p["dense_0.bias"])
        z = torch.tanh(z @ p["dense_1.weight"] + p["dense_1.bias"]) @ p["dense_2.weight"] + p["dense_2.bias"]
        w = p["dense_1.weight"]
        loss = 0.5 * ((z - y) ** 2).sum(1).mean() + 0.01 * w.abs().sum() + 0.02 * (w**2).sum()
        loss.backward()
        theirs.step()
        losses.append(loss.item())
        with torch.no_grad():
            w.copy_(torch.renorm(w, 2, 1, 0.8))
    with Training(model, *data(n=16), loss="squared_error", optimizer=ours, batch_size=16) as training:
        np.testing.assert_allclose(training.run(20), losses, rtol=1e-6)
    for name, value in model.parameters.items():
        assert reference.relative_error(value, p[name].detach().numpy()) < 2e-6, name  # renorm's 1e-7


def test_the_reported_loss_has_the_penalties():
    model = network("l1", None, "both")
    X, y = data()
    plain = Sequential(*(Dense(d.units) if isinstance(d, Dense) else d for d in model.layers), dtype="float64").build(7)
    plain.set_parameters(model.parameters)

    def penalty(p):
        a, c = p["dense_0.weight"], p["dense_2.weight"]
        return 0.01 * np.abs(a).sum() + 0.01 * np.abs(c).sum() + 0.03 * (c**2).sum()

    options = {"loss": "squared_error", "verbose": 0, "shuffle": False}
    at_first = plain.gradients(X, y, "squared_error")[0] + penalty(model.parameters)
    np.testing.assert_allclose(model.gradients(X, y, "squared_error")[0], at_first, rtol=1e-12)
    before = model.parameters
    whole = model.fit(X, y, optimizer=SGD(0.01), batch_size=41, validation_data=(X, y), **options)
    np.testing.assert_allclose(whole["loss"][0], at_first, rtol=1e-12)  # one step: of the weights before it
    plain.loss = model.loss
    plain.set_parameters(model.parameters)
    after = plain.evaluate(X, y)["loss"] + penalty(model.parameters)
    np.testing.assert_allclose(model.evaluate(X, y)["loss"], after, rtol=1e-12)
    np.testing.assert_allclose(whole["val_loss"][0], after, rtol=1e-12)
    model.set_parameters(before)  # several steps: the mean of before and after
    many = model.fit(X, y, optimizer=SGD(0.0), batch_size=10, epochs=3, **options)["loss"]
    np.testing.assert_allclose(many, at_first, rtol=1e-12)


def test_gradients_with_penalties_against_differences(rng):
    model = network("both", "frozen", "all")
    X, y = data()
    start = model.parameters
    direction = {name: rng.normal(size=value.shape) for name, value in start.items()}
    _, gradients = model.gradients(X, y, "squared_error")
    values = []
    for t in (1e-6, -1e-6):
        model.set_parameters({name: start[name] + t * direction[name] for name in start})
        values.append(model.gradients(X, y, "squared_error")[0])
    slope = sum((gradients[name] * direction[name]).sum() for name in start)
    np.testing.assert_allclose(slope, (values[0] - values[1]) / 2e-6, rtol=1e-6)


def test_other_numbers_compile_nothing_and_equal_layers_share_a_group():
    train(network("all", "frozen", "l2"), OPTIMIZERS[2])
    before = set(jit._addresses)
    model = Sequential(
        Dense(9, l1=0.5, learning_rate_multiplier=7.0), ReLU(), Dense(4, l2=0.25, max_norm=3.0), ReLU(), Dense(3)
    )
    model = Sequential(*model.layers, dtype="float64").build(7)
    X, y = data()
    with Training(model, X, y, loss="squared_error", optimizer=OPTIMIZERS[2], batch_size=8) as training:
        assert training.plan.groups == [Group(), Group(l2=0.25), Group(l1=0.5, learning_rate_multiplier=7.0)]
    assert set(jit._addresses) == before


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_a_fit_goes_on_to_the_bit(optimizer):
    whole, parts = (network("all", "limited", "slow", "float32") for _ in range(2))
    expected = train(whole, optimizer, 4)
    X, y = data("float32")
    options = {"loss": "squared_error", "optimizer": optimizer, "batch_size": 16, "shuffle": False}
    with Training(parts, X, y, **options) as training:
        losses = list(training.run(2))
        state = training.state
    with Training(parts, X, y, **options, state=state, n_threads=2) as training:
        losses += list(training.run(2))
    assert np.array_equal(losses, expected)
    for name, value in whole.parameters.items():
        assert np.array_equal(value, parts.parameters[name]), name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_nothing_is_read_before_it_is_written_and_nothing_beyond(optimizer, dtype):
    X, y = data(dtype)
    options = {"loss": "squared_error", "optimizer": optimizer, "batch_size": 16, "shuffle": False}
    clean, guarded = (network("all", "limited", "both", dtype) for _ in range(2))
    train(clean, optimizer)
    with Training(guarded, X, y, **options, n_threads=2, _guard=64) as training:
        poison(training.executor)
        tails = scratch_tails(training.executor, 2)
        for tail in tails:
            tail[:] = 0xA5
        training.run(3)
        assert training.executor.guards_intact()
        assert all((tail == 0xA5).all() for tail in tails)
        assert padding_is_zero(training.executor)
    for name, value in clean.parameters.items():
        assert np.array_equal(value, guarded.parameters[name]), name


def test_saved_with_the_model(tmp_path):
    model = network("all", "frozen", "both")
    save_model(tmp_path / "model", model)
    again = load_model(tmp_path / "model")
    assert again.layers == model.layers
    for each in (model, again):
        train(each, SGD(0.1))
    assert all(np.array_equal(value, again.parameters[name]) for name, value in model.parameters.items())


def test_features_of_one_task_reused_for_another(digits):
    """Trained on five digits, frozen, and a new last layer for the other five."""
    X, y = digits
    low, high = y < 5, y >= 5
    options = {"loss": "softmax_cross_entropy", "epochs": 20, "verbose": 0}
    first = Sequential(Dense(64), ReLU(), Dense(5))
    first.fit(X[low], y[low], **options)
    second = Sequential(Dense(64, trainable=False), ReLU(), Dense(5)).copy_parameters(first, 2)
    second.fit(X[high], y[high] - 5, **options)
    assert np.array_equal(first.parameters["dense_0.weight"], second.parameters["dense_0.weight"])
    assert second.evaluate(X[high], y[high] - 5)["accuracy"] > 0.9


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"l1": -1}, ValueError, r"`l1` must be in \[0, inf\); got -1"),
        ({"l2": float("nan")}, ValueError, "`l2` must be in"),
        ({"l2": "x"}, TypeError, "`l2` must be a number; got 'x'"),
        ({"max_norm": 0}, ValueError, r"`max_norm` must be in \(0, inf\); got 0"),
        ({"learning_rate_multiplier": -0.5}, ValueError, "`learning_rate_multiplier` must be in"),
        ({"trainable": 1}, TypeError, "`trainable` must be True or False; got 1"),
        ({"l2": True}, TypeError, "`l2` must be a number; got True"),
    ],
)
def test_bad_options(options, error, words):
    with pytest.raises(error, match=words):
        Dense(3, **options)


def test_a_look_at_gradients_thaws_copies_only():
    model = network("frozen", None, None)
    model.gradients(*data(), "squared_error")
    assert not model.layers[0].trainable
    assert dataclasses.replace(model.layers[0], trainable=True) != model.layers[0]


def test_flags_may_be_numpys():
    """As a grid of parameters holds them; in files they are True and False."""
    layer = Dense(3, use_bias=np.True_, trainable=np.False_)
    assert layer == Dense(3, trainable=False) and type(layer.use_bias) is type(layer.trainable) is bool
    assert type(GLU(3, use_bias=np.False_).use_bias) is bool
