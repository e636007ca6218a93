"""One kernel for all that narrow networks do with rows: gather, forward pass, loss and backward pass.

A block takes some rows of the batch through all records over rows: rows do not need each other, so only its own threads
wait for one another, where otherwise each record is a launch. What it computes for them, some tens of kilobytes, it
reads again at once, out of its processor's cache; the gradients, which need all rows, read it later.
"""

from __future__ import annotations

import numpy as np
from numba import cuda

from .. import records as R
from ..plan import Kernel, Plan, Step
from ..simd import ITEMSIZE
from .device import SIMD, STEP, TILES, TINY, Tile
from .elementwise import Epilogue, scalar_epilogue
from .functions import cuda_kernel, data_row, failed_before, item_type, one_of, place
from .loss_kernels import is_loss, row_loss
from .products import product_tile
from .rows import TOGETHER, gathered
from .tiles import shared_items
from .vectors import BYTES, vector_items

MOST = 128  # columns: the rows of a block and their weights stay near their processor
MANY = 10 if TINY else 4096  # rows of a batch that are enough blocks for a large device with tiles of more rows
# Fewer rows than a tile of wide products: batches of a thousand rows should be more than a few blocks
if TINY:
    FEW_ROWS = {precision: tiles[-1] for precision, tiles in TILES.items()}
    MANY_ROWS = {
        "float32": Tile(8, 16, 4, 4, 4),  # of which a piece is more than a slab
        "float64": Tile(8, 16, 4, 4, 4),
        "tf32x3": Tile(32, 64, 16, 4, 8, precision="tf32x3"),
        "tf32": Tile(32, 64, 16, 4, 8, precision="tf32"),
        "bf16": Tile(32, 64, 16, 4, 8, precision="bf16"),
    }
else:
    FEW_ROWS = {
        "float32": Tile(32, 128, 32, 4, 4),
        "float64": Tile(32, 128, 16, 4, 4),
        "tf32x3": Tile(32, 128, 32, 4, 8, precision="tf32x3"),
        "tf32": Tile(32, 128, 32, 4, 8, precision="tf32"),
        "bf16": Tile(32, 128, 32, 4, 8, precision="bf16"),
    }
    MANY_ROWS = {
        "float32": Tile(64, 128, 16, 8, 4),
        "float64": Tile(64, 64, 16, 4, 4),
        "tf32x3": Tile(64, 64, 32, 4, 8, precision="tf32x3"),
        "tf32": Tile(64, 128, 16, 8, 8, precision="tf32"),
        "bf16": Tile(64, 128, 32, 8, 8, groups=2, precision="bf16"),
    }

# The table of what a block does: the plan's record, what kind of work that is, its epilogue, where its weights are
RECORD, KIND, EPILOGUE, TRANSPOSED = range(4)
GATHER, PRODUCT, ELEMENTWISE, LOSS = range(4)
_KINDS = {"product": PRODUCT, "elementwise": ELEMENTWISE}
_OVER_TILES = ("weight_gradient", "bias_gradient", "sum_losses")


def _kind(step: Step) -> int | None:
    """None for what this kernel does not know."""
    if step.kernel.startswith("gather."):
        return GATHER
    return LOSS if is_loss(step.kernel) else _KINDS.get(step.kernel)


def qualifies(plan: Plan) -> bool:
    """Whether all records over rows are of these kinds and narrow, and gradients are used at once."""
    steps = [step for phase in plan.phases for step in phase.steps]
    if plan.n_features > MOST or not any(_kind(step) == LOSS for step in steps):
        return False
    known = all(step.kernel in _OVER_TILES or _kind(step) is not None for step in steps)
    panels = MOST // SIMD.panel(plan.dtype)
    return known and all(step.fields[R.N_PANELS] <= panels for step in steps if R.N_PANELS in step.fields)


def tile_of(plan: Plan) -> Tile:
    """The rows that a block takes through the network, and the tiles of its products."""
    return (FEW_ROWS if plan.batch_size < MANY else MANY_ROWS)[plan.precision]


