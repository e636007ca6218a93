"""A slab of factors in shared memory multiplied by tensor cores, with sums in float32. The functions are those of
`multiply_add.py`. Factors are

- "bf16": rounded to BF16, with 7 mantissa bits;
- "tf32": rounded to TF32, with 10;
- "tf32x3": high + low, two numbers of TF32, and of their four products all but low x low are added: the error of a
  product is 7e-7 of it at most, where float32 rounds to 6e-8; a factor that is infinite, or next to it, makes NaN.
  Tensor cores round a sum towards zero (Fasi, Higham, Mikaitis and Pranesh, 2021), so errors of long sums add up, to
  1e-4 for 13 000 numbers: eight factors have a sum of their own, which is added by other units (Ootomo and Yokota,
  2022).

A warp multiplies 16 x 8 words of A by 8 x 8 of B in one instruction, where a word is a number in TF32, or two factors
that follow each other in BF16. The instruction says which thread holds which word (PTX ISA, "Matrix Fragments for
mma.m16n8k8" and "mma.m16n8k16"), and that a thread's four words of A and two of B are neighbours among its registers.
But which rows, columns and factors of a tile these are is ours to choose, as long as operands and results agree. Here
thread 4 g + k of a warp, k = 0..3, has of each step the words 2 k and 2 k + 1

- of the four rows that follow 4 g: two instructions' rows g and g + 8,
- of the four columns that follow 4 g: column g of four instructions,

and of the results these four rows, and the eight columns that follow 8 k: columns 2 k and 2 k + 1 of four instructions.

In a slab each two words have a row. It begins with what a thread needs in one vector: of A rows 4 i and 4 i + 1, the
first words and then the second ones; of B both words of column 4 i, and those of 4 i + 1. Behind all of these follow
rows or columns 4 i + 2 and 4 i + 3. So all that is read and written are vectors; how far the halves and rows are apart
lets those of 8 threads lie in different banks of shared memory.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import cuda, types

from .device import SIMULATED, Tile
from .functions import inlined, item_type, unrolled
from .vectors import BYTES, copy_vector, vector_items

OF_WORD = {"tf32x3": 1, "tf32": 1, "bf16": 2}  # factors
FACTORS = {precision: 2 * factors for precision, factors in OF_WORD.items()}
ROWS = 2
STEP = 4  # rows of a slab that an instruction multiplies
_BESIDE = {"tf32x3": 2, "tf32": 2, "bf16": 4}
_PADDING, _HALF_PADDING = 8, {"tf32x3": 8, "tf32": 8, "bf16": 4}


def columns_together(dtype: str) -> int:
    return 8


def neighbours(dtype: str, tile: Tile) -> int:
    return min(_BESIDE[tile.precision], tile.depth // vector_items(dtype))


def sizes(dtype: str, tile: Tile) -> tuple[int, int]:
    rows = tile.depth // FACTORS[tile.precision]
    assert dtype == "float32" and rows % (STEP * tile.groups) == 0, tile
    assert tile.own_rows % 4 == tile.own_columns % 8 == 0, tile
    assert tile.rows // tile.own_rows % 8 == 0 and tile.columns // tile.own_columns % 4 == 0, tile
    return rows * _stored(tile.rows), rows * (_stored(tile.rows) + _stored(tile.columns))


def _stored(columns: int) -> int:
    """Items from a row of a slab to the next."""
    return 2 * columns + _PADDING


def _half(columns: int, tile: Tile) -> int:
    """Items from the first half of a row to the second."""
    return columns + _HALF_PADDING[tile.precision]


@cache
def places(dtype: str, tile: Tile):
    stored_a, stored_b, half = _stored(tile.rows), _stored(tile.columns), _half(tile.rows, tile)
    log2_factors = FACTORS[tile.precision].bit_length() - 1

    @inlined
    def of_a(d):
        return (d >> log2_factors) * stored_a

    @inlined
    def of_b(d):
        return (d >> log2_factors) * stored_b

    @inlined
    def in_row(m):  # the first of two neighbours
        return (m >> 2) * 4 + (m >> 1) % 2 * half

    return of_a, of_b, in_row


@cache
def put_along(dtype: str, tile: Tile):
    lanes, stored, D = vector_items(dtype), _stored(tile.rows), item_type[dtype]
    word_of, of_word = _word_of(tile.precision), OF_WORD[tile.precision]
    n_rows = lanes // FACTORS[tile.precision]  # of the slab, that a vector of factors has

    @inlined
    def along(shared, at, x, n):
        words = cuda.local.array(lanes, D, BYTES)
        for row in range(n_rows):
            for word in range(2):
                for i in range(2):
                    words[2 * word + i] = word_of(x, n + i * lanes + (2 * row + word) * of_word, 1)
            copy_vector(shared, at + row * stored, words, 0)

    return along


def put_across_a(dtype: str, tile: Tile):
    return _put_across(dtype, tile, _half(tile.rows, tile), 1, 2)


def put_across_b(dtype: str, tile: Tile):
    return _put_across(dtype, tile, _half(tile.columns, tile), 2, 1)


@cache
def _put_across(dtype: str, tile: Tile, half: int, by_column: int, by_word: int):
    """f(shared, at, x, n): x[n:] are a vector for each factor of a row of the slab. In the vectors that are made of
    them a number and its neighbour are `by_column` apart, and its two words `by_word`.
    """
    lanes, D = vector_items(dtype), item_type[dtype]
    word_of, to_next_word = _word_of(tile.precision), OF_WORD[tile.precision] * lanes

    @inlined
    def across(shared, at, x, n):
        words = cuda.local.array(lanes, D, BYTES)
        for second in range(2):
            for i in range(2):
                for word in range(2):
                    value = word_of(x, n + word * to_next_word + 2 * second + i, lanes)
                    words[i * by_column + word * by_word] = value
            copy_vector(shared, at + second * half, words, 0)

    return across


@cache
def _word_of(precision: str):
    """f(x, n, step): the word of x[n], or of that and x[n + step]."""

    @inlined
    def as_it_is(x, n, step):
        return x[n]

    @inlined
    def tf32(x, n, step):
        return rounded_to_tf32(x[n])

    @inlined
    def bf16(x, n, step):
        return pair_of_bf16(x[n], x[n + step])

    return {"tf32x3": as_it_is, "tf32": tf32, "bf16": bf16}[precision]


@cache
def thread_position(tile: Tile):
    TX, threads = tile.columns // tile.own_columns, tile.group
    warps_across = TX // 4

    @inlined
    def position(t):
        group, t = t // threads, t % threads
        warp, lane = t // 32, t % 32
        return warp % warps_across * 4 + lane % 4, warp // warps_across * 8 + lane // 4, group

    return position


@cache
def multiply(dtype: str, tile: Tile):
    D, BM, BN, RM, RN = item_type[dtype], tile.rows, tile.columns, tile.own_rows, tile.own_columns
    rows = tile.depth // FACTORS[tile.precision] // tile.groups  # of a slab that a group of threads multiplies
    in_b, stored_a, stored_b = sizes(dtype, tile)[0], _stored(BM), _stored(BN)
    half_a, half_b = _half(BM, tile), _half(BN, tile)
    by_m, by_n = BM // RM * 4, BN // RN * 8  # from four rows of a thread, and from eight columns, to its next
    n_y = RN  # words of B that a thread has in a step
    instruction, in_parts, zero = _INSTRUCTIONS[tile.precision], tile.precision == "tf32x3", np.float32(0)

    @inlined
    def load_a(i, x, shared, a):
        copy_vector(x, 0, shared, a + i // 2 * by_m + i % 2 * half_a)

    @inlined
    def load_b(g, y, shared, b):
        for half in range(2):
            copy_vector(y, 8 * g + 4 * half, shared, b + g * by_n + half * half_b)

    @inlined
    def of_two_rows(i, sums, shared, a, y, y_low):
        x = cuda.local.array(4, D, BYTES)
        load_a(i, x, shared, a)
        for n in range(RN // 2):  # of four columns with the halves in turn, and in a half one column after the other
            place = 2 * i * RN + n // 4 * 8 + n % 4
            instruction(sums, place, place + RN, x, 0, y, 2 * n)

    @inlined
    def of_two_rows_in_parts(i, sums, shared, a, y, y_low):
        x, high, low = cuda.local.array(4, D, BYTES), cuda.local.array(4, D, BYTES), cuda.local.array(4, D, BYTES)
        part = cuda.local.array(16, D, BYTES)
        load_a(i, x, shared, a)
        split(4, x, high, low)
        for n in range(RN // 2):
            for w in range(4):
                part[4 * w] = zero
            instruction(part, 0, 8, low, 0, y, 2 * n)  # small numbers first
            instruction(part, 0, 8, high, 0, y_low, 2 * n)
            instruction(part, 0, 8, high, 0, y, 2 * n)
            place = 2 * i * RN + n // 4 * 8 + n % 4
            for w in range(2):
                sums[place + 4 * w] += part[4 * w]
                sums[place + RN + 4 * w] += part[8 + 4 * w]

    @inlined
    def split(n, x, high, low):
        for w in range(n):
            value = x[w]
            high[w] = near_tf32(value)
            low[w] = shortened_to_tf32(value - high[w])

    load_all_b = unrolled(RN // 8, load_b)
    of_all_rows = unrolled(RM // 2, of_two_rows_in_parts if in_parts else of_two_rows)

    @inlined
    def step(s, shared, sums, a, b):
        y, y_low = cuda.local.array(n_y, D, BYTES), cuda.local.array(n_y, D, BYTES)
        load_all_b(0, y, shared, b + s * (STEP * stored_b))
        if in_parts:
            split(n_y, y, y, y_low)
        of_all_rows(0, sums, shared, a + s * (STEP * stored_a), y, y_low)

    steps = unrolled(rows // STEP, step)

    @inlined
    def multiply(shared, sums, slab, tx, ty, group):
        k, g = tx % 4, ty % 8
        row = group * rows + k
        steps(0, shared, sums, slab + row * stored_a + 4 * ty, slab + in_b + row * stored_b + 8 * (tx - k) + 4 * g)

    return multiply


# Instructions --------------------------------------------------------------------------------------------------------

if SIMULATED:

    def _bits(x):
        return int(np.float32(x).view(np.uint32))

    def _number(bits):
        return np.uint32(bits).view(np.float32)

    def rounded_to_tf32(x):
        return _number(_bits(x) + 0x1000 & 0xFFFFE000) if np.isfinite(x) else x

    def near_tf32(x):
        return _number(_bits(x) + 0x1000 & 0xFFFFE000)

    def shortened_to_tf32(x):
        return _number(_bits(x) & 0xFFFFE000)

    def _bf16(x):
        bits = _bits(x)
        if not np.isfinite(x):
            return bits >> 16 | (0x40 if np.isnan(x) else 0)
        return bits + 0x7FFF + (bits >> 16 & 1) >> 16

    def pair_of_bf16(low, high):
        return _number(_bf16(high) << 16 | _bf16(low))

    def _factors_of_tf32(words):
        assert not (words.view(np.uint32) & 0x1FFF)[np.isfinite(words)].any(), "words that were not rounded"
        return words

    def _factors_of_bf16(words):
        bits = words.view(np.uint32)
        factors = np.stack([bits << np.uint32(16), bits & np.uint32(0xFFFF0000)], -1).view(np.float32)
        return factors.reshape(len(words), -1)

    def _truncated(x):
        """Towards zero, as tensor cores round their sums (Fasi, Higham, Mikaitis and Pranesh, 2021)."""
        nearest = np.float32(x)
        return nearest if not abs(nearest) > abs(x) else np.nextafter(nearest, np.float32(0))

    def _instruction(factors):
        def instruction(sums, c, below, x, a, y, b):
            t, n_warps = cuda.threadIdx.x, cuda.blockDim.x // 32
            warp, g, k = t // 32, t % 32 // 4, t % 4
            words = cuda.shared.array((n_warps, 8, 4, 6), types.float32)
            products = cuda.shared.array((n_warps, 16, 8), types.float64)
            words[warp, g, k, :4], words[warp, g, k, 4:] = x[a : a + 4], y[b : b + 2]
            cuda.syncwarp()
            if t % 32 == 0:
                of = words[warp]
                A = np.block([[of[..., 0], of[..., 2]], [of[..., 1], of[..., 3]]])
                B = np.block([of[..., 4], of[..., 5]])  # by columns
                products[warp] = factors(A).astype(np.float64) @ factors(B).T
            cuda.syncwarp()
            for place, row in ((c, g), (below, g + 8)):
                for column in (0, 1):
                    at = place + 4 * column
                    sums[at] = _truncated(float(sums[at]) + products[warp, row, 2 * k + column])

        return instruction

    _TF32, _BF16 = _instruction(_factors_of_tf32), _instruction(_factors_of_bf16)

else:
    from llvmlite import ir
    from numba.core import cgutils
    from numba.cuda.extending import intrinsic

    WORD, FLOAT = ir.IntType(32), ir.FloatType()

    @intrinsic
    def rounded_to_tf32(typingctx, x):
        """The nearest number that TF32 has, as a word."""

        def codegen(context, builder, sig, args):
            convert = ir.InlineAsm(ir.FunctionType(WORD, [FLOAT]), "cvt.rna.tf32.f32 $0, $1;", "=r,f")
            return builder.bitcast(builder.call(convert, args), FLOAT)

        return types.float32(types.float32), codegen

    def _masked(builder, bits):
        return builder.bitcast(builder.and_(bits, ir.Constant(WORD, 0xFFFFE000)), FLOAT)

    @intrinsic
    def near_tf32(typingctx, x):
        """As `rounded_to_tf32`, in half the instructions, but of NaN it may make 0."""

        def codegen(context, builder, sig, args):
            return _masked(builder, builder.add(builder.bitcast(args[0], WORD), ir.Constant(WORD, 0x1000)))

        return types.float32(types.float32), codegen

    @intrinsic
    def shortened_to_tf32(typingctx, x):
        """The number without the digits that TF32 does not have."""

        def codegen(context, builder, sig, args):
            return _masked(builder, builder.bitcast(args[0], WORD))

        return types.float32(types.float32), codegen

    @intrinsic
    def pair_of_bf16(typingctx, low, high):
        """The word of the nearest numbers that BF16 has."""

        def codegen(context, builder, sig, args):
            convert = ir.InlineAsm(ir.FunctionType(WORD, [FLOAT] * 2), "cvt.rn.bf16x2.f32 $0, $1, $2;", "=r,f,f")
            return builder.bitcast(builder.call(convert, args[::-1]), FLOAT)

        return types.float32(types.float32, types.float32), codegen

    def _instruction(shape: str, precision: str):
        code = (
            f"mma.sync.aligned.{shape}.row.col.f32.{precision}.{precision}.f32 "
            "{$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, {$10, $11, $12, $13};"
        )
        constraints = ",".join(["=f"] * 4 + ["r"] * 6 + ["f"] * 4)
        function = ir.FunctionType(ir.LiteralStructType([FLOAT] * 4), [WORD] * 6 + [FLOAT] * 4)

        @intrinsic
        def instruction(typingctx, sums, c, below, x, a, y, b):
            """The numbers c, c + 4, below and below + 4 of `sums`, of a warp's threads, are added the product of
            x[a : a + 4] and y[b : b + 2]. All threads of a warp call it.
            """

            def codegen(context, builder, sig, args):
                def pointers(at, index, steps):
                    data = context.make_array(sig.args[at])(context, builder, args[at]).data
                    places = [builder.add(args[index], ir.Constant(args[index].type, step)) for step in steps]
                    return [cgutils.gep(builder, data, place) for place in places]

                results = pointers(0, 1, (0, 4)) + pointers(0, 2, (0, 4))
                words = [builder.load(place) for place in pointers(3, 4, range(4)) + pointers(5, 6, range(2))]
                operands = [builder.bitcast(word, WORD) for word in words] + [builder.load(place) for place in results]
                mma = ir.InlineAsm(function, code, constraints, side_effect=True)
                added = builder.call(mma, operands, attrs=("convergent", "nounwind"))
                for n, place in enumerate(results):
                    builder.store(builder.extract_value(added, n), place)
                return context.get_dummy_value()

            at = types.intp
            return types.void(sums, at, at, x, at, y, at), codegen

        return instruction

    _TF32, _BF16 = _instruction("m16n8k8", "tf32"), _instruction("m16n8k16", "bf16")

_INSTRUCTIONS = {"tf32x3": _TF32, "tf32": _TF32, "bf16": _BF16}
