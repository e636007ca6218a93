"""Declarations by the names of their kernels, and their functions for the device: the catalogue's, or a user's own."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import cuda

from .. import user_functions
from ..activations import ACTIVATIONS
from ..engine.custom import Compiler
from ..losses import LOSSES
from .device import SIMULATED
from .functions import compiled, device_function, functions, item_type, library


def is_custom(family: str) -> bool:
    """Whether these kernels, "gelu" or "custom.<fingerprint>", are of a user's declaration."""
    return family.startswith("custom.")


def declaration_of(family: str):
    """Of an activation or a loss."""
    if is_custom(family):
        return user_functions.DECLARED[family.partition(".")[2]]
    return ACTIVATIONS[family] if family in ACTIVATIONS else LOSSES[family]


def function_of(kernel: str, field: str, dtype: str):
    """The function in a field of the declaration that the kernel "<family>.<what it computes>" belongs to.

    Raises
    ------
    TypeError
        A user's own that cannot be compiled for the device.
    """
    family = kernel.rpartition(".")[0]
    function = getattr(declaration_of(family), field)
    return _own(kernel, function, dtype) if is_custom(family) else compiled(function, dtype)


def _own(kernel: str, function, dtype: str):
    try:
        made = _compiler(function, dtype)
    except user_functions.CannotCompile as error:
        user_functions.refuse(kernel, str(error), error)
    if not SIMULATED:
        capability, numbers = cuda.get_current_device().compute_capability, (item_type[dtype],)
        try:  # as far as PTX, for NVVM refuses what Numba lets pass, such as np.round
            cuda.compile(made.py_func, numbers * function.__code__.co_argcount, device=True, abi="numba", cc=capability)
        except Exception as error:  # Numba's, of one of two packages, or what it stumbles over
            user_functions.refuse(kernel, str(error), error)
    return made


@lru_cache
def _numpy_functions(dtype: str) -> dict:
    """As the CPU's; the device's own hold for every number. Beside them what Numba lacks for devices."""
    T = getattr(np, dtype)
    zero, one = T(0), T(1)

    @device_function
    def maximum(a, b):
        return b if a < b or b != b else a

    @device_function
    def minimum(a, b):
        return b if a > b or b != b else a

    @device_function
    def clip(x, low, high):
        return minimum(maximum(x, low), high)

    @device_function
    def absolute(x):
        return abs(T(x))

    @device_function
    def sign(x):
        return one if x > zero else -one if x < zero else T(x)

    @device_function
    def square(x):
        return x * x

    @device_function
    def reciprocal(x):
        return one / x

    @device_function
    def power(a, b):
        return T(a) ** T(b)

    @device_function
    def floor(x):
        return T(library.floor(x))

    @device_function
    def ceil(x):
        return T(library.ceil(x))

    f = functions(dtype)
    of_f = {**vars(f), "expit": f.sigmoid, "ndtr": f.normal_cdf, "fabs": absolute}
    own = (maximum, minimum, clip, absolute, sign, square, reciprocal, power, floor, ceil)
    names = "maximum", "minimum", "clip", "absolute", "sign", "square", "reciprocal", "power", "floor", "ceil"
    return of_f | dict(zip(names, own, strict=True))


_compiler = Compiler(device_function, _numpy_functions)
