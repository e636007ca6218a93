"""The host's vector unit: width of a vector, rows of a register tile, widths of panels."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import lru_cache

from .errors import unknown_name


@dataclass(frozen=True)
class Simd:
    """A vector instruction set and the register tile chosen for it.

    A tile of `rows` x 2 vectors holds 2 * rows accumulators in registers: 16 of 32 for AVX-512, 12 of 16 for AVX2. On
    AVX-512 8 x 2 was measured at the FMA peak of a Zen 4; larger ones gain nothing there and on a Xeon. What is `gpu`
    shares out products in its own way, and has no kernels for matrices of one column.
    """

    name: str
    vector_bytes: int
    rows: int
    gpu: bool = False

    def panel(self, dtype: str) -> int:
        """Columns of a full panel: two vectors."""
        return 2 * self.vector_bytes // ITEMSIZE[dtype]

    def widths(self, dtype: str) -> tuple[int, ...]:
        """Widths that a panel can have, descending: the last panel of a narrow matrix does not pay for a full one. The
        only panel of a matrix of one column is that column.
        """
        width, least = self.panel(dtype), 16 // ITEMSIZE[dtype]
        return tuple(width >> i for i in range(8) if width >> i >= least)

    def last_width(self, columns: int, dtype: str) -> int:
        """Width of the last panel of a matrix of so many columns, padding included."""
        if columns == 1 and not self.gpu:
            return 1
        rest = columns % self.panel(dtype) or self.panel(dtype)
        return min(w for w in self.widths(dtype) if w >= rest)


ITEMSIZE = {"float32": 4, "float64": 8}
KNOWN = {
    "avx512": Simd("avx512", 64, 8),
    "avx2": Simd("avx2", 32, 6),
    "sse": Simd("sse", 16, 6),
    "neon": Simd("neon", 16, 8),
}


@lru_cache
def host_simd() -> Simd:
    """The widest set that this processor has; `FASTMLP_SIMD` overrides it (any of them runs anywhere, only slower)."""
    forced = os.environ.get("FASTMLP_SIMD")
    if forced:
        if forced not in KNOWN:
            raise unknown_name("FASTMLP_SIMD", forced, KNOWN)
        return KNOWN[forced]
    if platform.machine().lower() in ("arm64", "aarch64"):
        return KNOWN["neon"]
    from llvmlite.binding import get_host_cpu_features

    try:
        features = get_host_cpu_features()
    except RuntimeError:  # LLVM does not know this platform
        return KNOWN["sse"]
    if features.get("avx512f"):
        return KNOWN["avx512"]
    return KNOWN["avx2" if features.get("avx2") and features.get("fma") else "sse"]
