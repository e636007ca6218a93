"""Kernels that bring rows of X into a batch, converted, in panels; and logits out of their panels."""

from __future__ import annotations

import numpy as np
from numba import njit

from .. import records as R
from ..simd import ITEMSIZE, Simd
from .elementary import INLINE, SCALAR
from .ir import (
    atomic_store,
    convert_vectors,
    float64_at,
    indices_at,
    int32_at,
    int64_at,
    items_at,
    numbers_at,
    prefetch,
    store_zeros,
)

AHEAD = 16  # rows: shuffled ones lie anywhere, and a core waits for a few of them at a time only
LINE, MOST = 64, 256  # bytes of a cache line, and of a row that is asked for: of longer ones, the processor sees more


@njit(**SCALAR)
def data_row(in_order, first, index, i):
    """Where row i of the batch is in the data. `in_order` and `first` are read from the worker's record once: for all
    that the compiler knows, whatever a kernel writes could be that record."""
    return first + i if in_order else index[i]


@njit(**SCALAR)
def prefetch_row(address, n_bytes):
    """Ask for a short row of the data."""
    if n_bytes <= MOST:
        for at in range(0, n_bytes, LINE):
            prefetch(address + at)
        prefetch(address + n_bytes - 1)


@njit(**SCALAR)
def place(i, column, panel_width, last_panel, panel_items, last_width):
    """Where row i of a column lies in a matrix in panels: items from its start."""
    p = column // panel_width
    width = panel_width if p < last_panel else last_width
    return p * panel_items + i * width + column - p * panel_width


def copy_columns(source: str, dtype: str, simd: Simd):
    """A function that brings `n` numbers into a row of a panel, converted and scaled: what lies beyond stays.

    By vectors, of which the last two may overlap: a loop that LLVM vectorises asks first whether the two places
    overlap, and took 20 ns for 4 numbers.
    """
    item, itemsize = ITEMSIZE[dtype], np.dtype(source).itemsize
    T, items = getattr(np, dtype), items_at[dtype]
    source_at = numbers_at[source]
    panel_width, lanes = simd.panel(dtype), simd.vector_bytes // item
    whole = convert_vectors(source, dtype, 2, lanes)

    def two_of(size):
        """n numbers, size <= n <= 2 size."""
        convert = convert_vectors(source, dtype, 1, size)

        @njit(**INLINE)
        def two(x, out, n, scaled, scale, offset):
            convert(x, out, scaled, scale, offset)
            convert(x + (n - size) * itemsize, out + (n - size) * item, scaled, scale, offset)

        return two

    # sizes that this vector has not are beyond a panel, and never come
    sizes = [lanes >> k for k in range(4) if lanes >> k >= 2]
    one, half, quarter, eighth = ([two_of(size) for size in sizes] * 4)[:4]
    n_one, n_half, n_quarter, n_eighth = (sizes + [panel_width + 1] * 3)[:4]

    @njit(**INLINE)
    def copy(x, out, n, scaled, scale, offset):
        if n == panel_width:
            whole(x, out, scaled, scale, offset)
        elif n >= n_one:
            one(x, out, n, scaled, scale, offset)
        elif n >= n_half:
            half(x, out, n, scaled, scale, offset)
        elif n >= n_quarter:
            quarter(x, out, n, scaled, scale, offset)
        elif n >= n_eighth:
            eighth(x, out, n, scaled, scale, offset)
        else:
            given, to = source_at(x), items(out)
            for k in range(n):
                to[k] = T(given[k]) if scaled == 0 else T(given[k]) * scale + offset

    return copy


