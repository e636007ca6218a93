"""What follows a product or a copy, value by value: epilogues, and the kernel of a record that is nothing else.

An epilogue is a device function, finish(items, at, other, value, number), that writes where its result belongs.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import cuda

from ..activations import ACTIVATIONS
from ..engine import records as R
from ..engine.simd import ITEMSIZE
from .device import NOT_FINITE, SIMD, STEP
from .functions import compiled, device_function


@cache
def epilogue(name: str, dtype: str):
    """By the name that the plan has for the CPU's kernel: "relu.value", "gelu.apart", "tanh.derivative", "add"..."""
    if name in FIXED:
        return device_function(FIXED[name])
    activation, _, kind = name.rpartition(".")
    declaration = ACTIVATIONS[activation]
    f = compiled(declaration.derivative if kind == "derivative" else declaration.value, dtype)

    def value(items, at, other, z, number):
        items[at] = f(z)

    def value_of_number(items, at, other, z, number):
        items[at] = f(z, number)

    def apart(items, at, other, z, number):
        items[at] = z
        items[other] = f(z)

    def derivative(items, at, other, z, number):
        items[at] = z * f(items[other])

    def derivative_of_number(items, at, other, z, number):
        items[at] = z * f(items[other], number)

    if kind == "derivative":
        return device_function(derivative if declaration.parameter is None else derivative_of_number)
    if declaration.parameter is not None:
        return device_function(value_of_number)
    return device_function(apart if kind == "apart" else value)


def _store(items, at, other, z, number):
    items[at] = z


def _add(items, at, other, z, number):
    items[at] = z + items[other]


def _multiply(items, at, other, z, number):
    items[at] = z * items[other]


FIXED = {"": _store, "add": _add, "multiply": _multiply}


@cache
def elementwise(dtype: str, finish):
    """C = finish(IN), item by item of the same panels."""
    T, item, panel = getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype)

    @cuda.jit
    def elementwise(control, steps, table, numbers, k, work):
        if control[NOT_FINITE] != 0:
            return
        rows, panel_items = steps[control[STEP], R.STEP_ROWS], table[k, R.C_PANEL_BYTES] // item
        source, c, other = table[k, R.IN] // item, table[k, R.C] // item, table[k, R.OTHER] // item
        n = rows * ((table[k, R.N_PANELS] - 1) * panel + table[k, R.LAST_WIDTH])
        for e in range(cuda.grid(1), n, cuda.gridsize(1)):
            p = e // (rows * panel)
            at = p * panel_items + e - p * rows * panel
            finish(work, c + at, other + at, work[source + at], T(numbers[k]))

    return elementwise
