"""Train a network on MNIST's handwritten digits, and look at the ones it gets wrong.

Run it as `python examples/mnist.py`. The images are found in the folder named by FASTMLP_DATA, or downloaded; where
neither is possible, scikit-learn's small digits are used instead.
"""

import numpy as np

from fastmlp import Adam, Dense, ReLU, Rescaling, Sequential
from fastmlp.datasets import load_digits, load_mnist

try:
    (X_train, y_train), (X_test, y_test) = load_mnist()
    first = [Rescaling(1 / 255)]  # the images stay uint8 in memory
except FileNotFoundError as reason:
    print(reason, "Using scikit-learn's digits instead.", sep="\n")
    (X_train, y_train), (X_test, y_test) = load_digits()
    first = []

model = Sequential(*first, Dense(128), ReLU(), Dense(64), ReLU(), Dense(10))
history = model.fit(
    X_train, y_train, loss="softmax_cross_entropy", optimizer=Adam(1e-3), epochs=10, batch_size=128, verbose=1
)

seconds = sum(history["seconds"])
accuracy = model.evaluate(X_test, y_test)["accuracy"]
print(f"test accuracy {accuracy:.2%}, {seconds:.2f} s, {10 * len(X_train) / seconds:,.0f} samples per second")

probabilities = model.predict(X_test)
predicted = probabilities.argmax(axis=1)
wrong = np.flatnonzero(predicted != y_test)
surest = wrong[np.argsort(-probabilities[wrong, predicted[wrong]])][:3]
for row in surest:
    print(f"\na {y_test[row]} taken for a {predicted[row]}:")
    side = int(len(X_test[row]) ** 0.5)
    for line in X_test[row].reshape(side, side):
        print("".join(" .:*#"[int(4 * float(value) / X_test.max())] * 2 for value in line))
