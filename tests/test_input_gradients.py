"""`Sequential.input_gradients`: finite differences through every layer, PyTorch, and what it is for."""

import numpy as np
import pytest
import scipy.sparse
from cases import FIRST, drawn, layer_of

from fastmlp import (
    GELU,
    GLU,
    BatchNorm,
    CustomActivation,
    Dense,
    Dropout,
    LayerNorm,
    MixUp,
    ReLU,
    Rescaling,
    Residual,
    Sequential,
    Softmax,
    SwiGLU,
    Tanh,
    pre_norm_block,
)
from fastmlp.datasets import load_digits
from fastmlp.layers import LAYERS
from fastmlp.losses import SoftmaxCrossEntropy

LOSS = SoftmaxCrossEntropy()


def check_differences(model, X, y, loss=LOSS):
    """Of every row's loss and of one logit, in random directions."""
    rng, k = np.random.default_rng(3), model.n_outputs - 1
    direction = rng.normal(size=X.shape)
    above, below = (model.logits(X + sign * 1e-6 * direction) for sign in (1, -1))
    for gradient, up, down in (
        (model.input_gradients(X, y, loss), loss.rows(above, y), loss.rows(below, y)),
        (model.input_gradients(X, output=k), above[:, k], below[:, k]),
    ):
        assert (gradient.shape, gradient.dtype) == (X.shape, np.float64)
        np.testing.assert_allclose((gradient * direction).sum(axis=1), (up - down) / 2e-6, rtol=2e-6, atol=2e-8)


@pytest.mark.parametrize("name", [name for name in LAYERS if name not in ("HardThreshold", "Embedding")])
def test_every_layer(name, rng):
    layers = [layer_of(name), Dense(6)] if name in FIRST else [Dense(6), layer_of(name)]
    model = drawn(Sequential(*layers, Dense(3), dtype="float64"))
    check_differences(model, rng.normal(size=(20, 6)), np.arange(20) % 3)


def test_a_step_has_no_slope(rng):
    model = drawn(Sequential(Dense(6), layer_of("HardThreshold"), Dense(3)))
    assert not model.input_gradients(rng.normal(size=(5, 6)), output=0).any()


@pytest.mark.parametrize(
    "layers",
    [
        [Residual(LayerNorm(), Dense(6), Tanh())],
        [Dense(5), Residual(GLU(5), Residual(Dense(5), GELU()), SwiGLU(5)), Tanh()],
        [Residual(Residual(Dense(6), ReLU(), drop_rate=0.5), Dropout(0.5)), Softmax()],
        [Rescaling(2.0, 1.0), MixUp(0.2), BatchNorm(), pre_norm_block(6), pre_norm_block(6)],
        [Dense(7), CustomActivation(lambda z: z + z * z / 4, lambda z: 1 + z / 2, name="bent")],
    ],
    ids=range(5),
)
def test_branches_within_branches(layers, rng):
    model = drawn(Sequential(*layers, Dense(3), dtype="float64"))
    check_differences(model, 0.5 * rng.normal(size=(20, 6)), np.arange(20) % 3)


