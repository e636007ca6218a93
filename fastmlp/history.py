"""What a fit leaves behind: the loss and the metrics of every epoch, as plain lists."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from dataclasses import dataclass, field
from typing import Any

from .errors import unknown_name

_HEAD, _TAIL = 3, 3  # epochs that the repr shows when there are many
_WIDTH = 100  # characters, for as many metrics as fit


def axes(ax, whose: str):
    """What a class's `plot` draws into: `ax`, or those of a new figure; ImportError without matplotlib."""
    try:
        from matplotlib import pyplot
    except ImportError:
        raise ImportError(f'{whose}.plot() needs matplotlib: pip install "fastmlp[plot]"') from None
    return pyplot.subplots()[1] if ax is None else ax


@dataclass(repr=False)
class History:
    """Loss and metrics per epoch.

    Attributes
    ----------
    epochs : list of int
        The epochs, counted from 1.
    metrics : dict of str to list of float
        One value per epoch: "loss" (the mean over the epoch, while the parameters moved), "val_loss" and "val_accuracy"
        (after it), "learning_rate" (of its last step), "seconds", and what callbacks add, such as `GradientNorms`. A
        metric that an epoch did not report is NaN there.

    Examples
    --------
    >>> history = History()
    >>> history.record(1, {"loss": 0.5, "seconds": 0.01})
    >>> history.record(2, {"loss": 0.25, "seconds": 0.01})
    >>> history["loss"]
    [0.5, 0.25]
    >>> history
    History: 2 epochs, 0.02 s
    epoch  loss
        1   0.5
        2  0.25
    """

    epochs: list[int] = field(default_factory=list)
    metrics: dict[str, list[float]] = field(default_factory=dict)

    def record(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Append one epoch; all lists stay as long as `epochs`."""
        logs = {name: as_number(name, value) for name, value in logs.items()}
        for name in logs:
            self.metrics.setdefault(name, [float("nan")] * len(self.epochs))
        for name, values in self.metrics.items():
            values.append(logs.get(name, float("nan")))
        self.epochs.append(int(epoch))

    def __getitem__(self, name: str) -> list[float]:
        if name not in self.metrics:
            raise KeyError(str(unknown_name("metric", name, self.metrics)))
        return self.metrics[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.metrics)

    @property
    def history(self) -> dict[str, list[float]]:
        """Keras's name of `metrics`."""
        return self.metrics

    def keys(self) -> KeysView[str]:
        """The metrics' names: `dict(history)` has their lists."""
        return self.metrics.keys()

    def items(self) -> ItemsView[str, list[float]]:
        """The metrics' names and lists."""
        return self.metrics.items()

    def values(self) -> ValuesView[list[float]]:
        """The metrics' lists."""
        return self.metrics.values()

    def __contains__(self, name: object) -> bool:
        return name in self.metrics

    def __len__(self) -> int:
        return len(self.epochs)

    def __bool__(self) -> bool:  # a history without epochs is still a history
        return True

    def __repr__(self) -> str:
        n = len(self)
        title = f"History: {n} epoch{'' if n == 1 else 's'}"
        if "seconds" in self:
            title += f", {sum(s for s in self['seconds'] if s == s):.3g} s"  # s == s: not NaN
        columns = [name for name in self.metrics if name != "seconds"]
        shown = [*range(n)] if n <= _HEAD + _TAIL + 1 else [*range(_HEAD), None, *range(n - _TAIL, n)]
        rows = [["epoch", *columns]] if n else []
        for i in shown:
            rows.append(
                ["..."] * (len(columns) + 1)
                if i is None
                else [str(self.epochs[i]), *(f"{self.metrics[name][i]:.4g}" for name in columns)]
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        fit = [2 * k + sum(widths[: k + 1]) <= _WIDTH for k in range(len(widths))].count(True)
        if fit < len(widths):
            title += f"; {len(widths) - fit} more in .metrics: {columns[fit - 1]}, ..."
        rows, widths = [row[:fit] for row in rows], widths[:fit]
        lines = ("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
        return "\n".join([title, *lines])

    def plot(self, *names: str, ax: Any = None, label: str = "") -> Any:
        """Draw metrics over the epochs: by default the loss, of training and of validation where there is one.

        Parameters
        ----------
        *names : str
            Of `metrics`, a curve each.
        ax : matplotlib.axes.Axes, optional
            Where to draw; a new figure's where not given.
        label : str
            Stands before the metrics' names in the legend: to tell several fits apart.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ImportError
            matplotlib is not installed.
        KeyError
            No such metric.

        Examples
        --------
        >>> history.plot()  # doctest: +SKIP
        >>> history.plot("gradient_norm_dense_0", "gradient_norm_dense_1").set_yscale("log")  # doctest: +SKIP
        """
        ax = axes(ax, "History")
        curves = {name: self[name] for name in names or [n for n in ("loss", "val_loss") if n in self]}
        for name, values in curves.items():
            ax.plot(self.epochs, values, marker="." if len(self) < 50 else "", label=f"{label} {name}".strip())
        ax.set_xlabel("epoch")
        ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        if curves:
            ax.legend()
        return ax

    def to_frame(self) -> Any:
        """A pandas DataFrame: one row per epoch, one column per metric.

        Raises
        ------
        ImportError
            pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise ImportError(
                "History.to_frame() needs pandas (pip install pandas); `history.metrics` is a dict of lists."
            ) from None
        return pandas.DataFrame(self.metrics, index=pandas.Index(self.epochs, name="epoch"))


def as_number(name: str, value) -> float:
    """A metric's value, as it is kept; TypeError naming one that is no number."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"the metric {name!r} must be a number; got {value!r}.") from None
