"""Tests of the CUDA path: in Numba's simulator (`tests/test_cuda.py` starts them so), or on a device (`-m gpu`).

Numba's simulator is slow where kernels pass all the time. What is replaced here makes these tests five times as fast.
"""

import os
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
collect_ignore_glob = ["test_compiled.py"] if SIMULATED else ["test_simulated_*.py"]

if SIMULATED:
    from greenlet import getcurrent, greenlet
    from numba import cuda, types
    from numba.cuda.simulator import kernel as simulator, kernelapi
    from numba.np.numpy_support import as_dtype

    class BlockThread(greenlet):
        """A thread of a block, which runs until it waits for the others at a barrier."""

        def __init__(self, run, blockIdx, threadIdx, shared):
            super().__init__(run)
            self.at_warps_barrier = False
            self.blockIdx, self.threadIdx = simulator.Dim3(*blockIdx), simulator.Dim3(*threadIdx)
            self.shared = shared

        def syncthreads(self):
            self.parent.switch()

        def syncwarp(self):
            self.at_warps_barrier = True
            self.parent.switch()

    class BlockManager(simulator.BlockManager):
        """Threads in turn, where Numba's are the operating system's. Their order changes at each barrier and from block
        to block, for a missing barrier may do no harm in one of them. A warp does not wait for others at its barriers.
        """

        def run(self, grid_point, *args):
            points, shared = list(np.ndindex(*self._block_dim)), {}
            threads = [BlockThread(lambda: self._f(*args), grid_point, point, shared) for point in points]
            warps = [threads[first : first + 32] for first in range(0, len(threads), 32)]
            if sum(grid_point) % 2 == 0:
                warps = [warp[::-1] for warp in warps[::-1]]
            while True:
                for warp in warps:  # one after the other goes on to a barrier of all, or to its end
                    while True:
                        for thread in warp:
                            thread.switch()
                        waiting = sum(thread.at_warps_barrier for thread in warp)
                        warp.reverse()
                        if waiting == 0:
                            break
                        assert waiting == len(warp), "threads of a warp wait for others that do not come"
                        for thread in warp:
                            thread.at_warps_barrier = False
                at_end = sum(thread.dead for thread in threads)
                if at_end == len(threads):
                    return
                assert at_end == 0, "threads of a block have ended while others wait for them at a barrier"
                warps.reverse()

    class LocalArrays:
        """A thread's own, NaN or -1 at first; places of vectors need no alignment here."""

        def array(self, shape, dtype, alignment=None):
            array = np.empty(shape, as_dtype(dtype) if isinstance(dtype, types.Type) else dtype)
            array.view(np.uint8)[...] = 255
            return array

    def shared_array(self, shape, dtype, alignment=None):
        """The same for all threads of a block that ask in this line. Numba's has what the block before left there, and
        reads the source of all callers to find the line.
        """
        caller, arrays = sys._getframe(1), getcurrent().shared
        line = caller.f_code.co_filename, caller.f_lineno
        if line not in arrays:
            arrays[line] = LocalArrays().array(shape, dtype)
        return arrays[line]

    def jit(function=None, device=False):
        """Functions of the device are plain ones; Numba's have each call look for `cuda` in their modules."""
        if function is None:
            return lambda function: jit(function, device)
        return function if device else simulator.FakeCUDAKernel(function, device)

    @contextmanager
    def swapped_cuda_module(function, device_cuda):
        """Let `cuda` be the device's in all modules with kernels, and the kernel's own, while one runs."""
        swapped = [names for names in (*of_modules, function.__globals__) if names.get("cuda") is cuda]
        for names in swapped:
            names["cuda"] = device_cuda
        try:
            yield
        finally:
            for names in swapped:
                names["cuda"] = cuda

    simulator.BlockManager = BlockManager
    simulator.swapped_cuda_module = swapped_cuda_module
    simulator.FakeWithinKernelCUDAArray = lambda array: array._ary  # differs for arrays of records only
    kernelapi.FakeCUDAShared.array = shared_array
    kernelapi.FakeCUDAModule.syncwarp = lambda self: getcurrent().syncwarp()
    kernelapi.FakeCUDALocal = LocalArrays
    kernelapi.threading = SimpleNamespace(current_thread=getcurrent)
    cuda.jit = jit

    from fastmlp.cuda import executor  # it imports all modules with kernels, with this `jit`

    of_modules = [vars(module) for name, module in sys.modules.items() if name.startswith(executor.__package__)]
