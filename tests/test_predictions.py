"""Predictions of many rows: what is kept set up for a network, and never seen by whoever predicts."""

import copy
import gc
import os
import sys
import threading
import time
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import reference
import scipy.sparse
from sklearn.exceptions import ConvergenceWarning

from fastmlp import (
    BinaryCrossEntropy,
    CustomActivation,
    Dense,
    Focal,
    MLPClassifier,
    MLPRegressor,
    Ordinal,
    Perceptron,
    Poisson,
    PReLU,
    ReLU,
    Sequential,
    SKLearnClassifier,
    SoftmaxCrossEntropy,
    SoftmaxFocal,
    Tanh,
    evaluation,
    records as R,
)
from fastmlp.engine import threads
from fastmlp.lowering import forward_plan
from fastmlp.prediction import ALWAYS_WORTH_PACKING, FEW, numpy_forward
from fastmlp.training import Training

SHAPE = 3000, 30  # of X: more than NumPy is given


def network(dtype="float32", seed=0):
    return Sequential(Dense(40), ReLU(), Dense(3), dtype=dtype).build(SHAPE[1], seed)


def kept():
    return evaluation._kept


@pytest.fixture(autouse=True)
def nothing_kept():
    kept().clear()


@pytest.fixture
def X(rng):
    return rng.normal(size=SHAPE).astype(np.float32)


def assert_right(model, X, logits):
    expected, _ = reference.forward(model.layers, model.parameters, X)
    assert reference.relative_error(logits, expected) < (1e-12 if model.dtype == np.float64 else 2e-6)


def test_these_rows_are_many():
    assert SHAPE[0] * (SHAPE[1] * 40 + 40 * 3) > FEW


def test_a_network_is_set_up_once_and_packed_when_its_parameters_change(X, monkeypatch):
    made, packed = [], []
    executor = evaluation.Executor
    monkeypatch.setattr(evaluation, "Executor", lambda *of: made.append(executor(*of)) or made[-1])
    pack = executor.pack
    monkeypatch.setattr(executor, "pack", lambda self, arrays: packed.append(self) or pack(self, arrays))
    model = network()
    first = model.logits(X)
    assert np.array_equal(model.logits(X), first)
    assert (len(made), len(packed)) == (1, 1)
    model.set_parameters({"dense_1.bias": [1.0, 2.0, 3.0]})
    assert_right(model, X, model.logits(X))
    model.build(SHAPE[1], seed=5)
    assert_right(model, X, model.logits(X))
    model.fit(X, np.arange(SHAPE[0]) % 3, loss="softmax_cross_entropy", epochs=1, verbose=0)
    assert_right(model, X, model.logits(X))
    assert (len(made), packed.count(made[0])) == (1, 4)  # the fit has an executor of its own


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_other_rows_of_every_kind_in_any_order(dtype, rng):
    model, others = network(dtype), network(dtype, seed=1)
    kinds = ["float32", "float64", "uint8", "int64"]
    for _ in range(2):
        for kind in kinds:
            for n in (SHAPE[0], 9001, 2017):
                X = rng.integers(0, 7, (n, SHAPE[1])).astype(kind)
                for one in (model, others):
                    assert_right(one, X, one.logits(X))
    wide = rng.integers(0, 7, (SHAPE[0], 2 * SHAPE[1])).astype(dtype)
    for strided in (wide[:, : SHAPE[1]], wide[::-1, 1::2], wide[:, SHAPE[1] :]):
        assert_right(model, strided, model.logits(strided))
    assert len(kept()) == 2 * len(kinds) - 2  # rows of int64 become rows of float64


def test_equal_layers_of_another_model_are_another_network(X):
    one, other = network(), network(seed=3)
    for model in (one, other, one, other):
        assert_right(model, X, model.logits(X))
    assert len(kept()) == 2


def test_the_same_layers_in_another_dtype(X):
    single = network()
    double = Sequential(*single.layers, dtype="float64").build(SHAPE[1])
    double._layers = single.layers
    for model in (single, double, single, double):
        assert model.logits(X).dtype == model.dtype
        assert_right(model, X, model.logits(X))


