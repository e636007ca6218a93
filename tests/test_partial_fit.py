"""`partial_fit` on one batch after the other: what the first has set up serves the next, and changes no bit."""

import copy
import gc
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.sparse
from sklearn.base import clone

from fastmlp import DivergenceError, MLPClassifier, MLPRegressor, load_model, save_model
from fastmlp.estimators import solvers

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 5))
CODES, Y = RNG.integers(0, 3, 120), RNG.normal(size=(120, 2))


def same(a, b):
    """Whether two estimators, or parts of them, hold the same bits."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return a == b


def rows(n, dtype=np.float64):
    chosen = RNG.integers(0, len(X), n)
    return chosen, np.abs(40 * X[chosen]).astype(np.uint8) if dtype == np.uint8 else X[chosen].astype(dtype)


def write_into(model):
    model.coefs_[0][1, 2] = 0.25
    model.intercepts_[-1][:] += 0.5


# What happens between two batches: (rows of the next, its options, what is done to the model before)
BETWEEN = {
    "nothing": (40, {}, lambda model: None),
    "fewer rows": (7, {}, lambda model: None),
    "one row": (1, {}, lambda model: None),
    "more rows": (60, {}, lambda model: None),
    "several batches": (500, {}, lambda model: None),
    "weights": (40, {"sample_weight": RNG.uniform(0.5, 2, 40)}, lambda model: None),
    "coefficients are written into": (40, {}, write_into),
    "coefficients are replaced": (40, {}, lambda model: setattr(model, "coefs_", [2 * c for c in model.coefs_])),
    "alpha": (40, {}, lambda model: model.set_params(alpha=0.1)),
    "rate": (40, {}, lambda model: model.set_params(learning_rate_init=0.1)),
    "threads": (40, {}, lambda model: model.set_params(n_threads=2)),
    "activation": (40, {}, lambda model: model.set_params(activation="tanh")),
    "a prediction": (40, {}, lambda model: model.predict(X)),
    "a copy is trained": (40, {}, lambda model: copy.deepcopy(model).partial_fit(X[:40], target(model)[:40])),
}


def target(model):
    return CODES if isinstance(model, MLPClassifier) else Y


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.uint8])
@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize(
    "model",
    [
        MLPClassifier((9, 6), random_state=1),
        MLPRegressor(hidden_layer_sizes=(9,), random_state=1),
        MLPClassifier((9,), solver="sgd", momentum=0.8, learning_rate="invscaling", random_state=1, warm_start=True),
    ],
    ids=["adam", "regressor", "sgd"],
)
def test_the_bits_are_those_of_setting_up_anew(model, between, dtype):
    n, options, change = BETWEEN[between]
    first, later = rows(40, dtype), [rows(n, dtype) for _ in range(3)]
    kept, anew = clone(model), clone(model)
    named = {"classes": [0, 1, 2]} if isinstance(model, MLPClassifier) else {}
    used = 0
    for estimator in (kept, anew):
        y = target(estimator)
        estimator.partial_fit(first[1], y[first[0]], **named)
        for chosen, batch in later:
            change(estimator)
            if estimator is anew:
                solvers._set_up.clear()
            before = solvers._set_up.get(estimator)
            estimator.partial_fit(batch, y[chosen], **options)
            used += before is not None and before.training is getattr(solvers._set_up.get(estimator), "training", None)
    assert same(vars(kept), vars(anew))
    least = {"several batches": 0, "threads": 2, "activation": 2, "alpha": 2, "rate": 2, "more rows": 2, "weights": 2}
    assert used == least.get(between, 3)


def test_files_and_pickles_go_on_the_same(tmp_path):
    model = MLPClassifier((8,), random_state=0).partial_fit(X[:30], CODES[:30], classes=[0, 1, 2])
    save_model(tmp_path / "model.safetensors", model)
    others = [pickle.loads(pickle.dumps(model)), load_model(tmp_path / "model.safetensors"), copy.deepcopy(model)]
    for estimator in (model, *others):
        estimator.partial_fit(X[30:60], CODES[30:60])
    for other in others:
        assert same(model.coefs_, other.coefs_) and same(model._training_state, other._training_state)


def test_a_fit_in_between_is_the_start_of_what_follows():
    models = [MLPClassifier((8,), random_state=0, warm_start=True, max_iter=2, tol=0) for _ in range(2)]
    for model in models:
        model.partial_fit(X[:30], CODES[:30], classes=[0, 1, 2])
        with pytest.warns(UserWarning, match="Maximum iterations"):
            model.fit(X, CODES)
        if model is models[1]:
            solvers._set_up.clear()
        model.partial_fit(X[:30], CODES[:30])
    assert same(models[0].coefs_, models[1].coefs_)


def test_after_a_divergence_it_begins_anew():
    model = (
        MLPRegressor(hidden_layer_sizes=(8,), random_state=0, solver="sgd")
        .partial_fit(X[:30], Y[:30])
        .partial_fit(X[:30], Y[:30])
    )
    before = copy.deepcopy(model.coefs_)
    with pytest.raises(DivergenceError):
        model.partial_fit(1e200 * X[:30], 1e200 * Y[:30])
    assert same(model.coefs_, before) and model not in solvers._set_up
    assert np.isfinite(model.partial_fit(X[:30], Y[:30]).loss_)


def test_what_is_set_up_goes_with_the_estimator_and_holds_no_rows():
    rows_of_its_own = X[:30].copy()
    model = MLPRegressor(hidden_layer_sizes=(8,), random_state=0).partial_fit(rows_of_its_own, Y[:30])
    training, alive = weakref.ref(solvers._set_up[model].training), weakref.ref(rows_of_its_own)
    del rows_of_its_own
    gc.collect()
    assert alive() is None and training() is not None
    del model
    gc.collect()
    assert training() is None


def test_large_networks_and_sparse_rows_are_not_kept(monkeypatch):
    sparse = scipy.sparse.csr_array(np.where(np.abs(X) > 2.2, X, 0))
    models = [MLPRegressor(hidden_layer_sizes=(8,), random_state=0) for _ in range(2)]
    for model in models:
        for part in (slice(0, 40), slice(40, 80), slice(80, 120)):
            if model is models[1]:
                solvers._set_up.clear()
            model.partial_fit(sparse[part], Y[part])
    assert same(models[0].coefs_, models[1].coefs_)
    monkeypatch.setattr("fastmlp.prediction.KEPT_BYTES", 1000)
    model = MLPRegressor(hidden_layer_sizes=(8,), random_state=0).partial_fit(X[:30], Y[:30])
    assert model not in solvers._set_up


def test_all_that_is_kept_has_a_limit_together(monkeypatch):
    first = MLPRegressor(hidden_layer_sizes=(8,), random_state=0).partial_fit(X[:30], Y[:30])
    size = solvers._set_up[first].training.plan.n_bytes
    solvers._set_up.clear()
    monkeypatch.setattr("fastmlp.prediction.KEPT_BYTES", 2 * size)
    models = [MLPRegressor(hidden_layer_sizes=(8,), random_state=0).partial_fit(X[:30], Y[:30]) for _ in range(4)]
    assert [model in solvers._set_up for model in models] == [False, False, True, True]


def test_threads_that_train_one_estimator_at_once_crash_nothing():
    model = MLPRegressor(hidden_layer_sizes=(16,), random_state=0, n_threads=2).partial_fit(X[:30], Y[:30])

    def train(k):
        for _ in range(40):
            model.partial_fit(X[k : k + 30], Y[k : k + 30])

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(train, range(3)))
    assert all(np.isfinite(coef).all() for coef in model.coefs_)


def test_a_network_of_lbfgs_s_begins_with_an_optimiser_that_has_seen_nothing():
    models = [MLPClassifier((8,), random_state=0, max_iter=3) for _ in range(2)]
    for model in models:
        model.partial_fit(X[:30], CODES[:30], classes=[0, 1, 2])
        with pytest.warns(UserWarning, match="failed to converge"):
            model.set_params(solver="lbfgs").fit(X, CODES)
        if model is models[1]:
            solvers._set_up.clear()
        model.set_params(solver="adam").partial_fit(X[:30], CODES[:30])
    assert same(models[0].coefs_, models[1].coefs_)


def test_classes_that_get_weights_between_two_batches():
    """What a step divides by is another then."""
    X, y = np.eye(4), np.array([0, 0, 1, 1])
    options = {"hidden_layer_sizes": (), "solver": "sgd", "momentum": 0.0, "alpha": 0.0, "random_state": 0}
    changed, always = MLPClassifier(**options), MLPClassifier(**options, class_weight={1: 3.0})
    changed.partial_fit(X, y, classes=[0, 1])
    always.coefs_ = None
    always = MLPClassifier(**options, class_weight={1: 3.0}).partial_fit(X, y, classes=[0, 1])
    always.coefs_[0][:], always.intercepts_[0][:] = changed.coefs_[0], changed.intercepts_[0]
    changed.set_params(class_weight={1: 3.0})
    for model in (changed, always):
        model.partial_fit(X, y)
    np.testing.assert_allclose(changed.coefs_[0], always.coefs_[0], rtol=1e-12)
