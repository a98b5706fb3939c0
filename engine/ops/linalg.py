"""Products of matrices: matmul and what is built on it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tilegrad import dtypes, kernels
from tilegrad.autograd.grad_mode import is_grad_enabled
from tilegrad.autograd.record import record
from tilegrad.device import array_module
from tilegrad.ops.activations import ACTIVATIONS, activation_grad, kept
from tilegrad.ops.arithmetic import mul
from tilegrad.ops.operands import (
    as_tensor,
    broadcast_shape,
    cast,
    integer,
    made_together,
    normalize_axes,
    require_float,
    require_one_device,
)
from tilegrad.ops.reduce import sum
from tilegrad.ops.shape import permute, reshape, t, unsqueeze
from tilegrad.tensor import Tensor, wrap


def matmul(input: Tensor, other: Tensor) -> Tensor:
    """a (..., M, K) @ b (..., K, N) -> (..., M, N), batch dimensions broadcast;  da = dy @ b^T,  db = a^T @ dy.

    A vector on the left is a row, on the right a column, and that dimension is dropped from the result, as in PyTorch.
    Raises ValueError for sizes that do not fit and TypeError for dtypes that differ.
    """
    input, other = as_tensor("matmul", input), as_tensor("matmul", other)
    require_one_device("matmul", input, other)
    if input.ndim == 0 or other.ndim == 0:
        raise ValueError(f"matmul: a is {input.shape} and b is {other.shape}; expected at least 1 dimension each")
    if input.dtype != other.dtype:
        raise TypeError(f"matmul: a is {input.dtype} but b is {other.dtype}; expected one dtype")
    if input.shape[-1] != other.shape[-2 if other.ndim > 1 else 0]:
        k = input.shape[-1]
        side = "-2" if other.ndim > 1 else "0"
        raise ValueError(f"matmul: a is {input.shape} but b is {other.shape}; expected b.shape[{side}] == {k}")
    if input.ndim == 1 and other.ndim == 1:
        return sum(mul(input, other), dtype=input.dtype)
    if input.ndim == 1:
        y = _matmul(unsqueeze(input, 0), other)
        return reshape(y, (*y.shape[:-2], y.shape[-1]))
    if other.ndim == 1:
        y = _matmul(input, unsqueeze(other, 1))
        return reshape(y, y.shape[:-1])
    if input.ndim > 2 and other.ndim == 2:  # one product, and its gradients are one product each
        rows = reshape(input, (math.prod(input.shape[:-1]), input.shape[-1]))
        return reshape(_matmul(rows, other), (*input.shape[:-1], other.shape[1]))
    return _matmul(input, other)


def _matmul(a: Tensor, b: Tensor, ta: bool = False, tb: bool = False) -> Tensor:
    """matmul of at least 2 dimensions each, with the last two of a (ta) or of b (tb) exchanged first."""
    left, right = a.data, b.data
    if left.ndim > 2 or right.ndim > 2:
        broadcast_shape("matmul", left.shape[:-2], right.shape[:-2])
    left, right = left.swapaxes(-1, -2) if ta else left, right.swapaxes(-1, -2) if tb else right
    if left.dtype not in dtypes.FLOATS:
        return wrap(array_module(left).matmul(left, right))  # the kernels take no integers
    # Each operand is kept only for the other's gradient.
    for_a, for_b = b if a._requires_grad else None, a if b._requires_grad else None

    def rule(dy: Tensor) -> tuple:
        da = db = None
        if for_a is not None:
            da = _matmul(for_a, dy, tb, True) if ta else _matmul(dy, for_a, False, not tb)
        if for_b is not None:
            db = _matmul(dy, for_b, True, ta) if tb else _matmul(for_b, dy, not ta, False)
        return da, db

    return record("matmul", kernels.of(left, right).matmul(left, right), (a, b), rule)


def mm(input: Tensor, mat2: Tensor) -> Tensor:
    """matmul of two matrices."""
    if input.ndim != 2 or mat2.ndim != 2:
        raise ValueError(f"mm: shapes are {input.shape} and {mat2.shape}; expected two matrices")
    return matmul(input, mat2)


def bmm(input: Tensor, mat2: Tensor) -> Tensor:
    """matmul of two batches with the same number of matrices."""
    if input.ndim != 3 or mat2.ndim != 3 or input.shape[0] != mat2.shape[0]:
        raise ValueError(f"bmm: shapes are {input.shape} and {mat2.shape}; expected (B, M, K) and (B, K, N)")
    return matmul(input, mat2)


def dot(input: Tensor, tensor: Tensor) -> Tensor:
    """The inner product of two vectors."""
    if input.ndim != 1 or input.shape != tensor.shape:
        raise ValueError(f"dot: shapes are {input.shape} and {tensor.shape}; expected two vectors of one size")
    return matmul(input, tensor)


def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """The products of every element of one vector with every one of another."""
    if input.ndim != 1 or vec2.ndim != 1:
        raise ValueError(f"outer: shapes are {input.shape} and {vec2.shape}; expected two vectors")
    return mul(unsqueeze(input, 1), vec2)


def _are_floats(a: Any, b: Any, c: Any) -> bool:
    """Whether these (c may be None) are tensors of one floating dtype and one kind of array. Made to be quick."""
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return False
    x, y = a._data, b._data
    if x.dtype != y.dtype or type(x) is not type(y) or x.dtype not in dtypes.FLOATS:
        return False
    return c is None or isinstance(c, Tensor) and c._data.dtype == x.dtype and type(c._data) is type(x)


def _are_integers(*tensors: Any) -> bool:
    """Whether all (None is passed over) are tensors of one dtype that is no floating one."""
    found = {x._data.dtype if isinstance(x, Tensor) else None for x in tensors if x is not None}
    return len(found) == 1 and not found <= {None, *dtypes.FLOATS}


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None) -> Tensor:
    """act(x W^T + b): x (..., in), W (out, in), b (out,) -> (..., out), one primitive.

    Gradients, with dz = dy act'(z):  dx = dz W,  dW = dz^T x,  db = sum of dz over all but the last dimension.
    activation  None or a name of ACTIVATIONS; in the epilogue, which keeps z beside y where a gradient needs it
    """
    if not _are_floats(input, weight, bias) and not _are_integers(input, weight, bias):
        require_float("linear", input, weight, bias)
    x, w = input._data, weight._data
    if w.ndim not in (1, 2) or x.ndim == 0 or x.shape[-1] != w.shape[-1]:
        raise ValueError(
            f"linear: input is {input.shape} but weight is {weight.shape}; expected input.shape[-1] == weight.shape[1]"
        )
    if bias is not None and bias._data.shape != w.shape[:-1]:
        raise ValueError(f"linear: weight is {weight.shape} but bias is {bias.shape}; expected {weight.shape[:-1]}")
    if activation is not None and activation not in ACTIVATIONS:
        raise ValueError(f"linear: activation is {activation!r}; expected None or one of {', '.join(ACTIVATIONS)}")
    if w.ndim == 1 or w.dtype not in dtypes.FLOATS:  # the kernels take no integers
        y = matmul(input, t(weight))
        y = y if bias is None else y + bias
        return y if activation is None else ACTIVATIONS[activation](y)
    return _linear("linear", _linear_rule, input, weight, w.T, bias, activation)


def dense(input: Tensor, kernel: Tensor, bias: Tensor | None, activation: str | None = None) -> Tensor:
    """act(x K + b): `linear` of a weight that lies as Keras has it, K (in, out) = W^T, all floats of one dtype.

    Its gradient lies so too, in C order: dK = x^T dz. Raises ValueError for shapes that do not fit.
    """
    require_float("dense", input, kernel, bias)
    x, k = input._data, kernel._data
    if k.ndim != 2 or x.ndim == 0 or x.shape[-1] != len(k):
        raise ValueError(f"dense: input is {x.shape} but kernel is {k.shape}; expected input.shape[-1] == len(kernel)")
    if bias is not None and bias._data.shape != k.shape[1:]:
        raise ValueError(f"dense: kernel is {k.shape} but bias is {bias.shape}; expected {k.shape[1:]}")
    return _linear("dense", _dense_rule, input, kernel, k, bias, activation)


def _linear(
    name: str,
    rule: Callable[..., tuple],
    input: Tensor,
    weight: Tensor,
    columns: Any,
    bias: Tensor | None,
    activation: str | None,
) -> Tensor:
    """What linear and dense share. columns: the weight's array (in, out)."""
    x, b = input._data, None if bias is None else bias._data
    biased = bias is not None and bias._requires_grad
    wanted = input._requires_grad or weight._requires_grad or biased
    rows = input if x.ndim == 2 else reshape(input, (math.prod(x.shape[:-1]), x.shape[-1]))
    x = rows._data
    of_z = kept[activation] if wanted and activation in kept and is_grad_enabled() else None
    if of_z is None:
        y = z = kernels.of(x, columns, b).matmul(x, columns, bias=b, activation=activation)
    else:  # two nodes: the product's and the activation's
        z, y = kernels.of(x, columns, b).matmul_kept(x, columns, bias=b, activation=activation)
        activation = None
    parents = (rows, weight) if bias is None else (rows, weight, bias)
    count = len(parents)
    # Each operand is kept only for the other's gradient.
    for_x, for_w = weight if rows._requires_grad else None, rows if weight._requires_grad else None

    def gradients(dy: Tensor, y: Tensor | None = None) -> tuple:
        return rule(dy, y, activation, for_w, for_x, biased)[:count]

    out = record(name, z, parents, gradients, output=activation is not None)
    out = out if of_z is None else of_z(out, y)
    return out if rows is input else reshape(out, (*input.shape[:-1], columns.shape[1]))


