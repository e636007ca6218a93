"""What an update does to one parameter: plain functions of numbers, written once.

The CPU's loops over tiles inline them (`optimizer_kernels.py`), and so do the CUDA kernels that compute a gradient
(`fastmlp/cuda/updates.py`). Float constants become the dtype's. A rule takes the parameter, its gradient, its slots,
the step's numbers `s` (`Optimizer.scalars`, always five) and the smallest normal number, and returns what changed: the
parameter and the slots. Subnormal slots of averages become 0, also where the processor's mode cannot be set to flush
them: they would slow loops down late in training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt


def l2_penalty(g, p, l2):
    """What is relative to the batch is already divided by the sum of its weights."""
    return g + l2 * p


def l1_l2_penalty(g, p, l2, l1):
    """With sign(0) = 0."""
    sign = l1 if p > 0.0 else -l1 if p < 0.0 else 0.0
    return g + (l2 * p + sign)


def clip(g, bound):
    """min(max(g, -c), c); NaN stays NaN."""
    g = bound if g > bound else g
    return -bound if g < -bound else g


def decay(p, factor):
    """1 - lr wd times the parameter: weight decay that no optimiser sees."""
    return p * factor


def average(a, p, share):
    """The moving average of parameters that were just updated."""
    return a + share * (p - a)


def sgd(p, g, s, tiny):
    """p -= lr g."""
    return p - s[0] * g


def momentum(p, g, v, s, tiny):
    """v = mu v - lr g; p += v."""
    change = s[1] * v - s[0] * g
    change = 0.0 if abs(change) < tiny else change
    return p + change, change


def nesterov(p, g, v, s, tiny):
    """v = mu v - lr g; p += mu v - lr g."""
    change = s[1] * v - s[0] * g
    change = 0.0 if abs(change) < tiny else change
    return p + (s[1] * change - s[0] * g), change


def adam(p, g, m, v, s, tiny):
    """m += b1 (g - m); v += b2 (g^2 - v); p -= rate m / (sqrt(v) + eps), the corrections folded into rate and eps."""
    m = m + s[1] * (g - m)
    v = v + s[2] * (g * g - v)
    m = 0.0 if abs(m) < tiny else m
    v = 0.0 if v < tiny else v
    return p - s[0] * m / (sqrt(v) + s[3]), m, v


def amsgrad(p, g, m, v, most, s, tiny):
    """As Adam, with the largest v so far in its place."""
    m = m + s[1] * (g - m)
    v = v + s[2] * (g * g - v)
    m = 0.0 if abs(m) < tiny else m
    v = 0.0 if v < tiny else v
    most = v if v > most else most
    return p - s[0] * m / (sqrt(most) + s[3]), m, v, most


def adamax(p, g, m, u, s, tiny):
    """m += b1 (g - m); u = max(b2 u, |g| + eps); p -= rate m / u."""
    m = m + s[1] * (g - m)
    m = 0.0 if abs(m) < tiny else m
    size, u = abs(g) + s[3], s[2] * u
    u = u if u > size else size
    return p - s[0] * (m / u), m, u


def adadelta(p, g, v, d, s, tiny):
    """v += a (g^2 - v); c = g sqrt((d + eps) / (v + eps)); d += a (c^2 - d); p -= rate c."""
    v = v + s[1] * (g * g - v)
    v = 0.0 if v < tiny else v
    change = g * sqrt((d + s[2]) / (v + s[2]))
    d = d + s[1] * (change * change - d)
    d = 0.0 if d < tiny else d
    return p - s[0] * change, v, d


def nadam(p, g, m, v, s, tiny):
    """As Adam; p -= (rate_g g + rate_m m) / (sqrt(v) + eps)."""
    m = m + s[1] * (g - m)
    v = v + s[2] * (g * g - v)
    m = 0.0 if abs(m) < tiny else m
    v = 0.0 if v < tiny else v
    return p - (s[0] * g + s[4] * m) / (sqrt(v) + s[3]), m, v


def adagrad(p, g, v, s, tiny):
    """v += g^2; p -= rate g / (sqrt(v) + eps)."""
    v = v + g * g
    return p - s[0] * g / (sqrt(v) + s[1]), v


def rprop(p, g, before, size, s, tiny):
    """size *= eta_plus or eta_minus, within bounds, by whether g has the sign of the one before; p -= sign(g) size."""
    sign = 1.0 if g > 0.0 else -1.0 if g < 0.0 else g  # 0 and NaN stay what they are
    agreement = sign if before > 0.0 else -sign if before < 0.0 else 0.0  # the product of both might be 0
    factor = s[1] if agreement > 0.0 else s[2] if agreement < 0.0 else 1.0
    size = (size + s[0]) * factor  # the rate, in the first step: nothing has been there
    size = s[3] if size < s[3] else size
    size = s[4] if size > s[4] else size
    turned = agreement < 0.0
    return p - size * (0.0 if turned else sign), 0.0 if turned else g, size


def lion(p, g, m, s, tiny):
    """p -= rate sign(m + b1 (g - m)); m += b2 (g - m)."""
    difference = g - m
    u = m + s[1] * difference
    sign = 1.0 if u > 0.0 else -1.0 if u < 0.0 else u  # 0 and NaN stay what they are
    m = m + s[2] * difference
    m = 0.0 if abs(m) < tiny else m
    return p - s[0] * sign, m


def rmsprop(p, g, v, s, tiny):
    """v += a (g^2 - v); p -= rate g / (sqrt(v) + eps)."""
    v = v + s[1] * (g * g - v)
    v = 0.0 if v < tiny else v
    return p - s[0] * (g / (sqrt(v) + s[2])), v


def rmsprop_momentum(p, g, v, b, s, tiny):
    """As RMSprop; b = mu b + g / (sqrt(v) + eps); p -= rate b."""
    v = v + s[1] * (g * g - v)
    v = 0.0 if v < tiny else v
    b = s[3] * b + g / (sqrt(v) + s[2])
    b = 0.0 if abs(b) < tiny else b
    return p - s[0] * b, v, b


def rmsprop_centered(p, g, v, c, s, tiny):
    """As RMSprop; c += a (g - c), and v - c^2, a variance but for rounding, in v's place."""
    v = v + s[1] * (g * g - v)
    v = 0.0 if v < tiny else v
    c = c + s[1] * (g - c)
    c = 0.0 if abs(c) < tiny else c
    variance = v - c * c
    variance = 0.0 if variance < 0.0 else variance
    return p - s[0] * (g / (sqrt(variance) + s[2])), v, c


