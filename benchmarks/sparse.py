"""python -m benchmarks.sparse: sparse rows, such as texts by their words, beside scikit-learn.

An MLPClassifier with 100 hidden units, Adam and batches of 200 is fitted for five epochs, with everything that a fit
does, and predicts all rows; each library in turn, the median of the rounds. `--docs` puts the table into
docs/performance.md, where no number is typed.
"""

import argparse
import time
import warnings
from statistics import median

import numpy as np
import scipy.sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier as Theirs

from benchmarks.phases import ROOT
from benchmarks.report import machine, versions, write_into
from fastmlp import Adam, Dense, MLPClassifier as Ours, ReLU, Sequential
from fastmlp.training import Training

CLASSES, EPOCHS = 20, 5
PROBLEMS = [(4000, 100_000, 100), (4000, 20_000, 100), (20_000, 2000, 50), (20_000, 784, 78)]  # rows, columns, entries


def problem(n, columns, entries, seed=0):
    """CSR with so many entries in a row, and classes that they tell."""
    rng = np.random.default_rng(seed)
    X = scipy.sparse.random(n, columns, entries / columns, "csr", np.float32, random_state=rng)
    return X, (X @ rng.normal(size=(columns, CLASSES))).argmax(axis=1)


def training(X, y, n_threads=None):
    """Of a network with 100 hidden units, in batches of 200, compiled."""
    network = Sequential(Dense(100), ReLU(), Dense(CLASSES)).build(X.shape[1])
    options = {"loss": "softmax_cross_entropy", "optimizer": Adam(1e-3), "batch_size": 200, "n_threads": n_threads}
    found = Training(network, X, y, **options)
    found.run(1)
    return found


def model(cls):
    return cls((100,), max_iter=EPOCHS, random_state=0)


def measure(cls, X, y):
    """Seconds of a fit and of a prediction, and the final loss."""
    estimator, begun = model(cls), time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator.fit(X, y)
    fitted = time.perf_counter()
    estimator.predict(X)
    return fitted - begun, time.perf_counter() - fitted, estimator.loss_


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="one small problem, one round: only that everything runs")
    parser.add_argument("--docs", action="store_true", help="put the table into docs/performance.md")
    options = parser.parse_args(arguments)
    rounds, problems = (1, [(400, 1000, 20)]) if options.smoke else (options.rounds, PROBLEMS)
    lines = [f"{machine()}; {versions()}.", ""]
    lines += ["| rows x columns, entries of a row | fit, ours | scikit-learn | predict, ours | scikit-learn |"]
    lines += ["|---" * 5 + "|"]
    print("\n".join(lines), flush=True)
    for n, columns, entries in problems:
        X, y = problem(n, columns, entries)
        measure(Ours, X, y)  # compiles
        runs = [(measure(Ours, X, y), measure(Theirs, X, y)) for _ in range(rounds)]
        ours, theirs = ([median(values) for values in zip(*of, strict=True)] for of in zip(*runs, strict=True))
        assert abs(ours[2] - theirs[2]) < 0.05 * theirs[2], "not the same work"
        times = [f"{1e3 * seconds:.3g} ms" for seconds in (ours[0], theirs[0], ours[1], theirs[1])]
        lines.append(f"| {n} x {columns}, {entries} | {' | '.join(times)} |")
        print(lines[-1], flush=True)
    if options.docs:
        write_into(ROOT / "docs" / "performance.md", "\n".join(lines) + "\n", "sparse")


if __name__ == "__main__":
    main()
