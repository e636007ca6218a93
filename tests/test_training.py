"""Whole training runs against the naive twin, from equal parameters over equal batches.

Shapes, kinds of X and options come from hypothesis (`cases.py`).
"""

import platform
from unittest import mock

import numpy as np
import pytest
import reference
from cases import OPTIMIZERS, SOURCES, Case, as_targets, cases, examples, train
from hypothesis import given, strategies as st
from scipy import sparse

import fastmlp.training
from fastmlp import SGD, Adam, BatchNorm, Dense, Dropout, ExponentialDecay, ReLU, Sequential
from fastmlp.evaluation import Evaluation
from fastmlp.training import Training

# What one update may differ by: relative to the largest change, plus roundings of the parameter itself.
TOLERANCE = {"float64": (1e-9, 1e-15), "float32": (1e-3, 2e-7)}


def assert_equal_runs(case, parameters, twin, before, steps):
    relative, rounding = TOLERANCE[case.dtype]
    for name, value in parameters.items():
        expected = twin.parameters[name]
        change = np.abs(expected - before[name]).max()
        bound = relative * change + rounding * np.sqrt(steps) * np.abs(expected).max()
        worst = np.abs(value - expected).max()
        assert worst <= bound, f"{name}: {worst:.3g} off, {bound:.3g} allowed, changed by {change:.3g}"


def run_against_twin(case, epochs=2, n_threads=1):
    model, (X, y, weights) = case.model(), case.data()
    before, twin = model.parameters, case.twin(model)
    batches = reference.in_order(case.n, case.batch_size)
    expected = [twin.epoch(X, as_targets(case, y), batches, weights) for _ in range(epochs)]
    parameters, losses = train(case, epochs, n_threads)
    assert_equal_runs(case, parameters, twin, before, epochs * len(batches))
    np.testing.assert_allclose(losses, expected, rtol=1e-10 if case.dtype == "float64" else 2e-4, atol=1e-6)


@given(cases())
def test_any_shape_against_the_twin(case):
    run_against_twin(case)


@examples(15)
@given(cases(), st.integers(2, 5))
def test_several_threads_against_the_twin(case, n_threads):
    run_against_twin(case, n_threads=n_threads)


@examples(60)
@given(cases(), st.sampled_from([2, 2, 2, 3, 3, 8, None, None]))  # 8 rarely: they crawl where others need the cores
def test_the_same_bits_for_any_number_of_threads(case, n_threads):
    expected, losses = train(case, n_threads=1, shuffle=True, seed=3)
    parameters, others = train(case, n_threads=n_threads, shuffle=True, seed=3)
    assert np.array_equal(losses, others)
    for name, value in expected.items():
        assert np.array_equal(value, parameters[name]), name


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize("loss", sorted(reference.LOSSES))
def test_every_loss_with_every_optimizer(loss, optimizer, dtype):
    case = Case(50, 20, (33, 17, 3), ("tanh", "relu", "identity"), loss, optimizer, 16, dtype=dtype, weights="zeros")
    run_against_twin(case, epochs=3)


@pytest.mark.parametrize("n_outputs", [1, 2, 31, 33, 70])
@pytest.mark.parametrize("activation", sorted(reference.ACTIVATIONS))
def test_every_activation_with_narrow_and_wide_outputs(activation, n_outputs):
    names = (activation,) * 3
    run_against_twin(Case(40, 9, (16, 5, n_outputs), names, "squared_error", Adam(1e-3), 7, last_activation=True))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("n_features", [127, 256, 257, 1030])
def test_products_deeper_than_a_block(n_features, dtype):
    """Of 16 KiB of a panel: 128 to 512 terms, by the width of vectors; the sums go on from C."""
    case = Case(20, n_features, (530, 300, 3), ("relu", "tanh", "identity"), "squared_error", SGD(1e-3), 7, dtype=dtype)
    run_against_twin(case)
    expected, losses = train(case, n_threads=1)
    parameters, others = train(case, n_threads=3)
    assert np.array_equal(losses, others)
    assert all(np.array_equal(value, parameters[name]) for name, value in expected.items())


