"""`python -m crackutils COMMAND`."""

import sys

from crackutils.cli import main

if __name__ == "__main__":
    sys.exit(main())
