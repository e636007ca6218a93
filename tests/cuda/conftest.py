"""Tests of the CUDA path: in Numba's simulator (`tests/test_cuda.py` starts them so), or on a device (`-m gpu`)."""

import os
import threading

import numpy as np

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
collect_ignore_glob = [] if SIMULATED else ["test_simulated_*.py"]

if SIMULATED:
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

    simulator.BlockManager = BlockManager
