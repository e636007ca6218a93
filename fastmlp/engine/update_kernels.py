"""Kernels of the phases after the gradients: the norm of all of them and the updates that wait for it; `max_norm`.

Squares are summed in float64, each column from its first row to its last, the columns in their order: a chain that
depends neither on who computes it nor on the width of vectors.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from .. import records as R
from ..simd import ITEMSIZE, Simd
from .elementary import INLINE
from .ir import float64_at, int64_at, items_at
from .products import transposed_block, update_block


def _column_sums(dtype: str):
    items = items_at[dtype]

    @njit(**INLINE)
    def column_sums(matrix, rows, width, out):
        """Sums of the squares of the columns of one panel: float64 at `out`."""
        x, total = items(matrix), float64_at(out)
        for k in range(width):
            total[k] = 0.0
        i = 0
        while i + 4 <= rows:  # four rows to each load and store of the sums
            at = i * width
            for k in range(width):
                a, b = np.float64(x[at + k]), np.float64(x[at + width + k])
                c, d = np.float64(x[at + 2 * width + k]), np.float64(x[at + 3 * width + k])
                total[k] = (((total[k] + a * a) + b * b) + c * c) + d * d
            i += 4
        while i < rows:
            for k in range(width):
                a = np.float64(x[i * width + k])
                total[k] += a * a
            i += 1

    return column_sums


def square_sums(dtype: str, simd: Simd):
    """Units lo..hi: panels of a stored gradient."""
    item, panel_width, column_sums = ITEMSIZE[dtype], simd.panel(dtype), _column_sums(dtype)

    def square_sums(record, lo, hi, worker):
        r = int64_at(record)
        for j in range(lo, hi):
            width = panel_width if j < r[R.N_PANELS] - 1 else r[R.LAST_WIDTH]
            panel = r[R.GRADIENT] + j * panel_width * r[R.DEPTH] * item
            column_sums(panel, r[R.DEPTH], width, r[R.SUMS] + 8 * j * panel_width)

    return square_sums


def clip_norm(dtype: str, simd: Simd):
    """One unit: the coefficient of all gradients. Of a norm that is NaN it is NaN, and the step is noticed."""

    def clip_norm(record, lo, hi, worker):
        r = int64_at(record)
        sums, bound = float64_at(r[R.SUMS]), float64_at(int64_at(worker)[R.SCALARS])[R.CLIP]
        for _ in range(lo, hi):
            total = 0.0
            for k in range(r[R.N_SUMS]):
                total += sums[k]
            coefficient = bound / (math.sqrt(total) + 1e-6)
            float64_at(r[R.COEFFICIENT])[0] = 1.0 if coefficient > 1.0 else coefficient

    return clip_norm


def update(dtype: str, simd: Simd):
    """Units lo..hi: blocks of W, updated from their stored gradient times the coefficient."""
    item, panel_width = ITEMSIZE[dtype], simd.panel(dtype)
    T, items, write_transposed = getattr(np, dtype), items_at[dtype], transposed_block(dtype, simd)

    def update(record, lo, hi, worker):
        r, scratch = int64_at(record), int64_at(worker)[R.SCRATCH]
        depth, n_blocks, n_panels, n_out = r[R.DEPTH], r[R.N_BLOCKS], r[R.N_PANELS], r[R.N_OUT]
        scaled, coefficient = items(scratch), T(float64_at(r[R.COEFFICIENT])[0])
        for unit in range(lo, hi):
            p, j = unit // n_panels, unit % n_panels
            width = panel_width if j < n_panels - 1 else r[R.LAST_WIDTH]
            n = min(panel_width, depth - p * panel_width)
            at = (j * panel_width * depth + p * panel_width * width) * item
            g = items(r[R.GRADIENT] + at)
            for i in range(n * width):
                scaled[i] = coefficient * g[i]
            update_block(r, worker, r[R.W] + at, scratch, n * width)
            if r[R.WT] != 0:
                wt_width = panel_width if p < n_blocks - 1 else r[R.WT_LAST_WIDTH]
                copy = r[R.WT] + (p * panel_width * n_out + j * panel_width * wt_width) * item
                write_transposed(r[R.W] + at, n, width, min(width, n_out - j * panel_width), copy, wt_width)

    return update


def max_norm(dtype: str, simd: Simd):
    """Units lo..hi: panels of W, whose columns are scaled down to the norm that they may have at most."""
    item, panel_width, column_sums = ITEMSIZE[dtype], simd.panel(dtype), _column_sums(dtype)
    T, items, write_transposed = getattr(np, dtype), items_at[dtype], transposed_block(dtype, simd)

    def max_norm(record, lo, hi, worker):
        r, scratch = int64_at(record), int64_at(worker)[R.SCRATCH]
        depth, n_blocks, n_panels, n_out = r[R.DEPTH], r[R.N_BLOCKS], r[R.N_PANELS], r[R.N_OUT]
        most, sums, factors = float64_at(record)[R.NUMBER], float64_at(scratch), items(scratch)
        for j in range(lo, hi):
            width = panel_width if j < n_panels - 1 else r[R.LAST_WIDTH]
            panel = r[R.W] + j * panel_width * depth * item
            column_sums(panel, depth, width, scratch)
            for k in range(width):  # a factor is no longer than its sum: it may take its place
                norm = math.sqrt(sums[k])
                factors[k] = T(most / norm) if norm > most else T(1)
            for p in range(n_blocks):
                n, block = min(panel_width, depth - p * panel_width), panel + p * panel_width * width * item
                x = items(block)
                for i in range(n):
                    for k in range(width):
                        x[i * width + k] = x[i * width + k] * factors[k]
                update_block(r, worker, block, scratch, n * width)
                if r[R.WT] != 0:
                    wt_width = panel_width if p < n_blocks - 1 else r[R.WT_LAST_WIDTH]
                    copy = r[R.WT] + (p * panel_width * n_out + j * panel_width * wt_width) * item
                    write_transposed(block, n, width, min(width, n_out - j * panel_width), copy, wt_width)

    return max_norm
