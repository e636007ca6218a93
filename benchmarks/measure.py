"""Timing of the contenders on one network, side by side: A B C, A B C, ... so that a noisy minute hits everybody."""

import time
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from benchmarks import fma_peak
from benchmarks.networks import loss_of
from benchmarks.peers import CONTENDERS, NumPy
from benchmarks.tasks import score

VALIDATION_STEPS = 3
TOLERANCE = 2e-4  # of the loss after those steps: Adam's first steps amplify rounding where gradients vanish


@dataclass
class Times:
    """What was measured on one network: seconds a step of each round by label, and what was left out and why."""

    network: object
    steps: dict = field(default_factory=dict)
    peak_fractions: dict = field(default_factory=dict)  # label -> fraction of the FMA peak beside it, by round
    peaks: dict = field(default_factory=dict)  # number of threads -> GFLOP/s
    scores: dict = field(default_factory=dict)  # accuracy or R^2 on fresh rows after all rounds: as many for everybody
    skipped: dict = field(default_factory=dict)

    def microseconds(self, label, statistic=median):
        return statistic(self.steps[label]) * 1e6

    def gflops(self, label):
        return self.network.flop / median(self.steps[label]) / 1e9

    def best_of(self, *labels):
        """The label with the smallest median among those measured, or None."""
        measured = [label for label in labels if label in self.steps]
        return min(measured, key=self.microseconds, default=None)

    def machine_was_busy(self):
        """Whether threads of nothing but multiply-adds never had a core each: then the times mean little."""
        one = max(self.peaks.get(1, [0.0]))
        return any(median(peaks) < 0.9 * n * one for n, peaks in self.peaks.items())

    def ratio(self, slow, fast, statistic=median):
        """How many times longer `slow` takes."""
        return statistic(self.steps[slow]) / statistic(self.steps[fast])


def validate(network, labels, contenders=CONTENDERS, tolerance=TOLERANCE):
    """Let everybody do the same few updates in float32, and compare the loss with that of a float64 run.

    Returns {label: reason} of those who are not installed; raises AssertionError for whoever computes something else.
    """
    whole = network.batch_size > 1000
    rows = network.batch_size * (1 if whole else VALIDATION_STEPS)
    orders = np.tile(np.arange(rows), (VALIDATION_STEPS if whole else 1, 1))
    X, y = network.data(rows, seed=3)
    parameters = network.parameters(seed=4)
    expected, skipped = {}, {}
    for convention in (False, True):
        judge = NumPy(network, X, y, [(W.astype(float), b.astype(float)) for W, b in parameters])
        judge.uncorrected_epsilon = convention
        judge.run(orders)
        expected[convention] = loss_of(network, judge.parameters(), X, y)
    for label in labels:
        make, n_threads = contenders[label]
        try:
            contender = make(network, X, y, parameters, n_threads, shuffle=False)
            contender.run(orders)
        except ImportError as error:
            skipped[label] = f"not installed ({error.name.split('.')[0]})"
            continue
        except Exception as error:
            if label != "torch.compile":  # which may find no compiler, or none that it can use
                raise
            skipped[label] = f"does not work here ({type(error).__name__})"
            continue
        loss = loss_of(network, contender.parameters(), X, y)
        contender.close()
        right = expected[getattr(make, "uncorrected_epsilon", False)]
        assert abs(loss - right) / right < tolerance, (
            f"{label} on {network.name}: loss {loss} after {VALIDATION_STEPS} steps, not {right}"
        )
    return skipped


def measure_network(network, labels, rounds, smoke=False, pause=0.1):
    """Validate, warm up, and time all contenders in turn; `pause` lets the last one's threads fall asleep (OpenBLAS's
    look for work for 0.08 s).
    """
    skipped = validate(network, labels)
    times = Times(network, skipped=skipped)
    n_rows, epochs = network.plan(smoke)
    X, y = network.data(n_rows)
    rng = np.random.default_rng(5)
    orders = np.stack([rng.permutation(n_rows) for _ in range(epochs)])
    contenders = {}
    for label in labels:
        if label not in skipped:
            make, n_threads = CONTENDERS[label]
            shuffle = network.batch_size < n_rows  # nobody needs to shuffle a full batch
            contenders[label] = make(network, X, y, network.parameters(), n_threads, shuffle)
            contenders[label].run(orders)
    for _ in range(rounds):
        orders = np.stack([rng.permutation(n_rows) for _ in range(epochs)])  # new ones, as fastmlp draws its own
        for label, contender in contenders.items():
            time.sleep(pause)
            n_threads = CONTENDERS[label][1] if label.startswith("fastmlp") else None
            before = n_threads and fma_peak.measure(n_threads)
            start = time.perf_counter()
            contender.run(orders)
            seconds = (time.perf_counter() - start) * network.batch_size / orders.size
            times.steps.setdefault(label, []).append(seconds)
            if n_threads:
                peak = (before + fma_peak.measure(n_threads)) / 2
                times.peaks.setdefault(n_threads, []).append(peak)
                times.peak_fractions.setdefault(label, []).append(network.flop / seconds / 1e9 / peak)
    test = network.data(5000, seed=7)
    for label, contender in contenders.items():
        times.scores[label] = score(network, contender.parameters(), *test)
        contender.close()
    return times
