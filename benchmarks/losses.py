"""python -m benchmarks.losses: microseconds of a training step by loss, beside JAX.

Networks 32-64-K with ReLU and Adam in float32; JAX does all steps as one compiled scan. Before anyone is timed, both
take a few steps from equal parameters, which are compared. A time is the median of the rounds, in which both take
turns. `--docs` puts the table into docs/performance.md, where no number is typed.
"""

import argparse
from statistics import median

import numpy as np

from benchmarks.embedding import RATE, JAXSteps, in_turns
from benchmarks.peers import BETA_1, BETA_2, EPSILON
from benchmarks.phases import ROOT
from benchmarks.report import machine, versions, write_into
from fastmlp import Adam, Dense, ReLU, Sequential, losses
from fastmlp.training import Training

WIDTHS, BATCHES, STEPS = (32, 64), (128, 512), 20
SECONDS = 0.3  # of a turn: a fit, in which the number of workers is found out


def codes(n_classes):
    return lambda rng, n: rng.integers(0, n_classes, n)


def numbers(n, draw="normal"):
    return lambda rng, rows: getattr(rng, draw)(size=(rows, n)).astype(np.float32)


def labels(n):
    return lambda rng, rows: rng.integers(0, 2, (rows, n)).astype(np.float32)


CASES = [  # loss, outputs, targets
    (losses.SquaredError(), 1, numbers(1)),
    (losses.SquaredError(), 784, numbers(784)),
    (losses.Huber(), 784, numbers(784)),
    (losses.BinaryCrossEntropy(), 1, labels(1)),
    (losses.BinaryCrossEntropy(), 784, labels(784)),
    (losses.Focal(), 1, labels(1)),
    (losses.SoftmaxCrossEntropy(), 10, codes(10)),
    (losses.SoftmaxCrossEntropy(), 1000, codes(1000)),
    (losses.SoftmaxFocal(), 10, codes(10)),
    (losses.SoftmaxFocal(), 100, codes(100)),
    (losses.Hinge(), 10, codes(10)),
    (losses.Hinge(), 100, codes(100)),
    (losses.Ordinal(), 9, codes(10)),
    (losses.Ordinal(), 99, codes(100)),
    (losses.Poisson(), 1, lambda rng, n: rng.poisson(1.0, (n, 1)).astype(np.float32)),
    (losses.Gaussian(), 2, numbers(1)),
    (losses.Contrastive(), 2, codes(10)),
    (losses.Contrastive(), 64, codes(10)),
    (losses.Triplet(), 2, codes(10)),
    (losses.Triplet(), 64, codes(10)),
]


def jax_losses():
    """{name: a function of logits and targets}, the mean over the rows, as one writes them in JAX."""
    import jax
    import jax.numpy as jnp

    softplus, log_softmax, sigmoid = jax.nn.softplus, jax.nn.log_softmax, jax.nn.sigmoid

    def at(z, y):
        return jnp.take_along_axis(z, y[:, None], 1)[:, 0]

    def huber(d):
        return jnp.where(abs(d) <= 1, 0.5 * d * d, abs(d) - 0.5)

    def focal(z, y):
        return y * sigmoid(-z) ** 2 * softplus(-z) + (1 - y) * sigmoid(z) ** 2 * softplus(z)

    def softmax_focal(z, y):
        log_p = at(log_softmax(z), y)
        return -((1 - jnp.exp(log_p)) ** 2) * log_p

    def hinge(z, y):
        mine = y[:, None] == jnp.arange(z.shape[1])
        return jax.nn.relu(1 + jnp.where(mine, -jnp.inf, z).max(1) - at(z, y))

    def ordinal(z, y):
        above, asked = y[:, None] > jnp.arange(z.shape[1]), y[:, None] >= jnp.arange(z.shape[1])
        return (asked * softplus(jnp.where(above, -z, z))).sum(1)

    def gaussian(z, y):
        v = softplus(z[:, 1:]) + losses.Gaussian().min_variance
        return 0.5 * (jnp.log(v) + (z[:, :1] - y) ** 2 / v).sum(1)

    def pairs(z, y):
        """Squared distances (n, n) as a product, whether the labels are alike, and whether it is another row."""
        sizes = (z * z).sum(1)
        squares = jax.nn.relu(sizes[:, None] + sizes - 2 * z @ z.T)
        return squares, y[:, None] == y, ~jnp.eye(len(z), dtype=bool)

    def distance(squares):
        return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)

    def contrastive(z, y):
        squares, alike, other = pairs(z, y)
        near = jax.nn.relu(losses.Contrastive().margin - distance(squares))
        return (other * 0.5 * jnp.where(alike, squares, near * near)).sum(1) / (len(z) - 1)

    def triplet(z, y):
        squares, alike, other = pairs(z, y)
        far = distance(jnp.where(alike & other, squares, -1).max(1))
        near = distance(jnp.where(alike, jnp.inf, squares).min(1))
        has_both = (alike & other).any(1) & ~alike.all(1)
        return jnp.where(has_both, jax.nn.relu(losses.Triplet().margin + far - near), 0)

    return {
        "squared_error": lambda z, y: 0.5 * ((z - y) ** 2).sum(1),
        "huber": lambda z, y: huber(z - y).sum(1),
        "binary_cross_entropy": lambda z, y: (softplus(z) - y * z).sum(1),
        "focal": lambda z, y: focal(z, y).sum(1),
        "softmax_cross_entropy": lambda z, y: -at(log_softmax(z), y),
        "softmax_focal": softmax_focal,
        "hinge": hinge,
        "ordinal": ordinal,
        "poisson": lambda z, y: (jnp.exp(z) - y * z + jax.scipy.special.xlogy(y, y) - y).sum(1),
        "gaussian": gaussian,
        "contrastive": contrastive,
        "triplet": triplet,
    }


