"""The naive twin: everything that fastmlp computes, once more, slowly, in float64 NumPy, straight from the formulas.

It shares no code with fastmlp: the tests hold the product to it. It reads only specifications (`Dense(3).use_bias`), so
a declaration's own formulas are checked too: derivatives here are functions of the input z, whatever fastmlp takes.

Letters: n rows, K outputs; X (n, n_in), W (n_in, n_out), b (n_out,); dz is the loss's gradient with respect to z.
"""

from dataclasses import dataclass, field

import numpy as np
import scipy.sparse
import scipy.special


def sigmoid(z):
    """1 / (1 + exp(-z)) = exp(-log(1 + exp(-z))), without overflow; relative error |z| 1e-16."""
    return np.exp(-np.logaddexp(0, -z))


def normal_pdf(z):
    return np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)


def softplus(z):
    return np.logaddexp(0, z)


def gelu_tanh(z):
    return z / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))


def gelu_tanh_derivative(z):
    inner = np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)
    sech2 = 1 / np.cosh(np.clip(inner, -300, 300)) ** 2
    return (1 + np.tanh(inner)) / 2 + z / 2 * sech2 * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * z**2)


def mish_derivative(z):
    t = np.tanh(softplus(z))
    return t + z * (1 - t**2) * sigmoid(z)


SELU_SCALE, SELU_ALPHA = 1.0507009873554804934, 1.6732632423543772848

# name -> (f(z), f'(z)) with the default parameter
ACTIVATIONS = {
    "leaky_relu": (lambda z: np.where(z > 0, z, 0.01 * z), lambda z: np.where(z > 0, 1.0, 0.01)),
    "elu": (lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))), lambda z: np.exp(np.minimum(z, 0))),
    "selu": (
        lambda z: SELU_SCALE * np.where(z > 0, z, SELU_ALPHA * np.expm1(np.minimum(z, 0))),
        lambda z: SELU_SCALE * np.where(z > 0, 1, SELU_ALPHA * np.exp(np.minimum(z, 0))),
    ),
    "gelu": (
        lambda z: z * scipy.special.ndtr(z),
        lambda z: scipy.special.ndtr(z) + z * normal_pdf(z),
    ),
    "gelu_tanh": (gelu_tanh, gelu_tanh_derivative),
    "silu": (lambda z: z * sigmoid(z), lambda z: sigmoid(z) + z * sigmoid(z) * sigmoid(-z)),
    "mish": (lambda z: z * np.tanh(softplus(z)), mish_derivative),
    "softplus": (softplus, sigmoid),
    "sine": (np.sin, np.cos),
    "hard_threshold": (lambda z: np.heaviside(z, 1.0), np.zeros_like),
    "identity": (lambda z: z, lambda z: np.ones_like(z)),
    "relu": (lambda z: np.maximum(z, 0), lambda z: np.where(z > 0, 1.0, 0.0)),
    "tanh": (np.tanh, lambda z: 1 / np.cosh(np.clip(z, -300, 300)) ** 2),
    "logistic": (sigmoid, lambda z: sigmoid(z) * sigmoid(-z)),
}


def softmax_cross_entropy(z, y):
    """l_i = -sum_k y_ik log softmax(z_i)_k; integer codes y (n,) stand for one-hot rows."""
    if y.ndim == 1:
        y = np.eye(z.shape[1])[y]
    shifted = z - z.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return -(y * log_p).sum(1), y.sum(1, keepdims=True) * np.exp(log_p) - y


def binary_cross_entropy(z, y, pos_weight=1.0):
    """l_i = -sum_k w y_ik log p_ik + (1 - y_ik) log(1 - p_ik), p = sigmoid(z)."""
    y = y.reshape(z.shape)
    value = np.where(y > 0, pos_weight * y * np.logaddexp(0, -z), 0) + np.where(y < 1, (1 - y) * np.logaddexp(0, z), 0)
    return value.sum(1), (1 - y) * sigmoid(z) - pos_weight * y * sigmoid(-z)


