"""What the command line's commands do: data in, a network trained, a result printed."""

from __future__ import annotations

import csv
import os
import sys
import time
from argparse import Namespace
from pathlib import Path

import numpy as np

from .errors import unknown_name

IMAGES = ("mnist", "digits")
# Of tables: chosen on California housing, Adult and five small ones, among the best on all of what was tried
EPOCHS, LEARNING_RATE, WEIGHT_DECAY, DROPOUT = 30, 4e-3, 0.1, 0.2
ROWS = 2**16  # predicted at a time


def train(arguments: Namespace) -> None:
    """`fastmlp train`: on images by name, else on a table."""
    for option, path in (("--save", arguments.save), ("--backup", arguments.backup)):
        if path and (Path(path).is_dir() or not (Path(path).parent.is_dir() and os.access(Path(path).parent, os.W_OK))):
            raise FileNotFoundError(f"`{option}` must name a file in a folder that can be written to; got {path!r}.")
    if arguments.save and arguments.backup and Path(arguments.save).resolve() == Path(arguments.backup).resolve():
        raise ValueError(f"`--backup` must be another file than `--save`; got {arguments.backup!r} for both.")
    if arguments.data in IMAGES:
        if arguments.target or arguments.drop:
            raise ValueError(f"`--target` and `--drop` are for tables; got them for {arguments.data}.")
        _train_images(arguments)
    elif not Path(arguments.data).is_file() and "." not in arguments.data:
        raise ValueError(f"{unknown_name('data', arguments.data, IMAGES)} There is no table of that name either.")
    else:
        _refuse_to_overwrite("--save", arguments.save, arguments.data)
        _train_table(arguments)


def predict(arguments: Namespace) -> None:
    """`fastmlp predict`: a CSV of predictions, and on stderr their score if the table has the target."""
    from .preprocessing import decode_target, encode_target, text_columns
    from .serialization import load_model_with_extra
    from .tables import read_table

    _refuse_to_overwrite("--output", arguments.output, arguments.model, arguments.table)
    model, extra = load_model_with_extra(arguments.model)
    if "preprocess" not in (extra or {}):
        raise ValueError(f"{arguments.model!r} was not trained on a table by `fastmlp train`: its columns are unknown.")
    preprocess = extra["preprocess"]
    table = read_table(arguments.table, text_columns(preprocess))
    output = _outputs(model, table, preprocess)
    columns = {"prediction": decode_target(output, preprocess)}
    if arguments.probabilities:
        if preprocess["target"]["task"] != "classification":
            raise ValueError("`--probabilities` needs a classification; this model is a regression.")
        columns |= {f"probability_{name}": output[:, k] for k, name in enumerate(preprocess["target"]["classes"])}
    _write_csv(columns, arguments.output)
    target = preprocess["target"]["name"]
    if target in table.column_names:
        known = np.asarray(table[target].is_valid())
        y = encode_target(table, preprocess)[known]
        if preprocess["target"]["task"] == "classification" and len(y) and (y < 0).all():
            print(f"not scored: no {target!r} in the table is a class that was learned", file=sys.stderr)
        elif len(y):
            print(_score(output[known], y, preprocess), file=sys.stderr)


def _outputs(model, table, preprocess: dict) -> np.ndarray:
    """What the network says of every row."""
    from .preprocessing import encoded_blocks

    blocks = encoded_blocks(table, preprocess, model.dtype, ROWS)
    return np.concatenate([model.predict(X).reshape(len(X), model.n_outputs) for X in blocks])


def _refuse_to_overwrite(option: str, path: str | None, *inputs: str) -> None:
    for read in inputs:
        if path and os.path.exists(path) and os.path.exists(read) and os.path.samefile(path, read):
            raise ValueError(f"`{option}` must be another file than {read!r}, which is read; got {path!r}.")


def warmup(arguments: Namespace) -> None:
    """`fastmlp warmup`: fill the compile cache."""
    from .engine import warmup

    warmup(dtypes=tuple(arguments.dtype or ["float32", "float64"]), verbose=True)