@pytest.mark.parametrize("loss", ["squared_error", "binary_cross_entropy", "huber", "poisson"])
def test_the_loss_of_each_row_alone(loss, rng):
    model = drawn(Sequential(Dense(5, l2=0.1), Tanh(), Dense(2), dtype="float64"))
    X, y = rng.normal(size=(9, 6)), rng.integers(0, 2, (9, 2)).astype(float)
    model.fit(X, y, loss=loss, epochs=1, verbose=0)
    check_differences(model, X, y, model.loss)
    np.testing.assert_allclose(model.input_gradients(X[4:5], y[4:5]), model.input_gradients(X, y)[4:5], rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_against_torch(dtype, rng, torch):
    model = drawn(Sequential(Dense(16), LayerNorm(), GELU(), Dense(16), ReLU(), Dense(4), dtype=dtype))
    p = {name: torch.tensor(array) for name, array in model.parameters.items()}
    X, y = rng.normal(size=(50, 6)).astype(dtype), rng.integers(0, 4, 50)
    x = torch.tensor(X, requires_grad=True)
    h = x @ p["dense_0.weight"] + p["dense_0.bias"]
    h = torch.nn.functional.layer_norm(h, (16,), p["layer_norm_0.weight"], p["layer_norm_0.bias"])
    h = torch.nn.functional.gelu(h) @ p["dense_1.weight"] + p["dense_1.bias"]
    z = h.relu() @ p["dense_2.weight"] + p["dense_2.bias"]
    torch.nn.functional.cross_entropy(z, torch.tensor(y), reduction="sum").backward()
    expected, tolerance = x.grad.numpy(), 1e-5 if dtype == "float32" else 1e-12
    found = model.input_gradients(X, y, LOSS)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


def test_many_rows_sparse_rows_and_integers(rng):
    model = drawn(Sequential(Dense(5), ReLU(), Dense(3)))
    X = rng.integers(0, 3, (9000, 6))
    y = np.arange(9000) % 3
    whole = model.input_gradients(X, y, LOSS)
    apart = np.concatenate([model.input_gradients(X[i : i + 500], y[i : i + 500], LOSS) for i in range(0, 9000, 500)])
    np.testing.assert_allclose(whole, apart, rtol=1e-5, atol=1e-6)
    sparse = model.input_gradients(scipy.sparse.csr_array(X.astype(float)), y, LOSS)
    np.testing.assert_allclose(sparse, whole, rtol=1e-5, atol=1e-6)
    before = X.copy()
    model.input_gradients(X, output=1)[:] = 7
    np.testing.assert_array_equal(X, before)


def test_a_small_step_along_its_sign_fools_a_classifier():
    (X, y), (X_test, y_test) = load_digits()
    model = Sequential(Dense(64), ReLU(), Dense(10))
    model.fit(X, y, loss="softmax_cross_entropy", epochs=30, verbose=0)
    step = 0.1 * np.sign(model.input_gradients(X_test, y_test))  # of numbers from 0 to 1
    noise = 0.1 * np.sign(np.random.default_rng(0).normal(size=step.shape))
    clean, noisy, fooled = (model.evaluate(X_test + d, y_test)["accuracy"] for d in (0, noise, step))
    assert clean > 0.95
    assert noisy > 0.93
    assert fooled < 0.5


def test_a_logit_for_each_row(rng):
    """Many rows too, which are taken some at a time."""
    model, X, classes = drawn(Sequential(Dense(3))), rng.normal(size=(5000, 6)), rng.integers(0, 3, 5000)
    each = np.stack([model.input_gradients(X, output=k) for k in range(3)])
    np.testing.assert_array_equal(model.input_gradients(X, output=classes), each[classes, np.arange(5000)])
    np.testing.assert_array_equal(model.input_gradients(X[:2], output=[2, np.int8(0)]), each[[2, 0], [0, 1]])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "give `y` .* or `output`, .* got neither"),
        ({"y": [0], "output": 1}, "got both"),
        ({"output": 3}, r"`output` must be an integer in \[0, 2\]; got 3"),
        ({"output": -1}, "got -1"),
        ({"output": 1.0}, "got 1.0"),
        ({"output": True}, "got True"),
        ({"output": [1, 2]}, r"`output` must be an integer, or one for each of the 1 rows; got int64 of shape \(2,\)"),
        ({"output": [1.0]}, "got float64 of shape"),
        ({"output": [3]}, r"`output` must be in \[0, 2\]; got 3 in row 0"),
        ({"output": [-1]}, "got -1 in row 0"),
        ({"output": 1, "loss": "hinge"}, "`loss` goes with `y`"),
        ({"y": [0], "loss": "contrastive"}, "`loss` must be one of single rows; got 'contrastive'"),
        ({"y": [0], "loss": "ranknet"}, "got 'ranknet'"),
        ({"y": [3], "loss": LOSS}, "3"),
        ({"y": [0, 1], "loss": LOSS}, "2"),
        ({"y": [0]}, "loss"),
    ],
)
def test_bad_input(arguments, words):
    with pytest.raises((ValueError, TypeError), match=words):
        drawn(Sequential(Dense(3))).input_gradients(np.ones((1, 6)), **arguments)


def test_no_parameters_yet_and_rows_that_do_not_fit():
    with pytest.raises(ValueError, match="no parameters yet|build"):
        Sequential(Dense(3)).input_gradients([[1.0]], output=0)
    model = drawn(Sequential(Dense(3)))
    with pytest.raises(ValueError, match="6"):
        model.input_gradients([[1.0]], output=0)
    with pytest.raises(ValueError, match="float32"):
        model.input_gradients(np.full((1, 6), 1e300), [0], LOSS)