def test_small_epsilon_of_adam_in_float64():
    run_against_twin(
        Case(64, 12, (40, 3), ("tanh", "identity"), "squared_error", Adam(0.01, epsilon=1e-8), 16), epochs=5
    )


@pytest.mark.parametrize("source", SOURCES)
def test_every_kind_of_X(source):
    run_against_twin(Case(45, 37, (20, 4), ("relu", "identity"), "softmax_cross_entropy", SGD(0.1), 10, source=source))


def test_columns_without_entries_and_empty_rows_of_csr():
    import scipy.sparse

    X = scipy.sparse.csr_matrix(np.diag([0.0, 2.0, 0.0, 3.0])[:, :4])
    dense, sparse = (Sequential(Dense(3), dtype="float64").build(4, seed=0) for _ in range(2))
    y = np.arange(12.0).reshape(4, 3)
    for model, data in ((dense, X.toarray()), (sparse, X)):
        options = {"loss": "squared_error", "optimizer": SGD(0.1), "batch_size": 3}
        with Training(model, data, y, **options) as training:
            training.run(epochs=3)
    for name, value in dense.parameters.items():
        assert np.array_equal(value, sparse.parameters[name])


def test_entries_that_csr_holds_twice_add_up():
    import scipy.sparse

    X = scipy.sparse.csr_matrix(([1.0, 2.0, 4.0, 8.0], [0, 1, 1, 0], [0, 3, 4]), shape=(2, 3))
    model = Sequential(Dense(2), dtype="float64").build(3, seed=0)
    expected = model.parameters["dense_0.weight"].T @ X.toarray().T
    assert X.nnz == 4
    np.testing.assert_allclose(model.logits(X), expected.T, rtol=1e-12)  # by NumPy
    with Training(model, X, np.zeros((2, 2)), loss="squared_error", optimizer=SGD(0.1), batch_size=2) as training:
        np.testing.assert_allclose(training.logits(X), expected.T, rtol=1e-12)  # by the engine


# Order of rows


def test_an_epoch_sees_every_row_once_in_a_new_order(rng):
    """SGD on a linear model with one-hot rows: row i moves weight i alone, and only at its own step."""
    n = 23
    model = Sequential(Dense(1, use_bias=False, kernel_initializer="zeros"), dtype="float64").build(n, seed=0)
    X, y = np.eye(n), np.ones((n, 1))
    with Training(model, X, y, loss="squared_error", optimizer=SGD(0.5), batch_size=1, seed=1) as training:
        training.run(epochs=1)
        training.save_parameters()
        np.testing.assert_allclose(model.parameters["dense_0.weight"], 0.5)
        training.run(epochs=3)
    np.testing.assert_allclose(model.parameters["dense_0.weight"], 1 - 0.5**4)


def shuffled_parameters(seed, epochs=2, runs=1):
    case = Case(60, 5, (8, 2), ("tanh", "identity"), "squared_error", SGD(0.1), 7)
    model, (X, y, _) = case.model(), case.data()
    options = {"loss": case.loss, "optimizer": case.optimizer, "batch_size": 7, "seed": seed}
    with Training(model, X, y, **options) as training:
        for _ in range(runs):
            training.run(epochs=epochs)
    return model.parameters["dense_0.weight"]


def test_the_order_comes_from_the_seed_and_the_epoch():
    assert np.array_equal(shuffled_parameters(0), shuffled_parameters(0))
    assert not np.array_equal(shuffled_parameters(0), shuffled_parameters(1))
    assert np.array_equal(shuffled_parameters(0, epochs=1, runs=4), shuffled_parameters(0, epochs=4, runs=1))


# Sample weights


