"""Training on an NVIDIA GPU: a second executor of the plans that the CPU runs. See docs/cuda.md.

Importing this package imports nothing of CUDA; `require` does.

- `support.py` says what runs on the device and what does not.
- `device.py` is what all kernels agree on: tiles, panels, the words of `control`.
- `functions.py` compiles the plain functions of activations, losses and rules as device functions.
- `rows.py`, `products.py`, `elementwise.py`, `dropout.py`, `layers.py`, `norms.py`, `loss_kernels.py` and
  `constraints.py` hold the kernels, one for each kind of record; `updates.py` what follows a gradient.
- `narrow.py` does all that a narrow network does with rows in one kernel, `gradients.py` sums over shares of rows.
- `memory.py` gives a plan its memory on the device, `launches.py` gives its records their kernels, grids and arguments,
  and `graphs.py` replays a step's launches as one.
- `data.py` keeps the data on the device, or streams them in chunks.
- `executor.py` holds all that together and runs the steps.
"""

from __future__ import annotations

INSTALL = 'pip install "fastmlp[cuda]"'


def require() -> None:
    """Raise ImportError without `numba.cuda`, RuntimeError without a device that it can use; both say what to do."""
    try:
        from numba import cuda
    except ImportError as error:
        raise ImportError(
            f"device='cuda' needs the package numba-cuda, which is missing ({error}); install it with {INSTALL}, or "
            "use device='cpu'."
        ) from error
    if not cuda.is_available():
        raise RuntimeError(
            "device='cuda' needs an NVIDIA GPU, its driver and the CUDA libraries, and Numba finds no such device "
            f"here: check that `nvidia-smi` lists one, and install the package with {INSTALL}, or use device='cpu'."
        )
