"""Products in tiles of shared memory, as the CPU's `engine/products.py`: forward, and the gradients of inputs, weights
and biases.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import cuda

from ..engine import records as R
from ..engine.simd import ITEMSIZE
from .device import NOT_FINITE, SIMD, STEP, TILE, Tile
from .functions import copy_transposed, device_function, item_type, one_of, place


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
