"""Losses, a few threads for each row, which overwrite the logits with their gradient; the end of a step, their sum."""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import cuda

from .. import records as R
from ..losses import LOSSES
from ..simd import ITEMSIZE
from . import declarations
from .device import NOT_FINITE, SIMD, STEP, THREADS, TINY
from .functions import (
    cuda_kernel,
    data_row,
    device_function,
    failed_before,
    functions,
    inlined,
    item_type,
    sum_of_block,
)
from .vectors import get, put

END_THREADS = THREADS if TINY else 1024  # as many as a block can have: it sums up the losses of all rows
TOGETHER = 2 if TINY else 8  # threads that share a row


@cache
def _logits(dtype: str):
    """Two device functions: where the logits are (place, last panel, its width, numbers of a panel), and where column j
    of row i is, given these.
    """
    item, panel = ITEMSIZE[dtype], SIMD.panel(dtype)
    log2_panel = panel.bit_length() - 1

    @inlined
    def layout(table, k):
        return (
            table[k, R.C] // item, table[k, R.N_PANELS] - 1, table[k, R.LAST_WIDTH], table[k, R.C_PANEL_BYTES] // item
        )  # fmt: skip

    @inlined
    def place_of(i, j, c, last_panel, last_width, panel_items):
        p = j >> log2_panel
        width = panel if p < last_panel else last_width
        return c + p * panel_items + i * width + j - (p << log2_panel)

    return layout, place_of


@inlined
def _note(control, row_losses, i, loss):
    """The loss of row i of the batch, and whether it is finite."""
    row_losses[i] = loss
    if loss - loss != 0.0:
        control[NOT_FINITE] = 1