def program(steps: list[Step]) -> tuple[np.ndarray, tuple[str, ...]]:
    """The table of what a block does, and the names of the epilogues that it numbers."""
    rows, names = [], []
    for k, step in enumerate(steps):
        if _kind(step) is None:
            continue
        following = step.fields.get(R.EPILOGUE)
        name = following.name if isinstance(following, Kernel) else ""
        if name not in names:
            names.append(name)
        transposed = step.kernel == "product" and step.fields[R.B].buffer == "transposed"
        rows.append((k, _kind(step), names.index(name), transposed))
    return np.array(rows, np.int64), tuple(names)


@cuda_kernel
def rows_kernel(dtype: str, tile: Tile, scaled: bool, epilogues: tuple[Epilogue, ...], loss: str):
    """Launched with a block of the tile's threads for each of its rows of the batch."""
    T, item, panel, D, lanes = (
        getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype), item_type[dtype], vector_items(dtype)
    )  # fmt: skip
    BM, BN, threads, size = tile.rows, tile.columns, tile.block, shared_items(dtype, tile)
    finish, of_row = one_of(tuple(map(scalar_epilogue, epilogues))), row_loss(dtype, loss)
    of_tile, gather = product_tile(dtype, epilogues, tile), gathered(dtype, scaled)
    step_of_rows = -(-BM // TOGETHER)

    def rows_kernel(
        control, steps, scalars, table, numbers, todo, n, work, state, transposed, order, x, y, weights, of_loss,
        row_losses, scale, offset,
    ):  # fmt: skip
        t, step = cuda.threadIdx.x, control[STEP]
        first_row, rows = cuda.blockIdx.x * BM, steps[step, R.STEP_ROWS]
        if failed_before(control) or first_row >= rows:
            return
        last_row = min(first_row + BM, rows)
        index, first = steps[step, R.STEP_INDEX], steps[step, R.STEP_FIRST]
        shared = cuda.shared.array(size, D, BYTES)
        for r in range(n):
            k, kind, which = todo[r, RECORD], todo[r, KIND], todo[r, EPILOGUE]
            if kind == GATHER:
                columns = (table[k, R.N_PANELS] - 1) * panel + table[k, R.LAST_WIDTH]
                for e in range(t, columns // lanes * step_of_rows, threads):
                    column, i = e // step_of_rows * lanes, first_row + e % step_of_rows
                    gather(table, k, order, index, first, x, work, scale, offset, column, i, step_of_rows, last_row)
            elif kind == PRODUCT:
                of_weights = transposed if todo[r, TRANSPOSED] != 0 else state
                columns = (table[k, R.N_PANELS] - 1) * panel + table[k, R.LAST_WIDTH]
                for begin in range(0, columns, BN):
                    of_tile(shared, table, numbers, k, which, work, of_weights, state, last_row, first_row, begin)
                    cuda.syncthreads()  # a piece of results may lie where the next tile's slabs do
            elif kind == ELEMENTWISE:
                source, c, other = table[k, R.IN] // item, table[k, R.C] // item, table[k, R.OTHER] // item
                last_panel, last_width = table[k, R.N_PANELS] - 1, table[k, R.LAST_WIDTH]
                columns, panel_items = last_panel * panel + last_width, table[k, R.C_PANEL_BYTES] // item
                for e in range(t, (last_row - first_row) * columns, threads):
                    at = place(first_row + e // columns, e % columns, panel, last_panel, panel_items, last_width)
                    finish(which, work, c + at, other + at, work[source + at], T(numbers[k]))
            else:
                of_weight = T(scalars[steps[step, R.STEP_SCALARS] + R.SCALE])
                for i in range(first_row + t, last_row, threads):
                    row = data_row(order, index, first, i)
                    of_row(control, table, k, i, row, y, weights, of_loss, of_weight, work, row_losses)
            cuda.syncthreads()  # the block's own writes are there for all of its threads

    return rows_kernel
