"""ONNX files: ONNX Runtime, and the reference that comes with onnx, predict what the model does."""

import sys

import numpy as np
import onnx.reference
import pytest
from cases import FIRST, drawn, layer_of, with_codes
from scipy import special
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler

from fastmlp import (
    GELU,
    BatchNorm,
    CustomActivation,
    CustomLoss,
    Dense,
    Dropout,
    GroupNorm,
    MLPClassifier,
    MLPRegressor,
    Normalization,
    Perceptron,
    PiecewiseLinearEncoder,
    QuantileLoss,
    ReLU,
    Rescaling,
    Sequential,
    SKLearnClassifier,
    SKLearnRegressor,
    export_onnx,
    onnx_export,
    pre_norm_block,
)
from fastmlp.activations import ACTIVATIONS
from fastmlp.datasets import load_digits
from fastmlp.layers import LAYERS
from fastmlp.losses import LOSSES


def numbers(dtype, n=40, width=6, scale=3.0):
    return (scale * np.random.default_rng(0).standard_normal((n, width))).astype(dtype)


def run(path, model, X):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    export_onnx(path, model)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert (given.name, given.shape) == ("X", ["n", X.shape[1]])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, {"X": X}), strict=True))


def assert_the_same(found, expected, dtype, precision=None):
    precision = precision or {"float32": 2e-6, "float64": 1e-13}[dtype]
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(found, expected, rtol=precision, atol=precision * np.abs(expected).max())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer(tmp_path, name, dtype):
    layers = [layer_of(name), Dense(6)] if name in FIRST else [Dense(6), layer_of(name)]
    model = drawn(Sequential(*layers, Dense(3), dtype=dtype))
    X = with_codes(layers, numbers(dtype))
    found = run(tmp_path / "model.onnx", model, X)
    precision = 1e-6 if name in ("GELU", "GEGLU") else None  # the error function of float32
    assert_the_same(found["predictions"], model.predict(X), dtype, precision)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss(tmp_path, name, dtype):
    loss = QuantileLoss((0.1, 0.5, 0.9)) if name == "quantile" else LOSSES[name]()
    units = {"gaussian": 4, "contrastive": 4, "triplet": 4, "ranknet": 1, "listnet": 1}.get(name, 3)
    model = drawn(Sequential(Dense(5), ReLU(), Dense(units), dtype=dtype))
    model.loss, X = loss, numbers(dtype, scale=0.3)
    assert_the_same(run(tmp_path / "model.onnx", model, X)["predictions"], model.predict(X), dtype)


def test_a_trained_network_on_its_test_set(tmp_path):
    (X, y), (X_test, y_test) = load_digits()
    layers = [Rescaling(1 / 16), Dropout(0.1), Dense(32), BatchNorm(), GELU(), pre_norm_block(32, dropout=0.1)]
    model = Sequential(*layers, Dense(10))
    model.fit(X, y, loss="softmax_cross_entropy", epochs=10, verbose=0)
    X_test = X_test.astype(np.float32)
    found = run(tmp_path / "model.onnx", model, X_test)["predictions"]
    assert_the_same(found, model.predict(X_test), "float32", 1e-5)
    assert (found.argmax(axis=1) == y_test).mean() > 0.95
    reference = onnx.reference.ReferenceEvaluator(str(tmp_path / "model.onnx"))
    np.testing.assert_allclose(reference.run(None, {"X": X_test})[0], found, atol=1e-5)


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_any_number_of_rows(tmp_path, n):
    model = drawn(Sequential(Dense(6), GroupNorm(2), ReLU(), Dense(3)))
    X = numbers("float32", n)
    found = run(tmp_path / "model.onnx", model, X)["predictions"]
    assert found.shape == (n, 3)
    if n:
        assert_the_same(found, model.predict(X), "float32")


