"""`MLPClassifier`: labels become codes, logits become labels and probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, type_of_target, unique_labels
from sklearn.utils.validation import check_is_fitted

from .. import losses
from ..losses.base import log_softmax
from .base import BaseMLP, has_epochs


class MLPClassifier(ClassifierMixin, BaseMLP):
    """A multilayer perceptron that classifies: scikit-learn's estimator, trained by fastmlp.

    It minimises the log-loss: softmax with several classes, logistic with two, and a logistic output for each label if
    y is an indicator matrix. Parameters, defaults and fitted attributes are those of scikit-learn's `MLPClassifier`;
    `class_weight`, `n_threads`, `device` and `precision` are added.

    Parameters
    ----------
    hidden_layer_sizes : int or array-like of int, default=(100,)
        Units of each hidden layer; () is multinomial logistic regression.
    activation : {'identity', 'logistic', 'tanh', 'relu'}, default='relu'
        Activation of the hidden layers; any name that `fastmlp.activations` declares.
    solver : {'lbfgs', 'sgd', 'adam'}, default='adam'
        'adam' and 'sgd' take one step a batch; 'lbfgs' uses all rows and suits small data.
    alpha : float, default=0.0001
        Strength of the L2 penalty: alpha / 2 ||W||^2 / (rows of the batch, or their weight) is added to the loss.
    batch_size : int, default='auto'
        'auto' is min(200, n_samples).
    learning_rate : {'constant', 'invscaling', 'adaptive'}, default='constant'
        Rate of 'sgd': constant; learning_rate_init / (rows seen + 1)^power_t after each epoch; or divided by 5 each
        time that `n_iter_no_change` epochs did not improve by `tol`.
    learning_rate_init : float, default=0.001
        The (first) learning rate of 'sgd' and 'adam'.
    power_t : float, default=0.5
        The exponent of 'invscaling', at least 0.
    max_iter : int, default=200
        Epochs at most; iterations for 'lbfgs'.
    shuffle : bool, default=True
        Whether each epoch has its own order of rows.
    random_state : int, RandomState instance or None, default=None
        Seed or generator of the first weights, the order of rows and the validation split. With an integer, results
        repeat bit by bit, for any `n_threads`.
    tol : float, default=1e-4
        An epoch that does not improve the loss (or the validation score) by this much counts as no improvement.
    verbose : bool or int, default=False
        Print the loss of each iteration.
    warm_start : bool, default=False
        Whether `fit` goes on from the last fit: from its weights, its optimiser's state and its order of rows.
    momentum : float, default=0.9
        Momentum of 'sgd', in [0, 1).
    nesterovs_momentum : bool, default=True
        Whether the momentum of 'sgd' is Nesterov's.
    early_stopping : bool, default=False
        Stop when the score on validation data stops improving, and keep the best network. The data are
        `validation_fraction` of the rows, or `X_val` and `y_val` of `fit`. Not for 'lbfgs'.
    validation_fraction : float, default=0.1
        Share of the rows that `early_stopping` takes for validation, in (0, 1).
    beta_1, beta_2 : float, default=0.9 and 0.999
        Decay of Adam's moments, in [0, 1).
    epsilon : float, default=1e-8
        Adam's, at least 1e-30: added to the root of the second moment before the correction of its bias.
    n_iter_no_change : int, default=10
        Training stops after one more epoch than this without improvement, as scikit-learn's; np.inf never stops.
    max_fun : int, default=15000
        Loss evaluations of 'lbfgs' at most.
    class_weight : dict, 'balanced' or None, default=None
        Weights of the classes, multiplied into `sample_weight` of the training rows; 'balanced' is n_samples /
        (n_classes * count), where rows count by their weights. With several labels a list, a dict for each. A step
        then divides by the mean weight of all rows, so that small batches lead where all rows would; with
        `sample_weight` alone by the mean of the batch's, as scikit-learn does. (`partial_fit` does not know all rows,
        and divides by 1.)
    n_threads : int or None, default=None
        None measures which number of threads is fastest; the result does not depend on it.
    device : {'cpu', 'cuda', 'auto'}, default='cpu'
        Where 'adam' and 'sgd' train: 'cuda' is an NVIDIA GPU (docs/cuda.md), 'auto' one where there is one and a step
        is large. Prediction is on the CPU.
    precision : {'tf32x3', 'tf32', 'bf16'} or None, default=None
        Precision of products in training by a GPU's tensor cores, for wide networks of float32, which X is to be:
        'tf32' and 'bf16' round their factors to 10 or 7 mantissa bits, 'tf32x3' takes three products for about
        float32's precision. None: no tensor cores. Needs compute capability 8.0: with less, 'auto' is the CPU.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels; the columns' numbers for an indicator matrix.
    coefs_, intercepts_ : list of ndarray
        Weights (n_inputs, n_units) and biases (n_units,) of each layer. Prediction and further training use them as
        they are, so they may be changed.
    loss_, best_loss_ : float
        The last and the smallest loss, L2 penalty included; `best_loss_` is None with `early_stopping`.
    loss_curve_ : list of float
        The loss of each epoch.
    validation_scores_ : list of float or None
        The accuracy on validation data after each epoch, with `early_stopping`.
    best_validation_score_ : float or None
        Their maximum.
    n_iter_, t_ : int
        Epochs of the last fit, and rows seen since the weights were drawn.
    n_layers_, n_outputs_ : int
        Layers, the input's among them, and units of the last.
    out_activation_ : str
        'softmax' or 'logistic'.
    n_features_in_ : int
        Columns of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, where X had names.

    See Also
    --------
    MLPRegressor : The same for numbers.

    Notes
    -----
    Differences from scikit-learn: Ctrl-C raises KeyboardInterrupt, with the network of the last whole step in place;
    a loss that is not finite raises `DivergenceError`; a warm start keeps the optimiser's state; rows of weight 0 are
    dropped before batches are made; uint8 input trains in float32; `momentum=1.0` is refused; with 'lbfgs' `tol` bounds
    the gradient, as there, and `early_stopping` has no effect; rows of a class too rare to be held out are no error,
    also where two classes are stratified; with `sample_weight`, `loss_curve_`, which `tol` is about, is a
    mean of the batches' losses by their weights (scikit-learn's: by their rows).

    Of the classifier: where y is an indicator matrix in CSR, predictions are dense (scikit-learn's: CSR); for labels
    that are texts of pandas or of an array of objects, `classes_` and predictions have dtype object (scikit-learn's: a
    NumPy string dtype, such as <U3); a first `partial_fit` with an indicator matrix needs no `classes`.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from fastmlp import MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = MLPClassifier(solver="lbfgs", random_state=0).fit(X, y)
    >>> round(classifier.score(X, y), 2) > 0.95
    True
    """

    _parameter_constraints: dict = {
        **BaseMLP._parameter_constraints,
        "class_weight": [StrOptions({"balanced"}), dict, list, None],
    }
    _numeric_targets = False

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        class_weight: Any = None,
        n_threads: int | None = None,
        device: str = "cpu",
        precision: str | None = None,
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.class_weight = class_weight
        self.n_threads = n_threads
        self.device = device
        self.precision = precision

    @available_if(has_epochs)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> MLPClassifier:
        """Train one epoch on X and y, from where the last call stopped.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows, as `fit` takes them.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Labels, or an indicator matrix of labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, not negative.
        classes : array-like of shape (n_classes,), default=None
            All labels that will ever come; needed by the first call. An indicator matrix needs none.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            No `classes` in the first call, other ones later, or labels in y that are not among them; the errors of
            `fit`; `early_stopping=True` or `class_weight='balanced'`, which are for `fit`.
        AttributeError
            The solver is 'lbfgs', which has no epochs: then there is no such method.

        Examples
        --------
        >>> from fastmlp import MLPClassifier
        >>> classifier = MLPClassifier(random_state=0)
        >>> for X, y in [([[0.0], [2.0]], ["low", "high"]), ([[1.0], [2.0]], ["middle", "high"])]:
        ...     classifier = classifier.partial_fit(X, y, classes=["low", "middle", "high"])
        >>> classifier.classes_.tolist(), classifier.t_
        (['high', 'low', 'middle'], 4)
        """
        if self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' needs all rows at once and is not supported by partial_fit; pass a dict: "
                "sklearn.utils.class_weight.compute_class_weight('balanced', classes=classes, y=y) computes it."
            )
        return self._fit(X, y, sample_weight, incremental=True, classes=classes)

    def _declare(self, y, *, fresh: bool, incremental: bool, classes) -> None:
        """Take the classes of y, or those that a first `partial_fit` was given, or compare them with the known ones."""
        multilabel = y.ndim == 2
        if classes is not None:
            known = None if fresh else self.classes_
            if known is not None and np.array_equal(known, classes):  # the usual case of a stream
                return
            classes = unique_labels(classes)
            if known is not None and not np.array_equal(known, classes):
                raise ValueError(
                    f"`classes={classes}` is not the same as on last call to partial_fit, was: {self.classes_}"
                )
        if not fresh:
            return
        if classes is None:
            if incremental and not multilabel:
                raise ValueError("classes must be passed on the first call to partial_fit.")
            classes = np.arange(y.shape[1]) if multilabel else np.unique(y)
        self._set_classes(classes, multilabel)

    def _set_classes(self, classes, multilabel: bool) -> None:
        self.classes_ = classes
        self.n_outputs_ = len(classes) if multilabel or len(classes) > 2 else 1
        self.out_activation_ = "logistic" if multilabel or len(classes) <= 2 else "softmax"
        self._multilabel = multilabel

    def _encode(self, y, *, fresh, incremental, name="y", classes=None):
        multilabel = y.ndim == 2
        if fresh or multilabel:
            check_classification_targets(y)
        if multilabel and type_of_target(y) != "multilabel-indicator":
            raise ValueError("Multioutput target data is not supported: y with several columns must hold 0 and 1 only.")
        self._declare(y, fresh=fresh, incremental=incremental, classes=classes)
        if multilabel != self._multilabel or (multilabel and y.shape[1] != self.n_outputs_):
            raise ValueError(f"y has shape {y.shape}, but the fitted classes_ are {self.classes_}.")
        if multilabel:
            return np.ascontiguousarray(y, dtype=np.float64)
        seen, codes = np.unique(y, return_inverse=True)
        self._check_known(seen, all_of_them=not incremental, name=name)
        return np.searchsorted(self.classes_, seen)[codes]

    def _check_known(self, seen, all_of_them: bool, name: str) -> None:
        unseen = seen[~np.isin(seen, self.classes_)]
        if len(unseen):
            check_classification_targets(seen)
            advice = "the first partial_fit takes all that will ever come as `classes`"
            if name != "y" or all_of_them:
                advice = "a validation set has those of `y`" if name != "y" else "with warm_start they stay the same"
            raise ValueError(
                f"`{name}` has classes not in `self.classes_`: {unseen.tolist()}. `self.classes_` has {self.classes_}; "
                f"{advice}."
            )
        if all_of_them and len(seen) != len(self.classes_):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                f"Previously got {self.classes_}, `y` has {seen}"
            )

    def _class_weighted(self, targets, sample_weight):
        if self.class_weight is None:
            return sample_weight
        if self._multilabel:
            weights = compute_sample_weight(self.class_weight, targets)
        elif self.class_weight == "balanced":
            counts = np.bincount(targets, weights=sample_weight, minlength=len(self.classes_))
            with np.errstate(divide="ignore"):  # of classes without rows
                weights = (counts.sum() / (np.count_nonzero(counts) * counts))[targets]
            weights[~np.isfinite(weights)] = 0.0
        else:
            try:
                weights = compute_class_weight(self.class_weight, classes=self.classes_, y=self.classes_)[targets]
            except ValueError as error:
                raise ValueError(f"`class_weight`={self.class_weight!r}: {error}") from None
        if not (np.isfinite(weights).all() and (weights >= 0).all()):
            raise ValueError(f"`class_weight` must be finite and not negative; got {self.class_weight}.")
        weights = weights if sample_weight is None else weights * sample_weight
        if not weights.any():
            raise ValueError("`class_weight` and `sample_weight` leave no row with a weight above 0.")
        return weights

    def _loss(self):
        return losses.SoftmaxCrossEntropy() if self.out_activation_ == "softmax" else losses.BinaryCrossEntropy()

    def _stratified(self) -> bool:
        return not self._multilabel

    def _reported(self, loss: float) -> float:
        return loss

    def _codes(self, logits) -> np.ndarray:
        """The most probable class of each row as its code, (n,); each label as 0 or 1, (n, n_labels)."""
        if self.out_activation_ == "softmax":
            return logits.argmax(axis=1)
        codes = (logits > 0).astype(np.int64)
        return codes if self._multilabel else codes[:, 0]

    def _score_logits(self, logits, targets, sample_weight):
        if not np.isfinite(logits).all():
            return np.nan
        right = self._codes(logits) == targets
        return np.average(right.all(axis=1) if self._multilabel else right, weights=sample_weight)

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each row.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows with the columns of the fitted data.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_labels)
            Labels out of `classes_`; a dense indicator matrix, int64, if that was fitted.

        Raises
        ------
        NotFittedError
            There is no network yet.
        ValueError, TypeError
            X has other columns than the fitted data, or is not finite numbers.

        Examples
        --------
        >>> from fastmlp import MLPClassifier
        >>> X, y = [[-2.0], [-1.0], [1.0], [2.0]], ["no", "no", "yes", "yes"]
        >>> classifier = MLPClassifier((), solver="lbfgs", random_state=0).fit(X, y)
        >>> classifier.predict([[-3.0], [3.0]]).tolist()
        ['no', 'yes']
        """
        codes = self._codes(self._logits(X))
        return codes if self._multilabel else self.classes_[np.minimum(codes, len(self.classes_) - 1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class, or of each label.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows with the columns of the fitted data.

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`, in the dtype of `coefs_`.

        Raises
        ------
        NotFittedError
            There is no network yet.
        ValueError, TypeError
            X has other columns than the fitted data, or is not finite numbers.

        Examples
        --------
        >>> from fastmlp import MLPClassifier
        >>> X, y = [[-2.0], [-1.0], [1.0], [2.0]], ["no", "no", "yes", "yes"]
        >>> classifier = MLPClassifier((), solver="lbfgs", random_state=0).fit(X, y)
        >>> classifier.predict_proba([[-3.0], [3.0]]).round(3).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
        """
        check_is_fitted(self, "coefs_")
        return self._by_class(self._logits(X, self._loss()))

    def _by_class(self, probabilities):
        """Of the loss's outputs, a column for each class or label."""
        if self._multilabel or self.out_activation_ == "softmax":
            return probabilities
        if len(self.classes_) == 1:
            return np.ones_like(probabilities)
        return np.hstack([1 - probabilities, probabilities])

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """The logarithm of `predict_proba`, exact also where that is 0 by rounding; parameters and errors are the same.

        Examples
        --------
        >>> from fastmlp import MLPClassifier
        >>> X, y = [[-2.0], [-1.0], [1.0], [2.0]], ["no", "no", "yes", "yes"]
        >>> classifier = MLPClassifier((), solver="lbfgs", random_state=0).fit(X, y)
        >>> classifier.predict_log_proba([[3.0]]).shape
        (1, 2)
        """
        z = self._logits(X)
        if self.out_activation_ == "softmax":
            return log_softmax(z).astype(z.dtype)
        if not self._multilabel and len(self.classes_) == 1:
            return np.zeros_like(z)
        ones = -np.logaddexp(0, -z)
        return ones if self._multilabel else np.hstack([-np.logaddexp(0, z), ones])

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