def gather_kernel(source: str):
    def build(dtype, simd):
        item, panel_width = ITEMSIZE[dtype], simd.panel(dtype)
        T, itemsize, copy = getattr(np, dtype), np.dtype(source).itemsize, copy_columns(source, dtype, simd)
        whole = convert_vectors(source, dtype, 2, simd.vector_bytes // item)
        least = min(simd.widths(dtype))
        clear = store_zeros(dtype, least)

        @njit(**SCALAR)
        def bring(x, out, n_last, last_width, scaling, scale, offset):
            """The last panel of a row, all of a narrow one; the loops around it are the faster for being several."""
            if n_last < last_width:
                for k in range(0, last_width, least):
                    clear(out + k * item)
            copy(x, out, n_last, scaling, scale, offset)

        def gather(record, lo, hi, worker):
            r, w = int64_at(record), int64_at(worker)
            index, n, scaling = int64_at(w[R.INDEX]), r[R.N_FEATURES], r[R.SCALING]
            X, stride, C, first, in_order = r[R.X], r[R.X_STRIDE], r[R.C], w[R.FIRST], w[R.INDEX] == 0
            n_bytes = n * itemsize
            n_whole, panel_bytes, last_width = r[R.N_PANELS] - 1, r[R.C_PANEL_BYTES], r[R.LAST_WIDTH]
            n_last = n - n_whole * panel_width
            scale, offset = T(1), T(0)
            if scaling != 0:
                scale, offset = T(float64_at(scaling)[0]), T(float64_at(scaling)[1])
            asked = lo if in_order else hi  # the processor sees the next rows coming
            for i in range(lo, min(lo + AHEAD, asked)):
                prefetch_row(X + index[i] * stride, n_bytes)
            if n_whole > 0:
                upcoming = X + data_row(in_order, first, index, lo) * stride if lo < hi else X
                for i in range(lo, hi):
                    if i + AHEAD < asked:
                        prefetch_row(X + index[i + AHEAD] * stride, n_bytes)
                    x, upcoming = upcoming, X + data_row(in_order, first, index, min(i + 1, hi - 1)) * stride
                    ahead, out = upcoming, C  # a line for each that is read: all at once would hold up the rest
                    for _ in range(n_whole):
                        for at in range(0, panel_width * itemsize, LINE):
                            prefetch(ahead + at)
                        whole(x, out + i * panel_width * item, scaling, scale, offset)
                        x, ahead, out = x + panel_width * itemsize, ahead + panel_width * itemsize, out + panel_bytes
                    bring(x, out + i * last_width * item, n_last, last_width, scaling, scale, offset)
            elif in_order:
                for i in range(lo, hi):
                    x = X + (first + i) * stride
                    bring(x, C + i * last_width * item, n_last, last_width, scaling, scale, offset)
            else:
                for i in range(lo, hi):
                    if i + AHEAD < hi:
                        prefetch_row(X + index[i + AHEAD] * stride, n_bytes)
                    x = X + index[i] * stride
                    bring(x, C + i * last_width * item, n_last, last_width, scaling, scale, offset)

        return gather

    return build


def finite_kernel(source: str):
    """Whether rows of X are finite: the control block takes note of one that is not. By their exponents, for the
    largest of integers is found by vectors, and a sum of numbers might overflow."""
    n_mantissa, exponent = (23, 0xFF) if source == "float32" else (52, 0x7FF)
    bits_at, I = (int32_at, np.int32) if source == "float32" else (int64_at, np.int64)
    shift, mask, zero = I(n_mantissa), I(exponent), I(0)

    def build(dtype, simd):
        def finite(record, lo, hi, worker):
            r, w = int64_at(record), int64_at(worker)
            n, X, stride, first = r[R.N_FEATURES], r[R.X], r[R.X_STRIDE], w[R.FIRST]
            most = zero
            for i in range(lo, hi):
                x = bits_at(X + (first + i) * stride)
                for k in range(n):
                    most = max(most, I((x[k] >> shift) & mask))
            if most == mask:
                atomic_store(w[R.CONTROL] + 8 * R.NOT_FINITE, 1)

        return finite

    return build


def gather_csr_kernel(source: str, index_type: str):
    def build(dtype, simd):
        item, panel_width = ITEMSIZE[dtype], simd.panel(dtype)
        T, items = getattr(np, dtype), items_at[dtype]
        source_at, index_at = numbers_at[source], indices_at[index_type]

        def gather_csr(record, lo, hi, worker):
            r, w = int64_at(record), int64_at(worker)
            order, first = int64_at(w[R.INDEX]), w[R.FIRST]
            data, indices, indptr = source_at(r[R.X]), index_at(r[R.INDICES]), index_at(r[R.INDPTR])
            last, last_width, panel_bytes = r[R.N_PANELS] - 1, r[R.LAST_WIDTH], r[R.C_PANEL_BYTES]
            out, panel_items = items(r[R.C]), panel_bytes // item
            scale, offset = T(1), T(0)
            if r[R.SCALING] != 0:
                scale, offset = T(float64_at(r[R.SCALING])[0]), T(float64_at(r[R.SCALING])[1])
            for j in range(last + 1):
                width = panel_width if j < last else last_width
                panel = items(r[R.C] + j * panel_bytes + lo * width * item)
                for k in range((hi - lo) * width):
                    panel[k] = T(0)
            for i in range(lo, hi):
                row = first + i if w[R.INDEX] == 0 else order[i]
                for e in range(indptr[row], indptr[row + 1]):  # entries given twice add up, as in SciPy
                    out[place(i, indices[e], panel_width, last, panel_items, last_width)] += T(data[e])
            if r[R.SCALING] != 0:
                for j in range(last + 1):
                    width = panel_width if j < last else last_width
                    panel = items(r[R.C] + j * panel_bytes + lo * width * item)
                    for k in range((hi - lo) * width):
                        panel[k] = panel[k] * scale + offset

        return gather_csr

    return build


def scatter(dtype: str, simd: Simd):
    """Rows lo..hi of the logits into a row-major array."""
    item, panel_width, items = ITEMSIZE[dtype], simd.panel(dtype), items_at[dtype]

    def scatter(record, lo, hi, worker):
        r, w = int64_at(record), int64_at(worker)
        n_panels, n_out = r[R.N_PANELS], r[R.N_OUT]
        for j in range(n_panels):
            width = panel_width if j < n_panels - 1 else r[R.LAST_WIDTH]
            columns = min(width, n_out - j * panel_width)
            for i in range(lo, hi):
                z = items(r[R.C] + j * r[R.C_PANEL_BYTES] + i * width * item)
                out = items(r[R.OUT] + (w[R.FIRST] + i) * r[R.OUT_STRIDE] + j * panel_width * item)
                for k in range(columns):
                    out[k] = z[k]

    return scatter
