"""Kernels on a tile whose gradient was just computed, `void(target, other, n, worker)`: penalty, clipping, optimisers.

Numbers come from the step's scalars (see `Optimizer.scalars`), so another rate or another bound compiles nothing.
"""

from __future__ import annotations

import math

import numpy as np

from . import records as R
from .ir import float64_at, int64_at, items_at
from .simd import Simd


def l2_penalty(dtype: str, simd: Simd):
    """g += l2 p; what is relative to the batch is already divided by the sum of its weights."""
    T, items = getattr(np, dtype), items_at[dtype]

    def l2_penalty(gradient, parameters, n, worker):
        g, p = items(gradient), items(parameters)
        l2 = T(float64_at(int64_at(worker)[R.SCALARS])[R.L2])
        for i in range(n):
            g[i] += l2 * p[i]

    return l2_penalty


def l1_l2_penalty(dtype: str, simd: Simd):
    """g += l2 p + l1 sign(p), and sign(0) = 0."""
    T, items = getattr(np, dtype), items_at[dtype]

    def l1_l2_penalty(gradient, parameters, n, worker):
        g, p = items(gradient), items(parameters)
        s = float64_at(int64_at(worker)[R.SCALARS])
        l2, l1 = T(s[R.L2]), T(s[R.L1])
        for i in range(n):
            sign = l1 if p[i] > T(0) else -l1 if p[i] < T(0) else T(0)
            g[i] += l2 * p[i] + sign

    return l1_l2_penalty


def clip(dtype: str, simd: Simd):
    """g = min(max(g, -c), c). NaN stays NaN."""
    T, items = getattr(np, dtype), items_at[dtype]

    def clip(gradient, unused, n, worker):
        g = items(gradient)
        c = T(float64_at(int64_at(worker)[R.SCALARS])[R.CLIP])
        for i in range(n):
            gi = g[i]
            gi = c if gi > c else gi
            g[i] = -c if gi < -c else gi

    return clip


def decay(dtype: str, simd: Simd):
    """p *= 1 - lr wd: weight decay that no optimiser sees."""
    T, items = getattr(np, dtype), items_at[dtype]

    def decay(parameters, unused, n, worker):
        p = items(parameters)
        factor = T(float64_at(int64_at(worker)[R.SCALARS])[R.DECAY])
        for i in range(n):
            p[i] = p[i] * factor

    return decay


def average(dtype: str, simd: Simd):
    """a += w (p - a): the moving average of parameters that were just updated."""
    T, items = getattr(np, dtype), items_at[dtype]

    def average(parameters, unused, n, worker):
        w = int64_at(worker)
        p, a = items(parameters), items(parameters + w[R.AVERAGE_BYTES])
        share = T(float64_at(w[R.SCALARS])[R.AVERAGE])
        for i in range(n):
            a[i] += share * (p[i] - a[i])

    return average


def store_gradient(dtype: str, simd: Simd):
    """Keep the gradient in the first slot and leave the parameters alone."""
    items = items_at[dtype]

    def store_gradient(parameters, gradient, n, worker):
        out, g = items(parameters + int64_at(worker)[R.SLOT_BYTES]), items(gradient)
        for i in range(n):
            out[i] = g[i]

    return store_gradient


def sgd(dtype: str, simd: Simd):
    """p -= lr g."""
    T, items = getattr(np, dtype), items_at[dtype]

    def sgd(parameters, gradient, n, worker):
        p, g = items(parameters), items(gradient)
        rate = T(float64_at(int64_at(worker)[R.SCALARS])[R.RULE])
        for i in range(n):
            p[i] -= rate * g[i]

    return sgd


def momentum_kernel(nesterov: bool):
    def build(dtype, simd):
        T, items = getattr(np, dtype), items_at[dtype]
        tiny = T(np.finfo(dtype).tiny)

        def momentum(parameters, gradient, n, worker):
            w = int64_at(worker)
            p, g, v = items(parameters), items(gradient), items(parameters + w[R.SLOT_BYTES])
            s = float64_at(w[R.SCALARS])
            rate, mu = T(s[R.RULE]), T(s[R.RULE + 1])
            for i in range(n):
                change = mu * v[i] - rate * g[i]
                change = T(0) if abs(change) < tiny else change  # subnormal velocities would slow the loop down
                v[i] = change
                p[i] += mu * change - rate * g[i] if nesterov else change

        return momentum

    return build


def adam(dtype: str, simd: Simd):
    """m += b1 (g - m); v += b2 (g^2 - v); p -= rate m / (sqrt(v) + eps), with the corrections folded into rate and
    eps.
    """
    T, items = getattr(np, dtype), items_at[dtype]
    tiny = T(np.finfo(dtype).tiny)

    def adam(parameters, gradient, n, worker):
        w = int64_at(worker)
        slot = w[R.SLOT_BYTES]
        p, g, m, v = items(parameters), items(gradient), items(parameters + slot), items(parameters + 2 * slot)
        s = float64_at(w[R.SCALARS])
        rate, b1, b2, eps = T(s[R.RULE]), T(s[R.RULE + 1]), T(s[R.RULE + 2]), T(s[R.RULE + 3])
        for i in range(n):
            gi = g[i]
            mi = m[i] + b1 * (gi - m[i])
            vi = v[i] + b2 * (gi * gi - v[i])
            mi = T(0) if abs(mi) < tiny else mi  # subnormal moments would slow the loop down late in training
            vi = T(0) if vi < tiny else vi
            m[i], v[i] = mi, vi
            p[i] -= rate * mi / (math.sqrt(vi) + eps)

    return adam


