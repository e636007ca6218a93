"""An agent that learns to balance a pole: proximal policy optimisation (Schulman et al., 2017), with two networks.

The policy's loss is none that the library has: the clipped ratio of probabilities now and when the action was taken,
and a bonus for entropy. Its gradient by the logits takes three lines, and "given_gradient" takes it from there. The
critic learns returns by a plain `fit`, whose optimiser goes on from the last portion (`keep_optimizer`).
"""

import numpy as np

from fastmlp import Adam, Dense, Sequential, Tanh
from fastmlp.initializers import Scaled

PORTIONS, STEPS, EPOCHS, BATCH = 30, 1024, 10, 64
DISCOUNT, TRACE, CLIP, ENTROPY = 0.99, 0.95, 0.2, 0.01
LONGEST = 500  # steps of an episode, each of which is worth 1


def moved(state, action):
    """The cart and its pole 0.02 s later (Barto, Sutton and Anderson, 1983), and whether it fell or left the track."""
    x, speed, angle, turning = state
    force, sine, cosine = (10.0 if action else -10.0), np.sin(angle), np.cos(angle)
    push = (force + 0.05 * turning**2 * sine) / 1.1
    twist = (9.8 * sine - cosine * push) / (0.5 * (4 / 3 - 0.1 * cosine**2 / 1.1))
    pull = push - 0.05 * twist * cosine / 1.1
    state = np.array([x + 0.02 * speed, speed + 0.02 * pull, angle + 0.02 * turning, turning + 0.02 * twist])
    return state, abs(state[0]) > 2.4 or abs(state[2]) > 0.21


def log_probabilities(logits):
    logits = logits - logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def slopes(logits, actions, advantages, before):
    """Of each row's -min(r A, clip(r) A) - ENTROPY H by its logits; r = p / p before of the action that was taken."""
    logs, rows = log_probabilities(logits), np.arange(len(logits))
    ratio, p = np.exp(logs[rows, actions] - before), np.exp(logs)
    clipped = np.where(advantages > 0, ratio > 1 + CLIP, ratio < 1 - CLIP)
    by_log = -advantages * ratio * ~clipped
    taken = np.eye(p.shape[1])[actions]
    return by_log[:, None] * (taken - p) + ENTROPY * p * (logs - (p * logs).sum(axis=1, keepdims=True))


def network(outputs, scale, seed):
    last = Dense(outputs, kernel_initializer=Scaled("orthogonal", scale))
    return Sequential(Dense(64), Tanh(), Dense(64), Tanh(), last).build(4, seed)


rng = np.random.default_rng(0)
policy, critic = network(2, 0.01, seed=1), network(1, 1.0, seed=2)
state, length, lengths = rng.uniform(-0.05, 0.05, 4), 0, []
for portion in range(PORTIONS):
    states, actions = np.zeros((STEPS, 4)), np.zeros(STEPS, int)
    before, rewards, ends = np.zeros(STEPS), np.ones(STEPS), np.zeros(STEPS, bool)
    for t in range(STEPS):  # act
        logs = log_probabilities(policy.logits(state[None]))[0]
        states[t], actions[t] = state, rng.random() > np.exp(logs[0])
        before[t], length = logs[actions[t]], length + 1
        state, fell = moved(state, actions[t])
        if not fell and length == LONGEST:  # it would have gone on
            rewards[t] += DISCOUNT * critic.predict(state[None])[0, 0]
        if fell or length == LONGEST:
            lengths.append(length)
            ends[t], length, state = True, 0, rng.uniform(-0.05, 0.05, 4)
    values = critic.predict(np.vstack([states, state])).ravel()
    advantages, later = np.zeros(STEPS), 0.0
    for t in reversed(range(STEPS)):  # generalised advantages (Schulman et al., 2016)
        surprise = rewards[t] + DISCOUNT * values[t + 1] * ~ends[t] - values[t]
        advantages[t] = later = surprise + DISCOUNT * TRACE * later * ~ends[t]
    returns = advantages + values[:-1]
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    optimizer = Adam(3e-4 * (1 - portion / PORTIONS), clip_norm=0.5)  # another rate; the moments stay
    for _ in range(EPOCHS):
        for rows in np.split(rng.permutation(STEPS), STEPS // BATCH):
            z = policy.logits(states[rows])
            gradient = slopes(z, actions[rows], advantages[rows], before[rows])
            policy.train_on_batch(states[rows], gradient, loss="given_gradient", optimizer=optimizer)
    options = {"loss": "squared_error", "optimizer": Adam(1e-3), "epochs": EPOCHS, "batch_size": BATCH}
    critic.fit(states, returns, keep_optimizer=True, **options)
    if portion % 5 == 4:
        print(f"after {(portion + 1) * STEPS:6,} steps: the last ten episodes took {np.mean(lengths[-10:]):.0f} steps")
