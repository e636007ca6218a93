"""Kernels of the losses, for rows lo..hi: the logits are overwritten with scale * weight * gradient."""

from __future__ import annotations

import numpy as np
from numba import njit

from .. import records as R
from ..simd import ITEMSIZE, Simd
from .elementary import INLINE, SCALAR, functions
from .elementwise import compiled
from .ir import atomic_store, clear_behind, float64_at, int64_at, items_at
from .rows import AHEAD, copy_columns, data_row, prefetch_row
from .sums import array_sum, maxima_of_rows, row_sum, sums_of_rows


@njit(**INLINE)
def order_of_targets(r, w):
    """(in_order, first) for `data_row`: where the targets and weights of the batch's rows are."""
    in_batch = r[R.IN_BATCH] != 0
    return in_batch or w[R.INDEX] == 0, 0 if in_batch else w[R.FIRST]


@njit(**SCALAR)
def prefetch_target(y, n_bytes, weights, item, row):
    """Ask for the targets, so many bytes, and the weight of a row of shuffled data."""
    prefetch_row(y + row * n_bytes, n_bytes)
    if weights != 0:
        prefetch_row(weights + row * item, item)


def softmax_kernel(codes: bool):
    """Softmax cross-entropy; targets are integer codes or rows of probabilities.

    The exponentials are taken in passes over panels, whose rows are neighbours, and the logarithms at the end: many at
    a time, even where a row has two classes. With y summing to `mass`,
    l = mass log(sum exp(z - top)) - sum y (z - top).
    """

    def build(dtype, simd):
        item, panel_width, items = ITEMSIZE[dtype], simd.panel(dtype), items_at[dtype]
        T, exp, log = getattr(np, dtype), functions(dtype).exp, functions("float64").log
        nothing = T(-1e4)  # exp of it is 0
        row_maxima, row_totals = maxima_of_rows(dtype, simd), sums_of_rows(dtype, simd, "x")
        row_mass, row_pick = array_sum(dtype, simd), row_sum(dtype, simd, "xw", shifted=True)
        lanes = min(simd.widths(dtype))  # divides the width of panels but a column's: loops over so many need no tails

        def softmax(record, lo, hi, worker):
            r, w = int64_at(record), int64_at(worker)
            n_panels, n_out, c, c_panel, last = r[R.N_PANELS], r[R.N_OUT], r[R.C], r[R.C_PANEL_BYTES], r[R.LAST_WIDTH]
            index, (in_order, first_row) = int64_at(w[R.INDEX]), order_of_targets(r, w)
            asked = lo if in_order else hi  # the processor sees what lies in order coming by itself
            scale = T(float64_at(w[R.SCALARS])[R.SCALE])
            Y, y_bytes, weights, labels = r[R.Y], 8 if codes else r[R.Y_STRIDE] * item, r[R.SW], int64_at(r[R.Y])
            losses, masses, picks = float64_at(r[R.ROW_LOSS]), float64_at(r[R.ROW_MASS]), float64_at(r[R.ROW_PICK])
            smoothing = T(float64_at(r[R.NUMBERS])[0])  # y becomes (1 - smoothing) y + smoothing mass / n_out
            last_panel = n_panels - 1
            tops = float64_at(r[R.ROW_DATA])  # then each row's share in its gradient
            sums = float64_at(r[R.ROW_DATA] + r[R.ROW_BYTES])

            row_maxima(tops, c, c_panel, last_panel, last, n_out, lo, hi)
            if smoothing != T(0):  # sums of z - top
                row_totals(sums, 1, c, 0, 0, c_panel, last_panel, last, tops, 0, n_out, lo, hi)
                for i in range(lo, hi):
                    sums[i] -= n_out * tops[i]
            for i in range(lo, min(lo + AHEAD, asked)):
                prefetch_target(Y, y_bytes, weights, item, index[i])
            for i in range(lo, hi):
                if i + AHEAD < asked:
                    prefetch_target(Y, y_bytes, weights, item, index[i + AHEAD])
                row, top = data_row(in_order, first_row, index, i), T(tops[i])
                if codes:
                    j = labels[row] // panel_width
                    width = panel_width if j < last_panel else last
                    z = items(c + j * c_panel + i * width * item)[labels[row] - j * panel_width]
                    masses[i], picks[i] = 1.0, np.float64(z - top)
                else:
                    y = Y + row * y_bytes
                    masses[i] = row_mass(y, 0, T(0), n_out)
                    picks[i] = row_pick(c, y, 0, i, c_panel, last_panel, last, top, 0, n_out)

            for j in range(n_panels):
                width = panel_width if j < last_panel else last
                columns, first = min(width, n_out - j * panel_width), c + j * c_panel + lo * width * item
                for i in range(lo, hi):
                    z, top = items(c + j * c_panel + i * width * item), T(tops[i])
                    if columns == panel_width:
                        for k in range(panel_width):
                            z[k] = z[k] - top
                    elif width == 1:
                        z[0] = z[0] - top
                    else:
                        for at in range(0, width, lanes):
                            for k in range(lanes):
                                z[at + k] = z[at + k] - top if at + k < columns else nothing
                z = items(first)
                for k in range((hi - lo) * width):
                    z[k] = exp(z[k])
            row_totals(losses, 1, c, 0, 0, c_panel, last_panel, last, tops, 0, n_out, lo, hi)

            for i in range(lo, hi):  # the gradient: weight (mass p - y)
                weight = T(1) if weights == 0 else items(weights)[data_row(in_order, first_row, index, i)]
                mass, pick = T(masses[i]), T(picks[i])
                if smoothing != T(0):
                    pick = (T(1) - smoothing) * pick + smoothing * mass * T(sums[i]) / T(n_out)
                masses[i], picks[i] = np.float64(weight * mass), np.float64(weight) * np.float64(pick)
                tops[i] = np.float64(scale * T(masses[i]) / T(losses[i]))
            if r[R.WITH_GRADIENT] != 0:
                for j in range(n_panels):
                    width = panel_width if j < n_panels - 1 else last
                    columns = min(width, n_out - j * panel_width)
                    for i in range(lo, hi):
                        z, share = items(c + j * c_panel + i * width * item), T(tops[i])
                        if width == panel_width:
                            for k in range(panel_width):
                                z[k] = z[k] * share
                        elif width == 1:
                            z[0] = z[0] * share
                        else:
                            for at in range(0, width, lanes):
                                for k in range(lanes):
                                    z[at + k] = z[at + k] * share
                        if smoothing != T(0):
                            floor = scale * T(masses[i]) * smoothing / T(n_out)
                            for k in range(columns):
                                z[k] -= floor
                        if not codes:
                            row = data_row(in_order, first_row, index, i)
                            y = items(Y + row * y_bytes + j * panel_width * item)
                            factor = scale if weights == 0 else scale * items(weights)[row]
                            factor *= T(1) - smoothing
                            for k in range(columns):
                                z[k] -= factor * y[k]
                if codes:
                    for i in range(lo, hi):
                        row = data_row(in_order, first_row, index, i)
                        factor = scale if weights == 0 else scale * items(weights)[row]
                        j = labels[row] // panel_width
                        width = panel_width if j < n_panels - 1 else last
                        z = items(c + j * c_panel + i * width * item)
                        z[labels[row] - j * panel_width] -= factor * (T(1) - smoothing)

            not_finite = 0
            for i in range(lo, hi):
                losses[i] = masses[i] * log(losses[i]) - picks[i]
                not_finite += 1 if losses[i] - losses[i] != 0.0 else 0
            if not_finite:
                atomic_store(w[R.CONTROL] + 8 * R.NOT_FINITE, 1)

        return softmax

    return build


