"""What runs on the device: `check` raises at once, naming what does not."""

from __future__ import annotations

from ..activations import ACTIVATIONS, Activation
from ..engine.rules import RULES
from ..layers import Dense, Dropout, Join, Mark, Rescaling, flatten
from ..losses import LOSSES


def check(layers, loss, optimizer, X) -> None:
    """Raise NotImplementedError for the first layer, loss, optimiser or kind of X that only the CPU knows."""
    for layer in flatten(layers):
        if isinstance(layer, Join) and layer.drop_rate:
            _refuse("Residual(drop_rate=...)")
        declared = isinstance(layer, Activation) and type(layer) in ACTIVATIONS.values()
        if not declared and not isinstance(layer, (Dense, Dropout, Mark, Rescaling)):
            _refuse(f"the layer {layer!r}")
        if isinstance(layer, Dense) and layer.max_norm is not None:
            _refuse(f"max_norm of {layer!r}")
    first = next(layer for layer in flatten(layers) if not isinstance(layer, (Rescaling, Dropout)))
    if isinstance(first, Mark):
        _refuse(f"{first.name} as the first layer")
    softmax = loss.name == "softmax_cross_entropy" and type(loss) is LOSSES["softmax_cross_entropy"]
    if not softmax and (loss.term is None or type(loss) not in LOSSES.values()):
        _refuse(f"the loss {loss!r}")
    if optimizer.rule not in RULES:
        _refuse(f"the optimiser {optimizer!r}")
    if optimizer.clip_norm is not None:
        _refuse(f"clip_norm of {optimizer!r}")
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
