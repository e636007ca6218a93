"""Dropout: elements that a hash of (step, layer, row of the batch, column) sets to 0, the others scaled up; or all of
them to another constant, scaled and shifted. Stochastic depth is the first for whole rows.

Nothing is stored between forward and backward: the hash is computed again. It depends on the element's row and column,
not on who computes it or on the width of vectors, so neither do the bits.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from .. import masks, records as R
from ..masks import GOLDEN, LEAST_SELU, U
from ..simd import ITEMSIZE, Simd
from .elementary import INLINE, SCALAR
from .ir import float64_at, int64_at, items_at

hashed = njit(**SCALAR)(masks.hashed)


@njit(**INLINE)
def keys(r, w):
    """The two keys of this layer's hashes in this step."""
    key = w[R.KEY]
    return U(U(key & 0xFFFFFFFF) + U(r[R.LAYER]) * GOLDEN), U((key >> 32) & 0xFFFFFFFF)


@njit(**SCALAR)
def element(n, first, shift, rest, columns):
    """Row times columns plus column of the n-th number of a panel."""
    e = U(n)
    return U(first + U(U(e >> shift) * columns) + U(e & rest))


@njit(**SCALAR)
def alpha_dropout_slopes(rate):
    """Those of the gradients: what was dropped has none."""
    return 1 / math.sqrt((1 - rate) * (1 + rate * LEAST_SELU**2)), 0.0, 0.0


# Names of kernels: their numbers, and whether an offset is added
KINDS = {
    "dropout": (njit(**SCALAR)(masks.dropout_numbers), False),
    "alpha_dropout": (njit(**SCALAR)(masks.alpha_dropout_numbers), True),
    "alpha_dropout.gradient": (alpha_dropout_slopes, False),
}


def dropout_kernel(kind: str):
    return lambda dtype, simd: _dropout(dtype, simd, *KINDS[kind])


def _dropout(dtype: str, simd: Simd, numbers, shifted: bool):
    """Rows lo..hi: C = scale IN + offset, or `dropped` for the elements that the hash leaves out."""
    item, panel_width, items, T = ITEMSIZE[dtype], simd.panel(dtype), items_at[dtype], getattr(np, dtype)

    @njit(**SCALAR)
    def value(x, kept, scale, offset, dropped):
        if shifted:
            return x * scale + offset if kept else dropped
        return x * scale if kept else T(0)

    @njit(**SCALAR)
    def in_place(x, count, first, shift, rest, columns, key_1, key_2, scale, offset, dropped, least):
        # one flat loop over all rows: a panel's rows are too short for vectors of their own; one pointer, for LLVM
        # takes two that may be the same one number at a time
        for n in range(count):
            h = hashed(element(n, first, shift, rest, columns), key_1, key_2)
            x[n] = value(x[n], h >= least, scale, offset, dropped)

    def dropout(record, lo, hi, worker):
        r, w = int64_at(record), int64_at(worker)
        rate, n_panels = float64_at(record)[R.NUMBER], r[R.N_PANELS]
        if r[R.GROUP] != 0:  # it follows a schedule
            rate = float64_at(w[R.SCALARS] + r[R.GROUP])[R.DROPOUT]
        scale, offset, dropped = numbers(rate)
        scale, offset, dropped = T(scale), T(offset), T(dropped)
        columns, least = U(r[R.N_OUT]), U(rate * 4294967296.0)
        key_1, key_2 = keys(r, w)
        for j in range(n_panels):
            width = panel_width if j < n_panels - 1 else r[R.LAST_WIDTH]
            shift = U(0)
            while (1 << shift) < width:  # widths are powers of two
                shift += U(1)
            at, rest = j * r[R.C_PANEL_BYTES] + lo * width * item, U(width - 1)
            count, first = (hi - lo) * width, U(U(lo) * columns + U(j * panel_width))
            if r[R.IN] == r[R.C]:
                x = items(r[R.C] + at)
                in_place(x, count, first, shift, rest, columns, key_1, key_2, scale, offset, dropped, least)
            else:
                source, target = items(r[R.IN] + at), items(r[R.C] + at)
                for n in range(count):
                    h = hashed(element(n, first, shift, rest, columns), key_1, key_2)
                    target[n] = value(source[n], h >= least, scale, offset, dropped)

    return dropout


def drop_rows(dtype: str, simd: Simd):
    """Rows lo..hi: C = IN / (1 - rate), or 0 for the rows that the hash leaves out."""
    item, panel_width, items, T = ITEMSIZE[dtype], simd.panel(dtype), items_at[dtype], getattr(np, dtype)

    def drop_rows(record, lo, hi, worker):
        r, w = int64_at(record), int64_at(worker)
        rate, n_panels = float64_at(record)[R.NUMBER], r[R.N_PANELS]
        scale, least = T(1 / (1 - rate)), U(rate * 4294967296.0)
        key_1, key_2 = keys(r, w)
        for j in range(n_panels):
            width = panel_width if j < n_panels - 1 else r[R.LAST_WIDTH]
            for i in range(lo, hi):
                at = j * r[R.C_PANEL_BYTES] + i * width * item
                source, target = items(r[R.IN] + at), items(r[R.C] + at)
                if hashed(U(i), key_1, key_2) >= least:
                    for k in range(width):
                        target[k] = source[k] * scale
                else:
                    for k in range(width):
                        target[k] = T(0)

    return drop_rows
