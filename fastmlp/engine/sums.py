"""Sums along a row of a matrix in panels, by vectors, and a row's largest number.

Blocks of sixteen columns are taken at once, each column into a float64 sum of its own, and these are added in pairs at
the end; columns before the first whole block and behind the last one are added one after another. So the bits of a sum
depend on the columns alone, not on the panels, whose width is the vector unit's, nor on the other rows. A single chain
of additions waits for each of them: it took 25 of the 30 cycles that a panel's row cost, a quarter of a step with
layer norms.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from ..simd import ITEMSIZE, Simd
from .elementary import INLINE, SCALAR
from .ir import I64, IP, Vectors, items_at
from .jit import has_fma

BLOCK = 16
LEAST = 2  # blocks; of fewer columns a chain takes no longer
CONTRACT = ("contract",)


@intrinsic
def plus_product(typingctx, total, x, y):
    """total + x y, fused where the processor can. Of a loop over x y and a sum LLVM makes vectors of products on ARM,
    whose elements it adds up in order: nothing to fuse."""

    def codegen(context, builder, sig, args):
        total, x, y = args
        return builder.fma(x, y, total) if has_fma() else builder.fadd(total, builder.fmul(x, y))

    return types.float64(types.float64, types.float64, types.float64), codegen


def _terms(kind: str):
    """What is added for a column, as a function of the sum so far and of numbers, and as one that emits the term for
    vectors of float64: of x, of w (a number for each column) and of y (a second matrix)."""
    numbers = {
        "x": lambda total, x, w, y: total + x,
        "|x|": lambda total, x, w, y: total + abs(x),
        "xx": lambda total, x, w, y: plus_product(total, x, x),
        "xw": lambda total, x, w, y: plus_product(total, x, w),
        "xy": lambda total, x, w, y: plus_product(total, x, y),
        "xwy": lambda total, x, w, y: plus_product(total, x * w, y),
    }
    times = lambda b, x, y: b.fmul(x, y, flags=CONTRACT)  # noqa: E731
    vectors = {
        "x": lambda b, x, w, y: x,
        "|x|": lambda b, x, w, y: b.select(b.fcmp_ordered("<", x, ir.Constant(x.type, None)), b.fneg(x), x),
        "xx": lambda b, x, w, y: times(b, x, x),
        "xw": lambda b, x, w, y: times(b, x, w()),
        "xy": lambda b, x, w, y: times(b, x, y()),
        "xwy": lambda b, x, w, y: times(b, times(b, x, w()), y()),
    }
    return numbers[kind], vectors[kind]


def _blocks(dtype: str, panel: int, start, add, finish, result):
    """An intrinsic over the blocks first..last - 1 of a row: `add` takes in so many columns, `finish` makes one number.

    x and y are rows in panels `stride` bytes apart, given by their addresses in the first panel and in the last; w is a
    row whose columns are neighbours. Of what the kind does not read the addresses may be anything.
    """
    item, lanes = ITEMSIZE[dtype], min(BLOCK, panel)
    numba_float = getattr(types, dtype)

    @intrinsic
    def blocks(typingctx, x, x_last, y, y_last, w, stride, last_panel, shift, first, last):
        def codegen(context, builder, sig, args):
            x, x_last, y, y_last, w, stride, last_panel, shift, first, last = args
            v = Vectors(builder, dtype, lanes)
            i64 = lambda n: ir.Constant(I64, n)  # noqa: E731
            starts = start(v, shift)
            sums = [cgutils.alloca_once_value(builder, starts) for _ in range(BLOCK // lanes)]
            shift = v.spread(shift)
            with cgutils.for_range(builder, last, first) as loop:
                for q, total in enumerate(sums):
                    column = builder.add(builder.mul(loop.index, i64(BLOCK)), i64(q * lanes))
                    index, within = builder.sdiv(column, i64(panel)), builder.srem(column, i64(panel))
                    in_last = builder.icmp_signed("==", index, last_panel)
                    at = builder.mul(index, stride)
                    within = builder.mul(within, i64(item))

                    def load(row, row_last, in_last=in_last, at=at, within=within):
                        return v.load(builder.add(builder.select(in_last, row_last, builder.add(row, at)), within))

                    def weights(column=column):
                        return v.load(builder.add(w, builder.mul(column, i64(item))))

                    new = add(v, builder.load(total), load(x, x_last), shift, weights, lambda: load(y, y_last))
                    builder.store(new, total)
            return finish(v, [builder.load(total) for total in sums])

        return result(*[IP] * 7, numba_float, IP, IP), codegen

    return blocks


def _in_pairs(v: Vectors, vectors, combine):
    """One number of all lanes: each with the one half the block further on, and so on down to two."""
    while len(vectors) > 1:
        half = len(vectors) // 2
        vectors = [combine(x, y) for x, y in zip(vectors[:half], vectors[half:], strict=True)]
    (vector,) = vectors
    n = v.lanes
    while n > 1:
        half, mask = n // 2, lambda lanes: ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)
        undef = ir.Constant(vector.type, ir.Undefined)
        low = v.b.shuffle_vector(vector, undef, mask(list(range(half))))
        high = v.b.shuffle_vector(vector, undef, mask(list(range(half, n))))
        vector, n = combine(low, high), half
    return v.b.extract_element(vector, ir.Constant(ir.IntType(32), 0))


def _sum_of_blocks(dtype: str, panel: int, term, shifted: bool):
    def wide(v):
        return ir.VectorType(ir.DoubleType(), v.lanes)

    def to_wide(v, x):
        return v.b.fpext(x, wide(v)) if dtype == "float32" else x

    def start(v, shift):
        return ir.Constant(wide(v), [0.0] * v.lanes)

    def add(v, total, x, shift, w, y):
        x = to_wide(v, v.b.fsub(x, shift) if shifted else x)
        value = term(v.b, x, lambda: to_wide(v, w()), lambda: to_wide(v, y()))
        return v.b.fadd(total, value, flags=CONTRACT)

    def finish(v, totals):
        return _in_pairs(v, totals, v.b.fadd)

    return _blocks(dtype, panel, start, add, finish, types.float64)


def _largest_of_blocks(dtype: str, panel: int):
    def largest(b, x, y):
        return b.select(b.fcmp_ordered(">", y, x), y, x)

    def start(v, shift):
        return v.spread(shift)

    def add(v, top, x, shift, w, y):
        return largest(v.b, top, x)

    def finish(v, tops):
        return _in_pairs(v, tops, lambda x, y: largest(v.b, x, y))

    return _blocks(dtype, panel, start, add, finish, getattr(types, dtype))


def row_sum(dtype: str, simd: Simd, kind: str, shifted: bool = False):
    """A function that adds up a row's columns first..last - 1, in float64: x, |x|, x^2 ("xx"), x w ("xw"),
    x y ("xy") or x w y ("xwy").

    x and y are addresses of matrices in panels, of which row `i` is meant, w of a row whose columns are neighbours;
    what the kind does not read may be 0. With `shifted`, x - shift takes the place of x, a number of the dtype.
    """
    item, panel, items, T = ITEMSIZE[dtype], simd.panel(dtype), items_at[dtype], getattr(np, dtype)
    number, vector = _terms(kind)
    plus, with_w, with_y = njit(**SCALAR)(number), "w" in kind, "y" in kind
    blocks = _sum_of_blocks(dtype, panel, vector, shifted)

    @njit(**SCALAR)
    def chain(sum_, x_first, x_last, w, y_first, y_last, stride, last_panel, shift, first, last):
        while first < last:
            j = first // panel
            end, in_last, at = min(last, (j + 1) * panel), j == last_panel, j * stride
            x = items(x_last if in_last else x_first + at)
            y = items(y_last if in_last else y_first + at)
            for k in range(first - j * panel, end - j * panel):
                xk = x[k] - shift if shifted else x[k]
                wk = items(w)[j * panel + k] if with_w else T(1)
                yk = y[k] if with_y else T(1)
                sum_ = plus(sum_, np.float64(xk), np.float64(wk), np.float64(yk))
            first = end
        return sum_

    @njit(**SCALAR)
    def total(x, w, y, i, stride, last_panel, last_width, shift, first, last):
        in_first, in_last = i * panel * item, last_panel * stride + i * last_width * item
        x_first, x_last, y_first, y_last = x + in_first, x + in_last, y + in_first, y + in_last
        begin, end = (first + BLOCK - 1) // BLOCK, last // BLOCK
        if end - begin < LEAST:
            return chain(0.0, x_first, x_last, w, y_first, y_last, stride, last_panel, shift, first, last)
        sum_ = blocks(x_first, x_last, y_first, y_last, w, stride, last_panel, shift, begin, end)
        if begin * BLOCK > first:
            sum_ = chain(
                sum_, x_first, x_last, w, y_first, y_last, stride, last_panel, shift, first, begin * BLOCK
            )  # fmt: skip
        return chain(sum_, x_first, x_last, w, y_first, y_last, stride, last_panel, shift, end * BLOCK, last)

    return total


def array_sum(dtype: str, simd: Simd, kind: str = "x", shifted: bool = False):
    """`row_sum` of n numbers that are neighbours, at the addresses x and w: total(x, w, shift, n)."""
    panel, total = simd.panel(dtype), row_sum(dtype, simd, kind, shifted)
    panel_bytes = panel * ITEMSIZE[dtype]

    @njit(**INLINE)
    def array_total(x, w, shift, n):
        return total(x, w, 0, 0, panel_bytes, (n - 1) // panel, 0, shift, 0, n)

    return array_total


def sums_of_rows(dtype: str, simd: Simd, kind: str, shifted: bool = False):
    """A function that writes `row_sum` of rows lo..hi - 1 to out[i * step], less shifts[i * step] with `shifted`.

    In narrow matrices a loop over the rows is all there is: what a row costs beyond its additions would show.
    """
    item, items, T = ITEMSIZE[dtype], items_at[dtype], getattr(np, dtype)
    number, _ = _terms(kind)
    plus, with_w, with_y = njit(**SCALAR)(number), "w" in kind, "y" in kind
    total = row_sum(dtype, simd, kind, shifted)

    @njit(**INLINE)
    def sums(out, step, x, w, y, stride, last_panel, last_width, shifts, first, last, lo, hi):
        if last_panel == 0 and last - first < LEAST * BLOCK:
            weights = items(w)
            for i in range(lo, hi):
                xs, ys, sum_ = items(x + i * last_width * item), items(y + i * last_width * item), 0.0
                shift = T(shifts[i * step]) if shifted else T(0)
                for k in range(first, last):
                    xk = xs[k] - shift if shifted else xs[k]
                    wk, yk = weights[k] if with_w else T(1), ys[k] if with_y else T(1)
                    sum_ = plus(sum_, np.float64(xk), np.float64(wk), np.float64(yk))
                out[i * step] = sum_
        else:
            for i in range(lo, hi):
                shift = T(shifts[i * step]) if shifted else T(0)
                out[i * step] = total(x, w, y, i, stride, last_panel, last_width, shift, first, last)

    return sums


def row_max(dtype: str, simd: Simd):
    """A function that finds the largest of a row's first n columns; NaN is passed over, but in the first column."""
    item, panel, items = ITEMSIZE[dtype], simd.panel(dtype), items_at[dtype]
    blocks = _largest_of_blocks(dtype, panel)

    @njit(**SCALAR)
    def largest(x, i, stride, last_panel, last_width, n):
        in_first, in_last = x + i * panel * item, x + last_panel * stride + i * last_width * item
        top, k = items(in_last if last_panel == 0 else in_first)[0], 0
        if n >= LEAST * BLOCK:
            top = blocks(in_first, in_last, 0, 0, 0, stride, last_panel, top, 0, n // BLOCK)
            k = n // BLOCK * BLOCK
        while k < n:
            j = k // panel
            z = items(in_last if j == last_panel else in_first + j * stride)
            end = min(n, (j + 1) * panel)
            for at in range(k - j * panel, end - j * panel):
                top = z[at] if z[at] > top else top
            k = end
        return top

    return largest


def maxima_of_rows(dtype: str, simd: Simd):
    """A function that writes `row_max` of rows lo..hi - 1 to out[i], in float64."""
    item, items, largest = ITEMSIZE[dtype], items_at[dtype], row_max(dtype, simd)

    @njit(**INLINE)
    def maxima(out, x, stride, last_panel, last_width, n, lo, hi):
        if last_panel == 0 and n < LEAST * BLOCK:
            for i in range(lo, hi):
                z = items(x + i * last_width * item)
                top = z[0]
                for k in range(1, n):
                    top = z[k] if z[k] > top else top
                out[i] = np.float64(top)
        else:
            for i in range(lo, hi):
                out[i] = np.float64(largest(x, i, stride, last_panel, last_width, n))

    return maxima


def _sums_of_so_many(dtype: str, lanes: int, kind: str):
    """An intrinsic that writes the sums of `lanes` columns to `out`, float64; rows are `stride` bytes apart."""
    wide = ir.VectorType(ir.DoubleType(), lanes)

    @intrinsic
    def sums(typingctx, out, x, y, centre, stride, rows):
        def codegen(context, builder, sig, args):
            out, x, y, centre, stride, rows = args
            v = Vectors(builder, dtype, lanes)
            total = cgutils.alloca_once_value(builder, ir.Constant(wide, [0.0] * lanes))
            centre = v.load(centre) if kind == "squares" else None

            def to_wide(value):
                return builder.fpext(value, wide) if dtype == "float32" else value

            with cgutils.for_range(builder, rows) as loop:
                at = builder.mul(loop.index, stride)
                value = v.load(builder.add(x, at))
                value = to_wide(builder.fsub(value, centre) if kind == "squares" else value)
                if kind == "squares":
                    value = builder.fmul(value, value, flags=CONTRACT)
                elif kind == "products":
                    value = builder.fmul(value, to_wide(v.load(builder.add(y, at))), flags=CONTRACT)
                builder.store(builder.fadd(builder.load(total), value, flags=CONTRACT), total)
            builder.store(builder.load(total), builder.inttoptr(out, wide.as_pointer())).align = 8
            return context.get_dummy_value()

        return types.void(*[IP] * 6), codegen

    return sums


def sums_of_columns(dtype: str, simd: Simd, kind: str):
    """A function that writes the sums of a panel's columns to out, in float64, row after row: of x ("values"), of
    (x - centre)^2, with a number of the dtype for each column ("squares"), or of x y ("products").

    x, y and centre are addresses; those that the kind does not read may be 0. The sums are kept in registers.
    """
    item, panel, least = ITEMSIZE[dtype], simd.panel(dtype), min(simd.widths(dtype))
    whole, part = _sums_of_so_many(dtype, panel, kind), _sums_of_so_many(dtype, least, kind)

    @njit(**INLINE)
    def sums(out, x, y, centre, width, rows):
        if width == panel:
            whole(out, x, y, centre, width * item, rows)
        else:
            for k in range(0, width, least):
                part(out + 8 * k, x + k * item, y + k * item, centre + k * item, width * item, rows)

    return sums