def test_weight_zero_is_absence_and_weight_two_is_twice():
    case = Case(30, 6, (9, 3), ("tanh", "identity"), "softmax_cross_entropy", SGD(0.1), 30)
    (X, y, _), w = case.data(), np.arange(30) % 3
    X = X.astype(np.float64)
    repeated = np.repeat(np.arange(30), w)
    results = []
    for rows, weights in ((np.arange(30), w.astype(float)), (repeated, None)):
        model = case.model()
        options = {"loss": case.loss, "optimizer": case.optimizer, "batch_size": len(rows), "shuffle": False}
        with Training(model, X[rows], y[rows], sample_weight=weights, **options) as training:
            losses = training.run(epochs=5)
        results.append((losses, model.parameters))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-12)
    for name, value in results[0][1].items():
        np.testing.assert_allclose(value, results[1][1][name], rtol=1e-9, atol=1e-13)


def test_a_batch_without_any_weight_changes_nothing_by_itself():
    case = Case(9, 4, (5, 2), ("tanh", "identity"), "squared_error", SGD(0.1), 3, l2=0.1)
    X, y, _ = case.data()
    weights = np.r_[1.0, 1, 1, 0, 0, 0, 1, 1, 1]
    model = case.model()
    twin = case.twin(model)
    options = {"loss": case.loss, "optimizer": case.optimizer, "batch_size": 3, "shuffle": False, "l2": case.l2}
    with Training(model, X, y, sample_weight=weights, **options) as training:
        losses = training.run(epochs=2)
    expected = [twin.epoch(X, y, reference.in_order(9, 3), weights) for _ in range(2)]
    np.testing.assert_allclose(losses, expected, rtol=1e-10)
    for name, value in model.parameters.items():
        np.testing.assert_allclose(value, twin.parameters[name], rtol=1e-9, atol=1e-13)


# Values besides the updates


@examples(20)
@given(cases(sources=["float32", "float64", "uint8", "csr", "sparse", "memmap"]))
def test_logits_and_loss_against_the_twin(case):
    model, (X, y, weights) = case.model(), case.data()
    logits, tape = reference.forward(model.layers, model.parameters, X)
    y = as_targets(case, y)
    rows = reference.LOSSES[case.loss](logits, y)[0] + reference.activity_penalties(model.layers, tape)
    w = np.ones(case.n) if weights is None or not weights.sum() else weights
    options = {"loss": case.loss, "optimizer": case.optimizer, "batch_size": case.batch_size}
    tolerance = 1e-11 if case.dtype == "float64" else 1e-4
    with Training(model, X, y, n_threads=2, **options) as training:
        assert reference.relative_error(training.logits(X), logits) < tolerance
        np.testing.assert_allclose(training.loss_of(X, y, w), np.average(rows, weights=w), rtol=tolerance, atol=1e-6)
        metrics = {"loss": training.loss_of(X, y, w)}
        if training.loss.classification:
            metrics["accuracy"] = training.loss.accuracy(training.logits(X), y, w)
        assert training.metrics_of(X, y, w) == metrics
        beside = Evaluation(model, X, y, w, loss=training.loss, logits=True)
        beside.loss()
        assert np.array_equal(beside.output, training.logits(X))  # the loss may write over them, after they were noted
        beside.close()
        one = X[:1] if not isinstance(X, np.ndarray) else np.ascontiguousarray(X[:1])
        assert reference.relative_error(training.logits(one), logits[:1]) < tolerance


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("loss", sorted(reference.LOSSES))
@pytest.mark.parametrize("activation", sorted(reference.ACTIVATIONS))
@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e-8, 50.0, 1e4, 1e12])
def test_magnitudes_from_subnormal_to_saturated(scale, activation, loss, dtype, rng):
    """Values of X, so of the first z: exp must neither overflow nor lose its sign, and nothing may become NaN."""
    if activation == "sine" and scale > 100:
        pytest.skip("the phase of z has few digits left")
    case = Case(20, 6, (9, 3), (activation, "identity"), loss, SGD(0.1), 20, dtype=dtype)
    model, (_, y, _) = case.model(), case.data()
    X = (rng.normal(size=(20, 6)) * scale).astype(dtype)
    y = as_targets(case, y)
    logits, _ = reference.forward(model.layers, model.parameters, X)
    rows, _ = reference.LOSSES[loss](logits, y)
    _, expected = reference.loss_and_gradients(model.layers, model.parameters, X, y, loss)
    tolerance = 1e-11 if dtype == "float64" else 1e-4
    with Training(model, X, y, loss=loss, optimizer=SGD(0.1), batch_size=20) as training:
        assert reference.relative_error(training.logits(X), logits) < tolerance
        np.testing.assert_allclose(training.loss_of(X, y), rows.mean(), rtol=tolerance)
    value, gradients = model.gradients(X, y, loss)
    np.testing.assert_allclose(value, rows.mean(), rtol=tolerance)
    # 1 - a^2 of a saturated tanh is 0 up to an eps, which the weights' gradient multiplies by X
    floor = 4 * np.finfo(dtype).eps * max(scale, 1e-30)
    for name, g in gradients.items():
        np.testing.assert_allclose(
            g, expected[name], rtol=tolerance, atol=tolerance * np.abs(expected[name]).max() + floor
        )


