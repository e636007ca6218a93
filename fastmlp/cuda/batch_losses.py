"""Losses across the rows of a batch: as the CPU's (`engine/batch_loss_kernels.py`), with the sums in another order.

After `collect` the values lie by column, labels and weights side by side. Of distances a block of threads has an
anchor, each thread every n-th of the other rows; no matrix of all pairs is kept. Of ranks a thread has a row, or a
query.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import cuda, types

from .. import records as R
from ..simd import ITEMSIZE
from .device import NOT_FINITE, SIMD, STEP, THREADS
from .functions import (
    cuda_kernel,
    data_row,
    device_function,
    failed_before,
    functions,
    inlined,
    item_type,
    note_loss,
    place,
    sum_of_block,
)

# In `chosen`, two numbers for each row of the batch: the rows that an anchor chose; or first its query
PAIR = 2


@cuda_kernel
def collect(dtype: str, queries: bool):
    """columns[k] = z_k of every row; labels, weights and queries in the order of the batch."""
    T, item, panel = getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype)

    def collect(control, steps, table, k, order, y, weights, query, chosen, work):
        if control[NOT_FINITE] != 0:
            return
        step = control[STEP]
        rows, index, first = steps[step, R.STEP_ROWS], steps[step, R.STEP_INDEX], steps[step, R.STEP_FIRST]
        last, panel_items, stride = (
            table[k, R.N_PANELS] - 1,
            table[k, R.C_PANEL_BYTES] // item,
            table[k, R.COLUMN_STRIDE],
        )
        c, columns = table[k, R.C] // item, table[k, R.COLUMNS] // item
        for e in range(cuda.grid(1), rows * table[k, R.N_OUT], cuda.gridsize(1)):
            column = e // rows
            i = e - column * rows
            work[columns + column * stride + i] = work[
                c + place(i, column, panel, last, panel_items, table[k, R.LAST_WIDTH])
            ]
            if column == 0:
                row = data_row(order, index, first, i)
                work[table[k, R.LABELS] // item + i] = y[row, 0]
                work[table[k, R.WEIGHTS] // item + i] = T(1) if table[k, R.SW] < 0 else weights[row]
                if queries:
                    chosen[i] = query[row, 0]

    return collect


@cache
def _squared_distance(dtype: str):
    T, item = getattr(np, dtype), ITEMSIZE[dtype]

    @device_function
    def squared_distance(table, k, work, i, j):
        """|z_i - z_j|^2"""
        columns, stride, total = table[k, R.COLUMNS] // item, table[k, R.COLUMN_STRIDE], T(0)
        for column in range(table[k, R.N_OUT]):
            e = work[columns + column * stride + i] - work[columns + column * stride + j]
            total += e * e
        return total

    return squared_distance


@cache
def _gradient_of_row(dtype: str):
    """Where number `column` of row i of the gradient belongs."""
    item, panel = ITEMSIZE[dtype], SIMD.panel(dtype)

    @inlined
    def gradient_of_row(table, k, i, column):
        last, panel_items = table[k, R.N_PANELS] - 1, table[k, R.C_PANEL_BYTES] // item
        return table[k, R.DZ] // item + place(i, column, panel, last, panel_items, table[k, R.LAST_WIDTH])

    return gradient_of_row


@cuda_kernel
def contrastive(dtype: str):
    """Row i: l_i over all pairs (i, j), and g_i = scale / (n - 1) sum_j (w_i + w_j) dl(i, j) / dz_i.

    Launched with blocks of `THREADS`, which take an anchor after the other.
    """
    T, item, panel, D = getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype), item_type[dtype]
    squared_distance, gradient_of_row, sqrt = _squared_distance(dtype), _gradient_of_row(dtype), functions(dtype).sqrt

    def contrastive(control, steps, scalars, table, k, of_loss, chosen, work, row_losses):
        t, step = cuda.threadIdx.x, control[STEP]
        failed = failed_before(control)
        rows, scale = steps[step, R.STEP_ROWS], T(scalars[steps[step, R.STEP_SCALARS] + R.SCALE])
        labels, weights, margin = table[k, R.LABELS] // item, table[k, R.WEIGHTS] // item, T(of_loss[0])
        columns, stride, n = table[k, R.COLUMNS] // item, table[k, R.COLUMN_STRIDE], table[k, R.N_OUT]
        padded = (table[k, R.N_PANELS] - 1) * panel + table[k, R.LAST_WIDTH]
        pairs = max(rows - 1, 1)
        slopes = cuda.shared.array(THREADS, D)
        parts = cuda.shared.array(THREADS, types.float64)
        for i in range(cuda.blockIdx.x, 0 if failed else rows, cuda.gridDim.x):
            label, weight, total = work[labels + i], work[weights + i], 0.0
            if table[k, R.WITH_GRADIENT] != 0:
                for column in range(t, padded, THREADS):
                    work[gradient_of_row(table, k, i, column)] = T(0)
            for start in range(0, rows, THREADS):
                j = start + t
                if j < rows:
                    square, alike = squared_distance(table, k, work, i, j), work[labels + j] == label
                    distance = sqrt(square)
                    near = margin - distance
                    near = T(0) if near < T(0) else near
                    pull = -near / distance if distance > T(0) else T(0)
                    slopes[t] = (T(1) if alike else pull) * (weight + work[weights + j])
                    total += np.float64(T(0.5) * (square if alike else near * near))
                cuda.syncthreads()
                if table[k, R.WITH_GRADIENT] != 0:
                    for column in range(t, n, THREADS):
                        at, of_column = gradient_of_row(table, k, i, column), columns + column * stride
                        g, own = work[at], work[of_column + i]
                        for other in range(min(THREADS, rows - start)):
                            if slopes[other] != T(0):
                                g += slopes[other] * (own - work[of_column + start + other])
                        work[at] = g
                cuda.syncthreads()
            parts[t] = total
            sum_of_block(parts, THREADS)
            if t == 0:
                note_loss(control, row_losses, i, np.float64(weight) * parts[0] / pairs)
            if table[k, R.WITH_GRADIENT] != 0:
                for column in range(t, n, THREADS):
                    work[gradient_of_row(table, k, i, column)] *= scale / T(pairs)
            cuda.syncthreads()

    return contrastive


@cuda_kernel
def triplet_choose(dtype: str):
    """Row i as the anchor: its farthest row of the same label, its nearest of another, and its loss.

    Launched with blocks of `THREADS`, which take an anchor after the other.
    """
    T, item, D = getattr(np, dtype), ITEMSIZE[dtype], item_type[dtype]
    squared_distance, sqrt = _squared_distance(dtype), functions(dtype).sqrt

    def triplet_choose(control, steps, scalars, table, k, of_loss, chosen, work, row_losses):
        t, step = cuda.threadIdx.x, control[STEP]
        failed = failed_before(control)
        rows, scale = steps[step, R.STEP_ROWS], T(scalars[steps[step, R.STEP_SCALARS] + R.SCALE])
        labels, weights, margin = table[k, R.LABELS] // item, table[k, R.WEIGHTS] // item, T(of_loss[0])
        far = cuda.shared.array(THREADS, D)
        near = cuda.shared.array(THREADS, D)
        farthest = cuda.shared.array(THREADS, types.int64)
        nearest = cuda.shared.array(THREADS, types.int64)
        bad = cuda.shared.array(THREADS, types.float64)
        for i in range(cuda.blockIdx.x, 0 if failed else rows, cuda.gridDim.x):
            label = work[labels + i]
            far[t], near[t], farthest[t], nearest[t], bad[t] = T(0), T(0), -1, -1, 0.0
            for j in range(t, rows, THREADS):
                d = squared_distance(table, k, work, i, j)
                bad[t] += np.float64(d - d)  # NaN, which a comparison hides
                if work[labels + j] != label:
                    if nearest[t] < 0 or d < near[t]:
                        near[t], nearest[t] = d, j
                elif j != i and (farthest[t] < 0 or d > far[t]):
                    far[t], farthest[t] = d, j
            half = THREADS // 2
            while half > 0:
                cuda.syncthreads()
                if t < half:  # of equal distances the first row's, as if they had been looked at in their order
                    o = t + half
                    bad[t] += bad[o]
                    if nearest[o] >= 0 and (nearest[t] < 0 or near[o] < near[t]):
                        near[t], nearest[t] = near[o], nearest[o]
                    elif nearest[o] >= 0 and near[o] == near[t] and nearest[o] < nearest[t]:
                        nearest[t] = nearest[o]
                    if farthest[o] >= 0 and (farthest[t] < 0 or far[o] > far[t]):
                        far[t], farthest[t] = far[o], farthest[o]
                    elif farthest[o] >= 0 and far[o] == far[t] and farthest[o] < farthest[t]:
                        farthest[t] = farthest[o]
                half //= 2
            if t == 0:
                own_far, own_near, positive, negative = sqrt(far[0]), sqrt(near[0]), farthest[0], nearest[0]
                loss = margin + own_far - own_near
                if positive < 0 or negative < 0 or loss <= T(0):
                    loss, positive, negative = T(0), -1, -1
                slopes, weight = table[k, R.SLOPES] // item + PAIR * i, scale * work[weights + i]
                chosen[PAIR * i], chosen[PAIR * i + 1] = positive, negative
                work[slopes] = weight / own_far if own_far > T(0) else T(0)
                work[slopes + 1] = -weight / own_near if own_near > T(0) else T(0)
                note_loss(control, row_losses, i, np.float64(work[weights + i]) * (np.float64(loss) + bad[0]))
            cuda.syncthreads()

    return triplet_choose


@cuda_kernel
def triplet_gradient(dtype: str):
    """Row i: g_i as the anchor, and as what other anchors chose, in the order of the rows.

    Launched with blocks of `THREADS`, which take a row after the other.
    """
    T, item, panel, gradient_of_row = getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype), _gradient_of_row(dtype)

    def triplet_gradient(control, steps, table, k, chosen, work):
        if control[NOT_FINITE] != 0:
            return
        rows, slopes = steps[control[STEP], R.STEP_ROWS], table[k, R.SLOPES] // item
        stride, padded = table[k, R.COLUMN_STRIDE], (table[k, R.N_PANELS] - 1) * panel + table[k, R.LAST_WIDTH]
        for i in range(cuda.blockIdx.x, rows, cuda.gridDim.x):
            for column in range(cuda.threadIdx.x, padded, THREADS):
                g = T(0)
                if column < table[k, R.N_OUT]:
                    of_column = table[k, R.COLUMNS] // item + column * stride
                    own = work[of_column + i]
                    for c in range(PAIR * rows):
                        if chosen[c] == i:
                            g += work[slopes + c] * (own - work[of_column + c // PAIR])
                    for c in range(PAIR * i, PAIR * i + PAIR):
                        if chosen[c] >= 0:
                            g += work[slopes + c] * (own - work[of_column + chosen[c]])
                work[gradient_of_row(table, k, i, column)] = g

    return triplet_gradient


@cache
def _put_gradient(dtype: str):
    """The gradient of a row's only output, padding included."""
    T, gradient_of_row = getattr(np, dtype), _gradient_of_row(dtype)

    @device_function
    def put_gradient(table, k, work, i, g):
        for column in range(table[k, R.LAST_WIDTH]):
            work[gradient_of_row(table, k, i, column)] = g if column == 0 else T(0)

    return put_gradient


