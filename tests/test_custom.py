"""`CustomActivation` and `CustomLoss`: plain functions that compile by themselves, are compiled anew when what they
depend on changes, and say what is wrong with them.
"""

import json
import os
import pickle
import subprocess
import sys
import types

import numpy as np
import pytest
import scipy.special
from numba import njit
from test_declarations import central_difference

from fastmlp import SGD, CustomActivation, CustomLoss, Dense, Sequential, Tanh, load_model
from fastmlp.activations import ReLU
from fastmlp.engine import jit
from fastmlp.engine.custom import numpy_functions
from fastmlp.model_file import ModelFileError
from fastmlp.user_functions import references

RATE = 0.5


def snake(z):
    return z + np.sin(RATE * z) ** 2 / RATE


def snake_derivative(z):
    return 1.0 + np.sin(2.0 * RATE * z)


def gate(z):
    return 1.0 / (1.0 + np.exp(-z))


def swish_of(beta):
    def value(z):
        return z * gate(beta * z)

    def derivative(z, one=1.0):
        s = gate(beta * z)
        return s * (one + beta * z * (one - s))

    return value, derivative


def pair_of_all(z):
    """Every function of NumPy that becomes vector code, on both sides of its branches."""
    a = np.maximum(0.0, z) + np.minimum(z, 0.5) + np.clip(z, -1.0, 1.0) + np.tanh(z)
    b = np.log(np.abs(z) + 1e-3) + np.log1p(z * z) + np.expm1(0.5 * z) + np.exp(-np.abs(z))
    return a + b + np.where(z > 0.2, z, 0.1 * z) + scipy.special.expit(z) + scipy.special.ndtr(z) + np.sqrt(z * z + 1.0)


def slope_of_all(z):
    a = np.where(z > 0.0, 1.0, 0.0) + np.where(z < 0.5, 1.0, 0.0) + np.where(abs(z) < 1.0, 1.0, 0.0)
    b = 1.0 - np.tanh(z) ** 2 + np.sign(z) / (np.abs(z) + 1e-3) + 2.0 * z / (1.0 + z * z) + 0.5 * np.exp(0.5 * z)
    s, pdf = scipy.special.expit(z), np.exp(-0.5 * z * z) * 0.3989422804014327
    c = -np.sign(z) * np.exp(-np.abs(z)) + np.where(z > 0.2, 1.0, 0.1) + s * (1.0 - s) + pdf
    return a + b + c + z / np.sqrt(z * z + 1.0)


def log_cosh(z, y):
    return np.log(np.cosh(z - y))


def log_cosh_slope(z, y):
    return np.tanh(z - y)


ACTIVATIONS = {
    "of globals": CustomActivation(snake, snake_derivative, "snake"),
    "of closures": CustomActivation(*swish_of(1.5), "swish_15"),
    "of all functions": CustomActivation(pair_of_all, slope_of_all, "everything"),
    "of its output": CustomActivation(gate, lambda a: a * (1.0 - a), "gate", from_output=True),
}
LOSS = CustomLoss(log_cosh, log_cosh_slope, "log_cosh")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_values_and_gradients_of_an_activation(activation, dtype, rng):
    X, y = rng.normal(size=(60, 5)), rng.normal(size=(60, 2))
    layers = (Dense(19), activation, Dense(7), Tanh(), Dense(2))
    model = Sequential(*layers, dtype="float64").build(5, seed=3)
    start = model.parameters
    direction = {name: rng.normal(size=value.shape) for name, value in start.items()}

    def along(t):
        p = {name: start[name] + t * direction[name] for name in start}
        a = activation.value(X @ p["dense_0.weight"] + p["dense_0.bias"])
        a = np.tanh(a @ p["dense_1.weight"] + p["dense_1.bias"])
        return 0.5 * ((a @ p["dense_2.weight"] + p["dense_2.bias"] - y) ** 2).sum(1).mean()

    used = Sequential(*layers, dtype=dtype).build(5)
    used.set_parameters(start)
    loss, gradients = used.gradients(X, y, "squared_error")
    np.testing.assert_allclose(loss, along(0.0), rtol=1e-12 if dtype == "float64" else 1e-4)
    slope = sum((gradients[name].astype(float) * direction[name]).sum() for name in start)
    np.testing.assert_allclose(slope, central_difference(along, 0.0), rtol=1e-6 if dtype == "float64" else 2e-3)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_numpys_functions_beyond_where_the_polynomials_hold(dtype):
    """Edges that the engine's own activations never meet."""
    tiny = np.finfo(dtype).smallest_subnormal
    x = np.array([-np.inf, -3.0, -1.0, -0.5, -0.0, 0.0, 3 * tiny, 1e-6, 0.7, 1.5, 80.0, 1e4, np.inf, np.nan], dtype)
    u, v = (grid.ravel() for grid in np.meshgrid(x, x))
    rtol = 4 * np.finfo(dtype).eps
    with np.errstate(all="ignore"):
        for name in ("log", "log1p", "expm1", "exp", "tanh"):
            ours = over_array(name, dtype, 1)(x, x)
            np.testing.assert_allclose(ours, getattr(np, name)(x), rtol=rtol, atol=tiny, err_msg=name)
        for name in ("maximum", "minimum"):
            np.testing.assert_array_equal(over_array(name, dtype, 2)(u, v), getattr(np, name)(u, v), err_msg=name)


