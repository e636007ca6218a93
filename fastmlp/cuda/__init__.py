"""Training on an NVIDIA GPU: a second executor of the plans that the CPU runs. See docs/cuda.md.

Importing this package imports nothing of CUDA; `require` does.

- `support.py` says what runs on the device and what does not.
- `device.py` is what all kernels agree on: tiles, panels, the words of `control`.
- `functions.py` compiles the plain functions of activations, losses and rules as device functions, `declarations.py`
  those of a declaration by its name, a user's own too.
- `vectors.py` has the instructions that move 16 bytes at once.
- `tiles.py` sums a tile of a product, with `multiply_add.py` in the plan's dtype, with `tensor_cores.py` less exactly.
- `rows.py`, `augmentation.py`, `embeddings.py`, `products.py`, `elementwise.py`, `dropout.py`, `layers.py`, `norms.py`,
  `loss_kernels.py`, `batch_losses.py` and `constraints.py` hold the kernels, one for each kind of record.
- `gradients.py` sums the gradients of all parameters over shares of rows; `updates.py` has what follows a gradient.
- `narrow.py` does all that a narrow network does with rows in one kernel, `few_rows.py` where these are few.
- `compiled.py` keeps machine code in files.
- `memory.py` gives a plan its memory on the device, `launches.py` gives its records their kernels, grids and arguments,
  and `graphs.py` replays a step's launches as one.
- `driver.py` copies between the host and the device by the driver's own functions.
- `data.py` keeps the data on the device, or streams them in chunks.
- `executor.py` holds all that together and runs the steps.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec

INSTALL = 'pip install "fastmlp[cuda]"'


LEAST_CAPABILITY = (8, 0)  # of devices whose tensor cores know TF32 and BF16


def require(precision: str | None = None) -> None:
    """Raise ImportError without `numba.cuda`, RuntimeError without a device that it can use, or with one whose products
    cannot have that precision; all say what to do.
    """
    try:
        from numba import config, cuda
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
    if config.ENABLE_CUDASIM:
        return
    if precision is not None and (found := cuda.get_current_device().compute_capability) < LEAST_CAPABILITY:
        raise RuntimeError(
            f"`precision`={precision!r} needs a GPU of compute capability 8.0 or more; this one has "
            f"{'.'.join(map(str, found))}: leave it out."
        )
    if find_spec("numba_cuda") is None:
        raise ImportError(
            "device='cuda' needs the package numba-cuda, which is missing: the `numba.cuda` that comes with Numba is "
            f"older and lacks what it uses; install it with {INSTALL}, or use device='cpu'."
        )
    try:
        import_module("numba.cuda.np.arrayobj")  # the first of what compiling imports that knows NumPy's names
    except AttributeError as error:
        raise ImportError(
            f"numba-cuda {version('numba-cuda')} does not work with NumPy {version('numpy')} ({error}); {INSTALL} "
            "brings versions that go together, or use device='cpu'."
        ) from error
    except ImportError:  # another numba-cuda, which has it elsewhere
        pass
