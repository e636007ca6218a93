"""Losses, a thread for each row, which overwrite the logits with their gradient; and the end of a step, their sum."""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import cuda

from .. import records as R
from ..losses import LOSSES
from ..simd import ITEMSIZE
from . import declarations
from .device import NOT_FINITE, SIMD, STEP, THREADS, TINY
from .functions import cuda_kernel, data_row, device_function, functions, inlined, item_type, sum_of_block

END_THREADS = THREADS if TINY else 1024  # as many as a block can have: it sums up the losses of all rows


@cache
def _rows_panel(dtype: str):
    """Where row i of panel p of the logits lies, how many numbers it has, and how many of them are outputs."""
    item, panel = ITEMSIZE[dtype], SIMD.panel(dtype)

    @inlined
    def rows_panel(table, k, i, p):
        width = panel if p < table[k, R.N_PANELS] - 1 else table[k, R.LAST_WIDTH]
        at = table[k, R.C] // item + p * (table[k, R.C_PANEL_BYTES] // item) + i * width
        return at, width, min(width, table[k, R.N_OUT] - p * panel)

    return rows_panel


@cache
def softmax_cross_entropy_row(dtype: str, codes: bool):
    """Of row i of the batch, which is row `row` of the data. As the CPU's: y becomes (1 - s) y + s mass / K, the loss
    is mass log(sum exp(z - top)) - sum y (z - top).
    """
    T, panel, rows_panel = getattr(np, dtype), SIMD.panel(dtype), _rows_panel(dtype)
    exp, log = functions(dtype).exp, functions("float64").log

    @device_function
    def softmax_cross_entropy_row(control, table, k, i, row, y, weights, numbers, scale, work, row_losses):
        columns, n_panels, smoothing = table[k, R.N_OUT], table[k, R.N_PANELS], T(numbers[0])
        weight = T(1) if table[k, R.SW] < 0 else weights[row]
        # Nothing is written before the last loop, where exponentials are computed once more: reads need not wait
        code = 0
        if codes:
            code = y[row, 0]
        top = work[rows_panel(table, k, i, 0)[0]]
        for p in range(n_panels):
            at, _, n = rows_panel(table, k, i, p)
            for j in range(n):
                z = work[at + j]
                top = z if z > top else top
        mass, pick, total, sum_z = T(0), T(0), T(0), T(0)
        for p in range(n_panels):
            at, _, n = rows_panel(table, k, i, p)
            for j in range(n):
                z = work[at + j] - top
                target = T(0)
                if codes:
                    target = T(1) if code == p * panel + j else T(0)
                else:
                    target = T(y[row, p * panel + j])
                mass += target
                pick += target * z
                sum_z += z
                total += exp(z)
        if smoothing != T(0):
            pick = (T(1) - smoothing) * pick + smoothing * mass * sum_z / T(columns)
        loss = np.float64(weight * mass) * log(np.float64(total)) - np.float64(weight) * np.float64(pick)
        row_losses[i] = loss
        if loss - loss != 0.0:
            control[NOT_FINITE] = 1
        if table[k, R.WITH_GRADIENT] != 0:
            share, floor = scale * weight * mass / total, scale * weight * mass * smoothing / T(columns)
            factor = scale * weight * (T(1) - smoothing)
            for p in range(n_panels):
                at, width, n = rows_panel(table, k, i, p)
                for j in range(width):
                    g = T(0)  # padding
                    if j < n:
                        if codes:
                            target = T(1) if code == p * panel + j else T(0)
                        else:
                            target = T(y[row, p * panel + j])
                        g = exp(work[at + j] - top) * share - floor - factor * target
                    work[at + j] = g

    return softmax_cross_entropy_row


@cache
def _of_four(kernel: str, field: str, dtype: str):
    """A term or slope of (z, y, a, b); a user's own is one of (z, y)."""
    f = declarations.function_of(kernel, field, dtype)

    @device_function
    def of_four(z, y, a, b):
        return f(z, y)

    return of_four if declarations.is_custom(kernel) else f


