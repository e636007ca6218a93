"""Products in tiles of shared memory, as the CPU's `engine/products.py`: forward, and the gradients of inputs."""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import cuda

from .. import records as R
from ..simd import ITEMSIZE
from .device import NOT_FINITE, SIMD, STEP, Tile, in_y_and_z
from .elementwise import Epilogue, vector_epilogue
from .functions import cuda_kernel, device_function, inlined, item_type, one_of, unrolled
from .tiles import keep_piece, own_column, piece_rows, shared_items, thread_position, tile_sums
from .vectors import BYTES, copy_vector, vector_items


@cache
def _finished_piece(dtype: str, epilogues: tuple[Epilogue, ...], tile: Tile):
    """Piece g of a tile into C and the other matrix, of whose items from `start` on a thread has some."""
    D, lanes, threads, piece = item_type[dtype], vector_items(dtype), tile.block, piece_rows(dtype, tile)
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
    RM, RN, across, n_sums = tile.own_rows, tile.own_columns, tile.columns // lanes, tile.own_rows * tile.own_columns
    sums_of, position, own = tile_sums(dtype, tile, True), thread_position(tile), own_column(dtype, tile)
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
            column = first_column + own(j, tx)
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
    D, BM, BN, size = item_type[dtype], tile.rows, tile.columns, shared_items(dtype, tile)
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
    """Tiles of the same rows follow each other, which share what they read."""
    return -(-columns // tile.columns), *in_y_and_z(-(-rows // tile.rows))
