"""`MLPClassifier` and `MLPRegressor` against scikit-learn's, and what fastmlp promises beyond."""

import _thread
import inspect
import pickle
import subprocess
import sys
import threading
import typing
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sklearn
from scipy.sparse import csc_array, csr_array, csr_matrix
from sklearn import neural_network
from sklearn.base import clone
from sklearn.datasets import make_classification, make_multilabel_classification, make_regression
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tracing import untraced

import fastmlp
from fastmlp import DivergenceError, MLPClassifier, MLPRegressor, Perceptron
from fastmlp.activations import ACTIVATIONS, ALIASES

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
SMALL = {"hidden_layer_sizes": (8, 5), "random_state": 0, "max_iter": 15}


def three_classes(n=120):
    return make_classification(n, 6, n_informative=5, n_redundant=0, n_classes=3, random_state=0)


def numbers(n_outputs=1, n=120):
    X, y = make_regression(n, 6, n_targets=n_outputs, random_state=0)
    return X, y / 50


def outputs(estimator, X):
    return estimator.predict_proba(X) if hasattr(estimator, "predict_proba") else estimator.predict(X)


def assert_same_network(a, b):
    for p, q in zip([*a.coefs_, *a.intercepts_], [*b.coefs_, *b.intercepts_], strict=True):
        np.testing.assert_array_equal(p, q)


# ------------------------------------------------------------------------------------------ an import swap

TASKS = {
    "classes": ("MLPClassifier", three_classes()),
    "two classes": ("MLPClassifier", (three_classes()[0], three_classes()[1] > 0)),
    "labels": ("MLPClassifier", make_multilabel_classification(120, 6, n_classes=4, random_state=0)),
    "number": ("MLPRegressor", numbers()),
    "numbers": ("MLPRegressor", numbers(2)),
}


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_parameters_and_defaults_are_scikit_learns(name):
    ours = inspect.signature(getattr(fastmlp, name)).parameters
    theirs = inspect.signature(getattr(neural_network, name)).parameters
    assert [*ours][: len(theirs)] == [*theirs]
    assert all(ours[p].default == theirs[p].default and ours[p].kind == theirs[p].kind for p in theirs)
    added = {"n_threads", "device", "precision"} | ({"class_weight"} if name == "MLPClassifier" else set())
    assert set(ours) - set(theirs) == added


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("settings", [{"solver": "adam"}, {"solver": "lbfgs"}, {"early_stopping": True}], ids=str)
def test_fitted_attributes_are_scikit_learns(task, settings):
    name, (X, y) = TASKS[task]
    ours = getattr(fastmlp, name)(**SMALL, **settings).fit(X, y)
    theirs = getattr(neural_network, name)(**SMALL, **settings).fit(X, y)
    public = {a for a in vars(theirs) if a.endswith("_") and not a.startswith("_")}
    assert public <= set(vars(ours))
    for attribute in public - {"loss_", "best_loss_", "loss_curve_", "validation_scores_", "best_validation_score_"}:
        a, b = getattr(ours, attribute), getattr(theirs, attribute)
        if attribute in ("coefs_", "intercepts_"):
            assert [p.shape for p in a] == [p.shape for p in b] and [p.dtype for p in a] == [p.dtype for p in b]
        elif attribute == "classes_":
            np.testing.assert_array_equal(a, b)
        elif attribute not in ("n_iter_", "t_") or settings != {"early_stopping": True}:
            assert a == b, attribute
    assert ours.predict(X).shape == theirs.predict(X).shape and ours.predict(X).dtype == theirs.predict(X).dtype
    assert outputs(ours, X).shape == outputs(theirs, X).shape


SOLVERS = [
    {"solver": "sgd"},
    {"solver": "sgd", "momentum": 0.0},
    {"solver": "sgd", "nesterovs_momentum": False},
    {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.1},
    {"solver": "sgd", "learning_rate": "adaptive", "n_iter_no_change": 2, "tol": 1e-2, "max_iter": 30},
    {"solver": "adam"},
    {"solver": "lbfgs"},
]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("settings", SOLVERS, ids=str)
@pytest.mark.parametrize("batch_size", ["auto", 50])
def test_training_goes_scikit_learns_way(task, settings, batch_size):
    """In the given order of rows, the same random_state leads to the same network, step by step.

    scikit-learn's lbfgs of several numbers uses a gradient that is `n_outputs_` times that of its loss.
    """
    name, (X, y) = TASKS[task]
    if task == "numbers" and settings["solver"] == "lbfgs":
        pytest.skip("scikit-learn's loss and gradient contradict each other here")
    settings = {**SMALL, "activation": "tanh", "shuffle": False, "alpha": 0.01, "batch_size": batch_size, **settings}
    ours = getattr(fastmlp, name)(**settings).fit(X, y)
    theirs = getattr(neural_network, name)(**settings).fit(X, y)
    exact = settings["solver"] != "lbfgs"
    tolerance = {"rtol": 1e-9, "atol": 1e-9} if exact else {"rtol": 1e-4, "atol": 1e-4}
    np.testing.assert_allclose(outputs(ours, X), outputs(theirs, X), **tolerance)
    assert ours.n_iter_ == theirs.n_iter_
    # of several batches, the penalty is that of the weights halfway through the epoch
    np.testing.assert_allclose(ours.loss_, theirs.loss_, rtol=1e-9 if exact and batch_size == "auto" else 1e-4)
    if settings["solver"] != "lbfgs":
        np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-3)


