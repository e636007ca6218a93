"""python -m benchmarks.time_to_accuracy: seconds of training until 97.0, 97.5, 98.0 and 98.5 % of MNIST's test images.

The same network, first parameters and recipe for everybody: Adam whose rate falls by the same factor after each epoch.
`--tune` is for choosing the recipe, by the accuracy on the last 5 000 training images, which it does not train on. The
test accuracy is looked at after each epoch, outside of the time; what compiles in the first epoch (JAX) counts. Without
FASTMLP_DATA it is scikit-learn's digits, which says nothing but that the command runs.
"""

import argparse
import itertools
import time
import warnings
from dataclasses import replace
from statistics import median

import numpy as np

from benchmarks.networks import Network
from benchmarks.peers import CONTENDERS
from benchmarks.tasks import images, score

LIBRARIES = {"fastmlp": "fastmlp auto", "JAX": "jax", "PyTorch": "torch 2", "scikit-learn": "sklearn"}
TARGETS = (0.970, 0.975, 0.980, 0.985)
RATE, DECAY, BATCH, EPOCHS = 1e-3, 0.8, 128, 20  # see --tune
GRID = {"rate": (5e-4, 1e-3, 2e-3), "decay": (0.8, 0.9), "batch": (BATCH,)}


def task():
    """A network that can reach the targets, on the images."""
    network, train, test = images()
    return Network((network.widths[0], 512, 512, 10), BATCH, learning_rate=RATE), train, test


def course(label, network, train, test, decay, epochs, seed):
    """[(seconds of training so far, accuracy on `test`)] after each epoch."""
    make, n_threads = CONTENDERS[label]
    X, y = train
    n = len(X) // network.batch_size * network.batch_size
    contender = make(network, X[:n], y[:n], network.parameters(seed), n_threads)
    rng, seconds, out = np.random.default_rng(seed), 0.0, []
    for epoch in range(epochs):
        contender.set_rate(network.learning_rate * decay**epoch)
        order = rng.permutation(n)[None]
        start = time.perf_counter()
        contender.run(order)
        seconds += time.perf_counter() - start
        out.append((seconds, score(network, contender.parameters(), *test)))
    contender.close()
    return out


def reached(course, target):
    """Seconds until the target; infinite where it was not reached."""
    return next((seconds for seconds, accuracy in course if accuracy >= target), float("inf"))


def tune(epochs):
    """Print the best accuracy of every recipe on images held out of the training set."""
    network, (X, y), _ = task()
    held_out = min(5000, len(X) // 5)
    train, validation = (X[:-held_out], y[:-held_out]), (X[-held_out:], y[-held_out:])
    for rate, decay, batch in itertools.product(*GRID.values()):
        candidate = replace(network, learning_rate=rate, batch_size=batch)
        accuracies = [a for _, a in course(LIBRARIES["fastmlp"], candidate, train, validation, decay, epochs, seed=0)]
        print(f"rate {rate:g}, decay {decay:g}, batch {batch}: {max(accuracies):.4f}", flush=True)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"at most; default {EPOCHS}")
    parser.add_argument("--libraries", nargs="*", default=list(LIBRARIES), choices=list(LIBRARIES))
    parser.add_argument("--tune", action="store_true", help="choose the recipe instead")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")  # scikit-learn's one epoch at a time is not converged
    if options.tune:
        return tune(options.epochs)
    network, train, test = task()
    courses = {name: [] for name in options.libraries}
    for seed in range(1, options.seeds + 1):  # in turn, so that a noisy minute hits everybody
        for name in list(courses):
            try:
                courses[name].append(course(LIBRARIES[name], network, train, test, DECAY, options.epochs, seed))
            except ImportError as error:
                print(f"{name} skipped: {error.name} is not installed")
                del courses[name]
    print(
        f"{network.name}, batch {BATCH}, Adam {RATE:g} times {DECAY:g} an epoch; "
        f"median seconds of {options.seeds} seeds until a test accuracy, and how many of them reached it\n"
    )
    print(f"| | {' | '.join(f'{target:.1%}' for target in TARGETS)} | best accuracy, median |")
    print(f"|---|{'---|' * (len(TARGETS) + 1)}")
    for name, runs in courses.items():
        cells = []
        for target in TARGETS:
            times = [reached(run, target) for run in runs]
            count = sum(np.isfinite(times))
            cells.append(f"{median(times):.2f} s ({count})" if np.isfinite(median(times)) else f"– ({count})")
        best = median(max(accuracy for _, accuracy in run) for run in runs)
        print(f"| {name} | {' | '.join(cells)} | {best:.4f} |")


if __name__ == "__main__":
    main()
