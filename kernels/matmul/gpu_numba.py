"""Matrix multiplication on a GPU, in Numba-CUDA.

        y[..., m, n] = activation(sum over k of a[..., m, k] * b[..., k, n] + bias[n])

Both kernels take b as b^T: rows of length K on either side. Operands are read by their strides: a transposed view costs
no copy, a broadcast batch has stride 0. Sums are float32; bias and activation are applied before the only rounding.

Naive: one thread computes one element of y. Tests compare the tiled kernel with it, and it serves products that are so
small, or so thin, that a tile would mostly multiply padding.

Tiled: a block of 256 threads computes 128 x 128 of y, each thread 8 x 8 of it in registers.

         b^T  tx 0    1    2 ..  7     8 ..                a step takes 8 terms of 128 rows of each operand, laid as
             |0123|4567|.... |     |     | 64 columns on   [term][row] in shared memory, twice: one pair is multiplied
    a ty    +----+----+-----+-----+-----+----              while the next pair, loaded a step ahead, is on its way
      0  0-3|::::|    |     |     |     |::::
      1  4-7|    |    |     |     |     |                  thread (ty, tx) sums rows 4 ty .. + 3 and those 64 further
     ..     |    |    |     |     |     |                  down, columns 4 tx .. + 3 and those 64 further right (::::)
     64 rows down
      0     |::::|    |     |     |     |::::              a warp is 4 x 8 threads: its columns are 128 contiguous bytes

For a term a thread reads 16 values, as four loads of 16 bytes, and multiplies 64 pairs. The columns of a warp's load
lie in 32 different banks; its rows are 4 places, each shared by 8 threads. If the sum's axis is contiguous in memory, a
warp reads 8 terms of 4 rows. Rows are 132 elements apart, so that storing these meets every bank once. If the rows are
contiguous instead, a warp reads and stores 32 rows of one term.

Traffic: from the L2 cache (128 + 128) K itemsize a tile for its 2 * 128 * 128 K FLOP, 32 FLOP a byte in float32. Blocks
go down 8 tiles, then one to the right, so that those which run at one time share operands in that cache.

Ceiling: the float32 pipes; reasoned, not measured. Compiled for sm_90, three of four instructions of the inner loop are
multiply-adds, so at most 0.75 of peak is within reach. Most of the other instructions are addresses and bounds of
4-byte loads: Numba cannot express wider ones. With up to 128 registers two blocks share a multiprocessor, and one
multiplies while the other waits; a^T @ b of row-major arrays takes 140, so there a block has the multiprocessor to
itself. float16 is widened on loading and multiplied in float32 too: no tensor cores, hence no TF32, and `precision`
changes nothing. A result of few tiles is cut into tiles of 32 x 32; sums are not cut into parts, as
matmul/gpu_triton.py does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from numpy import float32, uint64

from tilegrad.kernels.activations.gpu_numba import relu_grad
from tilegrad.kernels.activations.gpu_numba_math import ACTIVATIONS
from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch.numba_dtypes import only_served
from tilegrad.kernels.launch.numba_kernel import Kernel, kernel
from tilegrad.kernels.launch.numba_target import SIMULATED, cuda, device
from tilegrad.kernels.matmul.gpu_geometry import broadcast_lead, geometry
from tilegrad.kernels.matmul.reference import Parts, check_matmul, one_by_one
from tilegrad.kernels.sizes import cdiv
from tilegrad.kernels.sum.gpu_numba import sum

MOST_AXES = 2  # of a batch, that the kernels walk
GROUP = 8  # tiles
PAD = 4  # elements between rows of shared memory: one group of banks, which keeps 16 bytes aligned


class Tile(NamedTuple):
    """What a block computes, and how its threads share it; all are powers of 2."""

    size: int  # rows and columns
    terms: int  # of a step
    side: int  # threads down, and across
    warp: tuple[int, int]  # threads of a warp down and across
    run: int  # contiguous rows, and contiguous columns, that a thread takes

    @property
    def threads(self) -> int:
        return self.side * self.side


if SIMULATED:
    LARGE, SMALL = Tile(16, 4, 4, (2, 2), 2), Tile(8, 4, 4, (2, 2), 2)
    LARGE_FROM, NAIVE_UP_TO = 4, 256
else:
    LARGE, SMALL = Tile(128, 8, 16, (4, 8), 4), Tile(32, 16, 8, (4, 8), 4)
    LARGE_FROM = 64  # tiles, half of an H200's multiprocessors
    NAIVE_UP_TO = 1 << 15  # multiply-adds
THIN = 4  # rows or columns
NAIVE_THREADS = 16 if SIMULATED else 128
NAIVE_BLOCKS = 4 if SIMULATED else 1 << 20  # at most; beyond that a thread takes several elements


@device
def _bias_of(bias, column):
    return float32(bias[column])


@device
def _no_bias(bias, column):
    return float32(0)


@device
def _kept(z, place, value):
    z[place] = value


@device
def _not_kept(z, place, value):
    pass


@functools.cache
def _naive_kernel(activation: str | None, has_bias: bool, keeps: bool) -> Kernel:
    keep = _kept if keeps else _not_kept
    activate, bias_of = ACTIVATIONS[activation], _bias_of if has_bias else _no_bias

    @kernel
    def _matmul_naive_kernel(a, b, bias, y, z):
        """a (outer, inner, M, K), b (outer, inner, N, K), bias (N,), y and z (outer, inner, M, N)."""
        _, inner, m, n = y.shape
        for i in range(cuda.grid(1), y.size, cuda.gridsize(1)):
            column, row, product = i % n, i // n % m, i // n // m
            o, p = product // inner, product % inner
            total = float32(0)
            for k in range(a.shape[3]):
                total += float32(a[o, p, row, k]) * float32(b[o, p, column, k])
            total += bias_of(bias, column)
            keep(z, (o, p, row, column), total)
            y[o, p, row, column] = activate(total)

    return _matmul_naive_kernel


@device
def _grouped(i, tiles_m, tiles_n):
    """(row, column) of the tile that block i computes: down GROUP tiles, then one to the right."""
    first = i // (GROUP * tiles_n) * GROUP
    height = min(tiles_m - first, GROUP)
    i -= first * tiles_n
    return first + i % height, i // height


@functools.cache
def _tiled_kernel(
    tile: Tile, activation: str | None, has_bias: bool, keeps: bool, dense_a: bool, dense_b: bool
) -> Kernel:
    """dense_a, dense_b: the operand is contiguous along the sum, so neighbouring threads read neighbouring terms."""
    keep = _kept if keeps else _not_kept
    activate, bias_of = ACTIVATIONS[activation], _bias_of if has_bias else _no_bias
    size, terms, side, (down, across), run = tile
    each, apart = size // side, side * run  # rows and columns of a thread; from one run of them to the next
    warps, last = side // across, tile.threads - 1
    held = size * terms // tile.threads  # elements of a tile that a thread loads
    shared = (2, terms, size + PAD)
    fetch_a, put_a = _transfer(tile, dense_a)
    fetch_b, put_b = _transfer(tile, dense_b)
    multiply = unrolled(_term(tile), terms)

    @device
    def store_one(i, out, kept, bias, first, row, column, sums):
        i, j = i // each, i % each
        r = row + i // run * apart + i % run
        c = column + j // run * apart + j % run
        if r < out.shape[0] and c < out.shape[1]:
            total = sums[i, j] + bias_of(bias, first + c)
            keep(kept, (r, c), total)
            out[r, c] = activate(total)

    store = unrolled(store_one, each * each)

    @kernel
    def _matmul_tiled_kernel(a, b, bias, y, z, tiles_m, tiles_n):
        """a (outer, inner, M, K), b (outer, inner, N, K), bias (N,), y, z (outer, inner, M, N); a block a tile of y."""
        a_tile = cuda.shared.array(shared, float32)
        b_tile = cuda.shared.array(shared, float32)
        a_next = cuda.local.array(held, float32)  # local arrays are registers: every index is known once unrolled
        b_next = cuda.local.array(held, float32)
        sums = cuda.local.array((each, each), float32)
        for i in range(each):
            for j in range(each):
                sums[i, j] = float32(0)

        product = cuda.blockIdx.x // (tiles_m * tiles_n)
        tile_m, tile_n = _grouped(cuda.blockIdx.x % (tiles_m * tiles_n), tiles_m, tiles_n)
        o, p = product // y.shape[1], product % y.shape[1]
        a_rows = a[o, p, tile_m * size :]
        b_rows = b[o, p, tile_n * size :]
        out = y[o, p, tile_m * size :, tile_n * size :]
        kept = z[o, p, tile_m * size :, tile_n * size :]

        t = cuda.threadIdx.x & last  # changes nothing, but tells the compiler that no index is negative
        warp, lane = t // (down * across), t % (down * across)
        row = (warp // warps * down + lane // across) * run
        column = (warp % warps * across + lane % across) * run

        steps = (a_rows.shape[1] + terms - 1) // terms
        fetch_a(a_rows, 0, a_next)
        fetch_b(b_rows, 0, b_next)
        put_a(a_tile, 0, a_next)
        put_b(b_tile, 0, b_next)
        cuda.syncthreads()
        for step in range(steps):
            stage = step & 1
            if step + 1 < steps:
                fetch_a(a_rows, (step + 1) * terms, a_next)
                fetch_b(b_rows, (step + 1) * terms, b_next)
            multiply(0, a_tile, b_tile, stage, row, column, sums)
            if step + 1 < steps:  # into the pair of the step before, which all threads have finished reading
                put_a(a_tile, 1 - stage, a_next)
                put_b(b_tile, 1 - stage, b_next)
            cuda.syncthreads()

        store(0, out, kept, bias, tile_n * size, row, column, sums)

    return _matmul_tiled_kernel


@functools.cache
def _transfer(tile: Tile, dense: bool) -> tuple[Callable, Callable]:
    """(fetch, put): a tile of an operand from global memory to registers, and on to shared memory.

    Thread t has element (t / terms, t % terms) or, where rows are dense, (t % size, t / size), and those a fixed number
    of rows or of terms further.
    """
    size, terms, threads = tile.size, tile.terms, tile.threads
    held = size * terms // threads
    rows_on, terms_on = (threads // terms, 0) if dense else (0, threads // size)
    last = threads - 1

    @device
    def place():
        t = cuda.threadIdx.x & last
        if dense:
            return t // terms, t % terms
        return t % size, t // size

    @device
    def fetch(x, first, values):
        """x (rows, K), from the tile's first row on; zeros beyond its end."""
        row, term = place()
        for i in range(held):  # a slice begins at the same place for all threads; row and term are the same for all i
            part = x[i * rows_on :, i * terms_on :]
            inside = row < part.shape[0] and first + term < part.shape[1]
            values[i] = float32(part[row, uint64(first + term)]) if inside else float32(0)

    @device
    def put(shared, stage, values):
        row, term = place()
        for i in range(held):
            shared[stage, term + i * terms_on, row + i * rows_on] = values[i]

    return fetch, put


