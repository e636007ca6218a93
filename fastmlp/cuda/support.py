"""What does not run on the device, and how much a step has to do: known before anything of CUDA is imported."""

from __future__ import annotations

from ..layers import Dense, flatten, width_behind


def check_X(X) -> None:
    """Raise NotImplementedError for a sparse X."""
    if not hasattr(X, "__array_interface__"):
        raise NotImplementedError("a sparse X does not run on device='cuda' yet; it runs on the CPU: use device='cpu'.")


def work(layers, n_features: int, batch_size: int) -> float:
    """Floating-point operations of a step's products, about: what `device="auto"` decides by."""
    width, total = n_features, 0
    for layer in flatten(layers):
        if isinstance(layer, Dense):
            total += width * layer.units
        width = width_behind(layer, width)
    return 6.0 * batch_size * total
