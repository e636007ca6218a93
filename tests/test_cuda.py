"""device="cuda" without a device: names, errors, imports; and the tests in Numba's simulator, in their own process."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from fastmlp import Dense, Embedding, MLPClassifier, MLPRegressor, ReLU, Residual, Sequential
from fastmlp.cli import main
from fastmlp.cuda import require

X = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
Y = np.arange(12) % 3
CODES = {"loss": "softmax_cross_entropy", "verbose": 0}


@pytest.fixture
def no_package(monkeypatch):
    """As where `numba.cuda` cannot be imported."""
    monkeypatch.setitem(sys.modules, "numba.cuda", None)
    import numba

    monkeypatch.delattr(numba, "cuda", raising=False)


FOLDER = Path(__file__).parent / "cuda"


def simulated(*arguments, **variables):
    """Numba looks at the variable once, when it is imported, so these tests have a process of their own."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:cov", *map(str, arguments)]
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1", **variables}
    done = subprocess.run(
        command, env=environment, cwd=FOLDER.parent.parent, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout


PATHS = [path for path in sorted(FOLDER.glob("test_simulated_*.py")) if path.stem != "test_simulated_sizes"]  # slow


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_in_the_simulator(path):
    simulated(path)


@pytest.mark.slow
def test_the_sizes_of_a_device_in_the_simulator():
    simulated(FOLDER, "-m", "slow", FASTMLP_CUDA_SIZES="device")


def test_nothing_of_cuda_is_imported_before_it_is_asked_for():
    code = """
import sys
import numpy as np
from fastmlp import Dense, MLPClassifier, Sequential
X, y = np.eye(4), [0, 1, 0, 1]
for device in ("cpu", "auto"):
    Sequential(Dense(2)).fit(X, y, loss="softmax_cross_entropy", verbose=0, device=device)
    MLPClassifier((2,), batch_size=4, device=device).partial_fit(X, y, classes=[0, 1])
of_cuda = ("numba.cuda", "numba_cuda", "fastmlp.cuda.device", "fastmlp.cuda.executor")
print([name for name in sys.modules if name.startswith(of_cuda)])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("device", ["gpu", "CUDA", None, 0])
def test_unknown_names_are_refused_with_the_accepted_ones(device):
    with pytest.raises(ValueError, match="`device` must be one of 'cpu', 'cuda', 'auto'; got"):
        Sequential(Dense(3)).fit(X, Y, device=device, **CODES)


def test_unknown_names_in_estimators_and_on_the_command_line(capsys):
    for make in (MLPClassifier, MLPRegressor):
        with pytest.raises(ValueError, match="`device` must be one of 'cpu', 'cuda', 'auto'; got 'gpu'"):
            make(device="gpu").fit(X, Y)
    assert main(["train", "digits", "--device", "gpu"]) == 2
    assert "invalid choice: 'gpu'" in capsys.readouterr().err


def test_precisions_are_checked_with_the_device_and_the_dtype(capsys):
    model = Sequential(Dense(3))
    for precision in ("fp16", "float32", 32):
        with pytest.raises(
            ValueError, match=f"`precision` must be one of None, 'tf32x3', 'tf32', 'bf16'; got {precision!r}"
        ):
            model.fit(X, Y, device="cuda", precision=precision, **CODES)
    with pytest.raises(ValueError, match="`precision`='tf32' is for device='cuda' or 'auto'; .* leave it out"):
        model.fit(X, Y, precision="tf32", **CODES)
    with pytest.raises(ValueError, match="`precision`='bf16' is for products of float32.* dtype is float64"):
        Sequential(Dense(3), dtype="float64").fit(X, Y, device="cuda", precision="bf16", **CODES)
    assert not model.built
    for make in (MLPClassifier, MLPRegressor):
        with pytest.raises(ValueError, match="`precision` must be one of None, 'tf32x3', 'tf32', 'bf16'; got 'half'"):
            make(device="cuda", precision="half").fit(X, Y)
        with pytest.raises(ValueError, match="`precision`='tf32' is for device='cuda' or 'auto'"):
            make(precision="tf32").fit(X, Y)
        with pytest.raises(ValueError, match="`precision`='tf32' is for products of float32.* dtype is float64"):
            make(device="auto", precision="tf32").fit(X.astype(np.float64), Y)
    assert main(["train", "digits", "--precision", "tf32"]) == 2
    assert "`--precision`='tf32' is for device='cuda'" in capsys.readouterr().err


def test_an_estimators_precision_is_checked_against_its_networks_dtype(no_package):
    """The network's, which goes on with X of another one; bytes make one of float32."""
    options = {"device": "cuda", "precision": "tf32"}
    model = MLPClassifier((3,)).partial_fit(X.astype(np.float64), Y, classes=[0, 1, 2]).set_params(**options)
    for other in (X, X.astype(np.uint8)):
        with pytest.raises(ValueError, match="the network's dtype is float64: leave it out, or .* X as float32"):
            model.partial_fit(other, Y)
    model = MLPClassifier((3,)).partial_fit(X, Y, classes=[0, 1, 2]).set_params(**options)
    for other in (X, X.astype(np.float64), X.astype(np.uint8)):  # only the device is missing
        with pytest.raises(ImportError, match="numba-cuda"):
            model.partial_fit(other, Y)
    with pytest.raises(ImportError, match="numba-cuda"):
        MLPRegressor(**options).fit(X.astype(np.uint8), Y)
    with pytest.raises(ValueError, match="'precision' parameter of MLPRegressor must be None or a str among"):
        MLPRegressor(device="cuda", precision=32).fit(X, Y)


def test_auto_with_a_precision_is_the_cpu_without_a_device(monkeypatch, no_package):
    monkeypatch.setattr("fastmlp.devices.ENOUGH", 1.0)
    monkeypatch.setattr("fastmlp.devices.ENOUGH_IN_ALL", 1.0)
    options = {"device": "auto", "precision": "tf32"}
    losses = [Sequential(Dense(3)).fit(X, Y, **CODES, **kind)["loss"] for kind in ({}, options)]
    assert list(losses[0]) == list(losses[1])
    estimators = [MLPClassifier((3,), random_state=0).set_params(**kind) for kind in ({}, options)]
    first, second = (estimator.partial_fit(X, Y, classes=[0, 1, 2]).loss_ for estimator in estimators)
    assert first == second


def test_a_device_without_the_precision_is_named(monkeypatch):
    from types import SimpleNamespace

    cuda = pytest.importorskip("numba.cuda")
    device = SimpleNamespace(compute_capability=(7, 5))
    monkeypatch.setattr(cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "get_current_device", lambda: device)
    with pytest.raises(
        RuntimeError, match=r"`precision`='bf16' needs a GPU of compute capability 8\.0.* this one has 7\.5"
    ):
        Sequential(Dense(3)).fit(X, Y, device="cuda", precision="bf16", **CODES)
    model = MLPClassifier((3,)).partial_fit(X, Y, classes=[0, 1, 2]).set_params(device="cuda", precision="bf16")
    before = model.coefs_
    with pytest.raises(RuntimeError, match="compute capability"):
        model.fit(X, Y)
    assert model.coefs_ is before
    monkeypatch.setattr("fastmlp.devices.ENOUGH", 1.0)
    monkeypatch.setattr("fastmlp.devices.ENOUGH_IN_ALL", 1.0)
    losses = [
        Sequential(Dense(3)).fit(X, Y, **CODES, **of)["loss"] for of in ({}, {"device": "auto", "precision": "bf16"})
    ]
    assert list(losses[0]) == list(losses[1])
    device.compute_capability = 8, 0
    monkeypatch.setattr("fastmlp.cuda.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="numba-cuda"):  # what comes after it
        require("bf16")


def test_without_the_package_the_error_says_how_to_install_it(no_package, capsys):
    with pytest.raises(ImportError, match=r'numba-cuda, which is missing .* pip install "fastmlp\[cuda\]"'):
        Sequential(Dense(3)).fit(X, Y, device="cuda", **CODES)
    model = MLPClassifier(device="cuda")
    with pytest.raises(ImportError, match="numba-cuda"):
        model.fit(X, Y)
    assert not hasattr(model, "coefs_")
    assert main(["train", "digits", "--device", "cuda", "--epochs", "1", "--quiet"]) == 2
    assert "device='cuda' needs the package numba-cuda" in capsys.readouterr().err


def test_without_a_device_the_error_says_what_is_missing(monkeypatch):
    cuda = pytest.importorskip("numba.cuda")
    monkeypatch.setattr(cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="needs an NVIDIA GPU, its driver and the CUDA libraries.*nvidia-smi"):
        Sequential(Dense(3)).fit(X, Y, device="cuda", **CODES)


def test_auto_is_the_cpu_where_there_is_no_package(no_package, monkeypatch):
    monkeypatch.setattr("fastmlp.devices.ENOUGH", 1.0)
    monkeypatch.setattr("fastmlp.devices.ENOUGH_IN_ALL", 1.0)
    histories = [Sequential(Dense(3)).fit(X, Y, device=device, **CODES) for device in ("cpu", "auto")]
    assert histories[0]["loss"] == histories[1]["loss"]


def test_sparse_x_and_lbfgs_run_on_the_cpu_only():
    with pytest.raises(NotImplementedError, match="a sparse X does not run on device='cuda'"):
        Sequential(Dense(3)).fit(scipy.sparse.csr_array(X), Y, device="cuda", **CODES)
    with pytest.raises(NotImplementedError, match="a sparse X"):
        MLPClassifier(device="cuda").fit(scipy.sparse.csr_array(X), Y)
    with pytest.raises(ValueError, match="'lbfgs' runs on the CPU"):
        MLPClassifier(solver="lbfgs", device="cuda").fit(X, Y)


def test_the_work_of_a_step_is_that_of_its_products():
    """Two for each multiply-add of three products; behind an embedding, of what it makes of a row."""
    from fastmlp.cuda.support import work

    branch = Residual(Dense(8), ReLU(), Dense(7))
    assert work([Dense(7), ReLU(), branch, Dense(3)], 5, 10) == 6 * 10 * (5 * 7 + 7 * 8 + 8 * 7 + 7 * 3)
    layers = [Embedding(100, 4, columns=[0, 2]), Dense(7), Dense(3)]
    assert work(layers, 5, 10) == 6 * 10 * ((2 * 4 + 3) * 7 + 7 * 3)


def test_the_benchmark_says_what_is_missing_and_the_suite_is_left_out(monkeypatch, capsys):
    from benchmarks import cuda as benchmark
    from benchmarks.suites.cuda import NETWORKS, Steps
    from fastmlp import cuda

    def refuse(precision=None):
        raise RuntimeError("no device")

    monkeypatch.setattr(cuda, "require", refuse)
    for arguments in (["--precision", "tf32"], []):
        assert benchmark.main(arguments) == 1
    assert "there is nothing to measure: no device" in capsys.readouterr().err
    with pytest.raises(NotImplementedError, match="no device"):
        Steps().setup(next(iter(NETWORKS)))


def test_the_rule_that_the_benchmark_finds():
    from benchmarks.cuda import break_even

    assert break_even([(1.0, 5, 9), (3.0, 50, 10), (2.0, 20, 10)]) == 2.0
    assert break_even([(1.0, 9, 5), (2.0, 9, 10), (3.0, 50, 10)]) == 3.0  # faster by chance at 1
    assert break_even([(1.0, 5, 9)]) is None
