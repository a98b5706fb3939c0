"""Export to other formats, which this backend does not have."""

from __future__ import annotations

from typing import Any


class TilegradExportArchive:
    """Raises NotImplementedError for whatever is asked of it."""

    def track(self, resource: Any) -> None:
        """Raises NotImplementedError."""
        raise NotImplementedError("export: `track` is not implemented in the tilegrad backend")

    def track_and_add_endpoint(self, name: str, resource: Any, input_signature: Any, **kwargs: Any) -> None:
        """Raises NotImplementedError, as `model.export` then does."""
        raise NotImplementedError(
            "`export_saved_model` only currently supports the tensorflow, jax and torch backends."
        )

    def add_endpoint(self, name: str, fn: Any, input_signature: Any = None, **kwargs: Any) -> None:
        """Raises NotImplementedError."""
        raise NotImplementedError("export: `add_endpoint` is not implemented in the tilegrad backend")