def squared_error(z, y):
    """l_i = 1/2 sum_k (z_ik - y_ik)^2."""
    y = y.reshape(z.shape)
    return 0.5 * ((z - y) ** 2).sum(1), z - y


# name -> function (z, y) -> (l of shape (n,), dl/dz of shape (n, K))
LOSSES = {f.__name__: f for f in (softmax_cross_entropy, binary_cross_entropy, squared_error)}


def softplus(z):
    return np.logaddexp(0, z)


def absolute_error(z, y):
    return np.abs(z - y).sum(1), np.sign(z - y)


def huber(z, y, delta=1.0):
    d = z - y
    rows = np.where(np.abs(d) <= delta, d**2 / 2, delta * (np.abs(d) - delta / 2))
    return rows.sum(1), np.clip(d, -delta, delta)


def poisson(z, y):
    """Half the deviance: y log(y / m) - y + m, m = exp(z)."""
    return scipy.special.kl_div(y, np.exp(z)).sum(1), np.exp(z) - y


def negative_binomial(z, y, dispersion=1.0):
    """Minus the log-probability of counts with mean m and 1/d failures, less what does not depend on m."""
    m, r = np.exp(z), 1 / dispersion
    return (-y * np.log(m / (m + r)) - r * np.log(r / (m + r))).sum(1), (m - y) * r / (m + r)


def focal(z, y, gamma=2.0, alpha=None):
    p, q = sigmoid(z), sigmoid(-z)
    yes, no = (y, 1 - y) if alpha is None else (alpha * y, (1 - alpha) * (1 - y))
    rows = -yes * q**gamma * np.log(p) - no * p**gamma * np.log(q)
    gradient = yes * (gamma * p * q**gamma * np.log(p) - q ** (gamma + 1))
    return rows.sum(1), gradient + no * (p ** (gamma + 1) - gamma * q * p**gamma * np.log(q))


def quantile(z, y, quantiles=(0.1, 0.5, 0.9)):
    q = np.asarray(quantiles)
    return np.maximum(q * (y - z), (q - 1) * (y - z)).sum(1), (z > y) - q


def gaussian(z, y, min_variance=1e-6):
    m = y.shape[1]
    d, v = z[:, :m] - y, softplus(z[:, m:]) + min_variance
    rows = 0.5 * (np.log(v) + d**2 / v)
    return rows.sum(1), np.hstack([d / v, 0.5 * (1 / v - d**2 / v**2) * sigmoid(z[:, m:])])


def hinge(z, y):
    """Crammer and Singer's; y holds codes (n, 1), or 0 and 1 for one output."""
    if z.shape[1] == 1:
        t = np.where(y > 0, 1, -1)
        return np.maximum(1 - t * z, 0).sum(1), np.where(t * z < 1, -t, 0)
    rows, gradient = np.zeros(len(z)), np.zeros(z.shape)
    for i, c in enumerate(y.ravel().astype(int)):
        rival = np.delete(np.arange(z.shape[1]), c)[np.delete(z[i], c).argmax()]
        rows[i] = max(0, 1 + z[i, rival] - z[i, c])
        gradient[i, [rival, c]] = (1, -1) if rows[i] > 0 else (0, 0)
    return rows, gradient


def softmax_focal(z, y, gamma=2.0):
    """-(1 - p_y)^gamma log p_y by the chain rule through the softmax."""
    p = scipy.special.softmax(z, axis=1)
    mine = np.eye(z.shape[1])[y.ravel().astype(int)]
    own = (p * mine).sum(1, keepdims=True)
    slope = gamma * (1 - own) ** (gamma - 1) * np.log(own) - (1 - own) ** gamma / own  # dl/dp_y
    return (-((1 - own) ** gamma) * np.log(own)).ravel(), slope * own * (mine - p)


