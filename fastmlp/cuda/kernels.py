"""CUDA kernels, one for each kind of record of a plan.

Matrices lie in panels, as on the CPU (`engine/records.py`); places in records are bytes from the start of a buffer. All
kernels begin alike:

- they find the step that they belong to in `control`, and its rows in `steps`, so every step launches the same;
- they return at once where an earlier loss was not finite: parameters then stay those of the last whole step.

Every number has one writer and a fixed order of summation, so the same device gives the same bits each time.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache

import numpy as np
from numba import cuda
from numba.core import config

from ..activations import ACTIVATIONS
from ..engine import records as R
from ..engine import rules
from ..engine.simd import ITEMSIZE, Simd
from ..losses import LOSSES
from .functions import U, compiled, copy_transposed, device_function, functions, hashed, item_type, mask_keys, place

NOT_FINITE, STEP = 0, 1  # of `control`: whether a loss was not finite, and the number of the step


@dataclass(frozen=True)
class Tile:
    """A block of threads computes `rows` x `columns` of a product, `depth` factors at a time out of shared memory, each
    thread `own_rows` x `own_columns` of it in registers. All other kernels have blocks of `threads`, `most_blocks` of
    them where threads walk through more than one number.
    """

    rows: int
    columns: int
    depth: int
    own_rows: int
    own_columns: int
    threads: int
    most_blocks: int

    @property
    def shared(self) -> int:
        """Numbers of shared memory: two operands, a column of padding for the first, and later the results."""
        return max(self.depth * (self.rows + 1 + self.columns), self.rows * self.columns)

    @property
    def block(self) -> int:
        return self.rows // self.own_rows * (self.columns // self.own_columns)


SIMULATED = bool(config.ENABLE_CUDASIM)
if SIMULATED:  # a thread of the device is a thread of Python there: as few as show what can go wrong
    TILE, SIMD = Tile(4, 8, 3, 2, 4, threads=4, most_blocks=2), Simd("CUDA simulator", 16, 1)
else:
    TILE, SIMD = Tile(64, 64, 16, 4, 4, threads=256, most_blocks=4096), Simd("CUDA", 64, 1)


# What follows a product or a copy: finish(items, at, other, value, number) writes where it belongs --------------------


@cache
def epilogue(name: str, dtype: str):
    """By the name that the plan has for the CPU's kernel: "relu.value", "gelu.apart", "tanh.derivative", "add"..."""
    if name in FIXED:
        return device_function(FIXED[name])
    activation, _, kind = name.rpartition(".")
    declaration = ACTIVATIONS[activation]
    f = compiled(declaration.derivative if kind == "derivative" else declaration.value, dtype)

    def value(items, at, other, z, number):
        items[at] = f(z)

    def value_of_number(items, at, other, z, number):
        items[at] = f(z, number)

    def apart(items, at, other, z, number):
        items[at] = z
        items[other] = f(z)

    def derivative(items, at, other, z, number):
        items[at] = z * f(items[other])

    def derivative_of_number(items, at, other, z, number):
        items[at] = z * f(items[other], number)

    if kind == "derivative":
        return device_function(derivative if declaration.parameter is None else derivative_of_number)
    if declaration.parameter is not None:
        return device_function(value_of_number)
    return device_function(apart if kind == "apart" else value)


def _store(items, at, other, z, number):
    items[at] = z


def _add(items, at, other, z, number):
    items[at] = z + items[other]


def _multiply(items, at, other, z, number):
    items[at] = z * items[other]


FIXED = {"": _store, "add": _add, "multiply": _multiply}


@cache
def one_of(functions: tuple):
    """One of several epilogues, or updates, by its number: the same kernel serves records that end differently."""
    first, *others = functions
    if not others:

        def only(which, *arguments):
            first(*arguments)

        return device_function(only)
    rest = one_of(tuple(others))

    @device_function
    def one(which, *arguments):
        if which == 0:
            first(*arguments)
        else:
            rest(which - 1, *arguments)

    return one


# What follows a gradient: update(state, at, slot, g, scalars, s, work, kept) ------------------------------------------


