"""Parameters by name, in and out of a plan's vector of parameters."""

from __future__ import annotations

import math

import numpy as np

from ..plan import Plan


class NamedParameters:
    """What the executors share: they have a `plan`, `parameters`, `slots`, `everything` (parameters and slots) and
    `transposed`, in the plan's layout on the host.
    """

    plan: Plan
    parameters: np.ndarray
    slots: np.ndarray
    everything: np.ndarray
    transposed: np.ndarray

    def pack(self, parameters: dict[str, np.ndarray]) -> None:
        """Write named arrays into the vector of parameters, and their transposed copies."""
        self.pack_into(self.parameters, parameters)
        self.refresh()

    def pack_into(self, vector: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
        """Write named arrays into a vector laid out like `parameters`."""
        for p in self.plan.parameters:
            p.matrix.pack(arrays[p.name].reshape((1, *p.shape)[-2:]), p.matrix.within(vector))

    def places(self) -> np.ndarray:
        """Where the numbers of all parameters, in their order and raveled, lie in the vector."""
        sizes = [math.prod(p.shape) for p in self.plan.parameters]
        numbers = np.split(np.arange(1, 1 + sum(sizes)), np.cumsum(sizes)[:-1])  # padding is 0
        vector = np.zeros(self.plan.sizes["parameters"] // self.plan.item, np.int64)
        self.pack_into(vector, {p.name: of for p, of in zip(self.plan.parameters, numbers, strict=True)})
        found = np.flatnonzero(vector)
        return found[np.argsort(vector[found])]

    def refresh(self) -> None:
        """Take note that parameters or slots were written from outside: their transposed copies follow."""
        parameters, transposed = self.parameters, self.transposed.view(self.plan.dtype)
        for p in self.plan.parameters:
            if p.transposed:
                p.transposed.pack(p.matrix.unpack(p.matrix.within(parameters)).T, p.transposed.within(transposed))

    def all_finite(self, what: str) -> bool:
        """Whether all "parameters" are finite, or all "slots", where a gradient too large to be squared shows first, or
        "everything", which is both.
        """
        values = getattr(self, what)
        with np.errstate(all="ignore"):
            return bool(np.isfinite(values.sum()) or np.isfinite(values).all())  # a sum may overflow

    def room_for_order(self, shape: tuple[int, int]) -> np.ndarray:
        """Where to write the order of rows that `bind` is given next."""
        return np.empty(shape, np.int64)

    def unpack(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """Named arrays, copies, from a vector laid out like `parameters` (or like a slot)."""
        return {p.name: p.matrix.unpack(p.matrix.within(vector)).reshape(p.shape) for p in self.plan.parameters}