def _linear_rule(
    dy: Tensor, y: Tensor | None, activation: str | None, for_w: Tensor | None, for_x: Tensor | None, biased: bool
) -> tuple:
    """The gradients of x, w (out, in) and b. for_w is x if w needs a gradient, for_x is w if x needs one."""
    if not is_grad_enabled():  # these gradients need none themselves: one primitive for them all
        relu_of = y if activation == "relu" else None
        dz = dy if y is relu_of else activation_grad(activation, dy, y)
        used = dz, relu_of, for_w, for_x
        arrays = [None if t is None else t._data for t in used]
        found = kernels.of(*arrays).linear_grad(*arrays, biased)
        return tuple(made_together("linear_grad", used, found, (for_x, for_w, biased or None)))
    dz = activation_grad(activation, dy, y)
    dx = None if for_x is None else _matmul(dz, for_x)
    dw = None if for_w is None else _matmul(dz, for_w, True)
    return dx, dw, sum(dz, 0) if biased else None


def _dense_rule(
    dy: Tensor, y: Tensor | None, activation: str | None, for_w: Tensor | None, for_x: Tensor | None, biased: bool
) -> tuple:
    """As _linear_rule, of a weight (in, out)."""
    dz = activation_grad(activation, dy, y)
    dx = None if for_x is None else _matmul(dz, for_x, False, True)
    dw = None if for_w is None else _matmul(for_w, dz, True)
    return dx, dw, sum(dz, 0) if biased else None


