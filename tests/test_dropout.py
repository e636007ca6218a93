"""Dropout against a twin that draws the same masks in NumPy, and its statistics."""

import numpy as np
import pytest
import reference
from cases import examples
from hypothesis import given, strategies as st

from fastmlp import GELU, SELU, SGD, AlphaDropout, CosineDecay, Dense, Dropout, ReLU, Rescaling, Sequential, Tanh
from fastmlp.training import Training


def mask(rate, key, layer, n, columns):
    """The twin of the engine's hash: 0 or 1 / (1 - rate) for every row of a batch and every column."""
    index = (np.arange(n, dtype=np.uint64)[:, None] * columns + np.arange(columns, dtype=np.uint64)).astype(np.uint32)
    with np.errstate(over="ignore"):
        x = index + np.uint32((key + layer * 0x9E3779B9) % 2**32)
        x ^= x >> np.uint32(16)
        x *= np.uint32(0x21F0AAAD)
        x ^= x >> np.uint32(15)
        x ^= np.uint32(key >> 32)
        x *= np.uint32(0xD35A2D97)
        x ^= x >> np.uint32(15)
    return (x >= rate * 2**32) / (1 - rate)


def twin(layer, key, number, a):
    """(value, its slope) of a layer of dropout."""
    kept = mask(layer.rate, int(key), number, *a.shape) * (1 - layer.rate)
    if not isinstance(layer, AlphaDropout):
        return a * kept / (1 - layer.rate), kept / (1 - layer.rate)
    least, q = -1.6732632423543772 * 1.0507009873554805, 1 - layer.rate
    scale = (q + least**2 * q * (1 - q)) ** -0.5
    return scale * (a * kept + least * (1 - kept)) - scale * (1 - q) * least, scale * kept


def keys(seed, epoch, n_steps):
    bits = np.random.Philox(np.random.SeedSequence(seed, spawn_key=(2, epoch)))
    return np.random.Generator(bits).integers(0, 2**63 - 1, n_steps)


def twin_step(layers, p, X, y, rate, key):
    """One step of gradient descent with squared error: (loss, new parameters)."""
    tape, a, k = [], X, 0
    numbered = [layer for layer in layers if not isinstance(layer, Rescaling)]
    for layer in layers:
        tape.append(a)
        if isinstance(layer, Dense):
            a, k = a @ p[f"dense_{k}.weight"] + p[f"dense_{k}.bias"], k + 1
        elif isinstance(layer, Rescaling):
            a = a * layer.scale + layer.offset
        elif isinstance(layer, Dropout):
            a, _ = twin(layer, key, numbered.index(layer), a)
        else:
            a = reference.ACTIVATIONS[layer.name][0](a)
    loss, d, new = 0.5 * ((a - y) ** 2).sum(1).mean(), (a - y) / len(X), dict(p)
    for layer, a in zip(reversed(layers), reversed(tape), strict=True):
        if isinstance(layer, Dense):
            k -= 1
            new[f"dense_{k}.weight"] = p[f"dense_{k}.weight"] - rate * a.T @ d
            new[f"dense_{k}.bias"] = p[f"dense_{k}.bias"] - rate * d.sum(0)
            d = d @ p[f"dense_{k}.weight"].T
        elif isinstance(layer, Dropout):
            d = d * twin(layer, key, numbered.index(layer), a)[1]
        elif not isinstance(layer, Rescaling):
            d = d * reference.ACTIVATIONS[layer.name][1](a)
    return loss, new


