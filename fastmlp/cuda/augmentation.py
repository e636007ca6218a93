"""Augmentation of gathered rows: noise, affine maps of images, mixtures of two rows.

The random numbers are the CPU's, by the same hashes, and so are the formulas (`engine/augmentation_kernels.py`).
"""

from __future__ import annotations

import math

import numpy as np
from numba import cuda, types

from .. import records as R
from ..engine import augmentation_kernels as cpu
from ..engine.dropout import U
from ..simd import ITEMSIZE
from .device import NOT_FINITE, SIMD, STEP, THREADS
from .dropout import hashed, mask_keys
from .functions import cuda_kernel, device_function, functions, place, sum_of_block

share_of, sine_and_cosine = device_function(cpu.share_of.py_func), device_function(cpu.sine_and_cosine.py_func)


@cuda_kernel
def gaussian_noise(dtype: str):
    """C += NUMBER e, with e normal."""
    T, item, panel = getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype)
    log, minus_cosine = functions(dtype).log, device_function(cpu.minus_cosine(dtype).py_func)
    unit, minus_two = T(2.0**-24), T(-2)

    def gaussian_noise(control, steps, scalars, table, numbers, k, work, state):
        if control[NOT_FINITE] != 0:
            return
        step = control[STEP]
        rows, columns, stddev = steps[step, R.STEP_ROWS], table[k, R.N_OUT], T(numbers[k])
        key_1, key_2 = mask_keys(steps[step, R.STEP_KEY], table[k, R.LAYER])
        c, panel_items = table[k, R.C] // item, table[k, R.C_PANEL_BYTES] // item
        last_panel, last_width = table[k, R.N_PANELS] - 1, table[k, R.LAST_WIDTH]
        for e in range(cuda.grid(1), rows * columns, cuda.gridsize(1)):
            i = e // columns
            at = c + place(i, e - i * columns, panel, last_panel, panel_items, last_width)
            u = T(np.int32(hashed(U(2 * e), key_1, key_2) >> U(8))) * unit + unit  # in (0, 1]
            v = T(np.int32(hashed(U(2 * e + 1), key_1, key_2) >> U(8))) * unit
            work[at] += stddev * (T(math.sqrt(minus_two * log(u))) * minus_cosine(v))

    return gaussian_noise


@cuda_kernel
def random_affine(dtype: str):
    """The images C, each turned, scaled and shifted by its own numbers; what they were is in IMAGES.

    Launched with blocks of `THREADS`, which take an image after the other. `intervals` are those of the numbers, from
    LEAST_ANGLE on.
    """
    T, item, panel = getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype)
    one, D = T(1), types.float64

    def random_affine(control, steps, table, k, work, intervals):
        if control[NOT_FINITE] != 0:
            return
        t, step = cuda.threadIdx.x, control[STEP]
        height, width, channels, n = table[k, R.HEIGHT], table[k, R.WIDTH], table[k, R.CHANNELS], table[k, R.N_OUT]
        key_1, key_2 = mask_keys(steps[step, R.STEP_KEY], table[k, R.LAYER])
        c, panel_items = table[k, R.C] // item, table[k, R.C_PANEL_BYTES] // item
        last, last_width = table[k, R.N_PANELS] - 1, table[k, R.LAST_WIDTH]
        fill = T(intervals[R.FILL - R.LEAST_ANGLE])
        of_map = cuda.shared.array(4, D)  # the centre's place in the target, and sine and cosine over the scale
        for i in range(cuda.blockIdx.x, steps[step, R.STEP_ROWS], cuda.gridDim.x):
            image = table[k, R.IMAGES] // item + i * n
            for e in range(t, n, THREADS):
                work[image + e] = work[c + place(i, e, panel, last, panel_items, last_width)]
            if t == 0:
                e = U(i) * U(4)
                turned = share_of(hashed(e, key_1, key_2))
                across = 2 * share_of(hashed(U(e + U(1)), key_1, key_2)) - 1
                down = 2 * share_of(hashed(U(e + U(2)), key_1, key_2)) - 1
                scaled = share_of(hashed(U(e + U(3)), key_1, key_2))
                least_angle, least_scale = intervals[0], intervals[R.LEAST_SCALE - R.LEAST_ANGLE]
                s, co = sine_and_cosine(least_angle + turned * (intervals[R.MOST_ANGLE - R.LEAST_ANGLE] - least_angle))
                scale = least_scale + scaled * (intervals[R.MOST_SCALE - R.LEAST_ANGLE] - least_scale)
                of_map[0] = 0.5 * (width - 1) + across * intervals[R.MOST_SHIFT_X - R.LEAST_ANGLE]
                of_map[1] = 0.5 * (height - 1) + down * intervals[R.MOST_SHIFT_Y - R.LEAST_ANGLE]
                of_map[2], of_map[3] = s / scale, co / scale
            cuda.syncthreads()
            left, top, s, co = of_map[0], of_map[1], of_map[2], of_map[3]
            for pixel in range(t, height * width, THREADS):
                row = pixel // width
                column, dy = pixel - row * width, row - top
                # as the CPU's: along a row of the target, the place in the source moves by (cosine, -sine)
                at_x = T(0.5 * (width - 1) - co * left + s * dy) + T(column) * T(co)
                at_y = T(0.5 * (height - 1) + s * left + co * dy) + T(column) * T(-s)
                inside = at_x > -one and at_y > -one and at_x < T(width) and at_y < T(height)
                x0, y0 = np.int64(0), np.int64(0)
                if inside:
                    # floors: both are above -1; what lies just below the end becomes the end where 1 is added
                    x0 = min(np.int64(at_x + one) - 1, width - 1)
                    y0 = min(np.int64(at_y + one) - 1, height - 1)
                part_x, part_y = at_x - T(x0), at_y - T(y0)
                has_left, has_right = x0 >= 0, x0 + 1 < width
                has_top, has_bottom = y0 >= 0, y0 + 1 < height
                at = image + (y0 * width + x0) * channels
                for q in range(channels):
                    y, above, below = fill, at + q, at + q + width * channels
                    if inside:
                        a = work[above] if has_top and has_left else fill
                        b = work[above + channels] if has_top and has_right else fill
                        d = work[below] if has_bottom and has_left else fill
                        g = work[below + channels] if has_bottom and has_right else fill
                        upper, lower = a + part_x * (b - a), d + part_x * (g - d)
                        y = upper + part_y * (lower - upper)
                    work[c + place(i, pixel * channels + q, panel, last, panel_items, last_width)] = y
            cuda.syncthreads()  # all have read `of_map`

    return random_affine


