"""python -m benchmarks.costs: what activations, layers and optimisers of the catalogue add to a training step.

The network is 784-512-512-10 with ReLU and Adam, batch 128; a variant replaces one thing. It and the plain network take
turns, so that a noisy minute hits both; shown is the median of the ratios. `--docs` puts the table into
docs/performance.md, where no number is typed.
"""

import argparse
import time
from statistics import median

import numpy as np

from benchmarks.phases import ROOT
from benchmarks.report import machine, versions, write_into
from fastmlp import (
    GEGLU,
    SGD,
    Adam,
    AdamW,
    BatchNorm,
    Dense,
    Dropout,
    GroupNorm,
    LayerNorm,
    Maxout,
    ReLU,
    RMSNorm,
    Sequential,
)
from fastmlp.activations import ACTIVATIONS
from fastmlp.optimizers import OPTIMIZERS
from fastmlp.training import Training

BATCH, WIDTH = 128, 512
LIMITS = {"activation": 0.15, "dropout": 0.10, "norm": 0.20, "clipping": 0.20}  # more than these are regressions


def network(activation=None, before=(), after=(), width=WIDTH):
    """784-width-width-10 with layers before and behind each hidden activation."""
    hidden = [Dense(width), *before, activation or ReLU(), *after]
    return [*hidden, *hidden, Dense(10)]


def variants():
    """{name: (layers, optimiser, what limits it)}."""
    adam, found = Adam(1e-3), {}
    for name, cls in ACTIVATIONS.items():
        if name not in ("identity", "relu", "hard_threshold"):
            found[cls.__name__] = network(cls()), adam, "activation"
    found["GEGLU(512) for each hidden layer"] = [GEGLU(512), GEGLU(512), Dense(10)], adam, None
    found["Maxout(512) for each hidden layer"] = [Maxout(512), Maxout(512), Dense(10)], adam, None
    found["Dropout(0.5) behind both hidden layers"] = network(after=[Dropout(0.5)]), adam, "dropout"
    for norm in (BatchNorm(), LayerNorm(), RMSNorm(), GroupNorm(8)):
        found[f"{type(norm).__name__} in both hidden layers"] = network(before=[norm]), adam, "norm"
    found["AdamW, clipped by value"] = network(), AdamW(1e-3, clip_value=1.0), "clipping"
    found["AdamW, clipped by the global norm"] = network(), AdamW(1e-3, clip_norm=1.0), "clipping"
    found["Adam with an average of the weights"] = network(), Adam(1e-3, ema_decay=0.99), None
    found["SGD with momentum"] = network(), SGD(0.01, momentum=0.9), None
    for cls in OPTIMIZERS.values():
        if cls is not Adam:
            found[cls.__name__] = network(), cls(1e-4), None
    return found


class Runner:
    """A network that is being trained."""

    def __init__(self, layers, optimizer, n_threads, steps):
        rng = np.random.default_rng(0)
        X = rng.normal(size=(BATCH * steps, 784)).astype(np.float32)
        y = X[:, :10].argmax(1)
        model = Sequential(*layers).build(784)
        options = {"loss": "softmax_cross_entropy", "batch_size": BATCH, "n_threads": n_threads}
        self.training = Training(model, X, y, optimizer=optimizer, **options)
        self.training.run(1)

    def seconds(self):
        start = time.perf_counter()
        self.training.run(1)
        return time.perf_counter() - start


def measure(layers, optimizer, n_threads, rounds, steps):
    """Median of a variant's time over the plain network's, of runs in turn."""
    plain, other = Runner(network(), Adam(1e-3), n_threads, steps), Runner(layers, optimizer, n_threads, steps)
    try:
        ratios = []
        for _ in range(rounds):
            before, between, after = plain.seconds(), other.seconds(), plain.seconds()
            ratios.append(2 * between / (before + after))
        return median(ratios)
    finally:
        plain.training.close()
        other.training.close()


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="variants whose names hold this text")
    parser.add_argument("--threads", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--smoke", action="store_true", help="few steps, one round: only that everything runs")
    parser.add_argument("--docs", action="store_true", help="put the table into docs/performance.md")
    options = parser.parse_args(arguments)
    rounds, steps = (1, 2) if options.smoke else (options.rounds, 15)
    heading = [f"{n} thread{'s' * (n > 1)}" for n in options.threads]
    lines = [f"{machine()}; {versions()}.", "", f"| in place of ReLU and Adam | {' | '.join(heading)} | at most |"]
    lines.append("|---" * (len(heading) + 2) + "|")
    print("\n".join(lines), flush=True)
    for name, (layers, optimizer, limit) in variants().items():
        if options.only.lower() not in name.lower():
            continue
        ratios = [measure(layers, optimizer, n_threads, rounds, steps) for n_threads in options.threads]
        most = f"{LIMITS[limit]:+.0%}" if limit else ""
        lines.append(f"| {name} | {' | '.join(f'{ratio - 1:+.0%}' for ratio in ratios)} | {most} |")
        print(lines[-1], flush=True)
    if options.docs:
        write_into(ROOT / "docs" / "performance.md", "\n".join(lines) + "\n", "costs")


if __name__ == "__main__":
    main()
