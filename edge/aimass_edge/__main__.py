"""`python -m aimass_edge` is `aimass-edge`."""

import sys

from aimass_edge.cli import main

if __name__ == "__main__":
    sys.exit(main())
