"""python -m tilegrad.keras program.py [arguments]: a Keras program, unchanged, on tilegrad."""

import runpy
import sys
from pathlib import Path


def main() -> None:
    if len(sys.argv) < 2:
        raise SystemExit("usage: python -m tilegrad.keras program.py [arguments]")
    del sys.argv[0]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)  # as `python program.py` has it
    runpy.run_path(sys.argv[0], run_name="__main__")


main()
