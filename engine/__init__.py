"""tilegrad: tensors with gradients, in PyTorch's names, on hand-written kernels or plain NumPy.

import tilegrad as tg
from tilegrad import nn, optim
from tilegrad.nn import functional as F
"""

import importlib as _importlib
import os as _os
import typing as _typing

# `x as x` is how a type checker is told that a name is there for others to use.
from tilegrad import autograd as autograd, cuda as cuda, device as device, random as random
from tilegrad import methods as _methods  # noqa: F401  (binds Tensor's methods)
from tilegrad.autograd.backward import grad as grad
from tilegrad.autograd.grad_mode import (
    enable_grad as enable_grad,
    is_grad_enabled as is_grad_enabled,
    no_grad as no_grad,
    set_grad_enabled as set_grad_enabled,
)
from tilegrad.autograd.op import op as op
from tilegrad.capture_hooks import CaptureError as CaptureError
from tilegrad.create import (
    arange as arange,
    as_tensor as as_tensor,
    empty as empty,
    empty_like as empty_like,
    eye as eye,
    from_dlpack as from_dlpack,
    from_numpy as from_numpy,
    full as full,
    full_like as full_like,
    linspace as linspace,
    ones as ones,
    ones_like as ones_like,
    rand as rand,
    rand_like as rand_like,
    randint as randint,
    randn as randn,
    randn_like as randn_like,
    randperm as randperm,
    tensor as tensor,
    zeros as zeros,
    zeros_like as zeros_like,
)
from tilegrad.dtypes import (
    bfloat16 as bfloat16,
    float16 as float16,
    float32 as float32,
    float64 as float64,
    int8 as int8,
    int16 as int16,
    int32 as int32,
    int64 as int64,
    uint8 as uint8,
    uint16 as uint16,
    uint32 as uint32,
    uint64 as uint64,
)
from tilegrad.dtypes import bool_ as bool
from tilegrad.files import load as load, save as save
from tilegrad.gradcheck import gradcheck as gradcheck, gradgradcheck as gradgradcheck
from tilegrad.ops import (
    abs as abs,
    acos as acos,
    add as add,
    all as all,
    allclose as allclose,
    amax as amax,
    amin as amin,
    any as any,
    arccos as arccos,
    arcsin as arcsin,
    arctan as arctan,
    argmax as argmax,
    argmin as argmin,
    argsort as argsort,
    asin as asin,
    atan as atan,
    bitwise_and as bitwise_and,
    bitwise_not as bitwise_not,
    bitwise_or as bitwise_or,
    bitwise_xor as bitwise_xor,
    bmm as bmm,
    broadcast_tensors as broadcast_tensors,
    broadcast_to as broadcast_to,
    cat as cat,
    ceil as ceil,
    chunk as chunk,
    clamp as clamp,
    clip as clip,
    clone as clone,
    concat as concat,
    concatenate as concatenate,
    contiguous as contiguous,
    cos as cos,
    cosh as cosh,
    cumprod as cumprod,
    cumsum as cumsum,
    detach as detach,
    diagonal as diagonal,
    div as div,
    dot as dot,
    dropout as dropout,
    einsum as einsum,
    eq as eq,
    equal as equal,
    erf as erf,
    exp as exp,
    expand as expand,
    expand_as as expand_as,
    expm1 as expm1,
    flatten as flatten,
    flip as flip,
    floor as floor,
    floor_divide as floor_divide,
    gather as gather,
    ge as ge,
    gt as gt,
    index_select as index_select,
    isfinite as isfinite,
    isinf as isinf,
    isnan as isnan,
    le as le,
    log as log,
    log1p as log1p,
    log2 as log2,
    log10 as log10,
    log_softmax as log_softmax,
    logical_and as logical_and,
    logical_not as logical_not,
    logical_or as logical_or,
    logical_xor as logical_xor,
    logsumexp as logsumexp,
    lt as lt,
    masked_fill as masked_fill,
    masked_select as masked_select,
    matmul as matmul,
    max as max,
    maximum as maximum,
    mean as mean,
    min as min,
    minimum as minimum,
    mm as mm,
    movedim as movedim,
    mul as mul,
    narrow as narrow,
    ne as ne,
    neg as neg,
    nonzero as nonzero,
    norm as norm,
    outer as outer,
    permute as permute,
    pow as pow,
    prod as prod,
    reciprocal as reciprocal,
    relu as relu,
    remainder as remainder,
    repeat as repeat,
    repeat_interleave as repeat_interleave,
    reshape as reshape,
    roll as roll,
    round as round,
    rsqrt as rsqrt,
    scatter as scatter,
    scatter_add as scatter_add,
    select as select,
    sigmoid as sigmoid,
    sign as sign,
    sin as sin,
    sinh as sinh,
    softmax as softmax,
    sort as sort,
    split as split,
    sqrt as sqrt,
    square as square,
    squeeze as squeeze,
    stack as stack,
    std as std,
    sub as sub,
    sum as sum,
    t as t,
    take_along_dim as take_along_dim,
    tan as tan,
    tanh as tanh,
    tile as tile,
    topk as topk,
    trace as trace,
    transpose as transpose,
    tril as tril,
    triu as triu,
    trunc as trunc,
    unbind as unbind,
    unflatten as unflatten,
    unsqueeze as unsqueeze,
    var as var,
    view as view,
    where as where,
)
from tilegrad.random import Generator as Generator, manual_seed as manual_seed
from tilegrad.tensor import Tensor as Tensor
from tilegrad.threads import get_num_threads as get_num_threads, set_num_threads as set_num_threads

from tilegrad import checkpoint as checkpoint
from tilegrad.captured.step import CapturedStep as CapturedStep, capture as capture  # after what it captures

if _typing.TYPE_CHECKING:
    from tilegrad.profiling.profile import profile as profile
else:

    def __getattr__(name: str) -> _typing.Any:  # what few programs use is loaded when it is asked for
        if name != "profile":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found = _importlib.import_module("tilegrad.profiling.profile").profile
        return found


if _os.environ.get("TILEGRAD_DEBUG", "0") not in ("", "0"):
    _importlib.import_module("tilegrad.profiling.debug").begin(_os.environ["TILEGRAD_DEBUG"])

__version__ = "0.1.0"  # pyproject.toml reads it here
