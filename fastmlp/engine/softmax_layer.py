"""Kernels of a softmax between layers, for rows lo..hi; padding becomes 0."""

from __future__ import annotations

import numpy as np

from .. import records as R
from ..simd import ITEMSIZE, Simd
from .elementary import functions
from .ir import int64_at, items_at
from .sums import row_max, row_sum


def softmax_forward(dtype: str, simd: Simd):
    """C = softmax of each row of IN; the exponentials many rows at a time."""
    item, panel_width, items = ITEMSIZE[dtype], simd.panel(dtype), items_at[dtype]
    T, exp = getattr(np, dtype), functions(dtype).exp
    row_top, row_total = row_max(dtype, simd), row_sum(dtype, simd, "x")
    nothing = T(-1e4)  # exp of it is 0

    def softmax_forward(record, lo, hi, worker):
        r = int64_at(record)
        n_panels, n_out, bytes_, last = r[R.N_PANELS], r[R.N_OUT], r[R.C_PANEL_BYTES], r[R.LAST_WIDTH]
        for i in range(lo, hi):
            top = row_top(r[R.IN], i, bytes_, n_panels - 1, last, n_out)
            for j in range(n_panels):
                width = panel_width if j < n_panels - 1 else last
                columns, at = min(width, n_out - j * panel_width), j * bytes_ + i * width * item
                z, a = items(r[R.IN] + at), items(r[R.C] + at)
                for k in range(columns):
                    a[k] = z[k] - top
                for k in range(columns, width):
                    a[k] = nothing
        for j in range(n_panels):  # the rows of a panel are neighbours
            width = panel_width if j < n_panels - 1 else last
            a = items(r[R.C] + j * bytes_ + lo * width * item)
            for k in range((hi - lo) * width):
                a[k] = exp(a[k])
        for i in range(lo, hi):
            share = T(1 / row_total(r[R.C], 0, 0, i, bytes_, n_panels - 1, last, T(0), 0, n_out))
            for j in range(n_panels):
                width = panel_width if j < n_panels - 1 else last
                a = items(r[R.C] + j * bytes_ + i * width * item)
                for k in range(width):
                    a[k] = a[k] * share

    return softmax_forward


def softmax_backward(dtype: str, simd: Simd):
    """C = a (C - sum over the row of C a), with a = OTHER, the layer's output."""
    item, panel_width, items = ITEMSIZE[dtype], simd.panel(dtype), items_at[dtype]
    T, row_products = getattr(np, dtype), row_sum(dtype, simd, "xy")

    def softmax_backward(record, lo, hi, worker):
        r = int64_at(record)
        n_panels, n_out, stride, last = r[R.N_PANELS], r[R.N_OUT], r[R.C_PANEL_BYTES], r[R.LAST_WIDTH]
        for i in range(lo, hi):
            mean = T(row_products(r[R.C], 0, r[R.OTHER], i, stride, n_panels - 1, last, T(0), 0, n_out))
            for j in range(n_panels):
                width = panel_width if j < n_panels - 1 else last
                columns, at = min(width, n_out - j * panel_width), j * stride + i * width * item
                g, a = items(r[R.C] + at), items(r[R.OTHER] + at)
                for k in range(columns):
                    g[k] = a[k] * (g[k] - mean)
                for k in range(columns, width):
                    g[k] = T(0)

    return softmax_backward
