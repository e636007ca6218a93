"""`Sequential.apply_gradients`: steps of every optimiser by gradients of one's own."""

import copy
import gc
import pickle
import threading
import weakref

import numpy as np
import pytest
from cases import OPTIMIZERS

from fastmlp import (
    GLU,
    SGD,
    Adam,
    AdamW,
    BatchNorm,
    CosineDecay,
    Dense,
    DivergenceError,
    Dropout,
    Embedding,
    LayerNorm,
    PReLU,
    ReLU,
    Residual,
    Sequential,
    StepDecay,
    Tanh,
)

LOSS = "softmax_cross_entropy"
MORE = [
    SGD(0.1, momentum=0.9, clip_norm=0.05),
    Adam(CosineDecay(0.01, steps=10), clip_value=StepDecay(0.01, 0.5, steps=2)),
    AdamW(0.01, weight_decay=0.5, ema_decay=0.5),
]


def data(n=12, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 5)), rng.integers(0, 3, n)


def layers():
    return (
        Dense(18, l2=0.01, learning_rate_multiplier=0.5),
        LayerNorm(),
        PReLU(),
        Residual(Dense(18, max_norm=0.4), ReLU()),
        GLU(7),
        Dense(3, trainable=False),
    )


def assert_same(a, b, **tolerance):
    assert {*a.parameters} == {*b.parameters}
    for name, value in a.parameters.items():
        np.testing.assert_allclose(value, b.parameters[name], err_msg=name, **tolerance)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, *MORE], ids=repr)
def test_a_batchs_own_gradients_are_its_step(optimizer, dtype):
    by_batch, by_hand = (Sequential(*layers(), dtype=dtype).build(5) for _ in range(2))
    for t in range(5):
        X, y = data(seed=t)
        if optimizer.ema_decay is not None and t:  # the step sees the parameters, `gradients` their average
            break
        by_batch.train_on_batch(X, y, loss=LOSS, optimizer=optimizer)
        loss, gradients = by_hand.gradients(X, y, LOSS)
        assert by_hand.apply_gradients(gradients, optimizer=optimizer) is None
        # Adam and its kin divide by the root of a square, which may be small
        assert_same(by_batch, by_hand, **({"rtol": 1e-9, "atol": 1e-10} if dtype == "float64" else {"atol": 2e-3}))


def test_an_average_of_the_parameters_of_all_steps():
    model, rate, decay = Sequential(Dense(1), dtype="float64").build(2), 0.1, 0.5
    p = average = model.parameters["dense_0.weight"]
    for t in range(1, 6):
        g = np.full((2, 1), float(t))
        model.apply_gradients({"dense_0.weight": g, "dense_0.bias": [0.0]}, optimizer=SGD(rate, ema_decay=decay))
        p = p - rate * g
        average = average + (1 - decay) / (1 - decay**t) * (p - average)
        np.testing.assert_allclose(model.parameters["dense_0.weight"], average, rtol=1e-12)


def test_weights_of_rows_count_as_in_a_step():
    X, y = data(40)
    weights = np.arange(40) % 4 / 8.0
    whole, by_hand = (Sequential(Dense(8), Tanh(), Dense(3, l2=0.01), dtype="float64").build(5) for _ in range(2))
    for _ in range(3):
        loss = whole.train_on_batch(X, y, loss=LOSS, optimizer=SGD(0.1), sample_weight=weights)
        value, gradients = by_hand.gradients(X, y, LOSS, weights)
        by_hand.loss = LOSS
        of_rows = by_hand.evaluate(X, y, weights)["loss"]
        penalty = 0.01 * (by_hand.parameters["dense_1.weight"] ** 2).sum()
        np.testing.assert_allclose([value, (of_rows - penalty) * weights.mean() + penalty], loss, rtol=1e-12)
        by_hand.apply_gradients(gradients, optimizer=SGD(0.1))
        assert_same(whole, by_hand, rtol=1e-12)


def test_sums_over_parts_of_a_batch_are_the_batchs():
    X, y = data(40)
    whole, parts = (Sequential(Dense(8), Tanh(), Dense(3), dtype="float64").build(5) for _ in range(2))
    for _ in range(3):
        whole.train_on_batch(X, y, loss=LOSS, optimizer="adam")
        found = [parts.gradients(X[i : i + 10], y[i : i + 10], LOSS)[1] for i in range(0, 40, 10)]
        parts.apply_gradients({name: np.mean([g[name] for g in found], axis=0) for name in found[0]})
        assert_same(whole, parts, rtol=1e-9, atol=1e-12)


