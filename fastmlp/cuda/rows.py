"""Kernels that bring rows of X into a batch, converted, in panels; and logits out of their panels."""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import cuda

from ..engine import records as R
from ..engine.simd import ITEMSIZE
from .device import NOT_FINITE, SIMD, STEP
from .functions import device_function, place


@cache
def gathered(dtype: str, scaled: bool):
    """Rows of X, first_row..last_row of the batch, converted and scaled, by thread `t` of `threads`."""
    T, item, panel = getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype)

    @device_function
    def gathered(table, k, order, index, first, x, work, scale, offset, first_row, last_row, t, threads):
        n, to, panel_items = table[k, R.N_FEATURES], table[k, R.C] // item, table[k, R.C_PANEL_BYTES] // item
        last_panel, last_width = table[k, R.N_PANELS] - 1, table[k, R.LAST_WIDTH]
        columns = last_panel * panel + last_width
        for e in range(t, (last_row - first_row) * columns, threads):
            i, column = first_row + e // columns, e % columns
            value = T(0)  # padding
            if column < n:
                row = order[index + i] if index >= 0 else first + i
                value = T(x[row, column])
                if scaled:
                    value = value * T(scale) + T(offset)
            work[to + place(i, column, panel, last_panel, panel_items, last_width)] = value

    return gathered


@cache
def gather(dtype: str, scaled: bool):
    """Rows of X into the batch, converted and scaled."""
    of_rows = gathered(dtype, scaled)

    @cuda.jit
    def gather(control, steps, table, k, order, x, work, scale, offset):
        if control[NOT_FINITE] != 0:
            return
        step = control[STEP]
        rows, index, first = steps[step, R.STEP_ROWS], steps[step, R.STEP_INDEX], steps[step, R.STEP_FIRST]
        t, threads = cuda.grid(1), cuda.gridsize(1)
        of_rows(table, k, order, index, first, x, work, scale, offset, 0, rows, t, threads)

    return gather


@cache
def scatter(dtype: str):
    """The logits out of their panels into the rows of `out`."""
    item, panel = ITEMSIZE[dtype], SIMD.panel(dtype)

    @cuda.jit
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
