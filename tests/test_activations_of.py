"""`Sequential.activations`: values behind a layer; `copy_parameters`: trained leading layers for a new model."""

import numpy as np
import pytest
import scipy.sparse

from fastmlp import (
    GLU,
    BatchNorm,
    Dense,
    Dropout,
    GaussianNoise,
    LayerNorm,
    Logistic,
    PReLU,
    RandomAffine,
    ReLU,
    Rescaling,
    Residual,
    Sequential,
    Softmax,
    StepDecay,
    Tanh,
)


def network(dtype="float64", seed=1):
    return Sequential(Rescaling(0.5), Dense(6), ReLU(), Dense(5), ReLU(), Dense(3), dtype=dtype).build(4, seed=seed)


def by_hand(model, X):
    p, values = model.parameters, [X * 0.5]
    for k in range(3):
        values.append(values[-1] @ p[f"dense_{k}.weight"] + p[f"dense_{k}.bias"])
        if k < 2:
            values.append(np.maximum(values[-1], 0))
    return values


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 7, 9000])
def test_every_layer_by_index_from_both_ends(dtype, n, rng):
    model, X = network(dtype), rng.normal(size=(n, 4))
    for i, expected in enumerate(by_hand(model, X)):
        got = model.activations(X, layer=i)
        assert got.dtype == dtype
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(model.activations(X, layer=i - 6), got)
    np.testing.assert_allclose(model.activations(X), model.logits(X), rtol=1e-4, atol=1e-5)


def test_by_the_names_of_summary(rng, capsys):
    model, X = Sequential(Dense(6), Tanh(), Dense(5), ReLU(), Dense(3)).build(4), rng.normal(size=(5, 4))
    printed = model.summary()
    for i, name in enumerate(["dense_0", "Tanh()", "dense_1", "ReLU()", "dense_2"]):
        assert name in printed
        np.testing.assert_array_equal(model.activations(X, layer=name), model.activations(X, layer=i))


def test_sparse_rows_and_untouched_input(rng):
    model, X = network(), rng.normal(size=(6, 4))
    before = X.copy()
    sparse = model.activations(scipy.sparse.csr_array(X), layer=2)
    np.testing.assert_allclose(sparse, model.activations(X, layer=2), rtol=1e-12)
    model.activations(X, layer=0)[:] = 7
    np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize(
    ("layer", "error", "words"),
    [
        (6, ValueError, r"`layer` must be in \[-6, 5\] for 6 layers; got 6"),
        (-7, ValueError, r"got -7"),
        ("dense_9", ValueError, "`layer` must be one of .*'dense_2'; got 'dense_9'"),
        ("ReLU()", ValueError, r"'ReLU\(\)' is at \[2, 4\]"),
        (True, TypeError, "got True"),
        (1.0, TypeError, "got 1.0"),
    ],
)
def test_bad_layers(layer, error, words):
    with pytest.raises(error, match=words):
        network().activations(np.ones((2, 4)), layer=layer)


def test_without_parameters():
    with pytest.raises(ValueError, match="no parameters yet"):
        Sequential(Dense(2)).activations([[1.0]], layer=0)


def test_copy_parameters_of_leading_layers(rng):
    old, X = network("float32", seed=3), rng.normal(size=(5, 4))
    new = Sequential(*old.layers[:5], Dense(2))
    assert new.copy_parameters(old, layers=5) is new
    np.testing.assert_array_equal(new.activations(X, layer=4), old.activations(X, layer=4))
    fresh = Sequential(*old.layers[:5], Dense(2)).build(4)
    np.testing.assert_array_equal(new.parameters["dense_2.weight"], fresh.parameters["dense_2.weight"])
    kept = old.parameters
    new.fit(X, [0, 1, 0, 1, 1], loss="softmax_cross_entropy", epochs=2, verbose=0)
    assert all(np.array_equal(kept[name], old.parameters[name]) for name in kept)


