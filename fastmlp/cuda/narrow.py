"""One kernel for all that narrow networks do with rows: gather, forward pass, loss and backward pass.

A block takes some rows of the batch through all records over rows: rows do not need each other, so only its own threads
wait for one another, where otherwise each record is a launch. What it computes for them, some tens of kilobytes, it
reads again at once, out of its processor's cache; the gradients, which need all rows, read it later.

The kernel is that of `few_rows.py`, or the one here: of many rows, or where products are those of tensor cores, with
the tiles of wide products.
"""

from __future__ import annotations

import numpy as np
from numba import cuda

from .. import records as R
from ..engine.dropout import KINDS as DROPOUT_KINDS
from ..plan import Plan, Step
from ..simd import ITEMSIZE
from . import few_rows
from .device import SIMD, STEP, STEP_OF_UPDATES, TILES, TINY, Tile
from .dropout import dropping
from .elementwise import Epilogue, scalar_epilogue
from .few_rows import DROPOUT, ELEMENTWISE, EPILOGUE, GATHER, KIND, LOSS, PRODUCT, RECORD, TRANSPOSED
from .functions import cuda_kernel, failed_before, item_type, one_of, place
from .loss_kernels import TOGETHER as MOST_TOGETHER, is_loss, losses_of_rows
from .products import product_tile
from .rows import TOGETHER, gathered
from .tiles import shared_items
from .vectors import BYTES, vector_items

MOST = 128  # columns: the rows of a block and their weights stay near their processor
MANY = 10 if TINY else 4096  # rows of a batch that are enough blocks for a large device with tiles of more rows
# Tiles of batches below `MANY`, by tensor cores only, and of the others. They have fewer rows than those of wide
# products, for a batch should be more than a few blocks
if TINY:
    FEW_ROWS = {precision: tiles[-1] for precision, tiles in TILES.items() if tiles[-1].precision}
    MANY_ROWS = {
        "float32": Tile(8, 16, 4, 4, 4),  # of which a piece is more than a slab
        "float64": Tile(8, 16, 4, 4, 4),
        "tf32x3": Tile(32, 64, 16, 4, 8, precision="tf32x3"),
        "tf32": Tile(32, 64, 16, 4, 8, precision="tf32"),
        "bf16": Tile(32, 64, 16, 4, 8, precision="bf16"),
    }
else:
    FEW_ROWS = {
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

_KINDS = {
    "product": PRODUCT,
    "elementwise": ELEMENTWISE,
    **dict.fromkeys((*DROPOUT_KINDS, "drop_rows"), DROPOUT),
}
_OVER_TILES = ("weight_gradient", "bias_gradient", "sum_losses")


def kind_of(step: Step) -> int | None:
    """None for what these kernels do not know."""
    if step.kernel.startswith("gather."):
        return GATHER
    return LOSS if is_loss(step.kernel) else _KINDS.get(step.kernel)


def qualifies(plan: Plan) -> bool:
    """Whether all records over rows are of these kinds and narrow, and gradients are used at once."""
    steps = [step for phase in plan.phases for step in phase.steps]
    if not all(step.kernel in _OVER_TILES or kind_of(step) is not None for step in steps):
        return False
    over_rows = [step for step in steps if step.kernel not in _OVER_TILES]
    if not any(kind_of(step) == LOSS for step in over_rows):
        return False
    if of_few_rows(plan):
        return few_rows.has_room(plan, over_rows)
    panels = MOST // SIMD.panel(plan.dtype)
    return all(step.fields[R.N_PANELS] <= panels for step in over_rows if R.N_PANELS in step.fields)


def of_few_rows(plan: Plan) -> bool:
    """Whether the kernel would be that of few rows."""
    return plan.batch_size < MANY and plan.precision not in FEW_ROWS


def tile_of(plan: Plan) -> Tile:
    """The rows that a block of many takes through the network, and the tiles of its products."""
    return (FEW_ROWS if plan.batch_size < MANY else MANY_ROWS)[plan.precision]


@cuda_kernel
def rows_kernel(
    dtype: str, tile: Tile, scaled: bool, epilogues: tuple[Epilogue, ...], dropouts: tuple[str, ...], loss: str
):
    """Launched with a block of the tile's threads for each of its rows of the batch."""
    T, item, panel, D, lanes = (
        getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype), item_type[dtype], vector_items(dtype)
    )  # fmt: skip
    BM, BN, threads, size = tile.rows, tile.columns, tile.block, shared_items(dtype, tile)
    together = max(1, min(MOST_TOGETHER, threads // BM))  # threads that share a row of the loss
    finish = one_of(tuple(map(scalar_epilogue, epilogues)))
    losses = losses_of_rows(dtype, loss, together, threads, False)
    of_tile, gather = product_tile(dtype, epilogues, tile), gathered(dtype, scaled)
    step_of_rows, drop = -(-BM // TOGETHER), one_of(tuple(dropping(dtype, kind) for kind in dropouts))

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
        if first_row == 0 and t == 0:
            control[STEP_OF_UPDATES] = step
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
            elif kind == DROPOUT:
                columns = table[k, R.N_OUT]
                begin, end = first_row * columns + t, last_row * columns
                drop(which, steps, step, scalars, table, numbers, k, work, begin, end, threads)
            else:
                of_weight, a, b = T(scalars[steps[step, R.STEP_SCALARS] + R.SCALE]), T(of_loss[0]), T(of_loss[1])
                losses(
                    control, table, k, order, index, first, y, weights, a, b, of_loss, of_weight, work, row_losses,
                    shared, first_row, last_row, threads // together,
                )  # fmt: skip
            cuda.syncthreads()  # the block's own writes are there for all of its threads

    return rows_kernel
