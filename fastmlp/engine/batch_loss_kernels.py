"""Kernels of the losses that look across the rows of a batch.

After the forward pass of all rows, `collect` has put the embeddings by column, the labels and the weights side by side.
Then a unit is a row: it reads all rows and writes its own loss and its own row of the gradient, so nothing depends on
who does which. Distances lie in the worker's scratch, a block of rows at a time: no matrix of all pairs is kept.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .. import records as R
from ..simd import ITEMSIZE, Simd
from .elementary import INLINE, functions
from .ir import atomic_store, float64_at, int64_at, items_at, squares_of_differences, sum_of_differences
from .sums import array_sum

NARROW = 4  # columns, in one panel with every vector unit
WIDE = 16  # columns: then fewer rows at once lie in a first-level cache
BLOCK = R.PAIRS  # rows whose distances are taken at once: as many with every vector unit, for sums are of a block


def collect(dtype: str, simd: Simd):
    """Rows lo..hi: columns[k] = z_k of every row; labels, weights and queries in the order of the batch."""
    item, panel_width, items = ITEMSIZE[dtype], simd.panel(dtype), items_at[dtype]
    T = getattr(np, dtype)

    def collect(record, lo, hi, worker):
        r, w = int64_at(record), int64_at(worker)
        n_panels, n_out, last, stride = r[R.N_PANELS], r[R.N_OUT], r[R.LAST_WIDTH], r[R.COLUMN_STRIDE]
        index, columns = int64_at(w[R.INDEX]), items(r[R.COLUMNS])
        labels, weights = items(r[R.LABELS]), items(r[R.WEIGHTS])
        queries, chosen = int64_at(r[R.QUERIES]), int64_at(r[R.CHOSEN])
        for i in range(lo, hi):
            row = w[R.FIRST] + i if w[R.INDEX] == 0 else index[i]
            if r[R.QUERIES] != 0:
                chosen[i] = queries[row]
            labels[i] = items(r[R.Y])[row]
            weights[i] = T(1) if r[R.SW] == 0 else items(r[R.SW])[row]
            for j in range(n_panels):
                width = panel_width if j < n_panels - 1 else last
                z = items(r[R.C] + j * r[R.C_PANEL_BYTES] + i * width * item)
                for k in range(min(width, n_out - j * panel_width)):
                    columns[(j * panel_width + k) * stride + i] = z[k]

    return collect


def _parts(dtype: str, simd: Simd):
    """What the kernels below are made of."""
    item, panel_width, items = ITEMSIZE[dtype], simd.panel(dtype), items_at[dtype]
    T, lanes = getattr(np, dtype), simd.vector_bytes // item
    least = min(simd.widths(dtype))
    with_two, with_one, with_part = (sum_of_differences(dtype, *size) for size in ((2, lanes), (1, lanes), (1, least)))
    of_four, of_one, of_number = (squares_of_differences(dtype, *size) for size in ((4, lanes), (1, lanes), (1, 1)))

    @njit(**INLINE)
    def squared_distances(record, i, start, n, target):
        """target[j] = |z_i - z_{start + j}|^2, for j up to n."""
        r = int64_at(record)
        x, others, stride = r[R.COLUMNS] + i * item, r[R.COLUMNS] + start * item, r[R.COLUMN_STRIDE] * item
        whole, some = n - n % (4 * lanes), n - n % lanes
        for j in range(0, whole, 4 * lanes):
            of_four(x, others + j * item, stride, r[R.N_OUT], target + j * item)
        for j in range(whole, some, lanes):
            of_one(x, others + j * item, stride, r[R.N_OUT], target + j * item)
        for j in range(some, n):
            of_number(x, others + j * item, stride, r[R.N_OUT], target + j * item)

    @njit(**INLINE)
    def scale_gradient(record, i, factor):
        """g_i *= factor, padding included; with 0, whatever stood there."""
        r = int64_at(record)
        for j in range(r[R.N_PANELS]):
            width = panel_width if j < r[R.N_PANELS] - 1 else r[R.LAST_WIDTH]
            g = items(r[R.DZ] + j * r[R.C_PANEL_BYTES] + i * width * item)
            for k in range(width):
                g[k] = T(0) if factor == T(0) else g[k] * factor

    @njit(**INLINE)
    def add_differences(record, i, start, n, factors):
        """g_i += sum_j factor_j (z_i - z_{start + j}), for j up to n; padding is 0 in all of them."""
        r = int64_at(record)
        for j in range(r[R.N_PANELS]):
            width = panel_width if j < r[R.N_PANELS] - 1 else r[R.LAST_WIDTH]
            g, z = r[R.DZ] + j * r[R.C_PANEL_BYTES], r[R.C] + j * r[R.C_PANEL_BYTES]
            row_bytes, one = width * item, i * width * item
            g, own, others = g + one, z + one, z + start * row_bytes
            if width == panel_width:
                with_two(factors, own, others, row_bytes, n, g)
            elif width == lanes:
                with_one(factors, own, others, row_bytes, n, g)
            else:
                for at in range(0, row_bytes, least * item):
                    with_part(factors, own + at, others + at, row_bytes, n, g + at)

    @njit(**INLINE)
    def add_difference(record, i, other, c):
        """g_i += c (z_i - z_other)."""
        r = int64_at(record)
        for j in range(r[R.N_PANELS]):
            width = panel_width if j < r[R.N_PANELS] - 1 else r[R.LAST_WIDTH]
            at = j * r[R.C_PANEL_BYTES]
            g, z = items(r[R.DZ] + at + i * width * item), items(r[R.C] + at + i * width * item)
            u = items(r[R.C] + at + other * width * item)
            for k in range(min(width, r[R.N_OUT] - j * panel_width)):
                g[k] += c * (z[k] - u[k])

    return squared_distances, scale_gradient, add_differences, add_difference


def contrastive(dtype: str, simd: Simd):
    """Row i: l_i over all pairs (i, j), and g_i = scale / (n - 1) sum_j (w_i + w_j) dl(i, j) / dz_i."""
    item, items = ITEMSIZE[dtype], items_at[dtype]
    T = getattr(np, dtype)
    squared_distances, scale_gradient, add_differences, _ = _parts(dtype, simd)
    sum_terms, sum_differences = array_sum(dtype, simd), array_sum(dtype, simd, "xw", shifted=True)

    def contrastive(record, lo, hi, worker):
        r, w = int64_at(record), int64_at(worker)
        rows, scale = w[R.ROWS], T(float64_at(w[R.SCALARS])[R.SCALE])
        labels, weights, losses = items(r[R.LABELS]), items(r[R.WEIGHTS]), float64_at(r[R.ROW_LOSS])
        margin = T(float64_at(r[R.NUMBERS])[0])
        terms, slopes = items(w[R.SCRATCH]), items(w[R.SCRATCH] + BLOCK * item)
        columns, stride, n_out, width = r[R.COLUMNS], r[R.COLUMN_STRIDE], r[R.N_OUT], r[R.LAST_WIDTH]
        pairs, block = max(rows - 1, 1), BLOCK if n_out <= WIDE else BLOCK // 4
        end = min(hi, rows)
        for i in range(lo, end):
            losses[i] = 0.0
            if r[R.WITH_GRADIENT] != 0:
                scale_gradient(record, i, T(0))
        for start in range(0, rows, block):  # which stays in the cache for all rows of this unit
            n = min(block, rows - start)
            for i in range(lo, end):
                label, weight = labels[i], weights[i]
                squared_distances(record, i, start, n, w[R.SCRATCH])
                for j in range(n):
                    square, alike = terms[j], labels[start + j] == label
                    distance = np.sqrt(square)
                    near = margin - distance
                    near = T(0) if near < T(0) else near
                    pull = -near / distance if distance > T(0) else T(0)
                    slopes[j] = (T(1) if alike else pull) * (weight + weights[start + j])
                    terms[j] = T(0.5) * (square if alike else near * near)
                losses[i] += sum_terms(w[R.SCRATCH], 0, T(0), n)
                if r[R.WITH_GRADIENT] == 0:
                    continue
                if n_out <= NARROW:  # column by column: a pair has too few numbers for a vector
                    g = items(r[R.DZ] + i * width * item)
                    for k in range(n_out):
                        z = columns + k * stride * item
                        g[k] -= T(sum_differences(z + start * item, w[R.SCRATCH] + BLOCK * item, items(z)[i], n))
                else:
                    add_differences(record, i, start, n, w[R.SCRATCH] + BLOCK * item)
        not_finite = 0
        for i in range(lo, end):
            if r[R.WITH_GRADIENT] != 0:
                scale_gradient(record, i, scale / T(pairs))
            losses[i] = np.float64(weights[i]) * losses[i] / pairs
            not_finite += 1 if losses[i] - losses[i] != 0.0 else 0
        if not_finite:
            atomic_store(w[R.CONTROL] + 8 * R.NOT_FINITE, 1)

    return contrastive


def triplet_choose(dtype: str, simd: Simd):
    """Row i as the anchor: its farthest row of the same label, its nearest of another, and its loss."""
    item, items = ITEMSIZE[dtype], items_at[dtype]
    T, most = getattr(np, dtype), np.finfo(dtype).max
    squared_distances, _, _, _ = _parts(dtype, simd)
    max_of = functions(dtype).max_of

    @njit(**INLINE)
    def first_of(x, value, n):
        j = 0
        while j < n - 1 and x[j] != value:
            j += 1
        return j

    def triplet_choose(record, lo, hi, worker):
        r, w = int64_at(record), int64_at(worker)
        rows, scale = w[R.ROWS], T(float64_at(w[R.SCALARS])[R.SCALE])
        labels, weights, losses = items(r[R.LABELS]), items(r[R.WEIGHTS]), float64_at(r[R.ROW_LOSS])
        margin = T(float64_at(r[R.NUMBERS])[0])
        d, alike = items(w[R.SCRATCH]), items(w[R.SCRATCH] + BLOCK * item)
        chosen, slopes = int64_at(r[R.CHOSEN]), items(r[R.SLOPES])
        end, not_finite = min(hi, rows), 0
        block = BLOCK if r[R.N_OUT] <= WIDE else BLOCK // 4
        for i in range(lo, end):  # the slopes are squared distances until all rows have been seen
            chosen[2 * i] = chosen[2 * i + 1] = -1
            slopes[2 * i], slopes[2 * i + 1], losses[i] = T(-1), T(most), 0.0
        for start in range(0, rows, block):  # which stays in the cache for all rows of this unit
            n = min(block, rows - start)
            for i in range(lo, end):
                label, hidden = labels[i], 0
                squared_distances(record, i, start, n, w[R.SCRATCH])
                for j in range(n):
                    hidden += 1 if d[j] - d[j] != T(0) else 0  # NaN, by a comparison
                if hidden:
                    losses[i] = np.nan
                for j in range(n):  # d: minus the distances to others, of which the largest is the nearest
                    same, dj = labels[start + j] == label, d[j]
                    alike[j] = dj if same else T(-1)
                    d[j] = T(-most) if same else -dj
                if start <= i < start + n:
                    alike[i - start] = T(-1)
                far, near = max_of(alike, n), max_of(d, n)
                if far > slopes[2 * i]:
                    slopes[2 * i], chosen[2 * i] = far, start + first_of(alike, far, n)
                if -near < slopes[2 * i + 1]:
                    slopes[2 * i + 1], chosen[2 * i + 1] = -near, start + first_of(d, near, n)
        for i in range(lo, end):
            far, near = np.sqrt(slopes[2 * i]), np.sqrt(slopes[2 * i + 1])
            loss = margin + far - near
            if chosen[2 * i] < 0 or chosen[2 * i + 1] < 0 or loss <= T(0):
                loss, chosen[2 * i], chosen[2 * i + 1] = T(0), -1, -1
            weight = scale * weights[i]
            slopes[2 * i] = weight / far if far > T(0) else T(0)
            slopes[2 * i + 1] = -weight / near if near > T(0) else T(0)
            losses[i] += np.float64(weights[i]) * np.float64(loss)
            not_finite += 1 if losses[i] - losses[i] != 0.0 else 0
        if not_finite:
            atomic_store(w[R.CONTROL] + 8 * R.NOT_FINITE, 1)

    return triplet_choose


def triplet_gradient(dtype: str, simd: Simd):
    """Row i: g_i as the anchor, and as what other anchors chose, in the order of the rows."""
    items = items_at[dtype]
    T = getattr(np, dtype)
    _, scale_gradient, _, add_difference = _parts(dtype, simd)

    def triplet_gradient(record, lo, hi, worker):
        r, rows = int64_at(record), int64_at(worker)[R.ROWS]
        chosen, slopes = int64_at(r[R.CHOSEN]), items(r[R.SLOPES])
        for i in range(lo, min(hi, rows)):
            scale_gradient(record, i, T(0))
            for k in range(2 * rows):
                if chosen[k] == i:
                    add_difference(record, i, k // 2, slopes[k])
            for k in range(2 * i, 2 * i + 2):
                if chosen[k] >= 0:
                    add_difference(record, i, chosen[k], slopes[k])

    return triplet_gradient


def ranknet(dtype: str, simd: Simd):
    """Row i with all rows of its query, which lie around it: half of each pair's loss, and its own g_i."""
    item, items = ITEMSIZE[dtype], items_at[dtype]
    T, exp = getattr(np, dtype), functions(dtype).exp
    log1p_of_exp_minus_abs, sum_of = functions(dtype).log1p_of_exp_minus_abs, array_sum(dtype, simd)

    def ranknet(record, lo, hi, worker):
        r, w = int64_at(record), int64_at(worker)
        rows, scale = w[R.ROWS], T(float64_at(w[R.SCALARS])[R.SCALE])
        labels, weights, losses = items(r[R.LABELS]), items(r[R.WEIGHTS]), float64_at(r[R.ROW_LOSS])
        z, query, width = items(r[R.COLUMNS]), int64_at(r[R.CHOSEN]), r[R.LAST_WIDTH]
        terms, slopes = items(w[R.SCRATCH]), items(w[R.SCRATCH] + BLOCK * item)
        not_finite = 0
        for i in range(lo, min(hi, rows)):
            first, end = i, i + 1
            while first > 0 and query[first - 1] == query[i]:
                first -= 1
            while end < rows and query[end] == query[i]:
                end += 1
            own, label, total, slope = z[i], labels[i], 0.0, 0.0
            for start in range(first, end, BLOCK):
                n = min(BLOCK, end - start)
                others, their = items(r[R.COLUMNS] + start * item), items(r[R.LABELS] + start * item)
                for j in range(n):
                    sign = T(1) if label > their[j] else (T(-1) if label < their[j] else T(0))
                    x = -sign * (own - others[j])
                    e = exp(-abs(x))
                    terms[j] = abs(sign) * ((x if x > T(0) else T(0)) + log1p_of_exp_minus_abs(x))
                    slopes[j] = -sign * (e if x < T(0) else T(1)) / (T(1) + e)
                total += sum_of(w[R.SCRATCH], 0, T(0), n)
                slope += sum_of(w[R.SCRATCH] + BLOCK * item, 0, T(0), n)
            losses[i] = 0.5 * np.float64(weights[i]) * total + np.float64(own - own)  # NaN too where a row has no pairs
            not_finite += 1 if losses[i] - losses[i] != 0.0 else 0
            if r[R.WITH_GRADIENT] != 0:
                g = items(r[R.DZ] + i * width * item)
                for k in range(width):
                    g[k] = T(0)
                g[0] = scale * weights[i] * T(slope)
        if not_finite:
            atomic_store(w[R.CONTROL] + 8 * R.NOT_FINITE, 1)

    return ranknet


