"""`diagnose` and `diagnose_history`: each verdict on a case that has the fault and on one that has not."""

import numpy as np
import pytest

from fastmlp import SGD, Adam, Dense, Logistic, ReLU, Rescaling, Sequential, Tanh, diagnose, diagnose_history
from fastmlp.datasets import load_digits
from fastmlp.diagnosis import _least_entropy, gradient_norms
from fastmlp.initializers import Constant
from fastmlp.losses import (
    AbsoluteError,
    BinaryCrossEntropy,
    Focal,
    Huber,
    NegativeBinomial,
    Poisson,
    SoftmaxCrossEntropy,
    SquaredError,
)
from fastmlp.schedules import CosineDecay

SOFTMAX = "softmax_cross_entropy"


def mlp(*hidden, activation=ReLU, dtype="float32"):
    layers = [layer for units in hidden for layer in (Dense(units), activation())]
    return Sequential(*layers, Dense(10), dtype=dtype)


@pytest.fixture
def some(digits):
    return digits[0][:400], digits[1][:400]


@pytest.mark.parametrize(("spread", "verdict"), [(0.0476, "warning"), (0.5, "ok"), (20.0, "warning")])
def test_columns_that_are_all_small_or_large(spread, verdict):
    """scikit-learn's diabetes has a spread of 0.0476 in every column, with which hardly anything is learned."""
    X = spread * np.random.default_rng(0).standard_normal((200, 4))
    report = diagnose(Sequential(Dense(8), ReLU(), Dense(1)), X, X[:, 0], loss="squared_error")
    assert report["inputs"].verdict == verdict


@pytest.mark.parametrize("activation", [ReLU, Tanh])
def test_nothing_wrong(some, activation):
    report = diagnose(mlp(32, 32, activation=activation), *some, loss=SOFTMAX)
    assert report
    assert report.problems == []
    assert [f.name for f in report.warnings] == ["constant_columns"]  # the corners of the images
    assert "first_loss" in str(report)


def test_model_parameters_and_generators_stay(some):
    model = mlp(16)
    model.fit(*some, loss=SOFTMAX, epochs=1, verbose=0)
    before, loss, state = model.parameters, model.loss, np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = diagnose(model, *some), diagnose(model, *some)
    assert first == second
    assert model.loss is loss
    assert all(np.array_equal(before[k], v) for k, v in model.parameters.items())
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    unbuilt = mlp(16)
    diagnose(unbuilt, *some, loss=SOFTMAX)
    assert not unbuilt.built
    assert unbuilt.loss is None


def test_deep_logistic_network_vanishes_and_cannot_learn_five_examples(some):
    report = diagnose(mlp(*[16] * 11, activation=Logistic), *some, loss=SOFTMAX)
    assert not report
    assert {f.name for f in report.problems} >= {"gradients", "five_examples"}
    assert "vanishing" in report["gradients"].advice


def test_exploding_gradients(some):
    model = mlp(16, 16, 16).build(64)
    p = model.parameters
    model.set_parameters({"dense_0.weight": p["dense_0.weight"] * 1e-3, "dense_3.weight": p["dense_3.weight"] * 1e3})
    finding = diagnose(model, *some, loss=SOFTMAX)["gradients"]
    assert finding.verdict == "problem"
    assert finding.advice.startswith("exploding")


def test_unscaled_inputs(some):
    X, y = some
    report = diagnose(mlp(16), X * 5000, y, loss=SOFTMAX)
    assert report["inputs"].verdict == "problem"
    assert report["first_loss"].verdict == "problem"
    rescaled = diagnose(Sequential(Rescaling(1 / 5000), *mlp(16).layers), X * 5000, y, loss=SOFTMAX)
    assert rescaled["inputs"].verdict == rescaled["first_loss"].verdict == "ok"
    assert diagnose(mlp(16), X * 1e-4, y, loss=SOFTMAX)["inputs"].verdict == "warning"