def test_sample_weight_goes_scikit_learns_way():
    X, y = three_classes()
    weight = np.random.default_rng(0).uniform(0.5, 2, len(y))
    settings = {**SMALL, "solver": "sgd", "shuffle": False, "batch_size": 50}
    ours = MLPClassifier(**settings).fit(X, y, weight)
    theirs = neural_network.MLPClassifier(**settings).fit(X, y, weight)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-9)


def test_both_begin_with_the_same_weights():
    X, y = three_classes()
    for activation in ("relu", "logistic"):
        settings = {**SMALL, "activation": activation, "learning_rate_init": 1e-30, "max_iter": 1}
        ours, theirs = MLPClassifier(**settings).fit(X, y), neural_network.MLPClassifier(**settings).fit(X, y)
        for a, b in zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)


def test_it_works_in_pipelines_and_searches():
    X, y = three_classes()
    pipeline = make_pipeline(StandardScaler(), MLPClassifier(random_state=0, solver="lbfgs"))
    search = GridSearchCV(pipeline, {"mlpclassifier__alpha": [1e-4, 1e-1]}, cv=2).fit(X, y)
    assert search.score(X, y) > 0.8


def test_validation_data_are_routed():
    X, y = three_classes()
    with sklearn.config_context(enable_metadata_routing=True):
        network = MLPClassifier(**SMALL, early_stopping=True).set_fit_request(X_val=True, y_val=True)
        pipeline = make_pipeline(StandardScaler(), network, transform_input=["X_val"])
        pipeline.fit(X, y, X_val=X, y_val=y)
    assert network.validation_scores_[-1] == pytest.approx(accuracy_score(y, pipeline.predict(X)), abs=0.1)


# ------------------------------------------------------------------------------------------ going on with a fit


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_partial_fit_goes_on_where_it_stopped(solver):
    """k calls of partial_fit are a fit of k epochs, bit by bit: slots, step counts and the order of rows go on."""
    X, y = three_classes()
    settings = {**SMALL, "solver": solver, "batch_size": 32}
    whole = MLPClassifier(**settings).fit(X, y)
    pieces = MLPClassifier(**settings)
    for _ in range(SMALL["max_iter"]):
        pieces.partial_fit(X, y, classes=[0, 1, 2])
        pieces = pickle.loads(pickle.dumps(pieces))
    assert_same_network(whole, pieces)
    assert pieces.loss_curve_ == whole.loss_curve_ and pieces.t_ == whole.t_ == 15 * len(y) and pieces.n_iter_ == 1


def test_a_warm_start_keeps_the_state_of_adam():
    X, y = three_classes()
    warm = MLPClassifier(**{**SMALL, "max_iter": 5}, warm_start=True, batch_size=32).fit(X, y)
    warm.set_params(max_iter=10).fit(X, y)
    assert_same_network(warm, MLPClassifier(**SMALL, batch_size=32).fit(X, y))
    assert len(warm.loss_curve_) == 15 and warm.n_iter_ == 10


def test_a_warm_start_with_another_solver_begins_its_state_anew():
    X, y = numbers()
    warm = MLPRegressor(**SMALL, warm_start=True).fit(X, y)
    first = warm.loss_
    warm.set_params(solver="sgd", learning_rate_init=1e-2).fit(X, y)
    assert warm.set_params(solver="lbfgs").fit(X, y).loss_ < first


def test_a_cold_start_forgets():
    X, y = three_classes()
    model = MLPClassifier(**SMALL)
    first = model.fit(X, y).coefs_
    again = model.fit(X, y)
    assert len(again.loss_curve_) == 15 and again.t_ == 15 * len(y)
    np.testing.assert_array_equal(first[0], again.coefs_[0])


def test_partial_fit_sees_labels_late():
    X, y = three_classes()
    model = MLPClassifier(**SMALL).partial_fit(X[y < 2], y[y < 2], classes=[0, 1, 2]).partial_fit(X, y)
    assert model.classes_.tolist() == [0, 1, 2] and model.predict_proba(X).shape == (120, 3)


@pytest.mark.parametrize("classes", [None, [0, 1, 2, 3]])
def test_partial_fit_of_labels(classes):
    """scikit-learn's issue 12505."""
    X, y = TASKS["labels"][1]
    model = MLPClassifier(**SMALL).partial_fit(X, y, classes=classes).partial_fit(X, y)
    assert model.predict(X).shape == y.shape and model.out_activation_ == "logistic"


def test_partial_fit_is_not_for_lbfgs():
    assert not hasattr(MLPClassifier(solver="lbfgs"), "partial_fit")
    with pytest.raises(AttributeError, match="has no attribute 'partial_fit'"):
        MLPRegressor(solver="lbfgs").partial_fit  # noqa: B018


