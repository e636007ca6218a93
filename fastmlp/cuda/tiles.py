"""A tile of a product in the registers of a block's threads: factors come slab by slab through shared memory."""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import cuda

from . import multiply_add, tensor_cores
from .device import SIMD, Tile
from .functions import inlined, item_type
from .vectors import BYTES, copy_vector, vector_items


def way_of(tile: Tile):
    """The module that keeps and multiplies a slab."""
    return tensor_cores if tile.precision else multiply_add


def shared_items(dtype: str, tile: Tile) -> int:
    """Numbers of shared memory that a block needs: two slabs of both operands, and later a piece of the results."""
    return max(2 * way_of(tile).sizes(dtype, tile)[1], piece_rows(dtype, tile) * tile.columns)


def piece_rows(dtype: str, tile: Tile) -> int:
    """Rows of a piece of the results, of which all threads have some, a vector of rows each."""
    return tile.rows // tile.own_rows * vector_items(dtype)


def thread_position(tile: Tile):
    """Which columns and rows of a tile a thread has, and its group: (tx, ty, group)."""
    return way_of(tile).thread_position(tile)


@cache
def own_column(dtype: str, tile: Tile):
    """Column j of a thread's, counted in the tile: f(j, tx)."""
    together, across = way_of(tile).columns_together(dtype), tile.columns // tile.own_columns

    @inlined
    def column(j, tx):
        return (j // together * across + tx) * together + j % together

    return column


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
    way = way_of(tile)
    in_b, slab = way.sizes(dtype, tile)  # where B begins, and the next slab
    n_a, n_b = BM * BK // (lanes * threads), BN * BK // (lanes * threads)  # vectors that a thread brings of a slab
    items_a, items_b = n_a * lanes, n_b * lanes
    log2_panel = panel.bit_length() - 1
    beside, factors, together = way.neighbours(dtype, tile), way.FACTORS[tile.precision], way.ROWS
    pairs = BM // together
    across_a, across_b = BM // lanes, BN // lanes  # vectors side by side in a slab
    assert threads % across_b == 0 and (transposed or threads % across_a == 0), tile
    assert n_a * lanes * threads == BM * BK and n_b * lanes * threads == BN * BK, tile
    assert n_b % factors == 0 and n_a % (together if transposed else factors) == 0, tile
    position, multiply = thread_position(tile), way.multiply(dtype, tile)
    row_of_a, row_of_b, in_row = way.places(dtype, tile)
    put_along, put_a, put_b = way.put_along(dtype, tile), way.put_across_a(dtype, tile), way.put_across_b(dtype, tile)
    down_a, down_b = _down(threads // across_a, factors), _down(threads // across_b, factors)

    @inlined
    def tile_sums(
        shared, sums, a_items, a, a_panel_items, a_last_panel, a_last_width, first_m, end_m,
        b_items, b, b_panel_items, b_last_panel, b_last_width, first_n, first, last,
    ):  # fmt: skip
        t = cuda.threadIdx.x
        tx, ty, group = position(t)
        a_next, b_next = cuda.local.array(items_a, D, BYTES), cuda.local.array(items_b, D, BYTES)
        b_i, b_j = t // across_b * factors, t % across_b * lanes  # of the first vector in a slab
        p = (first_n + b_j) // panel
        b_width = panel if p < b_last_panel else b_last_width
        b_at, b_last = b + p * b_panel_items + first_n + b_j - p * panel + (first + b_i) * b_width, last
        if first_n + b_j >= b_last_panel * panel + b_last_width:
            b_last = first
        a_i, a_j, a_at, a_width, a_last = 0, 0, a, panel, last
        if not transposed:
            a_i, a_j = t // across_a * factors, t % across_a * lanes
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
                    if transposed:
                        e = t + v // together * threads
                        m = e // beside % pairs * together + v % together
                        d = (e // (beside * pairs) * beside + e % beside) * lanes + following
                        p = d >> log2_panel  # d // panel and d % panel, of what is not negative
                        a_width = panel if p < a_last_panel else a_last_width
                        at = a + p * a_panel_items + (first_m + m) * a_width + (d & (panel - 1))
                    else:
                        d = following + a_i + down_a(v)
                        at = a_at + down_a(v) * a_width
                    if d < a_last:
                        copy_vector(a_next, v * lanes, a_items, at)
                    else:
                        for i in range(lanes):
                            a_next[v * lanes + i] = T(0)
                for v in range(n_b):
                    if following + b_i + down_b(v) < b_last:
                        copy_vector(b_next, v * lanes, b_items, b_at + down_b(v) * b_width)
                    else:
                        for i in range(lanes):
                            b_next[v * lanes + i] = T(0)
                a_at += BK * a_width
                b_at += BK * b_width
            if begin >= first:
                multiply(shared, sums, now, tx, ty, group)
            if following >= last:
                break
            now = slab - now
            if transposed:
                for v in range(0, n_a, together):
                    e = t + v // together * threads
                    m = e // beside % pairs * together
                    d = (e // (beside * pairs) * beside + e % beside) * lanes
                    put_along(shared, now + row_of_a(d) + in_row(m), a_next, v * lanes)
            else:
                for v in range(0, n_a, factors):
                    put_a(shared, now + row_of_a(a_i + down_a(v)) + a_j, a_next, v * lanes)
            for v in range(0, n_b, factors):
                put_b(shared, now + in_b + row_of_b(b_i + down_b(v)) + b_j, b_next, v * lanes)
            cuda.syncthreads()
            begin = following

    return tile_sums


@cache
def _down(step: int, factors: int):
    """Factors from the first vector that a thread brings of a slab to its vector v: it brings so many neighbours at a
    time, of which an item of shared memory is made.
    """

    @inlined
    def down(v):
        return v // factors * (step * factors) + v % factors

    return down


@cache
def keep_piece(dtype: str, tile: Tile):
    """keep(g, shared, sums): piece g of a tile out of the threads' registers into `shared`, row by row. By this way
    results can be looked at in any order, and by a loop: registers cannot. All threads of a block call it, and find the
    piece there.
    """
    D, lanes = item_type[dtype], vector_items(dtype)
    BN, RN, groups = tile.columns, tile.own_columns, tile.groups
    position, column = thread_position(tile), own_column(dtype, tile)

    @inlined
    def keep(g, shared, sums):
        tx, ty, group = position(cuda.threadIdx.x)
        x = cuda.local.array(lanes, D, BYTES)
        for turn in range(groups):
            cuda.syncthreads()
            if turn == group:
                for i in range(lanes):
                    for j in range(RN // lanes):
                        to, source = (ty * lanes + i) * BN + column(j * lanes, tx), (g * lanes + i) * RN + j * lanes
                        if turn == 0:
                            copy_vector(shared, to, sums, source)
                        else:
                            copy_vector(x, 0, shared, to)
                            for n in range(lanes):
                                x[n] += sums[source + n]
                            copy_vector(shared, to, x, 0)
        cuda.syncthreads()

    return keep
