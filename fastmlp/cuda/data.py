"""Where the rows of a step come from: all data on the device, or chunks that follow each other through two buffers.

Both give kernels what they expect, X, targets and weights as arrays on the device, and say with which steps each set of
arrays (a buffer) goes. A chunk's rows lie in the order of the steps, so kernels read it as data without an order, and
what they compute is the same to the bit.
"""

from __future__ import annotations

import numpy as np
from numba import cuda

from .. import records as R
from .driver import Copies

MOST = 2**26  # bytes of a chunk: a copy of some milliseconds, longer ones would gain nothing


def bytes_of_a_row(arrays: dict[str, np.ndarray]) -> int:
    return sum(array[:1].nbytes for array in arrays.values())


def free_memory() -> int:
    """Bytes of the device's memory that nobody uses."""
    return cuda.current_context().get_memory_info()[0]


class Resident:
    """All arrays on the device for the whole fit: one buffer."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.buffers = [{name: cuda.to_device(np.ascontiguousarray(array)) for name, array in arrays.items()}]

    def bind(self, steps: np.ndarray, order: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        """The steps and the order of rows as kernels need them."""
        steps = steps.copy()
        if order is None:
            steps[:, R.STEP_INDEX] = -1
        return steps, order

    def pieces(self, first: int, last: int):
        """(buffer, first step, step behind the last) of the steps from `first` on: one after the other."""
        yield 0, first, last

    def close(self) -> None:
        self.buffers = []


class Streamed:
    """Chunks of a few whole batches, each gathered by the host into one of two pinned buffers and copied from there to
    one of two buffers on the device, while the device runs the steps of the chunk before.

    Parameters
    ----------
    arrays : dict of ndarray
        With a row for each row of the data; read a chunk at a time, so memory maps never lie in memory as a whole.
    output : ndarray, optional
        Filled by steps; its buffers are the device's only, and who launches the steps fetches them.
    batch_size : int
    room : int
        Bytes on the device for both buffers: a half is used, and two batches at least.
    stream
        Of the steps.
    """

    def __init__(self, arrays: dict[str, np.ndarray], output, batch_size: int, room: int, stream):
        self._arrays, self._stream, self._own_stream = arrays, stream, cuda.stream()
        self._copies = Copies(self._own_stream)
        everything = arrays if output is None else {**arrays, "output": output}
        chunk = min(room // 4, MOST) // (batch_size * bytes_of_a_row(everything))
        self.steps_per_chunk = max(1, int(chunk))
        rows = self.steps_per_chunk * batch_size
        self._pinned, self.buffers = (
            [{name: make((rows, *a.shape[1:]), a.dtype) for name, a in of.items()} for _ in range(2)]
            for make, of in ((cuda.pinned_array, arrays), (cuda.device_array, everything))
        )
        self._copied, self._used = ([cuda.event() for _ in range(2)] for _ in range(2))

    def bind(self, steps: np.ndarray, order: np.ndarray | None) -> tuple[np.ndarray, None]:
        """The steps as kernels need them: their rows are places in a chunk."""
        self._steps, self._order = steps.copy(), None if order is None else order.ravel()
        self._inside = [None, None]  # the chunk that each buffer holds
        ends = np.cumsum(steps[:, R.STEP_ROWS])
        starts = ends - steps[:, R.STEP_ROWS]
        steps = steps.copy()
        steps[:, R.STEP_INDEX] = -1
        first_of_chunk = np.arange(len(steps)) // self.steps_per_chunk * self.steps_per_chunk
        steps[:, R.STEP_FIRST] = starts - starts[first_of_chunk]
        return steps, None

    def pieces(self, first: int, last: int):
        """As `Resident.pieces`: the chunk's rows are on the device, or on their way there, before its steps."""
        while first < last:
            chunk = first // self.steps_per_chunk
            end = min(last, (chunk + 1) * self.steps_per_chunk)
            self._load(chunk)
            self._copied[chunk % 2].wait(self._stream)
            yield chunk % 2, first, end
            self._used[chunk % 2].record(self._stream)
            self._load(chunk + 1)  # while the device is busy with this one
            first = end

    def _load(self, chunk: int) -> None:
        """Gather the chunk, unless it was, and copy it as soon as the steps that its buffer served are done."""
        k, first = chunk % 2, chunk * self.steps_per_chunk
        if self._inside[k] == chunk or first >= len(self._steps):
            return
        rows = self._rows(self._steps[first : first + self.steps_per_chunk])
        self._inside[k] = None  # until all of it is there
        self._copied[k].synchronize()  # the pinned memory is free again
        self._used[k].wait(self._own_stream)
        for name, array in self._arrays.items():
            pinned = self._pinned[k][name][: len(rows)]
            if array.flags.c_contiguous and array.flags.aligned:
                np.take(array, rows, axis=0, out=pinned, mode="clip")  # "raise" would go by way of a copy
            else:
                pinned[:] = array[rows]
            self._copies.to_device(pinned, self.buffers[k][name])
        self._copied[k].record(self._own_stream)
        self._inside[k] = chunk

    def _rows(self, steps: np.ndarray) -> np.ndarray:
        """The rows of the data that these steps take, one after the other."""
        starts = steps[:, R.STEP_FIRST if self._order is None else R.STEP_INDEX]
        rows = np.concatenate([np.arange(s, s + n) for s, n in zip(starts, steps[:, R.STEP_ROWS], strict=True)])
        return rows if self._order is None else self._order[rows]

    def close(self) -> None:
        self._copies.wait()  # pinned memory must not go while it is read
        self.buffers = self._pinned = []
