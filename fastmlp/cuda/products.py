"""Products in tiles of shared memory, as the CPU's `engine/products.py`: forward, and the gradients of inputs."""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import cuda

from ..engine import records as R
from ..engine.simd import ITEMSIZE
from .device import NOT_FINITE, SIMD, STEP, TINY, Tile
from .elementwise import Epilogue, vector_epilogue
from .functions import cuda_kernel, device_function, inlined, item_type, one_of, unrolled
from .vectors import BYTES, copy_vector, put, vector_items

MOST_IN_Y = 2 if TINY else 65_535


@cache
def tile_sums(dtype: str, tile: Tile, transposed: bool):
    """sums += A B over d = first..last, for a block's tile of rows `first_m`.. and columns `first_n`..; each thread has
    its share of the tile in its registers, `sums`.

    B[d, n] lies in panels of n; A[m, d] in panels of d where it is `transposed`, A[d, m] in panels of m otherwise. What
    lies behind the last row of a transposed A is read and belongs to no result; beyond all other ends there are zeros.
    While a slab of `depth` factors is multiplied out of shared memory, each thread already has its part of the next one
    on its way. All threads of a block call it, and meet before they use `shared` again.
    """
    T, panel, D, lanes = getattr(np, dtype), SIMD.panel(dtype), item_type[dtype], vector_items(dtype)
    BM, BN, BK, threads = tile.rows, tile.columns, tile.depth, tile.block
    part = BK // tile.groups  # of a slab that a group of threads multiplies
    stored = BM + lanes
    in_b, slab = BK * stored, BK * (stored + BN)  # where B begins, and the next slab
    n_a, n_b = BM * BK // (lanes * threads), BN * BK // (lanes * threads)  # vectors that a thread brings of a slab
    items_a, items_b = n_a * lanes, n_b * lanes
    log2_panel = panel.bit_length() - 1
    # Of a transposed A two neighbours bring 32 bytes of a row: what they write lies in different banks of shared memory
    pair = min(2, BK // lanes)
    across_a, across_b = BM // lanes, BN // lanes  # vectors side by side in a slab
    assert threads % across_b == 0 and (transposed or threads % across_a == 0), tile
    assert n_a * lanes * threads == BM * BK and n_b * lanes * threads == BN * BK, tile
    position, multiply = thread_position(tile), _multiply(dtype, tile, part)

    @inlined
    def tile_sums(
        shared, sums, a_items, a, a_panel_items, a_last_panel, a_last_width, first_m, end_m,
        b_items, b, b_panel_items, b_last_panel, b_last_width, first_n, first, last,
    ):  # fmt: skip
        t = cuda.threadIdx.x
        tx, ty, group = position(t)
        a_next, b_next = cuda.local.array(items_a, D, BYTES), cuda.local.array(items_b, D, BYTES)
        b_i, b_j = t // across_b, t % across_b * lanes  # of the first vector in a slab
        p = (first_n + b_j) // panel
        b_width = panel if p < b_last_panel else b_last_width
        b_at, b_last = b + p * b_panel_items + first_n + b_j - p * panel + (first + b_i) * b_width, last
        if first_n + b_j >= b_last_panel * panel + b_last_width:
            b_last = first
        a_i, a_j, a_at, a_width, a_last = 0, 0, a, panel, last
        if not transposed:
            a_i, a_j = t // across_a, t % across_a * lanes
            p = (first_m + a_j) // panel
            a_width = panel if p < a_last_panel else a_last_width
            a_at = a + p * a_panel_items + first_m + a_j - p * panel + (first + a_i) * a_width
            if first_m + a_j >= end_m:
                a_last = first
        begin, now = first - BK, 0
        while True:
            following = begin + BK
            if following < last:
                for v in range(n_a):
                    e = t + v * threads
                    if transposed:
                        m, d = e // pair % BM, (e // (pair * BM) * pair + e % pair) * lanes + following
                        p = d >> log2_panel  # d // panel and d % panel, of what is not negative
                        a_width = panel if p < a_last_panel else a_last_width
                        at = a + p * a_panel_items + (first_m + m) * a_width + (d & (panel - 1))
                    else:
                        d = following + a_i + v * (threads // across_a)
                        at = a_at + v * (threads // across_a) * a_width
                    if d < a_last:
                        copy_vector(a_next, v * lanes, a_items, at)
                    else:
                        for i in range(lanes):
                            a_next[v * lanes + i] = T(0)
                for v in range(n_b):
                    if following + b_i + v * (threads // across_b) < b_last:
                        copy_vector(b_next, v * lanes, b_items, b_at + v * (threads // across_b) * b_width)
                    else:
                        for i in range(lanes):
                            b_next[v * lanes + i] = T(0)
                a_at += BK * a_width
                b_at += BK * b_width
            if begin >= first:
                of_group = group * part
                multiply(0, shared, sums, now + of_group * stored + ty * lanes, now + in_b + of_group * BN + tx * lanes)
            if following >= last:
                break
            now = slab - now
            for v in range(n_a):
                if transposed:
                    e = t + v * threads
                    m, d = e // pair % BM, (e // (pair * BM) * pair + e % pair) * lanes
                    for i in range(lanes):
                        put(shared, now + (d + i) * stored + m, a_next[v * lanes + i])
                else:
                    copy_vector(shared, now + (a_i + v * (threads // across_a)) * stored + a_j, a_next, v * lanes)
            for v in range(n_b):
                copy_vector(shared, now + in_b + (b_i + v * (threads // across_b)) * BN + b_j, b_next, v * lanes)
            cuda.syncthreads()
            begin = following

    return tile_sums


@cache
def _multiply(dtype: str, tile: Tile, depth: int):
    """f(0, shared, sums, a, b): sums += A B for `depth` factors; a thread's first of A and B lie at `a` and `b`."""
    D, lanes = item_type[dtype], vector_items(dtype)
    BM, BN, RM, RN = tile.rows, tile.columns, tile.own_rows, tile.own_columns
    stored, by_m, by_n, groups_m, groups_n = BM + lanes, BM // RM * lanes, BN // RN * lanes, RM // lanes, RN // lanes

    @inlined
    def multiply(d, shared, sums, a, b):
        x, y = cuda.local.array(RM, D, BYTES), cuda.local.array(RN, D, BYTES)
        for g in range(groups_m):
            copy_vector(x, g * lanes, shared, a + d * stored + g * by_m)
        for g in range(groups_n):
            copy_vector(y, g * lanes, shared, b + d * BN + g * by_n)
        for i in range(RM):
            for j in range(RN):
                sums[i * RN + j] += x[i] * y[j]

    return unrolled(depth, multiply)


@cache
def thread_position(tile: Tile):
    """Which columns and rows of a tile a thread has, and its group: (tx, ty, group).

    A warp is a rectangle of threads, 8 x 4 of them, so that it reads few numbers of both operands. Vectors are read out
    of shared memory by 8 threads at a time, or by 16 where each has the address of its neighbour, or of the one after
    that: hence the order of the threads in the rectangle, one bit of tx, one of ty, and the rest.
    """
    TX, TY, threads = tile.columns // tile.own_columns, tile.rows // tile.own_rows, tile.group
    across = min(8, TX)
    down = min(32 // across, TY)
    interleaved = across >= 2 and down >= 2

    @inlined
    def position(t):
        group, t = t // threads, t % threads
        warp, lane = t // (across * down), t % (across * down)
        if interleaved:
            pair = lane // 4
            tx, ty = lane % 2 + pair % (across // 2) * 2, lane // 2 % 2 + pair // (across // 2) * 2
        else:
            tx, ty = lane % across, lane // across
        return warp % (TX // across) * across + tx, warp // (TX // across) * down + ty, group

    return position


@cache
def keep_piece(dtype: str, tile: Tile):
    """keep(g, shared, sums): piece g of a tile out of the threads' registers into `shared`, row by row. By this way
    results can be looked at in any order, and by a loop: registers cannot. All threads of a block call it, and find the
    piece there.
    """
    D, lanes = item_type[dtype], vector_items(dtype)
    BN, RN, TX, groups = tile.columns, tile.own_columns, tile.columns // tile.own_columns, tile.groups
    position = thread_position(tile)

    @inlined
    def keep(g, shared, sums):
        tx, ty, group = position(cuda.threadIdx.x)
        x = cuda.local.array(lanes, D, BYTES)
        for turn in range(groups):
            cuda.syncthreads()
            if turn == group:
                for i in range(lanes):
                    for j in range(RN // lanes):
                        to, source = (ty * lanes + i) * BN + (j * TX + tx) * lanes, (g * lanes + i) * RN + j * lanes
                        if turn == 0:
                            copy_vector(shared, to, sums, source)
                        else:
                            copy_vector(x, 0, shared, to)
                            for n in range(lanes):
                                x[n] += sums[source + n]
                            copy_vector(shared, to, x, 0)
        cuda.syncthreads()

    return keep


@cache
def _finished_piece(dtype: str, epilogues: tuple[Epilogue, ...], tile: Tile):
    """Piece g of a tile into C and the other matrix, of whose items from `start` on a thread has some."""
    D, lanes, threads, piece = item_type[dtype], vector_items(dtype), tile.block, tile.piece(dtype)
    BN, across = tile.columns, tile.columns // lanes
    n_vectors, down = piece * BN // (lanes * threads), threads // across  # of a thread, and rows from one to the next
    together = min(n_vectors, 4)  # vectors of `other` on their way at a time
    items_together = together * lanes
    assert across * down == threads and n_vectors * lanes * threads == piece * BN, tile
    keep = keep_piece(dtype, tile)
    fetch, finish = (one_of(of) for of in zip(*(vector_epilogue(e) for e in epilogues), strict=True))

    @inlined
    def fetch_vector(v, which, o, work, other, width, first, n_rows):
        row = first + v * down  # counted from the thread's first
        if row < n_rows:
            fetch(which, o, v * lanes, work, other + row * width)

    @inlined
    def finish_vector(v, which, shared, x, o, work, c, other, width, first, n_rows, place, number):
        row = first + v * down
        if row < n_rows:
            copy_vector(x, 0, shared, place + v * down * BN)
            finish(which, work, c + row * width, other + row * width, x, o, v * lanes, number)

    fetch_some, finish_some = unrolled(together, fetch_vector), unrolled(together, finish_vector)

    @inlined
    def finished_piece(g, shared, sums, which, work, c, other, width, n_rows, number):
        keep(g, shared, sums)
        i, j = cuda.threadIdx.x // across, cuda.threadIdx.x % across * lanes
        x, o = cuda.local.array(lanes, D, BYTES), cuda.local.array(items_together, D, BYTES)
        for some in range(0, n_vectors, together):
            first, place = g * piece + some * down, (i + some * down) * BN + j
            fetch_some(0, which, o, work, other, width, first, n_rows)
            finish_some(0, which, shared, x, o, work, c, other, width, first, n_rows, place, number)

    return finished_piece


@cache
def product_tile(dtype: str, epilogues: tuple[Epilogue, ...], tile: Tile):
    """A block's tile of C = epilogue(init + A B), for rows of the batch below `rows`, by the epilogue of that number.
    All threads of a block call it, and meet before they use `shared` again.
    """
    T, item, panel, D, lanes = (
        getattr(np, dtype), ITEMSIZE[dtype], SIMD.panel(dtype), item_type[dtype], vector_items(dtype)
    )  # fmt: skip
    RM, RN, TX, across = tile.own_rows, tile.own_columns, tile.columns // tile.own_columns, tile.columns // lanes
    n_sums = RM * RN
    sums_of, position = tile_sums(dtype, tile, True), thread_position(tile)
    finish_all = unrolled(RM // lanes, _finished_piece(dtype, epilogues, tile))

    @device_function
    def product_tile(shared, table, numbers, k, which, work, weights, state, rows, first_row, first_column):
        depth, last_panel = table[k, R.DEPTH], table[k, R.N_PANELS] - 1
        a, a_panel_items = table[k, R.A] // item, table[k, R.A_PANEL_BYTES] // item
        a_last_panel, a_last_width = (depth - 1) // panel, table[k, R.A_STRIDE_LAST] // item
        b, last_width = table[k, R.B] // item, table[k, R.LAST_WIDTH]
        columns = last_panel * panel + last_width  # the padding of B is 0
        tx, ty, group = position(cuda.threadIdx.x)
        sums = cuda.local.array(n_sums, D, BYTES)
        init = table[k, R.INIT]  # -1: none
        for j in range(RN):
            column = first_column + (j // lanes * TX + tx) * lanes + j % lanes
            bias = T(0)
            if init >= 0 and group == 0 and column < columns:
                bias = state[init // item + column]
            for i in range(RM):
                sums[i * RN + j] = bias
        sums_of(
            shared, sums, work, a, a_panel_items, a_last_panel, a_last_width, first_row, rows,
            weights, b, panel * depth, last_panel, last_width, first_column, 0, depth,
        )  # fmt: skip
        c, panel_items, other = table[k, R.C] // item, table[k, R.C_PANEL_BYTES] // item, table[k, R.OTHER] // item
        row, column = first_row + cuda.threadIdx.x // across, first_column + cuda.threadIdx.x % across * lanes
        p = column // panel
        width = panel if p < last_panel else last_width
        start = p * panel_items + row * width + column - p * panel
        n_rows = rows - row if column < columns else 0
        finish_all(0, shared, sums, which, work, c + start, other + start, width, n_rows, T(numbers[k]))

    return product_tile


@cuda_kernel
def product(dtype: str, epilogue: Epilogue, tile: Tile):
    """C = epilogue(init + A B) for the rows of the batch: the forward product, and the input gradient.

    Launched with a block for each tile, and the grid that `grid_of` gives.
    """
    D, BM, BN, size = item_type[dtype], tile.rows, tile.columns, tile.shared(dtype)
    of_tile = product_tile(dtype, (epilogue,), tile)

    def product(control, steps, table, numbers, k, work, weights, state):
        if control[NOT_FINITE] != 0:
            return
        rows = steps[control[STEP], R.STEP_ROWS]
        first_row, first_column = (cuda.blockIdx.z * cuda.gridDim.y + cuda.blockIdx.y) * BM, cuda.blockIdx.x * BN
        if first_row >= rows:
            return
        shared = cuda.shared.array(size, D, BYTES)
        of_tile(shared, table, numbers, k, 0, work, weights, state, rows, first_row, first_column)

    return product


def grid_of(tile: Tile, rows: int, columns: int) -> tuple[int, int, int]:
    """Tiles of the same rows follow each other, which share what they read. Rows are in two dimensions, for one has
    room for 65 535 tiles only; their number out of the grid's own takes no registers, by a division it takes 26.
    """
    n_rows, n_columns = -(-rows // tile.rows), -(-columns // tile.columns)
    return n_columns, min(n_rows, MOST_IN_Y), -(-n_rows // MOST_IN_Y)
