"""Where a fit runs: the `device` of `Sequential.fit`, of the estimators and of the command line.

CUDA is imported only where it is asked for.
"""

from __future__ import annotations

from .errors import unknown_name

DEVICES = ("cpu", "cuda", "auto")
PRECISIONS = ("tf32x3", "tf32", "bf16")  # of products by a device's tensor cores
# Operations of a step's products from which "auto" looks for a GPU: for 1e6 one took 1.3 times as long as sixteen
# cores, for 2e7 0.4 (`python -m benchmarks.cuda`, an H200); a slower GPU wants somewhat more.
ENOUGH = 2e7
# ... and of the whole fit: sixteen cores do so many in 8 s, two in 50; a first fit compiles CUDA kernels in 10 to 20.
ENOUGH_IN_ALL = 1e13


def check_device(device) -> str:
    """The name, or ValueError with the accepted ones."""
    if device not in DEVICES:
        raise unknown_name("device", device, DEVICES)
    return device


def check_precision(precision, device: str, dtype) -> None:
    """Raise ValueError unless a network of this dtype can have this precision of products on this device."""
    if precision is None:
        return
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, (None, *PRECISIONS))
    if device == "cpu":
        raise ValueError(
            f"`precision`={precision!r} is for device='cuda' or 'auto'; on the CPU products have the network's dtype: "
            "leave it out, or change `device`."
        )
    if dtype != "float32":
        raise ValueError(
            f"`precision`={precision!r} is for products of float32, and the network's dtype is {dtype}: leave it out, "
            "or make the network one of float32, an estimator's by giving X as float32."
        )


def choose(device: str, layers, X, batch_size: int, epochs: int, precision=None) -> str:
    """ "cpu" or "cuda", for a fit of these layers to X in so many epochs.

    Raises
    ------
    ImportError, RuntimeError
        "cuda" without the package, without a GPU, or with one that is too old for the precision.
    NotImplementedError
        "cuda" for a sparse X, which runs on the CPU only.
    """
    if check_device(device) == "cpu":
        return "cpu"
    from . import cuda
    from .cuda import support

    if device == "auto":
        work = support.work(layers, X.shape[1], min(batch_size, X.shape[0]))
        if work < ENOUGH or work * epochs * max(1, X.shape[0] / batch_size) < ENOUGH_IN_ALL:
            return "cpu"
        try:
            support.check_X(X)
            cuda.require(precision)
        except (ImportError, RuntimeError):  # NotImplementedError is a RuntimeError
            return "cpu"
        return "cuda"
    support.check_X(X)
    cuda.require(precision)
    return "cuda"


def check_ready(device: str, X, precision, dtype) -> None:
    """Raise what `choose` would for "cuda" without a device, or for sparse X: before anything of a fit has changed."""
    check_precision(precision, device, dtype)
    if device == "cuda":
        from . import cuda
        from .cuda import support

        support.check_X(X)
        cuda.require(precision)


def executor_of(device: str) -> tuple:
    """The layout of a plan for the device (None: the host's), and the class that runs it."""
    if device == "cpu":
        from .engine.executor import Executor

        return None, Executor
    from .cuda.device import SIMD
    from .cuda.executor import CudaExecutor

    return SIMD, CudaExecutor
