"""python -m benchmarks.embedding: microseconds of a training step of networks whose first layer is an embedding.

Language models of characters and words (Bengio et al., 2003) with one hidden layer of tanh, Adam in float32, beside
PyTorch (eager, fused Adam, its better number of threads) and JAX (all steps as one compiled scan); equal parameters
and equal batches, whose last parameters are compared. A time is the median of the rounds, in which all take turns.
`--docs` puts the table into docs/performance.md, where no number is typed.
"""

import argparse
import time
from dataclasses import dataclass
from statistics import median

import numpy as np

from benchmarks.peers import BETA_1, BETA_2, EPSILON
from benchmarks.phases import ROOT
from benchmarks.predictions import PAUSE
from benchmarks.report import machine, versions, write_into
from fastmlp import Adam, Dense, Embedding, Sequential, Tanh
from fastmlp.training import Training

RATE, SECONDS = 1e-3, 0.6  # of a turn: a fit, in which the number of workers is found out


@dataclass(frozen=True)
class Network:
    """`context` codes of `words`, vectors of `length`, one hidden layer, as many outputs as words or fewer."""

    words: int
    context: int
    length: int
    hidden: int
    outputs: int
    batch_size: int

    @property
    def name(self):
        return f"{self.words} x {self.length}, {self.context} codes, {self.hidden}-{self.outputs}, {self.batch_size}"

    def data(self, steps, seed=0):
        """Codes and classes for so many steps."""
        rng, n = np.random.default_rng(seed), self.batch_size * steps
        return rng.integers(0, self.words, (n, self.context)).astype(np.float32), rng.integers(0, self.outputs, n)

    def model(self):
        layers = Embedding(self.words, self.length), Dense(self.hidden), Tanh(), Dense(self.outputs)
        return Sequential(*layers).build(self.context, seed=1)


NETWORKS = [
    Network(27, 3, 10, 200, 27, 32),
    Network(100, 8, 24, 256, 100, 128),
    Network(1000, 8, 16, 256, 1000, 256),
    Network(20_000, 5, 64, 128, 100, 128),
]


class FastMLP:
    def __init__(self, network, X, y, n_threads=None):
        self.model, optimizer = network.model(), Adam(RATE, BETA_1, BETA_2, EPSILON)
        options = {"batch_size": network.batch_size, "n_threads": n_threads, "shuffle": False}
        self.training = Training(self.model, X, y, loss="softmax_cross_entropy", optimizer=optimizer, **options)

    def epoch(self):
        self.training.run(1)

    def parameters(self):
        self.training.save_parameters()
        return list(self.model.parameters.values())


class PyTorch:
    def __init__(self, network, X, y, n_threads):
        import torch

        self.torch, self.n_threads = torch, n_threads
        nn, n = torch.nn, network
        layers = nn.Embedding(n.words, n.length), nn.Flatten(), nn.Linear(n.context * n.length, n.hidden), nn.Tanh()
        self.model = nn.Sequential(*layers, nn.Linear(n.hidden, n.outputs))
        with torch.no_grad():
            for own, array in zip(self.model.parameters(), network.model().parameters.values(), strict=True):
                own.copy_(torch.from_numpy(array.T if own.shape != array.shape else array))
        self.batches = list(zip(*(torch.from_numpy(a).split(n.batch_size) for a in (X.astype(int), y)), strict=True))
        self.optimizer = torch.optim.Adam(self.model.parameters(), RATE, (BETA_1, BETA_2), EPSILON, fused=True)

    def epoch(self):
        self.torch.set_num_threads(self.n_threads)
        for X, y in self.batches:
            self.optimizer.zero_grad(set_to_none=True)
            self.torch.nn.functional.cross_entropy(self.model(X), y).backward()
            self.optimizer.step()

    def parameters(self):
        table, *arrays = (p.detach().numpy() for p in self.model.parameters())
        return [table, *(array.T for array in arrays)]


