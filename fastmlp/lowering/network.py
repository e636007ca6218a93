"""A network's layers checked, its parameters and values placed in a plan: a list of `Op`."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence

from ..activations import ACTIVATIONS, Activation, CustomActivation, Identity
from ..augmentation import AUGMENTATIONS, CutMix, Mixing, RandomAffine
from ..embedding import Embedding
from ..layers import (
    LAYERS,
    ActivityRegularization,
    Dense,
    Dropout,
    Fork,
    Join,
    Layer,
    Mark,
    Maximum,
    Multiply,
    PReLU,
    Rescaling,
    Softmax,
    Switch,
    flatten,
    n_outputs,
    named,
    width_behind,
)
from ..losses import GivenGradient
from ..normalization import BatchNorm, Norm, Normalization
from ..plan import Matrix, Parameter, Plan
from ..simd import host_simd
from .steps import Op


def check_layers(layers: Sequence[Layer]) -> None:
    """Raise where these layers are no network: what may stand first, and at least one Dense."""
    for i, layer in enumerate(layers):
        for inner in flatten([layer]):
            if not isinstance(inner, (*LAYERS.values(), Activation, Mark)):
                raise TypeError(
                    f"layer {i} must be a Dense, an activation such as ReLU(), a Dropout, a norm such as BatchNorm(), "
                    "a Softmax, a Residual, a Rescaling, an Embedding or an augmentation such as MixUp(); got "
                    f"{inner!r}"
                    f"{', the class: did you forget ()?' if isinstance(inner, type) else '.'}"
                )
            if isinstance(inner, Activation) and type(inner) not in (*ACTIVATIONS.values(), CustomActivation):
                names = ", ".join(ACTIVATIONS)
                raise TypeError(
                    f"layer {i} must be a CustomActivation, or one of the activations {names}; got {inner!r}."
                )
            if isinstance(inner, (Rescaling, Embedding)) and (i or inner is not layer):
                where = f"as layer {i}" if inner is layer else f"within layer {i}, a {type(layer).__name__}"
                raise ValueError(f"{type(inner).__name__} must be the first layer; got it {where}.")
            first = inner is layer and all(isinstance(before, (Rescaling, *AUGMENTATIONS)) for before in layers[:i])
            if isinstance(inner, AUGMENTATIONS) and not first:
                raise ValueError(f"{inner!r} must stand before all layers but a Rescaling; got it in layer {i}.")
            if isinstance(inner, Normalization) and not (first and not isinstance(layers[0], Rescaling)):
                raise ValueError(f"{inner!r} must be the first layer but for augmentation; got it in layer {i}.")
    flat = list(flatten(layers))
    if sum(isinstance(layer, Mixing) for layer in flat) > 1:
        raise ValueError("a network may hold one MixUp or CutMix, not several.")
    if not any(isinstance(layer, Dense) for layer in flat):
        raise ValueError("a network needs at least one Dense layer.")
    first = next(layer for layer in flat if not isinstance(layer, (Rescaling, *AUGMENTATIONS, Dropout)))
    if isinstance(first, (Activation, Softmax, ActivityRegularization)):
        raise ValueError(f"the first layer after the input must be a Dense; got {first!r}.")


def warn_of_layers(layers: Sequence[Layer], loss, stacklevel: int = 3) -> None:
    """Warn where the last layer does what the loss does itself, or changes the logits that it takes; and where a
    gradient that was given is not that of the network as it is trained.
    """
    last = layers[-1]
    random = (Dropout, *AUGMENTATIONS)
    acts = [layer for layer in flatten(layers) if isinstance(layer, random) or getattr(layer, "drop_rate", 0)]
    if isinstance(loss, GivenGradient) and acts:
        what = f"a Residual of drop_rate={acts[0].drop_rate}" if isinstance(acts[0], Join) else repr(acts[0])
        warnings.warn(
            f"`loss`={loss.name!r} with {what}: what it does in the step, it did not do in the logits that the "
            "gradient is of. `logits` and `gradients` do the same with training=True and one seed.",
            stacklevel=stacklevel,
        )
    if loss.own_layer is not None and isinstance(last, type(loss.own_layer)):
        own = f" and has its own {last!r}"
    elif loss.classification and isinstance(last, (Activation, Softmax)) and not isinstance(last, Identity):
        own = f", numbers of any size and sign, and here {last!r} comes before it"
    else:
        return
    warnings.warn(f"`loss`={loss.name!r} takes logits{own}; leave out the last layer.", stacklevel=stacklevel)


def parameter_shapes(layers: Sequence[Layer], n_features: int) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter, in order: "dense_0.weight" (n_features, units), "dense_0.bias" (units,), ...

    ValueError where a residual's branch ends at another width than it begins with, groups that do not divide the units,
    or rows that are no images of a layer's shape.
    """
    for layer in layers:
        shape = layer.image_shape if isinstance(layer, (RandomAffine, CutMix)) else None
        if shape is not None and math.prod(shape) != n_features:
            raise ValueError(f"{layer!r} needs {math.prod(shape)} columns; X has {n_features}.")
    shapes, width, entries = {}, n_features, []
    for name, layer in named(layers):
        if isinstance(layer, Fork):
            entries.append(width)
        elif isinstance(layer, Switch):
            width, entries[-1] = entries[-1], width
        elif isinstance(layer, (Join, Multiply, Maximum)):
            entry = entries.pop()
            if entry != width:
                raise ValueError(f"a Residual must end as wide as it begins; got {width} units after {entry}.")
        elif hasattr(layer, "parameter_shapes"):
            shapes |= {f"{name}.{key}": shape for key, shape in layer.parameter_shapes(width).items()}
            width = width_behind(layer, width)
    return shapes


