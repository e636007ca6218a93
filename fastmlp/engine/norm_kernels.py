"""Kernels of the normalisation layers: statistics of rows (in row phases) and of the batch (units of a tile phase).

The gradient of the scale is left to `bias_gradient`: backward, da times the normed value takes the place of the normed
value, and its sums over the rows are that gradient. Statistics add up in float64, by `sums` or in the order of
rows, so they depend neither on panels nor on who computes them.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from .. import records as R
from ..simd import ITEMSIZE, Simd
from .elementary import INLINE
from .ir import call, clear_behind, float64_at, int64_at, items_at
from .sums import sums_of_columns, sums_of_rows


def row_norm(dtype: str, simd: Simd):
    """Rows lo..hi: normed = (z - mean) / sqrt(variance + epsilon) over each group of columns, C = scale normed + shift,
    then the epilogue. Without CENTERED the mean counts as 0.
    """
    item, panel, items, T = ITEMSIZE[dtype], simd.panel(dtype), items_at[dtype], getattr(np, dtype)
    row_totals, row_squares = sums_of_rows(dtype, simd, "x"), sums_of_rows(dtype, simd, "xx", shifted=True)
    clear = clear_behind(dtype, min(simd.widths(dtype)))

    @njit(**INLINE)
    def finish(z, normed, out, weight, shift, width, first, last, lo, hi, groups, means, scales):
        for i in range(lo, hi):
            at = i * width * item
            row, x, c = items(z + at), items(normed + at), items(out + at)
            mean, scale = T(means[i * groups]), T(scales[i * groups])
            if shift != 0:
                for k in range(first, last):
                    value = (row[k] - mean) * scale
                    x[k] = value
                    c[k] = value * items(weight)[k] + items(shift)[k]
            else:
                for k in range(first, last):
                    value = (row[k] - mean) * scale
                    x[k] = value
                    c[k] = value * items(weight)[k]

    def row_norm(record, lo, hi, worker):
        r = int64_at(record)
        n, groups, n_panels, stride = r[R.N_OUT], r[R.GROUPS], r[R.N_PANELS], r[R.C_PANEL_BYTES]
        size, epsilon, last_width = n // groups, float64_at(record)[R.EPSILON], r[R.LAST_WIDTH]
        for g in range(groups):
            at, begin, end = r[R.STATISTICS] + 8 * g, g * size, (g + 1) * size
            means, scales = float64_at(at), float64_at(at + r[R.STATISTICS_BYTES])
            if r[R.CENTERED] != 0:
                row_totals(
                    means, groups, r[R.IN], 0, 0, stride, n_panels - 1, last_width, means, begin, end, lo, hi
                )  # fmt: skip
            for i in range(lo, hi):
                means[i * groups] = means[i * groups] / size if r[R.CENTERED] != 0 else 0.0
            row_squares(scales, groups, r[R.IN], 0, 0, stride, n_panels - 1, last_width, means, begin, end, lo, hi)
            for i in range(lo, hi):
                scales[i * groups] = 1 / math.sqrt(scales[i * groups] / size + epsilon)
            for j in range(begin // panel, (end - 1) // panel + 1):
                width, at, columns = panel if j < n_panels - 1 else last_width, j * stride, j * panel
                shift = r[R.SHIFT] + columns * item if r[R.SHIFT] != 0 else 0
                finish(
                    r[R.IN] + at, r[R.NORMED] + at, r[R.C] + at, r[R.W] + columns * item, shift, width,
                    max(0, begin - columns), min(panel, end - columns), lo, hi, groups, means, scales,
                )  # fmt: skip
        int64_at(worker)[R.EPILOGUE_NUMBER] = r[R.NUMBER]
        for j in range(n_panels):
            width, columns = panel if j < n_panels - 1 else last_width, n - j * panel
            at = j * stride + lo * width * item
            if columns < width:
                for i in range(hi - lo):
                    clear(r[R.NORMED] + at + i * width * item, columns, width)
                    clear(r[R.C] + at + i * width * item, columns, width)
            if r[R.EPILOGUE] != 0:
                call(r[R.EPILOGUE], r[R.C] + at, r[R.OTHER] + at, (hi - lo) * width, worker)

    return row_norm


def row_norm_gradient(dtype: str, simd: Simd):
    """Rows lo..hi, with h = scale da: C = (h - mean(h) - normed mean(h normed)) / sqrt(variance + epsilon), then normed
    becomes da normed. Without CENTERED the first mean counts as 0.
    """
    item, panel, items, T = ITEMSIZE[dtype], simd.panel(dtype), items_at[dtype], getattr(np, dtype)

    row_totals, row_products = sums_of_rows(dtype, simd, "xw"), sums_of_rows(dtype, simd, "xwy")
    clear = clear_behind(dtype, min(simd.widths(dtype)))

    @njit(**INLINE)
    def finish(da, normed, dz, scale, width, first, last, lo, hi, groups, sums, products, scales):
        for i in range(lo, hi):
            d, x, out = items(da + i * width * item), items(normed + i * width * item), items(dz + i * width * item)
            a, b, s = T(sums[i * groups]), T(products[i * groups]), T(scales[i * groups])
            for k in range(first, last):
                xk, dk = x[k], d[k]
                out[k] = s * (dk * scale[k] - a - xk * b)
                x[k] = dk * xk

    def row_norm_gradient(record, lo, hi, worker):
        r = int64_at(record)
        n, groups, n_panels, stride = r[R.N_OUT], r[R.GROUPS], r[R.N_PANELS], r[R.C_PANEL_BYTES]
        size, last_width = n // groups, r[R.LAST_WIDTH]
        for g in range(groups):
            at, begin, end = r[R.STATISTICS] + 8 * g, g * size, (g + 1) * size
            sums, scales = float64_at(at), float64_at(at + r[R.STATISTICS_BYTES])
            products = float64_at(at + 2 * r[R.STATISTICS_BYTES])
            if r[R.CENTERED] != 0:
                row_totals(
                    sums, groups, r[R.IN], r[R.W], 0, stride, n_panels - 1, last_width, sums, begin, end, lo, hi
                )  # fmt: skip
            row_products(
                products, groups, r[R.IN], r[R.W], r[R.NORMED], stride, n_panels - 1, last_width, sums,
                begin, end, lo, hi,
            )  # fmt: skip
            for i in range(lo, hi):
                sums[i * groups] = sums[i * groups] / size if r[R.CENTERED] != 0 else 0.0
                products[i * groups] /= size
            for j in range(begin // panel, (end - 1) // panel + 1):
                width, at, columns = panel if j < n_panels - 1 else last_width, j * stride, j * panel
                finish(
                    r[R.IN] + at, r[R.NORMED] + at, r[R.C] + at, items(r[R.W] + columns * item), width,
                    max(0, begin - columns), min(panel, end - columns), lo, hi, groups, sums, products, scales,
                )  # fmt: skip
        columns, at = n - (n_panels - 1) * panel, (n_panels - 1) * stride
        for i in range(lo, hi):
            clear(r[R.NORMED] + at + i * last_width * item, columns, last_width)
            clear(r[R.C] + at + i * last_width * item, columns, last_width)

    return row_norm_gradient


def batch_norm(dtype: str, simd: Simd):
    """Units lo..hi, panels of columns: normed = (z - mean) / sqrt(variance + epsilon) over all rows of the batch,
    C = scale normed + shift, then the epilogue. Keeps the means, the variances and 1 / sqrt(...) in STATISTICS.
    """
    item, panel, items, T = ITEMSIZE[dtype], simd.panel(dtype), items_at[dtype], getattr(np, dtype)
    add_values, add_squares = sums_of_columns(dtype, simd, "values"), sums_of_columns(dtype, simd, "squares")

    def batch_norm(record, lo, hi, worker):
        r, w = int64_at(record), int64_at(worker)
        rows, n_panels, stride, sums = w[R.ROWS], r[R.N_PANELS], r[R.C_PANEL_BYTES], float64_at(w[R.SCRATCH])
        epsilon, bytes_ = float64_at(record)[R.EPSILON], r[R.STATISTICS_BYTES]
        w[R.EPILOGUE_NUMBER] = r[R.NUMBER]
        for j in range(lo, hi):
            width, x = panel if j < n_panels - 1 else r[R.LAST_WIDTH], r[R.IN] + j * stride
            at = r[R.STATISTICS] + j * panel * item
            means, variances, scales = items(at), items(at + bytes_), items(at + 2 * bytes_)
            weight, shift = items(r[R.W] + j * panel * item), items(r[R.SHIFT] + j * panel * item)
            add_values(w[R.SCRATCH], x, 0, 0, width, rows)
            for k in range(width):
                means[k] = T(sums[k] / rows)
            add_squares(w[R.SCRATCH], x, 0, at, width, rows)
            for k in range(width):
                variances[k] = T(sums[k] / rows)
                scales[k] = T(1 / math.sqrt(sums[k] / rows + epsilon))
            for i in range(rows):
                z, normed = items(x + i * width * item), items(r[R.NORMED] + j * stride + i * width * item)
                out = items(r[R.C] + j * stride + i * width * item)
                for k in range(width):
                    value = (z[k] - means[k]) * scales[k]
                    normed[k] = value
                    out[k] = value * weight[k] + shift[k]
            if r[R.EPILOGUE] != 0:
                call(r[R.EPILOGUE], r[R.C] + j * stride, r[R.OTHER] + j * stride, rows * width, worker)

    return batch_norm


def batch_norm_gradient(dtype: str, simd: Simd):
    """Units lo..hi: C = scale / sqrt(variance + epsilon) (da - mean(da) - normed mean(da normed)), then normed
    becomes da normed.
    """
    item, panel, items, T = ITEMSIZE[dtype], simd.panel(dtype), items_at[dtype], getattr(np, dtype)
    add_values, add_products = sums_of_columns(dtype, simd, "values"), sums_of_columns(dtype, simd, "products")

    def batch_norm_gradient(record, lo, hi, worker):
        r, w = int64_at(record), int64_at(worker)
        rows, n_panels, stride, sums = w[R.ROWS], r[R.N_PANELS], r[R.C_PANEL_BYTES], float64_at(w[R.SCRATCH])
        numbers = items(w[R.SCRATCH] + 16 * panel)  # one array: LLVM vectorises no loop that would compare many places
        for j in range(lo, hi):
            width = panel if j < n_panels - 1 else r[R.LAST_WIDTH]
            scales = items(r[R.STATISTICS] + 2 * r[R.STATISTICS_BYTES] + j * panel * item)
            weight, da, normed = items(r[R.W] + j * panel * item), r[R.IN] + j * stride, r[R.NORMED] + j * stride
            add_values(w[R.SCRATCH], da, 0, 0, width, rows)
            add_products(w[R.SCRATCH] + 8 * panel, da, normed, 0, width, rows)
            for k in range(width):
                numbers[k] = weight[k] * scales[k]
                numbers[panel + k], numbers[2 * panel + k] = T(sums[k] / rows), T(sums[panel + k] / rows)
            for i in range(rows):
                at = i * width * item
                d, x, out = items(da + at), items(normed + at), items(r[R.C] + j * stride + at)
                for k in range(width):
                    dk, xk = d[k], x[k]
                    out[k] = numbers[k] * (dk - numbers[panel + k] - xk * numbers[2 * panel + k])
                    x[k] = dk * xk

    return batch_norm_gradient


def batch_norm_running(dtype: str, simd: Simd):
    """One unit: running = momentum running + (1 - momentum) of the batch, means and variances; then their averages.

    A batch of one row, such as the last one of an epoch, has no variance and changes nothing.
    """
    items, T = items_at[dtype], getattr(np, dtype)

    def batch_norm_running(record, lo, hi, worker):
        r = int64_at(record)
        keep = T(float64_at(record)[R.NUMBER]) if int64_at(worker)[R.ROWS] > 1 else T(1)
        means, variances = items(r[R.STATISTICS]), items(r[R.STATISTICS] + r[R.STATISTICS_BYTES])
        running_mean, running_var = items(r[R.RUNNING_MEAN]), items(r[R.RUNNING_VAR])
        for _ in range(lo, hi):
            for k in range(r[R.N_OUT]):
                running_mean[k] = keep * running_mean[k] + (T(1) - keep) * means[k]
                running_var[k] = keep * running_var[k] + (T(1) - keep) * variances[k]
            if r[R.AVERAGE_KERNEL] != 0:
                call(r[R.AVERAGE_KERNEL], r[R.RUNNING_MEAN], 0, r[R.N_OUT], worker)
                call(r[R.AVERAGE_KERNEL], r[R.RUNNING_VAR], 0, r[R.N_OUT], worker)

    return batch_norm_running


def running_norm_kernel(backward: bool):
    """What goes by the running averages, rows lo..hi: C = (z - running mean) factor + shift, then the epilogue, with
    factor = scale / sqrt(running variance + epsilon); or, backward, C = da factor.
    """

    def build(dtype, simd):
        item, panel, items, T = ITEMSIZE[dtype], simd.panel(dtype), items_at[dtype], getattr(np, dtype)

        def running_norm(record, lo, hi, worker):
            r, w = int64_at(record), int64_at(worker)
            n_panels, stride, n = r[R.N_PANELS], r[R.C_PANEL_BYTES], r[R.N_OUT]
            epsilon, factors = float64_at(record)[R.EPSILON], items(w[R.SCRATCH])
            w[R.EPILOGUE_NUMBER] = r[R.NUMBER]
            for j in range(n_panels):
                width, at = panel if j < n_panels - 1 else r[R.LAST_WIDTH], j * panel * item
                columns = min(width, n - j * panel)
                weight, shift = items(r[R.W] + at), items(r[R.SHIFT] + at)
                mean, variance = items(r[R.RUNNING_MEAN] + at), items(r[R.RUNNING_VAR] + at)
                for k in range(columns):
                    factors[k] = weight[k] * T(1 / math.sqrt(np.float64(variance[k]) + epsilon))
                for i in range(lo, hi):
                    at = j * stride + i * width * item
                    z, out = items(r[R.IN] + at), items(r[R.C] + at)
                    for k in range(columns):
                        out[k] = z[k] * factors[k] if backward else (z[k] - mean[k]) * factors[k] + shift[k]
                    for k in range(columns, width):
                        out[k] = T(0)
                if r[R.EPILOGUE] != 0:
                    at = j * stride + lo * width * item
                    call(r[R.EPILOGUE], r[R.C] + at, r[R.OTHER] + at, (hi - lo) * width, worker)

        return running_norm

    return build
