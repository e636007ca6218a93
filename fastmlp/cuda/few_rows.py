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
from .functions import cuda_kernel, data_row, failed_before, inlined, item_type, one_of, unrolled
from .loss_kernels import row_loss
from .vectors import BYTES, copy_vector, get, put, vector_items

if TINY:
    ROWS, LOG2_THREADS, MOST_COLUMNS, LOG2_GROUPS, LEAST_GROUPS, AHEAD, SOME, TOGETHER = 4, 5, 32, 2, 2, 4, 2, 3
else:
    ROWS, LOG2_THREADS, MOST_COLUMNS = 8, 8, 128  # of a block, and of a matrix but for the batch itself
    LOG2_GROUPS = 4  # of threads, which share out the factors: their sums are added one after the other
    LEAST_GROUPS = 4  # the sums of so many at a time
    AHEAD = 8  # vectors of weights that a thread has on their way
    SOME = 4  # of them are multiplied without a look at each
    TOGETHER = 16  # numbers of X that a thread has on their way
THREADS = 2**LOG2_THREADS

# What a block does, a row for each record: which it is, what kind of work; places are numbers from the start of a
# buffer. ACROSS is the logarithm of the threads side by side, KEPT whether A is in shared memory.
FIELDS = (
    RECORD, KIND, EPILOGUE, TRANSPOSED, KEPT, A, A_PANEL, A_LAST_PANEL, A_LAST_WIDTH, B, DEPTH, LAST_PANEL, LAST_WIDTH,
    INIT, C, C_PANEL, OTHER, ACROSS,
) = range(18)  # fmt: skip
GATHER, PRODUCT, ELEMENTWISE, LOSS = range(4)


