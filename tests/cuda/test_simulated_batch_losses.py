"""Losses across the rows of a batch on the (simulated) device beside the CPU's."""

import numpy as np
import pytest

from fastmlp import SGD, Contrastive, Dense, ListNet, RankNet, ReLU, Sequential, Triplet
from fastmlp.cuda import data
from fastmlp.errors import DivergenceError
from fastmlp.training import Training

# uint32 arithmetic wraps around on a device; NumPy's scalars warn of it
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in scalar:RuntimeWarning")

N = 23
WEIGHTS = np.linspace(0.2, 2, N)
EMBEDDINGS = {"contrastive": Contrastive(1.5), "triplet": Triplet(2.0), "triplet of a small margin": Triplet(0.1)}
RANKS = {"ranknet": RankNet(), "listnet": ListNet()}


def fit(device, loss, dtype, y, X=None, epochs=3, **options):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, 6)).astype(dtype) if X is None else X
    width = 1 if loss.queries else 11
    model = Sequential(Dense(9), ReLU(), Dense(width), dtype=dtype).build(6, seed=1)
    options = {"loss": loss, "optimizer": SGD(0.05), "batch_size": 9, "seed": 5} | options
    with Training(model, X, y, device=device, **options) as training:
        rest = options.get("sample_weight"), options.get("groups")
        return training.run(epochs), training.loss_of(X, y, *rest), model.parameters


def assert_alike(cpu, cuda, dtype):
    rtol = 2e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(cuda[0], cpu[0], rtol=rtol)
    np.testing.assert_allclose(cuda[1], cpu[1], rtol=rtol)
    for key, array in cpu[2].items():
        np.testing.assert_allclose(cuda[2][key], array, rtol=rtol, atol=rtol, err_msg=key)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", EMBEDDINGS)
def test_embeddings_follow_the_cpu(name, weighted, dtype):
    y = np.random.default_rng(1).integers(0, 4, N)
    y[:3] = 7, 8, 8  # labels of one row, and of two
    options = {"sample_weight": WEIGHTS} if weighted else {}
    cpu, cuda = (fit(device, EMBEDDINGS[name], dtype, y, **options) for device in ("cpu", "cuda"))
    assert_alike(cpu, cuda, dtype)


def test_of_equal_distances_the_first_row_is_chosen():
    """Row 0 and others around it on a circle, of both labels: which of them are chosen turns its gradient."""
    circle = [(4, 3), (3, 4), (5, 0), (0, 5), (-4, 3), (4, -3), (-3, -4), (0, -5), (-3, 4), (3, -4), (-5, 0)]
    X, y = np.array([(0, 0), *circle], np.float32), np.array([0, 0, 0, 1, 0, 1, 1, 1, 0, 1, 1, 1])
    parameters = []
    for device in ("cpu", "cuda"):
        model = Sequential(Dense(2, use_bias=False)).build(2)
        model.set_parameters({"dense_0.weight": np.eye(2)})
        options = {"optimizer": SGD(0.01), "batch_size": 12, "shuffle": False, "sample_weight": [1.0] + [0.0] * 11}
        with Training(model, X, y, device=device, loss=Triplet(20.0), **options) as training:
            training.run(1)
        parameters.append(model.parameters["dense_0.weight"])
    cpu, cuda = parameters
    assert not np.allclose(cpu, np.eye(2))
    np.testing.assert_allclose(cuda, cpu, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", RANKS)
def test_ranks_follow_the_cpu(name, dtype):
    rng = np.random.default_rng(3)
    y, groups = rng.integers(0, 4, N).astype(float), np.sort(rng.integers(0, 6, N))
    groups[0] = 99  # a query of one row
    options = {"groups": rng.permutation(groups), "batch_size": 2}
    cpu, cuda = (fit(device, RANKS[name], dtype, y, **options) for device in ("cpu", "cuda"))
    assert_alike(cpu, cuda, dtype)


@pytest.mark.parametrize("loss", [Contrastive(1.5), Triplet(2.0), RankNet(), ListNet()], ids=lambda it: it.name)
def test_streamed_rows_give_the_same_bits(loss, monkeypatch):
    def place(self, arrays):
        return data.Streamed(arrays, self._output, self.plan.batch_size, 4 * 9 * 60, self._stream)

    rng = np.random.default_rng(4)
    y = rng.integers(0, 3, N).astype(float)
    options = {"groups": rng.integers(0, 6, N), "batch_size": 2} if loss.queries else {}
    resident = fit("cuda", loss, "float32", y, **options)
    monkeypatch.setattr("fastmlp.cuda.executor.CudaExecutor._place", place)
    streamed = fit("cuda", loss, "float32", y, **options)
    assert list(streamed[0]) == list(resident[0]) and streamed[1] == resident[1]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("loss", [Contrastive(1.5), Triplet(2.0), RankNet(), ListNet()], ids=lambda it: it.name)
def test_a_loss_that_is_not_finite_ends_the_fit(loss):
    X = np.random.default_rng(0).normal(size=(N, 6)).astype(np.float32)
    X[11] = 3e38
    options = {"groups": np.arange(N) // 4, "batch_size": 2} if loss.queries else {}
    with pytest.raises(DivergenceError, match="diverged in epoch 1: the loss"):
        fit("cuda", loss, "float32", np.arange(N) % 3 * 1.0, X, **options)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_logit_that_is_not_finite_is_noticed_in_a_query_of_one_row():
    X = np.random.default_rng(0).normal(size=(N, 6)).astype(np.float32)
    X[11] = 3e38
    with pytest.raises(DivergenceError, match="diverged in epoch 1: the loss"):
        fit("cuda", RankNet(), "float32", np.arange(N) * 1.0, X, groups=np.arange(N), batch_size=4)
