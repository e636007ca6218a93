"""`training=True`: a forward pass by NumPy drops and adds what the engine's step drops and adds for that seed."""

import numpy as np
import pytest

from fastmlp import (
    GELU,
    SELU,
    SGD,
    ActivityRegularization,
    AlphaDropout,
    BatchNorm,
    CosineDecay,
    Dense,
    Dropout,
    Embedding,
    GaussianNoise,
    LayerNorm,
    Maxout,
    MixUp,
    Normalization,
    PReLU,
    ReLU,
    Rescaling,
    Residual,
    Sequential,
    Softmax,
    SwiGLU,
    Tanh,
    masks,
    pre_norm_block,
)

STACKS = {
    "dropout": [Dense(20), ReLU(), Dropout(0.3), Dense(3)],
    "first, and two widths": [Dropout(0.2), Dense(17), Dropout(0.5), Tanh(), Dense(3), Dropout(0.1)],
    "noise, alpha": [GaussianNoise(0.5), Dense(20), SELU(), AlphaDropout(0.2), Dense(3)],
    "behind a rescaling, batch norm, residuals": [
        *(Rescaling(0.5), GaussianNoise(0.5), Dropout(0.1), Dense(12), BatchNorm(), GELU()),
        Residual(Dense(12), ReLU(), Dropout(0.4), Dense(12), drop_rate=0.5),
        *(Residual(LayerNorm(), Dense(12), drop_rate=0.3), Dropout(0.3), Dense(3)),
    ],
    "branches": [
        *(SwiGLU(9), Dropout(0.3), Maxout(8), Dropout(0.3), PReLU(), Dropout(0.2), Softmax(), Dropout(0.1), Dense(3)),
    ],
    "normalised": [Normalization(), Dropout(0.3), Dense(8), ActivityRegularization(), Dropout(0.3), Dense(3)],
    "blocks": [
        Dense(12),
        pre_norm_block(12, dropout=0.3, drop_rate=0.3, last_initializer="he_uniform"),
        pre_norm_block(12, drop_rate=0.5, last_initializer="he_uniform"),
        Dense(3),
    ],
    "scheduled": [Dropout(CosineDecay(0.4, steps=7)), Dense(8), BatchNorm(trainable=False), Dropout(0.5), Dense(3)],
}


def data(n=50):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 7)), rng.normal(size=(n, 3))


def network(name, dtype="float64"):
    model = Sequential(*STACKS[name], dtype=dtype).build(7)
    return model.adapt(data()[0]) if name == "normalised" else model


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-4), ("float64", 1e-8)])
@pytest.mark.parametrize("name", STACKS)
def test_logits_are_those_of_a_step(name, dtype, rtol):
    """So a loss of one's own sees what the gradient is of."""
    (X, y), model = data(), network(name, dtype)
    for seed in (0, 5):
        z = model.logits(X, training=True, seed=seed).astype(np.float64)
        loss, gradients = model.gradients(X, y, "squared_error", training=True, seed=seed)
        assert loss == pytest.approx(0.5 * ((z - y) ** 2).sum(axis=1).mean(), rel=rtol)
        _, given = model.gradients(X, z - y, "given_gradient", training=True, seed=seed)
        for key, gradient in gradients.items():
            np.testing.assert_allclose(given[key], gradient, rtol=100 * rtol, atol=rtol, err_msg=key)
    assert not np.allclose(model.logits(X, training=True, seed=1), z)


@pytest.mark.parametrize("name", STACKS)
def test_input_gradients_are_those_of_the_same_pass(name):
    """Along any direction, by central differences."""
    (X, y), model, rng = data(), network(name), np.random.default_rng(1)
    loss = lambda X: 0.5 * ((model.logits(X, training=True, seed=3) - y) ** 2).sum()  # noqa: E731
    gradients = model.input_gradients(X, y, "squared_error", training=True, seed=3)
    for _ in range(3):
        direction = 1e-6 * rng.normal(size=X.shape)
        change = (loss(X + direction) - loss(X - direction)) / 2
        assert (gradients * direction).sum() == pytest.approx(change, rel=1e-6)


@pytest.mark.parametrize("name", STACKS)
def test_calls_do_not_see_each_other(name):
    """What was set up for one is used by the next: seeds, running averages and schedules begin anew."""
    (X, y), model = data(), network(name)
    first = [network(name).gradients(X, y, "squared_error", training=True, seed=seed) for seed in range(3)]
    for _ in range(2):
        for seed, (loss, gradients) in enumerate(first):
            again = model.gradients(X, y, "squared_error", training=True, seed=seed)
            assert again[0] == loss
            assert all(np.array_equal(again[1][key], gradient) for key, gradient in gradients.items())
    fewer = model.gradients(X[:20], y[:20], "squared_error", training=True, seed=1)
    expected = network(name).gradients(X[:20], y[:20], "squared_error", training=True, seed=1)
    assert fewer[0] == expected[0]


