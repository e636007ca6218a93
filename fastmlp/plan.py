"""The plan: a network, a loss and an optimiser as flat tables of steps, before any memory or machine code exists.

Plain data: places in buffers, matrices, parameters, steps, phases. `lowering` makes plans from layers; an
executor only walks them. `print(plan)` shows a training step as a person reads it.

Matrices lie in panels (see `records.py`): panel j holds columns j*width .. of all rows, the last one narrower.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from . import records as R
from .augmentation import Mixing
from .schedules import Schedule
from .simd import ITEMSIZE, Simd

ALIGN = 64  # bytes: a cache line, and AVX-512's vector


@dataclass(frozen=True)
class Ref:
    """A place in a buffer: an address once the buffer has one."""

    buffer: str
    offset: int  # bytes

    def __add__(self, more: int) -> Ref:
        return Ref(self.buffer, self.offset + more)

    def __str__(self):
        return f"{self.buffer}+{self.offset}"


@dataclass(frozen=True)
class Kernel:
    """A kernel by name, where a field holds its address."""

    name: str


@dataclass(frozen=True)
class Matrix:
    """A matrix in panels: `columns` wide, `rows` high."""

    at: Ref
    rows: int
    columns: int
    panel: int  # columns of a full panel
    last_width: int  # columns of the last panel, padding included
    item: int
    pitch: int  # rows from the start of a panel to that of the next

    @property
    def n_panels(self) -> int:
        return -(-self.columns // self.panel)

    @property
    def is_column(self) -> bool:
        """Whether it is a single column, without padding: kernels of its own multiply by it."""
        return self.last_width == 1

    @property
    def panel_bytes(self) -> int:
        return self.panel * self.pitch * self.item

    @property
    def items(self) -> int:
        return self.pitch * (self.n_panels - 1) * self.panel + self.rows * self.last_width

    def within(self, buffer: np.ndarray) -> np.ndarray:
        """The flat items of this matrix in an array of the buffer's items."""
        return buffer[self.at.offset // self.item :][: self.items]

    def _blocks(self, array: np.ndarray, flat: np.ndarray):
        """(columns of the array, the same in `flat`, its padding) of all full panels at once, and of the last one."""
        full = self.n_panels - 1
        first, begin = full * self.panel, full * self.panel * self.pitch
        if full:
            columns = array[:, :first].reshape(self.rows, full, self.panel).transpose(1, 0, 2)  # a view
            yield columns, flat[:begin].reshape(full, self.pitch, self.panel)[:, : self.rows], None
        last, width = flat[begin : begin + self.rows * self.last_width], self.columns - first
        last = last.reshape(self.rows, self.last_width)
        yield array[:, first:], last[:, :width], last[:, width:]

    def pack(self, array: np.ndarray, out: np.ndarray) -> None:
        """Write an array (rows, columns) into `out`, the flat items of this matrix; padding becomes 0."""
        for columns, block, padding in self._blocks(array, out):
            block[...] = columns
            if padding is not None:
                padding[...] = 0

    def unpack(self, flat: np.ndarray) -> np.ndarray:
        """The array (rows, columns) from the flat items of this matrix."""
        array = np.empty((self.rows, self.columns), flat.dtype)
        for columns, block, _ in self._blocks(array, flat):
            columns[...] = block
        return array


@dataclass(frozen=True)
class Parameter:
    """A named parameter: where it lies in the vector of parameters, and its transposed copy, if one is kept.

    What is not `learned` has no gradient: running averages.
    """

    name: str
    shape: tuple[int, ...]
    matrix: Matrix
    transposed: Matrix | None = None
    learned: bool = True


@dataclass(frozen=True)
class Group:
    """Numbers that layers may have for themselves: each group has its own row of a step's scalars."""

    l1: float = 0.0
    l2: float = 0.0
    learning_rate_multiplier: float = 1.0
    dropout: Schedule | None = None  # of a Dropout's rate
    mixing: Mixing | None = None  # what its rows of numbers are drawn for


@dataclass(frozen=True)
class Step:
    """One record: a kernel and its fields (index -> number, `Ref` or `Kernel`); in tile phases also units and their
    cost.
    """

    kernel: str
    fields: dict[int, int | Ref | Kernel]
    text: str
    units: int = 0
    cost: int = 1
    has_loss: bool = False  # whether it finds losses that are not finite


@dataclass(frozen=True)
class Phase:
    """Steps between two barriers: over rows of the batch, or over units (tiles) of the parameters."""

    kind: int
    steps: tuple[Step, ...]

    @property
    def has_loss(self) -> bool:
        return any(s.has_loss for s in self.steps)


@dataclass
class Plan:
    """Everything an executor needs to know; see the module's docstring.

    Attributes
    ----------
    parameters : list of Parameter
    sizes : dict
        Buffer -> bytes. "parameters" (followed by `n_slots` slots of the same size), "transposed", "workspace".
    phases : list of Phase
    precision : str
        Of products: the dtype's, or with `device="cuda"` one of `devices.PRECISIONS`.
    flops : int
        Floating-point operations of a step over a full batch, products only.
    """

    dtype: str
    simd: Simd
    n_features: int
    n_outputs: int
    batch_size: int
    n_slots: int = 0
    guard: int = 0  # bytes of no-man's-land behind every matrix, for tests
    parameters: list[Parameter] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=lambda: {"parameters": 0, "transposed": 0, "workspace": 0})
    phases: list[Phase] = field(default_factory=list)
    groups: list[Group] = field(default_factory=lambda: [Group()])  # the first is everybody's
    guards: list[Ref] = field(default_factory=list)
    scaling: tuple[float, float] | None = None
    numbers: tuple[float, ...] = ()  # the loss's own
    coded: tuple[int, ...] = ()  # which columns hold codes, for an embedding; the others follow
    input: Matrix | None = None  # the rows that the first layer reads
    chunk: int = 64
    source: str = ""  # how rows of X are stored: what their kernels' names end with
    entries: int = 0  # of a batch at most, where the first layer multiplies sparse rows; 0: rows are gathered
    by_columns: dict[int, int | Ref] = field(default_factory=dict)  # fields: where they lie, sorted, for its gradient
    random: bool = False  # whether steps need random bits of their own
    flops: int = 0
    precision: str = ""

    def __post_init__(self):
        self.precision = self.precision or self.dtype

    def group(self, group: Group) -> int:
        """Bytes from a step's scalars to the row of that group."""
        if group not in self.groups:
            self.groups.append(group)
        return 8 * R.N_SCALARS * self.groups.index(group)

    @property
    def item(self) -> int:
        return ITEMSIZE[self.dtype]

    def multiplies_sparse(self, value: Matrix) -> bool:
        """Whether the layer that reads this value multiplies rows of CSR as they are."""
        return self.entries > 0 and value is self.input

    def place(self, buffer: str, n_bytes: int) -> Ref:
        """The next free place of so many bytes, aligned."""
        at = Ref(buffer, self.sizes[buffer])
        end = at.offset + n_bytes
        if self.guard:
            end = -(-end // 8) * 8
            self.guards.append(Ref(buffer, end))
            end += self.guard
        self.sizes[buffer] = -(-end // ALIGN) * ALIGN
        return at

    def _shape(self, rows: int, columns: int, pitch: int) -> Matrix:
        last = self.simd.last_width(columns, self.dtype)
        return Matrix(Ref("", 0), rows, columns, self.simd.panel(self.dtype), last, self.item, pitch)

    def unplaced(self, columns: int) -> Matrix:
        """The shape that `values` gives, of what has no place."""
        return self._shape(self.batch_size, columns, self.batch_size)

    def matrix(self, buffer: str, rows: int, columns: int) -> Matrix:
        """Place a matrix in panels that follow each other."""
        shape = self._shape(rows, columns, rows)
        return replace(shape, at=self.place(buffer, shape.items * self.item))

    def values(self, columns: int) -> Matrix:
        """Place a matrix in panels with a row for each of the batch.

        Panels that lay a power of two apart would share a few sets of the first-level cache: gathering rows of 784
        columns into them took twice as long.
        """
        rows, panel_bytes = self.batch_size, self.batch_size * self.simd.panel(self.dtype) * self.item
        shape = self._shape(rows, columns, rows + (panel_bytes % (4 * ALIGN) == 0))
        return replace(shape, at=self.place("workspace", shape.items * self.item))

    def matrix_bytes(self, rows: int, columns: int) -> int:
        """Memory of a matrix in panels, in whole cache lines."""
        return -(-self._shape(rows, columns, rows).items * self.item // ALIGN) * ALIGN

    @property
    def n_bytes(self) -> int:
        """Memory that an executor of this plan allocates, in bytes (scratch of the workers aside)."""
        return self.sizes["parameters"] * (1 + self.n_slots) + self.sizes["transposed"] + self.sizes["workspace"]

    @property
    def kernels(self) -> set[str]:
        """The names of all kernels that its steps call."""
        steps = [step for phase in self.phases for step in phase.steps]
        within = {value.name for step in steps for value in step.fields.values() if isinstance(value, Kernel)}
        return within | {step.kernel for step in steps}

    @property
    def has_own_functions(self) -> bool:
        """Whether a kernel is made of a user's functions."""
        return any(name.startswith("custom.") for name in self.kernels)

    def __str__(self):
        lines = [
            f"{self.dtype}, {self.simd.name}, batch of up to {self.batch_size} rows, {self.n_bytes / 2**20:.2f} MiB, "
            f"{self.flops / 1e6:.2f} MFLOP a step"
        ]
        for phase in self.phases:
            lines.append("each worker, its rows:" if phase.kind == R.ROW_PHASE else "each worker, its tiles:")
            for step in phase.steps:
                share = f"  [{step.units} units]" if step.units else ""
                lines.append(f"  {step.kernel:28} {step.text}{share}")
            lines.append("barrier")
        return "\n".join(lines)