@cache
def separable_row(dtype: str, kernel: str):
    """A loss that is a sum over outputs, by its declaration's term and slope."""
    T, panel, rows_panel = getattr(np, dtype), SIMD.panel(dtype), _rows_panel(dtype)
    term, slope = (_of_four(kernel, field, dtype) for field in ("term", "slope"))

    @device_function
    def separable_row(control, table, k, i, row, y, weights, numbers, scale, work, row_losses):
        a, b = T(numbers[0]), T(numbers[1])
        weight = T(1) if table[k, R.SW] < 0 else weights[row]
        loss = 0.0
        for p in range(table[k, R.N_PANELS]):
            at, width, n = rows_panel(table, k, i, p)
            for j in range(width):
                g = T(0)  # padding
                if j < n:
                    z, target = work[at + j], T(y[row, p * panel + j])
                    loss += np.float64(T(term(z, target, a, b)))
                    g = scale * weight * T(slope(z, target, a, b))
                if table[k, R.WITH_GRADIENT] != 0:
                    work[at + j] = g
        loss *= np.float64(weight)
        row_losses[i] = loss
        if loss - loss != 0.0:
            control[NOT_FINITE] = 1

    return separable_row


@cache
def whole_row(dtype: str, kernel: str):
    """A loss that takes a row's logits together, out of the panels and back, by its declaration's `row`."""
    T, item, panel, rows_panel = getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype), _rows_panel(dtype)
    of_row = declarations.function_of(kernel, "row", dtype)

    @device_function
    def whole_row(control, table, k, i, row, y, weights, numbers, scale, work, row_losses):
        n, n_panels = table[k, R.N_OUT], table[k, R.N_PANELS]
        weight = T(1) if table[k, R.SW] < 0 else weights[row]
        first = table[k, R.ROW_DATA] // item + 2 * i * n
        z, g = work[first : first + n], work[first + n : first + 2 * n]
        for p in range(n_panels):
            at, _, columns = rows_panel(table, k, i, p)
            for j in range(columns):
                z[p * panel + j] = work[at + j]
        loss = np.float64(weight) * np.float64(of_row(z, y[row], g, n, numbers))
        for j in range(n):  # a comparison can hide a NaN
            loss += np.float64(z[j] - z[j])
        row_losses[i] = loss
        if loss - loss != 0.0:
            control[NOT_FINITE] = 1
        if table[k, R.WITH_GRADIENT] != 0:
            for p in range(n_panels):
                at, width, columns = rows_panel(table, k, i, p)
                for j in range(width):
                    work[at + j] = scale * weight * g[p * panel + j] if j < columns else T(0)

    return whole_row


def is_loss(kernel: str) -> bool:
    """Whether a record's kernel is a loss, with targets of a kind that runs here."""
    family, _, kind = kernel.rpartition(".")
    if family == "softmax_cross_entropy" or declarations.is_custom(family):
        return kind in ("codes", "dense")
    return kind == "dense" and family in LOSSES and not LOSSES[family].across


@cache
def row_loss(dtype: str, kernel: str):
    """The loss of a row by the name that the plan has for the CPU's kernel: "huber.dense"..."""
    family, _, kind = kernel.rpartition(".")
    if family == "softmax_cross_entropy":
        return softmax_cross_entropy_row(dtype, kind == "codes")
    return (separable_row if declarations.declaration_of(family).row is None else whole_row)(dtype, kernel)


@cuda_kernel
def loss(dtype: str, kernel: str, in_batch: bool):
    """The losses of all rows; `in_batch`: targets and weights lie in the batch's order."""
    T, of_row = getattr(np, dtype), row_loss(dtype, kernel)

    def loss(control, steps, scalars, table, k, order, y, weights, numbers, work, row_losses):
        if control[NOT_FINITE] != 0:
            return
        step = control[STEP]
        rows, index, first = steps[step, R.STEP_ROWS], steps[step, R.STEP_INDEX], steps[step, R.STEP_FIRST]
        scale = T(scalars[steps[step, R.STEP_SCALARS] + R.SCALE])
        for i in range(cuda.grid(1), rows, cuda.gridsize(1)):
            row = i
            if not in_batch:
                row = data_row(order, index, first, i)
            of_row(control, table, k, i, row, y, weights, numbers, scale, work, row_losses)

    return loss


@cuda_kernel
def end_of_step(with_loss: bool, threads: int = END_THREADS):
    """One block, after everything else: the sum of the rows' losses, in a fixed order, and the next step's number."""
    D = item_type["float64"]

    def end_of_step(control, steps, row_losses, sums):
        failed, step = control[NOT_FINITE], control[STEP]
        if failed != 0:
            return
        t = cuda.threadIdx.x
        parts = cuda.shared.array(threads, D)
        total = 0.0
        if with_loss:
            for i in range(t, steps[step, R.STEP_ROWS], threads):
                total += row_losses[i]
        parts[t] = total
        sum_of_block(parts, threads)
        if t == 0:
            sums[step] = parts[0]
            control[STEP] = step + 1

    return end_of_step
