"""The CUDA executor: gives a plan its memory on the device, runs its steps, and brings parameters there and back.

Launches are put into the device's queue step after step; the host waits at the end of a slice and reads how many steps
were done, fewer than it launched where a loss was not finite, their losses, and whether all parameters and slots are
finite.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from contextlib import contextmanager

import numpy as np
from numba import cuda

from .. import records as R
from ..engine.layout import NamedParameters
from ..plan import Plan
from . import data
from .device import CONTROL, MOST_BLOCKS, STEP, THREADS
from .driver import Copies
from .elementwise import find_not_finite
from .gradients import n_items
from .graphs import Program
from .launches import Launches, configured, gradients_of, n_bytes
from .memory import allocate

INPUTS = ("X", "y", "sample_weight", "queries")  # with a row for each row of the data


class CudaExecutor(NamedParameters):
    """A plan bound to a device, to data and to kernels; as `engine.executor.Executor`.

    Parameters
    ----------
    plan : Plan
        Made with the `SIMD` of `device.py`.
    externals : dict
        `INPUTS`, those that the plan reads: copied to the device once, or in chunks again and again where they do not
        fit. "output": filled step by step.
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
        arrays = {name: _by_row(externals[name]) for name in INPUTS if name in externals}
        self._output = externals.get("output")
        self._stream = cuda.stream()
        self._copies = Copies(self._stream)
        try:
            self._data = self._place(arrays)
            self._memory = allocate(plan, n_items(gradients_of(plan)), state)
            self._found = cuda.to_device(np.zeros(2, np.int64))  # not finite: parameters, slots; since `refresh`
            self._bound: dict = {}  # what `bind` brought to the device
            self._programs = [
                Program(Launches(plan, self._memory, buffer, self._bound, self._stream).of_step(), self._stream)
                for buffer in self._data.buffers
            ]
            self._look = None if state is not None else Program([self._looking()], self._stream)
            # Pinned memory of the host, for what comes back from the device
            back = self._memory.control, self._found
            self._control, self._flags = (cuda.pinned_array(array.shape, array.dtype) for array in back)
            self._sums = cuda.pinned_array(1, np.float64)
        except Exception as error:  # Numba's own class, of one of two packages
            if "OUT_OF_MEMORY" not in str(error):
                raise
            raise _memory_error(self._needed) from error
        cuda.synchronize()  # all of it is there, whatever stream it came by
        self._orders = [np.empty(0, np.int64)] * 2  # in pinned memory of the host; one of them is in use
        self._order = None  # that in use
        self._looked = False  # whether the flags are those of the parameters

    def _looking(self):
        """The launch that looks for numbers that are not finite among parameters and slots."""
        blocks = max(1, min(MOST_BLOCKS, -(-self._host.size // THREADS)))
        launch = configured(find_not_finite(self.plan.dtype), blocks, THREADS, self._stream)
        return lambda: launch(self._memory.state, self._n, self._found)

    def _place(self, arrays: dict[str, np.ndarray]) -> data.Resident | data.Streamed:
        """The data on the device as a whole if that leaves room for everything else, else in chunks."""
        plan, free = self.plan, data.free_memory()
        everything = arrays if self._output is None else {**arrays, "output": self._output}
        rest, row = n_bytes(plan), data.bytes_of_a_row(everything)
        n = len(arrays["X"])
        self._needed = rest + n * (row + 8)  # 8: the order
        if self._needed <= free:
            return data.Resident(everything)
        self._needed = rest + 2 * plan.batch_size * row
        if self._needed > free:
            raise _memory_error(self._needed)
        return data.Streamed(arrays, self._output, plan.batch_size, free - rest, self._stream)

    # Running ---------------------------------------------------------------------------------------------------------

    def bind(self, steps: np.ndarray, order: np.ndarray | None, scalars: np.ndarray, sums: np.ndarray) -> None:
        """Bring these arrays to the device; see `engine.executor.Executor.bind`."""
        each = np.arange(len(steps))
        steps[:, R.STEP_SCALARS], steps[:, R.STEP_LOSS_AT] = scalars[0].size * each, each
        self._order = order
        on_device, order = self._data.bind(steps, order)
        order = np.zeros(1, np.int64) if order is None else order.ravel()
        cuda.current_context()  # is current in this thread from here on
        self._read = {"steps": on_device, "scalars": scalars.ravel(), "order": order}  # live until they were read
        for name, array in self._read.items():
            self._make_room(name, array)
            self._copies.to_device(array, self._bound[name])
        self._make_room("sums", sums)
        if len(self._sums) < len(sums):
            self._sums = cuda.pinned_array(sums.shape, sums.dtype)
        self._host_sums = sums
        self._first_rows = steps[:, R.STEP_FIRST].copy(), on_device[:, R.STEP_FIRST]

    def _make_room(self, name: str, array: np.ndarray) -> None:
        """For such an array on the device: where the one before it lay, if it has room, for graphs know the place."""
        if name not in self._bound or len(self._bound[name]) < len(array):
            self._bound[name] = cuda.device_array(array.shape, array.dtype)
            for program in self._programs:
                program.forget()

    def room_for_order(self, shape: tuple[int, int]) -> np.ndarray:
        """As the CPU's, in pinned memory, which the device reads by itself. Another place than that of the order that
        `bind` was given last, which is still needed.
        """
        n = math.prod(shape)
        if 8 * n > data.MOST:
            return super().room_for_order(shape)
        k = int(self._order is not None and np.may_share_memory(self._order, self._orders[0]))
        if len(self._orders[k]) < n:
            try:
                self._orders[k] = cuda.pinned_array(n, np.int64)
            except Exception as error:  # Numba's own class, of one of two packages
                if "OUT_OF_MEMORY" not in str(error):
                    raise
                return super().room_for_order(shape)
        return self._orders[k][:n].reshape(shape)

    def run(self, steps: np.ndarray, n_workers: int, meanwhile=None) -> tuple[int, float]:
        """Run these steps, rows of what `bind` was given, and `meanwhile`, which should not wait for the device, while
        that is busy with them; see `engine.executor.Executor.run`.

        Ctrl-C takes effect between two steps: half a step would leave some layers updated and others not.
        """
        started = time.perf_counter()
        first = int(steps[0, R.STEP_LOSS_AT])
        control = np.zeros(CONTROL, np.int64)
        control[STEP] = first
        with _interrupts_wait() as interrupted:
            cuda.current_context()  # is current in this thread from here on
            self._copies.to_device(control, self._memory.control)
            self._stale, self._looked = True, False
            for buffer, begin, end in self._data.pieces(first, first + len(steps)):
                step = self._programs[buffer]
                for _ in range(begin, end):
                    step()
                    if interrupted:
                        break
                if self._output is not None:
                    self._fetch_output(steps[begin - first : end - first], buffer)
                if interrupted:
                    break
            if self._look is not None:
                self._look()
            if meanwhile is not None and not interrupted:
                meanwhile()
            sums = self._sums[first : first + len(steps)]
            self._copies.to_host(self._memory.control, self._control)
            self._copies.to_host(self._found, self._flags)
            self._copies.to_host(self._bound["sums"], sums, first)
            self._copies.wait()
            done = int(self._control[STEP]) - first
            self._host_sums[first : first + done] = sums[:done]
            self._looked = self._look is not None
            self.steps_done += done
        return done, time.perf_counter() - started

    def _fetch_output(self, steps: np.ndarray, buffer: int) -> None:
        """The rows that these steps wrote into a buffer."""
        n, step = int(steps[:, R.STEP_ROWS].sum()), int(steps[0, R.STEP_LOSS_AT])
        host, device = (int(rows[step]) for rows in self._first_rows)
        self._copies.to_host(self._data.buffers[buffer]["output"], self._output[host : host + n], device)

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
            cuda.current_context()  # is current in this thread from here on
            self._copies.to_host(self._memory.state, self._host.reshape(-1))
            self._copies.wait()
            self._stale = False

    def all_finite(self, what: str) -> bool:
        """As the CPU's; known since the end of the last run, for a flag is sooner here than the numbers."""
        if what == "everything":
            return self.all_finite("parameters") and self.all_finite("slots")
        return not self._flags[int(what == "slots")] if self._looked else super().all_finite(what)

    def refresh(self) -> None:
        """Take note that parameters or slots were written on the host: they go to the device."""
        super().refresh()
        self._push()

    def _push(self) -> None:
        cuda.current_context()  # is current in this thread from here on
        self._looked, nothing = False, np.zeros(2, np.int64)
        self._copies.to_device(nothing, self._found)
        self._copies.to_device(self._host.reshape(-1), self._memory.state)
        if len(self.transposed):
            self._copies.to_device(self.transposed.view(self.plan.dtype), self._memory.transposed)
        self._copies.wait()  # evaluations, which read it too, have streams of their own

    def shared(self, slot: int | None):
        """The parameters, or what lies in a slot, as the `state` of another executor."""
        k = 0 if slot is None else 1 + slot % self.plan.n_slots
        return self._memory.state[k * self._n : (k + 1) * self._n]

    def close(self) -> None:
        """Let go of the device's memory."""
        self._pull()
        for program in [*self._programs, self._look]:
            if program is not None:
                program.close()
        self._data.close()
        self._bound.clear()
        self._memory = None


def _by_row(array: np.ndarray) -> np.ndarray:
    """As kernels index it: codes and queries by row and column, as other targets."""
    return array.reshape(-1, 1) if array.dtype == np.int64 else array


def _memory_error(needed: int) -> MemoryError:
    """Of a fit that needs so many bytes, as far as is known: kernels and the driver want some more."""
    free = data.free_memory()
    what = f"of which {free:,} are free" if needed > free else f"and a little more, and {free:,} are free"
    return MemoryError(
        f"the fit needs {needed:,} bytes ({needed / 2**30:.1f} GiB) of the device's memory, {what}; "
        "try a smaller batch_size, narrower layers, or device='cpu'."
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
