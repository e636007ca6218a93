"""CUDA kernels of the normalisation layers, as `engine/norm_kernels.py` has them for the CPU.

A thread takes a group of columns of one row; of BatchNorm a block takes a panel of columns, its threads every n-th row.
Sums are in float64. Backward, da times the normed value takes the place of the normed value: `bias_gradient` makes the
scale's gradient of it.
"""

from __future__ import annotations

import math

import numpy as np
from numba import cuda

from .. import records as R
from ..simd import ITEMSIZE
from .device import NOT_FINITE, SIMD, STEP, THREADS
from .elementwise import Epilogue, scalar_epilogue
from .functions import cuda_kernel, device_function, item_type, place
from .updates import Update, update


@cuda_kernel
def row_norm(dtype: str, of: Epilogue):
    """normed = (z - mean) / sqrt(variance + epsilon) over a group; C = epilogue(scale normed + shift)."""
    T, item, panel = getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype)
    finish = scalar_epilogue(of)

    def row_norm(control, steps, scalars, table, numbers, k, work, state, epsilon):
        if control[NOT_FINITE] != 0:
            return
        rows, n, groups = steps[control[STEP], R.STEP_ROWS], table[k, R.N_OUT], table[k, R.GROUPS]
        last_panel, panel_items = table[k, R.N_PANELS] - 1, table[k, R.C_PANEL_BYTES] // item
        last_width, statistics = table[k, R.LAST_WIDTH], table[k, R.STATISTICS] // item
        z, normed, c = table[k, R.IN] // item, table[k, R.NORMED] // item, table[k, R.C] // item
        other, w, shift = table[k, R.OTHER] // item, table[k, R.W] // item, table[k, R.SHIFT]  # shift -1: none
        size, number = n // groups, T(numbers[k])
        for e in range(cuda.grid(1), rows * groups, cuda.gridsize(1)):
            i = e // groups
            begin = (e - i * groups) * size
            mean = T(0)
            if table[k, R.CENTERED] != 0:
                total = 0.0
                for q in range(begin, begin + size):
                    total += np.float64(work[z + place(i, q, panel, last_panel, panel_items, last_width)])
                mean = T(total / size)
            squares = 0.0
            for q in range(begin, begin + size):
                at = place(i, q, panel, last_panel, panel_items, last_width)
                d = work[z + at] - mean
                work[normed + at] = d
                squares += np.float64(d) * np.float64(d)
            s = T(1.0 / math.sqrt(squares / size + epsilon))
            work[statistics + e] = s
            for q in range(begin, begin + size):
                at = place(i, q, panel, last_panel, panel_items, last_width)
                x = work[normed + at] * s
                work[normed + at] = x
                value = x * state[w + q]
                if shift >= 0:
                    value = value + state[shift // item + q]
                finish(work, c + at, other + at, value, number)
            if begin + size == n:
                for q in range(n, last_panel * panel + last_width):  # padding
                    at = place(i, q, panel, last_panel, panel_items, last_width)
                    work[normed + at] = T(0)
                    finish(work, c + at, other + at, T(0), number)

    return row_norm


@cuda_kernel
def row_norm_gradient(dtype: str):
    """With h = scale da: C = (h - mean(h) - normed mean(h normed)) / sqrt(variance + epsilon)."""
    T, item, panel = getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype)

    def row_norm_gradient(control, steps, scalars, table, numbers, k, work, state):
        if control[NOT_FINITE] != 0:
            return
        rows, n, groups = steps[control[STEP], R.STEP_ROWS], table[k, R.N_OUT], table[k, R.GROUPS]
        last_panel, panel_items = table[k, R.N_PANELS] - 1, table[k, R.C_PANEL_BYTES] // item
        last_width, statistics = table[k, R.LAST_WIDTH], table[k, R.STATISTICS] // item
        da, normed, c = table[k, R.IN] // item, table[k, R.NORMED] // item, table[k, R.C] // item
        w, size = table[k, R.W] // item, n // groups
        for e in range(cuda.grid(1), rows * groups, cuda.gridsize(1)):
            i = e // groups
            begin = (e - i * groups) * size
            total, products = 0.0, 0.0
            for q in range(begin, begin + size):
                at = place(i, q, panel, last_panel, panel_items, last_width)
                h = np.float64(work[da + at]) * np.float64(state[w + q])
                total += h
                products += h * np.float64(work[normed + at])
            mean, slope, s = T(0), T(products / size), work[statistics + e]
            if table[k, R.CENTERED] != 0:
                mean = T(total / size)
            for q in range(begin, begin + size):
                at = place(i, q, panel, last_panel, panel_items, last_width)
                x, d = work[normed + at], work[da + at]
                work[c + at] = s * (d * state[w + q] - mean - x * slope)
                work[normed + at] = d * x
            if begin + size == n:
                for q in range(n, last_panel * panel + last_width):  # padding
                    at = place(i, q, panel, last_panel, panel_items, last_width)
                    work[normed + at] = T(0)
                    work[c + at] = T(0)

    return row_norm_gradient


