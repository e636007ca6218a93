"""Vector instructions and memory as Numba intrinsics. Addresses are integers; nothing here checks bounds.

llvmlite cannot mangle the names of vector intrinsics, so they are written out ("llvm.fma.v16f32"). Loads and stores
state the alignment of an item: claiming more than is true would fault.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

I32, I64 = ir.IntType(32), ir.IntType(64)
LINE = 64  # bytes of a cache line on most machines; another size costs time, not correctness
IP = types.intp
SCALAR = {"float32": (ir.FloatType(), "f32", 4), "float64": (ir.DoubleType(), "f64", 8)}


def i64(x: int) -> ir.Constant:
    return ir.Constant(I64, x)


def pointer_to(numba_type, llvm_type):
    """An intrinsic that reads an address as a pointer to items of that type: `p = cast(address); p[i]`."""

    @intrinsic
    def cast(typingctx, address):
        def codegen(context, builder, sig, args):
            return builder.inttoptr(args[0], llvm_type.as_pointer())

        return types.CPointer(numba_type)(IP), codegen

    return cast


int64_at = pointer_to(types.int64, I64)
int32_at = pointer_to(types.int32, I32)
uint8_at = pointer_to(types.uint8, ir.IntType(8))
float32_at = pointer_to(types.float32, ir.FloatType())
float64_at = pointer_to(types.float64, ir.DoubleType())
items_at = {"float32": float32_at, "float64": float64_at}
numbers_at = {**items_at, "uint8": uint8_at}  # of data as they are stored
indices_at = {"int32": int32_at, "int64": int64_at}


@intrinsic
def call(typingctx, address, a, b, c, d):
    """Call the kernel at `address` with four integers."""

    def codegen(context, builder, sig, args):
        fn_type = ir.FunctionType(ir.VoidType(), [I64] * 4)
        builder.call(builder.inttoptr(args[0], fn_type.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(IP, IP, IP, IP, IP), codegen


@intrinsic
def call_void(typingctx, address):
    """Call a C function without arguments; what it returns is ignored."""

    def codegen(context, builder, sig, args):
        fn_type = ir.FunctionType(ir.VoidType(), [])
        builder.call(builder.inttoptr(args[0], fn_type.as_pointer()), [])
        return context.get_dummy_value()

    return types.void(IP), codegen


@intrinsic
def atomic_add(typingctx, address, value):
    """Add to the int64 at `address` as one atomic step; returns the old value."""

    def codegen(context, builder, sig, args):
        ptr = builder.inttoptr(args[0], I64.as_pointer())
        return builder.atomic_rmw("add", ptr, args[1], "seq_cst")

    return types.int64(IP, types.int64), codegen


@intrinsic
def atomic_exchange(typingctx, address, old, new):
    """Write `new` to the int64 at `address` if it is `old`, as one atomic step; returns what was there."""

    def codegen(context, builder, sig, args):
        ptr = builder.inttoptr(args[0], I64.as_pointer())
        return builder.extract_value(builder.cmpxchg(ptr, args[1], args[2], "seq_cst", "seq_cst"), 0)

    return types.int64(IP, types.int64, types.int64), codegen


@intrinsic
def atomic_load(typingctx, address):
    """The int64 at `address`, read afresh: LLVM would hoist an ordinary load out of a spin loop."""

    def codegen(context, builder, sig, args):
        return builder.load_atomic(builder.inttoptr(args[0], I64.as_pointer()), "acquire", 8)

    return types.int64(IP), codegen


@intrinsic
def atomic_store(typingctx, address, value):
    """Write the int64 at `address` for all threads to see."""

    def codegen(context, builder, sig, args):
        builder.store_atomic(args[1], builder.inttoptr(args[0], I64.as_pointer()), "release", 8)
        return context.get_dummy_value()

    return types.void(IP, types.int64), codegen


@intrinsic
def pause(typingctx):
    """Tell the core that this is a spin loop, where the architecture has a word for it."""

    def codegen(context, builder, sig, args):
        if _is_x86(builder):
            _call_void(builder, "llvm.x86.sse2.pause")
        elif _is_arm64(builder):
            _call_void(builder, "llvm.aarch64.hint", ir.Constant(I32, 1))
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def cycles(typingctx):
    """The processor's cycle counter (time-stamp counter on x86); 0 where there is none to read."""

    def codegen(context, builder, sig, args):
        fn_type = ir.FunctionType(I64, [])
        return builder.call(cgutils.get_or_insert_function(builder.module, fn_type, "llvm.readcyclecounter"), [])

    return types.int64(), codegen


