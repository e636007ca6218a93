"""The forward pass in NumPy: a few rows are predicted sooner this way than workers start, and without kernels. And the
way back from it to the gradients of the inputs, which no training needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import masks
from ._arrays import is_sparse
from .activations import Activation
from .augmentation import AUGMENTATIONS, GaussianNoise
from .errors import check_count
from .layers import (
    ActivityRegularization,
    AlphaDropout,
    Dense,
    Dropout,
    Fork,
    Join,
    Layer,
    Mark,
    Maximum,
    Multiply,
    Rescaling,
    Softmax,
    Switch,
    flatten,
)
from .normalization import BatchNorm
from .schedules import rates


class AsInTraining(NamedTuple):
    """What a forward pass does as in the first step of a training."""

    key: int  # of the step, that masks and noise follow from
    of_batch: bool  # whether norms take the statistics of the rows, as one batch


def as_in_training(training: bool | str, seed: int, layers: Iterable[Layer], n: int) -> AsInTraining | None:
    """What a forward pass of so many rows does then; None where it is a prediction."""
    training = bool(training) if isinstance(training, np.bool_) else training
    if training is False:
        return None
    if training is not True and not (isinstance(training, str) and training == "dropout"):
        raise ValueError(f"`training` must be False, True or 'dropout'; got {training!r}.")
    seed = check_count(seed, "seed", least=0)
    if n == 1 and training is True and any(isinstance(own, BatchNorm) and own.trainable for own in flatten(layers)):
        raise ValueError(
            "`training` must not be True for one row with a BatchNorm, whose batch would have no variance; 'dropout' "
            "lets it go by its running averages."
        )
    return AsInTraining(int(masks.step_keys(seed, 0, 1)[0]), of_batch=training is True)


def numpy_forward(
    layers: Iterable[tuple[str, Layer | Mark]],
    arrays: dict[str, np.ndarray],
    X,
    dtype: np.dtype,
    training: AsInTraining | None = None,
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
    training : AsInTraining, optional

    Returns
    -------
    array

    Raises
    ------
    NotImplementedError
        With `training`, layers that move or mix images, which the engine knows alone.
    """
    with np.errstate(**QUIET):
        return forward(layers, arrays, _of_dtype(X, dtype), dtype, training=training)


# The engine says nothing either, and products by Apple's Accelerate say that they divided by zero where they did not
# (numpy/numpy#28687)
QUIET = {"all": "ignore"}
_LEFT_OUT = (Dropout, ActivityRegularization, *AUGMENTATIONS)  # of a prediction
# Up to so many multiply-adds NumPy predicts sooner than the engine, which has the weights from another time; or than
# the engine is set up, for sparse rows. NumPy needs no kernels, too
FEW, FEW_SPARSE = 600_000, 2_000_000
# Where the weights are copied for these rows alone: so many rows pay for the copy, if there are so many multiply-adds.
# On a Zen 5, both by one thread, 64 rows of 784-1024-1024-10 and of 784-128-64-10 took as long in NumPy as here, 128 of
# 100-256-128-10 and 180 of 64-128-128-10 as well; 500 rows of the first took 1.8 times as long in NumPy
WORTH_PACKING, ALWAYS_WORTH_PACKING, PACKED_WORK = 64, 500, 6_000_000
KEPT_BYTES = 2**27  # memory of all networks that are kept set up, their own parameters included


def keep(kept: MutableMapping, owner, value, n_bytes: Callable[[Any], int]) -> None:
    """Keep what was set up for the owner's next call, unless it is too large; those of others make room for it."""
    if n_bytes(value) > KEPT_BYTES:
        return
    kept[owner] = value
    others = [other for other in list(kept) if other is not owner]
    while others and sum(map(n_bytes, list(kept.values()))) > KEPT_BYTES:
        kept.pop(others.pop(0), None)


def is_few(X, n_weights: int, units: int | None, packed: bool = True) -> bool:
    """Whether X is so little that NumPy should predict it; `packed` is whether the engine may have the weights from
    another time. Of sparse rows it never has, and a first Dense, of so many units (None: there is none), multiplies
    the entries only, so copying its weights, some eight multiply-adds each, may be most of the work.
    """
    n, columns = X.shape
    if not is_sparse(X):
        if packed:
            return n * n_weights <= FEW
        return n < WORTH_PACKING or (n < ALWAYS_WORTH_PACKING and n * n_weights <= PACKED_WORK)
    if units is None:
        return n * n_weights <= FEW_SPARSE
    return X.nnz * units + n * (n_weights - columns * units) <= max(FEW_SPARSE, 8 * n_weights)


