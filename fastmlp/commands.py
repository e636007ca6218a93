"""What the command line's commands do: data in, a network trained, a result printed."""

from __future__ import annotations

import csv
import os
import shlex
import sys
import time
from argparse import Namespace
from pathlib import Path

import numpy as np

from .errors import unknown_name

IMAGES = ("mnist", "digits")
# Of tables: chosen on California housing, Adult and five small ones, among the best on all of what was tried
EPOCHS, LEARNING_RATE, WEIGHT_DECAY, DROPOUT = 30, 4e-3, 0.1, 0.2
TEST_SIZE = 0.2


def train(arguments: Namespace) -> None:
    """`fastmlp train`: on images by name, else on a table."""
    for option, path in (("--save", arguments.save), ("--backup", arguments.backup)):
        if path and (Path(path).is_dir() or not (Path(path).parent.is_dir() and os.access(Path(path).parent, os.W_OK))):
            raise FileNotFoundError(f"`{option}` must name a file in a folder that can be written to; got {path!r}.")
    if arguments.save and arguments.backup and Path(arguments.save).resolve() == Path(arguments.backup).resolve():
        raise ValueError(f"`--backup` must be another file than `--save`; got {arguments.backup!r} for both.")
    if arguments.data in IMAGES:
        for option in ("target", "task", "drop", "missing", "test_size"):
            if getattr(arguments, option) not in (None, []):
                raise ValueError(f"`--{option.replace('_', '-')}` is for tables; got {arguments.data}.")
        _train_images(arguments)
    elif not Path(arguments.data).is_file() and "." not in arguments.data:
        got = str(unknown_name("data", arguments.data, IMAGES)).partition("; ")[2]
        raise ValueError(f"`data` must be 'mnist', 'digits' or the path of a CSV or Parquet file; {got}")
    else:
        _refuse_to_overwrite("--save", arguments.save, arguments.data)
        _train_table(arguments)


def predict(arguments: Namespace) -> None:
    """`fastmlp predict`: a CSV of predictions, and on stderr their score if the table has the target."""
    from .preprocessing import decode_target, encode_target
    from .table_model import TableModel
    from .tables import read_unchanged

    _refuse_to_overwrite("--output", arguments.output, arguments.model, arguments.table)
    model = TableModel.load(arguments.model)
    preprocess, target = model._preprocess, model.target
    classes = preprocess["target"].get("classes", [])
    if arguments.probabilities and not classes:
        raise ValueError("`--probabilities` needs a classification; this model is a regression.")
    table = model.read(arguments.table)
    for name in arguments.keep:
        if name not in table.column_names:
            raise unknown_name("--keep", name, table.column_names)
    table = model.like_training(table, _note)
    output = model.outputs(table)
    columns = {"prediction": decode_target(output, preprocess).tolist()}
    if arguments.probabilities:
        columns |= {f"probability_{name}": output[:, k].tolist() for k, name in enumerate(classes)}
    if taken := [name for name in arguments.keep if name in columns]:
        raise ValueError(f"`--keep` must not name a column that is written anyway; got {taken[0]!r}.")
    if arguments.keep:
        unchanged = read_unchanged(arguments.table)[0]  # "007" is not 7
        columns = {name: unchanged[name].to_pylist() for name in arguments.keep} | columns
    _write_csv(columns, arguments.output)
    if target in table.column_names:
        known = np.asarray(table[target].is_valid())
        try:
            y = encode_target(table, preprocess)[known]
        except ValueError as error:  # the predictions are written already
            print(f"not scored: {error}", file=sys.stderr)
            return
        if classes and len(y) and (y < 0).all():
            print(f"not scored: no {target!r} in the table is a class that was learned", file=sys.stderr)
        elif len(y):
            print(_score(output[known], y, preprocess), file=sys.stderr)


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


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
    options = {
        "loss": "softmax_cross_entropy",
        "epochs": arguments.epochs or 10,
        "class_weight": arguments.class_weight,
    }
    seconds, n_epochs = _fit(model, X, y, arguments, optimizer=Adam(arguments.learning_rate or 1e-3), **options)
    accuracy = model.evaluate(X_test, y_test)["accuracy"]
    print(f"test accuracy {accuracy:.2%} on {len(X_test):,} images")
    _print_speed(seconds, n_epochs * len(X))


