"""What an update does to one parameter: plain functions of numbers, written once.

The CPU's loops over tiles inline them (`optimizer_kernels.py`), and so do the CUDA kernels that compute a gradient
(`fastmlp/cuda/kernels.py`). Float constants become the dtype's. A rule takes the parameter, its gradient, its slots,
the step's numbers `s` (`Optimizer.scalars`, always five) and the smallest normal number, and returns what changed: the
parameter and the slots. Subnormal slots become 0: they would slow the CPU's loops down late in training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

N_NUMBERS = 5


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


def lion(p, g, m, s, tiny):
    """p -= rate sign(m + b1 (g - m)); m += b2 (g - m)."""
    difference = g - m
    u = m + s[1] * difference
    sign = 1.0 if u > 0.0 else -1.0 if u < 0.0 else u  # 0 and NaN stay what they are
    m = m + s[2] * difference
    m = 0.0 if abs(m) < tiny else m
    return p - s[0] * sign, m


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
    "nadam": Rule(nadam, 2),
    "adagrad": Rule(adagrad, 1),
    "lion": Rule(lion, 1),
}