def test_copy_parameters_of_all_layers_and_another_dtype(rng):
    old, new = network("float64", seed=3), network("float32", seed=4)
    new.copy_parameters(old)
    assert all(np.array_equal(new.parameters[k], v.astype("float32")) for k, v in old.parameters.items())


def test_soft_updates(rng):
    new, old = (Sequential(Dense(5), BatchNorm(), Dense(2)).build(3, seed) for seed in (1, 2))
    old.set_parameters({"batch_norm_0.running_mean": rng.normal(size=5)})
    before = new.parameters
    assert new.copy_parameters(old, layers=2, tau=0.25) is new
    for name, value in new.parameters.items():
        share = 0.0 if name.startswith("dense_1") else 0.25
        np.testing.assert_allclose(value, (1 - share) * before[name] + share * old.parameters[name], rtol=1e-6)
    for tau in (0, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"`tau` must be in \(0, 1\]"):
            new.copy_parameters(old, tau=tau)
    with pytest.raises(ValueError, match="no parameters yet"):
        Sequential(Dense(5), BatchNorm(), Dense(2)).copy_parameters(old, tau=0.5)


def test_copy_parameters_into_frozen_layers(rng):
    def layers(trainable):
        frozen = {"trainable": trainable}
        inner = Residual(LayerNorm(**frozen), Dense(5, **frozen), drop_rate=0.1 * trainable)
        return Dense(5, **frozen), BatchNorm(**frozen), PReLU(**frozen), inner, GLU(4, **frozen), Dense(2)

    trained, X = Sequential(*layers(True)).build(3, seed=1), rng.normal(size=(7, 3))
    trained.set_parameters({name: rng.uniform(0.5, 1, array.shape) for name, array in trained.parameters.items()})
    frozen = Sequential(*layers(False)).copy_parameters(trained)
    np.testing.assert_array_equal(frozen.logits(X), trained.logits(X))
    longer = Residual(LayerNorm(), Dense(5), ReLU())
    with pytest.raises(ValueError, match="must be layers that both models share; 3 is"):
        Sequential(Dense(5), BatchNorm(), PReLU(), longer, Dense(2)).copy_parameters(trained, layers=4)
    for other in (BatchNorm(epsilon=0.1), LayerNorm()):
        with pytest.raises(ValueError, match="must be layers that both models share; 1 is"):
            Sequential(Dense(5), other, Dense(2)).copy_parameters(trained, layers=2)


def test_copy_parameters_of_all_layers_takes_the_loss_with_them(rng):
    X, y = rng.normal(size=(60, 3)), rng.integers(0, 2, 60)
    trained = Sequential(Dense(4), Dense(1))
    trained.fit(X, y, loss="binary_cross_entropy")
    frozen = Sequential(Dense(4, trainable=False), Dense(1)).copy_parameters(trained)
    np.testing.assert_array_equal(frozen.predict(X), trained.predict(X))
    assert Sequential(Dense(4), Dense(1)).copy_parameters(trained, layers=1).loss is None
    assert Sequential(Dense(4), Dense(1), ReLU()).copy_parameters(trained).loss is None
    other = Sequential(Dense(4), Dense(1))
    other.fit(X, y, loss="squared_error")
    assert other.copy_parameters(trained).loss.name == "squared_error"


@pytest.mark.parametrize(
    ("layers", "k", "words"),
    [
        ((Rescaling(0.5), Dense(7), ReLU(), Dense(3)), 2, "must be layers that both models share; 1 is"),
        ((Rescaling(0.5), Dense(6), Logistic(), Dense(3)), 3, "must be layers that both models share; 2 is"),
        ((Rescaling(0.5), Dense(6, use_bias=False), ReLU(), Dense(3)), 2, "1 is"),
        ((Rescaling(0.5), Dense(6), ReLU(), Dense(3)), 5, r"`layers` must be an integer in \[1, 4\]; got 5"),
        ((Rescaling(0.5), Dense(6), ReLU(), Dense(3)), 0, "got 0"),
    ],
)
def test_copy_parameters_refuses_what_is_not_shared(layers, k, words):
    new = Sequential(*layers)
    with pytest.raises(ValueError, match=words):
        new.copy_parameters(network(), layers=k)
    assert not new.built