@cache
def softmax_cross_entropy_row(dtype: str, codes: bool, together: int, threads: int):
    """Of row i of the batch, which is row `row` of the data. As the CPU's: y becomes (1 - s) y + s mass / K, the loss
    is mass log(sum exp(z - top)) - sum y (z - top).
    """
    T, panel, (layout, place_of) = getattr(np, dtype), SIMD.panel(dtype), _logits(dtype)
    exp, log, least = functions(dtype).exp, functions("float64").log, T(-np.inf)

    @inlined
    def target_of(y, row, code, j):
        if codes:
            return T(1) if code == j else T(0)
        return T(y[row, j])

    @inlined
    def softmax_cross_entropy_row(
        control, table, k, i, row, inside, y, weights, numbers, scale, work, row_losses, parts
    ):  # fmt: skip
        t, smoothing, outputs = cuda.threadIdx.x, T(numbers[0]), table[k, R.N_OUT]
        c, last_panel, last_width, panel_items = layout(table, k)
        own, first = t % together, t - t % together
        columns, weight, code = 0, T(1), 0
        if inside:
            columns = outputs
            if table[k, R.SW] >= 0:
                weight = weights[row]
            if codes:
                code = y[row, 0]
        # Nothing is written before the last loop, where exponentials are computed once more: reads need not wait
        top = least
        if own < columns:
            top = get(work, place_of(i, own, c, last_panel, last_width, panel_items))
        for j in range(own + together, columns, together):
            z = get(work, place_of(i, j, c, last_panel, last_width, panel_items))
            top = z if z > top else top
        parts[t] = top
        cuda.syncwarp()
        top = parts[first]
        for other in range(1, min(together, outputs)):
            z = parts[first + other]
            top = z if z > top else top
        cuda.syncwarp()
        mass, pick, total, sum_z = T(0), T(0), T(0), T(0)
        for j in range(own, columns, together):
            z, target = (
                get(work, place_of(i, j, c, last_panel, last_width, panel_items)) - top,
                target_of(y, row, code, j),
            )
            mass += target
            pick += target * z
            sum_z += z
            total += exp(z)
        parts[t], parts[threads + t], parts[2 * threads + t], parts[3 * threads + t] = mass, pick, total, sum_z
        cuda.syncwarp()
        mass, pick, total, sum_z = T(0), T(0), T(0), T(0)
        for other in range(first, first + min(together, outputs)):
            mass += parts[other]
            pick += parts[threads + other]
            total += parts[2 * threads + other]
            sum_z += parts[3 * threads + other]
        if smoothing != T(0):
            pick = (T(1) - smoothing) * pick + smoothing * mass * sum_z / T(outputs)
        if inside and own == 0:
            _note(
                control, row_losses, i,
                np.float64(weight * mass) * log(np.float64(total)) - np.float64(weight) * np.float64(pick),
            )  # fmt: skip
        if inside and table[k, R.WITH_GRADIENT] != 0:
            share, floor = scale * weight * mass / total, scale * weight * mass * smoothing / T(outputs)
            factor = scale * weight * (T(1) - smoothing)
            for j in range(own, last_panel * panel + last_width, together):
                at, g = place_of(i, j, c, last_panel, last_width, panel_items), T(0)  # padding
                if j < columns:
                    g = exp(get(work, at) - top) * share - floor - factor * target_of(y, row, code, j)
                put(work, at, T(g))

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
def separable_row(dtype: str, kernel: str, together: int, threads: int):
    """A loss that is a sum over outputs, by its declaration's term and slope."""
    T, panel, (layout, place_of) = getattr(np, dtype), SIMD.panel(dtype), _logits(dtype)
    term, slope = (_of_four(kernel, field, dtype) for field in ("term", "slope"))

    @inlined
    def separable_row(control, table, k, i, row, inside, y, weights, numbers, scale, work, row_losses, parts):
        c, last_panel, last_width, panel_items = layout(table, k)
        a, b, t, outputs = T(numbers[0]), T(numbers[1]), cuda.threadIdx.x, table[k, R.N_OUT]
        own, weight, columns, loss = t % together, T(1), 0, 0.0
        if inside:
            columns = last_panel * panel + last_width
            if table[k, R.SW] >= 0:
                weight = weights[row]
        for j in range(own, columns, together):
            at, g = place_of(i, j, c, last_panel, last_width, panel_items), T(0)  # padding
            if j < outputs:
                z, target = get(work, at), T(y[row, j])
                loss += np.float64(T(term(z, target, a, b)))
                g = scale * weight * T(slope(z, target, a, b))
            if table[k, R.WITH_GRADIENT] != 0:
                put(work, at, T(g))
        losses = cuda.shared.array(threads, item_type["float64"])
        losses[t] = loss
        cuda.syncwarp()
        if inside and own == 0:
            for other in range(1, min(together, outputs)):
                loss += losses[t + other]
            _note(control, row_losses, i, loss * np.float64(weight))

    return separable_row


@cache
def whole_row(dtype: str, kernel: str, together: int, threads: int):
    """A loss that takes a row's logits together, out of the panels and back, by its declaration's `row`: one thread of
    those that share the row.
    """
    T, item, panel, (layout, place_of) = getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype), _logits(dtype)
    of_row = declarations.function_of(kernel, "row", dtype)

    @device_function
    def whole_row(control, table, k, i, row, inside, y, weights, numbers, scale, work, row_losses, parts):
        if not inside or cuda.threadIdx.x % together != 0:
            return
        c, last_panel, last_width, panel_items = layout(table, k)
        n = table[k, R.N_OUT]
        weight = T(1) if table[k, R.SW] < 0 else weights[row]
        first = table[k, R.ROW_DATA] // item + 2 * i * n
        z, g = work[first : first + n], work[first + n : first + 2 * n]
        for j in range(n):
            z[j] = get(work, place_of(i, j, c, last_panel, last_width, panel_items))
        loss = np.float64(weight) * np.float64(of_row(z, y[row], g, n, numbers))
        for j in range(n):  # a comparison can hide a NaN
            loss += np.float64(z[j] - z[j])
        _note(control, row_losses, i, loss)
        if table[k, R.WITH_GRADIENT] != 0:
            for j in range(last_panel * panel + last_width):
                work[place_of(i, j, c, last_panel, last_width, panel_items)] = scale * weight * g[j] if j < n else T(0)

    return whole_row


