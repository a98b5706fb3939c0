"""Reads handwritten digits: python examples/predict.py MODEL IMAGE...

MODEL is what mnist_cnn.py or mnist_mlp.py has learned of digits: model.safetensors in the folder of --save. An IMAGE is
a PNG file, or another that Pillow reads, of one digit, of any size, white on black or black on white.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import mnist_cnn
import mnist_mlp
import numpy as np
from training.images import DATASETS

import tilegrad as tg
from tilegrad import nn
from tilegrad.data import image_batch
from tilegrad.kernels.system.paths import user_path

NETS = (mnist_cnn.net, mnist_mlp.net)


def main() -> None:
    """Print each image's digit, and how probable the net holds each of the ten to be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=user_path, metavar="MODEL")
    parser.add_argument("images", type=user_path, metavar="IMAGE", nargs="+")
    flags = parser.parse_args()
    try:
        model = load(flags.model)
        digits = np.stack([read(path) for path in flags.images])
    except (OSError, ValueError, ImportError) as error:
        raise SystemExit(f"predict.py: {error}") from None
    for path, found in zip(flags.images, probabilities(model, digits)):
        print(f"{path}: {found.argmax()}")
        print("    " + "  ".join(f"{digit}: {100 * p:.1f} %" for digit, p in enumerate(found)))


def load(path: Path) -> nn.Module:
    """The trained net of a file. Raises ValueError if it is of none of the nets here."""
    state = tg.load(path)
    for net in NETS:
        model = net()
        if isinstance(state, dict) and _shapes(state) == _shapes(model.state_dict()):
            model.load_state_dict(state)
            return model
    raise ValueError(f"{path} has other parameters than the nets of mnist_cnn.py and mnist_mlp.py")


def _shapes(state: dict) -> dict:
    return {name: getattr(x, "shape", None) for name, x in state.items()}


def read(path: Path) -> np.ndarray:
    """The digit in a picture, in MNIST's form: (28, 28) uint8."""
    try:
        from PIL import Image
        from training.digit import as_mnist
    except ImportError as error:
        raise ImportError(f'{error}; pip install ".[report]" brings Pillow') from None
    try:
        with Image.open(path) as picture:
            return as_mnist(picture)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # what Pillow has for bad files
        raise ValueError(f"{path}: {error}") from None


@tg.no_grad()
def probabilities(model: nn.Module, digits: np.ndarray) -> np.ndarray:
    """(N, 10) of pictures (N, 28, 28) uint8."""
    model.eval()
    _, mean, std, _ = DATASETS["mnist"]
    images = image_batch(tg.tensor(digits[:, None]), tg.arange(len(digits)), mean, std)
    return model(images).softmax(1).numpy()


if __name__ == "__main__":
    main()
