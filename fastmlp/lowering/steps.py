"""The records of the way forward and of the loss, and the pieces that records are made of."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .. import records as R
from ..activations import Activation
from ..embedding import Embedding
from ..layers import (
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
    PReLU,
    Softmax,
    Switch,
)
from ..losses import Loss
from ..normalization import BatchNorm, Norm
from ..plan import Group, Kernel, Matrix, Parameter, Plan, Ref, Step
from ..schedules import Schedule

LINE = 64  # bytes of a cache line on most machines; another size costs time, not correctness


@dataclass(frozen=True)
class Op:
    """A layer with the values around it: `source` and `target` are the plan's matrices.

    `parameters` by the layer's own names; `skip` is the other branch, where two come together; `normed` and `sums` are
    the workspace of a norm, `codes` that of an embedding.
    """

    layer: Layer | Mark
    source: Matrix
    target: Matrix
    parameters: dict[str, Parameter] = field(default_factory=dict)
    skip: Matrix | None = None
    normed: Matrix | None = None
    sums: Ref | None = None
    codes: Ref | None = None
    learns: bool = False

    @property
    def weight(self) -> Parameter:
        """The matrix of a Dense, or the scale of a norm."""
        return self.parameters["weight"]


_CSR = {R.X: Ref("X", 0), R.INDICES: Ref("indices", 0), R.INDPTR: Ref("indptr", 0)}


def input_steps(plan: Plan, rows: Matrix) -> list[Step]:
    """Rows of X into `rows`; or, where the first layer multiplies sparse ones as they are, nothing."""
    if plan.entries:
        return []
    fields = {
        **panels(rows),
        R.X: Ref("X", 0),
        R.X_STRIDE: Ref("X_stride", 0),
        R.N_FEATURES: plan.n_features,
        R.SCALING: Ref("scaling", 0) if plan.scaling else 0,
    }
    if plan.source.startswith("csr"):
        fields |= _CSR
    scaled = f" * {plan.scaling[0]:g} + {plan.scaling[1]:g}" if plan.scaling else ""
    return [Step(f"gather.{plan.source}", fields, f"x = rows of X ({plan.n_features} columns){scaled}")]


def finite_step(plan: Plan) -> Step:
    """A look at the rows of X. It stops no step: where all is one phase, a worker may be in the next one already."""
    fields = {R.X: Ref("X", 0), R.X_STRIDE: Ref("X_stride", 0), R.N_FEATURES: plan.n_features}
    return Step(f"finite.{plan.source}", fields, "say where rows of X are not finite")


def columns_step(plan: Plan) -> Step:
    """The entries of the batch by columns of X; where they are, the plan knows from here on."""
    # each share costs a look at all columns, so there are several only where columns have many entries
    n_shares = max(1, min(4, plan.entries // (8 * plan.n_features)))
    plan.by_columns = {
        R.ROW_SHARES: n_shares,
        R.STARTS: plan.place("workspace", 8 * (plan.n_features + 2) * n_shares),
        R.ENTRY_ROWS: plan.place("workspace", 8 * plan.entries),
        R.ENTRY_VALUES: plan.place("workspace", plan.item * plan.entries),
    }
    fields = {**_CSR, R.N_FEATURES: plan.n_features, **plan.by_columns}
    return Step(f"batch_columns.{plan.source}", fields, "entries of the rows of X by columns", n_shares)


def operand(value: Matrix) -> dict[int, int | Ref]:
    """Fields by which products read a value row by row."""
    return {R.A: value.at, R.A_PANEL_BYTES: value.panel_bytes, R.A_STRIDE_LAST: value.last_width * value.item}


def output_step(plan: Plan, logits: Matrix) -> Step:
    fields = {**panels(logits), R.N_OUT: logits.columns, R.OUT: Ref("output", 0)}
    return Step("scatter", {**fields, R.OUT_STRIDE: logits.columns * plan.item}, "output = logits, row-major")


def panels(value: Matrix) -> dict[int, int | Ref]:
    return {
        R.C: value.at,
        R.C_PANEL_BYTES: value.panel_bytes,
        R.N_PANELS: value.n_panels,
        R.LAST_WIDTH: value.last_width,
    }


# Shared out by columns are products so many times wider than the batch is high (a step of 784-512-512-10 took 0.94 of
# the time at 128 rows), of so many multiply-adds (a step of 20-128-64-10 at 8 rows took 1.5 times as long) ...
COLUMNS_A_ROW, WORTH_A_BARRIER = 3, 90_000
# ... and in predictions, in a network of so many bytes: a core's second-level cache does not hold it from call to call
CACHE_BYTES = 3 * 2**19


def shares_columns(plan: Plan, depth: int, columns: int, training: bool) -> bool:
    """Whether workers share out a product by its columns, for the price of a barrier. The weights of a wide layer are
    read by one of them each then, not by all.

    A training step changes the weights, so half of them, or more, lie in another core's cache; a prediction finds them
    in its own, unless they are too many.
    """
    rows = plan.batch_size
    if plan.simd.gpu or columns < COLUMNS_A_ROW * rows or rows * depth * columns < WORTH_A_BARRIER:
        return False
    return training or plan.sizes["parameters"] >= CACHE_BYTES


def product_step(plan: Plan, target: Matrix, fields: dict, text: str, training: bool) -> Step:
    """The product that these fields describe, into `target`."""
    depth, panel = fields[R.DEPTH], plan.simd.panel(plan.dtype)
    if target.is_column:
        return Step("product.column", fields, text)
    if not shares_columns(plan, depth, target.columns, training):
        return Step("product", fields, text)
    fields = {**fields, R.PRODUCT: Kernel("product")}
    return Step("product_panels", fields, text, target.n_panels, max(1, depth * panel * plan.batch_size // 64))


def forward_steps(plan: Plan, ops: list[Op], training: bool = False) -> list[Step]:
    steps, fused = [], None
    for i, op in enumerate(ops):
        if op is fused:
            continue
        layer = op.layer
        if isinstance(layer, (Dense, Norm)):
            after = ops[i + 1] if i + 1 < len(ops) and isinstance(ops[i + 1].layer, (Activation, Join)) else None
            fused = None if after is None or drops(after) else after
            epilogue, name = _epilogue(op, fused)
            if isinstance(layer, Dense):
                steps.append(_dense_step(plan, op, epilogue, name, training))
            else:
                steps.append(_norm_step(plan, op, epilogue, name, training))
        elif isinstance(layer, Dropout) or drops(op):
            steps.append(dropout_step(plan, op, i, op.source, op.target, "a = a"))
        elif isinstance(layer, Join):
            steps.append(elementwise(op.source, op.target, {R.EPILOGUE: Kernel("add")}, op.skip, "a = a + skip"))
        elif isinstance(layer, Multiply):
            kernel = {R.EPILOGUE: Kernel("multiply")}
            steps.append(elementwise(op.source, op.target, kernel, op.skip, "a = a * gate"))
        elif isinstance(layer, Maximum):
            kernel = {R.EPILOGUE: Kernel("maximum")}
            steps.append(elementwise(op.source, op.target, kernel, op.skip, "a = the larger one of a and skip"))
        elif isinstance(layer, Embedding):
            steps.append(_embedding_step(plan, op))
        elif isinstance(layer, Softmax):
            fields = {**panels(op.target), R.IN: op.source.at, R.N_OUT: op.target.columns}
            steps.append(Step("softmax.forward", fields, "a = softmax(z) of every row"))
        elif isinstance(layer, PReLU):
            fields = {**panels(op.target), R.IN: op.source.at, R.W: op.parameters["weight"].matrix.at}
            steps.append(Step("prelu", fields, "a = prelu(z)"))
        elif isinstance(layer, Activation):
            kernel = {R.EPILOGUE: Kernel(f"{layer.kernel}.value"), R.NUMBER: _number(layer)}
            steps.append(elementwise(op.source, op.target, kernel, op.target, f"a = {layer.name}(z)"))
        elif not isinstance(layer, (Fork, Switch, ActivityRegularization)):
            raise TypeError(f"{layer!r} has no step forward.")
    return steps


def drops(op: Op) -> bool:
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


def _dense_step(plan: Plan, op: Op, epilogue: dict, name: str, training: bool) -> Step:
    weight, bias = op.parameters["weight"], op.parameters.get("bias")
    n_in, units = weight.shape
    sparse = plan.multiplies_sparse(op.source)
    fields = {
        **(_CSR if sparse else operand(op.source)),
        **panels(op.target),
        R.B: weight.matrix.at,
        R.DEPTH: n_in,
        R.INIT: bias.matrix.at if bias else 0,
        **epilogue,
    }
    k = weight.name.removeprefix("dense_").removesuffix(".weight")
    product = f"{'x' if op.source is plan.input else 'a'} W{k} + b{k}" if bias else f"a W{k}"
    text = f"{n_in} -> {units}: {name}({product})"
    if sparse:
        return Step(f"sparse_product.{plan.source}", fields, text)
    return product_step(plan, op.target, fields, text, training)


def embedding_fields(plan: Plan, op: Op) -> dict:
    """What the records of an embedding have in common."""
    table = op.weight.matrix
    return {
        R.N_CODED: len(op.layer.coded(plan.n_features)),
        R.DEPTH: table.rows,
        R.N_OUT: table.columns,
        R.TABLE_LAST_WIDTH: table.last_width,
        R.TABLE_ROWS: op.codes,
    }


def _embedding_step(plan: Plan, op: Op) -> Step:
    fields = {
        **embedding_fields(plan, op),
        **operand(op.source),
        **panels(op.target),
        R.N_FEATURES: plan.n_features,
        R.N_OTHERS: len(op.layer.others(plan.n_features)),
        R.CODED: Ref("coded", 0),
        R.W: op.weight.matrix.at,
    }
    text = f"{plan.n_features} -> {op.target.columns}: {op.weight.name}[x]"
    return Step("embedding", fields, text)


def norm_fields(plan: Plan, op: Op) -> dict:
    bias, matrix = op.parameters.get("bias"), op.source
    fields = {
        **panels(matrix),
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
    fields = {**norm_fields(plan, op), R.C: op.target.at, R.IN: op.source.at, R.EPSILON: bits(op.layer.epsilon)}
    fields |= epilogue
    text = f"{name}({kind}({op.source.columns} units))"
    if not isinstance(op.layer, BatchNorm):
        return Step("row_norm", fields, text)
    if training and op.learns:
        return Step("batch_norm", fields, text, op.source.n_panels, 1)
    return Step("batch_norm.predict", fields | running_fields(op), text)


def running_fields(op: Op) -> dict:
    """Where the running averages of a BatchNorm are."""
    return {
        R.RUNNING_MEAN: op.parameters["running_mean"].matrix.at,
        R.RUNNING_VAR: op.parameters["running_var"].matrix.at,
    }


def bits(number: float) -> int:
    """A float64 as records hold it."""
    return int(np.float64(number).view(np.int64))


def _number(activation: Activation) -> int:
    """The bits of the activation's parameter; 0 where it has none."""
    return 0 if activation.parameter is None else bits(getattr(activation, activation.parameter))


