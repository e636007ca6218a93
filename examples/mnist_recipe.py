"""Closing the gap between training and test on MNIST: dropout, weight decay and a one-cycle schedule.

The plain network learns its training images by heart. The recipe takes longer; `benchmarks/recipes/mnist.py` is its
long form. Without FASTMLP_DATA or a network, scikit-learn's small digits take MNIST's place.
"""

from fastmlp import GELU, Adam, AdamW, Dense, Dropout, OneCycle, ReLU, Rescaling, Sequential
from fastmlp.datasets import load_digits, load_mnist

try:
    (X, y), (X_test, y_test) = load_mnist()
    first = [Rescaling(1 / 255)]
except FileNotFoundError as reason:
    print(reason, "Using scikit-learn's digits instead.", sep="\n")
    (X, y), (X_test, y_test) = load_digits()
    first = []
EPOCHS = 8
plain = Sequential(*first, Dense(256), ReLU(), Dense(256), ReLU(), Dense(10))
recipe = Sequential(*first, Dropout(0.1), Dense(256), GELU(), Dropout(0.2), Dense(256), GELU(), Dropout(0.2), Dense(10))
optimizers = {"plain": Adam(1e-3), "recipe": AdamW(OneCycle(3e-3, epochs=EPOCHS), weight_decay=0.05)}
gaps, tests = {}, {}
for name, model in (("plain", plain), ("recipe", recipe)):
    options = {"loss": "softmax_cross_entropy", "epochs": EPOCHS, "batch_size": 128, "verbose": 0}
    history = model.fit(X, y, optimizer=optimizers[name], **options)
    train, tests[name] = (model.evaluate(*data)["accuracy"] for data in ((X, y), (X_test, y_test)))
    gaps[name], seconds = train - tests[name], sum(history["seconds"])
    print(f"{name:<6} train {train:.2%}, test {tests[name]:.2%}, gap {gaps[name]:.2%}, {seconds:.1f} s")
assert gaps["recipe"] < gaps["plain"] or tests["recipe"] > tests["plain"]