def test_saturated_units(some):
    X, y = some
    for activation in (Tanh, Logistic):
        assert diagnose(mlp(16, activation=activation), X * 100, y, loss=SOFTMAX)["saturation"].verdict == "problem"
        assert diagnose(mlp(16, activation=activation), X, y, loss=SOFTMAX)["saturation"].verdict == "ok"


@pytest.mark.parametrize("activation", [ReLU, Tanh])
def test_units_that_start_alike_stay_alike(some, activation):
    def network(first, second):
        return Sequential(Dense(8, kernel_initializer=first), activation(), Dense(10, kernel_initializer=second))

    for alike in (Constant(0.1), Constant(0.0)):
        finding = diagnose(network(alike, Constant(0.2)), *some, loss=SOFTMAX)["equal_units"]
        assert finding.verdict == "problem"
        assert finding.measured.startswith("7 of 8")
    # random weights on one side of a layer are enough: its units have different gradients
    assert diagnose(network(Constant(0.1), "he_uniform"), *some, loss=SOFTMAX)["equal_units"].verdict == "ok"
    assert diagnose(network("he_uniform", Constant(0.0)), *some, loss=SOFTMAX)["equal_units"].verdict == "ok"
    model = network(Constant(0.1), Constant(0.2))
    model.fit(*some, loss=SOFTMAX, epochs=20, verbose=0)
    assert diagnose(model, *some)["equal_units"].verdict == "problem"
    assert diagnose(mlp(16), *some, loss=SOFTMAX)["equal_units"].verdict == "ok"
    alike = [Dense(6, kernel_initializer=Constant(0.1)), activation(), Dense(10, kernel_initializer=Constant(0.2))]
    finding = diagnose(Sequential(Dense(8), activation(), *alike), *some, loss=SOFTMAX)["equal_units"]
    assert finding.measured.startswith("5 of 14")
    report = diagnose(Sequential(Dense(10)), *some, loss=SOFTMAX)
    assert "equal_units" not in [f.name for f in report.findings]  # no hidden layer


def test_dead_units(some):
    model = mlp(20).build(64)
    model.set_parameters({"dense_0.bias": np.where(np.arange(20) < 12, -100.0, 0.0)})
    finding = diagnose(model, *some, loss=SOFTMAX)["dead_units"]
    assert finding.verdict == "problem"
    assert finding.measured.startswith("12 of 20")


def test_rare_class(some):
    X, y = some
    rare = (np.arange(400) < 12).astype(int)
    one = Sequential(Dense(8), ReLU(), Dense(1))
    assert diagnose(one, X, rare, loss="binary_cross_entropy")["class_balance"].verdict == "warning"
    assert diagnose(one, X, y % 2, loss="binary_cross_entropy")["class_balance"].verdict == "ok"


def test_targets_far_from_zero(some, rng):
    X, y = some[0], rng.normal(size=400)
    model = Sequential(Dense(8), ReLU(), Dense(1))
    assert diagnose(model, X, y, loss="squared_error")["first_loss"].verdict == "ok"
    assert diagnose(model, X, y + 100, loss="squared_error")["first_loss"].verdict == "problem"


def test_equal_targets(some):
    report = diagnose(mlp(8), some[0], np.zeros(400, int), loss=SOFTMAX)
    assert report["five_examples"].measured == "all targets are the same"


def test_gradient_norms_are_those_of_the_gradients(some):
    model = mlp(8, dtype="float64").build(64)
    _, gradients = model.gradients(*some, SOFTMAX)
    norms = gradient_norms(model, *some, SOFTMAX)
    assert norms == {f"dense_{k}": pytest.approx(np.linalg.norm(gradients[f"dense_{k}.weight"])) for k in (0, 1)}


