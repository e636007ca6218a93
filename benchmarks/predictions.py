"""python -m benchmarks.predictions: microseconds of a prediction of some rows, beside PyTorch, JAX and scikit-learn.

Everybody has the same weights and the rows as a float32 array in memory, and gives probabilities: `Sequential.predict`
beside PyTorch (inference mode, its better number of threads) and JAX (jitted), `MLPClassifier.predict_proba` beside
scikit-learn. A time is the
median of calls one after the other, as a server or an evaluation makes them, and of the rounds, in which all take
turns, after a pause that lets the last one's threads fall asleep. `--docs` puts the table into docs/performance.md,
where no number is typed.
"""

import argparse
import time
from statistics import median

import numpy as np

from benchmarks.networks import Network, logits_of
from benchmarks.phases import ROOT
from benchmarks.report import machine, versions, write_into
from fastmlp import Dense, MLPClassifier, ReLU, Sequential, SoftmaxCrossEntropy

NETWORKS = [(10, 64, 64, 3), (784, 128, 64, 10), (784, 512, 512, 10), (64, 128, 1000)]
ROWS = [1, 10, 100, 1000, 10_000]
PAUSE, SECONDS = 0.12, 0.04  # before a turn (threads of OpenBLAS look for work for 0.08 s), and of it


def ours(network, parameters):
    layers = [layer for units in network.widths[1:] for layer in (Dense(units), ReLU())][:-1]
    model = Sequential(*layers).build(network.widths[0])
    for i, (W, b) in enumerate(parameters):
        model.set_parameters({f"dense_{i}.weight": W, f"dense_{i}.bias": b})
    model.loss = SoftmaxCrossEntropy()
    return model.predict


def pytorch(network, parameters, n_threads):
    import torch

    layers = [layer for shape in network.shapes for layer in (torch.nn.Linear(*shape), torch.nn.ReLU())][:-1]
    model = torch.nn.Sequential(*layers).eval()
    with torch.no_grad():
        for layer, (W, b) in zip(model[::2], parameters, strict=True):
            layer.weight.copy_(torch.from_numpy(W.T.copy()))
            layer.bias.copy_(torch.from_numpy(b))

    def predict(X):
        torch.set_num_threads(n_threads)
        with torch.inference_mode():
            return torch.softmax(model(torch.from_numpy(X)), 1).numpy()

    return predict


def jax(network, parameters):
    import jax

    @jax.jit
    def forward(parameters, X):
        for W, b in parameters[:-1]:
            X = jax.nn.relu(X @ W + b)
        return jax.nn.softmax(X @ parameters[-1][0] + parameters[-1][1])

    on_device = jax.device_put(parameters)
    return lambda X: np.asarray(forward(on_device, X))


def estimator(cls):
    """The probabilities of an estimator with these weights, after a fit to a few rows."""

    def make(network, parameters):
        n_classes = network.widths[-1]
        X, y = network.data(3 * max(20, n_classes))
        y[:n_classes] = np.arange(n_classes)
        found = cls(network.widths[1:-1], random_state=0)
        found.partial_fit(X, y, classes=np.arange(n_classes))
        found.coefs_, found.intercepts_ = ([values[i] for values in parameters] for i in (0, 1))
        return found.predict_proba

    return make


def scikit_learn(network, parameters):
    from sklearn.neural_network import MLPClassifier as Theirs

    return estimator(Theirs)(network, parameters)


COLUMNS = {
    "fastmlp": [ours],
    "PyTorch": [lambda *of: pytorch(*of, 1), lambda *of: pytorch(*of, 2)],
    "JAX": [jax],
    "MLPClassifier": [estimator(MLPClassifier)],
    "scikit-learn": [scikit_learn],
}


def seconds_a_call(predict, X, at_least):
    """The median of calls, as many as go into that time."""
    seconds, begun = [], time.perf_counter()
    while not seconds or time.perf_counter() - begun < at_least:
        started = time.perf_counter()
        predict(X)
        seconds.append(time.perf_counter() - started)
    return median(seconds)


def measure(network, rows, columns, rounds, smoke=False):
    """{column: seconds}, of its best contender."""
    X, parameters = network.data(rows)[0], network.parameters()
    expected, contenders = logits_of(network, parameters, X[:100]), {}
    for column in columns:
        for k, make in enumerate(COLUMNS[column]):
            predict = make(network, parameters)
            result = np.log(predict(X)[:100])  # the logits but for a constant
            result += expected[:, :1] - result[:, :1]
            assert np.abs(result - expected).max() < 2e-3 * np.abs(expected).max(), f"{column}: not the same work"
            contenders[column, k] = predict
    times = {label: [] for label in contenders}
    for _ in range(rounds):
        for label, predict in contenders.items():
            time.sleep(0 if smoke else PAUSE)
            predict(X)
            times[label].append(seconds_a_call(predict, X, 0 if smoke else SECONDS))
    return {column: min(median(of) for (name, _), of in times.items() if name == column) for column in columns}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peers", nargs="+", default=list(COLUMNS)[1:], choices=list(COLUMNS)[1:], metavar="PEER")
    parser.add_argument("--smoke", action="store_true", help="one network, one round: only that everything runs")
    parser.add_argument("--docs", action="store_true", help="put the table into docs/performance.md")
    options = parser.parse_args(arguments)
    rounds, networks, rows = options.rounds, NETWORKS, ROWS
    if options.smoke:
        rounds, networks, rows = 1, NETWORKS[1:2], ROWS[:3]
    columns = [column for column in COLUMNS if column == "fastmlp" or column in options.peers]
    lines = [f"{machine()}; {versions()}.", "", f"| network, rows | {' | '.join(columns)} |"]
    lines.append("|---" * (1 + len(columns)) + "|")
    print("\n".join(lines), flush=True)
    for widths in networks:
        network = Network(widths, 1)
        for n in rows:
            times = measure(network, n, columns, rounds, options.smoke)
            lines.append(f"| {network.name}, {n} | {' | '.join(f'{1e6 * times[c]:.3g}' for c in columns)} |")
            print(lines[-1], flush=True)
    if options.docs:
        write_into(ROOT / "docs" / "performance.md", "\n".join(lines) + "\n", "predictions")


if __name__ == "__main__":
    main()
