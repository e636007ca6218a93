"""Dropout, of elements and of whole rows: the masks are the CPU's, by the same hash (`engine/dropout.py`)."""

from __future__ import annotations

import numpy as np
from numba import cuda

from .. import records as R
from ..engine.dropout import KINDS, U, hashed as cpu_hashed
from ..simd import ITEMSIZE
from .device import NOT_FINITE, SIMD, STEP
from .functions import cuda_kernel, device_function, place

GOLDEN = U(0x9E3779B9)
hashed = device_function(cpu_hashed.py_func)


@device_function
def mask_keys(key, layer):
    """What the hash of a layer's mask starts from, of the step's 64 random bits."""
    return U(U(key & 0xFFFFFFFF) + U(layer) * GOLDEN), U((key >> 32) & 0xFFFFFFFF)


@cuda_kernel
def dropout(dtype: str, kind: str):
    """C = scale IN + offset, or `dropped` for the elements that the hash leaves out."""
    T, item, panel = getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype)
    numbers_of, shifted = KINDS[kind]
    numbers_of = device_function(numbers_of.py_func)

    def dropout(control, steps, scalars, table, numbers, k, work):
        if control[NOT_FINITE] != 0:
            return
        step = control[STEP]
        rows, key, columns = steps[step, R.STEP_ROWS], steps[step, R.STEP_KEY], table[k, R.N_OUT]
        rate = numbers[k]
        if table[k, R.GROUP] != 0:  # it follows a schedule
            rate = scalars[steps[step, R.STEP_SCALARS] + table[k, R.GROUP] // 8 + R.DROPOUT]
        scale, offset, dropped = numbers_of(rate)
        scale, offset, dropped, least = T(scale), T(offset), T(dropped), U(rate * 4294967296.0)
        key_1, key_2 = mask_keys(key, table[k, R.LAYER])
        source, c = table[k, R.IN] // item, table[k, R.C] // item
        last_panel, panel_items = table[k, R.N_PANELS] - 1, table[k, R.C_PANEL_BYTES] // item
        for e in range(cuda.grid(1), rows * columns, cuda.gridsize(1)):
            i = e // columns
            at = place(i, e - i * columns, panel, last_panel, panel_items, table[k, R.LAST_WIDTH])
            kept = hashed(U(e), key_1, key_2) >= least
            if shifted:
                work[c + at] = work[source + at] * scale + offset if kept else dropped
            else:
                work[c + at] = work[source + at] * scale if kept else T(0)

    return dropout


@cuda_kernel
def drop_rows(dtype: str):
    """C = IN / (1 - rate), or 0 for the rows that the hash leaves out."""
    T, item, panel = getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype)

    def drop_rows(control, steps, scalars, table, numbers, k, work, state):
        if control[NOT_FINITE] != 0:
            return
        step = control[STEP]
        rows, last_panel, rate = steps[step, R.STEP_ROWS], table[k, R.N_PANELS] - 1, numbers[k]
        columns, panel_items = last_panel * panel + table[k, R.LAST_WIDTH], table[k, R.C_PANEL_BYTES] // item
        source, c = table[k, R.IN] // item, table[k, R.C] // item
        scale, least = T(1 / (1 - rate)), U(rate * 4294967296.0)
        key_1, key_2 = mask_keys(steps[step, R.STEP_KEY], table[k, R.LAYER])
        for e in range(cuda.grid(1), rows * columns, cuda.gridsize(1)):
            i = e // columns
            at = place(i, e - i * columns, panel, last_panel, panel_items, table[k, R.LAST_WIDTH])
            kept = hashed(U(i), key_1, key_2) >= least
            work[c + at] = work[source + at] * scale if kept else T(0)

    return drop_rows
