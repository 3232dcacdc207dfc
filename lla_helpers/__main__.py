"""`python -m lla_helpers`: the book's command line."""

import sys

from lla_helpers.book.cli import main

if __name__ == "__main__":
    sys.exit(main())
