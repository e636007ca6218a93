"""What a training step does with gradients: penalties, clipping, the optimiser's rule, averages, constraints.

`backward.py` makes the records that compute gradients and asks `Updates.fields` how each goes on. Without clipping by
the norm the update follows at once, on the block whose gradient was just computed. With it gradients are stored, and
three more phases follow: the squares are summed column by column, the sums become one coefficient, the updates are
done. Gradients that come from elsewhere have such places, too. The limit of `max_norm` needs whole columns of new
weights, so it has a phase of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .. import records as R
from ..embedding import Embedding
from ..layers import Dense, Layer
from ..optimizers import Optimizer
from ..plan import Group, Kernel, Matrix, Parameter, Phase, Plan, Ref, Step
from .steps import bits


@dataclass
class Updates:
    """How an optimiser updates the parameters of a plan, whose weights may have an L2 penalty."""

    plan: Plan
    optimizer: Optimizer
    l2: bool
    places: dict[str, Matrix] = field(default_factory=dict)  # of the gradients that are stored, by parameter
    coefficient: Ref | None = None  # what they are multiplied by
    _sums: list[Step] = field(default_factory=list)
    _updates: list[Step] = field(default_factory=list)
    _constraints: list[Step] = field(default_factory=list)
    _n_sums: int = 0

    @property
    def average(self) -> Kernel | int:
        """What follows an update where a moving average of the parameters is kept; else 0."""
        return 0 if self.optimizer.ema_decay is None else Kernel("average")

    def fields(self, parameter: Parameter, layer: Layer, *, weight: bool, stored: bool = False) -> tuple[dict, str]:
        """Fields for the record that computes a gradient in blocks of panel x panel, and what they say; with `stored`
        that is not the one which uses it.

        Decay is for matrices, penalties and `max_norm` for those of dense layers; vectors have none.
        """
        plan, optimizer, copy = self.plan, self.optimizer, parameter.transposed
        clip = optimizer.clip_value is not None
        decay, limited = weight and optimizer.weight_decay != 0, weight and layer.max_norm is not None
        own = isinstance(layer, (Dense, Embedding))
        group = Group(layer.l1, layer.l2, layer.learning_rate_multiplier) if own else Group()
        penalised = weight and (self.l2 or layer.l1 or layer.l2)
        before = {
            R.GROUP: plan.group(group),
            R.PENALTY: Kernel("l1_l2" if layer.l1 else "l2") if penalised else 0,
            R.CLIP_KERNEL: Kernel("clip") if clip else 0,
        }
        last = {
            R.AVERAGE_KERNEL: self.average,
            R.WT: copy.at if copy else 0,
            R.WT_LAST_WIDTH: copy.last_width if copy else 0,
        }
        after = {
            R.DECAY_KERNEL: Kernel("decay") if decay else 0,
            R.OPTIMIZER: Kernel(optimizer.rule),
            R.SLOTS: plan.n_slots,
        }
        words = ["decay"] * decay + [optimizer.rule]
        if limited:
            at = {**self._geometry(parameter), **last, R.NUMBER: bits(layer.max_norm)}
            text = f"{parameter.name}: columns of norm {layer.max_norm:g} at most"
            self._constraints.append(Step("max_norm", at, text, parameter.matrix.n_panels, self._panel_cost(parameter)))
        else:
            after |= last
            words += ["average"] * bool(self.average) + ["W^T"] * bool(copy)
        text = ", ".join(["gradient"] + ["clip"] * clip)
        if optimizer.clip_norm is None and not stored:
            return before | after, ", ".join([text, *words])
        self._store(parameter, before, after, ", ".join(words))
        return before, text

    def _store(self, parameter: Parameter, before: dict, after: dict, text: str) -> None:
        """Give the gradient a place, and the later phases their records."""
        plan, matrix = self.plan, parameter.matrix
        place = self.places[parameter.name] = plan.matrix("workspace", matrix.rows, matrix.columns)
        before[R.GRADIENT] = place.at
        at = {**self._geometry(parameter), R.GRADIENT: before[R.GRADIENT]}
        cost = self._panel_cost(parameter)
        sums = {**at, R.SUMS: 8 * self._n_sums}  # from where the sums of all parameters will be
        self._sums.append(Step("square_sums", sums, f"{parameter.name}: squares", matrix.n_panels, cost))
        self._n_sums += (matrix.n_panels - 1) * matrix.panel + matrix.last_width
        units, cost = matrix.n_panels * at[R.N_BLOCKS], max(1, min(matrix.rows, matrix.panel) * matrix.panel // 4)
        fields = {**at, **after, R.GROUP: before[R.GROUP]}
        self._updates.append(Step("update", fields, f"{parameter.name}: {text}", units, cost))

    def _geometry(self, parameter: Parameter) -> dict:
        matrix = parameter.matrix
        return {
            R.W: matrix.at,
            R.DEPTH: matrix.rows,
            R.N_BLOCKS: -(-matrix.rows // matrix.panel),
            R.N_PANELS: matrix.n_panels,
            R.LAST_WIDTH: matrix.last_width,
            R.N_OUT: matrix.columns,
        }

    def _panel_cost(self, parameter: Parameter) -> int:
        return max(1, parameter.matrix.rows * parameter.matrix.panel // 16)

    def phases(self) -> list[Phase]:
        """What follows the phase of the gradients, when all of them have their fields."""
        groups: list[list[Step]] = []
        if self._updates:
            coefficient = self.coefficient = self.plan.place("workspace", 8)
            for step in self._updates:
                step.fields[R.COEFFICIENT] = coefficient
            groups.append(self._updates)
        if self.optimizer.clip_norm is not None:
            place = self.plan.place("workspace", 8 * self._n_sums)
            for step in self._sums:
                step.fields[R.SUMS] = place + step.fields[R.SUMS]
            fields = {R.SUMS: place, R.N_SUMS: self._n_sums, R.COEFFICIENT: coefficient}
            norm = Step("clip_norm", fields, "min(1, clip_norm / (norm of the gradient + 1e-6))", 1)
            groups = [self._sums, [norm], *groups]
        if self._constraints:
            groups.append(self._constraints)
        return [Phase(R.TILE_PHASE, tuple(steps)) for steps in groups]
