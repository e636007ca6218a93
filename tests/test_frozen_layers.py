"""Layers with parameters that are frozen: they keep their bits, and gradients go through them to those before."""

import numpy as np
import pytest

from fastmlp import (
    GEGLU,
    SGD,
    Adam,
    BatchNorm,
    Dense,
    GroupNorm,
    LayerNorm,
    PReLU,
    ReLU,
    RMSNorm,
    Sequential,
    Tanh,
)

FROZEN = {
    "BatchNorm": (BatchNorm(trainable=False),),
    "BatchNorm, ReLU": (BatchNorm(trainable=False), ReLU()),
    "LayerNorm": (LayerNorm(trainable=False),),
    "RMSNorm": (RMSNorm(trainable=False),),
    "GroupNorm": (GroupNorm(4, trainable=False),),
    "PReLU": (PReLU(trainable=False),),
    "GEGLU": (GEGLU(16, trainable=False),),
}
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(50, 5)), RNG.normal(size=(50, 2))


def network(*layers, dtype="float64"):
    """Built, with parameters as after some training."""
    model = Sequential(Dense(20), *layers, Tanh(), Dense(2), dtype=dtype).build(5, seed=1)
    own = {name: array for name, array in model.parameters.items() if "dense" not in name}
    model.set_parameters({name: np.abs(array + 0.3 * RNG.normal(size=array.shape)) for name, array in own.items()})
    return model


def loss_of(model):
    return 0.5 * ((model.logits(X) - Y) ** 2).sum(axis=1).mean()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", [Adam(0.01), SGD(0.1, momentum=0.9, clip_norm=0.5, ema_decay=0.9)])
@pytest.mark.parametrize("name", FROZEN)
def test_they_keep_their_bits_and_others_learn(name, optimizer, dtype):
    model = network(*FROZEN[name], dtype=dtype)
    before = model.parameters
    frozen = [key for key in before if "dense" not in key] or [
        f"dense_{k}.{name}" for k in (1, 2) for name in ("weight", "bias")
    ]
    history = model.fit(X, Y, loss="squared_error", optimizer=optimizer, epochs=3, batch_size=16, seed=0, verbose=0)
    for key, array in model.parameters.items():
        assert np.array_equal(array, before[key]) == (key in frozen), key
    assert history["loss"][-1] < history["loss"][0]


@pytest.mark.parametrize("name", FROZEN)
def test_gradients_go_through_them(name):
    """One step of all rows, beside differences of the predictions' loss: a frozen BatchNorm trains as it predicts."""
    model = network(*FROZEN[name])
    before = model.parameters
    options = {"loss": "squared_error", "optimizer": SGD(1.0), "epochs": 1, "batch_size": 50, "verbose": 0}
    expected, step = {}, 1e-6
    for key in ("dense_0.weight", "dense_0.bias"):
        for at in [(0, 0), (4, 7), (2, 19)] if key.endswith("weight") else [(3,), (19,)]:
            losses = []
            for sign in (1, -1):
                changed = before[key].copy()
                changed[at] += sign * step
                model.set_parameters({key: changed})
                losses.append(loss_of(model))
            expected[key, at] = (losses[0] - losses[1]) / (2 * step)
            model.set_parameters({key: before[key]})
    loss = loss_of(model)
    history = model.fit(X, Y, **options)
    assert history["loss"][0] == pytest.approx(loss, rel=1e-12)
    for (key, at), slope in expected.items():
        assert before[key][at] - model.parameters[key][at] == pytest.approx(slope, rel=1e-6, abs=1e-8), (key, at)


@pytest.mark.parametrize("n_threads", [2, 3])
def test_the_same_bits_for_any_number_of_threads(n_threads):
    results = []
    for threads in (1, n_threads):
        rng = np.random.default_rng(2)
        model = Sequential(Dense(33), BatchNorm(trainable=False), ReLU(), Dense(3), dtype="float32").build(5, seed=1)
        model.set_parameters({"batch_norm_0.running_mean": rng.normal(size=33)})
        data = rng.normal(size=(3000, 5)), rng.normal(size=(3000, 3))
        model.fit(*data, loss="squared_error", epochs=2, batch_size=1500, seed=0, verbose=0, n_threads=threads)
        results.append(model.parameters)
    assert all(np.array_equal(results[0][name], array) for name, array in results[1].items())


def test_a_frozen_batch_norm_takes_single_rows_and_is_saved(tmp_path):
    model = network(BatchNorm(trainable=False))
    model.fit(X, Y, loss="squared_error", epochs=1, batch_size=1, verbose=0)
    assert np.array_equal(model.logits(X, training=True), model.logits(X))
    model.save(tmp_path / "model.safetensors")
    loaded = Sequential.load(tmp_path / "model.safetensors")
    assert loaded.layers == model.layers
    thawed = Sequential(*(BatchNorm() if isinstance(layer, BatchNorm) else layer for layer in model.layers)).build(5)
    with pytest.raises(ValueError, match="`batch_size` must be at least 2"):
        thawed.fit(X, Y, loss="squared_error", epochs=1, batch_size=1, verbose=0)


def test_a_look_at_gradients_freezes_nothing():
    model = network(LayerNorm(trainable=False))
    _, gradients = model.gradients(X, Y, "squared_error")
    assert gradients["layer_norm_0.weight"].any()


def test_nothing_left_to_learn():
    layers = [Dense(8, trainable=False), LayerNorm(trainable=False), PReLU(trainable=False), Dense(2, trainable=False)]
    with pytest.raises(ValueError, match="nothing to train"):
        Sequential(*layers).fit(X, Y, loss="squared_error", epochs=1, verbose=0)
    layers[1] = LayerNorm()
    model = Sequential(*layers, dtype="float64").build(5, seed=0)
    before = model.parameters
    model.fit(X, Y, loss="squared_error", epochs=2, verbose=0)
    changed = [name for name, array in model.parameters.items() if not np.array_equal(array, before[name])]
    assert changed == ["layer_norm_0.weight", "layer_norm_0.bias"]


@pytest.mark.parametrize("layer", [BatchNorm, LayerNorm, RMSNorm, lambda **o: GroupNorm(2, **o), PReLU])
def test_trainable_is_a_flag(layer):
    with pytest.raises(TypeError, match="`trainable` must be True or False"):
        layer(trainable=1)
