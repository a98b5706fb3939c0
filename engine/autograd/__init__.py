"""Gradients: what an op leaves behind to be differentiated, and the walk back through it.

The ops' own gradient rules are beside them, in engine/ops/ and engine/nn/functional/.
"""

import typing

from tilegrad.autograd.function import Function, once_differentiable

if typing.TYPE_CHECKING:
    from tilegrad.autograd.anomaly import detect_anomaly
else:

    def __getattr__(name: str) -> typing.Any:  # what few programs use is loaded when it is asked for
        if name != "detect_anomaly":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        return importlib.import_module("tilegrad.autograd.anomaly").detect_anomaly


__all__ = ["Function", "detect_anomaly", "once_differentiable"]
