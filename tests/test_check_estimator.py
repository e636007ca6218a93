"""scikit-learn's own checks of an estimator; the list of expected failures is empty."""

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.utils.estimator_checks import parametrize_with_checks

from fastmlp import MLPClassifier, MLPRegressor, Perceptron, PiecewiseLinearEncoder

pytestmark = pytest.mark.filterwarnings("ignore")  # the checks warn on purpose, of convergence and of their own API

ESTIMATORS = [
    MLPClassifier(),
    MLPRegressor(),
    MLPRegressor(solver="lbfgs", tol=1e-6),
    MLPRegressor(solver="sgd"),
    MLPClassifier(solver="sgd", activation="tanh", learning_rate="adaptive"),
    Perceptron(max_iter=30),
    PiecewiseLinearEncoder(n_bins=5),
]


@parametrize_with_checks(ESTIMATORS, expected_failed_checks=lambda estimator: {})
def test_check(estimator, check):
    check(estimator)


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("sparse", [False, True])
def test_a_weight_is_a_repetition_in_full_batches(solver, sparse):
    """Weight 0 removes a row and weight k repeats it k times, up to rounding, whatever the order of rows."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 5)), rng.integers(0, 3, 60)
    weight = rng.integers(0, 4, 60)
    repeated = rng.permutation(np.repeat(np.arange(60), weight))
    if sparse:
        X = csr_array(np.where(X > 0, X, 0.0))
    settings = {"solver": solver, "activation": "tanh", "max_iter": 30, "random_state": 0}
    a = MLPClassifier(**settings).fit(X, y, sample_weight=weight)
    b = MLPClassifier(**settings).fit(X[repeated], y[repeated])
    np.testing.assert_allclose(a.predict_proba(X), b.predict_proba(X), rtol=1e-7)
    np.testing.assert_allclose(a.loss_, b.loss_, rtol=1e-7)
