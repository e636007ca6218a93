"""The contenders, each doing the same updates its own best way: Adam, float32, equal parameters, equal batches.

A contender is built from (network, X, y, parameters, n_threads, shuffle); `run(orders)` makes one epoch for each order
of rows in `orders`, an int array (epochs, rows); `parameters()` gives [(W, b), ...] back;
`set_rate(rate)` sets the learning rate of later runs. Those who shuffle by
themselves (fastmlp, scikit-learn) take only the number of epochs from it. Who is not installed raises ImportError.
"""

import numpy as np

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


class FastMLP:
    """The library under test."""

    device, precision = "cpu", None

    def __init__(self, network, X, y, parameters, n_threads=None, shuffle=True):
        from fastmlp import Adam, Dense, Sequential, activations
        from fastmlp.training import Training

        activation = activations.get(network.activation)
        layers = [layer for units in network.widths[1:] for layer in (Dense(units), activation)][:-1]
        self.model = Sequential(*layers, dtype="float32").build(X.shape[1], seed=0)
        names = {}
        for layer, (W, b) in enumerate(parameters):
            names[f"dense_{layer}.weight"], names[f"dense_{layer}.bias"] = W, b
        self.model.set_parameters(names)
        optimizer = Adam(network.learning_rate, BETA_1, BETA_2, EPSILON)
        options = {"batch_size": network.batch_size, "n_threads": n_threads, "shuffle": shuffle}
        if self.device != "cpu":  # which old revisions do not know
            options["device"] = self.device
        if self.precision is not None:
            options["precision"] = self.precision
        self.training = Training(self.model, X, y, loss=network.loss, optimizer=optimizer, **options)
        self.training.__enter__()

    def run(self, orders):
        self.training.run(epochs=len(orders))

    def set_rate(self, rate):
        self.training.learning_rate = rate

    def parameters(self):
        self.training.save_parameters()
        values = self.model.parameters
        return [(values[f"dense_{i}.weight"], values[f"dense_{i}.bias"]) for i in range(len(values) // 2)]

    def close(self):
        self.training.__exit__(None, None, None)


class PyTorch:
    """Eager PyTorch as its users write it, at its best: data preloaded, no DataLoader, fused Adam, loss not read."""

    def __init__(self, network, X, y, parameters, n_threads=None, shuffle=True):
        import torch

        self.torch, self.batch_size, self.n_threads = torch, network.batch_size, n_threads or torch.get_num_threads()
        activation = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}[network.activation]
        layers = [layer for shape in network.shapes for layer in (torch.nn.Linear(*shape), activation())][:-1]
        self.model = torch.nn.Sequential(*layers)
        self.linear = self.model[::2]
        with torch.no_grad():
            for layer, (W, b) in zip(self.linear, parameters, strict=True):
                layer.weight.copy_(torch.from_numpy(W.T.copy()))
                layer.bias.copy_(torch.from_numpy(b))
        outputs = network.widths[-1]
        if network.loss == "squared_error":
            self.loss = lambda z, target: torch.nn.functional.mse_loss(z, target) * (outputs / 2)
        else:
            self.loss = torch.nn.functional.cross_entropy
        self.X, self.y = torch.from_numpy(X), torch.from_numpy(y)
        options = {"lr": network.learning_rate, "betas": (BETA_1, BETA_2), "eps": EPSILON, "fused": True}
        self.optimizer = torch.optim.Adam(self.model.parameters(), **options)

    def run(self, orders):
        self.torch.set_num_threads(self.n_threads)
        X, y, optimizer, whole = self.X, self.y, self.optimizer, self.batch_size == len(self.X)
        for order in self.torch.from_numpy(orders):
            for rows in order.split(self.batch_size):
                optimizer.zero_grad(set_to_none=True)
                batch, target = (X, y) if whole else (X.index_select(0, rows), y.index_select(0, rows))
                self.loss(self.model(batch), target).backward()
                optimizer.step()

    def set_rate(self, rate):
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def parameters(self):
        return [(m.weight.detach().numpy().T.copy(), m.bias.detach().numpy().copy()) for m in self.linear]

    def close(self):
        pass


class CompiledPyTorch(PyTorch):
    """The same with forward pass, loss and backward pass compiled by `torch.compile`, which needs a C++ compiler."""

    def __init__(self, network, X, y, parameters, n_threads=None, shuffle=True):
        super().__init__(network, X, y, parameters, n_threads, shuffle)
        self.torch.set_num_threads(self.n_threads)  # what it compiles has this number in it
        model, loss = self.model, self.loss
        compiled = self.torch.compile(lambda batch, target: loss(model(batch), target))
        self.model, self.loss = lambda batch: batch, compiled


class JAX:
    """All epochs of a run as one compiled `lax.scan`: data and parameters on the device, parameters donated.

    XLA takes all the cores; it has no number of threads to set from here.
    """

    def __init__(self, network, X, y, parameters, n_threads=None, shuffle=True):
        import jax
        import jax.numpy as jnp

        whole, batch_size = network.batch_size == len(X), network.batch_size
        hidden = {"relu": jax.nn.relu, "tanh": jnp.tanh}[network.activation]

        def loss(parameters, X, y):
            for W, b in parameters[:-1]:
                X = hidden(X @ W + b)
            z = X @ parameters[-1][0] + parameters[-1][1]
            if network.loss == "squared_error":
                return 0.5 * ((z - y) ** 2).sum(1).mean()
            return -jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], axis=1, mode="promise_in_bounds").mean()

        def adam(p, g, m, v, t, rate):
            m, v = m + (1 - BETA_1) * (g - m), v + (1 - BETA_2) * (g * g - v)
            rate, correction = rate / (1 - BETA_1**t), 1 / (1 - BETA_2**t)
            return p - rate * m / (jnp.sqrt(v * correction) + EPSILON), m, v

        def step(state, rows, X, y):
            p, m, v, t, rate = state
            if not whole:
                X, y = (array.at[rows].get(mode="promise_in_bounds") for array in (X, y))
            g = jax.grad(loss)(p, X, y)
            updated = [adam(*leaves, t + 1.0, rate) for leaves in zip(*map(jax.tree.leaves, (p, g, m, v)), strict=True)]
            p, m, v = (jax.tree.unflatten(jax.tree.structure(p), leaves) for leaves in zip(*updated, strict=True))
            return (p, m, v, t + 1.0, rate), None

        def epochs(state, X, y, orders):
            return jax.lax.scan(lambda s, rows: step(s, rows, X, y), state, orders.reshape(-1, batch_size))[0]

        self.jax, self.X, self.y = jax, jnp.asarray(X), jnp.asarray(y)
        self.epochs = jax.jit(epochs, donate_argnums=0)
        p = [(jnp.array(W), jnp.array(b)) for W, b in parameters]
        zeros = lambda: jax.tree.map(jnp.zeros_like, p)  # noqa: E731
        self.state = (p, zeros(), zeros(), jnp.float32(0), jnp.float32(network.learning_rate))

    def run(self, orders):
        self.state = self.jax.block_until_ready(self.epochs(self.state, self.X, self.y, orders.astype(np.int32)))

    def set_rate(self, rate):
        self.state = (*self.state[:-1], self.jax.numpy.float32(rate))

    def parameters(self):
        return [(np.array(W), np.array(b)) for W, b in self.state[0]]

    def close(self):
        self.state = None


