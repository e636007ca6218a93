"""A variational autoencoder (Kingma and Welling, 2014): two networks, and the gradient that goes from one to the other.

The encoder gives a mean m and a log variance v for an image, the decoder an image for a code z = m + exp(v / 2) e, with
e from N(0, 1). What is minimised is the loss of the image made, plus the divergence of N(m, exp(v)) from N(0, 1). The
decoder's part of a step is that of any network. The encoder's begins with dL/dz, which is the gradient by the decoder's
input, and goes on with the chain rule: it is trained by `loss="given_gradient"`.
"""

import numpy as np

from fastmlp import Adam, Dense, ReLU, Sequential
from fastmlp.datasets import load_digits

(X, _), (X_test, _) = load_digits()
rng, width, BCE = np.random.default_rng(0), 8, "binary_cross_entropy"  # of pixels in [0, 1]
encoder = Sequential(Dense(128), ReLU(), Dense(2 * width)).build(64, seed=1)
decoder = Sequential(Dense(128), ReLU(), Dense(64)).build(width, seed=2)


def coded(x):
    """m, v, and the divergence of each image."""
    m, v = np.split(encoder.logits(x), 2, axis=1)
    return m, v, 0.5 * (m**2 + np.exp(v) - 1 - v).sum(axis=1)


def step(x):
    m, v, _ = coded(x)
    e = rng.normal(size=m.shape).astype(np.float32)
    z = m + np.exp(v / 2) * e
    dz = decoder.input_gradients(z, x, BCE)  # of each image's loss
    decoder.train_on_batch(z, x, loss=BCE, optimizer=Adam(2e-3))
    slopes = np.hstack([dz + m, dz * e * np.exp(v / 2) / 2 + (np.exp(v) - 1) / 2])
    encoder.train_on_batch(x, slopes, loss="given_gradient", optimizer=Adam(2e-3))  # each image's own, as losses are


def bound(x):
    """The mean over images of what is minimised."""
    m, v, divergence = coded(x)
    z = m + np.exp(v / 2) * rng.normal(size=m.shape)
    return decoder.evaluate(z, x)["loss"] + divergence.mean()


for epoch in range(1, 41):
    order = rng.permutation(len(X))
    for first in range(0, len(X), 64):
        step(X[order[first : first + 64]])
    if epoch in (1, 10, 40):
        print(
            f"epoch {epoch}: {bound(X_test):.2f} for a test image, {coded(X_test)[2].mean():.2f} of it the divergence"
        )

constant = X.mean(axis=0)  # what a decoder without codes would make of all
entropy = -(X_test * np.log(constant + 1e-6) + (1 - X_test) * np.log(1 - constant + 1e-6)).sum(axis=1).mean()
print(f"without codes: {entropy:.2f}")
assert bound(X_test) < entropy - 2
drawn = decoder.predict(rng.normal(size=(3, width)))  # new images, of codes that nobody coded
for rows in drawn.reshape(3, 8, 8).transpose(1, 0, 2):
    print("   ".join("".join(" .:*#"[round(4 * float(pixel))] * 2 for pixel in row) for row in rows))
