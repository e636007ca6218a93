"""The executor: gives a plan's buffers their memory, its kernels their addresses, and runs steps on workers."""

from __future__ import annotations

import ctypes
import os
import sys
import time

import numpy as np

from .. import records as R
from ..plan import Kernel, Plan, Ref
from . import compiling, jit
from .layout import NamedParameters
from .sharing import shares_of
from .threads import OF_THREADS, Team, yield_address

GUARD = 0x5EED_FEED_5EED_FEED  # what is written between buffers in tests


def _arena(n_bytes: int, what: str) -> np.ndarray:
    """Zeroed bytes that start on a page; MemoryError says how much was needed."""
    page = 4096
    try:
        if n_bytes > physical_memory():
            raise MemoryError
        # a vector's bytes more, which `Vectors.load_and_keep_first` reads; NumPy asks for huge pages where they help
        raw = np.zeros(n_bytes + page + 32, np.uint8)
    except (MemoryError, ValueError):
        raise MemoryError(
            f"{what} needs {n_bytes:,} bytes ({n_bytes / 2**30:.1f} GiB), more than there is; "
            "try a smaller batch_size or narrower layers."
        ) from None
    skip = -raw.ctypes.data % page
    return raw[skip : skip + n_bytes]


def physical_memory() -> float:
    """Bytes; infinite where the system does not say."""
    try:
        if sys.platform == "win32":
            status = _MemoryStatus(ctypes.sizeof(_MemoryStatus))
            known = ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
            return status.physical if known else float("inf")
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return float("inf")


class _MemoryStatus(ctypes.Structure):
    """Windows's MEMORYSTATUSEX."""

    _fields_ = (("length", ctypes.c_uint32), ("load", ctypes.c_uint32), ("physical", ctypes.c_uint64)) + tuple(
        (name, ctypes.c_uint64) for name in ("free", "paged", "free_paged", "virtual", "free_virtual", "extended")
    )