# ------------------------------------------------------------------------------------------ stopping


@pytest.mark.parametrize("task", TASKS)
def test_early_stopping_keeps_the_best_network(task):
    name, (X, y) = TASKS[task]
    X, X_val, y, y_val = X[:80], X[80:], y[:80], y[80:]
    model = getattr(fastmlp, name)(hidden_layer_sizes=30, random_state=0, early_stopping=True, max_iter=300)
    model.set_params(learning_rate_init=0.02, n_iter_no_change=5).fit(X, y, X_val=X_val, y_val=y_val)
    assert model.t_ == len(X) * model.n_iter_  # nothing was split off
    assert len(model.validation_scores_) == model.n_iter_ < 300
    assert model.best_validation_score_ == max(model.validation_scores_) and model.best_loss_ is None
    assert model.score(X_val, y_val) == pytest.approx(model.best_validation_score_, abs=1e-12)


def test_early_stopping_splits_validation_data_off():
    X, y = three_classes()
    model = MLPClassifier(**SMALL, early_stopping=True, validation_fraction=0.25).fit(X, y)
    assert model.t_ == 90 * model.n_iter_


def test_weights_of_validation_rows():
    X, y = numbers()
    weight = np.r_[np.ones(60), np.zeros(60)]
    settings = {**SMALL, "early_stopping": True}
    a = MLPRegressor(**settings).fit(X, y, X_val=X, y_val=y, sample_weight_val=weight)
    b = MLPRegressor(**settings).fit(X, y, X_val=X[:60], y_val=y[:60])
    np.testing.assert_allclose(a.validation_scores_, b.validation_scores_, rtol=1e-9)


def test_validation_scores_are_what_score_says():
    X, y = three_classes()
    settings = {**SMALL, "early_stopping": True, "max_iter": 1}
    model = MLPClassifier(**settings).fit(X, y, X_val=X, y_val=y)
    assert model.validation_scores_[0] == accuracy_score(y, model.predict(X))
    X, y = numbers(2)
    model = MLPRegressor(**settings).fit(X, y, X_val=X, y_val=y)
    assert model.validation_scores_[0] == pytest.approx(r2_score(y, model.predict(X)))


def test_patience_and_convergence():
    X, y = numbers()
    stopped = MLPRegressor(random_state=0, tol=1.0, n_iter_no_change=3, max_iter=50).fit(X, y)
    assert stopped.n_iter_ < 10
    with pytest.warns(ConvergenceWarning, match="Maximum iterations"):
        never = MLPRegressor(random_state=0, tol=1.0, n_iter_no_change=np.inf, max_iter=50).fit(X, y)
    assert never.n_iter_ == 50
    with pytest.warns(ConvergenceWarning, match="lbfgs failed to converge"):
        MLPRegressor(random_state=0, solver="lbfgs", max_iter=3).fit(X, y)


def test_verbose_prints_as_scikit_learn(capsys):
    X, y = three_classes()
    settings = {**SMALL, "solver": "sgd", "learning_rate": "adaptive", "tol": 0.5, "n_iter_no_change": 2}
    settings |= {"shuffle": False, "verbose": True}
    MLPClassifier(**settings).fit(X, y)
    ours = capsys.readouterr().out
    neural_network.MLPClassifier(**settings).fit(X, y)
    assert ours == capsys.readouterr().out != ""
    MLPClassifier(**SMALL, early_stopping=True, verbose=1).fit(X, y)
    assert "Validation score: 0." in capsys.readouterr().out
    MLPClassifier(**SMALL, solver="lbfgs", verbose=1).fit(X, y)
    assert "Iteration 1, loss = " in capsys.readouterr().out


# ------------------------------------------------------------------------------------------ what y and weights may be


@pytest.mark.parametrize("labels", [["a", "b", "c"], [-1, 7, 10**18], [1.0, 2.0, 3.0], np.array(list("xyz"), object)])
def test_labels_come_back(labels):
    X, y = three_classes()
    labels = np.array(labels)
    y = labels[y]
    model = MLPClassifier(random_state=0, solver="lbfgs").fit(X, y)
    assert model.classes_.tolist() == labels.tolist() and set(model.predict(X)) <= set(y)
    assert model.predict(X).dtype == y.dtype and model.score(X, y) > 0.8


def test_two_labels_and_one():
    X, y = three_classes()
    two = MLPClassifier(**SMALL).fit(X, y == 1)
    assert two.predict(X).dtype == bool and two.n_outputs_ == 1 and two.out_activation_ == "logistic"
    np.testing.assert_allclose(two.predict_proba(X).sum(axis=1), 1)
    np.testing.assert_array_equal(two.classes_[two.predict_proba(X).argmax(axis=1)], two.predict(X))
    np.testing.assert_allclose(two.predict_log_proba(X), np.log(two.predict_proba(X)))
    one = MLPClassifier(**SMALL).fit(X, np.full(len(X), "only"))
    assert set(one.predict(X)) == {"only"} and one.predict_proba(X).tolist() == [[1.0]] * len(X)


