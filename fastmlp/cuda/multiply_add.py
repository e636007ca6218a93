"""A slab of factors in shared memory multiplied by multiply-add instructions: in float32 or float64, no less exact than
the CPU. `tensor_cores.py` has the same functions for less exact products.

A slab of A is `depth` rows of `tile.rows` numbers, one row for each factor, and one of B is `depth` rows of
`tile.columns`.
"""

from __future__ import annotations

from functools import cache

from numba import cuda

from .device import Tile
from .functions import inlined, item_type, unrolled
from .vectors import BYTES, copy_vector, put, vector_items

FACTORS = {"": 1}  # by `Tile.precision`: that share a row of a slab; one thread brings them all
ROWS = 1  # of a transposed A that a thread brings together


def columns_together(dtype: str) -> int:
    """Columns of a tile that a thread has next to each other."""
    return vector_items(dtype)


def neighbours(dtype: str, tile: Tile) -> int:
    """Threads next to each other that bring vectors of one row of a transposed A: two bring 32 bytes, and what they
    write lies in different banks of shared memory.
    """
    return min(2, tile.depth // vector_items(dtype))


def sizes(dtype: str, tile: Tile) -> tuple[int, int]:
    """Items of a slab of A, which is padded, and of both."""
    of_a = tile.depth * (tile.rows + vector_items(dtype))
    return of_a, of_a + tile.depth * tile.columns


@cache
def places(dtype: str, tile: Tile):
    """Three device functions: where the row of factor d of A begins in a slab, and that of B, and where number m of A
    lies in it.
    """
    stored, BN = tile.rows + vector_items(dtype), tile.columns

    @inlined
    def of_a(d):
        return d * stored

    @inlined
    def of_b(d):
        return d * BN

    @inlined
    def in_row(m):
        return m

    return of_a, of_b, in_row


@cache
def put_along(dtype: str, tile: Tile):
    """f(shared, at, x, n): x[n:] are factors of a row of A, a vector of them, of which the first belongs at `at`."""
    stored, lanes = tile.rows + vector_items(dtype), vector_items(dtype)

    @inlined
    def along(shared, at, x, n):
        for i in range(lanes):
            put(shared, at + i * stored, x[n + i])

    return along


@cache
def put_across_a(dtype: str, tile: Tile):
    """f(shared, at, x, n): x[n:] are a vector of a factor of neighbouring numbers of A, and belong at `at`."""

    @inlined
    def across(shared, at, x, n):
        copy_vector(shared, at, x, n)

    return across


put_across_b = put_across_a


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
def multiply(dtype: str, tile: Tile):
    """f(shared, sums, slab, tx, ty, group): sums += A B, over the group's part of the slab that begins at `slab`."""
    D, lanes, part, in_b = item_type[dtype], vector_items(dtype), tile.depth // tile.groups, sizes(dtype, tile)[0]
    BM, BN, RM, RN = tile.rows, tile.columns, tile.own_rows, tile.own_columns
    stored, by_m, by_n, groups_m, groups_n = BM + lanes, BM // RM * lanes, BN // RN * lanes, RM // lanes, RN // lanes

    @inlined
    def factor(d, shared, sums, a, b):
        x, y = cuda.local.array(RM, D, BYTES), cuda.local.array(RN, D, BYTES)
        for g in range(groups_m):
            copy_vector(x, g * lanes, shared, a + d * stored + g * by_m)
        for g in range(groups_n):
            copy_vector(y, g * lanes, shared, b + d * BN + g * by_n)
        for i in range(RM):
            for j in range(RN):
                sums[i * RN + j] += x[i] * y[j]

    factors = unrolled(part, factor)

    @inlined
    def multiply(shared, sums, slab, tx, ty, group):
        first = group * part
        factors(0, shared, sums, slab + first * stored + ty * lanes, slab + in_b + first * BN + tx * lanes)

    return multiply
