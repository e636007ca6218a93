"""`Sequential`: a stack of layers that trains and predicts, in Keras's words."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from os import PathLike
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from . import devices, initializers, losses, optimizers, parts
from ._arrays import (
    check_came_of,
    check_columns,
    check_finite,
    check_fits,
    check_groups,
    check_order_of_columns,
    check_outputs,
    check_targets,
    check_weights,
    check_X,
    class_labels,
    class_weights,
    column_names,
)
from .activations import CustomActivation
from .embedding import Embedding
from .epochs import check_callbacks, run_epochs
from .errors import DivergenceError, check_count, check_flag, check_range, check_threads, unknown_name
from .hints import hint, refuses_unknown, unknown_argument
from .history import History
from .layers import (
    ActivityRegularization,
    Dense,
    Dropout,
    Fork,
    Join,
    Layer,
    Mark,
    Maximum,
    Multiply,
    Switch,
    flatten,
    n_outputs,
    named,
    width_behind,
)
from .lowering import check_layers, parameter_shapes, warn_of_layers
from .normalization import BatchNorm, Norm, Normalization, column_statistics
from .own_loop import Kept, OwnLoop
from .prediction import (
    KEPT_BYTES,
    activity_penalties,
    as_in_training,
    first_units,
    input_gradients,
    is_few,
    numpy_forward,
)

_ROWS = 4096  # that NumPy looks at together: what lies between the layers stays small


class Sequential:
    """A network made of layers, one after the other; the last Dense gives the logits.

    Parameters
    ----------
    *layers : Layer
        `Dense`, activations such as `ReLU()`, norms such as `BatchNorm()`, `Dropout`, `Residual`, and `Rescaling` or
        `Embedding` as the first; or one sequence of them.
    dtype : {"float32", "float64"}
        Type of the parameters and of all arithmetic.

    Attributes
    ----------
    layers : tuple of Layer
        The layers.
    loss : Loss or None
        The loss of the last fit, which `predict` and `evaluate` take; may be set.
    history : History or None
        History of the last fit, also of one that Ctrl-C or an error ended. Files do not hold it.
    n_features : int or None
        Columns of X; None before there are parameters.

    Raises
    ------
    ValueError, TypeError
        No `Dense`, something that is no layer, a `Rescaling`, an `Embedding` or an augmentation that does not stand
        first, another dtype.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import Adam, Dense, ReLU, Sequential
    >>> X = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    >>> model = Sequential(Dense(8), ReLU(), Dense(1))
    >>> history = model.fit(
    ...     X, [0, 1, 1, 0], loss="binary_cross_entropy", optimizer=Adam(0.1), epochs=100, batch_size=4, verbose=0
    ... )
    >>> model.predict(X).ravel().round().tolist()
    [0.0, 1.0, 1.0, 0.0]
    """

    history: History | None = None
    _epochs = 0  # that its parameters were trained for
    _columns: tuple[str, ...] | None = None  # names, where the rows of the last fit had some
    _preprocess: dict | None = None  # of the table that `fastmlp train` made its rows of, for files

    def __init__(self, *layers: Any, dtype: Any = "float32"):
        layers = tuple(layers[0]) if len(layers) == 1 and isinstance(layers[0], Sequence) else layers
        if any(isinstance(layer, Sequential) for layer in layers):
            raise TypeError("a network is no layer of another; encoder + decoder joins two, with their parameters.")
        check_layers(layers)
        name = dtype if isinstance(dtype, str) else getattr(dtype, "name", getattr(dtype, "__name__", None))
        if name not in ("float32", "float64"):
            raise unknown_name("dtype", dtype, ["float32", "float64"])
        self.dtype = np.dtype(name)
        self._layers = layers
        self._flat = tuple(named(layers))
        self._n_outputs = n_outputs(layers)
        self._first_units = first_units(self._flat)
        self._has_own_functions = any(isinstance(layer, CustomActivation) for _, layer in self._flat)
        self._normalizes = any(isinstance(layer, Normalization) for layer in layers)
        self._loss = None
        self.n_features = None
        self._stored: dict[str, np.ndarray] = {}
        self._loop = OwnLoop()

    if not TYPE_CHECKING:  # to type checkers there would be everything

        def __getattr__(self, name: str):  # of what there is not
            meant = None if hasattr(type(self), name) else hint(("Sequential",), name)
            if meant:
                raise AttributeError(f"Sequential has no attribute {name!r}: {meant}.")
            return super().__getattribute__(name)  # raises what a property raised, too

    def __call__(self, *arguments: Any, **options: Any) -> NoReturn:
        raise TypeError("a Sequential is not called: model.predict(X), or model.logits(X) for what the loss takes.")

    def __repr__(self):
        return f"Sequential({', '.join(map(repr, self.layers))}, dtype={self.dtype.name!r})"

    @property
    def layers(self) -> tuple:
        """The layers, as they were given; those of a network do not change."""
        return self._layers

    @layers.setter
    def layers(self, layers) -> None:
        raise AttributeError(
            "`layers` cannot be set: make another Sequential of the layers that you want, and `copy_parameters` takes "
            "over what this one has learned."
        )

    @property
    def loss(self) -> Any:
        """The loss of the last fit, a `Loss`, or None; may be set, by a name too."""
        return self._loss

    @loss.setter
    def loss(self, loss) -> None:
        self._loss = None if loss is None else losses.get(loss)

    @property
    def built(self) -> bool:
        """Whether there are parameters."""
        return bool(self._stored)

    @property
    def _arrays(self) -> dict[str, np.ndarray]:
        """The parameters by name. Nobody writes into them: other ones are another dictionary. While another thread is
        in the middle of a step, those of an earlier one.
        """
        if self._loop.behind:
            self._loop.catch_up()
        return self._stored

    @_arrays.setter
    def _arrays(self, arrays: dict[str, np.ndarray]) -> None:
        self._stored, self._loop.behind = arrays, False
        sizes = {name: array.size for name, array in arrays.items()}
        n_bytes = self.dtype.itemsize * sum(sizes.values())
        self._can_be_kept = 2 * n_bytes <= KEPT_BYTES and not self._has_own_functions
        # an embedding's table multiplies nothing
        self._n_weights = sum(size for name, size in sizes.items() if not name.startswith(Embedding.prefix))

    @property
    def n_outputs(self) -> int:
        """Number of logits."""
        return self._n_outputs

    # Parameters ------------------------------------------------------------------------------------------------------

    def build(self, n_features: int, seed: int = 0) -> Sequential:
        """Draw the parameters: the same for the same seed, whatever the machine ("orthogonal" but for rounding).

        Parameters that exist are replaced.

        Parameters
        ----------
        n_features : int
            Columns of X, at least 1.
        seed : int
            Seed of the draw, at least 0.

        Returns
        -------
        Sequential
            Itself.

        Raises
        ------
        ValueError, TypeError
            No such numbers; layers that do not fit each other or `n_features`, such as a residual that ends wider than
            it begins.

        Examples
        --------
        >>> from fastmlp import Dense, ReLU, Sequential
        >>> model = Sequential(Dense(3), ReLU(), Dense(1)).build(2, seed=1)
        >>> model.parameters["dense_0.weight"].shape
        (2, 3)
        """
        n_features, seed = check_count(n_features, "n_features"), check_count(seed, "seed", least=0)
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(0,))))
        shapes, arrays = parameter_shapes(self.layers, n_features), {}
        flat = list(named(self.layers))
        for i, (name, layer) in enumerate(flat):
            if isinstance(layer, Dense):
                after = next((a for _, a in flat[i + 1 :] if not isinstance(a, (Norm, Dropout))), None)
                arrays |= _initial(name, layer, after, shapes, rng)
            elif isinstance(layer, Embedding):
                key = f"{name}.weight"
                arrays[key] = initializers.initialize(layer.embeddings_initializer, rng, *shapes[key])
            else:
                own = [key for key in shapes if key.startswith(f"{name}.")]
                first = {"weight": getattr(layer, "initial", 1.0), "running_var": 1.0}  # what shifts starts at 0
                arrays |= {key: np.full(shapes[key], first.get(key.rpartition(".")[2], 0.0)) for key in own}
        self._arrays = {name: array.astype(self.dtype) for name, array in arrays.items()}
        self.n_features, self._epochs, self._columns = n_features, 0, None
        self._loop.forget()
        return self

    def __getitem__(self, index: slice) -> Sequential:
        """Some consecutive layers as a model of their own, with copies of their parameters: the encoder `model[:4]` and
        the decoder `model[4:]` of an autoencoder, or a trained network without its last layer.

        Parameters
        ----------
        index : slice
            Of `layers`, without a step. One layer alone is `model.layers[i]`.

        Raises
        ------
        TypeError, ValueError
            No slice, or layers that make no network: without a Dense, or with an activation as the first.

        Examples
        --------
        >>> from fastmlp import Dense, ReLU, Sequential
        >>> model = Sequential(Dense(8), ReLU(), Dense(2), Dense(8)).build(8)
        >>> encoder, decoder = model[:3], model[3:]
        >>> X = [[1.0] * 8]
        >>> bool((decoder.logits(encoder.logits(X)) == model.logits(X)).all())
        True
        """
        if not isinstance(index, slice) or index.step not in (None, 1):
            raise TypeError(
                f"a model is cut by a slice such as model[2:], without a step, and one layer is model.layers[2]; got "
                f"{index!r}."
            )
        first, stop, _ = index.indices(len(self.layers))
        return parts.cut(self, first, stop)

    def __add__(self, other: Sequential) -> Sequential:
        """Two networks, one behind the other, as a model of its own, with copies of their parameters: an encoder and a
        decoder, or a new head on a trained network. The loss is the second one's.

        Raises
        ------
        ValueError
            The first has another number of outputs than the second has inputs, another dtype, or only one of them has
            parameters; or the layers make no network, such as with a `Rescaling` in the middle.

        Examples
        --------
        >>> from fastmlp import Dense, ReLU, Sequential
        >>> model = Sequential(Dense(8), ReLU(), Dense(2), Dense(8)).build(8)
        >>> X = [[1.0] * 8]
        >>> bool(((model[:3] + model[3:]).logits(X) == model.logits(X)).all())
        True
        """
        if not isinstance(other, Sequential):
            return NotImplemented
        return parts.join(self, other)

    def _adopt(self, n_features: int, parameters: dict[str, np.ndarray]) -> Sequential:
        """Take these arrays, all that a network of so many inputs has, for its own."""
        self.n_features, self._arrays = check_count(n_features, "n_features"), parameters
        return self

    def adapt(self, X: Any, sample_weight: Any = None) -> Sequential:
        """Set mean and standard deviation of the `Normalization` to those of the columns of X, whatever they were.

        `fit` does so by itself where there are none yet; a training loop of your own calls it first.

        Parameters
        ----------
        X : array-like (n, n_features) or CSR
        sample_weight : array-like (n,), optional
            Of each row, as for `fit`.

        Returns
        -------
        Sequential
            Itself.

        Raises
        ------
        ValueError, TypeError
            No parameters yet, no `Normalization`, or bad input, named.

        Examples
        --------
        >>> from fastmlp import Dense, Normalization, Sequential
        >>> model = Sequential(Normalization(), Dense(1)).build(1).adapt([[10.0], [30.0]])
        >>> model.parameters["normalization_0.running_mean"].tolist()
        [20.0]
        """
        self._need_parameters(adapted=False)
        if not self._normalizes:
            raise ValueError(f"`adapt` needs a Normalization; the first layer is {self.layers[0]!r}.")
        check_columns(X, self._columns)
        X = self._rows(X)
        self._adapt(X, check_weights(sample_weight, X.shape[0]))
        return self

    def _adapt(self, X, sample_weight) -> None:
        mean, deviation = column_statistics(X, sample_weight)
        own = {"running_mean": mean, "weight": 1 / deviation}
        own = {f"{Normalization.prefix}_0.{name}": array.astype(self.dtype) for name, array in own.items()}
        self._arrays = self._arrays | own

    @property
    def _adapted(self) -> bool:
        """Whether the `Normalization` has a mean and a deviation; also where there is none."""
        return not self._normalizes or bool(self._arrays[f"{Normalization.prefix}_0.weight"].any())

    def _need_parameters(self, adapted: bool = True) -> None:
        if not self.built:
            raise ValueError("this model has no parameters yet; call `fit` or `build` first.")
        if self._normalizes and adapted and not self._adapted:
            raise ValueError("the Normalization has no mean yet; call `fit`, or `adapt` with typical rows.")

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """Copies of the parameters by name: "dense_0.weight" (n_in, n_out), "dense_0.bias" (n_out,),
        "dense_1.weight", ...; ValueError before there are any.

        Examples
        --------
        >>> from fastmlp import Dense, Sequential
        >>> list(Sequential(Dense(3), Dense(1, use_bias=False)).build(2).parameters)
        ['dense_0.weight', 'dense_0.bias', 'dense_1.weight']
        """
        self._need_parameters(adapted=False)
        return {name: array.copy() for name, array in self._arrays.items()}

    def set_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Set some or all parameters by name; they are copied, in the model's dtype.

        Parameters
        ----------
        parameters : dict of str to array-like
            Names and shapes as in `parameters`, the attribute. What is not named stays as it is.

        Raises
        ------
        ValueError, TypeError
            No parameters yet, an unknown name, another shape, not numbers, or a value that is not finite; nothing is
            changed then.

        Examples
        --------
        >>> from fastmlp import Dense, Sequential
        >>> model = Sequential(Dense(1)).build(2)
        >>> model.set_parameters({"dense_0.weight": [[1.0], [10.0]], "dense_0.bias": [0.5]})
        >>> model.predict([[2.0, 3.0]]).tolist()
        [[32.5]]
        """
        self._need_parameters(adapted=False)
        if not isinstance(parameters, Mapping):
            raise TypeError(f"`parameters` must be a dictionary name -> array; got {parameters!r}.")
        new = {}
        for name, value in parameters.items():
            if name not in self._arrays:
                raise unknown_name("parameters", name, self._arrays)
            try:
                with np.errstate(over="ignore"):
                    value = np.array(value, self.dtype)
            except (TypeError, ValueError) as error:
                raise type(error)(f"`{name}` must be an array of numbers ({error}).") from None
            if value.shape != self._arrays[name].shape:
                raise ValueError(f"`{name}` must have shape {self._arrays[name].shape}; got {value.shape}.")
            if not np.isfinite(value).all():
                raise ValueError(f"`{name}` must be finite; it holds NaN or infinity.")
            new[name] = value
        self._arrays = {**self._arrays, **new}

    # Training --------------------------------------------------------------------------------------------------------

    @refuses_unknown
    def fit(
        self,
        X: Any,
        y: Any,
        *,
        loss: str | losses.Loss | None = None,
        optimizer: str | optimizers.Optimizer | optimizers.LBFGS = "adam",
        epochs: int = 1,
        batch_size: int = 32,
        validation_data: tuple | None = None,
        validation_split: float = 0.0,
        sample_weight: Any = None,
        class_weight: dict | str | None = None,
        groups: Any = None,
        seed: int = 0,
        n_threads: int | None = None,
        callbacks: Sequence[Any] = (),
        verbose: str | int = "auto",
        shuffle: bool = True,
        device: str = "cpu",
        precision: str | None = None,
        keep_optimizer: bool = False,
        **unknown: NoReturn,
    ) -> History:
        """Train; parameters that exist are the start.

        So a second call goes on: with a new optimiser, and with the orders of rows, masks and noise of the epochs that
        follow those of the calls before. Of plain SGD, two fits of ten epochs give the bits of one of twenty.
        The parameters, `loss` and `history` of the model are replaced.

        Parameters
        ----------
        X : array-like (n, n_features) or CSR
            float32, float64 and uint8 are read where they lie, row by row; memory maps too. Of a data frame the names
            of the columns are kept (not in files): other frames must have the same, in that order.
        y : array-like
            Targets, as the loss takes them (`Loss.targets`): integer codes (n,) or rows (n, K) for
            "softmax_cross_entropy", numbers in [0, 1] for "binary_cross_entropy", numbers for "squared_error".
        loss : str or Loss, optional
            A name or an object of `fastmlp.losses`; that of the last fit where not given.
        optimizer : str or Optimizer
            "sgd", "adam", "adamw", "amsgrad", "adamax", "nadam", "adagrad", "adadelta", "rmsprop", "rprop" or "lion"
            with its defaults, or an object: its learning_rate may be a schedule (`fastmlp.schedules`), whose steps are
            counted from the start of this call. With `ema_decay` the model gets the average of its parameters over the
            steps. "lbfgs", or `LBFGS`, learns from all rows at once, for small data.
        epochs, batch_size : int
            The last batch of an epoch is smaller where batch_size does not divide n. A batch_size above n means n.
            For losses of queries, batch_size counts queries, whose rows stay together. With "lbfgs" an epoch is an
            iteration over all rows, whatever batch_size, and there may be fewer.
        validation_data : (X, y) or (X, y, sample_weight), optional
            Adds val_loss (and val_accuracy for classification) to every epoch. (X, y, groups) for losses of queries.
        validation_split : float
            In [0, 1): the share of the rows that is validated on and not trained on, the last ones, as in Keras. Rows
            that lie in an order, such as class by class, are to be shuffled before. Not for losses of queries.
        sample_weight : array-like (n,), optional
            Weights of the rows, not negative and not all 0; 1 where not given. Only their ratios count. A step divides
            by its number of rows times the mean of all weights: on average it is that of the weighted mean over all
            rows, for any `batch_size`.
        class_weight : dict or "balanced", optional
            Class -> weight, 1 where it is not given; "balanced": n / (number of classes * rows of the class). Times the
            sample weights, of the training rows only. For losses of one class per row.
        groups : array-like (n,), optional
            The query of each row, any labels: for the losses that rank the rows of a query, "ranknet" and "listnet".
        seed : int
            Seed of the initial parameters, of the order of rows, and of dropout and augmentation.
        n_threads : int, optional
            Chosen by measuring where not given. The result is the same to the bit.
        callbacks : list or tuple of Callback
            Called after each epoch, in this order; see `fastmlp.callbacks`.
        verbose : {"auto", 0, 1, 2}
            "auto": a progress bar in a terminal, silence elsewhere. 1: a line for each epoch elsewhere, too; 2: in a
            terminal as well.
        shuffle : bool
            A new order of rows in each epoch.
        device : {"cpu", "cuda", "auto"}
            "cuda": an NVIDIA GPU, for all but sparse X (docs/cuda.md); the losses are the CPU's but for
            rounding. "auto": a GPU where there is one and a step is large. Prediction is on the CPU.
        precision : {None, "tf32x3", "tf32", "bf16"}
            Precision of products in training by a GPU's tensor cores, for wide networks: "tf32" and "bf16" round their
            factors to 10 or 7 mantissa bits, "tf32x3" takes three products for about float32's precision. All else
            stays float32. None: no tensor cores. Needs compute capability 8.0: with less, "auto" is the CPU.
        keep_optimizer : bool
            For many short fits, of data that comes bit by bit: go on from the optimiser's state (moments, number of
            steps) of the fit before, if that had this argument, too, or of `train_on_batch`, and keep it for the next.
            A schedule goes on, too, and needs epochs of as many steps as before.

        Returns
        -------
        History

        Raises
        ------
        ValueError, TypeError
            Bad input, named, with what is accepted.
        ImportError, RuntimeError
            `device="cuda"` without the package numba-cuda, without a GPU, with one that is too old for `precision`, or
            (NotImplementedError) for a sparse X.
        DivergenceError
            Loss or parameters became infinite or NaN; the last finite parameters are kept.
        KeyboardInterrupt
            Ctrl-C: raised with the parameters of the last whole step in place.

        Warns
        -----
        UserWarning
            The last layer does what the loss does itself, such as a `Softmax` before "softmax_cross_entropy"; or
            `validation_split` holds out a class that no other row has.

        Examples
        --------
        >>> import numpy as np
        >>> from fastmlp import SGD, Dense, Sequential
        >>> X = np.linspace(-1, 1, 100).reshape(-1, 1)
        >>> model = Sequential(Dense(1))
        >>> history = model.fit(
        ...     X, 2 * X + 1, loss="squared_error", optimizer=SGD(0.1), epochs=20, batch_size=10, verbose=0
        ... )
        >>> {name: array.ravel().round(2).tolist() for name, array in model.parameters.items()}
        {'dense_0.weight': [2.0], 'dense_0.bias': [1.0]}
        >>> history["loss"][-1] < 1e-4
        True
        """
        from .training import Training

        if unknown:
            raise unknown_argument(Sequential.fit, unknown)
        if loss is None:
            if self.loss is None:
                raise ValueError(f"`loss` must be one of {', '.join(map(repr, losses.LOSSES))}; got None.")
            loss = self.loss
        loss, optimizer = losses.get(loss), optimizers.get_any(optimizer)
        epochs, batch_size = check_count(epochs, "epochs"), check_count(batch_size, "batch_size")
        n_threads = check_threads(n_threads)
        seed = check_count(seed, "seed", least=0)
        check_flag("shuffle", shuffle)
        check_flag("keep_optimizer", keep_optimizer)
        warn_of_layers(self.layers, loss)
        check_order_of_columns(X, self._columns)
        columns = column_names(X)
        X, y, sample_weight, groups = self._checked(X, y, loss, sample_weight, groups)
        validation = self._validation(validation_data, X.shape[1], columns, loss)
        check_range("validation_split", validation_split, 0, 1)
        if validation_split:
            if validation is not None or groups is not None:
                other = "groups" if validation is None else "validation_data"
                raise ValueError(f"`validation_split` must be 0 where there are `{other}`; got {validation_split!r}.")
            (X, y, sample_weight), validation = _split(X, y, sample_weight, validation_split, loss)
        n = X.shape[0]
        if class_weight is not None:
            of_class = class_weights(class_weight, y, loss, self.n_outputs)
            of_class = check_weights(of_class, n, "class_weight")
            both = "class_weight * sample_weight"
            sample_weight = of_class if sample_weight is None else check_weights(of_class * sample_weight, n, both)
        backup, callbacks = check_callbacks(callbacks)
        if keep_optimizer and (backup is not None or isinstance(optimizer, optimizers.LBFGS)):
            other = optimizer if backup is None else backup
            raise ValueError(f"`keep_optimizer` must be False with {other!r}; got True.")
        devices.check_precision(precision, devices.check_device(device), self.dtype)
        run, of_all_rows = run_epochs, isinstance(optimizer, optimizers.LBFGS)
        if of_all_rows:
            from . import lbfgs

            lbfgs.check(optimizer, self.layers, callbacks, backup, device)
            run, optimizer, batch_size, device = partial(lbfgs.run_iterations, optimizer), lbfgs.RULE, n, "cpu"
        self._check_batch_norm(n, batch_size)
        device = devices.choose(device, self.layers, X, batch_size, epochs, precision)
        if verbose != 0:
            from .progress import progress_callbacks

            callbacks = [*callbacks, *progress_callbacks(verbose, epochs, n)]
        new, history, training = not self.built, History(), None
        steps = -(-n // batch_size) if groups is None else 0  # nobody knows yet how many batches the queries make
        state, to_keep = self._loop.state_for(self, optimizer, steps) if keep_optimizer else None, None
        before, first_step = {name: getattr(self, name) for name in _OF_A_FIT}, 0
        of_loop = self._loop.trainer, self._loop.kept
        options = {"sample_weight": sample_weight, "seed": seed, "n_threads": n_threads, "shuffle": shuffle}
        options |= {"device": device, "precision": precision, "groups": groups}
        if sample_weight is not None:
            options["weight_of_row"] = float(np.mean(sample_weight, dtype=np.float64))
        try:
            if new:
                self.build(X.shape[1], seed)
            if not self._adapted:
                self._adapt(X, sample_weight)
            self._arrays = self._arrays  # those of the last step of a loop, if there was one: it is forgotten now
            self._loop.forget()
            self.loss, self.history, self._columns, self._preprocess = loss, history, columns, None
            if backup is not None:
                recipe = {"optimizer": optimizer, "batch_size": batch_size, "seed": seed, "shuffle": shuffle}
                data = X, y, sample_weight, groups
                recipe |= {"device": device, "precision": precision if device == "cuda" else None}
                state = backup.find(self, data, validation, epochs, callbacks, **recipe)
            options |= {"loss": loss, "optimizer": optimizer, "batch_size": batch_size, "epochs_before": self._epochs}
            first_step = state["step"] if state else 0
            with Training(self, X, y, state=state, **options) as training:
                try:
                    run(training, history, epochs, callbacks, validation, backup)
                finally:
                    if keep_optimizer:
                        to_keep = training.state
        except DivergenceError:  # has said which parameters are kept; there are no moments that belong to them
            to_keep = None
            check_fits(X, self.dtype)
            raise
        except BaseException:  # Ctrl-C while it compiled, too little memory, a callback's error before the first step
            if training is None or training.step == first_step:  # as it was: a random network is not a fitted one
                for name, value in before.items():
                    setattr(self, name, value)
                self._loop.trainer, self._loop.kept = of_loop
                to_keep = None
            raise
        finally:
            self._epochs += 0 if training is None else len(history) if of_all_rows else training.epoch
            if to_keep is not None:
                self._loop.kept = Kept(optimizer, seed, to_keep, steps, self._stored)
        return history

    @refuses_unknown
    def train_on_batch(
        self,
        X: Any,
        y: Any,
        *,
        loss: str | losses.Loss | None = None,
        optimizer: str | optimizers.Optimizer | None = None,
        sample_weight: Any = None,
        groups: Any = None,
        seed: int | None = None,
        n_threads: int | None = None,
        **unknown: NoReturn,
    ) -> float:
        """One step of the optimiser on a batch made of all these rows, for a training loop of your own.

        The optimiser's state (moments, the number of steps) is kept from call to call, here and in `apply_gradients`,
        and in copies and pickles of the model (unless another thread is in the middle of a step), though not in files
        of `save`. The loss, the seed and the optimiser's
        numbers may be others in each call; with another kind of optimiser or a new schedule, after `reset_optimizer`,
        `build` or `fit` (without `keep_optimizer`) it begins anew. Parameters may be set in between. A schedule counts
        each call as an epoch of one step.

        Parameters
        ----------
        X : array-like (n, n_features) or CSR
            Rows of finite numbers; not changed.
        y : array-like
            Targets, as the loss takes them.
        loss : str or Loss, optional
            The model's own, that of the last call or fit, where not given.
        optimizer : str or Optimizer, optional
            That of the last call, or "adam".
        sample_weight, groups : array-like (n,), optional
            As in `fit`; but other batches are not known, so the step divides by the number of rows alone, as Keras
            does, and with weights of another mean than 1 it is longer or shorter. They may all be 0.
        seed : int, optional
            Of the first parameters, of dropout and of augmentation; that of the last call, or 0.
        n_threads : int, optional
            Chosen by measuring where not given. The result is the same to the bit.

        Returns
        -------
        float
            The mean loss of these rows before the step, with dropout, and with the layers' penalties; with weights, the
            sum of weight times loss over the number of rows, which is what the step goes down.

        Raises
        ------
        ValueError, TypeError
            Bad input, named, with what is accepted.
        DivergenceError
            Loss or parameters became infinite or NaN; parameters and optimiser are as they were before the step, or, in
            a large network, some steps before it: the message says how many.
        RuntimeError
            Another thread is in the middle of a step of this model.
        KeyboardInterrupt
            Ctrl-C: the parameters are those of the last whole step.

        Examples
        --------
        >>> import numpy as np
        >>> from fastmlp import SGD, Dense, Sequential
        >>> model, rng = Sequential(Dense(1)), np.random.default_rng(0)
        >>> for step in range(200):
        ...     x = rng.uniform(-1, 1, (32, 1))  # a stream
        ...     loss = model.train_on_batch(x, 3 * x - 1, loss="squared_error", optimizer=SGD(0.3))
        >>> loss < 1e-6
        True
        """
        if unknown:
            raise unknown_argument(Sequential.train_on_batch, unknown)
        arguments = X, y, loss, optimizer, sample_weight, groups, seed, n_threads
        return self._loop.train_on_batch(self, *arguments)

    def apply_gradients(
        self,
        gradients: Mapping[str, Any],
        *,
        optimizer: str | optimizers.Optimizer | None = None,
        n_threads: int | None = None,
    ) -> None:
        """One step of the optimiser by gradients of your own, such as those of `gradients`, changed: summed over some
        batches, with noise or a mask, shared by two layers, of a penalty that is not here.

        The optimiser's state is kept from call to call, here and in `train_on_batch`, as described there. A schedule
        counts each call as an epoch of one step. Penalties of layers are those that the gradients have in them; running
        averages of a `BatchNorm` stay as they are.

        Parameters
        ----------
        gradients : dict of str to array-like
            For each parameter that is not frozen, by its name, an array of its shape. Those of frozen layers may be
            there, and count for nothing.
        optimizer : str or Optimizer, optional
            That of the last call, or "adam".
        n_threads : int, optional
            Chosen by measuring where not given. The result is the same to the bit.

        Raises
        ------
        ValueError, TypeError
            No parameters yet; a gradient that is missing, of another shape or not finite; names that no parameter has.
        DivergenceError
            Parameters became infinite or NaN; as in `train_on_batch`.
        RuntimeError
            Another thread is in the middle of a step of this model.

        Examples
        --------
        >>> import numpy as np
        >>> from fastmlp import SGD, Dense, Sequential
        >>> model, X = Sequential(Dense(1), dtype="float64").build(2), np.array([[1.0, 2.0], [3.0, -1.0]])
        >>> for _ in range(300):
        ...     _, gradients = model.gradients(X, [3.0, 2.0], "squared_error")
        ...     gradients["dense_0.weight"] *= [[1.0], [0.0]]  # the second input's weight stays
        ...     model.apply_gradients(gradients, optimizer=SGD(0.3))
        >>> model.predict(X).ravel().round(3).tolist()
        [3.0, 2.0]
        """
        self._loop.apply_gradients(self, gradients, optimizer, n_threads)

    def reset_optimizer(self) -> None:
        """Forget the optimiser's state: the next `train_on_batch`, `apply_gradients` or `fit` begins a new one.

        Raises
        ------
        RuntimeError
            Another thread is in the middle of a step of this model.

        Examples
        --------
        >>> from fastmlp import Dense, Sequential
        >>> model = Sequential(Dense(1))
        >>> loss = model.train_on_batch([[1.0]], [2.0], loss="squared_error", optimizer="adam")
        >>> model.reset_optimizer()
        """
        self._loop.reset()

    def _checked(self, X, y, loss, sample_weight, groups, finite: bool = True, some: bool = True) -> tuple:
        """Rows of data as all that trains or measures takes them; without `finite`, X is not searched for NaN; without
        `some`, all may have no weight.
        """
        X = self._rows(X, finite=finite)
        n = X.shape[0]
        y = check_targets(y, n, self.n_outputs, loss)
        sample_weight = check_weights(sample_weight, n, some=some)
        return X, y, sample_weight, check_groups(groups, n, loss, sample_weight)

    def _rows(self, X, argument: str = "X", n_features: int | None = None, finite: bool = True):
        """X as `check_X` has it, with codes that an embedding has rows for."""
        X = check_X(X, argument, self.n_features if n_features is None else n_features, finite)
        if isinstance(self.layers[0], Embedding):
            self.layers[0].check(X, argument)
        return X

    def _check_batch_norm(self, n: int, batch_size: int) -> None:
        norms = [layer for layer in flatten(self.layers) if isinstance(layer, BatchNorm)]
        if min(batch_size, n) == 1 and any(layer.trainable for layer in norms):
            raise ValueError(
                f"`batch_size` must be at least 2, with as many rows, for BatchNorm; got {batch_size}, and {n} "
                f"row{'' if n == 1 else 's'}."
            )

    def __getstate__(self):
        """With the optimiser's state of a loop of the user's own, but without its memory."""
        state = self._state_to_look_at()
        return state | {"_kept": self._loop.to_keep(state["_stored"])}

    def _state_to_look_at(self) -> dict:
        state = {k: value for k, value in self.__dict__.items() if k != "_loop"}
        return state | {"_stored": self._arrays, "_kept": None}

    def _copy_to_look_at(self) -> Sequential:
        """A copy that knows nothing of an optimiser."""
        twin = object.__new__(type(self))
        twin.__setstate__(self._state_to_look_at())
        return twin

    def __setstate__(self, state: dict) -> None:
        self._loop = OwnLoop(state["_kept"])
        self.__dict__.update({k: value for k, value in state.items() if k != "_kept"})

    def _validation(self, data, n_features: int, columns, loss):
        if data is None:
            return None
        third = "groups" if loss.queries else "sample_weight"
        if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
            raise ValueError(f"`validation_data` must be (X, y) or (X, y, {third}); got {type(data).__name__}.")
        check_columns(data[0], columns, "validation_data[0]")
        X = self._rows(data[0], "validation_data[0]", n_features)
        y = check_targets(data[1], X.shape[0], self.n_outputs, loss, "validation_data[1]")
        third = data[2] if len(data) == 3 else None
        if loss.queries:
            return X, y, None, check_groups(third, X.shape[0], loss, argument="validation_data[2]")
        return X, y, check_weights(third, X.shape[0], "validation_data[2]"), None

    # Looking at it ---------------------------------------------------------------------------------------------------

    def logits(
        self, X: Any, n_threads: int | None = None, *, training: bool | str = False, seed: int = 0
    ) -> np.ndarray:
        """The last layer's values, before the loss makes probabilities or the like of them.

        Parameters
        ----------
        X : array-like (n, n_features) or CSR
            Rows of finite numbers; not changed.
        n_threads : int, optional
            Chosen by measuring where not given. The result is the same to the bit.
        training : {False, True, "dropout"}
            True: as in training: dropout, stochastic depth and noise act, and `BatchNorm` (not a frozen one) takes the
            statistics of these rows, as one batch. "dropout": `BatchNorm` goes by its running averages, as without. A
            rate that follows a schedule is that of the first step.
        seed : int
            Of what is drawn then, the same as in `gradients` with `training=True` and this seed.

        Returns
        -------
        ndarray (n, K)
            In the model's dtype.

        Raises
        ------
        ValueError, TypeError
            No parameters yet, X of another number of columns, not numbers, or not finite, a bad `n_threads`, or
            `training=True` of one row with a `BatchNorm`.
        NotImplementedError
            `training` with layers that move or mix images.

        Examples
        --------
        >>> from fastmlp import Dense, Sequential
        >>> model = Sequential(Dense(2)).build(1)
        >>> model.set_parameters({"dense_0.weight": [[1.0, -1.0]]})
        >>> model.logits([[3.0]]).tolist()
        [[3.0, -3.0]]
        """
        return self._predicted(X, None, n_threads, training, seed)

    def _predicted(self, X, loss: losses.Loss | None, n_threads, training, seed) -> np.ndarray:
        """The logits, or what the loss makes of them."""
        self._need_parameters()
        n_threads = check_threads(n_threads)
        check_columns(X, self._columns)
        X = self._rows(X, finite=False)
        acting = None if training is False else as_in_training(training, seed, self.layers, X.shape[0])
        arrays = self._arrays
        if acting or is_few(X, self._n_weights, self._first_units, self._can_be_kept):
            if isinstance(X, np.ndarray):
                check_finite(X, "X")
            logits = numpy_forward(self._flat, arrays, X, self.dtype, acting)
            check_came_of(X, logits)
            return logits if loss is None else loss.output(logits)
        network = self._layers, self.n_features, arrays
        return _evaluation().predictions(*network, X, self.dtype, loss, n_threads, refuse=_refuse, owner=self)

    def activations(self, X: Any, layer: int | str = -1, *, training: bool | str = False, seed: int = 0) -> np.ndarray:
        """The values behind one layer, (n, width), in the model's dtype: what the layers up to it make of X.

        Parameters
        ----------
        X : array-like (n, n_features) or CSR
            Rows of finite numbers; not changed.
        layer : int or str
            Its index in `layers` (negative: from the end), or its name as `summary` prints it, such as "dense_1" or
            "ReLU()", unless it occurs twice. A `Residual` or a gated layer by its index; those within it have none.
        training, seed
            As of `logits`.

        Raises
        ------
        ValueError, TypeError
            No parameters yet, no such layer, a name that is not unique, or a bad X.

        Examples
        --------
        >>> from fastmlp import Dense, ReLU, Sequential
        >>> model = Sequential(Dense(1), ReLU(), Dense(1)).build(1)
        >>> model.set_parameters({"dense_0.weight": [[2.0]]})
        >>> model.activations([[3.0], [-3.0]], layer="dense_0").tolist()
        [[6.0], [-6.0]]
        >>> model.activations([[3.0], [-3.0]], layer=1).tolist()
        [[6.0], [0.0]]
        """
        self._need_parameters()
        index = self._layer_index(layer)
        check_columns(X, self._columns)
        X = self._rows(X)
        n, layers = X.shape[0], self.layers[: index + 1]
        acting = as_in_training(training, seed, layers, n)
        together = n if acting else _ROWS
        blocks, flat = [X[start : start + together] for start in range(0, n, together)], list(named(layers))
        values = np.concatenate([numpy_forward(flat, self._arrays, rows, self.dtype, acting) for rows in blocks])
        check_came_of(X, values)
        return values

    def _layer_index(self, layer: int | str) -> int:
        n = len(self.layers)
        if isinstance(layer, str):
            flat = named(self.layers)
            inner = [[next(flat)[0] for _ in flatten([own])] for own in self.layers]
            names = [of[0] if len(of) == 1 else repr(own) for of, own in zip(inner, self.layers, strict=True)]
            for i, of in enumerate(inner):
                if layer in of and layer not in names:
                    raise ValueError(f"`layer` {layer!r} lies within layer {i}, whose own values are layer={i}.")
            if layer not in names:
                raise unknown_name("layer", layer, dict.fromkeys(names))
            if names.count(layer) > 1:
                where = [i for i in range(n) if names[i] == layer]
                raise ValueError(f"`layer` must name one layer; {layer!r} is at {where}: give one of these indices.")
            return names.index(layer)
        if isinstance(layer, bool) or not hasattr(layer, "__index__"):
            raise TypeError(f"`layer` must be an index or a name; got {layer!r}.")
        if not -n <= layer.__index__() < n:
            raise ValueError(f"`layer` must be in [{-n}, {n - 1}] for {n} layers; got {layer}.")
        return layer.__index__() % n

    def copy_parameters(self, other: Sequential, layers: int | None = None, *, tau: float = 1.0) -> Sequential:
        """Take over the trained parameters of the first layers of another model; the rest stays as it is.

        A model without parameters is built first (with seed 0; call `build` before for another). One without a loss
        takes over that, too, where the layers are all that both have.

        Parameters
        ----------
        other : Sequential
            Its leading layers must be of the same sizes; its dtype may be another.
        layers : int, optional
            How many leading layers, counted as in `layers`. All of `other`'s where not given.
        tau : float
            In (0, 1]: p = (1 - tau) p + tau p', with the other model's p', for all parameters and running averages; the
            soft update of a target network (Lillicrap et al., 2016). The model must have parameters then.

        Returns
        -------
        Sequential
            Itself.

        Raises
        ------
        ValueError, TypeError
            `other` has no parameters, or its leading layers are not this model's; nothing is changed then.

        Examples
        --------
        >>> from fastmlp import Dense, ReLU, Sequential
        >>> digits = Sequential(Dense(4), ReLU(), Dense(10)).build(8, seed=1)
        >>> letters = Sequential(*digits.layers[:2], Dense(26)).copy_parameters(digits, layers=2)
        >>> bool((letters.parameters["dense_0.weight"] == digits.parameters["dense_0.weight"]).all())
        True
        """
        if not isinstance(other, Sequential):
            raise TypeError(f"`other` must be a Sequential; got {type(other).__name__}.")
        check_range("tau", tau, 0, 1, low_open=True, high_closed=True)
        other._need_parameters(adapted=tau != 1)
        if tau != 1:
            self._need_parameters()
        layers = parts.shared(self, other, layers)
        if self.built and self.n_features != other.n_features:
            raise ValueError(f"`other` must have n_features={self.n_features}; got {other.n_features}.")
        if not self.built:
            self.build(other.n_features)
        taken = {name: other._arrays[name] for name in parameter_shapes(self.layers[:layers], self.n_features)}
        if tau != 1:
            own, tau = self._arrays, self.dtype.type(tau)
            taken = {name: own[name] + tau * (value - own[name]) for name, value in taken.items()}
        self.set_parameters(taken)
        if layers == len(self.layers) == len(other.layers) and self._loss is None:
            self._loss = other._loss
        return self

    @refuses_unknown
    def predict(
        self,
        X: Any,
        n_threads: int | None = None,
        *,
        training: bool | str = False,
        seed: int = 0,
        **unknown: NoReturn,
    ) -> np.ndarray:
        """What the loss means, (n, K): probabilities for the cross-entropies, values for "squared_error",
        rates for "poisson", quantiles, means and variances: see each loss.

        A few rows go through NumPy, at once and without compiling; many go through the engine. The two differ by
        rounding.

        Parameters
        ----------
        X : array-like (n, n_features) or CSR
            Rows of finite numbers; not changed.
        n_threads : int, optional
            Chosen by measuring where not given. The result is the same to the bit.
        training, seed
            As of `logits`: `np.std([model.predict(X, training="dropout", seed=k) for k in range(50)], axis=0)` is how
            unsure a network with dropout is (Gal and Ghahramani, 2016).

        Returns
        -------
        ndarray
            In the model's dtype, (n, K) where the loss does not say otherwise; the logits where there is no loss yet.

        Raises
        ------
        ValueError, TypeError
            As of `logits`.

        Examples
        --------
        >>> from fastmlp import BinaryCrossEntropy, Dense, Sequential
        >>> model = Sequential(Dense(1), dtype="float64").build(1)
        >>> model.set_parameters({"dense_0.weight": [[1.0]]})
        >>> model.loss = BinaryCrossEntropy()  # as a fit leaves it
        >>> model.predict([[0.0], [2.0]]).round(4).tolist()
        [[0.5], [0.8808]]
        """
        if unknown:
            raise unknown_argument(Sequential.predict, unknown)
        return self._predicted(X, self.loss, n_threads, training, seed)

    @refuses_unknown
    def evaluate(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        n_threads: int | None = None,
        *,
        groups: Any = None,
        **unknown: NoReturn,
    ) -> dict[str, float]:
        """{"loss": ..., "accuracy": ...} on these rows: the loss with the layers' penalties and, for classification,
        the share of rows predicted rightly. With several labels, a row is right if all its labels are.

        Parameters
        ----------
        X : array-like (n, n_features) or CSR
            Rows of finite numbers; not changed.
        y : array-like
            Targets, as the loss takes them.
        sample_weight : array-like (n,), optional
            Weights of the rows, not negative and not all 0, in the loss and in the accuracy.
        n_threads : int, optional
            Chosen by measuring where not given. The result is the same to the bit.
        groups : array-like (n,), optional
            The query of each row, for the losses that rank; as in `fit`.

        Returns
        -------
        dict of str to float
            Computed in float64 from the logits.

        Raises
        ------
        ValueError, TypeError
            No parameters or no loss yet; bad input, named, with what is accepted.

        Examples
        --------
        >>> from fastmlp import Dense, Hinge, Sequential
        >>> model = Sequential(Dense(1)).build(1)
        >>> model.set_parameters({"dense_0.weight": [[1.0]]})
        >>> model.loss = Hinge()  # as a fit leaves it
        >>> model.evaluate([[2.0], [-3.0], [-1.0]], [1, 0, 1])
        {'loss': 0.6666666666666666, 'accuracy': 0.6666666666666666}
        """
        if unknown:
            raise unknown_argument(Sequential.evaluate, unknown)
        self._need_parameters()
        if self.loss is None:
            raise ValueError("this model has no loss yet; call `fit` first or set `model.loss`.")
        check_columns(X, self._columns)
        rows = self._checked(X, y, self.loss, sample_weight, groups, finite=False)  # `logits` looks
        X, y, sample_weight, groups = rows
        z = self.logits(X, n_threads)
        dense = [(name, layer) for name, layer in self._flat if isinstance(layer, Dense)]
        penalties = [layer.penalty(self._arrays[f"{name}.weight"]) for name, layer in dense]
        if any(isinstance(layer, ActivityRegularization) for _, layer in self._flat):
            of_rows = activity_penalties(self._flat, self._arrays, X, self.dtype)
            penalties.append(float(np.average(of_rows, weights=sample_weight)))
        logs = {"loss": self.loss.value(z, y, sample_weight, groups) + sum(penalties)}
        if self.loss.classification:
            logs["accuracy"] = self.loss.accuracy(z, y, sample_weight)
        return logs

    def gradients(
        self,
        X: Any,
        y: Any,
        loss: str | losses.Loss | None = None,
        sample_weight: Any = None,
        *,
        groups: Any = None,
        training: bool = False,
        seed: int = 0,
    ) -> tuple[float, dict[str, np.ndarray]]:
        """Loss and gradients of one batch made of all these rows: (loss, {name: array of the parameter's shape}).

        Dropout and augmentation are left out, penalties of layers are included, and frozen layers have gradients too.
        `BatchNorm`, frozen or not, takes the statistics of this batch, where `evaluate` takes the running ones. The
        model stays as it is, its running statistics too.

        With `training`, as in a step: dropout and augmentation act, and what is frozen has a gradient of 0 and goes by
        its running statistics.

        Parameters
        ----------
        X : array-like (n, n_features) or CSR
            Rows of finite numbers; not changed.
        y : array-like
            Targets, as the loss takes them.
        loss : str or Loss, optional
            The model's own where not given.
        sample_weight : array-like (n,), optional
            Weights of the rows, not negative; as in `train_on_batch`, sums over the rows are divided by their number
            alone.
        groups : array-like (n,), optional
            The query of each row, for the losses that rank; as in `fit`.
        training : bool
        seed : int
            Of what is drawn then: other masks for another seed.

        Returns
        -------
        loss : float
            The mean over rows of weight times loss, with the penalties; NaN, as the gradients then are, where it is not
            finite.
        gradients : dict of str to ndarray
            New arrays in the model's dtype, by the names of `parameters`.

        Raises
        ------
        ValueError, TypeError
            No parameters yet, no loss; bad input, named, with what is accepted.

        Examples
        --------
        >>> from fastmlp import Dense, Sequential
        >>> model = Sequential(Dense(1), dtype="float64").build(1)
        >>> model.set_parameters({"dense_0.weight": [[0.5]], "dense_0.bias": [0.5]})
        >>> value, gradients = model.gradients([[2.0]], [1.0], "squared_error")
        >>> value, gradients["dense_0.weight"].item()
        (0.125, 1.0)
        """
        from .gradients import batch_gradients

        self._need_parameters()
        loss = losses.get(self.loss if loss is None else loss)
        check_columns(X, self._columns)
        X, y, sample_weight, groups = self._checked(X, y, loss, sample_weight, groups, some=False)
        check_flag("training", training)
        seed = check_count(seed, "seed", least=0)
        return batch_gradients(self, X, y, loss, sample_weight, groups, training=training, seed=seed)

    def input_gradients(
        self,
        X: Any,
        y: Any = None,
        loss: str | losses.Loss | None = None,
        *,
        output: Any = None,
        layer: int | str | None = None,
        training: bool | str = False,
        seed: int = 0,
    ) -> np.ndarray:
        """Gradient of each row's loss, or of one of its logits, with respect to the row, or to its values behind a
        layer: dl_i / dx_i or dz_ik / dx_i.

        How much each feature counts, near this row: a saliency map (Simonyan, Vedaldi and Zisserman, 2014). Rows moved
        along the sign of their loss's gradient are adversarial examples (Goodfellow, Shlens and Szegedy, 2015).

        Parameters
        ----------
        X : array-like (n, n_features) or CSR
            Rows of finite numbers; not changed.
        y : array-like, optional
            Targets, as the loss takes them: for the gradient of the loss.
        loss : str or Loss, optional
            The model's own where not given. Not one that looks across rows.
        output : int or array-like (n,) of int, optional
            In place of `y`: which of the logits, in [0, K), of all rows or of each, such as that of its class.
        layer : int or str, optional
            With respect to the values behind this layer, as `activations` names it, in place of X.
        training, seed
            As of `logits`: by default nothing is dropped, and `BatchNorm` takes its running averages. With True it
            takes the statistics of these rows, and the gradient is that of the sum of their losses.

        Returns
        -------
        ndarray (n, n_features) or (n, width)
            In the model's dtype; with respect to X as it is given, also before a `Rescaling`.

        Raises
        ------
        ValueError, TypeError
            No parameters yet; both or neither of `y` and `output`; an `Embedding`, whose codes have no gradient; no
            such layer; bad input, named, with what is accepted.

        Examples
        --------
        >>> from fastmlp import Dense, Sequential
        >>> model = Sequential(Dense(1), dtype="float64").build(2)
        >>> model.set_parameters({"dense_0.weight": [[0.5], [-2.0]]})
        >>> model.input_gradients([[2.0, 1.0]], [0.0], "squared_error").tolist()
        [[-0.5, 2.0]]
        >>> model.input_gradients([[2.0, 1.0]], output=0).tolist()
        [[0.5, -2.0]]
        """
        self._need_parameters()
        if isinstance(self.layers[0], Embedding) and layer is None:
            raise ValueError("codes of categories have no gradient; `layer=0` is for that of their vectors.")
        behind = 0 if layer is None else sum(1 for _ in named(self.layers[: self._layer_index(layer) + 1]))
        check_columns(X, self._columns)
        X = self._rows(X)
        acting = as_in_training(training, seed, self.layers, X.shape[0])
        if (y is None) == (output is None):
            raise ValueError(
                "give `y` for the gradient of the loss, or `output`, the number of a logit; got "
                f"{'neither' if y is None else 'both'}."
            )
        if y is None:
            output = check_outputs(output, X.shape[0], self.n_outputs)
            if loss is not None:
                raise ValueError(f"`loss` goes with `y`; got {loss!r} with `output`.")
        else:
            loss = losses.get(self.loss if loss is None else loss)
            if loss.across or loss.queries:
                raise ValueError(f"`loss` must be one of single rows; got {loss.name!r}, which looks across rows.")
            y = check_targets(y, X.shape[0], self.n_outputs, loss)

        check_fits(X, self.dtype)

        def of_logits(z, rows):
            if y is not None:
                return loss.gradient(z, y[rows])
            return (np.arange(z.shape[1]) == output[rows, None]).astype(z.dtype)

        found, together = [], X.shape[0] if acting else _ROWS
        for start in range(0, X.shape[0], together):
            rows = slice(start, start + together)
            of_rows = partial(of_logits, rows=rows)
            found.append(input_gradients(self._flat, self._arrays, X[rows], of_rows, self.dtype, acting, behind))
        return np.concatenate(found)

    def summary(self) -> str:
        """Print, and return, the layers with the shapes and numbers of their parameters.

        Returns
        -------
        str
            What is printed; "?" stands for numbers that are not known before there are parameters.

        Examples
        --------
        >>> from fastmlp import Dense, PReLU, Sequential
        >>> text = Sequential(Dense(8), PReLU(), Dense(1)).build(2).summary()
        Dense (dense_0)  2 -> 8   24
        PReLU (prelu_0)            8
        Dense (dense_1)  8 -> 1    9
        total            float32  41
        """
        known = self.n_features is not None
        shapes = parameter_shapes(self.layers, self.n_features) if known else {}
        rows, total, entries, width = [], 0, [], self.n_features
        for name, layer in named(self.layers):
            if isinstance(layer, Fork):
                entries.append(width)
            elif isinstance(layer, Switch):
                width = entries[-1]
            elif isinstance(layer, (Join, Multiply, Maximum)):
                entries.pop()
            depth = len(entries) - isinstance(layer, (Fork, Switch))
            own = [shape for key, shape in shapes.items() if key.startswith(f"{name}.")]
            count = sum(int(np.prod(shape)) for shape in own)
            title = f"{type(layer).__name__} ({name})" if hasattr(layer, "prefix") else name
            if isinstance(layer, Mark):
                title = f"{layer.name}(" if isinstance(layer, Fork) else "," if isinstance(layer, Switch) else ")"
            before, width = width, width_behind(layer, width)
            sizes = ["?" if size is None else str(size) for size in (before, width)]
            arrow = " -> ".join(sizes) if isinstance(layer, (Dense, Embedding)) else ""
            numbers = f"{count:,}" if own else "?" if hasattr(layer, "prefix") else ""
            rows.append(("  " * depth + title, arrow, numbers))
            total += count
        rows.append(("total", self.dtype.name, f"{total:,}" if self.n_features else "?"))
        widths = [max(len(r[i]) for r in rows) for i in range(3)]
        text = "\n".join(f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}" for a, b, c in rows)
        print(text)
        return text

    def save(self, path: str | PathLike[str]) -> None:
        """Write layers, parameters and loss to a safetensors file, which is replaced at once or not at all.

        Parameters
        ----------
        path : str or path
            The file; its folder must exist.

        Raises
        ------
        OSError
            The file cannot be written; an older one is untouched.

        Examples
        --------
        >>> import os, tempfile
        >>> from fastmlp import Dense, Sequential
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Sequential(Dense(1)).build(2).save(os.path.join(folder, "model.safetensors"))
        ...     os.listdir(folder)
        ['model.safetensors']
        """
        from .serialization import save_model

        save_model(path, self)

    @classmethod
    def load(cls, path: str | PathLike[str], custom_objects: dict | None = None) -> Sequential:
        """A model from a file that `save` wrote; it predicts the same bits.

        Parameters
        ----------
        path : str or path
            The file.
        custom_objects : dict, optional
            The model's `CustomActivation` and `CustomLoss` objects by name; see `fastmlp.load_model`.

        Returns
        -------
        Sequential

        Raises
        ------
        ModelFileError
            A ValueError: what is wrong with any other file.
        ValueError
            The file holds an estimator.
        OSError
            The file cannot be read.

        Examples
        --------
        >>> import os, tempfile
        >>> from fastmlp import Dense, Sequential
        >>> model = Sequential(Dense(1)).build(2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "model.safetensors")
        ...     model.save(path)
        ...     loaded = Sequential.load(path)
        >>> bool((loaded.predict([[1.0, 2.0]]) == model.predict([[1.0, 2.0]])).all())
        True
        """
        from .serialization import load_model

        model = load_model(path, custom_objects)
        if not isinstance(model, cls):
            raise ValueError(f"{path} holds a {type(model).__name__}, not a Sequential; use fastmlp.load_model.")
        return model


# What a fit changes, and what is as it was where it fails before its first step
_OF_A_FIT = ("_arrays", "n_features", "loss", "history", "_columns", "_preprocess")


def _initial(name: str, layer: Dense, after: Layer | None, shapes: dict, rng) -> dict[str, np.ndarray]:
    """The first parameters of a Dense, in float64; "auto" asks the activation that follows, past norms and dropout."""
    kind = layer.kernel_initializer
    if kind == "auto":
        kind = getattr(after, "default_initializer", "glorot_uniform")
    fan_in, fan_out = shapes[f"{name}.weight"]
    arrays = {f"{name}.weight": initializers.initialize(kind, rng, fan_in, fan_out)}
    if layer.use_bias:
        arrays[f"{name}.bias"] = initializers.initialize(layer.bias_initializer, rng, fan_in, fan_out)[0]
    return arrays


def _split(X, y, sample_weight, share: float, loss) -> tuple[tuple, tuple]:
    """Rows to train on, and the last ones as validation data; of arrays, both are views."""
    n = len(y)
    n_train = int(n * (1 - share))
    if not 0 < n_train < n:
        raise ValueError(
            f"`validation_split`={share!r} of {n} rows leaves none to {'validate' if n_train else 'train'} on."
        )
    parts = []
    for rows, what in ((slice(n_train), "first"), (slice(n_train, n), "last")):
        weights = None if sample_weight is None else sample_weight[rows]
        parts.append((X[rows], y[rows], check_weights(weights, len(y[rows]), f"sample_weight, of the {what} rows,")))
    if (labels := class_labels(y, loss)) is not None:
        alone = np.setdiff1d(labels[n_train:], labels[:n_train])
        if alone.size:
            warnings.warn(
                f"`validation_split`={share!r} holds out the last {n - n_train} rows, and with them all of class "
                f"{alone[0]:g}: shuffle rows that lie class by class.",
                stacklevel=3,
            )
    return parts[0], (*parts[1], None)


_refuse = partial(check_finite, argument="X")


@lru_cache
def _evaluation():
    """The module, imported when it is first needed: with the engine it takes longer than all before it."""
    from . import evaluation

    return evaluation
