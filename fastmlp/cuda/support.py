"""What runs on the device: `check` raises at once, naming what does not."""

from __future__ import annotations

from ..activations import ACTIVATIONS, CustomActivation
from ..augmentation import AUGMENTATIONS
from ..engine.rules import RULES
from ..layers import Dense, Dropout, Mark, PReLU, Rescaling, Softmax, flatten
from ..losses import LOSSES, CustomLoss
from ..normalization import Norm

RUNS = (CustomActivation, Dense, Dropout, Mark, Norm, PReLU, Rescaling, Softmax, *AUGMENTATIONS)


def check(layers, loss, optimizer, X) -> None:
    """Raise NotImplementedError for the first layer, loss, optimiser or kind of X that only the CPU knows."""
    for layer in flatten(layers):
        if type(layer) not in ACTIVATIONS.values() and not isinstance(layer, RUNS):
            _refuse(f"the layer {layer!r}")
    if type(loss) not in LOSSES.values() and not isinstance(loss, CustomLoss):
        _refuse(f"the loss {loss!r}")
    if optimizer.rule not in RULES:
        _refuse(f"the optimiser {optimizer!r}")
    check_X(X)


def check_X(X) -> None:
    """Raise NotImplementedError for a sparse X."""
    if not hasattr(X, "__array_interface__"):
        _refuse("a sparse X")


def _refuse(what: str):
    raise NotImplementedError(f"{what} does not run on device='cuda' yet; it runs on the CPU: use device='cpu'.")


def work(layers, n_features: int, batch_size: int) -> float:
    """Floating-point operations of a step's products, about: what `device="auto"` decides by."""
    width, total = n_features, 0
    for layer in flatten(layers):
        if isinstance(layer, Dense):
            total, width = total + width * layer.units, layer.units
    return 6.0 * batch_size * total