class ScikitLearn:
    """scikit-learn's own MLP in float32, an epoch a `partial_fit`.

    It has one logistic output for two classes; a third class that never comes, with a bias that rules it out, makes it
    do the same softmax as the others. Its Adam adds epsilon before the bias correction: other updates where gradients
    vanish, as much work.
    """

    uncorrected_epsilon = True

    def __init__(self, network, X, y, parameters, n_threads=None, shuffle=True):
        from sklearn.neural_network import MLPClassifier, MLPRegressor

        regression = network.loss == "squared_error"
        options = {"hidden_layer_sizes": network.widths[1:-1], "activation": network.activation, "alpha": 0.0}
        options |= {"batch_size": network.batch_size, "learning_rate_init": network.learning_rate, "shuffle": shuffle}
        self.estimator = (MLPRegressor if regression else MLPClassifier)(**options, random_state=0)
        self.X, self.y, self.n_outputs = X, y, network.widths[-1]
        n_classes = max(3, self.n_outputs)
        first = {} if regression else {"classes": np.arange(n_classes)}
        self.estimator.set_params(batch_size=1).partial_fit(X[:1], y[:1], **first)  # makes its arrays
        self.estimator.set_params(batch_size=network.batch_size)
        del self.estimator._optimizer  # starts anew, from these parameters:
        parameters = [(W.copy(), b.copy()) for W, b in parameters]
        if not regression and n_classes > self.n_outputs:
            W, b = parameters[-1]
            parameters[-1] = np.pad(W, ((0, 0), (0, 1))), np.append(b, np.float32(-1e9))
        self.estimator.coefs_, self.estimator.intercepts_ = map(list, zip(*parameters, strict=True))

    def run(self, orders):
        for _ in orders:
            self.estimator.partial_fit(self.X, self.y)

    def set_rate(self, rate):
        self.estimator.learning_rate_init = rate
        if hasattr(self.estimator, "_optimizer"):  # made by the first epoch
            self.estimator._optimizer.learning_rate_init = rate

    def parameters(self):
        values = list(zip(self.estimator.coefs_, self.estimator.intercepts_, strict=True))
        return [*values[:-1], (values[-1][0][:, : self.n_outputs], values[-1][1][: self.n_outputs])]

    def close(self):
        pass