@functools.cache
def _term(tile: Tile) -> Callable:
    """sums += the products of one term of a step."""
    each, run, apart = tile.size // tile.side, tile.run, tile.side * tile.run

    @device
    def multiply(k, a_tile, b_tile, stage, row, column, sums):
        a = cuda.local.array(each, float32)
        b = cuda.local.array(each, float32)
        for i in range(each):
            a[i] = a_tile[stage, k, row + i // run * apart + i % run]
            b[i] = b_tile[stage, k, column + i // run * apart + i % run]
        for i in range(each):
            for j in range(each):
                sums[i, j] += a[i] * b[j]

    return multiply


def unrolled(f: Callable, count: int) -> Callable:
    """f(i, ...) for i = 0, 1, .. count - 1 without a loop; count is a power of 2.

    The compiler would not unroll loops as long as these, and in a loop an array cannot be kept in registers.
    """
    apart = 1
    while apart < count:
        f = _twice(f, apart)
        apart *= 2
    return f


def _twice(f: Callable, apart: int) -> Callable:
    @device
    def both(i, *rest):
        f(i, *rest)
        f(i + apart, *rest)

    return both


def matmul(a: Any, b: Any, bias: Any | None = None, activation: str | None = None, precision: str = "ieee") -> Any:
    """matmul.reference.matmul, for float16 and float32; the precision is always "ieee".

    Traffic: at the head of this file. Operands are copied only if their batch axes need more than two strides.
    """
    return _product(a, b, bias, activation, precision, False)[1]


def matmul_kept(a: Any, b: Any, bias: Any | None, activation: str | None, precision: str = "ieee") -> tuple[Any, Any]:
    """matmul.reference.matmul_kept, for float16 and float32; the precision is always "ieee".

    Traffic: matmul's, and M N itemsize for z.
    """
    return _product(a, b, bias, activation, precision, True)


def product_into(y: Any, a: Any, b: Any, bias: Any | None = None) -> Callable[[], None]:
    """What computes y = a @ b + bias when it is called: a step of another primitive, which takes it again and again.

    y   in C order, of the shape of a @ b; of the dtype of a and b or float32, to which the sums are rounded
    """
    dtype, shape = _checked(a, b, bias, None, "ieee")
    assert y.shape == shape and y.flags.c_contiguous and y.dtype in (dtype, float32)
    return _launching(a, b, bias, None, y, None)


def _product(a: Any, b: Any, bias: Any | None, activation: str | None, precision: str, keeps: bool) -> tuple[Any, Any]:
    """(z, y) of matmul_kept, or (None, y) of matmul."""
    dtype, shape = _checked(a, b, bias, activation, precision)
    y = gpu.xp().empty(shape, dtype)
    z = gpu.xp().empty(shape, dtype) if keeps else None
    _launching(a, b, bias, activation, y, z)()
    return z, y


def _checked(a: Any, b: Any, bias: Any, activation: str | None, precision: str) -> tuple[Any, tuple[int, ...]]:
    """The dtype of the operands, and the shape of their product."""
    dtype = only_served("matmul", check_matmul(a, b, bias, activation, precision))
    return dtype, (*broadcast_lead(a.shape, b.shape), a.shape[-2], b.shape[-1])


def _launching(a: Any, b: Any, bias: Any, activation: str | None, y: Any, z: Any) -> Callable[[], None]:
    """What launches the kernel that suits the product's size."""
    if y.size == 0:
        return _nothing
    a, b, out = _views(a, b, y, y.shape[:-2])
    kept = None if z is None else z.reshape(out.shape)
    *_, m, n = out.shape
    if min(m, n) <= THIN or y.size * a.shape[-1] <= NAIVE_UP_TO:
        return functools.partial(naive, a, b, bias, out, activation, kept)
    large = y.size // (m * n) * cdiv(m, LARGE.size) * cdiv(n, LARGE.size) >= LARGE_FROM
    return functools.partial(tiled, a, b, bias, out, activation, LARGE if large else SMALL, kept)


def _nothing() -> None:
    """A product without elements."""


def linear_grad(dy: Any, y: Any, x: Any, w: Any, bias: bool = False, precision: str = "ieee") -> tuple[Any, ...]:
    """As matmul.reference.linear_grad, for float16 and float32, one gradient after the other; always "ieee"."""
    return one_by_one(Parts(relu_grad, matmul, sum), dy, y, x, w, bias, precision)


def naive(a: Any, b: Any, bias: Any | None, y: Any, activation: str | None, z: Any = None) -> None:
    """y = activation(a b^T + bias) of a (outer, inner, M, K), b (outer, inner, N, K), y (outer, inner, M, N).

    z   as y, without the activation; or None
    """
    blocks = min(cdiv(y.size, NAIVE_THREADS), NAIVE_BLOCKS)
    launch = _naive_kernel(activation, bias is not None, z is not None)
    launch((blocks,), (NAIVE_THREADS,), a, b, b if bias is None else bias, y, y if z is None else z)


def tiled(a: Any, b: Any, bias: Any | None, y: Any, activation: str | None, tile: Tile, z: Any = None) -> None:
    """The same, by tiles."""
    outer, inner, m, n = y.shape
    tiles_m, tiles_n = cdiv(m, tile.size), cdiv(n, tile.size)
    dense_a, dense_b = (x.strides[3] == x.itemsize for x in (a, b))
    launch = _tiled_kernel(tile, activation, bias is not None, z is not None, dense_a, dense_b)
    grid = (outer * inner * tiles_m * tiles_n,)
    launch(grid, (tile.threads,), a, b, b if bias is None else bias, y, y if z is None else z, tiles_m, tiles_n)


def _views(a: Any, b: Any, y: Any, lead: tuple[int, ...]) -> tuple[Any, Any, Any]:
    """a, b transposed and y as the kernels take them: with two batch axes, and the rows that share one b merged."""
    xp = gpu.xp()
    (m, k), n = a.shape[-2:], b.shape[-1]
    g = geometry(a.shape, a.strides, b.shape, b.strides)  # in bytes: only whether they are multiples counts here
    lengths = [length for length, _, _ in g.axes] if len(g.axes) <= MOST_AXES else [g.batch]
    lengths = [1, 1, *lengths][-2:]
    a = xp.broadcast_to(a, (*lead, m, k)).reshape(*lengths, g.m, k)
    b = xp.broadcast_to(b, (*lead, k, n)).reshape(*lengths, g.m // m, k, n)[:, :, 0]
    return a, b.swapaxes(2, 3), y.reshape(*lengths, g.m, n)
