"""Bytes and FLOP of every op against counts made by hand, term by term."""

from __future__ import annotations

import pytest

from tilegrad.bench.ops import OPS
from tilegrad.bench.ops.op import MODES, Case

# (op, variant, mode, shape): bytes in float32, FLOP
COUNTS = {
    # a 2 x 4, b 4 x 3, y 2 x 3: (8 + 12 + 6) * 4;  6 sums of 4 products: 6 * 4 * 2
    ("matmul", "matmul", "forward", (2, 3, 4)): (104, 48),
    # da reads dy 6, b 12, writes 8; db reads a 8, dy 6, writes 12: 52 * 4;  8 sums of 3 products, 12 of 2: 48 + 48
    ("matmul", "matmul", "backward", (2, 3, 4)): (208, 96),
    ("matmul", "matmul", "both", (2, 3, 4)): (312, 144),
    # also a bias of 3;  also for 6 outputs the bias' sum and gelu's 5
    ("matmul", "matmul + bias + gelu", "forward", (2, 3, 4)): (116, 84),
    # and z of 6
    ("matmul", "matmul + bias + gelu, both kept", "forward", (2, 3, 4)): (140, 84),
    # x 3 x 5, z 3 x 5, y 3 x 5;  a row of 5, a mask of 15 bytes, results of 3 numbers
    ("arithmetic", "add", "forward", (3, 5)): (180, 15),
    ("arithmetic", "mul by a row", "forward", (3, 5)): (140, 15),
    ("arithmetic", "exp", "forward", (3, 5)): (120, 15),
    ("arithmetic", "where", "forward", (3, 5)): (195, 15),
    ("arithmetic", "mean", "forward", (3, 5)): (72, 15),
    ("arithmetic", "var", "forward", (3, 5)): (72, 60),  # the mean's +, then - * +
    ("arithmetic", "max", "forward", (3, 5)): (72, 15),
    ("activations", "relu", "forward", (10,)): (80, 10),
    ("activations", "relu", "backward", (10,)): (120, 10),
    ("activations", "leaky_relu", "forward", (10,)): (80, 20),
    ("activations", "leaky_relu", "backward", (10,)): (120, 20),
    ("activations", "gelu", "forward", (10,)): (80, 50),  # * erf + * *
    ("activations", "gelu", "backward", (10,)): (120, 120),  # * erf + *   * * exp *   * + *
    ("activations", "silu", "forward", (10,)): (80, 40),  # - exp + /
    ("activations", "silu", "backward", (10,)): (120, 90),  # - exp + /   - * +   * *
    ("activations", "tanh", "forward", (10,)): (80, 10),
    ("activations", "tanh", "backward", (10,)): (120, 30),  # * - *
    ("activations", "sigmoid", "forward", (10,)): (80, 40),  # - exp + /
    ("activations", "sigmoid", "backward", (10,)): (120, 30),  # - * *
    ("activations", "erf", "forward", (10,)): (80, 10),
    ("activations", "erf", "backward", (10,)): (120, 50),  # * - exp * *
    # 15 numbers in, 15 out;  max - exp + /
    ("softmax", "softmax", "forward", (3, 5)): (120, 75),
    ("softmax", "softmax", "backward", (3, 5)): (180, 60),
    ("softmax", "log_softmax", "forward", (3, 5)): (120, 78),  # max - exp + -, and 3 logarithms
    ("softmax", "log_softmax", "backward", (3, 5)): (180, 60),
    # z 15 * 4, t 3 * 8; m and s 2 * 3 * 4, the loss and its divisor 2 * 4;  15 * 4, 3 * (log - - +), one /
    ("softmax_xent", "softmax_xent", "forward", (3, 5)): (60 + 24 + 24 + 8, 60 + 12 + 1),
    # z and dz 30 * 4, t 24, m and s 24, dloss and divisor 8;  15 * (- - exp *), 3 * -, one /
    ("softmax_xent", "softmax_xent", "backward", (3, 5)): (120 + 24 + 24 + 8, 60 + 3 + 1),
    # q, k, v, y of 2*3*4*5 = 120 and lse of 24;  2*3*4*4 = 96 scores: 5 products and sums each way, * max - exp +
    ("attention", "attention", "forward", (2, 3, 4, 5)): (4 * (480 + 24), 96 * (20 + 5)),
    # and 10 scores of the 16 a head
    ("attention", "causal attention", "forward", (2, 3, 4, 5)): (4 * (480 + 24), 60 * (20 + 5)),
    # dy, q, k, v, y, dq, dk, dv and lse;  5 products; * max - exp +, and exp - * *
    ("attention", "attention", "backward", (2, 3, 4, 5)): (4 * (960 + 24), 96 * (50 + 9)),
    ("attention", "causal attention", "backward", (2, 3, 4, 5)): (4 * (960 + 24), 60 * (50 + 9)),
    # x and y 30 * 4, weight and bias 10 * 4, mean and rstd 6 * 4;  15 * (+ - * + * * +), 3 * (/ / + sqrt /)
    ("layer_norm", "layer_norm", "forward", (3, 5)): (120 + 40 + 24, 105 + 15),
    # dy, x, dx 45 * 4, weight and two gradients 15 * 4, mean and rstd;  15 * (* + - * * + * - - * * + +), 3 * (/ /)
    ("layer_norm", "layer_norm", "backward", (3, 5)): (180 + 60 + 24, 195 + 6),
    ("layer_norm", "rms_norm", "forward", (3, 5)): (120 + 20 + 12, 60 + 12),  # * + * *;  / + sqrt /
    ("layer_norm", "rms_norm", "backward", (3, 5)): (180 + 40 + 12, 135 + 3),  # * * * + * - * * +;  /
    # x twice and y 360 * 4, weight and bias 6 * 4, the moments 6 * 4;  as layer_norm, a channel for a row
    ("batch_norm", "batch_norm", "forward", (2, 3, 4, 5)): (1440 + 24 + 24, 840 + 15),
    ("batch_norm", "batch_norm, C order", "forward", (2, 3, 4, 5)): (1440 + 24 + 24, 840 + 15),
    ("batch_norm", "batch_norm + relu", "forward", (2, 3, 4, 5)): (1440 + 24 + 24, 960 + 15),
    ("batch_norm", "batch_norm + relu, C order", "forward", (2, 3, 4, 5)): (1440 + 24 + 24, 960 + 15),
    # dy and x twice and dx 600 * 4, weight and two gradients 9 * 4, the moments;  + - * * + * * - - *;  + sqrt / / /
    ("batch_norm", "batch_norm", "backward", (2, 3, 4, 5)): (2400 + 36 + 24, 1200 + 15),
    ("batch_norm", "batch_norm, C order", "backward", (2, 3, 4, 5)): (2400 + 36 + 24, 1200 + 15),
    # and bias 3 * 4;  * + > more
    ("batch_norm", "batch_norm + relu", "backward", (2, 3, 4, 5)): (2400 + 48 + 24, 1560 + 15),
    ("batch_norm", "batch_norm + relu, C order", "backward", (2, 3, 4, 5)): (2400 + 48 + 24, 1560 + 15),
    # and residual 120 * 4;  + more.  dy, x, y, dz, dz, x, dx 840 * 4, weight, two gradients;  > more than without relu
    ("batch_norm", "batch_norm + residual + relu", "forward", (2, 3, 4, 5)): (1920 + 24 + 24, 1080 + 15),
    ("batch_norm", "batch_norm + residual + relu", "backward", (2, 3, 4, 5)): (3360 + 36 + 24, 1320 + 15),
    # 4 arrays in, 3 out;  - * +   * * * +   sqrt / +   / * -
    ("adam", "adam_step", "forward", (10,)): (280, 130),
    # x 2*3*4*4 = 96, w 5*3*3*3 = 135, bias 5, y 2*5*4*4 = 160: 396 * 4;  160 outputs of 27 taps, bias, max
    ("conv", "conv2d + bias + relu", "forward", (2, 3, 4, 5, 3, 1)): (1584, 160 * (54 + 2)),
    ("conv", "conv2d + bias", "forward", (2, 3, 4, 5, 3, 1)): (1584, 160 * (54 + 1)),
    # x 2*5*5 = 50, w 3*2*2*2 = 24, bias 3, y 3*4*4 = 48: 125 * 4;  48 outputs of 8 taps, and bias
    ("conv", "conv2d + bias", "forward", (1, 2, 5, 3, 2, 0)): (500, 48 * (16 + 1)),
    # dx: 160 + 135 + 96; dw: 160 + 96 + 135; db: 160 + 5;  the products twice, and the sum of dy
    ("conv", "conv2d + bias", "backward", (2, 3, 4, 5, 3, 1)): (4 * (391 + 391 + 165), 2 * 160 * 54 + 160),
    # x 6 * 4 * 5 = 120, y 6 * 2 * 2 = 24, a byte for each of its taps;  3 comparisons for each output
    ("pool", "max_pool2d", "forward", (2, 3, 4, 5)): (480 + 96 + 24, 72),
    ("pool", "max_pool2d", "backward", (2, 3, 4, 5)): (480 + 96 + 24, 0),
    ("pool", "avg_pool2d", "forward", (2, 3, 4, 5)): (576, 96),
    ("pool", "avg_pool2d", "backward", (2, 3, 4, 5)): (576, 24),
    # 20 numbers in, 1 out; and 21 in, 10 out;  the operations of an element with + or *, and one /
    ("losses", "mse_loss", "forward", (10,)): (84, 31),
    ("losses", "mse_loss", "backward", (10,)): (124, 31),
    ("losses", "l1_loss", "forward", (10,)): (84, 31),
    ("losses", "l1_loss", "backward", (10,)): (124, 41),
    ("losses", "smooth_l1_loss", "forward", (10,)): (84, 71),
    ("losses", "smooth_l1_loss", "backward", (10,)): (124, 71),
    ("losses", "huber_loss", "forward", (10,)): (84, 81),
    ("losses", "huber_loss", "backward", (10,)): (124, 71),
    ("losses", "binary_cross_entropy", "forward", (10,)): (84, 81),
    ("losses", "binary_cross_entropy", "backward", (10,)): (124, 61),
    ("losses", "binary_cross_entropy_with_logits", "forward", (10,)): (84, 121),
    ("losses", "binary_cross_entropy_with_logits", "backward", (10,)): (124, 101),
    # x 24, w_ih 64, product 96; product, w_hh 64, h0 and c0 24, y 24, h and c 24, gates and cells 120
    # 2 products of 6 rows with 16 x 4;  24 states of (+ + + +, 3 * (- exp + /), tanh, * + *, tanh *)
    ("recurrent", "lstm", "forward", (2, 3, 4)): (4 * (184 + 352), 2 * 6 * 128 + 24 * 22),
    # dy 24, w_hh 64, c0 12, gates and cells 120, dx 96, dh and dc 24; dx, w_ih 64, 24; dx, x, 64; 48 of dx, 12 of y, 64
    # 3 products of 6 rows, one of 3;  +, tanh, * * - * + +, 3 * (- *), - + *, 4 * (* *), *
    ("recurrent", "lstm", "backward", (2, 3, 4)): (4 * (340 + 184 + 184 + 124), (3 * 6 + 3) * 128 + 24 * 26),
    # x 24, w_ih 48, product 72; product, w_hh 48, h0 12, y 24, h 12, gates 96
    # 24 states of (+ +, 2 * (- exp + /), * +, tanh, - * +)
    ("recurrent", "gru", "forward", (2, 3, 4)): (4 * (144 + 264), 2 * 6 * 96 + 24 * 16),
    # dy 24, w_hh 48, h0 12, y 24, gates 96, dx and dq 144, dh 12; the products as above
    # +, - * - * + *, - * * *, * * - *, *, * +
    ("recurrent", "gru", "backward", (2, 3, 4)): (4 * (360 + 144 + 144 + 96), (3 * 6 + 3) * 96 + 24 * 18),
    # x 24, w_ih 16, product 24; product, w_hh 16, h0 12, y 24, h 12;  + tanh
    ("recurrent", "rnn", "forward", (2, 3, 4)): (4 * (64 + 88), 2 * 6 * 32 + 24 * 2),
    # dy 24, w_hh 16, y 24, dx 24, dh 12; the products as above;  + - * + *
    ("recurrent", "rnn", "backward", (2, 3, 4)): (4 * (100 + 64 + 64 + 40), (3 * 6 + 3) * 32 + 24 * 5),
    # 7 rows of 5 read and written, 7 indices; 7 rows of dy read and 9 of dx written;  a + for each number
    ("take_rows", "take_rows", "forward", (9, 5, 7)): (280 + 56, 0),
    ("take_rows", "take_rows", "backward", (9, 5, 7)): (140 + 180 + 56, 35),
    # 3 bags of 2 rows of 5 read, 3 written, 6 indices, 3 offsets; 3 of dy read, 9 of dx written;  a + for each number
    ("bags", "sum_bags", "forward", (9, 5, 3, 2)): (120 + 60 + 48 + 24, 30),
    ("bags", "sum_bags", "backward", (9, 5, 3, 2)): (60 + 180 + 48 + 24, 30),
}


