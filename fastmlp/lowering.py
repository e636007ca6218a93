"""Layers, a loss and an optimiser into a `Plan`: what a step does, in which order, what is fused, how it is shared out.

`training_plan`, `forward_plan` and `loss_plan` lower the same layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .activations import ACTIVATIONS, Activation, CustomActivation
from .engine import records as R
from .engine.simd import Simd, host_simd
from .layers import Dense, Dropout, Layer, Rescaling, Softmax
from .losses import Loss
from .plan import ALIGN, Kernel, Matrix, Parameter, Phase, Plan, Ref, Step


@dataclass(frozen=True)
class Op:
    """A layer with the values around it: `source` and `target` index the plan's matrices; None is the gathered
    input.
    """

    layer: Dense | Dropout | Softmax | Activation
    source: Matrix | None
    target: Matrix | None
    weight: Parameter | None = None
    bias: Parameter | None = None


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
        The optimiser's kernel and the number of its slots per parameter.
    n_features, batch_size : int
    source : str
        How rows are gathered: "float32", "float64", "uint8", or "csr.float32.int32" and the like.
    dtype : str
        "float32" or "float64".
    weighted, l2 : bool
        Whether rows have weights, and whether weights (not biases) have an L2 penalty.
    clip, decay : bool
        Whether gradients are clipped by value, and whether weights (not biases) decay at every update.
    guard : int
        Bytes between buffers, for tests.
    simd : Simd, optional
        The host's by default.
    """
    plan, ops, gather = _forward(layers, n_features, batch_size, source, dtype, guard, simd, n_slots, training=True)
    rows = [gather, *_forward_steps(plan, ops)]
    gradient = ops[-1].target
    if loss.across:
        gradient = plan.matrix("workspace", batch_size, plan.n_outputs)
        collect, phases, row_losses = _loss_across_rows(plan, ops[-1].target, loss, weighted, gradient)
        plan.phases += [Phase(R.ROW_PHASE, (*rows, collect)), *phases]
        rows = []
    elif isinstance(
        ops[-1].layer, (Activation, Softmax)
    ):  # its derivative needs the output that the loss is about to overwrite
        gradient = plan.matrix("workspace", batch_size, plan.n_outputs)
        rows.append(
            _elementwise(
                ops[-1].target, gradient, {R.EPILOGUE: Kernel("identity.value")}, ops[-1].target, "copy of the output"
            )
        )
    if not loss.across:
        loss_step, row_losses = _loss_step(plan, gradient, loss, targets, weighted, with_gradient=True)
        rows.append(loss_step)
    tiles = []
    i = len(ops) - 1
    while i >= 0:
        op = ops[i]
        if isinstance(op.layer, Activation):
            rows.append(_elementwise(gradient, gradient, *_derivative(op), f"dz = da * {op.layer.name}'"))
            i -= 1
            continue
        if isinstance(op.layer, Softmax):
            fields = {**_panels(gradient), R.OTHER: op.target.at, R.N_OUT: op.target.columns}
            rows.append(Step("softmax.backward", fields, "dz = a (da - sum over the row of a da)"))
            i -= 1
            continue
        if isinstance(op.layer, Dropout):
            if op.source is not None:
                rows.append(_dropout_step(plan, op, i, gradient, gradient, "dz = da"))
            i -= 1
            continue
        tiles += _update_steps(plan, op, gradient, rule, l2, clip, decay)
        if op.source is not None:
            before = ops[i - 1] if isinstance(ops[i - 1].layer, Activation) else None
            dz = plan.matrix("workspace", batch_size, op.source.columns)
            rows.append(_input_gradient_step(plan, op, gradient, dz, before))
            gradient = dz
            i -= before is not None
        i -= 1
    fields = {R.ROW_LOSS: row_losses}
    tiles.append(Step("sum_losses", fields, "loss of the step = sum over rows", 1, batch_size))
    if rows:  # none is left where a loss across the rows follows the only Dense
        plan.phases.append(Phase(R.ROW_PHASE, tuple(rows)))
    plan.phases.append(Phase(R.TILE_PHASE, tuple(tiles)))
    plan.flops = batch_size * sum(
        op.layer.units * op.weight.shape[0] * (4 if op.source is None else 6) for op in ops if op.weight is not None
    )
    return plan


