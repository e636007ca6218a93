"""exp, tanh, log, sin and cos of the engine against NumPy's float64, and float64 against a wider type: errors in ulp.

The bounds are the measured ones, rounded up; `pytest -m slow tests/test_elementary.py` tries all 2^32 float32 inputs.
"""

import numpy as np
import pytest
import reference
import scipy.special
from numba import njit

from fastmlp.activations import ACTIVATIONS
from fastmlp.engine.elementary import functions
from fastmlp.engine.elementwise import compiled

BOUNDS = {
    "float32": {"exp": 1.25, "tanh": 5.25, "log": 1.0, "log1p_of_exp_minus_abs": 2.0, "expm1": 2.0},
    "float64": {"exp": 1.25, "tanh": 3.0, "log": 1.0, "log1p_of_exp_minus_abs": 2.0, "expm1": 2.0},
}
REFERENCE = {
    "exp": np.exp,
    "tanh": np.tanh,
    "log": np.log,
    "log1p_of_exp_minus_abs": lambda x: np.log1p(np.exp(-np.abs(x))),
    "expm1": np.expm1,
}


def looped(name, dtype):
    f = getattr(functions(dtype), name)

    @njit(error_model="numpy")
    def loop(x, out):
        for i in range(x.shape[0]):
            out[i] = f(x[i])

    return loop


def ulps(name, dtype, x):
    """Largest error in units of the last place of the exact result, over the inputs whose result is a normal number."""
    wide = np.longdouble if dtype == "float64" else np.float64
    out = np.empty_like(x)
    looped(name, dtype)(x, out)
    with np.errstate(all="ignore"):
        exact = REFERENCE[name](x.astype(wide))
        normal = np.isfinite(exact.astype(dtype)) & (np.abs(exact) >= np.finfo(dtype).tiny)
        unit = np.spacing(np.abs(exact[normal]).astype(dtype)).astype(wide)
        assert np.array_equal(np.isnan(out), np.isnan(exact)), f"{name}: NaN where there is none, or the reverse"
        return float((np.abs(out[normal].astype(wide) - exact[normal]) / unit).max(initial=0))


def inputs(name, dtype):
    rng = np.random.default_rng(0)
    bits = {"float32": np.uint32, "float64": np.uint64}[dtype]
    anything = rng.integers(0, np.iinfo(bits).max, 200_000, bits).view(dtype)
    common = rng.normal(0, 5, 200_000).astype(dtype)
    near_zero = (rng.normal(size=50_000) * 10.0 ** rng.uniform(-30, 0, 50_000)).astype(dtype)
    x = np.concatenate([anything, common, near_zero])
    if name == "expm1":
        x = -np.abs(x)  # its domain here
    if name == "log":
        x = np.abs(x)
        x = x[~((x < np.finfo(dtype).tiny) | np.isinf(x))]  # its domain here: positive normal numbers, and NaN
    return x


@pytest.mark.skipif(np.finfo(np.longdouble).nmant <= 52, reason="no wider type to compare float64 with")
@pytest.mark.parametrize("name", REFERENCE)
def test_float64_error(name):
    assert ulps(name, "float64", inputs(name, "float64")) <= BOUNDS["float64"][name]


@pytest.mark.parametrize("name", REFERENCE)
def test_float32_error(name):
    assert ulps(name, "float32", inputs(name, "float32")) <= BOUNDS["float32"][name]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_special_values(dtype):
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e30, -1e30, 1e-40], dtype)
    out = np.empty_like(x)
    with np.errstate(over="ignore"):
        for name in ("exp", "tanh", "log1p_of_exp_minus_abs"):
            looped(name, dtype)(x, out)
            np.testing.assert_allclose(out, REFERENCE[name](x), atol=np.finfo(dtype).tiny)


@pytest.mark.parametrize("dtype, absolute, relative", [("float32", 1.5e-7, 4e-6), ("float64", 3e-16, 5e-14)])
def test_normal_cdf(dtype, absolute, relative):
    """Absolute error, and relative error of the lower tail, where x^2 / 2 is rounded before exp sees it."""
    x = np.concatenate([np.linspace(-12, 12, 200_001), [0.0, np.inf, -np.inf, 1e30, -1e30]]).astype(dtype)
    out = np.empty_like(x)
    looped("normal_cdf", dtype)(x, out)
    exact = scipy.special.ndtr(x.astype(np.float64))
    assert np.abs(out - exact).max() < absolute
    tail = (x < 0) & (exact > np.finfo(dtype).tiny)
    assert (np.abs(out[tail] - exact[tail]) / exact[tail]).max() < relative
    looped("normal_cdf", dtype)(np.array([np.nan], dtype), out)
    assert np.isnan(out[0])


MOST_PHASE = {"float32": 1e6, "float64": 1e9}  # where sin and cos still have all of their digits


