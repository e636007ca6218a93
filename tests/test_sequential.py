"""`Sequential` as people use it: fit, predict, evaluate, parameters, gradients; and what it says to bad input."""

import copy
import pickle

import numpy as np
import pytest
import reference
import scipy.sparse
from sklearn.exceptions import ConvergenceWarning

from fastmlp import (
    GEGLU,
    SGD,
    Adam,
    BatchNorm,
    BinaryCrossEntropy,
    Callback,
    Dense,
    Dropout,
    GaussianNoise,
    Identity,
    Logistic,
    MixUp,
    MLPClassifier,
    MLPRegressor,
    ReLU,
    Rescaling,
    Residual,
    Sequential,
    Softmax,
    SquaredError,
    Tanh,
    diagnose,
    find_learning_rate,
)
from fastmlp.optimizers import Optimizer


def classifier(**options):
    return Sequential(Dense(16), ReLU(), Dense(3), **options)


def data(n=60, n_features=5, k=3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, n_features)).astype(np.float32)
    return X, X[:, :k].argmax(1)


def fitted(epochs=30, **options):
    X, y = data()
    model = classifier()
    fit = {"loss": "softmax_cross_entropy", "optimizer": Adam(0.01), "epochs": epochs, "batch_size": 10, "verbose": 0}
    model.fit(X, y, **fit | options)
    return model


# Fit, predict, evaluate


@pytest.mark.parametrize("last", [ReLU(), Tanh(), Logistic(), Softmax()])
def test_an_activation_before_a_loss_of_logits_is_mentioned(last):
    X, y = data()
    model = Sequential(Dense(1), last)
    if isinstance(last, Softmax):
        model = Sequential(Dense(2), last)
        y = np.eye(2)[y % 2]
    with pytest.warns(UserWarning, match="takes logits.*leave out the last layer"):
        model.fit(X, y % 2, loss="binary_cross_entropy", verbose=0)
    model.fit(X, y % 2, loss="squared_error", verbose=0)  # where it may be meant


def test_batch_norm_needs_more_than_one_row():
    X, y = data()
    model = Sequential(Dense(4), Residual(BatchNorm()), Dense(3))
    for n, batch_size in ((60, 1), (1, 32)):
        with pytest.raises(ValueError, match=f"`batch_size` must be at least 2, .* for BatchNorm; got {batch_size}"):
            model.fit(X[:n], y[:n], loss="softmax_cross_entropy", batch_size=batch_size)
    assert not model.built


@pytest.mark.parametrize(
    "name, meant",
    [
        ("categorical_crossentropy", "softmax_cross_entropy"),
        ("CrossEntropy", "softmax_cross_entropy"),
        ("MSE", "squared_error"),
        ("bce", "binary_cross_entropy"),
        ("Squared_Error", "squared_error"),
    ],
)
def test_what_others_call_a_loss_is_suggested(name, meant):
    with pytest.raises(ValueError, match=f"Did you mean '{meant}'"):
        classifier().fit(*data(), loss=name)


def test_other_suggestions():
    with pytest.raises(ValueError, match="Did you mean 'sgd'"):
        classifier().fit(*data(), loss="softmax_cross_entropy", optimizer="SGD")
    with pytest.raises(ValueError, match="Did you mean 'glorot_uniform'"):
        Dense(3, kernel_initializer="xavier_uniform")
    with pytest.raises(ValueError, match=r"the class: did you forget \(\)\?"):
        classifier().fit(*data(), loss="softmax_cross_entropy", optimizer=SGD)
    with pytest.raises(TypeError, match=r"the class: did you forget \(\)\?"):
        Sequential(Dense(3), ReLU)
    with pytest.raises(TypeError, match=r"np.unique\(y, return_inverse=True\)"):
        classifier().fit(data()[0], np.full(60, "a"), loss="softmax_cross_entropy")


@pytest.mark.parametrize("through", ["memory", "a file", "a pickle"])
def test_fits_go_on_counting_epochs(through, tmp_path):
    """So orders of rows, masks, noise and mixtures are others in each; plain SGD ends with the bits of one fit."""
    X, y = data()
    layers = [GaussianNoise(0.1), MixUp(0.2), Dense(16), ReLU(), Dropout(0.5), Dense(3)]
    options = {"loss": "softmax_cross_entropy", "optimizer": SGD(0.1), "batch_size": 7, "verbose": 0}
    whole, parts = Sequential(*layers), Sequential(*layers)
    whole.fit(X, y, epochs=6, **options)
    for epochs in (1, 3, 2):
        parts.fit(X, y, epochs=epochs, **options)
        if through == "a file":
            parts.save(tmp_path / "model.safetensors")
            parts = Sequential.load(tmp_path / "model.safetensors")
        elif through == "a pickle":
            parts = pickle.loads(pickle.dumps(parts))
    for name, value in whole.parameters.items():
        np.testing.assert_array_equal(value, parts.parameters[name])
    parts.build(5).fit(X, y, epochs=6, **options)  # anew
    np.testing.assert_array_equal(whole.parameters["dense_0.weight"], parts.parameters["dense_0.weight"])