LABELS = {
    "integers": lambda y: y + 7,
    "texts": lambda y: np.array(["a", "bé", "c"])[y],
    "texts as objects": lambda y: np.array(["a", "bé", "c"], object)[y],
    "true and false": lambda y: y > 0,
    "whole floats": lambda y: np.where(y > 0, 1.0, -1.0),
    "one class": lambda y: 0 * y,
    "labels": lambda y: np.eye(3, dtype=np.int64)[y],
    "small integers": lambda y: y.astype(np.int8),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_classifiers(tmp_path, kind, dtype):
    X, y = numbers(dtype, 60), LABELS[kind](np.arange(60) % 3)
    model = MLPClassifier((5,), activation="tanh", max_iter=20, random_state=0).fit(X, y)
    found = run(tmp_path / "model.onnx", model, X)
    label = model.predict(X)
    assert list(found) == ["label", "probabilities"]
    assert found["label"].shape == label.shape
    assert found["label"].tolist() == label.tolist()
    assert found["label"].dtype == (object if label.dtype.kind == "U" else label.dtype)
    assert_the_same(found["probabilities"], model.predict_proba(X), dtype)


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
@pytest.mark.parametrize("n_outputs", [1, 2])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_regressors(tmp_path, n_outputs, loss):
    X = numbers("float64", 60)
    y = np.abs(X[:, 0] if n_outputs == 1 else X[:, :2])
    model = MLPRegressor(loss, (5,), max_iter=20, random_state=0).fit(X, y)
    assert_the_same(run(tmp_path / "model.onnx", model, X)["predictions"], model.predict(X), "float64")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("loss", "units", "kind"),
    [
        ("softmax_cross_entropy", 3, "texts"),
        ("softmax_focal", 2, "true and false"),
        ("binary_cross_entropy", 1, "whole floats"),
        ("binary_cross_entropy", 3, "labels"),
        ("ordinal", 2, "integers"),
        ("hinge", 3, "texts as objects"),
        ("hinge", 1, "true and false"),
        ("huber", 1, "true and false"),
        ("squared_error", 3, "integers"),
    ],
)
def test_classifiers_of_any_layers(tmp_path, loss, units, kind, dtype):
    X, y = numbers(dtype, 60), LABELS[kind](np.arange(60) % 3)
    network = Sequential(Dense(5), BatchNorm(), ReLU(), Dropout(0.1), Dense(units), dtype=dtype)
    model = SKLearnClassifier(network, fit_kwargs={"loss": loss, "epochs": 3}, random_state=0).fit(X, y)
    found = run(tmp_path / "model.onnx", model, X)
    assert found["label"].tolist() == model.predict(X).tolist()
    probable = hasattr(model, "predict_proba")
    assert list(found) == (["label", "probabilities"] if probable else ["label"])
    assert probable == (loss not in ("hinge", "huber", "squared_error"))
    if probable:
        assert_the_same(found["probabilities"], model.predict_proba(X), dtype)