STACKS = {
    "after activations": (Dense(33), ReLU(), Dropout(0.5), Dense(17), Tanh(), Dropout(0.2), Dense(3)),
    "first": (Dropout(0.3), Dense(20), Tanh(), Dense(3)),
    "after scaling": (Rescaling(0.5, 1.0), Dropout(0.25), Dense(5), GELU(), Dense(3)),
    "before an activation": (Dense(18), Dropout(0.4), Tanh(), Dense(1), Dropout(0.1), Dense(3)),
    "last, twice": (Dense(40), Dropout(0.01), Dropout(0.6), Dense(3), Dropout(0.5)),
    "of nothing": (Dense(6), Dropout(0.0), ReLU(), Dense(3)),
    "alpha": (Dense(33), SELU(), AlphaDropout(0.1), Dense(17), SELU(), AlphaDropout(0.4), Dense(3)),
    "alpha, first and last": (AlphaDropout(0.2), Dense(5), Dropout(0.3), Dense(3), AlphaDropout(0.25)),
    "alpha, of nothing": (Dense(6), AlphaDropout(0.0), ReLU(), Dense(3)),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("layers", STACKS.values(), ids=STACKS)
def test_steps_against_the_twin(layers, dtype, rng):
    X, y = rng.normal(size=(50, 21)), rng.normal(size=(50, 3))
    model = Sequential(*layers, dtype=dtype).build(21, seed=3)
    p = {name: value.astype(np.float64) for name, value in model.parameters.items()}
    options = {"loss": "squared_error", "optimizer": SGD(0.05), "batch_size": 20, "shuffle": False, "seed": 9}
    with Training(model, X.astype(dtype), y.astype(dtype), **options) as training:
        losses = training.run(epochs=2)
    for epoch in range(2):
        total = 0.0
        for rows, key in zip(reference.in_order(50, 20), keys(9, epoch, 3), strict=True):
            loss, p = twin_step(layers, p, X[rows], y[rows], 0.05, key)
            total += loss * len(rows)
        np.testing.assert_allclose(losses[epoch], total / 50, rtol=1e-11 if dtype == "float64" else 1e-4)
    for name, value in model.parameters.items():
        assert reference.relative_error(value, p[name]) < (1e-11 if dtype == "float64" else 1e-4), name


def test_alpha_dropout_keeps_mean_and_variance(rng):
    """Behind ten hidden layers, too; of Dropout's the deviation is 1.1, 1.2 and 5 there."""
    X = rng.normal(size=(4000, 50)).astype(np.float32)
    for rate in (0.05, 0.1, 0.5):
        layers = [layer for _ in range(10) for layer in (Dense(200), SELU(), AlphaDropout(rate))]
        model = Sequential(*layers, Dense(1)).build(50, seed=1)
        a = model.activations(X, len(layers) - 1, training=True)
        assert abs(a.mean()) < 0.02 and abs(a.std() - 1) < 0.02, rate
    a = Sequential(AlphaDropout(0.3), Dense(1)).build(50).activations(X, 0, training=True)
    assert abs(a.mean()) < 0.01 and abs(a.std() - 1) < 0.01 and a.dtype == np.float32


def test_torch_drops_to_the_same_values(torch):
    """Its masks are others; of ones, a layer gives two values."""
    for rate in (0.1, 0.5):
        theirs = torch.nn.AlphaDropout(rate)(torch.ones(20_000, dtype=torch.float64)).numpy()
        model = Sequential(AlphaDropout(rate), Dense(1), dtype="float64").build(200)
        ours = model.activations(np.ones((100, 200)), 0, training=True)
        np.testing.assert_allclose(np.unique(ours.round(9)), np.unique(theirs.round(9)), atol=2e-9)
        assert abs((ours < 0).mean() - rate) < 0.02


def test_a_scheduled_rate_of_alpha_dropout(rng):
    """An epoch of the schedule's rate is one of that number."""
    X, y = rng.normal(size=(40, 6)), rng.normal(size=(40, 2))
    options = {"loss": "squared_error", "optimizer": SGD(0.1), "batch_size": 40, "seed": 2}
    results = []
    for rate in (CosineDecay(0.4, epochs=4), 0.4):
        model = Sequential(Dense(9), SELU(), AlphaDropout(rate), Dense(2)).build(6)
        with Training(model, X, y, **options) as training:
            training.run(1)
        results.append(model.parameters)
    assert all(np.array_equal(results[0][name], value) for name, value in results[1].items())


@examples(20)
@given(st.integers(1, 40), st.lists(st.integers(1, 70), min_size=1, max_size=3), st.floats(0, 0.95), st.integers(1, 90))
def test_the_same_bits_for_any_threads_and_vectors(n_features, units, rate, n):
    kind = AlphaDropout if n % 2 else Dropout
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(n, n_features)).astype("f"), rng.normal(size=(n, 2)).astype("f")
    layers = [layer for width in units for layer in (kind(rate), Dense(width), Tanh())]
    results = []
    for n_threads in (1, 2):
        model = Sequential(*layers, Dropout(rate), Dense(2)).build(n_features)
        model.fit(X, y, loss="squared_error", optimizer=SGD(0.01), epochs=3, batch_size=16, n_threads=n_threads)
        results.append(model.parameters)
    for name, value in results[0].items():
        assert np.array_equal(value, results[1][name])


