"""Kernels on a tile whose gradient was just computed, `void(target, other, n, worker)`: penalty, clipping, optimisers.

Numbers come from the step's scalars (see `Optimizer.scalars`), so another rate or another bound compiles nothing. What
happens to one number is in `rules.py`, for the CPU and CUDA alike.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .. import records as R
from ..simd import Simd
from . import rules
from .elementary import INLINE
from .elementwise import compiled
from .ir import float64_at, int64_at, items_at


def l2_penalty(dtype: str, simd: Simd):
    """g += l2 p; what is relative to the batch is already divided by the sum of its weights."""
    T, items, rule = getattr(np, dtype), items_at[dtype], compiled(rules.l2_penalty, dtype)

    def l2_penalty(gradient, parameters, n, worker):
        g, p = items(gradient), items(parameters)
        l2 = T(float64_at(int64_at(worker)[R.SCALARS])[R.L2])
        for i in range(n):
            g[i] = rule(g[i], p[i], l2)

    return l2_penalty


def l1_l2_penalty(dtype: str, simd: Simd):
    """g += l2 p + l1 sign(p), and sign(0) = 0."""
    T, items, rule = getattr(np, dtype), items_at[dtype], compiled(rules.l1_l2_penalty, dtype)

    def l1_l2_penalty(gradient, parameters, n, worker):
        g, p = items(gradient), items(parameters)
        s = float64_at(int64_at(worker)[R.SCALARS])
        l2, l1 = T(s[R.L2]), T(s[R.L1])
        for i in range(n):
            g[i] = rule(g[i], p[i], l2, l1)

    return l1_l2_penalty


def clip(dtype: str, simd: Simd):
    """g = min(max(g, -c), c). NaN stays NaN."""
    T, items, rule = getattr(np, dtype), items_at[dtype], compiled(rules.clip, dtype)

    def clip(gradient, unused, n, worker):
        g = items(gradient)
        c = T(float64_at(int64_at(worker)[R.SCALARS])[R.CLIP])
        for i in range(n):
            g[i] = rule(g[i], c)

    return clip


def decay(dtype: str, simd: Simd):
    """p *= 1 - lr wd: weight decay that no optimiser sees."""
    T, items, rule = getattr(np, dtype), items_at[dtype], compiled(rules.decay, dtype)

    def decay(parameters, unused, n, worker):
        p = items(parameters)
        factor = T(float64_at(int64_at(worker)[R.SCALARS])[R.DECAY])
        for i in range(n):
            p[i] = rule(p[i], factor)

    return decay


def average(dtype: str, simd: Simd):
    """a += w (p - a): the moving average of parameters that were just updated."""
    T, items, rule = getattr(np, dtype), items_at[dtype], compiled(rules.average, dtype)

    def average(parameters, unused, n, worker):
        w = int64_at(worker)
        p, a = items(parameters), items(parameters + w[R.AVERAGE_BYTES])
        share = T(float64_at(w[R.SCALARS])[R.AVERAGE])
        for i in range(n):
            a[i] = rule(a[i], p[i], share)

    return average


def store_gradient(dtype: str, simd: Simd):
    """Keep the gradient in the first slot and leave the parameters alone."""
    items = items_at[dtype]

    def store_gradient(parameters, gradient, n, worker):
        out, g = items(parameters + int64_at(worker)[R.SLOT_BYTES]), items(gradient)
        for i in range(n):
            out[i] = g[i]

    return store_gradient


def update_kernel(rule: rules.Rule):
    """The loop of an optimiser over a tile."""

    def build(dtype, simd):
        T, items, update = getattr(np, dtype), items_at[dtype], compiled(rule.function, dtype)
        tiny = T(np.finfo(dtype).tiny)

        @njit(**INLINE)
        def numbers(worker):
            s = float64_at(int64_at(worker)[R.SCALARS])
            return T(s[R.RULE]), T(s[R.RULE + 1]), T(s[R.RULE + 2]), T(s[R.RULE + 3]), T(s[R.RULE + 4])

        def no_slot(parameters, gradient, n, worker):
            p, g, s = items(parameters), items(gradient), numbers(worker)
            for i in range(n):
                p[i] = update(p[i], g[i], s, tiny)

        def one_slot(parameters, gradient, n, worker):
            p, g, s = items(parameters), items(gradient), numbers(worker)
            v = items(parameters + int64_at(worker)[R.SLOT_BYTES])
            for i in range(n):
                p[i], v[i] = update(p[i], g[i], v[i], s, tiny)

        def two_slots(parameters, gradient, n, worker):
            p, g, s, slot = items(parameters), items(gradient), numbers(worker), int64_at(worker)[R.SLOT_BYTES]
            m, v = items(parameters + slot), items(parameters + 2 * slot)
            for i in range(n):
                p[i], m[i], v[i] = update(p[i], g[i], m[i], v[i], s, tiny)

        def three_slots(parameters, gradient, n, worker):
            p, g, s, slot = items(parameters), items(gradient), numbers(worker), int64_at(worker)[R.SLOT_BYTES]
            m, v, c = items(parameters + slot), items(parameters + 2 * slot), items(parameters + 3 * slot)
            for i in range(n):
                p[i], m[i], v[i], c[i] = update(p[i], g[i], m[i], v[i], c[i], s, tiny)

        return (no_slot, one_slot, two_slots, three_slots)[rule.n_slots]

    return build
