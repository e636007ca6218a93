"""The yardstick: how many multiply-adds a second a loop of nothing else reaches, on one thread or several.

A dozen independent accumulators hide the latency of a multiply-add (4 cycles, up to two a cycle); explicit vectors of
the machine's width leave nothing to the vectoriser. The loop is compiled by llvmlite alone, in milliseconds.
"""

import ctypes
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
def _engine():
    """The machine code, kept alive by LLVM's engine; `float loop(float x, int64 n)`, n >= 1."""
    from llvmlite import binding

    vector = f"<{lanes()} x float>"
    fma = f"call {vector} @llvm.fma.v{lanes()}f32({vector} %xs, {vector} %xs, {vector}"
    sums = range(ACCUMULATORS)
    lines = [
        f"declare {vector} @llvm.fma.v{lanes()}f32({vector}, {vector}, {vector})",
        "define float @loop(float %x, i64 %n) {",
        "start:",
        f"  %x0 = insertelement {vector} undef, float %x, i32 0",
        f"  %xs = shufflevector {vector} %x0, {vector} undef, <{lanes()} x i32> zeroinitializer",
        "  br label %again",
        "again:",
        "  %i = phi i64 [ 0, %start ], [ %next, %again ]",
        *(f"  %a{k} = phi {vector} [ zeroinitializer, %start ], [ %b{k}, %again ]" for k in sums),
        *(f"  %b{k} = {fma} %a{k})" for k in sums),
        "  %next = add i64 %i, 1",
        "  %more = icmp slt i64 %next, %n",
        "  br i1 %more, label %again, label %end",
        "end:",
        f"  %s0 = fadd {vector} %b0, zeroinitializer",
        *(f"  %s{k} = fadd {vector} %s{k - 1}, %b{k}" for k in sums[1:]),
        f"  %result = extractelement {vector} %s{ACCUMULATORS - 1}, i32 0",
        "  ret float %result",
        "}",
    ]
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    module = binding.parse_assembly("\n".join(lines))
    features = binding.get_host_cpu_features().flatten()
    machine = binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(), features=features, opt=3
    )
    engine = binding.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return engine, machine


@cache
def fma_loop():
    """The compiled loop: f(x, iterations) does `iterations * ACCUMULATORS * lanes()` multiply-adds, without the GIL."""
    return ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_float, ctypes.c_int64)(_engine()[0].get_function_address("loop"))


def iterations(seconds):
    """So many take about so long on one thread: at 60 GFLOP/s, less where the machine is faster."""
    return int(seconds * 60e9 / (2 * ACCUMULATORS * lanes())) + 1


def run(iterations):
    """Seconds of a run of the loop on the calling thread."""
    loop = fma_loop()
    start = time.perf_counter()
    loop(1e-3, iterations)
    return time.perf_counter() - start


def measure(n_threads, seconds=0.03, pieces=10):
    """GFLOP/s of `n_threads` threads at once: the sum of the best that each reached in one of ten pieces.

    The best, for new threads often share a core for some milliseconds before the system moves one of them; a mean over
    that time would flatter whoever is measured against it.
    """
    n, _ = iterations(seconds / pieces), fma_loop()  # compiled here: LLVM's engine is not for two threads at once
    times, together = np.full(n_threads, np.inf), threading.Barrier(n_threads)

    def work(rank):
        together.wait()
        for _ in range(pieces):
            times[rank] = min(times[rank], run(n))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (n * 2 * ACCUMULATORS * lanes() / times).sum() / 1e9


if __name__ == "__main__":
    for n_threads in (1, 2):
        print(f"{n_threads} thread(s): {max(measure(n_threads) for _ in range(10)):.1f} GFLOP/s")