@pytest.mark.parametrize(
    ("loss", "units", "n_targets"), [("poisson", 1, 1), ("huber", 2, 2), ("gaussian", 2, 1), ("quantile", 3, 1)]
)
def test_regressors_of_any_layers(tmp_path, loss, units, n_targets):
    X = numbers("float64", 60)
    y = np.abs(X[:, 0] if n_targets == 1 else X[:, :n_targets])
    network = Sequential(Normalization(), Dense(5), GELU(), Dense(units))
    model = SKLearnRegressor(network, fit_kwargs={"loss": loss, "epochs": 3}, random_state=0).fit(X, y)
    X = X.astype(np.float32)
    assert_the_same(run(tmp_path / "model.onnx", model, X)["predictions"], model.predict(X), "float32")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "steps",
    [
        (StandardScaler(),),
        (MinMaxScaler((-1, 3), clip=True), StandardScaler(with_mean=False)),
        (StandardScaler(with_std=False), "passthrough", MinMaxScaler()),
    ],
    ids=str,
)
def test_pipelines(tmp_path, steps, dtype):
    """Numbers whose mean is large: a network of float32 gets what scaling in float64 makes of them. Of X in float32,
    scikit-learn's scalers make numbers with larger errors.
    """
    X = 1e5 + numbers(dtype, 60)
    y = np.arange(60) % 3
    wrapped = SKLearnClassifier(Sequential(Dense(5), ReLU(), Dense(3), dtype=dtype), random_state=0)
    for last in (MLPClassifier((5,), max_iter=5, random_state=0), wrapped, MLPRegressor(max_iter=3, random_state=0)):
        model = make_pipeline(*steps, last).fit(X, y)
        beyond = (X * 1.00001).astype(dtype)  # what `clip` clips
        found = run(tmp_path / "model.onnx", model, beyond)
        beyond = beyond.astype(np.float64)
        precision = {"float32": 2e-5, "float64": 1e-9}[dtype]
        if isinstance(last, MLPRegressor):
            assert_the_same(found["predictions"], model.predict(beyond).astype(dtype), dtype, precision)
        else:
            assert (found["label"] == model.predict(beyond)).all()
            assert_the_same(found["probabilities"], model.predict_proba(beyond).astype(dtype), dtype, precision)


# A user's own functions


def snake(z):
    return z + np.sin(z) ** 2


def snake_slope(z):
    return 1.0 + np.sin(2.0 * z)


def all_of_them(z):
    """Whatever a custom activation may call, and some operators that it gets from Python."""
    a = np.expm1(-np.abs(z)) + np.log1p(z * z) + np.clip(z, -1.0, 1.0) + special.expit(z) + special.ndtr(z)
    b = np.where((z > 1.0) & ~(z != z), np.maximum(z, 0.5), np.minimum(z, 2.0)) - np.sqrt(np.square(z) + 1.0)
    c = np.where((z <= -1.0) | (z == 0.0), np.log(np.exp(z) + 1.0), np.tanh(z)) / (2.0 + z**2)
    return a + b * c


def all_slope(z):
    return (all_of_them(z + 1e-6) - all_of_them(z - 1e-6)) / 2e-6


@pytest.mark.parametrize(
    "activation",
    [
        CustomActivation(snake, snake_slope, "snake"),
        CustomActivation(all_of_them, all_slope, "all", check_derivative=False),
    ],
    ids=["snake", "all"],
)
def test_custom_activations(tmp_path, activation):
    model = drawn(Sequential(Dense(6), activation, Dense(2), dtype="float64"))
    X = numbers("float64", scale=0.3)
    assert_the_same(run(tmp_path / "model.onnx", model, X)["predictions"], model.predict(X), "float64", 1e-7)


def test_expm1_and_log1p_are_exact_near_zero(tmp_path):
    both = CustomActivation(lambda z: np.expm1(z) * np.log1p(abs(z)), lambda z: z, "both", check_derivative=False)
    model = Sequential(Dense(1), both, dtype="float64").build(1)
    model.set_parameters({"dense_0.weight": [[1.0]]})
    X = np.array([[1e-9], [-1e-12], [1e-17], [0.0], [3.0], [-40.0]])
    found = run(tmp_path / "model.onnx", model, X)["predictions"]
    np.testing.assert_allclose(found, np.expm1(X) * np.log1p(abs(X)), rtol=1e-14)


def identity(z, y):
    return z - y


def error_of(output, activation=None):
    loss = CustomLoss(lambda z, y: 0.5 * (z - y) ** 2, identity, "half", output)
    model = drawn(Sequential(Dense(2), *([activation] if activation else []), Dense(2)))
    model.loss = loss
    return model


