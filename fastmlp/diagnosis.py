"""`diagnose`: what is wrong with a network and its data, before and after training; `diagnose_history`: with its curve.

The checks are those that practitioners make by hand (A. Karpathy, "A recipe for training neural networks", 2019).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import losses, sequential
from ._arrays import check_columns, is_sparse
from .activations import Logistic, ReLU, Tanh
from .embedding import Embedding
from .errors import DivergenceError, unknown_name
from .history import History
from .layers import Dense, Rescaling, named
from .normalization import Normalization
from .optimizers import Adam

OK, WARNING, PROBLEM = "ok", "warning", "problem"
_ROWS = 2048  # rows looked at, evenly spaced: enough for shares of a per cent
_TINY = 1e-12


@dataclass(frozen=True)
class Finding:
    """One check: its name, "ok", "warning" or "problem", what was measured, and what to try where it is not ok."""

    name: str
    verdict: str
    measured: str
    advice: str = ""


@dataclass(frozen=True, repr=False)
class Report:
    """Findings; `print(report)` shows them, `bool(report)` is whether there is no problem, `report["name"]` is one.

    Raises
    ------
    KeyError
        From `report[name]`: there is no finding of that name.

    Examples
    --------
    >>> report = Report((Finding("inputs", "warning", "largest column: 255", "divide by 255"),))
    >>> bool(report), report["inputs"].verdict
    (True, 'warning')
    """

    findings: tuple[Finding, ...]

    @property
    def problems(self) -> list[Finding]:
        """The findings that keep a network from learning."""
        return [f for f in self.findings if f.verdict == PROBLEM]

    @property
    def warnings(self) -> list[Finding]:
        """The findings worth a look."""
        return [f for f in self.findings if f.verdict == WARNING]

    def __bool__(self) -> bool:
        return not self.problems

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def __getitem__(self, name: str) -> Finding:
        found = {f.name: f for f in self.findings}
        if name not in found:
            raise KeyError(str(unknown_name("finding", name, found)))
        return found[name]

    def __repr__(self) -> str:
        width = max((len(f.name) for f in self.findings), default=0)
        lines = []
        for f in self.findings:
            lines.append(f"{f.verdict:<7}  {f.name:<{width}}  {f.measured}")
            if f.verdict != OK:
                lines.append(f"{'':<7}  {'':<{width}}  try: {f.advice}")
        return "\n".join(lines)


def _finding(name, size, warning, problem, measured, advice) -> Finding:
    """Verdict of a size that is bad when large."""
    verdict = PROBLEM if not size <= problem else WARNING if size > warning else OK  # NaN is a problem
    return Finding(name, verdict, measured, "" if verdict == OK else advice)


def diagnose(
    model: sequential.Sequential, X: Any, y: Any, *, loss: str | losses.Loss | None = None, seed: int = 0
) -> Report:
    """Look for what keeps a network from learning; the model and its parameters stay as they are.

    Parameters
    ----------
    model : Sequential
        The network, trained or not; where it has no parameters, freshly drawn ones are looked at.
    X : array-like (n, n_features) or CSR
        The first loss, gradients, units and columns are looked at for 2048 rows at most, evenly spaced.
    y : array-like
        Targets, as the loss takes them.
    loss : str or Loss, optional
        The model's own where not given.
    seed : int
        Seed of the fresh parameters with which the first loss and five examples are tried.

    Returns
    -------
    Report
        Findings "first_loss", "five_examples", "gradients", "equal_units", "dead_units", "saturation", "inputs",
        "constant_columns", "class_balance"; those that do not apply are left out.

    Raises
    ------
    ValueError, TypeError
        Bad input, named, with what is accepted; also a loss of queries, or one with fewer targets than outputs.

    Examples
    --------
    >>> from fastmlp import Dense, Sequential, diagnose
    >>> X = [[0.0, 2000.0], [1.0, -3000.0], [0.0, 1000.0], [1.0, -1500.0], [0.5, 100.0]]
    >>> report = diagnose(Sequential(Dense(1)), X, [0, 1, 0, 1, 0], loss="binary_cross_entropy")
    >>> report["inputs"].verdict
    'problem'
    """
    if not isinstance(model, sequential.Sequential):
        raise TypeError(f"`model` must be a Sequential; got {type(model).__name__}.")
    loss = losses.get(model.loss if loss is None else loss)
    if loss.queries:
        raise ValueError(f"`loss` must be one of single rows, to be diagnosed; got {loss.name!r}, which ranks queries.")
    check_columns(X, model._columns)
    X, y, _, _ = model._checked(X, y, loss, None, None)
    if not loss.codes and loss.target_columns(model.n_outputs) != model.n_outputs:
        raise ValueError(f"`loss` must be one with a target for every output, to be diagnosed; got {loss.name!r}.")
    fresh = _fresh(model, X, seed)
    rows = np.unique(np.linspace(0, X.shape[0] - 1, min(_ROWS, X.shape[0])).astype(np.intp))
    seen, targets = X[rows], y[rows]
    looked_at = _adapted(model[:], X) if model.built else fresh
    _, slopes = looked_at.gradients(seen, targets, loss)
    findings = [
        _first_loss(fresh, seen, targets, loss),
        _five_examples(fresh, X, y, loss),
        _gradients(looked_at, slopes),
        _equal_units(looked_at, slopes),
        _dead_units(looked_at, seen),
        _saturation(looked_at, seen),
        *_inputs(looked_at, seen),
        _class_balance(y, model.n_outputs, loss),
    ]
    return Report(tuple(f for f in findings if f is not None))


def _fresh(model, X, seed):
    return _adapted(sequential.Sequential(*model.layers, dtype=model.dtype).build(X.shape[1], seed), X)


def _adapted(model, X):
    """Itself, with the numbers of a Normalization that has none yet."""
    if not model._adapted:
        model.adapt(X)
    return model


def _rows_of_targets(y, n_outputs, loss) -> np.ndarray:
    if loss.codes and y.ndim == 1:
        t = np.zeros((len(y), n_outputs))
        t[np.arange(len(y)), y] = 1.0
        return t
    return np.asarray(y, np.float64).reshape(len(y), n_outputs)


def _best_constant(y, n_outputs, loss) -> float:
    """The loss of the constant logits that are best for these targets; for one row: the least possible."""
    from scipy.optimize import minimize

    def value(z):
        logits = np.broadcast_to(z, (len(y), n_outputs))
        return loss.value(logits, y), loss.gradient(logits, y).mean(axis=0)

    t = _rows_of_targets(y, n_outputs, loss)
    starts = np.zeros(n_outputs), t.mean(axis=0), np.median(t, axis=0)  # the last is best where there is a kink
    with np.errstate(all="ignore"):
        start = starts[int(np.nanargmin([value(z)[0] for z in starts]))]
        return float(minimize(value, start, jac=True, method="L-BFGS-B", options={"maxiter": 200}).fun)


def _first_loss(fresh, X, y, loss) -> Finding:
    # Chance: all classes alike, or, for numbers, the best constant. A drawn network's logits of size 1 add about 1/2 to
    # the cross-entropy, so twice chance asks for logits that are too large, ten times for ones far out of scale.
    n_outputs = fresh.n_outputs
    if loss.classification:
        chance = loss.value(np.zeros((len(y), n_outputs)), y)
    else:
        chance = _best_constant(y, n_outputs, loss)
    chance, value = max(chance, _TINY), loss.value(fresh.logits(X), y)
    what = "divide the inputs by their spread" + ("" if loss.classification else " and centre and scale the targets")
    measured = f"{value:.4g} before training; chance gives {chance:.4g}"
    return _finding("first_loss", value / chance, 2 + 0.5 / chance * loss.classification, 10, measured, what)


def _five_examples(fresh, X, y, loss) -> Finding:
    # Of different targets where there are some; a tenth of the best constant's loss cannot be had without the inputs.
    first = np.unique(y, axis=0, return_index=True)[1]
    first = first[np.linspace(0, len(first) - 1, min(5, len(first))).astype(np.intp)]
    rows = np.concatenate([first, np.setdiff1d(np.arange(min(10, len(y))), first)])[:5]
    few, targets, n_outputs = X[rows], y[rows], fresh.n_outputs
    least = np.mean([_best_constant(targets[i : i + 1], n_outputs, loss) for i in range(len(targets))])
    room = _best_constant(targets, n_outputs, loss) - least
    if len(first) == 1 or room <= 0:
        return Finding("five_examples", WARNING, "all targets are the same", "give rows with different targets")
    left = np.inf
    for rate in (1e-2, 1e-3):  # the larger is too large for deep networks, the smaller slow for small ones
        trial = fresh[:]
        try:
            trial.fit(few, targets, loss=loss, optimizer=Adam(rate), epochs=400, batch_size=5, n_threads=1, verbose=0)
            left = min(left, (loss.value(trial.logits(few), targets) - least) / room)
        except DivergenceError:
            continue
        if left < 0.1:
            break
    measured = f"400 steps leave {max(left, 0.0):.1%} of the loss of the best constant"
    advice = "scale the inputs; ReLU with he_uniform instead of saturating activations; more units; look for equal rows"
    return _finding("five_examples", left, 0.1, 0.1, measured, advice)


def gradient_norms(model, X, y, loss=None) -> dict[str, float]:
    """Euclidean norm of each Dense layer's weight gradient, of one batch of all rows: {"dense_0": ..., ...}.

    >>> from fastmlp import Dense, Sequential
    >>> model = Sequential(Dense(1)).build(1)
    >>> model.set_parameters({"dense_0.weight": [[0.5]], "dense_0.bias": [0.5]})
    >>> gradient_norms(model, [[2.0]], [1.0], "squared_error")
    {'dense_0': 1.0}
    """
    return _norms(model.gradients(X, y, loss)[1])


def _norms(slopes) -> dict[str, float]:
    from .gradients import weight_norms  # with the engine

    return weight_norms(slopes)


def _gradients(model, slopes) -> Finding:
    # Per weight, so that wide and narrow layers compare. One rate serves all layers: at a ratio of 100 the slower end
    # takes 100 times as many steps, at 10,000 it stands still. A logistic layer divides by at least 4: ten by 1e6.
    norms = _norms(slopes)
    sizes = [norm / model._arrays[f"{name}.weight"].size ** 0.5 for name, norm in norms.items()]
    measured = f"per weight {sizes[0]:.2g} in the first layer, {sizes[-1]:.2g} in the last"
    if not np.isfinite(sizes).all() or max(sizes) == 0:
        return Finding("gradients", PROBLEM, measured, "scale the inputs; draw new parameters; a smaller learning rate")
    ratio = sizes[0] / max(sizes[-1], _TINY)
    if ratio < 1:
        advice = "vanishing: ReLU with he_uniform in place of logistic or tanh; fewer layers"
        return _finding("gradients", 1 / max(ratio, _TINY), 1e2, 1e4, measured + f" (ratio {ratio:.2g})", advice)
    advice = "exploding: scale the inputs; smaller initial weights; a smaller learning rate"
    return _finding("gradients", ratio, 1e2, 1e4, measured + f" (ratio {ratio:.2g})", advice)


def _equal_units(model, slopes) -> Finding | None:
    # What two units of a layer get from below and send back to it is the same, so they stay one unit for ever: weights
    # of zeros or of one constant (Goodfellow, Bengio and Courville, "Deep Learning", 2016, section 8.4).
    equal, total = 0, 0
    *hidden, _ = [name for name, layer in named(model.layers) if isinstance(layer, Dense)]
    for name in hidden:
        units = model._arrays[f"{name}.weight"]
        slope = slopes[f"{name}.weight"]
        size = np.abs(slope).max()
        steps = np.round(slope / size, 4) if size > 0 else slope  # equal but for rounding
        both = np.concatenate([units, steps]).T + 0.0  # -0 is 0
        distinct = len({unit.tobytes() for unit in both})
        equal, total = equal + len(both) - distinct, total + len(both)
    if not total:
        return None
    measured = f"{equal} of {total} hidden units have the weights and the gradient of another"
    return _finding("equal_units", equal / total, 0.1, 0.5, measured, "draw the weights: the default initialiser")


def _dead_units(model, X) -> Finding | None:
    dead, total = 0, 0
    for i, layer in enumerate(model.layers):
        if isinstance(layer, ReLU):
            active = (model.activations(X, layer=i) > 0).any(axis=0)
            dead, total = dead + int((~active).sum()), total + active.size
    if not total:
        return None
    measured = f"{dead} of {total} ReLU units are 0 for all of {X.shape[0]} rows"
    advice = "a smaller learning rate; biases of 0; centred inputs; he_uniform"
    return _finding("dead_units", dead / total, 0.1, 0.5, measured, advice)  # a few are usual after training


def _saturation(model, X) -> Finding | None:
    # Beyond 0.99 of the way the derivative is below 4 % of its largest: such a unit hardly learns from that row.
    worst, where = -1.0, ""
    for i, layer in enumerate(model.layers):
        if isinstance(layer, (Tanh, Logistic)):
            a = model.activations(X, layer=i)
            share = np.mean(np.abs(a) > 0.99) if isinstance(layer, Tanh) else np.mean((a < 0.01) | (a > 0.99))
            if share > worst:
                worst, where = float(share), f"layer {i}"
    if worst < 0:
        return None
    measured = f"{worst:.0%} of the values of {where} are at the ends of their range"
    return _finding("saturation", worst, 0.25, 0.5, measured, "scale the inputs; smaller initial weights; ReLU")


def _inputs(model, X) -> list[Finding]:
    X = np.asarray(X.toarray() if is_sparse(X) else X, np.float64)
    first, columns = model.layers[0], range(X.shape[1])
    if isinstance(first, Rescaling):
        X = X * first.scale + first.offset
    elif model._normalizes:
        X = np.asarray(model.activations(X, layer=f"{Normalization.prefix}_0"), np.float64)
    elif isinstance(first, Embedding):  # codes may have any size
        columns = first.others(X.shape[1])
        if not columns:
            return []
        X = X[:, columns]
    mean, spread = X.mean(axis=0), X.std(axis=0)
    size = np.hypot(mean, spread)
    constant = spread <= 1e-7 * np.abs(mean)
    column = int(size.argmax())
    advice = "Normalization() as the first layer, or Rescaling (1 / 255 for images); or StandardScaler"
    if isinstance(first, Embedding):
        advice = "StandardScaler for the columns without codes"
    measured = f"largest column is {columns[column]}: mean {mean[column]:.3g}, spread {spread[column]:.3g}"
    scale = _finding("inputs", size[column], 10, 1000, measured, advice)  # initialisers assume sizes about 1
    if scale.verdict == OK and 0 < size[column] < 0.1:
        scale = Finding("inputs", WARNING, measured, advice)
    measured = f"{constant.sum()} of {constant.size}" if X.shape[0] > 1 else "one row only"
    share = float(constant.any()) if X.shape[0] > 1 else 0.0
    advice = "leave them out: they only add to the bias"
    return [scale, _finding("constant_columns", share, 0, 1, measured, advice)]


def _class_balance(y, n_outputs, loss) -> Finding | None:
    if not loss.classification:
        return None
    if loss.codes and y.ndim == 1:
        shares = np.bincount(y, minlength=n_outputs) / len(y)
    else:
        shares = np.clip(y.reshape(len(y), n_outputs), 0, 1).mean(axis=0)
    even = 1 / n_outputs
    if not loss.codes:  # each output is a class by itself
        shares, even = np.minimum(shares, 1 - shares), 0.5
    rarest = float(shares.min())
    measured = f"the rarest class has {rarest:.1%} of the rows; an even share is {even:.1%}"
    advice = 'class_weight="balanced", or sample_weight; judge by F1, not by accuracy'
    return _finding("class_balance", even / max(rarest, _TINY), 5, np.inf, measured, advice)


def diagnose_history(history: History) -> Report:
    """Read a training curve: its learning rate, and whether it fits too little or too much.

    Parameters
    ----------
    history : History, mapping with "loss" and possibly "val_loss" and "val_accuracy", or sequence of losses
        The curve, of at least 5 epochs unless a value is not finite. Losses alone do not tell a network that stays at
        chance from one that was soon as good as its data allow; "val_accuracy" does, best for a cross-entropy.

    Returns
    -------
    Report
        Findings "finite", "rate_too_low", "rate_too_high", "oscillation", "spike", "underfitting" and, with "val_loss",
        "overfitting".

    Raises
    ------
    ValueError
        Fewer than 5 epochs, or no loss.

    Examples
    --------
    >>> diagnose_history([2.3, 1.1, 0.6, 0.4, 0.3, 0.25]).problems
    []
    >>> diagnose_history([2.3, float("nan")])["finite"].verdict
    'problem'
    """
    if not hasattr(history, "__getitem__") or (not isinstance(history, Sequence) and "loss" not in history):
        raise ValueError(f"`history` must be a History, a mapping with 'loss' or a list of losses; got {history!r}.")
    named = isinstance(history, Mapping) or not isinstance(history, Sequence)
    loss = np.asarray(history["loss"] if named else history, np.float64)
    if not np.isfinite(loss).all():
        at = int(np.argmax(~np.isfinite(loss)))
        advice = "a smaller learning rate; scaled inputs and targets"
        return Report((Finding("finite", PROBLEM, f"the loss of epoch {at + 1} is {loss[at]}", advice),))
    if loss.ndim != 1 or len(loss) < 5:
        raise ValueError(f"`history` must have at least 5 epochs; got {loss.size}.")
    validation, accuracy = (
        np.asarray(history[name], np.float64) if named and name in history else None
        for name in ("val_loss", "val_accuracy")
    )
    findings = [Finding("finite", OK, "every loss is finite"), *_curve(loss, validation, accuracy)]
    if validation is not None:
        findings.append(_overfitting(loss, validation))
    return Report(tuple(findings))


def _curve(loss, validation, accuracy) -> list[Finding]:
    # Losses of densities go below zero: falls and rises are differences here, and sizes absolute values.
    steps, first, second, last, least = np.diff(loss), loss[0], loss[1], loss[-1], loss.min()
    size, half = max(abs(first), _TINY), loss[len(loss) // 2]
    fall, late = (first - last) / size, (half - last) / size
    since = (second - last) / max(abs(second), _TINY)  # the first epoch, in which the parameters move most, may explode
    falling = np.mean(steps < 0) >= 0.8
    low = slow = falling and fall < 0.3 and late > 0.25 * fall and late > 1e-6  # steady, and not slower at the end
    if validation is not None:  # labels learned by heart fall slowly too: validation must gain from it
        low = slow and min(validation[0], validation[len(validation) // 2]) - validation[-1] > 0.25 * (half - last)
    # A jump to twice the loss before it that is gone at the end: one batch, not the rate. Where the loss is below a
    # twentieth of the first it is noise.
    jumps = 1 + steps / np.maximum(np.abs(loss[:-1]), 0.05 * size)
    spiked = int(jumps.argmax()) + 1
    before = loss[spiked - 1]
    spike = jumps.max() > 2 and last - before < 0.5 * abs(before)
    exploded = first > 100 * second > 0 and since < 0.5  # not halved since: units may be dead
    risen = last - least > max(abs(least), 0.1 * (second - least))
    high = exploded or last - first > 0.05 * size or (risen and not spike)
    turns = np.mean(steps[1:] * steps[:-1] < 0)
    tremble = np.median(np.abs(steps)) / max(np.median(np.abs(loss)), _TINY)
    oscillating = turns > 0.5 and tremble > 0.05
    # Below half in the first epoch and nothing since: that epoch exploded, or the fit was done at once.
    barely, known = fall < 0.3 or (fall < 0.5 and since < 0.05), ""
    if accuracy is not None and np.isfinite(accuracy[-1]):
        stuck = accuracy[-1] < accuracy[0] + 0.1  # then it does not matter how far the loss fell
        barely = (fall < 0.3 or stuck) and last > 0.9 * _least_entropy(accuracy[-1])
        known = f", val_accuracy {accuracy[-1]:.3g}"
    flat = half - last < 0.05 * abs(half) and barely and not slow and not high
    rows = [
        (
            "rate_too_low",
            low,
            WARNING,
            f"fell by {fall:.1%}, half way to the end by {late:.1%}",
            "a rate 3 to 10 times as large",
        ),
        (
            "rate_too_high",
            high,
            PROBLEM,
            f"{first:.4g} first, {least:.4g} at best, {last:.4g} last",
            "a tenth of the rate",
        ),
        (
            "oscillation",
            oscillating,
            WARNING,
            f"{turns:.0%} turns, typically by {tremble:.1%}",
            "a smaller rate; larger batches",
        ),
        (
            "spike",
            spike,
            WARNING,
            f"epoch {spiked + 1}: {jumps.max():.2g} times the one before",
            "a smaller rate; look for odd rows",
        ),
        (
            "underfitting",
            flat,
            WARNING,
            f"fell by {fall:.1%}, since epoch 2 by {since:.1%}" + " and no longer falls" * bool(flat) + known,
            "diagnose(model, X, y), for dead units too; a smaller rate; a larger network",
        ),
    ]
    return [Finding(n, verdict if bad else OK, what, advice if bad else "") for n, bad, verdict, what, advice in rows]


def _least_entropy(accuracy) -> float:
    """The least cross-entropy of a constant prediction that is right for this share of the rows.

    A network that tells rows apart has less for two classes, as entropy is concave. For more than two it may have more,
    so this alone says nothing. From 0.98 on it is that of 0.98: there a loss is too small to be called bad.
    """
    right = min(max(accuracy, _TINY), 0.98)
    return -right * np.log(right) - (1 - right) * np.log1p(-right)


def _overfitting(loss, validation) -> Finding:
    # A tenth above its least is more than the noise of epochs; the training loss must have gone on falling since. Three
    # times the training loss means that rows are known by heart, though val_loss never rose; so does a training loss
    # that falls while val_loss gains less than a tenth of that: it is of the epoch's end, so its first is loss[1]'s.
    if not np.isfinite(validation).all():
        return Finding("overfitting", PROBLEM, "val_loss is not finite", "a smaller learning rate; scaled inputs")
    best = int(validation.argmin())
    ratio = validation[-1] / max(validation[best], _TINY)
    falls = loss[[best, 1]] - loss[-1] > 0.05 * np.abs(loss[[best, 1]])  # since the best epoch, and since the second
    risen, idle = ratio > 1.1, validation[0] - validation[-1] < 0.1 * (loss[1] - loss[-1])
    bad = (risen and falls[0]) or (idle and falls[1]) or 0 < 3 * loss[-1] < validation[-1]
    measured = (
        f"val_loss {validation[-1]:.4g} last, {validation[best]:.4g} at best (epoch {best + 1}), loss {loss[-1]:.4g}"
    )
    return Finding(
        "overfitting", WARNING if bad else OK, measured, "EarlyStopping; more data; a smaller network" if bad else ""
    )