def ordinal(z, y):
    """-log of the class's probability, which is the difference of two cumulative ones."""
    above = np.hstack([np.ones((len(z), 1)), np.cumprod(sigmoid(z), axis=1), np.zeros((len(z), 1))])
    c = y.ravel().astype(int)
    k, i = np.arange(z.shape[1]), np.arange(len(z))
    rows = -np.log(above[i, c] - above[i, c + 1])
    return rows, np.where(k <= y.reshape(-1, 1), sigmoid(z) - (k < y.reshape(-1, 1)), 0.0)


def contrastive(z, y, margin=1.0):
    """Mean over the pairs (i, j) of each row, and the gradient of the sum over rows: pair by pair."""
    rows, gradient, n = np.zeros(len(z)), np.zeros(z.shape), len(z)
    for i in range(n):
        for j in range(n):
            d = np.linalg.norm(z[i] - z[j])
            if i == j:
                continue
            if y[i] == y[j]:
                rows[i] += d**2 / 2 / (n - 1)
                slope = d
            else:
                rows[i] += max(0, margin - d) ** 2 / 2 / (n - 1)
                slope = -max(0, margin - d)
            if d > 0:
                gradient[i] += slope * (z[i] - z[j]) / d / (n - 1)
                gradient[j] += slope * (z[j] - z[i]) / d / (n - 1)
    return rows, gradient


def triplet(z, y, margin=1.0):
    """The hardest triplet of each anchor, out of all there are; the gradient of the sum over rows."""
    rows, gradient, n = np.zeros(len(z)), np.zeros(z.shape), len(z)
    distance = np.linalg.norm(z[:, None] - z, axis=2)
    for a in range(n):
        triplets = [
            (margin + distance[a, p] - distance[a, m], p, m)
            for p in range(n)
            for m in range(n)
            if p != a and y[p] == y[a] and y[m] != y[a]
        ]
        if triplets and max(triplets)[0] > 0:
            rows[a], p, m = max(triplets)
            for other, sign in ((p, 1), (m, -1)):
                if distance[a, other] > 0:
                    push = sign * (z[a] - z[other]) / distance[a, other]
                    gradient[a] += push
                    gradient[other] -= push
    return rows, gradient


LOSSES_ACROSS_ROWS = {f.__name__: f for f in (contrastive, triplet)}


def ranknet(z, y):
    """Of one query, pair by pair."""
    pairs = [np.log1p(np.exp(-(z[i] - z[j]))) for i in range(len(z)) for j in range(len(z)) if y[i] > y[j]]
    return np.mean(pairs) if pairs else 0.0


def listnet(z, y):
    """Of one query, by its definition."""
    p, q = np.exp(y) / np.exp(y).sum(), np.exp(z) / np.exp(z).sum()
    return -sum(p[i] * np.log(q[i]) for i in range(len(z)))


LOSSES_OF_QUERIES = {"ranknet": ranknet, "listnet": listnet}


def given_gradient(z, y):
    return (y * z).sum(1), y


# as LOSSES, with targets of their own (n, columns); see test_losses.py
_MORE = (
    absolute_error,
    huber,
    poisson,
    negative_binomial,
    focal,
    softmax_focal,
    ordinal,
    quantile,
    gaussian,
    hinge,
    given_gradient,
)
MORE_LOSSES = {f.__name__: f for f in _MORE}


def sgd(p, g, slots, t, learning_rate, momentum, nesterov):
    """v = mu v - lr g; p += v, or with Nesterov p += mu v - lr g."""
    if not slots:
        slots.append(np.zeros_like(p))
    v = slots[0] = momentum * slots[0] - learning_rate * g
    return p + (momentum * v - learning_rate * g if nesterov else v)


