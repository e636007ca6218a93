"""Every vector unit's code runs on every machine (LLVM splits wide vectors), so all of it is tested everywhere: tiles,
panels and tails differ, the chain of FMAs of each number does not, so the parameters must be equal to the bit."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from fastmlp.engine import jit
from fastmlp.simd import KNOWN, Simd, host_simd

FITS = """
import hashlib, sys
from dataclasses import replace
import numpy as np
from fastmlp import (
    GEGLU, GELU, SGD, Adam, BatchNorm, Dense, Dropout, GroupNorm, LayerNorm, PReLU, ReLU, Residual, RMSNorm,
    Sequential, Tanh,
)

digest = hashlib.sha256()
rng = np.random.default_rng(0)
for dtype in sys.argv[1:]:
    for widths, batch in (((1,), 1), ((33, 17, 21), 13), ((70, 5, 2), 29), ((45, 1, 1), 7)):
        X = rng.normal(size=(30, 11)).astype(dtype)
        y = rng.integers(0, widths[-1], 30) if widths[-1] > 1 else rng.normal(size=30)
        layers = []
        if len(widths) > 1:
            wide = [LayerNorm(), GroupNorm(2)] if batch == 29 else []
            layers = [Dense(widths[0]), *wide, GELU() if batch == 13 else ReLU(), Dropout(0.2)]
            layers += [Dense(widths[1], max_norm=0.8, l1=0.01), Tanh()]
            norms = [BatchNorm(), PReLU(), Residual(LayerNorm(), GEGLU(widths[1]), drop_rate=0.3), RMSNorm()]
            layers += [*norms, Dense(6), GroupNorm(2)] if batch == 29 else []
        loss = "softmax_cross_entropy" if widths[-1] > 1 else "squared_error"
        model = Sequential(*layers, Dense(widths[-1]), dtype=dtype)
        optimizer = Adam(0.01) if batch == 13 else SGD(0.01, momentum=0.9, nesterov=batch == 29)
        if dtype == "float64" or batch == 29:
            optimizer = replace(optimizer, clip_norm=0.3, ema_decay=0.9)
        model.fit(X, y, loss=loss, optimizer=optimizer, epochs=3, batch_size=batch, verbose=0, n_threads=1 + batch % 3)
        for array in model.parameters.values():
            assert np.isfinite(array).all()
            digest.update(array.tobytes())
    for width in (3, 21):  # sums of blocks of rows
        model = Sequential(Dense(width), dtype=dtype)
        X, y = rng.normal(size=(300, 4)).astype(dtype), rng.integers(0, 3, 300)
        history = model.fit(X, y, loss="contrastive", epochs=1, batch_size=300, verbose=0)
        digest.update(np.array(history["loss"]).tobytes() + model.parameters["dense_0.weight"].tobytes())
print(digest.hexdigest())
"""


# On x86-64 and ARM, on Linux and Windows
BITS = {
    "float32": "05491693969921bf6ca196786378fa5ac2944cf9a355086f2d2a2267b6c386a7",
    "float64": "b3839eb8e60a5e4e5f6d07ec6377e0243c14b5a3c4d551d8dd77ec3bd2d43a15",
}


def digest(simd: str, dtype: str) -> str:
    environment = {**os.environ, "FASTMLP_SIMD": simd}
    done = subprocess.run([sys.executable, "-c", FITS, dtype], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])  # it compiles a lot
def test_every_vector_unit_gives_the_same_bits(dtype):
    with ThreadPoolExecutor(2) as pool:
        digests = dict(zip(KNOWN, pool.map(lambda simd: digest(simd, dtype), KNOWN), strict=True))
    assert digests == dict.fromkeys(KNOWN, digests[host_simd().name])
    # Where arithmetic is meant to change, so do these; else a machine has other bits than the others
    if jit.has_fma():
        assert digests["sse"] == BITS[dtype]


def test_an_unknown_unit_is_refused(monkeypatch):
    monkeypatch.setenv("FASTMLP_SIMD", "avx51")
    with pytest.raises(ValueError, match="Did you mean 'avx512'"):
        host_simd.__wrapped__()


@pytest.mark.parametrize(
    ("columns", "width"),
    [(1, 1), (2, 4), (3, 4), (4, 4), (5, 8), (10, 16), (16, 16), (17, 32), (32, 32), (33, 4), (74, 16)],
)
def test_narrow_layers_do_not_pay_for_a_full_panel(columns, width):
    assert Simd("avx512", 64, 8).last_width(columns, "float32") == width