@cache
def update(penalty: str, clip: bool, decay: bool, rule: str, average: bool, n_slots: int, dtype: str):
    """Penalty, clipping, decay, the optimiser and the average of one parameter, in the CPU's order.

    `at` is the parameter's place in `state`, whose slots follow at distances of `slot`; `s` the place of the step's
    numbers for the layer's group in `scalars`. The rule "store" keeps the gradient at `kept` in `work` and changes
    nothing; "assign" takes what it is given for the parameter itself.
    """
    T = getattr(np, dtype)
    tiny = T(np.finfo(dtype).tiny)
    l2_penalty, l1_l2_penalty, clipped, decayed, averaged = (
        compiled(f, dtype) for f in (rules.l2_penalty, rules.l1_l2_penalty, rules.clip, rules.decay, rules.average)
    )
    with_l2, with_l1_l2 = penalty == "l2", penalty == "l1_l2"

    @device_function
    def numbers(scalars, s):
        s += R.RULE
        return T(scalars[s]), T(scalars[s + 1]), T(scalars[s + 2]), T(scalars[s + 3]), T(scalars[s + 4])

    @device_function
    def gradient(g, p, scalars, s):
        if with_l2:
            g = l2_penalty(g, p, T(scalars[s + R.L2]))
        if with_l1_l2:
            g = l1_l2_penalty(g, p, T(scalars[s + R.L2]), T(scalars[s + R.L1]))
        if clip:
            g = clipped(g, T(scalars[s + R.CLIP]))
        return g

    @device_function
    def shrunk(p, scalars, s):
        return decayed(p, T(scalars[s + R.DECAY])) if decay else p

    @device_function
    def finish(state, at, slot, p, scalars, s):
        state[at] = p
        if average:
            a = at + n_slots * slot
            state[a] = averaged(state[a], p, T(scalars[s + R.AVERAGE]))

    def store(state, at, slot, g, scalars, s, work, kept):
        work[kept] = gradient(g, state[at], scalars, s)

    def assign(state, at, slot, p, scalars, s, work, kept):
        finish(state, at, slot, p, scalars, s)

    if rule in ("store", "assign"):
        return device_function(store if rule == "store" else assign)
    step = compiled(rules.RULES[rule].function, dtype)

    def no_slot(state, at, slot, g, scalars, s, work, kept):
        p = state[at]
        g = gradient(g, p, scalars, s)
        p = step(shrunk(p, scalars, s), g, numbers(scalars, s), tiny)
        finish(state, at, slot, p, scalars, s)

    def one_slot(state, at, slot, g, scalars, s, work, kept):
        p = state[at]
        g = gradient(g, p, scalars, s)
        p, v = step(shrunk(p, scalars, s), g, state[at + slot], numbers(scalars, s), tiny)
        state[at + slot] = v
        finish(state, at, slot, p, scalars, s)

    def two_slots(state, at, slot, g, scalars, s, work, kept):
        p = state[at]
        g = gradient(g, p, scalars, s)
        m, v = state[at + slot], state[at + 2 * slot]
        p, m, v = step(shrunk(p, scalars, s), g, m, v, numbers(scalars, s), tiny)
        state[at + slot] = m
        state[at + 2 * slot] = v
        finish(state, at, slot, p, scalars, s)

    def three_slots(state, at, slot, g, scalars, s, work, kept):
        p = state[at]
        g = gradient(g, p, scalars, s)
        m, v, c = state[at + slot], state[at + 2 * slot], state[at + 3 * slot]
        p, m, v, c = step(shrunk(p, scalars, s), g, m, v, c, numbers(scalars, s), tiny)
        state[at + slot] = m
        state[at + 2 * slot] = v
        state[at + 3 * slot] = c
        finish(state, at, slot, p, scalars, s)

    return device_function((no_slot, one_slot, two_slots, three_slots)[rules.RULES[rule].n_slots])


# Products -------------------------------------------------------------------------------------------------------------


