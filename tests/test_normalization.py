"""`Normalization`: a network that standardises its columns itself does what one does behind a StandardScaler."""

import copy
import pickle

import numpy as np
import pytest
import scipy.sparse
from sklearn.preprocessing import StandardScaler

from fastmlp import (
    SGD,
    BackupAndRestore,
    Callback,
    Dense,
    MixUp,
    Normalization,
    ReLU,
    Rescaling,
    Residual,
    Sequential,
    SKLearnClassifier,
    diagnose,
    find_learning_rate,
    load_model,
)

OPTIONS = {"loss": "softmax_cross_entropy", "epochs": 4, "batch_size": 32, "verbose": 0}
NAMES = "normalization_0.running_mean", "normalization_0.weight"


def data(n=400, seed=0):
    """Columns of all sizes, one the same in all rows, and far from 0."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 5)) * [1, 30, 1e-3, 200, 0] + [0, 500, 1, -3000, 7]
    return X, np.int64(X[:, 1] - 500 + X[:, 3] / 10 + 300 > 0)


def network(*first, dtype="float64"):
    return Sequential(*first, Dense(16), ReLU(), Dense(2), dtype=dtype)


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-4), ("float64", 1e-10)])
def test_a_fit_is_that_of_rows_behind_a_standard_scaler(dtype, rtol):
    X, y = data()
    X_val, y_val = data(seed=1)
    scaler = StandardScaler().fit(X)
    own, outside = network(Normalization(), dtype=dtype), network(dtype=dtype)
    validation = (X_val, y_val), (scaler.transform(X_val), y_val)
    history = own.fit(X, y, validation_data=validation[0], **OPTIONS)
    expected = outside.fit(scaler.transform(X), y, validation_data=validation[1], **OPTIONS)
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(history[name], expected[name], rtol=rtol)
    np.testing.assert_allclose(own.predict(X_val), outside.predict(scaler.transform(X_val)), rtol=10 * rtol)
    for name, array in outside.parameters.items():
        np.testing.assert_allclose(own.parameters[name], array, rtol=10 * rtol, atol=rtol)


def test_mean_and_variance_are_those_of_the_rows_that_are_trained_on():
    X, y = data()
    model = network(Normalization())
    model.fit(X, y, validation_split=0.25, **OPTIONS)
    before = model.parameters
    np.testing.assert_allclose(before[NAMES[0]], X[:300].mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(before[NAMES[1]][:4], 1 / X[:300, :4].std(axis=0), rtol=1e-9)
    model.fit(2 * X, y, **OPTIONS)  # the second fit goes on with them
    assert all(np.array_equal(model.parameters[name], before[name]) for name in NAMES)
    model.adapt(2 * X)
    np.testing.assert_allclose(model.parameters[NAMES[0]], 2 * X.mean(axis=0), rtol=1e-12)


def test_training_does_not_change_what_it_holds():
    X, y = data()
    model = network(Normalization()).build(5).adapt(X)
    before = model.parameters
    model.fit(X, y, optimizer="sgd", **OPTIONS)
    own = [name for name in before if name.startswith("normalization_0")]
    assert len(own) == 4 and all(np.array_equal(model.parameters[name], before[name]) for name in own)
    assert not any(name in own for name in model.gradients(X, y)[1])


def test_gradients_are_those_behind_a_standard_scaler():
    X, y = data()
    own, outside = network(Normalization()).build(5).adapt(X), network().build(5)
    scaler = StandardScaler().fit(X)
    loss, gradients = own.gradients(X[:50], y[:50], loss="softmax_cross_entropy")
    expected_loss, expected = outside.gradients(scaler.transform(X[:50]), y[:50], loss="softmax_cross_entropy")
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    for name, gradient in expected.items():
        np.testing.assert_allclose(gradients[name], gradient, rtol=1e-9, atol=1e-12)
    of_X = own.input_gradients(X[:3], y[:3], loss="softmax_cross_entropy")
    expected = outside.input_gradients(scaler.transform(X[:3]), y[:3], loss="softmax_cross_entropy")
    np.testing.assert_allclose(of_X, expected / scaler.scale_, rtol=1e-9)


def test_weights_of_rows_and_rows_without_any():
    X, y = data()
    weights = np.random.default_rng(2).integers(0, 4, len(X)).astype(float)
    model = network(Normalization()).build(5).adapt(X, sample_weight=weights)
    repeated = network(Normalization()).build(5).adapt(np.repeat(X, weights.astype(int), axis=0))
    for unit in (1.0, 1e-16, 1e16):
        model.adapt(X, sample_weight=unit * weights)
        for name in NAMES:
            np.testing.assert_allclose(model.parameters[name], repeated.parameters[name], rtol=1e-9)
    weights[3:] = 0
    few = network(Normalization())
    few.fit(X, y, sample_weight=weights, **OPTIONS)
    np.testing.assert_allclose(few.parameters[NAMES[0]], np.average(X, axis=0, weights=weights), rtol=1e-9)


def test_more_rows_than_are_taken_at_a_time(tmp_path):
    """Also of a memory map, and of whole numbers."""
    X = np.random.default_rng(0).integers(0, 255, (70_000, 3), np.uint8)
    weights = np.repeat([0.0, 1.0], [66_000, 4000])  # none of the first rows that are taken together
    np.save(tmp_path / "X.npy", X)
    there = np.load(tmp_path / "X.npy", mmap_mode="r")
    model = Sequential(Normalization(), Dense(2)).build(3).adapt(there)
    np.testing.assert_allclose(model.parameters[NAMES[0]], X.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(model.parameters[NAMES[1]], 1 / X.std(axis=0), rtol=1e-6)
    model.adapt(there, sample_weight=weights)
    np.testing.assert_allclose(model.parameters[NAMES[1]], 1 / X[66_000:].std(axis=0), rtol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "sizes"), [("float32", [1e-24, 1e-19, 1.0, 1e25]), ("float64", [1e-150, 1.0, 1e150])]
)
def test_columns_of_any_size(dtype, sizes):
    Z = np.random.default_rng(0).normal(size=(300, len(sizes)))
    model = Sequential(Normalization(), Dense(2), dtype=dtype).build(len(sizes)).adapt(Z * sizes)
    expected = StandardScaler().fit_transform(Z)
    np.testing.assert_allclose(model.activations(Z * sizes, 0), expected, rtol=1e-4, atol=1e-5)
    tiny = Sequential(Normalization(), Dense(2), dtype=dtype).build(len(sizes)).adapt(Z * sizes[0])
    assert np.isfinite(tiny.logits(Z * sizes[0])).all()
    assert model.parameters[NAMES[0]].dtype == dtype


def test_sparse_rows():
    X, y = data()
    X[np.random.default_rng(0).random(X.shape) < 0.7] = 0
    of_dense, of_sparse = network(Normalization()), network(Normalization())
    expected = of_dense.fit(X, y, **OPTIONS)
    history = of_sparse.fit(scipy.sparse.csr_matrix(X), y, **OPTIONS)
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-9)


def test_files_copies_and_other_models_take_it_along(tmp_path):
    X, y = data()
    model = network(Normalization())
    model.fit(X, y, **OPTIONS)
    model.save(tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.layers[0] == Normalization()
    for other in (loaded, copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model[:]):
        np.testing.assert_array_equal(other.logits(X), model.logits(X))
    fresh = network(Normalization()).build(5)
    with pytest.raises(ValueError, match="has no mean yet"):
        fresh.copy_parameters(model, tau=0.1)
    with pytest.raises(ValueError, match="has no mean yet"):
        model.copy_parameters(fresh, tau=0.1)
    assert not network(Normalization()).copy_parameters(fresh)._adapted
    head = Sequential(*model.layers[:3], Dense(3), dtype="float64").copy_parameters(model, layers=3)
    np.testing.assert_array_equal(head.activations(X, layer=1), model.activations(X, layer=1))


def test_a_fit_that_was_stopped_goes_on_with_the_same_bits(tmp_path):
    X, y = data()
    whole, stopped = network(Normalization()), network(Normalization())
    whole.fit(X, y, **OPTIONS)

    class Stop(Exception):
        pass

    class Stops(Callback):
        def on_epoch_end(self, training, epoch, logs):
            if epoch == 2:
                raise Stop

    backup = BackupAndRestore(tmp_path / "backup.safetensors")
    with pytest.raises(Stop):
        stopped.fit(X, y, callbacks=[backup, Stops()], **OPTIONS)
    again = network(Normalization())
    again.fit(X, y, callbacks=[backup], **OPTIONS)
    assert all(np.array_equal(again.parameters[name], array) for name, array in whole.parameters.items())


def test_before_there_is_a_mean():
    X, y = data()
    model = network(Normalization()).build(5)
    for call in (
        lambda: model.predict(X),
        lambda: model.gradients(X, y, loss="softmax_cross_entropy"),
        lambda: model.activations(X, layer=0),
        lambda: model.train_on_batch(X, y, loss="softmax_cross_entropy"),
        lambda: network(Normalization()).train_on_batch(X, y, loss="softmax_cross_entropy"),
    ):
        with pytest.raises(ValueError, match=r"the Normalization has no mean yet; call `fit`, or `adapt`"):
            call()
    model.adapt(X)
    assert np.isfinite(model.train_on_batch(X, y, loss="softmax_cross_entropy"))


def test_a_fit_that_fails_before_its_first_step_leaves_none():
    X, y = data()

    class Fails(Callback):
        def on_fit_begin(self, training):
            raise RuntimeError

    built, unbuilt = network(Normalization()).build(5), network(Normalization())
    for model in (built, unbuilt):
        with pytest.raises(RuntimeError):
            model.fit(X, y, callbacks=[Fails()], **OPTIONS)
    assert not unbuilt.built and not built.parameters[NAMES[1]].any()
    built.adapt(X)
    kept = built.parameters
    with pytest.raises(ValueError, match="sample_weight"):
        built.adapt(X, sample_weight=-np.ones(len(X)))
    assert all(np.array_equal(built.parameters[name], array) for name, array in kept.items())


def test_where_it_may_stand():
    MESSAGE = r"Normalization\(\) must be the first layer but for augmentation; got it in layer 1"
    for layers in ([Dense(3), Normalization()], [Rescaling(0.1), Normalization()], [ReLU(), Residual(Normalization())]):
        with pytest.raises(ValueError, match=MESSAGE):
            Sequential(*layers, Dense(2))
    X, y = data()
    model = network(MixUp(0.2), Normalization())
    model.fit(X, y, **OPTIONS)
    np.testing.assert_allclose(model.parameters[NAMES[0]], X.mean(axis=0), rtol=1e-12)


def test_what_somebody_from_keras_would_write():
    with pytest.raises(AttributeError, match=r"no attribute 'adapt': mean and deviation are the model's.*adapt\(X\)"):
        Normalization().adapt(data()[0])
    with pytest.raises(TypeError, match=r"Normalization has no argument 'mean': fit sets it, or model.adapt"):
        Normalization(mean=0.0)
    with pytest.raises(ValueError, match="`adapt` needs a Normalization; the first layer is Dense"):
        network().build(5).adapt(data()[0])
    with pytest.raises(ValueError, match="no parameters yet"):
        network(Normalization()).adapt(data()[0])


def test_a_network_that_is_built_is_adapted_by_its_first_fit():
    X, y = data()
    model = network(Normalization()).build(5, seed=3)
    first = model.parameters["dense_0.weight"]
    model.fit(X, y, optimizer="sgd", **OPTIONS | {"epochs": 1})
    np.testing.assert_allclose(model.parameters[NAMES[0]], X.mean(axis=0), rtol=1e-12)
    assert np.abs(model.parameters["dense_0.weight"] - first).max() < 0.5  # the parameters were those


def test_columns_by_name():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    X, y = data()
    frame = pandas.DataFrame(X, columns=[*"abcde"])
    model = network(Normalization())
    model.fit(frame, y, **OPTIONS)
    with pytest.raises(ValueError, match="columns"):
        model.adapt(frame[[*"edcba"]])


def test_a_fit_that_stops_while_it_adapts_leaves_no_network(monkeypatch):
    from fastmlp import sequential

    def stops(X, sample_weight):
        raise KeyboardInterrupt

    (X, y), model = data(), network(Normalization())
    monkeypatch.setattr(sequential, "column_statistics", stops)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y, **OPTIONS)
    assert not model.built and model.loss is None


@pytest.mark.filterwarnings("ignore:.*constant:UserWarning")
def test_diagnoses_rate_tests_and_estimators():
    X, y = data()
    assert diagnose(network(), X, y, loss="softmax_cross_entropy")["inputs"].verdict != "ok"
    for model in (network(Normalization()), network(Normalization()).build(5)):
        assert diagnose(model, X, y, loss="softmax_cross_entropy")["inputs"].verdict == "ok"
        assert find_learning_rate(model, X, y, loss="softmax_cross_entropy", steps=20).suggestion > 0
        assert not (model.built and model._adapted)
    estimator = SKLearnClassifier(network(Normalization()), fit_kwargs={"epochs": 30})
    assert estimator.fit(X, y).score(X, y) > 0.9
    parts = SKLearnClassifier(network(Normalization())).partial_fit(X[:200], y[:200], classes=[0, 1])
    np.testing.assert_allclose(parts.model_.parameters[NAMES[0]], X[:200].mean(axis=0), rtol=1e-12)
    parts.partial_fit(X[200:], y[200:])
    np.testing.assert_allclose(parts.model_.parameters[NAMES[0]], X[:200].mean(axis=0), rtol=1e-12)


def test_partial_fit_keeps_a_network_that_has_learned_and_takes_weights():
    X, y = data()
    learned = network(Normalization())
    learned.fit(2 * X, y, **OPTIONS)
    before = learned.parameters
    estimator = SKLearnClassifier(lambda X, y: learned[:], fit_kwargs={"optimizer": SGD(1e-9)})
    estimator.partial_fit(X, y, classes=[0, 1])
    for name, array in before.items():
        np.testing.assert_allclose(estimator.model_.parameters[name], array, rtol=1e-5, atol=1e-5)
    weights = np.random.default_rng(0).uniform(0, 2, len(X))
    weighted = SKLearnClassifier(network(Normalization()), fit_kwargs={"optimizer": SGD(1e-9)}, random_state=3)
    weighted.partial_fit(X, y, classes=[0, 1], sample_weight=weights)
    np.testing.assert_allclose(
        weighted.model_.parameters[NAMES[0]], np.average(X, axis=0, weights=weights), rtol=1e-9, atol=1e-9
    )
    drawn = network(Normalization()).build(5, weighted._seed).parameters["dense_0.weight"]
    np.testing.assert_allclose(weighted.model_.parameters["dense_0.weight"], drawn, rtol=1e-5, atol=1e-5)
