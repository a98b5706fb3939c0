"""The ops that are measured, one file each."""

from tilegrad.bench.ops import activations, adam, attention, conv, matmul, pool, softmax, softmax_xent
from tilegrad.bench.ops.op import Op

OPS: dict[str, Op] = {
    module.OP.name: module.OP for module in (matmul, activations, softmax, softmax_xent, attention, adam, conv, pool)
}