def is_loss(kernel: str) -> bool:
    """Whether a record's kernel is a loss, with targets of a kind that runs here."""
    family, _, kind = kernel.rpartition(".")
    if family == "softmax_cross_entropy" or declarations.is_custom(family):
        return kind in ("codes", "dense")
    return kind == "dense" and family in LOSSES and not LOSSES[family].across


@cache
def row_loss(dtype: str, kernel: str, together: int, threads: int):
    """The loss of a row by the name that the plan has for the CPU's kernel: "huber.dense"...; a function of (control,
    table, k, i, row, inside, y, weights, numbers, scale, work, row_losses, parts), of a block with so many `threads`
    and four numbers for each of them in shared memory, `parts`.

    So many threads next to each other, `together`, a power of two and at most a warp, have row i of the batch, row
    `row` of the data. All threads of a block call it: those that are not `inside` the batch do nothing but wait.
    """
    family, _, kind = kernel.rpartition(".")
    if family == "softmax_cross_entropy":
        return softmax_cross_entropy_row(dtype, kind == "codes", together, threads)
    of_row = separable_row if declarations.declaration_of(family).row is None else whole_row
    return of_row(dtype, kernel, together, threads)


@cuda_kernel
def loss(dtype: str, kernel: str, in_batch: bool):
    """The losses of all rows; `in_batch`: targets and weights lie in the batch's order. Launched with blocks of
    `THREADS`.
    """
    T, D, size, rows_of_block = getattr(np, dtype), item_type[dtype], 4 * THREADS, THREADS // TOGETHER
    of_row = row_loss(dtype, kernel, TOGETHER, THREADS)

    def loss(control, steps, scalars, table, k, order, y, weights, numbers, work, row_losses):
        if failed_before(control):
            return
        step = control[STEP]
        rows, index, first = steps[step, R.STEP_ROWS], steps[step, R.STEP_INDEX], steps[step, R.STEP_FIRST]
        scale, parts = T(scalars[steps[step, R.STEP_SCALARS] + R.SCALE]), cuda.shared.array(size, D)
        for begin in range(cuda.blockIdx.x * rows_of_block, rows, cuda.gridDim.x * rows_of_block):
            i = begin + cuda.threadIdx.x // TOGETHER
            row = i
            if i < rows and not in_batch:
                row = data_row(order, index, first, i)
            of_row(control, table, k, i, row, i < rows, y, weights, numbers, scale, work, row_losses, parts)
            cuda.syncwarp()  # before the next row's sums are written where this one's are read

    return loss


@cache
def step_end(with_loss: bool, threads: int):
    """f(control, step, rows, row_losses, sums): the sum of the rows' losses, in a fixed order, and the number of the
    next step. All threads of a block call it.
    """
    D = item_type["float64"]

    @inlined
    def step_end(control, step, rows, row_losses, sums):
        t, total = cuda.threadIdx.x, 0.0
        parts = cuda.shared.array(threads, D)
        if with_loss:
            for i in range(t, rows, threads):
                total += row_losses[i]
        parts[t] = total
        sum_of_block(parts, threads)
        if t == 0:
            sums[step] = parts[0]
            control[STEP] = step + 1

    return step_end


@cuda_kernel
def end_of_step(with_loss: bool, threads: int = END_THREADS):
    """One block, after everything else, of steps that do not end with `gradients.updates`."""
    end = step_end(with_loss, threads)

    def end_of_step(control, steps, row_losses, sums):
        if control[NOT_FINITE] != 0:
            return
        step = control[STEP]
        end(control, step, steps[step, R.STEP_ROWS], row_losses, sums)

    return end_of_step
