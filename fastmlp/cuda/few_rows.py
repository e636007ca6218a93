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

from functools import cache

import numpy as np
from numba import cuda, types

from .. import records as R
from ..plan import Kernel, Plan, Step
from .device import SIMD, STEP, STEP_OF_UPDATES, TINY
from .dropout import masking
from .elementwise import Epilogue, scalar_epilogue, vector_epilogue
from .functions import cuda_kernel, data_row, failed_before, inlined, item_type, one_of, unrolled
from .loss_kernels import code_of, row_loss
from .vectors import BYTES, copy_vector, get, put, vector_items

I = np.int32  # of places, which takes half the instructions of int64; Numba makes int64 of all sums and products
if TINY:
    ROWS, LOG2_THREADS, MOST_COLUMNS, LOG2_GROUPS, LEAST_GROUPS, AHEAD, SOME, TOGETHER = 4, 5, 32, 2, 2, 4, 1, 3
else:
    ROWS, LOG2_THREADS, MOST_COLUMNS = 8, 8, 128  # of a block, and of a matrix but for the batch itself
    LOG2_GROUPS = 4  # of threads, which share out the factors: their sums are added one after the other
    LEAST_GROUPS = 4  # the sums of so many at a time
    AHEAD = 16  # vectors of weights that a thread has in its registers: half of them on their way, or all
    SOME = 4  # of them are multiplied without a look at each
    TOGETHER = 16  # numbers of X that a thread has on their way
THREADS = 2**LOG2_THREADS

# What a block does, a row for each record: which it is, what kind of work; places are numbers from the start of a
# buffer. ACROSS is the logarithm of the threads side by side, and GROUPS that of the groups of them; KEPT is whether A,
# or the logits, or what is dropped of, are in shared memory. A loss and a dropout have their own facts where a product
# has what they do not.
FIELDS = (
    RECORD, KIND, EPILOGUE, TRANSPOSED, KEPT, A, A_PANEL, A_LAST_PANEL, A_LAST_WIDTH, B, DEPTH, LAST_PANEL, LAST_WIDTH,
    INIT, C, C_PANEL, OTHER, ACROSS, GROUPS,
) = range(19)  # fmt: skip
OUTPUTS, WEIGHTED, WITH_GRADIENT, ROW_DATA = DEPTH, TRANSPOSED, INIT, B
LAYER, GROUP = B, INIT  # of a dropout, whose columns are `OUTPUTS`
GATHER, PRODUCT, ELEMENTWISE, DROPOUT, LOSS = range(5)


def n_groups(across: int) -> int:
    """Groups of threads, each of which has every n-th factor, where 2^across threads are side by side."""
    return 1 << max(0, min(LOG2_GROUPS, LOG2_THREADS - across))  # 0: wider than here, for the kernel of many rows


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