# --- einsum ----------------------------------------------------------------------------------------------------------


def einsum(equation: str, *operands: Any) -> Tensor:
    """Sums of products by Einstein's convention: "bij,bjk->bik", with "..." and implicit output, as in NumPy.

    Every pair of operands is brought to one batched matmul, so the gradient needs no rule of its own.
    """
    tensors = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], (list, tuple)) else list(operands)
    for i, x in enumerate(tensors):
        if not isinstance(x, Tensor):
            raise TypeError(f"einsum: operand {i} is a {type(x).__name__}; expected a tensor")
    require_one_device("einsum", *tensors)
    inputs, output = _parse_einsum(equation, [x.shape for x in tensors])
    dtype = dtypes.promote(*(x.data for x in tensors))
    terms = [_diagonalised(cast(x, dtype), term) for x, term in zip(tensors, inputs)]
    sizes: dict[str, int] = {}
    for x, term in terms:
        for label, size in zip(term, x.shape):
            known = sizes.setdefault(label, size)
            if known == 1:
                sizes[label] = size
            elif size not in (1, known):
                raise ValueError(f"einsum: {equation!r} gives {label!r} the sizes {known} and {size}; expected one")
    missing = [label for label in output if label not in sizes]
    if missing:
        raise ValueError(f"einsum: the output of {equation!r} has {missing}; expected labels of the operands")
    x, term = _summed_away(*terms[0], keep=set(output).union(*(t for _, t in terms[1:])))
    for i, (y, other) in enumerate(terms[1:], start=1):
        keep = set(output).union(*(t for _, t in terms[i + 1 :]))
        y, other = _summed_away(y, other, keep=keep | set(term))
        x, term = _contract(x, term, y, other, keep, sizes)
    x, term = _summed_away(x, term, keep=set(output))
    return permute(x, [term.index(label) for label in output])


def _parse_einsum(equation: str, shapes: list[tuple[int, ...]]) -> tuple[list[str], str]:
    """A string of labels for each operand and for the output; the dimensions of "..." become capital Greek labels."""
    if not equation.isascii():  # "..." becomes letters that are not
        raise ValueError(f"einsum: got {equation!r}; expected letters, commas, '...' and '->'")
    left, arrow, right = equation.replace(" ", "").partition("->")
    inputs = left.split(",")
    if len(inputs) != len(shapes):
        raise ValueError(f"einsum: got {len(shapes)} operands; expected {len(inputs)} for {equation!r}")
    widest = 0
    for term, shape in zip(inputs, shapes):
        labels = len(term.replace("...", ""))
        if not ("..." in term and labels <= len(shape) or labels == len(shape)) or "." in term.replace("...", "", 1):
            raise ValueError(f"einsum: an operand of {equation!r} is {shape}; expected the dimensions {term!r} names")
        widest = max(widest, len(shape) - labels) if "..." in term else widest
    dots = "".join(chr(0x391 + i) for i in range(widest))
    inputs = [
        term.replace("...", dots[widest - (len(shape) - len(term) + 3) :] if len(shape) - len(term) + 3 else "")
        for term, shape in zip(inputs, shapes)
    ]
    if arrow:
        output = right.replace("...", dots)
    else:
        flat = "".join(t for t in inputs)
        output = dots + "".join(sorted({c for c in flat if flat.count(c) == 1 and c not in dots}))
    for label in "".join(inputs) + output:
        if not label.isalpha():
            raise ValueError(f"einsum: {label!r} in {equation!r}; expected letters, commas, '...' and '->'")
    if len(set(output)) != len(output):
        raise ValueError(f"einsum: the output of {equation!r} repeats a label; expected each once")
    return inputs, output


