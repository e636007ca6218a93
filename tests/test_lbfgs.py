"""`fit(optimizer="lbfgs")`: SciPy's L-BFGS with the engine's gradients, as any other fit."""

import numpy as np
import pytest
import reference
from scipy.optimize import minimize
from sklearn.linear_model import Ridge

from fastmlp import (
    LBFGS,
    Adam,
    BackupAndRestore,
    BatchNorm,
    Callback,
    Dense,
    DivergenceError,
    Dropout,
    EarlyStopping,
    Embedding,
    GaussianNoise,
    LayerNorm,
    MixUp,
    PReLU,
    ReduceLROnPlateau,
    Residual,
    Sequential,
    SKLearnRegressor,
    Softplus,
    SwiGLU,
    Tanh,
    TimeBudget,
    find_learning_rate,
)

rng = np.random.default_rng(3)
X = rng.uniform(-1, 1, (120, 3))
Y = np.sin(3 * X[:, 0]) * X[:, 1] + 0.1 * X[:, 2]
CLASSES = (Y > 0).astype(np.int64) + (Y > 0.3)


def network(dtype="float64", width=6, outputs=1):
    return Sequential(Dense(width), Tanh(), Dense(outputs), dtype=dtype)


def fitted(model, *, y=Y, loss="squared_error", optimizer="lbfgs", epochs=20, **options):
    return model, model.fit(X, y, loss=loss, optimizer=optimizer, epochs=epochs, **options)


def test_iterations_are_scipys_of_the_twin():
    """From equal parameters, with weights and penalties: the loss of each iteration, and the parameters in the end."""
    weights = rng.uniform(0.5, 2, len(X))
    layers = (Dense(6, l2=0.01), Tanh(), Dense(1))
    model = Sequential(*layers, dtype="float64").build(3)
    names, start = list(model.parameters), model.parameters

    def named(theta):
        parts = np.split(theta, np.cumsum([start[name].size for name in names])[:-1])
        return {name: part.reshape(start[name].shape) for name, part in zip(names, parts, strict=True)}

    def twin(theta):
        parameters = named(theta)
        loss, gradients = reference.loss_and_gradients(layers, parameters, X, Y[:, None], "squared_error", weights)
        return loss, np.concatenate([gradients[name].ravel() for name in names])

    losses = []
    options = {"maxiter": 15, "maxcor": 4}
    theta = np.concatenate([start[name].ravel() for name in names])
    found = minimize(
        twin,
        theta,
        jac=True,
        method="L-BFGS-B",
        options=options,
        callback=lambda intermediate_result: losses.append(intermediate_result.fun),
    )
    _, history = fitted(model, optimizer=LBFGS(maxcor=4), epochs=15, sample_weight=weights)
    np.testing.assert_allclose(history["loss"], losses, rtol=1e-8)
    for name, expected in named(found.x).items():
        np.testing.assert_allclose(model.parameters[name], expected, rtol=1e-6, atol=1e-9)