def test_tied_weights():
    """Of an autoencoder whose decoder is the encoder's transpose: the gradients of both are one."""
    X = np.random.default_rng(0).normal(size=(60, 2)) @ np.random.default_rng(1).normal(size=(2, 6))
    model, names = Sequential(Dense(2), Dense(6)).build(6), ("dense_0.weight", "dense_1.weight")
    model.set_parameters({names[1]: model.parameters[names[0]].T})
    losses = []
    for _ in range(300):
        loss, gradients = model.gradients(X, X, "squared_error")
        both = gradients[names[0]] + gradients[names[1]].T
        model.apply_gradients(gradients | {names[0]: both, names[1]: both.T}, optimizer=Adam(0.02))
        losses.append(loss)
        assert np.array_equal(model.parameters[names[0]], model.parameters[names[1]].T)
    assert losses[-1] < 0.02 * losses[0]


def test_the_same_bits_for_any_number_of_threads():
    models = [Sequential(Dense(300), ReLU(), Dense(300), Dense(3)).build(5) for _ in range(3)]
    for t in range(3):
        _, gradients = models[0].gradients(*data(seed=t), LOSS)
        for model, n_threads in zip(models, (1, 2, None), strict=True):
            model.apply_gradients(gradients, optimizer=Adam(0.01, clip_norm=0.1), n_threads=n_threads)
        for model in models[1:]:
            assert_same(models[0], model, rtol=0)


def test_the_state_is_kept_until_something_else_comes():
    X, y = data()
    _, gradients = Sequential(Dense(3), dtype="float64").build(5).gradients(X, y, LOSS)
    optimizer = SGD(0.1, momentum=0.9)

    def moved(between=lambda model: None):
        model = Sequential(Dense(3), dtype="float64").build(5)
        model.apply_gradients(gradients, optimizer=optimizer)
        between(model)
        before = model.parameters["dense_0.weight"]
        model.apply_gradients(gradients, optimizer=optimizer)
        return (model.parameters["dense_0.weight"] - before) / (-0.1 * gradients["dense_0.weight"])

    np.testing.assert_allclose(moved(), 1.9, rtol=1e-9)
    keeps = [
        lambda model: model.set_parameters({"dense_0.weight": np.ones((5, 3))}),
        lambda model: model.predict(X),
        lambda model: (copy.deepcopy(model), pickle.loads(pickle.dumps(model))),
    ]
    for between in keeps:
        np.testing.assert_allclose(moved(between), 1.9, rtol=1e-9)
    forgets = [
        lambda model: model.reset_optimizer(),
        lambda model: model.fit(X, y, loss=LOSS, verbose=0),
        lambda model: model.apply_gradients(gradients, optimizer="adam"),
        lambda model: model.build(5),
    ]
    for between in forgets:
        np.testing.assert_allclose(moved(between), 1.0, rtol=1e-9)
    model = Sequential(Dense(3), dtype="float64").build(5)
    model.train_on_batch(X, y, loss=LOSS, optimizer=optimizer)
    twin = copy.copy(model)
    model.apply_gradients(gradients)
    assert model.loss.name == LOSS and not np.array_equal(
        twin.parameters["dense_0.weight"], model.parameters["dense_0.weight"]
    )
    twin.train_on_batch(X, y)  # its own loss, the same moments
    assert np.isfinite(twin.predict(X)).all()


def test_embeddings_and_what_a_batch_norm_has_run_through():
    codes, y = np.random.default_rng(0).integers(0, 4, (12, 2)), data()[1]
    by_batch, by_hand = (
        Sequential(Embedding(4, 3), Dense(8), BatchNorm(), Dense(3), dtype="float64").build(2) for _ in range(2)
    )
    running = by_hand.parameters["batch_norm_0.running_mean"]
    for _ in range(2):
        by_batch.train_on_batch(codes, y, loss=LOSS, optimizer=SGD(0.1))
        by_hand.apply_gradients(by_hand.gradients(codes, y, LOSS)[1], optimizer=SGD(0.1))
    for name in by_batch.parameters.keys() - {f"batch_norm_0.running_{what}" for what in ("mean", "var")}:
        np.testing.assert_allclose(by_hand.parameters[name], by_batch.parameters[name], rtol=1e-9, atol=1e-12)
    assert np.array_equal(by_hand.parameters["batch_norm_0.running_mean"], running)


