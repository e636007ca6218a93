"""Layers, a loss and an optimiser into a `Plan`: what a step does, in which order, what is fused, how it is shared out.

`training_plan`, `forward_plan` and `loss_plan` lower the same layers. All make one list of steps, over rows of the
batch or over tiles, which `_phases` cuts where barriers must lie; the updates of a training step come last, together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from .activations import ACTIVATIONS, Activation, CustomActivation
from .engine import records as R
from .engine.simd import Simd, host_simd
from .layers import (
    LAYERS,
    Dense,
    Dropout,
    Fork,
    Join,
    Layer,
    Mark,
    Multiply,
    PReLU,
    Rescaling,
    Softmax,
    Switch,
    flatten,
    named,
)
from .losses import Loss
from .normalization import BatchNorm, Norm
from .plan import ALIGN, Group, Kernel, Matrix, Parameter, Phase, Plan, Ref, Step
from .schedules import Schedule
from .updates import Updates


@dataclass(frozen=True)
class ToPanels:
    """The gathered rows, for a layer that no product reads."""


@dataclass(frozen=True)
class Op:
    """A layer with the values around it: `source` and `target` are the plan's matrices; None is the gathered input.

    `parameters` by the layer's own names; `skip` is the other branch, which a `Join` adds; `normed` and `sums` are the
    workspace of a norm.
    """

    layer: Layer | Mark | ToPanels
    source: Matrix | None
    target: Matrix | None
    parameters: dict[str, Parameter] = field(default_factory=dict)
    skip: Matrix | None = None
    normed: Matrix | None = None
    sums: Ref | None = None
    learns: bool = False

    @property
    def weight(self) -> Parameter:
        """The matrix of a Dense, or the scale of a norm."""
        return self.parameters["weight"]


def training_plan(
    layers: Sequence[Layer],
    loss: Loss,
    targets: str,
    rule: str,
    n_slots: int,
    *,
    n_features: int,
    batch_size: int,
    source: str,
    dtype: str,
    weighted: bool = False,
    l2: bool = False,
    clip: bool = False,
    decay: bool = False,
    clip_norm: bool = False,
    average: bool = False,
    study: bool = False,
    guard: int = 0,
    simd: Simd | None = None,
) -> Plan:
    """The plan of a training step.

    Parameters
    ----------
    layers : sequence of Layer
    loss : Loss
    targets : {"codes", "dense"}
        Integer codes, or an array (n, K) of the plan's dtype.
    rule, n_slots : str, int
        The optimiser's kernel and the number of slots per parameter, that of an average included.
    n_features, batch_size : int
    source : str
        How rows are gathered: "float32", "float64", "uint8", or "csr.float32.int32" and the like.
    dtype : str
        "float32" or "float64".
    weighted, l2 : bool
        Whether rows have weights, and whether weights (not biases) have an L2 penalty.
    clip, decay : bool
        Whether gradients are clipped by value, and whether weights (not biases) decay at every update.
    clip_norm, average : bool
        Whether gradients are clipped by their common norm, and whether the last slot is a moving average.
    study : bool
        For a look at gradients: nothing is dropped, nothing is frozen.
    guard : int
        Bytes between buffers, for tests.
    simd : Simd, optional
        The host's by default.
    """
    plan, ops, gather = _forward(layers, n_features, batch_size, source, dtype, guard, simd, n_slots, True, study)
    if not any(op.learns for op in ops):
        raise ValueError("there is nothing to train: every Dense has trainable=False.")
    updates = Updates(plan, rule, l2, clip, decay, clip_norm, average)
    steps = [gather, *_forward_steps(plan, ops, training=True)]
    gradient = ops[-1].target
    if loss.across:
        gradient = plan.matrix("workspace", batch_size, plan.n_outputs)
        loss_steps, row_losses = _loss_across_rows(plan, ops[-1].target, loss, weighted, gradient)
        steps += loss_steps
    elif isinstance(ops[-1].layer, (Activation, Softmax)):  # its derivative needs the output, which the loss overwrites
        gradient = plan.matrix("workspace", batch_size, plan.n_outputs)
        kernel = {R.EPILOGUE: Kernel("identity.value")}
        steps.append(_elementwise(ops[-1].target, gradient, kernel, ops[-1].target, "copy of the output"))
    if not loss.across:
        loss_step, row_losses = _loss_step(plan, gradient, loss, targets, weighted, with_gradient=True)
        steps.append(loss_step)
    backward = _Backward(plan, ops, gradient, updates)
    backward.run()
    total = Step("sum_losses", {R.ROW_LOSS: row_losses}, "loss of the step = sum over rows", 1, batch_size)
    last = Phase(R.TILE_PHASE, (*backward.tiles, total))
    plan.phases = [*_phases(steps + backward.steps), last, *updates.phases()]
    plan.flops = batch_size * sum(
        2 * op.weight.matrix.rows * op.weight.matrix.columns * (1 + op.learns + (op.weight.transposed is not None))
        for op in ops
        if isinstance(op.layer, Dense)
    )
    return plan


def forward_plan(layers, *, n_features, batch_size, source, dtype, guard=0, simd=None) -> Plan:
    """The plan of a prediction: the logits of `batch_size` rows into a row-major array, the buffer "output"."""
    plan, ops, gather = _forward(layers, n_features, batch_size, source, dtype, guard, simd)
    z = ops[-1].target
    fields = {**_panels(z), R.N_OUT: z.columns, R.OUT: Ref("output", 0), R.OUT_STRIDE: z.columns * plan.item}
    plan.phases = _phases([gather, *_forward_steps(plan, ops), Step("scatter", fields, "output = logits, row-major")])
    plan.flops = batch_size * sum(2 * w.matrix.rows * w.matrix.columns for w in _weights(ops))
    return plan


def loss_plan(
    layers, loss, targets, *, n_features, batch_size, source, dtype, weighted=False, guard=0, simd=None
) -> Plan:
    """The plan of an evaluation: forward and the loss, no gradient."""
    plan, ops, gather = _forward(layers, n_features, batch_size, source, dtype, guard, simd)
    if loss.across:
        loss_steps, row_losses = _loss_across_rows(plan, ops[-1].target, loss, weighted)
    else:
        loss_step, row_losses = _loss_step(plan, ops[-1].target, loss, targets, weighted, with_gradient=False)
        loss_steps = [loss_step]
    total = Step("sum_losses", {R.ROW_LOSS: row_losses}, "loss of the step = sum over rows", 1, 1)
    plan.phases = _phases([gather, *_forward_steps(plan, ops), *loss_steps, total])
    plan.flops = batch_size * sum(2 * w.matrix.rows * w.matrix.columns for w in _weights(ops))
    return plan


def check_layers(layers: Sequence[Layer]) -> None:
    """Raise where these layers are no network: what may stand first, and at least one Dense."""
    for i, layer in enumerate(layers):
        for inner in flatten([layer]):
            if not isinstance(inner, (*LAYERS.values(), Activation, Mark)):
                raise TypeError(
                    f"layer {i} must be a Dense, an activation such as ReLU(), a Dropout, a norm such as BatchNorm(), "
                    f"a Softmax, a Residual or a Rescaling; got {inner!r}."
                )
            if isinstance(inner, Activation) and type(inner) not in (*ACTIVATIONS.values(), CustomActivation):
                names = ", ".join(ACTIVATIONS)
                raise TypeError(
                    f"layer {i} must be a CustomActivation, or one of the activations {names}; got {inner!r}."
                )
            if isinstance(inner, Rescaling) and (i or inner is not layer):
                raise ValueError(f"Rescaling must be the first layer; got it as layer {i}.")
    flat = list(flatten(layers))
    if not any(isinstance(layer, Dense) for layer in flat):
        raise ValueError("a network needs at least one Dense layer.")
    first = next(layer for layer in flat if not isinstance(layer, (Rescaling, Dropout)))
    if isinstance(first, (Activation, Softmax)):
        raise ValueError(f"the first layer after the input must be a Dense; got {first!r}.")


def parameter_shapes(layers: Sequence[Layer], n_features: int) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter, in order: "dense_0.weight" (n_features, units), "dense_0.bias" (units,), ...

    ValueError where a residual's branch ends at another width than it begins with, or groups do not divide the units.
    """
    shapes, width, entries = {}, n_features, []
    for name, layer in named(layers):
        if isinstance(layer, Fork):
            entries.append(width)
        elif isinstance(layer, Switch):
            width, entries[-1] = entries[-1], width
        elif isinstance(layer, (Join, Multiply)):
            entry = entries.pop()
            if entry != width:
                raise ValueError(f"a Residual must end as wide as it begins; got {width} units after {entry}.")
        elif hasattr(layer, "parameter_shapes"):
            shapes |= {f"{name}.{key}": shape for key, shape in layer.parameter_shapes(width).items()}
            width = layer.units if isinstance(layer, Dense) else width
    return shapes