def test_what_is_not_finite_is_found_in_every_slice(monkeypatch, rng):
    monkeypatch.setattr(evaluation, "AT_ONCE", 0)
    X = rng.normal(size=(40_000, SHAPE[1]))
    X[0, 0] = np.nan
    model = network()
    with pytest.raises(ValueError, match="got NaN in row 0, column 0"):
        model.logits(X)
    X[0, 0] = 0.0
    assert_right(model, X, model.logits(X))


def test_threads_are_left_to_others_after_a_prediction(X):
    others = threads.Team()
    others.prepare(2 + len(threads._IDLE))  # none is idle now
    network().logits(X, n_threads=2)
    assert len(threads._IDLE) == min(1, threads.usable_cores() - 1)
    others.close()


def test_a_copy_goes_its_own_way(X):
    model = network()
    before = model.logits(X)
    other = copy.deepcopy(model)
    shallow = copy.copy(model)
    model.set_parameters({"dense_0.weight": np.zeros((SHAPE[1], 40))})
    for one in (model, other, shallow):
        assert_right(one, X, one.logits(X))
    assert np.array_equal(other.logits(X), before) and np.array_equal(shallow.logits(X), before)


def test_rows_that_change_in_place_are_read_again(X):
    model = network()
    before = model.logits(X)
    X[:] = X[::-1].copy()
    assert np.array_equal(model.logits(X), before[::-1])


def test_earlier_predictions_stay_as_they_are(X):
    model = network()
    first = model.logits(X)
    as_it_was = first.copy()
    model.logits(-X)
    assert np.array_equal(first, as_it_was)


def test_neither_rows_nor_predictions_are_kept_alive():
    model, X = network(), np.ones(SHAPE)
    result = model.logits(X)
    alive = weakref.ref(X), weakref.ref(result)
    del X, result
    gc.collect()
    assert [reference() for reference in alive] == [None, None]


def test_what_is_kept_for_a_model_goes_with_it(X):
    model, other = network(), network(seed=1)
    for one in (model, other):
        one.logits(X)
        one.logits(X.astype(np.float64))
    parameters = weakref.ref(model._arrays["dense_0.weight"])
    assert len(kept()) == 4
    del model
    one = other
    gc.collect()
    assert [p.layers for p in kept()] == [other.layers] * 2 and parameters() is None
    assert_right(other, X, one.logits(X))


def test_no_more_memory_than_a_bound_is_kept(rng, monkeypatch):
    X = rng.normal(size=(2000, 64)).astype(np.float32)
    models = [Sequential(Dense(width), Dense(1)).build(64) for width in range(100, 108)]
    monkeypatch.setattr(evaluation, "MOST_KEPT", 4)
    for model in models:
        model.logits(X)
    assert [p.layers for p in kept()] == [model.layers for model in models[4:]]  # those used last
    monkeypatch.setattr(evaluation, "KEPT_BYTES", kept()[-1].n_bytes + kept()[-2].n_bytes)
    models[0].logits(X)
    assert [p.layers for p in kept()] == [models[-1].layers, models[0].layers]
    monkeypatch.setattr(evaluation, "KEPT_BYTES", 1000)
    models[0].logits(X)
    assert [p.layers for p in kept()] == [models[-1].layers]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_not_finite_is_found_wherever_it_is(dtype, bad, rng):
    model = network()
    X = rng.normal(size=SHAPE).astype(dtype)
    X[7] = np.finfo(dtype).max  # sums of these are infinite, and they are not
    if dtype == "float32":
        model.logits(X)
    X[7] = 0.0
    expected = model.logits(X)
    what = "NaN" if np.isnan(bad) else "infinity"
    for row, column in [(0, 0), (SHAPE[0] - 1, SHAPE[1] - 1), (1023, 3), (1024, 15), (2047, 16), (5, 17)]:
        X[row, column] = bad
        for n_threads in (1, 2, None):
            with pytest.raises(ValueError, match=f"`X` must be finite; got {what} in row {row}, column {column}"):
                model.logits(X, n_threads=n_threads)
        X[row, column] = 0.0
    X[7] = 0.0
    assert np.isfinite(model.logits(X)).all() and expected.shape == (SHAPE[0], 3)


