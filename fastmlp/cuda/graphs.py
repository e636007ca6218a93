"""A step's launches as one: captured into a CUDA graph, which the host launches again and again.

`cuda.bindings` comes with numba-cuda. Where it is missing, in the simulator, and where the driver refuses, steps are
launched kernel by kernel; the results are the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

from numba import cuda

from .device import SIMULATED
from .driver import call

_wanted = not SIMULATED  # False for good after a failure


class Program:
    """A step's launches, to be called for every step.

    The first call does them one by one, which compiles and loads their kernels: neither may happen while a graph is
    captured. The second captures them, and it and all further ones replay the graph.

    Parameters
    ----------
    launches : list of functions
        Each launches one kernel into `stream`, with the same arguments every time until `forget` is called.
    stream
    """

    def __init__(self, launches: list[Callable[[], None]], stream):
        self.launches, self._stream = launches, stream
        self._graph, self._warm = None, False

    def __call__(self) -> None:
        if self._warm and self._graph is None and _wanted:
            self._capture()
        if self._graph is None:
            self._launch_each()
            self._warm = True
        else:
            self._graph.launch()

    def _launch_each(self) -> None:
        for launch in self.launches:
            launch()

    def _capture(self) -> None:
        global _wanted
        try:
            self._graph = Graph(self._stream, self._launch_each)
        except Exception as error:  # Numba's, the driver's, or ImportError: a fit does not fail for want of a graph
            _wanted = False
            warnings.warn(
                f"a training step could not be captured into a CUDA graph ({error}), so its kernels are launched one "
                "by one from here on; results are the same, small steps take longer.",
                RuntimeWarning,
                stacklevel=2,
            )

    def forget(self) -> None:
        """The launches' arguments are others from now on."""
        if self._graph is not None:
            self._graph.close()
        self._graph = None

    def close(self) -> None:
        self.forget()
        self.launches = []


class Graph:
    """What a function launches into a stream, which is not to be the default one; RuntimeError where that fails.

    Kernels must have been launched before, and the function must neither allocate memory on the device nor wait for it.
    """

    def __init__(self, stream, launch_each: Callable[[], None]):
        from cuda.bindings import driver

        self._driver, self._stream = driver, driver.CUstream(int(stream))
        # in this mode other threads may use the device meanwhile
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        with cuda.defer_cleanup():  # freeing memory is not allowed during a capture, whatever Python collects
            call("cuStreamBeginCapture", self._stream, mode)
            try:
                launch_each()
            except BaseException:
                driver.cuStreamEndCapture(self._stream)  # the stream must be usable again
                raise
            graph = call("cuStreamEndCapture", self._stream)
        try:
            self._executable = call("cuGraphInstantiate", graph, 0)
        finally:
            driver.cuGraphDestroy(graph)

    def launch(self) -> None:
        call("cuGraphLaunch", self._executable, self._stream)

    def close(self) -> None:
        """Frees it; what of it runs comes to its end first."""
        self._driver.cuGraphExecDestroy(self._executable)