@cache
def product_tile(dtype: str, finish, tile: Tile):
    """A block's tile of C = finish(init + A B), for rows of the batch below `rows`: `finish` gets `which` first.

    What lies beyond a matrix counts as 0. All threads of a block call it, and meet before they use `shared` again.
    """
    T, item, panel, D = getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype), item_type[dtype]
    BM, BN, BK, RM, RN, threads = tile.rows, tile.columns, tile.depth, tile.own_rows, tile.own_columns, tile.block
    TX, stored, slots_a, slots_b, slots_c = BN // RN, BM + 1, BM * BK, BN * BK, BM * BN
    in_b = BK * stored  # where B begins

    @device_function
    def product_tile(shared, table, numbers, k, which, work, weights, state, rows, first_row, first_column):
        depth, last_panel = table[k, R.DEPTH], table[k, R.N_PANELS] - 1
        columns = last_panel * panel + table[k, R.LAST_WIDTH]  # the padding of B is 0
        a, a_panel_items = table[k, R.A] // item, table[k, R.A_PANEL_BYTES] // item
        a_last_panel, a_last_width = (depth - 1) // panel, table[k, R.A_STRIDE_LAST] // item
        b, last_width = table[k, R.B] // item, table[k, R.LAST_WIDTH]
        tx, ty = cuda.threadIdx.x % TX, cuda.threadIdx.x // TX
        # A lies in `shared` with one number more a row: neighbours along depth lie in different banks
        sums = cuda.local.array((RM, RN), D)
        init = table[k, R.INIT]  # -1: none
        for j in range(RN):
            column = first_column + tx + j * TX
            bias = T(0)
            if init >= 0 and column < columns:
                bias = state[init // item + column]
            for i in range(RM):
                sums[i, j] = bias
        for begin in range(0, depth, BK):
            for e in range(cuda.threadIdx.x, slots_a, threads):
                i, d = e // BK, e % BK
                row, at = first_row + i, begin + d
                value = T(0)
                if row < rows and at < depth:
                    value = work[a + place(row, at, panel, a_last_panel, a_panel_items, a_last_width)]
                shared[d * stored + i] = value
            for e in range(cuda.threadIdx.x, slots_b, threads):
                d, j = e // BN, e % BN
                column, at = first_column + j, begin + d
                value = T(0)
                if column < columns and at < depth:
                    p = column // panel
                    width = panel if p < last_panel else last_width
                    value = weights[b + p * panel * depth + at * width + column - p * panel]
                shared[in_b + d * BN + j] = value
            cuda.syncthreads()
            for d in range(BK):
                for i in range(RM):
                    x = shared[d * stored + ty * RM + i]
                    for j in range(RN):
                        sums[i, j] += x * shared[in_b + d * BN + tx + j * TX]
            cuda.syncthreads()
        c, panel_items, other = table[k, R.C] // item, table[k, R.C_PANEL_BYTES] // item, table[k, R.OTHER] // item
        number = T(numbers[k])
        # by way of shared memory: a long epilogue in a loop over `sums` would put them into slow memory from the start
        for i in range(RM):
            for j in range(RN):
                shared[(ty * RM + i) * BN + tx + j * TX] = sums[i, j]
        cuda.syncthreads()
        for e in range(cuda.threadIdx.x, slots_c, threads):
            row, column = first_row + e // BN, first_column + e % BN
            if row < rows and column < columns:
                p = column // panel
                width = panel if p < last_panel else last_width
                at = p * panel_items + row * width + column - p * panel
                finish(which, work, c + at, other + at, shared[e], number)

    return product_tile


@cache
def product(dtype: str, finish, tile: Tile = TILE):
    """C = finish(init + A B) for the rows of the batch: the forward product, and the input gradient.

    Launched with a grid of (tiles of columns, tiles of rows).
    """
    D, BM, BN, size = item_type[dtype], tile.rows, tile.columns, tile.shared
    of_tile = product_tile(dtype, one_of((finish,)), tile)

    @cuda.jit
    def product(control, steps, table, numbers, k, work, weights, state):
        if control[NOT_FINITE] != 0:
            return
        rows = steps[control[STEP], R.STEP_ROWS]
        first_row, first_column = cuda.blockIdx.y * BM, cuda.blockIdx.x * BN
        if first_row >= rows:
            return
        shared = cuda.shared.array(size, D)
        of_tile(shared, table, numbers, k, 0, work, weights, state, rows, first_row, first_column)

    return product


@cache
def gradient_tile(dtype: str, tile: Tile):
    """A block's tile of the gradient A^T dz of a matrix over rows first..last of the batch, added in their order: left
    in `shared`, row by row, for all threads to read. All threads of a block call it.
    """
    T, item, panel, D = getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype), item_type[dtype]
    BM, BN, BK, RM, RN, threads = tile.rows, tile.columns, tile.depth, tile.own_rows, tile.own_columns, tile.block
    TX, stored, slots_a, slots_b = BN // RN, BM + 1, BM * BK, BN * BK
    in_b = BK * stored  # where B begins

    @device_function
    def gradient_tile(shared, table, k, work, first_unit, first_column, first, last):
        n_in, n_out, last_panel = table[k, R.DEPTH], table[k, R.N_OUT], table[k, R.N_PANELS] - 1
        a, a_panel_items = table[k, R.A] // item, table[k, R.A_PANEL_BYTES] // item
        a_last_panel, a_last_width = (n_in - 1) // panel, table[k, R.A_STRIDE_LAST] // item
        dz, panel_items, last_width = table[k, R.C] // item, table[k, R.C_PANEL_BYTES] // item, table[k, R.LAST_WIDTH]
        tx, ty = cuda.threadIdx.x % TX, cuda.threadIdx.x // TX
        sums = cuda.local.array((RM, RN), D)
        for i in range(RM):
            for j in range(RN):
                sums[i, j] = T(0)
        for begin in range(first, last, BK):
            for e in range(cuda.threadIdx.x, slots_a, threads):
                d, i = e // BM, e % BM
                row, unit = begin + d, first_unit + i
                value = T(0)
                if row < last and unit < n_in:
                    value = work[a + place(row, unit, panel, a_last_panel, a_panel_items, a_last_width)]
                shared[d * stored + i] = value
            for e in range(cuda.threadIdx.x, slots_b, threads):
                d, j = e // BN, e % BN
                row, column = begin + d, first_column + j
                value = T(0)
                if row < last and column < n_out:
                    p = column // panel
                    width = panel if p < last_panel else last_width
                    value = work[dz + p * panel_items + row * width + column - p * panel]
                shared[in_b + d * BN + j] = value
            cuda.syncthreads()
            for d in range(BK):
                for i in range(RM):
                    x = shared[d * stored + ty * RM + i]
                    for j in range(RN):
                        sums[i, j] += x * shared[in_b + d * BN + tx + j * TX]
            cuda.syncthreads()
        # by way of shared memory: a long epilogue in a loop over `sums` would put them into slow memory from the start
        for i in range(RM):
            for j in range(RN):
                shared[(ty * RM + i) * BN + tx + j * TX] = sums[i, j]
        cuda.syncthreads()

    return gradient_tile