class JAXSteps:
    """Adam's steps on the mean of a function of parameters and a batch, an epoch of batches as one compiled scan."""

    def __init__(self, value, parameters, batches):
        import jax
        import jax.numpy as jnp

        def step(state, batch):
            p, m, v, t = state
            g, t = jax.grad(value)(p, *batch), t + 1.0
            m = [m + (1 - BETA_1) * (g - m) for m, g in zip(m, g, strict=True)]
            v = [v + (1 - BETA_2) * (g * g - v) for v, g in zip(v, g, strict=True)]
            rate, correction = RATE / (1 - BETA_1**t), 1 / (1 - BETA_2**t)
            p = [p - rate * m / (jnp.sqrt(v * correction) + EPSILON) for p, m, v in zip(p, m, v, strict=True)]
            return (p, m, v, t), None

        p = [jnp.array(array) for array in parameters]
        self.state = (p, [jnp.zeros_like(a) for a in p], [jnp.zeros_like(a) for a in p], jnp.float32(0))
        self.batches = tuple(map(jnp.array, batches))
        self.jax, self.run = jax, jax.jit(lambda state, batches: jax.lax.scan(step, state, batches)[0])

    def epoch(self):
        self.state = self.jax.block_until_ready(self.run(self.state, self.batches))

    def parameters(self):
        return [np.asarray(array) for array in self.state[0]]


class JAX(JAXSteps):
    def __init__(self, network, X, y):
        import jax
        import jax.numpy as jnp

        def loss(p, X, y):
            a = jnp.tanh(p[0].at[X].get(mode="promise_in_bounds").reshape(len(X), -1) @ p[1] + p[2])
            return -jnp.take_along_axis(jax.nn.log_softmax(a @ p[3] + p[4]), y[:, None], 1).mean()

        shape = -1, network.batch_size
        batches = X.astype(np.int32).reshape(*shape, network.context), y.reshape(shape)
        super().__init__(loss, network.model().parameters.values(), batches)


COLUMNS = {
    "fastmlp": [FastMLP],
    "PyTorch": [lambda *of: PyTorch(*of, 1), lambda *of: PyTorch(*of, 2)],
    "JAX": [JAX],
}


def in_turns(contenders, rounds, steps, at_least):
    """{label: seconds of a step in each round}, of epochs of so many steps that take so many seconds together."""
    times = {label: [] for label in contenders}
    for _ in range(rounds):
        for label, one in contenders.items():
            time.sleep(PAUSE)
            one.epoch()
            begun, n = time.perf_counter(), 0
            while n == 0 or time.perf_counter() - begun < at_least:
                one.epoch()
                n += 1
            times[label].append((time.perf_counter() - begun) / (n * steps))
    return times


def measure(network, columns, rounds, steps):
    """{column: seconds of a step}, of its best contender."""
    X, y = network.data(steps)
    contenders = {(column, k): make(network, X, y) for column in columns for k, make in enumerate(COLUMNS[column])}
    for one in contenders.values():
        one.epoch()
    expected, start = contenders["fastmlp", 0].parameters(), network.model().parameters.values()
    for (column, _), one in contenders.items():
        for mine, its, first in zip(expected, one.parameters(), start, strict=True):
            change = np.abs(mine - first).max()
            assert np.abs(mine - its).max() < 0.1 * change, f"{column}: not the same work"
    times = in_turns(contenders, rounds, steps, SECONDS)
    return {column: min(median(t) for label, t in times.items() if label[0] == column) for column in columns}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peers", nargs="*", choices=list(COLUMNS)[1:], default=list(COLUMNS)[1:])
    parser.add_argument("--smoke", action="store_true", help="one network, one round: only that everything runs")
    parser.add_argument("--docs", action="store_true", help="put the table into docs/performance.md")
    options = parser.parse_args(arguments)
    rounds, networks = (1, NETWORKS[:1]) if options.smoke else (options.rounds, NETWORKS)
    columns = ["fastmlp", *options.peers]
    lines = [f"{machine()}; {versions()}.", "", f"| table, codes of a row, network, batch | {' | '.join(columns)} |"]
    lines += ["|---" * (1 + len(columns)) + "|"]
    print("\n".join(lines), flush=True)
    for network in networks:
        found = measure(network, columns, rounds, steps=20)
        lines.append(f"| {network.name} | {' | '.join(f'{1e6 * found[column]:.3g}' for column in columns)} |")
        print(lines[-1], flush=True)
    if options.docs:
        write_into(ROOT / "docs" / "performance.md", "\n".join(lines) + "\n", "embedding")


if __name__ == "__main__":
    main()