def over_array(name, dtype, n_arguments):
    """The compiled function of numbers as one of arrays: by itself it cannot be called from Python."""
    f = numpy_functions(dtype)[name]

    @njit
    def loop(u, v):
        out = np.empty_like(u)
        for i in range(len(u)):
            out[i] = f(u[i], v[i])
        return out

    @njit
    def loop_of_one(u, v):
        out = np.empty_like(u)
        for i in range(len(u)):
            out[i] = f(u[i])
        return out

    return loop_of_one if n_arguments == 1 else loop


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("k", [1, 3, 33])
def test_a_loss(k, dtype, rng):
    X, y, weights = rng.normal(size=(40, 4)), rng.normal(size=(40, k)), rng.uniform(size=40)
    model = Sequential(Dense(k), dtype=dtype).build(4)
    z = model.logits(X)
    loss, gradients = model.gradients(X, y, LOSS, weights)
    tolerance = 1e-12 if dtype == "float64" else 2e-5
    share = weights / weights.sum()
    loss, of_bias = loss / weights.mean(), gradients["dense_0.bias"] / weights.mean()
    np.testing.assert_allclose(loss, share @ np.log(np.cosh(z - y)).sum(1), rtol=tolerance)
    np.testing.assert_allclose(loss, LOSS.value(z, y, weights), rtol=tolerance)
    np.testing.assert_allclose(of_bias, share @ np.tanh(z - y), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(LOSS.gradient(z, y), np.tanh(z.astype(float) - y), rtol=1e-13)


def test_a_fit_learns_with_the_same_bits_and_predict_gives_the_output(rng):
    X = rng.normal(size=(200, 3))
    y = np.exp(X[:, 0])
    loss = CustomLoss(lambda z, y: np.exp(z) - y * z, lambda z, y: np.exp(z) - y, "rates", output=np.exp)
    fits = []
    for n_threads in (1, 2):
        model = Sequential(Dense(8), ACTIVATIONS["of globals"], Dense(1))
        history = model.fit(X, y, loss=loss, optimizer=SGD(0.01), epochs=20, n_threads=n_threads, verbose=0)
        fits.append(model.parameters)
    assert all(np.array_equal(fits[0][name], fits[1][name]) for name in fits[0])
    assert history["loss"][-1] < history["loss"][0]
    np.testing.assert_array_equal(model.predict(X), np.exp(model.logits(X)))
    assert model.evaluate(X, y)["loss"] == pytest.approx(loss.value(model.logits(X), y))


# What the machine code is kept under


def test_what_a_function_depends_on_makes_its_kernel(monkeypatch):
    activation = ACTIVATIONS["of globals"]
    first = activation.kernel
    assert activation.kernel == first == CustomActivation(snake, snake_derivative, "another_name").kernel
    monkeypatch.setattr(sys.modules[__name__], "RATE", 0.25)
    assert activation.kernel != first  # a global number
    others = [CustomActivation(*swish_of(beta)).kernel for beta in (1.0, 1.5, 2)]  # a closure
    others += [CustomActivation(lambda z: z, lambda z, one=one: one + 0.0 * z).kernel for one in (1.0, 1)]  # a default
    before = CustomActivation(*swish_of(1.0)).kernel
    monkeypatch.setattr(sys.modules[__name__], "gate", lambda z: 0.5 + 0.5 * np.tanh(0.5 * z))  # a function called
    others.append(CustomActivation(*swish_of(1.0)).kernel)
    assert before == others[0] and len({first, *others}) == 1 + len(others)


def test_a_changed_number_is_used_by_the_next_fit(monkeypatch):
    activation, X = CustomActivation(snake, snake_derivative), np.array([[1.0]])
    model = Sequential(Dense(1), activation, dtype="float64").build(1)
    model.set_parameters({"dense_0.weight": [[1.0]]})
    losses = [model.gradients(X, [0.0], "squared_error")[0]]
    monkeypatch.setattr(sys.modules[__name__], "RATE", 0.25)
    losses.append(model.gradients(X, [0.0], "squared_error")[0])
    expected = [0.5 * (1 + np.sin(rate) ** 2 / rate) ** 2 for rate in (0.5, 0.25)]
    np.testing.assert_allclose(losses, expected, rtol=1e-13)


def test_the_same_functions_compile_once(monkeypatch, rng):
    X, y = rng.normal(size=(9, 2)), rng.normal(size=(9, 1))

    def fit():
        activation = CustomActivation(lambda z: z * z, lambda z: 2.0 * z)
        loss = CustomLoss(lambda z, y: (z - y) ** 2, lambda z, y: 2.0 * (z - y))
        return Sequential(Dense(3), activation, Dense(1)).build(2).gradients(X, y, loss)[0]

    first = fit()
    monkeypatch.setattr(jit, "_compile", lambda *a: pytest.fail("compiled"))
    assert fit() == first


def test_another_process_loads_the_kernel_without_numba():
    """Also one that calls the C library, as sin does."""
    code = (
        "import json, sys, numpy as np\n"
        "from fastmlp import CustomActivation, Dense, Sequential\n"
        "sine = CustomActivation(lambda z: np.sin(3.0 * z), lambda z: 3.0 * np.cos(3.0 * z), 'wave')\n"
        "model = Sequential(Dense(3), sine, Dense(1)).build(2)\n"
        "print(json.dumps([model.gradients(np.eye(2), [0.0, 1.0], 'squared_error')[0], 'numba' in sys.modules]))\n"
    )
    runs = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
        assert done.returncode == 0, done.stderr
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    assert runs[0][0] == runs[1][0] and runs[1][1] is False


# Files


def model_of_both(rng):
    model = Sequential(Dense(4), ACTIVATIONS["of globals"], Dense(1))
    model.fit(rng.normal(size=(30, 3)), rng.normal(size=30), loss=LOSS, verbose=0)
    return model


def test_pickles_as_its_functions_do(rng):
    model, X = model_of_both(rng), rng.normal(size=(5, 3))
    again = pickle.loads(pickle.dumps(model))
    assert again.layers == model.layers and again.loss == model.loss
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(CustomActivation(lambda z: z, lambda z: 1.0))


def test_a_saved_model_takes_its_functions_back(rng, tmp_path, monkeypatch):
    model, X, path = model_of_both(rng), rng.normal(size=(5, 3)), tmp_path / "model.safetensors"
    model.save(path)
    objects = {"snake": ACTIVATIONS["of globals"], "log_cosh": LOSS}
    for load in (load_model, Sequential.load):
        again = load(path, custom_objects=objects)
        assert again.layers == model.layers and again.loss == model.loss
        np.testing.assert_array_equal(again.predict(X), model.predict(X))
    for given, words in [
        (None, ["CustomActivation 'snake'", "custom_objects={'snake': CustomActivation(...)}"]),
        ({"snake": objects["snake"]}, ["CustomLoss 'log_cosh'", "custom_objects"]),
        ({**objects, "snake": ReLU()}, ["custom_objects['snake']", "must be a CustomActivation", "ReLU()"]),
        ({**objects, "snake": ACTIVATIONS["of closures"]}, ["custom_objects['snake']", "other values"]),
    ]:
        with pytest.raises(ModelFileError) as error:
            load_model(path, given)
        assert all(word in str(error.value) for word in words), error.value
    monkeypatch.setattr(sys.modules[__name__], "RATE", 0.25)
    with pytest.raises(ModelFileError, match="other values"):
        load_model(path, objects)


# Errors


def ok(z):
    return z + 0.0


def one(z):
    return 1.0 + 0.0 * z


def asserting(z):
    assert z.ndim
    return z


def root(z):
    return np.sign(z) * np.sqrt(abs(z))


def root_slope(z):
    return 0.5 / np.sqrt(abs(z))


THING = object()
LINE = np.polynomial.Polynomial([0.0, 1.0])


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: CustomActivation(ok, lambda z: 2.0 + 0.0 * z), ["`derivative`", "at ", "it is 2", "give 1", "False"]),
        (lambda: CustomActivation(lambda z: z if z > 0 else 0.0, one), ["`value`", "np.where", "ambiguous"]),
        (lambda: CustomActivation(lambda z: z.sum() + z[:2], one), ["`value`", "(41,)", "(2,)"]),
        (lambda: CustomActivation(np.log, one), ["`value`", "plain Python function", "ufunc"]),
        (lambda: CustomActivation(lambda z: np.log(z), lambda z: 1.0 / z), ["`value`", "finite", "-2.9"]),
        (lambda: CustomActivation(lambda z: np.sin(z) / z, one), ["`value`", "finite", "not at 0"]),
        (lambda: CustomActivation(root, root_slope), ["`derivative`", "finite", "not at 0"]),
        (lambda: CustomActivation(root, lambda a: 0.5 / abs(a), from_output=True), ["`derivative`", "not at 0"]),
        (lambda: CustomActivation(lambda z, w: z, one), ["`value`", "raised TypeError"]),
        (lambda: CustomActivation(asserting, one), ["`value`", "assert"]),
        (lambda: CustomActivation(lambda z: z + 0 * (THING is None), one), ["refers to <object"]),
        (lambda: CustomActivation(lambda z: z + 0 * (LINE is None), one), ["refers to Polynomial"]),
        (lambda: CustomActivation(ok, one, "relu"), ["`name`", "built-in", "'relu'"]),
        (lambda: CustomActivation(ok, one, 3), ["`name`", "got 3"]),
        (lambda: CustomLoss(log_cosh, lambda z, y: z - y), ["`slope`", "CustomLoss", "not the derivative of `term`"]),
        (lambda: CustomLoss(ok, one), ["`term`", "raised TypeError"]),
        (lambda: CustomLoss(), ["`term`", "plain Python function", "None"]),
        (lambda: CustomLoss(log_cosh, log_cosh_slope, "huber"), ["`name`", "'huber'"]),
    ],
)
def test_what_cannot_be_declared(build, words):
    with pytest.raises((TypeError, ValueError)) as error:
        build()
    assert all(word in str(error.value) for word in words), error.value