def test_numbers_beyond_float32_are_named():
    X = np.ones(SHAPE)
    X[1500, 4] = 1e300
    with pytest.raises(ValueError, match=r"within float32's range; got 1e\+300 in row 1500, column 4"):
        network().logits(X)


@pytest.mark.parametrize("n", [5, 3000])
@pytest.mark.parametrize("units", [1, 3, 20])
@pytest.mark.parametrize("loss", [SoftmaxCrossEntropy(), BinaryCrossEntropy(), Focal(), Ordinal(), Poisson()])
def test_probabilities_of_infinite_logits_are_not_believed(loss, units, n):
    """A sigmoid of infinity is 1, and a softmax has a 0 where one logit is minus infinity."""
    X = np.zeros((n, 30))
    X[2, 4] = 1e300
    model = Sequential(Dense(units)).build(30, seed=0)
    model.loss, weight = loss, np.zeros((30, units))
    assert np.isfinite(model.predict(X[:2])).all()
    for sign in (1, -1):
        weight[4, -1] = sign
        model.set_parameters({"dense_0.weight": weight})
        with pytest.raises(ValueError, match=r"within float32's range; got 1e\+300 in row 2, column 4"):
            model.predict(X)
    X[2, 4] = 1e30  # a probability may be 1 without
    assert np.isfinite(model.predict(X)).all()


def test_estimators_do_not_believe_them_either(rng):
    X = rng.normal(size=(2 * ALWAYS_WORTH_PACKING, 30)).astype(np.float32)
    for n_classes in (2, 20):
        y = np.arange(len(X)) % n_classes
        for model in (MLPClassifier((), max_iter=1), SKLearnClassifier(Sequential(Dense(1 if n_classes == 2 else 20)))):
            with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
                model.fit(X, y)
            far = X.astype(float)
            far[7, 3] = 1e300
            for rows in (far, far[:10]):
                with pytest.raises(ValueError, match=r"within float32's range; got 1e\+300 in row 7, column 3"):
                    model.predict_proba(rows)


@pytest.mark.parametrize("loss", [SoftmaxCrossEntropy(), BinaryCrossEntropy(), SoftmaxFocal(), Focal(), Poisson()])
@pytest.mark.parametrize("units", [3, 50])
def test_many_outputs_are_those_of_the_loss(loss, units, X):
    """The engine makes probabilities of the logits where they are many."""
    for layers in ([Dense(40), ReLU(), Dense(units)], [Dense(40), ReLU(), Dense(units), PReLU()]):
        model = Sequential(*layers).build(SHAPE[1], seed=0)
        model.loss = loss
        by_numpy = loss.output(numpy_forward(model._flat, model._arrays, X, model.dtype))
        np.testing.assert_allclose(model.predict(X), by_numpy, rtol=2e-5, atol=1e-30)
        np.testing.assert_array_equal(model.predict(X), model.predict(X, n_threads=1))
        np.testing.assert_allclose(loss.output(model.logits(X)), by_numpy, rtol=2e-5, atol=1e-30)
        own_layer = loss.own_layer if units > 3 and len(layers) == 3 else None
        assert [p.key[4] for p in kept() if p.layers is model._layers] == ([own_layer, None] if own_layer else [None])


@pytest.mark.parametrize("cls", [MLPClassifier, MLPRegressor])
def test_estimators_find_it_too(cls, rng):
    X = rng.normal(size=(2 * ALWAYS_WORTH_PACKING, 900))
    model = cls(hidden_layer_sizes=(4,), max_iter=1, batch_size=200, random_state=0)
    with pytest.warns(UserWarning, match="Maximum iterations"):
        model.fit(X, np.arange(len(X)) % 2)
    X[ALWAYS_WORTH_PACKING + 3, 17] = np.nan
    with pytest.raises(ValueError, match=r"Input X contains NaN: the first is in row 503, column 17"):
        model.predict(X)