def test_copy_parameters_refuses_other_models():
    with pytest.raises(TypeError, match="`other` must be a Sequential; got str"):
        network().copy_parameters("mnist")
    with pytest.raises(ValueError, match="no parameters yet"):
        network().copy_parameters(Sequential(Dense(2)))
    with pytest.raises(ValueError, match="`other` must have n_features=4; got 5"):
        network().copy_parameters(Sequential(*network().layers).build(5))


def test_a_layer_within_a_residual_has_no_values_of_its_own():
    model = Sequential(Dense(4), Residual(Dense(4), ReLU()), Dense(2)).build(3)
    with pytest.raises(ValueError, match="`layer` 'dense_1' lies within layer 1, whose own values are layer=1"):
        model.activations(np.ones((2, 3)), "dense_1")


# Parts of a model


PARTED = [
    (Dense(6), ReLU(), Dense(2), Dense(6), Tanh(), Dense(4)),
    (
        Rescaling(0.5),
        Dense(6),
        BatchNorm(),
        PReLU(),
        GLU(5),
        Residual(Dense(5), ReLU(), Dense(5)),
        BatchNorm(),
        Dense(3),
    ),
]


@pytest.mark.parametrize("layers", PARTED, ids=["plain", "rich"])
def test_parts_after_one_another_are_the_whole(layers, rng):
    model, X = Sequential(*layers, dtype="float64").build(4, seed=3), rng.normal(size=(9, 4))
    drawn = {name: rng.uniform(0.5, 1.5, array.shape) for name, array in model.parameters.items()}
    model.set_parameters(drawn)
    whole, cut = model.logits(X), 0
    for i in range(1, len(layers)):
        try:
            Sequential(*layers[:i])
            Sequential(*layers[i:])
        except ValueError:  # no Dense in one of them, or an activation first in the second
            continue
        first, second = model[:i], model[i:]
        assert (first.layers, second.layers) == (layers[:i], layers[i:])
        np.testing.assert_allclose(first.logits(X), model.activations(X, layer=i - 1), rtol=1e-12)
        np.testing.assert_allclose(second.logits(first.logits(X)), whole, rtol=1e-12)
        joined = first + second
        assert joined.layers == model.layers and {*joined.parameters} == {*model.parameters}
        assert all(np.array_equal(joined.parameters[name], array) for name, array in model.parameters.items())
        cut += 1
    assert cut >= 2
    np.testing.assert_array_equal(model[:].logits(X), whole)


def test_a_part_owns_its_parameters_and_trains_on(rng):
    X = rng.normal(size=(60, 4)).astype(np.float32)
    model = Sequential(Dense(6), ReLU(), Dense(2), Dense(4))
    model.fit(X, X, loss="squared_error", epochs=2, verbose=0)
    decoder, encoder = model[3:], model[:-1]
    assert (decoder.n_features, encoder.n_features, decoder.loss, encoder.loss) == (2, 4, model.loss, None)
    before = model.parameters
    decoder.fit(encoder.logits(X), X, loss="squared_error", epochs=2, verbose=0)
    assert all(np.array_equal(array, before[name]) for name, array in model.parameters.items())
    assert not np.array_equal(decoder.parameters["dense_0.weight"], before["dense_2.weight"])
    unbuilt = Sequential(Dense(6), Dense(2))[1:]
    assert not unbuilt.built and unbuilt.layers == (Dense(2),)


