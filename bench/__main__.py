"""python -m tilegrad.bench"""

import sys

from tilegrad.bench import main

if __name__ == "__main__":
    sys.exit(main())
