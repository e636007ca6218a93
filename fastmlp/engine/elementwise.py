"""Kernels of activations on tiles that were just computed, `void(target, other, n, worker)`."""

from __future__ import annotations

import types

import numpy as np
from numba import njit

from .. import records as R
from ..simd import ITEMSIZE, Simd
from .elementary import SCALAR, functions
from .ir import call, float64_at, int64_at, items_at


def typed(function, dtype: str, names: dict):
    """A plain function of numbers with its float constants in `dtype` and some global names bound anew."""
    T = getattr(np, dtype)
    code = function.__code__
    constants = tuple(T(c) if isinstance(c, float) else c for c in code.co_consts)
    return types.FunctionType(code.replace(co_consts=constants), {**function.__globals__, **names}, function.__name__)


def compiled(function, dtype: str):
    """A plain function of one number, compiled, with NumPy's names bound to our polynomials."""
    return njit(**SCALAR)(typed(function, dtype, vars(functions(dtype))))


def activation_value(declaration, apart: bool = False, compiled=compiled):
    """z = f(z), or with `apart` other = f(z) where z is needed again. One kernel for all values of its parameter."""

    def build(dtype, simd):
        T, items, f = getattr(np, dtype), items_at[dtype], compiled(declaration.value, dtype)

        def value(target, other, n, worker):
            z = items(target)
            for i in range(n):
                z[i] = f(z[i])

        def value_of_number(target, other, n, worker):
            z, number = items(target), T(float64_at(worker)[R.EPILOGUE_NUMBER])
            for i in range(n):
                z[i] = f(z[i], number)

        def value_apart(target, other, n, worker):
            z, a = items(target), items(other)
            for i in range(n):
                a[i] = f(z[i])

        def value_of_number_apart(target, other, n, worker):
            z, a, number = items(target), items(other), T(float64_at(worker)[R.EPILOGUE_NUMBER])
            for i in range(n):
                a[i] = f(z[i], number)

        if declaration.parameter is not None:
            return value_of_number_apart if apart else value_of_number
        return value_apart if apart else value

    return build


def activation_derivative(declaration, compiled=compiled):
    def build(dtype, simd):
        T, items, df = getattr(np, dtype), items_at[dtype], compiled(declaration.derivative, dtype)

        def derivative(target, other, n, worker):
            dz, a = items(target), items(other)
            for i in range(n):
                dz[i] = dz[i] * df(a[i])

        def derivative_of_number(target, other, n, worker):
            dz, a, number = items(target), items(other), T(float64_at(worker)[R.EPILOGUE_NUMBER])
            for i in range(n):
                dz[i] = dz[i] * df(a[i], number)

        return derivative if declaration.parameter is None else derivative_of_number

    return build


def add(a, b):  # the sum at the end of a residual, and that of the gradients at its start
    return a + b


def multiply(a, b):  # two branches, one of which gates the other
    return a * b


def maximum(a, b):  # NaN where either is NaN
    return b if b > a or b != b else a


def at_least(a, b):  # where a maximum is the first branch's
    return 1.0 if a >= b else 0.0


def multiply_rest(a, b):  # what a share b, of 0 or 1, leaves
    return a - a * b


PAIRS = {function.__name__: function for function in (add, multiply, maximum, at_least, multiply_rest)}


def pair_kernel(function):
    """target = f(target, other), with one of `PAIRS`."""

    def build(dtype, simd):
        items, f = items_at[dtype], compiled(function, dtype)

        def pair(target, other, n, worker):
            a, b = items(target), items(other)
            for i in range(n):
                a[i] = f(a[i], b[i])

        return pair

    return build


def prelu(dtype: str, simd: Simd):
    """Rows lo..hi: C = z where z > 0, else the unit's slope W times z."""
    item, panel_width, items, T = ITEMSIZE[dtype], simd.panel(dtype), items_at[dtype], getattr(np, dtype)

    def prelu(record, lo, hi, worker):
        r = int64_at(record)
        n_panels = r[R.N_PANELS]
        for j in range(n_panels):
            width, slopes = panel_width if j < n_panels - 1 else r[R.LAST_WIDTH], items(r[R.W] + j * panel_width * item)
            for i in range(lo, hi):
                at = j * r[R.C_PANEL_BYTES] + i * width * item
                z, a = items(r[R.IN] + at), items(r[R.C] + at)
                for k in range(width):
                    zk = z[k]
                    a[k] = zk if zk > T(0) else slopes[k] * zk

    return prelu


def prelu_gradient(dtype: str, simd: Simd):
    """Rows lo..hi: C = da where z > 0, else W da; NORMED = da z where z < 0, else 0, whose sums are W's gradient."""
    item, panel_width, items, T = ITEMSIZE[dtype], simd.panel(dtype), items_at[dtype], getattr(np, dtype)

    def prelu_gradient(record, lo, hi, worker):
        r = int64_at(record)
        n_panels = r[R.N_PANELS]
        for j in range(n_panels):
            width, slopes = panel_width if j < n_panels - 1 else r[R.LAST_WIDTH], items(r[R.W] + j * panel_width * item)
            for i in range(lo, hi):
                at = j * r[R.C_PANEL_BYTES] + i * width * item
                z, da, dz, products = (
                    items(r[R.Z] + at),
                    items(r[R.IN] + at),
                    items(r[R.C] + at),
                    items(r[R.NORMED] + at),
                )
                for k in range(width):
                    zk, dk = z[k], da[k]
                    dz[k] = dk if zk > T(0) else slopes[k] * dk
                    products[k] = T(0) if zk > T(0) else dk * zk

    return prelu_gradient


def elementwise(dtype: str, simd: Simd):
    """Rows lo..hi: copy IN to C (both in the same panels), then the epilogue: an activation or a sum that follows no
    product.
    """
    item, panel_width, items = ITEMSIZE[dtype], simd.panel(dtype), items_at[dtype]

    def elementwise(record, lo, hi, worker):
        r = int64_at(record)
        n_panels = r[R.N_PANELS]
        int64_at(worker)[R.EPILOGUE_NUMBER] = r[R.NUMBER]
        for j in range(n_panels):
            width = panel_width if j < n_panels - 1 else r[R.LAST_WIDTH]
            at, n = j * r[R.C_PANEL_BYTES] + lo * width * item, (hi - lo) * width
            source, target = items(r[R.IN] + at), items(r[R.C] + at)
            for i in range(n):
                target[i] = source[i]
            call(r[R.EPILOGUE], r[R.C] + at, r[R.OTHER] + at, n, worker)

    return elementwise
