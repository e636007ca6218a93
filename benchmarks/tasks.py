"""Tasks with a held-out score: (network, (X, y), (X_test, y_test)); and the score of parameters that anyone fitted."""

import os
import sys
from functools import cache

import numpy as np

from benchmarks.networks import BY_NAME, Network, logits_of


@cache
def images():
    """MNIST with 784-128-64-10 where FASTMLP_DATA names its folder, else scikit-learn's digits with 64-128-64-10."""
    from fastmlp import datasets

    if os.environ.get("FASTMLP_DATA"):
        (X, y), (X_test, y_test) = datasets.load_mnist(download=False)
        X, X_test = (np.float32(array.reshape(len(array), -1)) / 255 for array in (X, X_test))
    else:
        print("FASTMLP_DATA is not set: scikit-learn's digits in place of MNIST.", file=sys.stderr)
        (X, y), (X_test, y_test) = datasets.load_digits()
        X, X_test = np.float32(X), np.float32(X_test)
    network = Network((X.shape[1], 128, 64, 10), 128)
    n = len(X) // network.batch_size * network.batch_size
    return network, (X[:n], y[:n].astype(np.int64)), (X_test, y_test.astype(np.int64))


def synthetic(name):
    """A network of `networks.py` with its own data; fresh rows to test on."""
    network = BY_NAME[name]
    return network, network.data(network.plan()[0]), network.data(10_000, seed=7)


TASKS = {"images": images, **{name: lambda name=name: synthetic(name) for name in ("10-64-64-2", "4-32-16-4")}}


def score(network, parameters, X, y):
    """Accuracy, or R^2 of a regression."""
    z = logits_of(network, parameters, X)
    if network.loss == "squared_error":
        return float(1 - ((z - y) ** 2).sum() / ((y - y.mean(0)) ** 2).sum())
    return float((z.argmax(1) == y).mean())
