"""`ActivityRegularization` against the twin and PyTorch; wherever a fit and a prediction meet it."""

import numpy as np
import pytest
import reference
from scipy.sparse import csr_array

from fastmlp import (
    GELU,
    SGD,
    ActivityRegularization,
    Contrastive,
    Dense,
    DivergenceError,
    Dropout,
    LayerNorm,
    Logistic,
    MixUp,
    ReLU,
    Residual,
    Sequential,
    Tanh,
    load_model,
)

LOSS = "softmax_cross_entropy"
STACKS = {
    "behind an activation": [Dense(9), ReLU(), ActivityRegularization(0.03, 0.02), Dense(3)],
    "before one, of several panels": [Dense(41), ActivityRegularization(0.03), GELU(), Dense(3)],
    "of 1/2 in the padding": [Dense(41), Logistic(), ActivityRegularization(0.03, 0.1), Dense(3)],
    "of logits": [Dense(3), ActivityRegularization(0.1, 0.3)],
    "several": [
        Dense(7),
        ActivityRegularization(l2=0.1),
        Tanh(),
        ActivityRegularization(0.1),
        Dense(3),
        ActivityRegularization(1),
    ],  # fmt: skip
}


def data(n=37, dtype=np.float64):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 5)).astype(dtype), rng.integers(0, 3, n), rng.uniform(size=n)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("stack", STACKS)
def test_gradients_and_losses_are_the_twins(stack, weighted, dtype):
    X, y, weights = data(dtype=dtype)
    weights = weights if weighted else None
    model = Sequential(*STACKS[stack], dtype=dtype).build(5)
    model.loss = LOSS
    loss, gradients = model.gradients(X, y, sample_weight=weights)
    expected, of_twin = reference.loss_and_gradients(STACKS[stack], model.parameters, X, y, LOSS, weights)
    rtol = 1e-5 if dtype == "float32" else 1e-12
    by_rows = weights.mean() if weighted else 1.0  # sums over rows are divided by their number
    assert loss == pytest.approx(by_rows * expected, rel=rtol)
    assert model.evaluate(X, y, weights)["loss"] == pytest.approx(expected, rel=rtol)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, by_rows * of_twin[name], rtol=rtol, atol=rtol, err_msg=name)


def test_gradients_are_those_of_finite_differences():
    X, y, weights = data()
    model = Sequential(*STACKS["several"], dtype="float64").build(5)
    _, gradients = model.gradients(X, y, LOSS, weights)
    parameters, h = model.parameters, 1e-6
    for name, at in (("dense_0.weight", (2, 3)), ("dense_0.bias", 4), ("dense_1.weight", (6, 1))):
        losses = []
        for step in (h, -h):
            moved = {key: value.copy() for key, value in parameters.items()}
            moved[name][at] += step
            model.set_parameters(moved)
            losses.append(model.gradients(X, y, LOSS, weights)[0])
        assert (losses[0] - losses[1]) / (2 * h) == pytest.approx(gradients[name][at], rel=1e-6)


def test_the_slope_at_0_is_0():
    X, y, _ = data()
    model = Sequential(Dense(3), ActivityRegularization(1.0), dtype="float64").build(5)
    model.set_parameters({"dense_0.weight": np.zeros((5, 3))})
    plain = model[:1]
    for name, gradient in model.gradients(X, y, LOSS)[1].items():
        np.testing.assert_array_equal(gradient, plain.gradients(X, y, LOSS)[1][name])


def test_mixed_rows_have_mixed_weights():
    """(z - y)^2 / 2 + c z^2 has the slope (1 + 2 c) (z - y / (1 + 2 c)): that of other targets, at another rate."""
    X, _, weights = data()
    y, c, fits = np.random.default_rng(1).normal(size=(37, 2)), 0.2, []
    for factor, last in ((1, [ActivityRegularization(l2=c)]), (1 + 2 * c, [])):
        model = Sequential(MixUp(0.7), Dense(9), Tanh(), Dense(2), *last, dtype="float64")
        options = {"loss": "squared_error", "sample_weight": weights, "epochs": 5, "batch_size": 8, "seed": 1}
        model.fit(X, y / factor, optimizer=SGD(0.1 * factor), verbose=0, **options)
        fits.append(model.parameters["dense_0.weight"])
    np.testing.assert_allclose(*fits, rtol=1e-11)


