"""Parameters by name, in and out of a plan's vector of parameters."""

from __future__ import annotations

import numpy as np

from ..plan import Plan


class NamedParameters:
    """What the executors share: they have a `plan`, `parameters`, `slots` and `transposed`, in the plan's layout on the
    host.
    """

    plan: Plan
    parameters: np.ndarray
    slots: np.ndarray
    transposed: np.ndarray

    def pack(self, parameters: dict[str, np.ndarray]) -> None:
        """Write named arrays into the vector of parameters, and their transposed copies."""
        for p in self.plan.parameters:
            array = parameters[p.name].reshape((1, *p.shape)[-2:])
            self._pack(p, array)

    def _pack(self, p, array: np.ndarray) -> None:
        at, item = p.matrix.at.offset, self.plan.item
        p.matrix.pack(array, self.parameters[at // item :])
        if p.transposed:
            p.transposed.pack(array.T, self.transposed.view(self.plan.dtype)[p.transposed.at.offset // item :])

    def refresh(self) -> None:
        """Take note that parameters or slots were written from outside: their transposed copies follow."""
        for p in self.plan.parameters:
            if p.transposed:
                self._pack(p, p.matrix.unpack(self.parameters[p.matrix.at.offset // self.plan.item :]))

    def all_finite(self, what: str) -> bool:
        """Whether all "parameters" are finite, or all "slots": a gradient too large to be squared shows there first."""
        values = getattr(self, what)
        with np.errstate(all="ignore"):
            return bool(np.isfinite(values.sum()) or np.isfinite(values).all())  # a sum may overflow

    def unpack(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """Named arrays, copies, from a vector laid out like `parameters` (or like a slot)."""
        item = self.plan.item
        return {
            p.name: p.matrix.unpack(vector[p.matrix.at.offset // item :]).reshape(p.shape) for p in self.plan.parameters
        }
