"""A convolutional net on MNIST: >= 99 % of the test images after 5 epochs, on any machine.

python examples/mnist_cnn.py [--epochs 5] [--batch-size 64] [--lr 1e-3] [--seed 0] ...   (--help lists all)
"""

from mnist_training import main

from tilegrad import nn


def net() -> nn.Module:
    """conv32-ReLU-pool2 - conv64-ReLU-pool2 - conv64-ReLU - flatten - dense64-ReLU - dense10: 93,322 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3),  # (N, 1, 28, 28) -> (N, 32, 26, 26)
        nn.ReLU(),
        nn.MaxPool2d(2),  # -> (N, 32, 13, 13)
        nn.Conv2d(32, 64, 3),  # -> (N, 64, 11, 11)
        nn.ReLU(),
        nn.MaxPool2d(2),  # -> (N, 64, 5, 5)
        nn.Conv2d(64, 64, 3),  # -> (N, 64, 3, 3)
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * 3 * 3, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


if __name__ == "__main__":
    main(net, __doc__)