def listnet(dtype: str, simd: Simd):
    """The first row of a query does all of it: its rows' losses and gradients; the units of the others do nothing."""
    item, items = ITEMSIZE[dtype], items_at[dtype]
    T, exp, log = getattr(np, dtype), functions(dtype).exp, functions("float64").log

    def listnet(record, lo, hi, worker):
        r, w = int64_at(record), int64_at(worker)
        rows, scale = w[R.ROWS], float64_at(w[R.SCALARS])[R.SCALE]
        z, y, losses = items(r[R.COLUMNS]), items(r[R.LABELS]), float64_at(r[R.ROW_LOSS])
        query, width = int64_at(r[R.CHOSEN]), r[R.LAST_WIDTH]
        not_finite = 0
        for i in range(lo, min(hi, rows)):
            if i > 0 and query[i - 1] == query[i]:
                continue
            end, top_z, top_y = i, z[i], y[i]
            while end < rows and query[end] == query[i]:
                top_z = z[end] if z[end] > top_z else top_z
                top_y = y[end] if y[end] > top_y else top_y
                end += 1
            mass_z, mass_y = 0.0, 0.0
            for j in range(i, end):
                mass_z += np.float64(exp(z[j] - top_z))
                mass_y += np.float64(exp(y[j] - top_y))
            log_mass = log(mass_z)
            for j in range(i, end):
                p, q = np.float64(exp(y[j] - top_y)) / mass_y, np.float64(exp(z[j] - top_z)) / mass_z
                losses[j] = -p * (np.float64(z[j] - top_z) - log_mass)
                not_finite += 1 if losses[j] - losses[j] != 0.0 else 0
                if r[R.WITH_GRADIENT] != 0:
                    g = items(r[R.DZ] + j * width * item)
                    for k in range(width):
                        g[k] = T(0)
                    g[0] = T(scale * (q - p))
        if not_finite:
            atomic_store(w[R.CONTROL] + 8 * R.NOT_FINITE, 1)

    return listnet
