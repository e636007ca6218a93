"""MNIST in NumPy, forward, backward and update by hand, beside fastmlp: the same losses, step by step, and the times.

Both begin with the same weights and see the same batches; what differs is rounding. Without FASTMLP_DATA or a network,
scikit-learn's small digits take MNIST's place.
"""

import time

import numpy as np

from fastmlp import SGD, Dense, Sequential, Tanh
from fastmlp.datasets import load_digits, load_mnist

try:
    (X, y), _ = load_mnist()
    X = X.astype(np.float32) / 255
except FileNotFoundError as reason:
    print(reason, "Using scikit-learn's digits instead.", sep="\n")
    (X, y), _ = load_digits()
BATCH, RATE = 128, 0.1
X, y = X[: len(X) // BATCH * BATCH], y[: len(X) // BATCH * BATCH]
model = Sequential(Dense(128), Tanh(), Dense(10)).build(X.shape[1])
start = model.parameters
W1, b1, W2, b2 = (start[name].copy() for name in ("dense_0.weight", "dense_0.bias", "dense_1.weight", "dense_1.bias"))


def numpy_step(x, labels):
    """One step of gradient descent on softmax cross-entropy; the loss before it."""
    rows = np.arange(len(x))
    a = np.tanh(x @ W1 + b1)
    z = a @ W2 + b2
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    loss = -np.log(p[rows, labels]).mean()
    p[rows, labels] -= 1  # softmax's and cross-entropy's derivatives together: dL/dz = p - y
    dz = p / len(x)
    da = (dz @ W2.T) * (1 - a * a)
    for parameter, gradient in ((W2, a.T @ dz), (b2, dz.sum(axis=0)), (W1, x.T @ da), (b1, da.sum(axis=0))):
        parameter -= RATE * gradient
    return loss


def fastmlp_fit(rows, epochs):
    options = {"loss": "softmax_cross_entropy", "optimizer": SGD(RATE), "batch_size": BATCH, "shuffle": False}
    return model.fit(X[rows], y[rows], epochs=epochs, verbose=0, **options)


batches = [slice(i, i + BATCH) for i in range(0, len(X), BATCH)]
print("step  NumPy's loss  fastmlp's loss")
for step, batch in enumerate(batches[:10]):
    losses = numpy_step(X[batch], y[batch]), fastmlp_fit(batch, 1)["loss"][0]  # a fit of one batch is one step
    print(f"{step:>4}  {losses[0]:12.6f}  {losses[1]:14.6f}")
    assert abs(losses[0] - losses[1]) < 1e-5

print("epoch")
seconds, history = [], fastmlp_fit(slice(None), 3)
for epoch in range(3):
    started = time.perf_counter()
    loss = np.mean([numpy_step(X[batch], y[batch]) for batch in batches])
    seconds.append(time.perf_counter() - started)
    print(f"{epoch:>4}  {loss:12.6f}  {history['loss'][epoch]:14.6f}")
    assert abs(loss - history["loss"][epoch]) < 1e-3
ours, numpys = min(history["seconds"]), min(seconds)
print(f"an epoch takes NumPy {numpys:.4f} s and fastmlp {ours:.4f} s: {numpys / ours:.1f} times as long")
