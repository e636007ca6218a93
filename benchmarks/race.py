"""python -m benchmarks.race: random networks beside the peers, in search of one on which a peer is ahead.

Up to five hidden layers of 1 to 2000 units, batches of 1 to 16 384 rows, ReLU or tanh, classes or numbers; widths and
batches are drawn by their logarithms. Everybody does the same updates, which is checked, and all take turns. A line
says how many times longer the fastest peer took; the least ones come last.
"""

import argparse
import itertools
from dataclasses import replace

import numpy as np

from benchmarks.measure import measure_network
from benchmarks.networks import Network, network_of
from benchmarks.peers import CONTENDERS
from benchmarks.report import machine, versions

OURS, MOST_FLOP = "fastmlp auto", 2e10  # of a step: more takes seconds, and is products alone


def drawn(rng):
    """A network that nobody chose."""

    def between(least, most):
        return int(np.exp(rng.uniform(np.log(least), np.log(most + 1))))

    while True:
        inputs, outputs = between(1, 3000), between(2, 1000)
        hidden = [between(1, 2000) for _ in range(rng.integers(0, 6))]
        numbers = rng.random() < 0.5 or outputs > inputs  # their targets are made of the inputs, each of one
        loss = "squared_error" if numbers else "softmax_cross_entropy"
        widths = inputs, *hidden, min(inputs, outputs)
        network = Network(widths, between(1, 16_384), str(rng.choice(["relu", "tanh"])), loss)
        if network.flop < MOST_FLOP:
            return network


def named(name):
    """The network of that name, of numbers where it has one output."""
    network = network_of(name)
    return replace(network, loss="squared_error") if network.widths[-1] == 1 else network


def race(network, peers, rounds, smoke=False):
    """{label: how many times longer}, and our microseconds a step; of those who are installed."""
    times = measure_network(network, [OURS, *peers], rounds, smoke)
    return {label: times.ratio(label, OURS) for label in peers if label in times.steps}, times.microseconds(OURS)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    peers = [label for label in CONTENDERS if not label.startswith("fastmlp")]
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--networks", type=int, default=40, help="how many; one takes some seconds")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", nargs="+", choices=peers, default=["jax", "torch 2"], metavar="PEER")
    parser.add_argument("--only", nargs="+", metavar="NETWORK", help="these, such as 784-1/128, and no random ones")
    parser.add_argument("--smoke", action="store_true", help="one network, one round: only that everything runs")
    options = parser.parse_args(arguments)
    rng, rounds = np.random.default_rng(options.seed), 1 if options.smoke else options.rounds
    print(f"{machine()}; {versions()}.", flush=True)
    lines = []
    chosen = map(named, options.only) if options.only else (drawn(rng) for _ in range(options.networks))
    for network in itertools.islice(chosen, 1 if options.smoke else None):
        try:
            ratios, microseconds = race(network, options.peers, rounds, options.smoke)
        except AssertionError as error:  # rounding, which Adam's first steps make large where gradients vanish
            print(f"left out: {error}", flush=True)
            continue
        described = f"{network.name}, {network.batch_size}, {network.activation}, {network.loss}"
        of_peers = ", ".join(f"{label} {ratio:.2f}" for label, ratio in ratios.items())
        lines.append((min(ratios.values(), default=np.inf), f"{described}: {microseconds:.1f} us; {of_peers}"))
        print(lines[-1][1], flush=True)
    ahead = sum(ratio < 1 for ratio, _ in lines)
    print(f"\nA peer was ahead on {ahead} of {len(lines)}. The least ratios:")
    for _, line in sorted(lines, reverse=True)[-5:]:
        print(line)


if __name__ == "__main__":
    main()