class Executor(NamedParameters):
    """A plan bound to memory, to data and to machine code.

    Parameters
    ----------
    plan : Plan
    externals : dict
        Name -> ndarray or int for the places that the plan does not own: "X", "X_stride", "y", "sample_weight",
        "output"... Arrays are kept alive, not copied.
    state : ndarray of uint8, optional
        Parameters and slots of another executor whose plan has the same layers: shared, not copied.

    Attributes
    ----------
    parameters : ndarray
        The vector of parameters, in panels, in the plan's dtype; `slots` (n_slots, same length) is the optimiser's
        state.
    all_were_finite : bool
        Whether no kernel has found anything else, in any run; may be set.
    """

    def __init__(self, plan: Plan, externals: dict, state: np.ndarray | None = None):
        self.plan = plan
        n_parameters = plan.sizes["parameters"]
        self.state = _arena(n_parameters * (1 + plan.n_slots), "the model") if state is None else state
        self.everything = flat = self.state.view(plan.dtype)
        count = n_parameters // plan.item
        self.parameters, self.slots = (
            flat[:count],
            flat[count : count * (1 + plan.n_slots)].reshape(plan.n_slots, count),
        )
        self.transposed = _arena(plan.sizes["transposed"], "the transposed weights")
        self.workspace = _arena(plan.sizes["workspace"], f"a batch of {plan.batch_size} rows")
        self._constants = np.array([*(plan.scaling or (1.0, 0.0)), 0.0])
        self._numbers = np.array([*plan.numbers, 0.0, 0.0])  # of the loss; kernels read two at least
        self._coded = np.array([*self.plan.coded, 0], np.int64)
        self._ones = np.ones(64 // plan.item, plan.dtype)
        self.control = np.zeros(R.N_CONTROL, np.int64)
        self._address = {
            "parameters": self.state.ctypes.data,
            "transposed": self.transposed.ctypes.data,
            "workspace": self.workspace.ctypes.data,
            "scaling": self._constants.ctypes.data,
            "ones": self._ones.ctypes.data,
            "numbers": self._numbers.ctypes.data,
            "coded": self._coded.ctypes.data,
        }
        self._workers: list[tuple] = []
        self._shares: dict[int, np.ndarray] = {}  # by the number of workers
        # of the last run: where its steps are, how many, how many workers, and their arguments, which say so
        self._known: tuple[int, int, int] | None = None
        self._arguments: list[int] = []
        self._externals: dict = {}
        self._bind(externals)
        self.team = Team()
        self._profile = None
        self.all_were_finite = True

    def take(self, externals: dict) -> None:
        """Let steps refer to these from now on, for some or all of the places that the plan does not own."""
        self._externals |= externals
        address = self._address
        for name, value in externals.items():
            address[name] = value.ctypes.data if isinstance(value, np.ndarray) else int(value)
        for row, index, ref in self._references:
            self._program[row, index] = address[ref.buffer] + ref.offset
        for record, _, _, _ in self._workers:
            self._point(record)

    def let_go(self) -> None:
        """Keep the arrays that the plan does not own alive no longer: `take` others before the next run."""
        self._externals.clear()

    def _point(self, record: np.ndarray) -> None:
        """Tell a worker where the rows of X are, which it fetches ahead."""
        record[R.NEXT_X], record[R.NEXT_STRIDE] = self._address["X"], self._address["X_stride"]

    def _bind(self, externals: dict) -> None:
        steps = [step for phase in self.plan.phases for step in phase.steps]
        compiling.prepare([*((name, self.plan.dtype) for name in {"run", *self.plan.kernels}), *OF_THREADS])
        self._program = np.zeros((len(steps), R.RECORD), np.int64)
        self._references: list[tuple[int, int, Ref]] = []  # record, field, to what the plan does not own
        for i, (row, step) in enumerate(zip(self._program, steps, strict=True)):
            row[R.ADDRESS] = jit.address(step.kernel, self.plan.dtype)
            row[R.UNITS], row[R.COST] = step.units, step.cost
            for index, value in step.fields.items():
                if isinstance(value, Ref) and value.buffer not in self._address:
                    self._references.append((i, index, value))
                else:
                    row[index] = self._resolve(value)
        self.take(externals)
        ends = np.cumsum([len(phase.steps) for phase in self.plan.phases])
        self._phases = np.array(
            [
                (phase.kind, end - len(phase.steps), len(phase.steps), phase.has_loss)
                for phase, end in zip(self.plan.phases, ends, strict=True)
            ],
            np.int64,
        )
        self._run, self._run_address = jit.function("run", self.plan.dtype), jit.address("run", self.plan.dtype)

    def _resolve(self, value) -> int:
        if isinstance(value, Ref):
            return self._address[value.buffer] + value.offset
        if isinstance(value, Kernel):
            return jit.address(value.name, self.plan.dtype)
        return value

    def _worker(self, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """A worker's record and arguments of `run`, each on cache lines of its own; all its memory; where the
        arguments are.

        What is the same in every run is written here: a run of a tiny network takes tens of microseconds.
        """
        while len(self._workers) <= rank:
            panel = self.plan.simd.panel(self.plan.dtype)
            each, scratch = 8 * R.WORKER, max(panel * panel * self.plan.item, R.LEAST_SCRATCH)
            memory = _arena(2 * each + 8 * R.RECORD + scratch + 4096, "a worker")
            record, a = memory[: 2 * each].view(np.int64).reshape(2, R.WORKER)
            record[R.OWN_RECORD] = memory.ctypes.data + 2 * each
            record[R.SCRATCH] = record[R.OWN_RECORD] + 8 * R.RECORD
            record[R.CONTROL] = self.control.ctypes.data
            self._point(record)
            record[R.SLOT_BYTES] = self.plan.sizes["parameters"]
            record[R.AVERAGE_BYTES] = self.plan.n_slots * self.plan.sizes["parameters"]
            a[R.RANK], a[R.CHUNK], a[R.YIELD] = len(self._workers), self.plan.chunk, yield_address()
            a[R.PROGRAM], a[R.PHASES] = self._program.ctypes.data, self._phases.ctypes.data
            a[R.N_PHASES] = len(self._phases)
            a[R.RUN_WORKER], a[R.RUN_CONTROL] = record.ctypes.data, self.control.ctypes.data
            self._workers.append((record, a, memory, a.ctypes.data))
        return self._workers[rank]

    def bind(self, steps: np.ndarray, order: np.ndarray | None, scalars: np.ndarray, sums: np.ndarray) -> None:
        """Let steps refer to these arrays, which must stay alive while they run.

        Parameters
        ----------
        steps : ndarray (n_steps, records.STEP), int64
            Written: STEP_INDEX, which holds where a step's rows begin in `order`, STEP_SCALARS and STEP_LOSS_AT.
        order : ndarray of int64, or None
            None: rows follow each other from STEP_FIRST.
        scalars : ndarray (n_steps, n_groups, records.N_SCALARS)
        sums : ndarray (n_steps,)
            Where the sums of the rows' losses go.
        """
        each = np.arange(len(steps))
        steps[:, R.STEP_INDEX] = 0 if order is None else order.ctypes.data + 8 * steps[:, R.STEP_INDEX]
        steps[:, R.STEP_SCALARS] = scalars.ctypes.data + scalars.strides[0] * each
        steps[:, R.STEP_LOSS_AT] = sums.ctypes.data + 8 * each

    def run(self, steps: np.ndarray, n_workers: int, meanwhile=None) -> tuple[int, float]:
        """Run these steps (rows of what `bind` was given) on so many workers. `meanwhile`, a function, is for executors
        whose steps leave the host idle: nothing calls it here.

        Returns
        -------
        done : int
            Whole steps done: fewer than given where a loss was not finite.
        seconds : float
        """
        control, n_workers = self.control, self.team.prepare(n_workers)
        control[R.NOT_FINITE], before = 0, control[R.DONE]
        known = steps.ctypes.data, len(steps), n_workers
        if known != self._known:  # a run like the last one writes nothing
            self._known = None  # until all is written: Ctrl-C may come at any point
            self._arguments = self._written(*known)
            self._known = known
        arguments = self._arguments
        started = time.perf_counter()
        if n_workers == 1:
            self._run(arguments[0], 0, 0, 0)
        else:
            self.team.run(self._run_address, self._run, arguments)
        seconds = time.perf_counter() - started
        if control[R.NOT_FINITE]:
            self.all_were_finite = False
        return int(control[R.DONE] - before), seconds

    def _written(self, steps: int, n_steps: int, n_workers: int) -> list[int]:
        """Where the workers' arguments are, which now say what to run."""
        workers = [self._worker(rank) for rank in range(n_workers)]
        self._records = np.array([a[R.RUN_WORKER] for _, a, _, _ in workers])
        if n_workers not in self._shares:
            self._shares[n_workers] = shares_of(self.plan, n_workers)
        shares = self._shares[n_workers]
        for rank, (_, a, _, _) in enumerate(workers):
            a[R.SHARES], a[R.SHARE_BYTES] = shares.ctypes.data, shares.strides[0]
            a[R.WORKERS], a[R.N_WORKERS] = self._records.ctypes.data, n_workers
            a[R.STEPS], a[R.N_STEPS] = steps, n_steps
            timed = self._profile is not None and rank < len(self._profile)
            a[R.PROFILE] = self._profile[rank].ctypes.data if timed else 0
        return [arguments for _, _, _, arguments in workers]

    def shared(self, slot: int | None) -> np.ndarray:
        """The parameters, or what lies in a slot, as the `state` of another executor."""
        return (self.parameters if slot is None else self.slots[slot]).view(np.uint8)

    @property
    def steps_done(self) -> int:
        """Whole steps in all; counted by worker 0, so that an interrupt cannot come between a step and its count."""
        return int(self.control[R.DONE])

    def start_profile(self, n_workers: int) -> None:
        """From now on, add up the cycles that each record takes on each worker."""
        self._profile = np.zeros((n_workers, len(self._program) + 1), np.int64)
        self._known = None

    def profile(self) -> str:
        """Since `start_profile`: the share of time of each record and of the barriers, mean of the workers."""
        shares = self._profile.sum(axis=0) / max(1, self._profile.sum())
        steps = [f"{step.kernel:28} {step.text}" for phase in self.plan.phases for step in phase.steps]
        return "\n".join(
            f"{100 * share:5.1f} %  {text}" for share, text in zip(shares, [*steps, "barriers"], strict=True)
        )

    def fill_guards(self) -> None:
        """Write the guard words behind every buffer; for plans with a guard."""
        for words in self._guards():
            words[:] = GUARD

    def guards_intact(self) -> bool:
        """Whether no kernel wrote behind its buffer."""
        return all((words == GUARD).all() for words in self._guards())

    def _guards(self):
        buffers = {"parameters": self.state, "transposed": self.transposed, "workspace": self.workspace}
        for ref in self.plan.guards:
            yield buffers[ref.buffer][ref.offset : ref.offset + self.plan.guard // 8 * 8].view(np.int64)

    def close(self) -> None:
        self.team.close()