@cuda_kernel
def ranknet(dtype: str):
    """Row i with all rows of its query, which lie around it: half of each pair's loss, and its own g_i."""
    T, item, put_gradient = getattr(np, dtype), ITEMSIZE[dtype], _put_gradient(dtype)
    exp, log1p_of_exp_minus_abs = functions(dtype).exp, functions(dtype).log1p_of_exp_minus_abs

    def ranknet(control, steps, scalars, table, k, of_loss, query, work, row_losses):
        failed, step = control[NOT_FINITE] != 0, control[STEP]
        rows, scale = steps[step, R.STEP_ROWS], T(scalars[steps[step, R.STEP_SCALARS] + R.SCALE])
        z, labels = table[k, R.COLUMNS] // item, table[k, R.LABELS] // item
        for i in range(cuda.grid(1), 0 if failed else rows, cuda.gridsize(1)):
            first = i
            while first > 0 and query[first - 1] == query[i]:
                first -= 1
            own, label, weight = work[z + i], work[labels + i], work[table[k, R.WEIGHTS] // item + i]
            total, slope, j = 0.0, 0.0, first
            while j < rows and query[j] == query[i]:
                their = work[labels + j]
                sign = T(1) if label > their else (T(-1) if label < their else T(0))
                x = -sign * (own - work[z + j])
                e = exp(-abs(x))
                total += np.float64(abs(sign) * ((x if x > T(0) else T(0)) + log1p_of_exp_minus_abs(x)))
                slope += np.float64(-sign * (e if x < T(0) else T(1)) / (T(1) + e))
                j += 1
            # NaN too where a row has no pairs
            note_loss(control, row_losses, i, 0.5 * np.float64(weight) * total + np.float64(own - own))
            if table[k, R.WITH_GRADIENT] != 0:
                put_gradient(table, k, work, i, scale * weight * T(slope))

    return ranknet


@cuda_kernel
def listnet(dtype: str):
    """The first row of a query does all of it: its rows' losses and gradients."""
    T, item, put_gradient = getattr(np, dtype), ITEMSIZE[dtype], _put_gradient(dtype)
    exp, log = functions(dtype).exp, functions("float64").log

    def listnet(control, steps, scalars, table, k, of_loss, query, work, row_losses):
        failed, step = control[NOT_FINITE] != 0, control[STEP]
        rows, scale = steps[step, R.STEP_ROWS], scalars[steps[step, R.STEP_SCALARS] + R.SCALE]
        z, y = table[k, R.COLUMNS] // item, table[k, R.LABELS] // item
        for i in range(cuda.grid(1), 0 if failed else rows, cuda.gridsize(1)):
            if i == 0 or query[i - 1] != query[i]:
                end, top_z, top_y = i, work[z + i], work[y + i]
                while end < rows and query[end] == query[i]:
                    top_z, top_y = max(top_z, work[z + end]), max(top_y, work[y + end])
                    end += 1
                mass_z, mass_y = 0.0, 0.0
                for j in range(i, end):
                    mass_z += np.float64(exp(work[z + j] - top_z))
                    mass_y += np.float64(exp(work[y + j] - top_y))
                log_mass = log(mass_z)
                for j in range(i, end):
                    p = np.float64(exp(work[y + j] - top_y)) / mass_y
                    q = np.float64(exp(work[z + j] - top_z)) / mass_z
                    note_loss(control, row_losses, j, -p * (np.float64(work[z + j] - top_z) - log_mass))
                    if table[k, R.WITH_GRADIENT] != 0:
                        put_gradient(table, k, work, j, T(scale * (q - p)))

    return listnet
