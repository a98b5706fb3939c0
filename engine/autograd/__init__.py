"""Gradients: what an op leaves behind to be differentiated, and the walk back through it.

The ops' own gradient rules are beside them, in engine/ops/ and engine/nn/functional/.
"""

from tilegrad.autograd.function import Function, once_differentiable

__all__ = ["Function", "once_differentiable"]
