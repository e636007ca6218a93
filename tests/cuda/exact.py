"""Steps whose products are exact, so that what they are rounded to is known to the last bit."""

import numpy as np
import reference

from fastmlp import SGD, Dense, ReLU, Sequential
from fastmlp.training import Training


def whole_numbers(rng, *shape, scale=1.0):
    return rng.integers(-20, 21, shape) * scale


def assert_a_step_is_the_twins(precision, widths, n, monkeypatch, tolerance=1e-6):
    """A step from small whole numbers beside the twin's with rounded factors: its loss, and the parameters after it.
    The loss of an evaluation is that of the twin whose factors are not rounded.

    What is rounded are sums that float32 can hold, but for a few: nearly always the same numbers. n and the last width
    are powers of two.
    """
    rng = np.random.default_rng(0)
    X, y = whole_numbers(rng, n, widths[0]).astype(np.float32), whole_numbers(rng, n, widths[-1]).astype(np.float32)
    layers = [layer for width in widths[1:] for layer in (Dense(width), ReLU())][:-1]
    model = Sequential(*layers).build(widths[0])
    parameters = {name: whole_numbers(rng, *array.shape, scale=2.0**-4) for name, array in model.parameters.items()}
    model.set_parameters(parameters)
    optimizer = SGD(2.0**-12)
    options = {"loss": "squared_error", "optimizer": optimizer, "batch_size": n, "shuffle": False}
    with Training(model, X, y, device="cuda", precision=precision, **options) as training:
        evaluated, losses = training.loss_of(X, y), training.run(1)
    exact, twin = (reference.Twin(model.layers, parameters, "squared_error", optimizer) for _ in range(2))
    loss = exact.step(X, y)
    of = {name: getattr(reference, name) for name in ("dense_forward", "dense_backward")}
    rounded = lambda array: reference.rounded(array, precision)  # noqa: E731

    def forward(X, W, b):
        return of["dense_forward"](rounded(X), rounded(W), b)

    def backward(X, W, dz):
        return *of["dense_backward"](rounded(X), rounded(W), rounded(dz))[:2], dz.sum(0)

    monkeypatch.setattr(reference, "dense_forward", forward)
    monkeypatch.setattr(reference, "dense_backward", backward)
    np.testing.assert_allclose(losses[0], twin.step(X, y), rtol=tolerance)
    np.testing.assert_allclose(evaluated, loss, rtol=1e-6)
    for name, array in twin.parameters.items():
        seen = not np.allclose(array, exact.parameters[name], rtol=1e-5, atol=1e-6)
        assert seen == (precision in reference.BITS)  # rounding can be seen
        np.testing.assert_allclose(model.parameters[name], array, rtol=tolerance, atol=tolerance, err_msg=name)