def test_a_sparse_indicator_matrix():
    X, y = TASKS["labels"][1]
    model = MLPClassifier(**SMALL).fit(X, csr_matrix(y))
    assert_same_network(model, MLPClassifier(**SMALL).fit(X, y))


def test_a_weight_of_zero_is_a_removed_row_also_in_mini_batches():
    X, y = three_classes()
    weight = np.r_[np.ones(70), np.zeros(50)]
    for settings in ({"batch_size": 16}, {"early_stopping": True}):
        a = MLPClassifier(**SMALL, **settings).fit(X, y, weight)
        assert_same_network(a, MLPClassifier(**SMALL, **settings).fit(X[:70], y[:70], np.ones(70)))


def test_class_weight_is_a_sample_weight():
    """Where a batch has all rows: see `test_small_batches_descend_the_weighted_mean_of_all_rows` for others."""
    X, y = three_classes()
    y = np.array(["a", "b", "c"])[np.where(np.arange(120) < 60, 0, y)]
    settings = {**SMALL, "batch_size": 120}

    def assert_same(by_class, weights):
        by_row = MLPClassifier(**settings).fit(X, y, weights)
        np.testing.assert_allclose(by_class.predict_proba(X), by_row.predict_proba(X), rtol=1e-6)
        np.testing.assert_allclose(by_class.loss_curve_, by_row.loss_curve_, rtol=1e-6)

    by_class = MLPClassifier(**settings, class_weight={"a": 0.5, "b": 2.0, "c": 3.0}).fit(X, y)
    assert_same(by_class, [{"a": 0.5, "b": 2.0, "c": 3.0}[label] for label in y])
    balanced = MLPClassifier(**settings, class_weight="balanced").fit(X, y)
    _, codes, counts = np.unique(y, return_inverse=True, return_counts=True)
    assert_same(balanced, 120 / (3 * counts)[codes])
    both = MLPClassifier(**settings, class_weight={"a": 2.0}).fit(X, y, np.where(y == "a", 3.0, 1.0))
    assert_same(both, np.where(y == "a", 6.0, 1.0))


def test_balanced_counts_weights_as_repetitions():
    X, y = three_classes()
    weight = 1 + (np.arange(120) % 3)
    repeated = np.repeat(np.arange(120), weight)
    settings = {**SMALL, "class_weight": "balanced", "solver": "lbfgs", "activation": "tanh"}
    a, b = MLPClassifier(**settings).fit(X, y, weight), MLPClassifier(**settings).fit(X[repeated], y[repeated])
    np.testing.assert_allclose(a.predict_proba(X), b.predict_proba(X), rtol=1e-6)


def test_class_weight_of_labels_and_of_partial_fit():
    X, y = TASKS["labels"][1]
    plain, balanced = (MLPClassifier(**SMALL, class_weight=w).fit(X, y) for w in (None, "balanced"))
    assert not np.allclose(balanced.predict_proba(X), plain.predict_proba(X), atol=1e-3)
    X, y = three_classes()
    some, weights = np.isin(y, np.unique(y)[:2]), {label: 10.0**-k for k, label in enumerate(np.unique(y))}
    plain, heavy = (
        MLPClassifier(**SMALL, class_weight=w).partial_fit(X[some], y[some], classes=np.unique(y))
        for w in (None, weights)
    )
    assert heavy.predict_proba(X)[:, 0].mean() > plain.predict_proba(X)[:, 0].mean() + 1e-4


# ------------------------------------------------------------------------------------------ what X may be


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_float32_stays_float32(solver):
    X, y = numbers()
    model = MLPRegressor(**SMALL, solver=solver).fit(X.astype(np.float32), y)
    assert {p.dtype for p in model.coefs_ + model.intercepts_} == {np.dtype("float32")}
    assert model.predict(X.astype(np.float32)).dtype == np.float32
    reference = MLPRegressor(**SMALL, solver=solver).fit(X, y)
    tolerance = 1e-4 if solver == "adam" else 0.3  # a line search amplifies rounding
    np.testing.assert_allclose(model.predict(X), reference.predict(X), atol=tolerance)


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_uint8_trains_in_float32(solver, rng):
    X, y = rng.integers(0, 256, (100, 12), dtype=np.uint8), rng.integers(0, 3, 100)
    settings = {**SMALL, "solver": solver, "learning_rate_init": 1e-4, "max_iter": 4}
    a, b = MLPClassifier(**settings).fit(X, y), MLPClassifier(**settings).fit(X.astype(np.float32), y)
    assert_same_network(a, b)
    np.testing.assert_array_equal(a.predict_proba(X), b.predict_proba(X.astype(np.float32)))
    assert a.coefs_[0].dtype == np.float32
    sparse = MLPClassifier(**settings).fit(csr_array(X), y)
    np.testing.assert_allclose(sparse.predict_proba(csr_array(X)), a.predict_proba(X), atol=1e-4)


