"""Dropout, of elements and of whole rows: the masks are the CPU's, by the same hash (`engine/dropout.py`)."""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import cuda

from .. import records as R
from ..engine.dropout import KINDS
from ..masks import GOLDEN, U, hashed as of_index
from ..simd import ITEMSIZE
from .device import NOT_FINITE, SIMD, STEP
from .functions import cuda_kernel, device_function, inlined, place

hashed = device_function(of_index)


@device_function
def mask_keys(key, layer):
    """What the hash of a layer's mask starts from, of the step's 64 random bits."""
    return U(U(key & 0xFFFFFFFF) + U(layer) * GOLDEN), U((key >> 32) & 0xFFFFFFFF)


@cache
def masking(dtype: str, kind: str):
    """Two device functions: what the elements of a layer's mask have in common, numbers_of(key, rate, layer), of the
    step's 64 random bits; and what becomes of z, masked(z, e, those), which is element e of the batch, or is in row e
    where rows are dropped.
    """
    T = getattr(np, dtype)
    of_rate, shifted = KINDS["dropout" if kind == "drop_rows" else kind]
    of_rate = device_function(of_rate.py_func)

    @inlined
    def numbers_of(key, rate, layer):
        scale, offset, dropped = of_rate(rate)
        key_1, key_2 = mask_keys(key, layer)
        return T(scale), T(offset), T(dropped), U(rate * 4294967296.0), key_1, key_2

    @inlined
    def masked(z, e, numbers):
        scale, offset, dropped, least, key_1, key_2 = numbers
        kept = hashed(U(e), key_1, key_2) >= least
        if shifted:
            return z * scale + offset if kept else dropped
        return z * scale if kept else T(0)

    return numbers_of, masked


@cache
def dropping(dtype: str, kind: str):
    """f(steps, step, scalars, table, numbers, k, work, first, last, distance): C = masked IN, for every n-th element of
    the batch from `first` to `last`.
    """
    item, panel, by_rows = ITEMSIZE[dtype], SIMD.panel(dtype), kind == "drop_rows"
    numbers_of, masked = masking(dtype, kind)

    @inlined
    def dropping(steps, step, scalars, table, numbers, k, work, first, last, distance):
        columns, rate, group = table[k, R.N_OUT], numbers[k], table[k, R.GROUP] // 8
        if group != 0:  # it follows a schedule
            rate = scalars[steps[step, R.STEP_SCALARS] + group + R.DROPOUT]
        of_mask = numbers_of(steps[step, R.STEP_KEY], rate, table[k, R.LAYER])
        source, c = table[k, R.IN] // item, table[k, R.C] // item
        last_panel, panel_items = table[k, R.N_PANELS] - 1, table[k, R.C_PANEL_BYTES] // item
        for e in range(first, last, distance):
            i = e // columns
            at = place(i, e - i * columns, panel, last_panel, panel_items, table[k, R.LAST_WIDTH])
            work[c + at] = masked(work[source + at], i if by_rows else e, of_mask)

    return dropping


@cuda_kernel
def dropout(dtype: str, kind: str):
    """C = scale IN + offset, or `dropped`, or 0, for the elements, or rows, that the hash leaves out."""
    drop = dropping(dtype, kind)

    def dropout(control, steps, scalars, table, numbers, k, work):
        if control[NOT_FINITE] != 0:
            return
        step = control[STEP]
        last = steps[step, R.STEP_ROWS] * table[k, R.N_OUT]
        drop(steps, step, scalars, table, numbers, k, work, cuda.grid(1), last, cuda.gridsize(1))

    return dropout