def test_networks_are_joined(rng):
    X, y = rng.normal(size=(60, 4)), rng.integers(0, 3, 60)
    encoder, head = Sequential(Dense(6), Tanh()).build(4, seed=1), Sequential(Dense(5), Dense(3)).build(6, seed=2)
    head.fit(encoder.logits(X), y, loss="softmax_cross_entropy")
    whole = encoder + head
    np.testing.assert_allclose(whole.predict(X), head.predict(encoder.logits(X)), rtol=1e-5)
    kept = encoder.parameters
    whole.fit(X, y, optimizer="sgd")  # the head's loss, and arrays of its own
    assert all(np.array_equal(kept[name], array) for name, array in encoder.parameters.items())
    shared = [
        np.shares_memory(a, b)
        for a in whole._arrays.values()
        for part in (encoder, head)
        for b in part._arrays.values()
    ]
    assert not any(shared)
    pandas = pytest.importorskip("pandas")
    named = Sequential(Dense(4))
    named.fit(pandas.DataFrame(X, columns=list("abcd")), X, loss="squared_error")
    with pytest.raises(ValueError, match="`X` must have the columns of the fit"):
        (named + Sequential(Dense(2)).build(4)).predict(pandas.DataFrame(X, columns=list("abce")))
    apart = Sequential(Dense(6)) + Sequential(Dense(3))
    assert not apart.built and apart.layers == (Dense(6), Dense(3)) and apart.loss is None
    for other, words in (
        (Sequential(Dense(3)), "both networks must have parameters, or none; only the first has"),
        (Sequential(Dense(3)).build(7), "as many inputs as the first has outputs, 6; it has 7"),
        (Sequential(Dense(3), dtype="float64").build(6), "must have one dtype; got float32 and float64"),
        (Sequential(Rescaling(2.0), Dense(3)).build(6), "Rescaling must be the first layer; got it as layer 2"),
    ):
        with pytest.raises(ValueError, match=words):
            encoder + other
    with pytest.raises(TypeError, match="unsupported operand"):
        encoder + Dense(3)
    with pytest.raises(TypeError, match="a network is no layer of another; encoder \\+ decoder joins two"):
        Sequential(encoder, head)


def test_what_makes_no_part():
    model = Sequential(Dense(6), ReLU(), Dense(2), Softmax()).build(3)
    for index in (1, -1, "dense_0", slice(None, None, 2)):
        with pytest.raises(TypeError, match=r"a model is cut by a slice such as .* is model.layers\[2\]; got"):
            model[index]
    with pytest.raises(ValueError, match=r"model\[1:4\] is no network: the first layer .* must be a Dense; got ReLU"):
        model[1:]
    with pytest.raises(ValueError, match="needs at least one Dense"):
        model[5:]


# As in training


def test_dropout_acts_with_training_and_by_its_seed(rng):
    X = rng.normal(size=(40, 6))
    model = Sequential(Dense(50, use_bias=False), Dropout(0.4), Dense(3), dtype="float64").build(6)
    hidden = model.activations(X, 0)
    masked = model.activations(X, 1, training=True, seed=5)
    kept = masked != 0
    assert abs(kept.mean() - 0.6) < 0.03
    np.testing.assert_allclose(masked[kept], hidden[kept] / 0.6, rtol=1e-12)
    p = model.parameters
    expected = masked @ p["dense_1.weight"] + p["dense_1.bias"]
    np.testing.assert_allclose(model.logits(X, training=True, seed=5), expected, rtol=1e-12)
    assert np.array_equal(model.predict(X, training=True, seed=5), model.logits(X, training=True, seed=5))
    assert not np.array_equal(model.logits(X, training=True, seed=6), model.logits(X, training=True, seed=5))
    assert np.array_equal(model.activations(X, 1), hidden)
    mean = np.mean([model.logits(X, training=True, seed=k) for k in range(2000)], axis=0)
    np.testing.assert_allclose(mean, model.logits(X), atol=0.15 * np.abs(model.logits(X)).max())


def test_many_rows_and_sparse_ones_too(rng):
    X = rng.normal(size=(5000, 40)) * (rng.uniform(size=(5000, 40)) < 0.05)
    model = Sequential(Dropout(0.5), Dense(30), ReLU(), Dense(2), dtype="float64").build(40)
    dense = model.logits(X, training=True, seed=1)
    np.testing.assert_allclose(model.logits(scipy.sparse.csr_array(X), training=True, seed=1), dense, rtol=1e-12)
    first = model.activations(X, 0, training=True)
    assert 0.45 < (first != 0).sum() / (X != 0).sum() < 0.55