@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_step_flushes_denormals_and_leaves_the_mode_as_it_was(n_threads):
    """An operation with a denormal takes 150 cycles on some processors. Here it is a weight of 1e-20 * 1e-20."""
    if platform.machine().lower() not in ("x86_64", "amd64", "arm64", "aarch64"):
        pytest.skip(f"denormals are not flushed on {platform.machine()}")
    X, y = np.full((64, 1), 1e-20, np.float32), np.full((64, 1), 1e-20, np.float32)
    model = Sequential(Dense(1, kernel_initializer="zeros", use_bias=False), dtype="float32").build(1, seed=0)
    with Training(
        model, X, y, loss="squared_error", optimizer=SGD(1.0), batch_size=64, n_threads=n_threads
    ) as training:
        training.run(epochs=1)
        training.save_parameters()
    assert model.parameters["dense_0.weight"][0, 0] == 0.0
    assert np.float32(1e-20) * np.float32(1e-20) != 0.0


@examples(25)
@given(cases(dtypes=["float64"]))
def test_gradients_against_the_twin_and_finite_differences(case):
    model, (X, y, weights) = case.model(), case.data()
    weights = None if weights is None or not weights.sum() else weights
    loss, gradients = model.gradients(X, y, loss=case.loss, sample_weight=weights)
    expected_loss, expected = reference.loss_and_gradients(model.layers, model.parameters, X, y, case.loss, weights)
    by_rows = 1.0 if weights is None else weights.mean()  # sums over rows are divided by their number
    expected_loss, expected = by_rows * expected_loss, {name: by_rows * g for name, g in expected.items()}
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-11)
    assert list(gradients) == list(model.parameters)
    largest = max(np.abs(g).max() for g in expected.values())
    for name, g in gradients.items():
        np.testing.assert_allclose(g, expected[name], rtol=1e-9, atol=1e-12 * largest)
    rng = np.random.default_rng(case.seed)
    theta = model.parameters
    direction = {name: rng.normal(size=value.shape) for name, value in theta.items()}
    size = np.sqrt(sum((d**2).sum() for d in direction.values()))

    def loss_at(step):
        model.set_parameters({name: theta[name] + step / size * direction[name] for name in theta})
        return model.gradients(X, y, loss=case.loss, sample_weight=weights)[0]

    slope = sum((gradients[name] * direction[name]).sum() for name in theta) / size
    h = 1e-5
    numeric = (loss_at(h) - loss_at(-h)) / (2 * h)
    length = np.sqrt(sum((g**2).sum() for g in gradients.values()))
    # a ReLU whose kink lies within h of a row bends the difference by a share of h: hence not tighter
    assert abs(slope - numeric) <= 1e-5 * length + 1e-8


