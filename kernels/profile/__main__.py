"""python -m tilegrad.kernels.profile: run.py says what it does."""

import sys

from tilegrad.kernels.profile.run import main

sys.exit(main())