def test_a_fit_that_fails_leaves_the_model_as_it_was(monkeypatch):
    class Fail(Callback):
        def on_fit_begin(self, training):
            raise RuntimeError("no")

    model, (X, y) = fitted(2), data()
    before, history = model.predict(X), model.history
    assert len(history) == 2
    with pytest.raises(RuntimeError, match="no"):
        model.fit(X, np.zeros((60, 3)), loss="squared_error", callbacks=[Fail()])
    assert model.loss.name == "softmax_cross_entropy" and model.history is history
    np.testing.assert_array_equal(model.predict(X), before)
    new = classifier()
    with pytest.raises(RuntimeError, match="no"):
        new.fit(X, y, loss="softmax_cross_entropy", callbacks=[Fail()])
    assert not new.built and new.loss is None


@pytest.mark.parametrize("n_threads", [0, -1, "a", 1.5])
def test_numbers_of_threads_are_checked_for_few_rows_and_many(n_threads):
    model = fitted(1)
    for X in (np.zeros((2, 5)), np.zeros((20_000, 5))):
        for call in (model.logits, model.predict, lambda X, n: model.evaluate(X, np.zeros(len(X), int), n_threads=n)):
            with pytest.raises((TypeError, ValueError), match="`n_threads` must be an integer of at least 1; got"):
                call(X, n_threads)


def test_parameters_that_are_no_numbers_are_named():
    model = classifier().build(5)
    with pytest.raises(TypeError, match=r"`parameters` must be a dictionary name -> array; got \[1\]"):
        model.set_parameters([1])
    with pytest.raises(ValueError, match="`dense_1.bias` must be an array of numbers"):
        model.set_parameters({"dense_1.bias": ["x"] * 3})


def test_fit_learns_and_reports_every_epoch():
    X, y = data()
    model = classifier()
    history = model.fit(X, y, loss="softmax_cross_entropy", optimizer=Adam(0.01), epochs=40, batch_size=10, verbose=0)
    assert history.epochs == list(range(1, 41))
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert model.evaluate(X, y)["accuracy"] > 0.9
    probabilities = model.predict(X)
    assert probabilities.shape == (60, 3)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)


def test_losses_and_optimizers_by_name_and_by_object():
    from fastmlp import SoftmaxCrossEntropy

    by_name = fitted(loss="softmax_cross_entropy", optimizer="adam").parameters
    by_object = fitted(loss=SoftmaxCrossEntropy(), optimizer=Adam()).parameters
    assert all(np.array_equal(by_name[name], by_object[name]) for name in by_name)


@pytest.mark.parametrize("layers", [[Dense(4), Tanh(), Dense(3)], (Dense(4), Tanh(), Dense(3))])
def test_layers_may_be_given_as_one_sequence(layers):
    assert Sequential(layers).layers == Sequential(*layers).layers == tuple(layers)


def test_one_hot_targets_are_codes():
    X, y = data()
    both = []
    for targets in (y, np.eye(3)[y]):
        model = classifier(dtype="float64")
        model.fit(X, targets, loss="softmax_cross_entropy", epochs=3, batch_size=16, verbose=0)
        both.append(model.parameters)
    assert all(reference.relative_error(both[1][name], both[0][name]) < 1e-9 for name in both[0])


def test_regression_takes_y_of_one_or_two_dimensions():
    X, _ = data()
    y = X[:, 0] - 2 * X[:, 1]
    results = []
    for targets in (y, y[:, None]):
        model = Sequential(Dense(8), Tanh(), Dense(1))
        model.fit(X, targets, loss="squared_error", optimizer=SGD(0.05, 0.9), epochs=50, batch_size=8, verbose=0)
        assert model.evaluate(X, targets).keys() == {"loss"}
        assert model.evaluate(X, targets)["loss"] < 0.05
        assert model.predict(X).shape == (60, 1)
        results.append(model.parameters)
    assert all(np.array_equal(results[0][name], results[1][name]) for name in results[0])


def test_binary_and_multilabel():
    X, _ = data()
    for y in ((X[:, 0] > 0), (X[:, :2] > 0)):
        model = Sequential(Dense(8), ReLU(), Dense(1 if y.ndim == 1 else 2))
        model.fit(X, y, loss="binary_cross_entropy", optimizer=Adam(0.03), epochs=60, batch_size=10, verbose=0)
        p = model.predict(X)
        assert ((p >= 0) & (p <= 1)).all()
        assert ((p > 0.5) == y.reshape(p.shape)).mean() > 0.95
        assert model.evaluate(X, y)["accuracy"] > 0.9


