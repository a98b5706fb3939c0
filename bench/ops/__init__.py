"""The ops that are measured, one file each."""

from tilegrad.bench.ops import (
    activations,
    adam,
    arithmetic,
    attention,
    bags,
    batch_norm,
    conv,
    layer_norm,
    losses,
    matmul,
    pool,
    recurrent,
    softmax,
    softmax_xent,
    take_rows,
)
from tilegrad.bench.ops.op import Op

OPS: dict[str, Op] = {
    module.OP.name: module.OP
    for module in (
        *(matmul, activations, softmax, softmax_xent, attention, layer_norm, batch_norm, adam, conv, pool),
        *(losses, recurrent, take_rows, bags, arithmetic),
    )
}