@cache
def weight_gradient(dtype: str, change, tile: Tile = TILE):
    """The gradient of a matrix over all rows of the batch, the update of each weight, and its transposed copy.

    Launched with a grid of (tiles of outputs, tiles of inputs).
    """
    item, panel, D = ITEMSIZE[dtype], SIMD.panel(dtype), item_type[dtype]
    BM, BN, threads, slots, size = tile.rows, tile.columns, tile.block, tile.rows * tile.columns, tile.shared
    of_tile = gradient_tile(dtype, tile)

    @cuda.jit
    def weight_gradient(control, steps, scalars, table, k, work, state, transposed, slot):
        if control[NOT_FINITE] != 0:
            return
        step = control[STEP]
        rows, s = steps[step, R.STEP_ROWS], steps[step, R.STEP_SCALARS] + table[k, R.GROUP] // 8
        first_unit, first_column = cuda.blockIdx.y * BM, cuda.blockIdx.x * BN  # of W: inputs, outputs
        shared = cuda.shared.array(size, D)
        of_tile(shared, table, k, work, first_unit, first_column, 0, rows)
        n_in, n_out, last_panel = table[k, R.DEPTH], table[k, R.N_OUT], table[k, R.N_PANELS] - 1
        w, last_width, wt_last_width = table[k, R.W] // item, table[k, R.LAST_WIDTH], table[k, R.WT_LAST_WIDTH]
        wt = -1 if table[k, R.WT] < 0 else table[k, R.WT] // item
        for e in range(cuda.threadIdx.x, slots, threads):
            unit, column = first_unit + e // BN, first_column + e % BN
            if unit < n_in and column < n_out:
                at = w + place(unit, column, panel, last_panel, panel * n_in, last_width)
                change(state, at, slot, shared[e], scalars, s, work, table[k, R.GRADIENT] // item + at - w)
                copy_transposed(state, transposed, at, wt, unit, column, n_in, n_out, panel, wt_last_width)

    return weight_gradient


@cache
def bias_gradient(dtype: str, change, threads: int = TILE.threads):
    """The sum of dz over the rows for one panel of a vector, and its update; a block for each panel.

    Each thread adds every n-th row of its column, then the sums of a column are added pair by pair.
    """
    T, item, panel, D = getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype), item_type[dtype]
    parts = max(2, threads // panel)

    @cuda.jit
    def bias_gradient(control, steps, scalars, table, k, work, state, transposed, slot):
        if control[NOT_FINITE] != 0:
            return
        step = control[STEP]
        rows, s = steps[step, R.STEP_ROWS], steps[step, R.STEP_SCALARS] + table[k, R.GROUP] // 8
        p, column, part = cuda.blockIdx.x, cuda.threadIdx.x % panel, cuda.threadIdx.x // panel
        width = panel if p < table[k, R.N_PANELS] - 1 else table[k, R.LAST_WIDTH]
        first = table[k, R.C] // item + p * (table[k, R.C_PANEL_BYTES] // item) + column
        sums = cuda.shared.array((parts, panel), D)
        total = T(0)
        if column < width:
            for row in range(part, rows, parts):
                total += work[first + row * width]
        sums[part, column] = total
        half = parts // 2
        while half > 0:
            cuda.syncthreads()
            if part < half:
                sums[part, column] += sums[part + half, column]
            half //= 2
        if part == 0 and column < width:
            unit = p * panel + column
            at, kept = table[k, R.W] // item + unit, table[k, R.GRADIENT] // item + unit
            change(state, at, slot, sums[0, column], scalars, s, work, kept)

    return bias_gradient, parts * panel


# Values: a thread for each of the batch's -----------------------------------------------------------------------------


@cache
def gathered(dtype: str, scaled: bool):
    """Rows of X, first_row..last_row of the batch, converted and scaled, by thread `t` of `threads`."""
    T, item, panel = getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype)

    @device_function
    def gathered(table, k, order, index, first, x, work, scale, offset, first_row, last_row, t, threads):
        n, to, panel_items = table[k, R.N_FEATURES], table[k, R.C] // item, table[k, R.C_PANEL_BYTES] // item
        last_panel, last_width = table[k, R.N_PANELS] - 1, table[k, R.LAST_WIDTH]
        columns = last_panel * panel + last_width
        for e in range(t, (last_row - first_row) * columns, threads):
            i, column = first_row + e // columns, e % columns
            value = T(0)  # padding
            if column < n:
                row = order[index + i] if index >= 0 else first + i
                value = T(x[row, column])
                if scaled:
                    value = value * T(scale) + T(offset)
            work[to + place(i, column, panel, last_panel, panel_items, last_width)] = value

    return gathered