def test_steps_are_torchs(torch):
    """With batches of the last few rows, too."""
    X, y, _ = data(dtype=np.float32)
    model = Sequential(*STACKS["behind an activation"]).build(5)
    first, second = torch.nn.Linear(5, 9), torch.nn.Linear(9, 3)
    for k, linear in enumerate((first, second)):
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(model.parameters[f"dense_{k}.weight"].T))
            linear.bias.copy_(torch.tensor(model.parameters[f"dense_{k}.bias"]))
    optimizer, losses = torch.optim.SGD([*first.parameters(), *second.parameters()], 0.5), []
    for _ in range(20):
        for rows in (slice(0, 16), slice(16, 32), slice(32, 37)):
            a = torch.relu(first(torch.tensor(X[rows])))
            penalty = (0.03 * a.abs().sum(1) + 0.02 * (a * a).sum(1)).mean()
            loss = torch.nn.functional.cross_entropy(second(a), torch.tensor(y[rows])) + penalty
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    mine = [
        model.train_on_batch(X[rows], y[rows], loss=LOSS, optimizer=SGD(0.5))
        for _ in range(20)
        for rows in (slice(0, 16), slice(16, 32), slice(32, 37))
    ]
    np.testing.assert_allclose(mine, losses, rtol=2e-5)
    np.testing.assert_allclose(model.parameters["dense_0.weight"], first.weight.detach().numpy().T, atol=2e-5)


def test_validation_and_history_have_the_penalty():
    X, y, weights = data()
    model = Sequential(*STACKS["of logits"], dtype="float64")
    options = {"loss": LOSS, "optimizer": SGD(0.0), "sample_weight": weights, "epochs": 2, "batch_size": 8}
    history = model.fit(X, y, validation_data=(X, y), verbose=0, **options)
    assert history["val_loss"][-1] == pytest.approx(model.evaluate(X, y)["loss"], rel=1e-12)
    assert history["loss"][-1] == pytest.approx(model.evaluate(X, y, weights)["loss"], rel=1e-12)
    plain = Sequential(Dense(3), dtype="float64").build(5)
    plain.set_parameters(model.parameters)
    plain.loss = LOSS
    z = model.logits(X)
    penalty = (0.1 * np.abs(z).sum(1) + 0.3 * (z * z).sum(1)).mean()
    assert model.evaluate(X, y)["loss"] - plain.evaluate(X, y)["loss"] == pytest.approx(penalty, rel=1e-12)


def test_it_makes_codes_sparse():
    X, _, _ = data(200)
    shares = []
    for layers in ([], [ActivityRegularization(l1=0.6)]):
        model = Sequential(Dense(20), ReLU(), *layers, Dense(5), dtype="float64")
        model.fit(X, X, loss="squared_error", optimizer="adam", epochs=200, batch_size=50, verbose=0)
        shares.append((model.activations(X, layer=1) > 1e-3).mean())
    assert shares[1] < 0.6 * shares[0]


def test_the_same_bits_for_any_number_of_threads_and_of_sparse_rows():
    X, y, weights = data(600, np.float32)
    X[np.random.default_rng(1).random(X.shape) < 0.95] = 0
    options = {"loss": LOSS, "sample_weight": weights, "epochs": 3, "batch_size": 200, "verbose": 0}
    fits = []
    for rows, n_threads in ((X, 1), (X, 2), (csr_array(X), 1), (csr_array(X), 3)):
        model = Sequential(*STACKS["several"])
        history = model.fit(rows, y, n_threads=n_threads, **options)
        fits.append((history["loss"], model.parameters))
    for one, other in (fits[:2], fits[2:]):
        assert one[0] == other[0]
        assert all(np.array_equal(one[1][name], other[1][name]) for name in one[1])
    np.testing.assert_allclose(fits[0][0], fits[2][0], rtol=1e-5)


