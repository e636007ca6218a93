"""Loss and gradient of a model without training it: of one batch, and as the function that L-BFGS minimises; and steps
by gradients that were made elsewhere.

The training step runs with a rule that keeps the gradient in place of an optimiser.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping

import numpy as np

from ._arrays import refuse_masked
from .errors import DivergenceError, unknown_name
from .lowering import update_plan
from .optimizers import SGD
from .prediction import keep
from .training import Training


class _StoreGradient(SGD):
    """No optimiser: keeps the gradient of the batch in its slot."""

    rule = "store_gradient"
    n_slots = 1


RULE = _StoreGradient(learning_rate=0.0)


class FlatObjective:
    """Loss and gradient of a model over a whole data set as a function of one float64 vector.

    The vector holds the parameters that are learned, in order, each raveled. Loss: that of `Training.run`, plus
    l2 / (2 sum of weights) ||W||^2; infinite, with a gradient of zeros, where the network overflows, so that a line
    search steps back.

    Parameters
    ----------
    training : Training
        With the rule `RULE`, and all rows in one batch.
    """

    def __init__(self, training: Training):
        self._training, executor = training, training.executor
        learned = {p.name: np.full(p.shape, p.learned) for p in training.plan.parameters}
        mask, places = np.zeros_like(executor.parameters), executor.places()
        executor.pack_into(mask, learned)
        self._places = places[mask[places] != 0]

    @property
    def theta(self) -> np.ndarray:
        """The vector of the present parameters."""
        return self._training.executor.parameters[self._places].astype(np.float64)

    def take(self, theta: np.ndarray) -> None:
        """Make these the parameters."""
        self._training.executor.parameters[self._places] = theta
        self._training.executor.refresh()

    def __call__(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        training = self._training
        self.take(theta)
        try:
            loss = float(training.run(1)[0])
        except DivergenceError:
            return np.inf, np.zeros_like(theta, np.float64)
        if training.l2:
            loss += 0.5 * training.l2 / training.total_weight * training.weight_squares()
        return loss, training.executor.slots[0][self._places].astype(np.float64)


class GivenGradients(Training):
    """Steps of an optimiser by gradients that come from elsewhere; no rows and no loss."""

    def __init__(self, model, optimizer, seed=0, n_threads=None, state=None):
        row = np.zeros((1, model.n_features), model.dtype)  # of no use
        target = np.zeros((1, model.n_outputs), model.dtype)
        options = {"batch_size": 1, "seed": seed, "n_threads": n_threads, "shuffle": False, "state": state}
        super().__init__(model, row, target, loss="squared_error", optimizer=optimizer, **options)
        self._penalised = []  # the gradients have penalties in them

    def _planned(self, source, targets, *, simd, guard, **options):
        common = {"n_features": self._model.n_features, "dtype": self._model.dtype.name, "simd": simd, "guard": guard}
        plan, self._updates = update_plan(self._model.layers, self.optimizer, **common)
        return plan

    @property
    def names(self) -> list[str]:
        """Of the parameters that have gradients."""
        return [*self._updates.places]

    def apply(self, gradients: dict[str, np.ndarray]) -> None:
        """One step by these arrays, of the parameters' shapes and dtype."""
        workspace, bound = self.executor.workspace, self.optimizer.at(np.array([float(self.step)]), 1).clip_value
        for name, place in self._updates.places.items():
            gradient = gradients[name].reshape(place.rows, place.columns)
            if bound is not None:
                gradient = gradient.clip(*(np.array([-1, 1], gradient.dtype) * bound).astype(gradient.dtype))
            place.pack(gradient, place.within(workspace.view(self.plan.dtype)))
        at = self._updates.coefficient.offset
        workspace[at : at + 8].view(np.float64)[0] = 1.0  # where `clip_norm` does not set it
        self.one_step()

    def let_go(self):
        self.executor.close()

    @property
    def _remedy(self):
        return f"Try a smaller learning_rate (now {self.learning_rate:g}), or clip_norm."


