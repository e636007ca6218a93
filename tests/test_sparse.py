"""A first layer that multiplies sparse rows as they are: against gathered rows, which are another way to the same."""

import numpy as np
import pytest
import scipy.sparse
from cases import run_guarded

from fastmlp import (
    SGD,
    Adam,
    AdamW,
    BatchNorm,
    Dense,
    Dropout,
    GaussianNoise,
    GroupNorm,
    LayerNorm,
    LeakyReLU,
    Lion,
    MLPClassifier,
    MLPRegressor,
    PReLU,
    ReLU,
    Rescaling,
    Residual,
    RMSNorm,
    Sequential,
    SwiGLU,
    inputs,
)
from fastmlp.inputs import DENSE, engine_data, most_entries
from fastmlp.prediction import is_few
from fastmlp.training import Training

LOSS = "softmax_cross_entropy"


def sparse_rows(rng, n=300, columns=90, share=0.05, dtype=np.float64):
    X = scipy.sparse.csr_array(scipy.sparse.random(n, columns, share, "csr", dtype, random_state=rng))
    X.data[:] = rng.normal(size=X.nnz)
    return X


@pytest.fixture
def gathered(monkeypatch):
    """Within it, rows are gathered however few entries they have."""

    def use():
        monkeypatch.setattr(inputs, "DENSE", -1.0)

    return use


def kernels_of(layers, X, y, **options):
    model = Sequential(*layers, dtype="float64").build(X.shape[1])
    with Training(model, X, y, loss=LOSS, optimizer=SGD(0.1), batch_size=50, **options) as training:
        return {step.kernel.partition(".")[0] for phase in training.plan.phases for step in phase.steps}


def trained(layers, X, y, dtype="float64", **options):
    options = {"loss": LOSS, "optimizer": Adam(0.01), "epochs": 3, "batch_size": 64, "verbose": 0} | options
    model = Sequential(*layers, dtype=dtype).build(X.shape[1], seed=0)
    history = model.fit(X, y, validation_data=(X, y), **options)
    return {**model.parameters, **{name: np.array(history[name]) for name in ("loss", "val_loss")}}, model