@cache
def gather(dtype: str, scaled: bool):
    """Rows of X into the batch, converted and scaled."""
    of_rows = gathered(dtype, scaled)

    @cuda.jit
    def gather(control, steps, table, k, order, x, work, scale, offset):
        if control[NOT_FINITE] != 0:
            return
        step = control[STEP]
        rows, index, first = steps[step, R.STEP_ROWS], steps[step, R.STEP_INDEX], steps[step, R.STEP_FIRST]
        t, threads = cuda.grid(1), cuda.gridsize(1)
        of_rows(table, k, order, index, first, x, work, scale, offset, 0, rows, t, threads)

    return gather


@cache
def elementwise(dtype: str, finish):
    """C = finish(IN), item by item of the same panels."""
    T, item, panel = getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype)

    @cuda.jit
    def elementwise(control, steps, table, numbers, k, work):
        if control[NOT_FINITE] != 0:
            return
        rows, panel_items = steps[control[STEP], R.STEP_ROWS], table[k, R.C_PANEL_BYTES] // item
        source, c, other = table[k, R.IN] // item, table[k, R.C] // item, table[k, R.OTHER] // item
        n = rows * ((table[k, R.N_PANELS] - 1) * panel + table[k, R.LAST_WIDTH])
        for e in range(cuda.grid(1), n, cuda.gridsize(1)):
            p = e // (rows * panel)
            at = p * panel_items + e - p * rows * panel
            finish(work, c + at, other + at, work[source + at], T(numbers[k]))

    return elementwise


