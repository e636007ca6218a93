"""All that a narrow network does with a few rows of the batch, by one block: gather, forward pass, loss, backward pass.

`narrow.py` has the same for batches of many rows, with the tiles of wide products. Those keep few blocks busy where a
batch has few rows, and a step is a chain of waits; here a block has 8 rows, and what counts is the way from one layer
to the next:

- a thread multiplies all rows of the block with a vector of the weights' columns, for every n-th factor; weights come
  from memory to its registers at once, for no other thread of the block needs them;
- the threads' sums are added in shared memory, and results stay there for the next product, a factor's rows side by
  side; the kernel of the gradients reads them from memory, where they go, too;
- the first weights of a record are on their way while the record before it ends, and so is what it has to do.
"""

from __future__ import annotations

import numpy as np
from numba import cuda, types

from .. import records as R
from ..plan import Kernel, Plan, Step
from .device import SIMD, STEP, STEP_OF_UPDATES, TINY
from .elementwise import Epilogue, scalar_epilogue, vector_epilogue
from .functions import cuda_kernel, data_row, failed_before, inlined, item_type, one_of, place, unrolled
from .loss_kernels import row_loss
from .vectors import BYTES, copy_vector, put, vector_items

if TINY:
    ROWS, THREADS, MOST_COLUMNS, MOST_GROUPS, AHEAD, TOGETHER = 4, 32, 32, 4, 4, 2
else:
    ROWS, THREADS, MOST_COLUMNS = 8, 256, 128  # of a block, and of a matrix but for the batch itself
    MOST_GROUPS = 16  # of threads, which share out the factors: their sums are added one after the other
    AHEAD = 16  # vectors of weights that a thread has on their way
    TOGETHER = 16  # numbers of X, likewise
SOME = 4  # vectors of weights that are multiplied without a look at their number

# What a block does, a row for each record: which it is, what kind of work; places are numbers from the start of a
# buffer. ACROSS is the logarithm of the threads side by side, KEPT whether A is in shared memory.
FIELDS = (
    RECORD, KIND, EPILOGUE, TRANSPOSED, KEPT, A, A_PANEL, A_LAST_PANEL, A_LAST_WIDTH, B, DEPTH, LAST_PANEL, LAST_WIDTH,
    INIT, C, C_PANEL, OTHER, ACROSS,
) = range(18)  # fmt: skip
GATHER, PRODUCT, ELEMENTWISE, LOSS = range(4)


def n_groups(across: int) -> int:
    """Groups of threads, each of which has every n-th factor, where 2^across threads are side by side."""
    return min(MOST_GROUPS, THREADS >> across)


def most_inputs(dtype: str) -> int:
    """Columns of X that have room in shared memory."""
    return _sums_items(dtype) // ROWS


def _stored_row(dtype: str, across: int) -> int:
    """Numbers from a row of sums to the next; some more than there are columns, for eight rows are read at a time."""
    return ((1 << across) + 1) * vector_items(dtype)


