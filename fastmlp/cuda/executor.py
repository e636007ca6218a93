"""The CUDA executor: a plan's buffers on the device, and its records as launches.

Launches are put into the device's queue step after step; the host waits at the end of a slice and reads two numbers:
how many steps were done, and whether a loss was not finite.
"""

from __future__ import annotations

import signal
import threading
import time
import warnings
from contextlib import contextmanager
from functools import partial

import numpy as np
from numba import cuda

from ..engine import records as R
from ..engine.layout import NamedParameters
from ..plan import Kernel, Plan, Ref, Step
from . import (
    constraints,
    data,
    dropout,
    elementwise,
    gradients,
    layers,
    loss_kernels,
    narrow,
    norms,
    products,
    rows,
    updates,
)
from .device import SIMD, SIMULATED, STEP, TILE
from .graphs import Program

# Fields of places that a record need not have
OPTIONAL = {
    "product": (R.INIT,),
    "weight_gradient": (R.WT,),
    "update": (R.WT,),
    "max_norm": (R.WT,),
    "row_norm": (R.SHIFT,),
}


class CudaExecutor(NamedParameters):
    """A plan bound to a device, to data and to kernels; as `engine.executor.Executor`.

    Parameters
    ----------
    plan : Plan
        Made with `simd=SIMD`.
    externals : dict
        "X", "y", "sample_weight": copied to the device once, or in chunks again and again where they do not fit.
        "output": filled step by step.
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
        arrays = {name: _by_row(externals[name]) for name in ("X", "y", "sample_weight") if name in externals}
        self._output = externals.get("output")
        self._stream = cuda.stream()
        try:
            self._data = self._place(arrays)
            self._work = cuda.to_device(np.zeros(max(1, plan.sizes["workspace"] // plan.item), plan.dtype))
            self._state = cuda.to_device(self._host.ravel()) if state is None else state
            self._transposed = cuda.to_device(np.zeros(max(1, len(self.transposed) // plan.item), plan.dtype))
            self._row_losses = cuda.to_device(np.zeros(plan.batch_size))
        except Exception as error:  # Numba's own class, of one of two packages
            if "OUT_OF_MEMORY" not in str(error):
                raise
            raise _memory_error(self._needed) from error
        self._numbers = cuda.to_device(np.array([*plan.numbers, 0.0, 0.0]))
        self._control = cuda.to_device(np.zeros(2, np.int64))
        self._nothing = cuda.to_device(np.zeros(1, plan.dtype))
        steps = [step for phase in plan.phases for step in phase.steps]
        table = np.array([[self._field(step, index) for index in range(R.RECORD)] for step in steps], np.int64)
        self._table = cuda.to_device(table)
        self._record_numbers = cuda.to_device(np.ascontiguousarray(table[:, R.NUMBER]).view(np.float64))
        self._clip_norm = next((step for step in steps if step.kernel == "clip_norm"), None)
        n_squares = self._clip_norm.fields[R.N_SUMS] if self._clip_norm else 0
        self._squares = cuda.to_device(np.zeros(n_squares + 1))  # of gradients; the last is the coefficient
        self._bound: dict = {}  # what `bind` brought to the device
        self._programs = []
        for buffer in self._data.buffers:
            self._buffer = buffer  # that the launches read
            self._programs.append(Program(self._launches(steps), self._stream))
        cuda.synchronize()  # all of it is there, whatever stream it came by

    def _place(self, arrays: dict[str, np.ndarray]) -> data.Resident | data.Streamed:
        """The data on the device as a whole if that leaves room for everything else, else in chunks."""
        plan, free = self.plan, data.free_memory()
        everything = arrays if self._output is None else {**arrays, "output": self._output}
        rest, row = plan.n_bytes + 8 * plan.batch_size, data.bytes_of_a_row(everything)
        n = len(arrays["X"])
        self._needed = rest + n * (row + 8)  # 8: the order
        if self._needed <= free:
            return data.Resident(everything)
        self._needed = rest + 2 * plan.batch_size * row
        if self._needed > free:
            raise _memory_error(self._needed)
        return data.Streamed(arrays, self._output, plan.batch_size, free - rest, self._stream)

    def _field(self, step: Step, index: int) -> int:
        """A record's number: places are bytes from the start of their buffer, and -1 is none."""
        value = step.fields.get(index, 0)
        if isinstance(value, Kernel):
            return 0
        if isinstance(value, Ref):
            return value.offset
        optional = index == R.SW if step.has_loss else index in OPTIONAL.get(step.kernel, ())
        return -1 if optional else value

    # Launches --------------------------------------------------------------------------------------------------------

    def _launches(self, steps: list[Step]) -> list:
        """Functions that each launch a kernel of the step that `control` names, in their order."""
        todo, launches, batch_size, dtype = dict(enumerate(steps)), [], self.plan.batch_size, self.plan.dtype
        is_narrow = narrow.qualifies(self.plan)
        if is_narrow:
            table, names = narrow.program(steps)
            launches.append(self._rows(steps, table, names))
            for k in table[:, narrow.RECORD]:
                del todo[k]
        apart = {
            k: step
            for k, step in todo.items()
            if step.kernel in ("weight_gradient", "bias_gradient")
            and (is_narrow or gradients.n_shares(step, batch_size, dtype) > 1)
        }
        with_loss = any(step.kernel == "sum_losses" for step in steps)
        for k, step in todo.items():
            if apart and k == min(apart):
                launches += self._gradients_in_shares(apart)
            if k not in apart and step.kernel != "sum_losses":
                launches.append(self._launch(k, step))
        return [*launches, self._end_of_step(with_loss)]

    def _rows(self, steps: list[Step], table: np.ndarray, epilogues: tuple[str, ...]):
        """All records over rows, of a narrow network."""
        plan, (loss,) = self.plan, [step.kernel for step in steps if loss_kernels.is_loss(step.kernel)]
        finishes = tuple(elementwise.epilogue(name, plan.dtype) for name in epilogues)
        kernel = narrow.rows_kernel(plan.dtype, plan.scaling is not None, finishes, loss)
        blocks = -(-plan.batch_size // narrow.OF_BLOCK.rows)
        launch = self._configured(kernel, blocks, narrow.OF_BLOCK.block)
        control, rest = self._control, (self._table, self._record_numbers, cuda.to_device(table), len(table))
        rest = *rest, self._work, self._state, self._transposed
        data = self._buffer["X"], self._buffer["y"], self._buffer.get("sample_weight", self._nothing)
        data = *data, self._numbers, self._row_losses, *(plan.scaling or (1.0, 0.0))
        return lambda: launch(control, self._steps, self._scalars, *rest, self._order, *data)

    def _gradients_in_shares(self, records: dict[int, Step]) -> list:
        """The sums of shares of rows, and the updates, of all these records."""
        dtype, control, changes = self.plan.dtype, self._control, [self._update(step) for step in records.values()]
        distinct = tuple(dict.fromkeys(changes))
        blocks, parameters, n = gradients.tables(records, [*map(distinct.index, changes)], self.plan.batch_size, dtype)
        sums = self._configured(gradients.shares_of_gradients(dtype), len(blocks), TILE.block)
        update = self._over(int(parameters[:, gradients.SIZE].max()), gradients.updates(dtype, distinct))
        shares, blocks = cuda.to_device(np.zeros(n, dtype)), cuda.to_device(blocks)
        rest = cuda.to_device(parameters), len(parameters), self._work, self._state, self._transposed, self._n, shares
        return [
            lambda: sums(control, self._steps, self._table, blocks, self._work, shares),
            lambda: update(control, self._steps, self._scalars, self._table, *rest),
        ]

    def _launch(self, k: int, step: Step):
        """A function that launches record k for the step that `control` names."""
        make = _LAUNCHES.get(step.kernel)
        if make is None and loss_kernels.is_loss(step.kernel):
            make = CudaExecutor._loss
        if make is None:
            raise NotImplementedError(
                f"{step.kernel} ({step.text}) does not run on device='cuda' yet; use device='cpu'."
            )
        return make(self, k, step)

    def _configured(self, kernel, grid, block):
        return configured(kernel, grid, block, self._stream)

    def _over(self, n: int, kernel):
        """A kernel whose threads share out n numbers."""
        blocks = max(1, min(TILE.most_blocks, -(-n // TILE.threads)))
        return self._configured(kernel, blocks, TILE.threads)

    def _over_values(self, step: Step, kernel):
        """A kernel whose threads share out a matrix of the batch."""
        columns = (
            step.fields[R.N_OUT] if R.N_OUT in step.fields else step.fields[R.N_PANELS] * SIMD.panel(self.plan.dtype)
        )
        return self._over(self.plan.batch_size * columns, kernel)

    def _over_panels(self, step: Step, kernel):
        """A kernel with a block for each panel of a matrix."""
        dtype = self.plan.dtype
        return self._configured(kernel, step.fields[R.N_PANELS], norms.parts(dtype) * SIMD.panel(dtype))

    def _with_everything(self, k: int, launch, *more):
        """A launch with the arguments that most kernels share, and more."""
        control, rest = self._control, (self._table, self._record_numbers, k, self._work, self._state, *more)
        return lambda: launch(control, self._steps, self._scalars, *rest)

    def _epilogue(self, step: Step):
        following = step.fields[R.EPILOGUE]
        return elementwise.epilogue(following.name if isinstance(following, Kernel) else "", self.plan.dtype)

    def _update(self, step: Step, rule: str | None = None):
        """What a record does with a gradient, a device function."""
        f = step.fields
        if rule is None:
            rule = f[R.OPTIMIZER].name if f.get(R.OPTIMIZER) else "store"
        return updates.update(
            f[R.PENALTY].name if f.get(R.PENALTY) else "",
            bool(f.get(R.CLIP_KERNEL)),
            bool(f.get(R.DECAY_KERNEL)),
            rule,
            bool(f.get(R.AVERAGE_KERNEL)),
            self.plan.n_slots,
            self.plan.dtype,
        )

    def _elementwise(self, k: int, step: Step):
        launch = self._over_values(step, elementwise.elementwise(self.plan.dtype, self._epilogue(step)))
        control, rest = self._control, (self._table, self._record_numbers, k, self._work)
        return lambda: launch(control, self._steps, *rest)

    def _dropout(self, k: int, step: Step):
        launch = self._over_values(step, dropout.dropout(self.plan.dtype))
        control, rest = self._control, (self._table, self._record_numbers, k, self._work)
        return lambda: launch(control, self._steps, self._scalars, *rest)

    def _scatter(self, k: int, step: Step):
        launch = self._over_values(step, rows.scatter(self.plan.dtype))
        control, rest = self._control, (self._table, k, self._work, self._buffer["output"])
        return lambda: launch(control, self._steps, *rest)

    def _values(self, k: int, step: Step):
        kernel = {
            "prelu": partial(layers.prelu, gradient=False),
            "prelu.gradient": partial(layers.prelu, gradient=True),
            "drop_rows": layers.drop_rows,
        }[step.kernel]
        return self._with_everything(k, self._over_values(step, kernel(self.plan.dtype)))

    def _softmax(self, k: int, step: Step):
        kernel = layers.softmax_forward if step.kernel == "softmax.forward" else layers.softmax_backward
        return self._with_everything(k, self._over(self.plan.batch_size, kernel(self.plan.dtype)))

    def _row_norm(self, k: int, step: Step):
        n, dtype = self.plan.batch_size * step.fields[R.GROUPS], self.plan.dtype
        if step.kernel == "row_norm":
            launch = self._over(n, norms.row_norm(dtype, self._epilogue(step)))
            return self._with_everything(k, launch, _epsilon(step))
        return self._with_everything(k, self._over(n, norms.row_norm_gradient(dtype)))

    def _batch_norm(self, k: int, step: Step):
        dtype = self.plan.dtype
        if step.kernel == "batch_norm":
            launch = self._over_panels(step, norms.batch_norm(dtype, self._epilogue(step)))
            return self._with_everything(k, launch, _epsilon(step))
        if step.kernel == "batch_norm.predict":
            launch = self._over_values(step, norms.batch_norm_predict(dtype, self._epilogue(step)))
            return self._with_everything(k, launch, _epsilon(step))
        if step.kernel == "batch_norm.running":
            kernel = norms.batch_norm_running(dtype, self._update(step, "assign"))
            return self._with_everything(k, self._over(step.fields[R.N_OUT], kernel), self._n)
        return self._with_everything(k, self._over_panels(step, norms.batch_norm_gradient(dtype)))

    def _loss(self, k: int, step: Step):
        launch = self._over(self.plan.batch_size, loss_kernels.loss(self.plan.dtype, step.kernel))
        control, table = self._control, self._table
        weights = self._buffer.get("sample_weight", self._nothing)
        rest = self._buffer["y"], weights, self._numbers, self._work, self._row_losses
        return lambda: launch(control, self._steps, self._scalars, table, k, self._order, *rest)

    def _product(self, k: int, step: Step):
        columns = (step.fields[R.N_PANELS] - 1) * SIMD.panel(self.plan.dtype) + step.fields[R.LAST_WIDTH]
        grid = -(-columns // TILE.columns), -(-self.plan.batch_size // TILE.rows)
        launch = self._configured(products.product(self.plan.dtype, self._epilogue(step)), grid, TILE.block)
        weights = {"parameters": self._state, "transposed": self._transposed}[step.fields[R.B].buffer]
        control, rest = self._control, (self._table, self._record_numbers, k, self._work, weights, self._state)
        return lambda: launch(control, self._steps, *rest)

    def _gradient(self, k: int, step: Step):
        f, dtype, change = step.fields, self.plan.dtype, self._update(step)
        if step.kernel == "weight_gradient":
            grid = -(-f[R.N_OUT] // TILE.columns), -(-f[R.DEPTH] // TILE.rows)
            launch = self._configured(products.weight_gradient(dtype, change), grid, TILE.block)
        else:
            kernel, block = products.bias_gradient(dtype, change)
            launch = self._configured(kernel, f[R.N_PANELS], block)
        control, rest = self._control, (self._table, k, self._work, self._state, self._transposed, self._n)
        return lambda: launch(control, self._steps, self._scalars, *rest)

    def _square_sums(self, k: int, step: Step):
        launch = self._over_panels(step, constraints.square_sums(self.plan.dtype))
        first = (step.fields[R.SUMS].offset - self._clip_norm.fields[R.SUMS].offset) // 8
        return self._with_everything(k, launch, self._squares, first)

    def _clip_norm_of_all(self, k: int, step: Step):
        launch = self._configured(constraints.clip_norm(), 1, TILE.threads)
        return self._with_everything(k, launch, self._squares, step.fields[R.N_SUMS])

    def _stored_update(self, k: int, step: Step):
        f = step.fields
        launch = self._over(f[R.DEPTH] * f[R.N_OUT], constraints.update(self.plan.dtype, self._update(step)))
        n_sums = self._clip_norm.fields[R.N_SUMS]
        return self._with_everything(k, launch, self._transposed, self._n, self._squares, n_sums)

    def _max_norm(self, k: int, step: Step):
        launch = self._over_panels(step, constraints.max_norm(self.plan.dtype, self._update(step, "assign")))
        return self._with_everything(k, launch, self._transposed, self._n)

    def _gather(self, k: int, step: Step):
        kernel = rows.gather(self.plan.dtype, self.plan.scaling is not None)
        launch = self._over(self.plan.batch_size * self.plan.n_features, kernel)
        control, table, (scale, offset) = self._control, self._table, self.plan.scaling or (1.0, 0.0)
        X, work = self._buffer["X"], self._work
        return lambda: launch(control, self._steps, table, k, self._order, X, work, scale, offset)

    def _end_of_step(self, with_loss: bool):
        launch = self._configured(loss_kernels.end_of_step(with_loss), 1, TILE.threads)
        return lambda: launch(self._control, self._steps, self._row_losses, self._sums)

    # Running ---------------------------------------------------------------------------------------------------------

    def bind(self, steps: np.ndarray, order: np.ndarray | None, scalars: np.ndarray, sums: np.ndarray) -> None:
        """Bring these arrays to the device; see `engine.executor.Executor.bind`."""
        each = np.arange(len(steps))
        steps[:, R.STEP_SCALARS], steps[:, R.STEP_LOSS_AT] = scalars[0].size * each, each
        on_device, order = self._data.bind(steps, order)
        self._steps, self._scalars = self._hold("steps", on_device), self._hold("scalars", scalars.ravel())
        self._order = self._hold("order", np.zeros(1, np.int64) if order is None else order.ravel())
        self._sums, self._host_sums = self._hold("sums", sums), sums
        self._first_rows = steps[:, R.STEP_FIRST].copy(), on_device[:, R.STEP_FIRST]

    def _hold(self, name: str, array: np.ndarray):
        """The array on the device, where the one before it lay if it has room: graphs know the place."""
        if name not in self._bound or len(self._bound[name]) < len(array):
            self._bound[name] = cuda.device_array(array.shape, array.dtype)
            for program in self._programs:
                program.forget()
        self._bound[name][: len(array)].copy_to_device(array, stream=self._stream)
        return self._bound[name]

    def run(self, steps: np.ndarray, n_workers: int) -> tuple[int, float]:
        """Run these steps, rows of what `bind` was given; see `engine.executor.Executor.run`.

        Ctrl-C takes effect between two steps: half a step would leave some layers updated and others not.
        """
        started = time.perf_counter()
        first = int(steps[0, R.STEP_LOSS_AT])
        control = np.zeros(2, np.int64)
        control[STEP] = first
        with _interrupts_wait() as interrupted:
            self._control.copy_to_device(control, stream=self._stream)
            self._stale = True
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
            self._fetch(self._control, control)  # waits for the device
            done = int(control[STEP]) - first
            if done:
                self._fetch(self._sums[first : first + done], self._host_sums[first : first + done])
            self.steps_done += done
        return done, time.perf_counter() - started

    def _fetch(self, device, host: np.ndarray) -> None:
        """Copy to the host when all steps so far are done."""
        device.copy_to_host(host, stream=self._stream)
        self._stream.synchronize()

    def _fetch_output(self, steps: np.ndarray, buffer: int) -> None:
        """The rows that these steps wrote into a buffer."""
        n, step = int(steps[:, R.STEP_ROWS].sum()), int(steps[0, R.STEP_LOSS_AT])
        host, device = (int(rows[step]) for rows in self._first_rows)
        self._fetch(self._data.buffers[buffer]["output"][device : device + n], self._output[host : host + n])

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
            self._fetch(self._state, self._host.reshape(-1))
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
        self._state.copy_to_device(self._host.reshape(-1), stream=self._stream)
        if len(self.transposed):
            self._transposed.copy_to_device(self.transposed.view(self.plan.dtype), stream=self._stream)
        self._stream.synchronize()  # evaluations, which read it too, have streams of their own

    def shared(self, slot: int | None):
        """The parameters, or what lies in a slot, as the `state` of another executor."""
        k = 0 if slot is None else 1 + slot % self.plan.n_slots
        return self._state[k * self._n : (k + 1) * self._n]

    def close(self) -> None:
        """Let go of the device's memory."""
        self._pull()
        for program in self._programs:
            program.close()
        self._data.close()
        self._buffer, self._bound = {}, {}
        self._work = self._state = self._transposed = None


# How the records of each kernel are launched; losses aside
_LAUNCHES = {
    "product": CudaExecutor._product,
    "weight_gradient": CudaExecutor._gradient,
    "bias_gradient": CudaExecutor._gradient,
    "elementwise": CudaExecutor._elementwise,
    "dropout": CudaExecutor._dropout,
    "scatter": CudaExecutor._scatter,
    **dict.fromkeys(("prelu", "prelu.gradient", "drop_rows"), CudaExecutor._values),
    **dict.fromkeys(("softmax.forward", "softmax.backward"), CudaExecutor._softmax),
    **dict.fromkeys(("row_norm", "row_norm.gradient"), CudaExecutor._row_norm),
    **dict.fromkeys(
        ("batch_norm", "batch_norm.gradient", "batch_norm.running", "batch_norm.predict"), CudaExecutor._batch_norm
    ),
    "square_sums": CudaExecutor._square_sums,
    "clip_norm": CudaExecutor._clip_norm_of_all,
    "update": CudaExecutor._stored_update,
    "max_norm": CudaExecutor._max_norm,
    **{f"gather.{t}": CudaExecutor._gather for t in ("float32", "float64", "uint8")},
}


def _epsilon(step: Step) -> float:
    """The float64 whose bits a record of a norm has."""
    return float(np.int64(step.fields[R.EPSILON]).view(np.float64))


def _by_row(array: np.ndarray) -> np.ndarray:
    """As kernels index it: codes by row and column, as other targets."""
    return array.reshape(-1, 1) if array.dtype == np.int64 else array


def _memory_error(needed: int) -> MemoryError:
    free = data.free_memory()
    return MemoryError(
        f"the fit needs {needed:,} bytes ({needed / 2**30:.1f} GiB) of the device's memory, of which "
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


def configured(kernel, grid, block, stream):
    """The kernel with its grid, to be called with its arguments."""
    if SIMULATED:  # which keeps the last grid that a kernel was given
        return lambda *arguments: kernel[grid, block](*arguments)
    with warnings.catch_warnings():  # Numba warns of grids that do not fill the device: small networks have small ones
        warnings.simplefilter("ignore")
        return kernel[grid, block, stream]
