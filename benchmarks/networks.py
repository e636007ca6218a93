"""What is timed: the networks, the same data and first parameters for everybody, and the loss that all must reach."""

from dataclasses import dataclass

import numpy as np

ROWS = 20_000


@dataclass(frozen=True)
class Network:
    """A network, its batch size, and the ratios that it has to reach (see `report.py`).

    Parameters
    ----------
    widths : tuple of int
        Inputs, hidden layers, outputs.
    batch_size : int
        Rows a step; `rows` is a multiple of it, so nobody has a partial batch.
    peak, torch, jax : float or None
        The least fraction of the FMA peak on two threads, and the least speed-ups over the peers.
    scaling : float or None
        The least speed-up of two threads over one.
    """

    widths: tuple
    batch_size: int
    activation: str = "relu"
    loss: str = "softmax_cross_entropy"
    peak: float | None = None
    torch: float | None = None
    jax: float | None = 1.0
    scaling: float | None = None
    learning_rate: float = 1e-3

    @property
    def name(self):
        return "-".join(map(str, self.widths))

    @property
    def shapes(self):
        return list(zip(self.widths[:-1], self.widths[1:], strict=True))

    @property
    def flop(self):
        """Operations of one step: forward, weight gradients, and input gradients of all layers but the first."""
        return self.batch_size * sum(a * b * (6 if layer else 4) for layer, (a, b) in enumerate(self.shapes))

    def plan(self, smoke=False):
        """(rows, epochs) of one timed run: about 20 000 rows, fewer for huge networks, and so many epochs that the run
        is long against the milliseconds in which the system finds a core for every thread."""
        if smoke:
            return self.batch_size * (1 if self.batch_size > 1000 else 3), 1
        steps = min(max(1, ROWS // self.batch_size), max(20, int(1e11 / self.flop)))
        least = min(4e10 / self.flop, 3000, 3e6 / self.batch_size)
        return self.batch_size * steps, max(1, round(least / steps))

    def data(self, rows, seed=0):
        """X (rows, n_in) float32 and y: integer codes, or float32 (rows, n_out) for `squared_error`."""
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(rows, self.widths[0])).astype(np.float32)
        if self.loss == "softmax_cross_entropy":
            return X, X[:, : self.widths[-1]].argmax(1)
        return X, np.tanh(X[:, : self.widths[-1]] * X[:, :1]).astype(np.float32)

    def parameters(self, seed=1):
        """[(W, b), ...] in float32; a bias that is not zero, so that a forgotten one is found."""
        rng = np.random.default_rng(seed)
        return [
            ((rng.normal(size=(a, b)) * np.sqrt(2 / a)).astype(np.float32), (rng.normal(size=b) * 0.1).astype("f"))
            for a, b in self.shapes
        ]


NETWORKS = [
    Network((784, 128, 64, 10), 128, peak=0.70, torch=2.8, jax=2.0),
    Network((784, 256, 128, 10), 128),
    Network((784, 512, 512, 10), 128, peak=0.80, scaling=1.85),
    Network((20, 256, 128, 10), 128),
    Network((10, 64, 64, 2), 32, torch=25.0, jax=2.0),
    Network((100, 1024, 1024, 1024, 10), 256, peak=0.84),
    Network((4, 32, 16, 4), 10_000, activation="tanh", loss="squared_error", jax=2.0),
]
BY_NAME = {network.name: network for network in NETWORKS}


def network_of(name):
    """One of the above by its name, or any other by its widths and batch size (128 if not said): "64-64-1000/128".

    Raises
    ------
    ValueError
        No name of a network.
    """
    if name in BY_NAME:
        return BY_NAME[name]
    widths, _, batch_size = name.partition("/")
    try:
        widths, batch_size = tuple(map(int, widths.split("-"))), int(batch_size or 128)
    except ValueError:
        widths = ()
    if len(widths) < 2 or min(*widths, batch_size) < 1:
        raise ValueError(
            f"{name!r} is no network: one of {', '.join(BY_NAME)}, or widths and a batch size: 64-8-3/128."
        )
    return Network(widths, batch_size)


def logits_of(network, parameters, X):
    """The last layer's values in float64, from parameters that any contender returned: one judge for all."""
    a = X.astype(np.float64)
    for layer, (W, b) in enumerate(parameters):
        a = a @ W.astype(np.float64) + b
        if layer < len(parameters) - 1:
            a = np.maximum(a, 0) if network.activation == "relu" else np.tanh(a)
    return a


def loss_of(network, parameters, X, y):
    """Mean loss in float64."""
    a = logits_of(network, parameters, X)
    if network.loss == "squared_error":
        return 0.5 * ((a - y) ** 2).sum(1).mean()
    a = a - a.max(1, keepdims=True)
    return (np.log(np.exp(a).sum(1)) - a[np.arange(len(y)), y]).mean()