def forward_plan(layers, *, n_features, batch_size, source, dtype, guard=0, simd=None) -> Plan:
    """The plan of a prediction: the logits of `batch_size` rows into a row-major array, the buffer "output"."""
    plan, ops, gather = _forward(layers, n_features, batch_size, source, dtype, guard, simd)
    z = ops[-1].target
    fields = {**_panels(z), R.N_OUT: z.columns, R.OUT: Ref("output", 0), R.OUT_STRIDE: z.columns * plan.item}
    steps = [gather, *_forward_steps(plan, ops), Step("scatter", fields, "output = logits, row-major")]
    plan.phases.append(Phase(R.ROW_PHASE, tuple(steps)))
    plan.flops = batch_size * sum(2 * int(np.prod(op.weight.shape)) for op in ops if op.weight is not None)
    return plan


def loss_plan(
    layers, loss, targets, *, n_features, batch_size, source, dtype, weighted=False, guard=0, simd=None
) -> Plan:
    """The plan of an evaluation: forward and the loss, no gradient."""
    plan, ops, gather = _forward(layers, n_features, batch_size, source, dtype, guard, simd)
    if loss.across:
        last, phases, row_losses = _loss_across_rows(plan, ops[-1].target, loss, weighted)
    else:
        last, row_losses = _loss_step(plan, ops[-1].target, loss, targets, weighted, with_gradient=False)
        phases = []
    plan.phases += [Phase(R.ROW_PHASE, (gather, *_forward_steps(plan, ops), last)), *phases]
    total = Step("sum_losses", {R.ROW_LOSS: row_losses}, "loss of the step = sum over rows", 1, 1)
    plan.phases.append(Phase(R.TILE_PHASE, (total,)))
    plan.flops = batch_size * sum(2 * int(np.prod(op.weight.shape)) for op in ops if op.weight is not None)
    return plan


def check_layers(layers: Sequence[Layer]) -> None:
    """Raise where these layers are no network: what may stand first, and at least one Dense."""
    for i, layer in enumerate(layers):
        if not isinstance(layer, (Dense, Dropout, Rescaling, Softmax, Activation)):
            raise TypeError(
                f"layer {i} must be a Dense, an activation such as ReLU(), a Softmax, a Dropout or a Rescaling; "
                f"got {layer!r}."
            )
        if isinstance(layer, Activation) and type(layer) not in (*ACTIVATIONS.values(), CustomActivation):
            names = ", ".join(ACTIVATIONS)
            raise TypeError(f"layer {i} must be a CustomActivation, or one of the activations {names}; got {layer!r}.")
        if isinstance(layer, Rescaling) and i:
            raise ValueError(f"Rescaling must be the first layer; got it as layer {i}.")
    if not any(isinstance(layer, Dense) for layer in layers):
        raise ValueError("a network needs at least one Dense layer.")
    first = next(layer for layer in layers if not isinstance(layer, (Rescaling, Dropout)))
    if isinstance(first, (Activation, Softmax)):
        raise ValueError(f"the first layer after the input must be a Dense; got {first!r}.")