def test_csr_of_strided_parts_is_read_right():
    """SciPy keeps views; the engine reads by address."""
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(40, 6)) * (rng.random((40, 6)) < 0.5)
    X = sparse.csr_matrix(dense)
    parts = [np.repeat(part, 2)[::2] for part in (X.data, X.indices, X.indptr)]
    strided = sparse.csr_matrix(tuple(parts[:3]), shape=X.shape)
    y = rng.normal(size=40)
    results = []
    for data in (X, strided):
        model = Sequential(Dense(5), ReLU(), Dense(1), dtype="float64")
        model.fit(data, y, loss="squared_error", epochs=3, verbose=0)
        results.append(model.parameters)
    assert all(np.array_equal(results[0][name], results[1][name]) for name in results[0])


def test_csr_with_indices_outside_is_refused():
    X = sparse.csr_matrix((np.ones(3), [0, 1, 5], [0, 1, 2, 3]), shape=(3, 2))
    with pytest.raises(ValueError, match="indices must be|index values must be"):
        Sequential(Dense(1)).fit(X, [0.0, 1.0, 2.0], loss="squared_error", verbose=0)


@pytest.mark.parametrize("factor", [1e-50, 1e39])
def test_weights_beyond_the_models_dtype(factor):
    rng = np.random.default_rng(0)
    X, y, weights = rng.normal(size=(30, 4)), rng.normal(size=30), rng.random(30)
    losses = []
    for unit in (1.0, factor):
        model = Sequential(Dense(5), ReLU(), Dense(1))
        history = model.fit(X, y, loss="squared_error", epochs=3, sample_weight=weights * unit, verbose=0)
        losses.append(history["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


@pytest.mark.parametrize("n_outputs", [2, 5, 40])
def test_nan_in_any_logit_is_noticed(n_outputs):
    """A class that is neither the label nor the first has a NaN weight: the loss must say so."""
    X, y = np.ones((8, 3)), np.zeros(8, int)
    model = Sequential(Dense(n_outputs)).build(3)
    model._arrays["dense_0.bias"][-1] = np.nan
    loss, gradients = model.gradients(X, y, "softmax_cross_entropy")
    assert np.isnan(loss) and np.isnan(gradients["dense_0.weight"]).all()


def test_gradients_have_the_same_names_where_the_loss_is_nan():
    model = Sequential(Dense(3), BatchNorm(), ReLU(), Dense(2)).build(2)
    X, y = np.ones((2, 2), np.float32), np.array([0, 1])
    _, gradients = model.gradients(X, y, "softmax_cross_entropy")
    model._arrays = model._arrays | {"dense_1.bias": np.full(2, np.nan, np.float32)}
    loss, broken = model.gradients(X, y, "softmax_cross_entropy")
    assert np.isnan(loss) and list(broken) == list(gradients)
    assert {name: a.shape for name, a in broken.items()} == {name: a.shape for name, a in gradients.items()}


@examples(30)
@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.sampled_from([None, 0.01, 0.003]), st.integers(0, 7)), min_size=1, max_size=12
    ),
    st.sampled_from([7, 40]),
    st.booleans(),
)
def test_epochs_in_any_portions_are_the_same(portions, batch_size, scheduled):
    """What is prepared for later epochs holds until somebody sets another rate, or Ctrl-C ends an epoch half done."""
    rng = np.random.default_rng(3)
    X, y, weights = rng.normal(size=(40, 5)).astype(np.float32), rng.integers(0, 3, 40), rng.uniform(0.5, 2, 40)
    options = {"loss": "softmax_cross_entropy", "batch_size": batch_size, "sample_weight": weights, "seed": 4}
    fits = []
    for ahead in (64, 0):
        model = Sequential(Dense(9), ReLU(), Dropout(0.3), Dense(3)).build(5, seed=1)
        optimizer = Adam(ExponentialDecay(0.01, 0.9, epochs=1) if scheduled else 0.01)
        losses = []
        with mock.patch.object(fastmlp.training, "AHEAD", ahead):
            with Training(model, X, y, optimizer=optimizer, **options) as training:
                for epochs, rate, steps in portions:
                    if rate is not None:
                        training.learning_rate = rate
                    for some in [1] * epochs if ahead else [epochs]:
                        losses.extend(training.run(some))
                    interrupt(training, steps)
                assert training.epoch == sum(epochs for epochs, _, _ in portions)
        fits.append((losses, model.parameters))
    assert fits[0][0] == fits[1][0]
    for name, value in fits[0][1].items():
        assert np.array_equal(value, fits[1][1][name])


