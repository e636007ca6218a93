"""An image as a function of coordinates: a network that maps (row, column) to the brightness there.

Networks of ReLU are slow to learn what changes quickly ("spectral bias"). Those of sines, with the frequency and the
first weights that Sitzmann et al. (2020) derive, learn all of 64 handwritten digits, at every pixel, in a second; and
what such a network has learned is smooth, so that it can be asked between the pixels, and for its slopes.
"""

import numpy as np

from fastmlp import Adam, CosineDecay, Dense, ReLU, Sequential, Sine
from fastmlp.datasets import load_digits
from fastmlp.initializers import Scaled, Uniform

EPOCHS, UNITS, FREQUENCY = 200, 64, 30.0

(images, _), _ = load_digits()
mosaic = images[:64].reshape(8, 8, 8, 8).swapaxes(1, 2).reshape(64, 64) / images.max()
places = np.linspace(-1, 1, 64, dtype=np.float32)
X = np.stack(np.meshgrid(places, places, indexing="ij"), axis=-1).reshape(-1, 2)
y = mosaic.reshape(-1, 1)


def of_relus():
    return Sequential(Dense(UNITS), ReLU(), Dense(UNITS), ReLU(), Dense(UNITS), ReLU(), Dense(1))


def of_sines():
    last = Scaled("he_uniform", 1 / FREQUENCY)
    return Sequential(
        Dense(UNITS, kernel_initializer=Uniform(1 / X.shape[1])),
        Sine(FREQUENCY),
        Dense(UNITS),  # "auto" is he_uniform / FREQUENCY before a Sine
        Sine(FREQUENCY),
        Dense(UNITS),
        Sine(FREQUENCY),
        Dense(1, kernel_initializer=last),
    )


for name, model in {"ReLU": of_relus(), "Sine": of_sines()}.items():
    optimizer = Adam(CosineDecay(1e-3, epochs=EPOCHS))
    history = model.fit(X, y, loss="squared_error", optimizer=optimizer, epochs=EPOCHS, batch_size=256, seed=0)
    decibels = -10 * np.log10(np.mean((model.predict(X) - y) ** 2))
    print(f"{name}: a signal of {decibels:.1f} dB over its error, in {sum(history['seconds']):.1f} s")

between = X[X.max(axis=1) < 1] + 1 / 63  # half-way to the next pixels
slopes = model.input_gradients(between, output=0)
print(
    f"between the pixels: {model.predict(between).mean():.2f} bright on average, with slopes up to {slopes.max():.0f}"
)