def adam(p, g, slots, t, learning_rate, beta_1, beta_2, epsilon):
    """Kingma and Ba, algorithm 1."""
    if not slots:
        slots += [np.zeros_like(p), np.zeros_like(p)]
    slots[0] = beta_1 * slots[0] + (1 - beta_1) * g
    slots[1] = beta_2 * slots[1] + (1 - beta_2) * g**2
    m_hat, v_hat = slots[0] / (1 - beta_1**t), slots[1] / (1 - beta_2**t)
    return p - learning_rate * m_hat / (np.sqrt(v_hat) + epsilon)


def amsgrad(p, g, slots, t, learning_rate, beta_1, beta_2, epsilon):
    """Reddi, Kale and Kumar, with Adam's corrections, as PyTorch."""
    if not slots:
        slots += [np.zeros_like(p)] * 3
    slots[0] = beta_1 * slots[0] + (1 - beta_1) * g
    slots[1] = beta_2 * slots[1] + (1 - beta_2) * g**2
    slots[2] = np.maximum(slots[1], slots[2])
    m_hat, v_hat = slots[0] / (1 - beta_1**t), slots[2] / (1 - beta_2**t)
    return p - learning_rate * m_hat / (np.sqrt(v_hat) + epsilon)


def adamax(p, g, slots, t, learning_rate, beta_1, beta_2, epsilon):
    """Kingma and Ba, algorithm 2, with PyTorch's epsilon."""
    if not slots:
        slots += [np.zeros_like(p)] * 2
    slots[0] = beta_1 * slots[0] + (1 - beta_1) * g
    slots[1] = np.maximum(beta_2 * slots[1], np.abs(g) + epsilon)
    return p - learning_rate / (1 - beta_1**t) * slots[0] / slots[1]


def adadelta(p, g, slots, t, learning_rate, rho, epsilon):
    """Zeiler, algorithm 1."""
    if not slots:
        slots += [np.zeros_like(p)] * 2
    slots[0] = rho * slots[0] + (1 - rho) * g**2
    change = np.sqrt(slots[1] + epsilon) / np.sqrt(slots[0] + epsilon) * g
    slots[1] = rho * slots[1] + (1 - rho) * change**2
    return p - learning_rate * change


def rprop(p, g, slots, t, learning_rate, eta_minus, eta_plus, min_step, max_step):
    """Riedmiller and Braun, with Igel and Huesken's forgotten gradients."""
    if not slots:
        slots += [np.zeros_like(p), np.full_like(p, learning_rate)]
    agreement = np.sign(g) * np.sign(slots[0])
    factor = np.select([agreement > 0, agreement < 0], [eta_plus, eta_minus], 1.0)
    slots[1] = np.clip(slots[1] * factor, min_step, max_step)
    slots[0] = np.where(agreement < 0, 0.0, g)
    return p - np.sign(slots[0]) * slots[1]


def nadam(p, g, slots, t, learning_rate, beta_1, beta_2, epsilon, momentum_decay):
    """Dozat, with PyTorch's decaying momentum."""
    if not slots:
        slots += [np.zeros_like(p), np.zeros_like(p), 1.0]
    mu, following = (beta_1 * (1 - 0.5 * 0.96 ** (k * momentum_decay)) for k in (t, t + 1))
    slots[0] = beta_1 * slots[0] + (1 - beta_1) * g
    slots[1] = beta_2 * slots[1] + (1 - beta_2) * g**2
    slots[2] *= mu
    m_hat = following * slots[0] / (1 - slots[2] * following) + (1 - mu) * g / (1 - slots[2])
    return p - learning_rate * m_hat / (np.sqrt(slots[1] / (1 - beta_2**t)) + epsilon)


def adagrad(p, g, slots, t, learning_rate, epsilon):
    """Duchi, Hazan and Singer, with a diagonal matrix."""
    if not slots:
        slots.append(np.zeros_like(p))
    slots[0] = slots[0] + g**2
    return p - learning_rate * g / (np.sqrt(slots[0]) + epsilon)