def test_ridge_regression_in_closed_form():
    model, history = fitted(
        Sequential(Dense(1, l2=0.05), dtype="float64"), optimizer=LBFGS(gtol=1e-10, ftol=0.0), epochs=200
    )
    ridge = Ridge(alpha=2 * 0.05 * len(X)).fit(X, Y)  # of half squares' mean
    # a weight that is wrong by 1e-8 changes the loss by 1e-16, which a line search cannot see
    np.testing.assert_allclose(model.parameters["dense_0.weight"].ravel(), ridge.coef_, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(model.parameters["dense_0.bias"], ridge.intercept_, rtol=1e-7)
    assert len(history) < 200  # and then it was done


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_bits_for_any_number_of_threads(dtype):
    (one, first), (two, second) = (fitted(network(dtype, 40), n_threads=n) for n in (1, 2))
    assert first["loss"] == second["loss"]
    for name, value in one.parameters.items():
        assert np.array_equal(value, two.parameters[name])


@pytest.mark.parametrize(
    ("layers", "frozen"),
    [
        ([Dense(8, trainable=False), Tanh(), Dense(3)], {"dense_0.weight", "dense_0.bias"}),
        (
            [Dense(8), BatchNorm(trainable=False), Tanh(), Dense(3)],
            {f"batch_norm_0.{what}" for what in ("weight", "bias", "running_mean", "running_var")},
        ),
        (
            [SwiGLU(8), LayerNorm(trainable=False), Dense(8), PReLU(), Dense(3)],
            {"layer_norm_0.weight", "layer_norm_0.bias"},
        ),
        ([Dense(8), Residual(Softplus(), Dense(8, l1=0.001)), Dense(3, use_bias=False)], set()),
    ],
    ids=["frozen", "batch norm", "gates and norms", "residual"],
)
def test_any_layers_and_what_is_frozen_stays(layers, frozen):
    model = Sequential(*layers).build(3)
    before = model.parameters
    _, history = fitted(model, y=CLASSES, loss="softmax_cross_entropy", epochs=30, validation_data=(X, CLASSES))
    assert (np.diff(history["loss"]) <= 0).all() and history["loss"][-1] < 0.95 * history["loss"][0]
    assert {name for name, value in model.parameters.items() if np.array_equal(value, before[name])} == frozen
    assert history["val_loss"][-1] == pytest.approx(history["loss"][-1], rel=1e-5)
    assert history["val_accuracy"][-1] == model.evaluate(X, CLASSES)["accuracy"]


def test_embeddings_weights_of_classes_and_queries():
    codes = rng.integers(0, 5, (120, 2))
    model = Sequential(Embedding(5, 3), Dense(16), Tanh(), Dense(3))
    labels = (codes[:, 0] + codes[:, 1]) % 3
    history = model.fit(
        codes, labels, loss="softmax_cross_entropy", optimizer="lbfgs", epochs=200, class_weight="balanced"
    )
    assert history["loss"][-1] < 0.01 and model.evaluate(codes, labels)["accuracy"] == 1.0
    groups = np.repeat(np.arange(12), 10)
    _, history = fitted(network(), y=CLASSES, loss="ranknet", groups=groups, validation_data=(X, CLASSES, groups))
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert history["val_loss"][-1] == pytest.approx(history["loss"][-1], rel=1e-9)


def test_it_ends_where_the_loss_falls_no_more_and_goes_on_from_there():
    model, history = fitted(network(), optimizer=LBFGS(ftol=1e-4), epochs=1000)
    assert 3 < len(history) < 1000 and model.history is history
    assert history["loss"][-2] - history["loss"][-1] < 1e-4 * max(1.0, history["loss"][-2])
    assert set(history.metrics) == {"loss", "seconds"}
    loss = model.evaluate(X, Y)["loss"]
    assert loss == pytest.approx(history["loss"][-1], rel=1e-12)
    _, more = fitted(model)
    assert more["loss"][-1] < loss
    fitted(model, optimizer=Adam(1e-4), epochs=1)  # and by batches
    assert len(model.history) == 1


def test_a_network_at_its_minimum_has_a_history_too():
    model, _ = fitted(Sequential(Dense(1), dtype="float64"), optimizer=LBFGS(gtol=1e-9, ftol=0.0), epochs=200)
    before, watching = model.parameters, Watching()
    _, history = fitted(model, optimizer=LBFGS(gtol=1e-3), callbacks=[watching])
    assert len(history) == 1 and history["loss"][0] == pytest.approx(model.evaluate(X, Y)["loss"], rel=1e-12)
    assert len(watching.seen) == 1 and watching.ended == 1
    assert all(np.array_equal(value, before[name]) for name, value in model.parameters.items())

    class Ending(Callback):
        def on_fit_begin(self, training):
            training.stop = True

    assert len(fitted(network(), callbacks=[Ending()])[1]) == 0


class Watching(Callback):
    def __init__(self, action=None):
        self.seen, self.action, self.ended = [], action, 0

    def on_epoch_end(self, training, epoch, logs):
        self.seen.append((epoch, logs["loss"], training.model.evaluate(X, Y)["loss"]))
        if epoch == 3 and self.action is not None:
            self.action(training)

    def on_fit_end(self, training, history):
        self.ended += 1


def test_callbacks_see_every_iteration_and_may_end_it():
    watching, stopping = Watching(), EarlyStopping(patience=3)
    _, history = fitted(network(), epochs=300, validation_data=(X[:4], Y[:4]), callbacks=[watching, stopping])
    assert [epoch for epoch, _, _ in watching.seen] == list(range(1, len(history) + 1))
    for _, loss, evaluated in watching.seen:
        assert evaluated == pytest.approx(loss, rel=1e-9)
    model, history = fitted(network(), callbacks=[Watching(lambda training: setattr(training, "stop", True))])
    assert len(history) == 3
    assert len(fitted(network(), epochs=300, callbacks=[TimeBudget(1e-9)])[1]) == 1
    best = EarlyStopping(monitor="val_loss", patience=2)
    model, history = fitted(network(), epochs=300, validation_data=(-X[:9], Y[:9]), callbacks=[best])
    assert len(history) < 300  # on other rows the loss rises
    assert model.evaluate(-X[:9], Y[:9])["loss"] == pytest.approx(min(history["val_loss"]), rel=1e-9)


def test_an_interrupt_leaves_the_last_iteration():
    def interrupt(training):
        raise KeyboardInterrupt

    watching, model = Watching(interrupt), network()
    with pytest.raises(KeyboardInterrupt):
        fitted(model, callbacks=[watching])
    assert watching.ended == 1 and len(model.history) == 3
    assert model.evaluate(X, Y)["loss"] == pytest.approx(model.history["loss"][-1], rel=1e-12)


def test_what_does_not_go_with_it_is_refused(tmp_path):
    for layer in (Dropout(0.5), GaussianNoise(0.1), MixUp()):
        model = Sequential(layer, Dense(1))
        with pytest.raises(ValueError, match=r"LBFGS\(.*\) needs a loss that depends on the parameters alone"):
            fitted(model)
        assert not model.built and model.loss is None
    with pytest.raises(ValueError, match=r"LBFGS\(.*\) needs norms of rows, such as LayerNorm; got BatchNorm"):
        fitted(Sequential(Dense(3), BatchNorm(), Dense(1)))
    with pytest.raises(ValueError, match="`max_norm` must be None with LBFGS.*got Dense"):
        fitted(Sequential(Residual(Dense(3, max_norm=1.0)), Dense(1)))
    with pytest.raises(ValueError, match="`learning_rate_multiplier` must be 1.0 with LBFGS"):
        fitted(Sequential(Dense(1, learning_rate_multiplier=0.1)))
    for callback in (ReduceLROnPlateau(), BackupAndRestore(tmp_path / "fit.safetensors")):
        with pytest.raises(ValueError, match=f"`callbacks` cannot have {type(callback).__name__}"):
            fitted(network(), callbacks=[callback])
    with pytest.raises(ValueError, match="`device` must be one of"):
        fitted(network(), device="gpu")
    with pytest.raises(ValueError, match="device='cuda' is for optimisers that take batches"):
        fitted(network(), device="cuda")
    for call in (
        lambda: network().train_on_batch(X, Y, loss="squared_error", optimizer="lbfgs"),
        lambda: find_learning_rate(network(), X, Y, loss="squared_error", optimizer=LBFGS()),
    ):
        with pytest.raises(ValueError, match="`optimizer` must be one of 'sgd'"):
            call()
    for bad in ({"maxcor": 0}, {"gtol": -1.0}, {"ftol": float("nan")}):
        with pytest.raises(ValueError, match=f"`{next(iter(bad))}` must be"):
            LBFGS(**bad)
    with pytest.raises(ValueError, match="Did you mean 'lbfgs'"):
        fitted(network(), optimizer="lbfg")


def test_a_loss_that_is_not_finite_from_the_start():
    model = Sequential(Dense(1)).build(3)
    before = model.parameters
    with pytest.raises(DivergenceError, match="lbfgs diverged in iteration 1"):
        fitted(model, y=np.full(120, 3e38))
    for name, value in before.items():
        assert np.array_equal(model.parameters[name], value)


def test_in_an_estimator():
    options = {"fit_kwargs": {"optimizer": LBFGS(), "epochs": 300}, "random_state": 0}
    estimator = SKLearnRegressor(network("float32"), **options).fit(X, Y)
    assert estimator.score(X, Y) > 0.99