def test_a_module_may_offer_other_things_by_the_names_that_are_used():
    """As SciPy 1.11's `log` is NumPy's for complex numbers, which has a module of its own."""
    tools = types.ModuleType("tools")
    tools.square, tools.log = np.square, np.emath.log
    log_square = CustomActivation(
        lambda z: np.log(tools.square(z) + 1.0), lambda z: 2.0 * z / (z * z + 1.0), "log_square"
    )
    model = Sequential(Dense(1, use_bias=False), log_square, dtype="float64").build(1)
    model.set_parameters({"dense_0.weight": [[1.0]]})
    assert model.predict([[2.0]]).item() == pytest.approx(np.log(5.0))


def test_a_derivative_that_is_meant_to_differ_is_accepted():
    sign = CustomActivation(lambda z: np.sign(z), lambda z: np.where(abs(z) < 1.0, 1.0, 0.0), check_derivative=False)
    model = Sequential(Dense(1, use_bias=False), sign, dtype="float64").build(1)
    model.set_parameters({"dense_0.weight": [[0.5]]})
    assert model.gradients([[1.0]], [0.0], "squared_error")[1]["dense_0.weight"].item() == 1.0


def again(z):
    return z if RATE < 0 else again(z) if RATE < 0.1 else z


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (lambda z: np.interp(z, np.linspace(-9.0, 9.0, 3), np.linspace(-9.0, 9.0, 3)), ["NRT_"]),
        (lambda z: z + 0.0 * np.sinc(z) + 0.0 * np.i0(z), ["cannot be compiled by Numba"]),
        (again, ["again calls itself"]),
    ],
    ids=["allocates", "unknown to Numba", "recursive"],
)
def test_what_numba_cannot_compile(value, words):
    model = Sequential(Dense(1), CustomActivation(value, one, "strange")).build(1)
    with pytest.raises(TypeError) as error:
        model.gradients([[1.0]], [0.0], "squared_error")
    words = ["`value` of CustomActivation 'strange'", "Numba", *words]
    assert all(word in str(error.value) for word in words), error.value


def test_a_loss_that_numba_cannot_compile():
    loss = CustomLoss(lambda z, y: z * y + 0.0 * np.i0(z), lambda z, y: y, "strange")
    with pytest.raises(TypeError, match="`term` or `slope` of CustomLoss 'strange' cannot be compiled"):
        Sequential(Dense(1)).fit([[1.0]], [0.0], loss=loss, verbose=0)


def test_references_are_those_that_are_used():
    assert set(references(snake)) == {"RATE", "np"} and set(references(swish_of(1.0)[0])) == {"gate", "beta"}
