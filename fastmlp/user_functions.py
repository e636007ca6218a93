"""A user's own plain functions: a fingerprint of all that they depend on, and checks at declaration.

Their machine code is kept under the fingerprint, so that a changed function, or a changed number that it refers to, is
compiled anew. `engine/custom.py` compiles them; `CustomActivation` and `CustomLoss` declare them.
"""

from __future__ import annotations

import dis
import hashlib
import re
import sys
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType

import numpy as np

DECLARED: dict[str, object] = {}  # fingerprint -> the declaration whose functions it is of
POINTS = np.linspace(-3.0, 3.0, 41) + 0.0137  # off the round numbers, where functions have kinks
ZERO = np.zeros(1)  # what pads a layer's columns, and where a function may have a kink, but no pole


def kernel_family(declaration, *functions) -> str:
    """The name under which kernels of these functions are compiled and kept, as they are now."""
    facts = (sys.version_info[:2], [_facts(f, declaration, ()) for f in functions])
    digest = hashlib.blake2b(repr(facts).encode(), digest_size=12).hexdigest()
    DECLARED[digest] = declaration
    return f"custom.{digest}"


class CannotCompile(Exception):
    """A user's function cannot become a kernel; the message says why."""


def refuse(kernel: str, why: str, cause: BaseException | None = None):
    """Raise for a kernel that cannot be compiled: TypeError naming the function where it is a user's."""
    if not kernel.startswith("custom."):
        raise cause or CannotCompile(f"{kernel}: {why}")
    _, digest, kind = kernel.split(".")
    declaration = DECLARED[digest]
    fields = {"derivative": "`derivative`", "dense": "`term` or `slope`"}.get(kind, "`value`")
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", why).splitlines()]
    lines = [line for line in lines if line and not line.startswith("Failed in ")]
    raise TypeError(
        f"{fields} of {type(declaration).__name__} {declaration.name!r} cannot be compiled by Numba: "
        f"{' '.join(lines[:2])}"
    ) from cause


def references(function: FunctionType) -> dict[str, object]:
    """Names and values of the globals, and of the variables of enclosing functions, that a function uses."""
    names = {name for code in _codes(function.__code__) for name in _global_names(code)}
    found = {name: function.__globals__[name] for name in sorted(names) if name in function.__globals__}
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    return found | dict(zip(function.__code__.co_freevars, cells, strict=True))


def attributes(module: ModuleType, code: CodeType) -> dict[str, object]:
    """What of a module a function's code may use."""
    names = sorted({name for c in _codes(code) for name in c.co_names})
    return {name: getattr(module, name) for name in names if hasattr(module, name)}


