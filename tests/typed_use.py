"""What type checkers should make of a user's program: `mypy` reads it, nobody runs it."""

from pathlib import Path
from typing import Any

import numpy as np

import fastmlp
from fastmlp import (
    Adam,
    BackupAndRestore,
    BatchNorm,
    Callback,
    CosineDecay,
    Dense,
    Dropout,
    EarlyStopping,
    Embedding,
    History,
    Huber,
    MLPClassifier,
    MLPRegressor,
    ModelCheckpoint,
    ReLU,
    Residual,
    Sequential,
    SKLearnClassifier,
    Warmup,
    diagnose,
    export_onnx,
    find_learning_rate,
    load_model,
    save_model,
)
from fastmlp.training import Training

X, y = np.zeros((10, 4)), [0, 1] * 5


class Mine(Callback):
    def on_epoch_end(self, training: Training, epoch: int, logs: dict[str, float]) -> None:
        logs["mine"] = training.learning_rate + epoch
        if logs["loss"] < 0.1:
            training.stop = True


def sequential() -> np.ndarray:
    layers = [Dense(8), BatchNorm(), ReLU(), Dropout(0.1)]
    model = Sequential(*layers, Residual(Dense(8), ReLU()), Dense(2, l2=1e-4))
    model = Sequential([Embedding([3, 4], 2, columns=[0, 1]), Dense(3)], dtype=np.float64)
    rate = Warmup(CosineDecay(0.01, epochs=3), epochs=1)
    history: History = model.fit(
        X,
        y,
        loss="softmax_cross_entropy",
        optimizer=Adam(rate, epsilon=1e-7),
        validation_data=(X, y),
        class_weight={0: 2.0},
        callbacks=[EarlyStopping(patience=3), ModelCheckpoint(Path("best.safetensors")), Mine()],
        verbose=0,
    )
    model.fit(X, y, loss=Huber(), callbacks=[BackupAndRestore("fit.safetensors")], n_threads=2)
    loss: float = model.train_on_batch(X, y, loss="squared_error", optimizer="sgd")
    losses: list[float] = history["loss"]
    best = min(history["val_loss"]) + losses[-1] + loss + model.evaluate(X, y)["loss"]
    model.set_parameters({"dense_0.bias": [0.0, best, 0.0]})
    weights: np.ndarray = model.parameters["dense_0.weight"]
    if model.history is not None and model.n_features is not None:
        print(model.history["loss"][-1], model.n_features + 1, model.n_outputs + 1, len(model.layers))
    encoder = model[:2].build(4)
    value, gradients = encoder.gradients(X, y, "softmax_cross_entropy")
    print(value + 1, gradients["dense_0.bias"].sum(), model.input_gradients(X, output=0).shape)
    print(find_learning_rate(model, X, y, loss="softmax_cross_entropy").suggestion * 2, bool(diagnose(model, X, y)))
    model.save("model.safetensors")
    export_onnx(Path("model.onnx"), Sequential.load("model.safetensors"))
    product: np.ndarray = model.predict(X) @ weights
    return product


def mistakes(model: Sequential) -> None:
    """Each is one that they find."""
    Adam(weight_decay=0.1)  # type: ignore[call-arg]
    model.fit(X, y, optimizer=3)  # type: ignore[arg-type]
    model.fit(X, y, epoch=3)  # type: ignore[arg-type]
    MLPClassifier(max_iter="many")  # type: ignore[arg-type]
    model.n_outputs.upper()  # type: ignore[attr-defined]
    fastmlp.Sequentiel()  # type: ignore[attr-defined]


def estimators() -> np.ndarray:
    options: dict[str, Any] = {"epochs": 3, "optimizer": Adam(1e-3)}
    wrapped = SKLearnClassifier(lambda X, y: Sequential(Dense(2)), fit_kwargs=options).fit(X, y)
    classifier = MLPClassifier((64, 32), max_iter=20, early_stopping=True, random_state=np.random.RandomState(0))
    classifier = classifier.fit(X, y, X_val=X, y_val=y).partial_fit(X, y)
    regressor = MLPRegressor(hidden_layer_sizes=[5], n_iter_no_change=np.inf, batch_size=3, device="auto").fit(X, y)
    save_model("classifier.safetensors", classifier)
    again = load_model("classifier.safetensors")
    print(fastmlp.__version__.split("."), again.predict(X))
    return np.hstack([classifier.predict_proba(X), wrapped.predict(X)[:, None], regressor.predict(X)[:, None]])
