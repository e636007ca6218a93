"""CUDA kernels of what needs all gradients, or whole columns of new weights: `clip_norm` and `max_norm`.

As `engine/update_kernels.py`: squares are summed in float64, into an array of their own, whose last number is the
coefficient of all gradients.
"""

from __future__ import annotations

import math

import numpy as np
from numba import cuda

from .. import records as R
from ..simd import ITEMSIZE
from .device import NOT_FINITE, SIMD, STEP, THREADS
from .functions import copy_transposed, cuda_kernel, device_function, item_type, place
from .norms import column_sum, parts
from .updates import Update, update


@device_function
def _squares(items, at, width, depth, part, n):
    """A thread's share of the sum of a column's squares: every n-th row."""
    total = 0.0
    for i in range(part, depth, n):
        x = np.float64(items[at + i * width])
        total += x * x
    return total


@cuda_kernel
def square_sums(dtype: str):
    """A block for each panel of a stored gradient: the sums of the squares of its columns, from `first` on."""
    item, panel, n, D = ITEMSIZE[dtype], SIMD.panel(dtype), parts(dtype), item_type["float64"]

    def square_sums(control, steps, scalars, table, numbers, k, work, state, squares, first):
        if control[NOT_FINITE] != 0:
            return
        p, column, part = cuda.blockIdx.x, cuda.threadIdx.x % panel, cuda.threadIdx.x // panel
        depth = table[k, R.DEPTH]
        width = panel if p < table[k, R.N_PANELS] - 1 else table[k, R.LAST_WIDTH]
        g = table[k, R.GRADIENT] // item + p * panel * depth + column
        sums = cuda.shared.array((n, panel), D)
        total = 0.0
        if column < width:
            total = _squares(work, g, width, depth, part, n)
        total = column_sum(sums, total, part, column, n)
        if part == 0 and column < width:
            squares[first + p * panel + column] = total

    return square_sums


@cuda_kernel
def clip_norm(threads: int = THREADS):
    """One block: min(1, bound / (norm + 1e-6)) behind the squares. Of a norm that is NaN it is NaN."""
    D = item_type["float64"]

    def clip_norm(control, steps, scalars, table, numbers, k, work, state, squares, n):
        if control[NOT_FINITE] != 0:
            return
        t = cuda.threadIdx.x
        sums = cuda.shared.array((threads, 1), D)
        total = 0.0
        for i in range(t, n, threads):
            total += squares[i]
        total = column_sum(sums, total, t, 0, threads)
        if t == 0:
            bound = scalars[steps[control[STEP], R.STEP_SCALARS] + R.CLIP]
            coefficient = bound / (math.sqrt(total) + 1e-6)
            squares[n] = 1.0 if coefficient > 1.0 else coefficient

    return clip_norm


@cuda_kernel
def stored_update(dtype: str, of: Update):
    """The update by the stored gradient times the coefficient, and the transposed copy; a thread for each weight."""
    T, item, panel, change = getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype), update(of)

    def stored_update(control, steps, scalars, table, numbers, k, work, state, transposed, slot, squares, n):
        if control[NOT_FINITE] != 0:
            return
        s = steps[control[STEP], R.STEP_SCALARS] + table[k, R.GROUP] // 8
        depth, n_out, last_panel = table[k, R.DEPTH], table[k, R.N_OUT], table[k, R.N_PANELS] - 1
        w, g, coefficient = table[k, R.W] // item, table[k, R.GRADIENT] // item, T(squares[n])
        wt = -1 if table[k, R.WT] < 0 else table[k, R.WT] // item
        for e in range(cuda.grid(1), depth * n_out, cuda.gridsize(1)):
            unit = e // n_out
            column = e - unit * n_out
            at = place(unit, column, panel, last_panel, panel * depth, table[k, R.LAST_WIDTH])
            change(state, w + at, slot, coefficient * work[g + at], scalars, s, work, 0)
            copy_transposed(state, transposed, w + at, wt, unit, column, depth, n_out, panel, table[k, R.WT_LAST_WIDTH])

    return stored_update


@cuda_kernel
def max_norm(dtype: str, of: Update):
    """A block for each panel of W, whose columns are scaled down to a norm of NUMBER at most."""
    assign = update(of)
    T, item, panel, n, D = getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype), parts(dtype), item_type["float64"]

    def max_norm(control, steps, scalars, table, numbers, k, work, state, transposed, slot):
        if control[NOT_FINITE] != 0:
            return
        s, p = steps[control[STEP], R.STEP_SCALARS], cuda.blockIdx.x
        column, part = cuda.threadIdx.x % panel, cuda.threadIdx.x // panel
        depth, n_out, most = table[k, R.DEPTH], table[k, R.N_OUT], numbers[k]
        width = panel if p < table[k, R.N_PANELS] - 1 else table[k, R.LAST_WIDTH]
        w = table[k, R.W] // item + p * panel * depth + column
        wt = -1 if table[k, R.WT] < 0 else table[k, R.WT] // item
        sums = cuda.shared.array((n, panel), D)
        total = 0.0
        if column < width:
            total = _squares(state, w, width, depth, part, n)
        norm = math.sqrt(column_sum(sums, total, part, column, n))
        factor = T(most / norm) if norm > most else T(1)
        if p * panel + column < n_out:
            for i in range(part, depth, n):
                at = w + i * width
                assign(state, at, slot, state[at] * factor, scalars, s, work, 0)
                copy_transposed(
                    state, transposed, at, wt, i, p * panel + column, depth, n_out, panel, table[k, R.WT_LAST_WIDTH]
                )

    return max_norm
