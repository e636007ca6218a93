"""Fits on the (simulated) device beside the same fits on the CPU: losses, parameters, and everything around a fit."""

import signal

import numpy as np
import pytest
import scipy.sparse
import test_custom

from fastmlp import (
    GELU,
    SELU,
    SGD,
    ActivityRegularization,
    AdaDelta,
    Adam,
    AdaMax,
    AdamW,
    AlphaDropout,
    AMSGrad,
    BatchNorm,
    Dense,
    Dropout,
    EarlyStopping,
    Embedding,
    Focal,
    GroupNorm,
    LayerNorm,
    Lion,
    MLPClassifier,
    MLPRegressor,
    NAdam,
    Normalization,
    PReLU,
    ReLU,
    Rescaling,
    Residual,
    RMSNorm,
    RMSprop,
    Rprop,
    Sequential,
    Softmax,
    Tanh,
    devices,
    optimizers,
)
from fastmlp.activations import ACTIVATIONS, ELU, Logistic
from fastmlp.cuda import declarations, executor, launches, loss_kernels
from fastmlp.engine.rules import RULES
from fastmlp.errors import DivergenceError
from fastmlp.layers import Maxout, SwiGLU
from fastmlp.losses import LOSSES, BinaryCrossEntropy, Huber, Ordinal, SoftmaxCrossEntropy, SoftmaxFocal
from fastmlp.schedules import CosineDecay, StepDecay
from fastmlp.training import Training

# uint32 arithmetic wraps around on a device; NumPy's scalars warn of it
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in scalar:RuntimeWarning")


def data(n=14, n_features=5, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, n_features)).astype(np.float32), rng.integers(0, classes, n), rng


def both(layers, X, y, dtype="float32", epochs=25, **options):
    """(losses, parameters) of the same fit on the CPU and on the device."""
    out = []
    for device in ("cpu", "cuda"):
        model = Sequential(*layers, dtype=dtype)
        options = {"batch_size": 8, "seed": 3, "verbose": 0} | options
        history = model.fit(X, y, epochs=epochs, device=device, **options)
        out.append((history["loss"], model.parameters, history))
    return out


def assert_equal_but_for_rounding(cpu, cuda, dtype="float32", factor=1.0):
    rtol = factor * (2e-5 if dtype == "float32" else 1e-11)
    np.testing.assert_allclose(cuda[0], cpu[0], rtol=rtol, atol=rtol)
    for name, array in cpu[1].items():
        np.testing.assert_allclose(cuda[1][name], array, rtol=20 * rtol, atol=20 * rtol, err_msg=name)


