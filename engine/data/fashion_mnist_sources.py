"""The public places that have Fashion-MNIST's files, and their checksums."""

from collections.abc import Sequence

from tilegrad.data import fetch, four_files

# sha256 of the decompressed files: mirrors compress them anew.
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}

SOURCES = (
    fetch.mirror("https://storage.googleapis.com/tensorflow/tf-keras-datasets"),  # where Keras gets it
    fetch.mirror("https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"),
    fetch.mirror("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"),  # its authors' own server
)


def cached(wanted: Sequence[str]) -> dict[str, memoryview]:
    """The wanted ones of Fashion-MNIST's files, verified, from the user's cache or the first source that has them.

    Raises RuntimeError, which says what was tried, why it failed and what to do.
    """
    try:
        return fetch.cached("fashion-mnist", wanted, SHA256, SOURCES)
    except RuntimeError as error:
        raise RuntimeError(four_files.advice("fashion_mnist", "TILEGRAD_FASHION_DATA", error)) from None
