"""Gradients of parameters: sums over shares of the batch's rows, and what follows them.

Two kernels for all matrices and vectors of a plan, or more where matrices want tiles of more than one size, and one for
an embedding's table (`embeddings.py`). Blocks add up their tile over their share of the rows; then each parameter's
shares are added, in their order, and it is updated. How many shares there are depends on sizes alone, so every device
takes the same sums. Where a narrow network has one share of all, one kernel does both.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numba import cuda

from .. import records as R
from ..plan import Plan, Step
from ..simd import ITEMSIZE
from .device import NOT_FINITE, SIMD, STEP, STEP_OF_UPDATES, THREADS, TILES, TINY, Tile, tile_for
from .functions import cuda_kernel, inlined, item_type, one_of, place, unrolled
from .loss_kernels import step_end
from .tiles import keep_piece, piece_rows, shared_items, tile_sums
from .updates import Update, update
from .vectors import BYTES, copy_vector, put, vector_items

ENOUGH = 264  # blocks: two for each processor of a large device
ENOUGH_OF_SMALL = 1024  # of panels and of a table's rows
LEAST = 4 if TINY else 128  # rows of a share: the sum of smaller ones would cost more than it gains

SHARES_TOGETHER = 8  # of a parameter, on their way at a time

# A block of the first kernel: its record, whether that is a matrix, the corner of its tile, its rows, where in the
# shares its record's numbers of this share begin, for they lie in panels, as parameters do, and what is done with the
# gradient if this is all of it
RECORD, IS_MATRIX, FIRST_UNIT, FIRST_COLUMN, FIRST_ROW, LAST_ROW, TO, THEN = range(8)
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


def at_once(gradients: list[Gradient]) -> bool:
    """Whether each is the sum of one share, and one kernel has all of them."""
    return all(g.shares == 1 for g in gradients) and len({g.tile for g in gradients}) == 1


def n_items(gradients: list[Gradient]) -> int:
    """Numbers in all shares."""
    return sum(gradient.shares * gradient.size for gradient in gradients)


def bytes_of_tables(gradients: list[Gradient], dtype: str) -> int:
    """Of what `tables` gives."""
    panel, units, rows = SIMD.panel(dtype), units_of_block(sum(gradient.size for gradient in gradients), dtype), 0
    for g in gradients:
        n_panels = -(-g.columns // panel)
        rows += g.shares * (g.tile.count(g.rows, g.columns) if g.is_matrix else n_panels) * (THEN + 1)
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
            place = share * rows, (share + 1) * rows, at + share * g.size, change
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


# What becomes of a vector of numbers of a gradient, then(v, x, unit, column, at, *rest): the thread's v-th, the numbers
# of a unit, 0 of a bias, from `column` on, which lie from `at` on in the parameter's panels; and what is read for it
# before the sums are known, ask(v, at, *rest)


@inlined
def _nothing(v, at, *rest):
    pass


@inlined
def _into_shares(v, x, unit, column, at, shares, to):
    copy_vector(shares, to + at, x, 0)


@cache
def _own_state(dtype: str, n_slots: int):
    """ask(v, at, own, state, slot, w, ...): a vector of parameters and their slots into `own`."""
    lanes, vectors = vector_items(dtype), 1 + n_slots

    @inlined
    def ask(v, at, own, state, slot, w, *rest):
        for k in range(vectors):
            copy_vector(own, (v * vectors + k) * lanes, state, w + at + k * slot)

    return ask


@cache
def _updated(dtype: str, changes: tuple[Update, ...]):
    """The parameters are updated, and their transposed copies. `own` is what `_own_state` has brought."""
    panel, lanes, vectors = SIMD.panel(dtype), vector_items(dtype), 1 + changes[0].n_slots
    change = one_of(tuple(map(update, changes)))

    @inlined
    def updated(v, x, unit, column, at, own, state, slot, w, which, n_out, numbers, work, kept, transposed, copy):
        for i in range(lanes):
            if column + i < n_out:
                change(which, own, v * vectors * lanes + i, lanes, x[i], numbers, 0, work, kept + at + i)
        for k in range(vectors):
            copy_vector(state, w + at + k * slot, own, (v * vectors + k) * lanes)
        wt, last_panel, last_width = copy
        if wt >= 0:
            for i in range(lanes):
                if column + i < n_out:
                    place_there = wt + place(column + i, unit, panel, last_panel, panel * n_out, last_width)
                    put(transposed, place_there, own[v * vectors * lanes + i])

    return updated


def vectors_of_thread(dtype: str, tile: Tile) -> int:
    """Of a tile's results."""
    return tile.rows * tile.columns // (vector_items(dtype) * tile.block)


