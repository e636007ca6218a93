"""A differential equation solved by a network: a loss of derivatives, without derivatives of derivatives.

u'' + u u' = f on [-1, 1] with u(-1) = u(1) = 0, for an f whose solution is known: u = sin(pi x). The network's values
at three neighbouring points give u' and u'' by central differences. What the residual's square is worth by each of
these values is linear in the residual, so it is the targets of "given_gradient", with the three points as rows of one
batch (physics-informed networks, Raissi, Perdikaris and Karniadakis, 2019, who differentiate the network itself).
"""

import numpy as np

from fastmlp import Adam, CosineDecay, Dense, Sequential, Tanh

STEPS, ROWS, H = 4000, 64, 0.02  # H: float64 leaves some 1e-11 of a second difference, and the formula errs by H^2
rng = np.random.default_rng(0)
model = Sequential(Dense(32), Tanh(), Dense(32), Tanh(), Dense(1), dtype="float64").build(1, seed=0)
optimizer = Adam(CosineDecay(5e-3, epochs=STEPS))


def right_side(x):
    return -(np.pi**2) * np.sin(np.pi * x) + np.pi * np.sin(np.pi * x) * np.cos(np.pi * x)


def solution(x):
    """(1 - x^2) N(x), which is 0 at both ends whatever the network."""
    return (1 - x**2) * model.predict(x)


for step in range(1, STEPS + 1):
    x = rng.uniform(-1 + H, 1 - H, (ROWS, 1))
    points = np.concatenate([x - H, x, x + H])
    left, middle, right = np.split(solution(points), 3)
    slope, bend = (right - left) / (2 * H), (right - 2 * middle + left) / H**2
    residual = bend + middle * slope - right_side(x)
    of_values = np.concatenate([1 / H**2 - middle / (2 * H), slope - 2 / H**2, 1 / H**2 + middle / (2 * H)])
    slopes = np.concatenate([residual] * 3) * of_values * (1 - points**2)
    model.train_on_batch(points, 3 * slopes, loss="given_gradient", optimizer=optimizer)  # 3: of a mean over rows
    if step % 1000 == 0:
        grid = np.linspace(-1, 1, 201).reshape(-1, 1)
        error = np.abs(solution(grid) - np.sin(np.pi * grid)).max()
        print(f"step {step}: residual {np.sqrt(np.mean(residual**2)):.1e}, largest error {error:.1e}")