def parameter_shapes(layers: Sequence[Layer], n_features: int) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter, in order: "dense_0.weight" (n_features, units), "dense_0.bias" (units,), ..."""
    shapes, width, k = {}, n_features, 0
    for layer in layers:
        if isinstance(layer, Dense):
            shapes[f"dense_{k}.weight"] = (width, layer.units)
            if layer.use_bias:
                shapes[f"dense_{k}.bias"] = (layer.units,)
            width, k = layer.units, k + 1
    return shapes


# Lowering ------------------------------------------------------------------------------------------------------------


def _forward(layers, n_features, batch_size, source, dtype, guard, simd, n_slots=0, training=False):
    """A plan with its parameters and values placed, its operations, and the step that gathers the input."""
    check_layers(layers)
    simd = simd or host_simd()
    units = [layer.units for layer in layers if isinstance(layer, Dense)]
    plan = Plan(dtype, simd, n_features, units[-1], batch_size, n_slots, guard)
    if isinstance(layers[0], Rescaling):
        plan.scaling = (layers[0].scale, layers[0].offset)
    row_bytes = plan.item * (n_features + 2 * sum(units))
    rows = max(64, min(256, 2**18 // row_bytes))  # a chunk's values stay in a second-level cache
    plan.chunk = rows // simd.rows * simd.rows
    gather = _gather_step(plan, source)
    ops, value, k = [], None, 0
    left_out = Rescaling if training else (Rescaling, Dropout)
    layers = [layer for layer in layers if not isinstance(layer, left_out)]
    for i, layer in enumerate(layers):
        if isinstance(layer, Dense):
            n_in = n_features if value is None else value.columns
            weight = _parameter(plan, f"dense_{k}.weight", (n_in, layer.units), training and value is not None)
            bias = _parameter(plan, f"dense_{k}.bias", (layer.units,)) if layer.use_bias else None
            target = plan.matrix("workspace", batch_size, layer.units)
            ops.append(Op(layer, value, target, weight, bias))
            k += 1
        elif isinstance(layer, Dropout):
            plan.random = True
            ops.append(Op(layer, value, value and plan.matrix("workspace", batch_size, value.columns)))
        elif isinstance(layer, Softmax):
            ops.append(Op(layer, value, plan.matrix("workspace", batch_size, value.columns)))
        else:
            in_place = layer.from_output and isinstance(layers[i - 1], Dense)
            target = value if in_place else plan.matrix("workspace", batch_size, value.columns)
            ops.append(Op(layer, value, target))
        value = ops[-1].target
    return plan, ops, gather


def _parameter(plan: Plan, name: str, shape: tuple[int, ...], transposed: bool = False) -> Parameter:
    rows, columns = (1, *shape)[-2:]
    matrix = plan.matrix("parameters", rows, columns)
    copy = plan.matrix("transposed", columns, rows) if transposed else None
    plan.parameters.append(Parameter(name, shape, matrix, copy))
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


def _forward_steps(plan: Plan, ops: list[Op]) -> list[Step]:
    steps, k = [], 0
    for i, op in enumerate(ops):
        if isinstance(op.layer, Dropout):
            steps.append(_dropout_step(plan, op, i, op.source, op.target, "a = a"))
            continue
        if isinstance(op.layer, Softmax):
            fields = {**_panels(op.target), R.IN: op.source.at, R.N_OUT: op.target.columns}
            steps.append(Step("softmax.forward", fields, "a = softmax(z) of every row"))
            continue
        if isinstance(op.layer, Activation):
            if not isinstance(ops[i - 1].layer, Dense):
                text = f"a = {op.layer.name}(z)"
                kernel = {R.EPILOGUE: Kernel(f"{op.layer.kernel}.value"), R.NUMBER: _number(op.layer)}
                steps.append(_elementwise(op.source, op.target, kernel, op.target, text))
            continue
        after = ops[i + 1] if i + 1 < len(ops) and isinstance(ops[i + 1].layer, Activation) else None
        fused = after is not None and after.layer.name != "identity"
        apart = fused and after.target is not op.target  # z stays for the derivative
        n_in = op.weight.shape[0]
        fields = {
            **_operand(plan, op.source),
            **_panels(op.target),
            R.B: op.weight.matrix.at,
            R.DEPTH: n_in,
            R.INIT: op.bias.matrix.at if op.bias else 0,
            R.EPILOGUE: Kernel(f"{after.layer.kernel}.{'apart' if apart else 'value'}") if fused else 0,
            R.OTHER: after.target.at if apart else op.target.at,
            R.NUMBER: _number(after.layer) if fused else 0,
        }
        product = f"{'x' if op.source is None else 'a'} W{k} + b{k}" if op.bias else f"a W{k}"
        name = after.layer.name if fused else ""
        steps.append(Step("product", fields, f"{n_in} -> {op.layer.units}: {name}({product})"))
        k += 1
    return steps


def _bits(number: float) -> int:
    """A float64 as records hold it."""
    return int(np.float64(number).view(np.int64))


def _number(activation: Activation) -> int:
    """The bits of the activation's parameter; 0 where it has none."""
    return 0 if activation.parameter is None else _bits(getattr(activation, activation.parameter))


def _elementwise(source: Matrix, target: Matrix, kernel: dict, other: Matrix, text: str) -> Step:
    return Step("elementwise", {**_panels(target), **kernel, R.IN: source.at, R.OTHER: other.at}, text)