def weight_norms(gradients: dict[str, np.ndarray]) -> dict[str, float]:
    """Euclidean norm of the weights' gradient in each layer: {"dense_0": ..., ...}.

    >>> weight_norms({"dense_0.weight": np.array([[3.0], [4.0]]), "dense_0.bias": np.array([9.0])})
    {'dense_0': 5.0}
    """
    weights = {n.removesuffix(".weight"): g for n, g in gradients.items() if g.ndim == 2}
    return {name: float(np.linalg.norm(g.astype(np.float64))) for name, g in weights.items()}


def checked_gradients(gradients, names: list[str], parameters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays for these of the parameters, in their dtype; an error says what is missing or bad."""
    if not isinstance(gradients, Mapping):
        raise TypeError(f"`gradients` must be a dictionary name -> array; got {gradients!r}.")
    for name, gradient in gradients.items():
        refuse_masked(gradient, f"gradients[{name!r}]")
        if name not in parameters:
            raise unknown_name("gradients", name, parameters)
    arrays, dtype = {}, next(iter(parameters.values())).dtype
    for name in names:
        if name not in gradients:
            raise ValueError(f"`gradients` must have one for each parameter; {name!r} is missing.")
        array, shape = np.asarray(gradients[name]), parameters[name].shape
        if array.dtype.kind not in "biuf" or array.shape != shape:
            got = f"{array.dtype} of shape {array.shape}"
            raise ValueError(f"`gradients`[{name!r}] must be numbers of shape {shape}; got {got}.")
        with np.errstate(over="ignore"):
            arrays[name] = array.astype(dtype)
        if not np.isfinite(arrays[name]).all():
            what = f"finite in {dtype.name}; it holds NaN or infinity"
            raise ValueError(f"`gradients`[{name!r}] must be {what}.")
    return arrays


# By model: what the last gradients were computed with, as in training or not, which takes as long to make as a small
# batch
_set_up: dict[bool, weakref.WeakKeyDictionary] = {training: weakref.WeakKeyDictionary() for training in (False, True)}


def batch_gradients(
    model, X, y, loss, sample_weight=None, groups=None, n_threads=None, training=False, seed=0, weight_of_row=1.0
) -> tuple[float, dict[str, np.ndarray]]:
    """Loss (with the layers' penalties) and gradients, by parameter name, of one batch made of all rows; NaN where the
    loss is not finite. With `training`, what acts in training does so. Sums over the rows are divided by their number
    times `weight_of_row`, as in a step.
    """
    key = model.layers, model.n_features, model.dtype, loss, n_threads, X.shape[0], weight_of_row
    kept = _set_up[bool(training)].pop(model, None)
    own = kept[1] if kept and kept[0] == key else None  # nobody else gets it meanwhile
    arrays = model._arrays
    if own is not None and (training or not own.has(arrays)):  # a step changes the averages of a BatchNorm
        own._model._arrays = arrays
        own.start_from_model()
    if own is not None and own.feed(X, y, sample_weight, groups):
        own.begin_again(seed)
    else:
        options = {"batch_size": X.shape[0], "shuffle": False, "sample_weight": sample_weight, "n_threads": n_threads}
        options |= {"study": not training, "groups": groups, "seed": seed, "weight_of_row": weight_of_row}
        # a copy: where the loss is not finite, a fit gives its model other arrays
        own = Training(model._copy_to_look_at(), X, y, loss=loss, optimizer=RULE, **options)
    try:
        result = float(own.run(1)[0]), own.gradient()
    except DivergenceError:
        return float("nan"), {name: np.full_like(array, np.nan) for name, array in own.gradient().items()}
    finally:
        own.let_go()
    served = kept is not None and own is kept[1]
    if served or not (own.loss.queries or own.plan.entries or own.plan.has_own_functions):  # the next
        keep(_set_up[bool(training)], model, (key, own), lambda kept: kept[1].plan.n_bytes)
    return result
