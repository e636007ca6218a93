"""Gradients of parameters: sums over shares of the batch's rows, and what follows them.

Two kernels for all matrices and vectors of a plan, or more where matrices want tiles of more than one size, and one for
an embedding's table (`embeddings.py`). Blocks add up their tile over their share of the rows; then each parameter's
shares are added, in their order, and it is updated. How many shares there are depends on sizes alone, so every device
takes the same sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numba import cuda

from .. import records as R
from ..plan import Plan, Step
from ..simd import ITEMSIZE
from .device import NOT_FINITE, SIMD, STEP, THREADS, TILES, TINY, Tile, tile_for
from .functions import cuda_kernel, inlined, item_type, one_of, place, unrolled
from .tiles import keep_piece, piece_rows, shared_items, tile_sums
from .updates import Update, update
from .vectors import BYTES, copy_vector, vector_items

ENOUGH = 264  # blocks: two for each processor of a large device
ENOUGH_OF_SMALL = 1024  # of panels and of a table's rows
LEAST = 4 if TINY else 128  # rows of a share: the sum of smaller ones would cost more than it gains

# A block of the first kernel: its record, whether that is a matrix, the corner of its tile, its rows, and where in the
# shares its record's numbers of this share begin: they lie in panels, as parameters do
RECORD, IS_MATRIX, FIRST_UNIT, FIRST_COLUMN, FIRST_ROW, LAST_ROW, TO = range(7)
# A block of the second: its record, whether it is a matrix, the corner of its tile, what is done with its gradient,
# where its shares begin, how many there are, and of how many numbers
CHANGE, AT, SHARES, SIZE = range(4, 8)


@dataclass(frozen=True)
class Gradient:
    """How the gradient of a record, of that number in the plan's table, is summed; a vector is a matrix of one row."""

    record: int
    is_matrix: bool
    rows: int
    columns: int  # padding included
    tile: Tile  # vectors have none, and go with any
    shares: int

    @property
    def size(self) -> int:
        return self.rows * self.columns


# The last is that of an embedding: sparse X does not come here
_KERNELS = "bias_gradient", "weight_gradient", "sparse_gradient"


def of_plan(plan: Plan, of_one_size: bool) -> list[Gradient]:
    """Those of a plan, with tiles of one size or of those that fit them."""
    steps = [step for phase in plan.phases for step in phase.steps]
    return [_gradient(k, step, plan, of_one_size) for k, step in enumerate(steps) if step.kernel in _KERNELS]