@pytest.mark.parametrize("container", [csr_matrix, csr_array, csc_array])
@pytest.mark.parametrize("settings", [{"batch_size": 32}, {"early_stopping": True}, {"solver": "lbfgs"}], ids=str)
def test_sparse_is_dense(container, settings):
    X, y = three_classes()
    X = np.where(X > 0, X, 0)
    settings = {**SMALL, "activation": "tanh", **settings}
    a, b = MLPClassifier(**settings).fit(container(X), y), MLPClassifier(**settings).fit(X, y)
    np.testing.assert_allclose(a.predict_proba(container(X)), b.predict_proba(X), rtol=1e-5)


@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_sparse_rows_may_hold_an_entry_twice_and_in_any_order(index):
    indices, data = np.array([2, 0, 2, 1, 1, 0], index), np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    X = csr_array((data, indices, np.array([0, 3, 3, 5, 6], index)), shape=(4, 3))
    y = np.array([1.0, 2.0, 3.0, 4.0])
    a, b = MLPRegressor(**SMALL).fit(X, y), MLPRegressor(**SMALL).fit(X.toarray(), y)
    np.testing.assert_allclose(a.predict(X), b.predict(X.toarray()), rtol=1e-9)


def test_orders_and_memory_maps(tmp_path):
    X, y = three_classes()
    reference = MLPClassifier(**SMALL).fit(X, y)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    backwards = X[::-1].copy()[::-1]
    big_endian = X.astype(">f8")
    for other in (np.asfortranarray(X), mapped, backwards, big_endian, X.tolist()):
        assert_same_network(MLPClassifier(**SMALL).fit(other, y), reference)
        np.testing.assert_array_equal(reference.predict(other), reference.predict(X))


def test_partial_fit_keeps_the_dtype_of_the_network():
    X, y = numbers()
    model = MLPRegressor(**SMALL).partial_fit(X.astype(np.float32), y).partial_fit(X, y)
    assert model.coefs_[0].dtype == np.float32


def test_names_of_features():
    pandas = pytest.importorskip("pandas")
    X, y = three_classes()
    frame = pandas.DataFrame(X, columns=list("abcdef"))
    model = MLPClassifier(**SMALL).fit(frame, y)
    assert model.feature_names_in_.tolist() == list("abcdef") and model.n_features_in_ == 6
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame.rename(columns={"a": "z"}))


# ------------------------------------------------------------------------------------------ the fitted network