def assert_near(found, expected, tolerance):
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("layers", "options"),
    [
        ([Dense(33), ReLU(), Dense(7)], {}),
        ([Dense(16, use_bias=False), BatchNorm(), ReLU(), Dense(7)], {"optimizer": Lion(0.001)}),
        ([Dense(40, l1=1e-3, l2=1e-2, max_norm=1.0), ReLU(), Dense(7)], {"optimizer": SGD(0.1, momentum=0.9)}),
        ([Dense(7)], {"optimizer": AdamW(0.01, clip_norm=0.1, weight_decay=0.1)}),
        ([Dense(65), ReLU(), Dense(7)], {"optimizer": Adam(0.01, clip_value=0.01, ema_decay=0.9)}),
        ([Dense(20, trainable=False), ReLU(), Dropout(0.3), Dense(7)], {}),
        ([Dense(20, learning_rate_multiplier=0.1), Residual(Dense(20), ReLU()), Dense(7)], {"shuffle": False}),
        ([Dense(20), LeakyReLU(0.3), Dense(7)], {"batch_size": 1000}),
    ],
    ids=range(8),
)
def test_the_same_as_of_gathered_rows(layers, options, dtype, rng, gathered):
    X, y = sparse_rows(rng), rng.integers(0, 7, 300)
    found, model = trained(layers, X, y, dtype, **options)
    logits = model.logits(X)
    gathered()
    expected, other = trained(layers, X, y, dtype, **options)
    tolerance = {"float32": 2e-3, "float64": 1e-9}[dtype]
    assert_near(found, expected, tolerance)
    np.testing.assert_allclose(logits, other.logits(X), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(logits, other.logits(X.toarray()), rtol=tolerance, atol=tolerance)


def test_which_rows_are_multiplied_as_they_are(rng):
    X, y = sparse_rows(rng), rng.integers(0, 3, 300)
    few = {"sparse_product", "batch_columns", "sparse_gradient"}
    assert few < kernels_of([Dense(4), ReLU(), Dense(3)], X, y)
    assert few < kernels_of([Dense(4), LayerNorm(), Dense(3)], X.astype(np.float32), y)
    assert "gather" not in kernels_of([Dense(3)], X, y)
    frozen = kernels_of([Dense(4, trainable=False), ReLU(), Dense(3)], X, y)
    assert "sparse_product" in frozen
    assert not frozen & {"batch_columns", "sparse_gradient"}
    assert few < kernels_of([GaussianNoise(0.1), Dropout(0.5), Dense(3)], X, y, study=True)
    for before in (Rescaling(2.0), Dropout(0.5), GaussianNoise(0.1), LayerNorm(), Residual(Dense(90)), SwiGLU(4)):
        assert not few & kernels_of([before, Dense(3)], X, y), before
    assert not few & kernels_of([Dense(3)], sparse_rows(rng, share=2 * DENSE), y)
    assert not few & kernels_of([Dense(3)], X.toarray(), y)


def test_how_many_entries_a_batch_has(rng):
    X = engine_data(scipy.sparse.csr_array(np.tri(50, 1000, -1)))  # row i has i entries
    assert most_entries(X, 1) == 49
    assert most_entries(X, 3) == 49 + 48 + 47
    assert most_entries(X, 50) == most_entries(X, 99) == 49 * 25
    assert most_entries(engine_data(scipy.sparse.csr_array((4, 9))), 2) == 1  # sparse, though there is nothing
    assert most_entries(engine_data(scipy.sparse.csr_array(np.ones((4, 9)))), 2) == 0
    assert most_entries(np.zeros((4, 9)), 2) == 0


@pytest.mark.parametrize("n_threads", [1, 3])
def test_rows_longer_than_a_piece_empty_ones_and_columns_without_entries(n_threads, rng, gathered):
    dense = np.zeros((40, 6000))
    dense[3, ::11] = rng.normal(size=546)
    dense[7, :128], dense[8, :129], dense[9, 5990:] = 1.0, 2.0, 3.0
    X, y = scipy.sparse.csr_matrix(dense), rng.integers(0, 3, 40)
    options = {"epochs": 4, "batch_size": 7, "n_threads": n_threads}
    found, model = trained([Dense(35), ReLU(), Dense(3)], X, y, **options)
    gathered()
    expected, _ = trained([Dense(35), ReLU(), Dense(3)], X, y, **options)
    assert_near(found, expected, 1e-9)
    nothing = scipy.sparse.csr_matrix((40, 50))
    found, _ = trained([Dense(4), ReLU(), Dense(3)], nothing, y)
    expected, _ = trained([Dense(4), ReLU(), Dense(3)], nothing.toarray(), y)
    assert_near(found, expected, 1e-12)


@pytest.mark.parametrize("kind", ["twice", "unsorted", "int64", "strided", "csc", "int8", "bool"])
def test_every_form_of_a_sparse_matrix(kind, rng):
    X = sparse_rows(rng, columns=200, share=0.03)
    if kind == "twice":
        X = scipy.sparse.csr_matrix(
            (np.repeat(X.data / 2, 2), np.repeat(X.indices, 2), 2 * X.indptr), shape=X.shape
        )  # entries given twice add up
    elif kind == "unsorted":
        for i in range(X.shape[0]):
            own = slice(X.indptr[i], X.indptr[i + 1])
            X.data[own], X.indices[own] = X.data[own][::-1].copy(), X.indices[own][::-1].copy()
    elif kind == "int64":
        X.indices, X.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    elif kind == "strided":
        X.data = np.repeat(X.data, 2)[::2]
    elif kind == "csc":
        X = X.tocsc()
    else:
        X = (3 * X).astype(kind)
    y = rng.integers(0, 3, 300)
    found, _ = trained([Dense(9), ReLU(), Dense(3)], X, y)
    expected, _ = trained([Dense(9), ReLU(), Dense(3)], X.toarray().astype(float), y)
    assert_near(found, expected, 1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_bits_for_any_number_of_threads_and_after_a_resume(dtype, rng):
    """Few columns with many entries each, so that they are sorted in several shares of rows."""
    X, y = sparse_rows(rng, n=999, columns=21, share=0.09), rng.integers(0, 3, 999)
    common = {"loss": LOSS, "optimizer": Adam(0.01), "batch_size": 500}
    layers = [Dense(37), ReLU(), Dense(3)]
    results = []
    for n_threads in (1, 2, 3, 8):
        model = Sequential(*layers, dtype=dtype).build(21, seed=0)
        with Training(model, X, y, n_threads=n_threads, **common) as training:
            steps = [step for phase in training.plan.phases for step in phase.steps]
            assert next(step.units for step in steps if step.kernel.startswith("batch_columns")) == 4
            losses = training.run(6)
        results.append({**model.parameters, "losses": losses})
    model = Sequential(*layers, dtype=dtype).build(21, seed=0)
    with Training(model, X, y, **common) as training:
        losses = training.run(2)
        state = training.state
    with Training(model, X, y, state=state, **common) as training:
        losses = np.concatenate([losses, training.run(4)])
    results.append({**model.parameters, "losses": losses})
    for other in results[1:]:
        for name, value in results[0].items():
            np.testing.assert_array_equal(other[name], value, err_msg=name)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_estimators_against_dense_rows(solver, rng):
    X, y = sparse_rows(rng, n=200, columns=60), rng.integers(0, 3, 200)
    for cls, targets in ((MLPClassifier, y), (MLPRegressor, rng.normal(size=200))):
        sparse, dense = (
            cls(hidden_layer_sizes=(8,), solver=solver, max_iter=5, tol=0.0, random_state=0) for _ in range(2)
        )
        sparse.fit(X, targets)
        dense.fit(X.toarray(), targets)
        tolerance = {"rtol": 1e-6, "atol": 1e-8}
        np.testing.assert_allclose(sparse.loss_, dense.loss_, **tolerance)
        np.testing.assert_allclose(sparse.coefs_[0], dense.coefs_[0], **tolerance)
        np.testing.assert_allclose(sparse.predict(X[:3]), dense.predict(X.toarray())[:3], **tolerance)


def test_nothing_is_written_beside_the_workspace(rng):
    X, y = sparse_rows(rng, n=130, columns=70), rng.integers(0, 3, 130)
    model = Sequential(Dense(19), ReLU(), Dense(3)).build(70)
    with Training(model, X, y, loss=LOSS, optimizer=Adam(), batch_size=64, n_threads=3, _guard=64) as training:
        run_guarded(training, 3, poisoned=False)


def test_a_batch_that_weighs_nothing_and_a_loss_that_overflows(rng):
    from fastmlp import DivergenceError

    X, y = sparse_rows(rng), rng.integers(0, 7, 300)
    found, _ = trained([Dense(8), ReLU(), Dense(7)], X, y, sample_weight=np.arange(300) >= 150.0, shuffle=False)
    assert all(np.isfinite(value).all() for value in found.values())
    model = Sequential(Dense(8), ReLU(), Dense(1))
    with pytest.raises(DivergenceError):
        model.fit(1e30 * X, y, loss="squared_error", optimizer=SGD(1.0), epochs=5, verbose=0)
    assert all(np.isfinite(value).all() for value in model.parameters.values())


@pytest.mark.parametrize(
    "first", [BatchNorm(), LayerNorm(), RMSNorm(), GroupNorm(2), PReLU(), Rescaling(2.0, 1.0), Dropout(0.5)], ids=repr
)
@pytest.mark.parametrize("kind", [scipy.sparse.csr_matrix, scipy.sparse.csr_array])
def test_few_sparse_rows_of_a_network_that_does_not_begin_with_a_product(first, kind, rng):
    X, y = kind(sparse_rows(rng, n=60, columns=6, share=0.4)), rng.normal(size=60)
    for layers in ([first, Dense(1)], [Dropout(0.1), first, Dense(1)]):
        if isinstance(first, Rescaling) and layers[0] is not first:
            continue
        model = Sequential(*layers, dtype="float64")
        model.fit(X, y, loss="squared_error", epochs=2, verbose=0)
        np.testing.assert_allclose(model.predict(X), model.predict(X.toarray()), rtol=1e-12)
        np.testing.assert_allclose(model.activations(X, 0), model.activations(X.toarray(), 0), rtol=1e-12)
        found, expected = model.input_gradients(X, y), model.input_gradients(X.toarray(), y)
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("optimizer", [SGD(0.1), Adam(0.01, clip_norm=0.5)], ids=repr)
def test_entries_sorted_in_several_shares_of_rows(optimizer, rng, gathered):
    X, y = sparse_rows(rng, n=999, columns=21, share=0.09), rng.integers(0, 7, 999)
    options = {"optimizer": optimizer, "batch_size": 500, "n_threads": 2}
    found, _ = trained([Dense(37), ReLU(), Dense(7)], X, y, **options)
    gathered()
    expected, _ = trained([Dense(37), ReLU(), Dense(7)], X, y, **options)
    assert_near(found, expected, 1e-9)


def test_what_numpy_predicts():
    few, many = scipy.sparse.random(100, 10_000, 1e-3, "csr"), scipy.sparse.random(4000, 10_000, 1e-3, "csr")
    assert is_few(np.zeros((1, 1000)), 600_000, 10)
    assert not is_few(np.zeros((2, 1000)), 600_000, 10)
    for n, n_weights, expected in (
        (63, 10**7, True),
        (64, 10**7, False),
        (64, 93_000, True),
        (65, 93_000, False),
        (499, 100, True),
        (500, 100, False),
    ):
        assert is_few(np.zeros((n, 10)), n_weights, 10, packed=False) == expected
    # 10 000 x 100 weights: of 1000 entries, and of 40 000
    assert is_few(few, 1_000_000, 100)
    assert is_few(many, 1_000_000, 100)
    assert not is_few(many, 100_000, 10) == is_few(many, 49_000, 1)  # 40 000 x 10 and x 1, and 39 000 weights more
    assert not is_few(few, 1_000_000, None)  # another layer comes first, which makes them dense
    dense_first, product_first = Sequential(Rescaling(2.0), Dense(3)), Sequential(GaussianNoise(0.1), Dense(3))
    assert dense_first._first_units is None
    assert product_first._first_units == 3


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_an_entry_that_is_not_finite_is_named_wherever_it_is(value):
    """Behind the first entries that are looked at together, too."""
    X = scipy.sparse.random(3000, 20, density=0.2, format="csr", random_state=0)
    row = 2750
    entry = X.indptr[row] + 1
    X.data[entry] = value
    what = "NaN" if np.isnan(value) else "infinity"
    with pytest.raises(ValueError, match=f"got {what} in row {row}, column {X.indices[entry]}"):
        Sequential(Dense(2)).fit(X, np.zeros((3000, 2)), loss="squared_error", verbose=0)