@cache
def dropout(dtype: str):
    """C = IN * mask / (1 - rate), by the hash of the CPU's kernel."""
    T, item, panel = getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype)

    @cuda.jit
    def dropout(control, steps, scalars, table, numbers, k, work):
        if control[NOT_FINITE] != 0:
            return
        step = control[STEP]
        rows, key, columns = steps[step, R.STEP_ROWS], steps[step, R.STEP_KEY], table[k, R.N_OUT]
        rate = numbers[k]
        if table[k, R.GROUP] != 0:  # it follows a schedule
            rate = scalars[steps[step, R.STEP_SCALARS] + table[k, R.GROUP] // 8 + R.DROPOUT]
        scale, least = T(1 / (1 - rate)), U(rate * 4294967296.0)
        key_1, key_2 = mask_keys(key, table[k, R.LAYER])
        source, c = table[k, R.IN] // item, table[k, R.C] // item
        last_panel, panel_items = table[k, R.N_PANELS] - 1, table[k, R.C_PANEL_BYTES] // item
        for e in range(cuda.grid(1), rows * columns, cuda.gridsize(1)):
            i = e // columns
            at = place(i, e - i * columns, panel, last_panel, panel_items, table[k, R.LAST_WIDTH])
            kept = hashed(U(e), key_1, key_2) >= least
            work[c + at] = work[source + at] * scale if kept else T(0)

    return dropout


@cache
def scatter(dtype: str):
    """The logits out of their panels into the rows of `out`."""
    item, panel = ITEMSIZE[dtype], SIMD.panel(dtype)

    @cuda.jit
    def scatter(control, steps, table, k, work, out):
        step = control[STEP]
        rows, first, columns = steps[step, R.STEP_ROWS], steps[step, R.STEP_FIRST], table[k, R.N_OUT]
        c, panel_items = table[k, R.C] // item, table[k, R.C_PANEL_BYTES] // item
        for e in range(cuda.grid(1), rows * columns, cuda.gridsize(1)):
            i = e // columns
            column = e - i * columns
            at = place(i, column, panel, table[k, R.N_PANELS] - 1, panel_items, table[k, R.LAST_WIDTH])
            out[first + i, column] = work[c + at]

    return scatter


# Losses: a thread for each row; the logits are overwritten with their gradient ----------------------------------------


@cache
def softmax_cross_entropy_row(dtype: str, codes: bool):
    """Of row i of the batch, which is row `row` of the data. As the CPU's: y becomes (1 - s) y + s mass / K, the loss
    is mass log(sum exp(z - top)) - sum y (z - top).
    """
    T, item, panel = getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype)
    exp, log = functions(dtype).exp, functions("float64").log

    @device_function
    def softmax_cross_entropy_row(control, table, k, i, row, y, weights, numbers, scale, work, row_losses):
        columns, last_panel, last_width = table[k, R.N_OUT], table[k, R.N_PANELS] - 1, table[k, R.LAST_WIDTH]
        c, panel_items = table[k, R.C] // item, table[k, R.C_PANEL_BYTES] // item
        smoothing = T(numbers[0])
        weight = T(1) if table[k, R.SW] < 0 else weights[row]
        top = work[c + place(i, 0, panel, last_panel, panel_items, last_width)]
        for j in range(columns):
            z = work[c + place(i, j, panel, last_panel, panel_items, last_width)]
            top = z if z > top else top
        mass, pick, total, sum_z = T(0), T(0), T(0), T(0)
        for j in range(columns):
            at = c + place(i, j, panel, last_panel, panel_items, last_width)
            z = work[at] - top
            target = T(0)
            if codes:
                target = T(1) if y[row, 0] == j else T(0)
            else:
                target = T(y[row, j])
            mass += target
            pick += target * z
            sum_z += z
            e = exp(z)
            work[at] = e
            total += e
        if smoothing != T(0):
            pick = (T(1) - smoothing) * pick + smoothing * mass * sum_z / T(columns)
        loss = np.float64(weight * mass) * log(np.float64(total)) - np.float64(weight) * np.float64(pick)
        row_losses[i] = loss
        if loss - loss != 0.0:
            control[NOT_FINITE] = 1
        if table[k, R.WITH_GRADIENT] != 0:
            share, floor = scale * weight * mass / total, scale * weight * mass * smoothing / T(columns)
            factor = scale * weight * (T(1) - smoothing)
            for j in range(last_panel * panel + last_width):
                at = c + place(i, j, panel, last_panel, panel_items, last_width)
                g = T(0)  # padding
                if j < columns:
                    if codes:
                        target = T(1) if y[row, 0] == j else T(0)
                    else:
                        target = T(y[row, j])
                    g = work[at] * share - floor - factor * target
                work[at] = g

    return softmax_cross_entropy_row