def test_changed_weights_are_used():
    X, y = numbers()
    model = MLPRegressor(**SMALL).fit(X, y)
    before = model.predict(X)
    model.intercepts_[-1] += 1
    np.testing.assert_allclose(model.predict(X), before + 1)
    np.testing.assert_allclose(model.predict(X[:1]), before[:1] + 1)
    model.coefs_ = [np.zeros_like(coef) for coef in model.coefs_]
    np.testing.assert_allclose(model.predict(X), model.intercepts_[-1][0])


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("activation", [*ACTIVATIONS, *ALIASES])
def test_few_rows_and_many_agree(task, activation):
    """Few rows are predicted by NumPy, many by the engine."""
    name, (X, y) = TASKS[task]
    model = getattr(fastmlp, name)(**SMALL, activation=activation).fit(X, y)
    few = np.concatenate([outputs(model, X[i : i + 1]) for i in range(len(X))])
    np.testing.assert_allclose(few, outputs(model, X), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(outputs(model, csr_array(X)), outputs(model, X), rtol=1e-12, atol=1e-12)


def test_pickles_are_plain_and_equal():
    X, y = three_classes()
    model = MLPClassifier(**SMALL).fit(X, y)
    blob = pickle.dumps(model)
    assert b"numba" not in blob and b"thread" not in blob.replace(b"n_threads", b"")
    assert_same_network(pickle.loads(blob), model)
    assert_same_network(clone(model).fit(X, y), model)


def test_no_layers_between():
    X, y = three_classes()
    model = MLPClassifier((), solver="lbfgs", random_state=0, max_iter=1000).fit(X, y)
    assert [coef.shape for coef in model.coefs_] == [(6, 3)] and model.n_layers_ == 2


@pytest.mark.parametrize("settings", [{"batch_size": 7}, {"early_stopping": True}, {"solver": "lbfgs"}], ids=str)
def test_the_same_bits_for_any_number_of_threads(settings):
    X, y = three_classes()
    reference = MLPClassifier(**SMALL, **settings, n_threads=1).fit(X, y)
    for n_threads in (2, 3, None):
        model = MLPClassifier(**SMALL, **settings, n_threads=n_threads).fit(X, y)
        assert_same_network(model, reference)
        np.testing.assert_array_equal(model.predict_proba(X), reference.predict_proba(X))


def test_random_states():
    X, y = three_classes()
    shared = np.random.RandomState(3)
    a = MLPClassifier(**{**SMALL, "random_state": shared}).fit(X, y)
    b = MLPClassifier(**{**SMALL, "random_state": shared}).fit(X, y)
    assert not np.array_equal(a.coefs_[0], b.coefs_[0])  # the second went on with the generator
    assert_same_network(a, MLPClassifier(**{**SMALL, "random_state": 3}).fit(X, y))
    MLPClassifier(**{**SMALL, "random_state": None}).fit(X, y)


# ------------------------------------------------------------------------------------------ when it goes wrong


def test_a_divergence_keeps_the_last_finite_weights():
    X, y = numbers()
    model = MLPRegressor(**SMALL, solver="sgd", learning_rate_init=1e6)
    with pytest.raises(DivergenceError, match="epoch .*learning_rate") as caught:
        model.fit(1e3 * X, y)
    assert caught.value.epoch >= 1
    assert all(np.isfinite(p).all() for p in model.coefs_ + model.intercepts_)
    assert np.isfinite(model.predict(X)).all()


def test_a_divergence_of_lbfgs():
    X, y = numbers()
    model = MLPRegressor(**SMALL, solver="lbfgs")
    with pytest.raises(DivergenceError, match="lbfgs diverged in iteration .*standardised") as caught:
        model.fit(1e100 * X, y)
    assert caught.value.epoch >= 1 and np.isfinite(model.predict(X)).all()


@pytest.mark.parametrize("early_stopping", [False, True])
def test_an_interrupt_leaves_a_usable_network(monkeypatch, early_stopping):
    from fastmlp.training import Training

    X, y = three_classes()
    run, calls = Training.run, []

    def interrupted(training, *arguments, **keywords):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return run(training, *arguments, **keywords)

    monkeypatch.setattr(Training, "run", interrupted)
    model = MLPClassifier(**SMALL, early_stopping=early_stopping, warm_start=True)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    assert model.n_iter_ == len(model.loss_curve_) == 3
    if not early_stopping:
        assert_same_network(model, MLPClassifier(**{**SMALL, "max_iter": 3}).fit(X, y))
    model.fit(X, y)
    assert len(model.loss_curve_) == 3 + model.n_iter_


@pytest.mark.parametrize("settings", [{}, {"early_stopping": True}, {"solver": "lbfgs"}], ids=str)
@untraced()
def test_ctrl_c(settings):
    X, y = numbers(n=20_000)
    model = MLPRegressor(hidden_layer_sizes=(64, 64), max_iter=1, tol=0, n_iter_no_change=np.inf, random_state=0)
    model.set_params(**settings).fit(X, y)  # compiles what is needed
    timer = threading.Timer(0.5, _thread.interrupt_main)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        model.set_params(max_iter=10**6, max_fun=10**6).fit(X, y)
    timer.join()
    assert np.isfinite(model.predict(X)).all()
    if model.solver != "lbfgs":
        assert len(model.loss_curve_) == model.n_iter_


def test_fits_in_threads_do_not_disturb_each_other():
    X, y = three_classes()
    settings = {**SMALL, "batch_size": 32}
    reference = MLPClassifier(**settings).fit(X, y)
    with ThreadPoolExecutor(4) as pool:
        models = [pool.submit(MLPClassifier(**settings).fit, X, y) for _ in range(8)]
    for model in models:
        assert_same_network(model.result(), reference)


def test_an_interrupted_lbfgs_keeps_its_last_iteration(monkeypatch):
    from fastmlp.estimators import solvers

    X, y = numbers()
    reports = []

    def interrupt(*arguments):
        reports.append(arguments)
        if len(reports) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(solvers, "print", interrupt, raising=False)
    model = MLPRegressor(**SMALL, solver="lbfgs", verbose=True)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    shorter = MLPRegressor(**{**SMALL, "max_iter": 5}, solver="lbfgs").fit(X, y)
    np.testing.assert_allclose(model.predict(X), shorter.predict(X), rtol=1e-9)
    assert model.n_iter_ == shorter.n_iter_ == 5


# ------------------------------------------------------------------------------------------ what is imported


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()


def test_import_is_light():
    code = "import sys, fastmlp; print(*({'sklearn', 'numba', 'scipy', 'pandas', 'pyarrow'} & set(sys.modules)))"
    assert run_python(code) == []


def test_the_estimators_import_little_more_than_sklearn_base():
    code = (
        "import sys, sklearn.base; before = set(sys.modules); from fastmlp import MLPClassifier, MLPRegressor;"
        "print(*(set(sys.modules) - before))"
    )
    added = run_python(code)
    heavy = ("numba", "sklearn.model_selection", "sklearn.metrics", "sklearn.preprocessing", "rich", "pyarrow", "torch")
    assert not [module for module in added if module.startswith(heavy)]


def test_few_rows_are_predicted_without_numba(tmp_path):
    X, y = three_classes()
    (tmp_path / "model.pickle").write_bytes(pickle.dumps(MLPClassifier(**SMALL).fit(X, y)))
    code = (
        f"import pickle, sys; model = pickle.load(open({str(tmp_path / 'model.pickle')!r}, 'rb'));"
        "print(model.predict([[0.0] * 6])[0], 'numba' in sys.modules)"
    )
    assert run_python(code)[1] == "False"


def test_training_goes_on_after_a_divergence():
    X, y = three_classes()
    model = MLPClassifier(**SMALL)
    model.partial_fit(X, y, classes=np.unique(y))
    with pytest.raises(DivergenceError):
        model.partial_fit(X * 1e200, y)
    before = model.partial_fit(X, y).loss_
    for _ in range(30):
        model.partial_fit(X, y)
    assert model.loss_ < before


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.parametrize("fitted_to", ["array", "frame"])
def test_a_fit_that_fails_before_its_first_step_changes_nothing(fitted_to):
    X, y = three_classes()
    if fitted_to == "frame":
        X = pytest.importorskip("pandas").DataFrame(X, columns=list("abcdef"))
    rows, bad = np.asarray(X), np.full((len(y), 6), np.nan)
    for model, fails in (
        (MLPClassifier(**SMALL, early_stopping=True), lambda m: m.fit(rows, y, X_val=rows)),
        (MLPClassifier(**SMALL, early_stopping=True), lambda m: m.fit(rows, y % 2, X_val=bad, y_val=y % 2)),
        (MLPClassifier(**SMALL, early_stopping=True), lambda m: m.fit(rows[:2], y[:2])),
        (MLPClassifier(**SMALL), lambda m: m.fit(rows[:, :5], y[:7])),
        (MLPClassifier(**SMALL), lambda m: m.fit(bad, y)),
        (MLPClassifier(**SMALL), lambda m: m.fit(rows[:, :3], y, -np.ones(len(y)))),
        (MLPClassifier(**SMALL), lambda m: m.set_params(hidden_layer_sizes=10**12).fit(rows, y)),
        (MLPClassifier(**SMALL), lambda m: m.partial_fit(rows, y + 1)),
        (MLPRegressor(**SMALL), lambda m: m.fit(rows.astype(np.float32), y * 1e39)),
        (MLPRegressor(**SMALL, solver="lbfgs"), lambda m: m.fit(rows.astype(np.float32), y * 1e39)),
        (Perceptron(max_iter=3), lambda m: m.fit(rows[:, :2], np.ones(len(y)))),
    ):
        model.fit(X, y)
        before, expected = {k: v for k, v in vars(model).items() if k.endswith("_")}, model.predict(X)
        with pytest.raises((ValueError, MemoryError)):
            fails(model)
        after = {k: v for k, v in vars(model).items() if k.endswith("_")}
        assert after.keys() == before.keys()
        assert all(after[name] is value for name, value in before.items())
        np.testing.assert_array_equal(model.predict(X), expected)
    new = MLPClassifier(**SMALL)
    with pytest.raises(ValueError, match="classes"):
        new.partial_fit(rows, y, classes=[0, 1])
    assert vars(new) == vars(MLPClassifier(**SMALL))
    with pytest.raises(NotFittedError):
        new.predict(rows)
    assert new.partial_fit(rows, y, classes=[0, 1, 2]).classes_.tolist() == [0, 1, 2]


# ------------------------------------------------------------------------------------------ early stopping


def test_classes_too_rare_to_be_held_out_are_no_error():
    """As with scikit-learn, which does not stratify more than two classes."""
    X, y = three_classes(60)
    for labels in (np.where(np.arange(60) == 7, 9, y % 2), np.arange(60) % 30):
        model = MLPClassifier(**SMALL, early_stopping=True).fit(X, labels)
        assert len(model.classes_) == len(np.unique(labels))
        assert len(model.validation_scores_) == model.n_iter_
    # where it is possible, shares are kept: of 60 rows with a third in each class, two of each are held out
    assert set(MLPClassifier(**SMALL, early_stopping=True).fit(X, y).validation_scores_) <= {k / 6 for k in range(7)}


def test_validation_is_the_accuracy_whatever_the_weights_of_classes():
    X, y = three_classes(200)
    split = MLPClassifier(**SMALL, early_stopping=True, class_weight={0: 1.0, 1: 20.0, 2: 0.1}).fit(X, y)
    held_out = round(0.1 * 200)
    np.testing.assert_allclose(np.array(split.validation_scores_) * held_out % 1, 0, atol=1e-9)


def test_a_validation_score_that_is_never_a_number_is_told():
    X, y = numbers()
    model = MLPRegressor(**SMALL, early_stopping=True, tol=0.0)
    with pytest.warns(ConvergenceWarning, match="No validation score was a number") as told:
        model.fit(X, y, X_val=np.sign(X[:5]) * 1e308, y_val=y[:5])
    assert told[-1].filename == __file__
    with pytest.warns(ConvergenceWarning, match="Maximum iterations") as told:
        MLPRegressor(**SMALL).fit(X, y)
    assert told[0].filename == __file__


def test_a_warm_start_is_judged_by_its_own_validation_rows():
    X, _ = three_classes()
    y = (X[:, 0] > X[:, 1]).astype(int)
    options = SMALL | {"max_iter": 150, "learning_rate_init": 0.02, "early_stopping": True, "warm_start": True}
    model = MLPClassifier(**options).fit(X, y)
    assert model.score(X, 1 - y) < 0.2
    assert model.fit(X, 1 - y).score(X, 1 - y) > 0.4  # the record of the other labels is none here


def test_strings_of_numpy_are_strings():
    X, y = three_classes()
    names = [str(k) if i % 2 else np.str_(k) for i, k in enumerate(y)]
    model = MLPClassifier(**SMALL).fit(X, np.array(names, dtype=object))
    assert model.classes_.tolist() == ["0", "1", "2"]


def test_partial_weights_of_classes_in_batches_without_them():
    X, y = three_classes()
    settings = {**SMALL, "solver": "sgd", "momentum": 0.0, "alpha": 0.0}
    weighted, plain = MLPClassifier(**settings, class_weight={1: 5.0}), MLPClassifier(**settings)
    for batch in (y == 0, y != 1, y == 2):
        weighted.partial_fit(X[batch], y[batch], classes=[0, 1, 2])
        plain.partial_fit(X[batch], y[batch], classes=[0, 1, 2])
        assert_same_network(weighted, plain)
    before = weighted.coefs_[0].copy()
    for model in (weighted, plain):
        model.partial_fit(X[y == 1], y[y == 1])
    np.testing.assert_allclose(weighted.coefs_[0] - before, 5 * (plain.coefs_[0] - before), rtol=1e-6, atol=1e-15)


def test_balanced_labels_count_rows_that_weigh_something():
    X, y = make_multilabel_classification(120, 6, n_classes=3, random_state=0)
    kept = np.arange(120) % 2 == 0
    options = {**SMALL, "class_weight": "balanced"}
    assert_same_network(
        MLPClassifier(**options).fit(X, y, kept.astype(float)), MLPClassifier(**options).fit(X[kept], y[kept])
    )


@pytest.mark.parametrize("task", ["classes", "two classes", "labels"])
def test_logarithms_of_probabilities_that_round_to_zero(task):
    name, (X, y) = TASKS[task]
    model = getattr(fastmlp, name)(**SMALL).fit(X.astype(np.float32), y)
    X = X.astype(np.float32)
    found = model.predict_log_proba(X)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.exp(found), model.predict_proba(X), rtol=1e-4, atol=1e-6)
    far = model.predict_log_proba(1e4 * X)
    assert np.isfinite(far).all()
    assert far.min() < -1000


