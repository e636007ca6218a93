"""One step of learning by one neuron, by hand and by fastmlp: z = w x + b with x = 2, w = 0.5, b = 0.5 and target 1.

By hand the loss is (z - y)^2, as Keras and PyTorch count. fastmlp's "squared_error" is half of it, so its gradient is
half as large too, and twice the learning rate makes the same step.
"""

from fastmlp import SGD, Dense, Sequential

x, y, w, b, rate = 2.0, 1.0, 0.5, 0.5, 0.1
z = w * x + b
loss = (z - y) ** 2
gradient = 2 * (z - y) * x
print(f"by hand: forward {z}, loss {loss}, gradient {gradient}, new weight {w - rate * gradient:.1f}")
assert (z, loss, gradient) == (1.5, 0.25, 2.0)

model = Sequential(Dense(1), dtype="float64").build(1)
model.set_parameters({"dense_0.weight": [[w]], "dense_0.bias": [b]})
forward = model.predict([[x]]).item()
half_loss, gradients = model.gradients([[x]], [y], "squared_error")
half_gradient = gradients["dense_0.weight"].item()
model.fit([[x]], [y], loss="squared_error", optimizer=SGD(2 * rate), epochs=1, batch_size=1, verbose=0)
weight = model.parameters["dense_0.weight"].item()
print(f"fastmlp: forward {forward}, loss 2 x {half_loss}, gradient 2 x {half_gradient}, new weight {weight:.1f}")
assert (forward, 2 * half_loss, 2 * half_gradient) == (z, loss, gradient)
assert abs(weight - (w - rate * gradient)) < 1e-15
