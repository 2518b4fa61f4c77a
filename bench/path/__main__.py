"""`python -m bench.path`: show that the emulated path is what it says."""

import sys

from bench.path.check import main

sys.exit(main())
