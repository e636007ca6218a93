"""Deployment: a trained network as an ONNX file, run by ONNX Runtime, which knows nothing of fastmlp.

It needs two packages more: pip install "fastmlp[onnx]" onnxruntime.
"""

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime

from fastmlp import BatchNorm, Dense, ReLU, Sequential, export_onnx
from fastmlp.datasets import load_digits

(X, y), (X_test, y_test) = load_digits()
model = Sequential(Dense(64), BatchNorm(), ReLU(), Dense(10))
model.fit(X, y, loss="softmax_cross_entropy", epochs=20, verbose=0)

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "digits.onnx"
    export_onnx(path, model)
    print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

(probabilities,) = session.run(["predictions"], {"X": X_test.astype(np.float32)})
there, here = (probabilities.argmax(axis=1) == y_test).mean(), model.evaluate(X_test, y_test)["accuracy"]
print(f"accuracy {there:.1%} there, {here:.1%} here")
difference = np.abs(probabilities - model.predict(X_test)).max()
print(f"probabilities differ by {difference:.1g} at most")
assert difference < 1e-5
