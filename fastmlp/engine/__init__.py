"""The engine: runs a plan on CPU threads.

- `executor` binds a plan to memory and runs it, `layout` brings parameters in and out of it by name, `loop` is what
  each worker runs, and `threads` says how many there are.
- `kernels` is the table of all kernels: `rows` gathers, `augmentation_kernels` changes rows; `products`, of few columns
  `column_kernels`, of sparse rows `sparse_kernels`; `elementwise` (activations), `dropout`, `softmax_layer`,
  `norm_kernels`, `embedding_kernels` and `activity` are of layers; `loss_kernels` and `batch_loss_kernels` of
  losses; `optimizer_kernels` follow a gradient at once, by the `rules`, and `update_kernels` when all gradients are
  there; `custom` makes those of a user's functions; `permutation` is the order of rows.
- `elementary` has exp, tanh, log and sin that vectorise, `sums` long sums, `ir` vector instructions as intrinsics.
- `jit` compiles kernels one by one and keeps their machine code, `compiling` many at a time in several processes;
  `contraction` says which products and sums are fused multiply-adds.

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