def _train_images(arguments: Namespace) -> None:
    from . import Adam, Dense, ReLU, Rescaling, Sequential, datasets

    data, name = None, arguments.data
    if name == "mnist":
        try:
            data = datasets.load_mnist()
        except FileNotFoundError as error:
            print(f"{error}\nTraining on scikit-learn's bundled digits instead.\n", file=sys.stderr, flush=True)
            name = "digits"
    (X, y), (X_test, y_test) = data or datasets.load_digits()
    hidden = [layer for width in arguments.hidden for layer in (Dense(width), ReLU())]
    first = [Rescaling(1 / 255)] if X.dtype == np.uint8 else []
    model = Sequential(*first, *hidden, Dense(10), dtype=arguments.dtype)
    _announce(name, X, arguments, 10, "Adam")
    options = {"loss": "softmax_cross_entropy", "epochs": arguments.epochs or 10}
    seconds, n_epochs = _fit(model, X, y, arguments, optimizer=Adam(arguments.learning_rate or 1e-3), **options)
    accuracy = model.evaluate(X_test, y_test)["accuracy"]
    print(f"test accuracy {accuracy:.2%} on {len(X_test):,} images")
    _print_speed(seconds, n_epochs * len(X))


def _train_table(arguments: Namespace) -> None:
    from . import AdamW, Dense, Dropout, EarlyStopping, Mish, OneCycle, Sequential
    from .preprocessing import MAX_CATEGORIES, encode_features, encode_target, find_task, fit_preprocess
    from .tables import kind_of, numbers, read_table, stray_text

    if arguments.target is None:
        raise ValueError("`--target` must name the column to learn.")
    table = read_table(arguments.data)
    for option, name in [("--target", arguments.target), *(("--drop", name) for name in arguments.drop)]:
        if name not in table.column_names:
            raise unknown_name(option, name, table.column_names)
    if arguments.target in arguments.drop:
        raise ValueError(f"`--drop` must not name the target; got {arguments.target!r}.")
    for name in table.column_names:
        if name in arguments.drop:
            continue
        if kind_of(table[name]) == "number":
            numbers(table[name], name)  # infinity is an error, before a long fit and with its row in the file
        elif name != arguments.target and (stray := stray_text(table[name])) is not None:
            print(f"took {name!r} for text: {stray!r} is not a number")
    known = table[arguments.target].is_valid()
    n_missing = table.num_rows - known.to_numpy().sum()
    if n_missing:
        print(f"left out {n_missing:,} rows without a {arguments.target!r}")
        table = table.filter(known)
    train, validation, test = _split(table.num_rows, arguments.test_size, arguments.seed)
    fitted_on = table.take(train)
    task = find_task(table[arguments.target], arguments.task)
    preprocess = fit_preprocess(fitted_on, arguments.target, task, arguments.drop)
    for name, reason in preprocess["ignored"].items():
        print(f"ignored {name!r}: {reason}")
    for feature in preprocess["features"]:
        texts = fitted_on[feature["name"]].drop_null().unique() if feature["kind"] == "text" else ()
        if len(texts) > MAX_CATEGORIES:
            print(f"kept the {MAX_CATEGORIES} most frequent of {len(texts):,} texts of {feature['name']!r}")
    X, y = encode_features(fitted_on, preprocess, arguments.dtype), encode_target(fitted_on, preprocess)
    held_out = table.take(validation)
    X_validation, y_validation = encode_features(held_out, preprocess, X.dtype), encode_target(held_out, preprocess)
    seen = y_validation >= 0 if task == "classification" else np.isfinite(y_validation)

    classes = preprocess["target"].get("classes")
    n_outputs, epochs = len(classes) if classes else 1, arguments.epochs or EPOCHS
    hidden = [layer for width in arguments.hidden for layer in (Dense(width), Mish(), Dropout(DROPOUT))]
    model = Sequential(*hidden, Dense(n_outputs), dtype=arguments.dtype)
    _announce(f"{task} of {arguments.target!r}", X, arguments, n_outputs, "AdamW")
    options = {}
    if seen.any():
        best = EarlyStopping(patience=epochs)  # it stops never: the last epochs of a cycle are mostly the best
        options = {"validation_data": (X_validation[seen], y_validation[seen]), "callbacks": [best]}
    seconds, n_epochs = _fit(
        model,
        X,
        y,
        arguments,
        extra={"preprocess": preprocess},
        loss="softmax_cross_entropy" if classes else "squared_error",
        optimizer=AdamW(OneCycle(arguments.learning_rate or LEARNING_RATE, epochs=epochs), weight_decay=WEIGHT_DECAY),
        epochs=epochs,
        **options,
    )
    if len(test):
        held_out = table.take(test)
        output = _outputs(model, held_out, preprocess)
        print(f"held-out {_score(output, encode_target(held_out, preprocess), preprocess)}")
    _print_speed(seconds, n_epochs * len(X))