def test_within_a_residual_with_dropout_and_mixed_rows():
    """All weights equal: the same as none; and the penalty counts once where a row is mixed."""
    X, y, _ = data(64)
    losses = []
    for weights in (None, np.full(64, 2.5)):
        branch = Residual(LayerNorm(), Dense(8), ReLU(), ActivityRegularization(0.05, 0.05), Dropout(0.3), Dense(8))
        model = Sequential(MixUp(0.4), Dense(8), branch, Dense(3), dtype="float64")
        history = model.fit(X, y, loss=LOSS, sample_weight=weights, epochs=4, batch_size=16, seed=3, verbose=0)
        losses.append(history["loss"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-12)


def test_nothing_before_it_learns():
    """Then it changes the loss, and no gradient."""
    X, y, _ = data()
    frozen = Dense(9, trainable=False)
    models = [
        Sequential(frozen, ReLU(), *layers, Dense(3), dtype="float64") for layers in ([], [ActivityRegularization(1.0)])
    ]
    fits = [model.fit(X, y, loss=LOSS, epochs=3, batch_size=37, verbose=0)["loss"] for model in models]
    penalty = np.abs(models[0].activations(X, layer=1)).sum(1).mean()
    np.testing.assert_allclose(np.subtract(fits[1], fits[0]), penalty, rtol=1e-12)
    assert np.array_equal(*(model.parameters["dense_1.weight"] for model in models))


def test_predictions_leave_it_out(tmp_path):
    X, y, _ = data(3000, np.float32)  # rows enough for the engine
    with_it, without = Sequential(*STACKS["several"]), Sequential(Dense(7), Tanh(), Dense(3))
    with_it.fit(X, y, loss=LOSS, epochs=1, verbose=0)
    without.build(5).set_parameters(with_it.parameters)
    without.loss = with_it.loss
    for rows in (X, X[:2]):
        np.testing.assert_allclose(with_it.predict(rows), without.predict(rows), rtol=1e-5)
        np.testing.assert_array_equal(with_it.predict(rows, training=True), without.predict(rows, training=True))
    gradients = [model.input_gradients(X[:9], y[:9]) for model in (with_it, without)]
    np.testing.assert_allclose(*gradients, rtol=1e-5, atol=1e-6)
    with_it.save(tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.layers == with_it.layers
    assert loaded.evaluate(X, y) == with_it.evaluate(X, y)


def test_onnx_leaves_it_out(tmp_path):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'fastmlp[onnx]'")
    from onnx.reference import ReferenceEvaluator

    from fastmlp import export_onnx

    model = Sequential(*STACKS["several"]).build(5)
    export_onnx(tmp_path / "model.onnx", model)
    X = data(4, np.float32)[0]
    outputs = ReferenceEvaluator(onnx.load(tmp_path / "model.onnx")).run(None, {"X": X})
    np.testing.assert_allclose(outputs[0], model.logits(X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ActivityRegularization(-1), r"`l1` must be in \[0, inf\); got -1"),
        (lambda: ActivityRegularization(l2=np.nan), "`l2`.*got nan"),
        (lambda: ActivityRegularization("a"), "`l1` must be a number; got 'a'"),
        (
            lambda: Sequential(ActivityRegularization(1), Dense(2)),
            "the first layer after the input must be a Dense; got ActivityRegularization",
        ),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build()


def test_losses_across_rows_are_refused():
    X, y, _ = data()
    model = Sequential(Dense(3), ActivityRegularization(0.1))
    with pytest.raises(ValueError, match=r"ActivityRegularization.*adds to the loss of each row; `loss`='contrastive'"):
        model.fit(X, y, loss=Contrastive(), verbose=0)


def test_a_penalty_that_is_not_finite_ends_the_fit():
    """Though the loss without it is, and no parameter changes."""
    X, y, _ = data()
    last = Dense(3, kernel_initializer="zeros")
    model = Sequential(Dense(3), ActivityRegularization(l2=1e-8), last, dtype="float64").build(5)
    model.set_parameters({"dense_0.weight": np.full((5, 3), 1e260)})
    with pytest.raises(DivergenceError, match="epoch 1: the loss"):
        model.fit(1e-100 * X, y, loss=LOSS, optimizer=SGD(0.0), verbose=0)
