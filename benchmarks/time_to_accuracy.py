"""python -m benchmarks.time_to_accuracy: seconds of training until 97.0, 97.5, 98.0 and 98.5 % of MNIST's test images.

The same network, first parameters and recipe for everybody: Adam whose rate falls by the same factor after each epoch,
without dropout or weight decay, which scikit-learn's MLP does not have or has in another form. With `--output` each run
is kept as soon as it is measured; the same command takes up where it was stopped, and prints the table from the file;
`--docs` puts it into docs/performance.md.
`--tune` is for choosing the recipe, by the accuracy on the last 5 000 training images, which it does not train on. The
test accuracy is looked at after each epoch, outside of the time; what compiles in the first epoch (JAX) counts. Without
FASTMLP_DATA it is scikit-learn's digits, which says nothing but that the command runs.
"""

import argparse
import itertools
import json
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.networks import Network
from benchmarks.peers import CONTENDERS
from benchmarks.processes import ROOT
from benchmarks.report import machine, versions, write_into
from benchmarks.tasks import images, score

LIBRARIES = {"fastmlp": "fastmlp auto", "JAX": "jax", "PyTorch": "torch 2", "scikit-learn": "sklearn"}
TARGETS = (0.970, 0.975, 0.980, 0.985)
# Chosen by --tune: best validation accuracy of 20 epochs, one seed. The best is at a corner of the grid.
#   decay   rate 5e-4   1e-3    2e-3
#   0.8        .9834   .9850   .9870
#   0.9        .9830   .9862   .9876
RATE, DECAY, BATCH, EPOCHS = 2e-3, 0.9, 128, 20
GRID = {"rate": (5e-4, 1e-3, 2e-3), "decay": (0.8, 0.9), "batch": (BATCH,)}


def task():
    """A network that can reach the targets, on the images."""
    network, train, test = images()
    return Network((network.widths[0], 512, 512, 10), BATCH, learning_rate=RATE), train, test


def course(label, network, train, test, decay, epochs, seed, limit=float("inf")):
    """[(seconds of training so far, accuracy on `test`)] after each epoch, until `limit` seconds are over."""
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
        out.append((seconds, float(score(network, contender.parameters(), *test))))
        if seconds >= limit:
            break
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


def estimate(rows, libraries, seeds):
    """What one seed took, and how long all the seeds take that are not measured yet."""
    lines, total = [], 0.0
    for name in libraries:
        walls = [row["wall"] for row in rows if row["library"] == name]
        if walls:
            left = max(0, seeds - len(walls)) * median(walls)
            total += left
            lines.append(f"{name}: {median(walls):.0f} s a seed, {left / 60:.1f} min left")
    return "; ".join([*lines, f"in all {total / 60:.1f} min left"])


def markdown(rows, libraries, seeds):
    """The table of the rows measured for these libraries and seeds."""
    lines = [
        f"Adam {RATE:g} times {DECAY:g} an epoch, batches of {BATCH}, no dropout or weight decay; median seconds until "
        "a test accuracy, and how many seeds reached it. scikit-learn's Adam adds epsilon before the bias correction.",
        "",
        f"| | seeds | {' | '.join(f'{target:.1%}' for target in TARGETS)} | best accuracy, median |",
        f"|---|---|{'---|' * (len(TARGETS) + 1)}",
    ]
    cut, never = set(), {}
    for name in libraries:
        runs = [row for row in rows if row["library"] == name and row["seed"] <= seeds]
        if not runs:
            continue
        cells = []
        for target in TARGETS:
            times = [reached(row["course"], target) for row in runs]
            count = sum(np.isfinite(times))
            cells.append(f"{median(times):.2f} s ({count})" if np.isfinite(median(times)) else f"– ({count})")
            if not count:
                never.setdefault(name, []).append(f"{target:.1%}")
        cut |= {name} if any(row["cut"] for row in runs) else set()
        best = median(max(accuracy for _, accuracy in row["course"]) for row in runs)
        lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} | {best:.4f} |")
    lines.append("")
    for name, targets in never.items():
        lines.append(f"{name} never reached {', '.join(targets)}.")
    if cut:
        lines.append(f"Ended early, by --limit: {', '.join(sorted(cut))}.")
    return "\n".join(lines)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"at most; default {EPOCHS}")
    parser.add_argument("--libraries", nargs="*", default=list(LIBRARIES), choices=list(LIBRARIES))
    parser.add_argument("--output", type=Path, help="a line of JSON for each run; runs that it has are not repeated")
    parser.add_argument("--limit", type=float, default=30, help="seconds of training that a run may take; default 30")
    parser.add_argument("--docs", action="store_true", help="put the table into docs/performance.md")
    parser.add_argument("--tune", action="store_true", help="choose the recipe instead")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")  # scikit-learn's one epoch at a time is not converged
    if options.tune:
        return tune(options.epochs)
    network, train, test = task()
    recipe = {"network": network.name, "rate": RATE, "decay": DECAY, "batch": BATCH}
    recipe |= {"epochs": options.epochs, "limit": options.limit}
    rows = []
    if options.output and options.output.exists():
        rows = [json.loads(line) for line in options.output.read_text(encoding="utf-8").splitlines()]
        if any(row["recipe"] != recipe for row in rows):
            parser.error(f"argument --output: {options.output} has runs of another recipe or limit; name another file")
    done, skipped = {(row["library"], row["seed"]) for row in rows}, set()
    for seed in range(1, options.seeds + 1):  # in turn, so that a noisy minute hits everybody
        for name in options.libraries:
            if (name, seed) in done or name in skipped:
                continue
            start = time.perf_counter()
            try:
                run = course(LIBRARIES[name], network, train, test, DECAY, options.epochs, seed, options.limit)
            except ImportError as error:
                print(f"{name} skipped: {error.name} is not installed")
                skipped.add(name)
                continue
            wall, cut = time.perf_counter() - start, len(run) < options.epochs
            row = {"library": name, "seed": seed, "recipe": recipe, "wall": wall, "cut": cut, "course": run}
            rows.append(row)
            if options.output:
                with options.output.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
        print(f"seed {seed} done: {estimate(rows, options.libraries, options.seeds)}", file=sys.stderr, flush=True)
    table = f"{network.name}. {markdown(rows, options.libraries, options.seeds)}"
    print(table)
    if options.docs:
        page = f"{machine()}; {versions()}.\n\n{table}\n"
        write_into(ROOT / "docs" / "performance.md", page, "accuracy")


if __name__ == "__main__":
    main()
