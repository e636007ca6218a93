"""Whole processes and single calls: what a person waits for besides the steps themselves."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

ROOT = Path(__file__).resolve().parents[1]

SEQUENTIAL = """
import sys
import numpy as np
from fastmlp import Dense, ReLU, Sequential
with np.load(sys.argv[1]) as file:
    X, y = file["X"], file["y"]
model = Sequential(Dense(32), ReLU(), Dense(10))
model.fit(X, y, loss="softmax_cross_entropy", optimizer="adam", epochs=20, batch_size=32, verbose=0)
assert (model.predict(X).argmax(1) == y).mean() > 0.95
"""

ESTIMATOR = """
import sys
import warnings
import numpy as np
from fastmlp import MLPClassifier
warnings.simplefilter("ignore")  # 20 epochs are not converged
with np.load(sys.argv[1]) as file:
    X, y = file["X"], file["y"]
model = MLPClassifier((32,), batch_size=32, max_iter=20, random_state=0).fit(X, y)
assert (model.predict(X) == y).mean() > 0.95
"""


def output(code, *arguments, cache=None, root=ROOT):
    """What a whole Python process prints, which imports fastmlp from the working tree, or with `root=None` the one that
    is installed."""
    environment = dict(os.environ)
    if root is not None:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), environment.get("PYTHONPATH")]))
    if cache is not None:
        environment["FASTMLP_CACHE_DIR"] = str(cache)
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], env=environment, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"the process failed:\n{code}\n{done.stderr.decode()}")
    return done.stdout.decode()


def run(code, *arguments, cache=None, root=ROOT):
    """Wall time of a whole Python process, in seconds; see `output`."""
    start = time.perf_counter()
    output(code, *arguments, cache=cache, root=root)
    return time.perf_counter() - start


def digits_file(folder):
    """scikit-learn's digits as an .npz of float32 in [0, 1]; random numbers of that shape where it is not installed."""
    path = Path(folder) / "digits.npz"
    try:
        from sklearn.datasets import load_digits

        X, y = load_digits(return_X_y=True)
        X = X / 16
    except ImportError:
        rng = np.random.default_rng(0)
        y = rng.integers(0, 10, 1797)
        X = np.eye(64)[y] + rng.normal(size=(1797, 64)) / 20
    np.savez(path, X=X.astype(np.float32), y=y)
    return path


def processes(repeats):
    """{name: seconds} of the whole processes; medians of `repeats`, the first fit once."""
    with tempfile.TemporaryDirectory() as folder:
        data, cache = digits_file(folder), Path(folder) / "cache"
        times = {"first fit, empty cache": run(SEQUENTIAL, data, cache=cache)}
        codes = {
            "import numpy": "import numpy",
            "import fastmlp": "import numpy, fastmlp; fastmlp.Sequential",  # exports are lazy: use one
            "Sequential, warm cache": SEQUENTIAL,
            "import sklearn.base": "import sklearn.base",
            "MLPClassifier, warm cache": ESTIMATOR,
        }
        try:
            run(ESTIMATOR, data, cache=cache)  # fills the cache
        except RuntimeError as error:
            if "ModuleNotFoundError" not in str(error):
                raise
            del codes["import sklearn.base"], codes["MLPClassifier, warm cache"]
        rounds = [{name: run(code, data, cache=cache) for name, code in codes.items()} for _ in range(repeats)]
    return times | {name: median(each[name] for each in rounds) for name in codes}


def one_row(repeats):
    """Microseconds of `predict` on one row through a fitted network of three hidden layers of 256 units."""
    from fastmlp import Dense, ReLU, Sequential

    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(256, 64)).astype(np.float32), rng.integers(0, 10, 256)
    model = Sequential(Dense(256), ReLU(), Dense(256), ReLU(), Dense(256), ReLU(), Dense(10))
    model.fit(X, y, loss="softmax_cross_entropy", epochs=1, verbose=0)
    row, times = X[:1], []
    model.predict(row)
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(200):
            model.predict(row)
        times.append((time.perf_counter() - start) / 200)
    return median(times) * 1e6


def mnist(n_seeds, epochs=10):
    """784-128-64-10 on MNIST from arrays in memory: (median seconds of a fit, mean test accuracy); None without it."""
    if not os.environ.get("FASTMLP_DATA"):
        return None
    from fastmlp import Adam, Dense, ReLU, Rescaling, Sequential, datasets

    (X, y), (X_test, y_test) = datasets.load_mnist()
    seconds, accuracy = [], []
    for seed in range(-1, n_seeds):  # the first is a short warm-up: compiling is a line of its own
        model = Sequential(Rescaling(1 / 255), Dense(128), ReLU(), Dense(64), ReLU(), Dense(10))
        options = {"loss": "softmax_cross_entropy", "optimizer": Adam(1e-3), "batch_size": 128, "verbose": 0}
        start = time.perf_counter()
        model.fit(X, y, epochs=epochs if seed >= 0 else 1, seed=max(seed, 0), **options)
        if seed >= 0:
            seconds.append(time.perf_counter() - start)
            accuracy.append((model.predict(X_test).argmax(1) == y_test).mean())
    return median(seconds), float(np.mean(accuracy))
