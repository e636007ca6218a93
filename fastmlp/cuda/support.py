"""What does not run on the device, and how much a step has to do: known before anything of CUDA is imported."""

from __future__ import annotations

from ..embedding import Embedding
from ..layers import Dense, flatten


def check_layers(layers) -> None:
    """Raise NotImplementedError for an embedding. All other layers, losses and optimisers run on the device."""
    if isinstance(layers[0], Embedding):
        raise NotImplementedError(
            f"{layers[0]!r} does not run on device='cuda' yet; it runs on the CPU: use device='cpu'."
        )


def check_X(X) -> None:
    """Raise NotImplementedError for a sparse X."""
    if not hasattr(X, "__array_interface__"):
        raise NotImplementedError("a sparse X does not run on device='cuda' yet; it runs on the CPU: use device='cpu'.")


def work(layers, n_features: int, batch_size: int) -> float:
    """Floating-point operations of a step's products, about: what `device="auto"` decides by."""
    width, total = n_features, 0
    for layer in flatten(layers):
        if isinstance(layer, Dense):
            total, width = total + width * layer.units, layer.units
    return 6.0 * batch_size * total
