"""Saving tensors in safetensors' format.  https://huggingface.co/docs/safetensors/index#format"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, TensorSpec, safe_open, serialize

from tilegrad.device import on_host
from tilegrad.files.atomic import replacing
from tilegrad.files.structure import take_apart

METADATA = "tilegrad"  # the entry of a file's metadata that holds the structure


def save(obj: Any, path: str | os.PathLike[str]) -> None:
    """Write an object of tensors to a file: state dicts, and any dicts, lists and tuples of tensors, numbers, strings.

    The file is a safetensors file. Every program that reads those finds the tensors under the keys that lead to them,
    joined by dots; `load` also gives back the object around them. Tensors that are the same memory, such as tied
    weights, are written once and are one tensor after `load`. Views that overlap otherwise are written one by one.
    Whether a tensor requires grad is not kept.

    What was in the file stays until all of the new one is on the disk: the bytes go to a temporary name beside it, are
    looked at, and renamed.

    Raises TypeError for what cannot be saved, with its place; OSError where the folder is missing or full.
    """
    structure, arrays = take_apart(obj)
    write(path, arrays, {METADATA: json.dumps({"version": 1, "object": structure})})


def write(path: str | os.PathLike[str], arrays: dict[str, Any], metadata: dict[str, str]) -> None:
    """Arrays by name as a safetensors file. Takes as much memory as the file has bytes."""
    # safetensors writes memory as it lies: of an array with gaps, or in another order, that would be wrong numbers
    host = {name: np.require(on_host(array), requirements=["C", "A"]) for name, array in arrays.items()}
    specs = {
        name: TensorSpec(dtype=x.dtype.name, shape=x.shape, data_ptr=x.ctypes.data, data_len=x.nbytes)
        for name, x in host.items()
    }
    content = serialize(specs, metadata=metadata)
    with replacing(Path(path)) as partial:
        partial.write_bytes(content)
        try:
            with safe_open(partial, framework="np") as written:  # it looks whether the header fits the file
                names = set(written.keys())
        except SafetensorError as error:
            raise OSError(f"save: {path} was not written whole: {error}") from error
        if names != set(host):
            raise OSError(f"save: {path} came out with {sorted(names)}; expected {sorted(host)}")
