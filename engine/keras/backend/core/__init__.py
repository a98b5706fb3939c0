"""keras.src.backend.core: conversion, variables, control flow, slices."""

from keras.src.backend.common.name_scope import name_scope

from tilegrad.keras.backend.core.control import (
    associative_scan,
    cond,
    fori_loop,
    map,
    scan,
    switch,
    vectorized_map,
    while_loop,
)
from tilegrad.keras.backend.core.convert import cast, convert_to_numpy, convert_to_tensor, is_tensor, shape
from tilegrad.keras.backend.core.device import device_scope
from tilegrad.keras.backend.core.gradients import custom_gradient, remat, stop_gradient
from tilegrad.keras.backend.core.slices import scatter, scatter_update, slice, slice_update, unstack
from tilegrad.keras.backend.core.specs import compute_output_spec
from tilegrad.keras.backend.core.variable import Variable
from tilegrad.keras.backend.exports import export

IS_THREAD_SAFE = False  # callbacks run in the loop: a thread of their own costs a small step more than they do
SUPPORTS_SPARSE_TENSORS = False
SUPPORTS_RAGGED_TENSORS = False
SUPPORTS_COMPLEX_DTYPES = False
SUPPORTS_GRADIENT = True  # asked by versions to come


def random_seed_dtype() -> str:
    """The dtype of the state of a SeedGenerator."""
    return "int64"


export(globals(), "core")