def test_weights_of_half_precision_predict_the_same_for_any_number_of_rows(rng):
    X = rng.normal(size=(40_000, 6)).astype(np.float32)
    model = MLPRegressor(**SMALL).fit(X[:100], X[:100, 0])
    model.coefs_ = [coef.astype(np.float16) for coef in model.coefs_]
    np.testing.assert_allclose(model.predict(X)[:50], model.predict(X[:50]), rtol=1e-3, atol=1e-3)


def test_a_poisson_regressor_says_what_it_takes():
    assert MLPRegressor("poisson").__sklearn_tags__().target_tags.positive_only
    assert not MLPRegressor().__sklearn_tags__().target_tags.positive_only


def test_ctrl_c_before_the_first_step_changes_nothing(monkeypatch):
    X, y = three_classes()
    model = MLPClassifier(**SMALL).fit(X, y)
    before = dict(vars(model))

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("fastmlp.training.Training.__init__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X[:, :4], y % 2)
    assert vars(model) == before


def test_a_class_of_weight_zero_is_as_good_as_absent():
    X, y = three_classes()
    by_class = MLPClassifier(**SMALL, class_weight={2: 0.0}, batch_size=16).fit(X, y)
    assert_same_network(by_class, MLPClassifier(**SMALL, batch_size=16).fit(X, y, (y != 2).astype(float)))


def test_lbfgs_does_not_stop_early():
    X, y = three_classes()
    options = SMALL | {"solver": "lbfgs"}
    assert_same_network(MLPClassifier(**options, early_stopping=True).fit(X, y), MLPClassifier(**options).fit(X, y))


def test_a_warm_start_keeps_the_networks_dtype():
    X, y = three_classes()
    model = MLPClassifier(**SMALL, warm_start=True).fit(X.astype(np.float32), y)
    assert {coef.dtype for coef in model.fit(X, y).coefs_} == {np.dtype(np.float32)}


def test_one_class_has_a_probability_of_one():
    X, y = three_classes()
    model = MLPClassifier(**SMALL).fit(X, np.zeros(len(y)))
    np.testing.assert_array_equal(model.predict_log_proba(X), np.zeros((len(y), 1)))
    assert np.exp(model.predict_log_proba(X)).shape == model.predict_proba(X).shape


def test_the_warning_of_a_large_batch_is_at_the_users_line():
    X, y = three_classes()
    with pytest.warns(UserWarning, match="larger than the sample size") as told:
        MLPClassifier(**SMALL, batch_size=10**6).fit(X, y)
    assert told[0].filename == __file__


def test_annotations_can_be_resolved():
    for method in (MLPClassifier.fit, MLPClassifier.predict, MLPRegressor.partial_fit, fastmlp.Sequential.fit):
        assert "return" in typing.get_type_hints(method)