def nadam(dtype: str, simd: Simd):
    """As Adam; p -= (rate_g g + rate_m m) / (sqrt(v) + eps)."""
    T, items = getattr(np, dtype), items_at[dtype]
    tiny = T(np.finfo(dtype).tiny)

    def nadam(parameters, gradient, n, worker):
        w = int64_at(worker)
        slot = w[R.SLOT_BYTES]
        p, g, m, v = items(parameters), items(gradient), items(parameters + slot), items(parameters + 2 * slot)
        s = float64_at(w[R.SCALARS])
        rate_g, rate_m = T(s[R.RULE]), T(s[R.RULE + 4])
        b1, b2, eps = T(s[R.RULE + 1]), T(s[R.RULE + 2]), T(s[R.RULE + 3])
        for i in range(n):
            gi = g[i]
            mi = m[i] + b1 * (gi - m[i])
            vi = v[i] + b2 * (gi * gi - v[i])
            mi = T(0) if abs(mi) < tiny else mi
            vi = T(0) if vi < tiny else vi
            m[i], v[i] = mi, vi
            p[i] -= (rate_g * gi + rate_m * mi) / (math.sqrt(vi) + eps)

    return nadam


def adagrad(dtype: str, simd: Simd):
    """v += g^2; p -= rate g / (sqrt(v) + eps)."""
    T, items = getattr(np, dtype), items_at[dtype]

    def adagrad(parameters, gradient, n, worker):
        w = int64_at(worker)
        p, g, v = items(parameters), items(gradient), items(parameters + w[R.SLOT_BYTES])
        s = float64_at(w[R.SCALARS])
        rate, eps = T(s[R.RULE]), T(s[R.RULE + 1])
        for i in range(n):
            gi = g[i]
            vi = v[i] + gi * gi
            v[i] = vi
            p[i] -= rate * gi / (math.sqrt(vi) + eps)

    return adagrad


def rmsprop_kernel(momentum: bool, centered: bool):
    """v += a (g^2 - v); b = mu b + g / (sqrt(v) + eps); p -= rate b. Centered: c += a (g - c), v - c^2 in v's place.

    Slots in this order: v, then b with momentum, then c where centered.
    """

    def build(dtype, simd):
        T, items = getattr(np, dtype), items_at[dtype]
        tiny = T(np.finfo(dtype).tiny)

        def rmsprop(parameters, gradient, n, worker):
            w = int64_at(worker)
            slot = w[R.SLOT_BYTES]
            p, g, v, b = items(parameters), items(gradient), items(parameters + slot), items(parameters + 2 * slot)
            c = items(parameters + (3 if momentum else 2) * slot)
            s = float64_at(w[R.SCALARS])
            rate, a, eps, mu = T(s[R.RULE]), T(s[R.RULE + 1]), T(s[R.RULE + 2]), T(s[R.RULE + 3])
            for i in range(n):
                gi = g[i]
                vi = v[i] + a * (gi * gi - v[i])
                vi = T(0) if vi < tiny else vi
                v[i] = vi
                if centered:
                    ci = c[i] + a * (gi - c[i])
                    ci = T(0) if abs(ci) < tiny else ci
                    c[i] = ci
                    vi = vi - ci * ci
                    vi = T(0) if vi < T(0) else vi  # a variance, but for rounding
                change = gi / (math.sqrt(vi) + eps)
                if momentum:
                    change = mu * b[i] + change
                    change = T(0) if abs(change) < tiny else change
                    b[i] = change
                p[i] -= rate * change

        return rmsprop

    return build


def lion(dtype: str, simd: Simd):
    """p -= rate sign(m + b1 (g - m)); m += b2 (g - m)."""
    T, items = getattr(np, dtype), items_at[dtype]
    tiny = T(np.finfo(dtype).tiny)

    def lion(parameters, gradient, n, worker):
        w = int64_at(worker)
        p, g, m = items(parameters), items(gradient), items(parameters + w[R.SLOT_BYTES])
        s = float64_at(w[R.SCALARS])
        rate, b1, b2 = T(s[R.RULE]), T(s[R.RULE + 1]), T(s[R.RULE + 2])
        for i in range(n):
            difference = g[i] - m[i]
            u = m[i] + b1 * difference
            sign = T(1) if u > T(0) else T(-1) if u < T(0) else u  # 0 and NaN stay what they are
            mi = m[i] + b2 * difference
            m[i] = T(0) if abs(mi) < tiny else mi
            p[i] -= rate * sign

    return lion