def interrupt(training, steps):
    """Ctrl-C after so many steps of an epoch, if it has more."""
    if 0 < steps < training.steps_per_epoch:
        run = training.executor.run

        def interrupted(table, n_workers, meanwhile):
            run(table[:steps], n_workers)
            raise KeyboardInterrupt

        with mock.patch.object(training.executor, "run", interrupted), pytest.raises(KeyboardInterrupt):
            training._chooser.cost = dict.fromkeys(training._chooser.cost, 1e-9)  # so that the epoch is one run
            training.run(1)


@pytest.mark.parametrize(
    ("seconds", "most", "together"),
    [(0.0, 9, 1), (1.0, 9, 1), (0.013, 9, 2), (0.004, 9, 8), (1e-6, 9, 9), (1e-6, 99, 64)],
)
def test_epochs_make_one_call_by_powers_of_two(seconds, most, together):
    X, y = np.zeros((20, 3), np.float32), np.arange(20) % 3
    options = {"loss": "softmax_cross_entropy", "optimizer": "sgd", "batch_size": 4}
    with Training(Sequential(Dense(3)).build(3), X, y, n_threads=1, **options) as training:
        training._chooser.cost = {1: seconds / 20}  # a row
        training._chooser.trials = {1: 9}
        assert training.epochs_together(most) == together


def test_the_accuracy_of_rows_beside_a_loss_that_is_not_finite(monkeypatch):
    monkeypatch.setattr("fastmlp.evaluation.ROWS", 4)
    X, y = np.tile([[0.0], [2.0], [3e38], [2.0], [0.0], [2.0]], (3, 1)).astype(np.float32), np.tile([1, 0], 9)
    model = Sequential(Dense(2)).build(1)
    model.set_parameters({"dense_0.weight": [[9.0, -9.0]], "dense_0.bias": [-9.0, 9.0]})
    with Training(model, X, y, loss="softmax_cross_entropy", optimizer="sgd", batch_size=4) as training:
        metrics = training.metrics_of(X, y)
    assert np.isnan(metrics["loss"]) and metrics["accuracy"] == 15 / 18


def test_the_penalty_beside_a_loss_is_that_of_the_average():
    rng = np.random.default_rng(0)
    X, y, layer = rng.normal(size=(20, 3)), np.arange(20) % 3, Dense(3, l2=0.1)
    options = {"loss": "softmax_cross_entropy", "optimizer": SGD(0.5, ema_decay=0.9), "batch_size": 4}
    with Training(Sequential(layer, dtype="float64").build(3), X, y, **options) as training:
        training.run(2)
        loss, parameters = training.loss_of(X, y), training.model.parameters
        assert training.metrics_of(X, y)["loss"] == loss
    model = Sequential(Dense(3), dtype="float64").build(3)
    model.set_parameters(parameters)
    with Training(model, X, y, **options) as training:
        assert loss == pytest.approx(training.loss_of(X, y) + layer.penalty(parameters["dense_0.weight"]), rel=1e-12)
