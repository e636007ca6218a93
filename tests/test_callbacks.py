"""Callbacks on made-up metrics, and on real fits."""

import csv
import math
import sys

import numpy as np
import pytest
import reference
from scipy.sparse import csr_array

from fastmlp import (
    SGD,
    BackupAndRestore,
    Callback,
    CSVLogger,
    Dense,
    Dropout,
    EarlyStopping,
    GradientNorms,
    History,
    Metrics,
    ModelCheckpoint,
    ReLU,
    Sequential,
    TimeBudget,
    TrainingAccuracy,
    load_model,
)

NAN = math.nan


class FakeTraining:
    """Parameters that say which epoch they are from."""

    def __init__(self):
        self.stop, self.parameters = False, 0

    def snapshot(self):
        return self.parameters

    def restore(self, snapshot):
        self.parameters = snapshot


def run(callback, values, monitor="val_loss"):
    """The epochs that a fit with these metrics would run, as `Sequential.fit` runs them."""
    training, history = FakeTraining(), History()
    callback.on_fit_begin(training)
    for epoch, value in enumerate(values, 1):
        training.parameters = epoch
        logs = {"loss": 1.0, monitor: value}
        history.record(epoch, logs)
        callback.on_epoch_end(training, epoch, logs)
        if training.stop:
            break
    callback.on_fit_end(training, history)
    return training, len(history)


@pytest.mark.parametrize(
    "values, patience, epochs, best",
    [
        ([3, 2, 1], 1, 3, 3),
        ([1, 2, 3], 1, 2, 1),
        ([1, 2, 3, 4], 2, 3, 1),
        ([3, 4, 2, 4, 4, 1], 2, 5, 3),
        ([1, 1, 1], 1, 2, 1),  # equal is no improvement
        ([NAN, 2, NAN, 1], 2, 4, 4),
        ([NAN, NAN, 1], 2, 2, None),
        ([2, NAN, NAN, 1], 2, 3, 1),
        ([NAN, 5, 6], 2, 3, 2),  # NaN first does not stand in the way of the first number
        ([math.inf, 1, 2], 1, 3, 2),
        ([-math.inf, NAN], 1, 2, 1),
    ],
)
def test_smaller_is_better(values, patience, epochs, best):
    stopping = EarlyStopping(patience=patience)
    training, ran = run(stopping, values)
    assert ran == epochs and stopping.best_epoch_ == best
    assert training.parameters == (best or epochs)
    assert stopping.best_ == (None if best is None else values[best - 1])
    assert stopping.stopped_epoch_ == (epochs if training.stop else None)


@pytest.mark.parametrize("monitor", ["val_accuracy", "accuracy", "val_score", "auc", "val_r2"])
def test_larger_is_better_by_name(monitor):
    stopping = EarlyStopping(monitor, patience=2)
    training, ran = run(stopping, [0.1, 0.3, NAN, 0.2, 0.9], monitor)
    assert (ran, training.parameters, stopping.best_) == (4, 2, 0.3)


def test_mode_overrides_the_name():
    assert run(EarlyStopping("accuracy", 1, mode="min"), [0.5, 0.6], "accuracy")[0].parameters == 1
    assert run(EarlyStopping("val_loss", 1, mode="max"), [0.5, 0.6, 0.1])[0].parameters == 2


def test_min_delta():
    stopping = EarlyStopping(patience=2, min_delta=0.25)
    training, ran = run(stopping, [1.0, 0.75, 0.76, 0.5])  # 0.75 is not *less* than 1 - 0.25
    assert ran == 3 and stopping.best_epoch_ == 1


def test_without_restoring():
    training, ran = run(EarlyStopping(patience=1, restore_best=False), [1, 2])
    assert training.parameters == ran == 2


def test_a_second_fit_starts_afresh():
    stopping = EarlyStopping(patience=1)
    run(stopping, [1, 2])
    training, ran = run(stopping, [5, 4, 6])
    assert ran == 3 and stopping.best_ == 4 and training.parameters == 2


