"""The records of augmentation: between the gathered rows and the first layer, in training only."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .. import records as R
from ..augmentation import CutMix, GaussianNoise, Mixing, RandomAffine
from ..layers import Layer
from ..losses import LOSSES, Loss
from ..plan import Group, Matrix, Plan, Ref, Step
from .steps import bits, panels


def augmentation_steps(
    plan: Plan, rows: Matrix, layers: Sequence[Layer], loss: Loss, targets: str, weighted: bool
) -> tuple[list[Step], dict]:
    """The steps from the gathered `rows` to `plan.input`, and the fields by which a loss finds mixed targets, if any.

    The two are one matrix unless rows are mixed, which cannot be done in place.
    """
    steps, of_loss = [], {}
    for i, layer in enumerate(layers):
        fields = {**panels(rows), R.N_OUT: plan.n_features, R.LAYER: 2**16 + i}  # behind all others
        if isinstance(layer, GaussianNoise):
            plan.random = True
            fields |= {R.NUMBER: bits(layer.stddev)}
            steps.append(Step("gaussian_noise", fields, f"x = x + {layer.stddev:g} e, e normal"))
        elif isinstance(layer, RandomAffine):
            plan.random = True
            fields |= {R.IMAGES: plan.place("workspace", plan.batch_size * plan.n_features * plan.item)}
            steps.append(Step("random_affine", fields | _affine_fields(layer), f"x = {layer!r}(x)"))
        elif isinstance(layer, Mixing):
            if not loss.mixable:
                raise ValueError(
                    f"{layer!r} mixes targets, which the loss {loss.name!r} cannot take; use one of "
                    f"{', '.join(name for name, other in LOSSES.items() if other.mixable)}."
                )
            of_loss = _places_of_targets(plan, weighted)
            fields |= {
                **panels(plan.input),
                R.IN: rows.at,
                R.FROM_TARGETS: Ref("y", 0),
                R.TO_TARGETS: of_loss[R.Y],
                R.N_TARGETS: plan.n_outputs,
                R.FROM_WEIGHTS: Ref("sample_weight", 0) if weighted else 0,
                R.TO_WEIGHTS: of_loss[R.SW],
                R.CODES: int(targets == "codes"),
                R.GROUP: plan.group(Group(mixing=layer)),
            }
            if isinstance(layer, CutMix):
                plan.random = True
                fields |= _image_fields(layer.image_shape) if layer.image_shape else {}
            name, rows = type(layer).__name__, plan.input
            # over units, so that it begins when all rows are there: the next row may be another worker's
            steps.append(Step(name.lower(), fields, f"x, y = {name} of a row and the next", plan.batch_size, 1))
    return steps, of_loss


def _places_of_targets(plan: Plan, weighted: bool) -> dict:
    return {
        R.Y: plan.place("workspace", plan.batch_size * plan.n_outputs * plan.item),
        R.SW: plan.place("workspace", plan.batch_size * plan.item) if weighted else 0,
        R.IN_BATCH: 1,
    }


def _image_fields(shape: tuple[int, ...]) -> dict:
    height, width, channels = (*shape, 1)[:3]
    return {R.HEIGHT: height, R.WIDTH: width, R.CHANNELS: channels}


def _affine_fields(layer: RandomAffine) -> dict:
    height, width = layer.image_shape[:2]
    numbers = {
        R.LEAST_ANGLE: math.radians(layer.degrees[0]),
        R.MOST_ANGLE: math.radians(layer.degrees[1]),
        R.MOST_SHIFT_X: layer.translate[0] * width,
        R.MOST_SHIFT_Y: layer.translate[1] * height,
        R.LEAST_SCALE: layer.scale[0],
        R.MOST_SCALE: layer.scale[1],
        R.FILL: layer.fill,
    }
    return _image_fields(layer.image_shape) | {field: bits(number) for field, number in numbers.items()}
