"""Shared fixtures: PyTorch where it is installed, the data folder, digits; and hypothesis's profile."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from tracing import untraced

# A shell that starts pytest in the background has it ignore Ctrl-C, and its children, which are sent one, inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples on every run: a failure in CI can be repeated at once. HYPOTHESIS_PROFILE=explore draws new ones.
common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]}
settings.register_profile("repeatable", derandomize=True, max_examples=40, database=None, **common)
settings.register_profile("explore", max_examples=1000, **common)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_configure(config):
    if sys.platform == "darwin":  # of the tests' own products by Apple's Accelerate, numpy/numpy#28687
        said = "divide by zero|overflow|invalid value"
        config.addinivalue_line("filterwarnings", f"ignore:({said}) encountered in (matmul|dot):RuntimeWarning")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """`-n auto`: as many as the cores that this process may use, which a container may limit."""
    from fastmlp.engine.threads import usable_cores

    return usable_cores()


@pytest.fixture(scope="session", autouse=True)
def compiling_is_not_traced():
    """Of ours, Numba runs `engine/ir.py` only."""
    from numba.core.ccallback import CFunc

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CFunc, "compile", untraced()(CFunc.compile))
        yield


@pytest.fixture
def rng():
    """A random generator that starts equal in every test."""
    return np.random.default_rng(20_26)


@pytest.fixture(scope="session")
def torch():
    """PyTorch, or a skip: it is a yardstick of the tests, not a dependency of the library."""
    return pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch (the CPU build is enough)")


@pytest.fixture(scope="session")
def data_folder():
    """The folder named by FASTMLP_DATA, or a skip."""
    folder = os.environ.get("FASTMLP_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("FASTMLP_DATA does not name a folder with the data sets (MNIST and others)")
    return Path(folder)


@pytest.fixture(scope="session")
def digits():
    """scikit-learn's digits, float32 in [0, 1]: (X, y)."""
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    return (X / 16).astype(np.float32), y