@intrinsic
def flush_denormals(typingctx):
    """From now on this thread's floating-point unit takes denormals for zeros and makes none; returns the mode before.

    Intel's processors take some 150 cycles for an operation with a denormal: late in a fit, when gradients vanish,
    steps took three to six times as long. On an architecture that is not known here nothing changes.
    """

    def codegen(context, builder, sig, args):
        before = _float_mode(builder)
        if before is None:
            return i64(0)
        bits = 0x8040 if _is_x86(builder) else 1 << 24  # flush to zero and denormals are zeros; FZ
        _set_float_mode(builder, builder.or_(before, i64(bits)))
        return before

    return types.int64(), codegen


@intrinsic
def restore_float_mode(typingctx, mode):
    """Put back what `flush_denormals` returned."""

    def codegen(context, builder, sig, args):
        _set_float_mode(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


def _is_x86(builder) -> bool:
    return builder.module.triple.startswith(("x86_64", "i686", "amd64"))


def _is_arm64(builder) -> bool:
    return builder.module.triple.startswith(("aarch64", "arm64"))


def _float_mode(builder):
    """The control register of floating-point operations as int64; None where it is not known how to read it."""
    if _is_x86(builder):
        place = cgutils.alloca_once(builder, I32)
        _call_void(builder, "llvm.x86.sse.stmxcsr", builder.bitcast(place, ir.IntType(8).as_pointer()))
        return builder.zext(builder.load(place), I64)
    if _is_arm64(builder):
        fn = cgutils.get_or_insert_function(builder.module, ir.FunctionType(I64, []), "llvm.aarch64.get.fpcr")
        return builder.call(fn, [])
    return None


def _set_float_mode(builder, mode):
    if _is_x86(builder):
        place = cgutils.alloca_once(builder, I32)
        builder.store(builder.trunc(mode, I32), place)
        _call_void(builder, "llvm.x86.sse.ldmxcsr", builder.bitcast(place, ir.IntType(8).as_pointer()))
    elif _is_arm64(builder):
        _call_void(builder, "llvm.aarch64.set.fpcr", mode)


def _call_void(builder, name: str, *args):
    fn_type = ir.FunctionType(ir.VoidType(), [a.type for a in args])
    builder.call(cgutils.get_or_insert_function(builder.module, fn_type, name), args)


def _emit_prefetch(builder, address, for_writing: bool, locality: int):
    """Ask for the cache line at `address`; `locality` 3 is for the first-level cache, 2 for the second."""
    pointer = ir.IntType(8).as_pointer()
    fn_type = ir.FunctionType(ir.VoidType(), [pointer, I32, I32, I32])
    fn = cgutils.get_or_insert_function(builder.module, fn_type, "llvm.prefetch.p0")
    kind = [ir.Constant(I32, k) for k in (int(for_writing), locality, 1)]
    builder.call(fn, [builder.inttoptr(address, pointer), *kind])


@intrinsic
def prefetch(typingctx, address):
    """Ask for the cache line at this address, to be read soon."""

    def codegen(context, builder, sig, args):
        _emit_prefetch(builder, args[0], False, 3)
        return context.get_dummy_value()

    return types.void(types.int64), codegen


def _emit_touch(builder, address):
    """Write the item at `address` as it is: its line becomes this core's own. No other worker may write that item."""
    pointer = builder.inttoptr(address, I32.as_pointer())
    builder.store_atomic(builder.load_atomic(pointer, "monotonic", 4), pointer, "monotonic", 4)


def bits_of(dtype: str):
    """Intrinsics (to_bits, from_bits) between a float and the integer of the same size."""
    scalar, _, size = SCALAR[dtype]
    integer = ir.IntType(8 * size)
    numba_float, numba_int = getattr(types, dtype), getattr(types, f"int{8 * size}")

    @intrinsic
    def to_bits(typingctx, x):
        return numba_int(numba_float), lambda context, builder, sig, args: builder.bitcast(args[0], integer)

    @intrinsic
    def from_bits(typingctx, i):
        return numba_float(numba_int), lambda context, builder, sig, args: builder.bitcast(args[0], scalar)

    return to_bits, from_bits


class Vectors:
    """Emits operations on vectors of `lanes` items of one dtype."""

    def __init__(self, builder, dtype: str, lanes: int):
        self.b, self.lanes = builder, lanes
        self.scalar, self.suffix, self.item = SCALAR[dtype]
        self.type = ir.VectorType(self.scalar, lanes)
        self.undef = ir.Constant(self.type, ir.Undefined)
        self.zeros = ir.Constant(self.type, [0.0] * lanes)

    def load(self, address):
        value = self.b.load(self.b.inttoptr(address, self.type.as_pointer()))
        value.align = self.item
        return value

    def _first(self, n):
        """Which lanes come before lane n."""
        lanes = ir.VectorType(I64, self.lanes)
        end = self.b.insert_element(ir.Constant(lanes, ir.Undefined), n, ir.Constant(I32, 0))
        end = self.b.shuffle_vector(end, end, ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes))
        return self.b.icmp_signed("<", ir.Constant(lanes, list(range(self.lanes))), end)

    def load_and_keep_first(self, address, n):
        """A vector whose lanes from lane n on are 0, whatever lies there: memory of an executor goes on for a vector of
        four lanes."""
        return self.b.select(self._first(n), self.load(address), self.zeros)

    def load_first(self, address, n):
        """The same of which nothing from lane n on is read. By scalars on units whose vectors are of four lanes."""
        pointer, bits = self.type.as_pointer(), ir.VectorType(ir.IntType(1), self.lanes)
        fn_type = ir.FunctionType(self.type, [pointer, I32, bits, self.type])
        name = f"llvm.masked.load.v{self.lanes}{self.suffix}.p0"
        fn = cgutils.get_or_insert_function(self.b.module, fn_type, name)
        place = self.b.inttoptr(address, pointer)
        return self.b.call(fn, [place, ir.Constant(I32, self.item), self._first(n), self.zeros])

    def store(self, value, address):
        self.b.store(value, self.b.inttoptr(address, self.type.as_pointer())).align = self.item

    def broadcast(self, address):
        return self.spread(self.b.load(self.b.inttoptr(address, self.scalar.as_pointer())))

    def spread(self, item):
        one = self.b.insert_element(self.undef, item, ir.Constant(I32, 0))
        return self.b.shuffle_vector(one, self.undef, ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes))

    def fma(self, x, y, z):
        fn_type = ir.FunctionType(self.type, [self.type] * 3)
        fn = cgutils.get_or_insert_function(self.b.module, fn_type, f"llvm.fma.v{self.lanes}{self.suffix}")
        return self.b.call(fn, [x, y, z])

    def shuffle(self, x, y, mask):
        return self.b.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, self.lanes), mask))


