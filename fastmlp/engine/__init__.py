"""The engine: runs a plan on CPU threads.

`simd` what the host's vector unit is; `records` the layout of the tables that kernels read; `ir` vector instructions as
intrinsics; `elementary` exp, tanh, log that vectorise; `products`, `elementwise`, `loss_kernels`, `rows` and `loop` the
kernels, `kernels` their table; `jit` compiles them one by one and keeps their machine code, `compiling` many at a time
in several processes; `executor` binds a plan to memory and runs it; `threads` how many workers.
Only `jit`, when it has to compile, imports Numba.
"""


def warmup(dtypes=("float32", "float64"), verbose: bool = True) -> int:
    """Compile every kernel into the cache; return how many had to be compiled.

    Parameters
    ----------
    dtypes : sequence of str
        "float32" and/or "float64".
    verbose : bool
        Print one line per kernel.
    """
    from .compiling import compile_all

    return compile_all(dtypes, verbose)
