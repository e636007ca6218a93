"""python -m benchmarks.cuda: a training step on an NVIDIA GPU beside the CPU and the peers, where there is one.

Microseconds a step (Adam, float32, data on the device), the median of rounds in which all take turns; each contender
first shows that it computes the same updates. Then MNIST, ten epochs, and from which size of a step on the device was
the faster one: what `devices.ENOUGH`, by which `device="auto"` decides, is to be set to. With `--precision` everybody's
products on the device are those of tensor cores, PyTorch's for bf16 as it sees fit; without, nobody's.
"""

import argparse
import sys
import time
from statistics import median

import numpy as np

from benchmarks.measure import TOLERANCE, validate
from benchmarks.networks import Network, network_of
from benchmarks.peers import BETA_1, BETA_2, EPSILON, JAX, FastMLP, PyTorch
from benchmarks.tasks import TASKS, score

NETWORKS = [
    Network((10, 64, 64, 2), 32),
    Network((64, 128, 128, 10), 128),
    Network((784, 128, 64, 10), 128),
    Network((64, 128, 128, 10), 16384),
    *(Network((784, 512, 512, 10), 4**k * 1024) for k in range(4)),
]


class CudaFastMLP(FastMLP):
    """The library under test, on the device."""

    device = "cuda"


class CudaPyTorch(PyTorch):
    """Eager PyTorch; data, order of rows and parameters on the device. Its words for a precision promise no less."""

    capturable, precision = False, None
    words = {None: "highest", "tf32x3": "highest", "tf32": "high", "bf16": "medium"}

    def __init__(self, network, X, y, parameters, n_threads=None, shuffle=True):
        super().__init__(network, X, y, parameters, n_threads, shuffle)
        if not self.torch.cuda.is_available():
            raise ImportError("PyTorch without CUDA", name="PyTorch with CUDA")
        self.torch.set_float32_matmul_precision(self.words[self.precision])
        self.model.to("cuda")
        self.X, self.y = self.X.to("cuda"), self.y.to("cuda")
        options = {"lr": network.learning_rate, "betas": (BETA_1, BETA_2), "eps": EPSILON, "fused": True}
        self.optimizer = self.torch.optim.Adam(self.model.parameters(), **options, capturable=self.capturable)

    def step(self, rows):
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(self.model(self.X.index_select(0, rows)), self.y.index_select(0, rows)).backward()
        self.optimizer.step()

    def run(self, orders):
        for order in self.torch.from_numpy(orders).to("cuda"):
            for rows in order.split(self.batch_size):
                self.step(rows)
        self.torch.cuda.synchronize()

    def parameters(self):
        return [(m.weight.detach().cpu().numpy().T.copy(), m.bias.detach().cpu().numpy()) for m in self.linear]


class GraphedPyTorch(CudaPyTorch):
    """The same step captured into a CUDA graph, as PyTorch's documentation shows it."""

    capturable = True

    def __init__(self, network, X, y, parameters, n_threads=None, shuffle=True):
        super().__init__(network, X, y, parameters, n_threads, shuffle)
        torch = self.torch
        self.rows = torch.arange(self.batch_size, device="cuda")
        kept = [p.detach().clone() for p in self.model.parameters()]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                super().step(self.rows)
        torch.cuda.current_stream().wait_stream(side)
        self.optimizer.zero_grad(set_to_none=True)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            super().step(self.rows)
        with torch.no_grad():  # what warming up has changed
            for p, first in zip(self.model.parameters(), kept, strict=True):
                p.copy_(first)
            for state in self.optimizer.state.values():
                for value in state.values():
                    value.zero_()

    def step(self, rows):
        self.rows.copy_(rows)
        self.graph.replay()


class CudaJAX(JAX):
    """All epochs as one compiled scan, on JAX's GPU."""

    precision = None
    words = {None: "highest", "tf32x3": "TF32_TF32_F32_X3", "tf32": "TF32_TF32_F32", "bf16": "BF16_BF16_F32"}

    def __init__(self, network, X, y, parameters, n_threads=None, shuffle=True):
        import jax

        if jax.default_backend() != "gpu":
            raise ImportError("JAX without CUDA", name="JAX with CUDA")
        jax.config.update("jax_default_matmul_precision", self.words[self.precision])
        super().__init__(network, X, y, parameters, n_threads, shuffle)


CONTENDERS = {
    "fastmlp cpu": (FastMLP, None),
    "fastmlp cuda": (CudaFastMLP, None),
    "torch": (CudaPyTorch, None),
    "torch graph": (GraphedPyTorch, None),
    "jax": (CudaJAX, None),
}
ROUNDING = {
    None: TOLERANCE,
    "tf32x3": TOLERANCE,
    "tf32": 10 * TOLERANCE,
    "bf16": 100 * TOLERANCE,
}  # of a loss after some steps


