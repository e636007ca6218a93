"""Gradients over a batch that is cut into shares of rows: for matrices of too few tiles to fill a device, a block each.

Two kernels for any number of matrices and vectors: blocks add up their tile over their share of the rows, then a thread
for each parameter adds its shares, in their order, and updates it. How many shares there are depends on sizes alone, so
every device takes the same sums.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import cuda

from ..engine import records as R
from ..engine.simd import ITEMSIZE
from ..plan import Step
from .device import NOT_FINITE, SIMD, SIMULATED, STEP, TILE
from .functions import copy_transposed, item_type, one_of, place
from .products import gradient_tile

ENOUGH = 256  # blocks: two for each processor of a large device
LEAST = 4 if SIMULATED else 256  # rows of a share: the sum of smaller ones would cost more than it gains

# A block of the first kernel: its record, whether that is a matrix, the corner of its tile, its rows, and where in the
# shares its record's numbers of this share begin
RECORD, IS_MATRIX, FIRST_UNIT, FIRST_COLUMN, FIRST_ROW, LAST_ROW, TO = range(7)
# A parameter of the second: its record, whether it is a matrix, what is done with its gradient, where its shares begin,
# how many there are, and of how many numbers
CHANGE, AT, SHARES, SIZE = range(2, 6)


def n_shares(step: Step, batch_size: int, dtype: str) -> int:
    """In how many shares the gradient of a record is summed: 1 where its tiles fill a device."""
    return max(1, min(ENOUGH // len(_tiles(step, dtype)), batch_size // LEAST))


def tables(records: dict[int, Step], changes: list[int], batch_size: int, dtype: str):
    """The tables of blocks and parameters, and the numbers in all shares, of these records (by their place in the
    plan's table), with what is done to each, a number.
    """
    blocks, parameters, at = [], [], 0
    for (k, step), change in zip(records.items(), changes, strict=True):
        f, is_matrix = step.fields, step.kernel == "weight_gradient"
        size = f[R.DEPTH] * f[R.N_OUT] if is_matrix else _columns(step, dtype)
        n = n_shares(step, batch_size, dtype)
        rows = -(-batch_size // (n * TILE.depth)) * TILE.depth  # of a share
        parameters.append((k, is_matrix, change, at, n, size))
        for share in range(n):
            place = share * rows, (share + 1) * rows, at + share * size
            blocks += [(k, is_matrix, *corner, *place) for corner in _tiles(step, dtype)]
        at += n * size
    return np.array(blocks, np.int64), np.array(parameters, np.int64), at


def _tiles(step: Step, dtype: str) -> list[tuple[int, int]]:
    """The first input and output of each tile of a matrix; 0 and the first number of each panel of a vector."""
    if step.kernel == "weight_gradient":
        n_in, n_out = step.fields[R.DEPTH], step.fields[R.N_OUT]
        return [(i, j) for i in range(0, n_in, TILE.rows) for j in range(0, n_out, TILE.columns)]
    return [(0, j) for j in range(0, _columns(step, dtype), SIMD.panel(dtype))]


def _columns(step: Step, dtype: str) -> int:
    return (step.fields[R.N_PANELS] - 1) * SIMD.panel(dtype) + step.fields[R.LAST_WIDTH]


@cache
def shares_of_gradients(dtype: str):
    """Launched with a block of `TILE.block` threads for each row of `blocks`."""
    T, item, panel, D = getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype), item_type[dtype]
    BN, slots, threads, size = TILE.columns, TILE.rows * TILE.columns, TILE.block, TILE.shared
    together = min(panel, threads)  # columns of a vector at a time, and the threads that share a column's rows
    parts = threads // together
    of_tile = gradient_tile(dtype, TILE)

    @cuda.jit
    def shares_of_gradients(control, steps, table, blocks, work, shares):
        if control[NOT_FINITE] != 0:
            return
        b, t = cuda.blockIdx.x, cuda.threadIdx.x
        k, to, first_column = blocks[b, RECORD], blocks[b, TO], blocks[b, FIRST_COLUMN]
        first, last = blocks[b, FIRST_ROW], min(blocks[b, LAST_ROW], steps[control[STEP], R.STEP_ROWS])
        shared = cuda.shared.array(size, D)
        if blocks[b, IS_MATRIX] != 0:
            first_unit, n_in, n_out = blocks[b, FIRST_UNIT], table[k, R.DEPTH], table[k, R.N_OUT]
            of_tile(shared, table, k, work, first_unit, first_column, first, last)
            for e in range(t, slots, threads):
                unit, column = first_unit + e // BN, first_column + e % BN
                if unit < n_in and column < n_out:
                    shares[to + unit * n_out + column] = shared[e]
        else:
            p, part = first_column // panel, t // together
            width = panel if p < table[k, R.N_PANELS] - 1 else table[k, R.LAST_WIDTH]
            dz = table[k, R.C] // item + p * (table[k, R.C_PANEL_BYTES] // item)
            for begin in range(0, panel, together):
                column = begin + t % together
                total = T(0)
                if column < width:
                    for row in range(first + part, last, parts):
                        total += work[dz + row * width + column]
                shared[t] = total
                half = parts // 2
                while half > 0:
                    cuda.syncthreads()
                    if part < half:
                        shared[t] += shared[t + half * together]
                    half //= 2
                if part == 0 and column < width:
                    shares[to + first_column + column] = shared[t]

    return shares_of_gradients


@cache
def updates(dtype: str, changes: tuple):
    """The sums of all shares, and what each record does with a gradient; a thread for each parameter."""
    T, item, panel, change = getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype), one_of(changes)

    @cuda.jit
    def updates(control, steps, scalars, table, parameters, n, work, state, transposed, slot, shares):
        if control[NOT_FINITE] != 0:
            return
        of_step = steps[control[STEP], R.STEP_SCALARS]
        for r in range(n):
            k, which, first = parameters[r, RECORD], parameters[r, CHANGE], parameters[r, AT]
            size, s, w = parameters[r, SIZE], of_step + table[k, R.GROUP] // 8, table[k, R.W] // item
            for e in range(cuda.grid(1), size, cuda.gridsize(1)):
                g = T(0)
                for share in range(parameters[r, SHARES]):
                    g += shares[first + share * size + e]
                unit, column, at = 0, e, w + e
                if parameters[r, IS_MATRIX] != 0:
                    n_in, n_out = table[k, R.DEPTH], table[k, R.N_OUT]
                    unit, column = e // n_out, e % n_out
                    at = w + place(unit, column, panel, table[k, R.N_PANELS] - 1, panel * n_in, table[k, R.LAST_WIDTH])
                change(which, state, at, slot, g, scalars, s, work, table[k, R.GRADIENT] // item + at - w)
                if parameters[r, IS_MATRIX] != 0 and table[k, R.WT] >= 0:
                    n_in, n_out, wt = table[k, R.DEPTH], table[k, R.N_OUT], table[k, R.WT] // item
                    last_width = table[k, R.WT_LAST_WIDTH]
                    copy_transposed(state, transposed, at, wt, unit, column, n_in, n_out, panel, last_width)

    return updates