def test_coefficients_may_be_changed_in_place_between_predictions(rng):
    """They are packed for every prediction of many rows, for nobody tells when one changes."""
    X = rng.normal(size=(4000, 40))
    model = MLPRegressor(hidden_layer_sizes=(30,), max_iter=1, random_state=0)
    with pytest.warns(UserWarning, match="Maximum iterations"):
        model.fit(X, X[:, 0])
    model.predict(X)
    model.coefs_[1] *= 2.0
    model.intercepts_[1][:] = 5.0
    a = np.maximum(X @ model.coefs_[0] + model.intercepts_[0], 0)
    np.testing.assert_allclose(model.predict(X), (a @ model.coefs_[1] + model.intercepts_[1]).ravel(), rtol=1e-9)
    assert len(kept()) == 1
    model.intercepts_[0] = np.zeros(29)
    with pytest.raises(ValueError, match=r"`dense_0.bias` must have shape \(30,\); got \(29,\)"):
        model.predict(X)


@pytest.mark.parametrize("n_classes", [3, 20])
def test_some_hundred_rows_of_an_estimator_and_more_agree(n_classes, rng):
    X = rng.normal(size=(4 * ALWAYS_WORTH_PACKING, 200))
    model = MLPClassifier((50, 20), max_iter=1, random_state=0)
    with pytest.warns(UserWarning, match="Maximum iterations"):
        model.fit(X, np.arange(len(X)) % n_classes)
    parts = [model.predict_proba(X[i : i + 400]) for i in range(0, len(X), 400)]
    np.testing.assert_allclose(np.concatenate(parts), model.predict_proba(X), rtol=1e-10)


def test_threads_predict_at_once_with_one_model(rng):
    model, begin = network(), threading.Barrier(6)
    data = [rng.normal(size=(SHAPE[0] + i, SHAPE[1])).astype(np.float32) for i in range(6)]
    expected = [model.logits(X, n_threads=1) for X in data]

    def predict(i):
        begin.wait()
        return [model.logits(data[i], n_threads=1 + i % 3) for _ in range(20)]

    with ThreadPoolExecutor(6) as pool:
        for i, results in enumerate(pool.map(predict, range(6))):
            assert all(np.array_equal(result, expected[i]) for result in results)


def test_a_function_that_refers_to_another_number_now(X):
    namespace = {"slope": 2.0, "np": np}
    exec("def value(z):\n    return slope * z\ndef derivative(z):\n    return slope + 0.0 * z", namespace)
    doubled = CustomActivation(namespace["value"], namespace["derivative"], "doubled")
    model = Sequential(Dense(40), doubled, Dense(3)).build(SHAPE[1])
    first = model.logits(X)
    assert not kept()
    namespace["slope"] = 4.0
    arrays = dict(model.parameters)
    expected = (4.0 * (X @ arrays["dense_0.weight"] + arrays["dense_0.bias"])) @ arrays["dense_1.weight"]
    assert reference.relative_error(model.logits(X), expected + arrays["dense_1.bias"]) < 2e-6
    assert not np.array_equal(model.logits(X), first)


def test_rows_of_a_step_are_as_many_as_the_workers_take():
    common = {"n_features": 30, "source": "float32", "dtype": "float32"}
    layers = network().layers
    plan = forward_plan(layers, batch_size=1024, n_workers=2, **common)
    assert plan.batch_size == min(1024, 2 * plan.chunk)
    assert forward_plan(layers, batch_size=100, n_workers=2, **common).batch_size == 100
    assert "finite.float32" in str(forward_plan(layers, batch_size=100, check=True, **common))
    assert "finite" not in str(forward_plan(layers, batch_size=100, check=True, **(common | {"source": "uint8"})))


def test_a_very_wide_row_and_a_short_step(rng):
    X = rng.normal(size=(40, 400_000)).astype(np.float32)
    model = Sequential(Dense(3), Tanh(), Dense(2)).build(X.shape[1])
    by_numpy = numpy_forward(model._flat, model._arrays, X, model.dtype)
    for rows in (slice(None), slice(evaluation.FEW_ROWS), slice(3, 4)):
        np.testing.assert_allclose(model.logits(X[rows]), by_numpy[rows], rtol=1e-3, atol=1e-4)