@cache
def gradient_tile(dtype: str, tile: Tile, ask, then):
    """A block's tile of the gradient A^T dz of a matrix over rows first..last of the batch, added in their order, whose
    vectors `then` gets. All threads of a block call it.
    """
    T, item, panel, D, lanes = (
        getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype), item_type[dtype], vector_items(dtype)
    )  # fmt: skip
    threads, piece, BN, n_sums = tile.block, piece_rows(dtype, tile), tile.columns, tile.own_rows * tile.own_columns
    across, n_vectors = BN // lanes, piece * BN // (lanes * threads)
    down = threads // across  # rows from a thread's vector to its next
    sums_of, keep, asks = tile_sums(dtype, tile, False), keep_piece(dtype, tile), ask is not _nothing

    @inlined
    def one_piece(g, shared, sums, unit, column, at, width, n_units, *rest):
        keep(g, shared, sums)
        i, j, x = cuda.threadIdx.x // across, cuda.threadIdx.x % across * lanes, cuda.local.array(lanes, D, BYTES)
        for v in range(n_vectors):
            more = g * piece + v * down  # units from the thread's first on
            if more < n_units:
                copy_vector(x, 0, shared, (i + v * down) * BN + j)
                then(g * n_vectors + v, x, unit + more, column, at + more * width, *rest)

    @inlined
    def ask_of_piece(g, at, width, n_units, *rest):
        for v in range(n_vectors):
            more = g * piece + v * down
            if more < n_units:
                ask(g * n_vectors + v, at + more * width, *rest)

    n_pieces = tile.own_rows // lanes
    all_pieces, ask_all = unrolled(n_pieces, one_piece), unrolled(n_pieces, ask_of_piece)

    @inlined
    def position(n_in, first_unit, first_column, last_panel, last_width):
        """Of a thread's first vector: unit, column, place, numbers from a unit to the next, and units from it on."""
        unit, column = first_unit + cuda.threadIdx.x // across, first_column + cuda.threadIdx.x % across * lanes
        p = column // panel
        width = panel if p < last_panel else last_width
        at = p * panel * n_in + unit * width + column - p * panel
        return unit, column, at, width, n_in - unit if column < last_panel * panel + last_width else 0

    @inlined
    def gradient_tile(shared, table, k, work, first_unit, first_column, first, last, *rest):
        n_in, last_panel, last_width = table[k, R.DEPTH], table[k, R.N_PANELS] - 1, table[k, R.LAST_WIDTH]
        a, a_panel_items = table[k, R.A] // item, table[k, R.A_PANEL_BYTES] // item
        a_last_panel, a_last_width = (n_in - 1) // panel, table[k, R.A_STRIDE_LAST] // item
        if asks:
            _, _, at, width, n_units = position(n_in, first_unit, first_column, last_panel, last_width)
            ask_all(0, at, width, n_units, *rest)
        sums = cuda.local.array(n_sums, D, BYTES)
        for i in range(n_sums):
            sums[i] = T(0)
        sums_of(
            shared, sums, work, a, a_panel_items, a_last_panel, a_last_width, first_unit,
            a_last_panel * panel + a_last_width, work, table[k, R.C] // item, table[k, R.C_PANEL_BYTES] // item,
            last_panel, last_width, first_column, first, last,
        )  # fmt: skip
        unit, column, at, width, n_units = position(n_in, first_unit, first_column, last_panel, last_width)
        all_pieces(0, shared, sums, unit, column, at, width, n_units, *rest)

    return gradient_tile