def rmsprop_momentum_centered(p, g, v, b, c, s, tiny):
    """Both."""
    v = v + s[1] * (g * g - v)
    v = 0.0 if v < tiny else v
    c = c + s[1] * (g - c)
    c = 0.0 if abs(c) < tiny else c
    variance = v - c * c
    variance = 0.0 if variance < 0.0 else variance
    b = s[3] * b + g / (sqrt(variance) + s[2])
    b = 0.0 if abs(b) < tiny else b
    return p - s[0] * b, v, b, c


@dataclass(frozen=True)
class Rule:
    """A function above and how many slots it has."""

    function: Callable
    n_slots: int


RULES = {
    "sgd": Rule(sgd, 0),
    "momentum": Rule(momentum, 1),
    "nesterov": Rule(nesterov, 1),
    "adam": Rule(adam, 2),
    "amsgrad": Rule(amsgrad, 3),
    "adamax": Rule(adamax, 2),
    "nadam": Rule(nadam, 2),
    "adadelta": Rule(adadelta, 2),
    "adagrad": Rule(adagrad, 1),
    "rprop": Rule(rprop, 2),
    "lion": Rule(lion, 1),
    "rmsprop": Rule(rmsprop, 1),
    "rmsprop.momentum": Rule(rmsprop_momentum, 2),
    "rmsprop.centered": Rule(rmsprop_centered, 2),
    "rmsprop.momentum.centered": Rule(rmsprop_momentum_centered, 3),
}
