"""A multi-layer perceptron on MNIST: >= 97.5 % of the test images after 5 epochs, on any machine.

python examples/mnist_mlp.py [--epochs 5] [--batch-size 64] [--lr 1e-3] [--seed 0] ...   (--help lists all)
"""

from mnist_training import main

from tilegrad import nn


def net() -> nn.Module:
    """784-128-64-10 with ReLU: 109,386 parameters."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(28 * 28, 128),
        nn.ReLU(),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


if __name__ == "__main__":
    main(net, __doc__)