@cache
def panel_sums(dtype: str, threads: int, ask, then):
    """The sums of the columns of a panel of dz over rows first..last, whose vectors `then` gets: each thread adds every
    n-th row of a vector's columns, then their sums are added pair by pair. All threads of a block call it.
    """
    T, item, panel, D, lanes = (
        getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype), item_type[dtype], vector_items(dtype)
    )  # fmt: skip
    across = panel // lanes
    parts = threads // across

    @inlined
    def panel_sums(shared, table, k, work, first_column, first, last, *rest):
        p = first_column // panel
        part, j = cuda.threadIdx.x // across, cuda.threadIdx.x % across * lanes
        width = panel if p < table[k, R.N_PANELS] - 1 else table[k, R.LAST_WIDTH]
        dz = table[k, R.C] // item + p * (table[k, R.C_PANEL_BYTES] // item) + j
        x, total = cuda.local.array(lanes, D, BYTES), cuda.local.array(lanes, D, BYTES)
        for i in range(lanes):
            total[i] = T(0)
        if part == 0 and j < width:
            ask(0, first_column + j, *rest)
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
            copy_vector(x, 0, shared, j)
            then(0, x, 0, first_column + j, first_column + j, *rest)

    return panel_sums


@cuda_kernel
def shares_of_gradients(dtype: str, tile: Tile):
    """Launched with a block of `tile.block` threads for each row of `blocks`."""
    D, size = item_type[dtype], shared_items(dtype, tile)
    of_tile, of_panel = (
        gradient_tile(dtype, tile, _nothing, _into_shares), panel_sums(dtype, tile.block, _nothing, _into_shares)
    )  # fmt: skip

    def shares_of_gradients(control, steps, table, blocks, work, shares):
        b, step = cuda.blockIdx.x, control[STEP]
        k, to, first_column = blocks[b, RECORD], blocks[b, TO], blocks[b, FIRST_COLUMN]
        if control[NOT_FINITE] != 0:
            return
        if b == 0 and cuda.threadIdx.x == 0:
            control[STEP_OF_UPDATES] = step
        first, last = blocks[b, FIRST_ROW], min(blocks[b, LAST_ROW], steps[step, R.STEP_ROWS])
        shared = cuda.shared.array(size, D, BYTES)
        if blocks[b, IS_MATRIX] != 0:
            of_tile(shared, table, k, work, blocks[b, FIRST_UNIT], first_column, first, last, shares, to)
        else:
            of_panel(shared, table, k, work, first_column, first, last, shares, to)

    return shares_of_gradients


@cuda_kernel
def updates_at_once(dtype: str, tile: Tile, changes: tuple[Update, ...], with_loss: bool):
    """The gradients of all rows, what each record does with them, transposed copies, and the end of the step.

    Launched with a block of `tile.block` threads for each row of `blocks`, and one for the end.
    """
    T, item, D, size = getattr(np, dtype), ITEMSIZE[dtype], item_type[dtype], shared_items(dtype, tile)
    n_slots, panel, n_scalars = changes[0].n_slots, SIMD.panel(dtype), R.N_SCALARS
    items = vectors_of_thread(dtype, tile) * (1 + n_slots) * vector_items(dtype)
    how = _own_state(dtype, n_slots), _updated(dtype, changes)
    of_tile, of_panel = gradient_tile(dtype, tile, *how), panel_sums(dtype, tile.block, *how)
    end = step_end(with_loss, tile.block)

    def updates_at_once(
        control, steps, scalars, table, blocks, work, state, transposed, slot, row_losses, sums
    ):  # fmt: skip
        b, step = min(cuda.blockIdx.x, len(blocks) - 1), control[STEP_OF_UPDATES]
        k, which, first_column, first_unit = (
            blocks[b, RECORD], blocks[b, THEN], blocks[b, FIRST_COLUMN], blocks[b, FIRST_UNIT]
        )  # fmt: skip
        rows, s = steps[step, R.STEP_ROWS], steps[step, R.STEP_SCALARS] + table[k, R.GROUP] // 8
        if control[NOT_FINITE] != 0:
            return
        if cuda.blockIdx.x == len(blocks):
            end(control, step, rows, row_losses, sums)
            return
        w, kept, n_in = table[k, R.W] // item, table[k, R.GRADIENT] // item, table[k, R.DEPTH]
        numbers, own = cuda.local.array(n_scalars, D), cuda.local.array(items, D, BYTES)
        for i in range(n_scalars):
            numbers[i] = T(scalars[s + i])
        shared = cuda.shared.array(size, D, BYTES)
        if blocks[b, IS_MATRIX] != 0:
            wt = table[k, R.WT] // item if table[k, R.WT] >= 0 else -1
            copy = wt, (n_in - 1) // panel, table[k, R.WT_LAST_WIDTH]
            of_tile(
                shared, table, k, work, first_unit, first_column, 0, rows,
                own, state, slot, w, which, table[k, R.N_OUT], numbers, work, kept, transposed, copy,
            )  # fmt: skip
        else:
            end_of_columns = first_column + panel  # all, padding too
            of_panel(
                shared, table, k, work, first_column, 0, rows,
                own, state, slot, w, which, end_of_columns, numbers, work, kept, transposed, (-1, 0, 0),
            )  # fmt: skip

    return updates_at_once