def test_unknown_monitor():
    with pytest.raises(ValueError, match="needs `validation_data` in fit, or a callback before .*; there is 'loss'"):
        EarlyStopping().on_epoch_end(FakeTraining(), 1, {"loss": 1.0})
    with pytest.raises(ValueError, match="Did you mean 'val_accuracy'\\?$"):
        EarlyStopping("val_acc").on_epoch_end(FakeTraining(), 1, {"val_loss": 1.0, "val_accuracy": 1.0})
    with pytest.raises(TypeError, match="`min_delta` must be a number; got '0'"):
        EarlyStopping(min_delta="0")
    with pytest.raises(ValueError, match="Did you mean 'loss'"):
        EarlyStopping("los").on_epoch_end(FakeTraining(), 1, {"loss": 1.0})


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"patience": 0}, "`patience` must be an integer of at least 1; got 0"),
        ({"patience": 2.5}, "`patience`.*got 2.5"),
        ({"patience": True}, "`patience`.*got True"),
        ({"min_delta": -1}, r"`min_delta` must be in \[0, inf\); got -1"),
        ({"min_delta": NAN}, "`min_delta`.*got nan"),
        ({"mode": "mni"}, "`mode`.*'mni'.*Did you mean 'min'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        EarlyStopping(**arguments)


def test_base_class_does_nothing():
    training, ran = run(Callback(), [1, 2])
    assert ran == 2 and not training.stop


# On real fits


@pytest.fixture
def problem(rng):
    X = rng.normal(size=(120, 5)).astype(np.float32)
    return X, (X[:, 0] > 0).astype(int)


class Recorder(Callback):
    """Keeps the calls and the parameters after each epoch."""

    def __init__(self):
        self.calls, self.parameters = [], {}

    def on_fit_begin(self, training):
        self.calls.append("begin")

    def on_epoch_end(self, training, epoch, logs):
        self.calls.append(epoch)
        self.parameters[epoch] = training.snapshot()

    def on_fit_end(self, training, history):
        self.calls.append("end")
        self.history = history


def small_model():
    return Sequential(Dense(8), ReLU(), Dense(2))


def test_the_order_of_calls(problem):
    recorder = Recorder()
    history = small_model().fit(*problem, loss="softmax_cross_entropy", epochs=3, callbacks=[recorder])
    assert recorder.calls == ["begin", 1, 2, 3, "end"]
    assert recorder.history is history and history.epochs == [1, 2, 3]


def test_an_error_before_the_first_step_leaves_no_random_network(problem):
    class Broken(Recorder):
        def on_fit_begin(self, training):
            raise RuntimeError("no")

    model = small_model()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no"):
            model.fit(*problem, loss="softmax_cross_entropy", epochs=3, callbacks=[Broken()])
        assert not model.built
    model.fit(*problem, loss="softmax_cross_entropy", epochs=1)
    before = model.parameters
    with pytest.raises(RuntimeError, match="no"):  # a fitted one stays as it is
        model.fit(*problem, loss="softmax_cross_entropy", epochs=3, callbacks=[Broken()])
    assert all(np.array_equal(value, model.parameters[name]) for name, value in before.items())


def test_a_fit_that_gets_worse_stops_and_goes_back(problem):
    X, y = problem
    model, stopping = small_model(), EarlyStopping(patience=3)
    # Validation labels are the opposite of the training labels: epoch 1 or so is the best.
    fit = {"loss": "softmax_cross_entropy", "validation_data": (X, 1 - y)}
    history = model.fit(X, y, epochs=50, callbacks=[stopping], **fit)
    assert len(history) == stopping.best_epoch_ + 3 == stopping.stopped_epoch_ < 50
    assert model.evaluate(X, 1 - y)["loss"] == pytest.approx(min(history["val_loss"]), rel=1e-5)
    again = small_model()
    again.fit(X, y, epochs=stopping.best_epoch_, **fit)
    for name, value in model.parameters.items():
        np.testing.assert_array_equal(value, again.parameters[name])


def test_any_callback_can_stop(problem):
    class StopAt(Callback):
        def on_epoch_end(self, training, epoch, logs):
            training.stop = epoch == 2

    model = small_model()
    assert len(model.fit(*problem, loss="softmax_cross_entropy", epochs=9, callbacks=[StopAt()])) == 2
    assert len(model.fit(*problem, loss="softmax_cross_entropy", epochs=1)) == 1  # the stop does not outlive its fit


def test_the_end_is_called_when_a_callback_raises(problem):
    class Raise(Callback):
        def on_epoch_end(self, training, epoch, logs):
            raise RuntimeError("mine")

    recorder, model = Recorder(), small_model()
    with pytest.raises(RuntimeError, match="mine"):
        model.fit(*problem, loss="softmax_cross_entropy", epochs=9, callbacks=[recorder, Raise()])
    assert recorder.calls == ["begin", 1, "end"]
    assert all(np.isfinite(value).all() for value in model.parameters.values())


def test_what_a_callback_adds_is_in_the_history_and_seen_by_the_next(problem):
    class Add(Callback):
        def on_epoch_end(self, training, epoch, logs):
            logs["mine"] = -epoch
            if epoch == 4:
                raise RuntimeError("mine")

    recorder, stopping = Recorder(), EarlyStopping("mine", patience=1, mode="min")
    with pytest.raises(RuntimeError, match="mine"):
        small_model().fit(
            *problem, loss="softmax_cross_entropy", epochs=5, callbacks=[Add(), stopping, recorder], seed=3
        )
    assert stopping.best_ == -3 and recorder.history["mine"] == [-1, -2, -3, -4]


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradient_norms_are_those_of_the_twin(problem, weighted, sparse):
    X, y = problem
    weights = np.arange(len(X)) % 3 / 2 if weighted else None
    some = np.flatnonzero(np.ones(len(X)) if weights is None else weights)  # what weighs nothing tells nothing
    rows = some[np.unique(np.linspace(0, len(some) - 1, 50).astype(int))]
    model, recorder = small_model(), Recorder()
    history = model.fit(
        csr_array(X) if sparse else X,
        y,
        sample_weight=weights,
        loss="softmax_cross_entropy",
        optimizer="sgd",
        epochs=3,
        callbacks=[GradientNorms(50), recorder],
    )
    for epoch in (1, 3):
        again = small_model()
        again.fit(X, y, sample_weight=weights, loss="softmax_cross_entropy", optimizer="sgd", epochs=epoch)
        some = None if weights is None else weights[rows]
        of_step = 1.0 if weights is None else some.mean() / weights.mean()  # steps divide by the mean of all weights
        _, gradients = reference.loss_and_gradients(
            again.layers, again.parameters, X[rows], y[rows], "softmax_cross_entropy", some
        )
        for k in range(2):
            expected = of_step * np.linalg.norm(gradients[f"dense_{k}.weight"])
            np.testing.assert_allclose(history[f"gradient_norm_dense_{k}"][epoch - 1], expected, rtol=1e-4)


def test_gradient_norms_change_no_bit_of_the_fit(problem):
    fit = {"loss": "softmax_cross_entropy", "epochs": 4, "batch_size": 32}
    model, watched = (Sequential(Dropout(0.2), Dense(8), ReLU(), Dense(2), dtype="float32") for _ in range(2))
    plain = model.fit(*problem, **fit)
    history = watched.fit(*problem, **fit, callbacks=[GradientNorms()])
    assert history["loss"] == plain["loss"]
    for name, value in model.parameters.items():
        np.testing.assert_array_equal(value, watched.parameters[name])
    assert set(history.metrics) - set(plain.metrics) == {"gradient_norm_dense_0", "gradient_norm_dense_1"}
    assert repr(GradientNorms()) == "GradientNorms(n_rows=256)"


def test_a_fit_may_be_stopped_before_it_begins(problem):
    class Stop(Callback):
        def on_fit_begin(self, training):
            training.stop = True

    model = Sequential(Dense(3)).build(problem[0].shape[1])
    before = model.parameters["dense_0.weight"]
    assert len(model.fit(*problem, loss="softmax_cross_entropy", epochs=3, callbacks=[Stop()])) == 0
    np.testing.assert_array_equal(model.parameters["dense_0.weight"], before)


def test_methods_that_nobody_calls_are_refused(problem):
    class Keras(Callback):
        def on_train_end(self, logs=None):
            pass

    with pytest.raises(TypeError, match="nobody calls on_train_end of .*; there are on_epoch_end, on_fit_begin"):
        Sequential(Dense(3)).fit(*problem, loss="softmax_cross_entropy", callbacks=[Keras()])


def test_methods_that_take_something_else_are_refused_before_the_first_epoch(problem):
    class Keras(Callback):
        def on_epoch_end(self, epoch, logs=None):
            pass

    class Batches(Callback):
        def on_train_batch_end(self, batch, logs=None):
            pass

    class Any(Callback):
        seen = 0

        def on_epoch_end(self, *args):
            self.seen += 1

        def on_fit_end(self, training, history, more=None):
            self.seen += 10

    message = r"on_epoch_end of .* is called with \(training, epoch, logs\); it takes \(epoch, logs=None\)"
    model, options = Sequential(Dense(3)), {"loss": "softmax_cross_entropy", "epochs": 2}
    with pytest.raises(TypeError, match=message):
        model.fit(*problem, **options, callbacks=[Keras()])
    with pytest.raises(TypeError, match="The losses of an epoch's batches are in training.step_losses"):
        model.fit(*problem, **options, callbacks=[Batches()])
    assert not model.built
    one = Any()
    model.fit(*problem, **options, callbacks=[one])
    assert one.seen == 12


@pytest.mark.parametrize("weighted", [False, True])
def test_training_accuracy_is_that_of_the_network_after_the_epoch(problem, weighted):
    X, y = problem
    fit = {"loss": "softmax_cross_entropy", "epochs": 3, "batch_size": 32}
    fit |= {"sample_weight": np.arange(len(X)) % 3 / 2 if weighted else None}
    plain, model, few = (Sequential(Dropout(0.5), Dense(8), ReLU(), Dense(3)) for _ in range(3))
    plain.fit(X, y, **fit)
    whole = third = fit["sample_weight"]
    callbacks = [TrainingAccuracy(), EarlyStopping("accuracy", restore_best=False)]
    history = model.fit(X, y, callbacks=callbacks, validation_data=(X, y, whole), **fit)
    assert history["accuracy"] == history["val_accuracy"]
    assert history["accuracy"][-1] == model.evaluate(X, y, whole)["accuracy"] > 1 / 3
    np.testing.assert_array_equal(model.parameters["dense_0.weight"], plain.parameters["dense_0.weight"])
    some = np.flatnonzero(np.ones(len(X)) if third is None else third)
    rows = some[np.unique(np.linspace(0, len(some) - 1, 50).astype(int))]
    third = None if third is None else third[rows]
    history = few.fit(X, y, callbacks=[TrainingAccuracy(50)], **fit)
    assert history["accuracy"][-1] == few.evaluate(X[rows], y[rows], third)["accuracy"]
    assert repr(TrainingAccuracy()) == "TrainingAccuracy(n_rows=2048)"


def test_rows_without_weight_are_in_no_sample(problem):
    X, y = problem
    weights = np.zeros(len(X))
    weights[1::2] = 1.0
    history = small_model().fit(
        X, y, sample_weight=weights, loss="softmax_cross_entropy", callbacks=[TrainingAccuracy(5), GradientNorms(5)]
    )
    assert history["accuracy"][-1] >= 0 and history["gradient_norm_dense_0"][-1] > 0


def test_training_accuracy_needs_classes(problem):
    with pytest.raises(ValueError, match="TrainingAccuracy needs a loss of classes; got loss='squared_error'"):
        Sequential(Dense(1)).fit(problem[0], problem[1], loss="squared_error", callbacks=[TrainingAccuracy()])
    with pytest.raises(ValueError, match="`n_rows` must be an integer of at least 1; got 0"):
        TrainingAccuracy(0)


@pytest.mark.parametrize("n_rows", [0, -1, 2.5, True])
def test_bad_numbers_of_rows(n_rows):
    with pytest.raises((TypeError, ValueError), match="`n_rows` must be an integer of at least 1; got"):
        GradientNorms(n_rows)


def test_every_callback_is_told_of_the_end(problem):
    class Bad(Callback):
        def on_fit_end(self, training, history):
            raise RuntimeError("no disk")

    class Last(Callback):
        def on_fit_end(self, training, history):
            told.append(len(history))

    told, stopping = [], EarlyStopping("loss", patience=1, mode="max")  # the first epoch is the best
    model = Sequential(Dense(3))
    with pytest.raises(RuntimeError, match="no disk"):
        model.fit(*problem, loss="softmax_cross_entropy", epochs=9, callbacks=[Bad(), stopping, Last()])
    assert told == [2] and stopping.stopped_epoch_ == 2

    class Fails(Bad):
        def on_epoch_end(self, training, epoch, logs):
            raise KeyError("the reason")

    with pytest.raises(RuntimeError, match="no disk") as error:
        Sequential(Dense(3)).fit(*problem, loss="softmax_cross_entropy", callbacks=[Fails()])
    assert isinstance(error.value.__context__, KeyError)  # which a person sees above it
    best = Sequential(Dense(3))
    best.fit(*problem, loss="softmax_cross_entropy")
    np.testing.assert_array_equal(model.parameters["dense_0.weight"], best.parameters["dense_0.weight"])


class Look(Callback):
    """Notes what the model gives after each epoch."""

    def __init__(self, X, change=None):
        self.X, self.change, self.seen = X, change, []

    def on_epoch_end(self, training, epoch, logs):
        if self.change is not None and epoch == 2:
            training.model.set_parameters(self.change)
        self.seen.append(training.model.logits(self.X))


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_the_model_has_the_parameters_of_the_epoch(problem, ema_decay):
    options = {"loss": "softmax_cross_entropy", "optimizer": SGD(0.1, ema_decay=ema_decay), "batch_size": 16}
    look, model = Look(problem[0]), Sequential(Dense(4), ReLU(), Dense(3))
    history = model.fit(*problem, epochs=3, callbacks=[look], validation_data=problem, **options)
    for epoch, logits in enumerate(look.seen, 1):
        assert model.loss.value(logits, problem[1]) == pytest.approx(history["val_loss"][epoch - 1], rel=1e-5)
    np.testing.assert_array_equal(look.seen[-1], model.logits(problem[0]))


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_parameters_that_a_callback_sets_are_those_that_the_fit_goes_on_with(problem, ema_decay):
    X = problem[0]
    options = {"loss": "softmax_cross_entropy", "optimizer": SGD(0.1, ema_decay=ema_decay), "shuffle": False}
    other = Sequential(Dense(3)).build(X.shape[1], seed=9)
    look, model = Look(X, other.parameters), Sequential(Dense(3))
    model.fit(*problem, epochs=3, callbacks=[look], **options)
    np.testing.assert_array_equal(look.seen[1], other.logits(X))
    if ema_decay is None:
        other.fit(*problem, epochs=1, **options)
        np.testing.assert_array_equal(look.seen[2], other.logits(X))
    else:
        assert not np.array_equal(look.seen[2], look.seen[1])


def test_a_callback_may_set_some_parameters_by_the_model_that_is_fitted(problem):
    """The others are those of the training, whether or not somebody looked at them before."""

    class ZeroBias(Callback):
        def on_epoch_end(self, training, epoch, logs):
            model.set_parameters({"dense_0.bias": np.zeros(3)})

    results = []
    for callbacks in ([ZeroBias()], [Look(problem[0]), ZeroBias()], []):
        model = Sequential(Dense(3)).build(problem[0].shape[1])
        before = model.parameters["dense_0.weight"]
        model.fit(*problem, loss="softmax_cross_entropy", epochs=3, callbacks=callbacks)
        assert not np.array_equal(model.parameters["dense_0.weight"], before)
        results.append(model.parameters)
    first, second, without = results
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert not first["dense_0.bias"].any() and without["dense_0.bias"].any()


def test_gradients_that_are_not_finite_change_no_bit_of_the_fit(problem):
    class Overflow(Callback):
        def on_epoch_end(self, training, epoch, logs):
            with np.errstate(all="ignore"):
                loss, _ = training.model.gradients(np.clip(problem[0], -3, 3) * 1e38, problem[1])
            assert not np.isfinite(loss)

    options = {"loss": "softmax_cross_entropy", "optimizer": SGD(0.1, ema_decay=0.9), "epochs": 3}
    model, watched = Sequential(Dense(3)), Sequential(Dense(3))
    model.fit(*problem, **options)
    watched.fit(*problem, callbacks=[Overflow()], **options)
    np.testing.assert_array_equal(model.parameters["dense_0.weight"], watched.parameters["dense_0.weight"])


def test_parameters_that_a_callback_sets_last_are_the_models_unless_better_ones_are_restored(problem):
    class Zero(Callback):
        def on_epoch_end(self, training, epoch, logs):
            training.model.set_parameters({"dense_0.weight": 0 * training.model.parameters["dense_0.weight"]})

    for callbacks, zero in ([[Zero()], True], [[EarlyStopping("loss", mode="max"), Zero()], False]):
        model = Sequential(Dense(3))
        model.fit(*problem, loss="softmax_cross_entropy", epochs=2, callbacks=callbacks)
        assert (not model.parameters["dense_0.weight"].any()) == zero


def test_a_metric_that_is_no_number_is_named(problem):
    class Wrong(Callback):
        def on_epoch_end(self, training, epoch, logs):
            logs["shares"] = np.zeros(2)

    with pytest.raises(TypeError, match="the metric 'shares' must be a number; got array"):
        Sequential(Dense(3)).fit(*problem, loss="softmax_cross_entropy", callbacks=[Wrong()])
    with pytest.raises(TypeError, match="`monitor` must be the name of a metric.*got None"):
        EarlyStopping(monitor=None)
    with pytest.raises(TypeError, match="`restore_best` must be True or False; got 'no'"):
        EarlyStopping(restore_best="no")


@pytest.mark.parametrize(
    "monitor, best",
    [
        *((name, 3) for name in ("val_f1", "acc", "my_score", "normalized_accuracy", "calibrated_auc", "loss_score")),
        *((name, 1) for name in ("val_mae", "error_rate", "val_LOSS", "accuracy_loss", "gradient_norm_dense_0")),
    ],
)
def test_auto_goes_by_the_name(monitor, best):
    callback = EarlyStopping(monitor)
    run(callback, [0.1, 0.2, 0.3], monitor)
    assert callback.best_epoch_ == best


@pytest.mark.parametrize(
    "name", ["profit", "hit_rate", "neg_log_loss", "brier_score", "layer2_sparsity", "acceleration"]
)
def test_auto_asks_where_the_name_does_not_tell(name):
    with pytest.raises(ValueError, match=f"`mode` must be 'min' or 'max' for monitor='{name}'"):
        run(EarlyStopping(name), [0.1], name)
    callback = EarlyStopping("profit", mode="max")
    run(callback, [0.1, 0.2], "profit")
    assert callback.best_ == 0.2


def test_the_learning_rate_may_be_set(problem):
    class Zero(Callback):
        def on_epoch_end(self, training, epoch, logs):
            training.learning_rate = 0.0

    model, recorder = small_model(), Recorder()
    history = model.fit(
        *problem, loss="softmax_cross_entropy", optimizer="sgd", epochs=3, callbacks=[Zero(), recorder], shuffle=False
    )
    assert history["learning_rate"] == [0.01, 0.0, 0.0]
    assert history["loss"][1] == history["loss"][2]


# Checkpoints


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_a_checkpoint_of_each_epoch(problem, tmp_path, ema_decay):
    look, model = Look(problem[0]), Sequential(Dense(4), ReLU(), Dense(3))
    checkpoint = ModelCheckpoint(tmp_path / "{epoch:02d}-{val_loss:.4f}.safetensors")
    options = {"loss": "softmax_cross_entropy", "optimizer": SGD(0.1, ema_decay=ema_decay), "validation_data": problem}
    history = model.fit(*problem, epochs=3, callbacks=[look, checkpoint], verbose=0, **options)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == [
        f"{epoch:02d}-{loss:.4f}.safetensors" for epoch, loss in enumerate(history["val_loss"], 1)
    ]
    for file, logits in zip(files, look.seen, strict=True):
        np.testing.assert_array_equal(load_model(file).logits(problem[0]), logits)
    assert checkpoint.saved_ == str(files[-1]) and checkpoint.best_ is None


@pytest.mark.parametrize(
    "monitor, values, kept",
    [
        ("val_loss", [3.0, 2.0, 2.5, NAN, 1.95, 1.0], [1, 2, 6]),
        ("val_accuracy", [NAN, 0.5, 0.5, 0.55, 0.9], [2, 5]),
    ],
)
def test_a_checkpoint_of_the_best(monitor, values, kept, tmp_path):
    saved, training = [], FakeTraining()
    training.model = type("Model", (), {"save": lambda self, path: saved.append((training.parameters, path))})()
    checkpoint = ModelCheckpoint(tmp_path / "best", monitor, save_best_only=True, min_delta=0.1)
    for _ in range(2):  # another fit begins anew
        checkpoint.on_fit_begin(training)
        for epoch, value in enumerate(values, 1):
            training.parameters = epoch
            checkpoint.on_epoch_end(training, epoch, {monitor: value})
        assert checkpoint.best_ == values[kept[-1] - 1]
    assert saved == [(epoch, str(tmp_path / "best")) for epoch in kept] * 2


def test_a_checkpoint_goes_on_with_its_best_after_a_resume(problem, tmp_path):
    options = {"loss": "softmax_cross_entropy", "validation_data": problem, "epochs": 6, "verbose": 0, "seed": 1}

    def fit(*callbacks):
        best = ModelCheckpoint(tmp_path / "best", save_best_only=True)
        model = Sequential(Dense(4), ReLU(), Dense(3))
        model.fit(*problem, callbacks=[best, *callbacks], **options)
        return best.best_

    expected = fit()
    backup = BackupAndRestore(tmp_path / "backup", seconds=0)
    assert fit(backup, TimeBudget(1e-9)) > expected
    assert fit(backup) == expected


def columns(path):
    """{name: numbers} of a CSV file, NaN where it has none."""
    with open(path, encoding="utf-8", newline="") as file:
        names, *rows = csv.reader(file)
    return {name: [float(row[k] or NAN) for row in rows] for k, name in enumerate(names)}


def test_a_csv_file_has_what_the_history_has(problem, tmp_path):
    path, read = tmp_path / "fit.csv", []

    class Read(Callback):
        def on_epoch_end(self, training, epoch, logs):
            read.append(path.read_text().count("\n"))

    path.write_text("of an older fit")
    callbacks = [TrainingAccuracy(), CSVLogger(path), Read()]
    options = {"loss": "softmax_cross_entropy", "validation_data": problem, "verbose": 0, "callbacks": callbacks}
    for _ in range(2):  # another fit begins anew
        history = small_model().fit(*problem, epochs=4, **options)
        assert columns(path) == {"epoch": [1, 2, 3, 4], **history.metrics}
    assert read == [2, 3, 4, 5] * 2  # each line is there at once
    assert list(tmp_path.iterdir()) == [path]


def test_a_csv_file_goes_on(problem, tmp_path):
    """With `append`, and behind the last epoch of a backup."""
    path, options = tmp_path / "fit.csv", {"loss": "softmax_cross_entropy", "verbose": 0, "seed": 1}
    small_model().fit(*problem, epochs=2, callbacks=[CSVLogger(path)], **options)
    first = path.read_text()
    small_model().fit(*problem, epochs=1, callbacks=[CSVLogger(path, append=True)], **options)
    assert path.read_text().startswith(first) and len(path.read_text().splitlines()) == 4
    callbacks = [TrainingAccuracy(), CSVLogger(path, append=True)]  # of another metric
    small_model().fit(*problem, epochs=1, callbacks=callbacks, **options)
    table = columns(path)
    assert table["epoch"] == [1, 2, 1, 1] and list(np.isnan(table["accuracy"])) == [True] * 3 + [False]

    backup = BackupAndRestore(tmp_path / "backup", seconds=0)

    class Stop(Callback):
        def on_epoch_end(self, training, epoch, logs):
            raise KeyboardInterrupt  # before the backup of this epoch, whose line is there

    def fit(*callbacks):
        callbacks = [CSVLogger(path), *callbacks]
        return small_model().fit(*problem, epochs=6, callbacks=callbacks, **options)

    assert len(fit(backup, TimeBudget(1e-9))["loss"]) == 1
    for _ in range(2):  # the file as it was at the backup, whatever has become of it
        with pytest.raises(KeyboardInterrupt):
            fit(Stop(), backup)
        assert columns(path)["epoch"] == [1, 2]
    path.write_text("epoch,lo")
    history = fit(backup)
    assert columns(path)["epoch"] == [1, 2, 3, 4, 5, 6] and columns(path)["loss"] == history["loss"]


def test_a_csv_file_that_goes_on_keeps_what_it_had_beside_a_backup(problem, tmp_path, monkeypatch):
    """By a relative name, of a link to a file (where there are links) that has a BOM; the folder changes."""
    monkeypatch.chdir(tmp_path)
    links = sys.platform != "win32"  # where they need a privilege
    real = tmp_path / ("real.csv" if links else "link.csv")
    real.write_bytes("epoch,b,\u00e4\r\n7,1,2\r\n".encode("utf-8-sig"))
    if links:
        (tmp_path / "link.csv").symlink_to(real)
    options = {"loss": "softmax_cross_entropy", "verbose": 0, "epochs": 3}
    (tmp_path / "else").mkdir()
    for _ in range(3):
        monkeypatch.chdir(tmp_path)
        callbacks = [Leave(tmp_path / "else", monkeypatch), CSVLogger("link.csv", append=True)]
        callbacks += [BackupAndRestore("backup", seconds=0), TimeBudget(1e-9)]
        small_model().fit(*problem, callbacks=callbacks, **options)
    assert (tmp_path / "link.csv").is_symlink() == links
    table = columns(real)
    assert list(table) == ["epoch", "b", "\u00e4", "loss", "learning_rate", "seconds"]
    assert table["epoch"] == [7, 1, 2, 3] and table["\u00e4"][0] == 2 and np.isfinite(table["loss"][1:]).all()


class Leave(Callback):
    def __init__(self, folder, monkeypatch):
        self.folder, self.monkeypatch = folder, monkeypatch

    def on_epoch_end(self, training, epoch, logs):
        self.monkeypatch.chdir(self.folder)


def test_a_csv_file_that_is_gone_or_cannot_be_written_comes_back_whole(tmp_path, monkeypatch):
    path = tmp_path / "fit.csv"
    logger = CSVLogger(path)
    logger.on_fit_begin(None)
    logger.on_epoch_end(None, 1, {"loss": 3.0})
    path.unlink()
    logger.on_epoch_end(None, 2, {"loss": 2.0})
    path.write_text("of somebody else")
    logger.on_epoch_end(None, 3, {"loss": 1.0})
    assert columns(path) == {"epoch": [1, 2, 3], "loss": [3, 2, 1]}
    full = OSError(28, "No space left on device")

    class FullDisk:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def write(self, data):
            path.write_bytes(path.read_bytes() + data[:2])  # some of it
            raise full

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", lambda *args, **kwargs: FullDisk())
        with pytest.warns(RuntimeWarning, match="CSVLogger could not write .*fit.csv.*No space left"):
            logger.on_epoch_end(None, 4, {"loss": 0.5})
    logger.on_epoch_end(None, 5, {"loss": 0.25})
    assert columns(path) == {"epoch": [1, 2, 3, 4, 5], "loss": [3, 2, 1, 0.5, 0.25]}


def test_metrics_that_come_and_go_have_columns(tmp_path):
    logger = CSVLogger(tmp_path / "fit.csv")
    logger.on_fit_begin(None)
    for epoch, logs in enumerate([{"loss": 0.5}, {"loss": 0.25, 'a, "b"': NAN}, {"c": np.float32(0.1)}], 1):
        logger.on_epoch_end(None, epoch, logs)
    table = columns(tmp_path / "fit.csv")
    assert list(table) == ["epoch", "loss", 'a, "b"', "c"]
    rows = [[1, 0.5, NAN, NAN], [2, 0.25, NAN, NAN], [3, NAN, NAN, float(np.float32(0.1))]]
    np.testing.assert_array_equal(np.transpose(list(table.values())), rows)
    with pytest.raises(TypeError, match="the metric 'a' must be a number; got 'b'"):
        logger.on_epoch_end(None, 4, {"a": "b"})


def test_bad_csv_files(problem, tmp_path):
    options = {"loss": "softmax_cross_entropy", "epochs": 1, "verbose": 0}
    with pytest.raises(TypeError, match="`path` must be the name of a file; got 3"):
        CSVLogger(3)
    with pytest.raises(TypeError, match="`append`.*got 'yes'"):
        CSVLogger("a", append="yes")
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        small_model().fit(*problem, callbacks=[CSVLogger(tmp_path / "nowhere" / "a")], **options)
    other = tmp_path / "other.csv"
    other.write_text("x,y\n1,2\n")
    for content, message in (
        (b"x,y\n1,2\n", r"of CSVLogger must be a table in UTF-8.*with a column 'epoch'; its columns are 'x', 'y'\."),
        (b"epoch,loss\n1,2\n2,3,4\n", r"row 1 has 3 fields, not 2: \['2', '3', '4'\]"),
        (b"epoch,loss\n1,2\n2", r"row 1 has 1 fields, not 2"),
        (b"epoch,\xe4\n1,2\n", "it is none: 'utf-8' codec"),
        (b"epoch,loss\n" + b"1" * 200_000, "it is none: field larger than field limit"),
    ):
        other.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            small_model().fit(*problem, callbacks=[CSVLogger(other, append=True)], **options)
        assert other.read_bytes() == content
    other.write_bytes(b"")  # and one that is not there: nothing to go on with
    for path in (other, tmp_path / "new.csv"):
        small_model().fit(*problem, callbacks=[CSVLogger(path, append=True)], **options)
        assert columns(path)["epoch"] == [1]
    with pytest.raises(ValueError, match="of CSVLogger must be a file or a new name"):
        small_model().fit(*problem, callbacks=[CSVLogger(tmp_path)], **options)
    assert repr(CSVLogger("/a", True)).endswith("a', append=True)")


def test_bad_checkpoints(problem, tmp_path):
    options = {"loss": "softmax_cross_entropy", "epochs": 1, "verbose": 0}
    for path in ("", 3, None):
        with pytest.raises(TypeError, match=f"`path` must be the name of a file; got {path!r}"):
            ModelCheckpoint(path)
    with pytest.raises(TypeError, match="`save_best_only`.*got 'yes'"):
        ModelCheckpoint("a", save_best_only="yes")
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        small_model().fit(*problem, callbacks=[ModelCheckpoint(tmp_path / "nowhere" / "a")], **options)
    with pytest.raises(ValueError, match="KeyError.*'val_loss'.*it may name 'epoch', 'loss'"):
        small_model().fit(*problem, callbacks=[ModelCheckpoint(tmp_path / "{val_loss}")], **options)
    with pytest.raises(ValueError, match="needs `validation_data`"):
        small_model().fit(*problem, callbacks=[ModelCheckpoint(tmp_path / "a", save_best_only=True)], **options)
    assert not list(tmp_path.iterdir())


def test_metrics_by_any_function():
    """Of numbers, classes, one label, several labels: what scikit-learn says of the network after each epoch."""
    from sklearn.metrics import f1_score, mean_absolute_error, r2_score, roc_auc_score

    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 4)).astype(np.float32)
    numbers, three = X[:, 0] - X[:, 1], (X[:, 0] > 0) * 1 + (X[:, 1] > 0)
    several = (X[:, :2] > 0).astype(int)
    log_rate = {"rate": lambda y, values: values.min()}
    integers = {"f1": lambda y, c: f1_score(y, c) if c.dtype.kind == "i" else np.nan}
    cases = [
        (numbers, "squared_error", 1, "outputs", {"val_r2": r2_score, "val_mae": mean_absolute_error}),
        (three, "poisson", 1, "outputs", log_rate),
        (three, "softmax_cross_entropy", 3, "classes", {"f1": lambda y, c: f1_score(y, c, average="macro")}),
        (three, "softmax_cross_entropy", 3, "outputs", {"auc": lambda y, p: roc_auc_score(y, p, multi_class="ovr")}),
        (three > 0, "binary_cross_entropy", 1, "outputs", {"auc": roc_auc_score}),
        (three > 0, "binary_cross_entropy", 1, "classes", {"f1": f1_score}),
        (three > 0, "hinge", 1, "classes", integers),
        (several, "binary_cross_entropy", 2, "classes", {"f1": lambda y, c: f1_score(y, c, average="micro")}),
        (three, "ordinal", 2, "classes", {"f1": lambda y, c: f1_score(y, c, average="macro")}),
    ]
    for y, loss, units, of, functions in cases:
        seen = Seen()
        model = Sequential(Dense(units))
        callbacks = [Metrics(X[80:].tolist(), y[80:], functions, of), seen]
        history = model.fit(X[:80], y[:80], loss=loss, epochs=2, callbacks=callbacks, verbose=0)
        assert set(functions) <= set(seen.logs[-1]) and set(functions) <= set(history.metrics)
        predicted = model.predict(X[80:])
        if loss == "softmax_cross_entropy" and of == "classes":
            values = predicted.argmax(axis=1)
        elif loss == "ordinal":
            values = predicted.argmax(axis=1)
        elif of == "classes":
            values = (model.logits(X[80:]) > 0).astype(int)
        else:
            values = predicted
        values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
        for name, function in functions.items():
            assert history[name][-1] == pytest.approx(function(y[80:], values), rel=1e-6), (loss, of, name)


