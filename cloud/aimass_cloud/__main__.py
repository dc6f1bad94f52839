"""`python -m aimass_cloud` is `aimass`."""

import sys

from aimass_cloud.cli import main

if __name__ == "__main__":
    sys.exit(main())
