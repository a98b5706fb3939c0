"""python -m tilegrad.kernels.compile: run.py says what it does."""

import sys

from tilegrad.kernels.compile.run import main

if __name__ == "__main__":  # not in the processes that it starts
    sys.exit(main())
