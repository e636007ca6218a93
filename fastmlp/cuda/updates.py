"""What follows a gradient, for one parameter."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from functools import cache

import numpy as np

from .. import records as R
from ..engine import rules
from .functions import compiled, device_function


@dataclass(frozen=True)
class Update:
    """What follows the gradient of a parameter: penalty, clipping, decay, the optimiser and the average, in the CPU's
    order. The rule "store" keeps the gradient in `work` and changes nothing; "assign" takes what it is given for the
    parameter itself.
    """

    penalty: str
    clip: bool
    decay: bool
    rule: str
    average: bool
    n_slots: int
    dtype: str


@cache
def update(of: Update):
    """update(state, at, slot, g, scalars, s, work, kept), a device function for one parameter.

    `at` is the parameter's place in `state`, whose slots follow at distances of `slot`; `s` the place of the step's
    numbers for the layer's group in `scalars`; `kept` that of the stored gradient.
    """
    penalty, clip, decay, rule, average, n_slots, dtype = astuple(of)
    T = getattr(np, dtype)
    tiny = T(np.finfo(dtype).tiny)
    l2_penalty, l1_l2_penalty, clipped, decayed, averaged = (
        compiled(f, dtype) for f in (rules.l2_penalty, rules.l1_l2_penalty, rules.clip, rules.decay, rules.average)
    )
    with_l2, with_l1_l2 = penalty == "l2", penalty == "l1_l2"

    @device_function
    def numbers(scalars, s):
        s += R.RULE
        return T(scalars[s]), T(scalars[s + 1]), T(scalars[s + 2]), T(scalars[s + 3]), T(scalars[s + 4])

    @device_function
    def gradient(g, p, scalars, s):
        if with_l2:
            g = l2_penalty(g, p, T(scalars[s + R.L2]))
        if with_l1_l2:
            g = l1_l2_penalty(g, p, T(scalars[s + R.L2]), T(scalars[s + R.L1]))
        if clip:
            g = clipped(g, T(scalars[s + R.CLIP]))
        return g

    @device_function
    def shrunk(p, scalars, s):
        return decayed(p, T(scalars[s + R.DECAY])) if decay else p

    @device_function
    def finish(state, at, slot, p, scalars, s):
        state[at] = p
        if average:
            a = at + n_slots * slot
            state[a] = averaged(state[a], p, T(scalars[s + R.AVERAGE]))

    def store(state, at, slot, g, scalars, s, work, kept):
        work[kept] = gradient(g, state[at], scalars, s)

    def assign(state, at, slot, p, scalars, s, work, kept):
        finish(state, at, slot, p, scalars, s)

    if rule in ("store", "assign"):
        return device_function(store if rule == "store" else assign)
    step = compiled(rules.RULES[rule].function, dtype)

    def no_slot(state, at, slot, g, scalars, s, work, kept):
        p = state[at]
        g = gradient(g, p, scalars, s)
        p = step(shrunk(p, scalars, s), g, numbers(scalars, s), tiny)
        finish(state, at, slot, p, scalars, s)

    def one_slot(state, at, slot, g, scalars, s, work, kept):
        p = state[at]
        g = gradient(g, p, scalars, s)
        p, v = step(shrunk(p, scalars, s), g, state[at + slot], numbers(scalars, s), tiny)
        state[at + slot] = v
        finish(state, at, slot, p, scalars, s)

    def two_slots(state, at, slot, g, scalars, s, work, kept):
        p = state[at]
        g = gradient(g, p, scalars, s)
        m, v = state[at + slot], state[at + 2 * slot]
        p, m, v = step(shrunk(p, scalars, s), g, m, v, numbers(scalars, s), tiny)
        state[at + slot] = m
        state[at + 2 * slot] = v
        finish(state, at, slot, p, scalars, s)

    def three_slots(state, at, slot, g, scalars, s, work, kept):
        p = state[at]
        g = gradient(g, p, scalars, s)
        m, v, c = state[at + slot], state[at + 2 * slot], state[at + 3 * slot]
        p, m, v, c = step(shrunk(p, scalars, s), g, m, v, c, numbers(scalars, s), tiny)
        state[at + slot] = m
        state[at + 2 * slot] = v
        state[at + 3 * slot] = c
        finish(state, at, slot, p, scalars, s)

    return device_function((no_slot, one_slot, two_slots, three_slots)[rules.RULES[rule].n_slots])
