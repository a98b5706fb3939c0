"""Loading tensors from safetensors files and from PyTorch's .pt files."""

from __future__ import annotations

import json
import os
from typing import Any

from safetensors import SafetensorError, safe_open

from tilegrad.device import as_device, move
from tilegrad.dtypes import DTYPES
from tilegrad.files import pytorch_zip
from tilegrad.files.saving import METADATA
from tilegrad.files.structure import put_together
from tilegrad.tensor import Tensor, wrap


def load(path: str | os.PathLike[str], device: Any = None) -> Any:
    """The object in a file, with its tensors on a device (None: the CPU).

    A file that `save` wrote gives the object that was saved. Another program's safetensors file gives a dict of its
    tensors. A zip file that torch.save wrote (.pt, .pth) gives its dicts, lists, tuples, numbers and strings with
    their tensors; parameters become tensors, and nothing else is read: no code in the file is run, no class is looked
    up. torch is not needed. Tensors do not require grad.

    Raises FileNotFoundError; ValueError, which names the file, for one that is damaged, of another format, or that
    holds what cannot be read.
    """
    device = as_device(device)
    with open(path, "rb") as file:
        begin = file.read(4)
    try:
        if begin == b"PK\x03\x04":
            arrays = pytorch_zip.read(path)
            return _with_tensors(arrays, device, {})
        if begin[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04"):
            raise ValueError("a pickle, as torch.save wrote them before PyTorch 1.6; expected its zip files")
        return _safetensors(path, device)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"load: {os.fspath(path)} cannot be read: {error}") from error


def outline(path: str | os.PathLike[str]) -> Any:
    """The object that `save` wrote, with None for its tensors, which are not read."""
    try:
        with safe_open(path, framework="np") as file:
            return put_together(_structure(file.metadata() or {}), dict.fromkeys(file.keys()))
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(f"load: {os.fspath(path)} cannot be read: {error}") from error


def _safetensors(path: str | os.PathLike[str], device: str) -> Any:
    try:
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                if (kind := file.get_slice(name).get_dtype()) not in _DTYPES:
                    raise ValueError(f"{name} has dtype {kind}; expected {', '.join(_DTYPES)}")
            tensors = {name: wrap(move(file.get_tensor(name), device)) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"not a safetensors file: {error}") from error
    return put_together(_structure(metadata), tensors) if METADATA in metadata else tensors


def _structure(metadata: dict[str, str]) -> Any:
    ours = json.loads(metadata.get(METADATA, "null"))
    if not isinstance(ours, dict) or ours.get("version") != 1:
        raise ValueError("it has no structure of version 1")
    return ours.get("object")


# By safetensors' names, of those that tensors can have
_NAMES = "BOOL U8 I8 I16 I32 I64 F16 BF16 F32 F64 U16 U32 U64".split()
_DTYPES = dict(zip(_NAMES, DTYPES))


def _with_tensors(x: Any, device: str, made: dict[int, Tensor]) -> Any:
    """x with tensors for its arrays. An array that is there twice is one tensor."""
    if isinstance(x, dict):
        return {key: _with_tensors(value, device, made) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return type(x)(_with_tensors(value, device, made) for value in x)
    if not hasattr(x, "dtype"):
        return x
    if id(x) not in made:
        made[id(x)] = wrap(move(x, device))
    return made[id(x)]
