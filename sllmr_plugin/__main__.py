"""`python -m sllmr_plugin` is the console script `sllmr`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