def test_evaluate_against_the_twin():
    model, (X, y) = fitted(), data()
    weights = np.linspace(0, 2, len(X))
    logits, _ = reference.forward(model.layers, model.parameters, X)
    rows, _ = reference.softmax_cross_entropy(logits, y)
    result = model.evaluate(X, y, weights)
    np.testing.assert_allclose(result["loss"], np.average(rows, weights=weights), rtol=1e-5)
    np.testing.assert_allclose(result["accuracy"], np.average(logits.argmax(1) == y, weights=weights), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_few_rows_by_numpy_and_many_by_the_engine_agree(dtype):
    rng = np.random.default_rng(0)
    model = Sequential(Rescaling(0.5, 1), Dense(70), Tanh(), Dense(33), Logistic(), Dense(2), dtype=dtype).build(20)
    X = rng.normal(size=(3000, 20))
    many = model.logits(X)  # above the limit of the NumPy path
    few = np.concatenate([model.logits(X[i : i + 100]) for i in range(0, 3000, 100)])
    expected, _ = reference.forward(model.layers, model.parameters, X)
    tolerance = 1e-12 if dtype == "float64" else 2e-6
    for logits in (many, few):
        assert logits.dtype == dtype
        assert reference.relative_error(logits, expected) < tolerance


def test_predict_does_not_depend_on_threads_or_neighbours():
    model = Sequential(Dense(40), ReLU(), Dense(3)).build(30, seed=1)
    X = np.random.default_rng(0).normal(size=(5000, 30)).astype(np.float32)
    expected = model.logits(X, n_threads=1)
    assert all(np.array_equal(model.logits(X, n_threads=t), expected) for t in (2, 3, None))
    assert np.array_equal(model.logits(X[1000:])[:2000], expected[1000:3000])


@pytest.mark.parametrize(
    "kind", ["list", "float64", "int64", "bool", "float16", "fortran", "strided", "csr", "csc", "big-endian"]
)
def test_every_kind_of_X_trains_alike(kind):
    """Values that every kind holds exactly: so the bits must be equal too."""
    X = np.random.default_rng(0).integers(0, 2, (40, 6)).astype(np.float32)
    y = np.arange(40) % 3
    kinds = {
        "list": lambda: X.tolist(),
        "float64": lambda: X.astype(np.float64),
        "int64": lambda: X.astype(np.int64),
        "bool": lambda: X.astype(bool),
        "float16": lambda: X.astype(np.float16),
        "fortran": lambda: np.asfortranarray(X),
        "strided": lambda: np.repeat(np.repeat(X, 2, axis=0), 3, axis=1)[::2, ::3],
        "csr": lambda: scipy.sparse.csr_matrix(X),
        "csc": lambda: scipy.sparse.csc_array(X),
        "big-endian": lambda: X.astype(">f8"),
    }
    options = {"loss": "softmax_cross_entropy", "epochs": 2, "batch_size": 7, "verbose": 0}
    plain, other = classifier(), classifier()
    plain.fit(X, y, **options)
    given = kinds[kind]()
    other.fit(given, y, **options)
    assert all(np.array_equal(plain.parameters[name], other.parameters[name]) for name in plain.parameters)
    np.testing.assert_allclose(other.predict(given), plain.predict(X), rtol=1e-5)


def test_read_only_memory_map_is_trained_on_and_left_alone(tmp_path):
    X, y = data(200)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    model = classifier()
    model.fit(mapped, y, loss="softmax_cross_entropy", epochs=2, verbose=0)
    assert np.array_equal(np.load(tmp_path / "X.npy"), X)
    model.predict(mapped)


def test_inputs_are_not_changed():
    X, y = data()
    w = np.linspace(0.5, 1, 60)
    before = [a.copy() for a in (X, y, w)]
    model = classifier()
    validation = (X, y, w)
    model.fit(X, y, loss="softmax_cross_entropy", sample_weight=w, validation_data=validation, epochs=2, verbose=0)
    model.evaluate(X, y, w)
    model.gradients(X, y, sample_weight=w)
    assert all(np.array_equal(a, b) for a, b in zip((X, y, w), before, strict=True))


def test_a_second_fit_goes_on_and_seeds_repeat():
    X, y = data()
    options = {"loss": "softmax_cross_entropy", "optimizer": SGD(0.1), "epochs": 3, "batch_size": 16, "verbose": 0}
    first, second = classifier(), classifier()
    first.fit(X, y, **options)
    once = first.parameters
    second.fit(X, y, **options)
    assert all(np.array_equal(once[name], second.parameters[name]) for name in once)
    loss = first.evaluate(X, y)["loss"]
    first.fit(X, y, **options)
    assert first.evaluate(X, y)["loss"] < loss
    other = classifier()
    other.fit(X, y, **options, seed=1)
    assert not np.array_equal(once["dense_0.weight"], other.parameters["dense_0.weight"])


def test_validation_data_is_evaluated_and_not_trained_on():
    X, y = data()
    X_val, y_val = data(20, seed=5)
    options = {"loss": "softmax_cross_entropy", "epochs": 3, "batch_size": 16, "verbose": 0}
    alone, watched = classifier(), classifier()
    alone.fit(X, y, **options)
    history = watched.fit(X, y, validation_data=(X_val, y_val), **options)
    assert all(np.array_equal(alone.parameters[name], watched.parameters[name]) for name in alone.parameters)
    last = watched.evaluate(X_val, y_val)
    np.testing.assert_allclose(history["val_loss"][-1], last["loss"], rtol=1e-5)
    np.testing.assert_allclose(history["val_accuracy"][-1], last["accuracy"], rtol=1e-12)


@pytest.mark.parametrize("kind", [np.asarray, scipy.sparse.csr_array])
def test_a_share_of_the_rows_is_validation_data(kind):
    (X, y), weights = data(), np.linspace(0.5, 2, 60)
    options = {"loss": "softmax_cross_entropy", "epochs": 3, "batch_size": 16, "verbose": 0, "class_weight": "balanced"}
    split, given = classifier(), classifier()
    history = split.fit(kind(X), y, validation_split=0.29, sample_weight=weights, **options)
    validation = X[42:], y[42:], weights[42:]
    expected = given.fit(X[:42], y[:42], validation_data=validation, sample_weight=weights[:42], **options)
    assert history["val_loss"] == expected["val_loss"] and history["loss"] == expected["loss"]
    assert all(np.array_equal(given.parameters[name], split.parameters[name]) for name in given.parameters)


def test_a_share_of_what_belongs_together():
    X, y = data()
    with pytest.raises(ValueError, match="`validation_split` must be 0 where there are `groups`; got 0.5"):
        Sequential(Dense(1)).fit(X, y, groups=y, loss="ranknet", validation_split=0.5)
    labels, late = np.repeat([0, 1, 2], [24, 24, 12]), np.arange(60) >= 48
    softmax, binary = (classifier(), "softmax_cross_entropy"), (Sequential(Dense(1)), "binary_cross_entropy")
    for y, (model, loss) in ((labels, softmax), (np.eye(3)[labels], softmax), (late, binary), (late * 1.0, binary)):
        with pytest.warns(UserWarning, match="holds out the last 12 rows, and with them all of class [12]: ") as record:
            model.fit(X, y, validation_split=0.2, loss=loss, verbose=0)
        assert [warning.filename for warning in record] == [__file__]
    for y, loss in ((np.arange(60), "squared_error"), (np.linspace(0, 1, 60), "binary_cross_entropy")):
        Sequential(Dense(1)).fit(X, y, validation_split=0.2, loss=loss, verbose=0)  # numbers are no classes


def test_batch_size_above_n_means_n():
    X, y = data()
    options = {"loss": "softmax_cross_entropy", "epochs": 3, "verbose": 0, "shuffle": False}
    exact, above = classifier(), classifier()
    exact.fit(X, y, batch_size=60, **options)
    above.fit(X, y, batch_size=1000, **options)
    assert all(np.array_equal(exact.parameters[name], above.parameters[name]) for name in exact.parameters)


def test_networks_of_unusual_shape():
    X, y = data()
    for layers in (
        [Dense(3)],
        [Dense(3, use_bias=False)],
        [Dense(4), Dense(5), Dense(3)],
        [Dense(4), ReLU(), Tanh(), Dense(3)],
        [Rescaling(2.0), Dense(4), Identity(), Dense(3), Identity()],
    ):
        model = Sequential(*layers, dtype="float64")
        options = {"loss": "softmax_cross_entropy", "optimizer": SGD(0.1), "batch_size": 13, "verbose": 0}
        model.build(5, seed=0)
        twin = reference.Twin(model.layers, model.parameters, "softmax_cross_entropy", SGD(0.1))
        model.fit(X, y, epochs=2, shuffle=False, **options)
        for _ in range(2):
            twin.epoch(X, y, reference.in_order(60, 13))
        for name, value in model.parameters.items():
            assert reference.relative_error(value, twin.parameters[name]) < 1e-11, (layers, name)


# Parameters


def test_parameters_are_named_copies_in_order():
    model = classifier().build(5)
    parameters = model.parameters
    assert list(parameters) == ["dense_0.weight", "dense_0.bias", "dense_1.weight", "dense_1.bias"]
    assert [p.shape for p in parameters.values()] == [(5, 16), (16,), (16, 3), (3,)]
    parameters["dense_0.weight"][:] = 7
    assert not (model.parameters["dense_0.weight"] == 7).any()
    model.set_parameters({"dense_1.bias": [1, 2, 3]})
    np.testing.assert_array_equal(model.parameters["dense_1.bias"], [1, 2, 3])
    assert list(model.parameters) == list(parameters)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"dense_0.wieght": np.zeros((5, 16))}, "Did you mean 'dense_0.weight'"),
        ({"dense_0.weight": np.zeros((16, 5))}, r"dense_0.weight.*\(5, 16\).*\(16, 5\)"),
        ({"dense_0.bias": np.full(16, np.nan)}, "dense_0.bias.*finite"),
    ],
)
def test_bad_parameters_are_refused_and_none_is_set(parameters, message):
    model = classifier().build(5)
    before = model.parameters
    with pytest.raises(ValueError, match=message):
        model.set_parameters({"dense_1.bias": np.ones(3), **parameters})
    assert all(np.array_equal(before[name], model.parameters[name]) for name in before)