def program(plan: Plan, kind_of) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...], np.ndarray]:
    """The table of what a block does; the names of the epilogues that it numbers, and of the kinds of dropout; and each
    record's own number, for epilogues. `kind_of` gives a record's kind, or None.
    """
    item, panel, lanes = plan.item, SIMD.panel(plan.dtype), vector_items(plan.dtype)
    rows: list[list[int]] = []
    names: list[str] = []
    dropouts: list[str] = []
    numbers: list[int] = []
    kept = None  # the matrix whose rows are in shared memory
    for k, step in enumerate(step for phase in plan.phases for step in phase.steps):
        kind = kind_of(step)
        if kind is None:
            continue
        f, row = step.fields, [0] * len(FIELDS)
        following = f.get(R.EPILOGUE)
        row[RECORD], row[KIND] = k, kind
        row[EPILOGUE] = _place_in(names, following.name if isinstance(following, Kernel) else "")
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
            row[GROUPS] = n_groups(row[ACROSS]).bit_length() - 1
            kept = f[R.OTHER] if Epilogue(names[row[EPILOGUE]], plan.dtype).apart else f[R.C]
        elif kind == GATHER:
            row[DEPTH], kept = f[R.N_FEATURES], f[R.C]
        elif kind == DROPOUT:
            row[OUTPUTS], row[LAYER], row[GROUP], row[KEPT] = f[R.N_OUT], f[R.LAYER], _group(f), f[R.IN] == kept
            row[EPILOGUE] = _place_in(dropouts, step.kernel)
            row[A], row[A_PANEL], row[A_LAST_PANEL] = f[R.IN].offset // item, row[C_PANEL], row[LAST_PANEL]
            row[A_LAST_WIDTH], kept = row[LAST_WIDTH], f[R.C]
        elif kind == LOSS:
            row[OUTPUTS], row[WEIGHTED], row[WITH_GRADIENT] = f[R.N_OUT], bool(f.get(R.SW)), f[R.WITH_GRADIENT]
            row[ROW_DATA], row[KEPT] = _offset(f.get(R.ROW_DATA)) // item, f[R.C] == kept
            row[A], row[A_PANEL], row[A_LAST_PANEL] = row[C], row[C_PANEL], row[LAST_PANEL]
            row[A_LAST_WIDTH], kept = row[LAST_WIDTH], f[R.C]
        else:
            row[A], kept = _offset(f.get(R.IN)) // item, None
        rows.append(row)
        numbers.append(f.get(R.NUMBER, 0))
    own_numbers = np.array(numbers, np.int64).view(np.float64).astype(plan.dtype)
    return np.array(rows, np.int32), tuple(names), tuple(dropouts), own_numbers


def has_room(plan: Plan, over_rows: list[Step]) -> bool:
    """Whether no matrix of these records is wider than the kernel has room for. X may be, and what dropout leaves of
    it, if one product reads it, at once; a record of another kind that is as wide would have it come from memory again.
    """
    panels = MOST_COLUMNS // SIMD.panel(plan.dtype)
    fits = all(step.fields[R.N_PANELS] <= panels for step in over_rows if step.kernel in ("product", "elementwise"))
    return fits and plan.n_features <= most_inputs(plan.dtype)


def _place_in(names: list[str], name: str) -> int:
    """Where a name is among them, which it joins."""
    if name not in names:
        names.append(name)
    return names.index(name)


def _group(fields: dict) -> int:
    """Where the numbers of a dropout's group are in a step's, 0 where it follows no schedule."""
    return fields.get(R.GROUP, 0) // 8


def _offset(ref) -> int:
    return ref.offset if ref else 0


