"""Autoencoders: networks that learn their input, by way of something narrow, clean or sparse.

Images of digits, 8 x 8, with pixels in [0, 1], again and again with another way to keep the network from copying: a
narrow layer (that of a linear one spans what PCA finds; Baldi and Hornik, 1989), noise at the entrance (Vincent et al.,
2008), or a price for every unit that is not 0 (Olshausen and Field, 1996).
"""

import numpy as np
from sklearn.decomposition import PCA

from fastmlp import ActivityRegularization, Adam, CosineDecay, Dense, GaussianNoise, ReLU, Sequential
from fastmlp.datasets import load_digits

(X, _), (X_test, _) = load_digits()
rng = np.random.default_rng(0)


def trained(*layers, epochs=60):
    model = Sequential(*layers)
    model.fit(X, X, loss="squared_error", optimizer=Adam(CosineDecay(5e-3, epochs=epochs)), epochs=epochs, verbose=0)
    return model


def error(made):
    """The mean over images of the squared distance from them."""
    return ((made - X_test) ** 2).sum(axis=1).mean()


pca = PCA(8).fit(X)
linear = trained(Dense(8), Dense(64))
deep = trained(Dense(64), ReLU(), Dense(8), Dense(64), ReLU(), Dense(64))
errors = error(pca.inverse_transform(pca.transform(X_test))), error(linear.predict(X_test)), error(deep.predict(X_test))
print(
    "eight numbers for an image: squared error {:.2f} by PCA, {:.2f} linear, {:.2f} with hidden layers".format(*errors)
)
assert abs(errors[1] - errors[0]) < 0.1 * errors[0] and errors[2] < errors[0]

encoder, decoder = deep[:3], deep[3:]  # networks of their own
codes = encoder.logits(X_test)
assert codes.shape == (len(X_test), 8) and np.allclose(decoder.logits(codes), deep.predict(X_test), atol=1e-5)
between = decoder.logits(np.linspace(codes[:1], codes[1:2], 5).reshape(5, 8))  # from one image to another
print("on the way between two images:", ", ".join(f"{b:.2f}" for b in np.linalg.norm(between - X_test[0], axis=1)))

noise = 0.3
cleaner = trained(GaussianNoise(noise), Dense(128), ReLU(), Dense(64))
noisy = X_test + noise * rng.normal(size=X_test.shape).astype(np.float32)
errors = error(noisy), error(cleaner.predict(noisy))
print("noisy images: squared error {:.2f}, and {:.2f} when cleaned".format(*errors))
assert errors[1] < 0.5 * errors[0]

for l1 in (0.0, 0.1):
    model = trained(Dense(128), ReLU(), ActivityRegularization(l1=l1), Dense(64))
    active = (model.activations(X_test, layer=1) > 1e-3).sum(axis=1).mean()
    print(f"l1 = {l1}: {active:.0f} of 128 units active for an image, squared error {error(model.predict(X_test)):.2f}")
assert active < 40  # with nothing to pay, more than 50