def of_table(dtype: str) -> Tile:
    """What a block has of the gradient of an embedding's table: a number for each thread."""
    panel = SIMD.panel(dtype)
    return Tile(max(1, THREADS // panel), panel, 1, 1, 1)


def _gradient(k: int, step: Step, plan: Plan, smallest: bool) -> Gradient:
    dtype, n, f = plan.dtype, plan.batch_size, step.fields
    panel, is_matrix = SIMD.panel(dtype), step.kernel != "bias_gradient"
    rows, columns = f[R.DEPTH] if is_matrix else 1, (f[R.N_PANELS] - 1) * panel + f[R.LAST_WIDTH]
    tile = TILES[plan.precision][-1]
    if step.kernel == "sparse_gradient":
        tile = of_table(dtype)
    elif is_matrix and not smallest:
        tile = tile_for(rows, columns, plan.precision, max(1, n // LEAST))
    n_tiles = tile.count(rows, columns) if is_matrix else f[R.N_PANELS]
    enough = ENOUGH if step.kernel == "weight_gradient" else ENOUGH_OF_SMALL
    return Gradient(k, is_matrix, rows, columns, tile, n_shares(n_tiles, n, enough))


def n_shares(n_tiles: int, batch_size: int, enough: int) -> int:
    """In how many shares of rows a gradient is summed: 1 where its tiles are enough blocks to fill a device."""
    return max(1, min(enough // n_tiles, batch_size // LEAST))


def n_items(gradients: list[Gradient]) -> int:
    """Numbers in all shares."""
    return sum(gradient.shares * gradient.size for gradient in gradients)


def bytes_of_tables(gradients: list[Gradient], dtype: str) -> int:
    """Of what `tables` gives."""
    panel, units, rows = SIMD.panel(dtype), units_of_block(sum(gradient.size for gradient in gradients), dtype), 0
    for g in gradients:
        n_panels = -(-g.columns // panel)
        rows += g.shares * (g.tile.count(g.rows, g.columns) if g.is_matrix else n_panels) * (TO + 1)
        rows += -(-g.rows // units) * n_panels * (SIZE + 1)
    return 8 * rows


def tables(gradients: list[Gradient], changes: list[int], batch_size: int, dtype: str):
    """A table of blocks of the first kernel for each size of tiles; how many units a block of the second has, and their
    table. `changes` says by a number what is done with each gradient.
    """
    blocks: dict[Tile, list] = {}
    updates, at, panel = [], 0, SIMD.panel(dtype)
    units = units_of_block(sum(gradient.size for gradient in gradients), dtype)
    for g, change in zip(gradients, changes, strict=True):
        tile_rows, tile_columns = (g.tile.rows, g.tile.columns) if g.is_matrix else (1, panel)
        corners = [(i, j) for i in range(0, g.rows, tile_rows) for j in range(0, g.columns, tile_columns)]
        rows = -(-batch_size // (g.shares * g.tile.depth)) * g.tile.depth  # of a share
        for share in range(g.shares):
            place = share * rows, (share + 1) * rows, at + share * g.size
            blocks.setdefault(g.tile, []).extend((g.record, g.is_matrix, *corner, *place) for corner in corners)
        corners = [(i, j) for i in range(0, g.rows, units) for j in range(0, g.columns, panel)]
        updates += [(g.record, g.is_matrix, *corner, change, at, g.shares, g.size) for corner in corners]
        at += g.shares * g.size
    return {tile: np.array(of, np.int64) for tile, of in blocks.items()}, units, np.array(updates, np.int64)


def units_of_block(n_parameters: int, dtype: str) -> int:
    """Units of the panel that a block of the second kernel has: a number for each thread, or four where there are more
    than enough blocks, for a block begins by waiting for what it is to do.
    """
    units = max(1, THREADS // SIMD.panel(dtype))
    return units if n_parameters <= 2 * ENOUGH * THREADS else 4 * units


@cache
def _kept_piece(dtype: str, tile: Tile):
    """Piece g of a tile into `shares`, of whose items from `start` on a thread has some."""
    lanes, threads, piece, BN = vector_items(dtype), tile.block, piece_rows(dtype, tile), tile.columns
    across, n_vectors = BN // lanes, piece * BN // (lanes * threads)
    down = threads // across  # rows from a thread's vector to its next
    keep = keep_piece(dtype, tile)

    @inlined
    def kept_piece(g, shared, sums, shares, start, width, n_units):
        keep(g, shared, sums)
        i, j = cuda.threadIdx.x // across, cuda.threadIdx.x % across * lanes
        for v in range(n_vectors):
            unit = g * piece + v * down  # from the thread's first on
            if unit < n_units:
                copy_vector(shares, start + unit * width, shared, (i + v * down) * BN + j)

    return kept_piece


@cache
def gradient_tile(dtype: str, tile: Tile):
    """A block's tile of the gradient A^T dz of a matrix over rows first..last of the batch, added in their order, into
    `shares` from `to` on. All threads of a block call it.
    """
    T, item, panel, D, lanes = (
        getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype), item_type[dtype], vector_items(dtype)
    )  # fmt: skip
    n_sums, across = tile.own_rows * tile.own_columns, tile.columns // lanes
    sums_of = tile_sums(dtype, tile, False)
    keep_all = unrolled(tile.own_rows // lanes, _kept_piece(dtype, tile))

    @inlined
    def gradient_tile(shared, table, k, work, first_unit, first_column, first, last, shares, to):
        n_in, last_panel, last_width = table[k, R.DEPTH], table[k, R.N_PANELS] - 1, table[k, R.LAST_WIDTH]
        a, a_panel_items = table[k, R.A] // item, table[k, R.A_PANEL_BYTES] // item
        a_last_panel, a_last_width = (n_in - 1) // panel, table[k, R.A_STRIDE_LAST] // item
        sums = cuda.local.array(n_sums, D, BYTES)
        for i in range(n_sums):
            sums[i] = T(0)
        sums_of(
            shared, sums, work, a, a_panel_items, a_last_panel, a_last_width, first_unit,
            a_last_panel * panel + a_last_width, work, table[k, R.C] // item, table[k, R.C_PANEL_BYTES] // item,
            last_panel, last_width, first_column, first, last,
        )  # fmt: skip
        unit, column = first_unit + cuda.threadIdx.x // across, first_column + cuda.threadIdx.x % across * lanes
        p = column // panel
        width = panel if p < last_panel else last_width
        start = to + p * panel * n_in + unit * width + column - p * panel
        n_units = n_in - unit if column < last_panel * panel + last_width else 0
        keep_all(0, shared, sums, shares, start, width, n_units)

    return gradient_tile


@cache
def panel_sums(dtype: str, threads: int):
    """The sums of the columns of a panel of dz over rows first..last, into `shares` from `to` on: each thread adds
    every n-th row of a vector's columns, then their sums are added pair by pair. All threads of a block call it.
    """
    T, item, panel, D, lanes = (
        getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype), item_type[dtype], vector_items(dtype)
    )  # fmt: skip
    across = panel // lanes
    parts = threads // across

    @inlined
    def panel_sums(shared, table, k, work, first_column, first, last, shares, to):
        p = first_column // panel
        part, j = cuda.threadIdx.x // across, cuda.threadIdx.x % across * lanes
        width = panel if p < table[k, R.N_PANELS] - 1 else table[k, R.LAST_WIDTH]
        dz = table[k, R.C] // item + p * (table[k, R.C_PANEL_BYTES] // item) + j
        x, total = cuda.local.array(lanes, D, BYTES), cuda.local.array(lanes, D, BYTES)
        for i in range(lanes):
            total[i] = T(0)
        if j < width:
            for row in range(first + part, last, parts):
                copy_vector(x, 0, work, dz + row * width)
                for i in range(lanes):
                    total[i] += x[i]
        copy_vector(shared, part * panel + j, total, 0)
        half = parts // 2
        while half > 0:
            cuda.syncthreads()
            if part < half:
                for i in range(lanes):
                    shared[part * panel + j + i] += shared[(part + half) * panel + j + i]
            half //= 2
        if part == 0 and j < width:
            copy_vector(shares, to + first_column + j, shared, j)

    return panel_sums


@cuda_kernel
def shares_of_gradients(dtype: str, tile: Tile):
    """Launched with a block of `tile.block` threads for each row of `blocks`."""
    D, size = item_type[dtype], shared_items(dtype, tile)
    of_tile, of_panel = gradient_tile(dtype, tile), panel_sums(dtype, tile.block)

    def shares_of_gradients(control, steps, table, blocks, work, shares):
        if control[NOT_FINITE] != 0:
            return
        b = cuda.blockIdx.x
        k, to, first_column = blocks[b, RECORD], blocks[b, TO], blocks[b, FIRST_COLUMN]
        first, last = blocks[b, FIRST_ROW], min(blocks[b, LAST_ROW], steps[control[STEP], R.STEP_ROWS])
        shared = cuda.shared.array(size, D, BYTES)
        if blocks[b, IS_MATRIX] != 0:
            of_tile(shared, table, k, work, blocks[b, FIRST_UNIT], first_column, first, last, shares, to)
        else:
            of_panel(shared, table, k, work, first_column, first, last, shares, to)

    return shares_of_gradients


@cuda_kernel
def updates(dtype: str, changes: tuple[Update, ...], units: int):
    """The sums of all shares, what each record does with a gradient, and transposed copies.

    Launched with a block of `THREADS` for each row of `blocks`, which has so many units of a panel's columns.
    """
    T, item, panel, D, change = (
        getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype), item_type[dtype], one_of(tuple(map(update, changes)))
    )  # fmt: skip
    stored = panel + 1  # one more than numbers of a row: neighbours in a column lie in different banks
    size = units * stored

    def updates(control, steps, scalars, table, blocks, work, state, transposed, slot, shares):
        if control[NOT_FINITE] != 0:
            return
        b, t = cuda.blockIdx.x, cuda.threadIdx.x
        k, which, first, n = blocks[b, RECORD], blocks[b, CHANGE], blocks[b, AT], blocks[b, SIZE]
        first_unit, first_column, is_matrix = blocks[b, FIRST_UNIT], blocks[b, FIRST_COLUMN], blocks[b, IS_MATRIX] != 0
        n_in, n_out = (table[k, R.DEPTH], table[k, R.N_OUT]) if is_matrix else (1, n)
        last_panel, s = table[k, R.N_PANELS] - 1, steps[control[STEP], R.STEP_SCALARS] + table[k, R.GROUP] // 8
        p, w = first_column // panel, table[k, R.W] // item
        width = panel if p < last_panel else table[k, R.LAST_WIDTH]
        shared = cuda.shared.array(size, D)
        for e in range(t, units * panel, THREADS):
            unit, j = e // panel, e % panel
            if first_unit + unit < n_in and first_column + j < n_out and j < width:
                at = p * panel * n_in + (first_unit + unit) * width + j
                g = T(0)
                for share in range(blocks[b, SHARES]):
                    g += shares[first + share * n + at]
                change(which, state, w + at, slot, g, scalars, s, work, table[k, R.GRADIENT] // item + at)
                shared[unit * stored + j] = state[w + at]
        if is_matrix and table[k, R.WT] >= 0:
            cuda.syncthreads()
            wt, last_width, last = table[k, R.WT] // item, table[k, R.WT_LAST_WIDTH], (n_in - 1) // panel
            for e in range(t, units * panel, THREADS):
                unit, column = first_unit + e % units, first_column + e // units
                if unit < n_in and column < n_out:
                    value = shared[e % units * stored + e // units]
                    transposed[wt + place(column, unit, panel, last, panel * n_out, last_width)] = value

    return updates