def place_network(
    layers,
    n_features,
    batch_size,
    source,
    dtype,
    guard,
    simd,
    n_slots=0,
    training=False,
    study=False,
    entries=0,
    n_workers=None,
) -> tuple[Plan, list[Op]]:
    """A plan with its parameters and values placed, and its operations. With `entries`, those that a batch of sparse
    rows has at most, the first layer multiplies the rows as they are, where it is a Dense and nothing stands before.
    With `n_workers`, a batch has no more rows than so many workers take at a time.
    """
    check_layers(layers)
    simd = simd or host_simd()
    plan = Plan(dtype, simd, n_features, n_outputs(layers), batch_size, n_slots, guard, source=source)
    if isinstance(layers[0], Rescaling):
        plan.scaling = (layers[0].scale, layers[0].offset)
    dropout = training and not study
    left_out = (Rescaling, *AUGMENTATIONS) if dropout else (Rescaling, *AUGMENTATIONS, Dropout)
    acting = [(name, layer) for name, layer in named(layers) if not isinstance(layer, left_out)]
    augmented = dropout and any(isinstance(layer, AUGMENTATIONS) for layer in layers)
    if isinstance(acting[0][1], Dense) and plan.scaling is None and not augmented:
        plan.entries = entries
    widths = [width_behind(layer, n_features) for _, layer in acting if isinstance(layer, (Dense, Embedding))]
    row_bytes = plan.item * ((0 if plan.entries else n_features) + 2 * sum(widths))
    # a chunk's values stay in a second-level cache; but each chunk reads all weights, which is worth 128 rows at least
    rows = max(128, min(1024, 2**18 // row_bytes))
    plan.chunk = -(-rows // simd.rows) * simd.rows
    if n_workers is not None:
        plan.batch_size = min(batch_size, n_workers * plan.chunk)
    plan.input = value = plan.unplaced(n_features) if plan.entries else plan.values(n_features)
    ops, skips = [], []
    learned, learned_by_skips = False, []  # whether the value depends on anything that learns

    for name, layer in acting:
        fresh = bool(ops) and isinstance(ops[-1].layer, (Dense, Norm))  # nobody else needs the value as it is
        learns = getattr(layer, "trainable", False) or (study and not isinstance(layer, Normalization))
        if isinstance(layer, Dense):
            parameters = _parameters(plan, name, layer, value.columns, transposed=training and learned)
            ops.append(Op(layer, value, plan.values(layer.units), parameters, learns=learns))
        elif isinstance(layer, Norm):
            parameters = _parameters(plan, name, layer, value.columns)
            normed, target = plan.values(value.columns), plan.values(value.columns)
            ops.append(_norm_op(plan, layer, value, normed, target, parameters, learns))
        elif isinstance(layer, PReLU):
            parameters = _parameters(plan, name, layer, value.columns)
            normed = plan.values(value.columns) if training else None
            ops.append(Op(layer, value, plan.values(value.columns), parameters, normed=normed, learns=learns))
        elif isinstance(layer, Embedding):
            ops.append(_embedding_op(plan, name, layer, learns))
        elif isinstance(layer, Softmax):
            ops.append(Op(layer, value, plan.values(value.columns)))
        elif isinstance(layer, Dropout):
            plan.random = True
            ops.append(Op(layer, value, plan.values(value.columns)))
        elif isinstance(layer, ActivityRegularization):
            ops.append(Op(layer, value, value))
        elif isinstance(layer, Fork):
            skips.append(value)
            learned_by_skips.append(learned)
            ops.append(Op(layer, value, value))
        elif isinstance(layer, Switch):
            value, skips[-1] = skips[-1], value
            learned, learned_by_skips[-1] = learned_by_skips[-1], learned
            ops.append(Op(layer, value, value))
        elif isinstance(layer, (Multiply, Maximum)):
            ops.append(Op(layer, value, plan.values(value.columns), skip=skips.pop()))
        elif isinstance(layer, Join):
            drops = dropout and layer.drop_rate > 0
            plan.random = plan.random or drops
            if drops:
                ops.append(Op(layer, value, plan.values(value.columns)))
                value = ops[-1].target
            ops.append(Op(Join(0.0), value, value if fresh or drops else plan.values(value.columns), skip=skips.pop()))
        else:
            ops.append(Op(layer, value, value if layer.from_output and fresh else plan.values(value.columns)))
        value = ops[-1].target
        learned |= ops[-1].learns or (isinstance(layer, (Join, Multiply, Maximum)) and learned_by_skips.pop())
    return plan, ops


def _embedding_op(plan: Plan, name: str, layer: Embedding, learns: bool) -> Op:
    """An embedding of the input, with room for the batch's codes."""
    coded, width = layer.coded(plan.n_features), layer.output_width(plan.n_features)
    plan.coded = (*itertools.chain(*coded), *layer.others(plan.n_features))
    parameters = _parameters(plan, name, layer, plan.n_features)
    codes = plan.place("workspace", 8 * plan.batch_size * len(coded))
    return Op(layer, plan.input, plan.values(width), parameters, codes=codes, learns=learns)


def _norm_op(
    plan: Plan, layer: Norm, source: Matrix, normed: Matrix, target: Matrix, parameters: dict, learns: bool
) -> Op:
    """A norm with room for its statistics: vectors of the units, or three numbers of every row and group."""
    if isinstance(layer, BatchNorm):
        n_bytes = 3 * plan.matrix_bytes(1, source.columns)
    else:
        n_bytes = 3 * 8 * plan.batch_size * layer.n_groups
    return Op(layer, source, target, parameters, normed=normed, sums=plan.place("workspace", n_bytes), learns=learns)


def _parameters(plan: Plan, name: str, layer, width: int, transposed: bool = False) -> dict[str, Parameter]:
    """Those of a layer behind a value of so many columns, placed: by its own names. `transposed`: with W^T."""
    placed, fixed = {}, isinstance(layer, Normalization)
    for key, shape in layer.parameter_shapes(width).items():
        rows, columns = (1, *shape)[-2:]
        matrix = plan.matrix("parameters", rows, columns)
        copy = plan.matrix("transposed", columns, rows) if transposed and key == "weight" else None
        placed[key] = Parameter(f"{name}.{key}", shape, matrix, copy, learned=not (fixed or key.startswith("running")))
        plan.parameters.append(placed[key])
    return placed