@pytest.mark.parametrize("dtype", MOST_PHASE)
@pytest.mark.parametrize("name", ["sin", "cos"])
def test_sine_and_cosine(name, dtype):
    """Absolute error; beyond, results are some numbers from -1 to 1; infinity has none, as in NumPy."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-1, 1, 100_000) * MOST_PHASE[dtype] * 10.0**-k for k in range(12)]).astype(dtype)
    x = np.concatenate([x, (np.arange(-2000, 2000) * (np.pi / 2)).astype(dtype)])
    out, exact = np.empty_like(x), getattr(np, name)(x.astype(np.longdouble))
    looped(name, dtype)(x, out)
    assert np.abs(out - exact).max() < 1.5 * np.finfo(dtype).eps
    small = (np.abs(x) < 1.5) & (exact != 0)
    assert (np.abs(out - exact)[small] / np.abs(exact)[small]).max() < 2.5 * np.finfo(dtype).eps
    large = inputs(name, dtype)
    out = np.empty_like(large)
    looped(name, dtype)(large, out)
    assert np.array_equal(np.isnan(out), ~np.isfinite(large)) and np.nanmax(np.abs(out)) <= 1 + np.finfo(dtype).eps
    x, out = np.array([0.0, -0.0], dtype), np.empty(2, dtype)
    looped(name, dtype)(x, out)
    assert out.tolist() == getattr(np, name)(x).tolist()


# name -> largest error of the value and of the derivative, in 2^-23 max(1, |exact|): both are of order 1, and a
# relative error means nothing where they cancel. Measured, rounded up
ACTIVATION_BOUNDS = {
    "identity": (0.0, 0.0),
    "relu": (0.0, 0.0),
    "hard_threshold": (0.0, 0.0),
    "tanh": (2.75, 5.25),
    "logistic": (1.0, 1.0),
    "leaky_relu": (0.75, 0.25),
    "elu": (0.5, 0.5),
    "selu": (1.25, 1.25),
    "gelu": (1.25, 2.0),
    "gelu_tanh": (6.75, 46.0),
    "silu": (1.0, 10.0),
    "mish": (1.5, 10.0),
    "softplus": (1.0, 1.0),
    "sine": (1.5, 1.5),
}


def activation_errors(name, x):
    """Largest errors of an activation's value and derivative, as in `ACTIVATION_BOUNDS`; none is NaN by itself."""
    declaration = ACTIVATIONS[name]()
    number = () if declaration.parameter is None else (np.float32(getattr(declaration, declaration.parameter)),)

    def errors(function, x, exact):
        f = compiled(function, "float32")

        @njit(error_model="numpy")
        def loop(x, out):
            for i in range(x.shape[0]):
                out[i] = f(x[i], *number)

        out = np.empty_like(x)
        loop(x, out)
        finite = np.isfinite(exact.astype(np.float32))
        assert np.isfinite(out[finite]).all(), f"{name}: not finite where it should be"
        worst = (np.abs(out[finite] - exact[finite]) / np.maximum(1, np.abs(exact[finite]))).max(initial=0) * 2**23
        return out, float(worst)

    with np.errstate(all="ignore"):
        f, df = reference.ACTIVATIONS[name]
        a, of_value = errors(declaration.value, x, f(x.astype(float)))
        _, of_slope = errors(declaration.derivative, a if declaration.from_output else x, df(x.astype(float)))
    return of_value, of_slope


def within(name, x):
    """Where an activation's errors have a bound."""
    return np.isfinite(x) & ((np.abs(x) < MOST_PHASE["float32"]) | (name != "sine"))


def assert_within(name, found):
    assert found[0] <= ACTIVATION_BOUNDS[name][0] and found[1] <= ACTIVATION_BOUNDS[name][1], (name, found)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_float32_error_of_activations(name):
    x = inputs(name, "float32")
    assert_within(name, activation_errors(name, x[within(name, x)]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_float32_of_activations(name):
    worst, step = (0.0, 0.0), 1 << 24
    for start in range(0, 1 << 32, step):
        x = np.arange(start, start + step, dtype=np.uint64).astype(np.uint32).view(np.float32)
        x = x[within(name, x)]
        if len(x):
            worst = tuple(map(max, worst, activation_errors(name, x)))
    print(f"{name}: value {worst[0]:.2f}, derivative {worst[1]:.2f} in 2^-23 max(1, |exact|) over all float32 inputs")
    assert_within(name, worst)


@pytest.mark.slow
@pytest.mark.parametrize("name", REFERENCE)
def test_every_float32(name):
    worst = 0.0
    step = 1 << 24
    for start in range(0, 1 << 32, step):
        x = np.arange(start, start + step, dtype=np.uint64).astype(np.uint32).view(np.float32)
        if name == "expm1":
            x = x[~(x > 0)]
        if name == "log":
            x = x[~((x < np.finfo(np.float32).tiny) | np.isinf(x))]
        if len(x):
            worst = max(worst, ulps(name, "float32", x))
    print(f"{name}: {worst:.3f} ulp over all float32 inputs")
    assert worst <= BOUNDS["float32"][name]
