"""A mixture density network (Bishop, 1994): a loss of one's own by its gradient, in a training loop of one's own.

x = t + 0.3 sin(2 pi t) + noise has up to three t for an x between 0.3 and 0.7. The mean of those is no solution, and
one Gaussian around it describes them badly; a mixture of three learns where they are.
"""

import numpy as np

from fastmlp import Adam, Dense, Sequential, Tanh

rng = np.random.default_rng(0)


def inverse_problem(n):
    t = rng.uniform(0, 1, n)
    return (t + 0.3 * np.sin(2 * np.pi * t) + rng.uniform(-0.1, 0.1, n))[:, None], t


def negative_log_likelihood(Z, t):
    """The mean over rows of -log sum_k p_k N(t; m_k, s_k^2), and its gradient dL/dZ for Z = (logits of p, m, log s)."""
    a, m, log_s = np.split(Z, 3, axis=1)
    log_p = a - a.max(axis=1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    d = (t[:, None] - m) / np.exp(log_s)
    joint = log_p - 0.5 * d**2 - log_s - 0.5 * np.log(2 * np.pi)
    top = joint.max(axis=1, keepdims=True)
    log_density = top + np.log(np.exp(joint - top).sum(axis=1, keepdims=True))
    responsible = np.exp(joint - log_density)  # of component k for t
    slopes = [np.exp(log_p) - responsible, -responsible * d / np.exp(log_s), responsible * (1 - d**2)]
    return -log_density.mean(), np.hstack(slopes) / len(t)


def fitted(components, steps=1500):
    (x, t), n = inverse_problem(1000), 1000
    model = Sequential(Dense(30), Tanh(), Dense(3 * components)).build(1, seed=1)
    for _ in range(steps):
        _, gradient = negative_log_likelihood(model.logits(x), t)
        model.train_on_batch(x, n * gradient, loss="given_gradient", optimizer=Adam(0.01, clip_norm=1.0))
    return model


x_test, t_test = inverse_problem(2000)
likelihood = {}
for components in (1, 3):
    model = fitted(components)
    likelihood[components], _ = negative_log_likelihood(model.logits(x_test), t_test)
    print(f"{components} component(s): negative log-likelihood {likelihood[components]:.3f} on fresh rows")
p, means, _ = np.split(model.predict([[0.5]]), 3, axis=1)
print("x = 0.5 could come from t =", ", ".join(f"{t:.2f}" for t in np.sort(means[0])), "(exactly: 0.21, 0.50, 0.79)")
assert likelihood[3] < likelihood[1] - 0.3
