"""What an error in a captured function is told as: by the op that raised it, and the line of the program."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from tilegrad import kernels
from tilegrad.capture_hooks import CaptureError
from tilegrad.device import WAITS
from tilegrad.kernels.capture.planned import PlannedError


def is_of_capture(error: BaseException) -> bool:
    """Whether this is CUDA's refusal of what a captured stream cannot do, or the simulated device's."""
    return isinstance(error, RuntimeError) and any(
        text in str(error) for text in ("StreamCapture", "stream is capturing")
    )


def told(error: BaseException) -> str:
    """The error with the op that raised it and the program's line that called the op."""
    root = str(Path(__file__).parents[1]), kernels.__path__[0]
    libraries = "cupy", "cupy_backends", "numpy"  # whose frames, compiled ones too, may lie below an op
    op, place = "a captured step", "?"
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        name, line = trace.tb_frame.f_code.co_filename, trace.tb_lineno
        if trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] in libraries:
            pass
        elif not name.startswith(root):
            op, place = "", f"{name}:{line}"
        elif not op:
            op = trace.tb_frame.f_code.co_name.strip("_")
        trace = trace.tb_next
    if isinstance(error, (CaptureError, PlannedError)):
        what = str(error)
    else:
        what = WAITS if is_of_capture(error) else f"raises {type(error).__name__}: {error}"
    if isinstance(error, PlannedError) and error.op:
        op, place = error.op, error.place
    return f"{op or 'it'} {what} ({place})"
