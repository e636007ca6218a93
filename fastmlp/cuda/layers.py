"""CUDA kernels of layers that are neither a product nor one function of a number: PReLU, Softmax, and the layer that
adds to the losses."""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import cuda

from .. import records as R
from ..simd import ITEMSIZE
from .device import NOT_FINITE, SIMD, STEP
from .functions import cuda_kernel, data_row, functions, inlined, place


@cuda_kernel
def prelu(dtype: str):
    """C = z where z > 0, else the unit's slope W times z."""
    return _prelu(dtype, gradient=False)


@cuda_kernel
def prelu_gradient(dtype: str):
    """C = da where z > 0, else W da; and NORMED = 0, or da z."""
    return _prelu(dtype, gradient=True)


def _prelu(dtype: str, gradient: bool):
    T, item, panel = getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype)

    def prelu(control, steps, scalars, table, numbers, k, work, state):
        if control[NOT_FINITE] != 0:
            return
        rows, last_panel = steps[control[STEP], R.STEP_ROWS], table[k, R.N_PANELS] - 1
        columns, panel_items = last_panel * panel + table[k, R.LAST_WIDTH], table[k, R.C_PANEL_BYTES] // item
        source, c, w = table[k, R.IN] // item, table[k, R.C] // item, table[k, R.W] // item
        for e in range(cuda.grid(1), rows * columns, cuda.gridsize(1)):
            i = e // columns
            q = e - i * columns
            at = place(i, q, panel, last_panel, panel_items, table[k, R.LAST_WIDTH])
            value, slope = work[source + at], state[w + q]
            if gradient:
                z = work[table[k, R.Z] // item + at]
                work[c + at] = value if z > T(0) else slope * value
                work[table[k, R.NORMED] // item + at] = T(0) if z > T(0) else value * z
            else:
                work[c + at] = value if value > T(0) else slope * value

    return prelu


@cuda_kernel
def softmax_forward(dtype: str):
    """C = softmax of each row of IN; a thread for each row."""
    T, item, panel, exp = getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype), functions(dtype).exp

    def softmax_forward(control, steps, scalars, table, numbers, k, work, state):
        if control[NOT_FINITE] != 0:
            return
        rows, n, last_panel = steps[control[STEP], R.STEP_ROWS], table[k, R.N_OUT], table[k, R.N_PANELS] - 1
        last_width, panel_items = table[k, R.LAST_WIDTH], table[k, R.C_PANEL_BYTES] // item
        z, c = table[k, R.IN] // item, table[k, R.C] // item
        for i in range(cuda.grid(1), rows, cuda.gridsize(1)):
            top = work[z + place(i, 0, panel, last_panel, panel_items, last_width)]
            for q in range(1, n):
                value = work[z + place(i, q, panel, last_panel, panel_items, last_width)]
                top = value if value > top else top
            total = T(0)
            for q in range(n):
                at = place(i, q, panel, last_panel, panel_items, last_width)
                value = exp(work[z + at] - top)
                work[c + at] = value
                total += value
            share = T(1) / total
            for q in range(last_panel * panel + last_width):
                at = c + place(i, q, panel, last_panel, panel_items, last_width)
                value = T(0)  # padding
                if q < n:
                    value = work[at] * share
                work[at] = value

    return softmax_forward


@cuda_kernel
def softmax_backward(dtype: str):
    """C = a (C - sum over the row of C a), with a = OTHER, the layer's output; a thread for each row."""
    T, item, panel = getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype)

    def softmax_backward(control, steps, scalars, table, numbers, k, work, state):
        if control[NOT_FINITE] != 0:
            return
        rows, n, last_panel = steps[control[STEP], R.STEP_ROWS], table[k, R.N_OUT], table[k, R.N_PANELS] - 1
        last_width, panel_items = table[k, R.LAST_WIDTH], table[k, R.C_PANEL_BYTES] // item
        c, a = table[k, R.C] // item, table[k, R.OTHER] // item
        for i in range(cuda.grid(1), rows, cuda.gridsize(1)):
            mean = T(0)
            for q in range(n):
                at = place(i, q, panel, last_panel, panel_items, last_width)
                mean += work[c + at] * work[a + at]
            for q in range(last_panel * panel + last_width):
                at = place(i, q, panel, last_panel, panel_items, last_width)
                value = T(0)  # padding
                if q < n:
                    value = work[a + at] * (work[c + at] - mean)
                work[c + at] = value

    return softmax_backward