def _sums_items(dtype: str) -> int:
    """Room for the sums of all groups of threads, and before that for the rows of X."""
    widest = (MOST_COLUMNS // vector_items(dtype)).bit_length() - 1
    return max(n_groups(across) * ROWS * _stored_row(dtype, across) for across in range(widest + 1))


def program(plan: Plan, kind_of) -> tuple[np.ndarray, tuple[str, ...]]:
    """The table of what a block does, and the names of the epilogues that it numbers; `kind_of` gives a record's kind,
    or None.
    """
    item, panel, lanes = plan.item, SIMD.panel(plan.dtype), vector_items(plan.dtype)
    rows: list[list[int]] = []
    names: list[str] = []
    kept = None  # the matrix whose rows are in shared memory
    for k, step in enumerate(step for phase in plan.phases for step in phase.steps):
        kind = kind_of(step)
        if kind is None:
            continue
        f, row = step.fields, [0] * len(FIELDS)
        row[RECORD], row[KIND], row[EPILOGUE] = k, kind, _number(names, step)
        row[LAST_PANEL], row[LAST_WIDTH] = f.get(R.N_PANELS, 1) - 1, f.get(R.LAST_WIDTH, 0)
        row[C], row[C_PANEL] = f[R.C].offset // item, f.get(R.C_PANEL_BYTES, 0) // item
        row[OTHER] = _offset(f.get(R.OTHER)) // item
        if kind == PRODUCT:
            depth, columns = f[R.DEPTH], row[LAST_PANEL] * panel + row[LAST_WIDTH]
            row[TRANSPOSED], row[KEPT] = f[R.B].buffer == "transposed", f[R.A] == kept
            row[A], row[A_PANEL] = f[R.A].offset // item, f.get(R.A_PANEL_BYTES, 0) // item
            row[A_LAST_PANEL], row[A_LAST_WIDTH] = (depth - 1) // panel, f[R.A_STRIDE_LAST] // item
            row[B], row[DEPTH] = f[R.B].offset // item, depth
            row[INIT] = f[R.INIT].offset // item if f.get(R.INIT) else -1
            row[ACROSS] = (-(-columns // lanes) - 1).bit_length()
            kept = f[R.OTHER] if Epilogue(names[row[EPILOGUE]], plan.dtype).apart else f[R.C]
        elif kind == GATHER:
            row[DEPTH], kept = f[R.N_FEATURES], f[R.C]
        else:
            row[A], kept = _offset(f.get(R.IN)) // item, None
        rows.append(row)
    return np.array(rows, np.int64), tuple(names)


def has_room(plan: Plan, over_rows: list[Step]) -> bool:
    """Whether no matrix of these records is wider than the kernel has room for: X may be, for one product reads it,
    at once, but all else is as narrow.
    """
    panel, products = SIMD.panel(plan.dtype), [step for step in over_rows if step.kernel == "product"]
    fits = all(step.fields[R.N_PANELS] * panel <= MOST_COLUMNS for step in products)
    return fits and plan.n_features <= most_inputs(plan.dtype)


def _number(names: list[str], step: Step) -> int:
    """Of a record's epilogue among the names, which it joins."""
    following = step.fields.get(R.EPILOGUE)
    name = following.name if isinstance(following, Kernel) else ""
    if name not in names:
        names.append(name)
    return names.index(name)


def _offset(ref) -> int:
    return ref.offset if ref else 0


@cuda_kernel
def rows_kernel(dtype: str, wide: bool, scaled: bool, epilogues: tuple[Epilogue, ...], loss: str):
    """Launched with a block of `THREADS` for each `ROWS` rows of the batch; `wide`: X has more columns than a layer may
    have.
    """
    T, panel, D, lanes = getattr(np, dtype), SIMD.panel(dtype), item_type[dtype], vector_items(dtype)
    log2_panel, n_sums, n_weights, n_fields = panel.bit_length() - 1, ROWS * lanes, AHEAD * lanes, len(FIELDS)
    two_records = 2 * n_fields
    of_sums = _sums_items(dtype)
    size = of_sums + MOST_COLUMNS * ROWS
    of_x = 0 if wide else of_sums  # where the rows of X are, and behind `of_sums` those of all other matrices
    down = THREADS // ROWS  # columns or vectors of a row from a thread's to its next
    finish_item = one_of(tuple(map(scalar_epilogue, epilogues)))
    fetch, finish = (one_of(of) for of in zip(*(vector_epilogue(e) for e in epilogues), strict=True))
    of_row = row_loss(dtype, loss, down, THREADS)

    @inlined
    def columns_of(fields, f):
        return fields[f + LAST_PANEL] * panel + fields[f + LAST_WIDTH]

    @inlined
    def position(fields, f):
        """A thread's vector of columns, its group, and how many of these there are."""
        across = fields[f + ACROSS]
        group, t = cuda.threadIdx.x >> across, cuda.threadIdx.x & ((1 << across) - 1)
        return t * lanes, group, min(MOST_GROUPS, THREADS >> across)

    @inlined
    def bring_vector(u, w, source, at, width, d, groups, depth):
        if d + u * groups < depth:
            copy_vector(w, u * lanes, source, at + (d + u * groups) * width)

    bring_vectors = unrolled(AHEAD, bring_vector)

    @inlined
    def bring(fields, f, begin, w, state, transposed):
        """The thread's vectors of weights, of its factors from `begin` on."""
        column, group, groups = position(fields, f)
        source = transposed if fields[f + TRANSPOSED] != 0 else state
        p, depth, last_panel = column >> log2_panel, fields[f + DEPTH], fields[f + LAST_PANEL]
        width = panel if p < last_panel else fields[f + LAST_WIDTH]
        at = fields[f + B] + p * panel * depth + column - (p << log2_panel)
        if group >= groups or column >= columns_of(fields, f):
            depth = 0
        bring_vectors(0, w, source, at, width, begin + group, groups, depth)

    @inlined
    def multiply_vector(u, sums, w, shared, a, d, groups):
        x = cuda.local.array(ROWS, D, BYTES)
        for i in range(0, ROWS, lanes):
            copy_vector(x, i, shared, a + (d + u * groups) * ROWS + i)
        for i in range(ROWS):
            for j in range(lanes):
                sums[i * lanes + j] += x[i] * w[u * lanes + j]

    @inlined
    def multiply_vector_within(u, sums, w, shared, a, d, groups, depth):
        if d + u * groups < depth:
            multiply_vector(u, sums, w, shared, a, d, groups)

    multiply_all, multiply_within = unrolled(SOME, multiply_vector), unrolled(SOME, multiply_vector_within)

    @inlined
    def multiply_some(some, sums, w, shared, a, d, groups, depth):
        u = some * SOME
        if d + (u + SOME - 1) * groups < depth:
            multiply_all(u, sums, w, shared, a, d, groups)
        else:
            multiply_within(u, sums, w, shared, a, d, groups, depth)

    multiply = unrolled(AHEAD // SOME, multiply_some)

    @inlined
    def keep(shared, place, column, i, x):
        """A vector of row i, where the next product finds it."""
        for j in range(lanes):
            put(shared, place + (column + j) * ROWS + i, x[j])

    @inlined
    def read_number(u, values, x, row, column, n, scale, offset):
        value = T(0)  # padding
        if column + u * down < n:
            value = T(x[row, column + u * down])
            if scaled:
                value = value * T(scale) + T(offset)
        values[u] = value

    @inlined
    def write_number(u, values, shared, work, fields, f, i, column, first_row, rows):
        column += u * down
        if column < columns_of(fields, f):
            p = column >> log2_panel
            width = panel if p < fields[f + LAST_PANEL] else fields[f + LAST_WIDTH]
            put(shared, of_x + column * ROWS + i, values[u])
            if first_row + i < rows:
                at = fields[f + C] + p * fields[f + C_PANEL] + (first_row + i) * width + column - (p << log2_panel)
                put(work, at, values[u])

    read_numbers, write_numbers = unrolled(TOGETHER, read_number), unrolled(TOGETHER, write_number)

    @inlined
    def gather(fields, f, shared, work, order, index, first, x, scale, offset, first_row, rows):
        i, values = cuda.threadIdx.x % ROWS, cuda.local.array(TOGETHER, D, BYTES)
        row, n = 0, 0
        if first_row + i < rows:
            row, n = data_row(order, index, first, first_row + i), fields[f + DEPTH]
        for column in range(cuda.threadIdx.x // ROWS, columns_of(fields, f), down * TOGETHER):
            read_numbers(0, values, x, row, column, n, scale, offset)
            write_numbers(0, values, shared, work, fields, f, i, column, first_row, rows)

    @inlined
    def fetch_a(fields, f, shared, work, first_row, rows):
        """The rows of A into shared memory, where the record before this one did not leave them."""
        i, x = cuda.threadIdx.x % ROWS, cuda.local.array(lanes, D, BYTES)
        columns = fields[f + A_LAST_PANEL] * panel + fields[f + A_LAST_WIDTH]
        for column in range(cuda.threadIdx.x // ROWS * lanes, columns, down * lanes):
            p = column >> log2_panel
            width = panel if p < fields[f + A_LAST_PANEL] else fields[f + A_LAST_WIDTH]
            for j in range(lanes):
                x[j] = T(0)
            if first_row + i < rows:
                at = fields[f + A] + p * fields[f + A_PANEL] + (first_row + i) * width + column - (p << log2_panel)
                copy_vector(x, 0, work, at)
            keep(shared, of_sums, column, i, x)

    @inlined
    def add_up(fields, f, shared, work, state, first_row, rows, number):
        """The sums of all groups, the epilogue, and the results to where they belong."""
        across, columns = fields[f + ACROSS], columns_of(fields, f)
        i, groups, stored = cuda.threadIdx.x % ROWS, min(MOST_GROUPS, THREADS >> across), ((1 << across) + 1) * lanes
        total, x, o = (
            cuda.local.array(lanes, D, BYTES), cuda.local.array(lanes, D, BYTES), cuda.local.array(lanes, D, BYTES)
        )  # fmt: skip
        for column in range(cuda.threadIdx.x // ROWS * lanes, columns, down * lanes):
            p = column >> log2_panel
            width = panel if p < fields[f + LAST_PANEL] else fields[f + LAST_WIDTH]
            at = p * fields[f + C_PANEL] + (first_row + i) * width + column - (p << log2_panel)
            c, other = fields[f + C] + at, fields[f + OTHER] + at
            inside = first_row + i < rows
            if inside:
                fetch(fields[f + EPILOGUE], o, 0, work, other)
            for j in range(lanes):
                total[j] = T(0)
            if fields[f + INIT] >= 0:
                copy_vector(total, 0, state, fields[f + INIT] + column)
            for group in range(groups):
                copy_vector(x, 0, shared, (group * ROWS + i) * stored + column)
                for j in range(lanes):
                    total[j] += x[j]
            if inside:
                finish(fields[f + EPILOGUE], work, c, other, total, o, 0, number)
            keep(shared, of_sums, column, i, total)

    @inlined
    def elementwise(fields, f, work, first_row, rows, number):
        last_panel, last_width, panel_items = fields[f + LAST_PANEL], fields[f + LAST_WIDTH], fields[f + C_PANEL]
        columns = columns_of(fields, f)
        for e in range(cuda.threadIdx.x, (min(first_row + ROWS, rows) - first_row) * columns, THREADS):
            at = place(first_row + e // columns, e % columns, panel, last_panel, panel_items, last_width)
            z = work[fields[f + A] + at]
            finish_item(fields[f + EPILOGUE], work, fields[f + C] + at, fields[f + OTHER] + at, z, number)

    def rows_kernel(
        control, steps, scalars, table, numbers, todo, n, work, state, transposed, order, x, y, weights, of_loss,
        row_losses, scale, offset,
    ):  # fmt: skip
        t, step = cuda.threadIdx.x, control[STEP]
        first_row, rows = cuda.blockIdx.x * ROWS, steps[step, R.STEP_ROWS]
        if failed_before(control) or first_row >= rows:
            return
        index, first = steps[step, R.STEP_INDEX], steps[step, R.STEP_FIRST]
        if first_row == 0 and t == 0:
            control[STEP_OF_UPDATES] = step
        shared = cuda.shared.array(size, D, BYTES)
        fields = cuda.shared.array(two_records, types.int64)
        sums, w = cuda.local.array(n_sums, D, BYTES), cuda.local.array(n_weights, D, BYTES)
        if t < n_fields:
            fields[t] = todo[0, t]
        cuda.syncthreads()
        f, a = 0, of_x
        for r in range(n):
            kind, k = fields[f + KIND], fields[f + RECORD]
            following = n_fields - f
            to_do = 0
            if t < n_fields and r + 1 < n:
                to_do = todo[r + 1, t]
            if kind == PRODUCT:
                if fields[f + KEPT] == 0:
                    fetch_a(fields, f, shared, work, first_row, rows)
                    a = of_sums
                    cuda.syncthreads()
                column, group, groups = position(fields, f)
                begin, depth = 0, fields[f + DEPTH]
                own_depth = depth if group < groups else 0
                for e in range(n_sums):
                    sums[e] = T(0)
                while True:
                    multiply(0, sums, w, shared, a, begin + group, groups, own_depth)
                    begin += AHEAD * groups
                    if begin >= depth:
                        break
                    bring(fields, f, begin, w, state, transposed)
            if t < n_fields and r + 1 < n:
                fields[following + t] = to_do
            cuda.syncthreads()  # nobody reads A any more, and all know what comes next
            if kind == PRODUCT:
                column, group, groups = position(fields, f)
                stored = ((1 << fields[f + ACROSS]) + 1) * lanes
                if group < groups:
                    for i in range(ROWS):
                        copy_vector(shared, (group * ROWS + i) * stored + column, sums, i * lanes)
            if r + 1 < n and fields[following + KIND] == PRODUCT:
                bring(fields, following, 0, w, state, transposed)
            if kind == PRODUCT:
                cuda.syncthreads()
                add_up(fields, f, shared, work, state, first_row, rows, T(numbers[k]))
                a = of_sums
            elif kind == GATHER:
                gather(fields, f, shared, work, order, index, first, x, scale, offset, first_row, rows)
                a = of_x
            elif kind == ELEMENTWISE:
                elementwise(fields, f, work, first_row, rows, T(numbers[k]))
            else:
                of_weight, i, row = T(scalars[steps[step, R.STEP_SCALARS] + R.SCALE]), first_row + t // down, 0
                if i < rows:
                    row = data_row(order, index, first, i)
                inside = i < rows
                of_row(control, table, k, i, row, inside, y, weights, of_loss, of_weight, work, row_losses, shared)
            cuda.syncthreads()
            f = following

    return rows_kernel
