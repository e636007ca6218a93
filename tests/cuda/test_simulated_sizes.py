"""Fits in the simulator with the tiles, panels and blocks of a device, which take minutes. `tests/test_cuda.py` starts
them, with the variable that asks for these sizes.
"""

import numpy as np
import pytest
from exact import assert_a_step_is_the_twins

from fastmlp import (
    GELU,
    SGD,
    AdamW,
    BatchNorm,
    Dense,
    Dropout,
    Embedding,
    LayerNorm,
    PReLU,
    ReLU,
    Residual,
    Sequential,
    devices,
)
from fastmlp.cuda import device, gradients, narrow
from fastmlp.cuda.device import tile_for
from fastmlp.training import Training

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(device.TINY, reason="FASTMLP_CUDA_SIZES=device is not set"),
    pytest.mark.filterwarnings("ignore:overflow encountered in scalar:RuntimeWarning"),
]

CASES = {  # layers, rows of a batch, options: what the sizes of tiles have corners in
    "wide": (
        [Dense(131, l2=1e-3), GELU(), Dropout(0.3), Dense(67, max_norm=0.9), ReLU(), Dense(5)],
        33,
        {"optimizer": AdamW(0.01, clip_norm=0.5, ema_decay=0.9)},
    ),
    "norms": (
        [Dense(65, use_bias=False), BatchNorm(), PReLU(), Residual(LayerNorm(), Dense(65), drop_rate=0.3), Dense(5)],
        35,
        {"optimizer": SGD(0.1, momentum=0.9)},
    ),
    "embedding": (
        [Embedding([3, 40, 30], 37, columns=[66, 2, 0]), Dense(9), ReLU(), Dense(5)],
        67,
        {"optimizer": AdamW(0.01, ema_decay=0.9)},
    ),
    "narrow": ([Dense(33), GELU(), Dense(128), ReLU(), Dense(5)], 35, {"optimizer": SGD(0.1, momentum=0.9)}),
}


def fit(device, layers, batch_size, dtype, options):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(2 * batch_size - 3, 67)).astype(dtype), rng.integers(0, 5, 2 * batch_size - 3)
    if isinstance(layers[0], Embedding):
        X[:, layers[0].columns] = rng.integers(0, layers[0].input_dim, (len(X), 3))
    model = Sequential(*layers, dtype=dtype).build(67, seed=1)
    options = {"loss": "softmax_cross_entropy", "batch_size": batch_size, "seed": 2, **options}
    with Training(model, X, y, device=device, **options) as training:
        losses, loss = training.run(1), training.loss_of(X[:34], y[:34])
    return losses, loss, model.parameters


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("tile", [0, -1])
@pytest.mark.parametrize("name", CASES)
def test_fits_follow_the_cpu(name, tile, dtype, monkeypatch):
    """With the largest tiles, which so few rows would not get, and the smallest; gradients in shares of 16 rows."""
    layers, batch_size, options = CASES[name]
    monkeypatch.setattr(gradients, "LEAST", 16)
    if tile == 0:
        largest = device.TILES[dtype][0]
        monkeypatch.setattr("fastmlp.cuda.launches.tile_for", lambda *arguments: largest)
        monkeypatch.setattr(gradients, "tile_for", lambda *arguments: largest)
        monkeypatch.setattr(narrow, "MANY", 1)
    (cpu, cpu_loss, expected), (cuda, cuda_loss, parameters) = (
        fit(where, layers, batch_size, dtype, options) for where in ("cpu", "cuda")
    )
    rtol = 1e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(cuda, cpu, rtol=rtol)
    np.testing.assert_allclose(cuda_loss, cpu_loss, rtol=rtol)
    for key, array in expected.items():
        np.testing.assert_allclose(parameters[key], array, rtol=20 * rtol, atol=20 * rtol, err_msg=key)


@pytest.mark.parametrize("precision", devices.PRECISIONS)
@pytest.mark.parametrize("tile", range(3))
@pytest.mark.parametrize("is_narrow", [True, False])
def test_steps_of_tensor_cores_are_the_twins(is_narrow, tile, precision, monkeypatch):
    """Narrow networks with tiles for few rows and for many; others with all tiles."""
    tile = device.TILES[precision][tile]
    for module in ("launches", "gradients"):  # evaluations keep their own: they are not rounded
        monkeypatch.setattr(
            f"fastmlp.cuda.{module}.tile_for",
            lambda rows, columns, of, times=1: tile if of == precision else tile_for(rows, columns, of, times),
        )
    monkeypatch.setattr(gradients, "LEAST", 64)
    monkeypatch.setattr(narrow, "MANY", 1 if tile.rows > 32 else 1000)
    widths = (67, 128, 33, 4) if is_narrow else (67, 131, 33, 4)
    assert_a_step_is_the_twins(precision, widths, 128, monkeypatch)
