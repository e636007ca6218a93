"""Training loops of the user's own: steps one by one, between which the optimiser's state is kept."""

from __future__ import annotations

import warnings
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple

from . import losses, optimizers, schedules
from ._arrays import check_fits, check_order_of_columns
from ._turns import Turn
from .errors import DivergenceError, check_count, check_threads
from .layers import Dropout, flatten
from .lowering import warn_of_layers

MOST_OTHERS, MOST_BYTES = 2, 2**24  # that are kept set up, each of so much memory at most

if TYPE_CHECKING:
    from collections.abc import Callable

    from .losses import Loss
    from .optimizers import Optimizer
    from .sequential import Sequential
    from .training import Training


def _kind(trainer: Training) -> tuple:
    """Of two of a kind, the later one has room for more rows."""
    return type(trainer), trainer.loss, trainer.n_threads, trainer.stored_as, trainer.optimizer.structure


def _may_serve_again(trainer: Training) -> bool:
    """Sparse rows that are multiplied as they are, and queries, are set up anew in every step."""
    return not (trainer.plan.entries or trainer.loss.queries) and trainer.plan.n_bytes <= MOST_BYTES


class Kept(NamedTuple):
    """What steps go on from: the optimiser's state, and the parameters that it belongs to."""

    optimizer: Optimizer
    seed: int
    state: dict
    steps_per_epoch: int
    arrays: dict  # the model's dictionary; with another one, somebody has set parameters since


