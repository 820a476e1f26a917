"""``python -m downloadd``."""

import sys

from downloadd.cli import main

if __name__ == "__main__":
    sys.exit(main())