# An epoch is 2 steps, the second of fewer rows than the first. Layers have several panels and tiles
CASES = {
    "softmax, Adam": ([Dense(11), ReLU(), Dense(3)], "codes", {"optimizer": "adam"}),
    "two hidden, AdamW, smoothing": (
        [Dense(9, l2=1e-3), GELU(), Dense(10, l1=1e-3, use_bias=False), Tanh(), Dense(3)],
        "codes",
        {"optimizer": AdamW(StepDecay(0.02, factor=0.5, epochs=5)), "loss": SoftmaxCrossEntropy(0.1)},
    ),
    "columns that the network standardises": ([Normalization(), Dense(9), ReLU(), Dense(3)], "codes", {}),
    "dropout, momentum": (
        [Dropout(0.2), Dense(9), ReLU(), Dropout(0.4), Dense(3)],
        "codes",
        {"optimizer": SGD(0.05, momentum=0.9)},
    ),
    "alpha dropout, of a schedule": (
        [AlphaDropout(CosineDecay(0.2, epochs=3)), Dense(9), SELU(), AlphaDropout(0.4), Dense(3)],
        "codes",
        {"optimizer": SGD(0.05)},
    ),
    "binary, weights, Nesterov, average": (
        [Dense(6), ELU(0.7), Dense(2)],
        "binary",
        {
            "optimizer": SGD(CosineDecay(0.1, epochs=25), momentum=0.8, nesterov=True, ema_decay=0.9),
            "loss": BinaryCrossEntropy(0.1, pos_weight=3.0),
            "sample_weight": np.linspace(0, 2, 14),
        },
    ),
    "squared error, rescaled bytes, clipped": (
        [Rescaling(1 / 255, -0.5), Dense(6), Logistic(), Dense(2), Tanh()],
        "numbers",
        {"optimizer": SGD(0.1, clip_value=0.02), "loss": "squared_error"},
    ),
    "focal, weight of a yes": ([Dense(6), ReLU(), Dense(2)], "binary", {"loss": Focal(1.5, alpha=0.25)}),
    "softmax focal": ([Dense(9), ReLU(), Dense(3)], "codes", {"loss": SoftmaxFocal(1.5)}),
    "ordinal, weights": (
        [BatchNorm(), Dense(9), ReLU(), Dense(2)],
        "codes",
        {"loss": Ordinal(), "sample_weight": np.linspace(0, 2, 14)},
    ),
    "residual, frozen, Lion": (
        [Dense(6, trainable=False), Residual(ReLU(), Dense(6), Tanh(), Dense(6)), ReLU(), Dense(3)],
        "codes",
        {"optimizer": Lion(0.001)},
    ),
    "pieces first, absolute error": ([Maxout(5, 3), Dropout(0.1), Dense(2)], "numbers", {"loss": "absolute_error"}),
    "gated first, NAdam, Huber": ([SwiGLU(5), Dense(2)], "numbers", {"optimizer": NAdam(0.01), "loss": Huber(0.3)}),
    "BatchNorm, RMSprop of three slots, average": (
        # a bias before BatchNorm has a gradient of 0, but for rounding, which RMSprop and Adam would blow up
        [
            Dense(11, use_bias=False),
            BatchNorm(momentum=0.7),
            ReLU(),
            Dense(9, use_bias=False),
            BatchNorm(),
            GELU(),
            Dense(3),
        ],
        "codes",
        {"optimizer": RMSprop(0.002, momentum=0.5, centered=True, ema_decay=0.8)},
    ),
    "row norms first, clipped by the norm": (
        [LayerNorm(), Dense(10), GroupNorm(5), Tanh(), Dense(9), RMSNorm(), ReLU(), Dense(3)],
        "codes",
        {"optimizer": AdamW(0.01, clip_norm=0.3, weight_decay=0.1, ema_decay=0.9)},
    ),
    "residual first, dropped rows, PReLU, max_norm": (
        [
            Residual(LayerNorm(), Dense(5), PReLU(), drop_rate=0.3),
            Dense(9, max_norm=0.9),
            PReLU(),
            Dense(3, max_norm=1.1),
        ],
        "codes",
        {"optimizer": RMSprop(0.01, ema_decay=0.5)},
    ),
    "Softmax as a layer, clipped by the norm, max_norm": (
        [Dense(9, l2=1e-2, max_norm=0.8), Softmax(), Dense(3, use_bias=False)],
        "codes",
        {"optimizer": SGD(0.3, momentum=0.9, clip_norm=0.2)},
    ),
    "RMSprop with momentum": ([Dense(4), ReLU(), Dense(3)], "codes", {"optimizer": RMSprop(0.01, momentum=0.9)}),
    "AMSGrad, average": (
        [Dense(9), ReLU(), Dense(3)],
        "codes",
        {"optimizer": AMSGrad(0.01, beta_2=0.5, ema_decay=0.5)},
    ),
    "AdaMax": ([Dense(9), Tanh(), Dense(3)], "codes", {"optimizer": AdaMax(0.01, beta_2=0.7)}),
    "AdaDelta, clipped by the norm": ([Dense(9), ReLU(), Dense(3)], "codes", {"optimizer": AdaDelta(clip_norm=0.3)}),
    "Rprop": ([Dense(9), Tanh(), Dense(3)], "codes", {"optimizer": Rprop(0.01)}),
    "embedding, one table, AdamW, average": (
        [Embedding(11, 3), Dense(6), ReLU(), Dense(3)],
        "codes",
        {"optimizer": AdamW(0.01, ema_decay=0.5), "batch_size": 14},
    ),
    "embedding, no padding, a table of one row more": (
        [Embedding(13, 4), Dense(8), ReLU(), Dense(3)],
        "codes",
        {"optimizer": SGD(0.1)},
    ),
    "embedding, all else frozen": (
        [Embedding(11, 3), Dense(6, trainable=False), ReLU(), Dense(3, trainable=False)],
        "codes",
        {"optimizer": SGD(CosineDecay(0.1, epochs=25))},
    ),
    "embedding of two columns, clipped by the norm": (
        [Embedding([5, 21], 11, columns=[3, 0]), BatchNorm(), Dense(3)],
        "codes",
        {"optimizer": SGD(0.1, momentum=0.9, clip_norm=0.3)},
    ),
    "embedding, frozen, LayerNorm": (
        [Embedding(21, 2, trainable=False), LayerNorm(), Dense(3)],
        "codes",
        {"optimizer": SGD(0.1)},
    ),
    "penalties of activities, weights": (
        [Dense(9), ReLU(), ActivityRegularization(0.1, 0.2), Dense(3), ActivityRegularization(l1=0.03)],
        "codes",
        {"optimizer": SGD(0.1), "sample_weight": np.linspace(0, 2, 14)},
    ),
    "RMSprop, centered": ([Dense(4), ReLU(), Dense(3)], "codes", {"optimizer": RMSprop(0.01, centered=True)}),
}