def test_gradients_are_the_same_whatever_was_computed_before():
    """What one call has set up serves the next."""
    model, other = Sequential(*layers()).build(5), Sequential(Dense(3)).build(5)
    rng = np.random.default_rng(0)
    for t in range(12):
        X, y = data((12, 12, 7)[t % 3], seed=t)
        X = X.astype(("float32", "float64")[t % 2])
        weights = rng.uniform(size=len(X)) if t % 4 == 1 else None
        if t % 5 == 0:
            model.set_parameters({"dense_0.bias": rng.normal(size=18)})
        loss = ("squared_error", LOSS)[t % 6 > 0]
        y = np.eye(3)[y] if loss == "squared_error" else y
        other.gradients(X, y, loss)
        value, gradients = model.gradients(X, y, loss, weights)
        fresh, expected = Sequential(*layers()).copy_parameters(model).gradients(X, y, loss, weights)
        assert value == fresh and {*gradients} == {*expected}
        assert all(np.array_equal(gradients[name], array) for name, array in expected.items())
        model.apply_gradients(gradients)
    X, y = data()
    _, before = model.gradients(X, y, LOSS)
    assert np.isnan(model.gradients(X, np.full((12, 3), 3e38), "squared_error")[0])
    assert np.array_equal(model.gradients(X, y, LOSS)[1]["dense_0.weight"], before["dense_0.weight"])
    twin = pickle.loads(pickle.dumps(model))
    assert np.array_equal(twin.gradients(X, y, LOSS)[1]["dense_0.weight"], before["dense_0.weight"])


def test_gradients_as_in_training():
    model, x, y = Sequential(Dropout(0.5), Dense(1, use_bias=False), dtype="float64").build(40), np.ones((1, 40)), [3.0]
    masks = []
    for seed in (0, 1, 0):
        loss, gradients = model.gradients(x, y, "squared_error", training=True, seed=seed)
        w, g = model.parameters["dense_0.weight"], gradients["dense_0.weight"]
        mask = g != 0
        error = 2 * w[mask].sum() - y[0]
        np.testing.assert_allclose(g[mask], 2 * error, rtol=1e-12)
        np.testing.assert_allclose(loss, error**2 / 2, rtol=1e-12)
        masks.append(mask)
    assert 10 < masks[0].sum() < 30 and np.array_equal(masks[0], masks[2]) and not np.array_equal(masks[0], masks[1])
    assert (model.gradients(x, y, "squared_error")[1]["dense_0.weight"] != 0).all()
    X, y = data()
    model = Sequential(Dense(4, trainable=False), BatchNorm(), Dense(3)).build(5)
    before = model.parameters
    gradients = model.gradients(X, y, LOSS, training=True)[1]
    frozen = {"dense_0.weight", "dense_0.bias"}
    assert {name for name, gradient in gradients.items() if not gradient.any()} == frozen
    assert gradients.keys() - frozen == {"batch_norm_0.weight", "batch_norm_0.bias", "dense_1.weight", "dense_1.bias"}
    assert all(np.array_equal(value, before[name]) for name, value in model.parameters.items())
    for wrong in ({"training": 1}, {"training": True, "seed": -1}):
        with pytest.raises((ValueError, TypeError), match="`(training|seed)` must be"):
            model.gradients(X, y, LOSS, **wrong)


