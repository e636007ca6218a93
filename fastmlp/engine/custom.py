"""Kernels of a user's own functions: compiled with NumPy's names bound to our polynomials, where we have them."""

from __future__ import annotations

import types
from functools import lru_cache, partial

import numpy as np
from numba import njit

from ..user_functions import DECLARED, CannotCompile, attributes, references
from .elementary import SCALAR, functions
from .elementwise import activation_derivative, activation_value
from .loss_kernels import separable_kernel


def builder(name: str):
    """The builder of the kernel `user_functions.kernel_family` + what it computes."""
    _, digest, kind = name.split(".")
    declaration = DECLARED[digest]
    if kind == "dense":
        return separable_kernel(declaration, _of_four)
    if kind == "derivative":
        return activation_derivative(declaration, compiled)
    return activation_value(declaration, kind == "apart", compiled)


def _of_four(function, dtype: str):
    """A term of (z, y) as the kernel calls it."""
    f = compiled(function, dtype)

    @njit(**SCALAR)
    def term(z, y, a, b):
        return f(z, y)

    return term


class Compiler:
    """Compiles a user's functions for numbers of one dtype: their own floats, and those they refer to, are of it too.

    Parameters
    ----------
    jit : callable
        Of a plain function: the compiled one.
    numpy_functions : callable
        Of a dtype: NumPy's and SciPy's functions, compiled, by name.
    """

    def __init__(self, jit, numpy_functions):
        self._jit, self._numpy_functions = jit, numpy_functions

    def __call__(self, function, dtype: str):
        return self._compiled(function, dtype, ())

    def _compiled(self, function, dtype: str, within: tuple):
        if function in within:
            raise CannotCompile(f"{function.__name__} calls itself")
        code = function.__code__
        bind = partial(self._bound, dtype=dtype, code=code, within=(*within, function))
        names = {name: bind(value) for name, value in references(function).items()}
        cells = tuple(types.CellType(names[name]) for name in code.co_freevars)
        typed = bind(code)
        globals_ = {**names, "__builtins__": __builtins__}
        return self._jit(types.FunctionType(typed, globals_, function.__name__, bind(function.__defaults__), cells))

    def _bound(self, value, *, dtype, code, within):
        """A value that a function refers to, as the compiled one does."""
        bind = partial(self._bound, dtype=dtype, code=code, within=within)
        if isinstance(value, (float, np.floating)):
            return getattr(np, dtype)(value)
        if isinstance(value, tuple):
            return tuple(map(bind, value))
        if isinstance(value, types.CodeType):
            return value.replace(co_consts=tuple(map(bind, value.co_consts)))
        ours = self._numpy_functions(dtype).get(getattr(value, "__name__", None))
        if isinstance(value, types.FunctionType):
            own = (value.__module__ or "").startswith("fastmlp.")
            return ours if own and ours is not None else self._compiled(value, dtype, within)
        if isinstance(value, np.ufunc) or getattr(value, "__module__", None) == "numpy":
            return value if ours is None else ours
        if isinstance(value, types.ModuleType):
            module = types.ModuleType(value.__name__)
            vars(module).update({name: bind(v) for name, v in attributes(value, code).items()})
            return module
        return value


@lru_cache
def numpy_functions(dtype: str) -> dict:
    """NumPy's and SciPy's functions by name, for every number: some polynomials hold for a part of them."""
    f = functions(dtype)
    T = getattr(np, dtype)
    exp, expm1_below, log_normal = f.exp, f.expm1, f.log
    zero, one, infinity, nan, tiny = T(0), T(1), T(np.inf), T(np.nan), np.finfo(dtype).tiny
    bits = np.finfo(dtype).nmant + 2
    up, down = T(2.0**bits), T(bits * np.log(2.0))

    @njit(**SCALAR)
    def log(x):
        small = x < tiny  # subnormal, or not positive
        y = log_normal(x * up if small else x) - (down if small else zero)
        y = -infinity if x == zero else y
        y = nan if x < zero else y
        return x if x == infinity else y

    @njit(**SCALAR)
    def log1p(x):
        u = one + x
        d = u - one
        y = log(u) * (x / d) if d != zero else x
        return x if x == infinity else y

    @njit(**SCALAR)
    def expm1(x):
        return exp(x) - one if x > one else expm1_below(x)

    @njit(**SCALAR)
    def maximum(a, b):
        return b if a < b or b != b else a

    @njit(**SCALAR)
    def minimum(a, b):
        return b if a > b or b != b else a

    @njit(**SCALAR)
    def clip(x, low, high):
        return minimum(maximum(x, low), high)

    own = {"log": log, "log1p": log1p, "expm1": expm1, "maximum": maximum, "minimum": minimum, "clip": clip}
    return {**vars(f), "expit": f.sigmoid, "ndtr": f.normal_cdf, **own}


compiled = Compiler(njit(**SCALAR), numpy_functions)
