"""`python -m umrt` is the command `umrt`."""

import sys

from ._cli import main

if __name__ == "__main__":
    sys.exit(main())