def test_what_gradients_keep():
    """Rows are let go and workers end; models are not kept alive, nor is more than is allowed for all of them."""
    from fastmlp import gradients
    from fastmlp.prediction import KEPT_BYTES

    def kept():
        return sum(training.plan.n_bytes for _, training in gradients._set_up[False].values())

    X, y = data(64)
    model, before = Sequential(Dense(400), ReLU(), Dense(3)).build(5), threading.active_count()
    rows = weakref.ref(X)
    model.gradients(X, y, LOSS)
    assert model in gradients._set_up[False] and threading.active_count() == before
    del X
    gc.collect()
    assert rows() is None
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    many = np.zeros((20_000, 5), np.float32), np.zeros(20_000, int)
    models = [Sequential(Dense(256), ReLU(), Dense(256), ReLU(), Dense(3)).build(5) for _ in range(4)]
    for model in models:
        model.gradients(*many, LOSS)
        assert 0 < kept() <= KEPT_BYTES
    models[0].gradients(np.zeros((60_000, 5), np.float32), np.zeros(60_000, int), LOSS)
    assert models[0] not in gradients._set_up[False]
    ranking = Sequential(Dense(1)).build(5)
    ranking.gradients(*data(12), "ranknet", groups=np.arange(12) // 4)
    assert ranking not in gradients._set_up[False]


def test_what_acts_in_training_does_so_whatever_was_computed_before():
    model, x = Sequential(Dropout(0.5), Dense(1, use_bias=False), dtype="float64").build(40), np.ones((1, 40))
    for _ in range(2):
        assert (model.gradients(x, [3.0], "squared_error")[1]["dense_0.weight"] != 0).all()
        assert (model.gradients(x, [3.0], "squared_error", training=True)[1]["dense_0.weight"] == 0).any()


@pytest.mark.parametrize("numbers", [(1, 2, None), (2, 1, 2)])
def test_the_state_outlives_another_number_of_threads(numbers):
    (X, y), optimizer = data(), SGD(0.1, momentum=0.9, ema_decay=0.5)
    models = [Sequential(Dense(3)).build(5) for _ in range(4)]
    for n_threads in numbers:
        _, gradients = Sequential(Dense(3)).build(5).gradients(X, y, LOSS)
        models[0].apply_gradients(gradients, optimizer=optimizer)
        models[1].apply_gradients(gradients, optimizer=optimizer, n_threads=n_threads)
        models[2].train_on_batch(X, y, loss=LOSS, optimizer=optimizer)
        models[3].train_on_batch(X, y, loss=LOSS, optimizer=optimizer, n_threads=n_threads)
    assert_same(models[0], models[1], rtol=0)
    assert_same(models[2], models[3], rtol=0)


def test_what_is_refused_leaves_the_optimiser_as_it_was():
    X, y = data()
    model = Sequential(Dense(3), dtype="float64").build(5)
    _, gradients = model.gradients(X, y, LOSS)
    model.apply_gradients(gradients, optimizer=SGD(0.1))
    for bad, words in (({}, "is missing"), (gradients | {"dense_0.bias": [np.nan] * 3}, "must be finite")):
        with pytest.raises(ValueError, match=words):
            model.apply_gradients(bad, optimizer=SGD(9.0))
    before = model.parameters["dense_0.bias"]
    model.apply_gradients(gradients)
    np.testing.assert_allclose(model.parameters["dense_0.bias"], before - 0.1 * gradients["dense_0.bias"], rtol=1e-12)


def test_gradients_keep_nothing_of_an_optimiser():
    X, y = data()
    model = Sequential(Dense(3)).build(5)
    model.train_on_batch(X, y, loss=LOSS, optimizer="adam")
    model.gradients(X, y)
    from fastmlp import gradients

    assert gradients._set_up[False][model][1]._model._loop.kept is None
    assert copy.copy(model)._loop.kept is not None


def test_bad_gradients():
    model = Sequential(Dense(2), Dense(3, trainable=False)).build(4)
    good = {"dense_0.weight": np.ones((4, 2)), "dense_0.bias": [1, 2]}
    before = model.parameters
    for bad, words in (
        ({"dense_0.weight": good["dense_0.weight"]}, "`gradients` must have one for each parameter; 'dense_0.bias' is"),
        (good | {"dense_0.wieght": 1}, "`gradients`.*Did you mean 'dense_0.weight'"),
        (
            good | {"dense_0.bias": np.ones(3)},
            r"\['dense_0.bias'\] must be numbers of shape \(2,\); got float64 of shape",
        ),
        (good | {"dense_0.bias": ["a", "b"]}, "must be numbers of shape"),
        (good | {"dense_0.bias": [1.0, np.nan]}, r"\['dense_0.bias'\] must be finite in float32"),
        (good | {"dense_0.bias": [1.0, 1e39]}, "must be finite in float32"),
    ):
        with pytest.raises(ValueError, match=words):
            model.apply_gradients(bad)
    with pytest.raises(TypeError, match=r"`gradients\['dense_0.bias'\]` must not be a masked array"):
        model.apply_gradients(good | {"dense_0.bias": np.ma.masked_equal([1.0, 2.0], 1.0)})
    with pytest.raises(TypeError, match=r"`gradients` must be a dictionary name -> array; got \[1\]"):
        model.apply_gradients([1])
    with pytest.raises(ValueError, match="no parameters yet"):
        Sequential(Dense(1)).apply_gradients({})
    with pytest.raises(ValueError, match="`optimizer` must be one of"):
        model.apply_gradients(good, optimizer="lbfgs")
    with pytest.raises(ValueError, match="there is nothing to train"):
        Sequential(Dense(1, trainable=False)).build(2).apply_gradients({})
    assert all(np.array_equal(value, before[name]) for name, value in model.parameters.items())
    model.apply_gradients(good | {"dense_1.bias": np.ones(3)})  # of a frozen layer: of no consequence
    assert np.array_equal(model.parameters["dense_1.bias"], before["dense_1.bias"])
    kept = model.parameters
    with pytest.raises(DivergenceError, match="step 1 diverged: a parameter is no longer finite"):
        model.apply_gradients({"dense_0.weight": np.full((4, 2), 3e38), "dense_0.bias": [0, 0]}, optimizer=SGD(1e3))
    assert_same(model, Sequential(*model.layers).copy_parameters(model), rtol=0)
    np.testing.assert_array_equal(model.parameters["dense_0.weight"], kept["dense_0.weight"])