def rmsprop(p, g, slots, t, learning_rate, rho, momentum, epsilon, centered):
    """Tieleman and Hinton; Graves where centered."""
    if not slots:
        slots += [np.zeros_like(p)] * 3
    slots[0] = rho * slots[0] + (1 - rho) * g**2
    slots[1] = rho * slots[1] + (1 - rho) * g
    spread = slots[0] - slots[1] ** 2 if centered else slots[0]
    slots[2] = momentum * slots[2] + g / (np.sqrt(np.maximum(spread, 0)) + epsilon)
    return p - learning_rate * slots[2]


def lion(p, g, slots, t, learning_rate, beta_1, beta_2):
    """Chen et al., algorithm 2, without the decay."""
    if not slots:
        slots.append(np.zeros_like(p))
    p = p - learning_rate * np.sign(beta_1 * slots[0] + (1 - beta_1) * g)
    slots[0] = beta_2 * slots[0] + (1 - beta_2) * g
    return p


# name -> function (p, g, slots, t, **the optimiser's fields) -> new p; fills and replaces `slots`
OPTIMIZERS = {
    "sgd": sgd,
    "adam": adam,
    "adamw": adam,
    "amsgrad": amsgrad,
    "adamax": adamax,
    "nadam": nadam,
    "adadelta": adadelta,
    "adagrad": adagrad,
    "rmsprop": rmsprop,
    "rprop": rprop,
    "lion": lion,
}


def update(optimizer, p, g, slots, t, learning_rate=None, is_weight=True):
    """One step of any optimiser: clipping, decay of weights, then the rule."""
    fields = dict(vars(optimizer))
    clip_value, decay = fields.pop("clip_value"), fields.pop("weight_decay", 0.0)
    del fields["clip_norm"], fields["ema_decay"]  # of all parameters together: see Twin
    if learning_rate is not None:
        fields["learning_rate"] = learning_rate
    if clip_value is not None:
        g = np.clip(g, -clip_value, clip_value)
    if is_weight:
        p = p * (1 - fields["learning_rate"] * decay)
    return OPTIMIZERS[optimizer.name](p, g, slots, t, **fields)


def as_float64(X):
    """X as a dense float64 array, whatever it was."""
    return np.asarray(X.toarray() if scipy.sparse.issparse(X) else X, np.float64)


BITS = {"tf32": 10, "bf16": 7}  # behind the point


def rounded(x, precision):
    """The nearest numbers that TF32 has, ties away from 0, or BF16, ties to even; numbers that are not tiny."""
    if precision not in BITS:
        return np.asarray(x, np.float64)
    mantissa, exponent = np.frexp(np.asarray(x, np.float64))
    mantissa = np.ldexp(mantissa, BITS[precision] + 1)
    whole = np.rint(mantissa) if precision == "bf16" else np.copysign(np.floor(np.abs(mantissa) + 0.5), mantissa)
    return np.ldexp(whole, exponent - BITS[precision] - 1)


def dense_forward(X, W, b):
    """z_ij = sum_k X_ik W_kj + b_j."""
    return np.einsum("ik,kj->ij", X, W) + b


def dense_backward(X, W, dz):
    """Gradients (dX, dW, db) of a dense layer from dz."""
    return np.einsum("ij,kj->ik", dz, W), np.einsum("ik,ij->kj", X, dz), dz.sum(0)


def one_hot(layer, X):
    """The columns of codes as rows of 0 and 1, one matrix (n, rows of the table) for each, and the other columns."""
    n, width = X.shape
    columns = range(width) if layer.columns is None else layer.columns
    shared = isinstance(layer.input_dim, int)
    rows = layer.input_dim if shared else sum(layer.input_dim)
    chosen, first = [], 0
    for k, column in enumerate(columns):
        choice = np.zeros((n, rows))
        choice[np.arange(n), X[:, column].astype(int) + first] = 1
        chosen.append(choice)
        first += 0 if shared else layer.input_dim[k]
    return chosen, X[:, [column for column in range(width) if column not in columns]]