def elementwise(source: Matrix, target: Matrix, kernel: dict, other: Matrix, text: str) -> Step:
    return Step("elementwise", {**panels(target), **kernel, R.IN: source.at, R.OTHER: other.at}, text)


def dropout_step(plan: Plan, op: Op, i: int, source: Matrix, target: Matrix, text: str, backward: bool = False) -> Step:
    rows = isinstance(op.layer, Join)  # of a branch, for stochastic depth
    rate = op.layer.drop_rate if rows else op.layer.rate
    scheduled = isinstance(rate, Schedule)
    fields = {R.GROUP: plan.group(Group(dropout=rate))} if scheduled else {R.NUMBER: bits(rate)}
    fields |= {**panels(target), R.IN: source.at, R.N_OUT: target.columns, R.LAYER: i}
    if isinstance(op.layer, AlphaDropout):
        kernel = "alpha_dropout.gradient" if backward else "alpha_dropout"
        return Step(kernel, fields, f"{text} * mask * scale" if backward else f"{text} * scale + offset, or dropped")
    text = f"{text} * mask / {'(1 - rate)' if scheduled else f'{1 - rate:g}'}"
    return Step("drop_rows" if rows else "dropout", fields, text)


def derivative(op: Op) -> tuple[dict, Matrix]:
    """The kernel of an activation's derivative, as fields, and the value it is computed from."""
    fields = {R.EPILOGUE: Kernel(f"{op.layer.kernel}.derivative"), R.NUMBER: _number(op.layer)}
    return fields, op.target if op.layer.from_output else op.source