@pytest.mark.parametrize(
    "output, words",
    [
        (lambda z: np.logaddexp(z, 0.0), "logaddexp"),
        (lambda z: z.T, "attribute 'T'"),
        (lambda z: np.cumprod(z, axis=0), "cumprod of rows"),
        (lambda z: z * ((z > 0.0) + (z < 1.0)), "ONNX does not allow"),
        (lambda z: np.ones((2, 2)), "makes of its logits"),
        (lambda z: np.flip(z), "flip"),
        (lambda z: np.add.reduce(z), "add"),
        (lambda z: z if z[0, 0] > 0 else -z, "only columns"),
        (lambda z: z if (z > 0.0) else -z, "np.where"),
        (lambda z: z + np.ones((len(z), 1), np.float32), "two rows than for three"),
    ],
    ids=["ufunc", "attribute", "of rows", "true and true", "a constant", "function", "method", "row", "branch", "rows"],
)
def test_what_onnx_cannot_do_is_named(tmp_path, output, words):
    with pytest.raises(TypeError, match=words):
        export_onnx(tmp_path / "model.onnx", error_of(output))
    assert not list(tmp_path.iterdir())


def softmax_in_place(z):
    e = z - z.max(axis=1, keepdims=True)
    np.exp(e, out=e)
    e /= np.sum(e, axis=1, keepdims=True)
    return e


def twice(z):
    a = z + 0.0
    b = a
    b *= 2.0
    return a


def running_products(z):
    return np.cumprod(z, axis=1) + np.ones_like(1.0 / (z - z)) + np.zeros_like(z)


