"""`Softmax` between layers and as the last: against finite differences and PyTorch; bits, memory, files."""

import numpy as np
import pytest
import scipy.special
from cases import run_guarded
from hypothesis import given, strategies as st

from fastmlp import SGD, Adam, Dense, Dropout, ReLU, Rescaling, Sequential, Softmax, Tanh
from fastmlp.evaluation import Evaluation
from fastmlp.training import Training

STACKS = [
    lambda k: (Dense(k), Softmax(), Dense(2)),
    lambda k: (Dense(4), Tanh(), Dense(k), Softmax()),
    lambda k: (Dense(k), Tanh(), Softmax(), Dense(3), Softmax(), Tanh(), Dense(1)),
    lambda k: (Dense(k), Softmax(), Softmax(), ReLU(), Dense(k), ReLU(), Softmax()),
]


@given(
    st.sampled_from(STACKS),
    st.sampled_from([1, 2, 3, 8, 15, 16, 17, 33, 70]),
    st.sampled_from([1, 2, 7, 129]),
    st.sampled_from(["float64", "float32"]),
)
def test_gradients_against_torch(stack, k, n, dtype):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(n + k)
    model = Sequential(*stack(k), dtype=dtype).build(3, seed=k)
    X, y = rng.normal(size=(n, 3)).astype(dtype), rng.normal(size=(n, model.n_outputs))
    p = {name: torch.tensor(a.astype(float), requires_grad=True) for name, a in model.parameters.items()}
    a, dense = torch.tensor(X.astype(float)), 0
    for layer in model.layers:
        if isinstance(layer, Dense):
            a, dense = a @ p[f"dense_{dense}.weight"] + p[f"dense_{dense}.bias"], dense + 1
        else:
            a = {"Softmax": lambda t: torch.softmax(t, 1), "Tanh": torch.tanh, "ReLU": torch.relu}[
                type(layer).__name__
            ](a)
    loss = 0.5 * ((a - torch.tensor(y.astype(dtype).astype(float))) ** 2).sum(1).mean()
    loss.backward()
    value, gradients = model.gradients(X, y, "squared_error")
    tolerance = 1e-11 if dtype == "float64" else 1e-4
    np.testing.assert_allclose(value, loss.item(), rtol=tolerance)
    for name, g in gradients.items():
        np.testing.assert_allclose(g, p[name].grad.numpy(), rtol=tolerance, atol=tolerance / 10, err_msg=name)
    outputs = [model.logits(X), Evaluation(model, X).logits()]
    for output in outputs:
        np.testing.assert_allclose(output, a.detach().numpy(), rtol=tolerance, atol=tolerance / 10)


def test_far_out_values_and_shares(rng):
    z = rng.normal(size=(50, 40)) * 1e3
    model = Sequential(Dense(40, use_bias=False), Softmax()).build(40)
    model.set_parameters({"dense_0.weight": np.eye(40)})
    for a in (model.predict(z), Evaluation(model, z).logits()):
        np.testing.assert_allclose(a, scipy.special.softmax(z, axis=1), atol=1e-4)
        np.testing.assert_allclose(a.sum(1), 1, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_bits_over_threads_and_a_poisoned_workspace(dtype, rng, monkeypatch):
    monkeypatch.setenv("FASTMLP_OVERSUBSCRIBE", "1")
    X, y = rng.normal(size=(203, 6)), rng.normal(size=(203, 2))
    fits = []
    for n_threads in (1, 2, 3, 8):
        model = Sequential(
            Rescaling(0.5), Dense(33), Softmax(), Dropout(0.2), Dense(5), Softmax(), Dense(2), dtype=dtype
        ).build(6)
        options = {"loss": "squared_error", "optimizer": Adam(0.01), "batch_size": 50, "n_threads": n_threads}
        with Training(model, X, y, **options, _guard=64) as training:
            run_guarded(training, 3)
        fits.append(model.parameters)
    for other in fits[1:]:
        assert all(np.array_equal(fits[0][name], other[name]) for name in other)


def test_a_model_with_it_learns_and_survives_saving(rng, tmp_path):
    X = rng.normal(size=(300, 4))
    y = scipy.special.softmax(X @ rng.normal(size=(4, 3)), axis=1)
    model = Sequential(Dense(3), Softmax())
    history = model.fit(X, y, loss="squared_error", optimizer=SGD(2.0), epochs=30, verbose=0)
    assert history["loss"][-1] < 0.02 * history["loss"][0]
    model.save(tmp_path / "model.safetensors")
    loaded = Sequential.load(tmp_path / "model.safetensors")
    assert loaded.layers == model.layers
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))


def test_it_is_not_the_first_layer():
    with pytest.raises(ValueError, match="must be a Dense; got Softmax"):
        Sequential(Softmax(), Dense(2))
