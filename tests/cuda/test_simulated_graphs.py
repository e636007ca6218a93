"""Steps as CUDA graphs, with a recorder in place of the driver's: what is captured when, and what a failure does."""

import numpy as np
import pytest

from fastmlp import Dense, Sequential
from fastmlp.cuda import graphs
from fastmlp.cuda.data import Streamed
from fastmlp.cuda.executor import CudaExecutor
from fastmlp.training import Training

X, Y = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float32), np.arange(11) % 3
OPTIONS = {"loss": "softmax_cross_entropy", "optimizer": "sgd", "batch_size": 4, "device": "cuda"}


class Recorder:
    """As `graphs.Graph`: launches nothing while it records, and all of it at `launch`. Keeps what it was given."""

    made = []

    def __init__(self, stream, launch_each):
        self.launch_each, self.launches, self.closed = launch_each, 0, False
        Recorder.made.append(self)

    def launch(self):
        assert not self.closed
        self.launch_each()
        self.launches += 1

    def close(self):
        self.closed = True


@pytest.fixture
def recorder(monkeypatch):
    monkeypatch.setattr(graphs, "_wanted", True)
    monkeypatch.setattr(graphs, "Graph", Recorder)
    monkeypatch.setattr(Recorder, "made", [])
    return Recorder.made


def train(epochs=(1, 1)):
    model = Sequential(Dense(3)).build(3)
    with Training(model, X, Y, **OPTIONS) as training:
        for n in epochs:
            training._chooser.cost[1] = 1e-6  # epochs are bound together
            training.run(n)
    return model.parameters


def assert_equal(a, b):
    assert all(np.array_equal(b[name], array) for name, array in a.items())


def test_the_first_step_is_launched_kernel_by_kernel_and_the_others_are_replayed(monkeypatch, recorder):
    with monkeypatch.context() as plain:
        plain.setattr(graphs, "_wanted", False)
        expected = train()
    assert not recorder
    assert_equal(train(), expected)
    graph, look = recorder
    assert graph.launches == 5  # of 6 steps, in two epochs; the second has its arrays in the same places
    assert look.launches == 1  # of two, for numbers that are not finite
    assert graph.closed and look.closed


def test_a_step_is_captured_again_when_its_arrays_have_moved(monkeypatch, recorder):
    with monkeypatch.context() as plain:
        plain.setattr(graphs, "_wanted", False)
        expected = train((1, 3, 2))
    assert_equal(train((1, 3, 2)), expected)
    first, second, look = recorder  # two epochs together need longer arrays than one; two find room
    assert first.launches == 2 and second.launches == 15 and first.closed


def test_each_buffer_of_streamed_data_has_a_graph(monkeypatch, recorder):
    monkeypatch.setattr(
        CudaExecutor, "_place", lambda self, arrays: Streamed(arrays, None, self.plan.batch_size, 0, self._stream)
    )
    with monkeypatch.context() as plain:
        plain.setattr(graphs, "_wanted", False)
        expected = train((1, 1, 1))
    assert_equal(train((1, 1, 1)), expected)
    launches = [graph.launches for graph in recorder]
    assert launches == [5, 2, 2]  # chunks 0 and 2, and 1, of a step each; looks at all parameters


@pytest.mark.parametrize("error", [RuntimeError("cuStreamEndCapture: CUDA_ERROR"), ImportError("no cuda.bindings")])
def test_where_a_capture_fails_kernels_are_launched_and_one_warning_says_so(monkeypatch, recorder, error):
    with monkeypatch.context() as plain:
        plain.setattr(graphs, "_wanted", False)
        expected = train()

    def refuse(stream, launch_each):
        raise error

    monkeypatch.setattr(graphs, "Graph", refuse)
    with pytest.warns(RuntimeWarning, match="could not be captured into a CUDA graph .* one by one") as warned:
        assert_equal(train(), expected)
    assert len(warned) == 1
    assert_equal(train(), expected)  # a second warning would be an error
