"""Vectors of 16 bytes, which a thread reads and writes in one instruction; and single numbers by their place, which is
not negative: Numba's own `array[at]` spends more instructions on asking whether it is.
"""

from __future__ import annotations

from ..simd import ITEMSIZE
from .device import SIMULATED, VECTOR as BYTES


def vector_items(dtype: str) -> int:
    return BYTES // ITEMSIZE[dtype]


if SIMULATED:

    def copy_vector(to, at, source, place):
        n = BYTES // to.itemsize
        assert at % n == place % n == 0 and at + n <= len(to) and place + n <= len(source), "a vector out of its place"
        to[at : at + n] = source[place : place + n]

    def put(to, at, value):
        assert at >= 0
        to[at] = value

    def get(array, at):
        assert at >= 0
        return array.reshape(-1)[at]

else:
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.cuda.extending import intrinsic

    @intrinsic
    def copy_vector(typingctx, to, at, source, place):
        """to[at:at + n] = source[place:place + n], n items of 16 bytes in all. Both arrays are contiguous and of one
        type, and both places a multiple of n behind an address that is one of 16.
        """

        def codegen(context, builder, sig, args):
            item = context.get_data_type(to.dtype)
            vector = ir.VectorType(item, BYTES // context.get_abi_sizeof(item)).as_pointer()

            def pointer(array_type, array, index):
                data = context.make_array(array_type)(context, builder, array).data
                return builder.bitcast(cgutils.gep(builder, data, index), vector)

            value = builder.load(pointer(source, args[2], args[3]), align=BYTES)
            builder.store(value, pointer(to, args[0], args[1]), align=BYTES)
            return context.get_dummy_value()

        if to.dtype != source.dtype:
            return None
        return types.void(to, types.intp, source, types.intp), codegen

    @intrinsic
    def put(typingctx, to, at, value):
        """to[at] = value, of the array's type."""

        def codegen(context, builder, sig, args):
            data = context.make_array(to)(context, builder, args[0]).data
            builder.store(args[2], cgutils.gep(builder, data, args[1]))
            return context.get_dummy_value()

        return types.void(to, types.intp, to.dtype), codegen

    @intrinsic
    def get(typingctx, array, at):
        """Number `at` of an array, one row after the other."""

        def codegen(context, builder, sig, args):
            data = context.make_array(array)(context, builder, args[0]).data
            return builder.load(cgutils.gep(builder, data, args[1]))

        return array.dtype(array, types.intp), codegen
