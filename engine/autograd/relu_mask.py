"""relu's mask on a gradient that has it already, which is then not applied again: relu followed by max pooling.

    y = relu(x), z = maxpool(y):    dy = dz at the pixel that won its window, 0 elsewhere;  dx = dy where y > 0

The value of that pixel is z. So dz where z > 0, at the smaller size, gives a dy that needs no mask. dx has the same
bits. dy has not: of a window of zeros the first pixel has a gradient. So this is done only where nobody can see dy.
"""

from __future__ import annotations

from tilegrad.autograd.record import MOVES, RELU, Node
from tilegrad.tensor import Tensor

Path = tuple[Node, ...]


def path_to_relu(x: Tensor) -> Path:
    """The nodes from x back to the relu whose elements x has, perhaps in another arrangement; empty if there is none.

    Nor is there one if relu's result was written to: a write has a node of its own. Of a relu in place it is not known
    whether somebody has, beside autograd.
    """
    path: list[Node] = []
    node = x._node
    while type(node) is Node:
        path.append(node)
        if node.mask == RELU:
            return tuple(path) if node.output is not None and node.output[1] is x._storage else ()
        if node.mask != MOVES:
            break
        node = node.edges[0]
    return ()


def is_unseen(path: Path) -> bool:
    """Whether there is a path, and nobody sees a gradient on it: no hook, nobody who retains it or asked for it."""
    for node in path:
        if node.hooks or node.retainers or node.mask is None:
            return False
    return bool(path)


def mark(dy: Tensor, path: Path) -> None:
    """dy, which was just made, has the mask of the relu at the path's end. Views share the mark, no sum has it."""
    dy._storage.masked_by = path[-1]


def is_masked(dy: Tensor, y: Tensor) -> bool:
    """Whether dy has been given the mask of y, a relu's result as its rule gets it, and not been written to."""
    storage = dy._storage
    return storage.masked_by is not None and storage.masked_by is y._node and not storage.version