@cache
def separable_row(dtype: str, name: str):
    """A loss that is a sum over outputs, by its declaration's term and slope."""
    T, item, panel = getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype)
    term, slope = compiled(LOSSES[name].term, dtype), compiled(LOSSES[name].slope, dtype)

    @device_function
    def separable_row(control, table, k, i, row, y, weights, numbers, scale, work, row_losses):
        columns, last_panel, last_width = table[k, R.N_OUT], table[k, R.N_PANELS] - 1, table[k, R.LAST_WIDTH]
        c, panel_items = table[k, R.C] // item, table[k, R.C_PANEL_BYTES] // item
        a, b = T(numbers[0]), T(numbers[1])
        weight = T(1) if table[k, R.SW] < 0 else weights[row]
        loss = 0.0
        for j in range(last_panel * panel + last_width):
            at = c + place(i, j, panel, last_panel, panel_items, last_width)
            g = T(0)  # padding
            if j < columns:
                z, target = work[at], T(y[row, j])
                loss += np.float64(T(term(z, target, a, b)))
                g = scale * weight * T(slope(z, target, a, b))
            if table[k, R.WITH_GRADIENT] != 0:
                work[at] = g
        loss *= np.float64(weight)
        row_losses[i] = loss
        if loss - loss != 0.0:
            control[NOT_FINITE] = 1

    return separable_row


@cache
def row_loss(dtype: str, kernel: str):
    """The loss of a row by the name that the plan has for the CPU's kernel: "huber.dense"..."""
    family, _, kind = kernel.rpartition(".")
    if family == "softmax_cross_entropy":
        return softmax_cross_entropy_row(dtype, kind == "codes")
    return separable_row(dtype, family)


@cache
def loss(dtype: str, kernel: str):
    """The losses of all rows."""
    T, of_row = getattr(np, dtype), row_loss(dtype, kernel)

    @cuda.jit
    def loss(control, steps, scalars, table, k, order, y, weights, numbers, work, row_losses):
        if control[NOT_FINITE] != 0:
            return
        step = control[STEP]
        rows, index, first = steps[step, R.STEP_ROWS], steps[step, R.STEP_INDEX], steps[step, R.STEP_FIRST]
        scale = T(scalars[steps[step, R.STEP_SCALARS] + R.SCALE])
        for i in range(cuda.grid(1), rows, cuda.gridsize(1)):
            row = order[index + i] if index >= 0 else first + i
            of_row(control, table, k, i, row, y, weights, numbers, scale, work, row_losses)

    return loss


@cache
def end_of_step(with_loss: bool, threads: int = TILE.threads):
    """One block, after everything else: the sum of the rows' losses, in a fixed order, and the next step's number."""
    D = item_type["float64"]

    @cuda.jit
    def end_of_step(control, steps, row_losses, sums):
        failed, step = control[NOT_FINITE], control[STEP]
        if failed != 0:
            return
        t = cuda.threadIdx.x
        parts = cuda.shared.array(threads, D)
        total = 0.0
        if with_loss:
            for i in range(t, steps[step, R.STEP_ROWS], threads):
                total += row_losses[i]
        parts[t] = total
        half = threads // 2
        while half > 0:
            cuda.syncthreads()
            if t < half:
                parts[t] += parts[t + half]
            half //= 2
        if t == 0:
            sums[step] = parts[0]
            control[STEP] = step + 1

    return end_of_step


def configured(kernel, grid, block, stream):
    """The kernel with its grid, to be called with its arguments."""
    if SIMULATED:  # which keeps the last grid that a kernel was given
        return lambda *arguments: kernel[grid, block](*arguments)
    with warnings.catch_warnings():  # Numba warns of grids that do not fill the device: small networks have small ones
        warnings.simplefilter("ignore")
        return kernel[grid, block, stream]


def is_loss(kernel: str) -> bool:
    """Whether there is a CUDA kernel for that loss and kind of targets."""
    family, _, kind = kernel.rpartition(".")
    return family == "softmax_cross_entropy" or (
        kind == "dense" and family in LOSSES and LOSSES[family].term is not None
    )
