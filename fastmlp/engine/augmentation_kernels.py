"""Kernels of augmentation, on gathered rows: noise, affine maps of images, mixtures of two rows.

Random numbers are hashes of the step's key, the layer, the row of the batch and the column, as in `dropout.py`: the
same whoever computes a row. What a batch has in common, such as the share of a mixture, is in the step's scalars.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numba import njit

from .. import records as R
from ..simd import ITEMSIZE, Simd
from .dropout import U, hashed, keys
from .elementary import INLINE, SCALAR, functions
from .ir import float64_at, int64_at, items_at
from .rows import place

_8 = U(8)


@njit(**INLINE)
def share_of(bits):
    """A uniform number in [0, 1), float64, of 32 random bits."""
    return np.float64(bits) * 2.0**-32


@cache
def minus_cosine(dtype: str):
    """cos(2 pi v) = -cos(t), t = 2 pi (v - 1 / 2) in [-pi, pi): Taylor's series in t^2, within 1.5e-7."""
    T = getattr(np, dtype)
    half = T(0.5)
    series = tuple(T(-((-1.0) ** k) * (2 * math.pi) ** (2 * k) / math.factorial(2 * k)) for k in range(9, -1, -1))

    @njit(**SCALAR)
    def minus_cosine(v):
        t = v - half
        t2 = t * t
        p = series[0]
        for k in range(1, len(series)):
            p = p * t2 + series[k]
        return p

    return minus_cosine


@njit(**INLINE)
def sine_and_cosine(angle):
    """Of radians, by series of an eighth of them and three doublings."""
    x = angle / 8
    x2 = x * x
    s = x * (1 - x2 / 6 * (1 - x2 / 20 * (1 - x2 / 42 * (1 - x2 / 72 * (1 - x2 / 110 * (1 - x2 / 156))))))
    c = 1 - x2 / 2 * (1 - x2 / 12 * (1 - x2 / 30 * (1 - x2 / 56 * (1 - x2 / 90 * (1 - x2 / 132 * (1 - x2 / 182))))))
    for _ in range(3):
        s, c = 2 * s * c, 1 - 2 * s * s
    return s, c


def gaussian_noise(dtype: str, simd: Simd):
    """Rows lo..hi of C: x += NUMBER e, with e = sqrt(-2 log u) cos(2 pi v) (Box and Muller, 1958) of 24 bits each."""
    item, panel_width = ITEMSIZE[dtype], simd.panel(dtype)
    items, T, log, cosine = items_at[dtype], getattr(np, dtype), functions(dtype).log, minus_cosine(dtype)
    unit, minus_two = T(2.0**-24), T(-2)

    def gaussian_noise(record, lo, hi, worker):
        r, w = int64_at(record), int64_at(worker)
        stddev, n = T(float64_at(record)[R.NUMBER]), r[R.N_OUT]
        key_1, key_2 = keys(r, w)
        for j in range(r[R.N_PANELS]):
            width, left = panel_width if j < r[R.N_PANELS] - 1 else r[R.LAST_WIDTH], j * panel_width
            for i in range(lo, hi):
                x = items(r[R.C] + j * r[R.C_PANEL_BYTES] + i * width * item)
                first = U(U(i) * U(2 * n) + U(2 * left))
                for k in range(min(width, n - left)):
                    e = U(first + U(2 * k))
                    u = T(np.int32(hashed(e, key_1, key_2) >> _8)) * unit + unit  # in (0, 1]
                    v = T(np.int32(hashed(U(e + U(1)), key_1, key_2) >> _8)) * unit
                    x[k] += stddev * (math.sqrt(minus_two * log(u)) * cosine(v))

    return gaussian_noise


def random_affine(dtype: str, simd: Simd):
    """Rows lo..hi: the images C, each turned, scaled and shifted by its own numbers; what they were is in IMAGES."""
    item, panel_width = ITEMSIZE[dtype], simd.panel(dtype)
    items, T = items_at[dtype], getattr(np, dtype)
    one = T(1)

    def random_affine(record, lo, hi, worker):
        r, w, f = int64_at(record), int64_at(worker), float64_at(record)
        height, width, channels, fill = r[R.HEIGHT], r[R.WIDTH], r[R.CHANNELS], T(f[R.FILL])
        key_1, key_2 = keys(r, w)
        n, last, last_width, panel_items = r[R.N_OUT], r[R.N_PANELS] - 1, r[R.LAST_WIDTH], r[R.C_PANEL_BYTES] // item
        for i in range(lo, hi):
            x, out = items(r[R.IMAGES] + i * n * item), items(r[R.C])
            for j in range(last + 1):
                left, at = j * panel_width, place(i, j * panel_width, panel_width, last, panel_items, last_width)
                for k in range(min(panel_width, n - left)):
                    x[left + k] = out[at + k]
            e = U(U(i) * U(4))
            turned = share_of(hashed(e, key_1, key_2))
            across = 2 * share_of(hashed(U(e + U(1)), key_1, key_2)) - 1
            down = 2 * share_of(hashed(U(e + U(2)), key_1, key_2)) - 1
            scaled = share_of(hashed(U(e + U(3)), key_1, key_2))
            s, c = sine_and_cosine(f[R.LEAST_ANGLE] + turned * (f[R.MOST_ANGLE] - f[R.LEAST_ANGLE]))
            scale = f[R.LEAST_SCALE] + scaled * (f[R.MOST_SCALE] - f[R.LEAST_SCALE])
            s, c = s / scale, c / scale
            centre_x, centre_y = 0.5 * (width - 1), 0.5 * (height - 1)
            left, top = centre_x + across * f[R.MOST_SHIFT_X], centre_y + down * f[R.MOST_SHIFT_Y]
            for row in range(height):
                dy = row - top
                # along a row of the target, the place in the source moves by (c, -s)
                first_x, first_y = T(centre_x - c * left + s * dy), T(centre_y + s * left + c * dy)
                step_x, step_y = T(c), T(-s)
                for column in range(width):
                    at_x, at_y = first_x + T(column) * step_x, first_y + T(column) * step_y
                    to = (row * width + column) * channels
                    if not (at_x > -one and at_y > -one and at_x < T(width) and at_y < T(height)):
                        for k in range(channels):
                            out[place(i, to + k, panel_width, last, panel_items, last_width)] = fill
                        continue
                    # floors: both are above -1; what lies just below the end becomes the end where 1 is added
                    x0 = min(np.int64(at_x + one) - 1, width - 1)
                    y0 = min(np.int64(at_y + one) - 1, height - 1)
                    part_x, part_y = at_x - T(x0), at_y - T(y0)
                    has_left, has_right = x0 >= 0, x0 + 1 < width
                    has_top, has_bottom = y0 >= 0, y0 + 1 < height
                    at = (y0 * width + x0) * channels
                    below = at + width * channels
                    for k in range(channels):
                        a = x[at + k] if has_top and has_left else fill
                        b = x[at + channels + k] if has_top and has_right else fill
                        d = x[below + k] if has_bottom and has_left else fill
                        g = x[below + channels + k] if has_bottom and has_right else fill
                        upper, lower = a + part_x * (b - a), d + part_x * (g - d)
                        y = upper + part_y * (lower - upper)
                        out[place(i, to + k, panel_width, last, panel_items, last_width)] = y

    return random_affine


