"""The driver's own functions, for what happens in every epoch: a copy by numba-cuda takes 50 to 70 us of Python, by the
driver 1.
"""

from __future__ import annotations

from .device import SIMULATED


def call(name: str, *arguments):
    """What a function of the driver's gives; RuntimeError where it fails."""
    from cuda.bindings import driver  # comes with numba-cuda

    error, *values = getattr(driver, name)(*arguments)
    if error != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"{name}: {error.name}")
    return values[0] if values else None


class Copies:
    """Copies between arrays of the host, C-contiguous ones, and of the device, put into a stream.

    The device's context must be current in this thread. Nothing is waited for where the host's memory is pinned, which
    must stay as it is until the copy is done. Other memory may be written, and read, as soon as a copy was put there.
    """

    def __init__(self, stream):
        self._stream = stream
        self._handle = 0 if SIMULATED else int(stream)

    def to_device(self, host, device) -> None:
        """All of the host's array to the beginning of the device's."""
        if SIMULATED:
            device[: len(host)].copy_to_device(host)
        else:
            there = device.device_ctypes_pointer.value
            call("cuMemcpyHtoDAsync", there, host.ctypes.data, host.nbytes, self._handle)

    def to_host(self, device, host, first: int = 0) -> None:
        """To all of the host's array, from the device's from row `first` on."""
        if SIMULATED:
            device[first : first + len(host)].copy_to_host(host)
        else:
            there = device.device_ctypes_pointer.value + first * device.strides[0]
            call("cuMemcpyDtoHAsync", host.ctypes.data, there, host.nbytes, self._handle)

    def wait(self) -> None:
        """For all that is in the stream."""
        self._stream.synchronize()