@cache
def _row_weight(dtype: str, in_batch: bool):
    """The weight of row i of the batch, where weights lie in its order or in the data's; 1 where there are none."""
    T = getattr(np, dtype)

    @inlined
    def row_weight(table, k, order, index, first, i, weights):
        if table[k, R.SW] < 0:
            return T(1)
        return weights[i if in_batch else data_row(order, index, first, i)]

    return row_weight


@cuda_kernel
def activity_penalty(dtype: str, in_batch: bool):
    """The rows' losses += weight (l1 sum |a| + l2 sum a^2), with a at C; a thread for each row."""
    item, panel, row_weight = ITEMSIZE[dtype], SIMD.panel(dtype), _row_weight(dtype, in_batch)

    def activity_penalty(control, steps, scalars, table, k, order, weights, l1, l2, work, row_losses):
        if control[NOT_FINITE] != 0:
            return
        step, n, last_panel = control[STEP], table[k, R.N_OUT], table[k, R.N_PANELS] - 1
        rows, index, first = steps[step, R.STEP_ROWS], steps[step, R.STEP_INDEX], steps[step, R.STEP_FIRST]
        panel_items, last_width = table[k, R.C_PANEL_BYTES] // item, table[k, R.LAST_WIDTH]
        for i in range(cuda.grid(1), rows, cuda.gridsize(1)):
            sizes, squares = 0.0, 0.0
            for q in range(n):
                a = np.float64(work[table[k, R.C] // item + place(i, q, panel, last_panel, panel_items, last_width)])
                sizes += abs(a)
                squares += a * a
            weight = row_weight(table, k, order, index, first, i, weights)
            penalty = np.float64(weight) * (l1 * sizes + l2 * squares)
            row_losses[i] += penalty
            if penalty - penalty != 0.0:
                control[NOT_FINITE] = 1

    return activity_penalty


@cuda_kernel
def activity_gradient(dtype: str, in_batch: bool):
    """C = IN + scale weight (l1 sign(a) + 2 l2 a), with a at ACTIVITY; padding is IN's."""
    T, item, panel, row_weight = (
        getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype), _row_weight(dtype, in_batch)
    )  # fmt: skip

    def activity_gradient(control, steps, scalars, table, k, order, weights, l1, l2, work, row_losses):
        if control[NOT_FINITE] != 0:
            return
        step, n, last_panel = control[STEP], table[k, R.N_OUT], table[k, R.N_PANELS] - 1
        rows, index, first = steps[step, R.STEP_ROWS], steps[step, R.STEP_INDEX], steps[step, R.STEP_FIRST]
        panel_items, last_width = table[k, R.C_PANEL_BYTES] // item, table[k, R.LAST_WIDTH]
        columns, scale = last_panel * panel + last_width, T(scalars[steps[step, R.STEP_SCALARS] + R.SCALE])
        size, square = scale * T(l1), scale * T(2.0 * l2)
        for e in range(cuda.grid(1), rows * columns, cuda.gridsize(1)):
            i = e // columns
            q = e - i * columns
            at = place(i, q, panel, last_panel, panel_items, last_width)
            value = work[table[k, R.IN] // item + at]
            if q < n:
                weight = row_weight(table, k, order, index, first, i, weights)
                a = work[table[k, R.ACTIVITY] // item + at]
                sign = T(1) if a > T(0) else (T(-1) if a < T(0) else T(0))
                value += weight * size * sign + weight * square * a
            work[table[k, R.C] // item + at] = value

    return activity_gradient