def _train_table(arguments: Namespace) -> None:
    from . import AdamW, Dense, Dropout, EarlyStopping, Mish, OneCycle, Sequential
    from .preprocessing import MAX_CATEGORIES, encode_features, encode_target, find_task, fit_preprocess
    from .table_model import TableModel, say_how_read
    from .tables import how_read, kind_of, read_columns, read_unchanged, with_leading_zeros

    if arguments.target is None:
        raise ValueError("`--target` must name the column to learn.")
    unchanged, delimiter = read_unchanged(arguments.data)
    options = {"target": arguments.target, "missing": arguments.missing, "learned": None}
    table = read_columns(unchanged, delimiter, text_columns=(), **options)
    for option, name in [("--target", arguments.target), *(("--drop", name) for name in arguments.drop)]:
        if name not in table.column_names:
            raise unknown_name(option, name, table.column_names)
    if arguments.target in arguments.drop:
        raise ValueError(f"`--drop` must not name the target; got {arguments.target!r}.")
    used = [name for name in table.column_names if name not in arguments.drop]
    _check_numbers(table, used)
    say_how_read(table, used, {}, _note)
    task = find_task(table[arguments.target].drop_null(), arguments.task or "auto")
    if task == "classification":
        table = with_leading_zeros(table, unchanged, arguments.target)
    del unchanged
    known = table[arguments.target].is_valid()
    n_missing = table.num_rows - known.to_numpy().sum()
    if n_missing:
        print(f"left out {n_missing:,} rows without a {arguments.target!r}")
        table = table.filter(known)
    if task == "regression" and arguments.class_weight:
        raise ValueError("`--class-weight` needs a classification; this is a regression.")
    is_class = task == "classification" and kind_of(table[arguments.target])  # lists are refused below
    codes = _codes(table[arguments.target]) if is_class else None
    test_size = TEST_SIZE if arguments.test_size is None else arguments.test_size
    train, validation, test = _split(table.num_rows, test_size, arguments.seed, codes)
    fitted_on = table.take(train)
    preprocess = fit_preprocess(fitted_on, arguments.target, task, arguments.drop)
    preprocess["missing"], preprocess["read"] = arguments.missing, how_read(table.select(used))
    if task == "classification":
        _say_classes(table[arguments.target], arguments.target, preprocess["target"]["classes"])
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
        if arguments.class_weight:
            from sklearn.utils.class_weight import compute_sample_weight

            options["validation_data"] += (compute_sample_weight(arguments.class_weight, y_validation[seen]),)
    seconds, n_epochs = _fit(
        model,
        X,
        y,
        arguments,
        extra={"preprocess": preprocess},
        loss="softmax_cross_entropy" if classes else "squared_error",
        class_weight=arguments.class_weight,
        optimizer=AdamW(OneCycle(arguments.learning_rate or LEARNING_RATE, epochs=epochs), weight_decay=WEIGHT_DECAY),
        epochs=epochs,
        **options,
    )
    if len(test):
        held_out = table.take(test)
        output = TableModel(model, preprocess).outputs(held_out)
        print(f"held-out {_score(output, encode_target(held_out, preprocess), preprocess)}")
    _print_speed(seconds, n_epochs * len(X))


def _check_numbers(table, names: list[str]) -> None:
    """Refuse infinity before a long fit, with its row in the file; say which texts are almost numbers or dates."""
    from .tables import kind_of, numbers, stray_date, stray_text

    for name in names:
        if kind_of(table[name]) == "number":
            numbers(table[name], name)
        for what, find in (("number", stray_text), ("date", stray_date)):
            if (stray := find(table[name])) is not None:
                remedy = f"; if it means missing: --missing={shlex.quote(stray)}"
                may_be = what == "date" or not any(map(str.isdigit, stray))  # "1 km" is no missing number
                print(f"took {name!r} for text: {stray!r} is not a {what}{remedy if may_be else ''}")
                break


def _codes(column) -> np.ndarray:
    """A number for every class."""
    return column.combine_chunks().dictionary_encode().indices.to_numpy()


def _say_classes(column, name: str, learned: list) -> None:
    """Classes that look like a missing value, and those that no row is left to learn from."""
    from .tables import MISSING

    for count in column.value_counts().to_pylist():
        label, rows = count["values"], f"{count['counts']:,} rows"
        if label in MISSING:
            option = f"--missing={shlex.quote(label)}"
            _note(f"{label!r} is a class of {name!r}, in {rows}; if it means missing: {option}")
        if label not in learned:
            _note(f"{label!r} of {name!r} cannot be learned: its {rows} are held out")


def _split(
    n_rows: int, test_size: float, seed: int, codes: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows to train on, to decide when to stop (a tenth of the rest, none if there are few), and to score on.

    With the codes of classes, each has its share in all three; the only row of one is trained on.
    """
    n_test = round(n_rows * test_size)
    n_validation = (n_rows - n_test) // 10
    if n_rows - n_test - n_validation < 2:
        raise ValueError(f"at least 2 rows are needed to train on; there are {n_rows - n_test - n_validation}.")
    order = np.random.default_rng(seed).permutation(n_rows)
    if codes is not None:  # unlike scikit-learn's, for classes of few rows, too
        order = order[np.argsort(codes[order], kind="stable")]
        counts = np.bincount(codes)
        first, count = np.repeat(np.cumsum(counts) - counts, counts), np.repeat(counts, counts)
        places = np.where(count == 1, 1.0, (np.arange(n_rows) - first + 0.5) / count)
        order = order[np.argsort(places, kind="stable")]
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
        from sklearn.metrics import recall_score, roc_auc_score

        predicted, seen = output.argmax(axis=1), y >= 0
        majority = np.bincount(y[seen], minlength=1).max() / len(y)
        score = f"accuracy {np.mean(predicted == y):.2%} on {rows} (the most frequent class: {majority:.2%})"
        there = np.unique(y[seen])
        if len(there) > 1:  # balanced_accuracy_score is this, and warns of predictions that are not among `there`
            score += f", balanced accuracy {recall_score(y[seen], predicted[seen], labels=there, average='macro'):.2%}"
        if len(there) == output.shape[1] == 2:
            score += f", ROC AUC {roc_auc_score(y[seen], output[seen, 1]):.4f}"
        return score
    squared = np.mean((output[:, 0] - y) ** 2)
    variance = np.var(y)
    r2 = f"{1 - squared / variance:.4f}" if variance > 0 else "undefined"
    return f"R2 {r2}, root mean squared error {np.sqrt(squared) * target['scale']:.6g} on {rows}"


def _write_csv(columns: dict[str, list], path: str | None) -> None:
    file = open(path, "w", newline="", encoding="utf-8") if path else sys.stdout
    try:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    finally:
        if path:
            file.close()