def first_units(layers: Iterable[tuple[str, Layer | Mark]]) -> int | None:
    """Units of a Dense that takes the rows as they are; None where another layer does."""
    first = next(layer for _, layer in layers if not isinstance(layer, _LEFT_OUT))
    return first.units if isinstance(first, Dense) else None


class Passed(NamedTuple):
    """A layer that a value goes through, with the value before it, that of the other branch, and what its elements, or
    rows, are multiplied by in training.
    """

    name: str
    layer: Layer | Mark
    z: np.ndarray
    skip: np.ndarray | None
    factors: np.ndarray | None = None


def forward(
    layers, arrays: dict[str, np.ndarray], value, dtype: np.dtype, passed: list[Passed] | None = None, training=None
):
    """The same for whatever acts as an array of this dtype does: `onnx_export` notes down what happens to one. Where
    there is a list, each layer is appended to it.
    """
    skips, sparse, factors = [], is_sparse(value), None
    numbers = None if training is None else _numbers(layers)
    for name, layer in layers:
        if sparse and not isinstance(layer, _LEFT_OUT):  # a product accepts CSR and is dense; all others need dense
            value, sparse = value if isinstance(layer, Dense) else _dense(value, dtype), False
        if training is not None:
            rate, number, factors = _rate(layer), next(numbers), None
            if rate:
                value, sparse = _dense(value, dtype), False
                factors, rest = _dropping(training.key, number, layer, rate, value)
        if passed is not None:
            passed.append(Passed(name, layer, value, skips[-1] if skips else None, factors))
        if isinstance(layer, Dense):
            value = (value @ arrays[f"{name}.weight"]).astype(dtype, copy=False)
            if layer.use_bias:
                value += arrays[f"{name}.bias"]
        elif isinstance(layer, (Activation, Softmax)):
            value = layer(value)
        elif isinstance(layer, Rescaling):
            value = value * dtype.type(layer.scale) + dtype.type(layer.offset)
        elif isinstance(layer, Fork):
            skips.append(value)
        elif isinstance(layer, Switch):
            value, skips[-1] = skips[-1], value
        elif isinstance(layer, Multiply):
            value = value * skips.pop()
        elif isinstance(layer, Maximum):
            value = np.maximum(skips.pop(), value)
        elif isinstance(layer, Join):
            value = (value if factors is None else value * factors) + skips.pop()
        elif not isinstance(layer, _LEFT_OUT):
            own = _own(name, layer, arrays, value)
            if training is not None and training.of_batch and isinstance(layer, BatchNorm) and layer.trainable:
                own |= {"running_mean": value.mean(axis=0), "running_var": value.var(axis=0)}
            value = layer.forward(value, own)
        elif factors is not None:
            value = value * factors + rest
        elif training is not None and isinstance(layer, GaussianNoise):
            value, sparse = _dense(value, dtype), False
            noise = masks.normal(training.key, number, value.size, dtype)
            value = value + dtype.type(layer.stddev) * noise.reshape(value.shape)
        elif training is not None and isinstance(layer, AUGMENTATIONS):
            raise NotImplementedError(f"`training` is for dropout, noise and norms; the model has {layer!r}.")
    return _dense(value, dtype)


def _numbers(layers: Iterable[tuple[str, Layer | Mark]]) -> Iterator[int]:
    """Those of layers that masks and noise follow from, as the engine has them."""
    number = 0
    for i, (_, layer) in enumerate(layers):
        if isinstance(layer, AUGMENTATIONS):
            yield 2**16 + i
        else:
            yield number
            if not isinstance(layer, Rescaling):
                number += 2 if isinstance(layer, Join) and layer.drop_rate else 1  # the sum has one of its own


def _rate(layer: Layer | Mark) -> float:
    """The share that it drops in the first step."""
    if isinstance(layer, Dropout):
        return float(rates(layer.rate, np.zeros(1), 1)[0])
    return layer.drop_rate if isinstance(layer, Join) else 0.0


