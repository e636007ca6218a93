"""What follows a product or a copy, value by value: epilogues, and the kernel of a record that is nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numba import cuda

from .. import records as R
from ..engine.elementwise import PAIRS
from ..simd import ITEMSIZE
from . import declarations
from .device import NOT_FINITE, SIMD, STEP
from .functions import cuda_kernel, device_function, inlined
from .vectors import copy_vector, vector_items


@dataclass(frozen=True)
class Epilogue:
    """What becomes of a result z: a function of z, o, and a record's number.

    The value goes where results go, and o is not used; or, `reads`, o is what stands in another matrix in that place;
    or, `apart`, z goes where results go and the value into another matrix.

    Parameters
    ----------
    name : str
        What the plan has for the CPU's kernel: "relu.value", "gelu.apart", "tanh.derivative", "add"...; "" is nothing.
    dtype : str
    """

    name: str
    dtype: str

    @property
    def reads(self) -> bool:
        return self.name in PAIRS or self.name.endswith(".derivative")

    @property
    def apart(self) -> bool:
        return self.name.endswith(".apart")


@cache
def function_of(of: Epilogue):
    """f(z, o, number), a device function."""
    if not of.name:
        return device_function(lambda z, o, number: z)
    if of.name in PAIRS:
        pair = device_function(PAIRS[of.name])
        return device_function(lambda z, o, number: pair(z, o))
    activation, _, kind = of.name.rpartition(".")
    declaration = declarations.declaration_of(activation)
    f = declarations.function_of(of.name, "derivative" if kind == "derivative" else "value", of.dtype)

    def value(z, o, number):
        return f(z)

    def value_of_number(z, o, number):
        return f(z, number)

    def derivative(z, o, number):
        return z * f(o)

    def derivative_of_number(z, o, number):
        return z * f(o, number)

    if declaration.parameter is None:
        return device_function(derivative if kind == "derivative" else value)
    return device_function(derivative_of_number if kind == "derivative" else value_of_number)


@cache
def scalar_epilogue(of: Epilogue):
    """finish(items, at, other, z, number), a device function that writes where the results belong."""
    function = function_of(of)

    def finish(items, at, other, z, number):
        items[at] = function(z, z, number)

    def reading(items, at, other, z, number):
        items[at] = function(z, items[other], number)

    def apart(items, at, other, z, number):
        items[at] = z
        items[other] = function(z, z, number)

    return device_function(reading if of.reads else apart if of.apart else finish)


@cache
def vector_epilogue(of: Epilogue):
    """fetch(o, n, items, other) brings what is read of the other matrix into o[n:], and finish(items, at, other, x, o,
    n, number) writes where the results of the vector x belong. They are two, for what is read can be on its way before
    anything is written.
    """
    function, lanes = function_of(of), vector_items(of.dtype)

    def fetch(o, n, items, other):
        copy_vector(o, n, items, other)

    def nothing(o, n, items, other):
        pass

    def finish(items, at, other, x, o, n, number):
        for i in range(lanes):
            x[i] = function(x[i], x[i], number)
        copy_vector(items, at, x, 0)

    def reading(items, at, other, x, o, n, number):
        for i in range(lanes):
            x[i] = function(x[i], o[n + i], number)
        copy_vector(items, at, x, 0)

    def apart(items, at, other, x, o, n, number):
        copy_vector(items, at, x, 0)
        finish(items, other, at, x, o, n, number)

    finish = inlined(finish)
    if of.reads:
        return inlined(fetch), inlined(reading)
    return inlined(nothing), inlined(apart) if of.apart else finish


@cuda_kernel
def elementwise(dtype: str, of: Epilogue):
    """C = epilogue(IN), item by item of the same panels."""
    T, item, panel, finish = getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype), scalar_epilogue(of)

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


@cuda_kernel
def find_not_finite(dtype: str):
    """found[0] = 1 if one of the first n numbers of `state` is not finite, found[1] = 1 if one of the others is not."""
    largest = np.finfo(dtype).max

    def find_not_finite(state, n, found):
        for e in range(cuda.grid(1), len(state), cuda.gridsize(1)):
            if not abs(state[e]) <= largest:
                found[0 if e < n else 1] = 1

    return find_not_finite
