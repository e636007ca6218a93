"""Device functions: those of activations, losses and rules, plain Python with NumPy's names bound to the device's; and
what several kernels call.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache, wraps
from types import SimpleNamespace

import numpy as np
from numba import cuda, types

from ..engine.elementwise import typed
from ..engine.rows import place as cpu_place
from .compiled import keep_compiled
from .device import NOT_FINITE, SIMULATED

item_type = {"float32": types.float32, "float64": types.float64}  # of arrays that a kernel makes

# The simulator runs Python, whose `math` raises where a device's gives infinity
library = np if SIMULATED else math
_exp, _expm1, _tanh, _log, _log1p = (getattr(library, name) for name in ("exp", "expm1", "tanh", "log", "log1p"))
_sin, _cos = library.sin, library.cos


def device_function(function):
    """Compiled where a kernel calls it, for the types that it is called with."""
    return cuda.jit(device=True)(function)


def inlined(function):
    """A device function that becomes a part of its caller, so that its arrays can be registers of the caller's."""
    return cuda.jit(device=True)(function) if SIMULATED else cuda.jit(device=True, forceinline=True)(function)


def cuda_kernel(make):
    """A maker of plain functions becomes one of kernels: one for each set of arguments, compiled when it is launched,
    or found in the cache, where the arguments' `repr` is part of its name: so they are plain values.
    """

    @cache
    @wraps(make)
    def made(*arguments):
        kernel = cuda.jit(make(*arguments))
        if not SIMULATED:
            keep_compiled(kernel, f"{make.__module__.rpartition('.')[2]}.{make.__name__}{arguments!r}")
        return kernel

    return made


@lru_cache
def functions(dtype: str) -> SimpleNamespace:
    """The device's functions of one number, by the names that the declarations use."""
    T = getattr(np, dtype)
    one, half, minus_root_half = T(1), T(0.5), T(-math.sqrt(0.5))

    @device_function
    def exp(x):
        return _exp(T(x))

    @device_function
    def expm1(x):
        return _expm1(T(x))

    @device_function
    def tanh(x):
        return _tanh(T(x))

    @device_function
    def log(x):
        return _log(T(x))

    @device_function
    def sqrt(x):
        return T(math.sqrt(x))

    @device_function
    def log1p(x):
        return _log1p(T(x))

    @device_function
    def log1p_of_exp_minus_abs(x):
        return _log1p(_exp(-abs(T(x))))

    @device_function
    def normal_cdf(x):
        return half * T(math.erfc(minus_root_half * x))

    @device_function
    def sigmoid(x):
        return one / (one + _exp(-T(x)))

    @device_function
    def sin(x):
        return _sin(T(x))

    @device_function
    def cos(x):
        return _cos(T(x))

    @device_function
    def maximum(a, b):
        return b if a < b else a

    @device_function
    def where(condition, a, b):
        return a if condition else b

    @device_function
    def sum_of(x, n):
        total = T(0)
        for k in range(n):
            total += x[k]
        return total

    @device_function
    def max_of(x, n):
        most = x[0]
        for k in range(1, n):
            most = x[k] if x[k] > most else most
        return most

    return SimpleNamespace(
        exp=exp,
        expm1=expm1,
        tanh=tanh,
        log=log,
        log1p=log1p,
        sqrt=sqrt,
        log1p_of_exp_minus_abs=log1p_of_exp_minus_abs,
        normal_cdf=normal_cdf,
        sigmoid=sigmoid,
        sin=sin,
        cos=cos,
        maximum=maximum,
        where=where,
        sum_of=sum_of,
        max_of=max_of,
    )


@cache
def compiled(function, dtype: str):
    """A declaration's plain function for the device."""
    return device_function(typed(function, dtype, vars(functions(dtype))))


@cache
def one_of(alternatives: tuple):
    """One of several device functions by its number, the first argument: the same kernel serves records that end
    differently. Of none, it does nothing.
    """
    if not alternatives:
        return inlined(lambda which, *arguments: None)
    first, *others = alternatives
    if not others:

        def only(which, *arguments):
            first(*arguments)

        return inlined(only)
    rest = one_of(tuple(others))

    @inlined
    def one(which, *arguments):
        if which == 0:
            first(*arguments)
        else:
            rest(which - 1, *arguments)

    return one


@cache
def unrolled(n: int, function):
    """f(i, ...): the device function with i, i + 1... i + n - 1, a loop that is written out, in two halves each time.
    The compiler unrolls loops only while they are short, and arrays of threads are registers only where every index is
    a constant.
    """
    if n == 1:
        return function
    half = n // 2
    first, second = unrolled(half, function), unrolled(n - half, function)

    @inlined
    def several(i, *arguments):
        first(i, *arguments)
        second(i + half, *arguments)

    return several


@inlined
def failed_before(control):
    """Whether an earlier kernel found a loss that is not finite: for all threads of a block alike, for another block of
    this kernel may find one while this one begins, and threads that wait for each other must do the same.
    """
    failed = cuda.shared.array(1, types.int64)
    if cuda.threadIdx.x == 0:
        failed[0] = control[NOT_FINITE]
    cuda.syncthreads()
    return failed[0] != 0


@inlined
def note_loss(control, row_losses, i, loss):
    """The loss of row i of the batch, and whether it is finite."""
    row_losses[i] = loss
    if loss - loss != 0.0:
        control[NOT_FINITE] = 1


@inlined
def sum_of_block(parts, threads):
    """parts[0] = the sum of as many numbers as a block has threads, a power of two, pair by pair. All threads call it,
    when each has put its own into shared memory.
    """
    t, half = cuda.threadIdx.x, threads // 2
    while half > 0:
        cuda.syncthreads()
        if t < half:
            parts[t] += parts[t + half]
        half //= 2
    cuda.syncthreads()


place = device_function(cpu_place.py_func)


@inlined
def data_row(order, index, first, i):
    """Where row i of the batch is in the data; index -1: in order from `first` on."""
    return order[index + i] if index >= 0 else first + i


@device_function
def copy_transposed(state, transposed, at, wt, unit, column, n_in, n_out, panel, last_width):
    """A weight into its place in the transposed copy; wt -1: there is none."""
    if wt >= 0:
        last = (n_in - 1) // panel
        transposed[wt + place(column, unit, panel, last, panel * n_out, last_width)] = state[at]
