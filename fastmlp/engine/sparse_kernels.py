"""Kernels of a first layer that multiplies sparse rows of X as they are: its product, and its weights' gradient.

What rows of X have is read as SciPy's CSR has it. For the gradient, the entries of the batch are sorted by their
columns first, so that those of an input lie side by side: CSC.
"""

from __future__ import annotations

import numpy as np

from .. import records as R
from ..simd import ITEMSIZE, Simd
from .ir import call, indices_at, int64_at, items_at, numbers_at, sum_of_rows
from .products import by_width, shapes_of, update_block
from .rows import AHEAD, data_row, prefetch_row

PIECE = 128  # entries of a row that are converted at a time, into the scratch of a worker


def _sum_rows(dtype: str, simd: Simd):
    """`sum_of_rows` for panels of every width, and for a column."""
    shapes = shapes_of(dtype, simd, column=True)
    sums = [sum_of_rows(dtype, vectors, lanes) for _, vectors, lanes in shapes]
    return by_width(sums, [shape[0] for shape in shapes])


def sparse_product_kernel(source: str, index_type: str):
    """C = epilogue(init + X B) for rows lo..hi of the batch."""

    def build(dtype, simd):
        item, panel_width, sum_rows = ITEMSIZE[dtype], simd.panel(dtype), _sum_rows(dtype, simd)
        T, items, source_at, index_at = getattr(np, dtype), items_at[dtype], numbers_at[source], indices_at[index_type]

        def sparse_product(record, lo, hi, worker):
            r, w = int64_at(record), int64_at(worker)
            order, first, in_order, scratch = int64_at(w[R.INDEX]), w[R.FIRST], w[R.INDEX] == 0, w[R.SCRATCH]
            data, indices, indptr = source_at(r[R.X]), index_at(r[R.INDICES]), index_at(r[R.INDPTR])
            depth, n_panels, init, B, C = r[R.DEPTH], r[R.N_PANELS], r[R.INIT], r[R.B], r[R.C]
            panel_bytes, last_width = r[R.C_PANEL_BYTES], r[R.LAST_WIDTH]
            places, values = int64_at(scratch), items(scratch + 8 * PIECE)
            w[R.EPILOGUE_NUMBER] = r[R.NUMBER]
            for i in range(lo, hi):
                row = data_row(in_order, first, order, i)
                begin, end, more = indptr[row], indptr[row + 1], 0
                while more == 0 or begin < end:
                    n = min(PIECE, end - begin)
                    for e in range(n):
                        places[e], values[e] = indices[begin + e], T(data[begin + e])
                    for j in range(n_panels):
                        width = panel_width if j < n_panels - 1 else last_width
                        bias = init + j * panel_width * item if init != 0 else 0
                        b, c = B + j * panel_width * depth * item, C + j * panel_bytes + i * width * item
                        sum_rows(width, scratch + 8 * PIECE, scratch, n, b, c, bias, more)
                    begin, more = begin + n, 1
            if r[R.EPILOGUE] != 0:
                for j in range(n_panels):
                    width = panel_width if j < n_panels - 1 else last_width
                    at = j * panel_bytes + lo * width * item
                    call(r[R.EPILOGUE], C + at, r[R.OTHER] + at, (hi - lo) * width, worker)

        return sparse_product

    return build


def batch_columns_kernel(source: str, index_type: str):
    """Units lo..hi: a share of the batch's rows, whose entries are sorted by their columns, and in each in the order of
    the rows. How many shares there are depends on sizes alone, so bits do not depend on the number of workers.
    """

    def build(dtype, simd):
        T, items, source_at, index_at = getattr(np, dtype), items_at[dtype], numbers_at[source], indices_at[index_type]
        size, index_size = np.dtype(source).itemsize, np.dtype(index_type).itemsize

        def batch_columns(record, lo, hi, worker):
            r, w = int64_at(record), int64_at(worker)
            order, first, in_order, rows = int64_at(w[R.INDEX]), w[R.FIRST], w[R.INDEX] == 0, w[R.ROWS]
            data, indices, indptr = source_at(r[R.X]), index_at(r[R.INDICES]), index_at(r[R.INDPTR])
            places, values = int64_at(r[R.ENTRY_ROWS]), items(r[R.ENTRY_VALUES])
            n_features, n_shares = r[R.N_FEATURES], r[R.ROW_SHARES]
            for share in range(lo, hi):
                begin, end, before = rows * share // n_shares, rows * (share + 1) // n_shares, 0
                for i in range(begin):
                    row = data_row(in_order, first, order, i)
                    before += indptr[row + 1] - indptr[row]
                starts = int64_at(r[R.STARTS] + share * (n_features + 2) * 8)
                for column in range(n_features + 2):
                    starts[column] = 0
                starts[0] = starts[1] = before
                for i in range(begin, end):
                    if i + AHEAD < end:
                        row = data_row(in_order, first, order, i + AHEAD)
                        at, n = indptr[row], indptr[row + 1] - indptr[row]
                        prefetch_row(r[R.INDICES] + at * index_size, n * index_size)
                        prefetch_row(r[R.X] + at * size, n * size)
                    row = data_row(in_order, first, order, i)
                    for e in range(indptr[row], indptr[row + 1]):
                        starts[indices[e] + 2] += 1
                for column in range(n_features):
                    starts[column + 2] += starts[column + 1]
                for i in range(begin, end):
                    row = data_row(in_order, first, order, i)
                    for e in range(indptr[row], indptr[row + 1]):
                        to = starts[indices[e] + 1]  # in the end, where the next column begins
                        places[to], values[to], starts[indices[e] + 1] = i, T(data[e]), to + 1

        return batch_columns

    return build


def sparse_gradient(dtype: str, simd: Simd):
    """Units lo..hi: a block of W's gradient, X^T dz over the sorted entries of the batch, into scratch or to where it
    is kept; then what `weight_gradient` does with it."""
    item, panel_width, sum_rows = ITEMSIZE[dtype], simd.panel(dtype), _sum_rows(dtype, simd)

    def sparse_gradient(record, lo, hi, worker):
        r, scratch = int64_at(record), int64_at(worker)[R.SCRATCH]
        depth, n_blocks, n_panels, n_shares = r[R.DEPTH], r[R.N_BLOCKS], r[R.N_PANELS], r[R.ROW_SHARES]
        for unit in range(lo, hi):
            j, p = unit // n_blocks, unit % n_blocks  # blocks follow each other in memory
            width = panel_width if j < n_panels - 1 else r[R.LAST_WIDTH]
            n, dz = min(panel_width, depth - p * panel_width), r[R.C] + j * r[R.C_PANEL_BYTES]
            at = (j * panel_width * depth + p * panel_width * width) * item
            out = scratch if r[R.GRADIENT] == 0 else r[R.GRADIENT] + at
            for share in range(n_shares):
                starts = int64_at(r[R.STARTS] + (share * (depth + 2) + p * panel_width) * 8)
                for k in range(n):
                    begin, to = starts[k], out + k * width * item
                    values, places = r[R.ENTRY_VALUES] + begin * item, r[R.ENTRY_ROWS] + 8 * begin
                    sum_rows(width, values, places, starts[k + 1] - begin, dz, to, 0, share)
            update_block(r, worker, r[R.W] + at, out, n * width)

    return sparse_gradient