def forward(layers, parameters, X):
    """Logits, and the input of every layer.

    `parameters` is the dictionary of `Sequential.parameters`: "dense_0.weight", "dense_0.bias", ...
    """
    tape, a, n_dense = [], as_float64(X), 0
    for layer in layers:
        tape.append(a)
        kind = type(layer).__name__
        if kind == "Dense":
            W = parameters[f"dense_{n_dense}.weight"]
            a = dense_forward(a, W, parameters.get(f"dense_{n_dense}.bias", np.zeros(W.shape[1])))
            n_dense += 1
        elif kind == "Embedding":
            chosen, others = one_hot(layer, a)
            a = np.hstack([choice @ parameters["embedding_0.weight"] for choice in chosen] + [others])
        elif kind == "Rescaling":
            a = a * layer.scale + layer.offset
        elif kind == "ActivityRegularization":
            pass
        else:
            a = ACTIVATIONS[layer.name][0](a)
    return a, tape


def activity_penalties(layers, tape):
    """What layers add to the loss of each row, from the inputs that `forward` gives."""
    total = np.zeros(len(tape[0]))
    for layer, a in zip(layers, tape, strict=True):
        if type(layer).__name__ == "ActivityRegularization":
            total += (layer.l1 * np.abs(a) + layer.l2 * a**2).sum(1)
    return total


def loss_and_gradients(layers, parameters, X, y, loss, sample_weight=None, l2=0.0):
    """Loss of the rows with the penalties of layers, without that of l2, and the gradients of
    loss + l2 / (2 sum w) sum ||W||^2.

    A batch whose weights are all zero has loss 0 and no gradient.
    """
    parameters = {name: np.asarray(value, np.float64) for name, value in parameters.items()}
    z, tape = forward(layers, parameters, X)
    w = np.ones(len(z)) if sample_weight is None else np.asarray(sample_weight, np.float64)
    total = w.sum()
    share = w / total if total > 0 else np.zeros_like(w)
    rows, dz = LOSSES[loss](z, np.asarray(y))
    value, d = share @ (rows + activity_penalties(layers, tape)), share[:, None] * dz

    gradients, n_dense = {}, sum(type(layer).__name__ == "Dense" for layer in layers)
    for layer, a in zip(reversed(layers), reversed(tape), strict=True):
        kind = type(layer).__name__
        if kind == "Dense":
            n_dense -= 1
            name = f"dense_{n_dense}"
            W = parameters[f"{name}.weight"]
            d, dW, db = dense_backward(a, W, d)
            value += layer.l1 * np.abs(W).sum() + layer.l2 * (W**2).sum()
            dW = dW + layer.l1 * np.sign(W) + 2 * layer.l2 * W
            gradients[f"{name}.weight"] = dW + (l2 / total * W if total > 0 else 0)
            if f"{name}.bias" in parameters:
                gradients[f"{name}.bias"] = db
        elif kind == "Embedding":
            parts, d = np.split(d, np.arange(1, 1 + len(one_hot(layer, a)[0])) * layer.output_dim, axis=1), None
            pairs = zip(one_hot(layer, a)[0], parts, strict=False)
            gradients["embedding_0.weight"] = sum(choice.T @ part for choice, part in pairs)
        elif kind == "Rescaling":
            d = d * layer.scale
        elif kind == "ActivityRegularization":
            d = d + share[:, None] * (layer.l1 * np.sign(a) + 2 * layer.l2 * a)
        else:
            d = d * ACTIVATIONS[layer.name][1](a)
    return value, gradients