@cuda_kernel
def mix(dtype: str, cut: bool, codes: bool):
    """Row i of IN with the next one (the first for the last) into C, and their targets and weights into the batch's.
    MixUp blends them; with `cut` a part comes from the other.

    Launched with blocks of `THREADS`, which take a row after the other.
    """
    T, item, panel = getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype)
    zero, one, D = T(0), T(1), types.int64

    def mix(control, steps, scalars, table, k, order, y, weights, work):
        if control[NOT_FINITE] != 0:
            return
        t, step = cuda.threadIdx.x, control[STEP]
        rows, index, first = steps[step, R.STEP_ROWS], steps[step, R.STEP_INDEX], steps[step, R.STEP_FIRST]
        numbers, n, n_targets = (
            steps[step, R.STEP_SCALARS] + table[k, R.GROUP] // 8,
            table[k, R.N_OUT],
            table[k, R.N_TARGETS],
        )
        source, c, panel_items = table[k, R.IN] // item, table[k, R.C] // item, table[k, R.C_PANEL_BYTES] // item
        last, last_width = table[k, R.N_PANELS] - 1, table[k, R.LAST_WIDTH]
        key_1, key_2 = mask_keys(steps[step, R.STEP_KEY], table[k, R.LAYER])
        share, least = T(scalars[numbers + R.SHARE]), scalars[numbers + R.SHARE] * 4294967296.0
        height, width, channels = table[k, R.HEIGHT], table[k, R.WIDTH], table[k, R.CHANNELS]
        taken = cuda.shared.array(THREADS, D)
        for i in range(cuda.blockIdx.x, rows, cuda.gridDim.x):
            partner = i + 1 if i + 1 < rows else 0
            taken[t] = 0
            for e in range(t, last * panel + last_width, THREADS):
                at = place(i, e, panel, last, panel_items, last_width)
                value, other = work[source + at], work[source + place(partner, e, panel, last, panel_items, last_width)]
                if not cut:
                    value = value + share * (other - value)
                elif height != 0:
                    row, column = e // channels // width, e // channels % width
                    in_rows = scalars[numbers + R.CUT_TOP] <= row and row < scalars[numbers + R.CUT_BOTTOM]
                    in_columns = scalars[numbers + R.CUT_LEFT] <= column and column < scalars[numbers + R.CUT_RIGHT]
                    if in_rows and in_columns:
                        value = other
                elif e < n and np.float64(hashed(U(e), key_1, key_2)) < least:  # the same columns of all rows
                    value = other
                    taken[t] += 1
                work[c + at] = value  # padding stays 0
            sum_of_block(taken, THREADS)
            own, others = one - share, share
            if cut and height == 0:
                others = T(taken[0]) / T(n)
                own = one - others
            row, other_row = (order[index + i], order[index + partner]) if index >= 0 else (first + i, first + partner)
            if table[k, R.FROM_WEIGHTS] >= 0:
                own, others = own * weights[row], others * weights[other_row]
                total = own + others
                if t == 0:
                    work[table[k, R.TO_WEIGHTS] // item + i] = total
                own = own / total if total > zero else one
                others = one - own
            to = table[k, R.TO_TARGETS] // item + i * n_targets
            for e in range(t, n_targets, THREADS):
                if codes:
                    value = own if y[row, 0] == e else zero
                    work[to + e] = value + others if y[other_row, 0] == e else value
                else:
                    work[to + e] = own * T(y[row, e]) + others * T(y[other_row, e])
            cuda.syncthreads()  # all have read `taken`

    return mix
