"""`Perceptron`: Rosenblatt's rule, what it learns and what it cannot."""

import inspect
import itertools

import numpy as np
import pytest
import sklearn.linear_model
from sklearn.exceptions import ConvergenceWarning

from fastmlp import Perceptron

CORNERS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
XOR = (0, 1, 1, 0), (1, 0, 0, 1)


def naive(X, t, epochs, rate=1.0, bias=True):
    """The rule in Python's numbers, row after row: (w, b, mistakes of each epoch)."""
    w, b, history = [0.0] * len(X[0]), 0.0, []
    for _ in range(epochs):
        history.append(0)
        for x, target in zip(X, t, strict=True):
            if target * (sum(w_k * x_k for w_k, x_k in zip(w, x, strict=True)) + b) <= 0:
                w = [w_k + rate * target * x_k for w_k, x_k in zip(w, x, strict=True)]
                b += rate * target * bias
                history[-1] += 1
        if history[-1] == 0:
            break
    return w, b, history


@pytest.mark.parametrize("y", [y for y in itertools.product([0, 1], repeat=4) if 0 < sum(y) < 4 and y not in XOR])
def test_learns_every_function_of_two_bits_but_xor(y):
    model = Perceptron().fit(CORNERS, y)
    assert model.predict(CORNERS).tolist() == list(y)
    assert model.mistakes_[-1] == 0 and model.n_iter_ == len(model.mistakes_) < 1000


@pytest.mark.parametrize("y", XOR)
def test_does_not_learn_xor(y):
    with pytest.warns(ConvergenceWarning, match="max_iter=100 epochs: more may.*no hyperplane"):
        model = Perceptron(max_iter=100).fit(CORNERS, y)
    assert model.score(CORNERS, y) < 1
    assert model.n_iter_ == 100 and min(model.mistakes_) > 0


@pytest.mark.parametrize("settings", [{}, {"eta0": 0.25}, {"fit_intercept": False}], ids=str)
def test_against_the_rule_row_by_row(settings, rng):
    X = rng.normal(size=(40, 3))
    y = X @ [1.0, -2.0, 0.5] > 0
    model = Perceptron(shuffle=False, **settings).fit(X, y)
    w, b, mistakes = naive(X, np.where(y, 1, -1), 1000, settings.get("eta0", 1), settings.get("fit_intercept", True))
    np.testing.assert_allclose(model.coef_, [w], rtol=1e-12)
    np.testing.assert_allclose(model.intercept_, [b], rtol=1e-12)
    assert model.mistakes_ == mistakes


def test_novikoffs_bound_on_the_mistakes(rng):
    X = rng.uniform(-1, 1, size=(200, 2))
    direction = np.array([0.6, 0.8])
    X = X[np.abs(X @ direction) > 0.1]  # a margin of 0.1
    model = Perceptron(fit_intercept=False).fit(X, X @ direction > 0)
    assert 0 < sum(model.mistakes_) <= (X**2).sum(axis=1).max() / 0.1**2


def test_several_classes_have_a_unit_each(rng):
    centres = np.array([[0.0, 8.0], [8.0, -5.0], [-8.0, -5.0]])
    codes = np.repeat(np.arange(3), 20)
    X, y = centres[codes] + rng.uniform(-1, 1, size=(60, 2)), np.array(["north", "east", "west"])[codes]
    model = Perceptron(shuffle=False).fit(X, y)
    assert model.score(X, y) == 1 and model.coef_.shape == (3, 2)
    for k, label in enumerate(model.classes_):  # the units learn on, until none is wrong: more epochs change none
        w, b, _ = naive(X, np.where(y == label, 1, -1), 1000)
        np.testing.assert_allclose([*model.coef_[k], model.intercept_[k]], [*w, b], rtol=1e-12)


def test_the_order_of_rows_repeats_with_its_seed(rng):
    X = rng.normal(size=(50, 4))
    y = X[:, 0] > 0.1
    a, b, other = (Perceptron(random_state=seed).fit(X, y) for seed in (3, 3, 4))
    np.testing.assert_array_equal(a.coef_, b.coef_)
    assert not np.array_equal(a.coef_, other.coef_)


def test_parameters_and_defaults_are_scikit_learns():
    ours = inspect.signature(Perceptron).parameters
    theirs = inspect.signature(sklearn.linear_model.Perceptron).parameters
    assert all(ours[name].default == theirs[name].default for name in ours)


@pytest.mark.parametrize(
    ("settings", "X", "y", "message"),
    [
        ({"eta0": 0}, CORNERS, XOR[0], r"'eta0'.*\(0.0, inf\). Got 0"),
        ({"max_iter": 0}, CORNERS, XOR[0], "'max_iter'.*Got 0"),
        ({}, CORNERS, [1, 1, 1, 1], "y must have at least two classes; got 1 class"),
        ({}, CORNERS, [0.5, 1.5, 1, 0], "Unknown label type"),
        ({}, CORNERS, CORNERS, r"y must have one column; got shape \(4, 2\)"),
        ({}, np.where(CORNERS, np.nan, 1), XOR[0], "X contains NaN: the first is in row 1, column 1"),
    ],
)
def test_bad_input(settings, X, y, message):
    with pytest.raises(ValueError, match=message):
        Perceptron(**settings).fit(X, y)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_epochs_by_partial_fit_are_those_of_fit(n_classes):
    """And rows one by one; what was read before stays."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 3)), rng.integers(0, n_classes, 60).astype(str)
    whole, epochs, rows = Perceptron(shuffle=False, max_iter=3, eta0=0.5), Perceptron(eta0=0.5), Perceptron(eta0=0.5)
    with pytest.warns(ConvergenceWarning):
        whole.fit(X, y)
    for _ in range(3):
        epochs.partial_fit(X, y, classes=np.unique(y))
        for x, label in zip(X, y, strict=True):
            before = rows.coef_ if hasattr(rows, "coef_") else np.zeros(0)
            kept = before.copy()
            rows.partial_fit([x], [label], classes=np.unique(y))
            np.testing.assert_array_equal(before, kept)
    for other in (epochs, rows):
        np.testing.assert_array_equal(other.coef_, whole.coef_)
        np.testing.assert_array_equal(other.intercept_, whole.intercept_)
    assert epochs.mistakes_ == whole.mistakes_ and epochs.n_iter_ == 3
    assert np.reshape(rows.mistakes_, (3, 60)).sum(axis=1).tolist() == whole.mistakes_


def test_what_partial_fit_refuses():
    for y, classes, message in (
        ([0, 1], None, "`classes` must be two or more, all labels that will come; got None"),
        ([0, 2], [0, 1], "y must have labels among `classes`.*got 2"),
        ([0, 0], [0], r"`classes` must be two or more, all labels that will come; got \[0\]"),
    ):
        model = Perceptron()
        with pytest.raises(ValueError, match=message):
            model.partial_fit([[0.0], [1.0]], y, classes=classes)
        assert not hasattr(model, "coef_")
    model = Perceptron().partial_fit([[0.0], [1.0]], [0, 1], classes=[0, 1])
    with pytest.raises(ValueError, match="`classes` must be those of the first call"):
        model.partial_fit([[0.0]], [0], classes=[0, 1, 2])
    with pytest.raises(ValueError, match="X has 2 features, but Perceptron is expecting 1"):
        model.partial_fit([[0.0, 1.0]], [0])
    assert model.n_iter_ == 1 and model.partial_fit([[0.0]], [0]).n_iter_ == 2