def model_of(units):
    return Sequential(Dense(WIDTHS[1]), ReLU(), Dense(units)).build(WIDTHS[0], seed=1)


class FastMLP:
    def __init__(self, loss, units, batch_size, X, y):
        self.model, optimizer = model_of(units), Adam(RATE, BETA_1, BETA_2, EPSILON)
        options = {"batch_size": batch_size, "shuffle": False}
        self.training = Training(self.model, X, y, loss=loss, optimizer=optimizer, **options)

    def epoch(self):
        self.training.run(1)

    def parameters(self):
        self.training.save_parameters()
        return list(self.model.parameters.values())


class JAX(JAXSteps):
    def __init__(self, loss, units, batch_size, X, y):
        import jax

        rows = jax_losses()[loss.name]

        def value(p, X, y):
            return rows(jax.nn.relu(X @ p[0] + p[1]) @ p[2] + p[3], y).mean()

        batches = (a.reshape(-1, batch_size, *a.shape[1:]) for a in (X, y))
        super().__init__(value, model_of(units).parameters.values(), batches)


def compare(loss, units, batch_size, targets, contenders):
    """AssertionError for whoever has other parameters after two steps."""
    rng = np.random.default_rng(2)
    X, y = rng.normal(size=(2 * batch_size, WIDTHS[0])).astype(np.float32), targets(rng, 2 * batch_size)
    start, found = model_of(units).parameters.values(), {}
    for column, make in contenders.items():
        one = make(loss, units, batch_size, X, y)
        one.epoch()
        found[column] = one.parameters()
    for column, parameters in found.items():
        differ = []
        for mine, its, first in zip(found["fastmlp"], parameters, start, strict=True):
            # Adam's first steps have the gradient's sign, and distances have no gradient by the last bias but rounding
            differ.append((np.abs(mine - its) > 0.1 * np.abs(mine - first).max()).ravel())
        assert np.concatenate(differ).mean() < 0.02, f"{column}, {loss.name}: not the same work"


def measure(loss, units, batch_size, targets, contenders, rounds):
    """{column: seconds of a step}."""
    compare(loss, units, batch_size, targets, contenders)
    rng, n = np.random.default_rng(3), STEPS * batch_size
    X, y = rng.normal(size=(n, WIDTHS[0])).astype(np.float32), targets(rng, n)
    running = {column: make(loss, units, batch_size, X, y) for column, make in contenders.items()}
    times = in_turns(running, rounds, STEPS, SECONDS)
    running["fastmlp"].training.close()
    return {column: median(of) for column, of in times.items()}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="losses whose names hold this text")
    parser.add_argument("--peers", nargs="*", choices=["JAX"], default=["JAX"])
    parser.add_argument("--smoke", action="store_true", help="one loss, one round: only that everything runs")
    parser.add_argument("--docs", action="store_true", help="put the table into docs/performance.md")
    options = parser.parse_args(arguments)
    cases, batches, rounds = CASES, BATCHES, options.rounds
    if options.smoke:
        cases, batches, rounds = CASES[6:7], BATCHES[:1], 1
    contenders = {"fastmlp": FastMLP} | ({"JAX": JAX} if options.peers else {})
    lines = [f"{machine()}; {versions()}.", "", f"| loss, outputs, batch | {' | '.join(contenders)} |"]
    lines.append("|---" * (1 + len(contenders)) + "|")
    print("\n".join(lines), flush=True)
    for loss, units, targets in cases:
        for batch_size in batches:
            if options.only not in loss.name:
                continue
            found = measure(loss, units, batch_size, targets, contenders, rounds)
            times = " | ".join(f"{1e6 * found[column]:.3g}" for column in contenders)
            lines.append(f"| {loss.name}, {units}, {batch_size} | {times} |")
            print(lines[-1], flush=True)
    if options.docs:
        write_into(ROOT / "docs" / "performance.md", "\n".join(lines) + "\n", "losses")


if __name__ == "__main__":
    main()