def _diagonalised(x: Tensor, term: str) -> tuple[Tensor, str]:
    """A label that stands twice in one operand takes its diagonal."""
    for label in sorted(set(term)):
        while term.count(label) > 1:
            i = term.index(label)
            j = term.index(label, i + 1)
            if x.shape[i] != x.shape[j]:
                sizes = f"{x.shape[i]} and {x.shape[j]}"
                raise ValueError(f"einsum: {label!r} stands for the sizes {sizes} of one operand; expected equal ones")
            x = diagonal(x, dim1=i, dim2=j)
            term = term[:i] + term[i + 1 : j] + term[j + 1 :] + label
    return x, term


def _summed_away(x: Tensor, term: str, keep: set[str]) -> tuple[Tensor, str]:
    axes = tuple(i for i, label in enumerate(term) if label not in keep)
    return (sum(x, axes), "".join(s for s in term if s in keep)) if axes else (x, term)


def _contract(
    a: Tensor, first: str, b: Tensor, second: str, keep: set[str], sizes: dict[str, int]
) -> tuple[Tensor, str]:
    """Two operands as one batched matmul (batch, rows, inner) @ (batch, inner, columns)."""
    dtype = dtypes.promote(a.data, b.data)  # the sum of integers over one operand alone is int64
    a, b = cast(a, dtype), cast(b, dtype)
    shared = [label for label in first if label in second]
    batch = [label for label in shared if label in keep]
    inner = [label for label in shared if label not in keep]
    rows = [label for label in first if label not in second]
    columns = [label for label in second if label not in first]

    def arranged(x: Tensor, term: str, *groups: list[str]) -> Tensor:
        order = [label for group in groups for label in group]
        x = permute(x, [term.index(label) for label in order])
        # A size of 1 that broadcasts against a shared label is spread out first.
        x = x.expand([sizes[label] if label in shared else x.shape[i] for i, label in enumerate(order)]) if order else x
        spans, start = [], 0
        for group in groups:
            spans.append(math.prod(x.shape[start : start + len(group)]))
            start += len(group)
        return reshape(x, spans)

    left = arranged(a, first, batch, rows, inner)
    right = arranged(b, second, batch, inner, columns)
    size = {label: x.shape[term.index(label)] for x, term in ((a, first), (b, second)) for label in term}
    shape = [sizes[s] for s in batch] + [size[s] for s in rows + columns]
    return reshape(matmul(left, right), shape), "".join(batch + rows + columns)


def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The elements of equal index (plus offset) in two dimensions, which become the last one; a view."""
    if input.ndim < 2:
        raise IndexError(f"diagonal: the tensor is {input.shape}; expected at least 2 dimensions")
    d1, d2 = normalize_axes("diagonal", (dim1, dim2), input.ndim)
    offset = integer("diagonal", "offset", offset)
    shape = input.data.shape
    y = _diagonal(input.data, offset, d1, d2)
    return record("diagonal", y, (input,), lambda dy: (_on_diagonal(dy, shape, offset, d1, d2),), view_of=input)


def _on_diagonal(dy: Tensor, shape: tuple[int, ...], offset: int, d1: int, d2: int) -> Tensor:
    """Zeros of that shape with dy on the diagonal: the adjoint of diagonal."""
    y = array_module(dy.data).zeros(shape, dy.data.dtype)
    _diagonal(y, offset, d1, d2)[...] = dy.data
    return record("diagonal_grad", y, (dy,), lambda ddy: (diagonal(ddy, offset, d1, d2),))


def _diagonal(array: Any, offset: int, d1: int, d2: int) -> Any:
    """The array's view, which NumPy makes read-only."""
    y = array.diagonal(offset, d1, d2)
    if isinstance(y, np.ndarray):
        y.flags.writeable = array.flags.writeable
    return y


def trace(input: Tensor) -> Tensor:
    """The sum of a matrix's diagonal."""
    if input.ndim != 2:
        raise ValueError(f"trace: the tensor is {input.shape}; expected a matrix")
    return sum(diagonal(input))
