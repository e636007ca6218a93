"""Model files: the same bits come back; anything else is refused with a reason, before it costs memory or runs code."""

import json
import os
import pickle
import re
import stat
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
from hypothesis import given, strategies as st
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from fastmlp import (
    Adam,
    Dense,
    Dropout,
    Embedding,
    GaussianNoise,
    GroupNorm,
    Identity,
    Logistic,
    MLPClassifier,
    MLPRegressor,
    RandomAffine,
    ReLU,
    Rescaling,
    Residual,
    Sequential,
    SKLearnClassifier,
    Tanh,
    load_model,
    losses as loss_module,
    model_file,
    save_model,
)
from fastmlp.initializers import Uniform
from fastmlp.layers import LAYERS
from fastmlp.model_file import ModelFileError
from fastmlp.serialization import load_model_with_extra


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.fixture
def problem(rng):
    X = rng.normal(size=(40, 5)).astype(np.float32)
    return X, (X @ rng.normal(size=5) > 0).astype(int)


def estimator(cls, X, y, **parameters):
    """Fitted for a few epochs, without the warning that says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cls(**{"hidden_layer_sizes": (4,), "max_iter": 3, "random_state": 0, **parameters}).fit(X, y)


def same(a, b):
    """Equal values of equal types, arrays to the bit."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and a.tolist() == b.tolist()
    if isinstance(a, dict):
        return type(a) is type(b) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or a != a)


def plain(parameters):
    """NumPy's scalars as Python's: so they are saved."""
    if isinstance(parameters, dict):
        return {plain(key): plain(value) for key, value in parameters.items()}
    return parameters.item() if isinstance(parameters, np.generic) else parameters


# There and back


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "layers",
    [
        [Dense(3)],
        [Dense(1, use_bias=False, kernel_initializer="normal")],
        [Rescaling(1 / 255, -0.5), Dense(4), ReLU(), Dense(5), Tanh(), Dense(6), Logistic(), Dense(2), Identity()],
    ],
)
def test_sequential_not_built_and_built(layers, dtype, path):
    model = Sequential(*layers, dtype=dtype)
    model.save(path)
    assert repr(load_model(path)) == repr(model) and not load_model(path).built
    model.build(7, seed=3)
    model.save(path)
    loaded = Sequential.load(path)
    assert loaded.layers == model.layers and loaded.dtype == model.dtype and loaded.n_features == 7
    assert loaded.loss is None and same(loaded.parameters, model.parameters)


def test_every_declared_layer_and_loss(path):
    for cls in LAYERS.values():
        special = {"Dense": [Dense(2)], "Rescaling": [Rescaling(2.0), Dense(2)], "Dropout": [Dense(2), Dropout(0.5)]}
        special["AlphaDropout"] = [Dense(2), LAYERS["AlphaDropout"](0.5)]
        special |= {name: [LAYERS[name](2)] for name in ("GLU", "GEGLU", "SwiGLU", "Maxout")}
        special["GroupNorm"] = [Dense(2), GroupNorm(2)]
        special["Residual"] = [Dense(2), Residual(GroupNorm(2), Residual(Dense(2)), drop_rate=0.25)]
        special |= {"GaussianNoise": [GaussianNoise(0.5), Dense(2)], "RandomAffine": [RandomAffine((2, 3)), Dense(2)]}
        special |= {name: [LAYERS[name](0.5), Dense(2)] for name in ("MixUp", "CutMix")}
        special["Normalization"] = [LAYERS["Normalization"](), Dense(2)]
        special["Embedding"] = [Embedding((5, 7), 3, (1, 0), Uniform(0.5), learning_rate_multiplier=2.0), Dense(2)]
        layers = special.get(cls.__name__) or [Dense(2), cls()]
        model = Sequential(*layers)
        for loss in loss_module.LOSSES.values():
            model.loss = loss()
            save_model(path, model)
            assert load_model(path).layers == model.layers and load_model(path).loss == loss()