class OwnLoop:
    """What the steps on one model share: the optimiser's state, and whose turn it is.

    Attributes
    ----------
    trainer : Training or None
        Of the last step: of rows, or of gradients.
    kept : Kept or None
        Without a trainer: what the next step goes on from.
    others : list of Training
        Of steps of other kinds, by another loss, say: set up already, but with old numbers.
    behind : bool
        Whether the trainer has newer parameters than the model's dictionary.
    turns : dict
        Of all threads that are in the middle of a step, or of reading the parameters.
    """

    trainer: Training | None = None
    behind = False

    def __init__(self, kept: Kept | None = None):
        self.kept, self.turns, self.others = kept, {}, []

    # Steps -----------------------------------------------------------------------------------------------------------

    def train_on_batch(self, model: Sequential, *arguments: Any) -> float:
        return self._in_turn(self._train_on_batch, model, *arguments)

    def apply_gradients(self, model: Sequential, *arguments: Any) -> None:
        self._in_turn(self._apply_gradients, model, *arguments)

    def reset(self) -> None:
        self._in_turn(self._reset)

    def _train_on_batch(self, model, X, y, loss, optimizer, sample_weight, groups, seed, n_threads) -> float:
        from .gradients import GivenGradients

        kept = None if isinstance(self.trainer, GivenGradients) else self.trainer
        loss = losses.get(model.loss if loss is None else loss)
        last, last_seed = self._last
        optimizer = optimizers.get((last or "adam") if optimizer is None else optimizer)
        seed = check_count(last_seed if seed is None else seed, "seed", least=0)
        n_threads = check_threads(n_threads)
        check_order_of_columns(X, model._columns)
        self._warn_of_epochs(model, optimizer)
        rows = model._checked(X, y, loss, sample_weight, groups, some=False)
        X = rows[0]
        model._check_batch_norm(X.shape[0], X.shape[0])
        new, before = not model.built, model.loss
        try:
            if new:
                model.build(X.shape[1], seed)
            model._need_parameters()
            if before is None or not isinstance(loss, losses.GivenGradient):  # which says nothing of what comes out
                model.loss = loss
            trainer = self._fed(model, kept, loss, optimizer, seed, n_threads, rows)
        except BaseException:  # before the step: it is what it was
            model.loss = before
            if new:
                model._arrays, model.n_features = {}, None
            raise
        self.behind = True  # even if Ctrl-C comes right after the step
        try:
            value = trainer.one_step()
        except DivergenceError:
            check_fits(X, model.dtype)
            raise
        model._epochs += 1
        return value

    def _fed(self, model, kept, loss: Loss, optimizer: Optimizer, seed: int, n_threads: int | None, rows: tuple):
        """The `Training` that goes on with these rows."""
        from .training import Training

        if kept and (kept.loss, kept.n_threads) == (loss, n_threads) and kept.can_take(optimizer) and kept.feed(*rows):
            kept.go_on_with(optimizer, seed)
            return kept
        other = self._other(Training, optimizer, n_threads, lambda other: other.loss == loss and other.feed(*rows))
        if other:
            other.take_over(self.trainer, model._epochs)
            other.go_on_with(optimizer, seed)
            self._change_to(other)
            return other
        warn_of_layers(model.layers, loss, stacklevel=7)
        X, y, sample_weight, groups = rows
        options = {"loss": loss, "optimizer": optimizer, "batch_size": X.shape[0], "sample_weight": sample_weight}
        options |= {"groups": groups, "seed": seed, "n_threads": n_threads, "epochs_before": model._epochs}
        options["weight_of_row"] = 1.0
        if self.trainer is not None:
            self.trainer.save_parameters()
        self._change_to(Training(model, X, y, state=self.state_for(model, optimizer), **options))
        return self.trainer

    def _other(self, kind: type, optimizer: Optimizer, n_threads: int | None, fits: Callable) -> Training | None:
        """One of the others that may go on from the present one with this optimiser."""
        if self.trainer is None or not optimizer.goes_on_from(self.trainer.optimizer):
            return None
        for other in self.others:
            able = other.can_take(optimizer) and other.places == self.trainer.places
            if type(other) is kind and other.n_threads == n_threads and able:
                if fits(other):
                    return other
                other.let_go()  # of rows that it could not take
        return None

    def _change_to(self, trainer: Training) -> None:
        """Keep the present one among the others, if it may serve again, and is small."""
        last, kinds = self.trainer, {_kind(trainer)}
        if last is not None and last is not trainer:
            last.let_go()
        others, self.others = [last, *self.others], []
        for other in others:
            if other not in (None, trainer) and (kind := _kind(other)) not in kinds and _may_serve_again(other):
                kinds.add(kind)
                self.others.append(other)
        del self.others[MOST_OTHERS:]
        self.trainer, self.kept = trainer, None

    def _apply_gradients(self, model, gradients, optimizer, n_threads) -> None:
        from .gradients import GivenGradients, checked_gradients

        model._need_parameters()
        own, (last, seed) = self.trainer, self._last
        optimizer = optimizers.get((last or "adam") if optimizer is None else optimizer)
        n_threads = check_threads(n_threads)
        self._warn_of_epochs(model, optimizer)
        if not (isinstance(own, GivenGradients) and own.n_threads == n_threads and own.can_take(optimizer)):
            own = self._other(GivenGradients, optimizer, n_threads, lambda other: True)
        if own is None:
            if self.trainer is not None:
                self.trainer.save_parameters()
            own = GivenGradients(model, optimizer, seed, n_threads, self.state_for(model, optimizer))
        arrays = checked_gradients(gradients, own.names, model._stored)
        if own in self.others:
            own.take_over(self.trainer, model._epochs)
        own.go_on_with(optimizer, seed)
        if own is not self.trainer:
            self._change_to(own)
        self.behind = True  # even if Ctrl-C comes right after the step
        own.apply(arrays)

    def _reset(self) -> None:
        if self.trainer is not None:
            self.trainer.save_parameters()
        self.forget()

    def forget(self) -> None:
        """What the next step would go on from."""
        self.trainer, self.kept, self.others = None, None, []

    def _warn_of_epochs(self, model: Sequential, optimizer: Optimizer) -> None:
        if optimizer == self._last[0]:
            return
        named = f"`optimizer`={optimizer!r}"
        numbers = [(f"the {f.name} of {named}", getattr(optimizer, f.name)) for f in fields(optimizer)]
        numbers += [(f"{layer!r}", layer.rate) for layer in flatten(model.layers) if isinstance(layer, Dropout)]
        for what, number in numbers:
            if schedules.counts_epochs(number):
                remedy = "and each step of your own loop is one: give the schedule's length in `steps`."
                warnings.warn(f"{what} changes by epochs, {remedy}", stacklevel=6)

    # What they go on from --------------------------------------------------------------------------------------------

    @property
    def _last(self) -> tuple[Optimizer | None, int]:
        """Optimiser and seed of the last step that the next one may go on from."""
        if self.trainer is not None:
            return self.trainer.optimizer, self.trainer.seed
        return (None, 0) if self.kept is None else self.kept[:2]

    def state_for(self, model: Sequential, optimizer: Optimizer, steps_per_epoch: int = 1) -> dict | None:
        """What this optimiser's steps go on from, if those before were of its kind.

        Raises
        ------
        ValueError
            It has a schedule, of whose epochs those before had another number of steps.
        DivergenceError
            The state is not finite: all is some steps back then.
        """
        last, _ = self._last
        if last is None or not optimizer.goes_on_from(last):
            return None
        trainer, kept = self.trainer, self.kept
        before = 1 if trainer else kept.steps_per_epoch
        if optimizer.scheduled and before != steps_per_epoch:
            raise ValueError(
                f"`optimizer`={optimizer!r} follows a schedule of epochs, which had {before} steps and would have "
                f"{steps_per_epoch} now: give a number, or `reset_optimizer()` before."
            )
        if trainer:
            trainer.look_at_slots()
            state = trainer.state
        elif model._stored is kept.arrays:
            state = kept.state
        else:
            state = kept.state | {"parameters": None}
        return state | {"epoch": 0, "learning_rate": None}  # the epochs are counted by the model

    def to_keep(self, arrays: dict) -> Kept | None:
        """What a copy with these parameters goes on from; None while another thread is in the middle of a step, or
        where the state is not finite.
        """
        trainer, turn = self.trainer, Turn(steps=False)
        if trainer is None:
            return self.kept
        try:
            self.turns[turn] = None
            if not (turn.comes(self.turns) and trainer.is_sound):
                return None
            return Kept(trainer.optimizer, trainer.seed, trainer.state, 1, arrays)
        finally:
            self.turns.pop(turn, None)

    # Whose turn it is ------------------------------------------------------------------------------------------------

    def catch_up(self) -> None:
        """Give the model the parameters of the last step, unless another thread is in the middle of one."""
        self._forget_torn_steps()
        turn = Turn(steps=False)
        try:
            self.turns[turn] = None
            if turn.comes(self.turns) and self.behind:  # nobody was faster
                self.trainer.save_parameters()  # sets them
        finally:
            self.turns.pop(turn, None)

    def _in_turn(self, step, *arguments):
        """A step of the optimiser, unless another thread is in the middle of one."""
        self._forget_torn_steps()
        turn = Turn(steps=True)
        try:
            self.turns[turn] = None
            if not turn.comes(self.turns):
                raise RuntimeError("another thread is in the middle of a step of this model.")
            try:
                return step(*arguments)
            finally:
                if self.trainer is not None:
                    self.trainer.let_go()
        finally:
            self.turns.pop(turn, None)

    def _forget_torn_steps(self) -> None:
        """Where this process was forked off in the middle of a step: here nobody ends it, and what it has written is
        half done. The parameters are those of an earlier step.
        """
        if self.turns and (torn := Turn.torn(self.turns)):
            self.forget()
            self.behind = False
            for turn in torn:
                self.turns.pop(turn, None)