@cuda_kernel
def rows_kernel(
    dtype: str, wide: bool, scaled: bool, epilogues: tuple[Epilogue, ...], dropouts: tuple[str, ...], loss: str
):
    """Launched with a block of `THREADS` for each `ROWS` rows of the batch; `wide`: X has more columns than a layer may
    have.
    """
    T, panel, D, lanes = getattr(np, dtype), SIMD.panel(dtype), item_type[dtype], vector_items(dtype)
    log2_panel, n_sums, n_weights, n_fields = panel.bit_length() - 1, ROWS * lanes, AHEAD * lanes, len(FIELDS)
    of_sums, n_slots, down, half = _sums_items(dtype), 3 * n_fields, THREADS // ROWS, AHEAD // 2
    size = of_sums + MOST_COLUMNS * ROWS
    of_x = 0 if wide else of_sums  # where the rows of X are, and behind `of_sums` those of all other matrices
    n_own = -(-ROWS * MOST_COLUMNS // (lanes * THREADS))  # vectors of results that a thread may have
    n_others, panels_down = n_own * lanes, down // panel
    assert panels_down * panel == down
    finish_item = one_of(tuple(map(scalar_epilogue, epilogues)))
    fetch, finish = (one_of(of) for of in zip(*(vector_epilogue(e) for e in epilogues), strict=True))
    code_of_row = code_of(loss)

    @inlined
    def place_of(column, row, last_panel, last_width, panel_items):
        p = I(column >> log2_panel)
        width = I(panel) if p < last_panel else last_width
        return I(p * panel_items + row * width + column - (p << log2_panel))

    # Weights ---------------------------------------------------------------------------------------------------------

    @inlined
    def position(fields, f):
        """Of a thread: its vector of columns, and its group."""
        across = get(fields, f + ACROSS) & 31
        return I((cuda.threadIdx.x & ((1 << across) - 1)) * lanes), I(cuda.threadIdx.x >> across)

    @inlined
    def factors_left(fields, f, begin, group):
        """Of a thread's group, from `begin` on; none of a group that is not."""
        log2_groups = get(fields, f + GROUPS) & 31
        left = I((get(fields, f + DEPTH) - begin - group + (1 << log2_groups) - 1) >> log2_groups)
        return left if group >> log2_groups == 0 else I(0)

    @inlined
    def weights_of(fields, f, begin):
        """Where a thread's first vector of weights is, of its factors from `begin` on, how far it is to the next, how
        many there are, and where its vector of the bias is, or -1: only the first group adds it.
        """
        column, group = position(fields, f)
        depth, last_panel, last_width = (
            get(fields, f + DEPTH), get(fields, f + LAST_PANEL), get(fields, f + LAST_WIDTH)
        )  # fmt: skip
        at = I(get(fields, f + B) + place_of(column, I(begin + group), last_panel, last_width, I(depth * panel)))
        width = I(panel) if column >> log2_panel < last_panel else last_width
        inside = column < last_panel * panel + last_width
        left = factors_left(fields, f, begin, group) if inside else I(0)
        init = get(fields, f + INIT)
        of_bias = I(init + column) if inside and init >= 0 and begin + group == 0 else I(-1)
        return at, I(width << (get(fields, f + GROUPS) & 31)), left, of_bias

    @inlined
    def bring_vector(u, w, source, at, distance, left):
        if u < left:
            copy_vector(w, u * lanes, source, I(at + u * distance))

    bring_half = unrolled(half, bring_vector)

    # Products --------------------------------------------------------------------------------------------------------

    @inlined
    def multiply_vector(u, sums, w, shared, a, distance):
        x = cuda.local.array(ROWS, D, BYTES)
        for i in range(0, ROWS, lanes):
            copy_vector(x, i, shared, I(a + u * distance + i))
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

    multiply_half = unrolled(half // SOME, multiply_some)

    @inlined
    def keep(shared, column, i, x):
        """A vector of row i, where the next product finds it."""
        for j in range(lanes):
            put(shared, I(of_sums + (column + j) * ROWS + i), x[j])

    @inlined
    def fetch_a(fields, f, shared, work, row, rows):
        """The rows of A into shared memory, where the record before this one did not leave them."""
        i, x = I(cuda.threadIdx.x % ROWS), cuda.local.array(lanes, D, BYTES)
        a, panel_items, last_panel, last_width = (
            get(fields, f + A), get(fields, f + A_PANEL), get(fields, f + A_LAST_PANEL), get(fields, f + A_LAST_WIDTH)
        )  # fmt: skip
        column = I(cuda.threadIdx.x // ROWS * lanes)
        while column < last_panel * panel + last_width:
            for j in range(lanes):
                x[j] = T(0)
            if row < rows:
                copy_vector(x, 0, work, I(a + place_of(column, row, last_panel, last_width, panel_items)))
            keep(shared, column, i, x)
            column = I(column + down * lanes)

    @inlined
    def fetch_vector(u, o, which, work, other, row, rows, last_panel, last_width, panel_items):
        column = I((cuda.threadIdx.x // ROWS + u * down) * lanes)
        if row < rows and column < last_panel * panel + last_width:
            fetch(which, o, u * lanes, work, I(other + place_of(column, row, last_panel, last_width, panel_items)))

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
        column, group = position(fields, f)
        stored = I(((1 << (get(fields, f + ACROSS) & 31)) + 1) * lanes)
        if group >> (get(fields, f + GROUPS) & 31) == 0:
            for i in range(ROWS):
                copy_vector(shared, I((group * ROWS + i) * stored + column), sums, i * lanes)

    @inlined
    def add_vector(some, total, shared, place, distance):
        x = cuda.local.array(lanes, D, BYTES)
        copy_vector(x, 0, shared, I(place + some * distance))
        for j in range(lanes):
            total[j] += x[j]

    add_vectors = unrolled(LEAST_GROUPS, add_vector)

    @inlined
    def finish_vector(
        u, o, which, shared, work, c, other, row, rows, last_panel, last_width, panel_items, across, log2_groups, number
    ):  # fmt: skip
        column, i = I((cuda.threadIdx.x // ROWS + u * down) * lanes), I(cuda.threadIdx.x % ROWS)
        stored, total = I(((1 << (across & 31)) + 1) * lanes), cuda.local.array(lanes, D, BYTES)
        if column < last_panel * panel + last_width:
            for j in range(lanes):
                total[j] = T(0)
            place, distance = I(i * stored + column), I(ROWS * stored)
            end = I(place + (distance << (log2_groups & 31)))
            while place < end:
                add_vectors(0, total, shared, place, distance)
                place = I(place + LEAST_GROUPS * distance)
            if row < rows:
                at = place_of(column, row, last_panel, last_width, panel_items)
                finish(which, work, I(c + at), I(other + at), total, o, u * lanes, number)
            keep(shared, column, i, total)

    finish_vectors = unrolled(n_own, finish_vector)

    @inlined
    def add_up(fields, f, o, shared, work, row, rows, number):
        """The sums of all groups, the epilogue, and the results to where they belong."""
        last_panel, last_width, panel_items, across, log2_groups = (
            get(fields, f + LAST_PANEL), get(fields, f + LAST_WIDTH), get(fields, f + C_PANEL), get(fields, f + ACROSS),
            get(fields, f + GROUPS),
        )  # fmt: skip
        which, c, other = get(fields, f + EPILOGUE), get(fields, f + C), get(fields, f + OTHER)
        rest = row, rows, last_panel, last_width, panel_items, across, log2_groups, number
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
            put(shared, I(place + u * (down * ROWS)), values[u])
            if inside:
                last = of_last if u * panels_down >= panels_left else I(0)
                put(work, I(at + u * panels_down * panel_items + last), values[u])

    read_numbers, write_numbers = unrolled(TOGETHER, read_number), unrolled(TOGETHER, write_number)

    @inlined
    def gather(fields, f, shared, work, x, of_data, scale, offset, row, rows):
        """Each thread brings every n-th number of a row, some at a time, all of them before one is written."""
        n, last_panel, last_width, c, panel_items = (
            get(fields, f + DEPTH), get(fields, f + LAST_PANEL), get(fields, f + LAST_WIDTH), get(fields, f + C),
            get(fields, f + C_PANEL),
        )  # fmt: skip
        values, inside, columns = cuda.local.array(TOGETHER, D, BYTES), row < rows, last_panel * panel + last_width
        column = I(cuda.threadIdx.x // ROWS)
        while column < columns:
            p = I(column >> log2_panel)
            at = I(c + place_of(column, row, I(p + 1), I(panel), panel_items))
            place = I(of_x + column * ROWS + cuda.threadIdx.x % ROWS)
            read_numbers(0, values, x, of_data * n + column, I(n - column if inside else 0), scale, offset)
            write_numbers(
                0, values, shared, work, place, at, I(last_panel - p), panel_items, I(row * (last_width - panel)),
                I(columns - column), inside,
            )  # fmt: skip
            column = I(column + TOGETHER * down)

    @inlined
    def elementwise(fields, f, work, row, rows, number):
        last_panel, last_width, panel_items = (
            get(fields, f + LAST_PANEL), get(fields, f + LAST_WIDTH), get(fields, f + C_PANEL)
        )  # fmt: skip
        which, a, c, other = get(fields, f + EPILOGUE), get(fields, f + A), get(fields, f + C), get(fields, f + OTHER)
        column, end = I(cuda.threadIdx.x // ROWS), last_panel * panel + last_width if row < rows else 0
        while column < end:
            at = place_of(column, row, last_panel, last_width, panel_items)
            finish_item(which, work, I(c + at), I(other + at), get(work, I(a + at)), number)
            column = I(column + down)

    @cache
    def dropped(kind: str):
        """In its place in shared memory, for the product that follows, and to where the record has it."""
        numbers_of, masked = masking(dtype, kind)
        by_rows = kind == "drop_rows"

        @inlined
        def dropped(fields, f, shared, a, work, row, rows, key, rate):
            last_panel, last_width, panel_items, c = (
                get(fields, f + LAST_PANEL), get(fields, f + LAST_WIDTH), get(fields, f + C_PANEL), get(fields, f + C)
            )  # fmt: skip
            columns, column = get(fields, f + OUTPUTS), I(cuda.threadIdx.x // ROWS)
            of_mask, place = numbers_of(key, rate, get(fields, f + LAYER)), I(a + cuda.threadIdx.x % ROWS)
            while column < columns:
                at, e = I(place + column * ROWS), row if by_rows else row * columns + column
                z = masked(get(shared, at), e, of_mask)
                put(shared, at, z)
                if row < rows:
                    put(work, I(c + place_of(column, row, last_panel, last_width, panel_items)), z)
                column = I(column + down)

        return dropped

    drop = one_of(tuple(map(dropped, dropouts)))

    @inlined
    def read_logit(where, j):
        shared, _, i, _, _, _, _, _ = where
        return get(shared, I(of_sums + j * ROWS + i))

    @inlined
    def write_gradient(where, j, g):
        """For the product that follows, and for the gradients of parameters."""
        shared, work, i, row, c, last_panel, last_width, panel_items = where
        put(shared, I(of_sums + j * ROWS + i), g)
        put(work, I(c + place_of(I(j), row, last_panel, last_width, panel_items)), g)

    of_row = row_loss(dtype, loss, down, THREADS, read_logit, write_gradient)

    def rows_kernel(
        control, steps, scalars, table, rates, numbers, todo, n, work, state, transposed, order, x, y, weights, of_loss,
        row_losses, scale, offset,
    ):  # fmt: skip
        # Who asks for much at once waits once: nothing is converted or used before all of it is on its way
        t, step, to_do, then, number = cuda.threadIdx.x, control[STEP], I(0), I(0), T(0)
        if t < n_fields:
            to_do = get(todo, t)
            if n > 1:
                then = get(todo, n_fields + t)
        a_of_loss, b_of_loss = T(of_loss[0]), T(of_loss[1])
        first_row, rows, index, first = (
            cuda.blockIdx.x * ROWS, steps[step, R.STEP_ROWS], steps[step, R.STEP_INDEX], steps[step, R.STEP_FIRST]
        )  # fmt: skip
        row, loss_row, of_weight = (
            I(first_row + t % ROWS), first_row + t // down, scalars[steps[step, R.STEP_SCALARS] + R.SCALE]
        )  # fmt: skip
        of_data, of_targets, code = 0, 0, 0  # rows of the data
        if row < rows:
            of_data = data_row(order, index, first, row)
        if loss_row < rows:
            of_targets = data_row(order, index, first, loss_row)
            code = code_of_row(y, of_targets)
        if failed_before(control) or first_row >= rows:
            return
        if first_row == 0 and t == 0:
            control[STEP_OF_UPDATES] = step
        shared = cuda.shared.array(size, D, BYTES)
        fields = cuda.shared.array(n_slots, types.int32)
        if t < n_fields:
            put(fields, t, to_do)
            put(fields, n_fields + t, then)
        cuda.syncthreads()
        sums, w, o = (
            cuda.local.array(n_sums, D, BYTES), cuda.local.array(n_weights, D, BYTES),
            cuda.local.array(n_others, D, BYTES),
        )  # fmt: skip
        start = cuda.local.array(lanes, D, BYTES)  # what a thread's sums begin with: the bias, or nothing
        for j in range(lanes):
            start[j] = T(0)
        # Slots of what is done now, next, and after that
        f, following, after, a, r, begin, left = 0, n_fields, 2 * n_fields, I(of_x), 0, I(0), I(0)
        while r < n:
            kind, is_product = get(fields, f + KIND), get(fields, f + KIND) == PRODUCT
            if begin == 0:
                number = get(numbers, r)
                if t < n_fields and r + 2 < n:
                    to_do = get(todo, (r + 2) * n_fields + t)
                if is_product:
                    fetch_other(fields, f, o, work, row, rows)
                    for i in range(ROWS):
                        for j in range(lanes):
                            sums[i * lanes + j] = start[j]
                if (is_product or kind >= DROPOUT) and get(fields, f + KEPT) == 0:
                    fetch_a(fields, f, shared, work, row, rows)
                    a = I(of_sums)
                    cuda.syncthreads()
            # The product's turn: some factors, whose places the next ones take at once, or those of the next record
            end, more, own, distance = I(0), False, I(0), I(0)
            if is_product:
                column, group = position(fields, f)
                end = I(begin + (AHEAD << (get(fields, f + GROUPS) & 31)))
                more = end < get(fields, f + DEPTH)
                distance = I(ROWS << (get(fields, f + GROUPS) & 31))
                own, left = I(a + (begin + group) * ROWS), factors_left(fields, f, begin, group)
            coming, coming_begin, at, far, coming_left, of_bias = f, end, I(0), I(0), I(0), I(-1)
            if not more:
                coming, coming_begin = following, I(0)
            brings = more
            if not more and r + 1 < n:
                brings = get(fields, following + KIND) == PRODUCT
            if brings:
                at, far, coming_left, of_bias = weights_of(fields, coming, coming_begin)
            source = transposed if get(fields, coming + TRANSPOSED) != 0 else state
            if is_product:
                multiply_half(0, sums, w, shared, own, distance, left)
            bring_half(0, w, source, at, far, coming_left)
            if is_product:
                multiply_half(half // SOME, sums, w, shared, own, distance, left)
            bring_half(half, w, source, at, far, coming_left)
            begin = coming_begin
            if not more:
                for j in range(lanes):
                    start[j] = T(0)
                if of_bias >= 0:
                    copy_vector(start, 0, state, of_bias)
                if t < n_fields and r + 2 < n:
                    put(fields, after + t, to_do)
                cuda.syncthreads()  # nobody reads A any more
                if is_product:
                    put_sums(fields, f, shared, sums)
                    cuda.syncthreads()
                    add_up(fields, f, o, shared, work, row, rows, number)
                    a = I(of_sums)
                elif kind == GATHER:
                    gather(fields, f, shared, work, x, of_data, scale, offset, row, rows)
                elif kind == ELEMENTWISE:
                    elementwise(fields, f, work, row, rows, number)
                elif kind == DROPOUT:
                    which, group, rate = get(fields, f + EPILOGUE), get(fields, f + GROUP), 0.0
                    if group != 0:  # it follows a schedule
                        rate = scalars[steps[step, R.STEP_SCALARS] + group + R.DROPOUT]
                    else:
                        rate = rates[get(fields, f + RECORD)]
                    drop(which, fields, f, shared, a, work, row, rows, steps[step, R.STEP_KEY], rate)
                else:
                    last_panel, last_width = get(fields, f + LAST_PANEL), get(fields, f + LAST_WIDTH)
                    facts = (
                        get(fields, f + OUTPUTS), last_panel * panel + last_width, get(fields, f + WITH_GRADIENT),
                        get(fields, f + ROW_DATA),
                    )  # fmt: skip
                    where = (
                        shared, work, t // down, I(loss_row), get(fields, f + C), last_panel, last_width,
                        get(fields, f + C_PANEL),
                    )  # fmt: skip
                    weight, inside = T(1), loss_row < rows
                    if inside and get(fields, f + WEIGHTED) != 0:
                        weight = weights[of_targets]
                    of_row(
                        control, loss_row, of_targets, inside, code, weight, y, a_of_loss, b_of_loss, of_loss,
                        T(of_weight), facts, where, work, row_losses, shared,
                    )  # fmt: skip
                cuda.syncthreads()
                f, following, after = following, after, f
                r += 1

    return rows_kernel