def separable_kernel(declaration, compiled=compiled):
    """A loss that is a sum over outputs, in passes: targets into panels like the logits' own, one flat loop over each
    panel for the terms (over the targets) and the slopes (over the logits), then rows' sums (in float64) and weights.

    Terms are of the dtype: each has an error of a few roundings of itself, as the logits have.
    """

    def build(dtype, simd):
        item, panel_width, items = ITEMSIZE[dtype], simd.panel(dtype), items_at[dtype]
        T = getattr(np, dtype)
        term, slope = compiled(declaration.term, dtype), compiled(declaration.slope, dtype)
        copy, row_totals = copy_columns(dtype, dtype, simd), sums_of_rows(dtype, simd, "x")
        clear = clear_behind(dtype, min(simd.widths(dtype)))

        @njit(**INLINE)
        def clear_padding(z, rows, columns, width):
            for i in range(rows):
                clear(z + i * width * item, columns, width)

        def separable(record, lo, hi, worker):
            r, w = int64_at(record), int64_at(worker)
            n_panels, n_out, last, c_panel = r[R.N_PANELS], r[R.N_OUT], r[R.LAST_WIDTH], r[R.C_PANEL_BYTES]
            index, (in_order, first_row) = int64_at(w[R.INDEX]), order_of_targets(r, w)
            asked = lo if in_order else hi  # the processor sees what lies in order coming by itself
            scale = T(float64_at(w[R.SCALARS])[R.SCALE])
            Y, y_bytes, weights = r[R.Y], r[R.Y_STRIDE] * item, r[R.SW]
            losses, numbers = float64_at(r[R.ROW_LOSS]), float64_at(r[R.NUMBERS])
            a, b = T(numbers[0]), T(numbers[1])
            last_panel = n_panels - 1
            n_last = n_out - last_panel * panel_width
            for i in range(lo, min(lo + AHEAD, asked)):
                prefetch_target(Y, y_bytes, weights, item, index[i])
            terms = items(r[R.ROW_DATA])
            if last == 1:  # one column
                for i in range(lo, hi):
                    if i + AHEAD < asked:
                        prefetch_target(Y, y_bytes, weights, item, index[i + AHEAD])
                    terms[i] = items(Y)[data_row(in_order, first_row, index, i)]
            else:
                for i in range(lo, hi):
                    if i + AHEAD < asked:
                        prefetch_target(Y, y_bytes, weights, item, index[i + AHEAD])
                    y, out = Y + data_row(in_order, first_row, index, i) * y_bytes, r[R.ROW_DATA]
                    for _ in range(last_panel):
                        copy(y, out + i * panel_width * item, panel_width, 0, T(1), T(0))
                        y, out = y + panel_width * item, out + c_panel
                    copy(y, out + i * last * item, n_last, 0, T(1), T(0))
            for j in range(n_panels):
                width = panel_width if j < last_panel else last
                columns = min(width, n_out - j * panel_width)
                at, n = j * c_panel + lo * width * item, (hi - lo) * width
                z, t = items(r[R.C] + at), items(r[R.ROW_DATA] + at)
                if r[R.WITH_GRADIENT] != 0:
                    for k in range(n):
                        zk, yk = z[k], t[k]
                        t[k] = term(zk, yk, a, b)
                        z[k] = scale * slope(zk, yk, a, b)
                    if columns < width:
                        clear_padding(r[R.C] + at, hi - lo, columns, width)
                else:
                    for k in range(n):
                        t[k] = term(z[k], t[k], a, b)
                if weights != 0 and r[R.WITH_GRADIENT] != 0:
                    for i in range(hi - lo):
                        weight = items(weights)[data_row(in_order, first_row, index, lo + i)]
                        for k in range(columns):
                            z[i * width + k] = weight * z[i * width + k]
            if last == 1:
                for i in range(lo, hi):
                    losses[i] = np.float64(terms[i])
            else:
                row_totals(losses, 1, r[R.ROW_DATA], 0, 0, c_panel, last_panel, last, losses, 0, n_out, lo, hi)
            not_finite = 0
            for i in range(lo, hi):
                if weights != 0:
                    losses[i] *= np.float64(items(weights)[data_row(in_order, first_row, index, i)])
                not_finite += 1 if losses[i] - losses[i] != 0.0 else 0
            if not_finite:
                atomic_store(w[R.CONTROL] + 8 * R.NOT_FINITE, 1)

        return separable

    return build


