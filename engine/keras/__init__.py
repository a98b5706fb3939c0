"""Keras programs on tilegrad's kernels.

Import this before keras, and the program runs on tilegrad:

    import tilegrad.keras
    import keras

A program that is not to be changed is run by `python -m tilegrad.keras program.py`.
Raises ImportError where Keras is absent, unsupported, or imported already with another backend.
"""

from tilegrad.keras.hook import install as _install

_install()
