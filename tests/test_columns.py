"""Layers of one or two units, whose products have kernels of their own."""

import os
import subprocess
import sys

import numpy as np
import pytest

from fastmlp import SGD, Dense, Sequential, SquaredError
from fastmlp.lowering import training_plan
from fastmlp.plan import Plan


def kernels(plan: Plan) -> list[str]:
    return [step.kernel for phase in plan.phases for step in phase.steps]


def plan_of(*units):
    layers = [Dense(n) for n in units]
    options = {"n_features": 7, "batch_size": 10, "source": "float32", "dtype": "float32"}
    return training_plan(layers, SquaredError(), "dense", SGD(), **options)


def test_which_kernels_multiply_a_column():
    of_column = ["product.column", "weight_gradient.few", "bias_gradient.column"]
    assert set(of_column) < set(kernels(plan_of(1))) and not {"product", "weight_gradient"} & set(kernels(plan_of(1)))
    assert kernels(plan_of(5, 2)).count("weight_gradient.few") == 1 and "product.column" not in kernels(plan_of(5, 2))
    assert not [name for name in kernels(plan_of(5, 3)) if name.endswith((".column", ".few"))]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("units", [1, 2])
@pytest.mark.parametrize("rows", [1, 3, 17, 300])
def test_products_of_any_depth(rows, units, dtype, rng):
    """Whole blocks of sums and parts of them, in whole panels and narrower ones, of every vector unit."""
    tolerance = 40 * float(np.finfo(dtype).eps)
    for depth in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 20, 31, 32, 33, 36, 40, 47, 48, 49, 63, 64, 65, 100, 785):
        X, y = rng.normal(size=(rows, depth)).astype(dtype), rng.normal(size=(rows, units)).astype(dtype)
        model = Sequential(Dense(units, bias_initializer="normal"), dtype=dtype).build(depth, seed=depth)
        W, b = (np.asarray(array, float) for array in model.parameters.values())
        loss, gradients = model.gradients(X, y, loss="squared_error")
        X, y = X.astype(float), y.astype(float)
        dz = (X @ W + b - y) / rows
        assert loss == pytest.approx(0.5 * rows * (dz**2).sum(), rel=tolerance)
        scale = np.abs(X).T @ np.abs(dz) + np.abs(X).sum() * np.abs(W).sum() / rows
        assert (np.abs(gradients["dense_0.weight"] - X.T @ dz) <= tolerance * scale).all()
        assert np.abs(gradients["dense_0.bias"] - dz.sum(axis=0)).max() <= tolerance * (np.abs(dz).sum() + scale.max())
        before = {name: array.copy() for name, array in model.parameters.items()}
        model.fit(
            X.astype(dtype), y.astype(dtype), loss="squared_error", optimizer=SGD(0.5), batch_size=rows, verbose=0
        )
        for name, array in model.parameters.items():  # the step, without the gradient's being kept
            np.testing.assert_allclose(array, before[name] - 0.5 * gradients[name], rtol=1e-5, atol=1e-5 * scale.max())


POISONED = """
import numpy as np
from fastmlp import SGD, Dense, Logistic, Sequential
from fastmlp.training import Training

for depth in (5, 6, 45, 46):
    X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    losses = []
    for poisoned in (False, True):
        model = Sequential(Dense(depth), Logistic(), Dense(1)).build(3)
        options = {"loss": "squared_error", "optimizer": SGD(0.1, momentum=0.9), "batch_size": 9, "n_threads": 1}
        with Training(model, X, X[:, 0], **options, _guard=64) as training:
            if poisoned:
                training.executor.workspace.view(np.float32)[:] = np.nan
                training.executor.fill_guards()
            losses.append(training.run(epochs=2))
    assert np.array_equal(*losses) and np.isfinite(losses).all(), (depth, losses)
"""


@pytest.mark.parametrize("simd", ["sse", "avx2"])
def test_what_lies_behind_the_last_column_counts_for_nothing(simd):
    """Vectors of four lanes read it, of others they do not."""
    run = subprocess.run(
        [sys.executable, "-c", POISONED], env={**os.environ, "FASTMLP_SIMD": simd}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
