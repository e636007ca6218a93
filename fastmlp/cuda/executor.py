"""The CUDA executor: a plan's buffers on the device, and its records as launches.

Launches are put into the device's queue step after step; the host waits at the end of a slice and reads two numbers:
how many steps were done, and whether a loss was not finite.
"""

from __future__ import annotations

import signal
import threading
import time
from contextlib import contextmanager

import numpy as np
from numba import cuda

from ..engine import records as R
from ..engine.layout import NamedParameters
from ..plan import Kernel, Plan, Ref, Step
from . import kernels
from .kernels import SIMD, STEP, TILE


class CudaExecutor(NamedParameters):
    """A plan bound to a device, to data and to kernels; as `engine.executor.Executor`.

    Parameters
    ----------
    plan : Plan
        Made with `simd=SIMD`.
    externals : dict
        "X", "y", "sample_weight": copied to the device once. "output": filled when all steps are done.
    state : device array, optional
        What `shared` of another executor gave.
    """

    def __init__(self, plan: Plan, externals: dict, state=None):
        self.plan = plan
        self._n = plan.sizes["parameters"] // plan.item
        self._host = np.zeros((1 + plan.n_slots, self._n), plan.dtype)
        self.transposed = np.zeros(plan.sizes["transposed"], np.uint8)
        self._stale = False  # whether the device's parameters are newer than the host's
        self.steps_done = 0
        arrays = {name: externals[name] for name in ("X", "y", "sample_weight") if name in externals}
        self._output = externals.get("output")
        needed = plan.n_bytes + 8 * plan.batch_size + sum(array.nbytes for array in arrays.values())
        needed += 0 if self._output is None else self._output.nbytes
        _check_memory(needed)
        try:
            self._work = cuda.to_device(np.zeros(max(1, plan.sizes["workspace"] // plan.item), plan.dtype))
            self._state = cuda.to_device(self._host.ravel()) if state is None else state
            self._transposed = cuda.to_device(np.zeros(max(1, len(self.transposed) // plan.item), plan.dtype))
            self._data = {name: cuda.to_device(_rows(array)) for name, array in arrays.items()}
            self._row_losses = cuda.to_device(np.zeros(plan.batch_size))
            if self._output is not None:
                self._data["output"] = cuda.to_device(self._output)
        except Exception as error:  # Numba's own class, of one of two packages
            if "OUT_OF_MEMORY" not in str(error):
                raise
            raise _memory_error(needed) from error
        self._numbers = cuda.to_device(np.array([*plan.numbers, 0.0, 0.0]))
        self._control = cuda.to_device(np.zeros(2, np.int64))
        self._nothing = cuda.to_device(np.zeros(1, plan.dtype))
        self._no_order = cuda.to_device(np.zeros(1, np.int64))
        steps = [step for phase in plan.phases for step in phase.steps]
        table = np.array([[self._field(step, index) for index in range(R.RECORD)] for step in steps], np.int64)
        self._table = cuda.to_device(table)
        self._record_numbers = cuda.to_device(np.ascontiguousarray(table[:, R.NUMBER]).view(np.float64))
        self._launches = [self._launch(k, step) for k, step in enumerate(steps) if step.kernel != "sum_losses"]
        self._launches.append(self._end_of_step(any(step.kernel == "sum_losses" for step in steps)))

    def _field(self, step: Step, index: int) -> int:
        """A record's number: places are bytes from the start of their buffer, and -1 is none."""
        value = step.fields.get(index, 0)
        if isinstance(value, Kernel):
            return 0
        if isinstance(value, Ref):
            return value.offset
        optional = (step.kernel == "product" and index == R.INIT) or (
            step.kernel == "weight_gradient" and index == R.WT
        )
        optional |= step.kernel.endswith((".codes", ".dense")) and index == R.SW
        return -1 if optional else value

    # Launches --------------------------------------------------------------------------------------------------------

    def _launch(self, k: int, step: Step):
        """A function that launches record k for the step that `control` names."""
        family, _, kind = step.kernel.rpartition(".")
        if not kernels.is_known(step.kernel):
            raise NotImplementedError(
                f"{step.kernel} ({step.text}) does not run on device='cuda' yet; use device='cpu'."
            )
        if step.kernel == "product":
            return self._product(k, step)
        if step.kernel in ("weight_gradient", "bias_gradient"):
            return self._gradient(k, step)
        if family == "gather":
            return self._gather(k)
        if step.has_loss:
            return self._loss(k, family, kind)
        fields, dtype, control, table = step.fields, self.plan.dtype, self._control, self._table
        numbers, work = self._record_numbers, self._work
        columns = fields[R.N_OUT] if R.N_OUT in fields else fields[R.N_PANELS] * SIMD.panel(dtype)
        if step.kernel == "dropout":
            launch = self._over(self.plan.batch_size * columns, kernels.dropout(dtype))
            return lambda: launch(control, self._steps, self._scalars, table, numbers, k, work)
        if step.kernel == "scatter":
            launch, out = self._over(self.plan.batch_size * columns, kernels.scatter(dtype)), self._data["output"]
            return lambda: launch(control, self._steps, table, k, work, out)
        launch = self._over(self.plan.batch_size * columns, kernels.elementwise(dtype, self._epilogue(step)))
        return lambda: launch(control, self._steps, table, numbers, k, work)

    def _over(self, n: int, kernel):
        """A kernel whose threads share out n numbers."""
        blocks = max(1, min(TILE.most_blocks, -(-n // TILE.threads)))
        return kernels.configured(kernel, blocks, TILE.threads)

    def _epilogue(self, step: Step):
        following = step.fields[R.EPILOGUE]
        return kernels.epilogue(following.name if isinstance(following, Kernel) else "", self.plan.dtype)

    def _loss(self, k: int, family: str, kind: str):
        dtype = self.plan.dtype
        if family == "softmax_cross_entropy":
            kernel = kernels.softmax_cross_entropy(dtype, kind == "codes")
        else:
            kernel = kernels.separable_loss(dtype, family)
        launch, control, table = self._over(self.plan.batch_size, kernel), self._control, self._table
        weights = self._data.get("sample_weight", self._nothing)
        data = self._data["y"], weights, self._numbers, self._work, self._row_losses
        return lambda: launch(control, self._steps, self._scalars, table, k, self._order, *data)

    def _product(self, k: int, step: Step):
        columns = (step.fields[R.N_PANELS] - 1) * SIMD.panel(self.plan.dtype) + step.fields[R.LAST_WIDTH]
        grid = -(-columns // TILE.columns), -(-self.plan.batch_size // TILE.rows)
        launch = kernels.configured(kernels.product(self.plan.dtype, self._epilogue(step)), grid, TILE.block)
        weights = {"parameters": self._state, "transposed": self._transposed}[step.fields[R.B].buffer]
        control, rest = self._control, (self._table, self._record_numbers, k, self._work, weights, self._state)
        return lambda: launch(control, self._steps, *rest)

    def _gradient(self, k: int, step: Step):
        f, dtype = step.fields, self.plan.dtype
        change = kernels.update(
            f[R.PENALTY].name if f[R.PENALTY] else "",
            bool(f[R.CLIP_KERNEL]),
            bool(f[R.DECAY_KERNEL]),
            f[R.OPTIMIZER].name,
            bool(f[R.AVERAGE_KERNEL]),
            self.plan.n_slots,
            dtype,
        )
        if step.kernel == "weight_gradient":
            grid = -(-f[R.N_OUT] // TILE.columns), -(-f[R.DEPTH] // TILE.rows)
            launch = kernels.configured(kernels.weight_gradient(dtype, change), grid, TILE.block)
        else:
            kernel, block = kernels.bias_gradient(dtype, change)
            launch = kernels.configured(kernel, f[R.N_PANELS], block)
        control, rest = self._control, (self._table, k, self._work, self._state, self._transposed, self._n)
        return lambda: launch(control, self._steps, self._scalars, *rest)

    def _gather(self, k: int):
        kernel = kernels.gather(self.plan.dtype, self.plan.scaling is not None)
        launch = self._over(self.plan.batch_size * self.plan.n_features, kernel)
        control, table, (scale, offset) = self._control, self._table, self.plan.scaling or (1.0, 0.0)
        X, work = self._data["X"], self._work
        return lambda: launch(control, self._steps, table, k, self._order, X, work, scale, offset)

    def _end_of_step(self, with_loss: bool):
        launch = kernels.configured(kernels.end_of_step(with_loss), 1, TILE.threads)
        return lambda: launch(self._control, self._steps, self._row_losses, self._sums)

    # Running ---------------------------------------------------------------------------------------------------------

    def bind(self, steps: np.ndarray, order: np.ndarray | None, scalars: np.ndarray, sums: np.ndarray) -> None:
        """Bring these arrays to the device; see `engine.executor.Executor.bind`."""
        if order is None:
            steps[:, R.STEP_INDEX] = -1
        each = np.arange(len(steps))
        steps[:, R.STEP_SCALARS], steps[:, R.STEP_LOSS_AT] = scalars[0].size * each, each
        self._order = self._no_order if order is None else cuda.to_device(order.ravel())
        self._steps, self._scalars = cuda.to_device(steps), cuda.to_device(scalars.ravel())
        self._sums, self._host_sums = cuda.to_device(sums), sums

    def run(self, steps: np.ndarray, n_workers: int) -> tuple[int, float]:
        """Run these steps, rows of what `bind` was given; see `engine.executor.Executor.run`.

        Ctrl-C takes effect between two steps: half a step would leave some layers updated and others not.
        """
        started = time.perf_counter()
        first = int(steps[0, R.STEP_LOSS_AT])
        control = np.zeros(2, np.int64)
        control[STEP] = first
        with _interrupts_wait() as interrupted:
            self._control.copy_to_device(control)
            self._stale = True
            for _ in range(len(steps)):
                for launch in self._launches:
                    launch()
                if interrupted:
                    break
            self._control.copy_to_host(control)  # waits for the device
            done = int(control[STEP]) - first
            self._host_sums[first : first + done] = self._sums[first : first + done].copy_to_host() if done else 0
            self.steps_done += done
            if self._output is not None and first + done == len(self._host_sums):
                self._data["output"].copy_to_host(self._output)
        return done, time.perf_counter() - started

    # Parameters ------------------------------------------------------------------------------------------------------

    @property
    def parameters(self) -> np.ndarray:
        """The vector of parameters on the host, brought from the device where it is newer there. After writing to it,
        call `refresh`.
        """
        self._pull()
        return self._host[0]

    @property
    def slots(self) -> np.ndarray:
        """The optimiser's state, (n_slots, length), in the same way."""
        self._pull()
        return self._host[1:]

    def _pull(self) -> None:
        if self._stale:
            self._state.copy_to_host(self._host.reshape(-1))
            self._stale = False

    def pack(self, parameters: dict[str, np.ndarray]) -> None:
        """Write named arrays into the vector of parameters."""
        super().pack(parameters)
        self._push()

    def refresh(self) -> None:
        """Take note that parameters or slots were written on the host: they go to the device."""
        super().refresh()
        self._push()

    def _push(self) -> None:
        self._state.copy_to_device(self._host.reshape(-1))
        if len(self.transposed):
            self._transposed.copy_to_device(self.transposed.view(self.plan.dtype))

    def shared(self, slot: int | None):
        """The parameters, or what lies in a slot, as the `state` of another executor."""
        k = 0 if slot is None else 1 + slot % self.plan.n_slots
        return self._state[k * self._n : (k + 1) * self._n]

    def close(self) -> None:
        """Let go of the device's memory."""
        self._pull()
        self._launches, self._data = [], {}
        self._work = self._state = self._transposed = None


def _rows(array: np.ndarray) -> np.ndarray:
    """As kernels index it: X and y by row and column."""
    return np.ascontiguousarray(array.reshape(-1, 1) if array.dtype == np.int64 else array)


def _check_memory(needed: int) -> None:
    if needed > cuda.current_context().get_memory_info()[0]:
        raise _memory_error(needed)


def _memory_error(needed: int) -> MemoryError:
    free = cuda.current_context().get_memory_info()[0]
    return MemoryError(
        f"the fit needs {needed:,} bytes ({needed / 2**30:.1f} GiB) of the device's memory, data included, of which "
        f"{free:,} are free; try a smaller batch_size, narrower layers, or device='cpu'."
    )


@contextmanager
def _interrupts_wait():
    """Within it Ctrl-C only fills the list that it gives; after it, it has its effect."""
    came: list[tuple] = []
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield came  # no exception can come from a signal here
        return
    signal.signal(signal.SIGINT, lambda *arguments: came.append(arguments))
    try:
        yield came
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            handler(*came[0])