def _dropping(key: int, number: int, layer: Dropout | Join, rate: float, value: np.ndarray):
    """(factors, rest): what dropout makes of a value is value * factors + rest."""
    shape, T = ((len(value), 1) if isinstance(layer, Join) else value.shape), value.dtype.type
    kept = masks.kept(key, number, rate, math.prod(shape)).reshape(shape)
    alpha = isinstance(layer, AlphaDropout)
    scale, offset, dropped = (masks.alpha_dropout_numbers if alpha else masks.dropout_numbers)(rate)
    return kept * T(scale), np.where(kept, T(offset), T(dropped)) if alpha else T(0)


def activity_penalties(layers: Sequence[tuple[str, Layer | Mark]], arrays, X, dtype: np.dtype) -> np.ndarray:
    """What layers add to the loss of each row, (n,), float64."""
    total = np.zeros(X.shape[0])
    for start in range(0, X.shape[0], 4096):
        rows, passed = slice(start, start + 4096), []
        with np.errstate(**QUIET):
            forward(layers, arrays, _of_dtype(X[rows], dtype), dtype, passed)
        for layer, a in ((of.layer, of.z) for of in passed):
            if isinstance(layer, ActivityRegularization):
                total[rows] += layer.penalty(a)
    return total


def input_gradients(
    layers: Iterable[tuple[str, Layer | Mark]],
    arrays: dict[str, np.ndarray],
    X,
    of_logits: Callable[[np.ndarray], np.ndarray],
    dtype: np.dtype,
    training: AsInTraining | None = None,
    behind: int = 0,
) -> np.ndarray:
    """dL/dX, (n, n_features), where `of_logits` gives dL/dZ for the logits Z, (n, K), or with respect to the values
    behind so many layers; the rest as for `numpy_forward`.
    """
    passed: list[Passed] = []
    with np.errstate(**QUIET):
        z = forward(layers, arrays, _of_dtype(X, dtype), dtype, passed, training)
        of_batch = training is not None and training.of_batch
        return backward(passed[behind:], arrays, z, of_logits(z), dtype, of_batch)


def backward(
    passed: list[Passed], arrays: dict[str, np.ndarray], a, g, dtype: np.dtype, of_batch: bool = False
) -> np.ndarray:
    """The gradient with respect to the value before the first layer passed, from g, that with respect to a, the output
    of the last; norms took the statistics `of_batch`, or not.
    """
    skips = []
    for name, layer, z, skip, factors in reversed(passed):
        if isinstance(layer, Dense):
            g = g @ arrays[f"{name}.weight"].T
        elif isinstance(layer, Activation):
            g = g * layer.slope(a if layer.from_output else z)
        elif isinstance(layer, Softmax):
            g = a * (g - (a * g).sum(axis=1, keepdims=True))
        elif isinstance(layer, Rescaling):
            g = g * layer.scale
        elif isinstance(layer, Join):
            skips.append(g)
            g = g if factors is None else g * factors
        elif factors is not None:
            g = g * factors
        elif isinstance(layer, Multiply):
            skips.append(g * z)
            g = g * skip
        elif isinstance(layer, Maximum):
            skips.append(np.where(skip >= z, g, 0))
            g = np.where(skip >= z, 0, g)
        elif isinstance(layer, Switch):
            g, skips[-1] = skips[-1], g
        elif isinstance(layer, Fork):
            g = g + skips.pop()
        elif of_batch and isinstance(layer, BatchNorm) and layer.trainable:
            g = layer.backward_of_batch(z, arrays[f"{name}.weight"], g)
        elif not isinstance(layer, _LEFT_OUT):
            g = layer.backward(z, _own(name, layer, arrays, z), g)
        g, a = g.astype(dtype, copy=False), z
    return g


def _own(name: str, layer: Layer, arrays: dict[str, np.ndarray], z) -> dict[str, np.ndarray]:
    return {key: arrays[f"{name}.{key}"] for key in layer.parameter_shapes(z.shape[1])}


def _of_dtype(X, dtype):
    """A product with X of another dtype would copy the weights."""
    return X.astype(dtype, copy=False) if is_sparse(X) else np.asarray(X, dtype)


def _dense(value, dtype):
    return (value.toarray() if is_sparse(value) else value).astype(dtype, copy=False)