@pytest.mark.parametrize(
    "loss",
    [
        SoftmaxCrossEntropy(label_smoothing=0.3),
        BinaryCrossEntropy(),
        BinaryCrossEntropy(label_smoothing=0.2),
        Focal(),
        SquaredError(),
        AbsoluteError(),
        Huber(),
        Poisson(),
        NegativeBinomial(),
    ],
    ids=repr,
)
def test_every_loss_has_its_own_chance(some, loss):
    X, digit = some[0] / 16, some[1]
    targets = {"softmax_cross_entropy": digit, "binary_cross_entropy": np.eye(10)[digit], "focal": np.eye(10)[digit]}
    y = targets.get(loss.name, (digit % 4).astype(float))
    n_outputs = 10 if loss.classification else 1
    report = diagnose(Sequential(Dense(64), ReLU(), Dense(n_outputs)), X, y, loss=loss)
    assert report.problems == [], report
    assert ("class_balance" in str(report)) == loss.classification
    if not loss.classification:  # the best of many constants
        logits = np.linspace(-3, 3, 601)[:, None, None]
        best = min(loss.value(np.broadcast_to(z, (len(y), 1)), y) for z in logits)
        chance = float(report["first_loss"].measured.split()[-1])
        assert chance == pytest.approx(best, rel=1e-3)


def test_small_targets_are_not_the_same_and_hinges_are_balanced(some, rng):
    X = some[0][:100] / 16
    report = diagnose(Sequential(Dense(8), ReLU(), Dense(1)), X, 1e-4 * rng.normal(size=100), loss="squared_error")
    assert "all targets" not in report["five_examples"].measured
    report = diagnose(Sequential(Dense(1)), X, np.arange(100) % 2 * 2 - 1, loss="hinge")
    assert report["class_balance"].verdict == "ok" and "50.0%" in report["class_balance"].measured


def test_bad_input(some):
    with pytest.raises(TypeError, match="`model` must be a Sequential; got str"):
        diagnose("mlp", *some)
    with pytest.raises(ValueError, match="`loss` must be one of"):
        diagnose(mlp(8), *some)
    with pytest.raises(KeyError, match="`finding` must be one of"):
        diagnose_history([1.0] * 5)["rates"]
    with pytest.raises(ValueError, match="at least 5 epochs; got 2"):
        diagnose_history([2.0, 1.0])
    with pytest.raises(ValueError, match="`history` must be"):
        diagnose_history(3)


# Curves


def curve(some, optimizer, epochs=15, **options):
    return mlp(32).fit(*some, loss=SOFTMAX, optimizer=optimizer, epochs=epochs, verbose=0, **options)


def test_a_first_epoch_that_exploded():
    report = diagnose_history([1.9e24, 5e4, 4.2e4, 4.1e4, 4.0e4, 4.0e4])
    assert report["rate_too_high"].verdict == "problem"
    assert "no longer" not in diagnose_history([2.3, 1.1, 0.6, 0.4, 0.3, 0.25])["underfitting"].measured


def faults(history):
    return {f.name for f in diagnose_history(history).findings if f.verdict != "ok"}


def test_good_and_slow_and_overfitting_curves(some):
    assert faults(curve(some, Adam(3e-3))) == set()
    assert "rate_too_low" in faults(curve(some, SGD(1e-4)))
    X, y = some
    noisy = (X[40:], np.random.default_rng(0).permutation(y[40:]))
    assert "overfitting" in faults(
        mlp(64).fit(X[:40], y[:40], loss=SOFTMAX, optimizer=Adam(1e-2), epochs=40, verbose=0, validation_data=noisy)
    )


def digits_curve(optimizer, epochs, seed=0):
    train, validation_data = load_digits()  # split at random: the last digits of scikit-learn's are other people's
    fit = {"epochs": epochs, "validation_data": validation_data, "seed": seed, "verbose": 0}
    return mlp(64).fit(*train, loss=SOFTMAX, optimizer=optimizer, **fit)


@pytest.mark.parametrize("seed", [0, 2, 5])
def test_a_dead_network_underfits_however_far_the_first_epoch_exploded(seed):
    history = digits_curve(SGD(5.0), 10, seed)
    assert history["loss"][0] > 1.2 * history["loss"][1] > 2.3  # chance is ln 10
    finding = diagnose_history(history)["underfitting"]
    assert finding.verdict == "warning"
    assert "no longer falls, val_accuracy" in finding.measured and "smaller rate" in finding.advice