def test_noise_stochastic_depth_and_the_statistics_of_the_batch(rng):
    X = rng.normal(size=(4000, 5)).astype(np.float32)
    model = Sequential(GaussianNoise(0.25), Dense(5), BatchNorm(), Residual(Dense(5), drop_rate=0.3), Dense(2)).build(5)
    noise = model.activations(X, 0, training=True) - X
    assert noise.dtype == np.float32 and abs(noise.std() - 0.25) < 0.01 and abs(noise.mean()) < 0.01
    normed = model.activations(X, 2, training=True)
    np.testing.assert_allclose(normed.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(normed.std(axis=0), 1, atol=1e-3)
    assert model.activations(X, 2).std(axis=0).max() != pytest.approx(1, abs=1e-3)
    p = model.parameters
    branch = (normed @ p["dense_1.weight"] + p["dense_1.bias"]) / 0.7
    added = model.activations(X, 3, training=True) - normed
    left_out = (added == 0).all(axis=1)
    assert abs(left_out.mean() - 0.3) < 0.03
    np.testing.assert_allclose(added[~left_out], branch[~left_out], rtol=1e-2, atol=1e-4)
    assert (model.parameters["batch_norm_0.running_mean"] == 0).all()


def test_dropout_alone_leaves_a_batch_norm_its_running_averages(rng):
    """Monte Carlo dropout of one row, too."""
    X, y = rng.normal(size=(200, 5)), rng.integers(0, 3, 200)
    model = Sequential(Dense(8), BatchNorm(), ReLU(), Dropout(0.3), Dense(3))
    model.fit(X, y, loss="softmax_cross_entropy", epochs=3)
    frozen = Sequential(Dense(8), BatchNorm(trainable=False), ReLU(), Dropout(0.3), Dense(3)).copy_parameters(model)
    drawn = model.predict(X, training="dropout", seed=3)
    np.testing.assert_array_equal(drawn, frozen.predict(X, training=True, seed=3))
    assert not np.allclose(drawn, model.predict(X, training=True, seed=3), atol=1e-3)
    np.testing.assert_array_equal(model.activations(X, 1, training="dropout"), model.activations(X, 1))
    mean = np.mean([model.logits(X[:1], training="dropout", seed=k) for k in range(2000)], axis=0)
    np.testing.assert_allclose(mean, model.logits(X[:1]), atol=0.1)
    with pytest.raises(ValueError, match="`training` must not be True for one row with a BatchNorm.*'dropout'"):
        model.predict(X[:1], training=True)
    assert model.activations(X[:1], 0, training=True).shape == (1, 8)  # before the norm
    assert frozen.predict(X[:1], training=True).shape == (1, 3)


def test_what_cannot_be_drawn_in_numpy():
    model = Sequential(RandomAffine((2, 2), degrees=10), Dense(2)).build(4)
    with pytest.raises(NotImplementedError, match="is for dropout, noise and norms; the model has RandomAffine"):
        model.logits(np.ones((2, 4)), training=True)
    model = Sequential(Dense(2), BatchNorm()).build(4)
    np.testing.assert_array_equal(model.logits(np.eye(4), training=np.True_), model.logits(np.eye(4), training=True))
    np.testing.assert_array_equal(model.logits(np.eye(4), training=np.False_), model.logits(np.eye(4)))
    wrong = [{"training": value} for value in (1, 1.0, "drop", None, np.array(["dropout"]))] + [
        {"training": True, "seed": s} for s in (-1, 0.5)
    ]
    for options in wrong:
        with pytest.raises((ValueError, TypeError), match=r"`(training|seed)` must be"):
            model.logits(np.ones((2, 4)), **options)


def test_a_rate_by_a_schedule_is_that_of_the_first_step():
    model = Sequential(Dropout(StepDecay(0.25, 0.1, steps=1)), Dense(2)).build(10_000)
    masked = model.activations(np.ones((1, 10_000)), 0, training=True)
    assert abs((masked == 0).mean() - 0.25) < 0.02
