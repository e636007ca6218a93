"""`find_learning_rate`, and the losses of single steps that it is made of."""

import numpy as np
import pytest
import scipy.sparse

from fastmlp import (
    SGD,
    Adam,
    BatchNorm,
    Dense,
    DivergenceError,
    Dropout,
    ReLU,
    Sequential,
    find_learning_rate,
    rate_test,
)
from fastmlp.callbacks import Callback
from fastmlp.datasets import load_digits
from fastmlp.losses import SoftmaxCrossEntropy
from fastmlp.rate_test import RateTest

LOSS = "softmax_cross_entropy"


@pytest.fixture(scope="module")
def digits():
    return load_digits()[0]


def mlp(dtype="float32"):
    return Sequential(Dense(32), ReLU(), Dense(10), dtype=dtype)


class StepLosses(Callback):
    def on_fit_begin(self, training):
        self.epochs = [training.step_losses]

    def on_epoch_end(self, training, epoch, logs):
        self.epochs.append(training.step_losses)
        self.mean = logs["loss"]


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_of_steps_are_those_of_batches_before_their_update(digits, weighted, n_threads):
    X, y = digits[0][:100], digits[1][:100]
    weights = np.linspace(0.5, 2.0, 100) if weighted else None
    model, seen = mlp("float64").build(64, seed=0), StepLosses()
    by_hand, expected, loss = mlp("float64").build(64, seed=0), [], SoftmaxCrossEntropy()
    options = {"loss": LOSS, "optimizer": SGD(0.1), "batch_size": 32, "shuffle": False, "verbose": 0}
    options |= {"sample_weight": weights, "n_threads": n_threads}
    model.fit(X, y, epochs=3, callbacks=[seen], **options)
    for _ in range(3):
        for first in range(0, 100, 32):
            rows = slice(first, first + 32)
            own = None if weights is None else weights[rows]
            expected.append(loss.value(by_hand.logits(X[rows]), y[rows], own))
            own = None if weights is None else own / weights.mean()
            by_hand.train_on_batch(X[rows], y[rows], loss=LOSS, optimizer=SGD(0.1), sample_weight=own)
    before, *epochs = seen.epochs
    assert len(before) == 0
    assert [len(losses) for losses in epochs] == [4, 4, 4]
    np.testing.assert_allclose(np.concatenate(epochs), expected, rtol=1e-10)
    sizes = [32, 32, 32, 4] if weights is None else [weights[i : i + 32].sum() for i in range(0, 100, 32)]
    assert np.average(epochs[-1], weights=sizes) == pytest.approx(seen.mean)


@pytest.mark.parametrize(("optimizer", "batch_size"), [(Adam(), 32), (SGD(), 32), (SGD(momentum=0.9), 128)])
def test_the_suggestion_trains_better_than_rates_far_from_it(digits, optimizer, batch_size):
    X, y = digits
    test = find_learning_rate(mlp(), X, y, loss=LOSS, optimizer=optimizer, batch_size=batch_size, high=10.0)
    assert 1e-4 < test.suggestion < 0.3
    losses = {}
    for factor in (0.01, 1, 1000):
        optimizer = type(optimizer)(test.suggestion * factor)
        try:
            losses[factor] = mlp().fit(X, y, loss=LOSS, optimizer=optimizer, epochs=5, verbose=0)["loss"][-1]
        except DivergenceError:
            losses[factor] = np.inf
    assert losses[1] < min(losses[0.01], losses[1000])


def test_what_it_gives(digits):
    test = find_learning_rate(mlp(), *digits, loss=LOSS, low=1e-5, high=0.1, steps=60)
    assert test.rates.shape == test.losses.shape == test.smoothed.shape == (60,)
    np.testing.assert_allclose(test.rates, np.geomspace(1e-5, 0.1, 60))
    assert test.losses[0] == pytest.approx(np.log(10), rel=0.5)
    assert test.suggestion * 10 in test.rates
    assert "60 steps at rates from 1e-05 to 0.1; suggestion" in repr(test)


def test_the_model_stays_and_the_result_repeats(digits):
    fresh, trained = mlp(), mlp()
    trained.fit(*digits, loss=LOSS, epochs=2, verbose=0)
    before, history = trained.parameters, trained.history
    for model in (fresh, trained):
        first, second = (find_learning_rate(model, *digits, loss=LOSS, n_threads=n) for n in (1, 2))
        np.testing.assert_array_equal(first.losses, second.losses)
    assert not fresh.built
    assert fresh.loss is None
    assert trained.history is history
    assert all(np.array_equal(before[name], array) for name, array in trained.parameters.items())
    # it begins with the model's own parameters, and the loss of its last fit
    assert find_learning_rate(trained, *digits).losses[0] < find_learning_rate(fresh, *digits, loss=LOSS).losses[0]


def test_few_rows_are_seen_again_and_of_many_some(digits):
    X, y = digits
    few = find_learning_rate(mlp(), X[:50], y[:50], loss=LOSS, steps=45, batch_size=20)  # 15 epochs of 3 steps
    assert len(few.losses) == 45
    assert len(find_learning_rate(mlp(), X[:50], y[:50], loss=LOSS, steps=44, batch_size=20).losses) == 44
    # with the network's own first parameters, and other rows by another seed
    model = mlp().build(64)
    first, again, other = (
        find_learning_rate(model, X, y, loss=LOSS, steps=20, batch_size=8, seed=seed).losses for seed in (0, 0, 1)
    )
    assert len(first) == 20
    np.testing.assert_array_equal(first, again)
    assert not np.isin(first, other).any()


