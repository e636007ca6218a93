"""Two networks against each other (Goodfellow et al., 2014): one draws points, the other tells them from real ones.

Real points lie around eight places on a circle. The discriminator learns to tell, by binary cross-entropy; the
generator learns to be taken for real: its gradient is that of the discriminator's loss for the label "real", by the
discriminator's input, and goes on by `loss="given_gradient"`. The discriminator sees all points through some noise,
else it soon knows them apart without fail, and the generator draws at a few places only (Arjovsky and Bottou, 2017).
"""

import numpy as np

from fastmlp import Adam, Dense, LeakyReLU, ReLU, Sequential

rng, n, BCE = np.random.default_rng(0), 128, "binary_cross_entropy"
places = np.exp(2j * np.pi * np.arange(8) / 8)
places = 2 * np.column_stack([places.real, places.imag])
generator = Sequential(Dense(64), ReLU(), Dense(64), ReLU(), Dense(2)).build(8, seed=1)
discriminator = Sequential(Dense(64), LeakyReLU(0.2), Dense(64), LeakyReLU(0.2), Dense(1)).build(2, seed=2)
adam = Adam(2e-3, beta_1=0.5)


def real():
    return places[rng.integers(8, size=n)] + 0.1 * rng.normal(size=(n, 2))


def drawn(n):
    codes = rng.normal(size=(n, 8))
    return codes, generator.logits(codes)


def blurred(points):
    return points + 0.2 * rng.normal(size=points.shape)


def quality():
    """The share of points within 0.4 of a place, and at how many places there are some."""
    distances = np.linalg.norm(drawn(2000)[1][:, None] - places, axis=2)
    near = distances.min(axis=1) < 0.4
    return near.mean(), (np.bincount(distances.argmin(axis=1)[near], minlength=8) > 40).sum()


for step in range(4001):
    rows, labels = np.vstack([real(), drawn(n)[1]]), np.repeat([1.0, 0.0], n)
    loss = discriminator.train_on_batch(blurred(rows), labels, loss=BCE, optimizer=adam)
    codes, points = drawn(n)
    slopes = discriminator.input_gradients(blurred(points), np.ones(n), BCE)  # of each point's loss
    generator.train_on_batch(codes, slopes, loss="given_gradient", optimizer=adam)
    if step % 1000 == 0:
        share, covered = quality()
        print(f"step {step}: {share:.0%} of the points near one of {covered} places; loss of the other {loss:.2f}")
assert share > 0.5 and covered >= 6
