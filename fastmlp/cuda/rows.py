"""Kernels that bring rows of X into a batch, converted, in panels; and logits out of their panels."""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import cuda

from .. import records as R
from ..simd import ITEMSIZE
from .device import NOT_FINITE, SIMD, STEP, THREADS
from .functions import cuda_kernel, data_row, inlined, item_type, place
from .vectors import BYTES, copy_vector, vector_items

TOGETHER = 4  # rows that a thread has on their way at a time


@cache
def gathered(dtype: str, scaled: bool):
    """A vector of the columns from `column` on, of `TOGETHER` rows of X into the batch, converted and scaled: rows i,
    i + step... below `rows`. All are read before the first is written, so that they are on their way together.
    """
    T, item, panel, D, lanes = (
        getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype), item_type[dtype], vector_items(dtype)
    )  # fmt: skip
    items = TOGETHER * lanes

    @inlined
    def gathered(table, k, order, index, first, x, work, scale, offset, column, i, step, rows):
        n, p = table[k, R.N_FEATURES], column // panel
        width = panel if p < table[k, R.N_PANELS] - 1 else table[k, R.LAST_WIDTH]
        to = table[k, R.C] // item + p * (table[k, R.C_PANEL_BYTES] // item) + column - p * panel
        values = cuda.local.array(items, D, BYTES)
        for r in range(TOGETHER):
            if i + r * step < rows:
                row = data_row(order, index, first, i + r * step)
                for j in range(lanes):
                    value = T(0)  # padding
                    if column + j < n:
                        value = T(x[row, column + j])
                        if scaled:
                            value = value * T(scale) + T(offset)
                    values[r * lanes + j] = value
        for r in range(TOGETHER):
            if i + r * step < rows:
                copy_vector(work, to + (i + r * step) * width, values, r * lanes)

    return gathered


@cuda_kernel
def gather(dtype: str, scaled: bool):
    """Rows of X into the batch, converted and scaled.

    Launched with a block for each `rows_of_block` rows of each panel, the panels `in_y_and_z`.
    """
    panel, lanes = SIMD.panel(dtype), vector_items(dtype)
    across, of_rows = panel // lanes, gathered(dtype, scaled)
    down = rows_of_block(dtype) // TOGETHER

    def gather(control, steps, table, k, order, x, work, scale, offset):
        if control[NOT_FINITE] != 0:
            return
        step, t, p = control[STEP], cuda.threadIdx.x, cuda.blockIdx.z * cuda.gridDim.y + cuda.blockIdx.y
        rows, index, first = steps[step, R.STEP_ROWS], steps[step, R.STEP_INDEX], steps[step, R.STEP_FIRST]
        i, j = cuda.blockIdx.x * down * TOGETHER + t // across, t % across * lanes
        last = table[k, R.N_PANELS] - 1
        if p < last or (p == last and j < table[k, R.LAST_WIDTH]):
            of_rows(table, k, order, index, first, x, work, scale, offset, p * panel + j, i, down, rows)

    return gather


def rows_of_block(dtype: str) -> int:
    """Of a panel of the batch, of which a block of `gather` brings so many."""
    return max(1, THREADS * vector_items(dtype) // SIMD.panel(dtype)) * TOGETHER


@cuda_kernel
def scatter(dtype: str):
    """The logits out of their panels into the rows of `out`."""
    item, panel = ITEMSIZE[dtype], SIMD.panel(dtype)

    def scatter(control, steps, table, k, work, out):
        step = control[STEP]
        rows, first, columns = steps[step, R.STEP_ROWS], steps[step, R.STEP_FIRST], table[k, R.N_OUT]
        c, panel_items = table[k, R.C] // item, table[k, R.C_PANEL_BYTES] // item
        for e in range(cuda.grid(1), rows * columns, cuda.gridsize(1)):
            i = e // columns
            column = e - i * columns
            at = place(i, column, panel, table[k, R.N_PANELS] - 1, panel_items, table[k, R.LAST_WIDTH])
            out[first + i, column] = work[c + at]

    return scatter