def test_rates_that_diverge_end_it(digits):
    X, y = digits
    model = Sequential(Dense(32), ReLU(), Dense(1))
    test = find_learning_rate(model, X, y, loss="squared_error", optimizer=SGD(), high=100.0)
    assert 50 < len(test.losses) < 200
    assert np.isfinite(test.losses).all()
    assert 1e-4 < test.suggestion < 0.1
    with pytest.raises(DivergenceError):
        find_learning_rate(model, 1e30 * X, y, loss="squared_error", optimizer=SGD())


def test_sparse_rows_weights_dropout_and_norms(digits):
    X, y = digits
    model = Sequential(Dense(16), BatchNorm(), ReLU(), Dropout(0.2), Dense(10))
    weights = np.where(y == 3, 0.0, 1.0)
    test = find_learning_rate(model, scipy.sparse.csr_array(X), y, loss=LOSS, sample_weight=weights, steps=30)
    assert len(test.losses) == 30
    dense = find_learning_rate(model, X, y, loss=LOSS, sample_weight=weights, steps=30)
    np.testing.assert_allclose(test.losses, dense.losses, rtol=1e-3)


def test_queries(rng):
    X, y, groups = rng.normal(size=(60, 3)), rng.integers(0, 3, 60).astype(float), np.repeat(np.arange(12), 5)
    test = find_learning_rate(Sequential(Dense(1)), X, y, loss="ranknet", groups=groups, batch_size=5, steps=40)
    assert len(test.losses) == 40  # 14 epochs of 3 steps
    assert np.isfinite(test.losses).all()


def test_plot(digits):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    test = find_learning_rate(mlp(), *digits, loss=LOSS, high=10.0)
    ax = test.plot()
    assert ax.get_xscale() == "log"
    losses, smoothed, line = ax.get_lines()
    np.testing.assert_array_equal(losses.get_ydata(), test.losses)
    np.testing.assert_array_equal(smoothed.get_xdata(), test.rates)
    assert line.get_xdata()[0] == test.suggestion
    _, other = pyplot.subplots()
    assert test.plot(ax=other) is other
    pyplot.close("all")


def test_noise_does_not_decide():
    rates = np.geomspace(1e-6, 1, 200)
    valley = (np.log10(rates) + 2) ** 2
    noisy = valley + np.random.default_rng(0).normal(size=200)
    noisy[5] = -3.0  # one lucky batch
    assert 1e-3 / 4 < RateTest(rates, noisy).suggestion < 1e-3 * 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"low": 0}, "`low`"),
        ({"low": -1.0}, "`low`"),
        ({"low": 0.1, "high": 0.1}, "`high`"),
        ({"high": "1"}, "`high`"),
        ({"high": float("inf")}, "`high`"),
        ({"low": 1e-320}, "`low`"),
        ({"steps": 19}, "`steps` must be an integer of at least 20; got 19"),
        ({"steps": 100.0}, "`steps`"),
        ({"batch_size": 0}, "`batch_size`"),
        ({"seed": -1}, "`seed`"),
        ({"optimizer": "adamm"}, "`optimizer`.*'adam'"),
        ({"loss": "softmax"}, "softmax_cross_entropy"),
        ({"sample_weight": [1.0]}, "`sample_weight`"),
        ({"groups": np.zeros(1437)}, "`groups`"),
    ],
)
def test_bad_input(digits, arguments, words):
    with pytest.raises((ValueError, TypeError), match=words):
        find_learning_rate(mlp(), *digits, **{"loss": LOSS} | arguments)


def test_bad_models(digits):
    with pytest.raises(TypeError, match="`model` must be a Sequential; got int"):
        find_learning_rate(3, *digits, loss=LOSS)
    with pytest.raises(ValueError, match="`loss`"):
        find_learning_rate(mlp(), *digits)


def test_rows_that_weigh_nothing_are_left_out(rng):
    X = rng.normal(size=(400, 5))
    y, weights = (X[:, 0] > 0).astype(int), np.ones(400)
    weights[:100] = 0.0
    model = Sequential(Dense(8), ReLU(), Dense(2)).build(5)
    options = {"loss": LOSS, "batch_size": 1, "steps": 400}
    found = find_learning_rate(model, X, y, sample_weight=weights, **options)
    expected = find_learning_rate(model, X[100:], y[100:], **options)
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-5)
    assert 1e-4 < found.suggestion < 0.1


def test_of_many_queries_some(rng, monkeypatch):
    X, groups = rng.normal(size=(5000, 3)), np.repeat(np.arange(1000), 5)
    y, model, seen = X[:, 0] > 0, Sequential(Dense(1)), []

    class Noted(rate_test._StepLosses):
        def on_epoch_end(self, training, epoch, logs):
            super().on_epoch_end(training, epoch, logs)
            seen.append((training.step, training.n_samples))

    monkeypatch.setattr(rate_test, "_StepLosses", Noted)
    test = find_learning_rate(model, X, y, loss="ranknet", groups=groups, batch_size=4, steps=50)
    assert len(test.losses) == 50
    assert seen == [(50, 4 * 50 * 5)]
    with pytest.raises(TypeError, match="`groups` must have labels of one kind"):
        find_learning_rate(model, X, y, loss="ranknet", groups=np.array([1, "a"] * 2500, dtype=object))


def test_a_loss_that_is_least_at_an_end_is_told(tmp_path):
    rates = np.geomspace(1e-6, 1, 50)
    for losses in (np.arange(50.0), -np.arange(50.0), np.ones(50)):
        test = RateTest(rates, losses)
        assert "least at an end: try other rates" in repr(test)
        pyplot = pytest.importorskip("matplotlib.pyplot")
        low, high = test.plot().get_ylim()
        assert low < losses.min() <= high
        pyplot.close("all")
    assert "end" not in repr(RateTest(rates, (np.log10(rates) + 3) ** 2))
