"""Kernels of the normalisation layers: statistics of rows (in row phases) and of the batch (units of a tile phase).

The gradient of the scale is left to `bias_gradient`: backward, da times the normed value takes the place of the normed
value, and its sums over the rows are that gradient. Statistics add up in float64, in the order of columns or rows, so
they depend neither on panels nor on who computes them.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from .. import records as R
from ..simd import ITEMSIZE, Simd
from .elementary import INLINE
from .ir import call, float64_at, int64_at, items_at


def row_norm(dtype: str, simd: Simd):
    """Rows lo..hi: normed = (z - mean) / sqrt(variance + epsilon) over each group of columns, C = scale normed + shift,
    then the epilogue. Without CENTERED the mean counts as 0.
    """
    item, panel, items, T = ITEMSIZE[dtype], simd.panel(dtype), items_at[dtype], getattr(np, dtype)

    @njit(**INLINE)
    def add_values(z, width, first, last, lo, hi, groups, means):
        for i in range(lo, hi):
            row, total = items(z + i * width * item), means[i * groups]
            for k in range(first, last):
                total += np.float64(row[k])
            means[i * groups] = total

    @njit(**INLINE)
    def center(z, normed, width, first, last, lo, hi, groups, means, squares):
        for i in range(lo, hi):
            row, out = items(z + i * width * item), items(normed + i * width * item)
            mean, total = T(means[i * groups]), squares[i * groups]
            for k in range(first, last):
                d = row[k] - mean
                out[k] = d
                total += np.float64(d) * np.float64(d)
            squares[i * groups] = total

    @njit(**INLINE)
    def scale_rows(normed, width, first, last, lo, hi, groups, scales):
        for i in range(lo, hi):
            out, scale = items(normed + i * width * item), T(scales[i * groups])
            for k in range(first, last):
                out[k] = out[k] * scale

    def row_norm(record, lo, hi, worker):
        r = int64_at(record)
        n, groups, n_panels, stride = r[R.N_OUT], r[R.GROUPS], r[R.N_PANELS], r[R.C_PANEL_BYTES]
        size, epsilon = n // groups, float64_at(record)[R.EPSILON]
        for g in range(groups):
            means, scales = (
                float64_at(r[R.STATISTICS] + 8 * g),
                float64_at(r[R.STATISTICS] + r[R.STATISTICS_BYTES] + 8 * g),
            )
            for i in range(lo, hi):
                means[i * groups] = scales[i * groups] = 0.0
            begin, end = g * size, (g + 1) * size
            panels = range(begin // panel, (end - 1) // panel + 1)
            if r[R.CENTERED] != 0:
                for j in panels:
                    width = panel if j < n_panels - 1 else r[R.LAST_WIDTH]
                    first, last = max(0, begin - j * panel), min(panel, end - j * panel)
                    add_values(r[R.IN] + j * stride, width, first, last, lo, hi, groups, means)
                for i in range(lo, hi):
                    means[i * groups] /= size
            for j in panels:
                width = panel if j < n_panels - 1 else r[R.LAST_WIDTH]
                first, last, at = max(0, begin - j * panel), min(panel, end - j * panel), j * stride
                center(r[R.IN] + at, r[R.NORMED] + at, width, first, last, lo, hi, groups, means, scales)
            for i in range(lo, hi):
                scales[i * groups] = 1 / math.sqrt(scales[i * groups] / size + epsilon)
            for j in panels:
                width = panel if j < n_panels - 1 else r[R.LAST_WIDTH]
                first, last = max(0, begin - j * panel), min(panel, end - j * panel)
                scale_rows(r[R.NORMED] + j * stride, width, first, last, lo, hi, groups, scales)
        int64_at(worker)[R.EPILOGUE_NUMBER] = r[R.NUMBER]
        for j in range(n_panels):
            width = panel if j < n_panels - 1 else r[R.LAST_WIDTH]
            columns, scale = min(width, n - j * panel), items(r[R.W] + j * panel * item)
            shift = items(r[R.SHIFT] + j * panel * item)
            for i in range(lo, hi):
                at = j * stride + i * width * item
                normed, out = items(r[R.NORMED] + at), items(r[R.C] + at)
                if r[R.SHIFT] != 0:
                    for k in range(columns):
                        out[k] = normed[k] * scale[k] + shift[k]
                else:
                    for k in range(columns):
                        out[k] = normed[k] * scale[k]
                for k in range(columns, width):
                    normed[k] = out[k] = T(0)
            if r[R.EPILOGUE] != 0:
                at = j * stride + lo * width * item
                call(r[R.EPILOGUE], r[R.C] + at, r[R.OTHER] + at, (hi - lo) * width, worker)

    return row_norm


def row_norm_gradient(dtype: str, simd: Simd):
    """Rows lo..hi, with h = scale da: C = (h - mean(h) - normed mean(h normed)) / sqrt(variance + epsilon), then normed
    becomes da normed. Without CENTERED the first mean counts as 0.
    """
    item, panel, items, T = ITEMSIZE[dtype], simd.panel(dtype), items_at[dtype], getattr(np, dtype)

    @njit(**INLINE)
    def add_products(da, normed, scale, width, first, last, lo, hi, groups, sums, products):
        for i in range(lo, hi):
            d, x = items(da + i * width * item), items(normed + i * width * item)
            a, b = sums[i * groups], products[i * groups]
            for k in range(first, last):
                h = np.float64(d[k]) * np.float64(scale[k])
                a += h
                b += h * np.float64(x[k])
            sums[i * groups], products[i * groups] = a, b

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
        size = n // groups
        for g in range(groups):
            sums, scales = (
                float64_at(r[R.STATISTICS] + 8 * g),
                float64_at(r[R.STATISTICS] + r[R.STATISTICS_BYTES] + 8 * g),
            )
            products = float64_at(r[R.STATISTICS] + 2 * r[R.STATISTICS_BYTES] + 8 * g)
            for i in range(lo, hi):
                sums[i * groups] = products[i * groups] = 0.0
            begin, end = g * size, (g + 1) * size
            panels = range(begin // panel, (end - 1) // panel + 1)
            for j in panels:
                width, at = panel if j < n_panels - 1 else r[R.LAST_WIDTH], j * stride
                first, last, scale = max(0, begin - j * panel), min(panel, end - j * panel), r[R.W] + j * panel * item
                add_products(
                    r[R.IN] + at, r[R.NORMED] + at, items(scale), width, first, last, lo, hi, groups, sums, products
                )
            for i in range(lo, hi):
                sums[i * groups] = sums[i * groups] / size if r[R.CENTERED] != 0 else 0.0
                products[i * groups] /= size
            for j in panels:
                width, at = panel if j < n_panels - 1 else r[R.LAST_WIDTH], j * stride
                first, last, scale = max(0, begin - j * panel), min(panel, end - j * panel), r[R.W] + j * panel * item
                finish(
                    r[R.IN] + at, r[R.NORMED] + at, r[R.C] + at, items(scale), width, first, last, lo, hi, groups,
                    sums, products, scales,
                )  # fmt: skip
        width, j = r[R.LAST_WIDTH], n_panels - 1
        for i in range(lo, hi):
            x, out = items(r[R.NORMED] + j * stride + i * width * item), items(r[R.C] + j * stride + i * width * item)
            for k in range(n - j * panel, width):
                x[k] = out[k] = T(0)

    return row_norm_gradient


def batch_norm(dtype: str, simd: Simd):
    """Units lo..hi, panels of columns: normed = (z - mean) / sqrt(variance + epsilon) over all rows of the batch,
    C = scale normed + shift, then the epilogue. Keeps the means, the variances and 1 / sqrt(...) in STATISTICS.
    """
    item, panel, items, T = ITEMSIZE[dtype], simd.panel(dtype), items_at[dtype], getattr(np, dtype)

    def batch_norm(record, lo, hi, worker):
        r, w = int64_at(record), int64_at(worker)
        rows, n_panels, stride, sums = w[R.ROWS], r[R.N_PANELS], r[R.C_PANEL_BYTES], float64_at(w[R.SCRATCH])
        epsilon, bytes_ = float64_at(record)[R.EPSILON], r[R.STATISTICS_BYTES]
        w[R.EPILOGUE_NUMBER] = r[R.NUMBER]
        for j in range(lo, hi):
            width = panel if j < n_panels - 1 else r[R.LAST_WIDTH]
            at = r[R.STATISTICS] + j * panel * item
            means, variances, scales = items(at), items(at + bytes_), items(at + 2 * bytes_)
            weight, shift = items(r[R.W] + j * panel * item), items(r[R.SHIFT] + j * panel * item)
            for k in range(width):
                sums[k] = 0.0
            for i in range(rows):
                z = items(r[R.IN] + j * stride + i * width * item)
                for k in range(width):
                    sums[k] += np.float64(z[k])
            for k in range(width):
                means[k] = T(sums[k] / rows)
                sums[k] = 0.0
            for i in range(rows):
                z = items(r[R.IN] + j * stride + i * width * item)
                normed = items(r[R.NORMED] + j * stride + i * width * item)
                for k in range(width):
                    d = z[k] - means[k]
                    normed[k] = d
                    sums[k] += np.float64(d) * np.float64(d)
            for k in range(width):
                variances[k] = T(sums[k] / rows)
                scales[k] = T(1 / math.sqrt(sums[k] / rows + epsilon))
            for i in range(rows):
                normed = items(r[R.NORMED] + j * stride + i * width * item)
                out = items(r[R.C] + j * stride + i * width * item)
                for k in range(width):
                    x = normed[k] * scales[k]
                    normed[k] = x
                    out[k] = x * weight[k] + shift[k]
            if r[R.EPILOGUE] != 0:
                call(r[R.EPILOGUE], r[R.C] + j * stride, r[R.OTHER] + j * stride, rows * width, worker)

    return batch_norm


def batch_norm_gradient(dtype: str, simd: Simd):
    """Units lo..hi: C = scale / sqrt(variance + epsilon) (da - mean(da) - normed mean(da normed)), then normed
    becomes da normed.
    """
    item, panel, items, T = ITEMSIZE[dtype], simd.panel(dtype), items_at[dtype], getattr(np, dtype)

    def batch_norm_gradient(record, lo, hi, worker):
        r, w = int64_at(record), int64_at(worker)
        rows, n_panels, stride, sums = w[R.ROWS], r[R.N_PANELS], r[R.C_PANEL_BYTES], float64_at(w[R.SCRATCH])
        for j in range(lo, hi):
            width = panel if j < n_panels - 1 else r[R.LAST_WIDTH]
            products = float64_at(w[R.SCRATCH] + 8 * width)
            scales = items(r[R.STATISTICS] + 2 * r[R.STATISTICS_BYTES] + j * panel * item)
            weight = items(r[R.W] + j * panel * item)
            for k in range(width):
                sums[k] = products[k] = 0.0
            for i in range(rows):
                da = items(r[R.IN] + j * stride + i * width * item)
                normed = items(r[R.NORMED] + j * stride + i * width * item)
                for k in range(width):
                    sums[k] += np.float64(da[k])
                    products[k] += np.float64(da[k]) * np.float64(normed[k])
            for k in range(width):
                sums[k], products[k] = sums[k] / rows, products[k] / rows
            for i in range(rows):
                da = items(r[R.IN] + j * stride + i * width * item)
                normed = items(r[R.NORMED] + j * stride + i * width * item)
                out = items(r[R.C] + j * stride + i * width * item)
                for k in range(width):
                    d, x = da[k], normed[k]
                    out[k] = weight[k] * scales[k] * (d - T(sums[k]) - x * T(products[k]))
                    normed[k] = d * x

    return batch_norm_gradient


def batch_norm_running(dtype: str, simd: Simd):
    """One unit: running = momentum running + (1 - momentum) of the batch, means and variances; then their averages."""
    items, T = items_at[dtype], getattr(np, dtype)

    def batch_norm_running(record, lo, hi, worker):
        r = int64_at(record)
        keep = T(float64_at(record)[R.NUMBER])
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


def batch_norm_predict(dtype: str, simd: Simd):
    """Rows lo..hi: C = (z - running mean) scale / sqrt(running variance + epsilon) + shift, then the epilogue."""
    item, panel, items, T = ITEMSIZE[dtype], simd.panel(dtype), items_at[dtype], getattr(np, dtype)

    def batch_norm_predict(record, lo, hi, worker):
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
                z, out = items(r[R.IN] + j * stride + i * width * item), items(r[R.C] + j * stride + i * width * item)
                for k in range(columns):
                    out[k] = (z[k] - mean[k]) * factors[k] + shift[k]
                for k in range(columns, width):
                    out[k] = T(0)
            if r[R.EPILOGUE] != 0:
                at = j * stride + lo * width * item
                call(r[R.EPILOGUE], r[R.C] + at, r[R.OTHER] + at, (hi - lo) * width, worker)

    return batch_norm_predict
