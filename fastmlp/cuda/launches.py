"""A plan's records as launches: which kernel, with how many blocks, on which arrays.

A launch is a function without arguments that puts one kernel into the stream, for the step that `control` names.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from numba import cuda

from .. import records as R
from ..engine.dropout import KINDS as DROPOUT_KINDS
from ..plan import Kernel, Plan, Ref, Step
from . import (
    augmentation,
    batch_losses,
    constraints,
    dropout,
    elementwise,
    embeddings,
    few_rows,
    gradients,
    layers,
    loss_kernels,
    narrow,
    norms,
    products,
    rows,
    updates,
)
from .device import MOST_BLOCKS, SIMD, SIMULATED, THREADS, in_y_and_z, tile_for
from .memory import BEHIND, Memory


class Launches:
    """The launches of a plan's steps.

    Parameters
    ----------
    plan : Plan
    memory : Memory
    data : dict of device arrays
        "X", "y", "sample_weight", "output": those that the plan's records read or write.
    bound : dict of device arrays
        "steps", "scalars", "order", "sums" of an epoch. Looked up by every launch: the next epoch's may lie elsewhere.
    stream
    """

    def __init__(self, plan: Plan, memory: Memory, data: dict, bound: dict, stream):
        self.plan, self.memory, self.data, self.bound, self.stream = plan, memory, data, bound, stream
        self._records = [step for phase in plan.phases for step in phase.steps]
        self._slot = plan.sizes["parameters"] // plan.item  # numbers from a parameter to its first slot
        self._clip_norm = next((step for step in self._records if step.kernel == "clip_norm"), None)
        self._no_weights = cuda.to_device(np.zeros(1, plan.dtype))
        self._coded = cuda.to_device(np.array(plan.coded or (0,), np.int64))

    def of_step(self) -> list[Callable[[], None]]:
        """The launches of one step, whichever it is, in their order."""
        todo, launches = dict(enumerate(self._records)), []
        if narrow.qualifies(self.plan):
            launches.append(self._rows())
            todo = {k: step for k, step in todo.items() if narrow.kind_of(step) is None}
        sums = gradients_of(self.plan)
        apart = {gradient.record for gradient in sums}
        others = [k for k, step in todo.items() if k not in apart and step.kernel not in _WITHIN_OTHERS]
        before = [k for k in others if not sums or k < sums[0].record]
        launches += [self._launch(k, todo[k]) for k in before]
        ends = len(before) == len(others)  # nothing follows the updates
        if sums:
            launches += self._gradients(sums, ends)
        launches += [self._launch(k, todo[k]) for k in others[len(before) :]]
        return launches if sums and ends else [*launches, self._end_of_step()]

    def _launch(self, k: int, step: Step):
        """The launch of record k."""
        make = _LAUNCHES.get(step.kernel)
        if make is None and loss_kernels.is_loss(step.kernel):
            make = Launches._loss
        if make is None:
            raise NotImplementedError(
                f"{step.kernel} ({step.text}) does not run on device='cuda' yet; use device='cpu'."
            )
        return make(self, k, step)

    # Of several records ----------------------------------------------------------------------------------------------

    @property
    def _with_loss(self) -> bool:
        return any(step.kernel == "sum_losses" for step in self._records)

    def _rows(self):
        """All records over rows, of a narrow network."""
        plan, m, bound, scaled = self.plan, self.memory, self.bound, self.plan.scaling is not None
        (loss,) = (step.kernel for step in self._records if loss_kernels.is_loss(step.kernel))
        table, names, dropouts, own_numbers = few_rows.program(plan, narrow.kind_of)
        epilogues = tuple(elementwise.Epilogue(name, plan.dtype) for name in names)
        if narrow.of_few_rows(plan):
            rows_of_block, threads = few_rows.ROWS, few_rows.THREADS
            wide = plan.n_features > few_rows.MOST_COLUMNS
            kernel = few_rows.rows_kernel(plan.dtype, wide, scaled, epilogues, dropouts, loss)
            numbers = m.numbers, cuda.to_device(own_numbers)
        else:
            tile = narrow.tile_of(plan)
            rows_of_block, threads = tile.rows, tile.block
            kernel, numbers = narrow.rows_kernel(plan.dtype, tile, scaled, epilogues, dropouts, loss), (m.numbers,)
        launch = self._configured(kernel, -(-plan.batch_size // rows_of_block), threads)
        buffers = m.table, *numbers, cuda.to_device(table), len(table), m.work, m.state, m.transposed
        data = self.data["X"], self.data["y"], self._weights()
        data = *data, m.of_loss, m.row_losses, *(plan.scaling or (1.0, 0.0))
        return lambda: launch(m.control, bound["steps"], bound["scalars"], *buffers, bound["order"], *data)

    def _gradients(self, sums_of: list[gradients.Gradient], ends: bool) -> list:
        """The sums of shares of rows, and the updates, of all these records."""
        dtype, m, bound, with_loss = self.plan.dtype, self.memory, self.bound, self._with_loss
        changes = [self._update(self._records[gradient.record]) for gradient in sums_of]
        distinct = tuple(dict.fromkeys(changes))
        changes = [*map(distinct.index, changes)]
        tables, units, of_updates = gradients.tables(sums_of, changes, self.plan.batch_size, dtype)
        if ends and gradients.at_once(sums_of) and narrow.qualifies(self.plan):
            ((tile, blocks),) = tables.items()
            kernel = gradients.updates_at_once(dtype, tile, distinct, with_loss)
            launch = self._configured(kernel, len(blocks) + 1, tile.block)
            rest = cuda.to_device(blocks), m.work, m.state, m.transposed, self._slot, m.row_losses
            return [
                lambda: launch(m.control, bound["steps"], bound["scalars"], m.table, *rest, bound["sums"]),
            ]
        kernel = gradients.updates(dtype, distinct, units, ends, with_loss)
        update = self._configured(kernel, len(of_updates) + ends, THREADS)
        rest = cuda.to_device(of_updates), m.work, m.state, m.transposed, self._slot, m.shares, m.row_losses

        def sums(tile, blocks):
            if tile == gradients.of_table(dtype):
                return self._shares_of_table(tile, blocks)
            launch = self._configured(gradients.shares_of_gradients(dtype, tile), len(blocks), tile.block)
            blocks = cuda.to_device(blocks)
            return lambda: launch(m.control, bound["steps"], m.table, blocks, m.work, m.shares)

        return [
            *(sums(tile, blocks) for tile, blocks in tables.items()),
            lambda: update(m.control, bound["steps"], bound["scalars"], m.table, *rest, bound["sums"]),
        ]

    def _shares_of_table(self, tile, blocks: np.ndarray):
        """The sums of shares of rows for an embedding's table."""
        m, bound, kernels = self.memory, self.bound, [step.kernel for step in self._records]
        launch = self._configured(embeddings.shares_of_table(self.plan.dtype), len(blocks), tile.block)
        records = kernels.index("embedding"), kernels.index("embedding.gradient")
        rest = self._coded, cuda.to_device(blocks), m.work, m.shares
        return lambda: launch(m.control, bound["steps"], m.table, *records, *rest)

    # How many blocks -------------------------------------------------------------------------------------------------

    def _configured(self, kernel, grid, block):
        return configured(kernel, grid, block, self.stream)

    def _over(self, n: int, kernel):
        """A kernel whose threads share out n numbers."""
        blocks = max(1, min(MOST_BLOCKS, -(-n // THREADS)))
        return self._configured(kernel, blocks, THREADS)

    def _blocks_of_rows(self) -> int:
        """Of kernels whose blocks take a row of the batch at a time."""
        return min(MOST_BLOCKS, self.plan.batch_size)

    def _over_values(self, step: Step, kernel):
        """A kernel whose threads share out a matrix of the batch."""
        columns = (
            step.fields[R.N_OUT] if R.N_OUT in step.fields else step.fields[R.N_PANELS] * SIMD.panel(self.plan.dtype)
        )
        return self._over(self.plan.batch_size * columns, kernel)

    def _over_panels(self, step: Step, kernel):
        """A kernel with a block for each panel of a matrix."""
        dtype = self.plan.dtype
        return self._configured(kernel, step.fields[R.N_PANELS], norms.parts(dtype) * SIMD.panel(dtype))

    # What records have in common -------------------------------------------------------------------------------------

    def _with_everything(self, k: int, launch, *more):
        """A launch with the arguments that most kernels share, and more."""
        m, bound = self.memory, self.bound
        rest = m.table, m.numbers, k, m.work, m.state, *more
        return lambda: launch(m.control, bound["steps"], bound["scalars"], *rest)

    def _weights(self, step: Step | None = None):
        """Of the data's rows, or the batch's where a record reads those; where they have none, kernels do not read what
        they are given.
        """
        if step is not None and step.fields.get(R.IN_BATCH) and step.fields[R.SW]:
            return self._in_workspace(step.fields[R.SW], self.plan.batch_size)
        return self.data.get("sample_weight", self._no_weights)

    def _in_workspace(self, at: Ref, n: int):
        """So many numbers."""
        return self.memory.work[at.offset // self.plan.item : at.offset // self.plan.item + n]

    def _epilogue(self, step: Step):
        following = step.fields[R.EPILOGUE]
        return elementwise.Epilogue(following.name if isinstance(following, Kernel) else "", self.plan.dtype)

    def _update(self, step: Step, rule: str | None = None):
        """What a record does with a gradient, a device function."""
        f = step.fields
        if rule is None:
            rule = f[R.OPTIMIZER].name if f.get(R.OPTIMIZER) else "store"
        return updates.Update(
            f[R.PENALTY].name if f.get(R.PENALTY) else "",
            bool(f.get(R.CLIP_KERNEL)),
            bool(f.get(R.DECAY_KERNEL)),
            rule,
            bool(f.get(R.AVERAGE_KERNEL)),
            self.plan.n_slots,
            self.plan.dtype,
        )

    # Record by record ------------------------------------------------------------------------------------------------

    def _gather(self, k: int, step: Step):
        plan, m, bound, X = self.plan, self.memory, self.bound, self.data["X"]
        grid = -(-plan.batch_size // rows.rows_of_block(plan.dtype)), *in_y_and_z(step.fields[R.N_PANELS])
        launch = self._configured(rows.gather(plan.dtype, plan.scaling is not None), grid, THREADS)
        scale, offset = plan.scaling or (1.0, 0.0)
        return lambda: launch(m.control, bound["steps"], m.table, k, bound["order"], X, m.work, scale, offset)

    def _embedding(self, k: int, step: Step):
        plan, m, bound = self.plan, self.memory, self.bound
        columns = step.fields[R.N_PANELS] * SIMD.panel(plan.dtype)
        launch = self._over(plan.batch_size * columns, embeddings.embedding(plan.dtype))
        return lambda: launch(m.control, bound["steps"], m.table, k, self._coded, m.work, m.state)

    def _scatter(self, k: int, step: Step):
        m, bound, output = self.memory, self.bound, self.data["output"]
        launch = self._over_values(step, rows.scatter(self.plan.dtype))
        return lambda: launch(m.control, bound["steps"], m.table, k, m.work, output)

    def _product(self, k: int, step: Step):
        dtype, m, bound = self.plan.dtype, self.memory, self.bound
        columns = (step.fields[R.N_PANELS] - 1) * SIMD.panel(dtype) + step.fields[R.LAST_WIDTH]
        tile = tile_for(self.plan.batch_size, columns, self.plan.precision)
        grid = products.grid_of(tile, self.plan.batch_size, columns)
        launch = self._configured(products.product(dtype, self._epilogue(step), tile), grid, tile.block)
        weights = {"parameters": m.state, "transposed": m.transposed}[step.fields[R.B].buffer]
        return lambda: launch(m.control, bound["steps"], m.table, m.numbers, k, m.work, weights, m.state)

    def _elementwise(self, k: int, step: Step):
        m, bound = self.memory, self.bound
        launch = self._over_values(step, elementwise.elementwise(self.plan.dtype, self._epilogue(step)))
        return lambda: launch(m.control, bound["steps"], m.table, m.numbers, k, m.work)

    def _dropout(self, k: int, step: Step):
        m, bound = self.memory, self.bound
        launch = self._over_values(step, dropout.dropout(self.plan.dtype, step.kernel))
        return lambda: launch(m.control, bound["steps"], bound["scalars"], m.table, m.numbers, k, m.work)

    def _gaussian_noise(self, k: int, step: Step):
        return self._with_everything(k, self._over_values(step, augmentation.gaussian_noise(self.plan.dtype)))

    def _random_affine(self, k: int, step: Step):
        m, bound = self.memory, self.bound
        launch = self._configured(augmentation.random_affine(self.plan.dtype), self._blocks_of_rows(), THREADS)
        intervals = [step.fields[field] for field in range(R.LEAST_ANGLE, R.FILL + 1)]
        intervals = cuda.to_device(np.array(intervals, np.int64).view(np.float64))
        return lambda: launch(m.control, bound["steps"], m.table, k, m.work, intervals)

    def _mix(self, k: int, step: Step):
        m, bound = self.memory, self.bound
        kernel = augmentation.mix(self.plan.dtype, step.kernel == "cutmix", bool(step.fields[R.CODES]))
        launch, rest = self._configured(kernel, self._blocks_of_rows(), THREADS), (self.data["y"], self._weights())
        return lambda: launch(m.control, bound["steps"], bound["scalars"], m.table, k, bound["order"], *rest, m.work)

    def _values(self, k: int, step: Step):
        kernel = {
            "prelu": layers.prelu,
            "prelu.gradient": layers.prelu_gradient,
        }[step.kernel]
        return self._with_everything(k, self._over_values(step, kernel(self.plan.dtype)))

    def _softmax(self, k: int, step: Step):
        kernel = layers.softmax_forward if step.kernel == "softmax.forward" else layers.softmax_backward
        return self._with_everything(k, self._over(self.plan.batch_size, kernel(self.plan.dtype)))

    def _row_norm(self, k: int, step: Step):
        n, dtype = self.plan.batch_size * step.fields[R.GROUPS], self.plan.dtype
        if step.kernel == "row_norm":
            launch = self._over(n, norms.row_norm(dtype, self._epilogue(step)))
            return self._with_everything(k, launch, _number(step, R.EPSILON))
        return self._with_everything(k, self._over(n, norms.row_norm_gradient(dtype)))

    def _batch_norm(self, k: int, step: Step):
        dtype = self.plan.dtype
        if step.kernel == "batch_norm":
            launch = self._over_panels(step, norms.batch_norm(dtype, self._epilogue(step)))
            return self._with_everything(k, launch, _number(step, R.EPSILON))
        if step.kernel.startswith("batch_norm.predict"):
            kernel = norms.running_norm(dtype, self._epilogue(step), step.kernel.endswith(".gradient"))
            return self._with_everything(k, self._over_values(step, kernel), _number(step, R.EPSILON))
        if step.kernel == "batch_norm.running":
            kernel = norms.batch_norm_running(dtype, self._update(step, "assign"))
            return self._with_everything(k, self._over(step.fields[R.N_OUT], kernel), self._slot)
        return self._with_everything(k, self._over_panels(step, norms.batch_norm_gradient(dtype)))

    def _loss(self, k: int, step: Step):
        plan, m, bound, f = self.plan, self.memory, self.bound, step.fields
        kernel = loss_kernels.loss(plan.dtype, step.kernel, bool(f.get(R.IN_BATCH)))
        launch = self._over(plan.batch_size * loss_kernels.TOGETHER, kernel)
        y, weights = self.data["y"], self._weights(step)
        if f.get(R.IN_BATCH):
            y = self._in_workspace(f[R.Y], plan.batch_size * plan.n_outputs).reshape(plan.batch_size, plan.n_outputs)
        rest = y, weights, m.of_loss, m.work, m.row_losses
        return lambda: launch(m.control, bound["steps"], bound["scalars"], m.table, k, bound["order"], *rest)

    def _activity(self, k: int, step: Step):
        plan, m, bound, in_batch = self.plan, self.memory, self.bound, bool(step.fields.get(R.IN_BATCH))
        if step.kernel == "activity_penalty":
            launch = self._over(plan.batch_size, layers.activity_penalty(plan.dtype, in_batch))
        else:
            launch = self._over_values(step, layers.activity_gradient(plan.dtype, in_batch))
        rest = self._weights(step), _number(step, R.ACTIVITY_L1), _number(step, R.ACTIVITY_L2), m.work, m.row_losses
        return lambda: launch(m.control, bound["steps"], bound["scalars"], m.table, k, bound["order"], *rest)

    def _collect(self, k: int, step: Step):
        plan, m, bound, queries = self.plan, self.memory, self.bound, self.data.get("queries")
        launch = self._over(plan.batch_size * plan.n_outputs, batch_losses.collect(plan.dtype, queries is not None))
        y, weights = self.data["y"], self._weights()
        queries = cuda.to_device(np.zeros((1, 1), np.int64)) if queries is None else queries
        rest = y, weights, queries, m.chosen, m.work
        return lambda: launch(m.control, bound["steps"], m.table, k, bound["order"], *rest)

    def _loss_across_rows(self, k: int, step: Step):
        plan, m = self.plan, self.memory
        kernel = getattr(batch_losses, step.kernel.replace(".", "_"))(plan.dtype)
        if step.kernel in ("ranknet", "listnet"):
            launch = self._over(plan.batch_size, kernel)
        else:
            launch = self._configured(kernel, self._blocks_of_rows(), THREADS)
        bound, rest = self.bound, (m.table, k, m.of_loss, m.chosen, m.work, m.row_losses)
        return lambda: launch(m.control, bound["steps"], bound["scalars"], *rest)

    def _triplet_gradient(self, k: int, step: Step):
        m, bound = self.memory, self.bound
        launch = self._configured(batch_losses.triplet_gradient(self.plan.dtype), self._blocks_of_rows(), THREADS)
        return lambda: launch(m.control, bound["steps"], m.table, k, m.chosen, m.work)

    def _square_sums(self, k: int, step: Step):
        launch = self._over_panels(step, constraints.square_sums(self.plan.dtype))
        first = (step.fields[R.SUMS].offset - self._clip_norm.fields[R.SUMS].offset) // 8
        return self._with_everything(k, launch, self.memory.squares, first)

    def _clip_norm_of_all(self, k: int, step: Step):
        launch = self._configured(constraints.clip_norm(), 1, THREADS)
        return self._with_everything(k, launch, self.memory.squares, step.fields[R.N_SUMS])

    def _stored_update(self, k: int, step: Step):
        f = step.fields
        launch = self._over(f[R.DEPTH] * f[R.N_OUT], constraints.stored_update(self.plan.dtype, self._update(step)))
        m, n_sums = self.memory, self._clip_norm.fields[R.N_SUMS]
        return self._with_everything(k, launch, m.transposed, self._slot, m.squares, n_sums)

    def _max_norm(self, k: int, step: Step):
        launch = self._over_panels(step, constraints.max_norm(self.plan.dtype, self._update(step, "assign")))
        return self._with_everything(k, launch, self.memory.transposed, self._slot)

    def _end_of_step(self):
        m, bound = self.memory, self.bound
        launch = self._configured(loss_kernels.end_of_step(self._with_loss), 1, loss_kernels.END_THREADS)
        return lambda: launch(m.control, bound["steps"], m.row_losses, bound["sums"])


# How the records of each kernel are launched; losses aside
_LAUNCHES = {
    **{f"gather.{t}": Launches._gather for t in ("float32", "float64", "uint8")},
    "embedding": Launches._embedding,
    "scatter": Launches._scatter,
    "product": Launches._product,
    "elementwise": Launches._elementwise,
    **dict.fromkeys((*DROPOUT_KINDS, "drop_rows"), Launches._dropout),
    "gaussian_noise": Launches._gaussian_noise,
    "random_affine": Launches._random_affine,
    **dict.fromkeys(("mixup", "cutmix"), Launches._mix),
    **dict.fromkeys(("prelu", "prelu.gradient"), Launches._values),
    **dict.fromkeys(("softmax.forward", "softmax.backward"), Launches._softmax),
    **dict.fromkeys(("row_norm", "row_norm.gradient"), Launches._row_norm),
    **dict.fromkeys(
        (
            "batch_norm",
            "batch_norm.gradient",
            "batch_norm.running",
            "batch_norm.predict",
            "batch_norm.predict.gradient",
        ),
        Launches._batch_norm,
    ),
    **dict.fromkeys(("activity_penalty", "activity_gradient"), Launches._activity),
    "collect": Launches._collect,
    **dict.fromkeys(("contrastive", "triplet.choose", "ranknet", "listnet"), Launches._loss_across_rows),
    "triplet.gradient": Launches._triplet_gradient,
    "square_sums": Launches._square_sums,
    "clip_norm": Launches._clip_norm_of_all,
    "update": Launches._stored_update,
    "max_norm": Launches._max_norm,
}

# What other launches do, too: the end of the step; the shares of a table
_WITHIN_OTHERS = ("sum_losses", "embedding.gradient", "embedding.codes")


def gradients_of(plan: Plan) -> list[gradients.Gradient]:
    """The gradients of a plan; of narrow networks with few rows all by one kernel, with tiles of one size."""
    return gradients.of_plan(plan, narrow.qualifies(plan) and plan.batch_size < narrow.MANY)


def n_bytes(plan: Plan) -> int:
    """Of the device's memory for all but the data."""
    sums = gradients_of(plan)
    tables = 2 * gradients.bytes_of_tables(sums, plan.dtype)  # streamed data have them twice
    rows_and_codes = 8 * (plan.batch_size + len(plan.coded))
    return plan.n_bytes + BEHIND + rows_and_codes + plan.item * gradients.n_items(sums) + tables


def configured(kernel, grid, block, stream):
    """The kernel with its grid, to be called with its arguments."""
    if SIMULATED:  # which keeps the last grid that a kernel was given
        return lambda *arguments: kernel[grid, block](*arguments)
    with warnings.catch_warnings():  # Numba warns of grids that do not fill the device: small networks have small ones
        warnings.simplefilter("ignore")
        return kernel[grid, block, stream]


def _number(step: Step, field: int) -> float:
    """The float64 whose bits a record has."""
    return float(np.int64(step.fields[field]).view(np.float64))
