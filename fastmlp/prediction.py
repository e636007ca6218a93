"""The forward pass in NumPy: a few rows are predicted sooner this way than workers start, and without kernels."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ._arrays import is_sparse
from .activations import Activation
from .augmentation import AUGMENTATIONS
from .layers import Dense, Dropout, Fork, Join, Layer, Mark, Multiply, Rescaling, Softmax, Switch


def numpy_forward(
    layers: Iterable[tuple[str, Layer | Mark]], arrays: dict[str, np.ndarray], X, dtype: np.dtype
) -> np.ndarray:
    """What the layers make of X, (n, width), as a prediction: nothing is dropped or augmented.

    Parameters
    ----------
    layers : iterable of (name, layer)
        `layers.named` of the leading layers of a model.
    arrays : dict
        Its parameters by name.
    X : array (n, n_features) or CSR
    dtype : dtype
        Of the parameters and of all arithmetic.

    Returns
    -------
    array
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # as the engine
        return forward(layers, arrays, X if is_sparse(X) else np.asarray(X, dtype), dtype)


def forward(layers, arrays: dict[str, np.ndarray], value, dtype: np.dtype):
    """The same for whatever acts as an array of this dtype does: `onnx_export` notes down what happens to one."""
    skips = []
    for name, layer in layers:
        if isinstance(layer, Dense):
            value = (value @ arrays[f"{name}.weight"]).astype(dtype, copy=False)
            if layer.use_bias:
                value += arrays[f"{name}.bias"]
        elif isinstance(layer, (Activation, Softmax)):
            value = layer(value)
        elif isinstance(layer, Rescaling):
            value = _dense(value, dtype) * dtype.type(layer.scale) + dtype.type(layer.offset)
        elif isinstance(layer, Fork):
            value = _dense(value, dtype)
            skips.append(value)
        elif isinstance(layer, Switch):
            value, skips[-1] = skips[-1], value
        elif isinstance(layer, Multiply):
            value = value * skips.pop()
        elif isinstance(layer, Join):
            value = value + skips.pop()
        elif not isinstance(layer, (Dropout, *AUGMENTATIONS)):
            own = {key: arrays[f"{name}.{key}"] for key in layer.parameter_shapes(value.shape[1])}
            value = layer.forward(value, own)
    return _dense(value, dtype)


def _dense(value, dtype):
    return (value.toarray() if is_sparse(value) else value).astype(dtype, copy=False)
