"""`diagnose` and `diagnose_history`: each verdict on a case that has the fault and on one that has not."""

import numpy as np
import pytest

from fastmlp import SGD, Adam, Dense, Logistic, ReLU, Rescaling, Sequential, Tanh, diagnose, diagnose_history
from fastmlp.diagnosis import gradient_norms
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

SOFTMAX = "softmax_cross_entropy"


def mlp(*hidden, activation=ReLU, dtype="float32"):
    layers = [layer for units in hidden for layer in (Dense(units), activation())]
    return Sequential(*layers, Dense(10), dtype=dtype)


@pytest.fixture
def some(digits):
    return digits[0][:400], digits[1][:400]


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
