"""The build's own step: `KERAS_BACKEND=tilegrad python program.py` needs a line that Python runs when it starts.

Such lines are files named *.pth in the folder of the installed packages (Python's module `site`). Where the variable
says something else, the line compares a string and is done.
"""

from pathlib import Path
from typing import Any

from setuptools.command.build_py import build_py

NAME = "tilegrad_keras.pth"
LINE = 'import os; os.environ.get("KERAS_BACKEND") == "tilegrad" and __import__("tilegrad.keras")\n'


class BuildPy(build_py):
    """Copies the packages, and writes that file beside them."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            Path(self.build_lib, NAME).write_text(LINE)

    def get_outputs(self, include_bytecode: Any = True) -> list[str]:
        own = [] if self.editable_mode else [str(Path(self.build_lib, NAME))]
        return [*super().get_outputs(include_bytecode), *own]