def measure(network, rounds, patience=2.0, epochs=1):
    """{label: microseconds a step}, and {label: why it was left out}; who took so many seconds takes no more turns."""
    steps_per_epoch = min(max(2**17 // network.batch_size, 4), 1000)
    n_steps = epochs * steps_per_epoch
    X, y = network.data(network.batch_size * steps_per_epoch)
    rng, taken = np.random.default_rng(0), {}
    small = Network(network.widths, min(network.batch_size, 1000))  # the check runs in float64 NumPy too
    skipped = validate(small, list(CONTENDERS), CONTENDERS, ROUNDING[CudaFastMLP.precision])
    contenders = {
        label: make(network, X, y, network.parameters(), n_threads)
        for label, (make, n_threads) in CONTENDERS.items()
        if label not in skipped
    }
    # The CPU apart: a device that has nothing to do lowers its clocks, and whoever came next would pay
    on_cpu = [label for label in contenders if label == "fastmlp cpu"]
    on_device = [label for label in contenders if label not in on_cpu]
    for labels in (on_device, on_cpu):
        for turn in range(rounds + 1):  # the first compiles, and fastmlp captures its graph
            orders = np.stack([rng.permutation(len(X)) for _ in range(epochs)])
            for k in range(len(labels)):
                label = labels[(turn + k) % len(labels)]
                if sum(taken.get(label, [])) * n_steps > patience * 1e6:
                    continue
                start = time.perf_counter()
                contenders[label].run(orders)
                if turn:
                    taken.setdefault(label, []).append((time.perf_counter() - start) / n_steps * 1e6)
    for contender in contenders.values():
        contender.close()
    return {label: median(times) for label, times in taken.items()}, skipped


def kernels(network, copies=10, rounds=5):
    """(kernel, grid, threads of a block, microseconds) of each launch of a step, from replays of a graph of several."""
    from numba import cuda

    from fastmlp.cuda import graphs, launches

    configured, last = launches.configured, []

    def noting(kernel, grid, block, stream):
        launch = configured(kernel, grid, block, stream)

        def noted(*arguments):
            last[:] = kernel.py_func.__name__, grid, block
            launch(*arguments)

        return noted

    launches.configured = noting
    try:
        X, y = network.data(2 * network.batch_size)
        contender = CudaFastMLP(network, X, y, network.parameters())
    finally:
        launches.configured = configured
    contender.run([None])
    executor, taken = contender.training.executor, []
    stream, control = executor._stream, np.zeros(len(executor._memory.control), np.int64)
    for launch in executor._programs[0].launches:
        executor._memory.control.copy_to_device(control, stream=stream)
        graph = graphs.Graph(stream, lambda launch=launch: [launch() for _ in range(copies)])
        if last[0] == "end_of_step":  # it counts steps, of which there are only two
            graph.close()
            continue
        times = []
        for _ in range(rounds):
            start, end = cuda.event(), cuda.event()
            start.record(stream)
            graph.launch()
            end.record(stream)
            end.synchronize()
            times.append(cuda.event_elapsed_time(start, end) * 1e3 / copies)
        graph.close()
        taken.append((*last, median(times)))
    contender.close()
    return taken


def mnist(epochs=10):
    """{label: (seconds, test accuracy)}; everything was compiled before."""
    network, (X, y), test = TASKS["images"]()
    orders, results = np.stack([np.random.default_rng(k).permutation(len(X)) for k in range(epochs)]), {}
    for label, (make, n_threads) in CONTENDERS.items():
        try:
            for k in range(2):
                contender = make(network, X, y, network.parameters(), n_threads)
                start = time.perf_counter()
                contender.run(orders if k else orders[:1])
                results[label] = time.perf_counter() - start, score(network, contender.parameters(), *test)
                contender.close()
        except ImportError:
            results.pop(label, None)
    return results


def break_even(measured):
    """The least work of a step, in operations, from which on the device always was the faster one; None if it never
    was. `measured` is a list of (operations, microseconds on the CPU, on the device).
    """
    least = None
    for work, cpu, cuda in sorted(measured, reverse=True):
        if cuda >= cpu:
            break
        least = work
    return least


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=1, help="of a turn: what follows another contender is less of it")
    parser.add_argument("--precision", choices=[name for name in ROUNDING if name], help="of products on the device")
    parser.add_argument("--kernels", action="store_true", help="the time of each kernel of a step, of these networks")
    parser.add_argument("--only", nargs="+", metavar="NETWORK", help="these, such as 784-512-10/128, and no MNIST")
    options = parser.parse_args(arguments)
    chosen = [*map(network_of, options.only)] if options.only else NETWORKS
    from fastmlp import cuda, devices  # here, for revisions without them

    for contender in (CudaFastMLP, CudaPyTorch, CudaJAX):
        contender.precision = options.precision
    try:
        cuda.require(options.precision)
    except (ImportError, RuntimeError) as error:
        print(f"there is nothing to measure: {error}", file=sys.stderr)
        return 1
    if options.kernels:
        for network in chosen:
            print(f"\n{network.name}, {network.batch_size}\n")
            for name, grid, block, microseconds in kernels(network):
                print(f"{name:22} {grid!s:>12} x {block:<5} {microseconds:9.1f} us", flush=True)
        return 0
    print(f"| network, batch | {' | '.join(CONTENDERS)} |\n|---|{'---:|' * len(CONTENDERS)}")
    measured, left_out = [], {}
    for network in chosen:
        times, skipped = measure(network, options.rounds, epochs=options.epochs)
        left_out |= skipped
        row = " | ".join(f"{times[label]:.0f}" if label in times else "" for label in CONTENDERS)
        print(f"| {network.name}, {network.batch_size} | {row} |", flush=True)
        operations = 6 * network.batch_size * sum(a * b for a, b in network.shapes)  # as `support.work` counts them
        measured.append((operations, times["fastmlp cpu"], times["fastmlp cuda"]))
    for label, reason in left_out.items():
        print(f"{label}: {reason}")
    if options.only:
        return 0
    print("\nMNIST, ten epochs")
    for label, (seconds, accuracy) in mnist().items():
        print(f"  {label:13} {seconds:6.2f} s, test accuracy {accuracy:.4f}")
    least = break_even(measured)
    word = (
        "no step was faster on the device" if least is None else f"the device was faster from {least:.2g} operations on"
    )
    print(f"\n{word}; devices.ENOUGH is {devices.ENOUGH:.2g}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