@cuda_kernel
def updates(dtype: str, changes: tuple[Update, ...], units: int, ends: bool, with_loss: bool):
    """The sums of all shares, what each record does with a gradient, and transposed copies.

    Launched with a block of `THREADS` for each row of `blocks`, which has so many units of a panel's columns, and with
    one for the end of the step if that is now.
    """
    T, item, panel, D, change = (
        getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype), item_type[dtype], one_of(tuple(map(update, changes)))
    )  # fmt: skip
    stored = panel + 1  # one more than numbers of a row: neighbours in a column lie in different banks
    size, end = units * stored, step_end(with_loss, THREADS)

    @inlined
    def read_share(u, x, shares, at, n):
        x[u] = shares[at + u * n]

    read_shares = unrolled(SHARES_TOGETHER, read_share)

    @inlined
    def sum_of_shares(shares, at, n, n_shares):
        g, x, share = T(0), cuda.local.array(SHARES_TOGETHER, D), 0
        while share + SHARES_TOGETHER <= n_shares:
            read_shares(0, x, shares, at + share * n, n)
            for u in range(SHARES_TOGETHER):
                g += x[u]
            share += SHARES_TOGETHER
        while share < n_shares:
            g += shares[at + share * n]
            share += 1
        return g

    def updates(control, steps, scalars, table, blocks, work, state, transposed, slot, shares, row_losses, sums):
        if control[NOT_FINITE] != 0:
            return
        b, t, step = cuda.blockIdx.x, cuda.threadIdx.x, control[STEP_OF_UPDATES]
        if ends and b == cuda.gridDim.x - 1:
            end(control, step, steps[step, R.STEP_ROWS], row_losses, sums)
            return
        k, which, first, n = blocks[b, RECORD], blocks[b, CHANGE], blocks[b, AT], blocks[b, SIZE]
        first_unit, first_column, is_matrix = blocks[b, FIRST_UNIT], blocks[b, FIRST_COLUMN], blocks[b, IS_MATRIX] != 0
        n_in, n_out = (table[k, R.DEPTH], table[k, R.N_OUT]) if is_matrix else (1, n)
        last_panel, s = table[k, R.N_PANELS] - 1, steps[step, R.STEP_SCALARS] + table[k, R.GROUP] // 8
        p, w = first_column // panel, table[k, R.W] // item
        width = panel if p < last_panel else table[k, R.LAST_WIDTH]
        shared = cuda.shared.array(size, D)
        for e in range(t, units * panel, THREADS):
            unit, j = e // panel, e % panel
            if first_unit + unit < n_in and first_column + j < n_out and j < width:
                at = p * panel * n_in + (first_unit + unit) * width + j
                g = sum_of_shares(shares, first + at, n, blocks[b, SHARES])
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