def _split(n_rows: int, test_size: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows to train on, to decide when to stop (a tenth of the rest, none if there are few), and to score on."""
    n_test = round(n_rows * test_size)
    n_validation = (n_rows - n_test) // 10
    if n_rows - n_test - n_validation < 2:
        raise ValueError(f"at least 2 rows are needed to train on; there are {n_rows - n_test - n_validation}.")
    order = np.random.default_rng(seed).permutation(n_rows)
    return order[n_test + n_validation :], order[n_test : n_test + n_validation], order[:n_test]


def _announce(what: str, X: np.ndarray, arguments: Namespace, n_outputs: int, optimizer: str) -> None:
    widths, batch_size = "-".join(map(str, (X.shape[1], *arguments.hidden, n_outputs))), _batch_size(arguments, len(X))
    print(f"{what}: {len(X):,} rows; network {widths}, {optimizer}, batches of {batch_size}", flush=True)


def _batch_size(arguments: Namespace, n: int) -> int:
    """A small table needs small batches to take more than a few steps in an epoch."""
    return min(n, arguments.batch_size or max(8, min(128, n // 10)))


def _fit(model, X, y, arguments: Namespace, extra: dict | None = None, **options) -> tuple[float, int]:
    """Train; (seconds in the epochs, how many). After Ctrl-C the model is saved as it stands, if it is to be saved."""
    from . import BackupAndRestore

    backup = BackupAndRestore(arguments.backup) if arguments.backup else None
    options["callbacks"] = [*options.get("callbacks", ()), *([backup] if backup else [])]
    started = time.perf_counter()
    try:
        history = model.fit(
            X,
            y,
            batch_size=_batch_size(arguments, len(X)),
            seed=arguments.seed,
            n_threads=arguments.threads,
            device=arguments.device,
            precision=arguments.precision,
            verbose=0 if arguments.quiet else 1,
            **options,
        )
    except ValueError as error:  # a backup that this fit cannot go on from, or a precision that it cannot have
        text = str(error).replace("`path`", "`backup`")
        for option in ("backup", "epochs", "precision", "device"):
            text = text.replace(f"`{option}`", f"`--{option}`")
        raise ValueError(text) from error
    except KeyboardInterrupt:
        if model.built:  # before the first step there is nothing to save, and perhaps a good file to keep
            _save(model, arguments, extra)
        raise
    seconds, before = sum(history["seconds"]), (backup and backup.restored_epoch_) or 0
    preparing = time.perf_counter() - started - sum(history["seconds"][before:])
    if preparing > 1:  # compiling, once on a machine, which would make the speed below meaningless
        print(f"prepared in {preparing:.1f} s")
    _save(model, arguments, extra)
    return seconds, len(history)


def _save(model, arguments: Namespace, extra: dict | None) -> None:
    if arguments.save:
        from .serialization import save_model

        save_model(arguments.save, model, extra=extra)
        print(f"saved {arguments.save}")


def _print_speed(seconds: float, n_samples: int) -> None:
    print(f"trained in {seconds:.2f} s, {n_samples / seconds:,.0f} samples per second")


def _score(output: np.ndarray, y: np.ndarray, preprocess: dict) -> str:
    """How good predictions are, beside what guessing the most frequent class, or the mean, would give."""
    target, rows = preprocess["target"], f"{len(y):,} rows"
    if target["task"] == "classification":
        accuracy = np.mean(output.argmax(axis=1) == y)
        majority = np.bincount(y[y >= 0], minlength=1).max() / len(y)
        return f"accuracy {accuracy:.2%} on {rows} (the most frequent class: {majority:.2%})"
    squared = np.mean((output[:, 0] - y) ** 2)
    variance = np.var(y)
    r2 = f"{1 - squared / variance:.4f}" if variance > 0 else "undefined"
    return f"R2 {r2}, root mean squared error {np.sqrt(squared) * target['scale']:.6g} on {rows}"


def _write_csv(columns: dict[str, np.ndarray], path: str | None) -> None:
    file = open(path, "w", newline="", encoding="utf-8") if path else sys.stdout
    try:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
    finally:
        if path:
            file.close()