def n_groups(across: int) -> int:
    """Groups of threads, each of which has every n-th factor, where 2^across threads are side by side."""
    return 1 << min(LOG2_GROUPS, LOG2_THREADS - across)


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
    of_sums, two_records, down = _sums_items(dtype), 2 * n_fields, THREADS // ROWS
    size = of_sums + MOST_COLUMNS * ROWS
    of_x = 0 if wide else of_sums  # where the rows of X are, and behind `of_sums` those of all other matrices
    n_own = -(-ROWS * MOST_COLUMNS // (lanes * THREADS))  # vectors of results that a thread may have
    n_others, panels_down = n_own * lanes, down // panel
    assert panels_down * panel == down
    finish_item = one_of(tuple(map(scalar_epilogue, epilogues)))
    fetch, finish = (one_of(of) for of in zip(*(vector_epilogue(e) for e in epilogues), strict=True))
    of_row = row_loss(dtype, loss, down, THREADS)

    @inlined
    def place_of(column, row, last_panel, last_width, panel_items):
        p = column >> log2_panel
        return p * panel_items + row * (panel if p < last_panel else last_width) + column - (p << log2_panel)

    # Weights ---------------------------------------------------------------------------------------------------------

    @inlined
    def bring_vector(u, w, source, at, distance, left):
        if u < left:
            copy_vector(w, u * lanes, source, at + u * distance)

    bring_vectors = unrolled(AHEAD, bring_vector)

    @inlined
    def factors_left(fields, f, begin):
        """Of a thread's group, from `begin` on."""
        across, depth = get(fields, f + ACROSS), get(fields, f + DEPTH)
        group, log2_groups = cuda.threadIdx.x >> across, min(LOG2_GROUPS, LOG2_THREADS - across)
        groups = 1 << log2_groups
        left = (depth - begin - group + groups - 1) >> log2_groups
        return np.int32(left if group < groups else 0)

    @inlined
    def bring(fields, f, begin, w, start, state, transposed):
        """A thread's vectors of weights, of its factors from `begin` on, and what its sums start from."""
        across, depth, last_panel, last_width = (
            get(fields, f + ACROSS), get(fields, f + DEPTH), get(fields, f + LAST_PANEL), get(fields, f + LAST_WIDTH)
        )  # fmt: skip
        b, init, from_transposed = get(fields, f + B), get(fields, f + INIT), get(fields, f + TRANSPOSED) != 0
        column, group = (cuda.threadIdx.x & ((1 << across) - 1)) * lanes, cuda.threadIdx.x >> across
        width, inside = panel, column < last_panel * panel + last_width
        if column >> log2_panel >= last_panel:
            width = last_width
        at = b + place_of(column, begin + group, last_panel, last_width, panel * depth)
        left = factors_left(fields, f, begin) if inside else np.int32(0)
        distance = width << min(LOG2_GROUPS, LOG2_THREADS - across)
        bring_vectors(0, w, transposed if from_transposed else state, at, distance, left)
        if begin == 0:
            for j in range(lanes):
                start[j] = T(0)
            if init >= 0 and group == 0 and inside:
                copy_vector(start, 0, state, init + column)

    # Products --------------------------------------------------------------------------------------------------------

    @inlined
    def multiply_vector(u, sums, w, shared, a, distance):
        x = cuda.local.array(ROWS, D, BYTES)
        for i in range(0, ROWS, lanes):
            copy_vector(x, i, shared, a + u * distance + i)
        for i in range(ROWS):
            for j in range(lanes):
                sums[i * lanes + j] += x[i] * w[u * lanes + j]

    @inlined
    def multiply_vector_if(u, sums, w, shared, a, distance, left):
        if u < left:
            multiply_vector(u, sums, w, shared, a, distance)

    multiply_all, multiply_left = unrolled(SOME, multiply_vector), unrolled(SOME, multiply_vector_if)

    @inlined
    def multiply_some(some, sums, w, shared, a, distance, left):
        u = some * SOME
        if u + SOME <= left:
            multiply_all(u, sums, w, shared, a, distance)
        elif u < left:
            multiply_left(u, sums, w, shared, a, distance, left)

    multiply_each = unrolled(AHEAD // SOME, multiply_some)

    @inlined
    def multiply(fields, f, begin, sums, w, shared, a):
        """A thread's vectors of weights times its factors of all rows; how many more factors its block has."""
        across = get(fields, f + ACROSS)
        group, log2_groups = cuda.threadIdx.x >> across, min(LOG2_GROUPS, LOG2_THREADS - across)
        left = factors_left(fields, f, begin)
        multiply_each(0, sums, w, shared, a + (begin + group) * ROWS, ROWS << log2_groups, left)
        return begin + (AHEAD << log2_groups)

    @inlined
    def keep(shared, place, column, i, x):
        """A vector of row i, where the next product finds it."""
        for j in range(lanes):
            put(shared, place + (column + j) * ROWS + i, x[j])

    @inlined
    def fetch_a(fields, f, shared, work, first_row, rows):
        """The rows of A into shared memory, where the record before this one did not leave them."""
        i, x = cuda.threadIdx.x % ROWS, cuda.local.array(lanes, D, BYTES)
        a, panel_items, last_panel, last_width = (
            get(fields, f + A), get(fields, f + A_PANEL), get(fields, f + A_LAST_PANEL), get(fields, f + A_LAST_WIDTH)
        )  # fmt: skip
        for column in range(cuda.threadIdx.x // ROWS * lanes, last_panel * panel + last_width, down * lanes):
            for j in range(lanes):
                x[j] = T(0)
            if first_row + i < rows:
                copy_vector(x, 0, work, a + place_of(column, first_row + i, last_panel, last_width, panel_items))
            keep(shared, of_sums, column, i, x)

    @inlined
    def fetch_vector(u, o, which, work, other, row, rows, last_panel, last_width, panel_items):
        column = (cuda.threadIdx.x // ROWS + u * down) * lanes
        if row < rows and column < last_panel * panel + last_width:
            fetch(which, o, u * lanes, work, other + place_of(column, row, last_panel, last_width, panel_items))

    fetch_vectors = unrolled(n_own, fetch_vector)

    @inlined
    def fetch_other(fields, f, o, work, row, rows):
        """What the epilogue of a thread's results reads."""
        last_panel, last_width, panel_items = (
            get(fields, f + LAST_PANEL), get(fields, f + LAST_WIDTH), get(fields, f + C_PANEL)
        )  # fmt: skip
        which, other = get(fields, f + EPILOGUE), get(fields, f + OTHER)
        fetch_vectors(0, o, which, work, other, row, rows, last_panel, last_width, panel_items)

    @inlined
    def put_sums(fields, f, shared, sums):
        """A thread's sums to where those of all groups are added."""
        across = get(fields, f + ACROSS)
        group, column = cuda.threadIdx.x >> across, (cuda.threadIdx.x & ((1 << across) - 1)) * lanes
        stored = ((1 << across) + 1) * lanes
        if group < 1 << min(LOG2_GROUPS, LOG2_THREADS - across):
            for i in range(ROWS):
                copy_vector(shared, (group * ROWS + i) * stored + column, sums, i * lanes)

    @inlined
    def add_vector(some, total, shared, place, distance):
        x = cuda.local.array(lanes, D, BYTES)
        copy_vector(x, 0, shared, place + some * distance)
        for j in range(lanes):
            total[j] += x[j]

    add_vectors = unrolled(LEAST_GROUPS, add_vector)

    @inlined
    def finish_vector(
        u, o, which, shared, work, c, other, row, rows, last_panel, last_width, panel_items, across, number
    ):  # fmt: skip
        column, i, total = (
            (cuda.threadIdx.x // ROWS + u * down) * lanes, cuda.threadIdx.x % ROWS, cuda.local.array(lanes, D, BYTES)
        )  # fmt: skip
        stored, groups = ((1 << across) + 1) * lanes, 1 << min(LOG2_GROUPS, LOG2_THREADS - across)
        if column < last_panel * panel + last_width:
            for j in range(lanes):
                total[j] = T(0)
            for group in range(0, groups, LEAST_GROUPS):
                add_vectors(0, total, shared, (group * ROWS + i) * stored + column, ROWS * stored)
            if row < rows:
                at = place_of(column, row, last_panel, last_width, panel_items)
                finish(which, work, c + at, other + at, total, o, u * lanes, number)
            keep(shared, of_sums, column, i, total)

    finish_vectors = unrolled(n_own, finish_vector)

    @inlined
    def add_up(fields, f, o, shared, work, row, rows, number):
        """The sums of all groups, the epilogue, and the results to where they belong."""
        last_panel, last_width, panel_items, across = (
            get(fields, f + LAST_PANEL), get(fields, f + LAST_WIDTH), get(fields, f + C_PANEL), get(fields, f + ACROSS)
        )  # fmt: skip
        which, c, other = get(fields, f + EPILOGUE), get(fields, f + C), get(fields, f + OTHER)
        rest = row, rows, last_panel, last_width, panel_items, across, number
        finish_vectors(0, o, which, shared, work, c, other, *rest)

    # Other kinds -----------------------------------------------------------------------------------------------------

    @inlined
    def read_number(u, values, x, at, left, scale, offset):
        value = T(0)  # padding
        if u * down < left:
            value = T(get(x, at + u * down))
            if scaled:
                value = value * T(scale) + T(offset)
        values[u] = value

    @inlined
    def write_number(u, values, shared, work, place, at, panels_left, panel_items, of_last, left, inside):
        if u * down < left:
            put(shared, place + u * (down * ROWS), values[u])
            if inside:
                last = of_last if u * panels_down >= panels_left else 0
                put(work, at + u * panels_down * panel_items + last, values[u])

    read_numbers, write_numbers = unrolled(TOGETHER, read_number), unrolled(TOGETHER, write_number)

    @inlined
    def gather(fields, f, shared, work, x, of_data, scale, offset, row, rows):
        """Each thread brings every n-th number of a row, some at a time, all of them before one is written."""
        n, last_panel, last_width, c, panel_items = (
            get(fields, f + DEPTH), get(fields, f + LAST_PANEL), get(fields, f + LAST_WIDTH), get(fields, f + C),
            get(fields, f + C_PANEL),
        )  # fmt: skip
        values, inside, columns = cuda.local.array(TOGETHER, D, BYTES), row < rows, last_panel * panel + last_width
        for column in range(cuda.threadIdx.x // ROWS, columns, TOGETHER * down):
            p = column >> log2_panel
            at, place = c + place_of(column, row, p + 1, panel, panel_items), of_x + column * ROWS
            read_numbers(0, values, x, of_data * n + column, n - column if inside else 0, scale, offset)
            write_numbers(
                0, values, shared, work, place + cuda.threadIdx.x % ROWS, at, last_panel - p, panel_items,
                row * (last_width - panel), columns - column, inside,
            )  # fmt: skip

    @inlined
    def elementwise(fields, f, work, first_row, rows, number):
        last_panel, last_width, panel_items = (
            get(fields, f + LAST_PANEL), get(fields, f + LAST_WIDTH), get(fields, f + C_PANEL)
        )  # fmt: skip
        which, a, c, other = get(fields, f + EPILOGUE), get(fields, f + A), get(fields, f + C), get(fields, f + OTHER)
        row = first_row + cuda.threadIdx.x % ROWS
        for column in range(cuda.threadIdx.x // ROWS, last_panel * panel + last_width, down):
            if row < rows:
                at = place_of(column, row, last_panel, last_width, panel_items)
                finish_item(which, work, c + at, other + at, get(work, a + at), number)

    def rows_kernel(
        control, steps, scalars, table, numbers, todo, n, work, state, transposed, order, x, y, weights, of_loss,
        row_losses, scale, offset,
    ):  # fmt: skip
        t, step, to_do, number = cuda.threadIdx.x, control[STEP], 0, T(0)
        if t < n_fields:
            to_do = todo[0, t]
        first_row, rows, index, first = (
            cuda.blockIdx.x * ROWS, steps[step, R.STEP_ROWS], steps[step, R.STEP_INDEX], steps[step, R.STEP_FIRST]
        )  # fmt: skip
        row, of_loss_row, of_weight = (
            first_row + t % ROWS, first_row + t // down, T(scalars[steps[step, R.STEP_SCALARS] + R.SCALE])
        )  # fmt: skip
        of_data, of_targets = 0, 0  # rows of the data
        if row < rows:
            of_data = data_row(order, index, first, row)
        if of_loss_row < rows:
            of_targets = data_row(order, index, first, of_loss_row)
        if failed_before(control) or first_row >= rows:
            return
        if first_row == 0 and t == 0:
            control[STEP_OF_UPDATES] = step
        shared = cuda.shared.array(size, D, BYTES)
        fields = cuda.shared.array(two_records, types.int64)
        sums, w, start, o = (
            cuda.local.array(n_sums, D, BYTES), cuda.local.array(n_weights, D, BYTES),
            cuda.local.array(lanes, D, BYTES), cuda.local.array(n_others, D, BYTES),
        )  # fmt: skip
        if t < n_fields:
            put(fields, t, to_do)
        cuda.syncthreads()
        f, a, r, begin = 0, of_x, 0, 0
        while r < n:
            kind, k, following, more = get(fields, f + KIND), get(fields, f + RECORD), n_fields - f, False
            if begin == 0:
                number = T(numbers[k])
                if t < n_fields and r + 1 < n:
                    to_do = todo[r + 1, t]
            if kind == PRODUCT:
                if begin == 0:
                    fetch_other(fields, f, o, work, row, rows)
                    if get(fields, f + KEPT) == 0:
                        fetch_a(fields, f, shared, work, first_row, rows)
                        a = of_sums
                        cuda.syncthreads()
                    for i in range(ROWS):
                        for j in range(lanes):
                            sums[i * lanes + j] = start[j]
                begin = multiply(fields, f, begin, sums, w, shared, a)
                more = begin < get(fields, f + DEPTH)
            if not more:
                begin = 0
                if t < n_fields and r + 1 < n:
                    put(fields, following + t, to_do)
                cuda.syncthreads()  # nobody reads A any more, and all know what comes next
                if kind == PRODUCT:
                    put_sums(fields, f, shared, sums)
            coming = f if more else following
            if more or r + 1 < n:
                if get(fields, coming + KIND) == PRODUCT:
                    bring(fields, coming, begin, w, start, state, transposed)
            if not more:
                if kind == PRODUCT:
                    cuda.syncthreads()
                    add_up(fields, f, o, shared, work, row, rows, number)
                    a = of_sums
                elif kind == GATHER:
                    gather(fields, f, shared, work, x, of_data, scale, offset, row, rows)
                elif kind == ELEMENTWISE:
                    elementwise(fields, f, work, first_row, rows, number)
                else:
                    i, inside = of_loss_row, of_loss_row < rows
                    of_row(
                        control, table, k, i, of_targets, inside, y, weights, of_loss, of_weight, work, row_losses,
                        shared,
                    )  # fmt: skip
                cuda.syncthreads()
                f = following
                r += 1

    return rows_kernel