LONG = ["softmax, Adam", "dropout, momentum", "binary, weights, Nesterov, average"]  # 50 steps


def case(name):
    layers, kind, options = CASES[name]
    X, y, rng = data()
    if "bytes" in name:
        X = rng.integers(0, 256, X.shape).astype(np.uint8)
    if "embedding" in name:  # codes of columns 0 and 3 up to 21 and 5, of all up to 11, or as good
        X[:, [0, 3]] = rng.integers(0, (21, 5), (14, 2))
        if "two columns" not in name:
            X = rng.integers(0, 11, X.shape)
    if kind == "binary":
        y = rng.integers(0, 2, (14, 2)).astype(np.float64)
    if kind == "numbers":
        y = rng.normal(size=(14, 2))
    return layers, X, y, {"loss": "softmax_cross_entropy"} | options


@pytest.mark.parametrize("name", CASES)
def test_steps_follow_the_cpu_but_for_rounding(name):
    layers, X, y, options = case(name)
    epochs = 25 if name in LONG else 6
    cpu, cuda = both(layers, X, y, epochs=epochs, **options)
    assert_equal_but_for_rounding(cpu, cuda)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_frozen_norms_and_slopes(dtype):
    norms = BatchNorm(trainable=False), ReLU(), LayerNorm(trainable=False), PReLU(trainable=False)
    X, y, rng = data()
    results, own = [], None
    for device in ("cpu", "cuda"):
        model = Sequential(Dense(9), *norms, Dense(3), dtype=dtype).build(5, seed=0)
        own = own or {
            name: rng.uniform(0.5, 2, array.shape) for name, array in model.parameters.items() if "dense" not in name
        }
        model.set_parameters(own)
        options = {"loss": "softmax_cross_entropy", "batch_size": 8, "seed": 3, "epochs": 4, "verbose": 0}
        history = model.fit(X.astype(dtype), y, device=device, **options)
        results.append((history["loss"], model.parameters))
        assert all(np.array_equal(model.parameters[name], array.astype(dtype)) for name, array in own.items())
    assert_equal_but_for_rounding(*results, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", test_custom.ACTIVATIONS)
def test_a_users_own_functions_follow_the_cpu(name, dtype):
    X, y, rng = data()
    layers = [Dense(9), test_custom.ACTIVATIONS[name], Dense(4), test_custom.ACTIVATIONS["of closures"], Dense(3)]
    for targets, loss in ((y, "softmax_cross_entropy"), (rng.normal(size=(14, 3)), test_custom.LOSS)):
        options = {"loss": loss, "sample_weight": np.linspace(0, 2, 14), "optimizer": SGD(0.005)}
        cpu, cuda = both(layers, X.astype(dtype), targets, dtype, epochs=3, **options)
        assert_equal_but_for_rounding(cpu, cuda, dtype)


def test_numpys_functions_that_numba_does_not_have_for_devices():
    """All of them are NumPy's; those of arrays are checked where they are made."""
    own = declarations._numpy_functions("float64")
    x = np.array([-np.inf, -2.5, -1.0, -0.0, 0.0, 0.3, 2.0, np.inf, np.nan])
    with np.errstate(all="ignore"):
        for name in ("absolute", "fabs", "sign", "square", "reciprocal", "floor", "ceil", "log1p"):
            expected = getattr(np, name)(x)
            np.testing.assert_array_equal([own[name](v) for v in x], expected, err_msg=name)
        for name in ("maximum", "minimum", "power"):
            expected = getattr(np, name)(x[:, None], x)
            ours = [[own[name](u, v) for v in x] for u in x]
            np.testing.assert_allclose(ours, expected, rtol=1e-15, err_msg=name)


def test_everything_in_the_catalogue_has_kernels_for_devices():
    assert {of.rule for of in map(optimizers.get, optimizers.OPTIMIZERS)} <= {*RULES}
    for name, loss in LOSSES.items():
        kernels = loss.across or [f"{name}.{'codes' if name == 'softmax_cross_entropy' else 'dense'}"]
        assert all(kernel in launches._LAUNCHES or loss_kernels.is_loss(kernel) for kernel in kernels), name


def test_declarations_are_told_apart_by_their_names():
    assert not {*ACTIVATIONS} & {*LOSSES}


def test_float64_follows_the_cpu_to_its_last_digits():
    layers, X, y, options = case("two hidden, AdamW, smoothing")
    cpu, cuda = both(layers, X.astype(np.float64), np.eye(3)[y], "float64", epochs=4, **options)
    assert_equal_but_for_rounding(cpu, cuda, "float64")


def test_the_same_masks_of_dropout():
    """With a rate of 0.5 another mask would give quite other parameters after one step."""
    X, y, _ = data()
    layers = [Dropout(CosineDecay(0.5, epochs=4)), Dense(20), ReLU(), Dropout(0.5), Dense(3)]
    cpu, cuda = both(layers, X, y, epochs=1, batch_size=14, loss="softmax_cross_entropy", optimizer=SGD(1.0))
    assert_equal_but_for_rounding(cpu, cuda)
    assert (cpu[1]["dense_1.weight"] != Sequential(*layers).build(5, 3).parameters["dense_1.weight"]).any()


def test_the_same_bits_again():
    layers, X, y, options = case("dropout, momentum")
    first, second = (both(layers, X, y, epochs=3, **options)[1] for _ in range(2))
    assert list(first[0]) == list(second[0])
    assert all(np.array_equal(first[1][name], second[1][name]) for name in first[1])


def test_validation_data_callbacks_and_early_stopping():
    X, y, _ = data(24)
    validation = (X[:7], y[:7], np.linspace(1, 2, 7))
    options = {"loss": "softmax_cross_entropy", "optimizer": Adam(0.3, ema_decay=0.5)}
    cpu, cuda = both(
        [Dense(4), ReLU(), Dropout(0.3), Dense(3)],
        X,
        1 - y % 2,
        epochs=12,
        validation_data=(validation[0], 1 - validation[1] % 2, validation[2]),
        callbacks=[EarlyStopping(patience=2)],
        **options,
    )
    assert len(cpu[2]) == len(cuda[2]) < 12
    np.testing.assert_allclose(cuda[2]["val_loss"], cpu[2]["val_loss"], rtol=1e-4)
    assert list(cuda[2]["val_accuracy"]) == list(cpu[2]["val_accuracy"])
    assert_equal_but_for_rounding(cpu, cuda, factor=5)


def test_validation_with_batch_norm_takes_the_running_averages():
    X, y, _ = data(20)
    layers = [BatchNorm(), Tanh(), Dense(9, use_bias=False), BatchNorm(momentum=0.5), Tanh(), Dense(3)]
    options = {"loss": "softmax_cross_entropy", "optimizer": Adam(0.05, ema_decay=0.7)}
    cpu, cuda = both(layers, X, y, epochs=4, validation_data=(X[:9], y[:9]), **options)
    np.testing.assert_allclose(cuda[2]["val_loss"], cpu[2]["val_loss"], rtol=1e-4)
    assert_equal_but_for_rounding(cpu, cuda, factor=5)


@pytest.mark.parametrize("name", ["BatchNorm, RMSprop of three slots, average", "row norms first, clipped by the norm"])
def test_norms_in_float64_follow_the_cpu_to_its_last_digits(name):
    layers, X, y, options = case(name)
    cpu, cuda = both(layers, X.astype(np.float64), y, "float64", epochs=3, **options)
    assert_equal_but_for_rounding(cpu, cuda, "float64", factor=10)


def test_a_fit_goes_on_from_a_state():
    X, y, _ = data()
    options = {"loss": "softmax_cross_entropy", "optimizer": "adam", "batch_size": 5, "device": "cuda"}
    whole, parts = (Sequential(Dense(4), ReLU(), Dense(3)).build(5) for _ in range(2))
    with Training(whole, X, y, **options) as training:
        expected = training.run(4)
    with Training(parts, X, y, **options) as training:
        losses = [training.run(2)]
        state = training.state
    with Training(parts, X, y, **options, state=state) as training:
        losses.append(training.run(2))
    assert np.array_equal(np.concatenate(losses), expected)
    assert all(np.array_equal(whole.parameters[name], array) for name, array in parts.parameters.items())


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("loss", ["squared_error", "softmax_cross_entropy"])
def test_divergence_keeps_the_last_finite_parameters(loss):
    X, y, _ = data()
    X[13] = 3e38
    model = Sequential(Dense(4), Dense(3)).build(5)
    before = model.parameters
    with pytest.raises(DivergenceError, match="diverged in epoch 1: the loss"):
        with Training(
            model, X, np.eye(3)[y], loss=loss, optimizer="adam", batch_size=14, device="cuda", shuffle=False
        ) as training:
            training.run(1)
    assert training.step == 0
    assert all(np.array_equal(before[name], array) for name, array in model.parameters.items())


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_loss_that_is_not_finite_changes_no_parameter(monkeypatch):
    """Without the host's restoring the last finite ones."""
    X, y, _ = data()
    X[13] = 3e38
    model, reference = (Sequential(Dense(4), ReLU(), Dense(3)).build(5) for _ in range(2))
    options = {"loss": "softmax_cross_entropy", "optimizer": "adam", "batch_size": 7, "shuffle": False}
    with Training(reference, X[:7], y[:7], **options, device="cuda") as training:
        training.run(1)
    monkeypatch.setattr(Training, "restore", lambda self, snapshot: None)
    with Training(model, X, y, **options, device="cuda") as training:
        training._seconds_per_step = (
            1e-3  # both steps are one slice: the second is in the queue before the first is done
        )
        with pytest.raises(DivergenceError, match="diverged in epoch 1: the loss"):
            training.run(1)
    assert training.step == 1
    assert all(np.array_equal(model.parameters[name], array) for name, array in reference.parameters.items())


def test_ctrl_c_leaves_a_whole_step():
    X, y, _ = data()
    options = {"loss": "softmax_cross_entropy", "optimizer": "adam", "batch_size": 5, "device": "cuda"}
    model = Sequential(Dense(4), ReLU(), Dense(3)).build(5)
    training = Training(model, X, y, **options)
    (program,) = training.executor._programs
    launches, count = program.launches, [0]

    def interrupting(launch):
        def launch_it():
            count[0] += 1
            if count[0] == 2 * len(launches) + 2:  # within the third step
                signal.raise_signal(signal.SIGINT)
            launch()

        return launch_it

    program.launches = [interrupting(launch) for launch in launches]
    with pytest.raises(KeyboardInterrupt):
        with training:
            training.run(4)
    assert training.step == 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    reference = Sequential(Dense(4), ReLU(), Dense(3)).build(5)
    with Training(reference, X, y, **options) as whole:
        whole.run(1)  # an epoch is three steps
    assert all(np.array_equal(model.parameters[name], array) for name, array in reference.parameters.items())


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize(("what", "word"), [("parameters", "a parameter"), ("slots", "a gradient")])
def test_what_is_no_longer_finite_on_the_device_is_noticed_there(number, what, word):
    X, y, _ = data()
    options = {"loss": "softmax_cross_entropy", "optimizer": "adam", "batch_size": 8, "seed": 1}
    with Training(Sequential(Dense(4), ReLU(), Dense(3)).build(5), X, y, device="cuda", **options) as training:
        training.run(1)
        executor = training.executor
        state, n = executor._memory.state, training.plan.sizes["parameters"] // training.plan.item
        executor.run(training._prepared.steps[:1], 1)  # what the host has is older from here on
        assert executor.all_finite("parameters") and executor.all_finite("slots")
        (program,) = executor._programs
        at = n - 1 if what == "parameters" else n  # padding, which nothing else looks at
        program.launches.append(lambda: state.__setitem__(at, number))
        executor.run(training._prepared.steps[:1], 1)
        assert [executor.all_finite(name) for name in ("parameters", "slots")] == [what == "slots", what != "slots"]
        with pytest.raises(DivergenceError, match=word):
            training._check_parameters(1)
        assert executor.all_finite("parameters") and executor.all_finite("slots")  # restored
        program.launches.pop()
        executor.run(training._prepared.steps[:1], 1)
        assert executor.all_finite("parameters") and executor.all_finite("slots")  # on the device, too


def test_an_epoch_leaves_the_parameters_on_the_device():
    X, y, _ = data()
    options = {"loss": "softmax_cross_entropy", "optimizer": "adam", "batch_size": 8, "seed": 1, "device": "cuda"}
    with Training(Sequential(Dense(4), ReLU(), Dense(3)).build(5), X, y, **options) as training:
        training.run(1)
        pulled = []
        pull = training.executor._pull
        training.executor._pull = lambda: (pulled.append(True), pull())
        training.run(1)
        training.loss_of(X, y)
        assert not pulled


@pytest.mark.parametrize("runs", [(1, 1, 1, 1), (1, 3, 2, 2, 1), (2, 2, 4, 1)])
def test_an_order_that_is_drawn_ahead_does_not_replace_the_one_in_use(runs, monkeypatch):
    """Two places take turns: whatever was drawn in vain, and where Ctrl-C has an epoch begin again."""
    X, y, _ = data()
    options = {"loss": "softmax_cross_entropy", "optimizer": "adam", "batch_size": 8, "seed": 1}
    layers = Dense(4), ReLU(), Dense(3)
    with (
        Training(Sequential(*layers).build(5), X, y, device="cuda", **options) as training,
        Training(Sequential(*layers).build(5), X, y, device="cpu", **options) as reference,
    ):
        run = training.executor.run

        def interrupted(steps, n_workers, meanwhile):
            run(steps[:1], n_workers, meanwhile)
            raise KeyboardInterrupt

        for epochs in runs:
            training._chooser.cost[1] = 1e-6  # epochs are bound together
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(training.executor, "run", interrupted)
                training.run(epochs)
            training.run(epochs)
            used, ((first, n), drawn) = training.executor._order, training._drawn
            assert (first, n) == (training.epoch, len(used))
            assert np.array_equal(drawn.order, reference._permutations(first, n))
            assert np.array_equal(used, reference._permutations(first - n, n))


def test_orders_of_rows_do_without_pinned_memory(monkeypatch):
    X, y, _ = data()
    options = {"loss": "softmax_cross_entropy", "optimizer": "adam", "batch_size": 8, "seed": 1, "device": "cuda"}
    losses = []

    def nothing_left(*arguments):
        raise RuntimeError("[2] Call to cuMemHostAlloc results in CUDA_ERROR_OUT_OF_MEMORY")

    for pinned in (True, False):
        with Training(Sequential(Dense(4), ReLU(), Dense(3)).build(5), X, y, **options) as training:
            if not pinned:
                monkeypatch.setattr(executor.cuda, "pinned_array", nothing_left)
                training.executor._sums = np.zeros(9)
            losses.append([*training.run(1), *training.run(2)])
    assert losses[0] == losses[1]


def test_the_next_order_of_rows_is_drawn_while_the_device_is_busy(monkeypatch):
    X, y, _ = data()
    options = {"loss": "softmax_cross_entropy", "optimizer": "adam", "batch_size": 8, "seed": 1}
    losses = {}
    for device in ("cpu", "cuda"):
        with Training(Sequential(Dense(4), ReLU(), Dense(3)).build(5), X, y, device=device, **options) as training:
            ahead, draw = [], training._draw_ahead

            def drawing(first, epochs, draw=draw, ahead=ahead):
                ahead.append((first, epochs))
                draw(first, epochs)

            monkeypatch.setattr(training, "_draw_ahead", drawing)
            losses[device] = [*training.run(1), *training.run(1), *training.run(2), *training.run(1)]
            if device == "cpu":  # it works itself
                assert not ahead and training._drawn is None
            else:
                assert {(1, 1), (2, 1)} <= set(ahead) and training._drawn[0] == ahead[-1] == (5, 1)
    np.testing.assert_allclose(losses["cuda"], losses["cpu"], rtol=1e-5)


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_estimators(early_stopping):
    X, y, _ = data(40)
    common = {"hidden_layer_sizes": (5,), "max_iter": 5, "random_state": 0, "early_stopping": early_stopping}
    for make, targets in ((MLPClassifier, y), (MLPRegressor, X[:, 0])):
        cpu, cuda = (make(**common, device=device).fit(X, targets) for device in ("cpu", "cuda"))
        np.testing.assert_allclose(cuda.loss_curve_, cpu.loss_curve_, rtol=1e-4)
        np.testing.assert_allclose(cuda.coefs_[0], cpu.coefs_[0], rtol=1e-3, atol=1e-5)


def test_auto_looks_for_a_device_only_from_enough_work_on(monkeypatch):
    X, y, _ = data()
    model = Sequential(Dense(4), ReLU(), Dense(3))
    given = (X, 8, 10)
    work = 6 * 8 * (5 * 4 + 4 * 3)  # of a step; an epoch has len(X) / 8
    monkeypatch.setattr(devices, "ENOUGH", work + 1)
    monkeypatch.setattr(devices, "ENOUGH_IN_ALL", work * len(X) / 8 * 10)
    assert devices.choose("auto", model.layers, *given) == "cpu"
    monkeypatch.setattr(devices, "ENOUGH", work)
    assert devices.choose("auto", model.layers, *given) == "cuda"
    assert devices.choose("auto", model.layers, *given[:-1], 9) == "cpu"
    sparse = scipy.sparse.csr_array(X)
    assert devices.choose("auto", model.layers, sparse, *given[1:]) == "cpu"


def test_too_little_memory_says_how_much_was_needed(monkeypatch):
    from numba import cuda

    X, y, _ = data()
    context = type(cuda.current_context())
    monkeypatch.setattr(context, "get_memory_info", lambda self: (1000, 2000), raising=False)
    with pytest.raises(MemoryError, match=r"needs [\d,]+ bytes .* of which 1,000 are free; try a smaller batch_size"):
        Sequential(Dense(4), Dense(3)).fit(X, y, loss="softmax_cross_entropy", device="cuda", verbose=0)

    def full(*arguments):
        raise RuntimeError("[2] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY")

    monkeypatch.setattr(context, "get_memory_info", lambda self: (10**9, 10**9), raising=False)
    monkeypatch.setattr("fastmlp.cuda.executor.allocate", full)
    with pytest.raises(MemoryError, match=r"needs [\d,]+ bytes .* and a little more, and 1,000,000,000 are free; try"):
        Sequential(Dense(4), Dense(3)).fit(X, y, loss="softmax_cross_entropy", device="cuda", verbose=0)