def test_a_model_prints_compares_nothing_hidden_and_pickles():
    model, (X, _) = fitted(), data()
    assert eval(repr(model)).layers == model.layers
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert np.array_equal(twin.predict(X), model.predict(X))


def test_summary_counts_parameters(capsys):
    text = classifier().build(5).summary()
    assert text in capsys.readouterr().out
    assert "96" in text  # 5 * 16 + 16
    assert "147" in text
    assert "?" in classifier().summary()


# Bad input


def options(**changes):
    return {"loss": "softmax_cross_entropy", "epochs": 1, "batch_size": 10, "verbose": 0} | changes


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["dense", "float64", "csr"])
def test_values_in_X_that_are_not_finite_are_named(value, kind):
    X, y = data()
    X[17, 3] = value
    word = "NaN" if np.isnan(value) else "infinity"
    given = {"dense": X, "float64": X.astype(float), "csr": scipy.sparse.csr_matrix(X)}[kind]
    place = "X.*row 17, column 3"
    for call in (
        lambda: classifier().fit(given, y, **options()),
        lambda: fitted(1).predict(given),
        lambda: fitted(1).evaluate(given, y),
        lambda: fitted(1).gradients(given, y),
    ):
        with pytest.raises(ValueError, match=place) as error:
            call()
        assert word in str(error.value)