@pytest.fixture
def workers(monkeypatch):
    """The numbers of workers of the runs of predictions."""
    monkeypatch.setenv("FASTMLP_OVERSUBSCRIBE", "1")
    found, run = [], evaluation.Executor.run
    monkeypatch.setattr(evaluation.Executor, "run", lambda self, steps, n: found.append(n) or run(self, steps, n))
    return found


def test_another_number_of_threads_is_another_choice(X, workers):
    model = network()
    for n_threads in (2, 1, 3, 2):
        workers.clear()
        model.logits(X, n_threads=n_threads)
        assert set(workers) == {n_threads}


def test_fewer_cores_from_now_on_are_respected(X, workers, monkeypatch):
    model, many = network(), np.concatenate([X] * 40)
    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    monkeypatch.setattr(threads, "_seen", (0.0, 0))
    model.logits(many)
    assert 2 in workers
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    time.sleep(1.1 * threads.LOOK)
    workers.clear()
    model.logits(many)
    assert set(workers) == {1}


def test_sparse_rows_and_users_functions_are_not_kept(X, monkeypatch):
    sparse = scipy.sparse.random(9000, SHAPE[1], 0.05, "csr", np.float32, random_state=0)
    model = Sequential(Dense(400), ReLU(), Dense(3)).build(SHAPE[1])
    assert_right(model, sparse.toarray(), model.logits(sparse))
    own = CustomActivation(lambda z: 2 * z, lambda z: 2.0, name="double")
    model = Sequential(Dense(400), own, Dense(300), ReLU(), Dense(3)).build(SHAPE[1])
    model.logits(X)
    assert not kept()
    monkeypatch.delattr("fastmlp.evaluation.predictions")  # the weights would be packed for a few rows alone
    assert model.logits(X[:60]).shape == (60, 3)


def test_who_is_late_does_not_get_what_another_took(X, monkeypatch):
    class Raced(list):
        def remove(self, value):
            super().remove(value)
            raise ValueError("another thread took it")

    model = network()
    model.logits(X)
    (first,) = kept()
    monkeypatch.setattr(evaluation, "_kept", Raced(kept()))
    model.logits(X)
    assert len(evaluation._kept) == 1 and evaluation._kept[0] is not first


def test_one_that_is_too_large_drives_nobody_out(X, monkeypatch):
    small, large = network(), Sequential(Dense(3000), ReLU(), Dense(3)).build(SHAPE[1])
    small.logits(X)
    monkeypatch.setattr(evaluation, "KEPT_BYTES", kept()[0].n_bytes)
    large.logits(X)
    assert [p.layers for p in kept()] == [small.layers]


def test_numbers_of_rows_that_vary(rng):
    model = network()
    X = rng.normal(size=(5000, SHAPE[1])).astype(np.float32)
    for n in (600, 1024, 601, 1025, 600, 5000, 1000, 2048, 999):
        assert_right(model, X[:n], model.logits(X[:n]))


# Threads that wait for the next fit or prediction


def test_a_thread_is_used_again_and_ends_when_nobody_comes():
    one, other = threads.Team(), threads.Team()
    one.prepare(2)
    helper = one._helpers[0]
    one.close()
    other.prepare(2)
    assert other._helpers == [helper]
    time.sleep(1.3 * threads.LINGER)  # longer than one without a team waits
    assert helper.is_alive()
    other.close()
    helper.join(5 * threads.LINGER)
    assert not helper.is_alive() and helper not in threads._IDLE


def test_an_error_before_a_run_begins_leaves_no_thread_reserved(X, monkeypatch):
    model = network()
    for _ in range(3):
        model.logits(X, n_threads=2)
    call, made = threads._Helper.call, []

    def failing(self, *args):
        made.append(self)
        call(self, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threads._Helper, "call", failing)
        with pytest.raises(KeyboardInterrupt):
            model.logits(X, n_threads=2)
    if made:  # with two cores
        assert made[0]._mailbox[R.STATE] != R.RESERVED
    assert_right(model, X, model.logits(X, n_threads=2))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:os.fork")  # by JAX, where another test has imported it