def loss_step(
    plan: Plan, z: Matrix, loss: Loss, targets: str, weighted: bool, with_gradient: bool, mixed: dict | None = None
):
    """The step of a loss row by row, and the place of the rows' losses; `mixed` says where mixed targets are."""
    row_losses = plan.place("workspace", 8 * plan.batch_size)
    plan.numbers = tuple(map(float, loss.numbers))
    fields = {
        **panels(z),
        R.N_OUT: z.columns,
        R.Y: Ref("y", 0),
        R.Y_STRIDE: loss.target_columns(z.columns),
        R.SW: Ref("sample_weight", 0) if weighted else 0,
        R.ROW_LOSS: row_losses,
        R.NUMBERS: Ref("numbers", 0),
        R.WITH_GRADIENT: int(with_gradient),
        **(mixed or {}),
    }
    if loss.term is not None:
        fields[R.ROW_DATA] = plan.values(z.columns).at
    elif loss.row is not None:
        fields[R.ROW_DATA] = plan.place("workspace", 2 * plan.batch_size * z.columns * plan.item)
    else:
        fields |= {field: plan.place("workspace", 8 * plan.batch_size) for field in (R.ROW_MASS, R.ROW_PICK)}
        fields |= {R.ROW_DATA: plan.place("workspace", 16 * plan.batch_size), R.ROW_BYTES: 8 * plan.batch_size}
    text = "loss of every row" + (", dz over the logits" if with_gradient else "")
    return Step(f"{loss.kernel}.{targets}", fields, text, has_loss=True), row_losses