def test_large_finite_values_are_not_taken_for_infinity():
    X = np.full((4, 3), 3e38, np.float32)
    model = Sequential(Dense(1, kernel_initializer="zeros")).build(3)
    model.loss = None
    np.testing.assert_array_equal(model.predict(X), 0)


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_values_in_y_that_are_not_finite_are_named(value, word):
    X, _ = data()
    y = X[:, :2].copy()
    y[11, 1] = value
    with pytest.raises(ValueError, match="y.*row 11, column 1") as error:
        Sequential(Dense(2)).fit(X, y, **options(loss="squared_error"))
    assert word in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"X": np.zeros(60)}, ["X", "(60,)", "reshape(-1, 1)"]),
        ({"X": np.zeros((60, 5, 2))}, ["X", "(60, 5, 2)", "X.reshape(len(X), -1)"]),
        ({"X": [[1.0, 2.0], [3.0]]}, ["`X` must have shape (n_samples, n_features)"]),
        ({"X": np.zeros((0, 5)), "y": np.zeros(0, int)}, ["X", "at least one row", "(0, 5)"]),
        ({"X": np.zeros((60, 0))}, ["X", "(60, 0)"]),
        ({"y": np.zeros(59, int)}, ["y", "60 rows", "(59,)"]),
        ({"y": np.zeros((60, 4))}, ["y", "K=3", "(60, 4)"]),
        ({"y": np.full(60, 3)}, ["y", "[0, K)", "got", "3", "row 0"]),
        ({"y": np.arange(60) - 1}, ["y", "-1", "row 0"]),
        ({"y": np.full(60, 0.5)}, ["y", "0.5", "row 0"]),
        ({"sample_weight": np.ones(59)}, ["sample_weight", "60", "(59,)"]),
        ({"sample_weight": -np.ones(60)}, ["sample_weight", "negative", "row 0"]),
        ({"sample_weight": np.zeros(60)}, ["sample_weight", "zero"]),
        ({"sample_weight": np.full(60, np.nan)}, ["sample_weight", "NaN", "row 0"]),
        ({"batch_size": 0}, ["batch_size", "at least 1", "got 0"]),
        ({"batch_size": -3}, ["batch_size", "got -3"]),
        ({"epochs": 0}, ["epochs", "at least 1", "got 0"]),
        ({"n_threads": 0}, ["n_threads", "at least 1", "got 0"]),
        ({"n_threads": -1}, ["n_threads", "got -1"]),
        ({"seed": -1}, ["seed", "got -1"]),
        ({"loss": "softmax_crossentropy"}, ["loss", "Did you mean 'softmax_cross_entropy'", "'squared_error'"]),
        ({"loss": None}, ["loss", "'softmax_cross_entropy'"]),
        ({"optimizer": "rmsprob"}, ["optimizer", "Did you mean 'rmsprop'", "'sgd'"]),
        ({"validation_data": np.zeros((3, 5))}, ["validation_data", "(X, y)"]),
        ({"validation_data": (np.zeros((3, 4)), np.zeros(3, int))}, ["validation_data[0]", "5", "4"]),
        ({"validation_data": (np.zeros((3, 5)), np.zeros(2, int))}, ["validation_data[1]", "3 rows"]),
        ({"validation_split": 1}, ["`validation_split` must be in [0, 1); got 1"]),
        ({"validation_split": 1e-17}, ["`validation_split`=1e-17 of 60 rows leaves none to validate on"]),
        ({"validation_split": 0.999}, ["`validation_split`=0.999 of 60 rows leaves none to train on"]),
        (
            {"validation_split": 0.2, "validation_data": data()},
            ["must be 0 where there are `validation_data`; got 0.2"],
        ),
        (
            {"validation_split": 0.5, "sample_weight": np.repeat([0.0, 1.0], 30)},
            ["`sample_weight, of the first rows,` must not be zero everywhere"],
        ),
        ({"loss": SquaredError}, ["loss", "'squared_error'", "or one Loss object; got <class"]),
        ({"loss": ["hinge", "huber"]}, ["or one Loss object; got ['hinge', 'huber']"]),
        ({"optimizer": Adam}, ["optimizer", "'adam'", "or an optimiser such as Adam(); got <class"]),
        ({"verbose": 7}, ["`verbose` must be 'auto', 0, 1 or 2; got 7"]),
        ({"optimizer": Optimizer()}, ["`optimizer` must be one of 'sgd'", "got Optimizer("]),
        ({"sample_weight": [[1.0], [1.0, 2.0]]}, ["`sample_weight` must be an array"]),
        ({"class_weight": {3: 5.0}}, ["`class_weight` must have classes that y can hold", "got 3"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_bad_arguments_of_fit_are_refused_in_full_sentences(change, words):
    X, y = data()
    arguments = options(X=X, y=y) | change
    model = classifier()
    with pytest.raises(ValueError) as error:
        model.fit(arguments.pop("X"), arguments.pop("y"), **arguments)
    for word in words:
        assert word in str(error.value), str(error.value)
    assert not model.built


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 2.5},
        {"batch_size": "10"},
        {"batch_size": True},
        {"epochs": 1.0},
        {"n_threads": 1.5},
        {"n_threads": "a"},
        {"X": np.full((60, 5), "a")},
        {"X": np.full((60, 5), b"a", object)},
        {"X": np.zeros((60, 5), complex)},
        {"y": np.full(60, "a")},
        {"shuffle": "no"},
        {"class_weight": {"0": 2.0}},
    ],
    ids=str,
)
def test_bad_types_are_refused(change):
    X, y = data()
    arguments = options(X=X, y=y) | change
    with pytest.raises(TypeError, match="must"):
        classifier().fit(arguments.pop("X"), arguments.pop("y"), **arguments)


