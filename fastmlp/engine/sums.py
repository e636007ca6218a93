"""Sums along the rows and columns of matrices in panels, by vectors, and the largest number of a row.

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
from .elementary import INLINE
from .ir import IP, Vectors, i64, items_at
from .jit import has_fma

BLOCK = 16
LEAST = 2  # blocks; of fewer columns a chain takes no longer
CONTRACT = ("contract",)


class _Row:
    """Emits what finds the columns of row i of matrices in panels, `stride` bytes apart: whole blocks begin..end - 1 of
    the columns first..last - 1, and what lies before `head` and from `tail` on."""

    def __init__(self, builder, dtype: str, panel: int, i, stride, last_panel, last_width, first, last):
        self.b, self.panel, self.item, self.lanes = builder, panel, ITEMSIZE[dtype], min(BLOCK, panel)
        self.v, self.stride, self.last_panel = Vectors(builder, dtype, self.lanes), stride, last_panel
        self.in_first = builder.mul(i, i64(panel * self.item))
        self.in_last = builder.add(
            builder.mul(last_panel, stride), builder.mul(i, builder.mul(last_width, i64(self.item)))
        )
        begin = builder.sdiv(builder.add(first, i64(BLOCK - 1)), i64(BLOCK))
        end = builder.sdiv(last, i64(BLOCK))
        enough = builder.icmp_signed(">=", builder.sub(end, begin), i64(LEAST))
        self.begin, self.end = builder.select(enough, begin, end), end
        self.head = builder.select(enough, builder.mul(begin, i64(BLOCK)), last)
        self.tail = builder.select(enough, builder.mul(end, i64(BLOCK)), last)

    def place(self, column):
        """Bytes from a matrix's start to a column of this row."""
        index, within = self.b.sdiv(column, i64(self.panel)), self.b.srem(column, i64(self.panel))
        row = self.b.add(self.in_first, self.b.mul(index, self.stride))
        row = self.b.select(self.b.icmp_signed("==", index, self.last_panel), self.in_last, row)
        return self.b.add(row, self.b.mul(within, i64(self.item)))

    def item_at(self, address):
        return self.b.load(self.b.inttoptr(address, self.v.scalar.as_pointer()))


def _factors(kind: str, b, x, w, y):
    """The two factors of what is added for a column, or one number and None: w is a number for each column, y of a
    second matrix; both are asked for where the kind has them."""
    if kind == "|x|":
        return b.select(b.fcmp_ordered("<", x, ir.Constant(x.type, None)), b.fneg(x), x), None
    if kind == "xwy":
        return b.fmul(x, w()), y()
    return x, {"x": lambda: None, "xx": lambda: x, "xw": w, "xy": y}[kind]()


def _plus_term(b, total, x, y):
    """The sum and one column's term. A product is fused with it by name, where the processor can: of such a chain LLVM
    makes vectors of products on ARM, whose elements it adds up in order, and would fuse nothing."""
    if y is None:
        return b.fadd(total, x)
    return b.fma(x, y, total) if has_fma() else b.fadd(total, b.fmul(x, y))


def _plus(kind: str):
    """An intrinsic: the sum and the term of one column, all float64."""

    @intrinsic
    def plus(typingctx, total, x, w, y):
        def codegen(context, builder, sig, args):
            total, x, w, y = args
            return _plus_term(builder, total, *_factors(kind, builder, x, lambda: w, lambda: y))

        return types.float64(*[types.float64] * 4), codegen

    return plus


def in_pairs(b, rows, combine):
    """A vector of one number for each row, which is a list of vectors: of all of its lanes, each with the one half the
    block further on, and so on down to two. There are 1, 2, 4 or 8 rows.

    Two rows become one vector at every step, with halves of both, so that a step takes few instructions.
    """
    vectors, n = [], rows[0][0].type.count
    for row in rows:
        while len(row) > 1:
            half = len(row) // 2
            row = [combine(x, y) for x, y in zip(row[:half], row[half:], strict=True)]
        vectors += row
    while n > 1:
        half, joined = n // 2, [vectors[i : i + 2] for i in range(0, len(vectors), 2)]
        vectors = []
        for x, *others in joined:
            y = others[0] if others else ir.Constant(x.type, ir.Undefined)
            starts = range(0, (1 + len(others)) * x.type.count, n)
            low, high = ([start + at + lane for start in starts for lane in range(half)] for at in (0, half))
            masks = (ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes) for lanes in (low, high))
            vectors.append(combine(*(b.shuffle_vector(x, y, mask) for mask in masks)))
        n = half
    return vectors[0]


def _number_in_pairs(b, vectors, combine):
    """That of one row, as a number."""
    return b.extract_element(in_pairs(b, [vectors], combine), ir.Constant(ir.IntType(32), 0))


