"""python -m benchmarks.partial_fit: milliseconds of a `partial_fit`, beside scikit-learn.

MLPClassifier with its defaults (Adam, float64, batches of up to 200 rows) sees one part of a stream after the other;
everything that a call does. Each library in turn, the median of the rounds. `--docs` puts the table into
docs/performance.md, where no number is typed.
"""

import argparse
import time
from statistics import median

import numpy as np
from sklearn.neural_network import MLPClassifier as Theirs

from benchmarks.phases import ROOT
from benchmarks.predictions import PAUSE
from benchmarks.report import machine, versions, write_into
from fastmlp import MLPClassifier as Ours

CLASSES = 10
PROBLEMS = [(20, (64,), 32), (20, (64,), 1000), (784, (128, 64), 32), (784, (128, 64), 200)]  # columns, layers, rows


def measure(columns, hidden, n, rounds, calls):
    """Seconds of a call: ours and theirs."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(n, columns)), rng.permutation(np.arange(n) % CLASSES)
    models = [cls(hidden, random_state=0).partial_fit(X, y, classes=np.arange(CLASSES)) for cls in (Ours, Theirs)]
    losses = [model.partial_fit(X, y).loss_ for model in models]  # of several batches, of other rows each
    assert abs(losses[0] - losses[1]) < 1e-3 * losses[1], "not the same work"
    seconds = [[], []]
    for _ in range(rounds):
        for model, found in zip(models, seconds, strict=True):
            time.sleep(PAUSE)
            model.partial_fit(X, y)
            begun = time.perf_counter()
            for _ in range(calls):
                model.partial_fit(X, y)
            found.append((time.perf_counter() - begun) / calls)
    return [*map(median, seconds)]


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--smoke", action="store_true", help="one problem, one round: only that everything runs")
    parser.add_argument("--docs", action="store_true", help="put the table into docs/performance.md")
    options = parser.parse_args(arguments)
    rounds, problems, calls = (1, PROBLEMS[:1], 3) if options.smoke else (options.rounds, PROBLEMS, 50)
    lines = [f"{machine()}; {versions()}.", "", "| columns, hidden layers, rows | fastmlp | scikit-learn |"]
    lines += ["|---" * 3 + "|"]
    print("\n".join(lines), flush=True)
    for columns, hidden, n in problems:
        times = [f"{1e3 * seconds:.3g} ms" for seconds in measure(columns, hidden, n, rounds, calls)]
        lines.append(f"| {columns}, {'-'.join(map(str, hidden))}, {n} | {' | '.join(times)} |")
        print(lines[-1], flush=True)
    if options.docs:
        write_into(ROOT / "docs" / "performance.md", "\n".join(lines) + "\n", "partial_fit")


if __name__ == "__main__":
    main()