def test_probabilities_outside_the_unit_interval_are_refused():
    X, _ = data()
    with pytest.raises(ValueError, match=r"\[0, 1\].*1.5.*row 0"):
        Sequential(Dense(1)).fit(X, np.full(60, 1.5), **options(loss="binary_cross_entropy"))


def test_another_number_of_columns_than_at_first_is_refused():
    model, (X, y) = fitted(1), data()
    for call in (lambda: model.predict(X[:, :4]), lambda: model.fit(X[:, :4], y, **options())):
        with pytest.raises(ValueError, match="n_features=5.*got 4"):
            call()


def test_a_model_that_was_not_fitted_says_so():
    X, y = data()
    for call in (
        lambda: classifier().predict(X),
        lambda: classifier().parameters,
        lambda: classifier().evaluate(X, y),
        lambda: classifier().gradients(X, y, "softmax_cross_entropy"),
        lambda: classifier().set_parameters({}),
    ):
        with pytest.raises(ValueError, match="`fit` or `build`"):
            call()


def test_an_activation_is_no_bias():
    for layer in (Dense, GEGLU):
        with pytest.raises(TypeError, match="`use_bias` must be True or False; got 'relu'"):
            layer(3, "relu")


@pytest.mark.parametrize(("last", "loss"), [(Softmax(), "softmax_cross_entropy"), (Logistic(), "binary_cross_entropy")])
def test_a_last_layer_that_the_loss_has_too_is_warned_of(last, loss):
    X, y = data(k=2)
    y = y if loss == "softmax_cross_entropy" else np.eye(2)[y]
    with pytest.warns(UserWarning, match=f"`loss`='{loss}' takes logits and has its own") as warned:
        Sequential(Dense(2), last).fit(X, y, loss=loss, verbose=0)
    assert warned[0].filename == __file__
    Sequential(Dense(2), last, Dense(2)).fit(X, y, loss=loss, verbose=0)
    Sequential(Dense(2), last).fit(X, np.eye(2)[y] if y.ndim == 1 else y, loss="squared_error", verbose=0)


def test_a_given_gradient_of_a_network_with_dropout_is_warned_of():
    X, _ = data()
    for layers in ([Dropout(0.3)], [Residual(Residual(Dense(4), drop_rate=0.2))], [GaussianNoise(0.1)]):
        behind = [] if isinstance(layers[0], GaussianNoise) else [Dense(4)]
        model = Sequential(*(layers if not behind else []), Dense(4), *(layers if behind else []), Dense(2))
        with pytest.warns(UserWarning, match="`loss`='given_gradient' with .*: what it does in the step") as warned:
            model.fit(X, np.ones((len(X), 2)), loss="given_gradient", verbose=0)
        assert warned[0].filename == __file__
        with pytest.warns(UserWarning, match="what it does in the step") as warned:
            model.train_on_batch(X, np.ones((len(X), 2)), loss="given_gradient")
        assert warned[0].filename == __file__
    Sequential(Dense(2)).fit(X, np.ones((len(X), 2)), loss="given_gradient", verbose=0)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_columns_of_a_frame_are_those_of_the_fit(library):
    frames = pytest.importorskip(library, reason=f"{library} is not installed: pip install {library}")
    X, y = data()
    frame = frames.DataFrame({name: X[:, k] for k, name in enumerate("abcde")})
    other, fit = frame[["a", "c", "b", "d", "e"]], {"loss": "softmax_cross_entropy", "epochs": 1, "verbose": 0}
    model = classifier()
    with pytest.raises(ValueError, match=r"`validation_data\[0\]` must have the columns of the fit"):
        model.fit(frame, y, validation_data=(other, y), **fit)
    model.fit(frame, y, validation_data=(frame, y), **fit)
    for use in (
        model.predict, model.logits, model.activations, lambda X: model.evaluate(X, y), lambda X: model.gradients(X, y),
        lambda X: model.input_gradients(X, y), copy.deepcopy(model).predict, model[:3].predict,
    ):  # fmt: skip
        for rows in (frame, X, X.tolist()):
            use(rows)
        with pytest.raises(
            ValueError, match="`X` must have the columns of the fit, in their order; got 'c' where 'b' was"
        ):
            use(other)
    for use in (
        lambda X: model.fit(X, y, **fit),
        lambda X: model.train_on_batch(X, y, loss=fit["loss"]),
        lambda X: diagnose(model, X, y),
        lambda X: find_learning_rate(model, X, y, steps=20),
    ):
        before = model.parameters
        with pytest.raises(ValueError, match="in their order; got 'c' where 'b' was"):
            use(other)
        assert all(np.array_equal(value, before[name]) for name, value in model.parameters.items())
    copy.deepcopy(model).build(5).predict(other)  # another network
    renamed = frames.DataFrame({name: X[:, k] for k, name in enumerate("abxyz")})
    with pytest.raises(ValueError, match="got new: 'x', 'y', 'z'; without 'c', 'd', 'e'"):
        model.predict(renamed)
    model.fit(renamed, y, **fit)  # goes on, with other data
    assert model.predict(renamed).shape == (60, 3)
    model.fit(X, y, **fit)
    model.predict(frame)  # nothing to compare with