def elsewhere(z):
    """What ONNX Runtime has in float32 only, and other operators."""
    a = np.arctan(z) + np.cosh(z) * np.sinh(z) - np.arcsinh(z) + np.tan(z) / (1.0 + np.rint(z) ** 2)
    b = np.where(np.isnan(z) ^ (z > 0.0), np.arcsin(np.tanh(z)), np.reciprocal(2.0 + np.abs(z)))
    return (
        a * b - np.max(z, axis=1, keepdims=True) * np.mean(z, axis=1, keepdims=True) + z.max(axis=(1,), keepdims=True)
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("output", [softmax_in_place, twice, running_products, elsewhere])
def test_what_outputs_may_do(tmp_path, output, dtype):
    loss = CustomLoss(lambda z, y: 0.5 * (z - y) ** 2, identity, "half", output)
    model = Sequential(Dense(4), dtype=dtype).build(6, seed=3)
    model.loss, X = loss, numbers(dtype, scale=0.3)
    with np.errstate(all="ignore"):
        expected = model.predict(X)
        found = run(tmp_path / "model.onnx", model, X)["predictions"]
    assert_the_same(found, expected, dtype, 1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softplus_is_right_for_large_numbers_and_small_ones(tmp_path, dtype):
    soft = CustomActivation(lambda z: np.log1p(np.exp(z)), lambda z: z, "soft", check_derivative=False)
    for activation, largest in ((ACTIVATIONS["softplus"](), 1e4), (soft, 88.0)):
        model = Sequential(Dense(1), activation, dtype=dtype).build(1)
        model.set_parameters({"dense_0.weight": [[1.0]]})
        X = np.array([[largest], [30.0], [1.0], [-1.0], [-20.0], [-40.0]], dtype)
        found = run(tmp_path / "model.onnx", model, X)["predictions"]
        np.testing.assert_allclose(found, np.logaddexp(X, 0), rtol=1e-6 if dtype == "float32" else 1e-14)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("dtype", [">i4", "<u2", np.float16, object])
def test_labels_of_other_dtypes(tmp_path, dtype):
    X = numbers("float32", 60)
    model = MLPClassifier((5,), max_iter=1, random_state=0).fit(X, np.arange(60) % 3)
    model.classes_ = model.classes_.astype(dtype)
    assert run(tmp_path / "model.onnx", model, X)["label"].tolist() == model.predict(X).tolist()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_labels_that_onnx_does_not_have(tmp_path):
    model = MLPClassifier((5,), max_iter=1, random_state=0).fit(numbers("float32", 60), np.arange(60) % 3)
    model.classes_ = model.classes_.astype("datetime64[D]")
    with pytest.raises(ValueError, match="must have classes that are texts, integers or floats of 64 bits; got array"):
        export_onnx(tmp_path / "model.onnx", model)


def test_a_custom_loss_with_an_output(tmp_path):
    model = error_of(np.exp)
    X = numbers("float32", scale=0.3)
    assert_the_same(run(tmp_path / "model.onnx", model, X)["predictions"], np.exp(model.logits(X)), "float32")


# Errors


def test_models_that_are_not_fitted_or_others(tmp_path):
    path = tmp_path / "model.onnx"
    with pytest.raises(ValueError, match="no parameters yet"):
        export_onnx(path, Sequential(Dense(1)))
    with pytest.raises(ValueError, match="not fitted"):
        export_onnx(path, MLPClassifier())
    with pytest.raises(ValueError, match="not fitted"):
        export_onnx(path, SKLearnClassifier(Sequential(Dense(3))))
    for other in (Perceptron(), "model", None, make_pipeline(StandardScaler(), Perceptron())):
        with pytest.raises(TypeError, match=f"`model` must be a Sequential.*got {type(other).__name__}"):
            export_onnx(path, other)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_what_of_a_search_or_a_pipeline_can_be_exported_is_said(tmp_path):
    X, y = numbers("float32", 60), np.arange(60) % 3
    search = GridSearchCV(MLPClassifier(max_iter=1), {"alpha": [0.0, 1.0]}, cv=2).fit(X, y)
    with pytest.raises(TypeError, match="got GridSearchCV; try the search's `best_estimator_`"):
        export_onnx(tmp_path / "model.onnx", search)
    for step in (RobustScaler(), PiecewiseLinearEncoder(3)):
        pipeline = make_pipeline(StandardScaler(), step, MLPClassifier(max_iter=1)).fit(X, y)
        message = rf"MinMaxScaler; got {type(step).__name__}: export the last step, pipeline\[-1\]"
        with pytest.raises(TypeError, match=message):
            export_onnx(tmp_path / "model.onnx", pipeline)
    assert not list(tmp_path.iterdir())


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r'pip install "fastmlp\[onnx\]"'):
        export_onnx(tmp_path / "model.onnx", drawn(Sequential(Dense(1))))


def test_an_older_file_stays_where_the_new_one_cannot_be_written(tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    export_onnx(path, drawn(Sequential(Dense(1))))
    before = path.read_bytes()
    monkeypatch.setattr(onnx_export, "MOST_BYTES", 100)
    with pytest.raises(ValueError, match="bytes of parameters; an ONNX file holds 100"):
        export_onnx(path, drawn(Sequential(Dense(10))))
    assert path.read_bytes() == before
    with pytest.raises(FileNotFoundError):
        export_onnx(tmp_path / "nowhere" / "model.onnx", drawn(Sequential(Dense(1))))


def test_the_same_model_gives_the_same_bytes(tmp_path):
    model = drawn(Sequential(Dense(3), GELU(), Dense(3)))
    model.loss = LOSSES["ordinal"]()
    export_onnx(tmp_path / "a.onnx", model)
    export_onnx(tmp_path / "b.onnx", model)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_importing_does_not_import_onnx():
    import subprocess

    code = "import sys, fastmlp; fastmlp.export_onnx; assert 'onnx' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_standard_activations_are_standard_operators(tmp_path):
    model = drawn(Sequential(*[layer for cls in ACTIVATIONS.values() for layer in (Dense(2), cls())], Dense(2)))
    model.loss = LOSSES["softmax_cross_entropy"]()
    export_onnx(tmp_path / "model.onnx", model)
    graph = onnx.load(tmp_path / "model.onnx").graph
    operators = [node.op_type for node in graph.node]
    assert {"Relu", "Tanh", "Sigmoid", "Softplus"} <= set(operators)
    assert operators[-2:] == ["Softmax", "Identity"]
    assert {f"dense_{i}.{kind}" for i in range(14) for kind in ("weight", "bias")} <= {
        t.name for t in graph.initializer
    }
