"""A training's life besides updates: state, snapshots, learning rates, the plan in words; and L-BFGS's objective."""

import numpy as np
import pytest
import reference
from cases import OPTIMIZERS, Case, as_targets, cases, examples
from hypothesis import given

from fastmlp import GLU, SGD, Adam, Dense, Residual, Sequential, Tanh
from fastmlp.gradients import RULE, FlatObjective
from fastmlp.layers import Maxout
from fastmlp.training import Training


def open_training(model, case, **options):
    X, y, weights = case.data()
    arguments = {"loss": case.loss, "optimizer": case.optimizer, "batch_size": case.batch_size, "l2": case.l2}
    return Training(model, X, as_targets(case, y), **arguments | {"sample_weight": weights, "seed": 5} | options)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_a_training_goes_on_from_its_state_to_the_bit(optimizer, dtype):
    case = Case(50, 7, (33, 3), ("tanh", "identity"), "softmax_cross_entropy", optimizer, 8, dtype=dtype)
    whole, parts = case.model(), case.model()
    with open_training(whole, case) as training:
        expected = training.run(epochs=5)
    with open_training(parts, case) as training:
        losses = list(training.run(epochs=2))
        state = training.state
        assert (training.epoch, training.step) == (2, 14)
    with open_training(parts, case, state=state, n_threads=2) as training:
        losses += list(training.run(epochs=3))
        assert (training.epoch, training.step) == (5, 35)
    assert np.array_equal(losses, expected)
    for name, value in whole.parameters.items():
        assert np.array_equal(value, parts.parameters[name]), name


def test_a_state_of_another_optimizer_is_refused():
    case = Case(20, 3, (4,), ("identity",), "squared_error", SGD(0.1), 5)
    with open_training(case.model(), case) as training:
        state = training.state
    with pytest.raises(ValueError, match="slots.*Adam"):
        open_training(case.model(), case, optimizer=Adam(), state=state)


def test_a_snapshot_is_restored():
    case = Case(40, 6, (40, 33, 3), ("relu", "tanh", "identity"), "squared_error", SGD(0.1), 8)
    model = case.model()
    with open_training(model, case) as training:
        training.run(epochs=1)
        snapshot, at = training.snapshot(), training.epoch
        training.save_parameters()
        before = model.parameters
        first = training.run(epochs=2)
        training.restore(snapshot)
        training.save_parameters()
        assert all(np.array_equal(before[name], model.parameters[name]) for name in before)
        training.epoch = at  # the same rows in the same order, with transposed copies that fit
        assert np.array_equal(training.run(epochs=2), first)


def test_the_learning_rate_may_change_between_epochs():
    case = Case(40, 6, (5, 3), ("tanh", "identity"), "squared_error", SGD(0.1, momentum=0.9), 8)
    model = case.model()
    twin = case.twin(model)
    X, y, _ = case.data()
    with open_training(model, case, shuffle=False) as training:
        for rate in (0.1, 0.02, 0.0):
            training.learning_rate = rate
            training.run(epochs=1)
            twin.optimizer = SGD(rate, momentum=0.9)
            twin.epoch(X, y, reference.in_order(40, 8))
    for name, value in model.parameters.items():
        assert reference.relative_error(value, twin.parameters[name]) < 1e-11


def test_a_plan_reads_like_the_step():
    case = Case(40, 6, (5, 3), ("tanh", "identity"), "softmax_cross_entropy", Adam(), 8)
    with open_training(case.model(), case) as training:
        text = str(training.plan)
    for words in ("batch of up to 8", "6 -> 5: tanh(", "5 -> 3", "dense_0.weight (6, 5)", "adam", "barrier", "MiB"):
        assert words in text, text


@pytest.mark.parametrize("first", [GLU(5), Maxout(5, pieces=3), Residual(Dense(6), Tanh()), Dense(5, trainable=False)])
def test_no_gradient_of_the_inputs_of_layers_without_learning_before(first):
    """The branches of the first layers need none of X, which has the most columns as a rule."""
    case = Case(40, 6, (5, 3), ("tanh", "identity"), "softmax_cross_entropy", Adam(), 8)
    for before in ((), (Dense(6),)):
        model = Sequential(*before, first, Dense(3)).build(6)
        weights = [name for name in model.parameters if name.endswith("weight")][len(before) : -1]
        with open_training(model, case) as training:
            texts = [step.text for phase in training.plan.phases for step in phase.steps]
        given = [name for name in weights if any(f"(dz {name}^T)" in text for text in texts)]
        assert given == (weights if before else [])


# The objective of L-BFGS


@examples(20)
@given(cases(sources=["float32", "float64", "uint8", "csr", "sparse", "sparse64", "memmap"]))
def test_flat_objective_against_the_twin(case):
    model, (X, y, weights) = case.model(), case.data()
    rng = np.random.default_rng(case.seed)
    options = {"batch_size": case.n, "shuffle": False, "n_threads": 2, "study": True, "l2": case.l2}
    options |= {"loss": case.loss, "optimizer": RULE, "sample_weight": weights}
    training = Training(model, X, as_targets(case, y), **options)
    objective = FlatObjective(training)
    theta = np.concatenate([value.ravel() for value in model.parameters.values()]).astype(np.float64)
    try:
        for _ in range(2):
            loss, gradient = objective(theta)
            parts = np.split(theta.astype(case.dtype), np.cumsum([p.size for p in model.parameters.values()])[:-1])
            parameters = {
                name: part.reshape(p.shape) for (name, p), part in zip(model.parameters.items(), parts, strict=True)
            }
            data_loss, expected = reference.loss_and_gradients(
                model.layers, parameters, X, as_targets(case, y), case.loss, weights, case.l2
            )
            squares = sum((p.astype(float) ** 2).sum() for name, p in parameters.items() if "weight" in name)
            total = case.n if weights is None else weights.sum()
            tolerance = 1e-9 if case.dtype == "float64" else 2e-4
            np.testing.assert_allclose(loss, data_loss + 0.5 * case.l2 / total * squares, rtol=tolerance, atol=1e-7)
            expected = np.concatenate([expected[name].ravel() for name in model.parameters])
            assert gradient.dtype == np.float64
            assert reference.relative_error(gradient, expected) < tolerance
            assert np.array_equal(objective.theta, theta.astype(case.dtype))
            theta = theta + 0.1 * rng.normal(size=theta.shape)  # parameters are set anew at each call
    finally:
        training.close()
