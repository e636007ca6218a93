"""Kernels of an embedding: rows of a table side by side, and the table's gradient.

For the gradient, what the batch's rows of the output send back is laid out as one row for each code, and the codes are
sorted: the gradient of a row of the table is then a sum of some of those rows, as `sparse_gradient` makes it.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .. import records as R
from ..simd import ITEMSIZE, Simd
from .elementary import INLINE
from .ir import int64_at, items_at
from .rows import place


def _copy_columns(dtype: str, simd: Simd):
    """A function that copies n columns from row i of a matrix in panels to row j of another."""
    item, items, panel_width = ITEMSIZE[dtype], items_at[dtype], simd.panel(dtype)

    @njit(**INLINE)
    def copy(n, source, i, column, last, panel_items, last_width, target, j, at, to_last, to_items, to_last_width):
        done = 0
        while done < n:
            here, there = column + done, at + done
            many = min(n - done, panel_width - here % panel_width, panel_width - there % panel_width)
            x = items(source + place(i, here, panel_width, last, panel_items, last_width) * item)
            y = items(target + place(j, there, panel_width, to_last, to_items, to_last_width) * item)
            for k in range(many):
                y[k] = x[k]
            done += many

    return copy


def embedding(dtype: str, simd: Simd):
    """Rows lo..hi of C: the rows of the table W that the codes of A choose, and A's other columns."""
    item, items, panel_width, T = ITEMSIZE[dtype], items_at[dtype], simd.panel(dtype), getattr(np, dtype)
    copy = _copy_columns(dtype, simd)

    def embedding(record, lo, hi, worker):
        r = int64_at(record)
        n_codes, n_others, n_out, depth, W, C = r[R.N_CODED], r[R.N_OTHERS], r[R.N_OUT], r[R.DEPTH], r[R.W], r[R.C]
        coded, codes = int64_at(r[R.CODED]), int64_at(r[R.TABLE_ROWS])
        others = int64_at(r[R.CODED] + 3 * 8 * n_codes)
        a, a_items, a_last_width = items(r[R.A]), r[R.A_PANEL_BYTES] // item, r[R.A_STRIDE_LAST] // item
        a_last = (r[R.N_FEATURES] - 1) // panel_width
        c, c_items, c_last, c_width = items(C), r[R.C_PANEL_BYTES] // item, r[R.N_PANELS] - 1, r[R.LAST_WIDTH]
        w_last, w_width = (n_out - 1) // panel_width, r[R.TABLE_LAST_WIDTH]
        for i in range(lo, hi):
            for k in range(n_codes):
                column, count, first = coded[3 * k], coded[3 * k + 1], coded[3 * k + 2]
                x = a[place(i, column, panel_width, a_last, a_items, a_last_width)]
                # codes have been looked at; whatever may come, nothing beyond the table is read
                row = first + min(max(np.int64(x), 0), count - 1)
                codes[i * n_codes + k] = row
                copy(n_out, W, row, 0, w_last, panel_width * depth, w_width, C, i, k * n_out, c_last, c_items, c_width)
            end = n_codes * n_out
            for k in range(n_others):
                x = a[place(i, others[k], panel_width, a_last, a_items, a_last_width)]
                c[place(i, end + k, panel_width, c_last, c_items, c_width)] = x
            for column in range(end + n_others, c_last * panel_width + c_width):
                c[place(i, column, panel_width, c_last, c_items, c_width)] = T(0)

    return embedding


def embedding_gradient(dtype: str, simd: Simd):
    """Rows lo..hi of the batch: the columns of C, dL/da, that belong to a code become a row of DZ."""
    item, items, panel_width, T = ITEMSIZE[dtype], items_at[dtype], simd.panel(dtype), getattr(np, dtype)
    copy = _copy_columns(dtype, simd)

    def embedding_gradient(record, lo, hi, worker):
        r = int64_at(record)
        n_codes, n_out, n_rows, C, DZ = r[R.N_CODED], r[R.N_OUT], r[R.DZ_ROWS], r[R.C], r[R.DZ]
        c_items, c_last, c_width = r[R.C_PANEL_BYTES] // item, r[R.N_PANELS] - 1, r[R.LAST_WIDTH]
        last, width, dz = (n_out - 1) // panel_width, r[R.TABLE_LAST_WIDTH], items(DZ)
        for i in range(lo, hi):
            for k in range(n_codes):
                j = i * n_codes + k
                copy(n_out, C, i, k * n_out, c_last, c_items, c_width, DZ, j, 0, last, panel_width * n_rows, width)
                for column in range(n_out, last * panel_width + width):
                    dz[place(j, column, panel_width, last, panel_width * n_rows, width)] = T(0)

    return embedding_gradient


def embedding_codes(dtype: str, simd: Simd):
    """One unit: the batch's codes in the order of the table's rows, and of equal ones in the batch's, as
    `batch_columns` leaves entries.
    """
    items, T = items_at[dtype], getattr(np, dtype)

    def embedding_codes(record, lo, hi, worker):
        r = int64_at(record)
        n, depth = int64_at(worker)[R.ROWS] * r[R.N_CODED], r[R.DEPTH]
        codes, starts = int64_at(r[R.TABLE_ROWS]), int64_at(r[R.STARTS])
        places, values = int64_at(r[R.ENTRY_ROWS]), items(r[R.ENTRY_VALUES])
        for row in range(depth + 2):
            starts[row] = 0
        for e in range(n):
            starts[codes[e] + 2] += 1
            values[e] = T(1)
        for row in range(depth):
            starts[row + 2] += starts[row + 1]
        for e in range(n):
            to = starts[codes[e] + 1]  # in the end, where the next row's begin
            places[to], starts[codes[e] + 1] = e, to + 1

    return embedding_codes