class NumPy:
    """NumPy as a careful person writes it: one parameter vector, everything preallocated, BLAS for the products.

    From float64 parameters it computes in float64: the judge of all the others.
    """

    uncorrected_epsilon = False  # whether epsilon joins the square root before the bias correction, as in scikit-learn

    def __init__(self, network, X, y, parameters, n_threads=None, shuffle=True):
        self.network, self.batch_size, self.t, self.rate = network, network.batch_size, 0, network.learning_rate
        dtype = parameters[0][0].dtype
        self.X = X.astype(dtype, copy=False)
        self.y = (y if network.loss == "squared_error" else np.eye(network.widths[-1])[y]).astype(dtype)
        self.p = np.concatenate([array.ravel() for layer in parameters for array in layer])
        self.g, self.m, self.v, self.scratch = (np.zeros_like(self.p) for _ in range(4))
        self.layers, self.gradients = (self.views(vector) for vector in (self.p, self.g))
        self.a = [np.empty((self.batch_size, width), dtype) for width in network.widths]
        self.d = [np.empty_like(a) for a in self.a]
        self.target = np.empty_like(self.d[-1])

    def views(self, vector):
        views, at = [], 0
        for n_in, n_out in self.network.shapes:
            W, b = np.split(vector[at : at + (n_in + 1) * n_out], [n_in * n_out])
            views.append((W.reshape(n_in, n_out), b))
            at += (n_in + 1) * n_out
        return views

    def run(self, orders):
        for order in orders:
            for start in range(0, len(order), self.batch_size):
                self.step(order[start : start + self.batch_size])

    def step(self, rows):
        a, d, last, relu = self.a, self.d, len(self.layers) - 1, self.network.activation == "relu"
        if self.batch_size == len(self.X):
            a[0], target = self.X, self.y
        else:
            self.X.take(rows, axis=0, out=a[0], mode="clip")  # the default mode would buffer
            target = self.y.take(rows, axis=0, out=self.target, mode="clip")
        for i, (W, b) in enumerate(self.layers):
            np.matmul(a[i], W, out=a[i + 1])
            a[i + 1] += b
            if i < last:
                np.maximum(a[i + 1], 0, out=a[i + 1]) if relu else np.tanh(a[i + 1], out=a[i + 1])
        z, dz = a[-1], d[-1]
        if self.network.loss == "softmax_cross_entropy":
            z -= z.max(1, keepdims=True)
            np.exp(z, out=z)
            z /= z.sum(1, keepdims=True)
        np.subtract(z, target, out=dz)
        dz /= len(rows)
        for i in range(last, -1, -1):
            W, (dW, db) = self.layers[i][0], self.gradients[i]
            np.matmul(a[i].T, d[i + 1], out=dW)
            d[i + 1].sum(0, out=db)
            if i:
                np.matmul(d[i + 1], W.T, out=d[i])
                if relu:
                    d[i] *= a[i] > 0
                else:
                    np.multiply(a[i], a[i], out=a[i])
                    np.subtract(1, a[i], out=a[i])
                    d[i] *= a[i]
        self.adam()

    def adam(self):
        self.t += 1
        p, g, m, v, s = self.p, self.g, self.m, self.v, self.scratch
        m *= BETA_1
        np.multiply(g, 1 - BETA_1, out=s)
        m += s
        v *= BETA_2
        np.multiply(g, g, out=s)
        s *= 1 - BETA_2
        v += s
        np.multiply(v, 1 / (1 - BETA_2**self.t), out=s)
        np.sqrt(s, out=s)
        s += EPSILON / np.sqrt(1 - BETA_2**self.t) if self.uncorrected_epsilon else EPSILON
        np.divide(m, s, out=s)
        s *= self.rate / (1 - BETA_1**self.t)
        p -= s

    def set_rate(self, rate):
        self.rate = rate

    def parameters(self):
        return [(W.copy(), b.copy()) for W, b in self.layers]

    def close(self):
        pass


# label -> (class, n_threads); the label's first word is what --peers names.
CONTENDERS = {
    "fastmlp 1": (FastMLP, 1),
    "fastmlp 2": (FastMLP, 2),
    "fastmlp auto": (FastMLP, None),
    "torch 1": (PyTorch, 1),
    "torch 2": (PyTorch, 2),
    "torch.compile": (CompiledPyTorch, None),
    "jax": (JAX, None),
    "numpy": (NumPy, None),
    "sklearn": (ScikitLearn, None),
}