def row_kernel(declaration):
    """A loss that takes a row's logits together: row by row, out of the panels and back."""

    def build(dtype, simd):
        item, panel_width, items = ITEMSIZE[dtype], simd.panel(dtype), items_at[dtype]
        T, row_loss = getattr(np, dtype), compiled(declaration.row, dtype)

        def rows(record, lo, hi, worker):
            r, w = int64_at(record), int64_at(worker)
            n_panels, n_out, last = r[R.N_PANELS], r[R.N_OUT], r[R.LAST_WIDTH]
            index, (in_order, first_row) = int64_at(w[R.INDEX]), order_of_targets(r, w)
            asked = lo if in_order else hi  # the processor sees what lies in order coming by itself
            scale = T(float64_at(w[R.SCALARS])[R.SCALE])
            Y, y_bytes, weights = r[R.Y], r[R.Y_STRIDE] * item, r[R.SW]
            losses, numbers = float64_at(r[R.ROW_LOSS]), float64_at(r[R.NUMBERS])
            not_finite = 0
            for i in range(lo, min(lo + AHEAD, asked)):
                prefetch_target(Y, y_bytes, weights, item, index[i])
            for i in range(lo, hi):
                if i + AHEAD < asked:
                    prefetch_target(Y, y_bytes, weights, item, index[i + AHEAD])
                row = data_row(in_order, first_row, index, i)
                weight = T(1) if weights == 0 else items(weights)[row]
                z, g = items(r[R.ROW_DATA] + 2 * i * n_out * item), items(r[R.ROW_DATA] + (2 * i + 1) * n_out * item)
                for j in range(n_panels):
                    width = panel_width if j < n_panels - 1 else last
                    c = items(r[R.C] + j * r[R.C_PANEL_BYTES] + i * width * item)
                    for k in range(min(width, n_out - j * panel_width)):
                        z[j * panel_width + k] = c[k]
                y = items(Y + row * y_bytes)
                loss = np.float64(weight) * np.float64(row_loss(z, y, g, n_out, numbers))
                hidden = 0  # NaN, by a comparison
                for k in range(n_out):
                    hidden += 1 if z[k] - z[k] != T(0) else 0
                loss = np.nan if hidden else loss
                losses[i] = loss
                not_finite += 1 if loss - loss != 0.0 else 0
                if r[R.WITH_GRADIENT] != 0:
                    for j in range(n_panels):
                        width = panel_width if j < n_panels - 1 else last
                        columns = min(width, n_out - j * panel_width)
                        c = items(r[R.C] + j * r[R.C_PANEL_BYTES] + i * width * item)
                        for k in range(columns):
                            c[k] = scale * weight * g[j * panel_width + k]
                        for k in range(columns, width):
                            c[k] = T(0)
            if not_finite:
                atomic_store(w[R.CONTROL] + 8 * R.NOT_FINITE, 1)

        return rows

    return build


def sum_losses(dtype: str, simd: Simd):
    """One unit: the sum of the rows' losses."""
    sum_of = functions("float64").sum_of

    def sum_losses(record, lo, hi, worker):
        r, w = int64_at(record), int64_at(worker)
        for _ in range(lo, hi):
            float64_at(w[R.STEP_LOSS])[0] = sum_of(float64_at(r[R.ROW_LOSS]), w[R.ROWS])

    return sum_losses