def _codes(code: CodeType):
    """The code of a function and of the functions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _global_names(code: CodeType):
    return (i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME"))


def _facts(value, declaration, path: tuple, code: CodeType | None = None):
    """What a value is made of, as nested lists and tuples whose `repr` is the same only for the same behaviour."""
    kind = type(value).__name__
    if value is None or isinstance(value, (bool, int, float, str, np.generic)):
        return kind, repr(value)
    if isinstance(value, (tuple, frozenset)):
        return kind, [_facts(v, declaration, path, code) for v in value]
    if isinstance(value, CodeType):
        constants = [_facts(c, declaration, path) for c in value.co_consts[1:]]  # the first may be the docstring
        first = [_facts(value.co_consts[0], declaration, path)] if _uses_first_constant(value) else []
        return value.co_code, value.co_names, value.co_varnames, value.co_freevars, first + constants
    if any(value is seen for seen in path):
        return "again", path.index(value)
    path = (*path, value)
    if isinstance(value, FunctionType):
        used = [(name, _facts(v, declaration, path, value.__code__)) for name, v in references(value).items()]
        return _facts(value.__code__, declaration, path), _facts(value.__defaults__, declaration, path), used
    if isinstance(value, ModuleType):
        return value.__name__, [(n, _facts(v, declaration, path, code)) for n, v in attributes(value, code).items()]
    package = str(getattr(value, "__module__", "")).partition(".")[0]  # np.emath.log is of numpy.lib.scimath
    of_numpy = package == "numpy" and hasattr(value, "__name__")  # an instance of a class has its class's module
    if of_numpy or isinstance(value, (np.ufunc, type, BuiltinFunctionType)):
        return kind, getattr(value, "__module__", ""), value.__name__
    raise TypeError(
        f"{declaration!r} refers to {value!r}; its functions may refer to numbers, to functions of NumPy and to other "
        "plain functions."
    )


def _uses_first_constant(code: CodeType) -> bool:
    return any(i.opname in ("LOAD_CONST", "RETURN_CONST") and i.arg == 0 for i in dis.get_instructions(code))


def check_function(declaration, field: str, *arguments: np.ndarray) -> np.ndarray:
    """What the function in this field gives for arrays of equal shape; TypeError or ValueError where that is not an
    array of numbers of this shape.
    """
    function = getattr(declaration, field)
    name, kind = getattr(function, "__name__", "?"), type(declaration).__name__
    what = f"`{field}` of {kind} {declaration.name!r}"
    if not isinstance(function, FunctionType):
        raise TypeError(f"{what} must be a plain Python function; got {function!r}.")
    if any(i.opname == "RAISE_VARARGS" for c in _codes(function.__code__) for i in dis.get_instructions(c)):
        raise TypeError(f"{what} must not raise or assert: nothing does so in compiled code; got {name}.")
    try:
        with np.errstate(all="ignore"):
            result = np.asarray(function(*arguments))
    except Exception as error:
        raise TypeError(
            f"{what} must take arrays, elementwise, with `np.where(z > 0, a, b)` instead of `a if z > 0 else b`; "
            f"{name} raised {type(error).__name__}: {error}"
        ) from error
    if result.dtype.kind not in "biuf" or result.shape not in ((), arguments[0].shape):
        raise ValueError(
            f"{what} must give one number for each; for shape {arguments[0].shape} {name} gave {result.dtype} of "
            f"shape {result.shape}."
        )
    if not np.isfinite(result).all():
        z = arguments[0][~np.isfinite(np.broadcast_to(result, arguments[0].shape))][0]
        raise ValueError(f"{what} must be finite for every z; {name} is not at {z:.6g}.")
    return np.broadcast_to(result, arguments[0].shape).astype(np.float64)


def check_derivative(declaration, value: str, slope: str, given: np.ndarray, z: np.ndarray, *fixed) -> None:
    """ValueError where the slopes given differ from central differences of the function."""
    h = 1e-5
    high, low = (check_function(declaration, value, z + d, *fixed) for d in (h, -h))
    expected = (high - low) / (2 * h)
    wrong = np.abs(given - expected) > 1e-4 * (1 + np.abs(expected))
    if wrong.any():
        i = np.unravel_index(np.argmax(wrong), wrong.shape)
        at = ", ".join(f"{array[i]:.6g}" for array in (z, *fixed))
        raise ValueError(
            f"`{slope}` of {type(declaration).__name__} {declaration.name!r} is not the derivative of `{value}`: at "
            f"{at} it is {given[i]:.6g}, but differences of `{value}` give {expected[i]:.6g}. Where that is meant, "
            "as for a straight-through estimator, pass check_derivative=False."
        )


def check_name(declaration, taken) -> None:
    """TypeError or ValueError where the name is none, or is that of a built-in one."""
    name = declaration.name
    if not isinstance(name, str) or not name.isidentifier():
        raise TypeError(f"`name` must be a string such as 'snake'; got {name!r}.")
    if name in taken:
        raise ValueError(f"`name` must be another than the built-in ones ({', '.join(taken)}); got {name!r}.")


def describe(declaration, samples: np.ndarray) -> dict:
    """What a model file holds of it: its name, and values to know it again by, for a file holds no code."""
    return {"type": type(declaration).__name__, "name": declaration.name, "samples": samples.ravel().tolist()}


def recall(config: dict, custom_objects: dict | None, kind: type):
    """The object that `describe` described, out of those given; ValueError where it is missing or another one."""
    name, ask = config["name"], f"pass custom_objects={{{config['name']!r}: {kind.__name__}(...)}}"
    found = (custom_objects or {}).get(name)
    if found is None:
        raise ValueError(f"the model has the {kind.__name__} {name!r}, whose functions a file cannot hold; {ask}.")
    if not isinstance(found, kind):
        raise TypeError(f"custom_objects[{name!r}] must be a {kind.__name__}; got {found!r}.")
    if not np.allclose(found.samples.ravel(), config["samples"], rtol=1e-9, atol=1e-12, equal_nan=True):
        raise ValueError(f"custom_objects[{name!r}] gives other values than the {kind.__name__} of the saved model.")
    return found
