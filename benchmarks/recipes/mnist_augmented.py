"""A recipe for MNIST with augmentation (small turns, shifts and scales of the images).

    python benchmarks/recipes/mnist_augmented.py            three seeds, on all training images, tested once
    python benchmarks/recipes/mnist_augmented.py --choose   one seed, on 50 000 images, validated on the other 10 000

784-1024-1024-10 with GELU; each image turned by up to 12 degrees, shifted by up to 2 pixels and scaled by up to 12 %;
dropout of 0.2 behind the hidden layers; AdamW with a weight decay of 0.02 and one cycle of the learning rate up to
2e-3; 40 epochs in batches of 128. Figures are in docs/recipes.md.
"""

from mnist import main

from fastmlp import GELU, AdamW, Dense, Dropout, OneCycle, RandomAffine, Rescaling, Sequential

EPOCHS = 40


def accuracy(X, y, X_test, y_test, seed: int) -> tuple[float, float]:
    """Train; the accuracy on the test rows, and the seconds that training took."""
    moved = RandomAffine((28, 28), degrees=12, translate=2 / 28, scale=(0.88, 1.12))
    hidden = [layer for _ in range(2) for layer in (Dense(1024), GELU(), Dropout(0.2))]
    model = Sequential(Rescaling(1 / 255), moved, *hidden, Dense(10))
    optimizer = AdamW(OneCycle(2e-3, epochs=EPOCHS), weight_decay=0.02)
    options = {"loss": "softmax_cross_entropy", "epochs": EPOCHS, "batch_size": 128, "seed": seed}
    history = model.fit(X, y, optimizer=optimizer, **options)
    return model.evaluate(X_test, y_test)["accuracy"], sum(history["seconds"])


if __name__ == "__main__":
    main(__doc__, accuracy)