# Lowering ------------------------------------------------------------------------------------------------------------


def _phases(steps: list[Step]) -> list[Phase]:
    """Steps in their order: those over rows together, each over tiles between barriers of its own."""
    phases = []
    for tiled, together in groupby(steps, lambda step: step.units > 0):
        if tiled:
            phases += [Phase(R.TILE_PHASE, (step,)) for step in together]
        else:
            phases.append(Phase(R.ROW_PHASE, tuple(together)))
    return phases


def _weights(ops: list[Op]) -> list[Parameter]:
    """The matrices that products read."""
    return [op.parameters["weight"] for op in ops if isinstance(op.layer, Dense)]


def _forward(
    layers, n_features, batch_size, source, dtype, guard, simd, n_slots=0, training=False, study=False
) -> tuple[Plan, list[Op], Step]:
    """A plan with its parameters and values placed, its operations, and the step that gathers the input."""
    check_layers(layers)
    simd = simd or host_simd()
    units = [layer.units for layer in flatten(layers) if isinstance(layer, Dense)]
    plan = Plan(dtype, simd, n_features, units[-1], batch_size, n_slots, guard)
    if isinstance(layers[0], Rescaling):
        plan.scaling = (layers[0].scale, layers[0].offset)
    row_bytes = plan.item * (n_features + 2 * sum(units))
    rows = max(64, min(256, 2**18 // row_bytes))  # a chunk's values stay in a second-level cache
    plan.chunk = rows // simd.rows * simd.rows
    gather = _gather_step(plan, source)
    ops, value, skips = [], None, []

    def place(*, like=None, columns=None):
        return plan.matrix("workspace", batch_size, like.columns if columns is None else columns)

    dropout = training and not study
    left_out = (Rescaling,) if dropout else (Rescaling, Dropout)
    for name, layer in named(layers):
        if isinstance(layer, left_out):
            continue
        if value is None and not isinstance(layer, (Dense, Dropout)) and not (isinstance(layer, Fork) and layer.gates):
            value = place(columns=n_features)
            ops.append(Op(ToPanels(), None, value))
        fresh = bool(ops) and isinstance(ops[-1].layer, (Dense, Norm))  # nobody else needs the value as it is
        if isinstance(layer, Dense):
            shapes = layer.parameter_shapes(n_features if value is None else value.columns)
            learned_before = training and value is not None and any(op.learns for op in ops)
            parameters = {
                key: _parameter(plan, f"{name}.{key}", shape, learned_before and key == "weight")
                for key, shape in shapes.items()
            }
            ops.append(Op(layer, value, place(columns=layer.units), parameters, learns=layer.trainable or study))
        elif isinstance(layer, Norm):
            shapes = layer.parameter_shapes(value.columns)
            parameters = {
                key: _parameter(plan, f"{name}.{key}", shape, learned=not key.startswith("running"))
                for key, shape in shapes.items()
            }
            ops.append(_norm_op(plan, layer, value, place(like=value), place(like=value), parameters))
        elif isinstance(layer, PReLU):
            weight = _parameter(plan, f"{name}.weight", (value.columns,))
            normed = place(like=value) if training else None
            ops.append(Op(layer, value, place(like=value), {"weight": weight}, normed=normed, learns=True))
        elif isinstance(layer, Softmax):
            ops.append(Op(layer, value, place(like=value)))
        elif isinstance(layer, Dropout):
            plan.random = True
            ops.append(Op(layer, value, value and place(like=value)))
        elif isinstance(layer, Fork):
            skips.append(value)
            ops.append(Op(layer, value, value))
        elif isinstance(layer, Switch):
            value, skips[-1] = skips[-1], value
            ops.append(Op(layer, value, value))
        elif isinstance(layer, Multiply):
            ops.append(Op(layer, value, place(like=value), skip=skips.pop()))
        elif isinstance(layer, Join):
            drops = dropout and layer.drop_rate > 0
            plan.random = plan.random or drops
            if drops:
                ops.append(Op(layer, value, place(like=value)))
                value = ops[-1].target
            ops.append(Op(Join(0.0), value, value if fresh or drops else place(like=value), skip=skips.pop()))
        else:
            ops.append(Op(layer, value, value if layer.from_output and fresh else place(like=value)))
        value = ops[-1].target
    return plan, ops, gather


def _norm_op(plan: Plan, layer: Norm, source: Matrix, normed: Matrix, target: Matrix, parameters: dict) -> Op:
    """A norm with room for its statistics: vectors of the units, or three numbers of every row and group."""
    if isinstance(layer, BatchNorm):
        n_bytes = 3 * plan.matrix_bytes(1, source.columns)
    else:
        n_bytes = 3 * 8 * plan.batch_size * layer.n_groups
    return Op(layer, source, target, parameters, normed=normed, sums=plan.place("workspace", n_bytes), learns=True)


def _parameter(
    plan: Plan, name: str, shape: tuple[int, ...], transposed: bool = False, learned: bool = True
) -> Parameter:
    rows, columns = (1, *shape)[-2:]
    matrix = plan.matrix("parameters", rows, columns)
    copy = plan.matrix("transposed", columns, rows) if transposed else None
    plan.parameters.append(Parameter(name, shape, matrix, copy, learned))
    return plan.parameters[-1]


def _input_stride(plan: Plan) -> int:
    """Bytes between rows of the gathered input: whole cache lines, but no power of two, whose rows would share a
    set.
    """
    stride = -(-plan.n_features * plan.item // ALIGN) * ALIGN
    return stride + ALIGN if stride % 512 == 0 else stride


def _gather_step(plan: Plan, source: str) -> Step:
    stride = _input_stride(plan)
    plan.input = plan.place("workspace", stride * plan.batch_size)
    fields = {
        R.X: Ref("X", 0),
        R.X_STRIDE: Ref("X_stride", 0),
        R.N_FEATURES: plan.n_features,
        R.XB: plan.input,
        R.XB_STRIDE: stride,
        R.SCALING: Ref("scaling", 0) if plan.scaling else 0,
    }
    if source.startswith("csr"):
        fields |= {R.INDICES: Ref("indices", 0), R.INDPTR: Ref("indptr", 0)}
    scaled = f" * {plan.scaling[0]:g} + {plan.scaling[1]:g}" if plan.scaling else ""
    return Step(f"gather.{source}", fields, f"x = rows of X ({plan.n_features} columns){scaled}")


def _operand(plan: Plan, value: Matrix | None) -> dict[int, int | Ref]:
    """Fields by which kernels read a value row by row: the gathered input is row-major, the others lie in panels."""
    if value is None:
        stride = _input_stride(plan)
        return {R.A: plan.input, R.A_PANEL: plan.n_features, R.A_STRIDE: stride, R.A_STRIDE_LAST: stride}
    return {
        R.A: value.at,
        R.A_PANEL: value.panel,
        R.A_PANEL_BYTES: value.panel_bytes,
        R.A_STRIDE: value.panel * value.item,
        R.A_STRIDE_LAST: value.last_width * value.item,
    }


def _panels(value: Matrix) -> dict[int, int | Ref]:
    return {
        R.C: value.at,
        R.C_PANEL_BYTES: value.panel_bytes,
        R.N_PANELS: value.n_panels,
        R.LAST_WIDTH: value.last_width,
    }


def _forward_steps(plan: Plan, ops: list[Op], training: bool = False) -> list[Step]:
    steps, fused = [], None
    for i, op in enumerate(ops):
        if op is fused:
            continue
        layer = op.layer
        if isinstance(layer, (Dense, Norm)):
            after = ops[i + 1] if i + 1 < len(ops) and isinstance(ops[i + 1].layer, (Activation, Join)) else None
            fused = None if after is None or _drops(after) else after
            epilogue, name = _epilogue(op, fused)
            make = _product_step if isinstance(layer, Dense) else _norm_step
            steps.append(make(plan, op, epilogue, name, training))
        elif isinstance(layer, Dropout) or _drops(op):
            steps.append(_dropout_step(plan, op, i, op.source, op.target, "a = a"))
        elif isinstance(layer, ToPanels):
            steps.append(_to_panels_step(plan, op))
        elif isinstance(layer, Join):
            steps.append(_elementwise(op.source, op.target, {R.EPILOGUE: Kernel("add")}, op.skip, "a = a + skip"))
        elif isinstance(layer, Multiply):
            kernel = {R.EPILOGUE: Kernel("multiply")}
            steps.append(_elementwise(op.source, op.target, kernel, op.skip, "a = a * gate"))
        elif isinstance(layer, Softmax):
            fields = {**_panels(op.target), R.IN: op.source.at, R.N_OUT: op.target.columns}
            steps.append(Step("softmax.forward", fields, "a = softmax(z) of every row"))
        elif isinstance(layer, PReLU):
            fields = {**_panels(op.target), R.IN: op.source.at, R.W: op.parameters["weight"].matrix.at}
            steps.append(Step("prelu", fields, "a = prelu(z)"))
        elif isinstance(layer, Activation):
            kernel = {R.EPILOGUE: Kernel(f"{layer.kernel}.value"), R.NUMBER: _number(layer)}
            steps.append(_elementwise(op.source, op.target, kernel, op.target, f"a = {layer.name}(z)"))
    return steps


def _drops(op: Op) -> bool:
    """Whether it leaves out rows of a residual's branch."""
    return isinstance(op.layer, Join) and op.layer.drop_rate > 0


def _epilogue(op: Op, after: Op | None) -> tuple[dict, str]:
    """What runs on a tile of `op` while it is hot, as fields, and its name: the activation or the sum that follows."""
    if after is None or (isinstance(after.layer, Activation) and after.layer.name == "identity"):
        return {R.EPILOGUE: 0, R.OTHER: op.target.at, R.NUMBER: 0}, ""
    if isinstance(after.layer, Join):
        return {R.EPILOGUE: Kernel("add"), R.OTHER: after.skip.at, R.NUMBER: 0}, "skip + "
    apart = after.target is not op.target  # z stays for the derivative
    kernel = Kernel(f"{after.layer.kernel}.{'apart' if apart else 'value'}")
    return {R.EPILOGUE: kernel, R.OTHER: after.target.at, R.NUMBER: _number(after.layer)}, after.layer.name


def _product_step(plan: Plan, op: Op, epilogue: dict, name: str, training: bool) -> Step:
    weight, bias = op.parameters["weight"], op.parameters.get("bias")
    n_in, units = weight.shape
    fields = {
        **_operand(plan, op.source),
        **_panels(op.target),
        R.B: weight.matrix.at,
        R.DEPTH: n_in,
        R.INIT: bias.matrix.at if bias else 0,
        **epilogue,
    }
    k = weight.name.removeprefix("dense_").removesuffix(".weight")
    product = f"{'x' if op.source is None else 'a'} W{k} + b{k}" if bias else f"a W{k}"
    return Step("product", fields, f"{n_in} -> {units}: {name}({product})")


def _to_panels_step(plan: Plan, op: Op) -> Step:
    fields = {**_panels(op.target), R.IN: plan.input, R.XB_STRIDE: _input_stride(plan), R.N_OUT: op.target.columns}
    return Step("to_panels", fields, "a = x, in panels")


def _norm_fields(plan: Plan, op: Op) -> dict:
    bias, matrix = op.parameters.get("bias"), op.source
    fields = {
        **_panels(matrix),
        R.NORMED: op.normed.at,
        R.STATISTICS: op.sums,
        R.N_OUT: matrix.columns,
        R.W: op.parameters["weight"].matrix.at,
        R.SHIFT: bias.matrix.at if bias else 0,
    }
    if isinstance(op.layer, BatchNorm):
        return {**fields, R.STATISTICS_BYTES: plan.matrix_bytes(1, matrix.columns)}
    return {
        **fields,
        R.STATISTICS_BYTES: 8 * plan.batch_size * op.layer.n_groups,
        R.GROUPS: op.layer.n_groups,
        R.CENTERED: int(op.layer.centered),
    }


def _norm_step(plan: Plan, op: Op, epilogue: dict, name: str, training: bool) -> Step:
    kind = type(op.layer).__name__
    fields = {**_norm_fields(plan, op), R.C: op.target.at, R.IN: op.source.at, R.EPSILON: _bits(op.layer.epsilon)}
    fields |= epilogue
    text = f"{name}({kind}({op.source.columns} units))"
    if not isinstance(op.layer, BatchNorm):
        return Step("row_norm", fields, text)
    if training:
        return Step("batch_norm", fields, text, op.source.n_panels, 1)
    running = {
        R.RUNNING_MEAN: op.parameters["running_mean"].matrix.at,
        R.RUNNING_VAR: op.parameters["running_var"].matrix.at,
    }
    return Step("batch_norm.predict", fields | running, text)


def _bits(number: float) -> int:
    """A float64 as records hold it."""
    return int(np.float64(number).view(np.int64))


def _number(activation: Activation) -> int:
    """The bits of the activation's parameter; 0 where it has none."""
    return 0 if activation.parameter is None else _bits(getattr(activation, activation.parameter))


def _elementwise(source: Matrix, target: Matrix, kernel: dict, other: Matrix, text: str) -> Step:
    return Step("elementwise", {**_panels(target), **kernel, R.IN: source.at, R.OTHER: other.at}, text)


def _dropout_step(plan: Plan, op: Op, i: int, source: Matrix | None, target: Matrix | None, text: str) -> Step:
    rows = isinstance(op.layer, Join)  # of a branch, for stochastic depth
    rate = op.layer.drop_rate if rows else op.layer.rate
    scheduled = isinstance(rate, Schedule)
    fields = {R.GROUP: plan.group(Group(dropout=rate))} if scheduled else {R.NUMBER: _bits(rate)}
    fields[R.LAYER] = i
    if source is None:
        fields |= {R.C: plan.input, R.XB_STRIDE: _input_stride(plan), R.N_OUT: plan.n_features}
    else:
        fields |= {**_panels(target), R.IN: source.at, R.N_OUT: target.columns}
    text = f"{text} * mask / {'(1 - rate)' if scheduled else f'{1 - rate:g}'}"
    return Step("drop_rows" if rows else "dropout", fields, text)


def _derivative(op: Op) -> tuple[dict, Matrix]:
    """The kernel of an activation's derivative, as fields, and the value it is computed from."""
    fields = {R.EPILOGUE: Kernel(f"{op.layer.kernel}.derivative"), R.NUMBER: _number(op.layer)}
    return fields, op.target if op.layer.from_output else op.source


def _loss_step(plan: Plan, z: Matrix, loss: Loss, targets: str, weighted: bool, with_gradient: bool):
    row_losses = plan.place("workspace", 8 * plan.batch_size)
    plan.numbers = tuple(map(float, loss.numbers))
    fields = {
        **_panels(z),
        R.N_OUT: z.columns,
        R.Y: Ref("y", 0),
        R.Y_STRIDE: loss.target_columns(z.columns),
        R.SW: Ref("sample_weight", 0) if weighted else 0,
        R.ROW_LOSS: row_losses,
        R.NUMBERS: Ref("numbers", 0),
        R.WITH_GRADIENT: int(with_gradient),
    }
    if loss.term is not None:
        fields[R.ROW_DATA] = plan.matrix("workspace", plan.batch_size, z.columns).at
    elif loss.row is not None:
        fields[R.ROW_DATA] = plan.place("workspace", 2 * plan.batch_size * z.columns * plan.item)
    else:
        fields |= {field: plan.place("workspace", 8 * plan.batch_size) for field in (R.ROW_MASS, R.ROW_PICK)}
    text = "loss of every row" + (", dz over the logits" if with_gradient else "")
    return Step(f"{loss.kernel}.{targets}", fields, text, has_loss=True), row_losses


def _loss_across_rows(plan: Plan, z: Matrix, loss: Loss, weighted: bool, gradient: Matrix | None = None):
    """The steps of a loss that looks at all rows of the batch for each, and the place of the rows' losses."""
    n, item = plan.batch_size, plan.item
    row_losses = plan.place("workspace", 8 * n)
    plan.numbers = tuple(map(float, loss.numbers))
    fields = {
        **_panels(z),
        R.N_OUT: z.columns,
        R.Y: Ref("y", 0),
        R.SW: Ref("sample_weight", 0) if weighted else 0,
        R.NUMBERS: Ref("numbers", 0),
        R.WITH_GRADIENT: int(gradient is not None),
        R.COLUMNS: plan.place("workspace", n * z.columns * item),
        R.COLUMN_STRIDE: n,
        R.LABELS: plan.place("workspace", n * item),
        R.WEIGHTS: plan.place("workspace", n * item),
        R.DZ: gradient.at if gradient else 0,
        R.CHOSEN: plan.place("workspace", 16 * n),
        R.SLOPES: plan.place("workspace", 2 * n * item),
    }
    first, *others = loss.across
    text = "loss of every row of the batch, and dz"
    steps = [Step("collect", fields, "values, labels and weights side by side")]
    steps.append(Step(first, {**fields, R.ROW_LOSS: row_losses}, text, n, has_loss=True))
    steps += [Step(kernel, fields, "dz from all rows of the batch", n) for kernel in others if gradient]
    return steps, row_losses


class _Backward:
    """The backward pass: `steps` in their order, and the updates (`tiles`) that come after all of them.

    A gradient is overwritten in place unless somebody needs it as it is (`shared`): the updates, or the way around a
    residual's branch.
    """

    def __init__(self, plan: Plan, ops: list[Op], gradient: Matrix, updates: Updates):
        self.plan, self.ops, self.gradient, self.updates = plan, ops, gradient, updates
        self.shared, self.skips = False, []
        self.steps: list[Step] = []
        self.tiles: list[Step] = []

    def run(self) -> None:
        """From the last layer down to the first one that learns."""
        first = next(i for i, op in enumerate(self.ops) if op.learns)
        i = len(self.ops) - 1
        while i >= first:
            op = self.ops[i]
            if isinstance(op.layer, Dense):
                if op.learns:
                    self.tiles += _update_steps(self.plan, op, self.gradient, self.updates)
                if op.weight.transposed:
                    i -= self._input_gradient(op, self.ops[i - 1])
            elif isinstance(op.layer, Norm):
                self._norm(op)
            elif isinstance(op.layer, PReLU):
                self._prelu(op)
            elif isinstance(op.layer, Multiply):
                other = self.plan.matrix("workspace", self.plan.batch_size, self.gradient.columns)
                kernel = {R.EPILOGUE: Kernel("multiply")}
                self.steps.append(_elementwise(self.gradient, other, kernel, op.source, "da of the gate = da * a"))
                self.skips.append(other)
                self._in_place(kernel, op.skip, "da = da * gate")
            elif isinstance(op.layer, Switch):
                self.gradient, self.skips[-1] = self.skips[-1], self.gradient
                self.shared = False
            elif isinstance(op.layer, Fork):
                other = self.skips.pop()
                self._in_place({R.EPILOGUE: Kernel("add")}, other, "da = da + da of the skip")
            elif isinstance(op.layer, Dropout) or _drops(op):
                target = self._writable()
                self.steps.append(_dropout_step(self.plan, op, i, self.gradient, target, "dz = da"))
                self.gradient = target
            elif isinstance(op.layer, Join):
                self.skips.append(self.gradient)
                self.shared = True
            elif isinstance(op.layer, Softmax):
                if self.shared:
                    self._in_place({R.EPILOGUE: Kernel("identity.value")}, self.gradient, "copy of da")
                fields = {**_panels(self.gradient), R.OTHER: op.target.at, R.N_OUT: op.target.columns}
                self.steps.append(Step("softmax.backward", fields, "dz = a (da - sum over the row of a da)"))
            elif isinstance(op.layer, Activation):
                self._in_place(*_derivative(op), f"dz = da * {op.layer.name}'")
            i -= 1

    def _writable(self) -> Matrix:
        """Where the next elementwise step writes its result."""
        target = self.plan.matrix("workspace", self.plan.batch_size, self.gradient.columns) if self.shared else None
        self.shared = False
        return target or self.gradient

    def _in_place(self, kernel: dict, other: Matrix, text: str) -> None:
        target = self._writable()
        self.steps.append(_elementwise(self.gradient, target, kernel, other, text))
        self.gradient = target

    def _input_gradient(self, op: Op, before: Op) -> int:
        """dz W^T, with what comes next in the epilogue; returns 1 if that was what lies before, else 0."""
        weight = op.parameters["weight"]
        dz = self.plan.matrix("workspace", self.plan.batch_size, weight.shape[0])
        epilogue, other, text, done = {R.EPILOGUE: 0}, dz, "", 0
        if isinstance(before.layer, Fork):
            epilogue, other, text, done = {R.EPILOGUE: Kernel("add")}, self.skips.pop(), " + da of the skip", 1
        elif isinstance(before.layer, Activation):
            done = 1
            if before.layer.name != "identity":
                (epilogue, other), text = _derivative(before), f" * {before.layer.name}'"
        fields = {
            **_operand(self.plan, self.gradient),
            **_panels(dz),
            R.B: weight.transposed.at,
            R.DEPTH: weight.shape[1],
            R.INIT: 0,
            **epilogue,
            R.OTHER: other.at,
        }
        text = f"{weight.shape[1]} -> {weight.shape[0]}: dz = (dz {weight.name}^T){text}"
        self.steps.append(Step("product", fields, text))
        self.gradient, self.shared = dz, False
        return done

    def _prelu(self, op: Op) -> None:
        """dz, and da z where z < 0, whose sums over the rows are the slopes' gradient."""
        dz = self.plan.matrix("workspace", self.plan.batch_size, op.source.columns)
        weight = op.parameters["weight"]
        fields = {**_panels(dz), R.IN: self.gradient.at, R.Z: op.source.at, R.NORMED: op.normed.at}
        self.steps.append(Step("prelu.gradient", {**fields, R.W: weight.matrix.at}, "dz = da * prelu'"))
        self.tiles.append(_vector_update_step(self.plan, op, "weight", op.normed, self.updates))
        self.gradient, self.shared = dz, False

    def _norm(self, op: Op) -> None:
        """dz, and da times the normed value where that was: its sums over the rows are the scale's gradient."""
        dz = self.plan.matrix("workspace", self.plan.batch_size, op.source.columns)
        fields = {**_norm_fields(self.plan, op), R.IN: self.gradient.at, R.C: dz.at}
        kind = type(op.layer).__name__
        text = f"dz = da * {kind}'"
        if isinstance(op.layer, BatchNorm):
            self.steps.append(Step("batch_norm.gradient", fields, text, dz.n_panels, 1))
            running = {
                R.RUNNING_MEAN: op.parameters["running_mean"].matrix.at,
                R.RUNNING_VAR: op.parameters["running_var"].matrix.at,
            }
            average = Kernel("average") if self.updates.average else 0
            running |= fields | {R.NUMBER: _bits(op.layer.momentum), R.AVERAGE_KERNEL: average}
            self.tiles.append(Step("batch_norm.running", running, "running averages of the batch's", 1, 1))
        else:
            self.steps.append(Step("row_norm.gradient", fields, text))
        self.tiles.append(_vector_update_step(self.plan, op, "weight", op.normed, self.updates))
        if "bias" in op.parameters:
            self.tiles.append(_vector_update_step(self.plan, op, "bias", self.gradient, self.updates))
        self.gradient, self.shared = dz, False


def _fits_the_caches(plan: Plan) -> bool:
    """Whether everything that a step touches lies in a second-level cache from one step to the next."""
    return plan.n_bytes < 2**18 and plan.n_features * plan.item < 512


def _update_steps(plan: Plan, op: Op, gradient: Matrix, updates: Updates) -> list[Step]:
    """The weights' gradient and update in blocks of panel x panel, and the bias's in panels."""
    weight, panel = op.parameters["weight"], plan.simd.panel(plan.dtype)
    n_in, n_out = weight.shape
    operand = _operand(plan, op.source)
    following, text = updates.fields(weight, op.layer, weight=True)
    fields = {
        **_panels(gradient),
        **following,
        R.A: operand[R.A],
        R.A_STRIDE: operand[R.A_STRIDE],
        R.A_STRIDE_LAST: operand[R.A_STRIDE_LAST],
        R.A_BLOCK_BYTES: panel * plan.item if op.source is None else op.source.panel_bytes,
        R.DEPTH: n_in,
        R.N_BLOCKS: -(-n_in // panel),
        R.N_OUT: n_out,
        R.W: weight.matrix.at,
        R.GATHERS: int(op.source is None),
        # the next line of a row, or the next block of columns; 0 where nothing need be asked for ahead
        R.A_AHEAD: 0 if _fits_the_caches(plan) else 64 if op.source is None else op.source.panel_bytes,
    }
    units = fields[R.N_BLOCKS] * gradient.n_panels
    rows = plan.batch_size
    width = gradient.last_width if gradient.n_panels == 1 else panel
    # relative time of a unit, as measured: the product, 16 rows' worth of Adam, 6 of writing W^T; narrow panels cost
    # more
    extra = 22 if weight.transposed else 16
    cost = max(1, min(n_in, panel) * (width + 2) * (rows + extra) // 64)
    steps = [Step("weight_gradient", fields, f"{weight.name} {weight.shape}: {text}", units, cost)]
    if "bias" in op.parameters:
        steps.append(_vector_update_step(plan, op, "bias", gradient, updates))
    return steps


def _vector_update_step(plan: Plan, op: Op, name: str, gradient: Matrix, updates: Updates) -> Step:
    """The gradient of a vector, the sum of a matrix over the rows, and its update, in panels."""
    parameter = op.parameters[name]
    following, text = updates.fields(parameter, op.layer, weight=False)
    fields = {**_panels(gradient), **following, R.ONES: Ref("ones", 0), R.W: parameter.matrix.at}
    width = gradient.last_width if gradient.n_panels == 1 else plan.simd.panel(plan.dtype)
    cost = max(1, width * (plan.batch_size + 16) // 8)
    return Step("bias_gradient", fields, f"{parameter.name} {parameter.shape}: {text}", gradient.n_panels, cost)