def row_weights(weighted: bool, mixed: dict) -> dict:
    """Fields by which kernels find the weights of the batch's rows; `mixed` says where mixed ones are."""
    where = {field: mixed[field] for field in (R.SW, R.IN_BATCH) if field in mixed}
    return {R.SW: Ref("sample_weight", 0) if weighted else 0, **where}


def _activity_fields(op: Op, weights: dict) -> dict:
    factors = {R.ACTIVITY_L1: bits(op.layer.l1), R.ACTIVITY_L2: bits(op.layer.l2)}
    return {**factors, **weights, R.N_OUT: op.target.columns}


def activity_penalties(ops: list[Op], loss: Loss, row_losses: Ref, weights: dict) -> list[Step]:
    """The steps behind the loss that add what its layers add to the losses of the rows."""
    of_layers = [op for op in ops if isinstance(op.layer, ActivityRegularization)]
    if of_layers and loss.across:
        raise ValueError(
            f"{of_layers[0].layer!r} adds to the loss of each row; `loss`={loss.name!r} has none of a row by itself."
        )
    text = "loss of every row += penalty of a"
    return [
        Step("activity_penalty", {**panels(op.target), **_activity_fields(op, weights), R.ROW_LOSS: row_losses}, text)
        for op in of_layers
    ]


def activity_gradient(op: Op, source: Matrix, target: Matrix, weights: dict) -> Step:
    fields = {**panels(target), **_activity_fields(op, weights), R.IN: source.at, R.ACTIVITY: op.target.at}
    return Step("activity_gradient", fields, "dz = da + slopes of the penalty")


def loss_across_rows(plan: Plan, z: Matrix, loss: Loss, weighted: bool, gradient: Matrix | None = None):
    """The steps of a loss that looks at all rows of the batch for each, and the place of the rows' losses."""
    n, item = plan.batch_size, plan.item
    stride = (-(-n * item // LINE) | 1) * LINE // item  # an odd number of cache lines, which thus share no places there
    row_losses = plan.place("workspace", 8 * n)
    plan.numbers = tuple(map(float, loss.numbers))
    fields = {
        **panels(z),
        R.N_OUT: z.columns,
        R.Y: Ref("y", 0),
        R.SW: Ref("sample_weight", 0) if weighted else 0,
        R.NUMBERS: Ref("numbers", 0),
        R.WITH_GRADIENT: int(gradient is not None),
        R.COLUMNS: plan.place("workspace", stride * z.columns * item),
        R.COLUMN_STRIDE: stride,
        R.LABELS: plan.place("workspace", n * item),
        R.WEIGHTS: plan.place("workspace", n * item),
        R.DZ: gradient.at if gradient else 0,
        R.CHOSEN: plan.place("workspace", 16 * n),
        R.SLOPES: plan.place("workspace", 2 * n * item),
        R.QUERIES: Ref("queries", 0) if loss.queries else 0,
    }
    first, *others = loss.across
    text = "loss of every row of the batch, and dz"
    steps = [Step("collect", fields, "values, labels and weights side by side")]
    steps.append(Step(first, {**fields, R.ROW_LOSS: row_losses}, text, n, has_loss=True))
    steps += [Step(kernel, fields, "dz from all rows of the batch", n) for kernel in others if gradient]
    return steps, row_losses