def parts(dtype: str, threads: int = THREADS) -> int:
    """Threads for each column of a panel: a power of two."""
    return max(2, threads // SIMD.panel(dtype))


@device_function
def column_sum(sums, total, part, column, n):
    """The sum of what the n threads of a column have, the same to all of them, pair by pair."""
    sums[part, column] = total
    half = n // 2
    while half > 0:
        cuda.syncthreads()
        if part < half:
            sums[part, column] += sums[part + half, column]
        half //= 2
    cuda.syncthreads()
    total = sums[0, column]
    cuda.syncthreads()
    return total


@cuda_kernel
def batch_norm(dtype: str, of: Epilogue):
    """A block for each panel: normed = (z - mean) / sqrt(variance + epsilon) over the rows of the batch, C = epilogue(
    scale normed + shift). Keeps means, variances and 1 / sqrt(...).
    """
    T, item, panel, n, D = getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype), parts(dtype), item_type["float64"]
    finish = scalar_epilogue(of)

    def batch_norm(control, steps, scalars, table, numbers, k, work, state, epsilon):
        if control[NOT_FINITE] != 0:
            return
        rows, p, column, part = (
            steps[control[STEP], R.STEP_ROWS],
            cuda.blockIdx.x,
            cuda.threadIdx.x % panel,
            cuda.threadIdx.x // panel,
        )
        width = panel if p < table[k, R.N_PANELS] - 1 else table[k, R.LAST_WIDTH]
        first = p * (table[k, R.C_PANEL_BYTES] // item) + column
        z, normed = table[k, R.IN] // item + first, table[k, R.NORMED] // item + first
        c, other, number = table[k, R.C] // item + first, table[k, R.OTHER] // item + first, T(numbers[k])
        unit, statistics_items = p * panel + column, table[k, R.STATISTICS_BYTES] // item
        sums = cuda.shared.array((n, panel), D)
        total = 0.0
        if column < width:
            for i in range(part, rows, n):
                total += np.float64(work[z + i * width])
        mean = T(column_sum(sums, total, part, column, n) / rows)
        total = 0.0
        if column < width:
            for i in range(part, rows, n):
                d = work[z + i * width] - mean
                work[normed + i * width] = d
                total += np.float64(d) * np.float64(d)
        variance = column_sum(sums, total, part, column, n) / rows
        s = T(1.0 / math.sqrt(variance + epsilon))
        if column < width:
            if part == 0:
                at = table[k, R.STATISTICS] // item + unit
                work[at] = mean
                work[at + statistics_items] = T(variance)
                work[at + 2 * statistics_items] = s
            scale, shift = state[table[k, R.W] // item + unit], state[table[k, R.SHIFT] // item + unit]
            for i in range(part, rows, n):
                x = work[normed + i * width] * s
                work[normed + i * width] = x
                finish(work, c + i * width, other + i * width, x * scale + shift, number)

    return batch_norm


@cuda_kernel
def batch_norm_gradient(dtype: str):
    """A block for each panel: C = scale / sqrt(variance + epsilon) (da - mean(da) - normed mean(da normed))."""
    T, item, panel, n, D = getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype), parts(dtype), item_type["float64"]

    def batch_norm_gradient(control, steps, scalars, table, numbers, k, work, state):
        if control[NOT_FINITE] != 0:
            return
        rows, p, column, part = (
            steps[control[STEP], R.STEP_ROWS],
            cuda.blockIdx.x,
            cuda.threadIdx.x % panel,
            cuda.threadIdx.x // panel,
        )
        width = panel if p < table[k, R.N_PANELS] - 1 else table[k, R.LAST_WIDTH]
        first = p * (table[k, R.C_PANEL_BYTES] // item) + column
        da, normed = table[k, R.IN] // item + first, table[k, R.NORMED] // item + first
        c, unit = table[k, R.C] // item + first, p * panel + column
        sums = cuda.shared.array((n, panel), D)
        total, products = 0.0, 0.0
        if column < width:
            for i in range(part, rows, n):
                d = np.float64(work[da + i * width])
                total += d
                products += d * np.float64(work[normed + i * width])
        mean = T(column_sum(sums, total, part, column, n) / rows)
        slope = T(column_sum(sums, products, part, column, n) / rows)
        if column < width:
            at = table[k, R.STATISTICS] // item + 2 * (table[k, R.STATISTICS_BYTES] // item) + unit
            factor = state[table[k, R.W] // item + unit] * work[at]
            for i in range(part, rows, n):
                d, x = work[da + i * width], work[normed + i * width]
                work[c + i * width] = factor * (d - mean - x * slope)
                work[normed + i * width] = d * x

    return batch_norm_gradient


@cuda_kernel
def batch_norm_running(dtype: str, of: Update):
    """running = momentum running + (1 - momentum) of the batch, and their averages."""
    T, item, averaged = getattr(np, dtype), ITEMSIZE[dtype], update(of)

    def batch_norm_running(control, steps, scalars, table, numbers, k, work, state, slot):
        if control[NOT_FINITE] != 0:
            return
        s, keep = steps[control[STEP], R.STEP_SCALARS], T(numbers[k])
        if steps[control[STEP], R.STEP_ROWS] == 1:  # there is no variance
            keep = T(1)
        statistics, more = table[k, R.STATISTICS] // item, table[k, R.STATISTICS_BYTES] // item
        mean, variance = table[k, R.RUNNING_MEAN] // item, table[k, R.RUNNING_VAR] // item
        for q in range(cuda.grid(1), table[k, R.N_OUT], cuda.gridsize(1)):
            value = keep * state[mean + q] + (T(1) - keep) * work[statistics + q]
            averaged(state, mean + q, slot, value, scalars, s, work, 0)
            value = keep * state[variance + q] + (T(1) - keep) * work[statistics + more + q]
            averaged(state, variance + q, slot, value, scalars, s, work, 0)

    return batch_norm_running


@cuda_kernel
def running_norm(dtype: str, of: Epilogue, backward: bool):
    """What goes by the running averages: C = epilogue((z - running mean) factor + shift), with factor = scale /
    sqrt(running variance + epsilon); or, backward, C = epilogue(da factor).
    """
    T, item, panel = getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype)
    finish = scalar_epilogue(of)

    def running_norm(control, steps, scalars, table, numbers, k, work, state, epsilon):
        if control[NOT_FINITE] != 0:
            return
        rows, n = steps[control[STEP], R.STEP_ROWS], table[k, R.N_OUT]
        last_panel, panel_items = table[k, R.N_PANELS] - 1, table[k, R.C_PANEL_BYTES] // item
        source, c, other = table[k, R.IN] // item, table[k, R.C] // item, table[k, R.OTHER] // item
        w, shift = table[k, R.W] // item, table[k, R.SHIFT] // item
        mean, variance = table[k, R.RUNNING_MEAN] // item, table[k, R.RUNNING_VAR] // item
        columns = last_panel * panel + table[k, R.LAST_WIDTH]
        for e in range(cuda.grid(1), rows * columns, cuda.gridsize(1)):
            i = e // columns
            q = e - i * columns
            at = place(i, q, panel, last_panel, panel_items, table[k, R.LAST_WIDTH])
            value = T(0)  # padding
            if q < n:
                factor = state[w + q] * T(1.0 / math.sqrt(np.float64(state[variance + q]) + epsilon))
                if backward:
                    value = work[source + at] * factor
                else:
                    value = (work[source + at] - state[mean + q]) * factor + state[shift + q]
            finish(work, c + at, other + at, value, T(numbers[k]))

    return running_norm
