"""Kernels of a layer that adds to the losses: what its values cost, and the slopes of that, for rows lo..hi."""

from __future__ import annotations

import numpy as np
from numba import njit

from .. import records as R
from ..simd import ITEMSIZE, Simd
from .elementary import INLINE
from .ir import atomic_store, float64_at, int64_at, items_at
from .loss_kernels import order_of_targets
from .rows import data_row
from .sums import row_sum


def activity_penalty(dtype: str, simd: Simd):
    """The rows' losses += weight (l1 sum |a| + l2 sum a^2), in float64."""
    items, nothing = items_at[dtype], getattr(np, dtype)(0)
    row_sizes, row_squares = row_sum(dtype, simd, "|x|"), row_sum(dtype, simd, "xx")

    def activity_penalty(record, lo, hi, worker):
        r, w, factors = int64_at(record), int64_at(worker), float64_at(record)
        n_panels, n_out, last, c_panel = r[R.N_PANELS], r[R.N_OUT], r[R.LAST_WIDTH], r[R.C_PANEL_BYTES]
        index, (in_order, first_row) = int64_at(w[R.INDEX]), order_of_targets(r, w)
        weights, losses = r[R.SW], float64_at(r[R.ROW_LOSS])
        l1, l2 = factors[R.ACTIVITY_L1], factors[R.ACTIVITY_L2]
        not_finite = 0
        for i in range(lo, hi):
            penalty = 0.0
            if l1 != 0.0:
                penalty += l1 * row_sizes(r[R.C], 0, 0, i, c_panel, n_panels - 1, last, nothing, 0, n_out)
            if l2 != 0.0:
                penalty += l2 * row_squares(r[R.C], 0, 0, i, c_panel, n_panels - 1, last, nothing, 0, n_out)
            if weights != 0:
                penalty *= np.float64(items(weights)[data_row(in_order, first_row, index, i)])
            losses[i] += penalty
            not_finite += 1 if penalty - penalty != 0.0 else 0
        if not_finite:
            atomic_store(w[R.CONTROL] + 8 * R.NOT_FINITE, 1)

    return activity_penalty


def activity_gradient(dtype: str, simd: Simd):
    """C = IN + scale weight (l1 sign(a) + 2 l2 a); padding is IN's."""
    item, panel_width, items = ITEMSIZE[dtype], simd.panel(dtype), items_at[dtype]
    T = getattr(np, dtype)

    @njit(**INLINE)
    def slope(a, l1, l2):
        sign = T(1) if a > T(0) else (T(-1) if a < T(0) else T(0))
        return l1 * sign + l2 * a

    def activity_gradient(record, lo, hi, worker):
        r, w, factors = int64_at(record), int64_at(worker), float64_at(record)
        n_panels, n_out, last, c_panel = r[R.N_PANELS], r[R.N_OUT], r[R.LAST_WIDTH], r[R.C_PANEL_BYTES]
        index, (in_order, first_row) = int64_at(w[R.INDEX]), order_of_targets(r, w)
        weights, scale = r[R.SW], T(float64_at(w[R.SCALARS])[R.SCALE])
        l1, l2 = scale * T(factors[R.ACTIVITY_L1]), scale * T(2 * factors[R.ACTIVITY_L2])
        for j in range(n_panels):
            width = panel_width if j < n_panels - 1 else last
            columns, at = min(width, n_out - j * panel_width), j * c_panel + lo * width * item
            da, a, dz = items(r[R.IN] + at), items(r[R.ACTIVITY] + at), items(r[R.C] + at)
            if r[R.IN] != r[R.C]:  # else they are one, and a loop that reads one and writes the other is no vector's
                for k in range((hi - lo) * width):
                    dz[k] = da[k]
            if weights == 0 and columns == width:  # the rows of a panel are neighbours
                for k in range((hi - lo) * width):
                    dz[k] += slope(a[k], l1, l2)
                continue
            for i in range(hi - lo):
                weight = T(1)
                if weights != 0:
                    weight = items(weights)[data_row(in_order, first_row, index, lo + i)]
                for k in range(i * width, i * width + columns):
                    dz[k] += slope(a[k], weight * l1, weight * l2)

    return activity_gradient
