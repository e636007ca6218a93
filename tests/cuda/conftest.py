"""Tests of the CUDA path: in Numba's simulator (`tests/test_cuda.py` starts them so), or on a device (`-m gpu`)."""

import os
import sys
import threading
from contextlib import contextmanager

import numpy as np

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
collect_ignore_glob = ["test_compiled.py"] if SIMULATED else ["test_simulated_*.py"]

if SIMULATED:
    from numba import cuda
    from numba.cuda.simulator import kernel as simulator

    class BlockThread(simulator.BlockThread):
        """A thread of a block that waits for the others, where Numba's is asked again and again by a thread that hardly
        lets it run: 15 times as fast. A thread that ends while others wait for it is an error, as it should be.
        """

        def run(self):
            super().run()
            if self.exception:
                self._manager.barrier.abort()

        def syncthreads(self):
            self._manager.barrier.wait(10)

    class BlockManager(simulator.BlockManager):
        def run(self, grid_point, *args):
            points = list(np.ndindex(*self._block_dim))
            self.barrier = threading.Barrier(len(points))
            threads = [BlockThread(lambda: self._f(*args), self, grid_point, point, self._debug) for point in points]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            errors = [thread.exception for thread in threads if thread.exception]
            if errors:  # the first that is not the broken barrier of the others
                error, traceback = min(errors, key=lambda e: isinstance(e[0], threading.BrokenBarrierError))
                raise error.with_traceback(traceback)

    @contextmanager
    def swapped_cuda_module(function, device_cuda):
        """Let `cuda` be the device's in all modules with kernels while one runs. Numba's does so for the module of each
        function that is called, and takes it back at its end, when other threads may be in it still.
        """
        swapped = []
        if function.__globals__.get("cuda") is cuda:  # else a kernel runs, and this is a function that it calls
            of_modules = [vars(module) for name, module in sys.modules.items() if name.startswith("fastmlp.cuda")]
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