def test_a_resumed_fit_goes_on_with_its_masks(rng):
    X, y = rng.normal(size=(60, 8)), rng.normal(size=(60, 2))
    layers = (Dense(9), ReLU(), Dropout(0.5), Dense(2))
    options = {"loss": "squared_error", "optimizer": "adam", "batch_size": 16, "seed": 4}
    whole, halves = (Sequential(*layers).build(8) for _ in range(2))
    with Training(whole, X, y, **options) as training:
        training.run(4)
    with Training(halves, X, y, **options) as training:
        training.run(2)
        state = training.state
    with Training(halves, X, y, **options, state=state) as training:
        training.run(2)
    for name, value in whole.parameters.items():
        assert np.array_equal(value, halves.parameters[name])


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_masks_are_fair_and_independent(rate):
    """Means over all, over rows and over columns; and two steps, two layers and neighbours agree as chance has it."""
    n, columns = 512, 512
    masks = [mask(rate, int(k), layer, n, columns) > 0 for k in keys(0, 0, 3) for layer in (1, 2)]
    keep = 1 - rate
    error = np.sqrt(rate * keep / (n * columns))
    for m in masks:
        assert abs(m.mean() - keep) < 5 * error
        for axis in (0, 1):
            deviations = (m.mean(axis) - keep) / np.sqrt(rate * keep / n)
            assert np.abs(deviations).max() < 5 and 0.8 < deviations.std() < 1.2
    expected = keep**2 + rate**2
    tolerance = 5 * np.sqrt(expected * (1 - expected) / (n * columns))
    for i, m in enumerate(masks):
        for other in [*masks[:i], np.roll(m, 1, 0), np.roll(m, 1, 1)]:
            assert abs((m == other).mean() - expected) < tolerance + 1 / n


def test_predictions_and_gradients_keep_everything(rng):
    X = rng.normal(size=(3000, 6)).astype("f")
    with_dropout = Sequential(Dropout(0.5), Dense(40), ReLU(), AlphaDropout(0.5), Dense(2)).build(6)
    without = Sequential(Dense(40), ReLU(), Dense(2)).build(6)
    for rows in (X, X[:2]):  # through the engine, and through NumPy
        assert np.array_equal(with_dropout.logits(rows), without.logits(rows))
    y = rng.normal(size=(3000, 2))
    (a, first), (b, second) = (m.gradients(X, y, "squared_error") for m in (with_dropout, without))
    assert a == b and all(np.array_equal(first[name], second[name]) for name in first)


def test_dropout_keeps_a_wide_network_from_learning_wrong_labels(digits, rng):
    """A fifth of 300 labels are drawn anew; on other rows, dropout makes the loss a quarter lower and the accuracy 10
    points higher (eight seeds: 22 to 33 %, 7 to 12 points)."""
    X, y = digits
    labels = np.where(rng.random(300) < 0.2, rng.integers(0, 10, 300), y[:300])
    logs = []
    for layers in ([], [Dropout(0.5)]):
        model = Sequential(Dense(256), ReLU(), *layers, Dense(256), ReLU(), *layers, Dense(10))
        model.fit(X[:300], labels, loss="softmax_cross_entropy", optimizer="adam", epochs=50, batch_size=32)
        logs.append(model.evaluate(X[900:], y[900:]))
    assert logs[1]["loss"] < 0.85 * logs[0]["loss"]
    assert logs[1]["accuracy"] > logs[0]["accuracy"] + 0.04


@pytest.mark.parametrize(
    ("rate", "error"), [(1.0, ValueError), (-0.1, ValueError), (float("nan"), ValueError), ("half", TypeError)]
)
def test_bad_rates(rate, error):
    with pytest.raises(error, match=r"`rate` must be (in \[0, 1\)|a number); got"):
        Dropout(rate)
    with pytest.raises(error, match=r"`rate` must be (in \[0, 1\)|a number); got"):
        AlphaDropout(rate)


def test_it_is_no_network_of_its_own():
    with pytest.raises(ValueError, match="at least one Dense"):
        Sequential(Dropout(0.5)).build(3)


def test_it_is_saved_and_summarised(tmp_path, capsys):
    model = Sequential(Dense(4), AlphaDropout(CosineDecay(0.1, epochs=3)), Dropout(0.25), Dense(2)).build(3)
    model.save(tmp_path / "model.safetensors")
    assert Sequential.load(tmp_path / "model.safetensors").layers == model.layers
    assert "Dropout(rate=0.25)" in model.summary()
