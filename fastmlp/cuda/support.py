"""What does not run on the device, and how much a step has to do: known before anything of CUDA is imported."""

from __future__ import annotations

import math

from ..layers import Dense
from ..lowering import parameter_shapes


def check_X(X) -> None:
    """Raise NotImplementedError for a sparse X."""
    if not hasattr(X, "__array_interface__"):
        raise NotImplementedError("a sparse X does not run on device='cuda' yet; it runs on the CPU: use device='cpu'.")


def work(layers, n_features: int, batch_size: int) -> float:
    """Floating-point operations of a step's products, about: what `device="auto"` decides by."""
    shapes = parameter_shapes(layers, n_features)
    of_dense = (shape for name, shape in shapes.items() if name.startswith(Dense.prefix) and len(shape) == 2)
    return 6.0 * batch_size * sum(map(math.prod, of_dense))
