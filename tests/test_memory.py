"""What kernels read and write: nothing uninitialised, nothing beyond their buffers; and what a fit allocates.

The engine helps: `Training(_guard=...)` plans no-man's-land behind every buffer.
"""

import gc
import threading
import time
import tracemalloc

import numpy as np
import pytest
import reference
from cases import Case, as_engine, as_targets, cases, examples, poison
from hypothesis import example, given, strategies as st
from sklearn.exceptions import ConvergenceWarning
from tracing import untraced

from fastmlp import Adam, AdaMax, Dense, MLPClassifier, ReLU, Rescaling, Sequential, records as R
from fastmlp.evaluation import Evaluation
from fastmlp.losses import get as get_loss
from fastmlp.training import AHEAD, Training

GUARD = 64  # bytes: as wide as the widest vector


def open_training(case, n_threads, guard=0):
    model, (X, y, weights) = case.model(), case.data()
    options = {"loss": case.loss, "optimizer": case.optimizer, "batch_size": case.batch_size, "l2": case.l2}
    options |= {"sample_weight": weights, "n_threads": n_threads, "seed": case.seed, "_guard": guard}
    return model, Training(model, as_engine(X), as_targets(case, y), **options)


def scratch_tails(executor, n_workers):
    """What lies behind each worker's scratch block."""
    panel = executor.plan.simd.panel(executor.plan.dtype)
    used, tails = max(panel * panel * executor.plan.item, R.LEAST_SCRATCH), []
    for rank in range(n_workers):
        record, _, memory, _ = executor._worker(rank)
        tails.append(memory[record[R.SCRATCH] - memory.ctypes.data + used :])
    return tails


