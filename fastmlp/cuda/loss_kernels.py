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
    note_loss,
    sum_of_block,
    unrolled,
)
from .vectors import get, put

END_THREADS = THREADS if TINY else 1024  # as many as a block can have: it sums up the losses of all rows
TOGETHER = 2 if TINY else 8  # threads that share a row


@cache
def in_panels(dtype: str):
    """How the loss of a row finds logits in the workspace: read(where, j) and write(where, j, g), of column j; `where`
    is (work, row, place of the matrix, last panel, its width, numbers of a panel).
    """
    panel = SIMD.panel(dtype)
    log2_panel = panel.bit_length() - 1

    @inlined
    def place_of(j, i, c, last_panel, last_width, panel_items):
        p = j >> log2_panel
        return c + p * panel_items + i * (panel if p < last_panel else last_width) + j - (p << log2_panel)

    @inlined
    def read(where, j):
        work, i, c, last_panel, last_width, panel_items = where
        return get(work, place_of(j, i, c, last_panel, last_width, panel_items))

    @inlined
    def write(where, j, g):
        work, i, c, last_panel, last_width, panel_items = where
        put(work, place_of(j, i, c, last_panel, last_width, panel_items), g)

    return read, write


@cache
def of_record(dtype: str):
    """f(table, k, work, i): what the loss of a row knows of its record, and where the logits of row i are."""
    item, panel = ITEMSIZE[dtype], SIMD.panel(dtype)

    @inlined
    def of_record(table, k, work, i):
        last_panel, last_width = table[k, R.N_PANELS] - 1, table[k, R.LAST_WIDTH]
        facts = (
            table[k, R.N_OUT], last_panel * panel + last_width, table[k, R.WITH_GRADIENT], table[k, R.ROW_DATA] // item
        )  # fmt: skip
        return facts, (work, i, table[k, R.C] // item, last_panel, last_width, table[k, R.C_PANEL_BYTES] // item)

    return of_record


@cache
def softmax_cross_entropy_row(dtype: str, codes: bool, together: int, threads: int, read, write):
    """As the CPU's: y becomes (1 - s) y + s mass / K, the loss is mass log(sum exp(z - top)) - sum y (z - top)."""
    T, D, some = getattr(np, dtype), item_type[dtype], min(4, together)  # parts of a row that are on their way together
    exp, log, least = functions(dtype).exp, functions("float64").log, T(-np.inf)

    @inlined
    def target_of(y, row, code, j):
        if codes:
            return T(1) if code == j else T(0)
        return T(y[row, j])

    @inlined
    def compare(u, sums, parts, at):
        z = get(parts, at + u)
        sums[0] = z if z > sums[0] else sums[0]

    @inlined
    def add(u, sums, parts, at):
        for k in range(4):
            sums[k] += get(parts, k * threads + at + u)

    compare_some, add_some = unrolled(some, compare), unrolled(some, add)

    @inlined
    def softmax_cross_entropy_row(
        control, i, row, inside, code, weight, y, a, b, numbers, scale, facts, where, work, row_losses, parts
    ):  # fmt: skip
        outputs, padded, with_gradient, _ = facts
        t, smoothing, sums = cuda.threadIdx.x, a, cuda.local.array(4, D)
        own, first = t % together, t - t % together
        columns, end = outputs if inside else 0, min(together, outputs)
        # Nothing is written before the last loop, where exponentials are computed once more: reads need not wait
        top, j = least, own
        while j < columns:  # a `range` with a step takes many more instructions
            z = read(where, j)
            top = z if z > top else top
            j += together
        put(parts, t, top)
        cuda.syncwarp()
        sums[0] = least
        other = 0
        while other < end:  # threads without columns have the least
            compare_some(0, sums, parts, first + other)
            other += some
        top = sums[0]
        cuda.syncwarp()
        mass, pick, total, sum_z, j = T(0), T(0), T(0), T(0), own
        while j < columns:
            z, target = read(where, j) - top, target_of(y, row, code, j)
            mass += target
            pick += target * z
            total += exp(z)
            sum_z += z
            j += together
        put(parts, t, mass)
        put(parts, threads + t, pick)
        put(parts, 2 * threads + t, total)
        put(parts, 3 * threads + t, sum_z)
        cuda.syncwarp()
        for k in range(4):
            sums[k] = T(0)
        other = 0
        while other < end:
            add_some(0, sums, parts, first + other)
            other += some
        mass, pick, total, sum_z = sums[0], sums[1], sums[2], sums[3]
        if smoothing != T(0):
            pick = (T(1) - smoothing) * pick + smoothing * mass * sum_z / T(outputs)
        if inside and with_gradient != 0:
            share, floor = scale * weight * mass / total, scale * weight * mass * smoothing / T(outputs)
            factor = scale * weight * (T(1) - smoothing)
            j = own
            while j < padded:
                g = T(0)  # padding
                if j < columns:
                    g = exp(read(where, j) - top) * share - floor - factor * target_of(y, row, code, j)
                write(where, j, T(g))
                j += together
        if inside and own == 0:
            note_loss(
                control, row_losses, i,
                np.float64(weight * mass) * log(np.float64(total)) - np.float64(weight) * np.float64(pick),
            )  # fmt: skip

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
def separable_row(dtype: str, kernel: str, together: int, threads: int, read, write):
    """A loss that is a sum over outputs, by its declaration's term and slope."""
    T, D = getattr(np, dtype), item_type["float64"]
    term, slope = (_of_four(kernel, field, dtype) for field in ("term", "slope"))

    @inlined
    def separable_row(
        control, i, row, inside, code, weight, y, a, b, numbers, scale, facts, where, work, row_losses, parts
    ):  # fmt: skip
        outputs, padded, with_gradient, _ = facts
        t, loss = cuda.threadIdx.x, 0.0
        own = t % together
        j, end = own, padded if inside else 0
        while j < end:
            g = T(0)  # padding
            if j < outputs:
                z, target = read(where, j), T(y[row, j])
                loss += np.float64(T(term(z, target, a, b)))
                g = scale * weight * T(slope(z, target, a, b))
            if with_gradient != 0:
                write(where, j, T(g))
            j += together
        losses = cuda.shared.array(threads, D)
        losses[t] = loss
        cuda.syncwarp()
        if inside and own == 0:
            for other in range(1, min(together, outputs)):
                loss += losses[t + other]
            note_loss(control, row_losses, i, loss * np.float64(weight))

    return separable_row


@cache
def whole_row(dtype: str, kernel: str, together: int, threads: int, read, write):
    """A loss that takes a row's logits together, out of the panels and back, by its declaration's `row`: one thread of
    those that share the row.
    """
    T, of_row = getattr(np, dtype), declarations.function_of(kernel, "row", dtype)

    @device_function
    def whole_row(
        control, i, row, inside, code, weight, y, a, b, numbers, scale, facts, where, work, row_losses, parts
    ):  # fmt: skip
        if not inside or cuda.threadIdx.x % together != 0:
            return
        n, padded, with_gradient, row_data = facts
        first = row_data + 2 * i * n
        z, g = work[first : first + n], work[first + n : first + 2 * n]
        for j in range(n):
            z[j] = read(where, j)
        loss = np.float64(weight) * np.float64(of_row(z, y[row], g, n, numbers))
        for j in range(n):  # a comparison can hide a NaN
            loss += np.float64(z[j] - z[j])
        note_loss(control, row_losses, i, loss)
        if with_gradient != 0:
            for j in range(padded):
                write(where, j, T(scale * weight * g[j]) if j < n else T(0))

    return whole_row


def is_loss(kernel: str) -> bool:
    """Whether a record's kernel is a loss, with targets of a kind that runs here."""
    family, _, kind = kernel.rpartition(".")
    if family == "softmax_cross_entropy" or declarations.is_custom(family):
        return kind in ("codes", "dense")
    return kind == "dense" and family in LOSSES and not LOSSES[family].across


@cache
def row_loss(dtype: str, kernel: str, together: int, threads: int, read, write):
    """The loss of a row by the name that the plan has for the CPU's kernel: "huber.dense"... A function of

    - control; i, the row of the batch, `row`, that of the data, and whether it is inside the batch; its code, if
      targets are codes, and its weight; y, the loss's own numbers, of which a and b are the first, in the plan's dtype;
      the scale of gradients;
    - facts: (outputs, columns with padding, whether the gradient is wanted, place of what `whole_row` needs);
    - where: where logits are, for `read` and `write`, as `in_panels` gives them;
    - work, row_losses, and parts, four numbers for each thread of a block in shared memory.

    So many threads next to each other, `together`, a power of two and at most a warp, have one row. All threads of a
    block call it: those whose row is not inside do nothing but wait.
    """
    family, _, kind = kernel.rpartition(".")
    if family == "softmax_cross_entropy":
        return softmax_cross_entropy_row(dtype, kind == "codes", together, threads, read, write)
    of_row = separable_row if declarations.declaration_of(family).row is None else whole_row
    return of_row(dtype, kernel, together, threads, read, write)


@cache
def code_of(kernel: str):
    """f(y, row): a row's code, where the loss takes codes."""
    codes = kernel.endswith(".codes")

    @inlined
    def code_of(y, row):
        return y[row, 0] if codes else 0

    return code_of


@cache
def losses_of_rows(dtype: str, kernel: str, together: int, threads: int, in_batch: bool):
    """f(control, table, k, order, index, first, y, weights, a, b, numbers, scale, work, row_losses, parts, begin, end,
    distance): the losses of rows of the batch from `begin` to `end`, as many at a time as the block has threads for,
    and from there on every `distance`. `in_batch`: targets and weights lie in the batch's order. All threads call it.
    """
    T, code, record = getattr(np, dtype), code_of(kernel), of_record(dtype)
    of_row = row_loss(dtype, kernel, together, threads, *in_panels(dtype))

    @inlined
    def losses_of_rows(
        control, table, k, order, index, first, y, weights, a, b, numbers, scale, work, row_losses, parts, begin, end,
        distance,
    ):  # fmt: skip
        for some in range(begin, end, distance):
            i = some + cuda.threadIdx.x // together
            row, inside, own_code, weight = i, i < end, 0, T(1)
            if inside:
                if not in_batch:
                    row = data_row(order, index, first, i)
                own_code = code(y, row)
                if table[k, R.SW] >= 0:
                    weight = weights[row]
            facts, where = record(table, k, work, i)
            of_row(
                control, i, row, inside, own_code, weight, y, a, b, numbers, scale, facts, where, work, row_losses,
                parts,
            )  # fmt: skip
            cuda.syncwarp()  # before the next row's sums are written where this one's are read

    return losses_of_rows


@cuda_kernel
def loss(dtype: str, kernel: str, in_batch: bool):
    """The losses of all rows. Launched with blocks of `THREADS`."""
    T, D, size, rows_of_block = getattr(np, dtype), item_type[dtype], 4 * THREADS, THREADS // TOGETHER
    losses = losses_of_rows(dtype, kernel, TOGETHER, THREADS, in_batch)

    def loss(control, steps, scalars, table, k, order, y, weights, numbers, work, row_losses):
        if failed_before(control):
            return
        step = control[STEP]
        rows, index, first = steps[step, R.STEP_ROWS], steps[step, R.STEP_INDEX], steps[step, R.STEP_FIRST]
        scale, parts = T(scalars[steps[step, R.STEP_SCALARS] + R.SCALE]), cuda.shared.array(size, D)
        losses(
            control, table, k, order, index, first, y, weights, T(numbers[0]), T(numbers[1]), numbers, scale, work,
            row_losses, parts, cuda.blockIdx.x * rows_of_block, rows, cuda.gridDim.x * rows_of_block,
        )  # fmt: skip

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