def test_a_forked_child_starts_threads_of_its_own(X):
    model = network()
    expected = model.logits(X, n_threads=2)
    pid = os.fork()
    if pid == 0:
        right = np.array_equal(model.logits(X, n_threads=2), expected)
        os._exit(0 if right and all(helper.is_alive() for helper in threads._IDLE) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_thread_that_ctrl_c_left_without_an_owner_ends(monkeypatch):
    """It was taken from those that are idle, and not yet listed; or its team is no more."""
    monkeypatch.setattr(threads, "LINGER", 0.05)
    kept, forgotten, lost = threads.Team(), threads.Team(), threads.Team()
    for team in (kept, forgotten, lost):
        team.prepare(2)
    (mine,), (one,), (other,) = (team._helpers for team in (kept, forgotten, lost))
    lost.close()
    assert threads._IDLE.pop() is other
    del forgotten, team
    for helper in (one, other):
        helper.join(5)
        assert not helper.is_alive()
    assert mine.is_alive()
    kept.close()


def test_ctrl_c_while_a_team_closes_gives_no_thread_two_owners():
    """At every line of `close`."""
    lines = range(1, 12)
    for at in lines:
        team = threads.Team()
        team.prepare(3)
        own, seen = set(team._helpers), 0

        def trace(frame, event, argument, at=at):
            nonlocal seen
            if frame.f_code is threads.Team.close.__code__:
                seen += event == "line"
                if seen == at and event == "line":
                    raise KeyboardInterrupt
                return trace
            return None

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            team.close()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        owners = [helper for helper in threads._IDLE if helper in own] + team._helpers
        assert len(owners) == len(set(owners)) == 2, at
        team.close()
        assert len(set(threads._IDLE)) == len(threads._IDLE) and not team._helpers


def test_two_teams_never_share_a_thread():
    teams = [threads.Team() for _ in range(4)]
    for team in teams:
        team.prepare(3)
    found = [helper for team in teams for helper in team._helpers]
    assert len(set(found)) == 8
    for team in teams:
        team.close()
        team.close()  # twice is once
    assert len(threads._IDLE) == len(set(threads._IDLE))


def test_many_fits_start_no_more_threads_than_one(rng):
    X = rng.normal(size=(300, 20)).astype(np.float32)
    y, options = np.arange(300) % 3, {"loss": "softmax_cross_entropy", "optimizer": "adam", "batch_size": 100}
    before = {thread.ident for thread in threading.enumerate()}
    started = set()
    for seed in range(5):
        with Training(Sequential(Dense(300), Dense(3)).build(20, seed), X, y, n_threads=2, **options) as training:
            training.run(1)
            started |= {thread.ident for thread in threading.enumerate()} - before
    assert len(started) <= 1


def test_products_that_say_they_divided_by_zero_are_not_believed(rng):
    """Those of Apple's Accelerate say so of any numbers."""
    states = []

    class Product(np.ndarray):
        def __array_ufunc__(self, ufunc, method, *inputs, **options):
            inputs = [np.asarray(i) for i in inputs]
            if ufunc is np.matmul:
                np.array(1.0) / np.array(0.0)
                states.append(np.geterr()["divide"])
            return getattr(ufunc, method)(*inputs, **options)

    X, y = rng.normal(size=(20, 30)), np.arange(20) % 3
    model = network()
    model._arrays = {name: array.view(Product) for name, array in model._arrays.items()}
    with np.errstate(all="raise"):
        assert np.isfinite(model.predict(X)).all()
        model.loss = "softmax_cross_entropy"
        assert np.isfinite(model.input_gradients(X, y)).all()
        for estimator in (MLPClassifier((5,), max_iter=2), Perceptron(max_iter=2)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                estimator.fit(X, y)
            if isinstance(estimator, MLPClassifier):
                estimator.coefs_ = [coef.view(Product) for coef in estimator.coefs_]
            else:
                estimator.coef_ = estimator.coef_.view(Product)
            estimator.predict(X)
    assert states == ["ignore"] * len(states) and len(states) >= 7
