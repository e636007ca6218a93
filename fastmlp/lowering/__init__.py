"""Layers, a loss and an optimiser into a `Plan`: what a step does, in which order, what is fused, how it is shared out.

`training_plan`, `update_plan`, `forward_plan` and `loss_plan` lower the same layers: `network.py` places parameters and
values, `steps.py` makes the records of the way forward, `backward.py` those of the way back, `updates.py` what follows
a gradient. All make one list of steps, over rows of the batch or over tiles, which `_phases` cuts where barriers must
lie; the updates of a training step come last, together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import wraps
from itertools import groupby

from .. import records as R
from ..activations import Activation
from ..augmentation import Mixing
from ..embedding import Embedding
from ..layers import ActivityRegularization, Dense, Layer, Softmax
from ..losses import Loss
from ..optimizers import Optimizer
from ..plan import Kernel, Matrix, Phase, Plan, Step
from ..simd import Simd
from .augmentation import augmentation_steps
from .backward import Backward
from .network import check_layers, parameter_shapes, place_network, warn_of_layers
from .steps import (
    Op,
    activity_penalties,
    columns_step,
    elementwise,
    finite_step,
    forward_steps,
    input_steps,
    loss_across_rows,
    loss_step,
    output_step,
    row_weights,
)
from .updates import Updates

__all__ = [
    "check_layers",
    "forward_plan",
    "loss_plan",
    "parameter_shapes",
    "training_plan",
    "update_plan",
    "warn_of_layers",
]


MOST_REMEMBERED = 64


def _remembered(make: Callable[..., Plan]) -> Callable[..., Plan]:
    """The same plan for equal arguments, which nobody changes: one takes as long to make as a small batch to learn."""
    plans: dict = {}

    @wraps(make)
    def plan(*args, **kwargs):
        key = args, tuple(kwargs.items())
        try:
            found = plans.get(key)
        except TypeError:  # a list of layers
            return make(*args, **kwargs)
        if found is None:
            found = make(*args, **kwargs)
            if not found.has_own_functions:  # whose kernels change with what they refer to
                if len(plans) >= MOST_REMEMBERED:
                    plans.clear()
                plans[key] = found
        return found

    return plan


@_remembered
def training_plan(
    layers: Sequence[Layer],
    loss: Loss,
    targets: str,
    optimizer: Optimizer,
    *,
    n_features: int,
    batch_size: int,
    source: str,
    dtype: str,
    weighted: bool = False,
    l2: bool = False,
    study: bool = False,
    entries: int = 0,
    guard: int = 0,
    simd: Simd | None = None,
    precision: str | None = None,
) -> Plan:
    """The plan of a training step.

    Parameters
    ----------
    layers : sequence of Layer
    loss : Loss
    targets : {"codes", "dense"}
        Integer codes, or an array (n, K) of the plan's dtype.
    optimizer : Optimizer
        Its rule and what else happens to a gradient are in the plan; its numbers are not.
    n_features, batch_size : int
    source : str
        How rows are gathered: "float32", "float64", "uint8", or "csr.float32.int32" and the like.
    dtype : str
        "float32" or "float64".
    weighted, l2 : bool
        Whether rows have weights, and whether weights (not biases) have an L2 penalty.
    study : bool
        For a look at gradients: nothing is dropped or augmented, nothing is frozen.
    entries : int
        What a batch of sparse rows has at most, where the first layer should multiply them as they are; 0: they are
        gathered, as others are.
    guard : int
        Bytes between buffers, for tests.
    simd : Simd, optional
        The host's by default.
    precision : str, optional
        Of products; the dtype's by default.
    """
    n_slots = optimizer.n_slots + (optimizer.ema_decay is not None)  # the last one is the average
    plan, ops = place_network(layers, n_features, batch_size, source, dtype, guard, simd, n_slots, True, study, entries)
    if precision is not None:
        plan.precision = precision
    _check_something_learns(ops)
    updates = Updates(plan, optimizer, l2)
    rows, augmentation, mixed = plan.input, [], {}
    if not study:
        mixes = any(isinstance(layer, Mixing) for layer in layers)
        rows = plan.values(n_features) if mixes else plan.input
        augmentation, mixed = augmentation_steps(plan, rows, layers, loss, targets, weighted)
    steps = [*input_steps(plan, rows), *augmentation, *forward_steps(plan, ops, training=True)]
    if plan.entries and ops[0].learns:
        steps.insert(0, columns_step(plan))
    gradient = ops[-1].target
    if loss.across:
        gradient = plan.values(plan.n_outputs)
        loss_steps, row_losses = loss_across_rows(plan, ops[-1].target, loss, weighted, gradient)
        steps += loss_steps
    elif isinstance(ops[-1].layer, (Activation, Softmax, ActivityRegularization)):
        gradient, copy = _copied(plan, ops[-1])
        steps.append(copy)
    if not loss.across:
        variant = "dense" if mixed else targets
        step, row_losses = loss_step(plan, gradient, loss, variant, weighted, with_gradient=True, mixed=mixed)
        steps.append(step)
    weights = row_weights(weighted, mixed)
    steps += activity_penalties(ops, loss, row_losses, weights)
    backward = Backward(plan, ops, gradient, weights, updates)
    backward.run()
    total = Step("sum_losses", {R.ROW_LOSS: row_losses}, "loss of the step = sum over rows", 1, batch_size)
    last = Phase(R.TILE_PHASE, (*backward.tiles, total))
    plan.phases = [*_phases(steps + backward.steps), last, *updates.phases()]
    plan.flops = sum(
        _flops(plan, op) * (1 + op.learns + (op.weight.transposed is not None))
        for op in ops
        if isinstance(op.layer, Dense)
    )
    return plan


def update_plan(
    layers: Sequence[Layer],
    optimizer: Optimizer,
    *,
    n_features: int,
    dtype: str,
    guard: int = 0,
    simd: Simd | None = None,
) -> tuple[Plan, Updates]:
    """The plan of a step by gradients that come from elsewhere, and where they go: its updates only."""
    n_slots = optimizer.n_slots + (optimizer.ema_decay is not None)
    plan, ops = place_network(layers, n_features, 1, dtype, dtype, guard, simd, n_slots, training=True)
    _check_something_learns(ops)
    updates = Updates(plan, optimizer, l2=False)
    for op in ops:
        for name, parameter in op.parameters.items() if op.learns else ():
            if parameter.learned:
                weight = name == "weight" and isinstance(op.layer, (Dense, Embedding))
                updates.fields(parameter, op.layer, weight=weight, stored=True)
    plan.phases, plan.random = updates.phases(), False
    plan.flops = sum(8 * math.prod(parameter.shape) for parameter in plan.parameters)
    return plan, updates


def forward_plan(
    layers, *, n_features, batch_size, source, dtype, entries=0, guard=0, simd=None, n_workers=None, check=False
) -> Plan:
    """The plan of a prediction: the logits of `batch_size` rows into a row-major array, the buffer "output".

    Of fewer rows, with `n_workers`, where that is more than so many take at a time. With `check`, rows of X
    that are not finite are noticed, unless they cannot be so or are sparse.
    """
    options = {"entries": entries, "n_workers": n_workers}
    plan, ops = place_network(layers, n_features, batch_size, source, dtype, guard, simd, **options)
    checks = [finite_step(plan)] if check and source in ("float32", "float64") else []
    forward = [*input_steps(plan, plan.input), *forward_steps(plan, ops)]
    plan.phases = _phases([*checks, *forward, output_step(plan, ops[-1].target)])
    plan.flops = sum(_flops(plan, op) for op in ops if isinstance(op.layer, Dense))
    return plan


def loss_plan(
    layers,
    loss,
    targets,
    *,
    n_features,
    batch_size,
    source,
    dtype,
    weighted=False,
    entries=0,
    guard=0,
    simd=None,
    logits=False,
) -> Plan:
    """The plan of an evaluation: forward and the loss, no gradient. With `logits`, they go to the buffer "output"."""
    plan, ops = place_network(layers, n_features, batch_size, source, dtype, guard, simd, entries=entries)
    z, copies = ops[-1].target, []
    outputs = [output_step(plan, z)] if logits else []  # before the loss, which writes over them
    if isinstance(ops[-1].layer, ActivityRegularization):
        z, copy = _copied(plan, ops[-1])
        copies = [copy]
    if loss.across:
        loss_steps, row_losses = loss_across_rows(plan, z, loss, weighted)
    else:
        step, row_losses = loss_step(plan, z, loss, targets, weighted, with_gradient=False)
        loss_steps = [*copies, step]
    loss_steps += activity_penalties(ops, loss, row_losses, row_weights(weighted, {}))
    total = Step("sum_losses", {R.ROW_LOSS: row_losses}, "loss of the step = sum over rows", 1, 1)
    plan.phases = _phases([*input_steps(plan, plan.input), *forward_steps(plan, ops), *outputs, *loss_steps, total])
    plan.flops = sum(_flops(plan, op) for op in ops if isinstance(op.layer, Dense))
    return plan


def _check_something_learns(ops: list[Op]) -> None:
    if not any(op.learns for op in ops):
        raise ValueError("there is nothing to train: all layers have trainable=False.")


def _copied(plan: Plan, op: Op) -> tuple[Matrix, Step]:
    """A copy of an output that its layer needs as it is, for the loss to overwrite."""
    copy = plan.values(op.target.columns)
    kernel = {R.EPILOGUE: Kernel("identity.value")}
    return copy, elementwise(op.target, copy, kernel, op.target, "copy of the output")


def _phases(steps: list[Step]) -> list[Phase]:
    """Steps in their order: those over rows together, each over tiles between barriers of its own."""
    phases = []
    for tiled, together in groupby(steps, lambda step: step.units > 0):
        if tiled:
            phases += [Phase(R.TILE_PHASE, (step,)) for step in together]
        else:
            phases.append(Phase(R.ROW_PHASE, tuple(together)))
    return phases


def _flops(plan: Plan, op: Op) -> int:
    """Of one product of a dense layer."""
    n_in, n_out = op.weight.shape
    return 2 * n_out * (plan.entries if plan.multiplies_sparse(op.source) else plan.batch_size * n_in)