def test_a_column_without_numbers_is_named():
    frames = pytest.importorskip("pandas", reason="pandas is not installed: pip install pandas")
    X, y = data()
    frame = frames.DataFrame({name: X[:, k] for k, name in enumerate("abcde")})
    fit = {"loss": "softmax_cross_entropy", "verbose": 0}
    with pytest.raises(TypeError, match="`X` must hold numbers; column 'c' has dtype .*could not convert string"):
        classifier().fit(frame.assign(c=["x"] * 60), y, **fit)
    missing = frame.assign(c=frames.array([1, 2, None] * 20, dtype="Int64"))  # NaN, or what it says of itself
    with pytest.raises((ValueError, TypeError), match="got NaN in row 2, column 2|column 'c' has dtype Int64"):
        classifier().fit(missing, y, **fit)
    whole = frame.assign(c=frames.array([1, 2, 3] * 20, dtype="Int64"))
    expected = classifier().fit(whole.to_numpy(np.float64), y, **fit)
    assert classifier().fit(whole, y, **fit)["loss"] == expected["loss"]


def test_masked_arrays_are_refused():
    X, y = data()
    masks = np.ma.masked_array
    for change in ({"X": masks(X, X > 1)}, {"y": masks(y, y > 1)}, {"sample_weight": masks(np.ones(len(y)), y > 1)}):
        (name,) = change
        with pytest.raises(TypeError, match=f"`{name}` must not be a masked array; fill it"):
            Sequential(Dense(3)).fit(**{"X": X, "y": y, "loss": "softmax_cross_entropy", "verbose": 0} | change)
    for change in ({"X": masks(X, X > 1)}, {"y": masks(y, y > 1)}):
        (name,) = change
        for estimator in (MLPClassifier(), MLPRegressor()):
            with pytest.raises(TypeError, match=f"`{name}` must not be a masked array; fill it"):
                estimator.fit(**{"X": X, "y": y} | change)


def test_hints_for_labels_and_texts():
    X, y = data()
    for labels in (y + 1, y.astype(str)):
        with pytest.raises(
            (ValueError, TypeError), match=r"np.unique\(y, return_inverse=True\) gives classes and codes"
        ):
            Sequential(Dense(3)).fit(X, labels, loss="softmax_cross_entropy", verbose=0)
    with pytest.raises(TypeError, match=r"y.astype\(float\) makes numbers of texts"):
        Sequential(Dense(1)).fit(X, y.astype(str), loss="squared_error", verbose=0)
    with pytest.raises(ValueError, match="`sample_weight` must not be negative; got -1 in row 0.*'given_gradient'"):
        Sequential(Dense(3)).fit(X, y, loss="softmax_cross_entropy", sample_weight=-np.ones(len(y)), verbose=0)


def test_one_row_is_not_taken_for_a_column():
    with pytest.raises(ValueError, match=r"For a single row use X.reshape\(1, -1\)"):
        fitted(1).predict(data()[0][0])


def test_a_text_among_the_numbers_is_quoted():
    with pytest.raises(TypeError, match="`X` must hold numbers; got dtype object .*'oops'"):
        classifier().fit(np.array([[1, 2], [3, "oops"]], object), [0, 1], loss="softmax_cross_entropy")


@pytest.mark.parametrize(
    ("layers", "error"),
    [
        ([], ValueError),
        ([ReLU()], ValueError),
        ([ReLU(), Dense(3)], ValueError),
        ([Dense(3), Rescaling(2.0)], ValueError),
        ([Dense(3), "relu"], TypeError),
        ([3], TypeError),
        ([Dense], TypeError),
    ],
    ids=str,
)
def test_layers_that_are_no_network_are_refused(layers, error):
    with pytest.raises(error):
        Sequential(*layers)


@pytest.mark.parametrize("dtype", ["float16", "int32", "flaot32", None, 3])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(ValueError, match="'float32'.*'float64'"):
        Sequential(Dense(3), dtype=dtype)


# Divergence


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_divergence_names_the_epoch_and_keeps_finite_parameters(dtype):
    from fastmlp import DivergenceError

    X, _ = data(200)
    model = Sequential(Dense(8), Identity(), Dense(8), Identity(), Dense(1), dtype=dtype)
    with pytest.raises(DivergenceError, match="epoch.*learning_rate") as error:
        model.fit(X, X[:, 0], **options(loss="squared_error", optimizer=SGD(1e3), epochs=300))
    assert 1 <= error.value.epoch <= 300
    assert all(np.isfinite(value).all() for value in model.parameters.values())
    with np.errstate(all="ignore"):  # finite, but huge
        model.predict(X)
    copied = pickle.loads(pickle.dumps(error.value))
    assert (str(copied), copied.epoch) == (str(error.value), error.value.epoch)


def test_a_model_too_large_for_memory_says_how_much_it_needs(monkeypatch):
    from fastmlp.engine import executor

    monkeypatch.setattr(executor, "physical_memory", lambda: 2**20)
    X, y = data()
    with pytest.raises(MemoryError, match=r"the model needs 48,\d{3},\d{3} bytes"):
        Sequential(Dense(2000), ReLU(), Dense(2000), ReLU(), Dense(3)).fit(X, y, **options(optimizer="adam"))


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("n", [2, 20_000])  # by NumPy, and by the engine
def test_numbers_beyond_float32_are_named(n, sparse):
    """1e300 is finite in X, but not in a float32 model."""
    X = np.ones((n, 5))
    X[1, 3] = -1e300
    X, place = (scipy.sparse.csr_array(X), "") if sparse else (X, " in row 1, column 3")
    message = rf"`X` must be within float32's range; got -1e\+300{place}\."
    model, estimator = fitted(1), MLPClassifier((30,), max_iter=1, random_state=0)
    with pytest.warns(match="Maximum iterations"):
        estimator.fit(*data())
    assert estimator.coefs_[0].dtype == np.float32
    for predict in (model.predict, estimator.predict, estimator.predict_proba):
        with pytest.raises(ValueError, match=message):
            predict(X)
    with pytest.raises(ValueError, match=message):
        classifier().fit(X, np.arange(n) % 3, loss="softmax_cross_entropy", verbose=0)
    assert np.isfinite(classifier(dtype="float64").build(5).predict(X)).all()


