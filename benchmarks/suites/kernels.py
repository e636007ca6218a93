"""Single kernels on one thread: the three products by shape, as they run within a step, and the vector functions."""

import time

import numpy as np

from benchmarks import fma_peak
from benchmarks.measure import validate
from benchmarks.networks import Network
from benchmarks.peers import FastMLP
from fastmlp.activations import ACTIVATIONS
from fastmlp.engine import jit

BATCH = 128


class Product:
    """Of the second layer, n_in to n_out, in a step of a network with Adam."""

    params = (["forward", "input gradient", "weight gradient"], ["784 128", "128 64", "512 512", "64 10", "1024 1024"])
    param_names = ("product", "n_in n_out")

    def setup(self, product, shape):
        self.n_in, self.n_out = map(int, shape.split())
        network = Network((16, self.n_in, self.n_out, 10), BATCH)
        validate(network, ["fastmlp 1"])
        self.steps = max(1, int(2e9 / network.flop))
        X, y = network.data(BATCH * self.steps)
        self.contender = FastMLP(network, X, y, network.parameters(), 1)
        self.contender.run([None])

    def gflops(self, product):
        n_in, n_out = self.n_in, self.n_out
        text = {
            "forward": f"{n_in} -> {n_out}: relu",
            "input gradient": f"{n_out} -> {n_in}: dz",
            "weight gradient": f"dense_1.weight ({n_in}, {n_out})",
        }[product]
        executor = self.contender.training.executor
        records = [step for phase in executor.plan.phases for step in phase.steps]
        (record,) = (k for k, step in enumerate(records) if step.text.startswith(text))
        executor.start_profile(1)
        start = time.perf_counter()
        self.contender.run([None])
        cycles = executor._profile[0]
        seconds = (time.perf_counter() - start) * cycles[record] / cycles.sum()
        return 2 * BATCH * n_in * n_out * self.steps / seconds / 1e9

    def track_gflops(self, product, shape):
        return max(self.gflops(product) for _ in range(7))

    def track_peak_fraction(self, product, shape):
        return max(self.gflops(product) / fma_peak.measure(1, 0.01) for _ in range(7))

    track_gflops.unit = "GFLOP/s"
    track_peak_fraction.unit = "of the FMA peak"


class Function:
    """An activation, or its derivative, on a tile in the first-level cache, read and written."""

    params = ([*(f"{name}.{part}" for name in ACTIVATIONS for part in ("value", "derivative"))], [256, 4096])
    param_names = ("function", "float32 numbers")

    def setup(self, name, n):
        self.target, self.other = np.random.default_rng(0).uniform(-1, 1, (2, n)).astype(np.float32)
        worker = np.zeros(64)
        worker[:] = 0.5  # the parameter of an activation that has one
        self.worker, function = worker, jit.function(name, "float32")
        arguments = self.target.ctypes.data, self.other.ctypes.data, n, worker.ctypes.data
        self.call = lambda: function(*arguments)
        activation, part = name.split(".")
        declaration = ACTIVATIONS[activation]
        x, parameter = self.other.astype(float), () if declaration.parameter is None else (0.5,)
        if part == "value":
            self.target[:] = x
            expected = declaration.value(x, *parameter)
        else:
            expected = self.target * declaration.derivative(x, *parameter)
        self.call()
        np.testing.assert_allclose(self.target, expected, rtol=1e-4, atol=1e-6)

    def track_gigabytes_per_second(self, name, n):
        touched, best = self.target.nbytes * (3 if name.endswith("derivative") else 2), np.inf
        for _ in range(300):
            self.target[:] = self.other  # repeated application would leave the numbers' usual range
            start = time.perf_counter()
            self.call()
            best = min(best, time.perf_counter() - start)
        return touched / best / 1e9

    track_gigabytes_per_second.unit = "GB/s"
