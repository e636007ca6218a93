"""The yardstick: how many multiply-adds a second a loop of nothing else reaches, on one thread or several.

A dozen independent accumulators hide the latency of a multiply-add (4 cycles, up to two a cycle); explicit vectors of
the machine's width leave nothing to the vectoriser.
"""

import threading
import time
from functools import cache

import numpy as np

ACCUMULATORS = 12  # 8 suffice; AVX2 has 16 registers


def lanes():
    """float32 numbers in one of this machine's vectors."""
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    return 16 if features.get("avx512f") else 8 if features.get("avx2") else 4


@cache
def fma_loop():
    """The compiled loop: f(x, iterations) does `iterations * ACCUMULATORS * lanes()` multiply-adds."""
    from llvmlite import ir
    from numba import njit, types
    from numba.core import cgutils
    from numba.extending import intrinsic

    width = lanes()
    vector = ir.VectorType(ir.FloatType(), width)

    @intrinsic
    def multiply_adds(typingctx, x, iterations):
        def codegen(context, builder, signature, args):
            fma = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{width}f32"
            )
            zero = ir.Constant(vector, [0.0] * width)
            one_lane = builder.insert_element(zero, args[0], ir.Constant(ir.IntType(32), 0))
            x = builder.shuffle_vector(one_lane, zero, ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width))
            sums = [cgutils.alloca_once_value(builder, zero) for _ in range(ACCUMULATORS)]
            with cgutils.for_range(builder, args[1]):
                for acc in sums:
                    builder.store(builder.call(fma, [x, x, builder.load(acc)]), acc)
            total = zero
            for acc in sums:
                total = builder.fadd(total, builder.load(acc))
            return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))

        return types.float32(types.float32, types.int64), codegen

    @njit("float32(float32, int64)", nogil=True)
    def loop(x, iterations):
        return multiply_adds(x, iterations)

    return loop


def measure(n_threads, seconds=0.03, pieces=10):
    """GFLOP/s of `n_threads` threads at once: the sum of the best that each reached in one of ten pieces.

    The best, for new threads often share a core for some milliseconds before the system moves one of them; a mean over
    that time would flatter whoever is measured against it.
    """
    loop, flop = fma_loop(), 2 * ACCUMULATORS * lanes()
    iterations = int(seconds / pieces * 60e9 / flop) + 1
    times, together = np.full(n_threads, np.inf), threading.Barrier(n_threads)

    def work(rank):
        together.wait()
        for _ in range(pieces):
            start = time.perf_counter()
            loop(np.float32(1e-3), iterations)
            times[rank] = min(times[rank], time.perf_counter() - start)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (iterations * flop / times).sum() / 1e9


if __name__ == "__main__":
    for n_threads in (1, 2):
        print(f"{n_threads} thread(s): {max(measure(n_threads) for _ in range(10)):.1f} GFLOP/s")
