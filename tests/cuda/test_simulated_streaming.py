"""Data that does not fit on the device, streamed in chunks: the same bits as with all of it there."""

import numpy as np
import pytest

from fastmlp import Dense, Dropout, Embedding, ReLU, Rescaling, Sequential, evaluation
from fastmlp.cuda import data as places, gradients
from fastmlp.cuda.data import Resident, Streamed
from fastmlp.cuda.executor import CudaExecutor
from fastmlp.cuda.launches import gradients_of, n_bytes
from fastmlp.errors import DivergenceError
from fastmlp.training import Training

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in scalar:RuntimeWarning")

N = 23  # batches of 4: five whole ones and one of three rows


def data(dtype, codes=True):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (N, 5)) if dtype == "uint8" else rng.normal(size=(N, 5))
    return X.astype(dtype), rng.integers(0, 3, N) if codes else rng.normal(size=(N, 3)), rng.uniform(size=N)


def train(X, y, weights=None, validation=None, epochs=2, parts=1, first=None, **options):
    """(losses, metrics of validation data, logits, parameters), and the kind of place that the data got."""
    if first is None and X.dtype == np.uint8:
        first = Rescaling(1 / 255)
    layers = [Dropout(0.2), Dense(4), ReLU(), Dense(3)]
    model = Sequential(*([first] if first else []), *layers).build(5)
    losses, of_validation, state = [], [], None
    options = {"loss": "softmax_cross_entropy", "optimizer": "adam", "batch_size": 4, "seed": 5} | options
    for _ in range(parts):
        with Training(model, X, y, sample_weight=weights, device="cuda", state=state, **options) as training:
            training._chooser.cost[1] = 1e-4  # several steps are one slice from the start
            for _ in range(epochs // parts):
                losses += list(training.run(1))
                if validation is not None:
                    of_validation += training.metrics_of(*validation).values()
            logits, state = training.logits(X), training.state
            place = type(training.executor._data)
    return losses, of_validation, logits, model.parameters, place


@pytest.fixture
def stream(monkeypatch):
    """From its call on, all data are streamed, in chunks that hold so many bytes."""

    def in_chunks(n_bytes):
        monkeypatch.setattr(
            CudaExecutor,
            "_place",
            lambda self, arrays: Streamed(arrays, self._output, self.plan.batch_size, 4 * n_bytes, self._stream),
        )

    monkeypatch.setattr(evaluation, "ROWS", 4)  # several steps for these few rows
    return in_chunks


def assert_same_bits(resident, streamed):
    assert resident[-1] is Resident and streamed[-1] is Streamed
    assert resident[0] == streamed[0] and resident[1] == streamed[1]
    assert np.array_equal(resident[2], streamed[2])
    assert all(np.array_equal(streamed[3][name], array) for name, array in resident[3].items())


CASES = {  # kind of X, batches of a chunk, options
    "shuffled": ("float32", 2, {}),
    "in order, of float64": ("float64", 2, {"shuffle": False}),
    "bytes": ("uint8", 1, {}),
    "codes": ("uint8", 2, {"first": Embedding(256, 2, columns=[4, 1])}),
    "one batch": ("float32", 1, {"batch_size": N}),
    "numbers as targets": ("float32", 3, {"loss": "squared_error"}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_bits_as_data_that_lies_on_the_device(name, stream):
    dtype, batches, options = CASES[name]
    X, y, weights = data(dtype, codes="numbers" not in name)
    validation = (X[:9], y[:9], weights[:9])
    resident = train(X, y, weights, validation, **options)
    stream(batches * 4 * (X.itemsize * 5 + 12 + 4))
    assert_same_bits(resident, train(X, y, weights, validation, **options))


def test_a_fit_that_goes_on(stream):
    X, y, _ = data("float32")
    resident = train(X, y)
    stream(1)  # still a batch in each chunk
    assert_same_bits(resident, train(X, y, parts=2))


def test_a_read_only_memory_map_is_read_chunk_by_chunk(stream, tmp_path):
    X, y, _ = data("float32")
    np.save(tmp_path / "X.npy", np.repeat(X, 2, axis=0))
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")[::2]  # rows that do not follow each other
    resident = train(X, y)
    stream(8 * 28)
    assert_same_bits(resident, train(mapped, y))


def test_a_loss_that_is_not_finite_and_a_queue_that_goes_on(stream):
    """A chunk with such a loss ends a fit; an evaluation goes on with the next batch, in the middle of a chunk."""
    X, y, _ = data("float32")
    X[5] = np.nan
    model = Sequential(Dense(3)).build(5)
    options = {"loss": "squared_error", "optimizer": "sgd", "batch_size": 4, "shuffle": False, "device": "cuda"}
    stream(2 * 4 * (20 + 12))
    with Training(model, X[:4], np.eye(3)[y[:4]], **options) as training:
        evaluation = training._evaluation("loss", X, np.eye(3)[y])
        sums = evaluation._steps.run(evaluation._chooser)
    assert np.isnan(sums[1]) and np.isfinite(np.delete(sums, 1)).all()
    with Training(model, X, np.eye(3)[y], **options) as training:
        with pytest.raises(DivergenceError, match="diverged in epoch 1: the loss"):
            training.run(1)
        assert training.step == 1


@pytest.mark.parametrize("first", [Dense(30), Embedding(9, 3)], ids=["", "embedding"])
def test_the_memory_that_a_plan_needs_is_what_is_allocated(first):
    """But for the records, some thousand bytes; tables of blocks count twice, as streamed data have them."""
    X, y, _ = data("uint8")
    X %= 9
    for batch_size in (4, 12):  # one share of rows, and three
        options = {"loss": "softmax_cross_entropy", "optimizer": "adam", "batch_size": batch_size, "device": "cuda"}
        with Training(Sequential(first, ReLU(), Dense(3)).build(5), X, y, **options) as training:
            plan, memory = training.plan, training.executor._memory
            arrays = memory.work, memory.state, memory.transposed, memory.shares, memory.row_losses
            allocated = sum(array.size * array.dtype.itemsize for array in arrays)
            tables = gradients.bytes_of_tables(gradients_of(plan), plan.dtype)
            assert n_bytes(plan) == allocated + 8 * len(plan.coded) + 2 * tables


def test_data_are_streamed_only_where_they_do_not_fit(monkeypatch):
    X, y, _ = data("float32")
    plans, place = [], CudaExecutor._place
    monkeypatch.setattr(CudaExecutor, "_place", lambda self, arrays: plans.append(self.plan) or place(self, arrays))

    def place_with(free):
        monkeypatch.setattr(places, "free_memory", lambda: free)
        options = {"loss": "softmax_cross_entropy", "optimizer": "sgd", "batch_size": 4, "device": "cuda"}
        with Training(Sequential(Dense(3)).build(5), X, y, **options) as training:
            return type(training.executor._data)

    place_with(10**6)
    (plan,) = plans
    rest = n_bytes(plan)
    assert place_with(rest + N * (28 + 8)) is Resident
    assert place_with(rest + N * (28 + 8) - 1) is Streamed
    assert place_with(rest + 2 * 4 * 28) is Streamed
    with pytest.raises(MemoryError, match=f"the fit needs {rest + 2 * 4 * 28:,} bytes .* are free"):
        place_with(rest + 2 * 4 * 28 - 1)
