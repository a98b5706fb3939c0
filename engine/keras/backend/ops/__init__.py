"""The families of functions where Keras' coming versions look for them: `backend.ops.nn`, and core's in `backend.ops`.

Source: keras-team/keras, pull request 23642, and keras/src/backend/numpy/ops of its master. How a backend from outside
is found there is still open (issue 23523). random and rnn stay where they are.
"""

import sys

from tilegrad.keras.backend import core, image, linalg, math, nn, numpy
from tilegrad.keras.backend.core import *  # noqa: F403

for _family in (
    core,
    image,
    linalg,
    math,
    nn,
    numpy,
):  # each is one module of two names, for `import ...ops.nn`
    sys.modules[f"{__name__}.{_family.__name__.rpartition('.')[2]}"] = _family