class Seen(Callback):
    def __init__(self):
        self.logs = []

    def on_epoch_end(self, training, epoch, logs):
        self.logs.append(dict(logs))


def test_metrics_are_watched_by_what_stands_behind():
    from sklearn.metrics import r2_score

    X = np.linspace(-1, 1, 60).reshape(-1, 1)
    metrics = Metrics(X, 2 * X[:, 0], {"val_r2": r2_score})
    stopping = EarlyStopping("val_r2", patience=3, min_delta=1e-3)
    model = Sequential(Dense(1))
    options = {"loss": "squared_error", "optimizer": SGD(0.3), "epochs": 500, "verbose": 0}
    history = model.fit(X, 2 * X, callbacks=[metrics, stopping], **options)
    assert len(history) < 500 and max(history["val_r2"]) > 0.999
    with pytest.raises(ValueError, match="val_r2"):
        Sequential(Dense(1)).fit(X, 2 * X, callbacks=[stopping, metrics], **options)


def test_metrics_refuse_what_they_cannot_measure():
    X, y = np.ones((6, 2)), np.arange(6.0)
    for functions in (None, {}, {"a": 3}, [len]):
        with pytest.raises(TypeError, match="`functions` must be a dictionary name -> function"):
            Metrics(X, y, functions)
    for name in ("loss", "seconds", 3):
        with pytest.raises(ValueError, match="`functions` must have names beside 'epoch', 'loss'.*got"):
            Metrics(X, y, {name: max})
    with pytest.raises(ValueError, match="`of` must be one of 'outputs', 'classes'; got 'class'. Did you mean"):
        Metrics(X, y, {"a": len}, "class")
    fit = {"loss": "squared_error", "verbose": 0}
    for metrics, error, words in (
        (Metrics(X, y, {"a": max}, "classes"), ValueError, "`of`='classes' needs a loss of classes; got loss='squared"),
        (Metrics(X[:, :1], y, {"a": max}), ValueError, "`X of Metrics` must have n_features=2 columns; got 1"),
        (Metrics(X, y, {"a": lambda y, p: "much"}), TypeError, r"`functions`\['a'\] must return a number; got 'much'"),
    ):
        with pytest.raises(error, match=words):
            Sequential(Dense(1)).fit(X, y, callbacks=[metrics], **fit)
    assert repr(Metrics(X, y, {"a": max})) == "Metrics(X, y, ['a'], of='outputs')"
