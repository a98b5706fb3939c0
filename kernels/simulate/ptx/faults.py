"""What is wrong with a PTX text, and what a kernel did that it must not."""

from __future__ import annotations


class PtxError(ValueError):
    """The text cannot be executed: an unknown instruction or modifier, a name that is not declared. Names the line."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"PTX line {line}: {message}")
        self.line = line


class Fault(RuntimeError):
    """A kernel did what it must not. Names the kernel, the PTX line, the source line, the block and the thread."""