def case(op, variant, mode, shape, dtype="float32"):
    found = next(v for v in OPS[op].variants if v.name == variant)
    return Case(OPS[op], found, mode, shape, dtype, "ieee")


@pytest.mark.parametrize(("op", "variant", "mode", "shape"), COUNTS, ids=lambda x: str(x))
def test_bytes_and_flop(op, variant, mode, shape):
    found = case(op, variant, mode, shape)
    assert (found.bytes(), found.flops()) == COUNTS[op, variant, mode, shape]


def test_every_variant_is_counted():
    every = {(op.name, v.name, mode) for op in OPS.values() for v in op.variants for mode in v.modes if mode != "both"}
    assert every == {key[:3] for key in COUNTS if key[2] != "both"}
    assert set(MODES) == {"forward", "backward", "both"}


def test_the_size_of_the_dtype_counts():
    assert case("softmax", "softmax", "forward", (3, 5), "bfloat16").bytes() == 60
    assert case("softmax", "softmax", "forward", (3, 5), "float64").bytes() == 240
    # z is half as large, labels and what is saved are not
    assert case("softmax_xent", "softmax_xent", "forward", (3, 5), "bfloat16").bytes() == 30 + 24 + 24 + 8
    assert case("softmax_xent", "softmax_xent", "forward", (3, 5), "float64").bytes() == 120 + 24 + 48 + 16


@pytest.mark.parametrize("op", OPS.values(), ids=lambda op: op.name)
def test_every_shape_fits_its_op_and_has_a_reason(op):
    for sizes in (*op.cpu, *op.cuda):
        assert len(sizes.shape) == len(op.axes) and sizes.reason
        if op.check:
            op.check(sizes.shape)
    for sizes in (op.cpu, op.cuda):
        assert any(s.quick for s in sizes)
