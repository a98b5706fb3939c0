"""Data: bytes in, arrays out. IDX files, MNIST and Fashion-MNIST as NumPy arrays; datasets, loaders that batch them."""

from tilegrad.data.banking77 import banking77
from tilegrad.data.collate import default_collate
from tilegrad.data.fashion_mnist import fashion_mnist
from tilegrad.data.idx import read_idx, write_idx
from tilegrad.data.images import image_batch
from tilegrad.data.loader import DataLoader, Dataset, Subset, TensorDataset, random_split
from tilegrad.data.minilm import minilm
from tilegrad.data.mnist import mnist

__all__ = [
    "DataLoader",
    "Dataset",
    "Subset",
    "TensorDataset",
    "banking77",
    "default_collate",
    "fashion_mnist",
    "image_batch",
    "minilm",
    "mnist",
    "random_split",
    "read_idx",
    "write_idx",
]
