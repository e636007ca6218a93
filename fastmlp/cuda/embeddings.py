"""CUDA kernels of an embedding: rows of its table side by side, and shares of the table's gradient.

The gradient of a row of the table is the sum of what the batch's rows send back to it. Each block has a few rows of the
table and looks through the codes of its share of the batch, in their order: no number has two writers.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import cuda, int64

from .. import records as R
from ..simd import ITEMSIZE
from .device import NOT_FINITE, SIMD, STEP, STEP_OF_UPDATES
from .functions import cuda_kernel, inlined, place
from .gradients import FIRST_COLUMN, FIRST_ROW, FIRST_UNIT, LAST_ROW, RECORD, TO, of_table


@cache
def _table_row(dtype: str):
    """The row of the table for code c of row i of the batch; k is the record of the forward pass."""
    item, panel = ITEMSIZE[dtype], SIMD.panel(dtype)

    @inlined
    def table_row(table, k, coded, work, i, c):
        last, last_width = (table[k, R.N_FEATURES] - 1) // panel, table[k, R.A_STRIDE_LAST] // item
        at = place(i, coded[3 * c], panel, last, table[k, R.A_PANEL_BYTES] // item, last_width)
        # codes have been looked at; whatever may come, nothing beyond the table is read
        return coded[3 * c + 2] + min(max(int64(work[table[k, R.A] // item + at]), 0), coded[3 * c + 1] - 1)

    return table_row


@cuda_kernel
def embedding(dtype: str):
    """C = the rows of the table W that the codes of A choose, and A's other columns."""
    T, item, panel, table_row = getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype), _table_row(dtype)

    def embedding(control, steps, table, k, coded, work, state):
        if control[NOT_FINITE] != 0:
            return
        rows, last_panel, last_width = (
            steps[control[STEP], R.STEP_ROWS],
            table[k, R.N_PANELS] - 1,
            table[k, R.LAST_WIDTH],
        )
        columns, n_out, n_codes = last_panel * panel + last_width, table[k, R.N_OUT], table[k, R.N_CODED]
        a, a_items, a_width = (
            table[k, R.A] // item,
            table[k, R.A_PANEL_BYTES] // item,
            table[k, R.A_STRIDE_LAST] // item,
        )
        c, c_items, a_last = (
            table[k, R.C] // item,
            table[k, R.C_PANEL_BYTES] // item,
            (table[k, R.N_FEATURES] - 1) // panel,
        )
        w, w_items, w_last = table[k, R.W] // item, panel * table[k, R.DEPTH], (n_out - 1) // panel
        w_width, end = table[k, R.TABLE_LAST_WIDTH], n_codes * n_out
        for e in range(cuda.grid(1), rows * columns, cuda.gridsize(1)):
            i = e // columns
            q = e - i * columns
            value = T(0)  # padding
            if q < end:
                code = q // n_out
                row = table_row(table, k, coded, work, i, code)
                value = state[w + place(row, q - code * n_out, panel, w_last, w_items, w_width)]
            elif q < end + table[k, R.N_OTHERS]:
                column = coded[3 * n_codes + q - end]
                value = work[a + place(i, column, panel, a_last, a_items, a_width)]
            work[c + place(i, q, panel, last_panel, c_items, last_width)] = value

    return embedding


@cuda_kernel
def shares_of_table(dtype: str):
    """The gradients of a table's rows over shares of the batch. `forward` and `backward` are the records of the layer
    and of dL/da, whose columns belong to codes.

    Launched with a block of `of_table(dtype).block` threads for each row of `blocks`, a thread for each number.
    """
    threads = of_table(dtype).block
    T, item, panel, table_row = getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype), _table_row(dtype)

    def shares_of_table(control, steps, table, forward, backward, coded, blocks, work, shares):
        if control[NOT_FINITE] != 0:
            return
        b, t, step = cuda.blockIdx.x, cuda.threadIdx.x, control[STEP]
        if b == 0 and t == 0:
            control[STEP_OF_UPDATES] = step
        k, to, first_unit, first = blocks[b, RECORD], blocks[b, TO], blocks[b, FIRST_UNIT], blocks[b, FIRST_ROW]
        last = min(blocks[b, LAST_ROW], steps[step, R.STEP_ROWS])
        n_codes, n_out, mine = table[forward, R.N_CODED], table[k, R.N_OUT], t // panel
        column, p = blocks[b, FIRST_COLUMN] + t % panel, blocks[b, FIRST_COLUMN] // panel
        da, da_items = table[backward, R.C] // item, table[backward, R.C_PANEL_BYTES] // item
        da_last, da_width = table[backward, R.N_PANELS] - 1, table[backward, R.LAST_WIDTH]
        chosen = cuda.shared.array(threads, int64)  # rows of the table, of some codes
        total, n = T(0), (last - first) * n_codes
        for start in range(0, n, threads):
            cuda.syncthreads()  # those before have been read
            if start + t < n:
                row = (start + t) // n_codes
                chosen[t] = table_row(table, forward, coded, work, first + row, start + t - row * n_codes) - first_unit
            cuda.syncthreads()
            for q in range(min(threads, n - start)):
                if chosen[q] == mine and column < n_out:
                    row = (start + q) // n_codes
                    at = (start + q - row * n_codes) * n_out + column
                    total += work[da + place(first + row, at, panel, da_last, da_items, da_width)]
        width, depth = panel if p < table[k, R.N_PANELS] - 1 else table[k, R.LAST_WIDTH], table[k, R.DEPTH]
        if first_unit + mine < depth and column - p * panel < width:
            shares[to + p * panel * depth + (first_unit + mine) * width + column - p * panel] = total

    return shares_of_table