def _dropout_step(plan: Plan, op: Op, i: int, source: Matrix | None, target: Matrix | None, text: str) -> Step:
    fields = {R.NUMBER: _bits(op.layer.rate), R.LAYER: i}
    if source is None:
        fields |= {R.C: plan.input, R.XB_STRIDE: _input_stride(plan), R.N_OUT: plan.n_features}
    else:
        fields |= {**_panels(target), R.IN: source.at, R.N_OUT: target.columns}
    return Step("dropout", fields, f"{text} * mask / {1 - op.layer.rate:g}")


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
    return Step(f"{loss.kernel}.{targets}", fields, text), row_losses


def _loss_across_rows(plan: Plan, z: Matrix, loss: Loss, weighted: bool, gradient: Matrix | None = None):
    """The step that ends the row phase, the phases over rows as units, and the place of the rows' losses."""
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
        R.GRADIENT: gradient.at if gradient else 0,
        R.CHOSEN: plan.place("workspace", 16 * n),
        R.SLOPES: plan.place("workspace", 2 * n * item),
    }
    first, *others = loss.across
    steps = [Step(first, {**fields, R.ROW_LOSS: row_losses}, "loss of every row of the batch, and dz", n)]
    steps += [Step(kernel, fields, "dz from all rows of the batch", n) for kernel in others if gradient]
    phases = [Phase(R.TILE_PHASE, (step,)) for step in steps]
    return Step("collect", fields, "values, labels and weights side by side"), phases, row_losses


def _input_gradient_step(plan: Plan, op: Op, gradient: Matrix, dz: Matrix, before: Op | None) -> Step:
    weight = op.weight
    epilogue, other = _derivative(before) if before and before.layer.name != "identity" else ({R.EPILOGUE: 0}, dz)
    fields = {
        **_operand(plan, gradient),
        **_panels(dz),
        R.B: weight.transposed.at,
        R.DEPTH: weight.shape[1],
        R.INIT: 0,
        **epilogue,
        R.OTHER: other.at,
    }
    mask = f" * {before.layer.name}'" if other is not dz else ""
    return Step("product", fields, f"{weight.shape[1]} -> {weight.shape[0]}: dz = (dz {weight.name}^T){mask}")


def _fits_the_caches(plan: Plan) -> bool:
    """Whether everything that a step touches lies in a second-level cache from one step to the next."""
    return plan.n_bytes < 2**18 and plan.n_features * plan.item < 512


def _update_steps(plan: Plan, op: Op, gradient: Matrix, rule: str, l2: bool, clip: bool, decay: bool) -> list[Step]:
    """The weights' gradient and update in blocks of panel x panel, and the bias's in panels."""
    weight, panel = op.weight, plan.simd.panel(plan.dtype)
    n_in, n_out = weight.shape
    operand = _operand(plan, op.source)
    fields = {
        **_panels(gradient),
        R.A: operand[R.A],
        R.A_STRIDE: operand[R.A_STRIDE],
        R.A_STRIDE_LAST: operand[R.A_STRIDE_LAST],
        R.A_BLOCK_BYTES: panel * plan.item if op.source is None else op.source.panel_bytes,
        R.DEPTH: n_in,
        R.N_BLOCKS: -(-n_in // panel),
        R.N_OUT: n_out,
        R.W: weight.matrix.at,
        R.WT: weight.transposed.at if weight.transposed else 0,
        R.WT_LAST_WIDTH: weight.transposed.last_width if weight.transposed else 0,
        R.PENALTY: Kernel("l2") if l2 else 0,
        R.CLIP_KERNEL: Kernel("clip") if clip else 0,
        R.DECAY_KERNEL: Kernel("decay") if decay else 0,
        R.OPTIMIZER: Kernel(rule),
        R.SLOTS: plan.n_slots,
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
    copy = ", W^T" if weight.transposed else ""
    clipped, decayed = ", clip" if clip else "", ", decay" if decay else ""
    text = f"{weight.name} {weight.shape}: gradient{clipped}{decayed}, {rule}{copy}"
    steps = [Step("weight_gradient", fields, text, units, cost)]
    if op.bias:
        fields = {
            **_panels(gradient),
            R.ONES: Ref("ones", 0),
            R.W: op.bias.matrix.at,
            R.OPTIMIZER: Kernel(rule),
            R.CLIP_KERNEL: Kernel("clip") if clip else 0,
        }
        cost = max(1, width * (rows + 16) // 8)
        steps.append(
            Step(
                "bias_gradient",
                fields,
                f"{op.bias.name} {op.bias.shape}: gradient{clipped}, {rule}",
                gradient.n_panels,
                cost,
            )
        )
    return steps
