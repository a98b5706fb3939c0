"""The configurations of the matrix products of conv2d and its gradients.

Reasoned, not measured. A result of M rows by N channels is cut into tiles, each a sum over steps of BLOCK_K channels
(or of BLOCK_P pixels, for the gradient to the weight). The tile bounds the traffic from the L2 cache, so it should be
large; the number of tiles bounds how many of the 108 (A100) or 132 (H100) multiprocessors work, so not too large.

    half   128 sums a thread at 128 x 256 with 8 warps, 64 at 128 x 128 with 8 or 128 x 64 with 4. A step of 64 is the
           128 bytes of a row of shared memory
    tf32   elements are twice as large: a step of 32 is the same 128 bytes
    tf32x3 both parts of every operand are held in registers: at most 128 x 64, 32 sums a thread
    ieee   the float32 pipes: the operands of a step are held in registers, hence a step of 16. What a thread reads from
           shared memory bounds it. Of a 64 x 32 tile with 4 warps, 4 x 4 sums a thread, a step is 256 clocks of
           multiply-adds and 320 of reads, 4/5 of them of the image, whose rows of 64 bytes share banks; at 32 sums a
           thread the two are level. 32 x 32, 128 clocks and 192, is for results of fewer tiles than multiprocessors: of
           the seed CNN's last layer it makes 36 programs instead of 18, each of 3/5 of the clocks

The deeper of the pipelines that fit is taken: no configuration needs more than the 99 KB of shared memory that a
consumer card has.
"""

from __future__ import annotations

from collections.abc import Callable

from tilegrad.kernels.launch.triton_kernel import Kernel
from tilegrad.kernels.launch.tuning import Bucket, Config, Tuned
from tilegrad.kernels.sizes import cdiv


def _product(block_m: int, block_n: int, block_k: int, num_warps: int, num_stages: int) -> Config:
    tile = {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k}
    return {**tile, "num_warps": num_warps, "num_stages": num_stages}


def _weight(block_r: int, block_o: int, block_p: int, num_warps: int, num_stages: int) -> Config:
    tile = {"BLOCK_R": block_r, "BLOCK_O": block_o, "BLOCK_P": block_p}
    return {**tile, "num_warps": num_warps, "num_stages": num_stages}


# From the largest tile to the smallest.
PRODUCTS = {
    "half": (
        _product(128, 256, 64, 8, 2),
        _product(128, 128, 64, 8, 3),
        _product(128, 64, 64, 4, 3),
        _product(64, 64, 64, 4, 4),
        _product(64, 32, 64, 4, 4),
    ),
    "tf32": (
        _product(128, 128, 32, 8, 3),
        _product(128, 64, 32, 4, 3),
        _product(64, 64, 32, 4, 4),
        _product(64, 32, 32, 4, 4),
    ),
    "tf32x3": (
        _product(128, 64, 32, 8, 3),
        _product(64, 64, 32, 4, 3),
        _product(64, 32, 32, 4, 3),
    ),
    "ieee": (
        _product(128, 128, 16, 8, 3),
        _product(128, 64, 16, 8, 3),
        _product(64, 64, 16, 4, 3),
        _product(64, 32, 16, 4, 3),
        _product(32, 32, 16, 4, 3),
    ),
}
# Of the gradient to the input the smallest float32 tile spills under Triton 3.6.
GRAD_INPUT_PRODUCTS = PRODUCTS | {"ieee": PRODUCTS["ieee"][:-1]}
WEIGHT = {
    "half": (
        _weight(128, 128, 64, 8, 3),
        _weight(128, 64, 64, 4, 3),
        _weight(64, 64, 64, 4, 3),
        _weight(64, 32, 64, 4, 4),
    ),
    "tf32": (
        _weight(128, 128, 32, 8, 3),
        _weight(128, 64, 32, 4, 3),
        _weight(64, 64, 32, 4, 3),
        _weight(64, 32, 32, 4, 4),
    ),
    "tf32x3": (
        _weight(128, 64, 32, 8, 3),
        _weight(64, 64, 32, 4, 3),
        _weight(64, 32, 32, 4, 3),
    ),
    "ieee": (
        _weight(128, 128, 16, 8, 3),
        _weight(128, 64, 16, 8, 3),
        _weight(64, 64, 16, 4, 3),
        _weight(64, 32, 16, 4, 3),
        _weight(16, 32, 32, 4, 4),
    ),
}


def multiprocessors(arch: int) -> int:
    """Of the data centre cards. Not asked of the card at hand: on every card of an architecture the same sums are to be
    added in the same order.
    """
    return 132 if arch >= 90 else 108


def rounded(pixels: int) -> int:
    """Up to two bits behind the leading one: batches of nearly one size share a configuration, and its measurement."""
    unit = 1 << max(0, pixels.bit_length() - 3)
    return cdiv(pixels, unit) * unit


def tuned_products(name: str, *kernels: Kernel, products: dict[str, tuple[Config, ...]] = PRODUCTS) -> dict[str, Tuned]:
    """The Tuned of a launcher for each kind of arithmetic (conv2d.gpu_triton_windows.kind).

    Its buckets are (rounded pixels, channels of the result a group, channels of the sum a group, groups, taps).
    """
    return {kind: Tuned(f"{name} {kind}", {80: each}, _enough_tiles(each), kernels) for kind, each in products.items()}


def tuned_grad_weight(name: str, *kernels: Kernel) -> dict[str, Tuned]:
    """The same for the gradient to the weight; buckets are (rounded pixels, rows, channels of dy a group, groups)."""
    return {kind: Tuned(f"{name} {kind}", {80: each}, _least_padding(each), kernels) for kind, each in WEIGHT.items()}


def _enough_tiles(configs: tuple[Config, ...]) -> Callable[[int, Bucket], int]:
    """The first configuration whose tiles are not half empty, and of which every multiprocessor has one."""

    def default(arch: int, bucket: Bucket) -> int:
        pixels, channels, _, groups, _ = bucket
        for index, config in enumerate(configs):
            block_m, block_n = config["BLOCK_M"], config["BLOCK_N"]
            tiles = cdiv(pixels, block_m) * cdiv(channels, block_n) * groups
            if channels > block_n // 2 and tiles >= multiprocessors(arch):
                return index
        return len(configs) - 1

    return default


def _least_padding(configs: tuple[Config, ...]) -> Callable[[int, Bucket], int]:
    """The first configuration whose tiles are not half empty. Their number does not matter: pixels are shared out."""

    def default(_: int, bucket: Bucket) -> int:
        _, rows, channels, _ = bucket
        for index, config in enumerate(configs):
            if rows > config["BLOCK_R"] // 2 and channels > config["BLOCK_O"] // 2:
                return index
        return len(configs) - 1

    return default