@pytest.mark.parametrize("n", [1, 40])
def test_a_fitted_sequential_predicts_the_same_bits_and_trains_on(n, problem, path):
    X, y = problem
    model = Sequential(Dense(8), ReLU(), Dense(2))
    model.fit(X, y, loss="softmax_cross_entropy", epochs=2)
    model.save(path)
    loaded = load_model(path)
    assert same(loaded.predict(X[:n]), model.predict(X[:n]))
    assert loaded.evaluate(X, y) == model.evaluate(X, y)
    for fitted in (model, loaded):
        fitted.fit(X, y, optimizer=Adam(0.01), epochs=2)
    assert same(loaded.parameters, model.parameters)


def test_many_rows_through_the_engine(rng, path):
    X = rng.normal(size=(3000, 30)).astype(np.float32)
    model = Sequential(Dense(50), Tanh(), Dense(3)).build(30)
    model.save(path)
    assert same(load_model(path).predict(X), model.predict(X))


LABELS = {
    "int": np.array([3, -1]),
    "uint8": np.array([7, 9], np.uint8),
    "bool": np.array([True, False]),
    "float": np.array([3.0, -2.0]),
    "str": np.array(["no", "yes, indeed \u2713"]),
    "object": np.array(["spam", "eggs"], object),
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_classifier_with_labels_of_each_kind(labels, problem, path):
    X, y = problem
    fitted = estimator(MLPClassifier, X, labels[y], learning_rate_init=0.01)
    save_model(path, fitted)
    loaded = load_model(path)
    assert loaded.get_params() == fitted.get_params()
    assert same(vars(loaded), vars(fitted))
    assert same(loaded.predict_proba(X), fitted.predict_proba(X)) and same(loaded.predict(X), fitted.predict(X))


@pytest.mark.parametrize(
    "parameters",
    [
        {"solver": "sgd", "early_stopping": True, "activation": "tanh", "hidden_layer_sizes": [4, 3]},
        {"solver": "lbfgs", "hidden_layer_sizes": ()},
        {"class_weight": {np.int64(0): 2.0, np.int64(1): np.float32(0.5)}, "alpha": np.float64(0.1)},
        {"n_iter_no_change": np.inf, "hidden_layer_sizes": np.array([2, 2])},
    ],
    ids=str,
)
def test_classifier_with_parameters_of_each_kind(parameters, problem, path):
    X, y = problem
    fitted = estimator(MLPClassifier, X, y, **parameters)
    save_model(path, fitted)
    loaded = load_model(path)
    assert str(loaded.get_params()) == str(plain(fitted.get_params()))
    assert same(loaded.predict_proba(X), fitted.predict_proba(X))
    assert vars(loaded).keys() == vars(fitted).keys()


def test_multilabel_and_regressors(problem, rng, path):
    X, y = problem
    labels = np.stack([y, 1 - y, rng.permutation(y)], axis=1)
    for fitted in (
        estimator(MLPClassifier, X, labels),
        estimator(MLPRegressor, X, y.astype(float)),
        estimator(MLPRegressor, X.astype(float), rng.normal(size=(40, 2)), activation="logistic"),
    ):
        save_model(path, fitted)
        loaded = load_model(path)
        assert type(loaded) is type(fitted) and same(vars(loaded), vars(fitted))
        assert same(loaded.predict(X), fitted.predict(X))


def test_feature_names(problem, path):
    pandas = pytest.importorskip("pandas")
    X, y = problem
    frame = pandas.DataFrame(X, columns=["a", "b", "c c", "\u00e9", "\U0001f600"])
    fitted = estimator(MLPClassifier, frame, y)
    save_model(path, fitted)
    loaded = load_model(path)
    assert same(loaded.feature_names_in_, fitted.feature_names_in_)
    assert same(loaded.predict(frame), fitted.predict(frame))


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_partial_fit_goes_on_from_the_file(solver, problem, path):
    X, y = problem
    fitted = MLPClassifier((6,), solver=solver, random_state=1)
    for _ in range(3):
        fitted.partial_fit(X, y, classes=[0, 1])
    save_model(path, fitted)
    loaded = load_model(path)
    for model in (fitted, loaded):
        model.partial_fit(X, y).partial_fit(X, y)
    assert same(vars(loaded), vars(fitted))


def test_an_estimator_that_is_not_fitted(path):
    save_model(path, MLPRegressor(hidden_layer_sizes=(3, 4), alpha=0.5))
    assert repr(load_model(path)) == repr(MLPRegressor(hidden_layer_sizes=(3, 4), alpha=0.5))


def test_a_generator_as_random_state_is_not_saved(path):
    with pytest.warns(UserWarning, match="`random_state` is a generator object"):
        save_model(path, MLPClassifier(random_state=np.random.RandomState(0)))
    assert load_model(path).random_state is None


EXTRA = {
    "text": "\u00e9\ud800 \U0001f600",  # a lone surrogate too: a column may be called anything
    "numbers": [0, -1, 10**30, 0.1, float("inf"), True, None],
    "arrays": (np.arange(3), np.array(2.5), np.zeros((0, 3), np.float32), np.array([True]), np.array([b"\xff\0a"])),
    "strings": np.array([["a", "bb"], ["", "\u2713"]]),
    "objects": np.array([1, "a", None, 2.5, True], object),
    1: {"nested": {"deeper": [{}, (), []]}, ("a", 1): np.float64(3.0)},
    "tensor": {"tensor": "x", "tuple": [1], "dict": 2},
    "\ud800": np.arange(2),
    "big-endian and strided": np.arange(12, dtype=">f4").reshape(3, 4)[::2, ::-1],
}


def test_extra(path):
    save_model(path, Sequential(Dense(1)), extra=EXTRA)
    model, extra = load_model_with_extra(path)
    expected = {**EXTRA, "big-endian and strided": EXTRA["big-endian and strided"].astype("<f4")}
    expected[1] = {**expected[1], ("a", 1): 3.0}
    assert same(extra, expected)
    save_model(path, model)
    assert load_model_with_extra(path)[1] == {}


def test_safetensors_reads_it(problem, path):
    from safetensors import safe_open

    model = Sequential(Dense(3), ReLU(), Dense(2)).build(5)
    model.save(path)
    with safe_open(path, framework="np") as file:
        assert file.metadata()["format"] == "fastmlp" and file.metadata()["version"] == "1"
        assert same({name: file.get_tensor(name) for name in model.parameters}, model.parameters)
        assert set(file.keys()) == set(model.parameters)


def test_equal_models_make_equal_files(tmp_path):
    for name in "ab":
        Sequential(Dense(3), ReLU(), Dense(2)).build(5, seed=1).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_loading_and_predicting_few_rows_compiles_nothing(path, problem):
    X, y = problem
    code = (
        "import sys, numpy as np, fastmlp\n"
        f"model = fastmlp.load_model({str(path)!r})\n"
        "model.predict(np.zeros((3, 5), np.float32))\n"
        "heavy = {'numba', 'llvmlite', 'rich', 'pandas', *sys.argv[1:]} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    save_model(path, Sequential(Dense(3), ReLU(), Dense(2)).build(5))
    subprocess.run([sys.executable, "-c", code, "sklearn", "scipy"], check=True)
    save_model(path, estimator(MLPClassifier, X, y))
    code = code.replace("'pandas', ", "")  # scikit-learn may import it
    subprocess.run([sys.executable, "-c", code], check=True)


# What cannot be saved


@pytest.mark.parametrize("model", [None, 3, {}, Dense(3), np.zeros(3), type("MLPClassifier", (), {})()])
def test_other_models_are_refused(model, path):
    with pytest.raises(TypeError, match="`model` must be a Sequential"):
        save_model(path, model)
    assert not path.exists()


@pytest.mark.parametrize(
    "value", [print, 1j, {1, 2}, np.array([1j]), np.array([print], object), np.array("2020", "M8[D]"), np.longdouble(1)]
)
def test_other_values_are_refused_by_name(value, path):
    with pytest.raises(TypeError, match=r"`extra\.a\.0` is .*; a model file holds"):
        save_model(path, Sequential(Dense(1)), extra={"a": [value]})
    assert not path.exists()


def test_a_configuration_that_could_not_be_read_is_not_written(path, monkeypatch):
    monkeypatch.setattr(model_file, "MAX_HEADER_BYTES", 1000)
    with pytest.raises(ValueError, match="settings take"):
        save_model(path, Sequential(Dense(1)), extra={"a": "x" * 1000})


# Writing: all or nothing


@pytest.mark.parametrize("broken", ["os.fsync", "os.replace", "builtins.open"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_save_leaves_the_old_file(broken, error, path, monkeypatch):
    Sequential(Dense(1)).save(path)
    before = path.read_bytes()

    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(broken, fail)
        with pytest.raises(type(error)):
            Sequential(Dense(2)).save(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_disk_that_fills_while_writing(path, monkeypatch):
    class Full:
        def __init__(self, file):
            self.file, self.writes = file, 0

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, part):
            self.writes += 1
            if self.writes == 3:
                raise OSError(28, "No space left on device")
            return self.file.write(part)

    monkeypatch.setattr(model_file, "open", lambda *a: Full(open(*a)), raising=False)
    with pytest.raises(OSError, match="No space left"):
        Sequential(Dense(2)).build(3).save(path)
    assert os.listdir(path.parent) == []


def test_names_that_are_no_files(tmp_path):
    with pytest.raises(ValueError, match="`path` must be a file"):
        Sequential(Dense(1)).save(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"missing\W+model'"):  # not the temporary file's name
        Sequential(Dense(1)).save(tmp_path / "missing" / "model")
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "missing")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions and links")
def test_permissions_and_links_are_kept(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    Sequential(Dense(1)).save(target)
    os.chmod(target, 0o600)
    link.symlink_to(target)
    Sequential(Dense(2)).save(link)
    assert link.is_symlink() and load_model(target).layers == (Dense(2),)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_a_process_killed_while_saving_leaves_a_whole_file(tmp_path):
    """Killed at random moments of saving in a loop; what is there always loads. (This cannot test fsync.)"""
    path = tmp_path / "model"
    code = (
        "import sys; from fastmlp import Dense, Sequential\n"
        "models = [Sequential(Dense(300)).build(300, seed=s) for s in (0, 1)]\n"
        "models[0].save(sys.argv[1]); print('ready', flush=True)\n"
        "while True:\n"
        "    for model in models: model.save(sys.argv[1])\n"
    )
    for attempt in range(6):
        with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(0.003 * attempt)
            process.kill()
        weight = load_model(path).parameters["dense_0.weight"]
        assert any(same(weight, Sequential(Dense(300)).build(300, seed=s).parameters["dense_0.weight"]) for s in (0, 1))


# Reading: refused with a reason


def refuse(path, content, match="cannot load"):
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=match) as caught:
        load_model(path)
    assert repr(str(path)) in str(caught.value)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a small file of each kind of model."""
    path = tmp_path_factory.mktemp("whole") / "model"
    Sequential(Rescaling(0.5), Dense(3), ReLU(), Dense(2)).build(4).save(path)
    files = [path.read_bytes()]
    X = np.random.default_rng(0).normal(size=(30, 3))
    save_model(path, estimator(MLPClassifier, X, np.where(X[:, 0] > 0, "yes", "no")))
    return [*files, path.read_bytes()]


def test_truncation_at_every_place(whole, path):
    for content in whole:
        header_end = 8 + int.from_bytes(content[:8], "little")
        places = {*range(12), *range(header_end - 9, header_end + 9), *range(len(content) - 9, len(content))}
        for end in sorted(places | {*range(0, len(content), 97)}):
            refuse(path, content[:end], "cut off")


def test_a_file_with_a_tail(whole, path):
    for content in whole:
        refuse(path, content + b"\0", "safetensors")
        refuse(path, content + content, "safetensors")


def test_a_flipped_bit_at_every_place(whole, path):
    """Everywhere in the header and the tensors (every place of the small file would take a minute)."""
    rng = np.random.default_rng(0)
    for content in whole:
        places = {*range(64), *rng.integers(0, len(content), 400).tolist(), *range(len(content) - 16, len(content))}
        for place in sorted(places):
            damaged = bytearray(content)
            damaged[place] ^= 1 << int(rng.integers(8))
            refuse(path, bytes(damaged))


def test_swapped_tensors(path):
    model = Sequential(Dense(3), Identity(), Dense(3)).build(3)
    model.save(path)
    content = path.read_bytes()
    refuse(path, content.replace(b"dense_0.w", b"dense_2.w").replace(b"dense_1.w", b"dense_0.w"), "digest")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_refused_and_not_run(protocol, tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    content = pickle.dumps({"model": Bomb(), "weights": list(range(1000))}, protocol)
    refuse(tmp_path / "model", content, "pickle" if protocol >= 2 else "not a safetensors file")
    assert not (tmp_path / "exploded").exists()


def test_other_formats(tmp_path, path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    refuse(path, (tmp_path / "a.npy").read_bytes(), "npy array")
    refuse(path, (tmp_path / "a.npz").read_bytes(), "zip archive")
    refuse(path, b"a,b\n1,2\n3,4\n", "not a safetensors file")
    refuse(path, b"\0" * 100, "not JSON")
    from safetensors.numpy import save

    refuse(path, save({"a": np.zeros(3)}), "not written by fastmlp")
    refuse(path, save({"a": np.zeros(3)}, {"format": "pt"}), "not written by fastmlp")
    refuse(path, save({"a": np.zeros(3)}, {"format": "fastmlp", "version": "2"}), "version '2'.*reads version '1'")
    refuse(path, save({"a": np.zeros(3)}, {"format": "fastmlp", "version": "1"}), "no configuration")
    refuse(path, save({"a": np.zeros(3)}, {"format": "fastmlp", "version": "1", "config": "{}"}), "digest")


def raw(header, data=b""):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(header).to_bytes(8, "little") + header + data


METADATA = {"format": "fastmlp", "version": "1", "config": "{}", "digest": "0"}


@pytest.mark.parametrize(
    "content",
    [
        raw(b"[]"),
        raw(b"{"),
        raw(b"[" * 100_000),
        raw(b'{"a":' * 100_000),
        raw(b'{"__metadata__": ' + b"9" * 10_000 + b"}"),
        raw({"__metadata__": []}),
        raw({"__metadata__": METADATA, "a": 3}),
        raw({"__metadata__": METADATA, "a": {"data_offsets": [0]}}),
        raw({"__metadata__": METADATA, "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, "x"]}}),
        raw({"__metadata__": METADATA, "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 1e999]}}),
        raw({"__metadata__": METADATA, "a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}),
        raw({"__metadata__": METADATA, "a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]}}),
        raw({"__metadata__": METADATA, "a": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}, b"ab"),
        raw({"__metadata__": METADATA, "a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"abcdefgh"),
        raw({"__metadata__": METADATA | {"version": ["1"]}}),
        raw({"__metadata__": METADATA | {"config": 3}}),
        (2**63).to_bytes(8, "little") + b"{}",
        (2**25).to_bytes(8, "little") + b"{}",
        b"\xff" * 8 + b"{}",
    ],
    ids=range(19),
)
def test_odd_headers(content, path):
    refuse(path, content)


def test_absurd_sizes_are_refused_before_anything_is_allocated(path):
    """Under a tracer: what the file claims (a terabyte and more) is never asked for."""
    import tracemalloc

    huge = 2**40
    claims = raw(
        {"__metadata__": METADATA, "a": {"dtype": "F32", "shape": [huge], "data_offsets": [0, 4 * huge]}}, b"abcd"
    )
    model = {"model": "Sequential", "dtype": "float32", "n_features": 4, "loss": None}
    configurations = [
        {**model, "layers": [{"type": "Dense", "units": huge}]},
        {**model, "layers": [{"type": "Dense", "units": 3}], "n_features": huge},
        {
            **model,
            "layers": [{"type": "Dense", "units": 3}],
            "extra": {"text": ["x" * 10**5, *[""] * 10**5], "shape": [-1]},
        },
        {**model, "layers": [{"type": "Dense", "units": 3}], "extra": {"objects": [1], "shape": [huge]}},
    ]
    tensors = {"dense_0.weight": np.zeros((4, 3), np.float32), "dense_0.bias": np.zeros(3, np.float32)}
    with pytest.raises(ModelFileError):  # imports, before the tracer
        path.write_bytes(raw(b"{}"))
        load_model(path)
    for case in [claims, *configurations]:
        if isinstance(case, dict):
            model_file.write(path, case, tensors)
            case = path.read_bytes()
        tracemalloc.start()
        refuse(path, case)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20 * len(case) + 2**21


# Sound files that are at odds with themselves: only somebody who makes them on purpose comes here


def forged(path, tensors=None, **changes):
    config = {
        "model": "Sequential",
        "layers": [{"type": "Dense", "units": 2}, {"type": "ReLU"}, {"type": "Dense", "units": 1}],
        "dtype": "float32",
        "n_features": 3,
        "loss": None,
    }
    shapes = {"dense_0.weight": (3, 2), "dense_0.bias": (2,), "dense_1.weight": (2, 1), "dense_1.bias": (1,)}
    arrays = {name: np.ones(shape, np.float32) for name, shape in shapes.items()} | (tensors or {})
    arrays = {name: array for name, array in arrays.items() if array is not None}
    config = {key: value for key, value in (config | changes).items() if value is not ...}
    model_file.write(path, config, arrays)
    return path


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"model": "Model"}, "`model` must be one of 'Sequential'"),
        ({"model": ...}, "got None"),
        ({"model": ["Sequential"]}, "got"),
        ({"layers": ...}, "'layers' is missing"),
        ({"layers": [{"type": "os.system"}]}, "`type` must be one of 'Dense'.*got 'os.system'"),
        ({"layers": [{"type": ["Dense"]}]}, "cannot load"),
        ({"layers": [{"type": "Dense", "units": 2, "evil": 1}]}, "Dense field.*got 'evil'"),
        ({"layers": [{"type": "Dense"}]}, "units"),
        ({"layers": [{"type": "Dense", "units": "2"}]}, "`units` must be"),
        ({"layers": [{"type": "Dense", "units": 0}]}, "`units` must be"),
        ({"layers": [{"type": "Dense", "units": 3}]}, r"'dense_0.weight' must be float32 of shape \(3, 3\).*\(3, 2\)"),
        ({"layers": []}, "at least one Dense"),
        ({"layers": {"a": 1}}, "cannot load"),
        ({"layers": "Dense"}, "cannot load"),
        ({"dtype": "float16"}, "`dtype` must be"),
        ({"dtype": "float64"}, "must be float64"),
        ({"dtype": "O"}, "`dtype`"),
        ({"dtype": 12}, "must be"),
        ({"n_features": 4}, r"shape \(4, 2\)"),
        ({"n_features": "3"}, "cannot load"),
        ({"n_features": -3}, "cannot load"),
        ({"n_features": 3.0}, "cannot load"),
        ({"loss": {"name": "hinged"}}, "'hinged'"),
        ({"loss": {"name": "squared_error", "evil": 1}}, "evil"),
        ({"loss": "squared_error"}, "cannot load"),
        ({"tensors": {"dense_1.bias": None}}, "'dense_1.bias' is missing"),
        ({"tensors": {"dense_1.bias": np.ones(2, np.float32)}}, r"shape \(1,\); the file has float32 of shape \(2,\)"),
        ({"tensors": {"dense_1.bias": np.ones(1, np.float64)}}, "the file has float64"),
        ({"tensors": {"dense_1.bias": np.full(1, np.nan, np.float32)}}, "finite"),
        ({"extra": {"evil": 1}}, "unknown kind of value: 'evil'"),
        ({"extra": {"tensor": "missing"}}, "'missing' is missing"),
        ({"extra": {"text": [1], "shape": [1]}}, "array of strings"),
        ({"extra": {"text": ["a"], "shape": [2]}}, "reshape"),
        ({"extra": {"dict": [[1]]}}, "cannot load"),
        ({"extra": {"dict": [[[1], 2]]}}, "unhashable"),
        ({"extra": {"objects": 3, "shape": [1]}}, "cannot load"),
    ],
    ids=str,
)
def test_forged_sequential(changes, match, path):
    with pytest.raises(ModelFileError, match=match):
        load_model(forged(path, **changes))


def test_forging_works_at_all(path):
    assert load_model(forged(path)).predict(np.ones((1, 3), np.float32)).tolist() == [[9.0]]


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"attributes": {"predict": 3}}, "'predict' is not a fitted attribute"),
        ({"attributes": {"__class__": 3}}, "'__class__' is not"),
        ({"attributes": {"alpha": 3}}, "'alpha' is not"),
        ({"attributes": {"a b": 3}}, "'a b' is not"),
        ({"parameters": {"alhpa": 3}}, "`parameter` must be one of.*Did you mean 'alpha'"),
        ({"parameters": {"activation": "rellu"}}, "`activation`.*Did you mean 'relu'"),
        ({"attributes": {"coefs_": 3}}, "lists of one array per layer"),
        ({"attributes": {"coefs_": []}}, "lists of one array per layer"),
        ({"attributes": {"coefs_": [1, 2]}}, "cannot load"),
        ({"attributes": {"intercepts_": []}}, "lists of one array per layer"),
        ({"attributes": {"n_features_in_": 7}}, r"coefs_\[0\]' must be"),
        ({"attributes": {"n_outputs_": 2}}, "do not fit"),
        ({"attributes": {"n_layers_": 2}}, "do not fit"),
        ({"attributes": {"out_activation_": "print"}}, "'softmax'"),
        ({"attributes": {"classes_": {"text": ["a", "b", "c"], "shape": [3]}}}, "classes_ must hold 2 labels"),
    ],
    ids=str,
)
def test_forged_estimator(changes, match, whole, path):
    path.write_bytes(whole[1])
    config, tensors = model_file.read(path)
    for section, values in changes.items():
        config[section] |= values
    model_file.write(path, config, tensors)
    with pytest.raises(ModelFileError, match=match):
        load_model(path)


# Garbage


@given(st.binary(max_size=300))
def test_garbage(tmp_path_factory, content):
    refuse(tmp_path_factory.getbasetemp() / "garbage", content)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(header=st.dictionaries(st.sampled_from(["__metadata__", "a", "b"]), json_values), data=st.binary(max_size=20))
def test_garbage_header(tmp_path_factory, header, data):
    refuse(tmp_path_factory.getbasetemp() / "garbage", raw(header, data))


@given(key=st.sampled_from(["model", "layers", "dtype", "n_features", "loss"]), value=json_values)
def test_garbage_configuration(tmp_path_factory, key, value):
    """Anything in the place of a setting: the file is refused, or it is a model."""
    path = tmp_path_factory.getbasetemp() / "garbage"
    try:
        assert isinstance(load_model(forged(path, **{key: value})), Sequential)
    except ModelFileError:
        assert key not in ("n_features", "loss") or value is not None


@given(
    section=st.sampled_from(["parameters", "attributes"]),
    name=st.sampled_from(["coefs_", "intercepts_", "classes_", "n_layers_", "activation", "_seed", "n_outputs_"]),
    value=json_values,
)
def test_garbage_estimator(tmp_path_factory, whole, section, name, value):
    path = tmp_path_factory.getbasetemp() / "garbage"
    path.write_bytes(whole[1])
    config, tensors = model_file.read(path)
    config[section][name] = value
    model_file.write(path, config, tensors)
    try:
        load_model(path)
    except ModelFileError:
        pass


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    path = tmp_path / "model.safetensors"
    save_model(path, Sequential(Dense(1)).build(1))
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device: .*model.safetensors"):
        save_model(path, Sequential(Dense(2)).build(1))
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"] and path.read_bytes() == before


def test_what_of_another_estimator_can_be_saved_is_said(tmp_path):
    X, y = np.random.default_rng(0).normal(size=(30, 2)), np.arange(30) % 2
    wrapped = SKLearnClassifier(Sequential(Dense(2))).fit(X, y)
    search = GridSearchCV(wrapped, {"fit_kwargs__epochs": [1]}, cv=2).fit(X, y)
    for model, words in (
        (wrapped, "got SKLearnClassifier; try its `model_`, a Sequential, when it is fitted."),
        (search, "got GridSearchCV; try the search's `best_estimator_`."),
        (make_pipeline(wrapped), "got Pipeline; try the pipeline's last step, `pipeline[-1]`, whose X is what"),
        (3, "`model` must be a Sequential, an MLPClassifier or an MLPRegressor; got int."),
    ):
        with pytest.raises(TypeError, match=re.escape(words)):
            save_model(tmp_path / "model.safetensors", model)
    assert not list(tmp_path.iterdir())
    save_model(tmp_path / "model.safetensors", search.best_estimator_.model_)
    found = load_model(tmp_path / "model.safetensors").predict(X)
    np.testing.assert_array_equal(found, search.predict_proba(X))