def mix_kernel(cut: bool):
    """Units lo..hi, rows of the batch: row i of IN with the next one (the first for the last) into C, and their targets
    and weights. MixUp blends them; with `cut` a part comes from the other."""

    def build(dtype, simd):
        item, panel_width = ITEMSIZE[dtype], simd.panel(dtype)
        items, T = items_at[dtype], getattr(np, dtype)
        zero, one = T(0), T(1)

        @njit(**INLINE)
        def mix_targets(r, w, i, j, share):
            index, n = int64_at(w[R.INDEX]), r[R.N_TARGETS]
            row = w[R.FIRST] + i if w[R.INDEX] == 0 else index[i]
            other = w[R.FIRST] + j if w[R.INDEX] == 0 else index[j]
            own, others = one - share, share
            if r[R.FROM_WEIGHTS] != 0:
                weights = items(r[R.FROM_WEIGHTS])
                own, others = own * weights[row], others * weights[other]
                total = own + others
                items(r[R.TO_WEIGHTS])[i] = total
                own = own / total if total > zero else one
                others = one - own
            y = items(r[R.TO_TARGETS])
            if r[R.CODES] != 0:
                codes = int64_at(r[R.FROM_TARGETS])
                for k in range(n):
                    y[i * n + k] = zero
                y[i * n + codes[row]] += own
                y[i * n + codes[other]] += others
            else:
                given = items(r[R.FROM_TARGETS])
                for k in range(n):
                    y[i * n + k] = own * given[row * n + k] + others * given[other * n + k]

        def mix(record, lo, hi, worker):
            r, w = int64_at(record), int64_at(worker)
            rows, n = w[R.ROWS], r[R.N_OUT]
            last, last_width, panel_bytes = r[R.N_PANELS] - 1, r[R.LAST_WIDTH], r[R.C_PANEL_BYTES]
            numbers = float64_at(w[R.SCALARS] + r[R.GROUP])
            share = T(numbers[R.SHARE])
            key_1, key_2 = keys(r, w)
            least = numbers[R.SHARE] * 4294967296.0
            for i in range(lo, min(hi, rows)):
                partner, taken = i + 1 if i + 1 < rows else 0, 0
                for j in range(last + 1):
                    width, left, at = panel_width if j < last else last_width, j * panel_width, j * panel_bytes
                    x, out = items(r[R.IN] + at + i * width * item), items(r[R.C] + at + i * width * item)
                    other = items(r[R.IN] + at + partner * width * item)
                    if not cut:
                        for k in range(width):
                            out[k] = x[k] + share * (other[k] - x[k])
                    elif r[R.HEIGHT] != 0:
                        for k in range(width):
                            out[k] = x[k]
                    else:
                        for k in range(min(width, n - left)):
                            takes = np.float64(hashed(U(left + k), key_1, key_2)) < least  # the same for all rows
                            out[k] = other[k] if takes else x[k]
                            taken += 1 if takes else 0
                        for k in range(min(width, n - left), width):
                            out[k] = zero
                if cut and r[R.HEIGHT] != 0:
                    first, behind = np.int64(numbers[R.CUT_LEFT]), np.int64(numbers[R.CUT_RIGHT])
                    channels, image, given = r[R.CHANNELS], items(r[R.C]), items(r[R.IN])
                    for row in range(np.int64(numbers[R.CUT_TOP]), np.int64(numbers[R.CUT_BOTTOM])):
                        for k in range((row * r[R.WIDTH] + first) * channels, (row * r[R.WIDTH] + behind) * channels):
                            to = place(i, k, panel_width, last, panel_bytes // item, last_width)
                            image[to] = given[place(partner, k, panel_width, last, panel_bytes // item, last_width)]
                exact = T(taken) / T(n) if cut and r[R.HEIGHT] == 0 else share
                mix_targets(r, w, i, partner, exact)

        return mix

    return build