def test_labels_learned_by_heart_need_no_larger_rate(some):
    X, y = some
    noise = np.random.default_rng(0).permutation(y[:300])
    validation = (X[300:], y[300:])
    by_heart = mlp(64).fit(X[:300], noise, loss=SOFTMAX, epochs=60, validation_data=validation, verbose=0)
    assert faults(by_heart["loss"]) == {"rate_too_low"}  # the training loss alone does not tell
    assert faults(by_heart) == {"overfitting"}
    slow = mlp(64).fit(
        X[:300], y[:300], loss=SOFTMAX, optimizer=SGD(1e-3), epochs=15, validation_data=validation, verbose=0
    )
    assert faults(slow) == {"rate_too_low"}


@pytest.mark.parametrize(
    ("optimizer", "epochs"),
    [
        ("adam", 5),
        (Adam(3e-3), 15),
        (SGD(0.1), 15),
        (SGD(0.1, momentum=0.9), 5),
        (Adam(CosineDecay(5e-3, epochs=10)), 10),
    ],
    ids=repr,
)
def test_nothing_wrong_with_good_fits(optimizer, epochs):
    history = digits_curve(optimizer, epochs)
    assert faults(history) == set()
    assert faults(history["loss"]) == set()


def test_nothing_wrong_with_numbers_soon_fitted(rng):
    X = rng.normal(size=(2000, 8)).astype(np.float32)
    exact = (X @ rng.normal(size=8)).astype(np.float32)
    for y in (exact, exact + rng.normal(size=2000).astype(np.float32), exact + 100):
        data = {"loss": "squared_error", "validation_data": (X[1500:], y[1500:]), "epochs": 12, "verbose": 0}
        assert faults(Sequential(Dense(1)).fit(X[:1500], y[:1500], optimizer=SGD(0.03), **data)) == set()


FLAT = [0.352, 0.351, 0.350, 0.351, 0.350, 0.350]


@pytest.mark.parametrize(
    ("losses", "accuracy", "fault"),
    [
        (FLAT, 0.85, False),  # a good fit went on: 0.42 is the least of a constant prediction that is right as often
        (FLAT, 0.92, True),  # the likelier class has 92 % of the rows, and that is all it knows
        ([0.02] * 6, 1.0, False),
        ([30.0, 0.66, 0.67, 0.66, 0.66, 0.67], 0.62, True),  # two classes, dead since the first epoch
        ([30.0, 0.66, 0.50, 0.40, 0.33, 0.30], 0.62, False),
        ([15.0, 0.21, 0.20, 0.20, 0.20, 0.20], 0.95, True),
        ([10.0, 0.11, 0.10, 0.10, 0.10, 0.10], 0.95, False),
        ([9.0, 5.0, 2.4, 2.3, 2.3, 2.3], 0.1, True),  # two epochs exploded
        ([9.0, 5.0, 2.4, 2.3, 2.3, 2.3], float("nan"), False),
    ],
)
def test_val_accuracy_tells_a_good_flat_loss_from_a_bad_one(losses, accuracy, fault):
    finding = diagnose_history({"loss": losses, "val_accuracy": [accuracy] * 6})["underfitting"]
    assert finding.verdict == ("warning" if fault else "ok")
    assert ("no longer falls" in finding.measured) == fault


def test_accuracy_that_rises_is_not_stuck():
    learned = {"loss": [9.0, 2.3, 1.9, 1.2, 1.2, 1.2], "val_accuracy": [0.1, 0.2, 0.5, 0.7, 0.7, 0.7]}
    assert faults(learned) == set()
    assert faults(learned | {"val_accuracy": [0.1] * 6}) == {"underfitting"}


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_a_constant_prediction_has_no_less_than_the_least_entropy(rng, classes):
    for shares in rng.dirichlet(np.ones(classes), size=20):
        shares = shares * 0.9 + 0.1 / classes
        assert -(shares * np.log(shares)).sum() >= _least_entropy(shares.max()) - 1e-12
    assert _least_entropy(1.0) == _least_entropy(0.98) > 0.05
    assert _least_entropy(0.0) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "losses",
    [
        [0.5, 0.1, -0.1, -0.2, -0.33, -0.32],  # of densities
        [5.0, -0.1, -0.5, -0.8, -0.9, -0.95],
        [0.5, 0.004, 1e-6, 1e-8, 1e-8, 3e-8],  # noise far below the first loss
        [900.0, 4.0, 1.0, 0.5, 0.5, 0.5],  # the mean of the targets learned in the first epoch
    ],
)
def test_a_rate_that_is_not_too_high(losses):
    assert faults(losses) == set()