def _least(builder, x, y):
    return builder.select(builder.icmp_signed("<", x, y), x, y)


def _most(builder, x, y):
    return builder.select(builder.icmp_signed("<", x, y), y, x)


UNROLLED = 4  # terms of a product between two looks at a counter, where a tile is unrolled


def _unrolled(rows: int, vectors: int) -> int:
    """Compiling an unrolled tile takes its time: few are worth it."""
    return UNROLLED if rows >= 4 and vectors == 2 else 1


def tile_of_rows(dtype: str, rows: int, vectors: int, lanes: int, panel: int, ask_ahead: bool = False):
    """C[i, :] = start + sum_k A[i, k] B[k, :] for `rows` rows and vectors * lanes columns, in registers.

    A lies in panels of `panel` columns, `panel_bytes` apart; the rows of the last one, if it is narrower, are
    `stride_last` bytes apart. Row i of A is `row + i`. `start` is the row at `init` (0: zeros) or, with `more`, what C
    holds. Each element of C is one chain of FMAs over k.

    Within a panel all places are known beforehand, so nothing but loads and FMAs is left: with strides that came as
    arguments a third of the instructions worked out addresses. That costs little on a core of its own and a quarter of
    the speed on one whose instruction decoder is shared with a busy sibling.

    With `ask_ahead` every group of terms asks for a line from `ahead` on, `ahead_step` bytes after the group before: of
    the weights that come next, which lie in another core's cache where that core has updated them.
    """
    item, unrolled = SCALAR[dtype][2], _unrolled(rows, vectors)
    width = vectors * lanes * item

    def codegen(context, builder, sig, args):
        a, row, panel_bytes, stride_last, b, depth, c, init, more, ahead, ahead_step = args
        v = Vectors(builder, dtype, lanes)
        acc = _accumulators(v, rows, vectors, init)
        _load_tile(v, acc, c, width, more)

        def step(a_rows, b_row):
            b_values = [v.load(builder.add(b_row, i64(j * lanes * item))) for j in range(vectors)]
            for i in range(rows):
                x = v.broadcast(a_rows[i])
                for j in range(vectors):
                    builder.store(v.fma(x, b_values[j], builder.load(acc[i][j])), acc[i][j])

        def at_panel(index):
            a_panel = builder.add(a, builder.mul(index, panel_bytes))
            return a_panel, builder.add(b, builder.mul(index, i64(panel * width)))

        done = i64(0)
        if unrolled > 1:
            done = builder.sdiv(depth, i64(panel))
            with cgutils.for_range(builder, done) as panels:
                a_panel, b_panel = at_panel(panels.index)
                first = builder.add(a_panel, builder.mul(row, i64(panel * item)))
                with cgutils.for_range(builder, i64(panel // unrolled)) as loop:
                    a_at = builder.add(first, builder.mul(loop.index, i64(unrolled * item)))
                    b_at = builder.add(b_panel, builder.mul(loop.index, i64(unrolled * width)))
                    if ask_ahead:
                        group = builder.add(builder.mul(panels.index, i64(panel // unrolled)), loop.index)
                        _emit_prefetch(builder, builder.add(ahead, builder.mul(group, ahead_step)), False, 3)
                    for k in range(unrolled):
                        places = [builder.add(a_at, i64((i * panel + k) * item)) for i in range(rows)]
                        step(places, builder.add(b_at, i64(k * width)))
        n_panels = builder.sdiv(builder.add(depth, i64(panel - 1)), i64(panel))
        with cgutils.for_range(builder, n_panels, done) as panels:
            a_panel, b_panel = at_panel(panels.index)
            left = builder.sub(depth, builder.mul(panels.index, i64(panel)))
            is_whole = builder.icmp_signed(">=", left, i64(panel))
            stride = builder.select(is_whole, i64(panel * item), stride_last)
            a_rows = [builder.add(a_panel, builder.mul(builder.add(row, i64(i)), stride)) for i in range(rows)]
            with cgutils.for_range(builder, builder.select(is_whole, i64(panel), left)) as loop:
                k = builder.mul(loop.index, i64(item))
                b_row = builder.add(b_panel, builder.mul(loop.index, i64(width)))
                step([builder.add(at, k) for at in a_rows], b_row)
        _store_tile(v, acc, c, width)
        return context.get_dummy_value()

    @intrinsic
    def tile(typingctx, a, row, panel_bytes, stride_last, b, depth, c, init, more, ahead, ahead_step):
        return types.void(*[IP] * 11), codegen

    return tile


def tile_of_columns(dtype: str, rows: int, vectors: int, lanes: int, ask_ahead: bool = False):
    """C[i, :] = sum_k A[k, i] B[k, :]: as above, with A's items along i neighbours and k `stride` bytes apart.

    With `ask_ahead` the loop sees to it that things have come when they are needed:

    - `n_upcoming` lines at `upcoming`, of a row of X for the next step, are prefetched from memory;
    - the lines that the optimiser will write at `update` and at `transposed` are written with what they hold. Every
      worker has read them since, and the write that takes them back takes 15 ns (measured on a Zen 4 whose cores share
      the last cache); in the middle of a product nobody waits for it. A prefetch for writing does not do it.
    - the tile's part of the optimiser's `slots` is prefetched.
    - With tiles for 32 registers also `n_a` lines at `next_a`, of A's next block, from the cores that wrote it. AVX2
      has no cycles to spare for that: it cost 4 % of a step.

    All of it line by line, one between two stretches of the product: a burst of prefetches before it stalled it.
    """
    item, unrolled = SCALAR[dtype][2], _unrolled(rows, vectors)
    width = vectors * lanes * item

    def emit(builder, a, stride, b, depth, c, more, ahead=None):
        v = Vectors(builder, dtype, lanes)
        acc = _accumulators(v, rows, vectors, None)
        _load_tile(v, acc, c, width, more)

        def step(k):
            b_row = builder.add(b, builder.mul(k, i64(width)))
            a_row = builder.add(a, builder.mul(k, stride))
            b_values = [v.load(builder.add(b_row, i64(j * lanes * item))) for j in range(vectors)]
            for i in range(rows):
                x = v.broadcast(builder.add(a_row, i64(i * item)))
                for j in range(vectors):
                    builder.store(v.fma(x, b_values[j], builder.load(acc[i][j])), acc[i][j])

        def steps(first, last):
            """Groups of terms, from one to before another."""
            with cgutils.for_range(builder, last, first) as loop:
                at = builder.mul(loop.index, i64(unrolled))
                for k in range(unrolled):
                    step(builder.add(at, i64(k)))

        groups = builder.sdiv(depth, i64(unrolled))
        if not ahead:
            steps(i64(0), groups)
        else:
            next_a, n_a, upcoming, n_upcoming, update, slot_bytes, slots, transposed = ahead
            n_lines, asks_for_a = rows * width // LINE, rows * vectors >= 16
            # no more of them than groups of terms: what a short product has no time for is not asked for
            most = _most(builder, n_upcoming, i64(n_lines))
            most = _most(builder, most, n_a) if asks_for_a else most
            stretches = _least(builder, most, _most(builder, groups, i64(1)))
            end = cgutils.alloca_once_value(builder, i64(0))
            with cgutils.for_range(builder, stretches) as loop:
                line = loop.index
                at = builder.mul(line, i64(LINE))
                with builder.if_then(builder.icmp_signed("<", line, i64(n_lines))):
                    _emit_touch(builder, builder.add(update, at))
                    _emit_touch(builder, builder.add(transposed, at))
                    for i in range(1, 3):
                        slot = builder.mul(_least(builder, slots, i64(i)), slot_bytes)
                        _emit_prefetch(builder, builder.add(builder.add(update, slot), at), True, 3)
                if asks_for_a:
                    with builder.if_then(builder.icmp_signed("<", line, n_a)):
                        _emit_prefetch(builder, builder.add(next_a, at), False, 2)
                with builder.if_then(builder.icmp_signed("<", line, n_upcoming)):
                    _emit_prefetch(builder, builder.add(upcoming, at), False, 2)
                begin = builder.load(end)
                builder.store(builder.sdiv(builder.mul(groups, builder.add(line, i64(1))), stretches), end)
                steps(begin, builder.load(end))
        if unrolled > 1:
            with cgutils.for_range(builder, depth, builder.mul(groups, i64(unrolled))) as loop:
                step(loop.index)
        _store_tile(v, acc, c, width)

    @intrinsic
    def tile(typingctx, a, stride, b, depth, c, more):
        def codegen(context, builder, sig, args):
            emit(builder, *args)
            return context.get_dummy_value()

        return types.void(*[IP] * 6), codegen

    @intrinsic
    def tile_asking(
        typingctx,
        a,
        stride,
        b,
        depth,
        c,
        more,
        next_a,
        n_a,
        upcoming,
        n_upcoming,
        update,
        slot_bytes,
        slots,
        transposed,
    ):
        def codegen(context, builder, sig, args):
            emit(builder, *args[:6], ahead=args[6:])
            return context.get_dummy_value()

        return types.void(*[IP] * 14), codegen

    return tile_asking if ask_ahead else tile


def sum_of_rows(dtype: str, vectors: int, lanes: int):
    """c = start + sum_e values[e] B[places[e], :] for n entries: a row of a product with a sparse matrix, in registers.

    B's rows are vectors * lanes items and follow each other; places are int64. `start` is the row at `init` (0: zeros)
    or, with `more`, what c holds. Entries in even places make one sum and those in odd places another, which are added
    at the end: the next entry need not wait for the one before.
    """
    item = SCALAR[dtype][2]
    width = vectors * lanes * item

    @intrinsic
    def sum_rows(typingctx, values, places, n, b, c, init, more):
        def codegen(context, builder, sig, args):
            values, places, n, b, c, init, more = args
            v = Vectors(builder, dtype, lanes)
            (even,) = start = _accumulators(v, 1, vectors, init)
            (odd,) = _accumulators(v, 1, vectors, None)
            _load_tile(v, start, c, width, more)

            def add(e, sums):
                place = builder.load(builder.inttoptr(builder.add(places, builder.mul(e, i64(8))), I64.as_pointer()))
                row = builder.add(b, builder.mul(place, i64(width)))
                x = v.broadcast(builder.add(values, builder.mul(e, i64(item))))
                for j in range(vectors):
                    y = v.load(builder.add(row, i64(j * lanes * item)))
                    builder.store(v.fma(x, y, builder.load(sums[j])), sums[j])

            pairs = builder.sdiv(n, i64(2))
            with cgutils.for_range(builder, pairs) as loop:
                e = builder.mul(loop.index, i64(2))
                add(e, even)
                add(builder.add(e, i64(1)), odd)
            with cgutils.for_range(builder, n, builder.mul(pairs, i64(2))) as loop:
                add(loop.index, even)
            for j in range(vectors):
                total = builder.fadd(builder.load(even[j]), builder.load(odd[j]))
                v.store(total, builder.add(c, i64(j * lanes * item)))
            return context.get_dummy_value()

        return types.void(*[IP] * 7), codegen

    return sum_rows


def squares_of_differences(dtype: str, vectors: int, lanes: int):
    """out[j] = sum_k (x_k - B[k, j])^2 for j < vectors * lanes, k < depth: each a chain of FMAs over k, in registers.

    Row k of B is `row_bytes` behind row k - 1, as are x_k and x_{k-1}.
    """
    item = SCALAR[dtype][2]

    @intrinsic
    def squares(typingctx, x, b, row_bytes, depth, out):
        def codegen(context, builder, sig, args):
            x, b, row_bytes, depth, out = args
            v = Vectors(builder, dtype, lanes)
            ((*sums,),) = _accumulators(v, 1, vectors, None)
            with cgutils.for_range(builder, depth) as loop:
                at = builder.mul(loop.index, row_bytes)
                own, row = v.broadcast(builder.add(x, at)), builder.add(b, at)
                for j in range(vectors):
                    difference = builder.fsub(own, v.load(builder.add(row, i64(j * lanes * item))))
                    builder.store(v.fma(difference, difference, builder.load(sums[j])), sums[j])
            for j in range(vectors):
                v.store(builder.load(sums[j]), builder.add(out, i64(j * lanes * item)))
            return context.get_dummy_value()

        return types.void(*[IP] * 5), codegen

    return squares


def sum_of_differences(dtype: str, vectors: int, lanes: int):
    """c += sum_j s_j (x - B[j, :]) for n rows of B, `row_bytes` apart, of vectors * lanes columns, in registers."""
    item = SCALAR[dtype][2]

    @intrinsic
    def differences(typingctx, s, x, b, row_bytes, n, c):
        def codegen(context, builder, sig, args):
            s, x, b, row_bytes, n, c = args
            v = Vectors(builder, dtype, lanes)
            places = [i64(j * lanes * item) for j in range(vectors)]
            own = [v.load(builder.add(x, place)) for place in places]
            sums = [cgutils.alloca_once_value(builder, v.load(builder.add(c, place))) for place in places]
            with cgutils.for_range(builder, n) as loop:
                factor = v.broadcast(builder.add(s, builder.mul(loop.index, i64(item))))
                row = builder.add(b, builder.mul(loop.index, row_bytes))
                for mine, place, total in zip(own, places, sums, strict=True):
                    difference = builder.fsub(mine, v.load(builder.add(row, place)))
                    builder.store(v.fma(factor, difference, builder.load(total)), total)
            for place, total in zip(places, sums, strict=True):
                v.store(builder.load(total), builder.add(c, place))
            return context.get_dummy_value()

        return types.void(*[IP] * 6), codegen

    return differences


def _accumulators(v: Vectors, rows: int, vectors: int, init):
    """Registers that start from the row at `init` (an address, or 0 for zeros), the same for every row of the tile."""
    acc = [[cgutils.alloca_once_value(v.b, v.zeros) for _ in range(vectors)] for _ in range(rows)]
    if init is not None:
        with v.b.if_then(v.b.icmp_signed("!=", init, i64(0))):
            for j in range(vectors):
                start = v.load(v.b.add(init, i64(j * v.lanes * v.item)))
                for i in range(rows):
                    v.b.store(start, acc[i][j])
    return acc


def _load_tile(v: Vectors, acc, c, width: int, more):
    """Where `more` is not 0, go on from what the tile at `c` holds."""
    with v.b.if_then(v.b.icmp_signed("!=", more, i64(0))):
        for i, row in enumerate(acc):
            for j, register in enumerate(row):
                v.b.store(v.load(v.b.add(c, i64(i * width + j * v.lanes * v.item))), register)


def _store_tile(v: Vectors, acc, c, width: int):
    for i, row in enumerate(acc):
        for j, register in enumerate(row):
            v.store(v.b.load(register), v.b.add(c, i64(i * width + j * v.lanes * v.item)))


def convert_vectors(source: str, dtype: str, vectors: int, lanes: int):
    """dst[k] = src[k] or, where `scaled` is not 0, scale src[k] + offset: vectors * lanes numbers of another type."""
    from_type, from_item = {"uint8": (ir.IntType(8), 1)}.get(source) or (SCALAR[source][0], SCALAR[source][2])
    numba_float = getattr(types, dtype)

    @intrinsic
    def convert(typingctx, src, dst, scaled, scale, offset):
        def codegen(context, builder, sig, args):
            src, dst, scaled, scale, offset = args
            v = Vectors(builder, dtype, lanes)
            vector = ir.VectorType(from_type, lanes).as_pointer()
            values = []
            for j in range(vectors):
                x = builder.load(builder.inttoptr(builder.add(src, i64(j * lanes * from_item)), vector))
                x.align = from_item
                if source == "uint8":
                    x = builder.uitofp(x, v.type)
                elif source != dtype:
                    x = (builder.fpext if v.item > from_item else builder.fptrunc)(x, v.type)
                values.append(x)
            with builder.if_else(builder.icmp_signed("==", scaled, i64(0))) as (plain, with_scale):
                with plain:
                    for j, x in enumerate(values):
                        v.store(x, builder.add(dst, i64(j * lanes * v.item)))
                with with_scale:
                    factor, shift = v.spread(scale), v.spread(offset)
                    for j, x in enumerate(values):
                        v.store(v.fma(x, factor, shift), builder.add(dst, i64(j * lanes * v.item)))
            return context.get_dummy_value()

        return types.void(IP, IP, IP, numba_float, numba_float), codegen

    return convert


def store_zeros(dtype: str, lanes: int):
    """dst[k] = 0 for `lanes` numbers: LLVM would call memset for a loop over a few."""

    @intrinsic
    def clear(typingctx, dst):
        def codegen(context, builder, sig, args):
            v = Vectors(builder, dtype, lanes)
            v.store(v.zeros, args[0])
            return context.get_dummy_value()

        return types.void(IP), codegen

    return clear


def clear_behind(dtype: str, lanes: int):
    """dst[k] = 0 for first <= k < width, a multiple of `lanes`: a row's padding, without a call of memset."""

    @intrinsic
    def clear(typingctx, dst, first, width):
        def codegen(context, builder, sig, args):
            dst, first, width = args
            v = Vectors(builder, dtype, lanes)
            with cgutils.for_range(builder, builder.sdiv(width, i64(lanes)), builder.sdiv(first, i64(lanes))) as loop:
                before = builder.sub(first, builder.mul(loop.index, i64(lanes)))
                at = builder.add(dst, builder.mul(loop.index, i64(lanes * v.item)))
                v.store(v.load_and_keep_first(at, before), at)
            return context.get_dummy_value()

        return types.void(IP, IP, IP), codegen

    return clear


def transpose_square(dtype: str, lanes: int):
    """dst[j][i] = src[i][j] for lanes x lanes items, rows `src_stride` and `dst_stride` bytes apart: log2(lanes)
    rounds of shuffles in registers. Done by scalars it took a quarter of the step of a 64-wide network."""

    @intrinsic
    def transpose(typingctx, src, src_stride, dst, dst_stride):
        def codegen(context, builder, sig, args):
            src, src_stride, dst, dst_stride = args
            v = Vectors(builder, dtype, lanes)
            rows = [v.load(builder.add(src, builder.mul(src_stride, i64(i)))) for i in range(lanes)]
            half = lanes // 2
            while half:  # swap the off-diagonal quarters of every 2 half x 2 half block
                low = [l if l & half == 0 else lanes + l - half for l in range(lanes)]
                high = [l + half if l & half == 0 else lanes + l for l in range(lanes)]
                for i in range(lanes):
                    if i & half == 0:
                        x, y = rows[i], rows[i + half]
                        rows[i], rows[i + half] = v.shuffle(x, y, low), v.shuffle(x, y, high)
                half //= 2
            for i in range(lanes):
                v.store(rows[i], builder.add(dst, builder.mul(dst_stride, i64(i))))
            return context.get_dummy_value()

        return types.void(IP, IP, IP, IP), codegen

    return transpose