def test_both_kinds_of_gradients_are_set_up_once():
    from fastmlp.gradients import _set_up as set_ups

    (X, y), model, made = data(), network("dropout"), set()
    for seed in range(4):
        for training in (False, True):
            model.gradients(X, y, "squared_error", training=training, seed=seed)
            made.add(id(set_ups[training][model][1]))
    assert len(made) == 2


def test_a_loop_with_a_loss_of_ones_own_is_the_built_in_one():
    """Cross-entropy by `logits`, `gradients` and `apply_gradients`, through dropout."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(64, 7)), rng.integers(0, 3, 64)
    layers = Dense(20), ReLU(), Dropout(0.3), Dense(3)
    own, built_in = (Sequential(*layers, dtype="float64").build(7) for _ in range(2))
    for step in range(5):
        e = np.exp(own.logits(X, training=True, seed=step))
        G = e / e.sum(axis=1, keepdims=True) - np.eye(3)[y]
        _, gradients = own.gradients(X, G, "given_gradient", training=True, seed=step)
        own.apply_gradients(gradients, optimizer=SGD(0.1))
        _, gradients = built_in.gradients(X, y, "softmax_cross_entropy", training=True, seed=step)
        built_in.apply_gradients(gradients, optimizer=SGD(0.1))
    for name, array in built_in.parameters.items():
        np.testing.assert_allclose(own.parameters[name], array, rtol=1e-12)


@pytest.mark.parametrize("training", [False, True])
def test_the_gradient_behind_a_layer_is_that_of_its_bias(training):
    """dL/db of a Dense is the sum of dL/dz over the rows."""
    X, y = data()
    layers = Dense(20), ReLU(), Dropout(0.3), Dense(9), Tanh(), Residual(Dense(9), ReLU(), drop_rate=0.2), Dense(3)
    model = Sequential(*layers, dtype="float64").build(7)
    _, gradients = model.gradients(X, y, "squared_error", training=training, seed=2)
    for layer, bias in (("dense_0", "dense_0.bias"), (3, "dense_1.bias"), (-1, "dense_3.bias")):
        behind = model.input_gradients(X, y, "squared_error", layer=layer, training=training, seed=2)
        assert behind.shape == model.activations(X, layer).shape
        np.testing.assert_allclose(behind.sum(axis=0) / len(X), gradients[bias], rtol=1e-9)
    cut = model[3:].input_gradients(model.activations(X, 2), output=1)
    np.testing.assert_array_equal(model.input_gradients(X, output=1, layer=2), cut)
    with pytest.raises(ValueError, match="`layer` must be"):
        model.input_gradients(X, output=0, layer="dense_9")


def test_many_rows_are_one_batch():
    """More than NumPy takes at a time otherwise."""
    X, y = np.random.default_rng(0).normal(size=(9000, 7)), np.zeros((9000, 3))
    model = Sequential(Dense(4), BatchNorm(), Dropout(0.5), Dense(3), dtype="float64").build(7)
    gradients = model.input_gradients(X, y, "squared_error", training=True, seed=1)
    direction = np.zeros_like(X)
    direction[[0, 4100, 8999]] = 1e-5
    loss = lambda X: 0.5 * (model.logits(X, training=True, seed=1) ** 2).sum()  # noqa: E731
    change = (loss(X + direction) - loss(X - direction)) / 2
    assert (gradients * direction).sum() == pytest.approx(change, rel=1e-5)


def test_an_embedding_has_no_gradient_but_behind_it():
    X = np.tile(np.arange(6.0)[:, None] % 3, 2)
    model = Sequential(Embedding(3, 2), Tanh(), Dense(2), dtype="float64").build(2)
    gradients = model.input_gradients(X, output=0, layer=0)
    slopes = 1 - model.activations(X, 1) ** 2
    np.testing.assert_allclose(gradients, slopes * model.parameters["dense_0.weight"][:, 0], rtol=1e-12)
    with pytest.raises(ValueError, match=r"integers in \[0, 3\), in column 0 .*got 7.0"):
        model.input_gradients(X + 7, output=0, layer=0)


def test_what_is_mixed_cannot_be_seen():
    model = Sequential(MixUp(0.2), Dense(3)).build(7)
    with pytest.raises(NotImplementedError, match=r"the model has MixUp\(alpha=0.2\)"):
        model.input_gradients(data()[0], output=0, training=True)


def test_shares_and_numbers():
    kept = np.stack([masks.kept(key, 3, 0.3, 100_000) for key in masks.step_keys(1, 2, 5)])
    assert abs(kept.mean() - 0.7) < 2e-3 and (np.abs(np.corrcoef(kept) - np.eye(5)) < 0.02).all()
    assert np.array_equal(masks.step_keys(1, 2, 5)[:2], masks.step_keys(1, 2, 2))
    for dtype in (np.dtype("float32"), np.dtype("float64")):
        numbers = masks.normal(int(masks.step_keys(0, 0, 1)[0]), 7, 100_000, dtype)
        assert numbers.dtype == dtype and abs(numbers.mean()) < 0.01 and abs(numbers.std() - 1) < 0.01