def row_sum(dtype: str, simd: Simd, kind: str, shifted: bool = False):
    """A function that adds up the columns first..last - 1 of row i, in float64: x, |x|, x^2 ("xx"), x w ("xw"),
    x y ("xy") or x w y ("xwy"). Written out as instructions, for Numba would take a second longer to compile a loss.

    x and y are addresses of matrices in panels, w of a row whose columns are neighbours; what the kind does not read
    may be 0. With `shifted`, x - shift takes the place of x, a number of the dtype.
    """
    panel, double = simd.panel(dtype), ir.DoubleType()

    def factors(b, x, shift, w, y, wide):
        def to_wide(value):
            return b.fpext(value, wide) if dtype == "float32" else value

        return _factors(
            kind, b, to_wide(b.fsub(x, shift) if shifted else x), *(lambda f=f: to_wide(f()) for f in (w, y))
        )

    @intrinsic
    def total(typingctx, x, w, y, i, stride, last_panel, last_width, shift, first, last):
        def codegen(context, b, sig, args):
            x, w, y, i, stride, last_panel, last_width, shift, first, last = args
            row = _Row(b, dtype, panel, i, stride, last_panel, last_width, first, last)
            v, wide = row.v, ir.VectorType(double, row.lanes)
            zeros, sum_ = ir.Constant(wide, [0.0] * row.lanes), cgutils.alloca_once(b, double)
            sums = [cgutils.alloca_once(b, wide) for _ in range(BLOCK // row.lanes)]
            b.store(ir.Constant(double, 0.0), sum_)
            with b.if_then(b.icmp_signed("<", row.begin, row.end)):
                for block in sums:
                    b.store(zeros, block)
                shifts = v.spread(shift)
                with cgutils.for_range(b, row.end, row.begin) as loop:
                    for q, block in enumerate(sums):
                        column = b.add(b.mul(loop.index, i64(BLOCK)), i64(q * row.lanes))
                        at, at_w = row.place(column), b.mul(column, i64(row.item))
                        w_and_y = (lambda at=at_w: v.load(b.add(w, at))), (lambda at=at: v.load(b.add(y, at)))
                        one, other = factors(b, v.load(b.add(x, at)), shifts, *w_and_y, wide)
                        one = one if other is None else b.fmul(one, other, flags=CONTRACT)
                        b.store(b.fadd(b.load(block), one, flags=CONTRACT), block)
                b.store(_number_in_pairs(b, [b.load(block) for block in sums], b.fadd), sum_)
            for low, high in ((first, row.head), (row.tail, last)):
                with cgutils.for_range(b, high, low) as loop:
                    at, at_w = row.place(loop.index), b.mul(loop.index, i64(row.item))
                    w_and_y = (lambda at=at_w: row.item_at(b.add(w, at))), (lambda at=at: row.item_at(b.add(y, at)))
                    terms = factors(b, row.item_at(b.add(x, at)), shift, *w_and_y, double)
                    b.store(_plus_term(b, b.load(sum_), *terms), sum_)
            return b.load(sum_)

        return types.float64(*[IP] * 7, getattr(types, dtype), IP, IP), codegen

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
    plus, with_w, with_y = _plus(kind), "w" in kind, "y" in kind
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
    """A function that finds the largest of row i's first n columns; NaN is passed over, but in the first column."""
    panel = simd.panel(dtype)

    @intrinsic
    def largest(typingctx, x, i, stride, last_panel, last_width, n):
        def codegen(context, b, sig, args):
            x, i, stride, last_panel, last_width, n = args
            row = _Row(b, dtype, panel, i, stride, last_panel, last_width, i64(0), n)

            def larger(top, value):
                return b.select(b.fcmp_ordered(">", value, top), value, top)

            first = row.item_at(b.add(x, row.place(i64(0))))
            top = cgutils.alloca_once(b, row.v.scalar)
            tops = [cgutils.alloca_once(b, row.v.type) for _ in range(BLOCK // row.lanes)]
            b.store(first, top)
            with b.if_then(b.icmp_signed("<", row.begin, row.end)):
                for block in tops:
                    b.store(row.v.spread(first), block)
                with cgutils.for_range(b, row.end, row.begin) as loop:
                    for q, block in enumerate(tops):
                        column = b.add(b.mul(loop.index, i64(BLOCK)), i64(q * row.lanes))
                        b.store(larger(b.load(block), row.v.load(b.add(x, row.place(column)))), block)
                b.store(_number_in_pairs(b, [b.load(block) for block in tops], larger), top)
            for low, high in ((i64(0), row.head), (row.tail, n)):
                with cgutils.for_range(b, high, low) as loop:
                    b.store(larger(b.load(top), row.item_at(b.add(x, row.place(loop.index)))), top)
            return b.load(top)

        return getattr(types, dtype)(*[IP] * 6), codegen

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
    whole, part, one = (_sums_of_so_many(dtype, lanes, kind) for lanes in (panel, least, 1))

    @njit(**INLINE)
    def sums(out, x, y, centre, width, rows):
        if width == panel:
            whole(out, x, y, centre, width * item, rows)
        elif width == 1:
            one(out, x, y, centre, item, rows)
        else:
            for k in range(0, width, least):
                part(out + 8 * k, x + k * item, y + k * item, centre + k * item, width * item, rows)

    return sums