@dataclass
class Twin:
    """A whole training run from given parameters over given batches of rows.

    >>> twin = Twin(model.layers, model.parameters, "squared_error", SGD(0.1))      # doctest: +SKIP
    >>> twin.epoch(X, y, batches=[[0, 1], [2]])                                     # doctest: +SKIP
    """

    layers: tuple
    parameters: dict
    loss: str
    optimizer: object
    l2: float = 0.0
    t: int = 0
    slots: dict = field(default_factory=dict)

    def __post_init__(self):
        self.parameters = {name: np.array(value, np.float64) for name, value in self.parameters.items()}
        self.seen = []  # the parameters after each step, of which the average is made

    def average(self):
        """The exponential moving average over all steps, as one weighted mean."""
        shares = self.optimizer.ema_decay ** np.arange(len(self.seen))[::-1]
        return {name: np.average([p[name] for p in self.seen], 0, shares) for name in self.parameters}

    def step(self, X, y, sample_weight=None, learning_rate=None):
        """One update from all the rows given; returns their mean loss before it."""
        self.t += 1
        loss, gradients = loss_and_gradients(self.layers, self.parameters, X, y, self.loss, sample_weight, self.l2)
        kinds = {name: name.split("_")[0].capitalize() for name in gradients}  # "dense_0.bias"
        of_kind = {kind: [x for x in self.layers if type(x).__name__ == kind] for kind in kinds.values()}
        layer_of = {name: of_kind[kind][int(name.split(".")[0].split("_")[1])] for name, kind in kinds.items()}
        gradients = {name: g for name, g in gradients.items() if layer_of[name].trainable}
        if self.optimizer.clip_norm is not None:
            norm = np.sqrt(sum((g**2).sum() for g in gradients.values()))
            gradients = {name: g * min(1, self.optimizer.clip_norm / (norm + 1e-6)) for name, g in gradients.items()}
        rate = self.optimizer.learning_rate if learning_rate is None else learning_rate
        for name, g in gradients.items():
            p, slots, layer = self.parameters[name], self.slots.setdefault(name, []), layer_of[name]
            weight = name.endswith(".weight")
            p = update(self.optimizer, p, g, slots, self.t, rate * layer.learning_rate_multiplier, weight)
            if weight and layer.max_norm is not None:
                norms = np.linalg.norm(p, axis=0)
                p = p * np.minimum(1, layer.max_norm / np.maximum(norms, 1e-300))
            self.parameters[name] = p
        if self.optimizer.ema_decay is not None:
            self.seen.append(dict(self.parameters))
        return loss

    def epoch(self, X, y, batches, sample_weight=None):
        """One update for each batch of row numbers; returns the mean loss of all rows, each seen before its update."""
        X, y = as_float64(X), np.asarray(y)
        w = np.ones(len(X)) if sample_weight is None else np.asarray(sample_weight, np.float64)
        losses = [self.step(X[rows], y[rows], w[rows]) for rows in batches]
        return np.average(losses, weights=[w[rows].sum() for rows in batches])


def shuffled(n, seed, epoch):
    """The order of n rows in an epoch: Fisher and Yates' shuffle with the bits of SplitMix64."""
    bits = 2**64 - 1

    def mix(z):
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & bits
        z = (z ^ z >> 27) * 0x94D049BB133111EB & bits
        return z ^ z >> 31

    key = int(np.random.SeedSequence(seed, spawn_key=(1,)).generate_state(1, np.uint64)[0])
    order, state = list(range(n)), mix(key ^ mix(epoch))
    for i in range(n - 1, 0, -1):
        state = state + 0x9E3779B97F4A7C15 & bits
        j = int((mix(state) >> 11) / 2**53 * (i + 1))
        order[i], order[j] = order[j], order[i]
    return np.array(order, np.int64)


def in_order(n, batch_size):
    """The batches of an unshuffled epoch: the last one may be smaller."""
    return [np.arange(start, min(start + batch_size, n)) for start in range(0, n, batch_size)]


def relative_error(actual, expected):
    """max |actual - expected| over the largest |expected|: blind to how small single elements are.

    Sums of many terms cancel, so an element far below the largest carries the rounding of the large ones.
    """
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    difference = np.abs(actual - expected).max(initial=0)
    return difference / max(np.abs(expected).max(initial=0), np.finfo(np.float64).tiny)
