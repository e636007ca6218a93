"""A recipe for tables: numbers in bins, a small network, one cycle of the learning rate; beside gradient boosting.

    python benchmarks/recipes/tables.py            five splits of California housing and Adult
    python benchmarks/recipes/tables.py --seeds 1  one

What is learned from is standardised numbers, their places in 48 bins (`PiecewiseLinearEncoder`) and one-hot texts; by
128-64 with Mish and dropout of 0.2, AdamW with a weight decay of 0.1 and one cycle up to 4e-3, in 30 epochs of batches
of 128, of which the best on a tenth of the rows is kept. `fastmlp train` does much the same. Figures are in
docs/recipes.md.
"""

import argparse
import os
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.compose import TransformedTargetRegressor, make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from fastmlp import (
    AdamW,
    Dense,
    Dropout,
    EarlyStopping,
    Mish,
    OneCycle,
    PiecewiseLinearEncoder,
    Sequential,
    SKLearnClassifier,
    SKLearnRegressor,
)

EPOCHS = 30
DATA = Path(
    os.environ.get("FASTMLP_DATA", ".")
)  # with california_housing.csv.gz, adult_train.csv.gz, adult_test.csv.gz


def california():
    """Columns, and the median house value in 100 000 dollars."""
    table = pd.read_csv(DATA / "california_housing.csv.gz")
    return table.drop(columns="median_house_value"), table["median_house_value"] / 1e5


def adult():
    """Columns, and whether the income is above 50 000 dollars."""
    parts = [DATA / f"adult_{part}.csv.gz" for part in ("train", "test")]
    table = pd.concat([pd.read_csv(path, na_values="?", skipinitialspace=True) for path in parts], ignore_index=True)
    return table.drop(columns="income"), table["income"].str.startswith(">")


def inputs(bins: bool):
    """What makes numbers of the columns."""
    numbers = [make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())]
    numbers += [PiecewiseLinearEncoder()] if bins else []
    texts = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    columns = make_column_transformer(
        (make_union(*numbers), make_column_selector(dtype_include="number")),
        (texts, make_column_selector(dtype_exclude="number")),
    )
    return make_pipeline(columns, FunctionTransformer(np.float32))


def network(n_outputs: int) -> Sequential:
    hidden = [layer for width in (128, 64) for layer in (Dense(width), Mish(), Dropout(0.2))]
    return Sequential(*hidden, Dense(n_outputs))


def contenders(is_classes: bool, seed: int):
    """{name: a model that has `fit` and `predict`}, all of which see the same rows."""
    optimizer = AdamW(OneCycle(4e-3, epochs=EPOCHS), weight_decay=0.1)
    options = {"optimizer": optimizer, "epochs": EPOCHS, "batch_size": 128, "validation_split": 0.1}
    options["callbacks"] = [EarlyStopping(patience=EPOCHS)]
    settings = {"fit_kwargs": options, "random_state": seed}
    ours = SKLearnClassifier(network(2), **settings) if is_classes else SKLearnRegressor(network(1), **settings)
    theirs = (MLPClassifier if is_classes else MLPRegressor)(hidden_layer_sizes=(128, 64), early_stopping=True)
    theirs.set_params(random_state=seed)
    trees = HistGradientBoostingClassifier if is_classes else HistGradientBoostingRegressor
    categories = {"categorical_features": "from_dtype", "early_stopping": True, "random_state": seed}

    def scaled(model):
        return model if is_classes else TransformedTargetRegressor(model, transformer=StandardScaler())

    return {
        "fastmlp": make_pipeline(inputs(bins=True), scaled(ours)),
        "the same without bins": make_pipeline(inputs(bins=False), scaled(ours)),
        "scikit-learn's MLP": make_pipeline(inputs(bins=False), scaled(theirs)),
        "gradient boosting": trees(**categories),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    n_seeds = parser.parse_args().seeds
    for load, is_classes in ((california, False), (adult, True)):
        X, y = load()
        texts = X.select_dtypes(exclude="number").columns
        errors: dict[str, list] = {}
        for seed in range(n_seeds):
            X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, random_state=seed)
            for name, model in contenders(is_classes, seed).items():
                if name == "gradient boosting":
                    X_train, X_test = (part.astype(dict.fromkeys(texts, "category")) for part in (X_train, X_test))
                began = time.perf_counter()
                predicted = model.fit(X_train, y_train).predict(X_test)
                seconds = time.perf_counter() - began
                wrong = predicted != y_test if is_classes else (predicted - y_test) ** 2
                errors.setdefault(name, []).append((np.mean(wrong) if is_classes else np.sqrt(np.mean(wrong)), seconds))
        print(f"{load.__name__}: {'error rate' if is_classes else 'root mean squared error'} of {n_seeds} splits")
        for name, pairs in errors.items():
            error, seconds = np.mean(pairs, axis=0)
            print(f"  {name:24} {error:.4f} +- {np.std(pairs, axis=0)[0]:.4f}   {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