def padding_is_zero(executor, optimizer=None):
    """Whether the columns that fill up the last panels of parameters and slots are still 0: no noise grows there.
    (AdaMax's second slot is epsilon at least.)
    """
    item = executor.plan.item
    for k, vector in enumerate((executor.parameters, *executor.slots)):
        for p in executor.plan.parameters:
            own = vector[p.matrix.at.offset // item :][: p.matrix.items]
            packed = np.full_like(own, np.nan)
            p.matrix.pack(p.matrix.unpack(own), packed)
            if k == 2 and isinstance(optimizer, AdaMax):
                packed = np.where(packed == own, packed, packed.dtype.type(optimizer.epsilon))
            if not np.array_equal(own, packed):
                return False
    return True


# a logistic's padding is 1/2, not 0, on its way to the loss
LAST_LOGISTIC = Case(9, 3, (5, 3), ("tanh", "logistic"), "squared_error", Adam(), 4, last_activation=True)


@examples(40)
@example(LAST_LOGISTIC, 2)
@given(cases(), st.integers(1, 3))
def test_a_poisoned_workspace_and_guards_change_nothing(case, n_threads):
    clean_model, clean = open_training(case, 1)
    with clean:
        expected = clean.run(epochs=2)
    model, training = open_training(case, n_threads, GUARD)
    with training:
        executor = training.executor
        poison(executor)
        tails = scratch_tails(executor, n_threads)
        for tail in tails:
            tail[:] = 0xA5
        losses = training.run(epochs=2)
        assert executor.guards_intact()
        assert all((tail == 0xA5).all() for tail in tails)
        assert padding_is_zero(executor, case.optimizer)
    assert np.array_equal(losses, expected)
    for name, value in clean_model.parameters.items():
        assert np.array_equal(value, model.parameters[name]), name


@examples(20)
@given(case=cases())
def test_predictions_read_and_write_only_what_is_theirs(case):
    model, (X, y, weights) = case.model(), case.data()
    weights = weights if weights is not None and weights.any() else None
    X, y = as_engine(X), as_targets(case, y)
    logits, tape = reference.forward(model.layers, model.parameters, X)
    rows = reference.LOSSES[case.loss](logits, y)[0] + reference.activity_penalties(model.layers, tape)
    predicting = Evaluation(model, X, n_threads=2, guard=GUARD)
    measuring = Evaluation(model, X, y, weights, loss=get_loss(case.loss), n_threads=2, guard=GUARD)
    tolerance = 1e-11 if case.dtype == "float64" else 1e-4
    for evaluation in (predicting, measuring):
        poison(evaluation.executor)
    assert reference.relative_error(predicting.logits(), logits) < tolerance
    np.testing.assert_allclose(measuring.loss(), np.average(rows, weights=weights), rtol=tolerance, atol=1e-6)
    for evaluation in (predicting, measuring):
        assert evaluation.executor.plan.guards
        assert evaluation.executor.guards_intact()
        evaluation.close()


def test_the_checkers_notice():
    """A word written behind a buffer, and a value that no kernel wrote before it is read."""
    case = Case(8, 5, (33, 3), ("tanh", "identity"), "softmax_cross_entropy", Adam(), 8)
    _, training = open_training(case, 1, GUARD)
    with training:
        executor = training.executor
        executor.fill_guards()
        assert len(executor.plan.guards) >= 6
        for ref in executor.plan.guards:
            buffer = {"parameters": executor.state, "transposed": executor.transposed, "workspace": executor.workspace}
            assert executor.guards_intact()
            buffer[ref.buffer][ref.offset] ^= 1
            assert not executor.guards_intact()
            executor.fill_guards()
        assert padding_is_zero(executor)
        executor.parameters[:] = np.nan
        assert not padding_is_zero(executor)
        with pytest.raises(ArithmeticError):
            training.run(1)


def traced(work):
    """Bytes that `work()` allocated at its peak, and that were left behind."""
    gc.collect()
    tracemalloc.start()
    try:
        with untraced():
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            work()
            gc.collect()
            after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return peak - before, after - before


@pytest.mark.parametrize("n_threads", [1, 2, None])
def test_nothing_grows_from_epoch_to_epoch(n_threads):
    case = Case(
        500, 20, (64, 64, 3), ("relu", "relu", "identity"), "softmax_cross_entropy", Adam(), 32, dtype="float32"
    )
    _, training = open_training(case, n_threads)
    with training:

        def run(n):  # how many go together depends on the time that they take
            for _ in range(n):
                training.run(epochs=1)

        run(3 * AHEAD)
        threads = threading.active_count()
        _, few = traced(lambda: run(2 * AHEAD))  # prepares epochs at least once
        # what grows does so every time; what is made once, whenever, is not looked for here
        many = min(traced(lambda: run(12 * AHEAD))[1] for _ in range(3))
        # less than one small object per epoch: after any number of epochs the interpreter holds up to 10 kB of its own
        assert many < few + 20_000
        assert threading.active_count() <= max(threads, 2)


def test_threads_end_with_the_fit():
    before = threading.active_count()
    case = Case(200, 20, (64, 3), ("relu", "identity"), "softmax_cross_entropy", Adam(), 32, dtype="float32")
    for _ in range(5):
        _, training = open_training(case, n_threads=4)
        with training:
            training.run(epochs=2)
            for rows in range(100, 120):  # more data sets than a training remembers
                training.logits(np.zeros((10 * rows, 20), np.float32))
    for _ in range(200):
        if threading.active_count() <= before:
            break
        time.sleep(0.01)
    assert threading.active_count() <= before


@pytest.mark.parametrize("source", ["float32", "float64", "uint8", "memmap"])
def test_X_is_not_copied(source, tmp_path):
    X = np.random.default_rng(0).integers(0, 255, (12_000, 700)).astype("float32" if source == "memmap" else source)
    if source == "memmap":
        np.save(tmp_path / "X.npy", X)
        X = np.load(tmp_path / "X.npy", mmap_mode="r")
    y = np.arange(12_000) % 3
    model = Sequential(Rescaling(1 / 255), Dense(8), ReLU(), Dense(3))
    options = {"loss": "softmax_cross_entropy", "batch_size": 64, "verbose": 0}
    model.fit(X[:64], y[:64], **options)  # compiles
    peak, left = traced(lambda: model.fit(X, y, epochs=2, **options))
    assert peak < X.nbytes / 4, f"{peak} bytes at the peak, X has {X.nbytes}"
    assert left < 100_000
    peak, _ = traced(lambda: model.predict(X))
    assert peak < 4_000_000, f"predict: {peak} bytes at the peak, X has {X.nbytes}"  # 1024 rows at a time


def test_csr_is_not_made_dense():
    import scipy.sparse

    X = scipy.sparse.random(4000, 2000, density=0.002, format="csr", dtype=np.float32, random_state=0)
    y = np.arange(4000) % 3
    model = Sequential(Dense(8), ReLU(), Dense(3))
    options = {"loss": "softmax_cross_entropy", "batch_size": 50, "verbose": 0}
    model.fit(X[:50], y[:50], **options)
    peak, _ = traced(lambda: model.fit(X, y, epochs=2, **options))
    assert peak < 4_000_000  # dense, X would take 32 million bytes
    peak, _ = traced(lambda: model.predict(X))
    assert peak < 1_000_000
    whole = MLPClassifier((8,), solver="lbfgs", max_iter=2)  # its batch is all rows
    with pytest.warns(ConvergenceWarning):
        whole.fit(X, y)  # compiles
    with pytest.warns(ConvergenceWarning):
        peak, _ = traced(lambda: whole.fit(X, y))
    assert peak < 10_000_000  # most of it SciPy's, which keeps twenty vectors of the parameters in float64


def test_sparse_rows_of_another_dtype_do_not_copy_the_weights():
    import scipy.sparse

    model = Sequential(Dense(100), ReLU(), Dense(3)).build(20_000)  # 8 million bytes
    X = scipy.sparse.random(3, 20_000, 1e-3, "csr", np.float64, random_state=0)
    model.predict(X)
    peak, _ = traced(lambda: model.predict(X))
    assert peak < 200_000