def test_a_loss_may_be_set_by_its_name(rng):
    X, y = rng.normal(size=(20, 3)), rng.integers(0, 2, 20)
    model = Sequential(Dense(1)).build(3)
    model.loss = "binary_cross_entropy"
    assert model.loss == BinaryCrossEntropy()
    assert 0 < model.predict(X).min() < model.predict(X).max() < 1
    assert model.evaluate(X, y)["loss"] > 0
    with pytest.raises(ValueError, match="binary_cross_entropy"):
        model.loss = "binary_crossentropy"
    assert model.loss == BinaryCrossEntropy()
    model.loss = None
    with pytest.raises(ValueError, match="no loss yet"):
        model.evaluate(X, y)


def test_sparse_rows_of_another_kind(rng):
    model = Sequential(Dense(1)).build(3)
    with pytest.raises(TypeError, match="`X` must hold real numbers; got dtype complex128"):
        model.logits(scipy.sparse.csr_matrix(rng.normal(size=(4, 3)) * 1j))
    row = scipy.sparse.coo_array(np.ones(3))
    if row.ndim == 1:  # older SciPy makes a row of it
        with pytest.raises(ValueError, match=r"`X` must have shape \(n_samples, n_features\); got shape \(3,\)"):
            model.logits(row)


def test_weights_that_leave_no_row(rng):
    X, y = rng.normal(size=(6, 3)), np.arange(6) % 2
    options = {"loss": "softmax_cross_entropy", "verbose": 0}
    with pytest.raises(ValueError, match="`class_weight` must not be zero everywhere"):
        Sequential(Dense(2)).fit(X, y, class_weight={0: 0, 1: 0}, **options)
    with pytest.raises(ValueError, match=r"`class_weight \* sample_weight` must not be zero everywhere"):
        Sequential(Dense(2)).fit(X, y, class_weight={0: 0}, sample_weight=1.0 - y, **options)


def test_layers_cannot_be_set():
    model = classifier()
    with pytest.raises(AttributeError, match="`layers` cannot be set: make another Sequential"):
        model.layers = (Dense(3),)
    with pytest.raises(ValueError, match="got 1 in row 0. For one output use loss='binary_cross_entropy'"):
        Sequential(Dense(1)).fit(np.ones((3, 2)), [1, 0, 1], loss="softmax_cross_entropy")


@pytest.mark.parametrize("batch_size", [1, 4, 20])
@pytest.mark.parametrize("of", ["rows", "classes", "an estimator's classes"])
def test_small_batches_descend_the_weighted_mean_of_all_rows(of, batch_size, rng):
    """Short steps of an epoch add up to the gradient of all rows times their number; what weights are scaled by does
    not matter."""
    X, y = rng.normal(size=(20, 3)), np.repeat([0, 1, 2], [12, 6, 2])
    by_class = {0: 0.2, 1: 1.0, 2: 3.0}
    weights = np.array([by_class[k] for k in y]) if of != "rows" else rng.uniform(0, 2, 20)
    rate = 1e-7
    if of == "an estimator's classes":
        options = {"solver": "sgd", "momentum": 0.0, "learning_rate_init": rate, "alpha": 0.0, "random_state": 0}
        options |= {"max_iter": 1, "tol": 0.0, "batch_size": batch_size, "hidden_layer_sizes": ()}
        with pytest.warns(ConvergenceWarning):
            trained = MLPClassifier(class_weight=by_class, **options).fit(X, y)
        start = MLPClassifier(**{**options, "learning_rate_init": 1e-300})
        with pytest.warns(ConvergenceWarning):
            start.fit(X, y)
        model = Sequential(Dense(3), dtype="float64").build(3)
        model.set_parameters({"dense_0.weight": start.coefs_[0], "dense_0.bias": start.intercepts_[0]})
        moved = trained.coefs_[0] - start.coefs_[0]
    else:
        models = [Sequential(Dense(3), dtype="float64").build(3) for _ in range(2)]
        model = Sequential(Dense(3), dtype="float64").build(3)
        for scale, trained in zip((1.0, 7.0), models, strict=True):
            given = {"class_weight": {k: scale * w for k, w in by_class.items()}}
            given = {"sample_weight": scale * weights} if of == "rows" else given
            options = {"loss": "softmax_cross_entropy", "optimizer": SGD(rate), "batch_size": batch_size}
            trained.fit(X, y, **given, **options)
        moved, again = (m.parameters["dense_0.weight"] - model.parameters["dense_0.weight"] for m in models)
        np.testing.assert_allclose(again, moved, rtol=1e-8)
    _, gradients = model.gradients(X, y, "softmax_cross_entropy", sample_weight=weights)
    expected = gradients["dense_0.weight"] / weights.mean()
    np.testing.assert_allclose(moved, -rate * 20 / batch_size * expected, rtol=1e-5)
