"""The records of the way back, from the gradient of the loss to those of the parameters."""

from __future__ import annotations

from .. import records as R
from ..activations import Activation
from ..embedding import Embedding
from ..layers import ActivityRegularization, Dense, Dropout, Fork, Join, Maximum, Multiply, PReLU, Softmax, Switch
from ..normalization import BatchNorm, Norm
from ..plan import Kernel, Matrix, Parameter, Plan, Ref, Step
from .steps import (
    Op,
    activity_gradient,
    bits,
    derivative,
    dropout_step,
    drops,
    elementwise,
    embedding_fields,
    norm_fields,
    operand,
    panels,
    product_step,
    running_fields,
    shares_columns,
)
from .updates import Updates


class Backward:
    """The backward pass: `steps` in their order, and the updates (`tiles`) that come after all of them.

    A gradient is overwritten in place unless somebody needs it as it is (`shared`): the updates, or the way around a
    residual's branch.
    """

    def __init__(self, plan: Plan, ops: list[Op], gradient: Matrix, weights: dict, updates: Updates):
        self.plan, self.ops, self.gradient, self.updates = plan, ops, gradient, updates
        self.weights = weights  # fields by which kernels find those of the rows
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
            elif isinstance(op.layer, Embedding):
                self._embedding(op)
            elif isinstance(op.layer, Norm):
                self._norm(op)
            elif isinstance(op.layer, PReLU):
                self._prelu(op)
            elif isinstance(op.layer, Multiply):
                other = self.plan.values(self.gradient.columns)
                kernel = {R.EPILOGUE: Kernel("multiply")}
                self.steps.append(elementwise(self.gradient, other, kernel, op.source, "da of the gate = da * a"))
                self.skips.append(other)
                self._in_place(kernel, op.skip, "da = da * gate")
            elif isinstance(op.layer, Maximum):
                won, other = self.plan.values(self.gradient.columns), self.plan.values(self.gradient.columns)
                kernels = [{R.EPILOGUE: Kernel(name)} for name in ("at_least", "multiply", "multiply_rest")]
                self.steps.append(elementwise(op.skip, won, kernels[0], op.source, "1 where the skip is the larger"))
                self.steps.append(elementwise(self.gradient, other, kernels[1], won, "da of the skip, where it is"))
                self.skips.append(other)
                self._in_place(kernels[2], won, "da where it is not")
            elif isinstance(op.layer, Switch):
                self.gradient, self.skips[-1] = self.skips[-1], self.gradient
                self.shared = False
            elif isinstance(op.layer, Fork):
                other = self.skips.pop()
                self._in_place({R.EPILOGUE: Kernel("add")}, other, "da = da + da of the skip")
            elif isinstance(op.layer, Dropout) or drops(op):
                target = self._writable()
                self.steps.append(dropout_step(self.plan, op, i, self.gradient, target, "dz = da", backward=True))
                self.gradient = target
            elif isinstance(op.layer, ActivityRegularization):
                target = self._writable()
                self.steps.append(activity_gradient(op, self.gradient, target, self.weights))
                self.gradient = target
            elif isinstance(op.layer, Join):
                self.skips.append(self.gradient)
                self.shared = True
            elif isinstance(op.layer, Softmax):
                if self.shared:
                    self._in_place({R.EPILOGUE: Kernel("identity.value")}, self.gradient, "copy of da")
                fields = {**panels(self.gradient), R.OTHER: op.target.at, R.N_OUT: op.target.columns}
                self.steps.append(Step("softmax.backward", fields, "dz = a (da - sum over the row of a da)"))
            elif isinstance(op.layer, Activation):
                self._in_place(*derivative(op), f"dz = da * {op.layer.name}'")
            else:
                raise TypeError(f"{op.layer!r} has no step backward.")
            i -= 1

    def _writable(self) -> Matrix:
        """Where the next elementwise step writes its result."""
        target = self.plan.values(self.gradient.columns) if self.shared else None
        self.shared = False
        return target or self.gradient

    def _in_place(self, kernel: dict, other: Matrix, text: str) -> None:
        target = self._writable()
        self.steps.append(elementwise(self.gradient, target, kernel, other, text))
        self.gradient = target

    def _input_gradient(self, op: Op, before: Op) -> int:
        """dz W^T, with what comes next in the epilogue; returns 1 if that was what lies before, else 0."""
        weight = op.parameters["weight"]
        dz = self.plan.values(weight.shape[0])
        epilogue, other, text, done = {R.EPILOGUE: 0}, dz, "", 0
        if isinstance(before.layer, Fork):
            epilogue, other, text, done = {R.EPILOGUE: Kernel("add")}, self.skips.pop(), " + da of the skip", 1
        elif isinstance(before.layer, Activation):
            done = 1
            if before.layer.name != "identity":
                (epilogue, other), text = derivative(before), f" * {before.layer.name}'"
        fields = {
            **operand(self.gradient),
            **panels(dz),
            R.B: weight.transposed.at,
            R.DEPTH: weight.shape[1],
            R.INIT: 0,
            **epilogue,
            R.OTHER: other.at,
        }
        text = f"{weight.shape[1]} -> {weight.shape[0]}: dz = (dz {weight.name}^T){text}"
        self.steps.append(product_step(self.plan, dz, fields, text, training=True))
        self.gradient, self.shared = dz, False
        return done

    def _embedding(self, op: Op) -> None:
        """The table's gradient: sums of rows, one for each code of the batch, when these are sorted."""
        plan, weight = self.plan, op.weight
        common = embedding_fields(plan, op)
        n_rows = plan.batch_size * common[R.N_CODED]
        rows = plan.matrix("workspace", n_rows, weight.matrix.columns)
        fields = {**common, **panels(self.gradient), R.DZ: rows.at, R.DZ_ROWS: n_rows}
        self.steps.append(Step("embedding.gradient", fields, "a row of da for each code"))
        by_codes = {
            R.STARTS: plan.place("workspace", 8 * (weight.matrix.rows + 2)),
            R.ENTRY_ROWS: plan.place("workspace", 8 * n_rows),
            R.ENTRY_VALUES: plan.place("workspace", plan.item * n_rows),
        }
        self.steps.append(Step("embedding.codes", common | by_codes, "codes of the batch in their order", 1, 1))
        each = -(-n_rows // weight.matrix.rows)
        step = _matrix_update_step("sparse_gradient", op, rows, each, by_codes | {R.ROW_SHARES: 1}, self.updates)
        self.tiles.append(step)

    def _prelu(self, op: Op) -> None:
        """dz, and da z where z < 0, whose sums over the rows are the slopes' gradient."""
        dz = self.plan.values(op.source.columns)
        weight = op.parameters["weight"]
        fields = {**panels(dz), R.IN: self.gradient.at, R.Z: op.source.at, R.NORMED: op.normed.at}
        self.steps.append(Step("prelu.gradient", {**fields, R.W: weight.matrix.at}, "dz = da * prelu'"))
        if op.learns:
            self.tiles.append(_vector_update_step(self.plan, op, "weight", op.normed, self.updates))
        self.gradient, self.shared = dz, False

    def _norm(self, op: Op) -> None:
        """dz, and da times the normed value where that was: its sums over the rows are the scale's gradient. A frozen
        BatchNorm goes by its running averages, and there is only dz.
        """
        dz = self.plan.values(op.source.columns)
        fields = {**norm_fields(self.plan, op), R.IN: self.gradient.at, R.C: dz.at}
        kind = type(op.layer).__name__
        text = f"dz = da * {kind}'"
        if not isinstance(op.layer, BatchNorm):
            self.steps.append(Step("row_norm.gradient", fields, text))
        elif op.learns:
            self.steps.append(Step("batch_norm.gradient", fields, text, dz.n_panels, 1))
            running = fields | running_fields(op)
            running |= {R.NUMBER: bits(op.layer.momentum), R.AVERAGE_KERNEL: self.updates.average}
            self.tiles.append(Step("batch_norm.running", running, "running averages of the batch's", 1, 1))
        else:
            running = running_fields(op) | {R.EPSILON: bits(op.layer.epsilon), R.EPILOGUE: 0, R.OTHER: dz.at}
            self.steps.append(Step("batch_norm.predict.gradient", fields | running, text))
        if op.learns:
            self.tiles.append(_vector_update_step(self.plan, op, "weight", op.normed, self.updates))
            if "bias" in op.parameters:
                self.tiles.append(_vector_update_step(self.plan, op, "bias", self.gradient, self.updates))
        self.gradient, self.shared = dz, False


ROWS_FOR_TWO = 8  # of a batch: then two columns, too, take less time one by one


def _fits_the_caches(plan: Plan) -> bool:
    """Whether everything that a step touches lies in a second-level cache from one step to the next."""
    return plan.n_bytes < 2**18 and plan.n_features * plan.item < 512


def _update_steps(plan: Plan, op: Op, gradient: Matrix, updates: Updates) -> list[Step]:
    """The gradients and updates of a Dense: of its weights, and of its bias."""
    weight, panel = op.weight, plan.simd.panel(plan.dtype)
    n_in, n_out = weight.shape
    if plan.multiplies_sparse(op.source):
        kernel, rows, own = "sparse_gradient", -(-plan.entries // n_in), plan.by_columns  # of an input that are not 0
    else:
        few = gradient.is_column or (gradient.columns == 2 and plan.batch_size >= ROWS_FOR_TWO and not plan.simd.gpu)
        kernel, rows = "weight_gradient.few" if few else "weight_gradient", plan.batch_size
        # what a worker updates is what it multiplies by next: columns of W; or where there is W^T, columns of that
        of_columns = weight.transposed is None and shares_columns(plan, n_in, n_out, training=True)
        # tiles among which the prefetches of the next step's rows are shared out
        tiles = _n_blocks(weight) * gradient.n_panels * (panel // plan.simd.rows)
        own = {
            **operand(op.source),
            R.OF_COLUMNS: int(of_columns),
            R.GATHERS: tiles if op.source is plan.input else 0,
            # the next panel; 0 where nothing need be asked for ahead
            R.A_AHEAD: 0 if _fits_the_caches(plan) else op.source.panel_bytes,
        }
    steps = [_matrix_update_step(kernel, op, gradient, rows, own, updates)]
    if "bias" in op.parameters:
        steps.append(_vector_update_step(plan, op, "bias", gradient, updates))
    return steps


def _n_blocks(weight: Parameter) -> int:
    """Blocks of a panel's height."""
    return -(-weight.matrix.rows // weight.matrix.panel)


def _matrix_update_step(kernel: str, op: Op, gradient: Matrix, rows: int, own: dict, updates: Updates) -> Step:
    """The gradient of the weights, each a sum of so many terms, and their update, in blocks of panel x panel; `own` are
    the kernel's own fields.
    """
    weight = op.weight
    following, text = updates.fields(weight, op.layer, weight=True)
    fields = {
        **panels(gradient),
        **following,
        R.DEPTH: weight.matrix.rows,
        R.N_BLOCKS: _n_blocks(weight),
        R.N_OUT: weight.matrix.columns,
        R.W: weight.matrix.at,
        **own,
    }
    # relative time of a unit, as measured: the product, 16 rows' worth of Adam, 6 of writing W^T; narrow panels cost
    # more
    width = gradient.last_width if gradient.n_panels == 1 else gradient.panel
    extra = 22 if weight.transposed else 16
    cost = max(1, min(weight.matrix.rows, gradient.panel) * (width + 2) * (rows + extra) // 64)
    units = _n_blocks(weight) * gradient.n_panels
    return Step(kernel, fields, f"{weight.name} {weight.shape}: {text}", units, cost)


def _vector_update_step(plan: Plan, op: Op, name: str, gradient: Matrix, updates: Updates) -> Step:
    """The gradient of a vector, the sum of a matrix over the rows, and its update, in panels."""
    parameter = op.parameters[name]
    following, text = updates.fields(parameter, op.layer, weight=False)
    fields = {**panels(gradient), **following, R.ONES: Ref("ones", 0), R.W: parameter.matrix.at}
    width = gradient.last_width if gradient.n_panels == 1 else plan.simd.panel(plan.dtype)
    cost = max(1, width * (plan.batch_size + 16) // 8)
    kernel = "bias_gradient.column" if gradient.is_column else "bias_gradient"
    return Step(kernel, fields, f"{parameter.name} {parameter.shape}: {text}", gradient.n_panels, cost)
