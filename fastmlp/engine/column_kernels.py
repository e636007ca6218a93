"""Kernels of products with a single column, whose rows are neighbours: a unit that stands alone, such as a regression's
output. A register tile would fill one lane of a vector.

Forward, a number is the inner product of a row of A and the weights. Column k of A goes into the sum k mod 16, and the
sixteen sums are added in pairs. So the bits depend on the depth alone, not on the panels, whose width is the vector
unit's, nor on the other rows.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .. import records as R
from ..simd import ITEMSIZE, Simd
from .ir import IP, Vectors, call, i64, int64_at, items_at, tile_of_columns
from .products import BATCH_CHUNK, by_width, shapes_of, update_block
from .sums import BLOCK as SUMS, array_sum, in_pairs

CHAINS = 8  # vectors of sums at a time: a core has about as many multiply-adds under way


def _dots_of(dtype: str, simd: Simd, rows: int):
    """An intrinsic: c[row + i] = start + sum_k A[row + i, k] b[k] for i < rows; A as in `tile_of_rows`, `start` is the
    number at `init` (0: zero)."""
    item, panel, least = ITEMSIZE[dtype], simd.panel(dtype), min(simd.widths(dtype))
    lanes = simd.vector_bytes // item
    span = max(SUMS, panel)  # columns of whole panels in which every sum gets equally many

    @intrinsic
    def dots(typingctx, a, row, panel_bytes, stride_last, b, depth, c, init):
        def codegen(context, builder, sig, args):
            a, row, panel_bytes, stride_last, b, depth, c, init = args
            v = Vectors(builder, dtype, lanes)
            sums = [[cgutils.alloca_once_value(builder, v.zeros) for _ in range(SUMS // lanes)] for _ in range(rows)]

            def add(panel_index, stride, p, k, first, load):
                """To the sums, a vector of each row: column k of a panel, the p-th of a span, with b's from `first`."""
                at = builder.add(a, builder.mul(panel_index, panel_bytes))
                at = builder.add(at, builder.add(builder.mul(row, stride), i64(k * item)))
                column = p * panel + k
                y = load(builder.add(builder.add(b, builder.mul(first, i64(item))), i64(column * item)))
                for i, own in enumerate(sums):
                    x = load(builder.add(at, builder.mul(stride, i64(i))))
                    total = own[column % SUMS // lanes]
                    builder.store(v.fma(x, y, builder.load(total)), total)

            n_spans, n_panels = builder.sdiv(depth, i64(span)), span // panel
            with cgutils.for_range(builder, n_spans) as loop:
                for p in range(n_panels):
                    index = builder.add(builder.mul(loop.index, i64(n_panels)), i64(p))
                    for k in range(0, panel, lanes):
                        add(index, i64(panel * item), p, k, builder.mul(loop.index, i64(span)), v.load)
            done = builder.mul(n_spans, i64(span))
            left, last = builder.sub(depth, done), builder.sdiv(builder.sub(depth, i64(1)), i64(panel))
            for p in range(n_panels):
                index = builder.add(builder.mul(n_spans, i64(n_panels)), i64(p))
                stride = builder.select(builder.icmp_signed("==", index, last), stride_last, i64(panel * item))
                for k in range(0, panel, lanes):
                    n = builder.sub(left, i64(p * panel + k))
                    with builder.if_then(builder.icmp_signed(">", n, i64(0))):
                        load = v.load_first if lanes > least else v.load_and_keep_first
                        add(index, stride, p, k, done, lambda address, load=load, n=n: load(address, n))

            total = in_pairs(builder, [[builder.load(block) for block in own] for own in sums], builder.fadd)
            out = Vectors(builder, dtype, rows)
            start = cgutils.alloca_once_value(builder, out.zeros)
            with builder.if_then(builder.icmp_signed("!=", init, i64(0))):
                builder.store(out.broadcast(init), start)
            out.store(builder.fadd(builder.load(start), total), builder.add(c, builder.mul(row, i64(item))))
            return context.get_dummy_value()

        return types.void(*[IP] * 8), codegen

    return dots


def column_product(dtype: str, simd: Simd):
    """`product` with one column, for rows lo..hi."""
    item = ITEMSIZE[dtype]
    several = CHAINS * simd.vector_bytes // (SUMS * item)
    of_several, of_one = _dots_of(dtype, simd, several), _dots_of(dtype, simd, 1)

    def column_product(record, lo, hi, worker):
        r = int64_at(record)
        a, panel_bytes, stride_last = r[R.A], r[R.A_PANEL_BYTES], r[R.A_STRIDE_LAST]
        b, depth, c, init, i = r[R.B], r[R.DEPTH], r[R.C], r[R.INIT], lo
        while i + several <= hi:
            of_several(a, i, panel_bytes, stride_last, b, depth, c, init)
            i += several
        while i < hi:
            of_one(a, i, panel_bytes, stride_last, b, depth, c, init)
            i += 1
        if r[R.EPILOGUE] != 0:
            int64_at(worker)[R.EPILOGUE_NUMBER] = r[R.NUMBER]
            call(r[R.EPILOGUE], c + lo * item, r[R.OTHER] + lo * item, hi - lo, worker)

    return column_product


def few_weight_gradient(dtype: str, simd: Simd):
    """`weight_gradient` of one or two columns: dz^T A is made of sums of rows of A, by full vectors. Unit p is a panel
    of A."""
    item, panel, items, T = ITEMSIZE[dtype], simd.panel(dtype), items_at[dtype], getattr(np, dtype)
    shapes, least = shapes_of(dtype, simd, column=True), min(simd.widths(dtype))
    row_of = by_width([tile_of_columns(dtype, 1, *shape[1:]) for shape in shapes], [shape[0] for shape in shapes])

    def few_weight_gradient(record, lo, hi, worker):
        r, w = int64_at(record), int64_at(worker)
        rows, depth, width, n_out, scratch = w[R.ROWS], r[R.DEPTH], r[R.LAST_WIDTH], r[R.N_OUT], w[R.SCRATCH]
        sums = scratch + panel * width * item
        for p in range(lo, hi):
            n, at = min(panel, depth - p * panel), p * panel * width * item
            is_last = p == r[R.N_BLOCKS] - 1
            a_width = r[R.A_STRIDE_LAST] // item if is_last else panel
            for first in range(0, rows, BATCH_CHUNK):
                k = min(BATCH_CHUNK, rows - first)
                a = r[R.A] + p * r[R.A_PANEL_BYTES] + first * a_width * item
                for j in range(n_out):  # what lies in A's padding is summed, too
                    dz = r[R.C] + (first * width + j) * item
                    row_of(a_width, dz, width * item, a, k, sums + j * panel * item, first)
            out = scratch if r[R.GRADIENT] == 0 else r[R.GRADIENT] + at
            g, one, two = items(out), items(sums), items(sums + panel * item)
            if width == 1:
                for k in range(n):
                    g[k] = one[k]
            else:
                for k in range(n):
                    g[k * least], g[k * least + 1] = one[k], two[k]
                    for j in range(2, least):
                        g[k * least + j] = T(0)
            update_block(r, worker, r[R.W] + at, out, n * width)
            if r[R.WT] != 0:
                wt_width = r[R.WT_LAST_WIDTH] if is_last else panel
                weights, to = items(r[R.W] + at), r[R.WT] + p * panel * n_out * item
                first, second = items(to), items(to + wt_width * item)
                if width == 1:
                    for k in range(n):
                        first[k] = weights[k]
                else:
                    for k in range(n):
                        first[k], second[k] = weights[k * least], weights[k * least + 1]

    return few_weight_gradient


def column_bias_gradient(dtype: str, simd: Simd):
    """`bias_gradient` of one column, whose sum over the rows it is."""
    items, T, column_sum = items_at[dtype], getattr(np, dtype), array_sum(dtype, simd)

    def column_bias_gradient(record, lo, hi, worker):
        r, w = int64_at(record), int64_at(worker)
        for _ in range(lo, hi):
            out = w[R.SCRATCH] if r[R.GRADIENT] == 0 else r[R.GRADIENT]
            items(out)[0] = T(column_sum(r[R.C], 0, T(0), w[R.ROWS]))
            update_block(r, worker, r[R.W], out, 1)

    return column_bias_gradient
