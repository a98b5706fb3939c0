"""What every Keras layer is on this backend."""

from __future__ import annotations


class TilegradLayer:
    """Nothing more than Keras' own layer."""