@pytest.mark.parametrize(
    "losses", [[-0.5, -0.4, -0.1, 0.4, 1.0, 2.0], [0.5, -0.1, -0.2, 0.1, 0.8, 0.9], [2.3, 1.0, 0.3, 0.2, 0.4, 0.9]]
)
def test_a_rate_that_is_too_high(losses):
    assert diagnose_history(losses)["rate_too_high"].verdict == "problem"


def test_validation_must_gain_when_the_training_loss_falls():
    losses = [0.7, 0.66, 0.65, 0.63, 0.61, 0.58]
    for val_loss, verdict in (([0.69, 0.70, 0.69, 0.70, 0.69, 0.70], "warning"), (losses, "ok")):
        assert diagnose_history({"loss": losses, "val_loss": val_loss})["overfitting"].verdict == verdict
    # val_loss jumped in the last epoch while the training loss stood still: noise
    still = {"loss": [2.3, 1.1, 0.31, 0.30, 0.30, 0.299], "val_loss": [1.5, 0.7, 0.35, 0.33, 0.33, 0.38]}
    assert diagnose_history(still)["overfitting"].verdict == "ok"
    assert diagnose_history(still | {"loss": [2.3, 1.1, 0.5, 0.4, 0.3, 0.2]})["overfitting"].verdict == "warning"


def test_rows_known_by_heart_are_overfitting_though_val_loss_never_rose():
    losses = [2.3, 1.0, 0.3, 0.1, 0.05, 0.02]
    known = {"loss": losses, "val_loss": [2.3, 1.4, 0.9, 0.7, 0.63, 0.61]}
    assert diagnose_history(known)["overfitting"].verdict == "warning"
    for val_loss in ([2.3, 1.0, 0.4, 0.15, 0.1, 0.055], [2.2, 0.9, 0.2, 0.1, 0.05, 0.01]):
        assert diagnose_history({"loss": losses, "val_loss": val_loss})["overfitting"].verdict == "ok"
    negative = {"loss": [-x for x in losses[::-1]], "val_loss": [0.0, -1.0, -1.1, -1.2, -1.3, -1.4]}  # of densities
    assert diagnose_history(negative)["overfitting"].verdict == "ok"


def test_a_report_is_a_collection_of_its_findings():
    report = diagnose_history([2.3, 1.1, 0.6, 0.4, 0.3, 0.25])
    assert list(report) == list(report.findings) and len(report) == len(report.findings) > 2
    assert all(report[finding.name] is finding for finding in report)


@pytest.mark.parametrize(
    ("losses", "fault"),
    [
        ([2.3, 2.5, 3.1, 4.0, 6.0, 9.0], "rate_too_high"),
        ([2.3, 1.0, 1.4, 0.9, 1.3, 0.8, 1.2, 0.8], "oscillation"),
        ([2.3, 1.0, 0.6, 3.0, 0.6, 0.5, 0.4], "spike"),
        ([2.3, 2.2, 2.2, 2.2, 2.2, 2.2, 2.2], "underfitting"),
        ([2.3, float("inf")], "finite"),
    ],
)
def test_written_curves(losses, fault):
    assert faults(losses) == {fault}
    assert faults({"loss": losses}) == {fault}


@pytest.mark.parametrize("loss", ["triplet", "ordinal", "hinge", "gaussian"])
def test_losses_whose_targets_are_not_outputs_are_refused(loss):
    with pytest.raises(ValueError, match=f"`loss` must be one with a target for every output.*'{loss}'"):
        diagnose(Sequential(Dense(2)), [[0.0], [1.0]], [0, 1], loss=loss)
