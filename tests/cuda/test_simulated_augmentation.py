"""Augmentation on the (simulated) device: the same random numbers, so the same fits as the CPU's but for rounding."""

import numpy as np
import pytest

from fastmlp import (
    SGD,
    ActivityRegularization,
    CutMix,
    Dense,
    Dropout,
    GaussianNoise,
    MixUp,
    RandomAffine,
    ReLU,
    Rescaling,
    Sequential,
)
from fastmlp.cuda import data
from fastmlp.training import Training

# uint32 arithmetic wraps around on a device; NumPy's scalars warn of it
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in scalar:RuntimeWarning")

N, SHAPE = 19, (4, 3, 2)
AFFINE = RandomAffine(SHAPE, degrees=40, translate=(0.3, 0.2), scale=(0.7, 1.3), fill=-0.25)
# Takes the last of four rows from the float32 next below 4, which is 5 where 1 is added to it
JUST_INSIDE = 1.5 / (float(np.nextafter(np.float32(4), np.float32(0))) - 1.5)
TARGETS = {
    "codes": lambda rng: rng.integers(0, 3, N),
    "rows": lambda rng: rng.dirichlet(np.ones(3), N),
    "binary": lambda rng: rng.integers(0, 2, (N, 3)).astype(float),
    "numbers": lambda rng: rng.normal(size=(N, 3)),
}
WEIGHTS = np.where(np.arange(N) % 5 == 2, 0.0, np.linspace(0.2, 2, N))
CASES = {
    "noise": ([GaussianNoise(0.4)], "codes", {}),
    "noise behind a rescaling, before dropout": ([Rescaling(0.5, 1.0), GaussianNoise(0.2), Dropout(0.4)], "codes", {}),
    "affine maps": ([AFFINE], "codes", {}),
    "affine maps of one channel, then noise": (
        [RandomAffine((6, 4), degrees=(5, 90)), GaussianNoise(0.1)],
        "codes",
        {},
    ),
    "shifts out of the image": ([RandomAffine((4, 6), translate=1.0, fill=3.0)], "codes", {}),
    "a row just inside the image": ([RandomAffine((4, 6), scale=(JUST_INSIDE, JUST_INSIDE))], "codes", {}),
    "mixup": ([MixUp(1.0)], "codes", {}),
    "mixup of rows, weights": ([MixUp(0.7)], "rows", {"sample_weight": WEIGHTS}),
    "mixup of codes, weights, after noise": ([GaussianNoise(0.1), MixUp(0.7)], "codes", {"sample_weight": WEIGHTS}),
    "mixup of numbers": ([MixUp(0.5)], "numbers", {"loss": "squared_error"}),
    "mixup, huber": ([MixUp(0.5)], "numbers", {"loss": "huber"}),
    "mixup of binary targets": ([MixUp(0.5), GaussianNoise(0.1)], "binary", {"loss": "binary_cross_entropy"}),
    "cutmix of columns": ([CutMix(1.0)], "codes", {}),
    "cutmix of columns, weights": ([CutMix(1.0)], "numbers", {"sample_weight": WEIGHTS, "loss": "absolute_error"}),
    "cutmix of images": ([AFFINE, CutMix(1.0, image_shape=SHAPE)], "codes", {}),
    "cutmix of images in order": ([CutMix(1.0, image_shape=(3, 8))], "rows", {"shuffle": False}),
}


def fit(device, layers, kind, dtype, options):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(N, 24)).astype(dtype), TARGETS[kind](rng)
    model = Sequential(*layers, Dense(9), ReLU(), Dense(3), dtype=dtype).build(24, seed=1)
    options = {"loss": "softmax_cross_entropy", "optimizer": SGD(0.05), "batch_size": 8, "seed": 5} | options
    with Training(model, X, y, device=device, **options) as training:
        return np.array([*training.run(1), *training.run(2)]), training.loss_of(X, y), model.parameters


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_fits_follow_the_cpu_but_for_rounding(name, dtype):
    layers, kind, options = CASES[name]
    (losses, loss, parameters), (cuda_losses, cuda_loss, of_cuda) = (
        fit(device, layers, kind, dtype, options) for device in ("cpu", "cuda")
    )
    rtol = 2e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(cuda_losses, losses, rtol=rtol)
    np.testing.assert_allclose(cuda_loss, loss, rtol=rtol)  # of rows as they are
    for key, array in parameters.items():
        np.testing.assert_allclose(of_cuda[key], array, rtol=rtol, atol=rtol, err_msg=key)
    plain, _, _ = fit("cpu", layers[:0], kind, dtype, options)
    assert not np.allclose(losses, plain, rtol=1e-3)  # it does something


@pytest.mark.parametrize(
    "layer", [GaussianNoise(0.3), AFFINE, CutMix(1.0), MixUp(0.5)], ids=lambda it: type(it).__name__
)
def test_streamed_rows_are_augmented_alike(layer, monkeypatch):
    def place(self, arrays):
        return data.Streamed(arrays, self._output, self.plan.batch_size, 4 * 8 * 110, self._stream)  # a batch a chunk

    options = {"sample_weight": WEIGHTS}
    resident, _, _ = fit("cuda", [layer], "codes", "float32", options)
    monkeypatch.setattr("fastmlp.cuda.executor.CudaExecutor._place", place)
    streamed, _, _ = fit("cuda", [layer], "codes", "float32", options)
    assert list(streamed) == list(resident)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_penalties_of_activities_have_the_mixed_rows_weights(dtype):
    rng, fits = np.random.default_rng(0), []
    X, y = rng.normal(size=(N, 24)).astype(dtype), rng.integers(0, 3, N)
    options = {"loss": "softmax_cross_entropy", "optimizer": SGD(0.05), "batch_size": 8, "sample_weight": WEIGHTS}
    for device in ("cpu", "cuda"):
        layers = [MixUp(0.7), Dense(9), ReLU(), ActivityRegularization(0.5, 0.5), Dense(3)]
        model = Sequential(*layers, dtype=dtype).build(24, seed=1)
        with Training(model, X, y, device=device, seed=5, **options) as training:
            fits.append((training.run(3), model.parameters["dense_0.weight"]))
    rtol = 2e-5 if dtype == "float32" else 1e-12
    for mine, other in zip(*fits, strict=True):
        np.testing.assert_allclose(other, mine, rtol=rtol, atol=rtol)
